//! `onramp audit`: is the journal whole, and what does it say. It only reads, also while `onramp serve` is writing.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use tasks::{Anchor, Code, Failure, RepoName, TaskId, Timestamp};

use super::{
    Setting,
    out::{print, when},
};
use crate::{
    now,
    queue::{
        QueueRecord,
        audit::{self, AuditError, Wanted},
        journal::JournalError,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check every record, every link between them and every checkpoint, and name the first that is wrong
    Verify(VerifyArgs),
    /// Print what the journal says, oldest first
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The end of the journal as a pull request's evidence tells it: a journal that was cut, written anew or put back from
    /// an older copy since is told by it
    #[arg(long, value_name = "RECORD:HASH")]
    anchor: Option<Anchor>,
    /// Another journal than that of the data directory, such as a copy
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Only records about this task
    #[arg(long)]
    task: Option<TaskId>,
    /// Only records about this repository and its tasks, as owner/name
    #[arg(long)]
    repo: Option<RepoName>,
    /// Only records of this kind: enqueued, joined, observed, or what happened: leased, finished, attempt_failed, …
    #[arg(long)]
    kind: Option<String>,
    /// Only records since then: 2026-11-01, 2026-11-01T12:00:00Z, or so long ago: 90m, 24h, 7d
    #[arg(long, value_parser = parse_since)]
    since: Option<Timestamp>,
    /// Another journal than that of the data directory, such as a copy
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Print whole records, one JSON object a line
    #[arg(long)]
    json: bool,
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(at.to_utc());
    }
    if let Ok(day) = text.parse::<chrono::NaiveDate>() {
        return Ok(day.and_time(chrono::NaiveTime::MIN).and_utc());
    }
    let period = workers::repo_config::parse_duration(text).map_err(|error| error.to_string())?;
    let ago = chrono::Duration::from_std(period).map_err(|error| error.to_string())?;
    now().checked_sub_signed(ago).ok_or_else(|| "that was before all time".to_owned())
}

pub(super) fn run(setting: &Setting, command: AuditCommand) -> Result<u8, Failure> {
    match command {
        AuditCommand::Verify(args) => verify(setting, args),
        AuditCommand::Show(args) => show(setting, args),
    }
}

fn journal_of(setting: &Setting, named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let dir = match named {
        Some(dir) => dir,
        None => setting.config.data_dir()?.join("queue").join("journal"),
    };
    if dir.is_dir() {
        return Ok(dir);
    }
    Err(Failure::new(Code::StoreUnavailable, format!("There is no journal in {}", dir.display()))
        .next("Name the data directory of `onramp serve` with --data-dir, or a journal with --journal."))
}

fn verify(setting: &Setting, args: VerifyArgs) -> Result<u8, Failure> {
    #[derive(Serialize)]
    struct Found {
        n_records: u64,
        n_segments: u64,
        n_checkpoints: u64,
        first: u64,
        anchor: String,
        unfinished: Option<String>,
    }
    let dir = journal_of(setting, args.journal)?;
    let summary = audit::verify(&dir, args.anchor.as_ref()).map_err(|error| wrong(&error))?;
    let found = Found {
        n_records: summary.n_records,
        n_segments: summary.n_segments,
        n_checkpoints: summary.n_checkpoints,
        first: summary.first,
        anchor: summary.anchor().to_string(),
        unfinished: summary.unfinished.map(|damage| damage.to_string()),
    };
    if args.json {
        print(&[serde_json::to_string(&found).map_err(Failure::internal)?]);
        return Ok(0);
    }
    let Found { n_records, n_segments, n_checkpoints, first, anchor, unfinished } = found;
    let mut lines = vec![format!(
        "whole: {n_records} records from {first} on in {n_segments} segments, {n_checkpoints} checkpoints"
    )];
    if args.anchor.is_some() {
        lines.push("the anchor is in it".to_owned());
    }
    lines.extend(unfinished.map(|text| format!("after the end, a write that was never acknowledged: {text}")));
    lines.push(format!("anchor {anchor}"));
    print(&lines);
    Ok(0)
}

fn show(setting: &Setting, args: ShowArgs) -> Result<u8, Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        sequence: u64,
        record: &'a QueueRecord,
    }
    let dir = journal_of(setting, args.journal)?;
    let wanted = Wanted { task: args.task, repo: args.repo, kind: args.kind, since: args.since };
    audit::show(&dir, &wanted, |sequence, record| {
        let line = match args.json {
            true => serde_json::to_string(&Line { sequence, record }).unwrap_or_default(),
            false => {
                let at = record.at().map_or_else(|| " ".repeat(19), when);
                let task = record.task().map_or_else(|| " ".repeat(32), |task| task.to_string());
                format!("{sequence:>8}  {at}  {task}  {}", record.word())
            }
        };
        use std::io::Write as _;
        writeln!(std::io::stdout(), "{line}").is_ok()
    })
    .map_err(|error| wrong(&error.into()))?;
    Ok(0)
}

fn wrong(error: &AuditError) -> Failure {
    let code = match error {
        AuditError::Journal(JournalError::Io(_)) => Code::StoreUnavailable,
        AuditError::Journal(JournalError::Newer { .. }) => Code::StoreNewer,
        AuditError::Journal(JournalError::Damaged(_))
        | AuditError::Cut { .. }
        | AuditError::Other { .. }
        | AuditError::Gone { .. } => Code::StoreDamaged,
    };
    let text = error.to_string();
    let mut letters = text.chars();
    let sentence: String =
        letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default();
    Failure::new(code, sentence)
}
