//! The embedded sandbox: namespaces, mounts and filters of the kernel itself. No engine, no daemon, no other program.
//!
//! The worker has many threads, so it must not change its own namespaces. It starts the guest as a launcher instead
//! (`workers/guest/src/namespace`), tells it over its standard input what to build, and reads from its standard error
//! how that went. From then on that same standard input and output are the stream of PID 1.
//!
//! A box cannot outlive its worker: the launcher ends it when its end of the stream or of the error output closes,
//! and the kernel ends PID 1 when the launcher dies. What can stay behind after a crash is files; the sweep removes them.

mod cgroup;
mod diagnosis;
mod directory;
mod guest_program;
mod keep;

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use guest::launch::{Answer, Launch, Layer};
use tasks::{Code, Failure, Limit};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::Mutex,
    time::timeout,
};

use self::{cgroup::ControlGroups, directory::BoxDirectory, guest_program::GuestProgram};
use super::{HostTools, KeptBase, Limits, SandboxBackend, SandboxError, SandboxSpec, Started};
use crate::gpu;

/// What sandboxes and bases of this kind are called.
pub const KIND: &str = "namespace";
/// What the evidence says of the environment: there is no image, the host's own tools are used.
pub const HOST_TOOLS: &str = "host tools";

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// What a launcher may say before it is believed to be none of ours, in bytes.
const MAX_ANSWER: u64 = 16 * 1024;

/// Starts boxes out of the kernel's own parts.
#[derive(Debug)]
pub struct NamespaceBackend {
    root: PathBuf,
    tools: HostTools,
    accept_host_tools: bool,
    accepted: Vec<Limit>,
    boxes: Mutex<HashMap<String, RunningBox>>,
    n_started: AtomicU32,
}

/// A box and everything that has to go with it.
#[derive(Debug)]
struct RunningBox {
    launcher: Child,
    /// Open as long as the box shall live.
    stderr: BufReader<ChildStderr>,
    directory: BoxDirectory,
    /// Held as long as the box lives, so that its base stays.
    _base: Option<keep::InUse>,
}

/// What came of a start, for those who ask whether sandboxes work here.
struct Facts {
    enforced: Vec<Limit>,
    notes: Vec<String>,
}

impl NamespaceBackend {
    /// Boxes keep their files below `root`, which is made when it is not there. `accept_host_tools`: a repository that
    /// asks for an image gets the host's tools instead of a refusal (E016).
    pub fn new(root: PathBuf, tools: HostTools, accept_host_tools: bool) -> Self {
        let (accepted, boxes, n_started) = (Vec::new(), Mutex::default(), AtomicU32::new(0));
        Self { root, tools, accept_host_tools, accepted, boxes, n_started }
    }

    /// The operator accepts sandboxes without these limits where the host cannot keep them. Without this word a start on
    /// such a host is refused (E019).
    #[must_use]
    pub fn accept_without(self, limits: impl IntoIterator<Item = Limit>) -> Self {
        Self { accepted: limits.into_iter().collect(), ..self }
    }

