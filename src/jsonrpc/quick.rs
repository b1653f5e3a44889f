//! The way of nearly every message: it is here whole, it is of modest size, and nothing in it is unusual. What this
//! accepts is what `machine` accepts, read to the same parts; of what it is not sure it says nothing, and the machine
//! reads that from its first byte. So no fault is found here, and nothing has to be resumed.

use super::lanes::{Lanes, STOPS_BYTES, STOPS_WORDS, Stops};
use super::machine::{Escapes, Level, Name, Open, Role, becomes_watched, plain_escape, short_word};
use super::scan::{Kind, ScanFault};
use super::skim::{Skim, Skimmed};
use crate::base::limits::{ANSWER_MEMBERS_OPEN_MAX, DEPTH_MAX, MEMBER_NAME_BYTES_MAX, MEMBERS_MAX, QUICK_BYTES_MAX};

/// What is told of watched objects. An error is the end of this way.
pub(super) trait Sink {
    /// A name, and its value, of which the first byte is known.
    fn begin(&mut self, level: Level, name: &Name<'_>, kind: Kind, at: usize) -> Result<Role, ScanFault>;
    /// The value of the last name of this level ended.
    fn end(&mut self, level: Level, at: usize);
}

/// The memory of this way.
#[derive(Debug)]
pub(super) struct Quick {
    /// The names of all open objects, a word each (see `word_of`), outermost first.
    names: [u64; NAMES_MAX],
    open: [Open; DEPTH_MAX],
}

impl Quick {
    pub(super) fn new() -> Self {
        Self { names: [0; NAMES_MAX], open: [Open::NONE; DEPTH_MAX] }
    }

    /// Reads a message. `None`: it is for the machine, and what the sink was told is to be forgotten.
    pub(super) fn read<S: Sink>(&mut self, lanes: Lanes, bytes: &[u8], sink: &mut S) -> Option<()> {
        if bytes.len() > QUICK_BYTES_MAX {
            return None;
        }
        Run::<S, false>::new(self, bytes, &mut Plain::new(lanes, bytes), sink).message()
    }

    /// The same, but containers that are not watched are skimmed.
    pub(super) fn skim<S: Sink>(&mut self, lanes: Lanes, bytes: &[u8], sink: &mut S) -> Option<()> {
        Run::<S, true>::new(self, bytes, &mut Plain::new(lanes, bytes), sink).message()
    }
}

/// One message. With `SKIMS` no byte beyond ASCII is passed over but by the skim.
struct Run<'a, S, const SKIMS: bool> {
    bytes: &'a [u8],
    plain: &'a mut Plain<'a, SKIMS>,
    sink: &'a mut S,
    names: &'a mut [u64; NAMES_MAX],
    open: &'a mut [Open; DEPTH_MAX],
    /// How many names there are.
    count: usize,
    depth: usize,
    /// A bit per open container, the innermost lowest: is it an object?
    objects: u64,
    /// How many of them, from the outermost on, are watched objects.
    watched: usize,
    /// Which the innermost of these is.
    level: Level,
    role: Role,
    /// Where the names of the innermost open object begin, and a bit for each of them.
    here: Open,
}

impl<'a, S: Sink, const SKIMS: bool> Run<'a, S, SKIMS> {
    #[inline(always)]
    fn new(quick: &'a mut Quick, bytes: &'a [u8], plain: &'a mut Plain<'a, SKIMS>, sink: &'a mut S) -> Self {
        let Quick { names, open } = quick;
        let (count, depth, objects, watched) = (0, 0, 0, 0);
        let (level, role, here) = (Level::Root, Role::Plain, Open::NONE);
        Self { bytes, plain, sink, names, open, count, depth, objects, watched, level, role, here }
    }

    #[inline(always)]
    fn message(mut self) -> Option<()> {
        let first = self.token(0)?;
        if first.1 != b'{' {
            return None;
        }
        let end = self.value(first)?;
        self.token(end).is_none().then_some(())
    }

