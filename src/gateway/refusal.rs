//! Every way to say no, in one table: HTTP status, JSON-RPC code, the word for the record, the sentence for the agent.
//! The only place that knows status codes of refusals.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::http::body::BodyFault;
use crate::http::head::HeadFault;
use crate::jsonrpc::text::write_string;
use crate::mcp::call::CallFault;
use crate::mcp::revision::Era;
use crate::oauth::resource;

/// Code of a refusal by policy that is not a tool's: outside the range that JSON-RPC reserves, as MCP 2026-07-28 asks
/// of private codes (basic, "Error codes").
pub const CODE_REFUSED: i64 = -31_403;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table below is the documentation")]
pub enum Kind {
    HeadMalformed,
    HeadTooLarge,
    TargetTooLong,
    VersionUnsupported,
    ExpectationUnknown,
    BodyMalformed,
    BodyTooLarge,
    BodyIncomplete,
    NoBuffer,
    HostUnknown,
    OriginUnknown,
    NotFound,
    IssuerUnknown,
    MethodNotAllowed,
    TokenMissing,
    TokenInvalid,
    MediaType,
    ContentEncoding,
    JsonMalformed,
    EnvelopeInvalid,
    MetaMissing,
    HeaderMismatch,
    ProtocolUnsupported,
    RequestBad,
    MethodUnknown,
    ParamsInvalid,
    SessionUnknown,
    TaskUnavailable,
    ToolUnknown,
    PromptUnknown,
    ResourceUnknown,
    CompletionUnknown,
    TaskIdUnknown,
    CapabilityMissing,
    CursorInvalid,
    Forbidden,
    CatalogUnknown,
    RecordFull,
    ServerUnreachable,
    ServerTimeout,
    ServerCut,
    ServerInvalid,
    ServerRefusedUs,
    ServerUnhealthy,
    ServerBusy,
    AskForbidden,
    HostMisdirected,
    NoRoom,
    Overloaded,
    VerifyBusy,
    KeysUnavailable,
    KeysPending,
    IntrospectionUnavailable,
    SubjectBusy,
    StreamsBusy,
    IdInFlight,
    SessionsBusy,
    SessionsFull,
    StateFull,
    ServerUntrusted,
    Cancelled,
    Condition,
    Unknown,
    ScopeMissing,
    Limit,
    Rate,
    RateOfMethod,
    ApprovalPending,
    ApprovalDenied,
    ApprovalUnasked,
    ApprovalsFull,
    CountsFull,
    Revoked,
    CredentialAbsent,
    CredentialUnavailable,
    IdentityUnfit,
}

/// One row: what a refusal looks like.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The refusal.
    pub kind: Kind,
    /// HTTP status where the request was modern, or its era is not known.
    pub status: u16,
    /// HTTP status towards a legacy client, which takes 404 for the end of its session and 4xx for a broken transport.
    pub legacy: u16,
    /// JSON-RPC error code.
    pub code: i64,
    /// The word for the record.
    pub word: &'static str,
    /// The sentence, when the refusal has no better one of its own.
    pub message: &'static str,
    /// Whether the connection ends: the message boundary is in doubt, or the body was not read.
    pub close: bool,
    /// `Retry-After`, seconds; 0 for none.
    pub retry_after: u8,
}

#[expect(clippy::too_many_arguments, reason = "a row of the table")]
const fn row(
    kind: Kind,
    status: u16,
    legacy: u16,
    code: i64,
    word: &'static str,
    close: bool,
    retry_after: u8,
    message: &'static str,
) -> Row {
    Row { kind, status, legacy, code, word, message, close, retry_after }
}

