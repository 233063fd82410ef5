//! Which program edits, how it is called, and how its output is read.
//!
//! An agent is data ([`AgentDefinition`]) and one of a few formats of output. Nothing that it says is believed about the
//! repository: its words decide only whether the round counts as ended well, and even that needs its exit code too. What it
//! did is read from the sandbox afterwards.

mod aider;
mod builtin;
mod claude;
mod codex;
mod definition;
mod events;
mod opencode;
mod placeholder;
mod plain;
mod transcript;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tasks::{Code, Failure, TokenUsage};
use tokio_util::sync::CancellationToken;

use self::{
    definition::PromptBy,
    transcript::{Reader, TRANSCRIPT_BYTES, one_line},
};
pub use self::{
    definition::{AgentDefinition, Agents},
    events::{AgentEvent, UsageScope},
};
use crate::{
    artifacts::Artifacts,
    egress::models::Models,
    progress::{Progress, ProgressEvent},
    run::sandbox_failure,
    sandbox::{Command, Exit, HOME, Output, Sandbox, SandboxError, WORKSPACE},
    text,
};

/// The longest that writing a file into the home directory may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Where the prompt lies for agents that read it from a file, relative to the home directory.
const PROMPT_FILE: &str = ".onramp/prompt.md";
/// What a shell ends with when it does not find a program.
const NOT_FOUND: i32 = 127;

/// What one round of an agent gets.
pub struct Round<'a> {
    /// Which agent.
    pub agent: &'a AgentDefinition,
    /// The whole prompt.
    pub prompt: &'a str,
    /// The conversation to go on with, from the round before.
    pub resume: Option<&'a str>,
    /// Variables of the repository's environment.
    pub env: &'a BTreeMap<String, String>,
    /// Values for the templates in the definition, such as `gateway.anthropic`, `gateway.token`.
    pub gateway: &'a crate::egress::GatewayInside,
    /// The gateway itself, for an agent whose loop runs on this side; `None`: there is none.
    pub models: Option<&'a Models>,
    /// Wall limit.
    pub time: Duration,
    /// Silence limit.
    pub idle: Duration,
    /// The raw event stream goes to `transcript-<round>.log`.
    pub artifacts: &'a Artifacts,
    /// 1, 2, …
    pub number: u32,
    /// Cancelled when it is to stop with what it has done.
    pub finish: &'a CancellationToken,
}

/// How a round ended well: the agent thinks it is done. The diff decides.
#[derive(Debug, Clone, Default)]
pub struct AgentResult {
    /// To go on with.
    pub session: Option<String>,
    /// What it said of its tokens.
    pub usage: TokenUsage,
    /// Its last words.
    pub summary: Option<String>,
}

/// Runs one round of an agent to its end.
///
/// # Errors
/// E021, E022, E023, E025, E070; judged by its events (`is_error`, `turn.failed`, `error`) and exit, not by either alone.
pub async fn run(
    sandbox: &Sandbox,
    round: Round<'_>,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<AgentResult, Failure> {
    let call = Call::new(&round)?;
    for (path, content) in &call.files {
        write_home_file(sandbox, path, content).await?;
    }
    let log = round.artifacts.log(&transcript_name(round.number), TRANSCRIPT_BYTES).map_err(Failure::internal)?;
    let tell = |line| progress.tell(ProgressEvent::Agent(line));
    let mut reader = Reader::new(round.agent.events, log, &tell);
    let clock = SilenceClock::new();
    let ended = {
        let mut on_output = |piece: Output<'_>| {
            clock.heard();
            reader.push(piece);
        };
        // Dropping the run, as every other branch does, kills the agent's process group.
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ended::Cancelled,
            () = round.finish.cancelled() => Ended::ToldToFinish,
            exit = act(sandbox, &round, &call, &mut on_output) => Ended::Exit(exit),
            () = clock.silent_for(round.idle) => Ended::Silent,
        }
    };
    reader.close();
    match ended {
        // What it has done by now is what counts.
        Ended::ToldToFinish => {}
        Ended::Exit(Ok(exit)) => judge(&round, &exit, &reader)?,
        Ended::Exit(Err(SandboxError::CannotRun { program, reason })) => {
            return Err(not_installed(round.agent, &program, &reason));
        }
        Ended::Exit(Err(SandboxError::Lost(reason))) => {
            let message = format!("The sandbox was lost while the agent worked: {reason}");
            return Err(Failure::new(Code::SandboxLost, message).detail(reader.end()));
        }
        Ended::Exit(Err(error)) => return Err(sandbox_failure(error)),
        Ended::Cancelled => return Err(Failure::new(Code::Cancelled, "The task was stopped while the agent worked")),
        Ended::Silent => {
            let message =
                format!("The agent `{}` said nothing for {} and was stopped", round.agent.name, words(round.idle));
            return Err(Failure::new(Code::AgentIdle, message).detail(reader.end()));
        }
    }
    let heard = reader.heard;
    let usage = match heard.conversation_usage {
        None => heard.usage,
        Some(now) if round.resume.is_none() => now,
        Some(now) => {
            let before = round.artifacts.path(&transcript_name(round.number.saturating_sub(1)));
            let before = transcript::conversation_usage(round.agent.events, &before).unwrap_or_default();
            transcript::usage_since(now, before)
        }
    };
    // An agent that cannot resume has no conversation to go on with, whatever it calls it.
    let session = heard.session.filter(|_| round.agent.resume.is_some());
    Ok(AgentResult { session, usage, summary: heard.summary })
}

