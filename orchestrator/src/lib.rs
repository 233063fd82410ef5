//! The middle: where tasks wait. [`start`] wires every room; the program and the tests both come in here.

pub mod api;
pub mod clerk;
pub mod cli;
pub mod config;
pub mod control;
mod crew;
pub mod dashboard;
pub mod front;
pub mod hooks;
pub mod metrics;
pub mod notify;
pub mod poll;
pub mod queue;
mod reader;
pub mod reaper;
pub mod remote;
pub mod setup;
pub mod slack;
pub mod stale;
pub mod telemetry;
pub mod user_error;
pub mod vendors;
pub mod wiring;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header::RETRY_AFTER},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use config::{Config, Secret, Surroundings};
use crew::Crew;
use front::{Front, Tokens};
use notify::Notifier;
use poll::Poller;
use queue::{Clock, Queue};
use remote::{Access, Desk};
use secrecy::SecretString;
use stale::StaleWatch;
use tasks::{Code, Failure, Intake, Task, Timestamp, WorkQueue};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use webhooks::DoorConfig;
use workers::{agent::Agents, forge::Forge, progress::Progress, run::Hands};

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
    /// Instead of writing it beside the artifacts.
    pub progress: Option<ProgressFor>,
}

/// How news of GitHub come here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// GitHub sends deliveries to the door.
    IsTold,
    /// Nobody outside can reach the door, so GitHub is asked.
    Asks,
}

impl Ingress {
    /// Deliveries need a secret that they are signed with; whoever has neither that nor an address for them asks.
    ///
    /// # Errors
    /// E006 when it is not said what there is to ask about.
    fn of(config: &Config) -> Result<Self, Failure> {
        let github = &config.github;
        let has_secret = github.webhook_secrets.iter().any(|secret| secret.value().is_some());
        if has_secret || !config.server.public_url.is_empty() {
            return Ok(Self::IsTold);
        }
        let names_one = github.repositories.iter().any(|pattern| pattern.parse::<tasks::RepoName>().is_ok());
        if github.app_id == 0 && !names_one {
            let message = "No repository is named in full, and without a webhook a token cannot tell which there are";
            return Err(Failure::new(Code::BadConfig, message).next(
                "Add --repo owner/name, or set github.repositories; or set github.webhook_secrets to be told by a webhook.",
            ));
        }
        Ok(Self::Asks)
    }
}

/// A running Onramp.
pub struct Running {
    addr: SocketAddr,
    ingress: Ingress,
    poller: Arc<Poller>,
    stale: Arc<StaleWatch>,
    queue: Arc<Queue>,
    artifacts: PathBuf,
    /// The workers of this process, if there are any: they end by draining.
    crew: Option<Crew>,
    notifier: Arc<Notifier>,
    slack: Option<Arc<slack::Slack>>,
    /// The door. It stays open for workers elsewhere until those of this process have ended.
    serving: TaskTracker,
    /// Reaper and notifier: they outlive the work, and end when told to.
    watching: TaskTracker,
    drain: CancellationToken,
    closed: CancellationToken,
    stop: CancellationToken,
}

