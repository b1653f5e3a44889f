//! The way of nearly every message: it is here whole, it is of modest size, and nothing in it is unusual. What this
//! accepts is what `machine` accepts, read to the same parts; of what it is not sure it says nothing, and the machine
//! reads that from its first byte. So no fault is found here, and nothing has to be resumed.

use super::lanes::{Lanes, STOPS_BYTES, STOPS_WORDS, Stops};
use super::machine::{Escapes, Level, Name, Open, Role, becomes_watched, plain_escape, short_word};
use super::scan::{Kind, ScanFault};
use super::skim::{Skim, Skimmed};
use crate::base::limits::{DEPTH_MAX, MEMBER_NAME_BYTES_MAX, QUICK_BYTES_MAX};

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

    /// Reads a message with at most `members` members. `None`: it is for the machine, and what the sink was told is
    /// to be forgotten.
    pub(super) fn read<S: Sink>(
        &mut self,
        lanes: Lanes,
        bytes: &[u8],
        members: usize,
        sink: &mut S,
    ) -> Option<()> {
        if bytes.len() > QUICK_BYTES_MAX {
            return None;
        }
        Run::<S, false>::new(self, lanes, bytes, members, sink).message()
    }

    /// The same, but containers that are not watched are skimmed.
    pub(super) fn skim<S: Sink>(&mut self, lanes: Lanes, bytes: &[u8], members: usize, sink: &mut S) -> Option<()> {
        if bytes.len() > QUICK_BYTES_MAX {
            return None;
        }
        Run::<S, true>::new(self, lanes, bytes, members, sink).message()
    }
}

/// One message. With `SKIMS` no byte beyond ASCII is passed over but by the skim.
struct Run<'a, S, const SKIMS: bool> {
    bytes: &'a [u8],
    lanes: Lanes,
    sink: &'a mut S,
    names: &'a mut [u64; NAMES_MAX],
    open: &'a mut [Open; DEPTH_MAX],
    /// How many names there are, and how many there may still come.
    count: usize,
    members_left: usize,
    depth: usize,
    /// A bit per open container, the innermost lowest: is it an object?
    objects: u64,
    /// How many of them, from the outermost on, are watched objects.
    watched: usize,
    role: Role,
    /// Where the names of the innermost open object begin, and a bit for each of them.
    here: Open,
    /// What is not plain in one part of the message, and which part that is.
    stops: Stops,
    window: usize,
    /// The message is known to be UTF-8.
    is_text: bool,
}

impl<'a, S: Sink, const SKIMS: bool> Run<'a, S, SKIMS> {
    #[inline(always)]
    fn new(quick: &'a mut Quick, lanes: Lanes, bytes: &'a [u8], members: usize, sink: &'a mut S) -> Self {
        let Quick { names, open } = quick;
        let (count, members_left, depth, objects, watched) = (0, members, 0, 0, 0);
        let (role, here, stops, window, is_text) = (Role::Plain, Open::NONE, [0; STOPS_WORDS], usize::MAX, false);
        Self {
            bytes,
            lanes,
            sink,
            names,
            open,
            count,
            members_left,
            depth,
            objects,
            watched,
            role,
            here,
            stops,
            window,
            is_text,
        }
    }

    #[inline(always)]
    fn message(mut self) -> Option<()> {
        let (at, byte) = self.token(0)?;
        if byte != b'{' {
            return None;
        }
        let end = self.value(at)?;
        self.token(end).is_none().then_some(())
    }

