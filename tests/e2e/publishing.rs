//! What leaves: named, signed and worded as its repository wants it, with rights that end when the task does.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::Method;
use orchestrator::config::Secret;
use serde_json::Value;
use tasks::TaskState;
use tests::{Backend, Setup, github::Fault, onramp::REPO};
use workers::publish::Via;

const WANTED: &str = r#"version = 1

[[check]]
name = "answer"
command = "sh test.sh"

[pull_request]
draft = true
labels = ["bot"]
reviewers = ["ada"]
branch = "bot/{slug}-{id}"
trailers = ["Co-authored-by: {requester} <{requester_id}+{requester}@users.noreply.github.com>"]
section = "What and why"
"#;

const TEMPLATE: &str = "<!-- Keep it short. -->\n## What and why\n\n## Before you merge\n- [ ] I ran it\n- [ ] @acme/docs were told; closes #1\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_request_is_named_signed_and_worded_as_its_repository_wants_it() {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let secret = std::fs::read_to_string(&key).unwrap();
    let (line, value) = (secret.lines().nth(2).unwrap().to_owned(), secret.clone());
    let onramp = Setup::new(Backend::Namespace)
        .file(".onramp.toml", WANTED)
        .file(".github/PULL_REQUEST_TEMPLATE.md", TEMPLATE)
        // It looks for the key wherever it can.
        .agent("cat /proc/*/environ 2>/dev/null; echo 42 > answer.txt")
        .configure(move |config| config.commit.signing_key = Secret::known(value))
        .start()
        .await;
    onramp.ask("The answer is wrong", "").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}", tasks[0]);
    onramp.drain().await;

    let pulls = onramp.github.pulls();
    let [pull] = pulls.as_slice() else { panic!("{pulls:#?}") };
    assert_eq!(pull.head, format!("bot/the-answer-is-wrong-{}", tasks[0].id.short()));
    assert_eq!((pull.draft, &pull.labels[..], &pull.reviewers[..]), (true, &["bot".into()][..], &["ada".into()][..]));
    assert!(pull.body.starts_with("## What and why\n\nFixes #"), "{}", pull.body);
    assert!(
        pull.body.ends_with("## Before you merge\n- [ ] I ran it\n- [ ] `@acme/docs` were told; closes `#1`\n"),
        "{}",
        pull.body
    );
    assert!(!pull.body.contains("Keep it short"), "{}", pull.body);

    let bare = onramp.github.bare(REPO);
    let message = bare.message(&pull.head);
    assert!(message.contains("\nCo-authored-by: ada <7+ada@users.noreply.github.com>"), "{message}");
    assert!(!message.contains("Assisted-by") && message.contains("\nTask-Id: "), "{message}");
    let public = std::fs::read_to_string(keys.path().join("key.pub")).unwrap();
    let allowed = keys.path().join("allowed");
    std::fs::write(&allowed, format!("onramp@users.noreply.github.com {public}")).unwrap();
    let verified = Command::new("git")
        .arg("-C")
        .arg(bare.path())
        .args(["-c", "safe.directory=*", "-c", "gpg.format=ssh", "-c"])
        .arg(format!("gpg.ssh.allowedSignersFile={}", allowed.display()))
        .args(["verify-commit", &pull.head])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && said.contains("Good \"git\" signature"), "{said}");
    let found = Command::new("grep").args(["-rF", &line]).arg(onramp.data_dir()).output().unwrap();
    assert_eq!(
        found.status.code(),
        Some(1),
        "the key is nowhere on the disk: {}",
        String::from_utf8_lossy(&found.stdout)
    );
    onramp.end().await;
}

