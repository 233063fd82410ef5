//! The repository's own checks, in a sandbox that the agent never saw.
//!
//! The verdict is about one tree: all of its files are put into a fresh box, and whenever a command changed one of them
//! the tree's own bytes are put back before the next check, so that no check passes on something else than what would be
//! published. How a check ended comes from its exit, never from its output.

pub(crate) mod gpu;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tasks::{CheckOutcome, CheckResult, Code, Failure, Phase, RepoName, TreeSha};
use tokio_util::sync::CancellationToken;

use crate::{
    artifacts::Artifacts,
    base::Bases,
    checkout::Mirror,
    egress::{Egress, EgressPolicy, Tally, Ways},
    gpu::Borrowed,
    patch::PatchedTree,
    policy::AllowedPatch,
    progress::{Progress, ProgressEvent},
    repo_config::{Check, RepoConfig},
    run::sandbox_failure,
    sandbox::{Command, Exit, Output, Sandbox, SandboxError, SandboxSpec, pool::Sandboxes},
    text,
    workspace::{SETUP_TIMEOUT, Wish, Workspace, command},
};

/// How much of a check's output is kept as an artifact.
const LOG_BYTES: u64 = 8 << 20;
/// How much of it goes into the result.
const TAIL_LINES: usize = 40;
const TAIL_BYTES: usize = 8 << 10;

/// Proof: the checks passed on exactly this tree. Only [`verify`] makes one, and only [`crate::publish::publish`] takes one.
///
/// ```no_run
/// async fn publish(
///     verified: &workers::verify::VerifiedPatch,
///     mirror: &workers::checkout::Mirror,
///     forge: &dyn workers::forge::Forge,
///     with: workers::publish::Publication<'_>,
///     seal: &workers::publish::Seal<'_>,
/// ) {
///     let _ = workers::publish::publish(verified, mirror, forge, with, seal).await;
/// }
/// ```
///
/// Nobody can make one of a patch that no check ran on, nor publish one that is only allowed:
///
/// ```compile_fail
/// fn forge(allowed: workers::policy::AllowedPatch) -> workers::verify::VerifiedPatch {
///     workers::verify::VerifiedPatch { allowed, ..unreachable!() }
/// }
/// ```
///
/// ```compile_fail
/// async fn skip(
///     allowed: &workers::policy::AllowedPatch,
///     mirror: &workers::checkout::Mirror,
///     forge: &dyn workers::forge::Forge,
///     with: workers::publish::Publication<'_>,
///     seal: &workers::publish::Seal<'_>,
/// ) {
///     let _ = workers::publish::publish(allowed, mirror, forge, with, seal).await;
/// }
/// ```
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
    /// The fresh sandbox comes from here.
    pub sandboxes: &'a Arc<Sandboxes>,
    /// What it may start from; `None`: from the image, whatever bases there are.
    pub bases: Option<&'a Bases>,
    /// Whose checks they are.
    pub repo: &'a RepoName,
    /// Its specification.
    pub spec: SandboxSpec,
    /// The repository's configuration on the base branch.
    pub config: &'a RepoConfig,
    /// The mirror that holds base and result.
    pub mirror: &'a Mirror,
    /// Outputs go here as `check-<n>-<name>.log`.
    pub artifacts: &'a Artifacts,
    /// Told of each check.
    pub progress: &'a Progress,
    /// Where GPUs for checks are lent from.
    pub borrowed: &'a Borrowed,
    /// The operator's rules for what is reached outside, and where it is written down.
    pub egress: (&'a Arc<EgressPolicy>, &'a Arc<Tally>),
    /// Stops it.
    pub cancel: &'a CancellationToken,
}

/// Runs the checks on base + patch in a fresh sandbox, in order; a failed one does not keep the later ones from running.
///
/// Setup worked on the untouched base before the agent started, so where it fails here the patch broke it: that is a
/// verdict, with a failed check called `setup`, and not an error.
///
/// # Errors
/// When no verdict could be reached: E070 when cancelled, E015 when the sandbox was lost, and what starting one says.
pub async fn verify(allowed: AllowedPatch, with: Verification<'_>) -> Result<Verdict, Failure> {
    let tree = allowed.patched().tree();
    let (checks, environment) = tokio::select! {
        biased;
        () = with.cancel.cancelled() => Err(Failure::new(Code::Cancelled, "The task was stopped while its checks ran")),
        ended = gpu::in_fresh_sandboxes(tree, &with) => ended,
    }?;
    if checks.iter().any(CheckResult::blocks) {
        return Ok(Verdict::Failed { allowed, checks, environment });
    }
    Ok(Verdict::Passed(VerifiedPatch { allowed, checks, environment }))
}

