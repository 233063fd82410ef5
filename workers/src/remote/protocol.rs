//! What a worker in another process and the queue say to each other: JSON over HTTP, and bytes for artifacts.
//!
//! Every request carries a token and the number of this protocol; a worker with another number is refused before anything is
//! looked at, because it may mean something else by the same words. Every write carries the lease, and nothing but the
//! lease decides whether it is taken. Every request may be sent again after a lost answer: an ask has a name of its own
//! and gets the same lease, a report is known by what it says, a piece of a log by its place.
//!
//! Answers: 200 done; 401 and 426 refused for good, with a [`tasks::Failure`] that says why; 409 the lease is lost; 412 the
//! log does not end there; 413 and 507 no room for this artifact; 503 not now. Everything else is an answer that was lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tasks::{Lease, Report, Stage, Task, WorkerName};

/// The number of this protocol. Raised whenever an older worker would misunderstand.
pub const PROTOCOL: u32 = 1;
/// Carries [`PROTOCOL`].
pub const PROTOCOL_HEADER: &str = "onramp-protocol";
/// Carries the SHA-256 of a body with bytes, in hex.
pub const SHA256_HEADER: &str = "onramp-sha256";
/// Carries the name in the lease, where the body is no JSON.
pub const WORKER_HEADER: &str = "onramp-worker";

/// `GET`: whether this worker is welcome.
pub const WELCOME: &str = "/worker/v1/welcome";
/// `POST` [`Ask`], answers `Option<Granted>`: a task, or none so far; ask again.
pub const LEASE: &str = "/worker/v1/lease";
/// `POST` [`Ask`]: what was asked for is not wanted any more; gives back what was granted.
pub const ABANDON: &str = "/worker/v1/abandon";
/// `POST` [`Renew`], answers [`Renewed`].
pub const RENEW: &str = "/worker/v1/renew";
/// `POST` [`Final`].
pub const REPORT: &str = "/worker/v1/report";
/// `PUT /worker/v1/artifacts/{task}/{attempt}/{name}`: a whole artifact. `POST …?at=N`: a piece of a log that has N bytes.
pub const ARTIFACTS: &str = "/worker/v1/artifacts";

/// How long a question for a task stays open when there is none.
pub const LEASE_WAIT: Duration = Duration::from_secs(25);
/// The largest piece of a log.
pub const MAX_PIECE_BYTES: usize = 256 << 10;
/// The largest artifact.
pub const MAX_ARTIFACT_BYTES: u64 = 256 << 20;
/// What all artifacts of one attempt may take.
pub const MAX_ATTEMPT_BYTES: u64 = 1 << 30;
/// The largest body of JSON: a report with the ends of all outputs.
pub const MAX_JSON_BYTES: usize = 16 << 20;

/// A question for a task, or the end of one. `worker` is the name of this one question: it goes into the lease, and no
/// other question has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ask {
    /// The worker's own name, a dot, and something that is new each time.
    pub worker: WorkerName,
}

/// A task and the right to work on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Granted {
    /// The task.
    pub task: Task,
    /// The lease; `expires_at` is by the clock of the queue.
    pub lease: Lease,
    /// How long it lasts from now on. Two machines agree on spans of time, not on clocks.
    pub lasts_ms: u64,
}

/// Keeps a lease alive and tells how far the work is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Renew {
    /// The lease.
    pub lease: Lease,
    /// How far the work is.
    pub stage: Stage,
}

/// The lease is alive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Renewed {
    /// Somebody asked for the task to stop.
    pub cancel_requested: bool,
    /// Somebody asked for it to end with what is there.
    #[serde(default)]
    pub finish_requested: bool,
    /// How long it lasts from now on.
    pub lasts_ms: u64,
}

/// The last word on an attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Final {
    /// The lease.
    pub lease: Lease,
    /// The last word.
    pub report: Report,
}

/// The answer to a piece of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Grown {
    /// How many bytes the log has now.
    pub length: u64,
}

/// Whether an artifact may be called so: one plain name, never a path and never hidden.
pub fn is_artifact_name(name: &str) -> bool {
    (1..=120).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_artifact_is_never_a_path() {
        for name in ["evidence.json", "check-1-list.log", "a"] {
            assert!(is_artifact_name(name), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a\0", "é", &"x".repeat(121)] {
            assert!(!is_artifact_name(name), "{name:?}");
        }
    }
}
