//! What a delivery means. Pure: a verified delivery and the configuration in, one [`Reading`] out.
//!
//! The payload structs are lenient: they name what is used, and take any other field, action or missing part for what it
//! is to us, nothing. New events of GitHub therefore never become errors here.

use serde::Deserialize;
use tasks::{
    Actor, Change, DedupeKey, Deliver, Instruction, RepoName, Resources, Source, TaskRequest, Timestamp, Work,
};

use super::{signature::VerifiedDelivery, talk};
use crate::DoorConfig;

/// Longer texts are cut. GitHub's own limit for an issue is a quarter of it.
pub(super) const MAX_BODY_BYTES: usize = 256 * 1024;
pub(super) const MAX_TITLE_BYTES: usize = 1024;

/// What a delivery asks for.
#[derive(Debug)]
pub enum Reading {
    /// Work.
    Request(Box<TaskRequest>),
    /// Nothing, but something of ours changed outside.
    Change(Change),
    /// Nothing, for this reason.
    Ignored(&'static str),
}

/// The body is not JSON at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson;

/// An issue, as far as it matters.
#[derive(Debug, Deserialize)]
pub(super) struct Issue {
    pub(super) number: u64,
    #[serde(default)]
    pub(super) title: String,
    pub(super) body: Option<String>,
    #[serde(default)]
    pub(super) state: String,
    /// How many comments it has; none where that is not told.
    pub(super) comments: Option<u64>,
    /// When it last changed: in an event, the moment of that event.
    pub(super) updated_at: Option<Timestamp>,
    /// There when the "issue" is a pull request.
    pub(super) pull_request: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Label {
    name: String,
}

#[derive(Debug, Deserialize)]
struct PullRequest {
    number: u64,
    #[serde(default)]
    merged: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Repository {
    pub(super) full_name: RepoName,
    pub(super) default_branch: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Sender {
    pub(super) login: String,
    pub(super) id: u64,
    #[serde(rename = "type", default)]
    pub(super) kind: String,
}

impl Sender {
    pub(super) fn actor(&self) -> Actor {
        Actor { login: self.login.clone(), id: Some(self.id) }
    }

    /// Bots start nothing, or two of them talk for ever.
    pub(super) fn may_ask(&self, config: &DoorConfig) -> bool {
        self.kind != "Bot" || config.allowed_bots.contains(&self.id)
    }
}

/// The event `issues`.
#[derive(Debug, Deserialize)]
struct IssuesEvent {
    action: String,
    issue: Issue,
    label: Option<Label>,
    assignee: Option<Sender>,
    repository: Repository,
    sender: Sender,
}

/// The event `pull_request`.
#[derive(Debug, Deserialize)]
struct PullRequestEvent {
    action: String,
    pull_request: PullRequest,
    repository: Repository,
}

/// What GitHub says, however it came here.
#[derive(Debug)]
pub struct Message<'a> {
    event: &'a str,
    body: &'a [u8],
    key: DedupeKey,
}

impl<'a> From<&'a VerifiedDelivery> for Message<'a> {
    fn from(delivery: &'a VerifiedDelivery) -> Self {
        Self { event: delivery.event(), body: delivery.body(), key: delivery.dedupe_key() }
    }
}

impl<'a> Message<'a> {
    /// An answer of GitHub's own API, in the shape of the delivery that it would have sent. `id` is the same whenever
    /// the same is told. `None` when it could not be one.
    pub fn answered(event: &'a str, id: &str, body: &'a [u8]) -> Option<Self> {
        Some(Self { event, body, key: format!("github:{id}").parse().ok()? })
    }

