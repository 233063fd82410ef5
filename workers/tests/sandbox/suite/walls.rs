//! Limits: each holds, is named in the exit of the command that ran into it, and leaves a sandbox that can still be used.

use std::time::{Duration, Instant};

use tasks::LimitHit;
use workers::sandbox::{Command, Limits, Sandbox};

use super::{Backend, LIMIT, run, sh, spec};

/// Soon enough for whatever ends by itself at a limit; a box that hangs runs into it.
const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

async fn with_limits(backend: Backend, limits: Limits, test: impl AsyncFnOnce(&Sandbox)) {
    let spec = workers::sandbox::SandboxSpec { limits, ..spec(None) };
    let sandbox = Sandbox::start(backend, &spec).await.expect("starts");
    test(&sandbox).await;
    let began = Instant::now();
    sandbox.stop().await.expect("stops");
    assert!(began.elapsed() < SOON, "teardown took {:?}", began.elapsed());
}

fn limits() -> Limits {
    Limits { memory_bytes: 128 * MIB, pids: 64, disk_bytes: 48 * MIB, ..Limits::default() }
}

/// Control groups are what memory and CPU are limited by; who may not make any has accepted to go without.
fn has_groups(sandbox: &Sandbox) -> bool {
    use std::os::unix::fs::MetadataExt;
    let has = sandbox.kind() == "docker" || std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !has {
        eprintln!("SKIPPED: this user may not make control groups, so memory and CPU are not limited here");
    }
    has
}

pub(crate) async fn out_of_memory_is_named_and_survived(backend: Backend) {
    with_limits(backend, limits(), async |sandbox| {
        if !has_groups(sandbox) {
            return;
        }
        let (exit, ..) = run(sandbox, &Command::shell("exec tail /dev/zero", SOON)).await;
        assert_eq!((exit.code, exit.signal, exit.timed_out), (None, Some(9), false));
        assert_eq!(exit.limits, [LimitHit::Memory { bytes: 128 * MIB }]);
        // Also when it was a child of a child, and a shell made an exit code of it.
        let (exit, ..) = run(sandbox, &Command::shell("(tail /dev/zero); exit 3", SOON)).await;
        assert_eq!((exit.code, exit.limits.as_slice()), (Some(3), &[LimitHit::Memory { bytes: 128 * MIB }][..]));
        // A command is killed before the guest is: a moment after its start the kernel knows.
        let (exit, ..) =
            run(sandbox, &Command::shell("until grep -q 1000 /proc/$$/oom_score_adj; do :; done", SOON)).await;
        assert_eq!((exit.code, exit.limits.len()), (Some(0), 0));
    })
    .await;
}

pub(crate) async fn a_fork_bomb_is_named_and_survived(backend: Backend) {
    with_limits(backend, limits(), async |sandbox| {
        // Each of its processes lives on and keeps trying.
        let bomb = "b() { b & b & sleep 1; b; }; b; sleep 1000";
        let exit = run(sandbox, &Command::shell(bomb, Duration::from_secs(3))).await.0;
        assert!(!exit.success(), "{exit:?}");
        assert!(exit.limits.contains(&LimitHit::Pids { pids: 64 }), "{exit:?}");
        sandbox.kill_all().await.expect("nothing outruns it");
        let (exit, stdout, _) = run(sandbox, &Command::shell("echo alive", LIMIT)).await;
        assert_eq!((stdout.as_slice(), exit.limits.as_slice()), (&b"alive\n"[..], &[][..]));
    })
    .await;
}

const FULL: [LimitHit; 1] = [LimitHit::Disk { bytes: 48 * MIB }];

/// Each process may hold so many files open and no more: it is told so by the kernel, and the guest beside it has its own.
pub(crate) async fn a_flood_of_open_files_is_refused_and_survived(backend: Backend) {
    with_limits(backend, limits(), async |sandbox| {
        // It opens all that it is named before it reads the first.
        let bomb = "paste $(yes /dev/null | head -n 70000)";
        let (exit, _, told) = run(sandbox, &Command::shell(bomb, SOON)).await;
        assert_eq!((exit.code, exit.limits.as_slice()), (Some(1), &[][..]));
        assert!(String::from_utf8_lossy(&told).contains("oo many open files"), "{}", told.escape_ascii());
        let many = format!("for i in 1 2 3; do {bomb} 2>/dev/null & done; wait; echo through");
        assert_eq!(sh(sandbox, &many).await, "through");
        assert_eq!(sh(sandbox, "cat /dev/null && echo ok").await, "ok");
    })
    .await;
}

pub(crate) async fn writing_past_the_cap_ends_everything_inside_and_is_named(backend: Backend) {
    with_limits(backend, limits(), async |sandbox| {
        // No single file is larger than what is allowed. A daemon of its own session does not outlive it either.
        let daemon = "(setsid sleep 1000 >/dev/null 2>&1 </dev/null &); mkdir -p a/b ~/c;";
        let fill = "for n in 1 2 3 4; do head -c 10000000 /dev/zero >a/b/$n; head -c 10000000 /dev/zero >~/c/$n; done;";
        let line = format!("{daemon} {fill} echo written; sleep 1000");
        let began = Instant::now();
        let (exit, stdout, _) = run(sandbox, &Command::shell(&line, SOON)).await;
        assert_eq!((exit.signal, exit.timed_out, &exit.limits[..]), (Some(9), false, &FULL[..]), "{exit:?} {stdout:?}");
        assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
        assert_eq!(sh(sandbox, "ps | grep 'sleep 100[0]' | wc -l || true").await.trim(), "0");
        // It can be used again when there is room again.
        sh(sandbox, "rm -r a ~/c").await;
        sh(sandbox, "sleep 2.5; head -c 20000000 /dev/zero >x; sleep 1.5").await;
    })
    .await;
}

