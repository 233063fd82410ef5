//! Taking the changes out of a frozen sandbox. Everything that comes over is a claim: the host decides from the base in its
//! own mirror which claims are changes, and reads no more than was agreed.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
};

use git2::{ObjectType, Oid};
use tasks::{Code, Failure};

use super::{
    ExtractLimits, PatchEntry,
    ignored::{FILE_NAME, Rules, parent},
    names,
};
use crate::{
    checkout::{
        blocking,
        tree::{Entry, MAX_DEPTH},
    },
    run::sandbox_failure,
    sandbox::{ChangedPath, FileKind, Found, SandboxError, TreeFile},
};

/// Files are read in pieces of about this size, so that equal ones need not be held.
const BATCH_BYTES: u64 = 16 << 20;
/// And of so many files.
const BATCH_FILES: usize = 2000;
/// All rule files of one level of directories together.
const MAX_RULES_BYTES: u64 = 8 << 20;

/// The base tree, as far as extraction needs it.
pub(super) struct BaseTree {
    /// Every path.
    pub(super) entries: BTreeMap<Vec<u8>, Entry>,
    /// The rule files among them, with their contents.
    pub(super) rules: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Which of the claimed changes are changes. `read(paths, max_bytes)` reads files of the frozen workspace.
pub(super) async fn decide<F>(
    base: Arc<BaseTree>,
    changed: Vec<ChangedPath>,
    limits: ExtractLimits,
    read: impl Fn(Vec<Vec<u8>>, u64) -> F,
) -> Result<Vec<PatchEntry>, Failure>
where
    F: Future<Output = Result<Vec<TreeFile>, SandboxError>> + Send,
{
    let changed = Arc::new(claims(changed));
    let rules = current_rules(&base, &changed, &read).await?;
    let known = base.clone();
    // Matching rules may take a while, so it does not happen on an async thread.
    let Sorted { deleted, suspects } = blocking(move || sort_out(&known, &changed, rules)).await?;
    let written = read_changed(&base, &deleted, suspects, limits, &read).await?;
    Ok(assemble(&base, deleted, written))
}

/// By path, without the workspace's own git directory: whatever an agent did there is no part of the change.
fn claims(changed: Vec<ChangedPath>) -> BTreeMap<Vec<u8>, Found> {
    let own_git = |path: &[u8]| path == b".git" || path.starts_with(b".git/");
    changed.into_iter().filter(|change| !own_git(&change.path)).map(|change| (change.path, change.now)).collect()
}

/// The ignore rules as they stand in the changed workspace. Changed files are read level by level, because a file in a
/// directory that an outer one ignores is no rule file.
async fn current_rules<F>(
    base: &BaseTree,
    changed: &BTreeMap<Vec<u8>, Found>,
    read: &impl Fn(Vec<Vec<u8>>, u64) -> F,
) -> Result<Rules, Failure>
where
    F: Future<Output = Result<Vec<TreeFile>, SandboxError>> + Send,
{
    let mut rules = Rules::new();
    for (path, content) in base.rules.iter().filter(|(path, _)| !changed.contains_key(path)) {
        rules.set(path, content)?;
    }
    let mut by_depth: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
    for (path, now) in changed {
        let is_rule_file = path.rsplit(|byte| *byte == b'/').next() == Some(FILE_NAME);
        if is_rule_file && matches!(now, Found::File(FileKind::Regular | FileKind::Executable, _)) {
            by_depth.entry(path.iter().filter(|byte| **byte == b'/').count()).or_default().push(path.clone());
        }
    }
    for paths in by_depth.into_values() {
        let (back, wanted) = blocking(move || {
            let mut wanted = Vec::new();
            for path in paths {
                if !rules.ignores_directory(parent(&path))? {
                    wanted.push(path);
                }
            }
            Ok((rules, wanted))
        })
        .await?;
        rules = back;
        if wanted.is_empty() {
            continue;
        }
        for file in read_exactly(read, wanted, MAX_RULES_BYTES).await? {
            rules.set(&file.path, &file.bytes)?;
        }
    }
    Ok(rules)
}

/// What is certainly gone, and what has to be read.
struct Sorted {
    deleted: BTreeSet<Vec<u8>>,
    suspects: Vec<(Vec<u8>, u64)>,
}

fn sort_out(base: &BaseTree, changed: &BTreeMap<Vec<u8>, Found>, mut rules: Rules) -> Result<Sorted, Failure> {
    let mut sorted = Sorted { deleted: BTreeSet::new(), suspects: Vec::new() };
    for (path, now) in changed {
        let tracked = base.entries.get(path);
        let file = match now {
            Found::Nothing => {
                // A submodule was never put into the workspace, so it cannot be missed there.
                if let Some(Entry::File(..)) = tracked {
                    sorted.deleted.insert(path.clone());
                }
                continue;
            }
            Found::File(_, size) => Some(*size),
            Found::Special | Found::NestedRepository => None,
        };
        if path.iter().filter(|byte| **byte == b'/').count() > MAX_DEPTH {
            return Err(names::refused(path, "a path with too many levels of directories"));
        }
        let is_repository = *now == Found::NestedRepository;
        // What is told as special may be a directory that cannot be read.
        let maybe_directory = file.is_none();
        let holds_tracked = maybe_directory && below(base, path).next().is_some();
        if tracked.is_none()
            && !holds_tracked
            && (rules.ignores(path, is_repository)? || maybe_directory && rules.ignores(path, true)?)
        {
            continue;
        }
        names::check(path)?;
        refuse_submodules(base, path)?;
        match (file, is_repository) {
            (Some(size), _) => sorted.suspects.push((path.clone(), size)),
            (None, true) => return Err(names::refused(path, "a git repository inside of the repository")),
            (None, false) => {
                let what = "which is no file that git can carry (a device, a pipe, a socket or a closed directory)";
                return Err(names::refused(path, what));
            }
        }
    }
    Ok(sorted)
}

/// The paths of the base below a directory.
fn below<'a>(base: &'a BaseTree, directory: &[u8]) -> impl Iterator<Item = &'a Vec<u8>> {
    let mut prefix = directory.to_vec();
    prefix.push(b'/');
    let from = prefix.clone();
    base.entries.range(from..).map(|(path, _)| path).take_while(move |path| path.starts_with(&prefix))
}

