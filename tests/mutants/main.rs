//! Checks the checks: plants known bugs, one at a time, and looks whether the tests notice.
//!
//! A bug is written down in `planted/*.toml`: what to find in the source, exactly once, what to put there, and the
//! narrowest tests that are expected to fail then. Most have a switch, so that all of them are built in one go and each
//! costs no more than its tests; a bug that has none (it lies where no environment reaches) is built alone.
//!
//! ```text
//! tests/mutants/run                     all of them
//! tests/mutants/run NAME...             those whose names or files hold one of these words
//! tests/mutants/run --suite NAME...     each planted alone, with the whole suite (slow)
//! tests/mutants/run --list              what there is
//! ```
//!
//! Everything happens in `target/mutants`: a copy of the working tree and build outputs that stay warm. Ends with exit code 1
//! when fewer than nine of ten were caught, or when something could not be judged.

mod planted;
mod scratch;

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use planted::Mutant;
use scratch::Scratch;

/// Of a hundred, so many have to be caught.
const WANTED: usize = 90;
/// The narrow tests of one bug take no longer; one that waits for ever was noticed.
const LIMIT_S: u64 = 120;
/// The whole suite.
const SUITE_LIMIT_S: u64 = 3600;
/// The one test that a planted bug fails by being there.
const SUITE: &str = "-- --skip every_planted_bug_still_has_its_place";

/// What came of one bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Caught,
    Survived,
    /// What it looks for is not there exactly once.
    DidNotApply,
    DidNotBuild,
    /// Its tests fail without it too, or there are none of that name.
    NotJudged,
}

struct Row {
    verdict: Verdict,
    name: String,
    note: String,
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| {
        let n = words.len();
        words.retain(|word| word != name);
        words.len() < n
    };
    let (list, suite) = (flag("--list"), flag("--suite"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let chosen = |mutant: &Mutant| {
        words.is_empty() || words.iter().any(|word| mutant.name.contains(word) || mutant.file.contains(word))
    };
    let mutants: Vec<Mutant> = match planted::all(root) {
        Ok(all) => all.into_iter().filter(chosen).collect(),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if list {
        for mutant in &mutants {
            println!("{:<36} {}", mutant.name, mutant.harm);
        }
        return ExitCode::SUCCESS;
    }
    match Scratch::new(root) {
        Ok(scratch) => told(&judged(&scratch, root, &mutants, suite)),
        Err(error) => {
            eprintln!("there is no place to plant them in: {error}");
            ExitCode::from(2)
        }
    }
}

fn judged(scratch: &Scratch, root: &Path, mutants: &[Mutant], suite: bool) -> Vec<Row> {
    let (mut rows, mut together, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for mutant in mutants {
        let source = std::fs::read_to_string(root.join(&mutant.file)).map_err(|error| error.to_string());
        match source.and_then(|source| mutant.place(&source)) {
            Err(note) => rows.push(row(Verdict::DidNotApply, mutant, note)),
            Ok(_) if suite || !mutant.has_switch() => alone.push(mutant),
            Ok(_) => together.push(mutant),
        }
    }
    if !together.is_empty() {
        rows.extend(all_at_once(scratch, &together));
    }
    for mutant in alone {
        let verdict = one(scratch, mutant, suite);
        println!("{}", line(&verdict));
        rows.push(verdict);
    }
    rows
}

/// Built in one go, and each switched on in turn.
fn all_at_once(scratch: &Scratch, mutants: &[&Mutant]) -> Vec<Row> {
    println!("building {} planted bugs at once", mutants.len());
    if let Err(note) = scratch.plant(mutants, true) {
        return mutants.iter().map(|mutant| row(Verdict::DidNotApply, mutant, note.clone())).collect();
    }
    let built = scratch.build_for(SUITE);
    if !built.ok {
        println!("{}", errors(&built.output));
        return mutants.iter().map(|mutant| row(Verdict::DidNotBuild, mutant, "see above".into())).collect();
    }
    println!("built in {:.0?}", built.took);
    // Whether the tests pass while all bugs are switched off.
    let mut sound: BTreeMap<&str, Result<(), String>> = BTreeMap::new();
    let mut rows = Vec::new();
    for mutant in mutants {
        let without = sound.entry(&mutant.test).or_insert_with(|| {
            let ended = scratch.test(&mutant.test, None, LIMIT_S);
            match (ended.ok, ended.n_tests) {
                (true, 0) => Err("there is no such test".into()),
                (true, _) => Ok(()),
                (false, _) => Err(format!("its test fails without it too: {}", failures(&ended.output))),
            }
        });
        let verdict = match without {
            Err(note) => row(Verdict::NotJudged, mutant, note.clone()),
            Ok(()) => verdict(mutant, scratch.test(&mutant.test, Some(&mutant.name), LIMIT_S)),
        };
        println!("{}", line(&verdict));
        rows.push(verdict);
    }
    rows
}

/// Planted alone.
fn one(scratch: &Scratch, mutant: &Mutant, suite: bool) -> Row {
    if let Err(note) = scratch.plant(&[mutant], false) {
        return row(Verdict::DidNotApply, mutant, note);
    }
    let test = if suite { SUITE } else { &mutant.test };
    let built = scratch.build_for(test);
    match built.ok {
        false => row(Verdict::DidNotBuild, mutant, errors(&built.output)),
        true => verdict(mutant, scratch.test(test, None, if suite { SUITE_LIMIT_S } else { LIMIT_S })),
    }
}

fn verdict(mutant: &Mutant, ended: scratch::Ended) -> Row {
    let took = format!("{:.1?}", ended.took);
    match (ended.ok, ended.hung, ended.n_tests) {
        (true, _, 0) => row(Verdict::NotJudged, mutant, "there is no such test".into()),
        (true, ..) => row(Verdict::Survived, mutant, format!("{took}; {}", mutant.harm)),
        (false, true, _) => row(Verdict::Caught, mutant, format!("{took}; a test waited for ever")),
        (false, false, _) => row(Verdict::Caught, mutant, format!("{took}; {}", failures(&ended.output))),
    }
}

fn row(verdict: Verdict, mutant: &Mutant, note: String) -> Row {
    Row { verdict, name: mutant.name.clone(), note }
}

fn line(row: &Row) -> String {
    format!("{:<12} {:<36} {}", format!("{:?}", row.verdict), row.name, row.note)
}

/// The names of the tests that failed.
fn failures(output: &str) -> String {
    let failed = output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let names: Vec<_> = failed.take(3).collect();
    if names.is_empty() { errors(output) } else { names.join(", ") }
}

/// The first errors of the compiler, or the end of what was said.
fn errors(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    let errors: Vec<_> =
        lines.windows(2).filter(|pair| pair[0].starts_with("error")).map(|pair| pair.join(" ")).collect();
    match errors.is_empty() {
        true => lines[lines.len().saturating_sub(3)..].join(" | "),
        false => errors.into_iter().take(6).collect::<Vec<_>>().join(" | "),
    }
}

fn told(rows: &[Row]) -> ExitCode {
    let n = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let (caught, survived) = (n(Verdict::Caught), n(Verdict::Survived));
    println!();
    for row in rows.iter().filter(|row| row.verdict != Verdict::Caught) {
        println!("{}", line(row));
    }
    let score = (caught * 100).checked_div(caught + survived).unwrap_or(0);
    println!(
        "{caught} caught, {survived} survived ({score} %); {} did not apply, {} did not build, {} could not be judged",
        n(Verdict::DidNotApply),
        n(Verdict::DidNotBuild),
        n(Verdict::NotJudged)
    );
    if score >= WANTED && caught + survived == rows.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
