//! Enqueue, lease and acknowledge, each on disk before the next: how many whole cycles a second, by how many clients.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Options,
    ours::Ours,
    postgres::Cluster,
    report::{self, Measured, Report},
    store::{Store, request},
};

const N_CLIENTS: [usize; 3] = [1, 8, 64];
/// Of these sizes of the pool, as far as there are clients for them, the best one counts.
const POOLS: [usize; 2] = [16, 64];
const WARM_UP: Duration = Duration::from_millis(500);

pub(crate) async fn run(report: &mut Report, options: &Options, cluster: Option<&Cluster>) {
    report::head("Enqueue + lease + acknowledge, three durable steps; whole cycles");
    for n_clients in N_CLIENTS {
        let mut pools: Vec<usize> = POOLS.iter().map(|size| n_clients.min(*size)).collect();
        pools.dedup();
        let mut ours = Vec::new();
        let mut theirs = vec![Vec::new(); pools.len()];
        for round in 0..options.n_rounds {
            for (pool, measured) in pools.iter().zip(&mut theirs) {
                let Some(cluster) = cluster else { continue };
                measured.push(cycles(cluster.fresh(*pool).await, n_clients, options.span).await);
            }
            let dir = options.dir.join(format!("cycle-{n_clients}-{round}"));
            let store = Ours::open(&dir).await;
            ours.push(cycles(store.clone(), n_clients, options.span).await);
            store.0.shutdown().await;
            std::fs::remove_dir_all(dir).expect("the store is removed");
        }
        let theirs = pools.iter().zip(&theirs).filter(|(_, measured)| !measured.is_empty());
        let theirs = theirs.map(|(pool, measured)| {
            let name = format!("PostgreSQL, clients: {n_clients}, connections: {pool}");
            report::row(&name, measured).per_second
        });
        let best = theirs.max_by(f64::total_cmp);
        let ours = report::row(&format!("onramp, clients: {n_clients}"), &ours);
        if let Some(best) = best {
            report.at_least(&format!("cycle, clients: {n_clients}"), ours.per_second / best, 2.0);
        }
    }
}

/// Each client goes through one cycle after the other.
async fn cycles<S: Store>(store: S, n_clients: usize, span: Duration) -> Measured {
    let n = Arc::new(AtomicU64::new(0));
    let from = Instant::now() + WARM_UP;
    let clients: Vec<_> = (0..n_clients)
        .map(|client| {
            let (store, n) = (store.clone(), n.clone());
            tokio::spawn(async move {
                let mut samples = Vec::new();
                loop {
                    let began = Instant::now();
                    if began >= from + span {
                        return samples;
                    }
                    store.enqueue(request(n.fetch_add(1, Ordering::Relaxed))).await;
                    let leased = store.lease(client).await;
                    store.acknowledge(leased).await;
                    if began >= from {
                        samples.push(began.elapsed());
                    }
                }
            })
        })
        .collect();
    let mut samples = Vec::new();
    for client in clients {
        samples.extend(client.await.expect("a client ends"));
    }
    Measured::of(&samples, from.elapsed())
}
