//! `.onramp.toml` as it is written: every key, its type and its meaning. The JSON Schema for editors comes from here, so
//! the doc comments are what people read there.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use tasks::{AgentName, GpuRequest};
use toml::Spanned;

use super::{
    Draft, PullRequestTemplate,
    values::{
        BranchPattern, CheckName, CommandLine, Dollars, FilePath, Host, PathGlob, SandboxSize, TierName, Time, Trailer,
        VariableName, cpus, gpu, in_range,
    },
};
use crate::policy::PolicyTable;

/// How Onramp works on this repository. Read from the base branch only, never from a change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = ".onramp.toml")]
pub(super) struct ConfigFile {
    /// The version of this format: 1.
    #[schemars(with = "u64", range(min = 1, max = 1))]
    pub(super) version: Spanned<i64>,
    /// Where setup, agent and checks run.
    #[serde(default)]
    pub(super) environment: EnvironmentTable,
    /// What must pass before a pull request exists, in order. When absent, checks are detected from the files at the top
    /// of the repository.
    #[serde(default, rename = "check")]
    pub(super) checks: Vec<CheckTable>,
    /// How much a task may use.
    #[serde(default)]
    pub(super) limits: LimitsTable,
    /// What a change may touch.
    #[serde(default)]
    pub(super) policy: PolicyTable,
    /// Tiers of risk, the lowest first.
    #[serde(default, rename = "tier")]
    pub(super) tiers: Vec<TierTable>,
    /// How pull requests are opened.
    #[serde(default)]
    pub(super) pull_request: PullRequestTable,
    /// What can be reached from inside.
    #[serde(default)]
    pub(super) network: NetworkTable,
}

/// Where setup, agent and checks run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvironmentTable {
    /// The image that sandboxes start from, such as "rust:1.91". Not together with `dockerfile`.
    #[schemars(with = "Option<String>")]
    pub(super) image: Option<Spanned<String>>,
    /// A Dockerfile of this repository to build the image from. Not together with `image`.
    #[schemars(with = "Option<String>")]
    pub(super) dockerfile: Option<Spanned<String>>,
    /// Commands for `sh -c` that run in order before the agent and before the checks.
    pub(super) setup: Option<Vec<CommandLine>>,
    /// Environment variables of every command. No secrets: this file is public to whoever reads the repository.
    #[serde(default)]
    pub(super) env: BTreeMap<VariableName, String>,
    /// Commands for `sh -c` that fill build caches when a base is prepared, after `setup`. One that fails is told and
    /// spoils nothing. Default: what the detected checks would build.
    pub(super) prebuild: Option<Vec<CommandLine>>,
    /// Globs of further files whose change needs a new base, besides lock files and this file.
    #[serde(default)]
    pub(super) rebuild_on: Vec<PathGlob>,
    /// The GPU for checks that say `gpu = true`: "any", "h100", "a100-80gb:2" (two of them), "h100!" (nothing bigger
    /// instead), a list in order of preference, or {min_vram = "40GiB"}. True and a number of devices mean any.
    #[serde(default, deserialize_with = "gpu")]
    #[schemars(with = "Option<Gpu>")]
    pub(super) gpu: Option<GpuRequest>,
    /// Whether the agent gets that GPU too, while it works. Default false: a GPU is lent only while checks need it.
    #[serde(default)]
    pub(super) agent_gpu: bool,
}

/// The ways to ask for a GPU; only for the schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[expect(dead_code, reason = "describes the schema of a value that is read by hand")]
enum Gpu {
    Wanted(bool),
    Devices(u8),
    Request(GpuRequest),
}

