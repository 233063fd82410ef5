//! `onramp evidence`: holds the signed statement of a pull request against everything that is at hand, offline.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;
use tasks::{Code, Failure};
use workers::bundle::{self, Broken, PublicKey, Report, Signer};

use super::out::print;
use crate::config::Config;

/// What is read of a file, at most.
const MAX_BYTES: u64 = 8 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum EvidenceCommand {
    /// Check a statement: its signature, its form, and each digest of what is at hand; exit code 3 when something is wrong
    Verify(VerifyArgs),
    /// Print the public key that statements of this data directory are checked with
    Key {
        /// As PEM, for other tools
        #[arg(long)]
        pem: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The statement, or the text of the pull request that has it; `-` reads standard input
    file: PathBuf,
    /// A checkout that has the commit: base, tree and patch are worked out anew from it
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// The directory of the attempt's artifacts: each file is held against its digest
    #[arg(long, value_name = "DIR")]
    artifacts: Option<PathBuf>,
    /// The public key, as `onramp evidence key` prints it, or a file with it [default: that of the data directory]
    #[arg(long, value_name = "KEY|FILE")]
    key: Option<String>,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(config: &Config, command: EvidenceCommand) -> Result<u8, Failure> {
    match command {
        EvidenceCommand::Verify(args) => verify(config, &args),
        EvidenceCommand::Key { pem } => {
            let key = Signer::open(config.evidence.key.value(), &config.data_dir()?)?.public_key();
            print(&[if pem { key.pem().trim_end().to_owned() } else { key.to_string() }]);
            Ok(0)
        }
    }
}

fn verify(config: &Config, args: &VerifyArgs) -> Result<u8, Failure> {
    let key = key(config, args.key.as_deref())?;
    let text = text(&args.file)?;
    match held(&text, &key, args) {
        Ok(report) if args.json => {
            #[derive(Serialize)]
            struct Found<'a> {
                holds: bool,
                held: &'a [String],
                not_at_hand: &'a [String],
                statement: serde_json::Value,
            }
            let Report { held, not_at_hand, .. } = &report;
            let found = Found { holds: true, held, not_at_hand, statement: report.json()? };
            print(&[serde_json::to_string_pretty(&found).map_err(Failure::internal)?]);
            Ok(0)
        }
        Ok(report) => {
            let mut lines = report.told();
            lines.push(String::new());
            lines.extend(report.held.iter().map(|line| format!("holds        {line}")));
            lines.extend(report.not_at_hand.iter().map(|line| format!("not at hand  {line}")));
            print(&lines);
            Ok(0)
        }
        Err(broken) => {
            if args.json {
                let found =
                    serde_json::json!({"holds": false, "failure": broken.name(), "message": broken.to_string()});
                print(&[found.to_string()]);
            }
            Err(Failure::new(
                Code::EvidenceBroken,
                format!("The statement does not hold ({}): {broken}", broken.name()),
            ))
        }
    }
}

fn held(text: &[u8], key: &PublicKey, args: &VerifyArgs) -> Result<Report, Broken> {
    let mut report = bundle::read(text, key)?;
    if let Some(dir) = &args.artifacts {
        report.hold_against_artifacts(dir)?;
    }
    match &args.repo {
        Some(repo) => report.hold_against_repository(repo)?,
        None => report.not_at_hand.push("the repository: name a checkout with --repo".to_owned()),
    }
    Ok(report)
}

fn key(config: &Config, given: Option<&str>) -> Result<PublicKey, Failure> {
    let Some(given) = given else {
        let own = Signer::find(config.evidence.key.value(), &config.data_dir()?)?;
        return own
            .map(|signer| signer.public_key())
            .ok_or_else(|| Failure::new(Code::EvidenceKey, "There is no key to hold the statement against"));
    };
    if !Path::new(given).is_file() {
        return given.parse();
    }
    let text = std::fs::read_to_string(given)
        .map_err(|error| Failure::new(Code::EvidenceKey, format!("The key {given} cannot be read: {error}")))?;
    text.parse()
}

fn text(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().take(MAX_BYTES).read_to_end(&mut text),
        false => std::fs::File::open(file).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)),
    };
    read.map_err(|error| {
        Failure::new(Code::Usage, format!("The statement {} cannot be read: {error}", file.display()))
    })?;
    Ok(text)
}
