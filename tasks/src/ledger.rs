//! What work costs, and what it may cost: one vocabulary for money, tokens and machines.
//!
//! A task's [`Usage`] is everything that its attempts used. Before an attempt begins, an [`Allowance`] is reserved for it
//! in every [`Account`] that it counts for, so that attempts at the same time cannot overshoot a limit together; when it
//! ends, what it really used takes the place of what was reserved. An attempt is cut off at its allowance by whoever
//! measures it: the model gateway for money and tokens, the worker for the rest.
//!
//! What cannot be measured is never taken for nothing: an exchange with a model whose price nobody knows is counted in
//! [`Usage::n_unpriced`], and an attempt with an allowance of money ends there.

mod account;
mod money;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    account::{Account, Month},
    money::Money,
};
use crate::task::TaskId;

/// Tokens of models, as their providers count them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tokens {
    /// Read by the model, all of them.
    pub input: u64,
    /// Those of `input` that came out of the provider's cache.
    pub cached: u64,
    /// Those of `input` that were put into the provider's cache.
    pub cache_written: u64,
    /// Written by the model, all of them.
    pub output: u64,
    /// Those of `output` that were thinking.
    pub reasoning: u64,
}

impl Tokens {
    /// All of them: what a limit counts.
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached: self.cached.saturating_add(other.cached),
            cache_written: self.cache_written.saturating_add(other.cache_written),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
        }
    }
}

/// What is counted, and what can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// Everything that has a price, in millionths of a US dollar.
    Money,
    /// Tokens of models, read and written.
    Tokens,
    /// Time of attempts, in milliseconds.
    Wall,
    /// Time of CPUs, in milliseconds.
    Cpu,
    /// Memory over time, in MiB times seconds.
    Memory,
    /// Time of lent GPUs, in milliseconds, one after the other.
    Gpu,
    /// Artifacts that were left, in bytes.
    Storage,
}

