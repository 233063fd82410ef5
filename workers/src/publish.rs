//! A verified patch becomes a commit, a branch and a pull request.
//!
//! Everything here may be repeated: the branch's name comes from the task, the commit carries the task's id, and the pull
//! request is found by its branch. A worker that died between two of these steps is followed by one that finds what is
//! there and does the rest.

mod by_forge;
mod check_run;
mod push;
mod sign;
mod template;

pub use check_run::check_run;
pub(crate) use push::has_trailer;
pub use sign::CommitSigner;

use tasks::{
    Actor, BranchName, Code, CommitSha, EgressRecord, Evidence, Failure, Finding, Money, Phase, PullRequest, Task,
    Timestamp, TokenUsage,
};

use crate::{
    bundle::Bundle,
    checkout::{Base, Mirror, transport::Call},
    egress::{key_of, not_allowed, presets},
    fence::Fence,
    forge::{Forge, NewCommit, NewPullRequest},
    repo_config::PullRequestOptions,
    revision::Revision,
    text,
    verify::VerifiedPatch,
};

/// So many hosts are named in a line that would allow them.
const MAX_ALLOW_ENTRIES: usize = 10;

/// Who commits.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name.
    pub name: String,
    /// Address.
    pub email: String,
    /// Who signs what is published; `None`: nobody.
    pub signer: Option<CommitSigner>,
    /// Who makes commits.
    pub via: Via,
}

/// Who makes the commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// We do, and push it.
    #[default]
    Git,
    /// The forge does, and signs it with its own key.
    Api,
}

/// Makes the signed statement about a commit.
pub type Seal<'a> = dyn Fn(Option<&CommitSha>) -> Result<Bundle, Failure> + Sync + 'a;

/// What publishing needs besides the proof.
pub struct Publication<'a> {
    /// The task; its branch and id are the idempotency keys.
    pub task: &'a Task,
    /// Asked before each outward act.
    pub fence: &'a Fence,
    /// Where it starts.
    pub base: &'a Base,
    /// The pull request that gets one commit more; `None`: one is opened.
    pub revision: Option<&'a Revision>,
    /// The record that goes into the pull request.
    pub evidence: &'a Evidence,
    /// What the agent said about the change, if anything.
    pub summary: Option<&'a str>,
    /// Options of the repository.
    pub options: &'a PullRequestOptions,
    /// Author and committer.
    pub identity: &'a Identity,
    /// The commit's time.
    pub now: Timestamp,
}

/// Commits the verified tree on its base with the trailer `Task-Id`, pushes the task's branch, finds or opens the pull
/// request. Safe to repeat: the branch is deterministic, a commit of ours with the same tree is reused, and a foreign
/// commit on the branch is never overwritten.
///
/// # Errors
/// E050 to E054 with the forge's reason; E004 when the base is no branch.
pub async fn publish(
    verified: &VerifiedPatch,
    mirror: &Mirror,
    forge: &dyn Forge,
    with: Publication<'_>,
    seal: &Seal<'_>,
) -> Result<(PullRequest, CommitSha, Bundle), Failure> {
    let mut sealed = None;
    let body = |head: &CommitSha| {
        let bundle = seal(Some(head))?;
        let body = body(verified, &with, head, &bundle)?;
        sealed = Some(bundle);
        Ok(body)
    };
    let (pull_request, head) = publish_as(verified, mirror, forge, &with, body).await?;
    // A pull request that only gets one commit more keeps its body.
    let bundle = match sealed {
        Some(bundle) => bundle,
        None => seal(Some(&head))?,
    };
    Ok((pull_request, head, bundle))
}

/// The same with other words in the pull request, and nothing signed.
pub(crate) async fn publish_as(
    verified: &VerifiedPatch,
    mirror: &Mirror,
    forge: &dyn Forge,
    with: &Publication<'_>,
    body: impl FnOnce(&CommitSha) -> Result<String, Failure> + Send,
) -> Result<(PullRequest, CommitSha), Failure> {
    let Some(base) = &with.base.branch else {
        let message = "A pull request goes against a branch, and the task started from a commit that is none";
        return Err(Failure::new(Code::BaseNotFound, message).next("Name a branch with --base."));
    };
    // The types say so already; this says it of the record.
    if with.evidence.tree != *verified.patched().tree() {
        return Err(Failure::internal("the evidence is about another tree than the one that was verified"));
    }
    let repo = &with.task.request.repo;
    let request = &with.task.request;
    let title = templates::subject(&request.instruction.title, request.issue());
    let (branch, head) = push(verified, mirror, forge, with, &title).await?;
    if let Some(revision) = with.revision {
        return Ok((PullRequest { head: head.clone(), ..revision.pull_request.clone() }, head));
    }
    let body = match template::find(mirror, &with.base.commit, &with.options.template).await? {
        Some(template) => {
            templates::into_repository_template(&body(&head)?, &template, with.options.section.as_deref())
        }
        None => body(&head)?,
    };
    let new = NewPullRequest {
        repo,
        fence: with.fence,
        branch: &branch,
        head: &head,
        base,
        title: &title,
        body: &body,
        draft: with.options.draft.applies(verified.checks()),
        labels: &with.options.labels,
        reviewers: &with.options.reviewers,
    };
    Ok((forge.pull_request(new).await?, head))
}

