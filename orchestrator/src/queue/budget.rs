//! Who may use how much: the limits of the configuration, and what is left of them for the next attempt.
//!
//! An attempt is given its allowance when it is leased: what is left of its task's own limit and of each account that it
//! counts for, after what was used and what other attempts hold. The lease's record carries it, and the record that ends
//! the lease carries what was used instead; so what is used and held never exceeds a limit, whatever runs at the same
//! time and whenever the process dies.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use tasks::{
    Account, Actor, Allowance, Code, Failure, Meter, Month, Overdrawn, RepoName, Reservation, Spending, Task,
    TaskRequest, Usage,
};

use super::index::{Index, IndexError};

/// The limits of one level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// Of one task, all its attempts together.
    pub task: Allowance,
    /// Of all its tasks in one calendar month.
    pub month: Allowance,
}

/// People and what they may use together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Team {
    /// Its name.
    pub name: String,
    /// The logins of its members.
    pub members: Vec<String>,
    /// Its limits.
    pub level: Level,
}

/// What becomes of a task that a limit of the month does not allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenOver {
    /// It waits until there is room again, at the latest in the next month.
    #[default]
    Wait,
    /// It fails.
    Fail,
}

/// All limits. Of several that speak of the same thing, the strictest counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budgets {
    /// Of all tasks together.
    pub all: Level,
    /// Of each repository that a pattern (`owner/name`, `owner/*`, `*`) means.
    pub repositories: Vec<(String, Level)>,
    /// Of each person that a pattern (`login`, `*`) means.
    pub requesters: Vec<(String, Level)>,
    /// Of teams.
    pub teams: Vec<Team>,
    /// What becomes of a task that is over one.
    pub when_over: WhenOver,
}

/// What of a limit has to be left, or an attempt is not worth its start.
fn least(meter: Meter) -> u64 {
    match meter {
        Meter::Money => 10_000,
        Meter::Tokens => 1_000,
        Meter::Wall | Meter::Cpu | Meter::Gpu => 1_000,
        Meter::Memory | Meter::Storage => 1,
    }
}

impl Budgets {
    /// What a task counts for.
    fn accounts(&self, request: &TaskRequest) -> Vec<Account> {
        let mut accounts =
            vec![Account::All, Account::Repository { repo: request.repo.clone() }, Account::of(&request.actor)];
        let teams = self.teams.iter().filter(|team| team.has(&request.actor));
        accounts.extend(teams.map(|team| Account::Team { name: team.name.clone() }));
        accounts
    }

    /// What an account may use in a month.
    pub fn of_month(&self, account: &Account) -> Allowance {
        self.levels(account).fold(Allowance::default(), |all, level| all.and(&level.month))
    }

    /// What a task may use, all its attempts together.
    pub fn of_task(&self, request: &TaskRequest) -> Allowance {
        let levels =
            |account: &Account| self.levels(account).fold(Allowance::default(), |all, level| all.and(&level.task));
        self.accounts(request).iter().fold(Allowance::default(), |all, account| all.and(&levels(account)))
    }

    fn levels<'a>(&'a self, account: &'a Account) -> Box<dyn Iterator<Item = &'a Level> + 'a> {
        match account {
            Account::All => Box::new(std::iter::once(&self.all)),
            Account::Repository { repo } => {
                Box::new(self.repositories.iter().filter(|(pattern, _)| means(pattern, repo)).map(|(_, level)| level))
            }
            Account::Requester { login, .. } => Box::new(
                self.requesters
                    .iter()
                    .filter(|(pattern, _)| {
                        pattern == "*" || pattern.trim_start_matches('@').eq_ignore_ascii_case(login)
                    })
                    .map(|(_, level)| level),
            ),
            Account::Team { name } => {
                Box::new(self.teams.iter().filter(move |team| team.name == *name).map(|team| &team.level))
            }
        }
    }
}

impl Team {
    fn has(&self, actor: &Actor) -> bool {
        self.members.iter().any(|member| member.trim_start_matches('@').eq_ignore_ascii_case(&actor.login))
    }
}

/// Forges do not tell upper from lower case.
fn means(pattern: &str, repo: &RepoName) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(owner) => repo.as_str().get(..owner.len()).is_some_and(|start| start.eq_ignore_ascii_case(owner)),
        None => repo.as_str().eq_ignore_ascii_case(pattern),
    }
}

/// What one account used in one month, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AccountRow {
    pub(super) account: Account,
    pub(super) month: Month,
    /// The last record that it contains.
    pub(super) sequence: u64,
    pub(super) used: Usage,
}

/// What makes two of these rows the same.
pub(super) type AccountKey = (Month, String);

/// Why an attempt cannot begin.
#[derive(Debug, Clone)]
pub(super) enum Shortage {
    /// Its turn comes when there is room.
    Wait(Box<Overdrawn>),
    /// It ends.
    Fail(Failure),
}

