//! What agents send, and whether what comes back is the answer to it.

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::reply::Kind;
use crate::traffic::{Era, LEGACY, MODERN};

use super::wire::Endpoint;

/// Replaced by another text in each request.
const VALUE: &str = "${value}";
/// How much of an error's words is told.
const WORDS_MAX: usize = 80;

/// A request of the mix.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// What it is counted as.
    pub(super) label: String,
    method: String,
    /// The tool, prompt or resource.
    name: Option<String>,
    /// Between these pieces stands the value: for modern agents, and for legacy ones.
    modern: Vec<String>,
    legacy: Vec<String>,
    pub(super) weight: u32,
    expect: Expect,
    contains: Option<String>,
}

/// What a right answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    /// A result, and no error of a tool.
    #[default]
    Result,
    /// A refusal: an error, or a result that says it is one.
    Error,
    /// Any answer to this request.
    Any,
}

/// What an agent says in its requests' heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speaker<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) era: Era,
    pub(super) token: Option<&'a str>,
    pub(super) session: Option<&'a str>,
}

/// What stands in a body: its id and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) id: u64,
    pub(super) value: u64,
}

/// An answer as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) kind: Kind,
    pub(super) body: &'a [u8],
}

impl Operation {
    /// A method and its parameters. The agents add `_meta` themselves.
    pub(super) fn new(
        method: &str,
        params: Value,
        weight: u32,
        expect: Expect,
        contains: Option<&str>,
    ) -> anyhow::Result<Self> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte);
        ensure!(!method.is_empty() && method.bytes().all(known), "mix: {method:?} is no method");
        ensure!((1..=1_000_000).contains(&weight), "mix: {method}: the weight is 1 to 1000000");
        let own = params.as_object().with_context(|| format!("mix: {method}: the parameters are an object"))?;
        ensure!(!own.contains_key("_meta"), "mix: {method}: `_meta` is written by the agents");
        let name = match method {
            "tools/call" | "prompts/get" => own.get("name"),
            "resources/read" => own.get("uri"),
            _ => None,
        };
        let name = name.and_then(Value::as_str).map(str::to_owned);
        let plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(name.as_ref().is_none_or(plain), "mix: {method}: the name has to stand in a header field");
        let mut with = params.clone();
        with["_meta"] = meta();
        let pieces = |params: Value| params.to_string().split(VALUE).map(str::to_owned).collect();
        Ok(Self {
            label: name.as_ref().map_or_else(|| method.to_owned(), |name| format!("{method} {name}")),
            method: method.to_owned(),
            name,
            modern: pieces(with),
            legacy: pieces(params),
            weight,
            expect,
            contains: contains.map(str::to_owned),
        })
    }

    /// Whether agents of this era have such requests.
    pub(super) fn is_of(&self, era: Era) -> bool {
        match &*self.method {
            "ping" | "initialize" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {
                era == Era::Legacy
            }
            "server/discover" => era == Era::Modern,
            _ => true,
        }
    }

    /// Appends the request.
    pub(super) fn write(&self, speaker: Speaker<'_>, mark: Mark, out: &mut Vec<u8>) {
        let pieces = if speaker.era == Era::Modern { &self.modern } else { &self.legacy };
        let value = format!("{:016x}", mark.value);
        let params = pieces.join(&value);
        let name = self.name.as_ref().map(|name| name.replace(VALUE, &value));
        let body = message(Some(mark.id), &self.method, &params);
        post(speaker, &self.method, name.as_deref(), &body, out);
    }

    /// Whether this is the answer to the request with this mark; what is wrong with it otherwise.
    pub(super) fn judge(&self, mark: Mark, answer: Answer<'_>) -> Result<(), String> {
        let told = read(mark.id, answer);
        if self.expect == Expect::Error {
            return match told {
                Err(wrong) if wrong.refused => Ok(()),
                Err(wrong) => Err(wrong.words),
                Ok(_) => Err("a result where a refusal was expected".to_owned()),
            };
        }
        let text = match told {
            Err(wrong) if wrong.refused && self.expect == Expect::Any => return Ok(()),
            told => told.map_err(|wrong| wrong.words)?,
        };
        let Some(contains) = &self.contains else { return Ok(()) };
        let contains = contains.replace(VALUE, &format!("{:016x}", mark.value));
        let has = memchr::memmem::find(text.as_bytes(), contains.as_bytes()).is_some();
        if has { Ok(()) } else { Err("an answer without what it has to contain".to_owned()) }
    }
}

