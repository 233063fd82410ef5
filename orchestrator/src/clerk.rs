//! Acts on what people ask for in comments and reviews, on checks that failed, and on a base branch that moved.
//!
//! The door stores such things without asking anybody. Here each is taken up in its order: the forge is asked whether the
//! person may, and then the queue does it. The durable cursor moves only past what was dealt with, and every act may be
//! repeated: requests carry the key of the delivery that they come from. What the forge cannot answer now is asked again
//! later, and later things of the same issue or pull request wait for it; no error ever means yes.

mod help;
mod wishes;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::Duration;
use tasks::{Change, DedupeKey, Failure, QueueError, RepoName, Task, TaskEvent, TaskId, Timestamp};
use tokio_util::sync::CancellationToken;
use workers::forge::Forge;

use crate::{
    notify,
    queue::{Clock, Queue, QueueRecord},
    reader::Reader,
};

/// The wait after the first time that the forge did not answer; doubles up to the cap.
const RETRY_BASE: Duration = Duration::seconds(5);
const RETRY_CAP: Duration = Duration::minutes(15);
/// After so many tries (two days, by then) it is given up.
const MAX_TRIES: u32 = 200;

/// What the operator decides.
#[derive(Debug, Clone)]
pub struct ClerkOptions {
    /// How often failed checks of the forge may start work on one pull request by themselves.
    pub check_rounds: usize,
    /// Open pull requests are brought up to their base branch when that moves.
    pub follow_base: bool,
    /// The branch of a pull request is deleted when that was merged or closed.
    pub delete_branches: bool,
    /// The logins that mean Onramp, for the help.
    pub names: Vec<String>,
}

impl Default for ClerkOptions {
    fn default() -> Self {
        Self { check_rounds: 2, follow_base: false, delete_branches: true, names: vec!["onramp".to_owned()] }
    }
}

/// Who takes up what was asked.
pub struct Clerk {
    queue: Arc<Queue>,
    forge: Arc<dyn Forge>,
    clock: Clock,
    options: ClerkOptions,
    reader: Reader,
    /// Only one pass at a time.
    pass: tokio::sync::Mutex<()>,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// What is not dealt with, by its place in the journal.
    open: BTreeMap<u64, Matter>,
}

/// One thing to be dealt with.
#[derive(Debug, Clone)]
struct Matter {
    what: What,
    not_before: Timestamp,
    tries: u32,
}

#[derive(Debug, Clone)]
enum What {
    /// Something was told by the forge, in the delivery of this key.
    Told { key: DedupeKey, change: Change },
    /// A task has ended.
    Ended { task: TaskId },
}

/// Why something is not dealt with.
#[derive(Debug)]
enum Trouble {
    Store(QueueError),
    Forge(Failure),
}

impl From<QueueError> for Trouble {
    fn from(error: QueueError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Forge(failure)
    }
}

impl Clerk {
    /// A clerk of this queue.
    pub fn new(queue: Arc<Queue>, forge: Arc<dyn Forge>, clock: Clock, options: ClerkOptions) -> Self {
        let reader = Reader::new(queue.clone(), "clerk");
        Self { queue, forge, clock, options, reader, pass: tokio::sync::Mutex::default(), memory: Mutex::default() }
    }

    /// Deals with what there is to deal with now. Returns how many things were dealt with.
    ///
    /// # Errors
    /// When the queue cannot be read or written. A failure of the forge is no error: it is tried again later.
    pub async fn work_once(&self, now: Timestamp) -> Result<usize, QueueError> {
        let _pass = self.pass.lock().await;
        self.reader.read(|sequence, record| self.take(sequence, record, now)).await?;
        let mut n_done = 0;
        let mut waiting: Vec<(RepoName, u64)> = Vec::new();
        let open: Vec<_> = self.memory().open.iter().map(|(at, matter)| (*at, matter.clone())).collect();
        for (at, matter) in open {
            let thread = matter.what.thread();
            let comes_later = thread.as_ref().is_some_and(|thread| waiting.contains(thread));
            if comes_later || matter.not_before > now {
                waiting.extend(thread);
                continue;
            }
            match self.deal_with(&matter.what).await {
                Ok(()) => {
                    self.memory().open.remove(&at);
                    n_done += 1;
                }
                Err(Trouble::Store(error @ (QueueError::Unavailable(_) | QueueError::ShuttingDown))) => {
                    return Err(error);
                }
                // What it was about is gone or has moved on meanwhile.
                Err(Trouble::Store(error)) => {
                    tracing::info!(%error, "what was asked does not fit any more");
                    self.memory().open.remove(&at);
                }
                Err(Trouble::Forge(failure)) => {
                    waiting.extend(thread);
                    self.postpone(at, matter, &failure, now);
                }
            }
        }
        let oldest = self.memory().open.keys().next().copied();
        self.reader.settle(oldest).await?;
        Ok(n_done)
    }

