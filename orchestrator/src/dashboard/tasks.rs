//! The list of tasks: what runs, what waits and why, what needs somebody, what was lately.

use axum::{
    Extension,
    extract::{Query, State},
    http::{HeaderMap, Uri},
    response::IntoResponse as _,
};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Of, Shell, session::Session, value};
use crate::front::{ListQuery, Scope, view::TaskView};

const STATES: [&str; 12] = [
    "queued",
    "preparing",
    "running",
    "verifying",
    "publishing",
    "done",
    "merged",
    "closed",
    "no_changes",
    "rejected",
    "failed",
    "stopped",
];

/// What stands in the address; empty fields of a form mean nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    repo: String,
    state: String,
    requester: String,
    cursor: String,
    ask: bool,
}

pub(super) async fn list(
    State(pages): Of,
    Extension(session): Extension<Session>,
    uri: Uri,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Answer {
    let some = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    // A repository that cannot be one has no tasks, and is shown as it was typed.
    let repo = some(&asked.repo).map(|repo| repo.parse()).transpose();
    let query = ListQuery {
        repo: repo.clone().unwrap_or_default(),
        state: some(&asked.state),
        requester: some(&asked.requester),
        cursor: some(&asked.cursor),
        ..ListQuery::default()
    };
    let page = match repo {
        Ok(_) => pages.front().list(&session.caller, &query).await?,
        Err(_) => crate::front::view::TaskPage { tasks: Vec::new(), next: None },
    };
    let groups = [
        ("At work", page.tasks.iter().filter(|task| is_at_work(task)).collect::<Vec<_>>()),
        ("Waiting", page.tasks.iter().filter(|task| task.state == "queued").collect()),
        ("Needs somebody", page.tasks.iter().filter(|task| needs_somebody(task)).collect()),
        ("Lately", page.tasks.iter().filter(|task| !task.unfinished && !needs_somebody(task)).collect()),
    ];
    let groups: Vec<_> = groups
        .into_iter()
        .filter(|(_, tasks)| !tasks.is_empty())
        .map(|(name, tasks)| Ok(json!({ "name": name, "tasks": value(&tasks)? })))
        .collect::<Result<_, tasks::Failure>>()?;
    let next = page.next.map(|next| {
        let (repo, state, requester) = (&asked.repo, &asked.state, &asked.requester);
        format!("/?cursor={next}&repo={}&state={state}&requester={requester}", repo.replace('/', "%2F"))
    });
    let own = json!({
        "groups": groups,
        "query": { "repo": asked.repo, "state": asked.state, "requester": asked.requester },
        "states": STATES,
        "next": next,
        "may_act": session.caller.scope >= Scope::Act,
        "asking": asked.ask,
    });
    let refresh = page.tasks.iter().any(|task| task.unfinished).then_some(15);
    let shown = Shell::of(&headers, uri.path_and_query().map_or("/", |path| path.as_str()));
    Ok(shown.page("tasks.html", "tasks", Some(&session), refresh, own)?.into_response())
}

fn is_at_work(task: &TaskView) -> bool {
    task.unfinished && task.state != "queued"
}

/// Nothing goes on with it by itself.
fn needs_somebody(task: &TaskView) -> bool {
    matches!(task.state.as_str(), "failed" | "rejected")
}
