//! One function for each kind of wish.

use tasks::{
    Actor, Asked, BranchName, Command, CommitSha, DedupeKey, Deliver, Failure, Instruction, Intake as _, RepoName,
    Resources, Source, Task, TaskFilter, TaskId, TaskRequest, TaskState, Work,
};
use workers::forge::{Forge, LineComment, Permission, ReactTo, Reaction};

use super::{Clerk, Trouble, belongs, help};

/// Of what failed checks say, so much is shown to the agent.
const MAX_CHECKS: usize = 10;
const MAX_TITLE_CHARS: usize = 200;

/// A submitted review.
pub(super) struct Review<'a> {
    pub(super) repo: &'a RepoName,
    pub(super) number: u64,
    pub(super) id: u64,
    pub(super) by: &'a Actor,
    pub(super) body: &'a str,
}

impl Clerk {
    /// What a comment asks for. Whoever may not write is not answered: a bot that answers strangers can be made to talk.
    pub(super) async fn asked(&self, key: &DedupeKey, asked: &Asked) -> Result<(), Trouble> {
        if !self.may(&asked.repo, &asked.by).await? {
            return Ok(());
        }
        let to = asked.comment.map_or(ReactTo::Thread(asked.number), ReactTo::Comment);
        self.acknowledge(&asked.repo, to).await;
        let tasks = self.tasks_of(&asked.repo, asked.number).await?;
        match &asked.command {
            Command::Run { text } => return self.run_wish(key, asked, text, &tasks).await,
            Command::Rebase => return self.rebase_wish(key, asked, &tasks).await,
            Command::Stop => {
                for task in tasks.iter().filter(|task| task.state.is_unfinished()) {
                    self.queue.cancel(task.id, asked.by.clone()).await?;
                }
            }
            Command::Finish => {
                for task in tasks.iter().filter(|task| task.state.is_unfinished()) {
                    self.queue.finish(task.id, asked.by.clone()).await?;
                }
            }
            Command::Retry => {
                let failed = |state: &TaskState| {
                    matches!(
                        state,
                        TaskState::Failed { .. }
                            | TaskState::Rejected { .. }
                            | TaskState::NoChanges
                            | TaskState::Cancelled { .. }
                    )
                };
                match tasks.first().filter(|task| failed(&task.state)) {
                    Some(task) => self.queue.requeue(task.id).await?,
                    None => return self.answer(asked, &tasks, Some("There is nothing here to try again.")).await,
                }
            }
            Command::Status | Command::Help => return self.answer(asked, &tasks, None).await,
        }
        Ok(())
    }

    async fn run_wish(&self, key: &DedupeKey, asked: &Asked, text: &str, tasks: &[Task]) -> Result<(), Trouble> {
        if !asked.is_open {
            return self.answer(asked, tasks, Some("This is closed, so nothing was started.")).await;
        }
        let is_ours = asked.on_pull_request && self.is_ours(&asked.repo, asked.number).await?;
        if asked.on_pull_request && !is_ours {
            let why = "Onramp changes only pull requests that it opened itself, so nothing was started.";
            return self.answer(asked, tasks, Some(why)).await;
        }
        let (title, body) = match text.trim() {
            "" => (asked.title.clone(), String::new()),
            text => (title_of(text), text.to_owned()),
        };
        // What was typed comes from somebody who may write; the issue around it from anybody.
        let trusted = !body.is_empty();
        let (body, about) = match trusted {
            true => (body, format!("{}\n\n{}", asked.title, asked.body)),
            false => (asked.body.clone(), String::new()),
        };
        let request = TaskRequest {
            source: match asked.comment {
                Some(comment) => Source::Comment { number: asked.number, comment },
                None => Source::FollowUp { number: asked.number },
            },
            revises: is_ours.then_some(asked.number),
            instruction: Instruction { title, body, trusted, about },
            discussed_until: asked.discussed_until.filter(|_| !is_ours),
            ..blank(key.clone(), &asked.repo, &asked.by)
        };
        self.queue.enqueue(request).await?;
        Ok(())
    }

