//! Which bytes matter, 64 at a time: the one place of this room that is written for a processor. Everything else
//! goes by the bits that come out of here, which are the same whichever of the two ways made them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_set1_epi8, _mm256_alignr_epi8,
    _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
    _mm256_permute2x128_si256, _mm256_set1_epi8, _mm256_setr_epi8, _mm256_setr_epi32, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_srli_epi16, _mm256_sub_epi8, _mm256_subs_epu8, _mm256_testz_si256, _mm256_xor_si256,
};

use super::skim::{Skim, Skimmed};
#[cfg(target_arch = "x86_64")]
use super::skim::{is_outside, open_tail};

/// The way this processor goes. Found out once, when a reader is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes(Way);

#[derive(Clone, Copy, Debug)]
enum Way {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
}

impl Lanes {
    /// The widest way there is.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = Avx2::detect() {
            return Self(Way::Avx2(avx2));
        }
        Self(Way::Portable)
    }

    /// The way of every other processor, here its twin.
    #[cfg(test)]
    pub(super) fn portable() -> Self {
        Self(Way::Portable)
    }

    /// Marks `bytes`, at most `64 * BLOCKS` of them. Where the last block is not full, bits behind the last byte are
    /// set in all rows but `high`. If there are bytes beyond ASCII, tells too how much of `text`, which begins with a
    /// character, is UTF-8.
    pub(super) fn mark(self, bytes: &[u8], text: &[u8], bits: &mut Bits) {
        match self.0 {
            Way::Portable => {
                each_block(bytes, bits, mark_block);
                if bits.any_high {
                    bits.sound = utf8_len(text);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Way::Avx2(avx2) => _ = avx2.work(Work::Mark(bytes, text, bits)),
        }
    }

    /// How many bytes of `text` are UTF-8, from its front.
    pub(super) fn utf8_len(self, text: &[u8]) -> usize {
        match self.0 {
            Way::Portable => utf8_len(text),
            #[cfg(target_arch = "x86_64")]
            Way::Avx2(avx2) => match avx2.work(Work::Text(text)) {
                Worked::Text(length) => length,
                _ => 0,
            },
        }
    }

    /// Marks what is not plain in a string: quote, backslash, control character, and with `ascii` what is beyond ASCII,
    /// in `blocks` times 64 bytes from `from` on. Tells whether there is a byte beyond ASCII.
    #[inline]
    pub(super) fn stops(self, bytes: &[u8], from: usize, blocks: usize, ascii: bool, stops: &mut Stops) -> bool {
        match self.0 {
            Way::Portable => {
                let mut any = 0;
                each_of(bytes, from, blocks, stops, |block| {
                    let [stop, _, _, high] = mark_block(block);
                    any |= high;
                    if ascii { stop | high } else { stop }
                });
                any != 0
            }
            #[cfg(target_arch = "x86_64")]
            Way::Avx2(avx2) => match avx2.work(Work::Stops(bytes, from, blocks, ascii, stops)) {
                Worked::Stops(high) => high,
                _ => true,
            },
        }
    }

    /// On with a skim, from `at`.
    pub(super) fn skim(self, skim: &mut Skim, piece: &[u8], at: usize) -> Skimmed {
        match self.0 {
            Way::Portable => skim.slowly(piece, at..piece.len()),
            #[cfg(target_arch = "x86_64")]
            Way::Avx2(avx2) => match avx2.work(Work::Skim(skim, piece, at)) {
                Worked::Skim(skimmed) => skimmed,
                _ => Skimmed::More,
            },
        }
    }
}

/// A bit per byte, the lowest of the first byte for the first.
pub(super) type Row = [u8; ROW_BYTES];

/// What is known of up to `64 * BLOCKS` bytes.
#[derive(Debug)]
pub(super) struct Bits {
    /// Ends a run of plain characters in a string: quote, backslash, control character.
    pub(super) stop: Row,
    /// No decimal digit.
    pub(super) not_digit: Row,
    /// No white space of JSON.
    pub(super) not_space: Row,
    /// Beyond ASCII.
    pub(super) high: Row,
    /// Whether there is one in `high`.
    pub(super) any_high: bool,
    /// How many bytes of the text are UTF-8, if `any_high`.
    pub(super) sound: usize,
}

impl Bits {
    pub(super) fn new() -> Self {
        let none = [0; ROW_BYTES];
        Self { stop: none, not_digit: none, not_space: none, high: none, any_high: false, sound: 0 }
    }

    #[inline(always)]
    fn put(&mut self, block: usize, marks: [u64; 4]) {
        let rows = [&mut self.stop, &mut self.not_digit, &mut self.not_space, &mut self.high];
        for (row, marks) in rows.into_iter().zip(marks) {
            row.as_chunks_mut().0[block] = marks.to_le_bytes();
        }
    }
}

/// Hands out `bytes` in blocks of 64, the last one filled up with zeroes, which are no digit, no space, and a stop.
#[inline(always)]
fn each_block(bytes: &[u8], bits: &mut Bits, mark: impl Fn(&[u8; 64]) -> [u64; 4]) {
    let (whole, rest) = bytes.as_chunks::<64>();
    let mut high = 0;
    for (block, bytes) in whole.iter().enumerate().take(BLOCKS) {
        let marks = mark(bytes);
        high |= marks[3];
        bits.put(block, marks);
    }
    if !rest.is_empty() && whole.len() < BLOCKS {
        let mut last = [0; 64];
        last[..rest.len()].copy_from_slice(rest);
        let marks = mark(&last);
        high |= marks[3];
        bits.put(whole.len(), marks);
    }
    // What an earlier, longer run left behind the last block.
    bits.put(bytes.len().div_ceil(64), [0; 4]);
    bits.any_high = high != 0;
}

/// The same for one row of `blocks` blocks from `from` on; what is behind the last byte has no mark.
#[inline(always)]
fn each_of(bytes: &[u8], from: usize, blocks: usize, row: &mut Stops, mut mark: impl FnMut(&[u8; 64]) -> u64) {
    let rest = bytes.get(from..).unwrap_or_default();
    let (whole, last) = rest.as_chunks::<64>();
    let mut words = row.iter_mut().take(blocks);
    for (block, word) in whole.iter().zip(&mut words) {
        *word = mark(block);
    }
    if let (false, Some(word)) = (last.is_empty(), words.next()) {
        *word = match bytes.last_chunk() {
            // What stands before is marked a second time.
            Some(block) => mark(block) >> (64 - last.len()),
            None => {
                let mut block = [0; 64];
                block[..last.len()].copy_from_slice(last);
                mark(&block)
            }
        };
    }
    for word in words {
        *word = 0;
    }
}

fn mark_block(block: &[u8; 64]) -> [u64; 4] {
    let mut marks = [0; 4];
    for (eight, bytes) in block.as_chunks::<8>().0.iter().enumerate() {
        for (mark, found) in marks.iter_mut().zip(eight_bytes(u64::from_le_bytes(*bytes))) {
            *mark |= found << (eight * 8);
        }
    }
    marks
}

/// How many bytes of `text` are UTF-8, from its front.
fn utf8_len(text: &[u8]) -> usize {
    str::from_utf8(text).map_or_else(|fault| fault.valid_up_to(), str::len)
}

/// The marks of eight bytes, eight bits each.
#[inline(always)]
fn eight_bytes(word: u64) -> [u64; 4] {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    // The top bit of each byte that is below `bound`; no sum of two bytes here reaches into the next.
    let below = |word: u64, bound: u64| !(((word & !TOPS) + ONES * (0x80 - bound)) | word) & TOPS;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let stop = is(b'"') | is(b'\\') | below(word, 0x20);
    let digit = below(word ^ (ONES * 0x30), 10);
    let space = is(b' ') | is(b'\n') | is(b'\r') | is(b'\t');
    let gather = |tops: u64| (tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    [gather(stop), gather(!digit & TOPS), gather(!space & TOPS), gather(word & TOPS)]
}

/// That this processor has AVX2, and what came with it: there is no other maker than `detect`.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
struct Avx2(());

/// What is done in one call.
#[cfg(target_arch = "x86_64")]
enum Work<'a> {
    Mark(&'a [u8], &'a [u8], &'a mut Bits),
    Stops(&'a [u8], usize, usize, bool, &'a mut Stops),
    Text(&'a [u8]),
    Skim(&'a mut Skim, &'a [u8], usize),
}

/// And what came of it.
#[cfg(target_arch = "x86_64")]
enum Worked {
    Mark,
    Stops(bool),
    Text(usize),
    Skim(Skimmed),
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("pclmulqdq");
        all.then_some(Self(()))
    }

    #[inline(always)]
    fn work(self, work: Work<'_>) -> Worked {
        // SAFETY: `work_avx2` is safe code whose only demand is a processor with AVX2, BMI1 and PCLMULQDQ, and an
        // `Avx2` exists only where `detect` has found one.
        // JUSTIFICATION: a call of 350 bytes in half the time, long texts in a seventh (bench/envelope.rs "call" and
        // "request/1 MB": 0.10 against 0.76 ns a byte of plain text).
        unsafe { work_avx2(work) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,pclmulqdq")]
fn work_avx2(work: Work<'_>) -> Worked {
    match work {
        Work::Mark(bytes, text, bits) => {
            mark_avx2(bytes, text, bits);
            Worked::Mark
        }
        Work::Stops(bytes, from, blocks, ascii, stops) => Worked::Stops(stops_avx2(bytes, from, blocks, ascii, stops)),
        Work::Text(text) => Worked::Text(utf8_len_avx2(text)),
        Work::Skim(skim, piece, at) => Worked::Skim(skim_avx2(skim, piece, at)),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn mark_avx2(bytes: &[u8], text: &[u8], bits: &mut Bits) {
    each_block(bytes, bits, |block| {
        let (halves, _) = block.as_chunks::<32>();
        let mut marks = [0; 4];
        for (half, bytes) in halves.iter().enumerate() {
            for (mark, found) in marks.iter_mut().zip(half_block(load(bytes))) {
                *mark |= u64::from(found) << (half * 32);
            }
        }
        marks
    });
    if bits.any_high {
        bits.sound = utf8_len_avx2(text);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,pclmulqdq")]
#[inline]
fn stops_avx2(bytes: &[u8], from: usize, blocks: usize, ascii: bool, stops: &mut Stops) -> bool {
    let mut any = _mm256_setzero_si256();
    // Only the top bits count.
    let beyond = if ascii { _mm256_set1_epi8(-1) } else { _mm256_setzero_si256() };
    each_of(bytes, from, blocks, stops, |block| {
        let [low, high] = halves(block);
        any = _mm256_or_si256(any, _mm256_or_si256(low, high));
        let marked = |half| _mm256_or_si256(stops_of(half), _mm256_and_si256(half, beyond));
        mask([marked(low), marked(high)])
    });
    _mm256_movemask_epi8(any) != 0
}

/// All bits of the bytes that are not plain: quote, backslash, control character.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn stops_of(bytes: __m256i) -> __m256i {
    let is = |byte: u8| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte.cast_signed()));
    let control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
    _mm256_or_si256(_mm256_or_si256(is(b'"'), is(b'\\')), control)
}

/// Does what `Skim::slowly` does, 64 bytes at a time; what is wrong, and a character that the piece cuts, byte by byte.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,pclmulqdq")]
fn skim_avx2(skim: &mut Skim, piece: &[u8], from: usize) -> Skimmed {
    let mut at = from;
    // The last block ended within a character; where no block was, nothing has to be known of what stands before.
    let (mut open, mut before) = (false, _mm256_setzero_si256());
    while skim.tail.left > 0 && at < piece.len() {
        let skimmed = skim.slowly(piece, at..at + 1);
        if skimmed != Skimmed::More {
            return skimmed;
        }
        at += 1;
    }
    loop {
        if skim.quoted && !skim.escaped {
            at += plain_blocks(piece.get(at..).unwrap_or_default(), &mut before, &mut open);
        }
        let rest = match piece.get(at..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => return Skimmed::More,
        };
        let mut last;
        let block = match rest.first_chunk() {
            Some(block) => block,
            None => {
                last = [b' '; 64];
                last[..rest.len()].copy_from_slice(rest);
                &last
            }
        };
        let length = rest.len().min(64);
        let two = halves(block);
        let found = Found::in_block(two);
        let high = _mm256_movemask_epi8(_mm256_or_si256(two[0], two[1])) != 0;
        let mut sound = true;
        if high || open {
            sound = is_sound(two, before);
            open = is_open(block);
            sound &= !(open && rest.len() <= 64);
        }
        before = two[1];
        if sound && let Some(brackets) = found.brackets(skim, two, length) {
            match skim.brackets(block, brackets) {
                Skimmed::More => {}
                Skimmed::End(place) => return Skimmed::End(at + place),
                Skimmed::Fault(fault, place) => return Skimmed::Fault(fault, at + place),
            }
        } else {
            // Something is wrong before the end, or the piece ends within a character. Of one that the last block ended
            // within, not even the first byte is judged.
            let begun = open_tail(piece.get(from..at).unwrap_or_default());
            return skim.slowly(piece, at - begun..piece.len());
        }
        at += length;
    }
}

/// How many bytes of `rest`, in whole blocks but never all, are plain text; what is behind has the next block judged.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn plain_blocks(rest: &[u8], before: &mut __m256i, open: &mut bool) -> usize {
    let (blocks, _) = rest[..rest.len().saturating_sub(1)].as_chunks::<64>();
    let mut passed = 0_usize;
    for block in blocks {
        let two = halves(block);
        let stop = _mm256_or_si256(stops_of(two[0]), stops_of(two[1]));
        if _mm256_testz_si256(stop, stop) == 0 {
            break;
        }
        if *open || _mm256_movemask_epi8(_mm256_or_si256(two[0], two[1])) != 0 {
            if !is_sound(two, *before) {
                break;
            }
            *open = is_open(block);
        }
        *before = two[1];
        passed = passed.wrapping_add(64);
    }
    passed
}

/// Whether a block can be UTF-8 behind these bytes, but for a character that goes on behind it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn is_sound(two: [__m256i; 2], before: __m256i) -> bool {
    let wrong = _mm256_or_si256(faults_of(two[0], before), faults_of(two[1], two[0]));
    _mm256_testz_si256(wrong, wrong) == 1
}

/// Whether a character goes on behind the block.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn is_open(block: &[u8; 64]) -> bool {
    block[63] >= 0xc0 || block[62] >= 0xe0 || block[61] >= 0xf0
}

/// What may end plain text, in the two halves of a block.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Found {
    quote: [__m256i; 2],
    backslash: [__m256i; 2],
    control: [__m256i; 2],
}

#[cfg(target_arch = "x86_64")]
impl Found {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn in_block(two: [__m256i; 2]) -> Self {
        let [low, high] = two;
        let is = |half, byte: u8| _mm256_cmpeq_epi8(half, _mm256_set1_epi8(byte.cast_signed()));
        let control = |half| _mm256_cmpeq_epi8(_mm256_min_epu8(half, _mm256_set1_epi8(0x1f)), half);
        Self {
            quote: [is(low, b'"'), is(high, b'"')],
            backslash: [is(low, b'\\'), is(high, b'\\')],
            control: [control(low), control(high)],
        }
    }

    /// The brackets outside of strings, after the block, of which `length` bytes are there, was taken into `skim`.
    /// Nothing is taken, and nothing told, when there is a byte that must not stand where it does.
    #[target_feature(enable = "avx2,bmi1,pclmulqdq")]
    #[inline]
    fn brackets(self, skim: &mut Skim, two: [__m256i; 2], length: usize) -> Option<u64> {
        let backslash = mask(self.backslash);
        let escaped = if backslash == 0 { u64::from(skim.escaped) } else { escaped(backslash, skim.escaped) };
        let quote = mask(self.quote) & !escaped;
        // Each bit of the product is the parity of the quotes up to it.
        let product = _mm_clmulepi64_si128::<0>(_mm_set_epi64x(0, quote.cast_signed()), _mm_set1_epi8(-1));
        let inside = _mm_cvtsi128_si64(product).cast_unsigned() ^ if skim.quoted { u64::MAX } else { 0 };
        // The top bit is that of brackets.
        let class = |half| {
            let low = _mm256_shuffle_epi8(twice(&OUTSIDE_LOW), half);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(half), _mm256_set1_epi8(0x0f));
            _mm256_and_si256(low, _mm256_shuffle_epi8(twice(&OUTSIDE_HIGH), high))
        };
        let classes = [class(two[0]), class(two[1])];
        let none = |half| _mm256_cmpeq_epi8(half, _mm256_setzero_si256());
        let strange = mask([none(classes[0]), none(classes[1])]);
        if (mask(self.control) & inside) | (strange & !inside) != 0 {
            return None;
        }
        skim.quoted = inside >> 63 == 1;
        skim.escaped = escaped >> (length % 64) & 1 == 1;
        if length == 64 {
            // Whether the first byte of the next block is escaped.
            skim.escaped = backslash >> 63 & !(escaped >> 63) & 1 == 1;
        }
        Some(mask(classes) & !inside)
    }
}

/// The bytes that stand behind a backslash that counts; `first`: whether the first one does.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn escaped(backslash: u64, first: bool) -> u64 {
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let first = u64::from(first);
    // From where a run of backslashes begins every second one counts: a sum runs through each run, and its end differs
    // by whether the run is of odd length (simdjson, `json_escape_scanner`).
    let starts = backslash & !first;
    let behind = starts << 1 | ODD;
    let codes = behind.wrapping_sub(starts) ^ ODD;
    codes ^ (backslash | first)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn mask(two: [__m256i; 2]) -> u64 {
    let bits = |half| u64::from(_mm256_movemask_epi8(half).cast_unsigned());
    bits(two[1]) << 32 | bits(two[0])
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn halves(block: &[u8; 64]) -> [__m256i; 2] {
    let (halves, _) = block.as_chunks::<32>();
    [load(&halves[0]), load(&halves[1])]
}

/// Does what `utf8_len` does: whole blocks by vectors, the rest and what is wrong byte by byte.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn utf8_len_avx2(text: &[u8]) -> usize {
    let (blocks, _) = text.as_chunks::<32>();
    let mut before = _mm256_setzero_si256();
    let mut wrong = _mm256_setzero_si256();
    for block in blocks {
        let bytes = load(block);
        wrong = _mm256_or_si256(wrong, faults_of(bytes, before));
        before = bytes;
    }
    if _mm256_testz_si256(wrong, wrong) == 0 {
        return utf8_len(text);
    }
    // The last character of the last block may go on behind it: its first byte is among the last three.
    let end = blocks.len() * 32;
    let open = text[..end].iter().rev().take(3).position(|byte| *byte >= 0xc0).map_or(0, |back| back + 1);
    end - open + utf8_len(&text[end - open..])
}

/// Bits where a byte cannot follow the three before it: Keiser and Lemire, "Validating UTF-8 In Less Than One
/// Instruction Per Byte" (2020), figure 4. A sequence that is cut by the end of `bytes` is not seen before the next.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn faults_of(bytes: __m256i, before: __m256i) -> __m256i {
    let joint = _mm256_permute2x128_si256::<0x21>(before, bytes);
    let one = _mm256_alignr_epi8::<15>(bytes, joint);
    let two = _mm256_alignr_epi8::<14>(bytes, joint);
    let three = _mm256_alignr_epi8::<13>(bytes, joint);
    let low_bits = _mm256_set1_epi8(0x0f);
    let low = |bytes| _mm256_and_si256(bytes, low_bits);
    let high = |bytes| _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), low_bits);
    let look = |table: &[u8; 16], index| _mm256_shuffle_epi8(twice(table), index);
    let pairs = _mm256_and_si256(
        _mm256_and_si256(look(&FIRST_HIGH, high(one)), look(&FIRST_LOW, low(one))),
        look(&SECOND_HIGH, high(bytes)),
    );
    // A third or fourth byte of a sequence: there, and only there, two continuations in a row are right:
    // from e0 and f0 on the difference reaches the top bit.
    let third = _mm256_subs_epu8(two, _mm256_set1_epi8(0x60));
    let fourth = _mm256_subs_epu8(three, _mm256_set1_epi8(0x70));
    let must = _mm256_and_si256(_mm256_or_si256(third, fourth), _mm256_set1_epi8(i8::MIN));
    _mm256_xor_si256(must, pairs)
}

