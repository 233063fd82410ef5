//! Deliveries of GitHub, and of GitHub Enterprise, which sends the same.

mod commands;
pub mod events;
pub mod signature;
mod talk;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tasks::QueueError;
use tracing::Instrument;

use self::{
    events::{Message, NotJson, Reading},
    signature::VerifiedDelivery,
};
use crate::{
    Door, Limits,
    answer::{Problem, Taken},
};

/// Takes one delivery: verify, read, store, answer.
pub(crate) async fn receive(State(door): State<Door>, request: Request) -> Result<Taken, Problem> {
    let (parts, body) = request.into_parts();
    let secrets = door.config.github_secrets.as_ref().ok_or(Problem::TakesNone)?;
    let body = read_body(&parts.headers, body, &door.limits).await?;
    let delivery = VerifiedDelivery::verify(&parts.headers, body, secrets)?;
    let span = tracing::info_span!("delivery", delivery.id = delivery.id(), delivery.event = delivery.event());
    take(&door, &parts.headers, &delivery).instrument(span).await
}

/// Reads the whole body, within the limits of size and time.
pub(crate) async fn read_body(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits.body_bytes as u64) {
        return Err(Problem::TooLarge);
    }
    let collected = tokio::time::timeout(limits.body_timeout, Limited::new(body, limits.body_bytes).collect()).await;
    match collected {
        Err(_) => Err(Problem::TooSlow),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(Problem::TooLarge),
        Ok(Err(_)) => Err(Problem::Broken),
    }
}

async fn take(door: &Door, headers: &HeaderMap, delivery: &VerifiedDelivery) -> Result<Taken, Problem> {
    if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form")) {
        return Err(Problem::NotJsonType);
    }
    if delivery.event() == "ping" {
        return Ok(Taken::Pong { pong: true });
    }
    match events::read(&Message::from(delivery), &door.config).map_err(|NotJson| Problem::NotJson)? {
        Reading::Request(request) => {
            let received = in_time(door, door.intake.enqueue(*request)).await?;
            tracing::info!(task.id = %received.id(), "a request was stored");
            Ok(received.into())
        }
        Reading::Change(change) => {
            let observed = change.word();
            in_time(door, door.intake.observe(delivery.dedupe_key(), change)).await?;
            Ok(Taken::Observed { observed })
        }
        Reading::Ignored(reason) => {
            tracing::debug!(reason, "a delivery asks for nothing here");
            Ok(Taken::Ignored { ignored: reason.into() })
        }
    }
}

/// Waits for the intake, but not longer than the sender would. What it stores later is found by the redelivery.
pub(crate) async fn in_time<T>(door: &Door, work: impl Future<Output = Result<T, QueueError>>) -> Result<T, Problem> {
    match tokio::time::timeout(door.limits.intake_timeout, work).await {
        Ok(done) => Ok(done?),
        Err(_) => {
            tracing::warn!("the intake took too long; the sender was told to try again");
            Err(Problem::Unavailable)
        }
    }
}
