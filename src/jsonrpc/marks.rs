//! The bits of `lanes` for the bytes around the place where the machine is, made as it comes there.

use super::lanes::{BLOCKS, Bits, Lanes};

/// A look ahead in one piece. Places are offsets into it and only grow; where a search finds nothing it ends at the
/// length of the piece.
pub(super) struct Marks<'a> {
    pub(super) piece: &'a [u8],
    lanes: Lanes,
    bits: Bits,
    /// First byte that `bits` speaks of.
    from: usize,
    /// Blocks that `bits` speaks of.
    blocks: usize,
    /// Characters up to here are known to be UTF-8.
    sound: usize,
}

impl<'a> Marks<'a> {
    pub(super) fn new(lanes: Lanes, piece: &'a [u8]) -> Self {
        Self { piece, lanes, bits: Bits::new(), from: 0, blocks: 0, sound: 0 }
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
    fn find(&mut self, at: usize, which: impl Fn(&Bits) -> &[u64; BLOCKS]) -> usize {
        let ahead = at.wrapping_sub(self.from);
        if ahead < self.blocks * 64 {
            let found = which(&self.bits)[ahead / 64 % BLOCKS] >> (ahead % 64);
            if found != 0 {
                return at + found.trailing_zeros() as usize;
            }
        }
        self.find_far(at, which)
    }

    #[inline(never)]
    fn find_far(&mut self, at: usize, which: impl Fn(&Bits) -> &[u64; BLOCKS]) -> usize {
        let mut at = at;
        while at < self.piece.len() {
            let ahead = at.wrapping_sub(self.from);
            if ahead >= self.blocks * 64 {
                self.look(at);
                continue;
            }
            let words = &which(&self.bits)[ahead / 64..self.blocks];
            let first = words[0] >> (ahead % 64);
            if first != 0 {
                return at + first.trailing_zeros() as usize;
            }
            match words.iter().skip(1).position(|word| *word != 0) {
                Some(more) => {
                    let block = ahead / 64 + 1 + more;
                    return self.from + block * 64 + words[1 + more].trailing_zeros() as usize;
                }
                None => at = self.from + self.blocks * 64,
            }
        }
        self.piece.len()
    }

    /// Marks the bytes around `at` and behind it.
    fn look(&mut self, at: usize) {
        self.from = at - at % 64;
        let end = self.piece.len().min(self.from + 64 * BLOCKS);
        self.blocks = (end - self.from).div_ceil(64);
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
            let unsure = (self.sound - self.from) / 64;
            let bits = &mut self.bits;
            for (stop, high) in bits.stop.iter_mut().zip(&bits.high).skip(unsure + 1) {
                *stop |= high;
            }
            bits.stop[unsure] |= bits.high[unsure] & (u64::MAX << (self.sound % 64));
        }
    }
}
