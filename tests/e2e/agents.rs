//! Agents before anybody relies on them: listed, tried out on the real road, and brought into an image.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tests::{
    Setup,
    model::{ScriptedModel, Turn},
    onramp::{AGENTS_IMAGE, DEBIAN_IMAGE},
    target,
};

/// `onramp agent` with a configuration that finds the model there, and this key for it.
async fn agent(dir: &Path, model: &str, key: &str, arguments: &[&str]) -> Output {
    let expose = target::agents();
    let config = format!(
        "data_dir = \"{}\"\n[models.anthropic]\nbase_url = \"{model}\"\nkey = \"env:TEST_MODEL_KEY\"\n[sandbox]\nexpose = [\"{}\"]\n",
        dir.join("data").display(),
        expose.display()
    );
    std::fs::write(dir.join("onramp.toml"), config).unwrap();
    let mut command = Command::new(target::onramp());
    command.arg("agent").args(arguments).current_dir(dir).env("TEST_MODEL_KEY", key).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn corrects_the_answer() -> Vec<Turn> {
    let file = "/workspace/answer.txt";
    vec![
        Turn::Call("Read", json!({ "file_path": file })),
        Turn::Call("Edit", json!({ "file_path": file, "old_string": "41", "new_string": "42" })),
        Turn::Say("I corrected the answer."),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_are_listed_with_their_versions_and_an_unknown_one_is_answered_with_the_known() {
    let dir = tempfile::tempdir().unwrap();
    let listed = agent(dir.path(), "http://127.0.0.1:9", "", &["list", "--json"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let claude = listed.as_array().unwrap().iter().find(|agent| agent["name"] == "claude").unwrap();
    assert_eq!((&claude["has_image"], &claude["providers"]), (&json!(true), &json!(["anthropic"])));
    let version = claude["version"].as_str().unwrap();
    let printed = agent(dir.path(), "http://127.0.0.1:9", "", &["image", "claude"]).await;
    assert!(text(&printed.stdout).contains(&format!("claude-code-linux-x64@{version}")), "{}", text(&printed.stdout));
    let unknown = agent(dir.path(), "http://127.0.0.1:9", "", &["image", "clod"]).await;
    assert!(!unknown.status.success() && text(&unknown.stderr).contains("aider, claude, codex, cuda, opencode"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_tried_out_in_both_kinds_of_sandbox() {
    let model = ScriptedModel::start(Setup::model_key(), corrects_the_answer()).await;
    for arguments in [
        vec!["test", "claude", "--sandbox", "docker", "--image", AGENTS_IMAGE],
        vec!["test", "claude", "--sandbox", "namespace"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let tested = agent(dir.path(), &model.url(), Setup::model_key(), &arguments).await;
        let said = text(&tested.stdout);
        assert!(tested.status.success(), "{said}{}", text(&tested.stderr));
        for part in ["version: 2.", "keys: set for anthropic", "auth: the model answered", "tokens in", "edit: right"] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        assert!(!dir.path().join("data").exists(), "nothing is left in the data directory");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_cannot_work_says_whether_its_key_or_its_program_is_the_trouble() {
    let model = ScriptedModel::start(Setup::model_key(), corrects_the_answer()).await;
    let dir = tempfile::tempdir().unwrap();
    let refused = agent(dir.path(), &model.url(), "not the key", &["test", "claude", "--sandbox", "namespace"]).await;
    let said = text(&refused.stderr);
    let is_about_the_key = ["authentication_failed", "API key", "401"].iter().any(|words| said.contains(words));
    assert!(!refused.status.success() && is_about_the_key, "{said}");

    let arguments = ["test", "opencode", "--sandbox", "namespace"];
    let said = text(&agent(dir.path(), &model.url(), Setup::model_key(), &arguments).await.stderr);
    assert!(
        said.contains("`opencode` is not in the sandbox") && said.contains("onramp agent image opencode"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dockerfile_of_an_agent_builds_and_its_image_holds_a_working_agent() {
    let dir = tempfile::tempdir().unwrap();
    let printed = agent(dir.path(), "http://127.0.0.1:9", "", &["image", "claude"]).await;
    std::fs::write(dir.path().join("Dockerfile"), &printed.stdout).unwrap();
    let tag = format!("onramp-test/claude:{}", std::process::id());
    let mut build = Command::new("docker");
    // On a base of this machine in place of the ones that it names.
    build.args(["build", "--force-rm", "--build-arg", &format!("BASE={DEBIAN_IMAGE}")]);
    build.args(["--build-arg", &format!("NODE={DEBIAN_IMAGE}"), "-t", &tag]).arg(dir.path());
    let built = tokio::task::spawn_blocking(move || build.output().unwrap()).await.unwrap();
    assert!(built.status.success(), "{}{}", text(&built.stdout), text(&built.stderr));

    let model = ScriptedModel::start(Setup::model_key(), corrects_the_answer()).await;
    let arguments = ["test", "claude", "--sandbox", "docker", "--image", &tag];
    let tested = agent(dir.path(), &model.url(), Setup::model_key(), &arguments).await;
    let who = Command::new("docker").args(["image", "inspect", "--format", "{{.Config.User}}", &tag]).output().unwrap();
    Command::new("docker").args(["image", "rm", "--force", &tag]).output().unwrap();
    assert!(tested.status.success(), "{}{}", text(&tested.stdout), text(&tested.stderr));
    assert_eq!(text(&who.stdout).trim(), "65534:65534");
}
