//! The journal as the audit log: is it whole, is it the one that an anchor was taken of, and what does it say.
//!
//! Everything here only reads, so that it can be asked of a journal that is in use, and of a copy on another machine.

use std::path::Path;

use tasks::{Anchor, RepoName, TaskId, Timestamp};

use super::{
    QueueRecord,
    checkpoint::Checkpoint,
    commit::ReplayError,
    frame::{Hash, Head},
    journal::{self, Damage, JournalError, Walk},
    record,
};

/// What a whole, sound journal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many records.
    pub n_records: u64,
    /// In how many files.
    pub n_segments: u64,
    /// How many checkpoints were looked at too.
    pub n_checkpoints: u64,
    /// The first record that is kept; those before it are in a checkpoint.
    pub first: u64,
    /// The last record: the hash that stands for everything before it.
    pub head: Head,
    /// The end of a write that is under way, or that a crash cut short. It was never acknowledged.
    pub unfinished: Option<Damage>,
}

impl Summary {
    /// The end of the journal, for safe-keeping elsewhere.
    pub fn anchor(&self) -> Anchor {
        Anchor { sequence: self.head.sequence, hash: self.head.hash.to_string() }
    }
}

/// Why a journal is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A record or a checkpoint is wrong, or cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal is whole, and ends before the anchor.
    #[error(
        "the journal ends at record {end}, and the anchor knows record {anchor}: its end was cut off, or it is an older copy"
    )]
    Cut {
        /// Its last record.
        end: u64,
        /// The anchor's record.
        anchor: u64,
    },
    /// The journal is whole, and is another one.
    #[error("record {sequence} is {found}, and the anchor says {expected}: the journal was written anew")]
    Other {
        /// The anchor's record.
        sequence: u64,
        /// What the journal has there.
        found: String,
        /// What the anchor says.
        expected: String,
    },
    /// The anchor's record is no more.
    #[error("the anchor knows record {anchor}, and the first one that is kept is {first}")]
    Gone {
        /// The first record.
        first: u64,
        /// The anchor's record.
        anchor: u64,
    },
}

/// Reads the whole journal in `dir` and checks every checksum, every link of the chain, every checkpoint, and, if one is
/// given, the anchor. Changes nothing.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(dir: &Path, anchor: Option<&Anchor>) -> Result<Summary, AuditError> {
    let numbers = journal::segments(dir)?;
    let mut walk = Walk::from_start(dir)?;
    let start = walk.head();
    let mut checked = Checked { dir, named: Vec::new(), n_checkpoints: 0 };
    checked.at_end_of(numbers.first().copied().unwrap_or(1) - 1, start)?;
    let mut anchored = anchor.is_some_and(|anchor| is(anchor, start)).then_some(start);
    let mut n_records = 0;
    let mut unfinished = None;
    loop {
        let segment = walk.segment();
        let before = walk.head();
        let entry = match walk.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(JournalError::Damaged(damage))
                if numbers.last() == Some(&segment) && walk.may_be_torn(&damage, 0)? =>
            {
                unfinished = Some(damage);
                break;
            }
            Err(error) => return Err(error.into()),
        };
        if walk.segment() != segment {
            checked.at_end_of(segment, before)?;
        }
        n_records += 1;
        if anchor.is_some_and(|anchor| anchor.sequence == entry.head.sequence) {
            anchored = Some(entry.head);
        }
        checked.named_by(&entry.payload);
    }
    checked.named_ones()?;
    let head = walk.head();
    match (anchor, anchored) {
        (Some(anchor), Some(found)) if !is(anchor, found) => {
            let (sequence, expected) = (anchor.sequence, anchor.hash.clone());
            return Err(AuditError::Other { sequence, found: found.hash.to_string(), expected });
        }
        (Some(anchor), None) if anchor.sequence > head.sequence => {
            return Err(AuditError::Cut { end: head.sequence, anchor: anchor.sequence });
        }
        (Some(anchor), None) => return Err(AuditError::Gone { first: start.sequence + 1, anchor: anchor.sequence }),
        (Some(_), Some(_)) | (None, _) => {}
    }
    let (n_segments, first) = (numbers.len() as u64, start.sequence + 1);
    Ok(Summary { n_records, n_segments, n_checkpoints: checked.n_checkpoints, first, head, unfinished })
}

