//! A small dual-era MCP server without wires: a request's parts come in, an answer goes out. It checks what the
//! specification asks servers to check, through the same rooms as the gateway.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use crate::base::limits::DEMO_SESSIONS_MAX;
use crate::gateway::refusal::{self, Kind, Refusal};
use crate::http::head::Method;
use crate::jsonrpc::scan::{Envelope, Reader, Shape};
use crate::mcp::call::{self, Call, CallFault, Given};
use crate::mcp::catalog::ListKind;
use crate::mcp::method::{Form, Verb};
use crate::mcp::revision::{Era, Revision};

use super::docs;
use super::payments::{self, Payments};

/// What a tool says: a sentence and the same as data, or what was wrong with its arguments.
pub(super) type ToolAnswer = Result<(String, Value), String>;

/// One server.
pub(super) struct Server {
    content: Content,
    /// Sessions of the handshake era, oldest first.
    sessions: VecDeque<(String, Revision)>,
}

/// What a server has to offer.
pub(super) enum Content {
    Docs,
    Payments(Payments),
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    pub(super) given: Given<'a>,
    pub(super) content_type: Option<&'a [u8]>,
    pub(super) body: &'a [u8],
    /// Random, for a session's id.
    pub(super) fresh: [u8; 16],
}

/// An answer.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) session: Option<String>,
    pub(super) allow: Option<&'static str>,
    pub(super) body: Body,
}

/// What an answer consists of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    Empty,
    Json(Vec<u8>),
    /// An event stream that begins with this message and then stays open.
    Stream(Vec<u8>),
}

/// How long a list may be kept, milliseconds: these never change.
const LIST_TTL_MS: u64 = 60_000;

impl Content {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Docs => "docs",
            Self::Payments(_) => "payments",
        }
    }

    fn capabilities(&self) -> Value {
        match self {
            Self::Docs => docs::capabilities(),
            Self::Payments(_) => json!({ "tools": {} }),
        }
    }

    fn instructions(&self) -> &'static str {
        match self {
            Self::Docs => docs::INSTRUCTIONS,
            Self::Payments(_) => payments::INSTRUCTIONS,
        }
    }

    /// `None` where the capability is not declared.
    fn list(&self, kind: ListKind) -> Option<Vec<Value>> {
        match (self, kind) {
            (Self::Docs, kind) => Some(docs::list(kind)),
            (Self::Payments(_), ListKind::Tools) => Some(payments::tools()),
            (Self::Payments(_), _) => None,
        }
    }

    fn call(&mut self, tool: &str, arguments: &Map<String, Value>) -> Option<ToolAnswer> {
        match self {
            Self::Docs => docs::call(tool, arguments),
            Self::Payments(payments) => payments.call(tool, arguments),
        }
    }
}

impl Server {
    pub(super) fn new(content: Content) -> Self {
        Self { content, sessions: VecDeque::new() }
    }

