//! What stands between an agent and a pull request: policy that blocks, asks or notes; risk that only rises; and a signed
//! statement by which the pull request proves itself, on a machine that knows nothing of Onramp.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tasks::{Task, TaskState};
use tests::{Backend, Onramp, Setup, onramp::REPO, target};

use crate::with_each_sandbox;

with_each_sandbox!(
    what_was_judged_tested_stated_and_pushed_is_one_tree_and_the_pull_request_proves_it,
    what_asks_becomes_a_draft_with_a_reviewer_and_is_named,
);

const CHECKS: &str = "version = 1\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n";

/// The program, in a directory of its own and with nothing of the server's.
fn onramp(data: &Path, arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(target::onramp());
    command.arg("--data-dir").arg(data).args(arguments).current_dir(data);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

async fn done(onramp: &Onramp, title: &str) -> Task {
    onramp.ask(title, "").await;
    let tasks = onramp.until_all_ended().await;
    onramp.drain().await;
    tasks[0].clone()
}

async fn what_was_judged_tested_stated_and_pushed_is_one_tree_and_the_pull_request_proves_it(backend: Backend) {
    // The check says which bytes it saw.
    let config = CHECKS.replace("sh test.sh", "sh test.sh && sha256sum answer.txt new/file");
    let agent = "echo 42 > answer.txt; mkdir new; printf 'no end' > new/file";
    let onramp = Setup::new(backend).file(".onramp.toml", &config).agent(agent).start().await;
    let task = done(&onramp, "The answer is wrong").await;
    let pull = onramp.github.pulls().remove(0);
    let bare = onramp.github.bare(REPO);

    // Pushed: the commit and its tree. Stated: what the statement in the pull request says of both.
    let line = pull.body.lines().find(|line| line.starts_with("{\"payloadType\":")).expect("the statement is shown");
    assert_eq!(format!("{line}\n"), onramp.artifact(&task, "evidence.intoto.json"));
    let key = String::from_utf8(self::onramp(onramp.data_dir(), &["evidence", "key"], "").stdout).unwrap();
    let bare_path = bare.path().display().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let verify = |text: &str, more: &[&str]| {
        let arguments = [&["evidence", "verify", "-", "--key", key.trim(), "--json"], more].concat();
        let output = self::onramp(elsewhere.path(), &arguments, text);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.code(), said)
    };
    let (code, said) = verify(&pull.body, &["--repo", &bare_path]);
    assert_eq!((code, said["holds"].as_bool()), (Some(0), Some(true)), "{said:#}");
    let verified = &said["statement"]["predicate"]["onramp_verification"];
    assert_eq!(verified["tree"].as_str(), Some(bare.tree(&pull.head).as_str()));
    assert_eq!(verified["head"].as_str(), bare.tip(&pull.head).as_deref());
    assert_eq!(verified["base"].as_str(), bare.tip("main").as_deref());

    // Tested: the check saw the bytes of that tree, and its output is the one whose digest is stated.
    let log = onramp.artifact(&task, "check-1-answer.log");
    let digest = |text: &str| hex::encode(<sha2::Sha256 as sha2::Digest>::digest(text.as_bytes()));
    let pushed = onramp.github.branch_tree(REPO, &pull.head);
    assert!(log.contains(&digest(&pushed["answer.txt"])) && log.contains(&digest(&pushed["new/file"])), "{log}");
    let byproducts = said["statement"]["predicate"]["runDetails"]["byproducts"].as_array().unwrap();
    let stated = byproducts.iter().find(|file| file["name"] == "check-1-answer.log").unwrap();
    assert_eq!(stated["digest"]["sha256"].as_str(), Some(digest(&log).as_str()));

    // Another commit on the branch, another word in the text, and another repository are each told.
    let (code, said) = verify(&pull.body.replacen("\"keyid\":\"", "\"keyid\":\"0", 1), &[]);
    assert_eq!((code, said["failure"].as_str()), (Some(3), Some("other_key")), "{said:#}");
    let empty = tempfile::tempdir().unwrap();
    let init = Command::new("git").args(["init", "-q"]).current_dir(empty.path()).status().unwrap();
    assert!(init.success());
    let (code, said) = verify(&pull.body, &["--repo", &empty.path().display().to_string()]);
    assert_eq!((code, said["failure"].as_str()), (Some(3), Some("commit_missing")), "{said:#}");
    onramp.end().await;
}

