//! The commit and its way to the task's branch.
//!
//! One connection lists the remote's branch and updates it, and the update names the commit that was listed. So a server
//! refuses it when somebody else was faster, and nothing that was not looked at is ever replaced.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use git2::{AutotagOption, Commit, Direction, FetchOptions, Oid, PushOptions, Repository, Signature};
use tasks::{BranchName, Code, CommitSha, Failure, Timestamp, TreeSha};

use super::Identity;
use crate::checkout::{
    Remote, commit_sha,
    fetch::{self, callbacks},
    oid,
    transport::{Call, Refusal, plain},
};

/// One push may take so long.
pub(super) const PUSH_TIMEOUT: Duration = Duration::from_secs(300);
/// The trailer that tells our own commits.
const TRAILER: &str = "Task-Id: ";

/// What is to be on the branch.
#[derive(Debug, Clone)]
pub(super) struct Push {
    pub(super) branch: BranchName,
    pub(super) base: CommitSha,
    pub(super) tree: TreeSha,
    /// With or without the trailer.
    pub(super) message: String,
    /// The task's id.
    pub(super) task: String,
    pub(super) identity: Identity,
    pub(super) now: Timestamp,
}

/// Makes sure that the branch holds the tree on its base, in a commit of this task. Key: the branch and the task's id.
pub(super) fn push(repo: &Repository, remote: &Remote, push: &Push, call: &Arc<Call>) -> Result<CommitSha, Failure> {
    let mut sent = None;
    match call.enter(|| attempt(repo, remote, push, call, &mut sent)) {
        Ok(commit) => Ok(commit_sha(commit)),
        Err(failure) => {
            // The answer may be what was lost, and not the push.
            let again = Call::new(call.token(), PUSH_TIMEOUT);
            let now_there = again.enter(|| branch_head(repo, remote, &push.branch, &again));
            match (sent, now_there) {
                (Some(sent), Ok(Some(there))) if sent == there => Ok(commit_sha(sent)),
                (Some(_) | None, Ok(_) | Err(_)) => Err(failure),
            }
        }
    }
}

fn attempt(
    repo: &Repository,
    remote: &Remote,
    push: &Push,
    call: &Arc<Call>,
    sent: &mut Option<Oid>,
) -> Result<Oid, Failure> {
    let failed = |error: git2::Error| failure(&error, remote, push, call);
    let target = format!("refs/heads/{}", push.branch);
    let mut handle = repo.remote_anonymous(&remote.url).map_err(failed)?;
    let mut connection = handle.connect_auth(Direction::Push, Some(callbacks(call)), None).map_err(failed)?;
    let heads = connection.list().map_err(failed)?;
    let there = heads.iter().find(|head| head.name() == target).map(git2::RemoteHead::oid);
    let force = match there {
        None => "",
        Some(there) => match own_commit(repo, remote, push, there, call)? {
            Own::Same => return Ok(there),
            Own::Earlier => "+",
        },
    };
    let commit = commit(repo, push)?;
    // Kept by a reference of our own, so that what was pushed can be looked at later.
    let source = format!("refs/onramp/published/{}", push.task);
    repo.reference(&source, commit, true, "").map_err(Failure::internal)?;

    let rejected = Arc::new(Mutex::new(None));
    let mut callbacks = callbacks(call);
    let reason = rejected.clone();
    callbacks.push_update_reference(move |_, refused| {
        *reason.lock().unwrap_or_else(PoisonError::into_inner) = refused.map(str::to_owned);
        Ok(())
    });
    let mut options = PushOptions::new();
    options.remote_callbacks(callbacks).packbuilder_parallelism(0);
    *sent = Some(commit);
    connection.remote().push(&[format!("{force}{source}:{target}")], Some(&mut options)).map_err(failed)?;
    let rejected = rejected.lock().unwrap_or_else(PoisonError::into_inner).take();
    match rejected {
        None => Ok(commit),
        Some(reason) => Err(rejection(push, &reason, &call.said())),
    }
}

/// Whose commit is on the branch already, if it is one of ours.
enum Own {
    /// Just what we want to be there.
    Same,
    /// What an earlier attempt of the same task left.
    Earlier,
}

fn own_commit(repo: &Repository, remote: &Remote, push: &Push, there: Oid, call: &Arc<Call>) -> Result<Own, Failure> {
    if repo.find_commit(there).is_err() {
        fetch_branch(repo, remote, push, call)?;
    }
    let found = repo.find_commit(there).map_err(Failure::internal)?;
    if !is_ours(&found, push) {
        return Err(foreign(push));
    }
    let same_tree = found.tree_id() == oid(push.tree.as_str())?;
    let same_base = found.parent_id(0).is_ok_and(|parent| parent.to_string() == push.base.as_str());
    Ok(if same_tree && same_base { Own::Same } else { Own::Earlier })
}

