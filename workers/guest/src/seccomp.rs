//! The system calls that nothing inside a sandbox may make.
//!
//! A deny list on purpose: a sandbox runs whatever a repository's build runs, and a call that is missing from an allow
//! list breaks it in ways that nobody understands. What is denied is what reaches far into the kernel or beyond the
//! sandbox and what no build needs. Calls that are newer than this list do not exist inside.
//!
//! The guest installs it itself, in every kind of sandbox. In a container it lies over the engine's own profile, and the
//! stricter of the two decides: what the engine of that version forbids stays forbidden, and what an older one still
//! allows is forbidden all the same.

use std::io;

use crate::sys::{self, EPERM, Instruction};

const ENOSYS: i32 = 38;
const EAFNOSUPPORT: i32 = 97;

/// `AUDIT_ARCH_*` of this build.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// The bit that marks the calls of the x32 ABI, which share the architecture of x86-64.
const X32_BIT: u32 = 0x4000_0000;
/// The newest call that was looked at: `removexattrat`.
const NEWEST: u32 = 466;
/// `CLONE_NEW*`: time, mount, cgroup, uts, ipc, user, pid, net. A thread or a fork needs none of them.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
const PERSONALITY_QUERY: u32 = 0xffff_ffff;
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;

/// (name, number on x86-64, number on aarch64); no number: the architecture has no such call.
type Call = (&'static str, Option<u32>, Option<u32>);

/// Fail with "operation not permitted", whatever their arguments are.
const DENIED: &[Call] = &[
    // Looking into or changing other processes.
    ("ptrace", Some(101), Some(117)),
    ("process_vm_readv", Some(310), Some(270)),
    ("process_vm_writev", Some(311), Some(271)),
    ("process_madvise", Some(440), Some(440)),
    ("pidfd_getfd", Some(438), Some(438)),
    ("kcmp", Some(312), Some(272)),
    ("move_pages", Some(279), Some(239)),
    ("migrate_pages", Some(256), Some(238)),
    // Large, young or rarely needed parts of the kernel, where its holes are.
    ("io_uring_setup", Some(425), Some(425)),
    ("io_uring_enter", Some(426), Some(426)),
    ("io_uring_register", Some(427), Some(427)),
    ("bpf", Some(321), Some(280)),
    ("userfaultfd", Some(323), Some(282)),
    ("perf_event_open", Some(298), Some(241)),
    ("add_key", Some(248), Some(217)),
    ("request_key", Some(249), Some(218)),
    ("keyctl", Some(250), Some(219)),
    ("fanotify_init", Some(300), Some(262)),
    ("modify_ldt", Some(154), None),
    ("lookup_dcookie", Some(212), Some(18)),
    ("nfsservctl", Some(180), Some(42)),
    ("uselib", Some(134), None),
    ("sysfs", Some(139), None),
    ("ustat", Some(136), None),
    ("_sysctl", Some(156), None),
    // The kernel itself and its devices.
    ("kexec_load", Some(246), Some(104)),
    ("kexec_file_load", Some(320), Some(294)),
    ("init_module", Some(175), Some(105)),
    ("finit_module", Some(313), Some(273)),
    ("delete_module", Some(176), Some(106)),
    ("create_module", Some(174), None),
    ("reboot", Some(169), Some(142)),
    ("syslog", Some(103), Some(116)),
    ("iopl", Some(172), None),
    ("ioperm", Some(173), None),
    ("swapon", Some(167), Some(224)),
    ("swapoff", Some(168), Some(225)),
    ("quotactl", Some(179), Some(60)),
    ("quotactl_fd", Some(443), Some(443)),
    ("acct", Some(163), Some(89)),
    ("vhangup", Some(153), Some(58)),
    // The clocks of the machine.
    ("settimeofday", Some(164), Some(170)),
    ("clock_settime", Some(227), Some(112)),
    ("clock_adjtime", Some(305), Some(266)),
    ("adjtimex", Some(159), Some(171)),
    // Mounts, roots and namespaces.
    ("mount", Some(165), Some(40)),
    ("umount2", Some(166), Some(39)),
    ("pivot_root", Some(155), Some(41)),
    ("chroot", Some(161), Some(51)),
    ("open_tree", Some(428), Some(428)),
    ("move_mount", Some(429), Some(429)),
    ("fsopen", Some(430), Some(430)),
    ("fsconfig", Some(431), Some(431)),
    ("fsmount", Some(432), Some(432)),
    ("fspick", Some(433), Some(433)),
    ("mount_setattr", Some(442), Some(442)),
    ("setns", Some(308), Some(268)),
    ("unshare", Some(272), Some(97)),
    ("open_by_handle_at", Some(304), Some(265)),
    ("sethostname", Some(170), Some(161)),
    ("setdomainname", Some(171), Some(162)),
];

/// The number of a call on the architecture of this build.
fn number((_, x86_64, aarch64): &Call) -> Option<u32> {
    if cfg!(target_arch = "x86_64") { *x86_64 } else { *aarch64 }
}

const CLONE: Call = ("clone", Some(56), Some(220));
const CLONE3: Call = ("clone3", Some(435), Some(435));
const PERSONALITY: Call = ("personality", Some(135), Some(92));
const SOCKET: Call = ("socket", Some(41), Some(198));
const IOCTL: Call = ("ioctl", Some(16), Some(29));

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;

/// Where the low half of an argument lies. Every argument that is judged here is 32 bits wide to the kernel too, so its
/// high half must be ignored: a caller may put anything there.
const fn argument_at(n: u32) -> u32 {
    16 + 8 * n
}

const fn fail_with(errno: i32) -> u32 {
    0x0005_0000 | errno as u32
}

const fn step(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value }
}

