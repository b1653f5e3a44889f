//! MCP requests as bytes, with a fresh value in each call: in its arguments, where the server's ledger keeps it, and in
//! its trace id, where the record does.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use serde_json::{Value, json};

use super::gateway::Gateway;
use super::http::{Events, Response, Wire};

/// The modern revision.
pub(crate) const MODERN: &str = "2026-07-28";
/// The newest legacy one.
pub(crate) const LEGACY: &str = "2025-11-25";
/// Its key in `_meta`.
pub(crate) const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

pub(crate) const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";

/// A POST being put together.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    path: String,
    fields: Vec<(String, String)>,
    message: Value,
    raw: Option<Vec<u8>>,
    /// What this call alone carries.
    pub(crate) value: String,
}

impl Post {
    /// A modern request.
    pub(crate) fn modern(method: &str, mut params: Value) -> Self {
        params["_meta"][VERSION_KEY] = json!(MODERN);
        params["_meta"][CAPABILITIES_KEY] = json!({ "elicitation": {} });
        let name = [&params["name"], &params["uri"], &params["taskId"]].into_iter().find_map(Value::as_str);
        let named = matches!(method, "tools/call" | "prompts/get" | "resources/read") || method.starts_with("tasks/");
        let name = name.filter(|_| named).map(|name| ("mcp-name".to_owned(), name.to_owned()));
        let mut post = Self::message(json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }));
        post.fields.push(("mcp-protocol-version".into(), MODERN.into()));
        post.fields.push(("mcp-method".into(), method.into()));
        post.fields.extend(name);
        post
    }

    /// A legacy request within a session.
    pub(crate) fn legacy(session: &str, method: &str, params: Value) -> Self {
        Self::message(json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).in_session(session)
    }

    /// A legacy message that is not a request.
    pub(crate) fn tell(session: &str, message: Value) -> Self {
        Self::message(message).in_session(session)
    }

    fn in_session(self, session: &str) -> Self {
        self.field("mcp-protocol-version", LEGACY).field("mcp-session-id", session)
    }

    /// The handshake of the legacy era.
    pub(crate) fn initialize(revision: &str) -> Self {
        Self::message(json!({ "jsonrpc": "2.0", "id": "init", "method": "initialize", "params": {
            "protocolVersion": revision, "capabilities": { "elicitation": {} },
            "clientInfo": { "name": "test", "version": "1" },
        }}))
    }

    /// A modern call of a tool, with a fresh value.
    pub(crate) fn call(tool: &str) -> Self {
        let value = fresh();
        Self::modern("tools/call", json!({ "name": tool, "arguments": { "value": value } })).carrying(value)
    }

    /// A legacy call of a tool, with a fresh value.
    pub(crate) fn legacy_call(session: &str, tool: &str) -> Self {
        let value = fresh();
        let params = json!({ "name": tool, "arguments": { "value": value } });
        Self::legacy(session, "tools/call", params).carrying(value)
    }

    fn message(message: Value) -> Self {
        let fields = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { path: "/mcp".into(), fields, message, raw: None, value: String::new() }
    }

    fn carrying(mut self, value: String) -> Self {
        self.fields.push(("traceparent".into(), format!("00-{value}-00f067aa0ba902b7-01")));
        self.value = value;
        self
    }

    /// The tool it calls.
    pub(crate) fn tool(&self) -> &str {
        self.message["params"]["name"].as_str().unwrap_or_default()
    }

    /// Whether it is an `initialize`.
    pub(crate) fn tells_of_itself(&self) -> bool {
        self.message["method"] == "initialize"
    }

    /// Its id.
    pub(crate) fn request_id(&self) -> &Value {
        &self.message["id"]
    }

    /// With another id.
    pub(crate) fn id(mut self, id: impl Into<Value>) -> Self {
        self.message["id"] = id.into();
        self
    }

    /// As a notification.
    pub(crate) fn without_id(mut self) -> Self {
        self.message.as_object_mut().expect("a message is an object").remove("id");
        self
    }

    /// With one more parameter, by JSON pointer below `params`.
    pub(crate) fn param(mut self, pointer: &str, value: Value) -> Self {
        let mut at = &mut self.message["params"];
        for step in pointer.split('/').skip(1) {
            at = &mut at[step.replace("~1", "/")];
        }
        *at = value;
        self
    }

    /// Declaring these capabilities, in the modern era.
    pub(crate) fn declaring(self, capabilities: Value) -> Self {
        self.param(&format!("/_meta/{}", CAPABILITIES_KEY.replace('/', "~1")), capabilities)
    }

    /// To another path.
    pub(crate) fn at(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// With one more header field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Without a header field.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(field, _)| field != name);
        self
    }

    /// With a bearer token.
    pub(crate) fn token(self, token: &str) -> Self {
        self.field("authorization", &format!("Bearer {token}"))
    }

    /// With exactly this body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.raw = Some(body.into());
        self
    }

    /// The body that will be sent.
    pub(crate) fn body_bytes(&self) -> Vec<u8> {
        self.raw.clone().unwrap_or_else(|| self.message.to_string().into_bytes())
    }

    /// The head that will be sent, with these fields at its end.
    pub(crate) fn head_bytes(&self, gateway: &Gateway, last: &str) -> Vec<u8> {
        let mut head = format!("POST {} HTTP/1.1\r\nhost: {}\r\n", self.path, gateway.address);
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(last);
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Everything that will be sent.
    pub(crate) fn bytes(&self, gateway: &Gateway) -> Vec<u8> {
        let body = self.body_bytes();
        let mut bytes = self.head_bytes(gateway, &format!("content-length: {}\r\n", body.len()));
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Sends it on a connection of its own, and reads the answer.
    #[track_caller]
    pub(crate) fn to(&self, gateway: &Gateway) -> Response {
        Wire::to(gateway.address).ask(&self.bytes(gateway))
    }

    /// Sends it on a connection of its own, and does not wait.
    pub(crate) fn begin(&self, gateway: &Gateway) -> Wire {
        let mut wire = Wire::to(gateway.address);
        wire.send(&self.bytes(gateway));
        wire
    }

    /// Sends it on a connection of its own, and reads the events that come back.
    #[track_caller]
    pub(crate) fn stream(&self, gateway: &Gateway) -> Events {
        self.begin(gateway).events()
    }

    /// Sends it, and checks that the server's answer is this call's own.
    #[track_caller]
    pub(crate) fn echoed(&self, gateway: &Gateway) {
        self.is_echoed(&self.to(gateway));
    }

    /// Checks that an answer is this call's own.
    #[track_caller]
    pub(crate) fn is_echoed(&self, response: &Response) {
        assert_eq!(
            (response.status(), response.field("content-type")),
            (200, "application/json"),
            "{}",
            response.text()
        );
        let answer = response.json();
        assert_eq!((&answer["id"], text_of(&answer)), (&self.message["id"], self.value.as_str()), "{answer}");
    }
}

/// The text of a tool's answer.
pub(crate) fn text_of(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_default()
}

/// The names on a list.
pub(crate) fn names(response: &Response, list: &str, key: &str) -> Vec<String> {
    let answer = response.json();
    let items = answer["result"][list].as_array().unwrap_or_else(|| panic!("no {list}: {answer}"));
    items.iter().map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect()
}

/// The tools that a modern caller sees.
#[track_caller]
pub(crate) fn tools(gateway: &Gateway, change: impl Fn(Post) -> Post) -> Vec<String> {
    names(&change(Post::modern("tools/list", json!({}))).to(gateway), "tools", "name")
}

/// A GET or DELETE of a session.
pub(crate) fn session_request(gateway: &Gateway, http: &str, path: &str, session: &str, more: &str) -> Vec<u8> {
    format!(
        "{http} {path} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nmcp-session-id: {session}\r\n\
         mcp-protocol-version: {LEGACY}\r\n{more}\r\n",
        gateway.address
    )
    .into_bytes()
}

/// Opens a legacy session; its id.
#[track_caller]
pub(crate) fn open_session(gateway: &Gateway, change: impl Fn(Post) -> Post) -> String {
    let response = change(Post::initialize(LEGACY)).to(gateway);
    assert_eq!(response.status(), 200, "{}", response.text());
    let session = response.field("mcp-session-id").to_owned();
    assert!(!session.is_empty(), "{:?}", response.head);
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let told = change(Post::tell(&session, initialized)).to(gateway);
    assert_eq!((told.status(), told.text()), (202, String::new()));
    session
}

/// 32 hexadecimal digits that nobody had before.
pub(crate) fn fresh() -> String {
    let random = || RandomState::new().build_hasher().finish() | 1;
    format!("{:016x}{:016x}", random(), random())
}
