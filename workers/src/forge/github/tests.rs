//! Against a small GitHub over a socket: it keeps pull requests and comments, and fails by script.

use std::sync::Arc;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tasks::{CommitSha, Timestamp};

use super::*;
use crate::fence::Fence;

const CANARY: &str = "ghp_canary0123456789abcdef";
const MARKER: &str = "<!-- onramp:task=1 -->";

/// What the small GitHub knows and has seen.
#[derive(Default)]
struct World {
    /// Method, path with query, bearer, body.
    calls: Vec<(Method, String, String, Value)>,
    pulls: Vec<Value>,
    comments: Vec<Value>,
    labels: Vec<Value>,
    asked: Vec<Value>,
    reviews: Vec<Value>,
    tokens_made: u64,
    token_lives_seconds: i64,
    /// Answers to give in place of the right one: method, a piece of the path, what, how often.
    faults: Vec<(Method, &'static str, Fault, usize)>,
}

type Headers = &'static [(&'static str, &'static str)];

#[derive(Clone)]
enum Fault {
    /// Does nothing and says this.
    Says(u16, Headers, String),
    /// Does it and answers 502.
    Lost,
    /// Never answers.
    Silent,
}

struct GitHub {
    url: String,
    world: Arc<Mutex<World>>,
}

impl GitHub {
    async fn start() -> Self {
        let world = Arc::new(Mutex::new(World { token_lives_seconds: 3600, ..World::default() }));
        let shared = Arc::clone(&world);
        let app = axum::Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let world = Arc::clone(&shared);
            async move {
                let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
                let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let answer = world.lock().unwrap().answer(method, &uri, bearer, body);
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, world }
    }

    fn fault(&self, method: Method, piece: &'static str, fault: Fault, times: usize) {
        self.world().faults.push((method, piece, fault, times));
    }

    fn says(&self, method: Method, piece: &'static str, status: u16, body: &str) {
        self.fault(method, piece, Fault::Says(status, &[], body.to_owned()), 1);
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// How often `method` was called on paths that hold `piece`.
    fn n_calls(&self, method: &Method, piece: &str) -> usize {
        self.world().calls.iter().filter(|(m, path, ..)| m == method && path.contains(piece)).count()
    }

    fn with(&self, path: &str, credentials: Credentials) -> GitHubForge {
        let config = GitHubConfig {
            api_url: format!("{}{path}", self.url),
            git_url: None,
            credentials,
            write_pause: Duration::ZERO,
        };
        let mut forge = GitHubForge::new(config).unwrap();
        forge.settle = Duration::from_millis(5);
        forge
    }

    fn forge(&self) -> GitHubForge {
        self.with("", Credentials::Token(CANARY.to_owned().into()))
    }
}

impl World {
    fn answer(&mut self, method: Method, uri: &Uri, bearer: &str, body: Value) -> Option<Response> {
        let path = uri.path_and_query().unwrap().as_str().to_owned();
        self.calls.push((method.clone(), path.clone(), bearer.to_owned(), body.clone()));
        let fault = self.faults.iter_mut().find(|(m, piece, _, left)| *left > 0 && m == method && path.contains(piece));
        let fault = fault.map(|(_, _, fault, left)| {
            *left -= 1;
            fault.clone()
        });
        match fault {
            None => Some(self.right_answer(&method, &path, body)),
            Some(Fault::Silent) => None,
            Some(Fault::Lost) => {
                self.right_answer(&method, &path, body);
                Some((StatusCode::BAD_GATEWAY, "Bad Gateway").into_response())
            }
            Some(Fault::Says(status, headers, text)) => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(*name, *value);
                }
                Some(response.body(Body::from(text)).unwrap())
            }
        }
    }

