//! One strict pass over a whole message: who it is for and where its parts stand. See `machine` for the grammar.

use std::cmp::Ordering;
use std::ops::Range;

use super::id::Id;
use super::lanes::Lanes;
use super::machine::{Bounds, Counted, Level, Machine, Name, Role, Witness, word};
use super::quick::{Quick, Sink};
use super::text;
use crate::base::limits::{MEMBERS_MAX, MEMBERS_RECORDED_MAX};
use crate::base::span::Span;

/// Reads `bytes` with tables of its own. Where messages come one after another, use a [`Reader`].
///
/// # Errors
/// See [`Reader::read`].
pub fn read(bytes: &[u8]) -> Result<Envelope, ScanFault> {
    let mut reader = Reader::new(0);
    reader.read(bytes)?;
    Ok(reader.envelope)
}

/// Reads message after message with the same tables: no allocation once they have grown.
#[derive(Debug)]
pub struct Reader {
    quick: Quick,
    pub(super) machine: Machine,
    pub(super) envelope: Envelope,
}

impl Reader {
    /// A reader whose name hashes start from `seed`. The seed should differ per process and be unknown to peers:
    /// who knows it could choose two names that are taken for one (and have a message refused, nothing worse).
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(Lanes::detect(), seed)
    }

    pub(super) fn with(lanes: Lanes, seed: u64) -> Self {
        Self { quick: Quick::new(), machine: Machine::new(lanes, seed, REQUEST_BOUNDS), envelope: Envelope::new() }
    }

    /// Reads one message: the whole body, nothing before it and nothing but white space behind it.
    ///
    /// # Errors
    /// The first fault of grammar or bounds; when there is none, the first fault of the envelope.
    /// [`position`](Self::position) tells where, [`id`](Self::id) whom to answer.
    pub fn read(&mut self, bytes: &[u8]) -> Result<&Envelope, ScanFault> {
        self.envelope.clear();
        if self.quick.read(self.machine.lanes(), bytes, &mut self.envelope).is_some() {
            self.machine.passed(bytes.len());
            self.envelope.judge(bytes, true)?;
            return Ok(&self.envelope);
        }
        self.read_pieces(bytes, std::iter::once(bytes))
    }

    /// Reads `pieces`, which are `bytes`: for tests, the whole in any pieces.
    pub(super) fn read_pieces<'a>(
        &mut self,
        bytes: &[u8],
        mut pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<&Envelope, ScanFault> {
        self.machine.reset();
        self.envelope.clear();
        if u32::try_from(bytes.len()).is_err() {
            return Err(ScanFault::TooLong);
        }
        let scanned = pieces.try_for_each(|piece| self.machine.feed(piece, &mut self.envelope));
        let scanned = scanned.and_then(|()| self.machine.finish());
        let judged = self.envelope.judge(bytes, scanned.is_ok());
        scanned?;
        judged?;
        Ok(&self.envelope)
    }

    /// What the tables hold without growing.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> [usize; 6] {
        let [names, carry] = self.machine.capacity();
        let envelope = &self.envelope;
        let tables = envelope.tables.each_ref().map(Vec::capacity);
        [names, carry, tables[0], tables[1], tables[2], envelope.method_text.capacity()]
    }

    /// What the last successful read found.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The id of the last message, if it was readable: also when the message was refused, since an error answer
    /// has to carry it.
    #[must_use]
    pub fn id(&self) -> Option<Id> {
        self.envelope.id
    }

    /// Offset of the byte at which the last message was refused; its length when it is the whole that is wrong.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.machine.position()
    }
}

/// What a message is, and where its parts stand. Spans are offsets into the bytes that were read.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Which of the four messages of JSON-RPC 2.0.
    pub shape: Shape,
    /// Present for requests and results; for errors when the peer could read one.
    pub id: Option<Id>,
    /// The method as written inside its quotes, for requests and notifications. It may spell `/` as `\/` (PHP
    /// does), so look methods up by [`method_name`](Self::method_name).
    pub method: Option<Span>,
    /// The `params`, `result` or `error` member.
    pub body: Option<Member>,
    /// The members of the message itself, of its body, and of the body's `_meta`.
    tables: [Vec<Member>; 3],
    known: [Option<u8>; KNOWN],
    id_twice: bool,
    /// The method unescaped, if it had to be.
    method_text: Vec<u8>,
}