/// `if accumulator <comparison> value { return verdict }`.
const fn returns_if(comparison: u16, value: u32, verdict: u32) -> [Instruction; 2] {
    [Instruction { code: comparison, jump_true: 0, jump_false: 1, value }, step(RETURN, verdict)]
}

/// `if call == <this one> { <judge>, which ends with a return }`; the number is in the accumulator before and after.
fn when_called(call: &Call, judge: &[Instruction]) -> Vec<Instruction> {
    let Some(number) = number(call) else { return Vec::new() };
    let skip = u8::try_from(judge.len()).expect("each judge below is a few instructions long");
    let mut program = vec![Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: skip, value: number }];
    program.extend_from_slice(judge);
    program
}

/// The whole filter.
fn filter() -> Vec<Instruction> {
    let mut program = vec![step(LOAD, ARCH_AT), Instruction { jump_true: 1, ..step(JUMP_EQUAL, ARCH) }];
    program.push(step(RETURN, KILL_PROCESS));
    program.push(step(LOAD, NUMBER_AT));
    if cfg!(target_arch = "x86_64") {
        program.extend(returns_if(JUMP_ANY_BIT, X32_BIT, fail_with(ENOSYS)));
    }
    program.extend(returns_if(JUMP_GREATER, NEWEST, fail_with(ENOSYS)));
    // The flags of clone3 lie in memory, where no filter can look; without it the C libraries fall back to clone.
    program.extend(when_called(&CLONE3, &[step(RETURN, fail_with(ENOSYS))]));
    program.extend(when_called(&CLONE, &judge_clone()));
    program.extend(when_called(&SOCKET, &judge_socket()));
    program.extend(when_called(&IOCTL, &judge_ioctl()));
    program.extend(when_called(&PERSONALITY, &judge_personality()));
    for number in DENIED.iter().filter_map(number) {
        program.extend(returns_if(JUMP_EQUAL, number, fail_with(EPERM)));
    }
    program.push(step(RETURN, ALLOW));
    program
}

fn judge_clone() -> Vec<Instruction> {
    let new_namespace = returns_if(JUMP_ANY_BIT, NEW_NAMESPACES, fail_with(EPERM));
    [&[step(LOAD, argument_at(0))], &new_namespace[..], &[step(RETURN, ALLOW)]].concat()
}

/// Local and internet sockets, and the part of netlink with which programs list the network interfaces.
fn judge_socket() -> Vec<Instruction> {
    let mut judge = vec![step(LOAD, argument_at(0))];
    for family in [AF_UNIX, AF_INET, AF_INET6] {
        judge.extend(returns_if(JUMP_EQUAL, family, ALLOW));
    }
    judge.push(Instruction { jump_true: 1, ..step(JUMP_EQUAL, AF_NETLINK) });
    judge.push(step(RETURN, fail_with(EAFNOSUPPORT)));
    judge.push(step(LOAD, argument_at(2)));
    judge.extend(returns_if(JUMP_EQUAL, NETLINK_ROUTE, ALLOW));
    judge.push(step(RETURN, fail_with(EAFNOSUPPORT)));
    judge
}

/// No typing into a terminal that somebody else reads.
fn judge_ioctl() -> Vec<Instruction> {
    let mut judge = vec![step(LOAD, argument_at(1))];
    for request in [TIOCSTI, TIOCLINUX] {
        judge.extend(returns_if(JUMP_EQUAL, request, fail_with(EPERM)));
    }
    judge.push(step(RETURN, ALLOW));
    judge
}

