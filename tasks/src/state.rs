//! The life of a task as one pure function.
//!
//! [`Task::apply`] is the only place that assigns a state. Whoever persists a task calls it and stores the result;
//! a stale lease is refused before it is asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    failure::{Failure, RetryPolicy},
    ledger::Overdrawn,
    queue::Lease,
    repo::PullRequest,
    task::{Actor, Task},
};

/// Progress inside `Running`. Not a state: losing it loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Authorising, fetching the repository, starting the sandbox, setting it up.
    Preparing,
    /// The agent edits.
    AgentRunning,
    /// The patch is extracted, judged and checked in a fresh sandbox.
    Verifying,
    /// Commit, push, pull request: the point of no return.
    Publishing,
}

impl Stage {
    /// The word that every surface uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::AgentRunning => "running",
            Self::Verifying => "verifying",
            Self::Publishing => "publishing",
        }
    }
}

/// One thing about a patch that policy does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Violation {
    /// The rule: `protected_path`, `max_files`, `secret`, ...
    pub rule: String,
    /// The path, where there is one. Lossy for names that are not UTF-8.
    pub path: Option<String>,
    /// What was found, and what would be allowed.
    pub message: String,
}

/// Why a queued task is not taken up yet. One sentence each, without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Wait {
    /// Its repository has as many pull requests of Onramp as it may have. It may go before its time, when there is room.
    Room {
        /// Which limit, and what makes room.
        why: String,
    },
    /// An attempt failed, and the next one comes after a pause.
    Retry {
        /// What failed.
        why: String,
    },
}

impl Wait {
    /// In words.
    pub fn why(&self) -> &str {
        match self {
            Self::Room { why } | Self::Retry { why } => why,
        }
    }
}

/// Where a task stands. Data lives in the variant that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for a worker.
    Queued {
        /// Not to be leased before this moment.
        not_before: Timestamp,
        /// Why it waits until then, where there is more to it than that no worker was free.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waits: Option<Wait>,
    },
    /// A worker holds the lease.
    Running {
        /// The lease.
        lease: Lease,
        /// How far it is.
        stage: Stage,
    },
    /// The pull request is open.
    PullRequestOpen {
        /// It.
        pull_request: PullRequest,
    },
    /// The pull request was merged.
    Merged {
        /// It.
        pull_request: PullRequest,
    },
    /// The pull request was closed without merging.
    Closed {
        /// It.
        pull_request: PullRequest,
    },
    /// The pull request of an earlier task has the change.
    Updated {
        /// It.
        pull_request: PullRequest,
    },
    /// The diff passed and was to be published nowhere.
    DiffReady,
    /// The agent finished and changed nothing.
    NoChanges,
    /// Policy did not allow the patch.
    Rejected {
        /// Each reason.
        violations: Vec<Violation>,
    },
    /// It failed for good; the work is kept.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// Somebody stopped it.
    Cancelled {
        /// Who.
        by: Actor,
    },
}

impl TaskState {
    /// The word that every surface uses.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Running { stage, .. } => stage.word(),
            Self::PullRequestOpen { .. } | Self::Updated { .. } => "done",
            Self::Merged { .. } => "merged",
            Self::Closed { .. } => "closed",
            Self::DiffReady => "done",
            Self::NoChanges => "no_changes",
            Self::Rejected { .. } => "rejected",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "stopped",
        }
    }

    /// Whether work is still to be done: queued or running.
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Queued { .. } | Self::Running { .. })
    }

    /// The pull request that it came to, whatever became of that.
    pub fn pull_request(&self) -> Option<&PullRequest> {
        match self {
            Self::PullRequestOpen { pull_request }
            | Self::Updated { pull_request }
            | Self::Merged { pull_request }
            | Self::Closed { pull_request } => Some(pull_request),
            Self::Queued { .. }
            | Self::Running { .. }
            | Self::DiffReady
            | Self::NoChanges
            | Self::Rejected { .. }
            | Self::Failed { .. }
            | Self::Cancelled { .. } => None,
        }
    }

    /// The lease, while there is one.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Running { lease, .. } => Some(lease),
            _ => None,
        }
    }
}

