//! Making bare repositories of our own: for the local forge, the demo and tests.

use std::path::Path;

use git2::{Repository, RepositoryInitOptions, Signature};
use tasks::{BranchName, Code, CommitSha, Failure};

use super::{commit_sha, init_libgit2, oid};
use crate::{
    patch::{PatchEntry, names, tree::rebuild},
    sandbox::TreeFile,
};

/// Makes a bare repository with one commit on `main`, which `files` are the tree of.
pub(crate) fn create(path: &Path, files: &[TreeFile], message: &str) -> Result<CommitSha, Failure> {
    init_libgit2()?;
    if path.exists() {
        return Err(Failure::new(Code::Usage, format!("{} is there already", path.display())));
    }
    let mut entries: Vec<PatchEntry> = files.iter().cloned().map(PatchEntry::Write).collect();
    entries.sort_by(|a, b| a.path().cmp(b.path()));
    for entry in &entries {
        names::check(entry.path())?;
    }
    let mut options = RepositoryInitOptions::new();
    options.bare(true).external_template(false).initial_head("main");
    let repo = Repository::init_opts(path, &options).map_err(Failure::internal)?;
    let tree = rebuild(&repo, None, &entries)?;
    let commit = || {
        let who = Signature::now("Onramp", "onramp@localhost")?;
        repo.commit(Some("refs/heads/main"), &who, &who, message, &repo.find_tree(tree)?, &[])
    };
    commit().map(commit_sha).map_err(Failure::internal)
}

/// The branch that HEAD of one of our own bare repositories stands for.
pub(crate) fn head_branch(path: &Path) -> Result<BranchName, Failure> {
    init_libgit2()?;
    let repo = Repository::open_bare(path).map_err(|error| {
        let failure = Failure::new(Code::RepositoryNotFound, format!("There is no repository at {}", path.display()));
        failure.detail(error.message().to_owned())
    })?;
    let head = repo.find_reference("HEAD").map_err(Failure::internal)?;
    let name =
        head.symbolic_target().ok().flatten().and_then(|name| name.strip_prefix("refs/heads/")).unwrap_or("main");
    name.parse().map_err(Failure::internal)
}

/// Whether a bare repository of ours holds this commit on this branch.
pub(crate) fn branch_is_at(path: &Path, branch: &BranchName, commit: &CommitSha) -> Result<bool, Failure> {
    init_libgit2()?;
    let repo = Repository::open_bare(path).map_err(Failure::internal)?;
    let target = repo.refname_to_id(&format!("refs/heads/{branch}"));
    Ok(target.is_ok_and(|target| oid(commit.as_str()).is_ok_and(|wanted| target == wanted)))
}