impl Envelope {
    /// The method, unescaped, in `bytes` (the message this was read from).
    #[must_use]
    pub fn method_name<'a>(&'a self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let written = self.method?;
        Some(if self.method_text.is_empty() { written.of(bytes) } else { &self.method_text })
    }

    /// The member `name` of `params`, in a request or notification.
    #[must_use]
    pub fn param(&self, bytes: &[u8], name: &str) -> Option<Member> {
        let asked = matches!(self.shape, Shape::Request | Shape::Notification);
        asked.then(|| find(self.body_members(), bytes, name)).flatten()
    }

    /// The member `name` of `result`.
    #[must_use]
    pub fn result(&self, bytes: &[u8], name: &str) -> Option<Member> {
        (self.shape == Shape::Result).then(|| find(self.body_members(), bytes, name)).flatten()
    }

    /// The member `name` of `error`.
    #[must_use]
    pub fn error(&self, bytes: &[u8], name: &str) -> Option<Member> {
        (self.shape == Shape::Error).then(|| find(self.body_members(), bytes, name)).flatten()
    }

    /// The member `key` of `params._meta`, `result._meta` (or `error._meta`).
    #[must_use]
    pub fn meta(&self, bytes: &[u8], key: &str) -> Option<Member> {
        find(self.meta_members(), bytes, key)
    }

    /// `error.code`, when it is an integer of 64 bits.
    #[must_use]
    pub fn error_code(&self, bytes: &[u8]) -> Option<i64> {
        integer(self.error(bytes, "code")?.value.of(bytes))
    }

    /// The members of the message itself, in their order.
    #[must_use]
    pub fn root_members(&self) -> &[Member] {
        &self.tables[Level::Root as usize]
    }

    /// The members of `params`, `result` or `error`, in their order.
    #[must_use]
    pub fn body_members(&self) -> &[Member] {
        &self.tables[Level::Body as usize]
    }

    /// The members of the body's `_meta`, in their order.
    #[must_use]
    pub fn meta_members(&self) -> &[Member] {
        &self.tables[Level::Meta as usize]
    }

    fn new() -> Self {
        Self {
            shape: Shape::Notification,
            id: None,
            method: None,
            body: None,
            tables: [8, 16, 16].map(Vec::with_capacity),
            known: [None; KNOWN],
            id_twice: false,
            method_text: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        (self.id, self.method, self.body) = (None, None, None);
        (self.known, self.id_twice) = ([None; KNOWN], false);
        self.tables.iter_mut().for_each(Vec::clear);
        self.method_text.clear();
    }

    #[inline(always)]
    fn known(&self, name: RootName) -> Option<&Member> {
        let member = self.root_members().get(usize::from(self.known[name as usize]?))?;
        // Not yet ended when the scan stopped inside it.
        (!member.value.is_empty()).then_some(member)
    }

    /// JSON-RPC 2.0 sections 4 and 5, on a message of sound grammar; of one that is not (`!whole`), only the id.
    fn judge(&mut self, bytes: &[u8], whole: bool) -> Result<(), ScanFault> {
        let id = self.known(RootName::Id).copied();
        let read = id.filter(|_| !self.id_twice).map(|member| Id::of(bytes, member)).transpose();
        self.id = read.unwrap_or(None);
        if !whole {
            return Ok(());
        }
        let seen = Seen {
            version: self.known(RootName::Version).is_some_and(|member| member.value.of(bytes) == VERSION),
            id: id.map(|member| member.kind),
            method: self.known(RootName::Method).map(|member| member.kind),
            params: self.known(RootName::Params).map(|member| member.kind),
            result: self.known(RootName::Result).map(|member| member.kind),
            error: self.known(RootName::Error).map(|member| member.kind),
        };
        self.shape = seen.shape()?;
        if !(self.shape == Shape::Error && seen.id == Some(Kind::Null)) {
            read?;
        }
        let body = match self.shape {
            Shape::Request | Shape::Notification => RootName::Params,
            Shape::Result => RootName::Result,
            Shape::Error => RootName::Error,
        };
        self.body = self.known(body).copied();
        if let Some(method) = self.known(RootName::Method).and_then(|member| member.text()) {
            self.method = Some(method);
            unescape_method(method.of(bytes), &mut self.method_text)?;
        }
        Ok(())
    }
}

