//! What was verified, said once more as a check on the commit: where people who merge look.

use std::sync::LazyLock;

use regex::Regex;
use tasks::{Action, CheckResult, CommitSha, Evidence, Failure, Task};

use crate::{
    bundle::Bundle,
    fence::Fence,
    forge::{Annotation, CheckRun, Forge},
    text,
    verify::VerifiedPatch,
};

/// `path:line: what` or `path:line:column: what`, as compilers and linters write it.
static PLACE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^\s*(?:--> )?([\w./@+-]+\.\w+):(\d{1,7})(?::\d{1,7})?:?[ \t]*(.*)$")
        .expect("a regular expression that is tested")
});
const MAX_MESSAGE_CHARS: usize = 500;
/// A larger statement does not stand in the check: a summary has 65,535 characters at most.
const MAX_BUNDLE_BYTES: usize = 30_000;

/// Writes it, on forges that have such checks. The pull request is what counts: a check that is refused is only logged.
pub async fn check_run(
    forge: &dyn Forge,
    fence: &Fence,
    task: &Task,
    verified: &VerifiedPatch,
    evidence: &Evidence,
    bundle: &Bundle,
    head: &CommitSha,
) {
    let written = write(forge, fence, task, verified, evidence, bundle, head).await;
    if let Err(failure) = written {
        tracing::warn!(task.id = %task.id, %failure, "the check was not written; the pull request has the evidence");
    }
}

async fn write(
    forge: &dyn Forge,
    fence: &Fence,
    task: &Task,
    verified: &VerifiedPatch,
    evidence: &Evidence,
    bundle: &Bundle,
    head: &CommitSha,
) -> Result<(), Failure> {
    let checks = verified.checks();
    let summary = templates::check_summary(&templates::CheckSummary {
        checks: checks.iter().map(text::check_line).collect(),
        checks_from: &evidence.checks_from,
        sandbox: &evidence.sandbox,
        tree: evidence.tree.as_str(),
        findings: evidence.findings.iter().map(super::finding_line).collect(),
        bundle: (bundle.text.len() <= MAX_BUNDLE_BYTES).then(|| super::bundle_text(bundle)),
    });
    let n_passed = checks.iter().filter(|check| check.passed()).count();
    let asks = evidence.findings.iter().any(|finding| finding.action >= Action::Ask);
    let run = CheckRun {
        repo: &task.request.repo,
        head,
        task: &task.id.to_string(),
        is_first: task.attempt <= 1,
        title: &format!("{n_passed} of {} checks passed in a clean sandbox", checks.len()),
        summary: &summary.map_err(Failure::internal)?,
        is_clean: n_passed == checks.len() && !asks,
        annotations: &annotations(checks),
    };
    forge.check_run(fence, run).await
}

/// What checks that failed say about lines, each place once.
fn annotations(checks: &[CheckResult]) -> Vec<Annotation> {
    let mut found: Vec<Annotation> = Vec::new();
    for check in checks.iter().filter(|check| !check.passed()) {
        for place in PLACE.captures_iter(&check.output_tail) {
            let path = place[1].trim_start_matches("./");
            let is_inside = !path.starts_with('/') && path.split('/').all(|part| part != "..");
            let Some(line) = place[2].parse().ok().filter(|line| *line > 0 && is_inside) else { continue };
            if found.iter().any(|known| known.path == path && known.line == line) {
                continue;
            }
            let said = place[3].trim();
            let said = if said.is_empty() { "see the output" } else { said };
            let message = format!("{}: {said}", check.name).chars().take(MAX_MESSAGE_CHARS).collect();
            found.push(Annotation { path: path.to_owned(), line, message });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use tasks::CheckOutcome;

    use super::*;

    #[test]
    fn places_in_the_output_of_failed_checks_become_annotations() {
        let check = |name: &str, outcome, output: &str| CheckResult {
            name: name.to_owned(),
            command: "true".to_owned(),
            required: false,
            outcome,
            limits: Vec::new(),
            flaky: false,
            already_failing: false,
            changed: Vec::new(),
            tests: None,
            duration_ms: 1,
            output_tail: output.to_owned(),
        };
        let output = "warning: unused\n  --> src/pager.rs:88:9\n./lib/a.js:3: no semicolon\n./lib/a.js:3: again\n\
                      /etc/passwd:1: x\n../up.rs:2: x\nat 12:30:45 it ended\nsrc/b.py:0: x\n";
        let checks = [
            check("lint", CheckOutcome::Failed { exit_code: 1 }, output),
            check("test", CheckOutcome::Passed, "src/c.rs:1: x"),
        ];
        let found: Vec<_> =
            annotations(&checks).into_iter().map(|a| format!("{}:{} {}", a.path, a.line, a.message)).collect();
        assert_eq!(found, ["src/pager.rs:88 lint: see the output", "lib/a.js:3 lint: no semicolon"]);
    }
}
