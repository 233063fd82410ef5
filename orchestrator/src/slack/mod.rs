//! Slack: what people say there becomes tasks, and what becomes of those tasks is told where they asked.
//!
//! Like clerk and notifier a reader of the journal with a durable cursor: what was said is stored before it is
//! acknowledged, dealt with afterwards, and every act looks for its own traces first, because it may come twice.

mod asked;
mod client;
mod route;
mod socket;
mod tell;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::Duration;
use secrecy::SecretString;
use tasks::{Change, DedupeKey, Failure, Intake, QueueError, Said, Source, TaskId, Timestamp};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use workers::forge::Forge;

pub use self::{
    client::Client,
    route::{Route, Routes},
};
use crate::{
    notify::is_transient,
    queue::{Clock, Queue, QueueRecord},
    reader::Reader,
};

/// The name of the cursor in the queue.
const CURSOR: &str = "slack";
/// The wait after the first failure; doubles up to the cap.
const RETRY_BASE: Duration = Duration::seconds(2);
const RETRY_CAP: Duration = Duration::minutes(15);
/// After so many tries something is given up, so that the cursor can move on.
const MAX_TRIES: u32 = 200;

/// What the operator says about Slack.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which repository is meant.
    pub routes: Routes,
    /// The id of a person in Slack, and their login on the forge.
    pub people: BTreeMap<String, String>,
    /// Where the pages of tasks are, for people; without a slash at its end.
    pub public_url: Option<String>,
}

/// Who listens and tells.
pub struct Slack {
    queue: Arc<Queue>,
    forge: Arc<dyn Forge>,
    client: Arc<Client>,
    options: Options,
    clock: Clock,
    reader: Reader,
    /// Only one pass at a time.
    pass: tokio::sync::Mutex<()>,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// What was said and not dealt with, by its place in the journal.
    said: BTreeMap<u64, Matter>,
    /// Tasks that have something to tell, with the oldest event that was not told.
    untold: BTreeMap<TaskId, Untold>,
    /// What was told, and where.
    told: HashMap<TaskId, tell::Told>,
}

#[derive(Debug, Clone)]
struct Matter {
    key: DedupeKey,
    said: Said,
    due: Due,
}

#[derive(Debug, Clone, Copy)]
struct Untold {
    since: u64,
    due: Due,
}

/// When something may be tried, and how often it was.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Timestamp,
    tries: u32,
}

impl Due {
    fn now(now: Timestamp) -> Self {
        Self { at: now, tries: 0 }
    }

    /// After a failure. `None`: trying again does not help.
    fn after(self, failure: &Failure, now: Timestamp) -> Option<Self> {
        let may_help = is_transient(failure) && self.tries < MAX_TRIES;
        let wait = (RETRY_BASE * (1 << self.tries.min(9))).min(RETRY_CAP);
        let at = failure.retry_not_before.map_or(now + wait, |at| at.max(now + wait));
        may_help.then_some(Self { at, tries: self.tries + 1 })
    }
}

/// Why something is not done.
#[derive(Debug)]
enum Trouble {
    Store(QueueError),
    Outside(Failure),
}

impl From<QueueError> for Trouble {
    fn from(error: QueueError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Outside(failure)
    }
}

impl Slack {
    /// One that talks over `client`.
    pub fn new(queue: Arc<Queue>, forge: Arc<dyn Forge>, client: Arc<Client>, options: Options, clock: Clock) -> Self {
        let (reader, pass) = (Reader::new(queue.clone(), CURSOR), tokio::sync::Mutex::default());
        Self { queue, forge, client, options, clock, reader, pass, memory: Mutex::default() }
    }

    /// Listens on Slack's socket, if there is a token for that, and works until told to stop.
    pub fn start(
        self: &Arc<Self>,
        app: Option<SecretString>,
        stop: &CancellationToken,
        drain: &CancellationToken,
        on: &TaskTracker,
    ) {
        let (slack, until) = (self.clone(), stop.clone());
        on.spawn(async move { slack.run(until).await });
        if let Some(app) = app {
            let intake = self.queue.clone() as Arc<dyn Intake>;
            on.spawn(socket::listen(self.client.clone(), app, intake, drain.clone()));
        }
    }

