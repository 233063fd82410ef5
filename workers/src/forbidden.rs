//! The dangerous switches of engines, and why none of them can be asked for.
//!
//! Neither configuration has a key for any of them, so an attempt is an unknown key anyway. People do try, because other
//! tools have them; this table makes the refusal an answer: why not, and what to do instead.

/// Why a key or value cannot be asked for: one sentence without a full stop, for the end of an error.
type Why = &'static str;

const HOST_FILES: Why = "nothing of the host is mounted into a sandbox, because code in it could change it; what a \
                         repository needs belongs into its image or its `setup` commands";
const PRIVILEGES: Why = "no sandbox gets rights over its host, because code in it would own the host; what needs root \
                         while it is installed belongs into the image";
const NAMESPACES: Why = "every sandbox has its own processes, users, network and shared memory, because sharing the \
                         host's would show the host to the code in it; there is nothing to use instead";
const NETWORK: Why = "a sandbox has no network, because what it can reach it can leak to; name the hosts it may ask for \
                      under [network] allow in `.onramp.toml`, they are reached through a proxy";
const DEVICES: Why = "no device of the host is shown inside, because most lead out of the sandbox; a GPU is asked for \
                      with `gpu` in `.onramp.toml`, and lent for a while";
const PROFILES: Why = "the system call filter and the security profiles are always on, because they close the kernel's \
                       known ways out; a program that they stop has to do without";
const ENGINE: Why = "the engine's socket is never shown inside, because whoever holds it owns the host; build images \
                     with `dockerfile` in `.onramp.toml`, outside of the sandbox";
const OPTIONS: Why = "options of the engine are not passed on, because one of them is enough to open the sandbox; image, \
                      limits, network and gpu have keys of their own in `.onramp.toml`";
const IDENTITY: Why = "commands always run as an unprivileged user without a way to more rights; what needs root \
                       belongs into the image";
const LIMITS: Why = "every sandbox is limited and none is favoured, because one must not starve the others; choose its \
                     size under [limits] in `.onramp.toml`";

/// Keys, written with `_` and in lower case.
const SWITCHES: &[(&[&str], Why)] = &[
    (&["privileged", "cap_add", "capadd", "capabilities", "caps", "cap_drop", "sysctls", "sysctl"], PRIVILEGES),
    (
        &["group_add", "device_cgroup_rules", "cgroup_parent", "cgroup", "extra_privileges", "allow_privileged"],
        PRIVILEGES,
    ),
    (&["pid", "pid_mode", "ipc", "ipc_mode", "uts", "uts_mode", "userns", "userns_mode", "cgroupns"], NAMESPACES),
    (&["cgroupns_mode", "pid_host", "ipc_host", "host_pid", "host_ipc", "hostpid", "hostipc"], NAMESPACES),
    (&["network_mode", "net", "networks", "host_network", "hostnetwork", "ports", "expose_ports", "publish"], NETWORK),
    (&["dns", "extra_hosts", "links", "add_host"], NETWORK),
    (&["volumes", "volume", "mounts", "mount", "binds", "bind", "volumes_from", "host_paths", "tmpfs"], HOST_FILES),
    (&["volume_driver", "storage_opt", "workspace_mount", "mount_host", "shared_folders"], HOST_FILES),
    (&["devices", "device", "device_requests", "gpus_all", "blkio_weight_device"], DEVICES),
    (&["security_opt", "security_opts", "seccomp", "seccomp_profile", "apparmor", "apparmor_profile"], PROFILES),
    (&["selinux", "no_new_privileges", "masked_paths", "readonly_paths", "read_only", "systempaths"], PROFILES),
    (&["docker_socket", "docker_sock", "mount_docker_socket", "dind", "docker_in_docker"], ENGINE),
    (&["docker_args", "docker_options", "docker_opts", "run_args", "runargs", "engine_args", "extra_args"], OPTIONS),
    (&["host_config", "hostconfig", "container_options", "options", "container", "docker", "entrypoint"], OPTIONS),
    (
        &["user", "container_user", "remote_user", "uid", "gid", "run_as_root", "run_as_user", "sudo", "as_root"],
        IDENTITY,
    ),
    (&["oom_kill_disable", "oom_score_adj", "memory_swap", "shm_size", "ulimits", "cpu_rt_runtime", "restart"], LIMITS),
];

