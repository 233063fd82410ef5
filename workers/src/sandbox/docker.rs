//! Sandboxes as containers of a Docker engine.
//!
//! The engine is asked for as little as possible: create a container, put our guest into it, attach to its streams,
//! start it, remove it. `docker exec` is never used (slow, and its arguments show up in the engine's events), nothing is
//! mounted from the host (so it works with remote engines), and the engine keeps no log (what passes through the streams
//! is frames of ours).
//!
//! This is the only place that knows what a container is.

mod stream;

use std::{
    collections::HashMap,
    future::Future,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::{
        ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, ResourcesUlimits, RestartPolicy,
        RestartPolicyNameEnum,
    },
    query_parameters::{
        AttachContainerOptionsBuilder, BuildImageOptionsBuilder, CreateContainerOptionsBuilder,
        CreateImageOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
        UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tasks::{Code, Failure};
use tokio::time::timeout;

use self::stream::Attached;
use super::{GUEST, HOME, SandboxBackend, SandboxError, SandboxSpec, Started, WORKSPACE};

/// Where an engine is when nobody says otherwise.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// How long the engine may take for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to bring an image.
const PULL_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// How long it may take to build one.
const BUILD_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// What the guest and every command in a sandbox run as. No user of the host needs to have this number.
const UID: u64 = 1000;
/// Files that one process may hold open. An engine cannot give more than it has itself, so this is modest.
const MAX_OPEN_FILES: i64 = 16_384;
/// The guest inside.
const GUEST_PATH: &str = "/.onramp/guest";
/// Marks what belongs to this installation, for the sweep.
const LABEL_INSTALLATION: &str = "onramp.installation";
const LABEL_TASK: &str = "onramp.task";
const LABEL_NAME: &str = "onramp.name";

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its version, such as `28.3.1`.
    pub version: String,
    /// The newest version of its interface.
    pub api_version: String,
    /// Its operating system and architecture, such as `linux/amd64`.
    pub platform: String,
}

/// Asks the engine at `host` (or the usual place) who it is.
///
/// # Errors
/// [`Code::EngineUnreachable`] when none answers.
pub async fn probe(host: Option<&str>) -> Result<EngineInfo, Failure> {
    let host = host.unwrap_or(DEFAULT_HOST);
    let engine = open(host).await?;
    let version = call(engine.version()).await.map_err(|error| unreachable(host, &error))?;
    let part = |part: Option<String>| part.unwrap_or_else(|| "unknown".into());
    Ok(EngineInfo {
        version: part(version.version),
        api_version: part(version.api_version),
        platform: format!("{}/{}", part(version.os), part(version.arch)),
    })
}

/// A client that speaks the engine's version of the interface.
async fn open(host: &str) -> Result<Docker, Failure> {
    let seconds = BUILD_TIMEOUT.as_secs(); // ours are tighter, per call
    let client = match host.split_once("://") {
        Some(("unix", _)) => Docker::connect_with_unix(host, seconds, API_DEFAULT_VERSION),
        Some(("tcp" | "http", _)) => Docker::connect_with_http(host, seconds, API_DEFAULT_VERSION),
        _ => {
            return Err(Failure::new(
                Code::EngineUnreachable,
                format!("`{host}` is not the address of a Docker engine"),
            )
            .next("Set DOCKER_HOST to unix:///path/to/docker.sock or tcp://host:port, or unset it."));
        }
    };
    let client = client.map_err(|error| unreachable(host, &Trouble::Engine(error)))?;
    call(client.negotiate_version()).await.map_err(|error| unreachable(host, &error))
}

fn unreachable(host: &str, error: &Trouble) -> Failure {
    Failure::new(Code::EngineUnreachable, format!("The Docker engine at {host} does not answer"))
        .detail(error.to_string())
}

/// What can go wrong with a call.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Engine(Error),
    #[error("no answer within {} seconds", .0.as_secs())]
    Slow(Duration),
}

impl Trouble {
    /// The engine's own words, when it answered.
    fn status(&self) -> Option<u16> {
        match self {
            Self::Engine(Error::DockerResponseServerError { status_code, .. }) => Some(*status_code),
            Self::Engine(_) | Self::Slow(_) => None,
        }
    }

