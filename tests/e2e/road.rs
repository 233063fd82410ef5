//! The road that ends well: a signed delivery in, a verified pull request out, once, whatever is repeated on the way.

use axum::http::Method;
use tasks::TaskState;
use tests::{
    Backend, Onramp, Setup,
    github::{Fault, GitHub},
    onramp::{DEADLINE, LABEL, REPO},
};

use crate::with_each_sandbox;

with_each_sandbox!(
    a_labelled_issue_becomes_a_verified_pull_request_that_fixes_it,
    what_the_checks_saw_is_byte_for_byte_what_was_pushed,
    a_failed_check_is_shown_to_the_agent_and_its_repair_is_published,
    an_app_with_an_installation_token_does_it_on_an_enterprise_server,
);

/// Gives the right answer.
const MEND: &str = "echo 42 > answer.txt; echo 'I corrected the answer.'";

/// The only pull request.
fn only_pull(onramp: &Onramp) -> tests::github::Pull {
    let pulls = onramp.github.pulls();
    assert_eq!(pulls.len(), 1, "{pulls:#?}");
    pulls[0].clone()
}

async fn a_labelled_issue_becomes_a_verified_pull_request_that_fixes_it(backend: Backend) {
    // The agent looks for secrets wherever it can, and says what it found: the end of each test looks for them there.
    let curious = format!("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; {MEND}");
    let onramp = Setup::new(backend).agent(&curious).start().await;
    let main = onramp.github.bare(REPO).tip("main");
    let issue = onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    onramp.drain().await;

    let TaskState::PullRequestOpen { pull_request } = &tasks[0].state else { panic!("{:#?}", tasks[0]) };
    let pull = only_pull(&onramp);
    assert_eq!((pull.number, pull.open, pull.base.as_str()), (pull_request.number, true, "main"));
    assert!(pull.body.contains(&format!("Fixes #{issue}")), "{}", pull.body);
    assert!(pull.body.contains("| `sh test.sh` | passed |"), "the checks are in the evidence: {}", pull.body);
    assert!(pull.head.starts_with(&format!("onramp/{issue}-the-answer-is-wrong-")), "{}", pull.head);

    let bare = onramp.github.bare(REPO);
    assert_eq!(onramp.github.branch_tree(REPO, &pull.head)["answer.txt"], "42\n");
    assert_eq!(bare.parents(&pull.head), [main.clone().unwrap()]);
    assert!(bare.message(&pull.head).contains(&format!("Task-Id: {}", tasks[0].id)), "{}", bare.message(&pull.head));
    assert_eq!(bare.tip("main"), main, "only the branch of the task was pushed");
    assert_eq!(bare.branches(), ["main".to_owned(), pull.head.clone()]);

    let comment = onramp.status_comment(issue);
    assert!(comment.contains(&pull_request.url) || comment.contains(&format!("#{}", pull.number)), "{comment}");
    let history = onramp.github.comments(REPO, issue)[0].history.clone();
    assert!(history.len() > 1, "the comment told of the task before it was done: {history:#?}");
    onramp.end().await;
}

async fn what_the_checks_saw_is_byte_for_byte_what_was_pushed(backend: Backend) {
    let list = "find . -type f -not -path './.git/*' | LC_ALL=C sort | xargs sha256sum";
    let config = format!("version = 1\n[[check]]\nname = \"list\"\ncommand = \"{list}\"\n");
    let agent = "echo 42 > answer.txt; mkdir -p new/deep; printf 'no end' > new/deep/file; : > new/empty
                 printf '#!/bin/sh\\n' > run; chmod +x run; rm test.sh; echo noise > build.log; ln -s answer.txt link";
    let onramp = Setup::new(backend).file(".onramp.toml", &config).agent(agent).start().await;
    onramp.ask("Rearrange", "").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}", tasks[0]);

    let pull = only_pull(&onramp);
    let pushed = onramp.github.branch_tree(REPO, &pull.head);
    let paths: Vec<_> = pushed.keys().map(String::as_str).collect();
    let expected = [".gitignore", ".onramp.toml", "answer.txt", "link", "new/deep/file", "new/empty", "run"];
    assert_eq!(paths, expected, "an ignored file stays out, a deleted one is gone");
    let output = onramp.artifact(&tasks[0], "check-1-list.log");
    for (path, content) in pushed.iter().filter(|(path, _)| *path != "link") {
        let line = format!("{}  ./{path}", sha256(content));
        assert!(output.contains(&line), "the checks did not see {line}\n{output}");
    }
    assert_eq!(
        output.lines().filter(|line| line.contains("  ./")).count(),
        expected.len() - 1,
        "and no more: {output}"
    );
    assert!(pull.body.contains(&onramp.github.bare(REPO).tree(&pull.head)[..10]), "the tree is named: {}", pull.body);
    onramp.end().await;
}

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(text.as_bytes()))
}

