//! The model gateway: a program inside sends its requests with this sandbox's token; they go on with the real key.
//!
//! The key is put in here, on the host, so there is nothing inside that an agent could print, commit or send away, and
//! nobody else's key can be used through this road either: whatever credential a request carries is taken off. A request
//! is held until it is whole, so that it can be repeated when a provider is out; an answer flows through as it comes, and
//! is counted while it does. Only three things are ever changed of what is said: a stream of chat completions is asked for
//! its count, a fallback may name another model, and who comes near the end of an allowance is told so.

mod ask;
mod keys;
mod meter;
mod metered;
mod prices;
mod protocol;
mod providers;
mod url;

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret as _, SecretString};
use tasks::{Failure, Phase};
use tokio::io::{AsyncRead, AsyncWrite};

use self::{
    ask::{Answered, Question},
    meter::Meter,
    metered::{Ending, Metered},
    protocol::Counting,
};
pub use self::{
    keys::Key,
    prices::Prices,
    protocol::{Path, Speaks},
    providers::{Fallback, ModelProviders, Patience, Provider},
};
pub(super) use self::{meter::Measured, url::upstream_url};
use super::{
    policy::Rules,
    tally::{Standing, Tally},
};

/// The protocol families that agents speak, and what they call their providers.
pub(super) const FAMILIES: [&str; 3] = ["anthropic", "openai", "gemini"];

/// The request line and headers have to be there by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest request: conversations are long, and some hold pictures.
const MAX_REQUEST_BYTES: usize = 64 << 20;
/// Refusals of a provider are read whole up to this size, to keep a reflected key out of them.
const MAX_REFUSAL_BYTES: usize = 1 << 20;

/// Headers in which a client sends its key. None of them is passed on.
const CREDENTIALS: [&str; 4] = ["authorization", "x-api-key", "x-goog-api-key", "api-key"];
/// Headers that speak of one connection, not of the message (RFC 9110, 7.6.1), and those that the next client writes.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The gateway of one sandbox.
#[derive(Debug)]
pub struct Models {
    providers: Arc<ModelProviders>,
    rules: Arc<Rules>,
    tally: Arc<Tally>,
    token: String,
    /// Made at the first request: most sandboxes of checks never send one.
    client: OnceLock<reqwest::Client>,
}

