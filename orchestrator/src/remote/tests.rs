//! The protocol over a real socket: a worker's side and the queue's, with a road between them that loses answers by script.

use std::sync::{
    Mutex,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    middleware::Next,
};
use reqwest::Method;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use tasks::{
    Actor, Deliver, Instruction, Outcome, Resources, Source, Stage, TaskId, TaskRequest, TaskState, Timestamp,
};
use tempfile::TempDir;
use workers::remote::{
    RemoteOptions, RemoteQueue,
    protocol::{PROTOCOL, PROTOCOL_HEADER, SHA256_HEADER, WORKER_HEADER},
};

use super::*;
use crate::queue::QueueOptions;

const TOKEN: &str = "a-token-of-workers-0123456789";

/// A server with one queue, and a road to it.
struct Rig {
    dir: TempDir,
    queue: Arc<Queue>,
    url: String,
    now_s: Arc<AtomicI64>,
    road: Arc<Road>,
    closing: CancellationToken,
}

/// What happens to requests whose path ends so: done, and the answer lost, so many times.
#[derive(Default)]
struct Road {
    lost: Mutex<Vec<(String, usize)>>,
    n_requests: AtomicUsize,
}

impl Road {
    fn takes_answer(&self, path: &str) -> bool {
        self.n_requests.fetch_add(1, Ordering::Relaxed);
        let mut lost = self.lost.lock().unwrap();
        let planned = lost.iter_mut().find(|(end, left)| *left > 0 && path.ends_with(end.as_str()));
        planned.map(|(_, left)| *left -= 1).is_some()
    }
}

async fn travel(State(road): State<Arc<Road>>, request: Request, next: Next) -> Response {
    let lost = road.takes_answer(request.uri().path());
    let answer = next.run(request).await;
    if !lost {
        return answer;
    }
    // A body that fails before its first byte makes the server close the connection, headers unsent.
    let lost = futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("lost")) });
    (answer.status(), Body::from_stream(lost)).into_response()
}

