//! Our side: the queue, in this process, as `onramp serve` has it.

use std::{path::Path, sync::Arc, time::SystemTime};

use orchestrator::queue::{Queue, QueueOptions, steady_clock};
use tasks::{Intake as _, Lease, Outcome, Report, TaskRequest, Timestamp, WorkQueue as _};

use crate::store::Store;

/// The queue of one directory.
#[derive(Clone)]
pub(crate) struct Ours(pub(crate) Arc<Queue>);

impl Ours {
    pub(crate) async fn open(dir: &Path) -> Self {
        let dir = dir.to_owned();
        let start: Timestamp = SystemTime::now().into();
        let options = QueueOptions::new(steady_clock(start));
        let opened = tokio::task::spawn_blocking(move || Queue::open(&dir, options)).await;
        Self(Arc::new(opened.expect("it does not panic").expect("the store opens")))
    }
}

impl Store for Ours {
    type Leased = Lease;

    async fn enqueue(&self, request: TaskRequest) {
        self.0.enqueue(request).await.expect("the request is stored");
    }

    async fn lease(&self, worker: usize) -> Lease {
        let worker = format!("worker-{worker}").parse().expect("a name");
        self.0.lease(&worker).await.expect("a task").1
    }

    async fn acknowledge(&self, lease: Lease) {
        let report = Report::Finished { outcome: Outcome::NothingChanged, evidence: None, used: None };
        self.0.report(&lease, report).await.expect("the report is stored");
    }
}
