//! What an `input_required` result asks of the client (MCP 2026-07-28 basic/patterns/mrtr).

use thiserror::Error;

use crate::base::limits::INPUT_REQUESTS_MAX;
use crate::base::span::Span;
use crate::jsonrpc::text;
use crate::mcp::optin::Declared;
use crate::mcp::walk;

/// What a server may ask of a client: as a request in the legacy era, inside an `input_required` result in the modern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// `sampling/createMessage`.
    Sampling,
    /// `elicitation/create`.
    Elicitation,
    /// `roots/list`.
    Roots,
}

/// The kinds asked for by one result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    kinds: u8,
    needs: Declared,
}

impl Asks {
    /// Whether this kind is among them.
    #[must_use]
    pub fn has(self, ask: Ask) -> bool {
        self.kinds & ask.bit() != 0
    }

    /// What the client must have declared to be asked this, the modes of an elicitation and the tools of a sampling
    /// included.
    #[must_use]
    pub fn needs(self) -> Declared {
        self.needs
    }

    /// Each kind once.
    pub fn iter(self) -> impl Iterator<Item = Ask> {
        Ask::ALL.into_iter().filter(move |ask| self.has(*ask))
    }
}

impl Ask {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sampling, Self::Elicitation, Self::Roots];

    /// The method's name on the wire.
    #[must_use]
    pub fn wire(self) -> &'static str {
        match self {
            Self::Sampling => "sampling/createMessage",
            Self::Elicitation => "elicitation/create",
            Self::Roots => "roots/list",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Sampling => 1,
            Self::Elicitation => 2,
            Self::Roots => 4,
        }
    }
}

/// What is wrong with an `input_required` result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InputFault {
    /// Not a JSON object, or `inputRequests` is not one.
    #[error("not an input_required result")]
    Malformed,
    /// Neither `inputRequests` nor `requestState`.
    #[error("asks for nothing and carries no state")]
    Empty,
    /// A method that may not stand in `inputRequests`.
    #[error("a method that cannot be asked of a client")]
    UnknownMethod,
    /// More entries than `INPUT_REQUESTS_MAX`.
    #[error("too many requests in one result")]
    TooMany,
}

/// What a form with the one boolean `field` was answered with, asked for as `entry`: `responses` is the JSON text of an
/// `inputResponses` from a message that passed the scanner. A form that is declined or closed says no; `None` where
/// nothing is said.
#[must_use]
pub fn decision(responses: &[u8], entry: &str, field: &str) -> Option<bool> {
    said(responses, walk::member(responses, walk::whole(responses), entry)?, field)
}

/// The same of the answer to an `elicitation/create`: a whole message that passed the scanner. An error says nothing.
#[must_use]
pub fn answered(message: &[u8], field: &str) -> Option<bool> {
    said(message, walk::member(message, walk::whole(message), "result")?, field)
}

