//! The index: what the journal adds up to, in sled, so that questions are answered without reading the journal.
//!
//! It is never the truth. Every write is one atomic batch that carries the sequence and the hash of the last journal
//! record that it contains, and the sum over all rows; what is missing after a crash is replayed, and an index that does
//! not open, panics, takes too long, does not add up, or disagrees with the journal is put aside and made anew. For that
//! reason it is not flushed after each write: sled's own flusher bounds what has to be replayed, and the journal's fsync
//! is the only one that anybody waits for.
//!
//! Traps of sled 0.34 that are closed here: a crash during `open` leaves `snap.*.generating`, which the next `open`
//! takes for the newest snapshot; damaged files can make it panic, and so can a last flush that fails while it is dropped;
//! its threads hold the file's lock for a moment after that; large values are slow, so that requests lie in
//! chunks of their own, written once. Nothing here may be called on a thread of the async runtime.

mod dirs;

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sled::{Batch, Db, Tree};
use tasks::{DedupeKey, Evidence, Month, RepoName, Task, TaskFilter, TaskId};

pub(super) use self::dirs::{copy_aside, remove_dir, set_aside, swap};
use super::{
    budget::{AccountKey, AccountRow},
    journal::Head,
    keys,
    ready::RecoveredPull,
    record::{self, Reported},
    row::{AppliedRow, Row, Sum},
};

const CACHE_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: usize = 48 << 10;
/// Opening reads every row; a hundred thousand tasks take about a second.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);
const ROWS_PER_WRITE: usize = 1000;

/// Why the index did not answer. Whatever it is, the journal still has everything.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("sled panicked: {0}")]
    Panicked(String),
    #[error("{what} in the index is damaged: {reason}")]
    Damaged { what: String, reason: String },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the index is being repaired")]
    Away,
    #[error("the index is still in use by the handle that was closed before")]
    Busy,
}

impl IndexError {
    /// Whether the index itself is sound and only its surroundings do not let us at it now: then it is kept.
    pub(super) fn is_passing(&self) -> bool {
        let of_surroundings = |error: &io::Error| {
            use io::ErrorKind as K;
            matches!(
                error.kind(),
                K::StorageFull | K::QuotaExceeded | K::PermissionDenied | K::ReadOnlyFilesystem | K::WouldBlock
            )
        };
        match self {
            Self::Sled(sled::Error::Io(error)) | Self::Io(error) => of_surroundings(error),
            Self::Busy | Self::Away => true,
            Self::Sled(_) | Self::Panicked(_) | Self::Damaged { .. } => false,
        }
    }
}

/// A task and what only the queue knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) task: Task,
    /// The last record that changed it: a replay passes over what is already in.
    pub(super) sequence: u64,
    /// The record that made it: its age.
    pub(super) enqueued: u64,
    pub(super) reported: Option<Reported>,
}

/// Everything that a group of records changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) tasks: BTreeMap<TaskId, Stored>,
    /// Those of them whose request is not stored yet.
    pub(super) new: HashSet<TaskId>,
    pub(super) keys: HashMap<DedupeKey, TaskId>,
    pub(super) observed: HashSet<DedupeKey>,
    pub(super) pull_requests: HashMap<(RepoName, u64), TaskId>,
    pub(super) evidence: HashMap<TaskId, Box<Evidence>>,
    pub(super) cursors: HashMap<String, u64>,
    pub(super) accounts: HashMap<AccountKey, AccountRow>,
}

/// An index that takes so many times the bytes of its rows, and is not small, is copied into a fresh one.
const BLOATED: u64 = 16;
const SMALL_BYTES: u64 = 64 << 20;

pub(super) struct Index {
    db: Db,
    rows: Tree,
    sum: Mutex<Sum>,
    /// Released last, when sled is closed.
    _lock: Arc<File>,
}

