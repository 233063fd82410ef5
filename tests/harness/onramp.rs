//! Onramp, started in this process as the program starts it, against a [`GitHub`] of its own and in a directory of its
//! own; and what has to be true when it ends, whatever the test was about.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use orchestrator::{
    Parts, Running,
    config::{BackendChoice, Config, Period, Secret, Surroundings},
    front::{Scope, Tokens},
    poll::Poller,
    stale::StaleWatch,
};
use tasks::{AgentName, Intake, Task, TaskFilter};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use workers::{
    agent::Agents,
    progress::{Progress, ProgressEvent},
    progress_log::progress_log,
    run::Hands,
};

use crate::{
    delivery::Delivery,
    github::{AppKey, GitHub, Permission},
    log::Log,
};

/// The repository that tests are about.
pub const REPO: &str = "acme/web";
/// The label that turns an issue into a task.
pub const LABEL: &str = "onramp";
/// Stands in every secret of the tests, and so may stand nowhere else.
pub const CANARY: &str = "canary";
/// The longest that a task of a test may take, on a machine that does other things too.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// The image of sandboxes in tests, made by `tests/bring-up.sh`.
pub const IMAGE: &str = "onramp-test/busybox:1";
/// The image with the real agents in it.
pub const AGENTS_IMAGE: &str = "onramp-test/agents:1";
/// A small Debian with npm, as Dockerfiles of agents start from.
pub const DEBIAN_IMAGE: &str = "onramp-test/debian:1";

/// The kind of sandbox that a test runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A Docker engine.
    Docker,
    /// The kernel's namespaces.
    Namespace,
}

/// What a test changes of the configuration.
type Change = Box<dyn FnOnce(&mut Config)>;

/// What a test wants of an Onramp before it starts.
pub struct Setup {
    backend: Backend,
    script: String,
    files: Vec<(String, String)>,
    app: Option<u64>,
    tools: Option<PathBuf>,
    changes: Vec<Change>,
}

/// A running Onramp and its surroundings.
pub struct Onramp {
    /// Where the issues are and the pull requests appear.
    pub github: GitHub,
    /// Texts that may stand nowhere.
    secrets: Vec<String>,
    running: Running,
    backend: Backend,
    progress: Arc<Mutex<Vec<(Instant, ProgressEvent)>>>,
    log: Log,
    dir: TempDir,
    /// What the tasks were when Onramp was drained; then the queue answers no more.
    drained: OnceCell<Vec<Task>>,
}

impl Setup {
    /// A repository with a wrong answer in it and a check that says so, on [`REPO`].
    pub fn new(backend: Backend) -> Self {
        let setup = Self {
            backend,
            script: "exit 0".to_owned(),
            files: Vec::new(),
            app: None,
            tools: None,
            changes: Vec::new(),
        };
        setup
            .file(".onramp.toml", "version = 1\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n")
            .file("test.sh", "grep -qx 42 answer.txt || { echo \"the answer is $(cat answer.txt)\"; exit 1; }\n")
            .file("answer.txt", "41\n")
            .file(".gitignore", "*.log\n")
    }

    /// The agent: a script for `sh`, run in the workspace; exit code and changed files are all that counts.
    #[must_use]
    pub fn agent(mut self, script: &str) -> Self {
        script.clone_into(&mut self.script);
        self
    }