    /// The limits that are kept here. Those on pids and disk need nothing of the host: the kernel counts the processes of
    /// each sandbox's user, and the guest watches what is written.
    pub fn enforced() -> Vec<Limit> {
        static N: AtomicU32 = AtomicU32::new(0);
        let name = format!("onramp-look-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
        let groups = ControlGroups::create(&name, &Limits::default());
        let _ = cgroup::remove(&groups.dirs);
        let missing = groups.missing();
        Limit::ALL.into_iter().filter(|limit| *limit == Limit::Pids || !missing.contains(limit)).collect()
    }

    /// Starts and stops a tiny box, and tells what is enforced here and what is not.
    ///
    /// # Errors
    /// E010 when this system does not let a sandbox be built, with the exact reason; E013 for anything unforeseen.
    pub async fn probe(&self) -> Result<String, Failure> {
        // Several backends of one process may be asked at the same time, and control groups are named after the box.
        static N_PROBES: AtomicU32 = AtomicU32::new(0);
        let name = format!("onramp-probe-{}-{}", std::process::id(), N_PROBES.fetch_add(1, Ordering::Relaxed));
        let limits = Limits { memory_bytes: 256 << 20, pids: 16, disk_bytes: 16 << 20, ..Limits::default() };
        let spec = SandboxSpec { limits, ..SandboxSpec::new(name) };
        let facts = match self.start_box(&spec).await {
            Ok((_, facts)) => facts,
            Err(error) => return Err(into_failure(error)),
        };
        self.stop(&spec.name).await.map_err(into_failure)?;
        Ok(facts.to_string())
    }

    /// Whether the host's tools may stand in for what a repository asks for.
    fn accepts(&self, wanted: &str) -> Result<(), Failure> {
        let message = format!("The repository asks for {wanted}, and the namespace sandbox has only the host's tools");
        self.accept_host_tools.then_some(()).ok_or_else(|| Failure::new(Code::ImageNeedsEngine, message))
    }

    async fn start_box(&self, spec: &SandboxSpec) -> Result<((ChildStdout, ChildStdin), Facts), SandboxError> {
        if let Some(image) = &spec.image {
            self.accepts(&format!("the image {image}"))?;
        }
        let devices = gpu::device_files(&spec.gpus)?;
        let (root, name, limits) = (self.root.clone(), spec.name.clone(), spec.limits.clone());
        let slot = self.n_started.fetch_add(1, Ordering::Relaxed);
        let accepted = self.accepted.clone();
        let (directory, groups, host_id) = blocking(move || {
            let groups = ControlGroups::create(&name, &limits);
            if let Err(failure) = diagnosis::limits_enough(&groups, &accepted) {
                let _ = cgroup::remove(&groups.dirs);
                return Ok(Err(failure));
            }
            let host_id = diagnosis::host_id(slot);
            let made = BoxDirectory::create(&root, &name, &groups.dirs);
            if made.is_err() {
                let _ = cgroup::remove(&groups.dirs);
            }
            Ok(Ok((made?, groups, host_id)))
        })
        .await??;

        let base = match &spec.base {
            Some(base) => match keep::use_base(&self.root, &base.id) {
                Ok(base) => Some(base),
                Err(error) => {
                    blocking(move || directory.remove()).await?;
                    return Err(failed("use its base", &error));
                }
            },
            None => None,
        };
        let launch = self.launch(spec, &directory, &groups, host_id, devices);
        let started = async {
            let mut launcher = self.spawn()?;
            let (mut stdin, stdout) = (take(launcher.stdin.take())?, take(launcher.stdout.take())?);
            let mut stderr = BufReader::new(take(launcher.stderr.take())?);
            let answer = converse(&launch, &mut stdin, &mut stderr).await;
            Ok::<_, SandboxError>((answer, launcher, stdin, stdout, stderr))
        };
        let (notes, launcher, stdin, stdout, stderr) = match started.await {
            Ok((Ok(notes), launcher, stdin, stdout, stderr)) => (notes, launcher, stdin, stdout, stderr),
            Ok((Err(error), launcher, stdin, stdout, stderr)) => {
                drop((stdin, stdout));
                end(RunningBox { launcher, stderr, directory, _base: base }).await?;
                return Err(error);
            }
            Err(error) => {
                blocking(move || directory.remove()).await?;
                return Err(error);
            }
        };
        tracing::debug!(sandbox = %spec.name, enforced = ?groups.enforced, ?notes, "namespace sandbox started");
        self.boxes.lock().await.insert(spec.name.clone(), RunningBox { launcher, stderr, directory, _base: base });
        Ok(((stdout, stdin), Facts { enforced: groups.enforced, notes }))
    }

    fn launch(
        &self,
        spec: &SandboxSpec,
        directory: &BoxDirectory,
        groups: &ControlGroups,
        host_id: Option<u32>,
        devices: Vec<PathBuf>,
    ) -> Launch {
        let layers = self.tools.caches.iter().map(|(from, to)| Layer { from: from.clone(), to: to.clone() });
        Launch {
            dir: directory.path().to_owned(),
            host_id,
            base: spec.base.as_ref().map(|base| PathBuf::from(&base.kept_as)),
            expose: self.tools.expose.clone(),
            layers: layers.collect(),
            devices,
            cgroups: groups.entrances(),
            pids: spec.limits.pids,
            file_bytes: spec.limits.disk_bytes,
            // Temporary files lie in memory.
            tmp_bytes: spec.limits.disk_bytes.min(spec.limits.memory_bytes / 2),
        }
    }

    /// The launcher. Its environment is the one that commands inside start with; it holds nothing else.
    fn spawn(&self) -> Result<Child, SandboxError> {
        let program = GuestProgram::get(&self.root).map_err(|error| failed("hold the guest in memory", &error))?;
        Command::new(program.path())
            .arg0("onramp-guest")
            .arg("--namespace")
            .env_clear()
            .envs(self.tools.env())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("start the guest", &error))
    }
}

