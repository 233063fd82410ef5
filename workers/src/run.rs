//! The whole life of one attempt, in order: [`run_task`] and the steps that it calls.
//!
//! Nothing that the agent says is believed: what leaves its sandbox is a patch, policy judges it, the repository's own
//! checks run on it in a second, fresh sandbox, and only a [`VerifiedPatch`] can be published.

mod budget;
mod conversation;
mod failures;
mod outside;
mod record;

use std::{panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Instant};

use futures_util::FutureExt as _;
use tasks::{
    AgentName, Code, CommitSha, Deliver, Evidence, Failure, MachinePrices, Outcome, Phase, Report, Source, Stage, Task,
    Timestamp,
};
use tokio_util::sync::CancellationToken;

pub use self::failures::sandbox_failure;
use self::{
    budget::Meters,
    conversation::Conversation,
    failures::{cancelled, checks_failed},
    record::{Record, agent_of, risk_words},
};
use crate::{
    agent::{self, Agents},
    artifacts::Artifacts,
    base::Bases,
    bundle::{Bundle, Signer},
    checkout::{Base, Mirror},
    egress::{Egress, EgressPolicy, ModelProviders, Tally, Ways},
    environment,
    fence::Fence,
    forge::{Forge, Permission, Said},
    gpu::{self, Borrowed, Gpus},
    patch::{ExtractLimits, Patch},
    policy,
    progress::{Progress, ProgressEvent},
    publish::{self, Identity, Publication},
    repo_config::{Operator, RepoConfig},
    revision::{Revision, Start},
    risk::Risk,
    sandbox::{Sandbox, SandboxSpec, pool::Sandboxes},
    verify::{self, Verdict, Verification, VerifiedPatch},
    workspace::{Wish, Workspace},
};

/// What may leave a sandbox at all; policy, which is asked afterwards, is far below.
const EXTRACT_LIMITS: ExtractLimits = ExtractLimits { max_files: 10_000, max_bytes: 256 << 20 };

/// Everything that an attempt needs, shared by all attempts of a worker.
#[derive(Debug, Clone)]
pub struct Hands {
    /// Every sandbox comes from here.
    pub sandboxes: Arc<Sandboxes>,
    /// Prepared starting points of sandboxes.
    pub bases: Arc<Bases>,
    /// Where repositories and pull requests live.
    pub forge: Arc<dyn Forge>,
    /// The known agents.
    pub agents: Agents,
    /// The agent of a request that names none.
    pub default_agent: AgentName,
    /// Where models are, and their keys.
    pub models: Arc<ModelProviders>,
    /// What the operator says of the world outside.
    pub egress: Arc<EgressPolicy>,
    /// The GPUs that may be lent.
    pub gpus: Gpus,
    /// What machines cost.
    pub prices: MachinePrices,
    /// Bare mirrors lie here.
    pub mirrors: PathBuf,
    /// Artifacts lie here, by task and attempt.
    pub artifacts: PathBuf,
    /// Signs what was verified.
    pub signer: Arc<Signer>,
    /// What the operator says of policy and risk, over all repositories.
    pub operator: Operator,
    /// Author and committer of what is published.
    pub identity: Identity,
    /// The one clock.
    pub clock: fn() -> Timestamp,
}

/// An attempt that ended without a verdict that it wanted; what was verified until then comes along.
struct Stopped {
    failure: Failure,
    evidence: Option<Box<Evidence>>,
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self { failure, evidence: None }
    }
}

type Ending = (Outcome, Option<Box<Evidence>>);

