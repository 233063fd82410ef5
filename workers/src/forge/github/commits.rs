//! Commits that GitHub makes and signs for the app, where an owner wants to see "Verified" without a key of their own.
//!
//! Objects that no branch leads to are nobody's business, so making them twice is no different from making them once. Only
//! the last step shows: the branch is made, which fails when there is one, or moved forward, which fails when somebody else
//! moved it. Key: the branch, and the task's id in the commit on it.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use tasks::{Code, CommitSha, Failure};

use super::{Reach, WRITES, auth::Own, errors::Trouble, pulls::encoded};
use crate::{
    forge::{NewCommit, TreeChange},
    publish::has_trailer,
};

/// A text of this size goes along with its tree; everything else is sent on its own.
const MAX_INLINE_BYTES: usize = 100_000;
/// Files in one request for a tree.
const MAX_ENTRIES: usize = 1_000;

#[derive(Deserialize)]
struct Object {
    sha: String,
}

/// A commit as `/git/commits` tells of it.
#[derive(Deserialize)]
struct Made {
    sha: CommitSha,
    tree: Object,
    verification: Option<Verification>,
}

#[derive(Deserialize)]
struct Verification {
    verified: bool,
    #[serde(default)]
    reason: String,
}

/// What stands on a branch.
#[derive(Deserialize)]
struct Tip {
    sha: CommitSha,
    commit: Inner,
    parents: Vec<Object>,
    author: Option<Account>,
}

#[derive(Deserialize)]
struct Inner {
    message: String,
    tree: Object,
}

#[derive(Deserialize)]
struct Account {
    login: String,
}

/// Makes sure that the branch holds the tree in a commit of this task, and returns the commit.
///
/// # Errors
/// E052 when GitHub made another tree than the one that was verified, signs nothing, or somebody else's commits are in the
/// way: nothing is published then.
pub(super) async fn commit(at: &Reach, own: &Own, new: &NewCommit<'_>) -> Result<CommitSha, Failure> {
    let doing = |what: &'static str| move |trouble: Trouble| trouble.failure(what, Code::PushRejected);
    let mut made = None;
    for turn in 1..=WRITES {
        let tip = tip(at, new).await.map_err(doing("look at the branch"))?;
        let onto = match &tip {
            None if new.follows.is_some() => return Err(foreign(new)),
            Some(tip) if made.as_ref() == Some(&tip.sha) => return Ok(tip.sha.clone()),
            Some(tip) if new.follows == Some(&tip.sha) => Onto::Branch,
            None => Onto::Nothing,
            Some(tip) if !is_ours(tip, own, new) || !follows_parents(tip, new) => return Err(foreign(new)),
            Some(tip) if tip.commit.tree.sha == new.tree.as_str() => return Ok(tip.sha.clone()),
            // Nothing but the one commit that was asked for goes onto a pull request.
            Some(_) if new.follows.is_some() => return Err(foreign(new)),
            // What an earlier attempt left is followed, since GitHub replaces nothing "if it is still there".
            Some(_) => Onto::Branch,
        };
        let parents: Vec<&str> = match (&tip, new.follows) {
            (Some(tip), None) => vec![tip.sha.as_str()],
            _ => new.parents.iter().map(CommitSha::as_str).collect(),
        };
        let sha = objects(at, new, &parents).await?;
        made = Some(sha.clone());
        new.fence.confirm().await?;
        match point(at, new, &sha, onto).await {
            Ok(()) => return Ok(sha),
            Err(Trouble::Unclear(why)) if turn < WRITES => {
                tracing::info!(branch = %new.branch, why, "an unclear answer when setting a branch; looking where it is");
            }
            // Somebody was faster: the next turn sees who.
            Err(Trouble::Refused(refusal)) if turn < WRITES && refusal.status == 422 => {}
            Err(trouble) => return Err(doing("set the branch")(trouble)),
        }
        tokio::time::sleep(at.settle).await;
    }
    unreachable!("the last turn returns")
}

#[derive(Clone, Copy)]
enum Onto {
    Nothing,
    Branch,
}

