//! What can be done with a running sandbox, whatever started it.

mod streams;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use guest::protocol::{self, ErrorKind, ToGuest, WINDOW, cost};
use tokio::time::timeout;

use self::streams::{deliver, pump};
use super::{
    BoxUsage, ChangedPath, Command, Exit, KeptBase, Limits, Output, SandboxBackend, SandboxError, SandboxSpec, Started,
    TreeFile,
    conversation::{Channel, Event, Purpose},
    link::Link,
    pool::Undertaker,
    translate::{MAX_OUTPUT_BYTES, exec, exit_of, found_of, is_inside, kind_of, pieces, to_guest},
    tunnel::Tunnels,
    update::Owed,
};

/// How long a guest may take to say hello.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request may stay without any progress.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a request may take in all, however steadily the answer trickles in.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// What a command may take beyond its own limit, which the guest keeps, until the guest is given up.
const COMMAND_SLACK: Duration = Duration::from_secs(10);
const WRITE: &str = "write files";
/// What a list of changes may take on the way: some hundred thousand paths.
const MAX_CHANGES_BYTES: u64 = 64 << 20;

/// A running sandbox. Dropping it removes the box off the path when it came from [`super::pool::Sandboxes`]; one that was
/// started by itself is then left to the sweep, unless [`Sandbox::stop`] is called.
pub struct Sandbox {
    backend: Arc<dyn SandboxBackend>,
    undertaker: Option<Undertaker>,
    name: String,
    kind: &'static str,
    environment: String,
    limits: Limits,
    /// Where it is counted what its commands use. A box that stood ready counts for whoever claims it.
    usage: Arc<BoxUsage>,
    link: Link,
    pub(super) is_marked: AtomicBool,
    pub(super) owed: Owed,
    stopped: bool,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox")
            .field("name", &self.name)
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Starts a box, greets its guest and checks the versions. What was started and does not greet is stopped again.
    pub async fn start(backend: Arc<dyn SandboxBackend>, spec: &SandboxSpec) -> Result<Self, SandboxError> {
        Self::start_greeted(backend, spec, None).await
    }

    /// As [`Sandbox::start`], with somebody who removes the box when it is dropped.
    pub(super) async fn start_owned(spec: &SandboxSpec, undertaker: &Undertaker) -> Result<Self, SandboxError> {
        Self::start_greeted(Arc::clone(undertaker.backend()), spec, Some(undertaker.clone())).await
    }

