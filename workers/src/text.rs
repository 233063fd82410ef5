//! Small texts about outcomes: the same words on every surface.

use std::collections::VecDeque;

use tasks::{CheckOutcome, CheckResult, LimitHit};

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

/// `exit code 1`, `killed by signal 9`, `timed out`, and the limits that were hit: `killed by signal 9; out of memory …`.
pub fn exit_words(exit: &Exit) -> String {
    let words = match (exit.timed_out, exit.code, exit.signal) {
        (true, ..) => format!("timed out after {} s", exit.wall.as_secs()),
        (_, Some(code), _) => format!("exit code {code}"),
        (_, None, Some(signal)) => format!("killed by signal {signal}"),
        (_, None, None) => "ended in an unknown way".to_owned(),
    };
    with_limits(words, &exit.limits)
}

/// `passed`, `failed (exit code 1)`, `timed out after 900 s`, `killed by signal 9`; with the limits that were hit, unless
/// it passed all the same.
pub fn result_words(check: &CheckResult) -> String {
    let words = match &check.outcome {
        CheckOutcome::Passed => "passed".to_owned(),
        CheckOutcome::Failed { exit_code } => format!("failed (exit code {exit_code})"),
        CheckOutcome::Killed { signal } => format!("killed by signal {signal}"),
        CheckOutcome::TimedOut { limit_s } => format!("timed out after {limit_s} s"),
        CheckOutcome::NoTests => "no test ran".to_owned(),
    };
    match check.passed() {
        true if check.flaky => format!("{words} the second time (flaky)"),
        true => words,
        false if check.already_failing => format!("{words}, as on the base"),
        false => with_limits(words, &check.limits),
    }
}

/// The same words, and the limits that were hit behind them.
pub(crate) fn with_limits(words: String, limits: &[LimitHit]) -> String {
    limits.iter().fold(words, |words, hit| format!("{words}; {}", limit_words(hit)))
}

/// What a limit that was hit means, and where it is raised.
pub fn limit_words(hit: &LimitHit) -> String {
    let raise = |key: &str| format!("[limits] {key} in `.onramp.toml` raises it");
    match hit {
        LimitHit::Memory { bytes } => format!("it ran out of memory at {} ({})", size_words(*bytes), raise("memory")),
        LimitHit::Pids { pids } => {
            format!("it wanted more than {pids} processes and threads ({})", raise("pids"))
        }
        LimitHit::Disk { bytes } => format!("it wrote more than {} ({})", size_words(*bytes), raise("disk")),
        LimitHit::Output { bytes } => {
            format!("it said more than {}, and the rest was dropped", size_words(*bytes))
        }
        LimitHit::Cpu { millicpus, held_back_ms } => format!(
            "it had to wait {} for its share of {} CPUs ({})",
            duration_words(*held_back_ms),
            *millicpus as f64 / 1000.0,
            raise("cpus")
        ),
    }
}

/// `512 bytes`, `64 MiB`, `1.5 GiB`.
fn size_words(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} bytes"),
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
        result: result_words(check),
        passed: check.passed(),
        required: check.required,
        time: duration_words(check.duration_ms),
        tail: &check.output_tail,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn a_limit_that_was_hit_is_named_with_the_key_that_raises_it() {
        let mut exit = Exit {
            code: None,
            signal: Some(9),
            timed_out: false,
            wall: Duration::from_secs(60),
            cpu: Duration::ZERO,
            max_rss_bytes: 0,
            limits: vec![LimitHit::Memory { bytes: 4 << 30 }],
        };
        insta::assert_snapshot!(exit_words(&exit), @"killed by signal 9; it ran out of memory at 4 GiB ([limits] memory in `.onramp.toml` raises it)");
        exit.limits = vec![LimitHit::Pids { pids: 1024 }, LimitHit::Disk { bytes: 3 << 29 }];
        insta::assert_snapshot!(exit_words(&exit), @"killed by signal 9; it wanted more than 1024 processes and threads ([limits] pids in `.onramp.toml` raises it); it wrote more than 1.5 GiB ([limits] disk in `.onramp.toml` raises it)");
        exit.timed_out = true;
        exit.limits =
            vec![LimitHit::Output { bytes: 64 << 20 }, LimitHit::Cpu { millicpus: 1500, held_back_ms: 41_000 }];
        insta::assert_snapshot!(exit_words(&exit), @"timed out after 60 s; it said more than 64 MiB, and the rest was dropped; it had to wait 41.0 s for its share of 1.5 CPUs ([limits] cpus in `.onramp.toml` raises it)");
        let check = |outcome| CheckResult {
            name: "test".into(),
            command: "make test".into(),
            required: true,
            outcome,
            limits: vec![LimitHit::Memory { bytes: 512 << 20 }],
            flaky: false,
            already_failing: false,
            changed: vec![],
            tests: None,
            duration_ms: 1,
            output_tail: String::new(),
        };
        insta::assert_snapshot!(result_words(&check(CheckOutcome::Failed { exit_code: 137 })), @"failed (exit code 137); it ran out of memory at 512 MiB ([limits] memory in `.onramp.toml` raises it)");
        assert_eq!(result_words(&check(CheckOutcome::Passed)), "passed");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!([999, 4_250, 665_000].map(duration_words), ["999 ms", "4.2 s", "11 min 5 s"]);
    }
}
