//! What it costs to start with a hundred thousand tasks in the store: in a process of its own, after one that filled it.

use std::{path::Path, time::Instant};

use tasks::{Intake as _, TaskFilter};

use crate::{
    Options,
    child::Child,
    machine,
    ours::Ours,
    report::Report,
    store::{Store as _, request},
};

const N_CLIENTS: u64 = 64;
const WANTED_SECONDS: f64 = 3.0;
const WANTED_MIB: f64 = 150.0;

pub(crate) async fn run(report: &mut Report, options: &Options) {
    println!("\nStart with {} tasks in the store, in a process of its own; load {}", options.n_tasks, machine::load());
    println!("{:<46} {:>9} {:>12}  all rounds, seconds", "", "seconds", "most MiB");
    for kind in ["waiting", "done"] {
        for end in ["closed", "killed"] {
            let dir = options.dir.join(format!("{kind}-{end}"));
            let path = dir.display().to_string();
            Child::start(&["fill", &path, kind, end, &options.n_tasks.to_string()], &options.dir).ended();
            let mut rounds = Vec::new();
            for _ in 0..options.n_rounds {
                let child = Child::start(&["open", &path], &options.dir);
                let numbers: Vec<f64> = child.said().split(' ').filter_map(|number| number.parse().ok()).collect();
                child.ended();
                let [seconds, mib] = numbers[..] else { panic!("two numbers") };
                rounds.push((seconds, mib));
            }
            let seconds: Vec<String> = rounds.iter().map(|(seconds, _)| format!("{seconds:.2}")).collect();
            // Only the first start after a kill has something to repair.
            let worst = rounds.iter().map(|(seconds, _)| *seconds).fold(0.0, f64::max);
            let most = rounds.iter().map(|(_, mib)| *mib).fold(0.0, f64::max);
            let name = format!("all {kind}, {end} before");
            println!("{name:<46} {worst:>9.2} {most:>12.0}  {}", seconds.join(" "));
            let measured =
                format!("{worst:.2} s and {most:.0} MiB, wanted under {WANTED_SECONDS} s and {WANTED_MIB} MiB");
            report.bar(&format!("start, {name}"), worst < WANTED_SECONDS && most < WANTED_MIB, measured);
            std::fs::remove_dir_all(dir).expect("the store is removed");
        }
    }
}

/// Fills a store, and ends by closing it or without warning.
pub(crate) async fn fill(dir: &Path, kind: &str, end: &str, n_tasks: u64) {
    let store = Ours::open(dir).await;
    let clients: Vec<_> = (0..N_CLIENTS)
        .map(|client| {
            let (store, done) = (store.clone(), kind == "done");
            tokio::spawn(async move {
                for n in (client..n_tasks).step_by(N_CLIENTS as usize) {
                    store.enqueue(request(n)).await;
                    if done {
                        let lease = store.lease(client as usize).await;
                        store.acknowledge(lease).await;
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client ends");
    }
    println!("filled");
    if end == "killed" {
        std::process::abort();
    }
    store.0.shutdown().await;
}

/// Opens a store, says how long that took and how much memory at most, and that everything is there.
pub(crate) async fn open(dir: &Path) {
    let began = Instant::now();
    let store = Ours::open(dir).await;
    let took = began.elapsed().as_secs_f64();
    let mib = machine::own_memory("VmHWM");
    let newest = store.0.list(TaskFilter { limit: Some(1), ..TaskFilter::default() }).await.expect("it answers");
    assert_eq!(newest.len(), 1);
    println!("{took} {mib}");
    store.0.shutdown().await;
}
