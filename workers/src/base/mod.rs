//! Bases: prepared starting points of sandboxes, so that a task begins where its repository's setup has ended.
//!
//! A base is built from the default branch and its `.onramp.toml` only, never from anything that a task changed: image,
//! setup commands, the files of one commit, and what `prebuild` left in caches. It is kept by the backend that made it
//! and found again by its recipe. A task never waits for one: without a base its box is set up from the image, as ever.

mod build;
mod collect;
mod recipe;
mod record;
mod residue;

use std::{
    collections::BTreeMap,
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::TimeDelta;
use tasks::{Code, CommitSha, Failure, RepoName, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::record::Shelf;
pub use self::{collect::Collected, record::Record};
use crate::{
    egress::EgressPolicy,
    forge::Forge,
    repo_config::RepoConfig,
    sandbox::{Update, pool::Sandboxes},
};

/// A branch that moves all the time gets a new base no oftener.
const SPACING: TimeDelta = TimeDelta::minutes(5);
/// After a build that failed the next try waits: this, doubled with each failure in a row, up to an hour.
const FIRST_RETRY: TimeDelta = TimeDelta::minutes(1);
const LAST_RETRY: TimeDelta = TimeDelta::hours(1);
/// How often what nobody needs is looked for.
const COLLECT_INTERVAL: TimeDelta = TimeDelta::hours(1);

/// How bases are kept.
#[derive(Debug, Clone)]
pub struct BasesOptions {
    /// False: none is used and none is built.
    pub enabled: bool,
    /// A base is looked at again after so long, even where the branch did not move: images and packages do.
    pub refresh_interval: Duration,
    /// A base that no task used for so long goes.
    pub max_age: Duration,
    /// The most bases.
    pub max_count: usize,
    /// The most bytes that all of them take.
    pub max_bytes: u64,
}

impl Default for BasesOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            refresh_interval: Duration::from_secs(30 * 60),
            max_age: Duration::from_secs(7 * 86_400),
            max_count: 20,
            max_bytes: 20 << 30,
        }
    }
}

/// All bases of an installation.
#[derive(Debug)]
pub struct Bases {
    options: BasesOptions,
    shelf: Shelf,
    sandboxes: Arc<Sandboxes>,
    forge: Arc<dyn Forge>,
    egress: Arc<EgressPolicy>,
    mirrors: PathBuf,
    clock: fn() -> Timestamp,
    wanted: Mutex<BTreeMap<RepoName, Wanted>>,
    changed: Notify,
    /// One base is built after the other: what is kept and has no record yet would be taken for nobody's.
    building: tokio::sync::Mutex<()>,
}

/// A repository whose tasks come here.
#[derive(Debug)]
struct Wanted {
    asked_at: Timestamp,
    /// When its base is looked at next.
    due: Timestamp,
    n_failures: u32,
    trouble: Option<String>,
}

impl Bases {
    /// The bases that have their records in `dir`.
    pub fn new(
        dir: PathBuf,
        options: BasesOptions,
        sandboxes: Arc<Sandboxes>,
        forge: Arc<dyn Forge>,
        mirrors: PathBuf,
        clock: fn() -> Timestamp,
    ) -> Self {
        let (wanted, changed) = (Mutex::default(), Notify::new());
        let (egress, building) = (Arc::default(), tokio::sync::Mutex::default());
        Self { options, shelf: Shelf::new(dir), sandboxes, forge, egress, mirrors, clock, wanted, changed, building }
    }

    /// The same under the operator's rules for what is reached outside.
    #[must_use]
    pub fn under(self, egress: Arc<EgressPolicy>) -> Self {
        Self { egress, ..self }
    }

    /// The newest base for this repository and configuration. It may be gone a moment later: then its box does not start.
    pub fn find(&self, repo: &RepoName, config: &RepoConfig) -> Option<Record> {
        if !self.options.enabled {
            return None;
        }
        let recipe = recipe::of(config, self.sandboxes.backend().as_ref());
        let mut records = self.shelf.all();
        records.retain(|record| record.repo == *repo && record.recipe == recipe);
        records.into_iter().max_by_key(|record| record.made_at)
    }

    /// Notes that a task used this base, so that it is kept.
    pub fn used(&self, record: &Record) {
        self.shelf.touch(&record.base.id);
    }

    /// Whether a base serves for a tree that differs from its own by this: not where setup would have done something else.
    pub(crate) fn serves(config: &RepoConfig, delta: &Update) -> bool {
        delta.paths().all(|path| !recipe::depends_on(config, path))
    }

