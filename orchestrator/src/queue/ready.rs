//! What is not finished, in memory: which task is next, which lease ends when, which issue is taken.
//!
//! Only the committer touches it. It is rebuilt from the index at every start, so that nothing here needs to be durable;
//! in particular renewals live only here: a lease that was renewed a thousand times left no trace on the disk, and after
//! a restart every lease simply begins anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tasks::{Actor, RepoName, Reservation, Task, TaskId, TaskState, Timestamp, Wait};

use super::{
    index::Stored,
    options::PullLimits,
    pulls::Pulls,
    turns::{Place, Requester, Turns},
};

/// All unfinished tasks.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    tasks: HashMap<TaskId, Stored>,
    /// Oldest first: ids sort by creation only down to the millisecond.
    by_place: HashMap<(RepoName, String), BTreeMap<u64, TaskId>>,
    expiries: HashMap<TaskId, Expiry>,
    /// Queued, and not to be leased before a moment that may not have come; then by age.
    later: BTreeSet<(Timestamp, u64, TaskId)>,
    /// The key of each task in `later`, or what it was there.
    waits_until: HashMap<TaskId, Timestamp>,
    /// Queued and due.
    due: Turns,
    /// How many of each repository are at work. No entry is zero.
    at_work: HashMap<RepoName, usize>,
    /// How many of those will open a pull request. No entry is zero.
    opening: HashMap<RepoName, usize>,
    /// What waits for room in its repository, oldest first. No entry is empty.
    held: HashMap<RepoName, BTreeMap<u64, TaskId>>,
    /// The pull requests that durable tasks came to.
    pulls: Pulls,
    /// How many of each requester wait. No entry is zero.
    waiting: HashMap<Requester, usize>,
    /// Requesters who had too many waiting and were told so, by this task; until one of theirs is taken again.
    refused: HashMap<Requester, TaskId>,
}

