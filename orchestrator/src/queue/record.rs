//! What the journal says: one record per change, past tense, versioned, and only ever added to.
//!
//! A record carries everything that its effect depends on, the retry policy included: a journal that is replayed under
//! another configuration must give the same tasks. Texts that come from outside (an error's detail, the output of a
//! check) are cut *here*, before the record is made, so that the journal and the index agree and no value of the index
//! grows past a few ten thousand bytes.

use chrono::Duration;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tasks::{
    Change, DedupeKey, Evidence, Failure, Note, Outcome, RepoName, Report, Reservation, RetryPolicy, Task, TaskEvent,
    TaskId, Timestamp, Usage, WorkerName,
};

/// The format that is written. A reader refuses what is newer, and reads what is older as it was meant: a field that
/// came later has a default that stands for "did not exist".
///
/// - 1: lost workers count as failures (`retry` without `max_crashes`), a second trigger leaves no note.
/// - 2: crashes have a count and a limit of their own; notes, priorities, refusals, checkpoints.
/// - 3: attempts reserve what they may use, and say what they used.
const VERSION: u32 = 3;

/// The longest record, in bytes of JSON. Far above what the door lets in; a guard for everybody else's reads.
pub(super) const MAX_RECORD_BYTES: usize = 4 << 20;

const MAX_DETAIL_BYTES: usize = 8 << 10;
const MAX_SENTENCE_BYTES: usize = 2 << 10;
const MAX_OUTPUTS_BYTES: usize = 24 << 10;
const MAX_VIOLATIONS: usize = 100;
const MAX_CHECKS: usize = 100;
const MAX_HOSTS: usize = 200;
const MAX_NOTE_BYTES: usize = 4 << 10;

/// One change of the queue, in the order in which it became durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum QueueRecord {
    /// A request became a task. Its dedupe key stands in the task's request: one record, so never one without the other.
    Enqueued {
        /// The task as it was made.
        task: Box<Task>,
    },
    /// A request asked for what an unfinished task already does; its key now answers with that task.
    Joined {
        /// The key of the second request.
        key: DedupeKey,
        /// The task that it joined.
        task: TaskId,
        /// When.
        at: Timestamp,
        /// What it said. `None`: the task was refused for its requester's sake, and so was this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<Box<Note>>,
    },
    /// Something happened to a task.
    Applied {
        /// The task.
        task: TaskId,
        /// When.
        at: Timestamp,
        /// What.
        event: TaskEvent,
        /// What was verified, where the event is the end of an attempt that got that far.
        evidence: Option<Box<Evidence>>,
        /// The retry policy that decided, where the event asks it.
        retry: Option<Retry>,
        /// What the attempt that began may use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reserved: Option<Box<Reservation>>,
        /// What the attempt that ended used. `None`: it never said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        used: Option<Box<Usage>>,
    },
    /// Something happened outside. What it did to tasks stands in `Applied` records before this one.
    Observed {
        /// The key of the delivery.
        key: DedupeKey,
        /// When it was stored.
        at: Timestamp,
        /// What.
        change: Change,
    },
    /// Everything up to the end of a segment stands in a checkpoint too. Not an event.
    Checkpointed {
        /// The last segment that it covers.
        segment: u32,
        /// The hash of its last row, which stands for all of it.
        hash: String,
    },
    /// A reader of the journal has dealt with everything up to here. Not an event: readers never see it.
    CursorMoved {
        /// The reader's name.
        name: String,
        /// The last sequence that it dealt with.
        sequence: u64,
    },
}

impl QueueRecord {
    /// Whether readers of events see it.
    pub(super) fn is_event(&self) -> bool {
        match self {
            Self::Enqueued { .. } | Self::Joined { .. } | Self::Applied { .. } | Self::Observed { .. } => true,
            Self::CursorMoved { .. } | Self::Checkpointed { .. } => false,
        }
    }

    /// The task that it is about, if it is about one.
    pub fn task(&self) -> Option<TaskId> {
        match self {
            Self::Enqueued { task } => Some(task.id),
            Self::Joined { task, .. } | Self::Applied { task, .. } => Some(*task),
            Self::Observed { .. } | Self::CursorMoved { .. } | Self::Checkpointed { .. } => None,
        }
    }