/// A table of sixteen bytes, for both halves of a vector.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn twice(table: &[u8; 16]) -> __m256i {
    let mut both = [0; 32];
    both[..16].copy_from_slice(table);
    both[16..].copy_from_slice(table);
    load(&both)
}

/// The marks of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn half_block(bytes: __m256i) -> [u32; 4] {
    let is = |byte: u8| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte.cast_signed()));
    let up_to = |bytes, last: i8| _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(last)), bytes);
    let stop = _mm256_or_si256(_mm256_or_si256(is(b'"'), is(b'\\')), up_to(bytes, 0x1f));
    let digit = up_to(_mm256_sub_epi8(bytes, _mm256_set1_epi8(0x30)), 9);
    // Each white space stands at the place that its low four bits name; no other byte finds itself there.
    let spaces = _mm256_setr_epi8(
        0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0x09, 0x0a, 0, 0, 0x0d, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0x09, 0x0a, 0, 0,
        0x0d, 0, 0,
    );
    let space = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(spaces, bytes), bytes);
    let mask = |found| _mm256_movemask_epi8(found).cast_unsigned();
    [mask(stop), !mask(digit), !mask(space), mask(bytes)]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8; 32]) -> __m256i {
    // Becomes one load.
    let (words, _) = bytes.as_chunks::<4>();
    let word = |index: usize| i32::from_le_bytes(words[index]);
    _mm256_setr_epi32(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7))
}

