//! The allocator with real locks and a tool that says what the driver would say.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;
use crate::gpu::inventory::tests::{MIXED, MIXED_LIST, WHOLE};

/// A machine whose driver's tool prints what lies in files, so that a test can change what it says.
struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new(query: &str, list: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("query", query);
        put("list", list);
        put("processes", "");
        let at = dir.path().display();
        let script = format!(
            "#!/bin/sh\ncase $1 in\n--query-gpu=*) f=query;;\n-L) f=list;;\n*) f=processes;;\nesac\n\
             while IFS= read -r line; do printf '%s\\n' \"$line\"; done < {at}/$f\n[ ! -e {at}/broken ]\n"
        );
        put("nvidia-smi", &script);
        fs::set_permissions(dir.path().join("nvidia-smi"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// As one process of this machine sees it. A second call is a second process: locks belong to open files.
    async fn process(&self) -> Gpus {
        self.process_with(GpuOptions::default()).await
    }

    async fn process_with(&self, options: GpuOptions) -> Gpus {
        let options = GpuOptions { lock_dir: Some(self.path("locks")), ..options };
        Gpus::find(GpuHost::with_tool(self.path("nvidia-smi")), options).await
    }
}

fn request(text: &str) -> GpuRequest {
    text.parse().unwrap()
}

async fn lease(gpus: &Gpus, text: &str) -> GpuLease {
    gpus.lease(&request(text), &mut |words| eprintln!("{words}")).await.unwrap()
}

/// The first thing that somebody who waits is told; the place in the queue is given up then.
async fn told(gpus: &Gpus, text: &str) -> String {
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = |words: &str| drop(say.send(words.to_owned()));
    let request = request(text);
    tokio::select! {
        lease = gpus.lease(&request, &mut waiting) => panic!("{lease:?} was lent"),
        words = said.recv() => words.unwrap(),
    }
}

fn ids(lease: &GpuLease) -> Vec<&str> {
    lease.gpus().iter().map(|gpu| gpu.id.as_str()).collect()
}

#[tokio::test]
async fn what_nobody_has_is_refused_before_anything_is_started() {
    let rig = Rig::new(WHOLE, "");
    let gpus = rig.process().await;
    assert_eq!(gpus.n_devices(), 3);
    let failure = gpus.lease(&request("b300"), &mut |_| panic!("nobody waits for it")).await.unwrap_err();
    assert_eq!(failure.code, Code::ResourceMissing);
    insta::assert_snapshot!(failure.message, @"The task asks for a GPU (b300), and this worker has no such: it has NVIDIA H100 80GB HBM3, NVIDIA A100-SXM4-40GB, Tesla T4");
    assert!(gpus.could(&request("b300, any:3")).is_ok());
    assert!(gpus.could(&request("any:4")).is_err());
    let none = Gpus::none().could(&request("any")).unwrap_err();
    insta::assert_snapshot!(none, @"The task asks for a GPU (any), and this worker has none to lend (E017)");
}

#[tokio::test]
async fn a_device_is_lent_by_its_uuid_to_one_at_a_time_and_its_time_is_counted() {
    let rig = Rig::new(WHOLE, "");
    let gpus = rig.process().await;
    let first = lease(&gpus, "h100").await;
    assert_eq!(ids(&first), ["GPU-11111111-aaaa-bbbb-cccc-000000000000"]);
    assert_eq!(told(&gpus, "h100").await, "waiting for a GPU (h100)");
    let other = lease(&gpus, "h100, any").await;
    assert_eq!(ids(&other), ["GPU-11111111-aaaa-bbbb-cccc-000000000002"], "the smallest that will do");
    let two = lease(&gpus, "any").await;
    assert_eq!(ids(&two), ["GPU-11111111-aaaa-bbbb-cccc-000000000001"]);
    let (request, mut hear) = (request("any:2"), |words: &str| eprintln!("{words}"));
    let waiting = gpus.lease(&request, &mut hear);
    tokio::pin!(waiting);
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    let lent = other.release();
    assert!(lent > Duration::ZERO);
    drop(two);
    let both = waiting.await.unwrap();
    assert_eq!(both.gpus().len(), 2);
    let (before, wall) = (both.gpu_time(), Instant::now());
    time::sleep(Duration::from_millis(2)).await;
    let wall = wall.elapsed();
    assert!(both.gpu_time() - before >= wall * 2, "two devices count twice");
}

#[tokio::test]
async fn two_processes_of_one_machine_are_kept_apart_and_a_dead_one_holds_nothing() {
    let rig = Rig::new(WHOLE, "");
    let (one, other) = (rig.process().await, rig.process().await);
    let held = lease(&one, "h100").await;
    assert_eq!(told(&other, "h100").await, "waiting for a GPU (h100)");
    let (request, mut hear) = (request("h100"), |_: &str| {});
    let waiting = other.lease(&request, &mut hear);
    let (lease, ()) = tokio::join!(waiting, async { drop(held) });
    assert_eq!(lease.unwrap().gpus().len(), 1, "it looks again by itself");
    let locked = fs::read_dir(rig.path("locks")).unwrap().count();
    assert_eq!(locked, 1, "one file for each device that was ever lent");
}

#[tokio::test]
async fn a_device_with_a_foreign_process_is_not_lent() {
    let rig = Rig::new(WHOLE, "");
    fs::write(rig.path("processes"), "GPU-11111111-aaaa-bbbb-cccc-000000000000, 4242, /usr/bin/python3\n").unwrap();
    let gpus = rig.process().await;
    let said = told(&gpus, "h100").await;
    assert_eq!(
        said,
        "waiting for a GPU (h100); GPU-11111111-aaaa-bbbb-cccc-000000000000 is used by python3 (process 4242), which is \
         not ours"
    );
    assert_eq!(ids(&lease(&gpus, "h100, any").await), ["GPU-11111111-aaaa-bbbb-cccc-000000000002"]);
    fs::write(rig.path("processes"), "").unwrap();
    let ours = lease(&gpus, "h100").await;
    // Our own box computes on it now: that is no reason to refuse the others.
    fs::write(rig.path("processes"), "GPU-11111111-aaaa-bbbb-cccc-000000000000, 5, cc\n").unwrap();
    assert_eq!(told(&gpus, "h100").await, "waiting for a GPU (h100)");
    drop(ours);
    assert!(told(&gpus, "h100").await.contains("cc (process 5)"), "what outlives its box keeps the device from others");
}

#[tokio::test]
async fn who_cannot_look_does_not_lend() {
    let rig = Rig::new(WHOLE, "");
    let gpus = rig.process().await;
    fs::write(rig.path("broken"), "").unwrap();
    let said = told(&gpus, "h100").await;
    assert!(said.contains("nvidia-smi failed"), "{said}");
    assert!(rig.process().await.could(&request("any")).is_err(), "a driver that fails has nothing to lend");
    fs::remove_file(rig.path("broken")).unwrap();
    fs::write(rig.path("locks"), "a file where the directory should be").unwrap();
    let said = told(&gpus, "h100").await;
    assert!(said.contains("no lock can be taken in "), "{said}");
}

#[tokio::test]
async fn slices_are_lent_by_their_own_name_and_only_what_the_operator_lends() {
    let rig = Rig::new(MIXED, MIXED_LIST);
    let gpus = rig.process().await;
    assert_eq!(gpus.n_devices(), 3);
    let small = lease(&gpus, "min_vram=9GiB").await;
    assert_eq!(ids(&small), ["MIG-GPU-22222222-0/7/0"]);
    assert_eq!(ids(&lease(&gpus, "a100").await), ["GPU-22222222-1"]);
    let only = GpuOptions { only: vec!["GPU-22222222-1".into()], ..GpuOptions::default() };
    let gpus = rig.process_with(only).await;
    assert_eq!(gpus.n_devices(), 1);
    assert!(gpus.could(&request("1g.10gb")).is_err());
}

#[tokio::test]
async fn who_waits_too_long_is_told_so() {
    let rig = Rig::new(WHOLE, "");
    let gpus = rig.process_with(GpuOptions { wait_timeout: Duration::from_millis(1), ..GpuOptions::default() }).await;
    let _held = lease(&gpus, "h100").await;
    let failure = gpus.lease(&request("h100"), &mut |_| {}).await.unwrap_err();
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::ResourceMissing, "No GPU (h100) became free within 0 s")
    );
}

#[tokio::test]
async fn a_machine_without_the_tool_has_nothing_to_lend() {
    let gpus = Gpus::find(GpuHost::with_tool(Path::new("/nowhere/nvidia-smi").into()), GpuOptions::default()).await;
    assert_eq!(gpus.n_devices(), 0);
}
