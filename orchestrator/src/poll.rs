//! Hears of what happens on GitHub when nobody tells, and of what was told while nobody listened.
//!
//! Without an address that GitHub could reach, [`Poller::look_once`] asks for every repository what happened since it
//! asked last, and hands it to the same reader and the same idempotent intake as deliveries. With one,
//! [`Poller::catch_up_once`] has those deliveries sent again that found nobody here. Either way the durable cursor moves
//! only past what was stored.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration as StdDuration,
};

use chrono::Duration;
use tasks::{Failure, Intake as _, PullRequest, QueueError, RepoName, TaskFilter, TaskState, Timestamp};
use tokio_util::sync::CancellationToken;
use webhooks::{
    DoorConfig,
    github::events::{self, Message, Reading},
};
use workers::forge::{Forge, Known, Told, Wanted};

use crate::queue::{Clock, Queue};

/// On the first start, what happened so shortly before counts too: people set the label and then start the program.
const FIRST_LOOK: Duration = Duration::minutes(10);
/// Looked at again each time: a forge shows some things a little later than they happened. Keys keep them from counting
/// twice.
const OVERLAP: Duration = Duration::minutes(2);
/// How often deliveries are looked for that found nobody here.
const CATCH_UP_EVERY: StdDuration = StdDuration::from_secs(600);
/// GitHub keeps deliveries for so long.
const DELIVERIES_KEPT: Duration = Duration::days(3);
/// Which repositories an app may see is asked anew after so many looks.
const LOOKS_PER_LIST: u32 = 20;
const CAUGHT_UP: &str = "deliveries";

/// Who asks.
pub struct Poller {
    queue: Arc<Queue>,
    forge: Arc<dyn Forge>,
    door: Arc<DoorConfig>,
    clock: Clock,
    /// Whether a default branch that moves counts.
    follow_base: bool,
    memory: Mutex<HashMap<RepoName, Heard>>,
    /// Held while missed deliveries are asked for, so that none is asked for twice.
    catching_up: tokio::sync::Mutex<()>,
}

/// How far a repository was heard.
#[derive(Debug, Clone, Default)]
struct Heard {
    known: Known,
    /// Not to be asked about before, after it could not be.
    not_before: Option<Timestamp>,
}