impl Meter {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Money, Self::Tokens, Self::Wall, Self::Cpu, Self::Memory, Self::Gpu, Self::Storage];

    /// Its name in configurations and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Money => "money",
            Self::Tokens => "tokens",
            Self::Wall => "wall",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Gpu => "gpu",
            Self::Storage => "storage",
        }
    }

    /// An amount in words: `$2.50`, `12 tokens`, `1 h 5 min of CPU`.
    pub fn show(self, amount: u64) -> String {
        match self {
            Self::Money => Money(amount).to_string(),
            Self::Tokens => format!("{amount} tokens"),
            Self::Wall => span(amount),
            Self::Cpu => format!("{} of CPU", span(amount)),
            Self::Memory => format!("{}.{} GiB hours of memory", amount / 3_686_400, amount % 3_686_400 / 368_640),
            Self::Gpu => format!("{} of GPU", span(amount)),
            Self::Storage => format!("{} MiB of storage", amount.div_ceil(1 << 20)),
        }
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Milliseconds in words: the two largest units, never nothing for something.
fn span(ms: u64) -> String {
    let s = ms.div_ceil(1000);
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// What was used. Sums never wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Usage {
    /// Everything that has a known price: models, and machines where the operator gave them one.
    pub money: Money,
    /// Exchanges with models whose price is not known. Where there are some, `money` is the least that it was.
    pub n_unpriced: u64,
    /// Attempts that ended without saying what they used. What was reserved for them counts as used.
    pub n_unmeasured: u64,
    /// Tokens of models.
    pub tokens: Tokens,
    /// Time of attempts, in milliseconds.
    pub wall_ms: u64,
    /// Time of CPUs, in milliseconds.
    pub cpu_ms: u64,
    /// Memory over time, in MiB times seconds.
    pub memory_mib_s: u64,
    /// Time of lent GPUs, in milliseconds.
    pub gpu_ms: u64,
    /// Artifacts that were left, in bytes.
    pub storage_bytes: u64,
}

impl Usage {
    /// How much of one thing.
    pub fn of(&self, meter: Meter) -> u64 {
        match meter {
            Meter::Money => self.money.0,
            Meter::Tokens => self.tokens.total(),
            Meter::Wall => self.wall_ms,
            Meter::Cpu => self.cpu_ms,
            Meter::Memory => self.memory_mib_s,
            Meter::Gpu => self.gpu_ms,
            Meter::Storage => self.storage_bytes,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            money: self.money.plus(other.money),
            n_unpriced: self.n_unpriced.saturating_add(other.n_unpriced),
            n_unmeasured: self.n_unmeasured.saturating_add(other.n_unmeasured),
            tokens: self.tokens.plus(&other.tokens),
            wall_ms: self.wall_ms.saturating_add(other.wall_ms),
            cpu_ms: self.cpu_ms.saturating_add(other.cpu_ms),
            memory_mib_s: self.memory_mib_s.saturating_add(other.memory_mib_s),
            gpu_ms: self.gpu_ms.saturating_add(other.gpu_ms),
            storage_bytes: self.storage_bytes.saturating_add(other.storage_bytes),
        }
    }

    /// What was added since it was `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            money: self.money.minus(before.money),
            n_unpriced: self.n_unpriced.saturating_sub(before.n_unpriced),
            n_unmeasured: self.n_unmeasured.saturating_sub(before.n_unmeasured),
            tokens: Tokens {
                input: self.tokens.input.saturating_sub(before.tokens.input),
                cached: self.tokens.cached.saturating_sub(before.tokens.cached),
                cache_written: self.tokens.cache_written.saturating_sub(before.tokens.cache_written),
                output: self.tokens.output.saturating_sub(before.tokens.output),
                reasoning: self.tokens.reasoning.saturating_sub(before.tokens.reasoning),
            },
            wall_ms: self.wall_ms.saturating_sub(before.wall_ms),
            cpu_ms: self.cpu_ms.saturating_sub(before.cpu_ms),
            memory_mib_s: self.memory_mib_s.saturating_sub(before.memory_mib_s),
            gpu_ms: self.gpu_ms.saturating_sub(before.gpu_ms),
            storage_bytes: self.storage_bytes.saturating_sub(before.storage_bytes),
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What machines cost, so that owned hardware has its price too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachinePrices {
    /// An hour of one CPU.
    pub cpu_hour: Money,
    /// A GiB of memory for an hour.
    pub memory_gib_hour: Money,
    /// An hour of one GPU.
    pub gpu_hour: Money,
    /// A GiB of artifacts, once.
    pub storage_gib: Money,
}

impl MachinePrices {
    /// What the machines cost that were used, each price rounded up to a millionth of a dollar.
    pub fn of(&self, used: &Usage) -> Money {
        let cost = |amount: u64, unit: u64, price: Money| {
            let microusd = (u128::from(amount) * u128::from(price.0)).div_ceil(u128::from(unit));
            Money(u64::try_from(microusd).unwrap_or(u64::MAX))
        };
        cost(used.cpu_ms, 3_600_000, self.cpu_hour)
            .plus(cost(used.memory_mib_s, 1024 * 3600, self.memory_gib_hour))
            .plus(cost(used.gpu_ms, 3_600_000, self.gpu_hour))
            .plus(cost(used.storage_bytes, 1 << 30, self.storage_gib))
    }
}

/// How much may be used. `None`: as much as it takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Allowance {
    /// Of money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// Of tokens, read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Of time of attempts, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// Of time of CPUs, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Of memory over time, in MiB times seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib_s: Option<u64>,
    /// Of time of GPUs, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_ms: Option<u64>,
    /// Of artifacts, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<u64>,
}

impl Allowance {
    /// How much of one thing.
    pub fn of(&self, meter: Meter) -> Option<u64> {
        match meter {
            Meter::Money => self.money.map(Money::as_microusd),
            Meter::Tokens => self.tokens,
            Meter::Wall => self.wall_ms,
            Meter::Cpu => self.cpu_ms,
            Meter::Memory => self.memory_mib_s,
            Meter::Gpu => self.gpu_ms,
            Meter::Storage => self.storage_bytes,
        }
    }

    /// The same with another amount of one thing.
    #[must_use]
    pub fn with(mut self, meter: Meter, amount: Option<u64>) -> Self {
        match meter {
            Meter::Money => self.money = amount.map(Money),
            Meter::Tokens => self.tokens = amount,
            Meter::Wall => self.wall_ms = amount,
            Meter::Cpu => self.cpu_ms = amount,
            Meter::Memory => self.memory_mib_s = amount,
            Meter::Gpu => self.gpu_ms = amount,
            Meter::Storage => self.storage_bytes = amount,
        }
        self
    }

    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// The smaller amount of each thing.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        Meter::ALL.into_iter().fold(self, |both, meter| {
            let smaller = match (both.of(meter), other.of(meter)) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            both.with(meter, smaller)
        })
    }

    /// What is left of it when so much was used.
    #[must_use]
    pub fn minus(self, used: &Usage) -> Self {
        Meter::ALL.into_iter().fold(self, |left, meter| {
            left.with(meter, left.of(meter).map(|amount| amount.saturating_sub(used.of(meter))))
        })
    }

    /// What was set aside on top of what it is, for another one.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        Meter::ALL.into_iter().fold(self, |both, meter| {
            let sum = match (both.of(meter), other.of(meter)) {
                (Some(one), Some(other)) => Some(one.saturating_add(other)),
                (one, other) => one.or(other),
            };
            both.with(meter, sum)
        })
    }

    /// The first thing of which at least as much was used as may be: then it is time to stop. Money that nobody can count
    /// is more than any amount of it.
    pub fn used_up_by(&self, used: &Usage) -> Option<Meter> {
        Meter::ALL.into_iter().find(|meter| {
            let uncounted = *meter == Meter::Money && used.n_unpriced > 0;
            self.of(*meter).is_some_and(|amount| uncounted || used.of(*meter) >= amount)
        })
    }
}

