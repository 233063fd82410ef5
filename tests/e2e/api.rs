//! What programs can do: the API, its tokens and its streams, tools of other agents, metrics, and the command line, which asks
//! the same.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    time::Duration,
};

use orchestrator::front::Scope;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tests::{
    Backend, Setup,
    onramp::{DEADLINE, Onramp, REPO},
    target,
};

/// Somebody who asks over HTTP.
struct Asker {
    http: Client,
    root: String,
    token: String,
}

impl Asker {
    fn new(onramp: &Onramp, name: &str, scope: Scope, repo: Option<&str>) -> Self {
        let http = Client::builder().no_proxy().build().unwrap();
        Self { http, root: onramp.address(), token: onramp.token(name, scope, repo) }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.root)).bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        answered(self.request(Method::GET, path)).await
    }

    /// The text at a path, once it holds this: what is counted is read from the journal a moment after it was written.
    async fn until(&self, path: &str, part: &str) -> String {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        let look = async {
            loop {
                look.tick().await;
                let text = self.request(Method::GET, path).send().await.unwrap().text().await.unwrap();
                if text.contains(part) {
                    return text;
                }
            }
        };
        tokio::time::timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("{path} never holds {part}"))
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        answered(self.request(Method::POST, path).json(&body)).await
    }
}

