//! What an operator says over all repositories: policy, tiers of risk, and the key that signs what was verified.

use serde::Deserialize;
use tasks::{Code, Failure};
use workers::repo_config::{Operator, operator_tiers};

use super::{Config, Secret};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Evidence {
    pub key: Secret,
}

impl Config {
    /// What holds over all repositories.
    ///
    /// # Errors
    /// E006 for tiers that cannot be told apart.
    pub fn operator(&self) -> Result<Operator, Failure> {
        let tiers = operator_tiers(&self.tiers).map_err(|message| Failure::new(Code::BadConfig, message))?;
        Ok(Operator { policy: self.policy.clone(), tiers })
    }
}
