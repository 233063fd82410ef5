//! What is stated: an in-toto statement with SLSA's provenance, and what Onramp verified beside it.

use std::{collections::BTreeMap, io::Read as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tasks::{
    CheckOutcome, CommitSha, EgressRecord, Finding, Proof, RiskTier, Source, TestVerdict, Timestamp, TokenUsage,
    TreeSha,
};

use super::{Facts, check::Broken};
use crate::artifacts::Artifacts;

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// How a change comes about, as this program does it.
const BUILD_TYPE: &str = "urn:onramp:change:1";
/// Artifacts that are named.
const MAX_BYPRODUCTS: usize = 500;

/// Digests by the name of their algorithm.
type Digests = BTreeMap<String, String>;

/// The statement.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    pub(super) subject: Vec<Resource>,
    predicate_type: String,
    pub(super) predicate: Predicate,
}

/// A thing, by its digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resource {
    pub(super) name: String,
    pub(super) digest: Digests,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Predicate {
    build_definition: BuildDefinition,
    run_details: RunDetails,
    /// What SLSA has no place for.
    #[serde(rename = "onramp_verification")]
    pub(super) verification: Verification,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    external_parameters: Asked,
    internal_parameters: Chosen,
    resolved_dependencies: Vec<Resource>,
}

/// What somebody outside asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Asked {
    repository: String,
    source: Source,
    actor: String,
    actor_id: Option<u64>,
    /// SHA-256 of title and text.
    instruction: String,
}