/// Runs the agent's program, or the loop of the one that has none.
async fn act(
    sandbox: &Sandbox,
    round: &Round<'_>,
    call: &Call,
    on_output: &mut (dyn FnMut(Output<'_>) + Send),
) -> Result<Exit, SandboxError> {
    match &round.agent.builtin {
        Some(builtin) => builtin::run(sandbox, round, builtin, on_output).await,
        None => sandbox.run(&call.command, on_output).await,
    }
}

enum Ended {
    Exit(Result<Exit, SandboxError>),
    Silent,
    Cancelled,
    ToldToFinish,
}

/// How an agent is called in one round.
struct Call {
    command: Command,
    /// (path relative to the home directory, content).
    files: Vec<(String, String)>,
}

impl Call {
    fn new(round: &Round<'_>) -> Result<Self, Failure> {
        let agent = round.agent;
        let mut values: BTreeMap<String, String> =
            round.gateway.urls.iter().map(|(provider, url)| (format!("gateway.{provider}"), url.clone())).collect();
        values.insert("gateway.token".into(), round.gateway.token.clone());
        values.extend(round.resume.map(|session| ("session".into(), session.to_owned())));
        values.extend(agent.model.as_ref().map(|model| ("model".into(), model.clone())));
        match agent.prompt {
            PromptBy::Stdin => None,
            PromptBy::Argument => values.insert("prompt".into(), round.prompt.to_owned()),
            PromptBy::File => values.insert("prompt".into(), format!("{HOME}/{PROMPT_FILE}")),
        };
        let render = |text: &placeholder::Text| text.render(&values).map_err(|name| no_value(agent, &name));

        let mut words: Vec<&placeholder::Text> = agent.command.iter().collect();
        words.extend(agent.model.iter().flat_map(|_| &agent.model_arguments));
        words.extend(round.resume.iter().flat_map(|_| agent.resume.iter().flatten()));
        let argv = words.into_iter().map(render).collect::<Result<_, _>>()?;
        let mut env = round.gateway.env();
        env.extend(round.env.clone());
        for (name, text) in &agent.env {
            env.insert(name.clone(), render(text)?);
        }
        let mut files = Vec::new();
        for (path, text) in &agent.files {
            files.push((path.clone(), render(text)?));
        }
        if agent.prompt == PromptBy::File {
            files.push((PROMPT_FILE.to_owned(), round.prompt.to_owned()));
        }
        let stdin = (agent.prompt == PromptBy::Stdin).then(|| round.prompt.as_bytes().to_vec());
        let command = Command { argv, env, cwd: WORKSPACE.into(), stdin, timeout: round.time };
        Ok(Self { command, files })
    }
}

fn no_value(agent: &AgentDefinition, name: &str) -> Failure {
    let message = match name.strip_prefix("gateway.") {
        Some(provider) => {
            format!(
                "The agent `{}` talks to the model provider `{provider}`, and none of that name is configured",
                agent.name
            )
        }
        None => format!("The definition of the agent `{}` uses {{{{ {name} }}}}, which has no value here", agent.name),
    };
    Failure::new(Code::BadConfig, message)
}

async fn write_home_file(sandbox: &Sandbox, path: &str, content: &str) -> Result<(), Failure> {
    let script = r#"umask 077; mkdir -p "${1%/*}" && cat > "$1""#;
    let mut command = Command::shell(script, WRITE_TIMEOUT);
    command.argv.extend(["sh".to_owned(), format!("{HOME}/{path}")]);
    command.stdin = Some(content.as_bytes().to_vec());
    let mut tail = text::Tail::default();
    let exit = sandbox.run(&command, &mut |piece| tail.push(piece)).await.map_err(sandbox_failure)?;
    if exit.success() {
        return Ok(());
    }
    let message =
        format!("The file ~/{path} of the agent cannot be written in the sandbox ({})", text::exit_words(&exit));
    Err(Failure::new(Code::AgentFailed, message).detail(tail.lines(5)))
}

/// Whether the round ended well: by what the agent said and by how its program ended.
fn judge(round: &Round<'_>, exit: &Exit, reader: &Reader<'_>) -> Result<(), Failure> {
    let (agent, heard) = (round.agent, &reader.heard);
    let name = &agent.name;
    if exit.timed_out {
        let message = format!("The agent `{name}` ran longer than its limit of {} and was stopped", words(round.time));
        let message = text::with_limits(message, &exit.limits);
        return Err(Failure::new(Code::AgentTimedOut, message).detail(reader.end()));
    }
    let in_a_shell = agent.command.first().is_some_and(|word| *word == placeholder::Text::literal("/bin/sh".into()));
    if in_a_shell && exit.code == Some(NOT_FOUND) && !heard.finished {
        return Err(not_installed(agent, name.as_str(), "not found").detail(reader.end()));
    }
    let said = heard.failed.as_ref().or(heard.trouble.as_ref()).map(|why| one_line(why, 400));
    let message = match (said, exit.success()) {
        (Some(why), _) => format!("The agent `{name}` ended with an error: {why}"),
        (None, false) if exit.signal == Some(9) && exit.limits.is_empty() => {
            format!("The agent `{name}` was killed by the system, which it does when memory runs out")
        }
        (None, false) => format!("The agent `{name}` failed ({})", text::exit_words(exit)),
        (None, true) if agent.events.announces_its_end() && !heard.finished => {
            format!("The agent `{name}` ended without saying that it was done")
        }
        (None, true) => return Ok(()),
    };
    Err(Failure::new(Code::AgentFailed, message).detail(reader.end()))
}

fn not_installed(agent: &AgentDefinition, program: &str, reason: &str) -> Failure {
    let message = format!("The agent `{}` cannot be started: `{program}` is not in the sandbox ({reason})", agent.name);
    let failure = Failure::new(Code::AgentNotInstalled, message);
    match &agent.install {
        Some(install) => failure.next(install),
        None => failure,
    }
}

fn transcript_name(number: u32) -> String {
    format!("transcript-{number}.log")
}

fn words(time: Duration) -> String {
    text::duration_words(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// When the agent was last heard.
struct SilenceClock {
    started: Instant,
    heard_at_ms: AtomicU64,
}

impl SilenceClock {
    fn new() -> Self {
        Self { started: Instant::now(), heard_at_ms: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn heard(&self) {
        self.heard_at_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Ends when nothing was heard for so long.
    async fn silent_for(&self, idle: Duration) {
        loop {
            let heard_at = Duration::from_millis(self.heard_at_ms.load(Ordering::Relaxed));
            let silence = self.started.elapsed().saturating_sub(heard_at);
            let Some(rest) = idle.checked_sub(silence).filter(|rest| !rest.is_zero()) else { return };
            tokio::time::sleep(rest).await;
        }
    }
}

#[cfg(test)]
mod tests;
