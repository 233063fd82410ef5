//! Exactly one effect outside: GitHub does what it was asked, the answer does not arrive, and still there is one of
//! everything.

use axum::http::Method;
use tests::{
    Backend, Setup,
    github::{Fault, GitHub},
    onramp::{DEADLINE, REPO},
};

/// Every outward act of a task: each is asked for with a POST.
const ACTS: [&str; 5] = [
    "/acme/web.git/git-receive-pack",
    "/repos/*/pulls",
    "/repos/*/labels",
    "/repos/*/requested_reviewers",
    "/repos/*/comments",
];

async fn one_of_everything_after(path: &str, fault: Fault) {
    let config = "version = 1\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n\
                  [pull_request]\nlabels = [\"from-onramp\"]\nreviewers = [\"ada\"]\n";
    let setup = Setup::new(Backend::Namespace).file(".onramp.toml", config).agent("echo 42 > answer.txt");
    let onramp = setup.start().await;
    onramp.github.fault(Method::POST, path, fault, 1);
    let issue = onramp.ask("The answer is wrong", "").await;
    let told = |github: &GitHub| github.comments(REPO, issue).iter().any(|c| c.body.contains("/pull/")).then_some(());
    onramp.github.until("comment with the pull request", DEADLINE, told).await;

    let (pulls, requests) = (onramp.github.pulls(), onramp.github.requests_in_words());
    let [pull] = pulls.as_slice() else { panic!("{path} {fault:?}:\n{requests}") };
    assert_eq!((&pull.labels[..], &pull.reviewers[..]), (&["from-onramp".to_owned()][..], &["ada".to_owned()][..]));
    let bare = onramp.github.bare(REPO);
    assert_eq!(bare.branches(), ["main".to_owned(), pull.head.clone()], "{path} {fault:?}:\n{requests}");
    assert_eq!(bare.parents(&pull.head), [bare.tip("main").unwrap()], "one commit");
    onramp.status_comment(issue);
    for path in ACTS {
        assert_eq!(onramp.github.count(&Method::POST, path), 1, "{path} once, with {fault:?}:\n{requests}");
    }
    let tasks = onramp.until_all_ended().await;
    assert_eq!((tasks[0].attempt, tasks[0].failures), (1, 0), "looked up, not tried again: {path} {fault:?}");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_whose_answer_was_lost_is_looked_up_and_not_done_again() {
    for path in ACTS {
        one_of_everything_after(path, Fault::LostAnswer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_that_was_answered_with_502_is_looked_up_and_not_done_again() {
    for path in ACTS {
        one_of_everything_after(path, Fault::Status502AfterDoing).await;
    }
}

/// Limits of the forge are per hour and per minute: a plain task stays far below them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_task_asks_github_a_dozen_things_and_writes_three() {
    let onramp = Setup::new(Backend::Namespace).agent("echo 42 > answer.txt").start().await;
    let issue = onramp.ask("The answer is wrong", "").await;
    let told = |github: &GitHub| github.comments(REPO, issue).iter().any(|c| c.body.contains("/pull/")).then_some(());
    onramp.github.until("comment with the pull request", DEADLINE, told).await;
    let rocket = |github: &GitHub| github.reactions().into_iter().find(|reacted| reacted.content == "rocket");
    onramp.github.until("rocket", DEADLINE, rocket).await;
    let asked: Vec<_> = onramp.github.requests().into_iter().filter(|r| !r.path.contains(".git/")).collect();
    let writes = |r: &&tests::github::Recorded| {
        (r.method == Method::POST || r.method == Method::PATCH) && !r.path.ends_with("/reactions")
    };
    let words = onramp.github.requests_in_words();
    assert!(asked.len() <= 12, "{} requests:\n{words}", asked.len());
    assert!(asked.iter().filter(writes).count() <= 3, "{words}");
    onramp.end().await;
}
