//! What a patch may touch: policy against the exact bytes that would be published.
//!
//! Pure, and complete: everything is told, so that one round of mending is enough. Names are compared the way the least
//! careful file system would compare them, because a protected path that differs only in case, in an invisible character
//! or in a trailing dot is the same file on somebody's machine.

mod dependencies;
mod explain;
mod hidden;
mod paths;
pub mod rules;
mod secrets;
mod table;

use std::collections::HashSet;

use tasks::{Action, Finding, Proof, TestVerdict, Violation};

use self::paths::Globs;
pub use self::{
    explain::{Explained, Weighed, explain, explain_text},
    rules::Rule,
    table::{ActionValue, LockedKey, OperatorPolicy, Policy, PolicyTable},
};
use crate::{
    patch::{FileChange, PatchedTree},
    repo_config::FILE_NAME,
    sandbox::FileKind,
};

/// Proof: policy looked at this patch and allows it. Only [`check`] makes one.
///
/// ```no_run
/// fn read(allowed: &workers::policy::AllowedPatch) -> &workers::patch::PatchedTree {
///     allowed.patched()
/// }
/// ```
///
/// Nobody can make one of a patch that was not looked at:
///
/// ```compile_fail
/// fn forge(patched: workers::patch::PatchedTree) -> workers::policy::AllowedPatch {
///     workers::policy::AllowedPatch { patched, findings: Vec::new() }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct AllowedPatch {
    patched: PatchedTree,
    findings: Vec<Finding>,
}

impl AllowedPatch {
    /// The patch.
    pub fn patched(&self) -> &PatchedTree {
        &self.patched
    }

