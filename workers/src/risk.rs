//! The tier of risk that a change belongs to: first by who asked and where, then by what it really touches.
//!
//! It only rises, and everything that a tier says only makes stricter: terms of a lower tier that were applied stay, so
//! that no change gets more room by looking more dangerous.

use std::collections::BTreeSet;

use tasks::{Code, Failure, Finding, RiskTier};

use crate::{
    patch::FileChange,
    policy::{Policy, Rule},
    repo_config::{Draft, FILE_NAME, RepoConfig, Terms, Tier, glob},
};

/// Reasons that are kept.
const MAX_REASONS: usize = 5;

/// The risk of one attempt.
#[derive(Debug, Clone, Default)]
pub struct Risk {
    tiers: Vec<Tier>,
    /// The place of the tier among all; `None`: below all of them.
    level: Option<usize>,
    because: Vec<String>,
    approvals: u32,
    /// What the agent worked under, when that was a lower tier.
    worked_under: Option<Option<usize>>,
}

impl Risk {
    /// What is known before anything was done. `login`: who asked; `labels`: those of the issue, as the forge tells them.
    pub fn declared(tiers: &[Tier], login: &str, labels: &[String]) -> Self {
        let mut risk = Self { tiers: tiers.to_vec(), ..Self::default() };
        for level in 0..risk.tiers.len() {
            let tier = &risk.tiers[level];
            let among = |list: &[String], word: &str| list.iter().any(|known| known.eq_ignore_ascii_case(word));
            let by_label = labels.iter().filter(|label| among(&tier.labels, label));
            let mut because: Vec<String> = by_label.map(|label| format!("the label `{label}`")).collect();
            because.extend(among(&tier.requesters, login).then(|| format!("asked by `{login}`")));
            risk.raise(level, because);
        }
        risk
    }

    /// Whether any tier asks for the labels of the issue.
    pub fn wants_labels(tiers: &[Tier]) -> bool {
        tiers.iter().any(|tier| !tier.labels.is_empty())
    }

    /// Takes in what a change touches. True: the tier rose.
    pub fn see(&mut self, changes: &[FileChange], n_lines: u64) -> bool {
        let before = self.level;
        let paths: Vec<_> = changes.iter().map(|change| String::from_utf8_lossy(&change.path).into_owned()).collect();
        for level in 0..self.tiers.len() {
            let tier = &self.tiers[level];
            let mut because = Vec::new();
            for pattern in &tier.paths {
                // A glob that cannot be read fits everything rather than nothing.
                let glob = glob(pattern, true).ok();
                let hits = paths.iter().filter(|path| glob.as_ref().is_none_or(|glob| glob.is_match(path)));
                because.extend(hits.map(|path| format!("`{path}` is in `{pattern}`")));
            }
            let n_files = changes.len() as u64;
            because.extend(tier.min_files.filter(|min| n_files >= *min).map(|_| format!("{n_files} files")));
            because.extend(tier.min_lines.filter(|min| n_lines >= *min).map(|_| format!("{n_lines} lines")));
            self.raise(level, because);
        }
        if self.level > before && self.worked_under.is_none() {
            self.worked_under = Some(before);
        }
        self.level > before
    }

    /// To that tier, when it is not below the one of now.
    fn raise(&mut self, level: usize, because: Vec<String>) {
        if because.is_empty() || Some(level) < self.level {
            return;
        }
        if Some(level) > self.level {
            self.because.clear();
            self.level = Some(level);
        }
        for reason in because {
            if self.because.len() < MAX_REASONS && !self.because.contains(&reason) {
                self.because.push(reason);
            }
        }
        self.approvals = self.approvals.max(self.tiers[level].terms.approvals);
    }

    fn name(&self, level: Option<usize>) -> Option<&str> {
        Some(self.tiers.get(level?)?.name.as_str())
    }

    /// The tier of now, for people and for the evidence.
    pub fn told(&self) -> Option<RiskTier> {
        let name = self.name(self.level)?.to_owned();
        Some(RiskTier { name, because: self.because.clone(), approvals: self.approvals })
    }

    /// Makes the configuration as strict as the tier of now wants it.
    ///
    /// # Errors
    /// E007 when the tier requires a check that there is not.
    pub fn govern(&self, config: &mut RepoConfig) -> Result<(), Failure> {
        let Some(tier) = self.level.and_then(|level| self.tiers.get(level)) else { return Ok(()) };
        tier.terms.hold(config).map_err(|missing| {
            let name = &tier.name;
            let message =
                format!("The tier of risk `{name}` requires the check `{missing}`, which does not exist here");
            Failure::new(Code::BadRepoConfig, message)
                .next(format!("Add a [[check]] of that name to `{FILE_NAME}` on the base branch."))
        })
    }

