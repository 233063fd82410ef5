//! What is said around a pull request of ours: reactions, reviews and their comments, answers to them, and pull requests as they are now.

use serde::Deserialize;
use serde_json::{Value, json};
use tasks::{BranchName, Code, CommitSha, Failure, PullRequest, Timestamp};

use super::{Reach, WRITES, auth::Own, errors::Trouble};
use crate::{
    fence::Fence,
    forge::{LineComment, PullRequestNow, ReactTo, Reaction, Reply},
};

const PER_PAGE: usize = 100;
const MAX_PAGES: usize = 10;

#[derive(Debug, Deserialize)]
struct Pull {
    number: u64,
    html_url: String,
    head: Head,
    base: Branch,
    #[serde(default)]
    state: String,
    updated_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Head {
    #[serde(rename = "ref")]
    branch: BranchName,
    sha: CommitSha,
    /// None when the fork is gone.
    repo: Option<WithId>,
}

#[derive(Debug, Deserialize)]
struct Branch {
    #[serde(rename = "ref")]
    branch: BranchName,
}

#[derive(Debug, Deserialize)]
struct WithId {
    id: u64,
}

#[derive(Debug, Deserialize)]
struct Review {
    submitted_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Comment {
    id: u64,
    #[serde(default)]
    path: String,
    line: Option<u64>,
    original_line: Option<u64>,
    #[serde(default)]
    diff_hunk: String,
    #[serde(default)]
    body: String,
    updated_at: Option<Timestamp>,
    in_reply_to_id: Option<u64>,
    user: Option<Account>,
}

#[derive(Debug, Deserialize)]
struct Account {
    id: u64,
    login: String,
}

/// Puts a reaction there. GitHub answers a second one of the same kind with the first.
pub(super) async fn react(at: &Reach, to: ReactTo, reaction: Reaction) -> Result<(), Failure> {
    let repo = &at.repository.full_name;
    let route = match to {
        ReactTo::Thread(number) => format!("/repos/{repo}/issues/{number}/reactions"),
        ReactTo::Comment(id) => format!("/repos/{repo}/issues/comments/{id}/reactions"),
    };
    let content = match reaction {
        Reaction::Eyes => "eyes",
        Reaction::Rocket => "rocket",
        Reaction::Confused => "confused",
    };
    let reacted = at.api.post_repeatable::<Value>(&route, &json!({ "content": content })).await;
    reacted.map(drop).map_err(|trouble| trouble.failure("react to a comment", Code::PermissionDenied))
}

/// A pull request as it is now.
pub(super) async fn pull_request_now(at: &Reach, number: u64) -> Result<PullRequestNow, Failure> {
    let repo = &at.repository.full_name;
    let found = at.api.get::<Pull>(&format!("/repos/{repo}/pulls/{number}")).await;
    let pull =
        found.map_err(|trouble| trouble.failure(&format!("look at {repo}#{number}"), Code::PullRequestRefused))?.value;
    let is_ours_to_push = pull.head.repo.as_ref().is_some_and(|repo| repo.id == at.repository.id);
    Ok(PullRequestNow {
        pull_request: PullRequest {
            repo: repo.clone(),
            number: pull.number,
            url: pull.html_url,
            branch: pull.head.branch,
            head: pull.head.sha,
        },
        base: pull.base.branch,
        is_open: pull.state == "open",
        is_ours_to_push,
        touched_at: pull.updated_at,
    })
}

/// Closes a pull request. Setting its state twice is setting it once.
pub(super) async fn close(at: &Reach, number: u64) -> Result<(), Failure> {
    let repo = &at.repository.full_name;
    let failure = |trouble: Trouble| trouble.failure(&format!("close {repo}#{number}"), Code::PullRequestRefused);
    let route = format!("/repos/{repo}/pulls/{number}");
    for turn in 1..=WRITES {
        match at.api.patch::<Pull>(&route, &json!({ "state": "closed" })).await {
            Ok(_) => return Ok(()),
            Err(Trouble::Unclear(why)) if turn < WRITES => {
                tracing::info!(route, why, "an unclear answer when closing a pull request; closing it again");
            }
            Err(trouble) => return Err(failure(trouble)),
        }
        tokio::time::sleep(at.settle).await;
    }
    unreachable!("the last turn returns")
}

/// The comments of a review. One that was changed after the review was submitted is left out: nobody agreed to it.
pub(super) async fn line_comments(at: &Reach, number: u64, review: u64) -> Result<Vec<LineComment>, Failure> {
    let route = format!("/repos/{}/pulls/{number}/reviews/{review}", at.repository.full_name);
    let failure = |trouble: Trouble| trouble.failure(&format!("read a review of #{number}"), Code::PullRequestRefused);
    let submitted_at = at.api.get::<Review>(&route).await.map_err(failure)?.value.submitted_at;
    let comments = pages(at, &format!("{route}/comments")).await.map_err(failure)?;
    let (kept, changed): (Vec<Comment>, Vec<Comment>) = comments.into_iter().partition(|comment| {
        matches!((comment.updated_at, submitted_at), (Some(updated), Some(submitted)) if updated <= submitted)
    });
    if !changed.is_empty() {
        tracing::info!(number, review, n_comments = changed.len(), "comments that were changed later are left out");
    }
    let line_comment = |comment: Comment| LineComment {
        id: comment.id,
        line: comment.line.or(comment.original_line),
        path: comment.path,
        hunk: comment.diff_hunk,
        body: comment.body,
    };
    Ok(kept.into_iter().map(line_comment).collect())
}

/// Answers a comment on a line, unless an answer of ours with the marker is there.
pub(super) async fn reply(at: &Reach, own: &Own, fence: &Fence, reply: &Reply<'_>) -> Result<(), Failure> {
    let (repo, number) = (&at.repository.full_name, reply.number);
    let failure = |trouble: Trouble| trouble.failure(&format!("answer a review of #{number}"), Code::PermissionDenied);
    for turn in 1..=WRITES {
        let comments = pages(at, &format!("/repos/{repo}/pulls/{number}/comments")).await.map_err(failure)?;
        let is_there = comments.iter().any(|comment| {
            comment.in_reply_to_id.is_some() && comment.body.contains(reply.marker) && is_ours(comment, own)
        });
        if is_there {
            return Ok(());
        }
        fence.confirm().await?;
        let route = format!("/repos/{repo}/pulls/{number}/comments/{}/replies", reply.to);
        match at.api.post::<Value>(&route, &json!({ "body": reply.body })).await {
            Ok(_) => return Ok(()),
            // It was deleted meanwhile: nobody waits for an answer.
            Err(trouble) if trouble.is_missing() => return Ok(()),
            Err(Trouble::Unclear(why)) if turn < WRITES => {
                tracing::info!(route, why, "an unclear answer to a reply; looking whether it is there");
            }
            Err(trouble) => return Err(failure(trouble)),
        }
        tokio::time::sleep(at.settle).await;
    }
    unreachable!("the last turn returns")
}

fn is_ours(comment: &Comment, own: &Own) -> bool {
    match (own, &comment.user) {
        (Own::User { id }, Some(user)) => user.id == *id,
        (Own::App { bot, .. }, Some(user)) => user.login == *bot,
        (Own::User { .. } | Own::App { .. }, None) => false,
        (Own::Unknown, _) => true,
    }
}

async fn pages(at: &Reach, route: &str) -> Result<Vec<Comment>, Trouble> {
    let mut comments = Vec::new();
    for page in 1..=MAX_PAGES {
        let answer = at.api.get::<Vec<Comment>>(&format!("{route}?per_page={PER_PAGE}&page={page}")).await?;
        let last = !answer.more && answer.value.len() < PER_PAGE;
        comments.extend(answer.value);
        if last {
            break;
        }
    }
    Ok(comments)
}
