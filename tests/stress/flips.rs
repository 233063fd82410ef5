//! One wrong bit, one cut, one page of zeroes, anywhere in a store: nothing may change without being noticed.

use std::{collections::BTreeMap, fs, panic::AssertUnwindSafe, path::Path};

use orchestrator::queue::audit;
use tasks::{Code, Intake as _, Task, TaskFilter};
use tempfile::TempDir;

use crate::store::{Ledger, Random, copy, files, open, used};

/// How one damage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    /// Nothing differs, and nothing is wrong with the journal.
    Harmless,
    /// Everything is there; the index was made anew.
    Repaired,
    /// It does not open, and says which record is bad.
    Refused,
    /// Everything is there, and `audit verify` names what is bad.
    ReportedByAudit,
}

pub(crate) async fn run(n: u64) -> Vec<String> {
    let started = std::time::Instant::now();
    let sound = TempDir::new().expect("a directory");
    let mut problems = Vec::new();
    let ledger = match used(sound.path(), 60).await {
        Ok(ledger) => ledger,
        Err(failure) => return vec![format!("no store could be made: {failure}")],
    };
    let expected = match tasks(sound.path()).await {
        Ok(tasks) => tasks,
        Err(error) => return vec![error],
    };
    let mut random = Random(0x5EED_F11B);
    let mut endings: BTreeMap<(String, Ending), u64> = BTreeMap::new();
    for round in 0..n {
        let dir = TempDir::new().expect("a directory");
        copy(sound.path(), dir.path()).expect("a copy");
        let (file, what) = damage(dir.path(), &mut random);
        let ending = ending(dir.path(), &ledger, &expected).await;
        match ending {
            Ok(ending) => *endings.entry((file, ending)).or_default() += 1,
            Err(problem) => problems.push(format!("round {round}, {file}: {what}: {problem}")),
        }
    }
    println!("flips: {n} in {:.0?}, {} problems", started.elapsed(), problems.len());
    for ((file, ending), n) in endings {
        println!("  {file:<12} {ending:?}: {n}");
    }
    problems
}

/// Damages one file. Which kind of file, and how.
fn damage(dir: &Path, random: &mut Random) -> (String, String) {
    let files: Vec<_> =
        files(dir).into_iter().filter(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0)).collect();
    let path = &files[random.below(files.len() as u64) as usize];
    let mut bytes = fs::read(path).expect("it was listed");
    let at = random.below(bytes.len() as u64) as usize;
    let what = match random.below(4) {
        0 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            let end = (at + 512).min(bytes.len());
            bytes[at..end].fill(0);
            format!("zeroes from {at} to {end}")
        }
        _ => {
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
    };
    fs::write(path, bytes).expect("it can be written");
    let from_top = path.strip_prefix(dir).expect("it lies below").display().to_string();
    let kind = match path.extension().and_then(|extension| extension.to_str()) {
        Some(kind @ ("log" | "checkpoint")) if from_top.starts_with("journal") => format!("*.{kind}"),
        _ => from_top.split('.').next().unwrap_or_default().to_owned(),
    };
    (kind, format!("{what} of {from_top}"))
}

async fn ending(dir: &Path, ledger: &Ledger, expected: &[Task]) -> Result<Ending, String> {
    let opened = AssertUnwindSafe(tasks(dir));
    let tasks = match futures_util::FutureExt::catch_unwind(opened).await {
        Ok(Ok(tasks)) => tasks,
        Ok(Err(error)) if error.starts_with(Code::StoreDamaged.as_str()) => return Ok(Ending::Refused),
        Ok(Err(error)) => return Err(format!("it does not open and does not say where it is damaged: {error}")),
        Err(_) => return Err("it panics".to_owned()),
    };
    if tasks != expected {
        return Err(format!("SILENT: {} tasks instead of {}, or others", tasks.len(), expected.len()));
    }
    let repaired = dir.join("index.damaged").exists();
    let audited = audit::verify(&dir.join("journal"), ledger.anchor.as_ref()).is_err();
    let problems = if audited { Vec::new() } else { ledger.check(dir).await };
    match (problems.is_empty(), audited, repaired) {
        (false, ..) => Err(problems.join("; ")),
        (true, true, _) => Ok(Ending::ReportedByAudit),
        (true, false, true) => Ok(Ending::Repaired),
        (true, false, false) => Ok(Ending::Harmless),
    }
}

/// Everything that a store says.
async fn tasks(dir: &Path) -> Result<Vec<Task>, String> {
    let queue = open(dir).await.map_err(|failure| format!("{} {}", failure.code, failure.message))?;
    let listed = queue.list(TaskFilter::default()).await;
    queue.shutdown().await;
    listed.map_err(|error| error.to_string())
}
