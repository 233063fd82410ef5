//! Random histories against a model that is too simple to be wrong: a list of tasks, with no disk and no threads.
//!
//! After every step the whole queue is compared with the model, so that these hold at every moment: what was acknowledged
//! is stored, one unfinished task for each issue, at most one live lease for each task, no write under a stale one or by a
//! stranger, attempts never fall, what has ended stays so, what is used and reserved never exceeds a limit. At the end the chain verifies against an anchor of the beginning,
//! and once faults stop, every task comes to an outcome. In between the queue is killed without warning, its last write is
//! cut anywhere while its index lags behind, its index is taken away, its disk is full, and its clock is set forward and
//! back while it is down (while it is up it goes by the machine's monotonic clock, which nobody sets). Segments are tiny, so
//! that every history rotates them.
//!
//! What a queue cannot see is held elsewhere: no box outlives its lease by `whatever_ends_a_box_nothing_of_it_stays`, the
//! trailer of a branch by `the_pushed_commit_is_the_tree_on_its_base_by_us`, one pull request and one comment by
//! `on_a_road_that_loses_every_third_answer_a_task_is_still_done_once` and `a_server_killed_between_an_act_and_its_record_does_it_once`,
//! no call while limited by `a_limit_says_until_when_and_nothing_is_sent_before_that`, an fsync before each answer by
//! `nothing_is_acknowledged_before_it_was_synced`.
//!
//! Each history has a number, which stands for all of it, and a failure tells it. About a hundred by default;
//! `PROPTEST_CASES=70000 cargo test --release -p orchestrator --lib queue::model -- --nocapture` is two million operations,
//! and `PROPTEST_RNG_SEED=N` begins with history N.

use tasks::{Account, Allowance, Meter, Month, Priority, Report, Stage, TaskState, WorkQueue as _, queue::Renewal};
use tempfile::TempDir;

use super::{
    budget::{Budgets, Level},
    tests::{ManualClock, ada, name, request},
    *,
};
use history::{At, Known, Op, report};

mod drive;
mod faults;
mod history;
mod money;

const REPOS: [&str; 3] = ["acme/web", "acme/api", "beta/app"];
const LEASE_S: i64 = 20;
const PARALLEL: usize = 2;
const MAX_QUEUED: usize = 4;

/// In memory where there is such a place: histories are many, and what a process leaves behind is the same there.
fn fresh_dir() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
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
    /// Who was told of too many tasks, by which one.
    refused: HashMap<u64, TaskId>,
    /// What the tasks of the person who is limited used, that have ended, in each month.
    used: HashMap<Month, u64>,
    /// How far the reader of events has come.
    read: u64,
    n_kills: usize,
}

impl World {
    fn new() -> Self {
        let (dir, clock) = (fresh_dir(), ManualClock::new());
        let queue = Some(Queue::open(dir.path(), Self::options(&clock)).unwrap());
        let (tasks, observed, leases) = (vec![], vec![], vec![]);
        let (keys, refused, used) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { dir, clock, queue, tasks, keys, observed, leases, refused, used, read: 0, n_kills: 0 }
    }

    fn options(clock: &ManualClock) -> QueueOptions {
        let priority = Arc::new(|request: &TaskRequest| match request.repo.as_str() == REPOS[2] {
            true => Priority::High,
            false => Priority::Normal,
        });
        QueueOptions {
            segment_bytes: 3000,
            checkpoints: true,
            keep_segments: 2,
            parallel_per_repository: PARALLEL,
            queued_per_actor: MAX_QUEUED,
            priority,
            budgets: Arc::new(money::budgets()),
            ..clock.options()
        }
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
        self.act(op).await;
        self.note_spent().await;
    }

