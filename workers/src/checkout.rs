//! The bare mirror on the host, and what is read from it.
//!
//! Whoever opens a git directory obeys its configuration: `insteadOf` moves a push (and its token) to another host, a
//! `.git` file moves a commit into another repository. So the host works on one bare mirror per repository that nobody
//! but this program writes to, with every outer configuration file of libgit2 switched off, and sandboxes get plain files
//! without any git directory. A checkout of the person at the command line is only ever fetched from, never worked in.
//!
//! libgit2 blocks, so each public function is one [`blocking`] call.

pub(crate) mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod seed;
pub(crate) mod transport;
pub(crate) mod tree;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use bytes::Bytes;
use git2::{ConfigLevel, Oid, Repository};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tasks::{CommitSha, Failure, RepoName, TreeSha};

use crate::sandbox::{FileKind, TreeFile};
use transport::Call;

/// One fetch may take so long, all of it together.
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// Where a repository is fetched from and pushed to. The token never becomes part of the URL.
#[derive(Debug, Clone)]
pub struct Remote {
    /// `https://…`, `http://…` or an absolute path.
    pub url: String,
    /// Sent as HTTP basic authentication of the user `x-access-token`.
    pub token: Option<SecretString>,
}

impl Remote {
    /// True for a path on this machine: the person's own checkout, or a repository of the local forge.
    pub(crate) fn is_local(&self) -> bool {
        !self.url.contains("://")
    }

    /// The path of a local remote.
    pub(crate) fn local_path(&self) -> &Path {
        Path::new(&self.url)
    }

    /// Its name for people.
    pub(crate) fn shown(&self) -> String {
        transport::shown_url(&self.url)
    }
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
    ///
    /// # Errors
    /// E002 for a path that is no repository, E003 for a remote that is not there or not for us, E004 for a base that does
    /// not exist, E018 for a repository that cannot be carried, E050 for refused credentials, E054 for a network that fails
    /// or a fetch of more than ten minutes.
    pub async fn checkout(
        root: &Path,
        repo: &RepoName,
        remote: &Remote,
        base: Option<&str>,
    ) -> Result<(Self, Base), Failure> {
        let path = mirror_path(root, repo, &remote.url);
        let (remote, base) = (remote.clone(), base.map(str::to_owned));
        let call = Call::new(remote.token.clone(), FETCH_TIMEOUT);
        let _cancel = call.cancel_on_drop();
        blocking(move || {
            let base = fetch::bring_up_to_date(&path, &remote, base.as_deref(), &call)?;
            Ok((Self { path }, base))
        })
        .await
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every file of a commit's tree, in git's order. Submodules are left out.
    ///
    /// # Errors
    /// E018 when the tree has more files, bytes or levels than a workspace may have, or a name that no workspace may hold.
    pub async fn files(&self, commit: &CommitSha) -> Result<Vec<TreeFile>, Failure> {
        let commit = commit.clone();
        self.read(move |repo| tree::files(repo, &commit_tree(repo, &commit)?)).await
    }

    /// Every file of a tree, in git's order. Submodules are left out.
    ///
    /// # Errors
    /// As [`Mirror::files`].
    pub async fn tree_files(&self, tree: &TreeSha) -> Result<Vec<TreeFile>, Failure> {
        let tree = tree.clone();
        self.read(move |repo| tree::files(repo, &repo.find_tree(oid(tree.as_str())?).map_err(Failure::internal)?)).await
    }

    /// One file of a commit, if it is there.
    ///
    /// # Errors
    /// When the commit is not in the mirror, or the file is larger than a workspace may be.
    pub async fn file(&self, commit: &CommitSha, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let (commit, path) = (commit.clone(), path.to_owned());
        self.read(move |repo| tree::file(repo, &commit_tree(repo, &commit)?, &path)).await
    }

    /// Runs `work` on the opened mirror, off the async threads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Repository) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let path = self.path.clone();
        blocking(move || work(&open(&path)?)).await
    }
}

/// A tar archive of files, as an image is built from.
///
/// # Errors
/// When a path is too long for the format.
pub fn archive(files: &[TreeFile]) -> std::io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let path = Path::new(OsStr::from_bytes(&file.path));
        let mut header = tar::Header::new_gnu();
        header.set_mode(if file.kind == FileKind::Executable { 0o755 } else { 0o644 });
        if file.kind == FileKind::Symlink {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, path, OsStr::from_bytes(&file.bytes))?;
        } else {
            header.set_size(file.bytes.len() as u64);
            archive.append_data(&mut header, path, file.bytes.as_slice())?;
        }
    }
    Ok(archive.into_inner()?.into())
}

/// The mirror's place. Two remotes never share one, so that no base is ever found in a stranger's objects; `@` cannot
/// stand in a repository's name.
fn mirror_path(root: &Path, repo: &RepoName, url: &str) -> PathBuf {
    let digest = hex::encode(Sha256::digest(url.as_bytes()));
    root.join(repo.owner()).join(format!("{}@{}.git", repo.name(), &digest[..12]))
}

/// Opens one of our own bare repositories.
pub(crate) fn open(path: &Path) -> Result<Repository, Failure> {
    init_libgit2()?;
    Repository::open_bare(path).map_err(|error| {
        Failure::internal("the mirror of the repository cannot be opened").detail(error.message().to_owned())
    })
}

/// The tree of a commit in the mirror.
pub(crate) fn commit_tree<'a>(repo: &'a Repository, commit: &CommitSha) -> Result<git2::Tree<'a>, Failure> {
    repo.find_commit(oid(commit.as_str())?).and_then(|commit| commit.tree()).map_err(|error| {
        Failure::internal(format!("the commit {commit} is not in the mirror")).detail(error.message().to_owned())
    })
}

/// The id that these digits spell.
pub(crate) fn oid(text: &str) -> Result<Oid, Failure> {
    Oid::from_str(text).map_err(Failure::internal)
}

/// The commit id of an object id.
pub(crate) fn commit_sha(oid: Oid) -> CommitSha {
    oid.to_string().parse().expect("an object id is written as 40 lower-case hexadecimal digits")
}

/// Runs blocking work off the async threads. A panic in it becomes a failure of this task alone.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::internal("the work on the git repository ended in a panic")),
    }
}

/// Makes libgit2 ours, once per process and before its first use: no configuration file of the machine or of a user is
/// read, and https and http go through [`transport`].
pub(crate) fn init_libgit2() -> Result<(), Failure> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        for level in [ConfigLevel::ProgramData, ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global] {
            // SAFETY: the search path is global state of libgit2 without a lock; this closure runs once, and every use
            // of libgit2 in this program comes after it.
            unsafe { git2::opts::set_search_path(level, "") }.map_err(|error| error.message().to_owned())?;
        }
        transport::register().map_err(|error| error.message().to_owned())
    });
    done.as_ref().map(|()| ()).map_err(|error| Failure::internal("git cannot be set up").detail(error.clone()))
}
