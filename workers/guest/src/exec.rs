//! One command: its pipes, its clock and its process group, from start to exit.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use guest::protocol::{Exec, Exit, Hits, MAX_PAYLOAD, ToGuest, ToWorker};

use crate::{
    flow::{Allowance, Got, Inbox, Outward},
    gauges::Reading,
    sys::{self, Ended},
};

/// Between TERM and KILL at the wall limit.
const GRACE: Duration = Duration::from_secs(1);
/// How long the outputs stay open after the command's own process ended, for a child that still holds them.
const LINGER: Duration = Duration::from_millis(200);
/// What is read after that end at most: more than any pipe holds, so nothing of the command itself is lost.
const LINGER_BYTES: usize = 2 << 20;

/// The highest score that a process can have for being killed when memory is short.
const FIRST_TO_GO: &str = "1000";

/// The environment under that of each command.
pub(crate) type Environment = BTreeMap<OsString, OsString>;

/// The defaults, under them (if asked for) what the image sets for every program in it. What would change how programs
/// are loaded is left out, and so is what is meant for the engine that lends devices.
pub(crate) fn default_environment(inherit: bool) -> Environment {
    let set = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
    let mut environment = Environment::from([
        set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        set("LANG", "C.UTF-8"),
    ]);
    if inherit {
        let left_out = |name: &OsStr| {
            let starts = |with: &[u8]| name.as_bytes().starts_with(with);
            starts(b"LD_") || starts(b"NVIDIA_") || name == "HOSTNAME"
        };
        environment.extend(std::env::vars_os().filter(|(name, _)| !left_out(name)));
    }
    environment.extend([set("HOME", "/home/onramp"), set("TERM", "dumb")]);
    environment
}

/// A command whose turn has not come, and what was said to it already. The worker's credit bounds its input.
pub(crate) struct Waiting {
    pub(crate) exec: Exec,
    pub(crate) stdin: Vec<Vec<u8>>,
    /// No more input will come.
    pub(crate) is_over: bool,
    /// Nobody wants it any more.
    pub(crate) is_stopped: bool,
}

impl Waiting {
    pub(crate) fn new(exec: Exec) -> Self {
        Self { exec, stdin: Vec::new(), is_over: false, is_stopped: false }
    }

    pub(crate) fn hear(&mut self, message: &ToGuest<'_>) {
        match message {
            ToGuest::Data(bytes) => self.stdin.push(bytes.to_vec()),
            ToGuest::Eof => self.is_over = true,
            ToGuest::Signal(_) => self.is_stopped = true,
            _ => {}
        }
    }
}

/// The descriptors of a command that the guest watches.
#[derive(Clone, Copy)]
pub(crate) enum Pipe {
    Stdin,
    Stdout,
    Stderr,
}

/// A command that was started and whose exit was not told yet.
pub(crate) struct Running {
    channel: u32,
    /// Its process, which leads a session and a group of the same number.
    group: i32,
    started: Instant,
    deadline: Option<Instant>,
    timed_out: bool,
    /// When the group is killed: set at the wall limit.
    kill_at: Option<Instant>,
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    inbox: Inbox,
    allowance: Allowance,
    ended: Option<(Ended, Instant)>,
    /// The counters when it started, then how much they grew until it ended.
    before: Reading,
    hits: Hits,
    throttled_us: u64,
    read_since_end: usize,
}