/// Runs one attempt to its end and leaves no sandbox behind, whatever happens: failure, cancellation, panic.
///
/// `finish`: the agent is to stop, and what it has done by then is what counts.
pub async fn run_task(
    hands: &Hands,
    task: &Task,
    fence: &Fence,
    progress: &Progress,
    cancel: &CancellationToken,
    finish: &CancellationToken,
) -> Report {
    // What the attempt may do on the forge is made for it and ends with it.
    let own_forge = hands.forge.for_task();
    let with_own = own_forge.as_ref().map(|forge| Hands { forge: forge.clone(), ..hands.clone() });
    let hands = with_own.as_ref().unwrap_or(hands);
    // Outlives every box of the attempt: what is lent goes back when they are gone.
    let borrowed = Borrowed::new(hands.gpus.clone());
    let (meters, stop) = (Meters::new(task, &borrowed, &hands.prices), cancel.child_token());
    let attempt = AssertUnwindSafe(attempt(hands, task, fence, &meters, progress, &stop, finish)).catch_unwind();
    tokio::pin!(attempt);
    let (result, used_up) = tokio::select! {
        result = &mut attempt => (result, None),
        meter = meters.watch(&stop) => (attempt.await, Some(meter)),
    };
    // Its boxes are removed off the path, but for those that could still use what was lent.
    if borrowed.used().is_some() {
        for purpose in ["agent", "verify", &verify::gpu::sandbox_name("verify")] {
            if !hands.sandboxes.gone(&sandbox_name(task, purpose)).await {
                tracing::warn!(task.id = %task.id, purpose, "a sandbox is left to the sweep");
            }
        }
    }
    if let Some(forge) = own_forge {
        forge.close().await;
    }
    let artifacts = Artifacts::open(&hands.artifacts, task.id, task.attempt).ok();
    let used = Some(meters.used_in_all(artifacts.as_ref()));
    let report = match result {
        Ok(Ok((outcome, evidence))) => Report::Finished { outcome, evidence, used },
        Ok(Err(Stopped { failure, .. })) if failure.code == Code::Cancelled => {
            Report::Finished { outcome: Outcome::Cancelled, evidence: None, used }
        }
        Ok(Err(Stopped { failure, evidence })) => Report::Failed { failure, evidence, used },
        Err(_panic) => Report::Failed { failure: Failure::internal("an attempt panicked"), evidence: None, used },
    };
    match used_up {
        Some(meter) if !cancel.is_cancelled() => meters.report(meter, report),
        Some(_) | None => report,
    }
}

