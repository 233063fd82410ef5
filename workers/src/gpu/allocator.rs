//! Lends devices to sandboxes, one holder at a time, in the order in which they were asked for.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tasks::{Code, Failure, GpuRequest};
use tokio::{
    sync::{Notify, oneshot},
    time,
};

use super::{
    Gpu, GpuHost,
    ledger::{Ledger, Ticket},
    locks::{self, DeviceLock},
};

/// How often somebody who waits looks again: other processes do not say when they give something back.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What the operator says about lending.
#[derive(Debug, Clone)]
pub struct GpuOptions {
    /// Only these may be lent, by UUID; empty: all.
    pub only: Vec<String>,
    /// How long a task waits for what others hold.
    pub wait_timeout: Duration,
    /// Where the locks lie; `None`: the usual place.
    pub lock_dir: Option<PathBuf>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { only: Vec::new(), wait_timeout: Duration::from_secs(4 * 3600), lock_dir: None }
    }
}

/// The GPUs that this worker may lend. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gpus(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    host: GpuHost,
    wait_timeout: Duration,
    lock_dir: PathBuf,
    /// One look at the machine at a time, and grants only right after it.
    looking: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    given_back: Notify,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    waiters: HashMap<Ticket, oneshot::Sender<GpuLease>>,
    locks: HashMap<usize, DeviceLock>,
    /// Why nothing or not everything is lent right now, for those who wait.
    trouble: Option<String>,
}

/// Devices that nobody else has. Dropping it gives them back.
#[derive(Debug)]
pub struct GpuLease {
    shared: Arc<Shared>,
    ticket: Ticket,
    gpus: Vec<Gpu>,
    since: Instant,
}

impl Gpus {
    /// None at all: every request is answered with "no such GPU".
    pub fn none() -> Self {
        Self(None)
    }

    /// What the machine has, as far as the operator lends it.
    pub async fn find(host: GpuHost, options: GpuOptions) -> Self {
        let mut devices = host.devices().await;
        devices.retain(|gpu| options.only.is_empty() || options.only.contains(&gpu.id));
        if devices.is_empty() {
            return Self(None);
        }
        Self(Some(Arc::new(Shared {
            host,
            wait_timeout: options.wait_timeout,
            lock_dir: options.lock_dir.unwrap_or_else(|| locks::DEFAULT_DIR.into()),
            looking: tokio::sync::Mutex::default(),
            state: Mutex::new(State { ledger: Ledger::new(devices), ..State::default() }),
            given_back: Notify::new(),
        })))
    }

    /// How many devices there are to lend, held ones included.
    pub fn n_devices(&self) -> usize {
        self.0.as_ref().map_or(0, |shared| shared.state().ledger.devices().len())
    }

    /// Answers before anything is started whether the request could ever be met here.
    ///
    /// # Errors
    /// E017 with what there is instead.
    pub fn could(&self, request: &GpuRequest) -> Result<(), Failure> {
        let Some(shared) = &self.0 else {
            let message = format!("The task asks for a GPU ({request}), and this worker has none to lend");
            return Err(Failure::new(Code::ResourceMissing, message).next(
                "Remove the requirement, or run a worker that has one; `onramp doctor` says why there is none.",
            ));
        };
        let state = shared.state();
        if state.ledger.could(request) {
            return Ok(());
        }
        let mut names: Vec<String> = Vec::new();
        for gpu in state.ledger.devices() {
            let name = gpu.name();
            let n = state.ledger.devices().iter().filter(|other| other.name() == name).count();
            let counted = if n > 1 { format!("{n} x {name}") } else { name };
            if !names.contains(&counted) {
                names.push(counted);
            }
        }
        let message =
            format!("The task asks for a GPU ({request}), and this worker has no such: it has {}", names.join(", "));
        Err(Failure::new(Code::ResourceMissing, message)
            .next("Ask for one of those, allow another with a list or any, or run a worker that has it."))
    }

