//! The guest as something that can be executed: in memory, sealed, never on a disk where it could be changed.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::sandbox::GUEST;

/// The guest, held for the life of the worker.
#[derive(Debug)]
pub(super) struct GuestProgram {
    path: PathBuf,
    _memory: Option<OwnedFd>,
}

impl GuestProgram {
    /// The guest of this worker. Where programs in memory may not be executed, a file below `root` has to do.
    pub(super) fn get(root: &Path) -> io::Result<&'static Self> {
        static PROGRAM: OnceLock<GuestProgram> = OnceLock::new();
        if let Some(program) = PROGRAM.get() {
            return Ok(program);
        }
        let program = Self::in_memory().or_else(|_| Self::in_file(root))?;
        Ok(PROGRAM.get_or_init(|| program))
    }

    fn in_memory() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know that it has to be said, and allow it.
        let memory =
            memfd_create("onramp-guest", flags | MemfdFlags::EXEC).or_else(|_| memfd_create("onramp-guest", flags))?;
        let mut file = File::from(memory);
        file.write_all(GUEST)?;
        let memory = OwnedFd::from(file);
        fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        // The child that executes it has the same descriptors until then.
        Ok(Self { path: format!("/proc/self/fd/{}", memory.as_raw_fd()).into(), _memory: Some(memory) })
    }

    fn in_file(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let (path, fresh) = (root.join(".guest"), root.join(format!(".guest-{}", std::process::id())));
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o700).open(&fresh)?;
        file.write_all(GUEST)?;
        drop(file);
        fs::rename(&fresh, &path)?;
        Ok(Self { path, _memory: None })
    }

    /// What to execute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
