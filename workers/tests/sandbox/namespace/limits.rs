//! Limits of embedded sandboxes: those that the kernel keeps by itself, and what happens where it can not keep one.

use std::sync::Arc;

use tasks::{Code, Limit};
use workers::sandbox::{Command, HostTools, Limits, Sandbox, SandboxError, namespace::NamespaceBackend};

use super::{LIMIT, code_of, is_root, own_backend};
use crate::suite::{run, sh, spec};

#[tokio::test]
async fn limits_hold_and_are_survived_by_the_guest() {
    let (_root, backend) = own_backend(HostTools::default());
    let mut spec = spec(None);
    spec.limits = Limits { pids: 32, disk_bytes: 8 << 20, memory_bytes: 64 << 20, ..Limits::default() };
    let sandbox = Sandbox::start(backend, &spec).await.unwrap();
    let bomb = "n=0; while [ $n -lt 100 ]; do sleep 20 & n=$((n+1)); done; wait";
    let (exit, _, stderr) = run(&sandbox, &Command::shell(bomb, LIMIT)).await;
    let said = String::from_utf8_lossy(&stderr);
    assert!(!exit.success() && said.contains("fork"), "{exit:?} {said}");
    sandbox.kill_all().await.unwrap();
    for place in ["/workspace/x", "/tmp/x"] {
        assert_ne!(code_of(&sandbox, &format!("head -c 20000000 /dev/zero > {place}")).await, Some(0), "{place}");
        let bytes: u64 = sh(&sandbox, &format!("stat -c %s {place}")).await.parse().unwrap();
        assert!(bytes <= 8 << 20, "{place} has {bytes} bytes");
    }
    assert_eq!(sh(&sandbox, "ulimit -c").await, "0");
    assert_eq!(sh(&sandbox, "echo alive").await, "alive");
    sandbox.stop().await.unwrap();
}

#[tokio::test]
async fn a_limit_that_cannot_be_kept_here_is_a_refusal_until_it_is_accepted_by_name() {
    let lacking: Vec<Limit> =
        Limit::ALL.into_iter().filter(|limit| !NamespaceBackend::enforced().contains(limit)).collect();
    if is_root() {
        // Run again as nobody, who may not make control groups: see below.
        assert_eq!(lacking, [], "root can keep every limit, on machines like those that test this");
        return;
    }
    assert_eq!(lacking, [Limit::Memory, Limit::Cpu], "this user may make control groups after all");
    let root = tempfile::tempdir().unwrap();
    let start = async |accepted: &[Limit]| {
        let backend = NamespaceBackend::new(root.path().join("boxes"), HostTools::default(), false);
        let spec = spec(None);
        Sandbox::start(Arc::new(backend.accept_without(accepted.iter().copied())), &spec).await
    };
    for accepted in [&[][..], &[Limit::Memory], &[Limit::Cpu, Limit::Pids]] {
        match start(accepted).await {
            Err(SandboxError::Failure(failure)) => {
                assert_eq!(failure.code, Code::WeakIsolation);
                assert!(failure.next_step.contains("[sandbox] accept_without = [\""), "{failure:?}");
            }
            other => panic!("{accepted:?}: {other:?}"),
        }
    }
    start(&[Limit::Cpu, Limit::Memory]).await.unwrap().stop().await.unwrap();
}