/// An answer of the gateway itself.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Models {
    pub(super) fn new(providers: Arc<ModelProviders>, rules: Arc<Rules>, tally: Arc<Tally>, token: String) -> Self {
        Self { providers, rules, tally, token, client: OnceLock::new() }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve<S>(self: Arc<Self>, tunnel: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let models = &self;
        let answer =
            service_fn(
                move |request: Request<Incoming>| async move { Ok::<_, Infallible>(models.answer(request).await) },
            );
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(tunnel), answer);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the model gateway of a sandbox ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let name = path.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
        match self.take(&name, request).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(self.speaks(&name)),
        }
    }

    /// A request from inside.
    async fn take(&self, name: &str, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (parts, body) = request.into_parts();
        let (rest, key_in_query) = url::without_key(url::rest_of(&parts.uri, name));
        if !self.authorised(&parts.headers, key_in_query.as_deref()) {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "The token of this sandbox is missing or wrong; send it where the key of the provider would go.",
            ));
        }
        // Before the body: a client that is refused need not send it.
        self.may_ask(name, &parts.method, &rest)?;
        let body = Limited::new(body, MAX_REQUEST_BYTES).collect().await.map_err(|_| {
            let limit = MAX_REQUEST_BYTES >> 20;
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("A request has at most {limit} MiB, and has to come whole."),
            )
        })?;
        self.forward(name, parts.method, &rest, parts.headers, body.to_bytes()).await
    }

    /// A question of our own, under the same rules: what an agent asks whose loop runs on this side.
    ///
    /// Returns the status and the whole answer.
    ///
    /// # Errors
    /// One sentence when the answer breaks off.
    pub(crate) async fn exchange(&self, name: &str, path: &str, body: Vec<u8>) -> Result<(u16, Bytes), String> {
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut headers: HeaderMap = json.into_iter().collect();
        if self.speaks(name) == Speaks::Anthropic {
            headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        }
        let answer = self.forward(name, Method::POST, path, headers, body.into()).await;
        let answer = answer.unwrap_or_else(|refusal| refusal.response(self.speaks(name)));
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|_| "the model's answer broke off".to_owned())?;
        Ok((status, body.to_bytes()))
    }

    async fn forward(
        &self,
        name: &str,
        method: Method,
        rest: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, Refusal> {
        let provider = self.may_ask(name, &method, rest)?;
        strip(&mut headers);
        // What is counted has to be readable.
        headers.remove(header::ACCEPT_ENCODING);
        let path = rest.split('?').next().unwrap_or_default();
        let counting = provider.speaks.counting(&method, path);
        let asked = protocol::Request::read(&body);
        let model = asked.model(path);
        let body = match counting {
            Counting::Free => body.clone(),
            _ => self.admitted(name, &model, &asked, counting, &body)?,
        };
        let started = Instant::now();
        let question = Question { method, rest, headers, body: body.clone(), model };
        let answered = match ask::ask(self, name, provider, question).await {
            Ok(answered) => answered,
            Err((refusal, failed)) => {
                if counting != Counting::Free {
                    self.tally.closed(None, &failed.exchange(started.elapsed()));
                }
                return Err(refusal);
            }
        };
        Ok(self.pass_on(answered, counting, body.len(), started).await)
    }

    /// Whether this may be asked of this provider at all.
    fn may_ask(&self, name: &str, method: &Method, rest: &str) -> Result<&Provider, Refusal> {
        let provider = self.provider(name)?;
        let path = rest.split('?').next().unwrap_or_default();
        if !provider.paths.iter().any(|open| open.fits(method, path)) {
            let message = format!(
                "{method} {path} is not open here: only what asks a model something is. An operator can list more in `paths` under {}.",
                place(name)
            );
            return Err(Refusal::new(StatusCode::NOT_FOUND, message));
        }
        if let Some(why) = self.rules.refuses_model(&provider.host()) {
            self.tally.asked_for(Phase::Agent, &provider.host(), Some(&why));
            // Those that come after it may serve.
            let others = provider.fallback.iter().filter_map(|other| self.providers.providers.get(&other.provider));
            if !others.map(Provider::host).any(|host| self.rules.refuses_model(&host).is_none()) {
                return Err(Refusal::new(StatusCode::FORBIDDEN, format!("{name} cannot be asked: {why}.")));
            }
        }
        Ok(provider)
    }

    /// The body as it goes on, if the task may ask for more.
    fn admitted(
        &self,
        name: &str,
        model: &str,
        asked: &protocol::Request<'_>,
        counting: Counting,
        body: &Bytes,
    ) -> Result<Bytes, Refusal> {
        if self.tally.limits_money() && self.providers.prices.of(name, model).is_none() {
            let shown: String = model.chars().take(80).collect();
            self.tally
                .stop(&format!("the price of the model `{shown}` is unknown, and what this task may cost is limited"));
        }
        let standing = self.tally.standing();
        if standing == Standing::UsedUp {
            let why = self.tally.stopped().unwrap_or_default();
            return Err(Refusal::new(StatusCode::FORBIDDEN, format!("This task may ask no model any more: {why}.")));
        }
        let body = asked.with_count(body, counting).map_or_else(|| body.clone(), Bytes::from);
        if standing == Standing::Nearly {
            let asked = protocol::Request::read(&body);
            if let Some(warned) = asked.with_turn(&body, counting, templates::BUDGET_WARNING.trim()) {
                return Ok(warned.into());
            }
        }
        Ok(body)
    }

    /// Whether the request carries the token of this sandbox, in whichever place its client puts a key.
    fn authorised(&self, headers: &HeaderMap, key_in_query: Option<&str>) -> bool {
        let in_headers = CREDENTIALS.iter().flat_map(|name| headers.get_all(*name)).any(|value| {
            let value = value.as_bytes();
            let bare = value.strip_prefix(b"Bearer ").or_else(|| value.strip_prefix(b"bearer ")).unwrap_or(value);
            same(bare, self.token.as_bytes())
        });
        in_headers || key_in_query.is_some_and(|key| same(key.as_bytes(), self.token.as_bytes()))
    }

    /// How a provider is spoken to.
    pub(crate) fn speaks(&self, name: &str) -> Speaks {
        self.providers.providers.get(name).map_or_else(|| Speaks::of_name(name), |provider| provider.speaks)
    }

    fn provider(&self, name: &str) -> Result<&Provider, Refusal> {
        if let Some(provider) = self.providers.providers.get(name) {
            return Ok(provider);
        }
        Err(match FAMILIES.contains(&name) {
            true => Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                format!(
                    "No {name} model provider is configured; its base_url and key belong under {} in Onramp's configuration.",
                    place(name)
                ),
            ),
            false => Refusal::new(
                StatusCode::NOT_FOUND,
                "The path begins with the name of a model provider: /anthropic, /openai, /gemini, or one that is \
                 configured under [models] in Onramp's configuration.",
            ),
        })
    }

    /// The provider's answer as it comes, counted. Only a refusal is held back until it is whole, because some servers
    /// quote the key that they did not like.
    async fn pass_on(
        &self,
        answered: Answered,
        counting: Counting,
        n_asked: usize,
        started: Instant,
    ) -> Response<Body> {
        let Answered { response, key, speaks, tried } = answered;
        let status = response.status();
        let refused = status.is_client_error() || status.is_server_error();
        let (mut parts, body) = hyper::http::Response::<reqwest::Body>::from(response).into_parts();
        strip(&mut parts.headers);
        if refused {
            if counting != Counting::Free {
                self.tally.closed(None, &tried.exchange(started.elapsed()));
            }
            return without_quotes(parts, body, key.as_ref()).await;
        }
        let body: Body = body.map_err(Into::into).boxed_unsync();
        if counting == Counting::Free {
            return Response::from_parts(parts, body);
        }
        let content = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let stream = content.is_some_and(|content| content.starts_with("text/event-stream"));
        if stream {
            // It may be cut.
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        let ending = Ending {
            tally: self.tally.clone(),
            number: self.tally.opened(),
            price: self.providers.prices.of(&tried.provider, &tried.model),
            tried,
            started,
            speaks,
        };
        let metered = Metered::new(body, Meter::new(counting, stream, n_asked), stream, ending);
        Response::from_parts(parts, metered.boxed_unsync())
    }
}

