//! The GPUs of this machine: which there are, how an engine can show them inside, and to whom each is lent.
//!
//! A GPU is lent whole and to one sandbox at a time, or as a slice that the hardware itself keeps apart (MIG). It is named
//! by its UUID everywhere: "two GPUs" means the first two to an engine, for everybody who asks.
//!
//! Words of a requirement are read in [`tasks::gpu`]; here they meet devices ([`choose`]), in the order in which they came
//! ([`ledger`]), across all processes of this machine ([`allocator`]).

mod allocator;
mod borrowed;
mod choose;
mod detect;
mod host;
mod inventory;
mod ledger;
mod locks;

use std::path::PathBuf;

use tasks::{Code, Failure};

pub use allocator::{GpuLease, GpuOptions, Gpus};
pub use borrowed::{Borrowed, apply_request};
pub use detect::{EngineGpus, GpuCase, ToolkitFacts, Way, judge};
pub use host::{GpuHost, Occupant};

/// One device that can be lent: a whole GPU, or a slice of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// `GPU-…` or `MIG-…`: its name in every request.
    pub id: String,
    /// As the driver calls it: `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// Memory in bytes; 0: not known.
    pub memory_bytes: u64,
    /// The number in `/dev/nvidia0`, where it is known.
    pub minor: Option<u32>,
    /// What part of a GPU this is; `None`: all of it.
    pub slice: Option<Slice>,
}

/// A part of a GPU with memory and processors of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Its size: `3g.40gb`.
    pub profile: String,
    /// GPU instance and compute instance, where the driver tells them.
    pub instances: Option<(u32, u32)>,
}

/// The device files of all of these, each once.
///
/// # Errors
/// E017 when one cannot be told from the others.
pub fn device_files(gpus: &[Gpu]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = std::collections::BTreeSet::new();
    for gpu in gpus {
        files.extend(gpu.device_files().map_err(|why| {
            Failure::new(Code::ResourceMissing, format!("A GPU cannot be shown in a namespace sandbox: {why}"))
                .next("Use a Docker engine with the container toolkit for this GPU, or lend another one.")
        })?);
    }
    Ok(files.into_iter().collect())
}

impl Gpu {
    /// For people: `NVIDIA H100 80GB HBM3`, or `NVIDIA A100-SXM4-80GB (3g.40gb)`.
    pub fn name(&self) -> String {
        match &self.slice {
            Some(slice) => format!("{} ({})", self.model, slice.profile),
            None => self.model.clone(),
        }
    }

    /// The device files that a program needs to use it, and nothing that reaches another one.
    ///
    /// # Errors
    /// What is not known about it.
    pub fn device_files(&self) -> Result<Vec<PathBuf>, String> {
        let minor =
            self.minor.ok_or_else(|| format!("the device file of {} ({}) is not known", self.name(), self.id))?;
        let mut files: Vec<PathBuf> = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]
            .iter()
            .map(|name| PathBuf::from("/dev").join(name))
            .collect();
        files.push(format!("/dev/nvidia{minor}").into());
        if let Some(slice) = &self.slice {
            let (gi, ci) = slice.instances.ok_or_else(|| {
                format!("the driver does not tell which part of the GPU {} is, so it cannot be shown alone", self.id)
            })?;
            let root = PathBuf::from(format!("/proc/driver/nvidia/capabilities/gpu{minor}/mig/gi{gi}"));
            for access in [root.join("access"), root.join(format!("ci{ci}/access"))] {
                let text =
                    std::fs::read_to_string(&access).map_err(|error| format!("{}: {error}", access.display()))?;
                let number = inventory::value(&text, "DeviceFileMinor")
                    .ok_or_else(|| format!("{} names no device", access.display()))?;
                files.push(format!("/dev/nvidia-caps/nvidia-cap{number}").into());
            }
        }
        Ok(files)
    }
}
