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
use crate::{
    checkout::{
        Remote, commit_sha,
        fetch::{self, callbacks},
        oid,
        transport::{Call, Refusal, plain},
    },
    fence::Fence,
};

/// One push may take so long.
pub(super) const PUSH_TIMEOUT: Duration = Duration::from_secs(300);
/// The trailer that tells our own commits.
const TRAILER: &str = "Task-Id: ";

/// What is to be on the branch.
#[derive(Debug, Clone)]
pub(super) struct Push {
    pub(super) branch: BranchName,
    /// What the commit follows.
    pub(super) parents: Vec<CommitSha>,
    /// What has to be on the branch before, where it is a pull request that gets one commit more.
    pub(super) follows: Option<CommitSha>,
    pub(super) tree: TreeSha,
    /// With or without the trailer.
    pub(super) message: String,
    /// The task's id.
    pub(super) task: String,
    /// What the name of each of its branches ends in.
    pub(super) short_id: String,
    pub(super) identity: Identity,
    pub(super) now: Timestamp,
}

/// Makes sure that the branch holds the tree on its base, in a commit of this task. Key: the task's id, in the commit and at
/// the end of the branch's name; so a branch of this task is found even when branches were named otherwise in between.
pub(super) fn push(
    repo: &Repository,
    remote: &Remote,
    push: &Push,
    fence: &Fence,
    call: &Arc<Call>,
) -> Result<(BranchName, CommitSha), Failure> {
    let mut sent = None;
    let mut push = push.clone();
    match call.enter(|| attempt(repo, remote, &mut push, fence, call, &mut sent)) {
        Ok(commit) => Ok((push.branch, commit_sha(commit))),
        Err(failure) => {
            // The answer may be what was lost, and not the push.
            let again = Call::new(call.token(), PUSH_TIMEOUT);
            let now_there = again.enter(|| branch_head(repo, remote, &push.branch, &again));
            match (sent, now_there) {
                (Some(sent), Ok(Some(there))) if sent == there => Ok((push.branch, commit_sha(sent))),
                (Some(_) | None, Ok(_) | Err(_)) => Err(failure),
            }
        }
    }
}

