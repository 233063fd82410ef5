//! What a container of ours is: every field of the request that makes one.

use std::{collections::HashMap, ops::RangeInclusive};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, ResourcesUlimits,
    RestartPolicy, RestartPolicyNameEnum,
};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{DockerBackend, LABEL_INSTALLATION, LABEL_NAME, LABEL_OWNER, LABEL_TASK};
use crate::sandbox::{GUEST, HOME, SandboxSpec, WORKSPACE};

/// The users that sandboxes run as: numbers that no system gives to a person or a program of its own, and that are small
/// enough for engines that map only the usual 65,536 of them.
const USERS: RangeInclusive<u64> = 61_184..=65_519;
/// Files that one process may hold open. An engine cannot give more than it has itself, so this is modest.
const MAX_OPEN_FILES: i64 = 16_384;
/// The kernel counts processes per user over all sandboxes of a scope, so this only stops a scope whose engine does not
/// count them per container.
const SANDBOXES_OF_A_SCOPE: u64 = 64;
/// Half of what everything else gets when the CPUs are short: the worker and its engine come first.
const CPU_SHARES: i64 = 512;
/// When the whole machine is short of memory, the kernel looks here before it looks at the worker.
const OOM_SCORE: i64 = 500;
/// The guest inside.
pub(super) const GUEST_PATH: &str = "/.onramp/guest";

impl DockerBackend {
    /// The container of a sandbox: nothing of the host, no network, no privilege, bounded in what can be bounded here.
    pub(super) fn container(&self, spec: &SandboxSpec, image: &str) -> ContainerCreateBody {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut labels = HashMap::from([label(LABEL_INSTALLATION, &self.installation), label(LABEL_NAME, &spec.name)]);
        labels.extend(self.owner.as_ref().map(|owner| label(LABEL_OWNER, owner.id())));
        labels.extend(spec.task.map(|task| label(LABEL_TASK, &task.to_string())));
        ContainerCreateBody {
            image: Some(image.to_owned()),
            hostname: Some("sandbox".into()),
            user: Some(format!("{0}:{0}", user_of(&spec.scope))),
            // The image's own environment names its tools; nothing of ours is added to it.
            entrypoint: Some(vec![GUEST_PATH.into(), "--image-environment".into()]),
            cmd: Some(Vec::new()),
            working_dir: Some("/".into()),
            // There is nothing to end gently: an engine that shuts down need not wait for it.
            stop_signal: Some("SIGKILL".into()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            // When our end is gone the guest reads its end, and ends the sandbox.
            stdin_once: Some(true),
            tty: Some(false),
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
            labels: Some(labels),
            host_config: Some(self.host_config(spec)),
            ..ContainerCreateBody::default()
        }
    }

    fn host_config(&self, spec: &SandboxSpec) -> HostConfig {
        let limits = &spec.limits;
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let memory = Some(signed(limits.memory_bytes));
        let ulimit = |name: &str, n: i64| ResourcesUlimits { name: Some(name.into()), soft: Some(n), hard: Some(n) };
        // A tmpfs takes the mode of the image's directory unless told otherwise, and counts as memory.
        let tmpfs = |path: &str, size: u64, exec: &str| {
            (path.to_owned(), format!("rw,nosuid,nodev,{exec},mode=1777,size={}", size.max(1 << 20)))
        };
        HostConfig {
            network_mode: Some("none".into()),
            // Otherwise the engine copies the host's name servers and domains in, though nobody can ask them.
            dns: Some(vec!["127.0.0.1".into()]),
            dns_search: Some(vec![".".into()]),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            pids_limit: Some(signed(limits.pids)),
            memory,
            memory_swap: memory,
            memory_swappiness: self.first_cgroups.then_some(0),
            oom_score_adj: Some(OOM_SCORE),
            cpu_shares: Some(CPU_SHARES),
            nano_cpus: Some((limits.cpus.clamp(0.01, self.n_cpus) * 1e9) as i64),
            ulimits: Some(vec![
                ulimit("nofile", MAX_OPEN_FILES),
                ulimit("core", 0),
                ulimit("nproc", signed(limits.pids.saturating_mul(SANDBOXES_OF_A_SCOPE))),
                ulimit("fsize", signed(limits.disk_bytes)),
            ]),
            tmpfs: Some(HashMap::from([
                tmpfs("/tmp", (limits.memory_bytes / 2).min(limits.disk_bytes), "exec"),
                tmpfs("/run", limits.memory_bytes / 16, "noexec"),
                tmpfs("/dev/shm", limits.memory_bytes / 4, "noexec"),
                // Everybody may write there in most images, and what is written would count nowhere.
                tmpfs("/var/tmp", limits.memory_bytes / 4, "exec"),
            ])),
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            auto_remove: Some(false),
            ipc_mode: Some("private".into()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            ..HostConfig::default()
        }
    }
}

/// What the guest and every command in the sandboxes of this scope run as: the same number each time, because what a base
/// of the scope holds belongs to it; and hardly ever that of another scope, whose files and limits it would share.
pub(super) fn user_of(scope: &str) -> u64 {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(scope));
    let n_users = USERS.end() - USERS.start() + 1;
    USERS.start() + u64::from(u32::from_be_bytes([a, b, c, d])) % n_users
}

/// The guest, and the directories that it and the commands of this scope need, as one archive.
pub(super) fn belongings(scope: &str) -> std::io::Result<Bytes> {
    let user = user_of(scope);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, owner: u64, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path.trim_start_matches('/'), content)
    };
    add("/.onramp/", tar::EntryType::Directory, 0, b"")?;
    add(GUEST_PATH, tar::EntryType::Regular, 0, GUEST)?;
    add("/home/", tar::EntryType::Directory, 0, b"")?;
    add(HOME, tar::EntryType::Directory, user, b"")?;
    add(WORKSPACE, tar::EntryType::Directory, user, b"")?;
    Ok(archive.into_inner()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_one_user_that_is_nobody_elses() {
        assert_eq!(user_of("octo/widgets"), user_of("octo/widgets"));
        assert_eq!(user_of("octo/widgets"), 63580, "bases that were kept belong to this number");
        let users: std::collections::BTreeSet<u64> = (0..50).map(|n| user_of(&format!("octo/{n}"))).collect();
        assert!(users.len() > 45, "{} users for 50 scopes", users.len());
        assert!(users.iter().all(|user| USERS.contains(user)), "{users:?}");
    }
}
