//! Requests for GPUs as an engine gets them, from a socket that answers like one and keeps what it was sent.

use std::sync::{Arc, Mutex};

use bollard::models::{HostConfig, SystemInfo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};

use super::*;
use crate::{
    gpu::{GpuCase, Slice, ToolkitFacts, judge},
    sandbox::{Sandbox, SandboxError, SandboxSpec, docker::DockerBackend},
};

const UUID: &str = "GPU-11111111-aaaa-bbbb-cccc-000000000000";
const SLICE: &str = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f";

fn gpu(id: &str) -> Gpu {
    Gpu { id: id.into(), model: "NVIDIA H100 80GB HBM3".into(), memory_bytes: 80 << 30, minor: Some(0), slice: None }
}

fn slice(id: &str) -> Gpu {
    Gpu { slice: Some(Slice { profile: "1g.10gb".into(), instances: None }), ..gpu(id) }
}

/// `/info` of engines in the field, cut down to what is read here.
fn info(case: &str) -> SystemInfo {
    let runc = json!({"io.containerd.runc.v2": {"path": "runc"}, "runc": {"path": "runc"}});
    let mut toolkit = runc.clone();
    toolkit["nvidia"] = json!({"path": "nvidia-container-runtime"});
    let described = |ids: &[&str]| ids.iter().map(|id| json!({"Source": "cdi", "ID": id})).collect::<Value>();
    let dirs = json!(["/etc/cdi", "/var/run/cdi"]);
    let value = match case {
        "20.10 without toolkit" => json!({"Runtimes": runc, "DefaultRuntime": "runc"}),
        "24.0 with the nvidia runtime" => json!({"Runtimes": toolkit, "DefaultRuntime": "runc"}),
        "28.2 with descriptions" => json!({
            "Runtimes": toolkit, "CDISpecDirs": dirs,
            "DiscoveredDevices": described(&["nvidia.com/gpu=0", &format!("nvidia.com/gpu={UUID}"), &format!("nvidia.com/gpu={SLICE}"), "nvidia.com/gpu=all"]),
        }),
        "28.2 with descriptions by position only" => json!({
            "Runtimes": runc, "CDISpecDirs": dirs, "DiscoveredDevices": described(&["nvidia.com/gpu=0", "nvidia.com/gpu=all"]),
        }),
        "28.2 with another maker's devices" => json!({
            "Runtimes": runc, "CDISpecDirs": dirs,
            "DiscoveredDevices": [{"Source": "cdi", "ID": "amd.com/gpu=0"}, {"Source": "other", "ID": "nvidia.com/gpu=0"}],
        }),
        _ => panic!("no such engine"),
    };
    serde_json::from_value(value).unwrap()
}

fn requested(case: &str, gpus: &[Gpu], runtime: Option<&str>) -> Result<Value, Failure> {
    let host_config = HostConfig { runtime: runtime.map(str::to_owned), ..HostConfig::default() };
    let mut container = ContainerCreateBody { host_config: Some(host_config), ..ContainerCreateBody::default() };
    lend(&mut container, gpus, &of_engine(&info(case)))?;
    Ok(serde_json::to_value(container).unwrap())
}

