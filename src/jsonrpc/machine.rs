//! The grammar of RFC 8259 as a machine that may stop and go on at any byte: no recursion, no look behind, no copy
//! but of a member name that is escaped or cut. It knows of JSON-RPC only which objects are watched.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::scan::{Kind, ScanFault};
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
}

/// The machine. Offsets count from the first byte fed since `reset`.
#[derive(Debug)]
pub(super) struct Machine {
    bounds: Bounds,
    hasher: FixedState,
    state: State,
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
    /// What the open container is, and what those were that can be watched.
    level: Level,
    levels: [Level; Level::Deep as usize + 1],
    role: Role,

    /// Hashes of the names of all open objects, outermost first.
    hashes: Vec<u64>,
    /// Where those of the open object at a depth begin.
    firsts: [u32; DEPTH_MAX + 1],
    members: usize,

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
    pub(super) fn new(seed: u64, bounds: Bounds) -> Self {
        Self {
            bounds,
            hasher: FixedState::with_seed(seed),
            state: State::Begin,
            base: 0,
            position: 0,
            failed: None,
            later: None,
            depth: 0,
            objects: 0,
            level: Level::Deep,
            levels: [Level::Deep; Level::Deep as usize + 1],
            role: Role::Plain,
            hashes: Vec::new(),
            firsts: [0; DEPTH_MAX + 1],
            members: 0,
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
        (self.depth, self.objects, self.members) = (0, 0, 0);
        (self.level, self.role) = (Level::Deep, Role::Plain);
        (self.escape, self.high, self.tail) = (Escape::None, 0, Tail::NONE);
        self.hashes.clear();
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

    /// Token by token. What is whole in this piece and plain is read at one go by `member` and `value`; what is
    /// not has a state of its own to go on from.
    fn run<W: Witness>(&mut self, piece: &[u8], witness: &mut W) -> Option<()> {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            at = match self.state {
                State::Name => self.name(piece, at, witness)?,
                State::Text => self.value_text(piece, at, witness)?,
                State::Number => self.number(piece, at, witness)?,
                State::Word => self.word(piece, at, witness)?,
                _ if is_space(byte) => at + 1,
                State::After => self.next(byte, piece, at, witness)?,
                State::FirstName if byte == b'}' => self.close(at, witness),
                State::FirstName | State::NextName => self.member(byte, piece, at, witness)?,
                State::Colon if byte == b':' => {
                    self.state = State::Value;
                    at + 1
                }
                State::FirstValue if byte == b']' => self.close(at, witness),
                State::Value | State::FirstValue => self.value(byte, piece, at, witness)?,
                State::Begin => self.begin(byte, at, witness)?,
                State::Done => self.fail(ScanFault::TrailingBytes, at)?,
                State::Colon => self.fail(ScanFault::Syntax, at)?,
            };
        }
        Some(())
    }

    /// What stands behind a value within a container: the end, or a comma and what comes next.
    #[inline(always)]
    fn next<W: Witness>(&mut self, byte: u8, piece: &[u8], at: usize, witness: &mut W) -> Step {
        let object = self.objects & 1 == 1;
        match byte {
            b',' if object => {
                self.state = State::NextName;
                match piece.get(at + 1) {
                    Some(b'"') => self.member(b'"', piece, at + 1, witness),
                    _ => Some(at + 1),
                }
            }
            b',' => {
                self.state = State::Value;
                match piece.get(at + 1) {
                    Some(&byte) if !is_space(byte) => self.value(byte, piece, at + 1, witness),
                    _ => Some(at + 1),
                }
            }
            b'}' if object => Some(self.close(at, witness)),
            b']' if !object => Some(self.close(at, witness)),
            _ => self.fail(ScanFault::Syntax, at),
        }
    }

    /// A name, its colon and its value, as far as they follow each other plainly.
    #[inline(always)]
    fn member<W: Witness>(&mut self, byte: u8, piece: &[u8], at: usize, witness: &mut W) -> Step {
        if byte != b'"' {
            return self.fail(ScanFault::Syntax, at);
        }
        let start = at + 1;
        self.state = State::Name;
        self.name_start = self.base + start as u64;
        (self.name_escapes, self.carried) = (Escapes::None, false);
        let end = start + text::plain_len(&piece[start..]);
        if piece.get(end) != Some(&b'"') || end - start > MEMBER_NAME_BYTES_MAX {
            return Some(start);
        }
        self.close_name(end, &piece[start..end], witness)?;
        if piece.get(end + 1) != Some(&b':') {
            return Some(end + 1);
        }
        self.state = State::Value;
        match piece.get(end + 2) {
            Some(&byte) if !is_space(byte) => self.value(byte, piece, end + 2, witness),
            _ => Some(end + 2),
        }
    }

    /// A value of which `byte` is the first; a container only as far as that.
    fn value<W: Witness>(&mut self, byte: u8, piece: &[u8], at: usize, witness: &mut W) -> Step {
        match byte {
            b'"' => {
                self.tell_start(Kind::String, at, witness);
                let end = at + 1 + text::plain_len(&piece[at + 1..]);
                if piece.get(end) == Some(&b'"') {
                    self.after(end + 1, witness);
                    return Some(end + 1);
                }
                self.state = State::Text;
                Some(end)
            }
            b'{' => self.open(Kind::Object, at, witness),
            b'[' => self.open(Kind::Array, at, witness),
            b'-' | b'0'..=b'9' => {
                self.tell_start(Kind::Number, at, witness);
                if let Some(end) = number_end(piece, at) {
                    self.after(end, witness);
                    return Some(end);
                }
                self.state = State::Number;
                self.number = match byte {
                    b'-' => Number::Minus,
                    b'0' => Number::Zero,
                    _ => Number::Whole,
                };
                Some(at + 1)
            }
            b't' => self.open_word(Kind::True, b"rue", at, witness),
            b'f' => self.open_word(Kind::False, b"alse", at, witness),
            b'n' => self.open_word(Kind::Null, b"ull", at, witness),
            _ => self.fail(ScanFault::Syntax, at),
        }
    }

    fn begin<W: Witness>(&mut self, byte: u8, at: usize, witness: &mut W) -> Step {
        match byte {
            b'{' => self.open(Kind::Object, at, witness),
            b'[' => self.fail(ScanFault::Batch, at),
            b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => self.fail(ScanFault::NotObject, at),
            0xef if self.base == 0 && at == 0 => self.fail(ScanFault::ByteOrderMark, at),
            _ => self.fail(ScanFault::Syntax, at),
        }
    }

    fn open<W: Witness>(&mut self, kind: Kind, at: usize, witness: &mut W) -> Step {
        if self.depth == DEPTH_MAX {
            return self.fail(ScanFault::TooDeep, at);
        }
        self.tell_start(kind, at, witness);
        let object = kind == Kind::Object;
        self.level = match (self.level, self.role) {
            _ if !object => Level::Deep,
            _ if self.depth == 0 => Level::Root,
            (Level::Root, Role::Body) => Level::Body,
            (Level::Body, Role::Meta) => Level::Meta,
            _ => Level::Deep,
        };
        if let Some(slot) = self.levels.get_mut(self.depth) {
            *slot = self.level;
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(object);
        self.firsts[self.depth] = u32::try_from(self.hashes.len()).unwrap_or(u32::MAX);
        self.state = if object { State::FirstName } else { State::FirstValue };
        Some(at + 1)
    }

    fn close<W: Witness>(&mut self, at: usize, witness: &mut W) -> usize {
        if self.objects & 1 == 1 {
            let first = self.firsts[self.depth] as usize;
            let names = &mut self.hashes[first..];
            // Few names were compared one by one as they came; for many, sorting is never quadratic.
            if names.len() > COMPARED_MAX {
                names.sort_unstable();
                if names.windows(2).any(|two| two[0] == two[1]) {
                    self.keep(ScanFault::DuplicateName, at);
                }
            }
            self.hashes.truncate(first);
        }
        self.depth -= 1;
        self.objects >>= 1;
        self.level = match self.depth {
            0 => Level::Deep,
            depth => self.levels.get(depth - 1).copied().unwrap_or(Level::Deep),
        };
        self.after(at + 1, witness);
        at + 1
    }

    /// A value ended before `at`.
    #[inline(always)]
    fn after<W: Witness>(&mut self, at: usize, witness: &mut W) {
        self.state = if self.depth == 0 { State::Done } else { State::After };
        if self.level != Level::Deep {
            witness.end(self.level, self.base + at as u64);
        }
    }

    #[inline(always)]
    fn tell_start<W: Witness>(&mut self, kind: Kind, at: usize, witness: &mut W) {
        if self.level != Level::Deep {
            witness.start(self.level, kind, self.base + at as u64);
        }
    }

    /// On in a member name, to its closing quote or the end of the piece.
    fn name<W: Witness>(&mut self, piece: &[u8], from: usize, witness: &mut W) -> Step {
        let mut kept = from;
        let mut at = from;
        loop {
            if self.escape != Escape::None {
                at = self.escaped::<true>(piece, at)?;
                kept = at;
            }
            let stop;
            (at, stop) = self.plain(piece, at);
            let length = self.base + at as u64 - self.name_start;
            if length > MEMBER_NAME_BYTES_MAX as u64 {
                let over = length - MEMBER_NAME_BYTES_MAX as u64;
                self.fail(ScanFault::NameTooLong, at);
                self.position -= over;
                return None;
            }
            match stop {
                Stop::Quote if !self.carried => {
                    self.close_name(at, &piece[kept..at], witness)?;
                    return Some(at + 1);
                }
                Stop::Quote => {
                    self.carry(&piece[kept..at]);
                    let name = std::mem::take(&mut self.carry);
                    let closed = self.close_name(at, &name, witness);
                    self.carry = name;
                    return closed.map(|()| at + 1);
                }
                Stop::End => {
                    self.carry(&piece[kept..at]);
                    return Some(at);
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

    /// Counts a name, looks for its double, and tells the witness. `at` is the place of the closing quote.
    #[inline(always)]
    fn close_name<W: Witness>(&mut self, at: usize, text: &[u8], witness: &mut W) -> Option<()> {
        self.state = State::Colon;
        self.members += 1;
        if self.members > self.bounds.members || self.hashes.len() >= self.bounds.open {
            self.fail(ScanFault::TooManyMembers, at);
            return None;
        }
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text);
        let hash = hasher.finish();
        let others = &self.hashes[self.firsts[self.depth] as usize..];
        if others.len() < COMPARED_MAX && others.contains(&hash) {
            self.keep(ScanFault::DuplicateName, at);
        }
        self.hashes.push(hash);
        if self.level != Level::Deep {
            let (start, end) = (self.name_start, self.base + at as u64);
            match witness.name(self.level, &Name { text, start, end, escapes: self.name_escapes }) {
                Ok(role) => self.role = role,
                Err(ScanFault::TooManyRecorded) => {
                    self.fail(ScanFault::TooManyRecorded, at);
                    return None;
                }
                Err(fault) => {
                    self.role = Role::Plain;
                    self.keep(fault, at);
                }
            }
        }
        Some(())
    }

    /// On in a string value, to its closing quote or the end of the piece.
    fn value_text<W: Witness>(&mut self, piece: &[u8], from: usize, witness: &mut W) -> Step {
        let mut at = from;
        loop {
            if self.escape != Escape::None {
                at = self.escaped::<false>(piece, at)?;
            }
            let stop;
            (at, stop) = self.plain(piece, at);
            match stop {
                Stop::Quote => {
                    self.after(at + 1, witness);
                    return Some(at + 1);
                }
                Stop::End => return Some(at),
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
    fn plain(&mut self, piece: &[u8], from: usize) -> (usize, Stop) {
        let mut at = from;
        loop {
            if self.tail.left == 0 {
                at += text::plain_len(&piece[at..]);
            }
            let Some(&byte) = piece.get(at) else { return (at, Stop::End) };
            if byte < 0x80 && self.tail.left == 0 {
                return match byte {
                    b'"' => (at, Stop::Quote),
                    b'\\' => (at, Stop::Backslash),
                    _ => (at, Stop::Fault(ScanFault::ControlCharacter)),
                };
            }
            let stop;
            (at, stop) = self.wide(piece, at);
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
                if !(tail.low..=tail.high).contains(&byte) {
                    return (at, true);
                }
                tail = Tail { left: tail.left - 1, ..Tail::NONE };
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
                Escape::Unit => self.digit::<NAME>(byte, at)?,
                Escape::LowKind if byte == b'\\' => self.escape = Escape::LowUnit,
                Escape::LowUnit if byte == b'u' => (self.escape, self.unit, self.digits) = (Escape::Unit, 0, 4),
                _ => return self.fail(ScanFault::LoneSurrogate, at),
            }
            at += 1;
        }
        Some(at)
    }

    fn digit<const NAME: bool>(&mut self, byte: u8, at: usize) -> Option<()> {
        let Some(digit) = text::hex_digit(byte) else {
            self.fail(ScanFault::BadEscape, at);
            return None;
        };
        self.unit = self.unit << 4 | digit;
        self.digits -= 1;
        if self.digits > 0 { Some(()) } else { self.unit_read::<NAME>(self.unit, at) }
    }

    /// A code unit whose last digit is at `at`.
    #[inline]
    fn unit_read<const NAME: bool>(&mut self, unit: u16, at: usize) -> Option<()> {
        if self.high == 0 && (0xd800..0xdc00).contains(&unit) {
            (self.high, self.escape) = (unit, Escape::LowKind);
            return Some(());
        }
        let Some(character) = text::character(self.high, unit) else {
            self.fail(ScanFault::LoneSurrogate, at);
            return None;
        };
        (self.high, self.escape) = (0, Escape::None);
        if NAME {
            self.name_escapes = Escapes::Other;
            self.carry.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Some(())
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
                    self.after(at, witness);
                    return Some(at);
                }
            };
            at += 1;
        }
        self.number = number;
        Some(at)
    }

    #[inline(always)]
    fn open_word<W: Witness>(&mut self, kind: Kind, rest: &'static [u8], at: usize, witness: &mut W) -> Step {
        self.tell_start(kind, at, witness);
        (self.state, self.word) = (State::Word, rest);
        Some(at + 1)
    }

    /// On in `true`, `false` or `null`.
    fn word<W: Witness>(&mut self, piece: &[u8], from: usize, witness: &mut W) -> Step {
        let mut at = from;
        while let Some((&want, rest)) = self.word.split_first() {
            let Some(&byte) = piece.get(at) else { return Some(at) };
            if byte != want {
                return self.fail(ScanFault::Syntax, at);
            }
            self.word = rest;
            at += 1;
        }
        self.after(at, witness);
        Some(at)
    }

    fn keep(&mut self, fault: ScanFault, at: usize) {
        let at = self.base + at as u64;
        self.later.get_or_insert((fault, at));
    }

    #[cold]
    fn fail(&mut self, fault: ScanFault, at: usize) -> Step {
        (self.failed, self.position) = (Some(fault), self.base + at as u64);
        None
    }
}

/// Where to go on in the piece; none after a fault, which is then in `failed`.
type Step = Option<usize>;

/// How many members a message may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// In all.
    pub(super) members: usize,
    /// In the objects open at one moment.
    pub(super) open: usize,
}

/// Which watched object; `Deep` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Root,
    Body,
    Meta,
    Deep,
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
    pub(super) fn of_body_member(name: &[u8]) -> Self {
        if name == b"_meta" { Self::Meta } else { Self::Plain }
    }
}

/// A member name.
pub(super) struct Name<'a> {
    /// Unescaped.
    pub(super) text: &'a [u8],
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
struct Tail {
    left: u8,
    low: u8,
    high: u8,
}

impl Tail {
    const NONE: Self = Self { left: 0, low: 0x80, high: 0xbf };

    /// What follows a first byte; the table of RFC 3629 section 4.
    fn behind(first: u8) -> Option<Self> {
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
}

/// The end of the number at `from`, if it is well-formed and ends within the piece.
#[inline]
fn number_end(piece: &[u8], from: usize) -> Option<usize> {
    let digits = |at: usize| {
        let mut end = at;
        while piece.get(end)?.is_ascii_digit() {
            end += 1;
        }
        (end > at).then_some(end)
    };
    let first = from + usize::from(piece[from] == b'-');
    let mut end = digits(first)?;
    if piece[first] == b'0' && end > first + 1 {
        return None;
    }
    if piece.get(end)? == &b'.' {
        end = digits(end + 1)?;
    }
    if piece.get(end)? | 0x20 == b'e' {
        end = digits(end + 1 + usize::from(matches!(piece.get(end + 1)?, b'+' | b'-')))?;
    }
    Some(end)
}

#[inline(always)]
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Objects of up to this many members compare each new name with those before it.
const COMPARED_MAX: usize = 16;

const _: () = assert!(DEPTH_MAX <= 64, "a bit per open container");
