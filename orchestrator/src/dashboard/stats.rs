//! What it was worth: how much of what was opened was merged, and what that cost.

use std::collections::BTreeMap;

use ::tasks::{Evidence, Failure, Intake as _, Task, TaskFilter, TaskState};
use axum::{
    Extension,
    extract::{Query, State},
    http::{HeaderMap, Uri, header},
    response::IntoResponse as _,
};
use chrono::{Datelike as _, Duration};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, Of, Pages, Shell, session::Session};
use crate::front::{refusal, view::Fault};

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    days: i64,
}

impl Default for Asked {
    fn default() -> Self {
        Self { days: 30 }
    }
}

/// What some tasks add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sum {
    n_tasks: u64,
    n_opened: u64,
    n_merged: u64,
    n_closed: u64,
    n_failures: u64,
    n_errors: u64,
    microusd: u64,
    /// Tasks whose agent did not say what it cost: then the sum is not known.
    n_unpriced: u64,
    /// From being asked to the pull request, in seconds.
    waits: Vec<i64>,
}

impl Sum {
    fn add(&mut self, task: &Task, evidence: Option<&Evidence>) {
        self.n_tasks += 1;
        match &task.state {
            TaskState::PullRequestOpen { .. } => self.n_opened += 1,
            TaskState::Merged { .. } => (self.n_opened, self.n_merged) = (self.n_opened + 1, self.n_merged + 1),
            TaskState::Closed { .. } => (self.n_opened, self.n_closed) = (self.n_opened + 1, self.n_closed + 1),
            TaskState::Failed { failure } => match Fault::of(failure.kind) {
                Fault::Theirs => self.n_failures += 1,
                Fault::Ours => self.n_errors += 1,
            },
            TaskState::Rejected { .. } | TaskState::NoChanges => self.n_failures += 1,
            TaskState::Queued { .. }
            | TaskState::Running { .. }
            | TaskState::Updated { .. }
            | TaskState::DiffReady
            | TaskState::Cancelled { .. } => {}
        }
        match evidence.map(|evidence| evidence.usage.cost_microusd) {
            Some(Some(cost)) => self.microusd += cost,
            Some(None) => self.n_unpriced += 1,
            None => {}
        }
        if matches!(task.state, TaskState::PullRequestOpen { .. }) {
            self.waits.push((task.updated_at - task.created_at).num_seconds());
        }
    }

    /// Of pull requests that ended, those that were merged.
    fn merged_rate(&self) -> String {
        match self.n_merged + self.n_closed {
            0 => "none yet".to_owned(),
            ended => format!("{} %", (200 * self.n_merged + ended) / (2 * ended)),
        }
    }

    fn cost(&self) -> String {
        let known = dollars(self.microusd);
        match (self.microusd, self.n_unpriced) {
            (_, 0) => known,
            (0, _) => "unknown".to_owned(),
            _ => format!("at least {known}"),
        }
    }

    fn cost_per_merged(&self) -> String {
        if self.n_merged == 0 {
            return "none yet".to_owned();
        }
        let each = dollars(self.microusd.div_ceil(self.n_merged));
        match (self.microusd, self.n_unpriced) {
            (_, 0) => each,
            (0, _) => "unknown".to_owned(),
            _ => format!("at least {each}"),
        }
    }

    fn time_to_pull_request(&self) -> String {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        match waits.get(waits.len() / 2) {
            Some(seconds) if *seconds >= 60 => format!("{} min", seconds / 60),
            Some(seconds) => format!("{seconds} s"),
            None => "none yet".to_owned(),
        }
    }
}

/// A sum as a row shows it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    n_tasks: u64,
    n_opened: u64,
    n_merged: u64,
    n_closed: u64,
    merged_rate: String,
    n_failures: u64,
    n_errors: u64,
    cost: String,
    cost_per_merged: String,
}

impl Row {
    fn of(name: &str, sum: &Sum) -> Self {
        Self {
            name: name.to_owned(),
            n_tasks: sum.n_tasks,
            n_opened: sum.n_opened,
            n_merged: sum.n_merged,
            n_closed: sum.n_closed,
            merged_rate: sum.merged_rate(),
            n_failures: sum.n_failures,
            n_errors: sum.n_errors,
            cost: sum.cost(),
            cost_per_merged: sum.cost_per_merged(),
        }
    }
}

#[derive(Debug, Default)]
struct Found {
    all: Sum,
    weeks: BTreeMap<String, Sum>,
    repos: BTreeMap<String, Sum>,
    agents: BTreeMap<String, Sum>,
    reasons: BTreeMap<(String, Whose), u64>,
}

/// Whose doing it is, in words.
type Whose = &'static str;

