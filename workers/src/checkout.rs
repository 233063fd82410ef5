//! Stub: owned by the git room. The bare mirror on the host, and what is read from it.
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use tasks::{CommitSha, Failure, RepoName};

use crate::sandbox::TreeFile;

/// Where a repository is fetched from and pushed to. The token never becomes part of the URL.
#[derive(Debug, Clone)]
pub struct Remote {
    /// `https://…`, `http://…` or an absolute path.
    pub url: String,
    /// Sent as HTTP basic authentication of the user `x-access-token`.
    pub token: Option<SecretString>,
}

/// Our own bare mirror of one repository. Nothing but this program ever writes to it.
#[derive(Debug, Clone)]
pub struct Mirror {
    path: PathBuf,
}

/// A resolved starting point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The branch a pull request goes against; `None` for a bare revision of a local run.
    pub branch: Option<tasks::BranchName>,
    /// The commit.
    pub commit: CommitSha,
}

impl Mirror {
    /// Opens the mirror of `repo` under `root`, made when it is not there, and brings it up to date with `remote`.
    /// `base`: branch or (local paths only) any revision; `None`: the default branch of the remote (HEAD).
    pub async fn checkout(
        _root: &Path,
        _repo: &RepoName,
        _remote: &Remote,
        _base: Option<&str>,
    ) -> Result<(Self, Base), Failure> {
        todo!()
    }
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Every file of a commit's tree, in git's order. Submodules are left out.
    pub async fn files(&self, _commit: &CommitSha) -> Result<Vec<TreeFile>, Failure> {
        todo!()
    }
    /// One file of a commit, if it is there.
    pub async fn file(&self, _commit: &CommitSha, _path: &str) -> Result<Option<Vec<u8>>, Failure> {
        todo!()
    }
}
