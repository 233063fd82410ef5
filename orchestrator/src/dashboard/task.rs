//! One task: where it stands, its parts as tabs, and what can be done about it.

use ::tasks::{AgentName, Code, Failure, Intake as _, Stage, Task, TaskState, Timestamp};
use axum::{
    Extension, Form,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, Uri, header},
    response::{IntoResponse as _, Redirect},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;
use workers::text;

use super::{
    Answer, Of, Shell, diff, log,
    session::{Csrf, Session},
    value,
};
use crate::front::{
    Front, NewTask, Said, Scope, Spoken, refusal,
    view::{EventView, TaskDetail},
};

const TABS: [&str; 6] = ["log", "diff", "verify", "prompt", "evidence", "events"];
const MAX_PROMPT_CHARS: usize = 200_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    tab: String,
    view: String,
    /// `path:line`, for a comment.
    at: String,
    told: String,
}

pub(super) async fn show(
    State(pages): Of,
    Extension(session): Extension<Session>,
    uri: Uri,
    Path(task): Path<String>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Answer {
    let front = pages.front();
    let task = front.find(&session.caller, &task).await?;
    let tab = TABS.into_iter().find(|tab| *tab == asked.tab).unwrap_or(TABS[0]);
    let (events, log) = (front.events(task.id).await?, log::read(front, &task).await);
    let stages = stages(&task, &events, front.now());
    let can_say = matches!(
        task.state,
        TaskState::Queued { .. }
            | TaskState::Running { .. }
            | TaskState::PullRequestOpen { .. }
            | TaskState::Updated { .. }
    );
    let may_act = session.caller.scope >= Scope::Act;
    let acts = acts(&task);
    let diff = match tab {
        "diff" => front.diff(&task).await.ok().map(|(attempt, bytes)| diff::parsed(attempt, &bytes)),
        _ => None,
    };
    let detail = front.detail(task).await?;
    let prompts = if tab == "prompt" { prompts(front, &detail).await } else { Vec::new() };
    let checks: Vec<_> = detail.evidence.iter().flat_map(|evidence| &evidence.checks).map(text::check_line).collect();
    let (checks, diff) = (value(&checks)?, value(&diff)?);
    let refresh = detail.task.unfinished.then_some(5);
    let own = json!({
        "task": value(&detail)?,
        "stages": stages,
        "tabs": TABS,
        "tab": tab,
        "view": if asked.view == "split" { "split" } else { "unified" },
        "acts": acts,
        "may_act": may_act,
        "can_say": may_act && can_say,
        "place_of": Some(asked.at).filter(|at| !at.is_empty()),
        "place": log.place,
        "groups": log.groups,
        "cut": log.is_cut,
        "diff": diff,
        "checks": checks,
        "prompts": prompts,
        "events": value(&events)?,
    });
    let mut shell = Shell::of(&headers, uri.path_and_query().map_or("/", |path| path.as_str()));
    shell.told = told(&asked.told).map(str::to_owned);
    shell.page("task.html", "tasks", Some(&session), refresh, own)
}

/// The stages of the last attempt, each with how long it took or takes.
fn stages(task: &Task, events: &[EventView], now: Timestamp) -> Vec<Value> {
    let words: Vec<&str> =
        [Stage::Preparing, Stage::AgentRunning, Stage::Verifying, Stage::Publishing].map(Stage::word).to_vec();
    // (name, since): waiting, then what the last attempt reached.
    let mut reached: Vec<(&str, Timestamp)> = Vec::new();
    let mut ended = None;
    for event in events {
        match event.event.as_str() {
            "enqueued" | "requeued" | "released" | "lease_expired" => {
                (reached, ended) = (vec![("queued", event.at)], None)
            }
            "leased" => reached.push((words[0], event.at)),
            "stage_reached" => {
                let word = words.iter().find(|word| Some(**word) == event.detail.as_deref());
                reached.extend(word.map(|word| (*word, event.at)));
            }
            "attempt_failed" if task.state.is_unfinished() => (reached, ended) = (vec![("queued", event.at)], None),
            "attempt_failed" | "finished" | "cancel_requested" | "refused" if ended.is_none() => {
                ended = (!task.state.is_unfinished()).then_some(event.at);
            }
            _ => {}
        }
    }
    let went_well =
        !matches!(task.state, TaskState::Failed { .. } | TaskState::Rejected { .. } | TaskState::Cancelled { .. });
    let mut shown = Vec::new();
    for (name, label) in [
        ("queued", "waiting"),
        (words[0], words[0]),
        (words[1], "agent"),
        (words[2], "checks"),
        (words[3], "pull request"),
    ] {
        let spans: Vec<_> = reached.iter().enumerate().filter(|(_, (reached, _))| *reached == name).collect();
        let Some((last, _)) = spans.last() else {
            shown.push(json!({ "name": label, "took": "", "is": "not reached" }));
            continue;
        };
        let is_last = last + 1 == reached.len();
        let took: i64 = spans
            .iter()
            .map(|(at, (_, since))| {
                let until = reached.get(at + 1).map_or(ended.unwrap_or(now), |(_, next)| *next);
                (until - *since).num_milliseconds().max(0)
            })
            .sum();
        let is = match (is_last, task.state.is_unfinished()) {
            (false, _) => "done",
            (true, true) => "now",
            (true, false) if went_well => "done",
            (true, false) => "ended",
        };
        let took = text::duration_words(u64::try_from(took).unwrap_or(0));
        shown.push(json!({ "name": label, "took": took, "is": is }));
    }
    shown
}

/// What can be done about it now.
fn acts(task: &Task) -> Vec<Value> {
    let act = |verb, name, meaning| json!({ "verb": verb, "name": name, "meaning": meaning });
    match &task.state {
        TaskState::Queued { .. } => vec![act("stop", "Stop", "It does not begin.")],
        TaskState::Running { .. } => vec![
            act("finish", "Finish", "The agent stops, and what it has done is checked and published."),
            act("stop", "Stop", "It ends; what was done until then is kept."),
        ],
        TaskState::Failed { .. } | TaskState::Rejected { .. } | TaskState::NoChanges | TaskState::Cancelled { .. } => {
            vec![
                act("retry", "Try again", "From the start."),
                act("replay", "Run again for a diff", "The same prompt, published nowhere."),
            ]
        }
        TaskState::PullRequestOpen { .. }
        | TaskState::Merged { .. }
        | TaskState::Closed { .. }
        | TaskState::Updated { .. }
        | TaskState::DiffReady => vec![act("replay", "Run again for a diff", "The same prompt, published nowhere.")],
    }
}

/// What the agent was given, word for word.
async fn prompts(front: &Front, detail: &TaskDetail) -> Vec<Value> {
    let mut found = Vec::new();
    for artifact in detail.artifacts.iter().filter(|artifact| artifact.name.starts_with("prompt-")) {
        let Ok(path) = front.artifact(detail.task.id, artifact.attempt, &artifact.name) else { continue };
        let Ok(bytes) = tokio::fs::read(path).await else { continue };
        let text: String = text::clean(&bytes).chars().take(MAX_PROMPT_CHARS).collect();
        found.push(json!({ "attempt": artifact.attempt, "name": artifact.name, "text": text }));
    }
    found
}

pub(super) async fn act(
    State(pages): Of,
    Extension(session): Extension<Session>,
    Path((task, verb)): Path<(String, String)>,
    Form(Csrf { csrf }): Form<Csrf>,
) -> Answer {
    session.demand(&csrf)?;
    session.caller.demand(Scope::Act)?;
    let front = pages.front();
    let task = front.find(&session.caller, &task).await?;
    let mut shown = task.id;
    match verb.as_str() {
        "stop" => front.stop(&session.caller, &task).await?,
        "finish" => front.finish(&session.caller, &task).await?,
        "retry" => front.retry(&task).await?,
        "replay" => shown = front.replay(&session.caller, &task, None).await?.id(),
        _ => return Err(Failure::new(Code::Usage, "Nothing of that name can be done with a task").into()),
    }
    Ok(Redirect::to(&format!("/tasks/{shown}?told={verb}")).into_response())
}

/// What is said at the top of the page after something was done.
fn told(verb: &str) -> Option<&'static str> {
    match verb {
        "stop" => Some("It is being stopped."),
        "finish" => Some("It ends with what is there."),
        "retry" => Some("It waits for its turn again."),
        "replay" => Some("This is the new task."),
        "created" => Some("It is durable, and waits for its turn."),
        "said" => Some("It is taken up at the next attempt, or as a further commit."),
        "follow" => Some("This new task changes the pull request further."),
        _ => None,
    }
}

