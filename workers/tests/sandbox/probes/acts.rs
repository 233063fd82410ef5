//! The ways to try something, each giving back what was possible or why it was not.

use std::{
    collections::HashMap,
    ffi::{CString, c_int, c_long},
    fs::{self, File, OpenOptions},
    io::Read,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::{SocketAddr as UnixAddr, UnixStream},
        },
    },
    path::Path,
    process::exit,
    time::{Duration, Instant},
};

unsafe extern "C" {
    fn fork() -> c_int;
    fn getrlimit(resource: c_int, limit: *mut [u64; 2]) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn setrlimit(resource: c_int, limit: *const [u64; 2]) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

/// What was possible, or why it was not.
pub(crate) type Verdict = Result<String, String>;
pub(crate) type Arguments = HashMap<String, String>;

pub(crate) const X86: bool = cfg!(target_arch = "x86_64");

/// The number of a call on this architecture.
pub(crate) fn nr(x86_64: c_long, aarch64: c_long) -> c_long {
    if X86 { x86_64 } else { aarch64 }
}

pub(crate) fn call(number: c_long, a: [c_long; 6]) -> Result<c_long, i32> {
    let result = unsafe { syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result < 0 { Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(result) }
}

pub(crate) const EPERM: i32 = 1;
pub(crate) const EACCES: i32 = 13;
pub(crate) const ENOSYS: i32 = 38;
pub(crate) const EAFNOSUPPORT: i32 = 97;

/// A call whose arguments mean nothing: refused when it does not get as far as to find that out.
pub(crate) fn reaches(x86_64: c_long, aarch64: c_long, a: [c_long; 6]) -> Verdict {
    match call(nr(x86_64, aarch64), a) {
        Err(errno @ (EPERM | EACCES | ENOSYS)) => Err(format!("errno {errno}")),
        Err(errno) => Ok(format!("the kernel looked at it: errno {errno}")),
        Ok(_) => Ok("done".into()),
    }
}

pub(crate) fn io<T>(result: std::io::Result<T>, what: &str) -> Verdict {
    match result {
        Ok(_) => Ok(what.into()),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn writes(path: &str) -> Verdict {
    io(OpenOptions::new().write(true).open(path), "opened for writing")
}

pub(crate) fn creates(path: &str) -> Verdict {
    io(OpenOptions::new().write(true).create_new(true).open(path), "created")
}

/// Reads what must hold nothing.
pub(crate) fn reads(path: &str) -> Verdict {
    let mut bytes = [0; 64];
    match File::open(path).and_then(|mut file| file.read(&mut bytes)) {
        Ok(0) => Err("empty".into()),
        Ok(n) => Ok(format!("{n} bytes read")),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn socket(family: c_long, kind: c_long, protocol: c_long) -> Result<c_long, String> {
    call(nr(41, 198), [family, kind, protocol, 0, 0, 0]).map_err(|errno| match errno {
        EAFNOSUPPORT => "no such family".into(),
        errno => format!("errno {errno}"),
    })
}

pub(crate) fn opens_socket(family: c_long, kind: c_long, protocol: c_long) -> Verdict {
    socket(family, kind, protocol).map(|_| "socket opened".into())
}

pub(crate) fn unshares(flag: c_long) -> Verdict {
    reaches(272, 97, [flag, 0, 0, 0, 0, 0])
}

pub(crate) fn clones(flag: c_long) -> Verdict {
    match call(nr(56, 220), [flag | 17, 0, 0, 0, 0, 0]) {
        Ok(0) => exit(0),
        Ok(pid) => {
            unsafe { waitpid(pid as c_int, std::ptr::null_mut(), 0) };
            Ok("a process in a namespace of its own".into())
        }
        Err(errno) => Err(format!("errno {errno}")),
    }
}

/// A process of our own to try things on.
pub(crate) fn sibling() -> c_int {
    match unsafe { fork() } {
        0 => loop {
            std::thread::sleep(Duration::from_secs(30));
        },
        pid => pid,
    }
}

pub(crate) fn on_sibling(act: impl FnOnce(c_long) -> Verdict) -> Verdict {
    let pid = sibling();
    let verdict = act(c_long::from(pid));
    unsafe {
        kill(pid, 9);
        waitpid(pid, std::ptr::null_mut(), 0);
    }
    verdict
}

pub(crate) fn status(field: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

pub(crate) fn any_capability(set: &str) -> Verdict {
    let found = status(set);
    if found.bytes().all(|byte| byte == b'0') { Err("none".into()) } else { Ok(found) }
}

/// Nobody of this sandbox's own may be changed to.
pub(crate) fn becomes_another() -> Verdict {
    let own = fs::metadata("/proc/self").map(|found| found.uid()).unwrap_or(0);
    let other = if own == 0 { 4321 } else { 0 };
    match reaches(117, 147, [other, other, other, 0, 0, 0]) {
        // In a namespace that has no other user.
        Ok(looked) if looked.ends_with("errno 22") => Err("there is no such user".into()),
        verdict => verdict,
    }
}

pub(crate) fn temporary(name: &str) -> String {
    format!("/tmp/probe-{}-{name}", std::process::id())
}

pub(crate) fn makes_node(kind: c_long, major: c_long, minor: c_long) -> Verdict {
    let path = CString::new(temporary("node")).unwrap();
    let device = (major << 8) | minor;
    let made = reaches(259, 33, [-100, path.as_ptr() as c_long, kind | 0o666, device, 0, 0]);
    drop(fs::remove_file(path.to_str().unwrap()));
    made
}

pub(crate) fn changes_owner() -> Verdict {
    let path = temporary("owned");
    drop(File::create(&path));
    let changed = io(std::os::unix::fs::chown(&path, Some(7), Some(7)), "owner changed");
    drop(fs::remove_file(&path));
    changed
}

pub(crate) fn overrides_modes() -> Verdict {
    let path = temporary("closed");
    drop(File::create(&path));
    drop(fs::set_permissions(&path, fs::Permissions::from_mode(0)));
    let opened = io(File::open(&path), "a file that nobody may read was opened");
    drop(fs::remove_file(&path));
    opened
}

/// Runs a program that belongs to root and has the setuid bit, and looks what became of it.
pub(crate) fn gains_by_setuid() -> Verdict {
    if fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0) {
        return Ok("it is root already".into());
    }
    let places = ["/suid-probe", "/usr/bin/su", "/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/usr/bin/newgrp"];
    let has_bit = |path: &&&str| fs::metadata(path).is_ok_and(|found| found.mode() & 0o4000 != 0);
    let Some(program) = places.iter().find(has_bit) else { return Err("there is no such program".into()) };
    let path = CString::new(*program).unwrap();
    let argv = [path.as_ptr(), c"--version".as_ptr(), std::ptr::null()];
    let pid = match unsafe { fork() } {
        0 => {
            let null = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
            for fd in 0..3 {
                let _ = call(nr(292, 24), [c_long::from(null.as_raw_fd()), fd, 0, 0, 0, 0]);
            }
            let none: [*const i8; 1] = [std::ptr::null()];
            let _ =
                call(nr(59, 221), [path.as_ptr() as c_long, argv.as_ptr() as c_long, none.as_ptr() as c_long, 0, 0, 0]);
            exit(99)
        }
        pid => pid,
    };
    // Ended and not reaped: what it was when it ended can still be read.
    let until = Instant::now() + Duration::from_secs(2);
    let mut looked = String::new();
    while Instant::now() < until {
        looked = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if looked.contains("State:\tZ") {
            break;
        }
        std::thread::yield_now();
    }
    unsafe {
        kill(pid, 9);
        waitpid(pid, std::ptr::null_mut(), 0);
    }
    let users = looked.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let users: Vec<&str> = users.split_whitespace().collect();
    match users.as_slice() {
        [real, effective, saved, _] if real == effective && effective == saved => {
            Err(format!("{program} ran as {real}"))
        }
        other => Ok(format!("{program} ran as {other:?}")),
    }
}

// --- the first process ---

/// A signal to PID 1 that must do nothing to it.
pub(crate) fn signals_the_first(signals: std::ops::RangeInclusive<c_int>) -> Verdict {
    for signal in signals {
        unsafe { kill(1, signal) };
    }
    std::thread::sleep(Duration::from_millis(50));
    let stat = fs::read_to_string("/proc/1/stat").unwrap_or_default();
    match stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]) {
        Some("S" | "R" | "D") => Err("it goes on".into()),
        other => Ok(format!("its state is {other:?} now")),
    }
}

// --- the network ---

pub(crate) fn connects(address: &str) -> Verdict {
    let Ok(address) = address.parse::<SocketAddr>() else { return Err("no such address".into()) };
    io(TcpStream::connect_timeout(&address, Duration::from_secs(3)), "connected")
}

/// A way out that the kernel knows, without sending anything.
pub(crate) fn has_route(local: &str, remote: &str) -> Verdict {
    io(UdpSocket::bind(local).and_then(|socket| socket.connect(remote)), "there is a route")
}

pub(crate) fn pings() -> Verdict {
    let fd = socket(2, 2, 1)?;
    // struct sockaddr_in of 192.0.2.1, which is nobody's.
    let to: [u8; 16] = [2, 0, 0, 0, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    match call(nr(42, 203), [fd, to.as_ptr() as c_long, 16, 0, 0, 0]) {
        Ok(_) => Ok("there is a route".into()),
        Err(errno) => Err(format!("errno {errno}")),
    }
}

pub(crate) fn has_interfaces() -> Verdict {
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = table.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim);
    let own = ["lo", "sit0", "tunl0", "ip6tnl0"];
    let others: Vec<&str> = names.filter(|name| !own.contains(name)).collect();
    if others.is_empty() { Err("none but its own".into()) } else { Ok(others.join(" ")) }
}

pub(crate) fn has_name_servers() -> Verdict {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = text.lines().find_map(|line| line.strip_prefix("nameserver ")).map(str::trim);
    // The sandbox's own loopback, where nobody listens, is no way out.
    let server = server.filter(|server| !server.starts_with("127.") && *server != "::1");
    match server {
        Some(server) => has_route(
            if server.contains(':') { "[::]:0" } else { "0.0.0.0:0" },
            &match server.contains(':') {
                true => format!("[{server}]:53"),
                false => format!("{server}:53"),
            },
        ),
        None => Err("none".into()),
    }
}

pub(crate) fn connects_abstract(name: &str) -> Verdict {
    io(UnixAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address)), "connected")
}

// --- files and limits ---

pub(crate) fn finds(paths: &[&str]) -> Verdict {
    match paths.iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        Some(path) => Ok(format!("{path} is there")),
        None => Err("not there".into()),
    }
}

pub(crate) fn lists(dir: &str, own: &[&str]) -> Verdict {
    let entries = fs::read_dir(dir).map_err(|error| error.to_string())?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let others: Vec<String> = names.filter(|name| !own.contains(&name.as_str())).collect();
    if others.is_empty() { Err("nothing there".into()) } else { Ok(others.join(" ")) }
}

pub(crate) fn sees_process(marker: &str) -> Verdict {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        if !own && String::from_utf8_lossy(&line).contains(marker) && !String::from_utf8_lossy(&line).contains("probe")
        {
            return Ok(format!("{}", entry.path().display()));
        }
    }
    Err("no such process".into())
}

