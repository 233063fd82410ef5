//! The queue, from a worker in another process: [`WorkQueue`] over HTTP.
//!
//! The worker above it is the same as beside the queue. What is different here: an answer may be lost, so every question can
//! be asked again; the queue may be away for a while, so a task goes on until the queue itself says that the lease is gone;
//! and the artifacts lie on this machine, so they are brought over while the lease lives.

mod client;
pub mod protocol;
mod upload;

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use secrecy::SecretString;
use tasks::{
    Failure, Lease, QueueError, Report, Stage, Task, TaskId, Timestamp, WorkQueue, WorkerName, queue::Renewal,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    client::{Client, TIMEOUT, Trouble},
    protocol::{ABANDON, Ask, Final, Granted, LEASE, LEASE_WAIT, RENEW, REPORT, Renew, Renewed, WELCOME},
    upload::Upload,
};
use crate::egress::models::random_token;

/// How often growing logs are brought over.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// How often the lease is renewed while artifacts are brought over.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// A queue that was not heard of for so long has given the task to somebody else, or will.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// A report with a great deal of output in it, over a slow line.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// What a worker in another process needs to know.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Where `onramp serve` answers.
    pub server: String,
    /// What it knows its workers by.
    pub token: SecretString,
    /// Where attempts leave their artifacts on this machine.
    pub artifacts: PathBuf,
    /// The one clock.
    pub clock: fn() -> Timestamp,
}

/// The queue of a server.
pub struct RemoteQueue {
    client: Arc<Client>,
    artifacts: PathBuf,
    clock: fn() -> Timestamp,
    holdings: Mutex<HashMap<(TaskId, u32), Arc<Holding>>>,
    /// Why this worker is not welcome any more.
    refused: watch::Sender<Option<Failure>>,
    background: TaskTracker,
}

/// What is known of a lease that this process holds.
struct Holding {
    /// When the queue was last heard of, and how far the work was then.
    heard: Mutex<(Instant, Stage)>,
    upload: tokio::sync::Mutex<Upload>,
    over: CancellationToken,
}

impl RemoteQueue {
    /// Looks at the options; asks the server nothing yet.
    ///
    /// # Errors
    /// E006 for an address that is none.
    pub fn new(options: RemoteOptions) -> Result<Self, Failure> {
        let RemoteOptions { server, token, artifacts, clock } = options;
        Ok(Self {
            client: Arc::new(Client::new(&server, token)?),
            artifacts,
            clock,
            holdings: Mutex::default(),
            refused: watch::Sender::new(None),
            background: TaskTracker::new(),
        })
    }

    /// Waits until the server answers that this worker is welcome.
    ///
    /// # Errors
    /// E064 with the server's reason.
    pub async fn greet(&self) -> Result<(), Failure> {
        for (n, pause) in pauses().enumerate() {
            match self.client.get(WELCOME).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Refused(failure)) => return Err(*failure),
                Err(Trouble::Away(why) | Trouble::NotTaken(why)) => {
                    if n == 0 {
                        tracing::warn!(server = self.client.server(), why, "the server does not answer yet");
                    }
                }
                Err(Trouble::Stale) => {}
            }
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Returns when the server will not have this worker any more, with its reason.
    pub async fn refused(&self) -> Failure {
        let mut refused = self.refused.subscribe();
        let refused = refused.wait_for(Option::is_some).await;
        refused.ok().and_then(|failure| failure.clone()).unwrap_or_else(|| Failure::internal("nobody is left to ask"))
    }

    /// Ends what goes on beside the work: the bringing over of logs, and words of farewell.
    pub async fn close(&self) {
        for (_, holding) in self.holdings().drain() {
            holding.over.cancel();
        }
        self.background.close();
        self.background.wait().await;
    }

