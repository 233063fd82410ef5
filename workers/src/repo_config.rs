//! What a repository says about itself: `.onramp.toml`, from its base branch.
//!
//! The base branch decides, never the change: an agent that edits the file changes nothing about the attempt that it is
//! part of. A repository without the file still works, with what its own tools call "the tests" (see `detect`). Every
//! value that leaves here is effective and in range, so the rest of the hands never asks again.

mod detect;
mod file;
mod tiers;
mod values;

use std::{collections::BTreeMap, time::Duration};

use tasks::{Action, AgentName, CheckResult, Code, Failure, Finding, GpuRequest, Money, Phase};

use self::file::{CheckGpu, ConfigFile, EnvironmentTable, LimitsTable, NetworkTable, PullRequestTable};
use self::values::{CommandLine, Host};
pub(crate) use self::values::{glob, in_range};
pub use self::{
    file::TierTable,
    tiers::{Terms, Tier, operator_tiers},
    values::{PathGlob, Size, Unprotect, parse_duration, parse_size},
};
use crate::{
    egress::presets,
    policy::{OperatorPolicy, Policy, PolicyTable},
    sandbox::{Limits, TreeFile},
    toml_problem::TomlProblem,
};

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
    /// What the repository itself says of policy.
    pub own_policy: PolicyTable,
    /// What a patch may touch: the operator's word and the repository's.
    pub policy: Policy,
    /// Tiers of risk, the lowest first; the operator's come last.
    pub tiers: Vec<Tier>,
    /// The agent that a tier of risk chose.
    pub agent: Option<AgentName>,
    /// The model that a tier of risk chose.
    pub model: Option<String>,
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
    /// Run after `setup` when a base is prepared, to fill build caches. A failing one is told and spoils nothing.
    pub prebuild: Vec<String>,
    /// Globs of further files whose change needs a new base.
    pub rebuild_on: Vec<String>,
    /// The GPU for checks that ask for the environment's, and for the agent where `agent_gpu` is set.
    pub gpu: Option<GpuRequest>,
    /// The agent works with that GPU too.
    pub agent_gpu: bool,
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
    /// The GPU that it needs.
    pub gpu: Option<GpuRequest>,
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
    /// No further round begins when the agent has used so much.
    pub budget: Option<Money>,
    /// Limits of each sandbox.
    pub sandbox: Limits,
}

/// Which pull requests are opened as drafts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Draft {
    /// None.
    #[default]
    Never,
    /// Those of which something could not be verified: a check failed that may fail.
    Unverified,
    /// All.
    Always,
}

impl Draft {
    /// Whether a pull request with these results is one.
    pub fn applies(self, checks: &[CheckResult]) -> bool {
        match self {
            Self::Never => false,
            Self::Unverified => checks.iter().any(|check| !check.passed()),
            Self::Always => true,
        }
    }
}

/// Which template for pull requests is respected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PullRequestTemplate {
    /// The one that the forge would take.
    #[default]
    Usual,
    /// This file.
    At(String),
    /// None.
    None,
}

/// How pull requests are opened.
#[derive(Debug, Clone)]
pub struct PullRequestOptions {
    /// As a draft.
    pub draft: Draft,
    /// Labels to set.
    pub labels: Vec<String>,
    /// Logins to ask for review.
    pub reviewers: Vec<String>,
    /// The name of its branch, ending in `{id}`.
    pub branch: String,
    /// Lines at the end of the commit message, with placeholders.
    pub trailers: Vec<String>,
    /// The repository's own template.
    pub template: PullRequestTemplate,
    /// The heading in it under which our words go.
    pub section: Option<String>,
}

impl Default for PullRequestOptions {
    fn default() -> Self {
        Self {
            draft: Draft::default(),
            labels: Vec::new(),
            reviewers: Vec::new(),
            branch: tasks::BRANCH_PATTERN.to_owned(),
            trailers: ["Assisted-by: {agent}", "Requested-by: {requester}"].map(str::to_owned).to_vec(),
            template: PullRequestTemplate::default(),
            section: None,
        }
    }
}

