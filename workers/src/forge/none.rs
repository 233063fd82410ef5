//! No forge at all: a person's own checkout on this machine, which is only ever read.

use std::path::PathBuf;

use async_trait::async_trait;
use tasks::{Actor, BranchName, Code, Failure, PullRequest, RepoName};

use super::{Forge, NewPullRequest, Permission};
use crate::checkout::Remote;

/// Fetches from a directory; has no issues and no pull requests.
#[derive(Debug, Clone)]
pub struct NoForge {
    path: PathBuf,
}

impl NoForge {
    /// For the checkout at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn nothing_to_write_to(what: &str) -> Failure {
        Failure::new(Code::Usage, format!("A local checkout has no place for {what}"))
            .next("Name the repository as owner/name to work against its forge.")
    }
}

#[async_trait]
impl Forge for NoForge {
    async fn remote(&self, _repo: &RepoName) -> Result<Remote, Failure> {
        let url = self.path.to_str().ok_or_else(|| {
            Failure::new(Code::NotARepository, "The path of the checkout is not valid UTF-8")
                .next("Rename the directory.")
        })?;
        Ok(Remote { url: url.to_owned(), token: None })
    }

    async fn default_branch(&self, _repo: &RepoName) -> Result<BranchName, Failure> {
        Err(Self::nothing_to_write_to("a default branch"))
    }

    /// Whoever can start a program on the checkout's machine may read it; nothing is ever written.
    async fn permission(&self, _repo: &RepoName, _actor: &Actor) -> Result<Permission, Failure> {
        Ok(Permission::Write)
    }

    async fn pull_request(&self, _new: NewPullRequest<'_>) -> Result<PullRequest, Failure> {
        Err(Self::nothing_to_write_to("pull requests"))
    }

    async fn status_comment(&self, _: &RepoName, _: u64, _: &str, _: &str) -> Result<String, Failure> {
        Err(Self::nothing_to_write_to("comments"))
    }
}
