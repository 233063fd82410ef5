//! How many pull requests one repository bears, and what becomes of those that nobody looks at.

use serde::Deserialize;

use super::Period;

/// What becomes of a pull request that nobody does anything with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stale {
    /// Nothing.
    Keep,
    /// It is said there, once.
    Say,
    /// It is said there, and if nobody does anything then either, it is closed.
    Close,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Pulls {
    pub max_open: usize,
    pub max_per_hour: usize,
    pub max_unnoticed: usize,
    pub stale_after: Period,
    pub stale: Stale,
}
