//! How much of Onramp one repository has to bear, and what becomes of pull requests that nobody looks at.

use std::process::Command;

use chrono::Duration;
use orchestrator::config::Stale;
use tasks::{Task, TaskState, Wait};
use tests::{
    Backend, Setup,
    github::{GitHub, Pull},
    onramp::{DEADLINE, Onramp, REPO},
    target,
};

fn setup() -> Setup {
    Setup::new(Backend::Namespace).agent("date +%N > n.txt; echo 42 > answer.txt")
}

/// Whether this task waits for room, and why.
fn waits(task: &Task) -> Option<&str> {
    match &task.state {
        TaskState::Queued { waits: Some(Wait::Room { why }), .. } => Some(why),
        _ => None,
    }
}

async fn until_pulls(onramp: &Onramp, n: usize) -> Vec<Pull> {
    onramp.github.until("pull request", DEADLINE, |github| Some(github.pulls()).filter(|pulls| pulls.len() == n)).await
}

/// An Onramp that has opened one pull request, and lets a second task wait. Returns the issue of that one too.
async fn with_one_waiting(setup: Setup) -> (Onramp, Pull, u64) {
    let onramp = setup.start().await;
    onramp.ask("The answer is wrong", "").await;
    let pull = until_pulls(&onramp, 1).await.remove(0);
    onramp.until_all_ended().await;
    let second = onramp.ask("It is still wrong", "").await;
    onramp.until("a task that waits", |tasks| tasks.len() == 2 && waits(&tasks[1]).is_some()).await;
    (onramp, pull, second)
}

