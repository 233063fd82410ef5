//! One set of credentials talking to GitHub's API: each request has a limit in time, reads are tried again, writes never.
//!
//! The client's own repetition is off, because it sends a POST again whenever the answer is a 5xx, and with it makes a
//! second comment or pull request. Whoever writes here has to look first, and to look again after an unclear answer.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use backon::{ExponentialBuilder, Retryable};
use http_body_util::BodyExt;
use octocrab::{Octocrab, auth::AppAuth, service::middleware::retry::RetryConfig};
use reqwest::{Method, header};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tasks::{Failure, Timestamp};

use super::errors::{Trouble, answered_at, chain, wall_now};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a read is tried in all.
const READS: usize = 3;

/// What goes into the header `Authorization`.
pub(super) enum Bearer {
    /// A personal token, or one of an installation.
    Token(SecretString),
    /// The app itself: a JWT, made anew for each request.
    App(AppAuth),
}

/// GitHub as one set of credentials sees it.
pub(super) struct Api {
    crab: Octocrab,
    /// Blacked out in everything that GitHub says.
    secrets: Vec<SecretString>,
    timeout: Duration,
    /// Until then GitHub wants to be left alone, and why. Who asks on while limited risks to be shut out.
    limited: Mutex<Option<(Instant, Trouble)>>,
    refused: AtomicBool,
}

/// An answer that is what was asked for.
pub(super) struct Answer<T> {
    pub(super) value: T,
    /// GitHub's time.
    pub(super) at: Timestamp,
    /// Whether there is another page.
    pub(super) more: bool,
}

impl Api {
    /// # Errors
    /// E099 when no client can be made.
    pub(super) fn new(api_url: &str, bearer: Bearer, timeout: Duration) -> Result<Self, Failure> {
        let mut secrets = Vec::new();
        let builder = Octocrab::builder();
        let builder = match bearer {
            Bearer::Token(token) => {
                secrets.push(token.clone());
                builder.personal_token(token)
            }
            Bearer::App(AppAuth { app_id, key }) => builder.app(app_id, key),
        };
        // Redirects are left to the client's own layer, which keeps credentials from other hosts.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::internal(chain(&error)))?;
        let crab = builder
            .base_uri(api_url)
            .and_then(|builder| {
                builder
                    .add_retry_config(RetryConfig::None)
                    .add_header(header::USER_AGENT, concat!("onramp/", env!("CARGO_PKG_VERSION")).to_owned())
                    .build_with_reqwest(http)
            })
            .map_err(|error| Failure::internal(chain(&error)))?;
        Ok(Self { crab, secrets, timeout, limited: Mutex::default(), refused: AtomicBool::new(false) })
    }

    /// Whether GitHub refused these credentials: an expired or revoked token never gets better.
    pub(super) fn refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Reads `route`; tried again after an unclear answer.
    pub(super) async fn get<T: DeserializeOwned>(&self, route: &str) -> Result<Answer<T>, Trouble> {
        self.repeatable(Method::GET, route, None).await
    }

    /// Posts where doing it twice is no different from doing it once.
    pub(super) async fn post_repeatable<T: DeserializeOwned>(
        &self,
        route: &str,
        body: &Value,
    ) -> Result<Answer<T>, Trouble> {
        self.repeatable(Method::POST, route, Some(body)).await
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
        self.left_alone()?;
        let limit = self.timeout;
        let silent = |_| Trouble::Unclear(format!("no answer within {} s", limit.as_secs_f64()));
        let answer = tokio::time::timeout(limit, self.send(method, route, body)).await.map_err(silent).flatten();
        match &answer {
            Err(trouble @ Trouble::Limited { until, .. }) => self.leave_alone(*until, trouble.clone()),
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
        let trouble = |error: octocrab::Error| Trouble::new(&error, &self.secrets);
        let response = match method {
            Method::POST => self.crab._post(route, body).await,
            Method::PATCH => self.crab._patch(route, body).await,
            _ => self.crab._get(route).await,
        };
        let response = octocrab::map_github_error(response.map_err(trouble)?).await.map_err(trouble)?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map_err(trouble)?.to_bytes();
        // Something in between may answer in GitHub's place, such as the log-in page of a network.
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            Trouble::Unclear(format!("status {}, but not what was asked for: {error}", parts.status))
        })?;
        let link = parts.headers.get(header::LINK).and_then(|link| link.to_str().ok()).unwrap_or_default();
        Ok(Answer { value, at: answered_at(&parts.headers), more: link.contains("rel=\"next\"") })
    }

    fn left_alone(&self) -> Result<(), Trouble> {
        match &*self.limited.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((until, trouble)) if Instant::now() < *until => Err(trouble.clone()),
            _ => Ok(()),
        }
    }

    fn leave_alone(&self, until: Timestamp, trouble: Trouble) {
        let wait = (until - wall_now()).to_std().unwrap_or_default();
        *self.limited.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now() + wait, trouble));
    }
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
