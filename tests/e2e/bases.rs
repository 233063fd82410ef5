//! Bases through the front door: what the first task of a repository had to do, the next one finds done.

use tasks::TaskState;
use tests::{Backend, Onramp, Setup, onramp::REPO};
use workers::progress::ProgressEvent;

use crate::with_each_sandbox;

with_each_sandbox!(a_second_task_starts_where_setup_has_ended_and_its_checks_do_too);

const CONFIG: &str = r#"version = 1
[environment]
setup = ["cat /proc/sys/kernel/random/uuid > installed"]
prebuild = ["cp answer.txt ~/built"]
[[check]]
name = "answer"
command = "cat installed ~/built; stat -c %Y test.sh; sh test.sh"
"#;

/// The steps of the last attempt that said that a sandbox was ready.
fn ready(onramp: &Onramp) -> Vec<String> {
    let steps = onramp.progress().into_iter().filter_map(|(_, event)| match event {
        ProgressEvent::Step(text) if text.starts_with("sandbox ready") => Some(text),
        _ => None,
    });
    steps.collect()
}

async fn a_second_task_starts_where_setup_has_ended_and_its_checks_do_too(backend: Backend) {
    let onramp = Setup::new(backend)
        .file(".onramp.toml", CONFIG)
        .agent("echo 42 > answer.txt; cat installed")
        .configure(|config| config.bases.enabled = true)
        .start()
        .await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let first = onramp.until_all_ended().await[0].clone();
    let hands = onramp.hands().clone();
    let records = || {
        std::fs::read_dir(onramp.data_dir().join("bases")).map_or(0, |all| {
            all.flatten().filter(|found| found.path().extension().is_some_and(|end| end == "json")).count()
        })
    };
    onramp.until("base of the repository", |_| records() == 1).await;
    onramp.ask("It is still wrong", "It should be 42.").await;
    let second = onramp.until_all_ended().await[1].clone();
    // The pool knows by now what is asked for.
    onramp.until("box that stands ready", |_| hands.sandboxes.stats().n_warm > 0).await;
    onramp.ask("It stays wrong", "It should be 42.").await;
    let third = onramp.until_all_ended().await[2].clone();
    onramp.drain().await;

    for task in [&first, &second, &third] {
        assert!(matches!(task.state, TaskState::PullRequestOpen { .. }), "{task:#?}");
    }
    let ready = ready(&onramp);
    assert!(!ready[0].contains("from base") && ready[1].contains(", from base "), "{ready:#?}");
    assert_eq!(ready[1], ready[2], "the same base");
    assert!(hands.sandboxes.stats().n_hits > 0, "{:?}", hands.sandboxes.stats());
    // Built once: both later tasks, and their checks, saw the same setup and the same untouched files.
    let log = |task| onramp.artifact(task, "check-1-answer.log");
    assert_eq!(log(&second), log(&third));
    assert_eq!(log(&second).lines().nth(1), Some("41"), "what prebuild left in the home");
    assert!(onramp.artifact(&second, "evidence.json").contains("from base"));
    for pull in onramp.github.pulls() {
        let mut tree: Vec<String> = onramp.github.branch_tree(REPO, &pull.head).into_keys().collect();
        tree.sort();
        assert_eq!(tree, [".gitignore", ".onramp.toml", "answer.txt", "test.sh"], "what setup wrote is no change");
    }

    for base in hands.sandboxes.backend().bases().await.unwrap() {
        hands.sandboxes.backend().remove_base(&base).await.unwrap();
    }
    drop(hands);
    onramp.end().await;
}
