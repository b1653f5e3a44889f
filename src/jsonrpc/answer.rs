//! What an answer says, read from its bytes as they pass by: the same machine as for whole messages, but nothing
//! of the message is kept except a few short values. Often the id comes last.

use std::ops::Range;

use smallvec::SmallVec;

use super::lanes::Lanes;
use super::machine::{Bounds, Counted, Level, Machine, Name, Role, Witness};
use super::quick::{Quick, Sink};
use super::scan::{Kind, RootName, ScanFault, Seen, Shape, VERSION, integer, is_twin};
use super::{id, text};
use crate::base::limits::{ANSWER_MEMBERS_OPEN_MAX, ID_BYTES_MAX};

/// Reads a whole message as an answer.
///
/// # Errors
/// See [`AnswerScan::finish`].
pub fn answer_of(bytes: &[u8]) -> Result<Answer, ScanFault> {
    AnswerScan::new(0).read(bytes)
}

/// Reads a message piece by piece. Its grammar, names and bounds are those of `Reader`, with three differences: there
/// is no bound on members in all, none on those of the body, and names in the body may be escaped.
#[derive(Debug)]
pub struct AnswerScan {
    quick: Quick,
    machine: Machine,
    notes: Notes,
}

impl AnswerScan {
    /// For the first message; `seed` as for `Reader::new`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(Lanes::detect(), seed)
    }

    pub(super) fn with(lanes: Lanes, seed: u64) -> Self {
        let machine = Machine::new(lanes, seed, ANSWER_BOUNDS);
        Self { quick: Quick::new(), machine, notes: Notes::default() }
    }

    /// Forgets the last message, keeps its memory. The next one is read in full.
    pub fn reset(&mut self) {
        self.start(false);
    }

    /// The same, but of the next one only the message itself and its result or error are read in full. What lies
    /// deeper is skimmed: it is UTF-8 with its strings closed, no control characters in them, brackets that match and
    /// are not too deep, and nothing outside of strings that JSON does not have there; whether it is JSON is for its
    /// reader to find out. For what is passed on as it came, and for nothing else.
    pub fn reset_to_skim(&mut self) {
        self.start(true);
    }

    fn start(&mut self, skims: bool) {
        self.machine.reset();
        self.machine.set_skims(skims);
        self.notes = Notes::default();
    }

    /// Reads a whole message, after a [`reset`](Self::reset).
    ///
    /// # Errors
    /// See [`finish`](Self::finish).
    pub fn read(&mut self, bytes: &[u8]) -> Result<Answer, ScanFault> {
        self.read_whole(bytes, false)
    }

    /// Reads a whole message, after a [`reset_to_skim`](Self::reset_to_skim).
    ///
    /// # Errors
    /// See [`finish`](Self::finish).
    pub fn skim(&mut self, bytes: &[u8]) -> Result<Answer, ScanFault> {
        self.read_whole(bytes, true)
    }

    fn read_whole(&mut self, bytes: &[u8], skims: bool) -> Result<Answer, ScanFault> {
        self.notes = Notes::default();
        let lanes = self.machine.lanes();
        let mut sight = Sight { notes: &mut self.notes, piece: bytes, base: 0 };
        let read =
            if skims { self.quick.skim(lanes, bytes, &mut sight) } else { self.quick.read(lanes, bytes, &mut sight) };
        if read.is_some() {
            self.machine.passed(bytes.len());
        } else {
            self.start(skims);
            self.feed(bytes)?;
        }
        self.finish()
    }

    /// The next bytes of the message.
    ///
    /// # Errors
    /// A fault of grammar or bounds; what has been relayed of the message must then be cut off. Every later call
    /// repeats it.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), ScanFault> {
        let base = self.machine.position();
        self.machine.feed(piece, &mut Sight { notes: &mut self.notes, piece, base })?;
        self.notes.carry_on(piece, base);
        Ok(())
    }

    /// The message has ended: what it said.
    ///
    /// # Errors
    /// The fault of `feed`, [`ScanFault::Incomplete`], or what is wrong with the envelope.
    pub fn finish(&mut self) -> Result<Answer, ScanFault> {
        self.machine.finish()?;
        let notes = &self.notes;
        let shape = notes.seen.shape()?;
        match (notes.seen.id, &notes.id_fault) {
            (Some(Kind::Null), _) if shape == Shape::Error => {}
            (Some(_), Some(fault)) => return Err(*fault),
            _ => {}
        }
        Ok(Answer {
            shape,
            id: notes.id.clone(),
            is_error: notes.is_error,
            error_code: notes.error_code,
            result_type: notes.result_type,
        })
    }

    /// The id as written, as soon as it has been read.
    #[must_use]
    pub fn id(&self) -> Option<&[u8]> {
        self.notes.id.as_deref()
    }

    /// Where the id stands, counted from the first byte fed, as soon as it has been read.
    #[must_use]
    pub fn id_place(&self) -> Option<Range<u64>> {
        self.notes.id.as_ref().map(|_| self.notes.id_place.clone())
    }

    /// Whether the message has ended; only white space may follow.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.machine.is_done()
    }

    /// Bytes read so far; after a fault, where it is.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.machine.position()
    }
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `Result` or `Error` for an answer; a request or notification is told apart too.
    pub shape: Shape,
    /// The id as written, with quotes for a string; none where the peer gave none, or null with an error. Compare
    /// with `id::same`.
    pub id: Option<SmallVec<[u8; 40]>>,
    /// `result.isError` is true: the tool ran and failed.
    pub is_error: bool,
    /// `error.code`, when it is an integer of 64 bits.
    pub error_code: Option<i64>,
    /// `result.resultType`.
    pub result_type: ResultType,
}

