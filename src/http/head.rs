//! Request and response heads, read from bytes into spans (RFC 9112 2-6). A head is read in one pass that may stop at
//! any byte and go on when more have come; what is wrong is found at the byte where it is wrong. Anything that two
//! parties could read in two ways is refused here.

use super::field::{self, Field, Fields, Known};
use super::target::{self, Target};
use crate::base::limits::{FIELD_VALUE_BYTES_MAX, HEAD_BYTES_MAX, HEAD_FIELDS_MAX};
use crate::base::span::Span;

/// A request method. Names are case-sensitive (RFC 9110 9.1), so `get` is `Other`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// POST
    Post,
    /// DELETE
    Delete,
    /// HEAD
    Head,
    /// OPTIONS
    Options,
    /// CONNECT
    Connect,
    /// TRACE
    Trace,
    /// Any other token.
    Other,
}

impl Method {
    /// The method that `token` names.
    #[must_use]
    #[inline]
    pub fn of(token: &[u8]) -> Self {
        match token {
            b"POST" => Self::Post,
            b"GET" => Self::Get,
            b"DELETE" => Self::Delete,
            b"HEAD" => Self::Head,
            b"OPTIONS" => Self::Options,
            b"CONNECT" => Self::Connect,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }

    /// The name; `OTHER` for any that is not known.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Connect => "CONNECT",
            Self::Trace => "TRACE",
            Self::Other => "OTHER",
        }
    }
}

/// The protocol version of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0: closes after the answer unless it says `keep-alive`; knows no chunks.
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

/// How long the body after a head is (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Framing {
    /// No body.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Until the peer closes; in responses only.
    UntilClose,
}

/// What `parse` says about bytes it has nothing against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The head is not all there: call again with these bytes and more behind them.
    Partial,
    /// The head is read; the body begins at `end`.
    Complete,
}

/// What can be wrong with a head. The message boundary is in doubt after any of them: the connection must close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeadFault {
    /// The method is empty or no token.
    #[error("malformed method")]
    MethodMalformed,
    /// The first line is not three parts with one space between them.
    #[error("malformed request line")]
    RequestLineMalformed,
    /// The first line of a response is not a version, a space and three digits.
    #[error("malformed status line")]
    StatusLineMalformed,
    /// The version does not have the form `HTTP/D.D`.
    #[error("malformed HTTP version")]
    VersionMalformed,
    /// A version other than 1.0 and 1.1.
    #[error("unsupported HTTP version")]
    VersionUnsupported,
    /// A status outside 100-599, or 101: this gateway never asks to switch protocols.
    #[error("status out of range")]
    StatusRefused,
    /// The request target is longer than `FIELD_VALUE_BYTES_MAX`.
    #[error("request target too long")]
    TargetTooLong,
    /// The target holds a byte or an escape that no target may hold, or a fragment.
    #[error("malformed request target")]
    TargetMalformed,
    /// The target has a form that its method does not take (RFC 9112 3.2).
    #[error("form of request target does not fit the method")]
    TargetForm,
    /// The path could be read in two ways: dot segments, `//`, `\`, `;`, an escaped slash, dot, percent or control.
    #[error("ambiguous path")]
    PathUnsafe,
    /// More than `HEAD_BYTES_MAX`.
    #[error("head too long")]
    HeadTooLong,
    /// More than `HEAD_FIELDS_MAX`.
    #[error("too many fields")]
    FieldsTooMany,
    /// A value is longer than `FIELD_VALUE_BYTES_MAX`.
    #[error("field value too long")]
    ValueTooLong,
    /// A field line without a colon.
    #[error("field line without a colon")]
    ColonMissing,
    /// A field line that starts with its colon.
    #[error("empty field name")]
    NameEmpty,
    /// A byte in a field name that may not stand in a token.
    #[error("malformed field name")]
    NameMalformed,
    /// White space between a field name and its colon (RFC 9112 5.1).
    #[error("white space before a colon")]
    SpaceBeforeColon,
    /// A line that starts with white space (RFC 9112 5.2).
    #[error("folded field line")]
    Folded,
    /// A CR that no LF follows.
    #[error("bare CR")]
    BareCr,
    /// An LF that no CR stands before.
    #[error("bare LF")]
    BareLf,
    /// A NUL.
    #[error("NUL in the head")]
    Nul,
    /// Another control than those.
    #[error("control byte in the head")]
    ControlByte,
    /// No `Host`.
    #[error("Host is missing")]
    HostMissing,
    /// More than one `Host`.
    #[error("more than one Host")]
    HostRepeated,
    /// `Host` is no host and port.
    #[error("malformed Host")]
    HostMalformed,
    /// The target names another host than `Host` does.
    #[error("Host and request target disagree")]
    HostDisagrees,
    /// More than one `Content-Length`, even if equal.
    #[error("more than one Content-Length")]
    LengthRepeated,
    /// `Content-Length` is not 1 to 19 digits.
    #[error("malformed Content-Length")]
    LengthMalformed,
    /// `Transfer-Encoding` is not exactly one `chunked`.
    #[error("unsupported Transfer-Encoding")]
    CodingRefused,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    #[error("Transfer-Encoding in HTTP/1.0")]
    CodingInHttp10,
    /// Both `Content-Length` and `Transfer-Encoding`.
    #[error("both Content-Length and Transfer-Encoding")]
    BothLengths,
    /// A response that cannot have a body announces one.
    #[error("a body where none may be")]
    BodyForbidden,
    /// An element of `Connection` is no token.
    #[error("malformed Connection")]
    ConnectionMalformed,
    /// `Connection` lists a field that a client may not have removed.
    #[error("Connection lists a protected field")]
    ConnectionProtected,
    /// `Expect` asks for something else than `100-continue`.
    #[error("unknown expectation")]
    ExpectationUnknown,
}

