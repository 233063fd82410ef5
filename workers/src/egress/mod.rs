//! The far end of a sandbox's tunnels: the only way out of a box that has no network.
//!
//! Two listeners may open inside. The model gateway ([`models`]) takes requests that carry this sandbox's own token and
//! sends them on with the real key, so that a key never enters a sandbox. The allow-list proxy ([`proxy`]) is there only
//! when the repository's configuration names hosts. Both run on the host; a program inside sees two loopback ports.
//!
//! What a model's URL inside means, decided here once: the first part of the path names the provider and is cut off; the
//! rest is added to the provider's `base_url`. `http://127.0.0.1:8099/openai/v1/responses` is
//! `https://api.openai.com/v1/responses`. A `base_url` that already ends in the part that the rest begins with
//! (`https://host/v1`, as many tools want it written) does not get it twice.

pub(crate) mod models;
mod proxy;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use secrecy::SecretString;
use tasks::{Code, Failure};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{models::Models, proxy::Proxy};
use crate::sandbox::{Sandbox, SandboxError, Tunnel, Tunnels};

/// The port of the model gateway inside a sandbox.
pub const MODELS_PORT: u16 = 8099;
/// The port of the allow-list proxy inside a sandbox.
pub const PROXY_PORT: u16 = 8098;

/// So many tunnels of one listener are served at once; further ones wait. A fork bomb inside costs no memory outside.
const MAX_TUNNELS: usize = 128;
/// So many refused hosts are remembered per sandbox.
const MAX_BLOCKED_HOSTS: usize = 100;

/// Where real models are, and their keys. Never leaves the worker.
#[derive(Debug, Clone, Default)]
pub struct ModelProviders {
    /// By protocol family: `anthropic`, `openai`, `gemini`. Any other name speaks as `openai` does.
    pub providers: BTreeMap<String, Provider>,
}

/// One provider.
#[derive(Debug, Clone)]
pub struct Provider {
    /// `https://api.anthropic.com`, or any compatible one.
    pub base_url: String,
    /// The key; `None`: the provider wants none (a local model server).
    pub key: Option<SecretString>,
}

/// What programs inside a sandbox are told of the gateway. Holds no real credential.
#[derive(Debug, Clone, Default)]
pub struct GatewayInside {
    /// What a client of that family takes as its base URL: `http://127.0.0.1:8099/anthropic`,
    /// `http://127.0.0.1:8099/openai/v1`, `http://127.0.0.1:8099/gemini`. The three are always there, so that a program
    /// whose provider is not configured gets an answer that says so.
    pub urls: BTreeMap<String, String>,
    /// A token that is worth nothing outside of this one sandbox. It goes where the key of the provider would go.
    pub token: String,
    /// `http://127.0.0.1:8098`, when hosts are allowed at all.
    pub proxy: Option<String>,
}

impl GatewayInside {
    fn new(providers: &ModelProviders, token: String, proxy: bool) -> Self {
        let names = models::FAMILIES.iter().copied().chain(providers.providers.keys().map(String::as_str));
        let url = |name: &str| {
            let version = if matches!(name, "anthropic" | "gemini") { "" } else { "/v1" };
            format!("http://127.0.0.1:{MODELS_PORT}/{name}{version}")
        };
        Self {
            urls: names.map(|name| (name.to_owned(), url(name))).collect(),
            token,
            proxy: proxy.then(|| format!("http://127.0.0.1:{PROXY_PORT}")),
        }
    }

