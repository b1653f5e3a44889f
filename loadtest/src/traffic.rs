//! What goes over the wire: requests as templates, in which each call only replaces its id and its value.

use std::net::{SocketAddr, ToSocketAddrs as _};

use anyhow::Context as _;
use clap::ValueEnum;

use crate::wire::Trusting;

/// Ids have so many digits, so that all requests of a template are equally long.
pub(crate) const ID_DIGITS: usize = 10;
/// Values are written in so many hexadecimal digits.
pub(crate) const VALUE_DIGITS: usize = 16;
pub(crate) const MODERN: &str = "2026-07-28";
pub(crate) const LEGACY: &str = "2025-11-25";

const ID_FIRST: u64 = 1_000_000_000;
const ID_COUNT: u64 = 9_000_000_000;
const CLIENT: &str = concat!(r#"{"name":"loadtest","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// How client and server speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Era {
    /// 2026-07-28: no sessions, everything in each request.
    Modern,
    /// 2025-11-25: `initialize`, and a session.
    Legacy,
}

/// Where calls go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// As the `Host` field says it.
    pub(crate) host: String,
    pub(crate) path: String,
    /// `None`: not encrypted.
    pub(crate) trusting: Option<Trusting>,
}

/// What all calls of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) target: Target,
    pub(crate) era: Era,
    pub(crate) tool: String,
    /// The tool of every tenth call, where it is another one.
    pub(crate) tenth: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) body_bytes: usize,
    /// Events of each answer; 0 for plain JSON.
    pub(crate) events: u32,
}

/// What one call has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The JSON-RPC id, always of [`ID_DIGITS`] digits.
    pub(crate) id: u64,
    /// The argument that must come back.
    pub(crate) value: u64,
}

/// Bytes, and where id and value stand in them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ids: Vec<usize>,
    pub(crate) values: Vec<usize>,
}

/// Numbers calls, and gives each a value of its own. (SplitMix64: every value comes once in 2^64 calls.)
#[derive(Debug)]
pub(crate) struct Calls {
    next: u64,
    state: u64,
}

impl Target {
    /// From `http://HOST:PORT/PATH`.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let rest = url.strip_prefix("http://").context("the URL must start with http://")?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let named = if host.rsplit(']').next().is_some_and(|end| end.contains(':')) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let address = named
            .to_socket_addrs()
            .with_context(|| format!("{host} does not resolve"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        anyhow::ensure!(clean(host) && clean(path), "the URL has blanks or control characters");
        Ok(Self { address, host: host.to_owned(), path: path.to_owned(), trusting: None })
    }

    pub(crate) fn local(port: u16, path: &str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self { address, host: address.to_string(), path: path.to_owned(), trusting: None }
    }
}

impl Shape {
    /// The template of a `tools/call`, in this session if there is one.
    pub(crate) fn call(&self, session: Option<&str>) -> anyhow::Result<Template> {
        let id = marker_id();
        let value = marker_value();
        let bare = self.call_body(&id, &value, "");
        let room = self.body_bytes.checked_sub(bare.len());
        let room = room.with_context(|| format!("the body of such a call has at least {} bytes", bare.len()))?;
        let body = self.call_body(&id, &value, &padding(room));
        let mut template = self.request("tools/call", Some(&self.tool), session, &body);
        template.ids = places(&template.bytes, id.as_bytes());
        template.values = places(&template.bytes, value.as_bytes());
        Ok(template)
    }

    /// The template of every tenth call, where it is another one.
    pub(crate) fn tenth_call(&self, session: Option<&str>) -> anyhow::Result<Option<Template>> {
        let Some(tool) = &self.tenth else { return Ok(None) };
        Self { tool: tool.clone(), ..self.clone() }.call(session).map(Some)
    }

    /// `initialize`, which opens a legacy session. Its id is 1.
    pub(crate) fn initialize(&self) -> Vec<u8> {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{LEGACY}","capabilities":{{}},"clientInfo":{CLIENT}}}}}"#
        );
        // Before there is a session, the body alone says which version it is.
        let mut bytes = self.head("POST");
        finish(&mut bytes, Some(&body));
        bytes
    }

    pub(crate) fn initialized(&self, session: Option<&str>) -> Vec<u8> {
        let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        self.request("notifications/initialized", None, session, body).bytes
    }

