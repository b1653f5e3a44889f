//! One change of a count, as it is written down: always of the same size, so that a crash leaves whole ones and torn
//! ones, and nothing in between.
//!
//! ```text
//! record   tag | key 2 | time | length | lasts | digits 2        words of 64 bits
//! tag      what changes 8 bits | kind of count 8 | - 16 | power of ten 32
//! ```

use super::Kind;
use crate::policy::needs::CountKey;

/// Words of a record.
pub const RECORD_WORDS: usize = 8;

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// The count is empty; what was before its time has left.
    Begin,
    /// So much more was counted.
    Add,
    /// So much less.
    Back,
    /// So much is missing of a bucket.
    Level,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub(super) op: Op,
    pub(super) kind: Kind,
    pub(super) key: CountKey,
    pub(super) at_ms: u64,
    pub(super) per_ms: u64,
    /// Of a bucket: how many calls come back in `per_ms`.
    pub(super) lasts_ms: u64,
    pub(super) digits: i128,
    pub(super) exponent: i32,
}

impl Record {
    /// The count it is about.
    #[must_use]
    pub fn key(&self) -> CountKey {
        self.key
    }

    /// As words.
    #[must_use]
    pub fn words(&self) -> [u64; RECORD_WORDS] {
        let (one, two) = halves(self.key.0);
        let tag = u64::from(self.op.code()) | u64::from(self.kind.code()) << 8;
        let exponent = u64::from(u32::from_ne_bytes(self.exponent.to_ne_bytes())) << 32;
        let (low, high) = halves(self.digits.to_le_bytes());
        [tag | exponent, one, two, self.at_ms, self.per_ms, self.lasts_ms, low, high]
    }

    /// Read again; `None` for what this build has not written.
    #[must_use]
    pub fn read(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [tag, one, two, at_ms, per_ms, lasts_ms, low, high] = *words;
        let [op, kind, 0, 0, exponent @ ..] = tag.to_le_bytes() else { return None };
        Some(Self {
            op: Op::of(op)?,
            kind: Kind::of(kind)?,
            key: CountKey(whole(one, two)),
            at_ms,
            per_ms,
            lasts_ms,
            digits: i128::from_le_bytes(whole(low, high)),
            exponent: i32::from_le_bytes(exponent),
        })
    }

    /// That its count is empty; what was before this time has left.
    pub(super) fn begin(self, gone_ms: u64) -> Self {
        Self { op: Op::Begin, at_ms: gone_ms, digits: 0, exponent: 0, ..self }
    }

    /// Takes another change up that follows at once, where one record can say both.
    #[must_use]
    pub fn join(&mut self, next: &Self) -> bool {
        let alike = self.op == next.op && self.kind == next.kind && self.key == next.key;
        if !alike || self.op == Op::Begin {
            return false;
        }
        if self.op == Op::Level {
            *self = *next;
            return true;
        }
        let same = self.at_ms == next.at_ms && self.per_ms == next.per_ms && self.exponent == next.exponent;
        let sum = self.digits.checked_add(next.digits).filter(|sum| *sum < JOINED_MAX);
        match sum.filter(|_| same) {
            Some(sum) => {
                (self.digits, self.lasts_ms) = (sum, next.lasts_ms);
                true
            }
            None => false,
        }
    }
}

impl Op {
    fn code(self) -> u8 {
        match self {
            Self::Begin => 1,
            Self::Add => 2,
            Self::Back => 3,
            Self::Level => 4,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Begin, Self::Add, Self::Back, Self::Level].into_iter().find(|op| op.code() == code)
    }
}

fn halves(bytes: [u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(bytes);
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    let low = whole as u64;
    (low, u64::try_from(whole >> 64).unwrap_or(0))
}

fn whole(low: u64, high: u64) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// Sums of joined records stay within the 38 digits of a number, and the counts of calls within 64 bits.
const JOINED_MAX: i128 = 1 << 62;
