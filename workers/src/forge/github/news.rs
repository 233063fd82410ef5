//! What happened in a repository, asked for instead of being told: for who has no address that GitHub could reach.
//!
//! Everything found is given the shape of the delivery that GitHub would have sent, so that it is read by the same rules
//! as those. Asked for with what was known the last time, a repository in which nothing happened costs nothing of the
//! hourly limit.

use serde::Deserialize;
use serde_json::{Value, json};
use tasks::{Code, Failure, PullRequest, Timestamp};

use super::{Reach, errors::Trouble};
use crate::forge::{Known, News, Told, Wanted};

const PER_PAGE: usize = 100;
/// Longer absences than these pages tell of are cut off: 1000 events of issues.
const MAX_PAGES: usize = 10;

/// An event of an issue or pull request.
#[derive(Deserialize)]
struct IssueEvent {
    id: u64,
    event: String,
    created_at: Timestamp,
    #[serde(default)]
    actor: Value,
    /// Who assigned; the actor of such an event is the one assigned.
    assigner: Option<Value>,
    assignee: Option<Value>,
    label: Option<Value>,
    rename: Option<Rename>,
    #[serde(default)]
    issue: Value,
}

#[derive(Deserialize)]
struct Rename {
    from: String,
}

/// When the text of an issue or pull request was last changed: only GraphQL tells.
const LAST_EDITED: &str = "query($owner: String!, $name: String!, $number: Int!) {
  repository(owner: $owner, name: $name) {
    issueOrPullRequest(number: $number) { ... on Issue { lastEditedAt } ... on PullRequest { lastEditedAt } }
  }
}";

/// In place of a text that may have been another one when somebody asked for it to be worked on.
const CHANGED_LATER: &str = "(This text was changed after it was asked for, so it is left out. Who asks again has the new one \
                             worked on.)";

#[derive(Deserialize)]
struct CheckSuites {
    check_suites: Vec<Value>,
}

/// What is collected while asking.
struct Asking<'a> {
    at: &'a Reach,
    wanted: Wanted<'a>,
    repository: Value,
    known: Known,
    newest: Option<Timestamp>,
    told: Vec<(Timestamp, Told)>,
    /// Titles that issues had before: number, until when, title; newest first.
    renames: Vec<(u64, Timestamp, String)>,
}

/// Everything that happened since, oldest first.
///
/// # Errors
/// E050, E051, E054. Then nothing was told, and it is asked for again with what was known before.
pub(super) async fn news(at: &Reach, wanted: Wanted<'_>) -> Result<News, Failure> {
    let repo = &at.repository.full_name;
    let failure = |trouble: Trouble| trouble.failure(&format!("ask what happened in {repo}"), Code::RepositoryNotFound);
    at.api.account().may_look_around().map_err(failure)?;
    let repository = json!({"full_name": repo, "default_branch": at.repository.default_branch});
    let known = Known::default();
    let mut asking = Asking { at, wanted, repository, known, newest: None, told: Vec::new(), renames: Vec::new() };
    asking.issue_events().await.map_err(failure)?;
    asking.comments().await.map_err(failure)?;
    for pull in wanted.pull_requests {
        asking.reviews(pull).await.map_err(failure)?;
        asking.checks(pull).await.map_err(failure)?;
    }
    if wanted.base {
        asking.base().await.map_err(failure)?;
    }
    let Asking { known, newest, mut told, .. } = asking;
    told.sort_by_key(|(at, _)| *at);
    Ok(News { told: told.into_iter().map(|(_, told)| told).collect(), known, newest })
}

