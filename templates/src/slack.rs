//! What is told in Slack: one message for each task, edited while it lives, and the question which repository is meant.
//!
//! Slack's limits, from its reference of blocks: 3,000 characters in a section, 75 in a button, 100 options in a menu.

use serde::Serialize;
use serde_json::{Value, json};

use crate::{CheckLine, FailureLine, RenderError, clean, render};

/// Of any text from outside so many characters are shown.
const MAX_CHARS: usize = 600;
const MAX_SECTION_CHARS: usize = 2_900;
const MAX_OPTIONS: usize = 100;

/// What is told of a task.
#[derive(Debug, Serialize)]
pub struct SlackMessage<'a> {
    /// Task id.
    pub task_id: &'a str,
    /// What was asked, one line.
    pub title: &'a str,
    /// `owner/name`.
    pub repo: &'a str,
    /// The id of who asked, in Slack; empty when it was asked elsewhere.
    pub requester: &'a str,
    /// State word, as in [`crate::StatusComment`].
    pub state: &'a str,
    /// Failed attempts so far.
    pub failures: u32,
    /// Somebody asked for it to stop, and it has not stopped yet.
    pub stopping: bool,
    /// Why it waits, where that is more than a free worker.
    pub waits: Option<&'a str>,
    /// Login of who stopped it.
    pub stopped_by: Option<&'a str>,
    /// The pull request's URL and number.
    pub pull_request: Option<(&'a str, u64)>,
    /// Why it failed.
    pub failure: Option<FailureLine<'a>>,
    /// The first thing that policy did not allow.
    pub reason: &'a str,
    /// Checks, where it got that far.
    pub checks: Vec<CheckLine<'a>>,
    /// The page of the task, where people can reach one.
    pub page: Option<&'a str>,
}

/// A message as Slack takes it: the text for notifications and for whoever shows no blocks, and the blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct SlackText {
    /// In Slack's markup.
    pub text: String,
    /// Block Kit.
    pub blocks: Value,
}

/// The steps of a task in a word each, with the state word during which each is under way.
const STEPS: [(&str, &str); 4] =
    [("preparing", "Prepare"), ("running", "Edit"), ("verifying", "Verify"), ("publishing", "Open the pull request")];

/// Renders it.
///
/// # Errors
/// Only for a defect in the template.
pub fn slack_message(context: &SlackMessage<'_>) -> Result<SlackText, RenderError> {
    #[derive(Serialize)]
    struct Step {
        text: &'static str,
        done: bool,
        under_way: bool,
    }
    #[derive(Serialize)]
    struct View<'a> {
        #[serde(flatten)]
        given: &'a SlackMessage<'a>,
        steps: Vec<Step>,
    }
    let at = STEPS.iter().position(|(state, _)| *state == context.state);
    let steps = STEPS.iter().enumerate().map(|(n, (_, text))| Step {
        text,
        done: at.is_some_and(|at| n < at),
        under_way: at == Some(n),
    });
    let text = render("slack_message.txt.j2", View { given: context, steps: steps.collect() })?;
    let mut blocks = vec![section(text.trim_end()), foot(context)];
    let buttons = buttons(context);
    if !buttons.is_empty() {
        blocks.push(json!({ "type": "actions", "elements": buttons }));
    }
    Ok(SlackText { text: text.trim_end().to_owned(), blocks: blocks.into() })
}

/// The question which repository is meant.
#[derive(Debug)]
pub struct SlackQuestion<'a> {
    /// Why it is asked.
    pub why: &'a str,
    /// What can be answered.
    pub repositories: Vec<&'a str>,
}

/// Renders it.
pub fn slack_question(context: &SlackQuestion<'_>) -> SlackText {
    let text = format!("Which repository is this about? {}", mrkdwn(context.why));
    let options: Vec<Value> = context.repositories.iter().take(MAX_OPTIONS).map(|repo| {
        json!({ "text": { "type": "plain_text", "text": repo.chars().take(75).collect::<String>() }, "value": repo })
    }).collect();
    let mut blocks = vec![section(&text)];
    if !options.is_empty() {
        blocks.push(json!({ "type": "actions", "elements": [{
            "type": "static_select", "action_id": "onramp_repo", "options": options,
            "placeholder": { "type": "plain_text", "text": "Repository" },
        }]}));
    }
    SlackText { text, blocks: blocks.into() }
}

/// What somebody asked for with a command, which leaves no message of its own behind.
pub fn slack_quote(by: &str, text: &str) -> SlackText {
    let who = Some(by)
        .filter(|by| by.bytes().all(|b| b.is_ascii_alphanumeric()))
        .map_or_else(String::new, |by| format!("<@{by}> asks: "));
    let text = format!("{who}{}", mrkdwn(text));
    SlackText { blocks: json!([section(&text)]), text }
}

fn section(text: &str) -> Value {
    let text: String = text.chars().take(MAX_SECTION_CHARS).collect();
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } })
}

