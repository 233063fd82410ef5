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
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::TryRecvError,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tasks::{TaskState, Timestamp};
use tokio::sync::mpsc;

use super::{
    QueueOptions, Shared,
    checkpoint::{self, Checkpoint, Maker},
    draft::{Draft, Staged},
    index::{self, Index, IndexError},
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
    pub(super) unfinished: Unfinished,
    pub(super) repaired_at: Option<Instant>,
    /// The checkpoint that is being made.
    pub(super) making: Option<Making>,
    /// One that is made and not yet named in the journal.
    pub(super) made: Option<Checkpoint>,
    /// The last segment that the journal knows a checkpoint of, or that one was tried for in vain.
    pub(super) covered: u32,
    /// Wakes this thread.
    pub(super) steps: mpsc::WeakSender<Step>,
    /// Tells the maker to stop.
    pub(super) closing: Arc<AtomicBool>,
}

/// A thread that makes a checkpoint. What it made is there before it wakes the committer.
pub(super) struct Making {
    thread: JoinHandle<()>,
    made: std::sync::mpsc::Receiver<Option<Checkpoint>>,
}

/// Where the parts of the store lie, and the right to touch them.
pub(super) struct Files {
    pub(super) journal: PathBuf,
    pub(super) index: PathBuf,
    /// For the maker of checkpoints.
    pub(super) scratch: PathBuf,
    pub(super) lock: Arc<File>,
}

impl Committer {
    /// Until nobody can ask any more and everything that was asked is answered.
    pub(super) fn run(mut self, mut steps: mpsc::Receiver<Step>) {
        self.begin_checkpoint();
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
        self.closing.store(true, Ordering::Relaxed);
        if let Some(making) = self.making.take() {
            let _ = making.thread.join();
        }
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
        self.take_checkpoint();
        let index = self.index.clone();
        let head = self.journal.head();
        let mut draft = Draft::new(index.as_deref(), &mut self.unfinished, &self.options, head);
        let mut answers = Vec::with_capacity(group.len());
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let now = (self.options.clock)();
            for lease in self.shared.returned() {
                if let Err(error) = verbs::take_back(&mut draft, &lease, now) {
                    tracing::warn!(task.id = %lease.task, %error, "a lease that nobody holds stays until it ends");
                }
            }
            if let Some(made) = &self.made {
                let record = QueueRecord::Checkpointed { segment: made.segment, hash: made.hash.to_string() };
                if let Err(error) = draft.stage(record) {
                    tracing::warn!(%error, "a checkpoint is not named in the journal yet");
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
                let index_error = self.publish(staged);
                self.after_checkpoint();
                index_error
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
        self.begin_checkpoint();
        for (answer, entangled) in answers {
            answer(match &written {
                Err(reason) if entangled => Err(reason),
                Ok(()) | Err(_) => Ok(()),
            });
        }
    }

    /// Starts to make the checkpoint at the end of the last closed segment, if there is none yet.
    fn begin_checkpoint(&mut self) {
        let closed = self.journal.segment() - 1;
        if !self.options.checkpoints || closed <= self.covered || self.making.is_some() || self.made.is_some() {
            return;
        }
        let maker = Maker {
            journal: self.files.journal.clone(),
            scratch: self.files.scratch.clone(),
            lock: self.files.lock.clone(),
            stop: self.closing.clone(),
        };
        let steps = self.steps.clone();
        let (sender, made) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            let checkpoint = maker.make(closed);
            let checkpoint =
                checkpoint.inspect_err(|error| tracing::warn!(%error, segment = closed, "no checkpoint could be made"));
            // Once it is told, nobody waits for this thread, which must not keep the data directory locked then.
            drop(maker);
            // When the committer is gone, nobody needs it.
            let _ = sender.send(checkpoint.ok());
            // Only to wake the committer; when its channel is full, it is awake.
            if let Some(steps) = steps.upgrade() {
                let _ = steps.try_send(Box::new(|_| Box::new(|_| ())));
            }
        });
        self.covered = closed;
        match thread {
            Ok(thread) => self.making = Some(Making { thread, made }),
            Err(error) => tracing::warn!(%error, "no checkpoint can be made"),
        }
    }

    fn take_checkpoint(&mut self) {
        let Some(making) = &self.making else { return };
        match making.made.try_recv() {
            Ok(made) => self.made = made,
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => tracing::error!("a defect ended the making of a checkpoint"),
        }
        self.making = None;
    }

    /// The journal names the checkpoint now, so what it stands for may go, if it is not to be kept.
    fn after_checkpoint(&mut self) {
        let Some(made) = self.made.take() else { return };
        let read_to = self.index.as_ref().map(|index| index.slowest_cursor());
        let read_to = match read_to {
            Some(Ok(read_to)) => read_to.unwrap_or(u64::MAX),
            Some(Err(_)) | None => 0,
        };
        let kept = match self.options.keep_segments {
            0 => u32::MAX,
            n => n,
        };
        if let Err(error) = self.journal.prune(made.segment, kept, read_to) {
            tracing::warn!(%error, "old files of the journal cannot be removed yet");
        }
    }

