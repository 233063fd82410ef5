//! Codex: `exec --json`.
//!
//! `turn.completed` and `turn.failed` are the verdict. A line `error` may be one of several tries, and an item of the type
//! `error` is only a note. The tokens of a resumed thread include those of its earlier turns.

use serde_json::Value;
use tasks::TokenUsage;

use super::events::{AgentEvent, UsageScope, object, sum, text};

/// The events of one line.
pub(super) fn parse_line(line: &str) -> Vec<AgentEvent> {
    let Some(value) = object(line) else { return Vec::new() };
    let one = |event: Option<AgentEvent>| event.into_iter().collect();
    match text(&value, "/type") {
        Some("thread.started") => one(text(&value, "/thread_id").map(|id| AgentEvent::Session(id.to_owned()))),
        Some("item.started") => one(started(&value["item"])),
        Some("item.completed") => one(completed(&value["item"])),
        Some("error") => one(text(&value, "/message").map(|why| AgentEvent::Trouble(why.to_owned()))),
        Some("turn.failed") => {
            let why = text(&value, "/error/message").unwrap_or("the turn failed");
            vec![AgentEvent::Failed(why.to_owned())]
        }
        Some("turn.completed") => vec![usage(&value), AgentEvent::Finished],
        _ => Vec::new(),
    }
}

fn started(item: &Value) -> Option<AgentEvent> {
    match text(item, "/type")? {
        "command_execution" => Some(AgentEvent::Activity(format!("$ {}", text(item, "/command")?))),
        "mcp_tool_call" => Some(AgentEvent::Activity(text(item, "/tool")?.to_owned())),
        "web_search" => Some(AgentEvent::Activity(format!("searches: {}", text(item, "/query")?))),
        _ => None,
    }
}

fn completed(item: &Value) -> Option<AgentEvent> {
    match text(item, "/type")? {
        "agent_message" => Some(AgentEvent::Message(text(item, "/text")?.to_owned())),
        "error" => Some(AgentEvent::Activity(format!("note: {}", text(item, "/message")?))),
        "file_change" => {
            let changes = item.get("changes").and_then(Value::as_array)?;
            let paths: Vec<&str> = changes.iter().filter_map(|change| text(change, "/path")).collect();
            Some(AgentEvent::Activity(format!("edits {}", paths.join(", "))))
        }
        _ => None,
    }
}

fn usage(value: &Value) -> AgentEvent {
    let usage = TokenUsage {
        input: sum(value, &["/usage/input_tokens"]),
        output: sum(value, &["/usage/output_tokens"]),
        cost_microusd: None,
    };
    AgentEvent::Usage(usage, UsageScope::Conversation)
}
