//! What an attempt asked of the world outside: which models, which hosts, what was refused and why, and what it cost.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    evidence::TokenUsage,
    ledger::{Money, Tokens, Usage},
};

/// What was asked of one model of one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelUse {
    /// The provider's name in the configuration.
    pub provider: String,
    /// The host that it has there.
    pub host: String,
    /// The model that answered.
    pub model: String,
    /// Answers that a model gave.
    pub n_exchanges: u64,
    /// Requests that were given up: outages that lasted, refusals of the provider.
    pub n_failed: u64,
    /// Answers that broke off before their count came: their tokens are estimates.
    pub n_estimated: u64,
    /// Answers in which no count could be found: their tokens are missing below.
    pub n_unmeasured: u64,
    /// Tokens.
    pub tokens: Tokens,
    /// Answers whose price is unknown, for want of a price or of a count.
    pub n_unpriced: u64,
    /// What the others cost by the price table.
    pub cost: Money,
}

/// When something was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// While the setup commands of the repository ran.
    Setup,
    /// While the agent worked.
    Agent,
    /// While the checks ran.
    Checks,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Setup, Self::Agent, Self::Checks];

    /// The word in texts and configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Agent => "agent",
            Self::Checks => "checks",
        }
    }
}

/// What was asked of one host in one phase, with one result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostUse {
    /// The host in its canonical form, with its port where that is not 443.
    pub host: String,
    /// When.
    pub phase: Phase,
    /// Why it was refused; `None`: it was reached.
    pub blocked: Option<String>,
    /// How often it was asked for.
    pub n_attempts: u64,
    /// Bytes that came in from it.
    pub received_bytes: u64,
    /// Bytes that went out to it.
    pub sent_bytes: u64,
}

/// Everything that an attempt asked of the world outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EgressRecord {
    /// Models, by provider and model.
    pub models: Vec<ModelUse>,
    /// Hosts, by phase and name.
    pub hosts: Vec<HostUse>,
    /// Attempts that are not listed because there were too many different ones.
    #[serde(default)]
    pub n_unlisted: u64,
    /// Connections that were opened to addresses of the public internet.
    #[serde(default)]
    pub n_external: u64,
    /// Bytes that the agent's sandbox sent and received on interfaces other than loopback, as its kernel counted them;
    /// looked at where the operator lets nothing out. It has none, so this is zero or something is very wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_bytes: Option<u64>,
}

impl ModelUse {
    /// What it cost. `None`: that is not known, which is not zero.
    pub fn known_cost(&self) -> Option<Money> {
        (self.n_unpriced == 0).then_some(self.cost)
    }
}

impl EgressRecord {
    /// Money and tokens of all models, for the ledger.
    pub fn spent(&self) -> Usage {
        self.models.iter().fold(Usage::default(), |sum, model| Usage {
            money: sum.money.plus(model.cost),
            n_unpriced: sum.n_unpriced.saturating_add(model.n_unpriced),
            tokens: sum.tokens.plus(&model.tokens),
            ..sum
        })
    }

    /// Tokens and cost as they were metered. `None`: no model answered, or none of its answers could be measured.
    pub fn metered(&self) -> Option<TokenUsage> {
        let measured = self.models.iter().any(|model| model.n_exchanges > model.n_unmeasured);
        let spent = self.spent();
        measured.then(|| TokenUsage {
            input: Some(spent.tokens.input),
            output: Some(spent.tokens.output),
            cost_microusd: (spent.n_unpriced == 0).then_some(spent.money.as_microusd()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(n_exchanges: u64, input: u64, n_unpriced: u64) -> ModelUse {
        ModelUse {
            provider: "p".into(),
            host: "h".into(),
            model: "m".into(),
            n_exchanges,
            n_failed: 0,
            n_estimated: 0,
            n_unmeasured: 0,
            tokens: Tokens { input, output: 1, ..Tokens::default() },
            n_unpriced,
            cost: Money::microusd(7),
        }
    }

    #[test]
    fn one_unknown_price_makes_the_sum_unknown_and_no_exchange_is_no_usage() {
        let of = |models: Vec<ModelUse>| EgressRecord { models, ..EgressRecord::default() };
        assert_eq!(of(vec![]).metered(), None);
        assert_eq!(of(vec![model(0, 0, 0)]).metered(), None);
        let usage = of(vec![model(1, 5, 0), model(2, 6, 0)]).metered().unwrap();
        assert_eq!((usage.input, usage.output, usage.cost_microusd), (Some(11), Some(2), Some(14)));
        let partly = of(vec![model(1, 5, 0), model(1, 5, 1)]);
        assert_eq!(partly.metered().unwrap().cost_microusd, None);
        assert_eq!((partly.spent().money, partly.spent().n_unpriced), (Money::microusd(14), 1));
    }
}
