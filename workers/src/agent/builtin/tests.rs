//! The loop and its tools, in a real sandbox, against a model that follows a script.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use tasks::{Allowance, Code, Failure, Phase, TaskId};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    agent::{AgentResult, Agents},
    artifacts::Artifacts,
    egress::{Egress, Key, ModelProviders, Patience, Provider, Tally, Ways},
    progress::Progress,
    repo_config::Network,
    sandbox::{FileKind, HostTools, SandboxSpec, TreeFile, namespace::NamespaceBackend},
};

/// A model that answers each request with the next of its answers, and keeps the requests.
struct Model {
    url: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Model {
    async fn start(answers: Vec<Value>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, answers) = (asked.clone(), Arc::new(Mutex::new(VecDeque::from(answers))));
        let app = axum::Router::new().fallback(move |body: axum::Json<Value>| {
            kept.lock().unwrap().push(body.0);
            let answer =
                answers.lock().unwrap().pop_front().unwrap_or(json!({ "error": { "message": "out of answers" } }));
            async move { axum::Json(answer) }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

fn uses(name: &str, input: Value) -> Value {
    json!({ "content": [{ "type": "tool_use", "id": "t1", "name": name, "input": input }], "stop_reason": "tool_use",
            "usage": { "input_tokens": 10, "output_tokens": 2 } })
}

fn says(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }], "stop_reason": "end_turn", "usage": { "input_tokens": 10, "output_tokens": 2 } })
}

/// What a round ended with, the events that it told, and the sandbox's files after it.
struct Done {
    result: Result<AgentResult, Failure>,
    transcript: String,
    files: BTreeMap<String, String>,
    tally: Arc<Tally>,
}

/// One round against the model, on two files.
async fn round(name: &str, provider: &str, model: &Model, definition: &str) -> Done {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("builtin.toml"), definition).unwrap();
    let agents = Agents::load(Some(dir.path().to_owned())).unwrap();
    let artifacts = Artifacts::open(&dir.path().join("artifacts"), TaskId::from_bytes([1; 16]), 1).unwrap();
    let backend = NamespaceBackend::new(dir.path().join("boxes"), HostTools::default(), false);
    let backend = Arc::new(backend.accept_without(tasks::Limit::ALL));
    let spec = SandboxSpec::new(format!("onramp-builtin-{name}-{}", std::process::id()));
    let sandbox = Sandbox::start(backend, &spec).await.unwrap();
    let file = |path: &str, kind, text: &str| TreeFile { path: path.into(), kind, bytes: text.into() };
    let tree = vec![
        file("answer.txt", FileKind::Regular, "the answer\n\tis 41\n"),
        file("run.sh", FileKind::Executable, "#!/bin/sh\n"),
    ];
    sandbox.put(tree).await.unwrap();
    let patience = Patience { n_retries: 0, ..Patience::default() };
    let key = Some(Key::fixed("sk-canary".to_owned()));
    let providers = BTreeMap::from([(provider.to_owned(), Provider::new(provider, &model.url, key))]);
    let models = Arc::new(ModelProviders { providers, patience, ..ModelProviders::default() });
    let (tally, repo) = (Arc::new(Tally::new(Allowance::default(), None)), "acme/web".parse().unwrap());
    let (network, policy, phase) = (Network::default(), Arc::default(), Phase::Agent);
    let ways = Ways { models, policy, network: &network, repo: &repo, phase, tally: tally.clone() };
    let egress = Egress::open(&sandbox, ways, &CancellationToken::new()).await.unwrap();
    let round = Round {
        agent: agents.get(&"builtin".parse().unwrap()).unwrap(),
        prompt: "The answer is wrong.",
        resume: None,
        env: &BTreeMap::from([("FROM_REPO".to_owned(), "yes".to_owned())]),
        gateway: egress.inside(),
        models: Some(egress.models()),
        time: Duration::from_secs(30),
        idle: Duration::from_secs(30),
        artifacts: &artifacts,
        number: 1,
        finish: &CancellationToken::new(),
    };
    let result = crate::agent::run(&sandbox, round, &Progress::silent(), &CancellationToken::new()).await;
    let paths = ["answer.txt", "run.sh"].map(|path| path.as_bytes().to_vec()).to_vec();
    let files = sandbox.get(paths, 1 << 20).await.unwrap().into_iter().map(|file| {
        let name = format!(
            "{}{}",
            String::from_utf8_lossy(&file.path),
            if file.kind == FileKind::Executable { "*" } else { "" }
        );
        (name, String::from_utf8(file.bytes).unwrap())
    });
    let files = files.collect();
    let transcript = std::fs::read_to_string(artifacts.path("transcript-1.log")).unwrap();
    egress.close().await;
    sandbox.stop().await.unwrap();
    Done { result, transcript, files, tally }
}

