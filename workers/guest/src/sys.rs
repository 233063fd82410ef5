//! The few functions of the C library that the standard library links but does not offer.
//!
//! Each is wrapped into a safe function at once, so that the rest of the guest has no `unsafe` of its own. Layouts and
//! numbers are those of the 64-bit Linux interface, which both C libraries share.

pub(crate) mod space;

use std::{
    ffi::{CStr, c_char, c_int, c_long, c_short, c_uint, c_ulong, c_void},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
    time::Duration,
};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the guest is written for 64-bit Linux");

unsafe extern "C" {
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn mkdirat(directory: c_int, name: *const c_char, mode: c_uint) -> c_int;
    fn openat(directory: c_int, name: *const c_char, flags: c_int, ...) -> c_int;
    fn poll(entries: *mut PollEntry, n_entries: c_ulong, timeout_ms: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn readlinkat(directory: c_int, name: *const c_char, buffer: *mut c_char, size: usize) -> isize;
    fn setsid() -> c_int;
    fn signalfd(fd: c_int, set: *const SignalSet, flags: c_int) -> c_int;
    fn symlinkat(target: *const c_char, directory: c_int, name: *const c_char) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn umask(mask: c_uint) -> c_uint;
    fn unlinkat(directory: c_int, name: *const c_char, flags: c_int) -> c_int;
    fn wait4(pid: c_int, status: *mut c_int, options: c_int, usage: *mut RawUsage) -> c_int;
}

pub(crate) const SIGKILL: c_int = 9;
pub(crate) const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;

pub(crate) const SIGXFSZ: c_int = 25;

pub(crate) const EPERM: i32 = 1;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const ECHILD: i32 = 10;
pub(crate) const EACCES: i32 = 13;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const ENOTDIR: i32 = 20;
pub(crate) const EISDIR: i32 = 21;
pub(crate) const ENOTEMPTY: i32 = 39;
pub(crate) const ELOOP: i32 = 40;

/// The error of the last call, or its value.
fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

// --- this process ---

const PR_SET_DUMPABLE: c_int = 4;
const PR_SET_NO_NEW_PRIVS: c_int = 38;

/// Nothing inside may look into this process, nothing it starts may gain privileges, and files have plain modes.
pub(crate) fn harden() {
    let (none, one): (c_ulong, c_ulong) = (0, 1);
    // SAFETY: the options take plain integers; none of the calls touches memory of ours.
    unsafe {
        prctl(PR_SET_DUMPABLE, none, none, none, none);
        prctl(PR_SET_NO_NEW_PRIVS, one, none, none, none);
        umask(0o022);
    }
}

/// `struct sock_filter`: one instruction of a seccomp filter.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) value: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct FilterProgram {
    length: u16,
    instructions: *const Instruction,
}

/// Installs a seccomp filter on this process and all that it will start.
pub(crate) fn install_filter(instructions: &[Instruction]) -> io::Result<()> {
    const PR_SET_SECCOMP: c_int = 22;
    const SECCOMP_MODE_FILTER: c_ulong = 2;
    let length = u16::try_from(instructions.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = FilterProgram { length, instructions: instructions.as_ptr() };
    // SAFETY: the program points to `length` instructions that outlive the call; the kernel copies them.
    checked(unsafe { prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program as *const FilterProgram) }).map(drop)
}

/// The standard input and output, as files that wait when read and written.
pub(crate) fn standard_streams() -> io::Result<(File, File)> {
    set_blocking(0, true)?;
    set_blocking(1, true)?;
    // SAFETY: both stay open for as long as the process lives, and nothing else in it uses them.
    Ok(unsafe { (File::from_raw_fd(0), File::from_raw_fd(1)) })
}

const F_GETFL: c_int = 3;
const F_SETFL: c_int = 4;
const O_NONBLOCK: c_int = 0o4000;