/// The hosts that may be reached: exact, or `.suffix`. Empty: none at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// While setup runs and while the agent works.
    pub allow: Vec<String>,
    /// While setup runs, besides those.
    pub setup: Vec<String>,
    /// While checks run.
    pub checks: Vec<String>,
}

impl Network {
    /// Whether nothing can ever be reached.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.setup.is_empty() && self.checks.is_empty()
    }

    /// What can be reached in a phase.
    pub fn of(&self, phase: Phase) -> Vec<String> {
        match phase {
            Phase::Setup => [self.allow.as_slice(), &self.setup].concat(),
            Phase::Agent => self.allow.clone(),
            Phase::Checks => self.checks.clone(),
        }
    }
}

/// The largest `.onramp.toml` that is read, in bytes.
const MAX_FILE_BYTES: usize = 256 << 10;
/// The wall limit of a check that names none.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15 * 60);

impl RepoConfig {
    /// From the base commit: `.onramp.toml` when it is there, else by looking at the tree.
    ///
    /// # Errors
    /// E007 with the line and a "did you mean"; E041 when there is nothing to check with.
    pub fn load(file: Option<&[u8]>, tree: &[TreeFile]) -> Result<Self, Failure> {
        let Some(bytes) = file else {
            let detected = some_checks(detect::detect(tree))?;
            let origin = detected.origin();
            let (setup, prebuild) = (detected.setup, detected.prebuild);
            let environment = Environment { setup, prebuild, ..Environment::default() };
            return Ok(Self {
                origin,
                environment,
                checks: detected.checks,
                limits: limits(&LimitsTable::default()),
                own_policy: PolicyTable::default(),
                policy: Policy::default(),
                tiers: Vec::new(),
                agent: None,
                model: None,
                pull_request: PullRequestOptions::default(),
                network: Network::default(),
            });
        };
        let file = read(bytes)?;
        let (mut environment, open) = environment(file.environment);
        let tiers = tiers::tiers(file.tiers, environment.gpu.as_ref());
        let (checks, origin) = if file.checks.is_empty() {
            let detected = some_checks(detect::detect(tree))?;
            let origin = format!("{FILE_NAME}; checks {}", detected.origin());
            if open.setup {
                environment.setup = detected.setup;
            }
            if open.prebuild {
                environment.prebuild = detected.prebuild;
            }
            (detected.checks, origin)
        } else {
            let gpu = environment.gpu.as_ref();
            (file.checks.into_iter().map(|table| check(table, gpu)).collect(), FILE_NAME.to_owned())
        };
        Ok(Self {
            origin,
            environment,
            checks,
            limits: limits(&file.limits),
            policy: Policy::of(&OperatorPolicy::default(), &file.policy),
            own_policy: file.policy,
            tiers,
            agent: None,
            model: None,
            pull_request: pull_request(file.pull_request),
            network: network(file.network),
        })
    }
}

fn pull_request(table: PullRequestTable) -> PullRequestOptions {
    let PullRequestTable { draft, labels, reviewers, branch, trailers, template, section } = table;
    let default = PullRequestOptions::default();
    PullRequestOptions {
        draft: draft.into(),
        labels,
        reviewers,
        branch: branch.map_or(default.branch, |pattern| pattern.0),
        trailers: trailers.map_or(default.trailers, |trailers| trailers.into_iter().map(|trailer| trailer.0).collect()),
        template: template.into(),
        section,
    }
}

/// What an operator says over all repositories.
#[derive(Debug, Clone, Default)]
pub struct Operator {
    /// Policy, and what of it is locked.
    pub policy: OperatorPolicy,
    /// Tiers of risk, the lowest first; all of them above those of a repository.
    pub tiers: Vec<Tier>,
}

