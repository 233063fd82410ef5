//! `[budget]`: what tasks may use, and what machines cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use tasks::{Allowance, Code, Failure, MachinePrices, Meter, Money};
use workers::repo_config::{parse_duration, parse_size};

use crate::queue::budget::{Budgets, Level, Team, WhenOver};

/// The whole section. `config.example.toml` says what each key means.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.example.toml documents every key, once")]
pub struct Budget {
    pub when_over: WhenOver,
    pub prices: Prices,
    pub all: Limits,
    pub repositories: BTreeMap<String, Limits>,
    pub requesters: BTreeMap<String, Limits>,
    pub teams: BTreeMap<String, TeamLimits>,
}

/// What machines cost.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    #[serde(deserialize_with = "money")]
    pub cpu_hour: Option<Money>,
    #[serde(deserialize_with = "money")]
    pub memory_gib_hour: Option<Money>,
    #[serde(deserialize_with = "money")]
    pub gpu_hour: Option<Money>,
    #[serde(deserialize_with = "money")]
    pub storage_gib: Option<Money>,
}

impl Prices {
    /// The same as workers want it.
    pub fn of_machines(&self) -> MachinePrices {
        MachinePrices {
            cpu_hour: self.cpu_hour.unwrap_or_default(),
            memory_gib_hour: self.memory_gib_hour.unwrap_or_default(),
            gpu_hour: self.gpu_hour.unwrap_or_default(),
            storage_gib: self.storage_gib.unwrap_or_default(),
        }
    }
}

/// Limits of one level.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default)]
    pub task: Amounts,
    #[serde(default)]
    pub month: Amounts,
}

/// Limits of a team.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeamLimits {
    pub members: Vec<String>,
    #[serde(default)]
    pub task: Amounts,
    #[serde(default)]
    pub month: Amounts,
}

/// Amounts of everything that is counted; empty or 0: no limit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Amounts {
    #[serde(deserialize_with = "money")]
    pub money: Option<Money>,
    pub tokens: u64,
    #[serde(deserialize_with = "milliseconds")]
    pub wall: Option<u64>,
    #[serde(deserialize_with = "milliseconds")]
    pub cpu: Option<u64>,
    pub memory_gib_hours: u64,
    #[serde(deserialize_with = "milliseconds")]
    pub gpu: Option<u64>,
    #[serde(deserialize_with = "bytes")]
    pub storage: Option<u64>,
}

impl Amounts {
    fn allowance(&self) -> Allowance {
        let Self { money, tokens, wall, cpu, memory_gib_hours, gpu, storage } = self;
        Allowance {
            money: *money,
            tokens: Some(*tokens).filter(|n| *n > 0),
            wall_ms: *wall,
            cpu_ms: *cpu,
            memory_mib_s: Some(memory_gib_hours.saturating_mul(1024 * 3600)).filter(|n| *n > 0),
            gpu_ms: *gpu,
            storage_bytes: *storage,
        }
    }
}

fn level(task: &Amounts, month: &Amounts) -> Level {
    Level { task: task.allowance(), month: month.allowance() }
}

impl Budget {
    /// The same as the queue wants it.
    pub fn budgets(&self) -> Budgets {
        let named = |limits: &BTreeMap<String, Limits>| {
            limits.iter().map(|(name, limits)| (name.clone(), level(&limits.task, &limits.month))).collect()
        };
        let team = |(name, team): (&String, &TeamLimits)| Team {
            name: name.clone(),
            members: team.members.clone(),
            level: level(&team.task, &team.month),
        };
        Budgets {
            all: level(&self.all.task, &self.all.month),
            repositories: named(&self.repositories),
            requesters: named(&self.requesters),
            teams: self.teams.iter().map(team).collect(),
            when_over: self.when_over,
        }
    }

