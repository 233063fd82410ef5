//! What the output of any agent is reduced to. One file beside this one per format; each is a pure function from a line to
//! events that takes keys in any order and overlooks whatever it does not know.

use serde::Deserialize;
use serde_json::Value;
use tasks::TokenUsage;

use super::{aider, claude, codex, opencode, plain};

/// One thing that an agent said about its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// The name of the conversation, to go on with it later.
    Session(String),
    /// It does something: one line.
    Activity(String),
    /// It says something; the last message is its summary.
    Message(String),
    /// Its summary, said before as a message.
    Summary(String),
    /// What it used.
    Usage(TokenUsage, UsageScope),
    /// Something went wrong that may pass: a retry, a lost connection. A failure when nothing good comes after it.
    Trouble(String),
    /// It says that it failed.
    Failed(String),
    /// It says that it is done.
    Finished,
}

/// What a number of tokens counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageScope {
    /// One step: to be added up.
    Step,
    /// This call of the program.
    Call,
    /// The conversation since its first round.
    Conversation,
}

/// The formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    Claude,
    Codex,
    Opencode,
    Aider,
    Plain,
}

impl Format {
    /// The events of one line of standard output.
    pub(super) fn parse_line(self, line: &str) -> Vec<AgentEvent> {
        match self {
            Self::Claude => claude::parse_line(line),
            Self::Codex => codex::parse_line(line),
            Self::Opencode => opencode::parse_line(line),
            Self::Aider => aider::parse_line(line),
            Self::Plain => plain::parse_line(line),
        }
    }

    /// Whether an end without [`AgentEvent::Finished`] is a failure: the program always says so when it is done.
    pub(super) fn announces_its_end(self) -> bool {
        match self {
            Self::Claude | Self::Codex => true,
            Self::Opencode | Self::Aider | Self::Plain => false,
        }
    }
}

/// A line as a JSON object.
pub(super) fn object(line: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line.trim()).ok().filter(Value::is_object)
}

/// A non-empty string at a JSON pointer.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
}

/// The sum of the numbers at these pointers; `None` when none of them is there.
pub(super) fn sum(value: &Value, pointers: &[&str]) -> Option<u64> {
    let numbers = pointers.iter().filter_map(|pointer| value.pointer(pointer)?.as_u64());
    numbers.fold(None, |sum, number| Some(sum.unwrap_or(0).saturating_add(number)))
}

/// Dollars as millionths.
pub(super) fn microusd(dollars: Option<&Value>) -> Option<u64> {
    let dollars = dollars?.as_f64().filter(|dollars| dollars.is_finite() && (0.0..1e9).contains(dollars))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked above")]
    Some((dollars * 1e6).round() as u64)
}

/// What a tool was given, in a few words: the argument that says most.
pub(super) fn tool_words(name: &str, input: &Value) -> String {
    let telling =
        ["command", "cmd", "file_path", "filePath", "path", "pattern", "url", "query", "description", "prompt"];
    match telling.iter().find_map(|key| input.get(key)?.as_str()) {
        Some(words) => format!("{name}: {words}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Format; 5] = [Format::Claude, Format::Codex, Format::Opencode, Format::Aider, Format::Plain];

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in "\\PC*", kind in "[a-z._]{0,20}", field in "[a-z_]{1,12}") {
            for format in ALL {
                format.parse_line(&line);
                format.parse_line(&format!("{{\"type\":\"{kind}\",\"{field}\":{{\"type\":[1]}},\"item\":7,\"part\":null}}"));
            }
        }
    }

    #[test]
    fn sums_tell_missing_from_zero() {
        let value = serde_json::json!({"a": 0, "b": 2, "c": "x"});
        assert_eq!(
            (sum(&value, &["/a"]), sum(&value, &["/a", "/b", "/c"]), sum(&value, &["/c"])),
            (Some(0), Some(2), None)
        );
    }

    #[test]
    fn dollars_become_millionths() {
        let of = |value: Value| microusd(Some(&value));
        assert_eq!(of(serde_json::json!(0.013_999_999)), Some(14_000));
        assert_eq!((of(serde_json::json!(-1)), of(serde_json::json!("1")), microusd(None)), (None, None, None));
    }
}