#[async_trait]
impl SandboxBackend for NamespaceBackend {
    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        let ((stdout, stdin), _) = self.start_box(spec).await?;
        Ok(Started { stream: Box::new(tokio::io::join(stdout, stdin)), kind: KIND, environment: HOST_TOOLS.to_owned() })
    }

    async fn build_image(&self, _context: Bytes, dockerfile: &str, _tag: &str) -> Result<String, Failure> {
        self.accepts(&format!("an image built from {dockerfile}")).map(|()| HOST_TOOLS.to_owned())
    }

    fn environment_key(&self, _image: Option<&str>) -> String {
        format!("{:?}", self.tools)
    }

    async fn environment(&self, _image: Option<&str>) -> Result<String, Failure> {
        Ok(HOST_TOOLS.to_owned())
    }

    async fn keep(&self, spec: &SandboxSpec, id: &str) -> Result<KeptBase, SandboxError> {
        let running = self.boxes.lock().await.remove(&spec.name);
        let running = running.ok_or_else(|| failed("keep a base", &"there is no such sandbox"))?;
        let directory = end_processes(running).await?;
        let (root, id) = (self.root.clone(), id.to_owned());
        blocking(move || keep::keep(&root, directory, &id)).await
    }

    async fn remove_base(&self, base: &KeptBase) -> Result<(), SandboxError> {
        let (root, id) = (self.root.clone(), base.id.clone());
        match blocking(move || keep::remove(&root, &id)).await? {
            true => Ok(()),
            false => Err(SandboxError::Refused { operation: "remove a base", reason: "a sandbox uses it".into() }),
        }
    }

    async fn bases(&self) -> Result<Vec<KeptBase>, SandboxError> {
        let root = self.root.clone();
        blocking(move || keep::all(&root)).await
    }

    async fn stop(&self, name: &str) -> Result<(), SandboxError> {
        let running = self.boxes.lock().await.remove(name);
        match running {
            Some(running) => end(running).await,
            None => {
                let (root, name) = (self.root.clone(), name.to_owned());
                blocking(move || directory::remove_abandoned(&root, &name).map(drop)).await
            }
        }
    }

    async fn used_bytes(&self, name: &str) -> Option<u64> {
        let kept = keep::of_box(&self.root, name).ok()?;
        blocking(move || Ok(kept.is_dir().then(|| keep::used_bytes(&kept)))).await.ok().flatten()
    }

    async fn sweep(&self, keep: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<usize, SandboxError> {
        let running: Vec<String> = self.boxes.lock().await.keys().filter(|name| !keep(name)).cloned().collect();
        let mut n_removed = running.len();
        for name in running {
            self.stop(&name).await?;
        }
        let root = self.root.clone();
        let of_the_dead = move || {
            let mut names = directory::names(&root)?;
            names.retain(|name| directory::is_abandoned(&root, name));
            Ok(names)
        };
        for name in blocking(of_the_dead).await?.into_iter().filter(|name| !keep(name)) {
            let root = self.root.clone();
            n_removed += usize::from(blocking(move || directory::remove_abandoned(&root, &name)).await?);
        }
        Ok(n_removed)
    }
}