async fn tip(at: &Reach, new: &NewCommit<'_>) -> Result<Option<Tip>, Trouble> {
    let name = format!("heads/{}", new.branch);
    match at.api.get::<Tip>(&format!("/repos/{}/commits/{}", at.repository.full_name, encoded(&name))).await {
        Ok(answer) => Ok(Some(answer.value)),
        Err(Trouble::Refused(refusal)) if matches!(refusal.status, 404 | 409 | 422) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Made by this account for this task.
fn is_ours(tip: &Tip, own: &Own, new: &NewCommit<'_>) -> bool {
    let author = tip.author.as_ref().map(|author| author.login.as_str());
    let is_own = match own {
        Own::App { bot, .. } => author == Some(bot.as_str()),
        Own::User { .. } | Own::Unknown => author.is_some(),
    };
    is_own && has_trailer(&tip.commit.message, new.task)
}

fn follows_parents(tip: &Tip, new: &NewCommit<'_>) -> bool {
    tip.parents.iter().map(|parent| parent.sha.as_str()).eq(new.parents.iter().map(CommitSha::as_str))
}

/// Blobs, tree and commit; no branch leads to them yet.
async fn objects(at: &Reach, new: &NewCommit<'_>, parents: &[&str]) -> Result<CommitSha, Failure> {
    let failure = |trouble: Trouble| trouble.failure("store the change", Code::PushRejected);
    let repo = &at.repository.full_name;
    let mut entries = Vec::new();
    for change in new.changes {
        entries.push(entry(at, change).await?);
    }
    let mut tree = new.changes_from.as_str().to_owned();
    for entries in entries.chunks(MAX_ENTRIES) {
        let wanted = json!({"base_tree": tree, "tree": entries});
        tree = at
            .api
            .post_repeatable::<Object>(&format!("/repos/{repo}/git/trees"), &wanted)
            .await
            .map_err(failure)?
            .value
            .sha;
    }
    same(&tree, new.tree.as_str(), "tree")?;
    // Without an author or a committer it is the app's own, and GitHub signs it.
    let wanted = json!({"message": new.message, "tree": tree, "parents": parents});
    let made =
        at.api.post_repeatable::<Made>(&format!("/repos/{repo}/git/commits"), &wanted).await.map_err(failure)?.value;
    same(&made.tree.sha, new.tree.as_str(), "tree of the commit")?;
    match made.verification {
        Some(Verification { verified: true, .. }) => Ok(made.sha),
        other => {
            let reason = other.map_or_else(|| "no reason".to_owned(), |verification| verification.reason);
            Err(Failure::new(Code::PushRejected, format!("GitHub did not sign the commit that it made ({reason})"))
                .next("It signs for apps only: use one, or set [commit] via = \"git\" and a signing_key."))
        }
    }
}

async fn entry(at: &Reach, change: &TreeChange) -> Result<Value, Failure> {
    let failure = |trouble: Trouble| trouble.failure("store a file", Code::PushRejected);
    let path = std::str::from_utf8(&change.path).map_err(|_| {
        let path = String::from_utf8_lossy(&change.path);
        Failure::new(Code::PushRejected, format!("The name of {path:?} is not UTF-8, and GitHub's API takes no other"))
            .next("Set [commit] via = \"git\".")
    })?;
    let mut entry = json!({"path": path, "type": "blob", "mode": change.mode});
    match &change.now {
        None => entry["sha"] = Value::Null,
        Some((_, bytes)) if bytes.len() <= MAX_INLINE_BYTES && std::str::from_utf8(bytes).is_ok() => {
            entry["content"] = json!(String::from_utf8_lossy(bytes));
        }
        Some((sha, bytes)) => {
            let route = format!("/repos/{}/git/blobs", at.repository.full_name);
            let wanted = json!({"encoding": "base64", "content": STANDARD.encode(bytes)});
            let stored = at.api.post_repeatable::<Object>(&route, &wanted).await.map_err(failure)?.value.sha;
            same(&stored, sha, path)?;
            entry["sha"] = json!(stored);
        }
    }
    Ok(entry)
}

/// What GitHub stored has to be what the checks ran on.
fn same(stored: &str, verified: &str, what: &str) -> Result<(), Failure> {
    if stored == verified {
        return Ok(());
    }
    let message = format!(
        "GitHub stored another {what} ({stored}) than the one that was verified ({verified}), so nothing was published"
    );
    Err(Failure::new(Code::PushRejected, message)
        .next("Set [commit] via = \"git\", which carries every byte as it is."))
}

async fn point(at: &Reach, new: &NewCommit<'_>, sha: &CommitSha, onto: Onto) -> Result<(), Trouble> {
    let repo = &at.repository.full_name;
    let done = match onto {
        Onto::Nothing => {
            let wanted = json!({"ref": format!("refs/heads/{}", new.branch), "sha": sha});
            at.api.post::<Value>(&format!("/repos/{repo}/git/refs"), &wanted).await
        }
        Onto::Branch => {
            let name = new.branch.as_str().split('/').map(encoded).collect::<Vec<_>>().join("/");
            let wanted = json!({"sha": sha, "force": false});
            at.api.patch::<Value>(&format!("/repos/{repo}/git/refs/heads/{name}"), &wanted).await
        }
    };
    done.map(|_| ())
}

fn foreign(new: &NewCommit<'_>) -> Failure {
    let message =
        format!("The branch {} has commits of somebody else, or of another base, which are left alone", new.branch);
    Failure::new(Code::PushRejected, message)
        .next(format!("Rename or delete the branch {}, or take the verified diff over by hand.", new.branch))
}
