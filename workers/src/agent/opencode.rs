//! OpenCode: `run --format json`. Tokens and cost come with each step and are added up.

use serde_json::Value;
use tasks::TokenUsage;

use super::events::{AgentEvent, UsageScope, microusd, object, sum, text, tool_words};

/// The events of one line.
pub(super) fn parse_line(line: &str) -> Vec<AgentEvent> {
    let Some(value) = object(line) else { return Vec::new() };
    let part = &value["part"];
    let session = text(&value, "/sessionID").map(|id| AgentEvent::Session(id.to_owned()));
    match text(&value, "/type") {
        Some("step_start") => session.into_iter().collect(),
        Some("text") => text(part, "/text").map(|words| AgentEvent::Message(words.to_owned())).into_iter().collect(),
        Some("tool_use") => {
            let name = text(part, "/tool").unwrap_or("tool");
            vec![AgentEvent::Activity(tool_words(name, &part["state"]["input"]))]
        }
        Some("step_finish") => step_finish(part),
        Some("error") => {
            let why = text(&value, "/error/data/message").or(text(&value, "/error/name")).unwrap_or("an error");
            session.into_iter().chain([AgentEvent::Failed(why.to_owned())]).collect()
        }
        _ => Vec::new(),
    }
}

fn step_finish(part: &Value) -> Vec<AgentEvent> {
    let usage = TokenUsage {
        input: sum(part, &["/tokens/input", "/tokens/cache/read", "/tokens/cache/write"]),
        output: sum(part, &["/tokens/output", "/tokens/reasoning"]),
        cost_microusd: microusd(part.get("cost")),
    };
    let finished = (text(part, "/reason") == Some("stop")).then_some(AgentEvent::Finished);
    [AgentEvent::Usage(usage, UsageScope::Step)].into_iter().chain(finished).collect()
}
