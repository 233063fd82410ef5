//! What GitHub asks of its clients: to stay away when told so, to write one thing after the other, to follow a rename.

use axum::http::Method;
use chrono::Duration;
use orchestrator::config::Period;
use tasks::{TaskState, Wait};
use tests::{
    Backend, Setup,
    github::{Fault, GitHub},
    onramp::{DEADLINE, REPO},
};

fn setup() -> Setup {
    Setup::new(Backend::Namespace).agent("echo 42 > answer.txt")
}

/// The task goes back into the queue for as long as GitHub wants, says so, and no worker sleeps for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_meets_a_limit_waits_in_the_queue_until_github_allows_it() {
    for (fault, seconds) in [(Fault::SecondaryLimit(1200), 1200), (Fault::UsedUp(1800), 1801)] {
        let onramp = setup().start().await;
        let issue = onramp.github.issue(REPO, "The answer is wrong", "", "eve");
        onramp.github.fault(Method::GET, "/repos/*/collaborators/*", fault, 1);
        onramp.deliver(&onramp.github.label(REPO, issue, tests::onramp::LABEL, "ada")).await;
        let waits = |tasks: &[tasks::Task]| {
            tasks.iter().any(|task| matches!(&task.state, TaskState::Queued { waits: Some(Wait::Retry { .. }), .. }))
        };
        let task = onramp.until("a wait", waits).await.remove(0);
        let TaskState::Queued { not_before, waits: Some(wait) } = &task.state else { panic!("{task:#?}") };
        let wait_for = *not_before - task.updated_at;
        assert!(wait_for > Duration::seconds(seconds - 30) && wait_for < Duration::seconds(seconds + 30), "{wait_for}");
        assert!(wait.why().contains("GitHub's limit on requests was reached"), "{}", wait.why());
        // Nobody waits for the end of the limit here: the issue is closed. What there is to say about that waits too.
        onramp.deliver(&onramp.github.close_issue(REPO, issue, "ada")).await;
        onramp.until_all_ended().await;
        onramp.drain().await;
        let requests = onramp.github.requests();
        let limited = requests.iter().find(|request| request.status == 403).unwrap().at;
        let late = requests.iter().filter(|request| request.at > limited + std::time::Duration::from_secs(1)).count();
        assert_eq!(late, 0, "GitHub is left alone:\n{}", onramp.github.requests_in_words());
        onramp.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_come_one_after_the_other_with_a_pause_between_them() {
    let pause = std::time::Duration::from_millis(400);
    let onramp = setup().configure(move |config| config.github.write_pause = Period(pause)).start().await;
    let issue = onramp.ask("The answer is wrong", "").await;
    let told = |github: &GitHub| github.comments(REPO, issue).iter().any(|c| c.body.contains("/pull/")).then_some(());
    onramp.github.until("comment with the pull request", DEADLINE, told).await;
    onramp.drain().await;
    let writes: Vec<_> = onramp.github.requests().into_iter().filter(tests::github::Recorded::is_write).collect();
    assert!(writes.len() >= 3, "{}", onramp.github.requests_in_words());
    for pair in writes.windows(2) {
        let apart = pair[1].at - pair[0].at;
        assert!(apart >= pause, "{} {} only {apart:?} after {}", pair[1].method, pair[1].path, pair[0].path);
    }
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_was_renamed_meanwhile_gets_its_pull_request_under_the_new_name() {
    let onramp = setup().start().await;
    let issue = onramp.github.issue(REPO, "The answer is wrong", "", "eve");
    let delivery = onramp.github.label(REPO, issue, tests::onramp::LABEL, "ada");
    onramp.github.rename(REPO, "web-next");
    onramp.deliver(&delivery).await;
    let tasks = onramp.until_all_ended().await;
    let TaskState::PullRequestOpen { pull_request } = &tasks[0].state else { panic!("{:#?}", tasks[0]) };
    assert_eq!(pull_request.repo.as_str(), "acme/web-next");
    let told = |github: &GitHub| {
        github.comments("acme/web-next", issue).iter().any(|c| c.body.contains("/pull/")).then_some(())
    };
    onramp.github.until("comment with the pull request", DEADLINE, told).await;
    // What becomes of the pull request is told under the new name.
    onramp.deliver(&onramp.github.close_pull("acme/web-next", pull_request.number, true, "ada")).await;
    onramp.until("merged", |tasks| tasks[0].state.word() == "merged").await;
    onramp.end_as("acme/web-next").await;
}

/// A page in place of an answer is no answer: neither a yes nor an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_html_and_a_slow_answer_are_survived() {
    for fault in [Fault::Html500, Fault::Html200, Fault::Slow(std::time::Duration::from_secs(2))] {
        for path in ["/repos/*/collaborators/*", "/repos/acme/web"] {
            let onramp = setup().start().await;
            onramp.github.fault(Method::GET, path, fault, 2);
            onramp.ask("The answer is wrong", "").await;
            let tasks = onramp.until_all_ended().await;
            assert!(matches!(tasks[0].state, TaskState::PullRequestOpen { .. }), "{path} {fault:?}: {:#?}", tasks[0]);
            onramp.end().await;
        }
    }
}
