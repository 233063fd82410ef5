//! The configuration: the only reader of files and of the environment.
//!
//! Two layers: `config.example.toml`, embedded, and the operator's file on top of it, key by key. A secret is written as
//! where it is found (`env:NAME`, `file:PATH`) and read while the configuration is.

mod budget;
mod egress;
mod hooks;
mod host_limit;
mod pulls;
mod rules;
mod slack;
mod values;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

pub use self::{
    budget::Budget,
    egress::{Egress, Model, Registry, SetupSecret},
    hooks::Hook,
    host_limit::HostLimit,
    pulls::{Pulls, Stale},
    rules::Evidence,
    slack::Slack,
    values::{Period, Size},
};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};
use tasks::{AgentName, Code, Failure};
use workers::{forbidden, policy::OperatorPolicy, publish::Via, repo_config::TierTable, sandbox::isolation::Isolation};

/// The lowest layer.
pub const EXAMPLE: &str = include_str!("../../config.example.toml");
/// Read when it is there and no other file was named.
pub const DEFAULT_FILE: &str = "onramp.toml";

/// The whole configuration. `config.example.toml` says what each key means.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Config {
    pub data_dir: PathBuf,
    pub server: Server,
    pub api: Api,
    pub github: GitHub,
    pub slack: Slack,
    pub sandbox: Sandbox,
    pub bases: Bases,
    pub pool: Pool,
    pub hooks: BTreeMap<String, Hook>,
    pub queue: Queue,
    pub pulls: Pulls,
    pub budget: Budget,
    pub gpu: Gpu,
    pub agent: Agent,
    pub models: BTreeMap<String, Model>,
    pub egress: Egress,
    pub worker: Worker,
    pub commit: Commit,
    pub policy: OperatorPolicy,
    #[serde(rename = "tier")]
    pub tiers: Vec<TierTable>,
    pub evidence: Evidence,
    pub log: Log,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Server {
    pub listen: String,
    pub public_url: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Api {
    pub requests_per_minute: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct GitHub {
    pub api_url: String,
    pub git_url: String,
    pub token: Secret,
    pub app_id: u64,
    pub app_key: Secret,
    pub webhook_secrets: Vec<Secret>,
    pub label: String,
    pub names: Vec<String>,
    pub check_rounds: usize,
    pub follow_base: bool,
    pub delete_branches: bool,
    pub repositories: Vec<String>,
    pub allowed_bots: Vec<u64>,
    pub poll_interval: Period,
    pub write_pause: Period,
}

/// Which kind of sandbox to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendChoice {
    /// Docker when an engine answers, else namespaces.
    Auto,
    /// A Docker engine.
    Docker,
    /// The kernel's namespaces, with the host's tools.
    Namespace,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Sandbox {
    pub backend: BackendChoice,
    pub docker_host: String,
    #[serde(deserialize_with = "values::image")]
    pub default_image: String,
    #[serde(deserialize_with = "values::runtime")]
    pub runtime: String,
    pub minimum_isolation: Isolation,
    pub accept_host_tools: bool,
    pub accept_without: Vec<HostLimit>,
    pub expose: Vec<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Bases {
    pub enabled: bool,
    pub refresh_interval: Period,
    pub max_age: Period,
    pub max_count: usize,
    pub disk: Size,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Pool {
    pub max_warm: usize,
    pub min_warm: usize,
    pub idle_timeout: Period,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Queue {
    pub parallel_per_repository: usize,
    pub queued_per_actor: usize,
    pub high_priority: Vec<String>,
    pub low_priority: Vec<String>,
    pub keep_segments: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Gpu {
    pub enabled: bool,
    pub devices: Vec<String>,
    pub wait_timeout: Period,
    pub lock_dir: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Agent {
    pub default: AgentName,
    pub dir: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Worker {
    pub n_workers: usize,
    pub server: String,
    pub token: Secret,
    pub name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Commit {
    pub name: String,
    pub email: String,
    pub signing_key: Secret,
    pub via: Via,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

/// A secret and where it was looked for.
#[derive(Clone, Default)]
pub struct Secret {
    source: String,
    value: Option<SecretString>,
}

impl Secret {
    /// A secret at hand, for tests and the demo.
    pub fn known(value: impl Into<String>) -> Self {
        Self { source: "given in code".to_owned(), value: Some(SecretString::from(value.into())) }
    }

    /// The secret, unless it is unset or empty.
    pub fn value(&self) -> Option<&SecretString> {
        self.value.as_ref()
    }

    /// The secret, or what to set.
    ///
    /// # Errors
    /// E008 naming the configuration key and the place that was looked at.
    pub fn require(&self, key: &str) -> Result<SecretString, Failure> {
        self.value.clone().ok_or_else(|| {
            let place = match self.source.split_once(':') {
                Some(("env", name)) => format!("the environment variable {name}"),
                Some(("file", path)) => format!("the file {path}"),
                _ => "nothing is configured, which".to_owned(),
            };
            Failure::new(Code::MissingSecret, format!("{key} is needed here, and {place} is empty or not set")).next(
                format!(
                    "Set {}, or point {key} to another place (env:NAME or file:PATH).",
                    place.trim_end_matches(", which")
                ),
            )
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, {})", self.source, if self.value.is_some() { "set" } else { "unset" })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = String::deserialize(deserializer)?;
        let text = match source.split_once(':') {
            // Where secrets are mounted as files, NAME_FILE says where.
            Some(("env", name)) => match (env(name), env(&format!("{name}_FILE"))) {
                (Some(value), _) => value,
                (None, Some(path)) => secret_file(&path).map_err(de::Error::custom)?,
                (None, None) => String::new(),
            },
            Some(("file", path)) => secret_file(path).map_err(de::Error::custom)?,
            // Run when it is needed, and again when it may have changed.
            Some(("cmd", line)) if !line.trim().is_empty() => String::new(),
            // The text itself is not repeated: it may be a secret.
            _ if !source.is_empty() => {
                return Err(de::Error::custom(
                    "a secret is written as env:NAME or file:PATH (or cmd:LINE for the key of a model), never as itself",
                ));
            }
            _ => String::new(),
        };
        let value = Some(text.trim()).filter(|text| !text.is_empty()).map(|text| SecretString::from(text.to_owned()));
        Ok(Self { source, value })
    }
}

fn secret_file(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("the secret file {path} cannot be read: {error}"))
}

impl Default for Config {
    /// `config.example.toml`, with secrets read from the environment where it says so.
    fn default() -> Self {
        toml::from_str(EXAMPLE).expect("the embedded example is a whole configuration; a test reads it")
    }
}

impl Config {
    /// Reads the operator's file on top of the defaults: the named one, else `onramp.toml` where it is there.
    ///
    /// # Errors
    /// E006 with file, line and the faulty key.
    pub fn load(file: Option<&Path>) -> Result<Self, Failure> {
        let default = Path::new(DEFAULT_FILE);
        let file = file.or(default.exists().then_some(default));
        let Some(file) = file else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::new(Code::BadConfig, format!("The configuration {} cannot be read: {error}", file.display()))
                .next("Check the path given with --config.")
        })?;
        Self::parse(&text).map_err(|error| {
            let Failure { message, .. } = &error;
            Failure { message: format!("The configuration {} cannot be used: {message}", file.display()), ..error }
        })
    }

    /// Every key as it is in effect, secrets as the places where they are looked for.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn effective(file: Option<&Path>) -> Result<toml::Value, Failure> {
        Self::load(file)?;
        let default = Path::new(DEFAULT_FILE);
        let file = file.or(default.exists().then_some(default));
        let own = file.map(std::fs::read_to_string).transpose().map_err(Failure::internal)?.unwrap_or_default();
        let mut merged: toml::Table = toml::from_str(EXAMPLE).map_err(Failure::internal)?;
        merge(&mut merged, toml::from_str(&own).map_err(Failure::internal)?);
        Ok(toml::Value::Table(merged))
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let bad = |error: toml::de::Error| {
            let message = error.message().lines().next().unwrap_or("it is not TOML").to_owned();
            Failure::new(Code::BadConfig, message).detail(error.to_string())
        };
        // Typed on its own first, over the example key by key, so that the error shows a line of the operator's file.
        let own: toml::Table = toml::from_str(text).map_err(bad)?;
        let mut merged: toml::Table = toml::from_str(EXAMPLE).map_err(bad)?;
        check_keys(&own, &merged, "")?;
        merge(&mut merged, own);
        let config: Self = merged.try_into().map_err(bad)?;
        config.cross_check()?;
        Ok(config)
    }

    /// What no single value can show.
    fn cross_check(&self) -> Result<(), Failure> {
        let Self { sandbox, pool, bases, .. } = self;
        self.operator()?;
        let bad = |message: String| Err(Failure::new(Code::BadConfig, message));
        self.budget.check()?;
        if pool.min_warm > pool.max_warm {
            let (min, max) = (pool.min_warm, pool.max_warm);
            return bad(format!("pool.min_warm = {min} for each base is more than pool.max_warm = {max} in all"));
        }
        if bases.enabled && (bases.max_count == 0 || bases.disk.0 < 1 << 20) {
            return bad(
                "bases.max_count and bases.disk leave room for no base; use bases.enabled = false instead".into()
            );
        }
        if sandbox.backend == BackendChoice::Namespace {
            sandbox.minimum_isolation.demand(Isolation::Namespace)?;
            if !sandbox.runtime.is_empty() {
                let runtime = &sandbox.runtime;
                return bad(format!(
                    "sandbox.runtime = {runtime:?} needs an engine, and sandbox.backend is \"namespace\""
                ));
            }
        } else if sandbox.minimum_isolation > Isolation::Docker {
            sandbox.minimum_isolation.demand(Isolation::of_runtime(&sandbox.runtime))?;
        }
        Ok(())
    }

    /// Where the data lies: as configured, else the platform's place for state.
    ///
    /// # Errors
    /// E006 when nothing is configured and there is no home directory.
    pub fn data_dir(&self) -> Result<PathBuf, Failure> {
        if !self.data_dir.as_os_str().is_empty() {
            return Ok(self.data_dir.clone());
        }
        let state = env("XDG_STATE_HOME").map(PathBuf::from).or_else(|| home().map(|home| home.join(".local/state")));
        state.map(|state| state.join("onramp")).ok_or_else(|| {
            Failure::new(Code::BadConfig, "There is no home directory to keep the data in")
                .next("Set data_dir or pass --data-dir.")
        })
    }
}

impl Config {
    /// What no text for people outside may ever show: every secret, and where the data lies on this machine.
    pub fn hidden(&self, data: &Path) -> Vec<SecretString> {
        let github = &self.github;
        let own = [&github.token, &github.app_key, &self.worker.token, &self.commit.signing_key, &self.evidence.key];
        let secrets = own.into_iter().chain(&github.webhook_secrets);
        let secrets = secrets.chain(self.models.values().map(|model| &model.key)).chain(self.egress.secrets());
        let secrets = secrets.chain(self.hooks.values().flat_map(|hook| &hook.secrets));
        let slack = &self.slack;
        let secrets = secrets.chain([&slack.bot_token, &slack.app_token]).chain(&slack.signing_secrets);
        let secrets = secrets.filter_map(Secret::value).cloned();
        secrets.chain([SecretString::from(data.display().to_string())]).collect()
    }
}

/// Names every key that the example does not have, with the nearest one that it has.
fn check_keys(own: &toml::Table, known: &toml::Table, prefix: &str) -> Result<(), Failure> {
    for (key, value) in own {
        let path = format!("{prefix}{key}");
        match known.get(key) {
            _ if is_named_by_the_operator(prefix) => {}
            Some(toml::Value::Table(inner)) => {
                if let toml::Value::Table(own) = value {
                    check_keys(own, inner, &format!("{path}."))?;
                }
            }
            Some(_) => {}
            None => {
                if let Some(why) = forbidden::why_no_key(key) {
                    return Err(Failure::new(Code::BadConfig, format!("there is no key `{path}`; {why}")));
                }
                let nearest = known.keys().max_by(|a, b| strsim::jaro(key, a).total_cmp(&strsim::jaro(key, b)));
                let hint = nearest.filter(|near| strsim::jaro(key, near) > 0.7);
                let hint = hint.map_or_else(String::new, |near| format!("; did you mean `{prefix}{near}`?"));
                return Err(Failure::new(Code::BadConfig, format!("there is no key `{path}`{hint}")));
            }
        }
    }
    Ok(())
}

/// Models, hooks, budgets, and the people, channels and words of Slack.
fn is_named_by_the_operator(prefix: &str) -> bool {
    let budget = prefix.strip_prefix("budget.");
    matches!(prefix, "models." | "hooks." | "slack.people." | "slack.channels." | "slack.words.")
        || matches!(budget, Some("repositories." | "requesters." | "teams."))
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// What is read from the environment besides secrets.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The person's home directory.
    pub home: Option<PathBuf>,
    /// `PATH`.
    pub path: String,
    /// `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// `NO_COLOR` is set to anything.
    pub no_color: bool,
    /// The name of the person, for local runs.
    pub user: String,
    /// The name of this machine; empty when it has none.
    pub host: String,
    /// A browser could be shown to whoever sits here.
    pub has_display: bool,
}

impl Surroundings {
    /// Reads them once, at the start.
    pub fn read() -> Self {
        Self {
            home: home(),
            path: env("PATH").unwrap_or_default(),
            docker_host: env("DOCKER_HOST"),
            no_color: env("NO_COLOR").is_some(),
            user: env("USER").or_else(|| env("LOGNAME")).unwrap_or_else(|| "you".to_owned()),
            host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
            has_display: (env("DISPLAY").is_some() || env("WAYLAND_DISPLAY").is_some() || cfg!(target_os = "macos"))
                && env("SSH_CONNECTION").is_none(),
        }
    }
}

fn home() -> Option<PathBuf> {
    env("HOME").map(PathBuf::from)
}

/// An environment variable; empty is unset.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let failure = Config::parse(text).unwrap_err();
        assert_eq!(failure.code, Code::BadConfig);
        failure.message
    }

    #[test]
    fn the_example_is_a_whole_configuration() {
        let config = Config::default();
        assert_eq!(config.server.listen, "127.0.0.1:8080");
        assert_eq!(config.models["anthropic"].base_url, "https://api.anthropic.com");
    }

    #[test]
    fn the_operators_file_needs_only_what_differs() {
        let config =
            Config::parse("[github]\nlabel = \"bot\"\n[models.local]\nbase_url = \"http://localhost:11434\"").unwrap();
        assert_eq!(config.github.label, "bot");
        assert_eq!(config.github.api_url, "https://api.github.com");
        assert!(config.models["local"].key.value().is_none());
        assert!(config.models.contains_key("openai"));
    }

    #[test]
    fn a_wrong_key_is_named_with_the_right_one() {
        assert_eq!(refused("[github]\nlable = \"x\""), "there is no key `github.lable`; did you mean `github.label`?");
        assert_eq!(refused("zzz = 1"), "there is no key `zzz`");
    }

    #[test]
    fn sandboxes_bases_pool_and_gpus_have_typed_values() {
        let config = Config::default();
        assert_eq!((config.sandbox.runtime.as_str(), config.sandbox.minimum_isolation), ("", Isolation::Namespace));
        assert_eq!(config.bases.max_age, Period(std::time::Duration::from_secs(7 * 86_400)));
        assert_eq!((config.bases.max_count, config.bases.disk, config.pool.max_warm), (20, Size(20 << 30), 4));
        let config =
            Config::parse("[sandbox]\naccept_without = [\"memory\", \"cpu\"]\n[pool]\nidle_timeout = \"1h30m\"");
        let config = config.unwrap();
        assert_eq!(
            config.sandbox.accept_without.iter().map(|limit| limit.word()).collect::<Vec<_>>(),
            ["memory", "cpu"]
        );
        assert_eq!(config.pool.idle_timeout.0.as_secs(), 5400);
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused_in_words() {
        for (text, part) in [
            ("[sandbox]\nruntim = \"runsc\"", "did you mean `sandbox.runtime`?"),
            ("[sandbox]\nruntime = \"unconfined\"", "there is no way to run without a wall"),
            ("[sandbox]\nruntime = \"/usr/bin/runc\"", "only a name that the engine lists"),
            ("[sandbox]\nruntime = \"nvidia\"", "chosen by itself for a sandbox that a GPU was lent to"),
            ("[sandbox]\ndefault_image = \"--privileged\"", "options cannot be given here"),
            ("[sandbox]\nminimum_isolation = \"vm\"", "unknown variant `vm`"),
            ("[sandbox]\naccept_without = [\"disk\"]", "unknown variant `disk`"),
            ("[sandbox]\nbackend = \"namespace\"\nruntime = \"runsc\"", "needs an engine"),
            ("[bases]\nmax_age = \"week\"", "\"week\" is not a duration"),
            ("[bases]\nmax_age = \"0s\"", "between \"1s\" and \"365d\""),
            ("[bases]\ndisk = \"20\"", "\"20\" is not a size"),
            ("[bases]\nmax_count = 0", "leave room for no base"),
            ("[pool]\nmin_warm = 9", "is more than pool.max_warm = 4"),
        ] {
            let message = refused(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn a_stronger_wall_that_is_demanded_and_not_configured_is_refused() {
        for text in [
            "minimum_isolation = \"docker\"\nbackend = \"namespace\"",
            "minimum_isolation = \"runsc\"",
            "minimum_isolation = \"kata\"\nruntime = \"runsc\"",
        ] {
            let failure = Config::parse(&format!("[sandbox]\n{text}")).unwrap_err();
            assert_eq!(failure.code, Code::WeakIsolation, "{text}: {failure}");
        }
        Config::parse("[sandbox]\nminimum_isolation = \"runsc\"\nruntime = \"kata\"").unwrap();
    }

    #[test]
    fn no_dangerous_switch_can_be_expressed_and_the_answer_says_why() {
        for (key, why) in [
            ("privileged = true", "own the host"),
            ("cap_add = [\"SYS_ADMIN\"]", "own the host"),
            ("network_mode = \"host\"", "[network] allow"),
            ("net = \"host\"", "[network] allow"),
            ("pid = \"host\"", "sharing the host's"),
            ("pid_mode = \"host\"", "sharing the host's"),
            ("ipc_mode = \"host\"", "sharing the host's"),
            ("uts = \"host\"", "sharing the host's"),
            ("userns_mode = \"host\"", "sharing the host's"),
            ("volumes = [\"/:/host\"]", "nothing of the host is mounted"),
            ("mounts = []", "nothing of the host is mounted"),
            ("binds = [\"/var/run/docker.sock:/var/run/docker.sock\"]", "nothing of the host is mounted"),
            ("devices = [\"/dev/kvm\"]", "a GPU is asked for with `gpu`"),
            ("security_opt = [\"seccomp=unconfined\"]", "always on"),
            ("seccomp = \"unconfined\"", "always on"),
            ("apparmor = \"unconfined\"", "always on"),
            ("docker_socket = true", "owns the host"),
            ("run_args = [\"--privileged\"]", "have keys of their own"),
            ("host_config = { Privileged = true }", "have keys of their own"),
            ("user = \"root\"", "unprivileged user"),
            ("oom_kill_disable = true", "[limits]"),
            ("sysctls = {}", "own the host"),
        ] {
            for place in ["", "[sandbox]\n", "[bases]\n"] {
                let message = refused(&format!("{place}{key}"));
                assert!(message.starts_with("there is no key `") && message.contains(why), "{place}{key}: {message}");
            }
        }
    }

    #[test]
    fn a_literal_secret_is_refused_and_not_repeated() {
        let failure = Config::parse("[github]\ntoken = \"ghp_canary\"").unwrap_err();
        assert!(failure.message.contains("env:NAME or file:PATH"), "{failure}");
        let other = Config::parse("[[egress.setup_secrets]]\nname = \"X\"\nvalue = \"canary\"\nrepositories = []");
        assert!(!format!("{:?}", other.unwrap_err()).contains("canary"));
        assert!(!failure.message.contains("canary"), "{failure:?}");
    }

    #[test]
    fn an_unset_secret_says_what_to_set() {
        let config = Config::parse("[github]\ntoken = \"env:ONRAMP_SURELY_UNSET\"").unwrap();
        let failure = config.github.token.require("github.token").unwrap_err();
        assert_eq!(failure.code, Code::MissingSecret);
        assert!(failure.message.contains("ONRAMP_SURELY_UNSET"), "{failure}");
        assert!(format!("{config:?}").contains("unset"));
    }
}
