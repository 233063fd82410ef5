//! The log of a task on its page: grouped by stage, then live.

use std::{convert::Infallible, time::Duration};

use ::tasks::Task;
use axum::{
    Extension,
    extract::{Path, Query, State},
    http::{HeaderMap, header},
    response::{
        IntoResponse as _,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Of, session::Session};
use crate::front::{
    Front,
    log::{LineKind, LogEvent, LogLine, Place},
};

/// More lines than a person reads in a browser.
const MAX_LINES: usize = 5_000;

/// What there is now.
pub(super) struct Read {
    pub(super) groups: Vec<Value>,
    /// How far it was read: what is live goes on from here.
    pub(super) place: String,
    pub(super) is_cut: bool,
}

struct Group {
    attempt: u32,
    name: String,
    since: f64,
    until: f64,
    lines: Vec<Value>,
}

pub(super) async fn read(front: &Front, task: &Task) -> Read {
    let mut events = Box::pin(front.log(task, None, false));
    let (mut groups, mut place, mut n): (Vec<Group>, Option<Place>, usize) = (Vec::new(), None, 0);
    while let Some(LogEvent::Line(line, at)) = events.next().await {
        n += 1;
        if n > MAX_LINES {
            break;
        }
        place = Some(at);
        take(&mut groups, line);
    }
    let groups = groups.into_iter().map(|group| {
        let Group { attempt, name, since, until, lines } = group;
        json!({ "attempt": attempt, "name": name, "took": format!("{:.1} s", until - since), "lines": lines })
    });
    let place = place.map_or_else(|| "1-0".to_owned(), |place| place.to_string());
    Read { groups: groups.collect(), place, is_cut: n > MAX_LINES }
}

fn take(groups: &mut Vec<Group>, line: LogLine) {
    let LogLine { attempt, seconds, kind, text } = line;
    if let Some(last) = groups.last_mut().filter(|last| last.attempt == attempt) {
        last.until = seconds;
    }
    let begins = kind == LineKind::Stage || groups.last().is_none_or(|last| last.attempt != attempt);
    if begins {
        let name = if kind == LineKind::Stage { text.clone() } else { "log".to_owned() };
        groups.push(Group { attempt, name, since: seconds, until: seconds, lines: Vec::new() });
    }
    // As the script numbers what it adds.
    let n = groups.iter().map(|group| group.lines.len()).sum::<usize>() + 1;
    if kind != LineKind::Stage
        && let Some(last) = groups.last_mut()
    {
        last.lines.push(json!({ "n": n, "kind": kind, "at": format!("{seconds:.1} s"), "text": text }));
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Since {
    from: Option<String>,
}

/// Lines as they are written, then the end.
pub(super) async fn live(
    State(pages): Of,
    Extension(session): Extension<Session>,
    Path(task): Path<String>,
    Query(Since { from }): Query<Since>,
    headers: HeaderMap,
) -> Answer {
    let front = pages.front();
    let task = front.find(&session.caller, &task).await?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let from = last.or(from).map(|place| place.parse()).transpose()?;
    let events = front.log(&task, from, true).filter_map(async |event| match event {
        LogEvent::Line(line, place) => Event::default().event("line").id(place.to_string()).json_data(line).ok(),
        LogEvent::End(task) => Some(Event::default().event("end").data(task.state.word())),
    });
    let stream = Sse::new(events.map(Ok::<_, Infallible>));
    Ok(stream.keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}

/// All of it as text.
pub(super) async fn raw(State(pages): Of, Extension(session): Extension<Session>, Path(task): Path<String>) -> Answer {
    let task = pages.front().find(&session.caller, &task).await?;
    let mut events = Box::pin(pages.front().log(&task, None, false));
    let mut text = String::new();
    while let Some(LogEvent::Line(line, _)) = events.next().await {
        let LogLine { attempt, seconds, kind, text: said } = line;
        let who = if kind == LineKind::Agent { "agent: " } else { "" };
        text.push_str(&format!("{attempt} {seconds:>8.1} s  {who}{said}\n"));
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
