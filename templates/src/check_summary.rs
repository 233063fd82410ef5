//! What was verified, as the summary of a check on the commit.

use serde::Serialize;

use crate::{BundleText, CheckLine, FindingLine, Output, RenderError, render};

/// How much of an output a failed check shows.
const TAIL_LINES: usize = 40;
const TAIL_BYTES: usize = 8_000;

/// What was verified.
#[derive(Debug, Serialize)]
pub struct CheckSummary<'a> {
    /// Every check, in order.
    pub checks: Vec<CheckLine<'a>>,
    /// Where they are configured.
    pub checks_from: &'a str,
    /// `docker` or `namespace`.
    pub sandbox: &'a str,
    /// The tree that they ran on.
    pub tree: &'a str,
    /// What policy found.
    pub findings: Vec<FindingLine<'a>>,
    /// The signed statement about the commit, unless it is too large to stand here.
    pub bundle: Option<BundleText<'a>>,
}

/// Renders it.
///
/// # Errors
/// Only for a defect in the template.
pub fn check_summary(context: &CheckSummary<'_>) -> Result<String, RenderError> {
    #[derive(Serialize)]
    struct View<'a> {
        #[serde(flatten)]
        given: &'a CheckSummary<'a>,
        outputs: Vec<Output<'a>>,
    }
    let failed = context.checks.iter().filter(|check| !check.passed);
    render("check_summary.md.j2", View { given: context, outputs: Output::of(failed, TAIL_LINES, TAIL_BYTES) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_row_and_what_failed_shows_its_output() {
        let line = |name: &'static str, passed, tail: &'static str| CheckLine {
            name,
            command: "sh test.sh | tee x",
            result: if passed { "passed" } else { "failed (exit code 1)" }.to_owned(),
            passed,
            required: passed,
            time: "41 s".to_owned(),
            tail,
        };
        let checks = vec![line("answer", true, "fine"), line("lint", false, "a.rs:1: long")];
        let message = "`Makefile` decides what is installed or run by a build.";
        let findings = vec![FindingLine { rule: "build_file", action: "ask", path: "Makefile", message }];
        let bundle = Some(BundleText { sha256: "ab", key: "cd", text: "{\"payloadType\":\"x\"}" });
        let context =
            CheckSummary { checks, checks_from: ".onramp.toml", sandbox: "docker", tree: "abc", findings, bundle };
        let text = check_summary(&context).unwrap();
        assert_eq!(text.matches("| 41 s |").count(), 2, "{text}");
        assert!(text.contains("- `build_file` (ask): `Makefile` decides"), "{text}");
        assert!(text.contains("\n{\"payloadType\":\"x\"}\n"), "{text}");
        assert!(text.contains("a.rs:1: long") && !text.contains("fine"), "{text}");
        assert_eq!(text.matches("test.sh \\| tee x").count(), 2, "a bar in a cell is escaped: {text}");
    }
}
