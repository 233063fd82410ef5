//! One fault at each system call. Random moments do not find what hides between two calls; counting them does.
//!
//! A child opens a copy of a prepared store and waits; `strace` is attached, with a fault at the n-th call of one name; the
//! child goes on. Calls are counted for each thread, so that a thread which comes to its n-th call first may hide another's:
//! what was really hit is counted and told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    store::{Ledger, copy, used},
    trace::{self, Fault},
};

/// What a child does while it is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Opens a store that was killed: recovery of journal and index.
    Open,
    /// Opens a store whose index is gone: rebuild from the checkpoint and the journal.
    Rebuild,
    /// Works: commits, rotations, checkpoints, and what goes with them.
    Work,
}

struct Scene {
    phase: Phase,
    template: PathBuf,
    ledger: Ledger,
}

/// How one run ended.
struct Ran {
    ledger: Ledger,
    problems: Vec<String>,
    /// The child ended by itself, and well.
    ended_well: bool,
}

pub(crate) async fn run(every: u64, only: Option<&str>) -> Vec<String> {
    let mut problems = Vec::new();
    let dir = TempDir::new().expect("a directory");
    for phase in [Phase::Open, Phase::Rebuild, Phase::Work] {
        match scene(phase, dir.path()).await {
            Ok(scene) => problems.extend(enumerate(&scene, every.max(1), only).await),
            Err(problem) => problems.push(problem),
        }
    }
    problems
}

/// A store as it is before the phase.
async fn scene(phase: Phase, dir: &Path) -> Result<Scene, String> {
    let template = dir.join(format!("{phase:?}"));
    let mut ledger = used(&template, 40).await.map_err(|failure| failure.to_string())?;
    match phase {
        Phase::Open => {
            // Killed in the middle of work, so that there is something to recover.
            let mut child = Command::new(std::env::current_exe().map_err(|error| error.to_string())?)
                .args(["child", &template.display().to_string(), "killed", "100000", "2"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| error.to_string())?;
            let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
            let mut n_acked = 0;
            for line in lines.map_while(Result::ok) {
                ledger.take(&line)?;
                n_acked += u32::from(line.starts_with("acked"));
                if n_acked == 20 {
                    let _ = child.kill();
                }
            }
            let _ = child.wait();
        }
        Phase::Rebuild => std::fs::remove_dir_all(template.join("index")).map_err(|error| error.to_string())?,
        Phase::Work => {}
    }
    Ok(Scene { phase, template, ledger })
}

async fn enumerate(scene: &Scene, every: u64, only: Option<&str>) -> Vec<String> {
    let started = std::time::Instant::now();
    let work = TempDir::new().expect("a directory");
    let store = work.path().join("queue");
    let log = work.path().join("trace");
    let ran = one(scene, &store, &log, None, &[]).await;
    if !ran.ended_well || !ran.problems.is_empty() {
        return vec![format!("{:?}: without any fault it fails: {:?}", scene.phase, ran.problems)];
    }
    let points: BTreeSet<_> = trace::points(&log).into_iter().collect();
    let paths = trace::paths(&log, &store);
    let mut most: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, name, n) in points.iter().filter(|(_, name, _)| only.is_none_or(|only| only == name)) {
        let most = most.entry(name).or_default();
        *most = (*most).max(*n);
    }
    let mut problems = Vec::new();
    let mut hit = BTreeSet::new();
    let (mut n_runs, mut turn) = (BTreeMap::<&str, u64>::new(), 0u64);
    for (name, most) in &most {
        for n in 1..=*most {
            for fault in [Fault::Kill, Fault::Eio, Fault::Enospc] {
                turn += 1;
                if !turn.is_multiple_of(every) || (fault != Fault::Kill && *name == "close") {
                    continue;
                }
                let ran = one(scene, &store, &log, Some((fault, name, n)), &paths).await;
                let what = format!("{:?}, {fault:?} at {name} {n}", scene.phase);
                problems.extend(ran.problems.iter().map(|problem| format!("{what}: {problem}")));
                let well = ran.ended_well || fault == Fault::Kill;
                if !well {
                    problems.push(format!("{what}: the process did not end well"));
                }
                if fault != Fault::Kill && trace::synced_again_after_failure(&log) {
                    problems.push(format!("{what}: a failed fsync was tried again on the same handle"));
                }
                let found = ran.ledger.check(&store).await;
                problems.extend(found.into_iter().map(|problem| format!("{what}: {problem}")));
                *n_runs.entry(fault_word(fault)).or_default() += 1;
                if fault == Fault::Kill && !ran.ended_well {
                    let struck = trace::points(&log).into_iter().filter(|(_, found, at)| found == name && *at == n);
                    hit.extend(struck.map(|(thread, ..)| (thread, (*name).to_owned(), n)));
                }
            }
        }
    }
    println!(
        "calls: {:?}: {} calls of {} threads; runs {n_runs:?}; kills that struck: {}; {} problems; {:.0?}",
        scene.phase,
        points.len(),
        points.iter().map(|(thread, ..)| thread).collect::<BTreeSet<_>>().len(),
        hit.len(),
        problems.len(),
        started.elapsed()
    );
    problems
}

fn fault_word(fault: Fault) -> &'static str {
    match fault {
        Fault::Kill => "kill",
        Fault::Eio => "EIO",
        Fault::Enospc => "ENOSPC",
    }
}

/// One run on a fresh copy, with or without a fault.
async fn one(scene: &Scene, store: &Path, log: &Path, fault: Option<(Fault, &str, u64)>, paths: &[PathBuf]) -> Ran {
    let _ = std::fs::remove_dir_all(store);
    let _ = std::fs::remove_file(log);
    copy(&scene.template, store).expect("a copy");
    // Enough for some rotations where the work is what is watched.
    let n_tasks = if scene.phase == Phase::Work { "20" } else { "2" };
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["child", &store.display().to_string(), "fault", n_tasks, "1", "gates"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut ledger = scene.ledger.clone();
    let mut problems = Vec::new();
    let mut strace = None;
    let stdout = child.stdout.take().expect("its output");
    let mut opened = true;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        match line.as_str() {
            "ready" | "open" => {
                let watched = if scene.phase == Phase::Work { "open" } else { "ready" };
                if line == watched {
                    strace = Some(trace::attach(child.id(), log, fault, paths));
                }
                go_on(&mut child);
            }
            "it never mends" => problems.push("it never mends".to_owned()),
            refused if refused.starts_with("refused to open") => opened = false,
            other => problems.extend(ledger.take(other).err()),
        }
    }
    let output = child.wait_with_output();
    let ended_well = output.as_ref().is_ok_and(|output| output.status.success());
    if let Some(mut strace) = strace {
        let _ = strace.wait();
    }
    let stderr = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    // What sled panics about is caught, and is no panic of ours.
    if !ended_well && fault.is_some_and(|(fault, ..)| fault != Fault::Kill) {
        problems.push(format!("it ended badly: {}", stderr.chars().take(600).collect::<String>()));
    }
    if !opened && fault.is_none() {
        problems.push("it did not open".to_owned());
    }
    Ran { ledger, problems, ended_well }
}

fn go_on(child: &mut Child) {
    if let Some(stdin) = &mut child.stdin {
        let _ = stdin.write_all(b"go\n");
    }
}
