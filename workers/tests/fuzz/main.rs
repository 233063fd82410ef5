//! Both ends of the frames under bytes that no peer of ours writes: nothing panics, waits beyond its limit or grows
//! without bound.
//!
//! Seeded and bounded, so that it runs with all other tests. For long:
//!
//! ```text
//! ONRAMP_FUZZ_CASES=200000 cargo test -p workers --test fuzz -- --nocapture
//! ```
//!
//! `ONRAMP_FUZZ_SEED=N` begins at a seed that a failure has told. It is a binary of its own, because it counts every byte
//! that is allocated and hears of every panic, also of those in tasks that nobody waits for.

#![expect(clippy::unwrap_used, reason = "all of this is tests, helpers included")]

mod dice;
mod guest_side;
mod meter;
mod peer;
mod worker_side;

use std::time::{SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "a person's choice for the tests alone")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The seeds of this run: `normally` so many.
fn seeds(normally: u64) -> std::ops::Range<u64> {
    let chance = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 1_000_000_000;
    let first = number("ONRAMP_FUZZ_SEED").unwrap_or_else(chance);
    let n = number("ONRAMP_FUZZ_CASES").unwrap_or(normally);
    println!("{n} cases from seed {first}");
    first..first + n
}

/// One after the other, because they count the same memory.
#[test]
fn nothing_that_comes_through_the_stream_panics_waits_or_grows() {
    meter::hear_panics();
    guest_side::decoding_costs_no_more_than_its_input(seeds(4000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        worker_side::an_honest_guest_is_believed().await;
        worker_side::a_guest_that_does_not_listen_cannot_make_the_worker_hoard().await;
        worker_side::hostile_streams(seeds(600)).await;
        worker_side::stalls_end_at_their_limit().await;
        guest_side::a_guest_outlives_or_ends_on_whatever_it_hears(seeds(40)).await;
    });
    assert_eq!(meter::panics(), Vec::<String>::new(), "panics in the code under test");
}
