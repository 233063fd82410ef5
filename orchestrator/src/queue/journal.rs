//! The journal: the truth about every task, the audit log, and the outbox of whoever tells others.
//!
//! Records are appended to segment files, `000001.log` and on, and made durable with one `fdatasync` for everything
//! that was waiting; only then is anything acknowledged. sled alone cannot promise that: its `flush` is no fsync on
//! Linux, and it may lose rows without an error.
//!
//! After a failed write or fsync the file handle is never used again: the kernel may have marked the lost pages clean,
//! and a second fsync would lie. The next write opens the file anew, cuts it back to the last record that was made
//! durable, and carries on, so that a disk that was full heals by itself.
//!
//! Segments are followed by the next one when they are long, and are kept for ever unless the operator says otherwise:
//! then one may go once a checkpoint stands for it, and the chain goes on from the checkpoint.

mod prune;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use super::frame::{Hash, Head};
use super::{
    checkpoint,
    frame::{self, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES},
    record::DecodeError,
};

/// One mark for so many records: how far a reader has to skip at most.
const RECORDS_PER_MARK: u64 = 64;

/// The first bad record of a journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {sequence} at byte {offset} of {}: {reason}", segment.display())]
pub struct Damage {
    /// The file.
    pub segment: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// Which record should be there.
    pub sequence: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It is damaged, and was left as it is.
    #[error("the journal is damaged: {0}")]
    Damaged(#[from] Damage),
    /// A newer version of Onramp wrote to it.
    #[error("record {sequence} has version {version}, which a newer Onramp wrote")]
    Newer {
        /// Which record.
        sequence: u64,
        /// Its version.
        version: u32,
    },
    /// It cannot be read or written.
    #[error("the journal cannot be used: {0}")]
    Io(#[from] io::Error),
}

impl JournalError {
    /// A record that is whole and says nothing that can be read.
    pub(super) fn unreadable(damage: Damage, error: DecodeError) -> Self {
        match error {
            DecodeError::Newer(version) => Self::Newer { sequence: damage.sequence, version },
            DecodeError::Json(_) => Damage { reason: error.to_string(), ..damage }.into(),
        }
    }
}

/// The one writer of a journal.
pub(super) struct Journal {
    dir: PathBuf,
    segment: u32,
    segment_bytes: u64,
    /// `None` after a failed write, until the next one.
    file: Option<File>,
    /// Where the last durable record ends.
    end: u64,
    head: Head,
    marks: Marks,
}

impl Journal {
    /// Opens the journal in `dir`, or begins one. A last record that a crash cut short is put aside and cut off.
    ///
    /// `durable`: the last sequence that is known from elsewhere to have been made durable.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] for a bad record that is not the end of an unfinished write.
    pub(super) fn open(dir: &Path, segment_bytes: u64, durable: u64) -> Result<Self, JournalError> {
        fs::create_dir_all(dir)?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        prune::finish(dir)?;
        let numbers = segments(dir)?;
        let marks = Marks::default();
        let Some(&segment) = numbers.last() else {
            if let Some(covered) = checkpoint::all(dir)?.last() {
                return Err(damaged_start(dir, covered + 1, "the file is missing").into());
            }
            create_segment(dir, 1, Head::default())?;
            let file = OpenOptions::new().append(true).open(segment_path(dir, 1))?;
            marks.add(1, 1, SEGMENT_HEADER_BYTES as u64);
            let end = SEGMENT_HEADER_BYTES as u64;
            let head = Head::default();
            return Ok(Self { dir: dir.to_owned(), segment: 1, segment_bytes, file: Some(file), end, head, marks });
        };
        for &number in &numbers {
            marks.add(read_start(dir, number)?.sequence + 1, number, SEGMENT_HEADER_BYTES as u64);
        }
        let mut walk = Walk::at_segment(dir, segment)?;
        loop {
            let (offset, sequence) = (walk.offset, walk.head.sequence + 1);
            match walk.next() {
                Ok(Some(_)) => marks.add_some(sequence, segment, offset),
                Ok(None) => break,
                Err(JournalError::Damaged(damage)) if walk.may_be_torn(&damage, durable)? => {
                    cut(&damage)?;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let file = OpenOptions::new().append(true).open(segment_path(dir, segment))?;
        let (end, head) = (walk.offset, walk.head);
        Ok(Self { dir: dir.to_owned(), segment, segment_bytes, file: Some(file), end, head, marks })
    }

    /// The last durable record.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// The segment that is written to.
    pub(super) fn segment(&self) -> u32 {
        self.segment
    }

    /// For readers: where records lie.
    pub(super) fn marks(&self) -> Marks {
        self.marks.clone()
    }

    /// Appends the payloads as one group and makes them durable.
    ///
    /// # Errors
    /// Nothing of the group counts as written. The next call starts from the last durable record.
    pub(super) fn append(&mut self, payloads: &[Vec<u8>]) -> io::Result<()> {
        if payloads.is_empty() {
            return Ok(());
        }
        if self.end >= self.segment_bytes {
            self.rotate()?;
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.reopen()?,
        };
        let mut head = self.head;
        let mut bytes = Vec::new();
        let mut offsets = Vec::with_capacity(payloads.len());
        for payload in payloads {
            offsets.push((head.sequence + 1, self.end + bytes.len() as u64));
            frame::encode(&mut bytes, &mut head, self.head.sequence + 1, payload);
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        for (sequence, offset) in offsets {
            self.marks.add_some(sequence, self.segment, offset);
        }
        self.file = Some(file);
        self.end += bytes.len() as u64;
        self.head = head;
        Ok(())
    }

    fn reopen(&self) -> io::Result<File> {
        let path = segment_path(&self.dir, self.segment);
        let file = OpenOptions::new().append(true).open(&path)?;
        if file.metadata()?.len() < self.end {
            return Err(io::Error::other(format!("{} is shorter than what was written to it", path.display())));
        }
        file.set_len(self.end)?;
        file.sync_all()?;
        Ok(file)
    }

    fn rotate(&mut self) -> io::Result<()> {
        // The old file must end with a whole record before anything can follow it.
        if self.file.is_none() {
            self.file = Some(self.reopen()?);
        }
        create_segment(&self.dir, self.segment + 1, self.head)?;
        self.segment += 1;
        self.end = SEGMENT_HEADER_BYTES as u64;
        self.marks.add(self.head.sequence + 1, self.segment, self.end);
        self.file = None;
        Ok(())
    }
}

/// Known positions of records, shared between the writer and the readers.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    places: BTreeMap<u64, (u32, u64)>,
    /// Records before this one are gone, also for a reader that still has their file open.
    first: u64,
}

impl Marks {
    fn add(&self, sequence: u64, segment: u32, offset: u64) {
        let mut known = self.known();
        if sequence >= known.first {
            known.places.insert(sequence, (segment, offset));
        }
    }

    fn add_some(&self, sequence: u64, segment: u32, offset: u64) {
        if sequence.is_multiple_of(RECORDS_PER_MARK) {
            self.add(sequence, segment, offset);
        }
    }

    fn forget_before(&self, sequence: u64) {
        let mut known = self.known();
        known.places = known.places.split_off(&sequence);
        known.first = sequence;
    }

    /// The last known record at or before `sequence`; where those are gone, the first that is left.
    fn before(&self, sequence: u64) -> Option<(u64, (u32, u64))> {
        let known = self.known();
        let nearest = known.places.range(..=sequence).next_back().or_else(|| known.places.first_key_value());
        nearest.map(|(sequence, place)| (*sequence, *place))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One record as a reader gets it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) head: Head,
    pub(super) payload: Vec<u8>,
}

/// Reads records in order, over the ends of segments, and checks each one and its link to the one before.
pub(super) struct Walk {
    dir: PathBuf,
    segment: u32,
    reader: BufReader<File>,
    len: u64,
    /// Where the next record begins.
    offset: u64,
    /// The record before it.
    head: Head,
    /// False until the first record, where reading begins in the middle: then the link to the one before is unknown.
    linked: bool,
}

impl Walk {
    /// From the first record.
    pub(super) fn from_start(dir: &Path) -> Result<Self, JournalError> {
        Self::at_segment(dir, segments(dir)?.first().copied().unwrap_or(1))
    }

    /// From a record at or before `sequence`, as near as is known; where those are gone, from the first that is left.
    pub(super) fn near(dir: &Path, marks: &Marks, sequence: u64) -> Result<Self, JournalError> {
        loop {
            let Some(place) = marks.before(sequence) else { return Self::from_start(dir) };
            match Self::at_mark(dir, place) {
                // Removed since it was looked up: then the mark is gone too.
                Err(JournalError::Io(error))
                    if error.kind() == io::ErrorKind::NotFound && marks.before(sequence) != Some(place) => {}
                walk => return walk,
            }
        }
    }

    fn at_mark(dir: &Path, (marked, (segment, offset)): (u64, (u32, u64))) -> Result<Self, JournalError> {
        let mut walk = Self::at_segment(dir, segment)?;
        if offset > walk.offset {
            walk.reader.seek(SeekFrom::Start(offset))?;
            walk.offset = offset;
            walk.head.sequence = marked - 1;
            walk.linked = false;
        }
        Ok(walk)
    }

    /// From the first record of a segment.
    pub(super) fn at_segment(dir: &Path, segment: u32) -> Result<Self, JournalError> {
        let head = read_start(dir, segment)?;
        let mut file = File::open(segment_path(dir, segment))?;
        let len = file.metadata()?.len();
        let offset = file.seek(SeekFrom::Start(SEGMENT_HEADER_BYTES as u64))?;
        Ok(Self { dir: dir.to_owned(), segment, reader: BufReader::new(file), len, offset, head, linked: true })
    }

    /// The next record; `None` at the end of the last segment.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, JournalError> {
        while self.offset == self.len {
            let next = match Self::at_segment(&self.dir, self.segment + 1) {
                Err(JournalError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                next => next?,
            };
            if self.linked && next.head != self.head {
                return Err(next.damage("the segment does not carry on where the one before it ends").into());
            }
            *self = next;
        }
        let mut bytes = vec![0; FRAME_HEADER_BYTES];
        self.fill(&mut bytes, 0)?;
        let payload_len = frame::payload_len(&bytes).ok_or_else(|| self.damage("its length is impossible"))?;
        bytes.resize(FRAME_HEADER_BYTES + payload_len, 0);
        self.fill(&mut bytes, FRAME_HEADER_BYTES)?;
        let frame = frame::decode(&bytes).map_err(|reason| self.damage(reason))?;
        if frame.sequence != self.head.sequence + 1 {
            return Err(self.damage(format!("it says that it is record {}", frame.sequence)).into());
        }
        if self.linked && frame.previous != self.head.hash {
            return Err(self.damage("it does not follow the record before it: something was changed").into());
        }
        self.head = Head { sequence: frame.sequence, hash: frame.hash };
        self.linked = true;
        self.offset += bytes.len() as u64;
        bytes.drain(..FRAME_HEADER_BYTES);
        Ok(Some(Entry { head: self.head, payload: bytes }))
    }

    fn fill(&mut self, bytes: &mut [u8], from: usize) -> Result<(), JournalError> {
        if self.offset + bytes.len() as u64 > self.len {
            return Err(self.damage("it is incomplete").into());
        }
        Ok(self.reader.read_exact(&mut bytes[from..])?)
    }

    /// The segment that it is in.
    pub(super) fn segment(&self) -> u32 {
        self.segment
    }

    /// The last record that was read.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Lets later readers begin here.
    pub(super) fn mark(&self, marks: &Marks) {
        marks.add_some(self.head.sequence + 1, self.segment, self.offset);
    }

    /// The first record, where those before it are missing.
    pub(super) fn damage_before(&self, reason: &str) -> Damage {
        self.damage(reason)
    }

    /// Where the next record lies, for whoever finds something wrong with what it says.
    pub(super) fn damage_here(&self) -> Damage {
        self.damage("")
    }

    fn damage(&self, reason: impl Into<String>) -> Damage {
        Damage {
            segment: segment_path(&self.dir, self.segment),
            offset: self.offset,
            sequence: self.head.sequence + 1,
            reason: reason.into(),
        }
    }

    /// Whether what is wrong can be a write that a crash cut short, and so was never acknowledged.
    ///
    /// It cannot when the record itself is whole (somebody changed the chain), or when a whole record of a later group
    /// follows: groups are written one after the other was made durable. Records of the *same* group prove nothing,
    /// since the disk may have kept the later page and lost the earlier one. What the index has was durable before.
    pub(super) fn may_be_torn(&self, damage: &Damage, durable: u64) -> Result<bool, JournalError> {
        let mut file = File::open(&damage.segment)?;
        file.seek(SeekFrom::Start(damage.offset))?;
        let mut rest = Vec::new();
        file.read_to_end(&mut rest)?;
        if frame::decode(&rest).is_ok() {
            return Ok(false);
        }
        let follows = frame::newest_group_in(&rest[1..], damage.sequence);
        Ok(damage.sequence > durable && follows.is_none_or(|group| group <= damage.sequence))
    }
}

/// Cuts off what a crash left unfinished. The bytes are kept beside the journal for whoever wants to look.
fn cut(damage: &Damage) -> io::Result<()> {
    let bytes = fs::read(&damage.segment)?;
    let torn = bytes.get(damage.offset as usize..).unwrap_or_default();
    let aside = damage.segment.with_extension(format!("cut-at-{}", damage.offset));
    if let Err(error) = fs::write(&aside, torn) {
        tracing::warn!(file = %aside.display(), %error, "cannot keep the unfinished end of the journal");
    }
    let file = OpenOptions::new().write(true).open(&damage.segment)?;
    file.set_len(damage.offset)?;
    file.sync_all()?;
    tracing::warn!(%damage, n_bytes = torn.len(), "cut off the unfinished end of the journal");
    Ok(())
}

pub(super) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:06}.log"))
}

/// The numbers of the segments: 1, 2, 3 and so on, or those from a checkpoint on.
pub(super) fn segments(dir: &Path) -> Result<Vec<u32>, JournalError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|n| n.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    let first = numbers.first().copied().unwrap_or(1);
    let begins = first == 1 || checkpoint::path(dir, first - 1).exists();
    let first = if begins { first } else { 1 };
    for (expected, &number) in (first..).zip(&numbers) {
        if number != expected {
            return Err(damaged_start(dir, expected, "the file is missing").into());
        }
    }
    Ok(numbers)
}

/// The head that the first record of a segment follows.
pub(super) fn read_start(dir: &Path, number: u32) -> Result<Head, JournalError> {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    let read = File::open(segment_path(dir, number))?.read_exact(&mut header);
    match read {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error.into()),
    }
    frame::segment_start(&header)
        .ok_or_else(|| damaged_start(dir, number, "the file does not begin as a segment of a journal does").into())
}

fn damaged_start(dir: &Path, number: u32, reason: &str) -> Damage {
    Damage { segment: segment_path(dir, number), offset: 0, sequence: 0, reason: reason.to_owned() }
}

/// Written under another name and then renamed, so that a segment never lacks its header.
fn create_segment(dir: &Path, number: u32, head: Head) -> io::Result<()> {
    let path = segment_path(dir, number);
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(&frame::segment_header(head))?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    sync_dir(dir)
}

/// A new name in a directory is durable only when the directory is.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const SEGMENT: u64 = 64 << 20;