async fn push(
    verified: &VerifiedPatch,
    mirror: &Mirror,
    forge: &dyn Forge,
    with: &Publication<'_>,
    title: &str,
) -> Result<(BranchName, CommitSha), Failure> {
    let task = with.task.id.to_string();
    let message = templates::commit_message(&templates::CommitMessage {
        title,
        issue: with.task.request.issue(),
        task_id: &task,
        trailers: &trailers(&with.options.trailers, with.evidence.agent.as_str(), &with.task.request.actor),
    })
    .map_err(Failure::internal)?;
    if with.identity.via == Via::Api
        && let Some(commit) = by_forge(verified, mirror, forge, with, &message, &task).await?
    {
        return Ok(commit);
    }
    let wanted = push::Push {
        branch: with
            .revision
            .map_or_else(|| with.task.branch(&with.options.branch), |revision| revision.pull_request.branch.clone()),
        parents: with.revision.map_or_else(|| vec![with.base.commit.clone()], Revision::parents),
        follows: with.revision.map(|revision| revision.pull_request.head.clone()),
        tree: verified.patched().tree().clone(),
        message,
        task,
        short_id: with.task.id.short(),
        identity: with.identity.clone(),
        now: with.now,
    };
    let remote = forge.remote(&with.task.request.repo).await?;
    let call = Call::new(remote.token.clone(), push::PUSH_TIMEOUT);
    let _cancel = call.cancel_on_drop();
    let fence = with.fence.clone();
    mirror.read(move |repo| push::push(repo, &remote, &wanted, &fence, &call)).await
}

/// `None`: the forge makes no commits.
async fn by_forge(
    verified: &VerifiedPatch,
    mirror: &Mirror,
    forge: &dyn Forge,
    with: &Publication<'_>,
    message: &str,
    task: &str,
) -> Result<Option<(BranchName, CommitSha)>, Failure> {
    let tree = verified.patched().tree();
    let parents = with.revision.map_or_else(|| vec![with.base.commit.clone()], Revision::parents);
    let branch = match with.revision {
        Some(revision) => revision.pull_request.branch.clone(),
        None => with.task.branch(&with.options.branch),
    };
    let (changes_from, changes) = by_forge::changes(mirror, &parents[0], tree).await?;
    let new = NewCommit {
        repo: &with.task.request.repo,
        fence: with.fence,
        branch: &branch,
        parents: &parents,
        follows: with.revision.map(|revision| &revision.pull_request.head),
        tree,
        changes_from: &changes_from,
        changes: &changes,
        message,
        task,
    };
    let made = forge.commit(new).await?;
    Ok(made.map(|commit| (branch, commit)))
}

fn body(
    verified: &VerifiedPatch,
    with: &Publication<'_>,
    head: &CommitSha,
    bundle: &Bundle,
) -> Result<String, Failure> {
    let (task, evidence) = (with.task, with.evidence);
    let id = task.id.to_string();
    let body = templates::pull_request(&templates::PullRequestText {
        issue: task.request.issue(),
        title: &task.request.instruction.title,
        summary: with.summary,
        task_id: &id,
        head: head.short(),
        base: with.base.commit.short(),
        tree: evidence.tree.as_str(),
        patch_sha256: &evidence.patch_sha256,
        journal: evidence.journal.as_ref().map(ToString::to_string),
        stat: (evidence.n_files, evidence.n_added, evidence.n_removed),
        checks: verified.checks().iter().map(text::check_line).collect(),
        checks_from: &evidence.checks_from,
        sandbox: &evidence.sandbox,
        environment: &evidence.environment,
        agent: evidence.agent.as_str(),
        rounds: evidence.rounds,
        requester: &task.request.actor.login,
        time: text::duration_words(evidence.duration_ms),
        tokens: tokens(evidence.usage),
        cost: cost(evidence),
        blocked_hosts: evidence.blocked_hosts.iter().map(String::as_str).collect(),
        allow_lines: evidence.egress.as_ref().map(allow_lines).unwrap_or_default(),
        tier: evidence.tier.as_ref().map(|tier| templates::TierLine {
            name: &tier.name,
            because: tier.because.join(", "),
            approvals: tier.approvals,
        }),
        findings: evidence.findings.iter().map(finding_line).collect(),
        bundle: Some(bundle_text(bundle)),
    })
    .map_err(Failure::internal)?;
    let marker = templates::status_marker(&id);
    Ok(if body.contains(&marker) { body } else { format!("{}\n\n{marker}\n", body.trim_end()) })
}