fn said(responses: &[u8], answer: Span, field: &str) -> Option<bool> {
    let action = walk::string(responses, walk::member(responses, answer, "action")?)?.of(responses);
    let is = |word: &str| text::same_text(action, word.as_bytes());
    if is("decline") || is("cancel") {
        return Some(false);
    }
    let content = walk::member(responses, answer, "content").filter(|_| is("accept"))?;
    match walk::member(responses, content, field)?.of(responses) {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

/// Whether there is anything at all for `entry`.
#[must_use]
pub fn answers(responses: &[u8], entry: &str) -> bool {
    walk::member(responses, walk::whole(responses), entry).is_some()
}

/// The members of an object from a message that passed the scanner: names as written, between their quotes, and values.
pub fn members(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    walk::members(object, walk::whole(object)).map(|(name, value)| (name.of(object), value.of(object)))
}

/// The kinds of request inside `inputRequests` of an `input_required` result (the bytes of the `result` object, from an
/// answer that passed the scanner).
///
/// # Errors
/// See `InputFault`. A result that is at fault must not reach the client.
pub fn asks(result: &[u8]) -> Result<Asks, InputFault> {
    let value = walk::whole(result);
    if value.of(result).first() != Some(&b'{') {
        return Err(InputFault::Malformed);
    }
    let requests = walk::member(result, value, "inputRequests");
    if requests.is_none() && walk::member(result, value, "requestState").is_none() {
        return Err(InputFault::Empty);
    }
    requests.map_or(Ok(Asks::default()), |requests| entries(result, requests))
}

/// The same of a task's state, which may ask for input too: `inputRequests` of the object at `task` in `message`.
///
/// # Errors
/// As for [`asks`], but for `Empty`: a task need not ask for anything.
pub(crate) fn task_asks(message: &[u8], task: Span) -> Result<Asks, InputFault> {
    let requests = walk::member(message, task, "inputRequests");
    requests.map_or(Ok(Asks::default()), |requests| entries(message, requests))
}

fn entries(bytes: &[u8], requests: Span) -> Result<Asks, InputFault> {
    if requests.of(bytes).first() != Some(&b'{') {
        return Err(InputFault::Malformed);
    }
    let mut asks = Asks::default();
    for (count, (_, request)) in walk::members(bytes, requests).enumerate() {
        if count == INPUT_REQUESTS_MAX {
            return Err(InputFault::TooMany);
        }
        let ask = asked(bytes, request)?;
        asks.kinds |= ask.bit();
        asks.needs = asks.needs.and(needed(bytes, request, ask));
    }
    Ok(asks)
}

/// What one entry of `inputRequests` asks.
fn asked(bytes: &[u8], request: Span) -> Result<Ask, InputFault> {
    let method = walk::member(bytes, request, "method").and_then(|value| walk::string(bytes, value));
    let method = method.ok_or(InputFault::Malformed)?.of(bytes);
    let ask = Ask::ALL.into_iter().find(|ask| text::same_text(method, ask.wire().as_bytes()));
    ask.ok_or(InputFault::UnknownMethod)
}

/// What a client that is asked this must have declared (MCP 2026-07-28 client/elicitation, client/sampling).
fn needed(bytes: &[u8], request: Span, ask: Ask) -> Declared {
    let param = |name| walk::member(bytes, walk::member(bytes, request, "params")?, name);
    match ask {
        Ask::Roots => Declared::ROOTS,
        Ask::Sampling if param("tools").or(param("toolChoice")).is_some() => {
            Declared::SAMPLING.and(Declared::SAMPLING_TOOLS)
        }
        Ask::Sampling => Declared::SAMPLING,
        Ask::Elicitation => {
            let mode = param("mode").and_then(|mode| walk::string(bytes, mode));
            let url = mode.is_some_and(|mode| text::same_text(mode.of(bytes), b"url"));
            if url { Declared::URL } else { Declared::FORM }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(result: &str, want: Result<&[Ask], InputFault>) {
        let got = asks(result.as_bytes()).map(|asks| asks.iter().collect::<Vec<_>>());
        assert_eq!(got.as_deref().map_err(|fault| *fault), want, "{result}");
    }

    #[test]
    fn kinds_are_found_wherever_they_stand() {
        check(r#"{"requestState":"x","resultType":"input_required"}"#, Ok(&[]));
        check(r#"{"inputRequests":{},"requestState":""}"#, Ok(&[]));
        check(r#"{"inputRequests":{"k":{"method":"elicitation/create","params":{}}}}"#, Ok(&[Ask::Elicitation]));
        check(
            r#" {"inputRequests" : { "a":{"params":{"method":"x"},"method":"roots\/list"},
                "b":{"method":"s\u0061mpling/createMessage"}, "c":{"method":"roots/list"} } } "#,
            Ok(&[Ask::Sampling, Ask::Roots]),
        );
        check(r#"{"input\u0052equests":{"k":{"method":"roots/list"}}}"#, Ok(&[Ask::Roots]));
    }

    #[test]
    fn what_a_client_must_have_declared() {
        let check = |request: &str, want: Declared| {
            let result = format!("{{\"inputRequests\":{{\"a\":{{\"method\":\"roots/list\"}},\"b\":{request}}}}}");
            let needs = asks(result.as_bytes()).unwrap().needs();
            assert_eq!(needs, want.and(Declared::ROOTS), "{result}");
            // A task that is no longer waiting asks for nothing.
            let task = format!("{{\"taskId\":\"t\",\"status\":\"input_required\",{}", &result[1..]);
            let of = |task: &str| task_asks(task.as_bytes(), walk::whole(task.as_bytes())).map(Asks::needs);
            assert_eq!(of(&task), Ok(needs));
            assert_eq!(of(r#"{"taskId":"t","status":"working"}"#), Ok(Declared::NONE));
        };
        check(r#"{"method":"roots/list"}"#, Declared::NONE);
        check(r#"{"method":"sampling/createMessage","params":{"messages":[]}}"#, Declared::SAMPLING);
        let tools = Declared::SAMPLING.and(Declared::SAMPLING_TOOLS);
        check(r#"{"method":"sampling/createMessage","params":{"tools":[]}}"#, tools);
        check(r#"{"params":{"toolChoice":{}},"method":"sampling/createMessage"}"#, tools);
        check(r#"{"method":"elicitation/create"}"#, Declared::FORM);
        check(r#"{"method":"elicitation/create","params":{"mode":"form"}}"#, Declared::FORM);
        check(r#"{"method":"elicitation/create","params":{"mode":"u\u0072l"}}"#, Declared::URL);
    }

    #[test]
    fn a_form_is_a_yes_only_where_it_says_so() {
        let check = |answer: &str, want| {
            let responses = format!("{{\"other\":{{\"action\":\"accept\"}},\"k\": {answer} }}");
            assert_eq!(decision(responses.as_bytes(), "k", "approve"), want, "{answer}");
            assert!(answers(responses.as_bytes(), "k") && !answers(responses.as_bytes(), "j"));
        };
        check(r#"{"action":"accept","content":{"approve":true}}"#, Some(true));
        check(r#"{"content":{"approve" : true , "x":1},"action":"acc\u0065pt"}"#, Some(true));
        check(r#"{"action":"accept","content":{"approve":false}}"#, Some(false));
        for no in ["decline", "cancel"] {
            check(&format!(r#"{{"action":"{no}","content":{{"approve":true}}}}"#), Some(false));
        }
        for nothing in [
            r#"{"action":"accept","content":{"approve":"true"}}"#,
            r#"{"action":"accept","content":{"approve":1}}"#,
            r#"{"action":"accept","content":{"Approve":true}}"#,
            r#"{"action":"accept","content":{"x":{"approve":true}}}"#,
            r#"{"action":"accept","approve":true}"#,
            r#"{"action":"Accept","content":{"approve":true}}"#,
            r#"{"action":true,"content":{"approve":true}}"#,
            r#"{"content":{"approve":true}}"#,
            r#"["accept"]"#,
            "true",
        ] {
            check(nothing, None);
        }
        assert_eq!(decision(b"[]", "k", "approve"), None);
    }

    #[test]
    fn what_is_no_request_of_a_client_is_refused() {
        check(r#"{"inputRequests":{"k":{"method":"tools/call"}}}"#, Err(InputFault::UnknownMethod));
        check(r#"{"inputRequests":{"k":{"method":"Roots/list"}}}"#, Err(InputFault::UnknownMethod));
        check(r#"{"inputRequests":{"k":{"params":{}}}}"#, Err(InputFault::Malformed));
        check(r#"{"inputRequests":{"k":{"method":1}}}"#, Err(InputFault::Malformed));
        check(r#"{"inputRequests":{"k":"roots/list"}}"#, Err(InputFault::Malformed));
        check(r#"{"inputRequests":[]}"#, Err(InputFault::Malformed));
        check("[]", Err(InputFault::Malformed));
        check("", Err(InputFault::Malformed));
        check(r#"{"resultType":"input_required"}"#, Err(InputFault::Empty));
        let entries = |count: usize| {
            let entries: Vec<String> = (0..count).map(|n| format!(r#""k{n}":{{"method":"roots/list"}}"#)).collect();
            format!(r#"{{"inputRequests":{{{}}}}}"#, entries.join(","))
        };
        check(&entries(INPUT_REQUESTS_MAX), Ok(&[Ask::Roots]));
        check(&entries(INPUT_REQUESTS_MAX + 1), Err(InputFault::TooMany));
    }
}
