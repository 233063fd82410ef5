//! What can be asked about tasks, one function for each operation.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State, rejection::JsonRejection, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tasks::{AgentName, Code, Evidence, Failure, Intake as _, Month, Received, RepoName, Spending, Task, TaskId};
use tokio_util::io::ReaderStream;

use super::{Refused, Who};
use crate::front::{
    Front, ListQuery, NewTask, Said, Spoken,
    files::Artifact,
    refusal,
    view::{EventView, TaskDetail, TaskPage},
};

/// How to do the same again.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Replay {
    /// The agent; `null`: the same.
    #[serde(default)]
    agent: Option<AgentName>,
}

/// Which repository.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    /// As `owner/name`.
    repo: RepoName,
}

/// Of which month.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Such as 2026-11; `null`: this one, UTC.
    month: Option<Month>,
}

type Answered<T> = Result<Json<T>, Refused>;
type Created = Result<(StatusCode, Json<TaskDetail>), Refused>;

pub(super) async fn create(
    State(front): State<Front>,
    Extension(who): Who,
    headers: HeaderMap,
    new: Result<Json<NewTask>, JsonRejection>,
) -> Created {
    let received = front.create(&who, body(new)?, key(&headers)?).await?;
    let status = match received {
        Received::New(_) => StatusCode::CREATED,
        Received::Known(_) => StatusCode::OK,
    };
    Ok((status, shown(&front, received.id()).await?))
}

pub(super) async fn list(
    State(front): State<Front>,
    Extension(who): Who,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answered<TaskPage> {
    let Query(query) = query.map_err(|rejection| usage(&rejection.body_text()))?;
    Ok(Json(front.list(&who, &query).await?))
}

pub(super) async fn get(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
) -> Answered<TaskDetail> {
    let task = front.find(&who, &task).await?;
    Ok(Json(front.detail(task).await?))
}

pub(super) async fn stop(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
) -> Answered<TaskDetail> {
    let task = front.find(&who, &task).await?;
    front.stop(&who, &task).await?;
    shown(&front, task.id).await
}

pub(super) async fn finish(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
) -> Answered<TaskDetail> {
    let task = front.find(&who, &task).await?;
    front.finish(&who, &task).await?;
    shown(&front, task.id).await
}

pub(super) async fn retry(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
) -> Answered<TaskDetail> {
    let task = front.find(&who, &task).await?;
    front.retry(&task).await?;
    shown(&front, task.id).await
}

pub(super) async fn say(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
    headers: HeaderMap,
    said: Result<Json<Said>, JsonRejection>,
) -> Answered<Spoken> {
    let task = front.find(&who, &task).await?;
    Ok(Json(front.say(&who, &task, &body(said)?, key(&headers)?).await?))
}

pub(super) async fn replay(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
    how: Result<Json<Replay>, JsonRejection>,
) -> Created {
    let task = front.find(&who, &task).await?;
    let received = front.replay(&who, &task, body(how)?.agent).await?;
    Ok((StatusCode::CREATED, shown(&front, received.id()).await?))
}

pub(super) async fn resume(
    State(front): State<Front>,
    Extension(who): Who,
    which: Result<Json<Resume>, JsonRejection>,
) -> Answered<()> {
    front.resume(&who, &body(which)?.repo).await?;
    Ok(Json(()))
}

pub(super) async fn budget(
    State(front): State<Front>,
    which: Result<Query<Which>, QueryRejection>,
) -> Answered<Vec<Spending>> {
    let Query(Which { month }) = which.map_err(|rejection| usage(&rejection.body_text()))?;
    let month = month.unwrap_or_else(|| Month::of(front.now()));
    Ok(Json(front.queue().spending(month).await.map_err(refusal)?))
}

pub(super) async fn diff(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
) -> Result<Response, Refused> {
    let task = front.find(&who, &task).await?;
    let (attempt, diff) = front.diff(&task).await?;
    let media = "text/x-diff; charset=utf-8".to_owned();
    Ok(([("content-type", media), ("onramp-attempt", attempt.to_string())], diff).into_response())
}

pub(super) async fn events(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
) -> Answered<Vec<EventView>> {
    let task = front.find(&who, &task).await?;
    Ok(Json(front.events(task.id).await?))
}

pub(super) async fn evidence(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
) -> Answered<Evidence> {
    let task = front.find(&who, &task).await?;
    let evidence = front.queue().evidence(task.id).await.map_err(refusal)?;
    let none =
        || Failure::new(Code::NoArtifact, format!("No attempt of task {} reached verification", task.id.short()));
    Ok(Json(evidence.ok_or_else(none)?))
}

pub(super) async fn artifacts(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
) -> Answered<Vec<Artifact>> {
    let task = front.find(&who, &task).await?;
    Ok(Json(front.detail(task).await?.artifacts))
}

/// Whatever an agent wrote into it is shown as text or saved, and never run by a browser.
pub(super) async fn artifact(
    State(front): State<Front>,
    Extension(who): Who,
    Path((task, attempt, name)): Path<(String, u32, String)>,
) -> Result<Response, Refused> {
    let task = front.find(&who, &task).await?;
    let path = front.artifact(task.id, attempt, &name)?;
    let file = tokio::fs::File::open(path).await.map_err(Failure::internal)?;
    let is_text = [".log", ".json", ".jsonl", ".md", ".txt", ".patch"].iter().any(|ending| name.ends_with(ending));
    let kind = if is_text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    let headers = [(header::CONTENT_TYPE, kind), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response())
}

async fn shown(front: &Front, id: TaskId) -> Answered<TaskDetail> {
    let task: Option<Task> = front.queue().get(id).await.map_err(refusal)?;
    let task = task.ok_or_else(|| Failure::internal("the task is gone"))?;
    Ok(Json(front.detail(task).await?))
}

fn key(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let key = headers.get("idempotency-key").map(|value| value.to_str());
    key.transpose().map_err(|_| usage("The Idempotency-Key is not plain text"))
}

fn body<T>(json: Result<Json<T>, JsonRejection>) -> Result<T, Failure> {
    json.map(|Json(value)| value).map_err(|rejection| usage(&rejection.body_text()))
}

fn usage(message: &str) -> Failure {
    Failure::new(Code::Usage, message).next("docs/openapi.json says what can be asked.")
}