/// The table.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row(Kind::HeadMalformed,       400, 400, -32600, "http",          true,  0, "The HTTP request is malformed or ambiguous."),
    row(Kind::HeadTooLarge,        431, 431, -32600, "http",          true,  0, "The request's header fields are too large."),
    row(Kind::TargetTooLong,       414, 414, -32600, "http",          true,  0, "The request target is too long."),
    row(Kind::VersionUnsupported,  505, 505, -32600, "http",          true,  0, "Only HTTP/1.0 and HTTP/1.1 are spoken here."),
    row(Kind::ExpectationUnknown,  417, 417, -32600, "http",          true,  0, "Only 'Expect: 100-continue' can be met."),
    row(Kind::BodyMalformed,       400, 400, -32600, "http",          true,  0, "The request body is malformed."),
    row(Kind::BodyTooLarge,        413, 413, -32600, "too_large",     true,  0, "The request body is larger than this gateway accepts."),
    row(Kind::BodyIncomplete,      400, 400, -32600, "http",          true,  0, "The request's body ended before its announced end."),
    row(Kind::NoBuffer,            503, 503, -32603, "overload",      true,  1, "The gateway has no memory free for this request; try again."),
    row(Kind::HostUnknown,         403, 403, -32600, "host",          true,  0, "This gateway does not answer for that Host; see 'hosts' in its configuration."),
    row(Kind::OriginUnknown,       403, 403, -32600, "origin",        true,  0, "This gateway does not answer that Origin; see 'origins' in its configuration."),
    row(Kind::HostMisdirected,     421, 421, -32600, "host",          true,  0, "This connection was not made for that Host; open one for it."),
    row(Kind::NotFound,            404, 404, -32600, "path",          false, 0, "There is no MCP endpoint at this path."),
    row(Kind::IssuerUnknown,       503, 503, -32603, "issuer",        false, 2, "The issuer's metadata is not known here yet; try again."),
    row(Kind::MethodNotAllowed,    405, 405, -32600, "http_method",   false, 0, "This HTTP method is not served here."),
    row(Kind::TokenMissing,        401, 401, -32600, "auth",          false, 0, "A bearer token is needed; the WWW-Authenticate field tells where to get one."),
    row(Kind::TokenInvalid,        401, 401, -32600, "auth",          false, 0, "The bearer token is not valid here."),
    row(Kind::MediaType,           415, 415, -32600, "media_type",    true,  0, "The body must be application/json."),
    row(Kind::ContentEncoding,     415, 415, -32600, "media_type",    true,  0, "The body must come without Content-Encoding."),
    row(Kind::JsonMalformed,       400, 400, -32700, "json",          false, 0, "Parse error: the body is not acceptable JSON."),
    row(Kind::EnvelopeInvalid,     400, 400, -32600, "envelope",      false, 0, "Invalid request: the body is not one JSON-RPC 2.0 message."),
    row(Kind::MetaMissing,         400, 400, -32602, "meta",          false, 0, "Invalid params: _meta lacks a key that this protocol version requires."),
    row(Kind::HeaderMismatch,      400, 400, -32020, "header",        false, 0, "Header mismatch: an MCP header is missing, malformed, or differs from the body."),
    row(Kind::ProtocolUnsupported, 400, 400, -32022, "protocol",      false, 0, "Unsupported protocol version."),
    row(Kind::RequestBad,          400, 400, -32600, "envelope",      false, 0, "Bad request."),
    row(Kind::MethodUnknown,       404, 200, -32601, "method",        false, 0, "Method not found."),
    row(Kind::ParamsInvalid,       400, 200, -32602, "params",        false, 0, "Invalid params."),
    row(Kind::SessionUnknown,      404, 404, -32001, "session",       false, 0, "Session not found: initialize again without a session id."),
    row(Kind::TaskUnavailable,     400, 400, -32602, "task",          false, 0, "The task named cannot be the active one."),
    row(Kind::ToolUnknown,         200, 200, -32602, "no_match",      false, 0, "Unknown tool"),
    row(Kind::PromptUnknown,       200, 200, -32602, "no_match",      false, 0, "Unknown prompt"),
    row(Kind::ResourceUnknown,     200, 200, -32602, "no_match",      false, 0, "Resource not found"),
    row(Kind::CompletionUnknown,   200, 200, -32602, "no_match",      false, 0, "Unknown reference"),
    row(Kind::TaskIdUnknown,       200, 200, -32602, "no_match",      false, 0, "Unknown task"),
    row(Kind::CapabilityMissing,   400, 400, -32021, "capability",    false, 0, "The request does not declare a capability that it needs."),
    row(Kind::CursorInvalid,       200, 200, -32602, "cursor",        false, 0, "Invalid cursor: this list has one page."),
    row(Kind::Forbidden,           200, 200, CODE_REFUSED, "forbid",  false, 0, "Refused by policy."),
    row(Kind::Condition,           200, 200, CODE_REFUSED, "condition", false, 0, "No rule lets this be done with these arguments."),
    row(Kind::Unknown,             200, 200, CODE_REFUSED, "unknown", false, 0, "An argument that the policy looks at is missing, or is not what it must be."),
    row(Kind::ScopeMissing,        403, 403, CODE_REFUSED, "scope",   false, 0, "The token lacks a scope that this needs; the WWW-Authenticate field names all of them."),
    row(Kind::Limit,               200, 200, CODE_REFUSED, "limit",   false, 0, "A limit is reached."),
    row(Kind::Rate,                200, 200, CODE_REFUSED, "rate",    false, 0, "Too many requests."),
    row(Kind::RateOfMethod,        429, 429, CODE_REFUSED, "rate",    false, 1, "Too many requests."),
    row(Kind::ApprovalPending,     200, 200, CODE_REFUSED, "approval",false, 0, "This has to be approved by a person first."),
    row(Kind::ApprovalDenied,      200, 200, CODE_REFUSED, "denied",  false, 0, "This was not approved."),
    row(Kind::ApprovalUnasked,     200, 200, CODE_REFUSED, "unasked", false, 0, "This has to be approved first, and nobody can be asked."),
    row(Kind::ApprovalsFull,       503, 503, -32603, "approvals_full",false, 5, "The gateway has as many approvals waiting as it can keep; try again later."),
    row(Kind::CountsFull,          503, 503, -32603, "counts_full",   false, 5, "The gateway has no room to count this call, so it does not let it go; try again later."),
    row(Kind::Revoked,             401, 401, -32600, "revoked",       false, 0, "The bearer token is not valid here: it was revoked."),
    row(Kind::CatalogUnknown,      503, 503, -32603, "catalog",       false, 2, "The server behind this endpoint has not been reached yet; try again."),
    row(Kind::NoRoom,              503, 503, -32603, "overload",      true,  1, "The gateway has no room for this connection; try again later."),
    row(Kind::Overloaded,          503, 503, -32603, "overload",      false, 1, "The gateway has more to do than it can carry, and this was not done; try again."),
    row(Kind::VerifyBusy,          503, 503, -32603, "overload",      false, 1, "Too many unknown tokens are waiting to be verified; try again."),
    row(Kind::KeysUnavailable,     503, 503, -32603, "keys_unavailable", false, 2, "The keys of the token's issuer are not known at the moment, so whether the token is good cannot be told; try again."),
    row(Kind::KeysPending,         503, 503, -32603, "keys_pending",  false, 5, "The token names a key that its issuer did not have a moment ago; it is looked for again soon, so try again."),
    row(Kind::IntrospectionUnavailable, 503, 503, -32603, "introspection", false, 1, "The token's issuer cannot say at the moment whether the token is good; try again."),
    row(Kind::SubjectBusy,         429, 429, -32603, "busy",          false, 1, "This subject has as many calls under way as one may have; wait for one to end."),
    row(Kind::StreamsBusy,         429, 429, -32603, "busy",          false, 1, "This subject has as many streams open as one may have; close one."),
    row(Kind::IdInFlight,          400, 400, -32600, "id",            false, 0, "A request of this session with the same id is still under way."),
    row(Kind::SessionsBusy,        429, 429, -32603, "busy",          false, 5, "This subject has as many sessions as one may have; end one."),
    row(Kind::SessionsFull,        503, 503, -32603, "overload",      false, 5, "The gateway has as many sessions as it can keep; try again later."),
    row(Kind::StateFull,           503, 503, -32603, "state",         false, 1, "The gateway cannot write down that this session has ended; it is over here, but ask again."),
    row(Kind::RecordFull,          503, 503, -32603, "record",        false, 1, "The gateway cannot write its record at the moment, so it lets no call go; try again."),
    row(Kind::ServerUnreachable,   200, 200, -32603, "unreachable",   false, 0, "The server behind this endpoint cannot be reached; the call was not sent."),
    row(Kind::ServerUntrusted,     200, 200, -32603, "server_tls",    false, 0, "The server behind this endpoint did not prove who it is (TLS); the call was not sent, and the gateway's operator has to look."),
    row(Kind::ServerUnhealthy,     200, 200, -32603, "unhealthy",     false, 0, "The server behind this endpoint has failed several times in a row and is left alone for a while; the call was not sent."),
    row(Kind::ServerBusy,          200, 200, -32603, "server_busy",   false, 0, "The server behind this endpoint has as many calls under way as it may have; this one was not sent."),
    row(Kind::ServerTimeout,       200, 200, -32603, "server_timeout",false, 0, "The server did not answer in time; whether it executed the call is not known."),
    row(Kind::ServerCut,           200, 200, -32603, "server_cut",    false, 0, "The server's connection ended before it had answered; whether it executed the call is not known."),
    row(Kind::ServerInvalid,       200, 200, -32603, "server_invalid",false, 0, "The server's answer was not acceptable and was withheld; the call may have been executed."),
    row(Kind::ServerRefusedUs,     200, 200, -32603, "server_auth",   false, 0, "The server refused the gateway's own credentials; its operator has to look."),
    row(Kind::CredentialAbsent,    200, 200, -32603, "credential_absent", false, 0, "The server is only called with a token of the caller's own; the call was not sent."),
    row(Kind::CredentialUnavailable, 200, 200, -32603, "credential_unavailable", false, 0, "The gateway could not get a credential for the server; the call was not sent."),
    row(Kind::IdentityUnfit,       200, 200, -32603, "identity_unfit", false, 0, "What the server is to be told of the caller cannot be written in a field; the call was not sent."),
    row(Kind::Cancelled,           200, 200, -32603, "cancelled",     false, 0, "The client took this request back; whether the server executed it is not known."),
    row(Kind::AskForbidden,        200, 200, CODE_REFUSED, "ask",     false, 0, "The server asked for input of a kind that policy does not let it ask for."),
];

