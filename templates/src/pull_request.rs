//! The body of a pull request: at most 25 lines that a reviewer sees, the rest folded.

use serde::Serialize;

use crate::{CheckLine, Output, RenderError, markdown, render};

/// What forges take with room to spare: GitHub refuses a body of more than 65,536 characters.
const MAX_BODY_BYTES: usize = 60_000;
/// Rows of the table of checks that are seen without unfolding.
const MAX_ROWS: usize = 4;
/// Lines of the summary that are seen without unfolding.
const MAX_SUMMARY_LINES: usize = 5;
const MAX_SUMMARY_CHARS: usize = 1_500;
/// Blocked hosts that are named.
const MAX_HOSTS: usize = 5;
/// Outputs that are shown, those of failed checks first.
const MAX_OUTPUTS: usize = 20;
const TAIL_LINES: usize = 40;
/// Findings that are named without unfolding, and with it.
const MAX_ASKS: usize = 5;
const MAX_FINDINGS: usize = 40;
/// A larger statement is only named; it lies with the artifacts.
const MAX_BUNDLE_BYTES: usize = 24_000;

/// The pull request.
#[derive(Debug, Serialize)]
pub struct PullRequestText<'a> {
    /// Issue number: `Fixes #N`.
    pub issue: Option<u64>,
    /// Title of the request.
    pub title: &'a str,
    /// What the agent said; cleaned by the render function.
    pub summary: Option<&'a str>,
    /// Task id.
    pub task_id: &'a str,
    /// The published commit, short.
    pub head: &'a str,
    /// Base commit, short.
    pub base: &'a str,
    /// Tree.
    pub tree: &'a str,
    /// Patch digest.
    pub patch_sha256: &'a str,
    /// The end of the journal when the attempt began, `123:9f86d0…`, where there is a journal.
    pub journal: Option<String>,
    /// (files, added, removed).
    pub stat: (u64, u64, u64),
    /// Checks.
    pub checks: Vec<CheckLine<'a>>,
    /// Where the checks' configuration came from.
    pub checks_from: &'a str,
    /// `docker`.
    pub sandbox: &'a str,
    /// `rust:1.91@sha256:…`.
    pub environment: &'a str,
    /// Agent.
    pub agent: &'a str,
    /// Rounds.
    pub rounds: u32,
    /// Login of who asked.
    pub requester: &'a str,
    /// `11 m`.
    pub time: String,
    /// `12,345 in, 678 out`, when the agent said.
    pub tokens: Option<String>,
    /// `$0.84`, when the agent said.
    pub cost: Option<String>,
    /// Refused hosts.
    pub blocked_hosts: Vec<&'a str>,
    /// The lines of `.onramp.toml` that would allow them, as far as it can.
    pub allow_lines: Vec<String>,
    /// The tier of risk, where there is one.
    pub tier: Option<TierLine<'a>>,
    /// What policy found, in the order in which it was found.
    pub findings: Vec<FindingLine<'a>>,
    /// The signed statement, where one was made.
    pub bundle: Option<BundleText<'a>>,
}

/// The tier of risk.
#[derive(Debug, Clone, Serialize)]
pub struct TierLine<'a> {
    /// Its name.
    pub name: &'a str,
    /// The reasons.
    pub because: String,
    /// How many people are to approve; 0: it says nothing of it.
    pub approvals: u32,
}

/// Something that policy found.
#[derive(Debug, Clone, Serialize)]
pub struct FindingLine<'a> {
    /// The rule: `build_file`.
    pub rule: &'a str,
    /// `ask` or `note`.
    pub action: &'a str,
    /// The path; empty: none.
    pub path: &'a str,
    /// What was found.
    pub message: &'a str,
}

/// The signed statement.
#[derive(Debug, Clone, Serialize)]
pub struct BundleText<'a> {
    /// SHA-256 of its file.
    pub sha256: &'a str,
    /// The id of the key.
    pub key: &'a str,
    /// One line of JSON.
    pub text: &'a str,
}