/// Opens a legacy session, or asks a modern server what it is.
pub(super) fn open(speaker: Speaker<'_>, mark: Mark, out: &mut Vec<u8>) {
    match speaker.era {
        Era::Modern => {
            let params = json!({ "_meta": meta() }).to_string();
            post(speaker, "server/discover", None, &message(Some(mark.id), "server/discover", &params), out);
        }
        Era::Legacy => {
            let params = json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client() }).to_string();
            let body = message(Some(mark.id), "initialize", &params);
            head("POST", speaker, out);
            finish(Some(&body), out);
        }
    }
}

/// Whether that was answered well.
pub(super) fn opened(mark: Mark, answer: Answer<'_>) -> Result<(), String> {
    read(mark.id, answer).map(drop).map_err(|wrong| wrong.words)
}

/// The second half of the handshake, which has no answer but its status.
pub(super) fn initialized(speaker: Speaker<'_>, out: &mut Vec<u8>) {
    let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    post(speaker, "notifications/initialized", None, body, out);
}

/// Ends a legacy session.
pub(super) fn close(speaker: Speaker<'_>, out: &mut Vec<u8>) {
    head("DELETE", speaker, out);
    legacy(speaker, out);
    finish(None, out);
}

/// Asks for an event stream: a session's own, or a subscription.
pub(super) fn stream(speaker: Speaker<'_>, mark: Mark, out: &mut Vec<u8>) {
    match speaker.era {
        Era::Legacy => {
            head("GET", speaker, out);
            legacy(speaker, out);
            finish(None, out);
        }
        Era::Modern => {
            let params = json!({ "_meta": meta(), "notifications": { "toolsListChanged": true } }).to_string();
            let body = message(Some(mark.id), "subscriptions/listen", &params);
            post(speaker, "subscriptions/listen", None, &body, out);
        }
    }
}

/// Why an answer is not the right one.
struct Wrong {
    words: String,
    /// It is the answer, and it is an error.
    refused: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    jsonrpc: &'a str,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    code: i64,
    message: String,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default, rename = "isError")]
    is_error: bool,
    #[serde(default, rename = "resultType")]
    kind: Option<String>,
}

