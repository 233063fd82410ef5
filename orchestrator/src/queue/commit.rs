//! The committer: the one thread that writes.
//!
//! It takes what is waiting as one group, lets each step decide on a draft, writes the records to the journal with one
//! fsync, takes them into the index, and only then answers. A group that cannot be made durable is put back as if it
//! had never been; those of its steps that neither wrote nor saw anything of it (renewals, above all) are answered all
//! the same, so that a full disk takes no lease from a worker.
//!
//! An index that fails is no reason to refuse: the record is durable. The index is opened anew before a later group, or
//! rebuilt from the journal.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tasks::{RetryPolicy, TaskState};
use tokio::sync::mpsc;

use super::{
    QueueOptions, Shared,
    draft::{Draft, Staged},
    index::{self, Applied, Index, IndexError},
    journal::{Damage, Head, Journal, JournalError, Marks, Walk},
    ready::Unfinished,
    record::{self, QueueRecord},
    verbs,
};

/// One thing to do: decides on the draft, and leaves what tells the caller.
pub(super) type Step = Box<dyn FnOnce(&mut Draft<'_>) -> Answer + Send>;

/// Tells the caller how it ended: as decided, or with the reason why the group did not become durable.
pub(super) type Answer = Box<dyn FnOnce(Result<(), &str>) + Send>;

/// How many steps wait at most before callers do.
pub(super) const MAX_WAITING: usize = 1024;
const MAX_GROUP: usize = 256;
const RECORDS_PER_REPLAY_WRITE: usize = 256;
const REPAIR_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) options: QueueOptions,
    pub(super) files: Files,
    pub(super) journal: Journal,
    pub(super) index: Option<Arc<Index>>,
    pub(super) n_tasks: u64,
    pub(super) unfinished: Unfinished,
    pub(super) repaired_at: Option<Instant>,
}

/// Where the parts of the store lie, and the right to touch them.
pub(super) struct Files {
    pub(super) journal: PathBuf,
    pub(super) index: PathBuf,
    pub(super) lock: Arc<File>,
}

impl Committer {
    /// Until nobody can ask any more and everything that was asked is answered.
    pub(super) fn run(mut self, mut steps: mpsc::Receiver<Step>) {
        while let Some(first) = steps.blocking_recv() {
            let mut group = vec![first];
            while group.len() < MAX_GROUP
                && let Ok(step) = steps.try_recv()
            {
                group.push(step);
            }
            self.commit(group);
        }
        self.commit(Vec::new());
        self.shared.set_index(None);
        if let Some(index) = self.index.take() {
            if let Err(error) = index.flush() {
                tracing::warn!(%error, "the index was not flushed; it will be brought up to date at the next start");
            }
            index::close(index);
        }
    }

    fn commit(&mut self, group: Vec<Step>) {
        self.repair_index();
        let index = self.index.clone();
        let next = self.journal.head().sequence + 1;
        let mut draft = Draft::new(index.as_deref(), &mut self.unfinished, &self.options.retry, next);
        let mut answers = Vec::with_capacity(group.len());
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let now = (self.options.clock)();
            for lease in self.shared.returned() {
                if let Err(error) = verbs::take_back(&mut draft, &lease, now) {
                    tracing::warn!(task.id = %lease.task, %error, "a lease that nobody holds stays until it ends");
                }
            }
            for step in group {
                draft.begin();
                let answer = step(&mut draft);
                answers.push((answer, draft.is_entangled()));
            }
        }));
        let written = match decided {
            Err(_) => Err("a defect in the queue; see the log".to_owned()),
            Ok(()) => self.journal.append(draft.payloads()).map_err(|error| error.to_string()),
        };
        let index_error = match &written {
            Ok(()) => {
                let staged = draft.finish();
                self.publish(staged)
            }
            Err(reason) => {
                tracing::error!(%reason, "nothing of this group was acknowledged");
                draft.roll_back()
            }
        };
        // Before the index may be retired: the last one to let go must be ready for a panic of sled.
        drop(index);
        if let Some(error) = index_error {
            self.retire_index(&error);
        }
        self.shared.leases.send_if_modified(|known| {
            let leases = self.unfinished.leases();
            let changed = *known != leases;
            *known = leases;
            changed
        });
        for (answer, entangled) in answers {
            answer(match &written {
                Err(reason) if entangled => Err(reason),
                Ok(()) | Err(_) => Ok(()),
            });
        }
    }

    /// What is durable now becomes what everybody sees.
    fn publish(&mut self, staged: Staged) -> Option<IndexError> {
        let Staged { payloads, changes, index_error } = staged;
        if payloads.is_empty() {
            return index_error;
        }
        self.n_tasks += changes.new.len() as u64;
        let applied = Applied { head: self.journal.head(), n_tasks: self.n_tasks };
        let written = self.index.as_ref().map_or(Ok(()), |index| index.write(&changes, applied));
        self.shared.head.send_replace(applied.head);
        if changes.tasks.values().any(|stored| matches!(stored.task.state, TaskState::Queued { .. })) {
            self.shared.ready.send_replace(());
        }
        index_error.or(written.err())
    }

    fn retire_index(&mut self, error: &IndexError) {
        if let Some(index) = self.index.take() {
            tracing::error!(%error, "the index failed; the journal goes on without it while it is repaired");
            self.shared.set_index(None);
            index::close(index);
        }
    }

    fn repair_index(&mut self) {
        let wait = self.repaired_at.is_some_and(|at| at.elapsed() < REPAIR_INTERVAL);
        if self.index.is_some() || wait {
            return;
        }
        self.repaired_at = Some(Instant::now());
        match open_index(&self.files, None, &self.journal.marks(), self.journal.head()) {
            Ok((index, n_tasks)) => {
                let index = Arc::new(index);
                self.n_tasks = n_tasks;
                self.shared.set_index(Some(index.clone()));
                self.index = Some(index);
                tracing::info!("the index is repaired");
            }
            Err(error) => tracing::error!(%error, "the index cannot be repaired yet"),
        }
    }
}

