//! Stub: owned by the git room. A verified patch becomes a commit, a branch and a pull request.
use tasks::{CommitSha, Evidence, Failure, PullRequest, Task, Timestamp};

use crate::{
    checkout::{Base, Mirror},
    forge::Forge,
    repo_config::PullRequestOptions,
    verify::VerifiedPatch,
};

/// Who commits.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name.
    pub name: String,
    /// Address.
    pub email: String,
}

/// What publishing needs besides the proof.
pub struct Publication<'a> {
    /// The task; its branch and id are the idempotency keys.
    pub task: &'a Task,
    /// Where it starts.
    pub base: &'a Base,
    /// The record that goes into the pull request.
    pub evidence: &'a Evidence,
    /// What the agent said about the change, if anything.
    pub summary: Option<&'a str>,
    /// Options of the repository.
    pub options: &'a PullRequestOptions,
    /// Author and committer.
    pub identity: &'a Identity,
    /// The commit's time.
    pub now: Timestamp,
}

/// Commits the verified tree on its base with the trailer `Task-Id`, pushes the task's branch, finds or opens the pull
/// request. Safe to repeat: the branch is deterministic, a commit of ours with the same tree is reused, and a foreign
/// commit on the branch is never overwritten.
///
/// # Errors
/// E050 to E054 with the forge's reason.
pub async fn publish(
    _verified: &VerifiedPatch,
    _mirror: &Mirror,
    _forge: &dyn Forge,
    _with: Publication<'_>,
) -> Result<(PullRequest, CommitSha), Failure> {
    todo!()
}
