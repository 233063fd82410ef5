//! The same for other agents: the Model Context Protocol, as one JSON-RPC message in and one out.
//!
//! Over HTTP (`POST /mcp`, with a token) and, as `onramp mcp`, line by line over standard input and output. Nothing is
//! remembered between two messages, so there is no session to lose.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tasks::{Code, Failure, Intake as _};

use super::Who;
use crate::front::{Caller, Front, ListQuery, NewTask, Said, Scope, refusal};

/// The versions of the protocol whose messages these are, newest first.
const VERSIONS: [&str; 3] = ["2025-06-18", "2025-03-26", "2024-11-05"];
const INSTRUCTIONS: &str = "Onramp turns a request into a verified pull request, in the background: start_task answers at once, \
     and get_task tells how far it is. What changed a repository is only ever published after its own checks passed.";
/// More would drown whoever reads it.
const MAX_DIFF_BYTES: usize = 200 << 10;

/// Which task.
#[derive(Debug, Deserialize, JsonSchema)]
struct Which {
    /// Its id, the beginning or end of it, `#12`, `owner/name#12`, or the address of an issue or pull request.
    task: String,
}

/// A word for a task.
#[derive(Debug, Deserialize, JsonSchema)]
struct Word {
    /// Its id, the beginning or end of it, `#12`, `owner/name#12`, or the address of an issue or pull request.
    task: String,
    /// What to consider or to change.
    text: String,
}

/// A tool, and how far somebody must be allowed to go for it.
struct Tool {
    name: &'static str,
    description: &'static str,
    scope: Scope,
    takes: fn() -> Value,
}

const TOOLS: [Tool; 6] = [
    Tool {
        name: "start_task",
        description: "Ask for a change of a repository. Ends in a pull request, or in the reason why there is none.",
        scope: Scope::Act,
        takes: || schema::<NewTask>(),
    },
    Tool {
        name: "get_task",
        description: "Where a task stands: state, why it waits, pull request, failure with the next step, evidence.",
        scope: Scope::Read,
        takes: || schema::<Which>(),
    },
    Tool {
        name: "list_tasks",
        description: "Tasks, newest first.",
        scope: Scope::Read,
        takes: || schema::<ListQuery>(),
    },
    Tool {
        name: "get_diff",
        description: "The verified or last diff of a task.",
        scope: Scope::Read,
        takes: || schema::<Which>(),
    },
    Tool {
        name: "say",
        description: "Say something to a task that waits or runs, or have its open pull request changed further.",
        scope: Scope::Act,
        takes: || schema::<Word>(),
    },
    Tool {
        name: "stop_task",
        description: "Stop a task that waits or runs. What was done until then is kept.",
        scope: Scope::Act,
        takes: || schema::<Which>(),
    },
];

/// A message over HTTP.
pub(super) async fn over_http(
    State(front): State<Front>,
    Extension(who): Who,
    message: Result<Json<Value>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let Ok(Json(message)) = message else {
        return (StatusCode::BAD_REQUEST, Json(error(&Value::Null, -32700, "this is no JSON"))).into_response();
    };
    match answer(&front, &who, &message).await {
        Some(answer) => Json(answer).into_response(),
        None => StatusCode::ACCEPTED.into_response(),
    }
}

/// The answer to a message; `None` to one that wants none.
async fn answer(front: &Front, who: &Caller, message: &Value) -> Option<Value> {
    let id = message.get("id")?;
    let Some(method) = message.get("method").and_then(Value::as_str) else {
        return Some(error(id, -32600, "a message names its method"));
    };
    let parameters = message.get("params").cloned().unwrap_or_default();
    let result = match method {
        "initialize" => {
            let asked = parameters.get("protocolVersion").and_then(Value::as_str);
            let version = VERSIONS.into_iter().find(|version| Some(*version) == asked).unwrap_or(VERSIONS[0]);
            json!({
                "protocolVersion": version,
                "capabilities": { "tools": {} },
                "serverInfo": { "name": "onramp", "version": env!("CARGO_PKG_VERSION") },
                "instructions": INSTRUCTIONS,
            })
        }
        "ping" => json!({}),
        "tools/list" => {
            let tool = |tool: &Tool| json!({ "name": tool.name, "description": tool.description, "inputSchema": (tool.takes)() });
            json!({ "tools": TOOLS.iter().filter(|tool| who.scope >= tool.scope).map(tool).collect::<Vec<_>>() })
        }
        "tools/call" => {
            let name = parameters.get("name").and_then(Value::as_str).unwrap_or_default();
            let Some(tool) = TOOLS.iter().find(|tool| tool.name == name) else {
                return Some(error(id, -32602, "there is no such tool"));
            };
            let arguments = parameters.get("arguments").cloned().unwrap_or_else(|| json!({}));
            match call(front, who, tool, arguments).await {
                Ok((text, None)) => json!({ "content": [{ "type": "text", "text": text }] }),
                Ok((text, Some(value))) => {
                    json!({ "content": [{ "type": "text", "text": text }], "structuredContent": value })
                }
                Err(Failure { code, message, next_step, .. }) => {
                    let text = format!("{message} ({code}). Next: {next_step}");
                    json!({ "content": [{ "type": "text", "text": text }], "isError": true })
                }
            }
        }
        _ => return Some(error(id, -32601, "there is no such method")),
    };
    Some(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

/// What a tool says, and the same for programs.
async fn call(front: &Front, who: &Caller, tool: &Tool, arguments: Value) -> Result<(String, Option<Value>), Failure> {
    who.demand(tool.scope)?;
    let value = match tool.name {
        "start_task" => {
            let id = front.create(who, parsed(arguments)?, None).await?.id();
            shown(front, id).await?
        }
        "list_tasks" => json(&front.list(who, &parsed(arguments)?).await?)?,
        "get_diff" => {
            let task = front.find(who, &parsed::<Which>(arguments)?.task).await?;
            let (_, diff) = front.diff(&task).await?;
            let mut text = String::from_utf8_lossy(&diff).into_owned();
            if text.len() > MAX_DIFF_BYTES {
                text.truncate(text.floor_char_boundary(MAX_DIFF_BYTES));
                text.push_str("\n[the rest is left out]\n");
            }
            return Ok((text, None));
        }
        "say" => {
            let Word { task, text } = parsed(arguments)?;
            let task = front.find(who, &task).await?;
            json(&front.say(who, &task, &Said { text }, None).await?)?
        }
        "stop_task" => {
            let task = front.find(who, &parsed::<Which>(arguments)?.task).await?;
            front.stop(who, &task).await?;
            shown(front, task.id).await?
        }
        _ => {
            let task = front.find(who, &parsed::<Which>(arguments)?.task).await?;
            json(&front.detail(task).await?)?
        }
    };
    Ok((serde_json::to_string_pretty(&value).map_err(Failure::internal)?, Some(value)))
}

async fn shown(front: &Front, id: tasks::TaskId) -> Result<Value, Failure> {
    let task = front.queue().get(id).await.map_err(refusal)?;
    let task = task.ok_or_else(|| Failure::internal("the task is gone"))?;
    json(&front.detail(task).await?)
}

fn json(value: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(Failure::internal)
}

fn parsed<T: DeserializeOwned>(arguments: Value) -> Result<T, Failure> {
    let bad = |error| Failure::new(Code::Usage, format!("The arguments are not what the tool takes: {error}"));
    serde_json::from_value(arguments).map_err(bad).map_err(|failure| failure.next("See its inputSchema."))
}

fn schema<T: JsonSchema>() -> Value {
    schema_for!(T).to_value()
}

fn error(id: &Value, code: i32, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}
