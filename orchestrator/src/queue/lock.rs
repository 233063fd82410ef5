//! One process, one data directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::Path,
};

use tasks::{Code, Failure};

/// Held as long as anything of the store is open. The kernel releases it when the process dies, however it dies.
pub(super) fn take(dir: &Path) -> Result<File, Failure> {
    let path = dir.join("LOCK");
    let cannot = |error: io::Error| {
        Failure::new(
            Code::StoreUnavailable,
            format!("The task store's lock {} cannot be taken: {error}", path.display()),
        )
    };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let who = holder.trim().parse::<u32>().map_or(String::new(), |pid| format!(" (process {pid})"));
            let message = format!("Another Onramp{who} uses the data directory {}", dir.display());
            return Err(Failure::new(Code::StoreLocked, message));
        }
        Err(TryLockError::Error(error)) => return Err(cannot(error)),
    }
    // For whoever is refused; the lock itself does not need it.
    let noted = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    if let Err(error) = noted {
        tracing::debug!(%error, "the lock file does not say who holds it");
    }
    Ok(file)
}
