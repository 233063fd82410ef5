//! Branches that have done their work.

use serde::Deserialize;
use tasks::{BranchName, Code, CommitSha, Failure};

use super::{Reach, errors::Trouble, pulls::encoded};

/// Deletes a branch that is where we left it; one that somebody pushed to, or that is gone, is left alone. Returns whether
/// it was deleted. Key: the commit. (GitHub knows no deletion "if it is still there", so a push within the same second is
/// lost; its commit stays reachable by its id.)
pub(super) async fn delete(at: &Reach, branch: &BranchName, tip: &CommitSha) -> Result<bool, Failure> {
    #[derive(Deserialize)]
    struct Reference {
        object: Object,
    }
    #[derive(Deserialize)]
    struct Object {
        sha: CommitSha,
    }
    let repo = &at.repository.full_name;
    let failure = |trouble: Trouble| trouble.failure(&format!("delete the branch {branch}"), Code::PermissionDenied);
    let name = branch.as_str().split('/').map(encoded).collect::<Vec<_>>().join("/");
    match at.api.get::<Reference>(&format!("/repos/{repo}/git/ref/heads/{name}")).await {
        Ok(answer) if answer.value.object.sha == *tip => {}
        Ok(_) => return Ok(false),
        Err(trouble) if trouble.is_missing() => return Ok(false),
        Err(trouble) => return Err(failure(trouble)),
    }
    match at.api.delete(&format!("/repos/{repo}/git/refs/heads/{name}")).await {
        Ok(()) => Ok(true),
        // It went while we looked.
        Err(Trouble::Refused(refusal)) if refusal.status == 422 => Ok(false),
        Err(trouble) => Err(failure(trouble)),
    }
}
