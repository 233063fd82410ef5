//! Flow: output and tunnels, however much and however slow, hold up nobody. And the walls around all of it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use workers::sandbox::{Command, FileKind, Output, Sandbox};

use super::{Backend, LIMIT, file, noise, run, sh, with_sandbox};

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
        let status =
            sh(sandbox, "grep -E '^(CapEff|CapPrm|NoNewPrivs|Seccomp:)' /proc/self/status | tr -s '\\t' ' '").await;
        assert_eq!(status, "CapPrm: 0000000000000000\nCapEff: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2");
        let interfaces = sh(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await;
        assert!(interfaces.lines().all(|name| matches!(name, "lo" | "sit0" | "tunl0" | "ip6tnl0")), "{interfaces}");
        assert_eq!(sh(sandbox, "tail -n +2 /proc/net/route | wc -l").await.trim(), "0");
        assert_ne!(sh(sandbox, "id -u").await, "0");
        sh(sandbox, "! touch /.onramp/x 2>/dev/null && ! touch /etc/x 2>/dev/null").await;
    })
    .await;
}
