//! What one of the two people of the model may use, and what they used.

use super::*;

/// The number of the one who is limited.
const LIMITED: u64 = 2;
/// So many tokens each task of theirs may use, and all of them in a month.
const OF_TASK: u64 = 5_000;
const OF_MONTH: u64 = 12_000;
/// With fewer left, no attempt begins.
pub(super) const LEAST: u64 = 1_000;

pub(super) fn budgets() -> Budgets {
    let tokens = |n| Allowance { tokens: Some(n), ..Allowance::default() };
    let level = Level { task: tokens(OF_TASK), month: tokens(OF_MONTH) };
    Budgets { requesters: vec![(format!("p{LIMITED}"), level)], ..Budgets::default() }
}

impl World {
    /// How many tokens an attempt of this task may use now; `None`: any number.
    pub(super) fn may_use(&self, task: &Known) -> Option<u64> {
        (task.actor == LIMITED).then(|| {
            let month = Month::of(self.clock.now());
            let left = OF_MONTH - self.used.get(&month).copied().unwrap_or(0) - self.reserved(month);
            left.min(OF_TASK.saturating_sub(task.used))
        })
    }

    fn reserved(&self, month: Month) -> u64 {
        let reserved = self.tasks.iter().filter(|task| task.actor == LIMITED).filter_map(|task| task.reserved);
        reserved.filter(|(of, _)| *of == month).filter_map(|(_, tokens)| tokens).sum()
    }

    /// An attempt has ended; `None`: without a word about what it used.
    pub(super) fn settle(&mut self, place: usize, used: Option<u64>) {
        let known = &mut self.tasks[place];
        let Some((month, reserved)) = known.reserved.take() else { return };
        let used = used.or(reserved).unwrap_or(0);
        known.used += used;
        if known.actor == LIMITED {
            *self.used.entry(month).or_default() += used;
        }
    }

    /// When it is the turn of a task that has used its own limit, it fails. Whose turn comes up while another one is
    /// looked for, the model does not know, and takes what it is told, if that may be.
    pub(super) async fn note_spent(&mut self) {
        for place in 0..self.tasks.len() {
            let known = &self.tasks[place];
            let spent = known.actor == LIMITED && OF_TASK.saturating_sub(known.used) < LEAST;
            if !spent || !matches!(known.at, At::Queued { .. }) {
                continue;
            }
            let task = self.queue().get(known.id).await.unwrap().unwrap();
            if let TaskState::Failed { failure } = task.state {
                assert_eq!(failure.code, Code::BudgetSpent);
                self.tasks[place].at = At::Failed;
            }
        }
    }

    /// The ledger says what the model says, and no limit is exceeded by what was used and what may be used still.
    pub(super) async fn check_money(&self) {
        let months = self.used.keys().copied().chain([Month::of(self.clock.now())]);
        for month in months.collect::<std::collections::BTreeSet<_>>() {
            let spending = self.queue().spending(month).await.unwrap();
            let is_theirs = |account: &Account| matches!(account, Account::Requester { id: Some(LIMITED), .. });
            let found = spending.iter().find(|entry| is_theirs(&entry.account));
            let of = |entry: &tasks::Spending| (entry.used.of(Meter::Tokens), entry.reserved.of(Meter::Tokens));
            let (used, reserved) = found.map_or((0, None), of);
            let known = (self.used.get(&month).copied().unwrap_or(0), self.reserved(month));
            assert_eq!((used, reserved.unwrap_or(0)), known, "in {month}");
            assert!(known.0 + known.1 <= OF_MONTH, "{known:?} of {OF_MONTH} in {month}");
        }
    }
}