/// How an attempt ended, when it ended in a verdict rather than a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The pull request is open (or was found open from an earlier attempt).
    PullRequestOpened {
        /// It.
        pull_request: PullRequest,
    },
    /// The diff passed; it was to be published nowhere.
    DiffVerified,
    /// The agent changed nothing.
    NothingChanged,
    /// Policy did not allow the patch.
    PolicyRejected {
        /// Each reason.
        violations: Vec<Violation>,
    },
    /// The pull request that was to be changed has the change.
    PullRequestUpdated {
        /// The pull request, with its new head.
        pull_request: PullRequest,
    },
    /// The worker stopped because it was told to.
    Cancelled,
}

/// What happened to a task. Past tense; the set only grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TaskEvent {
    /// A worker took it.
    Leased {
        /// The lease; its attempt is the task's attempt plus one.
        lease: Lease,
    },
    /// It went on to another stage.
    StageReached {
        /// Which.
        stage: Stage,
    },
    /// The worker gave it back unharmed (drain); costs no failure.
    Released,
    /// The worker ended it with a verdict.
    Finished {
        /// Which.
        outcome: Outcome,
    },
    /// The attempt failed.
    AttemptFailed {
        /// Why.
        failure: Failure,
    },
    /// The lease ran out: the worker vanished.
    LeaseExpired,
    /// It was not taken up, because its requester has too many tasks waiting.
    Refused {
        /// Why, and what to do.
        failure: Failure,
    },
    /// It was its turn, and a limit of this month does not allow it yet.
    Overdrawn {
        /// Which limit.
        by: Box<Overdrawn>,
    },
    /// Somebody asked for it to stop.
    CancelRequested {
        /// Who.
        by: Actor,
    },
    /// Somebody asked for it to end with what is there.
    FinishRequested {
        /// Who.
        by: Actor,
    },
    /// A person asked for a finished task to be tried again.
    Requeued,
    /// Its repository has no room for another pull request now.
    HeldBack {
        /// When there may be.
        not_before: Timestamp,
        /// One sentence, without a full stop.
        why: String,
    },
    /// There is room again.
    LetGo,
    /// Somebody did something with its pull request, or said something there.
    Noticed,
    /// It was said on its pull request that nobody does anything with it.
    FoundStale,
    /// The pull request was merged.
    PullRequestMerged,
    /// The pull request was closed without merging.
    PullRequestClosed,
    /// The pull request was opened again.
    PullRequestReopened,
}

impl TaskEvent {
    /// Its name.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Leased { .. } => "leased",
            Self::StageReached { .. } => "stage_reached",
            Self::Released => "released",
            Self::Finished { .. } => "finished",
            Self::AttemptFailed { .. } => "attempt_failed",
            Self::LeaseExpired => "lease_expired",
            Self::Refused { .. } => "refused",
            Self::Overdrawn { .. } => "overdrawn",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::FinishRequested { .. } => "finish_requested",
            Self::Requeued => "requeued",
            Self::HeldBack { .. } => "held_back",
            Self::LetGo => "let_go",
            Self::Noticed => "noticed",
            Self::FoundStale => "found_stale",
            Self::PullRequestMerged => "pull_request_merged",
            Self::PullRequestClosed => "pull_request_closed",
            Self::PullRequestReopened => "pull_request_reopened",
        }
    }
}

/// An event that the state does not know. The task is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot take the event {event:?}")]
pub struct InvalidTransition {
    /// The state's word.
    pub state: &'static str,
    /// The event.
    pub event: Box<TaskEvent>,
}

