//! The frames between a worker and the guest in a sandbox.
//!
//! A frame is a kind (`u8`), a channel (`u32`), the length of its payload (`u32`) and the payload, all little endian, at
//! most [`MAX_PAYLOAD`] bytes of it. A channel is one conversation: the worker opens it with a request, the guest ends it
//! with [`ToWorker::Done`], [`ToWorker::Exit`], [`ToWorker::Error`] or [`ToWorker::Closed`]. Tunnels are the exception:
//! the guest opens them ([`ToWorker::Accepted`]) with numbers from [`GUEST_CHANNELS`] up.
//!
//! Everything that can be long flows under credit: its sender may have [`WINDOW`] bytes of frames (headers counted, see
//! [`cost`]) on the way per channel and direction and gets more as its peer works them off. So no channel can hold up
//! another one, and memory is bounded at both ends whatever the other end does.
//!
//! Decoding never panics and never allocates more than it was given, on any input: the guest is hostile territory.

use std::fmt;

/// Grows with every change of this file that an older peer would not understand. Both ends must have the same.
pub const VERSION: u32 = 1;
/// The bytes before each payload.
pub const HEADER_BYTES: usize = 9;
/// The largest payload of one frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// The largest request after its parts are joined, in bytes. The system's own limit for arguments is below it.
pub const MAX_REQUEST: usize = 8 << 20;
/// The credit that each direction of a channel starts with, in bytes of frames.
pub const WINDOW: u32 = 256 * 1024;
/// The longest path or link target, in bytes.
pub const MAX_PATH: usize = 4095;
/// Channels from here on are opened by the guest.
pub const GUEST_CHANNELS: u32 = 1 << 31;

/// What a frame with this payload costs of a channel's credit.
pub fn cost(payload: usize) -> u32 {
    u32::try_from(HEADER_BYTES + payload).unwrap_or(u32::MAX)
}

/// Bytes that no peer of ours writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed frame: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// One frame as it lies in a buffer, its payload not looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: u8,
    /// The conversation it belongs to.
    pub channel: u32,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame in `bytes` and how many bytes it takes; `None` when it is not whole yet.
    pub fn split(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [kind, c0, c1, c2, c3, l0, l1, l2, l3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_PAYLOAD {
            return Err(Malformed("oversize payload"));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let channel = u32::from_le_bytes([c0, c1, c2, c3]);
        Ok(Some((Self { kind, channel, payload }, HEADER_BYTES + length)))
    }

    /// Appends the frame to `out`. The payload must not be longer than [`MAX_PAYLOAD`].
    fn write(self, out: &mut Vec<u8>) {
        debug_assert!(self.payload.len() <= MAX_PAYLOAD, "senders cut their payloads");
        out.push(self.kind);
        out.extend_from_slice(&self.channel.to_le_bytes());
        out.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(self.payload);
    }
}

/// A command to start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exec {
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// Names and values, over the guest's defaults.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory, absolute.
    pub cwd: Vec<u8>,
    /// Standard input comes as [`ToGuest::Data`]; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Wall limit in milliseconds.
    pub timeout_ms: u64,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exit {
    /// The exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The guest ended it at its wall limit.
    pub timed_out: bool,
    /// Wall time in microseconds.
    pub wall_us: u64,
    /// User and system time in microseconds.
    pub cpu_us: u64,
    /// Largest resident set in bytes.
    pub max_rss_bytes: u64,
}

/// The kinds of files that git can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file without the executable bit of its owner.
    Regular,
    /// A file with it.
    Executable,
    /// A symbolic link; its content is its target.
    Symlink,
}

/// What lies at a path now that looked different at the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing any more.
    Nothing,
    /// A file or link with its size in bytes.
    File(FileKind, u64),
    /// A device, a FIFO, a socket.
    Special,
    /// A directory with a `.git` in it that had none at the mark.
    NestedRepository,
}