/// Starts door, queue, workers, reaper and notifier.
///
/// # Errors
/// Any of the codes of configuration, store and environment; nothing is left running then.
pub async fn start(config: Config, parts: Parts) -> Result<Running, Failure> {
    let surroundings = parts.surroundings.unwrap_or_else(Surroundings::read);
    let clock = queue::steady_clock(now());
    let door = door_config(&config, &clock)?;
    let ingress = Ingress::of(&config)?;
    let access = config.worker.token.value().map(Access::new).transpose()?;
    let forge = parts.forge.map_or_else(|| wiring::github(&config), Ok)?;
    let data = config.data_dir()?;
    std::fs::create_dir_all(&data).map_err(|error| {
        Failure::new(Code::StoreUnavailable, format!("The data directory {} cannot be made: {error}", data.display()))
    })?;
    let (dir, options) = (data.join("queue"), wiring::queue_options(&config, clock.clone()));
    let opened = tokio::task::spawn_blocking(move || Queue::open(&dir, options)).await.map_err(Failure::internal)?;
    let queue = Arc::new(opened?);
    let crew = match config.worker.n_workers {
        0 => None,
        _ => Some(Crew::ready(&config, &surroundings, forge.clone(), parts.agents).await?),
    };

    let listener = tokio::net::TcpListener::bind(&config.server.listen).await.map_err(|error| {
        Failure::new(Code::CannotListen, format!("Cannot listen on {}: {error}", config.server.listen))
    })?;
    let addr = listener.local_addr().map_err(Failure::internal)?;

    let (serving, watching) = (TaskTracker::new(), TaskTracker::new());
    let (drain, closed, stop) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let poller = Poller::new(queue.clone(), forge.clone(), door.clone(), clock.clone(), config.github.follow_base);
    let poller = Arc::new(poller);
    let door = webhooks::router(queue.clone() as Arc<dyn Intake>, door);
    let mut router = door.layer(middleware::from_fn_with_state(drain.clone(), not_while_draining));
    let artifacts = data.join("artifacts");
    let (tokens, options) = (Tokens::of(&data), wiring::front_options(&config));
    let front = Front::new(queue.clone(), clock.clone(), artifacts.clone(), tokens, options, closed.clone());
    let entrance = api::Entrance::new(front.clone());
    let is_https = config.server.public_url.starts_with("https://");
    let pages = dashboard::Pages::new(front.clone(), entrance.clone(), &data, is_https)?;
    let meter = metrics::Meter::new(queue.clone(), drain.clone()).await?;
    router = router
        .merge(api::router(front.clone(), entrance, meter.router()))
        .merge(pages.router())
        .merge(meter.readiness());
    let (counting, until) = (meter.clone(), stop.clone());
    watching.spawn(async move { counting.run(until).await });
    if let Some(access) = access {
        let desk = Desk::new(queue.clone(), clock.clone(), artifacts.clone(), access, drain.clone());
        router = router.merge(desk.router());
    } else if crew.is_none() {
        tracing::warn!("no task will run: worker.n_workers is 0, and without worker.token no worker elsewhere may ask");
    }
    let closing = closed.clone();
    serving.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "the door closed by itself");
        }
    });
    serving.close();
    if let Some(crew) = &crew {
        let workers = crew.workers(&config, "local", &(queue.clone() as Arc<dyn WorkQueue>), parts.progress)?;
        for worker in &workers {
            queue.release_worker(&worker.name).await.map_err(Failure::internal)?;
        }
        crew.start(workers, &drain, &stop);
    }
    let (reaped, reaping_clock, until) = (queue.clone(), clock.clone(), stop.clone());
    watching.spawn(async move { reaper::run(&reaped, reaping_clock, until).await });
    control::serve(&control::socket(&data), api::operator_router(front), stop.clone(), &watching);
    let options = clerk::ClerkOptions {
        check_rounds: config.github.check_rounds,
        follow_base: config.github.follow_base,
        delete_branches: config.github.delete_branches,
        names: config.github.names.clone(),
    };
    let clerk = Arc::new(clerk::Clerk::new(queue.clone(), forge.clone(), clock.clone(), options));
    let (taking_up, until) = (clerk.clone(), stop.clone());
    watching.spawn(async move { taking_up.run(until).await });
    let (hearing, every, until) = (poller.clone(), config.github.poll_interval.0, drain.clone());
    watching.spawn(async move {
        match ingress {
            Ingress::Asks => hearing.look(every, until).await,
            Ingress::IsTold => hearing.catch_up(until).await,
        }
    });
    let idle = chrono::Duration::from_std(config.pulls.stale_after.0).unwrap_or(chrono::Duration::MAX);
    let stale = StaleWatch::new(queue.clone(), forge.clone(), clock.clone(), idle, config.pulls.stale);
    let stale = Arc::new(stale);
    let (watch, until) = (stale.clone(), stop.clone());
    watching.spawn(async move { watch.run(until).await });
    let telling_to = forge.clone();
    let notifier = Arc::new(Notifier::new(queue.clone(), forge, clock.clone(), config.hidden(&data)));
    let (telling, until) = (notifier.clone(), stop.clone());
    watching.spawn(async move { telling.run(until).await });
    let slack = wiring::slack(&config, &queue, &telling_to, &clock)?;
    if let Some(slack) = &slack {
        slack.start(config.slack.app_token.value().cloned(), &stop, &drain, &watching);
    }
    watching.close();
    Ok(Running {
        addr,
        ingress,
        poller,
        stale,
        queue,
        artifacts,
        crew,
        notifier,
        slack,
        serving,
        watching,
        drain,
        closed,
        stop,
    })
}

