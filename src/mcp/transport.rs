//! How messages travel to a server: streamable HTTP, over a child's pipes, or the HTTP+SSE transport of 2024-11-05 (MCP 2024-11-05
//! basic/transports), deprecated since 2025-03-26. There the client opens an event stream, whose first event says where
//! to POST; answers come as events.

use url::Url;

use crate::base::limits::ENDPOINT_BYTES_MAX;

/// How messages travel to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP: answers come to the POST that asked.
    #[default]
    Http,
    /// HTTP+SSE: answers come as events of one stream.
    Sse,
    /// The pipes of a program, with a server of streamable HTTP of the gateway's own in front of them.
    Stdio,
}

/// Where an event stream of a server begins.
#[derive(Clone, Copy, Debug)]
pub struct StreamUrl<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host, and port where it is not the scheme's own.
    pub authority: &'a str,
    /// Path, and query where there is one.
    pub target: &'a str,
}

/// Why a stream's first event cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointFault {
    /// It has another name.
    #[error("its event stream does not begin with an `endpoint` event")]
    NotFirst,
    /// It is no URI reference of visible ASCII, or longer than `ENDPOINT_BYTES_MAX`.
    #[error("its `endpoint` event names no URI that can be used")]
    Malformed,
    /// Scheme, host or port differ from the stream's: messages, and what is secret in them, would go to somebody else.
    #[error("its `endpoint` event names another origin than its own URL has: nothing is sent there")]
    ForeignOrigin,
    /// A user, a password or a fragment.
    #[error("its `endpoint` event names a URI with a user, a password or a #fragment")]
    Furnished,
}

impl Transport {
    /// As the configuration and the status write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Sse => "sse",
            Self::Stdio => "stdio",
        }
    }
}

/// Whether a refused `initialize` is a reason to look for an event stream at the same URL: 400, 404 or 405, unless the
/// body's error is one of the modern era's own (MCP 2026-07-28 basic/transports/streamable-http, "HTTP+SSE").
#[must_use]
pub fn hints_at_sse(status: u16, code: Option<i64>) -> bool {
    matches!(status, 400 | 404 | 405) && code.is_none_or(|code| !(-32_099..=-32_020).contains(&code))
}

/// Reads the first event of a stream: the target (path and query) that messages are POSTed to. It must be of the
/// stream's own origin: what is sent there carries what only this server may see.
///
/// # Errors
/// `EndpointFault`.
pub fn read_endpoint(name: &[u8], data: &[u8], stream: &StreamUrl<'_>) -> Result<Box<str>, EndpointFault> {
    if name != b"endpoint" {
        return Err(EndpointFault::NotFirst);
    }
    // The URL standard mends blanks, breaks and backslashes; what two parties may read differently is no URI here.
    let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'\\';
    if data.is_empty() || data.len() > ENDPOINT_BYTES_MAX || !data.iter().all(plain) {
        return Err(EndpointFault::Malformed);
    }
    let text = std::str::from_utf8(data).map_err(|_| EndpointFault::Malformed)?;
    let base = format!("{}://{}{}", stream.scheme, stream.authority, stream.target);
    let base = Url::parse(&base).map_err(|_| EndpointFault::Malformed)?;
    let url = base.join(text).map_err(|_| EndpointFault::Malformed)?;
    // http and https have an origin of scheme, host and port (RFC 6454, 4); of other schemes no two are the same.
    if url.origin() != base.origin() || url.scheme() != base.scheme() {
        return Err(EndpointFault::ForeignOrigin);
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(EndpointFault::Furnished);
    }
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let fits = target.len() <= ENDPOINT_BYTES_MAX && target.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(target.into()) } else { Err(EndpointFault::Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: StreamUrl<'_> = StreamUrl { scheme: "http", authority: "tools.test:8000", target: "/a/sse?x=1" };

    #[track_caller]
    fn check(data: &str, want: Result<&str, EndpointFault>) {
        let got = read_endpoint(b"endpoint", data.as_bytes(), &HERE);
        assert_eq!(got.as_deref(), want.as_ref().copied(), "{data:?}");
    }

    #[test]
    fn references_are_resolved() {
        check("/messages/?session_id=0a", Ok("/messages/?session_id=0a"));
        check("messages?s=1", Ok("/a/messages?s=1"));
        check("?s=1", Ok("/a/sse?s=1"));
        check("../m", Ok("/m"));
        check("/x/../../m", Ok("/m"));
        check("http://tools.test:8000/m", Ok("/m"));
        check("HTTP://TOOLS.test:8000/m", Ok("/m"));
        check("//tools.test:8000/m", Ok("/m"));
        check("http://tools.test:8000", Ok("/"));
        check("/m?to=http://evil.test/", Ok("/m?to=http://evil.test/"));
    }

    #[test]
    fn another_origin_is_refused() {
        for foreign in [
            "http://evil.test:8000/m",
            "http://tools.test/m",
            "http://tools.test:8001/m",
            "https://tools.test:8000/m",
            "//evil.test/m",
            "http://tools.test:8000@evil.test/m",
            "http://tools.test.:8000/m",
            "ws://tools.test:8000/m",
            "file:///etc/passwd",
            "javascript:0",
            "http://127.0.0.1:8000/m",
        ] {
            check(foreign, Err(EndpointFault::ForeignOrigin));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let long = format!("/{}", "x".repeat(ENDPOINT_BYTES_MAX));
        for bad in ["", " /m", "/m ", "/a b", "/m\n", "\\\\evil.test\\m", "/\\evil.test", "/\u{e9}", "http://", &long] {
            check(bad, Err(EndpointFault::Malformed));
        }
        for furnished in ["http://me@tools.test:8000/m", "http://a:b@tools.test:8000/m", "/m#x"] {
            check(furnished, Err(EndpointFault::Furnished));
        }
        for name in [&b"message"[..], b"", b"Endpoint"] {
            assert_eq!(read_endpoint(name, b"/m", &HERE), Err(EndpointFault::NotFirst));
        }
    }

    #[test]
    fn the_schemes_own_port_is_the_same_origin() {
        let here = StreamUrl { scheme: "https", authority: "tools.test", target: "/sse" };
        assert_eq!(read_endpoint(b"endpoint", b"https://tools.test:443/m", &here).as_deref(), Ok("/m"));
        assert_eq!(read_endpoint(b"endpoint", b"http://tools.test/m", &here), Err(EndpointFault::ForeignOrigin));
    }

    #[test]
    fn only_a_plain_refusal_hints() {
        for status in [400, 404, 405] {
            assert!(
                hints_at_sse(status, None)
                    && hints_at_sse(status, Some(-32_600))
                    && hints_at_sse(status, Some(-32_000))
            );
            assert!(!hints_at_sse(status, Some(-32_022)) && !hints_at_sse(status, Some(-32_020)));
        }
        for status in [200, 202, 301, 401, 403, 500, 502] {
            assert!(!hints_at_sse(status, None), "{status}");
        }
    }

    proptest! {
        /// Whatever a server writes there, messages go to its own origin, on a request line of one line.
        #[test]
        fn nothing_leads_elsewhere(data in "(http|https|ws|)(:|)(/{0,3}|\\\\)[a-z.:@0-9\\\\/%\u{0}-\u{20}?#]{0,24}") {
            if let Ok(target) = read_endpoint(b"endpoint", data.as_bytes(), &HERE) {
                prop_assert!(target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", target);
            }
        }
    }
}
