//! Who is logged in: a cookie that names a token, signed by a key of the data directory. Nothing is kept about it: a token
//! that is revoked ends its logins, and a new key ends all.

use std::{fs, io, os::unix::fs::OpenOptionsExt as _, path::Path};

use ::tasks::{Code, Failure, Timestamp};
use axum::{
    Extension, Form,
    extract::{Query, Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{AppendHeaders, IntoResponse as _, Redirect, Response},
};
use chrono::Duration;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;

use super::{Answer, Of, Pages, Shell, Trouble};
use crate::front::{self, Caller};

const COOKIE: &str = "onramp_session";
pub(super) const THEME: &str = "onramp_theme";
const LASTS: Duration = Duration::days(7);

/// Signs cookies and knows them again.
pub(super) struct Sessions {
    key: SecretString,
    is_https: bool,
}

/// Somebody who is logged in.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) caller: Caller,
    /// What every form of theirs carries.
    pub(super) csrf: String,
    /// What proves that.
    proof: Hmac<Sha256>,
}

impl Sessions {
    pub(super) fn open(data: &Path, is_https: bool) -> Result<Self, Failure> {
        let path = data.join("session.key");
        let unusable = |error: io::Error| {
            let message = format!("The key of logins in {} cannot be used: {error}", path.display());
            Failure::new(Code::StoreUnavailable, message)
        };
        let fresh = front::random(32)?;
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match made.and_then(|mut file| io::Write::write_all(&mut file, fresh.as_bytes()).and_then(|()| file.sync_all()))
        {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
            _ => {}
        }
        let key = fs::read_to_string(&path).map_err(unusable)?;
        if key.trim().len() < 64 {
            return Err(unusable(io::Error::other("it was cut short; remove it to have a new one made")));
        }
        Ok(Self { key: SecretString::from(key), is_https })
    }

    /// `<token id>.<until>.<nonce>.<signature>`
    fn cookie(&self, caller: &Caller, now: Timestamp) -> Result<String, Failure> {
        let body = format!("{}.{}.{}", caller.key, (now + LASTS).timestamp(), front::random(8)?);
        Ok(format!("{body}.{}", hex::encode(self.sign("session", &body).finalize().into_bytes())))
    }

    /// The id of the token that this cookie names, and what proves its forms.
    fn known(&self, cookie: &str, now: Timestamp) -> Option<(String, Hmac<Sha256>)> {
        let (body, signature) = cookie.rsplit_once('.')?;
        self.sign("session", body).verify_slice(&hex::decode(signature).ok()?).ok()?;
        let mut parts = body.split('.');
        let (id, until) = (parts.next()?, parts.next()?.parse::<i64>().ok()?);
        (now.timestamp() < until).then(|| (id.to_owned(), self.sign("form", body)))
    }

    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    fn sign(&self, purpose: &str, text: &str) -> Hmac<Sha256> {
        let key = self.key.expose_secret().as_bytes();
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        mac.update(b"\0");
        mac.update(text.as_bytes());
        mac
    }

    /// A cookie as a browser takes it: for our own pages alone, and out of reach of scripts.
    fn set(&self, name: &str, value: &str, lasts: Duration) -> (header::HeaderName, String) {
        let secure = if self.is_https { "; Secure" } else { "" };
        let age = lasts.num_seconds();
        (header::SET_COOKIE, format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}"))
    }
}

impl Session {
    fn new(caller: Caller, proof: Hmac<Sha256>) -> Self {
        let csrf = hex::encode(proof.clone().finalize().into_bytes());
        Self { caller, csrf, proof }
    }

    /// # Errors
    /// E093 when a form does not come from a page that this person was shown.
    pub(super) fn demand(&self, csrf: &str) -> Result<(), Failure> {
        let given = hex::decode(csrf).map_err(|_| not_from_here())?;
        self.proof.clone().verify_slice(&given).map_err(|_| not_from_here())
    }
}

pub(super) fn not_from_here() -> Failure {
    Failure::new(Code::ScopeMissing, "This form does not come from a page of this login")
        .next("Go back, load the page again, and send it once more.")
}

/// One cookie of a request.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

fn session(pages: &Pages, headers: &HeaderMap) -> Option<Session> {
    let front = &pages.0.front;
    let (id, proof) = pages.0.sessions.known(cookie(headers, COOKIE)?, front.now())?;
    let caller = front.tokens().still(&id, front.now()).ok()?;
    Some(Session::new(caller, proof))
}

