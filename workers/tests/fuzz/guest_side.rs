//! The guest's side: a worker that is none of ours. The real guest hears it as PID 1 of a real box, never outside of one:
//! it does what it is told, and it may be told to kill everything.

use std::{ops::Range, time::Duration};

use guest::protocol::{Exec, FileKind, Frame, MAX_PAYLOAD, ToGuest, ToWorker, VERSION};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use workers::sandbox::{HostTools, Limits, SandboxBackend, SandboxSpec, Started, namespace::NamespaceBackend};

use crate::{dice::Dice, meter::Meter};

const LIMIT: Duration = Duration::from_secs(20);
/// How long a guest is heard that waits for the rest of a frame.
const PATIENCE: Duration = Duration::from_millis(100);
/// The channel of the last question.
const LAST_CHANNEL: u32 = 999;

/// Whether the last question has had its answer.
fn answers_last(mut heard: &[u8]) -> bool {
    while let Ok(Some((frame, length))) = Frame::split(heard) {
        if frame.channel == LAST_CHANNEL {
            return true;
        }
        heard = &heard[length..];
    }
    false
}

fn any_message(dice: &mut Dice) -> (u32, Vec<u8>) {
    let channel = if dice.once_in(5) { dice.number() } else { 1 + dice.roll(4) as u32 };
    let data = [dice.bytes(500), b"x".to_vec()].concat();
    let word = |text: &str| text.as_bytes().to_vec();
    let lines = ["echo out; echo err >&2", "cat", "sleep 5", "yes", "exit 3", "echo x >file; mkdir -p d/e; mkfifo p"];
    let path = |dice: &mut Dice| {
        let odd = [&b"../x"[..], b"/etc/passwd", b"a//b", b"d/e", b"file", b"p", b""];
        if dice.once_in(2) { odd[dice.roll(7)].to_vec() } else { dice.bytes(60) }
    };
    let message = match dice.roll(18) {
        0 | 1 => ToGuest::Exec(Exec {
            argv: vec![word("/bin/sh"), word("-c"), word(lines[dice.roll(6)])],
            env: vec![(dice.bytes(5), dice.bytes(5))],
            cwd: if dice.once_in(3) { dice.bytes(10) } else { word("/workspace") },
            stdin: dice.once_in(2),
            timeout_ms: u64::from(dice.number()),
            after_files: dice.once_in(2),
        }),
        2 => ToGuest::Data(&data),
        3 => ToGuest::Eof,
        4 => ToGuest::Credit(dice.number()),
        5 => ToGuest::Signal(dice.number() as i32),
        6 => ToGuest::Reset,
        7 => ToGuest::KillAll,
        8 => ToGuest::Put,
        9 => ToGuest::File { kind: FileKind::Symlink, path: path(dice) },
        10 => ToGuest::File { kind: FileKind::Executable, path: path(dice) },
        11 => ToGuest::Delete { paths: vec![path(dice), path(dice)] },
        12 => ToGuest::Mark,
        13 => ToGuest::Changes,
        14 => ToGuest::Get { max_bytes: u64::from(dice.number()), paths: vec![path(dice)] },
        15 => ToGuest::Listen { port: dice.next() as u16 },
        16 => ToGuest::Part(&data),
        _ => ToGuest::Hello { version: dice.number(), disk_bytes: dice.next(), pids: dice.next() },
    };
    let mut bytes = Vec::new();
    message.encode(channel, &mut bytes);
    (channel, bytes)
}

/// Damaged frames of either direction: no panic, and what is made of them is bounded by what they are.
pub(crate) fn decoding_costs_no_more_than_its_input(seeds: Range<u64>) {
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let (_, mut bytes) = any_message(&mut dice);
        if dice.once_in(4) {
            bytes.extend(vec![0; dice.roll(MAX_PAYLOAD)]);
        }
        for _ in 0..dice.roll(4) {
            let at = dice.roll(bytes.len());
            bytes[at] = dice.next() as u8;
        }
        let length = dice.roll(bytes.len() + 1);
        let payload = &bytes[bytes.len() - length..];
        let kinds = [bytes[0], dice.next() as u8 % 0x30];
        let meter = Meter::start();
        let _ = Frame::split(&bytes);
        for kind in kinds {
            drop(ToGuest::decode(kind, payload));
            drop(ToWorker::decode(kind, payload));
        }
        // A list of nothing takes four bytes an item here and a vector there; vectors grow by doubling.
        assert!(meter.peak() <= 4096 + payload.len() * 32, "seed {seed}: {} of {length}", meter.peak());
    }
}

/// Whatever it hears, it answers or ends, and its box can be removed.
pub(crate) async fn a_guest_outlives_or_ends_on_whatever_it_hears(seeds: Range<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let tools = HostTools::detect(None, "/usr/local/bin:/usr/bin:/bin");
    let backend = NamespaceBackend::new(dir.path().join("boxes"), tools, true).accept_without(tasks::Limit::ALL);
    let (mut n_ended, mut n_alive) = (0, 0);
    // A box costs more than a stream: fewer of them in a long run too.
    let n = (seeds.end - seeds.start).min(2000);
    for seed in seeds.start..seeds.start + n {
        let mut dice = Dice::new(seed);
        let limits = Limits { memory_bytes: 128 << 20, pids: 64, disk_bytes: 64 << 20, ..Limits::default() };
        let spec = SandboxSpec { limits, ..SandboxSpec::new(format!("onramp-fuzz-{}-{seed}", std::process::id())) };
        let Started { stream, .. } = backend.start(&spec).await.expect("starts");
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut said = Vec::new();
        ToGuest::Hello { version: VERSION, disk_bytes: 64 << 20, pids: 64 }.encode(0, &mut said);
        let mut spoilt = false;
        for _ in 0..1 + dice.roll(12) {
            let (_, mut bytes) = any_message(&mut dice);
            if dice.once_in(12) {
                let at = dice.roll(bytes.len());
                bytes[at] = dice.next() as u8;
                spoilt = true;
            }
            said.extend(bytes);
        }
        if dice.once_in(4) {
            said.truncate(said.len() - dice.roll(30.min(said.len())));
            spoilt = true;
        }
        ToGuest::KillAll.encode(LAST_CHANNEL, &mut said);
        let speak = async {
            let mut rest = said.as_slice();
            while !rest.is_empty() {
                let n = (1 + dice.roll(200)).min(rest.len());
                if writer.write_all(&rest[..n]).await.is_err() || writer.flush().await.is_err() {
                    break;
                }
                rest = &rest[n..];
            }
        };
        let mut heard = Vec::new();
        let hear = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = reader.read(&mut buffer).await {
                heard.extend_from_slice(&buffer[..n]);
                if answers_last(&heard) {
                    return;
                }
            }
        };
        let both = timeout(if spoilt { PATIENCE } else { LIMIT }, async { tokio::join!(speak, hear) }).await;
        // Half a frame is waited for, and that is right; whole ones must have their answer, or the guest its end.
        assert!(spoilt || both.is_ok(), "seed {seed}: the guest does neither answer nor end");
        n_alive += u32::from(answers_last(&heard));
        n_ended += 1;
        drop((reader, writer));
        timeout(LIMIT, backend.stop(&spec.name)).await.expect("in time").expect("stops");
    }
    println!("{n_alive} of {n_ended} guests answered the last question, the others had ended");
    assert!(n_alive * 8 > n_ended, "the guests must live long enough to do something");
    assert_eq!(std::fs::read_dir(dir.path().join("boxes")).unwrap().count(), 0, "every box is gone");
}