    fn right_answer(&mut self, method: &Method, path: &str, body: Value) -> Response {
        let path = path.strip_prefix("/api/v3").unwrap_or(path);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let ok = |value: Value| axum::Json(value).into_response();
        let repository = json!({
            "id": 42, "full_name": "acme/web", "default_branch": "trunk",
            "permissions": {"admin": false, "maintain": false, "push": true, "triage": true, "pull": true},
        });
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["user"]) => ok(json!({"id": 7, "login": "onramp-user"})),
            ("GET", ["app"]) => ok(json!({"id": 99, "slug": "onramp"})),
            ("GET", ["repos", _, "web"]) => ok(repository),
            ("GET", ["repos", _, "web", "installation"]) => ok(json!({"id": 5})),
            ("POST", ["app", "installations", "5", "access_tokens"]) => {
                self.tokens_made += 1;
                let now: Timestamp = std::time::SystemTime::now().into();
                let expires_at = now + chrono::Duration::seconds(self.token_lives_seconds);
                ok(json!({"token": format!("ghs_canary{}", self.tokens_made), "expires_at": expires_at}))
            }
            ("GET", ["repos", _, "web", "collaborators", login, "permission"]) => match *login {
                "ada" => {
                    ok(json!({"permission": "write", "role_name": "maintain", "user": {"id": 70, "login": "ada"}}))
                }
                "eve" => ok(json!({"permission": "read", "role_name": "triage", "user": {"id": 71, "login": "eve"}})),
                "ghost" => ok(json!({"permission": "admin", "user": null})),
                _ => (StatusCode::NOT_FOUND, axum::Json(json!({"message": "Not Found"}))).into_response(),
            },
            // Like GitHub at its worst, the filter filters nothing.
            ("GET", ["repos", _, "web", "pulls"]) => ok(json!(self.pulls)),
            ("POST", ["repos", _, "web", "pulls"]) => {
                let number = self.pulls.len() as u64 + 100;
                let side = |name: &str| json!({"ref": body[name], "repo": {"id": 42}});
                self.pulls.push(json!({
                    "number": number, "html_url": format!("https://git.example/acme/web/pull/{number}"),
                    "title": body["title"], "body": body["body"], "draft": body["draft"],
                    "head": side("head"), "base": side("base"),
                }));
                (StatusCode::CREATED, axum::Json(self.pulls.last().unwrap())).into_response()
            }
            ("GET" | "PATCH", ["repos", _, "web", "pulls", number]) => {
                let pull = self.pulls.iter_mut().find(|pull| pull["number"].as_u64() == number.parse().ok()).unwrap();
                for (name, value) in body.as_object().into_iter().flatten() {
                    pull[name] = value.clone();
                }
                let mut shown = pull.clone();
                shown["requested_reviewers"] = json!(self.asked);
                ok(shown)
            }
            ("POST", ["repos", _, "web", "issues", _, "labels"]) => {
                let added = body["labels"].as_array().unwrap();
                self.labels.extend(added.iter().map(|name| json!({"name": name})));
                ok(json!(self.labels))
            }
            ("GET", ["repos", _, "web", "issues", _, "labels"]) => ok(json!(self.labels)),
            ("POST", ["repos", _, "web", "pulls", _, "requested_reviewers"]) => {
                let asked = body["reviewers"].as_array().unwrap();
                self.asked.extend(asked.iter().map(|login| json!({"login": login})));
                ok(json!({}))
            }
            ("GET", ["repos", _, "web", "pulls", _, "reviews"]) => ok(json!(self.reviews)),
            ("GET", ["repos", _, "web", "issues", _, "comments"]) => {
                let page: usize = query.rsplit_once("&page=").unwrap().1.parse().unwrap();
                ok(self.comments.iter().skip((page - 1) * 100).take(100).cloned().collect())
            }
            ("POST", ["repos", _, "web", "issues", issue, "comments"]) => {
                let comment = comment(self.comments.len() as u64 + 1, 7, body["body"].as_str().unwrap(), issue);
                self.comments.push(comment.clone());
                (StatusCode::CREATED, axum::Json(comment)).into_response()
            }
            ("PATCH", ["repos", _, "web", "issues", "comments", id]) => {
                let comment =
                    self.comments.iter_mut().find(|comment| comment["id"].as_u64() == id.parse().ok()).unwrap();
                comment["body"] = body["body"].clone();
                ok(comment.clone())
            }
            _ => (StatusCode::NOT_FOUND, axum::Json(json!({"message": "Not Found"}))).into_response(),
        }
    }
}

fn comment(id: u64, author: u64, body: &str, issue: &str) -> Value {
    json!({
        "id": id, "body": body, "user": {"id": author, "login": format!("user-{author}")},
        "html_url": format!("https://git.example/acme/web/issues/{issue}#issuecomment-{id}"),
    })
}

fn repo() -> RepoName {
    "acme/web".parse().unwrap()
}

fn actor(login: &str, id: u64) -> Actor {
    Actor { login: login.into(), id: Some(id) }
}

/// Opens the pull request that all these tests open, with this text.
async fn open(forge: &dyn Forge, body: &str) -> Result<PullRequest, Failure> {
    open_behind(forge, body, &Fence::open()).await
}

async fn open_behind(forge: &dyn Forge, body: &str, fence: &Fence) -> Result<PullRequest, Failure> {
    let (repo, branch, base) = (repo(), "onramp/12-fix-a1".parse().unwrap(), "trunk".parse().unwrap());
    let head: CommitSha = "a".repeat(40).parse().unwrap();
    let (labels, reviewers) = (["onramp".to_owned()], ["ada".to_owned()]);
    let new = NewPullRequest {
        repo: &repo,
        fence,
        branch: &branch,
        head: &head,
        base: &base,
        title: "Fix the pager",
        body,
        draft: true,
        labels: &labels,
        reviewers: &reviewers,
    };
    forge.pull_request(new).await
}

fn pem() -> String {
    armour("PRIVATE KEY", &key_der())
}

/// A key of this run of the tests, so that none lies in the repository.
fn key_der() -> Vec<u8> {
    static DER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let der: Pkcs8V1Der<'_> = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
        der.as_ref().to_vec()
    });
    DER.clone()
}

