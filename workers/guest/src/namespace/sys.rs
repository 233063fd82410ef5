//! The system calls of the launcher as safe functions: what the standard library links but does not offer.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_long, c_uint, c_ulong, c_void},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

unsafe extern "C" {
    fn fork() -> c_int;
    fn getegid() -> u32;
    fn geteuid() -> u32;
    fn getrlimit(resource: c_uint, limit: *mut [u64; 2]) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_char,
    ) -> c_int;
    fn poll(fds: *mut PollFd, n: c_ulong, timeout: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setrlimit(resource: c_uint, limit: *const [u64; 2]) -> c_int;
    fn sethostname(name: *const c_char, length: usize) -> c_int;
    fn setgroups(n: usize, groups: *const u32) -> c_int;
    fn setresgid(real: u32, effective: u32, saved: u32) -> c_int;
    fn setresuid(real: u32, effective: u32, saved: u32) -> c_int;
    fn setsid() -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn umask(mask: c_uint) -> c_uint;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

pub(super) const CLONE_NEWNS: c_int = 0x0002_0000;
pub(super) const CLONE_NEWCGROUP: c_int = 0x0200_0000;
pub(super) const CLONE_NEWUTS: c_int = 0x0400_0000;
pub(super) const CLONE_NEWIPC: c_int = 0x0800_0000;
pub(super) const CLONE_NEWUSER: c_int = 0x1000_0000;
pub(super) const CLONE_NEWPID: c_int = 0x2000_0000;
pub(super) const CLONE_NEWNET: c_int = 0x4000_0000;

pub(super) const MS_NOSUID: c_ulong = 2;
pub(super) const MS_NODEV: c_ulong = 4;
pub(super) const MS_NOEXEC: c_ulong = 8;
pub(super) const MS_REC: c_ulong = 0x4000;
pub(super) const MS_PRIVATE: c_ulong = 1 << 18;

pub(super) const ATTR_RDONLY: u64 = 1;
pub(super) const ATTR_NOSUID: u64 = 2;
pub(super) const ATTR_NODEV: u64 = 4;
pub(super) const ATTR_NOEXEC: u64 = 8;

pub(super) const PR_SET_PDEATHSIG: c_int = 1;
pub(super) const PR_SET_DUMPABLE: c_int = 4;
pub(super) const PR_SET_NAME: c_int = 15;
pub(super) const PR_CAPBSET_DROP: c_int = 24;
pub(super) const PR_SET_SECUREBITS: c_int = 28;
pub(super) const PR_SET_NO_NEW_PRIVS: c_int = 38;
pub(super) const PR_CAP_AMBIENT: c_int = 47;

pub(super) const RLIMIT_FSIZE: c_uint = 1;
pub(super) const RLIMIT_CORE: c_uint = 4;
pub(super) const RLIMIT_NPROC: c_uint = 6;
pub(super) const RLIMIT_NOFILE: c_uint = 7;

pub(super) const POLLIN: i16 = 1;
const SIGKILL: c_int = 9;
const MNT_DETACH: c_int = 2;
const AT_FDCWD: c_int = -100;
const AT_EMPTY_PATH: c_uint = 0x1000;
const AT_RECURSIVE: c_uint = 0x8000;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const CAPSET: i64 = 126;
    pub(super) const PIVOT_ROOT: i64 = 155;
    pub(super) const RT_SIGACTION: i64 = 13;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const CAPSET: i64 = 91;
    pub(super) const PIVOT_ROOT: i64 = 41;
    pub(super) const RT_SIGACTION: i64 = 134;
}
const PIDFD_SEND_SIGNAL: c_long = 424;
const OPEN_TREE: c_long = 428;
const MOVE_MOUNT: c_long = 429;
const PIDFD_OPEN: c_long = 434;
const CLOSE_RANGE: c_long = 436;
const MOUNT_SETATTR: c_long = 442;

/// `struct pollfd`.
#[repr(C)]
pub(super) struct PollFd {
    pub(super) fd: RawFd,
    pub(super) events: i16,
    pub(super) revents: i16,
}

/// `struct mount_attr`.
#[derive(Default)]
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: c_long) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as c_int) }
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Forks. The caller has one thread, so the child may go on with anything.
pub(super) fn fork_process() -> io::Result<Option<c_int>> {
    // SAFETY: the launcher has never started a thread, so no lock can be held in the child.
    let pid = check(unsafe { fork() })?;
    Ok((pid != 0).then_some(pid))
}

pub(super) fn unshare_namespaces(flags: c_int) -> io::Result<()> {
    // SAFETY: takes an integer only.
    check(unsafe { unshare(flags) }).map(drop)
}

pub(super) fn new_session() {
    // SAFETY: takes nothing. It fails only where the caller leads a group already, and then nothing is to be done.
    unsafe { setsid() };
}

