//! Onramp as it runs in production: a server that faces the internet and has no engine, and workers in processes of their
//! own, which a test may freeze, kill and start again.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use orchestrator::queue::{Queue, QueueOptions, steady_clock};
use tasks::{Intake as _, Task, TaskFilter};
use tempfile::TempDir;

use crate::{
    delivery::WEBHOOK_SECRET,
    github::{GitHub, Permission},
    onramp::{CANARY, LABEL, REPO},
    target,
};

/// The longest that anything here may take: a lease has to run out, and the retry after it to become due.
pub const DEADLINE: Duration = Duration::from_secs(180);
/// What server and workers know each other by.
const TOKEN: &str = "canary-worker-token-5b1f-4711";

/// A server, its GitHub, and a place for workers.
pub struct Apart {
    /// Where the issues are and the pull requests appear.
    pub github: GitHub,
    dir: TempDir,
    address: SocketAddr,
    forge_token: String,
}

impl Apart {
    /// GitHub with a repository whose check wants the answer 42; no process yet.
    ///
    /// # Panics
    /// When there is no room for it.
    pub async fn new() -> Self {
        let github = GitHub::start().await;
        let config = "version = 1\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n\
                      [pull_request]\nlabels = [\"from-onramp\"]\nreviewers = [\"ada\"]\n";
        let files = [(".onramp.toml", config), ("test.sh", "grep -qx 42 answer.txt\n"), ("answer.txt", "41\n")];
        github.repository(REPO, &files);
        github.user("ada", 7).permission(REPO, "ada", Permission::Write);
        github.user("onramp-bot", 99).permission(REPO, "onramp-bot", Permission::Write);
        let forge_token = github.personal_token("onramp-bot");
        let dir = tempfile::Builder::new().prefix("onramp-apart-").tempdir().expect("a temporary directory");
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = port.expect("a free port of loopback");
        Self { github, dir, address, forge_token }
    }