    /// The repository that it names.
    pub(super) fn repo(&self) -> Option<&RepoName> {
        match self {
            Self::Enqueued { task } => Some(&task.request.repo),
            Self::Observed { change, .. } => change.repo(),
            Self::Joined { .. } | Self::Applied { .. } | Self::CursorMoved { .. } | Self::Checkpointed { .. } => None,
        }
    }

    /// When it was.
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Enqueued { task } => Some(task.created_at),
            Self::Joined { at, .. } | Self::Applied { at, .. } | Self::Observed { at, .. } => Some(*at),
            Self::CursorMoved { .. } | Self::Checkpointed { .. } => None,
        }
    }

    /// The names that it can be asked for by: its own, and that of what happened.
    pub(super) fn kinds(&self) -> [Option<&'static str>; 2] {
        match self {
            Self::Enqueued { .. } => [Some("enqueued"), None],
            Self::Joined { .. } => [Some("joined"), None],
            Self::Applied { event, .. } => [Some("applied"), Some(event.word())],
            Self::Observed { change, .. } => [Some("observed"), Some(change.word())],
            Self::CursorMoved { .. } => [Some("cursor_moved"), None],
            Self::Checkpointed { .. } => [Some("checkpointed"), None],
        }
    }

    /// The most telling of its names.
    pub fn word(&self) -> &'static str {
        let [kind, what] = self.kinds();
        what.or(kind).unwrap_or_default()
    }

    /// The record of an event, with its texts cut and the policy noted where the event asks it.
    pub(super) fn applied(task: TaskId, event: TaskEvent, with: With, policy: &RetryPolicy, at: Timestamp) -> Self {
        let With { evidence, reserved, used } = with;
        let retry = match &event {
            TaskEvent::AttemptFailed { .. } | TaskEvent::LeaseExpired => Some(Retry::from(policy)),
            TaskEvent::Leased { .. }
            | TaskEvent::StageReached { .. }
            | TaskEvent::Released
            | TaskEvent::Finished { .. }
            | TaskEvent::CancelRequested { .. }
            | TaskEvent::FinishRequested { .. }
            | TaskEvent::Refused { .. }
            | TaskEvent::Overdrawn { .. }
            | TaskEvent::Requeued
            | TaskEvent::HeldBack { .. }
            | TaskEvent::LetGo
            | TaskEvent::Noticed
            | TaskEvent::FoundStale
            | TaskEvent::PullRequestMerged
            | TaskEvent::PullRequestClosed
            | TaskEvent::PullRequestReopened => None,
        };
        Self::Applied { task, at, event, evidence, retry, reserved, used }
    }
}

/// What comes along with an event.
#[derive(Debug, Default)]
pub(super) struct With {
    pub(super) evidence: Option<Box<Evidence>>,
    pub(super) reserved: Option<Box<Reservation>>,
    pub(super) used: Option<Box<Usage>>,
}

/// A [`RetryPolicy`] as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// After so many failures the task is failed for good.
    pub max_failures: u32,
    /// After so many vanished workers the task is set aside; 0 in the first format, where they counted as failures.
    #[serde(default)]
    pub max_crashes: u32,
    /// The wait after the first failure, in milliseconds.
    pub base_ms: i64,
    /// The longest wait, in milliseconds.
    pub cap_ms: i64,
}

impl From<&RetryPolicy> for Retry {
    fn from(policy: &RetryPolicy) -> Self {
        Self {
            max_failures: policy.max_failures,
            max_crashes: policy.max_crashes,
            base_ms: policy.base.num_milliseconds(),
            cap_ms: policy.cap.num_milliseconds(),
        }
    }
}

impl From<&Retry> for RetryPolicy {
    fn from(retry: &Retry) -> Self {
        Self {
            max_failures: retry.max_failures,
            max_crashes: retry.max_crashes,
            base: Duration::milliseconds(retry.base_ms),
            cap: Duration::milliseconds(retry.cap_ms),
        }
    }
}

