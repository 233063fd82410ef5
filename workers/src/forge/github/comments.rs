//! The one status comment of a task on an issue: edited in place, or written. Key: a hidden marker in its text.

use serde::Deserialize;
use serde_json::json;
use tasks::{Code, Failure};

use super::{Reach, WRITES, auth::Own, errors::Trouble, fitting, same_text};

/// Longest comment that GitHub takes, in characters.
const MAX_BODY: usize = 65_536;
const PER_PAGE: usize = 100;
/// GitHub takes 2500 comments on one issue.
const MAX_PAGES: usize = 30;

#[derive(Debug, Deserialize)]
struct Comment {
    id: u64,
    html_url: String,
    body: Option<String>,
    user: Option<User>,
    performed_via_github_app: Option<App>,
}

#[derive(Debug, Deserialize)]
struct User {
    id: u64,
    login: String,
}

#[derive(Debug, Deserialize)]
struct App {
    id: u64,
}

/// Edits the comment of ours that carries `marker`, or writes it. Returns its URL.
///
/// # Errors
/// E050, E051, E054.
pub(super) async fn find_or_write(
    at: &Reach,
    own: &Own,
    issue: u64,
    marker: &str,
    body: &str,
) -> Result<String, Failure> {
    let repo = &at.repository.full_name;
    let failure = |trouble: Trouble| trouble.failure(&format!("comment on {repo}#{issue}"), Code::PermissionDenied);
    let body = fitting(body, MAX_BODY, marker);
    let mut foreign = Vec::new();
    for turn in 1..=WRITES {
        let found = find(at, own, issue, marker, &foreign).await.map_err(failure)?;
        let written = match &found {
            Some(found) if same_text(found.body.as_deref().unwrap_or_default(), &body) => {
                return Ok(found.html_url.clone());
            }
            Some(found) => {
                let route = format!("/repos/{repo}/issues/comments/{}", found.id);
                at.api.patch::<Comment>(&route, &json!({"body": body})).await
            }
            None => {
                at.api.post::<Comment>(&format!("/repos/{repo}/issues/{issue}/comments"), &json!({"body": body})).await
            }
        };
        match written {
            Ok(comment) => return Ok(comment.html_url),
            // It may be there although the answer got lost: the next turn looks.
            Err(Trouble::Unclear(why)) if turn < WRITES => {
                tracing::info!(%repo, issue, why, "an unclear answer to a comment; looking whether it is there");
            }
            // With credentials that may not ask who they are, this is how a comment shows to be somebody else's.
            Err(Trouble::Refused(refusal))
                if turn < WRITES && refusal.status == 403 && *own == Own::Unknown && found.is_some() =>
            {
                foreign.extend(found.map(|found| found.id));
                continue;
            }
            // It was deleted after it was found.
            Err(trouble) if turn < WRITES && found.is_some() && trouble.is_missing() => {}
            Err(trouble) => return Err(failure(trouble)),
        }
        tokio::time::sleep(at.settle).await;
    }
    unreachable!("the last turn returns")
}

/// The oldest comment of ours with the marker. Pages are asked for by number: a link to the next page leads the client
/// away from its credentials on an Enterprise Server.
async fn find(at: &Reach, own: &Own, issue: u64, marker: &str, foreign: &[u64]) -> Result<Option<Comment>, Trouble> {
    let repo = &at.repository.full_name;
    for page in 1..=MAX_PAGES {
        let route = format!("/repos/{repo}/issues/{issue}/comments?per_page={PER_PAGE}&page={page}");
        let answer = at.api.get::<Vec<Comment>>(&route).await?;
        let last = !answer.more && answer.value.len() < PER_PAGE;
        let marked = |comment: &Comment| {
            comment.body.as_deref().is_some_and(|body| body.contains(marker)) && !foreign.contains(&comment.id)
        };
        if let Some(found) = answer.value.into_iter().find(|comment| marked(comment) && is_ours(comment, own)) {
            return Ok(Some(found));
        }
        if last {
            break;
        }
    }
    Ok(None)
}

/// Whether Onramp wrote it: anybody may copy the marker into a comment.
fn is_ours(comment: &Comment, own: &Own) -> bool {
    match own {
        Own::User { id } => comment.user.as_ref().is_some_and(|user| user.id == *id),
        Own::App { id, bot } => match &comment.performed_via_github_app {
            Some(app) => app.id == *id,
            None => comment.user.as_ref().is_some_and(|user| user.login == *bot),
        },
        Own::Unknown => true,
    }
}
