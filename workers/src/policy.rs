//! Stub: owned by the gates room. What a patch may touch.
use tasks::Violation;

use crate::{patch::PatchedTree, repo_config::Policy};

/// Proof: policy looked at this patch and allows it.
#[derive(Debug, Clone)]
pub struct AllowedPatch {
    patched: PatchedTree,
}

impl AllowedPatch {
    /// The patch.
    pub fn patched(&self) -> &PatchedTree {
        &self.patched
    }
}

/// Judges a patch by the base branch's policy. Pure.
///
/// # Errors
/// Every violation, not only the first.
pub fn check(_patched: PatchedTree, _policy: &Policy) -> Result<AllowedPatch, Vec<Violation>> {
    todo!()
}
