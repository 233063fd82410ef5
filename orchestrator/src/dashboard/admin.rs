//! What concerns the whole installation: who has access, who works, what came in.

use ::tasks::{Failure, Intake as _, TaskFilter, TaskState};
use axum::{
    Extension, Form,
    extract::{Path, State},
    http::{HeaderMap, Uri},
    response::{IntoResponse as _, Redirect},
};
use serde_json::{Value, json};

use super::{
    Answer, Of, Shell,
    session::{Csrf, Session},
    value,
};
use crate::{
    front::{Scope, refusal},
    queue::QueueRecord,
};

/// So many of the last records are looked through for what came in.
const LAST_RECORDS: u64 = 500;
const MAX_DELIVERIES: usize = 50;

pub(super) async fn page(
    State(pages): Of,
    Extension(session): Extension<Session>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    session.caller.demand(Scope::Admin)?;
    let queue = pages.front().queue();
    let filter = TaskFilter { unfinished: true, ..TaskFilter::default() };
    let unfinished = queue.list(filter).await.map_err(refusal)?;
    let workers: Vec<_> = unfinished
        .iter()
        .filter_map(|task| match &task.state {
            TaskState::Running { lease, .. } => {
                let title = &task.request.instruction.title;
                Some(json!({ "name": lease.worker, "task": task.id, "title": title }))
            }
            _ => None,
        })
        .collect();
    let (sequence, hash) = queue.journal_head();
    let events = queue.events_after(sequence.saturating_sub(LAST_RECORDS), LAST_RECORDS as usize).await;
    let deliveries: Vec<Value> =
        events.map_err(refusal)?.iter().rev().filter_map(|(_, record)| delivery(record)).take(MAX_DELIVERIES).collect();
    let own = json!({
        "n_queued": unfinished.len() - workers.len(),
        "workers": workers,
        "journal": { "sequence": sequence, "hash": hash.to_string() },
        "version": env!("CARGO_PKG_VERSION"),
        "tokens": value(&pages.front().tokens().list()?)?,
        "deliveries": deliveries,
    });
    let shell = Shell::of(&headers, uri.path());
    shell.page("admin.html", "admin", Some(&session), None, own)
}

/// A record of something that came from outside.
fn delivery(record: &QueueRecord) -> Option<Value> {
    let (key, task, repo) = match record {
        QueueRecord::Enqueued { task } => {
            let request = &task.request;
            (request.dedupe_key.to_string(), Some(task.id), Some(request.repo.to_string()))
        }
        QueueRecord::Joined { key, task, .. } => (key.to_string(), Some(*task), None),
        QueueRecord::Observed { key, change, .. } => (key.to_string(), None, change.repo().map(ToString::to_string)),
        _ => return None,
    };
    Some(json!({ "at": record.at(), "what": record.word(), "key": key, "task": task, "repo": repo }))
}

pub(super) async fn revoke(
    State(pages): Of,
    Extension(session): Extension<Session>,
    Path(token): Path<String>,
    Form(Csrf { csrf }): Form<Csrf>,
) -> Answer {
    session.demand(&csrf)?;
    session.caller.demand(Scope::Admin)?;
    let tokens = pages.front().tokens().clone();
    tokio::task::spawn_blocking(move || tokens.revoke(&token)).await.map_err(Failure::internal)??;
    Ok(Redirect::to("/admin").into_response())
}
