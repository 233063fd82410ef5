use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tasks::{Action, CheckOutcome, CheckResult, Finding, TaskId, TokenUsage};

use super::*;
use crate::{
    checkout::fixture::Scratch,
    patch::{Patch, PatchEntry},
    sandbox::{FileKind, TreeFile},
};

fn evidence(base: &CommitSha, tree: &TreeSha, patch: &str) -> Evidence {
    let check = |name: &str, outcome| CheckResult {
        name: name.into(),
        command: "true".into(),
        required: true,
        outcome,
        limits: vec![],
        duration_ms: 5,
        flaky: false,
        already_failing: false,
        changed: vec![],
        tests: None,
        output_tail: "not part of it".into(),
    };
    let note = |path: &str| Finding {
        rule: "build_file".into(),
        action: Action::Ask,
        path: Some(path.into()),
        message: "It decides what is run by a build.".into(),
    };
    Evidence {
        base: base.clone(),
        tree: tree.clone(),
        patch_sha256: patch.to_owned(),
        n_files: 1,
        n_added: 1,
        n_removed: 1,
        checks: vec![check("test", CheckOutcome::Passed), check("lint", CheckOutcome::Failed { exit_code: 2 })],
        checks_from: ".onramp.toml".into(),
        agent: "claude".parse().unwrap(),
        rounds: 1,
        usage: TokenUsage { input: Some(1), output: Some(2), cost_microusd: None },
        claimed: None,
        egress: None,
        sandbox: "docker".into(),
        environment: "rust:1.91@sha256:0011".into(),
        blocked_hosts: vec!["a.example".into(), "b.example".into()],
        gpu: None,
        journal: None,
        proof: None,
        findings: vec![note("Makefile"), note("build.rs")],
        tier: None,
        bundle: None,
        duration_ms: 1000,
    }
}

/// A repository with a base and a commit on it, the key, and the statement about the two.
struct Rig {
    scratch: Scratch,
    artifacts: Artifacts,
    key: PublicKey,
    text: String,
}

impl Rig {
    async fn new() -> Self {
        Self::stating(None).await
    }

    /// A statement about a tree that the commit does not have, where one is given.
    async fn stating(other_tree: Option<&str>) -> Self {
        let scratch = Scratch::with(&[("a.txt", "1\n"), ("b.txt", "1\n")]);
        let base: CommitSha = scratch.git(&["rev-parse", "HEAD"]).parse().unwrap();
        scratch.write("a.txt", b"2\n");
        let head: CommitSha = scratch.commit("Second").parse().unwrap();
        let tree =
            |of: &CommitSha| -> TreeSha { scratch.git(&["rev-parse", &format!("{of}^{{tree}}")]).parse().unwrap() };
        let patch = Patch::new(
            base.clone(),
            vec![PatchEntry::Write(TreeFile {
                path: b"a.txt".to_vec(),
                kind: FileKind::Regular,
                bytes: b"2\n".to_vec(),
            })],
        );
        let stated = other_tree.map_or_else(|| tree(&head), |other| other.parse().unwrap());
        let evidence = evidence(&base, &stated, &patch.unwrap().sha256());
        let signer = Signer::open(None, scratch.dir.path()).unwrap();
        let task = crate::risk::tests::task("ada");
        let artifacts = Artifacts::open(&scratch.dir.path().join("artifacts"), TaskId::from_bytes([1; 16]), 1).unwrap();
        artifacts.write("prompt-1.md", b"Mend it.").unwrap();
        artifacts.write("check-1-test.log", b"ok\n").unwrap();
        let facts = Facts {
            task: &task,
            evidence: &evidence,
            base_tree: &tree(&base),
            head: Some(&head),
            policy: &Policy::default(),
            model: None,
            allowed_hosts: &["c.example".to_owned(), "d.example".to_owned()],
            now: Timestamp::UNIX_EPOCH,
        };
        let bundle = Bundle::seal(&signer, &artifacts, &facts).unwrap();
        Self { key: signer.public_key(), text: bundle.text, artifacts, scratch }
    }

    fn broken(&self, text: &[u8]) -> Broken {
        match read(text, &self.key) {
            Err(broken) => broken,
            Ok(_) => panic!("a changed statement holds: {}", String::from_utf8_lossy(text)),
        }
    }
}

#[tokio::test]
async fn a_statement_holds_against_its_key_its_artifacts_and_the_repository() {
    let rig = Rig::new().await;
    let mut report = read(rig.text.as_bytes(), &rig.key).unwrap();
    report.hold_against_artifacts(rig.artifacts.dir()).unwrap();
    report.hold_against_repository(&rig.scratch.path()).unwrap();
    assert_eq!(report.held.len(), 6, "{:#?}", report.held);
    assert_eq!(report.not_at_hand, [""; 0]);
    let in_prose = format!("Fixes #1\r\n\r\n```json\r\n{}\r\n```\r\n", rig.text.trim_end());
    read(in_prose.as_bytes(), &rig.key).unwrap();
}