/// Undoes what the worker or its own parents ignore: an ignored signal would stay so in every command. The call itself,
/// because the C library hides the signals that it uses between threads, and ignores one of them when it starts programs.
pub(super) fn restore_signals() {
    const SIGPIPE: c_int = 13;
    const LAST_SIGNAL: c_int = 64;
    /// `struct sigaction` of the kernel: the default handler, no flags, nothing blocked.
    const DEFAULT: [u64; 4] = [0; 4];
    const SET_BYTES: usize = 8;
    let none: *const c_void = std::ptr::null();
    // The standard library relies on ignoring SIGPIPE, and undoes that in what it starts.
    for signal in (1..=LAST_SIGNAL).filter(|signal| *signal != SIGPIPE) {
        // SAFETY: the structure lives through the call; no handler is installed. It fails where there is no other.
        unsafe { syscall(number::RT_SIGACTION, signal, DEFAULT.as_ptr(), none, SET_BYTES) };
    }
}

pub(super) fn clear_umask() {
    // SAFETY: takes an integer only and cannot fail.
    unsafe { umask(0o022) };
}

/// Closes every descriptor but the standard ones.
pub(super) fn close_others() {
    let (first, last, flags): (c_uint, c_uint, c_uint) = (3, c_uint::MAX, 0);
    // SAFETY: called first thing, when no descriptor beyond the standard ones has an owner in this process.
    unsafe { syscall(CLOSE_RANGE, first, last, flags) };
}

/// `prctl` with plain integers.
pub(super) fn set_process(option: c_int, two: u64, three: u64) -> io::Result<()> {
    let none: c_ulong = 0;
    // SAFETY: the options that are used with this function take integers only.
    check(unsafe { prctl(option, two as c_ulong, three as c_ulong, none, none) }).map(drop)
}

/// How the process is called in lists of processes.
pub(super) fn set_name(name: &CStr) {
    // SAFETY: the name lives through the call and ends in NUL.
    unsafe { prctl(PR_SET_NAME, name.as_ptr()) };
}

/// Gives up every capability: effective, permitted and inheritable.
pub(super) fn clear_capabilities() -> io::Result<()> {
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0_u32; 6];
    // SAFETY: version 3 of the call reads a header of two words and two structures of three words each.
    check_long(unsafe { syscall(number::CAPSET, header.as_ptr(), none.as_ptr()) }).map(drop)
}

/// Limits a resource to `value`, or to the limit that holds already where that one is lower and cannot be raised.
pub(super) fn limit(resource: c_uint, value: u64) -> io::Result<()> {
    let mut now = [0_u64; 2];
    // SAFETY: the structure is two 64-bit words on every 64-bit Linux, and lives through the call.
    check(unsafe { getrlimit(resource, &mut now) })?;
    // SAFETY: the same.
    let set = |value: u64| check(unsafe { setrlimit(resource, &[value, value]) }).map(drop);
    set(value).or_else(|_| set(value.min(now[1])))
}

/// The user and the group that this process acts as.
pub(super) fn effective_ids() -> (u32, u32) {
    // SAFETY: both take nothing and cannot fail.
    unsafe { (geteuid(), getegid()) }
}

pub(super) fn clear_groups() -> io::Result<()> {
    // SAFETY: a length of zero reads nothing.
    check(unsafe { setgroups(0, std::ptr::null()) }).map(drop)
}

/// Becomes a user and a group for good.
pub(super) fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: both take integers only; the process has one thread, so all of it changes.
    check(unsafe { setresgid(id, id, id) }).and_then(|_| check(unsafe { setresuid(id, id, id) })).map(drop)
}

pub(super) fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads `len` bytes, which the slice has.
    check(unsafe { sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Brings the loopback interface of the current network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    const AF_INET: c_int = 2;
    const SOCK_DGRAM: c_int = 2;
    const SOCK_CLOEXEC: c_int = 0o2000000;
    const SIOCSIFFLAGS: c_ulong = 0x8914;
    const IFF_UP: u16 = 1;
    /// `struct ifreq` with its flags.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    let mut request = Request { name: [0; 16], flags: IFF_UP, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: takes integers only; the new descriptor is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(check(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0))?) };
    // SAFETY: the request is a whole `struct ifreq` that lives through the call.
    check(unsafe { ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &request as *const Request) }).map(drop)
}

/// `mount(2)` of a new file system.
pub(super) fn mount_new(kind: &CStr, target: &Path, flags: c_ulong, options: &str) -> io::Result<()> {
    let (target, options) = (c_string(target)?, CString::new(options)?);
    // SAFETY: all four are strings that end in NUL and live through the call.
    check(unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr()) }).map(drop)
}