/// The last report that was taken for a task: what makes a repeated one harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reported {
    pub(super) worker: WorkerName,
    pub(super) attempt: u32,
    /// Over the event and the evidence, in hexadecimal.
    pub(super) sha256: String,
}

impl Reported {
    /// The mark that this event leaves, where it is the last word of a worker.
    pub(super) fn of(
        worker: &WorkerName,
        attempt: u32,
        event: &TaskEvent,
        evidence: Option<&Evidence>,
    ) -> Result<Option<Self>, serde_json::Error> {
        match event {
            TaskEvent::Finished { .. } | TaskEvent::AttemptFailed { .. } | TaskEvent::Released => {
                let sha256 = hex::encode(Sha256::digest(serde_json::to_vec(&(event, evidence))?));
                Ok(Some(Self { worker: worker.clone(), attempt, sha256 }))
            }
            TaskEvent::Leased { .. }
            | TaskEvent::StageReached { .. }
            | TaskEvent::LeaseExpired
            | TaskEvent::CancelRequested { .. }
            | TaskEvent::FinishRequested { .. }
            | TaskEvent::Refused { .. }
            | TaskEvent::Overdrawn { .. }
            | TaskEvent::Requeued
            | TaskEvent::HeldBack { .. }
            | TaskEvent::LetGo
            | TaskEvent::Noticed
            | TaskEvent::FoundStale
            | TaskEvent::PullRequestMerged
            | TaskEvent::PullRequestClosed
            | TaskEvent::PullRequestReopened => Ok(None),
        }
    }
}

/// What a report means to the task, with its texts cut.
pub(super) fn event_of(report: Report) -> (TaskEvent, With) {
    let (event, evidence, used) = match report {
        Report::Finished { outcome, evidence, used } => {
            (TaskEvent::Finished { outcome: bounded_outcome(outcome) }, evidence, used)
        }
        Report::Failed { failure, evidence, used } => {
            (TaskEvent::AttemptFailed { failure: bounded_failure(failure) }, evidence, used)
        }
        Report::Released { used } => (TaskEvent::Released, None, used),
    };
    (event, With { evidence: evidence.map(bounded_evidence), reserved: None, used: used.map(Box::new) })
}

/// A note with its text cut.
pub(super) fn bounded_note(mut note: Note) -> Box<Note> {
    note.text = head(note.text, MAX_NOTE_BYTES);
    Box::new(note)
}

fn bounded_failure(mut failure: Failure) -> Failure {
    failure.message = head(failure.message, MAX_SENTENCE_BYTES);
    failure.next_step = head(failure.next_step, MAX_SENTENCE_BYTES);
    failure.detail = failure.detail.map(|text| tail(text, MAX_DETAIL_BYTES));
    failure
}

fn bounded_outcome(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::PolicyRejected { mut violations } => {
            violations.truncate(MAX_VIOLATIONS);
            for violation in &mut violations {
                violation.message = head(std::mem::take(&mut violation.message), 300);
                violation.path = violation.path.take().map(|path| head(path, 300));
            }
            Outcome::PolicyRejected { violations }
        }
        other @ (Outcome::PullRequestOpened { .. }
        | Outcome::PullRequestUpdated { .. }
        | Outcome::DiffVerified
        | Outcome::NothingChanged
        | Outcome::Cancelled) => other,
    }
}

/// Every check keeps its verdict; what their outputs may take is shared evenly between them.
fn bounded_evidence(mut evidence: Box<Evidence>) -> Box<Evidence> {
    evidence.checks.truncate(MAX_CHECKS);
    let share = MAX_OUTPUTS_BYTES / evidence.checks.len().max(1);
    for check in &mut evidence.checks {
        check.output_tail = tail(std::mem::take(&mut check.output_tail), share);
        check.command = head(std::mem::take(&mut check.command), 200);
    }
    evidence.blocked_hosts.truncate(MAX_HOSTS);
    if let Some(egress) = &mut evidence.egress {
        egress.n_unlisted += egress.hosts.len().saturating_sub(MAX_HOSTS) as u64;
        egress.hosts.truncate(MAX_HOSTS);
        egress.models.truncate(MAX_HOSTS);
    }
    evidence.findings.truncate(MAX_VIOLATIONS);
    for finding in &mut evidence.findings {
        finding.message = head(std::mem::take(&mut finding.message), 300);
        finding.path = finding.path.take().map(|path| head(path, 300));
    }
    if let Some(tier) = &mut evidence.tier {
        tier.because.truncate(MAX_HOSTS);
    }
    evidence
}