    /// Nobody answered at all.
    fn is_connection(&self) -> bool {
        matches!(
            self,
            Self::Engine(
                Error::IOError { .. }
                    | Error::HyperResponseError { .. }
                    | Error::HyperLegacyError { .. }
                    | Error::SocketNotFoundError(_)
            )
        )
    }
}

async fn call<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match timeout(CALL_TIMEOUT, future).await {
        Ok(result) => result.map_err(Trouble::Engine),
        Err(_) => Err(Trouble::Slow(CALL_TIMEOUT)),
    }
}

/// Starts sandboxes on a Docker engine.
#[derive(Debug)]
pub struct DockerBackend {
    engine: Docker,
    host: String,
    default_image: Option<String>,
    installation: String,
    /// A container must not ask for more than the engine has.
    n_cpus: f64,
    /// What every container gets before it starts.
    belongings: Bytes,
}

impl DockerBackend {
    /// Connects to the engine at `host` (or the usual place). `installation` tells our sandboxes from those of another
    /// Onramp on the same engine.
    ///
    /// # Errors
    /// [`Code::EngineUnreachable`] when none answers.
    pub async fn connect(
        host: Option<&str>,
        default_image: Option<String>,
        installation: &str,
    ) -> Result<Self, Failure> {
        let host = host.unwrap_or(DEFAULT_HOST);
        let engine = open(host).await?;
        let about = call(engine.info()).await.map_err(|error| unreachable(host, &error))?;
        let n_cpus = about.ncpu.map_or(f64::MAX, |n| n.max(1) as f64);
        Ok(Self {
            engine,
            host: host.to_owned(),
            default_image,
            installation: installation.to_owned(),
            n_cpus,
            belongings: belongings().map_err(Failure::internal)?,
        })
    }

    // --- images ---

    /// The id of an image, or `None` when the engine does not have it.
    async fn image_id(&self, image: &str) -> Result<Option<String>, Failure> {
        match call(self.engine.inspect_image(image)).await {
            Ok(inspected) => {
                let digests = inspected.repo_digests.unwrap_or_default();
                let digest =
                    digests.iter().find_map(|digest| digest.split_once('@').map(|(_, digest)| digest.to_owned()));
                Ok(digest.or(inspected.id))
            }
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(self.failure(&error, format!("The Docker engine cannot look at the image {image}"))),
        }
    }

    /// Brings the image if it is not there, and returns how the evidence names it: `name@sha256:…`.
    ///
    /// # Errors
    /// [`Code::ImageMissing`] when it cannot be pulled.
    pub async fn bring_image(&self, image: &str) -> Result<String, Failure> {
        let id = match self.image_id(image).await? {
            Some(id) => id,
            None => {
                self.pull(image).await?;
                self.image_id(image).await?.ok_or_else(|| missing(image, "it was pulled, and is not there"))?
            }
        };
        Ok(if image.contains('@') { image.to_owned() } else { format!("{image}@{id}") })
    }

    async fn pull(&self, image: &str) -> Result<(), Failure> {
        // Without a tag the engine would pull all of them.
        let name = image.rsplit('/').next().unwrap_or(image);
        let image = if name.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") };
        tracing::info!(image, "pulling an image");
        let began = Instant::now();
        let options = CreateImageOptionsBuilder::new().from_image(&image).build();
        let pulled = follow(PULL_TIMEOUT, self.engine.create_image(Some(options), None, None), |step| {
            tracing::debug!(image, layer = step.id, status = step.status, "pulling");
            step.error_detail.and_then(|error| error.message)
        });
        pulled.await.map_err(|error| missing(&image, &error))?;
        tracing::info!(image, elapsed_ms = began.elapsed().as_millis() as u64, "pulled an image");
        Ok(())
    }

    // --- containers ---

    async fn create(&self, spec: &SandboxSpec, image: &str) -> Result<(), Failure> {
        let options = CreateContainerOptionsBuilder::new().name(&spec.name).build();
        call(self.engine.create_container(Some(options), self.container(spec, image)))
            .await
            .map(drop)
            .map_err(|error| self.failure(&error, "The Docker engine cannot create a sandbox"))
    }