    /// From the first byte of the message to behind its last: value after value, and all between them.
    #[inline(always)]
    fn value(&mut self, from: usize) -> Option<usize> {
        let mut at = from;
        loop {
            let mut end = match *self.bytes.get(at)? {
                b'"' => self.text_end(at)?,
                b'{' => match self.object(at)? {
                    Next::Value(place) => {
                        at = place;
                        continue;
                    }
                    Next::End(end) => end,
                },
                b'[' => match self.array(at)? {
                    Next::Value(place) => {
                        at = place;
                        continue;
                    }
                    Next::End(end) => end,
                },
                b'-' | b'0'..=b'9' => number_end(self.bytes, at)?,
                b't' => self.word_end(at, b"true")?,
                b'f' => self.word_end(at, b"false")?,
                b'n' => self.word_end(at, b"null")?,
                _ => return None,
            };
            at = loop {
                if self.depth == self.watched {
                    self.sink.end(level_of(self.watched), end);
                }
                let (here, byte) = self.token(end)?;
                let object = self.objects & 1 == 1;
                match byte {
                    b',' if object => {
                        let (name, _) = self.token(here.wrapping_add(1))?;
                        break self.name(name)?;
                    }
                    b',' => break self.token(here.wrapping_add(1))?.0,
                    b'}' if object => self.close_object(),
                    b']' if !object => {}
                    _ => return None,
                }
                self.objects >>= 1;
                self.depth = self.depth.wrapping_sub(1);
                end = here.wrapping_add(1);
                if self.depth == 0 {
                    return Some(end);
                }
            };
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
        self.watched = self.watched.wrapping_add(usize::from(watched));
        self.depth = self.depth.wrapping_add(1);
        self.objects = self.objects << 1 | 1;
        self.name(here).map(Next::Value)
    }

    #[inline(always)]
    fn array(&mut self, at: usize) -> Option<Next> {
        if SKIMS {
            return self.skimmed(at);
        }
        let (here, byte) = self.token(at.wrapping_add(1))?;
        if self.depth == DEPTH_MAX {
            return None;
        }
        if byte == b']' {
            return Some(Next::End(here.wrapping_add(1)));
        }
        self.depth = self.depth.wrapping_add(1);
        self.objects <<= 1;
        Some(Next::Value(here))
    }

    #[inline(always)]
    fn skimmed(&mut self, at: usize) -> Option<Next> {
        match Skim::new(self.depth, self.objects).run(self.lanes, self.bytes, at) {
            Skimmed::End(end) => Some(Next::End(end)),
            Skimmed::More | Skimmed::Fault(..) => None,
        }
    }

    #[inline(always)]
    fn close_object(&mut self) {
        self.count = self.here.first as usize;
        if self.depth == self.watched {
            self.watched = self.watched.wrapping_sub(1);
        }
        if let Some(outer) = self.open.get(self.depth.wrapping_sub(1)) {
            self.here = *outer;
        }
    }

    /// A name that begins here, up to its value.
    #[inline(always)]
    fn name(&mut self, at: usize) -> Option<usize> {
        if self.bytes.get(at) != Some(&b'"') || self.members_left == 0 {
            return None;
        }
        let start = at.wrapping_add(1);
        let end = self.plain_end(start)?;
        let text = self.bytes.get(start..end)?;
        if self.bytes.get(end) != Some(&b'"') || text.len() > MEMBER_NAME_BYTES_MAX {
            return None;
        }
        let word = self.word_of(text, start);
        let bit = 1 << (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58);
        if self.here.bits & bit != 0 && self.names.get(self.here.first as usize..self.count)?.contains(&word) {
            return None;
        }
        self.here.bits |= bit;
        *self.names.get_mut(self.count)? = word;
        self.count = self.count.wrapping_add(1);
        self.members_left = self.members_left.wrapping_sub(1);
        let behind = end.wrapping_add(1);
        let colon = if self.bytes.get(behind) == Some(&b':') { behind } else { self.colon(behind)? };
        let (value, byte) = self.token(colon.wrapping_add(1))?;
        if self.depth == self.watched {
            let name = Name { text, word, start: start as u64, end: end as u64, escapes: Escapes::None };
            self.role = self.sink.begin(level_of(self.watched), &name, kind_of(byte)?, value).ok()?;
        }
        Some(value)
    }

    #[cold]
    fn colon(&self, at: usize) -> Option<usize> {
        let (colon, byte) = self.token(at)?;
        (byte == b':').then_some(colon)
    }

    /// A name as a word: equal names have equal words. Those of up to seven bytes are told apart for certain (and have
    /// the word that the machine gives them); of longer ones that look alike the machine finds out.
    #[inline(always)]
    fn word_of(&self, text: &[u8], start: usize) -> u64 {
        let length = text.len();
        if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
            let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
            return (first ^ last.rotate_left(29)).wrapping_add(length as u64) | 1 << 63;
        }
        match self.bytes.get(start..start.wrapping_add(8)).and_then(<[u8]>::first_chunk) {
            Some(front) => short_word(u64::from_le_bytes(*front), length),
            None => last_word(text),
        }
    }

    /// One past a string.
    #[inline(always)]
    fn text_end(&mut self, open: usize) -> Option<usize> {
        let mut at = open.wrapping_add(1);
        loop {
            let stop = self.plain_end(at)?;
            match self.bytes.get(stop)? {
                b'"' => return Some(stop.wrapping_add(1)),
                b'\\' => {
                    let behind = stop.wrapping_add(1);
                    at = behind.wrapping_add(plain_escape(self.bytes.get(behind..)?)?);
                }
                _ => return None,
            }
        }
    }

    /// The first byte from `from`, within a string, that is not plain: a quote, a backslash, a control character; for a
    /// skim one beyond ASCII too.
    #[inline(always)]
    fn plain_end(&mut self, from: usize) -> Option<usize> {
        if from / STOPS_BYTES == self.window {
            let found = self.stops[from % STOPS_BYTES / 64] >> (from % 64);
            if found != 0 {
                return Some(from.wrapping_add(found.trailing_zeros() as usize));
            }
        }
        self.plain_end_far(from)
    }

    #[inline(never)]
    fn plain_end_far(&mut self, from: usize) -> Option<usize> {
        let mut at = from;
        while at < self.bytes.len() {
            if at / STOPS_BYTES != self.window {
                self.look(at)?;
            }
            let found = self.stops[at % STOPS_BYTES / 64] >> (at % 64);
            if found != 0 {
                return Some(at.wrapping_add(found.trailing_zeros() as usize));
            }
            at = (at | 63).wrapping_add(1);
        }
        None
    }

    /// Takes up the window that this place is in.
    fn look(&mut self, at: usize) -> Option<()> {
        self.window = at / STOPS_BYTES;
        let from = at - at % STOPS_BYTES;
        let bytes = self.bytes.get(from..self.bytes.len().min(from + STOPS_BYTES))?;
        let high = self.lanes.stops(bytes, SKIMS, &mut self.stops);
        // All of the message at once, the first time.
        if high && !SKIMS && !self.is_text {
            self.is_text = self.lanes.utf8_len(self.bytes) == self.bytes.len();
            return self.is_text.then_some(());
        }
        Some(())
    }

    #[inline(always)]
    fn word_end<const N: usize>(&self, at: usize, word: &[u8; N]) -> Option<usize> {
        (self.bytes.get(at..)?.first_chunk() == Some(word)).then(|| at.wrapping_add(N))
    }

    /// The first byte from `at` that is no white space, and where.
    #[inline(always)]
    fn token(&self, at: usize) -> Option<(usize, u8)> {
        match self.bytes.get(at) {
            Some(&byte) if byte > b' ' => Some((at, byte)),
            _ => behind_spaces(self.bytes, at),
        }
    }
}

/// What comes of a container's first byte.
enum Next {
    /// A value begins here.
    Value(usize),
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
fn behind_spaces(bytes: &[u8], from: usize) -> Option<(usize, u8)> {
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
