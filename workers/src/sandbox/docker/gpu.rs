//! GPUs in requests to the engine: always by the name of the device, never by a number of devices, because to an engine
//! "one GPU" is the first one, for everybody who asks.

use std::collections::HashSet;

use bollard::models::{ContainerCreateBody, DeviceRequest, SystemInfo};
use tasks::{Code, Failure};

use super::{DockerBackend, engine::call};
use crate::{
    gpu::{EngineGpus, Gpu, Way},
    sandbox::SandboxSpec,
};

/// The kind of device in descriptions.
const KIND: &str = "nvidia.com/gpu";
/// What programs inside may use of the driver: computing and looking, no display.
const CAPABILITIES: &str = "compute,utility";
/// Variables of an image by which the toolkit would show more than what was lent, or load code of the image's choice
/// outside of it. The engine takes ours instead of the image's.
const EMPTIED: &[&str] = &[
    "LD_AUDIT",
    "LD_PRELOAD",
    "NVIDIA_GDRCOPY",
    "NVIDIA_GDS",
    "NVIDIA_IMEX_CHANNELS",
    "NVIDIA_MIG_CONFIG_DEVICES",
    "NVIDIA_MIG_MONITOR_DEVICES",
    "NVIDIA_MOFED",
    "NVIDIA_NVSWITCH",
];

impl DockerBackend {
    /// Adds runtime and devices to the request for a container. The engine is asked anew for each lent GPU: a toolkit may
    /// have been installed since, and devices be cut otherwise.
    pub(super) async fn equip(&self, container: &mut ContainerCreateBody, spec: &SandboxSpec) -> Result<(), Failure> {
        container.host_config.get_or_insert_default().runtime = self.runtime.clone();
        let engine = match spec.gpus.as_slice() {
            [] => EngineGpus::default(),
            _ => self.gpus_of_engine().await?,
        };
        lend(container, &spec.gpus, &engine)
    }

    pub(super) async fn gpus_of_engine(&self) -> Result<EngineGpus, Failure> {
        let about = call(self.engine.info()).await;
        let what = "The Docker engine does not say which GPUs it can show inside";
        about.map(|about| of_engine(&about)).map_err(|error| self.failure(&error, what))
    }
}

/// What an engine says about GPUs.
pub(super) fn of_engine(about: &SystemInfo) -> EngineGpus {
    let mut runtimes: Vec<String> = about.runtimes.iter().flat_map(|all| all.keys().cloned()).collect();
    runtimes.sort();
    let found = about.discovered_devices.iter().flatten();
    let devices = found.filter(|device| device.source.as_deref() == Some("cdi")).filter_map(|device| device.id.clone());
    EngineGpus { runtimes, devices: devices.collect(), spec_dirs: about.cdi_spec_dirs.clone().unwrap_or_default() }
}

/// How this engine gets a GPU into a container, if it can at all. Descriptions first: with them no hook of the toolkit
/// runs beside the container, which is where its escapes were.
pub(super) fn way(engine: &EngineGpus) -> Option<Way> {
    if engine.devices.iter().any(|id| id.starts_with(KIND)) {
        return Some(Way::Description);
    }
    engine.runtimes.iter().any(|name| name == "nvidia").then_some(Way::Runtime)
}

/// Adds what was lent to the request for a container, and takes away what an image asks for by itself.
///
/// # Errors
/// E017 when this engine cannot show a GPU inside.
pub(super) fn lend(container: &mut ContainerCreateBody, gpus: &[Gpu], engine: &EngineGpus) -> Result<(), Failure> {
    let mut env: Vec<String> = EMPTIED.iter().map(|name| format!("{name}=")).collect();
    if gpus.is_empty() {
        // Where the engine's usual runtime is the toolkit's, the image alone could ask for every GPU.
        container.env.get_or_insert_default().push("NVIDIA_VISIBLE_DEVICES=void".to_owned());
        return Ok(());
    }
    let ids: Vec<String> = gpus.iter().map(|gpu| gpu.id.clone()).collect();
    let host = container.host_config.get_or_insert_default();
    match way(engine) {
        Some(Way::Description) => {
            let listed: HashSet<&str> = engine.devices.iter().map(String::as_str).collect();
            let names: Vec<String> = ids.iter().map(|id| format!("{KIND}={id}")).collect();
            if let Some(missing) = names.iter().find(|name| !listed.contains(name.as_str())) {
                return Err(not_described(missing, engine));
            }
            // Count and options must be left out, or the engine refuses.
            host.device_requests = Some(vec![DeviceRequest {
                driver: Some("cdi".to_owned()),
                device_ids: Some(names),
                ..DeviceRequest::default()
            }]);
            // The hook of an older toolkit would otherwise add what the image asks for.
            env.push("NVIDIA_VISIBLE_DEVICES=void".to_owned());
        }
        // A stronger runtime that the operator named stays; the engine's own request for devices works with it.
        Some(Way::Runtime) if host.runtime.as_deref().is_some_and(|runtime| !runtime.is_empty()) => {
            host.device_requests = Some(vec![DeviceRequest {
                driver: Some("nvidia".to_owned()),
                device_ids: Some(ids),
                capabilities: Some(vec![vec!["gpu".to_owned(), "compute".to_owned(), "utility".to_owned()]]),
                ..DeviceRequest::default()
            }]);
        }
        Some(Way::Runtime) => {
            host.runtime = Some("nvidia".to_owned());
            env.push(format!("NVIDIA_VISIBLE_DEVICES={}", ids.join(",")));
            env.push(format!("NVIDIA_DRIVER_CAPABILITIES={CAPABILITIES}"));
        }
        None => return could_show(engine),
    }
    container.env.get_or_insert_default().extend(env);
    Ok(())
}