    fn journal_of(groups: &[&[&str]]) -> (TempDir, PathBuf, Vec<u8>) {
        let dir = TempDir::new().unwrap();
        let mut journal = Journal::open(dir.path(), SEGMENT, 0).unwrap();
        for group in groups {
            let payloads: Vec<_> = group.iter().map(|text| text.as_bytes().to_vec()).collect();
            journal.append(&payloads).unwrap();
        }
        let file = segment_path(dir.path(), 1);
        let bytes = fs::read(&file).unwrap();
        (dir, file, bytes)
    }

    fn damage(result: Result<Journal, JournalError>) -> Damage {
        match result {
            Err(JournalError::Damaged(damage)) => damage,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was opened"),
        }
    }

    #[test]
    fn a_last_record_cut_at_any_byte_or_with_any_byte_wrong_is_cut_off() {
        let (dir, file, whole) = journal_of(&[&["one"], &["two"], &["three"]]);
        let end = whole.len() - FRAME_HEADER_BYTES - "three".len();
        let check = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            let mut journal = Journal::open(dir.path(), SEGMENT, 0).unwrap();
            assert_eq!((journal.head().sequence, journal.end), (2, end as u64));
            journal.append(&[b"again".to_vec()]).unwrap();
            assert_eq!(crate::queue::audit::verify(dir.path(), None).unwrap().n_records, 3);
        };
        for cut in end..whole.len() {
            check(&whole[..cut]);
            let mut wrong = whole.clone();
            wrong[cut] ^= 0x40;
            check(&wrong);
            // A file that grew before its contents reached the disk.
            let mut zeroes = whole.clone();
            zeroes[cut..].fill(0);
            check(&zeroes);
        }
        let kept = dir.path().join(format!("000001.cut-at-{end}"));
        assert!(kept.exists(), "what was cut off is kept");
    }

    #[test]
    fn a_wrong_byte_before_the_last_record_is_damage_and_nothing_is_touched() {
        let (dir, file, whole) = journal_of(&[&["one"], &["two"], &["three"]]);
        let len = FRAME_HEADER_BYTES + 3;
        for at in SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + 2 * len {
            let mut wrong = whole.clone();
            wrong[at] ^= 0x40;
            fs::write(&file, &wrong).unwrap();
            let found = damage(Journal::open(dir.path(), SEGMENT, 0));
            let n = (at - SEGMENT_HEADER_BYTES) / len;
            assert_eq!((found.sequence, found.offset), (n as u64 + 1, (SEGMENT_HEADER_BYTES + n * len) as u64));
            assert_eq!(fs::read(&file).unwrap(), wrong);
        }
    }

    #[test]
    fn a_group_that_lost_an_early_page_is_cut_off_unless_it_was_acknowledged() {
        let (dir, file, whole) = journal_of(&[&["one"], &["two", "three", "four"]]);
        let mut wrong = whole.clone();
        wrong[SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 3 + 10] ^= 0x40;
        fs::write(&file, &wrong).unwrap();
        assert_eq!(damage(Journal::open(dir.path(), SEGMENT, 4)).sequence, 2);
        assert_eq!(Journal::open(dir.path(), SEGMENT, 1).unwrap().head().sequence, 1);
    }

    #[test]
    fn a_mark_of_what_was_removed_does_not_come_back_with_a_reader_that_still_reads_it() {
        let marks = Marks::default();
        for (sequence, segment) in [(1, 1), (100, 2), (200, 3)] {
            marks.add(sequence, segment, 52);
        }
        marks.forget_before(200);
        marks.add(64, 1, 9000);
        assert_eq!(marks.before(1), Some((200, (3, 52))), "who begins before begins with the first that is left");
    }

    #[test]
    fn a_header_that_is_none_is_damage() {
        let (dir, file, whole) = journal_of(&[&["one"]]);
        for bytes in [&whole[..0], &whole[..SEGMENT_HEADER_BYTES - 1], &[b"#".as_slice(), &whole[1..]].concat()] {
            fs::write(&file, bytes).unwrap();
            assert_eq!(damage(Journal::open(dir.path(), SEGMENT, 0)).offset, 0);
        }
    }
}
