//! Checkpoints: what the journal adds up to at the end of a segment, so that an index is made anew without reading from the
//! beginning of time, and old segments may go.
//!
//! A checkpoint is made from files alone, by a thread of its own: the checkpoint before it and the closed segments after
//! that are folded into a scratch index, and its rows are written out, framed and chained like the journal's records. Then
//! a record of the journal itself names the hash of the last row, so that a checkpoint can no more be changed unseen than
//! a record can. Nothing waits for it, and one that is missing or damaged is only made again.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    commit::{self, ReplayError},
    frame::{self, FRAME_HEADER_BYTES, Hash, Head, SEGMENT_HEADER_BYTES},
    index::{self, Index, IndexError},
    journal::{self, Damage, JournalError},
};

const EXTENSION: &str = "checkpoint";
/// The last row: no key of the index is empty.
const END_KEY: &[u8] = b"";

/// A checkpoint that was found whole.
#[derive(Debug)]
pub(super) struct Checkpoint {
    path: PathBuf,
    /// The last segment that it covers.
    pub(super) segment: u32,
    /// The last record that it covers.
    pub(super) head: Head,
    /// The hash of its last row.
    pub(super) hash: Hash,
}

/// Where the checkpoint at the end of a segment lies.
pub(super) fn path(journal: &Path, segment: u32) -> PathBuf {
    journal.join(format!("{segment:06}.{EXTENSION}"))
}

/// The segments that have a checkpoint at their end, in order. Whether it is whole is another question.
pub(super) fn all(journal: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(journal)? {
        let path = PathBuf::from(entry?.file_name());
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            numbers.extend(path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok()));
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The newest whole checkpoint at or before the end of a segment.
pub(super) fn newest(journal: &Path, until: u32) -> Result<Option<Checkpoint>, JournalError> {
    for segment in all(journal)?.into_iter().rev().filter(|segment| *segment <= until) {
        match Checkpoint::read(journal, segment, |_, _| Ok(())) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(ReplayError::Journal(JournalError::Damaged(damage))) => {
                tracing::warn!(%damage, "a checkpoint is passed over");
            }
            Err(ReplayError::Journal(error)) => return Err(error),
            Err(error) => return Err(io::Error::other(error.to_string()).into()),
        }
    }
    Ok(None)
}

impl Checkpoint {
    /// Reads all of it and hands over each row.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] names the first row that is wrong; rows before it were handed over.
    pub(super) fn read(
        journal: &Path,
        segment: u32,
        mut each: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), IndexError>,
    ) -> Result<Self, ReplayError> {
        let path = path(journal, segment);
        let mut reader = BufReader::new(File::open(&path).map_err(JournalError::from)?);
        let mut offset = 0;
        let mut chain = Head::default();
        let wrong = |offset: u64, sequence: u64, reason: &str| {
            let damage = Damage { segment: path.clone(), offset, sequence, reason: reason.to_owned() };
            ReplayError::from(JournalError::from(damage))
        };
        let mut header = [0; SEGMENT_HEADER_BYTES];
        fill(&mut reader, &mut header).map_err(|reason| wrong(0, 0, &reason))?;
        let head = frame::checkpoint_start(&header);
        let head = head.ok_or_else(|| wrong(0, 0, "the file does not begin as a checkpoint does"))?;
        offset += SEGMENT_HEADER_BYTES as u64;
        loop {
            let here = |reason: &str| wrong(offset, chain.sequence + 1, reason);
            let mut bytes = vec![0; FRAME_HEADER_BYTES];
            fill(&mut reader, &mut bytes).map_err(|reason| here(&reason))?;
            let len = frame::payload_len(&bytes).ok_or_else(|| here("its length is impossible"))?;
            bytes.resize(FRAME_HEADER_BYTES + len, 0);
            fill(&mut reader, &mut bytes[FRAME_HEADER_BYTES..]).map_err(|reason| here(&reason))?;
            let row = frame::decode(&bytes).map_err(here)?;
            if row.sequence != chain.sequence + 1 || row.previous != chain.hash {
                return Err(here("it does not follow the row before it: something was changed"));
            }
            let (key, value) = split(&bytes[FRAME_HEADER_BYTES..]).ok_or_else(|| here("it is no row"))?;
            chain = Head { sequence: row.sequence, hash: row.hash };
            offset += bytes.len() as u64;
            if key != END_KEY {
                each(key.to_vec(), value.to_vec())?;
                continue;
            }
            if reader.read(&mut [0]).map_err(JournalError::from)? != 0 {
                return Err(wrong(offset, chain.sequence + 1, "there is something after the end"));
            }
            return Ok(Self { path, segment, head, hash: chain.hash });
        }
    }

    /// Puts every row into an empty index. How far that has come is written last: a crash before leaves it empty.
    pub(super) fn load(&self, index: &Index) -> Result<(), ReplayError> {
        let mut loading = index.loading();
        let journal = self.path.parent().unwrap_or(Path::new("."));
        Self::read(journal, self.segment, |key, value| loading.row(key, value))?;
        Ok(loading.finish(self.head)?)
    }
}