fn attempt(
    repo: &Repository,
    remote: &Remote,
    push: &mut Push,
    fence: &Fence,
    call: &Arc<Call>,
    sent: &mut Option<Oid>,
) -> Result<Oid, Failure> {
    let early = |error: git2::Error, push: &Push| failure(&error, remote, push, call);
    let mut handle = repo.remote_anonymous(&remote.url).map_err(|error| early(error, push))?;
    let connected = handle.connect_auth(Direction::Push, Some(callbacks(call)), None);
    let mut connection = connected.map_err(|error| early(error, push))?;
    let heads = connection.list().map_err(|error| early(error, push))?;
    if let Some(branch) = earlier_branch(repo, remote, push, heads, call) {
        push.branch = branch;
    }
    let push = &*push;
    let failed = |error: git2::Error| failure(&error, remote, push, call);
    let target = format!("refs/heads/{}", push.branch);
    let there = heads.iter().find(|head| head.name() == target).map(git2::RemoteHead::oid);
    let force = match there {
        None if push.follows.is_some() => return Err(foreign(push)),
        None => "",
        Some(there) if push.follows.as_ref().is_some_and(|before| before.as_str() == there.to_string()) => "",
        Some(there) => match own_commit(repo, remote, push, there, call)? {
            Own::Same => return Ok(there),
            // Nothing on a pull request is ever replaced.
            Own::Earlier if push.follows.is_some() => return Err(foreign(push)),
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
    // The update names the commit that was listed, so it is refused if another worker was faster than this look.
    fence.confirm_blocking()?;
    *sent = Some(commit);
    connection.remote().push(&[format!("{force}{source}:{target}")], Some(&mut options)).map_err(failed)?;
    let rejected = rejected.lock().unwrap_or_else(PoisonError::into_inner).take();
    match rejected {
        None => Ok(commit),
        Some(reason) => Err(rejection(push, &reason, &call.said())),
    }
}

/// The branch of this task, where an earlier attempt named it otherwise.
fn earlier_branch(
    repo: &Repository,
    remote: &Remote,
    push: &Push,
    heads: &[git2::RemoteHead<'_>],
    call: &Arc<Call>,
) -> Option<BranchName> {
    let branch_of = |head: &git2::RemoteHead<'_>| head.name().strip_prefix("refs/heads/").map(str::to_owned);
    let is_there = heads.iter().any(|head| branch_of(head).as_deref() == Some(push.branch.as_str()));
    if is_there || push.follows.is_some() {
        return None;
    }
    let candidates = heads.iter().filter_map(|head| Some((branch_of(head)?, head.oid())));
    candidates.filter(|(name, _)| name.ends_with(&push.short_id)).find_map(|(name, there)| {
        let branch: BranchName = name.parse().ok()?;
        let as_named = Push { branch: branch.clone(), ..push.clone() };
        own_commit(repo, remote, &as_named, there, call).is_ok().then_some(branch)
    })
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
    let same_base =
        found.parent_ids().map(|id| id.to_string()).eq(push.parents.iter().map(|id| id.as_str().to_owned()));
    Ok(if same_tree && same_base { Own::Same } else { Own::Earlier })
}

/// Written by us for this task, and by nobody else since: an amended commit keeps its trailer but not its committer.
fn is_ours(commit: &Commit<'_>, push: &Push) -> bool {
    let us = |who: Signature<'_>| who.email_bytes() == push.identity.email.as_bytes();
    has_trailer(&String::from_utf8_lossy(commit.message_bytes()), &push.task)
        && us(commit.author())
        && us(commit.committer())
        && commit.parent_count() == push.parents.len()
}

pub(crate) fn has_trailer(message: &str, task: &str) -> bool {
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
    let tree = oid(push.tree.as_str())?;
    let parents = push.parents.iter().map(|parent| oid(parent.as_str())).collect::<Result<Vec<_>, _>>()?;
    let content = || -> Result<String, git2::Error> {
        let parents = parents.iter().map(|parent| repo.find_commit(*parent)).collect::<Result<Vec<_>, _>>()?;
        let (tree, parents) = (repo.find_tree(tree)?, parents.iter().collect::<Vec<_>>());
        let content = repo.commit_create_buffer(&who, &who, &message, &tree, &parents)?;
        Ok(String::from_utf8_lossy(&content).into_owned())
    };
    let content = content().map_err(Failure::internal)?;
    let written = match &push.identity.signer {
        Some(signer) => repo.commit_signed(&content, &signer.sign(content.as_bytes())?, None),
        None => repo.odb().and_then(|odb| odb.write(git2::ObjectType::Commit, content.as_bytes())),
    };
    written.map_err(Failure::internal)
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
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{super::Via, *};
    use crate::{
        checkout::{
            Mirror,
            fixture::{HttpGit, Manners, Scratch, git},
        },
        patch::{Patch, PatchEntry},
        sandbox::{FileKind, TreeFile},
    };

    /// A forge with one bare repository, and a mirror of it with a change.
    struct Road {
        scratch: Scratch,
        remote: Remote,
        mirror: Mirror,
        push: Push,
    }

    impl Road {
        async fn new(manners: Option<Manners>) -> Self {
            let scratch = Scratch::with(&[("a.txt", "1")]);
            git(scratch.dir.path(), &["clone", "-q", "--bare", "work", "web.git"]);
            git(&scratch.dir.path().join("web.git"), &["config", "http.receivepack", "true"]);
            let remote = match manners {
                Some(manners) => HttpGit::serve(scratch.dir.path(), manners).remote("web.git", Some("t0ken")),
                None => Remote { url: scratch.dir.path().join("web.git").to_str().unwrap().into(), token: None },
            };
            let root = scratch.dir.path().join("mirrors");
            let (mirror, base) = Mirror::checkout(&root, &"acme/web".parse().unwrap(), &remote, None).await.unwrap();
            let push = Push {
                branch: "onramp/1-fix-a1b2c3d4".parse().unwrap(),
                parents: vec![base.commit],
                follows: None,
                tree: "0".repeat(40).parse().unwrap(),
                message: "Fix it\n\nFixes: #1\n".into(),
                task: "0190a0b0c0d0700080009000a1b2c3d4".into(),
                short_id: "a1b2c3d4".into(),
                identity: Identity {
                    name: "Onramp".into(),
                    email: "onramp@example.org".into(),
                    signer: None,
                    via: Via::Git,
                },
                now: Timestamp::from_timestamp(1_790_000_000, 0).unwrap(),
            };
            let mut road = Self { scratch, remote, mirror, push };
            road.want(b"2").await;
            road
        }

        /// Wants this content of the one file on the branch.
        async fn want(&mut self, bytes: &[u8]) {
            let file = TreeFile { path: b"a.txt".to_vec(), kind: FileKind::Regular, bytes: bytes.to_vec() };
            let patch = Patch::new(self.push.parents[0].clone(), vec![PatchEntry::Write(file)]).unwrap();
            self.push.tree = patch.onto(&self.mirror).await.unwrap().tree().clone();
        }

        async fn push(&self) -> Result<CommitSha, Failure> {
            self.push_behind(Fence::open()).await
        }

        async fn push_behind(&self, fence: Fence) -> Result<CommitSha, Failure> {
            let (remote, wanted) = (self.remote.clone(), self.push.clone());
            let call = Call::new(remote.token.clone(), PUSH_TIMEOUT);
            self.mirror.read(move |repo| push(repo, &remote, &wanted, &fence, &call)).await.map(|(_, commit)| commit)
        }

        fn at_forge(&self, args: &[&str]) -> String {
            git(&self.scratch.dir.path().join("web.git"), args)
        }

        fn head(&self) -> String {
            self.at_forge(&["rev-parse", self.push.branch.as_str()])
        }

        /// Somebody else puts a commit onto the branch.
        fn interfere(&self, args: &[&str]) {
            let clone = self.scratch.dir.path().join("theirs");
            git(self.scratch.dir.path(), &["clone", "-q", "-b", self.push.branch.as_str(), "web.git", "theirs"]);
            git(&clone, args);
            git(&clone, &["push", "-q", "-f", "origin", "HEAD"]);
        }

        fn hook(&self, name: &str, script: &str) {
            let path = self.scratch.dir.path().join("web.git/hooks").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn with_token() -> Option<Manners> {
        Some(Manners { token: Some("t0ken"), ..Manners::default() })
    }

    #[tokio::test]
    async fn the_pushed_commit_is_the_tree_on_its_base_by_us() {
        for manners in [None, with_token()] {
            let road = Road::new(manners).await;
            let commit = road.push().await.unwrap();
            assert_eq!(road.head(), commit.as_str());
            let text = road.at_forge(&["cat-file", "commit", commit.as_str()]);
            let (tree, base) = (&road.push.tree, &road.push.parents[0]);
            let who = "Onramp <onramp@example.org> 1790000000 +0000";
            assert_eq!(
                text,
                format!(
                    "tree {tree}\nparent {base}\nauthor {who}\ncommitter {who}\n\nFix it\n\nFixes: #1\n\nTask-Id: {}",
                    road.push.task
                )
            );
            assert_eq!(road.at_forge(&["fsck", "--full", "--strict"]), "");
        }
    }

    #[tokio::test]
    async fn a_push_may_be_repeated_and_replaces_only_what_an_earlier_attempt_left() {
        for manners in [None, with_token()] {
            let mut road = Road::new(manners).await;
            let first = road.push().await.unwrap();
            road.push.now += chrono::Duration::hours(1);
            assert_eq!(road.push().await.unwrap(), first, "no second commit for the same tree");
            // Another worker, whose mirror has never seen the commit.
            fs::remove_dir_all(road.mirror.path()).unwrap();
            let root = road.scratch.dir.path().join("mirrors");
            Mirror::checkout(&root, &"acme/web".parse().unwrap(), &road.remote, None).await.unwrap();
            road.want(b"3").await;
            let second = road.push().await.unwrap();
            assert_ne!(second, first);
            assert_eq!(road.head(), second.as_str());
            assert_eq!(road.at_forge(&["rev-parse", &format!("{second}^")]), road.push.parents[0].as_str());
        }
    }

    #[tokio::test]
    async fn a_branch_of_the_task_is_found_again_however_branches_are_named_by_now() {
        let mut road = Road::new(with_token()).await;
        let first = road.push().await.unwrap();
        let named = std::mem::replace(&mut road.push.branch, "bot/fix-a1b2c3d4".parse().unwrap());
        assert_eq!(road.push().await.unwrap(), first);
        assert_eq!(road.at_forge(&["branch", "--list", "*a1b2c3d4"]).trim(), named.as_str());
        // What only looks like it is left alone.
        road.push.task = "0190a0b0c0d0700080009000b1b2c3d4".into();
        assert_ne!(road.push().await.unwrap(), first);
        assert_eq!(road.head(), road.at_forge(&["rev-parse", "bot/fix-a1b2c3d4"]));
    }

    #[tokio::test]
    async fn a_signed_commit_is_verified_by_git_itself_and_only_under_the_right_key() {
        let mut road = Road::new(with_token()).await;
        let keys = tempfile::tempdir().unwrap();
        let key = super::super::sign::tests::fresh_key(keys.path(), &["-t", "ed25519", "-N", ""]);
        let signer = super::super::CommitSigner::new(&key.clone().into()).unwrap();
        let allowed = keys.path().join("allowed");
        fs::write(&allowed, format!("onramp@example.org {}\n", signer.public_key().unwrap())).unwrap();
        road.push.identity.signer = Some(signer);
        let commit = road.push().await.unwrap();
        let verify = |allowed: &std::path::Path| {
            let file = format!("gpg.ssh.allowedSignersFile={}", allowed.display());
            let args = ["-c", "gpg.format=ssh", "-c", &file, "verify-commit", commit.as_str()];
            crate::checkout::fixture::try_git(&road.scratch.dir.path().join("web.git"), &args, b"")
        };
        let (code, _, said) = verify(&allowed);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("Good \"git\" signature for onramp@example.org with ED25519 key"), "{said}");
        let text = road.at_forge(&["cat-file", "commit", commit.as_str()]);
        assert!(text.contains("\ngpgsig -----BEGIN SSH SIGNATURE-----\n "), "{text}");
        assert_eq!(road.at_forge(&["fsck", "--full", "--strict"]), "");
        // Somebody else's key is no such proof.
        let other = super::super::sign::tests::fresh_key(keys.path(), &["-t", "ed25519", "-N", ""]);
        let other = super::super::CommitSigner::new(&other.into()).unwrap().public_key().unwrap();
        fs::write(&allowed, format!("onramp@example.org {other}\n")).unwrap();
        assert_ne!(verify(&allowed).0, Some(0));
        // Nothing of the key came into the mirror.
        let line = key.lines().nth(2).unwrap();
        let found = std::process::Command::new("grep").args(["-r", line]).arg(road.mirror.path()).output().unwrap();
        assert!(found.stdout.is_empty());
        // Signed anew it would be another commit; the same tree stays what it is.
        road.push.now += chrono::Duration::hours(1);
        assert_eq!(road.push().await.unwrap(), commit);
    }

    #[tokio::test]
    async fn nothing_is_pushed_without_the_lease() {
        let road = Road::new(with_token()).await;
        let failure = road.push_behind(crate::fence::tests::lost_lease()).await.unwrap_err();
        assert_eq!(failure.code, Code::WorkerLost);
        assert!(road.at_forge(&["branch", "--list", "onramp/*"]).is_empty());
    }

    #[tokio::test]
    async fn a_commit_of_somebody_else_is_never_overwritten() {
        for args in [
            &["commit", "-q", "--allow-empty", "-m", "Mine"][..],
            &["commit", "-q", "--amend", "--no-edit", "--allow-empty"],
            &["commit", "-q", "--allow-empty", "-m", "Copied\n\nTask-Id: 0190a0b0c0d0700080009000a1b2c3d4"],
        ] {
            for manners in [None, with_token()] {
                let mut road = Road::new(manners).await;
                road.push().await.unwrap();
                road.interfere(args);
                let theirs = road.head();
                road.want(b"3").await;
                let failure = road.push().await.unwrap_err();
                assert_eq!(failure.code.as_str(), "E052");
                assert!(failure.message.contains("somebody else"), "{}", failure.message);
                assert_eq!(road.head(), theirs);
            }
        }
    }

    #[tokio::test]
    async fn somebody_who_is_faster_between_look_and_push_is_not_overwritten() {
        let mut road = Road::new(with_token()).await;
        let first = road.push().await.unwrap();
        road.want(b"3").await;
        // The hook runs inside of our push, before the update is made: the branch is not where it was looked at any more.
        let branch = format!("refs/heads/{}", road.push.branch);
        road.hook(
            "pre-receive",
            &format!("unset GIT_QUARANTINE_PATH; git update-ref {branch} {}", road.push.parents[0]),
        );
        let failure = road.push().await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E052", "{failure:?}");
        assert_eq!(road.head(), road.push.parents[0].as_str());
        assert_ne!(road.head(), first.as_str());
    }

    #[tokio::test]
    async fn an_answer_that_gets_lost_is_no_failure() {
        let road = Road::new(Some(Manners { loses_push_answers: true, ..with_token().unwrap() })).await;
        let commit = road.push().await.unwrap();
        assert_eq!(road.head(), commit.as_str());
    }

    #[tokio::test]
    async fn the_reason_of_a_refused_push_is_told() {
        let road = Road::new(with_token()).await;
        let words = "refusing to allow a GitHub App to create or update workflow `.github/workflows/ci.yml` without `workflows` permission";
        road.hook("pre-receive", &format!("echo '{words}' >&2; exit 1"));
        let failure = road.push().await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E052");
        assert_eq!(failure.message, "The forge refused the branch onramp/1-fix-a1b2c3d4: pre-receive hook declined");
        assert_eq!(failure.detail.as_deref(), Some(words));
        assert!(failure.next_step.starts_with("Grant the `workflows` permission"), "{}", failure.next_step);
        assert!(road.at_forge(&["branch", "--list", "onramp/*"]).is_empty());
    }

    #[tokio::test]
    async fn credentials_that_may_only_read_are_told_apart() {
        let mut road = Road::new(with_token()).await;
        road.at_forge(&["config", "http.receivepack", "false"]);
        let failure = road.push().await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E051", "{failure:?}");
        road.remote.token = Some("0ther".into());
        assert_eq!(road.push().await.unwrap_err().code.as_str(), "E050");
        road.remote = road.scratch.remote();
        assert_eq!(
            road.push().await.unwrap_err().code.as_str(),
            "E052",
            "a checkout with a work tree is not pushed to"
        );
    }

    #[tokio::test]
    async fn a_large_change_is_sent_from_a_file() {
        let mut road = Road::new(with_token()).await;
        let mut noise = 1_u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 33) as u8
        })
        .take(6 << 20)
        .collect();
        road.want(&bytes).await;
        let commit = road.push().await.unwrap();
        assert_eq!(road.at_forge(&["cat-file", "-s", &format!("{commit}:a.txt")]), (6 << 20).to_string());
    }

    #[test]
    fn only_a_trailer_in_the_last_paragraph_is_a_trailer() {
        assert!(has_trailer("Title\n\nText\n\nFixes: #1\nTask-Id: abc\n", "abc"));
        for other in ["Title\n\nTask-Id: abc\n\nMore text\n", "Title\n\nTask-Id: abcd\n", "Task-Id", ""] {
            assert!(!has_trailer(other, "abc"), "{other:?}");
        }
    }
}