    /// Waits until the request can be met and lends what meets it. `waiting` hears why it takes time, each time that
    /// changes. Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    /// E017 at once when it can never be met here, and when it was not met in time.
    pub async fn lease(
        &self,
        request: &GpuRequest,
        waiting: &mut (dyn FnMut(&str) + Send),
    ) -> Result<GpuLease, Failure> {
        self.could(request)?;
        let Some(shared) = &self.0 else { return Err(Failure::internal("no GPU and no refusal")) };
        let mut turn = Turn::take(shared, request);
        let deadline = Instant::now() + shared.wait_timeout;
        let mut told: Option<Option<String>> = None;
        loop {
            // Registered before looking, so that nothing given back in between is missed.
            let given_back = shared.given_back.notified();
            tokio::pin!(given_back);
            given_back.as_mut().enable();
            shared.look_and_grant().await;
            if let Ok(lease) = turn.granted.try_recv() {
                return Ok(lease);
            }
            let trouble = shared.state().trouble.clone();
            if told.as_ref() != Some(&trouble) {
                let why = trouble.as_ref().map_or_else(String::new, |why| format!("; {why}"));
                waiting(&format!("waiting for a GPU ({request}){why}"));
                told = Some(trouble);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(shared.too_late(request));
            }
            tokio::select! {
                biased;
                lease = &mut turn.granted => return lease.map_err(|_| Failure::internal("a place in the queue was lost")),
                () = given_back => {}
                () = time::sleep(LOOK_AGAIN.min(left)) => {}
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks who computes on which device, and then gives the free ones to those who wait.
    async fn look_and_grant(self: &Arc<Self>) {
        let _one_at_a_time = self.looking.lock().await;
        let occupants = self.host.occupants().await;
        for (sender, lease) in self.grant(occupants) {
            // Who went away in the meantime gets nothing: the lease comes back and gives its devices back.
            drop(sender.send(lease));
        }
    }

    fn grant(
        self: &Arc<Self>,
        occupants: Result<Vec<super::Occupant>, String>,
    ) -> Vec<(oneshot::Sender<GpuLease>, GpuLease)> {
        let mut state = self.state();
        let State { ledger, waiters, locks, trouble } = &mut *state;
        let occupants = match occupants {
            Ok(occupants) => occupants,
            Err(error) => {
                // Whoever cannot look must not lend.
                *trouble = Some(error);
                return Vec::new();
            }
        };
        // Of a device of ours it is known who uses it.
        let ours: HashSet<&str> = locks.keys().map(|at| ledger.devices()[*at].id.as_str()).collect();
        let foreign: Vec<_> = occupants.iter().filter(|occupant| !ours.contains(occupant.gpu.as_str())).collect();
        let is_foreign = |id: &str| foreign.iter().any(|occupant| occupant.gpu == id);
        *trouble = None;
        let listed = ledger.devices().iter().map(|gpu| gpu.id.clone()).collect::<Vec<_>>();
        let told = foreign.iter().find(|occupant| listed.contains(&occupant.gpu));
        if let Some(occupant) = told {
            *trouble = Some(format!("{} is used by {}, which is not ours", occupant.gpu, occupant.who));
        }
        let taken = std::cell::RefCell::new(locks);
        let mut problem = None;
        let mut take = |at: usize| {
            if is_foreign(&listed[at]) {
                return false;
            }
            match locks::take(&self.lock_dir, &listed[at]) {
                Ok(Some(lock)) => taken.borrow_mut().insert(at, lock).is_none(),
                Ok(None) => false,
                Err(error) => {
                    problem = Some(format!("no lock can be taken in {}: {error}", self.lock_dir.display()));
                    false
                }
            }
        };
        let mut put_back = |at: usize| drop(taken.borrow_mut().remove(&at));
        let granted = ledger.grant(&mut take, &mut put_back);
        *trouble = problem.or(trouble.take());
        let since = Instant::now();
        let lease = |(ticket, devices): (Ticket, Vec<usize>)| {
            let gpus = devices.iter().map(|at| ledger.devices()[*at].clone()).collect();
            let lease = GpuLease { shared: Arc::clone(self), ticket, gpus, since };
            // A ticket whose owner went away is ended by its turn, which waits for this lock; it has a sender until then.
            waiters.remove(&ticket).map(|sender| (sender, lease))
        };
        granted.into_iter().filter_map(lease).collect()
    }

    /// Forgets a request and unlocks what it held.
    fn end(&self, ticket: Ticket, gpus: &[Gpu]) {
        let mut state = self.state();
        let State { ledger, waiters, locks, .. } = &mut *state;
        waiters.remove(&ticket);
        locks.retain(|at, _| gpus.iter().all(|gpu| gpu.id != ledger.devices()[*at].id));
        ledger.end(ticket);
        drop(state);
        self.given_back.notify_waiters();
    }

    fn too_late(&self, request: &GpuRequest) -> Failure {
        let why = self.state().trouble.clone();
        let waited = self.wait_timeout.as_secs();
        let waited = if waited < 600 { format!("{waited} s") } else { format!("{} minutes", waited / 60) };
        let message = format!("No GPU ({request}) became free within {waited}");
        Failure::new(Code::ResourceMissing, message)
            .next("Ask again later, allow another with a list or any, or raise [gpu] wait_timeout.")
            .detail(why.unwrap_or_default())
    }
}

/// A place in the queue.
struct Turn {
    shared: Arc<Shared>,
    ticket: Ticket,
    granted: oneshot::Receiver<GpuLease>,
}

impl Turn {
    fn take(shared: &Arc<Shared>, request: &GpuRequest) -> Self {
        let (sender, granted) = oneshot::channel();
        let mut state = shared.state();
        let ticket = state.ledger.wait(request);
        state.waiters.insert(ticket, sender);
        drop(state);
        Self { shared: Arc::clone(shared), ticket, granted }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Only a place that is still waited in: what was granted belongs to its lease.
        let waits = self.shared.state().waiters.contains_key(&self.ticket);
        if waits {
            self.shared.end(self.ticket, &[]);
        }
    }
}

impl GpuLease {
    /// The devices, whole ones or slices.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// How long they have been lent so far, one device after the other: two devices for a minute are two minutes.
    pub fn gpu_time(&self) -> Duration {
        self.since.elapsed() * u32::try_from(self.gpus.len()).unwrap_or(u32::MAX)
    }

    /// Gives them back and says how long they were lent.
    pub fn release(self) -> Duration {
        self.gpu_time()
    }
}

impl Drop for GpuLease {
    fn drop(&mut self) {
        self.shared.end(self.ticket, &self.gpus);
    }
}

#[cfg(test)]
mod tests;