/// Whether this engine can show any GPU inside.
///
/// # Errors
/// E017 when it cannot.
pub(super) fn could_show(engine: &EngineGpus) -> Result<(), Failure> {
    way(engine).map(drop).ok_or_else(|| {
        Failure::new(Code::ResourceMissing, "The Docker engine cannot show a GPU inside a sandbox")
            .next("`onramp doctor` says what is missing: driver, toolkit, or a line in the engine's configuration.")
    })
}

/// Descriptions name devices by position too; only names that cannot move are used.
fn not_described(missing: &str, engine: &EngineGpus) -> Failure {
    let listed: Vec<&str> = engine.devices.iter().map(String::as_str).filter(|id| id.starts_with(KIND)).collect();
    Failure::new(Code::ResourceMissing, format!("The Docker engine has no description of {missing}"))
        .next(
            "Describe the devices by UUID: `nvidia-ctk cdi generate --device-name-strategy=uuid \
             --output=/etc/cdi/nvidia.yaml`, then restart the engine.",
        )
        .detail(format!("it has: {}", listed.join(", ")))
}

/// A part of the engine's words, what it means, and what to do.
const TROUBLES: &[(&str, &str, &str)] = &[
    (
        "could not select device driver \"nvidia\"",
        "The Docker engine has no device driver called nvidia",
        "Install nvidia-container-toolkit on the engine's machine, run `nvidia-ctk runtime configure --runtime=docker`, and restart the engine.",
    ),
    (
        "could not select device driver \"cdi\"",
        "The Docker engine does not read descriptions of devices (CDI)",
        "Switch them on (`\"features\": {\"cdi\": true}` in daemon.json, an engine from 25.0 on) and restart the engine.",
    ),
    (
        "could not select device driver",
        "The Docker engine knows no way to show a GPU inside a sandbox: neither the toolkit nor a description of the device",
        "Install nvidia-container-toolkit on the engine's machine, run `nvidia-ctk runtime configure --runtime=docker`, and restart the engine.",
    ),
    (
        "unknown or invalid runtime name",
        "The Docker engine does not list the runtime that was asked for",
        "Register it in daemon.json (for GPUs: `nvidia-ctk runtime configure --runtime=docker`) and restart the engine.",
    ),
    (
        "unknown runtime specified",
        "The Docker engine does not list the runtime that was asked for",
        "Register it in daemon.json (for GPUs: `nvidia-ctk runtime configure --runtime=docker`) and restart the engine.",
    ),
    (
        "unresolvable CDI devices",
        "The engine's description of the device is missing, stale, or names another one",
        "Write it anew: `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`; toolkits from 1.18 on do it by themselves at boot.",
    ),
    (
        "CDI registry initialization failure",
        "The engine cannot read its descriptions of devices (CDI)",
        "Look for a broken file in /etc/cdi and /var/run/cdi, and write it anew with `nvidia-ctk cdi generate`.",
    ),
    (
        "no CDI specification directories specified",
        "The engine looks nowhere for descriptions of devices (CDI)",
        "Name a directory under \"cdi-spec-dirs\" in daemon.json, such as /etc/cdi, and restart the engine.",
    ),
    (
        "cannot set both Count and DeviceIDs",
        "Onramp asked for a number of GPUs and for names at once",
        "Please report it with the lines above: this is a defect of Onramp.",
    ),
    (
        "unexpected count in CDI device request",
        "Onramp asked for a number of GPUs where only names can stand",
        "Please report it with the lines above: this is a defect of Onramp.",
    ),
    (
        "invoking the NVIDIA Container Runtime Hook directly",
        "The toolkit wants to be asked through descriptions (CDI) or its runtime, and was asked through the engine's hook",
        "Run `nvidia-ctk runtime configure --runtime=docker`, or switch CDI on in the engine, and restart it.",
    ),
    (
        "driver not loaded",
        "The NVIDIA driver is not loaded on the engine's machine",
        "Load or install it there; `nvidia-smi` must list the GPU.",
    ),
    (
        "libnvidia-ml.so.1",
        "The NVIDIA driver's libraries are not on the engine's machine",
        "Install the driver there; `nvidia-smi` must list the GPU.",
    ),
    (
        "unknown driver capability",
        "The container toolkit on the engine's machine is too old for what the image asks for",
        "Update nvidia-container-toolkit there: at least 1.17.8, older ones can be escaped from.",
    ),
    (
        "unknown device",
        "The toolkit does not know the device under its name",
        "Check the UUID with `nvidia-smi -L`; after a change of slices, restart the worker so that it looks again.",
    ),
];

/// The engine's words about GPUs as cause and next step, with the words themselves as detail.
pub fn explain(words: &str) -> Option<Failure> {
    let lower = words.to_lowercase();
    let (_, cause, next) = TROUBLES.iter().find(|(part, ..)| lower.contains(&part.to_lowercase()))?;
    Some(Failure::new(Code::ResourceMissing, *cause).next(*next).detail(words))
}

#[cfg(test)]
mod tests;