/// Why an index could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("the index does not agree with the journal at record {0}")]
    Disagrees(u64),
    #[error("the index should hold {expected} tasks and holds {found}")]
    Lost { expected: u64, found: u64 },
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Opens the index (or takes the one that is open already) and replays what it lacks. One that cannot be used is put
/// aside and made anew. Also tells how many tasks it holds.
pub(super) fn open_index(
    files: &Files,
    opened: Option<Result<Index, IndexError>>,
    marks: &Marks,
    head: Head,
) -> Result<(Index, u64), ReplayError> {
    let open = || Index::open(&files.index, files.lock.clone());
    let brought_up = |index: Index| match replay(&index, &files.journal, marks, head) {
        Ok(n_tasks) => Ok((index, n_tasks)),
        Err(error) => {
            index::close(index);
            Err(error)
        }
    };
    match opened.unwrap_or_else(open).map_err(ReplayError::from).and_then(brought_up) {
        Ok(ready) => Ok(ready),
        Err(error @ ReplayError::Journal(_)) => Err(error),
        Err(ReplayError::Index(error)) if error.is_passing() => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "the index is put aside and made anew from the journal");
            index::set_aside(&files.index, &error.to_string()).map_err(IndexError::from)?;
            brought_up(open()?)
        }
    }
}

fn replay(index: &Index, journal: &Path, marks: &Marks, head: Head) -> Result<u64, ReplayError> {
    let applied = index.applied()?;
    if applied.head.sequence > head.sequence {
        return Err(ReplayError::Disagrees(head.sequence + 1));
    }
    let n_tasks = if applied.head == head {
        applied.n_tasks
    } else {
        let mut walk = Walk::near(journal, marks, applied.head.sequence.max(1))?;
        while walk.head().sequence < applied.head.sequence {
            let Some(_) = walk.next()? else { return Err(ReplayError::Disagrees(applied.head.sequence)) };
        }
        if walk.head() != applied.head {
            return Err(ReplayError::Disagrees(applied.head.sequence));
        }
        replay_after(index, walk, applied, head)?
    };
    match index.count()? {
        found if found == n_tasks => Ok(n_tasks),
        found => Err(ReplayError::Lost { expected: n_tasks, found }),
    }
}

fn replay_after(index: &Index, mut walk: Walk, mut applied: Applied, head: Head) -> Result<u64, ReplayError> {
    let retry = RetryPolicy::default();
    let mut unfinished = Unfinished::default();
    while applied.head.sequence < head.sequence {
        let mut draft = Draft::new(Some(index), &mut unfinished, &retry, applied.head.sequence + 1);
        let mut n_new = 0;
        for _ in 0..RECORDS_PER_REPLAY_WRITE {
            if applied.head.sequence == head.sequence {
                break;
            }
            let damage = walk.damage_here();
            let Some(entry) = walk.next()? else { break };
            let wrong = |reason: String| JournalError::from(Damage { reason, ..damage.clone() });
            let record: QueueRecord = record::decode(&entry.payload).map_err(|error| wrong(error.to_string()))?;
            n_new += u64::from(matches!(record, QueueRecord::Enqueued { .. }));
            let folded = draft.fold(entry.head.sequence, record);
            if let Some(error) = draft.take_index_error() {
                return Err(error.into());
            }
            folded.map_err(|error| wrong(format!("it cannot have happened: {error}")))?;
            applied.head = entry.head;
        }
        applied.n_tasks += n_new;
        index.write(&draft.finish().changes, applied)?;
    }
    Ok(applied.n_tasks)
}
