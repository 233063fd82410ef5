//! The first pull request of a repository: a configuration that was detected, and what it came to on the untouched code.

use serde::Serialize;

use crate::{CheckLine, Output, RenderError, render};

/// Outputs that are shown, those of failed checks first.
const MAX_OUTPUTS: usize = 10;
const TAIL_LINES: usize = 40;
const TAIL_BYTES: usize = 4_000;

/// A check in the file. Both texts are TOML strings, quotes included.
#[derive(Debug, Serialize)]
pub struct CheckEntry {
    /// Name.
    pub name: String,
    /// Command line.
    pub command: String,
    /// False: it did not pass on the untouched code.
    pub required: bool,
}

/// The file. Every text is a TOML string, quotes included.
#[derive(Debug, Serialize)]
pub struct RepoConfigText {
    /// Commands.
    pub setup: Vec<String>,
    /// Commands.
    pub prebuild: Vec<String>,
    /// Checks.
    pub checks: Vec<CheckEntry>,
}

/// Renders `.onramp.toml`.
///
/// # Errors
/// Only for a defect in the template.
pub fn repo_config(context: &RepoConfigText) -> Result<String, RenderError> {
    render("onramp.toml.j2", context)
}

/// The pull request.
#[derive(Debug, Serialize)]
pub struct OnboardingText<'a> {
    /// `Cargo.toml (cargo test --locked)`.
    pub found_from: &'a str,
    /// `main@a1b2c3d`.
    pub base: &'a str,
    /// `rust:1.91@sha256:…`.
    pub environment: &'a str,
    /// The tree that was measured.
    pub tree: &'a str,
    /// The label that makes an issue a task.
    pub label: &'a str,
    /// Who asked.
    pub requester: &'a str,
    /// Results.
    pub checks: Vec<CheckLine<'a>>,
}

/// Renders the pull request's body.
///
/// # Errors
/// Only for a defect in the template.
pub fn onboarding(context: &OnboardingText<'_>) -> Result<String, RenderError> {
    #[derive(Serialize)]
    struct View<'a> {
        #[serde(flatten)]
        given: &'a OnboardingText<'a>,
        rows: Vec<&'a CheckLine<'a>>,
        failing: Vec<&'a CheckLine<'a>>,
        outputs: Vec<Output<'a>>,
    }
    let (passed, failing): (Vec<_>, Vec<_>) = context.checks.iter().partition(|check| check.passed);
    let rows: Vec<_> = failing.iter().copied().chain(passed).collect();
    let outputs = Output::of(rows.iter().copied().take(MAX_OUTPUTS), TAIL_LINES, TAIL_BYTES);
    render("onboarding.md.j2", View { given: context, rows, failing, outputs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull_request::tests::{failed_check, passed_check};

    #[test]
    fn the_file_says_what_each_line_is_for() {
        let entry =
            |name: &str, required| CheckEntry { name: format!("\"{name}\""), command: format!("\"{name}\""), required };
        let text = RepoConfigText {
            setup: vec!["\"npm ci\"".into()],
            prebuild: vec![],
            checks: vec![entry("npm test", true), entry("make gpu", false)],
        };
        insta::assert_snapshot!(repo_config(&text).unwrap(), @r##"
        # How Onramp works on this repository. It is read from this branch only, never from a change.
        # `onramp schema` prints every key; an unknown one is an error with a suggestion.
        version = 1

        [environment]
        # An image needs a Docker engine where the tasks run; without one their machine's own tools are used.
        # image = "…"
        # Run before the agent starts and before the checks run.
        setup = ["npm ci"]

        # What has to pass before a pull request exists, in a sandbox that the agent never saw.
        [[check]]
        name = "npm test"
        command = "npm test"

        [[check]]
        name = "make gpu"
        command = "make gpu"
        # It did not pass on the untouched code, so it holds nothing back yet. Mend it, then take this line out.
        required = false

        # [network]
        # allow = ["registry.example.org"]   # nothing else can be reached from a sandbox
        "##);
    }

    #[test]
    fn the_pull_request_tells_what_was_measured_and_what_it_means() {
        let context = OnboardingText {
            found_from: "Cargo.toml (cargo test --locked)",
            base: "main@a1b2c3d4e5",
            environment: "rust:1.91@sha256:0011",
            tree: "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
            label: "onramp",
            requester: "ada",
            checks: vec![passed_check(), failed_check()],
        };
        let body = onboarding(&context).unwrap();
        insta::assert_snapshot!(body.split("<details>").next().unwrap(), @r##"
        This adds `.onramp.toml`, which tells Onramp how a change to this repository is checked. It was found from `Cargo.toml (cargo test --locked)`.

        **Merge** it to keep these checks, edit it first if they are not right, or **close** it: then Onramp looks anew at each task.

        **Measured** at `main@a1b2c3d4e5` in a clean sandbox (`rust:1.91@sha256:0011`), with this one file added:

        | check | result | time |
        |---|---|---|
        | `make gpu` | failed (exit code 2) | 350 ms |
        | `cargo test --locked \| tee log` | passed | 41 s |

        **Look here first**: `gpu` did not pass on the untouched code, so it holds nothing back yet. Often a tool or a service is missing in the sandbox: name an `image`, commands for `setup`, or hosts under `[network]`.

        From then on, an issue that gets the label `onramp` from somebody with write permission becomes a pull request that passed these checks.
        "##);
        assert!(!body.contains('@') || body.split('`').step_by(2).all(|outside| !outside.contains('@')), "{body}");
    }
}
