//! `onramp exit-drill`: does the work go on without a vendor? A recorded task is done again with that vendor blocked, up to
//! a verified diff and no further; nothing is pushed, and nobody is told.

use std::path::Path;

use clap::Args;
use tasks::{Code, Deliver, EgressRecord, Failure, Outcome, Report, Task, TaskId, TaskRequest, Work};
use tokio_util::sync::CancellationToken;
use workers::{egress::is_outside, fence::Fence, run::run_task};

use super::{Setting, out::print, show::Show};
use crate::{
    now,
    queue::{
        QueueRecord,
        audit::{self, Wanted},
    },
    wiring,
};

#[derive(Debug, Args)]
pub(super) struct DrillArgs {
    /// The vendor, a host as `onramp vendors` prints it
    vendor: String,
    /// The task to do again [default: the last one that dealt with the vendor]
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
}

/// What the journal knows of a task that can be done again.
struct Recorded {
    request: TaskRequest,
    /// How often it dealt with the vendor.
    n_dealings: u64,
}

pub(super) async fn drill(mut setting: Setting, args: DrillArgs) -> Result<u8, Failure> {
    let DrillArgs { vendor, task } = args;
    if vendor.contains(':') || !vendor.contains('.') && is_outside(&vendor) {
        let message = format!("{vendor:?} is not a host, and only hosts can be blocked");
        return Err(Failure::new(Code::Usage, message)
            .next("Without an image or an agent no sandbox starts and nothing is edited: that needs no drill."));
    }
    let data = setting.config.data_dir()?;
    let Recorded { request, n_dealings } = recorded(&data.join("queue").join("journal"), &vendor, task)?;
    let show = Show::new(std::io::stderr(), setting.colour);
    setting.config.egress.blocked.push(vendor.clone());
    // The drill keeps its sandboxes and files apart from what is served here.
    let place = data.join("drills");
    std::fs::create_dir_all(&place).map_err(Failure::internal)?;
    setting.config.data_dir = place;
    let forge = wiring::github(&setting.config)?;
    let (hands, why) = wiring::hands(&setting.config, &setting.surroundings, forge, None).await?;
    show.line(&why);
    let title = request.instruction.title.clone();
    let repo = request.repo.clone();
    let dedupe_key = format!("drill:{}", TaskId::new(now())).parse().map_err(Failure::internal)?;
    let request = TaskRequest { dedupe_key, deliver: Deliver::Diff, revises: None, work: Work::default(), ..request };
    let mut again = Task::new(TaskId::new(now()), request, now());
    again.attempt = 1;
    let (cancel, finish) = (CancellationToken::new(), CancellationToken::new());
    let report = run_task(&hands, &again, &Fence::open(), &show.progress(), &cancel, &finish).await;
    hands.sandboxes.close().await;
    let kept = hands.artifacts.join(again.id.to_string()).join("1");
    let (survives, words) = verdict(&report);
    let mut lines = vec![
        format!("# Exit drill: {vendor}"),
        String::new(),
        format!(
            "Done again: \"{}\" in {repo}, which dealt with it {n_dealings} times when it was recorded.",
            title.replace('\n', " ")
        ),
        format!("Without it: {}{words}", if survives { "the work goes on. " } else { "**it breaks.** " }),
        String::new(),
    ];
    lines.extend(refusals(&kept, &vendor));
    lines.push(format!("Transcript and outputs are kept in {}", kept.display()));
    print(&lines);
    Ok(if survives { 0 } else { Code::ChecksFailed.exit_code() })
}

/// Whether it came to a verified change, and what came of it.
fn verdict(report: &Report) -> (bool, String) {
    match report {
        Report::Finished { outcome: Outcome::DiffVerified, evidence, .. } => {
            let spent = evidence.as_ref().and_then(|evidence| evidence.egress.as_ref()).map(EgressRecord::spent);
            let spent = spent.filter(|spent| !spent.is_nothing());
            let used = spent.map_or_else(String::new, |spent| {
                let price = if spent.n_unpriced == 0 { spent.money.to_string() } else { "an unknown price".to_owned() };
                format!(" It took {} tokens for {price}.", spent.tokens.total())
            });
            (true, format!("It came to a verified change.{used}"))
        }
        Report::Finished { outcome, .. } => {
            let words = match outcome {
                Outcome::NothingChanged => "The agent changed nothing.",
                Outcome::PolicyRejected { .. } => "Policy refused the change.",
                Outcome::Cancelled => "It was stopped.",
                Outcome::DiffVerified | Outcome::PullRequestOpened { .. } | Outcome::PullRequestUpdated { .. } => {
                    "It ended in another way than a drill can."
                }
            };
            (false, words.to_owned())
        }
        Report::Failed { failure, .. } => (false, format!("{} ({})", failure.message, failure.code)),
        Report::Released { .. } => (false, "It was given back.".to_owned()),
    }
}

/// What was asked of the vendor meanwhile, from the drill's own record.
fn refusals(kept: &Path, vendor: &str) -> Vec<String> {
    let log = std::fs::read_to_string(kept.join("egress.jsonl")).unwrap_or_default();
    let asked = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let asked = asked.filter(|line| line["host"].as_str().is_some_and(|host| host.split(':').next() == Some(vendor)));
    let n = asked.filter(|line| line["blocked"].is_string()).count();
    vec![format!("It was asked for {n} times and refused each time."), String::new()]
}

fn recorded(journal: &Path, vendor: &str, wanted: Option<TaskId>) -> Result<Recorded, Failure> {
    let mut requests = std::collections::HashMap::new();
    let (mut found, mut n_dealings) = (None, 0);
    audit::show(journal, &Wanted::default(), |_, record| {
        match record {
            QueueRecord::Enqueued { task, .. } => {
                requests.insert(task.id, task.request.clone());
            }
            QueueRecord::Applied { task, evidence: Some(evidence), .. }
                if wanted.is_none_or(|wanted| wanted == *task) =>
            {
                let n = evidence.egress.as_ref().map_or(0, |egress| dealings(egress, vendor));
                if n > 0 {
                    (found, n_dealings) = (Some(*task), n);
                }
            }
            _ => {}
        }
        true
    })
    .map_err(|error| Failure::new(Code::StoreUnavailable, format!("The journal cannot be read: {error}")))?;
    let request = found.or(wanted).and_then(|task| requests.remove(&task)).ok_or_else(|| {
        Failure::new(Code::Usage, format!("No recorded task dealt with {vendor}"))
            .next("`onramp vendors` prints who was dealt with; --task names a task to do again all the same.")
    })?;
    Ok(Recorded { request, n_dealings })
}

/// How often an attempt dealt with a host.
fn dealings(egress: &EgressRecord, vendor: &str) -> u64 {
    let models = egress.models.iter().filter(|model| model.host == vendor).map(|model| model.n_exchanges);
    let reached = |host: &&tasks::HostUse| host.blocked.is_none() && host.host.split(':').next() == Some(vendor);
    models.chain(egress.hosts.iter().filter(reached).map(|host| host.n_attempts)).sum()
}
