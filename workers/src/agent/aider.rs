//! Aider: plain text. It ends with exit code 0 even when the model refused every request, so its lines decide.

use std::sync::LazyLock;

use regex::Regex;
use tasks::TokenUsage;

use super::events::{AgentEvent, UsageScope};

static TOKENS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^Tokens: ([0-9.]+[kM]?) sent,.*?([0-9.]+[kM]?) received\.(?: Cost: \$([0-9.]+) message)?").ok()
});

/// The events of one line.
pub(super) fn parse_line(line: &str) -> Vec<AgentEvent> {
    let line = line.trim();
    if let Some(found) = TOKENS.as_ref().and_then(|tokens| tokens.captures(line)) {
        let usage = TokenUsage {
            input: found.get(1).and_then(|m| count(m.as_str())),
            output: found.get(2).and_then(|m| count(m.as_str())),
            cost_microusd: found.get(3).and_then(|m| scaled(m.as_str(), 1e6)),
        };
        return vec![AgentEvent::Usage(usage, UsageScope::Step), AgentEvent::Finished];
    }
    if let Some(path) = line.strip_prefix("Applied edit to ") {
        return vec![AgentEvent::Activity(format!("edits {path}"))];
    }
    let model_error = line.starts_with("litellm.") && line.contains("Error");
    if model_error || line.starts_with("The LLM did not conform to the edit format") {
        return vec![AgentEvent::Trouble(line.to_owned())];
    }
    Vec::new()
}

/// `1.5k` as 1500; thousands are rounded by Aider itself.
fn count(text: &str) -> Option<u64> {
    match text.as_bytes().last()? {
        b'k' => scaled(&text[..text.len() - 1], 1e3),
        b'M' => scaled(&text[..text.len() - 1], 1e6),
        _ => scaled(text, 1.0),
    }
}

fn scaled(text: &str, factor: f64) -> Option<u64> {
    let number =
        text.parse::<f64>().ok().map(|number| number * factor).filter(|number| (0.0..1e15).contains(number))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked above")]
    Some(number.round() as u64)
}
