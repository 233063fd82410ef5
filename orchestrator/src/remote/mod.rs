//! Workers in other processes: the queue over HTTP, and a place for their artifacts.
//!
//! Who knows the token and speaks the same protocol is a worker, and nothing else is asked of it: every write carries a
//! lease, and the queue alone says whether that lease is alive. Nothing is remembered here between two requests, so a
//! restart changes nothing for the workers: the lease is in the queue, under the name of the question that it answered.
//!
//! The messages are [`workers::remote::protocol`]. The token travels in a header: TLS is the operator's proxy.

mod access;
mod artifacts;
mod asks;

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State, rejection::JsonRejection},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tasks::{Code, Failure, Intake, Lease, QueueError, Report, Task, WorkQueue, WorkerName, queue::Renewal};
use tokio_util::sync::CancellationToken;
use workers::remote::protocol::{
    ABANDON, ARTIFACTS, Ask, Final, Granted, LEASE, LEASE_WAIT, MAX_JSON_BYTES, RENEW, REPORT, Renew, Renewed, WELCOME,
};

pub use self::access::Access;
use self::asks::Asks;
use crate::queue::{Clock, Queue};

/// What workers in other processes reach.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    queue: Arc<Queue>,
    clock: Clock,
    artifacts: PathBuf,
    access: Access,
    closing: CancellationToken,
    asks: Asks,
    /// Held while a piece is added to a log: two of one log must not overlap.
    appending: tokio::sync::Mutex<()>,
}

impl Desk {
    /// `artifacts`: where those of all attempts lie. `closing`: from then on no task is given out.
    pub fn new(
        queue: Arc<Queue>,
        clock: Clock,
        artifacts: PathBuf,
        access: Access,
        closing: CancellationToken,
    ) -> Self {
        let (asks, appending) = (Asks::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { queue, clock, artifacts, access, closing, asks, appending }))
    }

    /// The routes below `/worker/`.
    pub fn router(self) -> Router {
        Router::new()
            .route(WELCOME, get(async || Json(())))
            .route(LEASE, post(lease))
            .route(ABANDON, post(abandon))
            .route(RENEW, post(renew))
            .route(REPORT, post(report))
            .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
            .route(&format!("{ARTIFACTS}/{{task}}/{{attempt}}/{{name}}"), post(artifacts::append).put(artifacts::put))
            // Another version of the protocol may have other paths; it is told so, and not that there is nothing.
            .route("/worker/{*anything}", axum::routing::any(async || Answer::Version))
            .layer(middleware::from_fn_with_state(self.clone(), access::check))
            .with_state(self)
    }

    /// How much longer a lease lasts.
    fn lasts_ms(&self, until: tasks::Timestamp) -> u64 {
        u64::try_from((until - (self.0.clock)()).num_milliseconds()).unwrap_or(0)
    }

    /// The lease that an earlier question of this very name was answered with, while it is alive.
    async fn held_by(&self, worker: &WorkerName) -> Result<Option<Granted>, QueueError> {
        let queue = &self.0.queue;
        let running: Vec<_> = queue.leases().borrow().keys().copied().collect();
        for id in running {
            let Some(task) = queue.get(id).await? else { continue };
            let Some(lease) = task.state.lease().filter(|lease| lease.worker == *worker).cloned() else { continue };
            // The queue decides, and not what could be read a moment ago.
            return match queue.renew(&lease, tasks::Stage::Preparing).await {
                Ok(Renewal::Held(until) | Renewal::CancelRequested(until) | Renewal::FinishRequested(until)) => {
                    Ok(Some(Granted { lasts_ms: self.lasts_ms(until), task, lease }))
                }
                Err(QueueError::StaleLease { .. } | QueueError::UnknownTask(_)) => Ok(None),
                Err(error) => Err(error),
            };
        }
        Ok(None)
    }

    fn granted(&self, (task, lease): (Task, Lease)) -> Granted {
        Granted { lasts_ms: self.lasts_ms(lease.expires_at), task, lease }
    }
}