/// Tells the launcher what to build and waits for its word.
async fn converse(
    launch: &Launch,
    stdin: &mut ChildStdin,
    stderr: &mut BufReader<ChildStderr>,
) -> Result<Vec<String>, SandboxError> {
    let bytes = launch.encode().map_err(|error| failed("describe the sandbox", &error))?;
    let mut line = Vec::new();
    let conversation = async {
        // A launcher that refuses at once does not read this to its end; then what it says is of more use.
        let _ = stdin.write_all(&bytes).await;
        stderr.take(MAX_ANSWER).read_until(b'\n', &mut line).await
    };
    match timeout(START_TIMEOUT, conversation).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(failed("hear from the guest", &error)),
        Err(_) => return Err(failed("hear from the guest", &format!("it was silent for {START_TIMEOUT:?}"))),
    }
    let line = String::from_utf8_lossy(&line);
    match Answer::parse(&line) {
        Some(Answer::Ready { notes }) => Ok(notes),
        Some(Answer::Refused { step, errno, reason }) => Err(diagnosis::explain(&step, errno, &reason).into()),
        None if line.trim().is_empty() => Err(failed("start the guest", &"it ended without a word")),
        None => Err(failed("start the guest", &line.trim())),
    }
}

/// Ends a box and removes all of it.
async fn end(running: RunningBox) -> Result<(), SandboxError> {
    let directory = end_processes(running).await?;
    blocking(move || directory.remove()).await
}

/// Ends everything that runs in a box and leaves its files.
async fn end_processes(running: RunningBox) -> Result<BoxDirectory, SandboxError> {
    let RunningBox { mut launcher, stderr, directory, _base } = running;
    if let Ok(Some(status)) = launcher.try_wait() {
        let mut words = String::new();
        let _ = timeout(STOP_TIMEOUT, stderr.take(MAX_ANSWER).read_to_string(&mut words)).await;
        if !words.trim().is_empty() {
            tracing::warn!(sandbox = %directory.name(), %status, words = %words.trim(), "the guest ended by itself");
        }
    } else {
        // The launcher sees this, kills PID 1 and ends only when nothing inside is left.
        drop(stderr);
        if timeout(STOP_TIMEOUT, launcher.wait()).await.is_err() {
            launcher.kill().await.map_err(|error| failed("end the sandbox", &error))?;
        }
    }
    Ok(directory)
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Isolated: users, files, processes, network, system calls; no capability is left inside.")?;
        let names = |limits: &[Limit]| limits.iter().map(|limit| limit.as_str()).collect::<Vec<_>>().join(", ");
        if !self.enforced.is_empty() {
            write!(f, " Limited by control groups: {}.", names(&self.enforced))?;
        }
        f.write_str(" Limited by the kernel for each sandbox: processes, the size of a file, temporary files.")?;
        f.write_str(" Limited by the guest: what is written.")?;
        let weak: Vec<Limit> =
            [Limit::Memory, Limit::Cpu].into_iter().filter(|limit| !self.enforced.contains(limit)).collect();
        if !weak.is_empty() {
            write!(f, " Not limited here: {}.", names(&weak))?;
        }
        self.notes.iter().try_for_each(|note| write!(f, " Note: {note}."))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, SandboxError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed("keep the files of the sandbox", &error)),
        Err(error) => Err(Failure::internal(error).into()),
    }
}

fn take<T>(end: Option<T>) -> Result<T, SandboxError> {
    end.ok_or_else(|| Failure::internal("the guest has no standard streams").into())
}

fn failed(what: &str, reason: &dyn std::fmt::Display) -> SandboxError {
    Failure::new(Code::SandboxStart, format!("The namespace sandbox could not {what}: {reason}")).into()
}

fn into_failure(error: SandboxError) -> Failure {
    match error {
        SandboxError::Failure(failure) => failure,
        other => Failure::new(Code::SandboxStart, format!("The namespace sandbox does not work: {other}")),
    }
}