    fn holdings(&self) -> MutexGuard<'_, HashMap<(TaskId, u32), Arc<Holding>>> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holding(&self, lease: &Lease) -> Option<Arc<Holding>> {
        self.holdings().get(&(lease.task, lease.attempt)).cloned()
    }

    fn forget(&self, lease: &Lease) {
        if let Some(holding) = self.holdings().remove(&(lease.task, lease.attempt)) {
            holding.over.cancel();
        }
    }

    fn attempt_dir(&self, lease: &Lease) -> PathBuf {
        self.artifacts.join(lease.task.to_string()).join(lease.attempt.to_string())
    }

    /// From now on the artifacts of this attempt are brought over.
    fn hold(&self, lease: &Lease) {
        let upload = Upload::new(self.client.clone(), lease.clone(), self.attempt_dir(lease));
        let holding = Arc::new(Holding {
            heard: Mutex::new((Instant::now(), Stage::Preparing)),
            upload: tokio::sync::Mutex::new(upload),
            over: CancellationToken::new(),
        });
        self.holdings().insert((lease.task, lease.attempt), holding.clone());
        self.background.spawn(async move { holding.bring_logs().await });
    }

    fn until(&self, asked_at: Timestamp, lasts_ms: u64) -> Timestamp {
        asked_at + chrono::Duration::milliseconds(i64::try_from(lasts_ms).unwrap_or(i64::MAX / 2))
    }

    /// What a trouble means for who holds the lease.
    fn lost(&self, lease: &Lease, trouble: Trouble) -> QueueError {
        match trouble {
            Trouble::Away(why) => QueueError::Unavailable(why),
            Trouble::NotTaken(why) => QueueError::Unavailable(why),
            Trouble::Stale => self.stale(lease),
            Trouble::Refused(failure) => {
                // No renewal will be taken either: the lease runs out, so the work has to stop.
                self.refused.send_replace(Some(*failure));
                self.stale(lease)
            }
        }
    }

    fn stale(&self, lease: &Lease) -> QueueError {
        self.forget(lease);
        QueueError::StaleLease { task: lease.task, attempt: lease.attempt }
    }

    async fn renew_once(&self, lease: &Lease, stage: Stage) -> Result<Renewal, QueueError> {
        let asked_at = (self.clock)();
        let renew = Renew { lease: lease.clone(), stage };
        match self.client.post::<Renewed>(RENEW, &renew, TIMEOUT).await {
            Ok(Renewed { cancel_requested, finish_requested, lasts_ms }) => {
                if let Some(holding) = self.holding(lease) {
                    *holding.heard() = (Instant::now(), stage);
                }
                let until = self.until(asked_at, lasts_ms);
                Ok(match (cancel_requested, finish_requested) {
                    (true, _) => Renewal::CancelRequested(until),
                    (false, true) => Renewal::FinishRequested(until),
                    (false, false) => Renewal::Held(until),
                })
            }
            Err(Trouble::Away(why)) => match self.holding(lease) {
                Some(holding) if holding.heard().0.elapsed() > PATIENCE => Err(self.stale(lease)),
                _ => Err(QueueError::Unavailable(why)),
            },
            Err(trouble) => Err(self.lost(lease, trouble)),
        }
    }

    /// Brings over what is missing. The lease is kept alive for as long as that takes.
    async fn bring_artifacts(&self, lease: &Lease, holding: &Holding) -> Result<(), QueueError> {
        let stage = holding.heard().1;
        let keep_alive = async {
            loop {
                tokio::time::sleep(RENEW_INTERVAL).await;
                if let Err(error @ QueueError::StaleLease { .. }) = self.renew_once(lease, stage).await {
                    return error;
                }
            }
        };
        let finish = async { holding.upload.lock().await.finish().await };
        tokio::select! {
            brought = finish => brought.map_err(|trouble| self.lost(lease, trouble)),
            stale = keep_alive => Err(stale),
        }
    }
}

