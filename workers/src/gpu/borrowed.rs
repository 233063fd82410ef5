//! What one attempt has been lent. It outlives every box of the attempt, so that no device goes to somebody else while a
//! box that could still use it is being removed.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tasks::{Code, Failure, GpuRequest, GpuUse, Resources};

use super::{Gpu, GpuLease, Gpus};
use crate::{
    progress::{Progress, ProgressEvent},
    repo_config::RepoConfig,
};

/// The GPUs of one attempt, from the first that it was lent to the last that it gave back.
#[derive(Debug, Default)]
pub struct Borrowed {
    gpus: Gpus,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The agent's, kept through all rounds; checks that ask for the same use it too.
    agents: Option<(GpuRequest, GpuLease)>,
    /// Of the checks that run now.
    checks: Option<GpuLease>,
    /// Names of the devices that were ever lent, each once.
    devices: Vec<String>,
    /// Time of what was given back.
    used: Duration,
}

/// What the request asks for goes before what the repository says: the agent gets it, and every check that would have
/// used the environment's GPU.
pub fn apply_request(config: &mut RepoConfig, resources: &Resources) {
    let Some(asked) = &resources.gpu else { return };
    let of_environment = config.environment.gpu.replace(asked.clone()).or_else(|| GpuRequest::any(1));
    for check in config.checks.iter_mut().filter(|check| check.gpu.is_some() && check.gpu == of_environment) {
        check.gpu = Some(asked.clone());
    }
    config.environment.agent_gpu = true;
}

impl Borrowed {
    /// Nothing yet, of these.
    pub fn new(gpus: Gpus) -> Self {
        Self { gpus, state: Mutex::default() }
    }

    /// Whether everything that the attempt will ask for can be met by this worker, before anything is started.
    ///
    /// # Errors
    /// E017 for a GPU that is not here; E007 for two that could only be held at once.
    pub fn could(&self, config: &RepoConfig) -> Result<(), Failure> {
        let agents = config.environment.gpu.as_ref().filter(|_| config.environment.agent_gpu);
        let of_checks = || config.checks.iter().filter_map(|check| check.gpu.as_ref());
        agents.into_iter().chain(of_checks()).try_for_each(|request| self.gpus.could(request))?;
        // Who holds one and waits for another can wait for ever, for somebody who does the same.
        if let (Some(agents), Some(other)) = (agents, of_checks().find(|request| Some(*request) != agents)) {
            let message = format!(
                "The agent gets a GPU ({agents}) and a check asks for another one ({other}), which could only be had by \
                 holding the first while waiting for the second"
            );
            return Err(Failure::new(Code::BadRepoConfig, message)
                .next("Write `gpu = true` in that check, so that it uses the agent's; or leave `agent_gpu` out."));
        }
        Ok(())
    }

    /// The agent's, for all rounds.
    ///
    /// # Errors
    /// E017 when none became free in time.
    pub async fn for_agent(&self, request: &GpuRequest, progress: &Progress) -> Result<Vec<Gpu>, Failure> {
        let lease = self.lease(request, progress).await?;
        let gpus = lease.gpus().to_vec();
        self.state().agents = Some((request.clone(), lease));
        Ok(gpus)
    }

    /// For checks that ask for the same: the agent's where it has the same, else others until
    /// [`Borrowed::checks_are_over`].
    ///
    /// # Errors
    /// E017 when none became free in time.
    pub async fn for_checks(&self, request: &GpuRequest, progress: &Progress) -> Result<Vec<Gpu>, Failure> {
        if let Some((_, lease)) = self.state().agents.as_ref().filter(|(held, _)| held == request) {
            return Ok(lease.gpus().to_vec());
        }
        let lease = self.lease(request, progress).await?;
        let gpus = lease.gpus().to_vec();
        self.state().checks = Some(lease);
        Ok(gpus)
    }

    /// The box of those checks is gone: their devices go back.
    pub fn checks_are_over(&self) {
        let mut state = self.state();
        let lease = state.checks.take();
        state.used += lease.map_or(Duration::ZERO, GpuLease::release);
    }

    /// What was lent so far, for the evidence; `None`: nothing.
    pub fn used(&self) -> Option<GpuUse> {
        let state = self.state();
        let held = state.agents.iter().map(|(_, lease)| lease).chain(&state.checks);
        let time = state.used + held.map(GpuLease::gpu_time).sum::<Duration>();
        let lent_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        (!state.devices.is_empty()).then(|| GpuUse { devices: state.devices.clone(), lent_ms })
    }

    async fn lease(&self, request: &GpuRequest, progress: &Progress) -> Result<GpuLease, Failure> {
        let mut waiting = |words: &str| progress.tell(ProgressEvent::Waiting(words.to_owned()));
        // Told even where nothing is waited for: from here on the attempt needs no place among those that compute here.
        waiting(&format!("waiting for a GPU ({request})"));
        let lease = self.gpus.lease(request, &mut waiting).await?;
        let names: Vec<String> = lease.gpus().iter().map(|gpu| format!("{} {}", gpu.name(), gpu.id)).collect();
        progress.step(format!("GPU: {}", names.join(", ")));
        let mut state = self.state();
        for name in names {
            if !state.devices.contains(&name) {
                state.devices.push(name);
            }
        }
        drop(state);
        Ok(lease)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
