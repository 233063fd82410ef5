//! What a pull request shows for itself: what was tested, where, and with which result.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    egress::EgressRecord,
    finding::{BundleDigest, Finding, RiskTier},
    limits::LimitHit,
    proof::{Proof, TestCounts},
    repo::{CommitSha, NameError, TreeSha},
    task::AgentName,
};

/// How one check of the repository ended. The verdict comes from the exit of the command, never from its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CheckOutcome {
    /// Exit code 0.
    Passed,
    /// Another exit code.
    Failed {
        /// The exit code.
        exit_code: i32,
    },
    /// Ended by a signal that Onramp did not send.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// Ran longer than its limit and was ended.
    TimedOut {
        /// The limit, in seconds.
        limit_s: u64,
    },
    /// Exit code 0, but its runner said that no test ran: that shows nothing, so it is no pass.
    NoTests,
}

/// One check, run in the verification sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckResult {
    /// Its name in `.onramp.toml`.
    pub name: String,
    /// The command line, run by `sh -c`.
    pub command: String,
    /// False: a failure is shown but does not hold the pull request back.
    pub required: bool,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// Limits of the sandbox that it ran into, which may be why it did not pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitHit>,
    /// It failed and then passed on the same tree, in a second fresh sandbox.
    #[serde(default, skip_serializing_if = "is_false")]
    pub flaky: bool,
    /// It failed on the untouched base too, in the same tests and no other, so it holds nothing back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub already_failing: bool,
    /// Files of the tree that it changed while it ran, the first few; they were put back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// The tests that its runner said it ran, where its output is understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestCounts>,
    /// Wall time, in milliseconds.
    pub duration_ms: u64,
    /// The end of its output, both streams in order of arrival, without terminal control codes.
    pub output_tail: String,
}

impl CheckResult {
    /// Whether the command ended with exit code 0.
    pub fn passed(&self) -> bool {
        self.outcome == CheckOutcome::Passed
    }

    /// Whether this result holds the pull request back.
    pub fn blocks(&self) -> bool {
        self.required && !self.passed() && !self.already_failing
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Tokens of a task. `None`: nobody knows, which is not zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenUsage {
    /// Tokens read by the model, cached ones included.
    pub input: Option<u64>,
    /// Tokens written by the model.
    pub output: Option<u64>,
    /// Cost in millionths of a US dollar.
    pub cost_microusd: Option<u64>,
}

impl TokenUsage {
    /// Both together. What one side does not know is taken from the other.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        fn add(a: Option<u64>, b: Option<u64>) -> Option<u64> {
            match (a, b) {
                (Some(a), Some(b)) => Some(a.saturating_add(b)),
                (known, None) | (None, known) => known,
            }
        }
        Self {
            input: add(self.input, other.input),
            output: add(self.output, other.output),
            cost_microusd: add(self.cost_microusd, other.cost_microusd),
        }
    }
}

/// What was lent of the GPUs of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuUse {
    /// The devices, each once: `NVIDIA H100 PCIe GPU-…`.
    pub devices: Vec<String>,
    /// From lease to release, in milliseconds, one device after the other.
    pub lent_ms: u64,
}

/// The end of the journal at some moment. Whoever keeps it can tell later whether a journal was cut or replaced by an
/// older copy, because the hash stands for every record up to there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Anchor {
    /// The sequence of the last record.
    pub sequence: u64,
    /// Its SHA-256, in hexadecimal.
    pub hash: String,
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for Anchor {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        let parsed = value.split_once(':').and_then(|(sequence, hash)| {
            let hash = hash.to_ascii_lowercase();
            let whole = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
            Some(Self { sequence: sequence.parse().ok()?, hash }).filter(|_| whole)
        });
        parsed.ok_or_else(|| NameError {
            value: value.chars().take(120).collect(),
            expected: "an anchor, which is a record's number, a colon and 64 hexadecimal digits",
        })
    }
}

/// The record of one attempt that reached verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// The commit that the change started from.
    pub base: CommitSha,
    /// The tree that policy judged, that the checks ran on, and that was committed.
    pub tree: TreeSha,
    /// SHA-256 of the canonical patch (sorted entries: path, mode, bytes), in hexadecimal.
    pub patch_sha256: String,
    /// Changed files.
    pub n_files: u64,
    /// Added lines.
    pub n_added: u64,
    /// Removed lines.
    pub n_removed: u64,
    /// Results of the checks, in the order of the configuration.
    pub checks: Vec<CheckResult>,
    /// What the change did to checks and tests, where the base was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Where the configuration of the checks came from: `.onramp.toml` of the base branch, or what was detected.
    pub checks_from: String,
    /// The agent.
    pub agent: AgentName,
    /// How many rounds (agent, then checks) it took.
    pub rounds: u32,
    /// Tokens and cost of all rounds together: metered by the model gateway where `claimed` is there, else what the agent
    /// said of itself.
    pub usage: TokenUsage,
    /// What the agent said of its tokens, where `usage` was metered. Nothing is reckoned with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<TokenUsage>,
    /// The kind of sandbox: `docker` or `namespace`.
    pub sandbox: String,
    /// The environment in it: image name and digest, or `host tools`.
    pub environment: String,
    /// Hosts that the sandbox asked for and did not get, each once, sorted.
    pub blocked_hosts: Vec<String>,
    /// What the attempt asked of the world outside; `None` in records from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressRecord>,
    /// The GPUs that agent and checks were lent; `None`: none was needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuUse>,
    /// The end of Onramp's journal when the attempt began: what `onramp audit verify --anchor` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Anchor>,
    /// What policy found and did not block: what a reviewer should look at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// The risk that the change was taken for; `None`: no tier is configured, or none fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<RiskTier>,
    /// The signed statement that says all this to whoever does not believe this record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleDigest>,
    /// Wall time of the attempt until verification ended, in milliseconds.
    pub duration_ms: u64,
}
