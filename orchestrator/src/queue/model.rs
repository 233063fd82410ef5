//! Random histories against a model that is too simple to be wrong: a list of tasks, with no disk and no threads.

use proptest::prelude::*;
use tasks::{Outcome, TaskState};
use tempfile::TempDir;

use super::{
    tests::{ManualClock, ada, name, pull_request, request},
    *,
};

const REPOS: [&str; 3] = ["acme/web", "acme/api", "beta/app"];
const LEASE_S: i64 = 20;

#[derive(Debug, Clone)]
enum Op {
    Enqueue { key: u8, repo: usize, issue: u64 },
    Lease { worker: u8 },
    Renew { lease: usize, publishing: bool },
    Report { lease: usize, what: u8 },
    Cancel { task: usize },
    Requeue { task: usize },
    Merge { key: u8, task: usize },
    Withdraw { key: u8, repo: usize, issue: u64 },
    Sweep,
    ReleaseWorker { worker: u8 },
    Wait { seconds: i64 },
    Restart { without_index: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..1000usize;
    prop_oneof![
        6 => (0..12u8, 0..3usize, 1..4u64).prop_map(|(key, repo, issue)| Op::Enqueue { key, repo, issue }),
        6 => (0..3u8).prop_map(|worker| Op::Lease { worker }),
        3 => (which.clone(), any::<bool>()).prop_map(|(lease, publishing)| Op::Renew { lease, publishing }),
        5 => (which.clone(), 0..5u8).prop_map(|(lease, what)| Op::Report { lease, what }),
        2 => which.clone().prop_map(|task| Op::Cancel { task }),
        2 => which.clone().prop_map(|task| Op::Requeue { task }),
        2 => (0..5u8, which).prop_map(|(key, task)| Op::Merge { key, task }),
        1 => (0..5u8, 0..3usize, 1..4u64).prop_map(|(key, repo, issue)| Op::Withdraw { key, repo, issue }),
        2 => Just(Op::Sweep),
        1 => (0..3u8).prop_map(|worker| Op::ReleaseWorker { worker }),
        3 => (1..30i64).prop_map(|seconds| Op::Wait { seconds }),
        1 => any::<bool>().prop_map(|without_index| Op::Restart { without_index }),
    ]
}

#[derive(Debug, Clone, PartialEq)]
enum At {
    Queued { not_before: Timestamp },
    Running { worker: u8, until: Timestamp, publishing: bool },
    Open,
    Merged,
    NoChanges,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone)]
struct Known {
    id: TaskId,
    repo: usize,
    issue: u64,
    at: At,
    attempt: u32,
    failures: u32,
    cancelling: bool,
    /// The attempt and the kind of the last report that was taken.
    reported: Option<(u32, u8)>,
}

impl Known {
    fn unfinished(&self) -> bool {
        matches!(self.at, At::Queued { .. } | At::Running { .. })
    }

    fn back(&mut self, not_before: Timestamp) {
        self.at = if self.cancelling { At::Cancelled } else { At::Queued { not_before } };
    }

    fn fail(&mut self, failure: &Failure, now: Timestamp) {
        self.failures += 1;
        match RetryPolicy::default().retry_at(failure, self.failures, now, self.id) {
            Some(at) => self.back(at),
            None => self.at = At::Failed,
        }
    }

    fn cancel(&mut self) -> bool {
        match self.at {
            At::Queued { .. } => self.at = At::Cancelled,
            At::Running { .. } => self.cancelling = true,
            At::Cancelled => {}
            At::Open | At::Merged | At::NoChanges | At::Failed => return false,
        }
        true
    }

    /// What anybody can see of it.
    fn seen(&self) -> (TaskId, &'static str, u32, u32, bool) {
        let word = match self.at {
            At::Queued { .. } => "queued",
            At::Running { publishing: false, .. } => "preparing",
            At::Running { publishing: true, .. } => "publishing",
            At::Open => "done",
            At::Merged => "merged",
            At::NoChanges => "no_changes",
            At::Failed => "failed",
            At::Cancelled => "stopped",
        };
        (self.id, word, self.attempt, self.failures, self.cancelling)
    }
}

fn report(what: u8, number: u64) -> Report {
    let finished = |outcome| Report::Finished { outcome, evidence: None };
    let failed = |code| Report::Failed { failure: Failure::new(code, "It went wrong"), evidence: None };
    match what {
        0 => finished(Outcome::PullRequestOpened { pull_request: pull_request(number) }),
        1 => finished(Outcome::NothingChanged),
        2 => failed(Code::ForgeUnavailable),
        3 => failed(Code::ChecksFailed),
        _ => Report::Released,
    }
}

