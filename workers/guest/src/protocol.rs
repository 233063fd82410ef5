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

mod codec;

use std::fmt;

/// Grows with every change of this file that an older peer would not understand. Both ends must have the same.
pub const VERSION: u32 = 3;
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
/// A change within this time before a mark may carry the same clock tick as one after it: it stays a candidate.
pub const RACY: std::time::Duration = std::time::Duration::from_millis(50);
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
    /// It starts when everything that was asked about files before it is done, well or not.
    pub after_files: bool,
}

/// Limits of the sandbox that were hit while a command ran, by whatever ran in it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hits {
    /// The kernel killed a process because memory was short.
    pub memory: bool,
    /// The kernel refused to start a process or a thread because there were too many.
    pub pids: bool,
    /// The guest killed everything because too much was written, or the kernel ended the command at the largest file.
    pub disk: bool,
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
    /// Limits that were hit meanwhile.
    pub hits: Hits,
    /// How long processes waited for their share of the CPUs meanwhile, all together, in microseconds.
    pub throttled_us: u64,
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
        /// Bytes that may be written in all.
        disk_bytes: u64,
        /// Processes and threads that may be there, the guest's own included.
        pids: u64,
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
    /// Remember how these paths look, and leave the rest of the last mark as it is.
    MarkPaths {
        /// Where, relative to the workspace.
        paths: Vec<Vec<u8>>,
    },
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
    /// Answer [`ToWorker::Done`]: is anybody there?
    Ping,
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

/// The bytes that one change takes in a [`ToWorker::Changed`].
pub fn change_bytes(path: &[u8]) -> usize {
    4 + path.len() + 9
}
