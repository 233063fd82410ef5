//! What happened, as GitHub lists it for who was not told: events of issues, and the app's deliveries.

use serde_json::{Value, json};

use super::{
    Call, GitHub, Token,
    api::{Answer, InRepository, Need, Reply},
    json,
    pulls::find as find_pull,
    state::{State, now},
};
use crate::delivery::Delivery;

/// An event of an issue or a pull request.
#[derive(Debug, Clone)]
pub(super) struct Event {
    id: u64,
    word: &'static str,
    repository: u64,
    number: u64,
    actor: String,
    label: Option<String>,
    /// The title that it had before.
    renamed_from: Option<String>,
    created_at: String,
}

/// One try to hand a delivery over.
#[derive(Debug, Clone)]
pub(super) struct Try {
    id: u64,
    delivery: Delivery,
    status: u16,
    at: String,
}

/// What was, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) events: Vec<Event>,
    pub(super) tries: Vec<Try>,
    /// Those that somebody asked to be sent again.
    pub(super) asked_for: Vec<Delivery>,
}

impl State {
    pub(super) fn happened(&mut self, word: &'static str, repo: &str, number: u64, actor: &str, label: Option<&str>) {
        let event = Event {
            id: self.fresh_id(),
            word,
            repository: self.repository(repo).id,
            number,
            actor: actor.to_owned(),
            label: label.map(str::to_owned),
            renamed_from: None,
            created_at: now(),
        };
        self.history.events.push(event);
    }
}

impl GitHub {
    /// Changes the text of an issue at a moment, and something else on it later than anything that a test does.
    pub fn edit_issue(&self, repo: &str, issue: u64, body: &str, edited_at: &str) -> &Self {
        let mut state = self.server.state();
        let issue = state.issue_mut(repo, issue);
        body.clone_into(&mut issue.body);
        issue.edited_at = Some(edited_at.to_owned());
        "2099-01-01T00:00:00Z".clone_into(&mut issue.updated_at);
        drop(state);
        self
    }

    /// Changes the title of an issue, later than anything that a test does.
    pub fn retitle_issue(&self, repo: &str, issue: u64, title: &str, sender: &str) -> &Self {
        let mut state = self.server.state();
        state.happened("renamed", repo, issue, sender, None);
        let old = std::mem::replace(&mut state.issue_mut(repo, issue).title, title.to_owned());
        let event = state.history.events.last_mut().expect("it just happened");
        event.renamed_from = Some(old);
        "2099-01-01T00:00:00Z".clone_into(&mut event.created_at);
        drop(state);
        self
    }

    /// A delivery that found nobody.
    pub fn missed(&self, delivery: &Delivery) -> &Self {
        let mut state = self.server.state();
        let missed = Try { id: state.fresh_id(), delivery: delivery.clone(), status: 502, at: now() };
        state.history.tries.push(missed);
        drop(state);
        self
    }

    /// Deliveries that somebody asked to be sent again, and that are not on their way yet.
    pub fn asked_for(&self) -> Vec<Delivery> {
        std::mem::take(&mut self.server.state().history.asked_for)
    }

    /// The permissions of every token of an installation that is still good.
    pub fn good_tokens(&self) -> Vec<Value> {
        let state = self.server.state();
        let permissions = |token: &Token| match token {
            Token::Installation { permissions, .. } => Some(json!(permissions)),
            Token::Personal { .. } => None,
        };
        state.tokens.values().filter_map(permissions).collect()
    }
}

/// An issue, or a pull request as GitHub shows it among issues.
pub(super) fn issue_or_pull(state: &State, repo: &str, number: u64) -> Option<Value> {
    let repo = state.repository(repo);
    if let Some(issue) = repo.issues.get(&number) {
        return Some(json::issue(state, repo, issue));
    }
    let mut shown = json::pull(state, repo, repo.pulls.get(&number)?);
    shown["pull_request"] =
        json!({ "url": shown["url"], "html_url": shown["html_url"], "merged_at": shown["merged_at"] });
    Some(shown)
}

