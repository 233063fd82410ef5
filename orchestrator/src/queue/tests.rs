//! The queue on a real directory: what survives, what is refused, what comes first.

use std::{collections::HashSet, time::Instant};

use tasks::{
    AgentName, CheckOutcome, CheckResult, Deliver, Instruction, Outcome, Priority, PullRequest, RepoName, Report,
    Resources, RetryPolicy, Source, Stage, TokenUsage, WorkQueue as _, queue::Renewal,
};
use tempfile::TempDir;

use super::{audit::AuditError, *};
use crate::reaper;

mod chain;
mod money;
mod repeats;
mod rotation;
mod rules;

const LEASE_S: i64 = 20;

#[derive(Clone)]
pub(super) struct ManualClock(Arc<Mutex<Timestamp>>);

impl ManualClock {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Timestamp::from_timestamp(1_790_000_000, 0).unwrap())))
    }

    pub(super) fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    pub(super) fn advance(&self, seconds: i64) {
        *self.0.lock().unwrap() += Duration::seconds(seconds);
    }

    pub(super) fn options(&self) -> QueueOptions {
        let clock = self.clone();
        // Tests that are about them switch them on: they add records of their own.
        QueueOptions { checkpoints: false, ..QueueOptions::new(Arc::new(move || clock.now())) }
    }
}

struct Room {
    dir: TempDir,
    clock: ManualClock,
    queue: Queue,
}

impl Room {
    fn new() -> Self {
        let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
        let queue = Queue::open(dir.path(), clock.options()).unwrap();
        Self { dir, clock, queue }
    }

    /// Closes the queue, does something to its files, opens it again.
    async fn reopened(self, meanwhile: impl FnOnce(&Path)) -> Self {
        self.queue.shutdown().await;
        drop(self.queue);
        meanwhile(self.dir.path());
        let queue = Queue::open(self.dir.path(), self.clock.options()).unwrap();
        Self { queue, ..self }
    }

    async fn all(&self) -> Vec<Task> {
        self.queue.list(TaskFilter::default()).await.unwrap()
    }

    async fn enqueue(&self, request: TaskRequest) -> TaskId {
        self.queue.enqueue(request).await.unwrap().id()
    }

    async fn lease(&self, worker: &str) -> (Task, Lease) {
        self.queue.lease_once(&name(worker)).await.unwrap().expect("a task is ready")
    }

    async fn word(&self, id: TaskId) -> &'static str {
        self.queue.get(id).await.unwrap().unwrap().state.word()
    }
}

fn journal_file(dir: &Path) -> PathBuf {
    dir.join("journal/000001.log")
}

pub(super) fn name(worker: &str) -> WorkerName {
    worker.parse().unwrap()
}

pub(super) fn ada() -> Actor {
    Actor { login: "ada".into(), id: Some(7) }
}

pub(super) fn request(repo: &str, issue: u64, key: &str) -> TaskRequest {
    TaskRequest {
        dedupe_key: key.parse().unwrap(),
        source: Source::IssueLabelled { issue, label: "onramp".into() },
        actor: ada(),
        repo: repo.parse().unwrap(),
        base: None,
        agent: None,
        instruction: Instruction {
            title: "Fix the pager".into(),
            body: "It drops a row.".into(),
            trusted: false,
            about: String::new(),
        },
        deliver: Deliver::PullRequest,
        resources: Resources::default(),
        revises: None,
        work: tasks::Work::default(),
        discussed_until: None,
    }
}

/// The `n`th of many requests that have nothing to do with each other.
fn nth(n: u64) -> TaskRequest {
    request("acme/web", n, &format!("github:{n}"))
}

pub(super) fn pull_request(number: u64) -> PullRequest {
    PullRequest {
        repo: "acme/web".parse().unwrap(),
        number,
        url: format!("https://forge.test/acme/web/pull/{number}"),
        branch: "onramp/1-fix".parse().unwrap(),
        head: "a".repeat(40).parse().unwrap(),
    }
}

fn opened(number: u64) -> Report {
    let outcome = Outcome::PullRequestOpened { pull_request: pull_request(number) };
    Report::Finished { outcome, evidence: Some(Box::new(evidence("ok"))), used: None }
}

fn failed(code: Code) -> Report {
    Report::Failed { failure: Failure::new(code, "It went wrong"), evidence: None, used: None }
}

