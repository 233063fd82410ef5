//! GitHub Apps: a key, a JWT signed with it, an installation, and the short-lived tokens of that installation.

use std::collections::BTreeMap;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::{
    Call,
    api::{Answer, Reply},
    history, json,
    state::{State, Token},
};

/// What an app that is to publish pull requests asks for when it is installed.
const PERMISSIONS: [(&str, &str); 5] =
    [("contents", "write"), ("issues", "write"), ("pull_requests", "write"), ("checks", "write"), ("metadata", "read")];

/// The private key of an app. Each test makes its own, so none lies in the repository.
pub struct AppKey {
    pem: String,
    public: Vec<u8>,
}

impl AppKey {
    /// A fresh key of 2048 bits.
    pub fn generate() -> Self {
        let key = KeyPair::generate(KeySize::Rsa2048).expect("a fresh RSA key");
        let der: Pkcs8V1Der<'_> = key.as_der().expect("an RSA key as PKCS#8");
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        Self { pem, public: key.public_key().as_ref().to_vec() }
    }

    /// As GitHub hands it out.
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

pub(super) struct App {
    pub(super) id: u64,
    pub(super) installation: u64,
    pub(super) installed_on: Vec<u64>,
    public_key: Vec<u8>,
}

impl App {
    pub(super) fn new(id: u64, key: &AppKey, installed_on: Vec<u64>) -> Self {
        Self { id, installation: id + 1, installed_on, public_key: key.public.clone() }
    }

    /// Whether a bearer is a JWT of this app, by GitHub's rules.
    pub(super) fn accepts(&self, jwt: &str) -> Result<(), &'static str> {
        const SHAPE: &str = "A JSON web token could not be decoded";
        let (signed, signature) = jwt.rsplit_once('.').ok_or(SHAPE)?;
        let (header, claims) = signed.split_once('.').ok_or(SHAPE)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| SHAPE);
        let parse = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| SHAPE);
        let (header, claims) = (parse(header)?, parse(claims)?);
        if header["alg"] != "RS256" {
            return Err("The algorithm of the JSON web token is not RS256");
        }
        let issuer = claims["iss"].as_u64().or_else(|| claims["iss"].as_str()?.parse().ok());
        if issuer != Some(self.id) {
            return Err("'Issuer' claim ('iss') must be the app's id");
        }
        let (issued, expires) = (claims["iat"].as_i64().ok_or(SHAPE)?, claims["exp"].as_i64().ok_or(SHAPE)?);
        let now = unix_now();
        if issued > now || expires < now || expires > now + 600 {
            return Err("'Expiration time' claim ('exp') is too far in the future, or the token is not valid now");
        }
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        key.verify(signed.as_bytes(), &decode(signature)?).map_err(|_| "The signature does not belong to the app")
    }
}

/// Seconds since 1970.
fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs().try_into().unwrap_or(i64::MAX))
}

/// The routes that an app calls with its JWT.
pub(super) fn answer(state: &mut State, call: &Call, path: &[&str]) -> Answer {
    let Some(app) = &state.app else { return Err(Reply::not_found()) };
    let (installation, installed_on) = (app.installation, app.installed_on.clone());
    match (call.method.as_str(), path) {
        ("GET", ["app"]) => Ok(Reply::ok(json!({
            "id": app.id, "node_id": "A_1", "slug": "onramp", "name": "onramp",
            "owner": json::user(state, "acme"), "html_url": format!("{}/apps/onramp", state.web_url),
            "external_url": state.web_url, "permissions": permissions(), "events": ["issues"],
        }))),
        ("GET", ["app", "hook", "deliveries"]) => Ok(history::deliveries(state)),
        ("POST", ["app", "hook", "deliveries", id, "attempts"]) => history::attempt(state, id),
        ("GET", ["app", "installations"]) if installed_on.is_empty() => Ok(Reply::ok(json!([]))),
        ("GET", ["app", "installations"]) => Ok(Reply::ok(json!([describe(state, installation)]))),
        ("GET", ["app", "installations", id]) if *id == installation.to_string() => {
            Ok(Reply::ok(describe(state, installation)))
        }
        ("GET", ["repos", owner, name, "installation"]) => match state.find(&format!("{owner}/{name}")) {
            Some(repo) if installed_on.contains(&repo.id) => Ok(Reply::ok(describe(state, installation))),
            _ => Err(Reply::not_found()),
        },
        ("POST", ["app", "installations", id, "access_tokens"]) if *id == installation.to_string() => {
            access_token(state, &call.json()?, &installed_on)
        }
        _ => Err(Reply::not_found()),
    }
}

fn permissions() -> BTreeMap<String, String> {
    PERMISSIONS.iter().map(|(name, level)| ((*name).to_owned(), (*level).to_owned())).collect()
}

fn describe(state: &State, installation: u64) -> Value {
    let app_id = state.app.as_ref().map(|app| app.id);
    json!({
        "id": installation, "account": json::user(state, "acme"), "app_id": app_id, "target_type": "Organization",
        "repository_selection": "selected", "permissions": permissions(), "events": ["issues"],
        "access_tokens_url": format!("{}/app/installations/{installation}/access_tokens", state.api_url()),
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
    })
}

/// A token for no more repositories and rights than asked for, and never for more than the installation has.
fn access_token(state: &mut State, wanted: &Value, installed_on: &[u64]) -> Answer {
    let installed = state.repositories.iter().filter(|repo| installed_on.contains(&repo.id));
    let (by_id, by_name) = (wanted["repository_ids"].as_array(), wanted["repositories"].as_array());
    let asked_for = by_id.map_or(0, Vec::len) + by_name.map_or(0, Vec::len);
    let is_wanted = |id: u64, name: &str| {
        asked_for == 0
            || by_id.is_some_and(|ids| ids.contains(&json!(id)))
            || by_name.is_some_and(|names| names.contains(&json!(name)))
    };
    let granted: Vec<_> = installed.filter(|repo| is_wanted(repo.id, &repo.name)).collect();
    if granted.len() < asked_for {
        return Err(Reply::error(422, "There is at least one repository that does not exist or is not accessible"));
    }
    let mut rights = permissions();
    if let Some(wanted) = wanted["permissions"].as_object() {
        let exceeds = |(name, level): (&String, &Value)| match rights.get(name).map(String::as_str) {
            Some("write") => false,
            Some(_) => level == "write",
            None => true,
        };
        if wanted.iter().any(exceeds) {
            return Err(Reply::error(422, "The permissions requested are not granted to this installation."));
        }
        rights = wanted.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect();
        rights.insert("metadata".to_owned(), "read".to_owned());
    }
    let repositories: Vec<_> = granted.iter().map(|repo| json::repository(state, repo)).collect();
    let ids = granted.iter().map(|repo| repo.id).collect();
    let token = format!("ghs_canary{:026}", state.fresh_id());
    state.tokens.insert(token.clone(), Token::Installation { repositories: ids, permissions: rights.clone() });
    let expires = chrono::DateTime::from_timestamp(unix_now() + 3600, 0).expect("an hour from now is a time");
    let expires = expires.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    Ok(Reply::created(json!({
        "token": token, "expires_at": expires, "permissions": rights,
        "repository_selection": "selected", "repositories": repositories,
    })))
}