/// One check: a command that must end with exit code 0.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckTable {
    /// Its name, unique.
    #[schemars(with = "CheckName")]
    pub(super) name: Spanned<CheckName>,
    /// The command line for `sh -c`, run at the top of the repository.
    pub(super) command: CommandLine,
    /// How long it may take. Default "15m".
    pub(super) timeout: Option<Time>,
    /// False: a failure is shown but does not hold the pull request back. Default true.
    #[serde(default = "yes")]
    pub(super) required: bool,
    /// Whether it needs a GPU: true for the one under [environment], or one of its own, written as there. Such checks run
    /// after all others passed, in a sandbox of their own.
    #[serde(default, deserialize_with = "gpu_of_check")]
    #[schemars(with = "Option<Gpu>")]
    pub(super) gpu: CheckGpu,
}

/// What a check says of GPUs.
#[derive(Debug, Clone, Default)]
pub(super) enum CheckGpu {
    /// It needs none.
    #[default]
    None,
    /// The one of the environment.
    Environment,
    /// One of its own.
    Own(GpuRequest),
}

fn gpu_of_check<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CheckGpu, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Wanted(bool),
        Other(toml::Value),
    }
    match Flag::deserialize(deserializer)? {
        Flag::Wanted(true) => Ok(CheckGpu::Environment),
        Flag::Wanted(false) => Ok(CheckGpu::None),
        Flag::Other(value) => Ok(gpu(value).map_err(de::Error::custom)?.map_or(CheckGpu::None, CheckGpu::Own)),
    }
}

fn yes() -> bool {
    true
}

/// How much a task may use.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsTable {
    /// Wall time of the agent in each round. Default "45m".
    pub(super) time: Option<Time>,
    /// The agent is stopped after so long without output. Default "10m".
    pub(super) idle: Option<Time>,
    /// How often the agent may try, the first time included. Default 3.
    #[serde(default, deserialize_with = "in_range::<_, 1, 10>")]
    #[schemars(range(min = 1, max = 10))]
    pub(super) rounds: Option<u64>,
    /// Memory of each sandbox. Default "4GiB".
    pub(super) memory: Option<SandboxSize>,
    /// CPUs of each sandbox; a fraction is fine. Default 2.
    #[serde(default, deserialize_with = "cpus")]
    #[schemars(range(min = 0.1, max = 1024))]
    pub(super) cpus: Option<f64>,
    /// Processes and threads in each sandbox. Default 1024.
    #[serde(default, deserialize_with = "in_range::<_, 16, 1_000_000>")]
    #[schemars(range(min = 16, max = 1_000_000))]
    pub(super) pids: Option<u64>,
    /// What may be written in each sandbox. Default "10GiB".
    pub(super) disk: Option<SandboxSize>,
}

/// A tier of risk: which changes belong to it, and what holds for them. Later tiers are higher. A change belongs to the
/// highest tier that one of its rules fits; what holds for it can only be stricter than without the tier.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TierTable {
    /// Its name, unique.
    pub(super) name: TierName,
    /// Changes that touch a file of these globs belong to it.
    #[serde(default)]
    pub(super) paths: Vec<PathGlob>,
    /// Issues with one of these labels belong to it.
    #[serde(default)]
    pub(super) labels: Vec<String>,
    /// What these people ask for belongs to it, by login.
    #[serde(default)]
    pub(super) requesters: Vec<String>,
    /// Changes of at least so many files belong to it.
    #[serde(default, deserialize_with = "in_range::<_, 1, 10_000>")]
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) min_files: Option<u64>,
    /// Changes with at least so many added and removed lines belong to it.
    #[serde(default, deserialize_with = "in_range::<_, 1, 10_000_000>")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(super) min_lines: Option<u64>,
    /// How often the agent may try, at most.
    #[serde(default, deserialize_with = "in_range::<_, 1, 10>")]
    #[schemars(range(min = 1, max = 10))]
    pub(super) rounds: Option<u64>,
    /// Names of checks that are required here, though they are optional elsewhere.
    #[serde(default)]
    pub(super) require: Vec<CheckName>,
    /// Checks that only run here.
    #[serde(default, rename = "check")]
    pub(super) checks: Vec<CheckTable>,
    /// The pull request is a draft.
    #[serde(default)]
    pub(super) draft: bool,
    /// Logins to ask for review.
    #[serde(default)]
    pub(super) reviewers: Vec<String>,
    /// How many people are to approve the pull request. Onramp says so in the pull request; a rule of the branch holds it.
    #[serde(default, deserialize_with = "in_range::<_, 1, 10>")]
    #[schemars(range(min = 1, max = 10))]
    pub(super) approvals: Option<u64>,
    /// The agent that works here.
    #[schemars(with = "Option<String>")]
    pub(super) agent: Option<AgentName>,
    /// The model that the agent is told to use.
    pub(super) model: Option<String>,
    /// The only hosts that may be reached here, of those under [network]. Empty: none.
    pub(super) network: Option<Vec<Host>>,
    /// False: the agent gets no GPU here.
    pub(super) gpu: Option<bool>,
    /// Wall time of the agent in each round, at most.
    pub(super) time: Option<Time>,
    /// US dollars: no further round begins when the agent has used so much.
    pub(super) budget: Option<Dollars>,
}

