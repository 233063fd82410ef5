//! What policy and risk would say of a patch, without running anything: each rule with its verdict.

use serde::Serialize;
use tasks::{Action, Code, CommitSha, Failure, Finding, RiskTier};

use super::{Rule, judge};
use crate::{
    checkout::Mirror,
    environment,
    patch::Patch,
    repo_config::{Draft, FILE_NAME, Operator, RepoConfig},
    risk::Risk,
};

/// A rule and what it said.
#[derive(Debug, Clone, Serialize)]
pub struct Weighed {
    /// The rule: `protected_path`.
    pub rule: &'static str,
    /// Its key under `[policy]`.
    pub key: &'static str,
    /// What follows when it finds something.
    pub action: Action,
    /// The operator locked it.
    pub locked: bool,
    /// What it found.
    pub findings: Vec<Finding>,
}

/// What policy and risk say of a patch.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// The base commit, whose policy it is.
    pub base: String,
    /// `.onramp.toml`, or what was detected.
    pub policy_from: String,
    /// SHA-256 of the policy.
    pub policy_sha256: String,
    /// SHA-256 of the canonical patch.
    pub patch_sha256: String,
    /// Files, added lines, removed lines.
    pub stat: (u64, u64, u64),
    /// Every rule.
    pub rules: Vec<Weighed>,
    /// The tier of risk, and why.
    pub tier: Option<RiskTier>,
    /// The pull request would be a draft.
    pub draft: bool,
    /// Who would be asked for review.
    pub reviewers: Vec<String>,
    /// The strictest action; `None`: nothing was found.
    pub verdict: Option<Action>,
}

/// Weighs what leads from `base` to a patch that is there as text.
///
/// # Errors
/// E032 for a text that is no patch; E007 for a configuration that cannot be used.
pub async fn explain_text(
    text: Vec<u8>,
    mirror: &Mirror,
    base: &CommitSha,
    operator: &Operator,
    asked: (&str, &[String]),
) -> Result<Explained, Failure> {
    explain(Patch::parse(text, mirror, base).await?, mirror, operator, asked).await
}

/// Weighs a patch. `asked`: the login of who asks, and the labels of the issue.
///
/// # Errors
/// E007 for a configuration that cannot be used; E031 for what cannot be carried.
pub async fn explain(
    patch: Patch,
    mirror: &Mirror,
    operator: &Operator,
    (login, labels): (&str, &[String]),
) -> Result<Explained, Failure> {
    let base = patch.base().clone();
    let tree = mirror.tree_of(&base).await?;
    let mut config = match environment::configuration(mirror, &base, &tree).await {
        Ok(config) => config,
        // Policy can be told even where nothing says how to test.
        Err(failure) if failure.code == Code::NoChecks => without_checks(mirror, &base).await?,
        Err(failure) => return Err(failure),
    }
    .under(operator);
    let patched = patch.onto(mirror).await?;
    let (n_files, n_added, n_removed) = patched.stat();
    let mut risk = Risk::declared(&config.tiers, login, labels);
    risk.see(patched.changes(), n_added + n_removed);
    risk.govern(&mut config)?;
    let findings = judge(patched.changes(), &config.policy);
    let options = config.pull_request.with_findings(&findings, &config.policy.reviewers);
    let verdict = findings.iter().map(|finding| finding.action).max();
    let policy = &config.policy;
    let weighed = |rule: &Rule| Weighed {
        rule: rule.word(),
        key: rule.key(),
        action: policy.action(*rule),
        locked: policy.is_locked(rule.key()),
        findings: findings.iter().filter(|finding| finding.rule == rule.word()).cloned().collect(),
    };
    Ok(Explained {
        base: base.to_string(),
        policy_from: config.origin.clone(),
        policy_sha256: policy.digest(),
        patch_sha256: patched.patch().sha256(),
        stat: (n_files, n_added, n_removed),
        rules: Rule::ALL.iter().map(weighed).collect(),
        tier: risk.told(),
        draft: options.draft == Draft::Always,
        reviewers: options.reviewers,
        verdict,
    })
}

async fn without_checks(mirror: &Mirror, base: &CommitSha) -> Result<RepoConfig, Failure> {
    let file = mirror.file(base, FILE_NAME).await?.unwrap_or_else(|| b"version = 1\n".to_vec());
    let with_one = [file.as_slice(), b"\n[[check]]\nname = \"none\"\ncommand = \"true\"\n"].concat();
    RepoConfig::load(Some(&with_one), &[])
}
