//! What every backend's sandboxes must do. A backend's module calls `for_each_behaviour!` with a function that returns it.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tasks::TaskId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use workers::sandbox::{
    ChangedPath, Command, Exit, FileKind, Found, Limits, Output, Sandbox, SandboxBackend, SandboxError, SandboxSpec,
    TreeFile,
};

/// One test per behaviour. `$backend` is an async function that returns the backend, or `None` to skip with a message.
macro_rules! for_each_behaviour {
    ($backend:path) => {
        for_each_behaviour! { $backend:
            exit_codes_and_signals_are_told
            outputs_are_separate_and_binary_safe
            three_megabytes_of_input_come_back
            the_environment_is_what_was_given
            a_program_that_does_not_start_is_told_why
            a_timeout_kills_the_whole_group
            a_command_that_obeys_its_timeout_need_not_be_killed
            kill_all_gets_a_daemon
            a_background_child_does_not_hold_up_its_command
            a_dropped_run_kills_its_group
            what_is_put_is_found_changed_and_got
            only_what_git_can_carry_is_told_as_a_file
            names_may_be_any_bytes
            paths_cannot_leave_the_workspace
            get_is_bounded
            a_flood_of_output_holds_up_nobody
            output_beyond_the_cap_is_dropped
            tunnels_carry_both_ways_and_close_by_halves
            a_tunnel_that_nobody_reads_holds_up_nobody
            many_commands_run_side_by_side
            nothing_inside_gets_at_the_guest
            there_is_no_network_and_no_privilege
        }
    };
    ($backend:path: $($behaviour:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $behaviour() {
            if let Some(backend) = $backend().await {
                $crate::suite::$behaviour(backend).await;
            }
        })+
    };
}

pub(crate) type Backend = Arc<dyn SandboxBackend>;

const LIMIT: Duration = Duration::from_secs(60);

/// A specification with a name of its own.
pub(crate) fn spec(image: Option<&str>) -> SandboxSpec {
    static N: AtomicU32 = AtomicU32::new(0);
    let name = format!("onramp-test-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
    let limits = Limits { memory_bytes: 512 << 20, disk_bytes: 1 << 30, pids: 256, ..Limits::default() };
    SandboxSpec { name, task: TaskId::from_bytes([0; 16]), image: image.map(str::to_owned), limits }
}

/// Starts a sandbox for a test and stops it whatever the test does.
pub(crate) async fn with_sandbox(backend: Backend, test: impl AsyncFnOnce(&Sandbox)) {
    let sandbox = Sandbox::start(backend, &spec(None)).await.expect("starts");
    let outcome = AssertUnwindSafe(test(&sandbox)).catch_unwind().await;
    sandbox.stop().await.expect("stops");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command and collects what it writes.
pub(crate) async fn run(sandbox: &Sandbox, command: &Command) -> (Exit, Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut collect = |output: Output<'_>| match output {
        Output::Stdout(bytes) => stdout.extend_from_slice(bytes),
        Output::Stderr(bytes) => stderr.extend_from_slice(bytes),
    };
    let exit = sandbox.run(command, &mut collect).await.expect("runs");
    (exit, stdout, stderr)
}

/// Runs a line of shell that must succeed, and returns its output.
pub(crate) async fn sh(sandbox: &Sandbox, line: &str) -> String {
    let (exit, stdout, stderr) = run(sandbox, &Command::shell(line, LIMIT)).await;
    assert!(exit.success(), "{line}: {exit:?} {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("UTF-8").trim_end().to_owned()
}

fn file(path: impl AsRef<[u8]>, kind: FileKind, bytes: impl AsRef<[u8]>) -> TreeFile {
    TreeFile { path: path.as_ref().to_vec(), kind, bytes: bytes.as_ref().to_vec() }
}

fn changed(path: impl AsRef<[u8]>, now: Found) -> ChangedPath {
    ChangedPath { path: path.as_ref().to_vec(), now }
}

/// Bytes that do not compress or repeat, the same each time.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..n.div_ceil(8)).flat_map(|_| next()).take(n).collect()
}

// --- commands ---

pub(crate) async fn exit_codes_and_signals_are_told(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let (exit, ..) = run(sandbox, &Command::shell("exit 42", LIMIT)).await;
        assert_eq!((exit.code, exit.signal, exit.timed_out), (Some(42), None, false));
        let (exit, ..) = run(sandbox, &Command::shell("kill -11 $$", LIMIT)).await;
        assert_eq!((exit.code, exit.signal, exit.timed_out), (None, Some(11), false));
        let work = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done";
        let (exit, ..) = run(sandbox, &Command::shell(work, LIMIT)).await;
        assert!(exit.success() && !exit.cpu.is_zero() && exit.cpu < exit.wall * 2, "{exit:?}");
        assert!((100 << 10..64 << 20).contains(&exit.max_rss_bytes), "{exit:?}");
    })
    .await;
}

