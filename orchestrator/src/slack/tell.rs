//! One message for each task, in the conversation where it was asked for, edited while it lives.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use chrono::Duration;
use serde_json::json;
use tasks::{ChatThread, Failure, Intake as _, QueueError, Source, Task, TaskId, TaskState, Timestamp};
use templates::{FailureLine, SlackMessage, SlackText, slack_message};
use workers::text;

use super::{Slack, Untold};
use crate::notify::words::shows_checks;

/// Slack takes about one message a second in a channel.
const EDIT_INTERVAL: Duration = Duration::milliseconds(1_200);
/// What was told is remembered for so many tasks; of the others it is looked for.
const MAX_REMEMBERED: usize = 10_000;

/// The message of a task as it stands.
#[derive(Debug, Clone)]
pub(super) struct Told {
    at: Timestamp,
    ts: String,
    digest: u64,
}

enum Telling {
    Told(Told),
    Nothing,
    Later(Timestamp),
    Refused(Failure),
}

impl Slack {
    /// Brings every message up to date that may be.
    pub(super) async fn tell_all(&self, now: Timestamp) -> Result<(), QueueError> {
        let due: Vec<(TaskId, Untold)> = self
            .memory()
            .untold
            .iter()
            .filter(|(_, untold)| untold.due.at <= now)
            .map(|(id, untold)| (*id, *untold))
            .collect();
        for (id, untold) in due {
            let telling = self.tell(id, now).await?;
            let mut memory = self.memory();
            match telling {
                Telling::Told(told) => {
                    memory.untold.remove(&id);
                    memory.told.insert(id, told);
                }
                Telling::Nothing => {
                    memory.untold.remove(&id);
                }
                Telling::Later(at) => {
                    let due = super::Due { at, ..untold.due };
                    memory.untold.insert(id, Untold { due, ..untold });
                }
                Telling::Refused(failure) => match untold.due.after(&failure, now) {
                    Some(due) => {
                        tracing::warn!(task.id = %id, %failure, tries = due.tries, "a message waits for Slack");
                        memory.untold.insert(id, Untold { due, ..untold });
                    }
                    None => {
                        tracing::error!(task.id = %id, %failure, "a message was given up: Slack does not take it");
                        memory.untold.remove(&id);
                    }
                },
            }
            if memory.told.len() > MAX_REMEMBERED {
                memory.told.retain(|_, told| now < told.at + Duration::hours(1));
            }
        }
        Ok(())
    }

    /// Writes the message of one task. Key: the task's id, noted with the message.
    async fn tell(&self, id: TaskId, now: Timestamp) -> Result<Telling, QueueError> {
        let Some(task) = self.queue.get(id).await? else { return Ok(Telling::Nothing) };
        let Source::Chat { thread, by } = &task.request.source else { return Ok(Telling::Nothing) };
        let told = self.memory().told.get(&id).cloned();
        if let Some(told) = &told
            && now < told.at + EDIT_INTERVAL
        {
            return Ok(Telling::Later(told.at + EDIT_INTERVAL));
        }
        let evidence = if shows_checks(&task.state) { self.queue.evidence(id).await? } else { None };
        let page = self.options.public_url.as_ref().map(|url| format!("{url}/tasks/{id}"));
        let message = match message(&task, by, evidence.as_ref(), page.as_deref()) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(task.id = %id, %error, "a message could not be written");
                return Ok(Telling::Nothing);
            }
        };
        let digest = digest(&message);
        if told.as_ref().is_some_and(|told| told.digest == digest) {
            return Ok(Telling::Nothing);
        }
        Ok(match self.write(&task, thread, told, &message).await {
            Ok(ts) => Telling::Told(Told { at: now, ts, digest }),
            Err(failure) => Telling::Refused(failure),
        })
    }

    async fn write(
        &self,
        task: &Task,
        thread: &ChatThread,
        told: Option<Told>,
        message: &SlackText,
    ) -> Result<String, Failure> {
        let id = task.id.to_string();
        let note = json!({ "task": id });
        let ts = match told {
            Some(told) => Some(told.ts),
            None => self.client.find(thread, |_, found| found["task"] == note["task"]).await?.map(|found| found.ts),
        };
        match ts {
            Some(ts) => self.client.edit(&thread.channel, &ts, message, &note).await.map(|()| ts),
            None => self.client.say(thread, message, &note).await,
        }
    }
}

fn message(
    task: &Task,
    by: &str,
    evidence: Option<&tasks::Evidence>,
    page: Option<&str>,
) -> Result<SlackText, templates::RenderError> {
    let id = task.id.to_string();
    let mut context = SlackMessage {
        task_id: &id,
        title: &task.request.instruction.title,
        repo: task.request.repo.as_str(),
        requester: by,
        state: task.state.word(),
        failures: task.failures,
        stopping: task.cancel_requested.is_some() && task.state.is_unfinished(),
        waits: None,
        stopped_by: None,
        pull_request: task.state.pull_request().map(|pull| (pull.url.as_str(), pull.number)),
        failure: None,
        reason: "",
        checks: evidence.map(|e| e.checks.iter().map(text::check_line).collect()).unwrap_or_default(),
        page,
    };
    match &task.state {
        TaskState::Rejected { violations } => {
            context.reason = violations.first().map_or("", |violation| &violation.message)
        }
        TaskState::Failed { failure } => {
            let tasks::Failure { code, message, next_step, .. } = failure;
            context.failure = Some(FailureLine { code: code.as_str(), message, next_step, detail: None });
        }
        TaskState::Cancelled { by } => context.stopped_by = Some(&by.login),
        TaskState::Queued { .. }
        | TaskState::Running { .. }
        | TaskState::PullRequestOpen { .. }
        | TaskState::Merged { .. }
        | TaskState::Closed { .. }
        | TaskState::Updated { .. }
        | TaskState::DiffReady
        | TaskState::NoChanges => {}
    }
    slack_message(&context)
}

fn digest(message: &SlackText) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.text.hash(&mut hasher);
    message.blocks.to_string().hash(&mut hasher);
    hasher.finish()
}
