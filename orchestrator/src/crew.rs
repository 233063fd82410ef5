//! The workers of one process, beside the queue or elsewhere, and what goes on beside them: the pool, the bases, the sweep.

use std::sync::Arc;

use tasks::{Failure, Task, WorkQueue};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use workers::{
    agent::Agents,
    forge::Forge,
    progress_log::progress_log,
    run::Hands,
    worker::{Places, Worker},
};

use crate::{
    ProgressFor,
    config::{Config, Surroundings},
    wiring,
};

/// Hands that can be used, and whoever uses them.
pub(crate) struct Crew {
    hands: Arc<Hands>,
    why: String,
    working: TaskTracker,
    /// Ends after the work, when told to.
    beside: TaskTracker,
}

impl Crew {
    /// Hands that can be used: the default agent is known, and no sandbox of an earlier life is left.
    ///
    /// # Errors
    /// As for [`wiring::hands`].
    pub(crate) async fn ready(
        config: &Config,
        surroundings: &Surroundings,
        forge: Arc<dyn Forge>,
        agents: Option<Agents>,
    ) -> Result<Self, Failure> {
        let (hands, why) = wiring::hands(config, surroundings, forge, agents).await?;
        hands.agents.get(&hands.default_agent)?;
        hands.sandboxes.sweep_once().await;
        Ok(Self { hands, why, working: TaskTracker::new(), beside: TaskTracker::new() })
    }

    /// What attempts share.
    pub(crate) fn hands(&self) -> &Arc<Hands> {
        &self.hands
    }

    /// Which sandbox is used, and why.
    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    /// The workers for the places of this process, called `<name>-1` and so on. Without somebody who hears of progress, it is
    /// written beside the artifacts.
    ///
    /// # Errors
    /// E099 for a name that cannot be one.
    pub(crate) fn workers(
        &self,
        config: &Config,
        name: &str,
        queue: &Arc<dyn WorkQueue>,
        progress: Option<ProgressFor>,
    ) -> Result<Vec<Worker>, Failure> {
        let root = self.hands.artifacts.clone();
        let progress =
            progress.unwrap_or_else(|| Arc::new(move |task: &Task| progress_log(&root, task.id, task.attempt)));
        let places = Places::new(config.worker.n_workers, self.hands.gpus.n_devices());
        let worker = |n| {
            let name = format!("{name}-{n}").parse().map_err(Failure::internal)?;
            let (queue, hands, places, progress) =
                (queue.clone(), self.hands.clone(), places.clone(), progress.clone());
            Ok(Worker { name, queue, hands, places, progress })
        };
        (1..=places.n_workers()).map(worker).collect()
    }

    /// Sets them to work.
    pub(crate) fn start(&self, workers: Vec<Worker>, drain: &CancellationToken, stop: &CancellationToken) {
        for worker in workers {
            let (drain, stop) = (drain.clone(), stop.clone());
            self.working.spawn(async move { worker.run(drain, stop).await });
        }
        self.working.close();
        let (sandboxes, until) = (self.hands.sandboxes.clone(), stop.clone());
        self.beside.spawn(async move { sandboxes.sweep_now_and_then(until).await });
        let (sandboxes, until) = (self.hands.sandboxes.clone(), stop.clone());
        self.beside.spawn(async move { sandboxes.watch(until).await });
        self.beside.spawn(self.hands.sandboxes.clone().run());
        self.beside.spawn(self.hands.bases.clone().run(stop.clone()));
        self.beside.close();
    }

    /// Returns when no worker is left, because they drained or were stopped.
    pub(crate) async fn ended(&self) {
        self.working.wait().await;
    }

    /// Ends what goes on beside the work. Only after `stop`.
    pub(crate) async fn close(&self) {
        self.hands.sandboxes.close().await;
        self.beside.wait().await;
        // A box that was being made ready meanwhile was let go of only now.
        self.hands.sandboxes.settle().await;
    }
}
