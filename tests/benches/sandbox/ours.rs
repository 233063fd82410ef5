//! Ours: a repository of many files, a base of it on each backend, and claims.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tasks::{CommitSha, TreeSha};
use tokio::process::Command as Program;
use workers::{
    checkout::{Mirror, Remote},
    sandbox::{
        Command, HostTools, KeptBase, Limits, Output, Sandbox, SandboxBackend, SandboxSpec, Update,
        docker::DockerBackend,
        namespace::NamespaceBackend,
        pool::{PoolOptions, Sandboxes},
    },
};

use crate::baseline::IMAGE;

/// What every box and every container here may take.
pub(crate) fn limits() -> Limits {
    Limits { cpus: 1.0, memory_bytes: 512 << 20, pids: 256, disk_bytes: 1 << 30 }
}

/// The first command: it reads a file that differs between base and task, and one that does not. A shell does it by itself, so
/// that the sandbox is measured and not the start of another program in it.
pub(crate) const COMMAND: &str =
    "read -r one <version.txt && read -r two <dir-000/file-001.txt && echo \"$one\" && echo \"$two\"";
pub(crate) const SAID: &str = "task\ncontent of 1\n";

/// A repository at two commits: the one of the base, and the one of the task, a few files apart.
pub(crate) struct Repository {
    dir: tempfile::TempDir,
    pub(crate) mirror: Mirror,
    base: CommitSha,
    base_tree: TreeSha,
    task_tree: TreeSha,
    /// A work tree at the task's commit.
    pub(crate) checkout: PathBuf,
}

