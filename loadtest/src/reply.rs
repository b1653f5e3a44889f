//! An HTTP answer, read piece by piece.

use std::fmt;

const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: u64 = 64 << 20;
const FIELDS_MAX: usize = 64;
/// The longest line in front of a chunk: its length, and extensions nobody sends.
const CHUNK_LINE_MAX: usize = 256;

/// What the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Events,
    Other,
}

/// Why the bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyFault {
    Head,
    HeadTooLong,
    /// Neither a length nor chunks, or both.
    Framing,
    BodyTooLong,
    Chunk,
    /// Bytes behind the answer that nobody asked for.
    Unasked,
}

/// Reads one answer after the other from the same connection.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    raw: Vec<u8>,
    head: Option<Head>,
    chunks: Chunks,
    done: bool,
}

#[derive(Debug)]
struct Head {
    status: u16,
    kind: Kind,
    session: Option<String>,
    close: bool,
    /// Where the body starts.
    end: usize,
    /// `None`: in chunks.
    length: Option<usize>,
}

#[derive(Debug, Default)]
struct Chunks {
    body: Vec<u8>,
    /// Read up to here.
    at: usize,
    /// Bytes left of the chunk at `at`.
    left: usize,
    /// The line break behind a chunk is still to come.
    inside: bool,
    /// The empty chunk was seen; fields and an empty line are to come.
    last: bool,
}

impl Reader {
    /// Where to put what arrives.
    pub(crate) fn input(&mut self) -> &mut Vec<u8> {
        &mut self.raw
    }

    /// Takes in what has arrived; `true` when the answer is whole.
    pub(crate) fn advance(&mut self) -> Result<bool, ReplyFault> {
        if self.head.is_none() {
            self.head = parse(&self.raw)?;
            self.chunks.at = self.head.as_ref().map_or(0, |head| head.end);
        }
        let Some(head) = &self.head else { return Ok(false) };
        let end = match head.length {
            Some(length) => Some(head.end + length).filter(|end| *end <= self.raw.len()),
            None => self.chunks.advance(&self.raw)?,
        };
        let Some(end) = end else { return Ok(false) };
        if self.raw.len() > end {
            return Err(ReplyFault::Unasked);
        }
        self.done = true;
        Ok(true)
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.as_ref().map_or(0, |head| head.status)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.head.as_ref().map_or(Kind::Other, |head| head.kind)
    }

    /// The field `Mcp-Session-Id`.
    pub(crate) fn session(&self) -> Option<&str> {
        self.head.as_ref()?.session.as_deref()
    }

    /// Whether the connection ends with this answer.
    pub(crate) fn closes(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.close)
    }

    /// The whole body; empty before the answer is whole.
    pub(crate) fn body(&self) -> &[u8] {
        match &self.head {
            Some(Head { length: Some(length), end, .. }) if self.done => &self.raw[*end..end + length],
            Some(Head { length: None, .. }) if self.done => &self.chunks.body,
            _ => &[],
        }
    }

    /// Makes ready for the next answer.
    pub(crate) fn clear(&mut self) {
        self.raw.clear();
        self.head = None;
        self.done = false;
        let mut body = std::mem::take(&mut self.chunks.body);
        body.clear();
        self.chunks = Chunks { body, ..Chunks::default() };
    }
}

impl Chunks {
    /// Where the body ends, once it does.
    fn advance(&mut self, raw: &[u8]) -> Result<Option<usize>, ReplyFault> {
        loop {
            if self.left > 0 {
                let take = self.left.min(raw.len() - self.at);
                self.body.extend_from_slice(&raw[self.at..self.at + take]);
                self.at += take;
                self.left -= take;
                if self.left > 0 {
                    return Ok(None);
                }
                self.inside = true;
            }
            let Some(line) = memchr::memmem::find(&raw[self.at..], b"\r\n") else {
                return if raw.len() - self.at > CHUNK_LINE_MAX { Err(ReplyFault::Chunk) } else { Ok(None) };
            };
            let text = &raw[self.at..self.at + line];
            self.at += line + 2;
            if self.inside {
                if !text.is_empty() {
                    return Err(ReplyFault::Chunk);
                }
                self.inside = false;
            } else if self.last {
                // Fields behind the body, up to an empty line.
                if text.is_empty() {
                    return Ok(Some(self.at));
                }
            } else {
                self.left = chunk_length(text)?;
                self.last = self.left == 0;
                if (self.body.len() + self.left) as u64 > BODY_BYTES_MAX {
                    return Err(ReplyFault::BodyTooLong);
                }
            }
        }
    }
}

impl fmt::Display for ReplyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "the answer's head is not HTTP/1.1",
            Self::HeadTooLong => "the answer's head is too long",
            Self::Framing => "the answer has neither a length nor chunks, or both",
            Self::BodyTooLong => "the answer is too long",
            Self::Chunk => "the answer's chunks are broken",
            Self::Unasked => "bytes behind the answer that nobody asked for",
        })
    }
}