/// What is wrong with two bytes in a row, a bit each: the second is missing, or one too many; the form is too long for
/// two, three or four bytes; the character is half a pair, or above U+10FFFF; two continuations (right in places).
#[cfg(target_arch = "x86_64")]
mod pair {
    pub(super) const SHORT: u8 = 1;
    pub(super) const LONG: u8 = 1 << 1;
    pub(super) const OVER_3: u8 = 1 << 2;
    pub(super) const LARGE: u8 = 1 << 3;
    pub(super) const SURROGATE: u8 = 1 << 4;
    pub(super) const OVER_2: u8 = 1 << 5;
    /// Both never stand at one place.
    pub(super) const LARGE_OR_OVER_4: u8 = 1 << 6;
    pub(super) const TWO: u8 = 1 << 7;
    /// What the low half of the first byte says nothing about.
    pub(super) const ANY: u8 = SHORT | LONG | TWO;
    pub(super) const BEYOND: u8 = ANY | LARGE | LARGE_OR_OVER_4;
    pub(super) const NEXT: u8 = LONG | OVER_2 | TWO;
}
#[cfg(target_arch = "x86_64")]
use pair::{ANY, BEYOND, LARGE, LARGE_OR_OVER_4, LONG, NEXT, OVER_2, OVER_3, SHORT, SURROGATE, TWO};