/// The text of the result of the request with this id.
fn read(id: u64, answer: Answer<'_>) -> Result<String, Wrong> {
    let wrong = |words: String| Wrong { words, refused: false };
    let digits = id.to_string();
    let text = match answer.kind {
        Kind::Json => std::str::from_utf8(answer.body).ok().map(str::to_owned),
        Kind::Events => {
            Some(last(answer.body, &digits).ok_or_else(|| wrong("an event stream without the answer".to_owned()))?)
        }
        Kind::Other => None,
    };
    let message = text.as_deref().and_then(|text| serde_json::from_str::<Message<'_>>(text).ok());
    let message = message.filter(|message| message.jsonrpc == "2.0");
    let Some(message) = message else {
        let words = if answer.status == 200 { "not a JSON-RPC message" } else { "" };
        return Err(wrong(format!("status {} {words}", answer.status).trim_end().to_owned()));
    };
    if let Some(error) = message.error {
        let head = if answer.status == 200 { String::new() } else { format!("status {}, ", answer.status) };
        let said: String = error.message.chars().take(WORDS_MAX).collect();
        // Who a caller is, and whether the server is up, is asked before what the request says.
        let refused = !matches!(answer.status, 401 | 429 | 500..);
        return Err(Wrong { words: format!("{head}error {}: {said}", error.code), refused });
    }
    if answer.status != 200 {
        return Err(wrong(format!("status {}", answer.status)));
    }
    if message.id.map(RawValue::get) != Some(&digits) {
        return Err(wrong("the answer to another request".to_owned()));
    }
    let Some(result) = message.result.map(RawValue::get) else {
        return Err(wrong("neither result nor error".to_owned()));
    };
    let Ok(outcome) = serde_json::from_str::<Outcome>(result) else {
        return Err(wrong("a result that is no object".to_owned()));
    };
    if outcome.is_error {
        return Err(Wrong { words: "the tool failed".to_owned(), refused: true });
    }
    if outcome.kind.as_deref().is_some_and(|kind| kind != "complete") {
        return Err(wrong("a result that is not complete".to_owned()));
    }
    Ok(result.to_owned())
}

/// The last message of an event stream that answers the request with this id.
fn last(body: &[u8], id: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.replace("\r\n", "\n");
    let data = |event: &str| {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    };
    let answers = |text: &String| {
        serde_json::from_str::<Message<'_>>(text).is_ok_and(|message| {
            message.id.map(RawValue::get) == Some(id) && (message.result.is_some() || message.error.is_some())
        })
    };
    text.rsplit("\n\n").map(data).find(answers)
}

fn message(id: Option<u64>, method: &str, params: &str) -> String {
    let id = id.map(|id| format!(r#""id":{id},"#)).unwrap_or_default();
    format!(r#"{{"jsonrpc":"2.0",{id}"method":"{method}","params":{params}}}"#)
}

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": client(),
    })
}

fn client() -> Value {
    json!({ "name": "loadtest", "version": env!("CARGO_PKG_VERSION") })
}

fn post(speaker: Speaker<'_>, method: &str, name: Option<&str>, body: &str, out: &mut Vec<u8>) {
    head("POST", speaker, out);
    match speaker.era {
        Era::Modern => {
            field("MCP-Protocol-Version", MODERN, out);
            field("Mcp-Method", method, out);
            if let Some(name) = name {
                field("Mcp-Name", name, out);
            }
        }
        Era::Legacy => legacy(speaker, out),
    }
    finish(Some(body), out);
}

fn legacy(speaker: Speaker<'_>, out: &mut Vec<u8>) {
    field("MCP-Protocol-Version", LEGACY, out);
    if let Some(session) = speaker.session {
        field("Mcp-Session-Id", session, out);
    }
}

fn head(method: &str, speaker: Speaker<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{method} {} HTTP/1.1\r\n", speaker.endpoint.path).as_bytes());
    field("Host", &speaker.endpoint.host, out);
    field("Accept", "application/json, text/event-stream", out);
    if let Some(token) = speaker.token {
        field("Authorization", &format!("Bearer {token}"), out);
    }
}

