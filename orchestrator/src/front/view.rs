//! A task as surfaces show it. These shapes are promised to programs: fields are added and never change their meaning.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tasks::{
    Actor, AgentName, BranchName, Code, Deliver, Evidence, Failure, FailureKind, Note, Outcome, Priority, PullRequest,
    RepoName, Stage, Task, TaskEvent, TaskId, TaskState, Timestamp, TokenUsage, Usage, Violation, WorkerName,
    task::BRANCH_PATTERN,
};

use super::files::Artifact;
use crate::queue::QueueRecord;

/// A page of tasks, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<TaskView>,
    /// The cursor of the next page; `null`: this is the last one.
    pub next: Option<String>,
}

/// Whose doing it is that a task did not come to a pull request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The change, the repository or its configuration: a failure.
    Theirs,
    /// Onramp, its machines or the network: an error.
    Ours,
}

impl Fault {
    /// Whose doing this kind of failure is.
    pub fn of(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Infrastructure | FailureKind::LeaseExpired => Self::Ours,
            FailureKind::Timeout
            | FailureKind::Budget
            | FailureKind::Agent
            | FailureKind::Verification
            | FailureKind::Configuration => Self::Theirs,
        }
    }
}

/// A task in a list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// The last eight digits of the id, for people.
    pub short: String,
    /// Where it stands, by the word that every surface uses: `queued`, `preparing`, `running`, `verifying`, `publishing`,
    /// `done`, `merged`, `closed`, `no_changes`, `rejected`, `failed`, `stopped`.
    pub state: String,
    /// Whether work is still to be done.
    pub unfinished: bool,
    /// Why it waits, in one line; `null` when it does not.
    pub waits: Option<String>,
    /// Somebody asked for it to stop, and it is on its way out.
    pub stopping: bool,
    /// Somebody asked for it to end with what is there.
    pub finishing: bool,
    /// The repository.
    pub repo: RepoName,
    /// The issue or pull request where it was asked.
    pub number: Option<u64>,
    /// What was asked, in one line.
    pub title: String,
    /// Who asked.
    pub requester: String,
    /// Where it was asked: `issue_labelled`, `comment`, `review`, `api`, ...
    pub source: String,
    /// The agent that was asked for; `null`: the configured one.
    pub agent: Option<AgentName>,
    /// Which tasks go before it and after it.
    pub priority: Priority,
    /// How often it was taken up.
    pub attempt: u32,
    /// How often an attempt failed.
    pub failures: u32,
    /// How often its worker vanished.
    pub crashes: u32,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// What it came to.
    pub pull_request: Option<PullRequest>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Whose doing that is.
    pub fault: Option<Fault>,
    /// What the agent said of its tokens in the last attempt that reached verification; `null` within: it did not say.
    pub usage: Option<TokenUsage>,
}

impl TaskView {
    pub(super) fn new(task: &Task, waits: Option<String>, evidence: Option<&Evidence>) -> Self {
        let Task { id, request, state, .. } = task;
        let failure = match state {
            TaskState::Failed { failure } => Some(failure.clone()),
            _ => None,
        };
        let fault = match state {
            TaskState::Failed { failure } => Some(Fault::of(failure.kind)),
            TaskState::Rejected { .. } | TaskState::NoChanges => Some(Fault::Theirs),
            _ => None,
        };
        Self {
            id: *id,
            short: id.short(),
            state: state.word().to_owned(),
            unfinished: state.is_unfinished(),
            waits,
            stopping: task.cancel_requested.is_some() && state.is_unfinished(),
            finishing: task.finish_requested.is_some() && state.is_unfinished(),
            repo: request.repo.clone(),
            number: request.source.thread(),
            title: request.instruction.title.clone(),
            requester: request.actor.login.clone(),
            source: request.source.word().to_owned(),
            agent: request.agent.clone(),
            priority: task.priority,
            attempt: task.attempt,
            failures: task.failures,
            crashes: task.crashes,
            created_at: task.created_at,
            updated_at: task.updated_at,
            pull_request: state.pull_request().cloned(),
            failure,
            fault,
            usage: evidence.map(|evidence| evidence.usage),
        }
    }
}