    /// What a reviewer has to know: the agent worked under the terms of a lower tier.
    pub fn findings(&self, policy: &Policy) -> Option<Finding> {
        let (now, under) = (self.name(self.level)?, self.worked_under?);
        let under = self.name(under).map_or("no tier of risk".to_owned(), |name| format!("the tier `{name}`"));
        let what = format!(
            "The change belongs to the tier `{now}` ({}), and the agent had worked under {under}: what the higher tier says of \
             agent, model, network and GPU came too late for it.",
            self.because.join(", ")
        );
        let mend = "Label the issue so that the tier holds from the start, and ask again.";
        Some(policy.finding(Rule::TierRose, None, what, mend))
    }
}

impl Terms {
    /// Makes a configuration as strict as this; never looser.
    ///
    /// # Errors
    /// The name of a required check that there is not.
    fn hold(&self, config: &mut RepoConfig) -> Result<(), String> {
        for required in &self.require {
            let check =
                config.checks.iter_mut().find(|check| check.name == *required).ok_or_else(|| required.clone())?;
            check.required = true;
        }
        for extra in &self.checks {
            match config.checks.iter_mut().find(|check| check.name == extra.name) {
                Some(known) => known.required |= extra.required,
                None => config.checks.push(extra.clone()),
            }
        }
        let limits = &mut config.limits;
        limits.rounds = self.rounds.map_or(limits.rounds, |rounds| rounds.min(limits.rounds));
        limits.time = self.time.map_or(limits.time, |time| time.min(limits.time));
        limits.budget = match (limits.budget, self.budget) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        if self.draft {
            config.pull_request.draft = Draft::Always;
        }
        for login in &self.reviewers {
            if !config.pull_request.reviewers.contains(login) {
                config.pull_request.reviewers.push(login.clone());
            }
        }
        if let Some(hosts) = &self.network {
            let network = &mut config.network;
            for list in [&mut network.allow, &mut network.setup, &mut network.checks] {
                *list = both(list, hosts);
            }
        }
        config.environment.agent_gpu &= self.gpu;
        config.agent = self.agent.clone().or(config.agent.take());
        config.model = self.model.clone().or(config.model.take());
        Ok(())
    }
}

