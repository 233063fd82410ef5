//! Whether a statement holds: its signature and form, and then each digest of what is at hand.

use std::path::Path;

use git2::Repository;
use tasks::{CommitSha, Failure, TreeSha};

use super::{
    envelope::Envelope,
    key::PublicKey,
    statement::{Statement, file_sha256},
};
use crate::{
    checkout::{init_libgit2, tree::flatten},
    local,
    patch::{Patch, tree},
};

/// What no longer holds. Each has a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says in its own sentence what it is")]
pub enum Broken {
    #[error("it is larger than any statement")]
    TooLarge,
    #[error("it is no envelope: {0}")]
    NoEnvelope(String),
    #[error("it is not written in the one way in which envelopes are written, so somebody changed it")]
    NotCanonical,
    #[error("its payload is of another type: {0:?}")]
    PayloadType(String),
    #[error("it has {0} signatures, and a statement has one")]
    Signatures(usize),
    #[error("it names another key: {0}")]
    OtherKey(String),
    #[error("its {0} is not base64: {1}")]
    Base64(&'static str, String),
    #[error("the signature does not fit: something of it was changed, dropped or moved, or another key has signed")]
    BadSignature,
    #[error("it is no statement that this version knows: {0}")]
    NoStatement(String),
    #[error("its subject is not what was verified")]
    Subject,
    #[error("the commit {0} is not in the repository")]
    CommitMissing(String),
    #[error("the commit {commit} has the tree {found}, and {stated} was verified")]
    Tree { commit: String, found: String, stated: String },
    #[error("the commit {0} does not follow the base {1}")]
    Parent(String, String),
    #[error("the change from base to commit has the digest {found}, and {stated} was verified")]
    Patch { found: String, stated: String },
    #[error("the artifact {name} has the digest {found}, and {stated} was stated")]
    Artifact { name: String, found: String, stated: String },
    #[error("it cannot be held against the repository: {0}")]
    Repository(String),
}

impl Broken {
    /// Its name, for programs: `bad_signature`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NoEnvelope(_) => "no_envelope",
            Self::NotCanonical => "not_canonical",
            Self::PayloadType(_) => "payload_type",
            Self::Signatures(_) => "signatures",
            Self::OtherKey(_) => "other_key",
            Self::Base64(..) => "base64",
            Self::BadSignature => "bad_signature",
            Self::NoStatement(_) => "no_statement",
            Self::Subject => "subject",
            Self::CommitMissing(_) => "commit_missing",
            Self::Tree { .. } => "tree",
            Self::Parent(..) => "parent",
            Self::Patch { .. } => "patch",
            Self::Artifact { .. } => "artifact",
            Self::Repository(_) => "repository",
        }
    }
}

/// A statement whose signature and form hold, and what else was found of it.
#[derive(Debug)]
pub struct Report {
    statement: Statement,
    /// What holds, one line each.
    pub held: Vec<String>,
    /// What could not be looked at, one line each.
    pub not_at_hand: Vec<String>,
}

/// The statement in a text: the whole of it, or the one line of it in the text of a pull request. Holds it against the key.
///
/// # Errors
/// What does not hold.
pub fn read(text: &[u8], key: &PublicKey) -> Result<Report, Broken> {
    let line = text.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"{\"payloadType\":"));
    let in_prose = line.filter(|_| text.first() != Some(&b'{'));
    let statement = match in_prose {
        Some(line) => Envelope::open(&[line.trim_ascii_end(), b"\n"].concat(), key)?,
        None => Envelope::open(text, key)?,
    };
    let held = vec![format!("signed by {}", key.id()), "whole, in the order in which it was written".to_owned()];
    let mut report = Report { statement, held, not_at_hand: Vec::new() };
    if let Some(journal) = report.statement.journal() {
        report.not_at_hand.push(format!("the journal: onramp audit verify --anchor {journal}"));
    }
    Ok(report)
}

impl Report {
    /// The repository that it is about.
    pub fn repository(&self) -> &str {
        self.statement.repository()
    }

    /// The published commit.
    pub fn head(&self) -> Option<&CommitSha> {
        self.statement.predicate.verification.head.as_ref()
    }

    /// The tree that was judged, tested and published.
    pub fn tree(&self) -> &TreeSha {
        &self.statement.predicate.verification.tree
    }

    /// The whole statement, for programs.
    ///
    /// # Errors
    /// E099, which cannot happen for what was read.
    pub fn json(&self) -> Result<serde_json::Value, Failure> {
        serde_json::to_value(&self.statement).map_err(Failure::internal)
    }

