//! What may happen in a history, and what the model knows of one task.

use proptest::prelude::*;
use tasks::{Outcome, RetryPolicy, Tokens, Usage};

use super::{
    super::tests::{name, pull_request},
    *,
};

#[derive(Debug, Clone)]
pub(super) enum Op {
    Enqueue { key: u8, actor: u64, repo: usize, issue: u64 },
    EnqueueAtOnce { key: u8, actor: u64, repo: usize, issue: u64 },
    Lease { worker: u8 },
    LeaseAtOnce,
    Pretend { lease: usize, what: u8 },
    Renew { lease: usize, publishing: bool },
    Report { lease: usize, what: u8 },
    Cancel { task: usize },
    Requeue { task: usize },
    PullRequest { key: u8, task: usize, what: u8 },
    Read,
    Withdraw { key: u8, repo: usize, issue: u64 },
    Sweep,
    ReleaseWorker { worker: u8 },
    Wait { seconds: i64 },
    Restart { without_index: bool, jump_s: i64 },
    Kill { torn: u8, jump_s: i64 },
    KillInWrite { op: Box<Op>, cut: u16, fill: Option<u8>, jump_s: i64 },
    FullDisk { key: u8, repo: usize, issue: u64 },
}

/// What is one record, so that it is either there or not.
fn one_record() -> impl Strategy<Value = Op> {
    let which = 0..1000usize;
    prop_oneof![
        8 => (0..40u8, 1..3u64, 0..3usize, 1..6u64)
            .prop_map(|(key, actor, repo, issue)| Op::Enqueue { key, actor, repo, issue }),
        6 => (0..3u8).prop_map(|worker| Op::Lease { worker }),
        3 => (which.clone(), any::<bool>()).prop_map(|(lease, publishing)| Op::Renew { lease, publishing }),
        5 => (which.clone(), 0..5u8).prop_map(|(lease, what)| Op::Report { lease, what }),
        2 => which.clone().prop_map(|task| Op::Cancel { task }),
        2 => which.prop_map(|task| Op::Requeue { task }),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let which = 0..1000usize;
    prop_oneof![
        26 => one_record(),
        2 => (0..40u8, 1..3u64, 0..3usize, 1..6u64)
            .prop_map(|(key, actor, repo, issue)| Op::EnqueueAtOnce { key, actor, repo, issue }),
        1 => Just(Op::LeaseAtOnce),
        1 => (which.clone(), 0..5u8).prop_map(|(lease, what)| Op::Pretend { lease, what }),
        3 => (0..8u8, which, 0..3u8).prop_map(|(key, task, what)| Op::PullRequest { key, task, what }),
        2 => Just(Op::Read),
        1 => (0..5u8, 0..3usize, 1..4u64).prop_map(|(key, repo, issue)| Op::Withdraw { key, repo, issue }),
        2 => Just(Op::Sweep),
        1 => (0..3u8).prop_map(|worker| Op::ReleaseWorker { worker }),
        3 => (1..30i64).prop_map(|seconds| Op::Wait { seconds }),
        1 => (any::<bool>(), jump()).prop_map(|(without_index, jump_s)| Op::Restart { without_index, jump_s }),
        1 => (any::<u8>(), jump()).prop_map(|(torn, jump_s)| Op::Kill { torn, jump_s }),
        1 => (one_record(), any::<u16>(), any::<Option<u8>>(), jump())
            .prop_map(|(op, cut, fill, jump_s)| Op::KillInWrite { op: Box::new(op), cut, fill, jump_s }),
        1 => (0..40u8, 0..3usize, 1..6u64).prop_map(|(key, repo, issue)| Op::FullDisk { key, repo, issue }),
    ]
}

/// How far the clock is set while nobody looks.
pub(super) fn jump() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0i64), 1 => -3600..3600i64, 1 => Just(-86_400 * 365)]
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum At {
    Queued { not_before: Timestamp, due: Timestamp },
    Running { worker: u8, until: Timestamp, publishing: bool },
    Open,
    Merged,
    Closed,
    NoChanges,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) id: TaskId,
    pub(super) actor: u64,
    pub(super) repo: usize,
    pub(super) issue: u64,
    pub(super) at: At,
    pub(super) attempt: u32,
    pub(super) failures: u32,
    pub(super) crashes: u32,
    pub(super) n_notes: usize,
    pub(super) cancelling: bool,
    /// The attempt and the kind of the last report that was taken.
    pub(super) reported: Option<(u32, u8)>,
    /// What its attempts used since it was last put back.
    pub(super) used: u64,
    /// What the attempt that runs may use (`None`: anything), and the month in which that counts.
    pub(super) reserved: Option<(Month, Option<u64>)>,
}

