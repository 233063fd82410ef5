//! What the rows of the index hold, and the sum over all of them that shows when one is lost or changed.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tasks::{
    Actor, Note, Overdrawn, Priority, RepoName, Reservation, Task, TaskId, TaskRequest, TaskState, Timestamp, Usage,
};

use super::{index::Stored, journal::Head, record::Reported};

/// A task's row: everything but the request, which is stored once and never changes.
#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    sequence: u64,
    enqueued: u64,
    reported: Option<Reported>,
    pub(super) repo: RepoName,
    pub(super) state: TaskState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) noticed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stale_at: Option<Timestamp>,
    attempt: u32,
    failures: u32,
    crashes: u32,
    priority: Priority,
    notes: Vec<Note>,
    #[serde(default)]
    n_notes_seen: usize,
    cancel_requested: Option<Actor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finish_requested: Option<Actor>,
    #[serde(default, skip_serializing_if = "Usage::is_nothing")]
    used: Usage,
    #[serde(default, skip_serializing_if = "Usage::is_nothing")]
    used_before: Usage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reservation: Option<Box<Reservation>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<Box<Overdrawn>>,
    created_at: Timestamp,
    pub(super) updated_at: Timestamp,
}

impl From<&Stored> for Row {
    fn from(stored: &Stored) -> Self {
        let task = &stored.task;
        Self {
            sequence: stored.sequence,
            enqueued: stored.enqueued,
            reported: stored.reported.clone(),
            repo: task.request.repo.clone(),
            state: task.state.clone(),
            noticed_at: task.noticed_at,
            stale_at: task.stale_at,
            attempt: task.attempt,
            failures: task.failures,
            crashes: task.crashes,
            priority: task.priority,
            notes: task.notes.clone(),
            n_notes_seen: task.n_notes_seen,
            cancel_requested: task.cancel_requested.clone(),
            finish_requested: task.finish_requested.clone(),
            used: task.used,
            used_before: task.used_before,
            reservation: task.reservation.clone(),
            held: task.held.clone(),
            created_at: task.created_at,
            updated_at: task.updated_at,
        }
    }
}

impl Row {
    /// The task, whole.
    pub(super) fn with(self, id: TaskId, request: TaskRequest) -> Stored {
        let task = Task {
            id,
            request,
            state: self.state,
            attempt: self.attempt,
            failures: self.failures,
            crashes: self.crashes,
            priority: self.priority,
            notes: self.notes,
            n_notes_seen: self.n_notes_seen,
            anchor: None,
            cancel_requested: self.cancel_requested,
            finish_requested: self.finish_requested,
            noticed_at: self.noticed_at,
            stale_at: self.stale_at,
            used: self.used,
            used_before: self.used_before,
            reservation: self.reservation,
            held: self.held,
            created_at: self.created_at,
            updated_at: self.updated_at,
        };
        Stored { task, sequence: self.sequence, enqueued: self.enqueued, reported: self.reported }
    }
}

/// The sum over all rows. sled may lose rows, or give back older ones, without an error; then this does not add up.
///
/// Adding is enough against accidents, and lets each write bring the sum up to date without reading everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    total: u128,
    /// How many bytes keys and values have together.
    pub(super) bytes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.total = self.total.wrapping_add(digest(key, value));
        self.bytes = self.bytes.wrapping_add((key.len() + value.len()) as u64);
    }

    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) {
        self.total = self.total.wrapping_sub(digest(key, value));
        self.bytes = self.bytes.wrapping_sub((key.len() + value.len()) as u64);
    }
}

fn digest(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Sha256::new();
    hasher.update((key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let hash: [u8; 32] = hasher.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    u128::from_le_bytes(half)
}

/// How far the index has come, and what its rows add up to then.
#[derive(Serialize, Deserialize)]
pub(super) struct AppliedRow {
    sequence: u64,
    hash: String,
    sum: String,
    bytes: u64,
}

impl AppliedRow {
    pub(super) fn new(head: Head, sum: Sum) -> Self {
        let hash = head.hash.to_string();
        Self { sequence: head.sequence, hash, sum: format!("{:032x}", sum.total), bytes: sum.bytes }
    }

    pub(super) fn head(&self) -> Option<Head> {
        Some(Head { sequence: self.sequence, hash: self.hash.parse().ok()? })
    }

    pub(super) fn adds_up(&self, sum: Sum) -> bool {
        self.sum == format!("{:032x}", sum.total) && self.bytes == sum.bytes
    }
}