/// A member of an object: `"key": value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name as written, inside its quotes.
    pub key: Span,
    /// The value as written: with quotes for a string, with braces for an object.
    pub value: Span,
    /// What the value is.
    pub kind: Kind,
}

impl Member {
    /// The inside of the quotes, when the value is a string. It may have escapes: see [`text::unescape`].
    #[must_use]
    pub fn text(self) -> Option<Span> {
        let (start, end) = (self.value.start + 1, self.value.end.checked_sub(1)?);
        (self.kind == Kind::String).then_some(Span { start, end })
    }
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// `-1.5e3`
    Number,
    /// `true`
    True,
    /// `false`
    False,
    /// `null`
    Null,
}

/// The four messages of JSON-RPC 2.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// `method` and `id`.
    Request,
    /// `method` without `id`.
    Notification,
    /// `id` and `result`.
    Result,
    /// `error`, with the `id` if it was readable.
    Error,
}

/// What can be wrong with a message, one variant per fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ScanFault {
    /// RFC 8259 section 8.1: none is sent, and we do not skip it.
    #[error("the message starts with a byte order mark")]
    ByteOrderMark,
    /// A byte that cannot stand here.
    #[error("the message is not JSON")]
    Syntax,
    /// The bytes end within a value, or there are none.
    #[error("the message ends too early")]
    Incomplete,
    /// Something follows the message.
    #[error("there are bytes behind the message")]
    TrailingBytes,
    /// RFC 8259 section 8.1; RFC 3629: overlong forms, surrogates and codes above U+10FFFF too.
    #[error("a string is not UTF-8")]
    InvalidUtf8,
    /// RFC 8259 section 7: below U+0020 only as an escape.
    #[error("a string has a bare control character")]
    ControlCharacter,
    /// An escape that JSON does not have.
    #[error("a string has an invalid escape")]
    BadEscape,
    /// Half a character: parsers disagree about what it means.
    #[error("a string has half a surrogate pair")]
    LoneSurrogate,
    /// RFC 8259 section 6.
    #[error("a number is malformed")]
    BadNumber,

    /// More than `DEPTH_MAX` objects and arrays in each other.
    #[error("the message is nested too deeply")]
    TooDeep,
    /// More than `MEMBERS_MAX` members in a message, or `ANSWER_MEMBERS_OPEN_MAX` open at once in a long answer.
    #[error("the message has too many members")]
    TooManyMembers,
    /// More than `MEMBERS_RECORDED_MAX` members in the message itself, its body, or the body's `_meta`.
    #[error("the envelope has too many members")]
    TooManyRecorded,
    /// A member name above `MEMBER_NAME_BYTES_MAX`.
    #[error("a member name is too long")]
    NameTooLong,
    /// Above 4 GiB: spans are 32 bits wide.
    #[error("the message is too long")]
    TooLong,

    /// An array of messages where one message is to be: only one revision takes them, see `batch`.
    #[error("batches are not served")]
    Batch,
    /// An array of no messages.
    #[error("the batch is empty")]
    BatchEmpty,
    /// An array of more messages than are taken at once.
    #[error("the batch has too many messages")]
    BatchTooLong,
    /// An array with requests or notifications in it, and answers too.
    #[error("the batch holds both requests and answers")]
    BatchMixed,
    /// A JSON value that is no object.
    #[error("the message is not an object")]
    NotObject,
    /// The same name twice in one object, after unescaping: parsers disagree about which one counts.
    #[error("an object has a member name twice")]
    DuplicateName,
    /// A name in the envelope, `params` or `_meta` with an escape other than `\/`.
    #[error("a member name of the envelope is escaped")]
    EscapedName,
    /// A name of the envelope or `params` that some parsers take for a known one: `Method`, `PARAMS`.
    #[error("a member name differs from a known one only in case")]
    CaseTwin,
    /// `jsonrpc` is not exactly `"2.0"`.
    #[error("jsonrpc is not \"2.0\"")]
    WrongVersion,
    /// An id that is neither a string nor an integer.
    #[error("the id is neither a string nor an integer")]
    IdInvalid,
    /// An id above `ID_BYTES_MAX`.
    #[error("the id is too long")]
    IdTooLong,
    /// A `method` that is no string, or has an escape other than `\/`.
    #[error("the method is not a plain string")]
    MethodInvalid,
    /// A `params`, `result` or `error` that is no object.
    #[error("params, result or error is not an object")]
    BodyInvalid,
    /// Neither request nor notification nor answer, or more than one of them.
    #[error("neither a request, a notification nor an answer")]
    ShapeUnclear,
}

