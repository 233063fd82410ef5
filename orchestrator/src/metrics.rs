//! What Prometheus is told: how long tasks wait and run, how they end, and whose doing it is when they do not end well.
//!
//! It is counted from the journal, as it grows, from the start of this process on: so every worker is counted alike, wherever
//! it is, and a task that is counted is durable. No task id and no login is ever a label.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};
use serde_json::json;
use tasks::{
    Change, Failure, FailureKind, Intake as _, Outcome, QueueError, Stage, Task, TaskEvent, TaskFilter, TaskId,
    TaskState, Timestamp,
};
use tokio_util::sync::CancellationToken;

use crate::{
    front::view::Fault,
    queue::{Queue, QueueRecord},
};

const BATCH: usize = 500;
/// From a second to eight hours.
const WAITS: [f64; 12] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10800.0, 28800.0];
/// The pause after the store could not be read.
const STORE_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    source: &'static str,
    /// As OpenTelemetry has it for pipelines: `success`, `failure` (theirs), `error` (ours), `timeout`, `cancellation`, `skip`.
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStage {
    stage: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    code: &'static str,
    fault: &'static str,
}

/// Counts what the journal says.
#[derive(Clone)]
pub struct Meter(Arc<Inner>);

struct Inner {
    queue: Arc<Queue>,
    draining: CancellationToken,
    registry: Registry,
    tasks: Family<Ended, Counter>,
    failures: Family<Reason, Counter>,
    durations: Histogram,
    waits: Histogram,
    stages: Family<OfStage, Histogram>,
    pull_requests: Family<Event, Counter>,
    received: Family<Event, Counter>,
    depth: Family<InState, Gauge>,
    memory: Mutex<Memory>,
}

/// What is at work, as far as its times are needed.
#[derive(Debug, Default)]
struct Memory {
    read_to: u64,
    tasks: HashMap<TaskId, AtWork>,
}

#[derive(Debug, Clone)]
struct AtWork {
    source: &'static str,
    created_at: Timestamp,
    /// Since when it waits, or is in its stage.
    since: Timestamp,
    stage: Option<Stage>,
}

impl Meter {
    /// Begins to count now.
    ///
    /// # Errors
    /// E062.
    pub async fn new(queue: Arc<Queue>, draining: CancellationToken) -> Result<Self, Failure> {
        let (read_to, _) = queue.journal_head();
        let filter = TaskFilter { unfinished: true, ..TaskFilter::default() };
        let unfinished = queue.list(filter).await.map_err(crate::front::refusal)?;
        let known = unfinished.into_iter().map(|task| {
            let stage = match task.state {
                TaskState::Running { stage, .. } => Some(stage),
                _ => None,
            };
            let (source, created_at, since) = (task.request.source.word(), task.created_at, task.updated_at);
            (task.id, AtWork { source, created_at, since, stage })
        });
        let memory = Mutex::new(Memory { read_to, tasks: known.collect() });
        let inner = Inner {
            queue,
            draining,
            registry: Registry::with_prefix("onramp"),
            tasks: Family::default(),
            failures: Family::default(),
            durations: Histogram::new(WAITS),
            waits: Histogram::new(WAITS),
            stages: Family::new_with_constructor(|| Histogram::new(WAITS)),
            pull_requests: Family::default(),
            received: Family::default(),
            depth: Family::default(),
            memory,
        };
        Ok(Self(Arc::new(inner.registered())))
    }

    /// Counts what was written since. Returns how many events there were.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn read_once(&self) -> Result<usize, QueueError> {
        let read_to = self.0.memory().read_to;
        let events = self.0.queue.events_after(read_to, BATCH).await?;
        for (sequence, record) in &events {
            // Whether a task goes on after this is for the queue to say.
            let now = match record {
                QueueRecord::Applied { task, event, .. } if may_go_on(event) => self.0.queue.get(*task).await?,
                _ => None,
            };
            let mut memory = self.0.memory();
            memory.read_to = *sequence;
            self.0.count(&mut memory, record, now.as_ref().filter(|task| task.state.is_unfinished()));
        }
        Ok(events.len())
    }

    /// Counts until told to stop.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            let read_to = self.0.memory().read_to;
            let more = async {
                self.0.queue.wait_for_event(read_to).await?;
                while self.read_once().await? == BATCH {}
                Ok(())
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                read = more => match read {
                    Ok(()) => {}
                    Err(QueueError::ShuttingDown) => return,
                    Err(error) => {
                        tracing::warn!(%error, "nothing is counted until the task store can be read again");
                        tokio::time::sleep(STORE_PAUSE).await;
                    }
                }
            }
        }
    }

    /// `/metrics`, for whoever may see it.
    pub fn router(&self) -> Router {
        Router::new().route("/metrics", get(metrics)).with_state(self.clone())
    }

    /// `/readyz`, for anybody.
    pub fn readiness(&self) -> Router {
        Router::new().route("/readyz", get(ready)).with_state(self.clone())
    }
}

impl Inner {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        let build = Info::new(vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
        registry.register("build", "What runs", build);
        registry.register("tasks", "Tasks that ended, by where they came from and how", self.tasks.clone());
        registry.register("failures", "Attempts that failed, by code and whose doing it was", self.failures.clone());
        registry.register("task_duration_seconds", "From being asked to the end", self.durations.clone());
        registry.register("queue_wait_seconds", "From being ready to being taken up", self.waits.clone());
        registry.register("stage_duration_seconds", "Time in each stage", self.stages.clone());
        registry.register("pull_requests", "What became of pull requests", self.pull_requests.clone());
        registry.register("received", "What came in and is durable", self.received.clone());
        registry.register("queue_depth", "Unfinished tasks by state", self.depth.clone());
        self
    }

