//! `[[tier]]`: which changes are how risky, and what holds for them.

use std::{collections::BTreeSet, time::Duration};

use tasks::{AgentName, GpuRequest, ledger::Money};

use super::{Check, check, file::TierTable, hosts, values::CheckName};

/// A tier of risk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// Globs of files.
    pub paths: Vec<String>,
    /// Labels of the issue.
    pub labels: Vec<String>,
    /// Logins of who asked.
    pub requesters: Vec<String>,
    /// At least so many files.
    pub min_files: Option<u64>,
    /// At least so many added and removed lines.
    pub min_lines: Option<u64>,
    /// What holds for its changes.
    pub terms: Terms,
}

/// What holds for the changes of a tier. Everything here only makes stricter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Rounds, at most.
    pub rounds: Option<u32>,
    /// Checks that are required here.
    pub require: Vec<String>,
    /// Checks that only run here.
    pub checks: Vec<Check>,
    /// As a draft.
    pub draft: bool,
    /// Asked for review.
    pub reviewers: Vec<String>,
    /// People who are to approve.
    pub approvals: u32,
    /// The agent.
    pub agent: Option<AgentName>,
    /// The model of the agent.
    pub model: Option<String>,
    /// The only hosts.
    pub network: Option<Vec<String>>,
    /// False: none for the agent.
    pub gpu: bool,
    /// Wall time of a round, at most.
    pub time: Option<Duration>,
    /// No further round begins when the agent has used so much.
    pub budget: Option<Money>,
}

/// What no single value can show. `checks`: the names of those that are configured.
pub(super) fn cross_check(tiers: &[TierTable], checks: &[&str]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for tier in tiers {
        let name = &tier.name.0;
        if !names.insert(name) {
            return Err(format!("two tiers are called {name:?}; each needs its own name"));
        }
        let missing = |required: &&CheckName| !checks.is_empty() && !checks.contains(&required.0.as_str());
        if let Some(required) = tier.require.iter().find(missing) {
            return Err(format!("the tier {name:?} requires the check {:?}, which no [[check]] is called", required.0));
        }
        for extra in &tier.checks {
            let extra = &extra.name.get_ref().0;
            if checks.contains(&extra.as_str()) {
                return Err(format!("the tier {name:?} has a check {extra:?}, and a [[check]] is called so too"));
            }
        }
    }
    Ok(())
}

/// The tiers that tables say. `gpu`: what checks that ask for "the GPU" get.
pub(super) fn tiers(tables: Vec<TierTable>, gpu: Option<&GpuRequest>) -> Vec<Tier> {
    tables.into_iter().map(|table| tier(table, gpu)).collect()
}

/// The tiers of the operator.
///
/// # Errors
/// One sentence, for two tiers of one name.
pub fn operator_tiers(tables: &[TierTable]) -> Result<Vec<Tier>, String> {
    let mut names = BTreeSet::new();
    if let Some(twice) = tables.iter().find(|table| !names.insert(&table.name.0)) {
        return Err(format!("two tiers are called {:?}; each needs its own name", twice.name.0));
    }
    Ok(tiers(tables.to_vec(), None))
}

fn tier(table: TierTable, gpu: Option<&GpuRequest>) -> Tier {
    let small = |n: Option<u64>| n.and_then(|n| u32::try_from(n).ok());
    Tier {
        name: table.name.0,
        paths: table.paths.into_iter().map(|glob| glob.0).collect(),
        labels: table.labels,
        requesters: table.requesters,
        min_files: table.min_files,
        min_lines: table.min_lines,
        terms: Terms {
            rounds: small(table.rounds),
            require: table.require.into_iter().map(|name| name.0).collect(),
            checks: table.checks.into_iter().map(|table| check(table, gpu)).collect(),
            draft: table.draft,
            reviewers: table.reviewers,
            approvals: small(table.approvals).unwrap_or(0),
            agent: table.agent,
            model: table.model,
            network: table.network.map(hosts),
            gpu: table.gpu.unwrap_or(true),
            time: table.time.map(|time| time.0),
            budget: table.budget.map(|dollars| dollars.0),
        },
    }
}
