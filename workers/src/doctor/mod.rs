//! Whether this machine can do what it is asked to do, and what to mend where it cannot.
//!
//! Everything that a start would refuse is found here without starting anything, and beside it what works but is weaker
//! than it should be. Facts are gathered in one place and judged in another, so that machines that nobody has can be
//! judged too.

mod engine;
mod host;

use std::fmt;

use serde::Serialize;

pub use engine::{Demands, judge_engine};
pub use host::{HostFacts, judge_gpu, judge_host};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Warn,
    /// It does not work, or must not be used so.
    Fail,
}

impl Verdict {
    /// For people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check: a word that stays the same.
    pub id: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What is the case: one sentence without a full stop.
    pub says: String,
    /// What to do, where something should be done: exact, one sentence.
    pub fix: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(id: &'static str, says: impl Into<String>) -> Self {
        Self { id, verdict: Verdict::Ok, says: says.into(), fix: None }
    }

    /// It works, and this would make it better.
    pub fn warn(id: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, verdict: Verdict::Warn, says: says.into(), fix: Some(fix.into()) }
    }

    /// It does not work until this is done.
    pub fn fail(id: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, verdict: Verdict::Fail, says: says.into(), fix: Some(fix.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  {:<14}  {}", self.verdict.word(), self.id, self.says)?;
        match &self.fix {
            Some(fix) => write!(f, "\n{:22}fix: {fix}", ""),
            None => Ok(()),
        }
    }
}

/// All findings, one below the other, and their number.
pub fn report(findings: &[Finding]) -> String {
    let mut text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    let n = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (n_warn, n_fail) = (n(Verdict::Warn), n(Verdict::Fail));
    text.push_str(&format!("{} checks: {} ok, {n_warn} to improve, {n_fail} failed\n", findings.len(), n(Verdict::Ok)));
    text
}

/// A version as far as it can be compared: the first three numbers of it.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let text = text.trim_start_matches('v');
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut numbers = text[..end].split('.').map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_out_of_what_distributions_make_of_them() {
        assert_eq!(version("1.1.5+ds1"), Some((1, 1, 5)));
        assert_eq!(version("20.10.24+dfsg1"), Some((20, 10, 24)));
        assert_eq!(version("v1.4.0-rc.2"), Some((1, 4, 0)));
        assert_eq!(version("28.2"), Some((28, 2, 0)));
        assert_eq!((version(""), version("master")), (None, None));
    }

    #[test]
    fn findings_stand_below_each_other_with_what_to_do() {
        let findings = [
            Finding::ok("engine", "Docker Engine 28.3.1 answers"),
            Finding::warn("rootless", "the engine runs as root", "use a rootless engine."),
            Finding::fail("disk", "0 GiB are free", "free some."),
        ];
        insta::assert_snapshot!(report(&findings), @r"
        ok    engine          Docker Engine 28.3.1 answers
        warn  rootless        the engine runs as root
                              fix: use a rootless engine.
        fail  disk            0 GiB are free
                              fix: free some.
        3 checks: 1 ok, 1 to improve, 1 failed
        ");
    }
}
