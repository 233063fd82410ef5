//! The register of vendors: everybody outside whom tasks dealt with, derived from the journal's evidence.
//!
//! Nothing of it is stored: it is read from the journal each time, so it can be neither forgotten nor out of date. What no
//! record can know (owner, purpose, risk, approval, what is paid besides) stands in a file of the operator's.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Serialize;
use tasks::{Evidence, Money, Month, RepoName, TaskId, Timestamp};
use workers::egress::{
    is_outside, presets,
    vendors::{VendorBook, VendorNote},
};

use crate::queue::{
    QueueRecord,
    audit::{self, Wanted},
    journal::JournalError,
};

/// What a vendor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A model is asked there.
    Model,
    /// Packages come from there.
    Registry,
    /// Another host.
    Host,
    /// Sandboxes start from it.
    Image,
    /// It edits.
    Agent,
}

impl Kind {
    /// The word in lists and exports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Registry => "registry",
            Self::Host => "host",
            Self::Image => "image",
            Self::Agent => "agent",
        }
    }
}

/// One vendor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Vendor {
    /// A host; or `image:NAME`, `agent:NAME`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// When the first task dealt with it. `None`: none did, as far as the journal goes back; only the file knows it.
    pub first_seen: Option<Timestamp>,
    /// When the last one did.
    pub last_seen: Option<Timestamp>,
    /// The tasks.
    pub n_tasks: usize,
    /// Whose they were.
    pub repositories: BTreeSet<RepoName>,
    /// Tasks asked for it and were refused.
    pub n_refused: usize,
    /// What was metered of its models in the month asked about. `None`: something of it has no known price.
    pub metered: Option<Money>,
    /// What the operator says.
    pub note: VendorNote,
}

impl Vendor {
    /// Whether somebody approved it.
    pub fn is_approved(&self) -> bool {
        !self.note.approved_by.is_empty()
    }
}

/// Somebody as the records tell of them.
#[derive(Debug, Default)]
struct Seen {
    kind: Option<Kind>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    tasks: BTreeSet<TaskId>,
    refused: BTreeSet<TaskId>,
    repositories: BTreeSet<RepoName>,
    money: Money,
    n_unpriced: u64,
}

/// Everybody, by name. `month`: of which the metered cost is told.
///
/// # Errors
/// When the journal cannot be read.
pub fn read(journal: &Path, book: &VendorBook, month: Month) -> Result<Vec<Vendor>, JournalError> {
    let (mut seen, mut repositories) = (BTreeMap::<String, Seen>::new(), BTreeMap::<TaskId, RepoName>::new());
    audit::show(journal, &Wanted::default(), |_, record| {
        match record {
            QueueRecord::Enqueued { task, .. } => {
                repositories.insert(task.id, task.request.repo.clone());
            }
            QueueRecord::Applied { task, at, evidence: Some(evidence), .. } => {
                let repo = repositories.get(task);
                note(&mut seen, *task, repo, *at, evidence, Month::of(*at) == month);
            }
            _ => {}
        }
        true
    })?;
    for name in book.0.keys() {
        seen.entry(name.clone()).or_default();
    }
    let vendor = |(name, seen): (String, Seen)| Vendor {
        kind: seen.kind.unwrap_or_else(|| kind_of_name(&name)),
        first_seen: seen.first,
        last_seen: seen.last,
        n_tasks: seen.tasks.len(),
        repositories: seen.repositories,
        n_refused: seen.refused.len(),
        metered: (seen.n_unpriced == 0).then_some(seen.money),
        note: book.0.get(&name).cloned().unwrap_or_default(),
        name,
    };
    Ok(seen.into_iter().map(vendor).collect())
}

