//! The words: every text that people or agents read, one render function each.
//!
//! The texts are the `.j2` files beside this crate, embedded in the binary. What fills them is typed: a context struct per
//! text. Much of it was written by strangers or by an agent, so the templates never print such a field bare; they send
//! it through a filter: `code`, `brief`, `cell`, `command`, `fence`, `prose`.

mod agents;
mod attention;
mod check_summary;
mod clean;
mod commit;
mod images;
mod markdown;
mod onboarding;
mod pages;
mod prompt;
mod pull_request;
mod repository_template;
mod setup;
mod slack;
mod stale;
mod status_comment;
mod triggers;

use std::sync::LazyLock;

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

pub use agents::{AGENTS, BUDGET_WARNING, BUILTIN_AGENT, PRESETS, PRICES};
pub use attention::{Attention, attention, attention_marker};
pub use check_summary::{CheckSummary, check_summary};
pub use clean::{clean_untrusted, cut, one_line, redact_tokens};
pub use commit::{CommitMessage, commit_message, subject};
pub use images::{SANDBOX_IMAGES, sandbox_image, version_in_image};
pub use onboarding::{CheckEntry, OnboardingText, RepoConfigText, onboarding, repo_config};
pub use pages::{ASSETS, page};
pub use prompt::{Prompt, RepairPrompt, prompt, repair_prompt};
pub use pull_request::{BundleText, FindingLine, PullRequestText, TierLine, pull_request};
pub use repository_template::into_repository_template;
pub use setup::{SETUP_CSS, SetupApp, SetupAsk, SetupPage, SetupRepository, SetupTrouble, setup_page};
pub use slack::{SlackMessage, SlackQuestion, SlackText, slack_message, slack_question, slack_quote};
pub use stale::{StaleNote, stale, stale_marker};
pub use status_comment::{FailureLine, StatusComment, status_comment, status_marker};
pub use triggers::{Sent, TRIGGERS, Trigger, TriggerError, TriggerTexts, Triggered};

/// A template that could not be rendered: a defect of ours, since every template is rendered by a test.
#[derive(Debug, thiserror::Error)]
#[error("cannot render the template {name}")]
pub struct RenderError {
    /// Which.
    pub name: String,
    /// Why.
    #[source]
    pub source: minijinja::Error,
}

/// One check in any text.
#[derive(Debug, Clone, Serialize)]
pub struct CheckLine<'a> {
    /// Name.
    pub name: &'a str,
    /// Command.
    pub command: &'a str,
    /// `passed`, `failed (exit code 1)`, `timed out after 900 s`, `killed by signal 9`.
    pub result: String,
    /// Passed?
    pub passed: bool,
    /// Holds the pull request back when it fails?
    pub required: bool,
    /// `41 s`, `350 ms`.
    pub time: String,
    /// The end of its output.
    pub tail: &'a str,
}

/// The end of a check's output, cut and made harmless, ready for a fence.
#[derive(Debug, Serialize)]
struct Output<'a> {
    name: &'a str,
    tail: String,
}

impl<'a> Output<'a> {
    /// The outputs that say anything.
    fn of(checks: impl IntoIterator<Item = &'a CheckLine<'a>>, max_lines: usize, max_bytes: usize) -> Vec<Self> {
        let outputs =
            checks.into_iter().map(|c| Self { name: c.name, tail: clean::tail(c.tail, max_lines, max_bytes) });
        outputs.filter(|output| !output.tail.is_empty()).collect()
    }
}

static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("only delimiters can be wrong, and those are the usual ones"));
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    for (name, source) in [
        ("attention.md.j2", include_str!("../attention.md.j2")),
        ("check_summary.md.j2", include_str!("../check_summary.md.j2")),
        ("onboarding.md.j2", include_str!("../onboarding.md.j2")),
        ("onramp.toml.j2", include_str!("../onramp.toml.j2")),
        ("prompt.md.j2", include_str!("../prompt.md.j2")),
        ("repair_prompt.md.j2", include_str!("../repair_prompt.md.j2")),
        ("commit.txt.j2", include_str!("../commit.txt.j2")),
        ("pull_request.md.j2", include_str!("../pull_request.md.j2")),
        // Escaped as HTML, by the end of its name.
        ("setup.html.j2", include_str!("../setup.html.j2")),
        ("stale.md.j2", include_str!("../stale.md.j2")),
        ("slack_message.txt.j2", include_str!("../slack_message.txt.j2")),
        ("status_comment.md.j2", include_str!("../status_comment.md.j2")),
    ] {
        env.add_template(name, source).expect("an embedded template that does not parse fails every test");
    }
    env.add_filter("code", markdown::code);
    env.add_filter("brief", markdown::brief);
    env.add_filter("cell", markdown::cell);
    env.add_filter("command", markdown::command);
    env.add_filter("fence", |text: &str| markdown::fence(text, "text"));
    env.add_filter("prose", |text: &str| markdown::prose(text, 1_500));
    env.add_filter("mrkdwn", slack::mrkdwn);
    env.add_filter("one_line", |text: &str| clean::one_line(text));
    env
});

fn render(name: &str, context: impl Serialize) -> Result<String, RenderError> {
    let rendered = TEMPLATES.get_template(name).and_then(|template| template.render(Serde(context)));
    let text = rendered.map_err(|source| RenderError { name: name.to_owned(), source })?;
    Ok(squeeze(&text))
}

/// One empty line where several were left by parts that had nothing to say; outside fences only, which are not ours.
fn squeeze(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut fence: Option<&str> = None;
    let mut was_empty = true;
    for line in text.lines() {
        let ticks = &line[..line.len() - line.trim_start_matches('`').len()];
        match fence {
            Some(open) if ticks == open && line.len() == ticks.len() => fence = None,
            None if ticks.len() >= 3 => fence = Some(ticks),
            _ => {}
        }
        let is_empty = line.trim().is_empty();
        if fence.is_some() || !(is_empty && was_empty) {
            out.push_str(line);
            out.push('\n');
        }
        was_empty = is_empty;
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_are_squeezed_except_in_fences() {
        assert_eq!(squeeze("\n\na\n\n\nb\n\n```\n\n\nx\n```\n\n\n"), "a\n\nb\n\n```\n\n\nx\n```\n");
        assert_eq!(squeeze("````\n```\n\n\n```\n````\n"), "````\n```\n\n\n```\n````\n");
    }

    #[test]
    fn a_field_that_a_template_names_and_nobody_gives_is_an_error() {
        #[derive(Serialize)]
        struct Nothing {}
        let error = render("commit.txt.j2", Nothing {}).unwrap_err();
        assert_eq!(error.to_string(), "cannot render the template commit.txt.j2");
    }
}
