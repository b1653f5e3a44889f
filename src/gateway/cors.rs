//! Browsers: which pages may ask, with what, and what they get to see of the answers (Fetch, "CORS protocol"). Origins
//! are those of the configuration, never `*`: but for documents that are for everybody. Cookies mean nothing here, so
//! credentials are never allowed.

use crate::base::limits::{PREFLIGHT_NAMES_MAX, PREFLIGHT_S};
use crate::config::snapshot::Snapshot;
use crate::http::field::{Known, is_token};
use crate::http::head::{Framing, Method};
use crate::http::reply;

use super::conn::Conn;
use super::gate;

/// The origin that an answer is for: that of a page on the list. Nothing else ever is named in an answer.
pub(super) fn origin(snapshot: &Snapshot, conn: &Conn) -> Option<Box<[u8]>> {
    if conn.head.count(Known::Origin) != 1 {
        return None;
    }
    let origin = conn.head.get(conn.bytes(), Known::Origin)?;
    gate::listed(&snapshot.settings.origins, origin).then(|| Box::from(origin))
}

/// Whether a request only asks whether another one may be sent.
pub(super) fn is_preflight(conn: &Conn) -> bool {
    let once = |known| conn.head.count(known) == 1;
    conn.head.method == Method::Options && once(Known::Origin) && once(Known::AccessControlRequestMethod)
}

/// The fields of an answer that a page may read.
pub(super) fn write(out: &mut Vec<u8>, origin: Option<&[u8]>) {
    let Some(origin) = origin else { return };
    let _ = reply::write_field(out, "access-control-allow-origin", origin);
    let _ = reply::write_field(out, "access-control-expose-headers", EXPOSED.as_bytes());
    // What it says of one origin is no answer for another.
    let _ = reply::write_field(out, "vary", b"origin");
}

/// The fields of an answer that every page may read.
pub(super) fn write_open(out: &mut Vec<u8>) {
    let _ = reply::write_field(out, "access-control-allow-origin", b"*");
}

/// The answer to a preflight, but for its first line and its origin.
pub(super) fn write_preflight(conn: &Conn, out: &mut Vec<u8>, methods: &str) {
    let mut names = ALLOWED.to_owned();
    let asked = conn.head.get(conn.bytes(), Known::AccessControlRequestHeaders).unwrap_or_default();
    let asked = asked.split(|byte| *byte == b',').take(PREFLIGHT_NAMES_MAX).map(<[u8]>::trim_ascii);
    // These are named by the servers' tools (MCP 2026-07-28 basic/transports/streamable-http): no list has them all.
    for name in asked.filter(|name| is_token(name)).filter_map(|name| std::str::from_utf8(name).ok()) {
        if name.get(..PARAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(PARAM)) {
            names.push_str(", ");
            names.push_str(name);
        }
    }
    let _ = reply::write_field(out, "access-control-allow-methods", methods.as_bytes());
    let _ = reply::write_field(out, "access-control-allow-headers", names.as_bytes());
    let _ = reply::write_number(out, "access-control-max-age", PREFLIGHT_S);
    reply::finish(out, Framing::None);
}

/// What pages read beside the answer: the session, and what a refusal asks for.
const EXPOSED: &str = "mcp-session-id, www-authenticate, retry-after";
/// What pages send (`*` would not stand for `authorization`).
const ALLOWED: &str = "accept, authorization, content-type, last-event-id, mcp-method, mcp-name, mcp-protocol-version, \
                       mcp-session-id, portcullis-task, traceparent, tracestate, baggage";
const PARAM: &str = "mcp-param-";
