//! What policy says of a patch: findings, and the risk that the change was taken for.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::state::Violation;

/// What follows from a finding. Ordered: the later one is the stricter one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The pull request says so.
    Note,
    /// The pull request says so, is a draft, and asks the reviewers that policy names.
    Ask,
    /// There is no pull request.
    Block,
}

impl Action {
    /// `block`, as in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Ask => "ask",
            Self::Block => "block",
        }
    }

    /// The action of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Note, Self::Ask, Self::Block].into_iter().find(|action| action.word() == word)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One thing that a rule of policy found in a patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The rule: `protected_path`, `new_dependency`, `vacuous_test`, …
    pub rule: String,
    /// What follows.
    pub action: Action,
    /// The path, where there is one. Lossy for names that are not UTF-8.
    pub path: Option<String>,
    /// What was found. Never holds a secret.
    pub message: String,
}

impl Finding {
    /// The same as a reason why there is no pull request.
    pub fn into_violation(self) -> Violation {
        Violation { rule: self.rule, path: self.path, message: self.message }
    }
}

/// The risk that a change was taken for: the highest tier that a rule put it into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RiskTier {
    /// The name of the tier.
    pub name: String,
    /// Each reason: `src/auth/login.rs is in src/auth/**`.
    pub because: Vec<String>,
    /// How many people are to approve the pull request; 0: the tier says nothing of it.
    #[serde(default)]
    pub approvals: u32,
}

/// The signed statement about a pull request, by which it can be told from any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BundleDigest {
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// The key that it was signed with: SHA-256 of the public key, hexadecimal.
    pub key: String,
}
