//! The requests the gateway makes on its own behalf, and what servers answer to them.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::limits::INSTRUCTIONS_SERVER_BYTES_MAX;
use crate::jsonrpc::text::write_string;
use crate::mcp::call::{CLIENT_CAPABILITIES, PROTOCOL_VERSION};
use crate::mcp::catalog::{CatalogFault, ListKind, milliseconds};
use crate::mcp::optin::LogLevel;
use crate::mcp::revision::{Era, Revision};

/// The name the gateway gives itself in `clientInfo` and `serverInfo`.
pub const NAME: &str = "portcullis";
/// Its version beside that.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a server told about itself, in either era.
#[derive(Clone, Debug, PartialEq)]
pub struct Introduction {
    /// The revisions it speaks: all it listed and we know (`server/discover`), or the one it chose (`initialize`).
    pub revisions: Vec<Revision>,
    /// Its capabilities, an object.
    pub capabilities: Value,
    /// Its `serverInfo`, as it wrote it.
    pub server_info: Option<Box<[u8]>>,
    /// Its `instructions`, as far as `limits::INSTRUCTIONS_SERVER_BYTES_MAX` goes.
    pub instructions: Option<Box<str>>,
    /// How long this may be kept, milliseconds; `None` in the legacy era.
    pub ttl_ms: Option<u64>,
}

/// A `server/discover` request.
#[must_use]
pub fn request_discover(id: u64) -> Vec<u8> {
    let mut out = start(Some(id), "server/discover");
    out.extend_from_slice(b",\"params\":{");
    write_modern_meta(&mut out);
    out.extend_from_slice(b"}}");
    out
}

/// An `initialize` request for a legacy `revision`, declaring all that a client can do: some servers offer tools only
/// to clients that can be asked for input.
#[must_use]
pub fn request_initialize(id: u64, revision: Revision) -> Vec<u8> {
    let mut out = start(Some(id), "initialize");
    out.extend_from_slice(b",\"params\":{\"protocolVersion\":");
    write_string(&mut out, revision.as_str());
    out.extend_from_slice(b",\"capabilities\":");
    out.extend_from_slice(CAPABILITIES);
    out.extend_from_slice(b",\"clientInfo\":");
    write_info(&mut out);
    out.extend_from_slice(b"}}");
    out
}

/// The notification that ends the handshake.
#[must_use]
pub fn notify_initialized() -> Vec<u8> {
    let mut out = start(None, "notifications/initialized");
    out.push(b'}');
    out
}

/// A request for this log level (MCP 2025-11-25 server/utilities/logging).
#[must_use]
pub fn request_set_level(id: u64, level: LogLevel) -> Vec<u8> {
    let mut out = start(Some(id), "logging/setLevel");
    out.extend_from_slice(b",\"params\":{\"level\":");
    write_string(&mut out, level.as_str());
    out.extend_from_slice(b"}}");
    out
}

/// A request to be told when a resource changes (MCP 2025-11-25 server/resources).
#[must_use]
pub fn request_subscribe(id: u64, uri: &str) -> Vec<u8> {
    let mut out = start(Some(id), "resources/subscribe");
    out.extend_from_slice(b",\"params\":{\"uri\":");
    write_string(&mut out, uri);
    out.extend_from_slice(b"}}");
    out
}

/// A request for one page of a list: the first, or the one at `cursor`.
#[must_use]
pub fn request_list(id: u64, kind: ListKind, era: Era, cursor: Option<&str>) -> Vec<u8> {
    let mut out = start(Some(id), kind.wire());
    out.extend_from_slice(b",\"params\":{");
    if era == Era::Modern {
        write_modern_meta(&mut out);
    }
    if let Some(cursor) = cursor {
        out.extend_from_slice(if era == Era::Modern { b",\"cursor\":" } else { b"\"cursor\":" });
        write_string(&mut out, cursor);
    }
    out.extend_from_slice(b"}}");
    out
}

/// Writes an `Implementation` object: who the gateway is, for `clientInfo` and `serverInfo`.
pub fn write_info(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"name\":");
    write_string(out, NAME);
    out.extend_from_slice(b",\"version\":");
    write_string(out, VERSION);
    out.push(b'}');
}

