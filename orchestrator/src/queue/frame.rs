//! One record of the journal as bytes, and the header of a segment.
//!
//! ```text
//! record   length u32 | crc32 u32 | sequence u64 | group u64 | previous [32] | payload        (little-endian)
//! segment  "ONRAMPJ1" | first sequence u64 | previous [32] | crc32 u32
//! ```
//!
//! The checksum finds accidents. `previous` is the SHA-256 of the record before, so that nothing can be taken out or
//! put in unseen. `group` is the sequence of the first record of the same write: a record of a *later* group proves
//! that the groups before it had been made durable, which is what tells damage from a write that a crash cut short.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use super::record::MAX_RECORD_BYTES;

const MAGIC: &[u8; 8] = b"ONRAMPJ1";
const CHECKPOINT_MAGIC: &[u8; 8] = b"ONRAMPC1";

/// Bytes before the payload.
pub(super) const FRAME_HEADER_BYTES: usize = 56;

/// Bytes before the first record of a segment.
pub(super) const SEGMENT_HEADER_BYTES: usize = 52;

/// A SHA-256. `Display` writes it in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Hash {
    type Err = hex::FromHexError;
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let mut hash = [0; 32];
        hex::decode_to_slice(value, &mut hash)?;
        Ok(Self(hash))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The last record of a chain: what the next one must carry on from. The default is the beginning of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Its sequence; 0 before the first.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
}

/// One record, with a checksum that was found right.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) sequence: u64,
    pub(super) group: u64,
    pub(super) previous: Hash,
    pub(super) hash: Hash,
}

/// The length of the payload that a frame header announces, where it can be one.
pub(super) fn payload_len(header: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(header.get(..4)?.try_into().ok()?) as usize;
    (1..=MAX_RECORD_BYTES).contains(&len).then_some(len)
}

/// Writes the record that follows `head`, and moves `head` onto it.
pub(super) fn encode(buffer: &mut Vec<u8>, head: &mut Head, group: u64, payload: &[u8]) {
    let start = buffer.len();
    let len = u32::try_from(payload.len()).expect("records are bounded before they get here");
    buffer.extend_from_slice(&len.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&(head.sequence + 1).to_le_bytes());
    buffer.extend_from_slice(&group.to_le_bytes());
    buffer.extend_from_slice(&head.hash.0);
    buffer.extend_from_slice(payload);
    let checksum = checksum(&buffer[start..]);
    buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    *head = Head { sequence: head.sequence + 1, hash: hash(&buffer[start..]) };
}

/// Reads the record at the start of `bytes`.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn decode(bytes: &[u8]) -> Result<Frame, &'static str> {
    if bytes.len() < FRAME_HEADER_BYTES {
        return Err("it is incomplete");
    }
    let len = payload_len(bytes).ok_or("its length is impossible")?;
    let frame = bytes.get(..FRAME_HEADER_BYTES + len).ok_or("it is incomplete")?;
    if frame[4..8] != checksum(frame).to_le_bytes() {
        return Err("its checksum is wrong");
    }
    Ok(Frame { sequence: u64_at(frame, 8), group: u64_at(frame, 16), previous: hash_at(frame, 24), hash: hash(frame) })
}

/// Looks for whole records anywhere in `bytes`, with sequences after `sequence`, and gives the newest group among them.
///
/// Bytes cannot look like a record by chance or by malice: payloads are JSON, which holds no zero byte, and a length
/// and a sequence always do.
pub(super) fn newest_group_in(bytes: &[u8], sequence: u64) -> Option<u64> {
    let last = sequence.saturating_add((bytes.len() / FRAME_HEADER_BYTES) as u64 + 1);
    (0..bytes.len().saturating_sub(FRAME_HEADER_BYTES))
        .map(|at| &bytes[at..])
        .filter(|bytes| (sequence + 1..=last).contains(&u64_at(bytes, 8)))
        .filter_map(|bytes| decode(bytes).ok())
        .map(|frame| frame.group)
        .max()
}

/// The header of a segment whose first record follows `head`.
pub(super) fn segment_header(head: Head) -> [u8; SEGMENT_HEADER_BYTES] {
    header(MAGIC, head)
}

/// The header of a checkpoint of everything up to `head`.
pub(super) fn checkpoint_header(head: Head) -> [u8; SEGMENT_HEADER_BYTES] {
    header(CHECKPOINT_MAGIC, head)
}

fn header(magic: &[u8; 8], head: Head) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(magic);
    header[8..16].copy_from_slice(&(head.sequence + 1).to_le_bytes());
    header[16..48].copy_from_slice(&head.hash.0);
    let checksum = crc32fast::hash(&header[..48]);
    header[48..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The head that the first record of a segment follows; `None`: this is no header.
pub(super) fn segment_start(header: &[u8; SEGMENT_HEADER_BYTES]) -> Option<Head> {
    start(MAGIC, header)
}

/// The head that a checkpoint goes up to; `None`: this is no header.
pub(super) fn checkpoint_start(header: &[u8; SEGMENT_HEADER_BYTES]) -> Option<Head> {
    start(CHECKPOINT_MAGIC, header)
}

fn start(magic: &[u8; 8], header: &[u8; SEGMENT_HEADER_BYTES]) -> Option<Head> {
    let right = &header[..8] == magic && header[48..] == crc32fast::hash(&header[..48]).to_le_bytes();
    let sequence = u64_at(header, 8).checked_sub(1)?;
    right.then(|| Head { sequence, hash: hash_at(header, 16) })
}

/// Over everything but the checksum itself.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// Over the sequence, the group, the hash before and the payload.
fn hash(frame: &[u8]) -> Hash {
    Hash(Sha256::digest(&frame[8..]).into())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

fn hash_at(bytes: &[u8], at: usize) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes[at..at + 32]);
    Hash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        let mut head = Head::default();
        let mut bytes = Vec::new();
        encode(&mut bytes, &mut head, 1, br#"{"v":1}"#);
        assert_eq!(decode(&bytes).unwrap().hash, head.hash);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn whole_records_are_found_behind_a_broken_one() {
        let mut head = Head::default();
        let mut bytes = Vec::new();
        encode(&mut bytes, &mut head, 1, b"one");
        encode(&mut bytes, &mut head, 1, b"two");
        assert_eq!(newest_group_in(&bytes[1..], 1), Some(1), "of the same write");
        encode(&mut bytes, &mut head, 3, b"three");
        assert_eq!(newest_group_in(&bytes[1..], 1), Some(3), "of a later write");
        assert_eq!(newest_group_in(&bytes[1..], 3), None);
    }

    #[test]
    fn a_segment_header_knows_where_it_begins() {
        let head = Head { sequence: 41, hash: Hash([9; 32]) };
        let mut header = segment_header(head);
        assert_eq!(segment_start(&header), Some(head));
        header[20] ^= 1;
        assert_eq!(segment_start(&header), None);
    }
}