/// A refusal on its way out. Boxed, because whatever may refuse hands out one of these or what it was asked for: calls
/// that are not refused, which is nearly all, are not to carry the room for it.
#[derive(Clone, Debug)]
pub struct Refusal(Box<Wording>);

/// What is said with a refusal.
#[derive(Clone, Debug)]
pub struct Wording {
    /// The row.
    pub kind: Kind,
    /// The caller's era, as far as it is known.
    pub era: Era,
    /// The request's id as JSON text, as far as it was readable.
    pub id: Option<SmallVec<[u8; 32]>>,
    /// A better sentence than the row's.
    pub message: Option<Cow<'static, str>>,
    /// `error.data`, JSON text.
    pub data: Option<Box<str>>,
    /// `WWW-Authenticate`.
    pub challenge: Option<Box<str>>,
    /// `Allow`, for a 405.
    pub allow: Option<&'static str>,
    /// `Retry-After`, seconds, where the row has one and this is more to the point; 0 where it is not.
    pub retry_after: u32,
    /// Whether a request is waiting for a JSON-RPC answer: a refused notification has a status other than 200.
    pub answerable: bool,
    /// Written as a tool's result with `isError`, so that the model reads it; `data` is then its `_meta`.
    pub tool_result: bool,
    /// Written as a result that asks the client for more before the call can go; `data` is then that result.
    pub input_required: bool,
    /// A request to the client that goes in front of it, JSON text on one line: the answer is an event stream then.
    pub ahead: Option<Box<str>>,
    /// The method, as far as it is known.
    pub method: &'static str,
    /// Of a merged endpoint's servers the one it is about, by name.
    pub server: Option<Arc<str>>,
    /// It has its record already, as a decision or as the outcome of one.
    pub recorded: bool,
}

