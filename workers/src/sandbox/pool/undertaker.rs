//! The removal of boxes that nobody holds any more: off the path, with patience, and not while somebody takes first steps.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::sandbox::SandboxBackend;

/// So long after a claim nothing is started ahead and nothing is removed: the claimant's first steps come first. Where one
/// claim follows the other, this is the longest that what was put off waits.
const CALM: Duration = Duration::from_millis(100);
const CALM_LIMIT: Duration = Duration::from_secs(2);
/// What the backend may take to remove a box, and how often it is asked.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const STOP_ATTEMPTS: u32 = 5;

/// Removes boxes whose owners let go of them.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct Undertaker {
    backend: Arc<dyn SandboxBackend>,
    pub(super) work: TaskTracker,
    pub(super) live: Arc<Mutex<HashSet<String>>>,
    pub(super) forgotten: Arc<Notify>,
    calm: Arc<Calm>,
}

/// When there is time for what nobody waits for.
#[derive(Debug, Default)]
pub(super) struct Calm {
    claimed_at: Mutex<Option<Instant>>,
    pub(super) closing: CancellationToken,
}

impl Calm {
    /// Somebody claimed a box just now.
    pub(super) fn claimed(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// Until nothing was claimed for a while, or it took too long, or everything is being closed.
    pub(super) async fn wait(&self) {
        let began = Instant::now();
        loop {
            let claimed_at = *self.lock();
            let until = claimed_at.map_or(began, |at| (at + CALM).min(began + CALM_LIMIT));
            if until <= Instant::now() || self.closing.is_cancelled() {
                return;
            }
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Undertaker {
    pub(super) fn new(backend: Arc<dyn SandboxBackend>, calm: Arc<Calm>) -> Self {
        Self { backend, work: TaskTracker::new(), live: Arc::default(), forgotten: Arc::default(), calm }
    }

    pub(in crate::sandbox) fn backend(&self) -> &Arc<dyn SandboxBackend> {
        &self.backend
    }

    /// Removes a box, off the path. What cannot be removed is left to the sweep.
    pub(in crate::sandbox) fn bury(&self, name: &str) {
        let (this, name) = (self.clone(), name.to_owned());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.forget(&name) };
        self.work.spawn_on(
            async move {
                this.calm.wait().await;
                for attempt in 1..=STOP_ATTEMPTS {
                    match tokio::time::timeout(STOP_TIMEOUT, this.backend.stop(&name)).await {
                        Ok(Ok(())) => break,
                        Ok(Err(error)) => tracing::debug!(sandbox.name = name, attempt, %error, "a box stays"),
                        Err(_) => tracing::debug!(sandbox.name = name, attempt, "a box takes long to end"),
                    }
                    if attempt == STOP_ATTEMPTS {
                        tracing::warn!(sandbox.name = name, "a box could not be removed and is left to the sweep");
                    } else {
                        tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                    }
                }
                this.forget(&name);
            },
            &runtime,
        );
    }

    /// The box is gone.
    pub(in crate::sandbox) fn forget(&self, name: &str) {
        self.lock().remove(name);
        self.forgotten.notify_waiters();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