/// Why something could not be heard or stored.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The forge did not say.
    #[error("{0}")]
    Forge(#[from] Failure),
    /// The queue did not take it.
    #[error("{0}")]
    Queue(#[from] QueueError),
}

impl Poller {
    /// One that asks `forge` and stores in `queue` what `door` would take.
    pub fn new(queue: Arc<Queue>, forge: Arc<dyn Forge>, door: DoorConfig, clock: Clock, follow_base: bool) -> Self {
        Self {
            queue,
            forge,
            door: Arc::new(door),
            clock,
            follow_base,
            memory: Mutex::default(),
            catching_up: tokio::sync::Mutex::default(),
        }
    }

    /// Asks for news again and again.
    pub async fn look(&self, every: StdDuration, shutdown: CancellationToken) {
        let mut repositories = Vec::new();
        for n in 0u32.. {
            if n % LOOKS_PER_LIST == 0 || repositories.is_empty() {
                match self.repositories().await {
                    Ok(found) => repositories = found,
                    Err(failure) => tracing::warn!(%failure, "the repositories could not be listed"),
                }
            }
            for repo in &repositories {
                if shutdown.is_cancelled() {
                    return;
                }
                match self.look_once(repo).await {
                    Ok(0) => {}
                    Ok(n_stored) => tracing::info!(%repo, n_stored, "news of GitHub were stored"),
                    Err(PollError::Queue(QueueError::ShuttingDown)) => return,
                    Err(error) => tracing::warn!(%repo, %error, "GitHub was not heard; it is asked again"),
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    /// Asks again and again for deliveries that did not arrive.
    pub async fn catch_up(&self, shutdown: CancellationToken) {
        loop {
            match self.catch_up_once().await {
                Ok(0) => {}
                Ok(n_deliveries) => tracing::info!(n_deliveries, "missed deliveries were asked for"),
                Err(PollError::Queue(QueueError::ShuttingDown)) => return,
                Err(error) => tracing::warn!(%error, "missed deliveries could not be asked for yet"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(CATCH_UP_EVERY) => {}
            }
        }
    }

    /// What there is to ask about: what the configuration names in full, and what an app was installed on.
    ///
    /// # Errors
    /// When the forge cannot say.
    pub async fn repositories(&self) -> Result<Vec<RepoName>, Failure> {
        let named = self.door.repositories.iter().filter_map(|pattern| pattern.parse::<RepoName>().ok());
        let mut found: Vec<_> = named.collect();
        let opened = self.forge.repositories().await?.unwrap_or_default();
        found.extend(opened.into_iter().filter(|repo| events::is_configured(repo, &self.door).is_ok()));
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Asks what happened in one repository, and stores what asks for something. Returns how much that was.
    ///
    /// # Errors
    /// Then it was not stored whole, and the next look begins where this one did.
    pub async fn look_once(&self, repo: &RepoName) -> Result<usize, PollError> {
        let now = (self.clock)();
        let heard = self.memory().get(repo).cloned().unwrap_or_default();
        if heard.not_before.is_some_and(|at| now < at) {
            return Ok(0);
        }
        let cursor = format!("news:{repo}");
        let since = self.since(&cursor, now - FIRST_LOOK).await?;
        let pull_requests = self.pull_requests(repo).await?;
        let (known, base) = (&heard.known, self.follow_base);
        let wanted = Wanted { since: since - OVERLAP, pull_requests: &pull_requests, base, known };
        let news = match self.forge.news(repo, wanted).await {
            Ok(news) => news,
            Err(failure) => {
                let not_before = failure.retry_not_before;
                self.memory().entry(repo.clone()).or_default().not_before = not_before;
                return Err(failure.into());
            }
        };
        let mut n_stored = 0;
        for told in &news.told {
            n_stored += usize::from(self.store(told).await?);
        }
        if let Some(newest) = news.newest.filter(|newest| *newest > since) {
            self.move_to(&cursor, newest).await?;
        }
        self.memory().insert(repo.clone(), Heard { known: news.known, not_before: None });
        Ok(n_stored)
    }

    /// Has deliveries sent again that found nobody here. Returns how many.
    ///
    /// # Errors
    /// Then they are asked for the next time.
    pub async fn catch_up_once(&self) -> Result<usize, PollError> {
        let _alone = self.catching_up.lock().await;
        let oldest = (self.clock)() - DELIVERIES_KEPT;
        let since = self.since(CAUGHT_UP, oldest).await?.max(oldest);
        let missed = self.forge.ask_again_for_missed(since).await?;
        // What fails while it is looked at is found the next time.
        if let Some(newest) = missed.newest.map(|newest| newest - OVERLAP).filter(|newest| *newest > since) {
            self.move_to(CAUGHT_UP, newest).await?;
        }
        Ok(missed.n_asked_for)
    }

    async fn store(&self, told: &Told) -> Result<bool, QueueError> {
        let body = told.payload.to_string();
        let Some(message) = Message::answered(told.event, &told.id, body.as_bytes()) else { return Ok(false) };
        match events::read(&message, &self.door) {
            Ok(Reading::Request(request)) => self.queue.enqueue(*request).await.map(|_| true),
            Ok(Reading::Change(change)) => self.queue.observe(message.key().clone(), change).await.map(|()| true),
            Ok(Reading::Ignored(_)) | Err(events::NotJson) => Ok(false),
        }
    }

    /// Our open pull requests of a repository, each with the commit that we put there last.
    async fn pull_requests(&self, repo: &RepoName) -> Result<Vec<PullRequest>, QueueError> {
        let filter = TaskFilter { repo: Some(repo.clone()), ..TaskFilter::default() };
        let tasks = self.queue.list(filter).await?;
        let is_open = |number: u64| {
            tasks.iter().any(|task| {
                matches!(&task.state, TaskState::PullRequestOpen { pull_request } if pull_request.number == number)
            })
        };
        // Newest first: the first of each number knows the last commit.
        let mut found: Vec<PullRequest> = Vec::new();
        for pull_request in tasks.iter().filter_map(|task| task.state.pull_request()) {
            let is_new = found.iter().all(|known| known.number != pull_request.number);
            if is_new && is_open(pull_request.number) {
                found.push(pull_request.clone());
            }
        }
        Ok(found)
    }

    /// A cursor that is a moment. The first time it is `otherwise`, and stored.
    async fn since(&self, cursor: &str, otherwise: Timestamp) -> Result<Timestamp, QueueError> {
        let seconds = i64::try_from(self.queue.cursor(cursor).await?).unwrap_or_default();
        match chrono::DateTime::from_timestamp(seconds, 0).filter(|_| seconds > 0) {
            Some(since) => Ok(since),
            None => {
                self.move_to(cursor, otherwise).await?;
                Ok(otherwise)
            }
        }
    }

    async fn move_to(&self, cursor: &str, at: Timestamp) -> Result<(), QueueError> {
        self.queue.set_cursor(cursor, u64::try_from(at.timestamp()).unwrap_or_default()).await
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<RepoName, Heard>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
