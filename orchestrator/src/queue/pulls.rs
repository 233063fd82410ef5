//! How many pull requests of ours a repository has, and whether it bears one more.
//!
//! People drown in pull requests that they did not get round to, so each repository bears only so many that are open, so
//! many within an hour, and so many in a row that nobody did anything with. What would be one too many waits, before any
//! work is done for it. Kept in memory and only for what is durable: it is read from the index at every start.

use std::collections::HashMap;

use chrono::Duration;
use tasks::{RepoName, TaskId, TaskState, Timestamp};

use super::options::PullLimits;

/// Who waits for somebody to do something looks again so often, in case that it was missed.
const LOOK_AGAIN: Duration = Duration::hours(2);

/// The pull requests of all repositories.
#[derive(Debug, Default)]
pub(super) struct Pulls(HashMap<RepoName, OfRepo>);

#[derive(Debug, Default)]
struct OfRepo {
    pulls: HashMap<TaskId, Pull>,
    /// When somebody last did something with any of them.
    noticed_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Pull {
    opened_at: Timestamp,
    is_open: bool,
}

impl Pulls {
    /// Takes note of a task that has opened a pull request. `updated_at`: since when it is in this state.
    pub(super) fn take(
        &mut self,
        repo: &RepoName,
        task: TaskId,
        state: &TaskState,
        updated_at: Timestamp,
        noticed_at: Option<Timestamp>,
    ) {
        let is_open = match state {
            TaskState::PullRequestOpen { .. } => true,
            TaskState::Merged { .. } | TaskState::Closed { .. } => false,
            TaskState::Queued { .. }
            | TaskState::Running { .. }
            | TaskState::Updated { .. }
            | TaskState::DiffReady
            | TaskState::NoChanges
            | TaskState::Rejected { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. } => return,
        };
        let known = self.0.entry(repo.clone()).or_default();
        // Whoever merges or closes one has looked at it.
        known.noticed_at = known.noticed_at.max(if is_open { noticed_at } else { Some(updated_at) });
        match known.pulls.get_mut(&task) {
            Some(pull) => pull.is_open = is_open,
            None if is_open => drop(known.pulls.insert(task, Pull { opened_at: updated_at, is_open })),
            None => {}
        }
        known.pulls.retain(|_, pull| pull.is_open || pull.opened_at + Duration::hours(1) > updated_at);
    }

