//! The bits of `lanes` for the bytes around the place where the machine is, made as it comes there.

use super::lanes::{BLOCKS, Bits, Lanes, Row};

/// A look ahead in one piece. Places are offsets into it and only grow; where a search finds nothing it ends at the
/// length of the piece.
pub(super) struct Marks<'a> {
    pub(super) piece: &'a [u8],
    lanes: Lanes,
    bits: Bits,
    /// Which part of the piece `bits` speaks of, counted in windows.
    window: usize,
    /// Characters up to here are known to be UTF-8.
    sound: usize,
}

impl<'a> Marks<'a> {
    pub(super) fn new(lanes: Lanes, piece: &'a [u8]) -> Self {
        Self { piece, lanes, bits: Bits::new(), window: NO_WINDOW, sound: 0 }
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

    #[inline(always)]
    fn find(&mut self, at: usize, which: impl Fn(&Bits) -> &Row) -> usize {
        if at / WINDOW == self.window {
            let found = marks_from(which(&self.bits), at);
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
            if at / WINDOW != self.window {
                self.look(at);
            }
            let found = marks_from(which(&self.bits), at);
            if found != 0 {
                return at + found.trailing_zeros() as usize;
            }
            // On at the next whole byte of marks, but not beyond the last of this window.
            at = (at - at % 8 + 64).min(at - at % WINDOW + WINDOW);
        }
        self.piece.len()
    }

    /// Marks the window that `at` is in.
    fn look(&mut self, at: usize) {
        self.window = at / WINDOW;
        let from = at - at % WINDOW;
        let end = self.piece.len().min(from + WINDOW);
        self.lanes.mark(&self.piece[from..end], &mut self.bits);
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
            let (unsure, known) = (self.sound % WINDOW / 8, self.sound % 8);
            let bits = &mut self.bits;
            bits.high[unsure] &= u8::MAX << known;
            for (stop, high) in bits.stop.iter_mut().zip(&bits.high).skip(unsure) {
                *stop |= high;
            }
        }
    }
}

/// The marks from the byte at `at` on, at least 57 of them, or zeroes where the window ends.
#[inline(always)]
fn marks_from(row: &Row, at: usize) -> u64 {
    let first = at % WINDOW / 8;
    row[first..first + 8].first_chunk().map_or(0, |marks| u64::from_le_bytes(*marks) >> (at % 8))
}

/// Bytes marked at one go.
const WINDOW: usize = 64 * BLOCKS;
/// The number of no window: no piece is that long.
const NO_WINDOW: usize = usize::MAX;