/// What Onramp chose.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Chosen {
    agent: String,
    model: Option<String>,
    rounds: u32,
    /// SHA-256 of each prompt, by its artifact.
    prompts: Vec<Resource>,
    /// SHA-256 of the policy.
    policy: String,
    checks_from: String,
    allowed_hosts: Vec<String>,
    tier: Option<RiskTier>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunDetails {
    builder: Builder,
    metadata: Metadata,
    pub(super) byproducts: Vec<Resource>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Builder {
    id: String,
    version: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Metadata {
    invocation_id: String,
    started_on: Timestamp,
    finished_on: Timestamp,
}

/// What was verified, and on what.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Verification {
    pub(super) base: CommitSha,
    pub(super) base_tree: TreeSha,
    pub(super) head: Option<CommitSha>,
    pub(super) tree: TreeSha,
    /// SHA-256 of the canonical patch.
    pub(super) patch: String,
    pub(super) n_files: u64,
    pub(super) checks: Vec<Check>,
    tests: BTreeMap<String, u64>,
    findings: Vec<Finding>,
    sandbox: String,
    environment: String,
    blocked_hosts: Vec<String>,
    /// Everything that was asked of the world outside: hosts, models, and how much.
    egress: Option<EgressRecord>,
    usage: TokenUsage,
    /// The end of the journal when the attempt began.
    journal: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    pub(super) name: String,
    command: String,
    required: bool,
    pub(super) outcome: CheckOutcome,
    flaky: bool,
    already_failing: bool,
    duration_ms: u64,
}

impl Statement {
    /// What the facts say. Artifacts are read for their digests.
    pub(super) fn new(facts: &Facts<'_>, artifacts: &Artifacts) -> std::io::Result<Self> {
        let Facts { task, evidence, base_tree, head, policy, model, allowed_hosts, now } = *facts;
        let request = &task.request;
        let mut files = digests(artifacts)?;
        let is_prompt = |file: &Resource| file.name.starts_with("prompt-");
        let prompts: Vec<Resource> = files.iter().filter(|file| is_prompt(file)).cloned().collect();
        files.retain(|file| !is_prompt(file));
        let git = |key: &str, id: &str| (key.to_owned(), id.to_owned());
        let mut subject = BTreeMap::from([git("gitTree", evidence.tree.as_str())]);
        subject.extend(head.map(|head| git("gitCommit", head.as_str())));
        let instruction = format!("{}\n\n{}", request.instruction.title, request.instruction.body);
        let lasted = chrono::Duration::milliseconds(i64::try_from(evidence.duration_ms).unwrap_or(0));
        Ok(Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject: vec![Resource { name: request.repo.to_string(), digest: subject }],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Predicate {
                build_definition: BuildDefinition {
                    build_type: BUILD_TYPE.to_owned(),
                    external_parameters: Asked {
                        repository: request.repo.to_string(),
                        source: request.source.clone(),
                        actor: request.actor.login.clone(),
                        actor_id: request.actor.id,
                        instruction: sha256(instruction.as_bytes()),
                    },
                    internal_parameters: Chosen {
                        agent: evidence.agent.to_string(),
                        model: model.map(str::to_owned),
                        rounds: evidence.rounds,
                        prompts,
                        policy: policy.digest(),
                        checks_from: evidence.checks_from.clone(),
                        allowed_hosts: allowed_hosts.to_vec(),
                        tier: evidence.tier.clone(),
                    },
                    resolved_dependencies: vec![Resource {
                        name: format!("{}@base", request.repo),
                        digest: BTreeMap::from([
                            git("gitCommit", evidence.base.as_str()),
                            git("gitTree", base_tree.as_str()),
                        ]),
                    }],
                },
                run_details: RunDetails {
                    builder: Builder {
                        id: "urn:onramp:worker".to_owned(),
                        version: BTreeMap::from([("onramp".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
                    },
                    metadata: Metadata {
                        invocation_id: format!("{}/{}", task.id, task.attempt),
                        started_on: now - lasted,
                        finished_on: now,
                    },
                    byproducts: files,
                },
                verification: Verification {
                    base: evidence.base.clone(),
                    base_tree: base_tree.clone(),
                    head: head.cloned(),
                    tree: evidence.tree.clone(),
                    patch: evidence.patch_sha256.clone(),
                    n_files: evidence.n_files,
                    checks: evidence.checks.iter().map(check).collect(),
                    tests: evidence.proof.as_ref().map(counted).unwrap_or_default(),
                    findings: evidence.findings.clone(),
                    sandbox: evidence.sandbox.clone(),
                    environment: evidence.environment.clone(),
                    blocked_hosts: evidence.blocked_hosts.clone(),
                    egress: evidence.egress.clone(),
                    usage: evidence.usage,
                    journal: evidence.journal.as_ref().map(ToString::to_string),
                },
            },
        })
    }

    /// A statement of ours out of signed bytes.
    pub(super) fn read(payload: &[u8]) -> Result<Self, Broken> {
        let statement: Self =
            serde_json::from_slice(payload).map_err(|error| Broken::NoStatement(error.to_string()))?;
        let Self { kind, predicate_type, subject, predicate } = &statement;
        let other = |what: &str| Err(Broken::NoStatement(format!("its {what} is another one")));
        if kind != STATEMENT_TYPE {
            return other("type");
        }
        if predicate_type != PREDICATE_TYPE || predicate.build_definition.build_type != BUILD_TYPE {
            return other("predicate");
        }
        let verified = &predicate.verification;
        let [subject] = subject.as_slice() else { return other("number of subjects") };
        let tree = subject.digest.get("gitTree").map(String::as_str);
        let head = subject.digest.get("gitCommit").map(String::as_str);
        if tree != Some(verified.tree.as_str()) || head != verified.head.as_ref().map(CommitSha::as_str) {
            return Err(Broken::Subject);
        }
        Ok(statement)
    }

    pub(super) fn byproducts(&self) -> &[Resource] {
        &self.predicate.run_details.byproducts
    }

    pub(super) fn prompts(&self) -> &[Resource] {
        &self.predicate.build_definition.internal_parameters.prompts
    }

    pub(super) fn repository(&self) -> &str {
        &self.predicate.build_definition.external_parameters.repository
    }

    pub(super) fn journal(&self) -> Option<&str> {
        self.predicate.verification.journal.as_deref()
    }
}

fn check(result: &tasks::CheckResult) -> Check {
    Check {
        name: result.name.clone(),
        command: result.command.clone(),
        required: result.required,
        outcome: result.outcome.clone(),
        flaky: result.flaky,
        already_failing: result.already_failing,
        duration_ms: result.duration_ms,
    }
}

/// How many tests have which verdict.
fn counted(proof: &Proof) -> BTreeMap<String, u64> {
    let counts = TestVerdict::ALL.into_iter().map(|verdict| (verdict.word().to_owned(), proof.count(verdict) as u64));
    counts.filter(|(_, n)| *n > 0).collect()
}

/// Artifacts that are whole when the statement is made, by how their names begin.
const KEPT: &[&str] = &["prompt-", "check-", "setup-", "transcript", "diff.patch", "evidence.json"];

/// Every artifact that is whole by then, by name.
fn digests(artifacts: &Artifacts) -> std::io::Result<Vec<Resource>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(artifacts.dir())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && KEPT.iter().any(|start| name.starts_with(start)) {
            let digest = BTreeMap::from([("sha256".to_owned(), file_sha256(&entry.path())?)]);
            found.push(Resource { name, digest });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.truncate(MAX_BYPRODUCTS);
    Ok(found)
}

/// SHA-256 of a file, hexadecimal.
pub(super) fn file_sha256(path: &std::path::Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex::encode(digest.finalize())),
            n => digest.update(&piece[..n]),
        }
    }
}

/// SHA-256, hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
