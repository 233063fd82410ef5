//! Asks, right before something is written outside, whether the attempt may still write.
//!
//! A worker can be frozen, or cut off, for longer than its lease lasts. Another one then does the same task, and the first
//! wakes up in the middle of a step and knows nothing of it. No clock of its own can tell it, so it asks the queue: each
//! outward act is preceded by a renewal, and an answer that was long on its way counts for nothing.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tasks::{Code, Failure, Lease, QueueError, Stage, WorkQueue, queue::Renewal};
use tokio_util::sync::CancellationToken;

/// An answer that took longer is asked for again. Far below the life of a lease, so that what follows at once is inside it.
const FRESH: Duration = Duration::from_secs(5);
/// The pause before a queue that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The right of one attempt to write outside. Cheap to clone.
#[derive(Clone)]
pub struct Fence(Option<Arc<Held>>);

struct Held {
    queue: Arc<dyn WorkQueue>,
    lease: Lease,
    cancel: CancellationToken,
    /// [`FRESH`].
    fresh: Duration,
    /// Something may have been written: who asks for a stop now comes too late.
    passed: AtomicBool,
}

impl Fence {
    /// For an attempt that nobody else can be doing: one from the command line.
    pub const fn open() -> Self {
        Self(None)
    }

    /// For an attempt under a lease. `cancel` ends the waiting for a queue that does not answer.
    pub fn of(queue: Arc<dyn WorkQueue>, lease: Lease, cancel: CancellationToken) -> Self {
        Self(Some(Arc::new(Held { queue, lease, cancel, fresh: FRESH, passed: AtomicBool::new(false) })))
    }

    /// Returns when the queue has just said that the lease is alive.
    ///
    /// # Errors
    /// E071 when the lease is lost; E070 when the task is to stop and nothing was written yet, or when the worker stops
    /// while the queue does not answer.
    pub async fn confirm(&self) -> Result<(), Failure> {
        let Some(held) = &self.0 else { return Ok(()) };
        loop {
            let asked_at = Instant::now();
            match held.queue.renew(&held.lease, Stage::Publishing).await {
                Ok(_) if asked_at.elapsed() > held.fresh => continue,
                Ok(Renewal::CancelRequested(_)) if !held.passed.load(Ordering::Relaxed) => return Err(stopped()),
                Ok(_) => {
                    held.passed.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(QueueError::StaleLease { .. } | QueueError::UnknownTask(_)) => return Err(lost(&held.lease)),
                Err(error) => tracing::warn!(%error, "nothing is written before the queue has answered"),
            }
            tokio::select! {
                () = held.cancel.cancelled() => return Err(stopped()),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// [`Fence::confirm`] on a thread that may block. Needs the runtime around it.
    ///
    /// # Errors
    /// As for [`Fence::confirm`].
    pub fn confirm_blocking(&self) -> Result<(), Failure> {
        match &self.0 {
            None => Ok(()),
            Some(_) => tokio::runtime::Handle::current().block_on(self.confirm()),
        }
    }
}

fn stopped() -> Failure {
    Failure::new(Code::Cancelled, "The task was stopped before anything was published")
}

fn lost(lease: &Lease) -> Failure {
    let message = format!("Attempt {} lost its lease, so nothing more was written", lease.attempt);
    Failure::new(Code::WorkerLost, message)
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fence").field(&self.0.as_ref().map(|held| &held.lease)).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tasks::{Report, Task, TaskId, Timestamp, WorkerName};

    use super::*;

    type Answer = fn() -> Result<Renewal, QueueError>;

    /// Answers renewals as told, the last one for ever.
    struct Scripted(Mutex<Vec<Answer>>);

    #[async_trait]
    impl WorkQueue for Scripted {
        async fn lease(&self, _: &WorkerName) -> Result<(Task, Lease), QueueError> {
            Err(QueueError::ShuttingDown)
        }
        async fn renew(&self, _: &Lease, stage: Stage) -> Result<Renewal, QueueError> {
            assert_eq!(stage, Stage::Publishing);
            let mut answers = self.0.lock().unwrap();
            let answer = answers[0];
            if answers.len() > 1 {
                answers.remove(0);
            }
            answer()
        }
        async fn report(&self, _: &Lease, _: Report) -> Result<(), QueueError> {
            Ok(())
        }
    }

    fn later() -> Timestamp {
        Timestamp::from_timestamp(1_790_000_000, 0).unwrap()
    }
    fn held() -> Result<Renewal, QueueError> {
        Ok(Renewal::Held(later()))
    }
    fn to_stop() -> Result<Renewal, QueueError> {
        Ok(Renewal::CancelRequested(later()))
    }
    fn away() -> Result<Renewal, QueueError> {
        Err(QueueError::Unavailable("no route".into()))
    }
    fn stale() -> Result<Renewal, QueueError> {
        Err(QueueError::StaleLease { task: TaskId::from_bytes([1; 16]), attempt: 1 })
    }

    /// Later than it may be.
    fn late() -> Result<Renewal, QueueError> {
        std::thread::sleep(Duration::from_millis(20));
        held()
    }

    /// Of an attempt whose lease is another's by now.
    pub(crate) fn lost_lease() -> Fence {
        fence(vec![stale]).0
    }

    fn fence(answers: Vec<Answer>) -> (Fence, CancellationToken) {
        let cancel = CancellationToken::new();
        let lease =
            Lease { task: TaskId::from_bytes([1; 16]), worker: "w".parse().unwrap(), attempt: 1, expires_at: later() };
        (Fence::of(Arc::new(Scripted(Mutex::new(answers))), lease, cancel.clone()), cancel)
    }

    #[tokio::test]
    async fn a_lost_lease_lets_nothing_pass() {
        let (fence, _) = fence(vec![held, stale]);
        fence.confirm().await.unwrap();
        assert_eq!(fence.confirm().await.unwrap_err().code, Code::WorkerLost);
        Fence::open().confirm().await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_was_long_on_its_way_counts_for_nothing() {
        let (Fence(held), _) = fence(vec![late, stale]);
        let mut held = Arc::into_inner(held.unwrap()).unwrap();
        held.fresh = Duration::from_millis(10);
        let fence = Fence(Some(Arc::new(held)));
        assert_eq!(fence.confirm().await.unwrap_err().code, Code::WorkerLost);
    }

    #[tokio::test]
    async fn a_wish_to_stop_counts_until_something_was_written() {
        let (early, _) = fence(vec![to_stop]);
        assert_eq!(early.confirm().await.unwrap_err().code, Code::Cancelled);
        let (late, _) = fence(vec![held, to_stop]);
        late.confirm().await.unwrap();
        late.confirm().await.unwrap();
    }

    #[tokio::test]
    async fn a_queue_that_does_not_answer_is_waited_for_until_the_worker_stops() {
        let (fence, cancel) = fence(vec![away, away, held, away]);
        fence.confirm().await.unwrap();
        cancel.cancel();
        assert_eq!(fence.confirm().await.unwrap_err().code, Code::Cancelled);
    }
}