fn evidence(output: &str) -> Evidence {
    Evidence {
        base: "b".repeat(40).parse().unwrap(),
        tree: "c".repeat(40).parse().unwrap(),
        patch_sha256: "d".repeat(64),
        n_files: 1,
        n_added: 2,
        n_removed: 3,
        checks: vec![CheckResult {
            name: "test".into(),
            command: "cargo test".into(),
            required: true,
            outcome: CheckOutcome::Passed,
            limits: vec![],
            flaky: false,
            already_failing: false,
            changed: vec![],
            tests: None,
            duration_ms: 5,
            output_tail: output.into(),
        }],
        proof: None,
        checks_from: "detected".into(),
        agent: "command".parse::<AgentName>().unwrap(),
        rounds: 1,
        usage: TokenUsage::default(),
        sandbox: "namespace".into(),
        environment: "host tools".into(),
        blocked_hosts: vec![],
        claimed: None,
        egress: None,
        gpu: None,
        journal: None,
        findings: vec![],
        tier: None,
        bundle: None,
        duration_ms: 9,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_deliveries_of_one_key_make_one_task_also_after_a_restart() {
    let room = Room::new();
    let queue = Arc::new(room.queue);
    let deliveries: Vec<_> = (0..50)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.enqueue(nth(1)).await.unwrap() })
        })
        .collect();
    let mut answers = Vec::new();
    for delivery in deliveries {
        answers.push(delivery.await.unwrap());
    }
    let ids: HashSet<_> = answers.iter().map(|answer| answer.id()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Received::New(_))).count(), 1);

    let room = Room { queue: Arc::into_inner(queue).unwrap(), ..room }.reopened(|_| {}).await;
    let again = room.queue.enqueue(nth(1)).await.unwrap();
    assert_eq!(again, Received::Known(answers[0].id()));
    assert_eq!(room.all().await.len(), 1);
}

#[tokio::test]
async fn a_second_request_for_the_same_issue_joins_the_task_that_is_at_work() {
    let room = Room::new();
    let first = room.enqueue(request("acme/web", 12, "github:1")).await;
    let second = room.queue.enqueue(request("acme/web", 12, "github:2")).await.unwrap();
    assert_eq!(second, Received::Known(first));
    let room = room.reopened(|dir| fs::remove_dir_all(dir.join("index")).unwrap()).await;
    assert_eq!(room.queue.enqueue(request("acme/web", 12, "github:2")).await.unwrap(), Received::Known(first));
    // One that is stopped is no longer at work.
    room.queue.cancel(first, ada()).await.unwrap();
    assert!(matches!(room.queue.enqueue(request("acme/web", 12, "github:3")).await.unwrap(), Received::New(_)));
    assert!(matches!(room.queue.enqueue(request("acme/api", 12, "github:4")).await.unwrap(), Received::New(_)));
}

#[tokio::test]
async fn a_task_is_not_put_back_while_another_is_at_work_on_its_issue() {
    let room = Room::new();
    let first = room.enqueue(request("acme/web", 12, "github:1")).await;
    room.queue.cancel(first, ada()).await.unwrap();
    let second = room.enqueue(request("acme/web", 12, "github:2")).await;
    let refused = room.queue.requeue(first).await;
    assert!(matches!(refused, Err(QueueError::AlreadyAtWork(other)) if other == second), "{refused:?}");
    room.queue.cancel(second, ada()).await.unwrap();
    room.queue.requeue(first).await.unwrap();
}

/// A history with every kind of record in it.
async fn history(room: &Room) {
    for n in 1..=6 {
        room.enqueue(nth(n)).await;
    }
    let (_, merged) = room.lease("w1").await;
    room.queue.renew(&merged, Stage::Publishing).await.unwrap();
    room.queue.report(&merged, opened(41)).await.unwrap();
    let change = Change::PullRequestMerged { repo: "acme/web".parse().unwrap(), number: 41 };
    room.queue.observe("github:merge".parse().unwrap(), change).await.unwrap();
    let (_, empty) = room.lease("w1").await;
    let nothing = Report::Finished { outcome: Outcome::NothingChanged, evidence: None, used: None };
    room.queue.report(&empty, nothing).await.unwrap();
    let (_, retried) = room.lease("w1").await;
    room.queue.report(&retried, failed(Code::ForgeUnavailable)).await.unwrap();
    let (_, lost) = room.lease("w2").await;
    let (_, running) = room.lease("w3").await;
    room.queue.release_worker(&name("w2")).await.unwrap();
    room.queue.cancel(lost.task, ada()).await.unwrap();
    room.queue.requeue(empty.task).await.unwrap();
    room.queue.renew(&running, Stage::AgentRunning).await.unwrap();
    room.queue.set_cursor("notify", 7).await.unwrap();
}

#[tokio::test]
async fn an_index_that_is_gone_or_unreadable_is_made_anew_from_the_journal() {
    let room = Room::new();
    history(&room).await;
    let (before, head) = (room.all().await, room.queue.journal_head());
    assert_eq!(before.len(), 6);

    let room = room.reopened(|dir| fs::remove_dir_all(dir.join("index")).unwrap()).await;
    assert_eq!(room.all().await, before);
    assert_eq!(room.queue.journal_head(), head);
    assert_eq!(room.queue.cursor("notify").await.unwrap(), 7);
    let merged = before.iter().find(|task| task.state.word() == "merged").unwrap();
    assert_eq!(room.queue.evidence(merged.id).await.unwrap(), Some(evidence("ok")));

    let room = room
        .reopened(|dir| {
            for file in fs::read_dir(dir.join("index")).unwrap() {
                let path = file.unwrap().path();
                if path.is_file() {
                    fs::write(path, b"this is no database").unwrap();
                }
            }
        })
        .await;
    assert_eq!(room.all().await, before);
    assert!(room.dir.path().join("index.damaged").is_dir(), "the bad one is kept");
}

