//! The index: what the journal adds up to, in sled, so that questions are answered without reading the journal.
//!
//! It is never the truth. Every write carries the sequence and the hash of the last journal record that it contains,
//! written last; what is missing after a crash is replayed, and an index that does not open, panics, or disagrees with
//! the journal is put aside and made anew. For that reason it is not flushed after each write: sled's own flusher
//! bounds what has to be replayed, and the journal's fsync is the only one that anybody waits for.
//!
//! Traps of sled 0.34 that are closed here: a crash during `open` leaves `snap.*.generating`, which the next `open`
//! takes for the newest snapshot; damaged files can make it panic, and so can a last flush that fails while it is dropped;
//! its threads hold the file's lock for a moment after that; large values are slow, so that requests lie in
//! chunks of their own, written once. Nothing here may be called on a thread of the async runtime.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sled::{Batch, Db, Tree};
use tasks::{Actor, DedupeKey, Evidence, RepoName, Task, TaskFilter, TaskId, TaskState, Timestamp};

use super::{
    journal::{Hash, Head},
    keys,
    record::{self, Reported},
};

const CACHE_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: usize = 48 << 10;
/// How long a handle that was dropped may take to let go of its file.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSING_INTERVAL: Duration = Duration::from_millis(5);
const APPLIED: &str = "applied";

/// Why the index did not answer. Whatever it is, the journal still has everything.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("sled panicked: {0}")]
    Panicked(String),
    #[error("{what} in the index is damaged: {reason}")]
    Damaged { what: String, reason: String },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the index is being repaired")]
    Away,
    #[error("the index is still in use by the handle that was closed before")]
    Busy,
}

impl IndexError {
    /// Whether the index itself is sound and only its surroundings do not let us at it now: then it is kept.
    pub(super) fn is_passing(&self) -> bool {
        let of_surroundings = |error: &io::Error| {
            use io::ErrorKind as K;
            matches!(
                error.kind(),
                K::StorageFull | K::QuotaExceeded | K::PermissionDenied | K::ReadOnlyFilesystem | K::WouldBlock
            )
        };
        match self {
            Self::Sled(sled::Error::Io(error)) | Self::Io(error) => of_surroundings(error),
            Self::Busy | Self::Away => true,
            Self::Sled(_) | Self::Panicked(_) | Self::Damaged { .. } => false,
        }
    }
}

/// A task and what only the queue knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) task: Task,
    /// The last record that changed it: a replay passes over what is already in.
    pub(super) sequence: u64,
    /// The record that made it: its age.
    pub(super) enqueued: u64,
    pub(super) reported: Option<Reported>,
}

/// Everything that a group of records changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) tasks: BTreeMap<TaskId, Stored>,
    /// Those of them whose request is not stored yet.
    pub(super) new: HashSet<TaskId>,
    pub(super) keys: HashMap<DedupeKey, TaskId>,
    pub(super) observed: HashSet<DedupeKey>,
    pub(super) pull_requests: HashMap<(RepoName, u64), TaskId>,
    pub(super) evidence: HashMap<TaskId, Box<Evidence>>,
    pub(super) cursors: HashMap<String, u64>,
}

/// How far the index has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// The last journal record that it contains.
    pub(super) head: Head,
    /// How many tasks it should hold.
    pub(super) n_tasks: u64,
}

pub(super) struct Index {
    db: Db,
    tasks: Tree,
    requests: Tree,
    by_age: Tree,
    unfinished: Tree,
    keys: Tree,
    observed: Tree,
    pull_requests: Tree,
    evidence: Tree,
    cursors: Tree,
    meta: Tree,
    /// Released last, when sled is closed.
    _lock: Arc<File>,
}