/// Cuts every mount of this namespace off from the host's: nothing travels either way any more.
pub(super) fn make_private() -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: the target is a string that ends in NUL; the others may be null for a change of propagation.
    check(unsafe { mount(none, c"/".as_ptr(), none, MS_REC | MS_PRIVATE, none) }).map(drop)
}

/// Shows `source`, with everything mounted below it, at `target`, with these attributes added throughout.
pub(super) fn bind(source: &Path, target: &Path, attributes: u64) -> io::Result<()> {
    let tree = clone_tree(source)?;
    let changes = MountAttr { set: attributes, ..MountAttr::default() };
    set_attributes(tree.as_raw_fd(), c"", AT_EMPTY_PATH | AT_RECURSIVE, &changes)?;
    attach(&tree, target)
}

/// Shows `source` at `target` with its owners translated by the tables of a user namespace.
pub(super) fn bind_translated(source: &Path, target: &Path, namespace: &OwnedFd) -> io::Result<()> {
    const ATTR_IDMAP: u64 = 0x0010_0000;
    let tree = clone_tree(source)?;
    let userns_fd = namespace.as_raw_fd() as u64;
    let changes = MountAttr { set: ATTR_IDMAP, userns_fd, ..MountAttr::default() };
    set_attributes(tree.as_raw_fd(), c"", AT_EMPTY_PATH, &changes)?;
    attach(&tree, target)
}

fn clone_tree(source: &Path) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: c_uint = 1;
    const OPEN_TREE_CLOEXEC: c_uint = 0o2000000;
    let source = c_string(source)?;
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;
    // SAFETY: the path ends in NUL and lives through the call; the new descriptor is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(check_long(syscall(OPEN_TREE, AT_FDCWD, source.as_ptr(), flags))?) })
}

fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
    let (fd, target) = (tree.as_raw_fd(), c_string(target)?);
    let (empty, flags) = (c"".as_ptr(), MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: both paths end in NUL and live through the call, the descriptor is open.
    check_long(unsafe { syscall(MOVE_MOUNT, fd, empty, AT_FDCWD, target.as_ptr(), flags) }).map(drop)
}

/// Makes the root mount itself read-only, not what is mounted below it.
pub(super) fn seal_root() -> io::Result<()> {
    set_attributes(AT_FDCWD, c"/", 0, &MountAttr { set: ATTR_RDONLY, ..MountAttr::default() })
}

fn set_attributes(fd: RawFd, path: &CStr, flags: c_uint, changes: &MountAttr) -> io::Result<()> {
    let (path, changes, size) = (path.as_ptr(), std::ptr::from_ref(changes), size_of::<MountAttr>());
    // SAFETY: the path ends in NUL and the structure has the size that is told; both live through the call.
    check_long(unsafe { syscall(MOUNT_SETATTR, fd, path, flags, changes, size) }).map(drop)
}

/// Makes the current directory, which is a mount, the root, and lets go of the old root for good.
pub(super) fn pivot_here() -> io::Result<()> {
    // SAFETY: both paths end in NUL. With the same directory twice the old root ends up on top of the new one.
    check_long(unsafe { syscall(number::PIVOT_ROOT, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: the path ends in NUL.
    check(unsafe { umount2(c".".as_ptr(), MNT_DETACH) })?;
    std::env::set_current_dir("/")
}

/// A descriptor that is readable when the process has ended.
pub(super) fn open_process(pid: c_int) -> io::Result<OwnedFd> {
    let flags: c_uint = 0;
    // SAFETY: takes integers only; the new descriptor is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(check_long(syscall(PIDFD_OPEN, pid, flags))?) })
}

/// Kills exactly this process, even if its number was given to another one since.
pub(super) fn kill_process(process: &OwnedFd) {
    let (none, flags): (*const c_void, c_uint) = (std::ptr::null(), 0);
    // SAFETY: takes integers and a null pointer. It fails only for a process that has ended already.
    unsafe { syscall(PIDFD_SEND_SIGNAL, process.as_raw_fd(), SIGKILL, none, flags) };
}

/// Waits for a child and returns what a shell would: its exit code, or 128 and the signal.
pub(super) fn wait_for(pid: c_int) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: the status lives through the call.
        match check(unsafe { waitpid(pid, &mut status, 0) }) {
            Ok(_) if status & 0x7f == 0 => return (status >> 8) & 0xff,
            Ok(_) => return 128 + (status & 0x7f),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return 1,
        }
    }
}

/// Waits until something happens to one of the descriptors. No timeout: `None`.
pub(super) fn wait_for_any(fds: &mut [PollFd], timeout_ms: Option<c_int>) {
    // SAFETY: the pointer and the length are of the same slice. An interrupted wait looks like one without events.
    unsafe { poll(fds.as_mut_ptr(), fds.len() as c_ulong, timeout_ms.unwrap_or(-1)) };
}