/// A token of 256 random bits.
///
/// # Errors
/// E099 when the system gives no randomness.
pub(crate) fn random_token() -> Result<String, Failure> {
    let mut bytes = [0u8; 32];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Failure::internal("the system gives no random bytes"))?;
    Ok(format!("onramp-{}", hex::encode(bytes)))
}

/// Equality in a time that does not depend on where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

/// Takes off what must not go on: credentials, and headers of this connection.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in CREDENTIALS.iter().chain(&HOP_BY_HOP) {
        headers.remove(*name);
    }
    headers.remove(header::EXPECT); // answered by this side already
}

/// A refusal, whole, in which the key does not stand.
async fn without_quotes(
    mut parts: hyper::http::response::Parts,
    body: reqwest::Body,
    key: Option<&SecretString>,
) -> Response<Body> {
    let Some(key) = key.map(|key| key.expose_secret()).filter(|key| !key.is_empty()) else {
        return Response::from_parts(parts, body.map_err(Into::into).boxed_unsync());
    };
    let quoting: Vec<HeaderName> = parts
        .headers
        .iter()
        .filter(|(_, value)| contains(value.as_bytes(), key))
        .map(|(name, _)| name.clone())
        .collect();
    for name in quoting {
        parts.headers.remove(name);
    }
    let Ok(whole) = Limited::new(body, MAX_REFUSAL_BYTES).collect().await.map(|body| body.to_bytes()) else {
        let broken = Refusal::new(StatusCode::BAD_GATEWAY, "The model provider's answer broke off.");
        return broken.response(Speaks::Openai);
    };
    let whole = match contains(&whole, key) {
        true => Bytes::from(String::from_utf8_lossy(&whole).replace(key, "***")),
        false => whole,
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, full(whole))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Where a provider is configured.
fn place(name: &str) -> String {
    format!("[models.{name}]")
}

/// An error and its causes in one line, for the operator's log.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// In the form in which the provider itself would refuse, so that agents show the sentence.
    fn response(self, speaks: Speaks) -> Response<Body> {
        let Self { status, message } = self;
        let mut response = Response::new(full(speaks.error(status, &message).to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

#[cfg(test)]
mod tests;
