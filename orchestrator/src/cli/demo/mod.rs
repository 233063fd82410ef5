//! `onramp demo`: the real road on a made-up repository.
//!
//! Only two things are made up: the forge is a directory, and the agent is a script. The delivery is signed and goes
//! through the door, the queue leases it, two sandboxes are started, the checks run, and a real commit is pushed.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tasks::{AgentName, Code, Failure, Intake as _, RepoName, Task, TaskId, TaskState};
use workers::{
    agent::Agents,
    forge::local::LocalForge,
    sandbox::{FileKind, TreeFile},
};

use super::{Setting, show::Show};
use crate::{
    Parts, ProgressFor, Running,
    config::{BackendChoice, Config, Secret},
    start, wiring,
};

/// The image of the demo's sandboxes where Docker is used: one megabyte, and it has a shell.
const IMAGE: &str = "busybox:stable";
/// Long before this the demo has ended; a task that hangs is a defect to be told.
const TIME_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Keep the directory with the repository, the pull request and all artifacts
    #[arg(long)]
    keep: bool,
}

pub(super) async fn demo(setting: Setting, args: DemoArgs) -> Result<u8, Failure> {
    let show = Show::new(io::stdout(), setting.colour && io::IsTerminal::is_terminal(&io::stdout()));
    let dir = tempfile::Builder::new().prefix("onramp-demo-").tempdir().map_err(Failure::internal)?;
    let root = dir.path().to_owned();
    // What was started is kept out here, so that Ctrl-C can end it in order.
    let mut running = None;
    let ended = tokio::select! {
        ended = travel(&setting, root, &show, &mut running) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Cancelled, "The demo was stopped")),
    };
    if let Some(running) = running {
        running.stop().await;
    }
    if args.keep {
        let kept = dir.keep();
        show.heading("Where everything lies");
        show.write(&format!("  {}\n", kept.display()));
        show.write("  forge/demo/pager.git      the repository, with the branch that was pushed\n");
        show.write("  forge/demo/pager/         its issue, comment and pull request\n");
        show.write("  data/artifacts/           prompt, transcript, outputs of the checks, diff, evidence\n");
        show.write("  data/queue/journal/       the journal: what happened, hash-chained\n");
    } else {
        dir.close().map_err(Failure::internal)?;
        show.write("\nNothing is left behind; `--keep` keeps the repository, the pull request and all artifacts.\n");
    }
    ended.map(|()| 0)
}

/// From the made-up issue to the pull request.
async fn travel(setting: &Setting, root: PathBuf, show: &Show, running: &mut Option<Running>) -> Result<(), Failure> {
    show.heading("Onramp demo: from a labelled issue to a verified pull request");
    show.write("The forge is a directory and the agent a script; everything between them is the real thing.\n\n");
    let repo: RepoName = "demo/pager".parse().map_err(Failure::internal)?;
    let forge = Arc::new(LocalForge::new(root.join("forge")));
    forge.create_repository(&repo, &files(), "Print a file page by page").await?;
    let (title, body) = ("The pager drops the last row of every page", "With pages of 4 rows I see only 3.\n");
    let issue = forge.create_issue(&repo, title, body, "you").await?;
    show.line(&format!("made {repo} with a bug, a test that fails, and issue {issue}: {title}"));

    let secret = uuid::Uuid::now_v7().to_string();
    let mut config = setting.config.clone();
    adapt(&mut config, root.join("data"), &secret)?;
    if config.sandbox.backend == BackendChoice::Auto {
        // An engine that cannot get the image (no network, say) is no reason for the demo to fail.
        if let Some(failure) = wiring::docker_lacks(&config, &setting.surroundings, IMAGE).await {
            show.line(&format!("Docker cannot be used for the demo: {}", failure.message));
            config.sandbox.backend = BackendChoice::Namespace;
        }
    }
    let mut agents = Agents::load(None)?;
    let script = include_str!("agent.sh").to_owned();
    agents.insert_command(agent_name()?, vec!["/bin/sh".into(), "-c".into(), script]);
    let progress: ProgressFor = Arc::new({
        let show = show.clone();
        move |_: &Task| show.progress()
    });
    let parts = Parts {
        surroundings: Some(setting.surroundings.clone()),
        forge: Some(forge.clone()),
        agents: Some(agents),
        progress: Some(progress),
    };
    let running = &*running.insert(start(config, parts).await?);
    show.line(running.sandbox());

    let task = deliver(running, &secret, &repo, issue, title, body).await?;
    show.line(&format!("signed delivery accepted: task {task}"));
    let task = finished(running, task).await?;
    let TaskState::PullRequestOpen { pull_request } = &task.state else {
        return Err(match &task.state {
            TaskState::Failed { failure } => failure.clone(),
            other => Failure::internal(format!("the demo's task ended as {}", other.word())),
        });
    };
    show.heading("The diff");
    let artifacts = running.artifacts().join(task.id.to_string()).join(task.attempt.to_string());
    let diff = std::fs::read_to_string(artifacts.join("diff.patch")).map_err(Failure::internal)?;
    show.write(&diff);
    show.heading("The evidence");
    if let Some(evidence) = running.queue().evidence(task.id).await.map_err(Failure::internal)? {
        show.evidence(&evidence);
    }
    show.heading(&format!("The pull request, {repo}#{}", pull_request.number));
    show.write(&forge.pull_request_text(&repo, pull_request.number).await?);
    show.write("\n");
    show.line("done: the queue, both sandboxes, the push and the pull request were real");
    Ok(())
}