/// The repository's trailers, filled in. One that needs what nobody knows is left out.
fn trailers(patterns: &[String], agent: &str, requester: &Actor) -> Vec<String> {
    let filled = patterns.iter().filter(|pattern| requester.id.is_some() || !pattern.contains("{requester_id}"));
    let id = requester.id.map_or_else(String::new, |id| id.to_string());
    filled
        .map(|pattern| {
            // In this order nothing that is filled in is taken for a placeholder: ids are digits, and agents letters.
            let known = pattern.replace("{requester_id}", &id).replace("{agent}", agent);
            known.replace("{requester}", &templates::one_line(&requester.login))
        })
        .collect()
}

fn bundle_text(bundle: &Bundle) -> templates::BundleText<'_> {
    templates::BundleText { sha256: &bundle.digest.sha256, key: &bundle.digest.key, text: bundle.text.trim_end() }
}

fn finding_line(finding: &Finding) -> templates::FindingLine<'_> {
    templates::FindingLine {
        rule: &finding.rule,
        action: finding.action.word(),
        path: finding.path.as_deref().unwrap_or_default(),
        message: &finding.message,
    }
}

/// `12,345 in, 678 out`; `None`: the agent said nothing.
fn tokens(usage: TokenUsage) -> Option<String> {
    let part = |n: Option<u64>, way: &str| n.map(|n| format!("{} {way}", grouped(n)));
    let parts: Vec<String> = [part(usage.input, "in"), part(usage.output, "out")].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What would allow the hosts that were refused, one line for each key of `.onramp.toml`.
fn allow_lines(egress: &EgressRecord) -> Vec<String> {
    let line = |phase: Phase| {
        let refused = egress
            .hosts
            .iter()
            .filter(|host| host.phase == phase && host.blocked.as_deref() == Some(&not_allowed(phase)));
        let mut entries: Vec<String> = refused
            .map(|host| format!("\"{}\"", presets::entry_for(host.host.split(':').next().unwrap_or_default())))
            .collect();
        entries.sort();
        entries.dedup();
        entries.truncate(MAX_ALLOW_ENTRIES);
        (!entries.is_empty()).then(|| format!("{} = [{}]", key_of(phase), entries.join(", ")))
    };
    Phase::ALL.into_iter().filter_map(line).collect()
}

/// `$0.84`, and where it comes from; `None`: nobody said anything.
fn cost(evidence: &Evidence) -> Option<String> {
    match (evidence.usage.cost_microusd, evidence.claimed) {
        (Some(cost), Some(_)) => Some(Money::microusd(cost).to_string()),
        (Some(cost), None) => Some(format!("{}, as the agent says", Money::microusd(cost))),
        (None, Some(_)) => Some("unknown, for want of a price".to_owned()),
        (None, None) => None,
    }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<String> =
        digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([1, 999, 1000, 1_234_567].map(grouped), ["1", "999", "1,000", "1,234,567"]);
        let usage = TokenUsage { input: Some(12_345), output: None, cost_microusd: None };
        assert_eq!(tokens(usage).as_deref(), Some("12,345 in"));
        assert_eq!(tokens(TokenUsage::default()), None);
    }

    #[test]
    fn trailers_say_what_is_known_and_nothing_else() {
        let patterns =
            ["Assisted-by: {agent}", "Co-authored-by: {requester} <{requester_id}+{requester}@x>"].map(str::to_owned);
        let ada = Actor { login: "ada".into(), id: Some(7) };
        assert_eq!(trailers(&patterns, "claude", &ada), ["Assisted-by: claude", "Co-authored-by: ada <7+ada@x>"]);
        let here = Actor { login: "ada\nSigned-off-by: {agent}".into(), id: None };
        assert_eq!(trailers(&patterns, "claude", &here), ["Assisted-by: claude"]);
        let own = ["Requested-by: {requester}".to_owned()];
        assert_eq!(trailers(&own, "claude", &here), ["Requested-by: ada Signed-off-by: {agent}"], "one line, as it is");
    }
}