/// How pull requests are opened.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PullRequestTable {
    /// As a draft: always (true), never (false), or when a check failed that may fail ("unverified"). Default false.
    #[serde(default)]
    pub(super) draft: DraftValue,
    /// Labels to set.
    #[serde(default)]
    pub(super) labels: Vec<String>,
    /// Logins to ask for review.
    #[serde(default)]
    pub(super) reviewers: Vec<String>,
    /// How its branch is named: {issue}, {slug} (the title) and {id}, which has to be its end. Default
    /// "onramp/{issue}-{slug}-{id}".
    pub(super) branch: Option<BranchPattern>,
    /// Lines at the end of the commit message, besides Task-Id: {agent}, {requester} and {requester_id} are filled in; a
    /// line that needs an id where there is none is left out. Default ["Assisted-by: {agent}", "Requested-by: {requester}"].
    pub(super) trailers: Option<Vec<Trailer>>,
    /// The repository's own template, which goes behind Onramp's words: true (where the forge looks for it), false (none),
    /// or its path. Default true.
    #[serde(default)]
    pub(super) template: TemplateValue,
    /// The heading in that template under which Onramp's words go instead, such as "Description". A line
    /// <!-- onramp --> in the template says so too.
    pub(super) section: Option<String>,
}

/// `true`, `false` or a path.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "template is true, false or the path of a file in this repository")]
pub(super) enum TemplateValue {
    Usual(bool),
    At(FilePath),
}

impl Default for TemplateValue {
    fn default() -> Self {
        Self::Usual(true)
    }
}

impl From<TemplateValue> for PullRequestTemplate {
    fn from(value: TemplateValue) -> Self {
        match value {
            TemplateValue::Usual(true) => Self::Usual,
            TemplateValue::Usual(false) => Self::None,
            TemplateValue::At(path) => Self::At(path.0),
        }
    }
}

/// `true`, `false` or `"unverified"`.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "draft is true, false or \"unverified\"")]
pub(super) enum DraftValue {
    Always(bool),
    When(DraftWhen),
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum DraftWhen {
    Unverified,
}

impl Default for DraftValue {
    fn default() -> Self {
        Self::Always(false)
    }
}

impl From<DraftValue> for Draft {
    fn from(value: DraftValue) -> Self {
        match value {
            DraftValue::Always(true) => Self::Always,
            DraftValue::Always(false) => Self::Never,
            DraftValue::When(DraftWhen::Unverified) => Self::Unverified,
        }
    }
}

/// What can be reached from inside. Models are always reached through Onramp's own gateway and need no entry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkTable {
    /// Hosts for setup and agent: names, ".example.com" for every host below one, or "preset:crates" and its like, which
    /// `onramp presets` lists. Empty: none at all.
    #[serde(default)]
    pub(super) allow: Vec<Host>,
    /// Hosts for setup only, besides `allow`.
    #[serde(default)]
    pub(super) setup: Vec<Host>,
    /// Hosts for the checks. Default: none, so that what passes does not depend on the world outside.
    #[serde(default)]
    pub(super) checks: Vec<Host>,
}
