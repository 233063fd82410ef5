//! What differs between two trees of a mirror: all that travels into a box that stands at the first one.

use git2::{DiffOptions, FileMode, Repository, Tree};
use tasks::Failure;

use super::tree::{MAX_BYTES, blob};
use crate::{
    patch::names,
    sandbox::{FileKind, TreeFile, Update},
};

/// The way from `from` to `to`; the work follows what differs, not how large the trees are. Submodules are left out.
pub(super) fn delta(repo: &Repository, from: &Tree<'_>, to: &Tree<'_>) -> Result<Update, Failure> {
    let mut options = DiffOptions::new();
    options.skip_binary_check(true);
    let diff = repo.diff_tree_to_tree(Some(from), Some(to), Some(&mut options)).map_err(Failure::internal)?;
    let odb = repo.odb().map_err(Failure::internal)?;
    let mut left = MAX_BYTES;
    let mut delta = Update::default();
    for entry in diff.deltas() {
        let (old, new) = (entry.old_file(), entry.new_file());
        let now = kind(new.mode()).filter(|_| !new.id().is_zero());
        let was = kind(old.mode()).filter(|_| !old.id().is_zero());
        let path = new.path_bytes().or_else(|| old.path_bytes()).unwrap_or_default().to_vec();
        names::check(&path)?;
        match (was, now) {
            (_, Some(kind)) => delta.put.push(TreeFile { path, kind, bytes: blob(&odb, new.id(), &mut left)? }),
            (Some(_), None) => delta.gone.push(path),
            (None, None) => {}
        }
    }
    // A path that changed its type is told twice, as gone and as new.
    let put: std::collections::HashSet<&[u8]> = delta.put.iter().map(|file| file.path.as_slice()).collect();
    delta.gone = delta.gone.iter().filter(|path| !put.contains(path.as_slice())).cloned().collect();
    Ok(delta)
}

/// `None` for what is no file: nothing, or a submodule.
fn kind(mode: FileMode) -> Option<FileKind> {
    match mode {
        FileMode::Link => Some(FileKind::Symlink),
        FileMode::BlobExecutable => Some(FileKind::Executable),
        FileMode::Blob | FileMode::BlobGroupWritable => Some(FileKind::Regular),
        FileMode::Unreadable | FileMode::Tree | FileMode::Commit => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::fixture::Scratch;

    #[tokio::test]
    async fn only_what_differs_travels_and_a_changed_type_too() {
        let scratch =
            Scratch::with(&[("same.txt", "1"), ("old.txt", "1"), ("dir/x", "1"), ("to-dir", "1"), ("b", "1")]);
        let (mirror, before) = scratch.checkout(None).await.unwrap();
        scratch.git(&["rm", "-q", "old.txt", "dir/x", "to-dir", "b"]);
        scratch.write("to-dir/y", b"2");
        scratch.write("dir", b"now a file");
        symlink("same.txt", scratch.path().join("b")).unwrap();
        scratch.write("new/z", b"3");
        scratch.commit("Second");
        let (_, after) = scratch.checkout(None).await.unwrap();
        let (from, to) = (mirror.tree_of(&before.commit).await.unwrap(), mirror.tree_of(&after.commit).await.unwrap());
        let delta = mirror.delta(&from, &to).await.unwrap();
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let mut gone: Vec<String> = delta.gone.iter().map(|path| text(path)).collect();
        gone.sort();
        assert_eq!(gone, ["dir/x", "old.txt", "to-dir"]);
        let mut put: Vec<_> = delta.put.iter().map(|file| (text(&file.path), file.kind, text(&file.bytes))).collect();
        put.sort();
        let put: Vec<String> = put.iter().map(|(path, kind, bytes)| format!("{path} {kind:?} {bytes}")).collect();
        assert_eq!(put, ["b Symlink same.txt", "dir Regular now a file", "new/z Regular 3", "to-dir/y Regular 2"]);
        assert_eq!(mirror.delta(&to, &to).await.unwrap(), super::Update::default());
        // Back again, it is the first tree byte for byte.
        let back = mirror.delta(&to, &from).await.unwrap();
        assert_eq!(back.put.len(), 4);
        let paths = vec![b"same.txt".to_vec(), b"nowhere/x".to_vec(), b"new".to_vec(), b"b".to_vec()];
        let picked: Vec<String> = mirror
            .pick(&to, paths)
            .await
            .unwrap()
            .iter()
            .map(|file| format!("{} {:?}", text(&file.path), file.kind))
            .collect();
        assert_eq!(picked, ["same.txt Regular", "b Symlink"], "only files of the tree");
    }
}