    /// Asks for a subscription, a stream without an end of its own.
    pub(crate) fn listen(&self) -> Vec<u8> {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{{"_meta":{{{}}},"notifications":{{"toolsListChanged":true}}}}}}"#,
            modern_meta()
        );
        self.request("subscriptions/listen", None, None, &body).bytes
    }

    /// Asks for all tools, outside of sessions.
    pub(crate) fn list(&self) -> Vec<u8> {
        let meta = modern_meta();
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{{{meta}}}}}}}"#);
        self.request("tools/list", None, None, &body).bytes
    }

    /// Asks for a session's own stream.
    pub(crate) fn session_stream(&self, session: &str) -> Vec<u8> {
        let mut bytes = self.head("GET");
        self.legacy_fields(&mut bytes, Some(session));
        finish(&mut bytes, None);
        bytes
    }

    /// The head of a call that announces a body of `length` bytes.
    pub(crate) fn announcement(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.head("POST");
        field(&mut bytes, "Content-Type", "application/json");
        field(&mut bytes, "Content-Length", &length.to_string());
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// A head without its end.
    pub(crate) fn half_head(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.head("POST");
        bytes.extend_from_slice(b"X-Padding: ");
        bytes.extend_from_slice(padding(length.saturating_sub(bytes.len())).as_bytes());
        bytes
    }

    /// Ends a session.
    pub(crate) fn delete(&self, session: &str) -> Vec<u8> {
        let mut bytes = self.head("DELETE");
        self.legacy_fields(&mut bytes, Some(session));
        finish(&mut bytes, None);
        bytes
    }

    fn call_body(&self, id: &str, value: &str, note: &str) -> String {
        let mut meta = String::new();
        if self.era == Era::Modern {
            meta = modern_meta();
        }
        if self.events > 0 {
            let comma = if meta.is_empty() { "" } else { "," };
            meta = format!(r#"{meta}{comma}"progressToken":{id}"#);
        }
        let meta = if meta.is_empty() { meta } else { format!(r#""_meta":{{{meta}}},"#) };
        let tool = serde_json::Value::from(self.tool.as_str());
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{{meta}"name":{tool},"arguments":{{"message":"{value}","note":"{note}"}}}}}}"#
        )
    }

    fn request(&self, method: &str, name: Option<&str>, session: Option<&str>, body: &str) -> Template {
        let mut bytes = self.head("POST");
        match self.era {
            Era::Modern => {
                field(&mut bytes, "MCP-Protocol-Version", MODERN);
                field(&mut bytes, "Mcp-Method", method);
                if let Some(name) = name {
                    field(&mut bytes, "Mcp-Name", name);
                }
            }
            Era::Legacy => self.legacy_fields(&mut bytes, session),
        }
        finish(&mut bytes, Some(body));
        Template { bytes, ids: Vec::new(), values: Vec::new() }
    }

    fn legacy_fields(&self, bytes: &mut Vec<u8>, session: Option<&str>) {
        field(bytes, "MCP-Protocol-Version", LEGACY);
        if let Some(session) = session {
            field(bytes, "Mcp-Session-Id", session);
        }
    }

    fn head(&self, method: &str) -> Vec<u8> {
        let mut bytes = format!("{method} {} HTTP/1.1\r\n", self.target.path).into_bytes();
        field(&mut bytes, "Host", &self.target.host);
        field(&mut bytes, "Accept", "application/json, text/event-stream");
        if let Some(token) = &self.token {
            field(&mut bytes, "Authorization", &format!("Bearer {token}"));
        }
        bytes
    }
}

impl Template {
    /// Appends the bytes for one call.
    pub(crate) fn write(&self, call: Call, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for at in &self.ids {
            out[start + at..start + at + ID_DIGITS].copy_from_slice(&call.id_digits());
        }
        for at in &self.values {
            out[start + at..start + at + VALUE_DIGITS].copy_from_slice(&call.value_digits());
        }
    }
}

impl Call {
    pub(crate) fn id_digits(self) -> [u8; ID_DIGITS] {
        let mut digits = [b'0'; ID_DIGITS];
        let mut rest = self.id;
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789"[usize::try_from(rest % 10).unwrap_or(0)];
            rest /= 10;
        }
        digits
    }

    pub(crate) fn value_digits(self) -> [u8; VALUE_DIGITS] {
        let mut digits = [b'0'; VALUE_DIGITS];
        let mut rest = self.value;
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789abcdef"[usize::try_from(rest % 16).unwrap_or(0)];
            rest /= 16;
        }
        digits
    }
}

impl Calls {
    /// Starts from somewhere else each time.
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        Self { next: 0, state: RandomState::new().hash_one(std::process::id()) }
    }
}

impl Iterator for Calls {
    type Item = Call;

    fn next(&mut self) -> Option<Call> {
        let id = ID_FIRST + self.next % ID_COUNT;
        self.next += 1;
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(Call { id, value: value ^ (value >> 31) })
    }
}

fn modern_meta() -> String {
    format!(
        r#""io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{CLIENT}"#
    )
}

