//! A GitHub that fits in a test: stateful, over real HTTP, with real bare repositories behind git's smart HTTP.
//!
//! What Onramp may rely on is refused here when it is not so: every request needs a valid token, an installation token
//! only reaches its own repositories, a second pull request of one branch is a 422, a push needs the right to write.
//! Every request is recorded, and any of them can be made to go wrong ([`Fault`]). What a test sets up and looks at goes
//! around HTTP, through the methods of [`GitHub`].

mod api;
mod apps;
mod bare;
mod checks;
mod contract;
mod faults;
mod git_http;
mod history;
mod json;
mod objects;
mod pulls;
mod setup;
mod state;
mod talk;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, to_bytes},
    extract::{Query, Request, State as Shared},
    http::{Method, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub use apps::AppKey;
pub use bare::Bare;
pub use faults::Fault;
pub use state::{Comment, Issue, Permission, Pull, Recorded};
pub use talk::{LineComment, Reacted};

use crate::delivery::{Delivery, WEBHOOK_SECRET};
use state::{State, Token};

/// The largest request body that is taken: a push of a test repository.
const MAX_BODY_BYTES: usize = 64 << 20;

/// The fake, running until it is dropped.
pub struct GitHub {
    server: Arc<Server>,
    address: SocketAddr,
    task: JoinHandle<()>,
    _dir: TempDir,
}

struct Server {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// How many requests were ever held.
    held: watch::Sender<usize>,
    released: watch::Sender<bool>,
}

impl Server {
    /// Returns when the test releases what is held.
    async fn hold(&self) {
        let mut released = self.released.subscribe();
        self.held.send_modify(|n| *n += 1);
        // The sender lives as long as this server.
        let _ = released.wait_for(|released| *released).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A handler that panicked has failed its test already; the others may still look.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GitHub {
    /// Starts one on a free port of loopback, shaped like github.com: the API lies at the root of its own host.
    pub async fn start() -> Self {
        Self::start_at("").await
    }

    /// Starts one shaped like GitHub Enterprise Server: the API lies under `/api/v3`.
    pub async fn start_enterprise() -> Self {
        Self::start_at("/api/v3").await
    }

    async fn start_at(prefix: &str) -> Self {
        contract::read();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port of loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = State::new(format!("http://{address}"), prefix.to_owned(), dir.path().to_owned());
        let server = Arc::new(Server {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            held: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        let router = axum::Router::new().fallback(serve).with_state(server.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serving does not end") });
        Self { server, address, task, _dir: dir }
    }

    /// Where the REST API lies.
    pub fn api_url(&self) -> String {
        self.server.state().api_url()
    }

    /// Where people and git look: `<git_url>/owner/name.git`.
    pub fn git_url(&self) -> String {
        format!("http://{}", self.address)
    }

    // ---- setting the scene

    /// Makes a repository whose branch `main` holds these files in one commit. A file that starts with `#!` is executable.
    pub fn repository(&self, name: &str, files: &[(&str, &str)]) -> &Self {
        self.server.state().add_repository(name, files);
        self
    }

    /// Makes a person, or gives a login to somebody else.
    pub fn user(&self, login: &str, id: u64) -> &Self {
        self.server.state().users.insert(login.to_owned(), id);
        self
    }

    /// Says what a person may do in a repository.
    pub fn permission(&self, repo: &str, login: &str, permission: Permission) -> &Self {
        self.server.state().repository_mut(repo).permissions.insert(login.to_owned(), permission);
        self
    }

    /// A personal access token of a person: may do what the person may.
    pub fn personal_token(&self, login: &str) -> String {
        let mut state = self.server.state();
        let token = format!("ghp_canary{:026}", state.fresh_id());
        state.tokens.insert(token.clone(), Token::Personal { login: login.to_owned() });
        token
    }

    /// Registers an app, installed on these repositories, and returns its key in PEM.
    pub fn app(&self, id: u64, repos: &[&str]) -> AppKey {
        let key = AppKey::generate();
        let mut state = self.server.state();
        let installed_on = repos.iter().map(|name| state.repository(name).id).collect();
        state.app = Some(apps::App::new(id, &key, installed_on));
        key
    }

    /// Installs the app that was made on these repositories, as its owner does on the app's page.
    ///
    /// # Panics
    /// When nobody made one.
    pub fn install(&self, repos: &[&str]) -> &Self {
        let mut state = self.server.state();
        let ids = repos.iter().map(|name| state.repository(name).id).collect();
        state.app.as_mut().expect("an app was made").installed_on = ids;
        drop(state);
        self
    }

    /// Opens an issue.
    pub fn issue(&self, repo: &str, title: &str, body: &str, author: &str) -> u64 {
        self.server.state().add_issue(repo, title, body, author)
    }

    /// Adds a comment to an issue, as somebody who is not Onramp.
    pub fn comment(&self, repo: &str, issue: u64, author: &str, body: &str) -> &Self {
        self.server.state().add_comment(repo, issue, author, body);
        self
    }

    /// Adds a comment that was written and last changed at these moments, in the words of GitHub.
    pub fn comment_dated(
        &self,
        repo: &str,
        issue: u64,
        author: &str,
        body: &str,
        written: &str,
        changed: &str,
    ) -> &Self {
        let mut state = self.server.state();
        let id = state.add_comment(repo, issue, author, body).id;
        let comment = state.comments.iter_mut().find(|comment| comment.id == id).expect("it was just added");
        written.clone_into(&mut comment.created_at);
        changed.clone_into(&mut comment.updated_at);
        drop(state);
        self
    }

    /// Commits a change to a branch of a repository, behind Onramp's back, and returns the commit.
    pub fn commit(&self, repo: &str, branch: &str, files: &[(&str, &str)]) -> String {
        self.bare(repo).commit(branch, files, "A change from elsewhere")
    }

    /// Makes the next `times` requests that match go wrong. `*` in `path` stands for anything.
    pub fn fault(&self, method: Method, path: &str, fault: Fault, times: usize) -> &Self {
        self.server.state().faults.add(method, path, fault, times);
        self
    }

    /// Waits until so many requests were ever held.
    ///
    /// # Panics
    /// When that takes longer than `deadline`.
    pub async fn until_held(&self, n: usize, deadline: Duration) {
        let mut held = self.server.held.subscribe();
        let held =
            tokio::time::timeout(deadline, held.wait_for(|held| *held >= n)).await.is_ok_and(|held| held.is_ok());
        assert!(held, "not held after {deadline:?}; requests were:\n{}", self.requests_in_words());
    }

    /// Lets everything go that is held, and from now on nothing is held.
    pub fn release(&self) -> &Self {
        self.server.released.send_replace(true);
        self
    }

    /// From now on texts that are sent for a tree get other line ends: a forge that means well.
    pub fn mangle_trees(&self) -> &Self {
        self.server.state().mangles_trees = true;
        self
    }

    // ---- what people do, with the delivery that GitHub would send for it

    /// Sets a label on an issue.
    pub fn label(&self, repo: &str, issue: u64, label: &str, sender: &str) -> Delivery {
        let mut state = self.server.state();
        state.issue_mut(repo, issue).add_label(label);
        state.happened("labeled", repo, issue, sender, Some(label));
        Delivery::new("issues", &json::issue_event(&state, "labeled", repo, issue, Some(label), sender))
    }

    /// Takes a label off an issue.
    pub fn unlabel(&self, repo: &str, issue: u64, label: &str, sender: &str) -> Delivery {
        let mut state = self.server.state();
        state.issue_mut(repo, issue).labels.retain(|set| set != label);
        state.happened("unlabeled", repo, issue, sender, Some(label));
        Delivery::new("issues", &json::issue_event(&state, "unlabeled", repo, issue, Some(label), sender))
    }

    /// Assigns an issue to somebody, or takes it from them.
    pub fn assign(&self, repo: &str, issue: u64, action: &'static str, assignee: &str, sender: &str) -> Delivery {
        let state = self.server.state();
        let mut event = json::issue_event(&state, action, repo, issue, None, sender);
        event["assignee"] = json::user(&state, assignee);
        Delivery::new("issues", &event)
    }

    /// Closes an issue.
    pub fn close_issue(&self, repo: &str, issue: u64, sender: &str) -> Delivery {
        let mut state = self.server.state();
        state.issue_mut(repo, issue).open = false;
        state.happened("closed", repo, issue, sender, None);
        Delivery::new("issues", &json::issue_event(&state, "closed", repo, issue, None, sender))
    }

    /// Gives a repository another name. The old one leads to it, for the API and for git.
    pub fn rename(&self, repo: &str, name: &str) -> &Self {
        let mut state = self.server.state();
        let found = state.repository_mut(repo);
        let old = found.full_name();
        found.old_names.push(old);
        name.clone_into(&mut found.name);
        drop(state);
        self
    }

    /// Says that somebody did something with a pull request at this moment, in the words of GitHub.
    pub fn touch(&self, repo: &str, number: u64, at: &str) -> &Self {
        at.clone_into(&mut self.server.state().pull_mut(repo, number).updated_at);
        self
    }

    /// Merges a pull request (the branch's commit becomes the base's) or only closes it.
    pub fn close_pull(&self, repo: &str, number: u64, merged: bool, sender: &str) -> Delivery {
        let mut state = self.server.state();
        let bare = state.repository(repo).bare();
        let pull = state.pull_mut(repo, number);
        (pull.open, pull.merged) = (false, merged);
        state.happened("closed", repo, number, sender, None);
        let pull = state.pull_mut(repo, number).clone();
        if merged {
            bare.point(&pull.base, &bare.tip(&pull.head).expect("the branch of the pull request is there"));
        }
        Delivery::new("pull_request", &json::pull_event(&state, "closed", repo, number, sender))
    }

    /// The secret that deliveries are signed with.
    pub fn webhook_secret(&self) -> &'static str {
        WEBHOOK_SECRET
    }

    // ---- looking

    /// The bare repository itself.
    pub fn bare(&self, repo: &str) -> Bare {
        self.server.state().repository(repo).bare()
    }

    /// Every file of a branch, by path.
    pub fn branch_tree(&self, repo: &str, branch: &str) -> BTreeMap<String, String> {
        self.bare(repo).files(branch)
    }

    /// Every pull request, of all repositories, oldest first.
    pub fn pulls(&self) -> Vec<Pull> {
        let state = self.server.state();
        let mut pulls: Vec<_> = state.repositories.iter().flat_map(|repo| repo.pulls.values().cloned()).collect();
        pulls.sort_by_key(|pull| pull.id);
        pulls
    }

    /// The comments on an issue, oldest first.
    pub fn comments(&self, repo: &str, issue: u64) -> Vec<Comment> {
        self.server.state().comments_of(repo, issue).cloned().collect()
    }

    /// Every manifest of an app that was posted.
    pub fn manifests(&self) -> Vec<serde_json::Value> {
        self.server.state().setup.manifests.clone()
    }

    /// Every request until now, in order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.server.state().requests.clone()
    }

    /// What GitHub's published description has against the requests until now.
    pub fn objections(&self) -> Vec<String> {
        self.server.state().objections.clone()
    }

    /// How many requests had this method and a path like this. `*` stands for anything.
    pub fn count(&self, method: &Method, path: &str) -> usize {
        let state = self.server.state();
        state.requests.iter().filter(|r| r.method == *method && faults::matches(path, &r.path)).count()
    }

    /// Waits until `found` returns something, asking again after each request that arrives; panics with what arrived
    /// when that takes longer than `deadline`.
    pub async fn until<T>(&self, what: &str, deadline: Duration, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let mut changed = self.server.changed.subscribe();
        let look = async {
            loop {
                changed.mark_unchanged();
                if let Some(value) = found(self) {
                    return value;
                }
                changed.changed().await.expect("the server lives as long as its handle");
            }
        };
        match tokio::time::timeout(deadline, look).await {
            Ok(value) => value,
            Err(_) => panic!("no {what} after {deadline:?}; requests were:\n{}", self.requests_in_words()),
        }
    }

    /// The requests, one a line, for the message of a failed test.
    pub fn requests_in_words(&self) -> String {
        let lines = self.requests().into_iter().map(|r| format!("  {} {} -> {}\n", r.method, r.path, r.status));
        lines.collect()
    }
}

impl Drop for GitHub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request, read whole.
struct Call {
    method: Method,
    /// Without the prefix of the API.
    path: String,
    query: BTreeMap<String, String>,
    headers: axum::http::HeaderMap,
    body: Bytes,
}

impl Call {
    fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

async fn serve(Shared(server): Shared<Arc<Server>>, request: Request) -> Response {
    let at = Instant::now();
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(error) => return (axum::http::StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let query = Query::try_from_uri(&parts.uri).map(|Query(query)| query).unwrap_or_default();
    let call = Call { method: parts.method, path: parts.uri.path().to_owned(), query, headers: parts.headers, body };

    if git_http::Exchange::of(&call).is_none() && !setup::is_page(&call) {
        let mut state = server.state();
        let path = call.path.strip_prefix(&state.prefix).unwrap_or(&call.path).to_owned();
        state.objections.extend(contract::objections(&call.method, &path, &call.query, &call.body));
    }
    let fault = server.state().faults.take(&call.method, &call.path);
    let response = match fault {
        Some(fault) => fault.answer(&server, &call).await,
        None => answer(&server, &call).await,
    };
    let status = response.status().as_u16();
    let Call { method, path, body, .. } = call;
    server.state().requests.push(Recorded { method, path, body, status, at });
    server.changed.send_modify(|n| *n += 1);
    response
}

async fn answer(server: &Server, call: &Call) -> Response {
    if let Some(page) = setup::page(server, call) {
        return page;
    }
    match git_http::Exchange::of(call) {
        Some(exchange) => git_http::answer(server, &exchange, call).await,
        None => {
            let reply = api::answer(&mut server.state(), call);
            reply.unless_known(call.header(header::IF_NONE_MATCH)).into_response()
        }
    }
}

impl IntoResponse for api::Reply {
    fn into_response(self) -> Response {
        let mut response = Response::builder().status(self.status).header(header::CONTENT_TYPE, "application/json");
        if let Some(etag) = self.etag() {
            response = response.header(header::ETAG, etag);
        }
        if let Some(link) = self.link {
            response = response.header(header::LINK, link);
        }
        if let Some(location) = self.location {
            response = response.header(header::LOCATION, location);
        }
        let body = if matches!(self.status, 204 | 304) { Body::empty() } else { Body::from(self.body.to_string()) };
        response.body(body).expect("these headers are valid")
    }
}

/// A part of a path as it was meant: `%2F` is a slash that does not part.
fn percent_decoded(part: &str) -> String {
    let mut pieces = part.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        match piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&piece.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
