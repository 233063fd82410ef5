//! The commit that the forge makes, for owners who want its signature: what changed is handed over file by file, and what
//! comes back has to be the very tree that was verified.

use git2::{Delta, FileMode, Repository};
use tasks::{CommitSha, Failure, TreeSha};

use crate::{
    checkout::{Mirror, commit_tree, oid},
    forge::TreeChange,
};

/// The tree that a commit has, and the way from it to `tree`.
pub(super) async fn changes(
    mirror: &Mirror,
    from: &CommitSha,
    tree: &TreeSha,
) -> Result<(TreeSha, Vec<TreeChange>), Failure> {
    let (from, tree) = (from.clone(), tree.clone());
    mirror
        .read(move |repo| {
            let before = commit_tree(repo, &from)?;
            let after = repo.find_tree(oid(tree.as_str())?).map_err(Failure::internal)?;
            let found = between(repo, &before, &after).map_err(Failure::internal)?;
            Ok((before.id().to_string().parse().map_err(Failure::internal)?, found))
        })
        .await
}

fn between(repo: &Repository, before: &git2::Tree<'_>, after: &git2::Tree<'_>) -> Result<Vec<TreeChange>, git2::Error> {
    let diff = repo.diff_tree_to_tree(Some(before), Some(after), None)?;
    let changes = diff.deltas().map(|delta| {
        let is_gone = delta.status() == Delta::Deleted;
        let file = if is_gone { delta.old_file() } else { delta.new_file() };
        let mode = match file.mode() {
            FileMode::BlobExecutable => "100755",
            FileMode::Link => "120000",
            _ => "100644",
        };
        let now = match is_gone {
            true => None,
            false => Some((file.id().to_string(), repo.find_blob(file.id())?.content().to_vec())),
        };
        Ok(TreeChange { path: file.path_bytes().unwrap_or_default().to_vec(), mode, now })
    });
    changes.collect()
}
