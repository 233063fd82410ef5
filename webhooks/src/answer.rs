//! What the door answers. Problems are RFC 9457 documents, so that a person who reads the sender's log learns what to do.

use std::borrow::Cow;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tasks::{QueueError, Received, TaskId};

/// What is said to a delivery that was taken.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Taken {
    /// It is durable as this task.
    Task {
        task: TaskId,
        /// The delivery had been seen before.
        known: bool,
    },
    /// It told of a change outside, which was noted.
    Observed { observed: &'static str },
    /// It asks for nothing here.
    Ignored { ignored: Cow<'static, str> },
    /// The sender wanted to know whether anybody is here.
    Pong { pong: bool },
}

impl From<Received> for Taken {
    fn from(received: Received) -> Self {
        Self::Task { task: received.id(), known: matches!(received, Received::Known(_)) }
    }
}

impl IntoResponse for Taken {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Pong { .. } => StatusCode::OK,
            Self::Task { .. } | Self::Observed { .. } | Self::Ignored { .. } => StatusCode::ACCEPTED,
        };
        (status, Json(self)).into_response()
    }
}

/// Why a delivery was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The signature is missing, malformed or wrong. One answer for all: it helps nobody to learn which.
    BadSignature,
    /// `X-GitHub-Delivery` or `X-GitHub-Event` is missing or unusable.
    BadHeaders,
    /// The body is not JSON.
    NotJson,
    /// The webhook sends forms.
    NotJsonType,
    /// The body is larger than anything that GitHub sends.
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    /// The body ended early.
    Broken,
    /// Nothing was stored; try again.
    Unavailable,
    /// A defect.
    Internal,
    /// No such path.
    NotFound,
    /// There is no secret that a delivery could be signed with.
    TakesNone,
    /// What was sent does not fit what was configured for its sender.
    DoesNotFit,
    /// Slack's signature is missing, malformed, wrong or old. One answer for all.
    BadSlackSignature,
    /// There is no secret that Slack could sign with.
    TakesNoSlack,
}

impl Problem {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadSignature => (
                StatusCode::UNAUTHORIZED,
                "The signature does not match",
                "Give the webhook the same secret as Onramp's configuration.",
            ),
            Self::BadHeaders => (
                StatusCode::BAD_REQUEST,
                "A header is missing",
                "X-GitHub-Delivery and X-GitHub-Event must be there, in printable ASCII.",
            ),
            Self::NotJson => (StatusCode::BAD_REQUEST, "The body is not JSON", "Send the payload as GitHub makes it."),
            Self::NotJsonType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body is not JSON",
                "Set the webhook's content type to application/json.",
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is too large",
                "At most 25 MiB are taken from GitHub, and 1 MiB from others.",
            ),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "The body took too long", "Send it within 30 seconds."),
            Self::Broken => (StatusCode::BAD_REQUEST, "The body ended early", "Send it again."),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The request could not be stored",
                "Nothing was taken; deliver it again in a while.",
            ),
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong inside Onramp", "Its log says more.")
            }
            Self::DoesNotFit => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "This does not fit the configuration",
                "Onramp's log says what is wrong; `onramp trigger test` shows it without sending anything.",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, "There is nothing here", "Deliveries go to /hooks/github."),
            Self::TakesNone => (
                StatusCode::NOT_FOUND,
                "No delivery is taken here",
                "Onramp asks GitHub by itself; set github.webhook_secrets to be told instead.",
            ),
            Self::BadSlackSignature => (
                StatusCode::UNAUTHORIZED,
                "The signature does not match",
                "Set slack.signing_secret to the signing secret of the Slack app, and look whether the clocks agree.",
            ),
            Self::TakesNoSlack => (
                StatusCode::NOT_FOUND,
                "Nothing of Slack is taken here",
                "Set slack.signing_secret, or use Socket Mode with slack.app_token.",
            ),
        }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Unavailable(_) | QueueError::ShuttingDown => {
                tracing::warn!(%error, "a delivery could not be stored; its sender was told so");
                Self::Unavailable
            }
            QueueError::StaleLease { .. }
            | QueueError::UnknownTask(_)
            | QueueError::AlreadyAtWork(_)
            | QueueError::HasEnded(_)
            | QueueError::InvalidTransition(_) => {
                tracing::error!(%error, "the intake refused a delivery");
                Self::Internal
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Document {
            #[serde(rename = "type")]
            kind: &'static str,
            title: &'static str,
            status: u16,
            detail: &'static str,
        }
        let (status, title, detail) = self.parts();
        let document = Document { kind: "about:blank", title, status: status.as_u16(), detail };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self == Self::Unavailable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        }
        response
    }
}
