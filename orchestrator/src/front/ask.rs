//! What changes something: asking for a task, and saying what is to become of one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tasks::{
    Actor, AgentName, BranchName, Code, DedupeKey, Deliver, Failure, GpuRequest, Instruction, Intake as _, Received,
    RepoName, Resources, Source, Task, TaskFilter, TaskId, TaskRequest, TaskState, Work,
};

use super::{Caller, Front, refusal, tokens};

/// More than any person types; less than what would choke a model.
const MAX_PROMPT_BYTES: usize = 64 << 10;
const MAX_TITLE_CHARS: usize = 200;
const MAX_KEY_BYTES: usize = 255;

/// A task to be done.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    /// The repository to change, as `owner/name`.
    pub repo: RepoName,
    /// What to do; its first line is the title.
    pub prompt: String,
    /// The branch to start from; `null`: the default branch.
    #[serde(default)]
    pub base: Option<BranchName>,
    /// The agent; `null`: the configured one.
    #[serde(default)]
    pub agent: Option<AgentName>,
    /// What it ends in; a pull request where it is not said.
    #[serde(default)]
    pub deliver: Option<Deliver>,
    /// A GPU for the agent and for checks that name none: `any`, `h100`, `a100-80gb:2`.
    #[serde(default)]
    pub gpu: Option<String>,
    /// The number of the issue that it is about.
    #[serde(default)]
    pub issue: Option<u64>,
}

/// A word for a task.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// What to consider or to change.
    pub text: String,
}

/// What became of a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "became", rename_all = "snake_case")]
pub enum Spoken {
    /// The task takes it up: at its next attempt, or as a further commit once it has a pull request.
    Note {
        /// The task.
        task: TaskId,
    },
    /// The task had ended with a pull request; a new one changes it further.
    FollowUp {
        /// The new task.
        task: TaskId,
    },
}

impl Front {
    /// Stores a request. The same `key` from the same caller is the same request.
    ///
    /// # Errors
    /// E001 and E009 for what cannot be asked, E093 where the caller may not, E062.
    pub async fn create(&self, caller: &Caller, new: NewTask, key: Option<&str>) -> Result<Received, Failure> {
        self.may_work_on(caller, &new.repo)?;
        let instruction = instruction(&new.prompt)?;
        let gpu = new.gpu.as_deref().map(str::parse::<GpuRequest>).transpose();
        let gpu = gpu.map_err(|error| Failure::new(Code::Usage, format!("The GPU cannot be asked for so: {error}")))?;
        let request = TaskRequest {
            base: new.base,
            agent: new.agent,
            instruction,
            deliver: new.deliver.unwrap_or(Deliver::PullRequest),
            resources: Resources { gpu },
            ..blank(dedupe(caller, key)?, caller.actor(), new.repo, new.issue)
        };
        let received = self.queue().enqueue(request.clone()).await.map_err(refusal)?;
        if let (Received::Known(id), Some(_)) = (received, key) {
            self.demand_same(id, &request).await?;
        }
        Ok(received)
    }

    /// Asks for it to stop.
    ///
    /// # Errors
    /// E091 when it has ended otherwise, E062.
    pub async fn stop(&self, caller: &Caller, task: &Task) -> Result<(), Failure> {
        self.queue().cancel(task.id, caller.actor()).await.map_err(refusal)
    }

    /// Asks for it to end with what is there.
    ///
    /// # Errors
    /// E091 when it does not run, E062.
    pub async fn finish(&self, caller: &Caller, task: &Task) -> Result<(), Failure> {
        if !matches!(task.state, TaskState::Running { .. }) {
            let message = format!("A task that is {} has nothing to be finished", task.state.word());
            return Err(Failure::new(Code::NotNow, message).next("Only what runs can be finished; stop what waits."));
        }
        self.queue().finish(task.id, caller.actor()).await.map_err(refusal)
    }

    /// Puts it back into the queue.
    ///
    /// # Errors
    /// E091 when it did not fail, E062.
    pub async fn retry(&self, task: &Task) -> Result<(), Failure> {
        self.queue().requeue(task.id).await.map_err(refusal)
    }

    /// Lets a repository go on that was left alone because nobody did anything with its pull requests.
    ///
    /// # Errors
    /// E091 when none is open there, E093 where the caller may not, E062.
    pub async fn resume(&self, caller: &Caller, repo: &RepoName) -> Result<(), Failure> {
        if !caller.may_see(repo) {
            return Err(caller.not_here(repo));
        }
        let filter = TaskFilter { repo: Some(repo.clone()), ..TaskFilter::default() };
        let tasks = self.queue().list(filter).await.map_err(refusal)?;
        let open = tasks.into_iter().find(|task| matches!(task.state, TaskState::PullRequestOpen { .. }));
        let open = open.ok_or_else(|| {
            let message = format!("No pull request of Onramp is open in {repo}, so it is not left alone");
            Failure::new(Code::NotNow, message).next("`onramp task list --repo` says what its tasks wait for.")
        })?;
        self.queue().notice(open.id, self.now()).await.map_err(refusal)
    }

