//! What a change did to the checks and to each test, found out by running them without it, with its tests alone, and with
//! all of it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many tests a runner said it ran, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestCounts {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
    /// Left out.
    pub skipped: u64,
}

impl TestCounts {
    /// Tests that were not left out.
    pub fn ran(self) -> u64 {
        self.passed.saturating_add(self.failed)
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed.saturating_add(other.passed),
            failed: self.failed.saturating_add(other.failed),
            skipped: self.skipped.saturating_add(other.skipped),
        }
    }
}

/// `12 passed, 1 failed, 3 skipped`; what is zero is left out.
impl fmt::Display for TestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.passed, "passed"), (self.failed, "failed"), (self.skipped, "skipped")];
        let parts: Vec<String> =
            parts.into_iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        if parts.is_empty() { f.write_str("no tests") } else { f.write_str(&parts.join(", ")) }
    }
}

/// What a change did to one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// Passes before and after.
    Passing,
    /// Fails before, passes after.
    Fixed,
    /// Passes before, fails after.
    Broken,
    /// Fails before and after.
    AlreadyFailing,
    /// Failed and passed on the very same tree.
    Flaky,
    /// It was not run on the base, or not on the change.
    Unknown,
}

impl CheckVerdict {
    /// `passing`, `fixed`, `broken`, `already failing`, `flaky`, `not compared`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Fixed => "fixed",
            Self::Broken => "broken",
            Self::AlreadyFailing => "already failing",
            Self::Flaky => "flaky",
            Self::Unknown => "not compared",
        }
    }
}

/// What a change did to one test. Tests that pass before and after have no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestVerdict {
    /// Passed on the base, or is new, and fails with the change.
    Broken,
    /// New or changed, and passes on the base too: it shows nothing about the change.
    Vacuous,
    /// Failed on the base, and passes as soon as only the tests of the change are put there: the test was bent, not the
    /// code mended.
    Loosened,
    /// Ran on the base, and is not there any more.
    Deleted,
    /// Left out now: it ran on the base, or is new.
    Skipped,
    /// Failed and passed on the very same tree.
    Flaky,
    /// New or changed: fails on the base, passes with the change. This is the proof.
    Proving,
    /// Failed on the base, passes with the change.
    Fixed,
    /// New and passes, but lies beside the code that it tests, so that it cannot be run without it.
    Unproven,
    /// Fails before and after.
    AlreadyFailing,
}

impl TestVerdict {
    /// Every verdict, the most telling first.
    pub const ALL: [Self; 10] = [
        Self::Broken,
        Self::Vacuous,
        Self::Loosened,
        Self::Deleted,
        Self::Skipped,
        Self::Flaky,
        Self::Proving,
        Self::Fixed,
        Self::Unproven,
        Self::AlreadyFailing,
    ];

    /// One or two words: `new and proving`, `vacuous`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Vacuous => "vacuous",
            Self::Loosened => "loosened",
            Self::Deleted => "deleted",
            Self::Skipped => "newly skipped",
            Self::Flaky => "flaky",
            Self::Proving => "new and proving",
            Self::Fixed => "fixed",
            Self::Unproven => "new, not provable",
            Self::AlreadyFailing => "already failing",
        }
    }

    /// Whether a reviewer should look at it: tests that vanish, are left out, or show nothing.
    pub fn is_finding(self) -> bool {
        match self {
            Self::Vacuous | Self::Loosened | Self::Deleted | Self::Skipped => true,
            Self::Broken | Self::Flaky | Self::Proving | Self::Fixed | Self::Unproven | Self::AlreadyFailing => false,
        }
    }

    /// Whether it shows that the change does what its tests say.
    pub fn proves(self) -> bool {
        matches!(self, Self::Proving | Self::Fixed)
    }
}

/// One test whose fate the change has to do with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct TestChange {
    /// What became of it.
    pub verdict: TestVerdict,
    /// The check that ran it.
    pub check: String,
    /// The file, module, package or binary that the runner puts it under. May be empty.
    pub suite: String,
    /// Its name.
    pub name: String,
}

/// One check before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckProof {
    /// Its name.
    pub check: String,
    /// What the change did to it.
    pub verdict: CheckVerdict,
    /// Its tests on the base, where its output is understood.
    pub before: Option<TestCounts>,
    /// Its tests with the change, where its output is understood.
    pub after: Option<TestCounts>,
}

/// What a change did to checks and tests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Proof {
    /// Every check, in the order of the configuration.
    pub checks: Vec<CheckProof>,
    /// Tests that do not simply pass before and after, by verdict, the most telling first; no more than
    /// [`Proof::MAX_TESTS`].
    pub tests: Vec<TestChange>,
    /// Tests beyond those.
    pub n_more: u64,
    /// Why the base was not asked, or not fully.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Proof {
    /// The most tests that are kept.
    pub const MAX_TESTS: usize = 500;

    /// Tests that a reviewer should look at: vacuous, loosened, deleted, newly skipped.
    pub fn findings(&self) -> impl Iterator<Item = &TestChange> {
        self.tests.iter().filter(|test| test.verdict.is_finding())
    }

    /// How many tests have a verdict.
    pub fn count(&self, verdict: TestVerdict) -> usize {
        self.tests.iter().filter(|test| test.verdict == verdict).count()
    }

    /// How many tests show that the change does what they say.
    pub fn n_proving(&self) -> usize {
        self.tests.iter().filter(|test| test.verdict.proves()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_verdict_sorts_first_and_every_one_has_its_own_word() {
        assert!(TestVerdict::ALL.is_sorted());
        let words: std::collections::BTreeSet<_> = TestVerdict::ALL.iter().map(|verdict| verdict.word()).collect();
        assert_eq!(words.len(), TestVerdict::ALL.len());
    }

    #[test]
    fn counts_say_what_is_not_zero() {
        assert_eq!(TestCounts { passed: 3, failed: 0, skipped: 1 }.to_string(), "3 passed, 1 skipped");
        assert_eq!(TestCounts::default().to_string(), "no tests");
    }
}