pub(crate) async fn what_has_no_name_or_no_content_counts_too(backend: Backend) {
    with_limits(backend, limits(), async |sandbox| {
        // Deleted and held open; what is put in place of them is nothing.
        let hold = "n=3; while [ $n -lt 9 ]; do eval \"exec $n>f; rm f; head -c 10000000 /dev/zero >&$n\"; n=$((n+1)); done; sleep 1000";
        let (exit, ..) = run(sandbox, &Command::shell(hold, SOON)).await;
        assert_eq!((exit.signal, &exit.limits[..]), (Some(9), &FULL[..]), "{exit:?}");
        // Empty files take what the file system has only so much of. Deep down, where paths are too long.
        let many = "d=0123456789012345678901234567890123456789; n=0; while [ $n -lt 60 ]; do mkdir $d; cd $d; n=$((n+1)); done;
            n=0; while true; do : >$n; n=$((n+1)); done";
        let (exit, ..) = run(sandbox, &Command::shell(many, SOON)).await;
        assert_eq!((exit.signal, exit.timed_out, &exit.limits[..]), (Some(9), false, &FULL[..]), "{exit:?}");
        sh(sandbox, "echo alive").await;
    })
    .await;
}

pub(crate) async fn what_is_hidden_in_closed_directories_counts_when_it_is_missed(backend: Backend) {
    with_limits(backend, limits(), async |sandbox| {
        let hide = "mkdir -p shut/deep; n=3; while [ $n -lt 9 ]; do eval \"exec $n>shut/deep/$n\"; n=$((n+1)); done;
            chmod 0 shut/deep shut; n=3; while [ $n -lt 9 ]; do eval \"head -c 12000000 /dev/zero >&$n\"; n=$((n+1)); done;
            sleep 1000";
        let (exit, ..) = run(sandbox, &Command::shell(hide, SOON)).await;
        assert_eq!((exit.signal, exit.timed_out, &exit.limits[..]), (Some(9), false, &FULL[..]), "{exit:?}");
        assert_eq!(sh(sandbox, "stat -c %a shut").await, "0", "as it was left");
    })
    .await;
}

pub(crate) async fn memory_that_looks_like_a_disk_is_bounded(backend: Backend) {
    with_limits(backend, limits(), async |sandbox| {
        for place in ["/tmp", "/run", "/dev/shm", "/var/tmp"] {
            // Ended by the end of the room there, or of the memory; in either case there is an end.
            let line = format!("! head -c 200000000 /dev/zero >{place}/x && rm -f {place}/x");
            let (exit, ..) = run(sandbox, &Command::shell(&line, SOON)).await;
            assert!(!exit.timed_out, "{place}: {exit:?}");
            sh(sandbox, &format!("rm -f {place}/x")).await;
        }
    })
    .await;
}

pub(crate) async fn a_file_larger_than_the_cap_is_named(backend: Backend) {
    with_limits(backend, limits(), async |sandbox| {
        let (exit, ..) = run(sandbox, &Command::shell("exec dd if=/dev/zero of=x bs=1 count=1 seek=60M", LIMIT)).await;
        assert_eq!((exit.signal, &exit.limits[..]), (Some(25), &FULL[..]), "{exit:?}");
        sh(sandbox, "echo alive").await;
    })
    .await;
}

pub(crate) async fn what_a_command_waited_for_the_cpus_is_told_with_its_timeout(backend: Backend) {
    let limits = Limits { cpus: 0.05, ..limits() };
    with_limits(backend, limits, async |sandbox| {
        if !has_groups(sandbox) {
            return;
        }
        let busy = Command::shell("while true; do :; done", Duration::from_secs(2));
        let (exit, ..) = run(sandbox, &busy).await;
        assert!(exit.timed_out, "{exit:?}");
        match exit.limits.as_slice() {
            [LimitHit::Cpu { millicpus: 50, held_back_ms }] => assert!(*held_back_ms > 500, "{exit:?}"),
            other => panic!("{other:?}"),
        }
        let calm = run(sandbox, &Command::shell("sleep 1000", Duration::from_secs(2))).await.0;
        assert_eq!((calm.timed_out, calm.limits.len()), (true, 0));
    })
    .await;
}

pub(crate) async fn a_flood_of_output_is_named(backend: Backend) {
    with_limits(backend, limits(), async |sandbox| {
        let (exit, stdout, _) = run(sandbox, &Command::shell("head -c 70000000 /dev/zero", LIMIT)).await;
        assert_eq!((exit.code, exit.limits), (Some(0), vec![LimitHit::Output { bytes: 64 * MIB }]));
        assert_eq!(stdout.len() as u64, 64 * MIB);
    })
    .await;
}