pub(crate) async fn outputs_are_separate_and_binary_safe(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let line = r"printf '\000\377\001out'; printf '\000\376\n\r\002err' >&2";
        let (exit, stdout, stderr) = run(sandbox, &Command::shell(line, LIMIT)).await;
        assert!(exit.success());
        assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"\0\xff\x01out"[..], &b"\0\xfe\n\r\x02err"[..]));
    })
    .await;
}

pub(crate) async fn three_megabytes_of_input_come_back(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let input = noise(3 << 20);
        let cat = Command { stdin: Some(input.clone()), ..Command::shell("cat", LIMIT) };
        let (exit, stdout, _) = run(sandbox, &cat).await;
        assert!(exit.success());
        assert!(stdout == input, "{} of {} bytes", stdout.len(), input.len());
        // A command need not read what it is given.
        let deaf = Command { stdin: Some(input), ..Command::shell("exec <&-; echo done", LIMIT) };
        let (exit, stdout, _) = run(sandbox, &deaf).await;
        assert_eq!((exit.code, stdout.as_slice()), (Some(0), &b"done\n"[..]));
        // Without input, there is an end and not a wait.
        assert_eq!(sh(sandbox, "cat | wc -c").await.trim(), "0");
    })
    .await;
}

pub(crate) async fn the_environment_is_what_was_given(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let env = BTreeMap::from([("GREETING".into(), "two words\nand a line".into()), ("TERM".into(), "mine".into())]);
        let command =
            Command { env, cwd: "/tmp".into(), ..Command::shell(r#"echo "$GREETING|$TERM|$HOME|$LANG|$PWD""#, LIMIT) };
        let (_, stdout, _) = run(sandbox, &command).await;
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        assert_eq!(stdout, "two words\nand a line|mine|/home/onramp|C.UTF-8|/tmp\n");
        let names = sh(sandbox, "env | cut -d= -f1 | sort").await;
        let known = ["HOME", "LANG", "OLDPWD", "PATH", "PWD", "SHLVL", "TERM", "_"];
        assert!(names.lines().all(|name| known.contains(&name)), "{names}");
        assert_eq!(sh(sandbox, "pwd; touch here ~/there /tmp/too && umask").await, "/workspace\n0022");
        // Signals are neither blocked nor ignored because of us.
        assert_eq!(sh(sandbox, "grep -E 'Sig(Blk|Ign)' /proc/self/status | tr -d '0\\t\\n'").await, "SigBlk:SigIgn:");
        // A program is looked up in the path of the command.
        let env = BTreeMap::from([("PATH".into(), "/workspace/bin".into())]);
        sandbox.put(vec![file("bin/greet", FileKind::Executable, "#!/bin/sh\necho hi $1")]).await.unwrap();
        let greet = Command { argv: vec!["greet".into(), "you".into()], env, ..Command::shell("", LIMIT) };
        assert_eq!(run(sandbox, &greet).await.1, b"hi you\n");
    })
    .await;
}