impl Holding {
    fn heard(&self) -> MutexGuard<'_, (Instant, Stage)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bring_logs(&self) {
        let bring = async {
            loop {
                tokio::time::sleep(LOG_INTERVAL).await;
                // A lost lease is heard of by who renews it.
                if let Err(Trouble::Stale | Trouble::Refused(_)) = self.upload.lock().await.grow().await {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.over.cancelled() => {}
            () = bring => {}
        }
    }
}

#[async_trait]
impl WorkQueue for RemoteQueue {
    async fn lease(&self, worker: &WorkerName) -> Result<(Task, Lease), QueueError> {
        let unavailable = |reason: Failure| QueueError::Unavailable(reason.message);
        let ask = Ask { worker: name_of_ask(worker).map_err(unavailable)? };
        // Whoever stops asking may have been granted something in that moment.
        let farewell = Farewell { client: self.client.clone(), ask: Some(ask.clone()), background: &self.background };
        let mut pauses = pauses();
        loop {
            let asked_at = (self.clock)();
            match self.client.post::<Option<Granted>>(LEASE, &ask, LEASE_WAIT + TIMEOUT).await {
                Ok(None) => pauses = self::pauses(),
                Ok(Some(Granted { task, mut lease, lasts_ms })) => {
                    farewell.unsaid();
                    lease.expires_at = self.until(asked_at, lasts_ms);
                    self.hold(&lease);
                    return Ok((task, lease));
                }
                Err(Trouble::Refused(failure)) => {
                    self.refused.send_replace(Some(*failure));
                    return Err(QueueError::ShuttingDown);
                }
                Err(Trouble::Away(why) | Trouble::NotTaken(why)) => {
                    tracing::warn!(server = self.client.server(), why, "cannot ask for a task");
                    tokio::time::sleep(pauses.next().unwrap_or(RENEW_INTERVAL)).await;
                }
                Err(Trouble::Stale) => tokio::time::sleep(pauses.next().unwrap_or(RENEW_INTERVAL)).await,
            }
        }
    }

    async fn renew(&self, lease: &Lease, stage: Stage) -> Result<Renewal, QueueError> {
        self.renew_once(lease, stage).await
    }

    async fn report(&self, lease: &Lease, report: Report) -> Result<(), QueueError> {
        if let Some(holding) = self.holding(lease) {
            self.bring_artifacts(lease, &holding).await?;
        }
        let last_word = Final { lease: lease.clone(), report };
        let taken = self.client.post::<()>(REPORT, &last_word, REPORT_TIMEOUT).await;
        taken.map_err(|trouble| self.lost(lease, trouble))?;
        self.forget(lease);
        // They lie with the queue now.
        if let Err(error) = tokio::fs::remove_dir_all(self.attempt_dir(lease)).await {
            tracing::debug!(%error, "the artifacts of a finished attempt stay here, too");
        }
        Ok(())
    }
}

/// Says, when it is dropped before an answer came, that none is wanted any more.
struct Farewell<'a> {
    client: Arc<Client>,
    ask: Option<Ask>,
    background: &'a TaskTracker,
}

impl Farewell<'_> {
    fn unsaid(mut self) {
        self.ask = None;
    }
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let (Some(ask), Ok(runtime)) = (self.ask.take(), tokio::runtime::Handle::try_current()) else { return };
        let client = self.client.clone();
        // Once: a server that does not hear it finds out when the lease ends.
        let say = async move {
            if let Err(trouble) = client.post::<()>(ABANDON, &ask, TIMEOUT).await {
                tracing::debug!(?trouble, "the server did not hear that no task is wanted any more");
            }
        };
        runtime.spawn(self.background.track_future(say));
    }
}

/// A name that no other question has: the worker's own, and a random part.
fn name_of_ask(worker: &WorkerName) -> Result<WorkerName, Failure> {
    let random = random_token()?;
    let n = random.len();
    format!("{worker}.{}", &random[n - 12..]).parse().map_err(Failure::internal)
}

/// From a fifth of a second up to a quarter of a minute, for ever.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(15))
        .without_max_times()
        .with_jitter()
        .build()
}

impl fmt::Debug for RemoteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteQueue").field("server", &self.client.server()).finish_non_exhaustive()
    }
}
