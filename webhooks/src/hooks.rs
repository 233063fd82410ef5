//! What other services send to `/hooks/NAME`: verified over its raw bytes in the way of the sender, read by whoever
//! configured it, and stored like a delivery of GitHub.

use std::{collections::BTreeMap, fmt, sync::Arc};

use axum::{
    extract::{Path, Request, State},
    http::{HeaderMap, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::Sha256;
use tasks::{TaskRequest, Timestamp};
use tracing::Instrument;

use crate::{
    Door, Limits, Secrets,
    answer::{Problem, Taken},
    github::{in_time, read_body},
};

/// A message that claims to be older or newer is not taken: what was heard once may be sent again by anybody.
const TOLERANCE_SECONDS: i64 = 300;
/// None of the senders that are known needs a tenth of it.
const MAX_BODY_BYTES: usize = 1 << 20;
const MAX_HEADER_BYTES: usize = 1024;

/// How a sender shows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verify {
    /// HMAC-SHA256 of the body, as hexadecimal digits in a header.
    HmacSha256 {
        /// The name of the header, in lower case.
        header: String,
        /// What stands before the digits. There may be several signatures, with commas between them.
        prefix: String,
    },
    /// The secret itself, as `Authorization: Bearer …`.
    Bearer,
    /// Standard Webhooks: HMAC-SHA256 of id, moment and body, in base64.
    Standard,
}

/// What was sent, and is genuine.
#[derive(Debug)]
pub struct Sent {
    /// The headers, by name in lower case; secrets and what is no text are left out.
    pub headers: BTreeMap<String, String>,
    /// The JSON.
    pub body: Value,
}

/// What it asks for.
#[derive(Debug)]
pub enum Wish {
    /// Work.
    Request(Box<TaskRequest>),
    /// Nothing, for this reason.
    Ignored(String),
}

/// Reads what was sent. An error is about the configuration: what does not fit it.
pub type Reader = Arc<dyn Fn(&Sent) -> Result<Wish, String> + Send + Sync>;

/// One sender.
#[derive(Clone)]
pub struct Hook {
    /// How it shows who it is.
    pub verify: Verify,
    /// What it knows; two while one replaces the other.
    pub secrets: Secrets,
    /// What it means.
    pub reader: Reader,
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("verify", &self.verify).finish_non_exhaustive()
    }
}

/// Takes what was sent to one hook: verify, read, store, answer.
pub(crate) async fn receive(
    State(door): State<Door>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Taken, Problem> {
    let (parts, body) = request.into_parts();
    let hook = door.config.hooks.get(&name).ok_or(Problem::NotFound)?;
    let limits = Limits { body_bytes: door.limits.body_bytes.min(MAX_BODY_BYTES), ..door.limits };
    let body = read_body(&parts.headers, body, &limits).await?;
    hook.verify(&parts.headers, &body)?;
    let span = tracing::info_span!("delivery", delivery.hook = name);
    take(&door, hook, &parts.headers, &body).instrument(span).await
}

async fn take(door: &Door, hook: &Hook, headers: &HeaderMap, body: &[u8]) -> Result<Taken, Problem> {
    let body = serde_json::from_slice(body).map_err(|_| Problem::NotJson)?;
    let sent = Sent { headers: shown(headers), body };
    match (hook.reader)(&sent) {
        Ok(Wish::Request(request)) => {
            let received = in_time(door, door.intake.enqueue(*request)).await?;
            tracing::info!(task.id = %received.id(), "a request was stored");
            Ok(received.into())
        }
        Ok(Wish::Ignored(reason)) => {
            tracing::info!(reason, "what was sent asks for nothing here");
            Ok(Taken::Ignored { ignored: reason.into() })
        }
        Err(reason) => {
            tracing::warn!(reason, "what was sent does not fit the configuration of this hook");
            Err(Problem::DoesNotFit)
        }
    }
}

/// The headers that a definition may ask for.
fn shown(headers: &HeaderMap) -> BTreeMap<String, String> {
    let hidden = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION];
    let text = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        let value = value.to_str().ok().filter(|value| value.len() <= MAX_HEADER_BYTES)?;
        (!hidden.contains(name)).then(|| (name.as_str().to_owned(), value.to_owned()))
    };
    headers.iter().filter_map(text).collect()
}

impl Hook {
    /// Whether it was sent by who knows the secret. One answer for all that is wrong: it helps nobody to learn which.
    fn verify(&self, headers: &HeaderMap, body: &Bytes) -> Result<(), Problem> {
        let genuine = match &self.verify {
            Verify::HmacSha256 { header, prefix } => only(headers, header).is_some_and(|value| {
                value.split(',').any(|one| {
                    let mut signature = [0; 32];
                    let digits = one.trim().strip_prefix(prefix.as_str());
                    digits.is_some_and(|digits| hex::decode_to_slice(digits, &mut signature).is_ok())
                        && self.secrets.signed(body, &signature)
                })
            }),
            Verify::Bearer => only(headers, "authorization").is_some_and(|value| {
                let given = value.strip_prefix("Bearer ").unwrap_or_default();
                self.secrets.iter().any(|secret| same(secret.expose_secret(), given))
            }),
            Verify::Standard => self.is_standard(headers, body),
        };
        if genuine { Ok(()) } else { Err(Problem::BadSignature) }
    }