pub(crate) async fn a_program_that_does_not_start_is_told_why(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sandbox
            .put(vec![file("plain", FileKind::Regular, "x"), file("odd", FileKind::Executable, "#!/none\n")])
            .await
            .unwrap();
        let why = async |program: &str, cwd: &str| {
            let argv = vec![program.to_owned()];
            let command = Command { argv, cwd: cwd.into(), ..Command::shell("", LIMIT) };
            match sandbox.run(&command, &mut |_| {}).await {
                Err(SandboxError::CannotRun { program: named, reason }) if named == program => reason,
                other => panic!("{program}: {other:?}"),
            }
        };
        assert_eq!(why("no-such-program", "/").await, "there is no such program in PATH (ENOENT)");
        assert_eq!(why("/bin/no-such-program", "/").await, "there is no such file (ENOENT)");
        assert_eq!(why("/workspace/plain", "/").await, "it is not executable (EACCES)");
        assert_eq!(why("/workspace/odd", "/").await, "the interpreter or loader that it names is not there");
        assert_eq!(why("/bin/sh", "/no/such/place").await, "the working directory /no/such/place is not there");
        assert_eq!(sh(sandbox, "echo alive").await, "alive");
    })
    .await;
}

pub(crate) async fn a_timeout_kills_the_whole_group(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let line = "trap '' TERM; (trap '' TERM; echo grandchild; sleep 1000; sleep 1000) & sleep 1000; sleep 1000";
        let began = Instant::now();
        let (exit, stdout, _) = run(sandbox, &Command::shell(line, Duration::from_millis(300))).await;
        assert_eq!((exit.code, exit.signal, exit.timed_out), (None, Some(9), true));
        assert_eq!(stdout, b"grandchild\n");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(exit.wall >= Duration::from_millis(1300), "TERM first, KILL a second later: {exit:?}");
        assert_eq!(sh(sandbox, "ps | grep 'sleep 100[0]' | wc -l || true").await.trim(), "0");
    })
    .await;
}

pub(crate) async fn a_command_that_obeys_its_timeout_need_not_be_killed(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let (exit, ..) = run(sandbox, &Command::shell("sleep 1000", Duration::from_millis(200))).await;
        assert!(exit.timed_out && !exit.success() && exit.wall < Duration::from_millis(900), "{exit:?}");
        let line = "trap 'echo bye; exit 3' TERM; while true; do sleep 0.02; done";
        let (exit, stdout, _) = run(sandbox, &Command::shell(line, Duration::from_millis(200))).await;
        assert_eq!((exit.code, exit.timed_out, stdout.as_slice()), (Some(3), true, &b"bye\n"[..]));
    })
    .await;
}

pub(crate) async fn kill_all_gets_a_daemon(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        // Forked twice and in a session of its own: neither a group nor a parent leads to it.
        let daemon = "(setsid sh -c 'echo $$ >pid; while true; do sleep 0.1; done' >/dev/null 2>&1 </dev/null &) ;
            until [ -s pid ]; do sleep 0.02; done; cat pid";
        let pid = sh(sandbox, daemon).await;
        sh(sandbox, &format!("kill -0 {pid}")).await;
        sandbox.kill_all().await.unwrap();
        sh(sandbox, &format!("! kill -0 {pid} 2>/dev/null && ! [ -e /proc/{pid} ]")).await;
        sandbox.kill_all().await.expect("with nobody left it is done at once");
    })
    .await;
}

pub(crate) async fn a_background_child_does_not_hold_up_its_command(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let began = Instant::now();
        let (exit, stdout, _) = run(sandbox, &Command::shell("sleep 1000 & echo $!; exit 5", LIMIT)).await;
        assert_eq!((exit.code, exit.timed_out), (Some(5), false));
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        // It lives on: a setup command may start a database.
        sh(sandbox, &format!("kill {}", String::from_utf8_lossy(&stdout))).await;
    })
    .await;
}