    /// From the first byte of the message to behind its last: value after value, and all between them.
    #[inline(always)]
    fn value(&mut self, from: Place) -> Option<usize> {
        let (mut at, mut byte) = from;
        loop {
            let end = match byte {
                b'"' => {
                    let close = self.plain.end(at.wrapping_add(1));
                    // Nearly always another member follows.
                    if self.objects & 1 == 1 && self.three_at(close) == Some(*b"\",\"") {
                        self.tell_end(close.wrapping_add(1));
                        (at, byte) = self.name(close.wrapping_add(2))?;
                        continue;
                    }
                    self.text_end(close)?
                }
                b'{' | b'[' => {
                    let next = if byte == b'{' { self.object(at)? } else { self.array(at)? };
                    match next {
                        Next::Value(place) => {
                            (at, byte) = place;
                            continue;
                        }
                        Next::End(end) => end,
                    }
                }
                b'-' | b'0'..=b'9' => number_end(self.bytes, at)?,
                b't' => self.word_end(at, b"true")?,
                b'f' => self.word_end(at, b"false")?,
                b'n' => self.word_end(at, b"null")?,
                _ => return None,
            };
            match self.next(end)? {
                Next::Value(place) => (at, byte) = place,
                Next::End(end) => return Some(end),
            }
        }
    }

    /// From behind a value to the next one, or behind the message.
    #[inline(always)]
    fn next(&mut self, from: usize) -> Option<Next> {
        let mut end = from;
        loop {
            self.tell_end(end);
            let (here, byte) = self.token(end)?;
            let object = self.objects & 1 == 1;
            match byte {
                b',' => {
                    let (at, byte) = self.token(here.wrapping_add(1))?;
                    if !object {
                        return Some(Next::Value((at, byte)));
                    }
                    return if byte == b'"' { self.name(at).map(Next::Value) } else { None };
                }
                b'}' if object => self.close_object(),
                b']' if !object => {}
                _ => return None,
            }
            self.objects >>= 1;
            self.depth = self.depth.wrapping_sub(1);
            end = here.wrapping_add(1);
            if self.depth == 0 {
                return Some(Next::End(end));
            }
        }
    }

    /// A value ended here.
    #[inline(always)]
    fn tell_end(&mut self, at: usize) {
        if self.depth == self.watched {
            self.sink.end(self.level, at);
        }
    }

    /// An object that begins here.
    #[inline(always)]
    fn object(&mut self, at: usize) -> Option<Next> {
        let watched = becomes_watched(self.watched, self.depth, self.role);
        if SKIMS && !watched {
            return self.skimmed(at);
        }
        let (here, byte) = self.token(at.wrapping_add(1))?;
        // None if it is too deep.
        *self.open.get_mut(self.depth)? = self.here;
        // The outermost one is never left by this door: an empty message says nothing.
        if byte == b'}' && self.depth > 0 {
            return Some(Next::End(here.wrapping_add(1)));
        }
        self.here = Open { first: u32::try_from(self.count).ok()?, bits: 0 };
        if watched {
            self.watched = self.watched.wrapping_add(1);
            self.level = level_of(self.watched);
        }
        self.depth = self.depth.wrapping_add(1);
        self.objects = self.objects << 1 | 1;
        if byte == b'"' { self.name(here).map(Next::Value) } else { None }
    }

    #[inline(always)]
    fn array(&mut self, at: usize) -> Option<Next> {
        if SKIMS {
            return self.skimmed(at);
        }
        let place = self.token(at.wrapping_add(1))?;
        if self.depth == DEPTH_MAX {
            return None;
        }
        if place.1 == b']' {
            return Some(Next::End(place.0.wrapping_add(1)));
        }
        self.depth = self.depth.wrapping_add(1);
        self.objects <<= 1;
        Some(Next::Value(place))
    }

    #[inline(always)]
    fn skimmed(&mut self, at: usize) -> Option<Next> {
        match Skim::new(self.depth, self.objects).run(self.plain.lanes, self.bytes, at) {
            Skimmed::End(end) => Some(Next::End(end)),
            Skimmed::More | Skimmed::Fault(..) => None,
        }
    }

    #[inline(always)]
    fn close_object(&mut self) {
        self.count = self.here.first as usize;
        if self.depth == self.watched {
            self.watched = self.watched.wrapping_sub(1);
            self.level = level_of(self.watched);
        }
        if let Some(outer) = self.open.get(self.depth.wrapping_sub(1)) {
            self.here = *outer;
        }
    }

