//! The door as a sender sees it: signed deliveries in, answers out, and what the intake was given.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hmac::{Hmac, Mac};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sha2::Sha256;
use tasks::{Change, DedupeKey, QueueError, Received, Task, TaskFilter, TaskId, TaskRequest};
use tower::ServiceExt;

use super::*;

const SECRET: &str = "It's a Secret to Everybody";

/// What the intake does with the next call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Well,
    Full,
    Closing,
    Confused,
    Panics,
    Hangs,
}

/// An intake in memory.
#[derive(Debug, Default)]
struct Memory {
    mood: Mood,
    stored: Mutex<HashMap<DedupeKey, (TaskId, TaskRequest)>>,
    changes: Mutex<Vec<(DedupeKey, Change)>>,
}

impl Memory {
    async fn mood(&self, id: TaskId) -> Result<(), QueueError> {
        match self.mood {
            Mood::Well => Ok(()),
            Mood::Full => Err(QueueError::Unavailable("no space left on device".into())),
            Mood::Closing => Err(QueueError::ShuttingDown),
            Mood::Confused => Err(QueueError::UnknownTask(id)),
            Mood::Panics => panic!("the intake broke"),
            Mood::Hangs => std::future::pending().await,
        }
    }

    fn only_request(&self) -> TaskRequest {
        let stored = self.stored.lock().unwrap();
        assert_eq!(stored.len(), 1, "{stored:?}");
        stored.values().next().unwrap().1.clone()
    }

    fn is_untouched(&self) -> bool {
        self.stored.lock().unwrap().is_empty() && self.changes.lock().unwrap().is_empty()
    }
}

#[async_trait]
impl Intake for Memory {
    async fn enqueue(&self, request: TaskRequest) -> Result<Received, QueueError> {
        let mut bytes = [0; 16];
        bytes[15] = self.stored.lock().unwrap_or_else(PoisonError::into_inner).len() as u8 + 1;
        let id = TaskId::from_bytes(bytes);
        self.mood(id).await?;
        let mut stored = self.stored.lock().unwrap();
        if let Some((known, _)) = stored.get(&request.dedupe_key) {
            return Ok(Received::Known(*known));
        }
        stored.insert(request.dedupe_key.clone(), (id, request));
        Ok(Received::New(id))
    }
    async fn cancel(&self, _: TaskId, _: tasks::Actor) -> Result<(), QueueError> {
        unreachable!("the door cancels nothing by itself")
    }
    async fn finish(&self, _: TaskId, _: tasks::Actor) -> Result<(), QueueError> {
        unreachable!("the door finishes nothing by itself")
    }
    async fn requeue(&self, _: TaskId) -> Result<(), QueueError> {
        unreachable!("the door requeues nothing by itself")
    }
    async fn observe(&self, key: DedupeKey, change: Change) -> Result<(), QueueError> {
        self.mood(TaskId::from_bytes([0; 16])).await?;
        self.changes.lock().unwrap().push((key, change));
        Ok(())
    }
    async fn get(&self, _: TaskId) -> Result<Option<Task>, QueueError> {
        unreachable!("the door reads nothing")
    }
    async fn list(&self, _: TaskFilter) -> Result<Vec<Task>, QueueError> {
        unreachable!("the door reads nothing")
    }
}

/// A door with its intake.
struct Rig {
    intake: Arc<Memory>,
    router: Router,
}

fn config() -> DoorConfig {
    DoorConfig {
        github_secrets: Some(Secrets::new(vec![SECRET.into()]).unwrap()),
        label: "onramp".into(),
        repositories: vec![],
        names: vec!["onramp".into()],
        slack: None,
        allowed_bots: vec![],
        hooks: BTreeMap::new(),
    }
}

fn rig_with(mood: Mood, config: DoorConfig, limits: Limits) -> Rig {
    let intake = Arc::new(Memory { mood, ..Memory::default() });
    Rig { router: routes(Door { intake: intake.clone(), config: Arc::new(config), limits }), intake }
}

fn rig() -> Rig {
    rig_with(Mood::Well, config(), Limits::default())
}

fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

fn signed(event: &str, id: &str, body: impl Into<Bytes>) -> Request<Body> {
    let body = body.into();
    Request::post("/hooks/github")
        .header(header::CONTENT_TYPE, "application/json")
        .header("X-GitHub-Event", event)
        .header("X-GitHub-Delivery", id)
        .header("X-Hub-Signature-256", sign(SECRET, &body))
        .body(Body::from(body))
        .unwrap()
}

fn delivery(event: &str, payload: &Value) -> Request<Body> {
    signed(event, "72d3162e-cc78-11e3-81ab-4c9367dc0958", serde_json::to_vec(payload).unwrap())
}

async fn send(rig: &Rig, request: Request<Body>) -> (StatusCode, Value) {
    let response = rig.router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER).is_some();
    assert_eq!(retry_after, status == StatusCode::SERVICE_UNAVAILABLE);
    let kind = response.headers().get(header::CONTENT_TYPE).cloned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    if !status.is_success() && status != StatusCode::METHOD_NOT_ALLOWED {
        assert_eq!(kind.unwrap(), "application/problem+json");
    }
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body))))
}

fn labelled() -> Value {
    json!({
        "action": "labeled",
        "issue": {
            "number": 12, "title": "The pager drops the last row", "body": "Page 3 shows 9 rows.", "state": "open",
            "labels": [{"name": "bug"}, {"name": "Onramp"}], "user": {"login": "stranger"}, "id": 4_294_967_296_u64,
        },
        "label": {"id": 1, "name": "Onramp", "color": "ededed"},
        "repository": {"id": 7, "full_name": "acme/web", "private": true},
        "organization": {"login": "acme"},
        "sender": {"login": "ada", "id": 583_231, "type": "User"},
    })
}

