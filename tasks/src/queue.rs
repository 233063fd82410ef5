//! The two sides of the queue: the door puts in ([`Intake`]), the hands take out ([`WorkQueue`]).

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    chat::Said,
    evidence::Evidence,
    failure::Failure,
    ledger::Usage,
    repo::{BranchName, CommitSha, RepoName, string_newtype},
    state::{Outcome, Stage},
    task::{Actor, DedupeKey, Task, TaskId, TaskRequest},
};

string_newtype!(
    /// The name of a worker, unique among the workers of one queue.
    WorkerName,
    "a worker name (letters, digits, dots, hyphens and underscores)",
    |value| !value.is_empty()
        && value.len() <= 100
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
);

/// The right to work on a task. Every write of a worker carries it; one that is not the task's current lease is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// The task.
    pub task: TaskId,
    /// Who holds it.
    pub worker: WorkerName,
    /// The fencing token.
    pub attempt: u32,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
}

/// The last word of a worker about one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Report {
    /// It ended with a verdict.
    Finished {
        /// Which.
        outcome: Outcome,
        /// What was verified, where the attempt got that far.
        evidence: Option<Box<Evidence>>,
        /// What the attempt used. `None`: it was not measured, which counts as all that was reserved for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        used: Option<Usage>,
    },
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
        /// The results of the checks, where the attempt got that far.
        evidence: Option<Box<Evidence>>,
        /// What the attempt used, as above.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        used: Option<Usage>,
    },
    /// The worker gives it back unharmed, for another one.
    Released {
        /// What the attempt used, as above.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        used: Option<Usage>,
    },
}

impl Report {
    /// What the attempt used; `None`: it was not measured.
    pub fn used(&self) -> Option<&Usage> {
        match self {
            Self::Finished { used, .. } | Self::Failed { used, .. } | Self::Released { used } => used.as_ref(),
        }
    }
}

/// What the forge told about the outside world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// A pull request was merged.
    PullRequestMerged {
        /// Where.
        repo: RepoName,
        /// Which.
        number: u64,
    },
    /// A pull request was closed without merging.
    PullRequestClosed {
        /// Where.
        repo: RepoName,
        /// Which.
        number: u64,
    },
    /// A closed pull request was opened again.
    PullRequestReopened {
        /// Where.
        repo: RepoName,
        /// Which.
        number: u64,
    },
    /// The label was taken off, or the issue closed: whatever is unfinished for it stops.
    IssueWithdrawn {
        /// Where.
        repo: RepoName,
        /// Which issue.
        issue: u64,
        /// Who did it.
        by: Actor,
    },
    /// Somebody asked for something in a comment. Whether they may is asked before anything is done.
    Asked(Box<Asked>),
    /// Somebody submitted a review that wants changes.
    Reviewed {
        /// Where.
        repo: RepoName,
        /// The number of the pull request.
        number: u64,
        /// The id of the review.
        review: u64,
        /// Who.
        by: Actor,
        /// Whether it asks for changes whatever it says; otherwise only one that names Onramp counts.
        wants_changes: bool,
        /// What it says as a whole.
        body: String,
    },
    /// The forge's own checks failed on a commit.
    ChecksFailed {
        /// Where.
        repo: RepoName,
        /// The pull requests that the forge names with it.
        numbers: Vec<u64>,
        /// The commit.
        head: CommitSha,
    },
    /// Somebody said or did something in a chat.
    Said(Box<Said>),
    /// Somebody said something on a pull request, or approved it: nothing that asks for work, but it was noticed.
    Noticed {
        /// Where.
        repo: RepoName,
        /// Which pull request.
        number: u64,
    },
    /// A branch moved, which may be the base of pull requests.
    BranchMoved {
        /// Where.
        repo: RepoName,
        /// Which.
        branch: BranchName,
    },
}

/// What somebody asked for in a comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Asked {
    /// Where.
    pub repo: RepoName,
    /// The number of the issue or pull request.
    pub number: u64,
    /// Whether it is a pull request.
    pub on_pull_request: bool,
    /// Whether it is open.
    pub is_open: bool,
    /// Its title.
    pub title: String,
    /// Its text, as it was when this was asked.
    pub body: String,
    /// The id of the comment; none where a button was pressed.
    pub comment: Option<u64>,
    /// When, in the forge's time; none where there is nothing else that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discussed_until: Option<Timestamp>,
    /// Who asked.
    pub by: Actor,
    /// What for.
    pub command: Command,
}

/// What can be asked for in a comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "word", rename_all = "snake_case")]
pub enum Command {
    /// Work: what the text says, or the issue where it says nothing.
    Run {
        /// The text after the word.
        text: String,
    },
    /// Try again what failed.
    Retry,
    /// Stop what waits or runs.
    Stop,
    /// Wrap up with what is there.
    Finish,
    /// Bring a pull request up to its base branch and verify again.
    Rebase,
    /// Say where it stands.
    Status,
    /// Say what can be asked.
    Help,
}

impl Command {
    /// The word that asks for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Run { .. } => "run",
            Self::Retry => "retry",
            Self::Stop => "stop",
            Self::Finish => "finish",
            Self::Rebase => "rebase",
            Self::Status => "status",
            Self::Help => "help",
        }
    }
}

