//! The repository's own checks, in a sandbox that the agent never saw.
//!
//! The verdict is about one tree: all of its files are put into a fresh box, and whenever a command changed one of them
//! the tree's own bytes are put back before the next check, so that no check passes on something else than what would be
//! published. How a check ended comes from its exit, never from its output.

pub(crate) mod gpu;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tasks::{CheckOutcome, CheckResult, Code, Failure};
use tokio_util::sync::CancellationToken;

use crate::{
    artifacts::Artifacts,
    checkout::Mirror,
    egress::Egress,
    gpu::Borrowed,
    patch::PatchedTree,
    policy::AllowedPatch,
    progress::{Progress, ProgressEvent},
    repo_config::{Check, RepoConfig},
    run::sandbox_failure,
    sandbox::{Command, Exit, Found, Output, Sandbox, SandboxBackend, SandboxError, SandboxSpec, TreeFile},
    text,
};

/// The longest that one setup command may take.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The longest that ending a sandbox may take before it is left to the sweep.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a check's output is kept as an artifact.
const LOG_BYTES: u64 = 8 << 20;
/// How much of it goes into the result.
const TAIL_LINES: usize = 40;
const TAIL_BYTES: usize = 8 << 10;
/// How many bytes are read back to see whether a touched file really changed.
const COMPARE_BYTES: u64 = 64 << 20;

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
    /// Outputs go here as `check-<n>-<name>.log`.
    pub artifacts: &'a Artifacts,
    /// Told of each check.
    pub progress: &'a Progress,
    /// Where GPUs for checks are lent from.
    pub borrowed: &'a Borrowed,
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
    let files = with.mirror.tree_files(allowed.patched().tree()).await?;
    let ended = tokio::select! {
        biased;
        () = with.cancel.cancelled() => Err(Failure::new(Code::Cancelled, "The task was stopped while its checks ran")),
        ended = gpu::in_fresh_sandboxes(&files, &with) => ended,
    };
    // By name, because a start that was interrupted leaves no handle; repeating it is safe.
    match tokio::time::timeout(STOP_TIMEOUT, with.backend.stop(&with.spec.name)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(sandbox.name = with.spec.name, %error, "a sandbox is left to the sweep"),
        Err(_) => tracing::warn!(sandbox.name = with.spec.name, "a sandbox did not stop and is left to the sweep"),
    }
    let (checks, environment) = ended?;
    if checks.iter().any(CheckResult::blocks) {
        return Ok(Verdict::Failed { allowed, checks, environment });
    }
    Ok(Verdict::Passed(VerifiedPatch { allowed, checks, environment }))
}

/// Results and environment.
async fn in_fresh_sandbox(
    files: &[TreeFile],
    with: &Verification<'_>,
    spec: &SandboxSpec,
    wanted: &(dyn Fn(&Check) -> bool + Sync),
) -> Result<(Vec<CheckResult>, String), Failure> {
    let sandbox = Sandbox::start(with.backend.clone(), spec).await.map_err(sandbox_failure)?;
    let environment = sandbox.environment().to_owned();
    let results = run_all(&sandbox, files, with, wanted).await;
    match tokio::time::timeout(STOP_TIMEOUT, sandbox.stop()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(sandbox.name = with.spec.name, %error, "a sandbox did not stop cleanly"),
        Err(_) => tracing::warn!(sandbox.name = with.spec.name, "a sandbox did not stop in time"),
    }
    Ok((results?, environment))
}

