//! A verified patch becomes a commit, a branch and a pull request.
//!
//! Everything here may be repeated: the branch's name comes from the task, the commit carries the task's id, and the pull
//! request is found by its branch. A worker that died between two of these steps is followed by one that finds what is
//! there and does the rest.

mod check_run;
mod push;

pub use check_run::check_run;
pub(crate) use push::has_trailer;

use tasks::{Code, CommitSha, EgressRecord, Evidence, Failure, Money, Phase, PullRequest, Task, Timestamp, TokenUsage};

use crate::{
    checkout::{Base, Mirror, transport::Call},
    egress::{key_of, not_allowed, presets},
    fence::Fence,
    forge::{Forge, NewPullRequest},
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
}

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
) -> Result<(PullRequest, CommitSha), Failure> {
    let Some(base) = &with.base.branch else {
        let message = "A pull request goes against a branch, and the task started from a commit that is none";
        return Err(Failure::new(Code::BaseNotFound, message).next("Name a branch with --base."));
    };
    let repo = &with.task.request.repo;
    let branch = with.task.branch();
    let request = &with.task.request;
    let title = templates::subject(&request.instruction.title, request.issue());
    let head = push(verified, mirror, forge, &with, &title).await?;
    if let Some(revision) = with.revision {
        return Ok((PullRequest { head: head.clone(), ..revision.pull_request.clone() }, head));
    }
    let body = body(verified, &with, &head)?;
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
) -> Result<CommitSha, Failure> {
    let task = with.task.id.to_string();
    let message = templates::commit_message(&templates::CommitMessage {
        title,
        issue: with.task.request.issue(),
        task_id: &task,
        agent: with.evidence.agent.as_str(),
        requester: &with.task.request.actor.login,
    })
    .map_err(Failure::internal)?;
    let wanted = push::Push {
        branch: with.revision.map_or_else(|| with.task.branch(), |revision| revision.pull_request.branch.clone()),
        parents: with.revision.map_or_else(|| vec![with.base.commit.clone()], Revision::parents),
        follows: with.revision.map(|revision| revision.pull_request.head.clone()),
        tree: verified.patched().tree().clone(),
        message,
        task,
        identity: with.identity.clone(),
        now: with.now,
    };
    let remote = forge.remote(&with.task.request.repo).await?;
    let call = Call::new(remote.token.clone(), push::PUSH_TIMEOUT);
    let _cancel = call.cancel_on_drop();
    let fence = with.fence.clone();
    mirror.read(move |repo| push::push(repo, &remote, &wanted, &fence, &call)).await
}

fn body(verified: &VerifiedPatch, with: &Publication<'_>, head: &CommitSha) -> Result<String, Failure> {
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
    })
    .map_err(Failure::internal)?;
    let marker = templates::status_marker(&id);
    Ok(if body.contains(&marker) { body } else { format!("{}\n\n{marker}\n", body.trim_end()) })
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
}