pub(crate) fn has_environment(names: &str) -> Verdict {
    let found: Vec<&str> =
        names.split(',').filter(|name| !name.is_empty() && std::env::var_os(name).is_some()).collect();
    if found.is_empty() { Err("none of them".into()) } else { Ok(found.join(" ")) }
}

pub(crate) fn is_unlimited(resource: c_int, most: u64) -> Verdict {
    let mut limit = [0; 2];
    unsafe { getrlimit(resource, &mut limit) };
    if limit[1] <= most { Err(format!("at most {}", limit[1])) } else { Ok(format!("limit {}", limit[1])) }
}

pub(crate) fn raises_limit(resource: c_int) -> Verdict {
    let mut limit = [0; 2];
    unsafe { getrlimit(resource, &mut limit) };
    if limit[1] == u64::MAX {
        return Ok("it is unlimited already".into());
    }
    let more = [limit[1] + 1, limit[1] + 1];
    match unsafe { setrlimit(resource, &more) } {
        0 => Ok("raised".into()),
        _ => Err(std::io::Error::last_os_error().to_string()),
    }
}

pub(crate) fn kernel_addresses() -> Verdict {
    let text = fs::read_to_string("/proc/kallsyms").map_err(|error| error.to_string())?;
    let first = text.lines().next().and_then(|line| line.split(' ').next()).unwrap_or("0");
    if first.bytes().all(|byte| byte == b'0') { Err("all zero".into()) } else { Ok(first.into()) }
}

