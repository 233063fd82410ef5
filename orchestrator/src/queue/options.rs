//! How a queue behaves, and what tells it the time.

use std::{sync::Arc, time::Instant};

use chrono::Duration;
use tasks::{Priority, RetryPolicy, TaskRequest, Timestamp};

use super::budget::Budgets;

/// What tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A clock that starts at `start` and from then on goes by the machine's monotonic clock, so that no jump of the wall
/// clock ends a lease.
pub fn steady_clock(start: Timestamp) -> Clock {
    let began = Instant::now();
    Arc::new(move || start + Duration::from_std(began.elapsed()).unwrap_or(Duration::MAX))
}

/// How many pull requests of Onramp one repository bears; 0: any number. A task over a limit waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullLimits {
    /// Open at the same time.
    pub open: usize,
    /// Opened within an hour.
    pub per_hour: usize,
    /// Opened since somebody last did something with one of them, or said something there.
    pub unnoticed: usize,
}

/// How a queue behaves.
#[derive(Clone)]
pub struct QueueOptions {
    /// How long a lease lasts without a renewal.
    pub lease: Duration,
    /// When a failed attempt is tried again. Stored with each failure: a change counts from then on.
    pub retry: RetryPolicy,
    /// The time.
    pub clock: Clock,
    /// What decides about a new task's priority.
    pub priority: Arc<dyn Fn(&TaskRequest) -> Priority + Send + Sync>,
    /// How many tasks of one repository are at work at the same time; 0: any number.
    pub parallel_per_repository: usize,
    /// How many tasks of one person may wait; one more is refused. 0: any number.
    pub queued_per_actor: usize,
    /// How many pull requests one repository bears.
    pub pulls: PullLimits,
    /// Who may use how much.
    pub budgets: Arc<Budgets>,
    /// Whether checkpoints are made.
    pub checkpoints: bool,
    /// How many closed segments are kept though a checkpoint stands for them; 0: all, since they are the audit log.
    pub keep_segments: u32,
    /// A segment of the journal is followed by the next one when it has so many bytes.
    pub segment_bytes: u64,
}

impl QueueOptions {
    /// The defaults: leases of 20 seconds, segments of 64 MiB.
    pub fn new(clock: Clock) -> Self {
        Self {
            lease: Duration::seconds(20),
            retry: RetryPolicy::default(),
            clock,
            priority: Arc::new(|_| Priority::Normal),
            parallel_per_repository: 0,
            queued_per_actor: 0,
            pulls: PullLimits::default(),
            budgets: Arc::default(),
            checkpoints: true,
            keep_segments: 0,
            segment_bytes: 64 << 20,
        }
    }
}
