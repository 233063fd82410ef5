//! What is said of a task in its state of now.

use tasks::{Code, Evidence, Failure, Task, TaskState, Violation, Wait};
use workers::{forge::Reaction, text};

/// What a state looks like at a glance; `None`: nothing new.
pub(super) fn reaction(state: &TaskState) -> Option<Reaction> {
    match state {
        TaskState::Queued { .. } | TaskState::Running { .. } => Some(Reaction::Eyes),
        TaskState::PullRequestOpen { .. } | TaskState::Updated { .. } | TaskState::Merged { .. } => {
            Some(Reaction::Rocket)
        }
        TaskState::NoChanges | TaskState::Rejected { .. } | TaskState::Failed { .. } => Some(Reaction::Confused),
        TaskState::DiffReady | TaskState::Closed { .. } | TaskState::Cancelled { .. } => None,
    }
}

/// What a person has to know of, because nothing goes on by itself. Whoever may not ask, or asks too much, is not called.
pub(super) fn needs_a_person(state: &TaskState) -> Option<String> {
    match state {
        TaskState::Failed { failure } if matches!(failure.code, Code::PermissionDenied | Code::TooManyQueued) => None,
        TaskState::Failed { failure } => Some(format!("{} ({})", failure.message, failure.code)),
        TaskState::Rejected { .. } => Some("policy did not allow the change".to_owned()),
        TaskState::Queued { .. }
        | TaskState::Running { .. }
        | TaskState::PullRequestOpen { .. }
        | TaskState::Merged { .. }
        | TaskState::Closed { .. }
        | TaskState::Updated { .. }
        | TaskState::DiffReady
        | TaskState::NoChanges
        | TaskState::Cancelled { .. } => None,
    }
}

/// Whether the results of the last verification belong to this state; an older attempt's would mislead.
pub(crate) fn shows_checks(state: &TaskState) -> bool {
    match state {
        TaskState::PullRequestOpen { .. } | TaskState::Updated { .. } => true,
        TaskState::Failed { failure } => failure.code == Code::ChecksFailed,
        TaskState::Queued { .. }
        | TaskState::Running { .. }
        | TaskState::Merged { .. }
        | TaskState::Closed { .. }
        | TaskState::DiffReady
        | TaskState::NoChanges
        | TaskState::Rejected { .. }
        | TaskState::Cancelled { .. } => false,
    }
}

/// The comment of a task in its state of now.
pub(super) fn comment(task: &Task, evidence: Option<&Evidence>) -> Result<String, templates::RenderError> {
    let id = task.id.to_string();
    let held = task.held.as_deref().map(ToString::to_string);
    let mut context = templates::StatusComment {
        task_id: &id,
        state: task.state.word(),
        failures: task.failures,
        waits: None,
        stopping: task.cancel_requested.is_some() && task.state.is_unfinished(),
        stopped_by: None,
        pull_request: None,
        requester: &task.request.actor.login,
        failure: None,
        violations: vec![],
        checks: evidence.map(|e| e.checks.iter().map(text::check_line).collect()).unwrap_or_default(),
        kept: None,
    };
    match &task.state {
        TaskState::Queued { waits, .. } => context.waits = waits.as_ref().map(Wait::why).or(held.as_deref()),
        TaskState::Running { .. } | TaskState::DiffReady | TaskState::NoChanges => {}
        TaskState::PullRequestOpen { pull_request }
        | TaskState::Updated { pull_request }
        | TaskState::Merged { pull_request }
        | TaskState::Closed { pull_request } => {
            context.pull_request = Some((&pull_request.url, pull_request.number));
        }
        TaskState::Rejected { violations } => context.violations = violations.iter().map(violation_line).collect(),
        TaskState::Failed { failure } => {
            context.failure = Some(failure_line(failure));
            context.kept = kept(failure.code);
        }
        TaskState::Cancelled { by } => context.stopped_by = Some(&by.login),
    }
    templates::status_comment(&context)
}

fn violation_line(violation: &Violation) -> (&str, &str, &str) {
    (&violation.rule, violation.path.as_deref().unwrap_or_default(), &violation.message)
}

fn failure_line(failure: &Failure) -> templates::FailureLine<'_> {
    templates::FailureLine {
        code: failure.code.as_str(),
        message: &failure.message,
        next_step: &failure.next_step,
        detail: failure.detail.as_deref(),
    }
}

/// What a failed attempt leaves behind, where it got far enough to leave anything.
fn kept(code: Code) -> Option<&'static str> {
    match code {
        Code::ChecksFailed | Code::PushRejected | Code::PullRequestRefused | Code::PatchRefused => {
            Some("The diff, the transcript and the outputs of the checks, with Onramp under the id of the task")
        }
        Code::AgentFailed | Code::AgentTimedOut | Code::AgentIdle => {
            Some("The transcript and what had been changed, with Onramp under the id of the task")
        }
        Code::BudgetSpent => Some("The transcript and the outputs until then, with Onramp under the id of the task"),
        Code::SetupFailed => Some("The whole output of the setup, with Onramp under the id of the task"),
        _ => None,
    }
}
