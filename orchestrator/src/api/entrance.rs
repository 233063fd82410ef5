//! Who comes in: the token of a request, how often it comes, and how far it may go.

use std::{num::NonZeroU32, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header::AUTHORIZATION},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tasks::{Code, Failure};

use super::problem::Refused;
use crate::front::{Caller, Front, Scope};

/// Wrong tokens in a minute, from everybody together. Tokens cannot be guessed; this keeps the log and the disk quiet.
const GUESSES_PER_MINUTE: u32 = 120;
/// Whoever comes without a token that is known.
const STRANGERS: &str = "";

/// What the entrance remembers: how often each caller came lately.
#[derive(Clone)]
pub struct Entrance {
    front: Front,
    callers: Arc<DefaultKeyedRateLimiter<String>>,
    strangers: Arc<DefaultKeyedRateLimiter<String>>,
}

impl Entrance {
    /// An entrance that lets each caller in as often as the operator says.
    pub fn new(front: Front) -> Self {
        let per_minute =
            |n: u32| Arc::new(RateLimiter::keyed(Quota::per_minute(n.try_into().unwrap_or(NonZeroU32::MIN))));
        let callers = per_minute(front.options().requests_per_minute);
        Self { front, callers, strangers: per_minute(GUESSES_PER_MINUTE) }
    }

    /// Who this is.
    ///
    /// # Errors
    /// E092 without a good token, E094 when they come too often.
    pub fn admit(&self, headers: &HeaderMap) -> Result<Caller, Failure> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let known = match token {
            Some(token) => self.front.tokens().admit(token, self.front.now()),
            None => Err(Failure::new(Code::BadToken, "The request names no token")),
        };
        match known {
            Ok(caller) => {
                self.count(&caller)?;
                Ok(caller)
            }
            Err(failure) if self.strangers.check_key(&STRANGERS.to_owned()).is_err() => {
                tracing::debug!(%failure, "many requests without a good token");
                Err(too_many())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Counts one request.
    ///
    /// # Errors
    /// E094 when there were too many lately.
    pub fn count(&self, caller: &Caller) -> Result<(), Failure> {
        self.callers.check_key(&caller.key).map_err(|_| too_many())
    }
}

fn too_many() -> Failure {
    Failure::new(Code::TooManyRequests, "Too many requests in a short time")
}

/// Lets holders of tokens pass, and notes who they are.
pub(super) async fn by_token(State(entrance): State<Entrance>, mut request: Request, next: Next) -> Response {
    match entrance.admit(request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(failure) => Refused(failure).into_response(),
    }
}

/// Takes whoever can reach this for the operator: for a socket that only they can reach. The name is only shown.
pub(super) async fn as_operator(mut request: Request, next: Next) -> Response {
    let name = request.headers().get(OPERATOR_HEADER).and_then(|value| value.to_str().ok());
    let name: String = name.unwrap_or_default().chars().take(60).collect();
    request.extensions_mut().insert(Caller::operator(&name));
    next.run(request).await
}

/// How the operator is called, on the control socket.
pub const OPERATOR_HEADER: &str = "onramp-operator";

/// Lets pass whoever may go so far.
pub(super) async fn demand(State(scope): State<Scope>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    let allowed = caller.ok_or_else(|| Failure::internal("nobody noted who asks")).and_then(|who| who.demand(scope));
    match allowed {
        Ok(()) => next.run(request).await,
        Err(failure) => Refused(failure).into_response(),
    }
}
