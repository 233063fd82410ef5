//! Checks with GPUs, on a machine that only says that it has one.

use std::{fs, os::unix::fs::PermissionsExt as _};

use async_trait::async_trait;
use bytes::Bytes;

use super::{tests::*, *};
use crate::{
    gpu::{Borrowed, GpuHost, GpuOptions, Gpus},
    sandbox::{SandboxBackend, Started, namespace::NamespaceBackend, pool::PoolOptions},
};

/// Starts boxes without the devices that do not exist, and notes which were asked for.
#[derive(Debug)]
struct Noting {
    inner: Arc<NamespaceBackend>,
    noted: std::sync::Mutex<Vec<String>>,
}

#[async_trait]
impl SandboxBackend for Noting {
    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        let gpus: Vec<&str> = spec.gpus.iter().map(|gpu| gpu.id.as_str()).collect();
        let purpose = spec.name.rsplit("test-").next().unwrap_or_default();
        self.noted.lock().unwrap().push(format!("{purpose}: {}", gpus.join(",")));
        self.inner.start(&SandboxSpec { gpus: Vec::new(), ..spec.clone() }).await
    }
    async fn build_image(&self, context: Bytes, dockerfile: &str, tag: &str) -> Result<String, Failure> {
        self.inner.build_image(context, dockerfile, tag).await
    }
    async fn stop(&self, name: &str) -> Result<(), SandboxError> {
        self.inner.stop(name).await
    }
    async fn sweep(&self, keep: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<usize, SandboxError> {
        self.inner.sweep(keep).await
    }
}

async fn gpus(dir: &std::path::Path) -> Gpus {
    let tool = dir.join("nvidia-smi");
    let script =
        "#!/bin/sh\ncase $1 in --query-gpu=*) echo '0, GPU-1, NVIDIA H100 PCIe, 81559, Disabled, Default';; esac\n";
    fs::write(&tool, script).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let options = GpuOptions { lock_dir: Some(dir.join("locks")), ..GpuOptions::default() };
    Gpus::find(GpuHost::with_tool(tool), options).await
}

async fn verified(room: &Room, config: &RepoConfig, borrowed: &Borrowed) -> (Result<Verdict, Failure>, Vec<String>) {
    let backend = Arc::new(Noting { inner: room.backend.clone(), noted: std::sync::Mutex::default() });
    let progress = room.progress();
    let sandboxes = Sandboxes::new(backend.clone(), PoolOptions::default());
    let with = Verification {
        sandboxes: &sandboxes,
        bases: None,
        repo: &"acme/calc".parse().unwrap(),
        spec: spec("verify"),
        config,
        mirror: &room.mirror,
        artifacts: &room.artifacts,
        progress: &progress,
        borrowed,
        egress: (&Arc::default(), &Arc::default()),
        cancel: &CancellationToken::new(),
    };
    let verdict = verify(room.allowed.clone(), with).await;
    sandboxes.close().await;
    assert_eq!(room.backend.sweep(&|_| false).await.unwrap(), 0, "no sandbox is left");
    let noted = backend.noted.lock().unwrap().clone();
    (verdict, noted)
}

fn with_gpu(checks: &[(&str, &str, &str)]) -> RepoConfig {
    let mut text = String::from("version = 1\n");
    for (name, command, gpu) in checks {
        text.push_str(&format!("[[check]]\nname = \"{name}\"\ncommand = \"{command}\"\ngpu = {gpu}\n"));
    }
    RepoConfig::load(Some(text.as_bytes()), &[]).unwrap()
}

