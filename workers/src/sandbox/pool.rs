//! All boxes of this process: started when they are asked for or a little before, and removed when they are let go of.
//!
//! A box is used once. Those for a prepared base can stand ready: started, greeted and marked before anybody asks, so that
//! a claim costs a round trip instead of a start. How many stand ready follows from what was asked for lately, and none
//! does when nothing was. Filling gives way to tasks that wait for a start of their own.
//!
//! Whoever drops a [`Sandbox`] has nothing to wait for: its box is removed off the path, with patience.

mod undertaker;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tasks::Failure;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

pub(super) use self::undertaker::Undertaker;
use self::undertaker::{Calm, STOP_ATTEMPTS, STOP_TIMEOUT};
use super::{Command, Sandbox, SandboxBackend, SandboxError, SandboxSpec, Update};

/// How long a box that stands ready has to say that it still does.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
const WARM_UP_LIMIT: Duration = Duration::from_secs(5);
/// How often the pool looks at itself when nothing happens.
const TICK: Duration = Duration::from_secs(10);
/// After a start that failed nothing is started ahead for so long, for the same kind of box.
const BACKOFF: Duration = Duration::from_secs(30);
/// How often boxes are looked for that nobody works with.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Starts that run at the same time: more only make each other slower.
const STARTS_AT_ONCE: usize = 16;

/// How many boxes may stand ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// In all. 0: none is started ahead.
    pub max_warm: usize,
    /// For each base that was asked for within `idle`.
    pub min_warm: usize,
    /// A base that nobody asked for so long has none.
    pub idle: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { max_warm: 4, min_warm: 0, idle: Duration::from_secs(15 * 60) }
    }
}

/// What happened so far, and what is there now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Boxes that stood ready when they were asked for.
    pub n_hits: u64,
    /// Boxes that had to be started.
    pub n_misses: u64,
    /// Boxes that stand ready.
    pub n_warm: usize,
    /// Boxes of this process, all together.
    pub n_boxes: usize,
}

/// All boxes of this process.
#[derive(Debug)]
pub struct Sandboxes {
    backend: Arc<dyn SandboxBackend>,
    options: PoolOptions,
    undertaker: Undertaker,
    /// What each box may write, by name.
    pub(super) disk_caps: Mutex<HashMap<String, u64>>,
    pools: Mutex<BTreeMap<String, Pool>>,
    starts: Semaphore,
    /// Tasks that wait for a start.
    n_waiting: AtomicUsize,
    /// Something was claimed, or nobody waits any more.
    changed: Notify,
    calm: Arc<Calm>,
    n_named: AtomicU64,
    /// Makes names of this process differ from those of another one.
    prefix: String,
    n_hits: AtomicU64,
    n_misses: AtomicU64,
}

/// The boxes of one kind that stand ready.
#[derive(Debug)]
struct Pool {
    spec: SandboxSpec,
    warm: Vec<Sandbox>,
    /// When boxes were asked for, within the idle time.
    claims: VecDeque<Instant>,
    failed_at: Option<Instant>,
}

impl Sandboxes {
    /// Boxes of this backend. Nothing is started ahead unless [`Sandboxes::run`] runs.
    pub fn new(backend: Arc<dyn SandboxBackend>, options: PoolOptions) -> Arc<Self> {
        let calm = Arc::<Calm>::default();
        let undertaker = Undertaker::new(Arc::clone(&backend), Arc::clone(&calm));
        Arc::new(Self {
            backend,
            options,
            undertaker,
            disk_caps: Mutex::default(),
            pools: Mutex::default(),
            starts: Semaphore::new(STARTS_AT_ONCE),
            n_waiting: AtomicUsize::new(0),
            changed: Notify::new(),
            calm,
            n_named: AtomicU64::new(0),
            prefix: format!("onramp-warm-{:x}-{:x}", std::process::id(), now_nanos()),
            n_hits: AtomicU64::new(0),
            n_misses: AtomicU64::new(0),
        })
    }

    /// Who starts the boxes.
    pub fn backend(&self) -> &Arc<dyn SandboxBackend> {
        &self.backend
    }

