//! Why a task waits, in one line.

use tasks::{Task, TaskState, Timestamp, state::Wait};

/// Why it does not run now; `None` when it does not wait. `unfinished`: every task that waits or runs; `parallel`: how many
/// of one repository may run at the same time, 0: any number.
pub(super) fn it_waits(task: &Task, unfinished: &[Task], parallel: usize, now: Timestamp) -> Option<String> {
    let TaskState::Queued { not_before, waits } = &task.state else { return None };
    match waits {
        Some(Wait::Room { why }) => return Some(why.clone()),
        Some(Wait::Retry { why }) if *not_before > now => {
            return Some(format!("tried again in {} s: {why}", (*not_before - now).num_seconds().max(1)));
        }
        _ if *not_before > now => {
            return Some(format!("not before {} s from now", (*not_before - now).num_seconds().max(1)));
        }
        Some(Wait::Retry { .. }) | None => {}
    }
    if let Some(held) = &task.held {
        return Some(held.to_string());
    }
    let running = unfinished.iter().filter(|other| !matches!(other.state, TaskState::Queued { .. }));
    let (mut n_running, mut n_here) = (0, 0);
    for other in running {
        n_running += 1;
        n_here += usize::from(other.request.repo == task.request.repo);
    }
    if parallel > 0 && n_here >= parallel {
        return Some(format!("{n_here} of {} at work, and no more may be at the same time", task.request.repo));
    }
    // The list may have been read a moment after the task.
    let waiting = unfinished.iter().filter(|other| matches!(other.state, TaskState::Queued { .. }));
    let n_others = waiting.filter(|other| other.id != task.id).count();
    let others = match n_others {
        0 => String::new(),
        1 => ", one other waits too".to_owned(),
        n => format!(", {n} others wait too"),
    };
    Some(match n_running {
        0 => format!("no worker has asked for it yet{others}"),
        1 => format!("for a free worker: one task is at work{others}"),
        n => format!("for a free worker: {n} tasks are at work{others}"),
    })
}

#[cfg(test)]
mod tests {
    use tasks::{Actor, Deliver, Instruction, Lease, Resources, Source, Stage, TaskId, TaskRequest, Work};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_timestamp(1_790_000_000, 0).unwrap()
    }

    fn task(n: u8, repo: &str) -> Task {
        let instruction = Instruction { title: "x".into(), body: String::new(), trusted: true, about: String::new() };
        let request = TaskRequest {
            dedupe_key: format!("t:{n}").parse().unwrap(),
            source: Source::Api { number: None },
            actor: Actor { login: "ada".into(), id: None },
            repo: repo.parse().unwrap(),
            base: None,
            agent: None,
            instruction,
            deliver: Deliver::PullRequest,
            resources: Resources::default(),
            revises: None,
            work: Work::Change,
            discussed_until: None,
        };
        Task::new(TaskId::from_bytes([n; 16]), request, now())
    }

    fn running(mut task: Task) -> Task {
        let lease = Lease { task: task.id, worker: "w".parse().unwrap(), attempt: 1, expires_at: now() };
        task.state = TaskState::Running { lease, stage: Stage::AgentRunning };
        task
    }

    #[test]
    fn each_reason_is_one_line() {
        let (mine, other, busy) = (task(1, "a/b"), task(2, "a/b"), running(task(3, "a/b")));
        let why = |unfinished: &[Task], parallel| it_waits(&mine, unfinished, parallel, now());
        assert_eq!(why(std::slice::from_ref(&mine), 0).unwrap(), "no worker has asked for it yet");
        let all = [mine.clone(), other, busy.clone()];
        assert_eq!(why(&all, 0).unwrap(), "for a free worker: one task is at work, one other waits too");
        assert_eq!(why(&all, 1).unwrap(), "1 of a/b at work, and no more may be at the same time");
        let later = |waits| {
            let not_before = now() + chrono::Duration::seconds(40);
            Task { state: TaskState::Queued { not_before, waits }, ..mine.clone() }
        };
        let retry = later(Some(Wait::Retry { why: "the forge does not answer".into() }));
        assert_eq!(it_waits(&retry, &[], 0, now()).unwrap(), "tried again in 40 s: the forge does not answer");
        let room = later(Some(Wait::Room { why: "a/b has 5 open".into() }));
        assert_eq!(it_waits(&room, &[], 0, now()).unwrap(), "a/b has 5 open");
        assert_eq!(it_waits(&later(None), &[], 0, now()).unwrap(), "not before 40 s from now");
        assert_eq!(it_waits(&busy, &all, 0, now()), None);
    }
}