    /// A limit of a month is shared by what runs at the same time, so each task must have a share of its own: without
    /// one, the first would hold all of it and the others would wait.
    ///
    /// # Errors
    /// E006 naming the limit of a task that is missing, or a pattern that means nobody.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let budgets = self.budgets();
        let of_all = budgets.all.task;
        let repositories = budgets.repositories.iter().map(|(name, level)| (format!("repositories.{name:?}"), level));
        let requesters = budgets.requesters.iter().map(|(name, level)| (format!("requesters.{name:?}"), level));
        let teams = budgets.teams.iter().map(|team| (format!("teams.{}", team.name), &team.level));
        let levels = repositories.chain(requesters).chain(teams).chain([("all".to_owned(), &budgets.all)]);
        for (name, level) in levels {
            let share = level.task.and(&of_all);
            let missing =
                Meter::ALL.into_iter().find(|meter| level.month.of(*meter).is_some() && share.of(*meter).is_none());
            if let Some(meter) = missing {
                let message =
                    format!("budget.{name}.month limits {meter}, and no limit says how much of it one task may use");
                return Err(Failure::new(Code::BadConfig, message)
                    .next(format!("Set {meter} under [budget.all.task] or [budget.{name}.task], too.")));
            }
        }
        let wrong = self.repositories.keys().find(|pattern| *pattern != "*" && pattern.split('/').count() != 2);
        if let Some(pattern) = wrong {
            let message = format!("budget.repositories.{pattern:?} names no repository");
            return Err(Failure::new(Code::BadConfig, message).next("Write owner/name, owner/* or *."));
        }
        Ok(())
    }
}

/// Empty is none.
fn optional<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "" => Ok(None),
        text => parse(text).map(Some).map_err(de::Error::custom),
    }
}

fn money<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Money>, D::Error> {
    optional(deserializer, |text| text.parse().map_err(|error: tasks::repo::NameError| error.to_string()))
}

fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    optional(deserializer, |text| parse_duration(text).map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    optional(deserializer, parse_size)
}

#[cfg(test)]
mod tests {
    use super::{super::Config, *};

    #[test]
    fn nothing_is_limited_by_itself_and_machines_cost_nothing() {
        let budget = Config::default().budget;
        assert_eq!(budget.budgets(), Budgets::default());
        assert_eq!((budget.prices.cpu_hour, budget.prices.gpu_hour), (None, None));
    }

    #[test]
    fn limits_are_written_as_people_say_them() {
        let text = r#"
            [budget.all.task]
            money = "5.00"
            tokens = 2000000
            wall = "2h"
            memory_gib_hours = 8
            [budget.repositories."acme/*".month]
            money = "100"
            [budget.teams.web]
            members = ["ada"]
            month = { money = "40", tokens = 9000000 }
        "#;
        let budgets = Config::parse(text).unwrap().budget.budgets();
        assert_eq!(budgets.all.task.money, Some(Money::microusd(5_000_000)));
        assert_eq!((budgets.all.task.tokens, budgets.all.task.wall_ms), (Some(2_000_000), Some(7_200_000)));
        assert_eq!(budgets.all.task.memory_mib_s, Some(8 * 3_686_400));
        assert_eq!(budgets.repositories[0].0, "acme/*");
        assert_eq!(budgets.repositories[0].1.month.money, Some(Money::microusd(100_000_000)));
        assert_eq!((budgets.teams[0].name.as_str(), budgets.teams[0].level.month.tokens), ("web", Some(9_000_000)));
    }

    #[test]
    fn limits_that_cannot_be_meant_are_refused_in_words() {
        for (text, part) in [
            ("[budget.all.month]\nmoney = \"10\"", "budget.all.month limits money, and no limit says how much"),
            ("[budget.repositories.web.task]\ntokens = 5", "budget.repositories.\"web\" names no repository"),
            ("[budget.all.task]\nmoney = \"ten\"", "an amount in US dollars"),
            ("[budget.all.task]\nwall = \"2\"", "\"2\" is not a duration"),
            ("[budget.all.task]\nmonye = \"2\"", "did you mean `budget.all.task.money`?"),
            ("[budget.requesters.ada.day]\nmoney = \"2\"", "unknown field `day`"),
            ("[budget]\nwhen_over = \"ask\"", "unknown variant `ask`"),
        ] {
            let failure = Config::parse(text).unwrap_err();
            assert_eq!(failure.code, Code::BadConfig);
            assert!(failure.message.contains(part), "{text}: {failure}");
        }
    }
}