impl Repository {
    pub(crate) async fn new(n_files: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let checkout = dir.path().join("checkout");
        let make = format!(
            "mkdir {0} && cd {0} && git init -q -b main . && git config user.name A && git config user.email a@example.org
             i=0; while [ $i -lt {1} ]; do d=$(printf 'dir-%03d' $((i / 100))); mkdir -p $d
               j=0; while [ $j -lt 100 ] && [ $i -lt {1} ]; do echo \"content of $i\" >$d/$(printf 'file-%03d.txt' $j); i=$((i+1)); j=$((j+1)); done
             done; echo base >version.txt; git add -A && git commit -q -m Base && git rev-parse HEAD
             echo task >version.txt; echo changed >dir-000/file-002.txt; echo new >new.txt; rm dir-000/file-003.txt
             git add -A && git commit -q -m Task && git rev-parse HEAD && chmod -R a+rX {0}",
            checkout.display(),
            n_files - 1
        );
        let mut shell = Program::new("sh");
        let output = shell.args(["-c", &make]).env("GIT_CONFIG_GLOBAL", "/dev/null").output().await.expect("sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut commits = said.lines().map(|line| line.parse().expect("a commit"));
        let (base, task) = (commits.next().expect("the base"), commits.next().expect("the task"));
        let remote = Remote { url: checkout.display().to_string(), token: None };
        let repo = "bench/files".parse().expect("a name");
        let (mirror, _) = Mirror::checkout(&dir.path().join("mirrors"), &repo, &remote, None).await.expect("a mirror");
        make_readable(dir.path());
        let (base_tree, task_tree) =
            (mirror.tree_of(&base).await.expect("a tree"), mirror.tree_of(&task).await.expect("a tree"));
        Self { mirror, base, base_tree, task_tree, checkout, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What differs between base and task: files to write, paths to delete. Asked of git's objects at each claim, as a worker
    /// does.
    async fn difference(&self) -> Update {
        self.mirror.delta(&self.base_tree, &self.task_tree).await.expect("the difference")
    }
}

/// Containers run as somebody else.
fn make_readable(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// One backend with a base of the repository, and boxes from it.
pub(crate) struct Contender {
    pub(crate) kind: &'static str,
    pub(crate) repository: Arc<Repository>,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) pool_size: usize,
    base: KeptBase,
    filling: tokio::task::JoinHandle<()>,
    backend: Arc<dyn SandboxBackend>,
}

/// How long one claim took.
pub(crate) struct Claim {
    pub(crate) took: Duration,
    /// Where the time went: how long each part of it took.
    pub(crate) parts: Vec<(&'static str, Duration)>,
}

/// Takes the time of one part after the other.
struct Parts {
    began: Instant,
    last: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Parts {
    fn new() -> Self {
        let began = Instant::now();
        Self { began, last: began, parts: Vec::new() }
    }

    fn end(&mut self, name: &'static str) {
        let now = Instant::now();
        self.parts.push((name, now - std::mem::replace(&mut self.last, now)));
    }

    fn claim(self) -> Claim {
        Claim { took: self.last - self.began, parts: self.parts }
    }
}

static N: AtomicU32 = AtomicU32::new(0);

fn name() -> String {
    format!("onramp-bench-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed))
}

impl Contender {
    /// With so many boxes that stand ready; 0: every claim is a cold start.
    pub(crate) async fn new(kind: &'static str, repository: &Arc<Repository>, pool_size: usize) -> Self {
        let backend: Arc<dyn SandboxBackend> = match kind {
            "docker" => {
                let backend = DockerBackend::connect(None, Some(IMAGE.into()), "onramp-bench").await;
                Arc::new(backend.expect("run tests/bring-up.sh first"))
            }
            _ => {
                let tools = HostTools::detect(None, "/usr/local/bin:/usr/bin:/bin");
                Arc::new(NamespaceBackend::new(repository.dir().join(format!("boxes-{}", name())), tools, true))
            }
        };
        let spec = SandboxSpec { limits: limits(), scope: "bench/files".into(), ..SandboxSpec::new(name()) };
        let sandbox = Sandbox::start(backend.clone(), &spec).await.expect("a box for the base");
        sandbox
            .put(repository.mirror.files(&repository.base).await.expect("the files"))
            .await
            .expect("takes the files");
        sandbox.kill_all().await.expect("everything ends");
        let base = sandbox.keep(&spec, &name()).await.expect("the base is kept");
        let options = PoolOptions { max_warm: pool_size, min_warm: pool_size, ..PoolOptions::default() };
        let sandboxes = Sandboxes::new(backend.clone(), options);
        let filling = tokio::spawn(Arc::clone(&sandboxes).run());
        let this = Self { kind, repository: repository.clone(), sandboxes, pool_size, base, filling, backend };
        this.sandboxes.expect(&this.spec());
        this.until_filled().await;
        this
    }

    fn spec(&self) -> SandboxSpec {
        let (scope, base) = ("bench/files".into(), Some(self.base.clone()));
        SandboxSpec { limits: limits(), scope, base, ..SandboxSpec::new(name()) }
    }

    pub(crate) async fn until_filled(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let began = Instant::now();
        while self.sandboxes.stats().n_warm < self.pool_size {
            assert!(began.elapsed() < Duration::from_secs(120), "the pool of {} does not fill", self.kind);
            ticks.tick().await;
        }
    }

    /// Waits until nothing of the claims before is at work any more: no removal, no start, and the pool is full.
    pub(crate) async fn rest(&self) {
        self.until_filled().await;
        self.sandboxes.settle().await;
    }

    /// Asks for a box, has its workspace brought to the task's commit, and runs the first command on it, as a verification
    /// does. The box is removed later, off the path.
    pub(crate) async fn claim(&self) -> Claim {
        let mut parts = Parts::new();
        let update = self.repository.difference().await;
        parts.end("1 difference");
        let sandbox = self.sandboxes.open_at(&self.spec(), &update).await.expect("a box");
        parts.end("2 box that answers");
        read_both(&sandbox).await;
        parts.end("3 its commit, and the command's exit");
        parts.claim()
    }

    /// The same without a command: until the workspace is known to hold the task's commit.
    pub(crate) async fn claim_workspace(&self) -> Claim {
        let mut parts = Parts::new();
        let update = self.repository.difference().await;
        parts.end("1 difference");
        let sandbox = self.sandboxes.open_at(&self.spec(), &update).await.expect("a box");
        parts.end("2 box that answers");
        sandbox.settle().await.expect("the workspace is at the commit");
        parts.end("3 its commit");
        read_both(&sandbox).await;
        parts.claim()
    }

    /// A box for commands.
    pub(crate) async fn open(&self) -> Sandbox {
        self.sandboxes.open(&self.spec()).await.expect("a box")
    }

    /// Pool size, and how often a box stood ready.
    pub(crate) fn about(&self) -> String {
        let stats = self.sandboxes.stats();
        let n = stats.n_hits + stats.n_misses;
        format!("{}: pool of {}, {} of {n} claims found a box ready", self.kind, self.pool_size, stats.n_hits)
    }

    pub(crate) async fn end(self) {
        self.sandboxes.close().await;
        self.filling.await.expect("filling ends");
        // The engine may still be at work with the last boxes.
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        let began = Instant::now();
        while let Err(error) = self.backend.remove_base(&self.base).await {
            assert!(began.elapsed() < Duration::from_secs(60), "the base of {} stays: {error}", self.kind);
            ticks.tick().await;
        }
    }
}

/// Runs the command, and looks whether it saw what it should.
async fn read_both(sandbox: &Sandbox) {
    let mut said = Vec::new();
    let mut collect = |output: Output<'_>| {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = output;
        said.extend_from_slice(bytes);
    };
    let command = Command::shell(COMMAND, Duration::from_secs(60));
    let exit = sandbox.run(&command, &mut collect).await.expect("runs");
    assert!(exit.success() && said == SAID.as_bytes(), "{exit:?} {}", String::from_utf8_lossy(&said));
}
