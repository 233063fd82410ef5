//! What differs between two trees of a mirror: all that travels into a box that stands at the first one.
//!
//! Only what differs is looked into: two directories of the same id are the same, whatever lies below. libgit2's own
//! comparison goes through every file of both trees.

use std::collections::BTreeMap;

use git2::{Odb, Oid, Repository, Tree};
use tasks::Failure;

use super::tree::{MAX_BYTES, MAX_DEPTH, MAX_FILES, blob, missing, unsupported};
use crate::{
    patch::names,
    sandbox::{FileKind, TreeFile, Update},
};

/// The way from `from` to `to`; the work follows what differs, not how large the trees are. Submodules are left out.
pub(super) fn delta(repo: &Repository, from: &Tree<'_>, to: &Tree<'_>) -> Result<Update, Failure> {
    let odb = repo.odb().map_err(Failure::internal)?;
    let mut comparison = Comparison { repo, odb, left: MAX_BYTES, delta: Update::default() };
    // With a stack of its own instead of recursion: a repository chooses how deep its directories go.
    let mut open = vec![Pair { path: Vec::new(), depth: 1, from: Some(from.id()), to: Some(to.id()) }];
    while let Some(pair) = open.pop() {
        comparison.compare(pair, &mut open)?;
    }
    Ok(comparison.delta)
}

/// The same directory in both trees, or in one of them.
struct Pair {
    /// With a slash behind, unless it is the root.
    path: Vec<u8>,
    depth: usize,
    from: Option<Oid>,
    to: Option<Oid>,
}

/// What stands under a name in a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Directory(Oid),
    File(FileKind, Oid),
}

impl Entry {
    fn directory(self) -> Option<Oid> {
        if let Self::Directory(id) = self { Some(id) } else { None }
    }

    fn file(self) -> Option<(FileKind, Oid)> {
        if let Self::File(kind, id) = self { Some((kind, id)) } else { None }
    }
}

struct Comparison<'r> {
    repo: &'r Repository,
    odb: Odb<'r>,
    /// How many bytes may still travel.
    left: u64,
    delta: Update,
}

impl Comparison<'_> {
    fn compare(&mut self, pair: Pair, open: &mut Vec<Pair>) -> Result<(), Failure> {
        if pair.depth > MAX_DEPTH {
            return Err(unsupported(format!("The repository has more than {MAX_DEPTH} levels of directories")));
        }
        let (from, to) = (self.entries(pair.from)?, self.entries(pair.to)?);
        let names = from.keys().chain(to.keys().filter(|name| !from.contains_key(*name)));
        for name in names {
            let (was, now) = (from.get(name).copied(), to.get(name).copied());
            if was == now {
                continue;
            }
            let path = [pair.path.as_slice(), name].concat();
            names::check(&path)?;
            let (was_directory, now_directory) = (was.and_then(Entry::directory), now.and_then(Entry::directory));
            if was_directory.is_some() || now_directory.is_some() {
                let path = [path.as_slice(), b"/"].concat();
                open.push(Pair { path, depth: pair.depth + 1, from: was_directory, to: now_directory });
            }
            match (was.and_then(Entry::file), now.and_then(Entry::file)) {
                (_, Some((kind, id))) => {
                    self.delta.put.push(TreeFile { path, kind, bytes: blob(&self.odb, id, &mut self.left)? });
                }
                (Some(_), None) => self.delta.gone.push(path),
                (None, None) => {}
            }
        }
        if self.delta.put.len() + self.delta.gone.len() > MAX_FILES {
            return Err(unsupported(format!("The repository has more than {MAX_FILES} files in one commit")));
        }
        Ok(())
    }

    fn entries(&self, directory: Option<Oid>) -> Result<BTreeMap<Vec<u8>, Entry>, Failure> {
        let Some(id) = directory else { return Ok(BTreeMap::new()) };
        let tree = self.repo.find_tree(id).map_err(|error| missing(&error))?;
        let known = |entry: git2::TreeEntry<'_>| {
            let what = match entry.filemode() {
                0o040000 => Entry::Directory(entry.id()),
                0o160000 => return None,
                0o120000 => Entry::File(FileKind::Symlink, entry.id()),
                0o100755 => Entry::File(FileKind::Executable, entry.id()),
                _ => Entry::File(FileKind::Regular, entry.id()),
            };
            Some((entry.name_bytes().to_vec(), what))
        };
        Ok(tree.iter().filter_map(known).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::symlink};

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

    #[tokio::test]
    async fn a_delta_applied_to_one_tree_gives_the_other_whatever_was_edited() {
        let scratch = Scratch::with(&[("a/b/c.txt", "1"), ("a/d.txt", "1"), ("e.txt", "1"), ("f/g/h/i.txt", "1")]);
        let paths = ["a", "a/b", "a/b/c.txt", "a/d.txt", "e.txt", "f/g", "f/g/h/i.txt", "f/new.txt", "j/k.txt", "z"];
        let mut trees = Vec::new();
        let mut seed = 7_usize;
        for round in 0..12 {
            for _ in 0..3 {
                seed = (seed * 1_103_515_245 + 12_345) % (1 << 31);
                let path = scratch.path().join(paths[(seed >> 8) % paths.len()]);
                drop(std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path)));
                // A file where a directory should be is in the way: then only the removal counts.
                let parent = path.parent().unwrap();
                if !(seed >> 20).is_multiple_of(3) && std::fs::create_dir_all(parent).is_ok() {
                    std::fs::write(&path, round.to_string()).unwrap();
                }
            }
            scratch.commit("Edit");
            let (mirror, tip) = scratch.checkout(None).await.unwrap();
            let tree = mirror.tree_of(&tip.commit).await.unwrap();
            let files = mirror.tree_files(&tree).await.unwrap();
            trees.push((tree, files.into_iter().map(|file| (file.path.clone(), file)).collect::<BTreeMap<_, _>>()));
        }
        let (mirror, _) = scratch.checkout(None).await.unwrap();
        let mut n_changes = 0;
        for (from, before) in &trees {
            for (to, after) in &trees {
                let delta = mirror.delta(from, to).await.unwrap();
                n_changes += delta.paths().count();
                let mut now = before.clone();
                delta.gone.iter().for_each(|path| drop(now.remove(path).unwrap()));
                now.extend(delta.put.into_iter().map(|file| (file.path.clone(), file)));
                assert_eq!(now, *after);
            }
        }
        assert!(n_changes > 100, "{n_changes} changes are no proof");
    }
}