#[test]
fn each_engine_is_asked_in_the_way_that_it_understands() {
    let host = |value: &Value| value["HostConfig"].clone();
    let visible = |value: &Value| {
        let env = value["Env"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap().to_owned());
        env.filter(|entry| entry.starts_with("NVIDIA_VISIBLE") || entry.starts_with("NVIDIA_DRIVER"))
            .collect::<Vec<_>>()
    };
    let described = requested("28.2 with descriptions", &[gpu(UUID), slice(SLICE)], None).unwrap();
    assert_eq!(
        host(&described),
        json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [format!("nvidia.com/gpu={UUID}"), format!("nvidia.com/gpu={SLICE}")]}]})
    );
    assert_eq!(visible(&described), ["NVIDIA_VISIBLE_DEVICES=void"]);

    let runtime = requested("24.0 with the nvidia runtime", &[gpu(UUID), slice(SLICE)], None).unwrap();
    assert_eq!(host(&runtime), json!({"Runtime": "nvidia"}));
    assert_eq!(
        visible(&runtime),
        [format!("NVIDIA_VISIBLE_DEVICES={UUID},{SLICE}"), "NVIDIA_DRIVER_CAPABILITIES=compute,utility".to_owned()]
    );

    let stronger = requested("24.0 with the nvidia runtime", &[gpu(UUID)], Some("runsc")).unwrap();
    assert_eq!(
        host(&stronger),
        json!({
            "Runtime": "runsc",
            "DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": [UUID], "Capabilities": [["gpu", "compute", "utility"]]}],
        }),
        "a runtime that the operator named is never replaced"
    );
    for request in [described, runtime, stronger] {
        assert!(!request.to_string().contains("Count"), "never by number: {request}");
        for name in EMPTIED {
            assert!(request["Env"].as_array().unwrap().contains(&json!(format!("{name}="))), "{name}");
        }
    }
}

#[test]
fn a_box_without_a_gpu_gets_none_even_where_the_image_asks_for_all() {
    for case in ["20.10 without toolkit", "24.0 with the nvidia runtime", "28.2 with descriptions"] {
        let request = requested(case, &[], None).unwrap();
        assert_eq!(request, json!({"Env": ["NVIDIA_VISIBLE_DEVICES=void"], "HostConfig": {}}), "{case}");
    }
}

#[test]
fn an_engine_that_cannot_name_the_device_is_not_asked_for_another() {
    for case in ["20.10 without toolkit", "28.2 with another maker's devices"] {
        let failure = requested(case, &[gpu(UUID)], None).unwrap_err();
        assert_eq!(failure.message, "The Docker engine cannot show a GPU inside a sandbox", "{case}");
    }
    let failure = requested("28.2 with descriptions by position only", &[gpu(UUID)], None).unwrap_err();
    assert_eq!(failure.code, Code::ResourceMissing);
    assert!(failure.next_step.contains("--device-name-strategy=uuid"), "{failure:?}");
    assert_eq!(failure.detail.as_deref(), Some("it has: nvidia.com/gpu=0, nvidia.com/gpu=all"));
}

#[test]
fn what_an_engine_says_decides_the_case() {
    let host = ToolkitFacts { driver: true, toolkit: true, cdi_spec: false };
    let gpus = [gpu(UUID)];
    for (case, expected) in [
        ("20.10 without toolkit", GpuCase::NotConfigured),
        ("24.0 with the nvidia runtime", GpuCase::Ready(Way::Runtime)),
        ("28.2 with descriptions", GpuCase::Ready(Way::Description)),
        ("28.2 with another maker's devices", GpuCase::NotConfigured),
    ] {
        assert_eq!(judge(host, &gpus, &of_engine(&info(case))), expected, "{case}");
    }
}

#[test]
fn every_known_error_of_an_engine_becomes_cause_and_next_step_with_its_own_words_kept() {
    for (words, cause) in [
        ("could not select device driver \"\" with capabilities: [[gpu]]", "knows no way to show a GPU"),
        ("could not select device driver \"nvidia\" with capabilities: [[gpu]]", "no device driver called nvidia"),
        ("could not select device driver \"cdi\" with capabilities: []", "does not read descriptions"),
        ("Error response from daemon: unknown or invalid runtime name: nvidia", "does not list the runtime"),
        (
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-1",
            "missing, stale, or names another",
        ),
        ("CDI registry initialization failure: invalid spec", "cannot read its descriptions"),
        ("no CDI specification directories specified", "looks nowhere"),
        ("cannot set both Count and DeviceIDs on device request", "a number of GPUs and for names at once"),
        ("unexpected count in CDI device request", "where only names can stand"),
        (
            "nvidia-container-runtime-hook: invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not supported",
            "wants to be asked through descriptions",
        ),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded", "driver is not loaded"),
        (
            "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file",
            "driver's libraries are not on",
        ),
        ("nvidia-container-cli.real: unknown driver capability: all", "too old"),
        ("nvidia-container-cli: device error: GPU-1: unknown device", "does not know the device"),
    ] {
        let failure = explain(words).unwrap_or_else(|| panic!("{words} is not known"));
        assert!(failure.message.contains(cause), "{words}: {failure:?}");
        assert_eq!(failure.detail.as_deref(), Some(words), "the original is kept");
        assert_ne!(failure.next_step, Code::ResourceMissing.next_step(), "{words} has a next step of its own");
        assert!(failure.next_step.ends_with('.'), "{words}");
    }
    assert_eq!(explain("no space left on device"), None);
}