    /// A box as specified: one that stands ready, or else a new one. A start goes on when this is dropped, and its box is
    /// then removed.
    ///
    /// # Errors
    /// What the backend says, and [`SandboxError::Lost`] when everything is being closed.
    pub async fn open(self: &Arc<Self>, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        self.expect(spec);
        while let Some(sandbox) = self.claim(spec) {
            match sandbox.ping(PING_TIMEOUT).await {
                Ok(()) => {
                    self.n_hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(sandbox);
                }
                Err(error) => tracing::debug!(?sandbox, %error, "a box that stood ready does not any more"),
            }
        }
        self.start_for_task(spec).await
    }

    async fn start_for_task(self: &Arc<Self>, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        self.n_misses.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting::new(self);
        self.start(spec.clone()).await
    }

    /// As [`Sandboxes::open`], on its way to another tree and marked there: see [`Sandbox::begin_update`]. A box that stood
    /// ready says that it still does while it is at work already.
    ///
    /// # Errors
    /// As [`Sandboxes::open`] and [`Sandbox::begin_update`].
    pub async fn open_at(self: &Arc<Self>, spec: &SandboxSpec, update: &Update) -> Result<Sandbox, SandboxError> {
        if update.is_empty() {
            let sandbox = self.open(spec).await?;
            if !sandbox.is_marked() {
                sandbox.mark().await?;
            }
            return Ok(sandbox);
        }
        self.expect(spec);
        while let Some(sandbox) = self.claim(spec) {
            match tokio::join!(sandbox.ping(PING_TIMEOUT), sandbox.begin_update(update)) {
                (Err(error), _) => tracing::debug!(?sandbox, %error, "a box that stood ready does not any more"),
                (Ok(()), begun) => {
                    self.n_hits.fetch_add(1, Ordering::Relaxed);
                    return begun.map(|()| sandbox);
                }
            }
        }
        let sandbox = self.start_for_task(spec).await?;
        sandbox.begin_update(update).await?;
        Ok(sandbox)
    }

    /// Takes a box that stands ready.
    fn claim(&self, spec: &SandboxSpec) -> Option<Sandbox> {
        self.calm.claimed();
        let claimed = {
            let mut pools = self.lock();
            let warm = &mut pools.get_mut(&key(spec))?.warm;
            // One that is lost is dropped here, and so removed.
            std::iter::from_fn(|| warm.pop()).find(|sandbox| !sandbox.is_lost())?
        };
        // Only now one is missing: whoever fills may have looked between the question and this.
        self.changed.notify_one();
        Some(claimed.counting_for(spec))
    }

    fn may_stand_ready(&self, spec: &SandboxSpec) -> bool {
        // A lent GPU belongs to one task.
        self.options.max_warm > 0 && spec.base.is_some() && spec.gpus.is_empty()
    }

    /// Says that boxes like this will be asked for soon.
    pub fn expect(&self, spec: &SandboxSpec) {
        if self.may_stand_ready(spec) {
            self.lock().entry(key(spec)).or_insert_with(|| Pool::new(spec)).claims.push_back(Instant::now());
            self.changed.notify_one();
        }
    }

    /// Ends the boxes that stand ready on this base; no new one is started ahead until somebody asks. What was asked of
    /// it is returned, to be expected of its successor.
    pub fn retire(&self, base_id: &str) -> Vec<SandboxSpec> {
        let mut retired = Vec::new();
        self.lock().retain(|_, pool| {
            let goes = pool.spec.base.as_ref().is_some_and(|base| base.id == base_id);
            if goes {
                retired.push((pool.spec.clone(), std::mem::take(&mut pool.warm)));
            }
            !goes
        });
        retired.into_iter().map(|(spec, _warm)| spec).collect()
    }

