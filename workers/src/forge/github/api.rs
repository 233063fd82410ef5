//! One set of credentials talking to GitHub's API: each request has a limit in time, reads are tried again, writes never.
//!
//! The client's own repetition is off, because it sends a POST again whenever the answer is a 5xx, and with it makes a
//! second comment or pull request. Whoever writes here has to look first, and to look again after an unclear answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use http_body_util::BodyExt;
use octocrab::{Octocrab, auth::AppAuth, service::middleware::retry::RetryConfig};
use reqwest::{
    Method, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tasks::{Failure, Timestamp};

use super::{
    account::Account,
    errors::{Trouble, answered_at, chain, text},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const PER_PAGE: usize = 100;
const MAX_PAGES: usize = 30;
/// As the client hands it out.
type Response = hyper::Response<http_body_util::combinators::BoxBody<Bytes, octocrab::Error>>;
/// How often a read is tried in all.
const READS: usize = 3;

/// What goes into the header `Authorization`.
pub(super) enum Bearer {
    /// A personal token, or one of an installation.
    Token(SecretString),
    /// The app itself: a JWT, made anew for each request.
    App(AppAuth),
    /// Nothing: for what GitHub answers to whoever knows the address.
    Nobody,
}

/// GitHub as one set of credentials sees it.
pub(super) struct Api {
    crab: Octocrab,
    /// Blacked out in everything that GitHub says.
    secrets: Vec<SecretString>,
    timeout: Duration,
    account: Arc<Account>,
    refused: AtomicBool,
    /// Where questions in GraphQL go: beside the root of the API on an Enterprise Server, below it on github.com.
    graph: &'static str,
}

/// Where GitHub is and how it is talked to.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// The root of the API.
    pub(super) api_url: String,
    /// The longest that one request may take.
    pub(super) timeout: Duration,
    /// Between two writes of one account.
    pub(super) write_pause: Duration,
}

/// An answer that is what was asked for.
pub(super) struct Answer<T> {
    pub(super) value: T,
    /// GitHub's time.
    pub(super) at: Timestamp,
    /// Whether there is another page.
    pub(super) more: bool,
    /// The cursor of the next page, where pages have no numbers.
    pub(super) cursor: Option<String>,
    /// What to compare with when it is asked for again.
    pub(super) etag: Option<String>,
}

impl Api {
    /// # Errors
    /// E099 when no client can be made.
    pub(super) fn new(line: &Line, bearer: Bearer, account: Arc<Account>) -> Result<Self, Failure> {
        let mut secrets = Vec::new();
        let builder = Octocrab::builder();
        let builder = match bearer {
            Bearer::Token(token) => {
                secrets.push(token.clone());
                builder.personal_token(token)
            }
            Bearer::App(AppAuth { app_id, key }) => builder.app(app_id, key),
            Bearer::Nobody => builder,
        };
        // Redirects are left to the client's own layer, which keeps credentials from other hosts.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(line.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::internal(chain(&error)))?;
        let crab = builder
            .base_uri(line.api_url.as_str())
            .and_then(|builder| {
                builder
                    .add_retry_config(RetryConfig::None)
                    .add_header(header::USER_AGENT, concat!("onramp/", env!("CARGO_PKG_VERSION")).to_owned())
                    .build_with_reqwest(http)
            })
            .map_err(|error| Failure::internal(chain(&error)))?;
        let graph = if line.api_url.ends_with("/api/v3") { "/../graphql" } else { "/graphql" };
        Ok(Self { crab, secrets, timeout: line.timeout, account, refused: AtomicBool::new(false), graph })
    }

    /// Whether GitHub refused these credentials: an expired or revoked token never gets better.
    pub(super) fn refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// The standing of the account that these credentials belong to.
    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// Reads `route`; tried again after an unclear answer.
    pub(super) async fn get<T: DeserializeOwned>(&self, route: &str) -> Result<Answer<T>, Trouble> {
        self.repeatable(Method::GET, route, None).await
    }

    /// Reads `route` if it changed since it was answered with `etag`. Unchanged costs nothing of what may be asked.
    pub(super) async fn get_changed<T: DeserializeOwned>(
        &self,
        route: &str,
        etag: Option<&str>,
    ) -> Result<Option<Answer<T>>, Trouble> {
        let Some(etag) = etag.and_then(|etag| etag.parse::<HeaderValue>().ok()) else {
            return self.get(route).await.map(Some);
        };
        let known = HeaderMap::from_iter([(header::IF_NONE_MATCH, etag)]);
        self.account.may_ask()?;
        let asked = async {
            let response = self.crab._get_with_headers(route, Some(known)).await;
            match response {
                Ok(response) if response.status() == StatusCode::NOT_MODIFIED => Ok(None),
                response => self.read(response).await.map(Some),
            }
        };
        self.in_time(asked).await
    }

    /// Takes away what `route` names. What is not there (any more) is fine.
    pub(super) async fn delete(&self, route: &str) -> Result<(), Trouble> {
        match self.once::<serde::de::IgnoredAny>(Method::DELETE, route, None).await {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.is_missing() => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Posts where doing it twice is no different from doing it once.
    pub(super) async fn post_repeatable<T: DeserializeOwned>(
        &self,
        route: &str,
        body: &Value,
    ) -> Result<Answer<T>, Trouble> {
        self.repeatable(Method::POST, route, Some(body)).await
    }

    /// Asks in GraphQL, for what the other API does not tell. `None`: GitHub answered, and does not tell that either.
    pub(super) async fn question<T: DeserializeOwned>(
        &self,
        query: &str,
        variables: &Value,
    ) -> Result<Option<T>, Trouble> {
        #[derive(serde::Deserialize)]
        struct Told<T> {
            data: Option<T>,
        }
        let body = serde_json::json!({ "query": query, "variables": variables });
        match self.post_repeatable::<Told<T>>(self.graph, &body).await {
            Ok(answer) => Ok(answer.value.data),
            Err(Trouble::Refused(_)) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Posts once. After [`Trouble::Unclear`] the caller has to look whether it was done.
    pub(super) async fn post<T: DeserializeOwned>(&self, route: &str, body: &Value) -> Result<T, Trouble> {
        self.once(Method::POST, route, Some(body)).await.map(|answer| answer.value)
    }

    /// Changes once, as [`Api::post`].
    pub(super) async fn patch<T: DeserializeOwned>(&self, route: &str, body: &Value) -> Result<T, Trouble> {
        self.once(Method::PATCH, route, Some(body)).await.map(|answer| answer.value)
    }

    async fn repeatable<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        body: Option<&Value>,
    ) -> Result<Answer<T>, Trouble> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_times(READS - 1)
            .with_jitter();
        (|| self.once(method.clone(), route, body))
            .retry(pauses)
            .when(|trouble| matches!(trouble, Trouble::Unclear(_)))
            .await
    }

    async fn once<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        body: Option<&Value>,
    ) -> Result<Answer<T>, Trouble> {
        self.account.may_ask()?;
        let _turn = match method {
            Method::GET => None,
            _ => Some(self.account.turn().await),
        };
        self.in_time(self.send(method, route, body)).await
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        let limit = self.timeout;
        let silent = |_| Trouble::Unclear(format!("no answer within {} s", limit.as_secs_f64()));
        let answer = tokio::time::timeout(limit, asked).await.map_err(silent).flatten();
        match &answer {
            Err(trouble @ Trouble::Limited { until, .. }) => self.account.leave_alone(*until, trouble.clone()),
            Err(Trouble::Refused(refusal)) if refusal.status == 401 => self.refused.store(true, Ordering::Relaxed),
            _ => {}
        }
        answer
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        body: Option<&Value>,
    ) -> Result<Answer<T>, Trouble> {
        let response = match method {
            Method::POST => self.crab._post(route, body).await,
            Method::PATCH => self.crab._patch(route, body).await,
            Method::DELETE => self.crab._delete(route, None::<&()>).await,
            _ => self.crab._get(route).await,
        };
        self.read(response).await
    }

    async fn read<T: DeserializeOwned>(&self, response: octocrab::Result<Response>) -> Result<Answer<T>, Trouble> {
        let trouble = |error: octocrab::Error| Trouble::new(&error, &self.secrets);
        let response = octocrab::map_github_error(response.map_err(trouble)?).await.map_err(trouble)?;
        let (parts, body) = response.into_parts();
        self.account.heard(&parts.headers);
        let bytes = body.collect().await.map_err(trouble)?.to_bytes();
        // What is done and says nothing is told apart from something in between that answers in GitHub's place, such as
        // the log-in page of a network.
        let bytes = if parts.status == StatusCode::NO_CONTENT { "null".into() } else { bytes };
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            Trouble::Unclear(format!("status {}, but not what was asked for: {error}", parts.status))
        })?;
        let link = text(&parts.headers, "link").unwrap_or_default();
        Ok(Answer {
            value,
            at: answered_at(&parts.headers),
            more: link.contains("rel=\"next\""),
            cursor: next_cursor(&link),
            etag: text(&parts.headers, "etag"),
        })
    }
}