/// The one question in GraphQL that Onramp asks: when the text of an issue was last changed.
pub(super) fn graph(state: &State, token: &Token, call: &Call) -> Answer {
    let body = call.json()?;
    let asks = |what: &str| body["query"].as_str().is_some_and(|query| query.contains(what));
    assert!(asks("issueOrPullRequest(number: $number)") && asks("lastEditedAt"), "another question: {body}");
    let text = |name: &str| body["variables"][name].as_str().unwrap_or_default();
    let full_name = format!("{}/{}", text("owner"), text("name"));
    let found = state.find(&full_name).filter(|repo| token.may(Need::ReadIssues, repo).is_ok());
    let issue = found.and_then(|repo| repo.issues.get(&body["variables"]["number"].as_u64()?));
    let told = issue.map(|issue| json!({ "lastEditedAt": issue.edited_at }));
    Ok(Reply::ok(json!({ "data": { "repository": found.map(|_| json!({ "issueOrPullRequest": told })) } })))
}

/// Newest first, as GitHub lists them.
pub(super) fn issue_events(at: &InRepository<'_>) -> Answer {
    at.need(Need::ReadIssues)?;
    let repo = at.repo();
    let events = at.state.history.events.iter().rev().filter(|event| event.repository == repo.id);
    let shown = events.map(|event| {
        let mut shown = json!({
            "id": event.id, "node_id": format!("EV_{}", event.id), "event": event.word, "commit_id": null,
            "url": format!("{}/repos/{}/issues/events/{}", at.state.api_url(), at.name, event.id), "commit_url": null,
            "actor": json::user(at.state, &event.actor), "created_at": event.created_at,
            "issue": issue_or_pull(at.state, &at.name, event.number),
        });
        if let Some(name) = &event.label {
            shown["label"] = json::label(at.state, repo, name);
        }
        if let Some(from) = &event.renamed_from {
            shown["rename"] = json!({ "from": from, "to": "whatever it is now" });
        }
        shown
    });
    Ok(at.page(shown.collect()))
}

/// The comments of the whole repository, oldest first.
pub(super) fn all_comments(at: &InRepository<'_>) -> Answer {
    at.need(Need::ReadIssues)?;
    let repo = at.repo();
    let since = at.call.query.get("since").cloned().unwrap_or_default();
    let comments =
        at.state.comments.iter().filter(|comment| comment.repository == repo.id && comment.updated_at >= since);
    Ok(at.page(comments.map(|comment| json::comment(at.state, repo, comment)).collect()))
}

pub(super) fn reviews(at: &InRepository<'_>, number: &str) -> Answer {
    at.need(Need::ReadPulls)?;
    let pull = find_pull(at, number)?.number;
    let reviews = at.state.talk.reviews.iter().filter(|review| review.pull == pull);
    Ok(at.page(reviews.map(|review| super::talk::review_json(at.state, review)).collect()))
}

/// The app's deliveries, newest first.
pub(super) fn deliveries(state: &State) -> Reply {
    let tries = state.history.tries.iter().rev().map(|one| {
        json!({
            "id": one.id, "guid": one.delivery.id, "delivered_at": one.at, "redelivery": false, "duration": 0.1,
            "status": if one.status < 300 { "OK" } else { "failed" }, "status_code": one.status,
            "event": one.delivery.event, "action": null, "installation_id": null, "repository_id": null,
        })
    });
    Reply::ok(tries.collect())
}

/// Sends a delivery again: it is on its way, and this time it arrives.
pub(super) fn attempt(state: &mut State, id: &str) -> Answer {
    let known = state.history.tries.iter().find(|one| one.id.to_string() == id).ok_or_else(Reply::not_found)?;
    let again = Try { id: 0, status: 200, at: now(), ..known.clone() };
    let again = Try { id: state.fresh_id(), ..again };
    state.history.asked_for.push(again.delivery.clone());
    state.history.tries.push(again);
    Ok(Reply { status: 202, body: json!({}), link: None, location: None })
}
