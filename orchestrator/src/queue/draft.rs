//! One group of changes while it is being made: decided and folded in, but not durable, so not yet true.
//!
//! [`Draft::fold`] is the only place where a record changes anything. Live changes and replays both go through it, so
//! that what was built from the journal cannot differ from what was built by living.

use chrono::Duration;
use tasks::{
    Actor, DedupeKey, Lease, Month, QueueError, RepoName, Reservation, RetryPolicy, Task, TaskEvent, TaskId, TaskState,
    Timestamp, Usage,
};

use super::{
    QueueOptions,
    budget::{AccountRow, Purse, Shortage},
    index::{Changes, Index, IndexError, Stored},
    journal::Head,
    ready::Unfinished,
    record::{self, MAX_RECORD_BYTES, QueueRecord, Reported, With},
    turns::Requester,
};

/// What the committer hands to each step of a group.
pub(super) struct Draft<'a> {
    index: Option<&'a Index>,
    /// Ahead of what is durable; put back when the group fails.
    unfinished: &'a mut Unfinished,
    options: &'a QueueOptions,
    /// The last durable record.
    durable: Head,
    next_sequence: u64,
    /// How each task was that the group changed, first change first.
    undo: Vec<(TaskId, Option<Before>)>,
    /// Who was noted as refused, by which task, before each change of that.
    undo_refused: Vec<(Requester, Option<TaskId>)>,
    staged: Staged,
    /// Whether the current step wrote something or saw what is not durable: then its answer depends on the group.
    entangled: bool,
}

/// An unfinished task as it was before the group.
struct Before {
    stored: Stored,
    expiry: Option<Timestamp>,
    waits_until: Option<Timestamp>,
}

/// What a draft leaves behind.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) payloads: Vec<Vec<u8>>,
    /// The last of them that readers of events see.
    pub(super) last_event: Option<u64>,
    pub(super) changes: Changes,
    /// The index failed while it was asked.
    pub(super) index_error: Option<IndexError>,
}

