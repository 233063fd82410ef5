//! A guest that answers what it is asked, and what makes it a hostile one.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use guest::protocol::{
    ErrorKind, Exit, FileKind, Found, Frame, GUEST_CHANNELS, HEADER_BYTES, MAX_PAYLOAD, ToGuest, ToWorker, VERSION,
};
use tasks::Failure;
use tokio::io::DuplexStream;
use workers::sandbox::{SandboxBackend, SandboxError, SandboxSpec, Started};

use crate::dice::Dice;

/// Hands out one end of a pipe that was made before.
#[derive(Debug)]
pub(crate) struct Pipe(pub(crate) std::sync::Mutex<Option<DuplexStream>>);

#[async_trait]
impl SandboxBackend for Pipe {
    async fn start(&self, _: &SandboxSpec) -> Result<Started, SandboxError> {
        let stream = self.0.lock().unwrap().take().expect("started once");
        Ok(Started { stream: Box::new(stream), kind: "none", environment: "none".into() })
    }
    async fn build_image(&self, _: Bytes, _: &str, _: &str) -> Result<String, Failure> {
        unreachable!("no test builds an image here")
    }
    async fn stop(&self, _: &str) -> Result<(), SandboxError> {
        Ok(())
    }
    async fn sweep(&self, _: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<usize, SandboxError> {
        Ok(0)
    }
}

pub(crate) fn encoded(channel: u32, message: &ToWorker<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(channel, &mut bytes);
    bytes
}

/// What a guest of ours would say to what it hears, without doing any of it.
#[derive(Default)]
pub(crate) struct Honest {
    heard: Vec<u8>,
    parts: HashMap<u32, Vec<u8>>,
    puts: HashMap<u32, u32>,
    n_tunnels: u32,
}

impl Honest {
    /// The answers to these bytes, one frame each.
    pub(crate) fn answer(&mut self, bytes: &[u8], dice: &mut Dice) -> Vec<Vec<u8>> {
        self.heard.extend_from_slice(bytes);
        let heard = std::mem::take(&mut self.heard);
        let mut at = 0;
        let mut answers = Vec::new();
        while let Ok(Some((frame, length))) = Frame::split(&heard[at..]) {
            at += length;
            let mut whole = self.parts.remove(&frame.channel).unwrap_or_default();
            whole.extend_from_slice(frame.payload);
            match ToGuest::decode(frame.kind, &whole).expect("a worker of ours writes no nonsense") {
                ToGuest::Part(_) => drop(self.parts.insert(frame.channel, whole)),
                message => self.say(frame.channel, message, dice, &mut answers),
            }
        }
        self.heard = heard[at..].to_vec();
        answers
    }

