//! Rounds of small programs in a real sandbox.

use std::{path::Path, sync::Arc};

use super::*;
use crate::{
    egress::GatewayInside,
    sandbox::{HostTools, Limits, SandboxBackend, SandboxSpec, namespace::NamespaceBackend},
};

/// A sandbox, and what a round in it needs.
struct Room {
    dir: tempfile::TempDir,
    backend: Arc<NamespaceBackend>,
    sandbox: Sandbox,
    artifacts: Artifacts,
    agents: Agents,
}

impl Room {
    /// With an agent called `test` that is this shell script.
    async fn with_script(script: &str) -> Self {
        let mut room = Self::with_definition(None).await;
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        room.agents.insert_command("test".parse().unwrap(), argv);
        room
    }

    /// With an agent called `test` that is defined by this file.
    async fn with_definition(toml: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let definitions = dir.path().join("agents");
        std::fs::create_dir(&definitions).unwrap();
        if let Some(toml) = toml {
            std::fs::write(definitions.join("test.toml"), toml).unwrap();
        }
        let agents = Agents::load(Some(definitions)).unwrap();
        let task = TaskId::from_bytes([1; 16]);
        let artifacts = Artifacts::open(&dir.path().join("artifacts"), task, 1).unwrap();
        let backend = Arc::new(
            NamespaceBackend::new(dir.path().join("boxes"), HostTools::default(), false)
                .accept_without(tasks::Limit::ALL),
        );
        let limits = Limits { memory_bytes: 256 << 20, pids: 64, disk_bytes: 64 << 20, ..Limits::default() };
        // The control groups of a box are called after it, and these tests run side by side.
        static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("onramp-agent-test-{}-{n}", std::process::id());
        let spec = SandboxSpec { task: Some(task), limits, ..SandboxSpec::new(name) };
        let sandbox = Sandbox::start(backend.clone(), &spec).await.unwrap();
        Self { dir, backend, sandbox, artifacts, agents }
    }

    async fn run(
        &self,
        time: Duration,
        idle: Duration,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<AgentResult, Failure> {
        let gateway = GatewayInside { token: "inside-only".into(), ..GatewayInside::default() };
        let env = BTreeMap::from([("FROM_REPO".to_owned(), "yes".to_owned())]);
        let round = Round {
            agent: self.agents.get(&"test".parse().unwrap())?,
            prompt: "Fix it.\n",
            resume: None,
            env: &env,
            gateway: &gateway,
            models: None,
            time,
            idle,
            artifacts: &self.artifacts,
            number: 1,
            finish: &CancellationToken::new(),
        };
        run(&self.sandbox, round, progress, cancel).await
    }

    async fn round(&self) -> Result<AgentResult, Failure> {
        self.run(MINUTE, MINUTE, &Progress::silent(), &CancellationToken::new()).await
    }

    fn transcript(&self) -> String {
        std::fs::read_to_string(self.artifacts.path("transcript-1.log")).unwrap()
    }

    /// Ends the sandbox; nothing of it may be left.
    async fn close(self) {
        self.sandbox.stop().await.unwrap();
        assert_eq!(self.backend.sweep(&|_| false).await.unwrap(), 0);
        let boxes = std::fs::read_dir(self.dir.path().join("boxes")).map_or(0, Iterator::count);
        assert_eq!(boxes, 0, "files are left in {}", Path::display(self.dir.path()));
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn any_program_gets_the_prompt_on_standard_input_and_edits_the_workspace() {
    let room = Room::with_script("cat; echo \"env: $FROM_REPO\" >&2; echo fixed > calc.py").await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = Progress::new({
        let told = told.clone();
        move |event| {
            if let ProgressEvent::Agent(line) = event {
                told.lock().unwrap().push(line);
            }
        }
    });
    let result = room.run(MINUTE, MINUTE, &progress, &CancellationToken::new()).await.unwrap();
    assert_eq!((result.session, result.usage), (None, TokenUsage::default()));
    let mut told = told.lock().unwrap().clone();
    told.sort();
    assert_eq!(told, ["Fix it.", "env: yes"]);
    assert!(room.transcript().contains("Fix it.\n"));
    let edited = room.sandbox.get(vec![b"calc.py".to_vec()], 100).await.unwrap();
    assert_eq!(edited[0].bytes, b"fixed\n");
    room.close().await;
}

#[tokio::test]
async fn files_and_the_prompt_lie_in_the_home_directory_before_the_agent_starts() {
    let toml = r#"
        command = ["/bin/sh", "-c", "cat \"$1\" \"$HOME/.tool/settings.json\"", "sh", "{{ prompt }}"]
        prompt = "file"
        [files]
        ".tool/settings.json" = '{"token":"{{ gateway.token }}"}'
    "#;
    let room = Room::with_definition(Some(toml)).await;
    room.round().await.unwrap();
    assert_eq!(room.transcript(), "Fix it.\n{\"token\":\"inside-only\"}\n");
    room.close().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said_to_be_missing() {
    let toml = "command = [\"no-such-agent\"]\ninstall = \"Install it so.\"\n";
    let room = Room::with_definition(Some(toml)).await;
    let failure = room.round().await.unwrap_err();
    assert_eq!((failure.code, failure.next_step.as_str()), (Code::AgentNotInstalled, "Install it so."));
    assert!(
        failure.message.starts_with("The agent `test` cannot be started: `no-such-agent` is not in the sandbox"),
        "{failure}"
    );
    room.close().await;
}

#[tokio::test]
async fn an_error_shows_the_exit_code_and_the_last_lines() {
    let room = Room::with_script("echo one; echo two >&2; exit 3").await;
    let failure = room.round().await.unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (Code::AgentFailed, "The agent `test` failed (exit code 3)"));
    let detail = failure.detail.unwrap();
    assert!(detail.contains("one") && detail.contains("two"), "{detail}");
    room.close().await;
}

#[tokio::test]
async fn the_wall_clock_and_the_silence_clock_both_end_an_agent() {
    let room = Room::with_script("while :; do echo busy; sleep 0.05; done").await;
    let failure =
        room.run(Duration::from_millis(700), MINUTE, &Progress::silent(), &CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.code, Code::AgentTimedOut, "{failure}");
    room.close().await;

    let room = Room::with_script("echo thinking; sleep 600").await;
    let failure =
        room.run(MINUTE, Duration::from_secs(2), &Progress::silent(), &CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.code, Code::AgentIdle, "{failure}");
    assert_eq!(failure.detail.as_deref(), Some("thinking"));
    room.close().await;
}

#[tokio::test]
async fn a_stopped_task_ends_its_agent_at_once() {
    let room = Room::with_script("echo started; sleep 600").await;
    let cancel = CancellationToken::new();
    let progress = Progress::new({
        let cancel = cancel.clone();
        move |_| cancel.cancel()
    });
    let started = Instant::now();
    let failure = room.run(MINUTE, MINUTE, &progress, &cancel).await.unwrap_err();
    assert_eq!(failure.code, Code::Cancelled);
    assert!(started.elapsed() < MINUTE / 2);
    room.close().await;
}
