//! What the task store has to survive, done to it: `cargo run --release -p tests --bin queue-stress -- WHAT`.
//!
//! - `kills [N]`: a process under load is killed N times (1000), and the store is opened again each time.
//! - `calls [EVERY]`: one fault at each system call of open, rebuild, commit, rotation and checkpoint: a kill, EIO, ENOSPC.
//!   With EVERY, only at each so-manieth; `calls EVERY NAME`: only at the calls of that name. Needs `strace`.
//! - `order [N]`: N (40) tasks, and what was synced when each of them was acknowledged. Needs `strace`.
//! - `flips [N]`: N (1000) seeded bit flips and cuts, one at a time, over all files of a store.
//!
//! Each prints what it found and ends with exit code 1 when anything was lost, doubled, silent, or did not open.

mod calls;
mod child;
mod flips;
mod kills;
mod order;
mod store;
mod trace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |default: u64| arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(default);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return ExitCode::FAILURE };
    let problems = match arguments.first().map(String::as_str) {
        Some("child") => {
            runtime.block_on(child::main(&arguments[1..]));
            return ExitCode::SUCCESS;
        }
        Some("kills") => runtime.block_on(kills::run(number(1000))),
        Some("calls") => runtime.block_on(calls::run(number(1), arguments.get(2).map(String::as_str))),
        Some("order") => runtime.block_on(order::run(number(40))),
        Some("flips") => runtime.block_on(flips::run(number(1000))),
        _ => {
            eprintln!("usage: queue-stress kills [N] | calls [EVERY [NAME]] | order [N] | flips [N]");
            return ExitCode::from(2);
        }
    };
    for problem in &problems {
        println!("PROBLEM: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