/// Deliveries are told to come again; workers elsewhere still end what they have begun.
async fn not_while_draining(State(drain): State<CancellationToken>, request: Request, next: Next) -> Response {
    if drain.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "30")], "shutting down\n").into_response();
    }
    next.run(request).await
}

impl Running {
    /// Where the door listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How news of GitHub come here.
    pub fn ingress(&self) -> Ingress {
        self.ingress
    }

    /// Who asks GitHub, to be made to ask now.
    pub fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// Who looks after stale pull requests, to be made to look now.
    pub fn stale(&self) -> &Arc<StaleWatch> {
        &self.stale
    }

    /// The queue, to look at.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Where the artifacts of all attempts lie.
    pub fn artifacts(&self) -> &Path {
        &self.artifacts
    }

    /// What attempts share, where tasks run in this process.
    pub fn hands(&self) -> Option<&Arc<Hands>> {
        self.crew.as_ref().map(Crew::hands)
    }

    /// Which sandbox is used, and why.
    pub fn sandbox(&self) -> &str {
        self.crew.as_ref().map_or("no task runs in this process", Crew::why)
    }

    /// Takes no new delivery and no new task, lets the tasks at hand end, and tells what is left to tell.
    pub async fn drain(&self) {
        self.drain.cancel();
        self.work_ended().await;
        self.closed.cancel();
        self.serving.wait().await;
        if let Err(error) = self.notifier.deliver_once(now()).await {
            tracing::warn!(%error, "the last comments are left to the next start");
        }
        if let Some(slack) = &self.slack
            && let Err(error) = slack.work_once(now()).await
        {
            tracing::warn!(%error, "the last messages are left to the next start");
        }
        self.stop().await;
    }

    async fn work_ended(&self) {
        if let Some(crew) = &self.crew {
            crew.ended().await;
        }
    }

    /// Gives back what runs and waits until everything has ended.
    pub async fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
        self.work_ended().await;
        self.closed.cancel();
        self.serving.wait().await;
        if let Some(crew) = &self.crew {
            crew.close().await;
        }
        self.watching.wait().await;
        self.queue.shutdown().await;
    }
}

/// Where Slack is told to come to the door.
fn slack_door(config: &Config) -> Result<Option<webhooks::SlackDoor>, Failure> {
    let secrets: Vec<SecretString> =
        config.slack.signing_secrets.iter().filter_map(|secret| secret.value().cloned()).collect();
    if secrets.is_empty() {
        return Ok(None);
    }
    let secrets = webhooks::Secrets::new(secrets)
        .map_err(|error| Failure::new(Code::MissingSecret, format!("slack.signing_secrets cannot be used: {error}")))?;
    Ok(Some(webhooks::SlackDoor { secrets, now }))
}

fn door_config(config: &Config, clock: &Clock) -> Result<DoorConfig, Failure> {
    let github = &config.github;
    let secrets: Vec<SecretString> =
        github.webhook_secrets.iter().filter_map(|secret| secret.value().cloned()).collect();
    if secrets.is_empty() && !config.server.public_url.is_empty() {
        // Says which variable or file was looked at.
        github.webhook_secrets.first().unwrap_or(&Secret::default()).require("github.webhook_secrets")?;
    }
    let secrets = (!secrets.is_empty()).then(|| webhooks::Secrets::new(secrets)).transpose();
    Ok(DoorConfig {
        github_secrets: secrets.map_err(|error| {
            Failure::new(Code::MissingSecret, format!("github.webhook_secrets cannot be used: {error}"))
        })?,
        slack: slack_door(config)?,
        label: github.label.clone(),
        repositories: github.repositories.clone(),
        names: github.names.clone(),
        allowed_bots: github.allowed_bots.clone(),
        hooks: hooks::hooks(config, clock)?,
    })
}
