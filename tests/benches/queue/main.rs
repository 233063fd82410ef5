//! The task store and the door beside PostgreSQL, which is what one would take instead.
//!
//! ```text
//! cargo run --release -p tests --bin queue-bench -- [cycle|wake|webhook|start|all] [--seconds S] [--rounds N] [--tasks N] [--alone]
//! ```
//!
//! Both sides run on one machine and one file system, in turns, with the same requests, the same number of clients and
//! the same promise: nothing is answered before it was synced to disk. PostgreSQL gets what it is good at: prepared
//! statements, one round trip a verb, `FOR UPDATE SKIP LOCKED` over a partial index, and of several sizes of its
//! connection pool the one that did best; and of our rules (whose turn, one task an issue) it keeps none. A bar that is
//! missed is printed as missed. Wants Debian's `postgresql`, but for `--alone`; a cluster of its own is made and removed.

mod child;
mod cycle;
mod deliveries;
mod load;
mod machine;
mod ours;
mod postgres;
mod report;
mod start;
mod store;
mod wake;
mod webhook;

use std::{path::PathBuf, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use crate::{postgres::Cluster, report::Report};

const USAGE: &str =
    "usage: queue-bench [cycle|wake|webhook|start|all] [--seconds S] [--rounds N] [--tasks N] [--alone]";

/// What was asked for.
pub(crate) struct Options {
    what: String,
    /// How long each side is measured, each time.
    pub(crate) span: Duration,
    /// How many times each side is measured.
    pub(crate) n_rounds: usize,
    /// How many tasks lie in the store that is opened.
    pub(crate) n_tasks: u64,
    /// Without PostgreSQL.
    alone: bool,
    /// Where everything lies, on the file system of the temporary directory.
    pub(crate) dir: PathBuf,
}

impl Options {
    fn parse(words: Vec<String>, dir: PathBuf) -> Self {
        let (span, n_rounds, n_tasks) = (Duration::from_secs(5), 3, 100_000);
        let mut options = Self { what: "all".into(), span, n_rounds, n_tasks, alone: false, dir };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|text| text.parse::<f64>().ok()).expect(USAGE);
            match word.as_str() {
                "--seconds" => options.span = Duration::from_secs_f64(number()),
                "--rounds" => options.n_rounds = (number() as usize).max(1),
                "--tasks" => options.n_tasks = number() as u64,
                "--alone" => options.alone = true,
                "cycle" | "wake" | "webhook" | "start" | "all" => options.what = word,
                _ => panic!("{USAGE}"),
            }
        }
        options
    }

    fn wants(&self, phase: &str) -> bool {
        self.what == phase || self.what == "all"
    }
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "child") {
        return child::main(&words[1..]).await;
    }
    let dir = tempfile::Builder::new().prefix("queue-bench-").tempdir().expect("a temporary directory");
    let options = Options::parse(words, dir.path().to_owned());
    // As a task among others, like everything that asks a queue.
    let mut measuring = tokio::spawn(measure(options));
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be received");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be received");
    tokio::select! {
        ended = &mut measuring => return ended.expect("the measurements end"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // PostgreSQL and the doors end with what holds them.
    measuring.abort();
    let _ = measuring.await;
}

async fn measure(options: Options) {
    let mut report = Report::default();
    println!("{}", machine::about(&options.dir));
    let beside = !options.alone && ["cycle", "wake", "webhook"].into_iter().any(|phase| options.wants(phase));
    let cluster = if beside { Some(Cluster::start(&options.dir.join("postgres")).await) } else { None };
    if let Some(cluster) = &cluster {
        println!("{}", cluster.about().await);
    }
    if options.wants("cycle") {
        cycle::run(&mut report, &options, cluster.as_ref()).await;
    }
    if options.wants("wake") {
        wake::run(&mut report, &options, cluster.as_ref()).await;
    }
    if options.wants("webhook") {
        webhook::run(&mut report, &options, cluster.as_ref()).await;
    }
    // PostgreSQL does not take part, and its processes need not be in the way.
    drop(cluster);
    if options.wants("start") {
        start::run(&mut report, &options).await;
    }
    report.print_bars();
}
