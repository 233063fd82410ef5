//! Who pays, and for which time.

use std::{fmt, str::FromStr};

use chrono::{Datelike, Months, NaiveDate, NaiveTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    repo::{NameError, RepoName},
    task::Actor,
};

/// Who pays: what a task uses counts for each of these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Account {
    /// All tasks together.
    All,
    /// A repository.
    Repository {
        /// Which.
        repo: RepoName,
    },
    /// Whoever asked.
    Requester {
        /// The login when it was first seen.
        login: String,
        /// The number on the forge, which no rename changes.
        id: Option<u64>,
    },
    /// A team of the configuration.
    Team {
        /// Its name there.
        name: String,
    },
}

impl Account {
    /// The account of a person.
    pub fn of(actor: &Actor) -> Self {
        Self::Requester { login: actor.login.clone(), id: actor.id }
    }

    /// What makes two accounts the same.
    pub fn key(&self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::Repository { repo } => format!("repository:{repo}"),
            Self::Requester { id: Some(id), .. } => format!("requester:{id}"),
            Self::Requester { id: None, login } => format!("requester:@{login}"),
            Self::Team { name } => format!("team:{name}"),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all tasks"),
            Self::Repository { repo } => repo.fmt(f),
            Self::Requester { login, .. } => write!(f, "@{login}"),
            Self::Team { name } => write!(f, "team {name}"),
        }
    }
}

/// A calendar month, UTC: the period of limits and bills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    pub(super) year: i32,
    pub(super) month: u32,
}

impl Month {
    /// The month of a moment.
    pub fn of(at: Timestamp) -> Self {
        Self { year: at.year(), month: at.month() }
    }

    /// When the next one begins.
    pub fn end(self) -> Timestamp {
        let first =
            NaiveDate::from_ymd_opt(self.year, self.month, 1).and_then(|day| day.checked_add_months(Months::new(1)));
        first.map_or(Timestamp::MAX_UTC, |day| day.and_time(NaiveTime::MIN).and_utc())
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = NameError;

    fn from_str(value: &str) -> Result<Self, NameError> {
        let parse = || {
            let (year, month) = value.split_once('-')?;
            let month = Self { year: year.parse().ok()?, month: month.parse().ok()? };
            (value.len() == 7 && (1970..=9999).contains(&month.year) && (1..=12).contains(&month.month))
                .then_some(month)
        };
        parse()
            .ok_or_else(|| NameError { value: value.chars().take(120).collect(), expected: "a month such as 2026-11" })
    }
}

impl Serialize for Month {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Month {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Month".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$" })
    }
}
