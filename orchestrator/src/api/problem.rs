//! Errors as RFC 9457 has them, with the code and the next step of our failures.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tasks::{Code, Failure};

/// An error (RFC 9457). `code` is stable; `onramp explain CODE` says more.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// What kind of error it is, as a name that never changes: `urn:onramp:error:E090`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the kind means.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and why.
    pub detail: String,
    /// The stable code.
    pub code: Code,
    /// What to do now.
    pub next_step: String,
}

impl Problem {
    /// The failure as the API tells it.
    pub fn of(failure: &Failure) -> Self {
        Self {
            kind: format!("urn:onramp:error:{}", failure.code),
            title: failure.code.meaning().to_owned(),
            status: status(failure.code).as_u16(),
            detail: failure.message.clone(),
            code: failure.code,
            next_step: failure.next_step.clone(),
        }
    }

    /// The failure that a client makes of it.
    pub fn into_failure(self) -> Failure {
        Failure::new(self.code, self.detail).next(self.next_step)
    }
}

/// A failure on its way out.
#[derive(Debug)]
pub struct Refused(pub Failure);

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let problem = Problem::of(&self.0);
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(failure = %self.0, "a question could not be answered");
        }
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer realm=\"onramp\""));
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

/// The HTTP status of a failure.
fn status(code: Code) -> StatusCode {
    match code {
        Code::UnknownTask | Code::NoArtifact => StatusCode::NOT_FOUND,
        Code::NotNow => StatusCode::CONFLICT,
        Code::BadToken => StatusCode::UNAUTHORIZED,
        Code::ScopeMissing | Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::TooManyRequests | Code::TooManyQueued => StatusCode::TOO_MANY_REQUESTS,
        Code::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        // Everything else that a surface can meet is about what was asked.
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
