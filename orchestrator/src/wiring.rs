//! From configuration to parts: which forge, which sandbox and why, which agents, and what attempts share.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use tasks::{Code, Failure, Limit, Priority, RepoName, TaskRequest};
use workers::{
    agent::Agents,
    base::{Bases, BasesOptions},
    bundle::Signer,
    egress::{
        EgressPolicy, Fallback, Key, ModelProviders, Path as ModelPath, Patience, Prices, Provider, Registry,
        SetupSecret,
    },
    forge::{
        Forge,
        github::{Credentials, GitHubConfig, GitHubForge},
    },
    gpu::{GpuHost, GpuOptions, Gpus},
    publish::{CommitSigner, Identity},
    run::Hands,
    sandbox::{
        HostTools, SandboxBackend,
        auto::AutoBackend,
        docker::{self, DockerBackend},
        isolation::Isolation,
        namespace::NamespaceBackend,
        owner::Owner,
        pool::{PoolOptions, Sandboxes},
    },
};

use crate::{
    config::{BackendChoice, Config, Surroundings},
    front::FrontOptions,
    now,
    queue::{Clock, PullLimits, Queue, QueueOptions},
    slack,
};

/// The forge that the configuration names.
///
/// # Errors
/// E008 when there are no credentials, E006 when they cannot be used.
pub fn github(config: &Config) -> Result<Arc<dyn Forge>, Failure> {
    Ok(Arc::new(github_forge(config)?))
}

/// GitHub as itself, for what no other forge can be asked.
///
/// # Errors
/// As [`github`].
pub fn github_forge(config: &Config) -> Result<GitHubForge, Failure> {
    let github = &config.github;
    let credentials = match github.app_id {
        0 => Credentials::Token(github.token.require("github.token")?),
        id => Credentials::App { id, key: github.app_key.require("github.app_key")? },
    };
    let git_url = Some(github.git_url.clone()).filter(|url| !url.is_empty());
    GitHubForge::new(GitHubConfig {
        api_url: github.api_url.clone(),
        git_url,
        credentials,
        write_pause: github.write_pause.0,
    })
}

/// Slack, where there is a token for it.
///
/// # Errors
/// E006 when a repository is named that cannot be one; E008 when nothing of Slack could arrive.
pub fn slack(
    config: &Config,
    queue: &Arc<Queue>,
    forge: &Arc<dyn Forge>,
    clock: &Clock,
) -> Result<Option<Arc<slack::Slack>>, Failure> {
    let options = &config.slack;
    let Some(bot) = options.bot_token.value() else { return Ok(None) };
    if options.app_token.value().is_none() && options.signing_secrets.iter().all(|secret| secret.value().is_none()) {
        options.app_token.require("slack.app_token (or slack.signing_secrets)")?;
    }
    let client = slack::Client::new(&options.api_url, bot.clone(), clock.clone())?;
    let public_url = Some(config.server.public_url.trim_end_matches('/').to_owned()).filter(|url| !url.is_empty());
    let options = slack::Options { routes: slack_routes(config)?, people: options.people.clone(), public_url };
    Ok(Some(Arc::new(slack::Slack::new(queue.clone(), forge.clone(), Arc::new(client), options, clock.clone()))))
}

/// Which repository is meant in Slack.
///
/// # Errors
/// E006 when the default is no repository's name.
pub fn slack_routes(config: &Config) -> Result<slack::Routes, Failure> {
    let default = match config.slack.default_repository.as_str() {
        "" => None,
        name => Some(name.parse().map_err(|error| {
            Failure::new(Code::BadConfig, format!("slack.default_repository cannot be used: {error}"))
        })?),
    };
    let known = config.github.repositories.iter().filter_map(|name| name.parse().ok()).collect();
    Ok(slack::Routes { words: config.slack.words.clone(), channels: config.slack.channels.clone(), default, known })
}

/// How the queue behaves.
pub fn queue_options(config: &Config, clock: Clock) -> QueueOptions {
    let queue = config.queue.clone();
    let (parallel_per_repository, queued_per_actor) = (queue.parallel_per_repository, queue.queued_per_actor);
    let keep_segments = queue.keep_segments;
    let priority = Arc::new(move |request: &TaskRequest| {
        let among = |patterns: &[String]| patterns.iter().any(|pattern| fits(pattern, request));
        match (among(&queue.high_priority), among(&queue.low_priority)) {
            (true, _) => Priority::High,
            (false, true) => Priority::Low,
            (false, false) => Priority::Normal,
        }
    });
    let pulls = PullLimits {
        open: config.pulls.max_open,
        per_hour: config.pulls.max_per_hour,
        unnoticed: config.pulls.max_unnoticed,
    };
    let budgets = Arc::new(config.budget.budgets());
    let options = QueueOptions::new(clock);
    QueueOptions { budgets, pulls, priority, parallel_per_repository, queued_per_actor, keep_segments, ..options }
}

