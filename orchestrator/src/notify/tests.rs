//! The notifier on a real queue in a temporary directory, with a forge that remembers comments.

use std::collections::HashMap;

use async_trait::async_trait;
use tasks::{
    Actor, BranchName, Deliver, Instruction, Lease, Outcome, PullRequest, RepoName, Report, Resources, Source, Stage,
    TaskRequest, WorkQueue,
};
use tempfile::TempDir;
use workers::{
    checkout::Remote,
    forge::{NewPullRequest, Permission},
};

use super::*;
use crate::queue::QueueOptions;

/// A forge that keeps the comments by marker, counts the writes, and fails as it is told.
#[derive(Debug, Default)]
struct Comments {
    by_marker: Mutex<HashMap<String, String>>,
    n_writes: Mutex<usize>,
    /// By repository.
    failing: Mutex<HashMap<String, Failure>>,
    /// Is told to stop with the first write.
    stopping: CancellationToken,
}

#[async_trait]
impl Forge for Comments {
    async fn remote(&self, _: &RepoName) -> Result<Remote, Failure> {
        unreachable!("the notifier fetches nothing")
    }
    async fn default_branch(&self, _: &RepoName) -> Result<BranchName, Failure> {
        unreachable!("the notifier fetches nothing")
    }
    async fn permission(&self, _: &RepoName, _: &Actor) -> Result<Permission, Failure> {
        unreachable!("the notifier asks for nothing")
    }
    async fn pull_request(&self, _: NewPullRequest<'_>) -> Result<PullRequest, Failure> {
        unreachable!("the notifier opens nothing")
    }
    async fn status_comment(&self, repo: &RepoName, _: u64, marker: &str, body: &str) -> Result<String, Failure> {
        *self.n_writes.lock().unwrap() += 1;
        self.stopping.cancel();
        if let Some(failure) = self.failing.lock().unwrap().get(repo.as_str()) {
            return Err(failure.clone());
        }
        assert!(body.starts_with(marker), "{body}");
        self.by_marker.lock().unwrap().insert(marker.to_owned(), body.to_owned());
        Ok("https://forge.example/comment".to_owned())
    }
}

struct Room {
    _dir: TempDir,
    now: Arc<Mutex<Timestamp>>,
    queue: Arc<Queue>,
    forge: Arc<Comments>,
    notifier: Notifier,
}

impl Room {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let now = Arc::new(Mutex::new(Timestamp::from_timestamp(1_790_000_000, 0).unwrap()));
        let queue = Arc::new(Queue::open(dir.path(), QueueOptions::new(clock(&now))).unwrap());
        let forge = Arc::new(Comments::default());
        let notifier = notifier(&queue, &forge, &now);
        Self { _dir: dir, now, queue, forge, notifier }
    }

    /// The same after a restart: what was only in memory is gone.
    fn forget(&mut self) {
        self.notifier = notifier(&self.queue, &self.forge, &self.now);
    }

    fn advance(&self, seconds: i64) {
        *self.now.lock().unwrap() += Duration::seconds(seconds);
    }

    async fn enqueue(&self, repo: &str, issue: u64) -> TaskId {
        self.queue.enqueue(request(repo, Some(issue))).await.unwrap().id()
    }

    async fn lease(&self) -> Lease {
        self.queue.lease_once(&"w1".parse().unwrap()).await.unwrap().expect("a task is ready").1
    }

    async fn deliver(&self) -> usize {
        let now = *self.now.lock().unwrap();
        self.notifier.deliver_once(now).await.unwrap()
    }

    fn comment(&self, id: TaskId) -> Option<String> {
        self.forge.by_marker.lock().unwrap().get(&templates::status_marker(&id.to_string())).cloned()
    }

    fn n_writes(&self) -> usize {
        *self.forge.n_writes.lock().unwrap()
    }

    fn break_forge(&self, repo: &str, failure: Option<Failure>) {
        let mut failing = self.forge.failing.lock().unwrap();
        match failure {
            Some(failure) => failing.insert(repo.to_owned(), failure),
            None => failing.remove(repo),
        };
    }
}

fn clock(now: &Arc<Mutex<Timestamp>>) -> Clock {
    let now = now.clone();
    Arc::new(move || *now.lock().unwrap())
}

fn notifier(queue: &Arc<Queue>, forge: &Arc<Comments>, now: &Arc<Mutex<Timestamp>>) -> Notifier {
    Notifier::new(queue.clone(), forge.clone(), clock(now), vec!["/srv/onramp".into(), "s3cret-value".into()])
}

