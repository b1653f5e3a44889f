//! The journal of counts: what has changed, frame by frame, so that the books can be made again from it.
//!
//! ```text
//! file    magic 7 | version 1 byte | frame …
//! frame   length 4 | CRC-32 of the rest 4 | number 8 | record …
//! ```
//!
//! The number says up to where the changes have come: all that were numbered below it are in this frame or before it.
//! So nothing counts twice that is found again in the ring that the changes passed through.

use thiserror::Error;

use super::record::{RECORD_WORDS, Record};
use crate::base::limits::COUNT_FRAME_RECORDS_MAX;

/// What a journal begins with.
pub const HEADER: [u8; 8] = [b'p', b'c', b'-', b'c', b'n', b't', b's', VERSION];

/// Why a file is not read as a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JournalFault {
    /// It does not begin like one.
    #[error("it is not a journal of counts")]
    Foreign,
    /// Another build wrote it.
    #[error("its version is {0}, and this build reads version {VERSION}")]
    Version(u8),
}

/// How a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a whole frame.
    Whole,
    /// Within one, as after a crash: what is before it is all there was to keep.
    Torn,
    /// With what is no frame. Nothing behind it is read.
    Damaged,
}

/// Reads a journal, frame by frame.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    used: usize,
    number: u64,
    tail: Tail,
}

impl<'a> Reader<'a> {
    /// A reader at the first frame. A file that a crash cut short within its header is an empty journal.
    ///
    /// # Errors
    /// [`JournalFault`].
    pub fn open(bytes: &'a [u8]) -> Result<Self, JournalFault> {
        match bytes.split_at_checked(HEADER.len()) {
            Some((header, rest)) if header == HEADER => {
                Ok(Self { rest, used: HEADER.len(), number: 0, tail: Tail::Whole })
            }
            Some((header, _)) if header[..7] == HEADER[..7] => Err(JournalFault::Version(header[7])),
            None if HEADER.starts_with(bytes) => {
                let tail = if bytes.is_empty() { Tail::Whole } else { Tail::Torn };
                Ok(Self { rest: &[], used: 0, number: 0, tail })
            }
            _ => Err(JournalFault::Foreign),
        }
    }

    /// How many bytes were read: all that is to be kept.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Up to which number the frames that were read have all changes.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How it ends, once there is no next frame.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail
    }

    fn frame(&self) -> Result<(u64, Vec<Record>, usize), Tail> {
        let (length, rest) = self.rest.split_first_chunk::<4>().ok_or(Tail::Torn)?;
        let (sum, rest) = rest.split_first_chunk::<4>().ok_or(Tail::Torn)?;
        let count = u32::from_be_bytes(*length) as usize;
        let records = count.checked_sub(NUMBER_BYTES).filter(|bytes| bytes.is_multiple_of(RECORD_BYTES));
        if records.is_none_or(|bytes| bytes / RECORD_BYTES > COUNT_FRAME_RECORDS_MAX) {
            return Err(Tail::Damaged);
        }
        let (payload, _) = rest.split_at_checked(count).ok_or(Tail::Torn)?;
        if checksum(length, payload) != u32::from_be_bytes(*sum) {
            return Err(Tail::Damaged);
        }
        let (number, records) = payload.split_first_chunk::<NUMBER_BYTES>().ok_or(Tail::Damaged)?;
        let records = records.as_chunks::<RECORD_BYTES>().0.iter().map(read).collect::<Option<Vec<_>>>();
        Ok((u64::from_be_bytes(*number), records.ok_or(Tail::Damaged)?, FRAME_BYTES + count))
    }
}

impl Iterator for Reader<'_> {
    type Item = Vec<Record>;

    fn next(&mut self) -> Option<Vec<Record>> {
        if self.rest.is_empty() {
            return None;
        }
        match self.frame() {
            Ok((number, records, bytes)) => {
                self.number = self.number.max(number);
                self.used += bytes;
                self.rest = self.rest.get(bytes..).unwrap_or_default();
                Some(records)
            }
            Err(tail) => {
                (self.tail, self.rest) = (tail, &[]);
                None
            }
        }
    }
}

/// Writes a frame: these records (at most `COUNT_FRAME_RECORDS_MAX`), with which all changes below `number` are there.
pub fn write(out: &mut Vec<u8>, number: u64, records: &[Record]) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    out.extend_from_slice(&number.to_be_bytes());
    for word in records.iter().flat_map(Record::words) {
        out.extend_from_slice(&word.to_be_bytes());
    }
    let length = u32::try_from(out.len() - start - FRAME_BYTES).unwrap_or(u32::MAX).to_be_bytes();
    let sum = checksum(&length, &out[start + FRAME_BYTES..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + FRAME_BYTES].copy_from_slice(&sum.to_be_bytes());
}

fn read(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
    let words = bytes.as_chunks().0;
    Record::read(&std::array::from_fn(|at| words.get(at).map_or(0, |word| u64::from_be_bytes(*word))))
}

/// CRC-32 (IEEE 802.3) of a frame's length and what follows.
fn checksum(length: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(payload);
    hasher.finalize()
}

/// Changes with the layout of frames and records.
const VERSION: u8 = 1;
/// Length and checksum.
const FRAME_BYTES: usize = 8;
const NUMBER_BYTES: usize = 8;
/// What a record takes, bytes.
pub const RECORD_BYTES: usize = RECORD_WORDS * 8;
