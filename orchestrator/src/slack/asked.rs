//! What is done about what was said.

use serde_json::json;
use tasks::{
    Actor, Button, ChatThread, ChatWish, DedupeKey, Deliver, Failure, Instruction, Intake as _, Received, RepoName,
    Resources, Said, Source, Task, TaskFilter, TaskId, TaskRequest, TaskState, Work,
};
use templates::{SlackQuestion, SlackText, slack_question};
use workers::forge::Permission;

use super::{Slack, Trouble, route::Route};

const MAX_TITLE_CHARS: usize = 200;
/// Of what was said so much is noted with a question, in bytes; Slack bounds such notes.
const MAX_NOTED: usize = 4_000;
/// A question is answered for so long, in seconds. What was meant an hour ago may not be meant now.
const QUESTION_LASTS: f64 = 3_600.0;
/// How many of the newest tasks are looked through for the one of a conversation.
const MAX_LOOKED_AT: usize = 2_000;

/// Something to be started: where, for whom, and what they said.
struct Start<'a> {
    key: &'a DedupeKey,
    thread: &'a ChatThread,
    by: &'a str,
    repo: &'a RepoName,
    text: &'a str,
    /// The newest task of the conversation.
    before: Option<&'a Task>,
}

impl Slack {
    /// Deals with one thing that was said. May be repeated.
    pub(super) async fn answer(&self, key: &DedupeKey, said: &Said) -> Result<(), Trouble> {
        let Said { thread, by, wish } = said;
        match wish {
            ChatWish::Ask { text } | ChatWish::Reply { text } => {
                let before = self.task_of(thread).await?;
                if matches!(wish, ChatWish::Reply { .. }) && before.is_none() {
                    return Ok(());
                }
                self.asked(key, thread, by, text, before.as_ref()).await
            }
            ChatWish::Choose { question, repo } => self.chosen(thread, by, question, repo).await,
            ChatWish::Press { task, button } => self.pressed(thread, by, *task, *button).await,
        }
    }

    async fn asked(
        &self,
        key: &DedupeKey,
        thread: &ChatThread,
        by: &str,
        text: &str,
        before: Option<&Task>,
    ) -> Result<(), Trouble> {
        if text.trim().is_empty() {
            return self.hint(thread, by, "Say what should change, such as: fix the login test in repo:acme/web").await;
        }
        let about = before.map(|task| &task.request.repo);
        match self.options.routes.route(text, &thread.channel, about) {
            Route::To { repo, .. } => self.begin(Start { key, thread, by, repo: &repo, text, before }).await,
            Route::Ask { why, among } => {
                let note =
                    json!({ "question": key.as_str(), "by": by, "text": &text[..text.floor_char_boundary(MAX_NOTED)] });
                if self.client.find(thread, |_, found| found["question"] == note["question"]).await?.is_none() {
                    let repositories = among.iter().map(RepoName::as_str).collect();
                    let question = slack_question(&SlackQuestion { why: &why, repositories });
                    self.client.say(thread, &question, &note).await?;
                }
                Ok(())
            }
        }
    }

    /// The answer to a question. Key: the question, so that two answers are one.
    async fn chosen(&self, thread: &ChatThread, by: &str, question: &str, repo: &RepoName) -> Result<(), Trouble> {
        // A question about a command stands in the channel itself, and its thread is its own.
        let asked_in = match thread.first == question {
            true => ChatThread { first: String::new(), ..thread.clone() },
            false => thread.clone(),
        };
        let found = self.client.find(&asked_in, |ts, note| ts == question && !note["text"].is_null()).await?;
        let age = || Some(((self.clock)().timestamp() as f64) - question.parse::<f64>().ok()?);
        let Some(found) = found.filter(|_| age().is_some_and(|age| age < QUESTION_LASTS)) else {
            return self.hint(thread, by, "That question is too old; say again what you want.").await;
        };
        let text = found.note["text"].as_str().unwrap_or_default().to_owned();
        let asked_by = found.note["by"].as_str().unwrap_or_default().to_owned();
        let key: DedupeKey =
            format!("slack:chosen:{}:{question}", thread.channel).parse().map_err(Failure::internal)?;
        let before = self.task_of(thread).await?;
        // Whoever asked it answers it: what they may is what counts.
        if asked_by != by {
            return self.hint(thread, by, "Only who asked can answer that.").await;
        }
        self.begin(Start { key: &key, thread, by, repo, text: &text, before: before.as_ref() }).await?;
        let settled = SlackText { text: format!("This is about {repo}."), blocks: json!([]) };
        self.client.edit(&thread.channel, question, &settled, &json!({ "settled": question })).await?;
        Ok(())
    }

