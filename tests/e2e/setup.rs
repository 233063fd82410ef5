//! From nothing to a first pull request, as a newcomer does it: the real program, its page, and somebody with a browser.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use axum::http::Method;
use reqwest::{StatusCode, header};
use tests::{
    github::{Fault, GitHub},
    onramp::{DEADLINE, REPO},
    target,
};

/// A repository that says nothing about itself, and can be checked with what every machine has.
const FILES: &[(&str, &str)] =
    &[("Makefile", "test:\n\tgrep -qx 42 answer.txt\n"), ("answer.txt", "42\n"), ("README.md", "# Answers\n")];

/// The program, run in a directory of its own.
struct Program {
    child: Child,
    err: BufReader<ChildStderr>,
    said: String,
}

impl Program {
    fn run(dir: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(target::onramp());
        command
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--sandbox", "namespace"])
            .args(arguments)
            .current_dir(dir);
        command.env_remove("GITHUB_TOKEN").env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        Self { child, err, said: String::new() }
    }

    /// What stands on the next line behind `words`.
    fn until_says(&mut self, words: &str) -> String {
        let mut line = String::new();
        while self.err.read_line(&mut line).unwrap() > 0 {
            self.said.push_str(&line);
            if let Some((_, rest)) = line.split_once(words) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("it never said {words:?}:\n{}", self.said);
    }

    /// Exit code, standard output, standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.err.read_to_string(&mut self.said).unwrap();
        (self.child.wait().unwrap().code(), out, std::mem::take(&mut self.said))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody who looks at pages and presses what is on them.
struct Browser(reqwest::Client);

impl Browser {
    fn new() -> Self {
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        Self(client.timeout(Duration::from_secs(20)).build().unwrap())
    }

    async fn get(&self, url: &str) -> (StatusCode, String) {
        let response = self.0.get(url).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    async fn post(&self, url: &str, fields: &[(&str, &str)]) -> reqwest::Response {
        let encode = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
        let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let request = self.0.post(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.body(body.join("&")).send().await.unwrap()
    }

    /// Presses the one button, says yes on GitHub, and returns where GitHub sends the browser.
    async fn press(&self, page: &str) -> String {
        let action = unescaped(between(page, "<form method=\"post\" action=\"", "\""));
        let manifest = unescaped(between(page, "name=\"manifest\" value=\"", "\""));
        let answer = self.post(&action, &[("manifest", &manifest)]).await;
        assert_eq!(answer.status(), StatusCode::FOUND, "{}", answer.text().await.unwrap());
        answer.headers()[header::LOCATION].to_str().unwrap().to_owned()
    }

    async fn until_shows(&self, url: &str, words: &str) -> String {
        let started = Instant::now();
        let mut look = tokio::time::interval(Duration::from_millis(100));
        loop {
            look.tick().await;
            let (_, page) = self.get(url).await;
            if page.contains(words) {
                return page;
            }
            assert!(started.elapsed() < DEADLINE, "never shown: {words:?}\n{page}");
        }
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {text}"));
    rest.split_once(after).unwrap().0
}

fn unescaped(text: &str) -> String {
    let known = [("&quot;", "\""), ("&#x27;", "'"), ("&#x2f;", "/"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    known.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

async fn enterprise() -> GitHub {
    let github = GitHub::start_enterprise().await;
    github.repository(REPO, FILES);
    github
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_button_makes_an_app_and_the_next_one_a_pull_request_with_measured_checks() {
    let (github, dir, browser) = (enterprise().await, tempfile::tempdir().unwrap(), Browser::new());
    let own = "# ours\n[server]\nlisten = \"127.0.0.1:0\" # any\n";
    std::fs::write(dir.path().join("onramp.toml"), own).unwrap();
    let api = github.api_url();
    let mut program = Program::run(dir.path(), &["init", "github", "--org", "acme", "--api-url", &api]);
    let url = program.until_says("open ");
    let (status, page) = browser.get(&url).await;
    assert_eq!(status, StatusCode::OK);
    assert!(unescaped(&page).contains("/organizations/acme/settings/apps/new?state="), "{page}");

    let callback = browser.press(&page).await;
    let (status, _) = browser.get(&callback).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let manifest = github.manifests()[0].clone();
    assert_eq!((&manifest["public"], &manifest["hook_attributes"]["active"]), (&false.into(), &false.into()));
    let rights: Vec<_> = manifest["default_permissions"].as_object().unwrap().keys().collect();
    assert_eq!(rights, ["checks", "contents", "issues", "metadata", "pull_requests"], "and no workflows");

    program.until_says("install it: ");
    let text = std::fs::read_to_string(dir.path().join("onramp.toml")).unwrap();
    assert!(text.starts_with(own) && text.contains("app_id = ") && text.contains("app_key = \"file:/"), "{text}");
    assert!(text.contains(&format!("api_url = \"{api}\"")) && !text.contains("PRIVATE"), "{text}");
    let key = between(&text, "app_key = \"file:", "\"");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(Path::new(key)), mode(Path::new(key).parent().unwrap())), (0o600, 0o700));
    assert!(std::fs::read_to_string(key).unwrap().contains("PRIVATE KEY"));

    github.install(&[REPO]);
    let page = browser.until_shows(&url, "Offer it").await;
    let token = between(&page, "name=\"token\" value=\"", "\"").to_owned();
    browser.post(&format!("{url}/offer"), &[("token", &token), ("repository", REPO)]).await;
    browser.until_shows(&url, "1 of 1 checks pass").await;
    let again = browser.post(&format!("{url}/offer"), &[("token", &token), ("repository", REPO)]).await;
    assert_eq!(again.status(), StatusCode::SEE_OTHER);
    let done = browser.post(&format!("{url}/done"), &[("token", &token)]).await;
    assert!(done.text().await.unwrap().contains("onramp serve"));
    let (code, _, said) = program.end();
    assert_eq!(code, Some(0), "{said}");

    let pulls = github.pulls();
    assert_eq!(pulls.len(), 1, "{pulls:#?}");
    assert!(pulls[0].body.contains("| `make test` | passed |"), "{}", pulls[0].body);
    assert!(pulls[0].body.contains("onramp:task="), "{}", pulls[0].body);
    let files = github.branch_tree(REPO, &pulls[0].head);
    assert!(files[".onramp.toml"].contains("command = \"make test\""), "{}", files[".onramp.toml"]);
    assert_eq!(files.len(), FILES.len() + 1, "and nothing else");
    assert!(!github.good_tokens().iter().any(|token| token["contents"] == "write"), "what may push was taken back");
    assert!(!said.contains("canary") && !said.contains("PRIVATE KEY"), "{said}");

    assert_eq!(github.objections(), [""; 0], "every request is one that GitHub describes");

    // Asked for again from the command line, it is the same one.
    let (code, out, said) = Program::run(dir.path(), &["init", "repo", REPO]).end();
    assert_eq!((code, github.pulls().len()), (Some(0), 1), "{said}");
    assert!(out.contains(&format!("/pull/{}", pulls[0].number)), "{out}");
    // And the set-up goes on where it is.
    let mut program = Program::run(dir.path(), &["init", "github"]);
    let url = program.until_says("open ");
    browser.until_shows(&url, "Offer it").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_answer_to_this_page_is_taken_and_only_from_this_machine() {
    let (github, dir, browser) = (enterprise().await, tempfile::tempdir().unwrap(), Browser::new());
    let mut program = Program::run(dir.path(), &["init", "github", "--api-url", &github.api_url()]);
    let url = program.until_says("open ");
    let response = browser.0.get(&url).send().await.unwrap();
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let page = response.text().await.unwrap();
    assert!(!page.contains("<script"), "it works without");

    let callback = browser.press(&page).await;
    let (right, state) = callback.rsplit_once("state=").unwrap();
    for state in [String::new(), "0".repeat(state.len()), state[1..].to_owned()] {
        assert_eq!(browser.get(&format!("{right}state={state}")).await.0, StatusCode::BAD_REQUEST);
    }
    let foreign = browser.0.get(&url).header(header::HOST, "evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), StatusCode::MISDIRECTED_REQUEST);
    let (origin, _) = url.split_once("/setup").unwrap();
    for path in ["/", "/setup", "/setup/0/", "/setup/callback"] {
        assert_eq!(browser.get(&format!("{origin}{path}")).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let done =
        browser.0.post(format!("{url}/done")).header(header::ORIGIN, "https://evil.example").send().await.unwrap();
    assert_eq!(done.status(), StatusCode::FORBIDDEN);
    assert_eq!(browser.post(&format!("{url}/done"), &[("token", "x")]).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(github.count(&Method::POST, "/api/v3/app-manifests/*/conversions"), 0);
    assert!(!dir.path().join("onramp.toml").exists());

    // A failure is told on the page and on the terminal, and the button works again.
    github.fault(Method::POST, "/api/v3/app-manifests/*/conversions", Fault::Status(500), 1);
    assert_eq!(browser.get(&callback).await.0, StatusCode::SEE_OTHER);
    let (_, page) = browser.get(&url).await;
    assert!(page.contains("no clear answer") && page.contains("Press the button again"), "{page}");
    program.until_says("error[E054]");
    let callback = browser.press(&page).await;
    browser.get(&callback).await;
    program.until_says("install it: ");
    // The code is used up; nothing is made a second time.
    browser.get(&callback).await;
    assert_eq!(github.count(&Method::POST, "/api/v3/app-manifests/*/conversions"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_way_is_said_before_anything_is_made() {
    let (github, dir) = (enterprise().await, tempfile::tempdir().unwrap());
    for (text, arguments, code, words) in [
        ("[github]\napp_key = \"env:X\"\n", &["init", "github"][..], 2, "github.app_key"),
        ("[github\n", &["init", "github"], 2, "E006"),
        ("", &["init", "github", "--api-url", "github"], 2, "https://"),
        ("", &["init", "github", "--org", "a/b"], 2, "organization"),
        ("", &["init", "repo", "acme"], 2, "owner/name"),
        ("", &["init", "repo", REPO], 4, "GITHUB_TOKEN"),
    ] {
        std::fs::write(dir.path().join("onramp.toml"), text).unwrap();
        let (exit, out, said) = Program::run(dir.path(), arguments).end();
        assert_eq!((exit, out.as_str()), (Some(code), ""), "{arguments:?} {text:?}: {said}");
        assert!(said.contains(words), "{arguments:?} {text:?}: {said}");
    }
    assert_eq!(github.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_that_do_not_pass_on_the_untouched_code_are_offered_as_optional() {
    let (github, dir) = (GitHub::start().await, tempfile::tempdir().unwrap());
    github.repository(REPO, &[("Makefile", "test:\n\tgrep -qx 42 answer.txt\n"), ("answer.txt", "41\n")]);
    github.user("ada", 7).permission(REPO, "ada", tests::github::Permission::Write);
    std::fs::write(dir.path().join("token"), github.personal_token("ada")).unwrap();
    let config =
        format!("[github]\napi_url = \"{}\"\ntoken = \"file:{}/token\"\n", github.api_url(), dir.path().display());
    std::fs::write(dir.path().join("onramp.toml"), config).unwrap();
    let (code, _, said) = Program::run(dir.path(), &["init", "repo", REPO]).end();
    assert_eq!(code, Some(0), "{said}");
    let pull = &github.pulls()[0];
    assert!(pull.body.contains("| `make test` | failed (exit code 2) |"), "{}", pull.body);
    assert!(pull.body.contains("**Look here first**: `make test`"), "{}", pull.body);
    assert!(github.branch_tree(REPO, &pull.head)[".onramp.toml"].contains("required = false"));

    // Merged, there is nothing to offer any more.
    github.close_pull(REPO, pull.number, true, "ada");
    let (code, out, said) = Program::run(dir.path(), &["init", "repo", REPO]).end();
    assert_eq!((code, out.as_str(), github.pulls().len()), (Some(0), "", 1), "{said}");
    assert!(said.contains("has a .onramp.toml"), "{said}");
}
