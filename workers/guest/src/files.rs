//! Files to and from the workspace, on a thread of its own: a large tree must not hold up commands and tunnels.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::AsRawFd,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use guest::protocol::{ErrorKind, FileKind, Found, MAX_PATH, MAX_PAYLOAD, ToWorker, WINDOW, change_bytes, cost};

use crate::{
    flow::Outward,
    sys,
    tree::{Content, Reason, Tree, TreePath},
};

/// What the worker asks for, in the order in which it asks.
pub(crate) enum Ask {
    Put,
    File {
        kind: FileKind,
        path: Vec<u8>,
    },
    Data(Vec<u8>),
    End,
    Abandon,
    Delete {
        paths: Vec<Vec<u8>>,
    },
    Mark,
    MarkPaths {
        paths: Vec<Vec<u8>>,
    },
    Changes,
    Get {
        max_bytes: u64,
        paths: Vec<Vec<u8>>,
    },
    /// To be told when it is this one's turn: see [`Turns`].
    Turn,
}

/// The channels whose turn has come, each as the four bytes of its number.
pub(crate) struct Turns(pub(crate) PipeReader);

impl Turns {
    /// Those that have come since the last look.
    pub(crate) fn take(&mut self) -> Vec<u32> {
        // Each number is written whole, so none is read in halves.
        let mut bytes = [0; 4 * 64];
        let n = self.0.read(&mut bytes).unwrap_or(0);
        bytes[..n]
            .chunks_exact(4)
            .map(|number| u32::from_ne_bytes([number[0], number[1], number[2], number[3]]))
            .collect()
    }
}

/// Starts the thread. What is sent there is answered on its channel.
pub(crate) fn start(workspace: &'static str, outward: Outward) -> io::Result<(Sender<(u32, Ask)>, Turns)> {
    let (asks, inbox) = channel();
    let (turns, mut turn) = io::pipe()?;
    sys::set_blocking(turns.as_raw_fd(), false)?;
    thread::Builder::new().name("files".into()).spawn(move || answer_all(workspace, &outward, &inbox, &mut turn))?;
    Ok((asks, Turns(turns)))
}

/// An error to the worker.
struct Refusal {
    kind: ErrorKind,
    reason: Reason,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { kind: ErrorKind::Refused, reason }
    }
}

fn answer_all(workspace: &str, outward: &Outward, asks: &Receiver<(u32, Ask)>, turn: &mut PipeWriter) {
    let tree = Tree::open(workspace);
    let mut puts = HashMap::new();
    let mut tree = match tree {
        Ok(tree) => tree,
        Err(error) => return refuse_all(&format!("{workspace} cannot be opened: {error}"), outward, asks, turn),
    };
    // Answers wait for each other while there is more to do: each one alone has a long way to the worker.
    let mut answers = Vec::new();
    while let Some((channel, ask)) = next(asks, outward, &mut answers) {
        if matches!(ask, Ask::Mark | Ask::Changes | Ask::Get { .. }) {
            outward.write(&mut answers);
        }
        let answer = match ask {
            Ask::Put => {
                puts.insert(channel, Put::default());
                continue;
            }
            Ask::Abandon => {
                puts.remove(&channel);
                continue;
            }
            Ask::Turn => {
                tell_turn(turn, channel);
                continue;
            }
            // A put that was refused has had its answer.
            Ask::End => puts.remove(&channel).map_or(Ok(false), |mut put| put.finish(&tree).map(|()| true)),
            Ask::File { kind, path } => step(&mut puts, channel, outward, |put| put.file(&tree, kind, path)),
            Ask::Data(bytes) => step(&mut puts, channel, outward, |put| put.data(&bytes)),
            Ask::Delete { paths } => delete(&tree, &paths).map(|()| true),
            Ask::Mark => tree.mark().map(|()| true).map_err(Refusal::from),
            Ask::MarkPaths { paths } => mark_paths(&mut tree, &paths).map(|()| true),
            Ask::Changes => tree.changes().map(|changes| tell(changes, channel, outward)).map_err(Refusal::from),
            Ask::Get { max_bytes, paths } => get(&tree, &paths, max_bytes, channel, outward).map(|()| true),
        };
        match answer {
            Ok(true) => ToWorker::Done { value: 0 }.encode(channel, &mut answers),
            Ok(false) => {}
            Err(Refusal { kind, reason }) => ToWorker::Error { kind, reason }.encode(channel, &mut answers),
        }
    }
}

/// What is asked next. Before it is waited for, the answers go out.
fn next(asks: &Receiver<(u32, Ask)>, outward: &Outward, answers: &mut Vec<u8>) -> Option<(u32, Ask)> {
    asks.try_recv().ok().or_else(|| {
        outward.write(answers);
        asks.recv().ok()
    })
}

/// Without a workspace every request has the same answer.
fn refuse_all(reason: &str, outward: &Outward, asks: &Receiver<(u32, Ask)>, turn: &mut PipeWriter) {
    while let Ok((channel, ask)) = asks.recv() {
        match ask {
            Ask::Turn => tell_turn(turn, channel),
            Ask::File { .. } | Ask::Data(_) | Ask::End | Ask::Abandon => {}
            _ => outward.send(channel, &ToWorker::Error { kind: ErrorKind::Refused, reason: reason.to_owned() }),
        }
    }
}

