//! The bugs that `tests/mutants/run` plants fit the source as it is, so that they do not rot.

use std::{collections::BTreeMap, path::Path};

#[path = "../mutants/planted.rs"]
mod written;

#[test]
fn every_planted_bug_still_has_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mutants = written::all(root).unwrap();
    assert!(mutants.len() >= 30, "{} planted bugs", mutants.len());
    let mut by_file: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for mutant in &mutants {
        assert!(!mutant.harm.is_empty() && !mutant.test.is_empty(), "{} says too little", mutant.name);
        by_file.entry(&mutant.file).or_default().push(mutant);
    }
    for (file, mutants) in by_file {
        let source = std::fs::read_to_string(root.join(file)).unwrap();
        let (switched, alone): (Vec<_>, Vec<_>) = mutants.into_iter().partition(|mutant| mutant.has_switch());
        let changed = written::planted(&source, &switched, true).unwrap();
        assert_eq!(changed.matches(written::VARIABLE).count() > 0, !switched.is_empty(), "{file}");
        for mutant in alone {
            assert_ne!(written::planted(&source, &[mutant], false).unwrap(), source, "{} changes nothing", mutant.name);
        }
    }
}
