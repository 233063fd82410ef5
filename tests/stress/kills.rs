//! `kill -9` under load, again and again, on a store that goes on living.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::store::{Ledger, Random};

/// After so many kills the store is looked at as a whole, and a fresh one begins.
const LIVES: u64 = 50;

pub(crate) async fn run(n: u64) -> Vec<String> {
    let started = std::time::Instant::now();
    let mut random = Random(0x5EED_0001);
    let mut problems = Vec::new();
    let (mut n_acked, mut n_ended, mut n_killed_at_work, mut slowest_open) = (0, 0, 0, Duration::ZERO);
    let mut store: Option<(TempDir, Ledger)> = None;
    for life in 0..n {
        let (dir, mut ledger) =
            store.take().unwrap_or_else(|| (TempDir::new().expect("a directory"), Ledger::default()));
        let began = std::time::Instant::now();
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["child", &dir.path().join("queue").display().to_string(), &format!("k{life}"), "100000", "8"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut open = false;
        for line in lines.by_ref().map_while(Result::ok) {
            open |= line == "open";
            if open {
                break;
            }
        }
        if !open {
            problems.push(format!("life {life}: it did not open"));
        }
        slowest_open = slowest_open.max(began.elapsed());
        let pid = child.id();
        let wait = Duration::from_micros(random.below(60_000));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(wait);
            Command::new("kill").args(["-9", &pid.to_string()]).status()
        });
        for line in lines.map_while(Result::ok) {
            problems.extend(ledger.take(&line).err());
        }
        let _ = killer.join();
        let ended = child.wait();
        n_killed_at_work += u64::from(ended.is_ok_and(|status| status.code().is_none()));
        if (life + 1) % LIVES == 0 || life + 1 == n {
            (n_acked, n_ended) = (n_acked + ledger.acked.len(), n_ended + ledger.ended.len());
            problems.extend(ledger.check(&dir.path().join("queue")).await);
        } else {
            store = Some((dir, ledger));
        }
    }
    println!(
        "kills: {n} lives, {n_killed_at_work} killed at work; {n_acked} acknowledged tasks and {n_ended} acknowledged \
         ends looked for, {} problems; slowest start {slowest_open:?}; {:.0?} in all",
        problems.len(),
        started.elapsed()
    );
    problems
}