/// A guest that cannot tell itself something serves nobody.
fn tell_turn(turn: &mut PipeWriter, channel: u32) {
    if turn.write_all(&channel.to_ne_bytes()).is_err() {
        crate::serve::end();
    }
}

/// One frame of a put that is under way. After an error the rest of the put is ignored.
fn step(
    puts: &mut HashMap<u32, Put>,
    channel: u32,
    outward: &Outward,
    act: impl FnOnce(&mut Put) -> Result<usize, Refusal>,
) -> Result<bool, Refusal> {
    let Some(put) = puts.get_mut(&channel) else { return Ok(false) };
    match act(put) {
        Ok(payload) => {
            put.owed += cost(payload);
            if put.owed >= WINDOW / 4 {
                outward.send(channel, &ToWorker::Credit(std::mem::take(&mut put.owed)));
            }
            Ok(false)
        }
        Err(refusal) => {
            puts.remove(&channel);
            Err(refusal)
        }
    }
}

/// A put that is under way.
#[derive(Default)]
struct Put {
    path: Vec<u8>,
    open: Option<Content>,
    owed: u32,
}

impl Put {
    /// The next file begins. Returns the length of the payload, for the credit.
    fn file(&mut self, tree: &Tree, kind: FileKind, path: Vec<u8>) -> Result<usize, Refusal> {
        self.finish(tree)?;
        self.path = path;
        let parsed = self.named(TreePath::parse(&self.path))?;
        self.open = Some(match kind {
            FileKind::Symlink => Content::Target(Vec::new()),
            FileKind::Regular | FileKind::Executable => {
                Content::File(self.named(tree.create(&parsed, kind == FileKind::Executable))?)
            }
        });
        Ok(5 + self.path.len())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let written = match &mut self.open {
            Some(Content::File(file)) => file.write_all(bytes).map_err(|error| error.to_string()),
            Some(Content::Target(target)) if target.len() + bytes.len() <= MAX_PATH => {
                target.extend_from_slice(bytes);
                Ok(())
            }
            Some(Content::Target(_)) => Err("the link's target is too long".into()),
            None => Err("there is data before a file".into()),
        };
        self.named(written)?;
        Ok(bytes.len())
    }

    /// The current file is whole.
    fn finish(&mut self, tree: &Tree) -> Result<(), Refusal> {
        match self.open.take() {
            Some(Content::Target(target)) => {
                let parsed = self.named(TreePath::parse(&self.path))?;
                self.named(tree.link(&parsed, target))
            }
            Some(Content::File(_)) | None => Ok(()),
        }
    }

    fn named<T>(&self, result: Result<T, Reason>) -> Result<T, Refusal> {
        named(&self.path, result)
    }
}

fn named<T>(path: &[u8], result: Result<T, Reason>) -> Result<T, Refusal> {
    result.map_err(|reason| format!("{}: {reason}", path.escape_ascii()).into())
}

fn delete(tree: &Tree, paths: &[Vec<u8>]) -> Result<(), Refusal> {
    for path in paths {
        let parsed = named(path, TreePath::parse(path))?;
        named(path, tree.delete(&parsed))?;
    }
    Ok(())
}

fn mark_paths(tree: &mut Tree, paths: &[Vec<u8>]) -> Result<(), Refusal> {
    for path in paths {
        let parsed = named(path, TreePath::parse(path))?;
        named(path, tree.mark_path(path, &parsed))?;
    }
    Ok(())
}

/// Sends the changes in as few frames as they fit.
fn tell(changes: Vec<(Vec<u8>, Found)>, channel: u32, outward: &Outward) -> bool {
    let mut frame = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = change_bytes(&change.0);
        if bytes + size > MAX_PAYLOAD {
            outward.send(channel, &ToWorker::Changed(std::mem::take(&mut frame)));
            bytes = 0;
        }
        bytes += size;
        frame.push(change);
    }
    if !frame.is_empty() {
        outward.send(channel, &ToWorker::Changed(frame));
    }
    true
}

fn get(tree: &Tree, paths: &[Vec<u8>], max_bytes: u64, channel: u32, outward: &Outward) -> Result<(), Refusal> {
    let mut left = max_bytes;
    let mut buffer = vec![0; MAX_PAYLOAD];
    for path in paths {
        let parsed = named(path, TreePath::parse(path))?;
        let (kind, content) = named(path, tree.read(&parsed))?;
        outward.send(channel, &ToWorker::File { kind, path: path.clone() });
        match content {
            Content::Target(target) => send_within(&target, &mut left, channel, outward)?,
            Content::File(mut file) => loop {
                let n = read_full(&mut file, &mut buffer).map_err(|error| error.to_string());
                match named(path, n)? {
                    0 => break,
                    n => send_within(&buffer[..n], &mut left, channel, outward)?,
                }
            },
        }
    }
    Ok(())
}

fn send_within(bytes: &[u8], left: &mut u64, channel: u32, outward: &Outward) -> Result<(), Refusal> {
    let Some(rest) = left.checked_sub(bytes.len() as u64) else {
        return Err(Refusal { kind: ErrorKind::TooMuch, reason: "the files are larger than was asked for".into() });
    };
    *left = rest;
    if !bytes.is_empty() {
        outward.send(channel, &ToWorker::Data(bytes));
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
