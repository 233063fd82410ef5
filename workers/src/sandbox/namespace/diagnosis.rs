//! What this system allows, and in a person's words what it does not.

use std::{fs, path::Path};

use tasks::{Code, Failure, Limit};

use super::cgroup::ControlGroups;

/// The first user of the host that is put behind sandboxes, in a range that no distribution gives to anybody.
const FIRST_HOST_ID: u32 = 1_900_000_000;
const N_HOST_IDS: u32 = 60_000;
/// A system that maps fewer users than this is somebody's own namespace: there is nobody to spare in it.
const ENOUGH_IDS: u32 = 2_000;

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const ENOSYS: i32 = 38;

const CAP_CHOWN: u64 = 1 << 0;
const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// The user of the host that shall be behind the `slot`th box. `None`: this worker may not choose, and its own user it is.
pub(super) fn host_id(slot: u32) -> Option<u32> {
    let read = |name: &str| fs::read_to_string(Path::new("/proc/self").join(name)).unwrap_or_default();
    if !may_choose(&read("status")) {
        return None;
    }
    choose_id(&read("uid_map"), slot).filter(|id| maps(&read("gid_map"), *id))
}

fn may_choose(status: &str) -> bool {
    let needed = CAP_CHOWN | CAP_SETGID | CAP_SETUID | CAP_NET_ADMIN | CAP_SYS_ADMIN;
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_some_and(|effective| effective & needed == needed)
}

/// The ranges (first, length) of users that exist here.
fn ranges(map: &str) -> impl Iterator<Item = (u32, u32)> {
    map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        let first = numbers.next()??;
        Some((first, numbers.nth(1)??))
    })
}

fn maps(map: &str, id: u32) -> bool {
    ranges(map).any(|(first, length)| id >= first && id - first < length)
}

fn choose_id(uid_map: &str, slot: u32) -> Option<u32> {
    let preferred = FIRST_HOST_ID + slot % N_HOST_IDS;
    if maps(uid_map, preferred) {
        return Some(preferred);
    }
    // Inside a container: from the end of the largest range, far from those that its programs use.
    let (first, length) = ranges(uid_map).max_by_key(|(_, length)| *length)?;
    (length >= ENOUGH_IDS).then(|| first + length - 1 - slot % (length / 2))
}

/// Whether every limit can be kept that nobody accepted to go without. Processes are counted per user where there is no
/// group, so that limit always is.
pub(super) fn limits_enough(groups: &ControlGroups, accepted: &[Limit]) -> Result<(), Failure> {
    let lacking = |limit: &Limit| *limit != Limit::Pids && !accepted.contains(limit);
    let lacking: Vec<&str> = groups.missing().into_iter().filter(lacking).map(Limit::as_str).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let message = format!(
        "The embedded sandbox cannot limit {} here, because this worker may not make control groups for it",
        lacking.join(" and ")
    );
    let names: Vec<String> = lacking.iter().map(|name| format!("{name:?}")).collect();
    Err(Failure::new(Code::WeakIsolation, message)
        .next(format!(
            "Run the worker as root or in control groups of its own (systemd-run --user --scope -p Delegate=yes), use a \
             Docker engine, or accept it in the configuration: [sandbox] accept_without = [{}]",
            names.join(", ")
        ))
        .detail(groups.reasons.join("\n")))
}

/// Why a box could not be built, and what can be done about it.
pub(super) fn explain(step: &str, errno: i32, reason: &str) -> Failure {
    explain_on(Path::new("/proc/sys"), step, errno, reason)
}