impl Kind {
    /// Its row.
    ///
    /// # Panics
    /// Never: a test walks the table.
    #[must_use]
    pub fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.kind == self).expect("every kind has a row")
    }
}

impl Deref for Refusal {
    type Target = Wording;
    fn deref(&self) -> &Wording {
        &self.0
    }
}

impl DerefMut for Refusal {
    fn deref_mut(&mut self) -> &mut Wording {
        &mut self.0
    }
}

impl From<Kind> for Refusal {
    #[cold]
    fn from(kind: Kind) -> Self {
        Self(Box::new(Wording {
            kind,
            era: Era::Modern,
            id: None,
            message: None,
            data: None,
            challenge: None,
            allow: None,
            retry_after: 0,
            answerable: true,
            tool_result: false,
            input_required: false,
            ahead: None,
            method: "",
            server: None,
            recorded: false,
        }))
    }
}

impl Refusal {
    /// With the era and id of the request it answers.
    #[must_use]
    pub fn to(mut self, era: Era, id: Option<&[u8]>) -> Self {
        self.era = era;
        self.id = id.map(SmallVec::from_slice);
        self
    }

    /// With a sentence of its own.
    #[must_use]
    pub fn saying(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// With `error.data`.
    #[must_use]
    pub fn with(mut self, data: String) -> Self {
        self.data = Some(data.into());
        self
    }

    /// With `WWW-Authenticate`.
    #[must_use]
    pub fn challenging(mut self, challenge: &str) -> Self {
        self.challenge = Some(challenge.into());
        self
    }

    /// With `Allow`, of a 405.
    #[must_use]
    pub fn allowing(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// As one that has its record.
    #[must_use]
    pub fn recorded(mut self) -> Self {
        self.recorded = true;
        self
    }

    /// As the answer to a message that is no request.
    #[must_use]
    pub fn unanswerable(mut self) -> Self {
        self.answerable = false;
        self
    }

    /// Seconds for `Retry-After`; 0 for none.
    #[must_use]
    pub fn retry_after(&self) -> u64 {
        match (self.kind.row().retry_after, self.retry_after) {
            (0, _) => 0,
            (row, 0) => row.into(),
            (_, better) => better.into(),
        }
    }

    /// `WWW-Authenticate` as it is sent: where it names an error, with what is wrong. A call's own words are not told
    /// there: they quote names of the client's.
    #[must_use]
    pub fn described_challenge(&self) -> Option<String> {
        let said = self.message.as_deref().filter(|_| self.kind == Kind::TokenInvalid);
        self.challenge.as_ref().map(|challenge| resource::described(challenge, said.unwrap_or(self.kind.row().message)))
    }

    /// The HTTP status to send.
    #[must_use]
    pub fn status(&self) -> u16 {
        let row = self.kind.row();
        let status = if self.era == Era::Legacy { row.legacy } else { row.status };
        match (self.answerable, self.kind) {
            (true, _) => status,
            (
                false,
                Kind::ServerUnreachable
                | Kind::ServerUntrusted
                | Kind::ServerCut
                | Kind::ServerInvalid
                | Kind::ServerRefusedUs,
            ) => 502,
            (false, Kind::ServerTimeout) => 504,
            (false, Kind::ServerUnhealthy | Kind::ServerBusy | Kind::CredentialUnavailable) => 503,
            (false, _) if status == 200 => 400,
            (false, _) => status,
        }
    }

    /// The JSON-RPC error, or the tool's result.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        if self.tool_result {
            return self.write_tool_result(out);
        }
        if self.input_required {
            return self.write_question(out);
        }
        let row = self.kind.row();
        let code = match (self.kind, self.era) {
            // The legacy revisions have a code of their own for this (MCP 2025-11-25 server/resources).
            (Kind::ResourceUnknown, Era::Legacy) => -32_002,
            _ => row.code,
        };
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\"");
        match (&self.id, self.era) {
            (Some(id), _) => {
                out.extend_from_slice(b",\"id\":");
                out.extend_from_slice(id);
            }
            (None, Era::Legacy) => out.extend_from_slice(b",\"id\":null"),
            // An error that answers no known request has no id member (MCP 2026-07-28 schema, JSONRPCErrorResponse).
            (None, Era::Modern) => {}
        }
        out.extend_from_slice(b",\"error\":{\"code\":");
        out.extend_from_slice(itoa::Buffer::new().format(code).as_bytes());
        out.extend_from_slice(b",\"message\":");
        write_string(out, self.message.as_deref().unwrap_or(row.message));
        if let Some(data) = &self.data {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(data.as_bytes());
        }
        out.extend_from_slice(b"}}");
    }
}