impl Known {
    pub(super) fn new(id: TaskId, actor: u64, repo: usize, issue: u64, at: At) -> Self {
        let (attempt, failures, crashes, n_notes, used) = (0, 0, 0, 0, 0);
        let (cancelling, reported, reserved) = (false, None, None);
        Self { id, actor, repo, issue, at, attempt, failures, crashes, n_notes, cancelling, reported, used, reserved }
    }

    /// What an attempt says that it used: a part of what it may, depending on how it ends; or nothing at all.
    pub(super) fn uses(&self, what: u8) -> Option<u64> {
        let may = self.reserved.and_then(|(_, may)| may).unwrap_or(600);
        (what != 3).then(|| may * u64::from(what + 1) / 6)
    }

    pub(super) fn unfinished(&self) -> bool {
        matches!(self.at, At::Queued { .. } | At::Running { .. })
    }

    pub(super) fn back(&mut self, not_before: Timestamp) {
        self.at = if self.cancelling { At::Cancelled } else { At::Queued { not_before, due: not_before } };
    }

    pub(super) fn fail(&mut self, failure: &Failure, now: Timestamp) {
        self.failures += 1;
        match RetryPolicy::default().retry_at(failure, self.failures, now, self.id) {
            Some(at) => self.back(at),
            None => self.at = At::Failed,
        }
    }

    pub(super) fn crash(&mut self, now: Timestamp) {
        self.crashes += 1;
        let failure = Failure::lease_expired(&name("w1"));
        match RetryPolicy::default().retry_at(&failure, self.crashes, now, self.id) {
            Some(at) => self.back(at),
            None => self.at = if self.cancelling { At::Cancelled } else { At::Failed },
        }
    }

    pub(super) fn at_work_on(&self, repo: usize, issue: u64) -> bool {
        self.unfinished() && !self.cancelling && (self.repo, self.issue) == (repo, issue)
    }

    pub(super) fn cancel(&mut self) -> bool {
        match self.at {
            At::Queued { .. } => self.at = At::Cancelled,
            At::Running { .. } => self.cancelling = true,
            At::Cancelled => {}
            At::Open | At::Merged | At::Closed | At::NoChanges | At::Failed => return false,
        }
        true
    }

    /// What anybody can see of it.
    pub(super) fn seen(&self) -> (TaskId, &'static str, u32, u32, u32, usize, bool) {
        let word = match self.at {
            At::Queued { .. } => "queued",
            At::Running { publishing: false, .. } => "preparing",
            At::Running { publishing: true, .. } => "publishing",
            At::Open => "done",
            At::Merged => "merged",
            At::Closed => "closed",
            At::NoChanges => "no_changes",
            At::Failed => "failed",
            At::Cancelled => "stopped",
        };
        (self.id, word, self.attempt, self.failures, self.crashes, self.n_notes, self.cancelling)
    }
}

pub(super) fn report(what: u8, number: u64, tokens: Option<u64>) -> Report {
    let used = tokens.map(|input| Usage { tokens: Tokens { input, ..Tokens::default() }, ..Usage::default() });
    let finished = |outcome| Report::Finished { outcome, evidence: None, used };
    let failed = |code| Report::Failed { failure: Failure::new(code, "It went wrong"), evidence: None, used };
    match what {
        0 => finished(Outcome::PullRequestOpened { pull_request: pull_request(number) }),
        1 => finished(Outcome::NothingChanged),
        2 => failed(Code::ForgeUnavailable),
        3 => failed(Code::ChecksFailed),
        _ => Report::Released { used },
    }
}
