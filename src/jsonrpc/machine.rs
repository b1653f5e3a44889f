//! The grammar of RFC 8259 as a machine that may stop and go on at any byte: no recursion, no look behind, no copy
//! but of a member name that is escaped or cut. It knows of JSON-RPC only which objects are watched.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use foldhash::fast::FixedState;

use super::lanes::Lanes;
use super::marks::Marks;
use super::scan::{Kind, ScanFault};
use super::skim::{Skim, Skimmed};
use super::text;
use crate::base::limits::{DEPTH_MAX, MEMBER_NAME_BYTES_MAX};

/// What is told of watched objects: the message itself, its body, the body's `_meta`.
pub(super) trait Witness {
    /// A name ended. A fault is kept until the message has been read, so that its id is known; the bound
    /// [`ScanFault::TooManyRecorded`] ends the scan.
    fn name(&mut self, level: Level, name: &Name<'_>) -> Result<Role, ScanFault>;
    /// The value of the last name begins at this offset.
    fn start(&mut self, level: Level, kind: Kind, at: u64);
    /// The value of the last name ended before this offset.
    fn end(&mut self, level: Level, at: u64);
    /// A name with its value, when that is no container and both are whole: what the three above would do.
    fn member(&mut self, level: Level, name: &Name<'_>, kind: Kind, value: Range<u64>) -> Result<(), ScanFault>;
}

/// The machine. Offsets count from the first byte fed since `reset`.
#[derive(Debug)]
pub(super) struct Machine {
    bounds: Bounds,
    lanes: Lanes,
    hasher: FixedState,
    state: State,
    /// Containers that are not watched are skimmed; and how far the one is that is open.
    skims: bool,
    skim: Skim,
    /// Offset of the first byte of the piece being fed.
    base: u64,
    /// Where it stopped, once it has.
    position: u64,
    failed: Option<ScanFault>,
    /// A fault that waits for the end of the message.
    later: Option<(ScanFault, u64)>,

    depth: usize,
    /// A bit per open container, the innermost lowest: is it an object?
    objects: u64,
    /// How many of them, from the outermost on, are watched objects.
    watched: usize,
    /// What the value of the last watched name will be.
    role: Role,
    /// Where the names of the innermost open object begin in `names`.
    first: u32,
    /// A bit for each of them.
    bits: u64,
    /// The same of the objects outside of it, by the depth they are at.
    open: [Open; DEPTH_MAX],

    /// The names of all open objects, a word each (see `word_of`), outermost first.
    names: Vec<u64>,
    /// How many more members the message may have.
    members_left: usize,

    name_start: u64,
    name_escapes: Escapes,
    /// The unescaped name so far, when it does not stand in one piece without escapes.
    carry: Vec<u8>,
    carried: bool,

    escape: Escape,
    /// Code unit being read, and how many of its digits are still to come.
    unit: u16,
    digits: u8,
    /// First half of a surrogate pair, or zero.
    high: u16,
    /// Bytes that must follow in the UTF-8 sequence, and the range of the next one.
    tail: Tail,

    number: Number,
    /// What is still to come of `true`, `false` or `null`.
    word: &'static [u8],
}

impl Machine {
    pub(super) fn new(lanes: Lanes, seed: u64, bounds: Bounds) -> Self {
        Self {
            bounds,
            lanes,
            hasher: FixedState::with_seed(seed),
            state: State::Begin,
            skims: false,
            skim: Skim::new(0, 0),
            base: 0,
            position: 0,
            failed: None,
            later: None,
            depth: 0,
            objects: 0,
            watched: 0,
            role: Role::Plain,
            first: 0,
            bits: 0,
            open: [Open::NONE; DEPTH_MAX],
            names: Vec::new(),
            members_left: bounds.members,
            name_start: 0,
            name_escapes: Escapes::None,
            carry: Vec::new(),
            carried: false,
            escape: Escape::None,
            unit: 0,
            digits: 0,
            high: 0,
            tail: Tail::NONE,
            number: Number::Minus,
            word: b"",
        }
    }

    /// Ready for the next message; tables keep their memory.
    pub(super) fn reset(&mut self) {
        (self.state, self.base, self.position) = (State::Begin, 0, 0);
        (self.failed, self.later) = (None, None);
        (self.depth, self.objects, self.members_left) = (0, 0, self.bounds.members);
        (self.first, self.bits) = (0, 0);
        (self.watched, self.role) = (0, Role::Plain);
        (self.escape, self.high, self.tail) = (Escape::None, 0, Tail::NONE);
        self.names.clear();
    }

    /// The same, for a message that begins at this offset of what is read; offsets count on from there.
    pub(super) fn reset_at(&mut self, base: u64) {
        self.reset();
        (self.base, self.position) = (base, base);
    }

    /// For the message to come: whether what is not watched is skimmed (see `skim`).
    pub(super) fn set_skims(&mut self, skims: bool) {
        self.skims = skims;
    }

    /// A whole message of this length has been read another way, and is right.
    pub(super) fn passed(&mut self, length: usize) {
        (self.state, self.failed, self.later) = (State::Done, None, None);
        (self.base, self.position) = (length as u64, length as u64);
    }

    pub(super) fn lanes(&self) -> Lanes {
        self.lanes
    }

    /// Refuses what is read, at this offset, for a fault that is none of one message.
    pub(super) fn refuse(&mut self, fault: ScanFault, at: u64) {
        (self.failed, self.position) = (Some(fault), at);
    }

    /// The next bytes. After a fault every further call repeats it.
    pub(super) fn feed<W: Witness>(&mut self, piece: &[u8], witness: &mut W) -> Result<(), ScanFault> {
        if let Some(fault) = self.failed {
            return Err(fault);
        }
        if self.run(piece, witness).is_some() {
            self.base += piece.len() as u64;
            self.position = self.base;
        }
        self.failed.map_or(Ok(()), Err)
    }

    /// No more bytes will come: was it one whole message, and without a fault that waited?
    pub(super) fn finish(&mut self) -> Result<(), ScanFault> {
        if self.failed.is_none() {
            if self.state != State::Done {
                self.failed = Some(ScanFault::Incomplete);
            } else if let Some((fault, at)) = self.later {
                (self.failed, self.position) = (Some(fault), at);
            }
        }
        self.failed.map_or(Ok(()), Err)
    }

    /// Whether the message has ended; only white space may follow.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes read, or where it stopped.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> [usize; 2] {
        [self.names.capacity(), self.carry.capacity()]
    }

    /// Token by token. What is whole in this piece and plain is read at one go by `walk`; what is not has a state of
    /// its own to go on from.
    fn run<W: Witness>(&mut self, piece: &[u8], witness: &mut W) -> Option<()> {
        let mut marks = Marks::new(self.lanes, piece);
        let marks = &mut marks;
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            let step = match self.state {
                State::Name => self.name(marks, at, witness),
                State::Text => self.value_text(marks, at, witness),
                State::Number => self.number(piece, at, witness),
                State::Word => self.word(piece, at, witness),
                State::Skim => self.skim(piece, at, witness),
                _ if is_space(byte) => Ok(marks.spaces_end(at)),
                State::After => self.next(piece, marks, at, witness).and_then(|here| self.walk(marks, here, witness)),
                State::FirstName if byte == b'}' => self.close_slowly(at, witness),
                State::FirstName | State::NextName if byte == b'"' => Ok(self.open_name(at + 1)),
                State::Colon if byte == b':' => {
                    self.state = State::Value;
                    Ok(at + 1)
                }
                State::FirstValue if byte == b']' => self.close_slowly(at, witness),
                State::Value | State::FirstValue => self.walk(marks, (at, byte), witness),
                State::Begin => self.begin(byte, marks, at, witness),
                State::Done => self.fail(ScanFault::TrailingBytes, at),
                State::FirstName | State::NextName | State::Colon => self.fail(ScanFault::Syntax, at),
            };
            at = match step {
                Ok(at) | Err(Stay::Here(at)) => at,
                Err(Stay::Failed) => return None,
            };
        }
        Some(())
    }

