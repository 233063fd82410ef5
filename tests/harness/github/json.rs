//! The JSON that GitHub writes: what its clients require, and enough of the rest to look like it.

use serde_json::{Value, json};

use super::state::{Comment, Issue, Pull, Repository, State, now};

/// The login under which an installed app acts.
pub(super) const BOT: &str = "onramp[bot]";

pub(super) fn user(state: &State, login: &str) -> Value {
    let (api, web) = (format!("{}/users/{login}", state.api_url()), &state.web_url);
    let kind = if login.ends_with("[bot]") { "Bot" } else { "User" };
    let id = state.user_id(login);
    json!({
        "login": login, "id": id, "node_id": format!("U_{id}"),
        "avatar_url": format!("{web}/avatars/{id}"), "gravatar_id": "",
        "url": api, "html_url": format!("{web}/{login}"),
        "followers_url": format!("{api}/followers"), "following_url": format!("{api}/following"),
        "gists_url": format!("{api}/gists"), "starred_url": format!("{api}/starred"),
        "subscriptions_url": format!("{api}/subscriptions"), "organizations_url": format!("{api}/orgs"),
        "repos_url": format!("{api}/repos"), "events_url": format!("{api}/events"),
        "received_events_url": format!("{api}/received_events"), "type": kind, "site_admin": false,
    })
}

pub(super) fn repository(state: &State, repo: &Repository) -> Value {
    let full_name = repo.full_name();
    json!({
        "id": repo.id, "node_id": format!("R_{}", repo.id), "name": repo.name, "full_name": full_name,
        "private": true, "fork": false, "archived": false, "disabled": false, "description": null,
        "owner": user(state, &repo.owner), "default_branch": repo.default_branch,
        "url": format!("{}/repos/{full_name}", state.api_url()),
        "html_url": format!("{}/{full_name}", state.web_url),
        "clone_url": format!("{}/{full_name}.git", state.web_url),
        "git_url": format!("{}/{full_name}.git", state.web_url),
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z", "pushed_at": "2026-01-02T03:04:05Z",
        "visibility": "private", "language": "Rust", "topics": [],
    })
}

pub(super) fn label(state: &State, repo: &Repository, name: &str) -> Value {
    let id = state.user_id(name);
    json!({
        "id": id, "node_id": format!("LA_{id}"), "name": name, "color": "ededed", "default": false, "description": null,
        "url": format!("{}/repos/{}/labels/{}", state.api_url(), repo.full_name(), name.replace(' ', "%20")),
    })
}

fn labels(state: &State, repo: &Repository, names: &[String]) -> Value {
    names.iter().map(|name| label(state, repo, name)).collect()
}

pub(super) fn issue(state: &State, repo: &Repository, issue: &Issue) -> Value {
    let (full_name, number) = (repo.full_name(), issue.number);
    let url = format!("{}/repos/{full_name}/issues/{number}", state.api_url());
    json!({
        "id": repo.id * 1000 + number, "node_id": format!("I_{number}"), "number": number, "url": url,
        "repository_url": format!("{}/repos/{full_name}", state.api_url()),
        "labels_url": format!("{url}/labels{{/name}}"), "comments_url": format!("{url}/comments"),
        "events_url": format!("{url}/events"), "html_url": format!("{}/{full_name}/issues/{number}", state.web_url),
        "title": issue.title, "body": issue.body, "user": user(state, &issue.author),
        "state": if issue.open { "open" } else { "closed" }, "state_reason": null,
        "labels": labels(state, repo, &issue.labels), "locked": false, "active_lock_reason": null,
        "assignee": null, "assignees": [], "milestone": null, "author_association": "CONTRIBUTOR",
        "comments": state.comments_of(&full_name, number).count(),
        "created_at": "2026-01-02T03:04:05Z", "updated_at": issue.updated_at, "closed_at": null,
    })
}

pub(super) fn comment(state: &State, repo: &Repository, comment: &Comment) -> Value {
    let full_name = repo.full_name();
    let api = format!("{}/repos/{full_name}/issues", state.api_url());
    json!({
        "id": comment.id, "node_id": format!("IC_{}", comment.id), "body": comment.body,
        "url": format!("{api}/comments/{}", comment.id), "issue_url": format!("{api}/{}", comment.issue),
        "html_url": format!("{}/{full_name}/issues/{}#issuecomment-{}", state.web_url, comment.issue, comment.id),
        "user": user(state, &comment.author), "author_association": "COLLABORATOR",
        "created_at": comment.created_at, "updated_at": comment.updated_at,
    })
}

pub(super) fn pull(state: &State, repo: &Repository, pull: &Pull) -> Value {
    let (full_name, number) = (repo.full_name(), pull.number);
    let url = format!("{}/repos/{full_name}/pulls/{number}", state.api_url());
    let html = format!("{}/{full_name}/pull/{number}", state.web_url);
    let side = |branch: &str| {
        json!({
            "label": format!("{}:{branch}", repo.owner), "ref": branch,
            "sha": repo.bare().tip(branch).unwrap_or_else(|| "0".repeat(40)),
            "user": user(state, &repo.owner), "repo": repository(state, repo),
        })
    };
    let reviewers: Vec<_> = pull.reviewers.iter().map(|login| user(state, login)).collect();
    json!({
        "id": pull.id, "node_id": format!("PR_{}", pull.id), "number": number, "url": url, "html_url": html,
        "diff_url": format!("{html}.diff"), "patch_url": format!("{html}.patch"),
        "issue_url": format!("{}/repos/{full_name}/issues/{number}", state.api_url()),
        "commits_url": format!("{url}/commits"), "comments_url": format!("{url}/comments"),
        "head": side(&pull.head), "base": side(&pull.base),
        "title": pull.title, "body": pull.body, "draft": pull.draft, "locked": false,
        "state": if pull.open { "open" } else { "closed" }, "merged": pull.merged,
        "merged_at": pull.merged.then(now), "closed_at": (!pull.open).then(now),
        "user": user(state, &pull.author), "labels": labels(state, repo, &pull.labels),
        "assignees": [], "requested_reviewers": reviewers, "requested_teams": [],
        "created_at": pull.created_at, "updated_at": pull.updated_at, "author_association": "NONE",
    })
}

/// An `issues` delivery.
pub(super) fn issue_event(
    state: &State,
    action: &str,
    repo: &str,
    number: u64,
    label_name: Option<&str>,
    sender: &str,
) -> Value {
    let repo = state.repository(repo);
    let mut event = event(state, action, repo, sender);
    event["issue"] = issue(state, repo, &repo.issues[&number]);
    if let Some(name) = label_name {
        event["label"] = label(state, repo, name);
    }
    event
}

/// A `pull_request` delivery.
pub(super) fn pull_event(state: &State, action: &str, repo: &str, number: u64, sender: &str) -> Value {
    let repo = state.repository(repo);
    let mut event = event(state, action, repo, sender);
    event["number"] = json!(number);
    event["pull_request"] = pull(state, repo, &repo.pulls[&number]);
    event
}

pub(super) fn event(state: &State, action: &str, repo: &Repository, sender: &str) -> Value {
    let mut event = json!({ "action": action, "repository": repository(state, repo), "sender": user(state, sender) });
    if let Some(app) = &state.app {
        event["installation"] = json!({ "id": app.installation, "node_id": "MDIz" });
    }
    event
}
