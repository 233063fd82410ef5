//! Asking a provider, and whoever comes after it, until one answers.
//!
//! A provider that is out (429, 500, 502, 503, 529, no connection, no beginning of an answer) is asked again a few times,
//! as late as it wishes, then the next one of its list is. Nothing is repeated once an answer has begun. A key that is
//! refused is read again: it may have been replaced.

use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method, StatusCode, header};
use secrecy::SecretString;
use tokio::time::{sleep, timeout};

use super::{Fallback, Models, Patience, Provider, Refusal, Speaks, chain, place, protocol, url};
use crate::egress::{policy::Rules, tally::Exchange};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A provider that says nothing at all for so long is given up. There is no limit on a whole answer: the sandbox has one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Waits differ by so much of themselves, so that many tasks do not come back at the same moment.
const JITTER_PERCENT: u32 = 20;

/// What is asked. All of it is kept, to be asked again.
pub(super) struct Question<'a> {
    pub(super) method: Method,
    /// Path and query after the provider's name.
    pub(super) rest: &'a str,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) model: String,
}

/// Who was asked last, and how it went.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) provider: String,
    pub(super) host: String,
    pub(super) model: String,
    pub(super) status: u16,
    pub(super) n_tries: u32,
}

impl Tried {
    /// An exchange in which no model answered.
    pub(super) fn exchange(&self, took: Duration) -> Exchange<'_> {
        Exchange {
            provider: &self.provider,
            host: &self.host,
            model: &self.model,
            measured: None,
            cost: None,
            status: self.status,
            n_tries: self.n_tries,
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// An answer that has begun.
pub(super) struct Answered {
    pub(super) response: reqwest::Response,
    /// The key that was used.
    pub(super) key: Option<SecretString>,
    pub(super) speaks: Speaks,
    pub(super) tried: Tried,
}

/// How one try ended.
enum Outcome {
    Answer(reqwest::Response, Option<SecretString>),
    /// A refusal that says: not now.
    Out(reqwest::Response, Option<SecretString>),
    Unreachable,
}

/// Asks until somebody answers.
///
/// # Errors
/// What to tell the one who asked, and who was asked last.
pub(super) async fn ask(
    models: &Models,
    name: &str,
    provider: &Provider,
    question: Question<'_>,
) -> Result<Answered, (Refusal, Tried)> {
    // Who may not be asked is not there.
    let may = |provider: &Provider| models.rules.refuses_model(&provider.host()).is_none();
    let mut candidates: Vec<_> =
        [(name, provider, None)].into_iter().filter(|(_, provider, _)| may(provider)).collect();
    for Fallback { provider: other, model } in &provider.fallback {
        if let Some((other, found)) = models.providers.providers.get_key_value(other)
            && may(found)
        {
            candidates.push((other.as_str(), found, model.as_deref()));
        }
    }
    let patience = &models.providers.patience;
    let mut n_tries = 0;
    let mut n_left = candidates.len();
    for (name, provider, other_model) in candidates {
        n_left -= 1;
        let (rest, body) = question.for_model(other_model);
        let model = other_model.unwrap_or(&question.model).to_owned();
        let tried = |status, n_tries| Tried {
            provider: name.to_owned(),
            host: provider.host(),
            model: model.clone(),
            status,
            n_tries,
        };
        let Some(target) = url::upstream_url(&provider.base_url, &rest) else {
            let refusal =
                Refusal::new(StatusCode::BAD_REQUEST, "This path leads out of what the model provider offers.");
            return Err((refusal, tried(0, n_tries)));
        };
        let n_retries = if n_left > 0 { patience.n_retries.min(1) } else { patience.n_retries };
        for retry in 0..=n_retries {
            n_tries += 1;
            let outcome = match once(models, name, provider, &target, &question, &body).await {
                Ok(outcome) => outcome,
                // Without a key there is nothing to ask again with.
                Err(_) if n_left > 0 => break,
                Err(refusal) => return Err((refusal, tried(0, n_tries))),
            };
            let last = retry == n_retries;
            match outcome {
                Outcome::Answer(response, key) => {
                    let tried = tried(response.status().as_u16(), n_tries);
                    return Ok(Answered { response, key, speaks: provider.speaks, tried });
                }
                Outcome::Out(response, key) => {
                    let wait = patience.wait(retry, retry_after(response.headers()));
                    tracing::warn!(
                        provider = name,
                        status = response.status().as_u16(),
                        retry,
                        "a model provider is out"
                    );
                    match wait.filter(|_| !last) {
                        Some(wait) => sleep(wait).await,
                        None if n_left > 0 => break,
                        None => {
                            let tried = tried(response.status().as_u16(), n_tries);
                            return Ok(Answered { response, key, speaks: provider.speaks, tried });
                        }
                    }
                }
                Outcome::Unreachable if !last => sleep(patience.wait(retry, None).unwrap_or_default()).await,
                Outcome::Unreachable if n_left > 0 => {}
                Outcome::Unreachable => {
                    let message = "The model provider cannot be reached from the host.";
                    return Err((Refusal::new(StatusCode::BAD_GATEWAY, message), tried(0, n_tries)));
                }
            }
        }
    }
    // The last candidate returns in every case above.
    let tried = Tried { provider: name.to_owned(), host: provider.host(), model: question.model, status: 0, n_tries };
    Err((Refusal::new(StatusCode::BAD_GATEWAY, "No model provider answers."), tried))
}

/// One try, with a second key where the first is refused and another is to be had.
async fn once(
    models: &Models,
    name: &str,
    provider: &Provider,
    target: &reqwest::Url,
    question: &Question<'_>,
    body: &Bytes,
) -> Result<Outcome, Refusal> {
    let no_key = |why: String| {
        tracing::error!(provider = name, why, "the key of a model provider cannot be had");
        Refusal::new(StatusCode::BAD_GATEWAY, format!("The key under {} cannot be had.", place(name)))
    };
    let key = match &provider.key {
        Some(key) => Some(key.current().await.map_err(no_key)?),
        None => None,
    };
    let Some(response) = send(models, name, provider, target, question, body, key.as_ref()).await? else {
        return Ok(Outcome::Unreachable);
    };
    if response.status() != StatusCode::UNAUTHORIZED {
        return Ok(judged(response, key));
    }
    let Some((source, refused)) = provider.key.as_ref().zip(key.as_ref()) else {
        let message =
            format!("The {name} model provider wants a key; set one under {} in Onramp's configuration.", place(name));
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
    };
    // Once only: the second key is not the first, and a third is not asked for.
    let Some(other) = source.instead_of(refused).await.map_err(no_key)? else {
        return Ok(Outcome::Answer(response, key));
    };
    tracing::info!(provider = name, "a model provider refused its key; going on with the new one");
    let again = send(models, name, provider, target, question, body, Some(&other)).await?;
    Ok(again.map_or(Outcome::Unreachable, |response| judged(response, Some(other))))
}

fn judged(response: reqwest::Response, key: Option<SecretString>) -> Outcome {
    match response.status().as_u16() {
        429 | 500 | 502 | 503 | 529 => Outcome::Out(response, key),
        _ => Outcome::Answer(response, key),
    }
}

/// `None`: no answer began.
async fn send(
    models: &Models,
    name: &str,
    provider: &Provider,
    target: &reqwest::Url,
    question: &Question<'_>,
    body: &Bytes,
    key: Option<&SecretString>,
) -> Result<Option<reqwest::Response>, Refusal> {
    let mut headers = question.headers.clone();
    if let Some(key) = key {
        let (header, value) = provider.speaks.credential(key).ok_or_else(|| {
            Refusal::new(StatusCode::NOT_IMPLEMENTED, format!("The key under {} cannot be sent.", place(name)))
        })?;
        headers.insert(header, value);
    }
    headers.remove(header::CONTENT_LENGTH);
    let client = models.client().map_err(|error| {
        tracing::error!(error = %chain(&error), "no client for model providers can be made");
        Refusal::new(StatusCode::BAD_GATEWAY, "The model provider cannot be reached from the host.")
    })?;
    let mut request = client.request(question.method.clone(), target.clone()).headers(headers);
    if !body.is_empty() {
        request = request.body(body.clone());
    }
    if Rules::is_outside(&provider.host()) {
        models.tally.went_outside();
    }
    let head_timeout = models.providers.patience.head_timeout;
    match timeout(head_timeout, request.send()).await {
        Ok(Ok(response)) => Ok(Some(response)),
        // The reason is for the operator; inside it would tell of the host's network.
        Ok(Err(error)) => {
            tracing::warn!(provider = name, error = %chain(&error.without_url()), "a model provider cannot be reached");
            Ok(None)
        }
        Err(_) => {
            tracing::warn!(
                provider = name,
                after_s = head_timeout.as_secs(),
                "a model provider does not begin its answer"
            );
            Ok(None)
        }
    }
}

impl Models {
    fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .build()?;
        Ok(self.client.get_or_init(|| client))
    }
}

impl Question<'_> {
    /// Path, query and body for another model.
    fn for_model(&self, model: Option<&str>) -> (String, Bytes) {
        let Some(model) = model else { return (self.rest.to_owned(), self.body.clone()) };
        let (path, query) = self.rest.split_once('?').map_or((self.rest, None), |(path, query)| (path, Some(query)));
        let path = match protocol::model_in_path(path) {
            Some(old) => path.replacen(&format!("/models/{old}:"), &format!("/models/{model}:"), 1),
            None => path.to_owned(),
        };
        let rest = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        (rest, protocol::Request::read(&self.body).with_model(&self.body, model).into())
    }
}