/// The road. Each line is a step with a file of its own; the loop is the rounds of agent and checks.
async fn attempt(
    hands: &Hands,
    task: &Task,
    fence: &Fence,
    meters: &Meters<'_>,
    progress: &Progress,
    cancel: &CancellationToken,
    finish: &CancellationToken,
) -> Result<Ending, Stopped> {
    let (started, borrowed) = (Instant::now(), meters.borrowed);
    let artifacts = Artifacts::open(&hands.artifacts, task.id, task.attempt).map_err(Failure::internal)?;
    progress.tell(ProgressEvent::Stage(Stage::Preparing));
    let prepared = or_cancelled(cancel, prepare(hands, task, borrowed, progress)).await?;
    let Prepared { mirror, base, mut config, mut risk, revision, discussion } = match prepared {
        Ready::Work(prepared) => *prepared,
        Ready::Ended(outcome) => {
            finish_revision(hands, task, fence, &outcome).await?;
            return Ok((outcome, None));
        }
    };
    let tally = outside::tally(meters.allowance, &artifacts);
    meters.count(&tally);
    let agent = agent_of(hands, task, &config)?;
    let opened = open_sandbox(hands, task, &mirror, &base, &config, meters, &tally, progress, cancel);
    let (sandbox, egress) = or_cancelled(cancel, opened).await?;

    let mut conversation = Conversation::open(task, &base, &config, revision.as_ref(), &discussion, &artifacts)?;
    // A merge without conflicts speaks for itself: the agent is only asked when the checks have something against it.
    let mut needs_agent = !revision.as_ref().is_some_and(Revision::is_merged);
    let verified = loop {
        if needs_agent {
            progress.tell(ProgressEvent::Stage(Stage::AgentRunning));
            let round = conversation.round(&agent, &config, &egress, &artifacts, finish);
            let said = or_cancelled(cancel, agent::run(&sandbox, round, progress, cancel)).await;
            conversation.heard(match said {
                Err(failure) if failure.code != Code::Cancelled && tally.stopped().is_some() => {
                    outside::keep_diff(&sandbox, &mirror, &base, &artifacts, progress).await;
                    return Err(outside::budget_spent(&tally).into());
                }
                said => said?,
            });
        }

        if hands.egress.airgap {
            outside::count_interfaces(&sandbox, &tally).await;
        }
        progress.tell(ProgressEvent::Stage(Stage::Verifying));
        let patch = or_cancelled(cancel, Patch::extract(&sandbox, &mirror, &base.commit, EXTRACT_LIMITS)).await?;
        match &revision {
            Some(revision) if revision.merges.is_some() => revision.is_resolved_by(&patch)?,
            _ if patch.is_empty() => return Ok((Outcome::NothingChanged, None)),
            _ => {}
        }
        let patched = patch.onto(&mirror).await?;
        let diff = artifacts.write("diff.patch", &patched.diff()).map_err(Failure::internal)?;
        progress.tell(ProgressEvent::Diff(diff));
        let (_, n_added, n_removed) = patched.stat();
        if risk.see(patched.changes(), n_added + n_removed) {
            risk.govern(&mut config)?;
            progress.step(risk_words(&risk));
        }
        let allowed = match policy::check(patched, &config.policy) {
            Ok(allowed) => allowed,
            Err(violations) => return Ok((Outcome::PolicyRejected { violations }, None)),
        };
        let with = Verification {
            sandboxes: &hands.sandboxes,
            bases: Some(&hands.bases),
            repo: &task.request.repo,
            spec: sandbox_spec(task, &config, "verify", meters),
            config: &config,
            mirror: &mirror,
            artifacts: &artifacts,
            progress,
            borrowed,
            egress: (&hands.egress, &tally),
            cancel,
        };
        match or_cancelled(cancel, verify::verify(allowed, with)).await? {
            Verdict::Passed(verified) => break verified,
            Verdict::Failed { checks, .. } if conversation.may_go_on(&config.limits) && !finish.is_cancelled() => {
                conversation.ask_for_repair(&checks, &artifacts)?;
                needs_agent = true;
            }
            Verdict::Failed { allowed, checks, environment } => {
                let record = Record {
                    hands,
                    task,
                    base: &base,
                    config: &config,
                    agent: agent.name(),
                    model: agent.model(),
                    risk: &risk,
                    conversation: &conversation,
                    sandbox: sandbox.kind(),
                    borrowed,
                    started,
                };
                let evidence = record.evidence(&allowed, &checks, &environment, &tally);
                return Err(Stopped { failure: checks_failed(&checks), evidence: Some(Box::new(evidence)) });
            }
        }
    };

    let record = Record {
        hands,
        task,
        base: &base,
        config: &config,
        agent: agent.name(),
        model: agent.model(),
        risk: &risk,
        conversation: &conversation,
        sandbox: sandbox.kind(),
        borrowed,
        started,
    };
    let mut evidence = record.evidence(verified.allowed(), verified.checks(), verified.environment(), &tally);
    // The fate of tests is only known now.
    evidence.findings.extend(evidence.proof.iter().flat_map(|proof| policy::judge_tests(proof, &config.policy)));
    evidence.findings = match policy::blocked_or(evidence.findings.clone()) {
        Ok(findings) => findings,
        Err(violations) => return Ok((Outcome::PolicyRejected { violations }, Some(Box::new(evidence)))),
    };
    let evidence_json = serde_json::to_vec_pretty(&evidence).map_err(Failure::internal)?;
    artifacts.write("evidence.json", &evidence_json).map_err(Failure::internal)?;
    let base_tree = mirror.tree_of(&base.commit).await?;
    let seal = |head: Option<&CommitSha>| record.seal(&evidence, &base_tree, head, &artifacts);
    let (outcome, bundle) = match task.request.deliver {
        Deliver::Diff => (Outcome::DiffVerified, seal(None)?),
        Deliver::PullRequest => {
            if cancel.is_cancelled() {
                return Err(cancelled().into());
            }
            progress.tell(ProgressEvent::Stage(Stage::Publishing)); // the point of no return
            deliver(&record, &verified, &evidence, &seal, &mirror, revision.as_ref(), fence, progress).await?
        }
    };
    evidence.bundle = Some(bundle.digest);
    Ok((outcome, Some(Box::new(evidence))))
}

/// Where an attempt starts.
struct Prepared {
    mirror: Mirror,
    base: Base,
    config: RepoConfig,
    risk: Risk,
    revision: Option<Revision>,
    /// What people had said about it when it was asked.
    discussion: Vec<Said>,
}

/// Whether there is something to do.
enum Ready {
    Work(Box<Prepared>),
    Ended(Outcome),
}

