//! How long a sandbox takes until it is of use, beside what one would take instead: `docker run`, `docker exec` and
//! `git clone --shared`.
//!
//! ```text
//! cargo run --release -p tests --bin sandbox-bench -- [RUNS] [--only ready,exec,workspace,staggered,burst,refill] [--raw FILE]
//! ```
//!
//! Everything runs side by side and in turns, in one process on one machine, so that whatever else the machine does falls
//! on all alike: the same image, the same options, the same files, the same command. Warm numbers stand beside cold ones,
//! with the size of the pool, how often a box stood ready, and what keeping it filled costs. A bar that is missed is
//! printed as missed. Wants the engine and the image that `tests/bring-up.sh` makes.

mod baseline;
mod machine;
mod ours;
mod phases;
mod report;

use std::path::PathBuf;

use crate::report::Report;

/// What was asked for.
struct Options {
    n_runs: usize,
    only: Option<Vec<String>>,
    raw: Option<PathBuf>,
}

impl Options {
    fn parse() -> Self {
        let usage = "usage: sandbox-bench [RUNS] [--only PHASE,...] [--raw FILE]";
        let mut options = Self { n_runs: 30, only: None, raw: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--only" => options.only = Some(words.next().expect(usage).split(',').map(str::to_owned).collect()),
                "--raw" => options.raw = Some(words.next().expect(usage).into()),
                number => options.n_runs = number.parse().expect(usage),
            }
        }
        options
    }

    fn wants(&self, phase: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|one| one == phase))
    }
}

#[tokio::main]
async fn main() {
    // As a task among others, like every claim of a worker.
    tokio::spawn(measure(Options::parse())).await.expect("the measurements end");
}

async fn measure(options: Options) {
    let n = options.n_runs;
    let mut report = Report::new();
    println!("{}", machine::about());
    if options.wants("ready") {
        phases::ready(&mut report, n).await;
    }
    if options.wants("workspace") {
        phases::workspace(&mut report, n).await;
    }
    if options.wants("exec") {
        phases::exec(&mut report, n).await;
    }
    if options.wants("staggered") {
        phases::staggered(&mut report, n).await;
    }
    if options.wants("burst") {
        phases::burst(&mut report).await;
    }
    if options.wants("refill") {
        phases::refill(&mut report, n.min(20)).await;
    }
    report.print_bars();
    if let Some(path) = &options.raw {
        std::fs::write(path, report.raw()).expect("the raw samples are written");
        println!("raw samples: {}", path.display());
    }
}
