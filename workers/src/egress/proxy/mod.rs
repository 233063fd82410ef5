//! The allow-list proxy: the hosts that the repository's configuration names for the phase at hand, and nothing else.
//!
//! Filters of this kind were bypassed by names that the check and the connection read differently. So a host is brought
//! into one canonical form first and refused when it has none; it is matched whole or by a suffix that begins with a
//! dot; it is resolved here, once; and the connection goes to exactly the address that was looked at. No address of a
//! private, local or otherwise special network is ever connected to, whatever name led to it. A tunnel (CONNECT, port 443)
//! has to begin with TLS for the very host that it was opened to; plain HTTP (port 80) is read, and one request is for the
//! one host that both its URL and its `Host` name. A redirect is an answer like any other: following it is a new attempt.

mod address;
mod counted;
mod hello;
mod host;
mod plain;
mod registry;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use tasks::{Failure, Phase};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(super) use self::registry::Doors;
pub(crate) use self::{
    address::is_public,
    host::{HostList, canonical_host},
};
use self::{counted::Counted, hello::Hello};
use super::{
    policy::Rules,
    presets,
    tally::{NOT_REACHED, Tally},
};

/// The request line and headers have to be there by then, and the begin of TLS in a tunnel.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Resolving a name, and each attempt to connect, take no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The ports that may be reached: one by tunnels, one by plain HTTP.
const HTTPS: u16 = 443;
const HTTP: u16 = 80;

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
type Resolve = Box<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The proxy of one sandbox.
pub(super) struct Proxy {
    rules: Arc<Rules>,
    tally: Arc<Tally>,
    now: RwLock<Now>,
    doors: Doors,
    /// Where names become addresses, which of them may be connected to, and how. Production has one of each, in
    /// [`Proxy::new`].
    resolve: Resolve,
    permitted: fn(IpAddr) -> bool,
    port: Box<dyn Fn(u16) -> u16 + Send + Sync>,
}

/// What holds at the moment.
struct Now {
    phase: Phase,
    allow: HostList,
    /// Ends what was opened in this phase.
    over: CancellationToken,
}

/// Where a request may go, as it was decided.
struct Way {
    phase: Phase,
    /// The host's name, with its port where that is not 443.
    name: String,
    stream: TcpStream,
    over: CancellationToken,
}

/// Why a request goes nowhere: what to tell, and whether somebody decided that.
struct No {
    status: StatusCode,
    sentence: String,
}

impl Proxy {
    /// A proxy that begins in this phase, with these hosts.
    ///
    /// # Errors
    /// E007 for an entry of `allow` that is no host.
    pub(super) fn new(
        phase: Phase,
        allow: &[String],
        rules: Arc<Rules>,
        tally: Arc<Tally>,
        doors: Doors,
    ) -> Result<Self, Failure> {
        let resolve: Resolve = Box::new(|host| {
            Box::pin(
                async move { Ok(tokio::net::lookup_host((host.as_str(), HTTPS)).await?.map(|a| a.ip()).collect()) },
            )
        });
        let now = Now { phase, allow: HostList::new(allow)?, over: CancellationToken::new() };
        Ok(Self {
            rules,
            tally,
            now: RwLock::new(now),
            doors,
            resolve,
            permitted: is_public,
            port: Box::new(|port| port),
        })
    }

    /// From now on these hosts, and none of the connections from before.
    ///
    /// # Errors
    /// E007.
    pub(super) fn enter(&self, phase: Phase, allow: &[String]) -> Result<(), Failure> {
        let new = Now { phase, allow: HostList::new(allow)?, over: CancellationToken::new() };
        let old = std::mem::replace(&mut *self.now.write().unwrap_or_else(PoisonError::into_inner), new);
        old.over.cancel();
        Ok(())
    }

    /// Serves one connection to its end.
    pub(super) async fn serve<S>(self: Arc<Self>, tunnel: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let granted: Mutex<Option<(OnUpgrade, Way)>> = Mutex::new(None);
        let (proxy, grant) = (&self, &granted);
        let answer = service_fn(move |mut request: Request<Incoming>| async move {
            let answer = if request.method() == Method::CONNECT {
                let target = request.uri().authority().map_or("", |authority| authority.as_str()).to_owned();
                proxy.open(&target, HTTPS).await.map(|way| {
                    let upgrade = hyper::upgrade::on(&mut request);
                    *grant.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, way));
                    Response::new(empty())
                })
            } else {
                proxy.plain(request).await
            };
            Ok::<_, Infallible>(answer.unwrap_or_else(|no| no.response()))
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
        if let Some((upgrade, way)) = granted
            && let Ok(inside) = upgrade.await
        {
            let over = way.over.clone();
            over.run_until_cancelled_owned(self.tunnel(TokioIo::new(inside), way)).await;
        }
    }

