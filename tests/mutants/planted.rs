//! The planted bugs as they are written down, and how one is put into the source.

use std::path::Path;

use serde::Deserialize;

/// In a replacement: whether this bug is switched on.
const SWITCH: &str = "@on";
/// Names the bug that is switched on, where many are planted at once.
pub(crate) const VARIABLE: &str = "ONRAMP_MUTANT";

/// One bug: what to find in a file, exactly once, and what to put in its place.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    /// Its name, unique among all.
    pub(crate) name: String,
    /// What would go wrong if nobody noticed it.
    pub(crate) harm: String,
    /// The file, from the top of the repository.
    pub(crate) file: String,
    /// What stands there.
    pub(crate) find: String,
    /// What stands there instead. `@on` is the switch; without one it is planted alone.
    pub(crate) replace: String,
    /// What is expected to catch it: the arguments of `cargo test --workspace`.
    pub(crate) test: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mutant: Vec<Mutant>,
}

/// All of them, in the order of their files and in these.
///
/// # Errors
/// The file that cannot be read, and why; a name that is there twice.
pub(crate) fn all(root: &Path) -> Result<Vec<Mutant>, String> {
    let dir = root.join("tests/mutants/planted");
    let entries = std::fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut found: Vec<Mutant> = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file: File = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        found.extend(file.mutant);
    }
    let twice = found.iter().enumerate().find(|(n, mutant)| found[..*n].iter().any(|other| other.name == mutant.name));
    match twice {
        Some((_, mutant)) => Err(format!("two are called {}", mutant.name)),
        None => Ok(found),
    }
}

impl Mutant {
    /// Whether it has a switch, so that it can be built together with others.
    pub(crate) fn has_switch(&self) -> bool {
        self.replace.contains(SWITCH)
    }

    /// Where it goes in the source.
    ///
    /// # Errors
    /// When what it looks for is not there exactly once: the source has moved on.
    pub(crate) fn place(&self, source: &str) -> Result<std::ops::Range<usize>, String> {
        let find = self.find.trim_matches('\n');
        match source.match_indices(find).collect::<Vec<_>>()[..] {
            [(at, _)] => Ok(at..at + find.len()),
            ref found => Err(format!("{}: what it looks for is {} times in {}", self.name, found.len(), self.file)),
        }
    }

    /// What stands in the source instead; with `switched`, only while [`VARIABLE`] names it.
    pub(crate) fn replacement(&self, switched: bool) -> String {
        let switch = match switched {
            true => format!("std::env::var_os({VARIABLE:?}).is_some_and(|planted| planted == {:?})", self.name),
            false => "true".to_owned(),
        };
        self.replace.trim_matches('\n').replace(SWITCH, &switch)
    }
}

/// A source with all of these in it.
///
/// # Errors
/// When one has no place, or two overlap.
pub(crate) fn planted(source: &str, mutants: &[&Mutant], switched: bool) -> Result<String, String> {
    let mut places =
        mutants.iter().map(|mutant| Ok((mutant.place(source)?, *mutant))).collect::<Result<Vec<_>, String>>()?;
    places.sort_by_key(|(place, _)| place.start);
    if let Some(pair) = places.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        return Err(format!("{} and {} overlap", pair[0].1.name, pair[1].1.name));
    }
    let mut text = source.to_owned();
    for (place, mutant) in places.into_iter().rev() {
        text.replace_range(place, &mutant.replacement(switched));
    }
    Ok(text)
}
