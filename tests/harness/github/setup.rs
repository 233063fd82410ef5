//! Apps that people make: a manifest posted by a browser, a code that comes back, and the one answer with the secrets.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    Call, Server,
    api::{Answer, Reply},
    apps::{App, AppKey},
    faults, percent_decoded,
    state::State,
};

/// What an app may be allowed, with the highest level of each.
const KNOWN_PERMISSIONS: [&str; 6] = ["checks", "contents", "issues", "metadata", "pull_requests", "workflows"];
/// Events, and the permission that each needs.
const KNOWN_EVENTS: [(&str, &str); 7] = [
    ("check_run", "checks"),
    ("check_suite", "checks"),
    ("issue_comment", "issues"),
    ("issues", "issues"),
    ("pull_request", "pull_requests"),
    ("pull_request_review", "pull_requests"),
    ("push", "contents"),
];

/// Manifests that were posted, and codes that are still good.
#[derive(Default)]
pub(super) struct Setup {
    pub(super) manifests: Vec<Value>,
    codes: Vec<(String, usize)>,
}

/// Whether it is a browser that asks, and not a program.
pub(super) fn is_page(call: &Call) -> bool {
    let is_form = faults::matches("/settings/apps/new", &call.path)
        || faults::matches("/organizations/*/settings/apps/new", &call.path);
    is_form && call.method == axum::http::Method::POST
}

/// The answer to a browser, where it is one that a page of GitHub gives.
pub(super) fn page(server: &Server, call: &Call) -> Option<Response> {
    is_page(call).then(|| match accept(&mut server.state(), call) {
        // The page on which a person says yes is left out: this one always does.
        Ok(back) => (StatusCode::FOUND, [(header::LOCATION, back)]).into_response(),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, why).into_response(),
    })
}

fn accept(state: &mut State, call: &Call) -> Result<String, String> {
    let body = String::from_utf8_lossy(&call.body).into_owned();
    let field = body.split('&').find_map(|pair| pair.strip_prefix("manifest=")).ok_or("no manifest")?;
    let manifest: Value =
        serde_json::from_str(&percent_decoded(&field.replace('+', " "))).map_err(|error| error.to_string())?;
    let text = |value: &Value, what: &str| value.as_str().map(str::to_owned).ok_or(format!("{what} is not a text"));
    let name = text(&manifest["name"], "name")?;
    if name.is_empty() || name.chars().count() > 34 {
        return Err("Name is too long (maximum is 34 characters)".to_owned());
    }
    for (what, value) in [("url", &manifest["url"]), ("hook_attributes.url", &manifest["hook_attributes"]["url"])] {
        if !text(value, what)?.starts_with("http") {
            return Err(format!("{what} is not an address"));
        }
    }
    let permissions = manifest["default_permissions"].as_object().ok_or("no permissions")?;
    for (name, level) in permissions {
        if !KNOWN_PERMISSIONS.contains(&name.as_str()) || !["read", "write"].contains(&level.as_str().unwrap_or("")) {
            return Err(format!("Default permission records resource is not included in the list: {name}"));
        }
    }
    for event in manifest["default_events"].as_array().into_iter().flatten() {
        let known = KNOWN_EVENTS.iter().find(|(name, _)| event == name);
        if known.is_none_or(|(_, needs)| !permissions.contains_key(*needs)) {
            return Err(format!("Default events unsupported: {event}"));
        }
    }
    let back = text(&manifest["redirect_url"], "redirect_url")?;
    state.setup.manifests.push(manifest);
    let code = format!("code{:032}", state.fresh_id());
    state.setup.codes.push((code.clone(), state.setup.manifests.len() - 1));
    let query = call.query.get("state").map_or_else(String::new, |state| format!("&state={state}"));
    Ok(format!("{back}?code={code}{query}"))
}

/// The secrets of the app of a code, once.
pub(super) fn convert(state: &mut State, code: &str) -> Answer {
    let at = state.setup.codes.iter().position(|(known, _)| known == code).ok_or_else(Reply::not_found)?;
    let (_, manifest) = state.setup.codes.remove(at);
    let manifest = state.setup.manifests[manifest].clone();
    let (key, id) = (AppKey::generate(), state.fresh_id());
    state.app = Some(App::new(id, &key, Vec::new()));
    let is_told = manifest["hook_attributes"]["active"] != json!(false);
    Ok(Reply::created(json!({
        "id": id, "slug": "onramp", "node_id": "A_1", "name": manifest["name"], "owner": { "login": "acme" },
        "html_url": format!("{}/apps/onramp", state.web_url), "client_id": "Iv23canary", "client_secret": "canary-client",
        "webhook_secret": is_told.then_some("canary-webhook-secret"), "pem": key.pem(),
        "permissions": manifest["default_permissions"], "events": manifest["default_events"],
    })))
}
