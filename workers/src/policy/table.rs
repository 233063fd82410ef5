//! `[policy]` as it is written, by an operator and by a repository, and the one policy that the two make.
//!
//! The repository says what it wants; what the operator locked it can only make stricter. Nothing here can loosen by
//! mistake: an action that nobody knows blocks, and a lock counts against every way of saying less.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use sha2::{Digest as _, Sha256};
use tasks::Action;

use super::rules::{BUILD_FILES, LIMIT_KEYS, PROTECTED, Rule, WORKFLOWS};
use crate::{
    repo_config::{PathGlob, Size, Unprotect, in_range},
    toml_problem::did_you_mean,
};

/// What follows from a rule, as it is written: "block", "ask" or "note". Any other word blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionValue {
    action: Action,
    /// The word, where nobody knows it.
    unknown: Option<String>,
}

impl From<Action> for ActionValue {
    fn from(action: Action) -> Self {
        Self { action, unknown: None }
    }
}

impl<'de> Deserialize<'de> for ActionValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        Ok(match value.as_str().and_then(Action::from_word) {
            Some(action) => action.into(),
            None => {
                let word: String = value.to_string().trim_matches('"').chars().take(40).collect();
                Self { action: Action::Block, unknown: Some(word) }
            }
        })
    }
}

impl JsonSchema for ActionValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Action".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": ["block", "ask", "note"] })
    }
    fn inline_schema() -> bool {
        true
    }
}

/// `binaries`: an action; true means note, and false means block.
fn binaries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ActionValue>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Allowed(bool),
        Action(ActionValue),
    }
    Ok(Some(match Value::deserialize(deserializer)? {
        Value::Allowed(true) => Action::Note.into(),
        Value::Allowed(false) => Action::Block.into(),
        Value::Action(action) => action,
    }))
}

/// Only for the schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[expect(dead_code, reason = "describes the schema of a value that is read by hand")]
enum Binaries {
    Allowed(bool),
    Action(ActionValue),
}

/// What a change may touch. Each rule ends in "block" (no pull request), "ask" (a draft, and the reviewers are asked) or
/// "note" (the pull request says so). Any other word blocks.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PolicyTable")]
pub struct PolicyTable {
    /// Globs that no change may touch, beyond those that are protected in every repository.
    #[serde(default)]
    pub protected: Vec<PathGlob>,
    /// Globs to take away from those that are protected in every repository, each written exactly as it stands there.
    #[serde(default)]
    pub unprotect: Vec<Unprotect>,
    /// When not empty: the globs outside of which no change may touch anything.
    #[serde(default)]
    pub allowed: Vec<PathGlob>,
    /// The most files in one change. Default 100.
    #[serde(default, deserialize_with = "in_range::<_, 1, 10_000>")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_files: Option<u64>,
    /// The most bytes in the changed files together, as they are after the change. Default "4MiB".
    pub max_bytes: Option<Size>,
    /// Logins that are asked to look at what a rule with "ask" found.
    pub reviewers: Option<Vec<String>>,
    /// More than `max_files` or `max_bytes`. Default "block".
    pub size: Option<ActionValue>,
    /// A protected file. Default "block".
    pub protected_paths: Option<ActionValue>,
    /// A workflow, or another file that a CI system runs. Default "block".
    pub workflows: Option<ActionValue>,
    /// A lock file, a manifest or a build script. Default "ask".
    pub build_files: Option<ActionValue>,
    /// A file outside of `allowed`. Default "block".
    pub allowed_paths: Option<ActionValue>,
    /// A binary file that is added or changed. True means "note". Default "block".
    #[serde(default, deserialize_with = "binaries")]
    #[schemars(with = "Option<Binaries>")]
    pub binaries: Option<ActionValue>,
    /// A link that leaves the tree. Default "block".
    pub symlinks: Option<ActionValue>,
    /// What looks like a credential. Default "block".
    pub secrets: Option<ActionValue>,
    /// A dependency that was not there before. Default "ask".
    pub new_dependencies: Option<ActionValue>,
    /// Characters that show other text than a compiler reads. Default "ask".
    pub hidden_characters: Option<ActionValue>,
    /// A new test that passes without the change too. Default "ask".
    pub vacuous_tests: Option<ActionValue>,
    /// A test that was changed until it passed without the change too. Default "ask".
    pub loosened_tests: Option<ActionValue>,
    /// A test that is gone. Default "ask".
    pub deleted_tests: Option<ActionValue>,
    /// A test that ran before and is skipped now. Default "ask".
    pub skipped_tests: Option<ActionValue>,
    /// The change belongs to a higher tier than the agent worked under. Default "note".
    pub tier_rises: Option<ActionValue>,
}

