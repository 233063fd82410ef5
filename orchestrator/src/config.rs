//! The configuration: the only reader of files and of the environment.
//!
//! Two layers: `config.example.toml`, embedded, and the operator's file on top of it, key by key. A secret is written as
//! where it is found (`env:NAME`, `file:PATH`) and read while the configuration is.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};
use tasks::{AgentName, Code, Failure};

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
    pub github: GitHub,
    pub sandbox: Sandbox,
    pub agent: Agent,
    pub models: BTreeMap<String, Model>,
    pub worker: Worker,
    pub commit: Commit,
    pub log: Log,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Server {
    pub listen: String,
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
    pub repositories: Vec<String>,
    pub allowed_bots: Vec<u64>,
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
    pub default_image: String,
    pub accept_host_tools: bool,
    pub expose: Vec<PathBuf>,
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
pub struct Model {
    pub base_url: String,
    #[serde(default)]
    pub key: Secret,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Worker {
    pub n_workers: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Commit {
    pub name: String,
    pub email: String,
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
            Some(("env", name)) => env(name).unwrap_or_default(),
            Some(("file", path)) => std::fs::read_to_string(path)
                .map_err(|error| de::Error::custom(format!("the secret file {path} cannot be read: {error}")))?,
            // The text itself is not repeated: it may be a secret.
            _ if !source.is_empty() => {
                return Err(de::Error::custom("a secret is written as env:NAME or file:PATH, never as itself"));
            }
            _ => String::new(),
        };
        let value = Some(text.trim()).filter(|text| !text.is_empty()).map(|text| SecretString::from(text.to_owned()));
        Ok(Self { source, value })
    }
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
        merged.try_into().map_err(bad)
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
        let secrets = [&github.token, &github.app_key].into_iter().chain(&github.webhook_secrets);
        let secrets = secrets.chain(self.models.values().map(|model| &model.key)).filter_map(Secret::value).cloned();
        secrets.chain([SecretString::from(data.display().to_string())]).collect()
    }
}

/// Names every key that the example does not have, with the nearest one that it has.
fn check_keys(own: &toml::Table, known: &toml::Table, prefix: &str) -> Result<(), Failure> {
    for (key, value) in own {
        let path = format!("{prefix}{key}");
        match known.get(key) {
            // Models are named by the operator.
            _ if prefix == "models." => {}
            Some(toml::Value::Table(inner)) => {
                if let toml::Value::Table(own) = value {
                    check_keys(own, inner, &format!("{path}."))?;
                }
            }
            Some(_) => {}
            None => {
                let nearest = known.keys().max_by(|a, b| strsim::jaro(key, a).total_cmp(&strsim::jaro(key, b)));
                let hint = nearest.filter(|near| strsim::jaro(key, near) > 0.7);
                let hint = hint.map_or_else(String::new, |near| format!("; did you mean `{prefix}{near}`?"));
                return Err(Failure::new(Code::BadConfig, format!("there is no key `{path}`{hint}")));
            }
        }
    }
    Ok(())
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
    fn a_literal_secret_is_refused_and_not_repeated() {
        let failure = Config::parse("[github]\ntoken = \"ghp_canary\"").unwrap_err();
        assert!(failure.message.contains("env:NAME or file:PATH"), "{failure}");
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
