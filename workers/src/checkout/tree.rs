//! Reading trees of a mirror, bounded: a tree of ten objects can name a thousand million files.

use std::{collections::BTreeMap, ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use git2::{ObjectType, Odb, Oid, Repository, Tree};
use tasks::{Code, Failure};

use crate::{
    patch::names,
    sandbox::{FileKind, TreeFile},
};

/// Files that a workspace may have.
pub(super) const MAX_FILES: usize = 500_000;
/// Directories below one another that a workspace may have.
pub(crate) const MAX_DEPTH: usize = 200;
/// Bytes that a workspace may have: they travel through memory.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// What a path of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A file, and its blob.
    File(FileKind, Oid),
    /// A commit of another repository. Its files are not here.
    Submodule,
}

/// Every path of a tree but the directories, by its bytes.
pub(crate) fn flatten(repo: &Repository, tree: &Tree<'_>) -> Result<BTreeMap<Vec<u8>, Entry>, Failure> {
    let mut entries = BTreeMap::new();
    walk(repo, tree, &mut |path, entry| {
        entries.insert(path, entry);
        Ok(())
    })?;
    Ok(entries)
}

/// Every file of a tree with its bytes, in git's order. All names are seen before the first byte is read.
pub(super) fn files(repo: &Repository, tree: &Tree<'_>) -> Result<Vec<TreeFile>, Failure> {
    let mut found = Vec::new();
    walk(repo, tree, &mut |path, entry| {
        if let Entry::File(kind, id) = entry {
            found.push((path, kind, id));
        }
        Ok(())
    })?;
    let odb = repo.odb().map_err(Failure::internal)?;
    let mut left = MAX_BYTES;
    let read = |(path, kind, id)| Ok(TreeFile { path, kind, bytes: blob(&odb, id, &mut left)? });
    found.into_iter().map(read).collect()
}

/// Every file of a tree by its name, and the bytes of those at its top only: enough to see what kind of repository it is.
pub(super) fn outline(repo: &Repository, tree: &Tree<'_>) -> Result<Vec<TreeFile>, Failure> {
    let odb = repo.odb().map_err(Failure::internal)?;
    let (mut files, mut left) = (Vec::new(), MAX_BYTES);
    walk(repo, tree, &mut |path, entry| {
        if let Entry::File(kind, id) = entry {
            let bytes = if path.contains(&b'/') { Vec::new() } else { blob(&odb, id, &mut left)? };
            files.push(TreeFile { path, kind, bytes });
        }
        Ok(())
    })?;
    Ok(files)
}

/// Those of the paths that are files of a tree, with their bytes.
pub(super) fn pick(repo: &Repository, tree: &Tree<'_>, paths: Vec<Vec<u8>>) -> Result<Vec<TreeFile>, Failure> {
    let odb = repo.odb().map_err(Failure::internal)?;
    let (mut files, mut left) = (Vec::new(), MAX_BYTES);
    for path in paths {
        let kind = match tree.get_path(Path::new(OsStr::from_bytes(&path))) {
            Err(error) if error.code() == git2::ErrorCode::NotFound => continue,
            Err(error) => return Err(missing(&error)),
            Ok(entry) => (entry.filemode(), entry.id()),
        };
        let (kind, id) = match kind {
            (0o040000 | 0o160000, _) => continue,
            (0o120000, id) => (FileKind::Symlink, id),
            (0o100755, id) => (FileKind::Executable, id),
            (_, id) => (FileKind::Regular, id),
        };
        files.push(TreeFile { path, kind, bytes: blob(&odb, id, &mut left)? });
    }
    Ok(files)
}

/// One file of a tree. A symbolic link is not followed: its target is the content.
pub(super) fn file(repo: &Repository, tree: &Tree<'_>, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    match tree.get_path(Path::new(path)) {
        Ok(entry) if entry.kind() == Some(ObjectType::Blob) => {
            blob(&repo.odb().map_err(Failure::internal)?, entry.id(), &mut { MAX_BYTES }).map(Some)
        }
        Ok(_) => Ok(None),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
        Err(error) => Err(Failure::internal(error)),
    }
}

/// The content of a blob. Its size is asked for first, so that nothing beyond `left` is ever loaded.
pub(crate) fn blob(odb: &Odb<'_>, id: Oid, left: &mut u64) -> Result<Vec<u8>, Failure> {
    let (size, _) = odb.read_header(id).map_err(|error| missing(&error))?;
    *left = left
        .checked_sub(size as u64)
        .ok_or_else(|| unsupported(format!("The repository holds more than {} MiB in one commit", MAX_BYTES >> 20)))?;
    odb.read(id).map(|object| object.data().to_vec()).map_err(|error| missing(&error))
}

/// The repository is not one that Onramp can carry.
pub(crate) fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(Code::RepositoryUnsupported, message)
}

pub(super) fn missing(error: &git2::Error) -> Failure {
    unsupported("An object of the repository is missing or damaged").detail(error.message().to_owned())
}

/// Calls `see` with each path that is not a directory, in git's order, with a stack of its own instead of recursion.
fn walk(
    repo: &Repository,
    tree: &Tree<'_>,
    see: &mut dyn FnMut(Vec<u8>, Entry) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut n_files = 0;
    let mut open: Vec<(Vec<u8>, Tree<'_>, usize)> = vec![(Vec::new(), tree.clone(), 0)];
    loop {
        let depth = open.len();
        let Some((prefix, tree, next)) = open.last_mut() else { return Ok(()) };
        let Some(entry) = tree.get(*next) else {
            open.pop();
            continue;
        };
        *next += 1;
        let mut path = prefix.clone();
        path.extend_from_slice(entry.name_bytes());
        if let Err(reason) = names::check_part(entry.name_bytes()) {
            return Err(unsupported(format!("The repository holds {}, {reason}", names::show(&path))));
        }
        let (id, mode) = (entry.id(), entry.filemode());
        drop(entry);
        let kind = match mode {
            0o040000 => {
                if depth >= MAX_DEPTH {
                    return Err(unsupported(format!("The repository has more than {MAX_DEPTH} levels of directories")));
                }
                let below = repo.find_tree(id).map_err(|error| missing(&error))?;
                path.push(b'/');
                open.push((path, below, 0));
                continue;
            }
            0o160000 => Entry::Submodule,
            0o120000 => Entry::File(FileKind::Symlink, id),
            0o100755 => Entry::File(FileKind::Executable, id),
            _ => Entry::File(FileKind::Regular, id),
        };
        n_files += 1;
        if n_files > MAX_FILES {
            return Err(unsupported(format!("The repository has more than {MAX_FILES} files in one commit")));
        }
        see(path, kind)?;
    }
}
