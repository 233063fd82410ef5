//! A corpus of patches, hostile and benign, each with everything that policy is to find in it.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Deserialize;
use tasks::Action;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    patch: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    policy: String,
    #[serde(default)]
    add: BTreeMap<String, String>,
    #[serde(default)]
    edit: BTreeMap<String, (String, String)>,
    #[serde(default)]
    link: BTreeMap<String, String>,
    #[serde(default)]
    delete: Vec<String>,
    #[serde(default)]
    binary: Vec<String>,
    finds: Vec<String>,
}

/// `{{A36}}` and its kin: letters and digits that no issuer ever gave out, put together here so that no scanner takes what
/// stands in the files for real.
fn filled(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (what, after) = after.split_once("}}").expect("every opened place is closed");
        out.push_str(before);
        let alphabet = match what.chars().next() {
            Some('A') => "aB3dE6fG9hJ2kL5mN8pQ1rS4tU7vW0xY",
            Some('U') => "ABCDEFGHJKMNPQRSTVWXYZ234567",
            None => "",
            Some(other) => panic!("nothing is called {other}"),
        };
        let n: usize = if what.is_empty() { 0 } else { what[1..].parse().expect("a number") };
        out.extend(alphabet.chars().cycle().take(n));
        rest = after;
    }
    out + rest
}

impl Case {
    fn changes(&self) -> Vec<FileChange> {
        let file = |text: &str| Some((FileKind::Regular, filled(text).into_bytes()));
        let added = self.add.iter().map(|(path, text)| (path, None, file(text)));
        let edited = self.edit.iter().map(|(path, (before, after))| (path, file(before), file(after)));
        let linked =
            self.link.iter().map(|(path, to)| (path, None, Some((FileKind::Symlink, to.clone().into_bytes()))));
        let deleted = self.delete.iter().map(|path| (path, file("x\n"), None));
        let binary = self.binary.iter().map(|path| (path, None, file("\u{7f}ELF\0\0")));
        let all = added.chain(edited).chain(linked).chain(deleted).chain(binary);
        all.map(|(path, before, after)| FileChange { path: path.clone().into_bytes(), before, after }).collect()
    }
}

/// Judges every patch of a file, and returns the table of verdicts and how many were wrong.
fn run(text: &str) -> (Vec<(Option<Action>, String)>, Vec<String>) {
    let file: File = toml::from_str(text).expect("the corpus is well-formed");
    let mut verdicts = Vec::new();
    let mut wrong = Vec::new();
    for case in &file.patch {
        let table: PolicyTable = toml::from_str(&case.policy).expect("a policy");
        let found = judge(&case.changes(), &Policy::of(&OperatorPolicy::default(), &table));
        let strictest = found.iter().map(|finding| finding.action).max();
        let line = |finding: &Finding| {
            format!("{} {} {}", finding.action, finding.rule, finding.path.as_deref().unwrap_or_default())
                .trim_end()
                .to_owned()
        };
        let mut lines: Vec<String> = found.iter().map(line).collect();
        lines.sort();
        let mut wanted = case.finds.clone();
        wanted.sort();
        if lines != wanted {
            wrong.push(format!("{}\n  wanted {wanted:?}\n  found  {lines:?}", case.name));
        }
        for finding in &found {
            assert!(!finding.message.contains(&filled("{{A20}}")), "{}: a message repeats a secret", case.name);
        }
        verdicts.push((strictest, case.name.clone()));
    }
    (verdicts, wrong)
}

#[test]
fn every_hostile_patch_is_stopped_or_shown_and_every_benign_one_goes_through() {
    let (hostile, mut wrong) = run(include_str!("corpus/hostile.toml"));
    let (benign, more) = run(include_str!("corpus/benign.toml"));
    wrong.extend(more);
    let mut table = String::new();
    for (kind, verdicts) in [("hostile", &hostile), ("benign", &benign)] {
        for (action, name) in verdicts {
            let _ = writeln!(table, "{kind:<8} {:<6} {name}", action.map_or("-", Action::word));
        }
    }
    println!("{table}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(hostile.len() >= 60 && benign.len() >= 60, "{} and {}", hostile.len(), benign.len());
    assert!(hostile.iter().all(|(action, _)| *action >= Some(Action::Ask)), "each hostile patch reaches a person");
    assert!(benign.iter().all(|(action, _)| *action < Some(Action::Block)), "no benign patch is blocked");
}