impl Index {
    /// Opens it, and looks at every row: what does not add up is an error, never a smaller answer.
    pub(super) fn open(dir: &Path, lock: Arc<File>) -> Result<Self, IndexError> {
        dirs::wait_until_closed(dir)?;
        dirs::remove_unfinished_snapshots(dir)?;
        let dir = dir.to_owned();
        within(OPEN_TIMEOUT, move || {
            guarded(|| {
                let db = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).open()?;
                let rows = db.open_tree("rows")?;
                let sum = checked_sum(&rows)?;
                Ok(Self { db, rows, sum: Mutex::new(sum), _lock: lock })
            })
        })
    }

    /// The last journal record that it contains.
    pub(super) fn applied(&self) -> Result<Head, IndexError> {
        match self.get(keys::APPLIED)? {
            Some(bytes) => place(&bytes)?.head().ok_or_else(|| damaged("the place", "its hash is none")),
            None => Ok(Head::default()),
        }
    }

    /// Takes the changes in, all or none.
    pub(super) fn write(&self, changes: &Changes, head: Head) -> Result<(), IndexError> {
        self.put(rows_of(changes)?, head)
    }

    fn put(&self, rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>, head: Head) -> Result<(), IndexError> {
        let mut known = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = *known;
        let mut batch = Batch::default();
        for (key, value) in rows {
            if let Some(old) = guarded(|| Ok(self.rows.get(&key)?))? {
                sum.take(&key, &old);
            }
            match value {
                Some(value) => {
                    sum.add(&key, &value);
                    batch.insert(key, value);
                }
                None => batch.remove(key),
            }
        }
        batch.insert(keys::APPLIED, encode("the place", &AppliedRow::new(head, sum))?);
        guarded(|| Ok(self.rows.apply_batch(batch)?))?;
        *known = sum;
        Ok(())
    }

    pub(super) fn flush(&self) -> Result<(), IndexError> {
        guarded(|| self.db.flush().map(drop).map_err(IndexError::from))
    }

    /// Whether it takes far more room than what it holds.
    pub(super) fn is_bloated(&self) -> Result<bool, IndexError> {
        let on_disk = guarded(|| Ok(self.db.size_on_disk()?))?;
        let live = self.sum.lock().unwrap_or_else(PoisonError::into_inner).bytes;
        Ok(on_disk > SMALL_BYTES && on_disk > live.saturating_mul(BLOATED))
    }

    /// Copies every row into a fresh index in `dir`, which must not be there, and closes that.
    pub(super) fn copy_to(&self, dir: &Path) -> Result<(), IndexError> {
        let fresh = Self::open(dir, self._lock.clone())?;
        let copied = self.copy_rows(&fresh).and_then(|()| fresh.flush());
        close(fresh);
        copied
    }

    fn copy_rows(&self, fresh: &Self) -> Result<(), IndexError> {
        let mut loading = fresh.loading();
        self.each(|key, value| loading.row(key.to_vec(), value.to_vec()))?;
        loading.finish(self.applied()?)
    }

    /// Hands over every row, but for how far it has come.
    pub(super) fn each(&self, mut row: impl FnMut(&[u8], &[u8]) -> Result<(), IndexError>) -> Result<(), IndexError> {
        let mut iter = guarded(|| Ok(self.rows.iter()))?;
        while let Some((key, value)) = guarded(|| Ok(iter.next().transpose()?))? {
            if &*key != keys::APPLIED {
                row(&key, &value)?;
            }
        }
        Ok(())
    }

    /// Begins to fill an empty index.
    pub(super) fn loading(&self) -> Loading<'_> {
        Loading { index: self, rows: BTreeMap::new() }
    }

    pub(super) fn task(&self, id: TaskId) -> Result<Option<Stored>, IndexError> {
        match self.get(&keys::task(id))? {
            Some(bytes) => self.stored(id, decode("a task", &bytes)?).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn task_of_key(&self, key: &DedupeKey) -> Result<Option<TaskId>, IndexError> {
        id_in(self.get(&keys::dedupe(key))?)
    }

    pub(super) fn task_of_pull_request(&self, repo: &RepoName, number: u64) -> Result<Option<TaskId>, IndexError> {
        id_in(self.get(&keys::pull_request(repo, number))?)
    }

    pub(super) fn was_observed(&self, key: &DedupeKey) -> Result<bool, IndexError> {
        Ok(self.get(&keys::observed(key))?.is_some())
    }

    pub(super) fn evidence(&self, id: TaskId) -> Result<Option<Evidence>, IndexError> {
        self.get(&keys::evidence(id))?.map(|bytes| decode("evidence", &bytes)).transpose()
    }

    /// What an account used in a month.
    pub(super) fn account(&self, month: Month, account: &str) -> Result<Option<AccountRow>, IndexError> {
        self.get(&keys::account(month, account))?.map(|bytes| decode("an account", &bytes)).transpose()
    }

    /// All accounts that used something in a month.
    pub(super) fn accounts(&self, month: Month) -> Result<Vec<AccountRow>, IndexError> {
        let prefix = keys::accounts(month);
        let rows = guarded(|| Ok(self.rows.scan_prefix(prefix).values().collect::<Result<Vec<_>, _>>()?))?;
        rows.iter().map(|bytes| decode("an account", bytes)).collect()
    }

    pub(super) fn cursor(&self, name: &str) -> Result<Option<u64>, IndexError> {
        let bytes = self.get(&keys::cursor(name))?;
        bytes.map(|bytes| keys::number(&bytes).ok_or_else(|| damaged("a cursor", "not a number"))).transpose()
    }

    /// How far the slowest reader of events has come; `None`: there is none.
    pub(super) fn slowest_cursor(&self) -> Result<Option<u64>, IndexError> {
        let rows = guarded(|| Ok(self.rows.scan_prefix([keys::CURSOR]).values().collect::<Result<Vec<_>, _>>()?))?;
        let cursors = rows.iter().map(|bytes| keys::number(bytes).ok_or_else(|| damaged("a cursor", "not a number")));
        Ok(cursors.collect::<Result<Vec<_>, _>>()?.into_iter().min())
    }

    /// Newest first.
    pub(super) fn list(&self, filter: &TaskFilter) -> Result<Vec<Task>, IndexError> {
        let letter = if filter.unfinished { keys::UNFINISHED } else { keys::AGE };
        // Records are counted from one, so nothing is older than one that is not known.
        let before = filter.before.map(|id| self.task(id)).transpose()?;
        let before = before.map_or(u64::MAX, |stored| stored.map_or(1, |stored| stored.enqueued));
        let ages = keys::listed(letter, 0)..keys::listed(letter, before);
        let mut found = Vec::new();
        let mut rows = guarded(|| Ok(self.rows.range(ages).rev()))?;
        while filter.limit.is_none_or(|limit| found.len() < limit) {
            let Some((_, id)) = guarded(|| Ok(rows.next().transpose()?))? else { break };
            let Some(id) = id_in(Some(id))? else { continue };
            let row = self.get(&keys::task(id))?.ok_or_else(|| damaged("a task", "it is listed and not there"))?;
            let row: Row = decode("a task", &row)?;
            let fits = filter.repo.as_ref().is_none_or(|repo| *repo == row.repo);
            // Between the two reads it may have ended.
            if fits && (!filter.unfinished || row.state.is_unfinished()) {
                found.push(self.stored(id, row)?.task);
            }
        }
        Ok(found)
    }

    /// The tasks that opened pull requests, as far as those matter. Their requests are not read.
    pub(super) fn pulls(&self) -> Result<Vec<RecoveredPull>, IndexError> {
        let ids =
            guarded(|| Ok(self.rows.scan_prefix([keys::PULL_REQUEST]).values().collect::<Result<Vec<_>, _>>()?))?;
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let task = id_in(Some(id))?.ok_or_else(|| damaged("the list of pull requests", "an empty entry"))?;
            let bytes = self.get(&keys::task(task))?.ok_or_else(|| damaged("a task", "its pull request is there"))?;
            let Row { repo, state, updated_at, noticed_at, .. } = decode("a task", &bytes)?;
            found.push(RecoveredPull { task, repo, state, updated_at, noticed_at });
        }
        Ok(found)
    }

    /// All tasks that are queued or running, oldest first.
    pub(super) fn unfinished(&self) -> Result<Vec<Stored>, IndexError> {
        let rows =
            guarded(|| Ok(self.rows.scan_prefix([keys::UNFINISHED]).values().collect::<Result<Vec<_>, _>>()?))?;
        let mut found = Vec::with_capacity(rows.len());
        for id in rows {
            let id = id_in(Some(id))?.ok_or_else(|| damaged("the list of unfinished tasks", "an empty entry"))?;
            found.push(self.task(id)?.ok_or_else(|| damaged("a task", "it is listed and not there"))?);
        }
        Ok(found)
    }

    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, IndexError> {
        guarded(|| Ok(self.rows.get(key)?))
    }

    fn stored(&self, id: TaskId, row: Row) -> Result<Stored, IndexError> {
        let mut request = Vec::new();
        for n in 0..=u16::MAX {
            match self.get(&keys::request_chunk(id, n))? {
                Some(chunk) => request.extend_from_slice(&chunk),
                None => break,
            }
        }
        Ok(row.with(id, decode("a request", &request)?))
    }
}