/// Why the guest did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The program to run cannot be started.
    CannotRun,
    /// It cannot or will not do it.
    Refused,
    /// More bytes than asked for.
    TooMuch,
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest<'a> {
    /// The first frame, on channel 0.
    Hello {
        /// [`VERSION`] of the worker.
        version: u32,
    },
    /// The beginning of a request that is longer than a frame; the next frame on this channel goes on.
    Part(&'a [u8]),
    /// Start a command. Answered by output under credit, then [`ToWorker::Exit`] or [`ToWorker::Error`].
    Exec(Exec),
    /// Under credit: standard input of a command, bytes of a tunnel, or content of the file of a put.
    Data(&'a [u8]),
    /// No more data on this channel: end of standard input, of one direction of a tunnel, of a put.
    Eof,
    /// The guest may send so many bytes of frames more.
    Credit(u32),
    /// A signal for the process group of this channel's command.
    Signal(i32),
    /// Nobody listens at this end any more: a put is forgotten, a tunnel delivers what it was given and is closed.
    Reset,
    /// Kill every process but the guest, then answer [`ToWorker::Done`].
    KillAll,
    /// Files follow on this channel, each a [`ToGuest::File`] and its data, until [`ToGuest::Eof`].
    Put,
    /// Under credit: the next file of a put.
    File {
        /// What it is.
        kind: FileKind,
        /// Where, relative to the workspace.
        path: Vec<u8>,
    },
    /// Delete files and the directories that this leaves empty.
    Delete {
        /// Where, relative to the workspace.
        paths: Vec<Vec<u8>>,
    },
    /// Remember how the workspace looks.
    Mark,
    /// Tell what looks different: [`ToWorker::Changed`] as often as needed, then [`ToWorker::Done`].
    Changes,
    /// Read files: for each a [`ToWorker::File`] and its data, then [`ToWorker::Done`].
    Get {
        /// Not more than this of content in all.
        max_bytes: u64,
        /// Where, relative to the workspace.
        paths: Vec<Vec<u8>>,
    },
    /// Listen on this port of 127.0.0.1. Answered by [`ToWorker::Done`]; connections follow as [`ToWorker::Accepted`].
    Listen {
        /// The port; 0 takes a free one.
        port: u16,
    },
    /// Kill everything and exit.
    Shutdown,
}

/// What a guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToWorker<'a> {
    /// The answer to [`ToGuest::Hello`], on channel 0.
    Hello {
        /// [`VERSION`] of the guest.
        version: u32,
        /// Its process id: 1 in a real sandbox.
        pid: u32,
    },
    /// Under credit: standard output.
    Stdout(&'a [u8]),
    /// Under credit: standard error.
    Stderr(&'a [u8]),
    /// The command ended. Ends the channel.
    Exit(Exit),
    /// The worker may send so many bytes of frames more.
    Credit(u32),
    /// The next file of a get.
    File {
        /// What it is.
        kind: FileKind,
        /// Where, relative to the workspace.
        path: Vec<u8>,
    },
    /// Content of the file of a get, or, under credit, bytes of a tunnel.
    Data(&'a [u8]),
    /// Paths that look different.
    Changed(Vec<(Vec<u8>, Found)>),
    /// It is done. Ends the channel, except for a listener.
    Done {
        /// The port of a listener; otherwise 0.
        value: u32,
    },
    /// On a new channel of the guest's: a program inside connected to a listener.
    Accepted {
        /// The listener's channel.
        listener: u32,
    },
    /// The program inside will send no more through this tunnel.
    Eof,
    /// The tunnel is gone in both directions. Ends the channel.
    Closed,
    /// It cannot be done. Ends the channel.
    Error {
        /// In which way.
        kind: ErrorKind,
        /// A sentence for a person.
        reason: String,
    },
}

mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const PART: u8 = 0x02;
    pub(super) const EXEC: u8 = 0x03;
    pub(super) const DATA: u8 = 0x04;
    pub(super) const EOF: u8 = 0x05;
    pub(super) const CREDIT: u8 = 0x06;
    pub(super) const SIGNAL: u8 = 0x07;
    pub(super) const RESET: u8 = 0x08;
    pub(super) const KILL_ALL: u8 = 0x09;
    pub(super) const PUT: u8 = 0x0a;
    pub(super) const FILE: u8 = 0x0b;
    pub(super) const DELETE: u8 = 0x0c;
    pub(super) const MARK: u8 = 0x0d;
    pub(super) const CHANGES: u8 = 0x0e;
    pub(super) const GET: u8 = 0x0f;
    pub(super) const LISTEN: u8 = 0x10;
    pub(super) const SHUTDOWN: u8 = 0x11;
    pub(super) const STDOUT: u8 = 0x21;
    pub(super) const STDERR: u8 = 0x22;
    pub(super) const EXIT: u8 = 0x23;
    pub(super) const CHANGED: u8 = 0x24;
    pub(super) const DONE: u8 = 0x25;
    pub(super) const ACCEPTED: u8 = 0x26;
    pub(super) const CLOSED: u8 = 0x27;
    pub(super) const ERROR: u8 = 0x28;
}

impl<'a> ToGuest<'a> {
    /// Appends the message to `out`, cut into parts where it is longer than a frame. Data must fit a frame.
    pub fn encode(&self, channel: u32, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        let kind = match self {
            Self::Data(bytes) => return Frame { kind: kind::DATA, channel, payload: bytes }.write(out),
            Self::Part(bytes) => return Frame { kind: kind::PART, channel, payload: bytes }.write(out),
            Self::Hello { version } => {
                put_u32(&mut body, *version);
                kind::HELLO
            }
            Self::Exec(exec) => {
                put_exec(&mut body, exec);
                kind::EXEC
            }
            Self::Eof => kind::EOF,
            Self::Credit(bytes) => {
                put_u32(&mut body, *bytes);
                kind::CREDIT
            }
            Self::Signal(signal) => {
                body.extend_from_slice(&signal.to_le_bytes());
                kind::SIGNAL
            }
            Self::Reset => kind::RESET,
            Self::KillAll => kind::KILL_ALL,
            Self::Put => kind::PUT,
            Self::File { kind, path } => {
                put_file(&mut body, *kind, path);
                kind::FILE
            }
            Self::Delete { paths } => {
                put_list(&mut body, paths);
                kind::DELETE
            }
            Self::Mark => kind::MARK,
            Self::Changes => kind::CHANGES,
            Self::Get { max_bytes, paths } => {
                body.extend_from_slice(&max_bytes.to_le_bytes());
                put_list(&mut body, paths);
                kind::GET
            }
            Self::Listen { port } => {
                body.extend_from_slice(&port.to_le_bytes());
                kind::LISTEN
            }
            Self::Shutdown => kind::SHUTDOWN,
        };
        let mut rest = body.as_slice();
        while let Some((part, more)) = rest.split_at_checked(MAX_PAYLOAD).filter(|(_, more)| !more.is_empty()) {
            Frame { kind: kind::PART, channel, payload: part }.write(out);
            rest = more;
        }
        Frame { kind, channel, payload: rest }.write(out);
    }

    /// The message of a frame of this kind; `payload` may be longer than a frame when parts were joined.
    pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body(payload);
        let message = match kind {
            kind::DATA => return some(payload).map(Self::Data),
            kind::PART => return some(payload).map(Self::Part),
            kind::HELLO => Self::Hello { version: body.u32()? },
            kind::EXEC => Self::Exec(body.exec()?),
            kind::EOF => Self::Eof,
            kind::CREDIT => Self::Credit(body.u32()?),
            kind::SIGNAL => Self::Signal(body.i32()?),
            kind::RESET => Self::Reset,
            kind::KILL_ALL => Self::KillAll,
            kind::PUT => Self::Put,
            kind::FILE => {
                let (kind, path) = body.file()?;
                Self::File { kind, path }
            }
            kind::DELETE => Self::Delete { paths: body.list()? },
            kind::MARK => Self::Mark,
            kind::CHANGES => Self::Changes,
            kind::GET => Self::Get { max_bytes: body.u64()?, paths: body.list()? },
            kind::LISTEN => Self::Listen { port: u16::from_le_bytes(body.array()?) },
            kind::SHUTDOWN => Self::Shutdown,
            _ => return Err(Malformed("a kind that no worker sends")),
        };
        body.end()?;
        Ok(message)
    }
}

impl<'a> ToWorker<'a> {
    /// Appends the message to `out`. Data, and a list of changes, must fit a frame; an error's reason is cut.
    pub fn encode(&self, channel: u32, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        let kind = match self {
            Self::Stdout(bytes) => return Frame { kind: kind::STDOUT, channel, payload: bytes }.write(out),
            Self::Stderr(bytes) => return Frame { kind: kind::STDERR, channel, payload: bytes }.write(out),
            Self::Data(bytes) => return Frame { kind: kind::DATA, channel, payload: bytes }.write(out),
            Self::Hello { version, pid } => {
                put_u32(&mut body, *version);
                put_u32(&mut body, *pid);
                kind::HELLO
            }
            Self::Exit(exit) => {
                put_exit(&mut body, exit);
                kind::EXIT
            }
            Self::Credit(bytes) => {
                put_u32(&mut body, *bytes);
                kind::CREDIT
            }
            Self::File { kind, path } => {
                put_file(&mut body, *kind, path);
                kind::FILE
            }
            Self::Changed(changes) => {
                changes.iter().for_each(|(path, found)| put_change(&mut body, path, *found));
                kind::CHANGED
            }
            Self::Done { value } => {
                put_u32(&mut body, *value);
                kind::DONE
            }
            Self::Accepted { listener } => {
                put_u32(&mut body, *listener);
                kind::ACCEPTED
            }
            Self::Eof => kind::EOF,
            Self::Closed => kind::CLOSED,
            Self::Error { kind, reason } => {
                body.push(match kind {
                    ErrorKind::CannotRun => 0,
                    ErrorKind::Refused => 1,
                    ErrorKind::TooMuch => 2,
                });
                body.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(1024)]);
                kind::ERROR
            }
        };
        Frame { kind, channel, payload: &body }.write(out);
    }

    /// The message of a frame.
    pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body(payload);
        let message = match kind {
            kind::STDOUT => return some(payload).map(Self::Stdout),
            kind::STDERR => return some(payload).map(Self::Stderr),
            kind::DATA => return some(payload).map(Self::Data),
            kind::HELLO => Self::Hello { version: body.u32()?, pid: body.u32()? },
            kind::EXIT => Self::Exit(body.exit()?),
            kind::CREDIT => Self::Credit(body.u32()?),
            kind::FILE => {
                let (kind, path) = body.file()?;
                Self::File { kind, path }
            }
            kind::CHANGED => {
                let mut changes = Vec::new();
                while !body.0.is_empty() {
                    changes.push(body.change()?);
                }
                Self::Changed(changes)
            }
            kind::DONE => Self::Done { value: body.u32()? },
            kind::ACCEPTED => Self::Accepted { listener: body.u32()? },
            kind::EOF => Self::Eof,
            kind::CLOSED => Self::Closed,
            kind::ERROR => {
                let kind = match body.u8()? {
                    0 => ErrorKind::CannotRun,
                    1 => ErrorKind::Refused,
                    2 => ErrorKind::TooMuch,
                    _ => return Err(Malformed("unknown kind of error")),
                };
                Self::Error { kind, reason: String::from_utf8_lossy(body.rest()).into_owned() }
            }
            _ => return Err(Malformed("a kind that no guest sends")),
        };
        body.end()?;
        Ok(message)
    }
}

