//! What an agent changed, as entries; never as a text patch.
//!
//! A [`Patch`] is the only thing that leaves a sandbox: paths, kinds and bytes, decided on by the host and frozen. On its
//! base in the bare mirror it becomes a [`PatchedTree`], a tree of objects that policy judges, checks run on and publishing
//! commits: one id for all three. No work tree is ever written on the host, because a patch that adds a symbolic link and
//! then a file behind it would leave it.

mod diff;
mod extract;
mod ignored;
pub(crate) mod names;
pub(crate) mod tree;

use std::sync::Arc;

use sha2::{Digest, Sha256};
use tasks::{CommitSha, Failure, TreeSha};

use crate::{
    checkout::{Mirror, commit_tree, tree as base_tree},
    run::sandbox_failure,
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

impl PatchEntry {
    /// The path.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Write(file) => &file.path,
            Self::Delete(path) => path,
        }
    }
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
    view: Arc<View>,
}

/// What is shown of a patched tree, made once.
#[derive(Debug)]
struct View {
    changes: Vec<FileChange>,
    diff: Vec<u8>,
    n_added: u64,
    n_removed: u64,
}

impl Patch {
    /// A patch of these entries, in any order.
    ///
    /// # Errors
    /// E031 for a path that no repository should carry, or one that is there twice.
    pub fn new(base: CommitSha, mut entries: Vec<PatchEntry>) -> Result<Self, Failure> {
        entries.sort_by(|a, b| a.path().cmp(b.path()));
        for entry in &entries {
            names::check(entry.path())?;
        }
        match entries.windows(2).find(|pair| pair[0].path() == pair[1].path()) {
            Some(pair) => Err(names::refused(pair[0].path(), "which is there twice")),
            None => Ok(Self { base, entries }),
        }
    }

    /// Freezes the sandbox (every process killed) and takes out what changed since the base was marked there. Ignored
    /// files stay out, by the rules that `git add -A` would follow; equal files too. Empty: the agent changed nothing.
    ///
    /// # Errors
    /// E031 for what cannot be carried exactly or is too much, E015 when the sandbox is gone.
    pub async fn extract(
        sandbox: &Sandbox,
        mirror: &Mirror,
        base: &CommitSha,
        limits: ExtractLimits,
    ) -> Result<Self, Failure> {
        sandbox.kill_all().await.map_err(sandbox_failure)?;
        let changed = sandbox.changes().await.map_err(sandbox_failure)?;
        let tree = Arc::new(base_of(mirror, base).await?);
        let entries = extract::decide(tree, changed, limits, |paths, max_bytes| sandbox.get(paths, max_bytes)).await?;
        Self::new(base.clone(), entries)
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

    /// SHA-256 of the canonical form, hexadecimal: a heading, then for each entry its mode in octal (`000000`: deleted),
    /// the length of its path, the path, the length of its content, the content; lengths as 64-bit big-endian numbers.
    pub fn sha256(&self) -> String {
        let mut digest = Sha256::new_with_prefix(b"onramp patch 1\n");
        for entry in &self.entries {
            let (mode, bytes) = match entry {
                PatchEntry::Write(file) => (tree::mode(file.kind), file.bytes.as_slice()),
                PatchEntry::Delete(_) => (0, &[][..]),
            };
            digest.update(format!("{mode:06o}"));
            for part in [entry.path(), bytes] {
                digest.update((part.len() as u64).to_be_bytes());
                digest.update(part);
            }
        }
        hex::encode(digest.finalize())
    }

    /// Builds the result tree in memory in the bare mirror (blobs + tree builder; evil names refused).
    ///
    /// # Errors
    /// E031 for a name that git does not allow, or an entry at the place of a submodule.
    pub async fn onto(self, mirror: &Mirror) -> Result<PatchedTree, Failure> {
        mirror
            .read(move |repo| {
                let base = commit_tree(repo, &self.base)?;
                let changes = tree::changes(repo, &base_tree::flatten(repo, &base)?, &self.entries)?;
                let id = tree::rebuild(repo, Some(&base), &self.entries)?;
                let result = repo.find_tree(id).map_err(Failure::internal)?;
                let (diff, n_added, n_removed) = diff::between(repo, &base, &result)?;
                let tree = id.to_string().parse().map_err(Failure::internal)?;
                let view = Arc::new(View { changes, diff, n_added, n_removed });
                Ok(PatchedTree { patch: self, tree, view })
            })
            .await
    }
}

/// The base as extraction needs it.
async fn base_of(mirror: &Mirror, base: &CommitSha) -> Result<extract::BaseTree, Failure> {
    let base = base.clone();
    mirror
        .read(move |repo| {
            let entries = base_tree::flatten(repo, &commit_tree(repo, &base)?)?;
            let odb = repo.odb().map_err(Failure::internal)?;
            let mut left = 64 << 20;
            let mut rules = Vec::new();
            for (path, entry) in &entries {
                let is_rule_file = path.rsplit(|byte| *byte == b'/').next() == Some(ignored::FILE_NAME);
                if let (true, base_tree::Entry::File(FileKind::Regular | FileKind::Executable, id)) =
                    (is_rule_file, entry)
                {
                    rules.push((path.clone(), base_tree::blob(&odb, *id, &mut left)?));
                }
            }
            Ok(extract::BaseTree { entries, rules })
        })
        .await
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
        &self.view.changes
    }

    /// The unified diff as `git diff` shows it: for people, for `onramp run > fix.patch`, and so that `git apply` takes it.
    pub fn diff(&self) -> Vec<u8> {
        self.view.diff.clone()
    }

    /// (files, added lines, removed lines). Binary files count no lines.
    pub fn stat(&self) -> (u64, u64, u64) {
        (self.view.changes.len() as u64, self.view.n_added, self.view.n_removed)
    }
}
