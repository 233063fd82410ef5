//! Stub: owned by the git room. What an agent changed, as entries; never as a text patch.
use tasks::{CommitSha, Failure, TreeSha};

use crate::{
    checkout::Mirror,
    sandbox::{FileKind, Sandbox, TreeFile},
};

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchEntry {
    /// The file is now this.
    Write(TreeFile),
    /// The file is gone.
    Delete(Vec<u8>),
}

/// What changed against the base, sorted by path, frozen. The only thing that leaves a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    base: CommitSha,
    entries: Vec<PatchEntry>,
}

/// How much may leave a sandbox at all, before any policy is asked.
#[derive(Debug, Clone, Copy)]
pub struct ExtractLimits {
    /// Files.
    pub max_files: usize,
    /// Bytes, all files together.
    pub max_bytes: u64,
}

/// One changed file as policy and people look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The path.
    pub path: Vec<u8>,
    /// What it was; `None`: new.
    pub before: Option<(FileKind, Vec<u8>)>,
    /// What it is; `None`: deleted.
    pub after: Option<(FileKind, Vec<u8>)>,
}

/// A patch on its base in the mirror: the result tree exists as objects, no work tree was touched.
#[derive(Debug, Clone)]
pub struct PatchedTree {
    patch: Patch,
    tree: TreeSha,
    changes: Vec<FileChange>,
}

impl Patch {
    /// Freezes the sandbox (every process killed) and takes out what changed since the base was marked there. Ignored
    /// files stay out, by the rules that `git add -A` would follow; equal files too. Empty: the agent changed nothing.
    pub async fn extract(
        _sandbox: &Sandbox,
        _mirror: &Mirror,
        _base: &CommitSha,
        _limits: ExtractLimits,
    ) -> Result<Self, Failure> {
        todo!()
    }
    /// True when nothing changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// The base.
    pub fn base(&self) -> &CommitSha {
        &self.base
    }
    /// The entries, sorted by path.
    pub fn entries(&self) -> &[PatchEntry] {
        &self.entries
    }
    /// SHA-256 of the canonical form, hexadecimal.
    pub fn sha256(&self) -> String {
        todo!()
    }
    /// Builds the result tree in memory in the bare mirror (blobs + tree builder; evil names refused).
    pub async fn onto(self, _mirror: &Mirror) -> Result<PatchedTree, Failure> {
        todo!()
    }
}

impl PatchedTree {
    /// The patch.
    pub fn patch(&self) -> &Patch {
        &self.patch
    }
    /// The result.
    pub fn tree(&self) -> &TreeSha {
        &self.tree
    }
    /// Each changed file, before and after.
    pub fn changes(&self) -> &[FileChange] {
        &self.changes
    }
    /// The unified diff as `git diff` shows it: for people, for `onramp run > fix.patch`, and so that `git apply` takes it.
    pub fn diff(&self) -> Vec<u8> {
        todo!()
    }
    /// (files, added lines, removed lines).
    pub fn stat(&self) -> (u64, u64, u64) {
        todo!()
    }
}