/// What making one needs.
pub(super) struct Maker {
    pub(super) journal: PathBuf,
    pub(super) scratch: PathBuf,
    pub(super) lock: Arc<File>,
    /// Told when the queue is closing.
    pub(super) stop: Arc<AtomicBool>,
}

impl Maker {
    /// Makes the checkpoint at the end of a closed segment, unless it is there and whole.
    pub(super) fn make(&self, segment: u32) -> Result<Checkpoint, ReplayError> {
        let base = newest(&self.journal, segment)?;
        if let Some(made) = base.as_ref().filter(|base| base.segment == segment) {
            return Ok(Checkpoint { path: made.path.clone(), ..*made });
        }
        index::remove_dir(&self.scratch).map_err(IndexError::from)?;
        let index = Index::open(&self.scratch, self.lock.clone())?;
        let made = self.fold(&index, base, segment);
        index::close(index);
        index::remove_dir(&self.scratch).map_err(IndexError::from)?;
        made?;
        Checkpoint::read(&self.journal, segment, |_, _| Ok(()))
    }

    fn fold(&self, index: &Index, base: Option<Checkpoint>, segment: u32) -> Result<(), ReplayError> {
        let end = journal::read_start(&self.journal, segment + 1)?;
        commit::replay_from(index, &self.journal, base.as_ref(), None, end, &self.stop)?;
        let path = path(&self.journal, segment);
        let new = path.with_extension("new");
        let mut file = BufWriter::new(File::create(&new).map_err(JournalError::from)?);
        self.write(index, end, &mut file)?;
        let durable = || -> io::Result<()> {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            fs::rename(&new, &path)?;
            journal::sync_dir(&self.journal)
        };
        Ok(durable().map_err(JournalError::from)?)
    }

    fn write(&self, index: &Index, head: Head, file: &mut impl Write) -> Result<(), ReplayError> {
        file.write_all(&frame::checkpoint_header(head)).map_err(JournalError::from)?;
        let mut chain = Head::default();
        let mut bytes = Vec::new();
        let mut row = |key: &[u8], value: &[u8]| -> io::Result<()> {
            bytes.clear();
            let len = u16::try_from(key.len()).map_err(io::Error::other)?;
            let payload = [&len.to_le_bytes(), key, value].concat();
            frame::encode(&mut bytes, &mut chain, 1, &payload);
            file.write_all(&bytes)
        };
        index.each(|key, value| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            Ok(row(key, value)?)
        })?;
        Ok(row(END_KEY, b"end").map_err(JournalError::from)?)
    }
}

fn split(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = payload.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
}

fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> Result<(), String> {
    reader.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is incomplete".to_owned(),
        _ => error.to_string(),
    })
}