/// What surfaces need to know of the configuration.
pub fn front_options(config: &Config) -> FrontOptions {
    FrontOptions {
        repositories: config.github.repositories.clone(),
        parallel_per_repository: config.queue.parallel_per_repository,
        requests_per_minute: config.api.requests_per_minute,
    }
}

/// Whether `owner/name`, `owner/*` or `@login` means this request. Forges do not tell upper from lower case.
fn fits(pattern: &str, request: &TaskRequest) -> bool {
    if let Some(login) = pattern.strip_prefix('@') {
        return login.eq_ignore_ascii_case(&request.actor.login);
    }
    let repo: &RepoName = &request.repo;
    match pattern.strip_suffix("/*") {
        Some(owner) => repo.as_str().split('/').next().is_some_and(|found| found.eq_ignore_ascii_case(owner)),
        None => repo.as_str().eq_ignore_ascii_case(pattern),
    }
}

/// What attempts share, and which sandbox is used and why: one line, and below it what limits it where that differs.
///
/// # Errors
/// E010 to E013 when no sandbox can be used, E006 and E020 when the agents cannot.
pub async fn hands(
    config: &Config,
    surroundings: &Surroundings,
    forge: Arc<dyn Forge>,
    agents: Option<Agents>,
) -> Result<(Arc<Hands>, String), Failure> {
    let data = config.data_dir()?;
    let (sandboxes, why) = sandboxes(config, surroundings).await?;
    let mirrors = data.join("mirrors");
    let egress = Arc::new(egress(config, &data)?);
    let bases = Bases::new(data.join("bases"), bases(config), sandboxes.clone(), forge.clone(), mirrors.clone(), now)
        .under(egress.clone());
    let agents = match agents {
        Some(agents) => agents,
        None => Agents::load(Some(config.agent.dir.clone()).filter(|dir| !dir.as_os_str().is_empty()))?,
    };
    let hands = Hands {
        sandboxes,
        bases: Arc::new(bases),
        forge,
        agents,
        default_agent: config.agent.default.clone(),
        models: Arc::new(models(config)?),
        egress,
        gpus: gpus(config, surroundings).await,
        prices: config.budget.prices.of_machines(),
        mirrors,
        artifacts: data.join("artifacts"),
        operator: config.operator()?,
        signer: Arc::new(Signer::open(config.evidence.key.value(), &data)?),
        identity: identity(config)?,
        clock: now,
    };
    Ok((Arc::new(hands), why))
}

/// Where models are, what they cost, and who is asked when one is out.
///
/// # Errors
/// E006 for a path, a fallback or a price that cannot be meant.
pub fn models(config: &Config) -> Result<ModelProviders, Failure> {
    let mut providers = std::collections::BTreeMap::new();
    for (name, model) in &config.models {
        let mut provider = Provider::new(name, model.base_url.clone(), model.key.key());
        if let Some(speaks) = model.speaks {
            provider = provider.speaking(speaks);
        }
        if !model.paths.is_empty() {
            provider.paths = model.paths.iter().map(|path| ModelPath::parse(path)).collect::<Result<_, _>>()?;
        }
        provider.fallback = model.fallback.iter().map(|fallback| Fallback::parse(fallback)).collect();
        providers.insert(name.clone(), provider);
    }
    let file = &config.egress.prices;
    let prices = match file.as_os_str().is_empty() {
        true => Prices::default(),
        false => {
            let shown = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::new(Code::BadConfig, format!("The prices in {shown} cannot be read: {error}"))
                    .next("Check `prices` under [egress].")
            })?;
            Prices::with(&shown, &text)?
        }
    };
    let models = ModelProviders { providers, prices, patience: Patience::default() };
    models.check()?;
    Ok(models)
}

