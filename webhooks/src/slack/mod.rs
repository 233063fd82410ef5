//! What Slack sends: over HTTP to the door, or over the socket that Onramp opened. Both are read by the same rules.

pub mod events;
mod signature;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};
use tasks::{Change, DedupeKey, Timestamp};
use tracing::Instrument;

use self::events::{Envelope, Kind, Reading};
use crate::{Door, Secrets, answer::Problem, github};

/// What the door must know to take what Slack sends.
#[derive(Debug, Clone)]
pub struct SlackDoor {
    /// The signing secrets of the app.
    pub secrets: Secrets,
    /// The one clock: what was signed long ago is refused.
    pub now: fn() -> Timestamp,
}

/// Takes one request of Slack: verify, read, store, answer. Slack waits for three seconds, so nothing else is done here.
pub(crate) async fn receive(State(door): State<Door>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let slack = door.config.slack.as_ref().ok_or(Problem::TakesNoSlack)?;
    let body = github::read_body(&parts.headers, body, &door.limits).await?;
    signature::verify(&parts.headers, &body, slack)?;
    let envelope = envelope(&parts.headers, &body).ok_or(Problem::NotJson)?;
    if let Some(challenge) = events::challenge(&envelope) {
        return Ok(Json(json!({ "challenge": challenge })).into_response());
    }
    let span = tracing::info_span!("slack", slack.kind = ?envelope.kind);
    async {
        match events::read(&envelope) {
            Reading::Said { key, said } => {
                github::in_time(&door, door.intake.observe(key, Change::Said(said))).await?;
                Ok(StatusCode::OK.into_response())
            }
            Reading::Ignored(reason) => {
                tracing::debug!(reason, "Slack told of something that asks for nothing here");
                Ok(StatusCode::OK.into_response())
            }
        }
    }
    .instrument(span)
    .await
}

/// Events come as JSON, what people press as a form with JSON in it, commands as a plain form.
fn envelope(headers: &HeaderMap, body: &Bytes) -> Option<Envelope> {
    let is_form =
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form"));
    if !is_form {
        return Some(Envelope { kind: Kind::Event, payload: serde_json::from_slice(body).ok()? });
    }
    let fields: Vec<(String, String)> = serde_urlencoded::from_bytes(body).ok()?;
    match fields.iter().find(|(name, _)| name == "payload") {
        Some((_, payload)) => Some(Envelope { kind: Kind::Interaction, payload: serde_json::from_str(payload).ok()? }),
        None => {
            let fields = fields.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
            Some(Envelope { kind: Kind::Command, payload: Value::Object(fields) })
        }
    }
}

/// A key from the parts of what Slack sent; what does not fit a key is left out.
fn key(parts: &[&str]) -> Option<DedupeKey> {
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    let text: String = parts.join(":").chars().filter(char::is_ascii_graphic).take(190).collect();
    format!("slack:{text}").parse().ok()
}