    async fn start_greeted(
        backend: Arc<dyn SandboxBackend>,
        spec: &SandboxSpec,
        undertaker: Option<Undertaker>,
    ) -> Result<Self, SandboxError> {
        let Started { stream, kind, environment } = backend.start(spec).await?;
        let sandbox = Self {
            link: Link::new(stream),
            limits: spec.limits.clone(),
            usage: spec.usage.clone(),
            backend,
            undertaker,
            name: spec.name.clone(),
            kind,
            environment,
            is_marked: AtomicBool::new(false),
            owed: Owed::default(),
            stopped: false,
        };
        match sandbox.greet().await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                if let Err(stop) = sandbox.stop().await {
                    tracing::debug!(error = %stop, "a sandbox without a guest could not be stopped");
                }
                Err(error)
            }
        }
    }

    /// From now on its commands count for another one.
    pub(super) fn counting_for(mut self, spec: &SandboxSpec) -> Self {
        self.usage = spec.usage.clone();
        self
    }

    async fn greet(&self) -> Result<(), SandboxError> {
        let channel = self.link.open(Purpose::Greeting, 0)?;
        let Limits { disk_bytes, pids, .. } = self.limits;
        channel.send(&ToGuest::Hello { version: protocol::VERSION, disk_bytes, pids });
        match self.answer(&channel, GREETING_TIMEOUT).await? {
            Event::Hello { version: protocol::VERSION } => Ok(()),
            Event::Hello { version } => {
                Err(self.lost(&format!("its guest speaks version {version}, not {}", protocol::VERSION)))
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// The environment for the evidence.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// `docker` or `namespace`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Runs a command to its end; `on_output` sees each piece as it arrives, up to 64 MiB in all (the rest is dropped,
    /// the command goes on). While `on_output` works, the command's own pipes fill up: nothing else waits for it.
    ///
    /// Dropping the future kills the command's process group.
    ///
    /// # Errors
    /// [`SandboxError::CannotRun`] when the program cannot be started; [`SandboxError::Lost`] when the sandbox is gone or
    /// the guest does not keep the command's limit.
    pub async fn run(
        &self,
        command: &Command,
        on_output: &mut (dyn for<'a> FnMut(Output<'a>) + Send),
    ) -> Result<Exit, SandboxError> {
        let exec = exec(command, !self.is_settled())?;
        let channel = self.link.open(Purpose::Command, u64::from(WINDOW))?;
        channel.send(&ToGuest::Exec(exec));
        self.settle().await?;
        let limit = command.timeout.saturating_add(COMMAND_SLACK);
        match timeout(limit, self.converse(&channel, command, on_output)).await {
            Ok(exit) => exit,
            Err(_) => Err(self.lost("its guest did not end a command at its limit")),
        }
    }

    async fn converse(
        &self,
        channel: &Channel,
        command: &Command,
        on_output: &mut (dyn for<'a> FnMut(Output<'a>) + Send),
    ) -> Result<Exit, SandboxError> {
        let mut stdin = command.stdin.as_deref();
        let mut owed = 0;
        let mut n_bytes = 0_u64;
        loop {
            let event = std::future::poll_fn(|cx| {
                pump(channel, &mut stdin, cx);
                channel.poll_event(cx)
            });
            let bytes = match event.await.ok_or_else(|| channel.lost())? {
                Event::Stdout(bytes) => deliver(&mut n_bytes, bytes, |bytes| on_output(Output::Stdout(bytes))),
                Event::Stderr(bytes) => deliver(&mut n_bytes, bytes, |bytes| on_output(Output::Stderr(bytes))),
                Event::Exit(exit) => {
                    if n_bytes > MAX_OUTPUT_BYTES {
                        tracing::warn!(n_bytes, kept_bytes = MAX_OUTPUT_BYTES, "a command wrote more than is kept");
                    }
                    let exit = exit_of(&exit, &self.limits, n_bytes);
                    self.usage.add(&exit);
                    return Ok(exit);
                }
                Event::Error(ErrorKind::CannotRun, reason) => {
                    let program = command.argv.first().cloned().unwrap_or_default();
                    return Err(SandboxError::CannotRun { program, reason });
                }
                other => return Err(self.refusal("run a command", 0, other)),
            };
            owed += cost(bytes);
            if owed >= WINDOW / 4 {
                channel.grant(std::mem::take(&mut owed));
            }
        }
    }

    /// Writes files into the workspace, parents made, existing ones replaced, symlinks never followed.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] when a path would leave the workspace or a directory with files is in its place; what
    /// was written before stays.
    pub async fn put(&self, files: Vec<TreeFile>) -> Result<(), SandboxError> {
        self.settle().await?;
        self.check_paths(&files)?;
        let channel = self.open_put()?;
        self.in_all(async {
            self.send_files(&channel, &files).await?;
            self.done(&channel, WRITE).await
        })
        .await
    }

    pub(super) fn check_paths(&self, files: &[TreeFile]) -> Result<(), SandboxError> {
        if files.iter().all(|file| (1..=protocol::MAX_PATH).contains(&file.path.len())) {
            return Ok(());
        }
        let reason = format!("a path is empty or longer than {} bytes", protocol::MAX_PATH);
        Err(SandboxError::Refused { operation: WRITE, reason })
    }

    pub(super) fn open_put(&self) -> Result<Channel, SandboxError> {
        let channel = self.link.open(Purpose::Put, 0)?;
        channel.send(&ToGuest::Put);
        Ok(channel)
    }

    /// Sends files as fast as the guest takes them. When it ends the put early, its answer says why.
    pub(super) async fn send_files(&self, channel: &Channel, files: &[TreeFile]) -> Result<(), SandboxError> {
        for file in files {
            if !timeout(SILENCE_TIMEOUT, self.put_file(channel, file)).await.map_err(|_| self.silent())? {
                break;
            }
        }
        channel.send(&ToGuest::Eof);
        Ok(())
    }

    /// False when the guest ended the put.
    async fn put_file(&self, channel: &Channel, file: &TreeFile) -> bool {
        let header = ToGuest::File { kind: to_guest(file.kind), path: file.path.clone() };
        if !std::future::poll_fn(|cx| channel.poll_credit_for(cx, 5 + file.path.len())).await {
            return false;
        }
        channel.send(&header);
        let mut rest = file.bytes.as_slice();
        while !rest.is_empty() {
            let n = std::future::poll_fn(|cx| channel.poll_credit(cx, rest.len())).await;
            if n == 0 {
                return false;
            }
            channel.send(&ToGuest::Data(&rest[..n]));
            rest = &rest[n..];
        }
        true
    }

    /// Deletes files of the workspace (empty parents too). Files that are not there are deleted already.
    pub async fn delete(&self, paths: Vec<Vec<u8>>) -> Result<(), SandboxError> {
        for paths in pieces(paths) {
            self.ask(&ToGuest::Delete { paths }, "delete files").await?;
        }
        Ok(())
    }

    /// Remembers how the workspace looks now.
    pub async fn mark(&self) -> Result<(), SandboxError> {
        self.ask(&ToGuest::Mark, "look at the workspace").await?;
        self.is_marked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the stream to the guest has ended.
    pub fn is_lost(&self) -> bool {
        self.link.is_lost()
    }

    /// Remembers how these paths look now, and leaves the rest of the last mark as it is: no work where nothing changed.
    pub async fn mark_paths(&self, paths: Vec<Vec<u8>>) -> Result<(), SandboxError> {
        for paths in pieces(paths) {
            self.ask(&ToGuest::MarkPaths { paths }, "look at files").await?;
        }
        Ok(())
    }

    /// Asks the guest whether it is there; it has `limit` to answer.
    ///
    /// # Errors
    /// [`SandboxError::Lost`] when it does not.
    pub async fn ping(&self, limit: Duration) -> Result<(), SandboxError> {
        let channel = self.link.open(Purpose::Ask, 0)?;
        channel.send(&ToGuest::Ping);
        match self.answer(&channel, limit).await? {
            Event::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What looks different from the last mark, sorted by path. Without a mark everything does.
    ///
    /// # Errors
    /// [`SandboxError::TooMuch`] when the list is longer than any change that a person would read.
    pub async fn changes(&self) -> Result<Vec<ChangedPath>, SandboxError> {
        const OPERATION: &str = "list the changes";
        self.settle().await?;
        let channel = self.link.open(Purpose::Changes, MAX_CHANGES_BYTES)?;
        channel.send(&ToGuest::Changes);
        let mut changes = Vec::new();
        let all = async {
            loop {
                match self.answer(&channel, SILENCE_TIMEOUT).await? {
                    Event::Changed(some) => {
                        changes.extend(some.into_iter().map(|(path, found)| ChangedPath { path, now: found_of(found) }))
                    }
                    Event::Done => return Ok(()),
                    other => return Err(self.refusal(OPERATION, MAX_CHANGES_BYTES, other)),
                }
            }
        };
        self.in_all(all).await?;
        if let Some(change) = changes.iter().find(|change| !is_inside(&change.path)) {
            return Err(self.lost(&format!("its guest named a path outside: {}", change.path.escape_ascii())));
        }
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        changes.dedup_by(|a, b| a.path == b.path);
        Ok(changes)
    }

    /// Reads files of the workspace without following links, in the order asked; at most `max_bytes` together.
    ///
    /// # Errors
    /// [`SandboxError::TooMuch`] beyond `max_bytes`; [`SandboxError::Refused`] for what is not there or is no file.
    pub async fn get(&self, paths: Vec<Vec<u8>>, max_bytes: u64) -> Result<Vec<TreeFile>, SandboxError> {
        self.settle().await?;
        let mut files = Vec::new();
        let mut left = max_bytes;
        for paths in pieces(paths) {
            let some = self.in_all(self.get_some(paths, left)).await.map_err(|error| match error {
                SandboxError::TooMuch { unit, .. } => SandboxError::TooMuch { limit: max_bytes, unit },
                other => other,
            })?;
            left -= some.iter().map(|file| file.bytes.len() as u64).sum::<u64>();
            files.extend(some);
        }
        Ok(files)
    }

    async fn get_some(&self, paths: Vec<Vec<u8>>, max_bytes: u64) -> Result<Vec<TreeFile>, SandboxError> {
        let headers: u64 = paths.iter().map(|path| u64::from(cost(5 + path.len()) + cost(0))).sum();
        let frames = max_bytes.div_ceil(protocol::MAX_PAYLOAD as u64) * u64::from(cost(0));
        let channel = self.link.open(Purpose::Get, max_bytes.saturating_add(headers).saturating_add(frames))?;
        channel.send(&ToGuest::Get { max_bytes, paths: paths.clone() });
        let mut files: Vec<TreeFile> = Vec::new();
        let mut left = max_bytes;
        loop {
            match self.answer(&channel, SILENCE_TIMEOUT).await? {
                // The names are ours: the guest only tells when the next file begins.
                Event::File(kind, path) if paths.get(files.len()) == Some(&path) => {
                    files.push(TreeFile { path, kind: kind_of(kind), bytes: Vec::new() });
                }
                Event::Data(bytes) if !files.is_empty() => {
                    let too_much = SandboxError::TooMuch { limit: max_bytes, unit: "bytes" };
                    left = left.checked_sub(bytes.len() as u64).ok_or(too_much)?;
                    files.last_mut().expect("not empty").bytes.extend_from_slice(&bytes);
                }
                Event::Done if files.len() == paths.len() => return Ok(files),
                other => return Err(self.refusal("read files", max_bytes, other)),
            }
        }
    }

    /// Listens on 127.0.0.1:`port` inside; each connection there becomes a [`super::Tunnel`] here.
    pub async fn listen(&self, port: u16) -> Result<Tunnels, SandboxError> {
        let channel = self.link.open(Purpose::Listener, 0)?;
        channel.send(&ToGuest::Listen { port });
        self.done(&channel, "listen on a port").await?;
        Ok(Tunnels::new(channel))
    }

    /// Kills every process in the box but the guest, daemons too.
    pub async fn kill_all(&self) -> Result<(), SandboxError> {
        self.ask(&ToGuest::KillAll, "kill everything").await
    }

    /// Ends the box and removes all of it.
    pub async fn stop(mut self) -> Result<(), SandboxError> {
        self.backend.stop(&self.name).await?;
        self.over();
        Ok(())
    }

    /// Ends the box that was started for `spec` and keeps its files as a base. Nothing may run in it any more.
    ///
    /// # Errors
    /// What the backend says; the box is gone then too.
    pub async fn keep(mut self, spec: &SandboxSpec, id: &str) -> Result<KeptBase, SandboxError> {
        let kept = self.backend.keep(spec, id).await?;
        self.over();
        Ok(kept)
    }

    /// Nothing of the box is left.
    fn over(&mut self) {
        self.stopped = true;
        if let Some(undertaker) = &self.undertaker {
            undertaker.forget(&self.name);
        }
    }

    // --- answers ---

    async fn ask(&self, message: &ToGuest<'_>, operation: &'static str) -> Result<(), SandboxError> {
        self.settle().await?;
        let channel = self.ask_only(message)?;
        self.done(&channel, operation).await
    }

    /// Asks, and leaves it to the caller to wait for the answer.
    pub(super) fn ask_only(&self, message: &ToGuest<'_>) -> Result<Channel, SandboxError> {
        let channel = self.link.open(Purpose::Ask, 0)?;
        channel.send(message);
        Ok(channel)
    }

    pub(super) async fn done(&self, channel: &Channel, operation: &'static str) -> Result<(), SandboxError> {
        match self.answer(channel, SILENCE_TIMEOUT).await? {
            Event::Done => Ok(()),
            other => Err(self.refusal(operation, 0, other)),
        }
    }

    /// Bounds a request as a whole: a guest that answers in crumbs is not silent.
    async fn in_all<T>(&self, request: impl Future<Output = Result<T, SandboxError>>) -> Result<T, SandboxError> {
        timeout(WHOLE_TIMEOUT, request).await.unwrap_or_else(|_| Err(self.lost("its guest did not come to an end")))
    }

    async fn answer(&self, channel: &Channel, limit: Duration) -> Result<Event, SandboxError> {
        timeout(limit, channel.event()).await.map_err(|_| self.silent())?
    }

    /// The error that an event means for what was asked.
    fn refusal(&self, operation: &'static str, limit: u64, event: Event) -> SandboxError {
        match event {
            Event::Error(ErrorKind::TooMuch, _) | Event::Overflow => SandboxError::TooMuch { limit, unit: "bytes" },
            Event::Error(ErrorKind::CannotRun | ErrorKind::Refused, reason) => {
                SandboxError::Refused { operation, reason }
            }
            other => self.unexpected(&other),
        }
    }

    fn unexpected(&self, event: &Event) -> SandboxError {
        tracing::debug!(?event, "an answer out of order");
        self.lost("its guest answered out of order")
    }

    fn silent(&self) -> SandboxError {
        self.lost("its guest did not answer in time")
    }

    /// Gives the sandbox up.
    fn lost(&self, reason: &str) -> SandboxError {
        self.link.lose(reason);
        SandboxError::Lost(reason.to_owned())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        match &self.undertaker {
            Some(undertaker) => undertaker.bury(&self.name),
            None => tracing::debug!(
                sandbox.name = self.name,
                "a sandbox was dropped without being stopped; the sweep removes it"
            ),
        }
    }
}
