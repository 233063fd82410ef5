//! The API for programs: `/api/v1`, described by `docs/openapi.json`.
//!
//! Everything it does it asks of [`Front`], as the pages and the command line do. The same routes answer holders of tokens on
//! the door's address and the operator on the control socket.

mod entrance;
mod mcp;
mod operation;
mod problem;
mod streams;
mod tasks;

use axum::{Extension, Router, extract::DefaultBodyLimit, middleware};

use self::operation::{Operation, document, routes};
pub use self::{
    entrance::{Entrance, OPERATOR_HEADER},
    operation::ROOT,
    problem::{Problem, Refused},
};
use crate::front::{
    Caller, Front, ListQuery, NewTask, Said, Scope, Spoken,
    files::Artifact,
    view::{EventView, TaskDetail, TaskPage},
};

const MAX_BODY_BYTES: usize = 256 << 10;

fn operations() -> Vec<Operation> {
    const KEY: (&str, &str) = ("Idempotency-Key", "A second request with the same key is answered as the first was.");
    vec![
        Operation::post("/tasks", "createTask", tasks::create)
            .summary("Asks for a task.")
            .takes::<NewTask>()
            .header(KEY.0, KEY.1)
            .status(201)
            .answers::<TaskDetail>(),
        Operation::get("/tasks", "listTasks", tasks::list)
            .summary("Lists tasks, newest first.")
            .asks::<ListQuery>()
            .answers::<TaskPage>(),
        Operation::get("/tasks/{task}", "getTask", tasks::get)
            .summary("Shows one task with everything that there is to say about it.")
            .answers::<TaskDetail>(),
        Operation::post("/tasks/{task}/stop", "stopTask", tasks::stop)
            .summary("Stops a task that waits or runs. What was done until then is kept.")
            .answers::<TaskDetail>(),
        Operation::post("/tasks/{task}/finish", "finishTask", tasks::finish)
            .summary("Ends a running task with what is there: it is checked and published as it is.")
            .answers::<TaskDetail>(),
        Operation::post("/tasks/{task}/retry", "retryTask", tasks::retry)
            .summary("Puts a failed, rejected, empty or stopped task back into the queue.")
            .answers::<TaskDetail>(),
        Operation::post("/tasks/{task}/say", "sayToTask", tasks::say)
            .summary("Says something to a task, or has its open pull request changed further.")
            .takes::<Said>()
            .header(KEY.0, KEY.1)
            .answers::<Spoken>(),
        Operation::post("/tasks/{task}/replay", "replayTask", tasks::replay)
            .summary("Asks for the same again, by the same or another agent; ends in a diff, published nowhere.")
            .takes::<tasks::Replay>()
            .status(201)
            .answers::<TaskDetail>(),
        Operation::post("/resume", "resumeRepository", tasks::resume)
            .summary("Lets a repository go on that was left alone because nobody reacted to its pull requests.")
            .takes::<tasks::Resume>()
            .answers::<()>(),
        Operation::get("/budget", "getBudget", tasks::budget)
            .needs(Scope::Admin)
            .summary("What every account used in a month, what is left of it, and who waits for it.")
            .asks::<tasks::Which>()
            .answers::<Vec<::tasks::Spending>>(),
        Operation::get("/tasks/{task}/diff", "getDiff", tasks::diff)
            .summary("The verified or last diff.")
            .answers_with("text/x-diff"),
        Operation::get("/tasks/{task}/log", "streamLog", streams::log)
            .summary("The log as server-sent events: `line` with a LogLine each, then `end` with the task.")
            .asks::<streams::LogQuery>()
            .header("Last-Event-ID", "The id of the last event that arrived: the stream goes on after it.")
            .answers_with("text/event-stream"),
        Operation::get("/tasks/{task}/events", "listEvents", tasks::events)
            .summary("What happened to the task, oldest first.")
            .answers::<Vec<EventView>>(),
        Operation::get("/tasks/{task}/evidence", "getEvidence", tasks::evidence)
            .summary("What was verified, where, and with which result.")
            .answers::<::tasks::Evidence>(),
        Operation::get("/tasks/{task}/artifacts", "listArtifacts", tasks::artifacts)
            .summary("What its attempts left behind.")
            .answers::<Vec<Artifact>>(),
        Operation::get("/tasks/{task}/artifacts/{attempt}/{name}", "getArtifact", tasks::artifact)
            .summary("One file of an attempt.")
            .answers_with("application/octet-stream"),
    ]
}

/// The OpenAPI document, as it is committed in `docs/openapi.json`.
pub fn openapi() -> String {
    let mut text = serde_json::to_string_pretty(&document(&operations())).unwrap_or_default();
    text.push('\n');
    text
}

/// The routes for holders of tokens; `more` is for them too.
pub fn router(front: Front, entrance: Entrance, more: Router) -> Router {
    bare(front).merge(more).layer(middleware::from_fn_with_state(entrance, entrance::by_token)).merge(public())
}

/// The routes for the operator.
pub fn operator_router(front: Front) -> Router {
    bare(front).layer(middleware::from_fn(entrance::as_operator)).merge(public())
}

fn bare(front: Front) -> Router {
    let routes = routes(operations()).route("/mcp", axum::routing::post(mcp::over_http));
    routes.layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).with_state(front)
}

/// What the API is, for anybody.
fn public() -> Router {
    let document = async || ([(axum::http::header::CONTENT_TYPE, "application/json")], openapi());
    Router::new().route("/api/openapi.json", axum::routing::get(document))
}

/// Who asks.
type Who = Extension<Caller>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_description_is_what_the_code_does() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == openapi(), "write it anew: cargo run -- openapi > docs/openapi.json");
    }

    #[test]
    fn every_reference_of_the_description_leads_somewhere() {
        let text = openapi();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let references: Vec<_> =
            text.split("\"$ref\": \"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(references.len() > 10);
        for reference in references {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
    }
}
