//! Requests of a worker to the queue in another process: each with the token, the number of the protocol and a limit in
//! time, and each answer sorted by what may be done next.

use std::{path::Path, time::Duration};

use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use tasks::{Code, Failure, Lease};
use tokio_util::io::ReaderStream;

use super::protocol::{ARTIFACTS, Grown, PROTOCOL, PROTOCOL_HEADER, SHA256_HEADER, WORKER_HEADER};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One request that waits for nothing. A few of them fit into the life of a lease.
pub(super) const TIMEOUT: Duration = Duration::from_secs(8);
/// The slowest road that an artifact is sent over, in bytes a second.
const SLOWEST: u64 = 64 << 10;

/// Why there is no answer that helps.
#[derive(Debug)]
pub(super) enum Trouble {
    /// This worker is not welcome, and asking again will not change it.
    Refused(Box<Failure>),
    /// The lease is lost.
    Stale,
    /// This artifact is not taken: too large, no room, or it does not fit what is there.
    NotTaken(String),
    /// No answer, or none that says what happened: ask again.
    Away(String),
}

/// The queue, as a worker in another process reaches it.
pub(super) struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    server: String,
    token: SecretString,
}

impl Client {
    /// # Errors
    /// E006 for an address that is none, E099 when no client can be made.
    pub(super) fn new(server: &str, token: SecretString) -> Result<Self, Failure> {
        let url = Url::parse(server.trim()).ok().filter(|url| {
            let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            matches!(url.scheme(), "http" | "https") && url.has_host() && plain && url.fragment().is_none()
        });
        let Some(url) = url else {
            let message = "The address of the server is not a plain http:// or https:// URL";
            return Err(Failure::new(Code::BadConfig, message).next(
                "Set [worker] server or --server to where `onramp serve` answers, such as https://onramp.example.org.",
            ));
        };
        // A redirect would carry the token to wherever it leads.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("onramp/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Failure::internal)?;
        Ok(Self { http, server: url.as_str().trim_end_matches('/').to_owned(), token })
    }

    /// Where the server is, for people.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) async fn get(&self, path: &str) -> Result<(), Trouble> {
        self.send(self.request(Method::GET, path).timeout(TIMEOUT)).await.map(|_| ())
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
        timeout: Duration,
    ) -> Result<T, Trouble> {
        let answer = self.send(self.request(Method::POST, path).timeout(timeout).json(body)).await?;
        answer.json().await.map_err(|error| Trouble::Away(format!("an answer that cannot be read: {}", chain(&error))))
    }

    /// Adds a piece to a log that has `at` bytes there. Returns how many it has now.
    pub(super) async fn append(
        &self,
        lease: &Lease,
        name: &str,
        at: u64,
        piece: Vec<u8>,
        sha256: &str,
    ) -> Result<u64, Trouble> {
        let request = self.artifact(Method::POST, lease, &format!("{name}?at={at}"), sha256).timeout(TIMEOUT);
        let answer = self.send(request.body(piece)).await?;
        let grown: Grown = answer.json().await.map_err(|error| Trouble::Away(chain(&error)))?;
        Ok(grown.length)
    }

    /// Sends a whole artifact.
    pub(super) async fn put(
        &self,
        lease: &Lease,
        name: &str,
        file: &Path,
        length: u64,
        sha256: &str,
    ) -> Result<(), Trouble> {
        let opened = tokio::fs::File::open(file).await;
        let file = opened.map_err(|error| Trouble::NotTaken(format!("it cannot be read: {error}")))?;
        let time = TIMEOUT + Duration::from_secs(length / SLOWEST);
        let request = self.artifact(Method::PUT, lease, name, sha256).timeout(time);
        let request = request.header(header::CONTENT_LENGTH, length);
        self.send(request.body(Body::wrap_stream(ReaderStream::new(file)))).await.map(|_| ())
    }

    fn artifact(&self, method: Method, lease: &Lease, name: &str, sha256: &str) -> RequestBuilder {
        let path = format!("{ARTIFACTS}/{}/{}/{name}", lease.task, lease.attempt);
        self.request(method, &path).header(WORKER_HEADER, lease.worker.as_str()).header(SHA256_HEADER, sha256)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.server))
            .bearer_auth(self.token.expose_secret())
            .header(PROTOCOL_HEADER, PROTOCOL)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Trouble> {
        let answer = request.send().await.map_err(|error| Trouble::Away(chain(&error)))?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let said = answer.bytes().await.unwrap_or_default();
        let failure: Option<Failure> = serde_json::from_slice(&said).ok();
        let words = failure.as_ref().map_or_else(|| format!("status {status}"), |failure| failure.message.clone());
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::UPGRADE_REQUIRED => {
                Trouble::Refused(Box::new(failure.unwrap_or_else(|| self.strange(status))))
            }
            // A door without this house behind it, or with no token set.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Trouble::Refused(Box::new(self.strange(status))),
            StatusCode::CONFLICT => Trouble::Stale,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::INSUFFICIENT_STORAGE | StatusCode::PRECONDITION_FAILED => {
                Trouble::NotTaken(words)
            }
            _ => Trouble::Away(words),
        })
    }

    /// A refusal in somebody else's words.
    fn strange(&self, status: StatusCode) -> Failure {
        let message = format!("{} answers {status}, as a server without workers does", self.server);
        Failure::new(Code::WorkerRefused, message)
            .next("Check [worker] server, and that `onramp serve` there has [worker] token set to the same secret.")
    }
}

/// An error with its causes, which name the reason; without the address, which is said already.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !words.ends_with(&text) {
            words = if words.is_empty() { text } else { format!("{words}: {text}") };
        }
        next = error.source();
    }
    words
}