fn request(repo: &str, issue: Option<u64>) -> TaskRequest {
    let source = issue.map_or(Source::CommandLine, |issue| Source::IssueLabelled { issue, label: "onramp".into() });
    TaskRequest {
        dedupe_key: format!("test:{repo}:{issue:?}").parse().unwrap(),
        source,
        actor: Actor { login: "ada".into(), id: Some(7) },
        repo: repo.parse().unwrap(),
        base: None,
        agent: None,
        instruction: Instruction {
            title: "Fix the pager".into(),
            body: String::new(),
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

fn failed(failure: Failure) -> Report {
    Report::Failed { failure, evidence: None, used: None }
}

fn down() -> Failure {
    Failure::new(Code::ForgeUnavailable, "The forge answers 502")
}

#[tokio::test]
async fn an_accepted_task_is_told_at_once_and_only_once() {
    let room = Room::new();
    let id = room.enqueue("acme/web", 12).await;
    assert_eq!(room.deliver().await, 1);
    assert!(room.comment(id).unwrap().contains("**Accepted**"));
    assert_eq!(room.deliver().await, 0);
    assert_eq!(room.n_writes(), 1);
}

#[tokio::test]
async fn stages_are_told_every_five_seconds_and_the_end_at_once() {
    let room = Room::new();
    let id = room.enqueue("acme/web", 12).await;
    room.deliver().await;
    let lease = room.lease().await;
    for (stage, seconds) in [(Stage::Preparing, 1), (Stage::AgentRunning, 1), (Stage::Verifying, 1)] {
        room.queue.renew(&lease, stage).await.unwrap();
        room.advance(seconds);
        assert_eq!(room.deliver().await, 0, "{stage:?}");
    }
    room.advance(2);
    assert_eq!(room.deliver().await, 1, "five seconds have passed");
    assert!(room.comment(id).unwrap().contains("- [x] The agent edits"), "{:?}", room.comment(id));

    let report = Report::Finished { outcome: Outcome::NothingChanged, evidence: None, used: None };
    room.queue.report(&lease, report).await.unwrap();
    assert_eq!(room.deliver().await, 1);
    assert!(room.comment(id).unwrap().contains("**Nothing changed**"));
}

#[tokio::test]
async fn an_end_right_after_a_held_back_stage_is_told_at_once() {
    let room = Room::new();
    let id = room.enqueue("acme/web", 12).await;
    room.deliver().await;
    let lease = room.lease().await;
    room.queue.renew(&lease, Stage::AgentRunning).await.unwrap();
    assert_eq!(room.deliver().await, 0, "the stage waits for the pace of edits");
    let report = Report::Finished { outcome: Outcome::NothingChanged, evidence: None, used: None };
    room.queue.report(&lease, report).await.unwrap();
    assert_eq!(room.deliver().await, 1);
    assert!(room.comment(id).unwrap().contains("**Nothing changed**"));
}

#[tokio::test]
async fn many_events_become_one_edit_of_the_state_of_now() {
    let room = Room::new();
    let id = room.enqueue("acme/web", 12).await;
    let lease = room.lease().await;
    room.queue.renew(&lease, Stage::AgentRunning).await.unwrap();
    room.queue
        .report(&lease, failed(Failure::new(Code::AgentFailed, "The agent ended with exit code 1")))
        .await
        .unwrap();
    assert_eq!(room.deliver().await, 1);
    let comment = room.comment(id).unwrap();
    assert!(comment.contains("**Failed**: The agent ended with exit code 1 (E021)"), "{comment}");
    assert!(comment.contains("**Kept**: The transcript"), "{comment}");
    assert_eq!(room.n_writes(), 2, "and one that calls a person");
}

#[tokio::test]
async fn after_a_restart_nothing_is_told_twice_and_nothing_is_left_out() {
    let mut room = Room::new();
    room.enqueue("acme/web", 12).await;
    room.deliver().await;
    room.forget();
    assert_eq!(room.deliver().await, 0, "the cursor was durable");

    room.break_forge("acme/api", Some(down()));
    let untold = room.enqueue("acme/api", 1).await;
    let told = room.enqueue("acme/web", 13).await;
    assert_eq!(room.deliver().await, 1);
    assert!(room.comment(told).is_some());
    room.forget();
    room.break_forge("acme/api", None);
    room.deliver().await;
    assert!(room.comment(untold).is_some(), "the cursor had stayed before it");
}

#[tokio::test]
async fn a_forge_that_fails_is_tried_again_later_and_holds_nobody_back() {
    let room = Room::new();
    room.break_forge("acme/web", Some(down()));
    let broken = room.enqueue("acme/web", 1).await;
    room.deliver().await;
    let well = room.enqueue("acme/api", 1).await;
    assert_eq!(room.deliver().await, 1, "the other repository is told");
    assert!(room.comment(well).is_some());
    assert_eq!(room.n_writes(), 2, "the broken one waits");

    room.break_forge("acme/web", None);
    room.advance(5);
    assert_eq!(room.deliver().await, 1);
    assert!(room.comment(broken).is_some());
}

#[tokio::test]
async fn a_forge_that_is_down_is_not_asked_once_per_task() {
    let room = Room::new();
    for issue in 1..=20 {
        room.break_forge("acme/web", Some(down()));
        room.enqueue("acme/web", issue).await;
    }
    assert_eq!(room.deliver().await, 0);
    assert_eq!(room.n_writes(), 3);
    room.break_forge("acme/web", None);
    room.advance(60);
    assert_eq!(room.deliver().await, 20);
}

#[tokio::test]
async fn a_limit_of_the_forge_is_waited_for() {
    let room = Room::new();
    let limited = Failure { retry_not_before: Some(*room.now.lock().unwrap() + Duration::seconds(90)), ..down() };
    room.break_forge("acme/web", Some(limited));
    room.enqueue("acme/web", 1).await;
    room.deliver().await;
    room.break_forge("acme/web", None);
    room.advance(89);
    assert_eq!(room.deliver().await, 0);
    room.advance(1);
    assert_eq!(room.deliver().await, 1);
}

#[tokio::test]
async fn what_the_forge_refuses_for_good_is_given_up_and_passed_by() {
    let mut room = Room::new();
    room.break_forge("acme/web", Some(Failure::new(Code::PermissionDenied, "Issues are switched off")));
    room.enqueue("acme/web", 1).await;
    let other = room.enqueue("acme/api", 1).await;
    assert_eq!(room.deliver().await, 1);
    assert!(room.comment(other).is_some());
    let n_writes = room.n_writes();
    room.forget();
    room.advance(3600);
    assert_eq!(room.deliver().await, 0);
    assert_eq!(room.n_writes(), n_writes, "the cursor went past it");
}

#[tokio::test]
async fn a_task_without_an_issue_gets_no_comment() {
    let room = Room::new();
    room.queue.enqueue(request("acme/web", None)).await.unwrap();
    assert_eq!(room.deliver().await, 0);
    assert_eq!(room.n_writes(), 0);
    assert!(room.queue.cursor("notify").await.unwrap() > 0);
}

#[tokio::test]
async fn who_may_not_ask_gets_one_short_comment() {
    let room = Room::new();
    let id = room.enqueue("acme/web", 12).await;
    let lease = room.lease().await;
    let denied = Failure::new(Code::PermissionDenied, "mallory may not write to acme/web");
    room.queue.report(&lease, failed(denied)).await.unwrap();
    assert_eq!(room.deliver().await, 1);
    let comment = room.comment(id).unwrap();
    assert!(
        comment.contains("Thank you for asking. This was not started: mallory may not write to acme/web."),
        "{comment}"
    );
    assert!(comment.lines().count() < 10, "{comment}");
}

#[tokio::test]
async fn paths_and_secrets_of_this_machine_are_not_told() {
    let room = Room::new();
    let id = room.enqueue("acme/web", 12).await;
    let lease = room.lease().await;
    let failure = Failure::new(Code::AgentFailed, "It wrote to /srv/onramp/artifacts/1")
        .detail("error: s3cret-value and ghp_0123456789abcdefghij0123456789abcdef were there");
    room.queue.report(&lease, failed(failure)).await.unwrap();
    room.deliver().await;
    let comment = room.comment(id).unwrap();
    assert!(comment.contains("…/artifacts/1"), "{comment}");
    assert!(!comment.contains("/srv/onramp") && !comment.contains("s3cret") && !comment.contains("ghp_0"), "{comment}");
}

#[tokio::test]
async fn the_loop_tells_what_happens_while_it_runs_and_ends_when_told() {
    let room = Arc::new(Room::new());
    let shutdown = CancellationToken::new();
    let (looping, token) = (room.clone(), shutdown.clone());
    let running = tokio::spawn(async move { looping.notifier.run(token).await });
    let id = room.enqueue("acme/web", 12).await;
    let told = async {
        while room.comment(id).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(StdDuration::from_secs(10), told).await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(StdDuration::from_secs(10), running).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_is_told_to_stop_ends_after_the_task_at_hand_and_the_rest_is_told_after_the_next_start() {
    let mut room = Room::new();
    for issue in 1..=3 {
        room.enqueue("acme/web", issue).await;
    }
    room.notifier.run(room.forge.stopping.clone()).await;
    assert_eq!(*room.forge.n_writes.lock().unwrap(), 1);
    room.forget();
    assert_eq!(room.deliver().await, 2);
    assert_eq!(room.forge.by_marker.lock().unwrap().len(), 3);
}
