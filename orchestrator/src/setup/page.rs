//! The page: what it shows, what comes back from GitHub, and what is pressed on it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Form, Router,
    extract::{Query, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tasks::{Code, Failure, RepoName};
use templates::{SetupApp, SetupAsk, SetupPage, SetupRepository, SetupTrouble};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use workers::forge::github::{AppItself, AppManifest, Installed, app_of_manifest, web_url};

use super::keep::{Keeper, Kept};

/// What kind of app is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The root of GitHub's API.
    pub api_url: String,
    /// Where GitHub reaches Onramp; empty: nowhere.
    pub public_url: String,
    /// Whose app it becomes; `None`: the person's own.
    pub organization: Option<String>,
    /// Its name.
    pub name: String,
    /// Whether it may change workflows.
    pub workflows: bool,
}

/// What happened on the page.
#[derive(Debug)]
pub enum Event {
    /// The app is made and kept.
    Made(Box<(AppItself, Kept)>),
    /// It was not, and why.
    Trouble(Failure),
    /// A pull request is to be offered to this repository.
    Offer(RepoName),
    /// That is all.
    Done,
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// What is being done.
    Running(String),
    /// Words and address of the pull request.
    Open(String, String),
    /// Why there is none.
    Failed(String),
}

/// A page that is being served.
pub struct Page {
    shared: Arc<Shared>,
    events: mpsc::UnboundedReceiver<Event>,
    serving: JoinHandle<()>,
    closed: CancellationToken,
}

/// What the page shows, to be changed from outside.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

struct Shared {
    wanted: Wanted,
    web: String,
    address: SocketAddr,
    /// `/setup/<random>`.
    here: String,
    token: String,
    /// Goes to GitHub and comes back with the answer, so that no other answer is taken.
    state: String,
    keeper: Option<Keeper>,
    view: Mutex<View>,
    tell: mpsc::UnboundedSender<Event>,
}

#[derive(Default)]
struct View {
    app: Option<(AppItself, PathBuf)>,
    trouble: Option<Failure>,
    installed: Vec<Installed>,
    offers: BTreeMap<RepoName, Offer>,
    is_done: bool,
}

/// A browser that keeps its connection open is not waited for any longer.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// What nobody can guess.
fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Whether somebody knows a secret. By digests, so that the time it takes tells nothing of how much was right.
fn knows(secret: &str, given: &str) -> bool {
    Sha256::digest(secret) == Sha256::digest(given)
}