async fn what_asks_becomes_a_draft_with_a_reviewer_and_is_named(backend: Backend) {
    let config = format!("{CHECKS}[policy]\nreviewers = [\"eve\"]\nallowed_paths = \"note\"\nallowed = [\"*.txt\"]\n");
    let agent = "echo 42 > answer.txt; printf '{\"dependencies\":{\"left-pad\":\"^1.3.0\"}}' > package.json";
    let onramp = Setup::new(backend).file(".onramp.toml", &config).agent(agent).start().await;
    let task = done(&onramp, "The answer is wrong").await;
    assert!(matches!(task.state, TaskState::PullRequestOpen { .. }), "{:#?}", task.state);
    let pull = onramp.github.pulls().remove(0);
    assert_eq!((pull.draft, pull.reviewers.as_slice()), (true, &["eve".to_owned()][..]));
    for part in [
        "**Needs your look**: `build_file` in `package.json`, `new_dependency` in `package.json`.",
        "`package.json` adds a dependency: `left-pad ^1.3.0`.",
        "`not_allowed_path` (note)",
    ] {
        assert!(pull.body.contains(part), "{part}:\n{}", pull.body);
    }
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_key_holds_against_the_repository_and_no_secret_is_repeated() {
    let secret = format!("ghp_{}", "aB3dE6fG9hJ2kL5mN8pQ1rS4tU7vW0xYaB3d");
    let config = format!("{CHECKS}[policy]\nsecrets = \"note\"\n");
    let agent = format!("echo 42 > answer.txt; echo 'token = {secret}' > settings.txt");
    let onramp = Setup::new(Backend::Namespace)
        .file(".onramp.toml", &config)
        .agent(&agent)
        .configure(|config| config.policy.locked = vec![workers::policy::LockedKey::new("secrets").unwrap()])
        .start()
        .await;
    let issue = onramp.ask("The answer is wrong", "").await;
    let tasks = onramp.until_all_ended().await;
    onramp.drain().await;
    let TaskState::Rejected { violations } = &tasks[0].state else { panic!("{:#?}", tasks[0]) };
    assert_eq!(violations.iter().map(|found| found.rule.as_str()).collect::<Vec<_>>(), ["secret"]);
    assert!(violations[0].message.contains("locked [policy] secrets"), "{}", violations[0].message);
    assert!(!onramp.status_comment(issue).contains(&secret[..12]));
    assert_eq!(onramp.github.pulls().len(), 0);
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_change_really_touches_raises_its_risk_and_brings_more_checks() {
    let tier = "[[tier]]\nname = \"docs\"\npaths = [\"*.md\"]\n[[tier]]\nname = \"high\"\npaths = [\"answer.txt\"]\n\
                approvals = 2\nreviewers = [\"eve\"]\ndraft = true\n[[tier.check]]\nname = \"audit\"\n\
                command = \"grep -q 42 answer.txt\"\n";
    let onramp = Setup::new(Backend::Namespace)
        .file(".onramp.toml", &format!("{CHECKS}{tier}"))
        .agent("echo 42 > answer.txt; echo x > notes.md")
        .start()
        .await;
    done(&onramp, "The answer is wrong").await;
    let pull = onramp.github.pulls().remove(0);
    assert!(pull.draft && pull.reviewers == ["eve"], "{pull:#?}");
    for part in
        ["**Risk** `high`: `answer.txt` is in `answer.txt`. Wants 2 approvals.", "| `grep -q 42 answer.txt` | passed |"]
    {
        assert!(pull.body.contains(part), "{part}:\n{}", pull.body);
    }
    assert!(pull.body.contains("`tier_rose` (note)"), "the agent had worked under none: {}", pull.body);
    onramp.end().await;
}

#[test]
fn policy_is_explained_for_a_patch_without_running_anything() {
    let dir = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    git(&["init", "-q"]);
    let tier = "version = 1\n[[tier]]\nname = \"high\"\npaths = [\"src/**\"]\nreviewers = [\"grace\"]\n";
    std::fs::create_dir(dir.path().join("src")).unwrap();
    std::fs::write(dir.path().join(".onramp.toml"), tier).unwrap();
    std::fs::write(dir.path().join("src/a.rs"), "1\n").unwrap();
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "Base"]);
    std::fs::write(dir.path().join("src/a.rs"), "2\n").unwrap();
    std::fs::write(dir.path().join("Makefile"), "a:\n").unwrap();
    git(&["add", "-A"]);
    let diff = git(&["diff", "--cached"]);
    let said = onramp(dir.path(), &["policy", "explain", "-"], &diff);
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&said.stderr));
    for part in [
        "ask    build_file",
        "nothing found (would block)",
        "tier    high: `src/a.rs` is in `src/**`",
        "asks grace",
        "verdict ask",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }

    git(&["mv", "src/a.rs", "CODEOWNERS"]);
    git(&["commit", "-q", "-m", "Change"]);
    let said = onramp(dir.path(), &["policy", "explain", "HEAD~1..HEAD", "--json"], "");
    let found: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((said.status.code(), found["verdict"].as_str()), (Some(3), Some("block")), "{found:#}");
    let said = onramp(dir.path(), &["policy", "explain", "-"], "no patch at all");
    assert!(said.status.code() == Some(2) && String::from_utf8_lossy(&said.stderr).contains("E032"), "{said:?}");
    let rules = String::from_utf8(onramp(dir.path(), &["policy", "rules"], "").stdout).unwrap();
    assert!(rules.contains("block  secrets") && rules.contains("  **/CLAUDE.md"), "{rules}");
}
