//! The statement that a pull request proves itself with: signed here, and checked anywhere, without this machine.
//!
//! One in-toto statement per attempt, with SLSA's provenance as its predicate and what Onramp verified beside it, in a DSSE
//! envelope. The envelope is written in one way only, and read strictly: whatever byte of it changes, verification says
//! by name what no longer holds ([`Broken`]).

mod check;
mod envelope;
mod key;
mod statement;

use tasks::{BundleDigest, CommitSha, Evidence, Failure, Task, Timestamp, TreeSha};

pub use self::{
    check::{Broken, Report, read},
    key::{PublicKey, Signer},
};
use self::{envelope::Envelope, statement::Statement};
use crate::{artifacts::Artifacts, policy::Policy};

/// The artifact that holds it.
pub const FILE_NAME: &str = "evidence.intoto.json";

/// What a statement is made of, besides the evidence.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The task.
    pub task: &'a Task,
    /// What was verified.
    pub evidence: &'a Evidence,
    /// The tree of the base commit.
    pub base_tree: &'a TreeSha,
    /// The published commit; `None`: nothing was published.
    pub head: Option<&'a CommitSha>,
    /// The policy that judged.
    pub policy: &'a Policy,
    /// The model that the agent was told to use.
    pub model: Option<&'a str>,
    /// Hosts that could be reached.
    pub allowed_hosts: &'a [String],
    /// When the statement is made.
    pub now: Timestamp,
}

/// A signed statement.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The file: one line.
    pub text: String,
    /// How it is told from any other.
    pub digest: BundleDigest,
}

impl Bundle {
    /// Makes the statement, signs it and keeps it as an artifact.
    ///
    /// # Errors
    /// E099 when an artifact cannot be read or written.
    pub fn seal(signer: &Signer, artifacts: &Artifacts, facts: &Facts<'_>) -> Result<Self, Failure> {
        let statement = Statement::new(facts, artifacts).map_err(Failure::internal)?;
        let text = Envelope::sign(signer, &statement).map_err(Failure::internal)?;
        artifacts.write(FILE_NAME, text.as_bytes()).map_err(Failure::internal)?;
        let digest = BundleDigest { sha256: statement::sha256(text.as_bytes()), key: signer.public_key().id() };
        Ok(Self { text, digest })
    }
}

#[cfg(test)]
mod tests;