/// Everything on all pages of `route`. Pages are asked for by number: a link to the next page leads the client away from
/// its credentials on an Enterprise Server.
pub(super) async fn pages<T, P: DeserializeOwned>(
    api: &Api,
    route: &str,
    items: impl Fn(P) -> Vec<T>,
) -> Result<Vec<T>, Trouble> {
    let mut found = Vec::new();
    for page in 1..=MAX_PAGES {
        let answer = api.get::<P>(&format!("{route}?per_page={PER_PAGE}&page={page}")).await?;
        found.extend(items(answer.value));
        if !answer.more {
            break;
        }
    }
    Ok(found)
}

/// The cursor in the link to the next page. Only it is taken, not the link: that would lead away from the credentials on
/// an Enterprise Server.
fn next_cursor(link: &str) -> Option<String> {
    let next = link.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once("cursor=")?;
    let cursor: String = rest.chars().take_while(|c| !matches!(c, '&' | '>')).collect();
    (!cursor.is_empty()).then_some(cursor)
}

/// Made when it is first needed, because the client wants to be made inside the runtime that it works in.
#[derive(Default)]
pub(super) struct LazyApi(std::sync::OnceLock<Arc<Api>>);

impl LazyApi {
    pub(super) fn get_or_make(&self, make: impl FnOnce() -> Result<Api, Failure>) -> Result<Arc<Api>, Failure> {
        if let Some(api) = self.0.get() {
            return Ok(Arc::clone(api));
        }
        let api = Arc::new(make()?);
        Ok(Arc::clone(self.0.get_or_init(|| api)))
    }
}
