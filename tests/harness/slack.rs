//! A Slack that fits in a test: channels with messages, a socket for the app, and the few methods that Onramp calls. It
//! refuses what Slack refuses.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::{SinkExt as _, StreamExt as _};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::onramp::CANARY;

/// A message as it stands now.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id.
    pub ts: String,
    /// The thread that it belongs to; its own id when it opens one.
    pub thread: String,
    /// Its text.
    pub text: String,
    /// Block Kit.
    pub blocks: Value,
    /// What was noted with it.
    pub metadata: Value,
    /// Whether the app wrote it.
    pub by_app: bool,
    /// How often it was edited.
    pub n_edits: usize,
}

#[derive(Default)]
struct Inner {
    channels: BTreeMap<String, Vec<Message>>,
    whispers: Vec<(String, String)>,
    /// Answers that are given instead, once each: the method, and what happens.
    faults: Vec<(&'static str, Fault)>,
    calls: Vec<(String, std::time::Instant)>,
    acknowledged: Vec<String>,
    socket: Option<mpsc::UnboundedSender<Value>>,
    n_seconds: u64,
}

/// What goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is done, and the answer is lost.
    LostAnswer,
    /// Too many requests: nothing is done; to be asked again in a second.
    RateLimited,
}

/// The server, running until it is dropped.
pub struct Slack {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
    socket_url: String,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slack {
    /// Starts it.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let socket_url = format!("ws://{}/link", socket.local_addr().expect("an address"));
        let shared = Arc::new(Shared { inner: Mutex::default(), changed: Notify::new(), socket_url });
        let router = Router::new().route("/api/{method}", post(call)).with_state(shared.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the listener lives");
        });
        let sockets = tokio::spawn(serve_sockets(socket, shared.clone()));
        Self { address, shared, tasks: vec![serving, sockets] }
    }

    /// The root of its API.
    pub fn api_url(&self) -> String {
        format!("http://{}/api", self.address)
    }

    /// The bot's token.
    pub fn bot_token() -> String {
        format!("xoxb-{CANARY}-1")
    }

    /// The app's token, for the socket.
    pub fn app_token() -> String {
        format!("xapp-{CANARY}-1")
    }

    /// What requests over HTTP are signed with.
    pub fn signing_secret() -> String {
        format!("{CANARY}-signing")
    }

    /// Makes one call go wrong.
    pub fn fault(&self, method: &'static str, fault: Fault) {
        self.shared.inner().faults.push((method, fault));
    }

    /// A person says something. Returns the id of the message; nothing is sent to the app.
    pub fn post(&self, channel: &str, thread: Option<&str>, text: &str) -> String {
        let mut inner = self.shared.inner();
        let ts = inner.next_ts();
        let thread = thread.map_or_else(|| ts.clone(), str::to_owned);
        let message = Message {
            ts: ts.clone(),
            thread,
            text: text.to_owned(),
            blocks: json!([]),
            metadata: Value::Null,
            by_app: false,
            n_edits: 0,
        };
        inner.channels.entry(channel.to_owned()).or_default().push(message);
        ts
    }

    /// The event about a mention that was posted.
    pub fn mention(channel: &str, user: &str, ts: &str, thread: Option<&str>, text: &str) -> Value {
        let mut event = json!({ "type": "app_mention", "user": user, "text": format!("<@UONRAMP> {text}"), "ts": ts, "channel": channel });
        if let Some(thread) = thread {
            event["thread_ts"] = thread.into();
        }
        json!({ "type": "event_callback", "event_id": format!("Ev{ts}"), "event": event })
    }

    /// Sends something over the socket, as soon as the app listens. Returns its envelope.
    ///
    /// # Panics
    /// When the app does not listen within a while.
    pub async fn send(&self, kind: &str, payload: Value) -> String {
        let id = uuid::Uuid::now_v7().to_string();
        let envelope =
            json!({ "envelope_id": id, "type": kind, "payload": payload, "accepts_response_payload": false });
        let listens = async {
            loop {
                let changed = self.shared.changed.notified();
                if let Some(socket) = &self.shared.inner().socket
                    && socket.send(envelope.clone()).is_ok()
                {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), listens).await.expect("the app opens its socket");
        id
    }

    /// Signs a body as Slack does.
    pub fn sign(body: &str, at: i64) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(Self::signing_secret().as_bytes()).expect("any key");
        mac.update(format!("v0:{at}:{body}").as_bytes());
        format!("v0={}", hex::encode(mac.finalize().into_bytes()))
    }

    /// The messages of the app in a channel, oldest first.
    pub fn told(&self, channel: &str) -> Vec<Message> {
        let inner = self.shared.inner();
        let messages = inner.channels.get(channel).cloned().unwrap_or_default();
        messages.into_iter().filter(|message| message.by_app).collect()
    }

    /// What was said to one person only: who, what.
    pub fn whispers(&self) -> Vec<(String, String)> {
        self.shared.inner().whispers.clone()
    }

    /// The envelopes that were acknowledged.
    pub fn acknowledged(&self) -> Vec<String> {
        self.shared.inner().acknowledged.clone()
    }

    /// When a method was called.
    pub fn calls(&self, method: &str) -> Vec<std::time::Instant> {
        self.shared.inner().calls.iter().filter(|(name, _)| name == method).map(|(_, at)| *at).collect()
    }

    /// Waits until something is there.
    ///
    /// # Panics
    /// When it is not within the deadline.
    pub async fn until<T>(&self, what: &str, deadline: Duration, wanted: impl Fn(&Self) -> Option<T>) -> T {
        let look = async {
            loop {
                let changed = self.shared.changed.notified();
                if let Some(found) = wanted(self) {
                    return found;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(deadline, look).await {
            Ok(found) => found,
            Err(_) => {
                let (channels, whispers) = (self.shared.inner().channels.clone(), self.whispers());
                panic!("no {what}; told: {channels:#?}\nwhispers: {whispers:#?}")
            }
        }
    }
}

impl Drop for Slack {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Inner {
    /// Ids are times, and no two are the same.
    fn next_ts(&mut self) -> String {
        self.n_seconds += 1;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        format!("{now}.{:06}", self.n_seconds)
    }
}

async fn call(
    State(shared): State<Arc<Shared>>,
    Path(method): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = if method == "apps.connections.open" { Slack::app_token() } else { Slack::bot_token() };
    if bearer != format!("Bearer {token}") {
        return Json(json!({ "ok": false, "error": "invalid_auth" })).into_response();
    }
    let fault = {
        let mut inner = shared.inner();
        inner.calls.push((method.clone(), std::time::Instant::now()));
        let at = inner.faults.iter().position(|(name, _)| *name == method);
        at.map(|at| inner.faults.remove(at).1)
    };
    if fault == Some(Fault::RateLimited) {
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "").into_response();
    }
    let answer = shared.inner().answer(&method, &body, &shared.socket_url);
    shared.changed.notify_waiters();
    if fault == Some(Fault::LostAnswer) {
        return (StatusCode::BAD_GATEWAY, "<html>bad gateway</html>").into_response();
    }
    Json(answer).into_response()
}

impl Inner {
    fn answer(&mut self, method: &str, body: &Value, socket_url: &str) -> Value {
        let refused = |error: &str| json!({ "ok": false, "error": error });
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let channel = text("channel");
        match method {
            "apps.connections.open" => json!({ "ok": true, "url": socket_url }),
            "chat.postMessage" => {
                if let Err(error) = well_formed(body) {
                    return refused(error);
                }
                let ts = self.next_ts();
                let thread = Some(text("thread_ts")).filter(|ts| !ts.is_empty()).unwrap_or_else(|| ts.clone());
                self.channels.entry(channel.clone()).or_default().push(Message {
                    ts: ts.clone(),
                    thread,
                    text: text("text"),
                    blocks: body["blocks"].clone(),
                    metadata: body["metadata"].clone(),
                    by_app: true,
                    n_edits: 0,
                });
                json!({ "ok": true, "channel": channel, "ts": ts })
            }
            "chat.update" => {
                if let Err(error) = well_formed(body) {
                    return refused(error);
                }
                let messages = self.channels.entry(channel).or_default();
                let Some(message) =
                    messages.iter_mut().find(|message| message.by_app && body["ts"] == message.ts.as_str())
                else {
                    return refused("message_not_found");
                };
                message.text = text("text");
                message.blocks = body["blocks"].clone();
                message.metadata = body["metadata"].clone();
                message.n_edits += 1;
                json!({ "ok": true })
            }
            "chat.postEphemeral" => {
                self.whispers.push((text("user"), text("text")));
                json!({ "ok": true })
            }
            "conversations.history" | "conversations.replies" => {
                let wanted = |message: &&Message| match method {
                    "conversations.history" => message.thread == message.ts,
                    _ => body["ts"] == message.thread.as_str(),
                };
                let messages: Vec<Value> =
                    self.channels.get(&channel).into_iter().flatten().filter(wanted).map(as_json).collect();
                if method == "conversations.replies" && messages.is_empty() {
                    return refused("thread_not_found");
                }
                json!({ "ok": true, "messages": messages })
            }
            _ => refused("unknown_method"),
        }
    }
}

fn as_json(message: &Message) -> Value {
    let mut value = json!({ "type": "message", "ts": message.ts, "thread_ts": message.thread, "text": message.text });
    if message.by_app {
        value["bot_id"] = "BONRAMP".into();
    }
    if !message.metadata.is_null() {
        value["metadata"] = message.metadata.clone();
    }
    value
}

/// Slack's limits that a message can break.
fn well_formed(body: &Value) -> Result<(), &'static str> {
    if body["text"].as_str().unwrap_or_default().is_empty() {
        return Err("no_text");
    }
    for block in body["blocks"].as_array().into_iter().flatten() {
        let too_long = |value: &Value, max: usize| {
            value.as_str().is_some_and(|text| text.is_empty() || text.chars().count() > max)
        };
        let elements = block["elements"].as_array().into_iter().flatten();
        let bad = match block["type"].as_str() {
            Some("section") => too_long(&block["text"]["text"], 3_000),
            Some("context") => false,
            Some("actions") => {
                elements.clone().count() == 0
                    || elements.clone().any(|element| {
                        element["type"] == "button"
                            && (too_long(&element["text"]["text"], 75) || element["action_id"].is_null())
                    })
            }
            _ => true,
        };
        if bad {
            return Err("invalid_blocks");
        }
    }
    Ok(())
}

/// One socket at a time, as a test has one app.
async fn serve_sockets(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { continue };
        let (sender, mut to_send) = mpsc::unbounded_channel::<Value>();
        if socket.send(Frame::text(json!({ "type": "hello", "num_connections": 1 }).to_string())).await.is_err() {
            continue;
        }
        shared.inner().socket = Some(sender);
        shared.changed.notify_waiters();
        loop {
            tokio::select! {
                Some(value) = to_send.recv() => {
                    let ends = value["payload"]["end"] == json!(true);
                    let value = if ends { json!({ "type": "disconnect", "reason": "refresh_requested" }) } else { value };
                    if socket.send(Frame::text(value.to_string())).await.is_err() {
                        break;
                    }
                }
                frame = socket.next() => match frame {
                    Some(Ok(Frame::Text(text))) => {
                        let id = serde_json::from_str::<Value>(&text).ok().and_then(|v| Some(v["envelope_id"].as_str()?.to_owned()));
                        shared.inner().acknowledged.extend(id);
                        shared.changed.notify_waiters();
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                }
            }
        }
        shared.inner().socket = None;
    }
}
