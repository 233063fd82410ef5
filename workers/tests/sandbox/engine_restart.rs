//! An engine that is restarted, or killed, under running sandboxes. It is one of this test's own: others use the machine's.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use workers::sandbox::{
    SandboxError, SandboxSpec,
    docker::DockerBackend,
    owner::Owner,
    pool::{PoolOptions, Sandboxes},
};

use crate::{docker::IMAGE, suite::sh};

/// A Docker engine with everything of its own in one directory, and a network of its own.
struct Engine {
    dir: tempfile::TempDir,
    process: Child,
}

impl Engine {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("onramp-engine-").tempdir().unwrap();
        let process = spawn(dir.path());
        let engine = Self { dir, process };
        engine.until_it_answers();
        let image = format!("docker save {IMAGE} | docker -H {} load", engine.host());
        let loaded = Command::new("sh").args(["-c", &image]).output().unwrap();
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}/sock", self.dir.path().display())
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker").args(["-H", &self.host()]).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn until_it_answers(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.docker(&["version", "--format", "{{.Server.Version}}"]).is_empty() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the engine does not answer:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the engine with this signal and starts it again.
    fn restart(&mut self, signal: i32) {
        signal_to(self.process.id(), signal);
        self.process.wait().unwrap();
        self.process = spawn(self.dir.path());
        self.until_it_answers();
    }
}

fn spawn(dir: &Path) -> Child {
    let path = |name: &str| dir.join(name).display().to_string();
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    // A killed engine leaves its number and containerd's behind; containerd dies with it, yet a moment later.
    for left in ["pid", "exec/containerd/containerd.pid"] {
        let _ = std::fs::remove_file(dir.join(left));
    }
    // In a network of its own: an engine without a bridge removes the one that it finds.
    Command::new("unshare")
        .args(["--net", "dockerd", "--host", &format!("unix://{}", path("sock")), "--pidfile", &path("pid")])
        .args(["--data-root", &path("data"), "--exec-root", &path("exec")])
        .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn signal_to(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.docker(&["container", "prune", "-f"]);
        signal_to(self.process.id(), 15);
        let _ = self.process.wait();
        let data = self.dir.path().join("data");
        let _ = Command::new("umount").arg(data).stderr(Stdio::null()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_restarted_or_killed_leaves_nothing_behind() {
    let has_engine = Command::new("dockerd").arg("--version").output().is_ok();
    if !has_engine || !rustix::process::geteuid().is_root() {
        eprintln!(
            "SKIPPED: only root with the program dockerd can start an engine of its own, so no restart was tested"
        );
        return;
    }
    let mut engine = Engine::start();
    let owners = tempfile::tempdir().unwrap();
    let owner = Arc::new(Owner::new(owners.path()).unwrap());
    let backend = DockerBackend::connect(Some(&engine.host()), Some(IMAGE.into()), "restart").await.unwrap();
    let sandboxes = Sandboxes::new(Arc::new(backend.owned_by(owner)), PoolOptions::default());
    for (signal, name) in [(15, "stopped"), (9, "killed")] {
        let sandbox = sandboxes.open(&SandboxSpec::new(format!("onramp-restart-{name}"))).await.unwrap();
        assert_eq!(sh(&sandbox, "echo alive").await, "alive");
        engine.restart(signal);
        let said = sandbox.ping(Duration::from_secs(20)).await;
        assert!(matches!(said, Err(SandboxError::Lost(_))), "{name}: a box whose stream broke is lost: {said:?}");
        drop(sandbox);
        sandboxes.settle().await;
        sandboxes.sweep().await.unwrap();
        assert_eq!(engine.docker(&["ps", "-aq"]), "", "{name}");
    }
    let sandbox = sandboxes.open(&SandboxSpec::new("onramp-restart-after")).await.unwrap();
    assert_eq!(sh(&sandbox, "echo alive").await, "alive", "the same worker goes on");
    drop(sandbox);
    sandboxes.close().await;
}
