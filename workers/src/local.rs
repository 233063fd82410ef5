//! A person's own checkout: what a run starts from, and how a verified patch is put into it on request.
//!
//! The checkout is the person's, so reading its git directory is theirs to allow; nothing that a sandbox wrote is ever
//! opened here. Writing goes file by file beneath the checkout's directory without following any symbolic link.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Write as _,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use git2::{Repository, RepositoryOpenFlags, Status, StatusOptions};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, symlinkat, unlinkat};
use tasks::{BranchName, Code, CommitSha, Failure};

use crate::{
    patch::PatchEntry,
    sandbox::{FileKind, TreeFile},
};

/// What a person's checkout looks like.
#[derive(Debug, Clone)]
pub struct LocalCheckout {
    /// Its top directory, absolute.
    pub root: PathBuf,
    /// The commit that a revision names.
    pub commit: CommitSha,
    /// The branch that is checked out.
    pub branch: Option<BranchName>,
    /// Changed or untracked files, the first hundred. Ignored ones do not count.
    pub dirty: Vec<String>,
    /// The address of the remote `origin`.
    pub origin: Option<String>,
}

impl LocalCheckout {
    /// Looks at the checkout that holds `path`.
    ///
    /// # Errors
    /// E002 when there is none, E004 when `revision` names no commit.
    pub fn inspect(path: &Path, revision: &str) -> Result<Self, Failure> {
        let absolute = std::fs::canonicalize(path).map_err(|error| {
            Failure::new(Code::NotARepository, format!("{} cannot be read: {error}", path.display()))
        })?;
        let repository = open(&absolute)?;
        let root = repository.workdir().map(Path::to_path_buf).unwrap_or_else(|| repository.path().to_path_buf());
        let commit = repository.revparse_single(revision).and_then(|object| object.peel_to_commit()).map_err(|_| {
            if repository.is_empty().unwrap_or(false) {
                Failure::new(Code::BaseNotFound, format!("{} has no commit yet", root.display()))
            } else {
                Failure::new(Code::BaseNotFound, format!("`{revision}` names no commit in {}", root.display()))
            }
        })?;
        let branch = repository.head().ok().filter(git2::Reference::is_branch);
        let branch = branch.and_then(|head| head.shorthand().ok().and_then(|name| name.parse().ok()));
        let origin = repository.find_remote("origin").ok().and_then(|remote| remote.url().ok().map(str::to_owned));
        let commit = commit.id().to_string().parse().map_err(Failure::internal)?;
        let dirty = dirty(&repository).map_err(Failure::internal)?;
        Ok(Self { root, commit, branch, dirty, origin })
    }

    /// Brings the working tree from the files `before` to the files `after`, each changed one whole and atomically. The
    /// caller has made sure that the tree is clean and looks like `before`. Returns how many files changed.
    ///
    /// # Errors
    /// When a path leads through a symbolic link, or cannot be written; files before it are then already in place.
    pub fn bring(&self, before: &[TreeFile], after: Vec<TreeFile>) -> Result<usize, Failure> {
        let kept: HashSet<&[u8]> = after.iter().map(|file| file.path.as_slice()).collect();
        let deleted = before.iter().filter(|file| !kept.contains(file.path.as_slice()));
        let mut entries: Vec<PatchEntry> = deleted.map(|file| PatchEntry::Delete(file.path.clone())).collect();
        let known: HashMap<&[u8], &TreeFile> = before.iter().map(|file| (file.path.as_slice(), file)).collect();
        entries.extend(
            after.into_iter().filter(|file| known.get(file.path.as_slice()) != Some(&file)).map(PatchEntry::Write),
        );
        self.apply(&entries)?;
        Ok(entries.len())
    }

    fn apply(&self, entries: &[PatchEntry]) -> Result<(), Failure> {
        // Deletions first: a file may have become a directory.
        let (deleted, written): (Vec<_>, Vec<_>) = entries.iter().partition(|e| matches!(e, PatchEntry::Delete(_)));
        for entry in deleted.into_iter().chain(written) {
            let path = match entry {
                PatchEntry::Delete(path) => path,
                PatchEntry::Write(file) => &file.path,
            };
            apply_entry(&self.root, entry).map_err(|error| {
                let path = String::from_utf8_lossy(path);
                Failure::new(
                    Code::PatchRefused,
                    format!("`{path}` could not be written into the working tree: {error}"),
                )
                .next("The verified diff is kept; apply it with `git apply`.")
            })?;
        }
        Ok(())
    }
}