fn agent_name() -> Result<AgentName, Failure> {
    "demo-script".parse().map_err(Failure::internal)
}

/// What the demo needs different from the person's own configuration.
fn adapt(config: &mut Config, data: PathBuf, secret: &str) -> Result<(), Failure> {
    config.data_dir = data;
    config.server.listen = "127.0.0.1:0".to_owned();
    config.github.webhook_secrets = vec![Secret::known(secret)];
    config.github.label = "onramp".to_owned();
    config.github.repositories = Vec::new();
    config.agent.default = agent_name()?;
    config.sandbox.default_image = IMAGE.to_owned();
    config.worker.n_workers = 1;
    // A base would outlive it on the engine.
    config.bases.enabled = false;
    Ok(())
}

fn files() -> Vec<TreeFile> {
    let file = |path: &str, text: &str| TreeFile { path: path.into(), kind: FileKind::Regular, bytes: text.into() };
    vec![
        file(".onramp.toml", include_str!("onramp.toml")),
        file("pager.sh", include_str!("pager.sh")),
        file("tests/pager_test.sh", include_str!("pager_test.sh")),
    ]
}

/// Posts what GitHub would post, signed with the secret over the raw bytes.
async fn deliver(
    running: &Running,
    secret: &str,
    repo: &RepoName,
    issue: u64,
    title: &str,
    body: &str,
) -> Result<TaskId, Failure> {
    let payload = serde_json::json!({
        "action": "labeled",
        "label": { "name": "onramp" },
        "issue": { "number": issue, "title": title, "body": body, "state": "open" },
        "repository": { "id": 1, "name": repo.name(), "full_name": repo.as_str(), "default_branch": "main" },
        "sender": { "login": "you", "id": 1, "type": "User" },
    });
    let payload = serde_json::to_vec(&payload).map_err(Failure::internal)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(Failure::internal)?;
    mac.update(&payload);
    let response = reqwest::Client::new()
        .post(format!("http://{}/hooks/github", running.addr()))
        .header("content-type", "application/json")
        .header("x-github-event", "issues")
        .header("x-github-delivery", uuid::Uuid::now_v7().to_string())
        .header("x-hub-signature-256", format!("sha256={}", hex::encode(mac.finalize().into_bytes())))
        .body(payload)
        .send()
        .await
        .map_err(Failure::internal)?;
    let status = response.status();
    let answer: serde_json::Value = response.json().await.map_err(Failure::internal)?;
    let task = answer["task"].as_str().and_then(|task| task.parse().ok());
    task.ok_or_else(|| Failure::internal(format!("the door answered {status}: {answer}")))
}

/// Waits for the end of a task, woken by the queue's events.
async fn finished(running: &Running, id: TaskId) -> Result<Task, Failure> {
    let queue = running.queue();
    let waiting = async {
        loop {
            let (seen, _) = queue.journal_head();
            let task = queue.get(id).await.map_err(Failure::internal)?;
            match task {
                Some(task) if !task.state.is_unfinished() => return Ok(task),
                _ => queue.wait_for_event(seen).await.map_err(Failure::internal)?,
            }
        }
    };
    tokio::time::timeout(TIME_LIMIT, waiting)
        .await
        .map_err(|_| Failure::internal(format!("the demo's task did not end within {} s", TIME_LIMIT.as_secs())))?
}
