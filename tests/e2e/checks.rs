//! Checks on the commits of a pull request: Onramp's own, and those of others that fail. And what is left when it is over.

use axum::http::Method;
use tests::{
    Backend, Setup,
    github::{GitHub, Pull},
    onramp::{DEADLINE, Onramp, REPO},
};

const OPTIONAL_LINT: &str = "version = 1\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n\
                             [[check]]\nname = \"lint\"\nrequired = false\ncommand = \"echo answer.txt:1: too short; exit 1\"\n\
                             [pull_request]\ndraft = \"unverified\"\n";

fn app(agent: &str) -> Setup {
    Setup::new(Backend::Namespace).as_app(5).agent(agent)
}

async fn with_pull(setup: Setup) -> (Onramp, Pull) {
    let onramp = setup.start().await;
    onramp.ask("The answer is wrong", "").await;
    onramp.until_all_ended().await;
    let pull = onramp.github.pulls().first().cloned().expect("a pull request");
    (onramp, pull)
}

/// What is asked for by a comment is dealt with after everything that was delivered before it.
async fn until_dealt_with(onramp: &Onramp, number: u64) {
    onramp.deliver(&onramp.github.say(REPO, number, "ada", "/onramp help")).await;
    let help = |github: &GitHub| github.comments(REPO, number).into_iter().find(|c| c.body.contains("onramp:help"));
    onramp.github.until("help", DEADLINE, help).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_verified_stands_as_one_check_on_the_commit_with_what_was_said_about_lines() {
    let (onramp, pull) = with_pull(app("echo 42 > answer.txt").file(".onramp.toml", OPTIONAL_LINT)).await;
    let own = onramp.github.own_checks();
    let [check] = own.as_slice() else { panic!("{own:#?}") };
    assert_eq!(check["head_sha"].as_str(), onramp.github.bare(REPO).tip(&pull.head).as_deref());
    assert_eq!((&check["name"], &check["conclusion"]), (&"onramp / verify".into(), &"neutral".into()));
    assert_eq!(check["output"]["title"], "1 of 2 checks passed in a clean sandbox");
    assert!(check["output"]["summary"].as_str().unwrap().contains("`sh test.sh`"), "{check:#}");
    let annotation = &check["output"]["annotations"][0];
    assert_eq!((&annotation["path"], &annotation["start_line"]), (&"answer.txt".into(), &1.into()), "{check:#}");
    assert!(pull.draft, "something could not be verified");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_button_of_the_check_brings_the_pull_request_up_to_its_base_for_who_may_write() {
    let (onramp, pull) = with_pull(app("echo 42 > answer.txt")).await;
    onramp.github.commit(REPO, "main", &[("other.txt", "other\n")]);
    onramp.deliver(&onramp.github.press(REPO, pull.number, "rebase", "eve")).await;
    until_dealt_with(&onramp, pull.number).await;
    assert_eq!(onramp.tasks().await.len(), 1, "eve may only read");
    onramp.deliver(&onramp.github.press(REPO, pull.number, "rebase", "ada")).await;
    onramp.until("rebased", |tasks| tasks.len() == 2 && tasks.iter().all(|task| !task.state.is_unfinished())).await;
    assert_eq!(onramp.github.branch_tree(REPO, &pull.head)["other.txt"], "other\n");
    assert_eq!(onramp.github.own_checks().len(), 2, "one for each commit");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_failed_once_runs_again_before_anybody_works_on_it() {
    let (onramp, pull) = with_pull(app("echo 42 > answer.txt; date +%N > n.txt")).await;
    onramp.deliver(&onramp.github.fail_check(REPO, pull.number, "ci/build", "the network was away")).await;
    until_dealt_with(&onramp, pull.number).await;
    assert_eq!(onramp.github.checks_asked_again(), ["ci/build"]);
    assert_eq!(onramp.tasks().await.len(), 1);
    onramp.deliver(&onramp.github.fail_check(REPO, pull.number, "ci/build", "it fails really")).await;
    onramp.until("work on it", |tasks| tasks.len() == 2 && tasks.iter().all(|t| !t.state.is_unfinished())).await;
    assert_eq!(onramp.github.checks_asked_again().len(), 1);
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_fails_on_the_base_too_is_not_worked_on() {
    let (onramp, pull) = with_pull(app("echo 42 > answer.txt")).await;
    onramp.github.fail_check_on_branch(REPO, "main", "ci/build");
    onramp.deliver(&onramp.github.fail_check(REPO, pull.number, "ci/build", "as ever")).await;
    until_dealt_with(&onramp, pull.number).await;
    assert_eq!(onramp.github.checks_asked_again(), [""; 0]);
    assert_eq!(onramp.tasks().await.len(), 1);
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_branch_goes_with_its_pull_request_but_not_with_commits_of_others_on_it() {
    for (theirs, merged) in [(false, true), (false, false), (true, false)] {
        let (onramp, pull) = with_pull(app("echo 42 > answer.txt")).await;
        if theirs {
            onramp.github.commit(REPO, &pull.head, &[("mine.txt", "mine\n")]);
        }
        onramp.deliver(&onramp.github.close_pull(REPO, pull.number, merged, "ada")).await;
        until_dealt_with(&onramp, pull.number).await;
        assert_eq!(onramp.github.bare(REPO).tip(&pull.head).is_some(), theirs, "merged: {merged}");
        let deletions = onramp.github.count(&Method::DELETE, "*/git/refs/heads/*");
        assert_eq!(deletions, usize::from(!theirs), "{}", onramp.github.requests_in_words());
        onramp.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_is_called_once_when_nothing_goes_on_without_a_person() {
    let onramp = app("echo 43 > answer.txt").start().await;
    let issue = onramp.ask("The answer is wrong", "").await;
    onramp.until_all_ended().await;
    onramp.drain().await;
    let calls = onramp.github.comments(REPO, issue).into_iter().filter(|comment| comment.body.contains("@ada, "));
    let calls: Vec<_> = calls.collect();
    let [call] = calls.as_slice() else { panic!("{calls:#?}") };
    assert!(call.body.contains("E040") && call.body.contains("#issuecomment-"), "{}", call.body);
    assert!(call.body.lines().count() <= 3, "short: {}", call.body);
    assert!(onramp.status_comment(issue).contains("**Failed**"));
    onramp.end().await;
}
