//! Tells people what became of their request: an outbox over the queue's journal.
//!
//! The journal says *that* something happened to a task; what is told is always the task's state of now. So any number of
//! events become one edit of one comment, a repeated pass changes nothing, and a crash costs at most a repeated edit: the
//! durable cursor moves only past events whose task has been told. A forge that fails delays one task, not the others.

pub(crate) mod words;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration as StdDuration,
};

use chrono::Duration;
use secrecy::{ExposeSecret, SecretString};
use tasks::{Code, Failure, FailureKind, Intake, QueueError, Source, Task, TaskId, Timestamp};
use tokio_util::sync::CancellationToken;
use workers::forge::{Forge, ReactTo, Reaction};

use self::words::{comment, needs_a_person, reaction, shows_checks};
use crate::{
    queue::{Clock, Queue, QueueRecord},
    reader::Reader,
};

/// While a task is under way, its comment is edited no more often.
const EDIT_INTERVAL: Duration = Duration::seconds(5);
/// How long one call of the forge may take.
const FORGE_TIMEOUT: StdDuration = StdDuration::from_secs(60);
/// The wait after the first failure of the forge; doubles up to the cap.
const RETRY_BASE: Duration = Duration::seconds(5);
const RETRY_CAP: Duration = Duration::minutes(15);
/// After so many tries (two days, by then) a comment is given up, so that the cursor can move on.
const MAX_TRIES: u32 = 200;
/// After so many failures in a row the pass ends: the forge is down, and each further call would wait for its timeout.
const MAX_FAILURES_IN_A_ROW: u32 = 3;

/// Brings each task's comment up to date.
pub struct Notifier {
    queue: Arc<Queue>,
    forge: Arc<dyn Forge>,
    clock: Clock,
    hidden: Vec<SecretString>,
    reader: Reader,
    /// Only one pass at a time.
    pass: tokio::sync::Mutex<()>,
    memory: Mutex<Memory>,
}

/// What is known since the start; after a crash it is found again from the cursor.
#[derive(Debug, Default)]
struct Memory {
    /// Tasks that have something to tell.
    pending: BTreeMap<TaskId, Pending>,
    /// What was told of tasks that are under way.
    told: HashMap<TaskId, Told>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    /// The oldest event that was not told yet: the cursor stays before it.
    since: u64,
    /// Not to be tried before.
    not_before: Timestamp,
    tries: u32,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    at: Timestamp,
    digest: u64,
    /// What the trigger shows.
    reaction: Option<Reaction>,
}

/// How one task fared in a pass.
enum Telling {
    /// The comment was written.
    Written(Told),
    /// There is nothing to write, or it stands there already.
    Nothing,
    /// Too early: the last edit was a moment ago.
    Later(Timestamp),
    /// The forge did not take it.
    Refused(Failure),
}

impl Notifier {
    /// A notifier that says nothing of what is `hidden`: paths of this machine, secrets of the configuration.
    pub fn new(queue: Arc<Queue>, forge: Arc<dyn Forge>, clock: Clock, hidden: Vec<SecretString>) -> Self {
        let reader = Reader::new(queue.clone(), "notify");
        Self { queue, forge, clock, hidden, reader, pass: tokio::sync::Mutex::default(), memory: Mutex::default() }
    }

    /// Tells what there is to tell now. Returns how many comments were written.
    ///
    /// # Errors
    /// When the queue cannot be read. A failure of the forge is no error: it is logged and tried again later.
    pub async fn deliver_once(&self, now: Timestamp) -> Result<usize, QueueError> {
        self.pass(now, &CancellationToken::new()).await
    }