#[tokio::test]
async fn checks_with_a_gpu_run_last_in_a_box_of_their_own_and_give_it_back() {
    let room = Room::new().await;
    let gpus = gpus(room.dir.path()).await;
    let borrowed = Borrowed::new(gpus.clone());
    let checks = [("kernels", "true", "\"h100\""), ("unit", "true", "false"), ("large", "true", "\"h100\"")];
    let config = with_gpu(&checks);
    borrowed.could(&config).unwrap();
    let (verdict, noted) = verified(&room, &config, &borrowed).await;
    assert!(matches!(verdict, Ok(Verdict::Passed(_))), "{verdict:?}");
    assert_eq!(noted, ["verify: ", "verify-gpu: GPU-1"]);
    let names: Vec<_> = results(verdict.as_ref().unwrap()).iter().map(|result| result.name.as_str()).collect();
    assert_eq!(names, ["kernels", "unit", "large"], "as in the configuration");
    let told = room.told();
    let order: Vec<_> = told.iter().map(String::as_str).collect();
    assert_eq!(
        order,
        [
            "unit: passed",
            "Waiting(\"waiting for a GPU (h100)\")",
            "Step(\"GPU: NVIDIA H100 PCIe GPU-1\")",
            "kernels: passed",
            "large: passed"
        ]
    );
    let used = borrowed.used().unwrap();
    assert_eq!(used.devices, ["NVIDIA H100 PCIe GPU-1"]);
    assert!(used.lent_ms > 0);
    assert_eq!(borrowed.used().unwrap().lent_ms, used.lent_ms, "it was given back, so its time stands still");
    let request = "h100".parse().unwrap();
    drop(gpus.lease(&request, &mut |_| panic!("it is free")).await.unwrap());
}

#[tokio::test]
async fn no_gpu_is_spent_on_a_change_that_is_held_back_anyway() {
    let room = Room::new().await;
    let borrowed = Borrowed::new(gpus(room.dir.path()).await);
    let config = with_gpu(&[("unit", "false", "false"), ("kernels", "true", "true")]);
    let (verdict, noted) = verified(&room, &config, &borrowed).await;
    assert!(matches!(verdict, Ok(Verdict::Failed { .. })), "{verdict:?}");
    assert_eq!(noted, ["verify: "]);
    assert_eq!(borrowed.used(), None);
}

#[tokio::test]
async fn checks_use_the_gpu_that_the_agent_has_and_leave_it_there() {
    let room = Room::new().await;
    let gpus = gpus(room.dir.path()).await;
    let borrowed = Borrowed::new(gpus.clone());
    let mut config = with_gpu(&[("kernels", "true", "true")]);
    crate::gpu::apply_request(&mut config, &tasks::Resources { gpu: Some("h100".parse().unwrap()) });
    assert!(config.environment.agent_gpu, "who asks on the request asks for the agent too");
    borrowed.could(&config).unwrap();
    let request = config.environment.gpu.clone().unwrap();
    borrowed.for_agent(&request, &Progress::silent()).await.unwrap();
    let (verdict, noted) = verified(&room, &config, &borrowed).await;
    assert!(matches!(verdict, Ok(Verdict::Passed(_))), "{verdict:?}");
    assert_eq!(noted, ["verify-gpu: GPU-1"], "with no other check there is no other box");
    assert!(Gpus::could(&gpus, &request).is_ok());
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = |words: &str| drop(say.send(words.to_owned()));
    tokio::select! {
        lease = gpus.lease(&request, &mut waiting) => panic!("the agent has it: {lease:?}"),
        words = said.recv() => assert_eq!(words.unwrap(), "waiting for a GPU (h100)"),
    }
}

#[tokio::test]
async fn what_could_never_be_met_is_said_before_anything_is_started() {
    let room = Room::new().await;
    let borrowed = Borrowed::new(gpus(room.dir.path()).await);
    let failure = borrowed.could(&with_gpu(&[("kernels", "true", "\"b300\"")])).unwrap_err();
    assert_eq!(failure.code, Code::ResourceMissing);
    let mut config = with_gpu(&[("kernels", "true", "\"h100!\"")]);
    crate::gpu::apply_request(&mut config, &tasks::Resources { gpu: Some("any".parse().unwrap()) });
    let failure = borrowed.could(&config).unwrap_err();
    assert_eq!(failure.code, Code::BadRepoConfig, "{failure}");
    assert!(failure.message.contains("holding the first while waiting for the second"), "{failure}");
}