/// By the high half of the first byte.
#[cfg(target_arch = "x86_64")]
const FIRST_HIGH: [u8; 16] = [
    LONG,
    LONG,
    LONG,
    LONG,
    LONG,
    LONG,
    LONG,
    LONG,
    TWO,
    TWO,
    TWO,
    TWO,
    SHORT | OVER_2,
    SHORT,
    SHORT | OVER_3 | SURROGATE,
    SHORT | LARGE | LARGE_OR_OVER_4,
];
/// By its low half.
#[cfg(target_arch = "x86_64")]
const FIRST_LOW: [u8; 16] = [
    ANY | OVER_2 | OVER_3 | LARGE_OR_OVER_4,
    ANY | OVER_2,
    ANY,
    ANY,
    ANY | LARGE,
    BEYOND,
    BEYOND,
    BEYOND,
    BEYOND,
    BEYOND,
    BEYOND,
    BEYOND,
    BEYOND,
    BEYOND | SURROGATE,
    BEYOND,
    BEYOND,
];
/// By the high half of the second.
#[cfg(target_arch = "x86_64")]
const SECOND_HIGH: [u8; 16] = [
    SHORT,
    SHORT,
    SHORT,
    SHORT,
    SHORT,
    SHORT,
    SHORT,
    SHORT,
    NEXT | OVER_3 | LARGE_OR_OVER_4,
    NEXT | OVER_3 | LARGE,
    NEXT | SURROGATE | LARGE,
    NEXT | SURROGATE | LARGE,
    SHORT,
    SHORT,
    SHORT,
    SHORT,
];

