//! What an `input_required` result asks of the client (MCP 2026-07-28 basic/patterns/mrtr).

use thiserror::Error;

use crate::base::limits::INPUT_REQUESTS_MAX;
use crate::base::span::Span;
use crate::jsonrpc::text;
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
pub struct Asks(u8);

impl Asks {
    /// Whether this kind is among them.
    #[must_use]
    pub fn has(self, ask: Ask) -> bool {
        self.0 & ask.bit() != 0
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
    let mut asks = Asks::default();
    let Some(requests) = requests else {
        return Ok(asks);
    };
    if requests.of(result).first() != Some(&b'{') {
        return Err(InputFault::Malformed);
    }
    for (count, (_, request)) in walk::members(result, requests).enumerate() {
        if count == INPUT_REQUESTS_MAX {
            return Err(InputFault::TooMany);
        }
        asks.0 |= asked(result, request)?.bit();
    }
    Ok(asks)
}

/// What one entry of `inputRequests` asks.
fn asked(result: &[u8], request: Span) -> Result<Ask, InputFault> {
    let method = walk::member(result, request, "method").and_then(|value| walk::string(result, value));
    let method = method.ok_or(InputFault::Malformed)?.of(result);
    let ask = Ask::ALL.into_iter().find(|ask| text::same_text(method, ask.wire().as_bytes()));
    ask.ok_or(InputFault::UnknownMethod)
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