impl RepoConfig {
    /// The same under an operator, whose locks hold and whose tiers are above those of the repository. A tier of the same
    /// name is the operator's.
    #[must_use]
    pub fn under(mut self, operator: &Operator) -> Self {
        self.policy = Policy::of(&operator.policy, &self.own_policy);
        self.tiers.retain(|own| operator.tiers.iter().all(|above| above.name != own.name));
        self.tiers.extend(operator.tiers.iter().cloned());
        self
    }
}

impl PullRequestOptions {
    /// The same for a change with these findings: where one asks, a draft, and the reviewers that policy names. Where policy
    /// names none, those of the pull request are asked anyway.
    #[must_use]
    pub fn with_findings(&self, findings: &[Finding], reviewers: &[String]) -> Self {
        let mut options = self.clone();
        if findings.iter().any(|finding| finding.action >= Action::Ask) {
            options.draft = Draft::Always;
            let new: Vec<_> = reviewers.iter().filter(|login| !options.reviewers.contains(login)).cloned().collect();
            options.reviewers.extend(new);
        }
        options
    }
}

/// The JSON Schema of `.onramp.toml`, for editors; committed as `docs/onramp.schema.json`.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(ConfigFile);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

fn bad(problem: &TomlProblem) -> Failure {
    Failure::new(Code::BadRepoConfig, format!("`{FILE_NAME}` cannot be used: {problem}")).detail(&problem.excerpt)
}

fn some_checks(detected: detect::Detected) -> Result<detect::Detected, Failure> {
    if detected.checks.is_empty() {
        let message = format!(
            "Nothing says how to check a change: no checks are configured, and at the top of the repository there is no {}",
            detect::LOOKED_FOR
        );
        return Err(Failure::new(Code::NoChecks, message));
    }
    Ok(detected)
}

