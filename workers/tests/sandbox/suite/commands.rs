//! Commands: how they start, what they see, how they end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use workers::sandbox::{Command, FileKind, Output, SandboxError};

use super::{Backend, LIMIT, file, noise, run, sh, with_sandbox};

pub(crate) async fn exit_codes_and_signals_are_told(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let (exit, ..) = run(sandbox, &Command::shell("exit 42", LIMIT)).await;
        assert_eq!((exit.code, exit.signal, exit.timed_out), (Some(42), None, false));
        let (exit, ..) = run(sandbox, &Command::shell("kill -11 $$", LIMIT)).await;
        assert_eq!((exit.code, exit.signal, exit.timed_out), (None, Some(11), false));
        let work = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done";
        let (exit, ..) = run(sandbox, &Command::shell(work, LIMIT)).await;
        assert!(exit.success() && !exit.cpu.is_zero() && !exit.wall.is_zero(), "{exit:?}");
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
        let (exit, stdout, _) = run(sandbox, &Command::shell(line, Duration::from_secs(2))).await;
        assert_eq!((exit.code, exit.signal, exit.timed_out), (None, Some(9), true));
        assert_eq!(stdout, b"grandchild\n");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        assert!(exit.wall >= Duration::from_secs(3), "TERM first, KILL a second later: {exit:?}");
        assert_eq!(sh(sandbox, "ps | grep 'sleep 100[0]' | wc -l || true").await.trim(), "0");
    })
    .await;
}

pub(crate) async fn a_command_that_obeys_its_timeout_need_not_be_killed(backend: Backend) {
    with_sandbox(backend, async |sandbox| {
        let (exit, ..) = run(sandbox, &Command::shell("sleep 1000", Duration::from_millis(200))).await;
        assert_eq!((exit.signal, exit.timed_out, exit.success()), (Some(15), true, false), "TERM was enough");
        let line = "trap 'echo bye; exit 3' TERM; while true; do sleep 0.02; done";
        let (exit, stdout, _) = run(sandbox, &Command::shell(line, Duration::from_secs(2))).await;
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
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
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
            (0..20).map(|n| async move { sh(sandbox, &format!("sleep 1; echo {n}")).await == n.to_string() });
        let began = Instant::now();
        assert!(futures_util::future::join_all(commands).await.into_iter().all(|same| same));
        assert!(began.elapsed() < Duration::from_secs(15), "one after the other? {:?}", began.elapsed());
    })
    .await;
}
