//! Messages as bytes. Integers are little endian; what can have any length has its length before it, as a `u32`.

use super::{ErrorKind, Exec, Exit, FileKind, Found, Frame, Hits, MAX_PATH, MAX_PAYLOAD, Malformed, ToGuest, ToWorker};

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
    pub(super) const PING: u8 = 0x12;
    pub(super) const MARK_PATHS: u8 = 0x13;
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
            Self::Hello { version, disk_bytes, pids } => {
                put_u32(&mut body, *version);
                body.extend_from_slice(&disk_bytes.to_le_bytes());
                body.extend_from_slice(&pids.to_le_bytes());
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
            Self::MarkPaths { paths } => {
                put_list(&mut body, paths);
                kind::MARK_PATHS
            }
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
            Self::Ping => kind::PING,
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
            kind::HELLO => Self::Hello { version: body.u32()?, disk_bytes: body.u64()?, pids: body.u64()? },
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
            kind::MARK_PATHS => Self::MarkPaths { paths: body.list()? },
            kind::CHANGES => Self::Changes,
            kind::GET => Self::Get { max_bytes: body.u64()?, paths: body.list()? },
            kind::LISTEN => Self::Listen { port: u16::from_le_bytes(body.array()?) },
            kind::PING => Self::Ping,
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
    out.push(u8::from(exec.after_files));
}

fn put_exit(out: &mut Vec<u8>, exit: &Exit) {
    for value in [exit.code, exit.signal] {
        out.push(u8::from(value.is_some()));
        out.extend_from_slice(&value.unwrap_or(0).to_le_bytes());
    }
    out.push(u8::from(exit.timed_out));
    for value in [exit.hits.memory, exit.hits.pids, exit.hits.disk] {
        out.push(u8::from(value));
    }
    for value in [exit.wall_us, exit.cpu_us, exit.max_rss_bytes, exit.throttled_us] {
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
        let (cwd, stdin) = (self.bytes()?, self.bool()?);
        Ok(Exec { argv, env, cwd, stdin, timeout_ms: self.u64()?, after_files: self.bool()? })
    }

    fn exit(&mut self) -> Result<Exit, Malformed> {
        Ok(Exit {
            code: self.optional_i32()?,
            signal: self.optional_i32()?,
            timed_out: self.bool()?,
            hits: Hits { memory: self.bool()?, pids: self.bool()?, disk: self.bool()? },
            wall_us: self.u64()?,
            cpu_us: self.u64()?,
            max_rss_bytes: self.u64()?,
            throttled_us: self.u64()?,
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
