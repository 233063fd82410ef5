//! A pull request of ours that is to be changed further: where the work starts, and what becomes of it.
//!
//! The work starts from the pull request's own head, so that what people have committed there stays, and the commit that
//! comes of it lies on top: nothing is ever replaced. Configuration, policy and checks still come from the base branch.
//! A branch that is to be brought up to its base starts from the merge of the two; where they conflict, the agent sees the
//! usual marks and resolves them, and where they do not, only the checks have a say.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use git2::{Commit, Oid, Repository, Signature, build::TreeUpdateBuilder};
use tasks::{Code, CommitSha, Failure, PullRequest, Source, Task, Timestamp, Work};

use crate::{
    checkout::{Base, Mirror, commit_sha, oid},
    fence::Fence,
    forge::{Forge, PullRequestNow, Reply},
    patch::{Patch, PatchEntry},
    publish::{Identity, Via},
};

/// The lines that begin a conflict.
const MARK: &[u8] = b"<<<<<<< ";

/// A pull request as an attempt found it.
#[derive(Debug, Clone)]
pub struct Revision {
    /// It, with the head that the work starts from.
    pub pull_request: PullRequest,
    /// The commit of the base branch that is merged in.
    pub merges: Option<CommitSha>,
    /// Files that both sides changed, with marks in them.
    pub conflicts: Vec<Vec<u8>>,
}

/// How an attempt at a revision begins.
pub enum Start {
    /// From this commit.
    Work(Box<Revision>, Base),
    /// An earlier attempt of this task has published already.
    Published(PullRequest),
    /// The base branch has nothing that the pull request lacks.
    UpToDate,
}

impl Revision {
    /// What the forge says of the pull request that a task revises; `None` for a task that wants one of its own.
    ///
    /// # Errors
    /// E053 when it is closed, or its branch is not ours to push.
    pub async fn asked_for(forge: &dyn Forge, task: &Task) -> Result<Option<PullRequestNow>, Failure> {
        let Some(number) = task.request.revises else { return Ok(None) };
        let now = forge.pull_request_now(&task.request.repo, number).await?;
        let refused = |why: &str| Failure::new(Code::PullRequestRefused, format!("Pull request #{number} {why}"));
        if !now.is_open {
            return Err(refused("is not open any more").next("Open it again, or ask in a new issue."));
        }
        if !now.is_ours_to_push {
            return Err(refused("comes from a fork, which Onramp does not push to").next("Ask in an issue instead."));
        }
        Ok(Some(now))
    }

    /// Where the work starts. `base`: the base branch, as it is now.
    ///
    /// # Errors
    /// E004 when the branch of the pull request is gone.
    pub async fn start(
        mirror: &Mirror,
        now: PullRequestNow,
        base: &Base,
        task: &Task,
        identity: &Identity,
    ) -> Result<Start, Failure> {
        let (base, task_id, work) = (base.clone(), task.id.to_string(), task.request.work);
        let identity = identity.clone();
        let at = task.created_at;
        mirror
            .read(move |repo| {
                let branch = format!("refs/heads/{}", now.pull_request.branch);
                let head = repo.refname_to_id(&branch).map_err(|_| {
                    Failure::new(Code::BaseNotFound, format!("There is no branch {} any more", now.pull_request.branch))
                })?;
                let pull_request = PullRequest { head: commit_sha(head), ..now.pull_request };
                let found = repo.find_commit(head).map_err(Failure::internal)?;
                if is_of(&found, &task_id, &identity) {
                    return Ok(Start::Published(pull_request));
                }
                let (revision, commit) = match work {
                    Work::Change => (Self { pull_request, merges: None, conflicts: vec![] }, head),
                    Work::Rebase => {
                        let onto = oid(base.commit.as_str())?;
                        let has_all =
                            head == onto || repo.graph_descendant_of(head, onto).map_err(Failure::internal)?;
                        if has_all {
                            return Ok(Start::UpToDate);
                        }
                        let (merged, conflicts) = merge(repo, head, onto, at)?;
                        (Self { pull_request, merges: Some(base.commit), conflicts }, merged)
                    }
                };
                Ok(Start::Work(Box::new(revision), Base { branch: base.branch, commit: commit_sha(commit) }))
            })
            .await
    }

    /// What the commit of the revision follows.
    pub fn parents(&self) -> Vec<CommitSha> {
        [Some(self.pull_request.head.clone()), self.merges.clone()].into_iter().flatten().collect()
    }

    /// Whether the merge speaks for itself and no agent is needed.
    pub fn is_merged(&self) -> bool {
        self.merges.is_some() && self.conflicts.is_empty()
    }