    /// Value after value and all between them, from the first byte of a value to where the piece, the message or
    /// what is plain ends.
    #[inline(never)]
    fn walk<W: Witness>(&mut self, marks: &mut Marks<'_>, from: Place, witness: &mut W) -> Step {
        let piece = marks.piece;
        let mut here = from;
        loop {
            let (at, byte) = here;
            let end = match byte {
                b'"' => self.whole_text(piece, marks, at, witness)?,
                b'{' | b'[' if self.skims && !self.is_awaited(byte) => {
                    self.tell_start(if byte == b'{' { Kind::Object } else { Kind::Array }, at, witness);
                    self.skim = Skim::new(self.depth, self.objects);
                    self.skim(piece, at, witness)?
                }
                b'{' => {
                    self.open(Kind::Object, at, witness)?;
                    here = token(piece, marks, at.wrapping_add(1));
                    match here.1 {
                        b'"' => match self.member(piece, marks, here.0, witness)? {
                            Read::Name(place) => {
                                here = place;
                                continue;
                            }
                            Read::Member(end) => end,
                        },
                        b'}' => self.close(true, here.0, witness)?,
                        _ => return self.stay(State::FirstName, here.0),
                    }
                }
                b'[' => {
                    self.open(Kind::Array, at, witness)?;
                    here = token(piece, marks, at.wrapping_add(1));
                    match here {
                        (at, b']') => self.close(false, at, witness)?,
                        (at, _) if at == piece.len() => return self.stay(State::FirstValue, at),
                        _ => continue,
                    }
                }
                b'-' | b'0'..=b'9' => {
                    let end = self.whole_number(piece, marks, here, witness)?;
                    if self.objects & 1 == 0 && matches!(chunk_at(piece, end), Some(b",-" | [b',', b' ' | b'0'..=b'9']))
                    {
                        let at = marks.numbers_end(end.wrapping_add(1));
                        here = token(piece, marks, at);
                        continue;
                    }
                    end
                }
                b't' => self.whole_word(Kind::True, b"true", piece, at, witness)?,
                b'f' => self.whole_word(Kind::False, b"false", piece, at, witness)?,
                b'n' => self.whole_word(Kind::Null, b"null", piece, at, witness)?,
                _ if at == piece.len() => return self.stay(State::Value, at),
                _ => return self.fail(ScanFault::Syntax, at),
            };
            here = self.next(piece, marks, end, witness)?;
        }
    }

