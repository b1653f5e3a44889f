//! Whether an answer is the one to its request. The first right answer is read in full and kept as a pattern; those
//! that follow it byte for byte, but for their own id and value, need no second reading.

use std::fmt;

use serde_json::Value;

use crate::reply::Kind;
use crate::traffic::{Call, ID_DIGITS, Template, VALUE_DIGITS, places};

/// Why an answer is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Status(u16),
    Kind,
    /// Not JSON, or not JSON-RPC.
    Text,
    /// A JSON-RPC error.
    Error(i64, String),
    /// The answer to some other request.
    Id,
    /// A result that says it is an error.
    ToolError(String),
    /// Not complete, or without content.
    Result,
    /// Some other request's value.
    Value,
    /// Too many or too few events.
    Events {
        got: usize,
        want: usize,
    },
    /// An event that is not this request's progress.
    Progress,
}

/// Checks answers.
#[derive(Debug)]
pub(crate) struct Checker {
    /// Events of each answer; 0 for plain JSON.
    events: u32,
    pattern: Option<Template>,
}

impl Checker {
    pub(crate) fn new(events: u32) -> Self {
        Self { events, pattern: None }
    }

    /// Whether this is the answer to `call`.
    pub(crate) fn check(&mut self, call: Call, status: u16, kind: Kind, body: &[u8]) -> Result<(), Wrong> {
        if status != 200 {
            return Err(Wrong::Status(status));
        }
        let want = if self.events > 0 { Kind::Events } else { Kind::Json };
        if kind != want {
            return Err(Wrong::Kind);
        }
        if self.pattern.as_ref().is_some_and(|pattern| follows(pattern, call, body)) {
            return Ok(());
        }
        if self.events > 0 {
            read_events(call, body, self.events as usize)?;
        } else {
            read_result(call, body)?;
        }
        let ids = places(body, &call.id_digits());
        let values = places(body, &call.value_digits());
        self.pattern = Some(Template { bytes: body.to_vec(), ids, values });
        Ok(())
    }
}

/// Equal to the pattern, with this call's id and value where the pattern has those of its own.
fn follows(pattern: &Template, call: Call, body: &[u8]) -> bool {
    if body.len() != pattern.bytes.len() {
        return false;
    }
    let (id, value) = (call.id_digits(), call.value_digits());
    let mut at = 0;
    let (mut ids, mut values) = (pattern.ids.iter().peekable(), pattern.values.iter().peekable());
    loop {
        let (next, own): (usize, &[u8]) = match (ids.peek(), values.peek()) {
            (Some(i), Some(v)) if i < v => (**i, &id),
            (_, Some(v)) => (**v, &value),
            (Some(i), None) => (**i, &id),
            (None, None) => return body[at..] == pattern.bytes[at..],
        };
        if own.len() == ID_DIGITS {
            ids.next();
        } else {
            values.next();
        }
        // Overlapping places: not a pattern to rely on.
        if next < at || body[at..next] != pattern.bytes[at..next] || body[next..next + own.len()] != *own {
            return false;
        }
        at = next + own.len();
    }
}

const _: () = assert!(ID_DIGITS != VALUE_DIGITS, "their lengths tell ids and values apart");

fn read_result(call: Call, body: &[u8]) -> Result<(), Wrong> {
    let message = message(body)?;
    if message["id"].as_u64() != Some(call.id) {
        return Err(Wrong::Id);
    }
    if let Some(error) = message.get("error") {
        let text = error["message"].as_str().unwrap_or_default();
        return Err(Wrong::Error(error["code"].as_i64().unwrap_or_default(), text.to_owned()));
    }
    let result = &message["result"];
    let text = result["content"][0]["text"].as_str().ok_or(Wrong::Result)?;
    if result["isError"] == Value::Bool(true) {
        return Err(Wrong::ToolError(text.to_owned()));
    }
    if result.get("resultType").is_some_and(|kind| kind != "complete") {
        return Err(Wrong::Result);
    }
    let value = String::from_utf8_lossy(&call.value_digits()).into_owned();
    if text.contains(&value) { Ok(()) } else { Err(Wrong::Value) }
}

fn read_events(call: Call, body: &[u8], want: usize) -> Result<(), Wrong> {
    let text = std::str::from_utf8(body).map_err(|_| Wrong::Text)?;
    // Events without data (priming, comments) are not counted.
    let messages: Vec<String> = text.replace("\r\n", "\n").split("\n\n").filter_map(data).collect();
    if messages.len() != want {
        return Err(Wrong::Events { got: messages.len(), want });
    }
    let (result, progress) = messages.split_last().ok_or(Wrong::Events { got: 0, want })?;
    for text in progress {
        let message = message(text.as_bytes())?;
        let token = message["params"]["progressToken"].as_u64();
        if message["method"] != "notifications/progress" || token != Some(call.id) {
            return Err(Wrong::Progress);
        }
    }
    read_result(call, result.as_bytes())
}

/// The data of one event, if it has any.
fn data(event: &str) -> Option<String> {
    let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    Some(lines.join("\n")).filter(|data| !data.is_empty())
}

