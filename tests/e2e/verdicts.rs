//! The roads that end without a pull request: each with a reason that a person can act on, and nothing published.

use axum::http::Method;
use tasks::{Task, TaskState};
use tests::{
    Backend, Onramp, Setup,
    onramp::{LABEL, REPO},
};

use crate::with_each_sandbox;

with_each_sandbox!(
    a_failing_check_ends_in_no_pull_request_and_a_comment_that_explains,
    an_agent_that_changes_nothing_is_said_so,
    an_agent_that_exits_with_an_error_is_said_so,
    a_protected_path_is_refused_with_the_rule,
    a_task_that_is_withdrawn_while_the_agent_works_stops_at_once,
);

/// Asks, waits until all is told, and holds what is true of every end without a pull request. Returns the task and the
/// comment.
async fn ends_without(onramp: &Onramp) -> (Task, String) {
    let issue = onramp.ask("The answer is wrong", "").await;
    let tasks = onramp.until_all_ended().await;
    onramp.drain().await;
    assert_nothing_published(onramp);
    (tasks[0].clone(), onramp.status_comment(issue))
}

fn assert_nothing_published(onramp: &Onramp) {
    assert_eq!(onramp.github.pulls().len(), 0);
    assert_eq!(onramp.github.bare(REPO).branches(), ["main"]);
    assert_eq!(onramp.github.count(&Method::POST, "*/git-receive-pack"), 0);
}

/// What every comment about a failure says: its code, what happened, and what to do.
fn assert_explains(comment: &str, parts: &[&str]) {
    for part in parts {
        assert!(comment.contains(part), "the comment does not say {part:?}:\n{comment}");
    }
}

async fn a_failing_check_ends_in_no_pull_request_and_a_comment_that_explains(backend: Backend) {
    let config = "version = 1\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n[limits]\nrounds = 2\n";
    let onramp = Setup::new(backend).file(".onramp.toml", config).agent("echo $$ > answer.txt").start().await;
    let (task, comment) = ends_without(&onramp).await;
    let TaskState::Failed { failure } = &task.state else { panic!("{task:#?}") };
    assert_eq!(failure.code.as_str(), "E040");
    assert_explains(&comment, &["E040", "answer", "exit code 1", "the answer is"]);
    assert_eq!(task.attempt, 1, "a failed check is not tried again by itself");
    assert!(onramp.artifact(&task, "diff.patch").contains("+++ b/answer.txt"), "the work is kept");
    assert!(onramp.artifact(&task, "prompt-2.md").contains("the answer is"), "it was tried twice");
    onramp.end().await;
}

async fn an_agent_that_changes_nothing_is_said_so(backend: Backend) {
    let onramp = Setup::new(backend).agent("echo 'All is well.'; touch answer.txt").start().await;
    let (task, comment) = ends_without(&onramp).await;
    assert_eq!(task.state, TaskState::NoChanges);
    assert!(comment.to_lowercase().contains("nothing") || comment.to_lowercase().contains("no change"), "{comment}");
    onramp.end().await;
}

async fn an_agent_that_exits_with_an_error_is_said_so(backend: Backend) {
    let agent = "echo 42 > answer.txt; echo 'I ran out of ideas.' >&2; exit 3";
    let onramp = Setup::new(backend).agent(agent).start().await;
    let (task, comment) = ends_without(&onramp).await;
    let TaskState::Failed { failure } = &task.state else { panic!("{task:#?}") };
    assert_eq!(failure.code.as_str(), "E021", "right as its change may be, an agent that failed is not believed");
    assert_explains(&comment, &["E021", "3", "I ran out of ideas."]);
    onramp.end().await;
}

async fn a_protected_path_is_refused_with_the_rule(backend: Backend) {
    let config =
        "version = 1\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n[policy]\nprotected = [\"test.sh\"]\n";
    let agent = "echo 42 > answer.txt; echo true > test.sh; echo '[policy]' >> .onramp.toml";
    let onramp = Setup::new(backend).file(".onramp.toml", config).agent(agent).start().await;
    let (task, comment) = ends_without(&onramp).await;
    let TaskState::Rejected { violations } = &task.state else { panic!("{task:#?}") };
    let mut found: Vec<_> = violations.iter().map(|v| (v.rule.as_str(), v.path.as_deref().unwrap_or(""))).collect();
    found.sort_unstable();
    assert_eq!(found, [("protected_path", ".onramp.toml"), ("protected_path", "test.sh")], "every one, not the first");
    assert_explains(&comment, &["protected_path", "test.sh", ".onramp.toml"]);
    onramp.end().await;
}

async fn a_task_that_is_withdrawn_while_the_agent_works_stops_at_once(backend: Backend) {
    let onramp = Setup::new(backend).agent("echo 42 > answer.txt; sleep 600").start().await;
    let issue = onramp.ask("The answer is wrong", "").await;
    onramp.until("agent at work", |tasks| tasks[0].state.word() == "running").await;
    let began = std::time::Instant::now();
    let (status, answer) = onramp.deliver(&onramp.github.unlabel(REPO, issue, LABEL, "ada")).await;
    assert_eq!(status / 100, 2, "{answer}");
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "stopped", "{:#?}", tasks[0]);
    assert!(began.elapsed().as_secs() < 30, "it took {:?}", began.elapsed());
    onramp.drain().await;
    assert_nothing_published(&onramp);
    onramp.status_comment(issue);
    onramp.end().await;
}