fn judge_personality() -> Vec<Instruction> {
    let mut judge = vec![step(LOAD, argument_at(0))];
    for harmless in [0, PERSONALITY_QUERY] {
        judge.extend(returns_if(JUMP_EQUAL, harmless, ALLOW));
    }
    judge.push(step(RETURN, fail_with(EPERM)));
    judge
}

/// Installs the filter on this process and everything that it will start. Needs `no_new_privs`.
///
/// # Errors
/// When the kernel has no seccomp filters.
pub(crate) fn install() -> io::Result<()> {
    sys::install_filter(&filter())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn verdict(arch: u32, number: u32, arguments: [u64; 3]) -> u32 {
        let program = filter();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, value } = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jump_true } else { jump_false });
            match code {
                LOAD => {
                    accumulator = match value {
                        NUMBER_AT => number,
                        ARCH_AT => arch,
                        offset => arguments[(offset as usize - 16) / 8] as u32,
                    }
                }
                JUMP_EQUAL => at += jump(accumulator == value),
                JUMP_GREATER => at += jump(accumulator > value),
                JUMP_ANY_BIT => at += jump(accumulator & value != 0),
                RETURN => return value,
                other => panic!("no instruction of ours: {other:#x}"),
            }
        }
    }

    fn call(call: Call, arguments: [u64; 3]) -> u32 {
        verdict(ARCH, number(&call).unwrap(), arguments)
    }

    #[test]
    fn each_denied_call_fails_and_its_neighbours_do_not() {
        let denied: Vec<u32> = DENIED.iter().filter_map(number).collect();
        let special: Vec<u32> = [CLONE, CLONE3, PERSONALITY].iter().filter_map(number).collect();
        for nr in 0..=NEWEST {
            let expected = if denied.contains(&nr) { fail_with(EPERM) } else { ALLOW };
            if !special.contains(&nr) && Some(nr) != number(&SOCKET) {
                assert_eq!(verdict(ARCH, nr, [0; 3]), expected, "call {nr}");
            }
        }
        let mut once = denied.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), denied.len(), "a number stands twice in the table");
    }

    #[test]
    fn a_fork_and_a_thread_are_allowed_and_a_namespace_is_not() {
        assert_eq!(call(CLONE, [17, 0, 0]), ALLOW);
        assert_eq!(call(CLONE, [0x003d_0f00, 0, 0]), ALLOW, "pthread_create");
        for bit in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000_u64] {
            assert_eq!(call(CLONE, [bit | 17, 0, 0]), fail_with(EPERM), "{bit:#x}");
            assert_eq!(call(CLONE, [bit | 0xffff_ffff_0000_0000, 0, 0]), fail_with(EPERM), "high half set");
        }
        assert_eq!(call(CLONE3, [0; 3]), fail_with(ENOSYS));
    }

    #[test]
    fn only_local_internet_and_route_sockets_can_be_opened() {
        for family in [1, 2, 10, 16] {
            assert_eq!(call(SOCKET, [family, 2, 0]), ALLOW, "family {family}");
        }
        for (family, protocol) in [(17, 0), (38, 0), (40, 0), (16, 12), (16, 15), (0, 0), (44, 0)] {
            assert_eq!(call(SOCKET, [family, 2, protocol]), fail_with(EAFNOSUPPORT), "{family}/{protocol}");
        }
    }

    #[test]
    fn nobody_types_into_a_terminal_or_changes_its_personality() {
        assert_eq!(call(IOCTL, [0, 0x5401, 0]), ALLOW);
        assert_eq!(call(IOCTL, [0, 0x5412, 0]), fail_with(EPERM));
        assert_eq!(call(IOCTL, [0, 0xffff_ffff_0000_5412, 0]), fail_with(EPERM), "the kernel reads 32 bits of it");
        assert_eq!(call(PERSONALITY, [0xffff_ffff, 0, 0]), ALLOW);
        assert_eq!(call(PERSONALITY, [0x4_0000, 0, 0]), fail_with(EPERM));
    }

    #[test]
    fn other_abis_and_calls_from_the_future_do_not_exist() {
        assert_eq!(verdict(0x4000_0003, 1, [0; 3]), KILL_PROCESS, "32-bit x86");
        assert_eq!(verdict(ARCH, NEWEST + 1, [0; 3]), fail_with(ENOSYS));
        assert_eq!(verdict(ARCH, X32_BIT | 1, [0; 3]), fail_with(ENOSYS));
    }
}