    /// What stands behind a value: ends of containers, then a comma and what stands before the next value.
    #[inline(always)]
    fn next<W: Witness>(
        &mut self,
        piece: &[u8],
        marks: &mut Marks<'_>,
        from: usize,
        witness: &mut W,
    ) -> Result<Place, Stay> {
        let mut at = from;
        loop {
            let (here, byte) = token(piece, marks, at);
            let object = self.objects & 1 == 1;
            match byte {
                b',' if object => {
                    let (name, byte) = token(piece, marks, here.wrapping_add(1));
                    if byte != b'"' {
                        self.stay(State::NextName, name)?;
                    }
                    match self.member(piece, marks, name, witness)? {
                        Read::Name(place) => return Ok(place),
                        Read::Member(end) => at = end,
                    }
                }
                b',' => return Ok(token(piece, marks, here.wrapping_add(1))),
                b'}' if object => at = self.close(true, here, witness)?,
                b']' if !object => at = self.close(false, here, witness)?,
                _ if here == piece.len() => _ = self.stay(State::After, here)?,
                _ => _ = self.fail(ScanFault::Syntax, here)?,
            }
        }
    }

    /// A name and its colon, up to its value; if it is watched, the value too when that is plain.
    #[inline(always)]
    fn member<W: Witness>(
        &mut self,
        piece: &[u8],
        marks: &mut Marks<'_>,
        at: usize,
        witness: &mut W,
    ) -> Result<Read, Stay> {
        let start = at.wrapping_add(1);
        let end = marks.text_end(at);
        let length = end.wrapping_sub(start);
        if piece.get(end) != Some(&b'"') || length > MEMBER_NAME_BYTES_MAX || self.members_left == 0 {
            return Err(Stay::Here(self.open_name(start)));
        }
        let word = match chunk_at(piece, start) {
            Some(front) if length < 8 => short_word(u64::from_le_bytes(*front), length),
            _ => self.word_of(piece.get(start..end).unwrap_or_default()),
        };
        self.count_name(word, end);
        let place = if piece.get(end.wrapping_add(1)) == Some(&b':') {
            token(piece, marks, end.wrapping_add(2))
        } else {
            return self.colon_slowly(piece, marks, start..end, word, witness);
        };
        if self.depth != self.watched {
            return Ok(Read::Name(place));
        }
        // It ends at a quote of this piece, so it is there.
        let text = piece.get(start..end).unwrap_or_default();
        let name = Name { text, word, start: self.offset(start), end: self.offset(end), escapes: Escapes::None };
        self.watched_member(piece, marks, name, place, witness)
    }

    /// From behind a name to its colon.
    #[cold]
    fn colon_slowly<W: Witness>(
        &mut self,
        piece: &[u8],
        marks: &mut Marks<'_>,
        name: Range<usize>,
        word: u64,
        witness: &mut W,
    ) -> Result<Read, Stay> {
        let behind = name.end + 1;
        if self.depth == self.watched {
            let (start, end) = (self.offset(name.start), self.offset(name.end));
            let text = piece.get(name).unwrap_or_default();
            self.tell_name(&Name { text, word, start, end, escapes: Escapes::None }, witness)?;
        }
        let (colon, byte) = token(piece, marks, behind);
        if byte != b':' {
            self.stay(State::Colon, colon)?;
        }
        Ok(Read::Name(token(piece, marks, colon + 1)))
    }

    /// A watched name, and its value when that is plain and whole.
    #[inline(always)]
    fn watched_member<W: Witness>(
        &mut self,
        piece: &[u8],
        marks: &mut Marks<'_>,
        name: Name<'_>,
        place: Place,
        witness: &mut W,
    ) -> Result<Read, Stay> {
        let (at, byte) = place;
        let whole = match byte {
            b'"' => {
                let end = marks.text_end(at);
                (piece.get(end) == Some(&b'"')).then_some((Kind::String, end.wrapping_add(1)))
            }
            b'-' | b'0'..=b'9' => number_end(piece, marks, place).map(|end| (Kind::Number, end)),
            b't' if chunk_at(piece, at) == Some(b"true") => Some((Kind::True, at.wrapping_add(4))),
            b'f' if chunk_at(piece, at) == Some(b"false") => Some((Kind::False, at.wrapping_add(5))),
            b'n' if chunk_at(piece, at) == Some(b"null") => Some((Kind::Null, at.wrapping_add(4))),
            _ => None,
        };
        let Some((kind, end)) = whole else {
            self.tell_name(&name, witness)?;
            return Ok(Read::Name(place));
        };
        let told = witness.member(self.level(), &name, kind, self.offset(at)..self.offset(end));
        self.judge_name(told.map(|()| Role::Plain), name.end)?;
        Ok(Read::Member(end))
    }