    /// <https://www.standardwebhooks.com>
    fn is_standard(&self, headers: &HeaderMap, body: &Bytes) -> bool {
        let header = |name| only(headers, name).filter(|value| !value.is_empty());
        let (Some(id), Some(sent_at), Some(signatures)) =
            (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"))
        else {
            return false;
        };
        let age = sent_at.parse::<i64>().ok().and_then(|at| (self.clock)().timestamp().checked_sub(at));
        if id.contains('.') || age.is_none_or(|age| age.saturating_abs() > TOLERANCE_SECONDS) {
            return false;
        }
        let signed = [id.as_bytes(), b".", sent_at.as_bytes(), b".", body].concat();
        let given: Vec<Vec<u8>> =
            signatures.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok()).collect();
        self.secrets.iter().any(|secret| {
            let key = standard_key(secret);
            given.iter().any(|signature| {
                let mac = Hmac::<Sha256>::new_from_slice(&key);
                mac.is_ok_and(|mut mac| {
                    mac.update(&signed);
                    mac.verify_slice(signature).is_ok()
                })
            })
        })
    }
}

/// The key that a secret of Standard Webhooks spells: base64 behind `whsec_`; anything else is the key itself.
fn standard_key(secret: &SecretString) -> Vec<u8> {
    let text = secret.expose_secret();
    let spelled = text.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    spelled.unwrap_or_else(|| text.as_bytes().to_vec())
}

/// Compares in the same time whatever differs: what is compared are keyed digests of the two.
fn same(one: &str, other: &str) -> bool {
    let digest = |text: &str| {
        let mac = Hmac::<Sha256>::new_from_slice(one.as_bytes());
        mac.map(|mut mac| {
            mac.update(text.as_bytes());
            mac
        })
    };
    match (digest(one), digest(other)) {
        (Ok(one), Ok(other)) => one.verify_slice(&other.finalize().into_bytes()).is_ok(),
        _ => false,
    }
}

/// The text of a header that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn hook(verify: Verify, secret: &str) -> Hook {
        Hook {
            verify,
            secrets: Secrets::new(vec!["another secret".into(), secret.into()]).unwrap(),
            reader: Arc::new(|_| Ok(Wish::Ignored("nothing".into()))),
            clock: Arc::new(|| Timestamp::from_timestamp(NOW, 0).unwrap()),
        }
    }

    fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text);
        mac.finalize().into_bytes().to_vec()
    }

    fn accepts(hook: &Hook, headers: &[(&'static str, &str)], body: &'static [u8]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        hook.verify(&map, &Bytes::from_static(body)).is_ok()
    }

    #[test]
    fn a_signature_is_looked_for_where_the_sender_puts_it() {
        let verify = Verify::HmacSha256 { header: "x-pagerduty-signature".into(), prefix: "v1=".into() };
        let hook = hook(verify, "s3cret");
        let right = format!("v1={}", hex::encode(mac(b"s3cret", b"{}")));
        let wrong = format!("v1={}", hex::encode(mac(b"guess", b"{}")));
        let header = "x-pagerduty-signature";
        assert!(accepts(&hook, &[(header, &right)], b"{}"));
        assert!(accepts(&hook, &[(header, &format!("{wrong},{right}"))], b"{}"), "while a secret is replaced");
        for bad in [&wrong, "", "v1=", &right[3..], "v0=00"] {
            assert!(!accepts(&hook, &[(header, bad)], b"{}"), "{bad}");
        }
        assert!(!accepts(&hook, &[(header, &right)], b"{} "), "other bytes");
        assert!(!accepts(&hook, &[(header, &right), (header, &right)], b"{}"), "twice");
        assert!(!accepts(&hook, &[], b"{}"));
    }

    #[test]
    fn a_bearer_knows_the_whole_secret() {
        let hook = hook(Verify::Bearer, "s3cret");
        assert!(accepts(&hook, &[("authorization", "Bearer s3cret")], b"{}"));
        for bad in ["Bearer s3cre", "Bearer s3cret ", "s3cret", "Basic s3cret", "Bearer "] {
            assert!(!accepts(&hook, &[("authorization", bad)], b"{}"), "{bad}");
        }
    }

    /// The example of the specification's reference libraries.
    #[test]
    fn the_published_vector_of_standard_webhooks_is_right_and_only_in_its_time() {
        let body = b"{\"test\": 2432232314}";
        let headers = |id: &'static str, at: &'static str, signature: &'static str| {
            [("webhook-id", id), ("webhook-timestamp", at), ("webhook-signature", signature)]
        };
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let mut hook = hook(Verify::Standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let at_moment = |hook: &mut Hook, moment: i64| {
            hook.clock = Arc::new(move || Timestamp::from_timestamp(moment, 0).unwrap());
        };
        at_moment(&mut hook, 1_614_265_330);
        assert!(accepts(&hook, &headers(id, at, signature), body));
        let several = "v1a,bm90aGluZw== v1,bm90aGluZw== v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert!(accepts(&hook, &headers(id, at, several), body));
        for (id, at, signature) in [
            ("msg_other", at, signature),
            (id, "1614265331", signature),
            (id, "now", signature),
            (id, at, "v1,bm90aGluZw=="),
            (id, at, &signature[3..]),
            (id, at, "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
            ("", at, signature),
        ] {
            assert!(!accepts(&hook, &headers(id, at, signature), body), "{id} {at} {signature}");
        }
        for (shift, good) in [(300, true), (301, false), (-300, true), (-301, false)] {
            at_moment(&mut hook, 1_614_265_330 + shift);
            assert_eq!(accepts(&hook, &headers(id, at, signature), body), good, "{shift} s");
        }
    }

    #[test]
    fn what_is_secret_in_the_headers_is_shown_to_no_template() {
        let mut map = HeaderMap::new();
        map.append("authorization", HeaderValue::from_static("Bearer s3cret"));
        map.append("webhook-id", HeaderValue::from_static("1"));
        map.append("x-raw", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(shown(&map), BTreeMap::from([("webhook-id".to_owned(), "1".to_owned())]));
    }
}