/// Reads the `result` of `server/discover`.
///
/// # Errors
/// `CatalogFault::Malformed` when it is no such result, `CatalogFault::Version` when it speaks no revision of ours.
pub fn read_discover(result: &[u8]) -> Result<Introduction, CatalogFault> {
    let result: DiscoverResult<'_> = serde_json::from_slice(result).map_err(|_| CatalogFault::Malformed)?;
    if !result.capabilities.is_object() || result.result_type.is_some_and(|kind| kind != "complete") {
        return Err(CatalogFault::Malformed);
    }
    let spoken = |revision: &Revision| result.supported_versions.iter().any(|version| version == revision.as_str());
    let revisions: Vec<Revision> = Revision::ALL.into_iter().filter(spoken).collect();
    if revisions.is_empty() {
        return Err(CatalogFault::Version);
    }
    Ok(Introduction {
        revisions,
        capabilities: result.capabilities,
        server_info: result.meta.and_then(|meta| meta.server_info).map(raw),
        instructions: result.instructions.map(bounded),
        ttl_ms: result.ttl_ms.as_ref().and_then(milliseconds),
    })
}

/// Reads the `result` of `initialize`.
///
/// # Errors
/// `CatalogFault::Malformed` when it is no such result, `CatalogFault::Version` when it chose a revision that we do not
/// speak, or one that has no handshake.
pub fn read_initialize(result: &[u8]) -> Result<Introduction, CatalogFault> {
    let result: InitializeResult<'_> = serde_json::from_slice(result).map_err(|_| CatalogFault::Malformed)?;
    if !result.capabilities.is_object() {
        return Err(CatalogFault::Malformed);
    }
    let revision = Revision::parse(result.protocol_version.as_bytes()).filter(|revision| !revision.is_modern());
    Ok(Introduction {
        revisions: vec![revision.ok_or(CatalogFault::Version)?],
        capabilities: result.capabilities,
        server_info: result.server_info.map(raw),
        instructions: result.instructions.map(bounded),
        ttl_ms: None,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DiscoverResult<'a> {
    #[serde(default)]
    result_type: Option<String>,
    supported_versions: Vec<String>,
    capabilities: Value,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(default)]
    ttl_ms: Option<Value>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<ResultMeta<'a>>,
}

#[derive(Deserialize)]
struct ResultMeta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeResult<'a> {
    protocol_version: String,
    capabilities: Value,
    #[serde(borrow, default)]
    server_info: Option<&'a RawValue>,
    #[serde(default)]
    instructions: Option<String>,
}

fn bounded(mut instructions: String) -> Box<str> {
    instructions.truncate(instructions.floor_char_boundary(INSTRUCTIONS_SERVER_BYTES_MAX));
    instructions.into()
}

fn raw(value: &RawValue) -> Box<[u8]> {
    value.get().as_bytes().into()
}

/// A message up to its method; the object is left open.
fn start(id: Option<u64>, method: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(320);
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\"");
    if let Some(id) = id {
        out.extend_from_slice(b",\"id\":");
        out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    }
    out.extend_from_slice(b",\"method\":");
    write_string(&mut out, method);
    out
}

/// The `_meta` member that every modern request has (MCP 2026-07-28 basic, "Request metadata").
fn write_modern_meta(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"_meta\":{");
    write_string(out, PROTOCOL_VERSION);
    out.push(b':');
    write_string(out, Revision::NEWEST.as_str());
    out.extend_from_slice(b",\"io.modelcontextprotocol/clientInfo\":");
    write_info(out);
    out.push(b',');
    write_string(out, CLIENT_CAPABILITIES);
    out.push(b':');
    out.extend_from_slice(CAPABILITIES);
    out.push(b'}');
}