/// Takes in one attempt.
fn note(
    all: &mut BTreeMap<String, Seen>,
    task: TaskId,
    repo: Option<&RepoName>,
    at: Timestamp,
    evidence: &Evidence,
    in_month: bool,
) {
    let met = |seen: &mut Seen| {
        seen.first = Some(seen.first.map_or(at, |first| first.min(at)));
        seen.last = Some(seen.last.map_or(at, |last| last.max(at)));
        seen.tasks.insert(task);
        seen.repositories.extend(repo.cloned());
    };
    met(touch(all, format!("agent:{}", evidence.agent), Kind::Agent));
    if let Some(image) = image_of(&evidence.environment) {
        met(touch(all, format!("image:{image}"), Kind::Image));
    }
    let Some(egress) = &evidence.egress else { return };
    for model in egress.models.iter().filter(|model| is_outside(&model.host)) {
        let seen = touch(all, model.host.clone(), Kind::Model);
        met(seen);
        if in_month {
            seen.money = seen.money.plus(model.cost);
            seen.n_unpriced += model.n_unpriced;
        }
    }
    for host in &egress.hosts {
        let name = host.host.split(':').next().unwrap_or_default().to_owned();
        let kind = if presets::all().any(|(_, _, hosts)| hosts.contains(&name)) { Kind::Registry } else { Kind::Host };
        match host.blocked {
            None => met(touch(all, name, kind)),
            // Names that a sandbox made up are no vendors; only those that a vendor's approval would open.
            Some(ref why) if why.contains("nobody approved") => {
                touch(all, name, kind).refused.insert(task);
            }
            Some(_) => {}
        }
    }
}

/// The entry of this name.
fn touch(all: &mut BTreeMap<String, Seen>, name: String, kind: Kind) -> &mut Seen {
    let seen = all.entry(name).or_default();
    seen.kind = Some(seen.kind.map_or(kind, |known| known.min(kind)));
    seen
}

/// The image's name without its digest and the base that was made of it. `None`: it was no image.
fn image_of(environment: &str) -> Option<&str> {
    let image = environment.split(", from base ").next()?.split('@').next()?.trim();
    (!image.is_empty() && image != "host tools").then_some(image)
}

fn kind_of_name(name: &str) -> Kind {
    match name.split_once(':') {
        Some(("image", _)) => Kind::Image,
        Some(("agent", _)) => Kind::Agent,
        _ if presets::all().any(|(_, _, hosts)| hosts.iter().any(|host| host == name)) => Kind::Registry,
        _ => Kind::Host,
    }
}

/// The columns of every export.
const COLUMNS: [&str; 12] = [
    "vendor",
    "kind",
    "first seen",
    "last seen",
    "tasks",
    "repositories",
    "owner",
    "purpose",
    "risk",
    "approved",
    "metered this month",
    "monthly cost",
];

fn cells(vendor: &Vendor) -> [String; 12] {
    let day = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.format("%Y-%m-%d").to_string());
    let note = &vendor.note;
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let repositories: Vec<&str> = vendor.repositories.iter().map(RepoName::as_str).collect();
    let approved = match (vendor.is_approved(), vendor.n_refused) {
        (true, _) => format!("{} {}", note.approved_by, note.approved_on).trim().to_owned(),
        (false, 0) => "no".to_owned(),
        (false, n) => format!("no, held {n} {}", if n == 1 { "task" } else { "tasks" }),
    };
    let metered = match (vendor.kind, vendor.metered) {
        (Kind::Model, Some(money)) => money.to_string(),
        (Kind::Model, None) => "price unknown".to_owned(),
        _ => "-".to_owned(),
    };
    [
        vendor.name.clone(),
        vendor.kind.word().to_owned(),
        day(vendor.first_seen),
        day(vendor.last_seen),
        vendor.n_tasks.to_string(),
        or_dash(&repositories.join(" ")),
        or_dash(&note.owner),
        or_dash(&note.purpose),
        note.risk.map_or("-", |risk| risk.word()).to_owned(),
        approved,
        metered,
        or_dash(&note.monthly_cost),
    ]
}

