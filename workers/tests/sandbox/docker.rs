//! The suite over Docker, and what only Docker does. Needs a running engine and the image that `tests/bring-up.sh` makes.

use std::{process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::json;
use tasks::{Code, LimitHit};
use workers::{
    gpu::Gpu,
    sandbox::{
        Command, Output, Sandbox, SandboxBackend, SandboxError, SandboxSpec,
        docker::{DockerBackend, EngineFacts, explain_gpu_trouble, probe},
    },
};

use crate::suite::{Backend, sh, spec};

pub(crate) const IMAGE: &str = "onramp-test/busybox:1";

for_each_behaviour!(docker_backend);

#[expect(clippy::disallowed_methods, reason = "a person's choice for the tests alone")]
fn is_skipped() -> bool {
    std::env::var_os("ONRAMP_TEST_SKIP_DOCKER").is_some_and(|value| value == "1")
}

async fn backend() -> Option<DockerBackend> {
    if is_skipped() {
        eprintln!("SKIPPED: ONRAMP_TEST_SKIP_DOCKER=1, so nothing was tested about Docker sandboxes here");
        return None;
    }
    let backend = DockerBackend::connect(None, Some(IMAGE.into()), "onramp-tests").await;
    Some(backend.unwrap_or_else(|failure| {
        panic!("{failure}. Run tests/bring-up.sh first, or set ONRAMP_TEST_SKIP_DOCKER=1 to leave Docker out.")
    }))
}

pub(crate) async fn docker_backend() -> Option<Backend> {
    Some(Arc::new(backend().await?))
}

async fn is_known_to_the_engine(name: &str) -> bool {
    let mut inspect = tokio::process::Command::new("docker");
    inspect.args(["container", "inspect", name]).stdout(Stdio::null()).stderr(Stdio::null());
    inspect.status().await.expect("the docker program is installed").success()
}

#[tokio::test]
async fn a_stopped_sandbox_is_gone_and_may_be_stopped_again() {
    let Some(backend) = docker_backend().await else { return };
    let spec = spec(None);
    let sandbox = Sandbox::start(Arc::clone(&backend), &spec).await.unwrap();
    assert!(sandbox.environment().starts_with("onramp-test/busybox:1@sha256:"), "{}", sandbox.environment());
    assert!(is_known_to_the_engine(&spec.name).await);
    sandbox.stop().await.unwrap();
    assert!(!is_known_to_the_engine(&spec.name).await);
    backend.stop(&spec.name).await.unwrap();
    backend.stop("onramp-never-was").await.unwrap();
}

/// It travels once for each image and user; when the layer is gone it travels again.
#[tokio::test]
async fn from_the_second_start_on_the_guest_is_a_layer_of_the_image() {
    let Some(backend) = docker_backend().await else { return };
    let scope = format!("layers/{}", std::process::id());
    let mut seen = Vec::new();
    for _ in 0..4 {
        let spec = SandboxSpec { scope: scope.clone(), ..spec(None) };
        let sandbox = Sandbox::start(Arc::clone(&backend), &spec).await.unwrap();
        assert!(sandbox.environment().starts_with("onramp-test/busybox:1@sha256:"), "{}", sandbox.environment());
        assert_eq!(sh(&sandbox, "echo x > ~/x && echo x > /workspace/x && cat ~/x").await, "x");
        let image = docker(&["container", "inspect", "--format", "{{.Config.Image}}", &spec.name]).await;
        sandbox.stop().await.unwrap();
        if image.starts_with("sha256:") {
            docker(&["image", "rm", &image]).await;
        }
        seen.push(image);
    }
    // The second one's layer was removed, so the guest travelled again.
    let is_layer: Vec<bool> = seen.iter().map(|image| image.starts_with("sha256:")).collect();
    assert_eq!(is_layer, [false, true, false, true], "{seen:?}");
}

async fn docker(arguments: &[&str]) -> String {
    let output = tokio::process::Command::new("docker").args(arguments).output().await.expect("docker is installed");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn the_sweep_removes_what_is_ours_and_not_kept() {
    if is_skipped() {
        return;
    }
    let installation = format!("onramp-tests-{}", std::process::id());
    let backend: Backend = Arc::new(DockerBackend::connect(None, Some(IMAGE.into()), &installation).await.unwrap());
    let (kept, lost) = (spec(None), spec(None));
    let kept_sandbox = Sandbox::start(Arc::clone(&backend), &kept).await.unwrap();
    drop(Sandbox::start(Arc::clone(&backend), &lost).await.unwrap());
    assert_eq!(backend.sweep(&|name| name == kept.name).await.unwrap(), 1);
    assert!(!is_known_to_the_engine(&lost.name).await);
    assert_eq!(sh(&kept_sandbox, "echo alive").await, "alive");
    kept_sandbox.stop().await.unwrap();
    assert_eq!(backend.sweep(&|_| false).await.unwrap(), 0);
}

/// What `docker run` says with these options, on standard error.
async fn engine_says(options: &[&str]) -> String {
    let mut run = tokio::process::Command::new("docker");
    run.args(["run", "--rm"]).args(options).args([IMAGE, "/bin/true"]).stdin(Stdio::null());
    let output = run.output().await.expect("the docker program is installed");
    assert!(!output.status.success(), "{options:?} works here");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_real_engine_without_a_toolkit_is_understood() {
    if docker_backend().await.is_none() {
        return;
    }
    let facts = EngineFacts::ask(None).await.unwrap();
    if facts.gpus.runtimes.iter().any(|name| name == "nvidia") || !facts.gpus.devices.is_empty() {
        eprintln!("SKIPPED: this engine has a GPU toolkit, so its errors without one cannot be seen here");
        return;
    }
    for (options, cause) in [
        (&["--gpus", "all"][..], "knows no way to show a GPU"),
        (&["--gpus", "\"device=GPU-1\""], "knows no way to show a GPU"),
        (&["--runtime", "nvidia"], "does not list the runtime"),
    ] {
        let words = engine_says(options).await;
        let failure = explain_gpu_trouble(&words).unwrap_or_else(|| panic!("{options:?} said {words:?}"));
        assert!(failure.message.contains(cause), "{options:?}: {failure:?}");
        assert_eq!(failure.detail.as_deref(), Some(words.as_str()));
    }
    let refused = docker_backend().await.unwrap().could_show_gpus(None).await.unwrap_err();
    assert_eq!(refused.code, Code::ResourceMissing, "said before anything is started: {refused:?}");
    let gpu = Gpu { id: "GPU-1".into(), model: "x".into(), memory_bytes: 0, minor: None, slice: None };
    let Err(SandboxError::Failure(failure)) =
        Sandbox::start(docker_backend().await.unwrap(), &SandboxSpec { gpus: vec![gpu], ..spec(None) }).await
    else {
        panic!("a box that was promised a GPU starts without one");
    };
    assert_eq!(failure.code, Code::ResourceMissing, "{failure:?}");
}

#[tokio::test]
async fn a_runtime_that_the_engine_does_not_list_is_refused_with_its_list() {
    let Some(backend) = backend().await else { return };
    let failure = backend.with_runtime("runsc-that-nobody-has").unwrap_err();
    assert_eq!(failure.code, Code::WeakIsolation);
    assert!(failure.next_step.contains("runc"), "{failure:?}");
    let plain = self::backend().await.unwrap().with_runtime("runc").unwrap();
    let sandbox = Sandbox::start(Arc::new(plain) as Backend, &spec(None)).await.unwrap();
    assert_eq!(sh(&sandbox, "echo alive").await, "alive");
    sandbox.stop().await.unwrap();
}

#[tokio::test]
async fn an_image_that_nobody_has_is_a_clear_failure() {
    let Some(backend) = docker_backend().await else { return };
    let spec = spec(Some("localhost:1/no/such/image:1"));
    match Sandbox::start(backend, &spec).await {
        Err(SandboxError::Failure(failure)) => {
            assert_eq!(failure.code, Code::ImageMissing);
            let message = "The image localhost:1/no/such/image:1 is not on the Docker engine and cannot be pulled";
            assert_eq!(failure.message, message);
            assert!(failure.detail.is_some(), "the engine's own text");
        }
        other => panic!("{other:?}"),
    }
    assert!(!is_known_to_the_engine(&spec.name).await);
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_a_clear_failure() {
    let failure = probe(Some("unix:///nowhere/docker.sock")).await.unwrap_err();
    assert_eq!(failure.code, Code::EngineUnreachable);
    assert_eq!(failure.message, "The Docker engine at unix:///nowhere/docker.sock does not answer");
    let failure = DockerBackend::connect(Some("tcp://127.0.0.1:1"), None, "x").await.unwrap_err();
    assert_eq!(failure.code, Code::EngineUnreachable);
    let failure = probe(Some("docker.sock")).await.unwrap_err();
    assert_eq!(failure.message, "`docker.sock` is not the address of a Docker engine");
    if !is_skipped() {
        let engine = probe(None).await.unwrap();
        assert!(engine.platform.starts_with("linux/") && !engine.version.is_empty(), "{engine:?}");
    }
}

#[tokio::test]
async fn no_image_at_all_says_where_to_name_one() {
    if is_skipped() {
        return;
    }
    let backend: Backend = Arc::new(DockerBackend::connect(None, None, "onramp-tests").await.unwrap());
    match Sandbox::start(backend, &spec(None)).await {
        Err(SandboxError::Failure(failure)) => assert_eq!(failure.code, Code::ImageMissing),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_image_is_built_and_its_environment_reaches_commands() {
    let Some(backend) = backend().await else { return };
    let dockerfile =
        format!("FROM {IMAGE}\nENV TOOL=/opt/tool PATH=/opt/bin:/bin LD_PRELOAD=/evil.so\nCOPY greeting /greeting\n");
    let mut context = tar::Builder::new(Vec::new());
    for (name, content) in
        [("build/Dockerfile", dockerfile.as_str()), ("greeting", "hello"), ("broken", "FROM scratch\nNONSENSE\n")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        context.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let context = Bytes::from(context.into_inner().unwrap());
    let tag = format!("onramp-test/built:{}", std::process::id());
    let id = backend.build_image(context.clone(), "build/Dockerfile", &tag).await.unwrap();
    assert!(id.starts_with("sha256:"), "{id}");

    let failure = backend.build_image(context, "broken", "onramp-test/broken:1").await.unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (Code::ImageMissing, "The image of broken cannot be built"));
    assert!(failure.detail.unwrap().to_lowercase().contains("nonsense"));

    let sandbox = Sandbox::start(Arc::new(backend), &spec(Some(&tag))).await.unwrap();
    let said = sh(&sandbox, "echo $TOOL $PATH $HOME ${LD_PRELOAD-none}; cat /greeting").await;
    assert_eq!(said, "/opt/tool /opt/bin:/bin /home/onramp none\nhello");
    sandbox.stop().await.unwrap();
    let removed =
        tokio::process::Command::new("docker").args(["image", "rm", &tag]).stdout(Stdio::null()).status().await;
    assert!(removed.unwrap().success());
}

#[tokio::test]
async fn limits_hold_and_are_survived_by_the_guest() {
    let Some(backend) = docker_backend().await else { return };
    let mut spec = spec(None);
    spec.limits.pids = 40;
    spec.limits.memory_bytes = 64 << 20;
    let sandbox = Sandbox::start(backend, &spec).await.unwrap();
    // More processes than allowed: the shell fails to fork, the guest goes on and ends all of them.
    let bomb = "for i in 1 2 3 4 5 6 7 8 9 10; do for j in 1 2 3 4 5 6; do sleep 1000 & done; done";
    let command = Command::shell(bomb, Duration::from_secs(20));
    let mut said = Vec::new();
    let mut collect = |output: Output<'_>| {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = output;
        said.extend_from_slice(bytes);
    };
    assert!(!sandbox.run(&command, &mut collect).await.unwrap().success());
    assert!(String::from_utf8_lossy(&said).contains("fork"), "{}", String::from_utf8_lossy(&said));
    sandbox.kill_all().await.unwrap();
    // More memory than allowed: the command dies, the guest does not.
    let command = Command::shell("exec tail /dev/zero", Duration::from_secs(20));
    assert_eq!(sandbox.run(&command, &mut |_| {}).await.unwrap().signal, Some(9));
    assert_eq!(sh(&sandbox, "echo alive").await, "alive");
    sandbox.stop().await.unwrap();
}

/// Every row of the hardening that the engine keeps, as it tells them itself.
#[tokio::test]
async fn the_engine_was_told_to_close_what_it_can_close() {
    let Some(backend) = docker_backend().await else { return };
    let spec = spec(None);
    let sandbox = Sandbox::start(backend, &spec).await.unwrap();
    let inspect =
        tokio::process::Command::new("docker").args(["container", "inspect", &spec.name]).output().await.unwrap();
    let told: serde_json::Value = serde_json::from_slice(&inspect.stdout).unwrap();
    let (config, host) = (&told[0]["Config"], &told[0]["HostConfig"]);
    let expected = [
        ("NetworkMode", json!("none")),
        ("CapDrop", json!(["ALL"])),
        ("CapAdd", json!(null)),
        ("SecurityOpt", json!(["no-new-privileges"])),
        ("Privileged", json!(false)),
        ("Binds", json!(null)),
        ("VolumesFrom", json!(null)),
        ("PidMode", json!("")),
        ("UTSMode", json!("")),
        ("IpcMode", json!("private")),
        ("CgroupnsMode", json!("private")),
        ("PidsLimit", json!(256)),
        ("Memory", json!(512 << 20)),
        ("MemorySwap", json!(512 << 20)),
        ("CpuShares", json!(512)),
        ("NanoCpus", json!(2_000_000_000_u64)),
        ("OomScoreAdj", json!(500)),
        ("AutoRemove", json!(false)),
        ("PublishAllPorts", json!(false)),
    ];
    for (field, value) in expected {
        assert_eq!(host[field], value, "{field}");
    }
    assert!(host["Devices"].as_array().is_none_or(Vec::is_empty), "{}", host["Devices"]);
    assert!(host["OomKillDisable"].as_bool() != Some(true));
    assert_eq!((&host["LogConfig"]["Type"], &host["RestartPolicy"]["Name"]), (&json!("none"), &json!("no")));
    assert!(host["MaskedPaths"].as_array().is_some_and(|paths| paths.contains(&json!("/proc/keys"))));
    assert!(host["ReadonlyPaths"].as_array().is_some_and(|paths| paths.contains(&json!("/proc/sys"))));
    let limits = host["Ulimits"].as_array().unwrap().iter().map(|limit| limit["Name"].as_str().unwrap());
    assert_eq!(limits.collect::<Vec<_>>(), ["nofile", "core", "nproc", "fsize"]);
    assert_eq!(config["Hostname"], "sandbox");
    assert_eq!(config["Labels"]["onramp.name"], spec.name);
    let user: u32 = config["User"].as_str().unwrap().split_once(':').unwrap().0.parse().unwrap();
    assert!((61_184..=65_519).contains(&user), "{user}");
    assert_eq!(sh(&sandbox, "id -u; id -g; stat -c %u /workspace ~").await, format!("{user}\n{user}\n{user}\n{user}"));
    // Nothing that the engine puts into every container tells of the host's network.
    assert_eq!(sh(&sandbox, "grep -E '^(nameserver|search|domain)' /etc/resolv.conf").await, "nameserver 127.0.0.1");
    sandbox.stop().await.unwrap();
}

/// Images may have directories that everybody may write to, such as the caches of a toolchain.
#[tokio::test]
async fn what_is_written_elsewhere_in_an_image_counts_too() {
    let Some(backend) = backend().await else { return };
    let mut context = tar::Builder::new(Vec::new());
    for (name, kind, mode, content) in [
        ("Dockerfile", tar::EntryType::Regular, 0o644, format!("FROM {IMAGE}\nCOPY tree /\n")),
        ("tree/opt/open/", tar::EntryType::Directory, 0o777, String::new()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        context.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let tag = format!("onramp-test/open:{}", std::process::id());
    backend.build_image(Bytes::from(context.into_inner().unwrap()), "Dockerfile", &tag).await.unwrap();
    let mut spec = spec(Some(&tag));
    spec.limits.disk_bytes = 48 << 20;
    let sandbox = Sandbox::start(Arc::new(backend), &spec).await.unwrap();
    let fill = "for n in 1 2 3 4 5 6; do head -c 12000000 /dev/zero >/opt/open/$n; done; sleep 1000";
    let exit = sandbox.run(&Command::shell(fill, Duration::from_secs(20)), &mut |_| {}).await.unwrap();
    assert_eq!((exit.signal, exit.limits.as_slice()), (Some(9), &[LimitHit::Disk { bytes: 48 << 20 }][..]), "{exit:?}");
    assert_eq!(sh(&sandbox, "echo alive").await, "alive");
    sandbox.stop().await.unwrap();
    let removed =
        tokio::process::Command::new("docker").args(["image", "rm", &tag]).stdout(Stdio::null()).status().await;
    assert!(removed.unwrap().success());
}
