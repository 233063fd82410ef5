//! Workers in processes of their own, as an operator runs them: frozen, killed, cut off and refused, and still each task is
//! done once.

use axum::http::Method;
use tasks::TaskState;
use tests::{
    apart::{Apart, DEADLINE, Program},
    github::{Fault, GitHub, Pull, Recorded},
    lossy::Lossy,
    onramp::REPO,
};

/// Gives the right answer at once.
const QUICK: &str = "echo 42 > answer.txt; echo quick > by";
/// Gives the right answer after a while, so that a test can interfere.
const SLOW: &str = "echo 'thinking'; sleep 4; echo 42 > answer.txt; echo slow > by";

fn only_pull(github: &GitHub) -> Pull {
    let pulls = github.pulls();
    assert_eq!(pulls.len(), 1, "{}", github.requests_in_words());
    pulls[0].clone()
}

/// What there is once of everything, whatever was repeated.
fn assert_done_once(apart: &Apart, issue: u64, by: &str) {
    let (github, pull) = (&apart.github, only_pull(&apart.github));
    assert_eq!(github.branch_tree(REPO, &pull.head)["by"], format!("{by}\n"));
    assert_eq!(github.bare(REPO).branches(), ["main".to_owned(), pull.head.clone()]);
    assert_eq!(github.bare(REPO).parents(&pull.head), [github.bare(REPO).tip("main").unwrap()], "one commit");
    assert_eq!((pull.labels, pull.reviewers), (vec!["from-onramp".to_owned()], vec!["ada".to_owned()]));
    assert_eq!(github.comments(REPO, issue).len(), 1, "{:#?}", github.comments(REPO, issue));
}

