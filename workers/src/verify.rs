//! Stub: owned by the gates room. The repository's own checks, in a fresh sandbox.
use std::sync::Arc;

use tasks::{CheckResult, Failure};
use tokio_util::sync::CancellationToken;

use crate::{
    artifacts::Artifacts,
    checkout::Mirror,
    patch::PatchedTree,
    policy::AllowedPatch,
    progress::Progress,
    repo_config::RepoConfig,
    sandbox::{SandboxBackend, SandboxSpec},
};

/// Proof: the checks passed on exactly this tree.
#[derive(Debug, Clone)]
pub struct VerifiedPatch {
    allowed: AllowedPatch,
    checks: Vec<CheckResult>,
    environment: String,
}

impl VerifiedPatch {
    /// The patch as policy allowed it.
    pub fn allowed(&self) -> &AllowedPatch {
        &self.allowed
    }
    /// The patch and its tree.
    pub fn patched(&self) -> &PatchedTree {
        self.allowed.patched()
    }
    /// The results, in the order of the configuration.
    pub fn checks(&self) -> &[CheckResult] {
        &self.checks
    }
    /// Where the checks ran, for the evidence.
    pub fn environment(&self) -> &str {
        &self.environment
    }
}

/// What verification said.
#[derive(Debug)]
pub enum Verdict {
    /// Every required check passed.
    Passed(VerifiedPatch),
    /// A required check did not pass: the patch comes back for another round.
    Failed {
        /// The patch, still allowed.
        allowed: AllowedPatch,
        /// The results, in the order of the configuration.
        checks: Vec<CheckResult>,
        /// Where they ran.
        environment: String,
    },
}

/// What verification needs besides the patch.
pub struct Verification<'a> {
    /// Starts the fresh sandbox.
    pub backend: Arc<dyn SandboxBackend>,
    /// Its specification.
    pub spec: SandboxSpec,
    /// The repository's configuration on the base branch.
    pub config: &'a RepoConfig,
    /// The mirror that holds base and result.
    pub mirror: &'a Mirror,
    /// Outputs go here as `check-<n>.log`.
    pub artifacts: &'a Artifacts,
    /// Told of each check.
    pub progress: &'a Progress,
    /// Stops it.
    pub cancel: &'a CancellationToken,
}

/// Runs the checks on base + patch in a fresh sandbox, in order; a failed one does not keep the later ones from running.
///
/// # Errors
/// When no verdict could be reached: sandbox, setup, cancelled.
pub async fn verify(_allowed: AllowedPatch, _with: Verification<'_>) -> Result<Verdict, Failure> {
    todo!()
}