    /// `goes_on`: the task, where it waits or runs again after this.
    fn count(&self, memory: &mut Memory, record: &QueueRecord, goes_on: Option<&Task>) {
        let one = |family: &Family<Event, Counter>, event| {
            family.get_or_create(&Event { event }).inc();
        };
        match record {
            QueueRecord::Enqueued { task } => {
                one(&self.received, "task");
                let (source, created_at) = (task.request.source.word(), task.created_at);
                if task.state.is_unfinished() {
                    memory.tasks.insert(task.id, AtWork { source, created_at, since: created_at, stage: None });
                }
            }
            QueueRecord::Joined { .. } => one(&self.received, "note"),
            QueueRecord::Observed { change, .. } => {
                one(&self.received, change.word());
                match change {
                    Change::PullRequestMerged { .. } => one(&self.pull_requests, "merged"),
                    Change::PullRequestClosed { .. } => one(&self.pull_requests, "closed"),
                    _ => {}
                }
            }
            QueueRecord::Applied { task, at, event, .. } => self.count_event(memory, *task, *at, event, goes_on),
            QueueRecord::Checkpointed { .. } | QueueRecord::CursorMoved { .. } => {}
        }
    }

    fn count_event(&self, memory: &mut Memory, id: TaskId, at: Timestamp, event: &TaskEvent, goes_on: Option<&Task>) {
        if let TaskEvent::Finished { outcome: Outcome::PullRequestOpened { .. } } = event {
            self.pull_requests.get_or_create(&Event { event: "opened" }).inc();
        }
        if let TaskEvent::AttemptFailed { failure } = event {
            let fault = if Fault::of(failure.kind) == Fault::Ours { "ours" } else { "theirs" };
            self.failures.get_or_create(&Reason { code: failure.code.as_str(), fault }).inc();
        }
        if let (TaskEvent::Requeued, Some(task)) = (event, goes_on) {
            let source = task.request.source.word();
            memory.tasks.insert(id, AtWork { source, created_at: at, since: at, stage: None });
            return;
        }
        let Some(known) = memory.tasks.get_mut(&id) else { return };
        let seconds = |since: Timestamp| (at - since).num_milliseconds().max(0) as f64 / 1000.0;
        let left = |known: &AtWork, result| {
            if let Some(stage) = known.stage {
                let stage = OfStage { stage: stage.word(), result };
                self.stages.get_or_create(&stage).observe(seconds(known.since));
            }
        };
        let result = match event {
            TaskEvent::Leased { .. } => {
                self.waits.observe(seconds(known.since));
                (known.since, known.stage) = (at, Some(Stage::Preparing));
                return;
            }
            TaskEvent::StageReached { stage } => {
                left(known, "success");
                (known.since, known.stage) = (at, Some(*stage));
                return;
            }
            TaskEvent::Released => "skip",
            TaskEvent::LeaseExpired => "error",
            TaskEvent::AttemptFailed { failure } => result_of(failure.kind),
            TaskEvent::Finished { outcome } => match outcome {
                Outcome::PullRequestOpened { .. } | Outcome::PullRequestUpdated { .. } | Outcome::DiffVerified => {
                    "success"
                }
                Outcome::NothingChanged => "skip",
                Outcome::PolicyRejected { .. } => "failure",
                Outcome::Cancelled => "cancellation",
            },
            TaskEvent::CancelRequested { .. } if known.stage.is_none() => "cancellation",
            TaskEvent::Refused { .. } => "failure",
            _ => return,
        };
        left(known, result);
        let ended = AtWork { since: at, stage: None, ..known.clone() };
        if goes_on.is_some() {
            *known = ended;
            return;
        }
        memory.tasks.remove(&id);
        self.tasks.get_or_create(&Ended { source: ended.source, result }).inc();
        self.durations.observe(seconds(ended.created_at));
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a task may wait again after this event.
fn may_go_on(event: &TaskEvent) -> bool {
    matches!(
        event,
        TaskEvent::Released
            | TaskEvent::LeaseExpired
            | TaskEvent::AttemptFailed { .. }
            | TaskEvent::Requeued
            | TaskEvent::Finished { outcome: Outcome::Cancelled }
    )
}

fn result_of(kind: FailureKind) -> &'static str {
    match (kind, Fault::of(kind)) {
        (FailureKind::Timeout, _) => "timeout",
        (_, Fault::Ours) => "error",
        (_, Fault::Theirs) => "failure",
    }
}

async fn metrics(State(meter): State<Meter>) -> Response {
    let filter = TaskFilter { unfinished: true, ..TaskFilter::default() };
    let Ok(unfinished) = meter.0.queue.list(filter).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the task store cannot be read\n").into_response();
    };
    for state in ["queued", "preparing", "running", "verifying", "publishing"] {
        let n = unfinished.iter().filter(|task| task.state.word() == state).count();
        meter.0.depth.get_or_create(&InState { state }).set(i64::try_from(n).unwrap_or(i64::MAX));
    }
    let mut text = String::new();
    if encode(&mut text, &meter.0.registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Whether tasks are taken: the store answers, and nobody is closing.
async fn ready(State(meter): State<Meter>) -> Response {
    let filter = TaskFilter { limit: Some(1), ..TaskFilter::default() };
    let store = meter.0.queue.list(filter).await.is_ok();
    let open = !meter.0.draining.is_cancelled();
    let body = json!({
        "ready": store && open,
        "checks": [{ "id": "store", "ok": store }, { "id": "open", "ok": open }],
    });
    let status = if store && open { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(body)).into_response()
}