    async fn begin(&self, start: Start<'_>) -> Result<(), Trouble> {
        let Start { key, thread, by, repo, text, before } = start;
        let Some(actor) = self.who_may(thread, by, repo).await? else { return Ok(()) };
        let thread = self.rooted(key, thread, by, text).await?;
        let before = before.filter(|task| task.request.repo == *repo);
        let revises = before.and_then(|task| match &task.state {
            TaskState::PullRequestOpen { pull_request } | TaskState::Updated { pull_request } => {
                Some(pull_request.number)
            }
            TaskState::Queued { .. } | TaskState::Running { .. } => task.request.revises,
            TaskState::Merged { .. }
            | TaskState::Closed { .. }
            | TaskState::DiffReady
            | TaskState::NoChanges
            | TaskState::Rejected { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. } => None,
        });
        let title = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let request = TaskRequest {
            dedupe_key: key.clone(),
            source: Source::Chat { thread: thread.clone(), by: by.to_owned() },
            actor,
            repo: repo.clone(),
            base: None,
            agent: None,
            // It comes from somebody who may change the code anyway.
            instruction: Instruction {
                title: title.chars().take(MAX_TITLE_CHARS).collect(),
                body: text.to_owned(),
                trusted: true,
                about: String::new(),
            },
            deliver: Deliver::PullRequest,
            resources: Resources::default(),
            revises,
            work: Work::Change,
            discussed_until: None,
        };
        let received = self.queue.enqueue(request).await?;
        match (received, before) {
            (Received::Known(id), Some(task)) if id == task.id => {
                self.hint(&thread, by, "Noted for the task that is under way.").await
            }
            _ => Ok(()),
        }
    }

    /// A command leaves no message behind, so one is made that the task can hang on. Key: the command.
    async fn rooted(&self, key: &DedupeKey, thread: &ChatThread, by: &str, text: &str) -> Result<ChatThread, Trouble> {
        if !thread.first.is_empty() {
            return Ok(thread.clone());
        }
        let first = match self.client.find(thread, |_, note| note["asked"] == key.as_str()).await? {
            Some(found) => found.ts,
            None => {
                let said = templates::slack_quote(by, text);
                self.client.say(thread, &said, &json!({ "asked": key.as_str() })).await?
            }
        };
        Ok(ChatThread { first, ..thread.clone() })
    }

    async fn pressed(&self, thread: &ChatThread, by: &str, id: TaskId, button: Button) -> Result<(), Trouble> {
        let Some(task) = self.queue.get(id).await? else { return Ok(()) };
        let Some(actor) = self.who_may(thread, by, &task.request.repo).await? else { return Ok(()) };
        match button {
            Button::Stop => self.queue.cancel(id, actor).await?,
            Button::Retry => self.queue.requeue(id).await?,
            Button::Change => self.hint(thread, by, "Say in this thread what should be different.").await?,
        }
        Ok(())
    }

    /// The person's account on the forge, if they may write there; else they are told.
    async fn who_may(&self, thread: &ChatThread, by: &str, repo: &RepoName) -> Result<Option<Actor>, Trouble> {
        let Some(login) = self.options.people.get(by) else {
            let text = format!(
                "Onramp does not know who you are on GitHub. Whoever runs it adds this line under [slack.people]: {by} = \"your-login\""
            );
            self.hint(thread, by, &text).await?;
            return Ok(None);
        };
        match self.forge.collaborator(repo, login).await? {
            Some((actor, permission)) if permission >= Permission::Write => Ok(Some(actor)),
            _ => {
                let text = format!("{login} has no write permission on {repo}, so nothing was done.");
                self.hint(thread, by, &text).await?;
                Ok(None)
            }
        }
    }

    /// Says something to one person. What cannot be said holds nothing up.
    async fn hint(&self, thread: &ChatThread, by: &str, text: &str) -> Result<(), Trouble> {
        if let Err(failure) = self.client.whisper(thread, by, text).await {
            tracing::info!(%failure, "a hint could not be given in Slack");
        }
        Ok(())
    }

    /// The newest task that was asked for in a conversation.
    async fn task_of(&self, thread: &ChatThread) -> Result<Option<Task>, Trouble> {
        if thread.first.is_empty() {
            return Ok(None);
        }
        let tasks = self.queue.list(TaskFilter { limit: Some(MAX_LOOKED_AT), ..TaskFilter::default() }).await?;
        let is_here = |task: &Task| matches!(&task.request.source, Source::Chat { thread: here, .. } if here == thread);
        Ok(tasks.into_iter().find(is_here))
    }
}
