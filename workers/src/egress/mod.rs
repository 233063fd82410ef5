//! Stub: owned by the egress room. The far end of a sandbox's tunnels: model gateway and allow-list proxy.
use std::{collections::BTreeMap, sync::Arc};

use secrecy::SecretString;
use tasks::Failure;
use tokio_util::sync::CancellationToken;

use crate::sandbox::Sandbox;

/// The port of the model gateway inside a sandbox.
pub const MODELS_PORT: u16 = 8099;
/// The port of the allow-list proxy inside a sandbox.
pub const PROXY_PORT: u16 = 8098;

/// Where real models are, and their keys. Never leaves the worker.
#[derive(Debug, Clone, Default)]
pub struct ModelProviders {
    /// By protocol family: `anthropic`, `openai`, `gemini`.
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
    /// `http://127.0.0.1:8099/anthropic` and so on, by provider name.
    pub urls: BTreeMap<String, String>,
    /// A token that is worth nothing outside of this one sandbox.
    pub token: String,
    /// `http://127.0.0.1:8098`, when hosts are allowed at all.
    pub proxy: Option<String>,
}

impl GatewayInside {
    /// Variables for setup commands and agents.
    pub fn env(&self) -> BTreeMap<String, String> {
        todo!()
    }
}

/// Serves the tunnels of one sandbox until it is dropped.
pub struct Egress {}

impl Egress {
    /// Opens the listeners inside and serves them.
    pub async fn open(
        _sandbox: &Sandbox,
        _providers: Arc<ModelProviders>,
        _allow: &[String],
        _cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        todo!()
    }
    /// What to tell programs inside.
    pub fn inside(&self) -> &GatewayInside {
        todo!()
    }
    /// Hosts that were asked for and refused, sorted, each once.
    pub fn blocked_hosts(&self) -> Vec<String> {
        todo!()
    }
}
