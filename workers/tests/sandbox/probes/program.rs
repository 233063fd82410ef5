//! What hostile code would try, each thing by itself: run inside a sandbox, it tells what it was refused and what not.
//!
//! A static program of its own, so that it runs in any image. It is told by `key=value` arguments where the canaries are
//! that it must not reach. For each probe it prints one line: name, `refused` or `allowed`, and why or what. No probe has
//! an effect where it is allowed: the same list runs in a container that is not ours.

use std::{
    collections::HashMap,
    ffi::{CString, c_int, c_long},
    fs::{self, File, OpenOptions},
    io::{Read, Write},
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
    fn alarm(seconds: u32) -> u32;
    fn fork() -> c_int;
    fn getrlimit(resource: c_int, limit: *mut [u64; 2]) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn setrlimit(resource: c_int, limit: *const [u64; 2]) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

/// What was possible, or why it was not.
type Verdict = Result<String, String>;
type Arguments = HashMap<String, String>;

const X86: bool = cfg!(target_arch = "x86_64");

/// The number of a call on this architecture.
fn nr(x86_64: c_long, aarch64: c_long) -> c_long {
    if X86 { x86_64 } else { aarch64 }
}

fn call(number: c_long, a: [c_long; 6]) -> Result<c_long, i32> {
    let result = unsafe { syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result < 0 { Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(result) }
}

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const ENOSYS: i32 = 38;
const EAFNOSUPPORT: i32 = 97;

/// A call whose arguments mean nothing: refused when it does not get as far as to find that out.
fn reaches(x86_64: c_long, aarch64: c_long, a: [c_long; 6]) -> Verdict {
    match call(nr(x86_64, aarch64), a) {
        Err(errno @ (EPERM | EACCES | ENOSYS)) => Err(format!("errno {errno}")),
        Err(errno) => Ok(format!("the kernel looked at it: errno {errno}")),
        Ok(_) => Ok("done".into()),
    }
}

fn io<T>(result: std::io::Result<T>, what: &str) -> Verdict {
    match result {
        Ok(_) => Ok(what.into()),
        Err(error) => Err(error.to_string()),
    }
}

fn writes(path: &str) -> Verdict {
    io(OpenOptions::new().write(true).open(path), "opened for writing")
}

fn creates(path: &str) -> Verdict {
    io(OpenOptions::new().write(true).create_new(true).open(path), "created")
}

/// Reads what must hold nothing.
fn reads(path: &str) -> Verdict {
    let mut bytes = [0; 64];
    match File::open(path).and_then(|mut file| file.read(&mut bytes)) {
        Ok(0) => Err("empty".into()),
        Ok(n) => Ok(format!("{n} bytes read")),
        Err(error) => Err(error.to_string()),
    }
}

fn socket(family: c_long, kind: c_long, protocol: c_long) -> Result<c_long, String> {
    call(nr(41, 198), [family, kind, protocol, 0, 0, 0]).map_err(|errno| match errno {
        EAFNOSUPPORT => "no such family".into(),
        errno => format!("errno {errno}"),
    })
}

fn opens_socket(family: c_long, kind: c_long, protocol: c_long) -> Verdict {
    socket(family, kind, protocol).map(|_| "socket opened".into())
}

fn unshares(flag: c_long) -> Verdict {
    reaches(272, 97, [flag, 0, 0, 0, 0, 0])
}

fn clones(flag: c_long) -> Verdict {
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
fn sibling() -> c_int {
    match unsafe { fork() } {
        0 => loop {
            std::thread::sleep(Duration::from_secs(30));
        },
        pid => pid,
    }
}

fn on_sibling(act: impl FnOnce(c_long) -> Verdict) -> Verdict {
    let pid = sibling();
    let verdict = act(c_long::from(pid));
    unsafe {
        kill(pid, 9);
        waitpid(pid, std::ptr::null_mut(), 0);
    }
    verdict
}

fn status(field: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

fn any_capability(set: &str) -> Verdict {
    let found = status(set);
    if found.bytes().all(|byte| byte == b'0') { Err("none".into()) } else { Ok(found) }
}

/// Nobody of this sandbox's own may be changed to.
fn becomes_another() -> Verdict {
    let own = fs::metadata("/proc/self").map(|found| found.uid()).unwrap_or(0);
    let other = if own == 0 { 4321 } else { 0 };
    match reaches(117, 147, [other, other, other, 0, 0, 0]) {
        // In a namespace that has no other user.
        Ok(looked) if looked.ends_with("errno 22") => Err("there is no such user".into()),
        verdict => verdict,
    }
}

fn temporary(name: &str) -> String {
    format!("/tmp/probe-{}-{name}", std::process::id())
}

fn makes_node(kind: c_long, major: c_long, minor: c_long) -> Verdict {
    let path = CString::new(temporary("node")).unwrap();
    let device = (major << 8) | minor;
    let made = reaches(259, 33, [-100, path.as_ptr() as c_long, kind | 0o666, device, 0, 0]);
    drop(fs::remove_file(path.to_str().unwrap()));
    made
}

fn changes_owner() -> Verdict {
    let path = temporary("owned");
    drop(File::create(&path));
    let changed = io(std::os::unix::fs::chown(&path, Some(7), Some(7)), "owner changed");
    drop(fs::remove_file(&path));
    changed
}

fn overrides_modes() -> Verdict {
    let path = temporary("closed");
    drop(File::create(&path));
    drop(fs::set_permissions(&path, fs::Permissions::from_mode(0)));
    let opened = io(File::open(&path), "a file that nobody may read was opened");
    drop(fs::remove_file(&path));
    opened
}

/// Runs a program that belongs to root and has the setuid bit, and looks what became of it.
fn gains_by_setuid() -> Verdict {
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
fn signals_the_first(signals: std::ops::RangeInclusive<c_int>) -> Verdict {
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

fn connects(address: &str) -> Verdict {
    let Ok(address) = address.parse::<SocketAddr>() else { return Err("no such address".into()) };
    io(TcpStream::connect_timeout(&address, Duration::from_secs(3)), "connected")
}

/// A way out that the kernel knows, without sending anything.
fn has_route(local: &str, remote: &str) -> Verdict {
    io(UdpSocket::bind(local).and_then(|socket| socket.connect(remote)), "there is a route")
}

fn pings() -> Verdict {
    let fd = socket(2, 2, 1)?;
    // struct sockaddr_in of 192.0.2.1, which is nobody's.
    let to: [u8; 16] = [2, 0, 0, 0, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    match call(nr(42, 203), [fd, to.as_ptr() as c_long, 16, 0, 0, 0]) {
        Ok(_) => Ok("there is a route".into()),
        Err(errno) => Err(format!("errno {errno}")),
    }
}

fn has_interfaces() -> Verdict {
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = table.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim);
    let own = ["lo", "sit0", "tunl0", "ip6tnl0"];
    let others: Vec<&str> = names.filter(|name| !own.contains(name)).collect();
    if others.is_empty() { Err("none but its own".into()) } else { Ok(others.join(" ")) }
}

fn has_name_servers() -> Verdict {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = text.lines().find_map(|line| line.strip_prefix("nameserver ")).map(str::trim);
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

fn connects_abstract(name: &str) -> Verdict {
    io(UnixAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address)), "connected")
}

// --- files and limits ---

fn finds(paths: &[&str]) -> Verdict {
    match paths.iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        Some(path) => Ok(format!("{path} is there")),
        None => Err("not there".into()),
    }
}

fn lists(dir: &str, own: &[&str]) -> Verdict {
    let entries = fs::read_dir(dir).map_err(|error| error.to_string())?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let others: Vec<String> = names.filter(|name| !own.contains(&name.as_str())).collect();
    if others.is_empty() { Err("nothing there".into()) } else { Ok(others.join(" ")) }
}

fn sees_process(marker: &str) -> Verdict {
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

fn has_environment(names: &str) -> Verdict {
    let found: Vec<&str> =
        names.split(',').filter(|name| !name.is_empty() && std::env::var_os(name).is_some()).collect();
    if found.is_empty() { Err("none of them".into()) } else { Ok(found.join(" ")) }
}

fn is_unlimited(resource: c_int, most: u64) -> Verdict {
    let mut limit = [0; 2];
    unsafe { getrlimit(resource, &mut limit) };
    if limit[1] <= most { Err(format!("at most {}", limit[1])) } else { Ok(format!("limit {}", limit[1])) }
}

fn raises_limit(resource: c_int) -> Verdict {
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

fn kernel_addresses() -> Verdict {
    let text = fs::read_to_string("/proc/kallsyms").map_err(|error| error.to_string())?;
    let first = text.lines().next().and_then(|line| line.split(' ').next()).unwrap_or("0");
    if first.bytes().all(|byte| byte == b'0') { Err("all zero".into()) } else { Ok(first.into()) }
}

/// Control groups that can be steered from inside.
fn steers_groups(file: &str) -> Verdict {
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

fn block_devices() -> Verdict {
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
fn calls_as_32_bits() -> Verdict {
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

fn probes(arguments: &Arguments) -> Vec<(&'static str, Box<dyn Fn() -> Verdict + '_>)> {
    let canary = |name: &str| arguments.get(name).cloned().unwrap_or_default();
    let mut list: Vec<(&'static str, Box<dyn Fn() -> Verdict + '_>)> = Vec::new();
    macro_rules! probe {
        ($name:literal, $what:expr) => {
            list.push(($name, Box::new(move || $what)));
        };
    }
    // Privileges.
    probe!("capabilities: effective", any_capability("CapEff"));
    probe!("capabilities: permitted", any_capability("CapPrm"));
    probe!("capabilities: inheritable", any_capability("CapInh"));
    probe!("capabilities: ambient", any_capability("CapAmb"));
    probe!("capabilities: bounding set", any_capability("CapBnd"));
    probe!(
        "privileges: new ones by exec",
        match status("NoNewPrivs").as_str() {
            "1" => Err("renounced".into()),
            other => Ok(format!("NoNewPrivs {other}")),
        }
    );
    probe!("privileges: setuid program", gains_by_setuid());
    probe!("privileges: another user", becomes_another());
    probe!("privileges: supplementary groups", reaches(116, 159, [0; 6]));
    probe!("privileges: change an owner", changes_owner());
    probe!("privileges: override modes", overrides_modes());
    probe!("privileges: higher priority", reaches(141, 140, [0, 0, -5, 0, 0, 0]));
    probe!("privileges: real-time scheduling", {
        let priority = [10_i32];
        reaches(144, 119, [0, 1, priority.as_ptr() as c_long, 0, 0, 0])
    });
    probe!("privileges: escape the memory killer", {
        io(fs::write("/proc/self/oom_score_adj", "-1000"), "this process would be killed last")
    });
    // Namespaces.
    probe!("namespaces: new user", unshares(0x1000_0000));
    probe!("namespaces: new mount", unshares(0x0002_0000));
    probe!("namespaces: new network", unshares(0x4000_0000));
    probe!("namespaces: new process", unshares(0x2000_0000));
    probe!("namespaces: new ipc", unshares(0x0800_0000));
    probe!("namespaces: new cgroup", unshares(0x0200_0000));
    probe!("namespaces: clone into a new user", clones(0x1000_0000));
    probe!(
        "namespaces: clone3",
        match call(435, [0; 6]) {
            Err(ENOSYS | EPERM) => Err("there is no such call".into()),
            other => Ok(format!("{other:?}")),
        }
    );
    probe!(
        "namespaces: enter one",
        match File::open("/proc/self/ns/uts") {
            Ok(namespace) => reaches(308, 268, [c_long::from(namespace.as_raw_fd()), 0, 0, 0, 0, 0]),
            Err(error) => Err(error.to_string()),
        }
    );
    probe!("namespaces: the host name", {
        let name = c"evil";
        reaches(170, 161, [name.as_ptr() as c_long, 4, 0, 0, 0, 0])
    });
    probe!("namespaces: the domain name", reaches(171, 162, [c"evil".as_ptr() as c_long, 4, 0, 0, 0, 0]));
    // Mounts and roots.
    probe!("mounts: a new tmpfs", {
        let (kind, at) = (c"tmpfs", c"/tmp");
        reaches(165, 40, [kind.as_ptr() as c_long, at.as_ptr() as c_long, kind.as_ptr() as c_long, 0, 0, 0])
    });
    probe!("mounts: a bind", {
        let (from, at) = (c"/proc", c"/tmp");
        reaches(165, 40, [from.as_ptr() as c_long, at.as_ptr() as c_long, 0, 4096, 0, 0])
    });
    probe!("mounts: unmount", reaches(166, 39, [c"/nowhere".as_ptr() as c_long, 0, 0, 0, 0, 0]));
    probe!("mounts: open_tree", reaches(428, 428, [-100, c"/".as_ptr() as c_long, 1, 0, 0, 0]));
    probe!("mounts: fsopen", reaches(430, 430, [c"tmpfs".as_ptr() as c_long, 0, 0, 0, 0, 0]));
    probe!("mounts: move_mount", reaches(429, 429, [-1, 0, -1, 0, 0, 0]));
    probe!("mounts: mount_setattr", reaches(442, 442, [-1, c"".as_ptr() as c_long, 0x1000, 0, 0, 0]));
    probe!("mounts: pivot_root", reaches(155, 41, [0; 6]));
    probe!("mounts: chroot", reaches(161, 51, [c"/tmp".as_ptr() as c_long, 0, 0, 0, 0, 0]));
    probe!("mounts: file by handle", {
        let handle = [0_u8; 16];
        reaches(304, 265, [-100, handle.as_ptr() as c_long, 0, 0, 0, 0])
    });
    // Devices.
    probe!("devices: make a character device", makes_node(0o020_000, 1, 11));
    probe!("devices: make a block device", makes_node(0o060_000, 8, 0));
    probe!("devices: /dev/mem", io(File::open("/dev/mem"), "opened"));
    probe!("devices: /dev/kmsg", io(File::open("/dev/kmsg"), "opened"));
    probe!("devices: /dev/fuse", io(File::open("/dev/fuse"), "opened"));
    probe!("devices: /dev/kvm", io(File::open("/dev/kvm"), "opened"));
    probe!("devices: /dev/net/tun", io(File::open("/dev/net/tun"), "opened"));
    probe!("devices: disks", block_devices());
    probe!("devices: ports", if X86 { reaches(172, 0, [3, 0, 0, 0, 0, 0]) } else { Err("none here".into()) });
    probe!("devices: type into a terminal", {
        let byte = [b'x'];
        match call(nr(16, 29), [0, 0x5412, byte.as_ptr() as c_long, 0, 0, 0]) {
            Err(EPERM) => Err("errno 1".into()),
            other => Ok(format!("the kernel looked at it: {other:?}")),
        }
    });
    // Calls that reach far into the kernel.
    probe!("calls: io_uring_setup", reaches(425, 425, [1, 0, 0, 0, 0, 0]));
    probe!("calls: io_uring_register", reaches(427, 427, [-1, 0, 0, 0, 0, 0]));
    probe!("calls: bpf", reaches(321, 280, [0; 6]));
    probe!("calls: userfaultfd", reaches(323, 282, [1, 0, 0, 0, 0, 0]));
    probe!("calls: perf_event_open", reaches(298, 241, [0, 0, -1, -1, 0, 0]));
    probe!("calls: keyctl", reaches(250, 219, [0, -3, 0, 0, 0, 0]));
    probe!("calls: add_key", reaches(248, 217, [0; 6]));
    probe!("calls: request_key", reaches(249, 218, [0; 6]));
    probe!("calls: kexec_load", reaches(246, 104, [0, 1 << 20, 0, 0, 0, 0]));
    probe!("calls: init_module", reaches(175, 105, [0; 6]));
    probe!("calls: finit_module", reaches(313, 273, [-1, 0, 0, 0, 0, 0]));
    probe!("calls: delete_module", reaches(176, 106, [c"none".as_ptr() as c_long, 0, 0, 0, 0, 0]));
    probe!("calls: reboot", reaches(169, 142, [0; 6]));
    probe!("calls: the kernel's log", reaches(103, 116, [10, 0, 0, 0, 0, 0]));
    probe!("calls: fanotify_init", reaches(300, 262, [0; 6]));
    probe!("calls: quotactl", reaches(179, 60, [0; 6]));
    probe!("calls: acct", reaches(163, 89, [c"/nowhere".as_ptr() as c_long, 0, 0, 0, 0, 0]));
    probe!("calls: swapon", reaches(167, 224, [c"/nowhere".as_ptr() as c_long, 0, 0, 0, 0, 0]));
    probe!("calls: personality without randomness", reaches(135, 92, [0x0040_000, 0, 0, 0, 0, 0]));
    probe!("calls: kcmp", on_sibling(|pid| reaches(312, 272, [pid, pid, 1, 0, 0, 0])));
    probe!("calls: set the clock", reaches(227, 112, [0; 6]));
    probe!("calls: adjust the clock", {
        let nothing = [0_u64; 64];
        reaches(159, 171, [nothing.as_ptr() as c_long, 0, 0, 0, 0, 0])
    });
    probe!(
        "calls: those of the x32 interface",
        match X86 {
            true => reaches(0x4000_0000 | 39, 0, [0; 6]),
            false => Err("none here".into()),
        }
    );
    probe!("calls: those of 32-bit programs", calls_as_32_bits());
    // Other processes.
    probe!("processes: trace one's own child", on_sibling(|pid| reaches(101, 117, [0x4206, pid, 0, 0, 0, 0])));
    probe!(
        "processes: read another's memory",
        on_sibling(|pid| {
            let (secret, mut copy) = ([42_u8; 8], [0_u8; 8]);
            let (here, there) = ([copy.as_mut_ptr() as u64, 8], [secret.as_ptr() as u64, 8]);
            reaches(310, 270, [pid, here.as_ptr() as c_long, 1, there.as_ptr() as c_long, 1, 0])
        })
    );
    probe!(
        "processes: write another's memory",
        on_sibling(|pid| {
            let (bytes, target) = ([42_u8; 8], [0_u8; 8]);
            let (here, there) = ([bytes.as_ptr() as u64, 8], [target.as_ptr() as u64, 8]);
            reaches(311, 271, [pid, here.as_ptr() as c_long, 1, there.as_ptr() as c_long, 1, 0])
        })
    );
    probe!(
        "processes: take another's descriptor",
        on_sibling(|pid| match call(434, [pid, 0, 0, 0, 0, 0]) {
            Ok(process) => reaches(438, 438, [process, 1, 0, 0, 0, 0]),
            Err(errno) => Err(format!("errno {errno}")),
        })
    );
    probe!("guest: trace it", reaches(101, 117, [0x4206, 1, 0, 0, 0, 0]));
    probe!("guest: read its memory", io(File::open("/proc/1/mem"), "opened"));
    probe!("guest: write its memory", writes("/proc/1/mem"));
    probe!("guest: its environment", reads("/proc/1/environ"));
    probe!("guest: its descriptors", io(fs::read_dir("/proc/1/fd"), "listed"));
    probe!("guest: write to its output", writes("/proc/1/fd/1"));
    probe!("guest: read from its input", io(OpenOptions::new().read(true).write(true).open("/proc/1/fd/0"), "opened"));
    probe!("guest: its root", io(fs::read_dir("/proc/1/root"), "listed"));
    probe!("guest: its maps", reads("/proc/1/maps"));
    probe!("guest: its program", io(OpenOptions::new().write(true).open("/proc/1/exe"), "opened"));
    probe!(
        "guest: replace it",
        match Path::new("/.onramp/guest").exists() {
            true => io(fs::remove_file("/.onramp/guest"), "removed"),
            false => creates("/.onramp"),
        }
    );
    probe!("guest: kill it", signals_the_first(9..=9));
    probe!("guest: stop it", signals_the_first(19..=19));
    probe!("guest: end it politely", signals_the_first(15..=15));
    probe!("guest: crash it", signals_the_first(11..=11));
    probe!("guest: any other signal", signals_the_first(1..=64));
    // Sockets.
    probe!("sockets: vsock", opens_socket(40, 1, 0));
    probe!("sockets: packets", opens_socket(17, 3, 0));
    probe!("sockets: kernel crypto", opens_socket(38, 5, 0));
    probe!("sockets: raw", opens_socket(2, 3, 1));
    probe!("sockets: raw, version 6", opens_socket(10, 3, 58));
    probe!("sockets: netlink to devices", opens_socket(16, 3, 15));
    probe!("sockets: netlink to audit", opens_socket(16, 3, 9));
    probe!("sockets: netlink to the firewall", opens_socket(16, 3, 12));
    probe!("sockets: netlink to crypto", opens_socket(16, 3, 21));
    probe!("sockets: bluetooth", opens_socket(31, 3, 1));
    probe!("sockets: xdp", opens_socket(44, 3, 0));
    // The kernel's own files.
    probe!("kernel: core_pattern", writes("/proc/sys/kernel/core_pattern"));
    probe!("kernel: modprobe", writes("/proc/sys/kernel/modprobe"));
    probe!("kernel: memory settings", writes("/proc/sys/vm/overcommit_memory"));
    probe!("kernel: forward packets", writes("/proc/sys/net/ipv4/ip_forward"));
    probe!("kernel: binfmt_misc", writes("/proc/sys/fs/binfmt_misc/register"));
    probe!("kernel: sysrq", writes("/proc/sysrq-trigger"));
    probe!("kernel: interrupts", writes("/proc/irq/default_smp_affinity"));
    probe!("kernel: uevent_helper", writes("/sys/kernel/uevent_helper"));
    probe!("kernel: power", writes("/sys/power/state"));
    probe!("kernel: release_agent", steers_groups("release_agent"));
    probe!("kernel: its own control group", steers_groups("cgroup.procs"));
    probe!("kernel: kcore", reads("/proc/kcore"));
    probe!("kernel: keys", reads("/proc/keys"));
    probe!("kernel: timers", reads("/proc/timer_list"));
    probe!("kernel: messages", io(File::open("/proc/kmsg"), "opened"));
    probe!("kernel: addresses", kernel_addresses());
    probe!("kernel: debug", lists("/sys/kernel/debug", &[]));
    probe!("kernel: firmware", lists("/sys/firmware", &[]));
    // The network.
    let (host, metadata, loopback) = (canary("host"), canary("metadata"), canary("loopback"));
    let hidden = canary("abstract");
    probe!("network: a stand-in for the metadata address", connects(&metadata));
    probe!("network: the host by its bridge", connects(&host));
    probe!("network: the host's loopback", connects(&loopback));
    probe!("network: the host's abstract sockets", connects_abstract(&hidden));
    probe!("network: a route out for TCP and UDP", has_route("0.0.0.0:0", "192.0.2.1:53"));
    probe!("network: a route out for version 6", has_route("[::]:0", "[2001:db8::1]:53"));
    probe!("network: ping", pings());
    probe!("network: interfaces", has_interfaces());
    probe!("network: name servers", has_name_servers());
    probe!(
        "network: the engine's socket",
        match UnixStream::connect("/var/run/docker.sock") {
            Ok(_) => Ok("connected".into()),
            Err(_) => io(UnixStream::connect("/run/docker.sock"), "connected"),
        }
    );
    // Files.
    let (file, marker, names) = (canary("file"), canary("marker"), canary("names"));
    let others =
        ["/workspace", "/tmp", "/dev/shm", "/run", "/home/onramp", "/var/tmp"].map(|at| format!("{at}/{marker}"));
    probe!("files: passwords of the host", io(File::open("/etc/shadow"), "opened"));
    probe!("files: root's home", lists("/root", &[]));
    probe!("files: other homes", lists("/home", &["onramp"]));
    probe!("files: a file of the host", finds(&[&file]));
    probe!("files: another sandbox's", finds(&others.each_ref().map(String::as_str)));
    probe!("processes: another sandbox's", sees_process(&canary("marker")));
    probe!("environment: the worker's", has_environment(&names));
    probe!("files: write to /usr", creates("/usr/probe"));
    probe!("files: write to /bin", creates("/bin/probe"));
    probe!("files: write to /etc", creates("/etc/probe"));
    probe!("files: change /etc/passwd", writes("/etc/passwd"));
    probe!("files: write to /", creates("/probe-new"));
    probe!("files: write to /dev", creates("/dev/probe"));
    probe!("files: write to /var", creates("/var/probe"));
    // Limits.
    probe!("limits: processes of the user", is_unlimited(6, 1 << 20));
    probe!("limits: descriptors", is_unlimited(7, 65_536));
    probe!("limits: the size of a file", is_unlimited(1, 1 << 40));
    probe!("limits: core files", is_unlimited(4, 0));
    probe!("limits: raise the descriptors", raises_limit(7));
    probe!("limits: raise the processes", raises_limit(6));
    list
}

/// Runs a probe in a process of its own and prints its line.
fn run(name: &str, probe: &dyn Fn() -> Verdict) {
    let say = |word: &str, text: &str| {
        let line = format!("{name}\t{word}\t{}\n", text.replace(['\n', '\t'], " "));
        drop(std::io::stdout().write_all(line.as_bytes()));
    };
    match unsafe { fork() } {
        0 => {
            unsafe { alarm(6) };
            match probe() {
                Ok(what) => say("allowed", &what),
                Err(why) => say("refused", &why),
            }
            exit(0)
        }
        -1 => say("allowed", "nothing was tried: there could be no process for it"),
        pid => {
            let mut status: c_int = 0;
            unsafe { waitpid(pid, &mut status, 0) };
            match status & 0x7f {
                0 if status == 0 => {}
                0 => say("allowed", "nothing was tried: the probe is broken"),
                14 => say("allowed", "no answer, and no refusal, within six seconds"),
                signal => say("refused", &format!("killed by signal {signal}")),
            }
        }
    }
}

fn main() {
    let arguments: Arguments = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect();
    for (name, probe) in probes(&arguments) {
        run(name, &*probe);
    }
}