fn is(anchor: &Anchor, head: Head) -> bool {
    anchor.sequence == head.sequence && anchor.hash.parse::<Hash>().is_ok_and(|hash| hash == head.hash)
}

/// Checkpoints, as far as they were compared with the journal.
struct Checked<'a> {
    dir: &'a Path,
    /// What records say that checkpoints are.
    named: Vec<(u32, Hash)>,
    n_checkpoints: u64,
}

impl Checked<'_> {
    /// The checkpoint at the end of a segment, if there is one, ends where the segment does.
    fn at_end_of(&mut self, segment: u32, head: Head) -> Result<(), JournalError> {
        let path = super::checkpoint::path(self.dir, segment);
        if segment == 0 || !path.exists() {
            return Ok(());
        }
        let checkpoint = self.read(segment)?;
        if checkpoint.head != head {
            return Err(self.damage(segment, "it does not end where the journal's segment does").into());
        }
        self.n_checkpoints += 1;
        Ok(())
    }

    fn named_by(&mut self, payload: &[u8]) {
        // Only so much of each record is looked at: a million of them have to be read in seconds.
        let may_name = payload.windows(b"checkpointed".len()).take(64).any(|window| window == b"checkpointed");
        if may_name
            && let Ok(QueueRecord::Checkpointed { segment, hash }) = record::decode(payload)
            && let Ok(hash) = hash.parse()
        {
            self.named.push((segment, hash));
        }
    }

    fn named_ones(&mut self) -> Result<(), JournalError> {
        for (segment, hash) in std::mem::take(&mut self.named) {
            if super::checkpoint::path(self.dir, segment).exists() && self.read(segment)?.hash != hash {
                return Err(self.damage(segment, "it is not the one that the journal names").into());
            }
        }
        Ok(())
    }

    fn read(&self, segment: u32) -> Result<Checkpoint, JournalError> {
        Checkpoint::read(self.dir, segment, |_, _| Ok(())).map_err(|error| match error {
            ReplayError::Journal(error) => error,
            other => std::io::Error::other(other.to_string()).into(),
        })
    }

    fn damage(&self, segment: u32, reason: &str) -> Damage {
        let path = super::checkpoint::path(self.dir, segment);
        Damage { segment: path, offset: 0, sequence: 0, reason: reason.to_owned() }
    }
}

/// Which records to show.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only those about this task.
    pub task: Option<TaskId>,
    /// Only those about this repository or its tasks.
    pub repo: Option<RepoName>,
    /// Only those of this kind: `enqueued`, `joined`, `observed`, …, or what happened to a task: `leased`, `finished`, …
    pub kind: Option<String>,
    /// Only those from this moment on.
    pub since: Option<Timestamp>,
}

/// Hands every record that is wanted to `each`, with its number, until that says stop. Checks the chain on the way.
///
/// # Errors
/// The first bad record; those before it were shown. A write that is under way ends the reading without one.
pub fn show(dir: &Path, wanted: &Wanted, mut each: impl FnMut(u64, &QueueRecord) -> bool) -> Result<(), JournalError> {
    let last = journal::segments(dir)?.last().copied();
    let mut walk = Walk::from_start(dir)?;
    // Tasks of the repository that is asked for: most records name only the task.
    let mut theirs = std::collections::HashSet::new();
    loop {
        let here = walk.damage_here();
        let entry = match walk.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(()),
            Err(JournalError::Damaged(damage)) if last == Some(walk.segment()) && walk.may_be_torn(&damage, 0)? => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let record: QueueRecord =
            record::decode(&entry.payload).map_err(|error| JournalError::unreadable(here, error))?;
        if let (Some(repo), QueueRecord::Enqueued { task }) = (&wanted.repo, &record)
            && task.request.repo == *repo
        {
            theirs.insert(task.id);
        }
        let of_repo = wanted
            .repo
            .as_ref()
            .is_none_or(|repo| record.repo() == Some(repo) || record.task().is_some_and(|task| theirs.contains(&task)));
        let fits = of_repo
            && wanted.task.is_none_or(|task| record.task() == Some(task))
            && wanted.kind.as_ref().is_none_or(|kind| record.kinds().contains(&Some(kind.as_str())))
            && wanted.since.is_none_or(|since| record.at().is_some_and(|at| at >= since));
        if fits && !each(entry.head.sequence, &record) {
            return Ok(());
        }
    }
}
