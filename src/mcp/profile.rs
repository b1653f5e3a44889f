//! What a legacy client says of itself in its `initialize`: kept, so that a session that its server has forgotten can
//! be opened again as the same client (MCP 2025-03-26 to 2025-11-25 basic/lifecycle).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::request::write_info;
use super::revision::Revision;
use crate::jsonrpc::text::write_string;

/// A client's capabilities, as bits. Their numbers outlive builds: they are sealed in session ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// What the params of an `initialize` declare; nothing for what cannot be read.
    #[must_use]
    pub fn of(params: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Params {
            capabilities: serde_json::Value,
        }
        let Ok(Params { capabilities }) = serde_json::from_slice(params) else { return Self(0) };
        let declared = |path: &str| {
            let value = capabilities.pointer(path);
            value.is_some_and(|value| value.is_object() || *value == serde_json::Value::Bool(true))
        };
        Self(ROWS.iter().filter(|row| declared(row.path)).fold(0, |bits, row| bits | row.bit))
    }

    /// Whether its user can be asked with a form, which an `elicitation` without modes means too (MCP 2025-11-25
    /// client/elicitation).
    #[must_use]
    pub fn has_forms(self) -> bool {
        let has = |bit: u32| self.0 & bit != 0;
        has(ELICITATION) && (has(FORM) || !has(URL))
    }

    /// As an object of the protocol.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut object = serde_json::Map::new();
        for row in ROWS.iter().filter(|row| self.0 & row.bit != 0) {
            let mut names = row.path.split('/').skip(1);
            let (Some(name), inner) = (names.next(), names.next()) else { continue };
            let whole = object.entry(name).or_insert_with(|| serde_json::json!({}));
            if let (Some(inner), Some(whole)) = (inner, whole.as_object_mut()) {
                let value = if row.flag { serde_json::json!(true) } else { serde_json::json!({}) };
                whole.insert(inner.to_owned(), value);
            }
        }
        out.extend_from_slice(serde_json::Value::Object(object).to_string().as_bytes());
    }
}

/// An `initialize` request that opens the session of `profile` (the params of the client's own `initialize`) anew,
/// asking for the revision that was agreed on. Without a profile, or with one that cannot be read, from `capabilities`.
#[must_use]
pub fn request_initialize_again(
    id: u64,
    revision: Revision,
    profile: Option<&[u8]>,
    capabilities: Capabilities,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + profile.map_or(0, <[u8]>::len));
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    out.extend_from_slice(b",\"method\":\"initialize\",\"params\":{\"protocolVersion\":");
    write_string(&mut out, revision.as_str());
    out.extend_from_slice(b",\"capabilities\":");
    let kept: Option<Profile<'_>> = profile.and_then(|profile| serde_json::from_slice(profile).ok());
    match kept {
        Some(Profile { capabilities, client_info }) => {
            out.extend_from_slice(capabilities.get().as_bytes());
            out.extend_from_slice(b",\"clientInfo\":");
            out.extend_from_slice(client_info.get().as_bytes());
        }
        None => {
            capabilities.write(&mut out);
            out.extend_from_slice(b",\"clientInfo\":");
            write_info(&mut out);
        }
    }
    out.extend_from_slice(b"}}");
    out
}

/// As written by the client: whatever else it holds is given on as it came.
#[derive(Deserialize)]
struct Profile<'a> {
    #[serde(borrow)]
    capabilities: &'a RawValue,
    #[serde(borrow, rename = "clientInfo")]
    client_info: &'a RawValue,
}

struct Row {
    bit: u32,
    path: &'static str,
    /// Written as `true`; else as an object.
    flag: bool,
}

const fn row(bit: u32, path: &'static str, flag: bool) -> Row {
    Row { bit, path, flag }
}

/// A row is added, never changed; the whole before its parts.
const ROWS: [Row; 8] = [
    row(1, "/roots", false),
    row(2, "/roots/listChanged", true),
    row(4, "/sampling", false),
    row(8, "/sampling/tools", false),
    row(16, "/sampling/context", false),
    row(ELICITATION, "/elicitation", false),
    row(FORM, "/elicitation/form", false),
    row(URL, "/elicitation/url", false),
];
const ELICITATION: u32 = 32;
const FORM: u32 = 64;
const URL: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_what_an_elicitation_without_modes_means() {
        let check = |elicitation: &str, want: bool| {
            let params = format!("{{\"capabilities\":{{{elicitation}}}}}");
            assert_eq!(Capabilities::of(params.as_bytes()).has_forms(), want, "{elicitation}");
        };
        check("", false);
        check(r#""sampling":{}"#, false);
        check(r#""elicitation":{}"#, true);
        check(r#""elicitation":{"form":{}}"#, true);
        check(r#""elicitation":{"form":{},"url":{}}"#, true);
        check(r#""elicitation":{"url":{}}"#, false);
    }

    #[test]
    fn capabilities_survive_as_bits() {
        let check = |capabilities: &str, want: &str| {
            let bits = Capabilities::of(format!("{{\"capabilities\":{capabilities}}}").as_bytes());
            let mut out = Vec::new();
            bits.write(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want, "{capabilities}");
        };
        check("{}", "{}");
        check("7", "{}");
        check(r#"{"roots":{},"sampling":{}}"#, r#"{"roots":{},"sampling":{}}"#);
        check(r#"{"roots":{"listChanged":false},"tasks":{}}"#, r#"{"roots":{}}"#);
        let all =
            r#"{"elicitation":{"form":{},"url":{}},"roots":{"listChanged":true},"sampling":{"context":{},"tools":{}}}"#;
        check(all, all);
        assert_eq!(Capabilities::of(b"no json"), Capabilities(0));
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(row.bit, 1 << index);
        }
    }

    #[test]
    fn a_session_is_opened_again_as_the_same_client() {
        let check = |profile: Option<&str>, want: &str| {
            let made =
                request_initialize_again(7, Revision::R2025_06_18, profile.map(str::as_bytes), Capabilities(1 | 4));
            assert_eq!(
                String::from_utf8(made).unwrap(),
                format!(
                    "{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"initialize\",\"params\":{{\"protocolVersion\":\"2025-06-18\",{want}}}}}"
                )
            );
        };
        let own = format!(
            "\"capabilities\":{{\"roots\":{{}},\"sampling\":{{}}}},\"clientInfo\":{{\"name\":\"portcullis\",\"version\":\"{}\"}}",
            env!("CARGO_PKG_VERSION")
        );
        check(None, &own);
        check(Some("{}"), &own);
        check(
            Some(
                r#"{"protocolVersion":"2025-11-25","clientInfo":{"name":"c","n":1e999},"capabilities":{"x":{ "y" :1}}}"#,
            ),
            r#""capabilities":{"x":{ "y" :1}},"clientInfo":{"name":"c","n":1e999}"#,
        );
    }
}
