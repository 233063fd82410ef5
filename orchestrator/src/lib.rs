//! The middle: where tasks wait. [`start`] wires every room; the program and the tests both come in here.

pub mod cli;
pub mod config;
pub mod notify;
pub mod queue;
pub mod reaper;
pub mod telemetry;
pub mod user_error;
pub mod wiring;

use std::{net::SocketAddr, sync::Arc};

use config::{Config, Secret, Surroundings};
use notify::Notifier;
use queue::{Queue, QueueOptions};
use secrecy::SecretString;
use tasks::{Code, Failure, Intake, Task, Timestamp, WorkQueue};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use webhooks::DoorConfig;
use workers::{
    agent::Agents,
    forge::Forge,
    progress::Progress,
    run::Hands,
    worker::{Places, Worker},
};

/// The one clock: read here and passed on.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn now() -> Timestamp {
    chrono::Utc::now()
}

/// Who hears of the progress of an attempt.
pub type ProgressFor = Arc<dyn Fn(&Task) -> Progress + Send + Sync>;

/// What a caller brings instead of having it made from the configuration. The program brings nothing but its
/// surroundings; the demo and tests bring more.
#[derive(Default)]
pub struct Parts {
    /// What was read from the environment. `None`: it is read now.
    pub surroundings: Option<Surroundings>,
    /// Instead of GitHub.
    pub forge: Option<Arc<dyn Forge>>,
    /// Instead of the embedded and configured agents.
    pub agents: Option<Agents>,
    /// Instead of telling nobody.
    pub progress: Option<ProgressFor>,
}

/// A running Onramp.
pub struct Running {
    addr: SocketAddr,
    queue: Arc<Queue>,
    hands: Arc<Hands>,
    why: String,
    notifier: Arc<Notifier>,
    /// The door and the workers: they end by draining.
    working: TaskTracker,
    /// Reaper and notifier: they outlive the work, and end when told to.
    watching: TaskTracker,
    drain: CancellationToken,
    stop: CancellationToken,
}

/// Starts door, queue, workers, reaper and notifier.
///
/// # Errors
/// Any of the codes of configuration, store and environment; nothing is left running then.
pub async fn start(config: Config, parts: Parts) -> Result<Running, Failure> {
    let surroundings = parts.surroundings.unwrap_or_else(Surroundings::read);
    let door = door_config(&config)?;
    let forge = parts.forge.map_or_else(|| wiring::github(&config), Ok)?;
    let data = config.data_dir()?;
    std::fs::create_dir_all(&data).map_err(|error| {
        Failure::new(Code::StoreUnavailable, format!("The data directory {} cannot be made: {error}", data.display()))
    })?;
    let clock = queue::steady_clock(now());
    let (dir, options) = (data.join("queue"), QueueOptions::new(clock.clone()));
    let opened = tokio::task::spawn_blocking(move || Queue::open(&dir, options)).await.map_err(Failure::internal)?;
    let queue = Arc::new(opened?);
    let (hands, why) = wiring::hands(&config, &surroundings, forge.clone(), parts.agents).await?;
    hands.agents.get(&hands.default_agent)?;
    hands.sandboxes.sweep_once().await;

    let listener = tokio::net::TcpListener::bind(&config.server.listen).await.map_err(|error| {
        Failure::new(Code::CannotListen, format!("Cannot listen on {}: {error}", config.server.listen))
    })?;
    let addr = listener.local_addr().map_err(Failure::internal)?;

    let (working, watching) = (TaskTracker::new(), TaskTracker::new());
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let router = webhooks::router(queue.clone() as Arc<dyn Intake>, door);
    let closing = drain.clone();
    working.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "the door closed by itself");
        }
    });
    let progress = parts.progress.unwrap_or_else(|| Arc::new(|_: &Task| Progress::silent()));
    let places = Places::new(config.worker.n_workers, hands.gpus.n_devices());
    for n in 1..=places.n_workers() {
        let name = format!("local-{n}").parse().map_err(Failure::internal)?;
        queue.release_worker(&name).await.map_err(Failure::internal)?;
        let worker = Worker {
            name,
            queue: queue.clone() as Arc<dyn WorkQueue>,
            hands: hands.clone(),
            places: places.clone(),
            progress: progress.clone(),
        };
        let (drain, stop) = (drain.clone(), stop.clone());
        working.spawn(async move { worker.run(drain, stop).await });
    }
    working.close();
    let (reaped, reaping_clock, until) = (queue.clone(), clock.clone(), stop.clone());
    watching.spawn(async move { reaper::run(&reaped, reaping_clock, until).await });
    let notifier = Arc::new(Notifier::new(queue.clone(), forge, clock, config.hidden(&data)));
    let (telling, until) = (notifier.clone(), stop.clone());
    watching.spawn(async move { telling.run(until).await });
    let (sandboxes, until) = (hands.sandboxes.clone(), stop.clone());
    watching.spawn(async move { sandboxes.sweep_now_and_then(until).await });
    watching.spawn(hands.sandboxes.clone().run());
    watching.spawn(hands.bases.clone().run(stop.clone()));
    watching.close();
    Ok(Running { addr, queue, hands, why, notifier, working, watching, drain, stop })
}

impl Running {
    /// Where the door listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The queue, to look at.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// What attempts share.
    pub fn hands(&self) -> &Arc<Hands> {
        &self.hands
    }

    /// Which sandbox is used, and why.
    pub fn sandbox(&self) -> &str {
        &self.why
    }

    /// Takes no new delivery and no new task, lets the tasks at hand end, and tells what is left to tell.
    pub async fn drain(&self) {
        self.drain.cancel();
        self.working.wait().await;
        if let Err(error) = self.notifier.deliver_once(now()).await {
            tracing::warn!(%error, "the last comments are left to the next start");
        }
        self.stop().await;
    }

    /// Gives back what runs and waits until everything has ended.
    pub async fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
        self.working.wait().await;
        self.hands.sandboxes.close().await;
        self.watching.wait().await;
        self.queue.shutdown().await;
    }
}

fn door_config(config: &Config) -> Result<DoorConfig, Failure> {
    let github = &config.github;
    let secrets: Vec<SecretString> =
        github.webhook_secrets.iter().filter_map(|secret| secret.value().cloned()).collect();
    if secrets.is_empty() {
        // Says which variable or file was looked at.
        github.webhook_secrets.first().unwrap_or(&Secret::default()).require("github.webhook_secrets")?;
    }
    Ok(DoorConfig {
        github_secrets: webhooks::Secrets::new(secrets).map_err(|error| {
            Failure::new(Code::MissingSecret, format!("github.webhook_secrets cannot be used: {error}"))
        })?,
        label: github.label.clone(),
        repositories: github.repositories.clone(),
        allowed_bots: github.allowed_bots.clone(),
    })
}