impl Page {
    /// Serves it on loopback. `port` 0: any. With a `keeper` it offers to make an app, without one there is one already.
    ///
    /// # Errors
    /// E006 for an address of GitHub that is none, E063 for a port that cannot be used.
    pub async fn serve(
        wanted: Wanted,
        keeper: Option<Keeper>,
        app: Option<(AppItself, PathBuf)>,
        port: u16,
    ) -> Result<Self, Failure> {
        let web = web_url(&wanted.api_url)?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = tokio::net::TcpListener::bind(listen).await.map_err(|error| {
            Failure::new(Code::CannotListen, format!("Cannot listen on {listen}: {error}"))
                .next("Choose another port with --port, or none to get a free one.")
        })?;
        let address = listener.local_addr().map_err(Failure::internal)?;
        let (tell, events) = mpsc::unbounded_channel();
        let here = format!("/setup/{}", random());
        let shared = Arc::new(Shared {
            wanted,
            web,
            address,
            here,
            token: random(),
            state: random(),
            keeper,
            view: Mutex::new(View { app, ..View::default() }),
            tell,
        });
        let router = router(&shared);
        let closed = CancellationToken::new();
        let closing = closed.clone();
        let serving = tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "the page closed by itself");
            }
        });
        Ok(Self { shared, events, serving, closed })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.shared.address, self.shared.here)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.shared.address.port()
    }

    /// What happens next. `None`: it closed.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Ends it; whoever was being answered hears the end.
    pub async fn close(mut self) {
        self.closed.cancel();
        let _ended_or_late = tokio::time::timeout(LAST_ANSWER, &mut self.serving).await;
    }

    /// What it shows.
    pub fn board(&self) -> Board {
        Board(self.shared.clone())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Board {
    /// Shows where the app is installed.
    pub fn installed(&self, installed: Vec<Installed>) {
        self.0.view().installed = installed;
    }

    /// Shows what became of an offer.
    pub fn offer(&self, repo: &RepoName, offer: Offer) {
        self.0.view().offers.insert(repo.clone(), offer);
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hook(&self) -> Option<String> {
        let public = self.wanted.public_url.trim_end_matches('/');
        (!public.is_empty()).then(|| format!("{public}/hooks/github"))
    }

    /// The manifest, and where it goes.
    fn manifest(&self) -> (String, String) {
        let Wanted { organization, name, workflows, public_url, .. } = &self.wanted;
        let (web, state) = (&self.web, &self.state);
        let redirect = format!("http://{}{}/callback", self.address, self.here);
        let hook = self.hook();
        let manifest = AppManifest {
            name,
            homepage: if public_url.is_empty() { web } else { public_url },
            redirect_url: &redirect,
            hook_url: hook.as_deref(),
            workflows: *workflows,
        };
        let owner = organization.as_ref().map_or_else(String::new, |name| format!("/organizations/{name}"));
        (manifest.json().to_string(), format!("{web}{owner}/settings/apps/new?state={state}"))
    }

    fn html(&self) -> Result<String, templates::RenderError> {
        let view = self.view();
        let (manifest, action) = self.manifest();
        let hook = self.hook();
        let secrets_dir = self.keeper.as_ref().map(|keeper| keeper.secrets_dir().display().to_string());
        let config_file = view.app.as_ref().map(|(_, file)| file.display().to_string()).unwrap_or_default();
        let install_url = view.app.as_ref().map(|(app, _)| install_url(app)).unwrap_or_default();
        let is_done = view.is_done;
        let repositories = view.installed.iter().flat_map(|installed| &installed.repositories);
        let repositories: Vec<_> = repositories.map(|repo| row(repo, view.offers.get(repo))).collect();
        let is_running = view.offers.values().any(|offer| matches!(offer, Offer::Running(_)));
        templates::setup_page(&SetupPage {
            here: &self.here,
            token: &self.token,
            refreshes: !is_done && view.app.is_some() && (repositories.is_empty() || is_running),
            trouble: view
                .trouble
                .as_ref()
                .map(|failure| SetupTrouble { message: &failure.message, next_step: &failure.next_step }),
            ask: secrets_dir.as_ref().filter(|_| view.app.is_none()).map(|secrets_dir| SetupAsk {
                action: &action,
                manifest: &manifest,
                web_host: self.web.split_once("://").map_or(&self.web, |(_, host)| host),
                organization: self.wanted.organization.as_deref(),
                secrets_dir,
                hook: hook.as_deref(),
                workflows: self.wanted.workflows,
            }),
            app: view.app.as_ref().filter(|_| !is_done).map(|(app, _)| SetupApp {
                id: app.id,
                name: &app.name,
                url: &app.url,
                install_url: &install_url,
                config_file: &config_file,
            }),
            suspended: view.installed.iter().filter(|i| i.is_suspended).map(|i| i.account.as_str()).collect(),
            repositories,
            is_done,
        })
    }
}

/// Where an app is installed.
pub fn install_url(app: &AppItself) -> String {
    format!("{}/installations/new", app.url)
}

fn row<'a>(repo: &'a RepoName, offer: Option<&'a Offer>) -> SetupRepository<'a> {
    let (state, words, url) = match offer {
        None => ("none", "", ""),
        Some(Offer::Running(words)) => ("running", words.as_str(), ""),
        Some(Offer::Open(words, url)) => ("open", words.as_str(), url.as_str()),
        Some(Offer::Failed(words)) => ("failed", words.as_str(), ""),
    };
    SetupRepository { name: repo.as_str(), state, words, url }
}

fn router(shared: &Arc<Shared>) -> Router {
    let pages = Router::new()
        .route("/", get(show))
        .route("/callback", get(callback))
        .route("/offer", post(offer))
        .route("/done", post(done))
        .route("/style.css", get(style));
    Router::new()
        .nest(&shared.here, pages)
        .layer(middleware::from_fn_with_state(shared.clone(), guarded))
        .with_state(shared.clone())
}

/// Nobody else's name for this machine, and no form of another site.
fn refusal(port: u16, request: &Request) -> Option<Response> {
    let own = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let given = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    if !given(header::HOST).is_some_and(|host| own.iter().any(|own| own == host)) {
        let words = format!("This page is only served as http://127.0.0.1:{port}; forward the same port.\n");
        return Some((StatusCode::MISDIRECTED_REQUEST, words).into_response());
    }
    let is_own = |origin: &str| own.iter().any(|own| origin.strip_prefix("http://") == Some(own));
    let is_foreign = request.method() != Method::GET && given(header::ORIGIN).is_some_and(|origin| !is_own(origin));
    is_foreign.then(|| (StatusCode::FORBIDDEN, "This form is another site's.\n").into_response())
}

/// What is not refused is answered, with headers that leave a page nothing but its own.
async fn guarded(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if let Some(refusal) = refusal(shared.address.port(), &request) {
        return refusal;
    }
    let mut response = next.run(request).await;
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self' {}; base-uri 'none'; frame-ancestors 'none'",
        shared.web
    );
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'")),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // GitHub is told the port and not the path.
        (header::REFERRER_POLICY, HeaderValue::from_static("strict-origin")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ] {
        headers.insert(name, value);
    }
    response
}

async fn show(State(shared): State<Arc<Shared>>) -> Response {
    match shared.html() {
        Ok(html) => Html(html).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css")], templates::SETUP_CSS)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: String,
    state: String,
}

/// GitHub sends the browser back here.
async fn callback(State(shared): State<Arc<Shared>>, Query(answer): Query<Answer>) -> Response {
    if !knows(&shared.state, &answer.state) {
        let words = "This answer does not belong to the page that is open now. Go back to it and press its button.\n";
        return (StatusCode::BAD_REQUEST, words).into_response();
    }
    if shared.view().app.is_none() {
        match make(&shared, &answer.code).await {
            Ok((app, kept)) => {
                let mut view = shared.view();
                view.app = Some((app.clone(), kept.config_file.clone()));
                view.trouble = None;
                let _ = shared.tell.send(Event::Made(Box::new((app, kept))));
            }
            Err(failure) => {
                shared.view().trouble = Some(failure.clone());
                let _ = shared.tell.send(Event::Trouble(failure));
            }
        }
    }
    Redirect::to(&shared.here).into_response()
}

async fn make(shared: &Shared, code: &str) -> Result<(AppItself, Kept), Failure> {
    let keeper = shared.keeper.as_ref().ok_or_else(|| Failure::internal("an app was made that nobody keeps"))?;
    let app = app_of_manifest(&shared.wanted.api_url, code).await?;
    let kept = keeper.keep(&app, shared.hook().is_some()).map_err(|failure| {
        let words = format!("The app {} was made, but its key could not be kept: {}", app.name, failure.message);
        Failure { message: words, ..failure }.next(format!("Delete it at {}, mend the place and begin again.", app.url))
    })?;
    Ok((AppItself { id: app.id, name: app.name, url: app.url }, kept))
}

#[derive(Deserialize)]
struct Pressed {
    token: String,
    repository: Option<String>,
}

async fn offer(State(shared): State<Arc<Shared>>, Form(pressed): Form<Pressed>) -> Response {
    let repo = pressed.repository.and_then(|name| name.parse::<RepoName>().ok());
    let Some(repo) = repo.filter(|_| knows(&shared.token, &pressed.token)) else { return not_of_this_page() };
    let mut view = shared.view();
    let is_installed = view.installed.iter().any(|installed| installed.repositories.contains(&repo));
    let is_under_way = matches!(view.offers.get(&repo), Some(Offer::Running(_) | Offer::Open(..)));
    if is_installed && !is_under_way {
        view.offers.insert(repo.clone(), Offer::Running("looking".to_owned()));
        let _ = shared.tell.send(Event::Offer(repo));
    }
    drop(view);
    Redirect::to(&shared.here).into_response()
}

async fn done(State(shared): State<Arc<Shared>>, Form(pressed): Form<Pressed>) -> Response {
    if !knows(&shared.token, &pressed.token) {
        return not_of_this_page();
    }
    shared.view().is_done = true;
    // Rendered before the program hears of it and ends.
    let response = show(State(shared.clone())).await;
    let _ = shared.tell.send(Event::Done);
    response
}

fn not_of_this_page() -> Response {
    (StatusCode::FORBIDDEN, "This form is not of the page that is open now.\n").into_response()
}
