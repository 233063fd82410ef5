//! Claude Code: `--output-format stream-json --verbose`.
//!
//! The verdict is the last line, `type: result`. Its `subtype` says "success" even for a refused request; `is_error` is
//! what counts, and a subtype other than "success" (out of turns, out of money) is a failure too.

use serde_json::Value;
use tasks::TokenUsage;

use super::events::{AgentEvent, UsageScope, microusd, object, sum, text, tool_words};

/// The events of one line.
pub(super) fn parse_line(line: &str) -> Vec<AgentEvent> {
    let Some(value) = object(line) else { return Vec::new() };
    match text(&value, "/type") {
        Some("system") => system(&value),
        Some("assistant") => assistant(&value),
        Some("result") => result(&value),
        _ => Vec::new(),
    }
}

fn system(value: &Value) -> Vec<AgentEvent> {
    match text(value, "/subtype") {
        Some("init") => session(value).collect(),
        Some("api_retry") => {
            let why = text(value, "/error/message").or(text(value, "/error")).unwrap_or("no answer");
            let status = value.get("error_status").and_then(Value::as_u64);
            let status = status.map_or_else(String::new, |status| format!(" ({status})"));
            vec![AgentEvent::Trouble(format!("the model is asked again: {why}{status}"))]
        }
        _ => Vec::new(),
    }
}

fn session(value: &Value) -> impl Iterator<Item = AgentEvent> {
    text(value, "/session_id").map(|id| AgentEvent::Session(id.to_owned())).into_iter()
}

fn assistant(value: &Value) -> Vec<AgentEvent> {
    let from_a_helper = value.get("parent_tool_use_id").is_some_and(Value::is_string);
    let blocks = value.pointer("/message/content").and_then(Value::as_array);
    let event = |block: &Value| match text(block, "/type")? {
        "text" if from_a_helper => None,
        "text" => text(block, "/text").map(|words| AgentEvent::Message(words.to_owned())),
        "tool_use" => Some(AgentEvent::Activity(tool_words(text(block, "/name")?, &block["input"]))),
        _ => None,
    };
    blocks.into_iter().flatten().filter_map(event).collect()
}

fn result(value: &Value) -> Vec<AgentEvent> {
    let usage = TokenUsage {
        input: sum(
            value,
            &["/usage/input_tokens", "/usage/cache_creation_input_tokens", "/usage/cache_read_input_tokens"],
        ),
        output: sum(value, &["/usage/output_tokens"]),
        cost_microusd: microusd(value.get("total_cost_usd")),
    };
    let mut events: Vec<AgentEvent> = session(value).collect();
    events.push(AgentEvent::Usage(usage, UsageScope::Call));
    let words = text(value, "/result");
    let subtype = text(value, "/subtype").unwrap_or("success");
    let is_error = value.get("is_error").and_then(Value::as_bool).unwrap_or(false);
    if is_error || subtype != "success" {
        let first_error = text(value, "/errors/0");
        events.push(AgentEvent::Failed(words.or(first_error).unwrap_or(subtype).to_owned()));
    } else {
        events.extend(words.map(|words| AgentEvent::Summary(words.to_owned())));
        events.push(AgentEvent::Finished);
    }
    events
}
