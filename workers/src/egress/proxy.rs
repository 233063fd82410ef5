//! The allow-list proxy: HTTP CONNECT to port 443 of hosts that the repository's configuration names, and nothing else.
//!
//! Filters of this kind were bypassed by names that the check and the connection read differently. So a host is brought
//! into one canonical form first and refused when it has none; it is matched whole or by a suffix that begins with a
//! dot; it is resolved here, once; and the connection goes to exactly the address that was looked at. No address of a
//! private, local or otherwise special network is ever connected to, whatever name led to it.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use tasks::{Code, Failure};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};

use super::BlockedHosts;

/// The request line and headers have to be there by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Resolving a name, and each attempt to connect, take no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The one port that may be reached.
const HTTPS: &str = "443";

type Resolve = Box<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The proxy of one sandbox.
pub(super) struct Proxy {
    allow: AllowList,
    blocked: Arc<BlockedHosts>,
    /// Where names become addresses, and which of them may be connected to. Production has one of each, in [`Proxy::new`].
    resolve: Resolve,
    permitted: fn(IpAddr) -> bool,
}

/// What one CONNECT leads to.
enum Decision {
    /// Bytes are copied both ways from now on.
    Tunnel(TcpStream),
    Refused(StatusCode, String),
}

impl Proxy {
    /// A proxy to the hosts of `allow`: exact names, or `.suffix` for every name below it.
    ///
    /// # Errors
    /// E007 for an entry that is neither.
    pub(super) fn new(allow: &[String], blocked: Arc<BlockedHosts>) -> Result<Self, Failure> {
        let resolve: Resolve = Box::new(|host| {
            Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), 443)).await?.collect()) })
        });
        Ok(Self { allow: AllowList::new(allow)?, blocked, resolve, permitted: is_public })
    }

    /// Serves one connection to its end.
    pub(super) async fn serve<S>(self: Arc<Self>, tunnel: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let granted: Mutex<Option<(OnUpgrade, TcpStream)>> = Mutex::new(None);
        let (proxy, grant) = (&self, &granted);
        let answer = service_fn(move |mut request: Request<Incoming>| async move {
            Ok::<_, Infallible>(match proxy.decide(&request).await {
                Decision::Tunnel(stream) => {
                    let upgrade = hyper::upgrade::on(&mut request);
                    *grant.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, stream));
                    Response::new(Full::default())
                }
                Decision::Refused(status, sentence) => refusal(status, &sentence),
            })
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(tunnel), answer)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the proxy of a sandbox ended early");
        }
        let granted = granted.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some((upgrade, mut outside)) = granted
            && let Ok(inside) = upgrade.await
        {
            // Either side may cut the connection at any time; that is how such connections end.
            let _ = copy_bidirectional(&mut TokioIo::new(inside), &mut outside).await;
        }
    }

    async fn decide(&self, request: &Request<Incoming>) -> Decision {
        let uri = request.uri();
        if request.method() != Method::CONNECT {
            let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
            self.blocked.insert(uri.host().or(host).unwrap_or_default());
            return Decision::Refused(
                StatusCode::FORBIDDEN,
                "only https leaves the sandbox; plain http does not, use the https:// URL".into(),
            );
        }
        let target = uri.authority().map_or("", |authority| authority.as_str());
        match self.open(target).await {
            Ok(stream) => Decision::Tunnel(stream),
            Err((status, sentence)) => Decision::Refused(status, sentence),
        }
    }

    /// Connects to `target`, a `host:port`, if it may be reached.
    async fn open(&self, target: &str) -> Result<TcpStream, (StatusCode, String)> {
        let forbidden = |sentence: String| (StatusCode::FORBIDDEN, sentence);
        let (host, port) = target.rsplit_once(':').unwrap_or((target, ""));
        let name = canonical_host(host).map_err(|reason| {
            self.blocked.insert(host);
            forbidden(format!("this host cannot be reached from the sandbox: {reason}"))
        })?;
        if port != HTTPS {
            self.blocked.insert(&format!("{name}:{port}"));
            return Err(forbidden(format!("{name} can be reached on port 443 only")));
        }
        if !self.allow.contains(&name) {
            self.blocked.insert(&name);
            return Err(forbidden(format!(
                "{name} is not a host that this repository allows; add it under [network] allow in .onramp.toml on the \
                 base branch"
            )));
        }
        let addresses = self.resolve(&name).await.map_err(|reason| (StatusCode::BAD_GATEWAY, reason))?;
        // One bad address is enough: an honest public host has none.
        if !addresses.iter().all(|address| (self.permitted)(address.ip())) {
            self.blocked.insert(&name);
            return Err(forbidden(format!("{name} leads to an address that is not on the public internet")));
        }
        for address in addresses {
            if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                let _ = stream.set_nodelay(true); // only a matter of speed
                return Ok(stream);
            }
        }
        Err((StatusCode::BAD_GATEWAY, format!("{name} does not answer")))
    }

    async fn resolve(&self, name: &str) -> Result<Vec<SocketAddr>, String> {
        match timeout(CONNECT_TIMEOUT, (self.resolve)(name.to_owned())).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(format!("{name} has no address")),
            Err(_) => Err(format!("the address of {name} was not found in time")),
        }
    }
}