    /// The same prompt again, by the same or another agent, for a diff to hold beside the first.
    ///
    /// # Errors
    /// As for [`Front::create`].
    pub async fn replay(&self, caller: &Caller, task: &Task, agent: Option<AgentName>) -> Result<Received, Failure> {
        self.may_work_on(caller, &task.request.repo)?;
        let agent = agent.or_else(|| task.request.agent.clone());
        let key = dedupe(caller, None)?;
        let request = TaskRequest {
            agent,
            base: task.request.base.clone(),
            instruction: task.request.instruction.clone(),
            deliver: Deliver::Diff,
            resources: task.request.resources.clone(),
            ..blank(key, caller.actor(), task.request.repo.clone(), None)
        };
        self.queue().enqueue(request).await.map_err(refusal)
    }

    /// Says something to a task. One that waits or runs takes it up; one that came to an open pull request has it changed
    /// further by a new task.
    ///
    /// # Errors
    /// E001 for no text, E091 where there is nobody to say it to, E062.
    pub async fn say(&self, caller: &Caller, task: &Task, said: &Said, key: Option<&str>) -> Result<Spoken, Failure> {
        let instruction = instruction(&said.text)?;
        let key = dedupe(caller, key)?;
        let id = task.id;
        match &task.state {
            TaskState::PullRequestOpen { pull_request } | TaskState::Updated { pull_request } => {
                self.may_work_on(caller, &task.request.repo)?;
                let request = TaskRequest {
                    instruction,
                    revises: Some(pull_request.number),
                    ..blank(key, caller.actor(), task.request.repo.clone(), Some(pull_request.number))
                };
                let received = self.queue().enqueue(request).await.map_err(refusal)?;
                Ok(Spoken::FollowUp { task: received.id() })
            }
            TaskState::Queued { .. } | TaskState::Running { .. } => {
                let text = said.text.trim().to_owned();
                self.queue().say(key, id, caller.actor(), text).await.map_err(refusal)?;
                Ok(Spoken::Note { task: id })
            }
            TaskState::Merged { .. }
            | TaskState::Closed { .. }
            | TaskState::DiffReady
            | TaskState::NoChanges
            | TaskState::Rejected { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. } => {
                let message = format!("A task that is {} hears nothing any more", task.state.word());
                Err(Failure::new(Code::NotNow, message)
                    .next("Try it again with `onramp task retry`, or ask for a new one."))
            }
        }
    }

    fn may_work_on(&self, caller: &Caller, repo: &RepoName) -> Result<(), Failure> {
        if !caller.may_see(repo) {
            return Err(caller.not_here(repo));
        }
        let known = &self.options().repositories;
        if known.is_empty() || known.iter().any(|pattern| webhooks::github::events::matches(pattern, repo)) {
            return Ok(());
        }
        Err(Failure::new(Code::PermissionDenied, format!("{repo} is not among the repositories that are worked on"))
            .next("Add it to github.repositories in the configuration of `onramp serve`."))
    }

    /// A key that was used before must have been used for the same.
    async fn demand_same(&self, id: TaskId, request: &TaskRequest) -> Result<(), Failure> {
        let Some(known) = self.queue().get(id).await.map_err(refusal)? else { return Ok(()) };
        let known = &known.request;
        let is_same = known.dedupe_key != request.dedupe_key
            || (known.repo == request.repo
                && known.instruction == request.instruction
                && (&known.base, &known.agent, known.deliver) == (&request.base, &request.agent, request.deliver));
        if is_same {
            return Ok(());
        }
        Err(Failure::new(Code::Usage, format!("The Idempotency-Key was used before, for task {}", id.short()))
            .next("Send another key with another request."))
    }
}

/// What was typed, its first line as the title.
fn instruction(text: &str) -> Result<Instruction, Failure> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::new(Code::EmptyInstruction, "The prompt is empty").next("Say what to do."));
    }
    if text.len() > MAX_PROMPT_BYTES {
        let message = format!("The prompt has {} bytes, and at most {MAX_PROMPT_BYTES} are taken", text.len());
        return Err(
            Failure::new(Code::Usage, message).next("Say it in fewer words, or put the rest into the repository.")
        );
    }
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let title: String = first.trim().chars().take(MAX_TITLE_CHARS).collect();
    // A long first line is not lost by being cut.
    let body = if title.len() < first.trim().len() { text } else { rest.trim() };
    Ok(Instruction { title, body: body.to_owned(), trusted: true, about: String::new() })
}

fn blank(key: DedupeKey, actor: Actor, repo: RepoName, number: Option<u64>) -> TaskRequest {
    TaskRequest {
        dedupe_key: key,
        source: Source::Api { number },
        actor,
        repo,
        base: None,
        agent: None,
        instruction: Instruction { title: String::new(), body: String::new(), trusted: true, about: String::new() },
        deliver: Deliver::PullRequest,
        resources: Resources::default(),
        revises: None,
        work: Work::Change,
        discussed_until: None,
    }
}

/// The key of a request: of this caller alone, whatever characters theirs has; a fresh one where they give none.
fn dedupe(caller: &Caller, key: Option<&str>) -> Result<DedupeKey, Failure> {
    let text = match key {
        Some(key) if key.is_empty() || key.len() > MAX_KEY_BYTES => {
            let message = format!("An Idempotency-Key has 1 to {MAX_KEY_BYTES} characters");
            return Err(Failure::new(Code::Usage, message).next("Send a UUID, for instance."));
        }
        Some(key) => format!("api:{}:{}", caller.key, hex::encode(Sha256::digest(key))),
        None => format!("api:{}", tokens::random(16)?),
    };
    text.parse().map_err(Failure::internal)
}