    /// What is durable now becomes what everybody sees.
    fn publish(&mut self, staged: Staged) -> Option<IndexError> {
        let Staged { payloads, last_event, changes, index_error } = staged;
        if payloads.is_empty() {
            return index_error;
        }
        let head = self.journal.head();
        let written = self.index.as_ref().map_or(Ok(()), |index| index.write(&changes, head));
        changes.tasks.values().for_each(|stored| self.unfinished.note_pull(&stored.task));
        self.shared.durable.send_modify(|durable| {
            durable.head = head;
            durable.last_event = last_event.or(durable.last_event);
        });
        if changes.tasks.values().any(|stored| !matches!(stored.task.state, TaskState::Running { .. })) {
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
            Ok(index) => {
                let index = Arc::new(index);
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
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the queue is closing")]
    Stopped,
}

/// Opens the index (or takes the one that is open already) and replays what it lacks. One that cannot be used is put
/// aside and made anew; one that has grown far beyond what it holds is copied into a fresh one.
pub(super) fn open_index(
    files: &Files,
    opened: Option<Result<Index, IndexError>>,
    marks: &Marks,
    head: Head,
) -> Result<Index, ReplayError> {
    let open = || Index::open(&files.index, files.lock.clone());
    let brought_up = |index: Index| match replay(&index, &files.journal, marks, head) {
        Ok(()) => Ok(index),
        Err(error) => {
            index::close(index);
            Err(error)
        }
    };
    match opened.unwrap_or_else(open).map_err(ReplayError::from).and_then(brought_up) {
        Ok(index) if index.is_bloated()? => {
            let fresh = index::copy_aside(&index, &files.index);
            index::close(index);
            match fresh.and_then(|()| index::swap(&files.index)) {
                Ok(()) => tracing::info!("the index was copied into a fresh one, to give room back"),
                Err(error) => tracing::warn!(%error, "the index takes more room than it needs and could not be copied"),
            }
            brought_up(open()?)
        }
        Ok(index) => Ok(index),
        Err(error @ ReplayError::Journal(_)) => Err(error),
        Err(ReplayError::Index(error)) if error.is_passing() => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "the index is put aside and made anew from the journal");
            index::set_aside(&files.index, &error.to_string()).map_err(IndexError::from)?;
            brought_up(open()?)
        }
    }
}

fn replay(index: &Index, journal: &Path, marks: &Marks, head: Head) -> Result<(), ReplayError> {
    let applied = index.applied()?;
    if applied == head {
        return Ok(());
    }
    if applied.sequence > head.sequence {
        return Err(ReplayError::Disagrees(head.sequence + 1));
    }
    let base = if applied == Head::default() { checkpoint::newest(journal, u32::MAX)? } else { None };
    replay_from(index, journal, base.as_ref(), Some(marks), head, &AtomicBool::new(false))
}

/// Brings an index up to `head`: from where it is, or an empty one from a checkpoint.
pub(super) fn replay_from(
    index: &Index,
    journal: &Path,
    base: Option<&Checkpoint>,
    marks: Option<&Marks>,
    head: Head,
    stop: &AtomicBool,
) -> Result<(), ReplayError> {
    let mut from = index.applied()?;
    let mut walk = match (base, marks) {
        (Some(base), _) => {
            base.load(index)?;
            from = base.head;
            Walk::at_segment(journal, base.segment + 1)?
        }
        (None, Some(marks)) => Walk::near(journal, marks, from.sequence.max(1))?,
        (None, None) => Walk::from_start(journal)?,
    };
    if walk.head().sequence > from.sequence {
        return Err(JournalError::from(
            walk.damage_before("the records before it are gone, and no checkpoint stands for them"),
        )
        .into());
    }
    while walk.head().sequence < from.sequence {
        let Some(_) = walk.next()? else { return Err(ReplayError::Disagrees(from.sequence)) };
    }
    if walk.head() != from {
        return Err(ReplayError::Disagrees(from.sequence));
    }
    replay_after(index, walk, from, head, stop)
}

fn replay_after(
    index: &Index,
    mut walk: Walk,
    mut applied: Head,
    head: Head,
    stop: &AtomicBool,
) -> Result<(), ReplayError> {
    // Every record carries what decided.
    let options = QueueOptions::new(Arc::new(|| Timestamp::UNIX_EPOCH));
    let mut unfinished = Unfinished::default();
    while applied.sequence < head.sequence {
        if stop.load(Ordering::Relaxed) {
            return Err(ReplayError::Stopped);
        }
        let mut draft = Draft::new(Some(index), &mut unfinished, &options, applied);
        for _ in 0..RECORDS_PER_REPLAY_WRITE {
            if applied.sequence == head.sequence {
                break;
            }
            let damage = walk.damage_here();
            let Some(entry) = walk.next()? else { return Err(ReplayError::Disagrees(applied.sequence + 1)) };
            let record: QueueRecord =
                record::decode(&entry.payload).map_err(|error| JournalError::unreadable(damage.clone(), error))?;
            let folded = draft.fold(entry.head.sequence, record);
            if let Some(error) = draft.take_index_error() {
                return Err(error.into());
            }
            folded.map_err(|error| {
                let reason = format!("it cannot have happened: {error}");
                JournalError::from(Damage { reason, ..damage })
            })?;
            applied = entry.head;
        }
        index.write(&draft.finish().changes, applied)?;
    }
    Ok(())
}