    /// Puts in what the box needs, attaches, starts: in this order, so that not a byte of the guest is missed.
    async fn start_created(&self, spec: &SandboxSpec) -> Result<Attached, Failure> {
        let upload = UploadToContainerOptionsBuilder::new().path("/").build();
        let attach =
            AttachContainerOptionsBuilder::new().stdin(true).stdout(true).stderr(true).stream(true).logs(false).build();
        let (uploaded, attached) = tokio::join!(
            call(self.engine.upload_to_container(
                &spec.name,
                Some(upload),
                bollard::body_full(self.belongings.clone())
            )),
            call(self.engine.attach_container(&spec.name, Some(attach))),
        );
        uploaded.map_err(|error| self.failure(&error, "The Docker engine cannot put the guest into a sandbox"))?;
        let attached =
            attached.map_err(|error| self.failure(&error, "The Docker engine cannot attach to a sandbox"))?;
        call(self.engine.start_container(&spec.name, None::<StartContainerOptions>))
            .await
            .map_err(|error| self.failure(&error, "The Docker engine cannot start a sandbox"))?;
        Ok(Attached::new(attached, &spec.name))
    }

    /// The container of a sandbox: nothing of the host, no network, no privilege, bounded in what can be bounded here.
    fn container(&self, spec: &SandboxSpec, image: &str) -> ContainerCreateBody {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        ContainerCreateBody {
            image: Some(image.to_owned()),
            hostname: Some("sandbox".into()),
            user: Some(format!("{UID}:{UID}")),
            // The image's own environment names its tools; nothing of ours is added to it.
            entrypoint: Some(vec![GUEST_PATH.into(), "--image-environment".into()]),
            cmd: Some(Vec::new()),
            working_dir: Some("/".into()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            // When our end is gone the guest reads its end, and ends the sandbox.
            stdin_once: Some(true),
            tty: Some(false),
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
            labels: Some(HashMap::from([
                label(LABEL_INSTALLATION, &self.installation),
                label(LABEL_TASK, &spec.task.to_string()),
                label(LABEL_NAME, &spec.name),
            ])),
            host_config: Some(self.host_config(spec)),
            ..ContainerCreateBody::default()
        }
    }

    fn host_config(&self, spec: &SandboxSpec) -> HostConfig {
        let limits = &spec.limits;
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let memory = Some(signed(limits.memory_bytes));
        let ulimit = |name: &str, n: i64| ResourcesUlimits { name: Some(name.into()), soft: Some(n), hard: Some(n) };
        // A tmpfs takes the mode of the image's directory unless told otherwise, and counts as memory.
        let tmpfs = |path: &str, size: u64, exec: &str| {
            (path.to_owned(), format!("rw,nosuid,nodev,{exec},mode=1777,size={}", size.max(1 << 20)))
        };
        HostConfig {
            network_mode: Some("none".into()),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            pids_limit: Some(signed(limits.pids)),
            memory,
            memory_swap: memory,
            nano_cpus: Some((limits.cpus.clamp(0.01, self.n_cpus) * 1e9) as i64),
            ulimits: Some(vec![
                ulimit("nofile", MAX_OPEN_FILES),
                ulimit("core", 0),
                ulimit("fsize", signed(limits.disk_bytes)),
            ]),
            tmpfs: Some(HashMap::from([
                tmpfs("/tmp", (limits.memory_bytes / 2).min(limits.disk_bytes), "exec"),
                tmpfs("/run", limits.memory_bytes / 16, "noexec"),
                tmpfs("/dev/shm", limits.memory_bytes / 4, "noexec"),
            ])),
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            auto_remove: Some(false),
            ipc_mode: Some("private".into()),
            ..HostConfig::default()
        }
    }

    async fn remove(&self, name: &str) -> Result<(), Failure> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match call(self.engine.remove_container(name, Some(options))).await {
            Ok(()) => Ok(()),
            // Gone, or going.
            Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(()),
            Err(error) => Err(self.failure(&error, format!("The Docker engine cannot remove the sandbox {name}"))),
        }
    }

    fn failure(&self, error: &Trouble, what: impl Into<String>) -> Failure {
        if error.is_connection() {
            return unreachable(&self.host, error);
        }
        Failure::new(Code::SandboxStart, what).detail(error.to_string())
    }
}

