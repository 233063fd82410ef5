//! The conversation in the two protocols that the built-in agent speaks: Anthropic's Messages and OpenAI's chat completions.

use serde_json::{Value, json};

use super::tools;
use crate::egress::Speaks;

/// The longest answer, in tokens.
const MAX_ANSWER_TOKENS: u64 = 16_000;

/// One thing of a conversation.
#[derive(Debug, Clone)]
pub(super) enum Item {
    User(String),
    Assistant {
        text: String,
        calls: Vec<Call>,
    },
    /// (id of the call, what came of it, whether it went wrong).
    Results(Vec<(String, String, bool)>),
}

/// A tool that the model wants used.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) input: Value,
}

/// One answer.
#[derive(Debug, PartialEq)]
pub(super) struct Turn {
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
    pub(super) stop: Stop,
    /// Tokens read and written.
    pub(super) input: u64,
    pub(super) output: u64,
}

/// Why an answer ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Done,
    Length,
    Refused,
}

impl Item {
    pub(super) fn n_bytes(&self) -> usize {
        match self {
            Self::User(text) => text.len(),
            Self::Assistant { text, calls } => {
                text.len() + calls.iter().map(|call| call.input.to_string().len()).sum::<usize>()
            }
            Self::Results(results) => results.iter().map(|(_, result, _)| result.len()).sum(),
        }
    }
}

/// Path and body of a request. `None`: this protocol is not spoken here.
pub(super) fn request(speaks: Speaks, model: &str, system: &str, items: &[Item]) -> Option<(&'static str, Value)> {
    match speaks {
        Speaks::Anthropic => Some(("/v1/messages", messages(model, system, items))),
        Speaks::Openai => Some(("/v1/chat/completions", chat(model, system, items))),
        Speaks::Gemini => None,
    }
}

fn messages(model: &str, system: &str, items: &[Item]) -> Value {
    let cached = json!({ "type": "ephemeral" });
    let mut messages: Vec<Value> = items
        .iter()
        .map(|item| match item {
            Item::User(text) => json!({ "role": "user", "content": [{ "type": "text", "text": text }] }),
            Item::Assistant { text, calls } => {
                let said = (!text.is_empty()).then(|| json!({ "type": "text", "text": text }));
                let calls = calls
                    .iter()
                    .map(|call| json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": call.input }));
                json!({ "role": "assistant", "content": said.into_iter().chain(calls).collect::<Vec<_>>() })
            }
            Item::Results(results) => {
                let result = |(id, result, is_error): &(String, String, bool)| {
                    json!({ "type": "tool_result", "tool_use_id": id, "content": result, "is_error": is_error })
                };
                json!({ "role": "user", "content": results.iter().map(result).collect::<Vec<_>>() })
            }
        })
        .collect();
    // What was said until here need not be read anew at the next turn.
    if let Some(last) = messages.last_mut().and_then(|last| last["content"].as_array_mut()?.last_mut()) {
        last["cache_control"] = cached.clone();
    }
    let tools: Vec<Value> = tools::all()
        .into_iter()
        .map(|(name, about, schema)| json!({ "name": name, "description": about, "input_schema": schema }))
        .collect();
    let system = json!([{ "type": "text", "text": system, "cache_control": cached }]);
    json!({ "model": model, "max_tokens": MAX_ANSWER_TOKENS, "system": system, "tools": tools, "messages": messages })
}

fn chat(model: &str, system: &str, items: &[Item]) -> Value {
    let mut messages = vec![json!({ "role": "system", "content": system })];
    for item in items {
        match item {
            Item::User(text) => messages.push(json!({ "role": "user", "content": text })),
            Item::Assistant { text, calls } => {
                let mut message = json!({ "role": "assistant", "content": text });
                let calls: Vec<Value> = calls
                    .iter()
                    .map(|call| {
                        let function = json!({ "name": call.name, "arguments": call.input.to_string() });
                        json!({ "id": call.id, "type": "function", "function": function })
                    })
                    .collect();
                if !calls.is_empty() {
                    message["tool_calls"] = calls.into();
                }
                messages.push(message);
            }
            Item::Results(results) => messages.extend(results.iter().map(|(id, result, is_error)| {
                let content = if *is_error { format!("error: {result}") } else { result.clone() };
                json!({ "role": "tool", "tool_call_id": id, "content": content })
            })),
        }
    }
    let tools: Vec<Value> = tools::all()
        .into_iter()
        .map(|(name, about, schema)| {
            json!({ "type": "function", "function": { "name": name, "description": about, "parameters": schema } })
        })
        .collect();
    json!({ "model": model, "messages": messages, "tools": tools })
}

/// Reads an answer.
///
/// # Errors
/// One sentence when it is none.
pub(super) fn read(speaks: Speaks, answer: &[u8]) -> Result<Turn, String> {
    let value: Value = serde_json::from_slice(answer).map_err(|_| "the model's answer is not JSON".to_owned())?;
    let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    match speaks {
        Speaks::Anthropic => {
            let content = value["content"].as_array().ok_or("the model's answer holds no message")?;
            let text = content.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n");
            let calls = content.iter().filter(|part| part["type"] == "tool_use").map(|part| Call {
                id: part["id"].as_str().unwrap_or_default().to_owned(),
                name: part["name"].as_str().unwrap_or_default().to_owned(),
                input: part["input"].clone(),
            });
            let stop = match value["stop_reason"].as_str() {
                Some("max_tokens") => Stop::Length,
                Some("refusal") => Stop::Refused,
                _ => Stop::Done,
            };
            let input = number("/usage/input_tokens")
                + number("/usage/cache_read_input_tokens")
                + number("/usage/cache_creation_input_tokens");
            Ok(Turn { text, calls: calls.collect(), stop, input, output: number("/usage/output_tokens") })
        }
        Speaks::Openai | Speaks::Gemini => {
            let choice = value.pointer("/choices/0").ok_or("the model's answer holds no message")?;
            let message = &choice["message"];
            let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|call| {
                let function = &call["function"];
                // Some send them parsed; what cannot be read is told to the model by the tool.
                let input = match &function["arguments"] {
                    Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
                    other => other.clone(),
                };
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                Call { id: text(&call["id"]), name: text(&function["name"]), input }
            });
            let stop = match choice["finish_reason"].as_str() {
                Some("length") => Stop::Length,
                Some("content_filter") => Stop::Refused,
                _ => Stop::Done,
            };
            let text = message["content"].as_str().unwrap_or_default().to_owned();
            let (input, output) = (number("/usage/prompt_tokens"), number("/usage/completion_tokens"));
            Ok(Turn { text, calls: calls.collect(), stop, input, output })
        }
    }
}

/// What a refusal says.
pub(super) fn error_words(answer: &[u8]) -> String {
    let value: Value = serde_json::from_slice(answer).unwrap_or_default();
    let words = value.pointer("/error/message").or(value.get("error")).and_then(Value::as_str);
    words.unwrap_or("the model provider refused without a reason").to_owned()
}