    async fn act(&mut self, op: Op) {
        match op {
            Op::Enqueue { key, actor, repo, issue } => self.enqueue(key, actor, repo, issue).await,
            Op::EnqueueAtOnce { key, actor, repo, issue } => self.enqueue_at_once(key, actor, repo, issue).await,
            Op::Lease { worker } => self.lease(worker).await,
            Op::LeaseAtOnce => self.lease_at_once().await,
            Op::Pretend { lease, what } => self.pretend(lease, what).await,
            Op::Renew { lease, publishing } => self.renew(lease, publishing).await,
            Op::Report { lease, what } => self.report(lease, what).await,
            Op::Cancel { task } => {
                let Some(place) = self.place(task) else { return };
                let told = self.queue().cancel(self.tasks[place].id, ada()).await;
                assert_eq!(told.is_ok(), self.tasks[place].cancel());
            }
            Op::Requeue { task } => self.requeue(task).await,
            Op::PullRequest { key, task, what } => self.pull_request(key, task, what).await,
            Op::Read => self.read().await,
            Op::Withdraw { key, repo, issue } => self.withdraw(key, repo, issue).await,
            Op::Sweep => self.sweep().await,
            Op::ReleaseWorker { worker } => {
                self.queue().release_worker(&name(&format!("w{worker}"))).await.unwrap();
                let now = self.clock.now();
                self.lose(now, |at| matches!(at, At::Running { worker: w, .. } if *w == worker));
            }
            Op::Wait { seconds } => self.clock.advance(seconds),
            Op::Restart { without_index, jump_s } => self.restart(without_index, jump_s).await,
            Op::Kill { torn, jump_s } => self.kill(torn, jump_s),
            Op::KillInWrite { op, cut, fill, jump_s } => self.kill_in_write(*op, cut, fill, jump_s).await,
            Op::FullDisk { key, repo, issue } => self.full_disk(key, repo, issue).await,
        }
    }

    fn request(key: u8, actor: u64, repo: usize, issue: u64) -> TaskRequest {
        let actor = Actor { login: format!("p{actor}"), id: Some(actor) };
        TaskRequest { actor, ..request(REPOS[repo], issue, &format!("github:{key}")) }
    }

    async fn enqueue(&mut self, key: u8, actor: u64, repo: usize, issue: u64) {
        let received = self.queue().enqueue(Self::request(key, actor, repo, issue)).await.unwrap();
        self.received(received, key, actor, repo, issue);
    }

    /// The same delivery twice and another one for the same issue, in one group; they are decided in their order.
    async fn enqueue_at_once(&mut self, key: u8, actor: u64, repo: usize, issue: u64) {
        let (queue, other) = (self.queue(), key + 100);
        let (first, again, joined) = tokio::join!(
            queue.enqueue(Self::request(key, actor, repo, issue)),
            queue.enqueue(Self::request(key, actor, repo, issue)),
            queue.enqueue(Self::request(other, actor, repo, issue)),
        );
        self.received(first.unwrap(), key, actor, repo, issue);
        self.received(again.unwrap(), key, actor, repo, issue);
        self.received(joined.unwrap(), other, actor, repo, issue);
    }

    fn received(&mut self, received: Received, key: u8, actor: u64, repo: usize, issue: u64) {
        if let Some(id) = self.keys.get(&key) {
            assert_eq!(received, Received::Known(*id));
            return;
        }
        if let Some(task) = self.tasks.iter_mut().find(|task| task.at_work_on(repo, issue)) {
            assert_eq!(received, Received::Known(task.id));
            task.n_notes = (task.n_notes + 1).min(tasks::task::MAX_NOTES);
            self.keys.insert(key, task.id);
            return;
        }
        let queued = |task: &&Known| task.actor == actor && matches!(task.at, At::Queued { .. });
        let too_many = self.tasks.iter().filter(queued).count() >= MAX_QUEUED;
        if let Some(refused) = self.refused.get(&actor).filter(|_| too_many) {
            assert_eq!(received, Received::Known(*refused), "told once");
            self.keys.insert(key, *refused);
            return;
        }
        let Received::New(id) = received else { panic!("{received:?} for a key that is new") };
        self.keys.insert(key, id);
        let now = self.clock.now();
        let at = if too_many { At::Failed } else { At::Queued { not_before: now, due: now } };
        match too_many {
            true => drop(self.refused.insert(actor, id)),
            false => drop(self.refused.remove(&actor)),
        }
        self.tasks.push(Known::new(id, actor, repo, issue, at));
    }