    /// The files in conflict, for people and agents.
    pub fn conflict_names(&self) -> Vec<String> {
        self.conflicts.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    /// Refuses a patch that leaves a conflict in place.
    ///
    /// # Errors
    /// E021 with the files.
    pub fn is_resolved_by(&self, patch: &Patch) -> Result<(), Failure> {
        let is_resolved = |path: &[u8]| {
            patch.entries().iter().any(|entry| match entry {
                PatchEntry::Write(file) => {
                    file.path == path && !file.bytes.split(|byte| *byte == b'\n').any(|line| line.starts_with(MARK))
                }
                PatchEntry::Delete(gone) => gone == path,
            })
        };
        let left: Vec<_> = self.conflicts.iter().filter(|path| !is_resolved(path)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = left.iter().map(|path| format!("`{}`", String::from_utf8_lossy(path))).collect();
        let message = format!("The agent left conflicts with the base branch in {}", names.join(", "));
        Err(Failure::new(Code::AgentFailed, message).next("Resolve them by hand, or ask again."))
    }

    /// Answers each comment of the review that the task comes from with the commit that came of it.
    ///
    /// # Errors
    /// Those of the forge.
    pub async fn answer(forge: &dyn Forge, fence: &Fence, task: &Task, commit: &CommitSha) -> Result<(), Failure> {
        let Source::Review { pull_request, review } = task.request.source else { return Ok(()) };
        let repo = &task.request.repo;
        for comment in forge.line_comments(repo, pull_request, review).await? {
            let marker = format!("<!-- onramp:reply={}:{} -->", task.id, comment.id);
            let body = format!("{marker}\nChanged in {commit}.");
            let reply = Reply { repo, number: pull_request, to: comment.id, marker: &marker, body: &body };
            forge.reply(fence, reply).await?;
        }
        Ok(())
    }
}

/// Written by us for this task.
fn is_of(commit: &Commit<'_>, task: &str, identity: &Identity) -> bool {
    let message = String::from_utf8_lossy(commit.message_bytes()).into_owned();
    let is_committer = match identity.via {
        Via::Git => commit.committer().email_bytes() == identity.email.as_bytes(),
        // Then the forge is the committer; the trailer names a task that nobody knew of before it ran.
        Via::Api => true,
    };
    is_committer && crate::publish::has_trailer(&message, task)
}

/// A commit that merges `onto` into `head`, kept in the mirror alone, and the files in conflict, with marks in them.
fn merge(repo: &Repository, head: Oid, onto: Oid, at: Timestamp) -> Result<(Oid, Vec<Vec<u8>>), Failure> {
    let merged = || -> Result<(Oid, Vec<Vec<u8>>), git2::Error> {
        let (ours, theirs) = (repo.find_commit(head)?, repo.find_commit(onto)?);
        let mut index = repo.merge_commits(&ours, &theirs, None)?;
        let mut conflicts = Vec::new();
        let mut marked = TreeUpdateBuilder::new();
        if index.has_conflicts() {
            let found: Vec<_> = index.conflicts()?.collect::<Result<_, _>>()?;
            for conflict in found {
                let any = conflict.our.as_ref().or(conflict.their.as_ref()).or(conflict.ancestor.as_ref());
                let Some(path) = any.map(|entry| entry.path.clone()) else { continue };
                index.conflict_remove(Path::new(OsStr::from_bytes(&path)))?;
                let (content, mode) = match (&conflict.our, &conflict.their) {
                    (Some(our), Some(their)) => {
                        let nothing = git2::IndexEntry { id: repo.blob(b"")?, path: our.path.clone(), ..*our };
                        let ancestor = conflict.ancestor.as_ref().unwrap_or(&nothing);
                        let file = repo.merge_file_from_index(ancestor, our, their, None)?;
                        (file.content().to_vec(), our.mode)
                    }
                    // One side deleted what the other one changed: it is there, for the agent to decide.
                    (Some(kept), None) | (None, Some(kept)) => {
                        let blob = repo.find_blob(kept.id)?;
                        (
                            [
                                b"<<<<<<< the other side deleted this file; take this line off or delete it\n",
                                blob.content(),
                            ]
                            .concat(),
                            kept.mode,
                        )
                    }
                    (None, None) => continue,
                };
                let blob = repo.blob(&content)?;
                let mode = if mode & 0o111 != 0 { git2::FileMode::BlobExecutable } else { git2::FileMode::Blob };
                marked.upsert(path.clone(), blob, mode);
                conflicts.push(path);
            }
        }
        let clean = repo.find_tree(index.write_tree_to(repo)?)?;
        let tree = repo.find_tree(marked.create_updated(repo, &clean)?)?;
        let who = Signature::new("Onramp", "onramp@localhost", &git2::Time::new(at.timestamp(), 0))?;
        let commit = repo.commit(None, &who, &who, "Merge, to work on\n", &tree, &[&ours, &theirs])?;
        Ok((commit, conflicts))
    };
    merged().map_err(|error| Failure::internal("the base branch cannot be merged").detail(error.message().to_owned()))
}