    /// A name whose first quote is here, up to its value.
    #[inline(always)]
    fn name(&mut self, quote: usize) -> Option<Place> {
        let start = quote.wrapping_add(1);
        let end = self.plain.end(start);
        let place = match self.three_at(end) {
            Some([b'"', b':', byte]) if byte > b' ' => (end.wrapping_add(2), byte),
            _ => self.value_behind(end)?,
        };
        let length = end.wrapping_sub(start);
        let word = if length < 8 { self.short_word(start, length) } else { self.long_word(start, end)? };
        let bit = 1 << (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58);
        if self.here.bits & bit != 0 && self.names.get(self.here.first as usize..self.count)?.contains(&word) {
            return None;
        }
        self.here.bits |= bit;
        *self.names.get_mut(self.count)? = word;
        self.count = self.count.wrapping_add(1);
        if self.depth == self.watched {
            let text = self.bytes.get(start..end)?;
            let name = Name { text, word, start: start as u64, end: end as u64, escapes: Escapes::None };
            self.role = self.sink.begin(self.level, &name, kind_of(place.1)?, place.0).ok()?;
        }
        Some(place)
    }

    /// The value behind a name that ends here, wherever there are spaces.
    #[cold]
    fn value_behind(&self, end: usize) -> Option<Place> {
        if self.bytes.get(end) != Some(&b'"') {
            return None;
        }
        let (colon, byte) = self.token(end.wrapping_add(1))?;
        if byte == b':' { self.token(colon.wrapping_add(1)) } else { None }
    }

    /// A name as a word: equal names have equal words. Those of up to seven bytes are told apart for certain (and have
    /// the word that the machine gives them).
    #[inline(always)]
    fn short_word(&self, start: usize, length: usize) -> u64 {
        let front = self.bytes.get(start..start.wrapping_add(8)).and_then(<[u8]>::first_chunk);
        match front {
            Some(front) => short_word(u64::from_le_bytes(*front), length),
            None => last_word(self.bytes.get(start..start.wrapping_add(length)).unwrap_or_default()),
        }
    }

    /// Of longer ones two that have one word may be two: the machine finds out.
    #[inline(always)]
    fn long_word(&self, start: usize, end: usize) -> Option<u64> {
        let text = self.bytes.get(start..end).filter(|text| text.len() <= MEMBER_NAME_BYTES_MAX)?;
        let (first, last) = (u64::from_le_bytes(*text.first_chunk()?), u64::from_le_bytes(*text.last_chunk()?));
        Some((first ^ last.rotate_left(29)).wrapping_add(text.len() as u64) | 1 << 63)
    }

    /// One past a string, of which the first byte that is not plain is here.
    #[inline(always)]
    fn text_end(&mut self, stop: usize) -> Option<usize> {
        let mut stop = stop;
        loop {
            let behind = stop.wrapping_add(1);
            match self.bytes.get(stop)? {
                b'"' => return Some(behind),
                b'\\' => stop = self.plain.end(behind.wrapping_add(plain_escape(self.bytes.get(behind..)?)?)),
                _ => return None,
            }
        }
    }

    #[inline(always)]
    fn three_at(&self, at: usize) -> Option<[u8; 3]> {
        self.bytes.get(at..at.wrapping_add(3)).and_then(<[u8]>::first_chunk).copied()
    }

    #[inline(always)]
    fn word_end<const N: usize>(&self, at: usize, word: &[u8; N]) -> Option<usize> {
        (self.bytes.get(at..)?.first_chunk() == Some(word)).then(|| at.wrapping_add(N))
    }

    /// The first byte from `at` that is no white space, and where.
    #[inline(always)]
    fn token(&self, at: usize) -> Option<Place> {
        match self.bytes.get(at) {
            Some(&byte) if byte > b' ' => Some((at, byte)),
            _ => behind_spaces(self.bytes, at),
        }
    }
}

/// A look ahead for the ends of plain text. Apart from the run, which so can be all in registers.
struct Plain<'a, const SKIMS: bool> {
    bytes: &'a [u8],
    lanes: Lanes,
    /// What is not plain in one part of the message, and where that begins.
    stops: Stops,
    begin: usize,
    /// The message is known to be UTF-8.
    is_text: bool,
}

impl<'a, const SKIMS: bool> Plain<'a, SKIMS> {
    /// Where much is skimmed, little is looked at.
    const LENGTH: usize = if SKIMS { 128 } else { STOPS_BYTES };

    #[inline(always)]
    fn new(lanes: Lanes, bytes: &'a [u8]) -> Self {
        Self { bytes, lanes, stops: [0; STOPS_WORDS], begin: usize::MAX / 2, is_text: false }
    }

