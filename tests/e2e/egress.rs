//! Egress through the front door: the agent that needs nothing inside, what is counted, what is refused and what allows it.

use serde_json::json;
use tests::{
    Backend, Onramp, Setup,
    model::{Fault, ScriptedModel, Turn},
    onramp::REPO,
};

use crate::with_each_sandbox;

with_each_sandbox!(
    the_built_in_agent_makes_a_pull_request_with_nothing_inside_but_a_shell,
    a_host_that_was_refused_is_in_the_pull_request_with_the_line_that_allows_it,
    a_private_registry_is_reached_with_a_header_that_nothing_inside_ever_sees,
    a_setup_secret_makes_the_base_and_is_in_nothing_that_is_left_of_it,
    none_of_twenty_secrets_is_seen_from_inside_by_any_channel,
);

/// Everything that can be found of secrets inside. The quotes keep the command from looking like its output.
const LOOK_AROUND: &str = "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; \
                           cat ~/.* ~/.*/* 2>/dev/null; echo LOOKED-\"AROUND\"";

/// The turns that make the change with the tools of the built-in agent.
fn mend() -> Vec<Turn> {
    vec![
        Turn::Call("run", json!({ "command": LOOK_AROUND })),
        Turn::Call("search", json!({ "pattern": "4[0-9]" })),
        Turn::Call("read", json!({ "path": "answer.txt" })),
        Turn::Call("edit", json!({ "path": "answer.txt", "old": "41", "new": "42" })),
        Turn::Say("I corrected the answer."),
    ]
}

/// An Onramp whose agent is the built-in one.
fn with_builtin(backend: Backend, model: &ScriptedModel) -> Setup {
    let setup = Setup::new(backend).model("anthropic", model.url());
    setup.configure(|config| config.agent.default = "builtin".parse().unwrap())
}

fn only_body(onramp: &Onramp) -> String {
    let pulls = onramp.github.pulls();
    assert_eq!(pulls.len(), 1, "{pulls:#?}");
    pulls[0].body.clone()
}

async fn the_built_in_agent_makes_a_pull_request_with_nothing_inside_but_a_shell(backend: Backend) {
    let model = ScriptedModel::start(Setup::model_key(), mend()).await;
    let onramp = with_builtin(backend, &model).start().await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}\n{:#?}", tasks[0].state, onramp.progress());
    let pulls = onramp.github.pulls();
    assert_eq!(onramp.github.branch_tree(REPO, &pulls[0].head)["answer.txt"], "42\n");

    // Five answers, counted by the gateway and priced by the table.
    let body = only_body(&onramp);
    assert!(body.contains("tokens 600 in, 150 out"), "{body}");
    assert!(body.contains("cost $0.00405") && !body.contains("as the agent says"), "{body}");
    assert!(body.contains("I corrected the answer."), "{body}");
    let asked = model.asked();
    assert!(asked.iter().all(|asked| asked.key == Setup::model_key()), "the real key arrives");
    let sent = model.everything_sent();
    assert!(sent.contains("LOOKED-AROUND") && sent.contains("The answer is wrong"), "{sent}");
    assert!(
        !sent.contains(Setup::model_key()) && !sent.contains("onramp-0"),
        "neither key nor token is inside: {sent}"
    );
    onramp.end().await;
}

async fn a_host_that_was_refused_is_in_the_pull_request_with_the_line_that_allows_it(backend: Backend) {
    let fetch = |url: &str| format!("(wget -q -O - {url} || curl -s {url}) 2>&1");
    let agent = format!(
        "{}; {}; {}; echo 42 > answer.txt",
        fetch("http://static.crates.io/x"),
        fetch("http://evil.test/"),
        fetch("http://169.254.169.254/latest/meta-data/")
    );
    let onramp = Setup::new(backend).agent(&agent).start().await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}", tasks[0].state);
    let body = only_body(&onramp);
    assert!(body.contains("**Blocked hosts**") && body.contains("`evil.test:80`"), "{body}");
    assert!(body.contains("`169.254.169.254`"), "{body}");
    assert!(
        body.contains("`allow = [\"evil.test\", \"preset:crates\"]`"),
        "what cannot be allowed is not offered: {body}"
    );
    let log = onramp.artifact(&tasks[0], "egress.jsonl");
    assert!(log.contains("\"host\":\"evil.test:80\"") && log.contains("not allowed in the phase"), "{log}");
    onramp.end().await;
}