impl std::error::Error for ReplyFault {}

fn parse(raw: &[u8]) -> Result<Option<Head>, ReplyFault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let end = match response.parse(raw).map_err(|_| ReplyFault::Head)? {
        httparse::Status::Complete(end) => end,
        httparse::Status::Partial if raw.len() > HEAD_BYTES_MAX => return Err(ReplyFault::HeadTooLong),
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.ok_or(ReplyFault::Head)?;
    let mut head =
        Head { status, kind: Kind::Other, session: None, close: response.version != Some(1), end, length: None };
    let mut chunked = false;
    for field in response.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let text = std::str::from_utf8(field.value).unwrap_or_default();
        if is("content-length") {
            let length: u64 = text.parse().map_err(|_| ReplyFault::Framing)?;
            if length > BODY_BYTES_MAX {
                return Err(ReplyFault::BodyTooLong);
            }
            head.length = Some(usize::try_from(length).map_err(|_| ReplyFault::BodyTooLong)?);
        } else if is("transfer-encoding") {
            chunked = text.eq_ignore_ascii_case("chunked");
        } else if is("content-type") {
            head.kind = kind(text);
        } else if is("mcp-session-id") {
            head.session = Some(text.to_owned());
        } else if is("connection") {
            head.close |= text.eq_ignore_ascii_case("close");
        }
    }
    if matches!(status, 204 | 304) && head.length.is_none() && !chunked {
        head.length = Some(0);
    }
    if chunked == head.length.is_some() {
        return Err(ReplyFault::Framing);
    }
    Ok(Some(head))
}

fn kind(content_type: &str) -> Kind {
    match content_type.split(';').next().map(str::trim) {
        Some("application/json") => Kind::Json,
        Some("text/event-stream") => Kind::Events,
        _ => Kind::Other,
    }
}

fn chunk_length(line: &[u8]) -> Result<usize, ReplyFault> {
    let text = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| ReplyFault::Chunk)?.trim();
    if text.is_empty() || text.len() > 8 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ReplyFault::Chunk);
    }
    usize::from_str_radix(text, 16).map_err(|_| ReplyFault::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same whether it arrives at once or byte by byte.
    #[track_caller]
    fn check(input: &str, want: Result<Option<(u16, Kind, &str)>, ReplyFault>) {
        for step in [1, input.len()] {
            let mut reader = Reader::default();
            let mut have = Ok(false);
            for piece in input.as_bytes().chunks(step) {
                reader.input().extend_from_slice(piece);
                have = reader.advance();
                if have.is_err() {
                    break;
                }
            }
            let have = have.map(|done| {
                done.then(|| (reader.status(), reader.kind(), std::str::from_utf8(reader.body()).expect("ASCII")))
            });
            assert_eq!(have, want, "in steps of {step}");
        }
    }

    #[test]
    fn lengths() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n";
        check(&format!("{head}{{}}"), Ok(Some((200, Kind::Json, "{}"))));
        check(&format!("{head}{{"), Ok(None));
        check(&format!("{head}{{}}x"), Err(ReplyFault::Unasked));
        check("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", Ok(Some((202, Kind::Other, ""))));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok(Some((204, Kind::Other, ""))));
    }

    #[test]
    fn chunks() {
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(
            &format!("{head}3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"),
            Ok(Some((200, Kind::Events, "abc0123456789"))),
        );
        check(&format!("{head}3\r\nabc\r\n0\r\nX: y\r\n\r\n"), Ok(Some((200, Kind::Events, "abc"))));
        check(&format!("{head}3\r\nabc\r\n"), Ok(None));
        check(&format!("{head}3\r\nabcd\r\n0\r\n\r\n"), Err(ReplyFault::Chunk));
        check(&format!("{head}x\r\n"), Err(ReplyFault::Chunk));
    }

    #[test]
    fn faults() {
        check("HTTP/1.1 200 OK\r\n\r\n", Err(ReplyFault::Framing));
        check("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", Err(ReplyFault::Framing));
        check("SSH-2.0-x\r\n\r\n", Err(ReplyFault::Head));
    }

    #[test]
    fn a_reader_is_used_again() {
        let mut reader = Reader::default();
        for body in ["ab", "c"] {
            let bytes = format!(
                "HTTP/1.1 200 OK\r\nMcp-Session-Id: {body}\r\nConnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            reader.input().extend_from_slice(bytes.as_bytes());
            assert_eq!(reader.advance(), Ok(true));
            assert_eq!((reader.body(), reader.session(), reader.closes()), (body.as_bytes(), Some(body), true));
            reader.clear();
            assert!(reader.input().is_empty() && reader.body().is_empty());
        }
    }
}
