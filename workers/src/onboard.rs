//! The first pull request of a repository: `.onramp.toml` as it was detected, with what its checks came to on the untouched
//! code. It takes the same road as any other change from policy on, and so is the same pull request however often it is
//! asked for.

use std::{sync::Arc, time::Instant};

use sha2::{Digest as _, Sha256};
use tasks::{
    Actor, Allowance, CheckResult, Code, Deliver, Evidence, Failure, Instruction, PullRequest, RepoName, Resources,
    Source, Task, TaskId, TaskRequest, TokenUsage, Work,
};
use templates::{CheckEntry, OnboardingText, RepoConfigText};
use tokio_util::sync::CancellationToken;

use crate::{
    artifacts::Artifacts,
    checkout::{Base, Mirror},
    egress::Tally,
    fence::Fence,
    forge::Forge,
    gpu::Borrowed,
    patch::{Patch, PatchEntry},
    policy,
    progress::Progress,
    publish::{self, Publication},
    repo_config::{FILE_NAME, RepoConfig},
    run::Hands,
    sandbox::{FileKind, SandboxSpec, TreeFile},
    text,
    verify::{self, Verdict, Verification, VerifiedPatch},
};

/// The title of the pull request.
const TITLE: &str = "Tell Onramp how changes are checked";

/// What came of it.
#[derive(Debug)]
pub enum Onboarding {
    /// The pull request, and what its checks came to.
    Offered(PullRequest, Vec<CheckResult>),
    /// The repository has the file.
    IsThere,
}

/// Who asks, and how tasks are asked for here.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// The person at this machine.
    pub requester: String,
    /// The label that turns an issue into a task.
    pub label: String,
}

/// Looks at a repository and opens the pull request. Key: the repository, which makes the task's id and with it the branch.
///
/// Nobody is asked whether the person may: they hold the key of the app or the token, and the forge judges that.
///
/// # Errors
/// E041 when no checks were found, E014 when the detected setup fails, E03x and E05x as for any change.
pub async fn onboard(
    hands: &Hands,
    repo: &RepoName,
    invitation: &Invitation,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Onboarding, Failure> {
    let own_forge = hands.forge.for_task();
    let forge = own_forge.as_ref().unwrap_or(&hands.forge);
    let asked = Asked { hands, forge, repo, invitation, progress, cancel };
    let offered = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Failure::new(Code::Cancelled, "It was stopped")),
        offered = asked.offer() => offered,
    };
    if let Some(forge) = own_forge {
        forge.close().await;
    }
    offered
}

struct Asked<'a> {
    hands: &'a Hands,
    forge: &'a Arc<dyn Forge>,
    repo: &'a RepoName,
    invitation: &'a Invitation,
    progress: &'a Progress,
    cancel: &'a CancellationToken,
}

