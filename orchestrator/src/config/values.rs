//! The kinds of values in the configuration that TOML has no type for.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};
use workers::repo_config::{parse_duration, parse_size};

/// A length of time, written as `90s`, `30m` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let period = parse_duration(text).map_err(|error| error.to_string())?;
        match period.as_secs() {
            1..=31_536_000 => Ok(Self(period)),
            _ => Err(format!("{text:?} is out of range; it is between \"1s\" and \"365d\"")),
        }
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// An amount of memory or disk, written as `20GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_size(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

/// The name of an engine's runtime; empty: the engine's own choice.
pub(super) fn runtime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    match workers::forbidden::why_no_runtime(&name) {
        Some(why) => Err(de::Error::custom(why)),
        None => Ok(name),
    }
}

/// The name of an image: nothing that an engine's command line could take for an option.
pub(super) fn image<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.starts_with('-') || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(de::Error::custom(format!("{name:?} is not the name of an image; options cannot be given here")));
    }
    Ok(name)
}
