//! Clone and push, by handing the request to `git http-backend` as a web server would, after a look at the token.

use std::{path::PathBuf, process::Stdio};

use axum::{
    body::Body,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{io::AsyncWriteExt, process::Command};

use super::{Call, Server, api::Need};

/// One half of a clone, fetch or push.
pub(super) struct Exchange {
    /// `owner/name`.
    repo: String,
    /// `info/refs`, `git-upload-pack` or `git-receive-pack`.
    what: String,
    /// Whether it belongs to a push.
    writes: bool,
}

impl Exchange {
    /// What a request asks of git, if it asks anything of git.
    pub(super) fn of(call: &Call) -> Option<Self> {
        let mut parts = call.path.strip_prefix('/')?.splitn(3, '/');
        let (owner, name, what) = (parts.next()?, parts.next()?, parts.next()?);
        let service = match what {
            "info/refs" => call.query.get("service").map_or("git-upload-pack", String::as_str),
            "git-upload-pack" | "git-receive-pack" => what,
            _ => return None,
        };
        let repo = format!("{owner}/{}", name.strip_suffix(".git").unwrap_or(name));
        Some(Self { repo, what: what.to_owned(), writes: service == "git-receive-pack" })
    }
}

pub(super) async fn answer(server: &Server, exchange: &Exchange, call: &Call) -> Response {
    let place = match authorise(server, exchange, call) {
        Ok(place) => place,
        Err(refusal) => return refusal.into_response(),
    };
    match backend(place, exchange, call).await {
        Ok(response) => response,
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("git http-backend: {error}")).into_response(),
    }
}

/// Why git is not let in.
enum Refusal {
    Anonymous,
    NotFound,
    Denied(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Anonymous => {
                let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"GitHub\"")];
                (StatusCode::UNAUTHORIZED, ask, "Authentication failed").into_response()
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "Repository not found.").into_response(),
            Self::Denied(repo) => (StatusCode::FORBIDDEN, format!("Permission to {repo}.git denied.")).into_response(),
        }
    }
}

/// The folder of the bare repositories, and which of them it is, when the token in the request may do this. An old name
/// leads nowhere here: whoever has asked the API knows the new one.
fn authorise(server: &Server, exchange: &Exchange, call: &Call) -> Result<(PathBuf, String), Refusal> {
    let state = server.state();
    let anonymous = || Refusal::Anonymous;
    let basic = call.header(header::AUTHORIZATION).strip_prefix("Basic ").ok_or_else(anonymous)?;
    let basic = STANDARD.decode(basic).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(anonymous)?;
    let token = basic.split_once(':').filter(|(user, _)| *user == "x-access-token").map(|(_, token)| token);
    let token = token.and_then(|token| state.tokens.get(token)).ok_or_else(anonymous)?;
    let need = if exchange.writes { Need::WriteContents } else { Need::ReadContents };
    let Some(repo) = state.find(&exchange.repo) else {
        return Err(Refusal::NotFound);
    };
    match token.may(need, repo) {
        Ok(()) => Ok((state.root.clone(), repo.folder(&state.root))),
        Err(refusal) if refusal.status == 404 => Err(Refusal::NotFound),
        Err(_) => Err(Refusal::Denied(exchange.repo.clone())),
    }
}

/// Runs `git http-backend` by the rules of CGI (RFC 3875).
async fn backend(place: (PathBuf, String), exchange: &Exchange, call: &Call) -> std::io::Result<Response> {
    let (root, folder) = place;
    let service = if exchange.writes { "git-receive-pack" } else { "git-upload-pack" };
    let query = if call.method == Method::GET { format!("service={service}") } else { String::new() };
    let mut child = Command::new("git")
        // The repositories are ours, whoever runs the tests; the configuration of this machine is not asked.
        .args(["-c", "safe.directory=*", "-c", "http.receivepack=true", "http-backend"])
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", format!("/{folder}/{}", exchange.what))
        .env("REQUEST_METHOD", call.method.as_str())
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", call.header(header::CONTENT_TYPE))
        .env("CONTENT_LENGTH", call.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", call.header(header::CONTENT_ENCODING))
        .env("GIT_PROTOCOL", call.header("git-protocol"))
        .env("REMOTE_USER", "x-access-token")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let body = call.body.clone();
    let feed = async move {
        // It may stop reading early; its answer says why.
        let _unread = stdin.write_all(&body).await;
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output?;
    if !output.status.success() {
        return Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(from_cgi(&output.stdout))
}

fn from_cgi(output: &[u8]) -> Response {
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(output.len());
    let body = output.get(end + 4..).unwrap_or_default().to_vec();
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => response = response.status(&status[..3]),
            Some((name, value)) => response = response.header(name, value),
            None => {}
        }
    }
    response.body(Body::from(body)).expect("git writes valid headers")
}
