//! The far end of a sandbox's tunnels: the only way out of a box that has no network.
//!
//! Two listeners open inside. The model gateway ([`models`]) takes requests that carry this sandbox's own token and sends
//! them on with the real key, so that a key never enters a sandbox. The allow-list proxy ([`proxy`]) reaches the hosts that
//! the repository's configuration names for the phase at hand, and says why it reaches no other. Over both stand the
//! operator's rules ([`policy`]), and both write down what was asked of them ([`tally`]). They run on the host; a program
//! inside sees two loopback ports.
//!
//! What a model's URL inside means, decided here once: the first part of the path names the provider and is cut off; the
//! rest is added to the provider's `base_url`. `http://127.0.0.1:8099/openai/v1/responses` is
//! `https://api.openai.com/v1/responses`. A `base_url` that already ends in the part that the rest begins with
//! (`https://host/v1`, as many tools want it written) does not get it twice.

pub(crate) mod models;
mod policy;
pub mod presets;
mod proxy;
mod tally;
pub mod vendors;

use std::{collections::BTreeMap, future::Future, sync::Arc};

use tasks::{Code, Failure, Phase, RepoName};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::proxy::{key_of, not_allowed};
use self::{
    models::Models,
    proxy::{Doors, Proxy},
};
pub use self::{
    models::{Fallback, Key, ModelProviders, Path, Patience, Prices, Provider, Speaks},
    policy::{EgressPolicy, Registry, SetupSecret},
    tally::Tally,
};
use crate::{
    repo_config::Network,
    sandbox::{Sandbox, SandboxError, Tunnel, Tunnels},
};

/// The port of the model gateway inside a sandbox.
pub const MODELS_PORT: u16 = 8099;
/// The port of the allow-list proxy inside a sandbox.
pub const PROXY_PORT: u16 = 8098;

/// So many tunnels of one listener are served at once; further ones wait. A fork bomb inside costs no memory outside.
const MAX_TUNNELS: usize = 128;

/// What the ways out of one sandbox are made of.
pub struct Ways<'a> {
    /// The models that may be asked; none of them where only setup and checks run.
    pub models: Arc<ModelProviders>,
    /// The operator's rules.
    pub policy: Arc<EgressPolicy>,
    /// The repository's list of hosts.
    pub network: &'a Network,
    /// The repository.
    pub repo: &'a RepoName,
    /// What runs first in it.
    pub phase: Phase,
    /// Where all that is asked for is written down.
    pub tally: Arc<Tally>,
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
        let direct = ["NO_PROXY", "no_proxy"].map(|name| (name, "localhost,127.0.0.1,::1,0.0.0.0"));
        to_proxy.into_iter().chain(direct).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// Serves the tunnels of one sandbox until it is dropped.
pub struct Egress {
    inside: GatewayInside,
    models: Arc<Models>,
    proxy: Option<Arc<Proxy>>,
    network: Network,
    cancel: CancellationToken,
    serving: TaskTracker,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Egress {
    /// Opens the listeners inside and serves them: the model gateway always, the proxy where an agent works (which is told
    /// what it may not reach) and where a host may be reached at all.
    ///
    /// # Errors
    /// E007 for an entry of the list that is no host; E006 when the operator's rules cannot be read; whatever the sandbox
    /// says when it cannot listen.
    pub async fn open(sandbox: &Sandbox, ways: Ways<'_>, cancel: &CancellationToken) -> Result<Self, Failure> {
        let Ways { models: providers, policy, network, repo, phase, tally } = ways;
        let rules = policy.rules()?;
        let doors = Doors::new(policy, repo.clone());
        let for_agent = !providers.providers.is_empty() || phase == Phase::Agent;
        let proxy = match for_agent || !network.is_empty() || !doors.is_empty() {
            true => {
                let hosts = network.of(phase);
                Some(Arc::new(Proxy::new(phase, &hosts, Arc::clone(&rules), Arc::clone(&tally), doors)?))
            }
            false => None,
        };
        let token = models::random_token()?;
        let inside = GatewayInside::new(&providers, token.clone(), proxy.is_some());
        let models = Arc::new(Models::new(providers, rules, tally, token));

        // From here on a return drops `egress`, which ends what was started.
        let (cancel, serving) = (cancel.child_token(), TaskTracker::new());
        let egress = Self { inside, models, proxy, network: network.clone(), cancel, serving };
        let tunnels = sandbox.listen(MODELS_PORT).await.map_err(cannot_listen)?;
        let models = Arc::clone(&egress.models);
        egress.serve(tunnels, move |tunnel| Arc::clone(&models).serve(tunnel));
        if let Some(proxy) = egress.proxy.clone() {
            let tunnels = sandbox.listen(PROXY_PORT).await.map_err(cannot_listen)?;
            egress.serve(tunnels, move |tunnel| Arc::clone(&proxy).serve(tunnel));
        }
        Ok(egress)
    }

    /// From now on something else runs inside: other hosts may be reached, and what was opened before is cut.
    ///
    /// # Errors
    /// E007.
    pub fn enter(&self, phase: Phase) -> Result<(), Failure> {
        self.proxy.as_ref().map_or(Ok(()), |proxy| proxy.enter(phase, &self.network.of(phase)))
    }

    /// The gateway, for an agent whose loop runs on this side.
    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    /// What to tell programs inside.
    pub fn inside(&self) -> &GatewayInside {
        &self.inside
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

/// The model gateway by itself, over any stream: what a sandbox's tunnels end in.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Models>);

impl Gateway {
    /// A gateway, and the token that it wants.
    ///
    /// # Errors
    /// E006 when the operator's rules cannot be read.
    pub fn new(
        models: Arc<ModelProviders>,
        policy: &EgressPolicy,
        tally: Arc<Tally>,
    ) -> Result<(Self, String), Failure> {
        let token = models::random_token()?;
        Ok((Self(Arc::new(Models::new(models, policy.rules()?, tally, token.clone()))), token))
    }

    /// Serves one connection to its end.
    pub async fn serve<S>(&self, stream: S)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        Arc::clone(&self.0).serve(stream).await;
    }
}

/// Whether a host may lie on the public internet.
pub fn is_outside(host: &str) -> bool {
    policy::Rules::is_outside(host)
}

fn cannot_listen(error: SandboxError) -> Failure {
    match error {
        SandboxError::Failure(failure) => failure,
        error => Failure::new(Code::SandboxLost, "The sandbox could not open its way to the model gateway")
            .detail(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_inside_learn_urls_and_a_token_but_no_key() {
        let mut providers = ModelProviders::default();
        let provider = Provider::new("local", "http://10.0.0.7:8000", Some(Key::fixed("canary-key".to_owned())));
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
            "NO_PROXY": "localhost,127.0.0.1,::1,0.0.0.0",
            "http_proxy": "http://127.0.0.1:8098",
            "https_proxy": "http://127.0.0.1:8098",
            "no_proxy": "localhost,127.0.0.1,::1,0.0.0.0",
        }
        "#);
    }
}
