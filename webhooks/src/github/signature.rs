//! Who really sent a delivery: HMAC-SHA256 over the raw bytes, before anything is parsed.

use std::fmt;

use axum::http::HeaderMap;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use tasks::DedupeKey;

use crate::answer::Problem;

const SIGNATURE: &str = "x-hub-signature-256";
const DELIVERY: &str = "x-github-delivery";
const EVENT: &str = "x-github-event";

/// One or more secrets, none of them empty. `Debug` shows only how many.
#[derive(Clone)]
pub struct Secrets(Vec<SecretString>);

/// The secrets cannot be used: an empty one would let everybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecrets {
    /// There is no secret at all.
    #[error("there is no webhook secret")]
    None,
    /// One of them is empty or white space.
    #[error("a webhook secret is empty")]
    Empty,
}

impl Secrets {
    /// The secrets that are accepted, each alike: two while one replaces the other.
    ///
    /// # Errors
    /// When there is none, or one is empty.
    pub fn new(secrets: Vec<SecretString>) -> Result<Self, BadSecrets> {
        if secrets.is_empty() {
            return Err(BadSecrets::None);
        }
        if secrets.iter().any(|secret| secret.expose_secret().trim().is_empty()) {
            return Err(BadSecrets::Empty);
        }
        Ok(Self(secrets))
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &SecretString> {
        self.0.iter()
    }

    /// Whether one of them signed these bytes. Every secret is tried, and each comparison takes the same time whatever
    /// differs.
    pub(crate) fn signed(&self, body: &[u8], signature: &[u8; 32]) -> bool {
        let mut signed = false;
        for secret in &self.0 {
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()) else { continue };
            mac.update(body);
            signed |= mac.verify_slice(signature).is_ok();
        }
        signed
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

/// Proof: these bytes were signed with one of our secrets. There is no other way to make one.
///
/// The signature covers the body alone. The id and the name of the event are headers that whoever could replay a signed
/// body could choose, which is why nothing but deduplication and dispatch rests on them.
#[derive(Debug, Clone)]
pub struct VerifiedDelivery {
    id: String,
    event: String,
    body: Bytes,
}

impl VerifiedDelivery {
    /// Checks the signature, and only then the other headers.
    pub(crate) fn verify(headers: &HeaderMap, body: Bytes, secrets: &Secrets) -> Result<Self, Problem> {
        let signature = signature(headers).ok_or(Problem::BadSignature)?;
        if !secrets.signed(&body, &signature) {
            return Err(Problem::BadSignature);
        }
        let header = |name| {
            let value = only(headers, name)?.to_str().ok()?;
            let usable = !value.is_empty() && value.len() <= 100 && value.bytes().all(|b| b.is_ascii_graphic());
            usable.then(|| value.to_owned())
        };
        let id = header(DELIVERY).ok_or(Problem::BadHeaders)?;
        let event = header(EVENT).ok_or(Problem::BadHeaders)?;
        Ok(Self { id, event, body })
    }

    /// The id of the delivery; a redelivery has the same.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `issues`, `pull_request`, `ping`, ...
    pub fn event(&self) -> &str {
        &self.event
    }

    /// The signed bytes.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// What makes a redelivery the same request.
    pub fn dedupe_key(&self) -> DedupeKey {
        let key = format!("github:{}", self.id);
        key.parse().unwrap_or_else(|_| unreachable!("at most 100 printable ASCII characters are a key"))
    }
}

/// The signature that the header spells: `sha256=` and exactly 64 hexadecimal digits in lower case, given once.
fn signature(headers: &HeaderMap) -> Option<[u8; 32]> {
    let digits = only(headers, SIGNATURE)?.as_bytes().strip_prefix(b"sha256=")?;
    if digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut signature = [0; 32];
    hex::decode_to_slice(digits, &mut signature).ok()?;
    Some(signature)
}

/// The value of a header that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a axum::http::HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const PUBLISHED: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn secrets(values: &[&str]) -> Secrets {
        Secrets::new(values.iter().map(|value| SecretString::from(*value)).collect()).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn verify(signature: &str, body: &'static str, secrets: &Secrets) -> Result<VerifiedDelivery, Problem> {
        let headers = headers(&[(SIGNATURE, signature), (DELIVERY, "72d3162e"), (EVENT, "ping")]);
        VerifiedDelivery::verify(&headers, Bytes::from_static(body.as_bytes()), secrets)
    }

    #[test]
    fn the_published_vector_is_accepted_also_while_secrets_rotate() {
        for secrets in [
            secrets(&["It's a Secret to Everybody"]),
            secrets(&["another", "It's a Secret to Everybody"]),
            secrets(&["It's a Secret to Everybody", "another"]),
        ] {
            let delivery = verify(&format!("sha256={PUBLISHED}"), "Hello, World!", &secrets).unwrap();
            assert_eq!(delivery.dedupe_key().as_str(), "github:72d3162e");
        }
    }

    #[test]
    fn every_other_signature_is_refused_in_the_same_way() {
        let secrets = secrets(&["It's a Secret to Everybody"]);
        for signature in [
            String::new(),
            PUBLISHED.to_owned(),
            "sha256=".to_owned(),
            format!("sha1={PUBLISHED}"),
            format!("SHA256={PUBLISHED}"),
            format!("sha256={}", PUBLISHED.to_uppercase()),
            format!("sha256={}", &PUBLISHED[..63]),
            format!("sha256={}", &PUBLISHED[..62]),
            format!("sha256={PUBLISHED}0"),
            format!("sha256={PUBLISHED}00"),
            format!("sha256= {PUBLISHED}"),
            format!("sha256={PUBLISHED},sha256={PUBLISHED}"),
            format!("sha256={}", "0".repeat(64)),
            format!("sha256={}", "g".repeat(64)),
            format!("sha256={}", "7".repeat(10_000)),
        ] {
            assert_eq!(
                verify(&signature, "Hello, World!", &secrets).unwrap_err(),
                Problem::BadSignature,
                "{signature}"
            );
        }
        let good = format!("sha256={PUBLISHED}");
        for body in ["Hello, World", "Hello, World!\n", "hello, World!", ""] {
            assert_eq!(verify(&good, body, &secrets).unwrap_err(), Problem::BadSignature, "{body:?}");
        }
        let twice = headers(&[(SIGNATURE, &good), (SIGNATURE, &good), (DELIVERY, "1"), (EVENT, "ping")]);
        let body = Bytes::from_static(b"Hello, World!");
        assert_eq!(VerifiedDelivery::verify(&twice, body, &secrets).unwrap_err(), Problem::BadSignature);
    }

    #[test]
    fn other_headers_are_looked_at_only_after_the_signature() {
        let secrets = secrets(&["It's a Secret to Everybody"]);
        let long = "x".repeat(101);
        for (id, event) in [("", "ping"), ("a b", "ping"), (long.as_str(), "ping"), ("1", "")] {
            let with = |signature: &str| {
                let headers = headers(&[(SIGNATURE, signature), (DELIVERY, id), (EVENT, event)]);
                VerifiedDelivery::verify(&headers, Bytes::from_static(b"Hello, World!"), &secrets).unwrap_err()
            };
            assert_eq!(with(&format!("sha256={PUBLISHED}")), Problem::BadHeaders, "{id:?} {event:?}");
            assert_eq!(with("sha256=00"), Problem::BadSignature);
        }
    }

    #[test]
    fn an_empty_secret_is_refused_before_anything_is_signed_with_it() {
        for (values, error) in
            [(vec![], BadSecrets::None), (vec![""], BadSecrets::Empty), (vec!["good", " \n"], BadSecrets::Empty)]
        {
            let secrets = values.into_iter().map(SecretString::from).collect();
            assert_eq!(Secrets::new(secrets).unwrap_err(), error);
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", secrets(&["hunter2"])), "1 secrets");
    }
}