async fn found(pages: &Pages, session: &Session, days: i64) -> Result<Found, Failure> {
    let queue = pages.front().queue();
    let since = pages.front().now() - Duration::days(days.clamp(1, 3660));
    let filter = TaskFilter { repo: session.caller.repo.clone(), ..TaskFilter::default() };
    let mut found = Found::default();
    for task in queue.list(filter).await.map_err(refusal)? {
        if task.created_at < since {
            break;
        }
        let evidence = queue.evidence(task.id).await.map_err(refusal)?;
        let week = task.created_at.iso_week();
        let agent = evidence.as_ref().map(|evidence| evidence.agent.to_string());
        let agent = agent.or_else(|| task.request.agent.as_ref().map(ToString::to_string));
        let agent = agent.unwrap_or_else(|| "not known".to_owned());
        for sum in [
            &mut found.all,
            found.weeks.entry(format!("{}-W{:02}", week.year(), week.week())).or_default(),
            found.repos.entry(task.request.repo.to_string()).or_default(),
            found.agents.entry(agent).or_default(),
        ] {
            sum.add(&task, evidence.as_ref());
        }
        let reason = match &task.state {
            TaskState::Failed { failure } => Some((
                format!("{}: {}", failure.code, failure.code.meaning()),
                if Fault::of(failure.kind) == Fault::Ours { "an error of ours" } else { "a failure of the work" },
            )),
            TaskState::Rejected { .. } => Some(("policy did not allow the patch".to_owned(), "a failure of the work")),
            TaskState::NoChanges => Some(("the agent changed nothing".to_owned(), "a failure of the work")),
            _ => None,
        };
        if let Some(reason) = reason {
            *found.reasons.entry(reason).or_default() += 1;
        }
    }
    Ok(found)
}

pub(super) async fn page(
    State(pages): Of,
    Extension(session): Extension<Session>,
    uri: Uri,
    headers: HeaderMap,
    Query(Asked { days }): Query<Asked>,
) -> Answer {
    let Found { all, weeks, repos, agents, reasons } = found(&pages, &session, days).await?;
    let rows = |sums: &BTreeMap<String, Sum>| sums.iter().map(|(name, sum)| Row::of(name, sum)).collect::<Vec<_>>();
    let tables = json!([
        { "name": "By week", "of": "Week", "rows": rows(&weeks).into_iter().rev().collect::<Vec<_>>() },
        { "name": "By repository", "of": "Repository", "rows": rows(&repos) },
        { "name": "By agent", "of": "Agent", "rows": rows(&agents) },
    ]);
    let reasons: Vec<_> =
        reasons.iter().map(|((name, fault), n)| json!({ "name": name, "n": n, "fault": fault })).collect();
    let own = json!({
        "days": days,
        "all": {
            "merged_rate": all.merged_rate(),
            "cost_per_merged": all.cost_per_merged(),
            "time_to_pull_request": all.time_to_pull_request(),
        },
        "tables": tables,
        "reasons": reasons,
    });
    let shell = Shell::of(&headers, uri.path_and_query().map_or("/", |path| path.as_str()));
    shell.page("stats.html", "stats", Some(&session), None, own)
}

/// The same for a spreadsheet.
pub(super) async fn csv(
    State(pages): Of,
    Extension(session): Extension<Session>,
    Query(Asked { days }): Query<Asked>,
) -> Answer {
    let Found { weeks, repos, agents, .. } = found(&pages, &session, days).await?;
    let mut text = "by,name,tasks,opened,merged,closed,failures,errors,cost_microusd,unpriced\n".to_owned();
    for (by, sums) in [("week", &weeks), ("repository", &repos), ("agent", &agents)] {
        for (name, sum) in sums {
            let Sum { n_tasks, n_opened, n_merged, n_closed, n_failures, n_errors, microusd, n_unpriced, .. } = sum;
            // Names of weeks, repositories and agents hold neither commas nor quotes.
            text.push_str(&format!(
                "{by},{name},{n_tasks},{n_opened},{n_merged},{n_closed},{n_failures},{n_errors},{microusd},{n_unpriced}\n"
            ));
        }
    }
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response())
}

fn dollars(microusd: u64) -> String {
    let cents = microusd.div_ceil(10_000);
    format!("${}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_what_ended_and_unknown_money_is_not_nothing() {
        let sum = Sum { n_opened: 5, n_merged: 2, n_closed: 1, microusd: 1_000_000, ..Sum::default() };
        assert_eq!((sum.merged_rate().as_str(), sum.cost_per_merged().as_str()), ("67 %", "$0.50"));
        let unknown = Sum { n_merged: 1, n_unpriced: 2, ..Sum::default() };
        assert_eq!((unknown.cost().as_str(), unknown.cost_per_merged().as_str()), ("unknown", "unknown"));
        let some = Sum { n_merged: 1, n_unpriced: 1, microusd: 10_000, ..Sum::default() };
        assert_eq!(some.cost_per_merged(), "at least $0.01");
        assert_eq!(Sum::default().merged_rate(), "none yet");
    }
}
