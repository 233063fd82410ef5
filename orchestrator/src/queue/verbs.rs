//! What the queue can be asked to do: each verb decides on a [`Draft`], and the committer makes it durable.
//!
//! `now` is the moment at which the caller asked. A lease that was alive then is honoured, however long the disk kept
//! the committer waiting since.

use chrono::Duration;
use tasks::{
    Actor, Anchor, Change, Code, DedupeKey, Failure, Lease, Month, Note, Overdrawn, QueueError, Received, RepoName,
    Report, Reservation, Source, Stage, Task, TaskEvent, TaskId, TaskRequest, TaskState, Timestamp, WorkerName,
    queue::Renewal, task::place_of_number,
};

use super::{
    budget::Shortage,
    draft::{Draft, Next},
    index::Stored,
    record::{QueueRecord, Reported, With, bounded_note, event_of},
};

/// Stores a request, unless its key is known; one for an issue that an unfinished task is already at work on becomes a
/// note of that task, and one too many of a person is refused.
pub(super) fn enqueue(draft: &mut Draft<'_>, request: TaskRequest, now: Timestamp) -> Result<Received, QueueError> {
    if let Some(known) = draft.task_of_key(&request.dedupe_key)? {
        return Ok(Received::Known(known));
    }
    if let Some(task) = at_work_on_the_same(draft, &request)? {
        let stored = draft.find(task)?.ok_or(QueueError::UnknownTask(task))?;
        let note = Some(bounded_note(stored.task.note_of(&request, now)));
        draft.stage(QueueRecord::Joined { key: request.dedupe_key, task, at: now, note })?;
        return Ok(Received::Known(task));
    }
    let mut task = Task::new(TaskId::new(now), request, now);
    let id = task.id;
    task.priority = (draft.options().priority)(&task.request);
    let limit = draft.options().queued_per_actor;
    let actor = task.request.actor.clone();
    let too_many = limit > 0 && task.request.source != Source::CommandLine && draft.n_waiting(&actor) >= limit;
    if !too_many {
        draft.set_refused(&actor, None);
        draft.stage(QueueRecord::Enqueued { task: Box::new(task) })?;
        return Ok(Received::New(id));
    }
    // Told once: whoever floods must not be answered by a flood.
    if let Some(refused) = draft.refused(&actor) {
        draft.stage(QueueRecord::Joined { key: task.request.dedupe_key, task: refused, at: now, note: None })?;
        return Ok(Received::Known(refused));
    }
    let message = format!("{} has {limit} tasks waiting, which is the most that one person may have", actor.login);
    let failure = Failure::new(Code::TooManyQueued, message);
    task.apply(TaskEvent::Refused { failure }, &draft.options().retry, now)?;
    draft.stage(QueueRecord::Enqueued { task: Box::new(task) })?;
    draft.set_refused(&actor, Some(id));
    Ok(Received::New(id))
}