impl ScanFault {
    /// Whether the bytes are no JSON at all (JSON-RPC -32700), rather than JSON that we refuse (-32600).
    #[must_use]
    pub fn is_grammar(self) -> bool {
        use ScanFault as F;
        let text =
            matches!(self, F::InvalidUtf8 | F::ControlCharacter | F::BadEscape | F::LoneSurrogate | F::BadNumber);
        text || matches!(self, F::ByteOrderMark | F::Syntax | F::Incomplete | F::TrailingBytes)
    }

    /// The error code of JSON-RPC 2.0 section 5.1.
    #[must_use]
    pub fn code(self) -> i64 {
        if self.is_grammar() { -32700 } else { -32600 }
    }
}

/// The members of a message that JSON-RPC knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RootName {
    Version,
    Id,
    Method,
    Params,
    Result,
    Error,
}

impl RootName {
    fn of(name: u64) -> Option<Self> {
        const VERSION: u64 = word("jsonrpc");
        const ID: u64 = word("id");
        const METHOD: u64 = word("method");
        const PARAMS: u64 = word("params");
        const RESULT: u64 = word("result");
        const ERROR: u64 = word("error");
        Some(match name {
            VERSION => Self::Version,
            ID => Self::Id,
            METHOD => Self::Method,
            PARAMS => Self::Params,
            RESULT => Self::Result,
            ERROR => Self::Error,
            _ => return None,
        })
    }

    /// The name of a member of the message itself, under the rules of the envelope.
    #[inline(always)]
    pub(super) fn judge(name: &Name<'_>) -> Result<Option<Self>, ScanFault> {
        name.plain()?;
        match Self::of(name.word) {
            None if is_twin(name.text, ROOT_NAMES) => Err(ScanFault::CaseTwin),
            known => Ok(known),
        }
    }

    pub(super) fn role(self) -> Role {
        match self {
            Self::Params | Self::Result | Self::Error => Role::Body,
            _ => Role::Plain,
        }
    }
}

/// The kinds of the members that JSON-RPC knows, as far as they are there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) version: bool,
    pub(super) id: Option<Kind>,
    pub(super) method: Option<Kind>,
    pub(super) params: Option<Kind>,
    pub(super) result: Option<Kind>,
    pub(super) error: Option<Kind>,
}

impl Seen {
    /// Which message this is. The id itself is judged by the caller, who has its bytes.
    pub(super) fn shape(self) -> Result<Shape, ScanFault> {
        if !self.version {
            return Err(ScanFault::WrongVersion);
        }
        let has = |kind: Option<Kind>| kind.is_some();
        let shape = match (has(self.method), has(self.params), has(self.result), has(self.error)) {
            (true, _, false, false) if has(self.id) => Shape::Request,
            (true, _, false, false) => Shape::Notification,
            (false, false, true, false) if has(self.id) => Shape::Result,
            (false, false, false, true) => Shape::Error,
            _ => return Err(ScanFault::ShapeUnclear),
        };
        if self.method.is_some_and(|kind| kind != Kind::String) {
            return Err(ScanFault::MethodInvalid);
        }
        if [self.params, self.result, self.error].into_iter().flatten().any(|kind| kind != Kind::Object) {
            return Err(ScanFault::BodyInvalid);
        }
        Ok(shape)
    }
}

