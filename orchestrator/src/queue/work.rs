//! The hands' side of the queue.

use async_trait::async_trait;
use tasks::{Lease, QueueError, Report, Stage, Task, WorkQueue, WorkerName, queue::Renewal};

use super::{Queue, sleep_until, verbs};

#[async_trait]
impl WorkQueue for Queue {
    async fn lease(&self, worker: &WorkerName) -> Result<(Task, Lease), QueueError> {
        let mut ready = self.shared.ready.subscribe();
        loop {
            ready.borrow_and_update();
            let due = match self.grant(worker).await? {
                Ok(grant) => return grant.take().ok_or(QueueError::ShuttingDown),
                Err(due) => due,
            };
            tokio::select! {
                () = self.shared.stop.cancelled() => return Err(QueueError::ShuttingDown),
                changed = ready.changed() => changed.map_err(|_| QueueError::ShuttingDown)?,
                () = sleep_until(due, self.now()) => {}
            }
        }
    }

    async fn renew(&self, lease: &Lease, stage: Stage) -> Result<Renewal, QueueError> {
        let (lease, now, lasts) = (lease.clone(), self.now(), self.shared.options.lease);
        self.submit(move |draft| verbs::renew(draft, &lease, stage, lasts, now)).await
    }

    async fn report(&self, lease: &Lease, report: Report) -> Result<(), QueueError> {
        let (lease, now) = (lease.clone(), self.now());
        self.submit(move |draft| verbs::report(draft, &lease, report, now)).await
    }
}