    async fn start(self: &Arc<Self>, spec: SandboxSpec) -> Result<Sandbox, SandboxError> {
        if self.calm.closing.is_cancelled() {
            return Err(SandboxError::Lost("Onramp is shutting down".into()));
        }
        let undertaker = self.undertaker.clone();
        let this = Arc::clone(self);
        let (answer, started) = oneshot::channel();
        undertaker.lock().insert(spec.name.clone());
        self.note_cap(&spec);
        self.undertaker.work.spawn(async move {
            let _place = this.starts.acquire().await;
            let started = Sandbox::start_owned(&spec, &undertaker).await;
            if started.is_err() {
                undertaker.forget(&spec.name);
            }
            // When nobody waits any more it is dropped here, while this start still counts as work at hand.
            drop(answer.send(started));
        });
        started.await.unwrap_or_else(|_| Err(Failure::internal("the start of a sandbox ended in a panic").into()))
    }

    /// Starts boxes ahead and ends those that nobody asks for, until everything is closed.
    pub async fn run(self: Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            self.calm.wait().await;
            if self.fill_once(Instant::now()).await {
                continue;
            }
            tokio::select! {
                () = self.calm.closing.cancelled() => return,
                () = changed => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Ends what is too much and starts one box that is missing. True when there may be more to do.
    pub async fn fill_once(self: &Arc<Self>, now: Instant) -> bool {
        let Some(mut spec) = self.most_wanted(now) else { return false };
        let key = key(&spec);
        spec.name = format!("{}-{}", self.prefix, self.n_named.fetch_add(1, Ordering::Relaxed));
        spec.task = None;
        let ready = async {
            let sandbox = self.start(spec).await?;
            sandbox.mark().await?;
            warm_up(&sandbox).await?;
            Ok::<_, SandboxError>(sandbox)
        };
        let ready = ready.await;
        // A pool that was retired meanwhile does not want it any more: it is dropped, and so removed.
        match (ready, self.lock().get_mut(&key)) {
            (Ok(sandbox), Some(pool)) if !self.calm.closing.is_cancelled() => pool.warm.push(sandbox),
            (Ok(_), _) | (Err(_), None) => {}
            (Err(error), Some(pool)) => {
                tracing::warn!(%error, "a box could not be started ahead");
                pool.failed_at = Some(Instant::now());
            }
        }
        true
    }

    /// The kind of box that is missed most, after those were ended that are too many.
    fn most_wanted(&self, now: Instant) -> Option<SandboxSpec> {
        let mut left = self.options.max_warm;
        let mut wanted: Option<(usize, SandboxSpec)> = None;
        let mut surplus = Vec::new();
        let mut pools = self.lock();
        let idle = self.options.idle;
        pools.retain(|_, pool| {
            while pool.claims.front().is_some_and(|at| now.saturating_duration_since(*at) > idle) {
                pool.claims.pop_front();
            }
            let goes = pool.claims.is_empty();
            if goes {
                surplus.append(&mut pool.warm);
            }
            !goes
        });
        let mut by_demand: Vec<&mut Pool> = pools.values_mut().collect();
        by_demand.sort_by_key(|pool| std::cmp::Reverse(pool.claims.len()));
        for pool in by_demand {
            pool.warm.retain(|sandbox| !sandbox.is_lost());
            let target = pool.claims.len().max(self.options.min_warm).min(left);
            left -= target;
            surplus.extend(pool.warm.drain(target.min(pool.warm.len())..));
            let n_missing = target - pool.warm.len();
            let rests = pool.failed_at.is_some_and(|at| now.saturating_duration_since(at) < BACKOFF);
            if n_missing > 0 && !rests && wanted.as_ref().is_none_or(|(most, _)| n_missing > *most) {
                wanted = Some((n_missing, pool.spec.clone()));
            }
        }
        drop(pools);
        drop(surplus);
        let may_start = self.n_waiting.load(Ordering::Acquire) == 0 && !self.calm.closing.is_cancelled();
        wanted.filter(|_| may_start).map(|(_, spec)| spec)
    }

    /// Removes what dead processes of this installation left, and what of this one nobody holds. Returns how many boxes.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn sweep(&self) -> Result<usize, SandboxError> {
        let live = Arc::clone(&self.undertaker.live);
        let holds = move |name: &str| live.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        self.backend.sweep(&holds).await
    }

    /// What [`Sandboxes::sweep`] would remove, by name.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn abandoned(&self) -> Result<Vec<String>, SandboxError> {
        let live = self.undertaker.lock().clone();
        let names = Mutex::new(Vec::new());
        let keeps = |name: &str| {
            if !live.contains(name) {
                names.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
            }
            true
        };
        self.backend.sweep(&keeps).await?;
        Ok(names.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// [`Sandboxes::sweep`], told to the log.
    pub async fn sweep_once(&self) {
        match self.sweep().await {
            Ok(0) => {}
            Ok(n) => tracing::info!(n_sandboxes = n, "removed sandboxes that nobody works with"),
            Err(error) => tracing::warn!(%error, "cannot look for sandboxes that nobody works with"),
        }
    }

    /// Sweeps every few minutes until `stop`.
    pub async fn sweep_now_and_then(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SWEEP_INTERVAL) => self.sweep_once().await,
            }
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            n_hits: self.n_hits.load(Ordering::Relaxed),
            n_misses: self.n_misses.load(Ordering::Relaxed),
            n_warm: self.lock().values().map(|pool| pool.warm.len()).sum(),
            n_boxes: self.undertaker.lock().len(),
        }
    }

    /// Waits until nothing is left of a box that was let go of, or whose start was given up. False when it would not end.
    pub async fn gone(&self, name: &str) -> bool {
        let gone = async {
            loop {
                let forgotten = std::pin::pin!(self.undertaker.forgotten.notified());
                // `notified` listens from its making on, so nothing is missed between the look and the wait.
                if !self.undertaker.lock().contains(name) {
                    return;
                }
                forgotten.await;
            }
        };
        let ended = async {
            gone.await;
            // Once more, for a box that was given up on: it is quick where nothing is left.
            self.backend.stop(name).await.is_ok()
        };
        tokio::time::timeout(STOP_TIMEOUT * STOP_ATTEMPTS, ended).await.unwrap_or(false)
    }

    fn note_cap(&self, spec: &SandboxSpec) {
        let mut caps = self.disk_caps.lock().unwrap_or_else(PoisonError::into_inner);
        caps.insert(spec.name.clone(), spec.limits.disk_bytes);
    }

    /// Whether somebody holds this box, or it is being started or removed.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.undertaker.lock().contains(name)
    }

    /// Waits until every start and every removal at hand has ended.
    pub async fn settle(&self) {
        self.undertaker.work.close();
        self.undertaker.work.wait().await;
        self.undertaker.work.reopen();
    }

    /// Starts nothing any more, ends what stands ready, and waits until every box that was let go of is gone.
    pub async fn close(&self) {
        self.calm.closing.cancel();
        drop(std::mem::take(&mut *self.lock()));
        self.settle().await;
        // What was being started ahead meanwhile.
        drop(std::mem::take(&mut *self.lock()));
        self.settle().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a shell that does nothing, so that the claimant's first command is not the first that this box finds, maps and
/// starts. Nobody needs it, so a box without a shell is as good.
async fn warm_up(sandbox: &Sandbox) -> Result<(), SandboxError> {
    match sandbox.run(&Command::shell(":", WARM_UP_LIMIT), &mut |_| {}).await {
        Err(error @ SandboxError::Lost(_)) => Err(error),
        _ => Ok(()),
    }
}

impl Pool {
    fn new(spec: &SandboxSpec) -> Self {
        Self { spec: spec.clone(), warm: Vec::new(), claims: VecDeque::new(), failed_at: None }
    }
}

/// What makes two boxes alike: everything but whom they work for.
fn key(spec: &SandboxSpec) -> String {
    let SandboxSpec { name: _, task: _, scope, image, base, limits, gpus, usage: _ } = spec;
    format!("{scope} {image:?} {:?} {limits:?} {gpus:?}", base.as_ref().map(|base| &base.id))
}

/// A task that waits for a start: nothing is started ahead meanwhile.
struct Waiting<'a>(&'a Sandboxes);

impl<'a> Waiting<'a> {
    fn new(sandboxes: &'a Sandboxes) -> Self {
        sandboxes.n_waiting.fetch_add(1, Ordering::AcqRel);
        Self(sandboxes)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.n_waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_one();
        }
    }
}

fn now_nanos() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos())
}
