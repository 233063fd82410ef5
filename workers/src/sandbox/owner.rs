//! Which process works with a box: known from a lock that the kernel lets go of when that process ends, however it ends.
//!
//! Several processes may share a data directory and an engine: `onramp serve`, a run from the command line, another worker.
//! Each sweeps away what a dead one left, and none may touch what a living one works with.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// This process as an owner of boxes, as long as it is held.
#[derive(Debug)]
pub struct Owner {
    dir: PathBuf,
    id: String,
    _lock: File,
}

impl Owner {
    /// Makes this process an owner. `dir` is the same for all processes of an installation.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn new(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock = tempfile::Builder::new().prefix("owner-").tempfile_in(dir)?;
        lock.as_file().lock()?;
        let (lock, path) = lock.keep().map_err(|error| error.error)?;
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { dir: dir.to_owned(), id, _lock: lock })
    }

    /// The name of this owner.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether a process that once was the owner `id` still lives, this one included. One that nobody knows does not.
    pub fn lives(&self, id: &str) -> bool {
        if id == self.id {
            return true;
        }
        if !id.starts_with("owner-") || id.contains('/') {
            return false;
        }
        match File::open(self.dir.join(id)) {
            Ok(lock) => matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }

    /// Forgets the owners that are gone. To be called after their boxes were removed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn forget_dead(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if id.starts_with("owner-") && !self.lives(&id) {
                // Another process may be faster.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.dir.join(&self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_lives_as_long_as_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Owner::new(dir.path()).unwrap(), Owner::new(dir.path()).unwrap());
        assert!(one.lives(one.id()) && one.lives(other.id()) && other.lives(one.id()));
        let id = other.id().to_owned();
        drop(other);
        // As after a kill: the file is there, the lock is not.
        fs::write(dir.path().join(&id), "").unwrap();
        assert!(!one.lives(&id));
        one.forget_dead().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "its own file stays");
        for stranger in ["", "owner-unknown", "../etc/passwd", "owner-/../x"] {
            assert!(!one.lives(stranger), "{stranger:?}");
        }
    }
}