/// Parses the file and checks what no single value can show.
fn read(bytes: &[u8]) -> Result<ConfigFile, Failure> {
    let plain = |message: String| bad(&TomlProblem { at: None, message, excerpt: String::new() });
    if bytes.len() > MAX_FILE_BYTES {
        return Err(plain(format!("it has {} bytes, and at most {MAX_FILE_BYTES} are read", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| plain(format!("byte {} is not UTF-8", e.valid_up_to())))?;
    let file: ConfigFile = toml::from_str(text).map_err(|error| bad(&TomlProblem::new(text, &error)))?;
    cross_check(text, &file).map_err(|problem| bad(&problem))?;
    Ok(file)
}

fn cross_check(text: &str, file: &ConfigFile) -> Result<(), TomlProblem> {
    let version = *file.version.get_ref();
    if version != 1 {
        let message = format!("version {version} is not known here; this Onramp reads version 1");
        return Err(TomlProblem::at(text, file.version.span(), message));
    }
    if let (Some(_), Some(dockerfile)) = (&file.environment.image, &file.environment.dockerfile) {
        let message = "`image` and `dockerfile` exclude each other; keep the one that is meant";
        return Err(TomlProblem::at(text, dockerfile.span(), message));
    }
    for (key, value) in [("image", &file.environment.image), ("dockerfile", &file.environment.dockerfile)] {
        if let Some(value) = value
            && let Some(wrong) = wrong_image(key, value.get_ref())
        {
            return Err(TomlProblem::at(text, value.span(), wrong));
        }
    }
    let EnvironmentTable { gpu, agent_gpu, .. } = &file.environment;
    let nobody = || file.checks.iter().all(|check| !matches!(check.gpu, CheckGpu::Environment));
    if let Some(gpu) = gpu
        && !agent_gpu
        && nobody()
    {
        let message = format!(
            "[environment] gpu asks for a GPU ({gpu}) that nothing would use; set `gpu = true` in each [[check]] that \
             needs it, or `agent_gpu = true` for the agent"
        );
        return Err(TomlProblem { at: None, message, excerpt: String::new() });
    }
    let mut seen = std::collections::BTreeSet::new();
    for check in &file.checks {
        let name = &check.name.get_ref().0;
        if !seen.insert(name) {
            let message = format!("two checks are called {name:?}; each needs its own name");
            return Err(TomlProblem::at(text, check.name.span(), message));
        }
    }
    // Detected checks are only known later; what is missing then is said when the tier holds.
    let names: Vec<&str> = file.checks.iter().map(|check| check.name.get_ref().0.as_str()).collect();
    tiers::cross_check(&file.tiers, &names).map_err(|message| TomlProblem { at: None, message, excerpt: String::new() })
}

fn wrong_image(key: &str, value: &str) -> Option<String> {
    if value.is_empty() || value.starts_with('-') || value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some(format!("{value:?} is not the name of {}", if key == "image" { "an image" } else { "a file" }));
    }
    let outside = key == "dockerfile" && (value.starts_with('/') || value.split('/').any(|part| part == ".."));
    outside.then(|| format!("{value:?} lies outside of the repository; give a path from its top"))
}

/// What the file left open, so that it may be detected.
struct Open {
    setup: bool,
    prebuild: bool,
}

fn environment(table: EnvironmentTable) -> (Environment, Open) {
    let open = Open { setup: table.setup.is_none(), prebuild: table.prebuild.is_none() };
    let lines = |lines: Option<Vec<CommandLine>>| lines.unwrap_or_default().into_iter().map(|line| line.0).collect();
    let environment = Environment {
        image: table.image.map(toml::Spanned::into_inner),
        dockerfile: table.dockerfile.map(toml::Spanned::into_inner),
        setup: lines(table.setup),
        env: table.env.into_iter().map(|(name, value)| (name.0, value)).collect(),
        prebuild: lines(table.prebuild),
        rebuild_on: table.rebuild_on.into_iter().map(|glob| glob.0).collect(),
        gpu: table.gpu,
        agent_gpu: table.agent_gpu,
    };
    (environment, open)
}

fn check(table: file::CheckTable, of_environment: Option<&GpuRequest>) -> Check {
    let gpu = match table.gpu {
        CheckGpu::None => None,
        CheckGpu::Environment => of_environment.cloned().or_else(|| GpuRequest::any(1)),
        CheckGpu::Own(gpu) => Some(gpu),
    };
    Check {
        gpu,
        name: table.name.into_inner().0,
        command: table.command.0,
        timeout: table.timeout.map_or(CHECK_TIMEOUT, |time| time.0),
        required: table.required,
    }
}

fn limits(table: &LimitsTable) -> TaskLimits {
    let default = Limits::default();
    TaskLimits {
        time: table.time.as_ref().map_or(Duration::from_secs(45 * 60), |time| time.0),
        idle: table.idle.as_ref().map_or(Duration::from_secs(10 * 60), |time| time.0),
        rounds: table.rounds.and_then(|rounds| u32::try_from(rounds).ok()).unwrap_or(3),
        budget: None,
        sandbox: Limits {
            cpus: table.cpus.unwrap_or(default.cpus),
            memory_bytes: table.memory.as_ref().map_or(default.memory_bytes, |size| size.0),
            pids: table.pids.unwrap_or(default.pids),
            disk_bytes: table.disk.as_ref().map_or(default.disk_bytes, |size| size.0),
        },
    }
}

/// Presets stand for their hosts from here on.
fn hosts(entries: Vec<Host>) -> Vec<String> {
    let mut hosts = Vec::new();
    for Host(entry) in entries {
        match entry.strip_prefix(presets::PREFIX).map(presets::hosts) {
            Some(Ok(preset)) => hosts.extend(preset.iter().cloned()),
            // Its name was checked when it was read.
            Some(Err(_)) => {}
            None => hosts.push(entry),
        }
    }
    hosts
}

fn network(table: NetworkTable) -> Network {
    Network { allow: hosts(table.allow), setup: hosts(table.setup), checks: hosts(table.checks) }
}

#[cfg(test)]
mod tests;