pub(crate) async fn a_dropped_run_kills_its_group(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let line = "sleep 1000 & echo $! $$; yes 2>/dev/null; sleep 1000";
        let command = Command::shell(line, LIMIT);
        let (told, pids) = tokio::sync::oneshot::channel();
        let mut told = Some(told);
        let mut first = |output: Output<'_>| {
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = output;
            if let Some(told) = told.take() {
                told.send(String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned()).unwrap();
            }
        };
        let pids = tokio::select! {
            exit = sandbox.run(&command, &mut first) => panic!("ended by itself: {exit:?}"),
            pids = pids => pids.unwrap(),
        };
        let gone = format!("for pid in {pids}; do while kill -0 $pid 2>/dev/null; do sleep 0.02; done; done");
        sh(sandbox, &gone).await;
    })
    .await;
}

pub(crate) async fn many_commands_run_side_by_side(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let commands =
            (0..20).map(|n| async move { sh(sandbox, &format!("sleep 0.1; echo {n}")).await == n.to_string() });
        let began = Instant::now();
        assert!(futures_util::future::join_all(commands).await.into_iter().all(|same| same));
        assert!(began.elapsed() < Duration::from_secs(2), "one after the other? {:?}", began.elapsed());
    })
    .await;
}

// --- files ---

pub(crate) async fn what_is_put_is_found_changed_and_got(backend: Backend) {
    use FileKind::{Executable, Regular, Symlink};
    with_sandbox(backend, async |sandbox| {
        let big = noise(1 << 20);
        let mut files = vec![
            file("README", Regular, "hello"),
            file("empty", Regular, ""),
            file("bin/tool", Executable, "#!/bin/sh\necho tool"),
            file("deep/er/and/deeper/file", Regular, &big),
            file("link", Symlink, "deep/er"),
            file("dangling", Symlink, "/no/such/../place"),
        ];
        sandbox.put(files.clone()).await.unwrap();
        assert_eq!(
            sh(sandbox, "bin/tool; cat README; readlink link; readlink dangling").await,
            "tool\nhellodeep/er\n/no/such/../place"
        );
        assert_eq!(sh(sandbox, "ls -ld README bin bin/tool | cut -c1-10").await, "-rw-r--r--\ndrwxr-xr-x\n-rwxr-xr-x");

        // Old enough not to count as changed only for being new.
        sh(sandbox, "sleep 0.2").await;
        sandbox.mark().await.unwrap();
        assert_eq!(sandbox.changes().await.unwrap(), []);
        sh(sandbox, "rm empty dangling; chmod +x README; echo x >>deep/er/and/deeper/file; touch new; ln -sf bin link")
            .await;
        let found = |path: &str, kind, size| changed(path, Found::File(kind, size));
        let expected = [
            changed("dangling", Found::Nothing),
            found("README", Executable, 5),
            found("deep/er/and/deeper/file", Regular, (1 << 20) + 2),
            changed("empty", Found::Nothing),
            found("link", Symlink, 3),
            found("new", Regular, 0),
        ];
        let mut expected = expected.to_vec();
        expected.sort_by(|a, b| a.path.cmp(&b.path));
        // A link that leads to a directory is replaced by `ln -sf` only from inside of it: both are right.
        let changes = sandbox.changes().await.unwrap();
        let changes: Vec<_> = changes.into_iter().filter(|change| change.path != b"deep/er/bin").collect();
        let expected: Vec<_> = expected
            .into_iter()
            .filter(|change| change.path != b"link" || changes.iter().any(|found| found.path == b"link"))
            .collect();
        assert_eq!(changes, expected);

        // Same content, same size, and the times set back: still found.
        sandbox.mark().await.unwrap();
        sh(sandbox, "sleep 0.1; printf HELLO >README; touch -d '2020-01-01 00:00' README").await;
        let changes = sandbox.changes().await.unwrap();
        assert!(changes.contains(&found("README", Executable, 5)), "{changes:?}");

        files.retain(|file| file.path != b"empty" && file.path != b"dangling" && file.path != b"link");
        files[0] = file("README", Executable, "HELLO");
        files[2].bytes.extend_from_slice(b"x\n");
        let got = sandbox.get(files.iter().map(|file| file.path.clone()).collect(), 4 << 20).await.unwrap();
        assert!(got == files);

        // Replacing and deleting, with the directories that become empty.
        sandbox.put(vec![file("README", Regular, "again"), file("bin/tool", Symlink, "../README")]).await.unwrap();
        assert_eq!(sh(sandbox, "cat bin/tool; ls -l README | cut -c1-10").await, "again-rw-r--r--");
        let paths = ["deep/er/and/deeper/file", "bin/tool", "never/was/there"].map(|path| path.as_bytes().to_vec());
        sh(sandbox, "rm -f deep/er/bin").await;
        sandbox.delete(paths.to_vec()).await.unwrap();
        assert_eq!(sh(sandbox, "ls -d deep bin never 2>/dev/null || echo none").await, "none");
        assert_eq!(sh(sandbox, "cat README").await, "again");
    })
    .await;
}

