//! Other services whose webhooks become tasks.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use tasks::RepoName;

use super::Secret;

/// Another service whose webhooks become tasks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Hook {
    pub trigger: String,
    pub file: PathBuf,
    pub secrets: Vec<Secret>,
    pub routes: BTreeMap<String, RepoName>,
    pub repositories: Vec<String>,
}