#[tokio::test]
async fn a_labelled_issue_becomes_one_request_with_the_sender_as_actor() {
    let rig = rig();
    let (status, answer) = send(&rig, delivery("issues", &labelled())).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(answer, json!({"task": "00000000000000000000000000000001", "known": false}));
    insta::assert_debug_snapshot!(rig.intake.only_request(), @r#"
    TaskRequest {
        dedupe_key: DedupeKey(
            "github:72d3162e-cc78-11e3-81ab-4c9367dc0958",
        ),
        source: IssueLabelled {
            issue: 12,
            label: "Onramp",
        },
        actor: Actor {
            login: "ada",
            id: Some(
                583231,
            ),
        },
        repo: RepoName(
            "acme/web",
        ),
        base: None,
        agent: None,
        instruction: Instruction {
            title: "The pager drops the last row",
            body: "Page 3 shows 9 rows.",
            trusted: false,
            about: "",
        },
        deliver: PullRequest,
        resources: Resources {
            gpu: None,
        },
        revises: None,
        work: Change,
        discussed_until: None,
    }
    "#);
}

#[tokio::test]
async fn the_same_delivery_twice_is_one_task() {
    let rig = rig();
    let (_, first) = send(&rig, delivery("issues", &labelled())).await;
    let (status, second) = send(&rig, delivery("issues", &labelled())).await;
    assert_eq!((status, &second["known"]), (StatusCode::ACCEPTED, &json!(true)));
    assert_eq!(first["task"], second["task"]);
    rig.intake.only_request();
}

#[tokio::test]
async fn both_paths_lead_to_the_same_door() {
    let rig = rig();
    let mut request = delivery("issues", &labelled());
    *request.uri_mut() = "/webhooks/github".parse().unwrap();
    assert_eq!(send(&rig, request).await.0, StatusCode::ACCEPTED);
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    assert_eq!(send(&rig, get("/healthz")).await, (StatusCode::OK, json!("ok\n")));
    assert_eq!(send(&rig, get("/hooks/github")).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(send(&rig, get("/nowhere")).await.0, StatusCode::NOT_FOUND);
    let to_nobody = Request::post("/hooks/nobody").body(Body::empty()).unwrap();
    assert_eq!(send(&rig, to_nobody).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_signature_covers_the_bytes_as_they_came() {
    let rig = rig();
    // Non-ASCII, CRLF, a trailing newline: signed as sent, and JSON all the same.
    let mut payload = labelled();
    payload["issue"]["body"] = json!("naïve 分页 😀");
    let odd = serde_json::to_string_pretty(&payload).unwrap().replace('\n', "\r\n") + "\n";
    assert_eq!(send(&rig, signed("issues", "1", odd.clone())).await.0, StatusCode::ACCEPTED);

    // The same JSON written otherwise, under the signature of the first.
    let mut request = signed("issues", "2", odd);
    *request.body_mut() = Body::from(serde_json::to_vec(&payload).unwrap());
    assert_eq!(send(&rig, request).await.0, StatusCode::UNAUTHORIZED);
    rig.intake.only_request();
}

#[tokio::test]
async fn every_bad_signature_gets_the_same_answer_and_nothing_is_read() {
    let rig = rig();
    let body = serde_json::to_vec(&labelled()).unwrap();
    let good = sign(SECRET, &body);
    let mut answers = Vec::new();
    for signature in [
        None,
        Some(String::new()),
        Some(good.replace("sha256=", "sha1=")),
        Some(good.to_uppercase()),
        Some(good[..good.len() - 1].to_owned()),
        Some("sha256=".to_owned() + &"0".repeat(64)),
        Some("x".repeat(10_000)),
        Some(sign("another secret", &body)),
        Some(sign("", &body)),
    ] {
        let mut request = signed("issues", "1", body.clone());
        match signature {
            Some(signature) => request.headers_mut().insert("X-Hub-Signature-256", signature.parse().unwrap()),
            None => request.headers_mut().remove("X-Hub-Signature-256"),
        };
        answers.push(send(&rig, request).await);
        // A body that nobody can read is refused in the same words.
        let mut request = signed("issues", "1", "{not json");
        request.headers_mut().insert("X-Hub-Signature-256", good.parse().unwrap());
        answers.push(send(&rig, request).await);
    }
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert!(rig.intake.is_untouched());
}

#[tokio::test]
async fn a_missing_delivery_id_is_told_only_to_who_knows_the_secret() {
    let rig = rig();
    for name in ["X-GitHub-Delivery", "X-GitHub-Event"] {
        let mut request = delivery("issues", &labelled());
        request.headers_mut().remove(name);
        assert_eq!(send(&rig, request).await.0, StatusCode::BAD_REQUEST);
        let mut request = delivery("issues", &labelled());
        request.headers_mut().remove(name);
        request.headers_mut().remove("X-Hub-Signature-256");
        assert_eq!(send(&rig, request).await.0, StatusCode::UNAUTHORIZED);
    }
    assert!(rig.intake.is_untouched());
}

#[tokio::test]
async fn what_asks_for_nothing_is_taken_and_forgotten() {
    let rig = rig();
    let with = |path: &str, value: Value| {
        let mut payload = labelled();
        *payload.pointer_mut(path).unwrap() = value;
        payload
    };
    let mut of_pull_request = labelled();
    of_pull_request["issue"]["pull_request"] = json!({"url": "https://forge.example"});
    let mut ignored = Vec::new();
    for (event, payload) in [
        ("issues", with("/action", json!("opened"))),
        ("issues", with("/action", json!("an_action_of_tomorrow"))),
        ("issues", with("/label/name", json!("bug"))),
        ("issues", with("/label", Value::Null)),
        ("issues", with("/issue/state", json!("closed"))),
        ("issues", of_pull_request),
        ("issues", with("/sender/type", json!("Bot"))),
        ("issues", with("/repository/full_name", json!("../../etc/passwd"))),
        ("issues", with("/issue/number", json!(-1))),
        ("issues", with("/issue/number", json!(1e30))),
        ("issues", with("/sender/id", json!("583231"))),
        ("issues", json!({})),
        ("issues", json!([1, 2, 3])),
        ("issues", Value::Null),
        ("push", json!({"ref": "refs/heads/main"})),
        ("an_event_of_tomorrow", json!("text")),
    ] {
        let (status, answer) = send(&rig, delivery(event, &payload)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{event} {payload}");
        ignored.push(answer["ignored"].as_str().unwrap_or_else(|| panic!("{event} {payload}: {answer}")).to_owned());
    }
    ignored.dedup();
    insta::assert_debug_snapshot!(ignored, @r#"
    [
        "the action asks for nothing",
        "another label was set",
        "the issue is not open",
        "that is a pull request, not an issue",
        "a bot that is not allowed to ask did it",
        "the payload has not the shape of its event",
        "the event is not used",
    ]
    "#);
    assert!(rig.intake.is_untouched());
    assert_eq!(send(&rig, delivery("ping", &json!({"zen": "Keep it logically awesome."}))).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_listed_bot_may_ask_and_is_known_by_its_number_not_its_name() {
    let rig = rig_with(Mood::Well, DoorConfig { allowed_bots: vec![49_699_333], ..config() }, Limits::default());
    let mut payload = labelled();
    payload["sender"] = json!({"login": "helper[bot]", "id": 1, "type": "Bot"});
    assert!(send(&rig, delivery("issues", &payload)).await.1["ignored"].is_string());
    payload["sender"] = json!({"login": "other[bot]", "id": 49_699_333, "type": "Bot"});
    assert!(send(&rig, delivery("issues", &payload)).await.1["task"].is_string());
}

#[tokio::test]
async fn only_configured_repositories_may_ask() {
    let repositories = vec!["acme/api".into(), "other/*".into()];
    let rig = rig_with(Mood::Well, DoorConfig { repositories, ..config() }, Limits::default());
    let mut payload = labelled();
    assert!(send(&rig, delivery("issues", &payload)).await.1["ignored"].is_string());
    payload["repository"]["full_name"] = json!("Other/Thing");
    assert!(send(&rig, delivery("issues", &payload)).await.1["task"].is_string());
}

#[tokio::test]
async fn changes_outside_are_observed_under_the_id_of_their_delivery() {
    let rig = rig();
    let pull_request = |action: &str, merged: bool| {
        json!({
            "action": action, "number": 13, "pull_request": {"number": 13, "merged": merged},
            "repository": {"full_name": "acme/web"}, "sender": {"login": "ada", "id": 583_231, "type": "User"},
        })
    };
    let issue = |action: &str| {
        let mut payload = labelled();
        payload["action"] = json!(action);
        payload
    };
    let mut other_label = issue("unlabeled");
    other_label["label"]["name"] = json!("bug");
    for (n, (event, payload)) in [
        ("pull_request", pull_request("closed", true)),
        ("pull_request", pull_request("closed", false)),
        ("pull_request", pull_request("reopened", false)),
        ("pull_request", pull_request("synchronize", false)),
        ("issues", issue("unlabeled")),
        ("issues", other_label),
        ("issues", issue("closed")),
    ]
    .into_iter()
    .enumerate()
    {
        let request = signed(event, &format!("id-{n}"), serde_json::to_vec(&payload).unwrap());
        assert_eq!(send(&rig, request).await.0, StatusCode::ACCEPTED);
    }
    let repo: tasks::RepoName = "acme/web".parse().unwrap();
    let withdrawn = Change::IssueWithdrawn {
        repo: repo.clone(),
        issue: 12,
        by: tasks::Actor { login: "ada".into(), id: Some(583_231) },
    };
    let seen = rig.intake.changes.lock().unwrap();
    let seen: Vec<_> = seen.iter().map(|(key, change)| (key.as_str(), change.clone())).collect();
    let expected = [
        ("github:id-0", Change::PullRequestMerged { repo: repo.clone(), number: 13 }),
        ("github:id-1", Change::PullRequestClosed { repo: repo.clone(), number: 13 }),
        ("github:id-2", Change::PullRequestReopened { repo, number: 13 }),
        ("github:id-4", withdrawn.clone()),
        ("github:id-6", withdrawn),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn nothing_is_acknowledged_that_was_not_stored() {
    for (mood, status) in [
        (Mood::Full, StatusCode::SERVICE_UNAVAILABLE),
        (Mood::Closing, StatusCode::SERVICE_UNAVAILABLE),
        (Mood::Hangs, StatusCode::SERVICE_UNAVAILABLE),
        (Mood::Confused, StatusCode::INTERNAL_SERVER_ERROR),
        (Mood::Panics, StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let rig = rig_with(mood, config(), Limits { intake_timeout: Duration::from_millis(50), ..Limits::default() });
        let mut closed = labelled();
        closed["action"] = json!("closed");
        for payload in [labelled(), closed] {
            let (answered, answer) = send(&rig, delivery("issues", &payload)).await;
            assert_eq!(answered, status, "{mood:?}");
            assert!(!answer.to_string().contains("space left"), "no word of ours about the inside: {answer}");
        }
    }
}

#[tokio::test]
async fn what_is_not_json_is_refused_after_its_signature() {
    let rig = rig();
    for body in ["", "{", "payload=%7B%7D", "\u{feff}{}", "{}{}", "\0"] {
        for event in ["issues", "pull_request", "push"] {
            assert_eq!(send(&rig, signed(event, "1", body)).await.0, StatusCode::BAD_REQUEST, "{event} {body:?}");
        }
    }
    let mut form = signed("ping", "1", "payload=%7B%7D");
    form.headers_mut().insert(header::CONTENT_TYPE, "application/x-www-form-urlencoded".parse().unwrap());
    let (status, answer) = send(&rig, form).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(answer["detail"], "Set the webhook's content type to application/json.");
}

/// Pieces without an announced length; at the end the sender hangs up or falls silent.
fn in_pieces(n_pieces: usize, hangs_up: bool) -> Body {
    let pieces = stream::iter((0..n_pieces).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[b'1'; 100]))));
    match hangs_up {
        true => Body::from_stream(pieces.chain(stream::iter([Err(std::io::ErrorKind::ConnectionReset.into())]))),
        false => Body::from_stream(pieces.chain(stream::pending())),
    }
}

#[tokio::test]
async fn a_body_is_bounded_in_size_and_time() {
    let limits = Limits { body_bytes: 1000, body_timeout: Duration::from_millis(50), ..Limits::default() };
    let rig = rig_with(Mood::Well, config(), limits);
    assert_eq!(send(&rig, signed("push", "1", vec![b'1'; 1000])).await.0, StatusCode::ACCEPTED);
    assert_eq!(send(&rig, signed("push", "1", vec![b'1'; 1001])).await.0, StatusCode::PAYLOAD_TOO_LARGE);

    let mut announced = signed("push", "1", "1");
    announced.headers_mut().insert(header::CONTENT_LENGTH, "26000000".parse().unwrap());
    *announced.body_mut() = in_pieces(0, false);
    assert_eq!(send(&rig, announced).await.0, StatusCode::PAYLOAD_TOO_LARGE, "not a byte of it is waited for");

    for (body, status) in [
        (in_pieces(11, false), StatusCode::PAYLOAD_TOO_LARGE),
        (in_pieces(3, false), StatusCode::REQUEST_TIMEOUT),
        (in_pieces(3, true), StatusCode::BAD_REQUEST),
    ] {
        let mut request = signed("push", "1", "1");
        *request.body_mut() = body;
        assert_eq!(send(&rig, request).await.0, status);
    }
    assert!(rig.intake.is_untouched());
}

#[tokio::test]
async fn texts_longer_than_any_issue_are_cut() {
    let rig = rig();
    let mut payload = labelled();
    payload["issue"]["title"] = json!("é".repeat(10_000));
    payload["issue"]["body"] = json!("é".repeat(1_000_000));
    assert_eq!(send(&rig, delivery("issues", &payload)).await.0, StatusCode::ACCEPTED);
    let instruction = rig.intake.only_request().instruction;
    assert_eq!((instruction.title.len(), instruction.body.len()), (1024, 256 * 1024));

    payload["issue"]["body"] = Value::Null;
    assert_eq!(send(&rig, signed("issues", "another", payload.to_string())).await.0, StatusCode::ACCEPTED);
}

fn talk(event: &str, payload: &Value) -> Request<Body> {
    signed(event, "72d3162e-cc78-11e3-81ab-4c9367dc0958", serde_json::to_vec(payload).unwrap())
}

fn commented(text: &str) -> Value {
    let mut payload = labelled();
    payload["action"] = json!("created");
    payload["comment"] = json!({"id": 77, "body": text, "user": payload["sender"]});
    payload
}

#[tokio::test]
async fn a_comment_is_stored_as_what_it_asks_for_and_nothing_is_done_yet() {
    let rig = rig();
    assert_eq!(send(&rig, talk("issue_comment", &commented("/onramp fix the pager"))).await.0, StatusCode::ACCEPTED);
    let changes = rig.intake.changes.lock().unwrap().clone();
    let [(_, Change::Asked(asked))] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((asked.number, asked.comment, asked.on_pull_request), (12, Some(77), false));
    assert_eq!(asked.command, tasks::Command::Run { text: "the pager".into() });
    assert_eq!(asked.by, tasks::Actor { login: "ada".into(), id: Some(583_231) });
    assert!(rig.intake.stored.lock().unwrap().is_empty(), "whether they may was not asked yet");
}

#[tokio::test]
async fn what_is_said_without_asking_is_forgotten() {
    let rig = rig();
    let edited = {
        let mut payload = commented("/onramp stop");
        payload["action"] = json!("edited");
        payload
    };
    let by_a_bot = {
        let mut payload = commented("/onramp stop");
        payload["sender"]["type"] = json!("Bot");
        payload
    };
    let by_another = {
        let mut payload = commented("/onramp stop");
        payload["comment"]["user"]["id"] = json!(1);
        payload
    };
    let review = |state: &str, body: &str| {
        let mut payload = labelled();
        payload["action"] = json!("submitted");
        payload["pull_request"] = json!({"number": 12});
        payload["review"] = json!({"id": 5, "state": state, "body": body});
        payload
    };
    let on_pull = |text: &str| {
        let mut payload = commented(text);
        payload["issue"]["pull_request"] = json!({});
        payload
    };
    let line_comment = {
        let mut payload = on_pull("why?");
        payload["pull_request"] = json!({"number": 12});
        payload
    };
    let suite = |conclusion: &str, numbers: Value| {
        let mut payload = labelled();
        payload["action"] = json!("completed");
        payload["check_suite"] =
            json!({"head_sha": "a".repeat(40), "conclusion": conclusion, "pull_requests": numbers});
        payload
    };
    let push = |name: &str| {
        let mut payload = labelled();
        payload["repository"]["default_branch"] = json!("main");
        payload["ref"] = json!(name);
        payload
    };
    for (event, payload) in [
        ("issue_comment", edited),
        ("issue_comment", by_a_bot),
        ("issue_comment", by_another),
        ("issue_comment", commented("what does /onramp do?")),
        ("issue_comment", on_pull("<!-- onramp:stale=1 -->\nNobody has done anything")),
        ("check_suite", suite("success", json!([{"number": 3}]))),
        ("check_suite", suite("failure", json!([]))),
        ("push", push("refs/heads/feature")),
        ("push", push("refs/tags/main")),
    ] {
        let (status, answer) = send(&rig, talk(event, &payload)).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        assert!(answer["ignored"].is_string(), "{event}: {answer}");
    }
    for (event, payload) in [
        ("pull_request_review", review("changes_requested", "")),
        ("pull_request_review", review("commented", "@onramp look")),
        ("pull_request_review", review("commented", "Nice.")),
        ("pull_request_review", review("approved", "Nice.")),
        ("issue_comment", on_pull("Nice.")),
        ("pull_request_review_comment", line_comment),
        ("check_suite", suite("failure", json!([{"number": 3}]))),
        ("push", push("refs/heads/main")),
    ] {
        let (_, answer) = send(&rig, talk(event, &payload)).await;
        assert!(answer["observed"].is_string(), "{event}: {answer}");
    }
    assert!(rig.intake.stored.lock().unwrap().is_empty());
}