struct World {
    dir: TempDir,
    clock: ManualClock,
    queue: Option<Queue>,
    tasks: Vec<Known>,
    keys: HashMap<u8, TaskId>,
    observed: Vec<String>,
    /// All leases ever granted, with the place of their task.
    leases: Vec<(usize, Lease)>,
}

impl World {
    fn new() -> Self {
        let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
        let queue = Some(Queue::open(dir.path(), clock.options()).unwrap());
        Self { dir, clock, queue, tasks: vec![], keys: HashMap::new(), observed: vec![], leases: vec![] }
    }

    fn queue(&self) -> &Queue {
        self.queue.as_ref().unwrap()
    }

    /// The place of a task's number among those that there are; its pull request has the number after it.
    fn place(&self, n: usize) -> Option<usize> {
        n.checked_rem(self.tasks.len())
    }

    fn holds(&self, place: usize, lease: &Lease) -> bool {
        let task = &self.tasks[place];
        matches!(task.at, At::Running { until, .. } if until > self.clock.now()) && task.attempt == lease.attempt
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Enqueue { key, repo, issue } => self.enqueue(key, repo, issue).await,
            Op::Lease { worker } => self.lease(worker).await,
            Op::Renew { lease, publishing } => self.renew(lease, publishing).await,
            Op::Report { lease, what } => self.report(lease, what).await,
            Op::Cancel { task } => {
                let Some(place) = self.place(task) else { return };
                let told = self.queue().cancel(self.tasks[place].id, ada()).await;
                assert_eq!(told.is_ok(), self.tasks[place].cancel());
            }
            Op::Requeue { task } => self.requeue(task).await,
            Op::Merge { key, task } => self.merge(key, task).await,
            Op::Withdraw { key, repo, issue } => self.withdraw(key, repo, issue).await,
            Op::Sweep => self.sweep().await,
            Op::ReleaseWorker { worker } => {
                self.queue().release_worker(&name(&format!("w{worker}"))).await.unwrap();
                let now = self.clock.now();
                self.lose(now, |at| matches!(at, At::Running { worker: w, .. } if *w == worker));
            }
            Op::Wait { seconds } => self.clock.advance(seconds),
            Op::Restart { without_index } => self.restart(without_index).await,
        }
    }

    async fn enqueue(&mut self, key: u8, repo: usize, issue: u64) {
        let request = request(REPOS[repo], issue, &format!("github:{key}"));
        let received = self.queue().enqueue(request).await.unwrap();
        let joined = self
            .tasks
            .iter()
            .find(|task| task.unfinished() && !task.cancelling && (task.repo, task.issue) == (repo, issue));
        match self.keys.get(&key).copied().or(joined.map(|task| task.id)) {
            Some(id) => {
                assert_eq!(received, Received::Known(id));
                self.keys.insert(key, id);
            }
            None => {
                let Received::New(id) = received else { panic!("{received:?} for a key that is new") };
                self.keys.insert(key, id);
                let at = At::Queued { not_before: self.clock.now() };
                let fresh = Known { id, repo, issue, at, attempt: 0, failures: 0, cancelling: false, reported: None };
                self.tasks.push(fresh);
            }
        }
    }

    async fn lease(&mut self, worker: u8) {
        let now = self.clock.now();
        let due = |task: &Known| matches!(task.at, At::Queued { not_before } if not_before <= now);
        let granted = self.queue().lease_once(&name(&format!("w{worker}"))).await.unwrap();
        let Some((task, lease)) = granted else {
            assert!(!self.tasks.iter().any(due), "a task was ready");
            return;
        };
        let place = self.tasks.iter().position(|known| known.id == task.id).unwrap();
        let repo = self.tasks[place].repo;
        let oldest = self.tasks.iter().position(|known| known.repo == repo && due(known));
        assert_eq!(oldest, Some(place), "due, and the oldest of its repository");
        let known = &mut self.tasks[place];
        known.attempt += 1;
        assert_eq!((task.attempt, lease.attempt), (known.attempt, known.attempt));
        known.at = At::Running { worker, until: now + Duration::seconds(LEASE_S), publishing: false };
        self.leases.push((place, lease));
    }

    async fn renew(&mut self, n: usize, publishes: bool) {
        let Some(n) = n.checked_rem(self.leases.len()) else { return };
        let (place, lease) = self.leases[n].clone();
        let stage = if publishes { Stage::Publishing } else { Stage::Preparing };
        let renewed = self.queue().renew(&lease, stage).await;
        if !self.holds(place, &lease) {
            assert!(matches!(renewed, Err(QueueError::StaleLease { .. })), "{renewed:?}");
            return;
        }
        let end = self.clock.now() + Duration::seconds(LEASE_S);
        let known = &mut self.tasks[place];
        let cancelling = known.cancelling;
        if let At::Running { until, publishing, .. } = &mut known.at {
            (*until, *publishing) = (end, publishes);
        }
        assert_eq!(renewed.unwrap(), if cancelling { Renewal::CancelRequested(end) } else { Renewal::Held(end) });
    }

    async fn report(&mut self, n: usize, what: u8) {
        let Some(n) = n.checked_rem(self.leases.len()) else { return };
        let (place, lease) = self.leases[n].clone();
        let now = self.clock.now();
        let told = self.queue().report(&lease, report(what, place as u64 + 1)).await;
        if !self.holds(place, &lease) {
            let repeated = self.tasks[place].reported == Some((lease.attempt, what));
            assert_eq!(told.is_ok(), repeated, "{told:?}");
            return;
        }
        told.unwrap();
        let known = &mut self.tasks[place];
        known.reported = Some((lease.attempt, what));
        match what {
            0 => known.at = At::Open,
            1 => known.at = At::NoChanges,
            2 => known.fail(&Failure::new(Code::ForgeUnavailable, "x"), now),
            3 => known.fail(&Failure::new(Code::ChecksFailed, "x"), now),
            _ => known.back(now),
        }
    }

    async fn requeue(&mut self, n: usize) {
        let Some(place) = self.place(n) else { return };
        let now = self.clock.now();
        let told = self.queue().requeue(self.tasks[place].id).await;
        let known = &mut self.tasks[place];
        let may = matches!(known.at, At::Failed | At::NoChanges | At::Cancelled);
        assert_eq!(told.is_ok(), may, "{told:?}");
        if may {
            (known.failures, known.cancelling) = (0, false);
            known.at = At::Queued { not_before: now };
        }
    }

    async fn merge(&mut self, key: u8, n: usize) {
        let Some(place) = self.place(n) else { return };
        let key = format!("github:m{key}");
        let change = Change::PullRequestMerged { repo: REPOS[0].parse().unwrap(), number: place as u64 + 1 };
        self.queue().observe(key.parse().unwrap(), change).await.unwrap();
        if !self.observed.contains(&key) {
            self.observed.push(key);
            if self.tasks[place].at == At::Open {
                self.tasks[place].at = At::Merged;
            }
        }
    }

    async fn withdraw(&mut self, key: u8, repo: usize, issue: u64) {
        let key = format!("github:w{key}");
        let change = Change::IssueWithdrawn { repo: REPOS[repo].parse().unwrap(), issue, by: ada() };
        self.queue().observe(key.parse().unwrap(), change).await.unwrap();
        if !self.observed.contains(&key) {
            self.observed.push(key);
            for known in self.tasks.iter_mut().filter(|known| (known.repo, known.issue) == (repo, issue)) {
                if known.unfinished() {
                    known.cancel();
                }
            }
        }
    }

    async fn sweep(&mut self) {
        let now = self.clock.now();
        self.queue().expire_leases(now).await.unwrap();
        self.lose(now, |at| matches!(at, At::Running { until, .. } if *until <= now));
    }

    fn lose(&mut self, now: Timestamp, lost: impl Fn(&At) -> bool) {
        let failure = Failure::lease_expired(&name("w1"));
        for known in self.tasks.iter_mut().filter(|known| lost(&known.at)) {
            known.fail(&failure, now);
        }
    }

    async fn restart(&mut self, without_index: bool) {
        self.queue().shutdown().await;
        self.queue = None;
        if without_index {
            fs::remove_dir_all(self.dir.path().join("index")).unwrap();
        }
        self.queue = Some(Queue::open(self.dir.path(), self.clock.options()).unwrap());
        let end = self.clock.now() + Duration::seconds(LEASE_S);
        for known in &mut self.tasks {
            if let At::Running { until, .. } = &mut known.at {
                *until = end.max(*until);
            }
        }
    }

    async fn check(&self) {
        let listed = self.queue().list(TaskFilter::default()).await.unwrap();
        let found: Vec<_> = listed
            .iter()
            .rev()
            .map(|task| (task.id, task.state.word(), task.attempt, task.failures, task.cancel_requested.is_some()))
            .collect();
        let expected: Vec<_> = self.tasks.iter().map(Known::seen).collect();
        assert_eq!(found, expected);
        for (task, known) in listed.iter().rev().zip(&self.tasks) {
            match (&task.state, &known.at) {
                (TaskState::Queued { not_before: found }, At::Queued { not_before }) => assert_eq!(found, not_before),
                (TaskState::Running { lease, .. }, At::Running { until, .. }) => assert_eq!(lease.expires_at, *until),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_as_the_model_says(ops in prop::collection::vec(op(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for op in ops {
                world.step(op).await;
                world.check().await;
            }
            world.restart(true).await;
            world.check().await;
            let why = fs::read_to_string(world.dir.path().join("index.damaged/WHY"));
            assert!(why.is_err(), "an index was put aside: {why:?}");
        });
    }
}
