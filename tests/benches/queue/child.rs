//! The other processes: a door of ours, a door on PostgreSQL, and a store that is filled or opened.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::Path,
    process::{ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use hmac::{Hmac, Mac};
use orchestrator::{
    Parts,
    config::{Config, Secret},
    telemetry,
};
use serde::Deserialize;
use sha2::Sha256;
use tasks::{
    Actor, BranchName, Code, Deliver, Failure, Instruction, PullRequest, RepoName, Resources, Source, TaskRequest,
};
use tests::{
    delivery::{PATH, WEBHOOK_SECRET},
    onramp::LABEL,
};
use workers::{
    checkout::Remote,
    forge::{Forge, NewPullRequest, Permission},
};

use crate::{postgres::Postgres, start};

/// A process of this program that says what it has to say on one line, and ends when its standard input does.
pub(crate) struct Child {
    process: std::process::Child,
    said: String,
    _stdout: BufReader<ChildStdout>,
}

impl Child {
    /// Starts one and waits for its line. Its log goes into a file in `dir`, as a service's does.
    pub(crate) fn start(arguments: &[&str], dir: &Path) -> Self {
        let program = std::env::current_exe().expect("this program");
        let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        let mut command = Command::new(program);
        command.arg("child").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().expect("it starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("it was piped"));
        let mut said = String::new();
        stdout.read_line(&mut said).expect("it says something");
        assert!(!said.is_empty(), "{arguments:?} failed; see {}", dir.join("log").display());
        Self { process, said: said.trim().to_owned(), _stdout: stdout }
    }

    /// What it said.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.said.parse().expect("an address")
    }

    /// Waits for one that ends by itself, however it does.
    pub(crate) fn ended(mut self) {
        self.process.wait().expect("it was started here");
    }
}

impl Drop for Child {
    /// Ends it at once: nobody looks at what a door stored, and one that has told nobody yet would tell them all first.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a child is told to be.
pub(crate) async fn main(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["onramp", dir] => onramp(Path::new(dir)).await,
        ["postgres", socket, n_connections] => {
            postgres(Path::new(socket), n_connections.parse().expect("a number")).await;
        }
        ["fill", dir, kind, end, n_tasks] => {
            start::fill(Path::new(dir), kind, end, n_tasks.parse().expect("a number")).await;
        }
        ["open", dir] => start::open(Path::new(dir)).await,
        _ => panic!("no such child: {words:?}"),
    }
}

/// Until whoever started this process lets it end, or is gone.
async fn until_let_go() {
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
}

/// What `onramp serve --places 0` starts, with its log and its notifier, and a forge that takes as long as GitHub does.
async fn onramp(dir: &Path) {
    let mut config = Config { data_dir: dir.to_owned(), ..Config::default() };
    config.server.listen = "127.0.0.1:0".to_owned();
    config.github.webhook_secrets = vec![Secret::known(WEBHOOK_SECRET)];
    config.github.label = LABEL.to_owned();
    config.worker.n_workers = 0;
    telemetry::init(config.log.format, &config.log.filter).expect("the log starts");
    let parts = Parts { forge: Some(Arc::new(FarAway)), ..Parts::default() };
    let running = orchestrator::start(config, parts).await.expect("it starts");
    println!("{}", running.addr());
    until_let_go().await;
    drop(running);
    std::process::exit(0);
}

/// A forge that only takes comments, each after a while.
#[derive(Debug)]
struct FarAway;

const ROUND_TRIP: Duration = Duration::from_millis(100);

impl FarAway {
    fn unasked() -> Failure {
        Failure::new(Code::ForgeUnavailable, "no task runs here, so nobody asks for it")
    }
}

#[async_trait]
impl Forge for FarAway {
    async fn remote(&self, _: &RepoName) -> Result<Remote, Failure> {
        Err(Self::unasked())
    }

    async fn default_branch(&self, _: &RepoName) -> Result<BranchName, Failure> {
        Err(Self::unasked())
    }

    async fn permission(&self, _: &RepoName, _: &Actor) -> Result<Permission, Failure> {
        Err(Self::unasked())
    }

    async fn pull_request(&self, _: NewPullRequest<'_>) -> Result<PullRequest, Failure> {
        Err(Self::unasked())
    }

    async fn status_comment(&self, _: &RepoName, _: u64, _: &str, _: &str) -> Result<String, Failure> {
        tokio::time::sleep(ROUND_TRIP).await;
        Ok("https://github.example.org/comment".to_owned())
    }
}

/// The same work on PostgreSQL, as lean as it can be: signature, payload, one statement, answer. No log, no limits.
async fn postgres(socket: &Path, n_connections: usize) {
    let store = Postgres::connect(socket, n_connections).await;
    let router = Router::new().route(PATH, post(receive)).with_state(store);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    axum::serve(listener, router).with_graceful_shutdown(until_let_go()).await.expect("it serves");
}

async fn receive(State(store): State<Postgres>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let signature = header("x-hub-signature-256").and_then(|value| hex::decode(value.strip_prefix("sha256=")?).ok());
    let mut mac = Hmac::<Sha256>::new_from_slice(WEBHOOK_SECRET.as_bytes()).expect("any key will do");
    mac.update(&body);
    if signature.is_none_or(|signature| mac.verify_slice(&signature).is_err()) {
        return (StatusCode::UNAUTHORIZED, String::new());
    }
    let request = header("x-github-delivery").and_then(|id| request(id, &body));
    let Some(request) = request else { return (StatusCode::BAD_REQUEST, String::new()) };
    match store.insert(&request).await {
        Ok(Some(task)) => (StatusCode::ACCEPTED, format!("{{\"task\":{task},\"known\":false}}")),
        Ok(None) => (StatusCode::ACCEPTED, "{\"known\":true}".to_owned()),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
    }
}

/// What the payload asks for. Whoever writes a lean handler takes no more of it.
fn request(id: &str, body: &[u8]) -> Option<TaskRequest> {
    let event: Event = serde_json::from_slice(body).ok()?;
    let wanted = event.action == "labeled" && event.issue.state == "open" && event.label.name == LABEL;
    wanted.then_some(())?;
    Some(TaskRequest {
        dedupe_key: format!("github:{id}").parse().ok()?,
        source: Source::IssueLabelled { issue: event.issue.number, label: event.label.name },
        actor: Actor { login: event.sender.login, id: Some(event.sender.id) },
        repo: event.repository.full_name,
        base: None,
        agent: None,
        instruction: Instruction {
            title: event.issue.title,
            body: event.issue.body.unwrap_or_default(),
            trusted: false,
            about: String::new(),
        },
        deliver: Deliver::PullRequest,
        resources: Resources::default(),
        revises: None,
        work: tasks::Work::default(),
        discussed_until: None,
    })
}

#[derive(Deserialize)]
struct Event {
    action: String,
    issue: Issue,
    label: Label,
    repository: Repository,
    sender: Sender,
}

#[derive(Deserialize)]
struct Issue {
    number: u64,
    title: String,
    body: Option<String>,
    state: String,
}

#[derive(Deserialize)]
struct Label {
    name: String,
}

#[derive(Deserialize)]
struct Repository {
    full_name: RepoName,
}

#[derive(Deserialize)]
struct Sender {
    login: String,
    id: u64,
}
