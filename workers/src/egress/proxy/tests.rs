//! The proxy between a client that writes its requests by hand and a server on this machine's loopback.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
};

use super::{hello::tests::client_hello, host::ODD, *};
use crate::egress::EgressPolicy;

/// A proxy whose every name leads to `address`, whatever the port; `permitted` as given.
fn proxy_under(policy: EgressPolicy, allow: &[&str], address: SocketAddr, permitted: fn(IpAddr) -> bool) -> Arc<Proxy> {
    let allow: Vec<String> = allow.iter().map(|&host| host.to_owned()).collect();
    let policy = Arc::new(policy);
    let (rules, doors) = (policy.rules().unwrap(), Doors::new(policy, "acme/web".parse().unwrap()));
    let proxy = Proxy::new(Phase::Agent, &allow, rules, Arc::default(), doors).unwrap();
    let resolve: Resolve = Box::new(move |_| Box::pin(async move { Ok(vec![address.ip()]) }));
    let port = Box::new(move |_| address.port());
    Arc::new(Proxy { resolve, permitted, port, ..proxy })
}

fn proxy(allow: &[&str], address: SocketAddr, permitted: fn(IpAddr) -> bool) -> Arc<Proxy> {
    proxy_under(EgressPolicy::default(), allow, address, permitted)
}

/// Host and reason of everything that was refused.
fn blocked(proxy: &Proxy) -> Vec<(String, String)> {
    let hosts = proxy.tally.record().hosts.into_iter();
    hosts.filter_map(|host| Some((host.host, host.blocked?))).collect()
}

fn reached(proxy: &Proxy) -> Vec<(String, u64, u64)> {
    let hosts = proxy.tally.record().hosts.into_iter().filter(|host| host.blocked.is_none());
    hosts.map(|host| (host.host, host.sent_bytes, host.received_bytes)).collect()
}

fn connect(proxy: &Arc<Proxy>) -> DuplexStream {
    let (inside, outside) = tokio::io::duplex(64 * 1024);
    tokio::spawn(Arc::clone(proxy).serve(outside));
    inside
}

/// Sends one request head and reads the answer until the proxy has said all of it.
async fn ask(proxy: &Arc<Proxy>, head: &str) -> String {
    let mut inside = connect(proxy);
    let head = format!("{}\r\nConnection: close\r\n\r\n", head.strip_suffix("\r\n\r\n").unwrap());
    inside.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    inside.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A server that says back what it hears, and keeps it.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                // The client may go at any time.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// A web server that answers every request with the head that it read.
async fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            let redirect =
                if head.starts_with(b"GET /redirect") { "Location: http://169.254.169.254/\r\n" } else { "" };
            let status = if redirect.is_empty() { "200 OK" } else { "302 Found" };
            let n = head.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {n}\r\n{redirect}Connection: close\r\n\r\n");
            stream.write_all(&[answer.as_bytes(), &head].concat()).await.unwrap();
        }
    });
    address
}