/// The files of a submodule belong to another repository, and its place here is a commit and not a file.
fn refuse_submodules(base: &BaseTree, path: &[u8]) -> Result<(), Failure> {
    let mut outer = path;
    while !outer.is_empty() {
        if base.entries.get(outer) == Some(&Entry::Submodule) {
            return Err(names::refused(path, "which belongs to a submodule"));
        }
        outer = parent(outer);
    }
    Ok(())
}

/// Reads the suspects and keeps those that differ from the base. Files whose size alone shows the difference count before
/// anything is read, so that a workspace full of new files costs nothing.
async fn read_changed<F>(
    base: &BaseTree,
    deleted: &BTreeSet<Vec<u8>>,
    suspects: Vec<(Vec<u8>, u64)>,
    limits: ExtractLimits,
    read: &impl Fn(Vec<Vec<u8>>, u64) -> F,
) -> Result<Vec<TreeFile>, Failure>
where
    F: Future<Output = Result<Vec<TreeFile>, SandboxError>> + Send,
{
    let new = || suspects.iter().filter(|(path, _)| !base.entries.contains_key(path));
    check_limits(limits, new().count() + deleted.len(), new().fold(0, |sum, (_, size)| size.saturating_add(sum)))?;
    // One file may be larger than a batch, but what is too large to be a change that may leave is not read at all.
    let most = limits.max_bytes.saturating_add(BATCH_BYTES);
    if let Some((path, size)) = suspects.iter().find(|(_, size)| *size > most) {
        let reason = format!("which has {size} bytes, and at most {} may leave a sandbox", limits.max_bytes);
        return Err(names::refused(path, &reason));
    }
    let mut written: Vec<TreeFile> = Vec::new();
    let mut n_bytes = 0;
    let mut rest = suspects.as_slice();
    while !rest.is_empty() {
        let (batch, size) = next_batch(rest);
        rest = &rest[batch.len()..];
        let paths = batch.iter().map(|(path, _)| path.clone()).collect();
        for file in read_exactly(read, paths, size.min(most)).await? {
            if is_in(base, &file)? {
                continue;
            }
            n_bytes += file.bytes.len() as u64;
            written.push(file);
            check_limits(limits, written.len() + deleted.len(), n_bytes)?;
        }
    }
    Ok(written)
}