/// MCP 2026-07-28 `Result.resultType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResultType {
    /// Not there: complete, by a legacy server.
    #[default]
    Absent,
    /// `"complete"`
    Complete,
    /// `"input_required"`
    InputRequired,
    /// `"task"`, of the extension `io.modelcontextprotocol/tasks`.
    Task,
    /// Another extension's, or no string.
    Other,
}

/// What has been seen of the message.
#[derive(Debug, Default)]
struct Notes {
    seen: Seen,
    /// The member of the message that we are in.
    inside: Option<RootName>,
    /// The value that is awaited or open, if it is one that counts.
    wanted: Wanted,
    kind: Option<Kind>,
    start: u64,
    /// Its bytes from earlier pieces.
    carry: SmallVec<[u8; 40]>,

    id: Option<SmallVec<[u8; 40]>>,
    id_place: Range<u64>,
    id_fault: Option<ScanFault>,
    is_error: bool,
    error_code: Option<i64>,
    result_type: ResultType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Nothing,
    Version,
    Id,
    IsError,
    ResultType,
    Code,
}

impl Notes {
    /// Keeps what the piece has of a short value that is still open.
    fn carry_on(&mut self, piece: &[u8], base: u64) {
        if self.is_open() {
            let bytes = from(piece, base, self.start);
            let room = (ID_BYTES_MAX + 1).saturating_sub(self.carry.len());
            self.carry.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn is_open(&self) -> bool {
        self.wanted != Wanted::Nothing && matches!(self.kind, Some(Kind::String | Kind::Number))
    }

    fn take(&mut self, raw: &[u8], end: u64) {
        let Some(kind) = self.kind else { return };
        let kind_if_short = if raw.len() <= ID_BYTES_MAX { Some(kind) } else { None };
        match self.wanted {
            Wanted::Nothing => {}
            Wanted::Version => self.seen.version = raw == VERSION,
            Wanted::Id => match id::check(raw, kind) {
                Ok(()) => (self.id, self.id_place) = (Some(SmallVec::from_slice(raw)), self.start..end),
                Err(fault) => self.id_fault = Some(fault),
            },
            Wanted::IsError => self.is_error = kind == Kind::True,
            Wanted::ResultType => {
                let is = |name: &[u8]| kind_if_short == Some(Kind::String) && text::same_text(text::inside(raw), name);
                self.result_type = match () {
                    () if raw == b"\"complete\"" => ResultType::Complete,
                    () if is(b"complete") => ResultType::Complete,
                    () if is(b"input_required") => ResultType::InputRequired,
                    () if is(b"task") => ResultType::Task,
                    () => ResultType::Other,
                };
            }
            Wanted::Code => {
                self.error_code = kind_if_short.filter(|kind| *kind == Kind::Number).and_then(|_| integer(raw))
            }
        }
    }
}

/// The members of a result that mean something to the gateway or change what it is.
const RESULT_NAMES: &[&str] = &["isError", "resultType", "inputRequests", "requestState"];

/// The notes, and the piece that is being read.
struct Sight<'a> {
    notes: &'a mut Notes,
    piece: &'a [u8],
    base: u64,
}

impl Witness for Sight<'_> {
    #[inline(always)]
    fn name(&mut self, level: Level, name: &Name<'_>) -> Result<Role, ScanFault> {
        let notes = &mut *self.notes;
        (notes.wanted, notes.kind) = (Wanted::Nothing, None);
        if level == Level::Root {
            notes.inside = RootName::judge(name)?;
            notes.wanted = match notes.inside {
                Some(RootName::Version) => Wanted::Version,
                Some(RootName::Id) => Wanted::Id,
                _ => Wanted::Nothing,
            };
            return Ok(notes.inside.map_or(Role::Plain, RootName::role));
        }
        if level == Level::Body {
            notes.wanted = match (notes.inside, name.text) {
                (Some(RootName::Result), b"isError") => Wanted::IsError,
                (Some(RootName::Result), b"resultType") => Wanted::ResultType,
                (Some(RootName::Error), b"code") => Wanted::Code,
                // A reader that looks past the case of names would find another one than was looked at.
                (Some(RootName::Result), text) if is_twin(text, RESULT_NAMES) => return Err(ScanFault::CaseTwin),
                _ => Wanted::Nothing,
            };
        }
        Ok(Role::Plain)
    }