/// The page that a security review asks for.
pub fn markdown(vendors: &[Vendor], month: Month) -> String {
    let cell = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ");
    let row =
        |cells: &[String]| format!("| {} |\n", cells.iter().map(|text| cell(text)).collect::<Vec<_>>().join(" | "));
    let unapproved = vendors.iter().filter(|vendor| !vendor.is_approved()).count();
    let mut page =
        format!("# Vendors\n\n{} in all, {unapproved} of them not approved. Metered: {month}.\n\n", vendors.len());
    page.push_str(&row(&COLUMNS.map(str::to_owned)));
    page.push_str(&format!("|{}\n", " --- |".repeat(COLUMNS.len())));
    vendors.iter().for_each(|vendor| page.push_str(&row(&cells(vendor))));
    page
}

/// The same for a spreadsheet (RFC 4180). A cell that a spreadsheet would take for a formula begins with an apostrophe.
pub fn csv(vendors: &[Vendor]) -> String {
    let cell = |text: &str| {
        let text = if text.starts_with(['=', '+', '@', '\t']) { format!("'{text}") } else { text.to_owned() };
        match text.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text,
        }
    };
    let row = |cells: &[String]| format!("{}\r\n", cells.iter().map(|text| cell(text)).collect::<Vec<_>>().join(","));
    let head = row(&COLUMNS.map(str::to_owned));
    vendors.iter().fold(head, |page, vendor| page + &row(&cells(vendor)))
}

#[cfg(test)]
mod tests {
    use workers::egress::vendors::Risk;

    use super::*;

    fn vendor(name: &str, kind: Kind, note: VendorNote) -> Vendor {
        let at = Timestamp::from_timestamp(1_764_400_000, 0);
        Vendor {
            name: name.into(),
            kind,
            first_seen: at,
            last_seen: at,
            n_tasks: 3,
            repositories: ["acme/web".parse().unwrap()].into(),
            n_refused: 0,
            metered: Some(Money::microusd(1_230_000)),
            note,
        }
    }

    #[test]
    fn exports_are_whole_tables_and_a_cell_cannot_break_out_of_them() {
        let note = VendorNote {
            owner: "ada | \"bob\"".into(),
            purpose: "=HYPERLINK(1)\nmodels".into(),
            risk: Some(Risk::High),
            approved_by: "ada".into(),
            approved_on: "2026-11-29".into(),
            monthly_cost: "$20".into(),
        };
        let vendors = [
            vendor("api.example.com", Kind::Model, note),
            Vendor { metered: None, ..vendor("b.example", Kind::Model, VendorNote::default()) },
            Vendor { n_refused: 1, ..vendor("image:rust:1.95", Kind::Image, VendorNote::default()) },
        ];
        insta::assert_snapshot!(markdown(&vendors, "2026-11".parse().unwrap()), @r#"
        # Vendors

        3 in all, 2 of them not approved. Metered: 2026-11.

        | vendor | kind | first seen | last seen | tasks | repositories | owner | purpose | risk | approved | metered this month | monthly cost |
        | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
        | api.example.com | model | 2025-11-29 | 2025-11-29 | 3 | acme/web | ada \| "bob" | =HYPERLINK(1) models | high | ada 2026-11-29 | $1.23 | $20 |
        | b.example | model | 2025-11-29 | 2025-11-29 | 3 | acme/web | - | - | - | no | price unknown | - |
        | image:rust:1.95 | image | 2025-11-29 | 2025-11-29 | 3 | acme/web | - | - | - | no, held 1 task | - | - |
        "#);
        let table = csv(&vendors);
        assert!(table.contains("\"ada | \"\"bob\"\"\",\"'=HYPERLINK(1)\nmodels\",high"), "{table}");
        assert_eq!(table.matches("\r\n").count(), 4);
    }

    #[test]
    fn images_are_named_without_what_changes_each_time() {
        assert_eq!(image_of("rust:1.95@sha256:00, from base x at y"), Some("rust:1.95"));
        assert_eq!(image_of("onramp-test/busybox:1"), Some("onramp-test/busybox:1"));
        assert_eq!(image_of("host tools"), None);
        assert_eq!(image_of("host tools, from base x at y"), None);
    }
}