/// Whether reading and writing wait.
pub(crate) fn set_blocking(fd: RawFd, blocking: bool) -> io::Result<()> {
    // SAFETY: plain integers in, a plain integer out; a bad descriptor is an error and nothing else.
    let flags = checked(unsafe { fcntl(fd, F_GETFL) })?;
    let flags = if blocking { flags & !O_NONBLOCK } else { flags | O_NONBLOCK };
    // SAFETY: as above.
    checked(unsafe { fcntl(fd, F_SETFL, flags) }).map(drop)
}

const SIOCGIFFLAGS: c_ulong = 0x8913;
const SIOCSIFFLAGS: c_ulong = 0x8914;
const IFF_UP: c_short = 1;

/// The kernel's `struct ifreq`: the name, then a union of which only the flags matter here.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

/// Brings the loopback interface up. Where that is not permitted, it is up already or cannot be helped.
pub(crate) fn raise_loopback() {
    let Ok(socket) = std::net::UdpSocket::bind("0.0.0.0:0") else { return };
    let mut request = InterfaceRequest { name: *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0", flags: 0, rest: [0; 22] };
    // SAFETY: `request` has the size and layout that both requests read and write, and outlives the calls.
    unsafe {
        if ioctl(socket.as_raw_fd(), SIOCGIFFLAGS, &raw mut request) == 0 && request.flags & IFF_UP == 0 {
            request.flags |= IFF_UP;
            ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &raw mut request);
        }
    }
}

// --- waiting ---

/// One descriptor to wait for: the kernel's `struct pollfd`.
#[repr(C)]
pub(crate) struct PollEntry {
    fd: c_int,
    events: c_short,
    happened: c_short,
}

const POLLIN: c_short = 1;
const POLLOUT: c_short = 4;

impl PollEntry {
    pub(crate) fn new(fd: RawFd, readable: bool, writable: bool) -> Self {
        let events = if readable { POLLIN } else { 0 } | if writable { POLLOUT } else { 0 };
        Self { fd, events, happened: 0 }
    }

    /// It can be read or written, or has failed, which reading and writing will tell.
    pub(crate) fn is_ready(&self) -> bool {
        self.happened != 0
    }
}

