//! Requests out of Slack.

use std::collections::BTreeMap;

use serde::Deserialize;
use tasks::RepoName;

use super::Secret;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Slack {
    pub bot_token: Secret,
    pub app_token: Secret,
    pub signing_secrets: Vec<Secret>,
    pub api_url: String,
    pub default_repository: String,
    pub people: BTreeMap<String, String>,
    pub channels: BTreeMap<String, RepoName>,
    pub words: BTreeMap<String, RepoName>,
}