impl Patience {
    /// How long to wait before the next try. `None`: longer than anybody should.
    fn wait(&self, retry: u32, wished: Option<Duration>) -> Option<Duration> {
        let own = self.first_wait.saturating_mul(2_u32.saturating_pow(retry)).min(self.longest_wait);
        let jitter = own * jitter_percent() / 100;
        match wished {
            Some(wished) => (wished <= self.longest_wait).then_some(wished.max(own) + jitter),
            None => Some(own + jitter),
        }
    }
}

/// Between 0 and [`JITTER_PERCENT`]. From the hasher that the standard library seeds for each map.
fn jitter_percent() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    (RandomState::new().hash_one(0_u8) % u64::from(JITTER_PERCENT + 1)) as u32
}

/// What the provider wishes, in seconds or (OpenAI) milliseconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let usable = |seconds: f64| (0.0..86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds));
    number("retry-after-ms").and_then(|ms| usable(ms / 1000.0)).or_else(|| number("retry-after").and_then(usable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_heed_what_is_wished_and_never_last_longer_than_agreed() {
        let patience = Patience::default();
        let seconds = |retry, wished| patience.wait(retry, wished).map(|wait: Duration| wait.as_secs_f64());
        let wait = seconds(0, None).unwrap();
        assert!((0.5..=0.6).contains(&wait), "{wait}");
        assert!((4.0..=4.8).contains(&seconds(3, None).unwrap()));
        assert!(seconds(30, None).unwrap() <= 72.0);
        assert!((7.0..=7.2).contains(&seconds(0, Some(Duration::from_secs(7))).unwrap()));
        assert_eq!(seconds(0, Some(Duration::from_secs(61))), None);
        let headers =
            |name: &'static str, value: &str| [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect();
        assert_eq!(retry_after(&headers("retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&headers("retry-after-ms", "1500")), Some(Duration::from_millis(1500)));
        for odd in ["-1", "soon", "1e99", "NaN"] {
            assert_eq!(retry_after(&headers("retry-after", odd)), None, "{odd}");
        }
    }
}
