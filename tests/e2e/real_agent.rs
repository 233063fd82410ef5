//! Real coding agents from their packages, in the sandbox, against a model that follows a script. The tunnel to the model
//! gateway is their only way out, and the key that the model sees is one that they never had.

use serde_json::json;
use tests::{
    Backend, Setup,
    model::{Fault, ScriptedModel, Turn},
    onramp::{AGENTS_IMAGE, REPO},
    target,
};

use crate::with_each_sandbox;

with_each_sandbox!(
    claude_code_edits_through_the_gateway_and_never_sees_the_key,
    codex_edits_through_the_gateway_and_never_sees_the_key,
);

/// Tells all that can be found of keys inside, and whether anything but the gateway can be reached. The quotes keep the
/// command, which is in the conversation too, from looking like its output.
const LOOK_AROUND: &str = r#"env; cat ~/.*/*.json ~/.*/*.toml ~/.*.json 2>/dev/null
for f in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do tr '\0' '\n' < $f; done 2>/dev/null
(exec 3<>/dev/tcp/127.0.0.1/PORT) 2>/dev/null && echo HOST-"REACHED" || echo HOST-"SAFE"
(exec 3<>/dev/tcp/192.0.2.1/80) 2>/dev/null && echo WORLD-"REACHED" || echo WORLD-"SAFE""#;

/// What is the same for every agent: the change is published, the key was injected, nothing of it was inside.
async fn publishes_without_ever_seeing_the_key(
    backend: Backend,
    agent: &'static str,
    provider: &'static str,
    script: impl FnOnce(String) -> Vec<Turn>,
) {
    // Stands for every service on this machine's loopback: reached from here, and not from inside.
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let look_around = LOOK_AROUND.replace("PORT", &service.local_addr().unwrap().port().to_string());
    let model = ScriptedModel::start(Setup::model_key(), script(look_around)).await;
    let onramp = Setup::new(backend)
        .model(provider, model.url())
        .configure(move |config| {
            config.agent.default = agent.parse().unwrap();
            config.sandbox.default_image = AGENTS_IMAGE.to_owned();
            config.sandbox.expose.push(target::agents());
        })
        .start()
        .await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}\n{:#?}", tasks[0].state, onramp.progress());

    let pulls = onramp.github.pulls();
    assert_eq!(pulls.len(), 1);
    assert_eq!(onramp.github.branch_tree(REPO, &pulls[0].head)["answer.txt"], "42\n");

    let asked = model.asked();
    let with_key = asked.iter().filter(|asked| asked.body["model"].is_string());
    let keys: Vec<_> = with_key.map(|asked| asked.key.as_str()).collect();
    assert!(!keys.is_empty() && keys.iter().all(|key| *key == Setup::model_key()), "the real key arrives: {keys:?}");
    let sent = model.everything_sent();
    assert!(sent.contains("The answer is wrong"), "the agent was asked what the issue asks");
    assert!(sent.contains("HOST-SAFE") && sent.contains("WORLD-SAFE"), "the look around was taken: {sent}");
    assert!(
        !sent.contains("HOST-REACHED") && !sent.contains("WORLD-REACHED"),
        "the tunnel is the only way out: {sent}"
    );
    assert!(!sent.contains(Setup::model_key()), "the key is inside the sandbox");
    onramp.end().await;
}

async fn claude_code_edits_through_the_gateway_and_never_sees_the_key(backend: Backend) {
    let file = "/workspace/answer.txt";
    let script = |look_around: String| {
        vec![
            Turn::Call("Bash", json!({ "command": look_around, "description": "Look around" })),
            Turn::Call("Read", json!({ "file_path": file })),
            Turn::Call("Edit", json!({ "file_path": file, "old_string": "41", "new_string": "42" })),
            Turn::Say("I corrected the answer."),
        ]
    };
    publishes_without_ever_seeing_the_key(backend, "claude", "anthropic", script).await;
}

async fn codex_edits_through_the_gateway_and_never_sees_the_key(backend: Backend) {
    let script = |look_around: String| {
        vec![
            Turn::Call("exec_command", json!({ "cmd": look_around })),
            Turn::Call("exec_command", json!({ "cmd": "echo 42 > answer.txt" })),
            Turn::Say("I corrected the answer."),
        ]
    };
    publishes_without_ever_seeing_the_key(backend, "codex", "openai", script).await;
}

/// The turns of each agent that make the change, and the faults that come on the way. Claude Code gives an answer up that
/// broke off, so it gets none of those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_and_slow_answers_on_the_way_change_nothing_and_what_was_used_is_counted_not_believed() {
    let status = Fault::Status;
    let file = "/workspace/answer.txt";
    let claude = vec![
        Turn::Call("Read", json!({ "file_path": file })),
        Turn::Call("Edit", json!({ "file_path": file, "old_string": "41", "new_string": "42" })),
        Turn::Say("I corrected the answer."),
    ];
    let codex = vec![
        Turn::Call("exec_command", json!({ "cmd": "echo 42 > answer.txt" })),
        Turn::Say("I corrected the answer."),
    ];
    for (agent, provider, script, faults) in [
        ("claude", "anthropic", claude, vec![status(429), status(529), Fault::Drip, status(500), status(502)]),
        ("codex", "openai", codex, vec![status(503), Fault::Drip, status(500), Fault::Cut]),
    ] {
        let model = ScriptedModel::start(Setup::model_key(), script).await;
        model.fail(faults);
        let onramp = Setup::new(Backend::Namespace)
            .model(provider, model.url())
            .configure(move |config| {
                config.agent.default = agent.parse().unwrap();
                config.sandbox.expose.push(target::agents());
            })
            .start()
            .await;
        onramp.ask("The answer is wrong", "It should be 42.").await;
        let tasks = onramp.until_all_ended().await;
        assert_eq!(tasks[0].state.word(), "done", "{agent}: {:#?}\n{:#?}", tasks[0].state, onramp.progress());
        let evidence: serde_json::Value = serde_json::from_str(&onramp.artifact(&tasks[0], "evidence.json")).unwrap();
        let used = &evidence["egress"]["models"][0];
        // The scripted model counts 120 tokens for each question and 30 for each answer that came to its end.
        let whole = used["n_exchanges"].as_u64().unwrap() - used["n_estimated"].as_u64().unwrap();
        assert!(whole >= 2 && used["n_failed"] == 0, "{agent}: {used:#}");
        assert!(used["tokens"]["input"].as_u64() >= Some(120 * whole), "{agent}: {used:#}");
        assert!(evidence["claimed"].is_object(), "what the agent says is told apart: {evidence:#}");
        onramp.end().await;
    }
}
