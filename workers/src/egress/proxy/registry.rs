//! Private registries: plain HTTP inside, and outside the registry's own address with the header that it wants.
//!
//! The credential is put in here, so nothing inside can hold it; and it goes to the one address that the operator wrote
//! down, so nothing inside can send it elsewhere. That address may be one of the operator's own network: who wrote it down
//! decided that. Links in a registry's answers lead where they lead: a registry that writes `https://` links to itself into
//! its answers is reached by its clients without the credential, unless the client is told to rewrite them.

use http_body_util::BodyExt as _;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
};
use secrecy::ExposeSecret as _;
use tasks::Phase;

use super::{Body, No, Proxy, canonical_host};
use crate::egress::{
    models::{Key, strip},
    policy::{EgressPolicy, Rules},
};
use std::{sync::Arc, time::Duration};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The private registries that one repository may use.
#[derive(Default)]
pub(in crate::egress) struct Doors {
    policy: Option<(Arc<EgressPolicy>, tasks::RepoName)>,
    client: std::sync::OnceLock<reqwest::Client>,
}

/// One of them.
pub(super) struct Door<'a> {
    host: String,
    url: &'a str,
    header: &'a str,
    value: &'a Key,
}

impl Doors {
    /// Those of a repository.
    pub(in crate::egress) fn new(policy: Arc<EgressPolicy>, repo: tasks::RepoName) -> Self {
        Self { policy: Some((policy, repo)), client: std::sync::OnceLock::new() }
    }

    /// Whether there are any.
    pub(in crate::egress) fn is_empty(&self) -> bool {
        self.policy.as_ref().is_none_or(|(policy, repo)| !policy.has_registries(repo))
    }

    /// The door to a canonical host.
    pub(super) fn of(&self, host: &str) -> Option<Door<'_>> {
        let (policy, repo) = self.policy.as_ref()?;
        let found =
            policy.registries(repo).find(|registry| canonical_host(&registry.host).is_ok_and(|name| name == host))?;
        Some(Door { host: host.to_owned(), url: &found.url, header: &found.header, value: &found.value })
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

impl Proxy {
    /// Sends a request through a door.
    pub(super) async fn through(&self, door: Door<'_>, request: Request<Incoming>) -> Result<Response<Body>, No> {
        let phase = self.now.read().unwrap_or_else(std::sync::PoisonError::into_inner).phase;
        let Door { host, url, header, value } = door;
        let gone = |sentence: &str| No::new(StatusCode::BAD_GATEWAY, format!("{host} {sentence}"));
        let blocked = |why: &str| {
            self.tally.asked_for(phase, &host, Some(why));
            No::new(StatusCode::FORBIDDEN, format!("{host} cannot be reached: {why}"))
        };
        // Checks reach nothing that they were not given by name.
        if phase == Phase::Checks && !self.allows(&host) {
            return Err(blocked("not allowed in the phase `checks`"));
        }
        let outside =
            reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(Rules::is_outside)).unwrap_or(true);
        if outside && let Some(why) = self.rules.refuses_model(&host) {
            return Err(blocked(&why));
        }
        let secret = value.current().await.map_err(|why| {
            tracing::error!(registry = host, why, "the credential of a registry cannot be had");
            gone("has no credential on the host")
        })?;
        let mut value =
            HeaderValue::from_str(secret.expose_secret()).map_err(|_| gone("has a credential that cannot be sent"))?;
        value.set_sensitive(true);
        let name = header.parse::<HeaderName>().map_err(|_| gone("has a header that cannot be sent"))?;
        let (mut parts, body) = request.into_parts();
        strip(&mut parts.headers);
        parts.headers.remove(&name);
        parts.headers.remove(header::COOKIE);
        parts.headers.insert(name, value);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let target =
            crate::egress::models::upstream_url(url, path).ok_or_else(|| blocked("its path leads out of it"))?;
        let client = self.doors.client().map_err(|_| gone("cannot be reached"))?;
        self.tally.asked_for(phase, &host, None);
        if outside {
            self.tally.went_outside();
        }
        let answer =
            client.request(parts.method, target).headers(parts.headers).body(reqwest::Body::wrap(body)).send().await;
        let answer = answer.map_err(|error| {
            tracing::warn!(registry = host, error = %error.without_url(), "a registry cannot be reached");
            gone("cannot be reached from the host")
        })?;
        let (mut parts, body) = hyper::http::Response::<reqwest::Body>::from(answer).into_parts();
        strip(&mut parts.headers);
        // Some servers say back what they were sent.
        let quoting: Vec<HeaderName> = parts
            .headers
            .iter()
            .filter(|(_, value)| memchr::memmem::find(value.as_bytes(), secret.expose_secret().as_bytes()).is_some())
            .map(|(name, _)| name.clone())
            .collect();
        quoting.iter().for_each(|name| drop(parts.headers.remove(name)));
        Ok(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
    }

    fn allows(&self, host: &str) -> bool {
        self.now.read().unwrap_or_else(std::sync::PoisonError::into_inner).allow.contains(host)
    }
}