#[tokio::test]
async fn not_one_byte_can_be_changed() {
    let rig = Rig::new().await;
    let text = rig.text.as_bytes();
    let mut names = std::collections::BTreeSet::new();
    for at in 0..text.len() {
        // The lowest bit, and the one between upper and lower case.
        for bit in [0x01, 0x20] {
            let mut changed = text.to_vec();
            changed[at] ^= bit;
            names.insert(rig.broken(&changed).name());
        }
        names.insert(rig.broken(&[&text[..at], &text[at + 1..]].concat()).name());
    }
    for needed in ["no_envelope", "payload_type", "bad_signature", "other_key"] {
        assert!(names.contains(needed), "{names:?}");
    }
    assert_eq!(rig.broken(&[text, b" "].concat()).name(), "not_canonical");
    assert_eq!(rig.broken(&text[..text.len() - 1]).name(), "not_canonical");
}

/// Every way to drop an element of a list or a key of an object somewhere below, and to swap two neighbours.
fn variants(value: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::Array(items) => {
            for at in 0..items.len() {
                let mut fewer = items.clone();
                fewer.remove(at);
                all.push(Value::Array(fewer));
                if at + 1 < items.len() && items[at] != items[at + 1] {
                    let mut other = items.clone();
                    other.swap(at, at + 1);
                    all.push(Value::Array(other));
                }
                all.extend(variants(&items[at]).into_iter().map(|variant| {
                    let mut with = items.clone();
                    with[at] = variant;
                    Value::Array(with)
                }));
            }
        }
        Value::Object(map) => {
            for key in map.keys() {
                let mut fewer = map.clone();
                fewer.remove(key);
                all.push(Value::Object(fewer));
                all.extend(variants(&map[key]).into_iter().map(|variant| {
                    let mut with = map.clone();
                    with.insert(key.clone(), variant);
                    Value::Object(with)
                }));
            }
        }
        _ => {}
    }
    all
}

#[tokio::test]
async fn nothing_can_be_dropped_or_moved() {
    let rig = Rig::new().await;
    let envelope: Value = serde_json::from_str(&rig.text).unwrap();
    let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    let with = |payload: &[u8]| {
        let text = rig.text.replace(envelope["payload"].as_str().unwrap(), &STANDARD.encode(payload));
        rig.broken(text.as_bytes())
    };
    let all = variants(&statement);
    assert!(all.len() > 100, "{}", all.len());
    for variant in all {
        assert_eq!(with(&serde_json::to_vec(&variant).unwrap()), Broken::BadSignature);
    }
    for (what, changed) in [
        ("no_envelope", serde_json::json!({"payload": "", "signatures": []})),
        (
            "signatures",
            serde_json::json!({"payloadType": "application/vnd.in-toto+json", "payload": "", "signatures": []}),
        ),
    ] {
        let mut text = serde_json::to_string(&changed).unwrap();
        if what == "signatures" {
            text = "{\"payloadType\":\"application/vnd.in-toto+json\",\"payload\":\"\",\"signatures\":[]}\n".to_owned();
        }
        assert_eq!(rig.broken(text.as_bytes()).name(), what);
    }
}

#[tokio::test]
async fn a_commit_with_another_tree_than_the_tested_one_is_told() {
    // Signed by the right key, and still not true of the repository.
    let rig = Rig::stating(Some("4b825dc642cb6eb9a060e54bf8d69288fbee4904")).await;
    let mut report = read(rig.text.as_bytes(), &rig.key).unwrap();
    assert_eq!(report.hold_against_repository(&rig.scratch.path()).unwrap_err().name(), "tree");
}

#[tokio::test]
async fn another_key_another_repository_and_another_artifact_are_each_told_by_name() {
    let rig = Rig::new().await;
    let other = tempfile::tempdir().unwrap();
    let other = Signer::open(None, other.path()).unwrap().public_key();
    assert_eq!(read(rig.text.as_bytes(), &other).unwrap_err().name(), "other_key");
    rig.artifacts.write("check-1-test.log", b"failed\n").unwrap();
    let mut report = read(rig.text.as_bytes(), &rig.key).unwrap();
    assert_eq!(report.hold_against_artifacts(rig.artifacts.dir()).unwrap_err().name(), "artifact");
    let elsewhere = Scratch::with(&[("a.txt", "1\n")]);
    assert_eq!(report.hold_against_repository(&elsewhere.path()).unwrap_err().name(), "commit_missing");
    assert_eq!(report.hold_against_repository(elsewhere.dir.path()).unwrap_err().name(), "repository");
}
