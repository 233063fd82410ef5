//! Stub: owned by the gates room. The target repository's `.onramp.toml`, from its base branch.
use std::{collections::BTreeMap, time::Duration};

use tasks::Failure;

use crate::sandbox::{Limits, TreeFile};

/// The name of the file.
pub const FILE_NAME: &str = ".onramp.toml";

/// What a repository says about itself, or what was detected. Effective values, defaults filled in.
#[derive(Debug, Clone)]
pub struct RepoConfig {
    /// `.onramp.toml`, or `detected: Cargo.toml (cargo test --locked), …`.
    pub origin: String,
    /// Environment.
    pub environment: Environment,
    /// Checks, in order. Never empty.
    pub checks: Vec<Check>,
    /// Limits.
    pub limits: TaskLimits,
    /// Policy.
    pub policy: Policy,
    /// Pull request options.
    pub pull_request: PullRequestOptions,
    /// Hosts that setup, agent and checks may reach.
    pub network: Network,
}

/// Where commands run.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Image name.
    pub image: Option<String>,
    /// A Dockerfile in the repository, built by the engine.
    pub dockerfile: Option<String>,
    /// Run before the agent and before the checks, in order.
    pub setup: Vec<String>,
    /// Environment variables of every command.
    pub env: BTreeMap<String, String>,
    /// GPU requirement, as written.
    pub gpu: Option<String>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Name.
    pub name: String,
    /// Command line for `sh -c`.
    pub command: String,
    /// Wall limit.
    pub timeout: Duration,
    /// False: shown, but holds nothing back.
    pub required: bool,
}

/// Limits of a task.
#[derive(Debug, Clone)]
pub struct TaskLimits {
    /// Wall time of the agent, per round.
    pub time: Duration,
    /// The agent is stopped after so long without a byte of output.
    pub idle: Duration,
    /// Rounds: agent, then checks. At least 1.
    pub rounds: u32,
    /// Limits of each sandbox.
    pub sandbox: Limits,
}

/// What a patch may touch.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Globs that no patch may touch.
    pub protected: Vec<String>,
    /// When not empty: globs outside of which no patch may touch anything.
    pub allowed: Vec<String>,
    /// Files.
    pub max_files: usize,
    /// Bytes of all new contents.
    pub max_bytes: u64,
    /// Whether binary files may be added or changed.
    pub binaries: bool,
}

/// How pull requests are opened.
#[derive(Debug, Clone, Default)]
pub struct PullRequestOptions {
    /// As a draft.
    pub draft: bool,
    /// Labels to set.
    pub labels: Vec<String>,
    /// Logins to ask for review.
    pub reviewers: Vec<String>,
}

/// The hosts that may be reached.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Exact hosts, or `.suffix`. Empty: none at all.
    pub allow: Vec<String>,
}

impl RepoConfig {
    /// From the base commit: `.onramp.toml` when it is there, else by looking at the tree.
    ///
    /// # Errors
    /// E007 with the line and a "did you mean"; E041 when there is nothing to check with.
    pub fn load(_file: Option<&[u8]>, _tree: &[TreeFile]) -> Result<Self, Failure> {
        todo!()
    }
}