/// Results and environment.
async fn in_fresh_sandbox(
    tree: &TreeSha,
    with: &Verification<'_>,
    spec: &SandboxSpec,
    wanted: &(dyn Fn(&Check) -> bool + Sync),
) -> Result<(Vec<CheckResult>, String), Failure> {
    let &Verification { sandboxes, bases, mirror, repo, config, .. } = with;
    let wish = Wish { sandboxes, bases, mirror, repo, tree, config, spec };
    let mut workspace = Workspace::begin(&wish).await?;
    let mut results = run_all(&workspace, with, wanted).await;
    if results.is_err() && !workspace.holds_its_tree() {
        workspace = workspace.again(&wish).await?;
        results = run_all(&workspace, with, wanted).await;
    }
    Ok((results?, workspace.environment()))
}

async fn run_all(
    workspace: &Workspace,
    with: &Verification<'_>,
    wanted: &(dyn Fn(&Check) -> bool + Sync),
) -> Result<Vec<CheckResult>, Failure> {
    let sandbox = workspace.sandbox();
    let (policy, tally) = with.egress;
    let network = &with.config.network;
    // Setup and checks reach the hosts that the repository names for them, and never a model.
    let egress = match network.is_empty() && !policy.has_registries(with.repo) {
        true => None,
        false => {
            let (models, policy, tally) = (Arc::default(), policy.clone(), tally.clone());
            let ways = Ways { models, policy, network, repo: with.repo, phase: Phase::Setup, tally };
            Some(Egress::open(sandbox, ways, with.cancel).await?)
        }
    };
    let inside = egress.as_ref().map(|egress| egress.inside().env()).unwrap_or_default();
    if !workspace.is_set_up() {
        for (at, line) in with.config.environment.setup.iter().enumerate() {
            let setup = Check {
                name: "setup".into(),
                command: line.clone(),
                timeout: SETUP_TIMEOUT,
                required: true,
                gpu: None,
            };
            let result = run_check(sandbox, &setup, &format!("setup-{}.log", at + 1), &inside, with).await?;
            if result.blocks() {
                with.progress.tell(ProgressEvent::Check(result.clone()));
                return Ok(vec![result]);
            }
            with.progress.step(format!("setup: {line}"));
        }
        workspace.is_ready(with.config, with.progress).await?;
    }
    if let Some(egress) = &egress {
        egress.enter(Phase::Checks)?;
    }
    let mut results = Vec::new();
    for (at, check) in with.config.checks.iter().enumerate().filter(|(_, check)| wanted(check)) {
        let log = format!("check-{}-{}.log", at + 1, file_name(&check.name));
        let result = run_check(sandbox, check, &log, &inside, with).await?;
        with.progress.tell(ProgressEvent::Check(result.clone()));
        results.push(result);
        workspace.restore(&format!("the check `{}`", check.name), with.progress).await?;
    }
    Ok(results)
}

async fn run_check(
    sandbox: &Sandbox,
    check: &Check,
    log: &str,
    inside: &BTreeMap<String, String>,
    with: &Verification<'_>,
) -> Result<CheckResult, Failure> {
    let mut log = with.artifacts.log(log, LOG_BYTES).map_err(Failure::internal)?;
    let mut tail = text::Tail::default();
    let command = Command { timeout: check.timeout, ..command(with.config, inside, &check.command) };
    let mut on_output = |piece: Output<'_>| {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece;
        log.push(bytes);
        tail.push(piece);
    };
    let exit = sandbox.run(&command, &mut on_output).await.map_err(|error| lost_during(&check.name, error))?;
    Ok(CheckResult {
        name: check.name.clone(),
        command: check.command.clone(),
        required: check.required,
        outcome: outcome(&exit, check.timeout),
        limits: exit.limits.clone(),
        flaky: false,
        already_failing: false,
        changed: Vec::new(),
        tests: None,
        duration_ms: u64::try_from(exit.wall.as_millis()).unwrap_or(u64::MAX),
        output_tail: last_bytes(&tail.lines(TAIL_LINES), TAIL_BYTES).to_owned(),
    })
}

fn lost_during(check: &str, error: SandboxError) -> Failure {
    match error {
        SandboxError::Lost(reason) => {
            Failure::new(Code::SandboxLost, format!("The sandbox was lost during the check `{check}`: {reason}"))
        }
        error => sandbox_failure(error),
    }
}

fn outcome(exit: &Exit, limit: Duration) -> CheckOutcome {
    match (exit.timed_out, exit.code, exit.signal) {
        (true, ..) => CheckOutcome::TimedOut { limit_s: limit.as_secs() },
        (_, Some(0), _) => CheckOutcome::Passed,
        (_, Some(exit_code), _) => CheckOutcome::Failed { exit_code },
        (_, None, signal) => CheckOutcome::Killed { signal: signal.unwrap_or(0) },
    }
}

/// The name of a check as part of a file name.
fn file_name(check: &str) -> String {
    check.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' }).take(60).collect()
}

fn last_bytes(text: &str, n: usize) -> &str {
    let from = text.ceil_char_boundary(text.len().saturating_sub(n));
    &text[from..]
}

#[cfg(test)]
mod gpu_tests;
#[cfg(test)]
mod tests;
