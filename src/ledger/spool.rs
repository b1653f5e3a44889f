//! What has changed in counts and is not in the journal yet: a ring of slots in a mapped file, so that it outlives the
//! process, however that ends. A slot is claimed and written under the lock of the count's stripe, so each stripe's
//! records are in its order; whoever writes the journal reads them in the order of their numbers, and sets them free.
//!
//! ```text
//! head   magic and version | slots | - …                 the first page
//! slot   number | check | record 8                       words of 64 bits; number n is in slot n modulo slots
//! ```
//!
//! A slot that a crash has torn has a check that is not its own: its call never left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::base::limits::COUNT_RING_SLOTS;
use crate::policy::counter::record::{RECORD_WORDS, Record};
use crate::uring::mapped::Mapped;

/// The ring of one process.
pub(super) struct Spool {
    map: Mapped,
    /// Of the next record.
    next: AtomicU64,
    /// Below this, all are in the journal.
    kept: AtomicU64,
    /// Somebody has been asked to make room.
    urged: AtomicBool,
    urge: Box<dyn Fn() + Send + Sync>,
}

/// Numbers for records, in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim(u64);

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("next", &self.next).field("kept", &self.kept).finish_non_exhaustive()
    }
}

/// Words of the whole file.
pub(super) const FILE_WORDS: usize = HEAD_WORDS + COUNT_RING_SLOTS * SLOT_WORDS;

impl Spool {
    /// A ring that goes on with number `next`, or 1, as a slot that was never written says 0: all below it are in the
    /// journal. `urge` is called, under no lock of the
    /// ledger's, when half of it is used.
    pub(super) fn new(map: Mapped, next: u64, urge: Box<dyn Fn() + Send + Sync>) -> Self {
        map.store(1, SLOTS, Ordering::Relaxed);
        map.store(0, MAGIC, Ordering::Release);
        let next = next.max(1);
        let (next, kept) = (AtomicU64::new(next), AtomicU64::new(next));
        Self { map, next, kept, urged: AtomicBool::new(false), urge }
    }

    /// So many slots; `None` where there are not as many free.
    pub(super) fn claim(&self, count: u64) -> Option<Claim> {
        let free = |next: u64| next.wrapping_add(count).wrapping_sub(self.kept.load(Ordering::Acquire)) <= SLOTS;
        let claimed = |next| free(next).then_some(next + count);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claimed).ok().map(Claim)
    }

    /// Writes a record into the next slot of a claim, which must not have had as many.
    pub(super) fn write(&self, claim: &mut Claim, record: &Record) {
        let words = record.words();
        let at = place(claim.0);
        self.map.store(at + 1, check(claim.0, &words), Ordering::Relaxed);
        for (word, value) in words.into_iter().enumerate() {
            self.map.store(at + 2 + word, value, Ordering::Relaxed);
        }
        // Last: whoever reads this number reads what is behind it.
        self.map.store(at, claim.0, Ordering::Release);
        claim.0 += 1;
    }

    /// Has room made, where half of it is used.
    pub(super) fn urge(&self) {
        if self.waiting() * 2 > SLOTS && !self.urged.swap(true, Ordering::AcqRel) {
            (self.urge)();
        }
    }

    /// How many records are not in the journal.
    pub(super) fn waiting(&self) -> u64 {
        self.next.load(Ordering::Relaxed).saturating_sub(self.kept.load(Ordering::Relaxed))
    }

    /// The number of the next record. Under a stripe's lock: those of that stripe below it are written.
    pub(super) fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Reads records from number `from` on, up to `until`, at most `max` numbers. Where it ended: there, or in front of
    /// one that is still being written.
    pub(super) fn read(&self, from: u64, until: u64, max: u64, mut each: impl FnMut(Record)) -> u64 {
        let until = until.min(from.saturating_add(max)).min(self.next());
        // There is no number 0.
        for number in from.max(1)..until {
            let at = place(number);
            if self.map.load(at, Ordering::Acquire) != number {
                return number;
            }
            let words = std::array::from_fn(|word| self.map.load(at + 2 + word, Ordering::Relaxed));
            if let Some(record) = Record::read(&words) {
                each(record);
            }
        }
        until.max(from)
    }

    /// All below this number are in the journal.
    pub(super) fn keep(&self, number: u64) {
        self.urged.store(false, Ordering::Release);
        self.kept.fetch_max(number, Ordering::AcqRel);
    }
}

/// Why a file is not read as a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// It does not begin like one.
    Other,
    /// Another build wrote it.
    Version(u8),
}

/// The whole records of a file, from number `from` on, in the order of their numbers.
pub(super) fn records(bytes: &[u8], from: u64) -> Result<Vec<(u64, Record)>, Foreign> {
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    match bytes.first_chunk().map(word) {
        // It was not yet begun.
        None | Some(0) => return Ok(Vec::new()),
        Some(MAGIC) => {}
        Some(magic) if magic ^ MAGIC < 1 << 8 => return Err(Foreign::Version(magic.to_le_bytes()[0])),
        Some(_) => return Err(Foreign::Other),
    }
    let slots = bytes.get(HEAD_WORDS * 8..).unwrap_or_default().as_chunks::<{ SLOT_WORDS * 8 }>().0;
    let mut found: Vec<_> = slots.iter().filter_map(|slot| open(slot, from)).collect();
    found.sort_unstable_by_key(|(number, _)| *number);
    Ok(found)
}

fn open(slot: &[u8; SLOT_WORDS * 8], from: u64) -> Option<(u64, Record)> {
    let (number, rest) = slot.split_first_chunk::<8>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let (number, sum) = (u64::from_le_bytes(*number), u64::from_le_bytes(*sum));
    if number < from || sum == 0 {
        return None;
    }
    let words = rest.as_chunks().0;
    let words = std::array::from_fn(|at| words.get(at).map_or(0, |word| u64::from_le_bytes(*word)));
    if sum != check(number, &words) {
        return None;
    }
    Record::read(&words).map(|record| (number, record))
}

fn place(number: u64) -> usize {
    HEAD_WORDS + (number % SLOTS) as usize * SLOT_WORDS
}

/// Tells a whole slot from a torn one: every word changes it, and so does its place. Never 0, as a new file is.
fn check(number: u64, words: &[u64; RECORD_WORDS]) -> u64 {
    let mix = |sum: u64, word: &u64| {
        let product = u128::from(sum ^ word) * u128::from(ODD);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
        let (low, high) = (product as u64, (product >> 64) as u64);
        (low ^ high).rotate_left(23).wrapping_add(ODD)
    };
    words.iter().fold(number ^ MAGIC, mix) | 1
}

/// `pc-ring` and the version of the layout, which is the lowest byte.
const MAGIC: u64 = u64::from_be_bytes([b'p', b'c', b'-', b'r', b'i', b'n', b'g', 1]);
/// A page.
const HEAD_WORDS: usize = 512;
const SLOTS: u64 = COUNT_RING_SLOTS as u64;
const SLOT_WORDS: usize = 2 + RECORD_WORDS;
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_and_not_written_is_not_read() {
        let file = tempfile::tempfile().unwrap();
        let spool = Spool::new(Mapped::open(&file, FILE_WORDS).unwrap(), 0, Box::new(|| {}));
        spool.claim(1).unwrap();
        assert_eq!((spool.next(), spool.waiting()), (2, 1));
        for from in [0, 1] {
            let next = spool.read(from, u64::MAX, 10, |_| panic!("nothing was written"));
            assert_eq!(next, 1, "from {from}");
        }
    }
}