/// What is left of every limit, for one look at the tasks whose turn it may be.
pub(super) struct Purse<'a> {
    pub(super) budgets: &'a Budgets,
    pub(super) index: Option<&'a Index>,
    /// Newer than what the index has.
    pub(super) staged: &'a HashMap<AccountKey, AccountRow>,
    /// What attempts hold that run.
    pub(super) held: Vec<Reservation>,
    pub(super) month: Month,
}

impl Purse<'_> {
    /// What the next attempt of a task may use, or why it cannot begin.
    pub(super) fn reserve(&self, task: &Task) -> Result<Result<Reservation, Shortage>, IndexError> {
        let (accounts, month) = (self.budgets.accounts(&task.request), self.month);
        let limit = self.budgets.of_task(&task.request);
        let used = task.used.since(&task.used_before);
        let mut allowance = limit.minus(&used);
        if let Some(meter) = short_of(&allowance) {
            return Ok(Err(Shortage::Fail(spent(meter, &limit, &used))));
        }
        for account in &accounts {
            let limit = self.budgets.of_month(account);
            if limit.is_unlimited() {
                continue;
            }
            let used = self.used(account)?;
            let left = Meter::ALL.into_iter().fold(limit.minus(&used), |left, meter| {
                left.with(meter, left.of(meter).map(|amount| amount.saturating_sub(self.held(account, meter))))
            });
            if let Some(meter) = short_of(&left) {
                return Ok(Err(self.over(account.clone(), meter, &limit, &used)));
            }
            allowance = allowance.and(&left);
        }
        Ok(Ok(Reservation { allowance, accounts, month }))
    }

    fn over(&self, account: Account, meter: Meter, limit: &Allowance, used: &Usage) -> Shortage {
        // What began when nothing was limited may come to anything; what is told is what is known.
        let reserved = match self.held(&account, meter) {
            u64::MAX => 0,
            amount => amount,
        };
        let overdrawn = Overdrawn {
            account: Some(account),
            meter,
            limit: limit.of(meter).unwrap_or_default(),
            used: used.of(meter),
            reserved,
            month: Some(self.month),
        };
        match self.budgets.when_over {
            WhenOver::Wait => Shortage::Wait(Box::new(overdrawn)),
            WhenOver::Fail => Shortage::Fail(Failure::new(
                Code::OverBudget,
                format!("The task was not started: {overdrawn}. Nothing was spent on this attempt"),
            )),
        }
    }

    /// What an account used this month.
    fn used(&self, account: &Account) -> Result<Usage, IndexError> {
        let key = (self.month, account.key());
        match self.staged.get(&key) {
            Some(row) => Ok(row.used),
            None => {
                let row = self.index.ok_or(IndexError::Away)?.account(key.0, &key.1)?;
                Ok(row.map_or_else(Usage::default, |row| row.used))
            }
        }
    }

    /// What attempts that run hold of an account. One that began when this was not limited may use all there is.
    fn held(&self, account: &Account, meter: Meter) -> u64 {
        let key = account.key();
        let of_account = self.held.iter().filter(|held| held.month == self.month);
        let of_account = of_account.filter(|held| held.accounts.iter().any(|other| other.key() == key));
        of_account.map(|held| held.allowance.of(meter).unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
    }
}

/// Every account that used something in a month, holds something or has a limit, the largest first within its kind.
pub(super) fn spending(index: &Index, budgets: &Budgets, month: Month) -> Result<Vec<Spending>, IndexError> {
    let new = |account: Account| Spending {
        limit: budgets.of_month(&account),
        account,
        month,
        used: Usage::default(),
        reserved: Allowance::default(),
        waiting: Vec::new(),
    };
    let mut accounts = BTreeMap::from([(Account::All.key(), new(Account::All))]);
    for AccountRow { account, used, .. } in index.accounts(month)? {
        let entry = accounts.entry(account.key()).or_insert_with(|| new(account));
        entry.used = entry.used.plus(&used);
    }
    for stored in index.unfinished()? {
        let task = stored.task;
        if let Some(held) = task.reservation.filter(|held| held.month == month) {
            for account in held.accounts {
                let entry = accounts.entry(account.key()).or_insert_with(|| new(account));
                entry.reserved = entry.reserved.plus(&held.allowance);
            }
        }
        if let Some(Overdrawn { account: Some(account), month: Some(of), .. }) = task.held.map(|held| *held)
            && of == month
        {
            accounts.entry(account.key()).or_insert_with(|| new(account)).waiting.push(task.id);
        }
    }
    let mut spending: Vec<_> = accounts.into_values().collect();
    let kind = |account: &Account| match account {
        Account::All => 0,
        Account::Team { .. } => 1,
        Account::Repository { .. } => 2,
        Account::Requester { .. } => 3,
    };
    spending.sort_by_key(|entry| (kind(&entry.account), std::cmp::Reverse(entry.used.money)));
    Ok(spending)
}

fn short_of(left: &Allowance) -> Option<Meter> {
    Meter::ALL.into_iter().find(|meter| left.of(*meter).is_some_and(|amount| amount < least(*meter)))
}