    async fn lease(&mut self, worker: u8) {
        let granted = self.queue().lease_once(&name(&format!("w{worker}"))).await.unwrap();
        self.note_spent().await;
        self.granted(worker, granted);
    }

    /// Three workers in one group: no two get the same task.
    async fn lease_at_once(&mut self) {
        let queue = self.queue();
        let names = [0, 1, 2].map(|worker| name(&format!("w{worker}")));
        let (a, b, c) =
            tokio::join!(queue.lease_once(&names[0]), queue.lease_once(&names[1]), queue.lease_once(&names[2]));
        self.note_spent().await;
        for (worker, granted) in [a, b, c].into_iter().enumerate() {
            self.granted(worker as u8, granted.unwrap());
        }
    }

    fn granted(&mut self, worker: u8, granted: Option<(Task, Lease)>) {
        let now = self.clock.now();
        let at_work =
            |repo| self.tasks.iter().filter(|task| task.repo == repo && matches!(task.at, At::Running { .. })).count();
        let may: Vec<_> = (0..REPOS.len()).map(|repo| at_work(repo) < PARALLEL).collect();
        let due = |task: &Known| matches!(task.at, At::Queued { due, .. } if due <= now) && may[task.repo];
        let Some((task, lease)) = granted else {
            let ready = |task: &&Known| due(task) && self.may_use(task).is_none_or(|n| n >= money::LEAST);
            assert_eq!(self.tasks.iter().find(ready).map(|task| task.id), None, "a task was ready");
            return;
        };
        let place = self.tasks.iter().position(|known| known.id == task.id).unwrap();
        let Known { repo, actor, .. } = self.tasks[place];
        let first = self.tasks.iter().position(|known| (known.repo, known.actor) == (repo, actor) && due(known));
        assert_eq!(first, Some(place), "due, allowed, and the oldest of its repository and requester");
        let reserved = self.may_use(&self.tasks[place]);
        assert!(reserved.is_none_or(|n| n >= money::LEAST), "nothing is left for it");
        assert_eq!(task.reservation.unwrap().allowance.tokens, reserved);
        let known = &mut self.tasks[place];
        known.reserved = Some((Month::of(now), reserved));
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

    /// Somebody who never held the lease, with everything else right.
    async fn pretend(&mut self, n: usize, what: u8) {
        let Some(n) = n.checked_rem(self.leases.len()) else { return };
        let (place, lease) = self.leases[n].clone();
        let lease = Lease { worker: name("stranger"), ..lease };
        let renewed = self.queue().renew(&lease, Stage::Publishing).await;
        assert!(matches!(renewed, Err(QueueError::StaleLease { .. })), "{renewed:?}");
        let told = self.queue().report(&lease, report(what, place as u64 + 1, Some(9))).await;
        assert!(matches!(told, Err(QueueError::StaleLease { .. })), "{told:?}");
    }

    async fn report(&mut self, n: usize, what: u8) {
        let Some(n) = n.checked_rem(self.leases.len()) else { return };
        let (place, lease) = self.leases[n].clone();
        let now = self.clock.now();
        let used = self.tasks[place].uses(what);
        let told = self.queue().report(&lease, report(what, place as u64 + 1, used)).await;
        if !self.holds(place, &lease) {
            let repeated = self.tasks[place].reported == Some((lease.attempt, what));
            assert_eq!(told.is_ok(), repeated, "{told:?}");
            return;
        }
        told.unwrap();
        self.settle(place, used);
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
        let Known { repo, issue, .. } = self.tasks[place];
        let taken = (0..self.tasks.len()).any(|other| other != place && self.tasks[other].at_work_on(repo, issue));
        let known = &mut self.tasks[place];
        let may = matches!(known.at, At::Failed | At::NoChanges | At::Cancelled) && !taken;
        assert_eq!(told.is_ok(), may, "{told:?}");
        if may {
            (known.failures, known.crashes, known.cancelling, known.used) = (0, 0, false, 0);
            known.at = At::Queued { not_before: now, due: now };
        }
    }

    async fn pull_request(&mut self, key: u8, n: usize, what: u8) {
        let Some(place) = self.place(n) else { return };
        let key = format!("github:m{key}");
        let (repo, number) = (REPOS[0].parse().unwrap(), place as u64 + 1);
        let (change, from, to) = match what {
            0 => (Change::PullRequestMerged { repo, number }, At::Open, At::Merged),
            1 => (Change::PullRequestClosed { repo, number }, At::Open, At::Closed),
            _ => (Change::PullRequestReopened { repo, number }, At::Closed, At::Open),
        };
        self.queue().observe(key.parse().unwrap(), change).await.unwrap();
        if !self.observed.contains(&key) {
            self.observed.push(key);
            if self.tasks[place].at == from {
                self.tasks[place].at = to;
            }
        }
    }

    /// Reads all events that there are; what was read is what the segments may go up to.
    async fn read(&mut self) {
        let (head, _) = self.queue().journal_head();
        let events = self.queue().events_after(self.read, usize::MAX).await.unwrap();
        assert!(events.iter().all(|(sequence, _)| (self.read + 1..=head).contains(sequence)), "in their order");
        self.queue().set_cursor("reader", head).await.unwrap();
        self.read = head;
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
        for place in 0..self.tasks.len() {
            if lost(&self.tasks[place].at) {
                self.settle(place, None);
                self.tasks[place].crash(now);
            }
        }
    }

    async fn restart(&mut self, without_index: bool, jump_s: i64) {
        self.queue().shutdown().await;
        self.queue = None;
        if without_index {
            fs::remove_dir_all(self.dir.path().join("index")).unwrap();
        }
        self.reopen(jump_s);
    }

    fn reopen(&mut self, jump_s: i64) {
        self.clock.advance(jump_s);
        self.queue = Some(Queue::open(self.dir.path(), Self::options(&self.clock)).unwrap());
        self.recover();
    }

    /// What a start does to what is unfinished.
    fn recover(&mut self) {
        // Whoever was told of too many may be told again.
        self.refused.clear();
        let now = self.clock.now();
        for known in &mut self.tasks {
            match &mut known.at {
                At::Running { until, .. } => *until = now + Duration::seconds(LEASE_S),
                At::Queued { not_before, due } => *due = (*not_before).min(now + LONGEST_WAIT),
                At::Open | At::Merged | At::Closed | At::NoChanges | At::Failed | At::Cancelled => {}
            }
        }
    }

    /// Without further faults, everything comes to an end, in another month where a limit says so.
    async fn finish(&mut self) {
        for n in 0..150 {
            if !self.tasks.iter().any(Known::unfinished) {
                return;
            }
            self.clock.advance(if n % 8 == 7 { 32 * 86_400 } else { 1200 });
            self.sweep().await;
            self.lease(0).await;
            if let Some(last) = self.leases.len().checked_sub(1) {
                self.report(last, 1).await;
            }
        }
        panic!("these never end: {:#?}", self.tasks);
    }

    async fn check(&self) {
        let listed = self.queue().list(TaskFilter::default()).await.unwrap();
        let found: Vec<_> = listed
            .iter()
            .rev()
            .map(|task| {
                let Task { id, attempt, failures, crashes, .. } = task;
                (
                    *id,
                    task.state.word(),
                    *attempt,
                    *failures,
                    *crashes,
                    task.notes.len(),
                    task.cancel_requested.is_some(),
                )
            })
            .collect();
        let expected: Vec<_> = self.tasks.iter().map(Known::seen).collect();
        assert_eq!(found, expected);
        assert_eq!(self.queue().cursor("reader").await.unwrap(), self.read);
        self.check_money().await;
        for (task, known) in listed.iter().rev().zip(&self.tasks) {
            match (&task.state, &known.at) {
                (TaskState::Queued { not_before: found, .. }, At::Queued { not_before, .. }) => {
                    assert_eq!(found, not_before)
                }
                (TaskState::Running { lease, .. }, At::Running { until, .. }) => assert_eq!(lease.expires_at, *until),
                _ => {}
            }
        }
    }
}
