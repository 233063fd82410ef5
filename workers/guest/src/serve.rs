//! The guest proper: one loop that waits for frames, pipes, sockets, children and the clock, and never for anything else.
//!
//! A single thread does all of it (files excepted, see [`crate::files`]), so that a sandbox at its limit of processes or
//! memory can still be commanded and ended.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    net::{Ipv4Addr, TcpListener},
    os::fd::AsRawFd,
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use guest::protocol::{
    ErrorKind, Exec, Frame, GUEST_CHANNELS, HEADER_BYTES, MAX_PAYLOAD, MAX_REQUEST, Malformed, ToGuest, ToWorker,
    VERSION,
};

use crate::{
    disk::Watch,
    exec::{self, Environment, Pipe, Running, Waiting},
    files::{self, Ask, Turns},
    flow::Outward,
    gauges::{Gauges, Reading},
    sys::{self, PollEntry},
    tunnel::Tunnel,
};

/// Where the repository lies.
const WORKSPACE: &str = "/workspace";
/// Where else is written.
const HOME: &str = "/home/onramp";
/// Connections that are open at once; more wait in the listener's backlog.
const MAX_TUNNELS: usize = 128;
/// While everything is being killed, what was born meanwhile is killed at this pace.
const KILL_INTERVAL: Duration = Duration::from_millis(10);
/// What lives longer than this after KILL will not die.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What kind of sandbox this is the inside of.
pub(crate) struct Inside {
    /// Its counters.
    pub(crate) gauges: Gauges,
    /// Commands get the environment that the guest was started with.
    pub(crate) inherits: bool,
    /// Programs may be able to write beyond the workspace and the home directory.
    pub(crate) writes_anywhere: bool,
}

/// Serves the frames on standard input until it ends, then ends everything inside.
pub(crate) fn serve(inside: Inside) -> ! {
    sys::harden();
    sys::raise_loopback();
    if let Err(error) = Guest::new(inside).and_then(|mut guest| guest.serve()) {
        eprintln!("the guest stopped: {error}");
    }
    end()
}

/// Ends the sandbox.
pub(crate) fn end() -> ! {
    sys::kill_everybody();
    std::process::exit(0)
}

/// What a descriptor that is ready belongs to.
enum Source {
    Worker,
    Turns,
    Children,
    Command(u32, Pipe),
    Tunnel(u32),
    Listener(u32),
    Alarm,
}

struct Guest {
    inward: File,
    outward: Outward,
    children: File,
    files: Sender<(u32, Ask)>,
    turns: Turns,
    environment: Environment,
    gauges: Gauges,
    writes_anywhere: bool,
    /// Watches what is written, once the worker has told the limit.
    watch: Option<Watch>,
    /// Nothing runs inside but this process.
    is_alone: bool,
    /// How often the sandbox was found full of processes when one of them ended.
    n_crowded: u64,
    /// Bytes from the worker that are not a whole frame yet.
    pending: Vec<u8>,
    parts: HashMap<u32, Vec<u8>>,
    commands: HashMap<u32, Running>,
    /// Commands that start when their turn comes.
    waiting: HashMap<u32, Waiting>,
    puts: HashSet<u32>,
    listeners: HashMap<u32, TcpListener>,
    tunnels: HashMap<u32, Tunnel>,
    n_tunnels: u32,
    /// Who asked for everything to be killed (nobody: the guest did by itself), and until when it may take.
    killing: Vec<(Option<u32>, Instant)>,
    buffer: Box<[u8; MAX_PAYLOAD]>,
}

impl Guest {
    fn new(inside: Inside) -> io::Result<Self> {
        let (inward, outward) = sys::standard_streams()?;
        let outward = Outward::new(outward);
        let children = sys::child_signals()?;
        let (files, turns) = files::start(WORKSPACE, outward.clone())?;
        Ok(Self {
            inward,
            outward,
            children,
            files,
            turns,
            environment: exec::default_environment(inside.inherits),
            gauges: inside.gauges,
            writes_anywhere: inside.writes_anywhere,
            watch: None,
            is_alone: true,
            n_crowded: 0,
            pending: Vec::new(),
            parts: HashMap::new(),
            commands: HashMap::new(),
            waiting: HashMap::new(),
            puts: HashSet::new(),
            listeners: HashMap::new(),
            tunnels: HashMap::new(),
            n_tunnels: 0,
            killing: Vec::new(),
            buffer: Box::new([0; MAX_PAYLOAD]),
        })
    }