    /// The first byte from `from`, within a string, that is not plain: a quote, a backslash, a control character; for a
    /// skim one beyond ASCII too. A place behind the message if there is none.
    #[inline(always)]
    fn end(&mut self, from: usize) -> usize {
        let at = from.wrapping_sub(self.begin);
        if at < Self::LENGTH {
            let found = self.stops[at / 64] >> (at % 64);
            if found != 0 {
                return from.wrapping_add(found.trailing_zeros() as usize);
            }
        }
        self.end_far(from)
    }

    #[inline(never)]
    fn end_far(&mut self, from: usize) -> usize {
        let mut from = from;
        while from < self.bytes.len() {
            let mut at = from.wrapping_sub(self.begin);
            if at >= Self::LENGTH {
                if !self.look(from) {
                    break;
                }
                at = 0;
            }
            let found = self.stops[at / 64] >> (at % 64);
            if found != 0 {
                return from + found.trailing_zeros() as usize;
            }
            from += 64 - at % 64;
        }
        usize::MAX / 2
    }

    /// Takes up the part that begins here; tells whether it can be text.
    fn look(&mut self, from: usize) -> bool {
        self.begin = from;
        let high = self.lanes.stops(self.bytes, from, Self::LENGTH / 64, SKIMS, &mut self.stops);
        // All of the message at once, the first time.
        if high && !SKIMS && !self.is_text {
            self.is_text = self.lanes.utf8_len(self.bytes) == self.bytes.len();
            return self.is_text;
        }
        true
    }
}

/// Where a token begins, and its first byte.
type Place = (usize, u8);

/// What comes of a container's first byte.
enum Next {
    /// A value begins here.
    Value(Place),
    /// It was all of it, up to here.
    End(usize),
}

/// Which watched object is the innermost of so many.
#[inline(always)]
fn level_of(watched: usize) -> Level {
    match watched {
        0 | 1 => Level::Root,
        2 => Level::Body,
        _ => Level::Meta,
    }
}

#[inline(never)]
fn behind_spaces(bytes: &[u8], from: usize) -> Option<Place> {
    let rest = bytes.get(from..)?;
    let skipped = rest.iter().position(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t'))?;
    Some((from.wrapping_add(skipped), *rest.get(skipped)?))
}

#[inline(always)]
fn kind_of(first: u8) -> Option<Kind> {
    Some(match first {
        b'{' => Kind::Object,
        b'[' => Kind::Array,
        b'"' => Kind::String,
        b'-' | b'0'..=b'9' => Kind::Number,
        b't' => Kind::True,
        b'f' => Kind::False,
        b'n' => Kind::Null,
        _ => return None,
    })
}

/// The word of a short name that stands so near the end that eight bytes cannot be read at once.
#[cold]
fn last_word(text: &[u8]) -> u64 {
    let mut front = [0; 8];
    for (to, from) in front.iter_mut().zip(text) {
        *to = *from;
    }
    short_word(u64::from_le_bytes(front), text.len())
}

/// One past the number that begins here (RFC 8259 section 6).
#[inline(always)]
fn number_end(bytes: &[u8], at: usize) -> Option<usize> {
    let first = at.wrapping_add(usize::from(bytes.get(at) == Some(&b'-')));
    let mut end = digits_end(bytes, first)?;
    if end.wrapping_sub(first) > 1 && bytes.get(first) == Some(&b'0') {
        return None;
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits_end(bytes, end.wrapping_add(1))?;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = matches!(bytes.get(end.wrapping_add(1)), Some(b'+' | b'-'));
        end = digits_end(bytes, end.wrapping_add(1).wrapping_add(usize::from(signed)))?;
    }
    Some(end)
}

/// One past the digits that begin here; there is at least one.
#[inline(always)]
fn digits_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while bytes.get(at)?.is_ascii_digit() {
        at = at.wrapping_add(1);
    }
    (at > from).then_some(at)
}

/// Names of objects open at one time. Few messages have more, and each new name may be compared with all before it.
const NAMES_MAX: usize = 128;

const _: () = assert!(QUICK_BYTES_MAX <= 5 * MEMBERS_MAX, "members need not be counted: `\"\":1,` is the shortest");
const _: () = assert!(NAMES_MAX <= ANSWER_MEMBERS_OPEN_MAX, "nor those that are open");