impl PolicyTable {
    fn value(&self, rule: Rule) -> Option<&ActionValue> {
        match rule {
            Rule::MaxFiles | Rule::MaxBytes => self.size.as_ref(),
            Rule::ProtectedPath => self.protected_paths.as_ref(),
            Rule::Workflow => self.workflows.as_ref(),
            Rule::BuildFile => self.build_files.as_ref(),
            Rule::NotAllowedPath => self.allowed_paths.as_ref(),
            Rule::Binary => self.binaries.as_ref(),
            Rule::SymlinkEscape => self.symlinks.as_ref(),
            Rule::Secret => self.secrets.as_ref(),
            Rule::NewDependency => self.new_dependencies.as_ref(),
            Rule::HiddenCharacters => self.hidden_characters.as_ref(),
            Rule::VacuousTest => self.vacuous_tests.as_ref(),
            Rule::LoosenedTest => self.loosened_tests.as_ref(),
            Rule::DeletedTest => self.deleted_tests.as_ref(),
            Rule::SkippedTest => self.skipped_tests.as_ref(),
            Rule::TierRose => self.tier_rises.as_ref(),
        }
    }
}

/// What the operator says, over all repositories.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct OperatorPolicy {
    /// Keys of `[policy]` that a repository can only make stricter.
    #[serde(default)]
    pub locked: Vec<LockedKey>,
    /// What holds where a repository says nothing.
    #[serde(flatten)]
    pub table: PolicyTable,
}

/// A key of `[policy]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockedKey(String);

impl LockedKey {
    /// The key of that name.
    ///
    /// # Errors
    /// One sentence, with the nearest name.
    pub fn new(key: &str) -> Result<Self, String> {
        let known: Vec<&str> = Rule::ALL.iter().map(|rule| rule.key()).chain(LIMIT_KEYS.iter().copied()).collect();
        if known.contains(&key) {
            return Ok(Self(key.to_owned()));
        }
        let hint = did_you_mean(key, &known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        Err(format!("{key:?} is no key of [policy] that can be locked{hint}"))
    }
}

impl<'de> Deserialize<'de> for LockedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// What a patch may touch: what the operator and the base branch say together.
#[derive(Debug, Clone)]
pub struct Policy {
    actions: BTreeMap<Rule, ActionValue>,
    locked: BTreeSet<LockedKey>,
    /// Globs that no patch may touch, workflows left out.
    pub protected: Vec<String>,
    /// Globs of what CI systems run.
    pub workflows: Vec<String>,
    /// Globs of lock files, manifests and build scripts.
    pub build_files: Vec<String>,
    /// Lists of globs; a file has to be in each of them.
    pub allowed: Vec<Vec<String>>,
    /// Files.
    pub max_files: usize,
    /// Bytes of all new contents.
    pub max_bytes: u64,
    /// Who is asked about findings that ask.
    pub reviewers: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::of(&OperatorPolicy::default(), &PolicyTable::default())
    }
}

