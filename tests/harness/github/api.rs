//! The part of GitHub's REST API that Onramp uses, with GitHub's own refusals.

use axum::http::header;
use serde_json::{Value, json};

use super::{
    Call, apps, checks, history, json, objects, pulls, setup,
    state::{Permission, Repository, State, Token, now},
    talk,
};

/// The longest text of a comment or a pull request.
const MAX_BODY_CHARS: usize = 65_536;

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) link: Option<String>,
    pub(super) location: Option<String>,
}

/// What a route says: both sides are answers, and the right one ends the matter early.
pub(super) type Answer = Result<Reply, Reply>;

impl Reply {
    pub(super) fn ok(body: Value) -> Self {
        Self { status: 200, body, link: None, location: None }
    }

    pub(super) fn created(body: Value) -> Self {
        Self { status: 201, body, link: None, location: None }
    }

    pub(super) fn error(status: u16, message: &str) -> Self {
        let docs = "https://docs.github.com/rest";
        Self { status, body: json!({ "message": message, "documentation_url": docs }), link: None, location: None }
    }

    /// Done, and there is nothing to say.
    pub(super) fn nothing() -> Self {
        Self { status: 204, body: Value::Null, link: None, location: None }
    }

    /// The same bytes have the same one.
    pub(super) fn etag(&self) -> Option<String> {
        let mut hash = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&self.body.to_string(), &mut hash);
        (self.status == 200).then(|| format!("\"{:x}\"", std::hash::Hasher::finish(&hash)))
    }

    /// Nothing but that it is still the same, for who knows it.
    pub(super) fn unless_known(self, known: &str) -> Self {
        match self.etag() {
            Some(etag) if etag == known => Self { status: 304, body: Value::Null, link: None, location: None },
            _ => self,
        }
    }

    pub(super) fn not_found() -> Self {
        Self::error(404, "Not Found")
    }

    /// 422 with one error of GitHub's shape.
    pub(super) fn invalid(error: &Value) -> Self {
        let mut reply = Self::error(422, "Validation Failed");
        reply.body["errors"] = json!([error]);
        reply
    }
}

/// What a request needs to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Metadata,
    ReadContents,
    WriteContents,
    ReadIssues,
    WriteIssues,
    ReadPulls,
    WritePulls,
    ReadChecks,
    WriteChecks,
}

impl Need {
    /// The permission of an app, and whether it is one to write.
    fn of_app(self) -> (&'static str, bool) {
        match self {
            Self::Metadata => ("metadata", false),
            Self::ReadContents => ("contents", false),
            Self::WriteContents => ("contents", true),
            Self::ReadIssues => ("issues", false),
            Self::WriteIssues => ("issues", true),
            Self::ReadPulls => ("pull_requests", false),
            Self::WritePulls => ("pull_requests", true),
            Self::ReadChecks => ("checks", false),
            Self::WriteChecks => ("checks", true),
        }
    }
}

impl Token {
    /// Whether the holder may do this; 404 where it must not even know, 403 where it may only look.
    pub(super) fn may(&self, need: Need, repo: &Repository) -> Result<(), Reply> {
        let (right, writes) = need.of_app();
        match self {
            Self::Installation { repositories, .. } if !repositories.contains(&repo.id) => Err(Reply::not_found()),
            Self::Installation { permissions, .. } => match permissions.get(right).map(String::as_str) {
                Some("write") => Ok(()),
                Some("read") if !writes => Ok(()),
                _ => Err(Reply::error(403, "Resource not accessible by integration")),
            },
            Self::Personal { login } => match repo.permissions.get(login).copied().unwrap_or(Permission::None) {
                Permission::None => Err(Reply::not_found()),
                Permission::Read if writes => {
                    Err(Reply::error(403, "Resource not accessible by personal access token"))
                }
                Permission::Read | Permission::Write | Permission::Admin => Ok(()),
            },
        }
    }

    pub(super) fn login(&self) -> &str {
        match self {
            Self::Personal { login } => login,
            Self::Installation { .. } => json::BOT,
        }
    }
}