impl Refusal {
    fn write_question(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(self.id.as_deref().unwrap_or(b"null"));
        out.extend_from_slice(b",\"result\":");
        out.extend_from_slice(self.data.as_deref().unwrap_or("{}").as_bytes());
        out.push(b'}');
    }

    fn write_tool_result(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(self.id.as_deref().unwrap_or(b"null"));
        out.extend_from_slice(b",\"result\":{\"content\":[{\"type\":\"text\",\"text\":");
        write_string(out, self.message.as_deref().unwrap_or(self.kind.row().message));
        out.extend_from_slice(b"}],\"isError\":true,\"_meta\":");
        out.extend_from_slice(self.data.as_deref().unwrap_or("{}").as_bytes());
        if self.era == Era::Modern {
            out.extend_from_slice(b",\"resultType\":\"complete\"");
        }
        out.extend_from_slice(b"}}");
    }
}

impl From<HeadFault> for Refusal {
    fn from(fault: HeadFault) -> Self {
        let kind = match fault {
            HeadFault::HeadTooLong | HeadFault::FieldsTooMany | HeadFault::ValueTooLong => Kind::HeadTooLarge,
            HeadFault::TargetTooLong => Kind::TargetTooLong,
            HeadFault::VersionUnsupported => Kind::VersionUnsupported,
            HeadFault::ExpectationUnknown => Kind::ExpectationUnknown,
            _ => Kind::HeadMalformed,
        };
        Self::from(kind).saying(fault.to_string())
    }
}

