//! Histories by their numbers, several at a time.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, RngSeed, TestRng, TestRunner},
};

use super::{history::op, *};

async fn history(ops: Vec<Op>) {
    let mut world = World::new();
    // From now on nothing that it has not read may go.
    world.read().await;
    for op in ops {
        world.step(op).await;
        world.check().await;
    }
    let (sequence, hash) = world.queue().journal_head();
    world.restart(true, 0).await;
    world.check().await;
    world.finish().await;
    world.check().await;
    world.read().await;
    world.queue().shutdown().await;
    let anchor = tasks::Anchor { sequence, hash: hash.to_string() };
    match audit::verify(&world.dir.path().join("journal"), Some(&anchor)) {
        // What a checkpoint stands for may be gone by now.
        Ok(_) | Err(audit::AuditError::Gone { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    let why = fs::read_to_string(world.dir.path().join("index.damaged/WHY"));
    // What was copied while sled wrote may be no index at all; then it was made anew.
    assert!(why.is_err() || world.n_kills > 0, "an index was put aside: {why:?}");
}

/// The first history, and how many: as `PROPTEST_RNG_SEED` and `PROPTEST_CASES` say; without, fewer than proptest's own 256.
fn asked() -> (u64, u64) {
    let config = ProptestConfig::default();
    let first = match config.rng_seed {
        RngSeed::Fixed(first) => first,
        RngSeed::Random => 1,
    };
    (first, if config.cases == 256 { 96 } else { config.cases.into() })
}

/// The history of this number, made as small as it can be where it fails.
fn run(number: u64, n_ops: &AtomicU64) -> Result<(), String> {
    let config = ProptestConfig { cases: 1, failure_persistence: None, max_shrink_iters: 500, ..Default::default() };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let ran = runner.run(&prop::collection::vec(op(), 1..60), |ops| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        n_ops.fetch_add(ops.len() as u64, Ordering::Relaxed);
        runtime.block_on(history(ops));
        Ok(())
    });
    ran.map_err(|error| format!("history {number} (PROPTEST_CASES=1 PROPTEST_RNG_SEED={number} replays it): {error}"))
}

#[test]
fn any_history_ends_as_the_model_says() {
    let (first, n) = asked();
    let (next, n_ops, began) = (AtomicU64::new(first), AtomicU64::new(0), std::time::Instant::now());
    let lane = || -> Result<(), String> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= first.saturating_add(n) {
                return Ok(());
            }
            run(number, &n_ops)?;
            if (number + 1 - first).is_multiple_of(1000) {
                println!(
                    "{} histories, {} operations, {:.0?}",
                    number + 1 - first,
                    n_ops.load(Ordering::Relaxed),
                    began.elapsed()
                );
            }
        }
    };
    // A history waits for its threads more than it computes.
    let n_lanes = 3 * std::thread::available_parallelism().map_or(1, usize::from);
    let failed: Vec<_> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..n_lanes).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().filter_map(|lane| lane.join().unwrap().err()).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("{n} histories, {} operations, {:.0?}: all as the model says", n_ops.into_inner(), began.elapsed());
}