/// Control groups that can be steered from inside.
pub(crate) fn steers_groups(file: &str) -> Verdict {
    fn look(dir: &Path, file: &str, depth: u32) -> Option<String> {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name() == file && OpenOptions::new().write(true).open(&path).is_ok() {
                return Some(path.display().to_string());
            }
            if depth < 2 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if let Some(found) = look(&path, file, depth + 1) {
                    return Some(found);
                }
            }
        }
        None
    }
    look(Path::new("/sys/fs/cgroup"), file, 0).ok_or_else(|| "none can be opened".into())
}

pub(crate) fn block_devices() -> Verdict {
    let mut n = 0;
    for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
        use std::os::unix::fs::FileTypeExt;
        if entry.file_type().is_ok_and(|kind| kind.is_block_device()) {
            n += usize::from(File::open(entry.path()).is_ok());
        }
    }
    if n == 0 { Err("none".into()) } else { Ok(format!("{n} can be opened")) }
}

/// The kernel's interface for 32-bit programs, past any filter that knows 64-bit calls only.
pub(crate) fn calls_as_32_bits() -> Verdict {
    #[cfg(target_arch = "x86_64")]
    {
        let result: i64;
        // getpid.
        unsafe { std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => result) };
        if result > 0 { Ok(format!("getpid: {result}")) } else { Err(format!("result {result}")) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    Err("there is none on this architecture".into())
}