impl From<BodyFault> for Refusal {
    fn from(fault: BodyFault) -> Self {
        Self::from(Kind::BodyMalformed).saying(fault.to_string())
    }
}

/// The kind of a fault in a message's meaning.
#[must_use]
pub fn of_call(fault: &CallFault) -> (Kind, Option<Era>) {
    match fault {
        CallFault::MetaMissing(_) => (Kind::MetaMissing, Some(Era::Modern)),
        CallFault::HeaderMismatch(_) => (Kind::HeaderMismatch, Some(Era::Modern)),
        CallFault::UnsupportedVersion => (Kind::ProtocolUnsupported, None),
        CallFault::VersionUnknown | CallFault::Doubled => (Kind::RequestBad, Some(Era::Legacy)),
        CallFault::MethodUnknown(era) => (Kind::MethodUnknown, Some(*era)),
        CallFault::ResponseRefused => (Kind::EnvelopeInvalid, Some(Era::Modern)),
        CallFault::FormMismatch(era) => (Kind::EnvelopeInvalid, Some(*era)),
        CallFault::NameInvalid | CallFault::CaseTwin => (Kind::RequestBad, None),
        CallFault::ParamsInvalid(era, _) => (Kind::ParamsInvalid, Some(*era)),
        CallFault::TaskInvalid => (Kind::TaskUnavailable, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_once_and_speaks() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(ROWS.iter().position(|other| other.kind == row.kind), Some(index));
            assert!(row.message.len() > 8 && (200..600).contains(&row.status), "{row:?}");
            assert_eq!(row.retry_after > 0, matches!(row.status, 429 | 503), "{row:?}");
        }
    }
}
