//! What the configuration says of models and of the world outside.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use workers::egress::{Key, Speaks};

use super::{Config, Secret};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Model {
    pub base_url: String,
    #[serde(default)]
    pub key: Secret,
    #[serde(default)]
    pub speaks: Option<Speaks>,
    #[serde(default)]
    pub fallback: Vec<String>,
    #[serde(default)]
    pub paths: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Egress {
    pub airgap: bool,
    pub may_allow: Vec<String>,
    pub blocked: Vec<String>,
    pub hold_new_vendors: bool,
    pub vendors: PathBuf,
    pub prices: PathBuf,
    pub registries: Vec<Registry>,
    pub setup_secrets: Vec<SetupSecret>,
}

/// A private registry and the header that it wants.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Registry {
    pub host: String,
    pub url: String,
    #[serde(default = "authorization")]
    pub header: String,
    pub value: Secret,
    pub repositories: Vec<String>,
}

fn authorization() -> String {
    "Authorization".to_owned()
}

/// A secret for setup commands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct SetupSecret {
    pub name: String,
    pub value: Secret,
    pub repositories: Vec<String>,
}

impl Egress {
    /// Every secret in it.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let registries = self.registries.iter().map(|registry| &registry.value);
        registries.chain(self.setup_secrets.iter().map(|secret| &secret.value))
    }
}

impl Config {
    /// Where the register of vendors lies.
    pub fn vendors(&self, data: &Path) -> PathBuf {
        match self.egress.vendors.as_os_str().is_empty() {
            true => data.join("vendors.toml"),
            false => self.egress.vendors.clone(),
        }
    }
}

impl Secret {
    /// The same as the key of a provider, which is read again where it may have been replaced. `None`: it is unset.
    pub fn key(&self) -> Option<Key> {
        match self.source.split_once(':') {
            Some(("file", path)) if self.value.is_some() => Some(Key::file(path)),
            Some(("cmd", line)) => Some(Key::command(line)),
            _ => self.value.clone().map(Key::fixed),
        }
    }
}