#[async_trait]
impl SandboxBackend for DockerBackend {
    async fn build_image(&self, context: Bytes, dockerfile: &str, tag: &str) -> Result<String, Failure> {
        let options = BuildImageOptionsBuilder::new().dockerfile(dockerfile).t(tag).rm(true).forcerm(true).build();
        let body = bollard::body_full(context);
        let mut said = Vec::new();
        let built = follow(BUILD_TIMEOUT, self.engine.build_image(options, None, Some(body)), |step| {
            said.extend(step.stream.into_iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()));
            said.drain(..said.len().saturating_sub(60));
            step.error_detail.and_then(|error| error.message)
        });
        if let Err(error) = built.await {
            said.push(error);
            return Err(Failure::new(Code::ImageMissing, format!("The image of {dockerfile} cannot be built"))
                .next("Mend the Dockerfile named under [environment] in `.onramp.toml`; the end of the build stands above.")
                .detail(said.join("\n")));
        }
        Ok(self.image_id(tag).await?.unwrap_or_else(|| tag.to_owned()))
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        let image = spec.image.as_deref().or(self.default_image.as_deref()).ok_or_else(|| {
            Failure::new(Code::ImageMissing, "No image is named for the sandbox").next(
                "Name one under [environment] image in `.onramp.toml`, or under [sandbox] image in the configuration.",
            )
        })?;
        let environment = self.bring_image(image).await?;
        self.create(spec, image).await?;
        match self.start_created(spec).await {
            Ok(attached) => Ok(Started { stream: Box::new(attached), kind: "docker", environment }),
            Err(failure) => {
                if let Err(error) = self.remove(&spec.name).await {
                    tracing::warn!(sandbox.name = spec.name, %error, "a sandbox that did not start was not removed");
                }
                Err(failure.into())
            }
        }
    }

    async fn stop(&self, name: &str) -> Result<(), SandboxError> {
        Ok(self.remove(name).await?)
    }

    async fn sweep(&self, keep: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<usize, SandboxError> {
        let filters = HashMap::from([("label", vec![format!("{LABEL_INSTALLATION}={}", self.installation)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = call(self.engine.list_containers(Some(options)))
            .await
            .map_err(|error| self.failure(&error, "The Docker engine cannot list the sandboxes"))?;
        let mut n_removed = 0;
        for container in containers {
            let name = container.labels.unwrap_or_default().remove(LABEL_NAME).unwrap_or_default();
            let Some(id) = container.id.filter(|_| !keep(&name)) else { continue };
            self.remove(&id).await?;
            n_removed += 1;
        }
        Ok(n_removed)
    }
}

/// Reads the steps of a long call to its end. The error is the engine's own text.
async fn follow<T>(
    limit: Duration,
    steps: impl Stream<Item = Result<T, Error>>,
    mut error_in: impl FnMut(T) -> Option<String>,
) -> Result<(), String> {
    let all = async {
        let mut steps = std::pin::pin!(steps);
        while let Some(step) = steps.next().await {
            if let Some(error) = error_in(step.map_err(|error| error.to_string())?) {
                return Err(error);
            }
        }
        Ok(())
    };
    timeout(limit, all).await.unwrap_or_else(|_| Err(format!("not done after {} minutes", limit.as_secs() / 60)))
}

fn missing(image: &str, error: &str) -> Failure {
    let message = format!("The image {image} is not on the Docker engine and cannot be pulled");
    Failure::new(Code::ImageMissing, message).detail(error)
}

/// The guest, and the directories that it and the commands need, as one archive.
fn belongings() -> std::io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, owner: u64, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path.trim_start_matches('/'), content)
    };
    add("/.onramp/", tar::EntryType::Directory, 0, b"")?;
    add(GUEST_PATH, tar::EntryType::Regular, 0, GUEST)?;
    add("/home/", tar::EntryType::Directory, 0, b"")?;
    add(HOME, tar::EntryType::Directory, UID, b"")?;
    add(WORKSPACE, tar::EntryType::Directory, UID, b"")?;
    Ok(archive.into_inner()?.into())
}
