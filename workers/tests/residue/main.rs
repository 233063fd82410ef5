//! Boxes end in every way there is, and nothing of them stays: no container, no mount, no namespace, no control group, no
//! directory, no file in memory, no descriptor, no process.
//!
//! Some 60 boxes in a normal run; a thousand with
//!
//! ```text
//! ONRAMP_RESIDUE_BOXES=1000 cargo test -p workers --test residue -- --nocapture
//! ```
//!
//! `ONRAMP_RESIDUE_SEED=N` repeats the choices of a run. A binary of its own, because it counts what this process holds.

#![expect(clippy::unwrap_used, reason = "all of this is tests, helpers included")]

mod endings;
mod inventory;
mod proxy;
mod worker;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{StreamExt, stream};
use workers::sandbox::{
    HostTools, SandboxBackend,
    docker::DockerBackend,
    namespace::NamespaceBackend,
    owner::Owner,
    pool::{PoolOptions, Sandboxes},
};

use crate::{
    endings::{Dice, Ending},
    inventory::Seen,
    proxy::Proxy,
};

pub(crate) const IMAGE: &str = "onramp-test/busybox:1";
/// Boxes that are under way at the same time.
const AT_ONCE: usize = 6;
/// What is asynchronous at the other end may take so long: an engine looks for unused namespaces once a minute.
const PATIENCE: Duration = Duration::from_secs(150);

#[expect(clippy::disallowed_methods, reason = "a person's choice for the tests alone")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    variable(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn is_docker_skipped() -> bool {
    variable("ONRAMP_TEST_SKIP_DOCKER").is_some_and(|value| value == "1")
}

/// What belongs to this run and to nobody else.
pub(crate) fn installation() -> String {
    format!("onramp-residue-{}", std::process::id())
}

pub(crate) fn namespaces(dir: &Path) -> Arc<dyn SandboxBackend> {
    let tools = HostTools::detect(None, "/usr/local/bin:/usr/bin:/bin");
    Arc::new(NamespaceBackend::new(dir.join("boxes"), tools, true))
}

pub(crate) async fn engine(host: Option<&str>, installation: &str, dir: &Path) -> Arc<dyn SandboxBackend> {
    let backend = DockerBackend::connect(host, Some(IMAGE.into()), installation).await.unwrap_or_else(|failure| {
        panic!("{failure}. Run tests/bring-up.sh first, or set ONRAMP_TEST_SKIP_DOCKER=1 to leave Docker out.")
    });
    Arc::new(backend.owned_by(Arc::new(Owner::new(&dir.join("owners")).unwrap())))
}

/// Ends `n` boxes, each in a way that chance chooses. Returns how often each way came.
async fn end_many(dir: &Path, n: u64, dice: &mut Dice, seen: &Seen, proxy: Option<&Proxy>) -> [u64; Ending::ALL.len()] {
    let mut counts = [0; Ending::ALL.len()];
    let mut backends = vec![namespaces(dir)];
    if let Some(proxy) = proxy {
        backends.push(engine(Some(&proxy.address()), &installation(), dir).await);
    }
    let pools: Vec<_> =
        backends.iter().map(|backend| Sandboxes::new(backend.clone(), PoolOptions::default())).collect();
    let plan: Vec<(usize, Ending, u64)> =
        (0..n).map(|n| (n as usize % pools.len(), dice.ending(), dice.next())).collect();
    for (_, ending, _) in &plan {
        counts[*ending as usize] += 1;
    }
    let runs = stream::iter(plan).map(async |(pool, ending, seed)| {
        endings::play(&pools[pool], pool == 1, ending, Dice::new(seed), seen, proxy).await;
    });
    runs.buffer_unordered(AT_ONCE).collect::<()>().await;
    for pool in &pools {
        pool.settle().await;
        pool.close().await;
        // What an engine refused to remove while it was cut off is the sweep's.
        let n_swept = pool.sweep().await.expect("sweeps");
        println!("the sweep found {n_swept}");
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_ends_a_box_nothing_of_it_stays() {
    let n = number("ONRAMP_RESIDUE_BOXES").unwrap_or(60);
    let chance = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 1_000_000;
    let seed = number("ONRAMP_RESIDUE_SEED").unwrap_or_else(chance);
    let dir = tempfile::tempdir().unwrap();
    let proxy = match is_docker_skipped() {
        true => {
            eprintln!("SKIPPED: ONRAMP_TEST_SKIP_DOCKER=1, so nothing was tested about what containers leave");
            None
        }
        false => Some(Proxy::start(&dir.path().join("engine.sock")).await),
    };
    let seen = Seen::default();
    let mut dice = Dice::new(seed);
    // What a process makes once and keeps is made before the count.
    end_many(dir.path(), 2, &mut dice, &seen, proxy.as_ref()).await;
    let before = inventory::when_calm(dir.path(), &seen, PATIENCE).await;
    println!("{n} boxes, seed {seed}\nbefore: {before}\n    (machine: {})", inventory::of_the_machine());
    let began = std::time::Instant::now();
    let counts = end_many(dir.path(), n, &mut dice, &seen, proxy.as_ref()).await;
    for (ending, n) in Ending::ALL.iter().zip(counts) {
        println!("{n:>6} {ending:?}");
    }
    let n_workers = 1 + n / 100;
    for _ in 0..n_workers {
        worker::is_killed_with_its_boxes(dir.path(), &seen, proxy.is_some()).await;
    }
    println!("{n_workers} workers were killed with their boxes");
    let (n_seen, n_groups) = seen.counts();
    println!("{n_seen} boxes were looked at while they lived, with {n_groups} control groups; {:?}", began.elapsed());
    let after = inventory::until_equal(dir.path(), &seen, &before, PATIENCE).await;
    println!("after: {after}\n    (machine: {})", inventory::of_the_machine());
    assert_eq!(after.comparable(), before.comparable());
    assert!(n_seen * 2 >= n, "only {n_seen} boxes were looked at while they lived");
}