fn spent(meter: Meter, limit: &Allowance, used: &Usage) -> Failure {
    let overdrawn = Overdrawn {
        account: None,
        meter,
        limit: limit.of(meter).unwrap_or_default(),
        used: used.of(meter),
        reserved: 0,
        month: None,
    };
    Failure::new(Code::BudgetSpent, format!("The task cannot go on: {overdrawn}{}", unmeasured(used)))
}

/// What was never said is counted as all that it might have been, and that must not look like a measurement.
fn unmeasured(used: &Usage) -> &'static str {
    match used.n_unmeasured {
        0 => "",
        _ => " (a worker vanished, and all that was reserved for it counts as used)",
    }
}

#[cfg(test)]
mod tests {
    use tasks::{Money, TaskId};

    use super::{super::tests::request, *};

    fn money(dollars: u64) -> Allowance {
        Allowance { money: Some(Money::microusd(dollars * 1_000_000)), ..Allowance::default() }
    }

    fn task() -> Task {
        let at = "2026-11-29T06:00:00Z".parse().unwrap();
        Task::new(TaskId::new(at), request("acme/web", 1, "github:1"), at)
    }

    fn purse<'a>(
        budgets: &'a Budgets,
        staged: &'a HashMap<AccountKey, AccountRow>,
        held: Vec<Reservation>,
    ) -> Purse<'a> {
        Purse { budgets, index: None, staged, held, month: "2026-11".parse().unwrap() }
    }

    fn row(account: Account, dollars: u64) -> (AccountKey, AccountRow) {
        let month: Month = "2026-11".parse().unwrap();
        let used = Usage { money: Money::microusd(dollars * 1_000_000), ..Usage::default() };
        ((month, account.key()), AccountRow { account, month, sequence: 1, used })
    }

    #[test]
    fn an_attempt_gets_the_least_that_any_limit_leaves() {
        let budgets = Budgets {
            all: Level { task: money(5), month: money(100) },
            repositories: vec![("Acme/*".into(), Level { month: money(10), ..Level::default() })],
            requesters: vec![("@ADA".into(), Level { task: money(4), ..Level::default() })],
            ..Budgets::default()
        };
        let web = Account::Repository { repo: "acme/web".parse().unwrap() };
        let staged = [row(Account::All, 50), row(web.clone(), 7)].into();
        let granted = purse(&budgets, &staged, Vec::new()).reserve(&task()).unwrap().unwrap();
        assert_eq!(granted.allowance, money(3), "of the repository");
        assert_eq!(granted.accounts.len(), 3);

        let staged = [row(Account::All, 50), row(web.clone(), 0)].into();
        let granted = purse(&budgets, &staged, Vec::new()).reserve(&task()).unwrap().unwrap();
        assert_eq!(granted.allowance, money(4), "of the person's tasks");

        let staged = [row(Account::All, 96), row(web, 0)].into();
        let granted = purse(&budgets, &staged, vec![granted]).reserve(&task());
        let Err(Shortage::Wait(over)) = granted.unwrap() else { panic!("all together have nothing left") };
        assert_eq!(
            over.to_string(),
            "the limit of all tasks for 2026-11 is $100.00, and $96.00 are used and $4.00 reserved by what runs"
        );
    }

    #[test]
    fn a_task_that_used_its_own_limit_fails_and_begins_anew_when_a_person_puts_it_back() {
        let budgets = Budgets { all: Level { task: money(5), ..Level::default() }, ..Budgets::default() };
        let staged = HashMap::new();
        let mut task = task();
        task.used.money = Money::microusd(5_000_000);
        let Err(Shortage::Fail(failure)) = purse(&budgets, &staged, Vec::new()).reserve(&task).unwrap() else {
            panic!("nothing is left")
        };
        assert_eq!(failure.code, Code::BudgetSpent);
        assert_eq!(failure.message, "The task cannot go on: the limit of the task is $5.00, and $5.00 are used");
        task.used_before = task.used;
        assert_eq!(purse(&budgets, &staged, Vec::new()).reserve(&task).unwrap().unwrap().allowance, money(5));
    }

    #[test]
    fn what_began_without_a_limit_may_use_all_there_is() {
        let none = Budgets::default();
        let staged = [row(Account::All, 0)].into();
        let running = purse(&none, &staged, Vec::new()).reserve(&task()).unwrap().unwrap();
        assert!(running.allowance.is_unlimited());
        let budgets = Budgets { all: Level { task: money(1), month: money(100) }, ..Budgets::default() };
        let next = purse(&budgets, &staged, vec![running]).reserve(&task()).unwrap();
        assert!(matches!(next, Err(Shortage::Wait(_))), "nobody knows what the other one will use");
    }

    #[test]
    fn a_pattern_means_a_repository_an_owner_or_all() {
        let web: RepoName = "acme/web".parse().unwrap();
        for (pattern, is_meant) in [
            ("acme/web", true),
            ("ACME/*", true),
            ("*", true),
            ("acme/we", false),
            ("acm/*", false),
            ("acme/website", false),
        ] {
            assert_eq!(means(pattern, &web), is_meant, "{pattern}");
        }
    }
}