    /// A file of the repository; replaces one of that path.
    #[must_use]
    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.retain(|(known, _)| known != path);
        self.files.push((path.to_owned(), content.to_owned()));
        self
    }

    /// Acts as a GitHub App, on a GitHub Enterprise Server, instead of with a personal token.
    #[must_use]
    pub fn as_app(mut self, id: u64) -> Self {
        self.app = Some(id);
        self
    }

    /// Programs of the machine that are found before all others.
    #[must_use]
    pub fn tools(mut self, dir: &Path) -> Self {
        self.tools = Some(dir.to_owned());
        self
    }

    /// Changes the configuration before the start.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config) + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// A model provider with a key that is a canary; [`Setup::model_key`] is the key.
    #[must_use]
    pub fn model(self, provider: &'static str, url: String) -> Self {
        self.configure(move |config| {
            let key = Secret::known(Self::model_key());
            let model = config.models.entry(provider.to_owned()).or_default();
            (model.base_url, model.key) = (url, key);
        })
    }

    /// The real key of the models.
    pub fn model_key() -> &'static str {
        "sk-canary-model-key-77c1"
    }

    /// Starts GitHub and Onramp.
    ///
    /// # Panics
    /// When Onramp does not start.
    pub async fn start(self) -> Onramp {
        let log = Log::watch();
        let github = match self.app {
            Some(_) => GitHub::start_enterprise().await,
            None => GitHub::start().await,
        };
        let files: Vec<_> = self.files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
        github.repository(REPO, &files);
        github.user("ada", 7).permission(REPO, "ada", Permission::Write);
        github.user("eve", 8).permission(REPO, "eve", Permission::Read);

        let dir = tempfile::Builder::new().prefix("onramp-test-").tempdir().expect("a temporary directory");
        let mut config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        config.server.listen = "127.0.0.1:0".to_owned();
        config.github.api_url = github.api_url();
        config.github.git_url = github.git_url();
        config.github.webhook_secrets = vec![Secret::known(github.webhook_secret())];
        config.github.label = LABEL.to_owned();
        config.github.write_pause = Period(Duration::ZERO);
        let secrets = credentials(&mut config, &github, self.app);
        config.sandbox.default_image = IMAGE.to_owned();
        config.sandbox.backend = match self.backend {
            Backend::Docker => BackendChoice::Docker,
            Backend::Namespace => BackendChoice::Namespace,
        };
        config.agent.default = name("scripted");
        // Those tests that are about how much one repository bears set limits.
        (config.pulls.max_open, config.pulls.max_per_hour, config.pulls.max_unnoticed) = (0, 0, 0);
        // Those tests that are about bases switch them on.
        config.bases.enabled = false;
        for change in self.changes {
            change(&mut config);
        }

        let mut agents = Agents::load(None).expect("the embedded agents are well-formed");
        agents.insert_command(name("scripted"), vec!["/bin/sh".into(), "-c".into(), self.script]);
        let progress = Arc::new(Mutex::new(Vec::new()));
        let (sink, artifacts) = (progress.clone(), dir.path().join("artifacts"));
        let mut surroundings = Surroundings::read();
        if let Some(tools) = self.tools {
            surroundings.path = format!("{}:{}", tools.display(), surroundings.path);
        }
        let parts = Parts {
            surroundings: Some(surroundings),
            agents: Some(agents),
            // Written down as it is without us, and kept to be looked at.
            progress: Some(Arc::new(move |task: &Task| {
                let (sink, written) = (sink.clone(), progress_log(&artifacts, task.id, task.attempt));
                Progress::new(move |event| {
                    written.tell(event.clone());
                    sink.lock().expect("no sink panics").push((Instant::now(), event));
                })
            })),
            ..Parts::default()
        };
        let running = orchestrator::start(config, parts).await;
        let running = running.unwrap_or_else(|failure| panic!("Onramp does not start: {failure:#?}"));
        Onramp { github, secrets, running, backend: self.backend, progress, log, dir, drained: OnceCell::new() }
    }
}

fn name(text: &str) -> AgentName {
    text.parse().expect("a name of an agent")
}

/// Sets the credentials, and returns what of them may stand nowhere.
fn credentials(config: &mut Config, github: &GitHub, app: Option<u64>) -> Vec<String> {
    let mut secrets = vec![CANARY.to_owned()];
    match app {
        Some(id) => {
            let key: AppKey = github.app(id, &[REPO]);
            config.github.app_id = id;
            config.github.app_key = Secret::known(key.pem());
            secrets.extend(key.pem().lines().nth(5).map(str::to_owned));
        }
        None => {
            github.user("onramp-bot", 99).permission(REPO, "onramp-bot", Permission::Write);
            config.github.token = Secret::known(github.personal_token("onramp-bot"));
        }
    }
    secrets
}

