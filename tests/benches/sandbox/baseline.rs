//! What one would take instead, by the programs that one would use.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::Command;
use workers::sandbox::Limits;

pub(crate) const IMAGE: &str = tests::onramp::IMAGE;
/// Who commands run as: no user of the host.
const USER: &str = "61184:61184";

/// The options that a container of ours has, as options of `docker run`.
fn options(limits: &Limits) -> Vec<String> {
    let memory = limits.memory_bytes;
    let tmpfs =
        |path: &str, size: u64, exec: &str| format!("--tmpfs={path}:rw,nosuid,nodev,{exec},mode=1777,size={size}");
    vec![
        "--network=none".into(),
        "--cap-drop=ALL".into(),
        "--security-opt=no-new-privileges".into(),
        format!("--user={USER}"),
        "--hostname=sandbox".into(),
        format!("--pids-limit={}", limits.pids),
        format!("--memory={memory}"),
        format!("--memory-swap={memory}"),
        "--oom-score-adj=500".into(),
        "--cpu-shares=512".into(),
        format!("--cpus={}", limits.cpus),
        "--ulimit=nofile=16384:16384".into(),
        "--ulimit=core=0:0".into(),
        format!("--ulimit=fsize={0}:{0}", limits.disk_bytes),
        format!("--ulimit=nproc={0}:{0}", limits.pids * 64),
        tmpfs("/tmp", (memory / 2).min(limits.disk_bytes), "exec"),
        tmpfs("/run", memory / 16, "noexec"),
        tmpfs("/dev/shm", memory / 4, "noexec"),
        tmpfs("/var/tmp", memory / 4, "exec"),
        "--log-driver=none".into(),
        "--ipc=private".into(),
        "--cgroupns=private".into(),
        "--dns=127.0.0.1".into(),
        "--dns-search=.".into(),
        "--no-healthcheck".into(),
        "--label=onramp.bench=baseline".into(),
    ]
}

async fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().await.expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `docker run --rm` with a checkout mounted, until its command has ended.
pub(crate) async fn docker_run(limits: &Limits, checkout: &Path, line: &str, expected: &str) -> Duration {
    let started = Instant::now();
    let mut command = Command::new("docker");
    command.args(["run", "--rm"]).args(options(limits)).args(["-v", &format!("{}:/workspace", checkout.display())]);
    let said = succeed(command.args(["-w", "/workspace", IMAGE, "/bin/sh", "-c", line])).await;
    let took = started.elapsed();
    assert_eq!(said, expected);
    took
}

/// A container that runs until it is dropped.
pub(crate) struct Container(String);

impl Container {
    pub(crate) async fn start(limits: &Limits) -> Self {
        let mut command = Command::new("docker");
        command.args(["run", "-d", "--rm"]).args(options(limits)).args([IMAGE, "tail", "-f", "/dev/null"]);
        Self(succeed(&mut command).await.trim().to_owned())
    }

    /// `docker exec`, until the command has ended.
    pub(crate) async fn exec(&self, line: &str) -> Duration {
        let started = Instant::now();
        succeed(Command::new("docker").args(["exec", &self.0, "/bin/sh", "-c", line])).await;
        started.elapsed()
    }

    pub(crate) async fn remove(self) {
        succeed(Command::new("docker").args(["rm", "-f", &self.0])).await;
    }
}

/// `git clone --shared` of a mirror whose branch stands at the right commit, into a fresh directory.
pub(crate) async fn clone_shared(mirror: &Path, to: PathBuf) -> Duration {
    let started = Instant::now();
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").args(["clone", "-q", "--shared"]).arg(mirror).arg(&to);
    succeed(&mut command).await;
    let took = started.elapsed();
    tokio::fs::remove_dir_all(to).await.expect("the clone is removed");
    took
}