#[tokio::test]
async fn a_replay_under_another_retry_policy_gives_the_same_tasks() {
    let room = Room::new();
    let id = room.enqueue(nth(1)).await;
    let (_, lease) = room.lease("w1").await;
    room.queue.report(&lease, failed(Code::ForgeUnavailable)).await.unwrap();
    let before = room.queue.get(id).await.unwrap();
    room.queue.shutdown().await;
    fs::remove_dir_all(room.dir.path().join("index")).unwrap();
    let strict = RetryPolicy { max_failures: 1, ..RetryPolicy::default() };
    let queue = Queue::open(room.dir.path(), QueueOptions { retry: strict, ..room.clock.options() }).unwrap();
    assert_eq!(queue.get(id).await.unwrap(), before);
}

#[tokio::test]
async fn an_index_that_lags_behind_takes_in_what_it_lacks() {
    let room = Room::new();
    for n in 1..=3 {
        room.enqueue(nth(n)).await;
    }
    let copy = TempDir::new().unwrap();
    let room = room.reopened(|dir| copy_dir(&dir.join("index"), copy.path())).await;
    history_tail(&room).await;
    let before = room.all().await;
    let room = room
        .reopened(|dir| {
            fs::remove_dir_all(dir.join("index")).unwrap();
            copy_dir(copy.path(), &dir.join("index"));
        })
        .await;
    assert_eq!(room.all().await, before);
    assert!(!room.dir.path().join("index.damaged").exists(), "nothing had to be made anew");
}