    pub(super) fn name(&self) -> &'static str {
        self.content.name()
    }

    /// Answers one request.
    pub(super) fn answer(&mut self, asked: &Asked<'_>) -> Said {
        let said = match asked.method {
            Method::Post => self.post(asked),
            Method::Delete => self.delete(&asked.given),
            // No stream of its own accord: nothing here changes by itself.
            _ => Err(Refusal::from(Kind::MethodNotAllowed).allowing("POST, DELETE")),
        };
        said.unwrap_or_else(|refusal| {
            let mut body = Vec::new();
            refusal.write_body(&mut body);
            Said { status: refusal.status(), session: None, allow: refusal.allow, body: Body::Json(body) }
        })
    }

    fn delete(&mut self, given: &Given<'_>) -> Result<Said, Refusal> {
        let id = given.session.ok_or(Kind::RequestBad)?;
        let at = self.sessions.iter().position(|(known, _)| known.as_bytes() == id);
        self.sessions.remove(at.ok_or_else(|| Refusal::from(Kind::SessionUnknown).to(Era::Legacy, None))?);
        Ok(Said { status: 200, session: None, allow: None, body: Body::Empty })
    }

    fn post(&mut self, asked: &Asked<'_>) -> Result<Said, Refusal> {
        let media = asked.content_type.unwrap_or_default();
        let essence = media.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if !essence.eq_ignore_ascii_case(b"application/json") {
            return Err(Kind::MediaType.into());
        }
        let mut reader = Reader::new(0);
        if let Err(fault) = reader.read(asked.body) {
            let kind = if fault.code() == -32_700 { Kind::JsonMalformed } else { Kind::EnvelopeInvalid };
            let id = reader.id().map(|id| id.raw(asked.body));
            return Err(Refusal::from(kind).saying(fault.to_string()).to(Era::Modern, id));
        }
        let envelope = reader.envelope();
        let known = asked.given.session.and_then(|id| self.session(id));
        let given = Given { session_revision: known, ..asked.given };
        let call = call::read(&given, asked.body, envelope).map_err(|fault| of_fault(&fault, asked, envelope))?;
        let id = call.id.map(|id| id.raw(asked.body));
        let initialize = call.method.is_some_and(|method| method.verb == Verb::Initialize);
        if call.era == Era::Legacy && !initialize && given.session.is_some() && known.is_none() {
            return Err(Refusal::from(Kind::SessionUnknown).to(Era::Legacy, id));
        }
        // A legacy request without a session is answered, too: nothing here depends on one.
        let Some(method) = call.method.filter(|method| method.form == Form::Request) else {
            return Ok(Said { status: 202, session: None, allow: None, body: Body::Empty });
        };
        let id = id.unwrap_or(b"null");
        if method.verb == Verb::Listen {
            return Ok(Said { status: 200, session: None, allow: None, body: Body::Stream(acknowledged(id)) });
        }
        let result = self.result(&call, method.verb, asked.body).map_err(|refusal| refusal.to(call.era, Some(id)))?;
        let session = initialize.then(|| self.open(asked.fresh, call.revision));
        let result = finished(result, call.era, method.verb, self.content.name());
        let mut body = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
        body.extend_from_slice(id);
        body.extend_from_slice(b",\"result\":");
        body.extend_from_slice(result.to_string().as_bytes());
        body.push(b'}');
        Ok(Said { status: 200, session, allow: None, body: Body::Json(body) })
    }

    /// The answer to a request, without what only one of the eras adds.
    fn result(&mut self, call: &Call, verb: Verb, body: &[u8]) -> Result<Value, Refusal> {
        let message: Value = serde_json::from_slice(body).map_err(|_| Kind::JsonMalformed)?;
        let nothing = Map::new();
        let member = |name: &str| message.get("params").and_then(|params| params.get(name));
        let arguments = member("arguments").and_then(Value::as_object).unwrap_or(&nothing);
        let name = call.subject.text().map(|text| text.of(body)).unwrap_or_default();
        let quoted = |kind: Kind| Refusal::from(kind).saying(format!("{}: {name}", kind.row().message));
        if let Some(kind) = call.method.and_then(|method| method.list) {
            let items = self.content.list(kind).ok_or(Kind::MethodUnknown)?;
            // One page, so no cursor was ever given out.
            return if member("cursor").is_some() {
                Err(Kind::CursorInvalid.into())
            } else {
                Ok(json!({ kind.member(): items }))
            };
        }
        match (verb, &self.content) {
            (Verb::Ping, _) => Ok(json!({})),
            (Verb::Initialize, content) => Ok(json!({
                "protocolVersion": call.revision.as_str(), "capabilities": content.capabilities(),
                "serverInfo": info(content.name()), "instructions": content.instructions(),
            })),
            (Verb::Discover, content) => Ok(json!({
                "supportedVersions": Revision::MODERN.map(Revision::as_str), "capabilities": content.capabilities(),
                "instructions": content.instructions(),
            })),
            (Verb::ToolsCall, _) => {
                let answer = self.content.call(name, arguments).ok_or_else(|| quoted(Kind::ToolUnknown))?;
                Ok(tool_result(answer))
            }
            (Verb::PromptsGet, Content::Docs) => {
                let prompt = docs::prompt(name, arguments).ok_or_else(|| quoted(Kind::PromptUnknown))?;
                prompt.map_err(|wrong| Refusal::from(Kind::ParamsInvalid).saying(wrong))
            }
            (Verb::ResourcesRead, Content::Docs) => {
                docs::read(name).ok_or_else(|| quoted(Kind::ResourceUnknown).with(json!({ "uri": name }).to_string()))
            }
            // Nothing else is declared.
            _ => Err(Kind::MethodUnknown.into()),
        }
    }

    fn session(&self, id: &[u8]) -> Option<Revision> {
        self.sessions.iter().find(|(known, _)| known.as_bytes() == id).map(|(_, revision)| *revision)
    }

    /// A new session; the oldest makes room.
    fn open(&mut self, fresh: [u8; 16], revision: Revision) -> String {
        if self.sessions.len() >= DEMO_SESSIONS_MAX {
            self.sessions.pop_front();
        }
        let id: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
        self.sessions.push_back((id.clone(), revision));
        id
    }
}

