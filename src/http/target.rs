//! What may stand in a request target and in `Host`. Everything here is stricter than RFC 3986: a path that two
//! parties could read in two ways is refused, so that policy, routing and logs mean the same one.

use super::head::{HeadFault, Method};
use crate::base::limits::HOST_BYTES_MAX;
use crate::base::span::Span;
use std::net::Ipv6Addr;

/// The parts of a request target, as places in the bytes of the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// Empty for `*`, for the target of CONNECT, and for an absolute target that has none.
    pub(super) path: Span,
    /// Without the `?`.
    pub(super) query: Option<Span>,
    /// Host and port, where the target names them; must agree with `Host`.
    pub(super) authority: Option<Span>,
}

impl Target {
    /// Reads the target of `method` that stands at `target` in `bytes` (RFC 9112 3.2).
    #[inline]
    pub(super) fn read(method: Method, bytes: &[u8], target: Span) -> Result<Self, HeadFault> {
        let (start, end) = (target.start as usize, target.end as usize);
        let text = target.of(bytes);
        if method == Method::Connect {
            check_host(text).map_err(|_| HeadFault::TargetForm)?;
            return Ok(Self { path: Span::new(end, end), query: None, authority: Some(target) });
        }
        if text.first() == Some(&b'/') {
            return Self::read_path(bytes, start, end);
        }
        if text == b"*" {
            let allowed = method == Method::Options;
            let whole = Self { path: Span::new(end, end), query: None, authority: None };
            return allowed.then_some(whole).ok_or(HeadFault::TargetForm);
        }
        let scheme = ["http://", "https://"]
            .iter()
            .find(|scheme| text.len() > scheme.len() && text[..scheme.len()].eq_ignore_ascii_case(scheme.as_bytes()))
            .ok_or(HeadFault::TargetForm)?;
        let host = start + scheme.len();
        let rest = &bytes[host..end];
        let host_end = host + rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let authority = Some(Span::new(host, host_end));
        Ok(Self { authority, ..Self::read_path(bytes, host_end, end)? })
    }

    fn read_path(bytes: &[u8], start: usize, end: usize) -> Result<Self, HeadFault> {
        let path_end = check_path(&bytes[start..end]).map(|length| start + length)?;
        let query = if path_end == end {
            None
        } else {
            check_query(&bytes[path_end + 1..end])?;
            Some(Span::new(path_end + 1, end))
        };
        Ok(Self { path: Span::new(start, path_end), query, authority: None })
    }
}

/// Checks the path at the start of `text`; says where it ends, which is at the `?` or the end of `text`.
#[inline]
fn check_path(text: &[u8]) -> Result<usize, HeadFault> {
    let mut before = 0;
    let mut before_that = 0;
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'?' => {
                check_segment_end(before_that, before)?;
                return Ok(at);
            }
            b'/' if before == b'/' => return Err(HeadFault::PathUnsafe),
            b'/' => check_segment_end(before_that, before)?,
            b'.' if before == b'.' => return Err(HeadFault::PathUnsafe),
            b'\\' | b';' => return Err(HeadFault::PathUnsafe),
            b'%' => {
                let escaped = escaped_byte(&text[at..])?;
                if escaped.is_ascii_control() || b"/\\.;%".contains(&escaped) {
                    return Err(HeadFault::PathUnsafe);
                }
            }
            _ if is_path_byte(byte) => {}
            _ => return Err(HeadFault::TargetMalformed),
        }
        before_that = before;
        before = byte;
    }
    check_segment_end(before_that, before)?;
    Ok(text.len())
}

/// A segment that is one dot only; two dots are refused anywhere.
#[inline]
fn check_segment_end(before_that: u8, before: u8) -> Result<(), HeadFault> {
    if before == b'.' && before_that == b'/' { Err(HeadFault::PathUnsafe) } else { Ok(()) }
}

fn check_query(text: &[u8]) -> Result<(), HeadFault> {
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'%' => {
                escaped_byte(&text[at..])?;
            }
            b'/' | b'?' | b';' => {}
            _ if is_path_byte(byte) => {}
            _ => return Err(HeadFault::TargetMalformed),
        }
    }
    Ok(())
}

/// The byte that the `%XX` at the start of `text` stands for.
fn escaped_byte(text: &[u8]) -> Result<u8, HeadFault> {
    let digit = |at: usize| {
        let value = char::from(*text.get(at)?).to_digit(16)?;
        u8::try_from(value).ok()
    };
    match (digit(1), digit(2)) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(HeadFault::TargetMalformed),
    }
}

/// `pchar` of RFC 3986 3.3 without `%` and `;`.
#[inline]
fn is_path_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\''
        | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

/// Checks a `Host` value: a name or an address, and maybe a port (RFC 9110 7.2). Names are those of RFC 1123 with
/// the underscore that occurs in practice; no user part, no path, no list, no escapes.
#[inline]
pub(super) fn check_host(text: &[u8]) -> Result<(), HeadFault> {
    let fault = Err(HeadFault::HostMalformed);
    if text.len() > HOST_BYTES_MAX {
        return fault;
    }
    let (name_end, port) = match text {
        [b'[', ..] => {
            let Some(close) = text.iter().position(|byte| *byte == b']') else {
                return fault;
            };
            let address = std::str::from_utf8(&text[1..close]).ok().and_then(|inner| inner.parse::<Ipv6Addr>().ok());
            if address.is_none() {
                return fault;
            }
            (close + 1, text.get(close + 1..))
        }
        _ => {
            let mut end = 0;
            let mut before = b'.';
            while let Some(&byte) = text.get(end)
                && byte != b':'
            {
                let plain = byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
                if !plain && (byte != b'.' || before == b'.') {
                    return fault;
                }
                before = byte;
                end += 1;
            }
            (end, text.get(end..))
        }
    };
    let valid = name_end > 0 && port.is_some_and(is_port_or_none);
    if valid { Ok(()) } else { fault }
}