/// Records members as the machine meets them.
impl Witness for Envelope {
    #[inline(always)]
    fn name(&mut self, level: Level, name: &Name<'_>) -> Result<Role, ScanFault> {
        let member = Member { key: span(name.start, name.end), value: Span::default(), kind: Kind::Null };
        self.push(level, name, member)
    }

    #[inline(always)]
    fn member(&mut self, level: Level, name: &Name<'_>, kind: Kind, value: Range<u64>) -> Result<(), ScanFault> {
        let member = Member { key: span(name.start, name.end), value: span(value.start, value.end), kind };
        self.push(level, name, member).map(drop)
    }

    #[inline(always)]
    fn start(&mut self, level: Level, kind: Kind, at: u64) {
        if let Some(member) = self.table(level).last_mut() {
            (member.kind, member.value) = (kind, span(at, at));
        }
    }

    #[inline(always)]
    fn end(&mut self, level: Level, at: u64) {
        if let Some(member) = self.table(level).last_mut() {
            member.value.end = offset(at);
        }
    }
}

impl Sink for Envelope {
    #[inline(always)]
    fn begin(&mut self, level: Level, name: &Name<'_>, kind: Kind, at: usize) -> Result<Role, ScanFault> {
        let member = Member { key: span(name.start, name.end), value: span(at as u64, at as u64), kind };
        self.push(level, name, member)
    }

    #[inline(always)]
    fn end(&mut self, level: Level, at: usize) {
        Witness::end(self, level, at as u64);
    }
}

impl Envelope {
    #[inline(always)]
    fn push(&mut self, level: Level, name: &Name<'_>, member: Member) -> Result<Role, ScanFault> {
        let table = self.table(level);
        let here = table.len();
        if here == MEMBERS_RECORDED_MAX {
            return Err(ScanFault::TooManyRecorded);
        }
        table.push(member);
        match level {
            Level::Root => self.root_name(name, here),
            Level::Body if self.is_asked() => {
                name.plain()?;
                judge_param(name.text, name.word)
            }
            Level::Body => Ok(Role::of_body_member(name)),
            _ if self.is_asked() => name.plain().map(|()| Role::Plain),
            _ => Ok(Role::Plain),
        }
    }

    /// Whether the body is that of a request or notification.
    #[inline]
    fn is_asked(&self) -> bool {
        self.known[RootName::Params as usize].is_some()
    }

    #[inline(always)]
    fn root_name(&mut self, name: &Name<'_>, here: usize) -> Result<Role, ScanFault> {
        let Some(known) = RootName::judge(name)? else { return Ok(Role::Plain) };
        let slot = &mut self.known[known as usize];
        self.id_twice |= known == RootName::Id && slot.is_some();
        slot.get_or_insert(u8::try_from(here).unwrap_or(u8::MAX));
        Ok(known.role())
    }

    #[inline(always)]
    fn table(&mut self, level: Level) -> &mut Vec<Member> {
        &mut self.tables[level as usize]
    }
}

/// The value of an integer as written; none when it has a fraction or does not fit.
pub(super) fn integer(raw: &[u8]) -> Option<i64> {
    str::from_utf8(raw).ok()?.parse().ok()
}

/// A span of a message that `Reader::read` has found to be short enough.
#[inline(always)]
pub(super) fn span(start: u64, end: u64) -> Span {
    Span { start: offset(start), end: offset(end) }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "messages longer than 4 GiB are refused at the door")]
fn offset(at: u64) -> u32 {
    at as u32
}

fn find(table: &[Member], bytes: &[u8], name: &str) -> Option<Member> {
    table.iter().copied().find(|member| {
        let key = member.key.of(bytes);
        // An escape is longer than what it stands for.
        match key.len().cmp(&name.len()) {
            Ordering::Less => false,
            Ordering::Equal => key == name.as_bytes(),
            Ordering::Greater if key[0] != b'\\' && Some(&key[0]) != name.as_bytes().first() => false,
            Ordering::Greater => text::has_escape(key) && text::same_text(key, name.as_bytes()),
        }
    })
}

