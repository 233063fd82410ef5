//! Which models there are, as the operator configured them.

use std::{collections::BTreeMap, time::Duration};

use tasks::{Code, Failure};

use super::{Key, Path, Prices, Speaks};

/// Where real models are, what they cost, and how patient to be with them. Never leaves the worker.
#[derive(Debug, Default)]
pub struct ModelProviders {
    /// By the name that paths begin with inside.
    pub providers: BTreeMap<String, Provider>,
    /// What models cost.
    pub prices: Prices,
    /// What is done when a provider is out.
    pub patience: Patience,
}

/// One provider.
#[derive(Debug)]
pub struct Provider {
    /// `https://api.anthropic.com`, or any compatible one.
    pub base_url: String,
    /// The key; `None`: the provider wants none (a local model server).
    pub key: Option<Key>,
    /// How it is spoken to.
    pub speaks: Speaks,
    /// Who is asked when it is out, in order.
    pub fallback: Vec<Fallback>,
    /// What may be asked for.
    pub paths: Vec<Path>,
}

impl Provider {
    /// A provider that speaks as its name says, without a fallback.
    pub fn new(name: &str, base_url: impl Into<String>, key: Option<Key>) -> Self {
        let speaks = Speaks::of_name(name);
        Self { base_url: base_url.into(), key, speaks, fallback: Vec::new(), paths: speaks.paths() }
    }

    /// As another protocol, with its paths.
    #[must_use]
    pub fn speaking(mut self, speaks: Speaks) -> Self {
        self.speaks = speaks;
        self.paths = speaks.paths();
        self
    }

    /// The host of its address.
    pub fn host(&self) -> String {
        reqwest::Url::parse(&self.base_url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Who is asked instead: another provider, or another model of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The provider's name.
    pub provider: String,
    /// The model; `None`: the one that was asked for.
    pub model: Option<String>,
}

impl Fallback {
    /// Reads `provider` or `provider/model`.
    pub fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((provider, model)) => Self { provider: provider.to_owned(), model: Some(model.to_owned()) },
            None => Self { provider: text.to_owned(), model: None },
        }
    }
}

/// How an outage is met. Nothing is repeated once the first byte of an answer is there.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often one provider is asked again; once only where a fallback comes after it.
    pub n_retries: u32,
    /// The wait before the first retry; doubled for each further one.
    pub first_wait: Duration,
    /// A provider that wants a longer wait is not waited for.
    pub longest_wait: Duration,
    /// How long a provider may take to begin its answer.
    pub head_timeout: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            n_retries: 3,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            head_timeout: Duration::from_secs(300),
        }
    }
}

impl ModelProviders {
    /// Looks for what no single provider can show.
    ///
    /// # Errors
    /// E006 for a fallback that is not there or is spoken to in another way.
    pub fn check(&self) -> Result<(), Failure> {
        for (name, provider) in &self.providers {
            for Fallback { provider: other, .. } in &provider.fallback {
                let wrong = match self.providers.get(other) {
                    Some(found) if found.speaks == provider.speaks => continue,
                    Some(_) => "is spoken to in another way",
                    None => "is not configured",
                };
                let message = format!("models.{name}.fallback names the provider `{other}`, which {wrong}");
                return Err(Failure::new(Code::BadConfig, message));
            }
        }
        Ok(())
    }
}
