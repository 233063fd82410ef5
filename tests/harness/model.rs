//! A model that follows a script, behind the protocols of the real ones: Anthropic's Messages and OpenAI's Responses,
//! both streamed.
//!
//! Which turn comes next is read from the conversation itself (how many results of tools it holds), so that a repeated
//! request gets the same answer. Requests are kept: they show which key arrived, and what the agent's tools found.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State as Shared},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// What the model does in one turn.
#[derive(Debug, Clone)]
pub enum Turn {
    /// Calls a tool of the agent.
    Call(&'static str, Value),
    /// Says something and ends its turn.
    Say(&'static str),
}

/// A request that reached the model.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The path.
    pub path: String,
    /// The credential, from `x-api-key` or a bearer token.
    pub key: String,
    /// The body, parsed.
    pub body: Value,
}

/// The server, running until it is dropped.
pub struct ScriptedModel {
    address: SocketAddr,
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

struct Inner {
    key: String,
    script: Vec<Turn>,
    asked: Mutex<Vec<Asked>>,
}

impl Inner {
    fn asked(&self) -> std::sync::MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScriptedModel {
    /// Starts one on a free port of loopback that answers only to `key`.
    pub async fn start(key: &str, script: Vec<Turn>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port of loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let inner = Arc::new(Inner { key: key.to_owned(), script, asked: Mutex::default() });
        let router = axum::Router::new().fallback(serve).with_state(inner.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serving does not end") });
        Self { address, inner, task }
    }

    /// Where it lies, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request until now.
    pub fn asked(&self) -> Vec<Asked> {
        self.inner.asked().clone()
    }

    /// Everything that the agent ever sent, as one text.
    pub fn everything_sent(&self) -> String {
        self.asked().iter().map(|asked| format!("{}\n", asked.body)).collect()
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(Shared(inner): Shared<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let bearer = text("authorization").trim_start_matches("Bearer ").to_owned();
    let key = if text("x-api-key").is_empty() { bearer } else { text("x-api-key").to_owned() };
    let body = to_bytes(body, 64 << 20).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let path = parts.uri.path().to_owned();
    inner.asked().push(Asked { path: path.clone(), key: key.clone(), body: body.clone() });
    if key != inner.key {
        let error =
            json!({ "type": "error", "error": { "type": "authentication_error", "message": "invalid x-api-key" } });
        return (StatusCode::UNAUTHORIZED, axum::Json(error)).into_response();
    }
    match path.trim_start_matches("/v1") {
        "/messages" => messages(&inner, &body),
        "/messages/count_tokens" => axum::Json(json!({ "input_tokens": 100 })).into_response(),
        "/responses" => responses(&inner, &body),
        _ => (StatusCode::NOT_FOUND, axum::Json(json!({ "error": { "message": "Not found" } }))).into_response(),
    }
}

impl Inner {
    /// The turn after `n` calls of tools; after the script there is nothing more to say.
    fn turn(&self, n: usize) -> Turn {
        self.script.get(n).cloned().unwrap_or(Turn::Say("Done."))
    }
}

fn messages(inner: &Inner, body: &Value) -> Response {
    let conversation = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let contents = conversation.iter().filter_map(|message| message["content"].as_array()).flatten();
    let n_results = contents.filter(|content| content["type"] == "tool_result").count();
    // Side questions, such as for a title, come without tools and are not part of the script.
    let turn = match body["tools"].as_array().is_some_and(|tools| !tools.is_empty()) {
        true => inner.turn(n_results),
        false => Turn::Say("A change"),
    };
    let (block, delta, stop) = match &turn {
        Turn::Call(name, input) => (
            json!({ "type": "tool_use", "id": fresh("toolu"), "name": name, "input": {} }),
            json!({ "type": "input_json_delta", "partial_json": input.to_string() }),
            "tool_use",
        ),
        Turn::Say(text) => {
            (json!({ "type": "text", "text": "" }), json!({ "type": "text_delta", "text": text }), "end_turn")
        }
    };
    let usage = json!({ "input_tokens": 120, "output_tokens": 30, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0 });
    let message = json!({
        "id": fresh("msg"), "type": "message", "role": "assistant", "model": body["model"], "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    if body["stream"] != true {
        let mut message = message;
        let mut block = block;
        match &turn {
            Turn::Call(_, input) => block["input"] = input.clone(),
            Turn::Say(text) => block["text"] = json!(text),
        }
        message["content"] = json!([block]);
        message["stop_reason"] = json!(stop);
        return axum::Json(message).into_response();
    }
    events(&[
        json!({ "type": "message_start", "message": message }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": stop, "stop_sequence": null }, "usage": usage }),
        json!({ "type": "message_stop" }),
    ])
}

fn responses(inner: &Inner, body: &Value) -> Response {
    let items = body["input"].as_array().map(Vec::as_slice).unwrap_or_default();
    let n = items.iter().filter(|item| item["type"] == "function_call_output").count();
    let item = match inner.turn(n) {
        Turn::Call(name, input) => json!({
            "type": "function_call", "id": fresh("fc"), "call_id": format!("call_{n}"), "name": name,
            "arguments": input.to_string(), "status": "completed",
        }),
        Turn::Say(text) => json!({
            "type": "message", "id": fresh("msg"), "role": "assistant", "status": "completed",
            "content": [{ "type": "output_text", "text": text, "annotations": [] }],
        }),
    };
    let usage = json!({
        "input_tokens": 120, "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": 30, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 150,
    });
    let response = json!({ "id": fresh("resp"), "object": "response", "model": body["model"], "output": [] });
    let mut completed = response.clone();
    (completed["status"], completed["output"], completed["usage"]) = (json!("completed"), json!([item]), usage);
    events(&[
        json!({ "type": "response.created", "response": response }),
        json!({ "type": "response.output_item.added", "output_index": 0, "item": item }),
        json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
        json!({ "type": "response.completed", "response": completed }),
    ])
}

/// An id that was never given out before: agents take messages with one id for one message.
fn fresh(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}

/// Server-sent events, each with its type as its name.
fn events(events: &[Value]) -> Response {
    let lines = events.iter().map(|event| {
        let name = event["type"].as_str().unwrap_or_default();
        format!("event: {name}\ndata: {event}\n\n")
    });
    let stream: String = lines.collect();
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from(stream)).into_response()
}
