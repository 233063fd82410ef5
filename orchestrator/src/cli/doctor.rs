//! `onramp doctor`: whether this machine can do what its configuration asks, and what to mend where it cannot.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tasks::{Code, Failure, Limit};
use workers::{
    doctor::{self, Demands, Finding, HostFacts, Verdict},
    gpu::{EngineGpus, GpuHost},
    sandbox::{HostTools, docker::EngineFacts, isolation::Isolation, namespace::NamespaceBackend},
};

use crate::{
    config::{BackendChoice, Config, Surroundings},
    wiring,
};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// What programs read.
#[derive(Serialize)]
struct Findings<'a> {
    findings: &'a [Finding],
    n_failed: usize,
}

/// The exit code is 0 when nothing failed, and otherwise that of an unfit environment.
pub(super) async fn doctor(
    args: DoctorArgs,
    config: Result<Config, Failure>,
    surroundings: &Surroundings,
) -> Result<u8, Failure> {
    let (config, mut findings) = match config {
        Ok(config) => (config, vec![Finding::ok("configuration", "it can be read")]),
        Err(failure) => {
            let says = format!("{}; the defaults are looked at instead", failure.message);
            (Config::default(), vec![Finding::fail("configuration", says, failure.next_step)])
        }
    };
    findings.push(model_keys(&config));
    let engine = EngineFacts::ask(wiring::docker_host(&config, surroundings)).await;
    let backend = config.sandbox.backend;
    findings.extend(doctor::judge_engine(
        &engine,
        Demands {
            engine_is_used: backend != BackendChoice::Namespace,
            engine_is_needed: backend == BackendChoice::Docker,
            runtime: &config.sandbox.runtime,
            minimum: config.sandbox.minimum_isolation,
        },
    ));
    findings.extend(doctor::judge_host(&host(&config, surroundings, engine.as_ref().ok()).await?));
    findings.push(gpus(&config, surroundings, engine.as_ref().ok().map(|facts| &facts.gpus)).await);

    let n_failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count();
    if args.json {
        let findings = Findings { findings: &findings, n_failed };
        println!("{}", serde_json::to_string_pretty(&findings).map_err(Failure::internal)?);
    } else {
        print!("{}", doctor::report(&findings));
    }
    Ok(if n_failed == 0 { 0 } else { Code::NoSandbox.exit_code() })
}

fn model_keys(config: &Config) -> Finding {
    let set: Vec<&str> =
        config.models.iter().filter(|(_, model)| model.key.value().is_some()).map(|(name, _)| name.as_str()).collect();
    if set.is_empty() {
        return Finding::warn(
            "models",
            "no key for any model is set, so only models that need none can be reached",
            "set one of the keys under [models] in the configuration, such as the environment variable ANTHROPIC_API_KEY.",
        );
    }
    Finding::ok("models", format!("keys are set for {}", set.join(", ")))
}

async fn host(
    config: &Config,
    surroundings: &Surroundings,
    engine: Option<&EngineFacts>,
) -> Result<HostFacts, Failure> {
    let data = config.data_dir()?;
    let mut free: Vec<(&'static str, PathBuf, Option<u64>)> = vec![("disk", data.clone(), HostFacts::free_at(&data))];
    if let Some(facts) = engine.filter(|facts| facts.is_local && !facts.root_dir.is_empty()) {
        let root = PathBuf::from(&facts.root_dir);
        let bytes = HostFacts::free_at(&root);
        free.push(("engine-disk", root, bytes));
    }
    let backend = config.sandbox.backend;
    let is_enough = config.sandbox.minimum_isolation == Isolation::Namespace;
    let namespaces = match backend {
        BackendChoice::Docker => Ok("not used: [sandbox] backend is docker".to_owned()),
        BackendChoice::Auto if !is_enough => Ok("not used: minimum_isolation demands more".to_owned()),
        BackendChoice::Auto | BackendChoice::Namespace => {
            // Somewhere of its own: a doctor leaves nothing behind, and may run beside a worker.
            let place = tempfile::tempdir().map_err(Failure::internal)?;
            let tools = HostTools::detect(surroundings.home.as_deref(), &surroundings.path);
            let accepted = config.sandbox.accept_without.iter().filter_map(|limit| limit.word().parse::<Limit>().ok());
            NamespaceBackend::new(place.path().join("sandboxes"), tools, true).accept_without(accepted).probe().await
        }
    };
    let namespaces_are_needed =
        backend == BackendChoice::Namespace || (backend == BackendChoice::Auto && engine.is_none());
    Ok(HostFacts { namespaces, namespaces_are_needed, free })
}

async fn gpus(config: &Config, surroundings: &Surroundings, engine: Option<&EngineGpus>) -> Finding {
    if !config.gpu.enabled {
        return Finding::ok("gpu", "none is lent: [gpu] enabled is false");
    }
    let host = GpuHost::find(&surroundings.path);
    let mut devices = host.devices().await;
    devices.retain(|gpu| config.gpu.devices.is_empty() || config.gpu.devices.contains(&gpu.id));
    let engine = engine.filter(|_| config.sandbox.backend != BackendChoice::Namespace);
    doctor::judge_gpu(host.facts(), host.toolkit_version().await.as_deref(), &devices, engine)
}
