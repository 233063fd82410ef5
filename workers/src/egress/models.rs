//! The model gateway: a program inside sends its requests with this sandbox's token; they go on with the real key.
//!
//! The key is put in here, on the host, so there is nothing inside that an agent could print, commit or send away, and
//! nobody else's key can be used through this road either: whatever credential a request carries is taken off. Bodies
//! flow through in both directions as they come, so a streamed answer arrives piece by piece.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Body as _, Incoming},
    header::{self, HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tasks::Failure;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ModelProviders, Provider};

/// The protocol families that agents speak, and what they call their providers.
pub(super) const FAMILIES: [&str; 3] = ["anthropic", "openai", "gemini"];

/// The request line and headers have to be there by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A provider that says nothing at all for so long is given up. There is no limit on a whole answer: the sandbox has one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
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
pub(super) struct Models {
    providers: Arc<ModelProviders>,
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
    pub(super) fn new(providers: Arc<ModelProviders>, token: String) -> Self {
        Self { providers, token, client: OnceLock::new() }
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
        match self.forward(&name, request).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(&name),
        }
    }

    async fn forward(&self, name: &str, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (mut parts, body) = request.into_parts();
        let rest = rest_of(&parts.uri, name);
        let (rest, key_in_query) = without_key(rest);
        if !self.authorised(&parts.headers, key_in_query.as_deref()) {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "The token of this sandbox is missing or wrong; send it where the key of the provider would go.",
            ));
        }
        let provider = self.provider(name)?;
        let url = upstream_url(&provider.base_url, &rest).ok_or_else(|| {
            Refusal::new(StatusCode::BAD_REQUEST, "This path leads out of what the model provider offers.")
        })?;
        strip(&mut parts.headers);
        if let Some(key) = &provider.key {
            let (header, value) = credential(name, key).ok_or_else(|| {
                Refusal::new(StatusCode::NOT_IMPLEMENTED, format!("The key under {} cannot be sent.", place(name)))
            })?;
            parts.headers.insert(header, value);
        }
        let response = self.send(parts.method, url, parts.headers, body).await?;
        if response.status() == StatusCode::UNAUTHORIZED && provider.key.is_none() {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                format!(
                    "The {name} model provider wants a key; set one under {} in Onramp's configuration.",
                    place(name)
                ),
            ));
        }
        Ok(pass_on(response, provider.key.as_ref()).await)
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

    async fn send(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Incoming,
    ) -> Result<reqwest::Response, Refusal> {
        let unreachable = |error: reqwest::Error| {
            // The reason is for the operator; inside it would tell of the host's network.
            tracing::warn!(error = %chain(&error.without_url()), "a model provider cannot be reached");
            Refusal::new(StatusCode::BAD_GATEWAY, "The model provider cannot be reached from the host.")
        };
        let mut request = self.client().map_err(unreachable)?.request(method, url).headers(headers);
        if body.size_hint().exact() != Some(0) {
            request = request.body(reqwest::Body::wrap(body));
        }
        request.send().await.map_err(unreachable)
    }

    fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(IDLE_TIMEOUT)
            .build()?;
        Ok(self.client.get_or_init(|| client))
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

/// Path and query after the provider's name, beginning with `/`, `?`, or empty.
fn rest_of<'a>(uri: &'a Uri, name: &str) -> &'a str {
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    path.trim_start_matches('/').strip_prefix(name).unwrap_or_default()
}

/// The same without a `key` in the query, which is another way of Gemini's clients to send theirs, and that key.
fn without_key(rest: &str) -> (String, Option<String>) {
    let Some((path, query)) = rest.split_once('?') else { return (rest.to_owned(), None) };
    let (mut kept, mut key) = (Vec::new(), None);
    for pair in query.split('&') {
        match pair.strip_prefix("key=") {
            Some(value) => key = Some(value.to_owned()),
            None => kept.push(pair),
        }
    }
    (if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }, key)
}

/// Where a request goes. `None` when dots in the path would lead it above the provider's base.
fn upstream_url(base: &str, rest: &str) -> Option<Url> {
    let base = base.trim_end_matches('/');
    let last = base.rsplit('/').next().unwrap_or_default();
    let first = rest.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
    let rest = match !first.is_empty() && first == last {
        true => rest.trim_start_matches('/').strip_prefix(first).unwrap_or_default(),
        false => rest,
    };
    let (bounds, url) = (Url::parse(base).ok()?, Url::parse(&format!("{base}{rest}")).ok()?);
    let inside = url
        .path()
        .strip_prefix(bounds.path().trim_end_matches('/'))
        .is_some_and(|p| p.is_empty() || p.starts_with('/'));
    (url.origin() == bounds.origin() && url.username() == bounds.username() && inside).then_some(url)
}

