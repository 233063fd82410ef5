//! Deliveries through the door of `onramp serve`, to the answer that comes after the sync; beside a handler that does the
//! same on PostgreSQL. Each door is a process of its own; the load generator is this one.

use std::{sync::Arc, time::Duration};

use crate::{
    Options,
    child::Child,
    deliveries::Deliveries,
    load::{self, Pace},
    postgres::Cluster,
    report::{self, Measured, Report},
};

const N_CONNECTIONS: [usize; 3] = [8, 32, 64];
/// Of these sizes of PostgreSQL's pool the better one counts.
const POOLS: [usize; 2] = [8, 32];
const WANTED_PER_SECOND: f64 = 5000.0;
const WANTED_P99_MS: f64 = 15.0;
/// More than any door here takes in a second.
const MOST_PER_SECOND: f64 = 40_000.0;

pub(crate) async fn run(report: &mut Report, options: &Options, cluster: Option<&Cluster>) {
    let n = (options.span.as_secs_f64() * 1.2 * MOST_PER_SECOND) as usize;
    let deliveries = Arc::new(Deliveries::new(n));
    println!("\nDeliveries of {} bytes, signed, each about an issue of its own", deliveries.body_len());
    let bench = Bench { options, cluster, deliveries };
    report::head("Deliveries, as fast as they are answered");
    for n_connections in N_CONNECTIONS {
        let (ours, theirs) = bench.both(n_connections, Pace::AsFastAsAnswered).await;
        let measured = format!(
            "{:.0} a second, p99 {:.1} ms; wanted {WANTED_PER_SECOND} and {WANTED_P99_MS}",
            ours.per_second, ours.took.p99
        );
        let met = ours.per_second >= WANTED_PER_SECOND && ours.took.p99 < WANTED_P99_MS;
        report.bar(&format!("webhook, connections: {n_connections}"), met, measured);
        if let Some(theirs) = theirs {
            let ratio = ours.per_second / theirs.per_second;
            report.at_least(&format!("webhook, connections: {n_connections}, over PostgreSQL"), ratio, 2.0);
        }
    }
    report::head(&format!(
        "Deliveries, {WANTED_PER_SECOND} due a second, whatever the answers do; from when each was due"
    ));
    let (ours, _) = bench.both(64, Pace::PerSecond(WANTED_PER_SECOND)).await;
    let measured =
        format!("{:.0} a second, p99 {:.1} ms, wanted under {WANTED_P99_MS}", ours.per_second, ours.took.p99);
    // What was not taken in time shows as a lower rate and as waiting.
    let met = ours.per_second >= 0.99 * WANTED_PER_SECOND && ours.took.p99 < WANTED_P99_MS;
    report.bar(&format!("webhook, {WANTED_PER_SECOND} due a second"), met, measured);
}

struct Bench<'a> {
    options: &'a Options,
    cluster: Option<&'a Cluster>,
    deliveries: Arc<Deliveries>,
}

impl Bench<'_> {
    /// Ours, and the better one of theirs.
    async fn both(&self, n_connections: usize, pace: Pace) -> (Measured, Option<Measured>) {
        let mut ours = Vec::new();
        let mut theirs = vec![Vec::new(); POOLS.len()];
        for round in 0..self.options.n_rounds {
            for (pool, measured) in POOLS.iter().zip(&mut theirs) {
                let Some(cluster) = self.cluster else { continue };
                drop(cluster.fresh(1).await);
                let socket = cluster.socket().display().to_string();
                let door = Child::start(&["postgres", &socket, &pool.to_string()], &self.options.dir);
                measured.push(self.load(&door, n_connections, pace).await);
                drop(door);
            }
            let dir = self.options.dir.join(format!("door-{n_connections}-{round}"));
            let door = Child::start(&["onramp", &dir.display().to_string()], &self.options.dir);
            ours.push(self.load(&door, n_connections, pace).await);
            drop(door);
            std::fs::remove_dir_all(dir).expect("the store is removed");
        }
        let theirs = POOLS.iter().zip(&theirs).filter(|(_, measured)| !measured.is_empty());
        let theirs = theirs.map(|(pool, measured)| {
            let name = format!("PostgreSQL, HTTP: {n_connections}, connections: {pool}");
            report::row(&name, measured)
        });
        let theirs = theirs.max_by(|one, other| one.per_second.total_cmp(&other.per_second));
        (report::row(&format!("onramp, HTTP: {n_connections}"), &ours), theirs)
    }

    async fn load(&self, door: &Child, n_connections: usize, pace: Pace) -> Measured {
        let span: Duration = self.options.span;
        load::run(door.addr(), &self.deliveries, n_connections, pace, span).await
    }
}