/// An argument that must be a text.
pub(super) fn text_of<'a>(arguments: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    arguments.get(name).and_then(Value::as_str).ok_or_else(|| format!("'{name}' is missing or no text."))
}

fn tool_result(answer: ToolAnswer) -> Value {
    let text = |text: String| json!([{ "type": "text", "text": text }]);
    match answer {
        Ok((words, data)) => json!({ "content": text(words), "structuredContent": data }),
        Err(wrong) => json!({ "content": text(wrong), "isError": true }),
    }
}

fn info(name: &str) -> Value {
    json!({ "name": format!("demo-{name}"), "version": env!("CARGO_PKG_VERSION") })
}

/// A result as its era wants it (MCP 2026-07-28 basic, "Results"; server/utilities/caching).
fn finished(mut result: Value, era: Era, verb: Verb, name: &str) -> Value {
    if era == Era::Modern {
        result["resultType"] = json!("complete");
        result["_meta"] = json!({ "io.modelcontextprotocol/serverInfo": info(name) });
        if !matches!(verb, Verb::ToolsCall | Verb::PromptsGet) {
            result["ttlMs"] = json!(LIST_TTL_MS);
            result["cacheScope"] = json!("public");
        }
    }
    result
}

/// The first message of a listen stream: nothing asked for is granted, because nothing changes
/// (MCP 2026-07-28 basic/patterns/subscriptions).
fn acknowledged(id: &[u8]) -> Vec<u8> {
    let id: Value = serde_json::from_slice(id).unwrap_or_default();
    let meta = json!({ "io.modelcontextprotocol/subscriptionId": id });
    let params = json!({ "notifications": {}, "_meta": meta });
    let method = "notifications/subscriptions/acknowledged";
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string().into_bytes()
}

