//! The result tree: base and entries as objects in the bare mirror. No work tree exists, so none can be escaped from.

use std::collections::BTreeMap;

use git2::{ErrorCode, ObjectType, Oid, Repository, Tree};
use tasks::Failure;

use super::{FileChange, PatchEntry, names};
use crate::{
    checkout::tree::{Entry, blob},
    sandbox::{FileKind, TreeFile},
};

/// The mode that git gives a kind of file.
pub(crate) fn mode(kind: FileKind) -> i32 {
    match kind {
        FileKind::Regular => 0o100644,
        FileKind::Executable => 0o100755,
        FileKind::Symlink => 0o120000,
    }
}

/// Writes the tree that `base` becomes by `entries`, which are sorted by path. Returns its id.
pub(crate) fn rebuild(repo: &Repository, base: Option<&Tree<'_>>, entries: &[PatchEntry]) -> Result<Oid, Failure> {
    let all: Vec<(&[u8], &PatchEntry)> = entries.iter().map(|entry| (entry.path(), entry)).collect();
    match level(repo, base, &all)? {
        Some(tree) => Ok(tree),
        None => repo.treebuilder(None).and_then(|empty| empty.write()).map_err(Failure::internal),
    }
}

/// One directory: `entries` with their paths below it. `None` when it is empty and therefore not there. Recursion ends
/// where paths do: [`names::check`] bounds them.
fn level(repo: &Repository, base: Option<&Tree<'_>>, entries: &[(&[u8], &PatchEntry)]) -> Result<Option<Oid>, Failure> {
    let mut here: BTreeMap<&[u8], &PatchEntry> = BTreeMap::new();
    let mut below: BTreeMap<&[u8], Vec<(&[u8], &PatchEntry)>> = BTreeMap::new();
    for (path, entry) in entries {
        match path.iter().position(|byte| *byte == b'/') {
            None => {
                here.insert(path, entry);
            }
            Some(at) => below.entry(&path[..at]).or_default().push((&path[at + 1..], entry)),
        }
    }
    let mut builder = repo.treebuilder(base).map_err(Failure::internal)?;
    // Deletions, then directories, then files: whichever way a file and a directory trade places, the later one stays.
    for (name, entry) in &here {
        if let PatchEntry::Delete(_) = entry {
            remove(&mut builder, name)?;
        }
    }
    for (name, entries) in &below {
        let old = base.and_then(|base| base.get_name_bytes(name));
        let old = match old {
            Some(old) if old.kind() == Some(ObjectType::Tree) => {
                Some(repo.find_tree(old.id()).map_err(Failure::internal)?)
            }
            Some(_) | None => None,
        };
        if old.is_none() && entries.iter().all(|(_, entry)| matches!(entry, PatchEntry::Delete(_))) {
            continue;
        }
        match level(repo, old.as_ref(), entries)? {
            Some(tree) => insert(&mut builder, name, tree, 0o040000)?,
            None => remove(&mut builder, name)?,
        }
    }
    for (name, entry) in &here {
        if let PatchEntry::Write(file) = entry {
            let id = repo.blob(&file.bytes).map_err(Failure::internal)?;
            insert(&mut builder, name, id, mode(file.kind))?;
        }
    }
    if builder.is_empty() {
        return Ok(None);
    }
    builder.write().map(Some).map_err(Failure::internal)
}

fn insert(builder: &mut git2::TreeBuilder<'_>, name: &[u8], id: Oid, mode: i32) -> Result<(), Failure> {
    builder
        .insert(name, id, mode)
        .map(|_| ())
        .map_err(|error| names::refused(name, "a name that git does not allow").detail(error.message().to_owned()))
}

fn remove(builder: &mut git2::TreeBuilder<'_>, name: &[u8]) -> Result<(), Failure> {
    match builder.remove(name) {
        Ok(()) => Ok(()),
        Err(error) if error.code() == ErrorCode::NotFound || error.class() == git2::ErrorClass::Tree => Ok(()),
        Err(error) => Err(Failure::internal(error)),
    }
}

/// What leads from one tree to another, sorted by path.
pub(crate) fn between(
    repo: &Repository,
    before: &BTreeMap<Vec<u8>, Entry>,
    after: &BTreeMap<Vec<u8>, Entry>,
) -> Result<Vec<PatchEntry>, Failure> {
    let odb = repo.odb().map_err(Failure::internal)?;
    let mut left = 1 << 30;
    let mut entries = Vec::new();
    for (path, entry) in after.iter().filter(|(path, entry)| before.get(*path) != Some(entry)) {
        match entry {
            Entry::File(kind, id) => {
                let bytes = blob(&odb, *id, &mut left)?;
                entries.push(PatchEntry::Write(TreeFile { path: path.clone(), kind: *kind, bytes }));
            }
            Entry::Submodule => return Err(names::refused(path, "which is a submodule")),
        }
    }
    entries
        .extend(before.keys().filter(|path| !after.contains_key(*path)).map(|path| PatchEntry::Delete(path.clone())));
    entries.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(entries)
}

/// Each changed file, before and after. Entries that change nothing are left out.
pub(super) fn changes(
    repo: &Repository,
    base: &BTreeMap<Vec<u8>, Entry>,
    entries: &[PatchEntry],
) -> Result<Vec<FileChange>, Failure> {
    let odb = repo.odb().map_err(Failure::internal)?;
    let mut left = 1 << 30;
    let mut changes = Vec::new();
    for entry in entries {
        let before = match base.get(entry.path()) {
            Some(Entry::File(kind, id)) => Some((*kind, blob(&odb, *id, &mut left)?)),
            Some(Entry::Submodule) => return Err(names::refused(entry.path(), "which is a submodule")),
            None => None,
        };
        let after = match entry {
            PatchEntry::Write(file) => Some((file.kind, file.bytes.clone())),
            PatchEntry::Delete(_) => None,
        };
        if before != after {
            changes.push(FileChange { path: entry.path().to_vec(), before, after });
        }
    }
    Ok(changes)
}