    fn open_name(&mut self, start: usize) -> usize {
        self.state = State::Name;
        self.name_start = self.base + start as u64;
        (self.name_escapes, self.carried) = (Escapes::None, false);
        start
    }

    /// A string value.
    #[inline(always)]
    fn whole_text<W: Witness>(&mut self, piece: &[u8], marks: &mut Marks<'_>, at: usize, witness: &mut W) -> Step {
        self.tell_start(Kind::String, at, witness);
        let mut end = marks.text_end(at);
        loop {
            match piece.get(end) {
                Some(b'"') => return Ok(self.tell_end(end.wrapping_add(1), witness)),
                Some(b'\\') => match plain_escape(&piece[end + 1..]) {
                    Some(length) => end = marks.stop(end + 1 + length),
                    None => return self.stay(State::Text, end),
                },
                _ => return self.stay(State::Text, end),
            }
        }
    }

    /// A number (RFC 8259 section 6).
    #[inline(always)]
    fn whole_number<W: Witness>(
        &mut self,
        piece: &[u8],
        marks: &mut Marks<'_>,
        (at, byte): Place,
        witness: &mut W,
    ) -> Step {
        self.tell_start(Kind::Number, at, witness);
        if let Some(end) = number_end(piece, marks, (at, byte)) {
            return Ok(self.tell_end(end, witness));
        }
        self.number = match byte {
            b'-' => Number::Minus,
            b'0' => Number::Zero,
            _ => Number::Whole,
        };
        self.stay(State::Number, at + 1)
    }

    #[inline(always)]
    fn whole_word<const N: usize, W: Witness>(
        &mut self,
        kind: Kind,
        word: &'static [u8; N],
        piece: &[u8],
        at: usize,
        witness: &mut W,
    ) -> Step {
        self.tell_start(kind, at, witness);
        if chunk_at(piece, at) == Some(word) {
            return Ok(self.tell_end(at.wrapping_add(N), witness));
        }
        self.word = &word[1..];
        self.stay(State::Word, at + 1)
    }

    /// Whether a container that begins so will be watched.
    fn is_awaited(&self, byte: u8) -> bool {
        byte == b'{' && becomes_watched(self.watched, self.depth, self.role)
    }

    /// On in a container that is skimmed.
    #[inline(never)]
    fn skim<W: Witness>(&mut self, piece: &[u8], at: usize, witness: &mut W) -> Step {
        match self.skim.run(self.lanes, piece, at) {
            Skimmed::End(end) => Ok(self.after(end, witness)),
            Skimmed::More => self.stay(State::Skim, piece.len()),
            Skimmed::Fault(fault, at) => self.fail(fault, at),
        }
    }

    fn begin<W: Witness>(&mut self, byte: u8, marks: &mut Marks<'_>, at: usize, witness: &mut W) -> Step {
        match byte {
            b'{' => self.walk(marks, (at, byte), witness),
            b'[' => self.fail(ScanFault::Batch, at),
            b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => self.fail(ScanFault::NotObject, at),
            0xef if self.base == 0 && at == 0 => self.fail(ScanFault::ByteOrderMark, at),
            _ => self.fail(ScanFault::Syntax, at),
        }
    }

    #[inline(always)]
    fn open<W: Witness>(&mut self, kind: Kind, at: usize, witness: &mut W) -> Step {
        if self.depth == DEPTH_MAX {
            return self.fail(ScanFault::TooDeep, at);
        }
        self.tell_start(kind, at, witness);
        let object = kind == Kind::Object;
        if object {
            if let Some(open) = self.open.get_mut(self.depth) {
                *open = Open { first: self.first, bits: self.bits };
            }
            (self.first, self.bits) = (u32::try_from(self.names.len()).unwrap_or(u32::MAX), 0);
            if becomes_watched(self.watched, self.depth, self.role) {
                self.watched += 1;
            }
        }
        self.depth = self.depth.wrapping_add(1);
        self.objects = self.objects << 1 | u64::from(object);
        Ok(at.wrapping_add(1))
    }

    /// The end of a container; with the message itself the walk ends.
    #[inline(always)]
    fn close<W: Witness>(&mut self, object: bool, at: usize, witness: &mut W) -> Step {
        if object {
            self.close_object(at);
        }
        self.objects >>= 1;
        self.depth = self.depth.wrapping_sub(1);
        if self.depth == 0 {
            return self.stay(State::Done, at.wrapping_add(1));
        }
        Ok(self.tell_end(at.wrapping_add(1), witness))
    }

    #[inline(always)]
    fn close_object(&mut self, at: usize) {
        let first = self.first as usize;
        let many = self.names.len().wrapping_sub(first);
        // Few names were compared one by one as they came; for many, sorting is never quadratic.
        if many > COMPARED_MAX {
            self.compare_many(first, at);
        }
        self.names.truncate(first);
        if self.bounds.of == Counted::Open {
            self.members_left = self.members_left.wrapping_add(many);
        }
        if self.depth == self.watched {
            self.watched = self.watched.wrapping_sub(1);
        }
        if let Some(outer) = self.open.get(self.depth.wrapping_sub(1)) {
            (self.first, self.bits) = (outer.first, outer.bits);
        }
    }

