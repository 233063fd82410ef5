//! Stub: owned by the words room. The words: every text that people or agents read, one render function each.
use serde::Serialize;

/// A template that could not be rendered.
#[derive(Debug, thiserror::Error)]
#[error("cannot render the template {name}")]
pub struct RenderError {
    /// Which.
    pub name: String,
    /// Why.
    #[source]
    pub source: minijinja::Error,
}

/// What the agent is asked in its first round.
#[derive(Debug, Serialize)]
pub struct Prompt<'a> {
    /// `owner/name`.
    pub repo: &'a str,
    /// The commit, short, and its branch.
    pub base: &'a str,
    /// One line.
    pub title: &'a str,
    /// The rest. Cleaned and fenced by the render function unless trusted.
    pub body: &'a str,
    /// Whether it was typed at the command line.
    pub trusted: bool,
    /// Issue number.
    pub issue: Option<u64>,
    /// (name, command) of each check.
    pub checks: Vec<(&'a str, &'a str)>,
    /// Globs that must not be touched.
    pub protected: Vec<&'a str>,
    /// Hosts that may be reached.
    pub hosts: Vec<&'a str>,
}

/// What the agent is asked in a later round.
#[derive(Debug, Serialize)]
pub struct RepairPrompt<'a> {
    /// The failed checks.
    pub failed: Vec<CheckLine<'a>>,
    /// The first prompt, for agents that cannot resume a conversation; `None` when it is resumed.
    pub first_prompt: Option<&'a str>,
}

/// One check in any text.
#[derive(Debug, Clone, Serialize)]
pub struct CheckLine<'a> {
    /// Name.
    pub name: &'a str,
    /// Command.
    pub command: &'a str,
    /// `passed`, `failed (exit code 1)`, `timed out after 900 s`, `killed by signal 9`.
    pub result: String,
    /// Passed?
    pub passed: bool,
    /// Holds the pull request back when it fails?
    pub required: bool,
    /// `41 s`, `350 ms`.
    pub time: String,
    /// The end of its output.
    pub tail: &'a str,
}

/// The commit.
#[derive(Debug, Serialize)]
pub struct CommitMessage<'a> {
    /// One line.
    pub title: &'a str,
    /// Issue number.
    pub issue: Option<u64>,
    /// Task id.
    pub task_id: &'a str,
    /// `claude`.
    pub agent: &'a str,
    /// Login of who asked.
    pub requester: &'a str,
}

/// The pull request.
#[derive(Debug, Serialize)]
pub struct PullRequestText<'a> {
    /// Issue number: `Fixes #N`.
    pub issue: Option<u64>,
    /// Title of the request.
    pub title: &'a str,
    /// What the agent said; cleaned by the render function.
    pub summary: Option<&'a str>,
    /// Task id.
    pub task_id: &'a str,
    /// The published commit, short.
    pub head: &'a str,
    /// Base commit, short.
    pub base: &'a str,
    /// Tree.
    pub tree: &'a str,
    /// Patch digest.
    pub patch_sha256: &'a str,
    /// (files, added, removed).
    pub stat: (u64, u64, u64),
    /// Checks.
    pub checks: Vec<CheckLine<'a>>,
    /// Where the checks' configuration came from.
    pub checks_from: &'a str,
    /// `docker`.
    pub sandbox: &'a str,
    /// `rust:1.91@sha256:…`.
    pub environment: &'a str,
    /// Agent.
    pub agent: &'a str,
    /// Rounds.
    pub rounds: u32,
    /// Login of who asked.
    pub requester: &'a str,
    /// `11 m`.
    pub time: String,
    /// `12,345 in, 678 out`, when the agent said.
    pub tokens: Option<String>,
    /// `$0.84`, when the agent said.
    pub cost: Option<String>,
    /// Refused hosts.
    pub blocked_hosts: Vec<&'a str>,
}

/// The status comment of a task on its issue.
#[derive(Debug, Serialize)]
pub struct StatusComment<'a> {
    /// Task id.
    pub task_id: &'a str,
    /// State word: queued, preparing, running, verifying, publishing, done, no_changes, rejected, failed, stopped.
    pub state: &'a str,
    /// The pull request's URL and number.
    pub pull_request: Option<(&'a str, u64)>,
    /// Login of who asked.
    pub requester: &'a str,
    /// Failure: code, message, next step, detail.
    pub failure: Option<FailureLine<'a>>,
    /// Violations: rule, path, message.
    pub violations: Vec<(&'a str, &'a str, &'a str)>,
    /// Checks, where it got that far.
    pub checks: Vec<CheckLine<'a>>,
    /// What was kept, in words, for the people who run Onramp.
    pub kept: Option<&'a str>,
}

/// A failure in any text.
#[derive(Debug, Serialize)]
pub struct FailureLine<'a> {
    /// `E040`.
    pub code: &'a str,
    /// What happened and why.
    pub message: &'a str,
    /// What to do.
    pub next_step: &'a str,
    /// More.
    pub detail: Option<&'a str>,
}

/// Renders the first prompt.
pub fn prompt(_c: &Prompt<'_>) -> Result<String, RenderError> {
    todo!()
}
/// Renders a repair prompt.
pub fn repair_prompt(_c: &RepairPrompt<'_>) -> Result<String, RenderError> {
    todo!()
}
/// Renders a commit message.
pub fn commit_message(_c: &CommitMessage<'_>) -> Result<String, RenderError> {
    todo!()
}
/// Renders a pull request body.
pub fn pull_request(_c: &PullRequestText<'_>) -> Result<String, RenderError> {
    todo!()
}
/// Renders a status comment; contains [`status_marker`].
pub fn status_comment(_c: &StatusComment<'_>) -> Result<String, RenderError> {
    todo!()
}
/// The hidden marker of a task's status comment.
pub fn status_marker(task_id: &str) -> String {
    format!("<!-- onramp:task={task_id} -->")
}
/// Text from outside without what people do not see: HTML comments, zero-width, bidi and tag characters, control codes.
pub fn clean_untrusted(_text: &str) -> String {
    todo!()
}
/// The definitions of agents that ship with Onramp: (file name, TOML).
pub static AGENTS: &[(&str, &str)] = &[];