    async fn rebase_wish(&self, key: &DedupeKey, asked: &Asked, tasks: &[Task]) -> Result<(), Trouble> {
        let open = tasks.iter().find_map(|task| match &task.state {
            TaskState::PullRequestOpen { pull_request } => Some(pull_request.number),
            _ => None,
        });
        match open {
            Some(number) => self.rebase(key.clone(), &asked.repo, number, &asked.by).await,
            None => self.answer(asked, tasks, Some("There is no open pull request of Onramp here to rebase.")).await,
        }
    }

    async fn rebase(&self, key: DedupeKey, repo: &RepoName, number: u64, by: &Actor) -> Result<(), Trouble> {
        let title = format!("Bring pull request #{number} up to its base branch");
        let request = TaskRequest {
            source: Source::FollowUp { number },
            revises: Some(number),
            instruction: Instruction { title, body: String::new(), trusted: true, about: String::new() },
            work: Work::Rebase,
            discussed_until: None,
            ..blank(key, repo, by)
        };
        self.queue.enqueue(request).await?;
        Ok(())
    }

    /// One task for the whole review.
    pub(super) async fn reviewed(&self, key: &DedupeKey, review: Review<'_>, wanted: bool) -> Result<(), Trouble> {
        let Review { repo, number, id, by, body } = review;
        if !self.is_ours(repo, number).await? || !self.may(repo, by).await? {
            return Ok(());
        }
        let comments = self.forge.line_comments(repo, number, id).await?;
        let names_us = comments.iter().any(|comment| {
            let said = comment.body.to_lowercase();
            said.contains("/onramp")
                || self.options.names.iter().any(|name| said.contains(&format!("@{}", name.to_lowercase())))
        });
        if (!wanted && !names_us) || (body.trim().is_empty() && comments.is_empty()) {
            return Ok(());
        }
        self.acknowledge(repo, ReactTo::Thread(number)).await;
        let request = TaskRequest {
            source: Source::Review { pull_request: number, review: id },
            revises: Some(number),
            instruction: Instruction {
                title: format!("Address the review of pull request #{number} by {}", by.login),
                body: review_text(body, &comments),
                trusted: true,
                about: String::new(),
            },
            ..blank(key.clone(), repo, by)
        };
        self.queue.enqueue(request).await?;
        Ok(())
    }

    /// One task for all checks that failed on one commit, and not without end.
    pub(super) async fn checks_failed(
        &self,
        repo: &RepoName,
        numbers: &[u64],
        head: &CommitSha,
    ) -> Result<(), Trouble> {
        for &number in numbers {
            let Some(owner) = self.queue.task_of_pull_request(repo, number).await? else { continue };
            let Some(owner) = self.queue.get(owner).await? else { continue };
            let tasks = self.tasks_of(repo, number).await?;
            let is_head = tasks.iter().find_map(|task| task.state.pull_request()).is_some_and(|now| now.head == *head);
            let is_round = |task: &&Task| matches!(task.request.source, Source::ChecksFailed { .. });
            // Somebody else's commit on top is for somebody else to mend.
            if !is_head || tasks.iter().filter(is_round).count() >= self.options.check_rounds {
                continue;
            }
            let base = self.forge.pull_request_now(repo, number).await?.base;
            let mut failed = self.forge.failed_checks(repo, head, &base).await?;
            // What fails on the base too is not for this pull request to mend.
            failed.retain(|check| !check.fails_on_base);
            // What failed once may be luck: it counts when it fails again.
            let once: Vec<u64> = failed.iter().filter(|check| check.n_runs == 1).map(|check| check.id).collect();
            if failed.is_empty() || (!once.is_empty() && self.forge.run_checks_again(repo, &once).await?) {
                tracing::info!(%repo, number, %head, n_again = once.len(), "failed checks are not worked on yet");
                continue;
            }
            let names: Vec<_> = failed.iter().map(|check| format!("`{}`", check.name)).collect();
            let said =
                failed.iter().take(MAX_CHECKS).map(|check| format!("## {}\n\n{}", check.name, check.said.trim()));
            let key = format!("checks:{repo}#{number}@{head}").parse().map_err(Failure::internal)?;
            let request = TaskRequest {
                source: Source::ChecksFailed { pull_request: number, head: head.clone() },
                revises: Some(number),
                instruction: Instruction {
                    title: format!("Checks failed on pull request #{number}: {}", names.join(", ")),
                    body: String::new(),
                    trusted: false,
                    about: said.collect::<Vec<_>>().join("\n\n"),
                },
                ..blank(key, repo, &owner.request.actor)
            };
            self.queue.enqueue(request).await?;
        }
        Ok(())
    }