pub(crate) async fn only_what_git_can_carry_is_told_as_a_file(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sh(sandbox, "mkdir -p .git old/.git && touch .git/HEAD old/.git/HEAD old/file && sleep 0.1").await;
        sandbox.mark().await.unwrap();
        let line =
            "mkfifo pipe; mkdir -p new/.git sub/dir; touch new/.git/HEAD new/file .git/config old/.git/config old/more;
            mkdir locked; touch locked/in; chmod 0 locked; echo gitdir: x >sub/dir/.git";
        sh(sandbox, line).await;
        let expected = [
            changed("locked", Found::Special),
            changed("new", Found::NestedRepository),
            changed("old/more", Found::File(FileKind::Regular, 0)),
            changed("pipe", Found::Special),
            changed("sub/dir", Found::NestedRepository),
        ];
        assert_eq!(sandbox.changes().await.unwrap(), expected);
        let refused = sandbox.get(vec![b"pipe".to_vec()], 100).await.unwrap_err();
        assert_eq!(refused.to_string(), "the sandbox could not read files: pipe: it is neither a file nor a link");
        let refused = sandbox.get(vec![b"gone".to_vec()], 100).await.unwrap_err();
        assert!(matches!(refused, SandboxError::Refused { .. }), "{refused}");
    })
    .await;
}

pub(crate) async fn names_may_be_any_bytes(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sandbox.mark().await.unwrap();
        let names: [&[u8]; 5] =
            [b"new\nline", b"\xff\xfe not \xc3 utf-8", b" -rf *", b"\"q'\\", b"a\tb/\x01\x7f/\xe2\x80\xae"];
        let mut files: Vec<_> = names.iter().map(|name| file(name, FileKind::Regular, name)).collect();
        sandbox.put(files.clone()).await.unwrap();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let changes = sandbox.changes().await.unwrap();
        let paths: Vec<_> = changes.into_iter().map(|change| change.path).collect();
        assert_eq!(paths, files.iter().map(|file| file.path.clone()).collect::<Vec<_>>());
        assert!(sandbox.get(paths, 1000).await.unwrap() == files);
    })
    .await;
}

pub(crate) async fn paths_cannot_leave_the_workspace(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sh(sandbox, "mkdir /tmp/out; echo secret >/tmp/out/secret; ln -s /tmp/out escape; ln -s . self; touch file")
            .await;
        let paths = [
            "escape/x",
            "escape/secret",
            "self/x",
            "file/x",
            "../x",
            "a/../../x",
            "/tmp/out/x",
            "a//b",
            "./x",
            "a/",
            "",
        ];
        for path in paths {
            let refused = |result: Result<(), SandboxError>, what: &str| match result {
                Err(SandboxError::Refused { .. }) => {}
                other => panic!("{what} {path:?}: {other:?}"),
            };
            refused(sandbox.put(vec![file(path, FileKind::Regular, "x")]).await, "put");
            refused(sandbox.put(vec![file(path, FileKind::Symlink, "x")]).await, "link");
            refused(sandbox.delete(vec![path.into()]).await, "delete");
            refused(sandbox.get(vec![path.into()], 100).await.map(drop), "get");
        }
        // A link itself is read, replaced and deleted, never what it points to.
        let got = sandbox.get(vec![b"escape".to_vec()], 100).await.unwrap();
        assert_eq!(got, [file("escape", FileKind::Symlink, "/tmp/out")]);
        sandbox.put(vec![file("escape", FileKind::Regular, "mine")]).await.unwrap();
        sandbox.delete(vec![b"self".to_vec()]).await.unwrap();
        assert_eq!(
            sh(sandbox, "ls /tmp/out; cat /tmp/out/secret escape; ls").await,
            "secret\nsecret\nmineescape\nfile"
        );
    })
    .await;
}