    fn close_slowly<W: Witness>(&mut self, at: usize, witness: &mut W) -> Step {
        let end = self.close(self.objects & 1 == 1, at, witness)?;
        self.stay(State::After, end)
    }

    #[inline(never)]
    fn compare_many(&mut self, first: usize, at: usize) {
        let names = &mut self.names[first..];
        names.sort_unstable();
        if names.windows(2).any(|two| two[0] == two[1]) {
            self.keep(ScanFault::DuplicateName, at);
        }
    }

    /// A value ended before `at`; the state says so.
    fn after<W: Witness>(&mut self, at: usize, witness: &mut W) -> usize {
        self.state = State::After;
        self.tell_end(at, witness)
    }

    /// A value ended before `at`.
    #[inline(always)]
    fn tell_end<W: Witness>(&mut self, at: usize, witness: &mut W) -> usize {
        if self.is_watched() {
            witness.end(self.level(), self.offset(at));
        }
        at
    }

    #[inline(always)]
    fn tell_start<W: Witness>(&mut self, kind: Kind, at: usize, witness: &mut W) {
        if self.is_watched() {
            witness.start(self.level(), kind, self.offset(at));
        }
    }

    /// Whether the innermost open container is.
    #[inline(always)]
    fn is_watched(&self) -> bool {
        self.depth == self.watched
    }

    /// Which one it is, if it is.
    #[inline(always)]
    fn level(&self) -> Level {
        match self.watched {
            0 | 1 => Level::Root,
            2 => Level::Body,
            _ => Level::Meta,
        }
    }

    #[inline(always)]
    fn offset(&self, at: usize) -> u64 {
        self.base.wrapping_add(at as u64)
    }

    /// On in a member name, to its closing quote or the end of the piece.
    fn name<W: Witness>(&mut self, marks: &mut Marks<'_>, from: usize, witness: &mut W) -> Step {
        let piece = marks.piece;
        let mut kept = from;
        let mut at = from;
        loop {
            if self.escape != Escape::None {
                at = self.escaped::<true>(piece, at)?;
                kept = at;
            }
            let stop;
            (at, stop) = self.plain(marks, at);
            let length = self.base + at as u64 - self.name_start;
            if length > MEMBER_NAME_BYTES_MAX as u64 {
                let over = length - MEMBER_NAME_BYTES_MAX as u64;
                let failed = self.fail(ScanFault::NameTooLong, at);
                self.position -= over;
                return failed;
            }
            match stop {
                Stop::Quote if !self.carried => {
                    return self.close_name_slowly(&piece[kept..at], at, witness);
                }
                Stop::Quote => {
                    self.carry(&piece[kept..at]);
                    let text = std::mem::take(&mut self.carry);
                    let closed = self.close_name_slowly(&text, at, witness);
                    self.carry = text;
                    return closed;
                }
                Stop::End => {
                    self.carry(&piece[kept..at]);
                    return Ok(at);
                }
                Stop::Backslash => {
                    self.carry(&piece[kept..at]);
                    self.escape = Escape::Kind;
                    at += 1;
                }
                Stop::Fault(fault) => return self.fail(fault, at),
            }
        }
    }

    fn carry(&mut self, more: &[u8]) {
        if !self.carried {
            self.carried = true;
            self.carry.clear();
        }
        self.carry.extend_from_slice(more);
    }

    /// Counts a name, one of those still left, and looks for its double; `at` is the place of the closing quote.
    #[inline(always)]
    fn count_name(&mut self, word: u64, at: usize) {
        self.members_left = self.members_left.wrapping_sub(1);
        // A name whose bit is not there yet has no double; of few names most have a bit of their own.
        let bit = 1 << (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58);
        if self.bits & bit != 0 {
            self.compare_few(word, at);
        }
        self.bits |= bit;
        self.names.push(word);
    }

    #[inline(never)]
    fn compare_few(&mut self, word: u64, at: usize) {
        let others = self.names.get(self.first as usize..).unwrap_or_default();
        if others.len() < COMPARED_MAX && others.contains(&word) {
            self.keep(ScanFault::DuplicateName, at);
        }
    }

    /// Tells a watched name.
    #[inline(never)]
    fn tell_name<W: Witness>(&mut self, name: &Name<'_>, witness: &mut W) -> Result<(), Stay> {
        let told = witness.name(self.level(), name);
        self.judge_name(told, name.end)
    }

    /// `end` is the offset of the closing quote.
    #[inline(always)]
    fn judge_name(&mut self, told: Result<Role, ScanFault>, end: u64) -> Result<(), Stay> {
        match told {
            Ok(role) => self.role = role,
            Err(fault) => self.bad_name(fault, end)?,
        }
        Ok(())
    }

    #[cold]
    fn bad_name(&mut self, fault: ScanFault, end: u64) -> Result<(), Stay> {
        if fault == ScanFault::TooManyRecorded {
            (self.failed, self.position) = (Some(fault), end);
            return Err(Stay::Failed);
        }
        self.role = Role::Plain;
        self.later.get_or_insert((fault, end));
        Ok(())
    }

