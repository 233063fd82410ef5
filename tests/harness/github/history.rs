//! What happened, as GitHub lists it for who was not told: events of issues, and the app's deliveries.

use serde_json::{Value, json};

use super::{
    GitHub, Token,
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
            created_at: now(),
        };
        self.history.events.push(event);
    }
}

impl GitHub {
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