impl Rig {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now_s = Arc::new(AtomicI64::new(1_790_000_000));
        let clock: Clock = {
            let now_s = now_s.clone();
            Arc::new(move || Timestamp::from_timestamp(now_s.load(Ordering::Relaxed), 0).unwrap())
        };
        let (path, options) = (dir.path().join("queue"), QueueOptions::new(clock.clone()));
        let queue = tokio::task::spawn_blocking(move || Queue::open(&path, options)).await.unwrap().unwrap();
        let (queue, road, closing) = (Arc::new(queue), Arc::new(Road::default()), CancellationToken::new());
        let access = Access::new(&TOKEN.to_owned().into()).unwrap();
        let desk = Desk::new(queue.clone(), clock, dir.path().join("artifacts"), access, closing.clone());
        let router = desk.router().layer(middleware::from_fn_with_state(road.clone(), travel));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { dir, queue, url, now_s, road, closing }
    }

    fn loses(&self, path: &str, times: usize) {
        self.road.lost.lock().unwrap().push((path.to_owned(), times));
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_timestamp(self.now_s.load(Ordering::Relaxed), 0).unwrap()
    }

    fn later(&self, seconds: i64) {
        self.now_s.fetch_add(seconds, Ordering::Relaxed);
    }

    fn worker(&self) -> RemoteQueue {
        self.worker_with(TOKEN)
    }

    fn worker_with(&self, token: &str) -> RemoteQueue {
        let artifacts = self.dir.path().join("apart");
        let (server, token) = (self.url.clone(), SecretString::from(token.to_owned()));
        RemoteQueue::new(RemoteOptions { server, token, artifacts, clock: crate::now }).unwrap()
    }

    async fn enqueue(&self, n: u64) -> TaskId {
        let request = TaskRequest {
            dedupe_key: format!("test:{n}").parse().unwrap(),
            source: Source::IssueLabelled { issue: n, label: "onramp".to_owned() },
            actor: Actor { login: "ada".into(), id: Some(7) },
            repo: "acme/web".parse().unwrap(),
            base: None,
            agent: None,
            instruction: Instruction { title: "Fix".into(), body: String::new(), trusted: false, about: String::new() },
            deliver: Deliver::PullRequest,
            resources: Resources::default(),
            revises: None,
            work: tasks::Work::default(),
            discussed_until: None,
        };
        self.queue.enqueue(request).await.unwrap().id()
    }

    async fn state(&self, task: TaskId) -> TaskState {
        self.queue.get(task).await.unwrap().unwrap().state
    }

    /// A request by hand, with the headers of a worker.
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.url));
        request.bearer_auth(TOKEN).header(PROTOCOL_HEADER, PROTOCOL)
    }

    fn artifact(&self, method: Method, lease: &Lease, name: &str, bytes: &[u8]) -> reqwest::RequestBuilder {
        let path = format!("{ARTIFACTS}/{}/{}/{name}", lease.task, lease.attempt);
        let request = self.request(method, &path).header(WORKER_HEADER, lease.worker.as_str());
        request.header(SHA256_HEADER, hex::encode(Sha256::digest(bytes))).body(bytes.to_vec())
    }

    /// Everything that lies on the server, by its path below the artifacts.
    fn artifacts(&self) -> Vec<(String, String)> {
        let root = self.dir.path().join("artifacts");
        let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                    found.push((name, String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()));
                }
            }
        }
        found.sort();
        found
    }

    fn write(&self, lease: &Lease, name: &str, bytes: &[u8]) {
        let dir = self.dir.path().join("apart").join(lease.task.to_string()).join(lease.attempt.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

fn name() -> WorkerName {
    "box-1".parse().unwrap()
}

fn nothing_changed() -> Report {
    Report::Finished { outcome: Outcome::NothingChanged, evidence: None, used: None }
}

#[tokio::test]
async fn a_task_goes_to_a_worker_elsewhere_and_its_report_and_artifacts_come_back() {
    let rig = Rig::start().await;
    let worker = rig.worker();
    worker.greet().await.unwrap();
    let name = name();
    let (leased, id) = tokio::join!(worker.lease(&name), rig.enqueue(1));
    let (task, lease) = leased.unwrap();
    assert_eq!((task.id, lease.task, lease.attempt), (id, id, 1), "woken by the task that came while it waited");
    assert!(lease.worker.as_str().starts_with("box-1."), "{}", lease.worker);

    assert!(matches!(worker.renew(&lease, Stage::AgentRunning).await.unwrap(), Renewal::Held(_)));
    assert_eq!(rig.state(id).await.word(), "running");
    rig.queue.cancel(id, Actor { login: "ada".into(), id: Some(7) }).await.unwrap();
    assert!(matches!(worker.renew(&lease, Stage::AgentRunning).await.unwrap(), Renewal::CancelRequested(_)));

    rig.write(&lease, "evidence.json", b"{}");
    rig.write(&lease, "transcript-1.log", &b"line\n".repeat(100_000));
    rig.write(&lease, ".hidden", b"not one of ours");
    worker.report(&lease, nothing_changed()).await.unwrap();
    assert_eq!(rig.state(id).await.word(), "no_changes");
    let there = rig.artifacts();
    let names: Vec<_> = there.iter().map(|(name, text)| (name.as_str(), text.len())).collect();
    let (json, log) = (format!("{id}/1/evidence.json"), format!("{id}/1/transcript-1.log"));
    assert_eq!(names, [(json.as_str(), 2), (log.as_str(), 500_000)]);
    worker.close().await;
}

#[tokio::test]
async fn lost_answers_change_nothing() {
    let rig = Rig::start().await;
    let id = rig.enqueue(1).await;
    let other = rig.enqueue(2).await;
    let worker = rig.worker();
    rig.loses(LEASE, 2);
    let (task, lease) = worker.lease(&name()).await.unwrap();
    assert_eq!((task.id, lease.attempt), (id, 1), "the same lease, however often it is asked for");
    assert_eq!(rig.state(other).await.word(), "queued", "and not another task on top");

    for path in ["progress.log", "diff.patch", REPORT] {
        rig.loses(path, 1);
    }
    rig.write(&lease, "progress.log", b"preparing\nrunning\n");
    rig.write(&lease, "diff.patch", b"+42\n");
    let mut n_tries = 0;
    while let Err(error) = worker.report(&lease, nothing_changed()).await {
        assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
        n_tries += 1;
        assert!(n_tries < 9, "it gets through at last");
    }
    assert_eq!(n_tries, 3, "each of the three answers was lost once");
    assert_eq!(rig.state(id).await.word(), "no_changes");
    let texts: Vec<_> = rig.artifacts().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["+42\n", "preparing\nrunning\n"], "nothing twice");
    worker.close().await;
}

#[tokio::test]
async fn a_stale_attempt_can_write_nothing() {
    let rig = Rig::start().await;
    let id = rig.enqueue(1).await;
    let (frozen, next) = (rig.worker(), rig.worker());
    let (_, stale) = frozen.lease(&name()).await.unwrap();
    rig.write(&stale, "progress.log", b"preparing\n");
    let first = rig.artifact(Method::POST, &stale, "progress.log?at=0", b"preparing\n").send().await.unwrap();
    assert_eq!(first.status(), 200);

    // Frozen for longer than its lease; then somebody else has the task.
    rig.later(21);
    let dead = rig.artifact(Method::PUT, &stale, "diff.patch", b"+43\n").send().await.unwrap();
    assert_eq!(dead.status(), 409, "over, even before anybody else has it");
    rig.queue.expire_leases(rig.now()).await.unwrap();
    rig.later(3600);
    let (_, live) = next.lease(&"box-2".parse().unwrap()).await.unwrap();
    assert_eq!(live.attempt, 2);
    let before = rig.artifacts();

    assert!(matches!(frozen.renew(&stale, Stage::Publishing).await, Err(QueueError::StaleLease { .. })));
    assert!(matches!(frozen.report(&stale, nothing_changed()).await, Err(QueueError::StaleLease { .. })));
    // With the number of the live attempt, under its own name; and with the live name, under its own number.
    let forged = Lease { attempt: 2, ..stale.clone() };
    let borrowed = Lease { attempt: 1, ..live.clone() };
    for lease in [&stale, &forged, &borrowed] {
        for (method, name) in [(Method::PUT, "diff.patch"), (Method::POST, "progress.log?at=10")] {
            let answer = rig.artifact(method, lease, name, b"stale").send().await.unwrap();
            assert_eq!(answer.status(), 409, "{lease:?}");
        }
        assert!(matches!(frozen.renew(lease, Stage::Publishing).await, Err(QueueError::StaleLease { .. })));
    }
    assert_eq!(rig.artifacts(), before);
    assert_eq!(rig.state(id).await.lease().unwrap().attempt, 2);
    next.report(&live, nothing_changed()).await.unwrap();
    assert!(rig.queue.report(&stale, nothing_changed()).await.is_err());
}

#[tokio::test]
async fn a_wrong_token_is_refused_before_anything_is_said_about_versions() {
    let rig = Rig::start().await;
    let failure = rig.worker_with("a-token-of-workers-0123456788").greet().await.unwrap_err();
    assert_eq!(failure.code, Code::WorkerRefused);
    assert!(failure.message.contains("token") && failure.next_step.contains("ONRAMP_WORKER_TOKEN"), "{failure:?}");
    for path in [WELCOME, LEASE, "/worker/v2/lease"] {
        for bearer in ["", "Bearer ", "Bearer x", "Basic YTpi", &format!("bearer {TOKEN}")] {
            let request = reqwest::Client::new().post(format!("{}{path}", rig.url)).header("authorization", bearer);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{path} {bearer:?}");
            assert!(!answer.text().await.unwrap().contains("protocol"));
        }
    }
    assert_eq!(Access::new(&"short".to_owned().into()).err().map(|failure| failure.code), Some(Code::BadConfig));
}

#[tokio::test]
async fn another_protocol_is_refused_with_the_next_step_and_does_nothing() {
    let rig = Rig::start().await;
    let id = rig.enqueue(1).await;
    let ask = Ask { worker: "box-1.x".parse().unwrap() };
    for version in [Some("0"), Some("2"), Some("1.0"), Some(""), None] {
        for path in [LEASE, "/worker/v2/lease", REPORT] {
            let mut request = reqwest::Client::new().post(format!("{}{path}", rig.url)).bearer_auth(TOKEN).json(&ask);
            if let Some(version) = version {
                request = request.header(PROTOCOL_HEADER, version);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 426, "{version:?} {path}");
            let failure: Failure = answer.json().await.unwrap();
            assert_eq!(failure.code, Code::WorkerRefused);
            assert!(failure.next_step.starts_with("Install onramp "), "{failure:?}");
        }
    }
    // The right number on a path that this version does not have, or with words that it does not know.
    let ahead = rig.request(Method::POST, "/worker/v2/lease").json(&ask).send().await.unwrap();
    let strange = rig.request(Method::POST, LEASE).body("{}").header("content-type", "application/json").send();
    assert_eq!((ahead.status().as_u16(), strange.await.unwrap().status().as_u16()), (426, 426));
    assert_eq!(rig.state(id).await.word(), "queued");
}

#[tokio::test]
async fn a_worker_that_is_not_welcome_any_more_stops_its_work() {
    let rig = Rig::start().await;
    rig.enqueue(1).await;
    let welcome = rig.worker();
    let (_, lease) = welcome.lease(&name()).await.unwrap();
    // As after the token was changed on the server.
    let unwelcome = rig.worker_with("some-other-token-0123456789");
    assert!(matches!(unwelcome.renew(&lease, Stage::Publishing).await, Err(QueueError::StaleLease { .. })));
    assert_eq!(unwelcome.refused().await.code, Code::WorkerRefused);
    assert!(matches!(unwelcome.lease(&name()).await, Err(QueueError::ShuttingDown)));
}

#[tokio::test]
async fn who_stops_asking_leaves_no_task_behind() {
    let rig = Rig::start().await;
    let worker = rig.worker();
    // The answer is lost while the worker drains: it was granted, and nobody knows.
    rig.loses(LEASE, 1);
    let id = rig.enqueue(1).await;
    {
        let name = name();
        let asking = worker.lease(&name);
        tokio::pin!(asking);
        let mut leases = rig.queue.leases();
        tokio::select! {
            _ = &mut asking => panic!("its answer was lost"),
            granted = leases.wait_for(|leases| leases.contains_key(&id)) => drop(granted.unwrap()),
        }
    }
    worker.close().await;
    let task = rig.queue.get(id).await.unwrap().unwrap();
    assert_eq!((task.state.word(), task.failures), ("queued", 0), "given back, at no cost");
}

#[tokio::test]
async fn artifacts_are_taken_whole_or_not_at_all_and_only_under_plain_names() {
    let rig = Rig::start().await;
    rig.enqueue(1).await;
    let (_, lease) = rig.worker().lease(&name()).await.unwrap();
    let send = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let put = |name: &str, bytes: &[u8]| rig.artifact(Method::PUT, &lease, name, bytes);
    assert_eq!(send(put("diff.patch", b"whole")).await, 200);
    assert_eq!(send(put("diff.patch", b"changed").body("chang3d")).await, 503);
    for name in ["..%2F..%2Fqueue%2FLOCK", ".hidden", "a%00b", "a%5cb"] {
        assert_eq!(send(put(name, b"x")).await, 413, "{name}");
    }

    let append = |at: u64, bytes: &[u8]| rig.artifact(Method::POST, &lease, &format!("x.log?at={at}"), bytes);
    assert_eq!(send(append(0, b"one\n")).await, 200);
    assert_eq!(send(append(0, b"one\n")).await, 200, "the same piece again");
    assert_eq!(send(append(0, b"two\n")).await, 412, "another piece at the same place");
    assert_eq!(send(append(9, b"far\n")).await, 412);
    assert_eq!(send(append(4, b"two\n")).await, 200);
    let texts: Vec<_> = rig.artifacts().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["whole", "one\ntwo\n"], "and nothing is left aside");
}

#[tokio::test]
async fn a_server_that_shuts_down_gives_out_no_task_and_lets_nobody_wait() {
    let rig = Rig::start().await;
    let ask = Ask { worker: "box-1.x".parse().unwrap() };
    let waiting = rig.request(Method::POST, LEASE).json(&ask).send();
    rig.closing.cancel();
    assert_eq!(waiting.await.unwrap().status(), 503);
}