fn of_fault(fault: &CallFault, asked: &Asked<'_>, envelope: &Envelope) -> Refusal {
    let (kind, era) = refusal::of_call(fault);
    let id = envelope.id.map(|id| id.raw(asked.body));
    let mut refusal = Refusal::from(kind).saying(fault.to_string()).to(era.unwrap_or(Era::Modern), id);
    if kind == Kind::ProtocolUnsupported {
        let requested = String::from_utf8_lossy(asked.given.version.unwrap_or_default());
        let data = json!({ "supported": Revision::MODERN.map(Revision::as_str), "requested": requested });
        refusal = refusal.with(data.to_string());
    }
    if envelope.shape == Shape::Request { refusal } else { refusal.unanswerable() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

    fn post<'a>(body: &'a str, given: Given<'a>) -> Asked<'a> {
        let content_type = Some(&b"application/json"[..]);
        Asked { method: Method::Post, given, content_type, body: body.as_bytes(), fresh: [7; 16] }
    }

    fn modern<'a>(method: &'a str, name: Option<&'a str>) -> Given<'a> {
        Given {
            version: Some(b"2026-07-28"),
            version_count: 1,
            method: Some(method.as_bytes()),
            method_count: 1,
            name: name.map(str::as_bytes),
            name_count: usize::from(name.is_some()),
            ..Given::default()
        }
    }

    /// Status, and the value that `pointer` leads to.
    fn check(server: &mut Server, asked: &Asked<'_>, status: u16, pointer: &str, want: Value) -> Said {
        let said = server.answer(asked);
        assert_eq!(said.status, status, "{said:?}");
        if let Body::Json(body) | Body::Stream(body) = &said.body {
            let body: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(body.pointer(pointer), Some(&want), "{body}");
        }
        said
    }

    fn docs() -> Server {
        Server::new(Content::Docs)
    }

    #[test]
    fn modern_requests_stand_alone() {
        let body = format!(r#"{{"jsonrpc":"2.0","id":"a","method":"server/discover","params":{{{META}}}}}"#);
        let asked = post(&body, modern("server/discover", None));
        check(&mut docs(), &asked, 200, "/result/supportedVersions", json!(["2026-07-28"]));
        check(&mut docs(), &asked, 200, "/result/cacheScope", json!("public"));
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"search","arguments":{{"query":"refund"}},{META}}}}}"#
        );
        let asked = post(&body, modern("tools/call", Some("search")));
        let want = json!(["refunds", "invoices", "support"]);
        check(&mut docs(), &asked, 200, "/result/structuredContent/pages", want);
        check(&mut docs(), &asked, 200, "/result/resultType", json!("complete"));
    }

    #[test]
    fn head_and_body_must_agree() {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"search",{META}}}}}"#);
        let asked = post(&body, modern("tools/call", Some("read_page")));
        check(&mut docs(), &asked, 400, "/error/code", json!(-32_020));
        let asked = post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, modern("tools/list", None));
        check(&mut docs(), &asked, 400, "/error/code", json!(-32_602));
        let body = META.replace("2026-07-28", "2031-01-01");
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{body}}}}}"#);
        let given = Given { version: Some(b"2031-01-01"), ..modern("tools/list", None) };
        check(&mut docs(), &post(&body, given), 400, "/error/data/supported", json!(["2026-07-28"]));
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{{META}}}}}"#);
        check(&mut docs(), &post(&body, modern("ping", None)), 404, "/error/code", json!(-32_601));
    }

    #[test]
    fn a_listen_stream_is_acknowledged_first() {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"s1","method":"subscriptions/listen","params":{{"notifications":{{"toolsListChanged":true}},{META}}}}}"#
        );
        let asked = post(&body, modern("subscriptions/listen", None));
        let pointer = "/params/_meta/io.modelcontextprotocol~1subscriptionId";
        let said = check(&mut docs(), &asked, 200, pointer, json!("s1"));
        assert!(matches!(said.body, Body::Stream(_)));
    }

    #[test]
    fn legacy_sessions_begin_and_end() {
        let mut server = docs();
        let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
        let said =
            check(&mut server, &post(body, Given::default()), 200, "/result/protocolVersion", json!("2025-06-18"));
        let id = said.session.expect("a session");
        let within = Given { session: Some(id.as_bytes()), session_count: 1, ..Given::default() };
        let notification = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(server.answer(&post(notification, within)).status, 202);
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        check(&mut server, &post(ping, within), 200, "/result", json!({}));
        let get = Asked { method: Method::Get, ..post("", within) };
        assert_eq!(server.answer(&get).allow, Some("POST, DELETE"));
        let delete = Asked { method: Method::Delete, ..post("", within) };
        assert_eq!(server.answer(&delete).status, 200);
        assert_eq!(server.answer(&delete).status, 404);
        check(&mut server, &post(ping, within), 404, "/error/code", json!(-32_001));
        check(&mut server, &post(ping, Given::default()), 200, "/result", json!({}));
    }

    #[test]
    fn sessions_are_bounded() {
        let mut server = docs();
        for n in 0..=DEMO_SESSIONS_MAX {
            let mut fresh = [0; 16];
            fresh[..8].copy_from_slice(&n.to_le_bytes());
            server.open(fresh, Revision::NEWEST_LEGACY);
        }
        assert_eq!(server.sessions.len(), DEMO_SESSIONS_MAX);
        assert_eq!(server.session(b"00000000000000000000000000000000"), None);
    }

    #[test]
    fn what_is_not_there_is_said_so() {
        let call = |name: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{}}}}}}"#)
        };
        check(&mut docs(), &post(&call("nothing"), Given::default()), 200, "/error/code", json!(-32_602));
        check(&mut docs(), &post(&call("search"), Given::default()), 200, "/result/isError", json!(true));
        let read =
            |uri: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{{"uri":"{uri}"}}}}"#);
        check(&mut docs(), &post(&read("docs://x"), Given::default()), 200, "/error/code", json!(-32_002));
        let body = read("docs://pages/refunds");
        check(
            &mut docs(),
            &post(&body, Given::default()),
            200,
            "/result/contents/0/uri",
            json!("docs://pages/refunds"),
        );
        let mut payments = Server::new(Content::Payments(Payments::new()));
        check(&mut payments, &post(&body, Given::default()), 200, "/error/code", json!(-32_601));
        check(&mut docs(), &post("[]", Given::default()), 400, "/error/code", json!(-32_600));
        check(&mut docs(), &post("{", Given::default()), 400, "/error/code", json!(-32_700));
        let plain = Asked { content_type: Some(b"text/plain"), ..post("{}", Given::default()) };
        assert_eq!(docs().answer(&plain).status, 415);
    }
}
