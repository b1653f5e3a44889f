//! The writing of heads, without formatting machinery: responses to clients, requests to upstreams.

use super::field::{self, Known};
use super::head::{Framing, Method};

/// What cannot be written as part of a head, because it would be read as something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WriteFault {
    /// A field name that is no token.
    #[error("field name is no token")]
    Name,
    /// A field value with a control in it, CR, LF or NUL above all.
    #[error("control byte in a field value")]
    Value,
    /// A request target with white space or a control in it, or none at all.
    #[error("malformed request target")]
    Target,
}

/// Appends the status line of a response.
pub fn write_status(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the request line.
///
/// # Errors
/// `Target` when `target` could not be told from the rest of the line; nothing is written then.
pub fn write_request_line(out: &mut Vec<u8>, method: Method, target: &[u8]) -> Result<(), WriteFault> {
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(WriteFault::Target);
    }
    out.extend_from_slice(method.name().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    Ok(())
}

/// Appends one field line.
///
/// # Errors
/// `Name` or `Value` when the line would not be read as that field; nothing is written then.
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), WriteFault> {
    if !field::is_token(name.as_bytes()) {
        return Err(WriteFault::Name);
    }
    if !field::is_value(value) {
        return Err(WriteFault::Value);
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends one field line, with a name that needs no look.
///
/// # Errors
/// `Value` when the line would not be read as that field; nothing is written then.
#[inline]
pub fn write_known(out: &mut Vec<u8>, known: Known, value: &[u8]) -> Result<(), WriteFault> {
    if !field::is_value(value) {
        return Err(WriteFault::Value);
    }
    let begin = known.line().as_bytes();
    out.reserve(begin.len() + value.len() + 2);
    out.extend_from_slice(begin);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends one field line with a number as its value.
///
/// # Errors
/// `Name` when `name` is no token; nothing is written then.
pub fn write_number(out: &mut Vec<u8>, name: &str, value: u64) -> Result<(), WriteFault> {
    write_field(out, name, itoa::Buffer::new().format(value).as_bytes())
}

/// Appends what announces the body, and the empty line: the head is done. `None` announces nothing, as it must be in
/// answers that have no body by their status; `UntilClose` says that the connection closes.
pub fn finish(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None => out.extend_from_slice(b"\r\n"),
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
        Framing::UntilClose => out.extend_from_slice(b"connection: close\r\n\r\n"),
    }
}

/// The reason phrase of a status (RFC 9110 15, RFC 6585); empty for one that is not in the table.
#[must_use]
pub fn reason(status: u16) -> &'static str {
    REASONS.binary_search_by_key(&status, |row| row.0).map_or("", |row| REASONS[row].1)
}

/// Sorted by status.
const REASONS: &[(u16, &str)] = &[
    (100, "Continue"),
    (200, "OK"),
    (201, "Created"),
    (202, "Accepted"),
    (204, "No Content"),
    (206, "Partial Content"),
    (301, "Moved Permanently"),
    (302, "Found"),
    (303, "See Other"),
    (304, "Not Modified"),
    (307, "Temporary Redirect"),
    (308, "Permanent Redirect"),
    (400, "Bad Request"),
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
    (406, "Not Acceptable"),
    (408, "Request Timeout"),
    (409, "Conflict"),
    (410, "Gone"),
    (411, "Length Required"),
    (413, "Content Too Large"),
    (414, "URI Too Long"),
    (415, "Unsupported Media Type"),
    (417, "Expectation Failed"),
    (421, "Misdirected Request"),
    (422, "Unprocessable Content"),
    (429, "Too Many Requests"),
    (431, "Request Header Fields Too Large"),
    (500, "Internal Server Error"),
    (501, "Not Implemented"),
    (502, "Bad Gateway"),
    (503, "Service Unavailable"),
    (504, "Gateway Timeout"),
    (505, "HTTP Version Not Supported"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::field::Known;
    use crate::http::head::{Progress, RequestHead, ResponseHead};
    use proptest::prelude::*;

    #[test]
    fn reasons_are_sorted() {
        assert!(REASONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!((reason(200), reason(431), reason(299)), ("OK", "Request Header Fields Too Large", ""));
    }

    #[test]
    fn a_whole_head() {
        let mut out = Vec::new();
        write_status(&mut out, 202);
        write_field(&mut out, "Content-Type", b"application/json").unwrap();
        write_number(&mut out, "retry-after", 30).unwrap();
        finish(&mut out, Framing::Length(0));
        let want =
            "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    /// [H19] A value or a target cannot become a second line of a head that we write.
    #[test]
    fn nothing_else_can_be_written_than_what_was_meant() {
        let mut out = Vec::new();
        for value in ["a\r\nb: c", "a\nb", "a\rb", "a\0", "\u{7f}"] {
            assert_eq!(write_field(&mut out, "x", value.as_bytes()), Err(WriteFault::Value));
        }
        for name in ["", "a b", "a:", "a\r\nb", "caf\u{e9}"] {
            assert_eq!(write_field(&mut out, name, b"v"), Err(WriteFault::Name));
        }
        for target in ["", "/a b", "/a\r\nb", "/caf\u{e9}"] {
            assert_eq!(write_request_line(&mut out, Method::Post, target.as_bytes()), Err(WriteFault::Target));
        }
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            status in 200_u16..600,
            value in "[ -~\t\u{80}-\u{ff}]{0,60}",
            framing in prop_oneof![Just(Framing::Chunked), Just(Framing::UntilClose), any::<u64>().prop_map(|length| {
                Framing::Length(length % 10_u64.pow(19))
            })],
        ) {
            prop_assume!(status != 204 && status != 304);
            let mut out = Vec::new();
            write_status(&mut out, status);
            write_field(&mut out, "mcp-session-id", value.as_bytes()).unwrap();
            finish(&mut out, framing);
            let mut head = ResponseHead::new();
            prop_assert_eq!(head.parse(&out, Method::Post), Ok(Progress::Complete));
            prop_assert_eq!((head.status, head.framing, head.end), (status, framing, out.len()));
            let want = value.trim_matches([' ', '\t']);
            prop_assert_eq!(head.get(&out, Known::McpSessionId), Some(want.as_bytes()));

            let mut out = Vec::new();
            write_request_line(&mut out, Method::Delete, b"/mcp?a").unwrap();
            write_field(&mut out, "host", b"h").unwrap();
            finish(&mut out, Framing::None);
            let mut head = RequestHead::new();
            prop_assert_eq!(head.parse(&out), Ok(Progress::Complete));
            prop_assert_eq!((head.method, head.path.of(&out)), (Method::Delete, &b"/mcp"[..]));
        }
    }
}
