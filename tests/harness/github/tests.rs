//! The fake has to refuse what GitHub refuses: a test that passes against a fake that takes everything proves nothing.

use std::{path::Path, process::Output};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::*;

const WEB: &str = "acme/web";

/// A repository, two people, and a token of the one who may write.
async fn scene() -> (GitHub, String) {
    let github = GitHub::start().await;
    github.repository(WEB, &[("README.md", "Hello\n"), ("src/run.sh", "#!/bin/sh\nexit 0\n")]);
    github.user("ada", 7).permission(WEB, "ada", Permission::Write);
    github.user("eve", 8).permission(WEB, "eve", Permission::Read);
    let token = github.personal_token("ada");
    (github, token)
}

async fn ask(github: &GitHub, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let request = client.request(method, format!("{}{path}", github.api_url())).bearer_auth(token).json(&body);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

async fn git(token: Option<&str>, dir: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new("git");
    command.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
    command.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "http.proxy="]);
    if let Some(token) = token {
        let basic = STANDARD.encode(format!("x-access-token:{token}"));
        command.arg("-c").arg(format!("http.extraHeader=Authorization: Basic {basic}"));
    }
    command.args(arguments).output().await.unwrap()
}

/// Clones, commits a change to a branch of its own, and pushes it.
async fn push(github: &GitHub, read: &str, write: Option<&str>, branch: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("{}/acme/web.git", github.git_url());
    let cloned = git(Some(read), dir.path(), &["clone", "-q", &url, "."]).await;
    assert!(cloned.status.success(), "{cloned:?}");
    std::fs::write(dir.path().join("new.txt"), "new\n").unwrap();
    git(None, dir.path(), &["add", "-A"]).await;
    git(None, dir.path(), &["commit", "-q", "-m", "Add a file"]).await;
    git(write, dir.path(), &["push", "-q", "origin", &format!("HEAD:refs/heads/{branch}")]).await
}

#[tokio::test]
async fn git_clones_and_pushes_with_a_token_that_may_and_with_no_other() {
    let (github, ada) = scene().await;
    let eve = github.personal_token("eve");

    let refused = push(&github, &eve, Some(&eve), "topic").await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("403"), "{refused:?}");
    let refused = push(&github, &ada, None, "topic").await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("could not read Username"), "{refused:?}");
    assert_eq!(github.bare(WEB).branches(), ["main"]);

    let pushed = push(&github, &ada, Some(&ada), "topic").await;
    assert!(pushed.status.success(), "{pushed:?}");
    assert_eq!(github.branch_tree(WEB, "topic")["new.txt"], "new\n");
    assert_eq!(github.bare(WEB).message("topic"), "Add a file\n");
}

#[tokio::test]
async fn a_pull_request_needs_a_pushed_branch_with_commits_and_is_opened_once() {
    let (github, token) = scene().await;
    let open = |head: &str| json!({ "head": head, "base": "main", "title": "T", "body": "B", "draft": true });
    let create = |body| ask(&github, "POST", "/repos/acme/web/pulls", &token, body);

    let (status, body) = create(open("topic")).await;
    assert_eq!((status, &body["errors"][0]["field"]), (422, &json!("head")));
    github.bare(WEB).point("topic", &github.bare(WEB).tip("main").unwrap());
    let (status, body) = create(open("topic")).await;
    assert_eq!((status, &body["errors"][0]["message"]), (422, &json!("No commits between main and topic")));
    let head = github.commit(WEB, "topic", &[("a.txt", "a\n")]);
    let (status, body) = create(open("acme:topic")).await;
    assert_eq!((status, &body["number"], &body["head"]["sha"]), (201, &json!(12), &json!(head)));
    let (status, body) = create(open("topic")).await;
    let message = "A pull request already exists for acme:topic.";
    assert_eq!((status, &body["errors"][0]["message"]), (422, &json!(message)));

    let list = |query: &str| {
        let path = format!("/repos/acme/web/pulls?{query}");
        async { ask(&github, "GET", &{ path }, &token, json!({})).await.1.as_array().unwrap().len() }
    };
    assert_eq!(list("head=acme:topic&base=main&state=open").await, 1);
    assert_eq!(list("head=acme:other").await, 0);
    assert_eq!(list("head=other").await, 1, "a head without an owner filters nothing");
    github.close_pull(WEB, 12, true, "ada");
    assert_eq!((list("state=open").await, list("state=all").await), (0, 1));
    assert!(github.branch_tree(WEB, "main").contains_key("a.txt"), "merged");
}

