//! Takes everything away from the process that becomes PID 1, before a byte of foreign code runs.

use std::{
    fs, io,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
};

use guest::launch::{INSIDE_ID, Launch};

use super::{Attempt, Refusal, sys};
use crate::seccomp;

const OPEN_FILES: u64 = 65_536;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;
const HIGHEST_POSSIBLE_CAPABILITY: u64 = 63;
/// No rights for user 0, none kept over a change of user, none ambient; and no way to switch that back.
const LOCKED_SECURE_BITS: u64 = 0xef;
const SIGKILL: u64 = 9;

/// Ends this process together with its parent. A change of user undoes it, so it is asked for twice.
pub(super) fn die_with_parent() -> io::Result<()> {
    sys::set_process(sys::PR_SET_PDEATHSIG, SIGKILL, 0)
}

/// Counts this process into the box's control groups, and makes the kernel choose it first when memory is short.
pub(super) fn join_groups(launch: &Launch) -> Result<(), Refusal> {
    for cgroup in &launch.cgroups {
        fs::write(cgroup, "0").attempt(|| format!("enter the control group {}", cgroup.display()))?;
    }
    // Without it only the order of killing differs; some systems do not let it be changed.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    Ok(())
}

/// Limits that the kernel keeps for each process, and for the user behind it. `in_group`: processes are limited by a control
/// group too, which counts what it refuses; so it must be the one that is hit.
pub(super) fn limit(launch: &Launch, in_group: bool) -> Result<(), Refusal> {
    let pids = if in_group { launch.pids.saturating_add(launch.pids / 8 + 16) } else { launch.pids };
    sys::limit(sys::RLIMIT_CORE, 0).attempt(|| "limit core files".into())?;
    sys::limit(sys::RLIMIT_FSIZE, launch.file_bytes).attempt(|| "limit the size of files".into())?;
    sys::limit(sys::RLIMIT_NPROC, pids).attempt(|| "limit the number of processes".into())?;
    // An unprivileged worker cannot raise its own hard limit; then that one stays.
    let _ = sys::limit(sys::RLIMIT_NOFILE, OPEN_FILES);
    Ok(())
}

/// Becomes the user inside. A privileged launcher is asked, over `parent`, to put an unprivileged user of the host
/// behind it first: the namespaces were made by real root then, so that nothing inside owns any of them.
pub(super) fn become_inside_user(launch: &Launch, parent: &mut UnixStream) -> Result<(), Refusal> {
    if launch.host_id.is_some() {
        sys::clear_groups().attempt(|| "give up the supplementary groups".into())?;
        sys::unshare_namespaces(sys::CLONE_NEWUSER).attempt(|| "create a user namespace".into())?;
        let mut mapped = [0];
        let asked = parent.write_all(b"?").and_then(|()| parent.read_exact(&mut mapped));
        asked.attempt(|| "map the user of the sandbox".into())?;
    }
    drop_bounding_set().attempt(|| "drop the capabilities".into())?;
    sys::become_user(INSIDE_ID).attempt(|| "become the user of the sandbox".into())?;
    sys::clear_capabilities().attempt(|| "drop the capabilities".into())
}

/// After this no program that is started can ever gain a capability again, whatever bits its file has.
fn drop_bounding_set() -> io::Result<()> {
    // The capabilities end where the kernel does not know the next one.
    for capability in 0..=HIGHEST_POSSIBLE_CAPABILITY {
        if sys::set_process(sys::PR_CAPBSET_DROP, capability, 0).is_err() {
            break;
        }
    }
    sys::set_process(sys::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    sys::set_process(sys::PR_SET_SECUREBITS, LOCKED_SECURE_BITS, 0)
}

/// The last steps: die with the launcher, gain nothing, be looked into by nobody, call nothing that is denied.
pub(super) fn seal(parent: &UnixStream) -> Result<(), Refusal> {
    sys::set_process(sys::PR_SET_NO_NEW_PRIVS, 1, 0).attempt(|| "renounce new privileges".into())?;
    sys::set_process(sys::PR_SET_DUMPABLE, 0, 0).attempt(|| "close this process to others".into())?;
    die_with_parent().attempt(|| "bind the sandbox to its worker".into())?;
    // The launcher never writes here again: readable means that it is gone, and that its death was not noticed above.
    let mut fds = [sys::PollFd { fd: parent.as_raw_fd(), events: sys::POLLIN, revents: 0 }];
    sys::wait_for_any(&mut fds, Some(0));
    if fds[0].revents != 0 {
        std::process::exit(1);
    }
    seccomp::install().attempt(|| "install the filter of system calls".into())
}

/// Lets one user and one group of a process's user namespace stand for those outside: the launcher's part.
pub(super) fn map_user(process: &str, inside: (u32, u32), outside: (u32, u32)) -> Result<(), Refusal> {
    let proc = Path::new("/proc").join(process);
    let write = |name: &str, text: String| fs::write(proc.join(name), text).attempt(|| format!("write {name}"));
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{} {} 1", inside.0, outside.0))?;
    write("gid_map", format!("{} {} 1", inside.1, outside.1))
}