/// A label and a comment, or the label set twice, are one wish, and so are two wishes for one pull request: what the later
/// one says is not lost. A task that is being stopped does not count, nor does one that does something else.
fn at_work_on_the_same(draft: &mut Draft<'_>, request: &TaskRequest) -> Result<Option<TaskId>, QueueError> {
    let Some(place) = request.source.place() else { return Ok(None) };
    for id in draft.unfinished().of_place(&request.repo, place) {
        let Some(stored) = draft.find(id)? else { continue };
        if stored.task.cancel_requested.is_none() && stored.task.request.work == request.work {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

pub(super) fn cancel(draft: &mut Draft<'_>, id: TaskId, by: Actor, now: Timestamp) -> Result<(), QueueError> {
    let stored = draft.find(id)?.ok_or(QueueError::UnknownTask(id))?;
    match (&stored.task.state, &stored.task.cancel_requested) {
        (TaskState::Cancelled { .. }, _) | (TaskState::Running { .. }, Some(_)) => Ok(()),
        _ => draft.apply(id, TaskEvent::CancelRequested { by }, now),
    }
}

pub(super) fn finish(draft: &mut Draft<'_>, id: TaskId, by: Actor, now: Timestamp) -> Result<(), QueueError> {
    let stored = draft.find(id)?.ok_or(QueueError::UnknownTask(id))?;
    match (&stored.task.state, &stored.task.finish_requested) {
        (TaskState::Running { .. }, None) => draft.apply(id, TaskEvent::FinishRequested { by }, now),
        _ => Ok(()),
    }
}

/// A word for a task that waits or runs: it is shown to its next attempt, or becomes a task of its own when this one ends.
pub(super) fn say(
    draft: &mut Draft<'_>,
    key: DedupeKey,
    id: TaskId,
    (by, text): (Actor, String),
    now: Timestamp,
) -> Result<(), QueueError> {
    if draft.task_of_key(&key)?.is_some() {
        return Ok(());
    }
    let stored = draft.find(id)?.ok_or(QueueError::UnknownTask(id))?;
    if !stored.task.state.is_unfinished() {
        return Err(QueueError::HasEnded(id));
    }
    let note = Some(bounded_note(Note { actor: by, at: now, text }));
    draft.stage(QueueRecord::Joined { key, task: id, at: now, note })
}

pub(super) fn requeue(draft: &mut Draft<'_>, id: TaskId, now: Timestamp) -> Result<(), QueueError> {
    let stored = draft.find(id)?.ok_or(QueueError::UnknownTask(id))?;
    match at_work_on_the_same(draft, &stored.task.request)?.filter(|other| *other != id) {
        Some(other) => Err(QueueError::AlreadyAtWork(other)),
        None => draft.apply(id, TaskEvent::Requeued, now),
    }
}

pub(super) fn observe(draft: &mut Draft<'_>, key: DedupeKey, change: Change, now: Timestamp) -> Result<(), QueueError> {
    if draft.was_observed(&key)? {
        return Ok(());
    }
    match &change {
        Change::PullRequestMerged { repo, number } => {
            stop_all(draft, repo, *number, now)?;
            let task = draft.task_of_pull_request(repo, *number)?;
            note(draft, task, TaskEvent::PullRequestMerged, now)?;
        }
        Change::PullRequestClosed { repo, number } => {
            stop_all(draft, repo, *number, now)?;
            let task = draft.task_of_pull_request(repo, *number)?;
            note(draft, task, TaskEvent::PullRequestClosed, now)?;
        }
        Change::PullRequestReopened { repo, number } => {
            let task = draft.task_of_pull_request(repo, *number)?;
            note(draft, task, TaskEvent::PullRequestReopened, now)?;
        }
        Change::IssueWithdrawn { repo, issue, by } => {
            for id in draft.unfinished().of_place(repo, place_of_number(*issue)) {
                cancel(draft, id, by.clone(), now)?;
            }
        }
        Change::Noticed { repo, number } => {
            let Some(task) = draft.task_of_pull_request(repo, *number)? else { return Ok(()) };
            note(draft, Some(task), TaskEvent::Noticed, now)?;
        }
        // Whether they may is not known yet: who reads the events asks, and acts.
        Change::Asked(asked) if asked.on_pull_request => {
            let task = draft.task_of_pull_request(&asked.repo, asked.number)?;
            note(draft, task, TaskEvent::Noticed, now)?;
        }
        Change::Reviewed { repo, number, .. } => {
            let task = draft.task_of_pull_request(repo, *number)?;
            note(draft, task, TaskEvent::Noticed, now)?;
        }
        Change::Asked(_) | Change::Said(_) | Change::ChecksFailed { .. } | Change::BranchMoved { .. } => {}
    }
    // Last, so that a write that was cut short between them is simply observed again.
    draft.stage(QueueRecord::Observed { key, at: now, change })
}

/// Nobody waits any more for changes of a pull request that is not open.
fn stop_all(draft: &mut Draft<'_>, repo: &RepoName, number: u64, now: Timestamp) -> Result<(), QueueError> {
    for id in draft.unfinished().of_place(repo, place_of_number(number)) {
        if draft.find(id)?.is_none_or(|stored| stored.task.request.revises != Some(number)) {
            continue;
        }
        cancel(draft, id, Actor { login: "whoever closed the pull request".into(), id: None }, now)?;
    }
    Ok(())
}

/// The world may tell things twice or out of order; what does not fit is no error of whoever told it.
fn note(draft: &mut Draft<'_>, task: Option<TaskId>, event: TaskEvent, now: Timestamp) -> Result<(), QueueError> {
    let Some(task) = task else { return Ok(()) };
    match draft.apply(task, event, now) {
        Err(QueueError::InvalidTransition(refused)) => {
            tracing::debug!(task.id = %task, %refused, "passed over what does not fit the task");
            Ok(())
        }
        other => other,
    }
}

/// The next task for a worker, or when to look again.
pub(super) fn lease(
    draft: &mut Draft<'_>,
    worker: WorkerName,
    lasts: Duration,
    now: Timestamp,
) -> Result<Result<(Task, Lease), Option<Timestamp>>, QueueError> {
    for id in draft.with_room(now) {
        draft.apply(id, TaskEvent::LetGo, now)?;
    }
    let (stored, reservation) = loop {
        let (stored, reservation) = match next_affordable(draft, now)? {
            Ok(ready) => ready,
            Err(next) => return Ok(Err(next)),
        };
        match draft.waits_for_room(&stored.task, now) {
            Some((not_before, why)) => draft.apply(stored.task.id, TaskEvent::HeldBack { not_before, why }, now)?,
            None => break (stored, reservation),
        }
    };
    let id = stored.task.id;
    let lease = Lease { task: id, worker, attempt: stored.task.attempt + 1, expires_at: now + lasts };
    let with = With { reserved: Some(Box::new(reservation)), ..With::default() };
    draft.conclude(id, TaskEvent::Leased { lease: lease.clone() }, with, now)?;
    let mut task = draft.find(id)?.ok_or(QueueError::UnknownTask(id))?.task;
    let durable = draft.durable();
    task.anchor = Some(Anchor { sequence: durable.sequence, hash: durable.hash.to_string() });
    Ok(Ok((task, lease)))
}

/// The task whose turn it is, with what it may use. One that cannot begin for want of that is told so, once; one whose
/// own limit is used up ends, and makes room for those behind it.
fn next_affordable(
    draft: &mut Draft<'_>,
    now: Timestamp,
) -> Result<Result<(Stored, Reservation), Option<Timestamp>>, QueueError> {
    loop {
        let Next { ready, short } = draft.next_ready(now)?;
        let (mut n_ended, mut n_waiting) = (0, 0);
        for (stored, shortage) in short {
            match shortage {
                Shortage::Fail(failure) => {
                    draft.apply(stored.task.id, TaskEvent::Refused { failure }, now)?;
                    n_ended += 1;
                }
                Shortage::Wait(by) => {
                    n_waiting += 1;
                    // How much is used changes all the time; that it waits, and for what, does not.
                    let same =
                        |held: &Overdrawn| (&held.account, held.meter, held.month) == (&by.account, by.meter, by.month);
                    if !stored.task.held.as_deref().is_some_and(same) {
                        draft.apply(stored.task.id, TaskEvent::Overdrawn { by }, now)?;
                    }
                }
            }
        }
        match ready {
            Some(ready) => return Ok(Ok(ready)),
            None if n_ended > 0 => {}
            None => {
                let next_month = (n_waiting > 0).then(|| Month::of(now).end());
                return Ok(Err(draft.next_due().into_iter().chain(next_month).min()));
            }
        }
    }
}

pub(super) fn renew(
    draft: &mut Draft<'_>,
    lease: &Lease,
    stage: Stage,
    lasts: Duration,
    now: Timestamp,
) -> Result<Renewal, QueueError> {
    let stored = draft.held(lease, now)?;
    let until = draft.extend(lease, now, lasts);
    let reached = matches!(&stored.task.state, TaskState::Running { stage: known, .. } if *known == stage);
    if !reached {
        draft.apply(lease.task, TaskEvent::StageReached { stage }, now)?;
    }
    Ok(match (stored.task.cancel_requested, stored.task.finish_requested) {
        (Some(_), _) => Renewal::CancelRequested(until),
        (None, Some(_)) => Renewal::FinishRequested(until),
        (None, None) => Renewal::Held(until),
    })
}

pub(super) fn report(draft: &mut Draft<'_>, lease: &Lease, report: Report, now: Timestamp) -> Result<(), QueueError> {
    let (event, with) = event_of(report);
    match draft.held(lease, now) {
        Ok(_) => draft.conclude(lease.task, event, with, now),
        Err(stale) => {
            let mark = Reported::of(&lease.worker, lease.attempt, &event, with.evidence.as_deref())
                .map_err(|error| QueueError::Unavailable(error.to_string()))?;
            let taken =
                draft.find(lease.task)?.is_some_and(|stored| stored.reported.is_some() && stored.reported == mark);
            if taken { Ok(()) } else { Err(stale) }
        }
    }
}

/// Ends every lease that has run out.
pub(super) fn expire(draft: &mut Draft<'_>, now: Timestamp) -> Result<Vec<TaskId>, QueueError> {
    let ended = draft.unfinished().expired(now);
    for &id in &ended {
        draft.apply(id, TaskEvent::LeaseExpired, now)?;
    }
    Ok(ended)
}

/// Ends every lease of a worker that is known to be gone.
pub(super) fn release_worker(
    draft: &mut Draft<'_>,
    worker: &WorkerName,
    now: Timestamp,
) -> Result<Vec<TaskId>, QueueError> {
    let held = |lease: &Lease| lease.worker == *worker;
    let stored = draft.unfinished().iter().filter(|stored| stored.task.state.lease().is_some_and(held));
    let mut ids: Vec<_> = stored.map(|stored| (stored.enqueued, stored.task.id)).collect();
    ids.sort_unstable();
    for &(_, id) in &ids {
        draft.apply(id, TaskEvent::LeaseExpired, now)?;
    }
    Ok(ids.into_iter().map(|(_, id)| id).collect())
}

/// Takes back a lease that never reached the worker that asked for it.
pub(super) fn take_back(draft: &mut Draft<'_>, lease: &Lease, now: Timestamp) -> Result<(), QueueError> {
    match draft.held(lease, now) {
        Ok(_) => {
            let with = With { used: Some(Box::default()), ..With::default() };
            draft.conclude(lease.task, TaskEvent::Released, with, now)
        }
        Err(_) => Ok(()),
    }
}
