//! Ends what ran out: leases of workers that are no longer heard from.
//!
//! It wakes when the next lease would end, not by a rhythm of its own; a renewal only moves that moment.

use std::time::Duration;

use tasks::{QueueError, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::queue::{Clock, Queue, sleep_until};

/// How long to wait after the store refused a write.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Ends every lease that has run out by `now`, and tells how many.
///
/// # Errors
/// [`QueueError::Unavailable`] when it could not be made durable; the leases are then still to be ended.
pub async fn sweep_once(queue: &Queue, now: Timestamp) -> Result<usize, QueueError> {
    let ended = queue.expire_leases(now).await?;
    for task in &ended {
        tracing::warn!(task.id = %task, "the lease ran out: its worker vanished");
    }
    Ok(ended.len())
}

/// Sweeps whenever a lease runs out, until the shutdown.
pub async fn run(queue: &Queue, clock: Clock, shutdown: CancellationToken) {
    let mut leases = queue.leases();
    loop {
        let next = leases.borrow_and_update().values().min().copied();
        let now = clock();
        let swept = match next {
            Some(at) if at <= now => sweep_once(queue, now).await,
            Some(_) | None => Ok(0),
        };
        let pause = async {
            match swept {
                Ok(0) => sleep_until(next, now).await,
                Ok(_) => {}
                Err(QueueError::ShuttingDown) => std::future::pending().await,
                Err(error) => {
                    tracing::error!(%error, "leases that ran out cannot be ended yet");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = pause => {}
            changed = leases.changed() => if changed.is_err() { return },
        }
    }
}