#[derive(Deserialize)]
pub(super) struct Words {
    csrf: String,
    text: String,
    #[serde(default)]
    place: String,
}

pub(super) async fn say(
    State(pages): Of,
    Extension(session): Extension<Session>,
    Path(task): Path<String>,
    Form(Words { csrf, text, place }): Form<Words>,
) -> Answer {
    session.demand(&csrf)?;
    session.caller.demand(Scope::Act)?;
    let task = pages.front().find(&session.caller, &task).await?;
    let text = if place.is_empty() { text } else { format!("About {place}: {text}") };
    Ok(match pages.front().say(&session.caller, &task, &Said { text }, None).await? {
        Spoken::Note { task } => Redirect::to(&format!("/tasks/{task}?tab=prompt&told=said")),
        Spoken::FollowUp { task } => Redirect::to(&format!("/tasks/{task}?told=follow")),
    }
    .into_response())
}

#[derive(Deserialize)]
pub(super) struct New {
    csrf: String,
    repo: String,
    prompt: String,
    #[serde(default)]
    agent: String,
}

pub(super) async fn create(
    State(pages): Of,
    Extension(session): Extension<Session>,
    Form(New { csrf, repo, prompt, agent }): Form<New>,
) -> Answer {
    session.demand(&csrf)?;
    session.caller.demand(Scope::Act)?;
    let bad = |error: ::tasks::repo::NameError| Failure::new(Code::Usage, error.to_string());
    let agent = Some(agent.trim()).filter(|agent| !agent.is_empty()).map(str::parse::<AgentName>).transpose();
    let new = NewTask {
        repo: repo.trim().parse().map_err(bad)?,
        prompt,
        base: None,
        agent: agent.map_err(bad)?,
        deliver: None,
        gpu: None,
        issue: None,
    };
    let task = pages.front().create(&session.caller, new, None).await?.id();
    let known = pages.front().queue().get(task).await.map_err(refusal)?;
    Ok(Redirect::to(&known.map_or_else(|| "/".to_owned(), |task| format!("/tasks/{}?told=created", task.id)))
        .into_response())
}

/// One file of an attempt, as text or to be saved: a browser never runs what an agent wrote.
pub(super) async fn file(
    State(pages): Of,
    Extension(session): Extension<Session>,
    Path((task, attempt, name)): Path<(String, u32, String)>,
) -> Answer {
    let task = pages.front().find(&session.caller, &task).await?;
    let path = pages.front().artifact(task.id, attempt, &name)?;
    let file = tokio::fs::File::open(path).await.map_err(Failure::internal)?;
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response())
}
