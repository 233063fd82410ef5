//! The commit message, and the one line that titles a commit and its pull request.

use serde::Serialize;

use crate::{RenderError, clean, render};

/// The longest subject, in characters: what logs and lists show whole.
const MAX_SUBJECT_CHARS: usize = 72;

/// The commit.
#[derive(Debug, Serialize)]
pub struct CommitMessage<'a> {
    /// One line.
    pub title: &'a str,
    /// Issue number.
    pub issue: Option<u64>,
    /// Task id.
    pub task_id: &'a str,
    /// Lines for the end, such as `Requested-by: ada`.
    pub trailers: &'a [String],
}

/// Renders a commit message. It says `Refs`, since closing is the pull request's to do, and never `Signed-off-by`, since
/// that is a promise that only a person can make.
///
/// # Errors
/// Only for a defect in the template.
pub fn commit_message(context: &CommitMessage<'_>) -> Result<String, RenderError> {
    #[derive(Serialize)]
    struct View<'a> {
        #[serde(flatten)]
        given: &'a CommitMessage<'a>,
        subject: String,
    }
    render("commit.txt.j2", View { given: context, subject: subject(context.title, context.issue) })
}

/// The title of a commit and of its pull request: one clean line of at most 72 characters in which nothing closes an
/// issue or notifies anybody. There is no inline code in a commit message, so the marks themselves go: `#12` becomes
/// `no. 12`, an address loses its scheme, a mention its `@`. (HTML in a title stays: titles are shown as plain text.)
pub fn subject(title: &str, issue: Option<u64>) -> String {
    let mut subject = String::new();
    for word in clean::redact_tokens(&clean::visible_line(title)).split(' ') {
        if !subject.is_empty() {
            subject.push(' ');
        }
        push_inert(&mut subject, word);
    }
    match (subject.trim(), issue) {
        ("", Some(issue)) => format!("Change requested in issue {issue}"),
        ("", None) => "Requested change".to_owned(),
        (subject, _) => cut_at_word(subject),
    }
}

fn cut_at_word(subject: &str) -> String {
    let cut = clean::cut(subject, MAX_SUBJECT_CHARS);
    // A cut text ends in `…`; a word that would lose its end goes whole, unless it is most of the line.
    match cut.strip_suffix('…') {
        Some(kept) if kept.len() < subject.len() && !subject[kept.len()..].starts_with(' ') => {
            let at = kept.rfind(' ').filter(|at| *at > kept.len() / 2).unwrap_or(kept.len());
            format!("{}…", kept[..at].trim_end())
        }
        _ => cut,
    }
}

fn push_inert(out: &mut String, word: &str) {
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let next_is = |wanted: fn(&u8) -> bool| after.as_bytes().first().is_some_and(wanted);
        match c {
            '#' if next_is(u8::is_ascii_digit) => {
                if out.ends_with(|c: char| !c.is_whitespace() && c != '(') {
                    out.push(' ');
                }
                out.push_str("no. ");
            }
            '@' if next_is(u8::is_ascii_alphanumeric) => {
                if out.ends_with(|c: char| c.is_ascii_alphanumeric()) {
                    out.push_str(" at ");
                }
            }
            'G' | 'g' if is_short_reference(rest) && !out.ends_with(|c: char| c.is_ascii_alphanumeric()) => {
                out.push_str("no. ");
                rest = &rest["GH-".len()..];
                continue;
            }
            ':' if after.starts_with("//") => {
                let scheme = out.len() - out.trim_end_matches(|c: char| c.is_ascii_alphanumeric()).len();
                out.truncate(out.len() - scheme);
                rest = &after["//".len()..];
                continue;
            }
            c => out.push(c),
        }
        rest = after;
    }
}

/// `GH-12`.
fn is_short_reference(text: &str) -> bool {
    text.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("gh-"))
        && text.as_bytes().get(3).is_some_and(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    static TRAILERS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();

    fn context() -> CommitMessage<'static> {
        CommitMessage {
            title: "The pager drops the last row",
            issue: Some(12),
            task_id: "0190a0b0c0d0700080009000a1b2c3d4",
            trailers: TRAILERS.get_or_init(|| vec!["Assisted-by: claude".into(), "Requested-by: ada".into()]),
        }
    }

    #[test]
    fn a_commit_names_its_task_its_agent_and_who_asked() {
        insta::assert_snapshot!(commit_message(&context()).unwrap(), @r#"
        The pager drops the last row

        Refs #12

        Task-Id: 0190a0b0c0d0700080009000a1b2c3d4
        Assisted-by: claude
        Requested-by: ada
        "#);
    }

    #[test]
    fn without_an_issue_there_is_no_reference() {
        let message = commit_message(&CommitMessage { issue: None, ..context() }).unwrap();
        assert!(!message.contains("Refs") && message.contains("\n\nTask-Id: "), "{message}");
    }

    #[test]
    fn no_title_or_name_can_add_a_trailer() {
        let title = "x\n\nSigned-off-by: Ada <a@b>\r\n\u{2028}Task-Id: 1";
        let trailers = ["Requested-by: ada\nSigned-off-by: Ada".to_owned()];
        let message = commit_message(&CommitMessage { title, trailers: &trailers, ..context() }).unwrap();
        let trailers: Vec<_> = message.lines().filter(|line| line.starts_with("Signed-off-by")).collect();
        assert!(trailers.is_empty(), "{message}");
        assert_eq!(message.lines().filter(|line| line.starts_with("Task-Id: ")).count(), 1);
    }

    #[test]
    fn a_subject_is_short_and_inert() {
        for (title, clean) in [
            ("Fixes #1, closes acme/web#2 (#3) and GH-4", "Fixes no. 1, closes acme/web no. 2 (no. 3) and no. 4"),
            ("fix https://github.com/a/b/issues/9", "fix github.com/a/b/issues/9"),
            (
                "thanks @acme/team, bump @types/node, mail a@b.example",
                "thanks acme/team, bump types/node, mail a at b.example",
            ),
            ("## C# and the @ sign", "## C# and the @ sign"),
            ("a <!-- b --> c\u{202e}", "a <!-- b --> c"),
        ] {
            assert_eq!(subject(title, None), clean, "{title:?}");
        }
        assert_eq!(subject(&"abcdefgh ijk ".repeat(9), None), "abcdefgh ijk ".repeat(5).trim_end().to_owned() + "…");
        assert_eq!(subject(&"a b ".repeat(50), None).chars().count(), 72);
        assert_eq!(subject("修".repeat(100).as_str(), None).chars().count(), 72);
        assert_eq!(subject(" \u{200b}", Some(7)), "Change requested in issue 7");
        assert_eq!(subject("", None), "Requested change");
    }
}
