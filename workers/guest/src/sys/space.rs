//! How much room files take, and where they lie.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_long, c_uint, c_void},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use super::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, RawStat, STATX_BASIC_STATS, SYS_STATX, checked, openat, syscall};

unsafe extern "C" {
    fn fchmod(fd: c_int, mode: c_uint) -> c_int;
    fn fchmodat(directory: c_int, name: *const c_char, mode: c_uint, flags: c_int) -> c_int;
    fn fstatfs(fd: c_int, out: *mut RawFileSystem) -> c_int;
    fn statfs(path: *const c_char, out: *mut RawFileSystem) -> c_int;
}

#[cfg(target_arch = "x86_64")]
const SYS_MEMFD_CREATE: c_long = 319;
#[cfg(not(target_arch = "x86_64"))]
const SYS_MEMFD_CREATE: c_long = 279;

const IN_MEMORY: &[u64] = &[0x0102_1994, 0x8584_58f6]; // tmpfs, ramfs
/// proc, sysfs, cgroup of both generations, devpts, mqueue, debugfs, tracefs, securityfs, bpf.
const OF_THE_KERNEL: &[u64] = &[
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
];

/// The kernel's `struct statfs` on 64-bit systems, with room behind it.
#[repr(C)]
#[derive(Default)]
struct RawFileSystem {
    kind: u64,
    block_size: u64,
    blocks: u64,
    free: u64,
    available: u64,
    rest: [u64; 16],
}

/// What a file costs, and since when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weight {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) links: u32,
    /// What it takes on the disk.
    pub(crate) bytes: u64,
    /// Seconds and nanoseconds of its last change, as the kernel saw it.
    pub(crate) changed: (i64, u32),
    pub(crate) mode: u16,
    pub(crate) is_directory: bool,
    pub(crate) is_regular: bool,
}

/// Weighs a name in a directory; an empty name means the directory itself. `follow`: what a link leads to.
pub(crate) fn weigh(directory: BorrowedFd<'_>, name: &CStr, follow: bool) -> io::Result<Weight> {
    let mut stat = RawStat::default();
    let flags = AT_EMPTY_PATH | if follow { 0 } else { AT_SYMLINK_NOFOLLOW };
    let out: *mut c_void = (&raw mut stat).cast();
    // SAFETY: the name ends with a zero byte; `out` is writable for the 256 bytes of the kernel's structure.
    let result = unsafe { syscall(SYS_STATX, directory.as_raw_fd(), name.as_ptr(), flags, STATX_BASIC_STATS, out) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let kind = stat.mode & 0o170_000;
    Ok(Weight {
        // Behind the times: the device that it is (if it is one), the device that it is on.
        device: stat.rest[1],
        inode: stat.inode,
        links: stat.links,
        bytes: stat.blocks.saturating_mul(512),
        changed: (stat.changed.seconds, stat.changed.nanos),
        mode: stat.mode & 0o7777,
        is_directory: kind == 0o040_000,
        is_regular: kind == 0o100_000,
    })
}

/// Opens a directory by its whole path. Only for names that nothing inside can replace.
pub(crate) fn open_anywhere(path: &Path) -> io::Result<OwnedFd> {
    const O_DIRECTORY: c_int =
        if cfg!(any(target_arch = "aarch64", target_arch = "arm")) { 0o40_000 } else { 0o200_000 };
    const O_CLOEXEC: c_int = 0o2_000_000;
    const AT_FDCWD: c_int = -100;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero byte and outlives the call.
    let fd = checked(unsafe { openat(AT_FDCWD, path.as_ptr(), O_DIRECTORY | O_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a directory of this user's own to itself, when it is not, and returns how it was. The path is followed.
pub(crate) fn unlock(directory: BorrowedFd<'_>, path: &CStr) -> io::Result<Option<u16>> {
    const READ_AND_SEARCH: u16 = 0o500;
    let mode = weigh(directory, path, false)?.mode;
    if mode & READ_AND_SEARCH == READ_AND_SEARCH {
        return Ok(None);
    }
    let open = c_uint::from(mode | READ_AND_SEARCH);
    // SAFETY: the path ends with a zero byte and outlives the call.
    checked(unsafe { fchmodat(directory.as_raw_fd(), path.as_ptr(), open, 0) }).map(|_| Some(mode))
}

/// Gives an open directory a mode.
pub(crate) fn set_mode(directory: BorrowedFd<'_>, mode: u16) -> io::Result<()> {
    // SAFETY: plain integers.
    checked(unsafe { fchmod(directory.as_raw_fd(), c_uint::from(mode)) }).map(drop)
}

/// What is free on the file system of a path, in bytes.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = RawFileSystem::default();
    // SAFETY: the path ends with a zero byte; the structure is larger than the kernel's.
    checked(unsafe { statfs(path.as_ptr(), &raw mut found) })?;
    Ok(found.free.saturating_mul(found.block_size))
}

fn kind_of(directory: BorrowedFd<'_>) -> Option<u64> {
    let mut found = RawFileSystem::default();
    // SAFETY: the structure is larger than the kernel's.
    checked(unsafe { fstatfs(directory.as_raw_fd(), &raw mut found) }).ok().map(|_| found.kind)
}

/// Whether a directory lies in a file system in memory.
pub(crate) fn is_in_memory(directory: BorrowedFd<'_>) -> bool {
    kind_of(directory).is_some_and(|kind| IN_MEMORY.contains(&kind))
}

/// Whether a directory lies in memory or is the kernel's own.
pub(crate) fn is_not_on_disk(directory: BorrowedFd<'_>) -> bool {
    kind_of(directory).is_none_or(|kind| IN_MEMORY.contains(&kind) || OF_THE_KERNEL.contains(&kind))
}

/// A file in memory that has no name.
pub(crate) fn memory_file() -> io::Result<OwnedFd> {
    const MFD_CLOEXEC: c_uint = 1;
    // SAFETY: the name ends with a zero byte and outlives the call.
    let fd = unsafe { syscall(SYS_MEMFD_CREATE, c"onramp".as_ptr(), MFD_CLOEXEC) };
    let fd = c_int::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn a_file_weighs_what_the_standard_library_says() {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("onramp-weight-{}", std::process::id()));
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        let name = CString::new(path.file_name().unwrap().as_bytes()).unwrap();
        let weight = weigh(open_anywhere(&directory).unwrap().as_fd(), &name, false).unwrap();
        std::fs::remove_file(&path).unwrap();
        let major_minor = (weight.device & 0xffff_ffff, weight.device >> 32);
        let expected = ((found.dev() >> 8) & 0xfff, (found.dev() & 0xff) | ((found.dev() >> 12) & 0xfff00));
        assert_eq!(major_minor, expected);
        assert_eq!((weight.inode, u64::from(weight.links)), (found.ino(), found.nlink()));
        assert_eq!((weight.bytes, weight.changed.0), (found.blocks() * 512, found.ctime()));
        assert!(weight.is_regular && !weight.is_directory);
        assert!(free_bytes(&directory).unwrap() > 0);
        assert!(is_not_on_disk(open_anywhere("/proc".as_ref()).unwrap().as_fd()));
    }
}