fn next_batch(suspects: &[(Vec<u8>, u64)]) -> (&[(Vec<u8>, u64)], u64) {
    let mut size = 0;
    let mut n = 0;
    for (_, bytes) in suspects.iter().take(BATCH_FILES) {
        if n > 0 && bytes.saturating_add(size) > BATCH_BYTES {
            break;
        }
        size += bytes;
        n += 1;
    }
    (&suspects[..n], size)
}

/// Whether the base holds exactly this file.
fn is_in(base: &BaseTree, file: &TreeFile) -> Result<bool, Failure> {
    let Some(Entry::File(kind, id)) = base.entries.get(&file.path) else { return Ok(false) };
    let same_bytes = || Oid::hash_object(ObjectType::Blob, &file.bytes).map(|now| now == *id);
    Ok(*kind == file.kind && same_bytes().map_err(Failure::internal)?)
}

fn check_limits(limits: ExtractLimits, n_files: usize, n_bytes: u64) -> Result<(), Failure> {
    let message = if n_files > limits.max_files {
        format!("The change has {n_files} files or more, and at most {} may leave a sandbox", limits.max_files)
    } else if n_bytes > limits.max_bytes {
        format!("The change has {n_bytes} bytes or more, and at most {} may leave a sandbox", limits.max_bytes)
    } else {
        return Ok(());
    };
    Err(Failure::new(Code::PatchRefused, message)
        .next("If these are build results, add them to `.gitignore`; else ask for a smaller change."))
}

/// Reads files and makes sure that just those came: the other end was within reach of the agent.
async fn read_exactly<F>(
    read: &impl Fn(Vec<Vec<u8>>, u64) -> F,
    paths: Vec<Vec<u8>>,
    max_bytes: u64,
) -> Result<Vec<TreeFile>, Failure>
where
    F: Future<Output = Result<Vec<TreeFile>, SandboxError>> + Send,
{
    let mut asked: BTreeSet<Vec<u8>> = paths.iter().cloned().collect();
    let files = read(paths, max_bytes).await.map_err(sandbox_failure)?;
    for file in &files {
        if !asked.remove(&file.path) {
            return Err(names::refused(&file.path, "which was not asked for"));
        }
    }
    match asked.pop_first() {
        None => Ok(files),
        Some(missing) => Err(names::refused(&missing, "which cannot be read")),
    }
}

/// Entries sorted by path. A file where the base has a directory deletes what was in it, and the other way round.
fn assemble(base: &BaseTree, mut deleted: BTreeSet<Vec<u8>>, written: Vec<TreeFile>) -> Vec<PatchEntry> {
    for file in &written {
        deleted.extend(below(base, &file.path).cloned());
        let mut outer = parent(&file.path);
        while !outer.is_empty() {
            if let Some(Entry::File(..)) = base.entries.get(outer) {
                deleted.insert(outer.to_vec());
            }
            outer = parent(outer);
        }
    }
    let written: BTreeMap<Vec<u8>, PatchEntry> =
        written.into_iter().map(|file| (file.path.clone(), PatchEntry::Write(file))).collect();
    let gone = deleted.into_iter().filter(|path| !written.contains_key(path)).map(PatchEntry::Delete);
    let mut entries: Vec<PatchEntry> = gone.collect();
    entries.extend(written.into_values());
    entries.sort_by(|a, b| a.path().cmp(b.path()));
    entries
}