async fn lease(
    State(desk): State<Desk>,
    ask: Result<Json<Ask>, JsonRejection>,
) -> Result<Json<Option<Granted>>, Answer> {
    let Ask { worker } = body(ask)?;
    let turn = desk.0.asks.turn(&worker).await;
    if let Some(granted) = desk.held_by(&worker).await? {
        return Ok(Json(Some(granted)));
    }
    tokio::select! {
        biased;
        () = desk.0.closing.cancelled() => Err(Answer::NotNow("the server is shutting down".to_owned())),
        () = turn.superseded() => Ok(Json(None)),
        leased = tokio::time::timeout(LEASE_WAIT, desk.0.queue.lease(&worker)) => match leased {
            Ok(leased) => Ok(Json(Some(desk.granted(leased?)))),
            Err(_) => Ok(Json(None)),
        },
    }
}

async fn abandon(State(desk): State<Desk>, ask: Result<Json<Ask>, JsonRejection>) -> Result<Json<()>, Answer> {
    let Ask { worker } = body(ask)?;
    let _turn = desk.0.asks.turn(&worker).await;
    if let Some(granted) = desk.held_by(&worker).await? {
        desk.0.queue.report(&granted.lease, Report::Released { used: None }).await?;
    }
    Ok(Json(()))
}

async fn renew(State(desk): State<Desk>, renew: Result<Json<Renew>, JsonRejection>) -> Result<Json<Renewed>, Answer> {
    let Renew { lease, stage } = body(renew)?;
    let (cancel_requested, finish_requested, until) = match desk.0.queue.renew(&lease, stage).await? {
        Renewal::Held(until) => (false, false, until),
        Renewal::CancelRequested(until) => (true, false, until),
        Renewal::FinishRequested(until) => (false, true, until),
    };
    Ok(Json(Renewed { cancel_requested, finish_requested, lasts_ms: desk.lasts_ms(until) }))
}

async fn report(State(desk): State<Desk>, last: Result<Json<Final>, JsonRejection>) -> Result<Json<()>, Answer> {
    let Final { lease, report } = body(last)?;
    desk.0.queue.report(&lease, report).await?;
    Ok(Json(()))
}

fn body<T>(json: Result<Json<T>, JsonRejection>) -> Result<T, Answer> {
    match json {
        Ok(Json(value)) => Ok(value),
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Answer::TooLarge(format!("at most {MAX_JSON_BYTES} bytes are taken")))
        }
        // Of the same protocol, and yet not understood: the number was not raised when it should have been.
        Err(rejection) => {
            tracing::warn!(reason = rejection.body_text(), "a worker said something that is not understood");
            Err(Answer::Version)
        }
    }
}

/// What is answered when it is not done.
#[derive(Debug)]
enum Answer {
    /// The token is not the right one.
    Token,
    /// Another version of the protocol.
    Version,
    /// The lease is not alive.
    Stale(String),
    /// It does not fit what is there.
    Elsewhere(String),
    /// More than is taken.
    TooLarge(String),
    /// There is no room for it.
    NoRoom(String),
    /// Not now: try again.
    NotNow(String),
}

impl From<QueueError> for Answer {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::StaleLease { .. }
            | QueueError::UnknownTask(_)
            | QueueError::AlreadyAtWork(_)
            | QueueError::HasEnded(_)
            | QueueError::InvalidTransition(_) => Self::Stale(error.to_string()),
            QueueError::Unavailable(_) | QueueError::ShuttingDown => Self::NotNow(error.to_string()),
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (status, failure) = match self {
            Self::Token => (StatusCode::UNAUTHORIZED, access::wrong_token()),
            Self::Version => (StatusCode::UPGRADE_REQUIRED, access::wrong_version()),
            Self::Stale(why) => (StatusCode::CONFLICT, Failure::new(Code::WorkerLost, why)),
            Self::Elsewhere(why) => (StatusCode::PRECONDITION_FAILED, Failure::new(Code::WorkerRefused, why)),
            Self::TooLarge(why) => (StatusCode::PAYLOAD_TOO_LARGE, Failure::new(Code::WorkerRefused, why)),
            Self::NoRoom(why) => (StatusCode::INSUFFICIENT_STORAGE, Failure::new(Code::StoreUnavailable, why)),
            Self::NotNow(why) => (StatusCode::SERVICE_UNAVAILABLE, Failure::new(Code::StoreUnavailable, why)),
        };
        let mut response = (status, Json(failure)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let pause = Duration::from_secs(1).as_secs().into();
            response.headers_mut().insert(axum::http::header::RETRY_AFTER, pause);
        }
        response
    }
}

#[cfg(test)]
mod tests;