    #[inline(always)]
    fn member(&mut self, level: Level, name: &Name<'_>, kind: Kind, value: Range<u64>) -> Result<(), ScanFault> {
        let told = self.name(level, name);
        self.start(level, kind, value.start);
        if self.notes.wanted != Wanted::Nothing {
            Witness::end(self, level, value.end);
        }
        told.map(drop)
    }

    #[inline(always)]
    fn start(&mut self, level: Level, kind: Kind, at: u64) {
        let notes = &mut *self.notes;
        (notes.kind, notes.start) = (Some(kind), at);
        notes.carry.clear();
        if level == Level::Root {
            let seen = &mut notes.seen;
            match notes.inside {
                Some(RootName::Id) => seen.id = Some(kind),
                Some(RootName::Method) => seen.method = Some(kind),
                Some(RootName::Params) => seen.params = Some(kind),
                Some(RootName::Result) => seen.result = Some(kind),
                Some(RootName::Error) => seen.error = Some(kind),
                Some(RootName::Version) | None => {}
            }
        }
    }

    fn end(&mut self, _: Level, at: u64) {
        if self.notes.wanted == Wanted::Nothing {
            return;
        }
        let last = usize::try_from(at - self.base).map_or(self.piece, |end| &self.piece[..end]);
        if self.notes.start >= self.base {
            self.notes.take(from(last, self.base, self.notes.start), at);
        } else {
            self.notes.carry_on(last, self.base);
            let raw = std::mem::take(&mut self.notes.carry);
            self.notes.take(&raw, at);
        }
        self.notes.wanted = Wanted::Nothing;
    }
}

impl Sink for Sight<'_> {
    #[inline(always)]
    fn begin(&mut self, level: Level, name: &Name<'_>, kind: Kind, at: usize) -> Result<Role, ScanFault> {
        let role = self.name(level, name)?;
        self.start(level, kind, at as u64);
        Ok(role)
    }

    #[inline(always)]
    fn end(&mut self, _: Level, at: usize) {
        if self.notes.wanted != Wanted::Nothing {
            let raw = usize::try_from(self.notes.start).ok().and_then(|start| self.piece.get(start..at));
            self.notes.take(raw.unwrap_or_default(), at as u64);
            self.notes.wanted = Wanted::Nothing;
        }
    }
}

/// The bytes of `piece`, which begins at offset `base`, from offset `start` on.
fn from(piece: &[u8], base: u64, start: u64) -> &[u8] {
    let skipped = usize::try_from(start.saturating_sub(base)).unwrap_or(usize::MAX);
    piece.get(skipped..).unwrap_or_default()
}

const ANSWER_BOUNDS: Bounds = Bounds { members: ANSWER_MEMBERS_OPEN_MAX, of: Counted::Open };
