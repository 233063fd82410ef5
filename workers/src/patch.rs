//! What an agent changed, as entries; never as a text patch.
//!
//! A [`Patch`] is the only thing that leaves a sandbox: paths, kinds and bytes, decided on by the host and frozen. On its
//! base in the bare mirror it becomes a [`PatchedTree`], a tree of objects that policy judges, checks run on and publishing
//! commits: one id for all three. No work tree is ever written on the host, because a patch that adds a symbolic link and
//! then a file behind it would leave it.
//!
//! The bytes are those of the files: no filter, no line ends, no keywords and no encodings are converted, whatever the
//! repository's attributes say, neither on the way in nor out. A filter is a program that the repository names, and the
//! checks must have run on what is published. Where attributes ask for a conversion, `git add` would store other bytes
//! (`workers/tests/extract/corpus.rs` shows where); everywhere else the tree is the one that `git add -A` makes.

mod diff;
mod extract;
mod ignored;
pub(crate) mod names;
mod text;
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
            if let PatchEntry::Write(TreeFile { path, kind: FileKind::Symlink, .. }) = entry {
                names::check_link(path)?;
            }
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

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs,
        os::unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, PermissionsExt, symlink},
        },
        path::Path,
    };

    use super::*;
    use crate::{
        checkout::fixture::{Scratch, git, git_with, raw, try_git},
        sandbox::{ChangedPath, Found},
    };

    const LIMITS: ExtractLimits = ExtractLimits { max_files: 1000, max_bytes: 32 << 20 };

    /// What lies in a workspace, as a guest would tell it: links not followed, nested repositories not entered.
    fn look(top: &Path) -> BTreeMap<Vec<u8>, Found> {
        let mut seen = BTreeMap::new();
        let mut open = vec![top.to_path_buf()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let kind = metadata.file_type();
                let found = if name == b".git" {
                    continue;
                } else if kind.is_dir() && path.join(".git").exists() {
                    Found::NestedRepository
                } else if kind.is_dir() {
                    open.push(path);
                    continue;
                } else if kind.is_symlink() {
                    Found::File(FileKind::Symlink, metadata.len())
                } else if !kind.is_file() {
                    Found::Special
                } else if metadata.permissions().mode() & 0o100 != 0 {
                    Found::File(FileKind::Executable, metadata.len())
                } else {
                    Found::File(FileKind::Regular, metadata.len())
                };
                seen.insert(name, found);
            }
        }
        seen
    }

    fn read(top: &Path, paths: &[Vec<u8>]) -> Vec<TreeFile> {
        let now = look(top);
        let read = |path: &Vec<u8>| match now[path] {
            Found::File(FileKind::Symlink, _) => {
                let target = fs::read_link(top.join(raw(path))).unwrap();
                TreeFile { path: path.clone(), kind: FileKind::Symlink, bytes: target.as_os_str().as_bytes().to_vec() }
            }
            Found::File(kind, _) => {
                TreeFile { path: path.clone(), kind, bytes: fs::read(top.join(raw(path))).unwrap() }
            }
            other => panic!("{path:?} is {other:?}"),
        };
        paths.iter().map(read).collect()
    }

    /// Takes the changes out of the scratch checkout: everything that is there or was there is a claim.
    async fn extract(
        scratch: &Scratch,
        mirror: &Mirror,
        base: &CommitSha,
        limits: ExtractLimits,
    ) -> Result<Patch, Failure> {
        let (top, tree) = (scratch.path(), Arc::new(base_of(mirror, base).await?));
        let now = look(&top);
        let gone =
            tree.entries.keys().filter(|path| !now.contains_key(*path)).map(|path| (path.clone(), Found::Nothing));
        let changed = now.clone().into_iter().chain(gone).map(|(path, now)| ChangedPath { path, now }).collect();
        let read = |paths: Vec<Vec<u8>>, _| {
            let files = read(&top, &paths);
            async move { Ok(files) }
        };
        Patch::new(base.clone(), extract::decide(tree, changed, limits, read).await?)
    }

    /// The changes of the scratch checkout on their base, held against what git makes of the same directory.
    async fn patched(scratch: &Scratch, base: &str) -> PatchedTree {
        let (mirror, found) = scratch.checkout(Some(base)).await.unwrap();
        let patch = extract(scratch, &mirror, &found.commit, LIMITS).await.unwrap();
        let patched = patch.onto(&mirror).await.unwrap();
        scratch.git(&["add", "-A"]);
        let expected = scratch.git(&["write-tree"]);
        assert_eq!(patched.tree().as_str(), expected, "{}", scratch.git(&["status", "--short"]));
        check_diff(scratch, base, &patched);
        patched
    }

    /// Git applies the text and arrives at the same tree.
    fn check_diff(scratch: &Scratch, base: &str, patched: &PatchedTree) {
        let clone = scratch.dir.path().join("clone");
        let _ = fs::remove_dir_all(&clone);
        git(scratch.dir.path(), &["clone", "-q", "--no-checkout", "work", "clone"]);
        git(&clone, &["read-tree", base]);
        let diff = patched.diff();
        if !diff.is_empty() {
            git_with(&clone, &["apply", "--cached", "--whitespace=nowarn", "-"], &diff);
        }
        let text = String::from_utf8_lossy(&diff).into_owned();
        assert_eq!(git(&clone, &["write-tree"]), patched.tree().as_str(), "{text}");
        let names = git_with(&clone, &["diff", "--cached", "--name-only", "--no-renames", "-z", base], b"");
        let n_files = names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).count() as u64;
        let numbers =
            if diff.is_empty() { Vec::new() } else { git_with(&clone, &["apply", "--numstat", "-z", "-"], &diff) };
        let numbers = String::from_utf8_lossy(&numbers);
        let count = |at: usize| -> u64 {
            let lines = numbers.split('\0').filter(|line| !line.is_empty());
            lines.map(|line| line.split('\t').nth(at).unwrap().parse::<u64>().unwrap_or(0)).sum()
        };
        let (files, added, removed) = patched.stat();
        assert_eq!((files, added, removed), (n_files, count(0), count(1)), "{text}");
    }

    #[tokio::test]
    async fn every_kind_of_change_gives_the_tree_that_git_gives() {
        let scratch = Scratch::with(&[
            ("keep.txt", "same\n"),
            ("edit.txt", "a\nb\nc\n"),
            ("gone.txt", "x\n"),
            ("dir/gone/deep.txt", "x"),
            ("empty.py", ""),
            ("becomes-dir", "file"),
            ("becomes-file/a", "1"),
            ("becomes-file/b/c", "2"),
            ("run.sh", "#!/bin/sh\n"),
            ("no-end", "x"),
            ("link-to-be", "text\n"),
            ("data.bin", "\0\u{1}\u{2}"),
            ("with space.txt", "1\n"),
            ("ignored/tracked.log", "old"),
            (".gitignore", "*.log\nbuild/\n!keep.log\n"),
            ("to-empty", "x\n"),
        ]);
        let top = scratch.path();
        scratch.write("edit.txt", b"a\nB\nc\nd");
        fs::remove_file(top.join("gone.txt")).unwrap();
        fs::remove_dir_all(top.join("dir")).unwrap();
        fs::remove_file(top.join("becomes-dir")).unwrap();
        scratch.write("becomes-dir/x/y", b"new");
        fs::remove_dir_all(top.join("becomes-file")).unwrap();
        scratch.write("becomes-file", b"now a file");
        scratch.make_executable("run.sh");
        scratch.write("no-end", b"y");
        fs::remove_file(top.join("link-to-be")).unwrap();
        symlink("../../outside", top.join("link-to-be")).unwrap();
        scratch.write("data.bin", b"\0\x01\x03 more");
        scratch.write("with space.txt", b"2\n");
        scratch.write("ignored/tracked.log", b"new");
        scratch.write("ignored/untracked.log", b"stays out");
        scratch.write("build/out", b"stays out");
        scratch.write("keep.log", b"comes in");
        scratch.write("sub/.gitignore", b"*\n!in.txt\n");
        scratch.write("sub/in.txt", b"comes in");
        scratch.write("sub/out.txt", b"stays out");
        scratch.write("new/__init__.py", b"");
        scratch.write("to-empty", b"");
        scratch.write(raw("ünïcode \"q\" \\ name".as_bytes()), b"u\n");
        scratch.write(raw(b"new\nline\x1b"), b"n\r\n");
        scratch.write(raw(b"raw\xff\xfe"), b"\xff\n");
        scratch.write("big.bin", &(0..200_000_u32).map(|n| n.wrapping_mul(n) as u8).collect::<Vec<u8>>());
        let patched = patched(&scratch, "main").await;
        let deleted = |path: &str| patched.patch().entries().contains(&PatchEntry::Delete(path.into()));
        assert!(deleted("becomes-dir") && deleted("becomes-file/b/c") && !deleted("keep.txt"));
        let keep = patched.changes().iter().find(|change| change.path == b"run.sh").unwrap();
        assert_eq!(keep.before.as_ref().map(|(kind, _)| *kind), Some(FileKind::Regular));
        assert_eq!(keep.after.as_ref().map(|(kind, _)| *kind), Some(FileKind::Executable));
    }

    #[tokio::test]
    async fn nothing_changed_is_an_empty_patch_and_everything_deleted_an_empty_tree() {
        let scratch = Scratch::with(&[("a/b.txt", "1")]);
        let (mirror, base) = scratch.checkout(None).await.unwrap();
        assert!(extract(&scratch, &mirror, &base.commit, LIMITS).await.unwrap().is_empty());
        fs::remove_dir_all(scratch.path().join("a")).unwrap();
        let tree = patched(&scratch, "main").await;
        assert_eq!(tree.tree().as_str(), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
    }

    #[tokio::test]
    async fn random_edits_give_the_tree_that_git_gives() {
        let mut n_changes = 0;
        for seed in 1..=12 {
            let mut dice = Dice(seed);
            let scratch = Scratch::empty();
            dice.edit(&scratch, 25);
            scratch.commit("Base");
            dice.edit(&scratch, 15);
            n_changes += patched(&scratch, "main").await.changes().len();
        }
        assert!(n_changes > 100, "{n_changes}");
    }

    /// A small random generator, so that a failing seed can be run again.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) % sides as u64) as usize
        }

        fn pick<T: Copy>(&mut self, all: &[T]) -> T {
            all[self.roll(all.len())]
        }

        fn edit(&mut self, scratch: &Scratch, n_edits: usize) {
            for _ in 0..n_edits {
                let parts: [&[u8]; 10] =
                    [b"a", b"b", b"c.log", b"d e", b"build", b"\xc3\xa9", b"\xff", b"x\"y", b"out.o", b"n\n"];
                let depth = 1 + self.roll(3);
                let path = (0..depth).map(|_| self.pick(&parts)).collect::<Vec<_>>().join(&b'/');
                let place = scratch.path().join(raw(&path));
                let now = fs::symlink_metadata(&place);
                if now.as_ref().is_ok_and(fs::Metadata::is_dir) {
                    fs::remove_dir_all(&place).unwrap();
                } else if now.is_ok() {
                    fs::remove_file(&place).unwrap();
                }
                for outer in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]) {
                    let outer = scratch.path().join(raw(outer));
                    if fs::symlink_metadata(&outer).is_ok_and(|now| !now.is_dir()) {
                        fs::remove_file(&outer).unwrap();
                    }
                }
                match self.roll(8) {
                    0 => {}
                    1 => {
                        fs::create_dir_all(place.parent().unwrap()).unwrap();
                        symlink(self.pick(&["a", "../b", "/nowhere"]), &place).unwrap();
                    }
                    2 => {
                        let rules = self.pick(&[
                            "*.log\n",
                            "build/\n",
                            "/a/*\n!/a/b\n",
                            "*\n!*/\n",
                            "**/out.o\n!b/**\n",
                            "d\\ e\n",
                        ]);
                        let dir = if path.contains(&b'/') && self.roll(2) == 0 {
                            place.parent().unwrap()
                        } else {
                            &scratch.path()
                        };
                        fs::create_dir_all(dir).unwrap();
                        fs::write(dir.join(".gitignore"), rules).unwrap();
                    }
                    kind => {
                        let content =
                            self.pick(&["", "x", "x\n", "one\ntwo\nthree\n", "one\nthree\n", "\0bin", "a\r\nb\r\n"]);
                        scratch.write(raw(&path), content.as_bytes());
                        if kind == 3 {
                            scratch.make_executable(raw(&path));
                        }
                    }
                }
            }
        }
    }

    async fn refusal(scratch: &Scratch) -> Failure {
        let (mirror, base) = scratch.checkout(Some("main")).await.unwrap();
        let failure = extract(scratch, &mirror, &base.commit, LIMITS).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E031");
        failure
    }

    #[tokio::test]
    async fn what_git_cannot_carry_is_refused_by_its_path_unless_ignored() {
        let scratch = Scratch::with(&[(".gitignore", "cache/\n"), ("a.txt", "1")]);
        let pipe = |path: &str| {
            fs::create_dir_all(scratch.path().join(path).parent().unwrap()).unwrap();
            rustix::fs::mkfifoat(rustix::fs::CWD, scratch.path().join(path), rustix::fs::Mode::RWXU).unwrap();
            assert!(fs::metadata(scratch.path().join(path)).unwrap().file_type().is_fifo());
        };
        pipe("cache/pipe");
        scratch.write("cache/nested/.git/config", b"");
        let (mirror, base) = scratch.checkout(None).await.unwrap();
        assert!(extract(&scratch, &mirror, &base.commit, LIMITS).await.unwrap().is_empty());

        pipe("sub/pipe");
        assert_eq!(
            refusal(&scratch).await.message,
            "The change holds `sub/pipe`, which is no file that git can carry (a device, a pipe, a socket or a closed directory)"
        );
        fs::remove_dir_all(scratch.path().join("sub")).unwrap();
        scratch.write("sub/nested/.git/config", b"");
        let message = "The change holds `sub/nested`, a git repository inside of the repository";
        assert_eq!(refusal(&scratch).await.message, message);
    }

    #[tokio::test]
    async fn evil_names_are_refused_and_the_own_git_directory_is_not_looked_at() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        for evil in [".GIT/config", "sub/git~1", "sub/.git.", ".g\u{200c}it/hooks/pre-commit"] {
            scratch.write(evil, b"x");
            let message = refusal(&scratch).await.message;
            assert!(message.contains("git's own directory"), "{message}");
            fs::remove_dir_all(scratch.path().join(evil.split('/').next().unwrap())).unwrap();
        }
        let base: CommitSha = scratch.git(&["rev-parse", "HEAD"]).parse().unwrap();
        for evil in ["../a", "/etc/passwd", "a//b", "a/./b", "a/", "", ".git/config"] {
            assert!(Patch::new(base.clone(), vec![PatchEntry::Delete(evil.into())]).is_err(), "{evil}");
        }
        let twice = vec![PatchEntry::Delete(b"a".to_vec()), PatchEntry::Delete(b"a".to_vec())];
        assert!(Patch::new(base, twice).is_err());
    }

    #[tokio::test]
    async fn a_submodule_stays_as_it_is_and_takes_no_files() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let head = scratch.git(&["rev-parse", "HEAD"]);
        scratch.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},lib/module")]);
        scratch.git(&["commit", "-q", "-m", "Module"]);
        scratch.write("a.txt", b"2");
        let (mirror, base) = scratch.checkout(None).await.unwrap();
        let patched = extract(&scratch, &mirror, &base.commit, LIMITS).await.unwrap().onto(&mirror).await.unwrap();
        let entry = git(mirror.path(), &["ls-tree", patched.tree().as_str(), "lib/module"]);
        assert!(entry.starts_with("160000 commit"), "{entry}");
        scratch.write("lib/module/x", b"");
        let message = refusal(&scratch).await.message;
        assert_eq!(message, "The change holds `lib/module/x`, which belongs to a submodule");
    }

    #[tokio::test]
    async fn too_much_is_refused_before_it_is_read() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let (mirror, base) = scratch.checkout(None).await.unwrap();
        let file = fs::File::create(scratch.path().join("sparse")).unwrap();
        file.set_len(1 << 40).unwrap();
        let tree = Arc::new(base_of(&mirror, &base.commit).await.unwrap());
        let claims = |n: usize, size| -> Vec<ChangedPath> {
            let path = |n: usize| format!("new-{n}").into_bytes();
            (0..n).map(|n| ChangedPath { path: path(n), now: Found::File(FileKind::Regular, size) }).collect()
        };
        let never = |_, _| async { panic!("nothing is read") };
        for (changed, words) in [
            (
                claims(1, 1 << 40),
                "The change has 1099511627776 bytes or more, and at most 33554432 may leave a sandbox",
            ),
            (claims(1001, 1), "The change has 1001 files or more, and at most 1000 may leave a sandbox"),
        ] {
            let failure = extract::decide(tree.clone(), changed, LIMITS, never).await.unwrap_err();
            assert_eq!((failure.code.as_str(), failure.message.as_str()), ("E031", words));
        }
    }

    #[tokio::test]
    async fn a_guest_that_sends_something_else_is_not_believed() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let (mirror, base) = scratch.checkout(None).await.unwrap();
        let tree = Arc::new(base_of(&mirror, &base.commit).await.unwrap());
        let claim = || vec![ChangedPath { path: b"x".to_vec(), now: Found::File(FileKind::Regular, 1) }];
        let file = |path: &str, n| TreeFile { path: path.into(), kind: FileKind::Regular, bytes: vec![0; n] };
        for answer in [vec![file("y", 1)], vec![], vec![file("x", 1), file("x", 1)], vec![file("x", 33 << 20)]] {
            let read = |_, _| {
                let answer = answer.clone();
                async move { Ok(answer) }
            };
            assert!(extract::decide(tree.clone(), claim(), LIMITS, read).await.is_err());
        }
    }

    #[tokio::test]
    async fn the_digest_depends_on_every_part_of_the_patch() {
        let base: CommitSha = "0123456789012345678901234567890123456789".parse().unwrap();
        let write = |path: &str, kind, bytes: &[u8]| {
            PatchEntry::Write(TreeFile { path: path.into(), kind, bytes: bytes.to_vec() })
        };
        let digests: std::collections::HashSet<String> = [
            vec![],
            vec![write("a", FileKind::Regular, b"bc")],
            vec![write("ab", FileKind::Regular, b"c")],
            vec![write("a", FileKind::Executable, b"bc")],
            vec![write("a", FileKind::Symlink, b"bc")],
            vec![write("a", FileKind::Regular, b"")],
            vec![PatchEntry::Delete(b"a".to_vec())],
        ]
        .into_iter()
        .map(|entries| Patch::new(base.clone(), entries).unwrap().sha256())
        .collect();
        assert_eq!(digests.len(), 7);
        let forth = vec![PatchEntry::Delete(b"a".to_vec()), PatchEntry::Delete(b"b".to_vec())];
        let back = forth.iter().rev().cloned().collect();
        assert_eq!(Patch::new(base.clone(), forth).unwrap(), Patch::new(base, back).unwrap());
    }

    #[tokio::test]
    async fn a_diff_reads_as_git_shows_it() {
        let scratch = Scratch::with(&[("a b.txt", "one\ntwo\n"), ("run", "x\n")]);
        scratch.write("a b.txt", b"one\n2\n");
        scratch.make_executable("run");
        let diff = String::from_utf8(patched(&scratch, "main").await.diff()).unwrap();
        insta::assert_snapshot!(diff, @r"
        diff --git a/a b.txt b/a b.txt
        index 814f4a422927b82f5f8a43f8fab6d3839e3983f2..99b356dcd03dde0755c749bcd4cae4b2b73a8fa8 100644
        --- a/a b.txt
        +++ b/a b.txt
        @@ -1,2 +1,2 @@
         one
        -two
        +2
        diff --git a/run b/run
        old mode 100644
        new mode 100755
        ");
        let (code, text, _) = try_git(&scratch.path(), &["diff", "--cached", "--full-index", "--binary", "main"], b"");
        assert_eq!((code, String::from_utf8(text).unwrap().replace('\t', "")), (Some(0), diff));
    }
}
