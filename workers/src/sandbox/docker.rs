//! Sandboxes as containers of a Docker engine.
//!
//! The engine is asked for as little as possible: create a container, put our guest into it, attach to its streams,
//! start it, remove it. `docker exec` is never used (slow, and its arguments show up in the engine's events), nothing is
//! mounted from the host (so it works with remote engines), and the engine keeps no log (what passes through the streams
//! is frames of ours).
//!
//! This is the only place that knows what a container is.

mod bases;
mod container;
mod engine;
mod facts;
mod gpu;
mod images;
mod prepared;
mod stream;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bollard::{
    Docker,
    models::SystemInfoCgroupVersionEnum,
    query_parameters::{
        AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptionsBuilder,
        ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
        UploadToContainerOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use tasks::{Code, Failure};

use self::{
    container::belongings,
    engine::{DEFAULT_HOST, Trouble, call, filters_calls, limits_enough, open, unreachable},
    prepared::Prepared,
    stream::Attached,
};
pub use self::{
    engine::{EngineInfo, probe},
    facts::EngineFacts,
    gpu::explain as explain_gpu_trouble,
};
use super::{KeptBase, SandboxBackend, SandboxError, SandboxSpec, Started, owner::Owner};

/// Marks what belongs to this installation, for the sweep.
const LABEL_INSTALLATION: &str = "onramp.installation";
const LABEL_TASK: &str = "onramp.task";
const LABEL_NAME: &str = "onramp.name";
/// The process that works with a container: see [`Owner`].
const LABEL_OWNER: &str = "onramp.owner";
/// The id of a base, and what it was made from.
const LABEL_BASE: &str = "onramp.base";
const LABEL_ENVIRONMENT: &str = "onramp.environment";
/// What sandboxes and bases of this kind are called.
pub const KIND: &str = "docker";

/// How long a removal that somebody else asked for may take, and how often it is asked for again.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);
const REMOVALS: u32 = 4;

/// Starts sandboxes on a Docker engine.
#[derive(Debug)]
pub struct DockerBackend {
    engine: Docker,
    host: String,
    default_image: Option<String>,
    installation: String,
    /// `None`: every container of this installation is this process's own.
    owner: Option<Arc<Owner>>,
    /// A container must not ask for more than the engine has.
    n_cpus: f64,
    /// The engine limits with control groups of the first generation.
    first_cgroups: bool,
    /// The runtimes that the engine lists.
    runtimes: Vec<String>,
    /// The one that the operator named.
    runtime: Option<String>,
    prepared: Prepared,
}

impl DockerBackend {
    /// Connects to the engine at `host` (or the usual place). `installation` tells our sandboxes from those of another
    /// Onramp on the same engine.
    ///
    /// # Errors
    /// [`Code::EngineUnreachable`] when none answers; [`Code::WeakIsolation`] when it does not filter
    /// system calls or does not limit what containers use.
    pub async fn connect(
        host: Option<&str>,
        default_image: Option<String>,
        installation: &str,
    ) -> Result<Self, Failure> {
        let host = host.unwrap_or(DEFAULT_HOST);
        let engine = open(host).await?;
        let about = call(engine.info()).await.map_err(|error| unreachable(host, &error))?;
        filters_calls(&about)?;
        limits_enough(&about)?;
        let n_cpus = about.ncpu.map_or(f64::MAX, |n| n.max(1) as f64);
        Ok(Self {
            engine,
            host: host.to_owned(),
            default_image,
            installation: installation.to_owned(),
            owner: None,
            n_cpus,
            first_cgroups: about.cgroup_version == Some(SystemInfoCgroupVersionEnum::_1),
            runtimes: gpu::of_engine(&about).runtimes,
            runtime: None,
            prepared: Prepared::default(),
        })
    }

    /// Tells this process's containers from those of other processes of the same installation.
    #[must_use]
    pub fn owned_by(self, owner: Arc<Owner>) -> Self {
        Self { owner: Some(owner), ..self }
    }

    /// The image that a specification means.
    fn image<'a>(&'a self, image: Option<&'a str>) -> Result<&'a str, Failure> {
        image.or(self.default_image.as_deref()).ok_or_else(|| {
            Failure::new(Code::ImageMissing, "No image is named for the sandbox").next(
                "Name one under [environment] image in `.onramp.toml`, or under [sandbox] image in the configuration.",
            )
        })
    }

    /// Whether a container belongs to another process that lives.
    fn is_of_another(&self, labels: &HashMap<String, String>) -> bool {
        let Some(owner) = &self.owner else { return false };
        labels.get(LABEL_OWNER).is_some_and(|id| id != owner.id() && owner.lives(id))
    }

    // --- containers ---

    async fn create(&self, spec: &SandboxSpec, image: &str) -> Result<(), Failure> {
        let options = CreateContainerOptionsBuilder::new().name(&spec.name).build();
        let mut container = self.container(spec, image);
        self.equip(&mut container, spec).await?;
        call(self.engine.create_container(Some(options), container))
            .await
            .map(drop)
            .map_err(|error| self.failure(&error, "The Docker engine cannot create a sandbox"))
    }

    /// Puts in what the box needs, attaches, starts: in this order, so that not a byte of the guest is missed.
    async fn start_created(&self, spec: &SandboxSpec, belongings: Option<Bytes>) -> Result<Attached, Failure> {
        let upload = UploadToContainerOptionsBuilder::new().path("/").build();
        let attach =
            AttachContainerOptionsBuilder::new().stdin(true).stdout(true).stderr(true).stream(true).logs(false).build();
        let put_in = async {
            let Some(belongings) = belongings else { return Ok(()) };
            call(self.engine.upload_to_container(&spec.name, Some(upload), bollard::body_full(belongings))).await
        };
        let (uploaded, attached) = tokio::join!(put_in, call(self.engine.attach_container(&spec.name, Some(attach))));
        uploaded.map_err(|error| self.failure(&error, "The Docker engine cannot put the guest into a sandbox"))?;
        let attached =
            attached.map_err(|error| self.failure(&error, "The Docker engine cannot attach to a sandbox"))?;
        call(self.engine.start_container(&spec.name, None::<StartContainerOptions>))
            .await
            .map_err(|error| self.failure(&error, "The Docker engine cannot start a sandbox"))?;
        Ok(Attached::new(attached, &spec.name))
    }

    /// What is left of a start that failed is removed.
    async fn start_from(
        &self,
        spec: &SandboxSpec,
        image: &str,
        environment: &str,
        belongings: Option<Bytes>,
    ) -> Result<Started, SandboxError> {
        self.create(spec, image).await?;
        match self.start_created(spec, belongings).await {
            Ok(attached) => Ok(Started { stream: Box::new(attached), kind: KIND, environment: environment.to_owned() }),
            Err(failure) => {
                if let Err(error) = self.remove(&spec.name).await {
                    tracing::warn!(sandbox.name = spec.name, %error, "a sandbox that did not start was not removed");
                }
                Err(failure.into())
            }
        }
    }

    /// Removes a container, and returns when it is gone.
    async fn remove(&self, name: &str) -> Result<(), Failure> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let mut attempts = 1;
        loop {
            match call(self.engine.remove_container(name, Some(options.clone()))).await {
                Ok(()) => return Ok(()),
                Err(error) if error.status() == Some(404) => return Ok(()),
                // Somebody else's removal of it is under way. It may come to nothing, so it is asked for again afterwards.
                Err(error) if error.status() == Some(409) && attempts < REMOVALS => {
                    attempts += 1;
                    self.until_removed(name).await;
                }
                Err(error) => {
                    return Err(self.failure(&error, format!("The Docker engine cannot remove the sandbox {name}")));
                }
            }
        }
    }

    /// Until the engine says that a container is gone, or that it will not go.
    async fn until_removed(&self, name: &str) {
        let options = WaitContainerOptionsBuilder::new().condition("removed").build();
        let mut answers = self.engine.wait_container(name, Some(options));
        if tokio::time::timeout(REMOVAL_TIMEOUT, answers.next()).await.is_err() {
            tracing::debug!(sandbox.name = name, "a removal takes long");
        }
    }

    fn failure(&self, error: &Trouble, what: impl Into<String>) -> Failure {
        if error.is_connection() {
            return unreachable(&self.host, error);
        }
        if let Some(failure) = gpu::explain(&error.to_string()) {
            return failure;
        }
        Failure::new(Code::SandboxStart, what).detail(error.to_string())
    }
}

#[async_trait]
impl SandboxBackend for DockerBackend {
    async fn build_image(&self, context: Bytes, dockerfile: &str, tag: &str) -> Result<String, Failure> {
        self.build(context, dockerfile, tag).await
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        // A base brings its guest and its directories along.
        if let Some(base) = &spec.base {
            return self.start_from(spec, &base.kept_as, &base.environment, None).await;
        }
        let image = self.image(spec.image.as_deref())?;
        let environment = self.bring_image(image).await?;
        if let Some(prepared) = self.prepared.get(&environment, &spec.scope) {
            match self.start_from(spec, &prepared, &environment, None).await {
                Err(error) => {
                    // Removed by somebody, perhaps. A trouble that lies elsewhere is told by the start below.
                    tracing::debug!(sandbox.name = spec.name, %error, "an image with the guest did not serve");
                    self.prepared.forget(&environment, &spec.scope);
                }
                started => return started,
            }
        }
        let belongings = belongings(&spec.scope).map_err(Failure::internal)?;
        let started = self.start_from(spec, image, &environment, Some(belongings)).await?;
        self.prepare(image, &environment, &spec.scope);
        Ok(started)
    }