    /// Lines about what was verified.
    pub fn told(&self) -> Vec<String> {
        let verified = &self.statement.predicate.verification;
        let mut lines = vec![
            format!("repository  {}", self.repository()),
            format!("base        {} (tree {})", verified.base, verified.base_tree),
            format!("head        {} (tree {})", verified.head.as_ref().map_or("-", CommitSha::as_str), verified.tree),
            format!("patch       {} file(s), sha256 {}", verified.n_files, verified.patch),
        ];
        lines.extend(verified.checks.iter().map(|check| format!("check       {}: {:?}", check.name, check.outcome)));
        lines
    }

    /// Holds every artifact that lies in a directory against its digest.
    ///
    /// # Errors
    /// The first that is another one.
    pub fn hold_against_artifacts(&mut self, dir: &Path) -> Result<(), Broken> {
        let mut n_held = 0;
        for file in self.statement.byproducts().iter().chain(self.statement.prompts()) {
            let path = dir.join(&file.name);
            let stated = file.digest.get("sha256").cloned().unwrap_or_default();
            // The name was signed, and still it is only a name in this directory.
            let is_plain = !file.name.contains('/') && path.is_file();
            match is_plain.then(|| file_sha256(&path)) {
                Some(Ok(found)) if found == stated => n_held += 1,
                Some(Ok(found)) => return Err(Broken::Artifact { name: file.name.clone(), found, stated }),
                Some(Err(_)) | None => self.not_at_hand.push(format!("the artifact {}", file.name)),
            }
        }
        self.held.push(format!("{n_held} artifact(s), prompts and outputs of checks among them"));
        Ok(())
    }

    /// Holds base, commit, tree and patch against a person's own repository.
    ///
    /// # Errors
    /// The first that is another one.
    pub fn hold_against_repository(&mut self, path: &Path) -> Result<(), Broken> {
        let lines = in_repository(&self.statement, path)?;
        self.held.extend(lines.held);
        self.not_at_hand.extend(lines.not_at_hand);
        Ok(())
    }
}

/// What a look into a repository gave.
#[derive(Debug, Default)]
struct Found {
    held: Vec<String>,
    not_at_hand: Vec<String>,
}

fn in_repository(statement: &Statement, path: &Path) -> Result<Found, Broken> {
    let verified = &statement.predicate.verification;
    let trouble = |failure: Failure| Broken::Repository(failure.to_string());
    let git = |error: git2::Error| Broken::Repository(error.message().to_owned());
    init_libgit2().map_err(trouble)?;
    let repo = local::open(path).map_err(trouble)?;
    let mut found = Found::default();
    let base = commit(&repo, &verified.base);
    match &base {
        Some(base) => {
            same_tree(base, &verified.base_tree)?;
            found.held.push(format!("the base {} has the stated tree", verified.base));
        }
        None => found.not_at_hand.push(format!("the base {}, which is not in the repository", verified.base)),
    }
    let Some(head) = &verified.head else {
        found.not_at_hand.push("a commit: nothing was published".to_owned());
        return Ok(found);
    };
    let Some(head_commit) = commit(&repo, head) else { return Err(Broken::CommitMissing(head.to_string())) };
    same_tree(&head_commit, &verified.tree)?;
    found.held.push(format!("the commit {head} has the tree that was judged and tested"));
    if let Some(base) = base {
        if !head_commit.parent_ids().any(|parent| parent == base.id()) {
            return Err(Broken::Parent(head.to_string(), verified.base.to_string()));
        }
        let (before, after) = (base.tree().map_err(git)?, head_commit.tree().map_err(git)?);
        let entries =
            tree::between(&repo, &flatten(&repo, &before).map_err(trouble)?, &flatten(&repo, &after).map_err(trouble)?);
        let patch = entries.and_then(|entries| Patch::new(verified.base.clone(), entries)).map_err(trouble)?;
        if patch.sha256() != verified.patch {
            return Err(Broken::Patch { found: patch.sha256(), stated: verified.patch.clone() });
        }
        found.held.push("the change from base to commit has the stated digest".to_owned());
    }
    Ok(found)
}

fn commit<'a>(repo: &'a Repository, id: &CommitSha) -> Option<git2::Commit<'a>> {
    repo.find_commit(git2::Oid::from_str(id.as_str()).ok()?).ok()
}

fn same_tree(commit: &git2::Commit<'_>, stated: &TreeSha) -> Result<(), Broken> {
    let found = commit.tree_id().to_string();
    if found == stated.as_str() {
        return Ok(());
    }
    Err(Broken::Tree { commit: commit.id().to_string(), found, stated: stated.to_string() })
}