    /// The end of a name that was read bit by bit.
    #[cold]
    fn close_name_slowly<W: Witness>(&mut self, text: &[u8], at: usize, witness: &mut W) -> Step {
        self.state = State::Colon;
        let word = self.word_of(text);
        if self.members_left == 0 {
            return self.fail(ScanFault::TooManyMembers, at);
        }
        self.count_name(word, at);
        if self.is_watched() {
            let (start, end) = (self.name_start, self.base + at as u64);
            self.tell_name(&Name { text, word, start, end, escapes: self.name_escapes }, witness)?;
        }
        Ok(at + 1)
    }

    /// A name as a word: equal names have equal words. Those of up to seven bytes are told apart for certain, longer
    /// ones as well as the hash does it.
    #[inline(never)]
    fn word_of(&self, text: &[u8]) -> u64 {
        if text.len() < 8 {
            let mut front = [0; 8];
            front[..text.len()].copy_from_slice(text);
            return short_word(u64::from_le_bytes(front), text.len());
        }
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text);
        hasher.finish() | 1 << 63
    }

    /// On in a string value, to its closing quote or the end of the piece.
    fn value_text<W: Witness>(&mut self, marks: &mut Marks<'_>, from: usize, witness: &mut W) -> Step {
        let piece = marks.piece;
        let mut at = from;
        loop {
            if self.escape != Escape::None {
                at = self.escaped::<false>(piece, at)?;
            }
            let stop;
            (at, stop) = self.plain(marks, at);
            match stop {
                Stop::Quote => {
                    return Ok(self.after(at + 1, witness));
                }
                Stop::End => return Ok(at),
                Stop::Backslash => {
                    self.escape = Escape::Kind;
                    at += 1;
                }
                Stop::Fault(fault) => return self.fail(fault, at),
            }
        }
    }

    /// Over plain characters of a string, to the first byte that is none.
    #[inline(always)]
    fn plain(&mut self, marks: &mut Marks<'_>, from: usize) -> (usize, Stop) {
        let mut at = from;
        loop {
            if self.tail.left == 0 {
                at = marks.stop(at);
            }
            let Some(&byte) = marks.piece.get(at) else { return (at, Stop::End) };
            if byte < 0x80 && self.tail.left == 0 {
                return match byte {
                    b'"' => (at, Stop::Quote),
                    b'\\' => (at, Stop::Backslash),
                    _ => (at, Stop::Fault(ScanFault::ControlCharacter)),
                };
            }
            let stop;
            (at, stop) = self.wide(marks.piece, at);
            if stop {
                return (at, Stop::Fault(ScanFault::InvalidUtf8));
            }
        }
    }

    /// Over characters beyond ASCII (RFC 3629 section 4), and whether the byte there is none of one.
    fn wide(&mut self, piece: &[u8], from: usize) -> (usize, bool) {
        let mut at = from;
        let mut tail = self.tail;
        while let Some(&byte) = piece.get(at) {
            if tail.left > 0 {
                let Some(rest) = tail.then(byte) else { return (at, true) };
                tail = rest;
            } else if byte < 0x80 {
                break;
            } else if let Some(new) = Tail::behind(byte) {
                tail = new;
            } else {
                return (at, true);
            }
            at += 1;
        }
        self.tail = tail;
        (at, false)
    }

    /// On behind a backslash, to the end of the character it stands for or of the piece.
    fn escaped<const NAME: bool>(&mut self, piece: &[u8], from: usize) -> Step {
        let mut at = from;
        while self.escape != Escape::None {
            let Some(&byte) = piece.get(at) else { break };
            match self.escape {
                Escape::Kind if byte == b'u' => {
                    (self.escape, self.unit, self.digits) = (Escape::Unit, 0, 4);
                    if let Some(unit) = piece[at + 1..].first_chunk().and_then(text::code_unit) {
                        at += 4;
                        self.unit_read::<NAME>(unit, at)?;
                    }
                }
                Escape::Kind => match text::short_escape(byte) {
                    None => return self.fail(ScanFault::BadEscape, at),
                    Some(meant) => {
                        self.escape = Escape::None;
                        if NAME {
                            let seen = if byte == b'/' { Escapes::Slash } else { Escapes::Other };
                            self.name_escapes = self.name_escapes.max(seen);
                            self.carry.push(meant);
                        }
                    }
                },
                Escape::Unit => {
                    self.digit::<NAME>(byte, at)?;
                }
                Escape::LowKind if byte == b'\\' => self.escape = Escape::LowUnit,
                Escape::LowUnit if byte == b'u' => (self.escape, self.unit, self.digits) = (Escape::Unit, 0, 4),
                _ => return self.fail(ScanFault::LoneSurrogate, at),
            }
            at += 1;
        }
        Ok(at)
    }

    fn digit<const NAME: bool>(&mut self, byte: u8, at: usize) -> Step {
        let Some(digit) = text::hex_digit(byte) else {
            return self.fail(ScanFault::BadEscape, at);
        };
        self.unit = self.unit << 4 | digit;
        self.digits -= 1;
        if self.digits > 0 { Ok(at) } else { self.unit_read::<NAME>(self.unit, at) }
    }

    /// A code unit whose last digit is at `at`.
    #[inline]
    fn unit_read<const NAME: bool>(&mut self, unit: u16, at: usize) -> Step {
        if self.high == 0 && (0xd800..0xdc00).contains(&unit) {
            (self.high, self.escape) = (unit, Escape::LowKind);
            return Ok(at);
        }
        let Some(character) = text::character(self.high, unit) else {
            return self.fail(ScanFault::LoneSurrogate, at);
        };
        (self.high, self.escape) = (0, Escape::None);
        if NAME {
            self.name_escapes = Escapes::Other;
            self.carry.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(at)
    }

    /// On in a number (RFC 8259 section 6), to the byte behind it or the end of the piece.
    fn number<W: Witness>(&mut self, piece: &[u8], from: usize, witness: &mut W) -> Step {
        use Number as N;
        let (mut at, mut number) = (from, self.number);
        loop {
            if matches!(number, N::Whole | N::Fraction | N::Exponent) {
                at += piece[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            }
            let Some(&byte) = piece.get(at) else { break };
            number = match (number, byte) {
                (N::Minus, b'0') => N::Zero,
                (N::Minus, b'1'..=b'9') => N::Whole,
                (N::Zero | N::Whole, b'.') => N::Point,
                (N::Point, b'0'..=b'9') => N::Fraction,
                (N::Zero | N::Whole | N::Fraction, b'e' | b'E') => N::E,
                (N::E, b'+' | b'-') => N::Sign,
                (N::E | N::Sign, b'0'..=b'9') => N::Exponent,
                (N::Zero, b'0'..=b'9') | (N::Minus | N::Point | N::E | N::Sign, _) => {
                    return self.fail(ScanFault::BadNumber, at);
                }
                (N::Zero | N::Whole | N::Fraction | N::Exponent, _) => {
                    return Ok(self.after(at, witness));
                }
            };
            at += 1;
        }
        self.number = number;
        Ok(at)
    }

    /// On in `true`, `false` or `null`.
    fn word<W: Witness>(&mut self, piece: &[u8], from: usize, witness: &mut W) -> Step {
        let mut at = from;
        while let Some((&want, rest)) = self.word.split_first() {
            let Some(&byte) = piece.get(at) else { return Ok(at) };
            if byte != want {
                return self.fail(ScanFault::Syntax, at);
            }
            self.word = rest;
            at += 1;
        }
        Ok(self.after(at, witness))
    }

    fn keep(&mut self, fault: ScanFault, at: usize) {
        let at = self.base + at as u64;
        self.later.get_or_insert((fault, at));
    }

    #[cold]
    fn fail(&mut self, fault: ScanFault, at: usize) -> Step {
        (self.failed, self.position) = (Some(fault), self.base + at as u64);
        Err(Stay::Failed)
    }

    /// Leaves the walk for the next piece, or for the slow way of a state.
    fn stay(&mut self, state: State, at: usize) -> Step {
        self.state = state;
        Err(Stay::Here(at))
    }
}

/// Where to go on in the piece.
type Step = Result<usize, Stay>;

/// Where a token begins, and its first byte.
type Place = (usize, u8);

/// What was read of a member.
enum Read {
    /// Name and colon; the value begins here.
    Name(Place),
    /// All of it, up to here.
    Member(usize),
}

/// Why the walk ends.
enum Stay {
    /// The state tells how to go on from here.
    Here(usize),
    /// A fault, which is in `failed`.
    Failed,
}

/// How many members a message may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) members: usize,
    pub(super) of: Counted,
}