/// Lets those pass who are logged in; sends others to where they can.
pub(super) async fn demand(State(pages): Of, mut request: Request, next: Next) -> Response {
    let Some(session) = session(&pages, request.headers()) else {
        let wanted = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let to = if request.method() == Method::GET { wanted } else { "/" };
        return Redirect::to(&format!("/login?next={}", encoded(to))).into_response();
    };
    if let Err(failure) = pages.0.entrance.count(&session.caller) {
        return Trouble(failure).into_response();
    }
    request.extensions_mut().insert(session);
    next.run(request).await
}

#[derive(Debug, Deserialize)]
pub(super) struct Where {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
    #[serde(default)]
    next: String,
}

pub(super) async fn login_page(headers: HeaderMap, Query(Where { next }): Query<Where>) -> Answer {
    let own = json!({ "next": within(&next), "refused": null });
    Shell::of(&headers, "/login").page("login.html", "login", None, None, own)
}

pub(super) async fn log_in(State(pages): Of, headers: HeaderMap, Form(login): Form<Login>) -> Answer {
    let front = &pages.0.front;
    let bearer = format!("Bearer {}", login.token.trim());
    let mut shown = HeaderMap::new();
    if let Ok(value) = bearer.parse() {
        shown.insert(header::AUTHORIZATION, value);
    }
    match pages.0.entrance.admit(&shown) {
        Ok(caller) => {
            let sessions = &pages.0.sessions;
            let set = sessions.set(COOKIE, &sessions.cookie(&caller, front.now())?, LASTS);
            Ok((AppendHeaders([set]), Redirect::to(within(&login.next))).into_response())
        }
        Err(failure) => {
            let own = json!({ "next": within(&login.next), "refused": failure.message });
            let mut page = Shell::of(&headers, "/login").page("login.html", "login", None, None, own)?;
            *page.status_mut() = axum::http::StatusCode::UNAUTHORIZED;
            Ok(page)
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Csrf {
    pub(super) csrf: String,
}

pub(super) async fn log_out(
    State(pages): Of,
    Extension(session): Extension<Session>,
    Form(Csrf { csrf }): Form<Csrf>,
) -> Answer {
    session.demand(&csrf)?;
    let set = pages.0.sessions.set(COOKIE, "", Duration::zero());
    Ok((AppendHeaders([set]), Redirect::to("/login")).into_response())
}

#[derive(Debug, Deserialize)]
pub(super) struct Theme {
    theme: String,
    #[serde(default)]
    back: String,
}

/// Light or dark, for this browser.
pub(super) async fn theme(State(pages): Of, Form(Theme { theme, back }): Form<Theme>) -> Response {
    let theme = if theme == "dark" { "dark" } else { "light" };
    let set = pages.0.sessions.set(THEME, theme, Duration::days(365));
    (AppendHeaders([set]), Redirect::to(within(&back))).into_response()
}

/// A path of ours, whatever was asked for: nobody is sent elsewhere from here.
fn within(path: &str) -> &str {
    let is_ours = path.starts_with('/') && !path.starts_with("//") && !path.contains(['\\', '\n', '\r']);
    if is_ours { path } else { "/" }
}

fn encoded(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::Scope;

    #[test]
    fn a_cookie_is_known_until_it_is_changed_or_old() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(dir.path(), false).unwrap();
        let now = Timestamp::from_timestamp(1_790_000_000, 0).unwrap();
        let caller = Caller { name: "ada".into(), key: "0a1b".into(), scope: Scope::Read, repo: None };
        let cookie = sessions.cookie(&caller, now).unwrap();
        let (id, proof) = sessions.known(&cookie, now).unwrap();
        assert_eq!(id, "0a1b");
        let session = Session::new(caller, proof);
        let again = Sessions::open(dir.path(), false).unwrap();
        assert_eq!(again.known(&cookie, now).unwrap().0, id, "after a restart too");
        assert!(sessions.known(&cookie, now + LASTS).is_none());
        assert!(sessions.known(&cookie.replace("0a1b", "0a1c"), now).is_none());
        let csrf = session.csrf.clone();
        assert!(session.demand(&csrf).is_ok());
        for wrong in ["", &csrf[2..], &csrf.replace(&csrf[..1], "x"), &format!("{csrf}00")] {
            assert!(session.demand(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nobody_is_sent_elsewhere() {
        for (asked, to) in
            [("/tasks/1?tab=log", "/tasks/1?tab=log"), ("//evil.example", "/"), ("https://x", "/"), ("/\\x", "/")]
        {
            assert_eq!(within(asked), to);
        }
    }
}
