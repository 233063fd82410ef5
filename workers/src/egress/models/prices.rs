//! What models cost. The table is a file that ships with Onramp, with the operator's own on top. A model that neither
//! knows has no price, and nothing here ever makes a zero of that.

use serde::Deserialize;
use tasks::{Code, Failure, Money, Tokens};

use crate::toml_problem::TomlProblem;

/// All known prices. The first entry that fits counts.
#[derive(Debug, Clone)]
pub struct Prices(Vec<Entry>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    #[serde(default)]
    price: Vec<Entry>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    models: Vec<String>,
    provider: Option<String>,
    input: f64,
    cached: Option<f64>,
    cache_write: Option<f64>,
    output: f64,
    long: Option<Long>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    over: u64,
    input: f64,
    cached: Option<f64>,
    cache_write: Option<f64>,
    output: f64,
}

/// The price of one exchange: US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Price {
    rates: Rates,
    long: Option<(u64, Rates)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Rates {
    input: f64,
    cached: f64,
    cache_write: f64,
    output: f64,
}

impl Default for Prices {
    /// Those that ship with Onramp.
    fn default() -> Self {
        let file: PriceFile =
            toml::from_str(templates::PRICES).expect("the embedded prices are well-formed; a test reads them");
        Self(file.price)
    }
}

impl Prices {
    /// The embedded table under the operator's own. `file` names it in errors.
    ///
    /// # Errors
    /// E006 with the line.
    pub fn with(file: &str, text: &str) -> Result<Self, Failure> {
        let wrong = |why: String| {
            Failure::new(Code::BadConfig, format!("The prices in {file} cannot be used: {why}"))
                .next("templates/prices.toml shows how prices are written.")
        };
        let own: PriceFile = toml::from_str(text).map_err(|error| {
            let problem = TomlProblem::new(text, &error);
            wrong(problem.to_string()).detail(&problem.excerpt)
        })?;
        let usable = |rate: f64| rate.is_finite() && (0.0..1e6).contains(&rate);
        for entry in &own.price {
            let Entry { input, cached, cache_write, output, .. } = entry;
            if ![Some(*input), *cached, *cache_write, Some(*output)].into_iter().flatten().all(usable) {
                return Err(wrong(format!("a price of {:?} is not a number of dollars from 0 up", entry.models)));
            }
        }
        Ok(Self(own.price.into_iter().chain(Self::default().0).collect()))
    }

    /// What `model` costs at `provider`. `None`: nobody here knows.
    pub(crate) fn of(&self, provider: &str, model: &str) -> Option<Price> {
        let entry = self.0.iter().find(|entry| {
            entry.provider.as_deref().is_none_or(|only| only == provider)
                && entry.models.iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(start) => model.starts_with(start),
                    None => model == pattern,
                })
        })?;
        let rates = |input: f64, cached: Option<f64>, cache_write: Option<f64>, output: f64| Rates {
            input,
            cached: cached.unwrap_or(input),
            cache_write: cache_write.unwrap_or(input),
            output,
        };
        Some(Price {
            rates: rates(entry.input, entry.cached, entry.cache_write, entry.output),
            long: entry.long.map(|long| (long.over, rates(long.input, long.cached, long.cache_write, long.output))),
        })
    }
}

impl Price {
    /// What one exchange costs.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an exchange has far fewer tokens than a double has digits, and no rate is negative"
    )]
    pub(crate) fn of(&self, tokens: Tokens) -> Money {
        let rates = match self.long {
            Some((over, long)) if tokens.input > over => long,
            _ => self.rates,
        };
        let fresh = tokens.input.saturating_sub(tokens.cached).saturating_sub(tokens.cache_written);
        // Dollars per million tokens are millionths of a dollar per token.
        let cost = fresh as f64 * rates.input
            + tokens.cached as f64 * rates.cached
            + tokens.cache_written as f64 * rates.cache_write
            + tokens.output as f64 * rates.output;
        Money::microusd(cost.ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(price: Price, tokens: Tokens) -> u64 {
        price.of(tokens).as_microusd()
    }

    fn tokens(input: u64, cached: u64, cache_written: u64, output: u64) -> Tokens {
        Tokens { input, cached, cache_written, output, reasoning: 0 }
    }

    #[test]
    fn each_kind_of_token_has_its_own_price_and_a_long_read_another() {
        let prices = Prices::default();
        let sonnet = prices.of("anthropic", "claude-sonnet-4-5-20250929").unwrap();
        assert_eq!(cost(sonnet, tokens(1_000_000, 0, 0, 0)), 3_000_000);
        assert_eq!(
            cost(sonnet, tokens(1_000_000, 600_000, 300_000, 100_000)),
            300_000 + 180_000 + 1_125_000 + 1_500_000
        );
        let gemini = prices.of("gemini", "gemini-2.5-pro").unwrap();
        assert_eq!(cost(gemini, tokens(200_000, 0, 0, 1000)), 250_000 + 10_000);
        assert_eq!(cost(gemini, tokens(200_001, 0, 0, 1000)), 500_003 + 15_000);
        assert_eq!(cost(gemini, tokens(1, 0, 0, 0)), 2, "rounded up: never nothing for something");
    }

    #[test]
    fn an_unknown_model_has_no_price_and_the_more_exact_name_comes_first() {
        let prices = Prices::default();
        assert_eq!(prices.of("openai", "scripted-1"), None);
        assert_eq!(prices.of("openai", ""), None);
        let output = |model: &str| cost(prices.of("anthropic", model).unwrap(), tokens(0, 0, 0, 1_000_000));
        assert_eq!((output("claude-opus-4-5-20251101"), output("claude-opus-4-1")), (25_000_000, 75_000_000));
        assert_eq!(prices.of("openai", "gpt-5-pro"), None, "a name that only begins alike is another model");
    }

    #[test]
    fn the_operators_prices_come_first_and_may_hold_for_one_provider() {
        let own = "[[price]]\nmodels = [\"*\"]\nprovider = \"local\"\ninput = 0\noutput = 0\n\
                   [[price]]\nmodels = [\"gpt-5\"]\ninput = 1.0\noutput = 2.0\n";
        let prices = Prices::with("p.toml", own).unwrap();
        let of = |provider: &str, model: &str| Some(cost(prices.of(provider, model)?, tokens(1000, 500, 0, 1000)));
        assert_eq!(of("local", "anything"), Some(0), "free is a price");
        assert_eq!(of("openai", "gpt-5"), Some(3000));
        assert_eq!(of("openai", "anything"), None);
        for bad in [
            "[[price]]\nmodels = [\"x\"]\ninput = -1\noutput = 0",
            "[[price]]\nmodels = [\"x\"]\ninput = 1",
            "[[prize]]",
        ] {
            assert_eq!(Prices::with("p.toml", bad).unwrap_err().code, Code::BadConfig, "{bad}");
        }
    }
}