/// Requests to GitHub that change something, in order.
fn writes(github: &GitHub) -> Vec<Recorded> {
    let is_write = |request: &Recorded| request.method != Method::GET && !request.path.ends_with("/git-upload-pack");
    github.requests().into_iter().filter(is_write).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_an_engine_and_a_worker_elsewhere_make_a_pull_request() {
    let apart = Apart::new().await;
    let server = apart.serve().await;
    server.until("that it runs no task", async || server.said().contains("no task runs in this process")).await;
    let worker = apart.worker("box", SLOW);
    let issue = apart.ask("The answer is wrong").await;
    // The log of the attempt grows on the server while the agent works elsewhere.
    worker
        .until("the agent's words, on the server", async || {
            apart.artifact(1, "transcript-1.log").is_some_and(|text| text.contains("thinking"))
        })
        .await;
    assert!(apart.artifact(1, "progress.log").unwrap().contains("running"));
    assert!(apart.github.pulls().is_empty(), "it is not done yet");
    apart.until_published(issue).await;
    assert_done_once(&apart, issue, "slow");

    let names: Vec<_> = apart.artifacts(1).into_iter().map(|(name, _)| name).collect();
    let all = [
        "check-1-answer.log",
        "diff.patch",
        "egress.jsonl",
        "evidence.intoto.json",
        "evidence.json",
        "progress.log",
        "prompt-1.md",
        "transcript-1.log",
    ];
    assert_eq!(names, all, "as if the worker stood beside the queue");
    let evidence: serde_json::Value = serde_json::from_str(&apart.artifact(1, "evidence.json").unwrap()).unwrap();
    assert!(only_pull(&apart.github).body.contains(&evidence["tree"].as_str().unwrap()[..10]));

    worker.signal("TERM");
    assert_eq!(worker.until_ended().await.code(), Some(0));
    let tasks = apart.tasks(server).await;
    assert!(matches!(tasks[0].state, TaskState::PullRequestOpen { .. }), "{:#?}", tasks[0]);
    assert_eq!((tasks[0].attempt, tasks[0].failures), (1, 0));
    apart.assert_no_secret();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_not_welcome_ends_and_says_what_to_do() {
    let apart = Apart::new().await;
    let _server = apart.serve().await;
    let nowhere = apart.worker_at("nowhere", QUICK, "box:8080");
    let astray = apart.worker_at("astray", QUICK, &apart.github.git_url());
    for (worker, code, next) in [(nowhere, 2, "next: Set [worker] server"), (astray, 4, "next: Check [worker] server")]
    {
        let log = worker.log().to_owned();
        assert_eq!(worker.until_ended().await.code(), Some(code));
        let said = std::fs::read_to_string(log).unwrap();
        assert!(said.contains(next), "{said}");
    }
}

/// A slow worker has the task and is frozen while its agent works; a quick one gets it when the lease has run out.
async fn frozen_while_the_agent_works() -> (Apart, Program, Program, u64) {
    let apart = Apart::new().await;
    let server = apart.serve().await;
    let slow = apart.worker("slow", SLOW);
    let issue = apart.ask("The answer is wrong").await;
    slow.until("the agent's words, on the server", async || apart.artifact(1, "transcript-1.log").is_some()).await;
    slow.signal("STOP");
    (apart, server, slow, issue)
}

/// A slow worker is frozen while its push, or its request to open the pull request, is on the way: that one arrives after
/// somebody else's.
async fn frozen_while_it_publishes(path: &str) -> (Apart, Program, Program, u64) {
    let apart = Apart::new().await;
    let server = apart.serve().await;
    apart.github.fault(Method::POST, path, Fault::HeldThenDone, 1);
    let slow = apart.worker("slow", SLOW);
    let issue = apart.ask("The answer is wrong").await;
    apart.github.until_held(1, DEADLINE).await;
    slow.signal("STOP");
    (apart, server, slow, issue)
}

async fn thaws_and_writes_nothing((apart, server, slow, issue): (Apart, Program, Program, u64)) {
    let quick = apart.worker("quick", QUICK);
    apart.until_published(issue).await;
    assert_done_once(&apart, issue, "quick");
    quick.signal("TERM");
    assert!(quick.until_ended().await.success());
    let (stale, n_before) = (apart.artifacts(1), writes(&apart.github).len());
    let body = only_pull(&apart.github).body;

    slow.signal("CONT");
    apart.github.release();
    let heard =
        async || ["the lease was lost", "the report was refused"].iter().any(|words| slow.said().contains(words));
    slow.until("word that the lease is lost", heard).await;
    // It is as good as new: the next task is its own.
    let next = apart.ask("The answer is still wrong").await;
    apart.until_published(next).await;
    let first = apart.github.pulls()[0].clone();
    let about_first = |request: &Recorded| request.path.contains(&format!("/{}/", first.number));
    let late: Vec<_> = writes(&apart.github).into_iter().skip(n_before).collect();
    assert!(!late.iter().any(about_first), "nothing more about the first: {late:#?}");
    let edits = Method::PATCH;
    assert_eq!(apart.github.count(&edits, "/repos/*/pulls/*"), 0, "{}", apart.github.requests_in_words());
    let pulls = apart.github.pulls();
    assert_eq!((pulls.len(), &pulls[0].body), (2, &body), "the first pull request is as the quick worker left it");
    assert_eq!(apart.github.branch_tree(REPO, &pulls[0].head)["by"], "quick\n");
    assert_eq!(apart.github.branch_tree(REPO, &pulls[1].head)["by"], "slow\n");

    slow.signal("TERM");
    assert!(slow.until_ended().await.success());
    let tasks = apart.tasks(server).await;
    assert_eq!((tasks[0].attempt, tasks[0].crashes, tasks[0].state.word()), (2, 1, "done"));
    assert_eq!((tasks[1].attempt, tasks[1].failures, tasks[1].state.word()), (1, 0, "done"));
    let first = tasks[0].id.to_string();
    let there: Vec<_> =
        std::fs::read_dir(apart.data("serve").join("artifacts").join(first).join("1")).unwrap().collect();
    assert_eq!(there.len(), stale.len(), "nothing was brought over after the lease");
    apart.assert_no_secret();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_past_its_lease_writes_nothing_when_it_thaws() {
    let (agent, push, open) = tokio::join!(
        frozen_while_the_agent_works(),
        frozen_while_it_publishes("/acme/web.git/git-receive-pack"),
        frozen_while_it_publishes("/repos/*/pulls"),
    );
    tokio::join!(thaws_and_writes_nothing(agent), thaws_and_writes_nothing(push), thaws_and_writes_nothing(open));
}

/// Kills a worker at the moment when GitHub has done what was asked and the answer is not there yet.
async fn killed_between_act_and_record(path: &str) {
    let apart = Apart::new().await;
    let server = apart.serve().await;
    apart.github.fault(Method::POST, path, Fault::DoneThenHeld, 1);
    let first = apart.worker("first", QUICK);
    let issue = apart.ask("The answer is wrong").await;
    apart.github.until_held(1, DEADLINE).await;
    first.kill();
    let second = apart.worker("second", QUICK);
    apart.until_published(issue).await;
    assert_done_once(&apart, issue, "quick");
    let opened = apart.github.requests().iter().filter(|r| r.path.ends_with("/pulls") && r.status == 201).count();
    assert!(opened <= 1, "{path}: {}", apart.github.requests_in_words());
    second.signal("TERM");
    assert!(second.until_ended().await.success());
    let tasks = apart.tasks(server).await;
    assert_eq!((tasks.len(), tasks[0].attempt, tasks[0].state.word()), (1, 2, "done"), "{path}");
    apart.assert_no_secret();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_between_an_act_and_its_record_is_followed_by_one_that_does_it_once() {
    tokio::join!(
        killed_between_act_and_record("/acme/web.git/git-receive-pack"),
        killed_between_act_and_record("/repos/*/pulls"),
        killed_between_act_and_record("/repos/*/labels"),
        killed_between_act_and_record("/repos/*/requested_reviewers"),
    );
}

/// Kills a server that does its tasks itself at such a moment, and starts it again.
async fn killed_alone_between_act_and_record(path: &str) {
    let apart = Apart::new().await;
    apart.github.fault(Method::POST, path, Fault::DoneThenHeld, 1);
    let server = apart.serve_alone(QUICK).await;
    let issue = apart.ask("The answer is wrong").await;
    apart.github.until_held(1, DEADLINE).await;
    server.kill();
    let server = apart.serve_alone(QUICK).await;
    apart.until_published(issue).await;
    assert_done_once(&apart, issue, "quick");
    let tasks = apart.tasks(server).await;
    assert_eq!((tasks.len(), tasks[0].state.word()), (1, "done"), "{path}");
    apart.assert_no_secret();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_between_an_act_and_its_record_does_it_once() {
    tokio::join!(
        killed_alone_between_act_and_record("/acme/web.git/git-receive-pack"),
        killed_alone_between_act_and_record("/repos/*/pulls"),
        killed_alone_between_act_and_record("/repos/*/labels"),
        killed_alone_between_act_and_record("/repos/*/requested_reviewers"),
        killed_alone_between_act_and_record("/repos/*/comments"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_between_a_comment_and_its_record_makes_no_second_one_and_its_worker_goes_on() {
    let apart = Apart::new().await;
    let server = apart.serve().await;
    apart.github.fault(Method::POST, "/repos/*/comments", Fault::DoneThenHeld, 1);
    let worker = apart.worker("box", "echo thinking; sleep 8; echo 42 > answer.txt; echo slow > by");
    let issue = apart.ask("The answer is wrong").await;
    apart.github.until_held(1, DEADLINE).await;
    worker.until("the agent's words, on the server", async || apart.artifact(1, "transcript-1.log").is_some()).await;
    server.kill();
    let server = apart.serve().await;
    apart.until_published(issue).await;
    assert_done_once(&apart, issue, "slow");
    worker.signal("TERM");
    assert!(worker.until_ended().await.success());
    let tasks = apart.tasks(server).await;
    assert_eq!((tasks[0].attempt, tasks[0].failures, tasks[0].state.word()), (1, 0, "done"), "the same attempt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_while_its_agent_works_or_told_twice_to_stop_is_followed_by_another() {
    let killed = async {
        let apart = Apart::new().await;
        let server = apart.serve().await;
        let slow = apart.worker("slow", SLOW);
        let issue = apart.ask("The answer is wrong").await;
        slow.until("the agent's words, on the server", async || apart.artifact(1, "transcript-1.log").is_some()).await;
        slow.kill();
        let _quick = apart.worker("quick", QUICK);
        apart.until_published(issue).await;
        assert_done_once(&apart, issue, "quick");
        let tasks = apart.tasks(server).await;
        assert_eq!((tasks[0].attempt, tasks[0].crashes, tasks[0].state.word()), (2, 1, "done"));
    };
    let told = async {
        let apart = Apart::new().await;
        let server = apart.serve().await;
        let slow = apart.worker("slow", SLOW);
        let issue = apart.ask("The answer is wrong").await;
        slow.until("the agent's words, on the server", async || apart.artifact(1, "transcript-1.log").is_some()).await;
        slow.signal("TERM");
        slow.until_said("draining").await;
        slow.signal("TERM");
        assert!(slow.until_ended().await.success());
        let _quick = apart.worker("quick", QUICK);
        apart.until_published(issue).await;
        assert_done_once(&apart, issue, "quick");
        let tasks = apart.tasks(server).await;
        assert_eq!((tasks[0].attempt, tasks[0].failures, tasks[0].state.word()), (2, 0, "done"), "it cost nothing");
    };
    tokio::join!(killed, told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_road_that_loses_every_third_answer_a_task_is_still_done_once() {
    let apart = Apart::new().await;
    let server = apart.serve().await;
    let road = Lossy::to(apart.address(), 3).await;
    let worker = apart.worker_at("box", SLOW, road.url());
    let issue = apart.ask("The answer is wrong").await;
    apart.until_published(issue).await;
    assert_done_once(&apart, issue, "slow");
    assert!(road.n_lost() > 2, "the road was bad: {}", road.n_lost());
    let names: Vec<_> = apart.artifacts(1).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    worker.signal("TERM");
    assert!(worker.until_ended().await.success());
    let tasks = apart.tasks(server).await;
    assert_eq!((tasks.len(), tasks[0].attempt, tasks[0].failures), (1, 1, 0));
}