/// Whose turn it is.
pub(super) struct Next {
    pub(super) ready: Option<(Stored, Reservation)>,
    pub(super) short: Vec<(Stored, Shortage)>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        index: Option<&'a Index>,
        unfinished: &'a mut Unfinished,
        options: &'a QueueOptions,
        durable: Head,
    ) -> Self {
        Self {
            index,
            unfinished,
            options,
            durable,
            next_sequence: durable.sequence + 1,
            undo: Vec::new(),
            undo_refused: Vec::new(),
            staged: Staged::default(),
            entangled: false,
        }
    }

    pub(super) fn options(&self) -> &'a QueueOptions {
        self.options
    }

    /// The last record that is durable whatever becomes of this group.
    pub(super) fn durable(&self) -> Head {
        self.durable
    }

    pub(super) fn unfinished(&self) -> &Unfinished {
        self.unfinished
    }

    /// Begins a step.
    pub(super) fn begin(&mut self) {
        self.entangled = false;
    }

    pub(super) fn is_entangled(&self) -> bool {
        self.entangled
    }

    pub(super) fn payloads(&self) -> &[Vec<u8>] {
        &self.staged.payloads
    }

    pub(super) fn take_index_error(&mut self) -> Option<IndexError> {
        self.staged.index_error.take()
    }

    /// Keeps what was staged.
    pub(super) fn finish(self) -> Staged {
        self.staged
    }

    /// Puts everything back as it was. Renewals stay: they were never to be durable, and a worker whose lease was
    /// renewed must not lose it because the disk was full.
    pub(super) fn roll_back(self) -> Option<IndexError> {
        for (id, before) in self.undo.into_iter().rev() {
            match before {
                Some(Before { stored, expiry, waits_until }) => {
                    let enqueued = stored.enqueued;
                    self.unfinished.put(stored);
                    if let Some(at) = waits_until {
                        self.unfinished.wait_no_longer_than(at, enqueued, id);
                    }
                    if let Some(expiry) = expiry {
                        self.unfinished.extend(id, expiry);
                    }
                }
                None => self.unfinished.forget(id),
            }
        }
        for (requester, before) in self.undo_refused.into_iter().rev() {
            self.unfinished.set_refused(requester, before);
        }
        self.staged.index_error
    }

    /// Adds a record to the group.
    ///
    /// # Errors
    /// Then nothing of it was added.
    pub(super) fn stage(&mut self, record: QueueRecord) -> Result<(), QueueError> {
        let payload = record::encode(&record).map_err(|error| QueueError::Unavailable(error.to_string()))?;
        if payload.len() > MAX_RECORD_BYTES {
            let limit = MAX_RECORD_BYTES >> 20;
            return Err(QueueError::Unavailable(format!("a record may have {limit} MiB, this one is larger")));
        }
        let (sequence, is_event) = (self.next_sequence, record.is_event());
        self.fold(sequence, record)?;
        self.staged.payloads.push(payload);
        if is_event {
            self.staged.last_event = Some(sequence);
        }
        self.next_sequence = sequence + 1;
        self.entangled = true;
        Ok(())
    }

    /// Adds an event of a task.
    pub(super) fn apply(&mut self, task: TaskId, event: TaskEvent, now: Timestamp) -> Result<(), QueueError> {
        self.conclude(task, event, With::default(), now)
    }

    /// Adds an event of a task, and what comes along with it.
    pub(super) fn conclude(
        &mut self,
        task: TaskId,
        event: TaskEvent,
        with: With,
        now: Timestamp,
    ) -> Result<(), QueueError> {
        self.stage(QueueRecord::applied(task, event, with, &self.options.retry, now))
    }

    /// What a record means.
    pub(super) fn fold(&mut self, sequence: u64, record: QueueRecord) -> Result<(), QueueError> {
        match record {
            QueueRecord::Enqueued { task } => {
                let id = task.id;
                self.staged.changes.keys.insert(task.request.dedupe_key.clone(), id);
                // Already there, and perhaps further on, in a replay over an index that a crash left ahead of its mark.
                if self.find(id)?.is_none() {
                    self.staged.changes.new.insert(id);
                    self.put(Stored { task: *task, sequence, enqueued: sequence, reported: None });
                }
            }
            QueueRecord::Joined { key, task, at: _, note } => {
                self.staged.changes.keys.insert(key, task);
                if let Some(note) = note
                    && let Some(mut stored) = self.find(task)?.filter(|stored| stored.sequence < sequence)
                {
                    stored.task.add_note(*note);
                    stored.sequence = sequence;
                    self.put(stored);
                }
            }
            QueueRecord::Checkpointed { .. } => {}
            QueueRecord::Applied { task, at, event, evidence, retry, reserved, used } => {
                let retry = retry.map(|retry| (&retry).into()).unwrap_or_default();
                let with = With { evidence, reserved, used };
                self.fold_event(sequence, task, at, event, with, &retry)?;
            }
            QueueRecord::Observed { key, at: _, change: _ } => {
                self.staged.changes.observed.insert(key);
            }
            QueueRecord::CursorMoved { name, sequence } => {
                self.staged.changes.cursors.insert(name, sequence);
            }
        }
        Ok(())
    }

    fn fold_event(
        &mut self,
        sequence: u64,
        id: TaskId,
        at: Timestamp,
        event: TaskEvent,
        with: With,
        retry: &RetryPolicy,
    ) -> Result<(), QueueError> {
        let With { evidence, reserved, used } = with;
        let mut stored = self.find(id)?.ok_or(QueueError::UnknownTask(id))?;
        if stored.sequence < sequence {
            let lease = stored.task.state.lease().cloned();
            let reported = match &lease {
                Some(lease) => Reported::of(&lease.worker, lease.attempt, &event, evidence.as_deref()),
                None => Ok(None),
            };
            let reported = reported.map_err(|error| QueueError::Unavailable(error.to_string()))?;
            stored.task.apply(event, retry, at)?;
            stored.task.reservation = reserved.or(stored.task.reservation);
            if lease.is_some() && stored.task.state.lease().is_none() {
                self.settle(sequence, &mut stored, used.map(|used| *used))?;
            }
            stored.reported = reported.or(stored.reported);
            stored.sequence = sequence;
            self.put(stored.clone());
        }
        if let Some(evidence) = evidence {
            self.staged.changes.evidence.insert(id, evidence);
        }
        if let TaskState::PullRequestOpen { pull_request } = &stored.task.state {
            let key = (pull_request.repo.clone(), pull_request.number);
            self.staged.changes.pull_requests.insert(key, id);
        }
        Ok(())
    }

    /// Books what an attempt used, wherever it counts.
    fn settle(&mut self, sequence: u64, stored: &mut Stored, used: Option<Usage>) -> Result<(), QueueError> {
        let Some((reservation, used)) = stored.task.settle(used) else { return Ok(()) };
        for account in reservation.accounts {
            let key = (reservation.month, account.key());
            let known = match self.staged.changes.accounts.get(&key) {
                Some(row) => Some(row.clone()),
                None => self.ask(|index| index.account(key.0, &key.1))?,
            };
            let new = AccountRow { account, month: reservation.month, sequence: 0, used: Usage::default() };
            let mut row = known.unwrap_or(new);
            if row.sequence < sequence {
                (row.used, row.sequence) = (row.used.plus(&used), sequence);
                self.staged.changes.accounts.insert(key, row);
            }
        }
        Ok(())
    }

    fn put(&mut self, stored: Stored) {
        let id = stored.task.id;
        if !self.staged.changes.tasks.contains_key(&id) {
            let (expiry, waits_until) = (self.unfinished.expiry(id), self.unfinished.waits_until(id));
            let before = self.unfinished.get(id).cloned().map(|stored| Before { stored, expiry, waits_until });
            self.undo.push((id, before));
        }
        self.unfinished.put(stored.clone());
        self.staged.changes.tasks.insert(id, stored);
    }

    /// A task as this group leaves it.
    pub(super) fn find(&mut self, id: TaskId) -> Result<Option<Stored>, QueueError> {
        if let Some(stored) = self.staged.changes.tasks.get(&id) {
            self.entangled = true;
            return Ok(Some(stored.clone()));
        }
        match self.unfinished.get(id) {
            Some(stored) => Ok(Some(stored.clone())),
            None => self.ask(|index| index.task(id)),
        }
    }

    /// The task that holds this lease, while it is held.
    ///
    /// # Errors
    /// [`QueueError::StaleLease`] when it is another attempt's or worker's, or has ended, swept or not.
    pub(super) fn held(&mut self, lease: &Lease, now: Timestamp) -> Result<Stored, QueueError> {
        self.entangled |= self.staged.changes.tasks.contains_key(&lease.task);
        let stale = QueueError::StaleLease { task: lease.task, attempt: lease.attempt };
        let Some(stored) = self.unfinished.get(lease.task) else { return Err(stale) };
        let current = stored.task.state.lease();
        let same = current.is_some_and(|current| (&current.worker, current.attempt) == (&lease.worker, lease.attempt));
        let alive = self.unfinished.expiry(lease.task).is_some_and(|expiry| expiry > now);
        if same && alive { Ok(stored.clone()) } else { Err(stale) }
    }

    /// How many tasks of this person wait, as this group leaves it.
    pub(super) fn n_waiting(&mut self, actor: &Actor) -> usize {
        self.entangled = true;
        self.unfinished.n_waiting(actor)
    }

    /// The task that told this person of having too many tasks waiting, if it was told.
    pub(super) fn refused(&mut self, actor: &Actor) -> Option<TaskId> {
        let known = self.unfinished.refused(actor);
        self.entangled |= known.is_some_and(|task| self.staged.changes.tasks.contains_key(&task));
        known
    }

    /// Notes which task tells so; `None`: there is room again.
    pub(super) fn set_refused(&mut self, actor: &Actor, task: Option<TaskId>) {
        let requester = Requester::from(actor);
        let before = self.unfinished.set_refused(requester.clone(), task);
        self.undo_refused.push((requester, before));
    }

    /// Moves the end of a lease, at once and without a trace on the disk.
    pub(super) fn extend(&mut self, lease: &Lease, now: Timestamp, by: Duration) -> Timestamp {
        let until = now + by;
        self.unfinished.extend(lease.task, until);
        self.unfinished.expiry(lease.task).unwrap_or(until)
    }

    /// The next task to lease, and those whose turn it would be if there were room for them.
    pub(super) fn next_ready(&mut self, now: Timestamp) -> Result<Next, QueueError> {
        // What others of this group took is not there to be seen: the answer hangs on theirs.
        self.entangled = true;
        let purse = Purse {
            budgets: &self.options.budgets,
            index: self.index,
            staged: &self.staged.changes.accounts,
            held: self.unfinished.reservations(),
            month: Month::of(now),
        };
        let (mut reserved, mut short, mut trouble) = (None, Vec::new(), None);
        let found = self.unfinished.next(now, self.options.parallel_per_repository, |stored| {
            match purse.reserve(&stored.task) {
                Ok(Ok(reservation)) => {
                    reserved = Some(reservation);
                    return true;
                }
                Ok(Err(shortage)) => short.push((stored.clone(), shortage)),
                Err(error) => trouble = Some(error),
            }
            false
        });
        if let Some(error) = trouble {
            return self.ask(|_| Err(error));
        }
        let ready = found.and_then(|id| self.unfinished.get(id)).cloned().zip(reserved);
        Ok(Next { ready, short })
    }

    /// When the next task becomes due that is not due yet.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.unfinished.next_due()
    }

    /// Until when and why a task has to wait for room in its repository, if it has to.
    pub(super) fn waits_for_room(&self, task: &Task, now: Timestamp) -> Option<(Timestamp, String)> {
        self.unfinished.waits_for_room(task, &self.options.pulls, now)
    }

    /// Those that wait for room though there is some.
    pub(super) fn with_room(&self, now: Timestamp) -> Vec<TaskId> {
        self.unfinished.with_room(&self.options.pulls, now)
    }

    pub(super) fn task_of_key(&mut self, key: &DedupeKey) -> Result<Option<TaskId>, QueueError> {
        if let Some(id) = self.staged.changes.keys.get(key) {
            self.entangled = true;
            return Ok(Some(*id));
        }
        self.ask(|index| index.task_of_key(key))
    }

    pub(super) fn was_observed(&mut self, key: &DedupeKey) -> Result<bool, QueueError> {
        if self.staged.changes.observed.contains(key) {
            self.entangled = true;
            return Ok(true);
        }
        self.ask(|index| index.was_observed(key))
    }

    pub(super) fn task_of_pull_request(&mut self, repo: &RepoName, number: u64) -> Result<Option<TaskId>, QueueError> {
        if let Some(id) = self.staged.changes.pull_requests.get(&(repo.clone(), number)) {
            self.entangled = true;
            return Ok(Some(*id));
        }
        self.ask(|index| index.task_of_pull_request(repo, number))
    }

    fn ask<T>(&mut self, question: impl FnOnce(&Index) -> Result<T, IndexError>) -> Result<T, QueueError> {
        let answer = self.index.ok_or(IndexError::Away).and_then(question);
        answer.map_err(|error| {
            let text = error.to_string();
            self.staged.index_error.get_or_insert(error);
            QueueError::Unavailable(text)
        })
    }
}
