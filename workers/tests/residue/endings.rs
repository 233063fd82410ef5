//! The ways in which a box may end.

use std::{sync::Arc, time::Duration};

use tokio::{process::Command as Program, time::timeout};
use workers::sandbox::{
    Command, FileKind, Limits, Output, Sandbox, SandboxError, SandboxSpec, TreeFile, pool::Sandboxes,
};

use crate::{
    installation,
    inventory::{self, Seen},
    proxy::Proxy,
};

/// Chance, so that a run can be repeated.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x1234_5678_9abc_def1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn ending(&mut self) -> Ending {
        Ending::ALL[self.below(Ending::ALL.len() as u64) as usize]
    }
}

/// What happens to a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Stopped as it should be.
    Stopped,
    /// Let go of.
    Dropped,
    /// Whoever asked for it does not wait for it.
    GivenUpAtStart,
    /// Let go of in the middle of a command that ignores every signal it can, with daemons beside it.
    DroppedAtWork,
    /// Let go of while files go in.
    DroppedWithFiles,
    /// Everything in it is killed from inside.
    KilledInside,
    /// Its first process, or its launcher, is killed from outside.
    KilledOutside,
    /// It runs out of memory.
    OutOfMemory,
    /// Its command takes too long.
    TimedOut,
    /// It runs out of processes.
    Forked,
    /// The engine is not to be reached for a while, in the middle.
    CutOff,
}

impl Ending {
    pub(crate) const ALL: [Self; 11] = [
        Self::Stopped,
        Self::Dropped,
        Self::GivenUpAtStart,
        Self::DroppedAtWork,
        Self::DroppedWithFiles,
        Self::KilledInside,
        Self::KilledOutside,
        Self::OutOfMemory,
        Self::TimedOut,
        Self::Forked,
        Self::CutOff,
    ];
}

pub(crate) fn spec(prefix: &str, seed: u64) -> SandboxSpec {
    let limits = Limits { memory_bytes: 48 << 20, pids: 24, disk_bytes: 32 << 20, ..Limits::default() };
    SandboxSpec { limits, ..SandboxSpec::new(format!("{prefix}-{seed:x}")) }
}

async fn run(sandbox: &Sandbox, line: &str, limit: Duration) -> Result<(), SandboxError> {
    sandbox.run(&Command::shell(line, limit), &mut |_: Output<'_>| {}).await.map(drop)
}

/// Remembers what the box has on the machine, by the processes in it.
async fn look(name: &str, docker: bool, seen: &Seen) -> Option<String> {
    if docker {
        let format = ["inspect", "--format", "{{.State.Pid}} {{.NetworkSettings.SandboxKey}}", name];
        let output = Program::new("docker").args(format).output().await.ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (pid, space) = said.trim().split_once(' ').unwrap_or_default();
        seen.look(pid);
        seen.hold(space);
        let pid = pid.to_owned();
        return (!pid.is_empty() && pid != "0").then_some(pid);
    }
    // A launcher of ours whose child is in a group of that name.
    let inside = |pid: &String| {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|groups| groups.contains(&format!("/{name}\n")))
    };
    for launcher in inventory::children() {
        if let Some(pid) = inventory::children_of(&launcher).into_iter().find(inside) {
            seen.look(&pid);
            return Some(launcher);
        }
    }
    None
}

/// Opens a box and ends it so.
pub(crate) async fn play(
    pool: &Arc<Sandboxes>,
    docker: bool,
    ending: Ending,
    mut dice: Dice,
    seen: &Seen,
    proxy: Option<&Proxy>,
) {
    let spec = spec(&installation(), dice.next());
    let short = Duration::from_millis(dice.below(60));
    if ending == Ending::GivenUpAtStart {
        drop(timeout(short * if docker { 10 } else { 1 }, pool.open(&spec)).await);
        return;
    }
    let sandbox = match pool.open(&spec).await {
        Ok(sandbox) => sandbox,
        // Another box is cut off from the engine just now.
        Err(error) if docker => return assert!(proxy.is_some_and(|proxy| proxy.n_cuts() > 0), "{error}"),
        Err(error) => panic!("{error}"),
    };
    let pid = look(&spec.name, docker, seen).await;
    let limit = Duration::from_secs(20);
    match ending {
        // Both are refused while the engine is cut off; then the sweep has them.
        Ending::Stopped => drop(sandbox.stop().await),
        Ending::Dropped | Ending::GivenUpAtStart => drop(sandbox),
        Ending::DroppedAtWork => {
            let line = "(trap '' TERM INT HUP; while :; do :; done) & (setsid sleep 1000 &) ; trap '' TERM; sleep 1000";
            drop(timeout(short, run(&sandbox, line, limit)).await);
        }
        Ending::DroppedWithFiles => {
            let file =
                |n: u32| TreeFile { path: format!("d/{n}").into(), kind: FileKind::Regular, bytes: vec![1; 90_000] };
            drop(timeout(short / 4, sandbox.put((0..100).map(file).collect())).await);
        }
        Ending::KilledInside => drop(timeout(limit, run(&sandbox, "kill -9 -1; sleep 1000", limit)).await),
        Ending::KilledOutside => {
            if let Some(pid) = pid {
                // The first process of a container, or the launcher of a box.
                drop(Program::new("kill").args(["-9", &pid]).status().await);
            }
            drop(timeout(limit, run(&sandbox, "sleep 1000", limit)).await);
        }
        Ending::OutOfMemory => drop(timeout(limit, run(&sandbox, "tail /dev/zero", limit)).await),
        Ending::TimedOut => drop(run(&sandbox, "trap '' TERM; sleep 1000", short).await),
        Ending::Forked => {
            let line = "n=0; while [ $n -lt 60 ]; do sleep 1000 & n=$((n+1)); done; wait";
            drop(timeout(Duration::from_secs(1), run(&sandbox, line, limit)).await);
        }
        Ending::CutOff => {
            if let Some(proxy) = proxy.filter(|_| docker) {
                proxy.cut(Duration::from_millis(100) + short * 10);
            }
            drop(run(&sandbox, "sleep 0.01", limit).await);
        }
    }
}