    /// Every open pull request of ours is brought up to its base, where the operator wants that.
    pub(super) async fn branch_moved(
        &self,
        key: &DedupeKey,
        repo: &RepoName,
        branch: &BranchName,
    ) -> Result<(), Trouble> {
        if !self.options.follow_base {
            return Ok(());
        }
        let filter = TaskFilter { repo: Some(repo.clone()), ..TaskFilter::default() };
        for task in self.queue.list(filter).await? {
            let TaskState::PullRequestOpen { pull_request } = &task.state else { continue };
            if task.request.base.as_ref().is_none_or(|base| base == branch) {
                let key = format!("{key}#{}", pull_request.number).parse().map_err(Failure::internal)?;
                self.rebase(key, repo, pull_request.number, &task.request.actor).await?;
            }
        }
        Ok(())
    }

    /// The branch of a pull request that was merged or closed goes, unless somebody else pushed to it.
    pub(super) async fn branch_done(&self, repo: &RepoName, number: u64) -> Result<(), Trouble> {
        if !self.options.delete_branches || !self.is_ours(repo, number).await? {
            return Ok(());
        }
        let tasks = self.tasks_of(repo, number).await?;
        let opened = tasks.iter().filter_map(|task| task.state.pull_request()).find(|opened| opened.number == number);
        let Some(opened) = opened else { return Ok(()) };
        // It may have been opened again meanwhile.
        if self.forge.pull_request_now(repo, number).await?.is_open {
            return Ok(());
        }
        let for_it = self.forge.for_task();
        let forge = for_it.as_deref().unwrap_or(self.forge.as_ref());
        let deleted = forge.delete_branch(repo, &opened.branch, &opened.head).await;
        forge_closed(for_it.as_deref()).await;
        tracing::info!(%repo, branch = %opened.branch, deleted = deleted?, "the branch of a finished pull request");
        Ok(())
    }

    /// What was said to a task after its last attempt had begun becomes a task of its own.
    pub(super) async fn follow_up(&self, id: TaskId) -> Result<(), Trouble> {
        let Some(task) = self.queue.get(id).await? else { return Ok(()) };
        let unseen: Vec<_> = task.unseen_notes().collect();
        let Some(last) = unseen.last() else { return Ok(()) };
        let opened = task.state.pull_request().map(|pull_request| pull_request.number);
        let source = match (&task.request.source, task.request.source.thread().or(opened), last.actor.id) {
            (chat @ Source::Chat { .. }, ..) => chat.clone(),
            // Whoever has no account on the forge was let in by a token.
            (_, number, None) => Source::Api { number },
            (_, Some(number), Some(_)) => Source::FollowUp { number },
            (_, None, Some(_)) => return Ok(()),
        };
        let revises = match &task.state {
            TaskState::PullRequestOpen { pull_request } | TaskState::Updated { pull_request } => {
                Some(pull_request.number)
            }
            TaskState::NoChanges | TaskState::Rejected { .. } | TaskState::Failed { .. } => task.request.revises,
            TaskState::Queued { .. }
            | TaskState::Running { .. }
            | TaskState::Merged { .. }
            | TaskState::Closed { .. }
            | TaskState::DiffReady
            | TaskState::Cancelled { .. } => return Ok(()),
        };
        let body = unseen.iter().map(|note| note.text.as_str()).collect::<Vec<_>>().join("\n\n");
        let key = format!("followup:{id}:{}", task.attempt).parse().map_err(Failure::internal)?;
        let request = TaskRequest {
            source,
            revises,
            instruction: Instruction { title: title_of(&body), body, trusted: false, about: String::new() },
            ..blank(key, &task.request.repo, &last.actor)
        };
        self.queue.enqueue(request).await?;
        Ok(())
    }

