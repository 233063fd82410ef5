//! What an operator sees and does: tasks, notes, the dead letters, the audit log, and a program that is stopped.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use axum::http::Method;
use serde_json::Value;
use tests::{
    Backend, Setup,
    delivery::Delivery,
    github::{GitHub, Permission},
    onramp::{DEADLINE, LABEL, REPO},
    target,
};

fn onramp(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(target::onramp());
    command.arg("--data-dir").arg(data).args(arguments).stdin(Stdio::null()).current_dir(data);
    command.output().unwrap()
}

#[track_caller]
fn says(data: &Path, arguments: &[&str]) -> String {
    let output = onramp(data, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The same delivery with other words, from somebody who knows the secret.
fn reworded(mut delivery: Delivery, from: &str, to: &str) -> Delivery {
    delivery.body = String::from_utf8(delivery.body).unwrap().replace(from, to).into_bytes();
    delivery.signed_with(tests::delivery::WEBHOOK_SECRET)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_what_was_asked_what_was_added_and_what_happened_while_it_is_served() {
    let idle = Setup::new(Backend::Namespace).configure(|config| config.worker.n_workers = 0);
    let onramp = idle.start().await;
    let issue = onramp.ask("The answer is wrong", "It should be 42.").await;
    let again = reworded(onramp.github.label(REPO, issue, LABEL, "ada"), "It should be 42.", "And 43 is wrong too.");
    let (status, answer) = onramp.deliver(&again).await;
    assert_eq!(status, 202, "{answer}");
    assert!(answer.contains("\"known\":true"), "it joins: {answer}");
    let data = onramp.data_dir().to_owned();
    let tasks = onramp.tasks().await;
    let id = tasks[0].id.to_string();

    let listed: Value = serde_json::from_str(&says(&data, &["task", "list", "--json"])).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), listed[0]["id"].as_str()), (1, Some(id.as_str())));
    let shown = says(&data, &["task", "show", &id[24..]]);
    assert!(
        shown.contains("The answer is wrong") && shown.contains("note") && shown.contains("43 is wrong"),
        "{shown}"
    );
    assert!(says(&data, &["task", "stop", &id]).contains("stopped"));
    assert!(says(&data, &["task", "retry", &id]).contains("queued"));
    assert_eq!(says(&data, &["task", "list", "--state", "dead"]), "");

    let verified = says(&data, &["audit", "verify"]);
    assert!(verified.starts_with("whole: "), "{verified}");
    let trail = says(&data, &["audit", "show", "--task", &id]);
    let kinds: Vec<_> = trail.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(kinds, ["enqueued", "joined", "cancel_requested", "requeued"], "{trail}");
    assert_eq!(says(&data, &["audit", "show", "--repo", "acme/api"]), "");
    assert_eq!(says(&data, &["audit", "show", "--repo", REPO, "--kind", "joined", "--since", "1h"]).lines().count(), 1);

    let unknown = self::onramp(&data, &["task", "show", "ffffffff"]);
    assert_eq!(unknown.status.code(), Some(2));
    onramp.drain().await;
    // Where nobody serves, the store is opened for the question.
    assert!(says(&data, &["task", "list"]).contains("queued"));
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_request_carries_an_anchor_that_shows_a_cut_journal() {
    let onramp = Setup::new(Backend::Namespace).agent("echo 42 > answer.txt").start().await;
    onramp.ask("The answer is wrong", "").await;
    onramp.until_all_ended().await;
    onramp.drain().await;
    let body = onramp.github.pulls()[0].body.clone();
    let anchor = body.split("journal `").nth(1).and_then(|rest| rest.split('`').next()).unwrap_or_default();
    assert!(anchor.len() > 64, "the evidence has an anchor: {body}");
    let data = onramp.data_dir().to_owned();
    assert!(says(&data, &["audit", "verify", "--anchor", anchor]).contains("the anchor is in it"));

    let copy = tempfile::tempdir().unwrap();
    let segment = std::fs::read(data.join("queue/journal/000001.log")).unwrap();
    std::fs::write(copy.path().join("000001.log"), &segment[..52]).unwrap();
    let journal = copy.path().display().to_string();
    assert!(says(&data, &["audit", "verify", "--journal", &journal]).starts_with("whole: 0 records"));
    let cut = self::onramp(&data, &["audit", "verify", "--journal", &journal, "--anchor", anchor]);
    let stderr = String::from_utf8(cut.stderr).unwrap();
    assert_eq!(cut.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("E061") && stderr.contains("its end was cut off"), "{stderr}");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_floods_is_answered_once() {
    let idle = Setup::new(Backend::Namespace).configure(|config| {
        config.worker.n_workers = 0;
        config.queue.queued_per_actor = 2;
    });
    let onramp = idle.start().await;
    let mut issues = Vec::new();
    for n in 1..=6 {
        issues.push(onramp.ask(&format!("Wish {n}"), "").await);
    }
    assert_eq!(onramp.tasks().await.len(), 3, "two that wait, and one that says why there are no more");
    onramp.drain().await;
    let told: usize = issues.iter().map(|issue| onramp.github.comments(REPO, *issue).len()).sum();
    assert_eq!(told, 3, "one comment for each task, and none for what was refused after");
    let refused = onramp.github.comments(REPO, issues[2]);
    assert!(refused[0].body.contains("2 tasks waiting"), "{refused:#?}");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_over_a_limit_of_the_month_waits_says_so_and_can_be_let_on() {
    let limited = |bytes: u64| {
        move |config: &mut orchestrator::config::Config| {
            config.budget.all.task.storage = Some(bytes);
            config.budget.all.month.storage = Some(bytes);
        }
    };
    // A byte of artifacts and not one more: what the first task leaves is all that there is.
    let onramp = Setup::new(Backend::Namespace).agent("echo 42 > answer.txt").configure(limited(1)).start().await;
    onramp.ask("The answer is wrong", "").await;
    onramp.until_all_ended().await;
    let waiting = onramp.ask("It is wrong again", "").await;
    let tasks = onramp.until("a task that waits for room", |tasks| tasks.iter().any(|task| task.held.is_some())).await;
    assert_eq!((tasks[0].state.word(), tasks[1].state.word()), ("done", "queued"));
    assert!(tasks[0].used.storage_bytes > 1 && tasks[0].used.wall_ms > 0, "{:?}", tasks[0].used);

    let data = onramp.data_dir().to_owned();
    let told = says(&data, &["budget"]);
    assert!(
        told.contains("storage: 0 MiB of storage left of 1 MiB of storage") && told.contains("1 waiting"),
        "{told}"
    );
    let listed: Value = serde_json::from_str(&says(&data, &["budget", "--json"])).unwrap();
    let of = |kind: &str| listed.as_array().unwrap().iter().find(|entry| entry["account"]["kind"] == kind).unwrap();
    for kind in ["all", "repository", "requester"] {
        assert_eq!(of(kind)["used"]["wall_ms"], tasks[0].used.wall_ms, "{listed:#}");
    }
    assert_eq!(
        says(&data, &["budget", "--month", "2020-01"]).trim(),
        "all tasks, 2020-01: nothing\n  storage: 1 MiB of storage left of 1 MiB of storage"
    );
    let shown = says(&data, &["task", "show", &tasks[1].id.to_string()]);
    assert!(shown.contains("waits     the limit of all tasks for "), "{shown}");
    // A comment is edited in a while, not at once.
    let says_why = |github: &tests::github::GitHub| {
        let comments = github.comments(REPO, waiting);
        comments.iter().any(|comment| comment.body.contains("**Waiting**: the limit of all tasks for ")).then_some(())
    };
    onramp.github.until("comment that says why it waits", DEADLINE, says_why).await;
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_has_used_its_own_limit_is_stopped_and_says_how_to_go_on() {
    let limited = Setup::new(Backend::Namespace).agent("echo 42 > answer.txt; exec tail -f /dev/null");
    let onramp = limited.configure(|config| config.budget.all.task.wall = Some(4_000)).start().await;
    let issue = onramp.ask("The answer is wrong", "").await;
    let task = onramp.until_all_ended().await.remove(0);
    let tasks::TaskState::Failed { failure } = &task.state else { panic!("{task:#?}") };
    assert_eq!((failure.code.as_str(), failure.kind), ("E026", tasks::FailureKind::Budget));
    assert!(task.used.wall_ms >= 4_000 && task.attempt == 1, "{task:#?}");
    onramp.drain().await;
    let comment = onramp.status_comment(issue);
    for part in ["it has used all of the 4 s that it may use (E026)", "**Kept**: The transcript", "onramp task retry"] {
        assert!(comment.contains(part), "{part}: {comment}");
    }
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_503_and_mends_by_itself() {
    // A process of its own: that it complains in its log is right.
    let disk = tempfile::tempdir().unwrap();
    let place = disk.path().display().to_string();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs", &place]).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("SKIPPED: a small disk needs the right to mount one");
        return;
    }
    let github = github().await;
    let served = Served::start(disk.path(), &github, "[worker]\nn_workers = 0\n");
    let before = github.issue(REPO, "Before", "", "ada");
    let (status, answer) = github.label(REPO, before, LABEL, "ada").send(served.door).await;
    assert_eq!(status, 202, "{answer}");
    let filler = disk.path().join("filler");
    // Until nothing more fits, whatever the file system keeps for itself.
    while std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&filler)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[7; 4096]))
        .is_ok()
    {}
    let issue = github.issue(REPO, "Meanwhile", &"x".repeat(60_000), "ada");
    let delivery = github.label(REPO, issue, LABEL, "ada");
    for _ in 0..3 {
        let (status, answer) = delivery.clone().send(served.door).await;
        assert_eq!(status, 503, "{answer}");
    }
    std::fs::remove_file(&filler).unwrap();
    let (status, answer) = delivery.send(served.door).await;
    assert_eq!(status, 202, "{answer}");
    let listed: Value = serde_json::from_str(&says(&disk.path().join("data"), &["task", "list", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    drop(served);
    let unmounted = Command::new("umount").args(["-l", &place]).status();
    assert!(unmounted.unwrap().success());
}

/// A GitHub with the repository, and with people who may.
async fn github() -> GitHub {
    let github = GitHub::start().await;
    github.repository(REPO, &[(".onramp.toml", "version = 1\n[[check]]\nname = \"ok\"\ncommand = \"true\"\n")]);
    github.user("ada", 7).permission(REPO, "ada", Permission::Write);
    github.user("onramp-bot", 99).permission(REPO, "onramp-bot", Permission::Write);
    github
}

/// `onramp serve` as a process of its own, with an agent that does not end by itself.
struct Served {
    child: Child,
    door: SocketAddr,
    lines: mpsc::Receiver<String>,
}

impl Served {
    fn start(dir: &Path, github: &GitHub, more: &str) -> Self {
        let agents = dir.join("agents");
        std::fs::create_dir_all(&agents).unwrap();
        let agent = "command = [\"/bin/sh\", \"-c\", \"exec sleep 600\"]\nprompt = \"stdin\"\nevents = \"plain\"\ninstall = \"It is there.\"\n";
        std::fs::write(agents.join("sleeper.toml"), agent).unwrap();
        let config = format!(
            "data_dir = \"{data}\"\n[server]\nlisten = \"127.0.0.1:0\"\n[github]\napi_url = \"{api}\"\ngit_url = \"{git}\"\n\
             label = \"{LABEL}\"\n[agent]\ndefault = \"sleeper\"\ndir = \"{agents}\"\n{more}",
            data = dir.join("data").display(),
            api = github.api_url(),
            git = github.git_url(),
            agents = agents.display(),
        );
        std::fs::write(dir.join("serve.toml"), config).unwrap();
        let mut child = Self::command(dir, &github.personal_token("onramp-bot")).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = Self::line_with(&lines, "listening on http://");
        let door = line.rsplit("http://").next().unwrap().trim_end_matches("/hooks/github").parse().unwrap();
        Self { child, door, lines }
    }

    fn command(dir: &Path, token: &str) -> Command {
        let mut command = Command::new(target::onramp());
        command.args(["serve", "--sandbox", "namespace", "--config"]).arg(dir.join("serve.toml")).current_dir(dir);
        command.env("GITHUB_TOKEN", token).env("ONRAMP_WEBHOOK_SECRET", tests::delivery::WEBHOOK_SECRET);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn line_with(lines: &mpsc::Receiver<String>, part: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match lines.recv_timeout(DEADLINE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line with {part:?}:\n{}", seen.join("\n")),
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_signal_drains_the_second_gives_back_and_another_instance_harms_nothing() {
    let github = github().await;
    let dir = tempfile::tempdir().unwrap();
    let mut served = Served::start(dir.path(), &github, "");
    let data = dir.path().join("data");

    let second = Served::command(dir.path(), "x").output().unwrap();
    let stderr = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("E060") && stderr.contains(&served.child.id().to_string()), "{stderr}");

    let issue = github.issue(REPO, "Take your time", "", "ada");
    let (status, answer) = github.label(REPO, issue, LABEL, "ada").send(served.door).await;
    assert_eq!(status, 202, "{answer}");
    let state = || {
        let listed: Value = serde_json::from_str(&says(&data, &["task", "list", "--json"])).unwrap();
        (listed[0]["state"].as_str().unwrap_or_default().to_owned(), listed[0]["failures"].clone())
    };
    let until = |wanted: &str| {
        let deadline = std::time::Instant::now() + DEADLINE;
        while state().0 != wanted {
            assert!(std::time::Instant::now() < deadline, "it is {:?} and not {wanted}", state());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    until("running");
    served.signal("-TERM");
    Served::line_with(&served.lines, "draining");
    assert!(served.child.try_wait().unwrap().is_none(), "the task at hand goes on");
    assert_eq!(state().0, "running");
    let late = github.issue(REPO, "Too late", "", "ada");
    let (status, answer) = github.label(REPO, late, LABEL, "ada").send(served.door).await;
    assert_eq!(status, 503, "what comes now is told to come again: {answer}");
    served.signal("-TERM");
    let ended = served.child.wait().unwrap();
    assert_eq!(ended.code(), Some(0));
    assert_eq!(state(), ("queued".to_owned(), Value::from(0)), "given back at no cost");
    assert_eq!(github.count(&Method::POST, "*/pulls"), 0);
    assert!(says(&data, &["audit", "show"]).contains("released"));
}