/// So many characters of plain text.
pub(crate) fn padding(bytes: usize) -> String {
    const TEXT: &str = "The quick brown fox jumps over the lazy dog; ";
    TEXT.chars().cycle().take(bytes).collect()
}

/// Where `what` stands in `bytes`.
pub(crate) fn places(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(bytes, what).collect()
}

// Neither is likely to stand anywhere else in a request: no token has ten decimal nines, then a digit, in a row by chance.
fn marker_id() -> String {
    "9999999999".to_owned()
}

fn marker_value() -> String {
    "fedcba9876543210".to_owned()
}

fn field(bytes: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
}

fn finish(bytes: &mut Vec<u8>, body: Option<&str>) {
    if let Some(body) = body {
        field(bytes, "Content-Type", "application/json");
        field(bytes, "Content-Length", &body.len().to_string());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.unwrap_or_default().as_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shape(era: Era, events: u32) -> Shape {
        Shape {
            target: Target::local(8080, "/mcp"),
            era,
            tool: "echo".to_owned(),
            tenth: None,
            token: Some("abc".to_owned()),
            body_bytes: 350,
            events,
        }
    }

    /// Head fields in lower case, and the body.
    fn split(bytes: &[u8]) -> (String, Value) {
        let text = std::str::from_utf8(bytes).expect("requests are ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.to_ascii_lowercase(), serde_json::from_str(body).expect("JSON"))
    }

    #[track_caller]
    fn check(era: Era, session: Option<&str>, want_head: &[&str], want_meta: Option<Value>) {
        let call = Call { id: 1_000_000_007, value: 0xab };
        let mut bytes = Vec::new();
        shape(era, 0).call(session).expect("there is room").write(call, &mut bytes);
        let (head, body) = split(&bytes);
        assert!(head.starts_with("post /mcp http/1.1\r\nhost: 127.0.0.1:8080\r\n"), "{head}");
        for line in want_head {
            assert!(head.lines().any(|have| have == *line), "{line} in {head}");
        }
        assert!(head.ends_with("content-length: 350"), "{head}");
        assert_eq!(body["id"], json!(1_000_000_007));
        assert_eq!(body["method"], json!("tools/call"));
        assert_eq!(body["params"]["name"], json!("echo"));
        assert_eq!(body["params"]["arguments"]["message"], json!("00000000000000ab"));
        assert_eq!(body["params"].get("_meta").cloned(), want_meta);
    }

    #[test]
    fn a_modern_call_carries_everything() {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": { "name": "loadtest", "version": env!("CARGO_PKG_VERSION") },
        });
        let head = ["mcp-protocol-version: 2026-07-28", "mcp-method: tools/call", "mcp-name: echo"];
        check(Era::Modern, None, &head, Some(meta));
        check(Era::Modern, None, &["authorization: bearer abc", "content-type: application/json"], {
            let (_, body) = split(&shape(Era::Modern, 0).call(None).expect("there is room").bytes);
            body["params"].get("_meta").cloned()
        });
    }

    #[test]
    fn a_legacy_call_carries_its_session() {
        let head = ["mcp-protocol-version: 2025-11-25", "mcp-session-id: s-1"];
        check(Era::Legacy, Some("s-1"), &head, None);
    }

    #[test]
    fn calls_that_want_events_name_a_progress_token() {
        let mut bytes = Vec::new();
        let call = Call { id: 1_000_000_007, value: 1 };
        shape(Era::Legacy, 3).call(None).expect("there is room").write(call, &mut bytes);
        let (_, body) = split(&bytes);
        assert_eq!(body["params"]["_meta"], json!({ "progressToken": 1_000_000_007 }));
    }

    #[test]
    fn a_body_too_short_for_a_call_is_refused() {
        let mut shape = shape(Era::Modern, 0);
        shape.body_bytes = 100;
        assert!(shape.call(None).is_err());
    }

    #[test]
    fn no_two_calls_are_alike() {
        let calls: Vec<Call> = Calls::new().take(10_000).collect();
        let values: std::collections::HashSet<u64> = calls.iter().map(|call| call.value).collect();
        assert_eq!(values.len(), calls.len());
        assert!(calls.iter().all(|call| call.id.to_string().len() == ID_DIGITS));
        assert_eq!(calls[1].id, calls[0].id + 1);
    }

    #[test]
    fn urls() {
        let target = Target::parse("http://127.0.0.1:81/s/echo/mcp").expect("a URL");
        assert_eq!((target.address.port(), target.path.as_str()), (81, "/s/echo/mcp"));
        assert_eq!(Target::parse("http://127.0.0.1").expect("a URL").address.port(), 80);
        assert_eq!(Target::parse("http://[::1]:7/").expect("a URL").address.port(), 7);
        assert!(Target::parse("https://127.0.0.1/").is_err());
    }
}
