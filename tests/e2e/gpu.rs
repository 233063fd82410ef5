//! Requests for GPUs through the front door, on a machine whose driver's tool says what a test wants.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tasks::{Code, TaskState};
use tests::{
    Backend, Setup,
    github::Permission,
    onramp::{LABEL, REPO},
};
use workers::progress::ProgressEvent;

const MEND: &str = "echo 42 > answer.txt";
const GPU: &str = "GPU-11111111-aaaa-bbbb-cccc-000000000000";
const CHECKS: &str = "version = 1
[[check]]
name = \"kernels\"
command = \"true\"
gpu = \"h100\"
[[check]]
name = \"answer\"
command = \"sh test.sh\"
";

/// A tool that lists one H100 and the processes that stand in a file beside it.
fn driver(dir: &Path, processes: &str) {
    let at = dir.display();
    let script = format!(
        "#!/bin/sh\ncase $1 in\n--query-gpu=*) echo '0, {GPU}, NVIDIA H100 PCIe, 81559, Disabled, Default';;\n\
         --query-compute-apps=*) while IFS= read -r line; do echo \"$line\"; done < {at}/processes;;\nesac\n"
    );
    fs::write(dir.join("processes"), processes).unwrap();
    fs::write(dir.join("nvidia-smi"), script).unwrap();
    fs::set_permissions(dir.join("nvidia-smi"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_waits_for_a_gpu_keeps_no_other_from_running() {
    let tools = tempfile::tempdir().unwrap();
    driver(tools.path(), &format!("{GPU}, 4242, /usr/bin/python3\n"));
    let locks = tools.path().join("locks");
    let onramp = Setup::new(Backend::Namespace)
        .agent(MEND)
        .tools(tools.path())
        .configure(move |config| {
            config.worker.n_workers = 1;
            config.gpu.lock_dir = locks;
        })
        .start()
        .await;
    let (github, kernels) = (&onramp.github, "acme/kernels");
    let files = [(".onramp.toml", CHECKS), ("answer.txt", "41\n"), ("test.sh", "grep -qx 42 answer.txt\n")];
    github.repository(kernels, &files);
    for login in ["ada", "onramp-bot"] {
        github.permission(kernels, login, Permission::Write);
    }
    let issue = github.issue(kernels, "Needs a GPU", "", "eve");
    let (status, answer) = onramp.deliver(&github.label(kernels, issue, LABEL, "ada")).await;
    assert_eq!(status, 202, "{answer}");
    let foreign = "is used by python3 (process 4242)";
    let waits = |event: &ProgressEvent| matches!(event, ProgressEvent::Waiting(words) if words.contains(foreign));
    onramp.until("task that waits for a GPU", |_| onramp.progress().iter().any(|(_, event)| waits(event))).await;

    onramp.ask("Needs none", "").await;
    let tasks =
        onramp.until("end of the second task", |tasks| tasks.len() == 2 && tasks[1].state.word() == "done").await;
    assert!(matches!(tasks[0].state, TaskState::Running { .. }), "the first still waits: {:#?}", tasks[0]);

    // The foreign process ends; the GPU is lent, and the box is refused because it is not really there.
    fs::write(tools.path().join("processes"), "").unwrap();
    let tasks = onramp.until_all_ended().await;
    let TaskState::Failed { failure, .. } = &tasks[0].state else { panic!("{:#?}", tasks[0]) };
    assert_eq!(failure.code, Code::ResourceMissing, "{failure:?}");
    assert!(failure.message.contains("NVIDIA H100 PCIe"), "{failure:?}");
    let lent = |event: &ProgressEvent| matches!(event, ProgressEvent::Step(words) if words.contains(GPU));
    assert!(onramp.progress().iter().any(|(_, event)| lent(event)));
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_no_worker_has_is_said_before_anything_is_started() {
    let config = CHECKS.replace("h100", "b300, a100:2");
    let onramp = Setup::new(Backend::Namespace)
        .agent(MEND)
        .file(".onramp.toml", &config)
        .configure(|config| config.gpu.enabled = false)
        .start()
        .await;
    let issue = onramp.ask("Needs what nobody has", "").await;
    let tasks = onramp.until_all_ended().await;
    onramp.drain().await;
    let TaskState::Failed { failure, .. } = &tasks[0].state else { panic!("{:#?}", tasks[0]) };
    assert_eq!(failure.code, Code::ResourceMissing);
    assert_eq!(tasks[0].attempt, 1, "waiting does not help, so it is not tried again");
    let started =
        |event: &ProgressEvent| matches!(event, ProgressEvent::Step(words) if words.contains("sandbox ready"));
    assert!(!onramp.progress().iter().any(|(_, event)| started(event)), "{:#?}", onramp.progress());
    assert!(onramp.status_comment(issue).contains("b300, a100:2"), "{}", onramp.status_comment(issue));
    assert!(onramp.github.bare(REPO).branches() == ["main"]);
    onramp.end().await;
}
