//! A worker that is killed with all of its boxes, and the one that cleans up after it.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command as Program,
    time::timeout,
};
use workers::sandbox::{Sandbox, SandboxSpec};

use crate::{
    endings, engine, installation,
    inventory::{Seen, children_of},
    namespaces, variable,
};

/// Where the child finds what it shares with its parent; no child without it.
const DIRECTORY: &str = "ONRAMP_RESIDUE_CHILD";
const INSTALLATION: &str = "ONRAMP_RESIDUE_INSTALLATION";
const BOXES: u64 = 3;
const LIMIT: Duration = Duration::from_secs(60);

/// The child: opens boxes, says so, and waits to be killed.
#[tokio::test]
async fn a_worker_that_waits_to_be_killed() {
    let (Some(dir), Some(installation)) = (variable(DIRECTORY), variable(INSTALLATION)) else { return };
    let dir = Path::new(&dir);
    let mut boxes = Vec::new();
    let mut backends = vec![namespaces(dir)];
    if !crate::is_docker_skipped() {
        backends.push(engine(None, &installation, dir).await);
    }
    for backend in &backends {
        for n in 0..BOXES {
            let seed = u64::from(std::process::id()) * 100 + n;
            let spec: SandboxSpec = endings::spec(&installation, seed);
            let sandbox = Sandbox::start(Arc::clone(backend), &spec).await.expect("starts");
            let busy = workers::sandbox::Command::shell("(setsid sleep 1000 &); sleep 1000", Duration::from_secs(900));
            let sandbox = Arc::new(sandbox);
            let at_work = Arc::clone(&sandbox);
            tokio::spawn(async move { drop(at_work.run(&busy, &mut |_| {}).await) });
            boxes.push(sandbox);
        }
    }
    println!("\nREADY {}", boxes.len());
    std::future::pending::<()>().await;
}

/// Starts such a worker, kills it when it is ready, and sweeps as the next worker does.
pub(crate) async fn is_killed_with_its_boxes(dir: &Path, seen: &Seen, docker: bool) {
    let mut child = Program::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker::a_worker_that_waits_to_be_killed", "--nocapture"])
        .env(DIRECTORY, dir)
        .env(INSTALLATION, installation())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with("READY ") {
                return;
            }
        }
        panic!("the worker ended before it was ready");
    };
    timeout(LIMIT, ready).await.expect("the worker is ready in time");
    let worker = child.id().unwrap().to_string();
    for launcher in children_of(&worker) {
        children_of(&launcher).iter().for_each(|pid| seen.look(pid));
    }
    child.kill().await.unwrap();

    let namespaces = namespaces(dir);
    let n_boxes = namespaces.sweep(&|_| false).await.unwrap();
    assert_eq!(n_boxes as u64, BOXES, "the next worker finds what the dead one left");
    if docker {
        let engine = engine(None, &installation(), dir).await;
        // An engine ends a box whose worker is gone, and the container stays for the sweep.
        assert_eq!(engine.sweep(&|_| false).await.unwrap() as u64, BOXES);
    }
}
