//! Boxes in which agents and checks run, and the one pipe that leads out of them.
//!
//! A [`SandboxBackend`] only starts a box with limits and hands over the stream of its PID 1, our own guest. All the rest
//! (commands, files, tunnels) is written once, in [`Sandbox`], as frames over that stream. A sandbox has no network
//! interface but loopback and no credential.

pub mod auto;
mod client;
mod conversation;
pub mod docker;
mod host_tools;
pub mod isolation;
mod link;
pub mod namespace;
pub mod owner;
pub mod pool;
mod translate;
mod tunnel;
mod update;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tasks::{Failure, LimitHit, TaskId};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::gpu::Gpu;
pub use client::Sandbox;
pub use host_tools::HostTools;
pub use tunnel::{Tunnel, Tunnels};
pub use update::Update;

/// Our guest: a static program for the platform of this build, which runs as PID 1 in every sandbox.
pub static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/onramp-guest"));

/// Where the repository lies inside a sandbox: the working directory of every command.
pub const WORKSPACE: &str = "/workspace";
/// The home directory inside a sandbox: writable, empty at the start, gone with the sandbox.
pub const HOME: &str = "/home/onramp";

/// The limits of one sandbox. Each is enforced, and named when it ends a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// CPUs, may be a fraction.
    pub cpus: f64,
    /// Memory in bytes; there is no swap on top.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes that may be written to workspace, home and temporary files together.
    pub disk_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpus: 2.0, memory_bytes: 4 << 30, pids: 1024, disk_bytes: 10 << 30 }
    }
}

/// What a backend needs to start one box.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// Unique name, also the container's name: `onramp-<task id>-<attempt>-<purpose>`.
    pub name: String,
    /// The task it works for, as a label for people who look; `None`: none yet.
    pub task: Option<TaskId>,
    /// The repository it works for. Boxes of different ones do not share a user id where the backend can avoid it.
    pub scope: String,
    /// The image to start from. `None`: the backend's own default (Docker: the configured default image; namespaces: the
    /// host's tools).
    pub image: Option<String>,
    /// A prepared base to start from instead.
    pub base: Option<KeptBase>,
    /// Limits.
    pub limits: Limits,
    /// GPUs that were lent to it, and no others.
    pub gpus: Vec<Gpu>,
    /// Where it is counted what its commands use.
    pub usage: Arc<BoxUsage>,
}

impl SandboxSpec {
    /// A box of this name from the backend's default, with the default limits.
    pub fn new(name: impl Into<String>) -> Self {
        let (scope, limits) = (String::new(), Limits::default());
        let (name, usage) = (name.into(), Arc::default());
        Self { name, task: None, scope, image: None, base: None, limits, gpus: Vec::new(), usage }
    }
}

/// A prepared base as its backend keeps it: a file system at rest that boxes start from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeptBase {
    /// Its id among all bases of this installation.
    pub id: String,
    /// `docker` or `namespace`.
    pub kind: String,
    /// Where the backend keeps it: the id of an image, or a directory.
    pub kept_as: String,
    /// What it was made from, for the evidence: `rust:1.91@sha256:…`, or `host tools`.
    pub environment: String,
    /// What it takes on the disk beyond what it was made from.
    pub n_bytes: u64,
}

/// The byte stream to and from the guest: its standard input and output.
pub trait GuestStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> GuestStream for T {}

/// A box that was started. The guest has not been greeted yet.
pub struct Started {
    /// The stream of PID 1.
    pub stream: Box<dyn GuestStream>,
    /// `docker` or `namespace`.
    pub kind: &'static str,
    /// The environment for the evidence: `rust:1.91@sha256:…`, or `host tools`.
    pub environment: String,
}