/// Why a key cannot be there, if it is one of an engine's dangerous switches however it is spelled.
pub fn why_no_key(key: &str) -> Option<Why> {
    let mut plain = String::new();
    for c in key.trim_start_matches('-').chars() {
        match c {
            '-' | ' ' | '.' => plain.push('_'),
            // securityOpt, NetworkMode
            c if c.is_ascii_uppercase() && plain.ends_with(|last: char| last.is_ascii_lowercase()) => {
                plain.push('_');
                plain.push(c.to_ascii_lowercase());
            }
            c => plain.push(c.to_ascii_lowercase()),
        }
    }
    SWITCHES.iter().find(|(names, _)| names.contains(&plain.as_str())).map(|(_, why)| *why)
}

/// Why a word cannot be the name of an engine's runtime.
pub fn why_no_runtime(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match name.to_ascii_lowercase().as_str() {
        "unconfined" | "host" | "none" | "privileged" => Some(format!(
            "{name:?} is no runtime, and there is no way to run without a wall; leave it empty for the engine's own, or \
             name a stronger one such as runsc"
        )),
        "nvidia" => Some(
            "\"nvidia\" makes no wall stronger; it is chosen by itself for a sandbox that a GPU was lent to".to_owned(),
        ),
        _ if !name.chars().all(plain) => Some(format!(
            "{name:?} is not the name of a runtime; a path or options cannot be given here, only a name that the engine \
             lists"
        )),
        _ => None,
    }
}

/// Why a repository cannot set an environment variable: these steer what the GPU toolkit and the loader do outside of
/// the sandbox, or before the first command inside.
pub fn why_no_variable(name: &str) -> Option<Why> {
    let upper = name.to_ascii_uppercase();
    if upper.starts_with("NVIDIA_") || matches!(upper.as_str(), "CUDA_VISIBLE_DEVICES" | "CUDA_DEVICE_ORDER") {
        return Some("it decides which GPUs are shown, which is decided by what was lent; ask with `gpu` instead");
    }
    if upper.starts_with("CUDA_MPS_") {
        return Some("it leads to a service on the host, which no sandbox may reach; ask with `gpu` instead");
    }
    if upper.starts_with("LD_") {
        return Some(
            "the loader's variables also act on the engine's own programs while a sandbox is made; set it in the \
             command that needs it (`LD_LIBRARY_PATH=… cmd`)",
        );
    }
    upper.starts_with("ONRAMP_").then_some("it is Onramp's own")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_known_however_it_is_spelled() {
        for key in ["privileged", "--privileged", "cap-add", "CapAdd", "capAdd", "securityOpt", "NetworkMode", "pid"] {
            assert!(why_no_key(key).is_some(), "{key}");
        }
        for key in ["image", "setup", "memory", "pids", "allow", "runtime", "gpu", "timeout"] {
            assert_eq!(why_no_key(key), None, "{key}");
        }
    }

    #[test]
    fn a_runtime_is_a_name_and_never_a_way_around_the_wall() {
        for name in ["unconfined", "Host", "nvidia", "/usr/bin/runc", "runc --debug", "a b"] {
            assert!(why_no_runtime(name).is_some(), "{name}");
        }
        for name in ["", "runsc", "kata-qemu", "io.containerd.kata.v2"] {
            assert_eq!(why_no_runtime(name), None, "{name}");
        }
    }

    #[test]
    fn variables_that_steer_the_toolkit_are_known_in_any_case() {
        for name in ["NVIDIA_VISIBLE_DEVICES", "nvidia_driver_capabilities", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD"] {
            assert!(why_no_variable(name).is_some(), "{name}");
        }
        for name in ["PATH", "RUST_LOG", "CUDA_HOME", "OLD_PWD", "LDFLAGS"] {
            assert_eq!(why_no_variable(name), None, "{name}");
        }
    }
}