/// Asks who may, fetches the repository and reads its configuration from the base branch.
async fn prepare(hands: &Hands, task: &Task, borrowed: &Borrowed, progress: &Progress) -> Result<Ready, Failure> {
    let request = &task.request;
    // Without an id the forge is asked about Onramp itself: only the person at this machine, and who was given access to
    // the API, may go without one.
    let known = request.actor.id.is_some() || matches!(request.source, Source::CommandLine | Source::Api { .. });
    // For a hook the operator said which repositories it may ask for, and the door held it to that.
    let is_hook = matches!(request.source, Source::Hook { .. });
    if !is_hook && (!known || hands.forge.permission(&request.repo, &request.actor).await? < Permission::Write) {
        let message = format!(
            "{} has no write permission on {}, so the request was not taken up",
            request.actor.login, request.repo
        );
        return Err(Failure::new(Code::PermissionDenied, message));
    }
    let discussion = match (request.issue(), request.discussed_until) {
        (Some(issue), Some(until)) => {
            hands.forge.discussion(&request.repo, issue, until, request.source.comment()).await?
        }
        _ => Vec::new(),
    };
    let now = Revision::asked_for(hands.forge.as_ref(), task).await?;
    let remote = hands.forge.remote(&request.repo).await?;
    let wanted = now.as_ref().map(|now| &now.base).or(request.base.as_ref()).map(|base| base.as_str());
    let (mirror, base) = Mirror::checkout(&hands.mirrors, &request.repo, &remote, wanted).await?;
    let branch = base.branch.as_ref().map_or("HEAD", |branch| branch.as_str());
    progress.step(format!("checked out {branch}@{}", base.commit.short()));

    let tree = mirror.tree_of(&base.commit).await?;
    let mut config = environment::configuration(&mirror, &base.commit, &tree).await?.under(&hands.operator);
    progress.step(format!("{} checks from {}", config.checks.len(), config.origin));
    let labels = match request.source.thread().filter(|_| Risk::wants_labels(&config.tiers)) {
        Some(thread) => hands.forge.labels(&request.repo, thread).await?,
        None => Vec::new(),
    };
    let risk = Risk::declared(&config.tiers, &request.actor.login, &labels);
    risk.govern(&mut config)?;
    if risk.told().is_some() {
        progress.step(risk_words(&risk));
    }
    gpu::apply_request(&mut config, &request.resources);
    borrowed.could(&config)?;
    if config.environment.agent_gpu || config.checks.iter().any(|check| check.gpu.is_some()) {
        let image = config.environment.image.as_deref().or(config.environment.dockerfile.as_deref());
        hands.sandboxes.backend().could_show_gpus(image).await?;
    }
    let backend = hands.sandboxes.backend().as_ref();
    if environment::build_image(&mut config, &mirror, &base.commit, &request.repo, backend).await? {
        progress.step(format!("built the image of {}", config.environment.dockerfile.as_deref().unwrap_or_default()));
    }
    let is_default = request.base.is_none() && now.is_none();
    hands.bases.want(&request.repo, is_default.then_some(&base.commit));
    if !hands.egress.setup_secrets(&request.repo).is_empty() && hands.bases.find(&request.repo, &config).is_none() {
        // Its setup has what it needs only while a base is prepared, never in the box of a task.
        progress.step("prepares a base first, because setup needs secrets");
        hands.bases.refresh(&request.repo).await;
    }
    let Some(now) = now else {
        return Ok(Ready::Work(Box::new(Prepared { mirror, base, config, risk, revision: None, discussion })));
    };
    Ok(match Revision::start(&mirror, now, &base, task, &hands.identity).await? {
        Start::Work(revision, base) => {
            progress.step(format!("starts from {} of {}", base.commit.short(), revision.pull_request.url));
            Ready::Work(Box::new(Prepared { mirror, base, config, risk, revision: Some(*revision), discussion }))
        }
        Start::Published(pull_request) => Ready::Ended(Outcome::PullRequestUpdated { pull_request }),
        Start::UpToDate => Ready::Ended(Outcome::NothingChanged),
    })
}

