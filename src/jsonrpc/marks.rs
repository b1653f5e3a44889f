//! The bits of `lanes` for the bytes around the place where the machine is, made as it comes there.

use super::lanes::{BLOCKS, Bits, Lanes, Row};

/// A look ahead in one piece. Places are offsets into it and only grow; where a search finds nothing it ends at the
/// length of the piece.
pub(super) struct Marks<'a> {
    pub(super) piece: &'a [u8],
    lanes: Lanes,
    bits: Bits,
    /// First byte that `bits` speaks of.
    from: usize,
    /// How many bytes from there, a whole number of blocks.
    marked: usize,
    /// Characters up to here are known to be UTF-8.
    sound: usize,
}

impl<'a> Marks<'a> {
    pub(super) fn new(lanes: Lanes, piece: &'a [u8]) -> Self {
        Self { piece, lanes, bits: Bits::new(), from: 0, marked: 0, sound: 0 }
    }

    /// The first byte from `at`, the begin of a character in a string, that is not to be passed over unseen: a
    /// quote, a backslash, a control character, a byte that may be no UTF-8.
    #[inline(always)]
    pub(super) fn stop(&mut self, at: usize) -> usize {
        self.find(at, |bits| &bits.stop)
    }

    /// The first byte from `at` that is no digit.
    #[inline(always)]
    pub(super) fn digits_end(&mut self, at: usize) -> usize {
        self.find(at, |bits| &bits.not_digit)
    }

    /// The first byte from `at` that is no white space.
    #[inline(always)]
    pub(super) fn spaces_end(&mut self, at: usize) -> usize {
        self.find(at, |bits| &bits.not_space)
    }

    /// The first byte from `at` that is no white space, and where; a zero, which no JSON has outside of strings, at
    /// the end of the piece.
    #[inline(always)]
    pub(super) fn token(&mut self, at: usize) -> (usize, u8) {
        match self.piece.get(at) {
            Some(&byte) if byte > b' ' => (at, byte),
            Some(_) => {
                let at = self.spaces_end(at);
                (at, self.piece.get(at).copied().unwrap_or(0))
            }
            None => (at, 0),
        }
    }

    #[inline(always)]
    fn find(&mut self, at: usize, which: impl Fn(&Bits) -> &Row) -> usize {
        let ahead = at.wrapping_sub(self.from);
        if ahead < self.marked {
            let found = ahead_of(which(&self.bits), ahead);
            if found != 0 {
                return at + found.trailing_zeros() as usize;
            }
        }
        self.find_far(at, which)
    }

    #[inline(never)]
    fn find_far(&mut self, at: usize, which: impl Fn(&Bits) -> &Row) -> usize {
        let mut at = at;
        while at < self.piece.len() {
            let ahead = at.wrapping_sub(self.from);
            if ahead >= self.marked {
                self.look(at);
                continue;
            }
            let found = ahead_of(which(&self.bits), ahead);
            if found != 0 {
                return at + found.trailing_zeros() as usize;
            }
            // On at the next whole byte of marks, but not beyond the last.
            at = self.from + (ahead + 64 - ahead % 8).min(self.marked);
        }
        self.piece.len()
    }

    /// Marks the bytes around `at` and behind it.
    fn look(&mut self, at: usize) {
        self.from = at - at % 64;
        let end = self.piece.len().min(self.from + 64 * BLOCKS);
        self.marked = (end - self.from).next_multiple_of(64);
        self.lanes.mark(&self.piece[self.from..end], &mut self.bits);
        if self.bits.any_high {
            self.judge_high(at, end);
        }
    }

    /// Makes those bytes beyond ASCII stops that are not known to be UTF-8 before `end`.
    fn judge_high(&mut self, at: usize, end: usize) {
        // `at` begins a character, unless the last look judged the one it is in.
        let begin = at.max(self.sound);
        // The last character may end behind the block.
        let text = &self.piece[begin..self.piece.len().min(end + 3).max(begin)];
        self.sound = begin + str::from_utf8(text).map_or_else(|fault| fault.valid_up_to(), str::len);
        if self.sound < end {
            let (unsure, known) = ((self.sound - self.from) / 8, self.sound % 8);
            let bits = &mut self.bits;
            bits.high[unsure] &= u8::MAX << known;
            for (stop, high) in bits.stop.iter_mut().zip(&bits.high).skip(unsure) {
                *stop |= high;
            }
        }
    }
}

/// The marks from the `ahead`th byte on, at least 57 of them.
#[inline(always)]
fn ahead_of(row: &Row, ahead: usize) -> u64 {
    let marks = row.get(ahead / 8..ahead / 8 + 8).and_then(<[u8]>::first_chunk);
    marks.map_or(0, |marks| u64::from_le_bytes(*marks) >> (ahead % 8))
}