/// Everything a client can be asked for. What a caller's own client can do reaches the server with its own requests.
const CAPABILITIES: &[u8] = br#"{"elicitation":{"form":{},"url":{}},"roots":{},"sampling":{}}"#;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::jsonrpc::scan;
    use crate::mcp::call::{Given, read};

    /// What we send is a call that we would take ourselves.
    fn check(body: &[u8], revision: Revision) -> Value {
        let envelope = scan::read(body).unwrap();
        let method = envelope.method_name(body).unwrap().to_vec();
        let given = Given {
            version: Some(revision.as_str().as_bytes()),
            version_count: 1,
            method: Some(&method),
            method_count: 1,
            ..Given::default()
        };
        assert_eq!(read(&given, body, &envelope).unwrap().revision, revision);
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn our_own_requests() {
        let info = json!({"name": NAME, "version": VERSION});
        let capabilities = json!({"elicitation": {"form": {}, "url": {}}, "roots": {}, "sampling": {}});
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": info,
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        });
        assert_eq!(
            check(&request_discover(7), Revision::R2026_07_28),
            json!({"jsonrpc": "2.0", "id": 7, "method": "server/discover", "params": {"_meta": meta}})
        );
        assert_eq!(
            check(&request_initialize(u64::MAX, Revision::R2025_06_18), Revision::R2025_06_18),
            json!({"jsonrpc": "2.0", "id": u64::MAX, "method": "initialize",
                "params": {"protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": info}})
        );
        assert_eq!(
            check(&notify_initialized(), Revision::R2025_11_25),
            json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
        );
        for kind in ListKind::ALL {
            let want = |params: Value| json!({"jsonrpc": "2.0", "id": 1, "method": kind.wire(), "params": params});
            let list = |era: Era, cursor| {
                let revision = if era == Era::Modern { Revision::NEWEST } else { Revision::NEWEST_LEGACY };
                check(&request_list(1, kind, era, cursor), revision)
            };
            assert_eq!(list(Era::Legacy, None), want(json!({})));
            assert_eq!(list(Era::Legacy, Some("")), want(json!({"cursor": ""})));
            assert_eq!(list(Era::Modern, None), want(json!({"_meta": meta})));
            assert_eq!(list(Era::Modern, Some("a\"b")), want(json!({"_meta": meta, "cursor": "a\"b"})));
        }
    }

    #[test]
    fn servers_introduce_themselves() {
        let found = read_discover(
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28", "2099-01-01", "2025-11-25"],
                "capabilities": {"tools": {}}, "instructions": "Be kind.", "ttlMs": 3, "cacheScope": "public",
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "S"}}})
            .to_string()
            .as_bytes(),
        )
        .unwrap();
        assert_eq!(found.revisions, [Revision::R2025_11_25, Revision::R2026_07_28]);
        assert_eq!(found.server_info.as_deref(), Some(&br#"{"name":"S"}"#[..]));
        assert_eq!((found.instructions.as_deref(), found.ttl_ms), (Some("Be kind."), Some(3)));
        let found = read_initialize(
            br#"{"protocolVersion":"2025-06-18","capabilities":{"prompts":{}},"serverInfo":{"name" : "S"}}"#,
        )
        .unwrap();
        assert_eq!(found.revisions, [Revision::R2025_06_18]);
        assert_eq!(found.server_info.as_deref(), Some(&br#"{"name" : "S"}"#[..]));
        assert_eq!((found.capabilities, found.ttl_ms), (json!({"prompts": {}}), None));
    }

    #[test]
    fn strange_introductions_are_refused() {
        for (result, want) in [
            (r#"{"supportedVersions":["2099-01-01"],"capabilities":{}}"#, CatalogFault::Version),
            (r#"{"supportedVersions":[],"capabilities":{}}"#, CatalogFault::Version),
            (r#"{"supportedVersions":"2026-07-28","capabilities":{}}"#, CatalogFault::Malformed),
            (r#"{"supportedVersions":["2026-07-28"],"capabilities":[]}"#, CatalogFault::Malformed),
            (r#"{"resultType":"task","supportedVersions":["2026-07-28"],"capabilities":{}}"#, CatalogFault::Malformed),
            ("{}", CatalogFault::Malformed),
            ("", CatalogFault::Malformed),
        ] {
            assert_eq!(read_discover(result.as_bytes()), Err(want), "{result}");
        }
        for (result, want) in [
            (r#"{"protocolVersion":"2026-07-28","capabilities":{}}"#, CatalogFault::Version),
            (r#"{"protocolVersion":"0","capabilities":{}}"#, CatalogFault::Version),
            (r#"{"protocolVersion":"2025-06-18","capabilities":null}"#, CatalogFault::Malformed),
            (r#"{"capabilities":{}}"#, CatalogFault::Malformed),
        ] {
            assert_eq!(read_initialize(result.as_bytes()), Err(want), "{result}");
        }
    }
}