/// The head of a request. Meant to be reused: its table of fields keeps its place in memory.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Of the request line.
    pub method: Method,
    /// Of the request line.
    pub version: Version,
    /// The request target as it was written.
    pub target: Span,
    /// The target's path. Empty for `*`, CONNECT, and an absolute target without one; else it starts with `/`, and
    /// `path` rules have been checked.
    pub path: Span,
    /// The target's query, without the `?`.
    pub query: Option<Span>,
    /// The one `Host`: a valid name or address and maybe a port.
    pub host: Span,
    /// The fields.
    pub fields: Fields,
    /// How long the body is; never `UntilClose`.
    pub framing: Framing,
    /// Whether the client means to send another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for a 100 before it sends its body.
    pub expect_continue: bool,
    /// Where the body begins; valid once the head is complete.
    pub end: usize,
    cursor: Cursor,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestHead {
    /// An empty head to parse into.
    #[must_use]
    pub fn new() -> Self {
        Self {
            method: Method::Get,
            version: Version::Http11,
            target: Span::default(),
            path: Span::default(),
            query: None,
            host: Span::default(),
            fields: Fields::new(),
            framing: Framing::None,
            keep_alive: false,
            expect_continue: false,
            end: 0,
            cursor: Cursor::default(),
        }
    }

    /// Reads the head that starts at the first byte of `bytes`. After `Partial`, call again with the same bytes and
    /// more behind them: it goes on where it stopped. After `Complete`, or a fault, the next call reads a new head.
    /// No empty line is skipped before the request line.
    ///
    /// # Errors
    /// What is wrong first; nothing of the head may then be used, and the connection must close.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Progress, HeadFault> {
        let outcome = self.advance(bytes);
        if outcome != Ok(Progress::Partial) {
            self.cursor = Cursor::default();
        }
        outcome
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<Progress, HeadFault> {
        if self.cursor.is_fresh() {
            self.fields.clear();
        }
        if !self.cursor.first_line_read {
            // A peer that speaks something else, TLS say, is refused at its first byte.
            if bytes.first().is_some_and(|byte| !field::is_token_byte(*byte)) {
                return Err(HeadFault::MethodMalformed);
            }
            let Some(line_end) = self.cursor.read_first_line(bytes).map_err(|fault| too_long_line(fault, bytes))?
            else {
                return Ok(Progress::Partial);
            };
            self.read_request_line(bytes, line_end)?;
        }
        let Some(end) = self.cursor.read_fields(bytes, &mut self.fields)? else {
            return Ok(Progress::Partial);
        };
        self.end = end;
        self.conclude(bytes)?;
        Ok(Progress::Complete)
    }

    /// Reads the request line, which ends, without its line break, at `end`.
    fn read_request_line(&mut self, bytes: &[u8], end: usize) -> Result<(), HeadFault> {
        let line = &bytes[..end];
        let method_end = line.iter().position(|byte| !field::is_token_byte(*byte)).unwrap_or(end);
        if method_end == 0 {
            return Err(HeadFault::MethodMalformed);
        }
        match line.get(method_end) {
            None => return Err(HeadFault::RequestLineMalformed),
            Some(b' ') => {}
            Some(_) => return Err(HeadFault::MethodMalformed),
        }
        self.method = Method::of(&line[..method_end]);
        let target = method_end + 1;
        let length = line[target..].iter().position(|byte| *byte == b' ');
        let target_end = target + length.filter(|length| *length > 0).ok_or(HeadFault::RequestLineMalformed)?;
        if target_end - target > FIELD_VALUE_BYTES_MAX {
            return Err(HeadFault::TargetTooLong);
        }
        self.version = read_version(&line[target_end + 1..])?;
        self.target = Span::new(target, target_end);
        let parts = Target::read(self.method, bytes, self.target)?;
        self.path = parts.path;
        self.query = parts.query;
        self.cursor.authority = parts.authority;
        Ok(())
    }

    /// What only the whole head shows.
    fn conclude(&mut self, bytes: &[u8]) -> Result<(), HeadFault> {
        self.host = the_only(&self.fields, Known::Host, HeadFault::HostRepeated)?.ok_or(HeadFault::HostMissing)?;
        let host = self.host.of(bytes);
        target::check_host(host)?;
        if let Some(authority) = self.cursor.authority
            && !authority.of(bytes).eq_ignore_ascii_case(host)
        {
            return Err(HeadFault::HostDisagrees);
        }
        self.framing = body_length(&self.fields, bytes, self.version)?.unwrap_or(Framing::None);
        // What follows the head of a CONNECT is nobody's request.
        self.keep_alive = self.method != Method::Connect && read_connection(&self.fields, bytes, self.version)?;
        self.expect_continue = false;
        for value in self.fields.all(bytes, Known::Expect) {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(HeadFault::ExpectationUnknown);
            }
            // RFC 9110 10.1.1: ignored from HTTP/1.0, and there is nothing to wait with when there is no body.
            let no_body = matches!(self.framing, Framing::None | Framing::Length(0));
            self.expect_continue = self.version == Version::Http11 && !no_body;
        }
        Ok(())
    }

    /// The value of the first field of that name; `bytes` are those the head was parsed from, here and below.
    #[must_use]
    #[inline]
    pub fn get<'a>(&self, bytes: &'a [u8], known: Known) -> Option<&'a [u8]> {
        self.fields.get(bytes, known)
    }

    /// How many fields have that name.
    #[must_use]
    pub fn count(&self, known: Known) -> usize {
        self.fields.count(known)
    }

    /// The values of all fields of that name.
    pub fn all<'a>(&self, bytes: &'a [u8], known: Known) -> impl Iterator<Item = &'a [u8]> {
        self.fields.all(bytes, known)
    }

    /// The fields `Mcp-Param-…`: the name after the prefix, as it was spelled, and the value, still encoded.
    pub fn params<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.fields.params(bytes)
    }
}