impl Task {
    /// Takes one event. On an error nothing has changed.
    ///
    /// # Errors
    /// [`InvalidTransition`] for every pair of state and event that is not in the table below.
    pub fn apply(&mut self, event: TaskEvent, policy: &RetryPolicy, now: Timestamp) -> Result<(), InvalidTransition> {
        use TaskEvent as E;
        use TaskState as S;
        let next = match (&self.state, event) {
            (S::Queued { .. }, E::Leased { lease }) if lease.task == self.id && lease.attempt == self.attempt + 1 => {
                self.attempt = lease.attempt;
                self.n_notes_seen = self.notes.len();
                self.held = None;
                S::Running { lease, stage: Stage::Preparing }
            }
            (S::Queued { .. }, E::CancelRequested { by }) => S::Cancelled { by },
            (S::Queued { .. }, E::Overdrawn { by }) => {
                self.held = Some(by);
                self.state.clone()
            }

            (S::Running { lease, .. }, E::StageReached { stage }) => S::Running { lease: lease.clone(), stage },
            (S::Running { .. }, E::CancelRequested { by }) => {
                self.cancel_requested.get_or_insert(by);
                self.state.clone()
            }
            (S::Running { .. }, E::FinishRequested { by }) => {
                self.finish_requested.get_or_insert(by);
                self.state.clone()
            }
            (S::Running { .. }, E::Released) => self.back_to_queue(now, None),
            (S::Running { .. }, E::Finished { outcome }) => match outcome {
                Outcome::PullRequestOpened { pull_request } => S::PullRequestOpen { pull_request },
                Outcome::PullRequestUpdated { pull_request } => S::Updated { pull_request },
                Outcome::DiffVerified => S::DiffReady,
                Outcome::NothingChanged => S::NoChanges,
                Outcome::PolicyRejected { violations } => S::Rejected { violations },
                // A worker may only stop for somebody; without a request it was a drain.
                Outcome::Cancelled => self.back_to_queue(now, None),
            },
            (S::Running { .. }, E::AttemptFailed { failure }) => {
                self.failures += 1;
                match policy.retry_at(&failure, self.failures, now, self.id) {
                    Some(not_before) => {
                        self.back_to_queue(not_before, Some(Wait::Retry { why: failure.message.clone() }))
                    }
                    None => S::Failed { failure },
                }
            }
            (S::Running { lease, stage }, E::LeaseExpired) => {
                let failure = Failure::lease_expired(&lease.worker);
                // A record of the first format knows no limit of its own for crashes: then each one was a failure.
                let count = if policy.max_crashes == 0 { &mut self.failures } else { &mut self.crashes };
                *count += 1;
                let count = *count;
                match policy.retry_at(&failure, count, now, self.id) {
                    Some(not_before) => {
                        self.back_to_queue(not_before, Some(Wait::Retry { why: failure.message.clone() }))
                    }
                    None if policy.max_crashes == 0 => S::Failed { failure },
                    None => match self.back_to_queue(now, None) {
                        S::Queued { .. } => S::Failed { failure: Failure::poison(&lease.worker, stage.word(), count) },
                        stopped => stopped,
                    },
                }
            }
            (S::Queued { .. }, E::Refused { failure }) => S::Failed { failure },

            (S::Failed { .. } | S::Rejected { .. } | S::NoChanges | S::Cancelled { .. }, E::Requeued) => {
                (self.failures, self.crashes) = (0, 0);
                (self.cancel_requested, self.finish_requested, self.held) = (None, None, None);
                self.used_before = self.used;
                S::Queued { not_before: now, waits: None }
            }

            (S::Queued { .. }, E::HeldBack { not_before, why }) => {
                S::Queued { not_before, waits: Some(Wait::Room { why }) }
            }
            (S::Queued { waits: Some(Wait::Room { .. }), .. }, E::LetGo) => S::Queued { not_before: now, waits: None },

            // Neither changes where the task stands, so it stands there since when it did.
            (S::PullRequestOpen { .. }, E::Noticed) => {
                (self.noticed_at, self.stale_at) = (Some(now), None);
                return Ok(());
            }
            (S::PullRequestOpen { .. }, E::FoundStale) => {
                self.stale_at = Some(now);
                return Ok(());
            }

            (S::PullRequestOpen { pull_request }, E::PullRequestMerged) => {
                S::Merged { pull_request: pull_request.clone() }
            }
            (S::PullRequestOpen { pull_request }, E::PullRequestClosed) => {
                S::Closed { pull_request: pull_request.clone() }
            }
            (S::Closed { pull_request }, E::PullRequestReopened) => {
                S::PullRequestOpen { pull_request: pull_request.clone() }
            }

            (state, event) => return Err(InvalidTransition { state: state.word(), event: Box::new(event) }),
        };
        self.state = next;
        self.updated_at = now;
        Ok(())
    }