/// Nothing, or a colon and a port number.
fn is_port_or_none(text: &[u8]) -> bool {
    let Some((b':', digits)) = text.split_first() else {
        return text.is_empty();
    };
    let number = digits.iter().try_fold(0_u32, |number, byte| {
        byte.is_ascii_digit().then(|| number.saturating_mul(10).saturating_add(u32::from(byte - b'0')))
    });
    !digits.is_empty() && digits.len() <= 5 && number.is_some_and(|number| number <= u32::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [H10] Names, addresses and ports, and nothing else.
    #[test]
    fn hosts() {
        for good in [
            "localhost",
            "a.b",
            "A.b.",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:1",
            "[2001:db8::7]:65535",
            "my_host:0",
            "x-1",
        ] {
            assert_eq!(check_host(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:65536",
            "a:000080",
            "a:8x",
            "a:-1",
            "a,b",
            "a, b",
            "u@a",
            "a/b",
            "a?b",
            "a#b",
            "a b",
            "a..b",
            ".a",
            "[::1",
            "::1",
            "[::1]x",
            "[::1%25lo]",
            "[]",
            "[127.0.0.1]",
            "a:1:2",
            "caf\u{e9}",
            "%61",
            "a\\b",
            "*",
            &"a".repeat(262),
        ] {
            assert_eq!(check_host(bad.as_bytes()), Err(HeadFault::HostMalformed), "{bad}");
        }
    }

    /// [O1] [H10] A path that could be read in two ways is refused, in either form of target.
    #[test]
    fn paths() {
        let read = |method, text: &str| {
            Target::read(method, text.as_bytes(), Span::new(0, text.len())).map(|target| {
                let part = |span: Span| std::str::from_utf8(span.of(text.as_bytes())).unwrap();
                let (query, host) = (target.query.map(part), target.authority.map(part));
                format!("{}|{}|{}", part(target.path), query.unwrap_or("-"), host.unwrap_or("-"))
            })
        };
        for (text, want) in [
            ("/", "/|-|-"),
            ("/mcp", "/mcp|-|-"),
            ("/s/a-b_c.d/mcp", "/s/a-b_c.d/mcp|-|-"),
            ("/.well-known/x", "/.well-known/x|-|-"),
            ("/a./b", "/a./b|-|-"),
            ("/a%20b?", "/a%20b||-"),
            ("/a?b=/../;//%2f?c", "/a|b=/../;//%2f?c|-"),
            ("http://h:1/a?b", "/a|b|h:1"),
            ("HTTPS://h", "|-|h"),
            ("http://h?q", "|q|h"),
        ] {
            assert_eq!(read(Method::Get, text).as_deref(), Ok(want), "{text}");
        }
        for (text, want) in [
            ("/a/../b", HeadFault::PathUnsafe),
            ("/..", HeadFault::PathUnsafe),
            ("/a..b", HeadFault::PathUnsafe),
            ("/.", HeadFault::PathUnsafe),
            ("/./a", HeadFault::PathUnsafe),
            ("/a/.?b", HeadFault::PathUnsafe),
            ("//", HeadFault::PathUnsafe),
            ("/a//b", HeadFault::PathUnsafe),
            ("/a\\b", HeadFault::PathUnsafe),
            ("/a;b", HeadFault::PathUnsafe),
            ("/%2fa", HeadFault::PathUnsafe),
            ("/%2Fa", HeadFault::PathUnsafe),
            ("/%5c", HeadFault::PathUnsafe),
            ("/%00", HeadFault::PathUnsafe),
            ("/%0d%0a", HeadFault::PathUnsafe),
            ("/%2e%2E/a", HeadFault::PathUnsafe),
            ("/%3b", HeadFault::PathUnsafe),
            ("/%252f", HeadFault::PathUnsafe),
            ("/%7f", HeadFault::PathUnsafe),
            ("/%2", HeadFault::TargetMalformed),
            ("/%gg", HeadFault::TargetMalformed),
            ("/a#b", HeadFault::TargetMalformed),
            ("/a?b#c", HeadFault::TargetMalformed),
            ("/a?%2", HeadFault::TargetMalformed),
            ("/a<b>", HeadFault::TargetMalformed),
            ("/caf\u{e9}", HeadFault::TargetMalformed),
            ("/a\tb", HeadFault::TargetMalformed),
            ("http://h#a", HeadFault::TargetMalformed),
            ("http://h//a", HeadFault::PathUnsafe),
            ("", HeadFault::TargetForm),
            ("*", HeadFault::TargetForm),
            ("**", HeadFault::TargetForm),
            ("a", HeadFault::TargetForm),
            ("h:80", HeadFault::TargetForm),
            ("ftp://h/", HeadFault::TargetForm),
            ("http://", HeadFault::TargetForm),
            ("http:/a", HeadFault::TargetForm),
        ] {
            assert_eq!(read(Method::Get, text), Err(want), "{text}");
        }
        assert_eq!(read(Method::Options, "*").as_deref(), Ok("|-|-"));
        assert_eq!(read(Method::Connect, "h:443").as_deref(), Ok("|-|h:443"));
        assert_eq!(read(Method::Connect, "/"), Err(HeadFault::TargetForm));
    }
}