impl Running {
    /// Starts the command. The error is a reason for a person.
    pub(crate) fn start(channel: u32, exec: &Exec, defaults: &Environment, before: Reading) -> Result<Self, String> {
        let program = exec.argv.first().filter(|program| !program.is_empty()).ok_or("there is no program to run")?;
        let cwd = Path::new(OsStr::from_bytes(&exec.cwd));
        if !cwd.is_dir() {
            return Err(format!("the working directory {} is not there", cwd.display()));
        }
        let mut command = Command::new(OsStr::from_bytes(program));
        command.args(exec.argv[1..].iter().map(|argument| OsStr::from_bytes(argument))).current_dir(cwd);
        command.env_clear().envs(defaults);
        command.envs(exec.env.iter().map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))));
        command.stdin(if exec.stdin { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        sys::start_in_own_session(&mut command);

        let started = Instant::now();
        let mut child = command.spawn().map_err(|error| why_not(Path::new(OsStr::from_bytes(program)), &error))?;
        // When memory is short, the kernel shall look at commands before it looks at this process.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), FIRST_TO_GO);
        let pipe = |fd: Option<OwnedFd>| -> Result<Option<File>, String> {
            let Some(fd) = fd else { return Ok(None) };
            sys::set_blocking(fd.as_raw_fd(), false).map_err(|error| error.to_string())?;
            Ok(Some(File::from(fd)))
        };
        Ok(Self {
            channel,
            group: child.id() as i32,
            started,
            deadline: started.checked_add(Duration::from_millis(exec.timeout_ms)),
            timed_out: false,
            kill_at: None,
            stdin: pipe(child.stdin.take().map(OwnedFd::from))?,
            stdout: pipe(child.stdout.take().map(OwnedFd::from))?,
            stderr: pipe(child.stderr.take().map(OwnedFd::from))?,
            inbox: Inbox::default(),
            allowance: Allowance::new(),
            ended: None,
            before,
            hits: Hits::default(),
            throttled_us: 0,
            read_since_end: 0,
        })
    }

    pub(crate) fn is_process(&self, pid: i32) -> bool {
        self.ended.is_none() && self.group == pid
    }

    /// Its process was reaped, when the counters stood like this.
    pub(crate) fn process_ended(&mut self, ended: Ended, now: Instant, reading: Reading) {
        self.ended = Some((ended, now));
        self.hits.memory = reading.killed > self.before.killed;
        self.hits.pids = reading.refused > self.before.refused;
        // Shells tell of a signal that ended the last program by a code.
        self.hits.disk |= ended.signal == Some(sys::SIGXFSZ) || ended.code == Some(128 + sys::SIGXFSZ);
        self.throttled_us = reading.throttled_us.saturating_sub(self.before.throttled_us);
    }

    /// It will be killed with everything else because too much was written.
    pub(crate) fn wrote_too_much(&mut self) {
        self.hits.disk |= self.ended.is_none();
    }

    /// A signal that the worker wants its whole group to get. Numbers that do not exist do nothing.
    pub(crate) fn signal(&self, signal: i32) {
        sys::signal_group(self.group, signal);
    }

    // --- flow ---

    pub(crate) fn push_stdin(&mut self, bytes: &[u8], outward: &Outward) {
        self.inbox.push(bytes);
        self.write_stdin(outward);
    }

    pub(crate) fn end_stdin(&mut self, outward: &Outward) {
        self.inbox.end();
        self.write_stdin(outward);
    }

    pub(crate) fn add_credit(&mut self, bytes: u32) {
        self.allowance.add(bytes);
    }

    fn write_stdin(&mut self, outward: &Outward) {
        let closed = match &mut self.stdin {
            Some(pipe) => self.inbox.write_to(pipe).is_err() || self.inbox.is_finished(),
            None => true,
        };
        if closed {
            self.stdin = None;
            self.inbox.discard();
        }
        if let Some(bytes) = self.inbox.take_owed() {
            outward.send(self.channel, &ToWorker::Credit(bytes));
        }
    }

    /// What to wait for: the pipe, its descriptor, and whether to read or to write.
    pub(crate) fn interests(&self) -> impl Iterator<Item = (Pipe, RawFd, bool)> {
        let stdin = self.stdin.as_ref().filter(|_| self.inbox.is_waiting());
        let open = self.allowance.is_open();
        let stdout = self.stdout.as_ref().filter(|_| open);
        let stderr = self.stderr.as_ref().filter(|_| open);
        [(Pipe::Stdin, stdin, false), (Pipe::Stdout, stdout, true), (Pipe::Stderr, stderr, true)]
            .into_iter()
            .filter_map(|(pipe, file, read)| file.map(|file| (pipe, file.as_raw_fd(), read)))
    }

    /// One of [`Self::interests`] is ready.
    pub(crate) fn ready(&mut self, pipe: Pipe, outward: &Outward, buffer: &mut [u8; MAX_PAYLOAD]) {
        match pipe {
            Pipe::Stdin => self.write_stdin(outward),
            Pipe::Stdout | Pipe::Stderr => {
                self.read_output(pipe, outward, buffer);
            }
        }
    }

    /// Reads once. False when nothing came.
    fn read_output(&mut self, pipe: Pipe, outward: &Outward, buffer: &mut [u8; MAX_PAYLOAD]) -> bool {
        let file = match pipe {
            Pipe::Stdin => return false,
            Pipe::Stdout => &mut self.stdout,
            Pipe::Stderr => &mut self.stderr,
        };
        let Some(source) = file.as_mut().filter(|_| self.allowance.is_open()) else { return false };
        match self.allowance.read(source, buffer) {
            Got::Bytes(bytes) => {
                self.read_since_end += if self.ended.is_some() { bytes.len() } else { 0 };
                let message =
                    if matches!(pipe, Pipe::Stdout) { ToWorker::Stdout(bytes) } else { ToWorker::Stderr(bytes) };
                outward.send(self.channel, &message);
                true
            }
            Got::NothingYet => false,
            Got::End | Got::Broken => {
                *file = None;
                false
            }
        }
    }

    // --- time ---

    /// When [`Self::tick`] has something to do.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let limit = self.deadline.filter(|_| self.ended.is_none() && !self.timed_out);
        let lingering = self.stdout.is_some() || self.stderr.is_some();
        let linger = self.ended.filter(|_| lingering && self.allowance.is_open()).map(|(_, at)| at + LINGER);
        [limit, self.kill_at, linger].into_iter().flatten().min()
    }

    /// Acts on the clock, and returns the exit once the command is over in every respect.
    pub(crate) fn tick(&mut self, now: Instant, outward: &Outward, buffer: &mut [u8; MAX_PAYLOAD]) -> Option<Exit> {
        if self.ended.is_none() && !self.timed_out && self.deadline.is_some_and(|deadline| deadline <= now) {
            self.timed_out = true;
            self.kill_at = Some(now + GRACE);
            self.signal(sys::SIGTERM);
        }
        if self.kill_at.is_some_and(|kill_at| kill_at <= now) {
            self.kill_at = None;
            self.signal(sys::SIGKILL);
        }
        let (ended, at) = self.ended?;
        // The others of its group have their grace too; nobody is left in it when even signal 0 reaches no one.
        if self.kill_at.is_some() && sys::signal_group(self.group, 0) {
            return None;
        }
        if at + LINGER <= now && self.allowance.is_open() {
            self.close_outputs(outward, buffer);
        }
        if self.stdout.is_some() || self.stderr.is_some() {
            return None;
        }
        Some(Exit {
            code: ended.code,
            signal: ended.signal,
            timed_out: self.timed_out,
            wall_us: at.duration_since(self.started).as_micros() as u64,
            cpu_us: ended.cpu_us,
            max_rss_bytes: ended.max_rss_bytes,
            hits: self.hits,
            throttled_us: self.throttled_us,
        })
    }

    /// Gives up on a child that outlives the command and holds its outputs, after what the pipes hold is read.
    fn close_outputs(&mut self, outward: &Outward, buffer: &mut [u8; MAX_PAYLOAD]) {
        let may_read = self.read_since_end < LINGER_BYTES;
        if !(may_read && self.read_output(Pipe::Stdout, outward, buffer)) && self.allowance.is_open() {
            self.stdout = None;
        }
        if !(may_read && self.read_output(Pipe::Stderr, outward, buffer)) && self.allowance.is_open() {
            self.stderr = None;
        }
    }
}

/// Why a program did not start.
fn why_not(program: &Path, error: &io::Error) -> String {
    let is_path = program.as_os_str().as_bytes().contains(&b'/');
    match error.raw_os_error() {
        Some(sys::ENOENT) if is_path && program.exists() => {
            "the interpreter or loader that it names is not there".into()
        }
        Some(sys::ENOENT) if is_path => "there is no such file (ENOENT)".into(),
        Some(sys::ENOENT) => "there is no such program in PATH (ENOENT)".into(),
        Some(sys::EACCES) => "it is not executable (EACCES)".into(),
        _ => error.to_string(),
    }
}