    /// Says that tasks of this repository come here; `tip`: where its default branch is, if the task saw it.
    pub fn want(&self, repo: &RepoName, tip: Option<&CommitSha>) {
        if !self.options.enabled {
            return;
        }
        let now = (self.clock)();
        let newest =
            self.shelf.all().into_iter().filter(|record| record.repo == *repo).max_by_key(|record| record.made_at);
        let mut wanted = self.lock();
        let entry = wanted.entry(repo.clone()).or_insert_with(|| Wanted::new(now));
        entry.asked_at = now;
        // After a failure the next try has its time, whatever moved.
        if let (Some(newest), Some(tip), 0) = (newest, tip, entry.n_failures)
            && newest.commit != *tip
        {
            entry.due = entry.due.min(newest.made_at + SPACING);
        }
        drop(wanted);
        self.changed.notify_one();
    }

    /// Why this repository has no new base, when its last build failed.
    pub fn trouble(&self, repo: &RepoName) -> Option<String> {
        self.lock().get(repo)?.trouble.clone()
    }

    /// The right to build and remove bases of this installation, as long as it is held. `None`: another process has it.
    ///
    /// # Errors
    /// When the directory of the records cannot be written.
    pub fn take_turn(&self) -> Result<Option<File>, Failure> {
        self.shelf.lock().map_err(|error| {
            Failure::new(Code::StoreUnavailable, format!("The records of the bases cannot be written: {error}"))
        })
    }

    /// Builds and refreshes what tasks ask for and removes what nobody needs, until `stop`. One process does it for an
    /// installation.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.options.enabled {
            return;
        }
        let _turn = match self.take_turn() {
            Ok(Some(turn)) => turn,
            Ok(None) => return tracing::info!("another process builds the bases of this data directory"),
            Err(failure) => return tracing::warn!(failure.message, "no bases are built"),
        };
        let mut collect_at = (self.clock)();
        loop {
            let now = (self.clock)();
            if collect_at <= now {
                // A task may be building the base that it needs.
                tokio::select! {
                    () = stop.cancelled() => return,
                    _building = self.building.lock() => { self.collect(now, false).await; }
                }
                collect_at = now + COLLECT_INTERVAL;
            }
            let changed = self.changed.notified();
            let work = async {
                while let Some(repo) = self.most_due((self.clock)()) {
                    self.refresh(&repo).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = work => {}
            }
            let now = (self.clock)();
            let next =
                self.lock().values().map(|wanted| wanted.due).min().map_or(collect_at, |due| due.min(collect_at));
            let wait = (next - now).to_std().unwrap_or_default();
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// The repository whose time has come for longest. Those that nobody asked for any more are forgotten.
    fn most_due(&self, now: Timestamp) -> Option<RepoName> {
        let max_age = TimeDelta::from_std(self.options.max_age).unwrap_or(TimeDelta::MAX);
        let mut wanted = self.lock();
        wanted.retain(|_, wanted| now - wanted.asked_at < max_age);
        let due = wanted.iter().filter(|(_, wanted)| wanted.due <= now).min_by_key(|(_, wanted)| wanted.due);
        due.map(|(repo, _)| repo.clone())
    }

    /// Looks at one repository and builds a base where there is none for what it is now. The old one serves meanwhile.
    pub async fn refresh(&self, repo: &RepoName) {
        let _turn = self.building.lock().await;
        let result = self.build(repo).await;
        let now = (self.clock)();
        if let Err(failure) = &result {
            tracing::warn!(%repo, failure.code = %failure.code, failure.message, failure.detail, "no base could be built");
        }
        if matches!(result, Ok(Some(_))) {
            self.collect(now, false).await;
        }
        if let Some(wanted) = self.lock().get_mut(repo) {
            wanted.is_over(now, &self.options, result.as_ref().err());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RepoName, Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn new(now: Timestamp) -> Self {
        Self { asked_at: now, due: now, n_failures: 0, trouble: None }
    }

    /// A refresh has ended: when is the next?
    fn is_over(&mut self, now: Timestamp, options: &BasesOptions, failure: Option<&Failure>) {
        self.n_failures = failure.map_or(0, |_| self.n_failures.saturating_add(1));
        self.trouble = failure.map(|failure| failure.message.clone());
        self.due = now
            + match self.n_failures {
                0 => TimeDelta::from_std(options.refresh_interval).unwrap_or(TimeDelta::MAX),
                n => (FIRST_RETRY * 2_i32.saturating_pow(n.min(20) - 1)).min(LAST_RETRY),
            };
    }
}

#[cfg(test)]
mod tests;