/// A task with everything that there is to say about it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TaskDetail {
    /// As in lists.
    #[serde(flatten)]
    pub task: TaskView,
    /// What was asked below the title.
    pub body: String,
    /// Whether the text counts as an instruction of somebody who may write; otherwise it is quoted to the agent as a report.
    pub trusted: bool,
    /// The branch that it starts from; `null`: the default branch.
    pub base: Option<BranchName>,
    /// The branch that carries the change; until there is a pull request, the name that it has where its repository does not
    /// name branches otherwise.
    pub branch: BranchName,
    /// What it ends in when all goes well.
    pub deliver: Deliver,
    /// The pull request that it changes further.
    pub revises: Option<u64>,
    /// What was said since, oldest first.
    pub notes: Vec<Note>,
    /// How many of the notes the last attempt was shown.
    pub n_notes_seen: usize,
    /// Who asked for it to stop.
    pub cancel_requested: Option<Actor>,
    /// The worker that holds it, and until when unless it renews.
    pub worker: Option<WorkerName>,
    /// When that ends.
    pub lease_until: Option<Timestamp>,
    /// How far it is, while it runs.
    pub stage: Option<Stage>,
    /// What its attempts used that have ended.
    pub used: Usage,
    /// What policy had against it.
    pub violations: Vec<Violation>,
    /// What the last attempt that reached verification has to show.
    pub evidence: Option<Evidence>,
    /// What its attempts left behind.
    pub artifacts: Vec<Artifact>,
}

impl TaskDetail {
    pub(super) fn new(task: Task, view: TaskView, evidence: Option<Evidence>, artifacts: Vec<Artifact>) -> Self {
        let branch = task.state.pull_request().map_or_else(|| task.branch(BRANCH_PATTERN), |pull| pull.branch.clone());
        let (worker, lease_until, stage) = match &task.state {
            TaskState::Running { lease, stage } => (Some(lease.worker.clone()), Some(lease.expires_at), Some(*stage)),
            _ => (None, None, None),
        };
        let violations = match task.state {
            TaskState::Rejected { violations } => violations,
            _ => Vec::new(),
        };
        Self {
            task: view,
            branch,
            body: task.request.instruction.body,
            trusted: task.request.instruction.trusted,
            base: task.request.base,
            deliver: task.request.deliver,
            revises: task.request.revises,
            notes: task.notes,
            used: task.used,
            n_notes_seen: task.n_notes_seen,
            cancel_requested: task.cancel_requested,
            worker,
            lease_until,
            stage,
            violations,
            evidence,
            artifacts,
        }
    }
}

/// One thing that happened to a task.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// Its place in the journal; only grows.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// What: `enqueued`, `joined`, `leased`, `stage_reached`, `finished`, `attempt_failed`, `requeued`, ...
    pub event: String,
    /// A few words more, where there are any: the stage, the worker, the reason.
    pub detail: Option<String>,
}

impl EventView {
    pub(super) fn of(sequence: u64, record: &QueueRecord) -> Option<Self> {
        let (at, event) = (record.at()?, record.word().to_owned());
        Some(Self { sequence, at, event, detail: detail(record) })
    }
}

fn detail(record: &QueueRecord) -> Option<String> {
    match record {
        QueueRecord::Joined { note: Some(note), .. } if !note.text.is_empty() => {
            Some(format!("{}: {}", note.actor.login, note.text))
        }
        QueueRecord::Applied { event, .. } => match event {
            TaskEvent::Leased { lease } => Some(format!("attempt {}, by {}", lease.attempt, lease.worker)),
            TaskEvent::StageReached { stage } => Some(stage.word().to_owned()),
            TaskEvent::AttemptFailed { failure } | TaskEvent::Refused { failure } => Some(failure.to_string()),
            TaskEvent::CancelRequested { by } | TaskEvent::FinishRequested { by } => Some(format!("by {}", by.login)),
            TaskEvent::Finished { outcome } => Some(match outcome {
                Outcome::PullRequestOpened { pull_request } | Outcome::PullRequestUpdated { pull_request } => {
                    pull_request.url.clone()
                }
                Outcome::DiffVerified => "a verified diff".to_owned(),
                Outcome::NothingChanged => "nothing changed".to_owned(),
                Outcome::PolicyRejected { .. } => "policy does not allow the patch".to_owned(),
                Outcome::Cancelled => "stopped".to_owned(),
            }),
            _ => None,
        },
        _ => None,
    }
}

/// Whether it was set aside because its workers vanish.
pub(super) fn is_dead(task: &Task) -> bool {
    matches!(&task.state, TaskState::Failed { failure } if failure.code == Code::PoisonTask)
}