/// What may be reached outside.
///
/// # Errors
/// E006 for an entry that cannot be meant, E008 for a secret that is unset.
pub fn egress(config: &Config, data: &Path) -> Result<EgressPolicy, Failure> {
    let egress = &config.egress;
    let mut registries = Vec::new();
    for registry in &egress.registries {
        let value: Option<Key> = registry.value.key();
        let value = match value {
            Some(value) => value,
            None => Key::fixed(registry.value.require("egress.registries value")?),
        };
        registries.push(Registry {
            host: registry.host.clone(),
            url: registry.url.clone(),
            header: registry.header.clone(),
            value,
            repositories: registry.repositories.clone(),
        });
    }
    let mut setup_secrets = Vec::new();
    for secret in &egress.setup_secrets {
        let value = secret.value.require("egress.setup_secrets value")?;
        setup_secrets.push(SetupSecret { name: secret.name.clone(), value, repositories: secret.repositories.clone() });
    }
    let any = egress.may_allow.iter().any(|host| host == "*");
    let policy = EgressPolicy {
        airgap: egress.airgap,
        may_allow: if any { None } else { Some(workers::egress::presets::expand(&egress.may_allow)?) },
        blocked: egress.blocked.clone(),
        hold: egress.hold_new_vendors.then(|| config.vendors(data)),
        registries,
        setup_secrets,
    };
    policy.check()?;
    Ok(policy)
}

/// Who commits, and with which key.
fn identity(config: &Config) -> Result<Identity, Failure> {
    let commit = &config.commit;
    let signer = commit.signing_key.value().map(CommitSigner::new).transpose()?;
    Ok(Identity { name: commit.name.clone(), email: commit.email.clone(), signer, via: commit.via })
}

/// All sandboxes of this process, and which kind and why. This process is from now on an owner of sandboxes: what an
/// earlier one left may be swept away.
///
/// # Errors
/// E010 to E013 and E019 when no sandbox can be used.
pub async fn sandboxes(config: &Config, surroundings: &Surroundings) -> Result<(Arc<Sandboxes>, String), Failure> {
    let data = config.data_dir()?;
    let owner = Owner::new(&data.join("owners")).map_err(|error| unusable(&data, &error))?;
    let (backend, why) = backend(config, surroundings, &data, &Arc::new(owner)).await?;
    let crate::config::Pool { max_warm, min_warm, idle_timeout } = &config.pool;
    let options = PoolOptions { max_warm: *max_warm, min_warm: *min_warm, idle: idle_timeout.0 };
    Ok((Sandboxes::new(backend, options), why))
}

/// How bases are kept.
pub fn bases(config: &Config) -> BasesOptions {
    let bases = &config.bases;
    BasesOptions {
        enabled: bases.enabled,
        refresh_interval: bases.refresh_interval.0,
        max_age: bases.max_age.0,
        max_count: bases.max_count,
        max_bytes: bases.disk.0,
    }
}

fn unusable(data: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::StoreUnavailable, format!("The data directory {} cannot be written: {error}", data.display()))
}

/// What may be lent of this machine's GPUs.
async fn gpus(config: &Config, surroundings: &Surroundings) -> Gpus {
    let gpu = &config.gpu;
    if !gpu.enabled {
        return Gpus::none();
    }
    let options = GpuOptions {
        only: gpu.devices.clone(),
        wait_timeout: gpu.wait_timeout.0,
        lock_dir: Some(gpu.lock_dir.clone()).filter(|dir| !dir.as_os_str().is_empty()),
    };
    Gpus::find(GpuHost::find(&surroundings.path), options).await
}

/// Chooses the kind of sandbox.
async fn backend(
    config: &Config,
    surroundings: &Surroundings,
    data: &Path,
    owner: &Arc<Owner>,
) -> Result<(Arc<dyn SandboxBackend>, String), Failure> {
    match config.sandbox.backend {
        BackendChoice::Docker => {
            let (backend, engine) = connect_docker(config, surroundings, data, owner).await?;
            Ok((backend, format!("sandbox: Docker, as asked for ({engine})")))
        }
        BackendChoice::Namespace => {
            let (backend, enforced) = namespace(config, surroundings, data).await?;
            Ok((backend, format!("sandbox: kernel namespaces with this machine's tools, as asked for\n{enforced}")))
        }
        BackendChoice::Auto => auto(config, surroundings, data, owner).await,
    }
}