/// Takes off what must not go on: credentials, and headers of this connection.
fn strip(headers: &mut HeaderMap) {
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

/// The key in the form that the provider's family wants.
fn credential(name: &str, key: &SecretString) -> Option<(HeaderName, HeaderValue)> {
    let key = key.expose_secret();
    let (header, value) = match name {
        "anthropic" => (HeaderName::from_static("x-api-key"), key.to_owned()),
        "gemini" => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
        _ => (header::AUTHORIZATION, format!("Bearer {key}")),
    };
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some((header, value))
}

/// The provider's answer as it comes. Only a refusal is held back until it is whole, because some servers quote the key
/// that they did not like.
async fn pass_on(response: reqwest::Response, key: Option<&SecretString>) -> Response<Body> {
    let refused = response.status().is_client_error() || response.status().is_server_error();
    let (mut parts, body) = hyper::http::Response::<reqwest::Body>::from(response).into_parts();
    strip(&mut parts.headers);
    let Some(key) = key.map(ExposeSecret::expose_secret).filter(|key| refused && !key.is_empty()) else {
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
        return Refusal::new(StatusCode::BAD_GATEWAY, "The model provider's answer broke off.").response("");
    };
    let whole = match contains(&whole, key) {
        true => Bytes::from(String::from_utf8_lossy(&whole).replace(key, "***")),
        false => whole,
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, full(whole))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
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
    fn response(self, family: &str) -> Response<Body> {
        let Self { status, message } = self;
        let (kind, state) = match status {
            StatusCode::UNAUTHORIZED => ("authentication_error", "UNAUTHENTICATED"),
            StatusCode::NOT_FOUND => ("not_found_error", "NOT_FOUND"),
            StatusCode::BAD_REQUEST => ("invalid_request_error", "INVALID_ARGUMENT"),
            StatusCode::NOT_IMPLEMENTED => ("api_error", "UNIMPLEMENTED"),
            _ => ("api_error", "UNAVAILABLE"),
        };
        let body = match family {
            "anthropic" => json!({"type": "error", "error": {"type": kind, "message": message}}),
            "gemini" => json!({"error": {"code": status.as_u16(), "message": message, "status": state}}),
            _ => json!({"error": {"message": message, "type": kind, "param": null, "code": null}}),
        };
        let mut response = Response::new(full(body.to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;

    const CANARY: &str = "sk-canary-0123456789";
    const TOKEN: &str = "onramp-of-this-sandbox";

    /// An upstream that keeps every request as text and answers with the pieces it is given, one at a time.
    struct Upstream {
        url: String,
        seen: Arc<Mutex<Vec<String>>>,
        pieces: mpsc::Sender<String>,
    }

    impl Upstream {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let (pieces, mut next) = mpsc::channel::<String>(16);
            let seen = Arc::new(Mutex::new(Vec::new()));
            let kept = Arc::clone(&seen);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let mut stream = BufReader::new(stream);
                    let request = read_request(&mut stream).await;
                    kept.lock().unwrap().push(request);
                    while let Some(piece) = next.recv().await {
                        if piece.is_empty() {
                            break;
                        }
                        stream.write_all(piece.as_bytes()).await.unwrap();
                    }
                }
            });
            Self { url, seen, pieces }
        }

        /// Answers the next request with `status` and `body`, then closes.
        async fn answer(&self, status: &str, body: &str) {
            let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");
            for piece in [head, body.to_owned(), String::new()] {
                self.pieces.send(piece).await.unwrap();
            }
        }

        fn seen(&self) -> String {
            self.seen.lock().unwrap().join("\n---\n")
        }
    }

    /// Head and body of one request: by content-length, or by chunks until the empty one.
    async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut text = Vec::new();
        loop {
            let (head, body) = match text.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => text.split_at(end + 4),
                None => (&[][..], &text[..]),
            };
            let head_text = String::from_utf8_lossy(head).to_lowercase();
            let length =
                head_text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            let chunked = head_text.contains("transfer-encoding: chunked");
            if !head.is_empty() && if chunked { body.ends_with(b"0\r\n\r\n") } else { body.len() >= length } {
                return String::from_utf8(text).unwrap();
            }
            if stream.read_buf(&mut text).await.unwrap() == 0 {
                return String::from_utf8(text).unwrap();
            }
        }
    }

    fn gateway(providers: &[(&str, &str)]) -> Arc<Models> {
        let provider = |url: &str| Provider { base_url: url.to_owned(), key: Some(CANARY.to_owned().into()) };
        let providers: BTreeMap<_, _> = providers.iter().map(|&(name, url)| (name.to_owned(), provider(url))).collect();
        Arc::new(Models::new(Arc::new(ModelProviders { providers }), TOKEN.into()))
    }

    fn connect(models: &Arc<Models>) -> DuplexStream {
        let (inside, outside) = tokio::io::duplex(64 * 1024);
        tokio::spawn(Arc::clone(models).serve(outside));
        inside
    }

    /// One request on a connection of its own; the whole answer as text.
    async fn ask(models: &Arc<Models>, line: &str, headers: &str, body: &str) -> String {
        let mut inside = connect(models);
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: 127.0.0.1:8099\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        inside.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        inside.read_to_string(&mut answer).await.unwrap();
        assert!(!answer.contains(CANARY), "the key came in: {answer}");
        answer
    }

    #[tokio::test]
    async fn each_family_gets_its_key_in_its_own_form_and_never_the_token() {
        let upstream = Upstream::start().await;
        let models = gateway(&[("anthropic", &upstream.url), ("openai", &upstream.url), ("gemini", &upstream.url)]);
        for (line, sent, expected) in [
            (
                "POST /anthropic/v1/messages?beta=true",
                format!("X-Api-Key: {TOKEN}"),
                ("POST /v1/messages?beta=true ", "x-api-key: "),
            ),
            (
                "POST /openai/v1/responses",
                format!("Authorization: Bearer {TOKEN}"),
                ("POST /v1/responses ", "authorization: Bearer "),
            ),
            (
                "POST /gemini/v1beta/models/g:generateContent",
                format!("x-goog-api-key: {TOKEN}"),
                ("POST /v1beta/models/g:generateContent ", "x-goog-api-key: "),
            ),
            (
                "POST /gemini/v1beta/models/g:x?alt=sse&key=onramp-of-this-sandbox",
                "A: b".into(),
                ("POST /v1beta/models/g:x?alt=sse ", "x-goog-api-key: "),
            ),
        ] {
            upstream.answer("200 OK", "{\"ok\":1}").await;
            let answer =
                ask(&models, line, &format!("{sent}\r\nX-Kept: yes\r\nProxy-Authorization: no\r\n"), "{\"q\":1}").await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("{\"ok\":1}"), "{answer}");
            let seen = upstream.seen.lock().unwrap().pop().unwrap();
            assert!(seen.starts_with(expected.0), "{seen}");
            assert!(seen.contains(&format!("{}{CANARY}\r\n", expected.1)), "{seen}");
            assert!(seen.ends_with("{\"q\":1}") && seen.contains("x-kept: yes"), "{seen}");
            assert!(!seen.contains(TOKEN) && !seen.contains("proxy-authorization"), "{seen}");
            assert_eq!(seen.matches(CANARY).count(), 1, "{seen}");
        }
    }

    #[tokio::test]
    async fn a_wrong_or_missing_token_is_refused_in_the_style_of_the_provider() {
        let upstream = Upstream::start().await;
        let models = gateway(&[("anthropic", &upstream.url), ("openai", &upstream.url), ("gemini", &upstream.url)]);
        for headers in [
            "",
            "x-api-key: sk-of-somebody-else\r\n",
            "Authorization: Bearer onramp-of-this-sandbo\r\n",
            "x-api-key: \r\n",
        ] {
            let answer = ask(&models, "GET /anthropic/v1/models", headers, "").await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
            assert!(answer.contains(r#"{"error":{"message":"The token of this sandbox is missing or wrong; send it where the key of the provider would go.","type":"authentication_error"},"type":"error"}"#), "{answer}");
        }
        assert!(ask(&models, "GET /openai/v1/models", "", "").await.contains(r#""param":null"#));
        assert!(ask(&models, "GET /gemini/v1beta/models", "", "").await.contains(r#""status":"UNAUTHENTICATED""#));
        assert_eq!(upstream.seen(), "");
    }

    #[tokio::test]
    async fn a_streamed_answer_arrives_piece_by_piece_before_the_upstream_ends() {
        let upstream = Upstream::start().await;
        let models = gateway(&[("anthropic", &upstream.url)]);
        let mut inside = connect(&models);
        let head = format!(
            "POST /anthropic/v1/messages HTTP/1.1\r\nHost: x\r\nx-api-key: {TOKEN}\r\nContent-Length: 0\r\n\r\n"
        );
        inside.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let pieces = [
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            "10\r\ndata: number-1\n\n\r\n",
            "10\r\ndata: number-2\n\n\r\n",
            "10\r\ndata: number-3\n\n\r\n",
        ];
        // The next piece is only sent when the one before has arrived: the upstream is still open all the while.
        for (piece, expected) in pieces.iter().zip(["text/event-stream", "number-1", "number-2", "number-3"]) {
            upstream.pieces.send((*piece).to_owned()).await.unwrap();
            while !String::from_utf8_lossy(&answer).contains(expected) {
                assert_ne!(inside.read_buf(&mut answer).await.unwrap(), 0);
            }
        }
    }

    #[tokio::test]
    async fn a_provider_that_is_not_configured_or_not_known_is_named_with_the_way_to_configure_it() {
        let models = gateway(&[]);
        let token = format!("x-api-key: {TOKEN}\r\n");
        let answer = ask(&models, "POST /anthropic/v1/messages", &token, "{}").await;
        assert!(answer.starts_with("HTTP/1.1 501") && answer.contains("[models.anthropic]"), "{answer}");
        let answer = ask(&models, "POST /v1/messages", &token, "{}").await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("/anthropic, /openai, /gemini"), "{answer}");
    }

    #[tokio::test]
    async fn a_provider_that_wants_a_key_where_none_is_configured_is_named() {
        let upstream = Upstream::start().await;
        let provider = Provider { base_url: upstream.url.clone(), key: None };
        let providers = Arc::new(ModelProviders { providers: BTreeMap::from([("anthropic".to_owned(), provider)]) });
        let models = Arc::new(Models::new(providers, TOKEN.into()));
        let token = format!("x-api-key: {TOKEN}\r\n");
        upstream.answer("401 Unauthorized", "{\"error\":\"x-api-key header is required\"}").await;
        let answer = ask(&models, "POST /anthropic/v1/messages", &token, "{}").await;
        assert!(answer.contains("wants a key; set one under [models.anthropic]"), "{answer}");
        upstream.answer("200 OK", "{\"ok\":1}").await;
        let answer = ask(&models, "POST /anthropic/v1/messages", &token, "{}").await;
        assert!(answer.contains("{\"ok\":1}"), "a provider without keys is a provider: {answer}");
        assert!(!upstream.seen().contains(TOKEN));
    }

    #[tokio::test]
    async fn an_unreachable_provider_is_a_bad_gateway_that_says_nothing_of_the_host() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let answer =
            ask(&gateway(&[("openai", &url)]), "POST /openai/v1/responses", &format!("api-key: {TOKEN}\r\n"), "{}")
                .await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(answer.contains("The model provider cannot be reached from the host."), "{answer}");
        assert!(!answer.contains("127.0.0.1") && !answer.contains("refused"), "{answer}");
    }

    #[tokio::test]
    async fn a_refusal_that_quotes_the_key_arrives_without_it_and_a_redirect_is_not_followed() {
        let upstream = Upstream::start().await;
        let models = gateway(&[("openai", &upstream.url)]);
        let token = format!("Authorization: Bearer {TOKEN}\r\n");
        upstream.answer(&format!("401 Unauthorized\r\nX-Quoted: {CANARY}"), &format!("{{\"bad\":\"{CANARY}\"}}")).await;
        let answer = ask(&models, "POST /openai/v1/responses", &token, "{}").await;
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains(r#"{"bad":"***"}"#), "{answer}");
        upstream.answer(&format!("307 Temporary Redirect\r\nLocation: {}/elsewhere", upstream.url), "").await;
        let answer = ask(&models, "POST /openai/v1/responses", &token, "{}").await;
        assert!(answer.starts_with("HTTP/1.1 307"), "{answer}");
        assert_eq!(upstream.seen.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_path_is_added_to_the_base_and_cannot_leave_it() {
        let url = |base, rest| upstream_url(base, rest).map(|url| url.to_string());
        let to = |text: &str| Some(text.to_owned());
        assert_eq!(url("https://api.openai.com", "/v1/responses"), to("https://api.openai.com/v1/responses"));
        assert_eq!(
            url("https://api.openai.com/v1/", "/v1/responses?a=b"),
            to("https://api.openai.com/v1/responses?a=b")
        );
        assert_eq!(url("https://host/tenant/a", "/v1/models"), to("https://host/tenant/a/v1/models"));
        assert_eq!(url("https://host/v1", "/v1beta/models"), to("https://host/v1/v1beta/models"));
        for rest in ["/../b/models", "/%2e%2e/b", "/v1/../../b", "/..\\b", "/.%2E/ab"] {
            assert_eq!(url("https://host/tenant/a", rest), None, "{rest}");
        }
        for rest in [".evil.test/", "@evil.test/", ":81/x", "x"] {
            assert_eq!(url("https://host", rest), None, "{rest}");
        }
    }

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (one, other) = (random_token().unwrap(), random_token().unwrap());
        assert!(one.len() >= 64 && one != other);
    }
}
