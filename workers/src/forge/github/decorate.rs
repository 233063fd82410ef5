//! Labels and requests for review of a pull request: what is missing is added, and nothing is asked for twice. Key: what is
//! there already.

use serde::Deserialize;
use serde_json::{Value, json};
use tasks::{Code, Failure};

use super::{Reach, WRITES, errors::Trouble};
use crate::forge::NewPullRequest;

#[derive(Debug, Deserialize)]
struct Label {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Person {
    login: String,
}

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    requested_reviewers: Vec<Person>,
}

#[derive(Debug, Deserialize)]
struct Review {
    /// None when the account is gone.
    user: Option<Person>,
}

/// What can be added to a pull request.
#[derive(Debug, Clone, Copy)]
enum What {
    Labels,
    Reviewers,
}

impl What {
    /// The word in GitHub's answers and ours.
    fn word(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Reviewers => "reviewers",
        }
    }

    async fn there(self, at: &Reach, number: u64) -> Result<Vec<String>, Trouble> {
        match self {
            Self::Labels => labels_of(at, number).await,
            Self::Reviewers => reviewers_of(at, number).await,
        }
    }
}

/// Sets labels and asks for reviews. `fresh`: the pull request was opened just now, so nothing needs to be looked for. What
/// cannot be set is logged; the pull request is what counts.
pub(super) async fn decorate(at: &Reach, number: u64, new: &NewPullRequest<'_>, fresh: bool) {
    for (what, wanted) in [(What::Labels, new.labels), (What::Reviewers, new.reviewers)] {
        if let Err(reason) = add(at, number, new, what, wanted, fresh).await {
            let (repo, what) = (&at.repository.full_name, what.word());
            tracing::warn!(%repo, number, %reason, "the pull request is open, but its {what} could not be set");
        }
    }
}

/// Adds what of `wanted` is not there.
async fn add(
    at: &Reach,
    number: u64,
    new: &NewPullRequest<'_>,
    what: What,
    wanted: &[String],
    fresh: bool,
) -> Result<(), Failure> {
    if wanted.is_empty() {
        return Ok(());
    }
    let repo = &at.repository.full_name;
    let route = match what {
        What::Labels => format!("/repos/{repo}/issues/{number}/labels"),
        What::Reviewers => format!("/repos/{repo}/pulls/{number}/requested_reviewers"),
    };
    let failure = |trouble: Trouble| trouble.failure(&format!("set {}", what.word()), Code::PullRequestRefused);
    for turn in 1..=WRITES {
        let there = if fresh && turn == 1 { Vec::new() } else { what.there(at, number).await.map_err(failure)? };
        let is_there = |name: &String| there.iter().any(|known| known.eq_ignore_ascii_case(name));
        let missing: Vec<&String> = wanted.iter().filter(|name| !is_there(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        new.fence.confirm().await?;
        match at.api.post::<Value>(&route, &json!({what.word(): missing})).await {
            Ok(_) => return Ok(()),
            Err(Trouble::Unclear(why)) if turn < WRITES => {
                tracing::info!(route, why, "an unclear answer to an addition; looking whether it was made");
            }
            Err(trouble) => return Err(failure(trouble)),
        }
        tokio::time::sleep(at.settle).await;
    }
    unreachable!("the last turn returns")
}

/// The labels of an issue or pull request.
pub(super) async fn labels(at: &Reach, number: u64) -> Result<Vec<String>, Failure> {
    labels_of(at, number).await.map_err(|trouble| trouble.failure("read labels", Code::PermissionDenied))
}

async fn labels_of(at: &Reach, number: u64) -> Result<Vec<String>, Trouble> {
    let route = format!("/repos/{}/issues/{number}/labels?per_page=100", at.repository.full_name);
    let labels = at.api.get::<Vec<Label>>(&route).await?.value;
    Ok(labels.into_iter().map(|label| label.name).collect())
}

/// Who was asked, and who has answered: GitHub takes those off the list of the asked.
async fn reviewers_of(at: &Reach, number: u64) -> Result<Vec<String>, Trouble> {
    let route = format!("/repos/{}/pulls/{number}", at.repository.full_name);
    let asked = at.api.get::<Asked>(&route).await?.value.requested_reviewers;
    let reviews = at.api.get::<Vec<Review>>(&format!("{route}/reviews?per_page=100")).await?.value;
    let reviewed = reviews.into_iter().filter_map(|review| review.user);
    Ok(asked.into_iter().chain(reviewed).map(|person| person.login).collect())
}