    /// Copies both ways, once the first message inside has named the host that the tunnel is for.
    async fn tunnel(&self, mut inside: impl AsyncRead + AsyncWrite + Unpin, way: Way) {
        let Way { phase, name, stream, .. } = way;
        let mut outside = Counted::new(stream);
        let Some(begin) = timeout(HEAD_TIMEOUT, first_message(&mut inside)).await.ok().flatten() else { return };
        let blocked = match hello::read(&begin) {
            Hello::Name(wanted) if canonical_host(&wanted).is_ok_and(|wanted| wanted == name) => None,
            Hello::Name(_) => Some("a tunnel to it asked for another host (SNI)"),
            Hello::Nameless => Some("a tunnel to it named no host (SNI)"),
            Hello::Encrypted => Some("a tunnel to it hid the host that it asked for (encrypted client hello)"),
            Hello::Other | Hello::Unfinished => Some("a tunnel to it did not begin with TLS"),
        };
        if let Some(why) = blocked {
            self.tally.asked_for(phase, &name, Some(why));
            return;
        }
        // Either side may cut the connection at any time; that is how such connections end.
        if outside.write_all(&begin).await.is_ok() {
            let _ = copy_bidirectional(&mut inside, &mut outside).await;
        }
        self.tally.flowed(phase, &name, outside.n_written, outside.n_read);
    }

    /// Connects to `target`, a `host:port`, if it may be reached on `port`.
    async fn open(&self, target: &str, port: u16) -> Result<Way, No> {
        let (phase, over) = {
            let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
            (now.phase, now.over.clone())
        };
        let block = |shown: &str, why: &str, sentence: String| {
            self.tally.asked_for(phase, shown, Some(why));
            No { status: StatusCode::FORBIDDEN, sentence }
        };
        let (host, asked_port) = target.rsplit_once(':').unwrap_or((target, ""));
        let host = canonical_host(host)
            .map_err(|why| block(host, why, format!("this host cannot be reached from the sandbox: {why}")))?;
        let name = if port == HTTPS { host.clone() } else { format!("{host}:{port}") };
        if asked_port != port.to_string() {
            let why = format!("only port {port} is open this way");
            return Err(block(
                &format!("{host}:{asked_port}"),
                &why,
                format!("{host} can be reached on port {port} only"),
            ));
        }
        if !self.now.read().unwrap_or_else(PoisonError::into_inner).allow.contains(&host) {
            let why = not_allowed(phase);
            let (entry, key) = (presets::entry_for(&host), key_of(phase));
            return Err(block(
                &name,
                &why,
                format!(
                    "{host} is not a host that this repository allows; add \"{entry}\" under [network] {key} in .onramp.toml on \
                 the base branch"
                ),
            ));
        }
        if let Some(why) = self.rules.refuses_host(&host) {
            return Err(block(&name, &why, format!("{host} cannot be reached: {why}")));
        }
        let unreachable = |sentence: String| {
            self.tally.asked_for(phase, &name, Some(NOT_REACHED));
            No { status: StatusCode::BAD_GATEWAY, sentence }
        };
        let addresses = self.resolve(&host).await.map_err(unreachable)?;
        // One bad address is enough: an honest public host has none.
        if !addresses.iter().all(|address| (self.permitted)(*address)) {
            let why = "its name leads to an address that is not on the public internet";
            return Err(block(&name, why, format!("{host} leads to an address that is not on the public internet")));
        }
        for address in addresses {
            let address = SocketAddr::new(address, (self.port)(port));
            if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                let _ = stream.set_nodelay(true); // only a matter of speed
                self.tally.asked_for(phase, &name, None);
                self.tally.went_outside();
                return Ok(Way { phase, name, stream, over });
            }
        }
        Err(unreachable(format!("{host} does not answer")))
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        match timeout(CONNECT_TIMEOUT, (self.resolve)(name.to_owned())).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(_) => Err(format!("{name} has no address")),
            Err(_) => Err(format!("the address of {name} was not found in time")),
        }
    }
}

/// Why a host is refused that no list names: this one can be allowed.
pub(crate) fn not_allowed(phase: Phase) -> String {
    format!("not allowed in the phase `{}`", phase.word())
}

/// The key under `[network]` that speaks of a phase.
pub(crate) fn key_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Setup => "setup",
        Phase::Agent => "allow",
        Phase::Checks => "checks",
    }
}

/// What comes until it can be told which host is meant. `None`: nothing came.
async fn first_message(inside: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut begin = Vec::with_capacity(2048);
    while begin.len() < hello::MAX_BYTES && hello::read(&begin) == Hello::Unfinished {
        if inside.read_buf(&mut begin).await.ok()? == 0 {
            break;
        }
    }
    (!begin.is_empty()).then_some(begin)
}

impl No {
    fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }

    fn response(self) -> Response<Body> {
        let mut response = Response::new(full(format!("onramp: {}\n", self.sentence)));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        response
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> Body {
    full(Bytes::new())
}

#[cfg(test)]
mod tests;