fn field(name: &str, value: &str, out: &mut Vec<u8>) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn finish(body: Option<&str>, out: &mut Vec<u8>) {
    if let Some(body) = body {
        field("Content-Type", "application/json", out);
        field("Content-Length", &body.len().to_string(), out);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body.unwrap_or_default().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { id: 7, value: 0xab };

    fn echo(expect: Expect) -> Operation {
        let params = json!({ "name": "echo", "arguments": { "message": VALUE } });
        Operation::new("tools/call", params, 1, expect, Some(VALUE)).expect("an operation")
    }

    fn sent(era: Era, session: Option<&str>) -> (String, Value) {
        let endpoint = Endpoint::parse("http://127.0.0.1:81/mcp").expect("a URL");
        let mut out = Vec::new();
        let speaker = Speaker { endpoint: &endpoint, era, token: Some("t"), session };
        echo(Expect::Result).write(speaker, MARK, &mut out);
        let text = String::from_utf8(out).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        (head.to_owned(), serde_json::from_str(body).expect("JSON"))
    }

    #[test]
    fn both_eras() {
        let (head, body) = sent(Era::Modern, None);
        assert!(
            head.starts_with("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:81\r\n") && head.contains("\r\nMcp-Name: echo")
        );
        assert!(head.contains("\r\nAuthorization: Bearer t\r\n"));
        assert_eq!(body["params"]["arguments"]["message"], "00000000000000ab");
        assert_eq!(body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN);
        let (head, body) = sent(Era::Legacy, Some("s"));
        assert!(head.contains("\r\nMcp-Session-Id: s") && !head.contains("Mcp-Method"));
        assert!(body["params"].get("_meta").is_none() && body["id"] == 7);
    }

    #[track_caller]
    fn check(expect: Expect, status: u16, body: &str, want: Result<(), &str>) {
        let stream =
            format!(": hello\n\nevent: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"x\"}}\n\ndata: {body}\n\n");
        let bodies = [(Kind::Json, body), (Kind::Events, &*stream)];
        // A stream without the answer says so in its own words.
        let kinds = if body.contains("\"id\":7") { 2 } else { 1 };
        for (kind, body) in &bodies[..kinds] {
            let answer = Answer { status, kind: *kind, body: body.as_bytes() };
            assert_eq!(echo(expect).judge(MARK, answer), want.map_err(str::to_owned), "{body}");
        }
    }

    #[test]
    fn right_and_wrong_answers() {
        let right =
            r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"text":"00000000000000ab"}],"resultType":"complete"}}"#;
        let error = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no such tool"}}"#;
        let failed = r#"{"jsonrpc":"2.0","id":7,"result":{"isError":true}}"#;
        check(Expect::Result, 200, right, Ok(()));
        check(Expect::Any, 200, right, Ok(()));
        check(Expect::Error, 200, right, Err("a result where a refusal was expected"));
        check(Expect::Result, 503, right, Err("status 503"));
        check(Expect::Result, 200, error, Err("error -32602: no such tool"));
        check(Expect::Result, 403, error, Err("status 403, error -32602: no such tool"));
        check(Expect::Error, 403, error, Ok(()));
        check(Expect::Any, 200, error, Ok(()));
        check(Expect::Error, 401, error, Err("status 401, error -32602: no such tool"));
        check(Expect::Error, 503, error, Err("status 503, error -32602: no such tool"));
        check(Expect::Result, 200, failed, Err("the tool failed"));
        check(Expect::Error, 200, failed, Ok(()));
        check(Expect::Result, 200, &right.replace("ab\"", "ac\""), Err("an answer without what it has to contain"));
        check(Expect::Result, 200, &right.replace(":7,", ":8,"), Err("the answer to another request"));
        check(Expect::Result, 200, &right.replace("complete", "input_required"), Err("a result that is not complete"));
        check(Expect::Result, 200, "{}", Err("status 200 not a JSON-RPC message"));
        check(Expect::Result, 502, "<html>", Err("status 502"));
    }

    #[test]
    fn a_stream_without_the_answer() {
        let answer =
            Answer { status: 200, kind: Kind::Events, body: b"data: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\n" };
        assert_eq!(echo(Expect::Any).judge(MARK, answer), Err("an event stream without the answer".to_owned()));
    }

    #[test]
    fn what_only_one_era_has() {
        let operation = |method: &str| Operation::new(method, json!({}), 1, Expect::Result, None).expect(method);
        assert!(operation("ping").is_of(Era::Legacy) && !operation("ping").is_of(Era::Modern));
        assert!(!operation("server/discover").is_of(Era::Legacy));
        assert!(operation("prompts/list").is_of(Era::Legacy) && operation("prompts/list").is_of(Era::Modern));
        assert!(Operation::new("a b", json!({}), 1, Expect::Result, None).is_err());
        assert!(Operation::new("a", json!({ "_meta": 1 }), 1, Expect::Result, None).is_err());
        assert!(Operation::new("a", json!([]), 1, Expect::Result, None).is_err());
    }
}
