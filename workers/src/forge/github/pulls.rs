//! The one pull request of a branch: found and brought up to date, or opened. Key: the branch.
//!
//! A worker may die between the opening and its record, and somebody may merge or close the pull request before the next
//! worker comes. Then there is nothing to open any more.

use serde::Deserialize;
use serde_json::json;
use tasks::{Code, CommitSha, Failure, PullRequest};

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
    /// `open` or `closed`. The answer to one that was just opened may do without.
    #[serde(default)]
    state: Option<String>,
    merged_at: Option<String>,
}

impl Pull {
    fn is_open(&self) -> bool {
        self.state.as_deref() != Some("closed")
    }

    /// Somebody was done with it before we knew of it: what we would open says the same once more.
    fn settles(&self, head: &CommitSha) -> bool {
        self.merged_at.is_some() || self.head.sha.as_deref() == Some(head.as_str())
    }
}

#[derive(Debug, Deserialize)]
struct Side {
    #[serde(rename = "ref")]
    branch: String,
    sha: Option<String>,
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
            if !found.is_open() {
                tracing::info!(%repo, number = found.number, "somebody closed the pull request before it was recorded");
                return Ok(finished(at, new, found));
            }
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

/// The open pull request from our branch in this very repository; else one from it that is closed already and leaves
/// nothing to open. The answer is read again, because GitHub ignores a
/// filter that it does not understand and then shows everything.
async fn find(at: &Reach, new: &NewPullRequest<'_>) -> Result<Option<Pull>, Trouble> {
    let repo = &at.repository.full_name;
    let head = encoded(&format!("{}:{}", repo.owner(), new.branch));
    let route = format!("/repos/{repo}/pulls?state=all&head={head}&base={}&per_page=100", encoded(new.base.as_str()));
    let mut pulls = at.api.get::<Vec<Pull>>(&route).await?.value;
    let ours = |pull: &Pull| {
        pull.head.branch == new.branch.as_str()
            && pull.base.branch == new.base.as_str()
            && pull.head.repo.as_ref().is_some_and(|repo| repo.id == at.repository.id)
    };
    pulls.retain(ours);
    let open = pulls.iter().position(Pull::is_open);
    let found = open.or_else(|| pulls.iter().position(|pull| pull.settles(new.head)));
    Ok(found.map(|n| pulls.swap_remove(n)))
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
/// For a path or query.
pub(super) fn encoded(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
