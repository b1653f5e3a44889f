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
    /// The stops of one block that are still to come, and which block of the window that is: strings are found one
    /// after the other, so that none has to wait for the end of the one before it to be known.
    ahead: u64,
    block: usize,
    /// Where that block begins in the piece.
    begin: usize,
}

impl<'a> Marks<'a> {
    pub(super) fn new(lanes: Lanes, piece: &'a [u8]) -> Self {
        Self { piece, lanes, bits: Bits::new(), window: NO_WINDOW, sound: 0, ahead: 0, block: BLOCKS, begin: 0 }
    }

    /// The first byte from `at`, the begin of a character in a string, that is not to be passed over unseen: a
    /// quote, a backslash, a control character, a byte that may be no UTF-8.
    #[inline(always)]
    pub(super) fn stop(&mut self, at: usize) -> usize {
        self.find(at, |bits| &bits.stop)
    }

    /// The first stop within the string that is opened at `open`.
    #[inline(always)]
    pub(super) fn text_end(&mut self, open: usize) -> usize {
        if self.next_stop() == Some(open)
            && let Some(end) = self.next_stop()
        {
            return end;
        }
        self.text_end_far(open)
    }

    /// The stop that comes next in this window, if it is known which.
    #[inline(always)]
    fn next_stop(&mut self) -> Option<usize> {
        if self.ahead == 0 {
            self.block = self.block.wrapping_add(1);
            self.begin = self.begin.wrapping_add(64);
            self.ahead = block_of(&self.bits.stop, self.block);
            if self.ahead == 0 {
                return None;
            }
        }
        let place = self.ahead.trailing_zeros() as usize;
        self.ahead &= self.ahead.wrapping_sub(1);
        // The begin of a block has no low bits.
        Some(self.begin | place)
    }

    #[inline(never)]
    fn text_end_far(&mut self, open: usize) -> usize {
        let end = self.stop(open + 1);
        if end / WINDOW == self.window {
            (self.block, self.begin) = (end % WINDOW / 64, end - end % 64);
            self.ahead = block_of(&self.bits.stop, self.block) & (u64::MAX - 1) << (end % 64);
        }
        end
    }

    /// The first byte from `at` that is no digit.
    #[inline(always)]
    pub(super) fn digits_end(&mut self, at: usize) -> usize {
        self.find(at, |bits| &bits.not_digit)
    }

    /// Over the numbers of a list, from `at` behind a comma of it to where the last one begins, or the first that is
    /// not well-formed: what is no digit is taken one after the other, so that no number has to wait for the one
    /// before it.
    #[inline(never)]
    pub(super) fn numbers_end(&mut self, at: usize) -> usize {
        let mut numbers = Numbers { begin: at, last: at.wrapping_sub(1), turn: Turn::Comma };
        let mut from = at;
        while from < self.piece.len() {
            if from / WINDOW != self.window {
                self.look(from);
            }
            let mut others = block_of(&self.bits.not_digit, from % WINDOW / 64) & u64::MAX << (from % 64);
            let block = from - from % 64;
            while others != 0 {
                let place = block | others.trailing_zeros() as usize;
                others &= others.wrapping_sub(1);
                if !numbers.take(self.piece, place) {
                    return numbers.begin;
                }
            }
            from = block + 64;
        }
        numbers.begin
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
                return at.wrapping_add(found.trailing_zeros() as usize);
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
                return at.wrapping_add(found.trailing_zeros() as usize);
            }
            // On at the next whole byte of marks, but not beyond the last of this window.
            at = (at - at % 8 + 64).min(at - at % WINDOW + WINDOW);
        }
        self.piece.len()
    }

    /// Marks the window that `at` is in.
    fn look(&mut self, at: usize) {
        self.window = at / WINDOW;
        (self.ahead, self.block, self.begin) = (0, BLOCKS, at - at % WINDOW + WINDOW);
        let from = at - at % WINDOW;
        let end = self.piece.len().min(from + WINDOW);
        // `at` begins a character, unless the last look judged the one it is in; the last one may end behind.
        let begin = at.max(self.sound);
        let text = &self.piece[begin..self.piece.len().min(end + 3).max(begin)];
        self.lanes.mark(&self.piece[from..end], text, &mut self.bits);
        if self.bits.any_high {
            self.sound = begin + self.bits.sound;
            self.stop_at_unsound(end);
        }
    }

    /// Makes those bytes beyond ASCII stops that are not known to be UTF-8 before `end`.
    fn stop_at_unsound(&mut self, end: usize) {
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

/// How far the numbers of a list are read.
struct Numbers {
    /// Where the number begins, but for spaces.
    begin: usize,
    /// The last byte that was no digit, and what it was.
    last: usize,
    turn: Turn,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// Or a space behind it.
    Comma,
    Minus,
    Point,
    E,
    Sign,
}

impl Numbers {
    /// Takes the byte at `place`, the next that is no digit, if it may stand there (RFC 8259 section 6).
    #[inline(always)]
    fn take(&mut self, piece: &[u8], place: usize) -> bool {
        let digits = place.wrapping_sub(self.last).wrapping_sub(1);
        let Some(&byte) = piece.get(place) else { return false };
        let first = piece.get(self.last.wrapping_add(1));
        if self.turn <= Turn::Minus && digits > 1 && first == Some(&b'0') {
            return false;
        }
        self.turn = match byte {
            b',' if digits > 0 => {
                self.begin = place.wrapping_add(1);
                Turn::Comma
            }
            b'.' if digits > 0 && self.turn <= Turn::Minus => Turn::Point,
            b'-' if digits == 0 && self.turn == Turn::Comma => Turn::Minus,
            b'e' | b'E' if digits > 0 && self.turn <= Turn::Point => Turn::E,
            b'-' | b'+' if digits == 0 && self.turn == Turn::E => Turn::Sign,
            b' ' if digits == 0 && self.turn == Turn::Comma => Turn::Comma,
            _ => return false,
        };
        self.last = place;
        true
    }
}

/// The marks from the byte at `at` on, at least 57 of them, or zeroes where the window ends.
#[inline(always)]
fn marks_from(row: &Row, at: usize) -> u64 {
    let first = at % WINDOW / 8;
    row[first..first + 8].first_chunk().map_or(0, |marks| u64::from_le_bytes(*marks) >> (at % 8))
}

/// The marks of a whole block of the window.
#[inline(always)]
fn block_of(row: &Row, block: usize) -> u64 {
    row.as_chunks().0.get(block).map_or(0, |marks| u64::from_le_bytes(*marks))
}

/// Bytes marked at one go.
const WINDOW: usize = 64 * BLOCKS;
/// The number of no window: no piece is that long.
const NO_WINDOW: usize = usize::MAX;
