//! The door: HTTP in, task requests out.
//!
//! A delivery is verified over its raw bytes, read into one typed request, handed to the [`Intake`] and answered. The door
//! waits for no work: it answers as soon as the request is durable, and says `503` when it cannot be made so, because the
//! sender then knows that nothing was taken.

mod answer;
pub mod github;
pub mod hooks;
pub mod slack;

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tasks::Intake;
use tower_http::catch_panic::CatchPanicLayer;

pub use github::signature::{BadSecrets, Secrets};
pub use hooks::Hook;
pub use slack::SlackDoor;

use crate::answer::Problem;

/// What the door is told by the configuration.
#[derive(Debug, Clone)]
pub struct DoorConfig {
    /// The secrets that GitHub's deliveries may be signed with: one, or two while one replaces the other.
    /// None: no delivery of GitHub is taken.
    pub github_secrets: Option<Secrets>,
    /// What Slack signs with. None: nothing of Slack is taken at the door; it may still come over its socket.
    pub slack: Option<SlackDoor>,
    /// The label that asks for a task. Compared without regard to case, as GitHub does.
    pub label: String,
    /// The repositories that may ask: `owner/name`, where `*` stands for any part of a name (`acme/*`). Empty: all that
    /// the signature speaks for.
    pub repositories: Vec<String>,
    /// The logins that mean Onramp in comments and assignments, without `@` and `[bot]`.
    pub names: Vec<String>,
    /// Numeric ids of bots that may ask. All other bots are ignored.
    pub allowed_bots: Vec<u64>,
    /// Other senders, by the name behind `/hooks/`.
    pub hooks: BTreeMap<String, Hook>,
}

/// What every request shares.
#[derive(Clone)]
struct Door {
    intake: Arc<dyn Intake>,
    config: Arc<DoorConfig>,
    limits: Limits,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("config", &self.config).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// How much the door bears.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The largest body. GitHub sends at most 25 MB.
    body_bytes: usize,
    /// From the first byte of the headers to the last of the body.
    body_timeout: Duration,
    /// How long the intake may take. GitHub counts a delivery as failed after 10 s.
    intake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 25 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            intake_timeout: Duration::from_secs(8),
        }
    }
}

/// The routes of the door: `POST /hooks/github` (also as `/webhooks/github`), `POST /hooks/slack`,
/// `POST /hooks/NAME` for what else is
/// configured, and `GET /healthz`.
pub fn router(intake: Arc<dyn Intake>, config: DoorConfig) -> Router {
    routes(Door { intake, config: Arc::new(config), limits: Limits::default() })
}

fn routes(door: Door) -> Router {
    Router::new()
        .route("/hooks/github", post(github::receive))
        .route("/webhooks/github", post(github::receive))
        .route("/hooks/slack", post(slack::receive))
        .route("/hooks/{name}", post(hooks::receive))
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || Problem::NotFound)
        .with_state(door)
        .layer(CatchPanicLayer::custom(answer_panic))
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands the payload over by value")]
fn answer_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = message.unwrap_or("unknown"), "a request made the door panic");
    Problem::Internal.into_response()
}

#[cfg(test)]
mod tests;