fn refusal(status: StatusCode, sentence: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("onramp: {sentence}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

/// The hosts that may be reached.
struct AllowList {
    exact: Vec<String>,
    /// Each with its leading dot.
    suffixes: Vec<String>,
}

impl AllowList {
    fn new(entries: &[String]) -> Result<Self, Failure> {
        let (mut exact, mut suffixes) = (Vec::new(), Vec::new());
        for entry in entries {
            let (name, list) = match entry.strip_prefix('.') {
                Some(below) => (below, &mut suffixes),
                None => (entry.as_str(), &mut exact),
            };
            let canonical = canonical_host(name).map_err(|reason| {
                Failure::new(
                    Code::BadRepoConfig,
                    format!("Under [network] allow, {entry:?} is neither a host nor a .suffix: {reason}"),
                )
            })?;
            list.push(match entry.starts_with('.') {
                true => format!(".{canonical}"),
                false => canonical,
            });
        }
        Ok(Self { exact, suffixes })
    }

    /// Whether a canonical host is on the list. `.example.org` is every name below example.org, not itself.
    fn contains(&self, host: &str) -> bool {
        self.exact.iter().any(|name| name == host) || self.suffixes.iter().any(|suffix| host.ends_with(suffix))
    }
}

/// The one spelling of a host: lower case, letters, digits, hyphens and underscores between single dots, and nothing that
/// any resolver or HTTP client could take for an address.
fn canonical_host(host: &str) -> Result<String, &'static str> {
    if host.is_empty() || host.len() > 253 {
        return Err("a host has 1 to 253 characters");
    }
    if host.contains(['[', ']', ':']) {
        return Err("an address in place of a name, or a port too many");
    }
    if host.contains('@') {
        return Err("user names have no place here");
    }
    let labels: Vec<&str> = host.split('.').collect();
    if labels.iter().any(|label| label.is_empty()) {
        return Err("a dot at its begin or end, or two in a row");
    }
    let part_of_a_name = |label: &&str| {
        label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if !labels.iter().all(part_of_a_name) {
        return Err("a host has letters, digits, hyphens and dots only");
    }
    // An address may be written in decimal, octal or hexadecimal and with fewer than four parts; it always ends in a number.
    let last = labels.last().copied().unwrap_or_default().to_ascii_lowercase();
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if number(&last) || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Err("an address in place of a name");
    }
    if labels.len() < 2 {
        return Err("a name without a dot is a name of the local network");
    }
    Ok(host.to_ascii_lowercase())
}

/// Whether an address belongs to the public internet. What is not known to be public is not.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    /// The platform's agent of one cloud: a public address that means the host itself.
    const WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
    let special = match address.octets() {
        [0 | 10 | 127, ..] => true,
        [100, 64..=127, ..] => true, // carrier-grade NAT, and the metadata service of one cloud
        [169, 254, ..] => true,      // link-local, and the metadata service of most
        [172, 16..=31, ..] => true,  //
        [192, 0, 0 | 2, _] => true,  // protocol assignments, documentation
        [192, 88, 99, _] => true,    // relays to IPv6
        [192, 168, ..] => true,      //
        [198, 18 | 19, ..] => true,  // benchmarks
        [198, 51, 100, _] => true,   // documentation
        [203, 0, 113, _] => true,    // documentation
        [224..=255, ..] => true,     // multicast, reserved, broadcast
        _ => false,
    };
    !special && address != WIRE_SERVER
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Only 2000::/3 is given out. Loopback, unspecified, IPv4 in any dress, NAT64, ULA, link-local and multicast lie outside.
    let given_out = matches!(address.segments()[0], 0x2000..=0x3fff);
    let special = match address.segments() {
        [0x2001, 0..=0x01ff, ..] => true, // protocol assignments, tunnels
        [0x2001, 0x0db8, ..] => true,     // documentation
        [0x2002, ..] => true,             // IPv4 in another dress
        [0x3fff, 0..=0x0fff, ..] => true, // documentation
        _ => false,
    };
    given_out && !special
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        net::TcpListener,
    };

    use super::*;

    /// A proxy whose every name leads to `address`; `permitted` as given.
    fn proxy(allow: &[&str], address: SocketAddr, permitted: fn(IpAddr) -> bool) -> Arc<Proxy> {
        let allow: Vec<String> = allow.iter().map(|&host| host.to_owned()).collect();
        let resolve: Resolve = Box::new(move |_| Box::pin(async move { Ok(vec![address]) }));
        Arc::new(Proxy { resolve, permitted, ..Proxy::new(&allow, Arc::default()).unwrap() })
    }

    fn blocked(proxy: &Proxy) -> Vec<String> {
        proxy.blocked.lock().iter().cloned().collect()
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

    /// An upstream that says back what it hears, with a greeting.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(b"hello ").await.unwrap();
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn an_allowed_host_is_reached_in_any_case_and_bytes_flow_both_ways() {
        let proxy = proxy(&["Registry.example.org"], echo().await, |_| true);
        let mut inside = connect(&proxy);
        let head = b"CONNECT REGISTRY.Example.Org:443 HTTP/1.1\r\nHost: registry.example.org:443\r\n\r\n";
        inside.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello ") {
            assert_ne!(inside.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        inside.write_all(b"world").await.unwrap();
        inside.shutdown().await.unwrap();
        let mut rest = String::new();
        inside.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "world");
        assert_eq!(blocked(&proxy), [""; 0]);
    }

    #[tokio::test]
    async fn a_host_that_is_not_allowed_is_refused_with_a_sentence_and_remembered() {
        let proxy = proxy(&["example.org"], echo().await, |_| true);
        let answer = ask(&proxy, "CONNECT Evil.Test:443 HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(answer.contains("evil.test is not a host that this repository allows; add it under [network] allow"));
        assert_eq!(blocked(&proxy), ["evil.test"]);
    }

    #[tokio::test]
    async fn other_ports_and_plain_http_are_refused_even_for_allowed_hosts() {
        let proxy = proxy(&["example.org"], echo().await, |_| true);
        for port in ["80", "22", "0443", "65979", "443443"] {
            let answer = ask(&proxy, &format!("CONNECT example.org:{port} HTTP/1.1\r\n\r\n")).await;
            assert!(!answer.starts_with("HTTP/1.1 200"), "{port}: {answer}");
        }
        let answer = ask(&proxy, "GET http://example.org/x HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("only https leaves the sandbox"), "{answer}");
    }

    #[tokio::test]
    async fn an_allowed_name_that_leads_to_a_private_address_is_refused() {
        // The production check stays in place: 127.0.0.1 is where the name leads.
        let proxy = proxy(&["rebind.example.org"], echo().await, is_public);
        let answer = ask(&proxy, "CONNECT rebind.example.org:443 HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("not on the public internet"), "{answer}");
        assert_eq!(blocked(&proxy), ["rebind.example.org"]);
    }

    #[tokio::test]
    async fn an_allowed_host_that_does_not_answer_is_a_bad_gateway_and_not_blocked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let proxy = proxy(&["example.org"], closed, |_| true);
        let answer = ask(&proxy, "CONNECT example.org:443 HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert_eq!(blocked(&proxy), [""; 0]);
    }

    /// Every way to write an address, or a name that two readers would read differently.
    const ODD: &[&str] = &[
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0177.0.0.01",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "169.254.169.254",
        "0xa9fea9fe",
        "::1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[fe80::1%25eth0]",
        "[64:ff9b::7f00:1]",
        "example.org.",
        ".example.org",
        "example..org",
        "example.org\0.evil.test",
        "example.org%00.evil.test",
        "user@example.org",
        "example.org@evil.test",
        "user:pass@example.org",
        "evil.test#.example.org",
        "evil.test/.example.org",
        "evil.test\\.example.org",
        "evil.test?.example.org",
        "evil.test .example.org",
        "example.org\t",
        "example.org\r\nx: y",
        "ex\u{430}mple.org",
        "example\u{3002}org",
        "\u{ff11}27.0.0.1",
        "-example.org",
        "example-.org",
        "localhost",
        "metadata",
        "*.example.org",
        "",
    ];

    #[tokio::test]
    async fn odd_spellings_of_hosts_and_addresses_are_refused_by_name_and_over_the_wire() {
        let proxy = proxy(&["example.org", ".example.org"], echo().await, |_| true);
        for host in ODD {
            assert!(canonical_host(host).is_err(), "{host:?}");
            let answer = ask(&proxy, &format!("CONNECT {host}:443 HTTP/1.1\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 4"), "{host:?}: {answer}");
        }
        assert!(canonical_host(&format!("{}.org", "a".repeat(64))).is_err());
        assert!(canonical_host(&"a.".repeat(200)).is_err());
    }

    #[test]
    fn a_suffix_begins_with_a_dot_and_matches_whole_labels() {
        let list = AllowList::new(&["crates.example".into(), ".cdn.example".into()]).unwrap();
        for host in ["crates.example", "a.cdn.example", "b.a.cdn.example"] {
            assert!(list.contains(host), "{host}");
        }
        for host in
            ["x.crates.example", "notcrates.example", "crates.example.evil.test", "cdn.example", "evilcdn.example"]
        {
            assert!(!list.contains(host), "{host}");
        }
    }

    #[test]
    fn an_entry_that_would_allow_everything_or_nothing_is_an_error() {
        for entry in ["", ".", "*", "*.example.org", "https://example.org", "example.org:443", "..org", "10.0.0.1"] {
            let failure = AllowList::new(&[entry.to_owned()]).err().unwrap();
            assert_eq!(failure.code, Code::BadRepoConfig, "{entry:?}");
            assert!(failure.message.contains(&format!("{entry:?}")), "{failure}");
        }
    }

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.1.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "4000::1",
        ];
        for address in private {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in
            ["1.1.1.1", "8.8.8.8", "100.63.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "2001:4860:4860::8888"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