/// What an attempt was given before it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reservation {
    /// As much as it may use, and as much as nobody else can use meanwhile.
    pub allowance: Allowance,
    /// Where it counts.
    pub accounts: Vec<Account>,
    /// When it counts, whenever it ends.
    pub month: Month,
}

impl Reservation {
    /// What counts as used by an attempt that never said so: all that it might have used.
    pub fn forfeited(&self) -> Usage {
        let of = |meter| self.allowance.of(meter).unwrap_or(0);
        Usage {
            money: Money(of(Meter::Money)),
            n_unpriced: 0,
            n_unmeasured: 1,
            tokens: Tokens { input: of(Meter::Tokens), ..Tokens::default() },
            wall_ms: of(Meter::Wall),
            cpu_ms: of(Meter::Cpu),
            memory_mib_s: of(Meter::Memory),
            gpu_ms: of(Meter::Gpu),
            storage_bytes: of(Meter::Storage),
        }
    }
}

/// Why a task waits, or failed, for want of an allowance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Overdrawn {
    /// Whose limit it is. `None`: the task's own.
    pub account: Option<Account>,
    /// Of what.
    pub meter: Meter,
    /// The limit, in the meter's unit.
    pub limit: u64,
    /// What was used of it, in the meter's unit.
    pub used: u64,
    /// What attempts that run hold of it, in the meter's unit.
    pub reserved: u64,
    /// The month of the limit. `None`: the task's own limit has none.
    pub month: Option<Month>,
}

impl fmt::Display for Overdrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, used) = (self.meter.show(self.limit), self.meter.show(self.used));
        match (&self.account, self.month) {
            (Some(account), Some(month)) => {
                write!(f, "the limit of {account} for {month} is {limit}, and {used} are used")?
            }
            (Some(account), None) => write!(f, "the limit of {account} is {limit}, and {used} are used")?,
            (None, _) => write!(f, "the limit of the task is {limit}, and {used} are used")?,
        }
        if self.reserved > 0 {
            write!(f, " and {} reserved by what runs", self.meter.show(self.reserved))?;
        }
        Ok(())
    }
}