impl Policy {
    /// The policy of a repository under an operator.
    pub fn of(operator: &OperatorPolicy, repo: &PolicyTable) -> Self {
        let locked: BTreeSet<LockedKey> = operator.locked.iter().cloned().collect();
        let is_locked = |key: &str| locked.iter().any(|known| known.0 == key);
        let above = &operator.table;
        let action = |rule: Rule| {
            let floor = above.value(rule).cloned().unwrap_or_else(|| rule.default_action().into());
            let wanted = repo.value(rule).cloned().unwrap_or_else(|| floor.clone());
            let loosens = wanted.action < floor.action;
            (rule, if is_locked(rule.key()) && loosens { floor } else { wanted })
        };
        // The lists of a rule whose action is locked are locked with it, or the lock would hold nothing.
        let keeps = |key: &str, list: &str| is_locked(key) || is_locked(list);
        let gone = |glob: &str| repo.unprotect.iter().any(|gone| gone.0 == glob);
        let kept = |globs: &[&str], locked: bool| -> Vec<String> {
            globs.iter().filter(|glob| locked || !gone(glob)).map(|glob| (*glob).to_owned()).collect()
        };
        let mut protected = kept(PROTECTED, keeps("protected_paths", "protected"));
        protected.extend(above.protected.iter().chain(&repo.protected).map(|glob| glob.0.clone()));
        let (workflows, build_files) =
            (kept(WORKFLOWS, keeps("workflows", "protected")), kept(BUILD_FILES, keeps("build_files", "protected")));

        let list = |globs: &[PathGlob]| globs.iter().map(|glob| glob.0.clone()).collect::<Vec<_>>();
        let allowed = match (list(&above.allowed), list(&repo.allowed), keeps("allowed_paths", "allowed")) {
            (above, repo, true) => vec![above, repo],
            (above, repo, false) if repo.is_empty() => vec![above],
            (_, repo, false) => vec![repo],
        };
        let smaller = |above: u64, repo: Option<u64>, key: &str| match repo {
            Some(repo) if keeps("size", key) => repo.min(above),
            Some(repo) => repo,
            None => above,
        };
        let max_files = smaller(above.max_files.unwrap_or(100), repo.max_files, "max_files");
        let max_bytes = smaller(
            above.max_bytes.as_ref().map_or(4 << 20, |size| size.0),
            repo.max_bytes.as_ref().map(|size| size.0),
            "max_bytes",
        );
        let own = above.reviewers.clone().unwrap_or_default();
        let reviewers = match &repo.reviewers {
            Some(repo) if is_locked("reviewers") => own.iter().chain(repo).cloned().collect(),
            Some(repo) => repo.clone(),
            None => own,
        };
        Self {
            actions: Rule::ALL.iter().map(|rule| action(*rule)).collect(),
            locked,
            protected,
            workflows,
            build_files,
            allowed: allowed.into_iter().filter(|list| !list.is_empty()).collect(),
            max_files: usize::try_from(max_files).unwrap_or(usize::MAX),
            max_bytes,
            reviewers,
        }
    }

    /// What follows from a finding of that rule.
    pub fn action(&self, rule: Rule) -> Action {
        // A rule without a line could only be a defect, and then it blocks.
        self.actions.get(&rule).map_or(Action::Block, |value| value.action)
    }

    /// The word that stands for that rule's action and that nobody knows.
    pub fn unknown_word(&self, rule: Rule) -> Option<&str> {
        self.actions.get(&rule)?.unknown.as_deref()
    }

    /// The globs that no patch may touch, as an agent is told.
    pub fn forbidden(&self) -> impl Iterator<Item = &str> {
        let lists = [
            (Rule::ProtectedPath, &self.protected),
            (Rule::Workflow, &self.workflows),
            (Rule::BuildFile, &self.build_files),
        ];
        let blocking = lists.into_iter().filter(|(rule, _)| self.action(*rule) == Action::Block);
        blocking.flat_map(|(_, globs)| globs).map(String::as_str)
    }

    /// Whether the operator locked that key.
    pub fn is_locked(&self, key: &str) -> bool {
        self.locked.iter().any(|known| known.0 == key)
    }