fn explain_on(sysctls: &Path, step: &str, errno: i32, reason: &str) -> Failure {
    let is = |name: &str, value: &str| fs::read_to_string(sysctls.join(name)).is_ok_and(|found| found.trim() == value);
    let forbidden = |by: &str, set: &str| {
        let message = format!("This system forbids the namespaces of the embedded sandbox (kernel setting {by})");
        Failure::new(Code::NoSandbox, message)
            .next(format!("Start a Docker engine, or allow them: sudo sysctl -w {set}"))
            .detail(format!("could not {step}: {reason}"))
    };
    let refused = |why: &str, next: &str| {
        Failure::new(Code::NoSandbox, format!("The embedded sandbox cannot be built here: {why}"))
            .next(next)
            .detail(format!("could not {step}: {reason}"))
    };
    let not_permitted = matches!(errno, EPERM | EACCES | ENOSPC | EINVAL);
    if not_permitted && is("kernel/unprivileged_userns_clone", "0") {
        return forbidden("kernel.unprivileged_userns_clone=0", "kernel.unprivileged_userns_clone=1");
    }
    if not_permitted && is("user/max_user_namespaces", "0") {
        return forbidden("user.max_user_namespaces=0", "user.max_user_namespaces=15000");
    }
    if matches!(errno, EPERM | EACCES) && is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        let name = "kernel.apparmor_restrict_unprivileged_userns";
        return forbidden(&format!("{name}=1"), &format!("{name}=0"));
    }
    match errno {
        ENOSYS => refused("it needs Linux 5.12 or newer", "Start a Docker engine, or use a newer kernel."),
        EPERM | EACCES if step == "mount /proc" => refused(
            "the worker runs in a container that hides parts of /proc, so no process list of the sandbox's own can be shown",
            "Give the worker a Docker engine, run it outside of the container, or start that container with --security-opt systempaths=unconfined.",
        ),
        EPERM | EACCES | ENOSPC if step.contains("namespace") || step.contains("mount") => refused(
            "namespaces are forbidden to this worker, as the default profile of a container does",
            "Give the worker a Docker engine, or run it outside of the container.",
        ),
        _ => Failure::new(Code::SandboxStart, format!("The namespace sandbox could not {step}: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "         0          0 4294967295\n";

    #[test]
    fn boxes_get_users_that_nobody_else_has() {
        assert_eq!(choose_id(WHOLE, 0), Some(1_900_000_000));
        assert_eq!(choose_id(WHOLE, 60_001), Some(1_900_000_001));
        let container = "0 100000 65536\n";
        assert_eq!((choose_id(container, 0), choose_id(container, 1)), (Some(65_535), Some(65_534)));
        assert!(choose_id(container, u32::MAX).is_some_and(|id| id >= 32_768));
        assert_eq!(choose_id("0 1000 1\n", 0), None, "one's own namespace with one user");
        assert_eq!(choose_id("", 0), None);
    }

    #[test]
    fn only_a_worker_that_may_mount_and_change_users_chooses() {
        assert!(may_choose("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_choose("CapEff:\t00000000a80425fb\n"), "root in a container without SYS_ADMIN");
        assert!(!may_choose("CapEff:\t0000000000000000\n"));
    }

    #[test]
    fn a_limit_that_cannot_be_kept_is_refused_unless_it_is_accepted_by_name() {
        let judged = |enforced: &[Limit], accepted: &[Limit]| {
            let reasons = vec!["/sys/fs/cgroup/user.slice: Permission denied".to_owned()];
            let groups = ControlGroups { enforced: enforced.to_vec(), reasons, ..ControlGroups::default() };
            limits_enough(&groups, accepted).map_err(|failure| {
                assert_eq!(failure.detail.as_deref(), Some("/sys/fs/cgroup/user.slice: Permission denied"));
                format!("{} {}. {}", failure.code, failure.message, failure.next_step)
            })
        };
        assert_eq!(judged(&[Limit::Cpu, Limit::Memory], &[]), Ok(()), "processes are counted per user");
        assert_eq!(judged(&[], &[Limit::Memory, Limit::Cpu]), Ok(()));
        insta::assert_snapshot!(judged(&[], &[]).unwrap_err(), @r#"E019 The embedded sandbox cannot limit memory and cpu here, because this worker may not make control groups for it. Run the worker as root or in control groups of its own (systemd-run --user --scope -p Delegate=yes), use a Docker engine, or accept it in the configuration: [sandbox] accept_without = ["memory", "cpu"]"#);
        insta::assert_snapshot!(judged(&[Limit::Pids], &[Limit::Cpu]).unwrap_err(), @r#"E019 The embedded sandbox cannot limit memory here, because this worker may not make control groups for it. Run the worker as root or in control groups of its own (systemd-run --user --scope -p Delegate=yes), use a Docker engine, or accept it in the configuration: [sandbox] accept_without = ["memory"]"#);
    }

    fn with_setting(name: &str, value: &str, errno: i32) -> String {
        let sysctls = tempfile::tempdir().unwrap();
        let path = sysctls.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
        let failure = explain_on(sysctls.path(), "create a user namespace", errno, "Operation not permitted");
        format!("{} {}. {}", failure.code, failure.message, failure.next_step)
    }

    #[test]
    fn a_forbidden_namespace_names_the_setting_that_forbids_it() {
        insta::assert_snapshot!(with_setting("kernel/apparmor_restrict_unprivileged_userns", "1\n", EPERM), @"E010 This system forbids the namespaces of the embedded sandbox (kernel setting kernel.apparmor_restrict_unprivileged_userns=1). Start a Docker engine, or allow them: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0");
        insta::assert_snapshot!(with_setting("user/max_user_namespaces", "0\n", ENOSPC), @"E010 This system forbids the namespaces of the embedded sandbox (kernel setting user.max_user_namespaces=0). Start a Docker engine, or allow them: sudo sysctl -w user.max_user_namespaces=15000");
        insta::assert_snapshot!(with_setting("kernel/unprivileged_userns_clone", "0\n", EPERM), @"E010 This system forbids the namespaces of the embedded sandbox (kernel setting kernel.unprivileged_userns_clone=0). Start a Docker engine, or allow them: sudo sysctl -w kernel.unprivileged_userns_clone=1");
    }

    #[test]
    fn other_refusals_say_what_they_are() {
        let nowhere = Path::new("/nonexistent");
        let of = |step, errno| explain_on(nowhere, step, errno, "reason");
        assert_eq!(of("create a user namespace", EPERM).code, Code::NoSandbox);
        assert!(of("mount /proc", EPERM).next_step.contains("systempaths=unconfined"));
        assert!(of("show /usr", ENOSYS).message.contains("Linux 5.12"));
        let other = of("show /root/tools", 5);
        assert_eq!(
            (other.code, other.message.as_str()),
            (Code::SandboxStart, "The namespace sandbox could not show /root/tools: reason")
        );
    }
}