fn head(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes));
        text.push('…');
    }
    text
}

fn tail(text: String, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text;
    }
    let start = text.ceil_char_boundary(text.len() - max_bytes);
    format!("… ({start} bytes cut)\n{}", &text[start..])
}

/// Why bytes are not a value of ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has version {0}, which a newer Onramp wrote")]
    Newer(u32),
}

#[derive(Serialize)]
struct VersionedRef<'a, T> {
    v: u32,
    value: &'a T,
}

#[derive(Deserialize)]
struct Versioned<T> {
    v: u32,
    value: T,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

/// `{"v":3,"value":…}`
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&VersionedRef { v: VERSION, value })
}

/// What [`encode`] wrote, by this version or an older one.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, DecodeError> {
    match serde_json::from_slice::<Versioned<T>>(bytes) {
        Ok(Versioned { v, .. }) if v > VERSION => Err(DecodeError::Newer(v)),
        Ok(Versioned { value, .. }) => Ok(value),
        // A newer format may not have our fields at all; whoever reads the error deserves to hear that.
        Err(error) => match serde_json::from_slice::<VersionOnly>(bytes) {
            Ok(VersionOnly { v }) if v > VERSION => Err(DecodeError::Newer(v)),
            Ok(VersionOnly { .. }) | Err(_) => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use tasks::{Code, Violation};

    use super::*;

    #[test]
    fn texts_from_outside_are_cut_on_a_character_and_keep_their_end() {
        let failure = Failure::new(Code::AgentFailed, "x").detail("é".repeat(20_000) + "the last line");
        let (event, _) = event_of(Report::Failed { failure, evidence: None, used: None });
        let TaskEvent::AttemptFailed { failure } = event else { panic!("{event:?}") };
        let detail = failure.detail.unwrap();
        assert!(detail.len() < MAX_DETAIL_BYTES + 40 && detail.ends_with("the last line"));
        assert!(detail.starts_with("… (31822 bytes cut)\né"), "{}", &detail[..40]);

        let violation = Violation { rule: "max_files".into(), path: Some("p".repeat(5000)), message: "m".repeat(5000) };
        let outcome = Outcome::PolicyRejected { violations: vec![violation; 5000] };
        let (event, _) = event_of(Report::Finished { outcome, evidence: None, used: None });
        assert!(encode(&event).unwrap().len() < 64 << 10);
    }

    #[test]
    fn a_value_of_a_newer_version_is_named_as_such() {
        let newer = br#"{"v":7,"record":{}}"#;
        assert_eq!(
            decode::<QueueRecord>(newer).unwrap_err().to_string(),
            "it has version 7, which a newer Onramp wrote"
        );
    }

    #[test]
    fn the_stored_form_is_what_it_was() {
        let at = Timestamp::from_timestamp(1_790_000_000, 0).unwrap();
        let task = TaskId::from_bytes([7; 16]);
        let record = QueueRecord::applied(task, TaskEvent::LeaseExpired, With::default(), &RetryPolicy::default(), at);
        let bytes = encode(&record).unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            concat!(
                r#"{"v":3,"value":{"kind":"applied","task":"07070707070707070707070707070707","at":"2026-09-21T14:13:20Z","#,
                r#""event":{"event":"lease_expired"},"evidence":null,"#,
                r#""retry":{"max_failures":3,"max_crashes":3,"base_ms":10000,"cap_ms":900000}}}"#
            )
        );
        assert_eq!(decode::<QueueRecord>(&bytes).unwrap(), record);

        let first = String::from_utf8(bytes).unwrap().replace("\"v\":3", "\"v\":1").replace("\"max_crashes\":3,", "");
        let QueueRecord::Applied { retry, .. } = decode(first.as_bytes()).unwrap() else { panic!("{first}") };
        assert_eq!(retry.unwrap().max_crashes, 0, "as the first format meant it");
    }
}
