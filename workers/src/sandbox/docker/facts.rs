//! What an engine says about itself, for those who judge whether it is good enough.

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum, SystemVersion};
use tasks::Failure;

use super::{
    DockerBackend,
    engine::{DEFAULT_HOST, call, open, unreachable},
    gpu,
};
use crate::{
    gpu::EngineGpus,
    sandbox::isolation::{Isolation, runtime_is_listed},
};

/// What an engine says about itself. Empty text: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Where it was asked.
    pub host: String,
    /// Its version, such as `28.3.1`.
    pub version: String,
    /// The version of runc that it uses.
    pub runc: String,
    /// The runtimes that it lists, and what GPUs it knows of.
    pub gpus: EngineGpus,
    /// The runtime for who names none.
    pub default_runtime: String,
    /// As it lists them: `name=seccomp,profile=default`, `name=rootless`, …
    pub security: Vec<String>,
    /// 1 or 2.
    pub cgroup_version: Option<u8>,
    /// What it says that it can limit: memory, swap, pids, cpu.
    pub limits: Vec<&'static str>,
    /// Where it keeps images and containers, on its own machine.
    pub root_dir: String,
    /// It is reached through a socket of this machine.
    pub is_local: bool,
}

impl EngineFacts {
    /// Asks the engine at `host` (or the usual place).
    ///
    /// # Errors
    /// E011 when none answers.
    pub async fn ask(host: Option<&str>) -> Result<Self, Failure> {
        let host = host.unwrap_or(DEFAULT_HOST);
        let engine = open(host).await?;
        let (version, about) = tokio::join!(call(engine.version()), call(engine.info()));
        let version = version.map_err(|error| unreachable(host, &error))?;
        let about = about.map_err(|error| unreachable(host, &error))?;
        Ok(Self::read(host, &version, &about))
    }

    fn read(host: &str, version: &SystemVersion, about: &SystemInfo) -> Self {
        let parts = version.components.iter().flatten();
        let runc = parts.filter(|part| part.name == "runc").map(|part| part.version.clone()).next();
        let can = [
            ("memory", about.memory_limit),
            ("swap", about.swap_limit),
            ("pids", about.pids_limit),
            ("cpu", about.cpu_cfs_quota),
        ];
        Self {
            host: host.to_owned(),
            version: version.version.clone().unwrap_or_default(),
            runc: runc.unwrap_or_default(),
            gpus: gpu::of_engine(about),
            default_runtime: about.default_runtime.clone().unwrap_or_default(),
            security: about.security_options.clone().unwrap_or_default(),
            cgroup_version: match about.cgroup_version {
                Some(SystemInfoCgroupVersionEnum::_1) => Some(1),
                Some(SystemInfoCgroupVersionEnum::_2) => Some(2),
                Some(SystemInfoCgroupVersionEnum::EMPTY) | None => None,
            },
            limits: can.into_iter().filter(|(_, can)| *can == Some(true)).map(|(name, _)| name).collect(),
            root_dir: about.docker_root_dir.clone().unwrap_or_default(),
            is_local: host.starts_with("unix://"),
        }
    }

    /// Whether it lists a security option of this name.
    pub fn has(&self, option: &str) -> bool {
        let name = format!("name={option}");
        self.security.iter().any(|listed| listed.split(',').any(|part| part == name))
    }
}

impl DockerBackend {
    /// The same backend with a stronger runtime for every sandbox; `""`: the engine's own.
    ///
    /// # Errors
    /// E019 with the list when the engine does not list it: no other is ever used instead.
    pub fn with_runtime(mut self, runtime: &str) -> Result<Self, Failure> {
        runtime_is_listed(runtime, &self.runtimes)?;
        self.runtime = Some(runtime.to_owned()).filter(|name| !name.is_empty());
        Ok(self)
    }

    /// How strong the wall around its sandboxes is.
    pub fn isolation(&self) -> Isolation {
        Isolation::of_runtime(self.runtime.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_read_as_it_describes_itself() {
        let version = serde_json::json!({
            "Version": "20.10.24+dfsg1",
            "Components": [
                {"Name": "Engine", "Version": "20.10.24+dfsg1", "Details": {}},
                {"Name": "runc", "Version": "1.1.5+ds1", "Details": {"GitCommit": "1.1.5+ds1-1+deb12u1"}},
            ],
        });
        let about = serde_json::json!({
            "Runtimes": {"runc": {"path": "runc"}, "io.containerd.runc.v2": {"path": "runc"}},
            "DefaultRuntime": "runc", "CgroupVersion": "1", "MemoryLimit": true, "SwapLimit": false, "PidsLimit": true,
            "CpuCfsQuota": true, "DockerRootDir": "/var/lib/docker",
            "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
        });
        let facts = EngineFacts::read(
            "unix:///run/docker.sock",
            &serde_json::from_value(version).unwrap(),
            &serde_json::from_value(about).unwrap(),
        );
        assert_eq!((facts.version.as_str(), facts.runc.as_str()), ("20.10.24+dfsg1", "1.1.5+ds1"));
        assert_eq!((facts.cgroup_version, &facts.limits[..]), (Some(1), &["memory", "pids", "cpu"][..]));
        assert_eq!(facts.gpus.runtimes, ["io.containerd.runc.v2", "runc"]);
        assert!(facts.is_local && facts.has("seccomp") && facts.has("rootless") && !facts.has("apparmor"));
        let empty = EngineFacts::read("tcp://x:1", &SystemVersion::default(), &SystemInfo::default());
        assert!(!empty.is_local && empty.runc.is_empty() && empty.gpus == EngineGpus::default());
    }
}