impl Onramp {
    /// Opens an issue, sets the label as a person who may write, and delivers it. Returns the issue.
    ///
    /// # Panics
    /// When the door does not take the delivery.
    pub async fn ask(&self, title: &str, body: &str) -> u64 {
        let issue = self.github.issue(REPO, title, body, "eve");
        let delivery = self.github.label(REPO, issue, LABEL, "ada");
        let (status, answer) = self.deliver(&delivery).await;
        assert_eq!(status, 202, "{answer}");
        issue
    }

    /// Sends a delivery to the door.
    pub async fn deliver(&self, delivery: &Delivery) -> (u16, String) {
        delivery.send(self.running.addr()).await
    }

    /// Where the door is.
    pub fn door(&self) -> SocketAddr {
        self.running.addr()
    }

    /// Where the door, the API and the pages are, such as `http://127.0.0.1:4711`.
    pub fn address(&self) -> String {
        format!("http://{}", self.running.addr())
    }

    /// A token for the API and the pages.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn token(&self, name: &str, scope: Scope, repo: Option<&str>) -> String {
        let repo = repo.map(|repo| repo.parse().expect("a repository"));
        let made = Tokens::of(self.dir.path()).create(name, scope, repo, (orchestrator::now(), None));
        made.expect("a token").token
    }

    /// Every task, oldest first.
    pub async fn tasks(&self) -> Vec<Task> {
        if let Some(tasks) = self.drained.get() {
            return tasks.clone();
        }
        let mut tasks = self.running.queue().list(TaskFilter::default()).await.expect("the queue answers");
        tasks.reverse();
        tasks
    }

    /// Waits until every task has ended, and returns them, oldest first.
    ///
    /// # Panics
    /// When that takes longer than [`DEADLINE`].
    pub async fn until_all_ended(&self) -> Vec<Task> {
        self.until("the end of every task", |tasks| {
            !tasks.is_empty() && tasks.iter().all(|task| !task.state.is_unfinished())
        })
        .await
    }

    /// Waits until the tasks are as wanted, and returns them, oldest first. Looks every 20 ms: a queue has no event for
    /// everything that a test may want to know.
    ///
    /// # Panics
    /// When that takes longer than [`DEADLINE`].
    pub async fn until(&self, what: &str, wanted: impl Fn(&[Task]) -> bool) -> Vec<Task> {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        let look = async {
            loop {
                look.tick().await;
                let tasks = self.tasks().await;
                if wanted(&tasks) {
                    return tasks;
                }
            }
        };
        match tokio::time::timeout(DEADLINE, look).await {
            Ok(tasks) => tasks,
            Err(_) => panic!(
                "no {what} after {DEADLINE:?}; tasks: {:#?}\nprogress: {:#?}\nlog:\n{}",
                self.tasks().await,
                self.progress(),
                self.log.text()
            ),
        }
    }

    /// What was told of the progress of all attempts and when, in order.
    pub fn progress(&self) -> Vec<(Instant, ProgressEvent)> {
        self.progress.lock().expect("no sink panics").clone()
    }

    /// The artifact of the last attempt of a task, as text.
    ///
    /// # Panics
    /// When it is not there.
    pub fn artifact(&self, task: &Task, name: &str) -> String {
        let dir = self.dir.path().join("artifacts").join(task.id.to_string()).join(task.attempt.to_string());
        let path = dir.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// What attempts share.
    pub fn hands(&self) -> &Arc<Hands> {
        self.running.hands().expect("tasks run in this process")
    }

    /// Who looks after stale pull requests.
    pub fn stale(&self) -> &Arc<StaleWatch> {
        self.running.stale()
    }

    /// Where the door is.
    pub fn addr(&self) -> std::net::SocketAddr {
        self.running.addr()
    }

    /// Who asks GitHub.
    pub fn poller(&self) -> &Arc<Poller> {
        self.running.poller()
    }

    /// Onramp's directory.
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The one status comment of an issue, as it stands now.
    ///
    /// # Panics
    /// When there is none, or more than one.
    pub fn status_comment(&self, issue: u64) -> String {
        let mut comments = self.github.comments(REPO, issue);
        comments.retain(|comment| comment.body.contains("onramp:task="));
        assert_eq!(comments.len(), 1, "one comment, edited in place: {comments:#?}");
        comments[0].body.clone()
    }

    /// Drains Onramp: after this everything that there is to tell was told. Once is enough.
    pub async fn drain(&self) {
        let drain = async {
            let tasks = self.tasks().await;
            self.running.drain().await;
            tasks
        };
        self.drained.get_or_init(|| drain).await;
    }

    /// Drains, and holds what must be true after every test: nothing is leased, no sandbox is left, no error was logged,
    /// every request to GitHub was one that GitHub describes, and no secret stands anywhere.
    ///
    /// # Panics
    /// When one of these is not so.
    pub async fn end(self) {
        self.end_as(REPO).await;
    }

    /// The same where the repository has another name now.
    ///
    /// # Panics
    /// As [`Onramp::end`].
    pub async fn end_as(self, repo: &str) {
        self.drain().await;
        let tasks = self.tasks().await;
        let leased: Vec<_> = tasks.iter().filter(|task| task.state.lease().is_some()).collect();
        assert!(leased.is_empty(), "leased at the end: {leased:#?}");
        let left = self.sandboxes_left(&tasks);
        assert!(left.is_empty(), "sandboxes left: {left:?}");
        let errors = self.log.errors();
        assert!(errors.is_empty(), "errors in the log:\n{}", errors.join("\n"));
        let objections = self.github.objections();
        assert!(objections.is_empty(), "GitHub describes these requests otherwise:\n{}", objections.join("\n"));
        self.assert_no_secret(repo);
    }

    fn sandboxes_left(&self, tasks: &[Task]) -> Vec<String> {
        match self.backend {
            Backend::Docker => tasks.iter().flat_map(|task| containers(&task.id.to_string())).collect(),
            Backend::Namespace => {
                let folder = self.dir.path().join("sandboxes");
                files_below(&folder).into_iter().map(|path| path.display().to_string()).collect()
            }
        }
    }

    fn assert_no_secret(&self, repo: &str) {
        let looked_at = |text: &[u8], place: &str| {
            for secret in &self.secrets {
                let found = text.windows(secret.len()).position(|window| window == secret.as_bytes());
                let around = |at: usize| String::from_utf8_lossy(&text[at.saturating_sub(200)..]).into_owned();
                assert!(found.is_none(), "a secret in {place}: {:.400}", found.map(around).unwrap_or_default());
            }
        };
        looked_at(self.log.text().as_bytes(), "the log");
        for pull in self.github.pulls() {
            looked_at(format!("{pull:?}").as_bytes(), "a pull request");
            if self.github.bare(repo).tip(&pull.head).is_some() {
                looked_at(format!("{:?}", self.github.branch_tree(repo, &pull.head)).as_bytes(), "a pushed file");
            }
        }
        for request in self.github.requests() {
            looked_at(&request.body, &format!("the body of {} {}", request.method, request.path));
        }
        for path in files_below(self.dir.path()) {
            looked_at(&std::fs::read(&path).unwrap_or_default(), &path.display().to_string());
        }
    }
}

impl Drop for Onramp {
    fn drop(&mut self) {
        // A test that failed half-way leaves no containers to the next one.
        if self.backend == Backend::Docker && std::thread::panicking() {
            let artifacts = std::fs::read_dir(self.dir.path().join("artifacts"));
            for task in artifacts.into_iter().flatten().flatten() {
                for container in containers(&task.file_name().to_string_lossy()) {
                    let _removed = Command::new("docker").args(["rm", "-f", &container]).output();
                }
            }
        }
    }
}

/// The containers, also stopped ones, that belong to a task.
fn containers(task: &str) -> Vec<String> {
    let filter = format!("label=onramp.task={task}");
    let output = Command::new("docker").args(["ps", "-a", "--format", "{{.Names}}", "--filter", &filter]).output();
    let output = output.expect("the docker client is there: tests/bring-up.sh installs it");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Every file below a folder; links are not followed. None when the folder is not there.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) | Err(_) => found.push(entry.path()),
            }
        }
    }
    found
}
