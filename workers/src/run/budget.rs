//! What an attempt uses of its machine, and that it ends when that is all it may use.
//!
//! The model gateway holds money and tokens while they flow. The rest is looked at here, every second: an attempt that has
//! used up its time is stopped as if somebody had asked for that, so that what it did is kept, but for one that publishes.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tasks::{Allowance, Code, Failure, MachinePrices, Meter, Outcome, Report, Task, Usage};
use tokio_util::sync::CancellationToken;

use crate::{artifacts::Artifacts, egress::Tally, gpu::Borrowed, sandbox::BoxUsage};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Measures one attempt.
pub(super) struct Meters<'a> {
    started: Instant,
    pub(super) allowance: Allowance,
    prices: &'a MachinePrices,
    pub(super) borrowed: &'a Borrowed,
    /// What commands used in the boxes of the attempt. A command counts when it has ended.
    pub(super) boxes: Arc<BoxUsage>,
    /// What it asks of models, once it can ask any.
    tally: OnceLock<Arc<Tally>>,
}

impl<'a> Meters<'a> {
    pub(super) fn new(task: &Task, borrowed: &'a Borrowed, prices: &'a MachinePrices) -> Self {
        let allowance = task.reservation.as_ref().map_or_else(Allowance::default, |reservation| reservation.allowance);
        Self { started: Instant::now(), allowance, prices, borrowed, boxes: Arc::default(), tally: OnceLock::new() }
    }

    /// From now on what it asks of models counts too.
    pub(super) fn count(&self, tally: &Arc<Tally>) {
        // There is one for each attempt.
        let _ = self.tally.set(tally.clone());
    }

    /// What the attempt used by now.
    pub(super) fn used(&self) -> Usage {
        self.priced(0)
    }

    /// The same at its end, with what it leaves behind.
    pub(super) fn used_in_all(&self, artifacts: Option<&Artifacts>) -> Usage {
        self.priced(artifacts.map_or(0, Artifacts::size_bytes))
    }

    fn priced(&self, storage_bytes: u64) -> Usage {
        let used = Usage {
            wall_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            cpu_ms: self.boxes.cpu_ms(),
            memory_mib_s: self.boxes.memory_mib_s(),
            gpu_ms: self.borrowed.used().map_or(0, |gpu| gpu.lent_ms),
            storage_bytes,
            ..Usage::default()
        };
        let machines = Usage { money: self.prices.of(&used), ..used };
        self.tally.get().map_or(machines, |tally| machines.plus(&tally.record().spent()))
    }

    /// Stops the attempt when it has used all that it may use of something; returns what that was.
    pub(super) async fn watch(&self, stop: &CancellationToken) -> Meter {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            look.tick().await;
            // Where the gateway has cut the agent off, the attempt comes to an end that keeps more.
            if self.tally.get().is_some_and(|tally| tally.stopped().is_some()) {
                continue;
            }
            let used = Usage { n_unpriced: 0, ..self.used() };
            if let Some(meter) = self.allowance.with(Meter::Tokens, None).used_up_by(&used) {
                stop.cancel();
                return meter;
            }
        }
    }

    /// What is reported of an attempt that was stopped for it. One that came to a verdict all the same has its verdict.
    pub(super) fn report(&self, meter: Meter, report: Report) -> Report {
        match report {
            Report::Finished { outcome: Outcome::Cancelled, evidence, used } => {
                let limit = meter.show(self.allowance.of(meter).unwrap_or(0));
                let message = format!("The task was stopped, because it has used all of the {limit} that it may use");
                Report::Failed { failure: Failure::new(Code::BudgetSpent, message), evidence, used }
            }
            other @ (Report::Finished { .. } | Report::Failed { .. } | Report::Released { .. }) => other,
        }
    }
}