    fn say(&mut self, channel: u32, message: ToGuest<'_>, dice: &mut Dice, answers: &mut Vec<Vec<u8>>) {
        let mut tell = |message: &ToWorker<'_>| answers.push(encoded(channel, message));
        match message {
            ToGuest::Hello { .. } => tell(&ToWorker::Hello { version: VERSION, pid: 1 }),
            ToGuest::Exec(_) => {
                (0..dice.roll(4)).for_each(|_| tell(&ToWorker::Stdout(&[b'o'; 100])));
                tell(&ToWorker::Stderr(b"e"));
                tell(&ToWorker::Exit(Exit { code: Some(0), ..Exit::default() }));
            }
            ToGuest::Put => drop(self.puts.insert(channel, 0)),
            ToGuest::Eof if self.puts.remove(&channel).is_some() => tell(&ToWorker::Done { value: 0 }),
            ToGuest::File { path, .. } => tell(&ToWorker::Credit(guest::protocol::cost(5 + path.len()))),
            ToGuest::Data(bytes) if self.puts.contains_key(&channel) => {
                tell(&ToWorker::Credit(guest::protocol::cost(bytes.len())));
            }
            ToGuest::Get { paths, .. } => {
                for path in paths {
                    tell(&ToWorker::File { kind: FileKind::Regular, path });
                    tell(&ToWorker::Data(b"content"));
                }
                tell(&ToWorker::Done { value: 0 });
            }
            ToGuest::Changes => {
                let found = [Found::Nothing, Found::Special, Found::File(FileKind::Regular, 7)];
                let changes = found.iter().enumerate().map(|(n, found)| (format!("file-{n}").into_bytes(), *found));
                tell(&ToWorker::Changed(changes.collect()));
                tell(&ToWorker::Done { value: 0 });
            }
            ToGuest::Mark | ToGuest::KillAll | ToGuest::Delete { .. } => tell(&ToWorker::Done { value: 0 }),
            ToGuest::Listen { .. } => {
                tell(&ToWorker::Done { value: 80 });
                let tunnel = GUEST_CHANNELS + self.n_tunnels;
                self.n_tunnels += 1;
                answers.push(encoded(tunnel, &ToWorker::Accepted { listener: channel }));
                answers.push(encoded(tunnel, &ToWorker::Data(b"hello")));
                answers.push(encoded(tunnel, &ToWorker::Eof));
                answers.push(encoded(tunnel, &ToWorker::Closed));
            }
            _ => {}
        }
    }
}

/// Any message at all.
pub(crate) fn any_message(dice: &mut Dice) -> Vec<u8> {
    let channel = match dice.roll(4) {
        0 => dice.number(),
        1 => GUEST_CHANNELS + dice.roll(3) as u32,
        _ => dice.roll(6) as u32,
    };
    let data = dice.bytes(300);
    let path = |dice: &mut Dice| {
        let mut path = dice.bytes(40);
        if dice.once_in(3) {
            path = [&b"../x"[..], b"/etc/passwd", b"a//b", b".git/config"][dice.roll(4)].to_vec();
        }
        path
    };
    let message = match dice.roll(14) {
        0 => ToWorker::Hello { version: dice.number(), pid: dice.number() },
        1 => ToWorker::Stdout(&data),
        2 => ToWorker::Stderr(&data),
        3 => ToWorker::Exit(Exit { code: Some(dice.number() as i32), ..Exit::default() }),
        4 | 5 => ToWorker::Credit(dice.number()),
        6 => ToWorker::File { kind: FileKind::Symlink, path: path(dice) },
        7 => ToWorker::Data(&data),
        8 => {
            let change = |dice: &mut Dice| (path(dice), Found::File(FileKind::Regular, dice.next()));
            ToWorker::Changed((0..dice.roll(30)).map(|_| change(dice)).collect())
        }
        9 => ToWorker::Done { value: dice.number() },
        10 => ToWorker::Accepted { listener: dice.roll(5) as u32 },
        11 => ToWorker::Eof,
        12 => ToWorker::Closed,
        _ => ToWorker::Error { kind: ErrorKind::TooMuch, reason: String::from_utf8_lossy(&data).into_owned() },
    };
    encoded(channel, &message)
}

/// Makes something else of frames that were right.
pub(crate) fn spoil(frames: &mut Vec<Vec<u8>>, dice: &mut Dice) {
    for _ in 0..1 + dice.roll(3) {
        let n = frames.len();
        let at = dice.roll(n);
        match dice.roll(11) {
            0 if n > 0 => drop(frames.remove(at)),
            1 if n > 0 => frames.insert(at, frames[at].clone()),
            2 if n > 1 => frames.swap(at, (at + 1) % n),
            // Another channel.
            3 if n > 0 && frames[at].len() >= HEADER_BYTES => {
                frames[at][1..5].copy_from_slice(&dice.number().to_le_bytes())
            }
            // A length that is not true, or that never comes to its end.
            4 if n > 0 && frames[at].len() >= HEADER_BYTES => {
                frames[at][5..9].copy_from_slice(&dice.number().to_le_bytes())
            }
            5 if n > 0 => {
                let end = dice.roll(frames[at].len());
                frames[at].truncate(end);
            }
            6 if n > 0 => {
                let (place, to) = (dice.roll(frames[at].len()), dice.next() as u8);
                if let Some(byte) = frames[at].get_mut(place) {
                    *byte = to;
                }
            }
            7 => frames.insert(at, dice.bytes(3000)),
            // More than anybody has credit for.
            8 if n > 0 && frames[at].len() >= HEADER_BYTES => {
                let flood = frames[at].repeat(2 + (8 << 20) / frames[at].len().max(200));
                frames.insert(at, flood);
            }
            9 => {
                let mut large = encoded(dice.roll(5) as u32, &ToWorker::Stdout(&vec![b'x'; MAX_PAYLOAD]));
                large[0] = dice.next() as u8 % 0x30;
                frames.insert(at, large.repeat(1 + dice.roll(60)));
            }
            _ => frames.insert(at, any_message(dice)),
        }
    }
}