impl Change {
    /// Where it happened, if it is known which repository it is about.
    pub fn repo(&self) -> Option<&RepoName> {
        match self {
            Self::Asked(asked) => Some(&asked.repo),
            Self::Reviewed { repo, .. } | Self::ChecksFailed { repo, .. } | Self::BranchMoved { repo, .. } => {
                Some(repo)
            }
            Self::PullRequestMerged { repo, .. }
            | Self::PullRequestClosed { repo, .. }
            | Self::PullRequestReopened { repo, .. }
            | Self::Noticed { repo, .. }
            | Self::IssueWithdrawn { repo, .. } => Some(repo),
            Self::Said(_) => None,
        }
    }

    /// Its name.
    pub fn word(&self) -> &'static str {
        match self {
            Self::PullRequestMerged { .. } => "pull_request_merged",
            Self::PullRequestClosed { .. } => "pull_request_closed",
            Self::PullRequestReopened { .. } => "pull_request_reopened",
            Self::IssueWithdrawn { .. } => "issue_withdrawn",
            Self::Asked(_) => "asked",
            Self::Reviewed { .. } => "reviewed",
            Self::ChecksFailed { .. } => "checks_failed",
            Self::Noticed { .. } => "noticed",
            Self::BranchMoved { .. } => "branch_moved",
            Self::Said(_) => "said",
        }
    }
}

/// The answer to a request that is now durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A new task.
    New(TaskId),
    /// The dedupe key was known: the task that it made.
    Known(TaskId),
}

impl Received {
    /// The task, new or known.
    pub fn id(self) -> TaskId {
        match self {
            Self::New(id) | Self::Known(id) => id,
        }
    }
}

/// Which tasks to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only this repository.
    pub repo: Option<RepoName>,
    /// Only tasks that are queued or running.
    pub unfinished: bool,
    /// Only tasks that are older than this one.
    pub before: Option<TaskId>,
    /// At most so many; `None`: all.
    pub limit: Option<usize>,
}

/// Why the queue did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The lease is not the task's current one: stop working, write nothing more.
    #[error("the lease on task {task} (attempt {attempt}) is no longer valid")]
    StaleLease {
        /// The task.
        task: TaskId,
        /// The attempt that came too late.
        attempt: u32,
    },
    /// No such task.
    #[error("there is no task {0}")]
    UnknownTask(TaskId),
    /// It was to be put back, and this task is at work on the same issue.
    #[error("task {0} is at work on the same issue")]
    AlreadyAtWork(TaskId),
    /// It was told something, and nobody is at work on it any more.
    #[error("task {0} has ended")]
    HasEnded(TaskId),
    /// The task is in a state that does not allow it.
    #[error(transparent)]
    InvalidTransition(#[from] crate::state::InvalidTransition),
    /// The store cannot take writes just now (disk full, fsync error); nothing was acknowledged. Try again later.
    #[error("the task store cannot take writes: {0}")]
    Unavailable(String),
    /// The queue is shutting down.
    #[error("the queue is shutting down")]
    ShuttingDown,
}

/// The door's side. Every method that changes something returns only after the change is durable.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Stores a request. Idempotent by [`TaskRequest::dedupe_key`], which is written in the same record as the task.
    async fn enqueue(&self, request: TaskRequest) -> Result<Received, QueueError>;
    /// Asks for a task to stop. Idempotent.
    async fn cancel(&self, task: TaskId, by: Actor) -> Result<(), QueueError>;
    /// Asks for a running task to end with what is there; one that waits is left to run. Idempotent.
    async fn finish(&self, task: TaskId, by: Actor) -> Result<(), QueueError>;
    /// Puts a failed, rejected, empty or cancelled task back into the queue.
    async fn requeue(&self, task: TaskId) -> Result<(), QueueError>;
    /// Takes note of what happened outside. Idempotent by `key`; what matches no task is forgotten.
    async fn observe(&self, key: DedupeKey, change: Change) -> Result<(), QueueError>;
    /// One task.
    async fn get(&self, task: TaskId) -> Result<Option<Task>, QueueError>;
    /// Many tasks, newest first.
    async fn list(&self, filter: TaskFilter) -> Result<Vec<Task>, QueueError>;
}

/// What a renewal tells the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Renewal {
    /// Go on; the lease now ends at this moment.
    Held(Timestamp),
    /// Somebody asked for the task to stop. The lease is still held for the way out.
    CancelRequested(Timestamp),
    /// Somebody asked for it to end with what is there.
    FinishRequested(Timestamp),
}

/// The hands' side.
#[async_trait]
pub trait WorkQueue: Send + Sync {
    /// Waits until a task is ready and takes it. Fair over repositories; oldest first within one.
    async fn lease(&self, worker: &WorkerName) -> Result<(Task, Lease), QueueError>;
    /// Keeps a lease alive and tells how far the work is.
    async fn renew(&self, lease: &Lease, stage: Stage) -> Result<Renewal, QueueError>;
    /// The last word on an attempt. Idempotent for the same lease and report.
    async fn report(&self, lease: &Lease, report: Report) -> Result<(), QueueError>;
}
