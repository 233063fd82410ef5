//! The pages for people: rendered here, usable without JavaScript, and strict about what a browser may load.
//!
//! They hold nothing of their own: whatever they show they ask of [`Front`], and whoever is logged in is known by a signed
//! cookie that names their token.

mod admin;
mod diff;
mod log;
mod session;
mod stats;
mod task;
mod tasks;

use std::{path::Path, sync::Arc};

use ::tasks::{Code, Failure};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Serialize;
use serde_json::{Value, json};

use self::session::{Session, Sessions};
use crate::{
    api::{Entrance, Problem},
    front::{Caller, Front, Scope},
};

/// Nothing but what this server sends, and nothing inline.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
const MAX_FORM_BYTES: usize = 256 << 10;

/// What every page shares.
#[derive(Clone)]
pub struct Pages(Arc<Inner>);

struct Inner {
    front: Front,
    entrance: Entrance,
    sessions: Sessions,
}

impl Pages {
    /// The pages of this data directory, where the key of the sessions lies. `is_https`: how people reach them.
    ///
    /// # Errors
    /// E062 when the key cannot be kept.
    pub fn new(front: Front, entrance: Entrance, data: &Path, is_https: bool) -> Result<Self, Failure> {
        let sessions = Sessions::open(data, is_https)?;
        Ok(Self(Arc::new(Inner { front, entrance, sessions })))
    }

    /// Their routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(tasks::list))
            .route("/tasks", post(task::create).get(async || Redirect::to("/")))
            .route("/tasks/{task}", get(task::show))
            .route("/tasks/{task}/say", post(task::say))
            .route("/tasks/{task}/log.sse", get(log::live))
            .route("/tasks/{task}/log.txt", get(log::raw))
            .route("/tasks/{task}/diff.patch", get(diff::raw))
            .route("/tasks/{task}/files/{attempt}/{name}", get(task::file))
            .route("/tasks/{task}/{verb}", post(task::act))
            .route("/stats", get(stats::page))
            .route("/stats.csv", get(stats::csv))
            .route("/admin", get(admin::page))
            .route("/admin/tokens/{token}/revoke", post(admin::revoke))
            .route("/logout", post(session::log_out))
            .layer(middleware::from_fn_with_state(self.clone(), session::demand))
            .route("/login", get(session::login_page).post(session::log_in))
            .route("/theme", post(session::theme))
            .layer(middleware::from_fn(from_here))
            .route("/assets/{name}", get(asset))
            .layer(axum::extract::DefaultBodyLimit::max(MAX_FORM_BYTES))
            .layer(middleware::from_fn(guarded))
            .with_state(self)
    }

    fn front(&self) -> &Front {
        &self.0.front
    }
}

/// What each page is told besides its own.
#[derive(Debug, Clone)]
struct Shell {
    theme: Option<&'static str>,
    path: String,
    told: Option<String>,
}

impl Shell {
    fn of(headers: &HeaderMap, path: &str) -> Self {
        let theme = session::cookie(headers, session::THEME);
        let theme = theme.and_then(|theme| ["light", "dark"].into_iter().find(|known| *known == theme));
        Self { theme, path: path.to_owned(), told: None }
    }

    /// The page, whole. `refresh`: without JavaScript it is asked for again after so many seconds.
    fn page(self, name: &str, here: &str, session: Option<&Session>, refresh: Option<u32>, own: Value) -> Answer {
        let who = session.map(|session| {
            let Caller { name, scope, .. } = &session.caller;
            json!({ "name": name, "scope": scope.word(), "may_admin": *scope >= Scope::Admin })
        });
        let csrf = session.map_or_else(String::new, |session| session.csrf.clone());
        let Self { theme, path, told } = self;
        let mut context = json!({ "theme": theme, "path": path, "told": told, "here": here, "who": who, "csrf": csrf, "refresh": refresh });
        if let (Value::Object(context), Value::Object(own)) = (&mut context, own) {
            context.extend(own);
        }
        let html = templates::page(name, context).map_err(|error| {
            use std::error::Error as _;
            Failure::internal(format!("{error}: {}", error.source().map_or_else(String::new, ToString::to_string)))
        })?;
        Ok(Html(html).into_response())
    }
}

/// A failure as a page.
#[derive(Debug)]
struct Trouble(Failure);

type Answer = Result<Response, Trouble>;

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let Failure { code, message, next_step, .. } = &self.0;
        let status = StatusCode::from_u16(Problem::of(&self.0).status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(failure = %self.0, "a page could not be made");
        }
        let own = json!({
            "theme": null, "path": "/", "told": null, "here": "", "who": null, "csrf": "", "refresh": null,
            "code": code, "message": message, "next_step": next_step,
        });
        let html = templates::page("problem.html", own).unwrap_or_else(|_| self.0.to_string());
        (status, Html(html)).into_response()
    }
}

/// As a value that a template can take.
fn value(of: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of).map_err(Failure::internal)
}

/// What every answer carries.
async fn guarded(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Forms are taken from our own pages alone: browsers say where a form came from. Those that are too old to say it still
/// send no session along, since its cookie is for our own pages alone too.
async fn from_here(request: Request, next: Next) -> Response {
    let from = request.headers().get("sec-fetch-site").and_then(|value| value.to_str().ok());
    let is_foreign = from.is_some_and(|from| !matches!(from, "same-origin" | "none"));
    if is_foreign && request.method() != axum::http::Method::GET {
        return Trouble(session::not_from_here()).into_response();
    }
    next.run(request).await
}

async fn asset(axum::extract::Path(name): axum::extract::Path<String>) -> Response {
    match templates::ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, media, text)) => {
            let headers = [(header::CONTENT_TYPE, *media), (header::CACHE_CONTROL, "max-age=300")];
            (headers, Body::from(*text)).into_response()
        }
        None => Trouble(Failure::new(Code::NoArtifact, "There is nothing of that name")).into_response(),
    }
}

/// The state of the pages.
type Of = State<Pages>;