impl Index {
    pub(super) fn open(dir: &Path, lock: Arc<File>) -> Result<Self, IndexError> {
        wait_until_closed(dir)?;
        remove_unfinished_snapshots(dir)?;
        guarded(|| {
            let db = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).open()?;
            Ok(Self {
                tasks: db.open_tree("tasks")?,
                requests: db.open_tree("requests")?,
                by_age: db.open_tree("by_age")?,
                unfinished: db.open_tree("unfinished")?,
                keys: db.open_tree("dedupe")?,
                observed: db.open_tree("observed")?,
                pull_requests: db.open_tree("by_pull_request")?,
                evidence: db.open_tree("evidence")?,
                cursors: db.open_tree("cursors")?,
                meta: db.open_tree("meta")?,
                db,
                _lock: lock,
            })
        })
    }

    pub(super) fn applied(&self) -> Result<Applied, IndexError> {
        let Some(bytes) = guarded(|| Ok(self.meta.get(APPLIED)?))? else { return Ok(Applied::default()) };
        let row: AppliedRow = decode("the place", &bytes)?;
        let mut hash = [0; 32];
        hex::decode_to_slice(&row.hash, &mut hash).map_err(|error| damaged("the place", error))?;
        Ok(Applied { head: Head { sequence: row.sequence, hash: Hash(hash) }, n_tasks: row.n_tasks })
    }

    /// Takes the changes in. May be repeated: after a crash part of them may be in already.
    pub(super) fn write(&self, changes: &Changes, applied: Applied) -> Result<(), IndexError> {
        let mut tasks = Batch::default();
        let mut requests = Batch::default();
        let mut by_age = Batch::default();
        let mut unfinished = Batch::default();
        for (id, stored) in &changes.tasks {
            let age = keys::age(stored.enqueued);
            if changes.new.contains(id) {
                let request = encode("a request", &stored.task.request)?;
                for (n, chunk) in (0..).zip(request.chunks(CHUNK_BYTES)) {
                    requests.insert(&keys::request_chunk(*id, n), chunk);
                }
                by_age.insert(&age, id.as_bytes());
            }
            tasks.insert(id.as_bytes(), encode("a task", &Row::from(stored))?);
            if stored.task.state.is_unfinished() {
                unfinished.insert(&age, id.as_bytes());
            } else {
                unfinished.remove(&age);
            }
        }
        let dedupe = batch(changes.keys.iter().map(|(key, id)| (key.as_str().as_bytes(), id.as_bytes().as_slice())));
        let observed = batch(changes.observed.iter().map(|key| (key.as_str().as_bytes(), b"".as_slice())));
        let cursors = batch(changes.cursors.iter().map(|(name, n)| (name.as_bytes(), n.to_be_bytes().to_vec())));
        let pull_requests =
            batch(changes.pull_requests.iter().map(|((repo, n), id)| (keys::pull_request(repo, *n), id.as_bytes())));
        let mut evidence = Batch::default();
        for (id, value) in &changes.evidence {
            evidence.insert(id.as_bytes(), encode("evidence", value)?);
        }
        let place = encode("the place", &AppliedRow::from(applied))?;
        guarded(|| {
            // What a task's row leads to comes before it, and how far we are comes last: a crash keeps a beginning.
            self.requests.apply_batch(requests)?;
            self.keys.apply_batch(dedupe)?;
            self.observed.apply_batch(observed)?;
            self.pull_requests.apply_batch(pull_requests)?;
            self.evidence.apply_batch(evidence)?;
            self.cursors.apply_batch(cursors)?;
            self.tasks.apply_batch(tasks)?;
            self.by_age.apply_batch(by_age)?;
            self.unfinished.apply_batch(unfinished)?;
            self.meta.insert(APPLIED, place)?;
            Ok(())
        })
    }

    pub(super) fn flush(&self) -> Result<(), IndexError> {
        guarded(|| self.db.flush().map(drop).map_err(IndexError::from))
    }

    pub(super) fn task(&self, id: TaskId) -> Result<Option<Stored>, IndexError> {
        match guarded(|| Ok(self.tasks.get(id.as_bytes())?))? {
            Some(bytes) => self.stored(id, decode("a task", &bytes)?).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn task_of_key(&self, key: &DedupeKey) -> Result<Option<TaskId>, IndexError> {
        id_in(guarded(|| Ok(self.keys.get(key.as_str())?))?)
    }

    pub(super) fn task_of_pull_request(&self, repo: &RepoName, number: u64) -> Result<Option<TaskId>, IndexError> {
        id_in(guarded(|| Ok(self.pull_requests.get(keys::pull_request(repo, number))?))?)
    }

    pub(super) fn was_observed(&self, key: &DedupeKey) -> Result<bool, IndexError> {
        guarded(|| Ok(self.observed.contains_key(key.as_str())?))
    }

    pub(super) fn evidence(&self, id: TaskId) -> Result<Option<Evidence>, IndexError> {
        guarded(|| Ok(self.evidence.get(id.as_bytes())?))?.map(|bytes| decode("evidence", &bytes)).transpose()
    }

    pub(super) fn cursor(&self, name: &str) -> Result<Option<u64>, IndexError> {
        guarded(|| Ok(self.cursors.get(name)?))?
            .map(|bytes| keys::number(&bytes).ok_or_else(|| damaged("a cursor", "not a number")))
            .transpose()
    }

    /// Newest first.
    pub(super) fn list(&self, filter: &TaskFilter) -> Result<Vec<Task>, IndexError> {
        let tree = if filter.unfinished { &self.unfinished } else { &self.by_age };
        let mut found = Vec::new();
        let mut rows = guarded(|| Ok(tree.iter().rev()))?;
        while filter.limit.is_none_or(|limit| found.len() < limit) {
            let Some(id) = guarded(|| Ok(rows.next().transpose()?))? else { break };
            let Some(id) = id_in(Some(id.1))? else { continue };
            // Gone between the two reads cannot be: tasks are never removed, and rows come before what lists them.
            let Some(row) = guarded(|| Ok(self.tasks.get(id.as_bytes())?))? else { continue };
            let row: Row = decode("a task", &row)?;
            let fits = filter.repo.as_ref().is_none_or(|repo| *repo == row.repo);
            if fits && (!filter.unfinished || row.state.is_unfinished()) {
                found.push(self.stored(id, row)?.task);
            }
        }
        Ok(found)
    }

    /// All tasks that are queued or running, oldest first.
    pub(super) fn unfinished(&self) -> Result<Vec<Stored>, IndexError> {
        let ids = guarded(|| Ok(self.unfinished.iter().values().collect::<Result<Vec<_>, _>>()?))?;
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let id = id_in(Some(id))?.ok_or_else(|| damaged("the list of unfinished tasks", "an empty entry"))?;
            let stored = self.task(id)?.ok_or_else(|| damaged("a task", "it is listed and not there"))?;
            // A crash may have come between the task's row and this list.
            if stored.task.state.is_unfinished() {
                found.push(stored);
            }
        }
        Ok(found)
    }

    /// How many tasks there really are: a scan.
    pub(super) fn count(&self) -> Result<u64, IndexError> {
        guarded(|| Ok(self.tasks.len() as u64))
    }

    fn stored(&self, id: TaskId, row: Row) -> Result<Stored, IndexError> {
        let mut request = Vec::new();
        for n in 0..=u16::MAX {
            match guarded(|| Ok(self.requests.get(keys::request_chunk(id, n))?))? {
                Some(chunk) => request.extend_from_slice(&chunk),
                None => break,
            }
        }
        let task = Task {
            id,
            request: decode("a request", &request)?,
            state: row.state,
            attempt: row.attempt,
            failures: row.failures,
            cancel_requested: row.cancel_requested,
            created_at: row.created_at,
            updated_at: row.updated_at,
        };
        Ok(Stored { task, sequence: row.sequence, enqueued: row.enqueued, reported: row.reported })
    }
}

