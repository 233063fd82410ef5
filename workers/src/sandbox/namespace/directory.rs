//! The files of boxes: one directory each, and beside it a lock that tells whether its worker lives.
//!
//! The kernel lets go of the lock when the worker ends, however it ends; so whoever gets the lock may clean up. The lock
//! also remembers the control groups of the box, which lie elsewhere.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use super::cgroup;

const LOCK: &str = "lock";
/// The kernel takes a control group's last process out of it a moment after that was waited for.
const GROUP_ATTEMPTS: u32 = 50;
const GROUP_PAUSE: Duration = Duration::from_millis(2);

/// The directory of a box that this worker runs.
#[derive(Debug)]
pub(super) struct BoxDirectory {
    path: PathBuf,
    name: String,
    groups: Vec<PathBuf>,
    lock: File,
}

impl BoxDirectory {
    /// Makes the directory of a new box.
    ///
    /// # Errors
    /// When there is one of that name already, or the name is no plain file name.
    pub(super) fn create(root: &Path, name: &str, groups: &[PathBuf]) -> io::Result<Self> {
        check_name(name)?;
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        let mut lock =
            File::options().read(true).write(true).create(true).truncate(false).open(lock_path(root, name))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::AlreadyExists, "a sandbox of this name is running")
            }
            TryLockError::Error(error) => error,
        })?;
        let lines: Vec<_> = groups.iter().map(|group| group.as_os_str().as_bytes()).collect();
        lock.set_len(0)?;
        lock.write_all(&lines.join(&b'\n'))?;
        let path = root.canonicalize()?.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, name: name.to_owned(), groups: groups.to_vec(), lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Removes everything of a box whose processes are gone.
    pub(super) fn remove(self) -> io::Result<()> {
        let root = self.path.parent().unwrap_or(Path::new("/"));
        remove_all(root, &self.name, &self.groups)?;
        drop(self.lock);
        Ok(())
    }
}

/// The names of all boxes that have files below `root`.
pub(super) fn names(root: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.trim_end_matches(".lock").to_owned()))
        .filter(|name| check_name(name).is_ok())
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether a box is left of a worker that is gone.
pub(super) fn is_abandoned(root: &Path, name: &str) -> bool {
    match File::open(lock_path(root, name)) {
        Ok(lock) => !matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => true,
    }
}

/// Removes what a worker that is gone left of a box; true when there was something. A box whose worker lives, in this
/// process or another one, is left alone.
pub(super) fn remove_abandoned(root: &Path, name: &str) -> io::Result<bool> {
    check_name(name)?;
    let (dir, lock) = (root.join(name), lock_path(root, name));
    if !dir.exists() && !lock.exists() {
        return Ok(false);
    }
    let mut lock = File::options().read(true).write(true).create(true).truncate(false).open(lock)?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(false),
        locked => locked?,
    }
    let mut groups = Vec::new();
    lock.read_to_end(&mut groups)?;
    let groups = groups.split(|byte| *byte == b'\n').filter(|group| !group.is_empty());
    let groups: Vec<PathBuf> = groups.map(|group| OsString::from_vec(group.to_vec()).into()).collect();
    // Only what this backend could have made, whatever the file says.
    let ours = |group: &PathBuf| group.file_name().is_some_and(|last| last.as_bytes() == name.as_bytes());
    remove_all(root, name, &groups.into_iter().filter(ours).collect::<Vec<_>>())?;
    Ok(true)
}

fn remove_all(root: &Path, name: &str, groups: &[PathBuf]) -> io::Result<()> {
    remove_tree(&root.join(name))?;
    let mut attempts = 1;
    while let Err(error) = cgroup::remove(groups) {
        if error.kind() != io::ErrorKind::ResourceBusy || attempts == GROUP_ATTEMPTS {
            return Err(error);
        }
        attempts += 1;
        std::thread::sleep(GROUP_PAUSE);
    }
    match fs::remove_file(lock_path(root, name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a tree, directories that were closed to their owner too. Nothing runs in it any more.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_directories(path)?;
            fs::remove_dir_all(path)
        }
        done => done,
    }
}

fn open_directories(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // The type of the entry itself: links are not followed.
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

fn lock_path(root: &Path, name: &str) -> PathBuf {
    root.join(format!("{name}.{LOCK}"))
}

/// A name becomes a directory and a control group; it must not lead anywhere else.
pub(super) fn check_name(name: &str) -> io::Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !name.is_empty() && name.len() <= 200 && name.bytes().all(plain) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name for a sandbox")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_its_worker_holds_is_left_alone_and_one_that_was_abandoned_goes() {
        let root = tempfile::tempdir().unwrap();
        let held = BoxDirectory::create(root.path(), "onramp-a", &[]).unwrap();
        assert!(BoxDirectory::create(root.path(), "onramp-a", &[]).is_err());
        assert!(!remove_abandoned(root.path(), "onramp-a").unwrap());
        assert!(held.path().is_dir());
        drop(held);
        assert_eq!(names(root.path()).unwrap(), ["onramp-a"]);
        assert!(remove_abandoned(root.path(), "onramp-a").unwrap());
        assert!(!remove_abandoned(root.path(), "onramp-a").unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_tree_is_removed_even_when_it_is_closed_to_its_owner() {
        let root = tempfile::tempdir().unwrap();
        let held = BoxDirectory::create(root.path(), "onramp-b", &[]).unwrap();
        let deep = held.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/", deep.join("link")).unwrap();
        for closed in [&deep, deep.parent().unwrap()] {
            fs::set_permissions(closed, fs::Permissions::from_mode(0o0)).unwrap();
        }
        held.remove().unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_root() {
        for name in ["", "..", "a/b", "a.lock", "/etc", "a\0b", "ü"] {
            assert!(BoxDirectory::create(Path::new("/nonexistent"), name, &[]).is_err(), "{name:?}");
            assert!(remove_abandoned(Path::new("/nonexistent"), name).is_err(), "{name:?}");
        }
    }
}