async fn history_tail(room: &Room) {
    let (_, lease) = room.lease("w1").await;
    room.queue.report(&lease, opened(1)).await.unwrap();
    for n in 4..=300 {
        room.enqueue(nth(n)).await;
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_sound_index_that_cannot_be_opened_just_now_is_not_thrown_away() {
    let room = Room::new();
    room.enqueue(nth(1)).await;
    room.queue.shutdown().await;
    // As sled's own threads do for a moment after it was closed.
    let holder = fs::File::open(room.dir.path().join("index/db")).unwrap();
    holder.lock().unwrap();
    let failure = Queue::open(room.dir.path(), room.clock.options()).err().expect("it is in use");
    assert_eq!(failure.code, Code::StoreUnavailable);
    assert!(!room.dir.path().join("index.damaged").exists());
    drop(holder);
    let room = room.reopened(|_| {}).await;
    assert_eq!(room.all().await.len(), 1);
    assert!(!room.dir.path().join("index.damaged").exists());
}

#[tokio::test]
async fn an_index_of_another_journal_is_not_believed() {
    let (one, other) = (Room::new(), Room::new());
    one.enqueue(nth(1)).await;
    other.enqueue(nth(2)).await;
    other.queue.shutdown().await;
    let before = one.all().await;
    let one = one
        .reopened(|dir| {
            fs::remove_dir_all(dir.join("index")).unwrap();
            copy_dir(&other.dir.path().join("index"), &dir.join("index"));
        })
        .await;
    assert_eq!(one.all().await, before);
}

#[tokio::test]
async fn a_snapshot_that_a_crash_left_half_written_does_no_harm() {
    let room = Room::new();
    history(&room).await;
    let before = room.all().await;
    let room = room.reopened(|dir| fs::write(dir.join("index/snap.FFFFFFFFFFFFFFF0.generating"), b"").unwrap()).await;
    assert_eq!(room.all().await, before);
    assert!(!room.dir.path().join("index.damaged").exists());
}

#[tokio::test]
async fn a_last_record_that_is_cut_short_is_cut_off_and_the_rest_stays() {
    let mut room = Room::new();
    room.enqueue(nth(1)).await;
    let before = room.all().await;
    let end = fs::metadata(journal_file(room.dir.path())).unwrap().len();
    room.enqueue(nth(2)).await;
    let whole = fs::read(journal_file(room.dir.path())).unwrap();
    for cut in [end + 1, end + 80, whole.len() as u64 - 1] {
        room = room
            .reopened(|dir| {
                fs::write(journal_file(dir), &whole[..cut as usize]).unwrap();
                fs::remove_dir_all(dir.join("index")).unwrap();
            })
            .await;
        assert_eq!(room.all().await, before, "cut at {cut}");
        assert_eq!(fs::metadata(journal_file(room.dir.path())).unwrap().len(), end);
        assert!(matches!(room.queue.enqueue(nth(2)).await.unwrap(), Received::New(_)));
    }
}

#[tokio::test]
async fn an_end_that_the_index_knows_was_durable_and_is_not_cut_off_unseen() {
    let room = Room::new();
    room.enqueue(nth(1)).await;
    let end = fs::metadata(journal_file(room.dir.path())).unwrap().len();
    room.enqueue(nth(2)).await;
    room.queue.shutdown().await;
    let file = journal_file(room.dir.path());
    let whole = fs::read(&file).unwrap();
    for (cut, told) in [(end, "ends at record 1"), (end + 80, "record 2 at byte")] {
        fs::write(&file, &whole[..cut as usize]).unwrap();
        let failure = Queue::open(room.dir.path(), room.clock.options()).err().expect("a record is missing");
        assert_eq!(failure.code, Code::StoreDamaged);
        assert!(failure.message.contains(told), "{}", failure.message);
        assert!(room.dir.path().join("index").exists(), "it is what knows");
        assert_eq!(fs::metadata(&file).unwrap().len(), cut, "it was not touched");
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(
        Queue::open(room.dir.path(), room.clock.options()).unwrap().list(TaskFilter::default()).await.unwrap().len(),
        2
    );
}

#[tokio::test]
async fn a_flipped_byte_before_the_last_record_is_reported_with_its_place() {
    let room = Room::new();
    room.enqueue(nth(1)).await;
    let start = fs::metadata(journal_file(room.dir.path())).unwrap().len();
    room.enqueue(nth(2)).await;
    let end = fs::metadata(journal_file(room.dir.path())).unwrap().len();
    room.enqueue(nth(3)).await;
    room.queue.shutdown().await;
    let file = journal_file(room.dir.path());
    let whole = fs::read(&file).unwrap();
    for with_index in [true, false] {
        if !with_index {
            fs::remove_dir_all(room.dir.path().join("index")).unwrap();
        }
        for at in [start, start + 9, start + 60, (start + end) / 2, end - 1] {
            let mut bytes = whole.clone();
            bytes[at as usize] ^= 0x20;
            fs::write(&file, &bytes).unwrap();
            let failure = Queue::open(room.dir.path(), room.clock.options()).err().expect("it is damaged");
            assert_eq!(failure.code, Code::StoreDamaged);
            let place = format!("record 2 at byte {start} of {}", file.display());
            assert!(failure.message.contains(&place), "{}", failure.message);
            assert_eq!(fs::read(&file).unwrap(), bytes, "it was not touched");
            let AuditError::Journal(JournalError::Damaged(damage)) =
                audit::verify(&room.dir.path().join("journal"), None).unwrap_err()
            else {
                panic!("damage is damage")
            };
            assert_eq!((damage.sequence, damage.offset), (2, start));
        }
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(audit::verify(&room.dir.path().join("journal"), None).unwrap().n_records, 3);
}

#[tokio::test]
async fn a_record_that_was_taken_out_breaks_the_chain() {
    let room = Room::new();
    let mut ends = vec![];
    for n in 1..=3 {
        room.enqueue(nth(n)).await;
        ends.push(fs::metadata(journal_file(room.dir.path())).unwrap().len() as usize);
    }
    room.queue.shutdown().await;
    let file = journal_file(room.dir.path());
    let mut bytes = fs::read(&file).unwrap();
    bytes.drain(ends[0]..ends[1]);
    fs::write(&file, &bytes).unwrap();
    let failure = Queue::open(room.dir.path(), room.clock.options()).err().unwrap();
    assert_eq!(failure.code, Code::StoreDamaged);
    assert!(failure.message.ends_with("it says that it is record 3"), "{}", failure.message);
}

#[tokio::test]
async fn a_journal_that_is_gone_is_not_taken_for_an_empty_one() {
    let room = Room::new();
    room.enqueue(nth(1)).await;
    room.queue.shutdown().await;
    fs::remove_dir_all(room.dir.path().join("journal")).unwrap();
    let failure = Queue::open(room.dir.path(), room.clock.options()).err().unwrap();
    assert_eq!(failure.code, Code::StoreDamaged);
    assert!(room.dir.path().join("index").exists());
}

#[tokio::test]
async fn segments_follow_each_other_and_events_are_read_across_them() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let options = QueueOptions { segment_bytes: 4096, ..clock.options() };
    let queue = Queue::open(dir.path(), options.clone()).unwrap();
    for n in 1..=200 {
        queue.enqueue(nth(n)).await.unwrap();
    }
    queue.shutdown().await;
    let summary = audit::verify(&dir.path().join("journal"), None).unwrap();
    assert_eq!(summary.n_records, 200);
    assert!(summary.n_segments > 20, "{summary:?}");

    let queue = Queue::open(dir.path(), options.clone()).unwrap();
    let mut seen = Vec::new();
    let mut cursor = 0;
    loop {
        let events = queue.events_after(cursor, 7).await.unwrap();
        let Some((last, _)) = events.last() else { break };
        cursor = *last;
        seen.extend(events.into_iter().map(|(sequence, _)| sequence));
    }
    assert_eq!(seen, (1..=200).collect::<Vec<_>>());
    assert_eq!(queue.journal_head(), (summary.head.sequence, summary.head.hash));
    drop(queue);

    fs::remove_file(dir.path().join("journal/000002.log")).unwrap();
    let failure = Queue::open(dir.path(), options).err().unwrap();
    assert!(failure.message.contains("000002.log: the file is missing"), "{}", failure.message);
}

#[tokio::test]
async fn a_disk_that_was_full_heals_without_a_restart_and_takes_no_lease() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let options = QueueOptions { segment_bytes: 1, ..clock.options() };
    let queue = Queue::open(dir.path(), options.clone()).unwrap();
    let id = queue.enqueue(nth(1)).await.unwrap().id();
    let (_, lease) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
    // The next segment lands on a full device.
    let blocked = dir.path().join("journal/000004.new");
    std::os::unix::fs::symlink("/dev/full", &blocked).unwrap();
    for _ in 0..3 {
        assert!(matches!(queue.enqueue(nth(2)).await, Err(QueueError::Unavailable(_))));
        assert!(matches!(queue.report(&lease, opened(1)).await, Err(QueueError::Unavailable(_))));
        clock.advance(LEASE_S - 1);
        queue.renew(&lease, Stage::Preparing).await.expect("renewing needs no disk");
    }
    assert_eq!(queue.list(TaskFilter::default()).await.unwrap().len(), 1);

    fs::remove_file(blocked).unwrap();
    queue.report(&lease, opened(1)).await.unwrap();
    assert!(matches!(queue.enqueue(nth(2)).await.unwrap(), Received::New(_)));
    assert!(matches!(queue.get(id).await.unwrap().unwrap().state, TaskState::PullRequestOpen { .. }));
    queue.shutdown().await;
    assert_eq!(audit::verify(&dir.path().join("journal"), None).unwrap().n_records, 4);
}

#[tokio::test]
async fn in_a_group_that_failed_only_those_are_told_who_hung_on_it() {
    let (dir, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let queue = Queue::open(dir.path(), QueueOptions { segment_bytes: 1, ..clock.options() }).unwrap();
    let id = queue.enqueue(nth(1)).await.unwrap().id();
    let (_, lease) = queue.lease_once(&name("w1")).await.unwrap().unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("journal/000004.new")).unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    // While the committer is held, the others gather behind it and become one group.
    let hold = queue.submit(move |_| held.recv().map_err(|error| unavailable(&error)));
    let (_, new, again, renewed, known, ()) = tokio::join!(
        hold,
        queue.enqueue(nth(2)),
        queue.enqueue(nth(2)),
        queue.renew(&lease, Stage::Preparing),
        queue.enqueue(nth(1)),
        async { release.send(()).unwrap() },
    );
    assert!(matches!(new, Err(QueueError::Unavailable(_))), "{new:?}");
    assert!(matches!(again, Err(QueueError::Unavailable(_))), "the same key, seen in the group: {again:?}");
    assert!(matches!(renewed, Ok(Renewal::Held(_))), "{renewed:?}");
    assert!(matches!(known, Ok(Received::Known(known)) if known == id), "{known:?}");
}

#[tokio::test]
async fn a_stale_lease_is_refused_whatever_it_asks() {
    let room = Room::new();
    let id = room.enqueue(nth(1)).await;
    let (_, first) = room.lease("w1").await;
    room.clock.advance(LEASE_S);
    assert!(matches!(room.queue.renew(&first, Stage::Preparing).await, Err(QueueError::StaleLease { attempt: 1, .. })));
    assert_eq!(reaper::sweep_once(&room.queue, room.clock.now()).await.unwrap(), 1);
    room.clock.advance(60);
    let (task, second) = room.lease("w1").await;
    assert_eq!((task.id, second.attempt, task.crashes), (id, 2, 1));

    assert!(matches!(
        room.queue.renew(&first, Stage::Publishing).await,
        Err(QueueError::StaleLease { attempt: 1, .. })
    ));
    for report in [opened(1), failed(Code::Internal), Report::Released { used: None }] {
        assert!(matches!(room.queue.report(&first, report).await, Err(QueueError::StaleLease { attempt: 1, .. })));
    }
    let somebody = Lease { worker: name("w2"), ..second.clone() };
    assert!(matches!(room.queue.report(&somebody, opened(1)).await, Err(QueueError::StaleLease { .. })));
    assert_eq!(room.word(id).await, "preparing");
    room.queue.report(&second, opened(1)).await.unwrap();
}

#[tokio::test]
async fn renewing_keeps_a_lease_alive_notes_the_stage_and_brings_word_of_a_cancellation() {
    let room = Room::new();
    let id = room.enqueue(nth(1)).await;
    let (_, lease) = room.lease("w1").await;
    let (head, _) = room.queue.journal_head();
    for _ in 0..10 {
        room.clock.advance(LEASE_S - 1);
        let until = room.clock.now() + Duration::seconds(LEASE_S);
        assert_eq!(room.queue.renew(&lease, Stage::Preparing).await.unwrap(), Renewal::Held(until));
        assert_eq!(reaper::sweep_once(&room.queue, room.clock.now()).await.unwrap(), 0);
        let shown = room.queue.get(id).await.unwrap().unwrap();
        assert_eq!(shown.state.lease().unwrap().expires_at, until);
    }
    assert_eq!(room.queue.journal_head().0, head, "a renewal leaves no trace");
    room.queue.renew(&lease, Stage::AgentRunning).await.unwrap();
    assert_eq!(room.word(id).await, "running");
    assert_eq!(room.queue.journal_head().0, head + 1);

    room.queue.cancel(id, ada()).await.unwrap();
    room.queue.cancel(id, ada()).await.unwrap();
    assert_eq!(room.queue.journal_head().0, head + 2, "asking twice is asking once");
    let renewed = room.queue.renew(&lease, Stage::AgentRunning).await.unwrap();
    assert!(matches!(renewed, Renewal::CancelRequested(_)));
    let stopped = Report::Finished { outcome: Outcome::Cancelled, evidence: None, used: None };
    room.queue.report(&lease, stopped).await.unwrap();
    assert_eq!(room.queue.get(id).await.unwrap().unwrap().state, TaskState::Cancelled { by: ada() });
    room.queue.cancel(id, ada()).await.unwrap();
}

#[tokio::test]
async fn a_task_that_waits_for_its_retry_is_not_leased_early() {
    let room = Room::new();
    let id = room.enqueue(nth(1)).await;
    let (_, lease) = room.lease("w1").await;
    room.queue.report(&lease, failed(Code::ForgeUnavailable)).await.unwrap();
    let TaskState::Queued { not_before, .. } = room.queue.get(id).await.unwrap().unwrap().state else { panic!() };
    let room = room.reopened(|_| {}).await;
    while room.clock.now() < not_before {
        assert!(room.queue.lease_once(&name("w1")).await.unwrap().is_none());
        room.clock.advance(1);
    }
    assert_eq!(room.lease("w1").await.1.attempt, 2);
}

#[tokio::test]
async fn waiting_workers_are_woken_by_a_new_task_by_the_time_and_by_the_end() {
    let dir = TempDir::new().unwrap();
    let clock = steady_clock(Timestamp::from_timestamp(1_790_000_000, 0).unwrap());
    let retry = RetryPolicy { base: Duration::milliseconds(40), ..RetryPolicy::default() };
    let queue = Arc::new(Queue::open(dir.path(), QueueOptions { retry, ..QueueOptions::new(clock) }).unwrap());
    let waiting = |worker: &str| {
        let (queue, worker) = (queue.clone(), name(worker));
        tokio::spawn(async move { queue.lease(&worker).await })
    };
    let (one, two) = (waiting("w1"), waiting("w2"));
    queue.enqueue(nth(1)).await.unwrap();
    queue.enqueue(nth(2)).await.unwrap();
    let (_, first) = one.await.unwrap().unwrap();
    let (_, second) = two.await.unwrap().unwrap();
    assert_ne!(first.task, second.task);

    let waiter = waiting("w3");
    queue.report(&first, failed(Code::ForgeUnavailable)).await.unwrap();
    let (_, again) = waiter.await.unwrap().unwrap();
    assert_eq!((again.task, again.attempt), (first.task, 2));

    let waiter = waiting("w4");
    queue.shutdown().await;
    assert!(matches!(waiter.await.unwrap(), Err(QueueError::ShuttingDown)));
    assert!(matches!(queue.enqueue(nth(3)).await, Err(QueueError::ShuttingDown)));
}

#[tokio::test]
async fn a_lease_that_nobody_waits_for_any_more_goes_back_at_no_cost() {
    let room = Room::new();
    let id = room.enqueue(nth(1)).await;
    let grant = room.queue.grant(&name("gone")).await.unwrap().unwrap_or_else(|_| panic!("a task is ready"));
    assert_eq!(room.word(id).await, "preparing");
    drop(grant);
    let (task, lease) = room.queue.lease(&name("w1")).await.unwrap();
    assert_eq!((task.failures, lease.attempt), (0, 2));
}

#[tokio::test]
async fn no_repository_waits_behind_the_flood_of_another() {
    let room = Room::new();
    for n in 1..=50 {
        room.enqueue(request("flood/one", n, &format!("github:a{n}"))).await;
    }
    for (repo, n) in [("quiet/b", 1), ("quiet/c", 2), ("quiet/b", 3)] {
        room.enqueue(request(repo, n, &format!("github:b{n}"))).await;
    }
    let mut order = Vec::new();
    for _ in 0..7 {
        let (task, _) = room.lease("w1").await;
        order.push((task.request.repo.to_string(), task.request.issue().unwrap()));
    }
    let order: Vec<_> = order.iter().map(|(repo, issue)| (repo.as_str(), *issue)).collect();
    let flood = |n| ("flood/one", n);
    assert_eq!(
        order,
        [flood(1), ("quiet/b", 1), ("quiet/c", 2), flood(2), ("quiet/b", 3), flood(3), flood(4)],
        "by turns, and the oldest first within one"
    );
}

#[tokio::test]
async fn a_second_process_is_refused_and_harms_nothing() {
    let room = Room::new();
    room.enqueue(nth(1)).await;
    let failure = Queue::open(room.dir.path(), room.clock.options()).err().unwrap();
    assert_eq!(failure.code, Code::StoreLocked);
    assert!(failure.message.contains(&format!("(process {})", std::process::id())), "{}", failure.message);
    room.enqueue(nth(2)).await;
    let room = room.reopened(|_| {}).await;
    assert_eq!(room.all().await.len(), 2);
}

#[tokio::test]
async fn a_report_may_be_repeated_and_not_replaced() {
    let room = Room::new();
    let id = room.enqueue(nth(1)).await;
    let (_, lease) = room.lease("w1").await;
    room.queue.report(&lease, Report::Released { used: None }).await.unwrap();
    room.queue.report(&lease, Report::Released { used: None }).await.unwrap();
    let task = room.queue.get(id).await.unwrap().unwrap();
    assert_eq!((task.state.word(), task.failures, task.attempt), ("queued", 0, 1));

    let (_, lease) = room.lease("w1").await;
    room.queue.report(&lease, opened(5)).await.unwrap();
    let room = room.reopened(|dir| fs::remove_dir_all(dir.join("index")).unwrap()).await;
    let head = room.queue.journal_head();
    room.queue.report(&lease, opened(5)).await.unwrap();
    assert!(matches!(room.queue.report(&lease, opened(6)).await, Err(QueueError::StaleLease { .. })));
    assert_eq!(room.queue.journal_head(), head);
}

#[tokio::test]
async fn running_tasks_keep_their_lease_over_a_restart_unless_their_worker_is_known_to_be_gone() {
    let room = Room::new();
    let (one, two) = (room.enqueue(nth(1)).await, room.enqueue(nth(2)).await);
    let (_, remote) = room.lease("remote").await;
    let (_, local) = room.lease("local").await;
    room.clock.advance(LEASE_S * 10);
    let room = room.reopened(|_| {}).await;
    assert_eq!(reaper::sweep_once(&room.queue, room.clock.now()).await.unwrap(), 0);
    assert_eq!(room.queue.release_worker(&name("local")).await.unwrap(), [two]);
    assert!(matches!(room.queue.renew(&local, Stage::Preparing).await, Err(QueueError::StaleLease { .. })));
    room.queue.renew(&remote, Stage::Verifying).await.unwrap();
    assert_eq!((room.word(one).await, room.word(two).await), ("verifying", "queued"));
}

#[tokio::test]
async fn what_happens_outside_reaches_the_task_once() {
    let room = Room::new();
    let id = room.enqueue(nth(1)).await;
    let (_, lease) = room.lease("w1").await;
    room.queue.report(&lease, opened(9)).await.unwrap();
    let repo: RepoName = "acme/web".parse().unwrap();
    let closed = Change::PullRequestClosed { repo: repo.clone(), number: 9 };
    let reopened = Change::PullRequestReopened { repo: repo.clone(), number: 9 };
    let observe = async |key: &str, change: &Change| {
        room.queue.observe(key.parse().unwrap(), change.clone()).await.unwrap();
        room.word(id).await
    };
    assert_eq!(observe("github:1", &closed).await, "closed");
    assert_eq!(observe("github:2", &closed).await, "closed", "told twice by two deliveries");
    assert_eq!(observe("github:3", &reopened).await, "done");
    let head = room.queue.journal_head();
    assert_eq!(observe("github:1", &closed).await, "done", "an old delivery, sent again");
    assert_eq!(room.queue.journal_head(), head);
    let foreign = Change::PullRequestMerged { repo, number: 77 };
    assert_eq!(observe("github:4", &foreign).await, "done");
}

#[tokio::test]
async fn a_withdrawn_issue_stops_what_is_unfinished_for_it() {
    let room = Room::new();
    let running = room.enqueue(request("acme/web", 1, "github:1")).await;
    let (_, lease) = room.lease("w1").await;
    let queued = room.enqueue(request("acme/web", 2, "github:2")).await;
    let other = room.enqueue(request("acme/api", 1, "github:3")).await;
    for issue in [1, 2] {
        let change = Change::IssueWithdrawn { repo: "acme/web".parse().unwrap(), issue, by: ada() };
        room.queue.observe(format!("github:w{issue}").parse().unwrap(), change).await.unwrap();
    }
    assert_eq!((room.word(queued).await, room.word(other).await), ("stopped", "queued"));
    let renewed = room.queue.renew(&lease, Stage::Preparing).await.unwrap();
    assert!(matches!(renewed, Renewal::CancelRequested(_)));
    assert!(room.queue.get(running).await.unwrap().unwrap().cancel_requested.is_some());
}

#[tokio::test]
async fn events_wait_for_their_reader_and_a_cursor_is_no_event() {
    let room = Room::new();
    let id = room.enqueue(nth(1)).await;
    room.queue.wait_for_event(0).await.unwrap();
    let events = room.queue.events_after(0, 10).await.unwrap();
    let [(1, QueueRecord::Enqueued { task })] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(task.id, id);
    room.queue.set_cursor("notify", 1).await.unwrap();
    assert_eq!(room.queue.events_after(1, 10).await.unwrap(), []);

    let room = room.reopened(|_| {}).await;
    let cursor = room.queue.cursor("notify").await.unwrap();
    assert_eq!(cursor, 1);
    let (woken, ()) = tokio::join!(room.queue.wait_for_event(cursor), async {
        room.queue.cancel(id, ada()).await.unwrap();
    });
    woken.unwrap();
    let events = room.queue.events_after(cursor, 10).await.unwrap();
    assert!(matches!(events.as_slice(), [(3, QueueRecord::Applied { .. })]), "{events:?}");
}

#[tokio::test]
async fn lists_are_newest_first_and_can_be_narrowed() {
    let room = Room::new();
    let mut ids = Vec::new();
    for n in 1..=9 {
        let repo = if n % 3 == 0 { "acme/api" } else { "acme/web" };
        ids.push(room.enqueue(request(repo, n, &format!("github:{n}"))).await);
    }
    room.queue.cancel(ids[8], ada()).await.unwrap();
    let listed = async |filter| room.queue.list(filter).await.unwrap().iter().map(|task| task.id).collect::<Vec<_>>();
    let newest: Vec<_> = ids.iter().rev().copied().collect();
    assert_eq!(listed(TaskFilter::default()).await, newest);
    let filter = TaskFilter { unfinished: true, limit: Some(2), ..TaskFilter::default() };
    assert_eq!(listed(filter).await, newest[1..3]);
    let filter = TaskFilter { repo: Some("acme/api".parse().unwrap()), ..TaskFilter::default() };
    assert_eq!(listed(filter).await, [ids[8], ids[5], ids[2]]);
}

#[tokio::test]
async fn a_large_request_comes_back_whole_and_large_outputs_are_cut() {
    let room = Room::new();
    let mut large = nth(1);
    large.instruction.body = "ü".repeat(150_000);
    let id = room.enqueue(large.clone()).await;
    let room = room.reopened(|_| {}).await;
    assert_eq!(room.queue.get(id).await.unwrap().unwrap().request, large);
    let (_, lease) = room.lease("w1").await;
    let noisy = Some(Box::new(evidence(&"x".repeat(1 << 20))));
    let failure = Failure::new(Code::ChecksFailed, "The tests failed");
    room.queue.report(&lease, Report::Failed { failure, evidence: noisy.clone(), used: None }).await.unwrap();
    assert!(room.queue.evidence(id).await.unwrap().unwrap().checks[0].output_tail.len() < 32 << 10);

    large.instruction.body = "x".repeat(8 << 20);
    large.dedupe_key = "github:2".parse().unwrap();
    large.source = Source::CommandLine;
    assert!(matches!(room.queue.enqueue(large).await, Err(QueueError::Unavailable(_))));
    room.enqueue(nth(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reaper_ends_a_lease_when_its_time_comes() {
    let dir = TempDir::new().unwrap();
    let clock = steady_clock(Timestamp::from_timestamp(1_790_000_000, 0).unwrap());
    let lease = Duration::milliseconds(60);
    let retry = RetryPolicy { base: Duration::milliseconds(1), ..RetryPolicy::default() };
    let options = QueueOptions { lease, retry, ..QueueOptions::new(clock.clone()) };
    let queue = Arc::new(Queue::open(dir.path(), options).unwrap());
    let stop = CancellationToken::new();
    let sweeping = {
        let (queue, stop) = (queue.clone(), stop.clone());
        tokio::spawn(async move { reaper::run(&queue, clock, stop).await })
    };
    queue.enqueue(nth(1)).await.unwrap();
    let began = Instant::now();
    let (_, first) = queue.lease(&name("w1")).await.unwrap();
    let (task, second) = queue.lease(&name("w2")).await.unwrap();
    assert!(began.elapsed().as_millis() >= 60);
    assert_eq!((second.task, second.attempt, task.crashes), (first.task, 2, 1));
    stop.cancel();
    sweeping.await.unwrap();
}