impl Asked<'_> {
    async fn offer(&self) -> Result<Onboarding, Failure> {
        let started = Instant::now();
        let remote = self.forge.remote(self.repo).await?;
        let (mirror, base) = Mirror::checkout(&self.hands.mirrors, self.repo, &remote, None).await?;
        let branch = base.branch.as_ref().map_or("HEAD", |branch| branch.as_str());
        self.progress.step(format!("checked out {branch}@{}", base.commit.short()));
        if mirror.file(&base.commit, FILE_NAME).await?.is_some() {
            return Ok(Onboarding::IsThere);
        }
        let outline = mirror.outline(&mirror.tree_of(&base.commit).await?).await?;
        let mut config = RepoConfig::load(None, &outline)?;
        self.progress.step(format!("{} checks {}", config.checks.len(), config.origin));

        let mut measured = self.measure(&mirror, &base, &config).await?;
        let failing: Vec<_> =
            measured.checks().iter().filter(|check| !check.passed()).map(|c| c.name.clone()).collect();
        if !failing.is_empty() {
            // The file says which ones hold nothing back yet; and what is published is what was measured.
            for check in &mut config.checks {
                check.required = !failing.contains(&check.name);
            }
            measured = self.measure(&mirror, &base, &config).await?;
        }
        let pull_request = self.publish(&measured, &mirror, &base, &config, started).await?;
        Ok(Onboarding::Offered(pull_request, measured.checks().to_vec()))
    }

    fn task(&self) -> Task {
        let digest = Sha256::digest(format!("onboarding of {}", self.repo.as_str().to_lowercase()));
        let id = TaskId::from_bytes(std::array::from_fn(|at| digest[at]));
        let request = TaskRequest {
            dedupe_key: format!("onboarding:{id}").parse().expect("hexadecimal digits are printable"),
            source: Source::CommandLine,
            actor: Actor { login: self.invitation.requester.clone(), id: None },
            repo: self.repo.clone(),
            base: None,
            agent: None,
            instruction: Instruction {
                title: TITLE.to_owned(),
                body: String::new(),
                trusted: true,
                about: String::new(),
            },
            deliver: Deliver::PullRequest,
            resources: Resources::default(),
            revises: None,
            work: Work::default(),
            discussed_until: None,
        };
        let mut task = Task::new(id, request, (self.hands.clock)());
        task.attempt = 1;
        task
    }

    /// The checks on the base with the file added. None of them holds anything back: what they came to is what is asked.
    async fn measure(&self, mirror: &Mirror, base: &Base, config: &RepoConfig) -> Result<VerifiedPatch, Failure> {
        let file = TreeFile { path: FILE_NAME.into(), kind: FileKind::Regular, bytes: written(config)?.into_bytes() };
        let patched = Patch::new(base.commit.clone(), vec![PatchEntry::Write(file)])?.onto(mirror).await?;
        // Nothing but this file, which no ordinary change may touch.
        let mut only = config.policy.clone();
        only.protected.clear();
        only.allowed = vec![vec![FILE_NAME.to_owned()]];
        let allowed = policy::check(patched, &only).map_err(|violations| {
            let words: Vec<_> = violations.into_iter().map(|violation| violation.message).collect();
            Failure::new(Code::PolicyRejected, words.join(" "))
        })?;
        let mut lenient = config.clone();
        lenient.checks.iter_mut().for_each(|check| check.required = false);
        let task = self.task();
        let artifacts = Artifacts::open(&self.hands.artifacts, task.id, task.attempt).map_err(Failure::internal)?;
        let name = format!("onramp-{}-1-onboard", task.id);
        let spec = SandboxSpec {
            task: Some(task.id),
            scope: self.repo.to_string(),
            image: config.environment.image.clone(),
            limits: config.limits.sandbox.clone(),
            ..SandboxSpec::new(name)
        };
        let with = Verification {
            sandboxes: &self.hands.sandboxes,
            bases: None,
            repo: self.repo,
            spec,
            config: &lenient,
            mirror,
            artifacts: &artifacts,
            progress: self.progress,
            egress: (&self.hands.egress, &Arc::new(Tally::new(Allowance::default(), None))),
            borrowed: &Borrowed::new(self.hands.gpus.clone()),
            cancel: self.cancel,
        };
        match verify::verify(allowed, with).await? {
            Verdict::Passed(verified) => Ok(verified),
            Verdict::Failed { checks, .. } => {
                let failed = checks.iter().find(|check| check.blocks());
                let (command, output) = failed.map_or(("", ""), |check| (&check.command, &check.output_tail));
                let message = format!("The detected setup command `{command}` failed on the untouched code");
                Err(Failure::new(Code::SetupFailed, message)
                    .next(format!("Write a {FILE_NAME} by hand, with an image that has the tools, and commit it."))
                    .detail(output))
            }
        }
    }

    async fn publish(
        &self,
        measured: &VerifiedPatch,
        mirror: &Mirror,
        base: &Base,
        config: &RepoConfig,
        started: Instant,
    ) -> Result<PullRequest, Failure> {
        let task = self.task();
        let patched = measured.patched();
        let (n_files, n_added, n_removed) = patched.stat();
        let evidence = Evidence {
            base: base.commit.clone(),
            tree: patched.tree().clone(),
            patch_sha256: patched.patch().sha256(),
            n_files,
            n_added,
            n_removed,
            checks: measured.checks().to_vec(),
            checks_from: config.origin.clone(),
            agent: self.hands.default_agent.clone(),
            rounds: 0,
            usage: TokenUsage::default(),
            claimed: None,
            sandbox: measured.environment().to_owned(),
            environment: measured.environment().to_owned(),
            blocked_hosts: Vec::new(),
            egress: None,
            gpu: None,
            proof: None,
            findings: Vec::new(),
            tier: None,
            bundle: None,
            journal: None,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let with = Publication {
            task: &task,
            fence: &Fence::open(),
            base,
            revision: None,
            evidence: &evidence,
            summary: None,
            options: &config.pull_request,
            identity: &self.hands.identity,
            now: (self.hands.clock)(),
        };
        let branch = base.branch.as_ref().map_or("HEAD", |branch| branch.as_str());
        let body = |_: &_| {
            let body = templates::onboarding(&OnboardingText {
                found_from: config.origin.trim_start_matches("detected: "),
                base: &format!("{branch}@{}", base.commit.short()),
                environment: &evidence.environment,
                tree: evidence.tree.as_str(),
                label: &self.invitation.label,
                requester: &self.invitation.requester,
                checks: measured.checks().iter().map(text::check_line).collect(),
            });
            let marker = templates::status_marker(&task.id.to_string());
            body.map(|body| format!("{body}\n{marker}\n")).map_err(Failure::internal)
        };
        let (pull_request, commit) = publish::publish_as(measured, mirror, self.forge.as_ref(), &with, body).await?;
        self.progress.step(format!("published {} as {}", commit.short(), pull_request.url));
        Ok(pull_request)
    }
}

/// The configuration as a file, which reads back as what it was written from.
fn written(config: &RepoConfig) -> Result<String, Failure> {
    let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
    let text = templates::repo_config(&RepoConfigText {
        setup: config.environment.setup.iter().map(quoted).collect(),
        prebuild: config.environment.prebuild.iter().map(quoted).collect(),
        checks: config
            .checks
            .iter()
            .map(|check| CheckEntry {
                name: quoted(&check.name),
                command: quoted(&check.command),
                required: check.required,
            })
            .collect(),
    })
    .map_err(Failure::internal)?;
    let read = RepoConfig::load(Some(text.as_bytes()), &[])?;
    let is_same = read.checks == config.checks
        && read.environment.setup == config.environment.setup
        && read.environment.prebuild == config.environment.prebuild;
    is_same.then_some(text).ok_or_else(|| Failure::internal("a detected configuration cannot be written down"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: &str) -> TreeFile {
        TreeFile { path: path.into(), kind: FileKind::Regular, bytes: bytes.into() }
    }

    #[test]
    fn what_was_detected_can_be_written_down_whatever_characters_it_has() {
        for tree in [
            vec![file("Cargo.toml", ""), file("Cargo.lock", "")],
            vec![file("go.mod", ""), file("pytest.ini", "")],
            vec![
                file("package.json", r#"{"scripts":{"test":"node --test \"x\""},"dependencies":{"a":"1"}}"#),
                file("package-lock.json", ""),
            ],
        ] {
            let mut config = RepoConfig::load(None, &tree).unwrap();
            written(&config).unwrap();
            config.checks[0].required = false;
            config.checks[0].command = "echo \"a\\b\" 'c' #d\necho e".to_owned();
            assert!(written(&config).unwrap().contains("required = false"));
        }
    }
}
