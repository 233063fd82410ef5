//! The queue: where tasks wait, and the only place that persists one.
//!
//! A request becomes a record of the [`journal`], durable before it is acknowledged; sled holds the index that answers
//! questions and can be rebuilt from the journal at any time. One thread writes (`commit`), in groups; each verb
//! decides on a draft of its group (`verbs`); what is unfinished is kept in memory too (`ready`), so that leasing and
//! renewing ask no disk. Nothing is polled: a waiting worker is woken by a change, or by the moment at which the next
//! task becomes due.

pub mod audit;
pub mod budget;
pub mod journal;
pub mod record;

mod checkpoint;
mod commit;
mod draft;
mod events;
mod frame;
mod grant;
mod index;
mod keys;
mod lock;
mod options;
mod pulls;
mod ready;
mod row;
mod surfaces;
mod turns;
mod verbs;
mod work;

use std::{
    collections::HashMap,
    fmt::Display,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread::JoinHandle,
};

use async_trait::async_trait;
use chrono::Duration;
use tasks::{
    Actor, Change, Code, DedupeKey, Evidence, Failure, Intake, Lease, Month, QueueError, Received, RepoName, Spending,
    Task, TaskEvent, TaskFilter, TaskId, TaskRequest, TaskState, Timestamp, WorkerName,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::{
    commit::{Committer, Files, MAX_WAITING, ReplayError, Step},
    draft::Draft,
    grant::Grant,
    index::{Index, IndexError},
    journal::{Hash, Head, Journal, JournalError, Marks},
    ready::Unfinished,
};
pub use self::{
    options::{Clock, PullLimits, QueueOptions, steady_clock},
    record::QueueRecord,
};

/// No wait is longer: neither the pauses between attempts nor what a forge asks for.
const LONGEST_WAIT: Duration = Duration::hours(2);

/// The queue of one data directory.
pub struct Queue {
    shared: Arc<Shared>,
    /// `None` once it is shutting down.
    steps: Mutex<Option<mpsc::Sender<Step>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

/// What the committer and the askers share.
struct Shared {
    options: QueueOptions,
    journal: PathBuf,
    marks: Marks,
    durable: watch::Sender<Durable>,
    /// Told whenever a task was queued, or made room for another one of its repository.
    ready: watch::Sender<()>,
    /// When each lease ends.
    leases: watch::Sender<HashMap<TaskId, Timestamp>>,
    index: RwLock<Option<Arc<Index>>>,
    /// Leases that never reached the worker that asked for them.
    returned: Mutex<Vec<Lease>>,
    stop: CancellationToken,
}

/// What is on disk.
#[derive(Debug, Clone, Copy)]
struct Durable {
    /// The last record.
    head: Head,
    /// The last event. `None`: there was none since the start.
    last_event: Option<u64>,
}

impl Shared {
    fn set_index(&self, index: Option<Arc<Index>>) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
    }

    fn returned(&self) -> Vec<Lease> {
        std::mem::take(&mut *locked(&self.returned))
    }
}

impl Queue {
    /// Opens the queue in `dir`, or makes one. Blocks: not for a thread of the async runtime.
    ///
    /// Tasks that were running keep their lease for one more term, so that a worker in another process can go on.
    ///
    /// # Errors
    /// E060: another process holds it (nothing was touched). E061: the journal is damaged (nothing was changed); the
    /// file, the place and the record are named. E062: it cannot be read or written.
    pub fn open(dir: &Path, options: QueueOptions) -> Result<Self, Failure> {
        let unavailable = |error: &dyn Display| {
            let message = format!("The task store in {} cannot be used: {error}", dir.display());
            Failure::new(Code::StoreUnavailable, message)
        };
        // Issues, prompts and outputs of private repositories lie in it.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| unavailable(&error))?;
        let lock = lock::take(dir)?;
        let files = Files {
            journal: dir.join("journal"),
            index: dir.join("index"),
            scratch: dir.join("checkpoint.scratch"),
            lock: Arc::new(lock),
        };

        let opened = Index::open(&files.index, files.lock.clone());
        let durable = opened.as_ref().ok().and_then(|index| index.applied().ok()).unwrap_or_default().sequence;
        let journal = match Journal::open(&files.journal, options.segment_bytes, durable) {
            Ok(journal) => journal,
            Err(error) => {
                index::close(opened);
                return Err(store_failure(dir, error.into()));
            }
        };
        let last = journal.head().sequence;
        if last < durable {
            index::close(opened);
            let message = format!(
                "The journal in {} ends at record {last}, and the index knows {durable} records of it",
                dir.display()
            );
            return Err(Failure::new(Code::StoreDamaged, message).next(
                "Put the journal back from a copy of the data directory; or, to go on without those records, move the \
                 directory index away.",
            ));
        }
        let index = commit::open_index(&files, Some(opened), &journal.marks(), journal.head())
            .map_err(|error| store_failure(dir, error))?;

        let mut unfinished = Unfinished::default();
        let now = (options.clock)();
        let (lasts_until, latest) = (now + options.lease, now + LONGEST_WAIT);
        for stored in index.unfinished().map_err(|error| store_failure(dir, error.into()))? {
            unfinished.put_recovered(stored, lasts_until, latest);
        }
        for pull in index.pulls().map_err(|error| store_failure(dir, error.into()))? {
            unfinished.recover_pull(&pull);
        }
        Self::start(options, files, journal, index, unfinished).map_err(|error| unavailable(&error))
    }

    fn start(
        options: QueueOptions,
        files: Files,
        journal: Journal,
        index: Index,
        unfinished: Unfinished,
    ) -> io::Result<Self> {
        let index = Arc::new(index);
        let shared = Arc::new(Shared {
            options: options.clone(),
            journal: files.journal.clone(),
            marks: journal.marks(),
            durable: watch::Sender::new(Durable { head: journal.head(), last_event: None }),
            ready: watch::Sender::new(()),
            leases: watch::Sender::new(unfinished.leases()),
            index: RwLock::new(Some(index.clone())),
            returned: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let index = Some(index);
        let committer = Committer {
            shared: shared.clone(),
            options,
            files,
            journal,
            index,
            unfinished,
            repaired_at: None,
            making: None,
            made: None,
            covered: 0,
            steps: sender.downgrade(),
            closing: Arc::default(),
        };
        let thread = std::thread::Builder::new().name("queue".to_owned()).spawn(move || committer.run(receiver))?;
        Ok(Self { shared, steps: Mutex::new(Some(sender)), committer: Mutex::new(Some(thread)) })
    }

    /// Ends it: who waits for a task is sent away, what was asked is made durable and answered, the files are closed.
    pub async fn shutdown(&self) {
        if let Some(thread) = self.close() {
            // A panic of the thread was reported by whoever waited for an answer.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn close(&self) -> Option<JoinHandle<()>> {
        self.shared.stop.cancel();
        locked(&self.steps).take();
        locked(&self.committer).take()
    }

    /// One task for a worker, if one is ready now: [`tasks::WorkQueue::lease`] without the waiting.
    ///
    /// # Errors
    /// As for [`tasks::WorkQueue::lease`].
    pub async fn lease_once(&self, worker: &WorkerName) -> Result<Option<(Task, Lease)>, QueueError> {
        Ok(self.grant(worker).await?.map(Grant::take).ok().flatten())
    }

    async fn grant(&self, worker: &WorkerName) -> Result<Result<Grant, Option<Timestamp>>, QueueError> {
        let (worker, now, lasts) = (worker.clone(), self.now(), self.shared.options.lease);
        let shared = self.shared.clone();
        let steps = self.steps()?.downgrade();
        self.submit(move |draft| {
            let leased = verbs::lease(draft, worker, lasts, now)?;
            Ok(leased.map(|granted| Grant { granted: Some(granted), shared, steps }))
        })
        .await
    }

    /// Ends all leases of a worker that is known to be gone, such as this process's own in its former life.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when it could not be made durable.
    pub async fn release_worker(&self, worker: &WorkerName) -> Result<Vec<TaskId>, QueueError> {
        let (worker, now) = (worker.clone(), self.now());
        self.submit(move |draft| verbs::release_worker(draft, &worker, now)).await
    }

    /// Ends all leases that have run out by `now`.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when it could not be made durable.
    pub async fn expire_leases(&self, now: Timestamp) -> Result<Vec<TaskId>, QueueError> {
        self.submit(move |draft| verbs::expire(draft, now)).await
    }

    /// When each lease ends, now and after every change.
    pub fn leases(&self) -> watch::Receiver<HashMap<TaskId, Timestamp>> {
        self.shared.leases.subscribe()
    }

    /// Takes note that somebody did something with the open pull request of a task, at this moment.
    ///
    /// # Errors
    /// [`QueueError::InvalidTransition`] when it has none.
    pub async fn notice(&self, task: TaskId, at: Timestamp) -> Result<(), QueueError> {
        self.submit(move |draft| draft.apply(task, TaskEvent::Noticed, at)).await
    }

    /// Takes note that it was said on the open pull request of a task that nobody does anything with it.
    ///
    /// # Errors
    /// [`QueueError::InvalidTransition`] when it has none.
    pub async fn found_stale(&self, task: TaskId, now: Timestamp) -> Result<(), QueueError> {
        self.submit(move |draft| draft.apply(task, TaskEvent::FoundStale, now)).await
    }

    /// What the last attempt that reached verification has to show.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] while the index is being repaired.
    pub async fn evidence(&self, task: TaskId) -> Result<Option<Evidence>, QueueError> {
        self.ask(move |index| index.evidence(task)).await
    }

    /// The task that opened a pull request.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] while the index is being repaired.
    pub async fn task_of_pull_request(&self, repo: &RepoName, number: u64) -> Result<Option<TaskId>, QueueError> {
        let repo = repo.clone();
        self.ask(move |index| index.task_of_pull_request(&repo, number)).await
    }

    /// At most `limit` events after a sequence, oldest first.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when the journal cannot be read.
    pub async fn events_after(&self, after: u64, limit: usize) -> Result<Vec<(u64, QueueRecord)>, QueueError> {
        let (shared, until) = (self.shared.clone(), self.shared.durable.borrow().head.sequence);
        let read = move || events::read(&shared, after, until, limit);
        let events = tokio::task::spawn_blocking(read).await.map_err(|error| unavailable(&error))?;
        events.map_err(|error| unavailable(&error))
    }

    /// Waits until there is an event after this sequence.
    ///
    /// # Errors
    /// [`QueueError::ShuttingDown`], and as for [`Queue::events_after`].
    pub async fn wait_for_event(&self, after: u64) -> Result<(), QueueError> {
        let mut durable = self.shared.durable.subscribe();
        loop {
            let last_event = durable.borrow_and_update().last_event;
            let is_there = match last_event {
                Some(last) => last > after,
                None => !self.events_after(after, 1).await?.is_empty(),
            };
            if is_there {
                return Ok(());
            }
            tokio::select! {
                () = self.shared.stop.cancelled() => return Err(QueueError::ShuttingDown),
                changed = durable.changed() => changed.map_err(|_| QueueError::ShuttingDown)?,
            }
        }
    }

    /// How far a reader of events has come; 0 for one that is new.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] while the index is being repaired.
    pub async fn cursor(&self, name: &str) -> Result<u64, QueueError> {
        let name = name.to_owned();
        Ok(self.ask(move |index| index.cursor(&name)).await?.unwrap_or(0))
    }

    /// Notes that a reader has dealt with everything up to `sequence`. Durable like everything else.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when it could not be made durable.
    pub async fn set_cursor(&self, name: &str, sequence: u64) -> Result<(), QueueError> {
        let name = name.to_owned();
        self.submit(move |draft| draft.stage(QueueRecord::CursorMoved { name, sequence })).await
    }

    /// The last durable record, and the hash that stands for the whole journal up to it.
    pub fn journal_head(&self) -> (u64, Hash) {
        let head = self.shared.durable.borrow().head;
        (head.sequence, head.hash)
    }

    /// What every account used in a month, what attempts that run may use in addition, and who waits for it.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] while the index is being repaired.
    pub async fn spending(&self, month: Month) -> Result<Vec<Spending>, QueueError> {
        let budgets = self.shared.options.budgets.clone();
        self.ask(move |index| budget::spending(index, &budgets, month)).await
    }

    fn now(&self) -> Timestamp {
        (self.shared.options.clock)()
    }

    fn steps(&self) -> Result<mpsc::Sender<Step>, QueueError> {
        locked(&self.steps).clone().ok_or(QueueError::ShuttingDown)
    }

    /// Has the committer decide, and returns when what was decided is durable.
    async fn submit<T, F>(&self, decide: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft<'_>) -> Result<T, QueueError> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let step: Step = Box::new(move |draft| {
            let decided = decide(draft);
            Box::new(move |durable| {
                let told = durable.map_err(|reason| QueueError::Unavailable(reason.to_owned()));
                // Whoever asked may be gone; then nobody needs to hear it.
                let _ = sender.send(told.and(decided));
            })
        });
        self.steps()?.send(step).await.map_err(|_| QueueError::ShuttingDown)?;
        answer.await.map_err(|_| QueueError::Unavailable("a defect in the queue; see the log".to_owned()))?
    }

    async fn ask<T, F>(&self, question: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&Index) -> Result<T, IndexError> + Send + 'static,
    {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(index) = index else {
            let stopped = self.shared.stop.is_cancelled();
            return Err(if stopped { QueueError::ShuttingDown } else { unavailable(&IndexError::Away) });
        };
        let answer =
            tokio::task::spawn_blocking(move || question(&index)).await.map_err(|error| unavailable(&error))?;
        answer.map_err(|error| unavailable(&error))
    }

    /// A lease ends when the last renewal says, which the index does not know.
    fn with_expiry(&self, mut task: Task) -> Task {
        if let TaskState::Running { lease, .. } = &mut task.state
            && let Some(at) = self.shared.leases.borrow().get(&task.id)
        {
            lease.expires_at = *at;
        }
        task
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Some(thread) = self.close() {
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Intake for Queue {
    async fn enqueue(&self, request: TaskRequest) -> Result<Received, QueueError> {
        let now = self.now();
        self.submit(move |draft| verbs::enqueue(draft, request, now)).await
    }

    async fn cancel(&self, task: TaskId, by: Actor) -> Result<(), QueueError> {
        let now = self.now();
        self.submit(move |draft| verbs::cancel(draft, task, by, now)).await
    }

    async fn finish(&self, task: TaskId, by: Actor) -> Result<(), QueueError> {
        let now = self.now();
        self.submit(move |draft| verbs::finish(draft, task, by, now)).await
    }

    async fn requeue(&self, task: TaskId) -> Result<(), QueueError> {
        let now = self.now();
        self.submit(move |draft| verbs::requeue(draft, task, now)).await
    }

    async fn observe(&self, key: DedupeKey, change: Change) -> Result<(), QueueError> {
        let now = self.now();
        self.submit(move |draft| verbs::observe(draft, key, change, now)).await
    }

    async fn get(&self, task: TaskId) -> Result<Option<Task>, QueueError> {
        let stored = self.ask(move |index| index.task(task)).await?;
        Ok(stored.map(|stored| self.with_expiry(stored.task)))
    }

    async fn list(&self, filter: TaskFilter) -> Result<Vec<Task>, QueueError> {
        let tasks = self.ask(move |index| index.list(&filter)).await?;
        Ok(tasks.into_iter().map(|task| self.with_expiry(task)).collect())
    }
}

/// For ever, when there is nothing to wait for.
pub(crate) async fn sleep_until(at: Option<Timestamp>, now: Timestamp) {
    match at {
        Some(at) => tokio::time::sleep((at - now).to_std().unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

fn store_failure(dir: &Path, error: ReplayError) -> Failure {
    let code = match &error {
        ReplayError::Journal(JournalError::Damaged(_)) => Code::StoreDamaged,
        ReplayError::Journal(JournalError::Newer { .. }) => Code::StoreNewer,
        ReplayError::Journal(JournalError::Io(_))
        | ReplayError::Index(_)
        | ReplayError::Disagrees(_)
        | ReplayError::Stopped => Code::StoreUnavailable,
    };
    Failure::new(code, format!("The task store in {} cannot be used: {error}", dir.display()))
}

fn unavailable(error: &dyn Display) -> QueueError {
    QueueError::Unavailable(error.to_string())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
