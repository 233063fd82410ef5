//! Checks that need a GPU: after all others passed, each kind of GPU in a fresh sandbox of its own, and the device is lent
//! for no longer than that.

use tasks::{CheckResult, Failure, GpuRequest, TreeSha};

use super::{Verification, in_fresh_sandbox};
use crate::{repo_config::Check, sandbox::SandboxSpec};

/// The name of the sandbox for such checks, beside the one for the others.
pub(crate) fn sandbox_name(verify: &str) -> String {
    format!("{verify}-gpu")
}

/// All checks, those without a GPU first. Results stand in the order of the configuration.
pub(super) async fn in_fresh_sandboxes(
    tree: &TreeSha,
    with: &Verification<'_>,
) -> Result<(Vec<CheckResult>, String), Failure> {
    let checks = &with.config.checks;
    let mut requests: Vec<&GpuRequest> = Vec::new();
    for request in checks.iter().filter_map(|check| check.gpu.as_ref()) {
        if !requests.contains(&request) {
            requests.push(request);
        }
    }
    let (mut results, mut environment) = (Vec::new(), String::new());
    if checks.iter().any(|check| check.gpu.is_none()) {
        (results, environment) = in_fresh_sandbox(tree, with, &with.spec, &|check| check.gpu.is_none()).await?;
    }
    for request in requests {
        // A GPU is not spent on a change that is held back anyway.
        if results.iter().any(CheckResult::blocks) {
            break;
        }
        let gpus = with.borrowed.for_checks(request, with.progress).await?;
        let spec = SandboxSpec { name: sandbox_name(&with.spec.name), gpus, ..with.spec.clone() };
        let wanted = |check: &Check| check.gpu.as_ref() == Some(request);
        let (more, place) = in_fresh_sandbox(tree, with, &spec, &wanted).await?;
        // The device goes to somebody else only when the box that could use it is gone.
        if !with.sandboxes.gone(&spec.name).await {
            return Err(Failure::internal("a sandbox with a GPU did not stop"));
        }
        with.borrowed.checks_are_over();
        results.extend(more);
        environment = if environment.is_empty() { place } else { environment };
    }
    let position = |result: &CheckResult| checks.iter().position(|check| check.name == result.name);
    // Setup has no position and stands before the checks.
    results.sort_by_key(position);
    Ok((results, environment))
}
