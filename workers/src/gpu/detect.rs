//! Why a sandbox can or cannot be given a GPU here. The three ways in which it cannot are told apart, because each needs
//! another hand: a driver, a toolkit, a line in the engine's configuration.

use super::Gpu;

/// What is installed on the machine of the worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ToolkitFacts {
    /// A driver is loaded or its tool is there.
    pub driver: bool,
    /// The container toolkit is installed.
    pub toolkit: bool,
    /// There is a description of the devices that an engine could read.
    pub cdi_spec: bool,
}

/// What an engine says about GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineGpus {
    /// The runtimes that it lists.
    pub runtimes: Vec<String>,
    /// Devices that it found descriptions of: `nvidia.com/gpu=GPU-…`.
    pub devices: Vec<String>,
    /// Where it looks for descriptions; empty: nowhere.
    pub spec_dirs: Vec<String>,
}

/// How a GPU gets into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the device's own description (CDI): the engine does it itself, no hook of the toolkit runs.
    Description,
    /// By the toolkit's runtime, which is told what to show in the environment.
    Runtime,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuCase {
    /// This machine has no GPU that can be lent, and no driver.
    NoDriver,
    /// There is a driver and it lists no device.
    NoDevice,
    /// The driver is there, and no toolkit that could show a GPU inside a container.
    NoToolkit,
    /// Driver and toolkit are there, and the engine knows nothing of them.
    NotConfigured,
    /// It works.
    Ready(Way),
}

/// Which case this is for an engine on this machine.
pub fn judge(host: ToolkitFacts, devices: &[Gpu], engine: &EngineGpus) -> GpuCase {
    // An engine that lists them is believed: it may be on another machine.
    if engine.devices.iter().any(|id| id.starts_with("nvidia.com/gpu=")) {
        return GpuCase::Ready(Way::Description);
    }
    if !host.driver {
        return GpuCase::NoDriver;
    }
    if devices.is_empty() {
        return GpuCase::NoDevice;
    }
    if engine.runtimes.iter().any(|name| name == "nvidia") {
        return GpuCase::Ready(Way::Runtime);
    }
    if host.toolkit || host.cdi_spec { GpuCase::NotConfigured } else { GpuCase::NoToolkit }
}

impl GpuCase {
    /// What is the case and what to do about it, where something can be done.
    pub fn words(&self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::NoDriver => (
                "no NVIDIA driver is loaded on this machine",
                Some("if it has a GPU: install the driver and reboot; `nvidia-smi` must list the GPU"),
            ),
            Self::NoDevice => (
                "the NVIDIA driver is there and lists no GPU that can be lent",
                Some(
                    "run `nvidia-smi`: a GPU that fell off the bus, is cut into slices with none made, or is set to \
                      compute mode Prohibited is not listed",
                ),
            ),
            Self::NoToolkit => (
                "the NVIDIA driver is there, and the container toolkit is not installed",
                Some(
                    "install nvidia-container-toolkit, then `nvidia-ctk runtime configure --runtime=docker` and restart \
                      the engine; without an engine the namespace sandbox lends GPUs by itself",
                ),
            ),
            Self::NotConfigured => (
                "driver and toolkit are there, and the engine does not know of them",
                Some(
                    "`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` with an engine from 28.2 on, else \
                      `nvidia-ctk runtime configure --runtime=docker`; then restart the engine",
                ),
            ),
            Self::Ready(Way::Description) => ("GPUs are lent through their own descriptions (CDI)", None),
            Self::Ready(Way::Runtime) => ("GPUs are lent through the nvidia runtime", None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::inventory::{devices, tests::WHOLE};

    #[test]
    fn each_of_the_ways_in_which_it_cannot_work_is_a_case_of_its_own() {
        let gpus = devices(WHOLE, "", &[]);
        let engine = |runtimes: &[&str], devices: &[&str]| EngineGpus {
            runtimes: runtimes.iter().map(|name| (*name).to_owned()).collect(),
            devices: devices.iter().map(|name| (*name).to_owned()).collect(),
            spec_dirs: Vec::new(),
        };
        let plain = engine(&["runc", "io.containerd.runc.v2"], &[]);
        let (nothing, driver) = (ToolkitFacts::default(), ToolkitFacts { driver: true, ..ToolkitFacts::default() });
        let toolkit = ToolkitFacts { toolkit: true, ..driver };
        assert_eq!(judge(nothing, &[], &plain), GpuCase::NoDriver);
        assert_eq!(judge(driver, &[], &plain), GpuCase::NoDevice);
        assert_eq!(judge(driver, &gpus, &plain), GpuCase::NoToolkit);
        assert_eq!(judge(toolkit, &gpus, &plain), GpuCase::NotConfigured);
        assert_eq!(judge(ToolkitFacts { cdi_spec: true, ..driver }, &gpus, &plain), GpuCase::NotConfigured);
        let runtime = engine(&["runc", "nvidia"], &[]);
        assert_eq!(judge(toolkit, &gpus, &runtime), GpuCase::Ready(Way::Runtime));
        let both = engine(&["nvidia"], &["nvidia.com/gpu=GPU-1"]);
        assert_eq!(judge(toolkit, &gpus, &both), GpuCase::Ready(Way::Description), "descriptions are preferred");
        let other = engine(&["runc"], &["amd.com/gpu=0"]);
        assert_eq!(judge(driver, &gpus, &other), GpuCase::NoToolkit);
        for case in [GpuCase::NoDriver, GpuCase::NoDevice, GpuCase::NoToolkit, GpuCase::NotConfigured] {
            assert!(case.words().1.is_some(), "{case:?} says what to do");
        }
    }
}