    /// Until the worker's end of the stream is closed.
    fn serve(&mut self) -> Result<(), io::Error> {
        loop {
            let (sources, mut entries) = self.sources();
            sys::wait_ready(&mut entries, self.until_next_tick())?;
            for (source, _) in sources.iter().zip(&entries).filter(|(_, entry)| entry.is_ready()) {
                match source {
                    Source::Worker => {
                        if !self.read_frames()? {
                            return Ok(());
                        }
                    }
                    Source::Turns => self.start_waiting(),
                    Source::Children => while self.children.read(&mut self.buffer[..]).is_ok_and(|n| n > 0) {},
                    Source::Command(channel, pipe) => {
                        if let Some(command) = self.commands.get_mut(channel) {
                            command.ready(*pipe, &self.outward, &mut self.buffer);
                        }
                    }
                    Source::Tunnel(channel) => {
                        if let Some(tunnel) = self.tunnels.get_mut(channel) {
                            tunnel.ready(&self.outward, &mut self.buffer);
                        }
                    }
                    Source::Listener(channel) => self.accept(*channel),
                    Source::Alarm => self.too_much_written(),
                }
            }
            self.reap();
            if let Some(watch) = &mut self.watch {
                watch.set_awake(!self.is_alone);
            }
            self.tick();
        }
    }

    fn sources(&self) -> (Vec<Source>, Vec<PollEntry>) {
        let mut sources = vec![Source::Worker, Source::Turns, Source::Children];
        let mut entries = vec![
            PollEntry::new(self.inward.as_raw_fd(), true, false),
            PollEntry::new(self.turns.0.as_raw_fd(), true, false),
            PollEntry::new(self.children.as_raw_fd(), true, false),
        ];
        if let Some(watch) = &self.watch {
            sources.push(Source::Alarm);
            entries.push(PollEntry::new(watch.alarm.as_raw_fd(), true, false));
        }
        for (channel, command) in &self.commands {
            for (pipe, fd, read) in command.interests() {
                sources.push(Source::Command(*channel, pipe));
                entries.push(PollEntry::new(fd, read, !read));
            }
        }
        for (channel, tunnel) in &self.tunnels {
            if let Some((fd, read, write)) = tunnel.interest() {
                sources.push(Source::Tunnel(*channel));
                entries.push(PollEntry::new(fd, read, write));
            }
        }
        if self.tunnels.len() < MAX_TUNNELS {
            for (channel, listener) in &self.listeners {
                sources.push(Source::Listener(*channel));
                entries.push(PollEntry::new(listener.as_raw_fd(), true, false));
            }
        }
        (sources, entries)
    }

    // --- the worker ---

