//! What people see in a browser, asked for as a browser asks. `tests/pages` looks at the same with a real one.

use orchestrator::front::Scope;
use reqwest::{Client, Response, StatusCode, header, redirect::Policy};
use tests::{
    Backend, Setup,
    onramp::{Onramp, REPO},
};

/// Somebody at a browser that runs no scripts.
struct Person {
    http: Client,
    root: String,
    cookie: String,
}

impl Person {
    async fn logged_in(onramp: &Onramp, name: &str, scope: Scope) -> Self {
        let http = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        let (root, token) = (onramp.address(), onramp.token(name, scope, None));
        let form = http.post(format!("{root}/login")).form(&[("token", token.as_str()), ("next", "/stats")]);
        let answer = form.send().await.unwrap();
        assert_eq!(
            (answer.status(), answer.headers()[header::LOCATION].to_str().unwrap()),
            (StatusCode::SEE_OTHER, "/stats")
        );
        let set = answer.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(set.contains(part), "{set}");
        }
        assert!(!set.contains(&token), "the token is not kept in the browser");
        Self { http, root, cookie: set.split(';').next().unwrap().to_owned() }
    }

    async fn get(&self, path: &str) -> Response {
        self.http.get(format!("{}{path}", self.root)).header(header::COOKIE, &self.cookie).send().await.unwrap()
    }

    async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let text = answer.text().await.unwrap();
        assert!(!text.contains(" style=") && !text.contains("<style") && !text.contains(" onclick="), "{path}");
        text
    }

    async fn csrf(&self) -> String {
        let page = self.page("/").await;
        page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let form = self.http.post(format!("{}{path}", self.root)).header(header::COOKIE, &self.cookie).form(fields);
        form.send().await.unwrap()
    }

    /// Sends a form and follows where it leads.
    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> String {
        let csrf = self.csrf().await;
        let answer = self.post(path, &[fields, &[("csrf", csrf.as_str())]].concat()).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{path}");
        answer.headers()[header::LOCATION].to_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_asks_for_a_task_watches_it_and_comments_on_a_line_of_its_diff() {
    let agent = "echo '<script>alert(1)</script>'; echo 42 > answer.txt; echo x > Cargo.lock";
    let onramp = Setup::new(Backend::Namespace).agent(agent).start().await;
    let ada = Person::logged_in(&onramp, "ada", Scope::Act).await;
    assert!(ada.page("/").await.contains("No task here yet"));
    let title = "Mend <b>the answer</b> & \"more\"";
    let task = ada.send("/tasks", &[("repo", REPO), ("prompt", title), ("agent", "")]).await;
    let task = task.split('?').next().unwrap().to_owned();
    onramp.until_all_ended().await;

    let list = ada.page("/").await;
    assert!(list.contains("Mend &lt;b&gt;the answer&lt;") && !list.contains("<b>the"), "{list}");
    assert!(list.contains("pull request #"), "{list}");
    let log = ada.page(&task).await;
    for part in ["preparing", "verifying", "publishing", "check answer: passed", "id=\"L1\"", "&lt;script&gt;alert(1)"]
    {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("<script>alert"), "what an agent says is text");
    let diff = ada.page(&format!("{task}?tab=diff")).await;
    assert!(diff.contains("answer.txt") && diff.contains("a lock file, folded"), "{diff}");
    assert!(diff.contains("class=\"code added\""), "{diff}");
    assert!(ada.page(&format!("{task}?tab=diff&view=split")).await.contains("diff split"));
    let verify = ada.page(&format!("{task}?tab=verify")).await;
    assert!(verify.contains("sh test.sh") && verify.contains("passed"), "{verify}");
    assert!(ada.page(&format!("{task}?tab=prompt")).await.contains("Exactly what the agent was given"));
    assert!(ada.page(&format!("{task}?tab=evidence")).await.contains("diff.patch"));
    assert!(ada.page(&format!("{task}?tab=events")).await.contains("stage reached"));
    assert_eq!(
        ada.get(&format!("{task}/files/1/diff.patch")).await.headers()[header::CONTENT_TYPE],
        "text/plain; charset=utf-8"
    );

    let form = ada.page(&format!("{task}?tab=diff&at=answer.txt:1")).await;
    assert!(form.contains("On <code>answer.txt:1</code>"), "{form}");
    let follow = ada.send(&format!("{task}/say"), &[("text", "Say why"), ("place", "answer.txt:1")]).await;
    assert!(follow.contains("told=follow"), "{follow}");
    let tasks = onramp.until_all_ended().await;
    assert_eq!(tasks[1].request.instruction.title, "About answer.txt:1: Say why");

    let stats = ada.page("/stats").await;
    assert!(stats.contains("pull requests that ended were merged") && stats.contains("acme&#x2f;web"), "{stats}");
    assert!(ada.get("/stats.csv").await.text().await.unwrap().contains("repository,acme/web,2,"));
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_or_does_what_they_may_not() {
    let onramp = Setup::new(Backend::Namespace).configure(|config| config.worker.n_workers = 0).start().await;
    let ada = Person::logged_in(&onramp, "ada", Scope::Act).await;
    let eve = Person::logged_in(&onramp, "eve", Scope::Read).await;
    let root = Person::logged_in(&onramp, "root", Scope::Admin).await;
    let task = ada.send("/tasks", &[("repo", REPO), ("prompt", "Wait")]).await;
    let task = task.split('?').next().unwrap().to_owned();
    assert!(ada.page(&task).await.contains("Waits: no worker has asked for it yet"));

    let stranger = Person {
        cookie: "onramp_session=x.9999999999.y.00".into(),
        ..Person::logged_in(&onramp, "spare", Scope::Read).await
    };
    let sent = stranger.get(&task).await;
    assert_eq!(sent.status(), StatusCode::SEE_OTHER);
    assert!(sent.headers()[header::LOCATION].to_str().unwrap().starts_with("/login?next=/tasks/"));
    let wrong = stranger.post("/login", &[("token", "onramp_00_00")]).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);

    // A form without the proof, with somebody else's, and one that another site sends.
    for csrf in ["", "00", &eve.csrf().await] {
        assert_eq!(ada.post(&format!("{task}/stop"), &[("csrf", csrf)]).await.status(), StatusCode::FORBIDDEN);
    }
    let csrf = ada.csrf().await;
    let foreign = ada.http.post(format!("{}{task}/stop", ada.root)).header(header::COOKIE, &ada.cookie);
    let foreign = foreign.header("sec-fetch-site", "cross-site").form(&[("csrf", &csrf)]).send().await.unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    assert_eq!(eve.post(&format!("{task}/stop"), &[("csrf", &eve.csrf().await)]).await.status(), StatusCode::FORBIDDEN);
    assert!(!eve.page(&task).await.contains(">Stop<"));
    assert_eq!(ada.get("/admin").await.status(), StatusCode::FORBIDDEN);
    assert!(ada.page(&task).await.contains("queued"), "nothing of that did anything");

    assert!(ada.send(&format!("{task}/stop"), &[]).await.contains("told=stop"));
    assert!(ada.page(&task).await.contains("stopped"));
    let admin = root.page("/admin").await;
    assert!(admin.contains("enqueued") && admin.contains("eve"), "{admin}");
    let id = onramp_token_id(&admin, "ada");
    root.send(&format!("/admin/tokens/{id}/revoke"), &[]).await;
    assert_eq!(ada.get("/").await.status(), StatusCode::SEE_OTHER, "a revoked token ends its logins");
    assert_eq!(eve.get("/tasks/ffffffff").await.status(), StatusCode::NOT_FOUND);
    onramp.end().await;
}

fn onramp_token_id(admin: &str, name: &str) -> String {
    let row = admin.split("<tr>").find(|row| row.contains(&format!("<td>{name}</td>"))).unwrap();
    row.split("<code>").nth(1).unwrap().split('<').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_keeps_its_theme_and_is_sent_nowhere_else() {
    let onramp = Setup::new(Backend::Namespace).configure(|config| config.worker.n_workers = 0).start().await;
    let ada = Person::logged_in(&onramp, "ada", Scope::Read).await;
    let dark = ada.post("/theme", &[("theme", "dark"), ("back", "//evil.example")]).await;
    assert_eq!(dark.headers()[header::LOCATION], "/");
    let set = dark.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let themed = Person { cookie: format!("{}; {set}", ada.cookie), ..ada };
    assert!(themed.page("/").await.contains("data-theme=\"dark\""));
    for (name, media) in [("pages.css", "text/css"), ("pages.js", "text/javascript"), ("icon.svg", "image/svg+xml")] {
        let asset = themed.get(&format!("/assets/{name}")).await;
        assert!(asset.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with(media));
        assert_eq!(asset.headers()["x-content-type-options"], "nosniff");
    }
    let out = themed.send("/logout", &[]).await;
    assert_eq!(out, "/login");
    onramp.end().await;
}
