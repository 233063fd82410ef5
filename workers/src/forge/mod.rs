//! Where repositories, issues and pull requests live. The rest of the hands never sees which forge it is.

pub mod github;
pub mod local;
pub mod none;

use async_trait::async_trait;
use tasks::{Actor, BranchName, CommitSha, Failure, PullRequest, RepoName};

use crate::{checkout::Remote, fence::Fence};

/// What a person may do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Write code.
    Write,
    /// Everything.
    Admin,
}

/// A pull request to be found or opened.
#[derive(Debug, Clone)]
pub struct NewPullRequest<'a> {
    /// Where.
    pub repo: &'a RepoName,
    /// Asked before each write.
    pub fence: &'a Fence,
    /// The branch that carries the change; already pushed.
    pub branch: &'a BranchName,
    /// The published commit.
    pub head: &'a CommitSha,
    /// The branch it goes against.
    pub base: &'a BranchName,
    /// Title.
    pub title: &'a str,
    /// Body, Markdown.
    pub body: &'a str,
    /// As a draft.
    pub draft: bool,
    /// Labels to set.
    pub labels: &'a [String],
    /// Logins to ask for review.
    pub reviewers: &'a [String],
}

/// A forge. Every method that writes may be repeated without a second effect; each names its key.
#[async_trait]
pub trait Forge: Send + Sync + std::fmt::Debug {
    /// Where to fetch from and push to, with a fresh token for this repository.
    async fn remote(&self, repo: &RepoName) -> Result<Remote, Failure>;
    /// The default branch.
    async fn default_branch(&self, repo: &RepoName) -> Result<BranchName, Failure>;
    /// What `actor` may do, asked live. Errors never mean yes.
    async fn permission(&self, repo: &RepoName, actor: &Actor) -> Result<Permission, Failure>;
    /// Finds the open pull request of the branch, else opens it; title and body of a found one are brought up to date.
    /// Key: the branch, which is deterministic.
    async fn pull_request(&self, new: NewPullRequest<'_>) -> Result<PullRequest, Failure>;
    /// Writes the one status comment of a task on an issue: edits the one that carries `marker`, else creates it.
    /// Key: `marker`, a hidden HTML comment that the body must contain. Returns the URL.
    async fn status_comment(&self, repo: &RepoName, issue: u64, marker: &str, body: &str) -> Result<String, Failure>;
}
