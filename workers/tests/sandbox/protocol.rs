//! The frames under arbitrary bytes: decoding never panics, and what was encoded comes back.

use guest::protocol::{ErrorKind, Exec, Exit, FileKind, Found, Frame, Hits, MAX_PAYLOAD, ToGuest, ToWorker};
use proptest::{collection::vec, prelude::*};

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..4096)
}

fn file_kind() -> impl Strategy<Value = FileKind> {
    prop_oneof![Just(FileKind::Regular), Just(FileKind::Executable), Just(FileKind::Symlink)]
}

fn to_guest() -> impl Strategy<Value = ToGuest<'static>> {
    let exec = (
        vec(bytes(50_000), 0..5),
        vec((bytes(20), bytes(30_000)), 0..5),
        bytes(100),
        any::<bool>(),
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(|(argv, env, cwd, stdin, timeout_ms, after_files)| {
            ToGuest::Exec(Exec { argv, env, cwd, stdin, timeout_ms, after_files })
        });
    prop_oneof![
        any::<(u32, u64, u64)>().prop_map(|(version, disk_bytes, pids)| ToGuest::Hello { version, disk_bytes, pids }),
        exec,
        vec(any::<u8>(), 1..MAX_PAYLOAD).prop_map(|bytes| ToGuest::Data(bytes.leak())),
        any::<u32>().prop_map(ToGuest::Credit),
        any::<i32>().prop_map(ToGuest::Signal),
        any::<u16>().prop_map(|port| ToGuest::Listen { port }),
        (file_kind(), path()).prop_map(|(kind, path)| ToGuest::File { kind, path }),
        vec(path(), 0..50).prop_map(|paths| ToGuest::Delete { paths }),
        (any::<u64>(), vec(path(), 0..50)).prop_map(|(max_bytes, paths)| ToGuest::Get { max_bytes, paths }),
        prop_oneof![
            Just(ToGuest::Eof),
            Just(ToGuest::Reset),
            Just(ToGuest::KillAll),
            Just(ToGuest::Put),
            Just(ToGuest::Mark),
            Just(ToGuest::Changes),
            Just(ToGuest::Shutdown),
        ],
    ]
}

fn to_worker() -> impl Strategy<Value = ToWorker<'static>> {
    let data = || vec(any::<u8>(), 1..MAX_PAYLOAD).prop_map(|bytes| &*bytes.leak());
    let exit = (any::<[Option<i32>; 2]>(), any::<bool>(), any::<[u64; 4]>(), any::<[bool; 3]>());
    let exit = exit.prop_map(|([code, signal], timed_out, numbers, [memory, pids, disk])| {
        let [wall_us, cpu_us, max_rss_bytes, throttled_us] = numbers;
        let hits = Hits { memory, pids, disk };
        ToWorker::Exit(Exit { code, signal, timed_out, wall_us, cpu_us, max_rss_bytes, hits, throttled_us })
    });
    let found = prop_oneof![
        Just(Found::Nothing),
        Just(Found::Special),
        Just(Found::NestedRepository),
        (file_kind(), any::<u64>()).prop_map(|(kind, size)| Found::File(kind, size)),
    ];
    let kind = prop_oneof![Just(ErrorKind::CannotRun), Just(ErrorKind::Refused), Just(ErrorKind::TooMuch)];
    prop_oneof![
        any::<[u32; 2]>().prop_map(|[version, pid]| ToWorker::Hello { version, pid }),
        data().prop_map(ToWorker::Stdout),
        data().prop_map(ToWorker::Stderr),
        data().prop_map(ToWorker::Data),
        exit,
        any::<u32>().prop_map(ToWorker::Credit),
        (file_kind(), path()).prop_map(|(kind, path)| ToWorker::File { kind, path }),
        vec((path(), found), 0..15).prop_map(ToWorker::Changed),
        any::<u32>().prop_map(|value| ToWorker::Done { value }),
        any::<u32>().prop_map(|listener| ToWorker::Accepted { listener }),
        prop_oneof![Just(ToWorker::Eof), Just(ToWorker::Closed)],
        (kind, "\\PC{0,300}").prop_map(|(kind, reason)| ToWorker::Error { kind, reason }),
    ]
}

/// All frames at the front of the bytes.
fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Ok(Some((frame, length))) = Frame::split(bytes) {
        frames.push(frame);
        bytes = &bytes[length..];
    }
    assert!(bytes.is_empty(), "nothing is left over");
    frames
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(kind: u8, payload in bytes(2000)) {
        let _ = Frame::split(&payload);
        drop(ToGuest::decode(kind, &payload));
        drop(ToWorker::decode(kind, &payload));
        // Every kind, not only those that chance finds.
        for kind in 0..=0x30 {
            drop(ToGuest::decode(kind, &payload));
            drop(ToWorker::decode(kind, &payload));
        }
    }

    #[test]
    fn damaged_messages_never_panic(message in to_worker(), at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
        let mut bytes = Vec::new();
        message.encode(1, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = to;
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(Some((frame, _))) = Frame::split(&bytes) {
            drop(ToWorker::decode(frame.kind, frame.payload));
        }
    }

    #[test]
    fn what_a_worker_says_comes_back(message in to_guest(), channel: u32) {
        let mut bytes = Vec::new();
        message.encode(channel, &mut bytes);
        let frames = frames(&bytes);
        let (last, parts) = frames.split_last().expect("at least one");
        prop_assert!(frames.iter().all(|frame| frame.channel == channel));
        let mut whole = Vec::new();
        for part in parts {
            match ToGuest::decode(part.kind, part.payload) {
                Ok(ToGuest::Part(part)) => whole.extend_from_slice(part),
                other => prop_assert!(false, "{other:?}"),
            }
        }
        whole.extend_from_slice(last.payload);
        prop_assert_eq!(ToGuest::decode(last.kind, &whole), Ok(message));
    }

    #[test]
    fn what_a_guest_says_comes_back(message in to_worker(), channel: u32) {
        let mut bytes = Vec::new();
        message.encode(channel, &mut bytes);
        let frames = frames(&bytes);
        prop_assert_eq!(frames.len(), 1);
        prop_assert_eq!(ToWorker::decode(frames[0].kind, frames[0].payload), Ok(message));
    }
}