fn message(text: &[u8]) -> Result<Value, Wrong> {
    let message: Value = serde_json::from_slice(text).map_err(|_| Wrong::Text)?;
    if message["jsonrpc"] == "2.0" { Ok(message) } else { Err(Wrong::Text) }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Kind => f.write_str("another content type than asked for"),
            Self::Text => f.write_str("not a JSON-RPC message"),
            Self::Error(code, text) => write!(f, "JSON-RPC error {code}: {text}"),
            Self::Id => f.write_str("the answer to another request (its id)"),
            Self::ToolError(text) => write!(f, "the tool failed: {text}"),
            Self::Result => f.write_str("not a complete result"),
            Self::Value => f.write_str("the answer to another request (its value)"),
            Self::Events { got, want } => write!(f, "{got} events, not {want}"),
            Self::Progress => f.write_str("an event that is not this request's progress"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call = Call { id: 1_000_000_007, value: 0xab };
    const NEXT: Call = Call { id: 1_000_000_008, value: 0xcd };

    fn result(call: Call, more: &str) -> String {
        let value = String::from_utf8(call.value_digits().to_vec()).expect("ASCII");
        format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[{{"type":"text","text":"{value}, padded"}}]{more}}}}}"#,
            call.id
        )
    }

    fn progress(call: Call) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":1}}}}"#,
            call.id
        )
    }

    #[track_caller]
    fn check(body: &str, want: Result<(), Wrong>) {
        let mut fresh = Checker::new(0);
        assert_eq!(fresh.check(CALL, 200, Kind::Json, body.as_bytes()), want, "fresh: {body}");
        // One that knows what answers look like says the same.
        let mut taught = Checker::new(0);
        assert_eq!(taught.check(NEXT, 200, Kind::Json, result(NEXT, "").as_bytes()), Ok(()));
        assert_eq!(taught.check(CALL, 200, Kind::Json, body.as_bytes()), want, "taught: {body}");
    }

    #[test]
    fn right_answers() {
        check(&result(CALL, ""), Ok(()));
        check(&result(CALL, r#","resultType":"complete""#), Ok(()));
    }

    #[test]
    fn wrong_answers() {
        check(&result(NEXT, ""), Err(Wrong::Id));
        check(&result(Call { id: CALL.id, value: NEXT.value }, ""), Err(Wrong::Value));
        check(&result(Call { id: NEXT.id, value: CALL.value }, ""), Err(Wrong::Id));
        check(&result(CALL, r#","isError":true"#), Err(Wrong::ToolError("00000000000000ab, padded".to_owned())));
        check(&result(CALL, r#","resultType":"input_required""#), Err(Wrong::Result));
        check(
            r#"{"jsonrpc":"2.0","id":1000000007,"error":{"code":-32602,"message":"no"}}"#,
            Err(Wrong::Error(-32602, "no".to_owned())),
        );
        check(r#"{"jsonrpc":"2.0","id":1000000007,"result":{}}"#, Err(Wrong::Result));
        check(&result(CALL, "")[1..], Err(Wrong::Text));
        check("", Err(Wrong::Text));
        check(&result(CALL, "").replace("1000000007", "\"1000000007\""), Err(Wrong::Id));
    }

    #[test]
    fn status_and_kind_count() {
        let mut checker = Checker::new(0);
        let body = result(CALL, "");
        assert_eq!(checker.check(CALL, 503, Kind::Json, body.as_bytes()), Err(Wrong::Status(503)));
        assert_eq!(checker.check(CALL, 200, Kind::Events, body.as_bytes()), Err(Wrong::Kind));
    }

    #[test]
    fn event_streams() {
        let stream = |messages: &[String]| -> String {
            messages.iter().map(|message| format!("event: message\ndata: {message}\n\n")).collect()
        };
        let check = |body: &str, want: Result<(), Wrong>| {
            let mut checker = Checker::new(3);
            assert_eq!(checker.check(CALL, 200, Kind::Events, body.as_bytes()), want, "{body}");
            let mut taught = Checker::new(3);
            let other = stream(&[progress(NEXT), progress(NEXT), result(NEXT, "")]);
            assert_eq!(taught.check(NEXT, 200, Kind::Events, other.as_bytes()), Ok(()));
            assert_eq!(taught.check(CALL, 200, Kind::Events, body.as_bytes()), want, "{body}");
        };
        let right = stream(&[progress(CALL), progress(CALL), result(CALL, "")]);
        check(&right, Ok(()));
        check(&format!(": hello\n\nid: 1\ndata:\n\n{right}"), Ok(()));
        check(&right.replace('\n', "\r\n"), Ok(()));
        check(&stream(&[progress(CALL), result(CALL, "")]), Err(Wrong::Events { got: 2, want: 3 }));
        check(&stream(&[progress(CALL), progress(NEXT), result(CALL, "")]), Err(Wrong::Progress));
        check(&stream(&[progress(CALL), progress(CALL), result(NEXT, "")]), Err(Wrong::Id));
        check(&stream(&[progress(CALL), progress(CALL), progress(CALL)]), Err(Wrong::Id));
    }
}