fn says(onramp: &Onramp, arguments: &[&str]) -> String {
    let mut command = Command::new(target::onramp());
    let output = command.arg("--data-dir").arg(onramp.data_dir()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_pull_request_too_many_waits_says_why_everywhere_and_comes_when_another_is_closed() {
    let (onramp, pull, issue) = with_one_waiting(setup().configure(|config| config.pulls.max_open = 1)).await;
    let why = "acme/web has 1 pull request of Onramp open";
    let told = |github: &GitHub| github.comments(REPO, issue).into_iter().find(|c| c.body.contains("**Waiting**"));
    let comment = onramp.github.until("status comment", DEADLINE, told).await;
    assert!(comment.body.contains(why), "{}", comment.body);
    let task = onramp.tasks().await.remove(1);
    assert!(says(&onramp, &["task", "list"]).contains(&format!("waits: {why}")));
    let shown = says(&onramp, &["task", "show", &task.id.to_string()]);
    assert!(shown.contains(&format!("waits     {why}")), "{shown}");

    // What changes a pull request that is there is not one more.
    onramp.deliver(&onramp.github.review(REPO, pull.number, "ada", "changes_requested", "Say why.", &[])).await;
    onramp.until("updated", |tasks| tasks.iter().any(|t| matches!(t.state, TaskState::Updated { .. }))).await;
    assert_eq!(onramp.github.pulls().len(), 1);

    onramp.deliver(&onramp.github.close_pull(REPO, pull.number, false, "ada")).await;
    until_pulls(&onramp, 2).await;
    onramp.until_all_ended().await;
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_too_many_within_an_hour_waits_until_the_hour_is_over() {
    let (onramp, pull, _) = with_one_waiting(setup().configure(|config| config.pulls.max_per_hour = 1)).await;
    onramp.deliver(&onramp.github.close_pull(REPO, pull.number, true, "ada")).await;
    onramp.until("merged", |tasks| tasks[0].state.word() == "merged").await;
    let task = onramp.tasks().await.remove(1);
    let TaskState::Queued { not_before, .. } = task.state else { panic!("{task:#?}") };
    let wait = not_before - task.created_at;
    assert!(wait > Duration::minutes(55) && wait <= Duration::minutes(60), "{wait}");
    assert!(waits(&task).unwrap().contains("within the last hour"));
    onramp.deliver(&onramp.github.close_issue(REPO, task.request.issue().unwrap(), "ada")).await;
    onramp.until_all_ended().await;
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_in_which_nobody_reacts_is_left_alone_until_somebody_does_or_the_operator_says_so() {
    let unnoticed = || setup().configure(|config| config.pulls.max_unnoticed = 1);
    let (onramp, pull, _) = with_one_waiting(unnoticed()).await;
    assert!(waits(&onramp.tasks().await[1]).unwrap().contains("nobody has done anything yet"));
    // What Onramp says itself is not somebody; any word of a person is.
    onramp.deliver(&onramp.github.say(REPO, pull.number, "ada", "<!-- onramp:stale=1 -->\nNobody")).await;
    assert!(waits(&onramp.tasks().await[1]).is_some());
    onramp.deliver(&onramp.github.say(REPO, pull.number, "eve", "I like it.")).await;
    until_pulls(&onramp, 2).await;
    onramp.until_all_ended().await;

    onramp.ask("And again", "").await;
    onramp.until("a task that waits", |tasks| tasks.len() == 3 && waits(&tasks[2]).is_some()).await;
    assert_eq!(says(&onramp, &["resume", REPO]), format!("{REPO} goes on\n"));
    until_pulls(&onramp, 3).await;
    onramp.until_all_ended().await;
    onramp.end().await;
}

/// A comment on the pull request that says that nobody does anything with it.
fn stale_notes(onramp: &Onramp, pull: u64) -> Vec<String> {
    let comments = onramp.github.comments(REPO, pull).into_iter();
    comments.filter(|comment| comment.body.contains("onramp:stale=")).map(|comment| comment.body).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_request_that_nobody_touches_is_called_stale_once_and_closed_where_that_is_wanted() {
    let onramp = setup().configure(|config| config.pulls.stale = Stale::Close).start().await;
    onramp.ask("The answer is wrong", "").await;
    let pull = until_pulls(&onramp, 1).await.remove(0).number;
    let opened_at = onramp.until_all_ended().await[0].updated_at;
    let look = async |days: i64| onramp.stale().look_once(opened_at + Duration::days(days)).await.unwrap();

    assert_eq!(look(13).await, 0);
    // Somebody did something that nobody told Onramp of.
    let touched = opened_at + Duration::days(5);
    onramp.github.touch(REPO, pull, &touched.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    assert_eq!((look(15).await, stale_notes(&onramp, pull).len()), (0, 0));
    assert_eq!((look(20).await, look(21).await), (1, 0), "said once");
    let said = stale_notes(&onramp, pull);
    assert!(said.len() == 1 && said[0].contains("for 14 days") && said[0].contains("closed in 7 days"), "{said:?}");

    // Somebody does something after all: then it is said again, and closed, only as long after that.
    let touched = opened_at + Duration::days(22);
    onramp.github.touch(REPO, pull, &touched.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    assert_eq!((look(28).await, look(35).await), (0, 0));
    assert!(onramp.github.pulls()[0].open);
    assert_eq!((look(36).await, look(42).await), (1, 0));

    assert_eq!(look(43).await, 1);
    let closed = onramp.until("closed", |tasks| tasks[0].state.word() == "closed").await;
    assert!(!onramp.github.pulls()[0].open, "{closed:#?}");
    let said = stale_notes(&onramp, pull);
    assert!(said.len() == 1 && said[0].contains("Closed, because"), "{said:?}");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_wants_it_said_has_nothing_closed() {
    let onramp = setup().start().await;
    onramp.ask("The answer is wrong", "").await;
    let pull = until_pulls(&onramp, 1).await.remove(0).number;
    let opened_at = onramp.until_all_ended().await[0].updated_at;
    for (days, said) in [(15, 1), (40, 0)] {
        let n_done = onramp.stale().look_once(opened_at + Duration::days(days)).await.unwrap();
        assert_eq!(n_done, said, "after {days} days");
    }
    assert!(onramp.github.pulls()[0].open);
    assert_eq!(stale_notes(&onramp, pull).len(), 1);
    onramp.end().await;
}