fn armour(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn app(pem: &str) -> Credentials {
    Credentials::App { id: 99, key: pem.to_owned().into() }
}

// ---- pull requests

#[tokio::test]
async fn a_pull_request_is_opened_with_everything_it_should_have() {
    let github = GitHub::start().await;
    let opened = open(&github.forge(), "Because.").await.unwrap();
    assert_eq!((opened.number, opened.url.as_str()), (100, "https://git.example/acme/web/pull/100"));
    let writes: Vec<_> = {
        let world = github.world();
        let writes = world.calls.iter().filter(|(method, ..)| method != Method::GET);
        writes.map(|(method, path, _, body)| format!("{method} {path} {body}")).collect()
    };
    insta::assert_snapshot!(writes.join("\n"), @r#"
    POST /repos/acme/web/pulls {"base":"trunk","body":"Because.","draft":true,"head":"onramp/12-fix-a1","title":"Fix the pager"}
    POST /repos/acme/web/issues/100/labels {"labels":["onramp"]}
    POST /repos/acme/web/pulls/100/requested_reviewers {"reviewers":["ada"]}
    "#);
}

#[tokio::test]
async fn opening_again_finds_the_pull_request_and_brings_its_text_up_to_date() {
    let github = GitHub::start().await;
    let forge = github.forge();
    let first = open(&forge, "Because.").await.unwrap();
    // GitHub shows other line ends than it was given; that is no difference.
    assert_eq!(open(&forge, "Because.\r\n").await.unwrap(), first);
    assert_eq!(github.n_calls(&Method::PATCH, "/pulls/100"), 0);
    assert_eq!(open(&forge, "Because of that.").await.unwrap(), first);
    assert_eq!(github.world().pulls[0]["body"], "Because of that.");
    assert_eq!(github.n_calls(&Method::POST, "/web/pulls"), 2, "one for the pull request, one for its reviewers");
}

#[tokio::test]
async fn a_pull_request_whose_answer_was_lost_is_found_and_not_opened_twice() {
    let github = GitHub::start().await;
    github.fault(Method::POST, "/web/pulls", Fault::Lost, 1);
    let opened = open(&github.forge(), "Because.").await.unwrap();
    assert_eq!(opened.number, 100);
    assert_eq!(github.world().pulls.len(), 1);
    let posts = github
        .world()
        .calls
        .iter()
        .filter(|(method, path, ..)| method == Method::POST && path.ends_with("/pulls"))
        .count();
    assert_eq!(posts, 1);
    assert_eq!(github.n_calls(&Method::POST, "requested_reviewers"), 1);
}

#[tokio::test]
async fn a_pull_request_that_never_gets_an_answer_is_left_for_later() {
    let github = GitHub::start().await;
    let mut forge = github.forge();
    forge.line.timeout = Duration::from_millis(300);
    github.fault(Method::POST, "/web/pulls", Fault::Silent, 9);
    let failure = open(&forge, "Because.").await.unwrap_err();
    assert_eq!(failure.code, Code::ForgeUnavailable);
    assert_eq!(github.n_calls(&Method::POST, "/web/pulls"), WRITES);
    // Before each of them, and after the first, it was looked for.
    assert_eq!(github.n_calls(&Method::GET, "/web/pulls"), WRITES);
}

#[tokio::test]
async fn nothing_is_opened_or_edited_without_the_lease() {
    let github = GitHub::start().await;
    let lost = crate::fence::tests::lost_lease();
    assert_eq!(open_behind(&github.forge(), "Because.", &lost).await.unwrap_err().code, Code::WorkerLost);
    assert!(github.world().pulls.is_empty());
    open(&github.forge(), "Because.").await.unwrap();
    let before = github.world().pulls.clone();
    assert_eq!(open_behind(&github.forge(), "Otherwise.", &lost).await.unwrap_err().code, Code::WorkerLost);
    assert_eq!(github.world().pulls, before);
}

#[tokio::test]
async fn somebody_elses_pull_request_is_not_taken_for_ours() {
    let github = GitHub::start().await;
    let side = |branch: &str, id: u64| json!({"ref": branch, "repo": {"id": id}});
    for (head, base) in [
        (side("onramp/12-fix-a1", 666), side("trunk", 42)),
        (side("other", 42), side("trunk", 42)),
        (side("onramp/12-fix-a1", 42), side("release", 42)),
        (json!({"ref": "onramp/12-fix-a1", "repo": null}), side("trunk", 42)),
    ] {
        github
            .world()
            .pulls
            .push(json!({"number": 1, "html_url": "x", "title": "t", "body": null, "head": head, "base": base}));
    }
    assert_eq!(open(&github.forge(), "Because.").await.unwrap().number, 104);
}

#[tokio::test]
async fn a_pull_request_that_somebody_closed_before_it_was_recorded_is_not_opened_again() {
    let ours = "a".repeat(40);
    for (merged, sha, adopted) in [(true, "b", true), (false, ours.as_str(), true), (false, "b", false)] {
        let github = GitHub::start().await;
        let forge = github.forge();
        let first = open(&forge, "Because.").await.unwrap();
        {
            let mut world = github.world();
            let pull = &mut world.pulls[0];
            pull["state"] = json!("closed");
            pull["head"]["sha"] = json!(sha);
            pull["merged_at"] = if merged { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        }
        let second = open(&forge, "Because of that.").await.unwrap();
        assert_eq!(second.number == first.number, adopted, "merged {merged}, {sha}");
        assert_eq!(github.n_calls(&Method::PATCH, "/pulls"), 0, "a closed one is left as it is");
    }
}

#[tokio::test]
async fn an_existing_pull_request_is_adopted_and_other_refusals_keep_githubs_reason() {
    let github = GitHub::start().await;
    let forge = github.forge();
    let refusal = |message: &str| format!(r#"{{"message":"Validation Failed","errors":[{{"message":"{message}"}}]}}"#);
    github.says(Method::POST, "/web/pulls", 422, &refusal("No commits between trunk and onramp/12-fix-a1"));
    let failure = open(&forge, "Because.").await.unwrap_err();
    insta::assert_snapshot!(failure, @"GitHub refused to open a pull request in acme/web: Validation Failed; No commits between trunk and onramp/12-fix-a1 (E053)");

    github.says(
        Method::POST,
        "/web/pulls",
        422,
        r#"{"message":"Validation Failed","errors":[{"field":"base","code":"invalid"}]}"#,
    );
    let failure = open(&forge, "Because.").await.unwrap_err();
    assert!(failure.message.ends_with("Validation Failed; base is invalid"), "{failure}");

    github.says(Method::POST, "/web/pulls", 422, &refusal("Draft pull requests are not supported in this repository."));
    let failure = open(&forge, "Because.").await.unwrap_err();
    assert!(failure.next_step.contains("draft = false"), "{failure:?}");

    // The list did not show it yet; then it does.
    let opened = open(&forge, "Because.").await.unwrap();
    github.says(Method::GET, "/web/pulls?", 200, "[]");
    github.says(Method::POST, "/web/pulls", 422, &refusal("A pull request already exists for acme:onramp/12-fix-a1."));
    assert_eq!(open(&forge, "Because.").await.unwrap(), opened);
}

#[tokio::test]
async fn labels_and_reviewers_whose_answer_was_lost_are_looked_up_before_they_are_asked_for_again() {
    for (piece, other) in [("/labels", "/requested_reviewers"), ("/requested_reviewers", "/labels")] {
        let github = GitHub::start().await;
        github.fault(Method::POST, piece, Fault::Lost, 1);
        open(&github.forge(), "Because.").await.unwrap();
        assert_eq!((github.n_calls(&Method::POST, piece), github.n_calls(&Method::POST, other)), (1, 1));
        let world = github.world();
        assert_eq!((world.labels.len(), world.asked.len()), (1, 1));
    }
    // Not done: done the second time.
    let github = GitHub::start().await;
    github.says(Method::POST, "/labels", 502, "Bad Gateway");
    open(&github.forge(), "Because.").await.unwrap();
    assert_eq!((github.n_calls(&Method::POST, "/labels"), github.world().labels.len()), (2, 1));
}

#[tokio::test]
async fn a_worker_that_died_after_opening_is_followed_by_one_that_sets_what_is_missing_and_no_more() {
    let github = GitHub::start().await;
    let forge = github.forge();
    open(&forge, "Because.").await.unwrap();
    for (labelled, asked, reviewed) in
        [(false, false, false), (true, false, false), (true, true, false), (true, false, true)]
    {
        {
            let mut world = github.world();
            world.labels = labelled.then(|| json!({"name": "Onramp"})).into_iter().collect();
            world.asked = asked.then(|| json!({"login": "Ada"})).into_iter().collect();
            world.reviews = reviewed.then(|| json!({"user": {"login": "ada"}})).into_iter().collect();
            world.calls.clear();
        }
        open(&forge, "Because.").await.unwrap();
        let labels = github.n_calls(&Method::POST, "/labels");
        let reviewers = github.n_calls(&Method::POST, "/requested_reviewers");
        assert_eq!((labels, reviewers), (usize::from(!labelled), usize::from(!asked && !reviewed)));
    }
}

#[tokio::test]
async fn an_edit_whose_answer_was_lost_is_looked_at_and_not_made_twice() {
    let github = GitHub::start().await;
    let forge = github.forge();
    open(&forge, "Because.").await.unwrap();
    github.fault(Method::PATCH, "/pulls/100", Fault::Lost, 1);
    open(&forge, "Because of that.").await.unwrap();
    assert_eq!(github.n_calls(&Method::PATCH, "/pulls/100"), 1);
    github.says(Method::PATCH, "/pulls/100", 502, "Bad Gateway");
    open(&forge, "Because of this.").await.unwrap();
    assert_eq!(github.n_calls(&Method::PATCH, "/pulls/100"), 3);
    assert_eq!(github.world().pulls[0]["body"], "Because of this.");
}

#[tokio::test]
async fn labels_and_reviewers_that_cannot_be_set_do_not_fail_the_pull_request() {
    let github = GitHub::start().await;
    github.says(Method::POST, "/labels", 403, r#"{"message":"Resource not accessible"}"#);
    github.says(Method::POST, "/requested_reviewers", 422, r#"{"message":"not a collaborator"}"#);
    assert!(open(&github.forge(), "Because.").await.is_ok());
}

#[tokio::test]
async fn a_text_that_is_too_long_is_cut_where_a_character_ends() {
    let github = GitHub::start().await;
    open(&github.forge(), &"é".repeat(70_000)).await.unwrap();
    let body = github.world().pulls[0]["body"].as_str().unwrap().to_owned();
    assert_eq!(body.chars().count(), 65_536);
    assert!(body.trim_end().ends_with("é\n\n… (cut)"), "{:?}", &body[body.len() - 20..]);
    let kept = fitting(&format!("{}{MARKER}", "x".repeat(200)), 100, MARKER);
    assert!(kept.ends_with(MARKER) && kept.chars().count() == 100, "{kept}");
}

// ---- comments

#[tokio::test]
async fn the_status_comment_is_written_once_and_then_edited_in_place() {
    let github = GitHub::start().await;
    let forge = github.forge();
    let text = |status: &str| format!("{MARKER}\n{status}");
    let url = forge.status_comment(&repo(), 12, MARKER, &text("Working on it")).await.unwrap();
    assert_eq!(url, "https://git.example/acme/web/issues/12#issuecomment-1");
    assert_eq!(forge.status_comment(&repo(), 12, MARKER, &text("Working on it")).await.unwrap(), url);
    assert_eq!(github.n_calls(&Method::PATCH, "/comments/1"), 0, "nothing had changed");
    assert_eq!(forge.status_comment(&repo(), 12, MARKER, &text("Done")).await.unwrap(), url);
    let world = github.world();
    assert_eq!((world.comments.len(), &world.comments[0]["body"]), (1, &json!(text("Done"))));
}

#[tokio::test]
async fn a_comment_whose_answer_was_lost_is_found_and_not_written_twice() {
    let github = GitHub::start().await;
    github.fault(Method::POST, "/comments", Fault::Lost, 1);
    let url = github.forge().status_comment(&repo(), 12, MARKER, MARKER).await.unwrap();
    assert!(url.ends_with("#issuecomment-1"), "{url}");
    assert_eq!(github.world().comments.len(), 1);
    assert_eq!(github.n_calls(&Method::POST, "/comments"), 1);
}

#[tokio::test]
async fn a_marker_in_somebody_elses_comment_means_nothing_and_every_page_is_read() {
    let github = GitHub::start().await;
    {
        let mut world = github.world();
        world.comments.push(comment(1, 666, MARKER, "12"));
        world.comments.extend((2..=230).map(|id| comment(id, 7, "chat", "12")));
        world.comments.push(comment(231, 7, &format!("old {MARKER}"), "12"));
    }
    let url = github.forge().status_comment(&repo(), 12, MARKER, &format!("new {MARKER}")).await.unwrap();
    assert!(url.ends_with("#issuecomment-231"), "{url}");
    assert_eq!(github.world().comments[0]["body"], MARKER);
    assert_eq!(github.n_calls(&Method::GET, "per_page=100&page=3"), 1);
}

#[tokio::test]
async fn credentials_that_may_not_ask_who_they_are_write_their_own_comment() {
    let github = GitHub::start().await;
    github.says(Method::GET, "/user", 403, r#"{"message":"Resource not accessible by integration"}"#);
    github.says(Method::PATCH, "/comments/1", 403, r#"{"message":"Must have admin rights"}"#);
    github.world().comments.push(comment(1, 666, MARKER, "12"));
    let url = github.forge().status_comment(&repo(), 12, MARKER, &format!("new {MARKER}")).await.unwrap();
    assert!(url.ends_with("#issuecomment-2"), "{url}");
}

// ---- permissions

#[tokio::test]
async fn a_permission_counts_only_for_the_account_that_asked() {
    let github = GitHub::start().await;
    let forge = github.forge();
    let ask = async |login: &str, id| forge.permission(&repo(), &actor(login, id)).await;
    assert_eq!(ask("ada", 70).await, Ok(Permission::Write));
    assert_eq!(ask("eve", 71).await, Ok(Permission::Read));
    assert_eq!(ask("nobody", 1).await, Ok(Permission::None));
    assert_eq!(ask("renovate[bot]", 1).await, Ok(Permission::None));
    assert_eq!(github.n_calls(&Method::GET, "/collaborators/renovate%5Bbot%5D/permission"), 1);
    for (login, id) in [("ada", 71), ("ghost", 0), ("ghost", 72)] {
        let failure = ask(login, id).await.unwrap_err();
        assert_eq!(failure.code, Code::PermissionDenied, "{login}");
        assert!(failure.message.contains("is not the one that is called"), "{failure}");
    }
}

#[tokio::test]
async fn an_error_is_never_a_yes_and_an_odd_login_is_never_sent() {
    let github = GitHub::start().await;
    let forge = github.forge();
    github.fault(Method::GET, "/permission", Fault::Says(500, &[], "<html>Unicorn</html>".into()), 3);
    let failure = forge.permission(&repo(), &actor("ada", 70)).await.unwrap_err();
    assert_eq!(
        (failure.code, failure.detail.as_deref()),
        (Code::ForgeUnavailable, Some("status 500: a page in place of an answer"))
    );
    assert_eq!(github.n_calls(&Method::GET, "/permission"), 3, "a read is tried again");
    // After a hiccup the answer counts.
    github.fault(Method::GET, "/permission", Fault::Says(502, &[], String::new()), 1);
    assert_eq!(forge.permission(&repo(), &actor("ada", 70)).await, Ok(Permission::Write));
    // A page with status 200 is no answer either.
    github.fault(Method::GET, "/permission", Fault::Says(200, &[], "<html>Log in</html>".into()), 3);
    assert_eq!(forge.permission(&repo(), &actor("ada", 70)).await.unwrap_err().code, Code::ForgeUnavailable);
    let before = github.n_calls(&Method::GET, "/permission");
    for login in ["", "../../user", "ada/permission?x=", "ada%2f..", "a b", "ada\n", "[bot]", "ądа"] {
        let failure = forge.permission(&repo(), &actor(login, 70)).await.unwrap_err();
        assert_eq!(failure.code, Code::PermissionDenied, "{login:?}");
    }
    assert_eq!(github.n_calls(&Method::GET, "/permission"), before);
}

#[tokio::test]
async fn the_person_at_the_command_line_may_do_what_their_token_may() {
    let github = GitHub::start().await;
    let forge = github.forge();
    let person = Actor { login: "me".into(), id: None };
    assert_eq!(forge.permission(&repo(), &person).await, Ok(Permission::Write));
    github.says(Method::GET, "/repos/acme/web", 200, r#"{"id":42,"full_name":"acme/web","default_branch":"trunk"}"#);
    assert_eq!(forge.permission(&repo(), &person).await.unwrap_err().code, Code::PermissionDenied);
}

// ---- apps, addresses, names

#[tokio::test]
async fn the_tokens_of_an_app_are_good_for_one_repository_and_no_more_than_what_they_are_for() {
    let github = GitHub::start().await;
    let forge = github.with("", app(&pem()));
    let task = forge.for_task().unwrap();
    let remote = task.remote(&repo()).await.unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&remote.token.unwrap()), "ghs_canary2");
    open(task.as_ref(), "Because.").await.unwrap();
    task.default_branch(&repo()).await.unwrap();
    forge.default_branch(&repo()).await.unwrap();
    task.close().await;
    let world = github.world();
    let made: Vec<_> =
        world.calls.iter().filter(|(_, path, ..)| path.ends_with("/access_tokens")).map(|call| &call.3).collect();
    // The first one only asks for the number of the repository.
    assert_eq!(
        made,
        [
            &json!({"repositories": ["web"], "permissions": {"metadata": "read"}}),
            &json!({
                "repository_ids": [42],
                "permissions": {"contents": "write", "pull_requests": "write", "metadata": "read"},
            }),
            &json!({
                "repository_ids": [42],
                "permissions": {"contents": "read", "pull_requests": "write", "issues": "write", "metadata": "read"},
            }),
        ]
    );
    let by = |piece: &str| {
        let calls = world.calls.iter().filter(|(_, path, ..)| path.contains(piece));
        calls.map(|(_, _, bearer, _)| bearer.as_str()).collect::<Vec<_>>()
    };
    assert!(by("/pulls").iter().all(|bearer| *bearer == "Bearer ghs_canary2"));
    assert_eq!(
        by("/installation/token"),
        ["Bearer ghs_canary1", "Bearer ghs_canary2"],
        "what is done with is taken back"
    );
    assert!(github.forge().for_task().is_none(), "a personal token is what it is");
}

#[tokio::test]
async fn a_token_that_is_about_to_expire_or_was_refused_is_replaced() {
    let github = GitHub::start().await;
    let forge = github.with("", app(&pem()));
    github.world().token_lives_seconds = 299;
    forge.default_branch(&repo()).await.unwrap();
    forge.default_branch(&repo()).await.unwrap();
    assert_eq!(github.world().tokens_made, 3, "one to look, one for each use");
    github.world().token_lives_seconds = 3600;
    forge.default_branch(&repo()).await.unwrap();
    forge.default_branch(&repo()).await.unwrap();
    assert_eq!(github.world().tokens_made, 4);
    github.says(Method::GET, "/repos/acme/web", 401, r#"{"message":"Bad credentials"}"#);
    let failure = forge.default_branch(&repo()).await.unwrap_err();
    insta::assert_snapshot!(failure, @"GitHub refused the credentials: Bad credentials (E050)");
    forge.default_branch(&repo()).await.unwrap();
    assert_eq!(github.world().tokens_made, 5);
}

#[tokio::test]
async fn a_repository_without_the_app_and_an_app_without_the_rights_are_told_apart() {
    let github = GitHub::start().await;
    let forge = github.with("", app(&pem()));
    let failure = forge.remote(&"acme/other".parse().unwrap()).await.unwrap_err();
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::RepositoryNotFound, "The app is not installed on acme/other, or there is no such repository")
    );
    github.says(
        Method::POST,
        "/access_tokens",
        422,
        r#"{"message":"The permissions requested are not granted to this installation."}"#,
    );
    let failure = forge.remote(&repo()).await.unwrap_err();
    assert_eq!(failure.code, Code::PermissionDenied);
    assert!(failure.next_step.contains("contents, issues and pull requests"), "{failure:?}");
}

#[tokio::test]
async fn a_comment_of_the_app_is_known_by_the_app_and_not_by_its_looks() {
    let github = GitHub::start().await;
    {
        let mut world = github.world();
        let mut copied = comment(1, 5, MARKER, "12");
        copied["performed_via_github_app"] = json!({"id": 1000});
        copied["user"]["login"] = json!("onramp[bot]");
        let mut ours = comment(2, 5, MARKER, "12");
        ours["performed_via_github_app"] = json!({"id": 99});
        world.comments.extend([copied, ours]);
    }
    let forge = github.with("", app(&pem()));
    let url = forge.status_comment(&repo(), 12, MARKER, &format!("new {MARKER}")).await.unwrap();
    assert!(url.ends_with("#issuecomment-2"), "{url}");
}

#[tokio::test]
async fn an_enterprise_server_is_asked_below_its_base_path() {
    let github = GitHub::start().await;
    let forge = github.with("/api/v3/", Credentials::Token(CANARY.to_owned().into()));
    let remote = forge.remote(&repo()).await.unwrap();
    assert_eq!(remote.url, format!("{}/acme/web.git", github.url));
    forge.status_comment(&repo(), 12, MARKER, MARKER).await.unwrap();
    open(&forge, "Because.").await.unwrap();
    let world = github.world();
    assert!(world.calls.len() > 6);
    for (_, path, bearer, _) in &world.calls {
        assert!(path.starts_with("/api/v3/") && bearer == &format!("Bearer {CANARY}"), "{path}");
    }
}

#[test]
fn the_address_of_git_follows_from_that_of_the_api() {
    let git_url = |api: &str| {
        let credentials = Credentials::Token(CANARY.to_owned().into());
        GitHubForge::new(GitHubConfig { api_url: api.into(), ..GitHubConfig::new(credentials) })
            .map(|forge| forge.git_url)
    };
    assert_eq!(git_url("https://api.github.com").unwrap(), "https://github.com");
    assert_eq!(git_url("https://git.acme.example/api/v3/").unwrap(), "https://git.acme.example");
    assert_eq!(git_url("https://api.acme.ghe.com").unwrap(), "https://acme.ghe.com");
    assert_eq!(git_url("http://127.0.0.1:3000").unwrap(), "http://127.0.0.1:3000");
    for bad in ["", "github.com", "ftp://x", "https://", "https://me:canary@x.example", "https://x.example?a=b"] {
        let failure = git_url(bad).unwrap_err();
        assert_eq!(failure.code, Code::BadConfig, "{bad}");
        assert!(!format!("{failure:?}").contains("canary"));
    }
}

#[tokio::test]
async fn a_renamed_repository_is_followed_when_read_and_written_under_its_new_name() {
    let github = GitHub::start().await;
    github.fault(
        Method::GET,
        "/repos/old/name",
        Fault::Says(301, &[("location", "/repos/acme/web")], String::new()),
        9,
    );
    let forge = github.forge();
    let old: RepoName = "old/name".parse().unwrap();
    assert!(forge.remote(&old).await.unwrap().url.ends_with("/acme/web.git"));
    forge.status_comment(&old, 12, MARKER, MARKER).await.unwrap();
    assert_eq!(github.n_calls(&Method::POST, "/repos/acme/web/issues/12/comments"), 1);
    assert_eq!(github.n_calls(&Method::POST, "/repos/old/"), 0);
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_named() {
    let github = GitHub::start().await;
    let failure = github.forge().default_branch(&"acme/none".parse().unwrap()).await.unwrap_err();
    insta::assert_snapshot!(failure, @"GitHub knows no repository acme/none, or does not show it to these credentials (E003)");
}

// ---- limits and refusals

#[tokio::test]
async fn a_limit_says_until_when_and_nothing_is_sent_before_that() {
    let reset_in_90_s =
        (std::time::SystemTime::now() + Duration::from_secs(90)).duration_since(std::time::UNIX_EPOCH).unwrap();
    let reset: &'static str = Box::leak(reset_in_90_s.as_secs().to_string().into_boxed_str());
    let used_up: Headers = Box::leak(Box::new([("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset)]));
    let cases: [(u16, Headers, &str, i64); 5] = [
        (403, &[("retry-after", "7")], "{}", 7),
        (429, &[("retry-after", "7")], "{}", 7),
        (403, used_up, r#"{"message":"API rate limit exceeded"}"#, 91),
        (429, &[], "{}", 60),
        (403, &[], r#"{"message":"You have exceeded a secondary rate limit."}"#, 60),
    ];
    for (status, headers, body, seconds) in cases {
        let github = GitHub::start().await;
        let forge = github.forge();
        github.fault(Method::POST, "/comments", Fault::Says(status, headers, body.into()), 1);
        let before: Timestamp = std::time::SystemTime::now().into();
        let failure = forge.status_comment(&repo(), 12, MARKER, MARKER).await.unwrap_err();
        assert_eq!(failure.code, Code::ForgeUnavailable, "{status}: {failure:?}");
        let wait = failure.retry_not_before.unwrap() - before;
        assert!((wait - chrono::Duration::seconds(seconds)).abs() <= chrono::Duration::seconds(2), "{status}: {wait}");
        let sent = github.world().calls.len();
        let again = forge.default_branch(&repo()).await.unwrap_err();
        assert_eq!(again.retry_not_before, failure.retry_not_before);
        assert_eq!(github.world().calls.len(), sent, "asked on while limited");
    }
}

#[tokio::test]
async fn a_plain_403_is_final_and_names_the_permission_that_is_missing() {
    let github = GitHub::start().await;
    let headers: &[(&str, &str)] =
        &[("x-accepted-github-permissions", "pull_requests=write"), ("x-ratelimit-remaining", "4999")];
    let body = r#"{"message":"Resource not accessible by personal access token"}"#;
    github.fault(Method::POST, "/pulls", Fault::Says(403, headers, body.into()), 9);
    let failure = open(&github.forge(), "Because.").await.unwrap_err();
    insta::assert_snapshot!(failure, @"GitHub does not let Onramp open a pull request in acme/web: Resource not accessible by personal access token (E051)");
    assert_eq!(failure.next_step, "Grant the token or the app pull_requests=write.");
    assert_eq!(github.n_calls(&Method::POST, "/pulls"), 1);
}

// ---- secrets

/// Everything that is logged while a test runs, at the finest level, by every crate.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_an_error_or_a_log_even_when_it_is_quoted_back() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let github = GitHub::start().await;
    let key = pem();
    let forge = github.forge();
    let mut shown = format!("{forge:?} {:?}", Credentials::Token(CANARY.to_owned().into()));
    // A token need not look like one of GitHub's: that of an Enterprise Server of old is 40 hexadecimal digits.
    let plain = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
    let by_plain = github.with("", Credentials::Token(plain.to_owned().into()));
    github.says(Method::POST, "/pulls", 422, &format!(r#"{{"message":"bad: {plain}"}}"#));
    shown += &format!("{:?}", open(&by_plain, "Because.").await);
    for status in [200, 401, 403, 404, 418, 422, 500, 502] {
        let quoting = format!(r#"{{"message":"bad: {CANARY}","errors":["{CANARY}"]}}"#);
        github.world().faults = vec![(Method::POST, "/pulls", Fault::Says(status, &[], quoting), WRITES)];
        let failure = open(&github.forge(), "Because.").await.unwrap_err();
        shown += &format!("{failure} {failure:?}");
    }
    github.world().faults.clear();
    let by_app = github.with("", app(&key));
    shown += &format!("{by_app:?} {:?}", app(&key));
    shown += &format!("{:?}", open(&by_app, "Because.").await);
    github.says(Method::GET, "/web", 422, &format!(r#"{{"message":"ghs_canary2 and {CANARY} of somebody else"}}"#));
    shown += &format!("{:?}", by_app.default_branch(&repo()).await);

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.len() > 1000, "nothing was logged, so nothing was looked at");
    let line_of_key = key.lines().nth(5).unwrap();
    for secret in [CANARY, "ghs_canary", plain, line_of_key] {
        assert!(!shown.contains(secret), "{shown}");
        let found = log.lines().find(|line| line.contains(secret));
        assert_eq!(found, None);
    }
}

#[test]
fn a_key_is_understood_however_it_was_pasted() {
    let der = key_der();
    let (pkcs8, pkcs1) = (armour("PRIVATE KEY", &der), armour("RSA PRIVATE KEY", &der[26..]));
    for pem in [&pkcs8, &pkcs1] {
        for pasted in [
            pem.clone(),
            format!("\"{}\"", pem.trim().replace('\n', "\\n")),
            pem.replace('\n', "\\r\\n"),
            pem.replace('\n', "\r\n"),
            pem.replace('\n', " "),
            STANDARD.encode(pem),
            armour("x", pem.as_bytes()).lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>().join("\n"),
            // The lines between BEGIN and END alone, which is base64 of DER.
            pem.lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>().join("\n"),
            pem.lines().filter(|line| !line.starts_with('-')).collect::<String>(),
            format!("\u{feff}{pem}"),
            format!("Here it is:\n{pem}\nregards"),
            pem.replace("=\n", "\n"),
        ] {
            Access::new(app(&pasted), &line()).unwrap_or_else(|failure| panic!("{failure}: {pasted}"));
        }
    }
}

fn line() -> Line {
    Line { api_url: PUBLIC_API.into(), timeout: TIMEOUT, write_pause: WRITE_PAUSE }
}

#[test]
fn a_wrong_paste_is_named_and_never_quoted() {
    let good = pem();
    let damaged = armour("PRIVATE KEY", &key_der()[..700]);
    let armoured = |label: &str| armour(label, b"whatever");
    let elliptic = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    let elliptic = elliptic.as_ref().to_vec();
    let ed25519: Pkcs8V1Der<'_> = Ed25519KeyPair::generate().unwrap().as_der().unwrap();
    let ed25519 = ed25519.as_ref().to_vec();
    let cases = [
        (String::new(), "empty"),
        ("  \n".into(), "empty"),
        (CANARY.into(), "a token"),
        ("SHA256:canary/abc=".into(), "fingerprint"),
        ("Iv1.canary".into(), "client id"),
        ("0123456789abcdef0123456789abcdef01234567".into(), "client secret"),
        ("/etc/onramp/canary.pem".into(), "path of a file"),
        ("ssh-rsa canary".into(), "public SSH key"),
        ("canary canary".into(), "no PEM text"),
        (STANDARD.encode("canary"), "one short word"),
        (good[..600].into(), "END line is missing"),
        (armoured("PUBLIC KEY"), "a public key"),
        (armoured("CERTIFICATE"), "a certificate"),
        (armoured("OPENSSH PRIVATE KEY"), "an SSH key"),
        (armoured("EC PRIVATE KEY"), "elliptic curves"),
        (armoured("ENCRYPTED PRIVATE KEY"), "locked with a password"),
        (armoured("PRIVATE KEY"), "damaged"),
        (damaged, "cut off"),
        (good.replace('M', "!"), "damaged"),
        (good.lines().enumerate().filter(|(n, _)| *n != 7).map(|(_, line)| format!("{line}\n")).collect(), "cut off"),
        (good.lines().skip(1).collect::<Vec<_>>().join("\n"), "BEGIN line is missing"),
        (armour("PRIVATE KEY", &elliptic), "elliptic curves"),
        (armour("PRIVATE KEY", &ed25519), "an Ed25519 key"),
        (STANDARD.encode(&elliptic), "no PEM text"),
        (
            good.replacen("-----\n", "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n", 1)
                .replace(" PRIVATE", " RSA PRIVATE"),
            "locked with a password",
        ),
        (armoured("CERTIFICATE REQUEST"), "request for a certificate"),
        (armoured("DSA PRIVATE KEY"), "a DSA key"),
        (armoured("PGP PRIVATE KEY BLOCK"), "a key of PGP"),
        ("PuTTY-User-Key-File-3: ssh-rsa\ncanary".into(), "PuTTY"),
        ("https://github.com/settings/apps/canary".into(), "an address"),
        ("file:/run/secrets/canary".into(), "the name of a place"),
        ("4711".into(), "a number"),
        ("canary-Wh3n-in-doubt!".into(), "such as a webhook secret"),
    ];
    for (pasted, named) in cases {
        let failure = Access::new(app(&pasted), &line()).err().unwrap_or_else(|| panic!("taken for a key: {pasted:?}"));
        let shown = format!("{failure:?}");
        assert!(shown.contains(named), "{named}: {shown}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(matches!(failure.code, Code::ForgeAuth | Code::MissingSecret));
    }
    for (pasted, named) in
        [("", "empty"), ("ghp canary", "more than one word"), (good.as_str(), "a key"), ("canäry", "no token has")]
    {
        let failure = Access::new(Credentials::Token(pasted.to_owned().into()), &line()).err().unwrap();
        assert!(failure.message.contains(named) && !failure.message.contains("can"), "{failure}");
    }
}