/// The head of an upstream's response. Meant to be reused, as [`RequestHead`] is.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// 100, 102 to 199, or 200 to 599.
    pub status: u16,
    /// Of the status line.
    pub version: Version,
    /// The fields.
    pub fields: Fields,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the upstream keeps the connection open, and the body's end is known without closing it.
    pub keep_alive: bool,
    /// Where the body, or after an interim head the next head, begins; valid once the head is complete.
    pub end: usize,
    cursor: Cursor,
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseHead {
    /// An empty head to parse into.
    #[must_use]
    pub fn new() -> Self {
        Self {
            status: 0,
            version: Version::Http11,
            fields: Fields::new(),
            framing: Framing::None,
            keep_alive: false,
            end: 0,
            cursor: Cursor::default(),
        }
    }

    /// Reads the head of the answer to a request with method `answer_to`, as [`RequestHead::parse`] does. An interim
    /// (1xx) head is reported like any other, with no body: the final one follows at `end`.
    ///
    /// # Errors
    /// What is wrong first; nothing of the head may then be used, and the connection must close.
    pub fn parse(&mut self, bytes: &[u8], answer_to: Method) -> Result<Progress, HeadFault> {
        let outcome = self.advance(bytes, answer_to);
        if outcome != Ok(Progress::Partial) {
            self.cursor = Cursor::default();
        }
        outcome
    }

    fn advance(&mut self, bytes: &[u8], answer_to: Method) -> Result<Progress, HeadFault> {
        if self.cursor.is_fresh() {
            self.fields.clear();
        }
        if !self.cursor.first_line_read {
            let Some(line_end) = self.cursor.read_first_line(bytes)? else {
                return Ok(Progress::Partial);
            };
            self.read_status_line(&bytes[..line_end])?;
        }
        let Some(end) = self.cursor.read_fields(bytes, &mut self.fields)? else {
            return Ok(Progress::Partial);
        };
        self.end = end;
        self.conclude(bytes, answer_to)?;
        Ok(Progress::Complete)
    }

    fn read_status_line(&mut self, line: &[u8]) -> Result<(), HeadFault> {
        let Some((version, rest)) = line.split_at_checked(8) else {
            return Err(HeadFault::StatusLineMalformed);
        };
        self.version = read_version(version)?;
        // Some servers leave out the space before an empty reason; no other reading of the line is possible.
        let [b' ', a, b, c, reason @ ..] = rest else {
            return Err(HeadFault::StatusLineMalformed);
        };
        if ![a, b, c].iter().all(|digit| digit.is_ascii_digit()) || !matches!(reason, [] | [b' ', ..]) {
            return Err(HeadFault::StatusLineMalformed);
        }
        self.status = [a, b, c].iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0'));
        match self.status {
            101 => Err(HeadFault::StatusRefused),
            100..=599 => Ok(()),
            _ => Err(HeadFault::StatusRefused),
        }
    }

    /// What only the whole head shows.
    fn conclude(&mut self, bytes: &[u8], answer_to: Method) -> Result<(), HeadFault> {
        let length = body_length(&self.fields, bytes, self.version)?;
        self.framing = match (self.status, length) {
            // RFC 9110 8.6 forbids even this, but a length of nothing contradicts nothing.
            (100..=199 | 204, None | Some(Framing::Length(0))) => Framing::None,
            (100..=199 | 204, Some(_)) => return Err(HeadFault::BodyForbidden),
            // What is announced here is the body of another answer.
            (304, _) => Framing::None,
            _ if answer_to == Method::Head => Framing::None,
            (_, None) => Framing::UntilClose,
            (_, Some(framing)) => framing,
        };
        let kept = read_connection(&self.fields, bytes, self.version)?;
        self.keep_alive = kept && self.framing != Framing::UntilClose;
        Ok(())
    }

    /// Whether the final head is still to come (RFC 9110 15.2).
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// The value of the first field of that name; `bytes` are those the head was parsed from, here and below.
    #[must_use]
    #[inline]
    pub fn get<'a>(&self, bytes: &'a [u8], known: Known) -> Option<&'a [u8]> {
        self.fields.get(bytes, known)
    }

    /// How many fields have that name.
    #[must_use]
    pub fn count(&self, known: Known) -> usize {
        self.fields.count(known)
    }

    /// The values of all fields of that name.
    pub fn all<'a>(&self, bytes: &'a [u8], known: Known) -> impl Iterator<Item = &'a [u8]> {
        self.fields.all(bytes, known)
    }
}

/// Where reading stopped for want of bytes. No byte is looked at twice, however small the pieces are that a head
/// comes in, but for a CR at the end of a piece.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// Start of the line that is being read.
    line: usize,
    /// Everything before this has been looked at.
    scanned: usize,
    /// Place of the colon of this line, once it is found, and the name before it.
    colon: Option<(usize, Option<Known>)>,
    first_line_read: bool,
    /// Host and port of an absolute target.
    authority: Option<Span>,
}

/// What `read_line` came to.
enum Line {
    Field,
    /// The empty line; the head ends here.
    Empty(usize),
    Partial,
}

impl Cursor {
    fn is_fresh(&self) -> bool {
        self.scanned == 0
    }

