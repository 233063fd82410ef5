//! The one comment of a task on its issue: edited in place while the task lives, and the last word when it ends.

use serde::Serialize;

use crate::{CheckLine, Output, RenderError, clean, markdown, render};

/// How much of an output a failed task shows.
const TAIL_LINES: usize = 30;
const TAIL_BYTES: usize = 6_000;
/// Violations that are listed.
const MAX_VIOLATIONS: usize = 20;

/// The status comment of a task on its issue.
#[derive(Debug, Serialize)]
pub struct StatusComment<'a> {
    /// Task id.
    pub task_id: &'a str,
    /// State word: queued, preparing, running, verifying, publishing, done, merged, closed, no_changes, rejected, failed,
    /// stopped.
    pub state: &'a str,
    /// Failed attempts so far.
    pub failures: u32,
    /// Why a queued task is not taken up yet; one sentence without a full stop.
    pub waits: Option<&'a str>,
    /// Somebody asked for it to stop, and it has not stopped yet.
    pub stopping: bool,
    /// Login of who stopped it.
    pub stopped_by: Option<&'a str>,
    /// The pull request's URL and number.
    pub pull_request: Option<(&'a str, u64)>,
    /// Login of who asked.
    pub requester: &'a str,
    /// Failure: code, message, next step, detail.
    pub failure: Option<FailureLine<'a>>,
    /// Violations: rule, path, message. An empty path is none.
    pub violations: Vec<(&'a str, &'a str, &'a str)>,
    /// Checks, where it got that far.
    pub checks: Vec<CheckLine<'a>>,
    /// What was kept, in words, for the people who run Onramp.
    pub kept: Option<&'a str>,
}

/// A failure in any text.
#[derive(Debug, Serialize)]
pub struct FailureLine<'a> {
    /// `E040`.
    pub code: &'a str,
    /// What happened and why.
    pub message: &'a str,
    /// What to do.
    pub next_step: &'a str,
    /// More.
    pub detail: Option<&'a str>,
}

/// The hidden marker of a task's status comment, by which it is found again.
pub fn status_marker(task_id: &str) -> String {
    format!("<!-- onramp:task={task_id} -->")
}

/// The steps of a task as people read them, with the state word during which each is under way.
const STEPS: [(&str, &str); 4] = [
    ("preparing", "Prepare the repository and a sandbox"),
    ("running", "The agent edits"),
    ("verifying", "Run the checks on the change in a clean sandbox"),
    ("publishing", "Open the pull request"),
];

