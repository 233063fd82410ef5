//! What hostile code would try, each thing by itself: run inside a sandbox, it tells what it was refused and what not.
//!
//! A static program of its own, so that it runs in any image. It is told by `key=value` arguments where the canaries are
//! that it must not reach. For each probe it prints one line: name, `refused` or `allowed`, and why or what. No probe has
//! an effect where it is allowed: the same list runs in a container that is not ours.

mod acts;

use std::{
    ffi::{c_int, c_long},
    fs::{self, File, OpenOptions},
    io::Write,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    process::exit,
};

use acts::{
    Arguments, ENOSYS, EPERM, Verdict, X86, any_capability, becomes_another, block_devices, call, calls_as_32_bits,
    changes_owner, clones, connects, connects_abstract, creates, finds, gains_by_setuid, has_environment,
    has_interfaces, has_name_servers, has_route, io, is_unlimited, kernel_addresses, lists, makes_node, nr, on_sibling,
    opens_socket, overrides_modes, pings, raises_limit, reaches, reads, sees_process, signals_the_first, status,
    steers_groups, unshares, writes,
};

unsafe extern "C" {
    fn alarm(seconds: u32) -> u32;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
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
