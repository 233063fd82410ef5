//! What is not finished, in memory: which task is next, which lease ends when, which issue is taken.
//!
//! Only the committer touches it. It is rebuilt from the index at every start, so that nothing here needs to be durable;
//! in particular renewals live only here: a lease that was renewed a thousand times left no trace on the disk, and after
//! a restart every lease simply begins anew.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tasks::{RepoName, TaskId, TaskState, Timestamp};

use super::index::Stored;

/// All unfinished tasks.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    tasks: HashMap<TaskId, Stored>,
    /// Oldest first: ids sort by creation only down to the millisecond.
    by_issue: HashMap<(RepoName, u64), BTreeMap<u64, TaskId>>,
    expiries: HashMap<TaskId, Expiry>,
    /// Queued, and not to be leased before a moment that may not have come; then by age.
    later: BTreeSet<(Timestamp, u64, TaskId)>,
    /// Queued and due, oldest first in each repository. No entry is empty.
    due: HashMap<RepoName, BTreeMap<u64, TaskId>>,
    /// The repositories of `due`, in the order of their turns.
    turns: VecDeque<RepoName>,
}

#[derive(Debug, Clone, Copy)]
struct Expiry {
    attempt: u32,
    at: Timestamp,
}

impl Unfinished {
    /// Takes a task in its new state. A finished one is dropped.
    pub(super) fn put(&mut self, stored: Stored) {
        let id = stored.task.id;
        self.remove(id);
        match &stored.task.state {
            TaskState::Queued { not_before } => {
                self.expiries.remove(&id);
                self.later.insert((*not_before, stored.enqueued, id));
            }
            TaskState::Running { lease, .. } => {
                // A renewal may have moved the end past what the task says.
                let expiry = self.expiries.entry(id).or_insert(Expiry { attempt: lease.attempt, at: lease.expires_at });
                if expiry.attempt != lease.attempt {
                    *expiry = Expiry { attempt: lease.attempt, at: lease.expires_at };
                }
            }
            TaskState::PullRequestOpen { .. }
            | TaskState::Merged { .. }
            | TaskState::Closed { .. }
            | TaskState::DiffReady
            | TaskState::NoChanges
            | TaskState::Rejected { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. } => {
                self.expiries.remove(&id);
                return;
            }
        }
        if let Some(issue) = stored.task.request.source.issue() {
            self.by_issue.entry((stored.task.request.repo.clone(), issue)).or_default().insert(stored.enqueued, id);
        }
        self.tasks.insert(id, stored);
    }

    /// Forgets a task that was never durable.
    pub(super) fn forget(&mut self, id: TaskId) {
        self.remove(id);
        self.expiries.remove(&id);
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&Stored> {
        self.tasks.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.tasks.values()
    }

    /// The tasks of an issue, oldest first.
    pub(super) fn of_issue(&self, repo: &RepoName, issue: u64) -> Vec<TaskId> {
        let ids = self.by_issue.get(&(repo.clone(), issue));
        ids.into_iter().flat_map(BTreeMap::values).copied().collect()
    }

    /// The task whose turn it is: the oldest due one of the repository that has waited longest for its turn.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<TaskId> {
        self.promote(now);
        let repo = self.turns.pop_front()?;
        let id = self.due.get(&repo).and_then(|queue| queue.values().next().copied());
        // The turn is used up even if the lease comes to nothing.
        self.turns.push_back(repo);
        id
    }

    /// When the next task becomes due that is not due yet.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.later.first().map(|(at, ..)| *at)
    }

    /// When the lease of a running task ends.
    pub(super) fn expiry(&self, id: TaskId) -> Option<Timestamp> {
        self.expiries.get(&id).map(|expiry| expiry.at)
    }

    /// Moves the end of a lease. It is never moved back.
    pub(super) fn extend(&mut self, id: TaskId, until: Timestamp) {
        if let Some(expiry) = self.expiries.get_mut(&id) {
            expiry.at = expiry.at.max(until);
        }
    }

    /// All leases and when they end.
    pub(super) fn leases(&self) -> HashMap<TaskId, Timestamp> {
        self.expiries.iter().map(|(id, expiry)| (*id, expiry.at)).collect()
    }

    /// Tasks whose lease has ended, the longest ended first.
    pub(super) fn expired(&self, now: Timestamp) -> Vec<TaskId> {
        let mut ended: Vec<_> = self.expiries.iter().filter(|(_, expiry)| expiry.at <= now).collect();
        ended.sort_by_key(|(id, expiry)| (expiry.at, **id));
        ended.into_iter().map(|(id, _)| *id).collect()
    }

    fn promote(&mut self, now: Timestamp) {
        while let Some(&(at, _, id)) = self.later.first()
            && at <= now
        {
            self.later.pop_first();
            let Some(stored) = self.tasks.get(&id) else { continue };
            let repo = &stored.task.request.repo;
            let queue = self.due.entry(repo.clone()).or_default();
            if queue.is_empty() {
                self.turns.push_back(repo.clone());
            }
            queue.insert(stored.enqueued, id);
        }
    }

    fn remove(&mut self, id: TaskId) {
        let Some(stored) = self.tasks.remove(&id) else { return };
        let request = &stored.task.request;
        if let TaskState::Queued { not_before } = stored.task.state {
            self.later.remove(&(not_before, stored.enqueued, id));
        }
        if let Some(queue) = self.due.get_mut(&request.repo) {
            queue.remove(&stored.enqueued);
            if queue.is_empty() {
                self.due.remove(&request.repo);
                self.turns.retain(|repo| *repo != request.repo);
            }
        }
        if let Some(issue) = request.source.issue() {
            let key = (request.repo.clone(), issue);
            if let Some(ids) = self.by_issue.get_mut(&key) {
                ids.remove(&stored.enqueued);
                if ids.is_empty() {
                    self.by_issue.remove(&key);
                }
            }
        }
    }
}