/// The hosts that both lists allow.
fn both(one: &[String], other: &[String]) -> Vec<String> {
    let covers = |wide: &str, host: &str| wide == host || (wide.starts_with('.') && host.ends_with(wide));
    let within = |hosts: &[String], list: &[String]| -> Vec<String> {
        hosts.iter().filter(|host| list.iter().any(|wide| covers(wide, host))).cloned().collect()
    };
    let all: BTreeSet<String> = within(one, other).into_iter().chain(within(other, one)).collect();
    all.into_iter().collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sandbox::FileKind;

    const TIERS: &str = r#"
version = 1
[[check]]
name = "test"
command = "true"
[[check]]
name = "lint"
command = "true"
required = false
[network]
allow = ["a.example", ".b.example", "c.example"]
[pull_request]
reviewers = ["ada"]
[[tier]]
name = "low"
paths = ["docs/**"]
rounds = 1
[[tier]]
name = "middle"
min_files = 3
requesters = ["Eve"]
require = ["lint"]
budget = "3"
[[tier]]
name = "high"
paths = ["src/auth/**", "**/*.sql"]
labels = ["security"]
min_lines = 500
rounds = 9
time = "10m"
draft = true
reviewers = ["ada", "grace"]
approvals = 2
network = ["x.b.example", "a.example", "z.example"]
gpu = false
agent = "codex"
model = "big"
budget = "1.50"
[[tier.check]]
name = "audit"
command = "cargo audit"
"#;

    fn config() -> RepoConfig {
        RepoConfig::load(Some(TIERS.as_bytes()), &[]).unwrap()
    }

    pub(crate) fn task(login: &str) -> tasks::Task {
        let request = tasks::TaskRequest {
            dedupe_key: "test:1".parse().unwrap(),
            source: tasks::Source::CommandLine,
            actor: tasks::Actor { login: login.to_owned(), id: Some(7) },
            repo: "acme/web".parse().unwrap(),
            base: None,
            agent: None,
            instruction: tasks::Instruction {
                title: "Mend it".into(),
                body: String::new(),
                trusted: false,
                about: String::new(),
            },
            deliver: tasks::Deliver::PullRequest,
            resources: tasks::Resources::default(),
            revises: None,
            work: tasks::Work::default(),
            discussed_until: None,
        };
        tasks::Task::new(tasks::TaskId::from_bytes([1; 16]), request, tasks::Timestamp::UNIX_EPOCH)
    }

    fn touches(paths: &[&str]) -> Vec<FileChange> {
        let change = |path: &&str| FileChange {
            path: path.as_bytes().to_vec(),
            before: None,
            after: Some((FileKind::Regular, b"x\n".to_vec())),
        };
        paths.iter().map(change).collect()
    }

    fn name(risk: &Risk) -> String {
        risk.told().map(|told| format!("{}: {}", told.name, told.because.join(", "))).unwrap_or_default()
    }

    #[test]
    fn the_highest_rule_that_fits_decides_and_is_told() {
        let tiers = config().tiers;
        let labels = |list: &[&str]| list.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        for (login, declared, paths, n_lines, wanted) in [
            ("ada", vec![], vec!["README.md"], 3, ""),
            ("ada", vec![], vec!["docs/a.md"], 3, "low: `docs/a.md` is in `docs/**`"),
            ("eve", vec![], vec!["docs/a.md"], 3, "middle: asked by `eve`"),
            ("ada", vec![], vec!["a", "b", "c"], 3, "middle: 3 files"),
            ("ada", labels(&["Security"]), vec!["docs/a.md"], 3, "high: the label `Security`"),
            ("ada", vec![], vec!["db/1.SQL"], 3, "high: `db/1.SQL` is in `**/*.sql`"),
            ("ada", vec![], vec!["a"], 500, "high: 500 lines"),
        ] {
            let mut risk = Risk::declared(&tiers, login, &declared);
            risk.see(&touches(&paths), n_lines);
            assert_eq!(name(&risk), wanted);
        }
    }

    #[test]
    fn a_tier_never_falls_and_whoever_worked_under_a_lower_one_is_told() {
        let mut risk = Risk::declared(&config().tiers, "eve", &[]);
        assert!(!risk.see(&touches(&["README.md"]), 1));
        assert!(risk.findings(&Policy::default()).is_none());
        assert!(risk.see(&touches(&["src/auth/login.rs"]), 1));
        assert!(!risk.see(&touches(&["README.md"]), 1), "the second round touches less");
        assert_eq!(name(&risk), "high: `src/auth/login.rs` is in `src/auth/**`");
        let finding = risk.findings(&Policy::default()).unwrap();
        assert!(finding.message.contains("the tier `middle`"), "{}", finding.message);
    }

    #[test]
    fn what_a_tier_says_makes_stricter_and_nothing_looser() {
        let mut config = config();
        config.environment.agent_gpu = true;
        let mut risk = Risk::declared(&config.tiers, "eve", &[]);
        risk.govern(&mut config).unwrap();
        assert!(config.checks.iter().all(|check| check.required) && config.checks.len() == 2);
        assert_eq!((config.limits.rounds, config.limits.budget.unwrap().to_string()), (3, "$3.00".to_owned()));
        risk.see(&touches(&["src/auth/x"]), 1);
        risk.govern(&mut config).unwrap();
        risk.govern(&mut config).unwrap();
        let names: Vec<_> = config.checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names, ["test", "lint", "audit"], "once, however often it is said");
        assert_eq!((config.limits.rounds, config.limits.time.as_secs()), (3, 600), "9 rounds are no reason for more");
        assert_eq!(config.limits.budget.unwrap().to_string(), "$1.50");
        assert_eq!(config.network.allow, ["a.example", "x.b.example"]);
        assert_eq!(config.pull_request.reviewers, ["ada", "grace"]);
        assert_eq!((config.pull_request.draft, config.environment.agent_gpu), (Draft::Always, false));
        assert_eq!((config.agent.unwrap().as_str(), config.model.as_deref()), ("codex", Some("big")));
        assert_eq!(risk.told().unwrap().approvals, 2);
    }

    #[test]
    fn an_operators_tier_stands_above_those_of_the_repository_and_fails_closed() {
        let table = "[[tier]]\nname = \"house\"\npaths = [\"**\"]\nrequire = [\"scan\"]\n";
        #[derive(serde::Deserialize)]
        struct File {
            tier: Vec<crate::repo_config::TierTable>,
        }
        let file: File = toml::from_str(table).unwrap();
        let operator = crate::repo_config::Operator {
            tiers: crate::repo_config::operator_tiers(&file.tier).unwrap(),
            ..Default::default()
        };
        let mut config = config().under(&operator);
        let mut risk = Risk::declared(&config.tiers, "ada", &[]);
        risk.see(&touches(&["src/auth/x"]), 1);
        assert_eq!(risk.told().unwrap().name, "house");
        let failure = risk.govern(&mut config).unwrap_err();
        assert!(failure.message.contains("requires the check `scan`"), "{failure}");
    }
}
