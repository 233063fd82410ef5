//! Ways out of a sandbox, tried from inside of it: directly, through the proxy, and through the gateway.
//!
//! Every way leads, as far as it can, to a canary on this machine that hears TCP and UDP. It must hear nothing. The same
//! program, run outside of a sandbox, must reach it: a probe that cannot leak proves nothing.

use std::{
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    process::{Command as Program, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasks::Phase;
use tokio_util::sync::CancellationToken;
use workers::{
    egress::{Egress, EgressPolicy, Key, ModelProviders, Patience, Provider, Tally, Ways},
    repo_config::Network,
    sandbox::{Command, FileKind, TreeFile},
};

use super::{Backend, run, with_sandbox};
use crate::probes::compiled;

/// Every list is longer than this.
const ENOUGH_PROBES: usize = 120;

/// Hears everything that arrives at its port, in both versions of both protocols.
struct Canary {
    port: u16,
    heard: Arc<AtomicUsize>,
}

impl Canary {
    fn new() -> Self {
        let (heard, listener) = (Arc::new(AtomicUsize::new(0)), TcpListener::bind("0.0.0.0:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        let listen = |listener: TcpListener| {
            let heard = heard.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    heard.fetch_add(1, Ordering::SeqCst);
                    let mut stream = stream.unwrap();
                    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
            });
        };
        listen(listener);
        // A machine without version 6 has no way out in it either.
        TcpListener::bind(("::1", port)).into_iter().for_each(listen);
        for place in ["0.0.0.0", "::1"] {
            let Ok(socket) = UdpSocket::bind((place, port)) else { continue };
            let heard = heard.clone();
            std::thread::spawn(move || {
                while socket.recv(&mut [0; 1024]).is_ok() {
                    heard.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { port, heard }
    }
}

/// Ways to write an address, or a name that two readers would read differently.
const ODD_HOSTS: &[&str] = &[
    "127.0.0.1",
    "127.0.0.2",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[fd00:ec2::254]",
    "[fe80::1%25lo]",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "168.63.129.16",
    "100.100.100.200",
    "10.0.0.1",
    "192.168.0.1",
    "172.17.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "metadata",
    "metadata.google.internal",
    "host.docker.internal",
    "evil.test",
    "allowed.test.evil.test",
    "evilallowed.test",
    "xn--allowed-test.evil.test",
    "allowed.test%00.evil.test",
    "allowed.test%2eevil.test",
    "user@allowed.test",
    "allowed.test@127.0.0.1",
    "allowed.test#.evil.test",
    "evil.test?.allowed.test",
    "evil.test\\.allowed.test",
    "allowed..test",
    ".allowed.test",
    "-allowed.test",
    "*.allowed.test",
    "\u{ff11}27.0.0.1",
    "allowed\u{3002}test",
];

/// `kind`, what a table shows, and the line for the program.
fn probes(port: u16, token: &str) -> Vec<(String, String)> {
    let mut probes: Vec<(String, String)> = Vec::new();
    let mut add =
        |kind: &str, shown: String, what: String| probes.push((format!("{kind}: {shown}"), format!("{kind}\t{what}")));
    let (canary, web, dns) = (port, 80, 53);
    let places = [
        ("127.0.0.1", canary),
        ("127.0.0.2", canary),
        ("0.0.0.0", canary),
        ("172.17.0.1", canary),
        ("10.0.0.1", canary),
        ("192.168.0.1", canary),
        ("169.254.169.254", web),
        ("169.254.170.2", web),
        ("168.63.129.16", web),
        ("100.100.100.200", web),
        ("1.1.1.1", 443),
        ("8.8.8.8", dns),
        ("192.0.2.1", web),
        ("198.18.0.1", web),
        ("224.0.0.1", canary),
        ("255.255.255.255", canary),
        ("127.0.0.11", dns),
        ("127.0.0.53", dns),
        ("[::1]", canary),
        ("[fe80::1]", canary),
        ("[fd00:ec2::254]", web),
        ("[2606:4700:4700::1111]", 443),
        ("[::ffff:127.0.0.1]", canary),
        ("[64:ff9b::7f00:1]", canary),
        ("[ff02::1]", canary),
    ];
    for (host, port) in places {
        let place = format!("{host}:{port}");
        let shown = if port == canary { host.to_owned() } else { place.clone() };
        add("tcp", shown.clone(), place.clone());
        // On its own loopback a datagram may be sent; nobody is there to hear it.
        if !host.starts_with("127.") && !matches!(host, "[::1]" | "0.0.0.0" | "[::ffff:127.0.0.1]") {
            add("udp", shown, place);
        }
    }
    for host in ["172.17.0.1:0", "1.1.1.1:0", "169.254.169.254:0", "[2606:4700:4700::1111]:0"] {
        add("ping", host.into(), host.into());
        add("raw", host.into(), host.into());
    }
    for name in
        ["canary.test", "example.org", "metadata.google.internal", "secret.in.a.name.evil.test", "host.docker.internal"]
    {
        add("resolve", name.into(), name.into());
    }
    let hex = |text: String| hex::encode(text);
    let mut ask = |kind: &str, shown: &str, text: String| add(kind, shown.into(), hex(text));
    for host in ODD_HOSTS {
        ask("proxy", &format!("CONNECT {host}"), format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        ask(
            "proxy",
            &format!("GET {host}"),
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        );
        ask(
            "proxy",
            &format!("GET {host} at the canary"),
            format!("GET http://{host}:{port}/ HTTP/1.1\r\nConnection: close\r\n\r\n"),
        );
    }
    for port in ["22", "25", "53", "80", "2375", "6443", "8443", "0443", "443443", "-443", ""] {
        ask("proxy", &format!("CONNECT port {port:?}"), format!("CONNECT allowed.test:{port} HTTP/1.1\r\n\r\n"));
    }
    for (shown, text) in [
        ("another Host", "GET http://allowed.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n".to_owned()),
        ("two Hosts", "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nHost: evil.test\r\n\r\n".to_owned()),
        ("no whole URL", format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n")),
        ("https without a tunnel", "GET https://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n".to_owned()),
        ("another scheme", "GET ftp://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n".to_owned()),
        ("a newline in the target", "CONNECT allowed.test\n.evil.test:443 HTTP/1.1\r\n\r\n".to_owned()),
        ("SOCKS 5", "\u{5}\u{1}\u{0}".to_owned()),
        ("the proxy by itself", "GET http://127.0.0.1:8098/ HTTP/1.1\r\nHost: 127.0.0.1:8098\r\n\r\n".to_owned()),
        ("the gateway through the proxy", "CONNECT 127.0.0.1:8099 HTTP/1.1\r\n\r\n".to_owned()),
        (
            "upgrade",
            "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                .to_owned(),
        ),
    ] {
        ask("proxy", shown, text);
    }
    for (shown, line, token) in [
        ("no token", "POST /anthropic/v1/messages", ""),
        ("another token", "POST /anthropic/v1/messages", "onramp-guessed"),
        ("files", "POST /anthropic/v1/files", token),
        ("batches", "POST /anthropic/v1/messages/batches", token),
        ("keys", "GET /anthropic/v1/organizations/api_keys", token),
        ("dots", "POST /anthropic/v1/messages/../../admin", token),
        ("encoded dots", "POST /anthropic/%2e%2e/admin", token),
        ("another provider", "POST /evil.test/v1/messages", token),
        ("two slashes", "POST //evil.test/v1/messages", token),
        ("a whole URL", "POST http://evil.test/anthropic/v1/files", token),
        ("a user name", "POST /anthropic@evil.test/v1/messages", token),
        ("another method", "DELETE /anthropic/v1/models/x", token),
        ("CONNECT", "CONNECT evil.test:443", token),
    ] {
        let text = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: {token}\r\nContent-Length: 0\r\n\r\n"
        );
        ask("gateway", shown, text);
    }
    probes
}

/// (what was tried, whether it got out, the words).
fn verdicts(probes: &[(String, String)], said: &[u8]) -> Vec<(String, bool, String)> {
    let said = String::from_utf8_lossy(said);
    let verdicts: Vec<_> = said.lines().map(|line| line.split('\t').collect::<Vec<_>>()).collect();
    assert_eq!(verdicts.len(), probes.len(), "{said}");
    let verdict =
        |(probe, line): (&(String, String), Vec<&str>)| (probe.0.clone(), line[2] == "allowed", line[3].to_owned());
    probes.iter().zip(verdicts).map(verdict).collect()
}

pub(crate) async fn nothing_gets_out_that_was_not_allowed(backend: Backend) {
    let program = compiled("egress");
    let canary = Canary::new();
    // The canary is the model too, and on the list there is a host that exists nowhere.
    let key = Some(Key::fixed("sk-canary".to_owned()));
    let provider = Provider::new("anthropic", format!("http://127.0.0.1:{}", canary.port), key);
    let patience = Patience { n_retries: 0, ..Patience::default() };
    let providers = [("anthropic".to_owned(), provider)].into();
    let models = Arc::new(ModelProviders { providers, patience, ..ModelProviders::default() });
    let network = Network { allow: vec!["allowed.test".into(), ".cdn.test".into()], ..Network::default() };
    let (repo, tally) = ("acme/web".parse().unwrap(), Arc::new(Tally::default()));

    with_sandbox(backend, async |sandbox| {
        let bytes = std::fs::read(&program).unwrap();
        sandbox.put(vec![TreeFile { path: b"probe".to_vec(), kind: FileKind::Executable, bytes }]).await.unwrap();
        let (policy, tally) = (Arc::new(EgressPolicy::default()), tally.clone());
        let ways = Ways { models: models.clone(), policy, network: &network, repo: &repo, phase: Phase::Agent, tally };
        let egress = Egress::open(sandbox, ways, &CancellationToken::new()).await.unwrap();
        let probes = probes(canary.port, &egress.inside().token);
        assert!(probes.len() >= ENOUGH_PROBES, "only {} probes", probes.len());
        let lines: String = probes.iter().map(|(_, line)| format!("{line}\n")).collect();
        let command = Command {
            argv: vec!["/workspace/probe".into()],
            stdin: Some(lines.into_bytes()),
            ..Command::shell("", Duration::from_secs(240))
        };
        let (exit, stdout, stderr) = run(sandbox, &command).await;
        assert!(exit.success(), "{exit:?} {}", String::from_utf8_lossy(&stderr));
        let verdicts = verdicts(&probes, &stdout);
        let leaks: Vec<_> = verdicts.iter().filter(|(_, allowed, _)| *allowed).collect();
        assert!(leaks.is_empty(), "{} of {} got out: {leaks:#?}", leaks.len(), verdicts.len());
        println!("{} ways out tried in {}: none led out", verdicts.len(), sandbox.kind());
        egress.close().await;
    })
    .await;
    assert_eq!(canary.heard.load(Ordering::SeqCst), 0, "the canary heard something");
    let record = tally.record();
    assert_eq!(record.n_external, 0);
    let refused = record.hosts.iter().filter(|host| host.blocked.is_some()).count();
    assert!(refused >= 30 && record.hosts.iter().all(|host| host.blocked.is_some()), "{record:#?}");

    // The probes can tell the difference: outside of a sandbox some of them do get out.
    let outside: Vec<_> = probes(canary.port, "")
        .into_iter()
        .filter(|(name, _)| name == "tcp: 127.0.0.1" || name == "tcp: [::1]")
        .collect();
    let mut child = Program::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = outside.iter().map(|(_, line)| format!("{line}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let said = child.wait_with_output().unwrap().stdout;
    assert!(verdicts(&outside, &said).iter().any(|(_, allowed, _)| *allowed), "{}", String::from_utf8_lossy(&said));
    // A thread of its own hears it, in a moment.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while canary.heard.load(Ordering::SeqCst) == 0 {
        assert!(std::time::Instant::now() < deadline, "the canary heard nothing");
        std::thread::yield_now();
    }
}