/// The engine for who names an image, the machine's own tools for who names none; what there is of the two.
async fn auto(
    config: &Config,
    surroundings: &Surroundings,
    data: &Path,
    owner: &Arc<Owner>,
) -> Result<(Arc<dyn SandboxBackend>, String), Failure> {
    let docker = connect_docker(config, surroundings, data, owner).await;
    if config.sandbox.minimum_isolation > Isolation::Namespace || !config.sandbox.runtime.is_empty() {
        // Who demands a stronger wall gets that one or none.
        return docker.map(|(engine, about)| {
            (engine, format!("sandbox: Docker, because the configuration demands its isolation ({about})"))
        });
    }
    if !config.sandbox.default_image.is_empty()
        && let Ok((engine, about)) = docker
    {
        return Ok((engine, format!("sandbox: Docker, because an engine answers ({about})")));
    }
    match (docker, namespace(config, surroundings, data).await) {
        (Ok((engine, about)), Ok((namespace, enforced))) => {
            let why = format!(
                "sandbox: Docker ({about}) for a repository that names an image, else kernel namespaces with this \
                 machine's tools\n{enforced}"
            );
            Ok((Arc::new(AutoBackend { engine, namespace }), why))
        }
        (Ok((engine, about)), Err(_)) => {
            Ok((engine, format!("sandbox: Docker, because kernel namespaces cannot be used here ({about})")))
        }
        (Err(_), Ok((namespace, enforced))) => {
            let why = "sandbox: kernel namespaces with this machine's tools, because no Docker engine answers";
            Ok((namespace, format!("{why}\n{enforced}")))
        }
        (Err(no_docker), Err(no_namespace)) => {
            let detail = format!("Docker: {}\nnamespaces: {}", no_docker.message, no_namespace.message);
            let message = "Neither a Docker engine nor the kernel's namespaces can be used here";
            Err(Failure::new(Code::NoSandbox, message).next(no_namespace.next_step).detail(detail))
        }
    }
}

async fn connect_docker(
    config: &Config,
    surroundings: &Surroundings,
    data: &Path,
    owner: &Arc<Owner>,
) -> Result<(Arc<dyn SandboxBackend>, String), Failure> {
    let host = docker_host(config, surroundings);
    let default_image = Some(config.sandbox.default_image.clone()).filter(|image| !image.is_empty());
    let engine = docker::probe(host).await?;
    let backend = DockerBackend::connect(host, default_image, &installation(data)?).await?;
    let backend = backend.with_runtime(&config.sandbox.runtime)?.owned_by(owner.clone());
    config.sandbox.minimum_isolation.demand(backend.isolation())?;
    Ok((Arc::new(backend), format!("engine {}, {}", engine.version, engine.platform)))
}

/// Why a Docker engine cannot start sandboxes from `image`, if it cannot: none answers, or the image is not to be had.
pub async fn docker_lacks(config: &Config, surroundings: &Surroundings, image: &str) -> Option<Failure> {
    let backend = DockerBackend::connect(docker_host(config, surroundings), None, "probe").await;
    match backend {
        Ok(backend) => backend.bring_image(image).await.err(),
        Err(failure) => Some(failure),
    }
}

/// Where the engine is asked for, if not at the usual place.
pub fn docker_host<'a>(config: &'a Config, surroundings: &'a Surroundings) -> Option<&'a str> {
    let configured = Some(config.sandbox.docker_host.as_str()).filter(|host| !host.is_empty());
    configured.or(surroundings.docker_host.as_deref())
}

async fn namespace(
    config: &Config,
    surroundings: &Surroundings,
    data: &Path,
) -> Result<(Arc<dyn SandboxBackend>, String), Failure> {
    config.sandbox.minimum_isolation.demand(Isolation::Namespace)?;
    let mut tools = HostTools::detect(surroundings.home.as_deref(), &surroundings.path);
    tools.expose.extend(config.sandbox.expose.iter().cloned());
    let accepted = config.sandbox.accept_without.iter().filter_map(|limit| limit.word().parse::<Limit>().ok());
    let backend =
        NamespaceBackend::new(data.join("sandboxes"), tools, config.sandbox.accept_host_tools).accept_without(accepted);
    let enforced = backend.probe().await?.replace(". ", ".\n");
    Ok((Arc::new(backend), enforced))
}

/// Names this installation on an engine that others may use too. It is made once and goes with the data directory.
fn installation(data: &Path) -> Result<String, Failure> {
    let path = data.join("installation");
    let read = || std::fs::read_to_string(&path).map(|name| name.trim().to_owned());
    let made = || {
        let mut file = tempfile::NamedTempFile::new_in(data)?;
        file.write_all(&uuid::Uuid::now_v7().simple().to_string().as_bytes()[20..])?;
        // Another process may be faster: then its name counts.
        match file.persist_noclobber(&path) {
            Err(error) if error.error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.error),
            _ => read(),
        }
    };
    let name = read().or_else(|_| made()).map_err(|error| unusable(data, &error))?;
    let is_name = (1..=40).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_name.then_some(name).ok_or_else(|| unusable(data, &std::io::Error::other("its file `installation` is damaged")))
}

/// A short name for a directory, the same every time.
pub fn path_key(path: &Path) -> String {
    let absolute: PathBuf = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    hex::encode(&Sha256::digest(absolute.as_os_str().as_encoded_bytes())[..6])
}