/// Which members are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// All of the message.
    All,
    /// Those of the objects open at one moment.
    Open,
}

/// What is kept of a container while one within it is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// Where the names of the innermost open object begin.
    pub(super) first: u32,
    /// A bit for each of them.
    pub(super) bits: u64,
}

impl Open {
    pub(super) const NONE: Self = Self { first: 0, bits: 0 };
}

/// Which watched object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Root,
    Body,
    Meta,
}

/// What an object under this name will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Plain,
    Body,
    Meta,
}

impl Role {
    /// That of a member of `params`, `result` or `error`.
    #[inline]
    pub(super) fn of_body_member(name: &Name<'_>) -> Self {
        const META: u64 = word("_meta");
        if name.word == META { Self::Meta } else { Self::Plain }
    }
}

/// A member name.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    /// Unescaped.
    pub(super) text: &'a [u8],
    /// The text itself, with its length, when it has fewer than eight bytes (see [`word`]); else a hash of it, which is
    /// no word of a shorter name.
    pub(super) word: u64,
    /// Offset of the byte behind the opening quote.
    pub(super) start: u64,
    /// Offset of the closing quote.
    pub(super) end: u64,
    pub(super) escapes: Escapes,
}

impl Name<'_> {
    /// Refuses escapes where parsers that compare names unread would go by another member than we do. `\/` may
    /// stay: PHP writes it in every `_meta` key, and no known name without a slash can hide behind it.
    pub(super) fn plain(&self) -> Result<(), ScanFault> {
        if self.escapes == Escapes::Other { Err(ScanFault::EscapedName) } else { Ok(()) }
    }
}