impl Asking<'_> {
    /// Labels, assignments, and what was closed, merged or opened again.
    async fn issue_events(&mut self) -> Result<(), Trouble> {
        let route = format!("/repos/{}/issues/events?per_page={PER_PAGE}", self.at.repository.full_name);
        let mut page = self.changed::<Vec<IssueEvent>>(&route).await?;
        for n in 2..=MAX_PAGES {
            let Some((events, more)) = page else { return Ok(()) };
            let reached = events.iter().any(|event| event.created_at < self.wanted.since);
            for event in events {
                self.issue_event(event).await?;
            }
            if reached || !more {
                return Ok(());
            }
            let answer = self.at.api.get::<Vec<IssueEvent>>(&format!("{route}&page={n}")).await?;
            page = Some((answer.value, answer.more));
        }
        tracing::warn!(repo = %self.at.repository.full_name, "so much happened that the oldest of it was not looked at");
        Ok(())
    }

    async fn issue_event(&mut self, mut event: IssueEvent) -> Result<(), Trouble> {
        let number = event.issue.get("number").and_then(Value::as_u64);
        if let (Some(number), Some(Rename { from })) = (number, event.rename.take()) {
            self.renames.push((number, event.created_at, from));
        }
        if event.created_at >= self.wanted.since && matches!(event.event.as_str(), "labeled" | "assigned") {
            self.as_it_was(&mut event.issue, event.created_at).await?;
        }
        let is_pull = event.issue.get("pull_request").is_some_and(|pull| !pull.is_null());
        let (name, payload) = match (event.event.as_str(), is_pull) {
            ("labeled" | "unlabeled" | "assigned" | "unassigned" | "closed", false) => {
                let sender = event.assigner.unwrap_or(event.actor);
                let payload = json!({
                    "action": event.event, "issue": event.issue, "label": event.label, "assignee": event.assignee,
                    "sender": sender,
                });
                ("issues", payload)
            }
            ("closed" | "reopened", true) => {
                let merged = event.issue.pointer("/pull_request/merged_at").is_some_and(|at| !at.is_null());
                let pull = json!({"number": event.issue.get("number"), "merged": merged && event.event == "closed"});
                ("pull_request", json!({"action": event.event, "pull_request": pull, "sender": event.actor}))
            }
            _ => return Ok(()),
        };
        self.tell(name, format!("event-{}", event.id), event.created_at, payload);
        Ok(())
    }

    /// An issue is shown as it is now. When somebody asked for it, it may have said something else, and that is what they
    /// asked for: a title that it had then is put back, and a text that was changed since, or may have been, is left out.
    async fn as_it_was(&self, issue: &mut Value, at: Timestamp) -> Result<(), Trouble> {
        let number = issue.get("number").and_then(Value::as_u64);
        let Some(number) = number.filter(|_| issue.is_object()) else { return Ok(()) };
        let earlier = self.renames.iter().rev().find(|(of, until, _)| *of == number && *until > at);
        if let Some((_, _, title)) = earlier {
            issue["title"] = json!(title);
        }
        let time = |text: Option<&Value>| text.and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
        let changed_at = time(issue.get("updated_at"));
        // Whatever was said on it since then was not there either.
        issue["updated_at"] = json!(at);
        if changed_at.is_some_and(|changed_at| changed_at <= at) || self.is_text_of(number, at).await? {
            return Ok(());
        }
        tracing::info!(number, "the text of an issue was changed after somebody asked for it, and is left out");
        issue["body"] = json!(CHANGED_LATER);
        Ok(())
    }

    /// Whether the text of an issue is known to be the one that it had at a moment.
    async fn is_text_of(&self, number: u64, at: Timestamp) -> Result<bool, Trouble> {
        #[derive(Deserialize)]
        struct Found {
            repository: Option<Repository>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Repository {
            issue_or_pull_request: Option<Text>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Text {
            last_edited_at: Option<Timestamp>,
        }
        let repo = &self.at.repository.full_name;
        let variables = json!({"owner": repo.owner(), "name": repo.name(), "number": number});
        let found = self.at.api.question::<Found>(LAST_EDITED, &variables).await?;
        let text = found.and_then(|found| found.repository?.issue_or_pull_request);
        Ok(text.is_some_and(|text| text.last_edited_at.is_none_or(|edited_at| edited_at <= at)))
    }

    /// New comments that may be for us. What was changed since it was written is left out, as the door leaves it out.
    async fn comments(&mut self) -> Result<(), Trouble> {
        let since = self.wanted.since.format("%Y-%m-%dT%H:%M:%SZ");
        let route = format!(
            "/repos/{}/issues/comments?sort=created&direction=asc&since={since}&per_page={PER_PAGE}",
            self.at.repository.full_name
        );
        for page in 1..=MAX_PAGES {
            let answer = match page {
                1 => self.changed::<Vec<Value>>(&route).await?,
                n => {
                    let answer = self.at.api.get::<Vec<Value>>(&format!("{route}&page={n}")).await?;
                    Some((answer.value, answer.more))
                }
            };
            let Some((comments, more)) = answer else { return Ok(()) };
            for comment in comments {
                self.comment(comment).await?;
            }
            if !more {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn comment(&mut self, comment: Value) -> Result<(), Trouble> {
        let text = |name: &str| comment.get(name).and_then(Value::as_str).unwrap_or_default();
        let at = text("created_at").parse::<Timestamp>().ok();
        let may_be_for_us = text("body").trim_start().starts_with(['/', '@']);
        let (Some(id), Some(at)) = (comment.get("id").and_then(Value::as_u64), at) else { return Ok(()) };
        self.newest = self.newest.max(Some(at));
        let number = text("issue_url").rsplit('/').next().and_then(|number| number.parse::<u64>().ok());
        let Some(number) = number else { return Ok(()) };
        if at < self.wanted.since || text("updated_at") != text("created_at") {
            return Ok(());
        }
        if !may_be_for_us {
            // On a pull request of ours it is worth knowing that somebody said something.
            if self.wanted.pull_requests.iter().any(|pull| pull.number == number) {
                let issue = json!({"number": number, "state": "open", "pull_request": {}});
                let sender = comment.get("user").cloned();
                let payload = json!({"action": "created", "issue": issue, "sender": sender, "comment": comment});
                self.tell("issue_comment", format!("comment-{id}"), at, payload);
            }
            return Ok(());
        }
        let route = format!("/repos/{}/issues/{number}", self.at.repository.full_name);
        let mut issue = match self.at.api.get::<Value>(&route).await {
            Ok(answer) => answer.value,
            Err(trouble) if trouble.is_missing() => return Ok(()),
            Err(trouble) => return Err(trouble),
        };
        self.as_it_was(&mut issue, at).await?;
        let payload =
            json!({"action": "created", "issue": issue, "sender": comment.get("user").cloned(), "comment": comment});
        self.tell("issue_comment", format!("comment-{id}"), at, payload);
        Ok(())
    }

    /// Submitted reviews of one of our pull requests.
    async fn reviews(&mut self, pull: &PullRequest) -> Result<(), Trouble> {
        let route =
            format!("/repos/{}/pulls/{}/reviews?per_page={PER_PAGE}", self.at.repository.full_name, pull.number);
        let Some((reviews, _)) = self.changed::<Vec<Value>>(&route).await? else { return Ok(()) };
        for review in reviews {
            let at = review.get("submitted_at").and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
            let (Some(at), Some(id)) = (at, review.get("id").and_then(Value::as_u64)) else { continue };
            let pull = json!({"number": pull.number});
            let sender = review.get("user").cloned();
            let payload = json!({"action": "submitted", "pull_request": pull, "sender": sender, "review": review});
            self.tell("pull_request_review", format!("review-{id}"), at, payload);
        }
        Ok(())
    }

    /// Checks of the forge's own that ended on our commit.
    async fn checks(&mut self, pull: &PullRequest) -> Result<(), Trouble> {
        let route =
            format!("/repos/{}/commits/{}/check-suites?per_page={PER_PAGE}", self.at.repository.full_name, pull.head);
        let suites = match self.changed::<CheckSuites>(&route).await {
            Ok(Some((suites, _))) => suites.check_suites,
            // Credentials without the right to see checks do without them.
            Err(Trouble::Refused(_)) | Ok(None) => return Ok(()),
            Err(trouble) => return Err(trouble),
        };
        for mut suite in suites {
            let is_completed = suite.get("status").and_then(Value::as_str) == Some("completed");
            let at = suite.get("updated_at").and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
            let (Some(at), Some(id), true) = (at, suite.get("id").and_then(Value::as_u64), is_completed) else {
                continue;
            };
            // It runs again under the same number.
            let key = format!("suite-{id}-{}", at.timestamp());
            suite["pull_requests"] = json!([{"number": pull.number}]);
            self.tell("check_suite", key, at, json!({"action": "completed", "check_suite": suite}));
        }
        Ok(())
    }

    /// Where the default branch is.
    async fn base(&mut self) -> Result<(), Trouble> {
        #[derive(Deserialize)]
        struct Reference {
            object: Object,
        }
        #[derive(Deserialize)]
        struct Object {
            sha: String,
        }
        let branch = self.at.repository.default_branch.clone();
        let route = format!("/repos/{}/git/ref/heads/{branch}", self.at.repository.full_name);
        if let Some((Reference { object }, _)) = self.changed::<Reference>(&route).await? {
            let payload = json!({"ref": format!("refs/heads/{branch}")});
            // A branch does not say when it moved: now is when it is seen.
            let now = self.wanted.since;
            self.tell("push", format!("push-{}", object.sha), now, payload);
        }
        Ok(())
    }

    /// Reads `route` if it is not what it was the last time.
    async fn changed<T: serde::de::DeserializeOwned>(&mut self, route: &str) -> Result<Option<(T, bool)>, Trouble> {
        // The moment since when is part of a route, and moves on.
        let name = route.split("&since=").next().unwrap_or(route).to_owned();
        let before = self.wanted.known.0.get(&name).cloned();
        match self.at.api.get_changed::<T>(route, before.as_deref()).await? {
            Some(answer) => {
                self.known.0.extend(answer.etag.map(|etag| (name, etag)));
                Ok(Some((answer.value, answer.more)))
            }
            None => {
                self.known.0.extend(before.map(|etag| (name, etag)));
                Ok(None)
            }
        }
    }

    fn tell(&mut self, event: &'static str, id: String, at: Timestamp, mut payload: Value) {
        if event != "push" {
            self.newest = self.newest.max(Some(at));
        }
        if at < self.wanted.since {
            return;
        }
        payload["repository"] = self.repository.clone();
        self.told.push((at, Told { event, id, payload }));
    }
}
