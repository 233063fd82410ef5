//! What the door lets in, and on whose word.

use axum::http::Method;
use tasks::TaskState;
use tests::{
    Backend, Setup,
    github::Permission,
    onramp::{LABEL, REPO},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_signature_is_refused_and_makes_no_task() {
    let onramp = Setup::new(Backend::Namespace).start().await;
    let issue = onramp.github.issue(REPO, "The answer is wrong", "", "eve");
    let delivery = onramp.github.label(REPO, issue, LABEL, "ada");

    let forged = delivery.clone().signed_with("a guess");
    assert_eq!(onramp.deliver(&forged).await.0, 401);
    let mut changed = delivery.clone();
    changed.body.push(b' ');
    assert_eq!(onramp.deliver(&changed).await.0, 401, "one byte more than what was signed");
    let mut unsigned = delivery;
    unsigned.signature.clear();
    assert_eq!(onramp.deliver(&unsigned).await.0, 401);

    assert!(onramp.tasks().await.is_empty());
    assert!(onramp.github.requests().is_empty(), "{}", onramp.github.requests_in_words());
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_without_write_permission_gets_no_pull_request() {
    let onramp = Setup::new(Backend::Namespace).agent("echo 42 > answer.txt").start().await;
    let issue = onramp.github.issue(REPO, "The answer is wrong", "", "eve");
    let delivery = onramp.github.label(REPO, issue, LABEL, "eve");
    let (status, answer) = onramp.deliver(&delivery).await;
    assert_eq!(status / 100, 2, "{answer}");
    let tasks = onramp.until_all_ended().await;
    let TaskState::Failed { failure } = &tasks[0].state else { panic!("{:#?}", tasks[0]) };
    assert_eq!(failure.code.as_str(), "E051");
    assert_eq!(onramp.github.pulls().len(), 0);
    assert_eq!(onramp.github.count(&Method::POST, "*/git-upload-pack"), 0, "it was not even fetched");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_changed_hands_has_no_say() {
    let onramp = Setup::new(Backend::Namespace).agent("echo 42 > answer.txt").start().await;
    onramp.github.user("grace", 11).permission(REPO, "grace", Permission::Read);
    let issue = onramp.github.issue(REPO, "The answer is wrong", "", "eve");
    let delivery = onramp.github.label(REPO, issue, LABEL, "grace");
    // Between the delivery and the look at it, somebody else who may write has taken the login.
    onramp.github.user("grace", 12).permission(REPO, "grace", Permission::Write);
    onramp.deliver(&delivery).await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "failed", "the number is the identity: {:#?}", tasks[0]);
    assert_eq!(onramp.github.pulls().len(), 0);
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_label_or_event_is_taken_note_of_and_forgotten() {
    let onramp = Setup::new(Backend::Namespace).start().await;
    let issue = onramp.github.issue(REPO, "The answer is wrong", "", "eve");
    for delivery in [
        onramp.github.label(REPO, issue, "bug", "ada"),
        onramp.github.unlabel(REPO, issue, LABEL, "ada"),
        onramp.github.close_issue(REPO, issue, "ada"),
    ] {
        let (status, answer) = onramp.deliver(&delivery).await;
        assert_eq!(status / 100, 2, "{answer}");
    }
    assert!(onramp.tasks().await.is_empty());
    onramp.end().await;
}
