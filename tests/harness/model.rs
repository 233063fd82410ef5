//! A model that follows a script, behind the protocols of the real ones: Anthropic's Messages, OpenAI's chat completions
//! and Responses, streamed; and what goes wrong with real ones.
//!
//! Which turn comes next is read from the conversation itself (how many results of tools it holds), so that a repeated
//! request gets the same answer. Requests are kept: they show which key arrived, and what the agent's tools found.

use std::{
    collections::VecDeque,
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
    faults: Mutex<VecDeque<Fault>>,
}

/// What goes wrong with one request, in place of an answer or in the middle of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status, with an error in the body.
    Status(u16),
    /// The stream ends in the middle.
    Cut,
    /// No answer ever begins.
    Hang,
    /// The answer comes in crumbs of a few bytes.
    Drip,
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
        let (asked, faults) = (Mutex::default(), Mutex::default());
        let inner = Arc::new(Inner { key: key.to_owned(), script, asked, faults });
        let router = axum::Router::new().fallback(serve).with_state(inner.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serving does not end") });
        Self { address, inner, task }
    }

    /// The next requests of the model go wrong so, one after the other. Questions about it (a count of tokens) do not.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inner.faults.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
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
    let path = path.trim_start_matches("/v1");
    let is_asked = matches!(path, "/messages" | "/responses" | "/chat/completions");
    let fault = is_asked.then(|| inner.faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front()).flatten();
    if let Some(Fault::Status(status)) = fault {
        let error = json!({ "type": "error", "error": { "type": "api_error", "message": "scripted failure" } });
        let status = StatusCode::from_u16(status).expect("a status");
        return (status, [(header::RETRY_AFTER, "0")], axum::Json(error)).into_response();
    }
    let answer = match path {
        "/messages" => messages(&inner, &body),
        "/messages/count_tokens" => axum::Json(json!({ "input_tokens": 100 })).into_response(),
        "/responses" => responses(&inner, &body),
        "/chat/completions" => chat(&inner, &body),
        _ => (StatusCode::NOT_FOUND, axum::Json(json!({ "error": { "message": "Not found" } }))).into_response(),
    };
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Cut | Fault::Drip) => in_crumbs(answer, fault == Some(Fault::Cut)).await,
        Some(Fault::Status(_)) | None => answer,
    }
}

/// An answer a few bytes at a time, to its end or to its middle only.
async fn in_crumbs(answer: Response, cut: bool) -> Response {
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let whole = to_bytes(body, 64 << 20).await.unwrap_or_default();
    let end = if cut { whole.len() / 2 } else { whole.len() };
    let crumbs = whole[..end].chunks(64).map(|crumb| Ok(bytes::Bytes::copy_from_slice(crumb))).collect::<Vec<_>>();
    let broken = cut.then(|| Err(std::io::Error::other("scripted cut")));
    let crumbs = futures_util::stream::iter(crumbs.into_iter().chain(broken));
    let slowly = futures_util::StreamExt::then(crumbs, async |crumb| {
        tokio::task::yield_now().await;
        crumb
    });
    Response::from_parts(parts, Body::from_stream(slowly))
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

/// Chat completions, streamed or not. As the real one, a stream tells its tokens only to who asks for them.
fn chat(inner: &Inner, body: &Value) -> Response {
    let conversation = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let n = conversation.iter().filter(|message| message["role"] == "tool").count();
    let turn = match body["tools"].as_array().is_some_and(|tools| !tools.is_empty()) {
        true => inner.turn(n),
        false => Turn::Say("A change"),
    };
    let (message, finish) = match turn {
        Turn::Call(name, input) => {
            let function = json!({ "name": name, "arguments": input.to_string() });
            let call = json!({ "index": 0, "id": fresh("call"), "type": "function", "function": function });
            (json!({ "role": "assistant", "content": null, "tool_calls": [call] }), "tool_calls")
        }
        Turn::Say(text) => (json!({ "role": "assistant", "content": text }), "stop"),
    };
    let usage = json!({ "prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150 });
    let part = |object: &str, choice: Value| json!({ "id": "chat", "object": object, "model": body["model"], "choices": [choice] });
    if body["stream"] != true {
        let mut whole = part("chat.completion", json!({ "index": 0, "message": message, "finish_reason": finish }));
        whole["usage"] = usage;
        return axum::Json(whole).into_response();
    }
    let mut parts = vec![
        part("chat.completion.chunk", json!({ "index": 0, "delta": message, "finish_reason": null })),
        part("chat.completion.chunk", json!({ "index": 0, "delta": {}, "finish_reason": finish })),
    ];
    if body["stream_options"]["include_usage"] == true {
        parts.push(json!({ "id": "chat", "object": "chat.completion.chunk", "choices": [], "usage": usage }));
    }
    let stream: String = parts.iter().map(|part| format!("data: {part}\n\n")).collect();
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from(format!("{stream}data: [DONE]\n\n"))).into_response()
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
