//! What GitHub, or the road to it, has against a request: first told apart by what may be done next, then put in words.

use std::sync::LazyLock;

use chrono::Duration;
use regex::Regex;
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tasks::{Code, Failure, Timestamp};

/// Longest piece of GitHub's own words in a sentence for people.
const MAX_WORDS: usize = 300;
/// How long to stay away when GitHub says "too much" but not until when.
const BARE_LIMIT_SECONDS: i64 = 60;

/// What tokens of GitHub and JSON web tokens look like.
static CREDENTIAL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(gh[pousr]_|github_pat_)\w+|eyJ[\w-]+\.[\w-]+\.[\w-]+").expect("a regular expression that is tested")
});

/// Why there is no usable answer. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// GitHub said no, and nothing was done.
    Refused(Refusal),
    /// GitHub said "not now": nothing was done, and nothing may be asked before `until`.
    Limited { until: Timestamp, words: String },
    /// No answer, or one that does not say what happened. A write may or may not have been done.
    Unclear(String),
}

/// A clear no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// GitHub's words, with those of the single errors behind them.
    pub(super) words: String,
    /// The permission that would have been enough, where GitHub names it.
    pub(super) permission: Option<String>,
}

impl Trouble {
    /// Sorts an error of the client. `secrets` are blacked out wherever they show up.
    pub(super) fn new(error: &octocrab::Error, secrets: &[SecretString]) -> Self {
        let octocrab::Error::GitHub { source, .. } = error else {
            return Self::Unclear(words(&chain(error), secrets));
        };
        let none = HeaderMap::new();
        let headers = source.headers.as_ref().unwrap_or(&none);
        let status = source.status_code.as_u16();
        let mut said = words(&source.message, secrets);
        for error in source.errors.iter().flatten().filter_map(error_words) {
            said = format!("{said}; {}", words(&error, secrets));
        }
        match status {
            408 | 500..=599 => Self::Unclear(format!("status {status}: {said}")),
            429 => Self::Limited { until: wall_now() + limit_left(headers), words: said },
            403 if is_limit(headers, &said) => Self::Limited { until: wall_now() + limit_left(headers), words: said },
            _ => Self::Refused(Refusal {
                status,
                words: said,
                permission: text(headers, "x-accepted-github-permissions").filter(|text| !text.is_empty()),
            }),
        }
    }

    /// Whether GitHub said that there is no such thing, or none that these credentials may see.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(Refusal { status: 404 | 410 | 451, .. }))
    }

    /// In words for people. `doing` completes "to …"; `refused` is the code of a refusal that is about the request itself.
    pub(super) fn failure(self, doing: &str, refused: Code) -> Failure {
        match self {
            Self::Limited { until, words } => {
                let mut failure = Failure::new(
                    Code::ForgeUnavailable,
                    format!("GitHub's limit on requests was reached while Onramp wanted to {doing}"),
                )
                .next(format!("It goes on by itself after {}.", until.format("%H:%M:%S UTC")))
                .detail(words);
                failure.retry_not_before = Some(until);
                failure
            }
            Self::Unclear(why) => {
                Failure::new(Code::ForgeUnavailable, format!("GitHub gave no clear answer when asked to {doing}"))
                    .detail(why)
            }
            Self::Refused(refusal) => refusal.failure(doing, refused),
        }
    }
}

impl Refusal {
    fn failure(self, doing: &str, refused: Code) -> Failure {
        let Self { status, words, permission } = self;
        match status {
            401 => {
                let failure = Failure::new(Code::ForgeAuth, format!("GitHub refused the credentials: {words}"));
                match words.contains("claim") || words.contains("JSON web token") {
                    true => failure.next("Check the app's id and key, and that the clock of this machine is right."),
                    false => failure,
                }
            }
            403 => {
                let failure =
                    Failure::new(Code::PermissionDenied, format!("GitHub does not let Onramp {doing}: {words}"));
                match permission {
                    Some(permission) => failure.next(format!("Grant the token or the app {permission}.")),
                    None => failure,
                }
            }
            404 | 410 | 451 => Failure::new(
                Code::PermissionDenied,
                format!(
                    "GitHub knows no such thing, or does not show it to these credentials, when asked to {doing}: {words}"
                ),
            ),
            _ => Failure::new(refused, format!("GitHub refused to {doing}: {words}")),
        }
    }
}

/// GitHub's words, fit for a sentence: one line, no control characters, no page of HTML, no secret, not too long.
fn words(said: &str, secrets: &[SecretString]) -> String {
    let mut said = said.trim().to_owned();
    for secret in secrets.iter().map(ExposeSecret::expose_secret).filter(|secret| !secret.is_empty()) {
        said = said.replace(secret, "***");
    }
    // Whosever it is: nothing that looks like a credential of GitHub is shown.
    said = CREDENTIAL.replace_all(&said, "***").into_owned();
    if said.starts_with('<') {
        return "a page in place of an answer".into();
    }
    let line: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

/// One entry of `errors`: text, or an object with a message or at least a field and a code.
fn error_words(error: &Value) -> Option<String> {
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    match error {
        Value::String(text) => Some(text.clone()),
        _ => text("message").map(str::to_owned).or_else(|| Some(format!("{} is {}", text("field")?, text("code")?))),
    }
}

/// A header's text.
pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|text| text.trim().to_owned())
}

fn is_limit(headers: &HeaderMap, said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    headers.contains_key("retry-after")
        || text(headers, "x-ratelimit-remaining").as_deref() == Some("0")
        || said.contains("rate limit")
        || said.contains("abuse detection")
}

/// How long to stay away: `retry-after` counts first, then the reset of a used-up limit, else a minute.
fn limit_left(headers: &HeaderMap) -> Duration {
    let number = |name: &str| text(headers, name)?.parse::<i64>().ok();
    let used_up = number("x-ratelimit-remaining") == Some(0);
    // A second on top, because the reset is told in whole seconds.
    let until_reset = |reset: i64| reset - answered_at(headers).timestamp() + 1;
    let seconds = number("retry-after")
        .or_else(|| number("x-ratelimit-reset").filter(|_| used_up).map(until_reset))
        .unwrap_or(BARE_LIMIT_SECONDS);
    Duration::seconds(seconds.clamp(1, 24 * 3600))
}

/// GitHub's own time, which its limits and expiries are told in; this machine's where the answer does not say.
pub(super) fn answered_at(headers: &HeaderMap) -> Timestamp {
    let date = text(headers, "date").and_then(|date| chrono::DateTime::parse_from_rfc2822(&date).ok());
    date.map_or_else(wall_now, |date| date.to_utc())
}

/// This machine's time: GitHub's limits have to become moments that the queue can compare with its own.
pub(super) fn wall_now() -> Timestamp {
    std::time::SystemTime::now().into()
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