    /// The end of the first line without its line break.
    fn read_first_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadFault> {
        let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        let stop = field::value_end(window, self.scanned);
        self.scanned = stop.unwrap_or(window.len());
        if let Some(stop) = stop
            && is_line_end(window, stop)?
        {
            self.start_line(stop + 2);
            self.first_line_read = true;
            return Ok(Some(stop));
        }
        if bytes.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(HeadFault::HeadTooLong) }
    }

    /// Reads field lines to the end of the head, and says where that is.
    fn read_fields(&mut self, bytes: &[u8], fields: &mut Fields) -> Result<Option<usize>, HeadFault> {
        // Nothing beyond the bound is ever looked at, so the outcome does not depend on how much has come.
        let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        // Worked on as a copy, so that the compiler may keep it in registers.
        let mut cursor = *self;
        loop {
            match cursor.read_line(window, fields)? {
                Line::Field => {}
                Line::Empty(end) => return Ok(Some(end)),
                Line::Partial => break,
            }
        }
        *self = cursor;
        if bytes.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(HeadFault::HeadTooLong) }
    }

    #[inline(always)]
    fn read_line(&mut self, window: &[u8], fields: &mut Fields) -> Result<Line, HeadFault> {
        if self.colon.is_none() {
            if self.scanned == self.line && window.get(self.line) == Some(&b'\r') {
                let ended = is_line_end(window, self.line)?;
                return Ok(if ended { Line::Empty(self.line + 2) } else { Line::Partial });
            }
            self.read_name(window)?;
        }
        let Some((colon, known)) = self.colon else {
            return Ok(Line::Partial);
        };
        let stop = field::value_end(window, self.scanned);
        self.scanned = stop.unwrap_or(window.len());
        let Some(stop) = stop else {
            return Ok(Line::Partial);
        };
        if !is_line_end(window, stop)? {
            return Ok(Line::Partial);
        }
        let name = span(self.line, colon);
        let value = value_span(window, colon + 1, stop);
        if value.len() > FIELD_VALUE_BYTES_MAX {
            return Err(HeadFault::ValueTooLong);
        }
        if fields.len() == HEAD_FIELDS_MAX {
            return Err(HeadFault::FieldsTooMany);
        }
        fields.push(Field { name, value, known });
        self.start_line(stop + 2);
        Ok(Line::Field)
    }

    /// Reads a field name up to its colon, if that has come.
    #[inline(always)]
    fn read_name(&mut self, window: &[u8]) -> Result<(), HeadFault> {
        let stop = field::name_end(window, self.scanned);
        let end = stop.unwrap_or(window.len());
        let colon = end > self.line && window.get(end) == Some(&b':');
        let known = if colon { Known::of_printable(&window[self.line..end]) } else { None };
        // Known names are tokens; only others need to be looked at byte by byte.
        if known.is_none()
            && let Some(at) = window[self.scanned..end].iter().position(|byte| !field::is_token_byte(*byte))
        {
            return Err(name_fault(window[self.scanned + at], self.scanned + at == self.line));
        }
        match stop {
            Some(_) if colon => {
                self.colon = Some((end, known));
                self.scanned = end + 1;
            }
            Some(_) => return Err(name_fault(window[end], end == self.line)),
            None => self.scanned = end,
        }
        Ok(())
    }

    #[inline]
    fn start_line(&mut self, at: usize) {
        self.line = at;
        self.scanned = at;
        self.colon = None;
    }
}

/// The value between a colon and the end of its line, without white space around it.
#[inline]
fn value_span(window: &[u8], mut start: usize, mut end: usize) -> Span {
    while start < end && matches!(window[start], b' ' | b'\t') {
        start += 1;
    }
    while start < end && matches!(window[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    span(start, end)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "places in a head are below HEAD_BYTES_MAX")]
fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, end: end as u32 }
}

/// Whether a line ends at `at`, where a control stands; false when only the next byte can tell.
#[inline]
fn is_line_end(window: &[u8], at: usize) -> Result<bool, HeadFault> {
    match (window[at], window.get(at + 1)) {
        (b'\r', Some(b'\n')) => Ok(true),
        (b'\r', None) => Ok(false),
        (b'\r', Some(_)) => Err(HeadFault::BareCr),
        (b'\n', _) => Err(HeadFault::BareLf),
        (0, _) => Err(HeadFault::Nul),
        _ => Err(HeadFault::ControlByte),
    }
}

/// What it means that `byte` stands in a field name, or where one should begin.
#[cold]
fn name_fault(byte: u8, at_start: bool) -> HeadFault {
    match byte {
        b' ' | b'\t' if at_start => HeadFault::Folded,
        b' ' | b'\t' => HeadFault::SpaceBeforeColon,
        b':' => HeadFault::NameEmpty,
        b'\r' => HeadFault::ColonMissing,
        b'\n' => HeadFault::BareLf,
        0 => HeadFault::Nul,
        _ => HeadFault::NameMalformed,
    }
}

/// A request line that does not end is one with a long target, or with no target at all.
#[cold]
fn too_long_line(fault: HeadFault, bytes: &[u8]) -> HeadFault {
    match fault {
        HeadFault::HeadTooLong if bytes[..HEAD_BYTES_MAX].contains(&b' ') => HeadFault::TargetTooLong,
        HeadFault::HeadTooLong => HeadFault::MethodMalformed,
        other => other,
    }
}

#[inline]
fn read_version(text: &[u8]) -> Result<Version, HeadFault> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(HeadFault::VersionUnsupported)
        }
        _ => Err(HeadFault::VersionMalformed),
    }
}

/// The value of the one field of that name.
#[inline]
fn the_only(fields: &Fields, known: Known, repeated: HeadFault) -> Result<Option<Span>, HeadFault> {
    let Some(span) = fields.span(known) else {
        return Ok(None);
    };
    if fields.is_repeated(known) { Err(repeated) } else { Ok(Some(span)) }
}

/// The body length that the fields announce (RFC 9112 6.1-6.3), if they do.
fn body_length(fields: &Fields, bytes: &[u8], version: Version) -> Result<Option<Framing>, HeadFault> {
    let length = the_only(fields, Known::ContentLength, HeadFault::LengthRepeated)?;
    let coding = the_only(fields, Known::TransferEncoding, HeadFault::CodingRefused)?;
    match (length, coding) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(HeadFault::BothLengths),
        (Some(length), None) => read_length(length.of(bytes)).map(|length| Some(Framing::Length(length))),
        (None, Some(_)) if version == Version::Http10 => Err(HeadFault::CodingInHttp10),
        (None, Some(coding)) if coding.of(bytes).eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        (None, Some(_)) => Err(HeadFault::CodingRefused),
    }
}

