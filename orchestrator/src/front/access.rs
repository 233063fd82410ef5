//! Who asks, and how far they may go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tasks::{Code, Failure, RepoName};

/// How far a caller may go. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look at tasks.
    Read,
    /// Ask for tasks, and say what is to become of them.
    Act,
    /// What concerns the whole installation.
    Admin,
}

impl Scope {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Act => "act",
            Self::Admin => "admin",
        }
    }
}

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name of the token, or of the person at this machine.
    pub name: String,
    /// What requests are counted by.
    pub key: String,
    /// How far they may go.
    pub scope: Scope,
    /// The only repository that they may see; `None`: all.
    pub repo: Option<RepoName>,
}

impl Caller {
    /// The person at this machine, who could as well change the files.
    pub fn operator(name: &str) -> Self {
        let name = if name.is_empty() { "operator" } else { name };
        Self { name: name.to_owned(), key: "operator".to_owned(), scope: Scope::Admin, repo: None }
    }

    /// # Errors
    /// E093 when they may not go so far.
    pub fn demand(&self, scope: Scope) -> Result<(), Failure> {
        if self.scope >= scope {
            return Ok(());
        }
        let (has, needs) = (self.scope.word(), scope.word());
        Err(Failure::new(Code::ScopeMissing, format!("This needs the scope `{needs}`, and {} has `{has}`", self.name)))
    }

    /// Whether they may know of this repository.
    pub fn may_see(&self, repo: &RepoName) -> bool {
        self.repo.as_ref().is_none_or(|only| only == repo)
    }

    /// What they ask about, no wider than what they may see.
    ///
    /// # Errors
    /// E093 when they ask about something else.
    pub(super) fn narrowed(&self, wanted: Option<RepoName>) -> Result<Option<RepoName>, Failure> {
        match wanted {
            Some(repo) if self.may_see(&repo) => Ok(Some(repo)),
            Some(repo) => Err(self.not_here(&repo)),
            None => Ok(self.repo.clone()),
        }
    }

    /// That they may not ask for anything there.
    pub(super) fn not_here(&self, repo: &RepoName) -> Failure {
        let only = self.repo.as_ref().map_or_else(String::new, |only| format!("; it is for {only}"));
        Failure::new(Code::ScopeMissing, format!("The token {} may not reach {repo}{only}", self.name))
            .next("Use a token for that repository: `onramp token create --repo`.")
    }
}
