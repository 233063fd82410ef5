//! What is said to the agent, round by round.

use tasks::{CheckResult, Failure, Task, TokenUsage};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{self, Round},
    artifacts::Artifacts,
    checkout::Base,
    forge::Said,
    repo_config::{RepoConfig, TaskLimits},
    revision::Revision,
    text,
};

/// What is said to the agent, round by round, and what it said of itself.
pub(super) struct Conversation {
    first_prompt: String,
    prompt: String,
    session: Option<String>,
    pub(super) summary: Option<String>,
    pub(super) usage: TokenUsage,
    pub(super) rounds: u32,
}

impl Conversation {
    pub(super) fn open(
        task: &Task,
        base: &Base,
        config: &RepoConfig,
        revision: Option<&Revision>,
        discussion: &[Said],
        artifacts: &Artifacts,
    ) -> Result<Self, Failure> {
        let request = &task.request;
        let branch = base.branch.as_ref().map_or("HEAD", |branch| branch.as_str());
        let prompt = templates::prompt(&templates::Prompt {
            repo: request.repo.as_str(),
            base: &format!("{branch}@{}", base.commit.short()),
            title: &request.instruction.title,
            body: &task.body_with_notes(),
            trusted: request.instruction.trusted,
            about: &request.instruction.about,
            discussion: discussion
                .iter()
                .map(|said| (said.by.login.as_str(), said.trusted, said.text.as_str()))
                .collect(),
            issue: request.issue(),
            pull_request: request.revises,
            conflicts: revision.map(Revision::conflict_names).unwrap_or_default(),
            checks: config.checks.iter().map(|check| (check.name.as_str(), check.command.as_str())).collect(),
            protected: config.policy.forbidden().collect(),
            hosts: config.network.allow.iter().map(String::as_str).collect(),
        })
        .map_err(Failure::internal)?;
        artifacts.write("prompt-1.md", prompt.as_bytes()).map_err(Failure::internal)?;
        let first_prompt = prompt.clone();
        Ok(Self { first_prompt, prompt, session: None, summary: None, usage: TokenUsage::default(), rounds: 0 })
    }

    pub(super) fn round<'a>(
        &'a mut self,
        agent: &'a agent::AgentDefinition,
        config: &'a RepoConfig,
        egress: &'a crate::egress::Egress,
        artifacts: &'a Artifacts,
        finish: &'a CancellationToken,
    ) -> Round<'a> {
        self.rounds += 1;
        Round {
            agent,
            prompt: &self.prompt,
            resume: self.session.as_deref(),
            env: &config.environment.env,
            gateway: egress.inside(),
            models: Some(egress.models()),
            time: config.limits.time,
            idle: config.limits.idle,
            artifacts,
            number: self.rounds,
            finish,
        }
    }

    /// Whether one more round may begin: there is one left, and the agent has not used what its tier of risk gives it.
    pub(super) fn may_go_on(&self, limits: &TaskLimits) -> bool {
        let used = self.usage.cost_microusd.unwrap_or(0);
        self.rounds < limits.rounds && limits.budget.is_none_or(|budget| used < budget.as_microusd())
    }

    pub(super) fn heard(&mut self, said: agent::AgentResult) {
        self.usage = self.usage.plus(said.usage);
        self.summary = said.summary.or(self.summary.take());
        self.session = said.session;
    }

    pub(super) fn ask_for_repair(&mut self, checks: &[CheckResult], artifacts: &Artifacts) -> Result<(), Failure> {
        let failed = checks.iter().filter(|check| check.blocks()).map(text::check_line).collect();
        let first_prompt = self.session.is_none().then_some(self.first_prompt.as_str());
        self.prompt =
            templates::repair_prompt(&templates::RepairPrompt { failed, first_prompt }).map_err(Failure::internal)?;
        artifacts
            .write(&format!("prompt-{}.md", self.rounds + 1), self.prompt.as_bytes())
            .map_err(Failure::internal)?;
        Ok(())
    }
}
