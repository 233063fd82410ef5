//! A failure as a person at a terminal reads it: what happened, why, and what to do next.

use std::io::Write;

use tasks::Failure;
use workers::text;

/// How much of a failure's detail is shown; the rest lies in the log or in the artifacts.
const MAX_DETAIL_LINES: usize = 30;
const MAX_LINE_CHARS: usize = 300;

/// Prints it on standard error. Colour is the caller's decision: only on a terminal, and not with `NO_COLOR`.
pub fn print(failure: &Failure, colour: bool) {
    // A standard error that is gone cannot be told about.
    let _ = std::io::stderr().write_all(render(failure, colour).as_bytes());
}

/// The text of [`print()`].
///
/// The detail may come out of a sandbox: control codes of terminals are removed, long lines are cut.
pub fn render(failure: &Failure, colour: bool) -> String {
    let paint = |code, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let head = paint("1;31", &format!("error[{}]", failure.code));
    let mut shown = format!("{head}: {}\n", paint("1", &one_line(&failure.message)));
    if let Some(detail) = &failure.detail {
        let detail = text::clean(detail.as_bytes());
        let lines: Vec<_> = detail.trim_end().lines().collect();
        let n_before = lines.len().saturating_sub(MAX_DETAIL_LINES);
        if n_before > 0 {
            shown.push_str(&format!("  … ({n_before} lines before)\n"));
        }
        for line in &lines[n_before..] {
            shown.push_str(format!("  {}", cut(line)).trim_end());
            shown.push('\n');
        }
    }
    shown.push_str(&format!("  {}: {}\n", paint("1;36", "next"), one_line(&failure.next_step)));
    shown
}

fn one_line(sentence: &str) -> String {
    text::clean(sentence.as_bytes()).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(MAX_LINE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tasks::Code;

    use super::*;

    #[test]
    fn it_says_what_why_and_what_next() {
        let failure =
            Failure::new(Code::ImageMissing, "The image acme/dev:1 is not on the engine and cannot be pulled")
                .detail("pull access denied for acme/dev\nrepository does not exist\n");
        insta::assert_snapshot!(render(&failure, false), @r"
        error[E012]: The image acme/dev:1 is not on the engine and cannot be pulled
          pull access denied for acme/dev
          repository does not exist
          next: Check the name under [environment] image in `.onramp.toml`, or `docker pull` it yourself first.
        ");
    }

    #[test]
    fn without_a_detail_there_are_two_lines() {
        let failure = Failure::new(Code::EmptyInstruction, "The instruction\nis empty").next("Say what to do.");
        insta::assert_snapshot!(render(&failure, false), @r"
        error[E001]: The instruction is empty
          next: Say what to do.
        ");
    }

    #[test]
    fn of_a_long_detail_the_end_is_shown() {
        let detail: String = (1..=100).map(|n| format!("line {n}\n")).collect();
        let shown = render(&Failure::new(Code::SetupFailed, "x").detail(detail), false);
        assert_eq!(shown.lines().count(), 1 + 1 + MAX_DETAIL_LINES + 1);
        assert!(
            shown.contains("\n  … (70 lines before)\n  line 71\n") && shown.contains("\n  line 100\n  next: "),
            "{shown}"
        );
        let shown = render(&Failure::new(Code::SetupFailed, "x").detail("ü".repeat(5000)), false);
        assert!(shown.lines().all(|line| line.chars().count() < 310));
    }

    #[test]
    fn colour_is_ours_alone() {
        let failure = Failure::new(Code::ChecksFailed, "a \x1b[2Jb").detail("\x1b]52;c;eA==\x07red\x1b[31m\rover");
        assert!(!render(&failure, false).contains(['\x1b', '\x07', '\r']));
        let shown = render(&failure, true);
        assert!(shown.starts_with("\x1b[1;31merror[E040]\x1b[0m: \x1b[1ma b\x1b[0m\n"), "{shown:?}");
        assert_eq!(shown.matches('\x1b').count(), 6, "{shown:?}");
    }
}
