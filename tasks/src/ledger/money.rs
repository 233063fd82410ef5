//! Money and tokens, as they are counted.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::repo::NameError;

/// Money, in millionths of a US dollar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Money(pub(super) u64);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// So many millionths of a dollar.
    pub const fn microusd(microusd: u64) -> Self {
        Self(microusd)
    }

    /// In millionths of a dollar.
    pub const fn as_microusd(self) -> u64 {
        self.0
    }

    /// Both together; a sum that is too large is the largest.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left of it; never less than nothing.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Money {
    /// `$1.50`; below a cent as many digits as it takes, so that something is never shown as nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, rest) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if dollars > 0 || rest == 0 || rest >= 10_000 {
            // Half a cent and more is one, so a sum may read as the next dollar.
            let cents = (self.0.saturating_add(5_000)) / 10_000;
            return write!(f, "${}.{:02}", cents / 100, cents % 100);
        }
        write!(f, "$0.{}", format!("{rest:06}").trim_end_matches('0'))
    }
}

impl FromStr for Money {
    type Err = NameError;

    /// `5`, `2.50`, `$0.000125`: dollars, with up to six digits after the point.
    fn from_str(value: &str) -> Result<Self, NameError> {
        let parse = || {
            let text = value.trim();
            let text = text.strip_prefix('$').unwrap_or(text);
            let (dollars, rest) = text.split_once('.').unwrap_or((text, "0"));
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if !digits(dollars) || !digits(rest) || rest.len() > 6 {
                return None;
            }
            let micros: u64 = format!("{rest:0<6}").parse().ok()?;
            dollars.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros)
        };
        parse().map(Self).ok_or_else(|| NameError {
            value: value.chars().take(120).collect(),
            expected: "an amount in US dollars such as \"2.50\", with at most six digits after the point",
        })
    }
}