async fn run_all(
    sandbox: &Sandbox,
    files: &[TreeFile],
    with: &Verification<'_>,
    wanted: &(dyn Fn(&Check) -> bool + Sync),
) -> Result<Vec<CheckResult>, Failure> {
    sandbox.put(files.to_vec()).await.map_err(sandbox_failure)?;
    let hosts = &with.config.network.allow;
    let egress = match hosts.is_empty() {
        true => None,
        // Checks reach the hosts that the repository names, and never a model.
        false => Some(Egress::open(sandbox, Arc::default(), hosts, with.cancel).await?),
    };
    let mut env = BTreeMap::from([("CI".to_owned(), "true".to_owned())]);
    env.extend(egress.as_ref().map(|egress| egress.inside().env()).unwrap_or_default());
    env.extend(with.config.environment.env.clone());

    for (at, line) in with.config.environment.setup.iter().enumerate() {
        let setup =
            Check { name: "setup".into(), command: line.clone(), timeout: SETUP_TIMEOUT, required: true, gpu: None };
        let result = run_check(sandbox, &setup, &format!("setup-{}.log", at + 1), &env, with).await?;
        if result.blocks() {
            with.progress.tell(ProgressEvent::Check(result.clone()));
            return Ok(vec![result]);
        }
        with.progress.step(format!("setup: {line}"));
    }
    sandbox.mark().await.map_err(sandbox_failure)?;
    let tree: HashMap<&[u8], &TreeFile> = files.iter().map(|file| (file.path.as_slice(), file)).collect();
    let mut results = Vec::new();
    for (at, check) in with.config.checks.iter().enumerate().filter(|(_, check)| wanted(check)) {
        let log = format!("check-{}-{}.log", at + 1, file_name(&check.name));
        let result = run_check(sandbox, check, &log, &env, with).await?;
        with.progress.tell(ProgressEvent::Check(result.clone()));
        results.push(result);
        restore(sandbox, &tree, &check.name, with.progress).await.map_err(sandbox_failure)?;
    }
    let blocked = egress.as_ref().map(Egress::blocked_hosts).unwrap_or_default();
    if !blocked.is_empty() {
        let hosts = blocked.join(", ");
        with.progress.tell(ProgressEvent::Warning(format!("the checks asked for hosts that are not allowed: {hosts}")));
    }
    Ok(results)
}

async fn run_check(
    sandbox: &Sandbox,
    check: &Check,
    log: &str,
    env: &BTreeMap<String, String>,
    with: &Verification<'_>,
) -> Result<CheckResult, Failure> {
    let mut log = with.artifacts.log(log, LOG_BYTES).map_err(Failure::internal)?;
    let mut tail = text::Tail::default();
    let mut command = Command::shell(&check.command, check.timeout);
    command.env.extend(env.clone());
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

/// Puts the tree's own bytes back wherever a check changed a file of the tree, and tells it.
async fn restore(
    sandbox: &Sandbox,
    tree: &HashMap<&[u8], &TreeFile>,
    check: &str,
    progress: &Progress,
) -> Result<(), SandboxError> {
    let changes = match sandbox.changes().await {
        Ok(changes) => changes,
        Err(SandboxError::TooMuch { .. }) => {
            // Too many to look at one by one: everything is put back.
            sandbox.put(tree.values().map(|file| (*file).clone()).collect()).await?;
            return sandbox.mark().await;
        }
        Err(error) => return Err(error),
    };
    let mut touched = Vec::new();
    let mut changed: Vec<&TreeFile> = Vec::new();
    for change in &changes {
        // A tracked file whose parent became something else is listed by that parent, or as gone.
        let Some(file) = tree.get(change.path.as_slice()) else { continue };
        match change.now {
            Found::File(kind, size) if kind == file.kind && size == file.bytes.len() as u64 => touched.push(*file),
            Found::File(..) | Found::Nothing | Found::Special | Found::NestedRepository => changed.push(file),
        }
    }
    if !touched.is_empty() {
        match sandbox.get(touched.iter().map(|file| file.path.clone()).collect(), COMPARE_BYTES).await {
            Ok(now) => changed.extend(touched.into_iter().filter(|file| !now.contains(file))),
            Err(SandboxError::TooMuch { .. } | SandboxError::Refused { .. }) => changed.append(&mut touched),
            Err(error) => return Err(error),
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let mut names: Vec<String> =
        changed.iter().take(3).map(|file| format!("`{}`", String::from_utf8_lossy(&file.path))).collect();
    if changed.len() > names.len() {
        names.push(format!("{} more", changed.len() - names.len()));
    }
    let names = names.join(", ");
    progress.tell(ProgressEvent::Warning(format!("the check `{check}` changed {names}; put back as it was")));
    sandbox.put(changed.into_iter().cloned().collect()).await?;
    sandbox.mark().await
}

#[cfg(test)]
mod gpu_tests;
#[cfg(test)]
mod tests;