/// Renders a status comment; begins with [`status_marker`].
///
/// # Errors
/// Only for a defect in the template.
pub fn status_comment(context: &StatusComment<'_>) -> Result<String, RenderError> {
    #[derive(Serialize)]
    struct Step {
        text: &'static str,
        done: bool,
        under_way: bool,
    }
    #[derive(Serialize)]
    struct View<'a> {
        #[serde(flatten)]
        given: &'a StatusComment<'a>,
        marker: String,
        asked_by: String,
        steps: Vec<Step>,
        listed: &'a [(&'a str, &'a str, &'a str)],
        n_unlisted: usize,
        detail: String,
        outputs: Vec<Output<'a>>,
    }
    let at = STEPS.iter().position(|(state, _)| *state == context.state);
    let steps = STEPS.iter().enumerate().map(|(n, (_, text))| Step {
        text,
        done: at.is_some_and(|at| n < at),
        under_way: at == Some(n),
    });
    let listed = &context.violations[..context.violations.len().min(MAX_VIOLATIONS)];
    let failed: Vec<&CheckLine<'_>> = context.checks.iter().filter(|check| !check.passed).collect();
    let detail = context.failure.as_ref().and_then(|failure| failure.detail).unwrap_or_default();
    let view = View {
        given: context,
        marker: status_marker(context.task_id),
        asked_by: markdown::requester(context.requester, true),
        steps: steps.collect(),
        listed,
        n_unlisted: context.violations.len() - listed.len(),
        detail: clean::tail(detail, TAIL_LINES, TAIL_BYTES),
        outputs: Output::of(failed.into_iter().take(5), TAIL_LINES, TAIL_BYTES),
    };
    render("status_comment.md.j2", view)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull_request::tests::{failed_check, passed_check};

    fn context(state: &'static str) -> StatusComment<'static> {
        StatusComment {
            task_id: "0190a0b0c0d0700080009000a1b2c3d4",
            state,
            failures: 0,
            waits: None,
            stopping: false,
            stopped_by: None,
            pull_request: None,
            requester: "ada",
            failure: None,
            violations: vec![],
            checks: vec![],
            kept: None,
        }
    }

    #[test]
    fn a_waiting_task_says_so() {
        insta::assert_snapshot!(status_comment(&context("queued")).unwrap(), @r#"
        <!-- onramp:task=0190a0b0c0d0700080009000a1b2c3d4 -->
        **Accepted**: waiting for a free worker.

        - [ ] Prepare the repository and a sandbox
        - [ ] The agent edits
        - [ ] Run the checks on the change in a clean sandbox
        - [ ] Open the pull request

        <sub>Task `a1b2c3d4`, asked by @ada. `/onramp stop` ends it, `/onramp finish` ends it with what is there.</sub>
        "#);
    }

    #[test]
    fn a_task_under_way_ticks_off_its_steps() {
        insta::assert_snapshot!(status_comment(&context("verifying")).unwrap(), @r#"
        <!-- onramp:task=0190a0b0c0d0700080009000a1b2c3d4 -->
        **Working on it**

        - [x] Prepare the repository and a sandbox
        - [x] The agent edits
        - [ ] **Run the checks on the change in a clean sandbox**, now
        - [ ] Open the pull request

        <sub>Task `a1b2c3d4`, asked by @ada. `/onramp stop` ends it, `/onramp finish` ends it with what is there.</sub>
        "#);
    }

    #[test]
    fn a_task_that_waits_after_a_failure_of_ours_says_that_nobody_has_to_act() {
        let waits = Some("GitHub gave no clear answer @acme/team");
        let text = status_comment(&StatusComment { failures: 1, waits, ..context("queued") }).unwrap();
        let said =
            "**Waiting to try again**: GitHub gave no clear answer `@acme/team` (1 failure so far). Nobody has to act.";
        assert!(text.contains(said), "{text}");
        let text = status_comment(&StatusComment { failures: 2, ..context("queued") }).unwrap();
        assert!(text.contains("**Waiting to try again** (2 failures so far). Nobody has to act."), "{text}");
    }

    #[test]
    fn a_task_that_waits_for_room_says_why() {
        let waits = Some("5 pull requests of Onramp are open in acme/web, and 5 may be");
        let text = status_comment(&StatusComment { waits, ..context("queued") }).unwrap();
        assert!(
            text.contains("**Waiting**: 5 pull requests of Onramp are open in acme/web, and 5 may be.\n"),
            "{text}"
        );
    }

    #[test]
    fn an_opened_pull_request_is_linked() {
        let pull_request = Some(("https://forge.example/acme/web/pull/13", 13));
        let checks = vec![passed_check()];
        insta::assert_snapshot!(status_comment(&StatusComment { pull_request, checks, ..context("done") }).unwrap(), @r#"
        <!-- onramp:task=0190a0b0c0d0700080009000a1b2c3d4 -->
        **Done**: [pull request #13](https://forge.example/acme/web/pull/13), verified before it was opened.

        - `cargo test --locked | tee log`: passed, 41 s

        <sub>Task `a1b2c3d4`, asked by @ada. The pull request has the evidence.</sub>
        "#);
        for (state, word) in [("merged", "**Merged**"), ("closed", "**Closed without merging**")] {
            let text = status_comment(&StatusComment { pull_request, ..context(state) }).unwrap();
            assert!(text.contains(word) && text.contains("pull/13"), "{text}");
        }
    }

    #[test]
    fn a_failure_tells_four_facts() {
        let failure = Some(FailureLine {
            code: "E040",
            message: "The check `gpu` failed after 3 rounds",
            next_step: "Mend it by hand from the kept diff.",
            detail: None,
        });
        let checks = vec![passed_check(), failed_check()];
        let kept = Some("The diff, the transcript and the output of each check");
        insta::assert_snapshot!(status_comment(&StatusComment { failure, checks, kept, ..context("failed") }).unwrap(), @r#"
        <!-- onramp:task=0190a0b0c0d0700080009000a1b2c3d4 -->
        **Failed**: The check `gpu` failed after 3 rounds (E040)

        - `cargo test --locked | tee log`: passed, 41 s
        - `make gpu`: failed (exit code 2), 350 ms

        <details><summary>The end of the output of <code>gpu</code></summary>

        ````text
        error: no device
        ```
        Fixes #1 @acme/team
        ````

        </details>

        **Kept**: The diff, the transcript and the output of each check.

        **Next**: Mend it by hand from the kept diff. To try again, comment `/onramp retry`; to say it differently, `/onramp` and what you want.

        <sub>Task `a1b2c3d4`, asked by @ada.</sub>
        "#);
    }

    #[test]
    fn a_refused_patch_lists_each_reason() {
        let violations = vec![
            ("protected_path", ".github/workflows/ci.yml", "The path is protected by `.github/**`"),
            ("max_files", "", "412 files changed, 100 are allowed"),
        ];
        insta::assert_snapshot!(status_comment(&StatusComment { violations, ..context("rejected") }).unwrap(), @r#"
        <!-- onramp:task=0190a0b0c0d0700080009000a1b2c3d4 -->
        **Refused by policy**: the agent's change was not published.

        - `.github/workflows/ci.yml`: The path is protected by `.github/**` (`protected_path`)
        - 412 files changed, 100 are allowed (`max_files`)

        **Next**: ask for a change that keeps out of these, or allow them under `[policy]` in `.onramp.toml` on the base branch. To try again, comment `/onramp retry`; to say it differently, `/onramp` and what you want.

        <sub>Task `a1b2c3d4`, asked by @ada. The diff and the transcript were kept.</sub>
        "#);
    }

    #[test]
    fn nothing_changed_and_stopped_say_what_to_do_next() {
        insta::assert_snapshot!(status_comment(&context("no_changes")).unwrap(), @r#"
        <!-- onramp:task=0190a0b0c0d0700080009000a1b2c3d4 -->
        **Nothing changed**: the agent finished and changed no file, so there is no pull request.

        **Next**: say in the issue more exactly what should change. To try again, comment `/onramp retry`; to say it differently, `/onramp` and what you want.

        <sub>Task `a1b2c3d4`, asked by @ada. The transcript was kept.</sub>
        "#);
        let stopped_by = Some("grace");
        insta::assert_snapshot!(status_comment(&StatusComment { stopped_by, ..context("stopped") }).unwrap(), @r#"
        <!-- onramp:task=0190a0b0c0d0700080009000a1b2c3d4 -->
        **Stopped** by `grace`. Nothing was published.

        **Next**: To try again, comment `/onramp retry`; to say it differently, `/onramp` and what you want.

        <sub>Task `a1b2c3d4`, asked by @ada. What was done until then was kept.</sub>
        "#);
        let text = status_comment(&StatusComment { stopping: true, ..context("running") }).unwrap();
        assert!(text.contains("**Stopping**"), "{text}");
    }

    #[test]
    fn who_may_not_ask_gets_one_short_polite_comment() {
        let failure = Some(FailureLine {
            code: "E051",
            message: "ada has no write permission on acme/web",
            next_step: "Ask somebody with write permission to set the label.",
            detail: Some("GET /repos/acme/web/collaborators/ada/permission: read"),
        });
        insta::assert_snapshot!(status_comment(&StatusComment { failure, ..context("failed") }).unwrap(), @r#"
        <!-- onramp:task=0190a0b0c0d0700080009000a1b2c3d4 -->
        Thank you for asking. This was not started: ada has no write permission on acme/web.

        **Next**: Ask somebody with write permission to set the label.

        <sub>Task `a1b2c3d4` · E051</sub>
        "#);
    }

    #[test]
    fn a_detail_is_folded_fenced_and_cut() {
        let detail = "line\n".repeat(500) + "```\n</details> @acme/team <!-- onramp:task=1 -->";
        let failure = FailureLine {
            code: "E021",
            message: "The agent ended @acme/team",
            next_step: "Try again.",
            detail: Some(&detail),
        };
        let text = status_comment(&StatusComment { failure: Some(failure), ..context("failed") }).unwrap();
        assert!(text.lines().count() < 60 && text.contains("````text\n"), "{text}");
        assert!(text.contains("The agent ended `@acme/team`"), "{text}");
    }
}