    /// Until when, and why, one more has to wait when `n_opening` are on their way already; `None`: it has not to.
    pub(super) fn wait(
        &self,
        repo: &RepoName,
        n_opening: usize,
        limits: &PullLimits,
        now: Timestamp,
    ) -> Option<(Timestamp, String)> {
        let nothing = OfRepo::default();
        let known = self.0.get(repo).unwrap_or(&nothing);
        let open = known.pulls.values().filter(|pull| pull.is_open);
        let n_open = open.clone().count();
        let n_unnoticed = open.filter(|pull| known.noticed_at.is_none_or(|at| pull.opened_at > at)).count();
        let reached = |limit: usize, n: usize| limit > 0 && n >= limit;

        let PullLimits { open: most_open, per_hour, unnoticed } = *limits;
        if reached(unnoticed, n_unnoticed + n_opening) {
            let why = format!(
                "nobody has done anything yet with the last {} of Onramp in {repo}, so it makes no more; it goes on when \
                 somebody merges, closes, reviews or comments on one of them",
                pull_requests(n_unnoticed + n_opening)
            );
            return Some((now + LOOK_AGAIN, why));
        }
        if reached(most_open, n_open + n_opening) {
            let why = format!(
                "{repo} has {} of Onramp open and {n_opening} on the way, and may have {most_open}; it goes on when one is \
                 merged or closed",
                pull_requests(n_open)
            );
            return Some((now + LOOK_AGAIN, why));
        }
        let an_hour_ago = now - Duration::hours(1);
        let mut opened: Vec<_> =
            known.pulls.values().map(|pull| pull.opened_at).filter(|opened_at| *opened_at > an_hour_ago).collect();
        if reached(per_hour, opened.len() + n_opening) {
            opened.sort_unstable();
            // What is on its way will count from when it is there, which nobody knows yet: then it is looked at again.
            let until = opened.first().map_or(now + Duration::minutes(10), |oldest| *oldest + Duration::hours(1));
            let why = format!(
                "{} of Onramp came to {repo} within the last hour or will soon, and {per_hour} may",
                pull_requests(opened.len() + n_opening)
            );
            return Some((until, why));
        }
        None
    }
}

fn pull_requests(n: usize) -> String {
    format!("{n} pull request{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use tasks::PullRequest;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_timestamp(1_790_000_000, 0).unwrap()
    }

    fn repo() -> RepoName {
        "acme/web".parse().unwrap()
    }

    fn id(n: u64) -> TaskId {
        TaskId::from_bytes(u128::from(n).to_be_bytes())
    }

    fn pull_request() -> PullRequest {
        PullRequest {
            repo: repo(),
            number: 1,
            url: "https://forge.example/1".into(),
            branch: "onramp/1".parse().unwrap(),
            head: "a".repeat(40).parse().unwrap(),
        }
    }

    fn open(pulls: &mut Pulls, task: u64, minutes_ago: i64) {
        let state = TaskState::PullRequestOpen { pull_request: pull_request() };
        pulls.take(&repo(), id(task), &state, now() - Duration::minutes(minutes_ago), None);
    }

    fn close(pulls: &mut Pulls, task: u64, minutes_ago: i64) {
        let state = TaskState::Closed { pull_request: pull_request() };
        pulls.take(&repo(), id(task), &state, now() - Duration::minutes(minutes_ago), None);
    }

    fn wait(pulls: &Pulls, n_opening: usize, limits: PullLimits) -> Option<(i64, String)> {
        let wait = pulls.wait(&repo(), n_opening, &limits, now());
        wait.map(|(until, why)| ((until - now()).num_minutes(), why))
    }

    #[test]
    fn no_more_are_open_than_may_be_and_what_is_on_its_way_counts() {
        let limits = PullLimits { open: 2, ..PullLimits::default() };
        let mut pulls = Pulls::default();
        assert_eq!(wait(&pulls, 1, limits), None);
        assert!(wait(&pulls, 2, limits).is_some());
        open(&mut pulls, 1, 500);
        open(&mut pulls, 2, 400);
        let (_, why) = wait(&pulls, 0, limits).unwrap();
        assert!(
            why.contains("acme/web has 2 pull requests of Onramp open") && why.contains("merged or closed"),
            "{why}"
        );
        close(&mut pulls, 1, 5);
        assert_eq!(wait(&pulls, 0, limits), None);
        assert!(wait(&pulls, 1, limits).is_some());
        assert_eq!(wait(&pulls, 9, PullLimits::default()), None, "0 is any number");
    }

    #[test]
    fn no_more_come_within_an_hour_than_may() {
        let limits = PullLimits { per_hour: 2, ..PullLimits::default() };
        let mut pulls = Pulls::default();
        open(&mut pulls, 1, 61);
        open(&mut pulls, 2, 50);
        assert_eq!(wait(&pulls, 0, limits), None);
        open(&mut pulls, 3, 20);
        assert_eq!(wait(&pulls, 0, limits).unwrap().0, 10, "an hour after the oldest that counts");
        close(&mut pulls, 2, 1);
        assert!(wait(&pulls, 0, limits).is_some(), "one that was closed was opened all the same");
        assert_eq!(wait(&Pulls::default(), 2, limits).unwrap().0, 10);
    }

    #[test]
    fn a_repository_is_left_alone_until_somebody_does_something_there() {
        let limits = PullLimits { unnoticed: 2, ..PullLimits::default() };
        let mut pulls = Pulls::default();
        open(&mut pulls, 1, 300);
        open(&mut pulls, 2, 200);
        assert!(wait(&pulls, 0, limits).unwrap().1.contains("nobody has done anything yet"));
        assert!(wait(&Pulls::default(), 2, limits).is_some(), "what is on its way counts");
        let state = TaskState::PullRequestOpen { pull_request: pull_request() };
        pulls.take(&repo(), id(1), &state, now() - Duration::minutes(300), Some(now() - Duration::minutes(100)));
        assert_eq!(wait(&pulls, 0, limits), None);
        open(&mut pulls, 3, 90);
        open(&mut pulls, 4, 80);
        assert!(wait(&pulls, 0, limits).is_some(), "two since then");
        close(&mut pulls, 4, 10);
        assert_eq!(wait(&pulls, 0, limits), None, "who closes one has looked");
    }
}