async fn answered(request: RequestBuilder) -> (StatusCode, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn onramp(onramp: &Onramp, arguments: &[&str]) -> Output {
    let mut command = Command::new(target::onramp());
    command.arg("--data-dir").arg(onramp.data_dir()).args(arguments).stdin(Stdio::null());
    command.current_dir(onramp.data_dir()).output().unwrap()
}

fn says(at: &Onramp, arguments: &[&str]) -> String {
    let output = onramp(at, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn idle() -> Setup {
    Setup::new(Backend::Namespace).configure(|config| config.worker.n_workers = 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_asks_for_a_task_follows_its_log_and_gets_a_pull_request_with_evidence() {
    let onramp = Setup::new(Backend::Namespace).agent("echo thinking; echo 42 > answer.txt").start().await;
    let ci = Asker::new(&onramp, "ci", Scope::Act, None);
    let new = json!({ "repo": REPO, "prompt": "The answer is wrong\n\nIt should be 42." });
    let asked = || ci.request(Method::POST, "/api/v1/tasks").header("idempotency-key", "release 7").json(&new);
    let (status, task) = answered(asked()).await;
    assert_eq!(
        (status, task["title"].as_str(), task["requester"].as_str()),
        (StatusCode::CREATED, Some("The answer is wrong"), Some("ci")),
        "{task}"
    );
    let id = task["id"].as_str().unwrap();
    let (status, again) = answered(asked()).await;
    assert_eq!((status, again["id"].as_str()), (StatusCode::OK, Some(id)), "the same key is the same request");
    let other = json!({ "repo": REPO, "prompt": "Something else" });
    let (status, refused) =
        answered(ci.request(Method::POST, "/api/v1/tasks").header("idempotency-key", "release 7").json(&other)).await;
    assert_eq!((status, refused["code"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some("E009")), "{refused}");

    let log = ci.request(Method::GET, &format!("/api/v1/tasks/{id}/log?follow=true")).send().await.unwrap();
    assert_eq!(log.headers()["content-type"], "text/event-stream");
    let log = log.text().await.unwrap();
    assert!(
        log.contains("event: line") && log.contains("\"kind\":\"stage\"") && log.contains("\"text\":\"publishing\""),
        "{log}"
    );
    assert!(log.trim_end().rsplit("event: ").next().unwrap().contains("\"state\":\"done\""), "{log}");
    let places: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    let half = places[places.len() / 2];
    let rest =
        ci.request(Method::GET, &format!("/api/v1/tasks/{id}/log")).header("last-event-id", half).send().await.unwrap();
    let rest = rest.text().await.unwrap();
    let seen: Vec<&str> = rest.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(seen, places[places.len() / 2 + 1..], "it goes on after the last that arrived");

    let (_, task) = ci.get(&format!("/api/v1/tasks/{}", &id[24..])).await;
    let number = task["pull_request"]["number"].as_u64().unwrap();
    assert_eq!(onramp.github.pulls()[0].number, number);
    assert_eq!(task["evidence"]["checks"][0]["outcome"]["kind"], "passed");
    let (_, same) = ci.get(&format!("/api/v1/tasks/acme%2Fweb%23{number}")).await;
    assert_eq!(same["id"].as_str(), Some(id), "named by its pull request");
    let diff = ci.request(Method::GET, &format!("/api/v1/tasks/{id}/diff")).send().await.unwrap();
    assert!(diff.text().await.unwrap().contains("\n+42\n"));
    let (_, evidence) = ci.get(&format!("/api/v1/tasks/{id}/evidence")).await;
    assert_eq!(evidence, task["evidence"]);
    let (_, events) = ci.get(&format!("/api/v1/tasks/{id}/events")).await;
    let words: Vec<&str> = events.as_array().unwrap().iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!((words[0], words[1], *words.last().unwrap()), ("enqueued", "leased", "finished"));
    let (_, artifacts) = ci.get(&format!("/api/v1/tasks/{id}/artifacts")).await;
    let prompt = artifacts.as_array().unwrap().iter().find(|file| file["name"] == "prompt-1.md").unwrap().clone();
    let path = format!("/api/v1/tasks/{id}/artifacts/{}/prompt-1.md", prompt["attempt"]);
    let (status, text) = ci.get(&path).await;
    assert!(status.is_success() && text.as_str().unwrap().contains("It should be 42."), "{text}");
    let (status, _) = ci.get(&format!("/api/v1/tasks/{id}/artifacts/1/..%2F..%2F..%2Ftokens.json")).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "an artifact is never a path");

    // What is said now has the pull request changed further.
    let (status, spoken) = ci.post(&format!("/api/v1/tasks/{id}/say"), json!({ "text": "And write it twice" })).await;
    assert_eq!((status, spoken["became"].as_str()), (StatusCode::OK, Some("follow_up")), "{spoken}");
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks.last().unwrap().request.revises, Some(number));

    let ended = "onramp_tasks_total{source=\"api\",result=\"success\"} 1";
    let metrics = ci.until("/metrics", ended).await;
    for name in ["onramp_queue_wait_seconds_bucket", "onramp_stage_duration_seconds_sum", "onramp_queue_depth"] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    assert!(!metrics.contains(id) && !metrics.contains("ci\""), "no task and nobody is a label");
    let ready = ci.http.get(format!("{}/readyz", ci.root)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::OK);

    // The command line shows the same.
    assert!(says(&onramp, &["task", "diff", &id[24..]]).contains("\n+42\n"));
    let log = onramp_log(&onramp, id);
    assert!(log.contains("preparing") && log.contains("check answer: passed"), "{log}");
    let listed: Value = serde_json::from_str(&says(&onramp, &["task", "list", "--json"])).unwrap();
    let (_, page) = ci.get("/api/v1/tasks").await;
    assert_eq!(listed, page["tasks"], "the schema of the command line is that of the API");
    onramp.end().await;
}

fn onramp_log(at: &Onramp, id: &str) -> String {
    let followed = onramp(at, &["task", "logs", "--follow", &id[24..]]);
    assert_eq!(followed.status.code(), Some(0));
    String::from_utf8(followed.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_reaches_as_far_as_it_was_made_for_and_no_further() {
    let onramp = idle().configure(|config| config.github.repositories = vec!["acme/*".into()]).start().await;
    let (reader, actor) =
        (Asker::new(&onramp, "eyes", Scope::Read, None), Asker::new(&onramp, "hands", Scope::Act, None));
    let elsewhere = Asker::new(&onramp, "elsewhere", Scope::Admin, Some("acme/api"));
    let new = json!({ "repo": REPO, "prompt": "x" });
    let code = |(status, answer): (StatusCode, Value)| {
        (status.as_u16(), answer["code"].as_str().unwrap_or_default().to_owned())
    };

    let stranger = Asker { token: "onramp_0000000000_ffff".into(), ..Asker::new(&onramp, "spare", Scope::Read, None) };
    assert_eq!(code(stranger.get("/api/v1/tasks").await), (401, "E092".into()));
    let bare = reader.http.get(format!("{}/api/v1/tasks", reader.root)).send().await.unwrap();
    assert_eq!(
        (bare.status().as_u16(), &bare.headers()["content-type"]),
        (401, &"application/problem+json".parse().unwrap())
    );
    assert!(bare.headers().contains_key("www-authenticate"));
    assert_eq!(code(reader.post("/api/v1/tasks", new.clone()).await), (403, "E093".into()));
    assert_eq!(code(elsewhere.post("/api/v1/tasks", new.clone()).await), (403, "E093".into()));
    let foreign = json!({ "repo": "other/thing", "prompt": "x" });
    assert_eq!(code(actor.post("/api/v1/tasks", foreign).await), (403, "E051".into()));

    let (_, task) = actor.post("/api/v1/tasks", new).await;
    let path = format!("/api/v1/tasks/{}", task["id"].as_str().unwrap());
    assert_eq!(reader.get(&path).await.1["waits"], "no worker has asked for it yet");
    assert_eq!(code(elsewhere.get(&path).await), (404, "E090".into()), "what it may not see is not there");
    assert_eq!(code(reader.post(&format!("{path}/stop"), json!({})).await), (403, "E093".into()));
    assert_eq!(code(actor.post(&format!("{path}/finish"), json!({})).await), (409, "E091".into()));
    assert_eq!(actor.post(&format!("{path}/stop"), json!({})).await.1["state"], "stopped");
    assert_eq!(code(actor.post(&format!("{path}/say"), json!({ "text": "late" })).await), (409, "E091".into()));
    assert_eq!(actor.post(&format!("{path}/retry"), json!({})).await.1["state"], "queued");
    let (_, spoken) = actor.post(&format!("{path}/say"), json!({ "text": "in time" })).await;
    assert_eq!(spoken["became"], "note");
    assert_eq!(reader.get(&path).await.1["notes"][0]["text"], "in time");

    for (body, wrong) in
        [(json!({ "prompt": "x" }), "repo"), (json!({ "repo": REPO, "prompt": "x", "modl": 1 }), "modl")]
    {
        let (status, refused) = actor.post("/api/v1/tasks", body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused["detail"].as_str().unwrap().contains(wrong), "{refused}");
    }
    assert_eq!(code(actor.post("/api/v1/tasks", json!({ "repo": REPO, "prompt": " " })).await), (422, "E001".into()));

    assert!(says(&onramp, &["token", "list"]).contains("hands"));
    says(&onramp, &["token", "revoke", "hands"]);
    assert_eq!(code(actor.get("/api/v1/tasks").await), (401, "E092".into()), "from that moment on");
    let made = says(&onramp, &["token", "create", "new", "--scope", "act", "--expires", "1h"]);
    let renewed = Asker { token: made.trim().to_owned(), ..actor };
    assert_eq!(renewed.get("/api/v1/tasks").await.0, StatusCode::OK);
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_too_often_is_told_to_wait() {
    let onramp = idle().configure(|config| config.api.requests_per_minute = 5).start().await;
    let (busy, calm) = (Asker::new(&onramp, "busy", Scope::Read, None), Asker::new(&onramp, "calm", Scope::Read, None));
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(busy.request(Method::GET, "/api/v1/tasks").send().await.unwrap());
    }
    assert!(answers[..5].iter().all(|answer| answer.status().is_success()));
    assert_eq!(answers[5].status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(answers[5].headers().contains_key("retry-after"));
    assert_eq!(calm.get("/api/v1/tasks").await.0, StatusCode::OK, "others are not meant");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_comes_in_pages_and_by_what_is_wanted() {
    let onramp = idle().start().await;
    let ci = Asker::new(&onramp, "ci", Scope::Act, None);
    for n in 0..7 {
        ci.post("/api/v1/tasks", json!({ "repo": REPO, "prompt": format!("Wish {n}") })).await;
    }
    let mut found = Vec::new();
    let mut path = "/api/v1/tasks?limit=3".to_owned();
    loop {
        let (_, page) = ci.get(&path).await;
        found.extend(page["tasks"].as_array().unwrap().iter().map(|task| task["title"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/tasks?limit=3&cursor={next}");
    }
    assert_eq!(found, (0..7).rev().map(|n| format!("Wish {n}")).collect::<Vec<_>>());
    ci.post("/api/v1/tasks/last/stop", json!({})).await;
    let (_, stopped) = ci.get("/api/v1/tasks?state=stopped").await;
    assert_eq!(stopped["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(ci.get("/api/v1/tasks?unfinished=true&requester=CI").await.1["tasks"].as_array().unwrap().len(), 6);
    assert_eq!(ci.get("/api/v1/tasks?requester=ada").await.1["tasks"], json!([]));
    assert_eq!(ci.get("/api/v1/tasks?stat=x").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_agent_works_with_tasks_over_http_and_over_standard_input() {
    let onramp = idle().start().await;
    let agent = Asker::new(&onramp, "agent", Scope::Act, None);
    let call = |name: &str, arguments: Value| json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": name, "arguments": arguments } });
    let hello =
        json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": { "protocolVersion": "2025-03-26" } });
    assert_eq!(agent.post("/mcp", hello.clone()).await.1["result"]["protocolVersion"], "2025-03-26");
    let noted = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    assert_eq!(agent.post("/mcp", noted.clone()).await.0, StatusCode::ACCEPTED);
    let (_, started) = agent.post("/mcp", call("start_task", json!({ "repo": REPO, "prompt": "Mend it" }))).await;
    let id = started["result"]["structuredContent"]["id"].as_str().unwrap().to_owned();
    let (_, refused) = agent.post("/mcp", call("get_diff", json!({ "task": id }))).await;
    assert_eq!(refused["result"]["isError"], true);
    assert!(refused["result"]["content"][0]["text"].as_str().unwrap().contains("E095"), "{refused}");

    let reader = Asker::new(&onramp, "reader", Scope::Read, None);
    let tools = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    let named = |answer: &Value| {
        answer["result"]["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        named(&agent.post("/mcp", tools.clone()).await.1),
        ["start_task", "get_task", "list_tasks", "get_diff", "say", "stop_task"]
    );
    assert_eq!(named(&reader.post("/mcp", tools.clone()).await.1), ["get_task", "list_tasks", "get_diff"]);
    assert_eq!(reader.post("/mcp", call("stop_task", json!({ "task": id }))).await.1["result"]["isError"], true);

    let mut command = Command::new(target::onramp());
    command.arg("--data-dir").arg(onramp.data_dir()).arg("mcp").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for message in [
        hello,
        noted,
        call("say", json!({ "task": id, "text": "Be quick" })),
        call("stop_task", json!({ "task": &id[24..] })),
    ] {
        writeln!(stdin, "{message}").unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let answers: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 3, "a notification has no answer: {answers:#?}");
    assert_eq!(answers[2]["result"]["structuredContent"]["state"], "stopped", "{answers:#?}");
    assert_eq!(onramp.tasks().await[0].notes[0].text, "Be quick");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_takes_over_what_failed_in_a_clone_of_their_own() {
    let onramp = Setup::new(Backend::Namespace).agent("echo 43 > answer.txt").start().await;
    onramp.ask("The answer is wrong", "").await;
    onramp.until_all_ended().await;
    let clone = onramp.data_dir().join("clone");
    let git = |arguments: &[&str]| {
        let done = Command::new("git").args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let place = clone.display().to_string();
    git(&["clone", "--quiet", &onramp.github.bare(REPO).path().display().to_string(), &place]);
    let followed = self::onramp(&onramp, &["task", "logs", "-f"]);
    assert_eq!(followed.status.code(), Some(3), "the exit code is that of the task");
    let mut command = Command::new(target::onramp());
    command.arg("--data-dir").arg(onramp.data_dir()).args(["task", "checkout"]).current_dir(&clone);
    let taken = command.output().unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert!(git(&["-C", &place, "diff", "--cached"]).contains("\n+43\n"));
    let branch = git(&["-C", &place, "branch", "--show-current"]);
    assert!(branch.starts_with("onramp/") && branch.contains("-the-answer-is-wrong-"), "{branch}");
    onramp.end().await;
}
