//! The one pull request of a branch: found and brought up to date, or opened. Key: the branch.

use serde::Deserialize;
use serde_json::json;
use tasks::{Code, Failure, PullRequest};

use super::{
    Reach, WRITES,
    decorate::decorate,
    errors::{Refusal, Trouble},
    fitting, same_text,
};
use crate::forge::NewPullRequest;

/// Longest title that GitHub takes, in characters.
const MAX_TITLE: usize = 256;
/// Longest body that GitHub takes, in characters.
const MAX_BODY: usize = 65_536;

#[derive(Debug, Deserialize)]
struct Pull {
    number: u64,
    html_url: String,
    title: String,
    body: Option<String>,
    head: Side,
    base: Side,
}

#[derive(Debug, Deserialize)]
struct Side {
    #[serde(rename = "ref")]
    branch: String,
    /// None when the fork is gone.
    repo: Option<SideRepo>,
}

#[derive(Debug, Deserialize)]
struct SideRepo {
    id: u64,
}

/// Finds or opens the pull request of `new.branch`.
///
/// # Errors
/// E053 with GitHub's reason, E050, E051, E054.
pub(super) async fn find_or_open(at: &Reach, new: &NewPullRequest<'_>) -> Result<PullRequest, Failure> {
    let failure = |trouble: Trouble| refused(trouble, new);
    let (title, body) = (fitting(new.title, MAX_TITLE, ""), fitting(new.body, MAX_BODY, ""));
    let repo = &at.repository.full_name;
    for turn in 1..=WRITES {
        if let Some(found) = find(at, new).await.map_err(failure)? {
            update(at, new, &found, &title, &body).await?;
            decorate(at, found.number, new, false).await;
            return Ok(finished(at, new, found));
        }
        let wanted = json!({
            "title": title, "body": body, "head": new.branch, "base": new.base, "draft": new.draft,
        });
        new.fence.confirm().await?;
        match at.api.post::<Pull>(&format!("/repos/{repo}/pulls"), &wanted).await {
            Ok(opened) => {
                decorate(at, opened.number, new, true).await;
                return Ok(finished(at, new, opened));
            }
            // Somebody was faster, or it was done although the answer got lost: the next turn finds it.
            Err(Trouble::Refused(refusal)) if turn < WRITES && already_exists(&refusal) => {}
            Err(Trouble::Unclear(why)) if turn < WRITES => {
                tracing::info!(%repo, branch = %new.branch, why, "an unclear answer when opening a pull request; looking whether it is there");
            }
            Err(trouble) => return Err(failure(trouble)),
        }
        tokio::time::sleep(at.settle).await;
    }
    unreachable!("the last turn returns")
}

/// The open pull request from our branch in this very repository. The answer is read again, because GitHub ignores a
/// filter that it does not understand and then shows everything.
async fn find(at: &Reach, new: &NewPullRequest<'_>) -> Result<Option<Pull>, Trouble> {
    let repo = &at.repository.full_name;
    let head = encoded(&format!("{}:{}", repo.owner(), new.branch));
    let route = format!("/repos/{repo}/pulls?state=open&head={head}&base={}&per_page=100", encoded(new.base.as_str()));
    let pulls = at.api.get::<Vec<Pull>>(&route).await?.value;
    let ours = |pull: &Pull| {
        pull.head.branch == new.branch.as_str()
            && pull.base.branch == new.base.as_str()
            && pull.head.repo.as_ref().is_some_and(|repo| repo.id == at.repository.id)
    };
    Ok(pulls.into_iter().find(ours))
}

/// Brings title and body of a found pull request up to date. Setting them twice is setting them once, and what an unclear
/// answer did is looked at before they are set again.
async fn update(at: &Reach, new: &NewPullRequest<'_>, found: &Pull, title: &str, body: &str) -> Result<(), Failure> {
    let failure = |trouble: Trouble| refused(trouble, new);
    let stands =
        |pull: &Pull| pull.title.trim() == title.trim() && same_text(pull.body.as_deref().unwrap_or_default(), body);
    if stands(found) {
        return Ok(());
    }
    let route = format!("/repos/{}/pulls/{}", at.repository.full_name, found.number);
    for turn in 1..=WRITES {
        new.fence.confirm().await?;
        match at.api.patch::<Pull>(&route, &json!({"title": title, "body": body})).await {
            Err(Trouble::Unclear(why)) if turn < WRITES => {
                tracing::info!(route, why, "an unclear answer to an edit; looking whether it was made");
                tokio::time::sleep(at.settle).await;
                if stands(&at.api.get::<Pull>(&route).await.map_err(failure)?.value) {
                    return Ok(());
                }
            }
            answer => return answer.map(|_| ()).map_err(failure),
        }
    }
    unreachable!("the last turn returns")
}

fn finished(at: &Reach, new: &NewPullRequest<'_>, pull: Pull) -> PullRequest {
    PullRequest {
        repo: at.repository.full_name.clone(),
        number: pull.number,
        url: pull.html_url,
        branch: new.branch.clone(),
        head: new.head.clone(),
    }
}

fn already_exists(refusal: &Refusal) -> bool {
    refusal.status == 422 && refusal.words.contains("already exists")
}

fn refused(trouble: Trouble, new: &NewPullRequest<'_>) -> Failure {
    let drafts = matches!(&trouble, Trouble::Refused(refusal) if refusal.words.contains("Draft pull requests"));
    let failure = trouble.failure(&format!("open a pull request in {}", new.repo), Code::PullRequestRefused);
    match drafts {
        true => failure
            .next("Set `draft = false` under [pull_request] in `.onramp.toml`: this repository's plan has no drafts."),
        false => failure,
    }
}

/// A value in a query.
fn encoded(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