/// Opens a tunnel and sends `first` through it; what comes back until the other side ends.
async fn through_tunnel(proxy: &Arc<Proxy>, host: &str, first: &[u8]) -> Vec<u8> {
    let mut inside = connect(proxy);
    inside.write_all(format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert_ne!(inside.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    inside.write_all(first).await.unwrap();
    inside.shutdown().await.unwrap();
    let mut rest = Vec::new();
    inside.read_to_end(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn an_allowed_host_is_reached_in_any_case_and_bytes_flow_both_ways_and_are_counted() {
    let proxy = proxy(&["Registry.example.org"], echo().await, |_| true);
    let hello = [client_hello(&["REGISTRY.example.org"]), b"world".to_vec()].concat();
    assert_eq!(through_tunnel(&proxy, "REGISTRY.Example.Org", &hello).await, hello);
    assert_eq!(blocked(&proxy), []);
    let n = hello.len() as u64;
    assert_eq!(reached(&proxy), [("registry.example.org".to_owned(), n, n)]);
}

#[tokio::test]
async fn a_tunnel_carries_tls_for_its_own_host_and_nothing_else() {
    for (first, why) in [
        (client_hello(&["evil.test"]), "a tunnel to it asked for another host (SNI)"),
        (client_hello(&[]), "a tunnel to it named no host (SNI)"),
        (
            client_hello(&["(encrypted)", "example.org"]),
            "a tunnel to it hid the host that it asked for (encrypted client hello)",
        ),
        (client_hello(&["example.org", "evil.test"]), "a tunnel to it did not begin with TLS"),
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec(), "a tunnel to it did not begin with TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), "a tunnel to it did not begin with TLS"),
        (client_hello(&["example.org"])[..40].to_vec(), "a tunnel to it did not begin with TLS"),
    ] {
        let proxy = proxy(&["example.org"], echo().await, |_| true);
        assert_eq!(through_tunnel(&proxy, "example.org", &first).await, b"", "{why}");
        assert_eq!(blocked(&proxy), [("example.org".to_owned(), why.to_owned())]);
    }
}

#[tokio::test]
async fn a_host_that_is_not_allowed_is_refused_with_the_line_that_would_allow_it() {
    let proxy = proxy(&["example.org"], echo().await, |_| true);
    let answer = ask(&proxy, "CONNECT Evil.Test:443 HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(
        answer.contains("evil.test is not a host that this repository allows; add \"evil.test\" under [network] allow")
    );
    let answer = ask(&proxy, "CONNECT static.crates.io:443 HTTP/1.1\r\n\r\n").await;
    assert!(answer.contains("add \"preset:crates\" under [network] allow"), "{answer}");
    let why = "not allowed in the phase `agent`".to_owned();
    assert_eq!(blocked(&proxy), [("evil.test".to_owned(), why.clone()), ("static.crates.io".to_owned(), why)]);
}

#[tokio::test]
async fn each_phase_has_its_own_hosts_and_none_keeps_the_tunnels_of_the_one_before() {
    let proxy = proxy(&["setup.example"], echo().await, |_| true);
    let mut inside = connect(&proxy);
    inside.write_all(b"CONNECT setup.example:443 HTTP/1.1\r\n\r\n").await.unwrap();
    inside.write_all(&client_hello(&["setup.example"])).await.unwrap();
    let mut heard = Vec::new();
    while !heard.windows(13).any(|part| part == b"setup.example") {
        assert_ne!(inside.read_buf(&mut heard).await.unwrap(), 0);
    }
    proxy.enter(Phase::Checks, &["checks.example".to_owned()]).unwrap();
    let mut rest = Vec::new();
    inside.read_to_end(&mut rest).await.unwrap();
    let answer = ask(&proxy, "CONNECT setup.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("under [network] checks in"), "{answer}");
    let hello = client_hello(&["checks.example"]);
    assert_eq!(through_tunnel(&proxy, "checks.example", &hello).await, hello);
}

#[tokio::test]
async fn other_ports_are_refused_even_for_allowed_hosts() {
    let proxy = proxy(&["example.org"], echo().await, |_| true);
    for port in ["80", "22", "0443", "65979", "443443", "", "8443"] {
        let answer = ask(&proxy, &format!("CONNECT example.org:{port} HTTP/1.1\r\n\r\n")).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{port}: {answer}");
        let answer = ask(&proxy, &format!("GET http://example.org:{port}1/x HTTP/1.1\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{port}: {answer}");
    }
    assert_eq!(reached(&proxy), []);
}

#[tokio::test]
async fn plain_http_reaches_the_one_host_that_url_and_header_name() {
    let proxy = proxy(&["example.org"], mirror().await, |_| true);
    let head =
        "GET http://Example.org/a?b=c HTTP/1.1\r\nHost: example.org\r\nProxy-Authorization: x\r\nX-Kept: yes\r\n\r\n";
    let answer = ask(&proxy, head).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("GET /a?b=c HTTP/1.1"), "{answer}");
    assert!(answer.contains("x-kept: yes") && !answer.contains("proxy-authorization"), "{answer}");
    assert_eq!(reached(&proxy).len(), 1);
    for (head, part) in [
        ("GET http://example.org/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", "name different hosts"),
        ("GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\nHost: evil.test\r\n\r\n", "name different hosts"),
        ("GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", "is not a host that this repository allows"),
        ("GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n", "with CONNECT, or with a whole http:// URL"),
        (
            "GET https://example.org/x HTTP/1.1\r\nHost: example.org\r\n\r\n",
            "with CONNECT, or with a whole http:// URL",
        ),
        ("GET http://user@example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n", "user names"),
    ] {
        let answer = ask(&proxy, head).await;
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains(part), "{head}: {answer}");
    }
    assert_eq!(reached(&proxy).len(), 1, "nothing but the first request went out");
}

#[tokio::test]
async fn a_redirect_is_handed_back_and_not_followed() {
    let proxy = proxy(&["example.org"], mirror().await, |_| true);
    let answer = ask(&proxy, "GET http://example.org/redirect HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 302") && answer.contains("location: http://169.254.169.254/"), "{answer}");
    let answer = ask(&proxy, "GET http://169.254.169.254/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn an_allowed_name_that_leads_to_a_private_address_is_refused() {
    // The production check stays in place: 127.0.0.1 is where the name leads.
    let proxy = proxy(&["rebind.example.org"], echo().await, is_public);
    for head in ["CONNECT rebind.example.org:443 HTTP/1.1\r\n\r\n", "GET http://rebind.example.org/ HTTP/1.1\r\n\r\n"] {
        let answer = ask(&proxy, head).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("not on the public internet"), "{answer}");
    }
    assert_eq!(blocked(&proxy).len(), 2);
}

#[tokio::test]
async fn a_name_that_changes_its_address_between_two_looks_leads_to_the_one_that_was_looked_at() {
    // Every further look would lead to the metadata service: there must be none.
    let address = echo().await;
    let looks = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = looks.clone();
    let resolve: Resolve = Box::new(move |_| {
        let first = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        let metadata = IpAddr::from([169, 254, 169, 254]);
        Box::pin(async move { Ok(vec![if first { address.ip() } else { metadata }]) })
    });
    let mut rebinding =
        Arc::into_inner(proxy(&["rebind.example.org"], address, |address| address.is_loopback())).unwrap();
    rebinding.resolve = resolve;
    let rebinding = Arc::new(rebinding);
    let hello = client_hello(&["rebind.example.org"]);
    assert_eq!(through_tunnel(&rebinding, "rebind.example.org", &hello).await, hello);
    assert_eq!(looks.load(std::sync::atomic::Ordering::SeqCst), 1);
    let answer = ask(&rebinding, "CONNECT rebind.example.org:443 HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn an_allowed_host_that_does_not_answer_is_a_bad_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let proxy = proxy(&["example.org"], closed, |_| true);
    let answer = ask(&proxy, "CONNECT example.org:443 HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(proxy.tally.blocked_hosts(), [""; 0], "nobody refused it");
}

#[tokio::test]
async fn odd_spellings_of_hosts_and_addresses_are_refused_over_the_wire() {
    let proxy = proxy(&["example.org", ".example.org"], echo().await, |_| true);
    for host in ODD {
        for head in [format!("CONNECT {host}:443 HTTP/1.1\r\n\r\n"), format!("GET http://{host}/ HTTP/1.1\r\n\r\n")] {
            let answer = ask(&proxy, &head).await;
            // A URL ends its host at some of these; then what is left may be read, and is not allowed either.
            assert!(!answer.starts_with("HTTP/1.1 2"), "{host:?}: {answer}");
        }
    }
    assert_eq!(reached(&proxy), []);
}

#[tokio::test]
async fn the_operators_rules_stand_over_what_a_repository_allows() {
    let airgap = EgressPolicy { airgap: true, ..EgressPolicy::default() };
    let proxy = proxy_under(airgap, &["example.org"], echo().await, |_| true);
    let answer = ask(&proxy, "CONNECT example.org:443 HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("airgap is on"), "{answer}");
    assert_eq!(proxy.tally.record().n_external, 0);
}

#[tokio::test]
async fn a_private_registry_gets_its_header_outside_and_shows_it_nobody() {
    let address = mirror().await;
    let registry = |repositories: &[&str]| crate::egress::Registry {
        host: "npm.example.org".into(),
        url: format!("http://{address}/base"),
        header: "Authorization".into(),
        value: crate::egress::Key::fixed("Bearer canary-registry".to_owned()),
        repositories: repositories.iter().map(|&repo| repo.to_owned()).collect(),
    };
    let head = "GET http://npm.example.org/left-pad HTTP/1.1\r\nHost: npm.example.org\r\nAuthorization: own\r\n\r\n";
    let policy = EgressPolicy { registries: vec![registry(&["acme/*"])], ..EgressPolicy::default() };
    let proxy = proxy_under(policy, &[], address, is_public);
    let answer = ask(&proxy, head).await;
    // The server answers with what it heard.
    assert!(
        answer.contains("GET /base/left-pad HTTP/1.1") && answer.contains("authorization: Bearer canary-registry"),
        "{answer}"
    );
    assert!(!answer.contains("authorization: own"), "{answer}");
    let answer = ask(&proxy, &head.replace("/left-pad", "/../../escape")).await;
    assert!(!answer.contains("canary-registry"), "{answer}");
    // Another repository has no such door, and the host is not on its list.
    let policy = EgressPolicy { registries: vec![registry(&["other/*"])], ..EgressPolicy::default() };
    let proxy = proxy_under(policy, &[], address, is_public);
    assert!(ask(&proxy, head).await.starts_with("HTTP/1.1 403"));
}