    /// Starts the server, where and with what it was before, and waits until it answers. It is told of an engine that is not
    /// there, and so needs none.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn serve(&self) -> Program {
        let config = format!(
            "{}[server]\nlisten = \"{}\"\n[worker]\nn_workers = 0\n[sandbox]\nbackend = \"docker\"\n\
             docker_host = \"unix:///nowhere/docker.sock\"\n",
            self.common("serve"),
            self.address
        );
        let program = self.start("serve", &config, &["serve"]);
        program.until("answer of the server", async || self.answers().await).await;
        program
    }

    /// Starts a server that does its tasks itself, with this script as the agent, and waits until it answers.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn serve_alone(&self, script: &str) -> Program {
        let listen = format!("[server]\nlisten = \"{}\"\n", self.address);
        let config = format!("{}{listen}{}", self.common("serve"), self.hands("serve", script));
        let program = self.start("serve", &config, &["serve"]);
        program.until("answer of the server", async || self.answers().await).await;
        program
    }

    async fn answers(&self) -> bool {
        tokio::net::TcpStream::connect(self.address).await.is_ok()
    }

    /// What a process needs to run tasks.
    fn hands(&self, name: &str, script: &str) -> String {
        let agents = self.dir.path().join(format!("agents-{name}"));
        std::fs::create_dir_all(&agents).expect("a folder for the agent");
        let command = serde_json::to_string(&["/bin/sh", "-c", script]).expect("text is JSON");
        std::fs::write(agents.join("scripted.toml"), format!("command = {command}\n")).expect("the agent's file");
        let agents = agents.display();
        format!("[sandbox]\nbackend = \"namespace\"\n[agent]\ndefault = \"scripted\"\ndir = \"{agents}\"\n")
    }

    /// Starts a worker whose agent is this script.
    pub fn worker(&self, name: &str, script: &str) -> Program {
        self.worker_at(name, script, &format!("http://{}", self.address))
    }

    /// Starts a worker that reaches its server under this address.
    ///
    /// # Panics
    /// When its files cannot be written.
    pub fn worker_at(&self, name: &str, script: &str, server: &str) -> Program {
        let config = format!("{}{}", self.common(name), self.hands(name, script));
        self.start(name, &config, &["worker", "--name", name, "--server", server])
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn common(&self, name: &str) -> String {
        format!(
            "data_dir = \"{}\"\n[github]\napi_url = \"{}\"\ngit_url = \"{}\"\nlabel = \"{LABEL}\"\n",
            self.data(name).display(),
            self.github.api_url(),
            self.github.git_url()
        )
    }

    /// The data directory of a process.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, name: &str, config: &str, arguments: &[&str]) -> Program {
        let file = self.dir.path().join(format!("{name}.toml"));
        std::fs::write(&file, config).expect("the configuration's file");
        let log = self.dir.path().join(format!("{name}.log"));
        let said = File::options().create(true).append(true).open(&log).expect("the log's file");
        let mut command = Command::new(target::onramp());
        command.arg("--config").arg(file).args(arguments).current_dir(self.dir.path());
        command.env("HOME", self.dir.path()).env("GITHUB_TOKEN", &self.forge_token);
        command.env("ONRAMP_WEBHOOK_SECRET", WEBHOOK_SECRET).env("ONRAMP_WORKER_TOKEN", TOKEN);
        let also = said.try_clone().expect("a second handle of the log");
        command.stdin(Stdio::null()).stdout(also).stderr(said);
        Program { child: command.spawn().expect("the program starts"), log, name: name.to_owned() }
    }

    /// Opens an issue, labels it as a person who may write, and delivers that. Returns the issue.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn ask(&self, title: &str) -> u64 {
        let issue = self.github.issue(REPO, title, "", "eve");
        let (status, answer) = self.github.label(REPO, issue, LABEL, "ada").send(self.address).await;
        assert_eq!(status, 202, "{answer}");
        issue
    }

    /// Waits until the status comment of an issue tells of its pull request.
    pub async fn until_published(&self, issue: u64) {
        let told =
            |github: &GitHub| github.comments(REPO, issue).iter().any(|c| c.body.contains("/pull/")).then_some(());
        self.github.until("comment with the pull request", DEADLINE, told).await;
    }

    /// The file of the only attempt with this number, on the server.
    pub fn artifact(&self, attempt: u32, name: &str) -> Option<String> {
        let tasks = std::fs::read_dir(self.data("serve").join("artifacts")).ok()?;
        let texts = tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join(attempt.to_string()).join(name)).ok());
        texts.last()
    }

    /// Every artifact of an attempt on the server, by name.
    pub fn artifacts(&self, attempt: u32) -> Vec<(String, Vec<u8>)> {
        let tasks = std::fs::read_dir(self.data("serve").join("artifacts")).into_iter().flatten().flatten();
        let files = tasks.flat_map(|task| std::fs::read_dir(task.path().join(attempt.to_string())));
        let mut found: Vec<_> = files
            .flatten()
            .flatten()
            .map(|file| {
                (file.file_name().to_string_lossy().into_owned(), std::fs::read(file.path()).unwrap_or_default())
            })
            .collect();
        found.sort();
        found
    }

    /// Stops the server and reads its queue: every task, oldest first.
    ///
    /// # Panics
    /// When the server does not end well, or its queue cannot be read.
    pub async fn tasks(&self, server: Program) -> Vec<Task> {
        server.signal("TERM");
        let ended = server.until_ended().await;
        assert!(ended.success(), "{ended}");
        let dir = self.data("serve").join("queue");
        let open = move || Queue::open(&dir, QueueOptions::new(steady_clock(orchestrator::now())));
        let queue = tokio::task::spawn_blocking(open).await.expect("opening does not panic").expect("the queue opens");
        let mut tasks = queue.list(TaskFilter::default()).await.expect("the queue answers");
        queue.shutdown().await;
        tasks.reverse();
        tasks
    }

    /// No secret stands in any log or artifact.
    ///
    /// # Panics
    /// When one does.
    pub fn assert_no_secret(&self) {
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = std::fs::read(&path).unwrap_or_default();
                let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
                assert!(!found, "a secret in {}", path.display());
            }
        }
    }
}

/// One process of the binary `onramp`; killed when it is dropped.
pub struct Program {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Program {
    /// Sends a signal by its name, such as `STOP`.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success(), "kill -{name} {}", self.name);
    }

    /// Kills it where it stands, and waits until it is gone.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it has said so far, on both outputs.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has ended.
    pub async fn until_ended(mut self) -> ExitStatus {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        let ended = async {
            loop {
                look.tick().await;
                if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                    return status;
                }
            }
        };
        match tokio::time::timeout(DEADLINE, ended).await {
            Ok(status) => status,
            Err(_) => panic!("{} does not end; it said:\n{}", self.name, self.said()),
        }
    }

    /// Waits until it has said this.
    pub async fn until_said(&self, words: &str) {
        self.until(words, async || self.said().contains(words)).await;
    }

    /// Waits until something holds. Looks every 20 ms: a process and its files have no event for everything.
    ///
    /// # Panics
    /// After [`DEADLINE`], with what it said.
    pub async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        let look = async {
            loop {
                look.tick().await;
                if holds().await {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, look).await.is_ok();
        assert!(in_time, "{}: no {what} after {DEADLINE:?}; it said:\n{}", self.name, self.said());
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