/// What the template sees besides.
#[derive(Serialize)]
struct View<'a> {
    #[serde(flatten)]
    given: &'a PullRequestText<'a>,
    /// The summary in two parts: seen, and folded.
    seen: Vec<String>,
    folded: Vec<String>,
    /// The checks in two parts, what did not pass first.
    rows: Vec<&'a CheckLine<'a>>,
    more_rows: Vec<&'a CheckLine<'a>>,
    outputs: Vec<Output<'a>>,
    hosts: &'a [&'a str],
    n_more_hosts: usize,
    /// Findings that ask, seen; all of them, folded.
    asks: Vec<&'a FindingLine<'a>>,
    n_more_asks: usize,
    all_findings: Vec<&'a FindingLine<'a>>,
    n_more_findings: usize,
    /// The statement is small enough to stand in the text.
    shows_bundle: bool,
    asked_by: String,
}

/// Renders a pull request body of at most 60,000 bytes: outputs are cut shorter until it fits.
///
/// # Errors
/// Only for a defect in the template.
pub fn pull_request(context: &PullRequestText<'_>) -> Result<String, RenderError> {
    let summary = markdown::prose(context.summary.unwrap_or_default(), MAX_SUMMARY_CHARS);
    let mut seen: Vec<String> = summary.lines().map(str::to_owned).collect();
    let folded = seen.split_off(seen.len().min(MAX_SUMMARY_LINES));

    let (passed, others): (Vec<_>, Vec<_>) = context.checks.iter().partition(|check| check.passed);
    let mut rows: Vec<_> = others.into_iter().chain(passed).collect();
    let shown: Vec<_> = rows.iter().copied().take(MAX_OUTPUTS).collect();
    let more_rows = rows.split_off(rows.len().min(MAX_ROWS));

    let hosts = &context.blocked_hosts[..context.blocked_hosts.len().min(MAX_HOSTS)];
    let (asks, _): (Vec<_>, Vec<_>) = context.findings.iter().partition(|finding| finding.action == "ask");
    let n_asks = asks.len();
    let mut view = View {
        given: context,
        seen,
        folded,
        rows,
        more_rows,
        outputs: Vec::new(),
        hosts,
        n_more_hosts: context.blocked_hosts.len() - hosts.len(),
        asks: asks.into_iter().take(MAX_ASKS).collect(),
        n_more_asks: n_asks.saturating_sub(MAX_ASKS),
        all_findings: context.findings.iter().take(MAX_FINDINGS).collect(),
        n_more_findings: context.findings.len().saturating_sub(MAX_FINDINGS),
        shows_bundle: context.bundle.as_ref().is_some_and(|bundle| bundle.text.len() <= MAX_BUNDLE_BYTES),
        asked_by: markdown::requester(context.requester, context.issue.is_some()),
    };
    let mut max_bytes = 16_000;
    loop {
        view.outputs = Output::of(shown.iter().copied(), TAIL_LINES, max_bytes);
        let body = render("pull_request.md.j2", &view)?;
        if body.len() <= MAX_BODY_BYTES {
            return Ok(body);
        }
        // Halve the outputs; when there is nothing left of them, the folded rows were too many.
        match max_bytes {
            0 => view.more_rows.truncate(view.more_rows.len() / 2),
            1..=500 => max_bytes = 0,
            _ => max_bytes /= 2,
        }
        if max_bytes == 0 && view.more_rows.is_empty() {
            return Ok(body);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn passed_check() -> CheckLine<'static> {
        CheckLine {
            name: "test",
            command: "cargo test --locked | tee log",
            result: "passed".into(),
            passed: true,
            required: true,
            time: "41 s".into(),
            tail: "running 214 tests\ntest result: ok. 214 passed\n",
        }
    }

    pub(crate) fn failed_check() -> CheckLine<'static> {
        CheckLine {
            name: "gpu",
            command: "make gpu",
            result: "failed (exit code 2)".into(),
            passed: false,
            required: false,
            time: "350 ms".into(),
            tail: "\x1b[31merror\x1b[0m: no device\r\n```\nFixes #1 @acme/team\n",
        }
    }

    fn context() -> PullRequestText<'static> {
        PullRequestText {
            issue: Some(12),
            title: "The pager drops the last row",
            summary: Some(
                "The pager counted from 1, so the last row fell off. It now counts from `0`.\n\nThanks @acme/team! Closes #99 <!-- hidden -->",
            ),
            task_id: "0190a0b0c0d0700080009000a1b2c3d4",
            head: "d4e5f6a7b8",
            base: "main@a1b2c3d4e5",
            tree: "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
            patch_sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            journal: None,
            stat: (3, 41, 7),
            checks: vec![passed_check(), failed_check()],
            checks_from: ".onramp.toml",
            sandbox: "docker",
            environment: "rust:1.91@sha256:0011",
            agent: "claude",
            rounds: 2,
            requester: "ada",
            time: "11 min 5 s".into(),
            tokens: Some("12,345 in, 678 out".into()),
            cost: None,
            blocked_hosts: vec!["evil.example"],
            allow_lines: vec!["allow = [\"evil.example\"]".into()],
            tier: None,
            findings: vec![],
            bundle: None,
        }
    }

    fn ask(path: &'static str) -> FindingLine<'static> {
        FindingLine {
            rule: "new_dependency",
            action: "ask",
            path,
            message: "`Cargo.toml` adds a dependency: `left-pad 0.1`.",
        }
    }

    fn visible_lines(body: &str) -> usize {
        let mut folded = false;
        let mut n_lines = 0;
        for line in body.lines() {
            folded |= line.starts_with("<details>");
            n_lines += usize::from(!folded && !line.trim().is_empty());
            if line == "</details>" {
                folded = false;
                n_lines += 1;
            }
        }
        n_lines
    }

    #[test]
    fn a_pull_request_shows_its_evidence_and_nothing_acts() {
        insta::assert_snapshot!(pull_request(&context()).unwrap(), @r#"
        Fixes #12

        > The pager counted from 1, so the last row fell off. It now counts from `0`.
        >
        > Thanks `@acme/team`! Closes `#99`

        3 files changed, +41 -7.

        **Verified** at `d4e5f6a7b8` in a clean `docker` sandbox; checks from `.onramp.toml`.

        | check | result | time |
        |---|---|---|
        | `make gpu` | failed (exit code 2) | 350 ms |
        | `cargo test --locked \| tee log` | passed | 41 s |

        **Not verified**: `gpu` failed (exit code 2) (an optional check).

        **Blocked hosts**: `evil.example`. To allow, in `.onramp.toml` on the base branch under `[network]`: `allow = ["evil.example"]`

        <details><summary>Output of the checks (the end of each)</summary>

        `gpu`

        ````text
        error: no device
        ```
        Fixes #1 @acme/team
        ````

        `test`

        ```text
        running 214 tests
        test result: ok. 214 passed
        ```

        </details>

        <sub>Asked by @ada · task `0190a0b0c0d0700080009000a1b2c3d4` · `claude`, 2 rounds, 11 min 5 s · tokens 12,345 in, 678 out · cost not reported · `docker` on `rust:1.91@sha256:0011` · base `main@a1b2c3d4e5` · tree `4b825dc642cb6eb9a060e54bf8d69288fbee4904` · patch `9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`</sub>
        "#);
    }

    #[test]
    fn what_is_not_known_is_left_out_or_said_never_zero() {
        let context = PullRequestText {
            issue: None,
            summary: None,
            checks: vec![passed_check()],
            tokens: None,
            rounds: 1,
            requester: "root",
            stat: (1, 1, 0),
            blocked_hosts: vec![],
            allow_lines: vec![],
            ..context()
        };
        insta::assert_snapshot!(pull_request(&context).unwrap(), @r#"
        1 file changed, +1 -0.

        **Verified** at `d4e5f6a7b8` in a clean `docker` sandbox; checks from `.onramp.toml`.

        | check | result | time |
        |---|---|---|
        | `cargo test --locked \| tee log` | passed | 41 s |

        <details><summary>Output of the checks (the end of each)</summary>

        `test`

        ```text
        running 214 tests
        test result: ok. 214 passed
        ```

        </details>

        <sub>Asked by `root` · task `0190a0b0c0d0700080009000a1b2c3d4` · `claude`, 1 round, 11 min 5 s · tokens not reported · cost not reported · `docker` on `rust:1.91@sha256:0011` · base `main@a1b2c3d4e5` · tree `4b825dc642cb6eb9a060e54bf8d69288fbee4904` · patch `9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`</sub>
        "#);
    }

    #[test]
    fn what_needs_a_look_is_named_and_what_proves_it_is_folded() {
        let note = FindingLine { rule: "binary", action: "note", path: "a.png", message: "`a.png` is a binary file." };
        let context = PullRequestText {
            checks: vec![passed_check()],
            blocked_hosts: vec![],
            tier: Some(TierLine { name: "high", because: "`src/auth/x.rs` is in `src/auth/**`".into(), approvals: 2 }),
            findings: vec![ask("Cargo.toml"), note],
            bundle: Some(BundleText { sha256: "ab12", key: "cd34", text: "{\"payloadType\":\"x\"}" }),
            ..context()
        };
        let body = pull_request(&context).unwrap();
        let from = body.find("**Risk**").unwrap();
        let to = body.find("<sub>").unwrap();
        insta::assert_snapshot!(body[from..to].trim_end(), @r#"
        **Risk** `high`: `src/auth/x.rs` is in `src/auth/**`. Wants 2 approvals.

        **Needs your look**: `new_dependency` in `Cargo.toml`.

        <details><summary>What policy found</summary>

        - `new_dependency` (ask): `Cargo.toml` adds a dependency: `left-pad 0.1`.
        - `binary` (note): `a.png` is a binary file.

        </details>

        <details><summary>Output of the checks (the end of each)</summary>

        `test`

        ```text
        running 214 tests
        test result: ok. 214 passed
        ```

        </details>

        <details><summary>Signed statement about this pull request</summary>

        SHA-256 `ab12`, signed with the key `cd34`. Checked offline: `gh pr view --json body --jq .body | onramp evidence verify - --repo . --key KEY`

        ```json
        {"payloadType":"x"}
        ```

        </details>
        "#);
        let large = "x".repeat(MAX_BUNDLE_BYTES + 1);
        let context = PullRequestText { bundle: Some(BundleText { sha256: "ab", key: "cd", text: &large }), ..context };
        assert!(!pull_request(&context).unwrap().contains(&large));
    }

    #[test]
    fn at_most_25_lines_are_seen_whatever_comes() {
        let checks = (0..30).map(|n| if n % 2 == 0 { passed_check() } else { failed_check() }).collect();
        let blocked_hosts = vec!["a.example"; 40];
        let summary = "- line\n".repeat(200);
        let findings = vec![ask("a"); 300];
        let text = "{".repeat(MAX_BUNDLE_BYTES);
        let bundle = Some(BundleText { sha256: "ab", key: "cd", text: &text });
        let tier = Some(TierLine { name: "high", because: "x".into(), approvals: 1 });
        let context = PullRequestText { findings, bundle, tier, ..context() };
        let body = pull_request(&PullRequestText { checks, blocked_hosts, summary: Some(&summary), ..context });
        let body = body.unwrap();
        assert!(visible_lines(&body) <= 25, "{} lines:\n{body}", visible_lines(&body));
        assert!(body.starts_with("Fixes #12\n"));
    }

    #[test]
    fn a_body_fits_however_long_the_outputs_are() {
        let tail = "x".repeat(300) + "\n";
        let tail = tail.repeat(60);
        for n_checks in [1, 40, 400] {
            let checks = vec![CheckLine { tail: &tail, ..passed_check() }; n_checks];
            let body = pull_request(&PullRequestText { checks, ..context() }).unwrap();
            assert!(body.len() <= MAX_BODY_BYTES, "{n_checks}: {}", body.len());
            assert!(body.trim_end().ends_with("</sub>"));
        }
    }

    #[test]
    fn no_sign_off_no_emoji_and_one_mention() {
        let body = pull_request(&context()).unwrap();
        assert!(!body.contains("Signed-off-by"));
        assert!(body.chars().all(|c| (c as u32) < 0x2600), "{body}");
        let seen = body.split("<details>").next().unwrap().to_owned() + body.lines().last().unwrap();
        let outside: String = seen.split('`').step_by(2).collect();
        assert_eq!(outside.matches('@').collect::<Vec<_>>().len(), 1, "{outside}");
    }
}
