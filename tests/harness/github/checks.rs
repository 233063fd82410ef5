//! Checks on commits: those of other apps, and the one that Onramp writes. As at GitHub, only apps write or repeat them.

use serde_json::{Value, json};

use super::{
    GitHub,
    api::{Answer, InRepository, Need, Reply},
    json,
    state::{State, Token, now},
};
use crate::delivery::Delivery;

/// A check run.
#[derive(Debug, Clone)]
pub(super) struct CheckRun {
    id: u64,
    sha: String,
    name: String,
    conclusion: String,
    external_id: Option<String>,
    output: Value,
    actions: Value,
    completed_at: String,
}

/// The checks of all repositories: the tests have one.
#[derive(Debug, Default)]
pub(super) struct Checks {
    runs: Vec<CheckRun>,
    asked_again: Vec<String>,
}

impl State {
    fn add_check(&mut self, sha: String, name: &str, conclusion: &str, said: &str) -> u64 {
        let id = self.fresh_id();
        let output =
            json!({ "title": format!("{name}: {conclusion}"), "summary": said, "text": null, "annotations_count": 0 });
        let run = CheckRun {
            id,
            sha,
            name: name.to_owned(),
            conclusion: conclusion.to_owned(),
            external_id: None,
            output,
            actions: json!([]),
            completed_at: now(),
        };
        self.checks.runs.push(run);
        id
    }
}

impl GitHub {
    /// Another app's check fails on the head of a pull request.
    pub fn fail_check(&self, repo: &str, pull: u64, name: &str, said: &str) -> Delivery {
        let mut state = self.server.state();
        let found = state.repository(repo);
        let sha = found.bare().tip(&found.pulls[&pull].head).expect("the branch of the pull request is there");
        let id = state.add_check(sha.clone(), name, "failure", said);
        let mut event = json::event(&state, "completed", state.repository(repo), "ada");
        event["check_suite"] = json!({
            "id": id, "head_sha": sha, "status": "completed", "conclusion": "failure",
            "pull_requests": [{ "number": pull }], "app": { "slug": "ci" },
        });
        Delivery::new("check_suite", &event)
    }

    /// The same check fails on a branch too.
    pub fn fail_check_on_branch(&self, repo: &str, branch: &str, name: &str) -> &Self {
        let mut state = self.server.state();
        let sha = state.repository(repo).bare().tip(branch).expect("the branch is there");
        state.add_check(sha, name, "failure", "it always does");
        drop(state);
        self
    }

    /// The names of the checks that somebody asked to run again, in order.
    pub fn checks_asked_again(&self) -> Vec<String> {
        self.server.state().checks.asked_again.clone()
    }

    /// The checks that Onramp wrote, as GitHub shows them, oldest first.
    pub fn own_checks(&self) -> Vec<Value> {
        let state = self.server.state();
        let own = state.checks.runs.iter().filter(|run| run.external_id.is_some());
        own.map(shown).collect()
    }

    /// Somebody presses a button of Onramp's check on a pull request.
    pub fn press(&self, repo: &str, pull: u64, button: &str, sender: &str) -> Delivery {
        let state = self.server.state();
        let mut event = json::event(&state, "requested_action", state.repository(repo), sender);
        event["requested_action"] = json!({ "identifier": button });
        event["check_run"] = json!({ "id": 1, "name": "onramp / verify", "pull_requests": [{ "number": pull }] });
        Delivery::new("check_run", &event)
    }
}

fn shown(run: &CheckRun) -> Value {
    json!({
        "id": run.id, "head_sha": run.sha, "name": run.name, "status": "completed", "conclusion": run.conclusion,
        "external_id": run.external_id, "output": run.output, "actions": run.actions, "completed_at": run.completed_at,
    })
}

/// The check runs of a commit or branch; of each name all, or only the last.
pub(super) fn runs_of(at: &InRepository<'_>, of: &str) -> Answer {
    at.need(Need::ReadChecks)?;
    let sha = at.repo().bare().tip(of).unwrap_or_else(|| of.to_owned());
    let query = |name: &str| at.call.query.get(name).map(String::as_str);
    let runs = at
        .state
        .checks
        .runs
        .iter()
        .filter(|run| run.sha == sha && query("check_name").is_none_or(|name| name == run.name));
    let mut runs: Vec<&CheckRun> = runs.collect();
    if query("filter") != Some("all") {
        let last = |run: &CheckRun| runs.iter().all(|other| other.name != run.name || other.id <= run.id);
        runs = runs.iter().copied().filter(|run| last(run)).collect();
    }
    let runs: Vec<Value> = runs.into_iter().map(shown).collect();
    Ok(Reply::ok(json!({ "total_count": runs.len(), "check_runs": runs })))
}

/// One suite for each check run of another app.
pub(super) fn suites_of(at: &InRepository<'_>, sha: &str) -> Answer {
    at.need(Need::ReadChecks)?;
    let runs = at.state.checks.runs.iter().filter(|run| run.sha == sha && run.external_id.is_none());
    let suites = runs.map(|run| {
        json!({
            "id": run.id, "head_sha": run.sha, "status": "completed", "conclusion": run.conclusion,
            "updated_at": run.completed_at, "created_at": run.completed_at, "pull_requests": [], "app": { "slug": "ci" },
        })
    });
    let suites: Vec<Value> = suites.collect();
    Ok(Reply::ok(json!({ "total_count": suites.len(), "check_suites": suites })))
}

fn only_apps(at: &InRepository<'_>) -> Result<(), Reply> {
    match at.token {
        Token::Installation { .. } => at.need(Need::WriteChecks),
        Token::Personal { .. } => Err(Reply::error(403, "You must authenticate via a GitHub App.")),
    }
}

pub(super) fn run_again(at: &mut InRepository<'_>, id: &str) -> Answer {
    only_apps(at)?;
    let known = at.state.checks.runs.iter().find(|run| run.id.to_string() == id).ok_or_else(Reply::not_found)?;
    let name = known.name.clone();
    at.state.checks.asked_again.push(name);
    Ok(Reply::created(json!({})))
}

pub(super) fn create(at: &mut InRepository<'_>) -> Answer {
    only_apps(at)?;
    let body = at.call.json()?;
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let invalid = |field: &str| Reply::invalid(&json!({ "resource": "CheckRun", "field": field, "code": "invalid" }));
    if !["success", "neutral", "failure"].contains(&text("conclusion").as_str()) {
        return Err(invalid("conclusion"));
    }
    let too_long = |action: &Value, name: &str, most: usize| action[name].as_str().is_none_or(|text| text.len() > most);
    let actions = body["actions"].as_array().cloned().unwrap_or_default();
    let bad = |action: &Value| {
        too_long(action, "label", 20) || too_long(action, "description", 40) || too_long(action, "identifier", 20)
    };
    if actions.len() > 3 || actions.iter().any(bad) {
        return Err(invalid("actions"));
    }
    let run = CheckRun {
        id: at.state.fresh_id(),
        sha: text("head_sha"),
        name: text("name"),
        conclusion: text("conclusion"),
        external_id: Some(text("external_id")),
        output: body["output"].clone(),
        actions: body["actions"].clone(),
        completed_at: now(),
    };
    at.state.checks.runs.push(run.clone());
    Ok(Reply::created(shown(&run)))
}
