//! One lock for each device, so that several processes of one machine never lend the same one.
//!
//! The kernel keeps the lock for as long as the file is open: a process that dies holds nothing any more, and there is
//! nothing to clean up. The files themselves stay.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags, flock};

/// Memory of the whole machine, writable for every user of it, and shared also between services that each have a `/tmp` of
/// their own.
pub(super) const DEFAULT_DIR: &str = "/dev/shm/onramp-gpu";

/// Held as long as it lives.
#[derive(Debug)]
pub(super) struct DeviceLock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// Takes the lock of a device; `None`: another process has it.
///
/// # Errors
/// When the directory or file cannot be made: then nobody can be kept apart, and nothing may be lent.
pub(super) fn take(dir: &Path, id: &str) -> io::Result<Option<DeviceLock>> {
    make_dir(dir)?;
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let path: PathBuf = dir.join(format!("{}.lock", id.chars().map(plain).collect::<String>()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o666)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(&path)?;
    // Also for other users of the machine, whatever the umask says; only its owner can and needs to.
    let _ = file.set_permissions(fs::Permissions::from_mode(0o666));
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            // For people who look; the lock does not depend on it.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(Some(DeviceLock(file)))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o777).create(dir) {
        // As in /tmp: everybody may add a file, nobody may remove another's.
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(0o1777)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
