//! What an operator does with tasks: `onramp list`, `show`, `requeue`, `resume` and `cancel`.

use clap::Args;
use tasks::{Evidence, Failure, RepoName, Task, TaskState, Timestamp};
use workers::text;

use super::{Setting, show::Show};
use crate::{
    control::{self, Answer, Question},
    now, queue, wiring,
};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only tasks of this repository, as owner/name
    #[arg(long)]
    repo: Option<RepoName>,
    /// Only tasks that wait or run
    #[arg(long)]
    unfinished: bool,
    /// Only tasks that were set aside because every worker that took them vanished
    #[arg(long)]
    dead: bool,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The id of the task, or the end of it
    task: String,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TaskArgs {
    /// The id of the task, or the end of it
    task: String,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The repository, as owner/name
    repo: RepoName,
}

pub(super) async fn list(setting: &Setting, args: ListArgs) -> Result<u8, Failure> {
    let ListArgs { repo, unfinished, dead, limit, json } = args;
    let answer = ask(setting, Question::List { repo, unfinished, dead, limit }).await?;
    let Answer::Tasks(tasks) = answer else { return Err(Failure::internal("the answer is to another question")) };
    if json {
        return print_json(&tasks);
    }
    let lines = tasks.iter().map(|task| {
        let Task { id, request, state, .. } = task;
        let issue = request.issue().map_or_else(String::new, |issue| format!("#{issue}"));
        let title = plain(&request.instruction.title);
        let when = when(task.created_at);
        let waits = match state {
            TaskState::Queued { waits: Some(waits), .. } => format!("\n          waits: {}", plain(waits.why())),
            _ => String::new(),
        };
        format!("{}  {:<11} {when}  {}{issue}  {title:.80}{waits}", id.short(), state.word(), request.repo)
    });
    let lines: Vec<_> = lines.collect();
    print(&lines);
    if lines.is_empty() {
        eprintln!("no such task");
    }
    Ok(0)
}

pub(super) async fn show(setting: &Setting, args: ShowArgs) -> Result<u8, Failure> {
    match ask(setting, Question::Show { task: args.task }).await? {
        Answer::Task(task, _) if args.json => print_json(&task),
        Answer::Task(task, evidence) => {
            describe(&task, evidence.as_deref());
            Ok(0)
        }
        Answer::Tasks(_) | Answer::Spending(_) | Answer::Refused(_) => {
            Err(Failure::internal("the answer is to another question"))
        }
    }
}

pub(super) async fn requeue(setting: &Setting, args: TaskArgs) -> Result<u8, Failure> {
    tell(ask(setting, Question::Requeue { task: args.task }).await?)
}

pub(super) async fn cancel(setting: &Setting, args: TaskArgs) -> Result<u8, Failure> {
    let by = setting.surroundings.user.clone();
    tell(ask(setting, Question::Cancel { task: args.task, by }).await?)
}

pub(super) async fn resume(setting: &Setting, args: ResumeArgs) -> Result<u8, Failure> {
    ask(setting, Question::Resume { repo: args.repo.clone() }).await?;
    print(&[format!("{} goes on", args.repo)]);
    Ok(0)
}

pub(super) async fn ask(setting: &Setting, question: Question) -> Result<Answer, Failure> {
    let options = wiring::queue_options(&setting.config, queue::steady_clock(now()));
    control::ask(&setting.config.data_dir()?, options, question).await
}

fn tell(answer: Answer) -> Result<u8, Failure> {
    if let Answer::Task(task, _) = answer {
        let stopping = task.cancel_requested.is_some() && task.state.is_unfinished();
        let word = if stopping { "stopping" } else { task.state.word() };
        print(&[format!("{} {word}", task.id)]);
    }
    Ok(0)
}

fn describe(task: &Task, evidence: Option<&Evidence>) {
    let Task { id, request, state, .. } = task;
    let issue = request.issue().map_or_else(String::new, |issue| format!("#{issue}"));
    let mut lines = vec![
        format!("task      {id}"),
        format!("asked     {} ({}{issue})", plain(&request.instruction.title), request.repo),
        format!("by        {}, {}", request.actor.login, when(task.created_at)),
        format!("state     {}, since {}", state.word(), when(task.updated_at)),
        format!("attempts  {}, of which {} failed and {} lost their worker", task.attempt, task.failures, task.crashes),
    ];
    match state {
        TaskState::Queued { not_before, waits } if *not_before > now() => {
            lines.push(format!("waits     until {}", when(*not_before)));
            lines.extend(waits.as_ref().map(|waits| format!("because   {}", plain(waits.why()))));
        }
        TaskState::Queued { .. } if task.held.is_some() => {
            lines.extend(task.held.iter().map(|held| format!("waits     {held}")));
        }
        TaskState::Running { lease, .. } => {
            lines.push(format!("worker    {}, lease until {}", lease.worker, when(lease.expires_at)));
        }
        TaskState::PullRequestOpen { pull_request }
        | TaskState::Updated { pull_request }
        | TaskState::Merged { pull_request }
        | TaskState::Closed { pull_request } => lines.push(format!("result    {}", pull_request.url)),
        TaskState::Rejected { violations } => {
            lines.extend(violations.iter().map(|violation| format!("reason    {}", plain(&violation.message))));
        }
        TaskState::Failed { failure } => {
            lines.push(format!("reason    {} ({})", plain(&failure.message), failure.code));
            lines.push(format!("next      {}", plain(&failure.next_step)));
        }
        TaskState::Queued { .. } | TaskState::DiffReady | TaskState::NoChanges | TaskState::Cancelled { .. } => {}
    }
    if !task.used.is_nothing() {
        lines.push(format!("used      {}", super::budget::used_words(&task.used)));
    }
    for note in &task.notes {
        lines.push(format!("note      {}, {}", note.actor.login, when(note.at)));
        let text = text::clean(note.text.as_bytes());
        lines.extend(text.lines().map(|line| format!("            {line}")));
    }
    print(&lines);
    if let Some(evidence) = evidence {
        Show::new(std::io::stdout(), false).evidence(evidence);
    }
}

/// One line without control codes: titles come from people on the forge.
fn plain(text: &str) -> String {
    text::clean(text.as_bytes()).lines().collect::<Vec<_>>().join(" ")
}

/// A moment for people.
pub(super) fn when(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Lines of data. A reader that went away (`| head`) is not an error.
pub(super) fn print(lines: &[String]) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            return;
        }
    }
}

pub(super) fn print_json<T: serde::Serialize>(value: &T) -> Result<u8, Failure> {
    print(&[serde_json::to_string_pretty(value).map_err(Failure::internal)?]);
    Ok(0)
}
