//! Stub: owned by the agents room. Which program edits, how it is called, and how its output is read.
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use tasks::{AgentName, Failure, TokenUsage};
use tokio_util::sync::CancellationToken;

use crate::{artifacts::Artifacts, progress::Progress, sandbox::Sandbox};

/// The known agents: those that ship with Onramp, and the operator's own on top.
#[derive(Debug, Clone)]
pub struct Agents {}

impl Agents {
    /// The embedded definitions, overridden and extended by `*.toml` in `dir`, and those given in code (tests, demo).
    pub fn load(_dir: Option<PathBuf>) -> Result<Self, Failure> {
        todo!()
    }
    /// One agent by name. E020 lists the known names.
    pub fn get(&self, _name: &AgentName) -> Result<&AgentDefinition, Failure> {
        todo!()
    }
    /// Adds an agent that is any command line, with the name `command`-like semantics: exit code and changed files count.
    pub fn insert_command(&mut self, _name: AgentName, _argv: Vec<String>) {
        todo!()
    }
}

/// One agent as data.
#[derive(Debug, Clone)]
pub struct AgentDefinition {}

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
    /// Wall limit.
    pub time: Duration,
    /// Silence limit.
    pub idle: Duration,
    /// The raw event stream goes to `transcript-<round>.log`.
    pub artifacts: &'a Artifacts,
    /// 1, 2, …
    pub number: u32,
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
    _sandbox: &Sandbox,
    _round: Round<'_>,
    _progress: &Progress,
    _cancel: &CancellationToken,
) -> Result<AgentResult, Failure> {
    todo!()
}
