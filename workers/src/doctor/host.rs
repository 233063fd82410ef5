//! Whether the worker's own machine is good enough: its kernel, its disks, its GPUs.

use std::path::{Path, PathBuf};

use tasks::Failure;

use super::{Finding, version};
use crate::gpu::{EngineGpus, Gpu, GpuCase, ToolkitFacts, judge};

const GIB: u64 = 1 << 30;
/// The oldest toolkit that cannot be escaped from through the image's environment (CVE-2025-23266).
const TOOLKIT_FLOOR: (u32, u32, u32) = (1, 17, 8);

/// What was found on this machine.
#[derive(Debug)]
pub struct HostFacts {
    /// What the namespace sandbox said of itself after one was started, or why none can be.
    pub namespaces: Result<String, Failure>,
    /// Somebody needs it: nothing else is there.
    pub namespaces_are_needed: bool,
    /// Places and how many bytes are free there.
    pub free: Vec<(&'static str, PathBuf, Option<u64>)>,
}

impl HostFacts {
    /// How much is free where `path` is or will be.
    pub fn free_at(path: &Path) -> Option<u64> {
        let there = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
        let found = rustix::fs::statvfs(there).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// Everything that can be said about this machine, GPUs aside.
pub fn judge_host(facts: &HostFacts) -> Vec<Finding> {
    let mut findings = vec![match &facts.namespaces {
        Ok(enforced) => {
            let says = enforced.trim_end_matches('.').replace('\n', " ");
            match enforced.contains("Not limited here") {
                false => Finding::ok("namespaces", format!("a sandbox out of namespaces was started here. {says}")),
                true => Finding::warn(
                    "namespaces",
                    format!("a sandbox out of namespaces was started here. {says}"),
                    "delegate the missing controllers to the worker (systemd: Delegate=cpu memory pids in its unit), or use \
                     an engine.",
                ),
            }
        }
        Err(failure) if facts.namespaces_are_needed => {
            Finding::fail("namespaces", failure.message.clone(), failure.next_step.clone())
        }
        Err(failure) => Finding::warn(
            "namespaces",
            format!("{}; only repositories that name an image can be worked on", failure.message),
            failure.next_step.clone(),
        ),
    }];
    findings.extend(facts.free.iter().map(|(id, path, free)| disk(id, path, *free)));
    findings
}

fn disk(id: &'static str, path: &Path, free: Option<u64>) -> Finding {
    let place = path.display();
    match free {
        None => Finding::warn(id, format!("how much is free at {place} cannot be seen"), "check it with `df`."),
        Some(free) if free < GIB => Finding::fail(
            id,
            format!("{} MiB are free at {place}, which is not enough for one task", free >> 20),
            "free some space there, or name another place.",
        ),
        Some(free) if free < 10 * GIB => Finding::warn(
            id,
            format!("{} GiB are free at {place}; bases and build states need more", free / GIB),
            "free some space there, or lower [bases] disk.",
        ),
        Some(free) => Finding::ok(id, format!("{} GiB are free at {place}", free / GIB)),
    }
}

/// What can be lent of this machine's GPUs, and how.
pub fn judge_gpu(
    host: ToolkitFacts,
    toolkit_version: Option<&str>,
    devices: &[Gpu],
    engine: Option<&EngineGpus>,
) -> Finding {
    let mut names: Vec<String> = devices.iter().map(|gpu| format!("{} {}", gpu.name(), gpu.id)).collect();
    names.truncate(16);
    let names = names.join(", ");
    let Some(engine) = engine else {
        return match devices {
            [] => Finding::ok("gpu", "no GPU is there to lend"),
            _ => Finding::ok("gpu", format!("lent to sandboxes out of namespaces: {names}")),
        };
    };
    let case = judge(host, devices, engine);
    let (says, fix) = case.words();
    let says = if devices.is_empty() { says.to_owned() } else { format!("{says}: {names}") };
    match (&case, fix) {
        // Most machines have none, and that is fine.
        (GpuCase::NoDriver, _) => Finding::ok("gpu", format!("no GPU is there to lend: {says}")),
        (GpuCase::NoDevice | GpuCase::NoToolkit | GpuCase::NotConfigured, fix) => {
            Finding::warn("gpu", says, format!("{}.", fix.unwrap_or_default()))
        }
        (GpuCase::Ready(_), _) => match toolkit_version.and_then(version) {
            Some(found) if found < TOOLKIT_FLOOR => Finding::fail(
                "gpu",
                format!(
                    "{says}; the container toolkit {} can be escaped from (CVE-2025-23266)",
                    toolkit_version.unwrap_or_default()
                ),
                "update nvidia-container-toolkit to at least 1.17.8, best to 1.18 or newer.",
            ),
            _ => Finding::ok("gpu", says),
        },
    }
}

#[cfg(test)]
mod tests {
    use tasks::Code;

    use super::*;
    use crate::{
        doctor::{Verdict, report},
        gpu::GpuHost,
    };

    #[test]
    fn a_small_disk_and_a_closed_kernel_are_told() {
        let path = || PathBuf::from("/var/lib/onramp");
        let facts = HostFacts {
            namespaces: Err(Failure::new(Code::NoSandbox, "User namespaces are switched off here")),
            namespaces_are_needed: true,
            free: vec![
                ("disk", path(), Some(64 * GIB)),
                ("disk", path(), Some(5 * GIB)),
                ("disk", path(), Some(100 << 20)),
                ("disk", path(), None),
            ],
        };
        insta::assert_snapshot!(report(&judge_host(&facts)), @r"
        fail  namespaces      User namespaces are switched off here
                              fix: Start a Docker engine, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1; on Ubuntu 24.04 also kernel.apparmor_restrict_unprivileged_userns=0).
        ok    disk            64 GiB are free at /var/lib/onramp
        warn  disk            5 GiB are free at /var/lib/onramp; bases and build states need more
                              fix: free some space there, or lower [bases] disk.
        fail  disk            100 MiB are free at /var/lib/onramp, which is not enough for one task
                              fix: free some space there, or name another place.
        warn  disk            how much is free at /var/lib/onramp cannot be seen
                              fix: check it with `df`.
        5 checks: 1 ok, 2 to improve, 2 failed
        ");
        let facts = HostFacts { namespaces_are_needed: false, ..facts };
        assert_eq!(judge_host(&facts)[0].verdict, Verdict::Warn);
        assert!(HostFacts::free_at(Path::new("/proc/no/such/place")).is_some());
    }

    #[test]
    fn each_case_of_gpus_is_told_with_what_to_do() {
        let gpu = Gpu {
            id: "GPU-1".into(),
            model: "NVIDIA H100 PCIe".into(),
            memory_bytes: 80 << 30,
            minor: None,
            slice: None,
        };
        let plain = EngineGpus { runtimes: vec!["runc".into()], ..EngineGpus::default() };
        let runtime = EngineGpus { runtimes: vec!["nvidia".into()], ..EngineGpus::default() };
        let driver = ToolkitFacts { driver: true, ..ToolkitFacts::default() };
        let toolkit = ToolkitFacts { toolkit: true, ..driver };
        let findings = [
            judge_gpu(ToolkitFacts::default(), None, &[], Some(&plain)),
            judge_gpu(driver, None, &[], Some(&plain)),
            judge_gpu(driver, None, std::slice::from_ref(&gpu), Some(&plain)),
            judge_gpu(toolkit, Some("1.17.8"), std::slice::from_ref(&gpu), Some(&plain)),
            judge_gpu(toolkit, Some("1.17.4"), std::slice::from_ref(&gpu), Some(&runtime)),
            judge_gpu(toolkit, Some("1.18.0"), std::slice::from_ref(&gpu), Some(&runtime)),
            judge_gpu(driver, None, &[gpu], None),
        ];
        insta::assert_snapshot!(report(&findings), @r"
        ok    gpu             no GPU is there to lend: no NVIDIA driver is loaded on this machine
        warn  gpu             the NVIDIA driver is there and lists no GPU that can be lent
                              fix: run `nvidia-smi`: a GPU that fell off the bus, is cut into slices with none made, or is set to compute mode Prohibited is not listed.
        warn  gpu             the NVIDIA driver is there, and the container toolkit is not installed: NVIDIA H100 PCIe GPU-1
                              fix: install nvidia-container-toolkit, then `nvidia-ctk runtime configure --runtime=docker` and restart the engine; without an engine the namespace sandbox lends GPUs by itself.
        warn  gpu             driver and toolkit are there, and the engine does not know of them: NVIDIA H100 PCIe GPU-1
                              fix: `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` with an engine from 28.2 on, else `nvidia-ctk runtime configure --runtime=docker`; then restart the engine.
        fail  gpu             GPUs are lent through the nvidia runtime: NVIDIA H100 PCIe GPU-1; the container toolkit 1.17.4 can be escaped from (CVE-2025-23266)
                              fix: update nvidia-container-toolkit to at least 1.17.8, best to 1.18 or newer.
        ok    gpu             GPUs are lent through the nvidia runtime: NVIDIA H100 PCIe GPU-1
        ok    gpu             lent to sandboxes out of namespaces: NVIDIA H100 PCIe GPU-1
        7 checks: 3 ok, 3 to improve, 1 failed
        ");
    }

    #[tokio::test]
    async fn a_machine_without_a_toolkit_has_no_version_of_it() {
        assert_eq!(GpuHost::find("/nowhere").toolkit_version().await, None);
    }
}
