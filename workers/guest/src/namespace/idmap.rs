//! Lets the user inside own what the worker's user owns outside: in a view of a directory, not on the disk.
//!
//! A privileged worker puts another user behind each box, who could only read the worker's files. For a cache that is
//! shown with its changes kept apart that is not enough: whoever may not write a directory may not write its changes
//! either. The kernel translates owners per mount, by the tables of a user namespace that is made for just this.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::Path,
};

use super::{Attempt, Refusal, confine, sys};

/// A user namespace in which the owner of `path` stands for the user `host_id`.
pub(super) fn owner_as(path: &Path, host_id: u32) -> Result<OwnedFd, Refusal> {
    let found = path.metadata().attempt(|| format!("look at {}", path.display()))?;
    let (mut ours, mut theirs) = UnixStream::pair().attempt(|| "create a socket pair".into())?;
    // A namespace needs a process to be made; this one lives until it was opened.
    let Some(pid) = sys::fork_process().attempt(|| "start a process".into())? else {
        drop(ours);
        let made = sys::unshare_namespaces(sys::CLONE_NEWUSER).and_then(|()| theirs.write_all(b"!"));
        let _ = made.and_then(|()| theirs.read(&mut [0]));
        std::process::exit(0)
    };
    drop(theirs);
    let made = ours.read_exact(&mut [0]).attempt(|| "create a user namespace for a mount".into());
    let process = pid.to_string();
    let mapped = made.and_then(|()| confine::map_user(&process, (found.uid(), found.gid()), (host_id, host_id)));
    let namespace = mapped.and_then(|()| {
        File::open(Path::new("/proc").join(process).join("ns/user")).attempt(|| "open a user namespace".into())
    });
    drop(ours);
    sys::wait_for(pid);
    namespace.map(OwnedFd::from)
}