    fn back_to_queue(&self, not_before: Timestamp, waits: Option<Wait>) -> TaskState {
        match &self.cancel_requested {
            Some(by) => TaskState::Cancelled { by: by.clone() },
            None => TaskState::Queued { not_before, waits },
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;
    use crate::{
        failure::{Code, FailureKind},
        task::{
            TaskId,
            tests::{now, request},
        },
    };

    fn task() -> Task {
        Task::new(TaskId::new(now()), request("Fix it"), now())
    }

    fn lease(task: &Task) -> Lease {
        Lease {
            task: task.id,
            worker: "w1".parse().unwrap(),
            attempt: task.attempt + 1,
            expires_at: now() + Duration::seconds(20),
        }
    }

    fn apply(task: &mut Task, event: TaskEvent) -> Result<(), InvalidTransition> {
        task.apply(event, &RetryPolicy::default(), now())
    }

    fn running() -> Task {
        let mut task = task();
        let lease = lease(&task);
        apply(&mut task, TaskEvent::Leased { lease }).unwrap();
        task
    }

    fn ada() -> Actor {
        Actor { login: "ada".into(), id: Some(7) }
    }

    #[test]
    fn a_lease_raises_the_attempt_by_exactly_one() {
        let mut task = task();
        let mut stale = lease(&task);
        stale.attempt = 5;
        let before = task.clone();
        assert!(apply(&mut task, TaskEvent::Leased { lease: stale }).is_err());
        assert_eq!(task, before, "a refused event changes nothing");
        let lease = lease(&task);
        apply(&mut task, TaskEvent::Leased { lease }).unwrap();
        assert_eq!(task.attempt, 1);
        assert_eq!(task.state.word(), "preparing");
    }

    #[test]
    fn a_task_waits_for_room_and_goes_when_there_is_some() {
        let mut task = task();
        assert!(apply(&mut task, TaskEvent::LetGo).is_err(), "it waits for nothing");
        let later = now() + Duration::hours(1);
        let why = "5 pull requests are open".to_owned();
        apply(&mut task, TaskEvent::HeldBack { not_before: later, why: why.clone() }).unwrap();
        assert_eq!(task.state, TaskState::Queued { not_before: later, waits: Some(Wait::Room { why }) });
        apply(&mut task, TaskEvent::LetGo).unwrap();
        assert_eq!(task.state, TaskState::Queued { not_before: now(), waits: None });
    }

    #[test]
    fn a_task_that_is_tried_again_says_what_failed() {
        let mut task = running();
        apply(&mut task, TaskEvent::AttemptFailed { failure: Failure::new(Code::ForgeUnavailable, "It is down") })
            .unwrap();
        let TaskState::Queued { waits: Some(wait), .. } = &task.state else { panic!("{:?}", task.state) };
        assert_eq!(wait.why(), "It is down");
    }

    #[test]
    fn a_pull_request_that_was_noticed_is_not_stale_and_stands_since_it_was_opened() {
        let mut task = running();
        let pull_request = PullRequest {
            repo: "acme/web".parse().unwrap(),
            number: 1,
            url: "https://forge.example/1".into(),
            branch: "onramp/1".parse().unwrap(),
            head: "a".repeat(40).parse().unwrap(),
        };
        let outcome = Outcome::PullRequestOpened { pull_request };
        apply(&mut task, TaskEvent::Finished { outcome }).unwrap();
        let later = now() + Duration::days(14);
        let policy = RetryPolicy::default();
        task.apply(TaskEvent::FoundStale, &policy, later).unwrap();
        assert_eq!((task.stale_at, task.updated_at), (Some(later), now()));
        task.apply(TaskEvent::Noticed, &policy, later).unwrap();
        assert_eq!((task.stale_at, task.noticed_at, task.updated_at), (None, Some(later), now()));
    }

    #[test]
    fn only_infrastructure_and_lost_leases_are_tried_again() {
        for kind in FailureKind::ALL {
            let mut task = running();
            let failure = Failure { kind, ..Failure::new(Code::Internal, "x") };
            apply(&mut task, TaskEvent::AttemptFailed { failure }).unwrap();
            let retried = matches!(task.state, TaskState::Queued { not_before, .. } if not_before > now());
            assert_eq!(retried, matches!(kind, FailureKind::Infrastructure | FailureKind::LeaseExpired), "{kind:?}");
        }
    }

    #[test]
    fn the_retry_budget_ends() {
        let mut task = task();
        for n in 1.. {
            let lease = lease(&task);
            apply(&mut task, TaskEvent::Leased { lease }).unwrap();
            apply(&mut task, TaskEvent::LeaseExpired).unwrap();
            if let TaskState::Failed { failure } = &task.state {
                assert_eq!(n, RetryPolicy::default().max_crashes);
                assert_eq!(failure.code, Code::PoisonTask);
                break;
            }
        }
        assert_eq!((task.attempt, task.crashes, task.failures), (3, 3, 0));
        apply(&mut task, TaskEvent::Requeued).unwrap();
        assert_eq!((task.state.word(), task.crashes), ("queued", 0));
    }

    #[test]
    fn failures_and_crashes_have_budgets_of_their_own() {
        let mut task = task();
        let failed = || TaskEvent::AttemptFailed { failure: Failure::new(Code::ForgeUnavailable, "x") };
        for event in [failed(), TaskEvent::LeaseExpired, failed(), TaskEvent::LeaseExpired] {
            let lease = lease(&task);
            apply(&mut task, TaskEvent::Leased { lease }).unwrap();
            apply(&mut task, event).unwrap();
        }
        assert_eq!((task.state.word(), task.failures, task.crashes), ("queued", 2, 2));
    }

    #[test]
    fn a_crash_of_the_first_format_counts_as_the_failure_that_it_was() {
        let mut task = running();
        let first = RetryPolicy { max_crashes: 0, max_failures: 1, ..RetryPolicy::default() };
        task.apply(TaskEvent::LeaseExpired, &first, now()).unwrap();
        assert_eq!((task.state.word(), task.failures, task.crashes), ("failed", 1, 0));
    }

    #[test]
    fn a_release_costs_no_failure_and_a_cancelled_task_never_goes_back() {
        let mut released = running();
        apply(&mut released, TaskEvent::Released).unwrap();
        assert_eq!((released.state.word(), released.failures), ("queued", 0));

        for event in [TaskEvent::Released, TaskEvent::LeaseExpired, TaskEvent::Finished { outcome: Outcome::Cancelled }]
        {
            let mut task = running();
            apply(&mut task, TaskEvent::CancelRequested { by: ada() }).unwrap();
            assert_eq!(task.state.word(), "preparing", "the worker hears of it with its next renewal");
            apply(&mut task, event).unwrap();
            assert_eq!(task.state, TaskState::Cancelled { by: ada() });
        }
    }

    #[test]
    fn finished_stays_finished() {
        let mut task = running();
        apply(&mut task, TaskEvent::Finished { outcome: Outcome::NothingChanged }).unwrap();
        let lease = lease(&task);
        for event in [
            TaskEvent::Leased { lease },
            TaskEvent::Released,
            TaskEvent::LeaseExpired,
            TaskEvent::Finished { outcome: Outcome::NothingChanged },
            TaskEvent::CancelRequested { by: ada() },
            TaskEvent::PullRequestMerged,
        ] {
            let error = apply(&mut task, event).unwrap_err();
            assert_eq!(error.state, "no_changes");
        }
        apply(&mut task, TaskEvent::Requeued).unwrap();
        assert_eq!(task.state.word(), "queued");
    }
}
