//! The one comment that calls a person: GitHub tells nobody that a comment was edited.

use serde::Serialize;

use crate::{RenderError, render};

/// Where a task cannot go on without a person.
#[derive(Debug)]
pub struct Attention<'a> {
    /// Task id.
    pub task_id: &'a str,
    /// Login of who asked.
    pub requester: &'a str,
    /// What happened, one sentence.
    pub what: &'a str,
    /// The address of the status comment.
    pub url: &'a str,
}

/// The hidden marker of such a comment, by which it is found again.
pub fn attention_marker(task_id: &str) -> String {
    format!("<!-- onramp:attention={task_id} -->")
}

/// Renders it; begins with [`attention_marker`].
///
/// # Errors
/// Only for a defect in the template.
pub fn attention(context: &Attention<'_>) -> Result<String, RenderError> {
    #[derive(Serialize)]
    struct View<'a> {
        marker: String,
        mention: String,
        what: &'a str,
        url: &'a str,
    }
    // Only what is a login on GitHub is one: anything else could be a text that calls somebody else.
    let is_login = |login: &str| {
        (1..=39).contains(&login.len()) && login.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let mention = Some(context.requester).filter(|login| is_login(login));
    let mention = mention.map_or_else(String::new, |login| format!("@{login}, "));
    render(
        "attention.md.j2",
        View { marker: attention_marker(context.task_id), mention, what: context.what, url: context.url },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_calls_who_asked_and_nobody_else() {
        let text = |requester: &str, what: &str| {
            attention(&Attention { task_id: "t1", requester, what, url: "https://forge.example/c" }).unwrap()
        };
        let expected = "<!-- onramp:attention=t1 -->\n@ada, this needs you: The check `x` failed \
                        [What happened, and what you can do](https://forge.example/c)\n";
        assert_eq!(text("ada", "The check `x` failed"), expected);
        assert!(!text("onramp[bot]", "x").contains('@'));
        // GitHub calls nobody whose name stands in code.
        let quoted = text("ada", "cc @everyone");
        assert!(quoted.contains("cc `@everyone`") && quoted.matches('@').count() == 2, "{quoted}");
    }
}
