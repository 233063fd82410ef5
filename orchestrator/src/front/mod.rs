//! What every surface can do with tasks: the API, the pages, the command line and the tools of other agents ask here, and
//! nothing here remembers anything. Whatever changes something is a verb of the queue.

mod access;
mod address;
mod ask;
pub mod files;
pub mod log;
mod problem;
mod tokens;
pub mod view;
mod why;

use std::{path::PathBuf, sync::Arc};

use tasks::{Actor, Failure, Intake as _, RepoName, Task, TaskFilter};
use tokio_util::sync::CancellationToken;

pub(crate) use tokens::random;

pub use self::{
    access::{Caller, Scope},
    ask::{NewTask, Said, Spoken},
    problem::refusal,
    tokens::{Minted, TokenInfo, Tokens},
};
use self::{
    address::Address,
    view::{EventView, TaskDetail, TaskPage, TaskView},
};
use crate::queue::{Clock, Queue};

/// A page of a list has at most so many tasks.
pub const MAX_PAGE: usize = 200;
/// No task has so many events that a person would read them all.
const MAX_EVENTS: usize = 2000;

/// What the operator decides, as far as surfaces need to know it.
#[derive(Debug, Clone, Default)]
pub struct FrontOptions {
    /// Repositories that may be worked on, as in `github.repositories`; empty: all.
    pub repositories: Vec<String>,
    /// Tasks of one repository that run at the same time; 0: any number.
    pub parallel_per_repository: usize,
    /// Requests of one token in a minute.
    pub requests_per_minute: u32,
}

/// The tasks of one data directory, as surfaces see them. Cheap to clone.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    queue: Arc<Queue>,
    clock: Clock,
    artifacts: PathBuf,
    tokens: Tokens,
    options: FrontOptions,
    /// Streams end when this is cancelled.
    closing: CancellationToken,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only of this repository, as `owner/name`.
    pub repo: Option<RepoName>,
    /// Only in this state, by its word: `queued`, `preparing`, `running`, `verifying`, `publishing`, `done`, `merged`,
    /// `closed`, `no_changes`, `rejected`, `failed`, `stopped`; or `dead` for those whose workers kept vanishing.
    pub state: Option<String>,
    /// Only tasks that wait or run.
    #[serde(default)]
    pub unfinished: bool,
    /// Only tasks that this login (or token) asked for.
    pub requester: Option<String>,
    /// Only what was asked at or after this moment, in RFC 3339.
    pub since: Option<tasks::Timestamp>,
    /// At most so many; 50 where it is not said, and never more than 200.
    pub limit: Option<usize>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
}

impl Front {
    /// `artifacts`: where those of all attempts lie. `closing`: ends streams, so that a server can close.
    pub fn new(
        queue: Arc<Queue>,
        clock: Clock,
        artifacts: PathBuf,
        tokens: Tokens,
        options: FrontOptions,
        closing: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner { queue, clock, artifacts, tokens, options, closing }))
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.0.queue
    }

    /// Who has access.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// What the operator decided.
    pub fn options(&self) -> &FrontOptions {
        &self.0.options
    }

    /// Ends streams.
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// The moment it is.
    pub fn now(&self) -> tasks::Timestamp {
        (self.0.clock)()
    }

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// E009 for a cursor that is none, E093 for a repository that the caller may not see, E062.
    pub async fn list(&self, caller: &Caller, query: &ListQuery) -> Result<TaskPage, Failure> {
        let limit = query.limit.unwrap_or(50).clamp(1, MAX_PAGE);
        let repo = caller.narrowed(query.repo.clone())?;
        let mut before = query.cursor.as_deref().map(address::cursor).transpose()?;
        let unfinished = self.unfinished().await?;
        let mut found = Vec::new();
        loop {
            let filter = TaskFilter { repo: repo.clone(), unfinished: query.unfinished, before, limit: Some(MAX_PAGE) };
            let batch = self.0.queue.list(filter).await.map_err(refusal)?;
            let is_last = batch.len() < MAX_PAGE;
            for task in batch {
                before = Some(task.id);
                if query.since.is_some_and(|since| task.created_at < since) {
                    return Ok(TaskPage { tasks: found, next: None });
                }
                if !query.wants(&task) {
                    continue;
                }
                if found.len() == limit {
                    let next = found.last().map(|last: &TaskView| last.id.to_string());
                    return Ok(TaskPage { tasks: found, next });
                }
                found.push(self.view(&task, &unfinished).await?);
            }
            if is_last {
                return Ok(TaskPage { tasks: found, next: None });
            }
        }
    }

    /// The one task that is meant.
    ///
    /// # Errors
    /// E090 when there is none that the caller may see, E009 when more than one may be meant.
    pub async fn find(&self, caller: &Caller, text: &str) -> Result<Task, Failure> {
        let task = text.parse::<Address>()?.find(&self.0.queue, caller).await?;
        if caller.may_see(&task.request.repo) { Ok(task) } else { Err(address::unknown(text)) }
    }

    /// A task with everything that there is to say about it.
    ///
    /// # Errors
    /// E062.
    pub async fn detail(&self, task: Task) -> Result<TaskDetail, Failure> {
        let view = self.view(&task, &self.unfinished().await?).await?;
        let evidence = self.0.queue.evidence(task.id).await.map_err(refusal)?;
        let artifacts = files::list(&self.0.artifacts, task.id).await?;
        Ok(TaskDetail::new(task, view, evidence, artifacts))
    }

    /// What happened to a task, oldest first.
    ///
    /// # Errors
    /// E062.
    pub async fn events(&self, task: tasks::TaskId) -> Result<Vec<EventView>, Failure> {
        let events = self.0.queue.events_of(task, MAX_EVENTS).await.map_err(refusal)?;
        Ok(events.into_iter().filter_map(|(sequence, record)| EventView::of(sequence, &record)).collect())
    }

    async fn view(&self, task: &Task, unfinished: &[Task]) -> Result<TaskView, Failure> {
        let evidence = self.0.queue.evidence(task.id).await.map_err(refusal)?;
        let waits = why::it_waits(task, unfinished, self.0.options.parallel_per_repository, self.now());
        Ok(TaskView::new(task, waits, evidence.as_ref()))
    }

    async fn unfinished(&self) -> Result<Vec<Task>, Failure> {
        let filter = TaskFilter { unfinished: true, ..TaskFilter::default() };
        self.0.queue.list(filter).await.map_err(refusal)
    }
}

impl ListQuery {
    fn wants(&self, task: &Task) -> bool {
        let in_state = self.state.as_deref().is_none_or(|state| match state {
            "dead" => view::is_dead(task),
            word => task.state.word() == word,
        });
        let of = self.requester.as_deref();
        in_state && of.is_none_or(|login| task.request.actor.login.eq_ignore_ascii_case(login))
    }
}

impl Caller {
    /// Who asks, as tasks and the audit log name them.
    pub fn actor(&self) -> Actor {
        Actor { login: self.name.clone(), id: None }
    }
}
