//! What grows while it is read: logs as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::{Path, Query, State},
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Refused, Who};
use crate::front::{Front, log::LogEvent};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How much of a log.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(super) struct LogQuery {
    /// `true`: until the task has ended. Otherwise what there is now.
    #[serde(default)]
    follow: bool,
}

/// The log of a task. The id of each event is how far the reader has come with it.
pub(super) async fn log(
    State(front): State<Front>,
    Extension(who): Who,
    Path(task): Path<String>,
    Query(LogQuery { follow }): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refused> {
    let task = front.find(&who, &task).await?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let from = last.map(str::parse).transpose()?;
    let events = front.log(&task, from, follow).then(move |event| {
        let front = front.clone();
        async move {
            match event {
                LogEvent::Line(line, place) => Event::default().event("line").id(place.to_string()).json_data(line),
                LogEvent::End(task) => match front.detail(*task).await {
                    Ok(detail) => Event::default().event("end").json_data(detail),
                    Err(failure) => Ok(Event::default().event("end").data(failure.message)),
                },
            }
        }
    });
    // A line that cannot be written as JSON does not exist; it would be left out rather than end the stream.
    let events = events.filter_map(async |event| event.ok().map(Ok));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