/// Lets go of an index, or of what may hold one. sled's last flush panics when it fails.
pub(super) fn close<T>(index: T) {
    if let Err(error) = guarded(|| {
        drop(index);
        Ok(())
    }) {
        tracing::warn!(%error, "the index was not closed cleanly; it will be brought up to date from the journal");
    }
}

/// Moves an index that cannot be used out of the way. The last one is kept with the reason in it (`WHY`).
pub(super) fn set_aside(dir: &Path, why: &str) -> io::Result<()> {
    let aside = dir.with_extension("damaged");
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    match fs::rename(dir, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        moved => moved?,
    }
    if let Err(error) = fs::write(aside.join("WHY"), why) {
        tracing::warn!(%error, "the reason is not kept with the index that was put aside");
    }
    Ok(())
}

/// sled's own threads hold the file, and its lock, for a moment after the handle was dropped. Nobody else can: whoever
/// opens an index holds the lock of the data directory.
fn wait_until_closed(dir: &Path) -> Result<(), IndexError> {
    let file = match File::open(dir.join("db")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let deadline = Instant::now() + CLOSING_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file.unlock()?),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Err(IndexError::Busy),
            Err(TryLockError::WouldBlock) => std::thread::sleep(CLOSING_INTERVAL),
        }
    }
}

fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "removed a snapshot that a crash left half-written");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A task's row: everything but the request, which is stored once and never changes.
#[derive(Serialize, Deserialize)]
struct Row {
    sequence: u64,
    enqueued: u64,
    reported: Option<Reported>,
    repo: RepoName,
    state: TaskState,
    attempt: u32,
    failures: u32,
    cancel_requested: Option<Actor>,
    created_at: Timestamp,
    updated_at: Timestamp,
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
            attempt: task.attempt,
            failures: task.failures,
            cancel_requested: task.cancel_requested.clone(),
            created_at: task.created_at,
            updated_at: task.updated_at,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct AppliedRow {
    sequence: u64,
    hash: String,
    n_tasks: u64,
}

impl From<Applied> for AppliedRow {
    fn from(applied: Applied) -> Self {
        Self { sequence: applied.head.sequence, hash: applied.head.hash.to_string(), n_tasks: applied.n_tasks }
    }
}

/// sled reports some damage by a panic; here it becomes an error like any other.
fn guarded<T>(f: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(IndexError::Panicked(panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    text.unwrap_or("no message").chars().take(300).collect()
}

fn batch<K: Into<sled::IVec>, V: Into<sled::IVec>>(rows: impl Iterator<Item = (K, V)>) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in rows {
        batch.insert(key, value);
    }
    batch
}

fn id_in(value: Option<sled::IVec>) -> Result<Option<TaskId>, IndexError> {
    value.map(|bytes| keys::task_id(&bytes).ok_or_else(|| damaged("an id", "not 16 bytes"))).transpose()
}

fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, IndexError> {
    record::encode(value).map_err(|error| damaged(what, error))
}

fn decode<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T, IndexError> {
    record::decode(bytes).map_err(|error| damaged(what, error))
}

fn damaged(what: &str, reason: impl ToString) -> IndexError {
    IndexError::Damaged { what: what.to_owned(), reason: reason.to_string() }
}