    /// What makes the same message the same request.
    pub fn key(&self) -> &DedupeKey {
        &self.key
    }
}

/// Reads one message.
///
/// # Errors
/// [`NotJson`]. Anything that is JSON is readable, and at worst asks for nothing.
pub fn read(delivery: &Message<'_>, config: &DoorConfig) -> Result<Reading, NotJson> {
    let reading = match delivery.event {
        "issues" => parse::<IssuesEvent>(delivery)?.map(|event| match to_request(&event, delivery, config) {
            Ok(request) => Reading::Request(Box::new(request)),
            Err(reason) => issue_change(&event, config).map_or(Reading::Ignored(reason), Reading::Change),
        }),
        "pull_request" => parse::<PullRequestEvent>(delivery)?.map(|event| {
            pull_request_change(&event).map_or(Reading::Ignored("the action changes no state here"), Reading::Change)
        }),
        "issue_comment" => parse::<talk::CommentEvent>(delivery)?.map(|event| reading(event.read(config))),
        "pull_request_review" => parse::<talk::ReviewEvent>(delivery)?.map(|event| reading(event.read(config))),
        "pull_request_review_comment" => {
            parse::<talk::LineCommentEvent>(delivery)?.map(|event| reading(event.read(config)))
        }
        "check_suite" => parse::<talk::SuiteEvent>(delivery)?.map(|event| reading(event.read(config))),
        "check_run" => parse::<talk::ButtonEvent>(delivery)?.map(|event| reading(event.read(config))),
        "push" => parse::<talk::PushEvent>(delivery)?.map(|event| reading(event.read(config))),
        _ => parse::<serde::de::IgnoredAny>(delivery)?.map(|_| Reading::Ignored("the event is not used")),
    };
    Ok(reading.unwrap_or(Reading::Ignored("the payload has not the shape of its event")))
}

fn reading(change: Result<Change, &'static str>) -> Reading {
    change.map_or_else(Reading::Ignored, Reading::Change)
}

/// `None`: JSON, but not what the event's payload looks like.
fn parse<'a, T: Deserialize<'a>>(delivery: &Message<'a>) -> Result<Option<T>, NotJson> {
    match serde_json::from_slice(delivery.body) {
        Ok(event) => Ok(Some(event)),
        // A wrong shape ends the parse early; whether it is JSON at all has still to be seen.
        Err(error) if serde_json::from_slice::<serde::de::IgnoredAny>(delivery.body).is_ok() => {
            tracing::warn!(%error, "a payload has not the shape of its event");
            Ok(None)
        }
        Err(_) => Err(NotJson),
    }
}

/// An issue that got the label or was assigned to us, by somebody who may ask. Whether the person may write to the repository is asked live
/// when the work starts, not here: the door waits for nobody.
fn to_request(event: &IssuesEvent, delivery: &Message<'_>, config: &DoorConfig) -> Result<TaskRequest, &'static str> {
    let source = match event.action.as_str() {
        "labeled" => {
            let label = event.label.as_ref().filter(|label| is_ours(label, config)).ok_or("another label was set")?;
            Source::IssueLabelled { issue: event.issue.number, label: label.name.clone() }
        }
        "assigned" => {
            let to_us = event.assignee.as_ref().is_some_and(|assignee| is_us(&assignee.login, config));
            if !to_us {
                return Err("it was assigned to somebody else");
            }
            Source::IssueAssigned { issue: event.issue.number }
        }
        _ => return Err("the action asks for nothing"),
    };
    if event.issue.pull_request.is_some() {
        return Err("that is a pull request, not an issue");
    }
    if event.issue.state != "open" {
        return Err("the issue is not open");
    }
    if !event.sender.may_ask(config) {
        return Err("a bot that is not allowed to ask did it");
    }
    let repo = &event.repository.full_name;
    is_configured(repo, config)?;
    Ok(TaskRequest {
        dedupe_key: delivery.key.clone(),
        source,
        actor: event.sender.actor(),
        repo: repo.clone(),
        base: None,
        agent: None,
        instruction: Instruction {
            title: cut(&event.issue.title, MAX_TITLE_BYTES),
            body: cut(event.issue.body.as_deref().unwrap_or_default(), MAX_BODY_BYTES),
            trusted: false,
            about: String::new(),
        },
        deliver: Deliver::PullRequest,
        resources: Resources::default(),
        revises: None,
        work: Work::Change,
        discussed_until: event.issue.updated_at.filter(|_| event.issue.comments != Some(0)),
    })
}

/// The label taken off, or the issue closed: by whoever, since stopping needs no permission beyond what GitHub asked for.
fn issue_change(event: &IssuesEvent, config: &DoorConfig) -> Option<Change> {
    let withdrawn = match event.action.as_str() {
        "unlabeled" => event.label.as_ref().is_some_and(|label| is_ours(label, config)),
        "unassigned" => event.assignee.as_ref().is_some_and(|assignee| is_us(&assignee.login, config)),
        "closed" | "deleted" | "transferred" => true,
        _ => false,
    };
    (withdrawn && event.issue.pull_request.is_none()).then(|| Change::IssueWithdrawn {
        repo: event.repository.full_name.clone(),
        issue: event.issue.number,
        by: event.sender.actor(),
    })
}

fn pull_request_change(event: &PullRequestEvent) -> Option<Change> {
    let (repo, number) = (event.repository.full_name.clone(), event.pull_request.number);
    match event.action.as_str() {
        "closed" if event.pull_request.merged => Some(Change::PullRequestMerged { repo, number }),
        "closed" => Some(Change::PullRequestClosed { repo, number }),
        "reopened" => Some(Change::PullRequestReopened { repo, number }),
        _ => None,
    }
}

fn is_ours(label: &Label, config: &DoorConfig) -> bool {
    label.name.to_lowercase() == config.label.to_lowercase()
}

/// Whether this login is the account that Onramp works as.
fn is_us(login: &str, config: &DoorConfig) -> bool {
    let login = login.strip_suffix("[bot]").unwrap_or(login);
    config.names.iter().any(|name| name.eq_ignore_ascii_case(login))
}

/// Whether Onramp acts for this repository.
///
/// # Errors
/// It does not, and why.
pub fn is_configured(repo: &RepoName, config: &DoorConfig) -> Result<(), &'static str> {
    let configured = config.repositories.is_empty() || names(&config.repositories, repo);
    if configured { Ok(()) } else { Err("the repository is not among the configured ones") }
}

/// Whether one of these patterns names the repository.
pub fn names(patterns: &[String], repo: &RepoName) -> bool {
    patterns.iter().any(|pattern| matches(pattern, repo))
}

/// Whether `pattern` (`owner/name`, `*` for any run of characters but the slash) names the repository. Case does not
/// count, as on GitHub.
pub fn matches(pattern: &str, repo: &RepoName) -> bool {
    let part_matches = |pattern: &str, text: &str| {
        let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
        let mut pieces = pattern.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        for piece in pieces {
            let Some(at) = rest.find(piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
        rest.ends_with(last)
    };
    pattern
        .split_once('/')
        .is_some_and(|(owner, name)| part_matches(owner, repo.owner()) && part_matches(name, repo.name()))
}

pub(super) fn cut(text: &str, max_bytes: usize) -> String {
    text[..text.floor_char_boundary(max_bytes)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_owners_and_names_but_never_crosses_the_slash() {
        let repo: RepoName = "Acme/web-app.rs".parse().unwrap();
        for good in ["acme/web-app.rs", "ACME/*", "*/*", "acme/web-*", "acme/*.rs", "a*e/w*b*a*.rs", "acme/web-app.rs*"]
        {
            assert!(matches(good, &repo), "{good}");
        }
        for bad in [
            "",
            "*",
            "acme",
            "acme/",
            "/web-app.rs",
            "acme/web",
            "acme/web-app",
            "acme/*.r",
            "acm/*",
            "acme/*web",
            "a*/*/x",
        ] {
            assert!(!matches(bad, &repo), "{bad}");
        }
        assert!(!matches("acme/*aa*aa", &"acme/aaa".parse().unwrap()), "the pieces may not overlap");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 99), "añb");
    }
}