/// A socket that answers like an engine of this `/info`. Keeps the body of every request to create a container, and
/// fails the step after it, so that nothing needs to be played further.
async fn recording_engine(about: Value) -> (tempfile::TempDir, String, Arc<Mutex<Vec<Value>>>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, about.clone(), Arc::clone(&keep)));
        }
    });
    (dir, format!("unix://{}", path.display()), kept)
}

async fn answer(stream: UnixStream, about: Value, keep: Arc<Mutex<Vec<Value>>>) {
    let mut stream = BufReader::new(stream);
    let (mut head, mut line) = (String::new(), String::new());
    while stream.read_line(&mut line).await.is_ok_and(|n| n > 2) {
        head.push_str(&std::mem::take(&mut line));
    }
    if head.is_empty() {
        return;
    }
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.unwrap();
    let wanted = head.lines().next().unwrap_or_default();
    let (status, reply) = match wanted {
        _ if wanted.contains("/version") => (200, json!({"ApiVersion": "1.47", "Version": "28.2.0"})),
        _ if wanted.contains("/info") => (200, about.clone()),
        _ if wanted.contains("/images/") => (200, json!({"Id": "sha256:1", "RepoDigests": ["cuda@sha256:1"]})),
        _ if wanted.contains("/containers/create") => {
            keep.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            (201, json!({"Id": "1", "Warnings": []}))
        }
        _ if wanted.starts_with("DELETE") => (200, json!({})),
        _ => (500, json!({"message": "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=x"})),
    };
    let reply = reply.to_string();
    let text = format!(
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{reply}",
        reply.len()
    );
    // One request for each connection: an upload that is never read to its end must not be taken for the next.
    drop(stream.get_mut().write_all(text.as_bytes()).await);
    drop(stream.get_mut().shutdown().await);
}

#[tokio::test]
async fn the_request_that_reaches_the_engine_names_the_lent_device_and_its_error_is_explained() {
    let mut about = serde_json::to_value(info("28.2 with descriptions")).unwrap();
    about["SecurityOptions"] = json!(["name=seccomp,profile=builtin"]);
    let (_dir, host, kept) = recording_engine(about).await;
    let backend = Arc::new(DockerBackend::connect(Some(&host), Some("cuda".into()), "gpu-test").await.unwrap());
    let spec = SandboxSpec { gpus: vec![gpu(UUID)], ..SandboxSpec::new("onramp-gpu-test") };
    let Err(SandboxError::Failure(failure)) = Sandbox::start(backend, &spec).await else { panic!("it cannot start") };
    assert_eq!(failure.code, Code::ResourceMissing, "{failure:?}");
    assert!(failure.message.contains("missing, stale, or names another"), "{failure:?}");
    assert!(failure.detail.as_deref().unwrap().contains("unresolvable CDI devices nvidia.com/gpu=x"), "{failure:?}");
    let kept = kept.lock().unwrap();
    let [request] = kept.as_slice() else { panic!("one container: {kept:?}") };
    assert_eq!(
        request["HostConfig"]["DeviceRequests"],
        json!([{"Driver": "cdi", "DeviceIDs": [format!("nvidia.com/gpu={UUID}")]}])
    );
    assert_eq!(request["HostConfig"]["NetworkMode"], json!("none"), "all the other walls stand");
    assert!(request["HostConfig"]["Devices"].is_null() && request["HostConfig"]["Privileged"] != json!(true));
}