/// What one account used in one month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Spending {
    /// Whose.
    pub account: Account,
    /// When.
    pub month: Month,
    /// How much, of attempts that have ended.
    pub used: Usage,
    /// What attempts that run may use in addition.
    pub reserved: Allowance,
    /// How much it may be. What is not limited is as much as it takes.
    pub limit: Allowance,
    /// The tasks that wait for it.
    pub waiting: Vec<TaskId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::now;

    #[test]
    fn money_is_read_and_written_as_people_do_and_something_is_never_nothing() {
        for (text, microusd) in [("5", 5_000_000), ("2.50", 2_500_000), ("$0.000125", 125), ("0", 0)] {
            assert_eq!(text.parse(), Ok(Money::microusd(microusd)));
        }
        for text in ["", "-1", "1.", "1,5", "1e3", "0.0000001", ".5", "99999999999999999999"] {
            assert!(text.parse::<Money>().is_err(), "{text}");
        }
        let shown = [0, 125, 9_999, 10_000, 2_500_000, 2_994_999, 2_999_999].map(|n| Money::microusd(n).to_string());
        assert_eq!(shown, ["$0.00", "$0.000125", "$0.009999", "$0.01", "$2.50", "$2.99", "$3.00"]);
    }

    #[test]
    fn machines_cost_what_the_operator_says_and_something_never_costs_nothing() {
        let dollars = |n: u64| Money::microusd(n * 1_000_000);
        let prices = MachinePrices { cpu_hour: dollars(1), gpu_hour: dollars(4), ..MachinePrices::default() };
        let used = Usage { cpu_ms: 1_800_000, gpu_ms: 900_000, memory_mib_s: 5, storage_bytes: 7, ..Usage::default() };
        assert_eq!(prices.of(&used), Money::microusd(1_500_000));
        assert_eq!(prices.of(&Usage { cpu_ms: 1, ..Usage::default() }), Money::microusd(1));
        assert_eq!(MachinePrices::default().of(&used), Money::ZERO);
    }

    #[test]
    fn what_is_left_is_the_smallest_of_all_limits_and_never_less_than_nothing() {
        let one = Allowance { money: Some(Money::microusd(5)), tokens: Some(100), ..Allowance::default() };
        let other = Allowance { money: Some(Money::microusd(3)), gpu_ms: Some(7), ..Allowance::default() };
        let both = one.and(&other);
        assert_eq!((both.money, both.tokens, both.gpu_ms), (other.money, one.tokens, other.gpu_ms));
        let used = Usage { money: Money::microusd(9), gpu_ms: 2, ..Usage::default() };
        let left = both.minus(&used);
        assert_eq!((left.money, left.tokens, left.gpu_ms), (Some(Money::ZERO), Some(100), Some(5)));
        assert_eq!(both.used_up_by(&used), Some(Meter::Money));
    }

    #[test]
    fn money_that_nobody_can_count_uses_up_every_limit_of_money_and_no_other() {
        let used = Usage { n_unpriced: 1, ..Usage::default() };
        let limit = |meter| Allowance::default().with(meter, Some(1000));
        assert_eq!(limit(Meter::Money).used_up_by(&used), Some(Meter::Money));
        assert_eq!(limit(Meter::Tokens).used_up_by(&used), None);
        assert_eq!(Allowance::default().used_up_by(&used), None);
    }

    #[test]
    fn an_attempt_that_never_said_what_it_used_used_all_that_it_might() {
        let allowance = Meter::ALL.into_iter().fold(Allowance::default(), |all, meter| all.with(meter, Some(9)));
        let reservation = Reservation { allowance, accounts: vec![Account::All], month: Month::of(now()) };
        let used = reservation.forfeited();
        assert!(Meter::ALL.into_iter().all(|meter| used.of(meter) == 9));
        assert_eq!(used.n_unmeasured, 1);
    }

    #[test]
    fn a_month_ends_where_the_next_one_begins() {
        let december: Month = "2026-12".parse().unwrap();
        assert_eq!(december.end().to_rfc3339(), "2027-01-01T00:00:00+00:00");
        assert_eq!(Month::of(december.end()).to_string(), "2027-01");
        for wrong in ["2026-13", "2026-1", "26-01", "2026", ""] {
            assert!(wrong.parse::<Month>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn amounts_are_told_in_units_that_people_know() {
        let told = [
            Meter::Money.show(1_250_000),
            Meter::Tokens.show(1200),
            Meter::Wall.show(61_000),
            Meter::Cpu.show(1),
            Meter::Memory.show(5_529_600),
            Meter::Gpu.show(7_500_000),
            Meter::Storage.show(1),
        ];
        assert_eq!(
            told,
            [
                "$1.25",
                "1200 tokens",
                "1 min 1 s",
                "1 s of CPU",
                "1.5 GiB hours of memory",
                "2 h 5 min of GPU",
                "1 MiB of storage"
            ]
        );
    }
}