#[tokio::test]
async fn comments_are_created_paged_and_edited_in_place() {
    let (github, token) = scene().await;
    let issue = github.issue(WEB, "Broken", "It is.", "eve");
    for n in 0..5 {
        github.comment(WEB, issue, "eve", &format!("comment {n}"));
    }
    let path = format!("/repos/acme/web/issues/{issue}/comments");
    let (status, made) = ask(&github, "POST", &path, &token, json!({ "body": "one" })).await;
    assert_eq!(status, 201);
    let one = format!("/repos/acme/web/issues/comments/{}", made["id"]);
    assert_eq!(ask(&github, "PATCH", &one, &token, json!({ "body": "two" })).await.1["body"], "two");
    let comments = github.comments(WEB, issue);
    assert_eq!((comments.len(), comments[5].history.as_slice()), (6, ["one".to_owned(), "two".to_owned()].as_slice()));

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let first = client.get(format!("{}{path}?per_page=4", github.api_url())).bearer_auth(&token).send().await.unwrap();
    let link = first.headers()["link"].to_str().unwrap().to_owned();
    let next = link.split(['<', '>']).nth(1).unwrap();
    let second: Value = client.get(next).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
    assert_eq!(second.as_array().unwrap().len(), 2, "{link}");

    let long = json!({ "body": "x".repeat(65_537) });
    assert_eq!(ask(&github, "POST", &path, &token, long).await.0, 422);
}

#[tokio::test]
async fn nothing_is_answered_without_a_token_that_may_see_it() {
    let (github, ada) = scene().await;
    let eve = github.personal_token("eve");
    let stranger = github.personal_token("mallory");
    let get = |token: String| {
        let github = &github;
        async move { ask(github, "GET", "/repos/acme/web", &token, json!({})).await.0 }
    };
    assert_eq!(get(ada.clone()).await, 200);
    assert_eq!(get(eve.clone()).await, 200);
    assert_eq!(get("ghp_wrong".to_owned()).await, 401);
    assert_eq!(get(stranger).await, 404, "what one may not see does not exist");
    let issue = github.issue(WEB, "Broken", "", "eve");
    let comment = format!("/repos/acme/web/issues/{issue}/comments");
    assert_eq!(ask(&github, "POST", &comment, &eve, json!({ "body": "x" })).await.0, 403);

    let path = "/repos/acme/web/collaborators/eve/permission";
    let (_, body) = ask(&github, "GET", path, &ada, json!({})).await;
    assert_eq!((&body["permission"], &body["user"]["id"]), (&json!("read"), &json!(8)));
    assert_eq!(ask(&github, "GET", "/repos/acme/web/collaborators/nobody/permission", &ada, json!({})).await.0, 404);
}

#[tokio::test]
async fn an_app_gets_tokens_with_its_own_signature_for_its_own_repositories() {
    let github = GitHub::start_enterprise().await;
    github.repository(WEB, &[("a", "a\n")]).repository("acme/other", &[("a", "a\n")]);
    let key = github.app(4711, &[WEB]);
    let jwt = |key: &AppKey, id: u64| signed(key, id);

    let (status, installation) = ask(&github, "GET", "/repos/acme/web/installation", &jwt(&key, 4711), json!({})).await;
    assert_eq!((status, &installation["app_id"]), (200, &json!(4711)));
    assert_eq!(ask(&github, "GET", "/repos/acme/other/installation", &jwt(&key, 4711), json!({})).await.0, 404);
    assert_eq!(ask(&github, "GET", "/app", &jwt(&key, 1), json!({})).await.0, 401, "another issuer");
    assert_eq!(ask(&github, "GET", "/app", &jwt(&AppKey::generate(), 4711), json!({})).await.0, 401, "another key");

    let path = format!("/app/installations/{}/access_tokens", installation["id"]);
    let (status, made) = ask(&github, "POST", &path, &jwt(&key, 4711), json!({ "repositories": ["web"] })).await;
    let token = made["token"].as_str().unwrap();
    assert_eq!(status, 201);
    assert_eq!(ask(&github, "GET", "/repos/acme/web", token, json!({})).await.0, 200);
    assert_eq!(ask(&github, "GET", "/repos/acme/other", token, json!({})).await.0, 404, "bound to its repositories");
    assert!(push(&github, token, Some(token), "topic").await.status.success());
    let foreign = ask(&github, "POST", &path, &jwt(&key, 4711), json!({ "repositories": ["other"] })).await;
    assert_eq!(foreign.0, 422);

    let narrow = json!({ "permissions": { "contents": "read" } });
    let (_, made) = ask(&github, "POST", &path, &jwt(&key, 4711), narrow).await;
    let refused = push(&github, token, made["token"].as_str(), "topic2").await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("403"), "{refused:?}");
}

