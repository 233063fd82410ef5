//! What people get wrong, and what the command line says to it: one clear sentence, a code that stays the same, the next
//! step, and the exit code that the documentation names. Never a panic, never a chain of causes.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tests::{
    github::{GitHub, Permission},
    target,
};

/// How the program ended.
struct Said {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the program in a directory, with nothing on standard input and no token in the environment.
fn onramp(dir: &Path, arguments: &[&str]) -> Said {
    onramp_with(dir, arguments, &[])
}

fn onramp_with(dir: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Said {
    let mut command = Command::new(target::onramp());
    command.current_dir(dir).args(arguments).stdin(Stdio::null()).env("HOME", dir).env("RUST_BACKTRACE", "1");
    for name in ["GITHUB_TOKEN", "ONRAMP_WEBHOOK_SECRET", "XDG_STATE_HOME", "DOCKER_HOST"] {
        command.env_remove(name);
    }
    let output = command.envs(env.iter().copied()).output().unwrap();
    Said {
        exit: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A refusal as a person should see it.
#[track_caller]
fn refuses(said: &Said, exit: i32, code: &str, parts: &[&str]) {
    let Said { stderr, stdout, .. } = said;
    assert_eq!(said.exit, Some(exit), "{stderr}");
    assert_eq!(stdout, "", "standard output carries the diff and nothing else");
    assert!(stderr.contains(code), "the code is {code}:\n{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "it does not say {part:?}:\n{stderr}");
    }
    for raw in ["panicked", "stack backtrace", "Caused by", "Os {", "kind: ", "Error(", "RUST_BACKTRACE", "unwrap"] {
        assert!(!stderr.contains(raw), "it shows its inside ({raw:?}):\n{stderr}");
    }
    let code: tasks::Code = code.parse().unwrap();
    let sentences = stderr.matches(". ").count() + stderr.matches(".\n").count();
    assert!(sentences >= 1 && stderr.trim().lines().count() >= 2, "what happened and what to do:\n{stderr}");
    assert_eq!(i32::from(code.exit_code()), exit, "the documented exit code");
}

fn git(dir: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", dir);
    command.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with a checkout in it, `repo`, that holds these files in one commit.
fn checkout(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    std::fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q"]);
    for (path, content) in files {
        std::fs::write(repo.join(path), content).unwrap();
    }
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-q", "-m", "Start"]);
    dir
}

const CHECK: &str = "version = 1\n[[check]]\nname = \"ok\"\ncommand = \"true\"\n";

fn good_checkout() -> TempDir {
    checkout(&[(".onramp.toml", CHECK), ("a.txt", "a\n")])
}

#[test]
fn an_empty_instruction_is_asked_for() {
    let dir = good_checkout();
    std::fs::write(dir.path().join("empty.md"), "\n  \n").unwrap();
    for arguments in [vec!["run", "--repo", "repo", "  "], vec!["run", "-F", "empty.md"], vec!["run", "-"]] {
        refuses(&onramp(dir.path(), &arguments), 2, "E001", &["empty", "onramp run \""]);
    }
}

#[test]
fn a_folder_that_is_no_checkout_is_named() {
    let dir = tempfile::tempdir().unwrap();
    refuses(&onramp(dir.path(), &["run", "fix it"]), 2, "E002", &["git init"]);
    refuses(&onramp(dir.path(), &["run", "--repo", "no where", "fix it"]), 2, "E002", &["no where", "owner/name"]);
}

#[test]
fn a_base_that_is_not_there_is_named() {
    let dir = good_checkout();
    refuses(&onramp(dir.path(), &["run", "--repo", "repo", "--base", "nope", "fix"]), 2, "E004", &["nope", "--base"]);
    let empty = tempfile::tempdir().unwrap();
    git(empty.path(), &["init", "-q"]);
    refuses(&onramp(empty.path(), &["run", "fix it"]), 2, "E004", &["commit"]);
}

#[test]
fn a_dirty_tree_is_not_left_out_silently() {
    let dir = good_checkout();
    std::fs::write(dir.path().join("repo/a.txt"), "changed\n").unwrap();
    std::fs::write(dir.path().join("repo/new.txt"), "new\n").unwrap();
    let said = onramp(dir.path(), &["run", "--repo", "repo", "fix it"]);
    refuses(&said, 2, "E005", &["a.txt", "--base HEAD"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("repo/a.txt")).unwrap(), "changed\n");
}

#[test]
fn a_configuration_that_cannot_be_used_is_shown_with_the_fault() {
    let dir = good_checkout();
    let run = |config: &str| {
        std::fs::write(dir.path().join("my.toml"), config).unwrap();
        onramp(dir.path(), &["run", "--config", "my.toml", "--repo", "repo", "fix it"])
    };
    let absent = onramp(dir.path(), &["run", "--config", "absent.toml", "--repo", "repo", "fix it"]);
    refuses(&absent, 2, "E006", &["absent.toml", "--config"]);
    refuses(&onramp(dir.path(), &["run", "--config", ".", "fix it"]), 2, "E006", &["."]);
    refuses(&run("[github\n"), 2, "E006", &["my.toml", "1"]);
    refuses(&run("[github]\nlable = \"x\"\n"), 2, "E006", &["my.toml", "github.lable", "did you mean", "github.label"]);
    refuses(&run("[worker]\nn_workers = \"two\"\n"), 2, "E006", &["my.toml", "n_workers"]);
    let literal = run("[github]\ntoken = \"ghp_canary\"\n");
    refuses(&literal, 2, "E006", &["env:NAME"]);
    assert!(!literal.stderr.contains("ghp_canary"), "a secret is not repeated: {}", literal.stderr);
}

#[test]
fn a_repository_configuration_that_cannot_be_used_is_shown_with_the_fault() {
    let dir = checkout(&[(".onramp.toml", "version = 1\n[[check]]\nname = \"ok\"\ncomand = \"true\"\n")]);
    let said = onramp(dir.path(), &["run", "--repo", "repo", "fix it"]);
    refuses(&said, 2, "E007", &[".onramp.toml", "comand", "did you mean", "command"]);
    let dir = checkout(&[("a.txt", "a\n")]);
    refuses(&onramp(dir.path(), &["run", "--repo", "repo", "fix it"]), 2, "E041", &["[[check]]"]);
}

#[test]
fn an_image_that_is_nowhere_is_named() {
    let config = format!("{CHECK}[environment]\nimage = \"onramp-test/absent:1\"\n");
    let dir = checkout(&[(".onramp.toml", &config)]);
    let said = onramp(dir.path(), &["run", "--sandbox", "docker", "--repo", "repo", "fix it"]);
    refuses(&said, 5, "E012", &["onramp-test/absent:1", "docker pull"]);

    std::fs::write(dir.path().join("my.toml"), "[sandbox]\nbackend = \"namespace\"\n").unwrap();
    let said = onramp(dir.path(), &["run", "--config", "my.toml", "--repo", "repo", "fix it"]);
    refuses(&said, 5, "E016", &["onramp-test/absent:1", "--sandbox namespace"]);
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    let dir = good_checkout();
    let env = [("DOCKER_HOST", "unix:///nowhere/docker.sock")];
    let said = onramp_with(dir.path(), &["run", "--sandbox", "docker", "--repo", "repo", "fix it"], &env);
    refuses(&said, 5, "E011", &["DOCKER_HOST"]);
}

#[test]
fn an_agent_that_nobody_knows_is_answered_with_those_that_are() {
    let dir = good_checkout();
    let said = onramp(dir.path(), &["run", "--sandbox", "namespace", "--agent", "clode", "--repo", "repo", "fix it"]);
    refuses(&said, 2, "E020", &["clode", "claude", "codex"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_the_token_cannot_see_is_named() {
    let github = GitHub::start().await;
    github.repository("acme/web", &[("a", "a\n")]).user("ada", 7).permission("acme/web", "ada", Permission::Write);
    let token = github.personal_token("ada");
    let dir = tempfile::tempdir().unwrap();
    let config = format!("[github]\napi_url = \"{}\"\ngit_url = \"{}\"\n", github.api_url(), github.git_url());
    std::fs::write(dir.path().join("my.toml"), config).unwrap();
    let run = |repo: &'static str, token: String| {
        let dir = dir.path().to_owned();
        tokio::task::spawn_blocking(move || {
            let arguments = ["run", "--sandbox", "namespace", "--config", "my.toml", "--repo", repo, "fix it"];
            onramp_with(&dir, &arguments, &[("GITHUB_TOKEN", &token)])
        })
    };
    refuses(&run("acme/absent", token.clone()).await.unwrap(), 2, "E003", &["acme/absent"]);
    let refused = run("acme/web", "ghp_canary_wrong".to_owned()).await.unwrap();
    refuses(&refused, 4, "E050", &["token"]);
    assert!(!refused.stderr.contains("ghp_canary"), "{}", refused.stderr);
    refuses(&run("acme/web", String::new()).await.unwrap(), 4, "E008", &["GITHUB_TOKEN"]);
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let nothing_named = onramp_with(dir.path(), &["serve"], &[("GITHUB_TOKEN", "x")]);
    refuses(&nothing_named, 2, "E006", &["github.repositories", "github.webhook_secrets"]);
    std::fs::write(dir.path().join("onramp.toml"), "[server]\npublic_url = \"https://onramp.example\"\n").unwrap();
    refuses(&onramp(dir.path(), &["serve"]), 4, "E008", &["ONRAMP_WEBHOOK_SECRET"]);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    std::fs::write(dir.path().join("my.toml"), format!("[server]\nlisten = \"{listen}\"\n")).unwrap();
    let env = [("GITHUB_TOKEN", "x"), ("ONRAMP_WEBHOOK_SECRET", "x"), ("ANTHROPIC_API_KEY", "x")];
    let said = onramp_with(dir.path(), &["serve", "--sandbox", "namespace", "--config", "my.toml"], &env);
    refuses(&said, 5, "E063", &[&listen.to_string()]);
}

#[test]
fn every_code_is_explained_and_an_unknown_one_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    for code in tasks::Code::ALL {
        let said = onramp(dir.path(), &["explain", code.as_str()]);
        assert_eq!(said.exit, Some(0), "{}", said.stderr);
        assert!(said.stdout.contains(code.next_step()), "{code}: {}", said.stdout);
    }
    assert_eq!(onramp(dir.path(), &["explain", "E9999"]).exit, Some(2));
}

#[test]
fn what_nobody_refers_to_is_told_and_then_removed() {
    let dir = tempfile::tempdir().unwrap();
    let gc = |more: &[&str]| {
        let said = onramp(dir.path(), &[&["gc", "--sandbox", "namespace", "--data-dir", "data"], more].concat());
        (said.exit, said.stdout, said.stderr)
    };
    let (exit, _, stderr) = gc(&[]);
    assert_eq!(exit, Some(2), "{stderr}");
    assert!(stderr.contains("There is no data directory at "), "{stderr}");

    let (left, base) = (dir.path().join("data/sandboxes/onramp-left"), dir.path().join("data/sandboxes/.bases/lost"));
    std::fs::create_dir_all(&left).unwrap();
    std::fs::create_dir_all(&base).unwrap();
    let (exit, stdout, stderr) = gc(&["--dry-run"]);
    assert_eq!(exit, Some(0), "{stderr}");
    for line in
        ["would remove sandbox onramp-left", "would remove base lost without a record", "would remove 1 base(s), 0 MiB"]
    {
        assert!(stdout.lines().any(|said| said == line), "{line}:\n{stdout}");
    }
    assert!(left.exists() && base.exists());
    let (_, stdout, _) = gc(&[]);
    assert_eq!(
        stdout,
        "removed 1 sandbox(es) that nobody works with\nremoved base lost without a record\nremoved 1 base(s), 0 MiB\n"
    );
    assert!(!left.exists() && !base.exists());
    let (_, stdout, _) = gc(&[]);
    assert_eq!(stdout, "removed 0 sandbox(es) that nobody works with\nremoved 0 base(s), 0 MiB\n");
}

#[test]
fn the_doctor_says_what_to_mend_and_its_exit_code_says_whether_it_must_be() {
    let dir = tempfile::tempdir().unwrap();
    let findings = |said: &Said| -> Vec<(String, String)> {
        let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        let finding = |finding: &serde_json::Value| {
            let text = |key: &str| finding[key].as_str().unwrap().to_owned();
            assert_eq!(finding["fix"].is_null(), finding["verdict"] == "ok", "{finding}");
            (text("id"), text("verdict"))
        };
        report["findings"].as_array().unwrap().iter().map(finding).collect()
    };
    let said = onramp(dir.path(), &["doctor", "--json", "--sandbox", "namespace"]);
    let found = findings(&said);
    for id in ["configuration", "models", "engine", "namespaces", "disk", "gpu"] {
        assert!(found.iter().any(|(found, _)| found == id), "{id} is not looked at: {found:?}");
    }
    let n_failed = found.iter().filter(|(_, verdict)| verdict == "fail").count();
    assert_eq!(said.exit, Some(if n_failed == 0 { 0 } else { 5 }), "{found:?}");

    std::fs::write(
        dir.path().join("onramp.toml"),
        "[sandbox]\nbackend = \"docker\"\ndocker_host = \"unix:///no.sock\"\n",
    )
    .unwrap();
    let said = onramp(dir.path(), &["doctor"]);
    assert_eq!(said.exit, Some(5), "{}", said.stdout);
    let line = said.stdout.lines().position(|line| line.starts_with("fail  engine ")).expect("the engine is needed");
    assert!(
        said.stdout.lines().nth(line + 1).unwrap().trim_start().starts_with("fix: Start the engine"),
        "{}",
        said.stdout
    );
    assert_eq!(said.stderr, "");

    std::fs::write(dir.path().join("onramp.toml"), "[sandbox]\nprivileged = true\n").unwrap();
    let said = onramp(dir.path(), &["doctor", "--json"]);
    assert_eq!((said.exit, &findings(&said)[0]), (Some(5), &("configuration".to_owned(), "fail".to_owned())));
}

#[test]
fn a_wall_that_is_demanded_and_not_there_is_refused_before_anything_runs() {
    let dir = checkout(&[("test_x.py", "")]);
    let config = |text: &str| std::fs::write(dir.path().join("onramp.toml"), text).unwrap();
    let run = || onramp(dir.path(), &["run", "x", "--repo", "repo"]);
    config("[sandbox]\nminimum_isolation = \"kata\"");
    refuses(&run(), 5, "E019", &["minimum_isolation demands kata", "only docker"]);
    config("[sandbox]\nbackend = \"namespace\"\nminimum_isolation = \"docker\"");
    refuses(&run(), 5, "E019", &["minimum_isolation demands docker", "only namespace"]);
    config("[sandbox]\nvolumes = [\"/:/host\"]");
    refuses(&run(), 2, "E006", &["there is no key `sandbox.volumes`", "nothing of the host is mounted"]);
}

#[test]
fn a_gpu_that_is_not_here_is_said_at_the_command_line() {
    let dir = checkout(&[("test_x.py", "")]);
    let run = |gpu: &str| onramp(dir.path(), &["run", "x", "--repo", "repo", "--sandbox", "namespace", "--gpu", gpu]);
    refuses(&run("b9000, b9001:2"), 5, "E017", &["b9000, b9001:2", "this worker has no"]);
    let said = run("h100:9");
    assert_eq!(said.exit, Some(2));
    assert!(said.stderr.contains("`9` at position 6: the number of GPUs is between 1 and 8"), "{}", said.stderr);
}