/// Everything that this process and its children were started with, looked at again and again until it is told to stop.
fn command_lines(stop: Arc<AtomicBool>) -> std::thread::JoinHandle<BTreeSet<String>> {
    std::thread::spawn(move || {
        let mut seen = BTreeSet::new();
        while !stop.load(Ordering::Relaxed) {
            for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                for file in ["cmdline", "environ"] {
                    let text = std::fs::read(entry.path().join(file)).unwrap_or_default();
                    if !text.is_empty() {
                        seen.insert(String::from_utf8_lossy(&text).into_owned());
                    }
                }
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        seen
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_gets_one_token_for_one_repository_that_is_nowhere_but_in_memory_and_ends_with_it() {
    let onramp = Setup::new(Backend::Namespace).agent("sleep 0.3; echo 42 > answer.txt").as_app(5).start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let watching = command_lines(stop.clone());
    onramp.ask("The answer is wrong", "").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}", tasks[0]);
    stop.store(true, Ordering::Relaxed);
    let seen = watching.join().unwrap();
    assert!(seen.iter().any(|text| text.contains("sleep")), "the agent's own command was seen");
    let token = concat!("ghs_", "canary");
    assert!(!seen.iter().any(|text| text.contains(token)), "in arguments or an environment");

    let requests = onramp.github.requests();
    let minted = requests.iter().filter(|request| request.path.ends_with("/access_tokens"));
    let minted: Vec<Value> = minted.map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    for wanted in &minted {
        let n = |key: &str| wanted[key].as_array().map_or(0, Vec::len);
        assert_eq!(n("repository_ids") + n("repositories"), 1, "one repository each: {wanted}");
    }
    let may_push: Vec<_> = minted.iter().filter(|wanted| wanted["permissions"]["contents"] == "write").collect();
    let [of_task] = may_push.as_slice() else { panic!("{minted:#?}") };
    let rights: Vec<_> = of_task["permissions"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(rights, ["checks", "contents", "metadata", "pull_requests"], "and no issues, no workflows");
    assert_eq!(of_task["repository_ids"].as_array().unwrap().len(), 1);
    assert!(!onramp.github.good_tokens().iter().any(|rights| rights["contents"] == "write"), "it was taken back");
    assert!(!requests.iter().any(|request| request.path.contains(token)), "in no address");
    // Looks for it in the log, the data directory and everything that was written.
    onramp.end().await;
}

/// Files of every kind, changed and gone.
const REARRANGE: &str = "echo 42 > answer.txt; printf '#!/bin/sh\\n' > run; chmod +x run; mkdir -p deep/er
                         printf 'caf\\351' > deep/er/latin; ln -sf answer.txt link; rm -f gone.txt; date +%N > note.txt";

fn through_the_api(agent: &str) -> Setup {
    // What is not UTF-8 counts as binary nowhere but in the way that it travels.
    let setup = Setup::new(Backend::Namespace).agent(agent).as_app(5).file("gone.txt", "gone\n");
    setup.configure(|config| config.commit.via = Via::Api)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_through_the_api_is_the_verified_tree_once_whatever_gets_lost() {
    for fault in [None, Some(Fault::LostAnswer), Some(Fault::Status502AfterDoing), Some(Fault::Status(503))] {
        let onramp = through_the_api(REARRANGE).start().await;
        let main = onramp.github.bare(REPO).tip("main");
        if let Some(fault) = fault {
            onramp.github.fault(Method::POST, "*/git/refs", fault, 1);
        }
        onramp.ask("The answer is wrong", "").await;
        let tasks = onramp.until_all_ended().await;
        assert_eq!(tasks[0].state.word(), "done", "{:#?}\n{}", tasks[0], onramp.github.requests_in_words());
        let pulls = onramp.github.pulls();
        let [pull] = pulls.as_slice() else { panic!("{pulls:#?}") };
        let bare = onramp.github.bare(REPO);
        assert_eq!(bare.branches(), ["main".to_owned(), pull.head.clone()]);
        assert_eq!(bare.parents(&pull.head), [main.unwrap()], "one commit on its base");
        assert!(pull.body.contains(&bare.tree(&pull.head)[..10]), "the tree is the one of the evidence");
        let files = bare.files(&pull.head);
        assert_eq!((files["answer.txt"].as_str(), files.contains_key("gone.txt")), ("42\n", false));
        assert!(files.contains_key("run") && files.contains_key("link") && files.contains_key("deep/er/latin"));
        assert!(bare.message(&pull.head).contains("Task-Id: "));
        assert_eq!(onramp.github.count(&Method::POST, "*/git-receive-pack"), 0, "nothing was pushed");

        // One commit more, on request.
        let asked = onramp.github.say(REPO, pull.number, "ada", "/onramp do it again");
        let first = bare.tip(&pull.head);
        onramp.deliver(&asked).await;
        let done = onramp.until("a second commit", |tasks| tasks.len() == 2 && !tasks[1].state.is_unfinished()).await;
        assert!(matches!(done[1].state, TaskState::Updated { .. }), "{:#?}", done[1]);
        assert_eq!(bare.parents(&pull.head), [first.unwrap()]);
        onramp.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forge_that_stores_other_bytes_publishes_nothing() {
    let onramp = through_the_api("echo 42 > answer.txt").start().await;
    onramp.github.mangle_trees();
    onramp.ask("The answer is wrong", "").await;
    let tasks = onramp.until_all_ended().await;
    let TaskState::Failed { failure } = &tasks[0].state else { panic!("{:#?}", tasks[0]) };
    assert!(failure.message.contains("another tree") && failure.next_step.contains("via = \"git\""), "{failure:?}");
    assert_eq!((onramp.github.pulls().len(), onramp.github.bare(REPO).branches()), (0, vec!["main".to_owned()]));
    onramp.end().await;
}
