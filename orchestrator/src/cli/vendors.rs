//! `onramp vendors`: with whom tasks dealt, and what the operator says of them.

use clap::{Args, Subcommand, ValueEnum};
use tasks::{Code, Failure, Month};
use workers::egress::{
    presets,
    vendors::{Risk, VendorBook, VendorNote},
};

use super::{Setting, out::print};
use crate::{now, vendors};

#[derive(Debug, Args)]
pub(super) struct VendorsArgs {
    /// How to print them
    #[arg(long, value_enum, default_value_t = Form::Markdown)]
    format: Form,
    /// The month whose metered cost is told, such as 2026-11 [default: this one]
    #[arg(long)]
    month: Option<Month>,
    /// Only those that nobody approved
    #[arg(long)]
    unapproved: bool,
    #[command(subcommand)]
    command: Option<VendorsCommand>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A page with a table
    Markdown,
    /// For a spreadsheet
    Csv,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
enum VendorsCommand {
    /// Say that a vendor may be dealt with; others are held where `hold_new_vendors` is set
    Approve {
        /// Its name as `onramp vendors` prints it
        name: String,
        /// Who approves it [default: you]
        #[arg(long)]
        by: Option<String>,
        #[command(flatten)]
        about: About,
    },
    /// Take an approval back
    Revoke {
        /// Its name as `onramp vendors` prints it
        name: String,
    },
    /// Note who answers for a vendor, what it is for, how risky it is and what it costs
    Note {
        /// Its name as `onramp vendors` prints it
        name: String,
        #[command(flatten)]
        about: About,
    },
}

#[derive(Debug, Args)]
struct About {
    /// Who answers for it
    #[arg(long)]
    owner: Option<String>,
    /// What it is for
    #[arg(long)]
    purpose: Option<String>,
    /// low, medium or high
    #[arg(long, value_parser = parse_risk)]
    risk: Option<Risk>,
    /// What is paid each month besides what is metered, in words
    #[arg(long)]
    monthly_cost: Option<String>,
}

fn parse_risk(text: &str) -> Result<Risk, String> {
    [Risk::Low, Risk::Medium, Risk::High]
        .into_iter()
        .find(|risk| risk.word() == text)
        .ok_or_else(|| "it is low, medium or high".to_owned())
}

impl About {
    fn onto(self, note: &mut VendorNote) {
        let Self { owner, purpose, risk, monthly_cost } = self;
        note.owner = owner.unwrap_or(std::mem::take(&mut note.owner));
        note.purpose = purpose.unwrap_or(std::mem::take(&mut note.purpose));
        note.risk = risk.or(note.risk);
        note.monthly_cost = monthly_cost.unwrap_or(std::mem::take(&mut note.monthly_cost));
    }
}

pub(super) fn vendors(setting: &Setting, args: VendorsArgs) -> Result<u8, Failure> {
    let data = setting.config.data_dir()?;
    let path = setting.config.vendors(&data);
    let mut book = VendorBook::read(&path)?;
    let Some(command) = args.command else { return list(setting, &book, &args) };
    let done = match command {
        VendorsCommand::Approve { name, by, about } => {
            named(&name)?;
            let note = book.0.entry(name.clone()).or_default();
            note.approved_by = by.unwrap_or_else(|| setting.surroundings.user.clone());
            note.approved_on = now().format("%Y-%m-%d").to_string();
            about.onto(note);
            format!("{name} is approved by {}", note.approved_by)
        }
        VendorsCommand::Revoke { name } => {
            let failure = unknown(&name, &book);
            let note = book.0.get_mut(&name).ok_or(failure)?;
            (note.approved_by, note.approved_on) = (String::new(), String::new());
            format!("{name} is approved no more")
        }
        VendorsCommand::Note { name, about } => {
            named(&name)?;
            about.onto(book.0.entry(name.clone()).or_default());
            format!("noted for {name}")
        }
    };
    book.write(&path)?;
    print(&[done]);
    Ok(0)
}

fn list(setting: &Setting, book: &VendorBook, args: &VendorsArgs) -> Result<u8, Failure> {
    let journal = setting.config.data_dir()?.join("queue").join("journal");
    let month = args.month.unwrap_or_else(|| Month::of(now()));
    let mut all = match journal.is_dir() {
        true => vendors::read(&journal, book, month)
            .map_err(|error| Failure::new(Code::StoreUnavailable, format!("The journal cannot be read: {error}")))?,
        false => {
            let message = format!("There is no journal in {}", journal.display());
            return Err(Failure::new(Code::StoreUnavailable, message)
                .next("Name the data directory of `onramp serve` with --data-dir."));
        }
    };
    if args.unapproved {
        all.retain(|vendor| !vendor.is_approved());
    }
    let text = match args.format {
        Form::Markdown => vendors::markdown(&all, month),
        Form::Csv => vendors::csv(&all),
        Form::Json => serde_json::to_string_pretty(&all).map_err(Failure::internal)?,
    };
    print(&[text.trim_end().to_owned()]);
    Ok(0)
}

/// A name that the register can hold.
fn named(name: &str) -> Result<(), Failure> {
    let good = !name.is_empty() && name.len() <= 260 && name.bytes().all(|byte| byte.is_ascii_graphic());
    match good {
        true => Ok(()),
        false => Err(Failure::new(Code::Usage, format!("{name:?} is not the name of a vendor"))
            .next("`onramp vendors` prints the names that there are.")),
    }
}

fn unknown(name: &str, book: &VendorBook) -> Failure {
    let known: Vec<&str> = book.0.keys().map(String::as_str).collect();
    Failure::new(Code::Usage, format!("Nothing is noted of {name:?}; there are {}", known.join(", ")))
}

/// `onramp presets`: lists of hosts by name.
pub(super) fn list_presets() -> u8 {
    let lines = presets::all().map(|(name, about, hosts)| format!("preset:{name:<12} {about}: {}", hosts.join(", ")));
    print(&lines.collect::<Vec<_>>());
    0
}