/// What the model was told of its last tool.
fn results(model: &Model) -> Vec<String> {
    let of = |asked: &Value| asked["messages"].as_array()?.last()?["content"][0]["content"].as_str().map(str::to_owned);
    model.asked().iter().skip(1).filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_searches_reads_edits_runs_and_says_what_it_did() {
    let model = Model::start(vec![
        uses("search", json!({ "pattern": "is 4[0-9]" })),
        uses("read", json!({ "path": "/workspace/answer.txt" })),
        uses("edit", json!({ "path": "answer.txt", "old": "\tis 41", "new": "\tis 42" })),
        uses("write", json!({ "path": "run.sh", "content": "#!/bin/sh\necho ran; env; exit 3\n" })),
        uses("run", json!({ "command": "./run.sh; grep -r canary /proc/[0-9]*/environ 2>/dev/null; exit 3" })),
        says("I corrected the answer."),
    ])
    .await;
    let done = round("works", "anthropic", &model, "").await;
    let result = done.result.unwrap();
    assert_eq!(result.summary.as_deref(), Some("I corrected the answer."));
    assert_eq!((result.usage.input, result.usage.output), (Some(60), Some(12)));
    assert_eq!(done.files["answer.txt"], "the answer\n\tis 42\n");
    assert!(done.files["run.sh*"].contains("echo ran"), "an executable file stays one: {:?}", done.files);
    let told = results(&model);
    assert_eq!(told[0], "./answer.txt:2:\tis 41");
    assert_eq!(told[1], "    1\tthe answer\n    2\t\tis 41");
    assert_eq!(told[2], "replaced 1 place in answer.txt");
    assert!(
        told[4].starts_with("ran\n") && told[4].contains("FROM_REPO=yes") && told[4].ends_with("[exit code 3]"),
        "{}",
        told[4]
    );
    assert!(
        !told[4].contains("canary") && !told[4].contains("onramp-"),
        "neither key nor token is inside: {}",
        told[4]
    );
    let used = done.tally.record().models.remove(0);
    assert_eq!((used.n_exchanges, used.tokens.input, used.tokens.output), (6, 60, 12), "the gateway counts the same");
    let kinds: Vec<_> = done.transcript.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect();
    assert_eq!(
        (kinds.len(), kinds[0]["type"].as_str(), kinds.last().unwrap()["type"].as_str()),
        (13, Some("system"), Some("result"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_told_to_the_model_and_nothing_leaves_the_repository() {
    let model = Model::start(vec![
        uses("edit", json!({ "path": "answer.txt", "old": "nowhere", "new": "x" })),
        uses("edit", json!({ "path": "answer.txt", "old": "", "new": "x" })),
        uses("read", json!({ "path": "missing.txt" })),
        uses("read", json!({ "path": "../etc/passwd" })),
        uses("write", json!({ "path": "/etc/passwd", "content": "x" })),
        uses("write", json!({ "path": "answer.txt" })),
        uses("fly", json!({})),
        uses("run", json!({ "command": "echo 'a\tb'; sleep 30", "timeout_s": 1 })),
        says("I could not."),
    ])
    .await;
    let done = round("wrong", "anthropic", &model, "").await;
    assert_eq!(done.result.unwrap().summary.as_deref(), Some("I could not."));
    let told = results(&model);
    for (told, part) in told.iter().zip([
        "does not stand in answer.txt",
        "does not stand in answer.txt",
        "missing.txt",
        "leads out of the repository",
        "is not in the repository",
        "`content` is missing",
        "there is no tool \"fly\"; there are run, read, write, edit, search",
        "a\tb\n[stopped after 1 s]",
    ]) {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(done.files["answer.txt"], "the answer\n\tis 41\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_speaks_as_openai_does_too() {
    let call = json!({ "id": "c1", "type": "function", "function": { "name": "write", "arguments": "{\"path\":\"answer.txt\",\"content\":\"42\"}" } });
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 3 });
    let model = Model::start(vec![
        json!({ "choices": [{ "message": { "content": null, "tool_calls": [call] }, "finish_reason": "tool_calls" }], "usage": usage }),
        json!({ "choices": [{ "message": { "content": "Done." }, "finish_reason": "stop" }], "usage": usage }),
    ])
    .await;
    let done =
        round("chat", "local", &model, "model = \"qwen\"\n[builtin]\nprovider = \"local\"\nmax_turns = 50\n").await;
    assert_eq!(done.result.unwrap().summary.as_deref(), Some("Done."));
    assert_eq!(done.files["answer.txt"], "42");
    let asked = model.asked();
    assert_eq!(
        (asked[0]["model"].as_str(), asked[0]["messages"][1]["content"].as_str()),
        (Some("qwen"), Some("The answer is wrong."))
    );
    assert_eq!(
        asked[1]["messages"][3],
        json!({ "role": "tool", "tool_call_id": "c1", "content": "wrote 2 bytes to answer.txt" })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_are_bounded_and_a_refusal_is_a_failure_with_its_words() {
    let model = Model::start(vec![uses("run", json!({ "command": "true" })); 9]).await;
    let definition = "[builtin]\nprovider = \"anthropic\"\nmax_turns = 3\n";
    let failure = round("turns", "anthropic", &model, definition).await.result.unwrap_err();
    assert_eq!(failure.code, Code::AgentFailed);
    assert!(failure.message.contains("it was not done after 3 turns"), "{failure}");
    assert_eq!(model.asked().len(), 3);
    assert!(results(&model)[0].ends_with("[2 turns are left: come to an end]"), "{:?}", results(&model));

    let model = Model::start(vec![]).await;
    let failure = round("refused", "anthropic", &model, "").await.result.unwrap_err();
    assert!(failure.message.contains("the model's answer holds no message"), "{failure}");
    let failure = round("nobody", "elsewhere", &model, "").await.result.unwrap_err();
    assert!(failure.message.contains("No anthropic model provider is configured"), "{failure}");
}

#[test]
fn a_conversation_that_is_too_long_loses_its_oldest_results_first_and_keeps_the_newest() {
    let result = |n: usize| Item::Results(vec![(n.to_string(), "x".repeat(30_000), false)]);
    let mut items = vec![Item::User("prompt".into())];
    items.extend((0..14).map(result));
    trim(&mut items);
    let sizes: Vec<usize> = items.iter().skip(1).map(Item::n_bytes).collect();
    assert!(sizes[..8].iter().all(|n| *n < 100) && sizes[10..].iter().all(|n| *n == 30_000), "{sizes:?}");
    let before: usize = items.iter().map(Item::n_bytes).sum();
    assert!(before <= MAX_CONVERSATION_BYTES / 2);
    trim(&mut items);
    assert_eq!(items.iter().map(Item::n_bytes).sum::<usize>(), before, "and then stays as it is for a while");
}