/// Starts boxes. Everything above the stream is the same for all of them.
#[async_trait]
pub trait SandboxBackend: Send + Sync + std::fmt::Debug {
    /// Starts a box whose PID 1 is [`GUEST`], with nothing of the host in it but what the specification names.
    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError>;
    /// Builds an image from a tar archive of its context and returns its id. The same context again is quick.
    ///
    /// # Errors
    /// E012 with the end of what the build said; E016 where there are no images.
    async fn build_image(&self, context: Bytes, dockerfile: &str, tag: &str) -> Result<String, Failure>;
    /// Whether boxes from this image (`None`: the default) could be lent a GPU at all.
    ///
    /// # Errors
    /// E017 with what is missing, so that nobody works for an hour before the first box with a GPU is refused.
    async fn could_show_gpus(&self, _image: Option<&str>) -> Result<(), Failure> {
        Ok(())
    }
    /// What boxes from this image (`None`: the default) start in, as far as it is known without asking anybody: part of the
    /// key under which bases are found.
    fn environment_key(&self, image: Option<&str>) -> String {
        image.unwrap_or_default().to_owned()
    }
    /// What boxes from this image start in now, for the evidence: `rust:1.91@sha256:…`.
    ///
    /// # Errors
    /// E012 when the image cannot be had.
    async fn environment(&self, image: Option<&str>) -> Result<String, Failure> {
        Ok(image.unwrap_or_default().to_owned())
    }
    /// Ends the box that was started for `spec` and keeps its files as the base `id`. Nothing may run in it any more.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] by a backend that keeps none.
    async fn keep(&self, _spec: &SandboxSpec, _id: &str) -> Result<KeptBase, SandboxError> {
        Err(SandboxError::Refused { operation: "keep a base", reason: "this kind of sandbox keeps none".into() })
    }
    /// Removes a base. Safe to repeat.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] while a box uses it.
    async fn remove_base(&self, _base: &KeptBase) -> Result<(), SandboxError> {
        Ok(())
    }
    /// Every base that is kept for this installation, known to its records or not.
    async fn bases(&self) -> Result<Vec<KeptBase>, SandboxError> {
        Ok(Vec::new())
    }
    /// What a box has written so far, in bytes, as seen from outside of it. `None`: it is gone, or nobody can say.
    async fn used_bytes(&self, _name: &str) -> Option<u64> {
        None
    }
    /// Ends a box and removes all of it. Safe to repeat; unknown names are fine.
    async fn stop(&self, name: &str) -> Result<(), SandboxError>;
    /// Removes every box of this installation that no living process works with, and of this process every one, unless
    /// `keep` wants it. Returns how many. `keep` is asked about no box of another living process.
    async fn sweep(&self, keep: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<usize, SandboxError>;
}

/// One command to run in a sandbox.
#[derive(Debug, Clone)]
pub struct Command {
    /// Program and arguments; found through the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment of the command, beyond the guest's defaults (`PATH`, `HOME`, `LANG`, `TERM`).
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
    /// What the command reads on standard input; `None`: nothing (`/dev/null`).
    pub stdin: Option<Vec<u8>>,
    /// Wall limit: TERM to the whole process group, a second later KILL.
    pub timeout: Duration,
}

impl Command {
    /// A command line for `sh -c` in the workspace.
    pub fn shell(line: &str, timeout: Duration) -> Self {
        Self {
            argv: vec!["/bin/sh".into(), "-c".into(), line.into()],
            env: BTreeMap::new(),
            cwd: WORKSPACE.into(),
            stdin: None,
            timeout,
        }
    }
}

/// A piece of a command's output, as it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output<'a> {
    /// Standard output.
    Stdout(&'a [u8]),
    /// Standard error.
    Stderr(&'a [u8]),
}

/// How a command ended: from `wait4` in PID 1, never from anything that the command wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It ran into [`Command::timeout`].
    pub timed_out: bool,
    /// Wall time.
    pub wall: Duration,
    /// CPU time, user and system.
    pub cpu: Duration,
    /// Largest resident set, in bytes.
    pub max_rss_bytes: u64,
    /// Limits of the sandbox that were hit meanwhile, as the kernel and the guest counted them.
    pub limits: Vec<LimitHit>,
}

impl Exit {
    /// Exit code 0, and not because it was stopped.
    pub fn success(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }
}

/// What commands used that have ended, in all boxes that count here.
#[derive(Debug, Default)]
pub struct BoxUsage {
    cpu_us: AtomicU64,
    memory_mib_ms: AtomicU64,
}

impl BoxUsage {
    fn add(&self, exit: &Exit) {
        let count = |counter: &AtomicU64, n: u128| {
            counter.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
        };
        count(&self.cpu_us, exit.cpu.as_micros());
        count(&self.memory_mib_ms, u128::from(exit.max_rss_bytes >> 20) * exit.wall.as_millis());
    }

    /// Time of CPUs, in milliseconds.
    pub fn cpu_ms(&self) -> u64 {
        self.cpu_us.load(Ordering::Relaxed) / 1000
    }

    /// The largest resident set of each command over the time that it ran, in MiB times seconds.
    pub fn memory_mib_s(&self) -> u64 {
        self.memory_mib_ms.load(Ordering::Relaxed) / 1000
    }
}

/// One file of a tree, by its path relative to the workspace: no leading slash, no `.` or `..`, `/` between parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    /// The path, as bytes: git does not promise UTF-8.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// Its content, or the target of a symbolic link.
    pub bytes: Vec<u8>,
}

/// The kinds of files that git can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// A file, mode 100644.
    Regular,
    /// A file with the executable bit of its owner, mode 100755.
    Executable,
    /// A symbolic link, mode 120000.
    Symlink,
}

/// What the guest saw to be different from the last [`Sandbox::mark`]. Candidates: the host compares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedPath {
    /// The path relative to the workspace.
    pub path: Vec<u8>,
    /// What is there now.
    pub now: Found,
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it was deleted.
    Nothing,
    /// A file or link that git can carry, with its size in bytes.
    File(FileKind, u64),
    /// Something that git cannot carry: a device, a FIFO, a socket.
    Special,
    /// A directory that holds a `.git` entry: a nested repository. Its contents are not listed.
    NestedRepository,
}

/// What a sandbox could not do.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Told by the backend: what happened, why, and what to do.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The stream ended or held what no guest of ours writes; the box is gone or not to be trusted.
    #[error("the sandbox was lost: {0}")]
    Lost(String),
    /// The guest could not start the program: not there, not executable.
    #[error("cannot run {program} in the sandbox: {reason}")]
    CannotRun {
        /// The program.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// The guest refused or could not do what was asked.
    #[error("the sandbox could not {operation}: {reason}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Why not.
        reason: String,
    },
    /// More came than was agreed: too many files, too many bytes.
    #[error("the sandbox sent more than {limit} {unit}")]
    TooMuch {
        /// The limit.
        limit: u64,
        /// Its unit.
        unit: &'static str,
    },
}