/// What may stand outside of strings: a byte may if its two halves have a bit in common. A bit for each high half but
/// that brackets have the top one, whichever their high half is.
#[cfg(target_arch = "x86_64")]
const OUTSIDE_LOW: [u8; 16] = outside(false);
#[cfg(target_arch = "x86_64")]
const OUTSIDE_HIGH: [u8; 16] = outside(true);

#[cfg(target_arch = "x86_64")]
const fn outside(by_high: bool) -> [u8; 16] {
    let mut table = [0; 16];
    let mut byte = 0;
    while byte < 0x80 {
        if is_outside(byte) {
            let half = if by_high { byte >> 4 } else { byte & 15 };
            let bracket = matches!(byte, b'{' | b'}' | b'[' | b']');
            table[half as usize] |=
                if bracket { 0x80 } else { ((1 << (byte >> 4)) & 0x7f) | ((byte >> 4 == 7) as u8 * 2) };
        }
        byte += 1;
    }
    table
}

/// What is not plain, a bit a byte.
pub(super) type Stops = [u64; STOPS_WORDS];
pub(super) const STOPS_WORDS: usize = 8;
pub(super) const STOPS_BYTES: usize = 64 * STOPS_WORDS;

/// Blocks marked at one go.
pub(super) const BLOCKS: usize = 8;
/// And eight bytes that are always zero.
const ROW_BYTES: usize = 8 * (BLOCKS + 1);
