//! `onramp budget`: what was used in a month, what attempts hold that run, and what is left of each limit.

use clap::Args;
use tasks::{Failure, Meter, Month, Spending, Usage};

use super::{
    Setting,
    out::{print, print_json},
};
use crate::control::Client;

#[derive(Debug, Args)]
pub(super) struct BudgetArgs {
    /// The month, such as 2026-11 [default: this one, UTC]
    #[arg(long)]
    month: Option<Month>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn budget(setting: &Setting, args: BudgetArgs) -> Result<u8, Failure> {
    let client = Client::connect(&setting.config, &setting.surroundings.user).await?;
    let path = args.month.map_or_else(|| "/budget".to_owned(), |month| format!("/budget?month={month}"));
    let answer = client.get::<Vec<Spending>>(&path).await;
    client.close().await;
    let spending = answer?;
    if args.json {
        return print_json(&spending);
    }
    let lines: Vec<_> = spending.iter().flat_map(lines).collect();
    print(&lines);
    Ok(0)
}

/// One account: what it used, and a line for each of its limits.
fn lines(entry: &Spending) -> Vec<String> {
    let Spending { account, month, used, reserved, limit, waiting } = entry;
    let mut lines = vec![format!("{account}, {month}: {}", used_words(used))];
    for meter in Meter::ALL {
        let Some(limit) = limit.of(meter) else { continue };
        let reserved = reserved.of(meter).unwrap_or(0);
        let left = limit.saturating_sub(used.of(meter)).saturating_sub(reserved);
        let held = if reserved > 0 { format!(", {} reserved", meter.show(reserved)) } else { String::new() };
        lines.push(format!("  {meter}: {} left of {}{held}", meter.show(left), meter.show(limit)));
    }
    if !waiting.is_empty() {
        let ids: Vec<_> = waiting.iter().take(10).map(|task| task.short()).collect();
        lines.push(format!("  {} waiting for it: {}", waiting.len(), ids.join(", ")));
    }
    lines
}

/// What was used, in words. What nobody could measure or price is said, so that no sum looks whole that is not.
pub(super) fn used_words(used: &Usage) -> String {
    let amounts = Meter::ALL.into_iter().filter(|meter| used.of(*meter) > 0).map(|meter| meter.show(used.of(meter)));
    let mut parts: Vec<_> = amounts.collect();
    if used.n_unpriced > 0 {
        parts.push(format!("{} model exchanges of unknown price", used.n_unpriced));
    }
    if used.n_unmeasured > 0 {
        parts.push(format!("{} attempts that never said what they used", used.n_unmeasured));
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use tasks::{Account, Allowance, Money, TaskId};

    use super::*;

    #[test]
    fn what_is_left_is_told_and_what_is_not_known_is_said() {
        let entry = Spending {
            account: Account::Repository { repo: "acme/web".parse().unwrap() },
            month: "2026-11".parse().unwrap(),
            used: Usage { money: Money::microusd(12_500_000), n_unpriced: 2, wall_ms: 61_000, ..Usage::default() },
            reserved: Allowance { money: Some(Money::microusd(5_000_000)), ..Allowance::default() },
            limit: Allowance { money: Some(Money::microusd(20_000_000)), ..Allowance::default() },
            waiting: vec![TaskId::from_bytes([7; 16])],
        };
        insta::assert_snapshot!(lines(&entry).join("\n"), @r"
        acme/web, 2026-11: $12.50, 1 min 1 s, 2 model exchanges of unknown price
          money: $2.50 left of $20.00, $5.00 reserved
          1 waiting for it: 07070707
        ");
    }
}