pub(crate) async fn get_is_bounded(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sh(sandbox, "head -c 3000000 /dev/zero >big").await;
        let got = sandbox.get(vec![b"big".to_vec()], 3_000_000).await.unwrap();
        assert_eq!(got[0].bytes.len(), 3_000_000);
        match sandbox.get(vec![b"big".to_vec()], 2_999_999).await {
            Err(SandboxError::TooMuch { limit: 2_999_999, unit: "bytes" }) => {}
            other => panic!("{:?}", other.map(|files| files.len())),
        }
        assert_eq!(sh(sandbox, "echo alive").await, "alive");
    })
    .await;
}

// --- flow ---

pub(crate) async fn a_flood_of_output_holds_up_nobody(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let mut n_bytes = 0_u64;
        let mut count = |output: Output<'_>| {
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = output;
            n_bytes += bytes.len() as u64;
        };
        let flood = Command::shell("head -c 20000000 /dev/zero; head -c 1000 /dev/zero >&2", LIMIT);
        let others = async {
            for _ in 0..10 {
                assert_eq!(sh(sandbox, "echo alive").await, "alive");
            }
        };
        let (exit, ()) = tokio::join!(sandbox.run(&flood, &mut count), others);
        assert!(exit.unwrap().success());
        assert_eq!(n_bytes, 20_001_000);
    })
    .await;
}

pub(crate) async fn output_beyond_the_cap_is_dropped(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let mut n_bytes = 0_u64;
        let mut count = |output: Output<'_>| {
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = output;
            n_bytes += bytes.len() as u64;
        };
        let flood = Command::shell("head -c 70000000 /dev/zero; exit 7", LIMIT);
        assert_eq!(sandbox.run(&flood, &mut count).await.unwrap().code, Some(7));
        assert_eq!(n_bytes, 64 << 20);
    })
    .await;
}

/// Programs for talking over TCP differ; this one is static and the same everywhere.
async fn put_busybox(sandbox: &Sandbox) {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed: tests/bring-up.sh does it");
    sandbox.put(vec![file("busybox", FileKind::Executable, busybox)]).await.unwrap();
}

pub(crate) async fn tunnels_carry_both_ways_and_close_by_halves(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        put_busybox(sandbox).await;
        let mut tunnels = sandbox.listen(4711).await.unwrap();
        let taken = sandbox.listen(4711).await.unwrap_err().to_string();
        assert!(taken.starts_with("the sandbox could not listen on a port: port 4711 of 127.0.0.1: "), "{taken}");

        // The far end says something more after it has read this end's last word.
        let echo = async {
            let (mut reader, mut writer) = tokio::io::split(tunnels.accept().await.expect("a connection"));
            let n = tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.write_all(format!("and that were {n} bytes").as_bytes()).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let input = noise(5 << 20);
        let line = "exec ./busybox nc 127.0.0.1 4711";
        let nc = Command { stdin: Some(input.clone()), ..Command::shell(line, LIMIT) };
        let ((exit, stdout, stderr), ()) = tokio::join!(run(sandbox, &nc), echo);
        assert!(exit.success(), "{exit:?} {}", String::from_utf8_lossy(&stderr));
        assert!(stdout.len() >= input.len(), "{} of {} bytes came back", stdout.len(), input.len());
        let (back, said) = stdout.split_at(input.len());
        assert!(back == input);
        assert_eq!(said, b"and that were 5242880 bytes");

        // What was written before a drop is delivered.
        let line = "./busybox nc 127.0.0.1 4711 </dev/null | wc -c";
        let (sum, ()) = tokio::join!(sh(sandbox, line), async {
            let mut tunnel = tunnels.accept().await.expect("a connection");
            tunnel.write_all(&[b'x'; 100_000]).await.unwrap();
        });
        assert_eq!(sum.trim(), "100000");

        // When nobody listens any more, programs inside see the end and not a wait.
        drop(tunnels);
        sh(sandbox, "./busybox nc 127.0.0.1 4711 </dev/null || true").await;
    })
    .await;
}