/// The bytes that one change takes in a [`ToWorker::Changed`].
pub fn change_bytes(path: &[u8]) -> usize {
    4 + path.len() + 9
}

fn some(payload: &[u8]) -> Result<&[u8], Malformed> {
    if payload.is_empty() { Err(Malformed("empty data")) } else { Ok(payload) }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

fn put_list(out: &mut Vec<u8>, items: &[Vec<u8>]) {
    put_u32(out, items.len() as u32);
    items.iter().for_each(|item| put_bytes(out, item));
}

fn put_exec(out: &mut Vec<u8>, exec: &Exec) {
    put_list(out, &exec.argv);
    put_u32(out, exec.env.len() as u32);
    for (name, value) in &exec.env {
        put_bytes(out, name);
        put_bytes(out, value);
    }
    put_bytes(out, &exec.cwd);
    out.push(u8::from(exec.stdin));
    out.extend_from_slice(&exec.timeout_ms.to_le_bytes());
}

fn put_exit(out: &mut Vec<u8>, exit: &Exit) {
    for value in [exit.code, exit.signal] {
        out.push(u8::from(value.is_some()));
        out.extend_from_slice(&value.unwrap_or(0).to_le_bytes());
    }
    out.push(u8::from(exit.timed_out));
    for value in [exit.wall_us, exit.cpu_us, exit.max_rss_bytes] {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn put_file(out: &mut Vec<u8>, kind: FileKind, path: &[u8]) {
    out.push(file_kind_number(kind));
    put_bytes(out, path);
}

fn put_change(out: &mut Vec<u8>, path: &[u8], found: Found) {
    let (number, size) = match found {
        Found::File(kind, size) => (file_kind_number(kind), size),
        Found::Nothing => (3, 0),
        Found::Special => (4, 0),
        Found::NestedRepository => (5, 0),
    };
    out.push(number);
    out.extend_from_slice(&size.to_le_bytes());
    put_bytes(out, path);
}

fn file_kind_number(kind: FileKind) -> u8 {
    match kind {
        FileKind::Regular => 0,
        FileKind::Executable => 1,
        FileKind::Symlink => 2,
    }
}

/// Reads a payload from its front.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Malformed("short payload"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("short payload"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("long payload")) }
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("not a truth value")),
        }
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        let length = self.u32()? as usize;
        Ok(self.take(length)?.to_vec())
    }

    fn list(&mut self) -> Result<Vec<Vec<u8>>, Malformed> {
        let n_items = self.u32()?;
        let mut items = Vec::new();
        for _ in 0..n_items {
            items.push(self.bytes()?);
        }
        Ok(items)
    }

    fn exec(&mut self) -> Result<Exec, Malformed> {
        let argv = self.list()?;
        let mut env = Vec::new();
        for _ in 0..self.u32()? {
            env.push((self.bytes()?, self.bytes()?));
        }
        Ok(Exec { argv, env, cwd: self.bytes()?, stdin: self.bool()?, timeout_ms: self.u64()? })
    }

    fn exit(&mut self) -> Result<Exit, Malformed> {
        Ok(Exit {
            code: self.optional_i32()?,
            signal: self.optional_i32()?,
            timed_out: self.bool()?,
            wall_us: self.u64()?,
            cpu_us: self.u64()?,
            max_rss_bytes: self.u64()?,
        })
    }

    fn optional_i32(&mut self) -> Result<Option<i32>, Malformed> {
        let (some, value) = (self.bool()?, self.i32()?);
        Ok(some.then_some(value))
    }

    fn path(&mut self) -> Result<Vec<u8>, Malformed> {
        let path = self.bytes()?;
        if path.is_empty() || path.len() > MAX_PATH { Err(Malformed("empty or overlong path")) } else { Ok(path) }
    }

    fn file(&mut self) -> Result<(FileKind, Vec<u8>), Malformed> {
        let kind = file_kind(self.u8()?).ok_or(Malformed("unknown kind of file"))?;
        Ok((kind, self.path()?))
    }

    fn change(&mut self) -> Result<(Vec<u8>, Found), Malformed> {
        let (number, size) = (self.u8()?, self.u64()?);
        let found = match (file_kind(number), number) {
            (Some(kind), _) => Found::File(kind, size),
            (None, 3) => Found::Nothing,
            (None, 4) => Found::Special,
            (None, 5) => Found::NestedRepository,
            (None, _) => return Err(Malformed("unknown kind of change")),
        };
        Ok((self.path()?, found))
    }
}

fn file_kind(number: u8) -> Option<FileKind> {
    match number {
        0 => Some(FileKind::Regular),
        1 => Some(FileKind::Executable),
        2 => Some(FileKind::Symlink),
        _ => None,
    }
}
