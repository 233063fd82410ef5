//! What can go wrong between Onramp and GitHub, by script.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{Call, Server, answer};

/// One way to go wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Does nothing and answers with this status and GitHub's usual JSON.
    Status(u16),
    /// Does what was asked, then closes the connection without an answer.
    LostAnswer,
    /// Does what was asked, then answers 502, as a proxy in between does.
    Status502AfterDoing,
    /// Does what was asked, after a wait.
    Slow(Duration),
    /// Does what was asked, then keeps the answer until [`super::GitHub::release`].
    DoneThenHeld,
    /// Keeps the request until [`super::GitHub::release`], then does what was asked.
    HeldThenDone,
    /// Does nothing and says that too much was asked at once, and for how many seconds to stay away.
    SecondaryLimit(u64),
    /// Does nothing and says that all of this hour's requests are used up, and in how many seconds the next hour begins.
    UsedUp(u64),
    /// Does nothing and answers 200 with a page of HTML, as a network does that wants a log-in first.
    Html200,
    /// Does nothing and answers 500 with a page of HTML, as GitHub's edge does when all is lost.
    Html500,
}

impl Fault {
    pub(super) async fn answer(self, server: &Server, call: &Call) -> Response {
        match self {
            Self::Status(status) => {
                let status = StatusCode::from_u16(status).expect("the script names a status of HTTP");
                let message = status.canonical_reason().unwrap_or("Refused by the script of the test");
                (status, axum::Json(serde_json::json!({ "message": message }))).into_response()
            }
            Self::LostAnswer => {
                let done = answer(server, call).await.status();
                // A body that fails before its first byte makes the server close the connection, headers unsent.
                let lost = futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("lost")) });
                (done, Body::from_stream(lost)).into_response()
            }
            Self::Status502AfterDoing => {
                answer(server, call).await;
                (StatusCode::BAD_GATEWAY, "Bad Gateway").into_response()
            }
            Self::Slow(wait) => {
                tokio::time::sleep(wait).await;
                answer(server, call).await
            }
            Self::DoneThenHeld => {
                let done = answer(server, call).await;
                server.hold().await;
                done
            }
            Self::HeldThenDone => {
                server.hold().await;
                answer(server, call).await
            }
            Self::SecondaryLimit(seconds) => {
                let message =
                    "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
                let wait = [(header::RETRY_AFTER, seconds.to_string())];
                (StatusCode::FORBIDDEN, wait, axum::Json(serde_json::json!({ "message": message }))).into_response()
            }
            Self::UsedUp(seconds) => {
                let now: chrono::DateTime<chrono::Utc> = std::time::SystemTime::now().into();
                let reset = now.timestamp() + i64::try_from(seconds).unwrap_or(i64::MAX);
                let headers = [
                    ("x-ratelimit-limit", "5000".to_owned()),
                    ("x-ratelimit-remaining", "0".to_owned()),
                    ("x-ratelimit-reset", reset.to_string()),
                ];
                let message = "API rate limit exceeded for installation ID 1.";
                (StatusCode::FORBIDDEN, headers, axum::Json(serde_json::json!({ "message": message }))).into_response()
            }
            Self::Html200 => {
                let page = "<!DOCTYPE html><html><body>Please log in to this network.</body></html>";
                (StatusCode::OK, [(header::CONTENT_TYPE, "text/html")], page).into_response()
            }
            Self::Html500 => {
                let page = "<!DOCTYPE html><html><body><h1>Unicorn!</h1></body></html>";
                (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/html")], page).into_response()
            }
        }
    }
}

/// The script of a test.
#[derive(Default)]
pub(super) struct Faults {
    planned: Vec<Planned>,
}

struct Planned {
    method: Method,
    path: String,
    fault: Fault,
    left: usize,
}

impl Faults {
    pub(super) fn add(&mut self, method: Method, path: &str, fault: Fault, times: usize) {
        self.planned.push(Planned { method, path: path.to_owned(), fault, left: times });
    }

    /// The fault that this request meets, if any; counts it.
    pub(super) fn take(&mut self, method: &Method, path: &str) -> Option<Fault> {
        let met = self.planned.iter_mut().find(|p| p.left > 0 && p.method == method && matches(&p.path, path))?;
        met.left -= 1;
        Some(met.fault)
    }
}

/// Whether a path looks like a pattern, in which `*` stands for any text, also for none.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => path
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).any(|n| rest.is_char_boundary(n) && matches(after, &rest[n..]))),
    }
}
