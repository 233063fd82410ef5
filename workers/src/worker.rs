//! Takes leases, runs attempts, keeps the leases alive and reports.
//!
//! A worker stops in two steps: told to drain it takes no new task and ends the one it has; told to stop it gives the
//! task back unharmed. Losing the lease cancels the work: whatever it would still write is stale.

mod places;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt as _;
use tasks::{Lease, Outcome, QueueError, Report, Stage, Task, WorkQueue, WorkerName, queue::Renewal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use self::places::{Place, Places};
use crate::{
    fence::Fence,
    progress::{Progress, ProgressEvent},
    run::{Hands, run_task},
};

/// How often a lease is renewed: a quarter of its life, so that three renewals may be lost.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// How long a report is tried again when the queue does not answer.
const REPORT_RETRY: Duration = Duration::from_secs(2);

/// One worker: one attempt at a time.
pub struct Worker {
    /// Its name, unique in the queue.
    pub name: WorkerName,
    /// Where leases come from.
    pub queue: Arc<dyn WorkQueue>,
    /// What attempts need.
    pub hands: Arc<Hands>,
    /// The places of all workers of this process.
    pub places: Places,
    /// Told of the progress of every attempt.
    pub progress: Arc<dyn Fn(&Task) -> Progress + Send + Sync>,
}

/// Why the work on an attempt was stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoppedBecause {
    Requested,
    LeaseLost,
    ShuttingDown,
}

impl Worker {
    /// Works until `drain` is cancelled and the task at hand has ended, or until `stop` is cancelled.
    pub async fn run(&self, drain: CancellationToken, stop: CancellationToken) {
        loop {
            let place = tokio::select! {
                biased;
                () = drain.cancelled() => return,
                () = stop.cancelled() => return,
                place = self.places.take() => place,
            };
            let leased = tokio::select! {
                biased;
                () = drain.cancelled() => return,
                () = stop.cancelled() => return,
                leased = self.queue.lease(&self.name) => leased,
            };
            match leased {
                Ok((task, lease)) => {
                    let span = tracing::info_span!("attempt", task.id = %task.id, task.attempt = lease.attempt);
                    self.work(&task, &lease, place, &stop).instrument(span).await;
                }
                Err(QueueError::ShuttingDown) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot lease a task");
                    tokio::time::sleep(REPORT_RETRY).await;
                }
            }
        }
    }

    /// One lease, to its report.
    async fn work(&self, task: &Task, lease: &Lease, place: Place, stop: &CancellationToken) {
        let (cancel, finish) = (CancellationToken::new(), CancellationToken::new());
        let (stage_tx, stage_rx) = watch::channel(Stage::Preparing);
        let outer = (self.progress)(task);
        let place = Mutex::new(place);
        let progress = Progress::new(move |event| {
            if let (ProgressEvent::Waiting(_), Ok(mut place)) = (&event, place.lock()) {
                place.step_aside();
            }
            if let ProgressEvent::Stage(stage) = &event {
                stage_tx.send_replace(*stage);
            }
            outer.tell(event);
        });
        let keep_alive = self.keep_alive(lease, stage_rx, &cancel, &finish, stop);
        let fence = Fence::of(self.queue.clone(), lease.clone(), cancel.clone());
        let attempt = AssertUnwindSafe(run_task(&self.hands, task, &fence, &progress, &cancel, &finish)).catch_unwind();
        tokio::pin!(attempt);
        let (attempted, stopped) = tokio::select! {
            attempted = &mut attempt => (attempted, None),
            because = keep_alive => (attempt.await, Some(because)),
        };
        let Ok(report) = attempted else {
            // As if the process had died: the lease runs out, which is counted, and this worker goes on with others.
            tracing::error!("a defect made the attempt panic; the task goes back to the queue when its lease ends");
            return;
        };
        let report = match (stopped, report) {
            (Some(StoppedBecause::LeaseLost), _) => {
                tracing::warn!("the lease was lost, so nothing is reported");
                return;
            }
            (Some(StoppedBecause::ShuttingDown), Report::Finished { outcome: Outcome::Cancelled, used, .. }) => {
                Report::Released { used }
            }
            (_, report) => report,
        };
        self.report(lease, report).await;
    }

    /// Renews the lease and tells the stage, until the work must stop.
    async fn keep_alive(
        &self,
        lease: &Lease,
        mut stage: watch::Receiver<Stage>,
        cancel: &CancellationToken,
        finish: &CancellationToken,
        stop: &CancellationToken,
    ) -> StoppedBecause {
        let mut cancel_requested = false;
        loop {
            let current = *stage.borrow_and_update();
            match self.queue.renew(lease, current).await {
                Ok(Renewal::Held(_)) => {}
                Ok(Renewal::CancelRequested(_)) if current != Stage::Publishing => {
                    cancel.cancel();
                    cancel_requested = true;
                }
                Ok(Renewal::CancelRequested(_)) => {}
                Ok(Renewal::FinishRequested(_)) => finish.cancel(),
                Err(QueueError::StaleLease { .. } | QueueError::UnknownTask(_)) => {
                    cancel.cancel();
                    return StoppedBecause::LeaseLost;
                }
                // The lease outlives a few lost renewals; if the queue stays away it ends by itself.
                Err(error) => tracing::warn!(%error, "cannot renew the lease"),
            }
            if cancel_requested {
                return StoppedBecause::Requested;
            }
            tokio::select! {
                () = tokio::time::sleep(RENEW_INTERVAL) => {}
                changed = stage.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = stop.cancelled() => {
                    cancel.cancel();
                    return StoppedBecause::ShuttingDown;
                }
            }
        }
    }

    async fn report(&self, lease: &Lease, report: Report) {
        log_ending(&report);
        loop {
            match self.queue.report(lease, report.clone()).await {
                Ok(()) => return,
                Err(QueueError::Unavailable(reason)) => {
                    tracing::warn!(reason, "the queue cannot take the report yet");
                    tokio::time::sleep(REPORT_RETRY).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the report was refused");
                    return;
                }
            }
        }
    }
}

fn log_ending(report: &Report) {
    match report {
        Report::Finished { outcome, .. } => tracing::info!(outcome = outcome_word(outcome), "attempt ended"),
        Report::Failed { failure, .. } => {
            tracing::info!(failure.code = %failure.code, failure.message, "attempt failed");
        }
        Report::Released { .. } => tracing::info!("attempt given back"),
    }
}

fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::PullRequestOpened { .. } => "pull_request_opened",
        Outcome::PullRequestUpdated { .. } => "pull_request_updated",
        Outcome::DiffVerified => "diff_verified",
        Outcome::NothingChanged => "nothing_changed",
        Outcome::PolicyRejected { .. } => "policy_rejected",
        Outcome::Cancelled => "cancelled",
    }
}