    /// What was found and does not block: what a reviewer should look at.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// Judges a patch. Pure.
///
/// # Errors
/// Every finding that blocks, not only the first.
pub fn check(patched: PatchedTree, policy: &Policy) -> Result<AllowedPatch, Vec<Violation>> {
    let findings = blocked_or(judge(patched.changes(), policy))?;
    Ok(AllowedPatch { patched, findings })
}

/// The findings, when none of them blocks.
///
/// # Errors
/// Those that block.
pub fn blocked_or(findings: Vec<Finding>) -> Result<Vec<Finding>, Vec<Violation>> {
    if findings.iter().all(|finding| finding.action < Action::Block) {
        return Ok(findings);
    }
    let blocks = findings.into_iter().filter(|finding| finding.action == Action::Block);
    Err(blocks.map(Finding::into_violation).collect())
}

impl Policy {
    /// A finding of a rule, with the action that this policy gives it. `mend` says how to go on, for when it blocks.
    pub fn finding(&self, rule: Rule, path: Option<&str>, what: impl Into<String>, mend: impl Into<String>) -> Finding {
        let action = self.action(rule);
        let mut message = what.into();
        if action == Action::Block {
            message.push(' ');
            if self.is_locked(rule.key()) {
                message.push_str(&format!(
                    "The operator of this Onramp locked [policy] {}, so only a person can make this change.",
                    rule.key()
                ));
            } else {
                message.push_str(&mend.into());
            }
            if let Some(word) = self.unknown_word(rule) {
                let key = rule.key();
                message.push_str(&format!(
                    " ([policy] {key} = {word:?} is none of \"block\", \"ask\" and \"note\", so it blocks.)"
                ));
            }
        }
        Finding { rule: rule.word().to_owned(), action, path: path.map(str::to_owned), message }
    }
}

/// Everything that policy finds in these changes: of the whole patch first, then by path.
pub fn judge(changes: &[FileChange], policy: &Policy) -> Vec<Finding> {
    let mut found: Vec<Finding> = caps(changes, policy).collect();
    let globs = Globs::new(policy);
    for change in changes {
        let path = String::from_utf8_lossy(&change.path).into_owned();
        found.extend(globs.findings(&path, policy));
        found.extend(hidden::in_name(&path, policy));
        if let Some((FileKind::Symlink, target)) = &change.after {
            found.extend(paths::symlink_escape(&path, target, policy));
            continue;
        }
        if becomes_binary(change) {
            found.push(policy.finding(
                Rule::Binary,
                Some(&path),
                format!("`{path}` is a binary file, which nobody can review."),
                format!("Add it by hand, or set [policy] binaries = true in `{FILE_NAME}` on the base branch."),
            ));
        }
        found.extend(dependencies::added(&path, change, policy));
        found.extend(added_lines(&path, change, policy));
    }
    found
}

/// Tests that are named in one finding.
const MAX_TESTS: usize = 10;

/// What policy finds in the fate of tests: one finding for each verdict that a reviewer should look at.
pub fn judge_tests(proof: &Proof, policy: &Policy) -> Vec<Finding> {
    let rule = |verdict: TestVerdict| match verdict {
        TestVerdict::Vacuous => Some((Rule::VacuousTest, "passes without the change too, and so proves nothing")),
        TestVerdict::Loosened => Some((Rule::LoosenedTest, "failed on the base and was changed until it passed there")),
        TestVerdict::Deleted => Some((Rule::DeletedTest, "ran on the base and is gone")),
        TestVerdict::Skipped => Some((Rule::SkippedTest, "is skipped now")),
        TestVerdict::Broken
        | TestVerdict::Flaky
        | TestVerdict::Proving
        | TestVerdict::Fixed
        | TestVerdict::Unproven
        | TestVerdict::AlreadyFailing => None,
    };
    let found = TestVerdict::ALL.into_iter().filter_map(|verdict| {
        let (rule, what) = rule(verdict)?;
        let plain = |name: &str| name.chars().filter(|c| !c.is_control() && *c != '`').take(120).collect::<String>();
        let tests: Vec<_> = proof.tests.iter().filter(|test| test.verdict == verdict).collect();
        let mut names: Vec<_> = tests.iter().take(MAX_TESTS).map(|test| format!("`{}`", plain(&test.name))).collect();
        if tests.len() > MAX_TESTS {
            names.push(format!("{} more", tests.len() - MAX_TESTS));
        }
        let what = match names.as_slice() {
            [] => return None,
            [one] => format!("The test {one} {what}."),
            many => format!("{} tests, each of which {what}: {}.", tests.len(), many.join(", ")),
        };
        let mend = format!("Ask for tests that hold, or set [policy] {} on the base branch.", rule.key());
        Some(policy.finding(rule, None, what, mend))
    });
    found.collect()
}

fn caps<'a>(changes: &'a [FileChange], policy: &'a Policy) -> impl Iterator<Item = Finding> + 'a {
    let n_files = changes.len();
    let n_bytes: u64 = changes.iter().filter_map(|change| Some(change.after.as_ref()?.1.len() as u64)).sum();
    let mend =
        |key: &str| format!("Ask for something smaller, or raise [policy] {key} in `{FILE_NAME}` on the base branch.");
    let files = (n_files > policy.max_files).then(|| {
        let what = format!("The change touches {n_files} files; at most {} are allowed.", policy.max_files);
        policy.finding(Rule::MaxFiles, None, what, mend("max_files"))
    });
    let bytes = (n_bytes > policy.max_bytes).then(|| {
        let what =
            format!("The changed files have {n_bytes} bytes together; at most {} are allowed.", policy.max_bytes);
        policy.finding(Rule::MaxBytes, None, what, mend("max_bytes"))
    });
    files.into_iter().chain(bytes)
}

/// How many bytes are looked at to tell a binary file; the same as git's.
const BINARY_PROBE_BYTES: usize = 8_000;

fn is_binary(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(BINARY_PROBE_BYTES)].contains(&0)
}

/// A file that was text, or was not there, and is binary now; or that was binary and has other bytes now.
fn becomes_binary(change: &FileChange) -> bool {
    let Some((_, after)) = &change.after else { return false };
    let same_bytes = change.before.as_ref().is_some_and(|(_, before)| before == after);
    is_binary(after) && !same_bytes
}

/// What is found in lines that were not there before. No message repeats a secret.
fn added_lines(path: &str, change: &FileChange, policy: &Policy) -> Vec<Finding> {
    let Some((_, after)) = &change.after else { return Vec::new() };
    let before: HashSet<&[u8]> =
        change.before.iter().flat_map(|(_, bytes)| bytes.split(|byte| *byte == b'\n')).collect();
    let lines = || after.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !before.contains(line));
    let secrets = lines().flat_map(|(at, line)| secrets::find(line).into_iter().map(move |secret| (at + 1, secret)));
    let mut found: Vec<Finding> = secrets
        .map(|(line, secret)| {
            let what = format!(
                "Line {line} of `{path}` holds what looks like {} (`{}…`, {} characters).",
                secret.what, secret.start, secret.length
            );
            let mend = "Keep secrets out of the repository and read them from the environment; if it is a real one, replace it where it was issued.";
            policy.finding(Rule::Secret, Some(path), what, mend)
        })
        .collect();
    if !is_binary(after) {
        found.extend(hidden::in_lines(path, lines(), policy));
    }
    found
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;