/// Opens the repository that holds a path.
pub(crate) fn open(path: &Path) -> Result<Repository, Failure> {
    let not_a_repository =
        || Failure::new(Code::NotARepository, format!("{} is not in a git repository", path.display()));
    let none: [&Path; 0] = [];
    #[expect(clippy::disallowed_methods, reason = "the person's own checkout, named by the person")]
    let opened = Repository::open_ext(path, RepositoryOpenFlags::CROSS_FS, none);
    opened.map_err(|error| match error.code() {
        git2::ErrorCode::NotFound => not_a_repository(),
        git2::ErrorCode::Owner => {
            Failure::new(Code::NotARepository, format!("{} belongs to another user", path.display()))
                .next("Run as its owner, or clone it.")
        }
        _ => not_a_repository().detail(error.message()),
    })
}

fn dirty(repository: &Repository) -> Result<Vec<String>, git2::Error> {
    if repository.is_bare() {
        return Ok(Vec::new());
    }
    let mut options = StatusOptions::new();
    options.include_untracked(true).include_ignored(false).exclude_submodules(true);
    let statuses = repository.statuses(Some(&mut options))?;
    let changed = statuses.iter().filter(|entry| entry.status() != Status::CURRENT);
    Ok(changed.take(100).map(|entry| String::from_utf8_lossy(entry.path_bytes()).into_owned()).collect())
}

fn apply_entry(root: &Path, entry: &PatchEntry) -> std::io::Result<()> {
    let (PatchEntry::Delete(path) | PatchEntry::Write(TreeFile { path, .. })) = entry;
    let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let name = parts.pop().unwrap_or_default();
    let evil = |part: &[u8]| part.is_empty() || part == b"." || part == b".." || part.eq_ignore_ascii_case(b".git");
    if evil(name) || parts.iter().any(|part| evil(part)) {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not one of a work tree"));
    }
    let beneath = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory: OwnedFd = openat(rustix::fs::CWD, root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for part in parts {
        if matches!(entry, PatchEntry::Write(_)) {
            match mkdirat(&directory, part, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        directory = openat(&directory, part, beneath, Mode::empty())?;
    }
    match entry {
        PatchEntry::Delete(_) => unlinkat(&directory, name, AtFlags::empty())?,
        PatchEntry::Write(file) => {
            let temporary = b".onramp-apply.tmp".as_slice();
            let _ = unlinkat(&directory, temporary, AtFlags::empty());
            match file.kind {
                FileKind::Symlink => symlinkat(file.bytes.as_slice(), &directory, temporary)?,
                kind @ (FileKind::Regular | FileKind::Executable) => {
                    let mode = Mode::from_raw_mode(if kind == FileKind::Executable { 0o777 } else { 0o666 });
                    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    File::from(openat(&directory, temporary, create, mode)?).write_all(&file.bytes)?;
                }
            }
            renameat(&directory, temporary, &directory, name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn checkout(root: &Path) -> LocalCheckout {
        let commit = "0123456789012345678901234567890123456789".parse().unwrap();
        LocalCheckout { root: root.to_owned(), commit, branch: None, dirty: Vec::new(), origin: None }
    }

    fn write(path: &str, kind: FileKind, bytes: &[u8]) -> PatchEntry {
        PatchEntry::Write(TreeFile { path: path.into(), kind, bytes: bytes.to_vec() })
    }

    #[test]
    fn files_links_modes_and_deletions_are_put_in_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("old"), "x").unwrap();
        let entries = [
            write("a/b/new", FileKind::Executable, b"#!/bin/sh\n"),
            write("link", FileKind::Symlink, b"a/b/new"),
            write("old/now-a-directory", FileKind::Regular, b"y"),
            PatchEntry::Delete(b"old".to_vec()),
        ];
        checkout(dir.path()).apply(&entries).unwrap();
        let mode = std::fs::metadata(dir.path().join("a/b/new")).unwrap().permissions().mode();
        assert_eq!(mode & 0o100, 0o100);
        assert_eq!(std::fs::read_link(dir.path().join("link")).unwrap(), Path::new("a/b/new"));
        assert_eq!(std::fs::read(dir.path().join("old/now-a-directory")).unwrap(), b"y");
    }

    #[test]
    fn no_path_leads_out_of_the_working_tree() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("esc")).unwrap();
        for path in ["esc/pwned", "../pwned", ".git/hooks/post-commit", ".GIT/config", "a//b", "/etc/pwned", ""] {
            let error = checkout(dir.path()).apply(&[write(path, FileKind::Regular, b"x")]).unwrap_err();
            assert_eq!(error.code, Code::PatchRefused, "{path}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_without_a_repository_and_an_empty_repository_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LocalCheckout::inspect(dir.path(), "HEAD").unwrap_err().code, Code::NotARepository);
        Repository::init(dir.path()).unwrap();
        assert_eq!(LocalCheckout::inspect(dir.path(), "HEAD").unwrap_err().code, Code::BaseNotFound);
        assert_eq!(LocalCheckout::inspect(&dir.path().join("nowhere"), "HEAD").unwrap_err().code, Code::NotARepository);
    }
}
