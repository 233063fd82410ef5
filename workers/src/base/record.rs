//! What is known of each base, as one small file each. The time of its last use is the file's own modification time.

use std::{
    fs::{self, File, TryLockError},
    io::Write as _,
    path::PathBuf,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use tasks::{CommitSha, Failure, RepoName, Timestamp, TreeSha};

use crate::sandbox::KeptBase;

/// The version of the record.
const VERSION: u32 = 1;

/// What is known of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Whose it is.
    pub repo: RepoName,
    /// The fingerprint of what made it, but for files.
    pub recipe: String,
    /// The commit of the default branch whose files lie in it.
    pub commit: CommitSha,
    /// The tree of that commit.
    pub tree: TreeSha,
    /// How its backend keeps it.
    pub base: KeptBase,
    /// When it was made.
    pub made_at: Timestamp,
}

impl Record {
    pub(super) fn new(
        repo: &RepoName,
        recipe: String,
        commit: CommitSha,
        tree: TreeSha,
        base: KeptBase,
        made_at: Timestamp,
    ) -> Self {
        Self { version: VERSION, repo: repo.clone(), recipe, commit, tree, base, made_at }
    }
}

/// The directory of the records.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Held by the one process that builds and removes. `None`: another one does.
    pub(super) fn lock(&self) -> std::io::Result<Option<File>> {
        fs::create_dir_all(&self.dir)?;
        let lock = File::options().write(true).create(true).truncate(false).open(self.dir.join("LOCK"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Every record that can be read. What cannot, or was written by another version, is nobody's base: its files are
    /// found by their backend and removed.
    pub(super) fn all(&self) -> Vec<Record> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let read = |path: PathBuf| serde_json::from_slice::<Record>(&fs::read(path).ok()?).ok();
        let known = |record: &Record| record.version == VERSION;
        paths.filter(|path| path.extension().is_some_and(|end| end == "json")).filter_map(read).filter(known).collect()
    }

    /// Writes a record, whole or not at all.
    pub(super) fn put(&self, record: &Record) -> Result<(), Failure> {
        let write = || {
            fs::create_dir_all(&self.dir)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            serde_json::to_writer_pretty(&mut file, record)?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(self.path(&record.base.id)).map_err(|error| error.error)?;
            Ok::<_, std::io::Error>(())
        };
        write().map_err(|error| Failure::internal(format!("the record of a base cannot be written: {error}")))
    }

    /// Notes a use.
    pub(super) fn touch(&self, id: &str) {
        let touched = File::options().write(true).open(self.path(id));
        let touched = touched.and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(base.id = id, %error, "the use of a base could not be noted");
        }
    }

    /// When a base was last used, as far as the file system knows.
    pub(super) fn used_at(&self, id: &str) -> Option<Timestamp> {
        fs::metadata(self.path(id)).and_then(|found| found.modified()).ok().map(Timestamp::from)
    }

    pub(super) fn remove(&self, id: &str) {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(base.id = id, %error, "the record of a base cannot be removed");
            }
            _ => {}
        }
    }
}
