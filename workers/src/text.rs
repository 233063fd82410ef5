//! Small texts about outcomes: the same words on every surface.

use std::collections::VecDeque;

use tasks::{CheckOutcome, CheckResult};

use crate::sandbox::{Exit, Output};

/// How many bytes of output are kept for people to read; whole outputs go to artifacts.
const TAIL_BYTES: usize = 16 << 10;

/// The end of an output, both streams in order of arrival.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: VecDeque<u8>,
}

impl Tail {
    /// Adds a piece; the oldest bytes go when there are too many.
    pub fn push(&mut self, piece: Output<'_>) {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece;
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(TAIL_BYTES);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(bytes);
    }

    /// The last `n` lines as clean text: no terminal control codes, no carriage returns.
    pub fn lines(&self, n: usize) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = clean(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(n)..].join("\n")
    }
}

/// Text for people out of any bytes: control codes of terminals removed, what is not UTF-8 replaced.
pub fn clean(bytes: &[u8]) -> String {
    // The stripper takes tabs for control codes and would join the words beside them.
    let spaced: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| if *byte == b'\t' { &b"    "[..] } else { std::slice::from_ref(byte) })
        .copied()
        .collect();
    let text = String::from_utf8_lossy(&strip_ansi_escapes::strip(spaced)).into_owned();
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// `exit code 1`, `killed by signal 9`, `timed out`.
pub fn exit_words(exit: &Exit) -> String {
    match (exit.timed_out, exit.code, exit.signal) {
        (true, ..) => format!("timed out after {} s", exit.wall.as_secs()),
        (_, Some(code), _) => format!("exit code {code}"),
        (_, None, Some(signal)) => format!("killed by signal {signal}"),
        (_, None, None) => "ended in an unknown way".to_owned(),
    }
}

/// `passed`, `failed (exit code 1)`, `timed out after 900 s`, `killed by signal 9`.
pub fn result_words(outcome: &CheckOutcome) -> String {
    match outcome {
        CheckOutcome::Passed => "passed".to_owned(),
        CheckOutcome::Failed { exit_code } => format!("failed (exit code {exit_code})"),
        CheckOutcome::Killed { signal } => format!("killed by signal {signal}"),
        CheckOutcome::TimedOut { limit_s } => format!("timed out after {limit_s} s"),
    }
}

/// `350 ms`, `4.2 s`, `11 min 5 s`.
pub fn duration_words(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{}.{} s", milliseconds / 1_000, milliseconds % 1_000 / 100),
        _ => format!("{} min {} s", milliseconds / 60_000, milliseconds % 60_000 / 1_000),
    }
}

/// A check for any template.
pub fn check_line(check: &CheckResult) -> templates::CheckLine<'_> {
    templates::CheckLine {
        name: &check.name,
        command: &check.command,
        result: result_words(&check.outcome),
        passed: check.passed(),
        required: check.required,
        time: duration_words(check.duration_ms),
        tail: &check.output_tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_end_and_no_control_codes() {
        let mut tail = Tail::default();
        tail.push(Output::Stdout(&vec![b'x'; 3 * TAIL_BYTES]));
        tail.push(Output::Stderr(b"\n\x1b[31mred\x1b[0m\r\nlast \x07bell\n"));
        assert_eq!(tail.lines(2), "red\nlast bell");
        assert!(tail.bytes.len() <= TAIL_BYTES);
    }

    #[test]
    fn a_tab_stays_a_gap() {
        assert_eq!(clean(b"ok\texample\t0.1s"), "ok    example    0.1s");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!([999, 4_250, 665_000].map(duration_words), ["999 ms", "4.2 s", "11 min 5 s"]);
    }
}
