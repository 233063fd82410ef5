//! What a comment asks for: its first word is `/onramp`, or a mention of Onramp, and the next one may be a command.
//!
//! Only the first word counts, so that quoting somebody, or talking *about* Onramp, asks for nothing.

use tasks::Command;

/// The word that a command begins with, after its slash.
const SLASH: &str = "/onramp";

/// Reads a comment. `names`: the logins by which Onramp may be mentioned, without `@` and without `[bot]`.
///
/// `None`: it asks for nothing.
pub(crate) fn read(comment: &str, names: &[String]) -> Option<Command> {
    let comment = comment.trim_start_matches('\u{feff}').trim();
    let (first, rest) = split_word(comment);
    let is_mention = || {
        let name = first.strip_prefix('@')?;
        let name = name.trim_end_matches([',', ':']).to_lowercase();
        names.iter().any(|known| known.to_lowercase() == name).then_some(())
    };
    if !first.eq_ignore_ascii_case(SLASH) && is_mention().is_none() {
        return None;
    }
    let (word, text) = split_word(rest);
    // A command stands alone on its line; "stop using unwrap here" is a request.
    let alone = text.is_empty() || rest[word.len()..].starts_with(['\n', '\r']);
    Some(match word.to_ascii_lowercase().as_str() {
        "run" | "fix" => Command::Run { text: text.to_owned() },
        "retry" if alone => Command::Retry,
        "stop" | "cancel" if alone => Command::Stop,
        "finish" if alone => Command::Finish,
        "rebase" if alone => Command::Rebase,
        "status" if alone => Command::Status,
        "help" if alone => Command::Help,
        _ => Command::Run { text: rest.to_owned() },
    })
}

/// Whether a text mentions Onramp anywhere: enough for a review, which is submitted on purpose.
pub(crate) fn mentions(text: &str, names: &[String]) -> bool {
    text.split(|c: char| c.is_whitespace() || matches!(c, ',' | ':' | '(' | ')')).any(|word| {
        word.eq_ignore_ascii_case(SLASH)
            || word.strip_prefix('@').is_some_and(|name| names.iter().any(|known| known.eq_ignore_ascii_case(name)))
    })
}

fn split_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["onramp".into(), "acme-onramp".into()]
    }

    fn run(text: &str) -> Option<Command> {
        Some(Command::Run { text: text.into() })
    }

    #[test]
    fn a_command_is_the_first_word_of_a_comment() {
        for (comment, command) in [
            ("/onramp", run("")),
            ("/onramp run", run("")),
            ("/onramp fix the pager\n\nIt drops rows.", run("the pager\n\nIt drops rows.")),
            ("@onramp please add a test", run("please add a test")),
            ("  @Acme-Onramp, please add a test", run("please add a test")),
            ("/onramp stop", Some(Command::Stop)),
            ("/OnRamp STOP  ", Some(Command::Stop)),
            ("@onramp stop\nthanks", Some(Command::Stop)),
            ("/onramp stop using unwrap", run("stop using unwrap")),
            ("/onramp retry", Some(Command::Retry)),
            ("/onramp finish", Some(Command::Finish)),
            ("/onramp rebase", Some(Command::Rebase)),
            ("/onramp status", Some(Command::Status)),
            ("/onramp help", Some(Command::Help)),
            ("/onramp-other do it", None),
            ("I think @onramp should do this", None),
            ("> /onramp stop", None),
            ("`/onramp stop`", None),
            ("@onramp-fan hello", None),
            ("", None),
        ] {
            assert_eq!(read(comment, &names()), command, "{comment:?}");
        }
    }

    #[test]
    fn a_review_may_mention_it_anywhere() {
        for yes in ["please, @onramp: rename this", "Nice.\n/onramp add a test", "(@ONRAMP)"] {
            assert!(mentions(yes, &names()), "{yes}");
        }
        for no in ["see onramp", "mail a@onramp.example", "@onramper", ""] {
            assert!(!mentions(no, &names()), "{no}");
        }
    }
}