fn foot(context: &SlackMessage<'_>) -> Value {
    let short = context.task_id.get(24..).unwrap_or(context.task_id);
    let mut facts = vec![mrkdwn(context.repo), format!("task `{short}`")];
    if !context.requester.is_empty() && context.requester.bytes().all(|b| b.is_ascii_alphanumeric()) {
        facts.push(format!("asked by <@{}>", context.requester));
    }
    json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": facts.join(" · ") }] })
}

fn buttons(context: &SlackMessage<'_>) -> Vec<Value> {
    let press = |word: &str, label: &str| {
        json!({ "type": "button", "action_id": format!("onramp_{word}"), "value": context.task_id,
                "text": { "type": "plain_text", "text": label } })
    };
    let open = |id: &str, url: &str, label: &str| json!({ "type": "button", "action_id": id, "url": url, "text": { "type": "plain_text", "text": label } });
    let mut buttons = Vec::new();
    match context.state {
        "queued" | "preparing" | "running" | "verifying" if !context.stopping => buttons.push(press("stop", "Stop")),
        "failed" | "rejected" | "no_changes" | "stopped" => buttons.push(press("retry", "Retry")),
        "done" => {
            buttons
                .extend(context.pull_request.map(|(url, _)| open("open_pull_request", url, "Open the pull request")));
            buttons.push(press("change", "Ask for changes"));
        }
        _ => {}
    }
    buttons.extend(context.page.map(|page| open("open_task", page, "Open")));
    buttons
}

/// Text from outside in Slack's markup: nothing in it can call anybody, link anywhere or end a format.
pub(crate) fn mrkdwn(text: &str) -> String {
    let text = clean::one_line(text);
    let cut: String = text.chars().take(MAX_CHARS).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    let mut out = String::with_capacity(cut.len());
    for c in cut.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Formats begin and end with these; with an invisible joiner before them they are letters.
            '*' | '_' | '~' => out.extend(['\u{2060}', c]),
            c => out.push(c),
        }
    }
    out + more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(state: &'static str) -> SlackMessage<'static> {
        SlackMessage {
            task_id: "0190a0b0c0d0700080009000a1b2c3d4",
            title: "Fix the pager",
            repo: "acme/web",
            requester: "U1",
            state,
            failures: 0,
            stopping: false,
            waits: None,
            stopped_by: None,
            pull_request: None,
            failure: None,
            reason: "",
            checks: vec![],
            page: None,
        }
    }

    #[test]
    fn a_task_under_way_shows_its_steps_and_can_be_stopped() {
        let told = slack_message(&context("verifying")).unwrap();
        insta::assert_snapshot!(told.text, @r"
        *Fix the pager* in acme/web
        ~Prepare~ · ~Edit~ · *Verify* · Open the pull request
        ");
        assert_eq!(told.blocks[2]["elements"][0]["action_id"], "onramp_stop");
        assert_eq!(told.blocks[1]["elements"][0]["text"], "acme/web · task `a1b2c3d4` · asked by <@U1>");
    }

    #[test]
    fn the_end_links_the_pull_request_or_says_why_there_is_none() {
        let pull_request = Some(("https://forge.example/acme/web/pull/13", 13));
        let told = slack_message(&SlackMessage { pull_request, ..context("done") }).unwrap();
        insta::assert_snapshot!(told.text, @r"
        *Fix the pager*
        Done: <https://forge.example/acme/web/pull/13|pull request #13>, verified before it was opened.
        ");
        let failure =
            Some(FailureLine { code: "E040", message: "The check `x` failed", next_step: "Look.", detail: None });
        let told = slack_message(&SlackMessage { failure, ..context("failed") }).unwrap();
        insta::assert_snapshot!(told.text, @r"
        *Fix the pager*
        Failed: The check `x` failed (E040)
        Look.
        ");
        assert_eq!(told.blocks[2]["elements"][0]["action_id"], "onramp_retry");
    }

    #[test]
    fn nothing_from_outside_calls_anybody_or_links_anywhere() {
        let title = "<!channel> <@U2> *bold* <https://evil.example|here>";
        let told = slack_message(&SlackMessage { title, ..context("queued") }).unwrap();
        assert!(
            !told.text.contains("<!") && !told.text.contains("<@") && !told.text.contains("<https"),
            "{}",
            told.text
        );
        let foot = slack_message(&SlackMessage { requester: "U1> <!here", ..context("queued") }).unwrap().blocks[1]
            .to_string();
        assert!(!foot.contains('!'), "{foot}");
    }

    #[test]
    fn every_state_word_has_a_text() {
        for state in [
            "queued",
            "preparing",
            "running",
            "publishing",
            "done",
            "merged",
            "closed",
            "no_changes",
            "rejected",
            "stopped",
            "failed",
        ] {
            let told = slack_message(&context(state)).unwrap();
            assert!(told.text.lines().count() >= 2 && told.text.contains("Fix the pager"), "{state}: {}", told.text);
        }
    }
}