    /// SHA-256 over everything that decides, hexadecimal: two patches with the same digest were held against the same policy.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new_with_prefix(b"onramp policy 1\n");
        let mut line =
            |name: &str, value: &str| digest.update(format!("{}:{name}={}:{value}\n", name.len(), value.len()));
        for (rule, value) in &self.actions {
            line(rule.word(), value.action.word());
        }
        let lists =
            [("protected", &self.protected), ("workflows", &self.workflows), ("build_files", &self.build_files)];
        for (name, globs) in lists.into_iter().chain(self.allowed.iter().map(|list| ("allowed", list))) {
            line(name, "");
            globs.iter().for_each(|glob| line("glob", glob));
        }
        line("max_files", &self.max_files.to_string());
        line("max_bytes", &self.max_bytes.to_string());
        hex::encode(digest.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> PolicyTable {
        toml::from_str(text).unwrap()
    }

    fn operator(text: &str) -> OperatorPolicy {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_repository_may_loosen_what_is_not_locked_and_only_tighten_what_is() {
        let loose = table("secrets = \"note\"\nmax_files = 500\nmax_bytes = \"1KiB\"\nbuild_files = \"block\"");
        let free = Policy::of(&OperatorPolicy::default(), &loose);
        assert_eq!((free.action(Rule::Secret), free.max_files, free.max_bytes), (Action::Note, 500, 1024));
        let held =
            Policy::of(&operator("locked = [\"secrets\", \"size\", \"build_files\"]\nbuild_files = \"note\""), &loose);
        assert_eq!((held.action(Rule::Secret), held.max_files, held.max_bytes), (Action::Block, 100, 1024));
        assert_eq!(held.action(Rule::BuildFile), Action::Block, "stricter is always possible");
        assert!(held.is_locked("secrets") && !held.is_locked("binaries"));
    }

    #[test]
    fn a_locked_list_can_grow_and_a_locked_fence_can_only_get_narrower() {
        let repo = table("unprotect = [\"CODEOWNERS\", \".travis.yml\"]\nprotected = [\"db/**\"]\nallowed = [\"**\"]");
        let free = Policy::of(&operator("protected = [\"ops/**\"]\nallowed = [\"src/**\"]"), &repo);
        assert!(
            !free.protected.contains(&"CODEOWNERS".to_owned()) && !free.workflows.contains(&".travis.yml".to_owned())
        );
        assert!(["ops/**", "db/**"].iter().all(|glob| free.protected.iter().any(|known| known == glob)));
        assert_eq!(free.allowed, [["**"]]);
        let held = operator(
            "locked = [\"protected_paths\", \"protected\", \"allowed\", \"reviewers\"]\nallowed = [\"src/**\"]\nreviewers = [\"eve\"]",
        );
        let held = Policy::of(&held, &PolicyTable { reviewers: Some(vec!["ada".into()]), ..repo });
        assert!(
            held.protected.contains(&"CODEOWNERS".to_owned()) && held.workflows.contains(&".travis.yml".to_owned())
        );
        assert_eq!(held.allowed, [["src/**"], ["**"]], "a file has to be in both");
        assert_eq!(held.reviewers, ["eve", "ada"]);
    }

    #[test]
    fn a_word_that_nobody_knows_blocks_and_is_remembered() {
        for text in
            ["vacuous_tests = \"warn\"", "vacuous_tests = true", "vacuous_tests = \"\"", "vacuous_tests = \"Note\""]
        {
            let policy = Policy::of(&OperatorPolicy::default(), &table(text));
            assert_eq!(policy.action(Rule::VacuousTest), Action::Block, "{text}");
            assert!(policy.unknown_word(Rule::VacuousTest).is_some(), "{text}");
        }
        let policy = Policy::of(&operator("vacuous_tests = \"allow\""), &PolicyTable::default());
        assert_eq!(policy.action(Rule::VacuousTest), Action::Block);
        for (text, action) in
            [("true", Action::Note), ("false", Action::Block), ("\"ask\"", Action::Ask), ("7", Action::Block)]
        {
            let policy = Policy::of(&OperatorPolicy::default(), &table(&format!("binaries = {text}")));
            assert_eq!(policy.action(Rule::Binary), action, "{text}");
        }
    }

    #[test]
    fn the_digest_changes_with_everything_that_decides() {
        let texts = [
            "",
            "secrets = \"ask\"",
            "max_files = 3",
            "max_bytes = \"3B\"",
            "protected = [\"a\"]",
            "allowed = [\"a\"]",
            "allowed = [\"a\", \"b\"]",
            "unprotect = [\"CODEOWNERS\"]",
        ];
        let digests: BTreeSet<_> =
            texts.iter().map(|text| Policy::of(&OperatorPolicy::default(), &table(text)).digest()).collect();
        assert_eq!(digests.len(), texts.len());
    }

    #[test]
    fn a_lock_on_something_else_is_refused_with_the_nearest_key() {
        let error = toml::from_str::<OperatorPolicy>("locked = [\"secret\"]").unwrap_err();
        assert!(error.message().contains("did you mean \"secrets\"?"), "{error}");
    }
}
