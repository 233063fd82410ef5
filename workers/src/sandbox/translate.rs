//! Between the words of the trait and those of the protocol.

use std::time::Duration;

use guest::protocol::{self, MAX_REQUEST};
use tasks::LimitHit;

use super::{Command, Exit, FileKind, Found, Limits, SandboxError};

/// Output of one command beyond this is counted and thrown away.
pub(super) const MAX_OUTPUT_BYTES: u64 = 64 << 20;
/// Longer lists of paths are asked for in pieces of about this size.
const LIST_BYTES: usize = 1 << 20;

/// `after_files`: not before what was asked about files is done.
pub(super) fn exec(command: &Command, after_files: bool) -> Result<protocol::Exec, SandboxError> {
    let bytes = |text: &String| text.clone().into_bytes();
    let exec = protocol::Exec {
        argv: command.argv.iter().map(bytes).collect(),
        env: command.env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
        cwd: bytes(&command.cwd),
        stdin: command.stdin.is_some(),
        timeout_ms: u64::try_from(command.timeout.as_millis()).unwrap_or(u64::MAX),
        after_files,
    };
    let arguments: usize = exec.argv.iter().map(|argument| argument.len() + 4).sum();
    let environment: usize = exec.env.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    if arguments + environment + exec.cwd.len() + 64 > MAX_REQUEST {
        let program = command.argv.first().cloned().unwrap_or_default();
        return Err(SandboxError::CannotRun { program, reason: "its arguments and environment are too long".into() });
    }
    Ok(exec)
}

/// Cuts a list of paths so that each request stays small.
pub(super) fn pieces(paths: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    let mut bytes = LIST_BYTES;
    for path in paths {
        if bytes + path.len() > LIST_BYTES || pieces.is_empty() {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += path.len() + 4;
        pieces.last_mut().expect("one was pushed").push(path);
    }
    pieces
}

/// Relative, and without parts that lead elsewhere.
pub(super) fn is_inside(path: &[u8]) -> bool {
    !path.contains(&0) && path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

pub(super) fn exit_of(exit: &protocol::Exit, limits: &Limits, n_output_bytes: u64) -> Exit {
    let throttled = exit.throttled_us / 1000;
    let hits = [
        exit.hits.memory.then_some(LimitHit::Memory { bytes: limits.memory_bytes }),
        exit.hits.pids.then_some(LimitHit::Pids { pids: limits.pids }),
        exit.hits.disk.then_some(LimitHit::Disk { bytes: limits.disk_bytes }),
        (n_output_bytes > MAX_OUTPUT_BYTES).then_some(LimitHit::Output { bytes: MAX_OUTPUT_BYTES }),
        // Whoever keeps its CPUs busy is held back now and then; it is worth a word when time was the trouble.
        (exit.timed_out && throttled >= exit.wall_us / 4_000)
            .then_some(LimitHit::Cpu { millicpus: (limits.cpus * 1000.0) as u64, held_back_ms: throttled }),
    ];
    Exit {
        limits: hits.into_iter().flatten().collect(),
        code: exit.code,
        signal: exit.signal,
        timed_out: exit.timed_out,
        wall: Duration::from_micros(exit.wall_us),
        cpu: Duration::from_micros(exit.cpu_us),
        max_rss_bytes: exit.max_rss_bytes,
    }
}

pub(super) fn to_guest(kind: FileKind) -> protocol::FileKind {
    match kind {
        FileKind::Regular => protocol::FileKind::Regular,
        FileKind::Executable => protocol::FileKind::Executable,
        FileKind::Symlink => protocol::FileKind::Symlink,
    }
}

pub(super) fn kind_of(kind: protocol::FileKind) -> FileKind {
    match kind {
        protocol::FileKind::Regular => FileKind::Regular,
        protocol::FileKind::Executable => FileKind::Executable,
        protocol::FileKind::Symlink => FileKind::Symlink,
    }
}

pub(super) fn found_of(found: protocol::Found) -> Found {
    match found {
        protocol::Found::Nothing => Found::Nothing,
        protocol::Found::File(kind, size) => Found::File(kind_of(kind), size),
        protocol::Found::Special => Found::Special,
        protocol::Found::NestedRepository => Found::NestedRepository,
    }
}