    async fn may(&self, repo: &RepoName, by: &Actor) -> Result<bool, Trouble> {
        let permission = self.forge.permission(repo, by).await?;
        if permission < Permission::Write {
            tracing::info!(%repo, login = by.login, ?permission, "what was asked is not taken up: no write permission");
        }
        Ok(permission >= Permission::Write)
    }

    async fn is_ours(&self, repo: &RepoName, number: u64) -> Result<bool, Trouble> {
        Ok(self.queue.task_of_pull_request(repo, number).await?.is_some())
    }

    /// The tasks that were asked for here or whose pull request this is, newest first.
    async fn tasks_of(&self, repo: &RepoName, number: u64) -> Result<Vec<Task>, Trouble> {
        let filter = TaskFilter { repo: Some(repo.clone()), ..TaskFilter::default() };
        Ok(self.queue.list(filter).await?.into_iter().filter(|task| belongs(task, number)).collect())
    }

    async fn answer(&self, asked: &Asked, tasks: &[Task], first: Option<&str>) -> Result<(), Trouble> {
        let body = help::answer(tasks, asked.on_pull_request, &self.options.names, first);
        self.forge.status_comment(&asked.repo, asked.number, help::MARKER, &body).await?;
        Ok(())
    }

    /// So that who asked sees at once that it arrived. It promises nothing, so a forge that refuses it holds nothing up.
    async fn acknowledge(&self, repo: &RepoName, to: ReactTo) {
        if let Err(failure) = self.forge.react(repo, to, Reaction::Eyes).await {
            tracing::info!(%repo, %failure, "no reaction was put there");
        }
    }
}

/// Ends the rights that were made for one act.
async fn forge_closed(made: Option<&dyn Forge>) {
    if let Some(forge) = made {
        forge.close().await;
    }
}

fn blank(key: DedupeKey, repo: &RepoName, by: &Actor) -> TaskRequest {
    TaskRequest {
        dedupe_key: key,
        source: Source::CommandLine,
        actor: by.clone(),
        repo: repo.clone(),
        base: None,
        agent: None,
        instruction: Instruction { title: String::new(), body: String::new(), trusted: false, about: String::new() },
        deliver: Deliver::PullRequest,
        resources: Resources::default(),
        revises: None,
        work: Work::Change,
        discussed_until: None,
    }
}

fn title_of(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default()
        .chars()
        .take(MAX_TITLE_CHARS)
        .collect()
}

fn review_text(body: &str, comments: &[LineComment]) -> String {
    let mut text = body.trim().to_owned();
    for LineComment { path, line, hunk, body, .. } in comments {
        let place = line.map_or_else(|| path.clone(), |line| format!("{path}:{line}"));
        let hunk: Vec<&str> = hunk.lines().rev().take(8).collect();
        let hunk: Vec<String> = hunk.into_iter().rev().map(|line| format!("> {line}")).collect();
        text = format!("{text}\n\n### {place}\n\n{}\n\n{}", hunk.join("\n"), body.trim());
    }
    text.trim().to_owned()
}