    /// Works until told to stop: woken by events, and by the moments at which something is to be tried again.
    pub async fn run(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let now = (self.clock)();
            // What is left half done is found again from the cursor, and every act may be repeated.
            let worked = tokio::select! {
                () = shutdown.cancelled() => return,
                worked = self.work_once(now) => worked,
            };
            if !self.reader.wait(worked.map(|_| self.next_due(now)), &shutdown).await {
                return;
            }
        }
    }

    fn take(&self, sequence: u64, record: QueueRecord, now: Timestamp) {
        if let Some(what) = What::of(record) {
            self.memory().open.insert(sequence, Matter { what, not_before: now, tries: 0 });
        }
    }

    async fn deal_with(&self, what: &What) -> Result<(), Trouble> {
        match what {
            What::Ended { task } => self.follow_up(*task).await,
            What::Told { key, change } => match change {
                Change::Asked(asked) => self.asked(key, asked).await,
                Change::Reviewed { repo, number, review, by, wants_changes, body } => {
                    let review = wishes::Review { repo, number: *number, id: *review, by, body };
                    self.reviewed(key, review, *wants_changes).await
                }
                Change::ChecksFailed { repo, numbers, head } => self.checks_failed(repo, numbers, head).await,
                Change::BranchMoved { repo, branch } => self.branch_moved(key, repo, branch).await,
                Change::PullRequestMerged { repo, number } | Change::PullRequestClosed { repo, number } => {
                    self.branch_done(repo, *number).await
                }
                Change::Said(_)
                | Change::PullRequestReopened { .. }
                | Change::IssueWithdrawn { .. }
                | Change::Noticed { .. } => Ok(()),
            },
        }
    }

    fn postpone(&self, at: u64, matter: Matter, failure: &Failure, now: Timestamp) {
        let mut memory = self.memory();
        if !notify::is_transient(failure) || matter.tries >= MAX_TRIES {
            tracing::warn!(%failure, "what was asked is not taken up: the forge does not say that it may be");
            memory.open.remove(&at);
            return;
        }
        let wait = (RETRY_BASE * (1 << matter.tries.min(8))).min(RETRY_CAP);
        let not_before = failure.retry_not_before.map_or(now + wait, |at| at.max(now + wait));
        tracing::warn!(%failure, tries = matter.tries + 1, "what was asked waits for the forge");
        memory.open.insert(at, Matter { not_before, tries: matter.tries + 1, ..matter });
    }

    fn next_due(&self, now: Timestamp) -> Option<Duration> {
        let next = self.memory().open.values().map(|matter| matter.not_before).min()?;
        Some(next - now)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl What {
    /// What an event asks of a clerk, if anything.
    fn of(record: QueueRecord) -> Option<Self> {
        match record {
            QueueRecord::Observed { key, change, .. } => match change {
                Change::Asked(_)
                | Change::Reviewed { .. }
                | Change::ChecksFailed { .. }
                | Change::BranchMoved { .. }
                | Change::PullRequestMerged { .. }
                | Change::PullRequestClosed { .. } => Some(Self::Told { key, change }),
                Change::Said(_)
                | Change::PullRequestReopened { .. }
                | Change::IssueWithdrawn { .. }
                | Change::Noticed { .. } => None,
            },
            QueueRecord::Applied {
                task, event: TaskEvent::Finished { .. } | TaskEvent::AttemptFailed { .. }, ..
            } => Some(Self::Ended { task }),
            QueueRecord::Enqueued { .. }
            | QueueRecord::Joined { .. }
            | QueueRecord::Applied { .. }
            | QueueRecord::Checkpointed { .. }
            | QueueRecord::CursorMoved { .. } => None,
        }
    }

    /// The issue or pull request that it is about: what is said there is taken up in order.
    fn thread(&self) -> Option<(RepoName, u64)> {
        match self {
            Self::Told { change: Change::Asked(asked), .. } => Some((asked.repo.clone(), asked.number)),
            Self::Told { change: Change::Reviewed { repo, number, .. }, .. } => Some((repo.clone(), *number)),
            Self::Told { .. } | Self::Ended { .. } => None,
        }
    }
}

/// Whether a task belongs to this issue or pull request: it was asked there, or its pull request is it.
fn belongs(task: &Task, number: u64) -> bool {
    task.request.source.thread() == Some(number)
        || task.state.pull_request().is_some_and(|pull_request| pull_request.number == number)
}