/// Written by us for this task, and by nobody else since: an amended commit keeps its trailer but not its committer.
fn is_ours(commit: &Commit<'_>, push: &Push) -> bool {
    let us = |who: Signature<'_>| who.email_bytes() == push.identity.email.as_bytes();
    has_trailer(&String::from_utf8_lossy(commit.message_bytes()), &push.task)
        && us(commit.author())
        && us(commit.committer())
        && commit.parent_count() == 1
}

fn has_trailer(message: &str, task: &str) -> bool {
    let last = message.trim_end().rsplit("\n\n").next().unwrap_or_default();
    last.lines().any(|line| line.strip_prefix(TRAILER).is_some_and(|id| id.trim() == task))
}

fn commit(repo: &Repository, push: &Push) -> Result<Oid, Failure> {
    let mut message = push.message.trim_end().to_owned() + "\n";
    if !has_trailer(&message, &push.task) {
        message.push_str(&format!("\n{TRAILER}{}\n", push.task));
    }
    let time = git2::Time::new(push.now.timestamp(), 0);
    let who = Signature::new(&push.identity.name, &push.identity.email, &time).map_err(|error| {
        Failure::new(Code::BadConfig, "The name or address that commits are made with is not one that git takes")
            .detail(error.message().to_owned())
    })?;
    let (tree, parent) = (oid(push.tree.as_str())?, oid(push.base.as_str())?);
    let commit = || repo.commit(None, &who, &who, &message, &repo.find_tree(tree)?, &[&repo.find_commit(parent)?]);
    commit().map_err(Failure::internal)
}

fn fetch_branch(repo: &Repository, remote: &Remote, push: &Push, call: &Arc<Call>) -> Result<(), Failure> {
    let mut options = FetchOptions::new();
    options.download_tags(AutotagOption::None).remote_callbacks(callbacks(call));
    let spec = format!("+refs/heads/{}:refs/onramp/found/{}", push.branch, push.task);
    let fetch = || repo.remote_anonymous(&remote.url)?.download(&[spec], Some(&mut options));
    fetch().map_err(|error| failure(&error, remote, push, call))
}

fn branch_head(
    repo: &Repository,
    remote: &Remote,
    branch: &BranchName,
    call: &Arc<Call>,
) -> Result<Option<Oid>, git2::Error> {
    let mut handle = repo.remote_anonymous(&remote.url)?;
    let connection = handle.connect_auth(Direction::Fetch, Some(callbacks(call)), None)?;
    let target = format!("refs/heads/{branch}");
    Ok(connection.list()?.iter().find(|head| head.name() == target).map(git2::RemoteHead::oid))
}

fn foreign(push: &Push) -> Failure {
    Failure::new(
        Code::PushRejected,
        format!("The branch {} holds commits of somebody else, so nothing was pushed", push.branch),
    )
    .next(format!("Rename or delete the branch {}, or take the verified diff over by hand.", push.branch))
}

/// The server looked at the update and said no.
fn rejection(push: &Push, reason: &str, said: &str) -> Failure {
    let reason = plain(reason);
    let failure = Failure::new(Code::PushRejected, format!("The forge refused the branch {}: {reason}", push.branch));
    let failure = failure.detail(said);
    if format!("{reason} {said}").to_lowercase().contains("workflow") {
        return failure.next(
            "Grant the `workflows` permission to the app or the `workflow` scope to the token, or keep the change out of .github/workflows.",
        );
    }
    failure
}

/// What an error of libgit2 means to a person, for a push.
fn failure(error: &git2::Error, remote: &Remote, push: &Push, call: &Call) -> Failure {
    match call.refusal() {
        Some(Refusal::Status(403, text)) => {
            Failure::new(Code::PermissionDenied, format!("The credentials may not push to {}", remote.shown()))
                .next("Grant write access to the contents of the repository to the token or the app.")
                .detail(text)
        }
        None if remote.is_local() || error.class() == git2::ErrorClass::Reference => {
            rejection(push, error.message(), &call.said())
        }
        Some(_) | None => fetch::failure(error, remote, call),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trailer_in_the_last_paragraph_is_a_trailer() {
        assert!(has_trailer("Title\n\nText\n\nFixes: #1\nTask-Id: abc\n", "abc"));
        for other in ["Title\n\nTask-Id: abc\n\nMore text\n", "Title\n\nTask-Id: abcd\n", "Task-Id", ""] {
            assert!(!has_trailer(other, "abc"), "{other:?}");
        }
    }
}