impl Call {
    pub(super) fn json(&self) -> Result<Value, Reply> {
        if self.body.is_empty() {
            return Ok(json!({}));
        }
        serde_json::from_slice(&self.body).map_err(|_| Reply::error(400, "Problems parsing JSON"))
    }

    fn number(&self, name: &str, otherwise: usize) -> usize {
        self.query.get(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    }
}

/// Answers a request.
pub(super) fn answer(state: &mut State, call: &Call) -> Reply {
    route(state, call).unwrap_or_else(|refusal| refusal)
}

fn route(state: &mut State, call: &Call) -> Answer {
    let graph = state.prefix.replace("/v3", "/graphql");
    let graph = if graph.is_empty() { "/graphql" } else { &graph };
    if call.method == axum::http::Method::POST && call.path == graph {
        let bearer = call.header(header::AUTHORIZATION);
        let token = bearer.split_once(' ').and_then(|(_, token)| state.tokens.get(token)).cloned();
        let token = token.ok_or_else(|| Reply::error(401, "Bad credentials"))?;
        return history::graph(state, &token, call);
    }
    let path = call.path.strip_prefix(&state.prefix).ok_or_else(Reply::not_found)?;
    let path: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(super::percent_decoded).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();

    if let ("POST", ["app-manifests", code, "conversions"]) = (call.method.as_str(), path.as_slice()) {
        return setup::convert(state, code);
    }
    let bearer = call.header(header::AUTHORIZATION);
    let bearer = bearer.strip_prefix("Bearer ").or_else(|| bearer.strip_prefix("token ")).unwrap_or_default();
    if bearer.matches('.').count() == 2 {
        let app = state.app.as_ref().ok_or_else(|| Reply::error(404, "Integration not found"))?;
        app.accepts(bearer).map_err(|why| Reply::error(401, why))?;
        return apps::answer(state, call, &path);
    }
    let token = state.tokens.get(bearer).cloned().ok_or_else(|| Reply::error(401, "Bad credentials"))?;

    match (call.method.as_str(), path.as_slice()) {
        ("GET", ["user"]) => match &token {
            Token::Personal { login } => Ok(Reply::ok(json::user(state, login))),
            Token::Installation { .. } => Err(Reply::error(403, "Resource not accessible by integration")),
        },
        ("DELETE", ["installation", "token"]) => match state.tokens.remove(bearer) {
            Some(Token::Installation { .. }) => Ok(Reply::nothing()),
            _ => Err(Reply::error(403, "Resource not accessible by personal access token")),
        },
        ("GET", ["installation", "repositories"]) => {
            let Token::Installation { repositories, .. } = &token else { return Err(Reply::not_found()) };
            let seen = state.repositories.iter().filter(|repo| repositories.contains(&repo.id));
            let seen: Vec<Value> = seen.map(|repo| json::repository(state, repo)).collect();
            Ok(Reply::ok(json!({ "total_count": seen.len(), "repositories": seen })))
        }
        ("GET", ["users", login]) => Ok(Reply::ok(json::user(state, login))),
        ("GET", ["user", id]) => {
            let known = state.users.iter().find(|(_, known)| known.to_string() == *id);
            known.map(|(login, _)| Reply::ok(json::user(state, login))).ok_or_else(Reply::not_found)
        }
        (_, ["repos", owner, name, rest @ ..]) => {
            let full_name = format!("{owner}/{name}");
            if let Some(renamed) = state.find_renamed(&full_name) {
                return Ok(moved(state, call, renamed.id, rest));
            }
            state.find(&full_name).ok_or_else(Reply::not_found)?;
            in_repository(&mut InRepository { state, token, name: full_name, call }, rest)
        }
        (_, ["repositories", id, rest @ ..]) => {
            let found = state.repositories.iter().find(|repo| repo.id.to_string() == *id);
            let full_name = found.ok_or_else(Reply::not_found)?.full_name();
            in_repository(&mut InRepository { state, token, name: full_name, call }, rest)
        }
        _ => Err(Reply::not_found()),
    }
}

/// Where a request has to go whose repository has another name now: by its number, as GitHub answers.
fn moved(state: &State, call: &Call, id: u64, rest: &[&str]) -> Reply {
    let status = if call.method == axum::http::Method::GET { 301 } else { 307 };
    let query: Vec<_> = call.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let rest: String = rest.iter().map(|part| format!("/{part}")).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let to = format!("{}/repositories/{id}{rest}{query}", state.api_url());
    let body =
        json!({ "message": "Moved Permanently", "url": to, "documentation_url": "https://docs.github.com/rest" });
    Reply { status, body, link: None, location: Some(to) }
}

/// A request that is about one repository.
pub(super) struct InRepository<'a> {
    pub(super) state: &'a mut State,
    pub(super) token: Token,
    pub(super) name: String,
    pub(super) call: &'a Call,
}