/// 1 to 19 digits: what always fits 64 bits.
fn read_length(text: &[u8]) -> Result<u64, HeadFault> {
    if text.is_empty() || text.len() > 19 {
        return Err(HeadFault::LengthMalformed);
    }
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')).ok_or(HeadFault::LengthMalformed)
    })
}

/// Whether the peer keeps the connection (RFC 9112 9.3), and whether it may list what it lists.
fn read_connection(fields: &Fields, bytes: &[u8], version: Version) -> Result<bool, HeadFault> {
    let mut close = false;
    let mut keep = version == Version::Http11;
    for element in fields.all(bytes, Known::Connection).flat_map(field::elements) {
        if element.eq_ignore_ascii_case(b"keep-alive") {
            keep = true;
        } else if element.eq_ignore_ascii_case(b"close") {
            close = true;
        } else if element.is_empty() {
            // RFC 9110 5.6.1: empty elements count for nothing.
        } else if !field::is_token(element) {
            return Err(HeadFault::ConnectionMalformed);
        } else if field::is_protected(element) {
            return Err(HeadFault::ConnectionProtected);
        }
    }
    Ok(keep && !close)
}

#[cfg(test)]
mod tests {
    use super::HeadFault::*;
    use super::*;
    use proptest::prelude::*;

    /// What was understood of a request, on one line.
    fn request_words(head: &RequestHead, bytes: &[u8]) -> String {
        let text = |span: Span| String::from_utf8_lossy(span.of(bytes)).into_owned();
        let words = [
            Some(format!("{} {}", head.method.name(), text(head.path))),
            head.query.map(|query| format!("?{}", text(query))),
            (head.version == Version::Http10).then(|| "1.0".into()),
            Some(text(head.host)),
            (head.framing != Framing::None).then(|| format!("{:?}", head.framing)),
            (!head.keep_alive).then(|| "close".into()),
            head.expect_continue.then(|| "expects".into()),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn response_words(head: &ResponseHead) -> String {
        let close = if head.keep_alive { "" } else { " close" };
        format!("{} {:?}{close}", head.status, head.framing)
    }

    /// Reads `bytes` as they come in the given lengths; the outcome, everything understood, and where the head ended.
    fn request(
        bytes: &[u8],
        lengths: impl Iterator<Item = usize>,
    ) -> Result<Option<(String, String, usize)>, HeadFault> {
        let mut head = RequestHead::new();
        for length in lengths {
            if head.parse(&bytes[..length])? == Progress::Complete {
                return Ok(Some((request_words(&head, bytes), format!("{:?}", head.fields), head.end)));
            }
        }
        Ok(None)
    }

    fn response(
        bytes: &[u8],
        lengths: impl Iterator<Item = usize>,
    ) -> Result<Option<(String, String, usize)>, HeadFault> {
        let mut head = ResponseHead::new();
        for length in lengths {
            if head.parse(&bytes[..length], Method::Post)? == Progress::Complete {
                return Ok(Some((response_words(&head), format!("{:?}", head.fields), head.end)));
            }
        }
        Ok(None)
    }

    /// What `text` is read as, whole, cut in two at every byte, and byte by byte.
    fn read_request(text: &[u8]) -> Result<Option<String>, HeadFault> {
        let whole = request(text, std::iter::once(text.len()));
        for cut in 0..text.len() {
            assert_eq!(request(text, [cut, text.len()].into_iter()), whole, "cut at {cut}");
        }
        assert_eq!(request(text, 0..=text.len()), whole, "byte by byte");
        whole.map(|found| found.map(|found| found.0))
    }

    fn read_response(text: &[u8]) -> Result<Option<String>, HeadFault> {
        let whole = response(text, std::iter::once(text.len()));
        for cut in 0..text.len() {
            assert_eq!(response(text, [cut, text.len()].into_iter()), whole, "cut at {cut}");
        }
        assert_eq!(response(text, 0..=text.len()), whole, "byte by byte");
        whole.map(|found| found.map(|found| found.0))
    }

    /// `text` starts with a letter of its own kind: a request, or a response to a POST.
    #[track_caller]
    fn check(text: impl AsRef<[u8]>, want: Result<&str, HeadFault>) {
        let text = text.as_ref();
        let found = if text.starts_with(b"HTTP/") { read_response(text) } else { read_request(text) };
        let want = want.map(|words| Some(words.to_owned()));
        assert_eq!(found, want, "{:?}", String::from_utf8_lossy(text));
    }

    /// A POST with these field lines, after its `Host`.
    #[track_caller]
    fn check_post(fields: &str, want: Result<&str, HeadFault>) {
        let want = want.map(|words| format!("POST /mcp h{words}"));
        check(format!("POST /mcp HTTP/1.1\r\nHost: h\r\n{fields}\r\n"), want.as_deref().map_err(|fault| *fault));
    }

    #[track_caller]
    fn check_get(line: &str, want: Result<&str, HeadFault>) {
        check(format!("{line}\r\nHost: h:1\r\n\r\n"), want);
    }

    #[test]
    fn request_lines() {
        check_get("GET / HTTP/1.1", Ok("GET / h:1"));
        check_get("DELETE /a?b HTTP/1.0", Ok("DELETE /a ?b 1.0 h:1 close"));
        check_get("get / HTTP/1.1", Ok("OTHER / h:1"));
        check_get("TRACE / HTTP/1.1", Ok("TRACE / h:1"));
        check_get("HEAD / HTTP/1.1", Ok("HEAD / h:1"));
        check_get("OPTIONS * HTTP/1.1", Ok("OPTIONS  h:1"));
        check_get("CONNECT h:1 HTTP/1.1", Ok("CONNECT  h:1 close"));
        check_get("CONNECT g:1 HTTP/1.1", Err(HostDisagrees));
        check_get("GET http://H:1/a HTTP/1.1", Ok("GET /a h:1"));
        check_get("GET http://other/a HTTP/1.1", Err(HostDisagrees));
        check_get("GET http://u@h:1/a HTTP/1.1", Err(HostDisagrees));
        check_get("GET * HTTP/1.1", Err(TargetForm));
        check_get("GET /a/../b HTTP/1.1", Err(PathUnsafe));
        check_get("GET /a#b HTTP/1.1", Err(TargetMalformed));
        check_get("GET  / HTTP/1.1", Err(RequestLineMalformed));
        check_get("GET /a b HTTP/1.1", Err(VersionMalformed));
        check_get("GET / HTTP/1.1 ", Err(VersionMalformed));
        check_get("GET /", Err(RequestLineMalformed));
        check_get("GET", Err(RequestLineMalformed));
        check_get("GET HTTP/1.1", Err(RequestLineMalformed));
        check_get("GET\t/ HTTP/1.1", Err(MethodMalformed));
        check_get("G@T / HTTP/1.1", Err(MethodMalformed));
        check_get(" GET / HTTP/1.1", Err(MethodMalformed));
        check_get("", Err(MethodMalformed));
        check_get("\r\nGET / HTTP/1.1", Err(MethodMalformed));
        check_get("\x16\x03\x01", Err(MethodMalformed));
        check_get("GET / http/1.1", Err(VersionMalformed));
        check_get("GET / HTTP/1", Err(VersionMalformed));
        check_get("GET / HTTP/01.01", Err(VersionMalformed));
        check_get("GET / HTTP/ 1.1", Err(VersionMalformed));
        check_get("GET / HTTP/1.2", Err(VersionUnsupported));
        check_get("PRI * HTTP/2.0", Err(VersionUnsupported));
        check_get("GET /\0 HTTP/1.1", Err(Nul));
        check_get("GET /\x01 HTTP/1.1", Err(ControlByte));
        check_get("GET /\x7f HTTP/1.1", Err(ControlByte));
        check_get("GET / HTTP/1.1\rX: y", Err(BareCr));
        check_get("GET / HTTP/1.1\nX: y", Err(BareLf));
    }

    #[test]
    fn field_lines() {
        check_post("", Ok(""));
        check_post("A:\r\nB: \t \r\nC:\td e\t\r\nd!#$%&'*+-.^_`|~9: \u{e9}\r\n", Ok(""));
        check_post("A : b\r\n", Err(SpaceBeforeColon));
        check_post("A\t: b\r\n", Err(SpaceBeforeColon));
        check_post("A b: c\r\n", Err(SpaceBeforeColon));
        check_post(" A: b\r\n", Err(Folded));
        check_post("A: b\r\n c\r\n", Err(Folded));
        check_post("A: b\r\n\tc\r\n", Err(Folded));
        check_post("A: b\r\n \r\n", Err(Folded));
        check_post(": b\r\n", Err(NameEmpty));
        check_post("A\r\n", Err(ColonMissing));
        check_post("A[: b\r\n", Err(NameMalformed));
        check_post("caf\u{e9}: b\r\n", Err(NameMalformed));
        check_post("A\x0b: b\r\n", Err(NameMalformed));
        check_post("A\0: b\r\n", Err(Nul));
        check_post("A: b\0\r\n", Err(Nul));
        check_post("A: \x08b\r\n", Err(ControlByte));
        check_post("A: b\x7f\r\n", Err(ControlByte));
        check_post("A: b\rc\r\n", Err(BareCr));
        check_post("A: b\r\r\n", Err(BareCr));
        check_post("A: b\nC: d\r\n", Err(BareLf));
        check_post("A\n: b\r\n", Err(BareLf));
        check_post("\n", Err(BareLf));
        check_post("\rA: b\r\n", Err(BareCr));
    }

    #[test]
    fn hosts() {
        check("GET / HTTP/1.1\r\n\r\n", Err(HostMissing));
        check("GET / HTTP/1.0\r\n\r\n", Err(HostMissing));
        check("GET / HTTP/1.1\r\nHost:\r\n\r\n", Err(HostMalformed));
        check("GET / HTTP/1.1\r\nHost: h, g\r\n\r\n", Err(HostMalformed));
        check("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", Err(HostMalformed));
        check("GET / HTTP/1.1\r\nHost: h/p\r\n\r\n", Err(HostMalformed));
        check("GET / HTTP/1.1\r\nHost: \t[::1]:80 \r\n\r\n", Ok("GET / [::1]:80"));
        check_post("hOST: h\r\n", Err(HostRepeated));
    }

    #[test]
    fn request_framing() {
        check_post("Content-Length: 0\r\n", Ok(" Length(0)"));
        check_post("CONTENT-LENGTH:\t12 \r\n", Ok(" Length(12)"));
        check_post("content-length: 9999999999999999999\r\n", Ok(" Length(9999999999999999999)"));
        check_post("Transfer-Encoding: Chunked\r\n", Ok(" Chunked"));
        for length in ["", "+5", "-0", "0x5", "1_0", "5 5", "5, 5", "5,", "a", "10000000000000000000", "\u{665}"] {
            check_post(&format!("Content-Length: {length}\r\n"), Err(LengthMalformed));
        }
        check_post("Content-Length: 5\r\nContent-Length: 5\r\n", Err(LengthRepeated));
        check_post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(BothLengths));
        check_post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(BothLengths));
        for coding in [
            "",
            "identity",
            "gzip",
            "xchunked",
            "chunkedx",
            "chunked, chunked",
            "gzip, chunked",
            "chunked, gzip",
            ", chunked",
            "chunked,",
            "\"chunked\"",
            "chunked;a=b",
            "chunk ed",
        ] {
            check_post(&format!("Transfer-Encoding: {coding}\r\n"), Err(CodingRefused));
        }
        check_post("Transfer-Encoding: \x0bchunked\r\n", Err(ControlByte));
        check_post("Transfer-Encoding: chunked\0\r\n", Err(Nul));
        check_post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(CodingRefused));
        check_post("Transfer-Encoding:\r\n chunked\r\n", Err(Folded));
        check("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", Err(CodingInHttp10));
        // Names that only look like those two mean nothing.
        check_post("Content_Length: 5\r\nTransfer_Encoding: chunked\r\nX-Content-Length: 5\r\n", Ok(""));
    }

    #[test]
    fn connections() {
        check_post("Connection: keep-alive\r\n", Ok(""));
        check_post("Connection: Close\r\n", Ok(" close"));
        check_post("Connection: keep-alive\r\nConnection: x,, close\r\n", Ok(" close"));
        check_post("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n", Ok(""));
        check_post("Connection:\r\n", Ok(""));
        check("GET / HTTP/1.0\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n", Ok("GET / 1.0 h"));
        check("GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive, close\r\n\r\n", Ok("GET / 1.0 h close"));
        check_post("Connection: a b\r\n", Err(ConnectionMalformed));
        check_post("Connection: close; x\r\n", Err(ConnectionMalformed));
        for name in [
            "Authorization",
            "HOST",
            "mcp-session-id",
            "Mcp-Name",
            "Mcp-Param-Region",
            "Mcp-Anything",
            "Content-Type",
            "Origin",
            "Content-Length",
            "Transfer-Encoding",
            "Portcullis-Task",
            "traceparent",
        ] {
            check_post(&format!("Connection: close,\t{name}\r\n"), Err(ConnectionProtected));
        }
    }

    #[test]
    fn expectations() {
        check_post("Expect: 100-Continue\r\nContent-Length: 5\r\n", Ok(" Length(5) expects"));
        check_post("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", Ok(" Chunked expects"));
        check_post("Expect: 100-continue\r\nContent-Length: 0\r\n", Ok(" Length(0)"));
        check_post("Expect: 100-continue\r\n", Ok(""));
        check(
            "POST / HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            Ok("POST / 1.0 h Length(5) close"),
        );
        check_post("Expect: 200-ok\r\n", Err(ExpectationUnknown));
        check_post("Expect:\r\n", Err(ExpectationUnknown));
        check_post("Expect: 100-continue\r\nExpect: x\r\n", Err(ExpectationUnknown));
    }

    #[test]
    fn responses() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Ok("200 Length(3)"));
        check("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Ok("200 Chunked"));
        check("HTTP/1.1 599 \u{e9}\r\n\r\n", Ok("599 UntilClose close"));
        check("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Ok("200 Length(3) close"));
        check("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n", Ok("200 Length(3)"));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", Ok("200 Length(3) close"));
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok("100 None"));
        check("HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n", Ok("204 None"));
        check("HTTP/1.1 304 \r\nContent-Length: 7\r\n\r\n", Ok("304 None"));
        check("HTTP/1.1 204 \r\nContent-Length: 1\r\n\r\n", Err(BodyForbidden));
        check("HTTP/1.1 103 \r\nTransfer-Encoding: chunked\r\n\r\n", Err(BodyForbidden));
        check("HTTP/1.1 101 Switching Protocols\r\n\r\n", Err(StatusRefused));
        check("HTTP/1.1 099 x\r\n\r\n", Err(StatusRefused));
        check("HTTP/1.1 600 x\r\n\r\n", Err(StatusRefused));
        for line in
            ["HTTP/1.1", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1  200", "HTTP/1.1 2x0 OK", "HTTP/1.1 200\tOK"]
        {
            check(format!("{line}\r\n\r\n"), Err(StatusLineMalformed));
        }
        check("HTTP/2.0 200 OK\r\n\r\n", Err(VersionUnsupported));
        check("HTTP/1.10200 OK\r\n\r\n", Err(StatusLineMalformed));
        check("HTTP/1.1 200 OK\n\r\n", Err(BareLf));
        check("HTTP/1.1 200 OK\r\nA: b\n\r\n", Err(BareLf));
        check("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Err(Folded));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Err(LengthRepeated));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n", Err(LengthMalformed));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Err(BothLengths));
        check("HTTP/1.1 304 \r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Err(BothLengths));
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(CodingRefused));
        check("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err(CodingInHttp10));
        check("HTTP/1.1 200 OK\r\nConnection: mcp-session-id\r\n\r\n", Err(ConnectionProtected));
        assert_eq!(response(b"ICY 200 OK\r\n\r\n", [14].into_iter()), Err(VersionMalformed));

        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        let mut head = ResponseHead::new();
        assert_eq!(head.parse(text, Method::Head), Ok(Progress::Complete));
        assert_eq!((head.framing, head.keep_alive, head.is_interim()), (Framing::None, true, false));
    }

    #[test]
    fn bounds() {
        let whole = |text: &str| request(text.as_bytes(), std::iter::once(text.len())).map(|found| found.is_some());
        let stepped = |text: &str| request(text.as_bytes(), 0..=text.len()).map(|found| found.is_some());
        let both = |text: String, want: Result<bool, HeadFault>| {
            assert_eq!(whole(&text), want);
            assert_eq!(stepped(&text), want);
        };
        let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(length - 1));
        both(target(7_901), Ok(true));
        both(target(FIELD_VALUE_BYTES_MAX), Ok(true));
        both(target(FIELD_VALUE_BYTES_MAX + 1), Err(TargetTooLong));
        both(target(100_000), Err(TargetTooLong));
        both("A".repeat(100_000), Err(MethodMalformed));

        let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        both(post(&"a: b\r\n".repeat(HEAD_FIELDS_MAX - 1)), Ok(true));
        both(post(&"a: b\r\n".repeat(HEAD_FIELDS_MAX)), Err(FieldsTooMany));
        both(post(&format!("a: {}\r\n", "b".repeat(FIELD_VALUE_BYTES_MAX))), Ok(true));
        both(post(&format!("a: {}\r\n", "b".repeat(FIELD_VALUE_BYTES_MAX + 1))), Err(ValueTooLong));
        both(post(&format!("a: {}\r\n", "b".repeat(100_000))), Err(HeadTooLong));
        both(post(&format!("{}: b\r\n", "a".repeat(100_000))), Err(HeadTooLong));

        // To the byte, whatever byte the bound falls on.
        let filler = |length: usize| {
            let one = format!("a: {}\r\n", "b".repeat(8_000)).repeat(2);
            let rest = length - post(&one).len() - "a: \r\n".len();
            post(&format!("{one}a: {}\r\n", "b".repeat(rest)))
        };
        for over in 0..6 {
            let text = filler(HEAD_BYTES_MAX + over);
            assert_eq!(text.len(), HEAD_BYTES_MAX + over);
            both(text, if over == 0 { Ok(true) } else { Err(HeadTooLong) });
        }
    }

    #[test]
    fn one_head_reads_many() {
        let mut head = RequestHead::new();
        let first =
            b"POST /a?b HTTP/1.1\r\nHost: h\r\nMcp-Name: n\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        let second = b"GET /c HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n";
        for _ in 0..3 {
            assert_eq!(head.parse(&first[..30]), Ok(Progress::Partial));
            assert_eq!(head.parse(first), Ok(Progress::Complete));
            assert_eq!(request_words(&head, first), "POST /a ?b h Length(5) expects");
            assert_eq!(head.parse(b"GET / HTTP/1.1\r\nHost: h\r\nno"), Ok(Progress::Partial));
            assert_eq!(head.parse(b"GET / HTTP/1.1\r\nHost: h\r\nno\r\n"), Err(ColonMissing));
            assert_eq!(head.parse(b"GET http://h/ HTTP/1.1\r\nHost: g\r\n\r\n"), Err(HostDisagrees));
            assert_eq!(head.parse(second), Ok(Progress::Complete));
            assert_eq!(request_words(&head, second), "GET /c g close");
            assert_eq!(head.get(second, Known::McpName), None);
        }
    }

    #[test]
    fn fields_by_name() {
        let text =
            b"POST / HTTP/1.1\r\nHost: h\r\nMcp-Name: a\r\nMCP-PARAM-Region: eu\r\nmcp-name: b\r\nMcp-Param-N: \r\n\
            Connection: X-One\r\nX-One: 1\r\nKeep-Alive: 5\r\n\r\n";
        let mut head = RequestHead::new();
        assert_eq!(head.parse(text), Ok(Progress::Complete));
        assert_eq!(head.get(text, Known::McpName), Some(&b"a"[..]));
        assert_eq!(head.all(text, Known::McpName).collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!((head.count(Known::McpName), head.count(Known::Host), head.count(Known::Origin)), (2, 1, 0));
        assert_eq!(head.get(text, Known::Origin), None);
        assert_eq!(head.all(text, Known::Origin).count(), 0);
        assert_eq!(head.params(text).collect::<Vec<_>>(), [(&b"Region"[..], &b"eu"[..]), (b"N", b"")]);
        let hops = head.fields.iter().filter(|field| head.fields.is_hop_by_hop(text, field));
        let names: Vec<_> = hops.map(|field| std::str::from_utf8(field.name.of(text)).unwrap()).collect();
        assert_eq!(names, ["Connection", "X-One", "Keep-Alive"]);
        assert_eq!(head.fields[3].name.of(text), b"mcp-name");
    }

    fn bytes_of_heads() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            &b"GET / HTTP/1.1\r\n"[..],
            b"HTTP/1.1 200 OK\r\n",
            b"Host: h\r\n",
            b"Content-Length: 5\r\n",
            b"A: b\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"Connection",
            b"Expect: 100-continue\r\n",
            b": ",
            b"\r\n",
            b"\r",
            b"\n",
            b" ",
            b"\t",
            b":",
            b"\0",
            b"a",
            b",",
            b"\x7f",
            b"\xff",
            b"GET ",
            b"/",
            b"HTTP/1.1",
            b"\r\n\r\n",
        ]);
        prop_oneof![
            1 => prop::collection::vec(word.clone(), 0..20).prop_map(|words| words.concat()),
            3 => (any::<bool>(), prop::collection::vec(word, 0..12)).prop_map(|(request, words)| {
                let line = if request { &b"POST /mcp HTTP/1.1\r\nHost: h\r\n"[..] } else { b"HTTP/1.1 200 OK\r\n" };
                [line, &words.concat(), b"\r\n\r\n"].concat()
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn a_cut_anywhere_changes_nothing(bytes in bytes_of_heads()) {
            // Both compare the cut readings with the whole one.
            let _ = read_request(&bytes);
            let _ = read_response(&bytes);
        }

        #[test]
        fn what_is_accepted_is_as_strict_as_it_says(bytes in bytes_of_heads()) {
            let mut head = RequestHead::new();
            if head.parse(&bytes) == Ok(Progress::Complete) {
                let text = &bytes[..head.end];
                prop_assert!(text.ends_with(b"\r\n\r\n"));
                for (at, byte) in text.iter().enumerate() {
                    match byte {
                        b'\r' => prop_assert_eq!(text.get(at + 1), Some(&b'\n')),
                        b'\n' => prop_assert_eq!(text.get(at.wrapping_sub(1)), Some(&b'\r')),
                        _ => prop_assert!(*byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)),
                    }
                }
                let both = head.count(Known::ContentLength) + head.count(Known::TransferEncoding);
                prop_assert!(both <= 1 && head.count(Known::Host) == 1);
                prop_assert_eq!(both == 0, head.framing == Framing::None);
                prop_assert!(head.framing != Framing::UntilClose);
            }
        }
    }
}