/// What a finished task says of its pull request.
pub(super) struct RecoveredPull {
    pub(super) task: TaskId,
    pub(super) repo: RepoName,
    pub(super) state: TaskState,
    pub(super) updated_at: Timestamp,
    pub(super) noticed_at: Option<Timestamp>,
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
        let waited = self.waits_until(id).filter(|_| self.waits_as_before(&stored));
        self.remove(id);
        match &stored.task.state {
            TaskState::Queued { not_before, waits } => {
                self.expiries.remove(&id);
                if matches!(waits, Some(Wait::Room { .. })) {
                    let repo = stored.task.request.repo.clone();
                    self.held.entry(repo).or_default().insert(stored.enqueued, id);
                }
                let at = waited.unwrap_or(*not_before);
                self.later.insert((at, stored.enqueued, id));
                self.waits_until.insert(id, at);
                *self.waiting.entry(Requester::from(&stored.task.request.actor)).or_default() += 1;
            }
            TaskState::Running { lease, .. } => {
                let request = &stored.task.request;
                *self.at_work.entry(request.repo.clone()).or_default() += 1;
                if request.opens_pull_request() {
                    *self.opening.entry(request.repo.clone()).or_default() += 1;
                }
                // A renewal may have moved the end past what the task says.
                let expiry = self.expiries.entry(id).or_insert(Expiry { attempt: lease.attempt, at: lease.expires_at });
                if expiry.attempt != lease.attempt {
                    *expiry = Expiry { attempt: lease.attempt, at: lease.expires_at };
                }
            }
            TaskState::PullRequestOpen { .. }
            | TaskState::Merged { .. }
            | TaskState::Closed { .. }
            | TaskState::Updated { .. }
            | TaskState::DiffReady
            | TaskState::NoChanges
            | TaskState::Rejected { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. } => {
                self.expiries.remove(&id);
                return;
            }
        }
        if let Some(place) = stored.task.request.source.place() {
            self.by_place.entry((stored.task.request.repo.clone(), place)).or_default().insert(stored.enqueued, id);
        }
        self.tasks.insert(id, stored);
    }

    /// Takes a task after a start. Its lease begins anew, and it waits no longer than `latest`: the clock may have been set
    /// back since, and nobody may wait for the time that it went by then.
    pub(super) fn put_recovered(&mut self, stored: Stored, lasts_until: Timestamp, latest: Timestamp) {
        let (id, enqueued) = (stored.task.id, stored.enqueued);
        self.put(stored);
        if let Some(expiry) = self.expiries.get_mut(&id) {
            expiry.at = lasts_until;
        }
        self.wait_no_longer_than(latest, enqueued, id);
    }

    /// Brings the moment forward at which a task that waits becomes due.
    pub(super) fn wait_no_longer_than(&mut self, latest: Timestamp, enqueued: u64, id: TaskId) {
        if let Some(at) = self.waits_until.get_mut(&id).filter(|at| **at > latest) {
            self.later.remove(&(*at, enqueued, id));
            *at = latest;
            self.later.insert((latest, enqueued, id));
        }
    }

    /// When a task that waits becomes due, or became it.
    pub(super) fn waits_until(&self, id: TaskId) -> Option<Timestamp> {
        self.waits_until.get(&id).copied()
    }

    /// Whether what happened to a task that waits is nothing that its wait depends on, such as a note.
    fn waits_as_before(&self, stored: &Stored) -> bool {
        let not_before = |state: &TaskState| match state {
            TaskState::Queued { not_before, .. } => Some(*not_before),
            _ => None,
        };
        self.tasks.get(&stored.task.id).is_some_and(|before| {
            not_before(&before.task.state).is_some_and(|at| Some(at) == not_before(&stored.task.state))
        })
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

    /// The tasks that were asked for in one place, oldest first.
    pub(super) fn of_place(&self, repo: &RepoName, place: String) -> Vec<TaskId> {
        let ids = self.by_place.get(&(repo.clone(), place));
        ids.into_iter().flat_map(BTreeMap::values).copied().collect()
    }

    /// The task whose turn it is, of a repository that has fewer than `parallel` at work (0: any number), and that
    /// `may` begin.
    pub(super) fn next(
        &mut self,
        now: Timestamp,
        parallel: usize,
        mut may: impl FnMut(&Stored) -> bool,
    ) -> Option<TaskId> {
        self.promote(now);
        let Self { due, at_work, tasks, .. } = self;
        let has_room = |repo: &RepoName| parallel == 0 || at_work.get(repo).is_none_or(|n| *n < parallel);
        due.next(has_room, |id| tasks.get(&id).is_some_and(&mut may))
    }

    /// What attempts that run may use.
    pub(super) fn reservations(&self) -> Vec<Reservation> {
        let running = self.expiries.keys().filter_map(|id| self.tasks.get(id));
        running.filter_map(|stored| stored.task.reservation.as_deref().cloned()).collect()
    }

    /// Takes note of what became of a task's pull request, once that is durable.
    pub(super) fn note_pull(&mut self, task: &Task) {
        self.pulls.take(&task.request.repo, task.id, &task.state, task.updated_at, task.noticed_at);
    }

    /// Takes note of a pull request after a start.
    pub(super) fn recover_pull(&mut self, recovered: &RecoveredPull) {
        let RecoveredPull { task, repo, state, updated_at, noticed_at } = recovered;
        self.pulls.take(repo, *task, state, *updated_at, *noticed_at);
    }

    /// Until when and why a task has to wait for room in its repository, if it has to.
    pub(super) fn waits_for_room(
        &self,
        task: &Task,
        limits: &PullLimits,
        now: Timestamp,
    ) -> Option<(Timestamp, String)> {
        let repo = &task.request.repo;
        let n_opening = self.opening.get(repo).copied().unwrap_or(0);
        task.request.opens_pull_request().then(|| self.pulls.wait(repo, n_opening, limits, now))?
    }

    /// Those that wait for room in their repository though there is some, oldest first.
    pub(super) fn with_room(&self, limits: &PullLimits, now: Timestamp) -> Vec<TaskId> {
        let mut found = Vec::new();
        for (repo, held) in &self.held {
            let n_opening = self.opening.get(repo).copied().unwrap_or(0);
            let free = (n_opening..).zip(held.values());
            let free = free.take_while(|(n, _)| self.pulls.wait(repo, *n, limits, now).is_none());
            found.extend(free.map(|(_, id)| *id));
        }
        found
    }

    /// How many tasks of this person wait.
    pub(super) fn n_waiting(&self, actor: &Actor) -> usize {
        self.waiting.get(&Requester::from(actor)).copied().unwrap_or(0)
    }

    /// The task that told this person that there are too many.
    pub(super) fn refused(&self, actor: &Actor) -> Option<TaskId> {
        self.refused.get(&Requester::from(actor)).copied()
    }

    /// Notes which task told so; `None`: there is room again. Returns what was noted before.
    pub(super) fn set_refused(&mut self, requester: Requester, task: Option<TaskId>) -> Option<TaskId> {
        match task {
            Some(task) => self.refused.insert(requester, task),
            None => self.refused.remove(&requester),
        }
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
            if let Some(stored) = self.tasks.get(&id) {
                self.due.insert(&place(stored), id);
            }
        }
    }

    fn remove(&mut self, id: TaskId) {
        let Some(stored) = self.tasks.remove(&id) else { return };
        let request = &stored.task.request;
        match stored.task.state {
            TaskState::Queued { .. } => {
                if let Some(at) = self.waits_until.remove(&id) {
                    self.later.remove(&(at, stored.enqueued, id));
                }
                self.due.remove(&place(&stored));
                if let Some(held) = self.held.get_mut(&request.repo) {
                    held.remove(&stored.enqueued);
                    if held.is_empty() {
                        self.held.remove(&request.repo);
                    }
                }
                count_down(&mut self.waiting, &Requester::from(&request.actor));
            }
            _ => {
                count_down(&mut self.at_work, &request.repo);
                if request.opens_pull_request() {
                    count_down(&mut self.opening, &request.repo);
                }
            }
        }
        if let Some(place) = request.source.place() {
            let key = (request.repo.clone(), place);
            if let Some(ids) = self.by_place.get_mut(&key) {
                ids.remove(&stored.enqueued);
                if ids.is_empty() {
                    self.by_place.remove(&key);
                }
            }
        }
    }
}

fn place(stored: &Stored) -> Place {
    let task = &stored.task;
    Place {
        priority: task.priority,
        repo: task.request.repo.clone(),
        requester: Requester::from(&task.request.actor),
        enqueued: stored.enqueued,
    }
}

fn count_down<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(n) = counts.get_mut(key) {
        *n -= 1;
        if *n == 0 {
            counts.remove(key);
        }
    }
}