    async fn could_show_gpus(&self, _image: Option<&str>) -> Result<(), Failure> {
        gpu::could_show(&self.gpus_of_engine().await?)
    }

    fn environment_key(&self, image: Option<&str>) -> String {
        image.or(self.default_image.as_deref()).unwrap_or_default().to_owned()
    }

    async fn environment(&self, image: Option<&str>) -> Result<String, Failure> {
        self.bring_image(self.image(image)?).await
    }

    async fn keep(&self, spec: &SandboxSpec, id: &str) -> Result<KeptBase, SandboxError> {
        let environment = self.environment(spec.image.as_deref()).await?;
        let kept = self.commit(spec, id, environment).await;
        self.remove(&spec.name).await?;
        Ok(kept?)
    }

    async fn remove_base(&self, base: &KeptBase) -> Result<(), SandboxError> {
        self.remove_image(base).await
    }

    async fn bases(&self) -> Result<Vec<KeptBase>, SandboxError> {
        Ok(self.kept_images().await?)
    }

    async fn used_bytes(&self, name: &str) -> Option<u64> {
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let found = call(self.engine.inspect_container(name, Some(options))).await.ok()?;
        u64::try_from(found.size_rw?).ok()
    }

    async fn stop(&self, name: &str) -> Result<(), SandboxError> {
        self.remove(name).await?;
        // What its start began beside it is not left half done when this was the last thing of a process.
        self.prepared.settle().await;
        Ok(())
    }

    async fn sweep(&self, keep: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<usize, SandboxError> {
        let filters = HashMap::from([("label", vec![format!("{LABEL_INSTALLATION}={}", self.installation)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = call(self.engine.list_containers(Some(options)))
            .await
            .map_err(|error| self.failure(&error, "The Docker engine cannot list the sandboxes"))?;
        let mut n_removed = 0;
        for container in containers {
            let mut labels = container.labels.unwrap_or_default();
            if self.is_of_another(&labels) {
                continue;
            }
            let name = labels.remove(LABEL_NAME).unwrap_or_default();
            let Some(id) = container.id.filter(|_| !keep(&name)) else { continue };
            self.remove(&id).await?;
            n_removed += 1;
        }
        self.sweep_prepared().await;
        Ok(n_removed)
    }
}