impl InRepository<'_> {
    pub(super) fn repo(&self) -> &Repository {
        self.state.repository(&self.name)
    }

    pub(super) fn need(&self, need: Need) -> Result<(), Reply> {
        self.token.may(need, self.repo())
    }

    /// One page of a list, with the header that leads to the next.
    pub(super) fn page(&self, items: Vec<Value>) -> Reply {
        let per_page = self.call.number("per_page", 30).clamp(1, 100);
        let page = self.call.number("page", 1).max(1);
        let last = items.len().div_ceil(per_page).max(1);
        let address = |page| {
            let others = self.call.query.iter().filter(|(name, _)| *name != "page");
            let others: String = others.map(|(name, value)| format!("&{name}={value}")).collect();
            format!("{}{}?page={page}{others}", self.state.web_url, self.call.path)
        };
        let link =
            (page < last).then(|| format!(r#"<{}>; rel="next", <{}>; rel="last""#, address(page + 1), address(last)));
        let items = items.into_iter().skip((page - 1) * per_page).take(per_page).collect();
        Reply { status: 200, body: items, link, location: None }
    }
}

fn in_repository(at: &mut InRepository<'_>, path: &[&str]) -> Answer {
    match (at.call.method.as_str(), path) {
        ("GET", []) => {
            at.need(Need::Metadata)?;
            let mut body = json::repository(at.state, at.repo());
            if let Token::Personal { login } = &at.token {
                // Apps are not told what they may do.
                let own = at.repo().permissions.get(login).copied().unwrap_or(Permission::None);
                let may = |least| own >= least;
                let (push, admin) = (may(Permission::Write), may(Permission::Admin));
                body["permissions"] = json!({
                    "pull": may(Permission::Read), "triage": push, "push": push, "maintain": admin, "admin": admin,
                });
            }
            Ok(Reply::ok(body))
        }
        ("GET", ["collaborators", login, "permission"]) => permission(at, login),
        ("GET", ["git", "ref" | "refs", "heads", branch @ ..]) => reference(at, &branch.join("/")),
        ("GET", ["branches", branch @ ..]) => branch_head(at, &branch.join("/")),

        ("GET", ["issues", "events"]) => history::issue_events(at),
        ("GET", ["issues", "comments"]) => history::all_comments(at),
        ("GET", ["commits", sha, "check-suites"]) => checks::suites_of(at, sha),
        ("GET", ["issues", number]) => issue(at, number),
        ("GET", ["issues", number, "comments"]) => list_comments(at, number),
        ("POST", ["issues", number, "comments"]) => create_comment(at, number),
        ("GET", ["issues", "comments", id]) => one_comment(at, id),
        ("PATCH", ["issues", "comments", id]) => edit_comment(at, id),
        ("POST", ["issues", number, "labels"]) => add_labels(at, number),
        ("GET", ["issues", number, "labels"]) => {
            at.need(Need::ReadIssues).or_else(|refused| at.need(Need::ReadPulls).map_err(|_| refused))?;
            let number = numbered(at, number)?;
            let labels = labels_of(at, number)?.clone();
            Ok(at.page(labels.iter().map(|name| json::label(at.state, at.repo(), name)).collect()))
        }

        ("GET", ["pulls"]) => pulls::list(at),
        ("POST", ["pulls"]) => pulls::create(at),
        ("GET", ["pulls", number]) => pulls::one(at, number),
        ("PATCH", ["pulls", number]) => pulls::update(at, number),
        ("POST", ["pulls", number, "requested_reviewers"]) => pulls::request_reviewers(at, number),
        ("GET", ["pulls", number, "reviews"]) => history::reviews(at, number),
        ("GET", ["pulls", number, "reviews", id]) => talk::one_review(at, number, id),
        ("GET", ["pulls", number, "reviews", id, "comments"]) => talk::line_comments(at, number, Some(id)),
        ("GET", ["pulls", number, "comments"]) => talk::line_comments(at, number, None),
        ("POST", ["pulls", number, "comments", id, "replies"]) => talk::reply(at, number, id),
        ("POST", ["issues", number, "reactions"]) => talk::react(at, format!("issues/{}", numbered(at, number)?)),
        ("POST", ["issues", "comments", id, "reactions"]) => {
            let id = at.state.comments[find_comment(at, id)?].id;
            talk::react(at, format!("issues/comments/{id}"))
        }
        ("GET", ["commits", of, "check-runs"]) => checks::runs_of(at, of),
        ("GET", ["commits", of]) => objects::one_commit(at, of),
        ("POST", ["git", "blobs"]) => objects::blob(at),
        ("POST", ["git", "trees"]) => objects::tree(at),
        ("POST", ["git", "commits"]) => objects::commit(at),
        ("POST", ["git", "refs"]) => objects::create_reference(at),
        ("PATCH", ["git", "refs", "heads", branch @ ..]) => objects::update_reference(at, &branch.join("/")),
        ("POST", ["check-runs"]) => checks::create(at),
        ("POST", ["check-runs", id, "rerequest"]) => checks::run_again(at, id),
        ("DELETE", ["git", "refs", "heads", branch @ ..]) => {
            at.need(Need::WriteContents)?;
            let branch = branch.join("/");
            at.repo().bare().tip(&branch).ok_or_else(|| Reply::error(422, "Reference does not exist"))?;
            at.repo().bare().delete(&branch);
            Ok(Reply::nothing())
        }
        _ => Err(Reply::not_found()),
    }
}

// ---- people and branches

fn permission(at: &InRepository<'_>, login: &str) -> Answer {
    at.need(Need::Metadata)?;
    if !at.state.users.contains_key(login) {
        return Err(Reply::error(404, &format!("{login} is not a user")));
    }
    let word = at.repo().permissions.get(login).copied().unwrap_or(Permission::None).word();
    Ok(Reply::ok(json!({ "permission": word, "role_name": word, "user": json::user(at.state, login) })))
}

fn reference(at: &InRepository<'_>, branch: &str) -> Answer {
    at.need(Need::ReadContents)?;
    let sha = at.repo().bare().tip(branch).ok_or_else(Reply::not_found)?;
    let url = format!("{}/repos/{}/git/refs/heads/{branch}", at.state.api_url(), at.name);
    let object = json!({ "type": "commit", "sha": sha, "url": url });
    Ok(Reply::ok(json!({ "ref": format!("refs/heads/{branch}"), "node_id": "REF_1", "url": url, "object": object })))
}

fn branch_head(at: &InRepository<'_>, branch: &str) -> Answer {
    at.need(Need::ReadContents)?;
    let sha = at.repo().bare().tip(branch).ok_or_else(|| Reply::error(404, "Branch not found"))?;
    Ok(Reply::ok(json!({ "name": branch, "commit": { "sha": sha }, "protected": false })))
}

// ---- issues and comments

/// The number of an issue or pull request that is there.
fn numbered(at: &InRepository<'_>, number: &str) -> Result<u64, Reply> {
    let number = number.parse().map_err(|_| Reply::not_found())?;
    let repo = at.repo();
    let known = repo.issues.contains_key(&number) || repo.pulls.contains_key(&number);
    if known { Ok(number) } else { Err(Reply::not_found()) }
}

fn issue(at: &InRepository<'_>, number: &str) -> Answer {
    at.need(Need::ReadIssues)?;
    let number = numbered(at, number)?;
    history::issue_or_pull(at.state, &at.name, number).map(Reply::ok).ok_or_else(Reply::not_found)
}

fn list_comments(at: &InRepository<'_>, number: &str) -> Answer {
    at.need(Need::ReadIssues)?;
    let number = numbered(at, number)?;
    let comments = at.state.comments_of(&at.name, number);
    Ok(at.page(comments.map(|comment| json::comment(at.state, at.repo(), comment)).collect()))
}

/// The text under `body`, which has to be there and may be no longer than GitHub takes.
pub(super) fn text(body: &Value, resource: &str) -> Result<String, Reply> {
    let field = |code| Reply::invalid(&json!({ "resource": resource, "field": "body", "code": code }));
    let text = body["body"].as_str().filter(|text| !text.is_empty()).ok_or_else(|| field("missing_field"))?;
    if text.chars().count() > MAX_BODY_CHARS {
        let message = format!("body is too long (maximum is {MAX_BODY_CHARS} characters)");
        return Err(Reply::invalid(
            &json!({ "resource": resource, "field": "body", "code": "custom", "message": message }),
        ));
    }
    Ok(text.to_owned())
}

fn create_comment(at: &mut InRepository<'_>, number: &str) -> Answer {
    at.need(Need::WriteIssues)?;
    let number = numbered(at, number)?;
    let text = text(&at.call.json()?, "IssueComment")?;
    let author = at.token.login().to_owned();
    let comment = at.state.add_comment(&at.name, number, &author, &text).clone();
    Ok(Reply::created(json::comment(at.state, at.repo(), &comment)))
}

fn find_comment(at: &InRepository<'_>, id: &str) -> Result<usize, Reply> {
    let repository = at.repo().id;
    let found = at.state.comments.iter().position(|c| c.id.to_string() == id && c.repository == repository);
    found.ok_or_else(Reply::not_found)
}

fn one_comment(at: &InRepository<'_>, id: &str) -> Answer {
    at.need(Need::ReadIssues)?;
    Ok(Reply::ok(json::comment(at.state, at.repo(), &at.state.comments[find_comment(at, id)?])))
}

fn edit_comment(at: &mut InRepository<'_>, id: &str) -> Answer {
    at.need(Need::WriteIssues)?;
    let text = text(&at.call.json()?, "IssueComment")?;
    let position = find_comment(at, id)?;
    let comment = &mut at.state.comments[position];
    comment.body.clone_from(&text);
    comment.history.push(text);
    comment.updated_at = now();
    one_comment(at, id)
}

fn add_labels(at: &mut InRepository<'_>, number: &str) -> Answer {
    // Pull requests are issues too: either right is enough for them.
    at.need(Need::WriteIssues).or_else(|refused| at.need(Need::WritePulls).map_err(|_| refused))?;
    let number = numbered(at, number)?;
    let body = at.call.json()?;
    let names = body["labels"].as_array().or(body.as_array()).ok_or_else(|| Reply::error(422, "Invalid request."))?;
    let names: Vec<_> = names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let labels = labels_of(at, number)?;
    for name in names {
        if !labels.contains(&name) {
            labels.push(name);
        }
    }
    let labels = labels.clone();
    Ok(Reply::ok(labels.iter().map(|name| json::label(at.state, at.repo(), name)).collect()))
}

/// The labels of an issue or a pull request.
fn labels_of<'a>(at: &'a mut InRepository<'_>, number: u64) -> Result<&'a mut Vec<String>, Reply> {
    let repo = at.state.repository_mut(&at.name);
    match repo.pulls.get_mut(&number) {
        Some(pull) => Ok(&mut pull.labels),
        None => Ok(&mut repo.issues.get_mut(&number).ok_or_else(Reply::not_found)?.labels),
    }
}