/// Waits until an entry is ready or the time is over.
pub(crate) fn wait_ready(entries: &mut [PollEntry], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a deadline has passed when we wake for it.
    let timeout_ms = timeout.map_or(-1, |timeout| timeout.as_micros().div_ceil(1000).min(600_000) as c_int);
    // SAFETY: the pointer and the length describe the slice, whose entries have the kernel's layout.
    match checked(unsafe { poll(entries.as_mut_ptr(), entries.len() as c_ulong, timeout_ms) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Both C libraries reserve 1024 bits.
#[repr(C)]
struct SignalSet([u64; 16]);

const SIG_BLOCK: c_int = 0;
const SIG_SETMASK: c_int = 2;
const SFD_NONBLOCK_CLOEXEC: c_int = 0o2004000;

/// A descriptor that becomes readable when a child ends. Blocks the signal itself in this and all later threads.
pub(crate) fn child_signals() -> io::Result<File> {
    let mut set = SignalSet([0; 16]);
    set.0[0] = 1 << (SIGCHLD - 1);
    // SAFETY: `set` is as large as either library's set and outlives both calls; no old mask is asked for.
    let fd = unsafe {
        pthread_sigmask(SIG_BLOCK, &raw const set, std::ptr::null_mut());
        checked(signalfd(-1, &raw const set, SFD_NONBLOCK_CLOEXEC))?
    };
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

// --- processes ---

/// The kernel's `struct rusage`, with the room that one of the libraries reserves behind it.
#[repr(C)]
struct RawUsage {
    user: [c_long; 2],
    system: [c_long; 2],
    max_rss_kib: c_long,
    rest: [c_long; 13 + 16],
}

/// A child that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) pid: i32,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) cpu_us: u64,
    pub(crate) max_rss_bytes: u64,
}

const WNOHANG: c_int = 1;

/// The next child that ended, whoever started it; `Ok(None)` when all others still live, an error of `ECHILD` when there
/// is none at all.
pub(crate) fn reap() -> io::Result<Option<Ended>> {
    let mut status: c_int = 0;
    let mut usage = RawUsage { user: [0; 2], system: [0; 2], max_rss_kib: 0, rest: [0; 29] };
    // SAFETY: both pointers are to writable values of at least the size that the call fills.
    let pid = checked(unsafe { wait4(-1, &raw mut status, WNOHANG, &raw mut usage) })?;
    if pid == 0 {
        return Ok(None);
    }
    let signal = status & 0x7f;
    let micros = |[seconds, micros]: [c_long; 2]| (seconds as u64).saturating_mul(1_000_000) + micros as u64;
    Ok(Some(Ended {
        pid,
        code: (signal == 0).then_some((status >> 8) & 0xff),
        signal: (signal != 0).then_some(signal),
        cpu_us: micros(usage.user) + micros(usage.system),
        max_rss_bytes: (usage.max_rss_kib as u64).saturating_mul(1024),
    }))
}

/// Sends a signal to a process group. False when nobody is left in it.
pub(crate) fn signal_group(group: i32, signal: c_int) -> bool {
    debug_assert!(group > 1, "0 and 1 would mean this group and everybody");
    // SAFETY: plain integers.
    unsafe { kill(-group, signal) == 0 }
}

/// Kills every process of this PID namespace but this one. Only PID 1 may ask: anybody else would kill strangers.
pub(crate) fn kill_everybody() -> bool {
    if std::process::id() != 1 {
        return false;
    }
    // SAFETY: plain integers.
    unsafe { kill(-1, SIGKILL) };
    true
}

/// Gives the command that will be started a session, and so a process group, of its own, and no signal blocked.
pub(crate) fn start_in_own_session(command: &mut Command) {
    let prepare = || {
        let none = SignalSet([0; 16]);
        // SAFETY: both may be called between fork and exec; the set outlives the call that reads it.
        unsafe {
            pthread_sigmask(SIG_SETMASK, &raw const none, std::ptr::null_mut());
            checked(setsid()).map(drop)
        }
    };
    // SAFETY: between fork and exec nothing but the two calls above happens.
    unsafe { command.pre_exec(prepare) };
}

// --- files, always relative to an open directory and never through a symbolic link ---

const O_WRONLY: c_int = 1;
const O_CREAT: c_int = 0o100;
const O_EXCL: c_int = 0o200;
const O_CLOEXEC: c_int = 0o2000000;
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
const O_DIRECTORY_NOFOLLOW: c_int = 0o140000;
#[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
const O_DIRECTORY_NOFOLLOW: c_int = 0o600000;
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
const O_NOFOLLOW: c_int = 0o100000;
#[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
const O_NOFOLLOW: c_int = 0o400000;

fn open_at(directory: BorrowedFd<'_>, name: &CStr, flags: c_int, mode: c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the name ends with a zero byte and outlives the call.
    let fd = checked(unsafe { openat(directory.as_raw_fd(), name.as_ptr(), flags | O_CLOEXEC, mode) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a directory that is not a link.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    open_at(parent, name, O_DIRECTORY_NOFOLLOW, 0)
}

/// Opens something to read that is not a link. Does not wait for the other end of a FIFO.
pub(crate) fn open_to_read(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    open_at(parent, name, O_NOFOLLOW | O_NONBLOCK, 0).map(File::from)
}

/// Makes a file that was not there.
pub(crate) fn create_file(parent: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<File> {
    open_at(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode).map(File::from)
}

pub(crate) fn make_directory(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: the name ends with a zero byte and outlives the call.
    checked(unsafe { mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755) }).map(drop)
}

pub(crate) fn make_link(target: &CStr, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both texts end with a zero byte and outlive the call.
    checked(unsafe { symlinkat(target.as_ptr(), parent.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// The target of a link.
pub(crate) fn read_link(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 4096];
    // SAFETY: the name ends with a zero byte; the buffer is writable for the length given.
    let n = unsafe { readlinkat(parent.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(usize::try_from(n).map_err(|_| io::Error::last_os_error())?);
    Ok(buffer)
}

const AT_REMOVEDIR: c_int = 0x200;

pub(crate) fn remove_file(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: the name ends with a zero byte and outlives the call.
    checked(unsafe { unlinkat(parent.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

/// Removes a directory if it is empty.
pub(crate) fn remove_directory(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: the name ends with a zero byte and outlives the call.
    checked(unsafe { unlinkat(parent.as_raw_fd(), name.as_ptr(), AT_REMOVEDIR) }).map(drop)
}

#[cfg(target_arch = "x86_64")]
const SYS_GETDENTS64: c_long = 217;
#[cfg(target_arch = "x86_64")]
const SYS_STATX: c_long = 332;
#[cfg(not(target_arch = "x86_64"))]
const SYS_GETDENTS64: c_long = 61;
#[cfg(not(target_arch = "x86_64"))]
const SYS_STATX: c_long = 291;

/// The names in a directory, without `.` and `..`, in no order.
pub(crate) fn list_directory(directory: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    // Offsets of the kernel's `struct linux_dirent64`: the length of the record, and the name with its zero byte.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut names = Vec::new();
    let mut buffer = vec![0_u64; 32 * 1024 / 8];
    loop {
        let size = buffer.len() * 8;
        // SAFETY: the buffer is writable for `size` bytes and aligned for the kernel's records.
        let n = unsafe { syscall(SYS_GETDENTS64, directory.as_raw_fd(), buffer.as_mut_ptr(), size) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        if n == 0 {
            return Ok(names);
        }
        // SAFETY: the kernel filled `n` bytes at the front of the buffer.
        let mut records = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), n.min(size)) };
        while let Some(&[low, high]) = records.get(LENGTH..LENGTH + 2) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let (Some(record), true) = (records.get(..length), length > NAME) else { break };
            records = &records[length..];
            let name = record[NAME..].split(|byte| *byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
    }
}

/// The kernel's `struct statx_timestamp`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
    reserved: i32,
}

/// The front of the kernel's `struct statx`, and room for the rest of it.
#[repr(C)]
#[derive(Default)]
struct RawStat {
    mask: u32,
    block_size: u32,
    attributes: u64,
    links: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad: u16,
    inode: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    accessed: Moment,
    born: Moment,
    changed: Moment,
    modified: Moment,
    rest: [u64; 16],
}

/// How something in a directory looks, without opening it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Type and permissions.
    pub(crate) mode: u16,
    pub(crate) size: u64,
    pub(crate) inode: u64,
    pub(crate) modified: Moment,
    /// Set by the kernel at every change of content or attributes; no program can choose it.
    pub(crate) changed: Moment,
}

impl Look {
    const TYPE: u16 = 0o170_000;

    pub(crate) fn is_directory(&self) -> bool {
        self.mode & Self::TYPE == 0o040_000
    }
    pub(crate) fn is_regular(&self) -> bool {
        self.mode & Self::TYPE == 0o100_000
    }
    pub(crate) fn is_link(&self) -> bool {
        self.mode & Self::TYPE == 0o120_000
    }
    pub(crate) fn is_executable(&self) -> bool {
        self.mode & 0o100 != 0
    }
}

const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
const AT_EMPTY_PATH: c_int = 0x1000;
const STATX_BASIC_STATS: c_uint = 0x7ff;

/// How a name in a directory looks; an empty name means the directory itself.
pub(crate) fn look(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Look> {
    const { assert!(size_of::<RawStat>() == 256) };
    let mut stat = RawStat::default();
    let flags = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
    let out: *mut c_void = (&raw mut stat).cast();
    // SAFETY: the name ends with a zero byte; `out` is writable for the 256 bytes of the kernel's structure.
    let result = unsafe { syscall(SYS_STATX, directory.as_raw_fd(), name.as_ptr(), flags, STATX_BASIC_STATS, out) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let RawStat { mode, size, inode, modified, changed, .. } = stat;
    Ok(Look { mode, size, inode, modified, changed })
}