async fn a_failed_check_is_shown_to_the_agent_and_its_repair_is_published(backend: Backend) {
    let second_time_right = "if [ -e /home/onramp/tried ]; then echo 42 > answer.txt; else
                             touch /home/onramp/tried; echo 43 > answer.txt; fi";
    let onramp = Setup::new(backend).agent(second_time_right).start().await;
    onramp.ask("The answer is wrong", "").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}", tasks[0]);
    assert!(onramp.artifact(&tasks[0], "prompt-2.md").contains("the answer is 43"), "what failed is said");
    assert_eq!(onramp.github.branch_tree(REPO, &only_pull(&onramp).head)["answer.txt"], "42\n");
    onramp.end().await;
}

async fn an_app_with_an_installation_token_does_it_on_an_enterprise_server(backend: Backend) {
    let onramp = Setup::new(backend).as_app(4711).agent(MEND).start().await;
    let issue = onramp.ask("The answer is wrong", "").await;
    onramp.until_all_ended().await;
    onramp.drain().await;
    let pull = only_pull(&onramp);
    assert_eq!(pull.author, "onramp[bot]");
    assert!(onramp.status_comment(issue).contains(&format!("/pull/{}", pull.number)));
    let tokens = onramp.github.count(&Method::POST, "/api/v3/app/installations/*/access_tokens");
    assert!((1..=3).contains(&tokens), "a token is used for as long as it lasts, not asked for {tokens} times");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_delivery_twice_is_one_task_and_one_pull_request() {
    let onramp = Setup::new(Backend::Namespace).agent(MEND).start().await;
    let issue = onramp.github.issue(REPO, "The answer is wrong", "", "eve");
    let delivery = onramp.github.label(REPO, issue, LABEL, "ada");
    let (first, second) = tokio::join!(onramp.deliver(&delivery), onramp.deliver(&delivery));
    assert_eq!((first.0 / 100, second.0 / 100), (2, 2), "{first:?} {second:?}");
    assert_eq!(onramp.until_all_ended().await.len(), 1);

    // Redelivered by hand, long after it was done.
    assert_eq!(onramp.deliver(&delivery).await.0 / 100, 2);
    assert_eq!(onramp.until_all_ended().await.len(), 1);
    onramp.drain().await;
    only_pull(&onramp);
    onramp.status_comment(issue);
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_the_pull_request_makes_no_second_one() {
    for fault in [Fault::LostAnswer, Fault::Status502AfterDoing] {
        let onramp = Setup::new(Backend::Namespace).agent(MEND).start().await;
        onramp.github.fault(Method::POST, "/repos/*/pulls", fault, 1);
        onramp.ask("The answer is wrong", "").await;
        let tasks = onramp.until_all_ended().await;
        assert_eq!(tasks[0].state.word(), "done", "{:#?}\n{}", tasks[0], onramp.github.requests_in_words());
        only_pull(&onramp);
        onramp.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_the_first_comment_makes_no_second_one() {
    for fault in [Fault::LostAnswer, Fault::Status502AfterDoing, Fault::Status(503)] {
        let onramp = Setup::new(Backend::Namespace).agent(MEND).start().await;
        onramp.github.fault(Method::POST, "/repos/*/comments", fault, 1);
        let issue = onramp.ask("The answer is wrong", "").await;
        let told = |github: &GitHub| github.comments(REPO, issue).iter().find(|c| c.body.contains("/pull/")).cloned();
        onramp.github.until("comment with the pull request", DEADLINE, told).await;
        only_pull(&onramp);
        onramp.status_comment(issue);
        onramp.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merged_or_closed_pull_request_ends_its_task() {
    for (merged, word) in [(true, "merged"), (false, "closed")] {
        let onramp = Setup::new(Backend::Namespace).agent(MEND).start().await;
        onramp.ask("The answer is wrong", "").await;
        onramp.until_all_ended().await;
        let delivery = onramp.github.close_pull(REPO, only_pull(&onramp).number, merged, "ada");
        let (status, answer) = onramp.deliver(&delivery).await;
        assert_eq!(status / 100, 2, "{answer}");
        onramp.until(word, |tasks| tasks[0].state.word() == word).await;
        onramp.end().await;
    }
}
