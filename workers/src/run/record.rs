//! What an attempt is on record with: who worked, under which risk, and the evidence and statement that come of it.

use std::time::Instant;

use tasks::{AgentName, CheckResult, CommitSha, Evidence, Failure, Task, TreeSha};

use super::{Conversation, Hands};
use crate::{
    agent::AgentDefinition,
    artifacts::Artifacts,
    bundle::{Bundle, Facts},
    checkout::Base,
    egress::Tally,
    gpu::Borrowed,
    policy::AllowedPatch,
    repo_config::RepoConfig,
    risk::Risk,
};

/// What the evidence is made of.
pub(super) struct Record<'a> {
    pub(super) hands: &'a Hands,
    pub(super) task: &'a Task,
    pub(super) base: &'a Base,
    pub(super) config: &'a RepoConfig,
    pub(super) agent: &'a AgentName,
    pub(super) model: Option<&'a str>,
    pub(super) risk: &'a Risk,
    pub(super) conversation: &'a Conversation,
    pub(super) sandbox: &'static str,
    pub(super) borrowed: &'a Borrowed,
    pub(super) started: Instant,
}

impl Record<'_> {
    /// The signed statement about what was verified.
    pub(super) fn seal(
        &self,
        evidence: &Evidence,
        base_tree: &TreeSha,
        head: Option<&CommitSha>,
        artifacts: &Artifacts,
    ) -> Result<Bundle, Failure> {
        let facts = Facts {
            task: self.task,
            evidence,
            base_tree,
            head,
            policy: &self.config.policy,
            model: self.model,
            allowed_hosts: &self.config.network.allow,
            now: (self.hands.clock)(),
        };
        Bundle::seal(&self.hands.signer, artifacts, &facts)
    }

    pub(super) fn evidence(
        &self,
        allowed: &AllowedPatch,
        checks: &[CheckResult],
        environment: &str,
        tally: &Tally,
    ) -> Evidence {
        let patched = allowed.patched();
        let (n_files, n_added, n_removed) = patched.stat();
        let egress = tally.record();
        let said = self.conversation.usage;
        // What the agent says of itself counts only where nothing could be measured.
        let (usage, claimed) = match egress.metered() {
            Some(metered) => (metered, Some(said)),
            None => (said, None),
        };
        Evidence {
            base: self.base.commit.clone(),
            tree: patched.tree().clone(),
            patch_sha256: patched.patch().sha256(),
            n_files,
            n_added,
            n_removed,
            checks: checks.to_vec(),
            proof: None,
            checks_from: self.config.origin.clone(),
            agent: self.agent.clone(),
            rounds: self.conversation.rounds,
            usage,
            claimed,
            sandbox: self.sandbox.to_owned(),
            environment: environment.to_owned(),
            blocked_hosts: tally.blocked_hosts(),
            egress: Some(egress),
            gpu: self.borrowed.used(),
            journal: self.task.anchor.clone(),
            findings: allowed.findings().iter().cloned().chain(self.risk.findings(&self.config.policy)).collect(),
            tier: self.risk.told(),
            bundle: None,
            duration_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// The agent: what the tier of risk chose, else who asked, else the operator.
pub(super) fn agent_of(hands: &Hands, task: &Task, config: &RepoConfig) -> Result<AgentDefinition, Failure> {
    let name = config.agent.as_ref().or(task.request.agent.as_ref()).unwrap_or(&hands.default_agent);
    Ok(hands.agents.get(name)?.with_model(config.model.as_deref()))
}

/// `tier of risk high: src/auth/login.rs is in src/auth/**`.
pub(super) fn risk_words(risk: &Risk) -> String {
    let told = risk.told();
    told.map_or_else(String::new, |told| format!("tier of risk `{}`: {}", told.name, told.because.join(", ")))
}