    /// Deals with what was said and tells what there is to tell, now.
    ///
    /// # Errors
    /// When the queue cannot be read or written. A failure of Slack or the forge is no error: it is tried again later.
    pub async fn work_once(&self, now: Timestamp) -> Result<(), QueueError> {
        let _pass = self.pass.lock().await;
        self.reader.read(|sequence, record| self.memory().note(sequence, record, now)).await?;
        self.deal(now).await?;
        // What was just asked for is told at once.
        self.reader.read(|sequence, record| self.memory().note(sequence, record, now)).await?;
        self.tell_all(now).await?;
        let oldest = self.memory().oldest();
        self.reader.settle(oldest).await
    }

    async fn run(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let now = (self.clock)();
            // What is left half done is found again from the cursor, and every act may be repeated.
            let worked = tokio::select! {
                () = shutdown.cancelled() => return,
                worked = self.work_once(now) => worked,
            };
            if !self.reader.wait(worked.map(|()| self.next_due(now)), &shutdown).await {
                return;
            }
        }
    }

    /// What was said, in the order in which it was said in each conversation.
    async fn deal(&self, now: Timestamp) -> Result<(), QueueError> {
        let matters: Vec<_> = self.memory().said.iter().map(|(at, matter)| (*at, matter.clone())).collect();
        let mut waiting = Vec::new();
        for (at, matter) in matters {
            if matter.due.at > now || waiting.contains(&matter.said.thread) {
                waiting.push(matter.said.thread);
                continue;
            }
            match self.answer(&matter.key, &matter.said).await {
                Ok(()) => {
                    self.memory().said.remove(&at);
                }
                Err(Trouble::Store(error @ (QueueError::Unavailable(_) | QueueError::ShuttingDown))) => {
                    return Err(error);
                }
                Err(Trouble::Store(error)) => {
                    tracing::info!(%error, "what was said in Slack does not fit any more");
                    self.memory().said.remove(&at);
                }
                Err(Trouble::Outside(failure)) => match matter.due.after(&failure, now) {
                    Some(due) => {
                        tracing::warn!(%failure, tries = due.tries, "what was said in Slack waits");
                        waiting.push(matter.said.thread.clone());
                        self.memory().said.insert(at, Matter { due, ..matter });
                    }
                    None => {
                        tracing::warn!(%failure, "what was said in Slack is given up");
                        self.memory().said.remove(&at);
                    }
                },
            }
        }
        Ok(())
    }

    fn next_due(&self, now: Timestamp) -> Option<Duration> {
        let memory = self.memory();
        let said = memory.said.values().map(|matter| matter.due.at);
        said.chain(memory.untold.values().map(|untold| untold.due.at)).min().map(|next| next - now)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// The oldest event that is not dealt with.
    fn oldest(&self) -> Option<u64> {
        let said = self.said.keys().next().copied();
        said.into_iter().chain(self.untold.values().map(|untold| untold.since)).min()
    }

    fn note(&mut self, sequence: u64, record: QueueRecord, now: Timestamp) {
        let id = match record {
            QueueRecord::Observed { key, change: Change::Said(said), .. } => {
                self.said.insert(sequence, Matter { key, said: *said, due: Due::now(now) });
                return;
            }
            QueueRecord::Enqueued { task } => {
                if !matches!(task.request.source, Source::Chat { .. }) {
                    return;
                }
                task.id
            }
            // Whose task it is stands in the task, which is looked at before anything is told.
            other => match other.task() {
                Some(task) => task,
                None => return,
            },
        };
        let untold = self.untold.entry(id).or_insert(Untold { since: sequence, due: Due::now(now) });
        // The news may be the end, which is told at once; what waits for Slack goes on waiting.
        if untold.due.tries == 0 {
            untold.due.at = now;
        }
    }
}