/// An index while it is filled with rows from elsewhere.
pub(super) struct Loading<'a> {
    index: &'a Index,
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Loading<'_> {
    pub(super) fn row(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), IndexError> {
        self.rows.insert(key, Some(value));
        if self.rows.len() >= ROWS_PER_WRITE {
            // Not before the end does it say how far it has come: a crash in between leaves one that is filled anew.
            self.index.put(std::mem::take(&mut self.rows), Head::default())?;
        }
        Ok(())
    }

    pub(super) fn finish(self, head: Head) -> Result<(), IndexError> {
        self.index.put(self.rows, head)
    }
}

/// The rows that these changes leave; `None`: there is none any more.
fn rows_of(changes: &Changes) -> Result<BTreeMap<Vec<u8>, Option<Vec<u8>>>, IndexError> {
    let mut rows = BTreeMap::new();
    for (id, stored) in &changes.tasks {
        if changes.new.contains(id) {
            let request = encode("a request", &stored.task.request)?;
            for (n, chunk) in (0..).zip(request.chunks(CHUNK_BYTES)) {
                rows.insert(keys::request_chunk(*id, n), Some(chunk.to_vec()));
            }
            rows.insert(keys::age(stored.enqueued), Some(id.as_bytes().to_vec()));
        }
        rows.insert(keys::task(*id), Some(encode("a task", &Row::from(stored))?));
        let listed = stored.task.state.is_unfinished().then(|| id.as_bytes().to_vec());
        rows.insert(keys::unfinished(stored.enqueued), listed);
    }
    rows.extend(changes.keys.iter().map(|(key, id)| (keys::dedupe(key), Some(id.as_bytes().to_vec()))));
    rows.extend(changes.observed.iter().map(|key| (keys::observed(key), Some(Vec::new()))));
    rows.extend(changes.cursors.iter().map(|(name, n)| (keys::cursor(name), Some(n.to_be_bytes().to_vec()))));
    let pull_requests = changes.pull_requests.iter();
    rows.extend(pull_requests.map(|((repo, n), id)| (keys::pull_request(repo, *n), Some(id.as_bytes().to_vec()))));
    for (id, value) in &changes.evidence {
        rows.insert(keys::evidence(*id), Some(encode("evidence", value)?));
    }
    for ((month, account), row) in &changes.accounts {
        rows.insert(keys::account(*month, account), Some(encode("an account", row)?));
    }
    Ok(rows)
}

