//! The directories of an index: put aside, copied, put in place of one another.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    time::{Duration, Instant},
};

use super::{Index, IndexError};

/// How long a handle that was dropped may take to let go of its file.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSING_INTERVAL: Duration = Duration::from_millis(5);

/// Moves an index that cannot be used out of the way. The last one is kept with the reason in it (`WHY`).
pub(in crate::queue) fn set_aside(dir: &Path, why: &str) -> io::Result<()> {
    let aside = dir.with_extension("damaged");
    remove_dir(&aside)?;
    match fs::rename(dir, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        moved => moved?,
    }
    if let Err(error) = fs::write(aside.join("WHY"), why) {
        tracing::warn!(%error, "the reason is not kept with the index that was put aside");
    }
    Ok(())
}

/// Copies an index into a fresh one beside it.
pub(in crate::queue) fn copy_aside(index: &Index, dir: &Path) -> Result<(), IndexError> {
    let fresh = dir.with_extension("fresh");
    remove_dir(&fresh)?;
    index.copy_to(&fresh)
}

/// Puts the fresh copy in the place of an index that is closed. A crash half-way leaves none, which is then made anew
/// from the journal.
pub(in crate::queue) fn swap(dir: &Path) -> Result<(), IndexError> {
    wait_until_closed(dir)?;
    let old = dir.with_extension("bloated");
    remove_dir(&old)?;
    fs::rename(dir, &old)?;
    fs::rename(dir.with_extension("fresh"), dir)?;
    Ok(remove_dir(&old)?)
}

/// Removes a directory with everything in it, if it is there.
pub(in crate::queue) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// sled's own threads hold the file, and its lock, for a moment after the handle was dropped. Nobody else can: whoever
/// opens an index holds the lock of the data directory.
pub(super) fn wait_until_closed(dir: &Path) -> Result<(), IndexError> {
    let file = match File::open(dir.join("db")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let deadline = Instant::now() + CLOSING_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file.unlock()?),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Err(IndexError::Busy),
            Err(TryLockError::WouldBlock) => std::thread::sleep(CLOSING_INTERVAL),
        }
    }
}

pub(super) fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "removed a snapshot that a crash left half-written");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