/// A JWT as an app makes one.
fn signed(key: &AppKey, id: u64) -> String {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let der: String = key.pem().lines().filter(|line| !line.starts_with('-')).collect();
    let pair = aws_lc_rs::rsa::KeyPair::from_pkcs8(&STANDARD.decode(der).unwrap()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "iss": id.to_string(), "iat": now - 60, "exp": now + 540 });
    let text = format!("{}.{}", part(json!({ "alg": "RS256", "typ": "JWT" })), part(claims));
    let mut signature = vec![0; pair.public_modulus_len()];
    let random = aws_lc_rs::rand::SystemRandom::new();
    pair.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_lost_answer_was_done_and_a_refused_one_was_not() {
    let (github, token) = scene().await;
    let issue = github.issue(WEB, "Broken", "", "eve");
    let url = format!("{}/repos/acme/web/issues/{issue}/comments", github.api_url());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = || client.post(&url).bearer_auth(&token).json(&json!({ "body": "x" })).send();
    let comments = || github.comments(WEB, issue).len();
    let pattern = "/repos/*/comments";

    github.fault(Method::POST, pattern, Fault::LostAnswer, 1);
    let error = post().await.unwrap_err();
    assert!(error.is_request() && error.status().is_none(), "{error:?}");
    assert_eq!(comments(), 1, "done, though nobody was told");
    github.fault(Method::POST, pattern, Fault::Status502AfterDoing, 1);
    assert_eq!((post().await.unwrap().status().as_u16(), comments()), (502, 2));
    github.fault(Method::POST, pattern, Fault::Status(503), 1).fault(Method::POST, pattern, Fault::Html500, 1);
    assert_eq!((post().await.unwrap().status().as_u16(), comments()), (503, 2));
    assert_eq!((post().await.unwrap().status().as_u16(), comments()), (500, 2));
    assert_eq!((post().await.unwrap().status().as_u16(), comments()), (201, 3), "the script is over");
    assert_eq!(github.count(&Method::POST, pattern), 5);
}

#[tokio::test]
async fn a_request_that_github_does_not_describe_is_objected_to() {
    let (github, token) = scene().await;
    let issue = github.issue(WEB, "The answer is wrong", "", "eve");
    let comments = format!("/repos/{WEB}/issues/{issue}/comments");
    ask(&github, "POST", &comments, &token, json!({ "body": "Hello" })).await;
    ask(&github, "GET", &format!("{comments}?per_page=100&page=1"), &token, Value::Null).await;
    ask(&github, "GET", &format!("/repos/{WEB}/git/ref/heads/onramp/12-a-b"), &token, json!({})).await;
    assert_eq!(github.objections(), Vec::<String>::new());

    for (method, path, body, objection) in [
        ("POST", comments.clone(), json!({ "body": 7 }), "/body: 7 is not of type \"string\""),
        ("POST", comments.clone(), json!({ "text": "Hello" }), "\"body\" is a required property"),
        ("POST", comments.clone(), json!({ "body": "Hello", "silent": true }), "there is no field silent"),
        ("POST", format!("/repos/{WEB}/comments"), json!({}), "there is no such request"),
        ("GET", format!("{comments}?per_page=many"), json!({}), "the parameter per_page=many is not"),
        ("GET", format!("{comments}?newest=1"), json!({}), "there is no parameter newest"),
        ("POST", format!("/repos/{WEB}/check-runs/1/rerequest"), json!({ "x": 1 }), "it takes no body"),
    ] {
        let before = github.objections().len();
        ask(&github, method, &path, &token, body).await;
        let said = github.objections().split_off(before);
        assert!(said.iter().any(|said| said.contains(objection)), "{method} {path}: {said:?}");
    }
}
