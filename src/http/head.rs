//! Request and response heads, read from bytes into spans (RFC 9112 2-6). A head is read in one pass that may stop at
//! any byte and go on when more have come; what is wrong is found at the byte where it is wrong. Anything that two
//! parties could read in two ways is refused here.

use super::field::{self, Field, Fields, Known};
use super::opening::Opening;
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
    /// HTTP/1.0: knows no chunks. A request's connection ends with its answer; a response may say `keep-alive`.
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
    /// `Content-Length` is not 1 to 19 digits with at most spaces around them.
    #[error("malformed Content-Length")]
    LengthMalformed,
    /// `Transfer-Encoding` is not exactly one `chunked` with at most spaces around it.
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
    /// Of the request line; GET until that is read, also after a fault in it.
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
    opening: Opening<RequestLine>,
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
            opening: Opening::none(),
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
        if outcome.is_err() {
            self.opening.forget();
        }
        outcome
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<Progress, HeadFault> {
        if self.cursor.begins() && !self.reopen(bytes) {
            self.fields.clear();
            // Whoever answers a head that is wrong must not take the last one's method for this one's: the answer to a
            // HEAD has no body.
            self.method = Method::default();
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
        if self.cursor.reopened.is_none() {
            self.keep_opening(bytes);
        }
        Ok(Progress::Complete)
    }

    /// Takes over what the last head began with, where this one begins so too.
    fn reopen(&mut self, bytes: &[u8]) -> bool {
        let Some((end, line)) = self.opening.reopen(bytes, &mut self.fields) else { return false };
        RequestLine {
            method: self.method,
            version: self.version,
            target: self.target,
            path: self.path,
            query: self.query,
        } = line;
        self.cursor.reopen(end);
        true
    }

    fn keep_opening(&mut self, bytes: &[u8]) {
        if self.cursor.authority.is_some() {
            // Whether it agrees with `Host` is found out at the end.
            return self.opening.forget();
        }
        let Self { method, version, target, path, query, .. } = *self;
        let line = RequestLine { method, version, target, path, query };
        self.opening.keep(bytes, self.end, &self.fields, line);
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
        if self.cursor.reopened.is_none_or(|opening| self.host.end as usize > opening) {
            target::check_host(host)?;
        }
        if let Some(authority) = self.cursor.authority
            && !authority.of(bytes).eq_ignore_ascii_case(host)
        {
            return Err(HeadFault::HostDisagrees);
        }
        self.framing = body_length(&self.fields, bytes, self.version)?.unwrap_or(Framing::None);
        let kept = read_connection(&self.fields, bytes, self.version)?;
        // What follows the head of a CONNECT is nobody's request. An HTTP/1.0 client takes a connection for kept only if
        // the answer says so (RFC 9112 C.2.2), which ours never do.
        self.keep_alive = kept && self.method != Method::Connect && self.version == Version::Http11;
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

/// What a request line says.
#[derive(Clone, Copy, Debug, Default)]
struct RequestLine {
    method: Method,
    version: Version,
    target: Span,
    path: Span,
    query: Option<Span>,
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
    /// With the status.
    opening: Opening<(u16, Version)>,
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
            opening: Opening::none(),
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
        if outcome.is_err() {
            self.opening.forget();
        }
        outcome
    }

    fn advance(&mut self, bytes: &[u8], answer_to: Method) -> Result<Progress, HeadFault> {
        if self.cursor.begins() {
            if let Some((end, line)) = self.opening.reopen(bytes, &mut self.fields) {
                (self.status, self.version) = line;
                self.cursor.reopen(end);
            } else {
                self.fields.clear();
            }
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
        if self.cursor.reopened.is_none() {
            self.opening.keep(bytes, end, &self.fields, (self.status, self.version));
        }
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
    begun: bool,
    /// Start of the line that is being read.
    line: usize,
    /// Everything before this has been looked at.
    scanned: usize,
    /// Place of the colon of this line, once it is found, and the name before it.
    colon: Option<(usize, Option<Known>)>,
    first_line_read: bool,
    /// Host and port of an absolute target.
    authority: Option<Span>,
    /// How many bytes were taken over from the last head.
    reopened: Option<usize>,
}

/// What `read_line` came to.
enum Line {
    Field,
    /// The empty line; the head ends here.
    Empty(usize),
    Partial,
}

impl Cursor {
    /// Whether a new head begins, which it does once.
    fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }

    /// Goes on at `end`: what comes before was taken over.
    fn reopen(&mut self, end: usize) {
        (self.line, self.scanned, self.first_line_read, self.reopened) = (end, end, true, Some(end));
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
            if cursor.scanned == cursor.line {
                let next = usual_lines(window, cursor.line, fields);
                cursor.start_line(next);
            }
            match cursor.read_line(window, fields)? {
                Line::Field => {}
                Line::Empty(end) => return Ok(Some(end)),
                Line::Partial => break,
            }
        }
        *self = cursor;
        if bytes.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(HeadFault::HeadTooLong) }
    }

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
    fn read_name(&mut self, window: &[u8]) -> Result<(), HeadFault> {
        let stop = field::name_end(window, self.scanned);
        let end = stop.unwrap_or(window.len());
        let colon = end > self.line && window.get(end) == Some(&b':');
        let known = if colon { Known::of(&window[self.line..end]) } else { None };
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

/// Reads lines as nearly everybody writes them, from the one that starts at `at` on, and says where the first one
/// starts that needs more care.
fn usual_lines(window: &[u8], at: usize, fields: &mut Fields) -> usize {
    let mut at = at;
    while let Some(rest) = window.get(at..)
        && fields.len() < HEAD_FIELDS_MAX
        && let Some((known, colon, end)) = usual_line(rest)
    {
        fields.push(Field { name: span(at, at + colon), value: span(at + colon + 2, at + end), known: Some(known) });
        at += end + 2;
    }
    at
}

/// What the line at the start of `text` says, if it is all there: a known name, a colon, one space, a value, CR and LF.
/// The places of the colon and of the CR.
#[inline(always)]
fn usual_line(text: &[u8]) -> Option<(Known, usize, usize)> {
    if text.first() == Some(&b'\r') {
        return None;
    }
    let colon = field::colon(text)?;
    let known = Known::of(text.get(..colon)?)?;
    let [b':', b' ', behind @ ..] = text.get(colon..)? else { return None };
    let end = field::value_end(behind, 0)?;
    let (value, [b'\r', b'\n', ..]) = behind.split_at_checked(end)? else { return None };
    let (first, last) = (value.first()?, value.last()?);
    let bare = !matches!(first, b' ' | b'\t') && !matches!(last, b' ' | b'\t');
    (bare && end <= FIELD_VALUE_BYTES_MAX).then_some((known, colon, colon + 2 + end))
}

/// The value between a colon and the end of its line, without white space around it.
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
        (Some(length), None) if !spaced(bytes, length) => Err(HeadFault::LengthMalformed),
        (Some(length), None) => read_length(length.of(bytes)).map(|length| Some(Framing::Length(length))),
        (None, Some(_)) if version == Version::Http10 => Err(HeadFault::CodingInHttp10),
        (None, Some(coding)) if !spaced(bytes, coding) => Err(HeadFault::CodingRefused),
        (None, Some(coding)) if coding.of(bytes).eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        (None, Some(_)) => Err(HeadFault::CodingRefused),
    }
}

/// Whether nothing but spaces stands between a value and its colon, and between it and the end of its line. A tab is as
/// good by RFC 9110 5.5, but parsers that do not strip it read another value, or none: where a body ends must not
/// depend on that.
#[inline]
fn spaced(bytes: &[u8], value: Span) -> bool {
    let (before, behind) = (&bytes[..value.start as usize], &bytes[value.end as usize..]);
    // As nearly everybody writes it.
    if matches!((before, behind), ([.., b':', b' '], [b'\r', ..])) { true } else { spaced_oddly(before, behind) }
}

#[cold]
fn spaced_oddly(before: &[u8], behind: &[u8]) -> bool {
    let before = before.iter().rfind(|byte| **byte != b' ');
    let behind = behind.iter().find(|byte| **byte != b' ');
    before == Some(&b':') && behind == Some(&b'\r')
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
mod tests;