    /// One pass, which ends between two tasks when told to stop: what is left then is told after the next start.
    async fn pass(&self, now: Timestamp, shutdown: &CancellationToken) -> Result<usize, QueueError> {
        let _pass = self.pass.lock().await;
        self.reader.read(|sequence, record| self.take(sequence, &record, now)).await?;
        let mut n_written = 0;
        let mut n_failed_in_a_row = 0;
        for (id, pending) in self.due(now) {
            if n_failed_in_a_row == MAX_FAILURES_IN_A_ROW || shutdown.is_cancelled() {
                break;
            }
            let telling = self.tell(id, now).await?;
            n_written += usize::from(matches!(telling, Telling::Written(_)));
            n_failed_in_a_row = match &telling {
                Telling::Refused(failure) if is_transient(failure) => n_failed_in_a_row + 1,
                _ => 0,
            };
            self.note(id, pending, telling, now);
        }
        let oldest = self.memory().pending.values().map(|pending| pending.since).min();
        self.reader.settle(oldest).await?;
        Ok(n_written)
    }

    /// Delivers until told to stop: woken by events, and by the moments at which something is to be tried again.
    pub async fn run(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let now = (self.clock)();
            let passed = self.pass(now, &shutdown).await.map(|_| self.next_due(now));
            if !self.reader.wait(passed, &shutdown).await {
                return;
            }
        }
    }

    /// Notes which task has something to tell.
    fn take(&self, sequence: u64, record: &QueueRecord, now: Timestamp) {
        let Some(id) = record.task() else { return };
        let mut memory = self.memory();
        let pending = memory.pending.entry(id).or_insert(Pending { since: sequence, not_before: now, tries: 0 });
        // What only waits for the pace of edits is looked at again: the news may be the end, which is told at once. What
        // waits for the forge goes on waiting.
        if pending.tries == 0 {
            pending.not_before = now;
        }
    }

    /// What may be tried now, what waited longest first.
    fn due(&self, now: Timestamp) -> Vec<(TaskId, Pending)> {
        let memory = self.memory();
        let due = memory.pending.iter().filter(|(_, pending)| pending.not_before <= now);
        let mut due: Vec<_> = due.map(|(id, pending)| (*id, *pending)).collect();
        due.sort_by_key(|(_, pending)| (pending.not_before, pending.since));
        due
    }

    /// How long until something may be tried.
    fn next_due(&self, now: Timestamp) -> Option<Duration> {
        let next = self.memory().pending.values().map(|pending| pending.not_before).min()?;
        Some(next - now)
    }

    /// Writes the comment of one task, if there is something new to write. Key: the task's marker.
    async fn tell(&self, id: TaskId, now: Timestamp) -> Result<Telling, QueueError> {
        let Some(task) = self.queue.get(id).await? else { return Ok(Telling::Nothing) };
        let Some(thread) = task.request.source.thread() else { return Ok(Telling::Nothing) };
        let told = self.memory().told.get(&id).copied();
        if let Some(told) = told
            && task.state.is_unfinished()
            && now < told.at + EDIT_INTERVAL
        {
            return Ok(Telling::Later(told.at + EDIT_INTERVAL));
        }
        let evidence = if shows_checks(&task.state) { self.queue.evidence(id).await? } else { None };
        let body = match comment(&task, evidence.as_ref()) {
            Ok(body) => self.without_hidden(body),
            Err(error) => {
                tracing::error!(task.id = %id, %error, "a comment could not be written");
                return Ok(Telling::Nothing);
            }
        };
        let digest = digest(&body);
        if told.is_some_and(|told| told.digest == digest) {
            return Ok(Telling::Nothing);
        }
        let marker = templates::status_marker(&id.to_string());
        let call = self.forge.status_comment(&task.request.repo, thread, &marker, &body);
        Ok(match tokio::time::timeout(FORGE_TIMEOUT, call).await {
            Ok(Ok(url)) => {
                if let Err(failure) = self.call_for_help(&task, thread, &url).await {
                    return Ok(Telling::Refused(failure));
                }
                let reaction = self.react(&task, told.and_then(|told| told.reaction)).await;
                Telling::Written(Told { at: now, digest, reaction })
            }
            Ok(Err(failure)) => Telling::Refused(failure),
            Err(_) => Telling::Refused(Failure::new(Code::ForgeUnavailable, "The forge did not answer in 60 s")),
        })
    }

    /// One more comment where nothing goes on without a person. Key: a marker of its own.
    async fn call_for_help(&self, task: &Task, thread: u64, url: &str) -> Result<(), Failure> {
        let Some(what) = needs_a_person(&task.state) else { return Ok(()) };
        let id = task.id.to_string();
        let requester = &task.request.actor.login;
        let body = templates::attention(&templates::Attention { task_id: &id, requester, what: &what, url });
        let body = self.without_hidden(body.map_err(Failure::internal)?);
        let marker = templates::attention_marker(&id);
        let call = self.forge.status_comment(&task.request.repo, thread, &marker, &body);
        match tokio::time::timeout(FORGE_TIMEOUT, call).await {
            Ok(called) => called.map(drop),
            Err(_) => Err(Failure::new(Code::ForgeUnavailable, "The forge did not answer in 60 s")),
        }
    }

    /// Puts what became of it where it was asked: eyes at once, a rocket or a puzzled face at the end. Returns what stands
    /// there. It promises nothing that the comment does not say, so a forge that refuses it holds nothing up.
    async fn react(&self, task: &Task, stands: Option<Reaction>) -> Option<Reaction> {
        let Some(thread) = task.request.source.thread() else { return stands };
        let wanted = reaction(&task.state).filter(|wanted| Some(*wanted) != stands);
        let Some(wanted) = wanted else { return stands };
        let to = match task.request.source {
            Source::Comment { comment, .. } => ReactTo::Comment(comment),
            _ => ReactTo::Thread(thread),
        };
        let call = self.forge.react(&task.request.repo, to, wanted);
        match tokio::time::timeout(FORGE_TIMEOUT, call).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::info!(task.id = %task.id, %failure, "no reaction was put there"),
            Err(_) => tracing::info!(task.id = %task.id, "the forge did not answer, so no reaction was put there"),
        }
        Some(wanted)
    }

    fn note(&self, id: TaskId, pending: Pending, telling: Telling, now: Timestamp) {
        let mut memory = self.memory();
        match telling {
            Telling::Written(told) => {
                memory.pending.remove(&id);
                memory.told.insert(id, told);
            }
            Telling::Nothing => {
                memory.pending.remove(&id);
            }
            Telling::Later(not_before) => {
                memory.pending.insert(id, Pending { not_before, ..pending });
            }
            Telling::Refused(failure) if is_transient(&failure) && pending.tries < MAX_TRIES => {
                let wait = (RETRY_BASE * (1 << pending.tries.min(8))).min(RETRY_CAP);
                let not_before = failure.retry_not_before.map_or(now + wait, |at| at.max(now + wait));
                tracing::warn!(task.id = %id, %failure, tries = pending.tries + 1, "a comment waits for the forge");
                memory.pending.insert(id, Pending { not_before, tries: pending.tries + 1, ..pending });
            }
            Telling::Refused(failure) => {
                tracing::error!(task.id = %id, %failure, "a comment was given up: the forge does not take it");
                memory.pending.remove(&id);
            }
        }
        // What was told only matters for the pace of edits; it may be forgotten when it is old.
        if memory.told.len() > 10_000 {
            memory.told.retain(|_, told| now < told.at + Duration::hours(1));
        }
    }

    fn without_hidden(&self, mut text: String) -> String {
        for hidden in &self.hidden {
            let hidden = hidden.expose_secret();
            // A hidden "/" or "a" would leave no text at all.
            if hidden.len() >= 4 {
                text = text.replace(hidden, "…");
            }
        }
        text
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether trying again may help.
pub(crate) fn is_transient(failure: &Failure) -> bool {
    match failure.kind {
        FailureKind::Infrastructure | FailureKind::LeaseExpired | FailureKind::Timeout => true,
        FailureKind::Budget | FailureKind::Agent | FailureKind::Verification | FailureKind::Configuration => {
            // A rate limit is nobody's fault, whatever it is filed under.
            failure.retry_not_before.is_some()
        }
    }
}

fn digest(body: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