/// Opens the agent's sandbox with the base commit in its workspace, its tunnels, and everything set up.
#[expect(clippy::too_many_arguments, reason = "all that an attempt has by then")]
async fn open_sandbox(
    hands: &Hands,
    task: &Task,
    mirror: &Mirror,
    base: &Base,
    config: &RepoConfig,
    meters: &Meters<'_>,
    tally: &Arc<Tally>,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<(Sandbox, Egress), Failure> {
    let mut spec = sandbox_spec(task, config, "agent", meters);
    if let Some(gpu) = config.environment.gpu.as_ref().filter(|_| config.environment.agent_gpu) {
        spec.gpus = meters.borrowed.for_agent(gpu, progress).await?;
    }
    let wish = Wish {
        sandboxes: &hands.sandboxes,
        bases: Some(&hands.bases),
        mirror,
        repo: &task.request.repo,
        tree: &mirror.tree_of(&base.commit).await?,
        config,
        spec: &spec,
    };
    let workspace = Workspace::open(&wish).await?;
    progress.step(format!("sandbox ready: {} ({})", workspace.sandbox().kind(), workspace.environment()));
    let ways = Ways {
        models: hands.models.clone(),
        policy: hands.egress.clone(),
        network: &config.network,
        repo: &task.request.repo,
        phase: Phase::Setup,
        tally: tally.clone(),
    };
    let egress = Egress::open(workspace.sandbox(), ways, cancel).await?;
    if !workspace.is_set_up() {
        if let Some(trouble) = hands.bases.trouble(&task.request.repo) {
            progress.tell(ProgressEvent::Warning(format!("there is no base to start from: {trouble}")));
        }
        workspace.set_up(config, &egress.inside().env(), progress).await?;
    }
    egress.enter(Phase::Agent)?;
    Ok((workspace.into_sandbox(), egress))
}

#[expect(clippy::too_many_arguments, reason = "all that an attempt has by then")]
async fn deliver(
    record: &Record<'_>,
    verified: &VerifiedPatch,
    evidence: &Evidence,
    seal: &publish::Seal<'_>,
    mirror: &Mirror,
    revision: Option<&Revision>,
    fence: &Fence,
    progress: &Progress,
) -> Result<(Outcome, Bundle), Failure> {
    let options = record.config.pull_request.with_findings(&evidence.findings, &record.config.policy.reviewers);
    let with = Publication {
        revision,
        fence,
        task: record.task,
        base: record.base,
        evidence,
        summary: record.conversation.summary.as_deref(),
        options: &options,
        identity: &record.hands.identity,
        now: (record.hands.clock)(),
    };
    let (pull_request, commit, bundle) =
        publish::publish(verified, mirror, record.hands.forge.as_ref(), with, seal).await?;
    progress.step(format!("published {} as {}", commit.short(), pull_request.url));
    publish::check_run(record.hands.forge.as_ref(), fence, record.task, verified, evidence, &bundle, &commit).await;
    let outcome = match revision {
        None => Outcome::PullRequestOpened { pull_request },
        Some(_) => Outcome::PullRequestUpdated { pull_request },
    };
    finish_revision(record.hands, record.task, fence, &outcome).await?;
    Ok((outcome, bundle))
}

/// What is left to say when a pull request has its new commit.
async fn finish_revision(hands: &Hands, task: &Task, fence: &Fence, outcome: &Outcome) -> Result<(), Failure> {
    let Outcome::PullRequestUpdated { pull_request } = outcome else { return Ok(()) };
    Revision::answer(hands.forge.as_ref(), fence, task, &pull_request.head).await
}

/// The name of one of a task's sandboxes: the same at every call, so that it can be stopped without having been kept.
fn sandbox_name(task: &Task, purpose: &str) -> String {
    format!("onramp-{}-{}-{purpose}", task.id, task.attempt)
}

fn sandbox_spec(task: &Task, config: &RepoConfig, purpose: &str, meters: &Meters<'_>) -> SandboxSpec {
    SandboxSpec {
        task: Some(task.id),
        scope: task.request.repo.to_string(),
        image: config.environment.image.clone(),
        limits: config.limits.sandbox.clone(),
        usage: meters.boxes.clone(),
        ..SandboxSpec::new(sandbox_name(task, purpose))
    }
}

async fn or_cancelled<T>(
    cancel: &CancellationToken,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(cancelled()),
        result = step => result,
    }
}