    /// Reads once and acts on the frames that are whole. False at the end of the stream.
    fn read_frames(&mut self) -> io::Result<bool> {
        let n = match self.inward.read(&mut self.buffer[..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            read => read?,
        };
        self.pending.extend_from_slice(&self.buffer[..n]);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while let Some((frame, length)) = Frame::split(rest).map_err(io::Error::other)? {
            self.take_frame(frame).map_err(io::Error::other)?;
            rest = &rest[length..];
        }
        self.pending = rest.to_vec();
        debug_assert!(self.pending.len() < HEADER_BYTES + MAX_PAYLOAD, "a whole frame was taken");
        Ok(n > 0)
    }

    fn take_frame(&mut self, frame: Frame<'_>) -> Result<(), Malformed> {
        let Frame { kind, channel, payload } = frame;
        let joined = self.parts.remove(&channel).map(|mut parts| {
            parts.extend_from_slice(payload);
            parts
        });
        match ToGuest::decode(kind, payload) {
            Ok(ToGuest::Part(_)) if joined.as_ref().is_some_and(|joined| joined.len() > MAX_REQUEST) => {
                Err(Malformed("a request that is too long"))
            }
            Ok(ToGuest::Part(part)) => {
                self.parts.insert(channel, joined.unwrap_or_else(|| part.to_vec()));
                Ok(())
            }
            first => {
                let message = match &joined {
                    Some(whole) => ToGuest::decode(kind, whole)?,
                    None => first?,
                };
                self.take(channel, message);
                Ok(())
            }
        }
    }

    /// Acts on a message. What is for a channel that is over was on the way when it ended, and means nothing any more.
    fn take(&mut self, channel: u32, message: ToGuest<'_>) {
        match message {
            ToGuest::Hello { disk_bytes, pids, .. } => {
                self.watch_disk(disk_bytes, pids);
                self.outward.send(channel, &ToWorker::Hello { version: VERSION, pid: std::process::id() });
            }
            ToGuest::Exec(exec) if exec.after_files => {
                self.waiting.insert(channel, Waiting::new(exec));
                self.ask_files(channel, Ask::Turn);
            }
            ToGuest::Exec(exec) => self.exec(channel, &exec),
            ToGuest::Data(_) | ToGuest::Eof | ToGuest::Credit(_) | ToGuest::Signal(_) | ToGuest::Reset => {
                self.continue_channel(channel, message);
            }
            ToGuest::KillAll => self.kill_all(channel),
            ToGuest::Listen { port } => self.listen(channel, port),
            ToGuest::Ping => self.outward.send(channel, &ToWorker::Done { value: 0 }),
            ToGuest::Shutdown => end(),
            ToGuest::Put => {
                self.puts.insert(channel);
                self.ask_files(channel, Ask::Put);
            }
            ToGuest::File { kind, path } => self.ask_files(channel, Ask::File { kind, path }),
            ToGuest::Delete { paths } => self.ask_files(channel, Ask::Delete { paths }),
            ToGuest::Mark => self.ask_files(channel, Ask::Mark),
            ToGuest::MarkPaths { paths } => self.ask_files(channel, Ask::MarkPaths { paths }),
            ToGuest::Changes => self.ask_files(channel, Ask::Changes),
            ToGuest::Get { max_bytes, paths } => self.ask_files(channel, Ask::Get { max_bytes, paths }),
            ToGuest::Part(_) => {}
        }
    }

    /// What goes on in a conversation means what its beginning made of it.
    fn continue_channel(&mut self, channel: u32, message: ToGuest<'_>) {
        if let Some(waiting) = self.waiting.get_mut(&channel) {
            waiting.hear(&message);
        } else if let Some(command) = self.commands.get_mut(&channel) {
            match message {
                ToGuest::Data(bytes) => command.push_stdin(bytes, &self.outward),
                ToGuest::Eof => command.end_stdin(&self.outward),
                ToGuest::Credit(bytes) => command.add_credit(bytes),
                ToGuest::Signal(signal) => command.signal(signal),
                _ => {}
            }
        } else if let Some(tunnel) = self.tunnels.get_mut(&channel) {
            match message {
                ToGuest::Data(bytes) => tunnel.push(bytes, &self.outward),
                ToGuest::Eof => tunnel.end(&self.outward),
                ToGuest::Credit(bytes) => tunnel.add_credit(bytes),
                ToGuest::Reset => tunnel.close(&self.outward),
                _ => {}
            }
        } else if self.puts.contains(&channel) {
            match message {
                ToGuest::Data(bytes) => self.ask_files(channel, Ask::Data(bytes.to_vec())),
                ToGuest::Eof | ToGuest::Reset => {
                    self.puts.remove(&channel);
                    let ask = if matches!(message, ToGuest::Eof) { Ask::End } else { Ask::Abandon };
                    self.ask_files(channel, ask);
                }
                _ => {}
            }
        }
    }

    fn ask_files(&self, channel: u32, ask: Ask) {
        if self.files.send((channel, ask)).is_err() {
            end();
        }
    }

    fn refuse(&self, channel: u32, kind: ErrorKind, reason: String) {
        self.outward.send(channel, &ToWorker::Error { kind, reason });
    }

    // --- commands ---

    fn exec(&mut self, channel: u32, exec: &Exec) {
        let before = self.reading();
        match Running::start(channel, exec, &self.environment, before) {
            Ok(mut running) => {
                self.is_alone = false;
                // It will not outlive what goes on.
                if self.is_clearing() {
                    running.wrote_too_much();
                }
                self.commands.insert(channel, running);
            }
            Err(reason) => self.refuse(channel, ErrorKind::CannotRun, reason),
        }
    }

    /// Starts the commands whose turn has come, and catches up with what was said to them meanwhile.
    fn start_waiting(&mut self) {
        for channel in self.turns.take() {
            let Some(Waiting { exec, stdin, is_over, is_stopped }) = self.waiting.remove(&channel) else { continue };
            if is_stopped {
                self.refuse(channel, ErrorKind::CannotRun, "it was stopped before it started".into());
                continue;
            }
            self.exec(channel, &exec);
            stdin.iter().for_each(|bytes| self.continue_channel(channel, ToGuest::Data(bytes)));
            if is_over {
                self.continue_channel(channel, ToGuest::Eof);
            }
        }
    }

    /// Takes in every child that ended: commands, and the orphans that fell to PID 1.
    fn reap(&mut self) {
        loop {
            match sys::reap() {
                Ok(Some(ended)) => {
                    let (now, reading) = (Instant::now(), self.reading());
                    if let Some(command) = self.commands.values_mut().find(|command| command.is_process(ended.pid)) {
                        command.process_ended(ended, now, reading);
                    }
                }
                Ok(None) => return,
                Err(error) if error.raw_os_error() == Some(sys::ECHILD) => {
                    self.is_alone = true;
                    for channel in self.killing.drain(..).filter_map(|(channel, _)| channel) {
                        self.outward.send(channel, &ToWorker::Done { value: 0 });
                    }
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn kill_all(&mut self, channel: u32) {
        if sys::kill_everybody() {
            self.killing.push((Some(channel), Instant::now() + KILL_LIMIT));
        } else {
            self.refuse(channel, ErrorKind::Refused, "the guest is not PID 1, so it must not kill everybody".into());
        }
    }

    // --- limits ---

    /// The counters now. Where the kernel does not count what it refused to start, full is taken for refused.
    fn reading(&mut self) -> Reading {
        let mut reading = self.gauges.read();
        if let Some(watch) = self.watch.as_ref().filter(|_| !self.gauges.counts_pids()) {
            self.n_crowded += u64::from(watch.is_crowded_now());
            reading.refused = self.n_crowded + watch.n_crowded();
        }
        reading
    }

    fn watch_disk(&mut self, disk_bytes: u64, pids: u64) {
        if self.watch.is_none() && std::process::id() == 1 {
            let crowd = if self.gauges.counts_pids() { u64::MAX } else { pids };
            match Watch::start(&[WORKSPACE, HOME], self.writes_anywhere, disk_bytes, crowd) {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => {
                    eprintln!("what is written cannot be watched: {error}");
                    end();
                }
            }
        }
    }

    /// Everything is being killed because too much was written.
    fn is_clearing(&self) -> bool {
        self.killing.iter().any(|(channel, _)| channel.is_none())
    }

    /// Ends everything inside, so that the commands are known to have ended by this.
    fn too_much_written(&mut self) {
        self.commands.values_mut().for_each(Running::wrote_too_much);
        if sys::kill_everybody() {
            self.killing.push((None, Instant::now() + KILL_LIMIT));
        }
        if let Some(watch) = &mut self.watch {
            watch.start_over();
        }
    }

    // --- tunnels ---

    fn listen(&mut self, channel: u32, port: u16) {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?.port(), listener))
        });
        match bound {
            Ok((port, listener)) => {
                self.listeners.insert(channel, listener);
                self.outward.send(channel, &ToWorker::Done { value: u32::from(port) });
            }
            Err(error) => self.refuse(channel, ErrorKind::Refused, format!("port {port} of 127.0.0.1: {error}")),
        }
    }

    fn accept(&mut self, listener: u32) {
        let Some(Ok((stream, _))) = self.listeners.get(&listener).map(TcpListener::accept) else { return };
        let channel = GUEST_CHANNELS + self.n_tunnels;
        let Ok(tunnel) = Tunnel::new(channel, stream) else { return };
        self.n_tunnels = (self.n_tunnels + 1) % GUEST_CHANNELS;
        self.tunnels.insert(channel, tunnel);
        self.outward.send(channel, &ToWorker::Accepted { listener });
    }

    // --- the clock ---

    fn until_next_tick(&self) -> Option<Duration> {
        let commands = self.commands.values().filter_map(Running::next_tick).min();
        let until = commands.map(|at| at.saturating_duration_since(Instant::now()));
        if self.killing.is_empty() { until } else { Some(until.unwrap_or(KILL_INTERVAL).min(KILL_INTERVAL)) }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let mut exits = Vec::new();
        // Told only when nothing is left, so that the worker's next command is not killed along with the rest.
        let is_clearing = self.is_clearing();
        for (channel, command) in self.commands.iter_mut().filter(|_| !is_clearing) {
            exits.extend(command.tick(now, &self.outward, &mut self.buffer).map(|exit| (*channel, exit)));
        }
        for (channel, exit) in exits {
            self.commands.remove(&channel);
            self.outward.send(channel, &ToWorker::Exit(exit));
        }
        let over: Vec<u32> =
            self.tunnels.iter().filter(|(_, tunnel)| tunnel.is_over()).map(|(channel, _)| *channel).collect();
        for channel in over {
            self.tunnels.remove(&channel);
            self.outward.send(channel, &ToWorker::Closed);
        }
        if !self.killing.is_empty() {
            sys::kill_everybody();
            let (late, waiting) = self.killing.drain(..).partition(|(_, until)| *until <= now);
            self.killing = waiting;
            let late: Vec<(Option<u32>, Instant)> = late;
            for channel in late.into_iter().filter_map(|(channel, _)| channel) {
                self.refuse(channel, ErrorKind::Refused, "something did not die within ten seconds".into());
            }
        }
    }
}