    /// The variables that make agents, setup commands and checks use the proxy; none when there is no proxy. Plain HTTP
    /// is sent there too: it is refused there with a sentence that says why, which a missing route would not say.
    pub fn env(&self) -> BTreeMap<String, String> {
        let Some(proxy) = &self.proxy else { return BTreeMap::new() };
        let to_proxy = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"].map(|name| (name, proxy.as_str()));
        let direct = ["NO_PROXY", "no_proxy"].map(|name| (name, "localhost,127.0.0.1,::1"));
        to_proxy.into_iter().chain(direct).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// Serves the tunnels of one sandbox until it is dropped.
#[derive(Debug)]
pub struct Egress {
    inside: GatewayInside,
    blocked: Arc<BlockedHosts>,
    cancel: CancellationToken,
    serving: TaskTracker,
}

impl Egress {
    /// Opens the listeners inside and serves them: the model gateway always, the proxy when `allow` names a host.
    ///
    /// # Errors
    /// E007 for an entry of `allow` that is no host; whatever the sandbox says when it cannot listen.
    pub async fn open(
        sandbox: &Sandbox,
        providers: Arc<ModelProviders>,
        allow: &[String],
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let blocked = Arc::new(BlockedHosts::default());
        let proxy = match allow {
            [] => None,
            hosts => Some(Arc::new(Proxy::new(hosts, Arc::clone(&blocked))?)),
        };
        let token = models::random_token()?;
        let inside = GatewayInside::new(&providers, token.clone(), proxy.is_some());
        let models = Arc::new(Models::new(providers, token));

        // From here on a return drops `egress`, which ends what was started.
        let egress = Self { inside, blocked, cancel: cancel.child_token(), serving: TaskTracker::new() };
        let tunnels = sandbox.listen(MODELS_PORT).await.map_err(cannot_listen)?;
        egress.serve(tunnels, move |tunnel| Arc::clone(&models).serve(tunnel));
        if let Some(proxy) = proxy {
            let tunnels = sandbox.listen(PROXY_PORT).await.map_err(cannot_listen)?;
            egress.serve(tunnels, move |tunnel| Arc::clone(&proxy).serve(tunnel));
        }
        Ok(egress)
    }

    /// What to tell programs inside.
    pub fn inside(&self) -> &GatewayInside {
        &self.inside
    }

    /// Hosts that were asked for and refused, sorted, each once; at most 100.
    pub fn blocked_hosts(&self) -> Vec<String> {
        self.blocked.lock().iter().cloned().collect()
    }

    /// Ends every connection and waits until all of them are gone. Dropping ends them too, without the wait.
    pub async fn close(self) {
        self.cancel.cancel();
        self.serving.close();
        self.serving.wait().await;
    }

    /// Serves what arrives at one listener, each connection in a task of its own.
    fn serve<F>(&self, mut tunnels: Tunnels, connection: impl Fn(Tunnel) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (serving, cancel) = (self.serving.clone(), self.cancel.clone());
        self.serving.spawn(self.cancel.clone().run_until_cancelled_owned(async move {
            let places = Arc::new(Semaphore::new(MAX_TUNNELS));
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                let Some(tunnel) = tunnels.accept().await else { break };
                let served = connection(tunnel);
                serving.spawn(cancel.clone().run_until_cancelled_owned(async move {
                    served.await;
                    drop(place);
                }));
            }
        }));
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn cannot_listen(error: SandboxError) -> Failure {
    match error {
        SandboxError::Failure(failure) => failure,
        error => Failure::new(Code::SandboxLost, "The sandbox could not open its way to the model gateway")
            .detail(error.to_string()),
    }
}

/// The hosts that one sandbox asked for in vain. Bounded, because the sandbox chooses the names.
#[derive(Debug, Default)]
struct BlockedHosts(Mutex<BTreeSet<String>>);

impl BlockedHosts {
    /// Remembers `host` unless it is no readable name or there are too many already.
    fn insert(&self, host: &str) {
        let readable = !host.is_empty() && host.len() <= 253 && host.bytes().all(|b| b.is_ascii_graphic());
        let mut hosts = self.lock();
        if readable && hosts.len() < MAX_BLOCKED_HOSTS {
            hosts.insert(host.to_ascii_lowercase());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_inside_learn_urls_and_a_token_but_no_key() {
        let mut providers = ModelProviders::default();
        let provider = Provider { base_url: "http://10.0.0.7:8000".into(), key: Some("canary-key".to_owned().into()) };
        providers.providers.insert("local".into(), provider);
        let inside = GatewayInside::new(&providers, "tok".into(), false);
        insta::assert_debug_snapshot!(inside, @r#"
        GatewayInside {
            urls: {
                "anthropic": "http://127.0.0.1:8099/anthropic",
                "gemini": "http://127.0.0.1:8099/gemini",
                "local": "http://127.0.0.1:8099/local/v1",
                "openai": "http://127.0.0.1:8099/openai/v1",
            },
            token: "tok",
            proxy: None,
        }
        "#);
        assert!(inside.env().is_empty());
    }

    #[test]
    fn the_variables_lead_to_the_proxy_and_leave_the_gateway_alone() {
        let env = GatewayInside::new(&ModelProviders::default(), String::new(), true).env();
        insta::assert_debug_snapshot!(env, @r#"
        {
            "HTTPS_PROXY": "http://127.0.0.1:8098",
            "HTTP_PROXY": "http://127.0.0.1:8098",
            "NO_PROXY": "localhost,127.0.0.1,::1",
            "http_proxy": "http://127.0.0.1:8098",
            "https_proxy": "http://127.0.0.1:8098",
            "no_proxy": "localhost,127.0.0.1,::1",
        }
        "#);
    }

    #[test]
    fn the_list_of_blocked_hosts_is_bounded_and_readable() {
        let blocked = BlockedHosts::default();
        blocked.insert("Example.ORG");
        blocked.insert("example.org");
        blocked.insert("evil\u{1b}[2J.org");
        blocked.insert("");
        blocked.insert(&"x".repeat(300));
        assert_eq!(blocked.lock().iter().collect::<Vec<_>>(), ["example.org"]);
        for n in 0..1000 {
            blocked.insert(&format!("host-{n}.test"));
        }
        assert_eq!(blocked.lock().len(), MAX_BLOCKED_HOSTS);
    }
}