#[inline]
fn judge_param(text: &[u8], word: u64) -> Result<Role, ScanFault> {
    const NAME: u64 = self::word("name");
    const META: u64 = self::word("_meta");
    const URI: u64 = self::word("uri");
    match word {
        META => return Ok(Role::Meta),
        NAME | URI => return Ok(Role::Plain),
        _ => {}
    }
    let alike = PARAM_NAMES_BY_LENGTH.get(text.len()).copied().unwrap_or_default();
    for known in alike {
        if text == known.as_bytes() {
            return Ok(Role::Plain);
        }
        if text.eq_ignore_ascii_case(known.as_bytes()) {
            return Err(ScanFault::CaseTwin);
        }
    }
    if is_wide_twin(text, PARAM_NAMES) { Err(ScanFault::CaseTwin) } else { Ok(Role::Plain) }
}

/// Whether a parser that matches names without regard to case would take `name` for one of `known`.
#[inline]
pub(super) fn is_twin(name: &[u8], known: &[&str]) -> bool {
    let ascii = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes()) && name != known.as_bytes();
    known.iter().any(ascii) || is_wide_twin(name, known)
}

/// Such parsers (Go's encoding/json is one) also fold U+017F to s and U+212A to k.
#[inline]
fn is_wide_twin(name: &[u8], known: &[&str]) -> bool {
    !name.is_ascii() && folds_to_one(name, known)
}

#[cold]
fn folds_to_one(name: &[u8], known: &[&str]) -> bool {
    let Ok(name) = str::from_utf8(name) else { return false };
    let folded = |one: char| match one {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    known.iter().any(|known| known.chars().map(folded).eq(name.chars().map(folded)))
}

/// Leaves `name` empty when `written` has no escapes. Those other than `\/` have no reason to be in a method.
fn unescape_method(written: &[u8], name: &mut Vec<u8>) -> Result<(), ScanFault> {
    if !text::has_escape(written) {
        return Ok(());
    }
    let mut rest = written.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'\\' if rest.next() == Some(&b'/') => name.push(b'/'),
            b'\\' => return Err(ScanFault::MethodInvalid),
            _ => name.push(byte),
        }
    }
    Ok(())
}

const KNOWN: usize = RootName::Error as usize + 1;
pub(super) const VERSION: &[u8] = b"\"2.0\"";
const ROOT_NAMES: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const REQUEST_BOUNDS: Bounds = Bounds { members: MEMBERS_MAX, of: Counted::All };

/// Members of `params` that routing, policy, limits or the bridge go by, over all revisions of MCP.
const PARAM_NAMES: &[&str] = &[
    "_meta",
    "name",
    "arguments",
    "uri",
    "cursor",
    "ref",
    "argument",
    "context",
    "level",
    "task",
    "taskId",
    "requestId",
    "reason",
    "progressToken",
    "progress",
    "total",
    "message",
    "protocolVersion",
    "capabilities",
    "clientInfo",
    "inputResponses",
    "requestState",
    "notifications",
];
/// The same, those of one length together; no two are twins of each other. A test holds the two lists to each other.
const PARAM_NAMES_BY_LENGTH: &[&[&str]] = &[
    &[],
    &[],
    &[],
    &["uri", "ref"],
    &["name", "task"],
    &["_meta", "level", "total"],
    &["cursor", "taskId", "reason"],
    &["context", "message"],
    &["argument", "progress"],
    &["arguments", "requestId"],
    &["clientInfo"],
    &[],
    &["capabilities", "requestState"],
    &["progressToken", "notifications"],
    &["inputResponses"],
    &["protocolVersion"],
];

const _: () = assert!(MEMBERS_RECORDED_MAX < u8::MAX as usize, "rows are numbered by a byte");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn param_names_stand_in_both_lists() {
        let mut flat = PARAM_NAMES.to_vec();
        let mut by_length: Vec<&str> = PARAM_NAMES_BY_LENGTH.concat();
        assert!(
            PARAM_NAMES_BY_LENGTH.iter().enumerate().all(|(length, names)| names.iter().all(|it| it.len() == length))
        );
        flat.sort_unstable();
        by_length.sort_unstable();
        assert_eq!(flat, by_length);
    }
}
