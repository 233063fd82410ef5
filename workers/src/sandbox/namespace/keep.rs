//! Bases as directories: what was written in a box, put aside and from then on only ever read.
//!
//! Keeping one is a rename. Boxes lay their changes over it; the kernel writes nothing to the lower side of an overlay. A
//! lock beside each base tells whether a box of any process uses it.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use guest::launch::KEPT;

use super::{
    HOST_TOOLS, KIND,
    directory::{BoxDirectory, check_name, remove_tree},
};
use crate::sandbox::KeptBase;

/// Below the directory of the boxes, under a name that no box can have.
const BASES: &str = ".bases";

/// A base that a box uses.
pub(super) type InUse = File;

fn bases(root: &Path) -> PathBuf {
    root.join(BASES)
}

fn lock(root: &Path, id: &str) -> io::Result<File> {
    check_name(id)?;
    File::options().read(true).write(true).create(true).truncate(false).open(bases(root).join(format!("{id}.lock")))
}

/// Makes the files of a box, in which nothing runs any more, a base.
pub(super) fn keep(root: &Path, directory: BoxDirectory, id: &str) -> io::Result<KeptBase> {
    check_name(id)?;
    let kept = bases(root).join(id);
    let renamed = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(bases(root))
        .and_then(|()| rustix::fs::syncfs(File::open(directory.path())?).map_err(io::Error::from))
        .and_then(|()| fs::rename(directory.path().join(KEPT), &kept));
    // Whether or not it was kept, the box is over.
    let removed = directory.remove();
    renamed?;
    removed?;
    File::open(bases(root))?.sync_all()?;
    Ok(describe(id, kept.canonicalize()?, used_bytes(&kept)))
}

fn describe(id: &str, path: PathBuf, n_bytes: u64) -> KeptBase {
    KeptBase {
        id: id.to_owned(),
        kind: KIND.to_owned(),
        kept_as: path.to_string_lossy().into_owned(),
        environment: HOST_TOOLS.to_owned(),
        n_bytes,
    }
}

/// Holds a base for a box.
///
/// # Errors
/// When it is not there any more.
pub(super) fn use_base(root: &Path, id: &str) -> io::Result<InUse> {
    let lock = lock(root, id)?;
    lock.lock_shared()?;
    if bases(root).join(id).is_dir() {
        return Ok(lock);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the base was removed"))
}

/// Removes a base; false while a box uses it.
pub(super) fn remove(root: &Path, id: &str) -> io::Result<bool> {
    if !bases(root).is_dir() {
        return Ok(true);
    }
    let held = lock(root, id)?;
    match held.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(false),
        locked => locked?,
    }
    remove_tree(&bases(root).join(id))?;
    match fs::remove_file(bases(root).join(format!("{id}.lock"))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(true),
    }
}

/// Every base that has files. Their sizes are not looked at.
pub(super) fn all(root: &Path) -> io::Result<Vec<KeptBase>> {
    let entries = match fs::read_dir(bases(root)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries.flatten() {
        if let Some(id) = entry.file_name().to_str().filter(|id| check_name(id).is_ok()) {
            all.push(describe(id, entry.path().canonicalize()?, 0));
        }
    }
    Ok(all)
}

/// Where the files of a box lie that may become a base.
pub(super) fn of_box(root: &Path, name: &str) -> io::Result<PathBuf> {
    check_name(name)?;
    Ok(root.join(name).join(KEPT))
}

/// What a tree takes on the disk. What cannot be looked at counts nothing.
pub(super) fn used_bytes(path: &Path) -> u64 {
    let mut n_blocks = 0;
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            n_blocks += found.blocks();
            if found.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    n_blocks * 512
}