pub(crate) async fn a_tunnel_that_nobody_reads_holds_up_nobody(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        put_busybox(sandbox).await;
        let mut tunnels = sandbox.listen(0x1234).await.unwrap();
        let line = "cat /dev/zero | ./busybox nc 127.0.0.1 4660 >/dev/null; echo ended";
        let flood = Command::shell(line, LIMIT);
        let test = async {
            let mut stuck = tunnels.accept().await.expect("a connection");
            let mut second = [0; 100_000];
            stuck.read_exact(&mut second).await.unwrap();
            // Its window is full by now or soon; commands, files and other tunnels go on.
            for _ in 0..5 {
                assert_eq!(sh(sandbox, "echo alive").await, "alive");
            }
            sandbox.put(vec![file("x", FileKind::Regular, noise(1 << 20))]).await.unwrap();
            let hello =
                Command { stdin: Some(b"hello".to_vec()), ..Command::shell("./busybox nc 127.0.0.1 4660", LIMIT) };
            let (said, ()) = tokio::join!(run(sandbox, &hello), async {
                let mut other = tunnels.accept().await.expect("a connection");
                let mut heard = String::new();
                other.read_to_string(&mut heard).await.unwrap();
                other.write_all(heard.to_uppercase().as_bytes()).await.unwrap();
                other.shutdown().await.unwrap();
            });
            assert_eq!(said.1, b"HELLO");
            drop(stuck);
        };
        let ((exit, stdout, _), ()) = tokio::join!(run(sandbox, &flood), test);
        assert_eq!((exit.code, stdout.as_slice()), (Some(0), &b"ended\n"[..]));
    })
    .await;
}

// --- walls ---

pub(crate) async fn nothing_inside_gets_at_the_guest(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        sh(sandbox, "kill -9 1; kill -19 1; true").await;
        sh(sandbox, "! cat /proc/1/environ 2>/dev/null && ! ls /proc/1/fd/ 2>/dev/null").await;
        sh(sandbox, "! echo x 2>/dev/null >/proc/1/fd/1").await;
        sh(sandbox, "! (exec 3<>/proc/1/mem) 2>/dev/null").await;
        // A command that ends in strange ways is told by PID 1's own wait, not by what it says.
        let (exit, ..) = run(sandbox, &Command::shell("echo '{\"code\":0}'; kill -KILL 0", LIMIT)).await;
        assert_eq!((exit.code, exit.signal), (None, Some(9)));
        assert_eq!(sh(sandbox, "echo alive").await, "alive");
    })
    .await;
}

pub(crate) async fn there_is_no_network_and_no_privilege(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let status = sh(sandbox, "grep -E '^(CapEff|CapPrm|NoNewPrivs)' /proc/self/status | tr -s '\\t' ' '").await;
        assert_eq!(status, "CapPrm: 0000000000000000\nCapEff: 0000000000000000\nNoNewPrivs: 1");
        let interfaces = sh(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await;
        assert!(interfaces.lines().all(|name| matches!(name, "lo" | "sit0" | "tunl0" | "ip6tnl0")), "{interfaces}");
        assert_eq!(sh(sandbox, "tail -n +2 /proc/net/route | wc -l").await.trim(), "0");
        assert_ne!(sh(sandbox, "id -u").await, "0");
        sh(sandbox, "! touch /.onramp/x 2>/dev/null && ! touch /etc/x 2>/dev/null").await;
    })
    .await;
}