async fn a_private_registry_is_reached_with_a_header_that_nothing_inside_ever_sees(backend: Backend) {
    // A registry on this machine, which gives its package only to who knows the header.
    let app = axum::Router::new().fallback(|headers: axum::http::HeaderMap| async move {
        match headers.get("authorization").is_some_and(|value| value == "Bearer canary-registry") {
            true => (axum::http::StatusCode::OK, "the answer is 42"),
            false => (axum::http::StatusCode::UNAUTHORIZED, "who are you"),
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let fetch = "(wget -q -O - http://npm.acme.example/answer || curl -s http://npm.acme.example/answer)";
    let agent = format!("{LOOK_AROUND}; {fetch} | grep -o 42 > answer.txt");
    let onramp = Setup::new(backend)
        .agent(&agent)
        .configure(move |config| {
            config.egress.registries.push(orchestrator::config::Registry {
                host: "npm.acme.example".into(),
                url,
                header: "Authorization".into(),
                value: orchestrator::config::Secret::known("Bearer canary-registry"),
                repositories: vec!["acme/*".into()],
            });
        })
        .start()
        .await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}\n{:#?}", tasks[0].state, onramp.progress());
    let said = onramp.artifact(&tasks[0], "transcript-1.log");
    assert!(said.contains("LOOKED-AROUND") && !said.contains("canary-registry"), "{said}");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_built_in_agent_gets_through_outages_and_slow_answers_and_tells_of_a_lasting_one() {
    let model = ScriptedModel::start(Setup::model_key(), mend()).await;
    let fault = Fault::Status;
    model.fail([fault(429), fault(529), Fault::Drip, fault(500), fault(503), fault(502), Fault::Cut]);
    let onramp = with_builtin(Backend::Namespace, &model).start().await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}\n{:#?}", tasks[0].state, onramp.progress());
    only_body(&onramp);
    onramp.end().await;

    let model = ScriptedModel::start("another key", mend()).await;
    let onramp = with_builtin(Backend::Namespace, &model).start().await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "failed");
    let failure = format!("{:?}", tasks[0].state);
    assert!(failure.contains("invalid x-api-key (401)"), "{failure}");
    onramp.end().await;
}

const NEEDS_SECRET: &str = r#"version = 1
[environment]
setup = ["test -n \"$NPM_TOKEN\" && printf %s \"$NPM_TOKEN\" | sha256sum > installed"]
[[check]]
name = "answer"
command = "test -s installed && sh test.sh"
"#;

/// Everything that a base is kept as, as bytes: the layers of its image, or its directory.
fn kept(base: &workers::sandbox::KeptBase) -> Vec<u8> {
    let (program, arguments): (_, Vec<&str>) = match base.kind.as_str() {
        "docker" => ("docker", vec!["save", &base.kept_as]),
        _ => ("tar", vec!["-C", &base.kept_as, "-c", "."]),
    };
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

async fn a_setup_secret_makes_the_base_and_is_in_nothing_that_is_left_of_it(backend: Backend) {
    const SECRET: &str = "canary-setup-secret-5d1c";
    let agent = format!("{LOOK_AROUND}; cat installed; echo 42 > answer.txt");
    let setup = |config: &str| {
        Setup::new(backend).file(".onramp.toml", config).agent(&agent).configure(|config| {
            config.bases.enabled = true;
            config.egress.setup_secrets.push(orchestrator::config::SetupSecret {
                name: "NPM_TOKEN".into(),
                value: orchestrator::config::Secret::known(SECRET),
                repositories: vec![REPO.into()],
            });
        })
    };
    let onramp = setup(NEEDS_SECRET).start().await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}\n{:#?}", tasks[0].state, onramp.progress());
    let said = onramp.artifact(&tasks[0], "transcript-1.log");
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(SECRET));
    assert!(said.contains("LOOKED-AROUND") && said.contains(&digest), "setup had it: {said}");
    assert!(!said.contains(SECRET), "and the agent's box has not: {said}");
    let hands = onramp.hands().clone();
    let bases = hands.sandboxes.backend().bases().await.unwrap();
    assert!(!bases.is_empty());
    for base in &bases {
        let bytes = kept(base);
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(holds(&digest), "the search finds what is there");
        assert!(!holds(SECRET), "the secret is in {base:?}");
    }
    onramp.drain().await;
    for base in bases {
        hands.sandboxes.backend().remove_base(&base).await.unwrap();
    }
    drop(hands);
    onramp.end().await;

    // A setup that leaves it lying about gets no base, and the task says where it lies.
    let careless = NEEDS_SECRET.replace("sha256sum > installed", "tee ~/.npmrc > installed");
    let onramp = setup(&careless).start().await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "failed", "{:#?}", tasks[0].state);
    let told = format!("{:?}", onramp.progress());
    assert!(told.contains("is still in") && told.contains("/home/onramp/.npmrc"), "{told}");
    let hands = onramp.hands().clone();
    assert_eq!(hands.sandboxes.backend().bases().await.unwrap().len(), 0);
    drop(hands);
    onramp.end().await;
}

fn cli(onramp: &Onramp, arguments: &[&str]) -> (Option<i32>, String, String) {
    let data = onramp.data_dir();
    let mut command = std::process::Command::new(tests::target::onramp());
    command.arg("--data-dir").arg(data).args(arguments).stdin(std::process::Stdio::null()).current_dir(data);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_task_dealt_with_is_in_the_register_and_what_nobody_approved_is_held() {
    let fetch = Turn::Call("run", json!({ "command": "wget -q -O - http://cdn.acme.example/x; true" }));
    let model = ScriptedModel::start(Setup::model_key(), [vec![fetch], mend()].concat()).await;
    let allowed = "version = 1\n[network]\nallow = [\"cdn.acme.example\"]\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n";
    let onramp = with_builtin(Backend::Docker, &model)
        .file(".onramp.toml", allowed)
        .configure(|config| config.egress.hold_new_vendors = true)
        .start()
        .await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "a model in this network is no vendor: {:#?}", tasks[0].state);
    onramp.drain().await;

    let (code, listed, error) = cli(&onramp, &["vendors", "--format", "json"]);
    assert_eq!(code, Some(0), "{error}");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|vendor| vendor["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["agent:builtin", "cdn.acme.example", "image:onramp-test/busybox:1"]);
    assert_eq!((listed[1]["n_refused"].as_u64(), listed[1]["n_tasks"].as_u64()), (Some(1), Some(0)), "{listed:#}");

    let approve = [
        "vendors",
        "approve",
        "cdn.acme.example",
        "--by",
        "ada",
        "--owner",
        "web",
        "--purpose",
        "fonts",
        "--risk",
        "low",
    ];
    assert_eq!(cli(&onramp, &approve).0, Some(0));
    let (_, page, _) = cli(&onramp, &["vendors"]);
    assert!(
        page.contains("# Vendors")
            && page.contains("| cdn.acme.example | host |")
            && page.contains("| web | fonts | low | ada 20"),
        "{page}"
    );
    assert_eq!(cli(&onramp, &["vendors", "--format", "csv"]).1.lines().count(), 4);
    assert_eq!(cli(&onramp, &["vendors", "approve", "bad name"]).0, Some(2));
    let (code, _, error) = cli(&onramp, &["exit-drill", "never.example"]);
    assert!(code == Some(2) && error.contains("No recorded task dealt with never.example"), "{error}");
    let (_, presets, _) = cli(&onramp, &["presets"]);
    assert!(presets.contains("preset:crates") && presets.contains("static.crates.io"), "{presets}");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_an_airgap_nothing_outside_is_asked_and_the_counters_say_so() {
    let model = ScriptedModel::start(Setup::model_key(), mend()).await;
    let allowed = "version = 1\n[network]\nallow = [\"cdn.acme.example\"]\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n";
    let onramp = with_builtin(Backend::Namespace, &model)
        .file(".onramp.toml", allowed)
        .configure(|config| {
            config.egress.airgap = true;
            config.models.entry("anthropic".to_owned()).or_default().fallback = vec!["outside".to_owned()];
            let outside = config.models.entry("outside".to_owned()).or_default();
            outside.base_url = "https://api.models.example".to_owned();
            outside.speaks = Some(workers::egress::Speaks::Anthropic);
        })
        .start()
        .await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}\n{:#?}", tasks[0].state, onramp.progress());
    let evidence: serde_json::Value = serde_json::from_str(&onramp.artifact(&tasks[0], "evidence.json")).unwrap();
    assert_eq!(
        (evidence["egress"]["n_external"].as_u64(), evidence["egress"]["interface_bytes"].as_u64()),
        (Some(0), Some(0)),
        "{evidence:#}"
    );
    onramp.end().await;

    // The model lies outside: then there is none, and the reason says why.
    let onramp = with_builtin(Backend::Namespace, &model)
        .model("anthropic", "https://api.models.example".to_owned())
        .configure(|config| config.egress.airgap = true)
        .start()
        .await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    let failure = format!("{:?}", tasks[0].state);
    assert!(failure.contains("airgap is on"), "{failure}");
    onramp.end().await;
}

async fn none_of_twenty_secrets_is_seen_from_inside_by_any_channel(backend: Backend) {
    let secret = |n: usize| format!("canary-{n:02}-7f3b9c55aa01d2e4");
    // Whatever can be read, whoever can be asked. The class in the pattern keeps this script from finding itself.
    let search = "grep -rs 'can[a]ry-' /workspace /home /tmp /run /etc /dev/shm 2>/dev/null
                  cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo /proc/mounts 2>/dev/null | tr '\\0' '\\n' | grep 'can[a]ry-'
                  for n in 0 1 2 3; do
                    (wget -S -O - http://registry-$n.acme.example/x || curl -si http://registry-$n.acme.example/x) 2>&1
                  done
                  for port in 8098 8099; do (wget -S -O - http://127.0.0.1:$port/ || curl -si http://127.0.0.1:$port/) 2>&1; done";
    let agent = format!("{LOOK_AROUND}; {search}; echo; cat installed; echo 42 > answer.txt");
    // Registries that say in a header what they heard.
    let app = axum::Router::new().fallback(|headers: axum::http::HeaderMap| async move {
        let heard = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("nothing").to_owned();
        ([("x-heard", heard)], "package")
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let setup = "version = 1\n[environment]\nsetup = [\"env | grep -c ^SETUP_ > installed\"]\n[[check]]\nname = \"answer\"\ncommand = \"sh test.sh\"\n";
    let onramp = Setup::new(backend)
        .file(".onramp.toml", setup)
        .agent(&agent)
        .configure(move |config| {
            use orchestrator::config::{Registry, Secret, SetupSecret};
            config.bases.enabled = true;
            for n in 0..8 {
                let model = config.models.entry(format!("provider-{n}")).or_default();
                (model.base_url, model.key) = (url.clone(), Secret::known(secret(n)));
            }
            for n in 8..12 {
                config.egress.registries.push(Registry {
                    host: format!("registry-{}.acme.example", n - 8),
                    url: url.clone(),
                    header: "Authorization".into(),
                    value: Secret::known(secret(n)),
                    repositories: vec!["acme/*".into()],
                });
            }
            for n in 12..18 {
                let (name, value) = (format!("SETUP_{n}"), Secret::known(secret(n)));
                config.egress.setup_secrets.push(SetupSecret { name, value, repositories: vec![REPO.into()] });
            }
            config.worker.token = Secret::known(secret(18));
            config.github.webhook_secrets.push(Secret::known(secret(19)));
        })
        .start()
        .await;
    onramp.ask("The answer is wrong", "It should be 42.").await;
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[0].state.word(), "done", "{:#?}\n{:#?}", tasks[0].state, onramp.progress());
    let said = onramp.artifact(&tasks[0], "transcript-1.log");
    assert!(said.contains("LOOKED-AROUND") && said.contains("package"), "the search went everywhere: {said}");
    assert!(said.lines().any(|line| line.trim() == "6"), "setup had its six: {said}");
    for n in 0..20 {
        assert!(!said.contains(&format!("canary-{n:02}")), "secret {n} is inside: {said}");
    }
    let hands = onramp.hands().clone();
    onramp.drain().await;
    for base in hands.sandboxes.backend().bases().await.unwrap() {
        let bytes = kept(&base);
        assert!(!bytes.windows(7).any(|window| window == b"canary-"), "a secret is in {base:?}");
        hands.sandboxes.backend().remove_base(&base).await.unwrap();
    }
    drop(hands);
    onramp.end().await;
}
