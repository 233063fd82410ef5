//! Who is a worker: the token, compared in a time that tells nothing, and the number of the protocol.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header::AUTHORIZATION},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use tasks::{Code, Failure};
use workers::remote::protocol::{PROTOCOL, PROTOCOL_HEADER};

use super::{Answer, Desk};

/// A shorter token can be guessed.
const MIN_TOKEN_CHARS: usize = 24;

/// What a worker has to know. The token itself is not kept.
#[derive(Clone)]
pub struct Access {
    digest: [u8; 32],
}

impl Access {
    /// # Errors
    /// E006 for a token that is too short to be a secret.
    pub fn new(token: &SecretString) -> Result<Self, Failure> {
        let token = token.expose_secret();
        if token.chars().count() < MIN_TOKEN_CHARS {
            let message = format!("worker.token has fewer than {MIN_TOKEN_CHARS} characters and can be guessed");
            return Err(Failure::new(Code::BadConfig, message).next("Make one with `openssl rand -hex 32`."));
        }
        Ok(Self { digest: keyed(token).finalize().into_bytes().into() })
    }

    /// The comparison of the two digests takes the same time wherever they differ.
    fn admits(&self, token: &str) -> bool {
        keyed(token).verify_slice(&self.digest).is_ok()
    }
}

/// A digest that hangs on the token.
#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn keyed(token: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::new_from_slice(token.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(b"onramp worker");
    mac
}

/// Lets workers pass.
pub(super) async fn check(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    match refusal(&desk.0.access, request.headers()) {
        Some(answer) => answer.into_response(),
        None => next.run(request).await,
    }
}

/// The token comes first: a stranger is told nothing about versions.
fn refusal(access: &Access, headers: &HeaderMap) -> Option<Answer> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let token = header(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
    if !token.is_some_and(|token| access.admits(token)) {
        return Some(Answer::Token);
    }
    let version = header(PROTOCOL_HEADER).and_then(|value| value.parse::<u32>().ok());
    if version != Some(PROTOCOL) {
        tracing::warn!(?version, "refused a worker that speaks another protocol");
        return Some(Answer::Version);
    }
    None
}

pub(super) fn wrong_token() -> Failure {
    Failure::new(Code::WorkerRefused, "The server does not know this worker's token")
        .next("Give [worker] token (ONRAMP_WORKER_TOKEN) the same value on both sides.")
}

pub(super) fn wrong_version() -> Failure {
    let version = env!("CARGO_PKG_VERSION");
    let message = format!("The server is onramp {version} and speaks protocol {PROTOCOL}, and this worker does not");
    Failure::new(Code::WorkerRefused, message)
        .next(format!("Install onramp {version} on this machine too, then start the worker again."))
}