/// The escapes of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Escapes {
    None,
    /// `\/` only.
    Slash,
    Other,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begin,
    /// A name, or the end of the object just opened.
    FirstName,
    NextName,
    Name,
    Colon,
    /// A value, or the end of the array just opened.
    FirstValue,
    Value,
    Text,
    Number,
    Word,
    /// Within a container that is skimmed.
    Skim,
    /// A comma, or the end of the container.
    After,
    Done,
}

/// Where in an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    /// The byte behind the backslash is next.
    Kind,
    /// Hexadecimal digits.
    Unit,
    /// The backslash of the second half of a surrogate pair, then its `u`.
    LowKind,
    LowUnit,
}

/// The state of a number: what was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

/// Why a run of plain characters ended.
enum Stop {
    End,
    Quote,
    Backslash,
    Fault(ScanFault),
}

/// The rest of a UTF-8 sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) left: u8,
    low: u8,
    high: u8,
}

impl Tail {
    pub(super) const NONE: Self = Self { left: 0, low: 0x80, high: 0xbf };

    /// What follows a first byte; the table of RFC 3629 section 4.
    pub(super) fn behind(first: u8) -> Option<Self> {
        let (left, low, high) = match first {
            0xc2..=0xdf => (1, 0x80, 0xbf),
            0xe0 => (2, 0xa0, 0xbf),
            0xed => (2, 0x80, 0x9f),
            0xe1..=0xef => (2, 0x80, 0xbf),
            0xf0 => (3, 0x90, 0xbf),
            0xf1..=0xf3 => (3, 0x80, 0xbf),
            0xf4 => (3, 0x80, 0x8f),
            _ => return None,
        };
        Some(Self { left, low, high })
    }

    /// What follows the next byte, of those that are left.
    pub(super) fn then(self, next: u8) -> Option<Self> {
        (self.low..=self.high).contains(&next).then(|| Self { left: self.left.saturating_sub(1), ..Self::NONE })
    }
}

/// Whether an object that opens here will be watched: the message itself, its body, the body's `_meta`.
#[inline(always)]
pub(super) fn becomes_watched(watched: usize, depth: usize, role: Role) -> bool {
    depth == watched && matches!((watched, role), (0, _) | (1, Role::Body) | (2, Role::Meta))
}

/// The end of a number that begins here, if it is well-formed and ends within the piece.
#[inline(always)]
fn number_end(piece: &[u8], marks: &mut Marks<'_>, (at, byte): Place) -> Option<usize> {
    let mut digits = |at: usize| {
        let end = marks.digits_end(at);
        if end == at { None } else { Some((end, *piece.get(end)?)) }
    };
    let first = at + usize::from(byte == b'-');
    let (mut end, mut next) = digits(first)?;
    if end > first + 1 && piece.get(first) == Some(&b'0') {
        return None;
    }
    if next == b'.' {
        (end, next) = digits(end + 1)?;
    }
    if next | 0x20 == b'e' {
        let signed = matches!(piece.get(end + 1), Some(b'+' | b'-'));
        (end, _) = digits(end + 1 + usize::from(signed))?;
    }
    Some(end)
}

/// Length behind the backslash of an escape that stands for one character and is whole.
#[inline(always)]
pub(super) fn plain_escape(behind: &[u8]) -> Option<usize> {
    let (&kind, digits) = behind.split_first()?;
    if kind != b'u' {
        return text::short_escape(kind).map(|_| 1);
    }
    let unit = digits.first_chunk().and_then(text::code_unit)?;
    (!(0xd800..0xe000).contains(&unit)).then_some(5)
}

/// The word of a name of fewer than eight bytes, of which `front` begins with the first.
#[inline(always)]
pub(super) const fn short_word(front: u64, length: usize) -> u64 {
    let kept = front & !(u64::MAX << (8 * length));
    kept | (length as u64) << 56
}

/// The word of a known name of fewer than eight bytes.
pub(super) const fn word(name: &str) -> u64 {
    let name = name.as_bytes();
    assert!(name.len() < 8, "only short names are known by their word alone");
    let (mut front, mut at) = (0, 0);
    while at < name.len() {
        front |= (name[at] as u64) << (8 * at);
        at += 1;
    }
    short_word(front, name.len())
}

/// The first byte from `at` that is no white space, and where; a zero, which no JSON has outside of strings, at the
/// end of the piece.
#[inline(always)]
fn token(piece: &[u8], marks: &mut Marks<'_>, at: usize) -> Place {
    match piece.get(at) {
        Some(&byte) if byte > b' ' => (at, byte),
        Some(_) => {
            let at = marks.spaces_end(at);
            (at, piece.get(at).copied().unwrap_or(0))
        }
        None => (at, 0),
    }
}

#[inline(always)]
fn chunk_at<const N: usize>(piece: &[u8], at: usize) -> Option<&[u8; N]> {
    piece.get(at..)?.first_chunk()
}

#[inline(always)]
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Objects of up to this many members compare each new name with those before it.
const COMPARED_MAX: usize = 16;

const _: () = assert!(DEPTH_MAX <= 64, "a bit per open container");
