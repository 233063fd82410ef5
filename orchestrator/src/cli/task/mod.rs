//! `onramp task`: what an operator does with tasks. Whatever it asks, it asks the API, on the control socket of a running
//! `onramp serve`, or of itself where none runs; so `--json` is what the API answers.

mod checkout;
mod logs;
mod show;

use std::io::Write as _;

use clap::{Args, Subcommand};
use serde_json::json;
use tasks::{AgentName, Failure, RepoName, Timestamp};

use self::logs::LogsArgs;
use super::{
    Setting,
    out::{print, print_json},
};
use crate::{
    control::Client,
    front::{
        Said, Spoken,
        view::{TaskDetail, TaskPage, TaskView},
    },
    now,
};

/// TASK is the beginning or end of an id (at least 4 digits), #12 (an issue or pull request), owner/name#12, the
/// address of one, or `last`.
#[derive(Debug, Subcommand)]
pub(super) enum TaskCommand {
    /// List tasks, newest first, with why each one waits
    List(ListArgs),
    /// Show one task: what was asked, what was said since, where it stands, what was verified
    Show(ShowArgs),
    /// Print the log of a task
    Logs(LogsArgs),
    /// Print the verified or last diff of a task, and nothing else
    Diff(WhichArgs),
    /// Stop a task that waits or runs; what was done until then is kept
    Stop(WhichArgs),
    /// End a running task with what is there: it is checked and published as it is
    Finish(WhichArgs),
    /// Put a failed, rejected, empty or stopped task back into the queue
    Retry(WhichArgs),
    /// Say something to a task, or have its open pull request changed further
    Say(SayArgs),
    /// Take over: bring the branch or the diff of a task into this checkout
    Checkout(WhichArgs),
    /// Ask for the same again, by another agent perhaps; ends in a diff, published nowhere
    Replay(ReplayArgs),
    /// Print the address of a task's pull request or issue, and open it where there is a browser
    Open(WhichArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only tasks of this repository, as owner/name
    #[arg(long)]
    repo: Option<RepoName>,
    /// Only tasks in this state, such as queued, running, failed; `dead` for those whose workers kept vanishing
    #[arg(long)]
    state: Option<String>,
    /// Only tasks that wait or run
    #[arg(long)]
    unfinished: bool,
    /// Only tasks that this login asked for
    #[arg(long, value_name = "LOGIN")]
    by: Option<String>,
    /// Only tasks asked for in the last time, such as 24h or 7d
    #[arg(long, value_name = "PERIOD")]
    since: Option<crate::config::Period>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Print them as the API does
    #[arg(long)]
    json: bool,
    /// Print each as the API does, one a line
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Print it as the API does
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct WhichArgs {
    /// The task; the newest one where none is named
    #[arg(default_value = "last")]
    task: String,
}

#[derive(Debug, Args)]
pub(super) struct SayArgs {
    /// The task
    task: String,
    /// What to consider or to change
    text: String,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// The agent; the same where none is named
    #[arg(long)]
    agent: Option<AgentName>,
}

pub(super) async fn run(setting: &Setting, command: TaskCommand) -> Result<u8, Failure> {
    let client = Client::connect(&setting.config, &setting.surroundings.user).await?;
    let done = act(setting, &client, command).await;
    client.close().await;
    done
}

async fn act(setting: &Setting, client: &Client, command: TaskCommand) -> Result<u8, Failure> {
    match command {
        TaskCommand::List(args) => list(client, args).await,
        TaskCommand::Show(ShowArgs { which, json }) => {
            let task: TaskDetail = client.get(&path(&which.task, "")).await?;
            if json { print_json(&task) } else { Ok(show::describe(&task)) }
        }
        TaskCommand::Logs(args) => logs::logs(client, args, setting.colour).await,
        TaskCommand::Diff(which) => {
            let diff = client.open(&path(&which.task, "/diff"), &[]).await?;
            let diff = diff.bytes().await.map_err(Failure::internal)?;
            // A reader that went away is not an error.
            let _ = std::io::stdout().lock().write_all(&diff);
            Ok(0)
        }
        TaskCommand::Stop(which) => told(&post(client, &which.task, "/stop").await?),
        TaskCommand::Finish(which) => told(&post(client, &which.task, "/finish").await?),
        TaskCommand::Retry(which) => told(&post(client, &which.task, "/retry").await?),
        TaskCommand::Say(SayArgs { task, text }) => {
            let spoken: Spoken = client.post(&path(&task, "/say"), Some(&Said { text })).await?;
            let line = match spoken {
                Spoken::Note { task } => format!("{} takes it up", task.short()),
                Spoken::FollowUp { task } => format!("{} changes the pull request further", task.short()),
            };
            print(&[line]);
            Ok(0)
        }
        TaskCommand::Checkout(which) => checkout::checkout(client, &which.task).await,
        TaskCommand::Replay(ReplayArgs { which, agent }) => {
            let body = json!({ "agent": agent });
            let task: TaskDetail = client.post(&path(&which.task, "/replay"), Some(&body)).await?;
            told(&task.task)
        }
        TaskCommand::Open(which) => open(setting, &client.get(&path(&which.task, "")).await?).await,
    }
}

async fn list(client: &Client, args: ListArgs) -> Result<u8, Failure> {
    let since = args.since.map(|since| now() - chrono::Duration::from_std(since.0).unwrap_or_default());
    let mut tasks: Vec<TaskView> = Vec::new();
    let mut cursor = None;
    loop {
        let left = args.limit - tasks.len();
        let page: TaskPage = client.get(&query(&args, since, left, cursor.as_deref())).await?;
        tasks.extend(page.tasks);
        cursor = page.next.filter(|_| tasks.len() < args.limit);
        if cursor.is_none() {
            break;
        }
    }
    if args.json {
        return print_json(&tasks);
    }
    let lines: Result<Vec<_>, _> = match args.jsonl {
        true => tasks.iter().map(serde_json::to_string).collect(),
        false => Ok(tasks.iter().map(show::line).collect()),
    };
    print(&lines.map_err(Failure::internal)?);
    if tasks.is_empty() && !args.jsonl {
        eprintln!("no such task");
    }
    Ok(0)
}

fn query(args: &ListArgs, since: Option<Timestamp>, limit: usize, cursor: Option<&str>) -> String {
    let mut query = format!("/tasks?limit={limit}&unfinished={}", args.unfinished);
    let parts = [
        ("repo", args.repo.as_ref().map(RepoName::to_string)),
        ("state", args.state.clone()),
        ("requester", args.by.clone()),
        ("since", since.map(|since| since.to_rfc3339())),
        ("cursor", cursor.map(str::to_owned)),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", encoded(&value)));
        }
    }
    query
}

async fn post(client: &Client, task: &str, verb: &str) -> Result<TaskView, Failure> {
    let task: TaskDetail = client.post(&path(task, verb), None::<&()>).await?;
    Ok(task.task)
}

/// Where the API has a task.
fn path(task: &str, rest: &str) -> String {
    format!("/tasks/{}{rest}", encoded(task))
}

/// Percent-encoded, so that it is one part of a path or query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn told(task: &TaskView) -> Result<u8, Failure> {
    let word = match (task.stopping, task.finishing) {
        (true, _) => "stopping",
        (false, true) => "finishing",
        (false, false) => &task.state,
    };
    print(&[format!("{} {word}", task.id)]);
    Ok(0)
}

async fn open(setting: &Setting, task: &TaskDetail) -> Result<u8, Failure> {
    let server = &setting.config.server;
    let root =
        if server.public_url.is_empty() { format!("http://{}", server.listen) } else { server.public_url.clone() };
    let page = format!("{}/tasks/{}", root.trim_end_matches('/'), task.task.id);
    let address = task.task.pull_request.as_ref().map_or(page, |pull| pull.url.clone());
    print(&[&address]);
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        // Where there is no browser, the address stands above.
        let opened = tokio::process::Command::new("xdg-open").arg(&address).status().await;
        tracing::debug!(?opened, "a browser");
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_names_a_task_is_one_part_of_the_path() {
        assert_eq!(path("acme/web#12", "/stop"), "/tasks/acme%2Fweb%2312/stop");
        assert_eq!(encoded("a b&c=é"), "a%20b%26c%3D%C3%A9");
    }
}