/// What the rows add up to, which has to be what the last write noted.
fn checked_sum(rows: &Tree) -> Result<Sum, IndexError> {
    let mut sum = Sum::default();
    let mut noted = None;
    for row in rows {
        let (key, value) = row?;
        if &*key == keys::APPLIED {
            noted = Some(place(&value)?);
        } else {
            sum.add(&key, &value);
        }
    }
    let right = noted.map_or(sum == Sum::default(), |noted| noted.adds_up(sum));
    if right { Ok(sum) } else { Err(damaged("the index", "its rows do not add up to what was written")) }
}

fn place(bytes: &[u8]) -> Result<AppliedRow, IndexError> {
    decode("the place", bytes)
}

/// Opening may loop for ever on files that a crash or a disk has damaged; then it is left behind, and what it holds with it.
fn within<T: Send + 'static>(
    limit: Duration,
    open: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("open-index".to_owned()).spawn(move || {
        // Nobody waits any more: what was opened too late is closed again.
        if let Err(mpsc::SendError(late)) = sender.send(open()) {
            close(late);
        }
    })?;
    receiver.recv_timeout(limit).unwrap_or_else(|_| Err(damaged("the index", "it does not open in time")))
}

/// Lets go of an index, or of what may hold one. sled's last flush panics when it fails.
pub(super) fn close<T>(index: T) {
    if let Err(error) = guarded(|| {
        drop(index);
        Ok(())
    }) {
        tracing::warn!(%error, "the index was not closed cleanly; it will be brought up to date from the journal");
    }
}

/// sled reports some damage by a panic; here it becomes an error like any other.
fn guarded<T>(f: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(IndexError::Panicked(panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    text.unwrap_or("no message").chars().take(300).collect()
}

fn id_in(value: Option<sled::IVec>) -> Result<Option<TaskId>, IndexError> {
    value.map(|bytes| keys::task_id(&bytes).ok_or_else(|| damaged("an id", "not 16 bytes"))).transpose()
}

fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, IndexError> {
    record::encode(value).map_err(|error| damaged(what, error))
}

fn decode<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T, IndexError> {
    record::decode(bytes).map_err(|error| damaged(what, error))
}

fn damaged(what: &str, reason: impl ToString) -> IndexError {
    IndexError::Damaged { what: what.to_owned(), reason: reason.to_string() }
}
