//! What comes on the one channel of a server, sorted: the event stream of HTTP+SSE (MCP 2024-11-05 basic/transports), or
//! a child's standard output (MCP 2025-11-25 and 2026-07-28 basic/transports, "stdio"). Which answer is whose, and on
//! which of a client's streams everything else goes.
//!
//! Ids, progress tokens and the ids of subscriptions are the gateway's own towards the server: a late answer finds nobody,
//! whatever numbers the client uses again, and clients that share a channel cannot be taken for each other.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::base::limits::LINE_CALLS_MAX;
use crate::base::span::Span;
use crate::jsonrpc::answer::AnswerScan;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::id;
use crate::jsonrpc::scan::{Envelope, Reader, Shape};
use crate::mcp::method::{self as methods, Sender, Verb};
use crate::mcp::revision::Revision;

/// Names a call under way on one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// What became of a message on its way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// A request, whose answer will be under this ticket.
    Asking(Ticket),
    /// Anything else.
    Telling,
    /// Nowhere: it takes back a call that is over.
    Late,
}

/// How a message is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Whose it is, where several share the channel: nobody takes back another's request.
    pub from: u64,
    /// The client gets nothing but the answer to it.
    pub bare: bool,
    /// It opens a stream, whose messages name it (MCP 2026-07-28 basic/patterns/subscriptions).
    pub listens: bool,
}

/// Where a message of the server goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// To the stream of this call.
    Call(Ticket),
    /// The same, and it is the answer: the call is over.
    Last(Ticket),
    /// To the session's own stream; of a shared channel, to everybody's.
    Session,
    /// To those who subscribed to the resource that it names; of a shared channel only.
    Watchers,
    /// Nowhere, and this call is over: its server has ended the stream that it opened, without an answer.
    Ended(Ticket),
    /// Back: it is the answer to a ping, which is between the two ends of this connection; on a shared channel, also the
    /// refusal of whatever else the server asks, for there is nobody in particular whom it could ask.
    Back,
    /// Nowhere: nobody waits for it.
    Nowhere,
}

/// Why a message does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineFault {
    /// As many calls are under way as may be.
    #[error("too many calls are under way in this session")]
    Full,
    /// It is no message.
    #[error("not a JSON-RPC message")]
    Malformed,
}

/// The calls under way on one channel.
#[derive(Debug)]
pub struct Line {
    /// By their tickets, and so oldest first.
    calls: BTreeMap<u64, Call>,
    next: u64,
    calls_max: usize,
    shared: bool,
}

#[derive(Debug)]
struct Call {
    /// As its client wrote it.
    id: Box<[u8]>,
    /// The same; `None` where it asks for no progress.
    token: Option<Box<[u8]>>,
    manner: Manner,
}

impl Default for Line {
    fn default() -> Self {
        Self { calls: BTreeMap::new(), next: 0, calls_max: LINE_CALLS_MAX, shared: false }
    }
}

impl Line {
    /// A channel that many clients share, with `calls_max` calls under way at most.
    #[must_use]
    pub fn shared(calls_max: usize) -> Self {
        Self { shared: true, calls_max, ..Self::default() }
    }

    /// Writes a client's message as the server gets it: a request under an id of our own. `envelope` was read from
    /// `message`.
    ///
    /// # Errors
    /// [`LineFault::Full`]; nothing is written then.
    pub fn send(
        &mut self,
        message: &[u8],
        envelope: &Envelope,
        manner: Manner,
        out: &mut Vec<u8>,
    ) -> Result<Goes, LineFault> {
        match envelope.shape {
            Shape::Request => self.ask(message, envelope, manner, out).map(Goes::Asking),
            Shape::Notification if envelope.method_name(message) == Some(CANCELLED) => {
                Ok(self.cancel(message, envelope, manner, out))
            }
            _ => {
                out.extend_from_slice(message);
                Ok(Goes::Telling)
            }
        }
    }

    fn ask(
        &mut self,
        message: &[u8],
        envelope: &Envelope,
        manner: Manner,
        out: &mut Vec<u8>,
    ) -> Result<Ticket, LineFault> {
        if self.calls.len() >= self.calls_max {
            return Err(LineFault::Full);
        }
        let id = envelope.id.ok_or(LineFault::Malformed)?;
        let token = envelope.meta(message, TOKEN).map(|member| member.value);
        self.next += 1;
        let mut digits = itoa::Buffer::new();
        let ours = digits.format(self.next).as_bytes();
        let mut edits = vec![(id.span, ours)];
        edits.extend(token.map(|span| (span, ours)));
        edits.sort_by_key(|(span, _)| span.start);
        splice(message, &edits, out);
        let token = token.map(|span| span.of(message).into());
        self.calls.insert(self.next, Call { id: id.raw(message).into(), token, manner });
        Ok(Ticket(self.next))
    }

    /// A client takes a request of its own back: the server knows it by our id.
    fn cancel(&self, message: &[u8], envelope: &Envelope, manner: Manner, out: &mut Vec<u8>) -> Goes {
        let named = envelope.param(message, "requestId").map(|member| member.value);
        let call = named.and_then(|span| {
            let same = |call: &Call| call.manner.from == manner.from && id::same(&call.id, span.of(message));
            let (ticket, _) = self.calls.iter().find(|(_, call)| same(call))?;
            Some((span, *ticket))
        });
        let Some((span, ticket)) = call else { return Goes::Late };
        splice(message, &[(span, itoa::Buffer::new().format(ticket).as_bytes())], out);
        Goes::Telling
    }

    /// Nobody waits for this call any more; its answer will find nobody. Whether it was still under way.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        self.calls.remove(&ticket.0).is_some()
    }

    /// How many calls are under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Sorts a message of the server, and appends it as it goes on. `listened`: the session's own stream is open.
    ///
    /// # Errors
    /// [`LineFault::Malformed`]: it is no message; an event stream is not to be believed any more then.
    pub fn hear(
        &mut self,
        message: &[u8],
        scans: (&mut AnswerScan, &mut Reader),
        listened: bool,
        out: &mut Vec<u8>,
    ) -> Result<Where, LineFault> {
        let (answers, reader) = scans;
        // Answers may have more members than other messages.
        let facts = answers.read(message).map_err(|_| LineFault::Malformed)?;
        if matches!(facts.shape, Shape::Result | Shape::Error) {
            let place = answers.id_place().and_then(|place| {
                Some(Span::new(usize::try_from(place.start).ok()?, usize::try_from(place.end).ok()?))
            });
            return Ok(place.map_or(Where::Nowhere, |place| self.answer(message, place, reader, out)));
        }
        let envelope = reader.read(message).map_err(|_| LineFault::Malformed)?;
        let name = envelope.method_name(message).unwrap_or_default();
        if envelope.shape == Shape::Request && (name == b"ping" || self.shared) {
            out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
            out.extend_from_slice(envelope.id.map_or(&b"null"[..], |id| id.raw(message)));
            out.extend_from_slice(if name == b"ping" { b",\"result\":{}}" } else { NOBODY });
            return Ok(Where::Back);
        }
        if let Some(place) = self.subscribed(message, envelope, out) {
            return Ok(place);
        }
        let method = methods::find(name, Revision::NEWEST_LEGACY, Sender::Server);
        if method.is_some_and(|method| method.verb == Verb::Progress) {
            return Ok(self.progress(message, envelope, out));
        }
        if let Some(ended) = self.ended(name, message, envelope) {
            return Ok(Where::Ended(ended));
        }
        out.extend_from_slice(message);
        let updated = method.is_some_and(|method| method.verb == Verb::ResourceUpdated);
        let changed = method.is_some_and(methods::Method::announces_change);
        if self.shared {
            // What is said to nobody in particular may be about anybody's calls.
            return Ok(match (changed, updated) {
                (true, _) => Where::Session,
                (_, true) => Where::Watchers,
                _ => Where::Nowhere,
            });
        }
        // What is about no request goes to the session's own stream; everything else may be about the newest call.
        let newest = self.calls.iter().rev().find(|(_, call)| !call.manner.bare && !call.manner.listens);
        let newest = newest.filter(|_| !((changed || updated) && listened));
        Ok(newest.map_or(Where::Session, |(ticket, _)| Where::Call(Ticket(*ticket))))
    }

    fn answer(&mut self, message: &[u8], place: Span, reader: &mut Reader, out: &mut Vec<u8>) -> Where {
        let found = number(place.of(message)).and_then(|number| self.calls.remove_entry(&number));
        let Some((ticket, call)) = found else { return Where::Nowhere };
        let mut edits = vec![(place, &*call.id)];
        if call.manner.listens
            && let Ok(envelope) = reader.read(message)
            && let Some(member) = envelope.meta(message, SUBSCRIPTION)
        {
            edits.push((member.value, &*call.id));
            edits.sort_by_key(|(span, _)| span.start);
        }
        splice(message, &edits, out);
        Where::Last(Ticket(ticket))
    }

    fn progress(&self, message: &[u8], envelope: &Envelope, out: &mut Vec<u8>) -> Where {
        let Some(span) = envelope.param(message, TOKEN).map(|member| member.value) else { return Where::Nowhere };
        let call = self.known(span.of(message)).filter(|(_, call)| !call.manner.bare);
        let Some((ticket, token)) = call.and_then(|(ticket, call)| Some((ticket, call.token.as_deref()?))) else {
            return Where::Nowhere;
        };
        splice(message, &[(span, token)], out);
        Where::Call(ticket)
    }

    /// A message of a stream that a request opened names that request.
    fn subscribed(&self, message: &[u8], envelope: &Envelope, out: &mut Vec<u8>) -> Option<Where> {
        let span = envelope.meta(message, SUBSCRIPTION)?.value;
        let Some((ticket, call)) = self.known(span.of(message)).filter(|(_, call)| call.manner.listens) else {
            return Some(Where::Nowhere);
        };
        splice(message, &[(span, &call.id)], out);
        Some(Where::Call(ticket))
    }

    /// Over stdio a server may end a stream by taking the request back that opened it. All else that it takes back are
    /// requests of its own, under its own ids.
    fn ended(&mut self, name: &[u8], message: &[u8], envelope: &Envelope) -> Option<Ticket> {
        let span = envelope.param(message, "requestId").filter(|_| name == CANCELLED)?.value;
        let (ticket, _) = self.known(span.of(message)).filter(|(_, call)| call.manner.listens)?;
        self.leave(ticket);
        Some(ticket)
    }

    /// The call that has this id, or token, of ours.
    fn known(&self, ours: &[u8]) -> Option<(Ticket, &Call)> {
        let number = number(ours)?;
        Some((Ticket(number), self.calls.get(&number)?))
    }
}

/// What tells a server that nobody waits for a request any more (basic/utilities/cancellation).
#[must_use]
pub fn take_back(ticket: Ticket) -> Vec<u8> {
    let mut out = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":".to_vec();
    out.extend_from_slice(itoa::Buffer::new().format(ticket.0).as_bytes());
    out.extend_from_slice(b"}}");
    out
}

/// One of our own ids, as it comes back.
fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

const CANCELLED: &[u8] = b"notifications/cancelled";
const TOKEN: &str = "progressToken";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// The rest of an answer to what a server asks on a shared channel.
const NOBODY: &[u8] =
    b",\"error\":{\"code\":-32601,\"message\":\"This server is shared: there is no client to ask.\"}}";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    struct Desk {
        line: Line,
        answers: AnswerScan,
        reader: Reader,
    }

    impl Desk {
        fn new() -> Self {
            Self { line: Line::default(), answers: AnswerScan::new(0), reader: Reader::new(0) }
        }

        fn send(&mut self, message: &Value) -> (Result<Goes, LineFault>, Value) {
            self.send_as(message, false)
        }

        fn send_as(&mut self, message: &Value, bare: bool) -> (Result<Goes, LineFault>, Value) {
            self.send_in(message, Manner { bare, ..Manner::default() })
        }

        fn send_in(&mut self, message: &Value, manner: Manner) -> (Result<Goes, LineFault>, Value) {
            let (bytes, mut out) = (message.to_string().into_bytes(), Vec::new());
            let envelope = self.reader.read(&bytes).expect("the test sends messages");
            let goes = self.line.send(&bytes, envelope, manner, &mut out);
            (goes, serde_json::from_slice(&out).unwrap_or_default())
        }

        /// Sends a request; its ticket and the id that the server sees.
        fn ask(&mut self, message: &Value) -> (Ticket, Value) {
            let (goes, sent) = self.send(message);
            let Ok(Goes::Asking(ticket)) = goes else { panic!("{goes:?}") };
            (ticket, sent["id"].clone())
        }

        fn hear(&mut self, message: &Value, listened: bool) -> (Result<Where, LineFault>, Value) {
            let mut out = Vec::new();
            let scans = (&mut self.answers, &mut self.reader);
            let place = self.line.hear(message.to_string().as_bytes(), scans, listened, &mut out);
            (place, serde_json::from_slice(&out).unwrap_or_default())
        }
    }

    fn call(id: impl Into<Value>, token: Option<Value>) -> Value {
        let mut params = json!({ "name": "x", "arguments": { "id": 7, "progressToken": 9 } });
        if let Some(token) = token {
            params["_meta"] = json!({ "progressToken": token });
        }
        json!({ "jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": params })
    }

    fn answer(id: &Value, text: &str) -> Value {
        json!({ "jsonrpc": "2.0", "id": id, "result": { "text": text, "id": 1 } })
    }

    fn progress(token: &Value) -> Value {
        let params = json!({ "progressToken": token, "progress": 1 });
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })
    }

    fn tell(method: &str) -> Value {
        json!({ "jsonrpc": "2.0", "method": method, "params": { "uri": "a:b" } })
    }

    #[test]
    fn answers_go_to_their_askers() {
        let mut desk = Desk::new();
        let (one, first) = desk.ask(&call("a\"", None));
        let (two, second) = desk.ask(&call(12, None));
        assert_ne!(first, second);
        let (place, said) = desk.hear(&answer(&second, "two"), false);
        assert_eq!((place, said), (Ok(Where::Last(two)), answer(&json!(12), "two")));
        let error = json!({ "jsonrpc": "2.0", "id": first, "error": { "code": -1, "message": "no" } });
        let (place, said) = desk.hear(&error, false);
        assert_eq!((place, &said["id"]), (Ok(Where::Last(one)), &json!("a\"")));
        // Twice, for nobody, as a string, and with no id at all.
        for id in [&second, &json!(99), &json!("1"), &json!(-1)] {
            assert_eq!(desk.hear(&answer(id, ""), false), (Ok(Where::Nowhere), Value::Null));
        }
        let nameless = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32700, "message": "?" } });
        assert_eq!(desk.hear(&nameless, false).0, Ok(Where::Nowhere));
        assert_eq!(desk.line.calls(), 0);
    }

    #[test]
    fn a_late_answer_finds_nobody_though_its_id_is_used_again() {
        let mut desk = Desk::new();
        let (late, first) = desk.ask(&call(1, Some(json!(1))));
        desk.line.leave(late);
        let (ticket, second) = desk.ask(&call(1, Some(json!(1))));
        assert_eq!(desk.hear(&progress(&first), false).0, Ok(Where::Nowhere));
        assert_eq!(desk.hear(&answer(&first, "late"), false).0, Ok(Where::Nowhere));
        assert_eq!(desk.hear(&answer(&second, "mine"), false).0, Ok(Where::Last(ticket)));
    }

    #[test]
    fn progress_has_its_clients_token_again() {
        let mut desk = Desk::new();
        let (one, first) = desk.ask(&call(1, Some(json!("t\u{e9}"))));
        let (_, second) = desk.ask(&call(2, None));
        assert_eq!(desk.hear(&progress(&first), true), (Ok(Where::Call(one)), progress(&json!("t\u{e9}"))));
        assert_eq!(desk.hear(&progress(&second), true).0, Ok(Where::Nowhere), "it asked for none");
        assert_eq!(desk.hear(&progress(&json!("t\u{e9}")), true).0, Ok(Where::Nowhere));
    }

    #[test]
    fn everything_else_belongs_to_the_newest_call() {
        let mut desk = Desk::new();
        let ask = json!({ "jsonrpc": "2.0", "id": "s", "method": "roots/list" });
        let (message, changed) = (tell("notifications/message"), tell("notifications/tools/list_changed"));
        assert_eq!(desk.hear(&ask, false), (Ok(Where::Session), ask.clone()));
        let (one, _) = desk.ask(&call(1, None));
        let (two, second) = desk.ask(&call(2, None));
        assert_eq!(desk.hear(&ask, true).0, Ok(Where::Call(two)));
        assert_eq!(desk.hear(&message, true), (Ok(Where::Call(two)), message.clone()));
        // News is about no request; with no stream for it, a call's is better than none.
        assert_eq!(desk.hear(&changed, true).0, Ok(Where::Session));
        assert_eq!(desk.hear(&tell("notifications/resources/updated"), true).0, Ok(Where::Session));
        assert_eq!(desk.hear(&changed, false).0, Ok(Where::Call(two)));
        assert!(desk.hear(&answer(&second, ""), true).0.is_ok());
        assert_eq!(desk.hear(&message, true).0, Ok(Where::Call(one)));
        desk.line.leave(one);
        assert_eq!(desk.hear(&message, true).0, Ok(Where::Session));
    }

    #[test]
    fn a_bare_request_gets_its_answer_only() {
        let mut desk = Desk::new();
        let (goes, sent) = desk.send_as(&call(1, None), true);
        let Ok(Goes::Asking(ticket)) = goes else { panic!("{goes:?}") };
        assert_eq!(desk.hear(&tell("notifications/message"), false).0, Ok(Where::Session));
        assert_eq!(desk.hear(&answer(&sent["id"], ""), false).0, Ok(Where::Last(ticket)));
    }

    #[test]
    fn pings_are_answered_here() {
        let ping = json!({ "jsonrpc": "2.0", "id": "p\n", "method": "ping" });
        let pong = json!({ "jsonrpc": "2.0", "id": "p\n", "result": {} });
        assert_eq!(Desk::new().hear(&ping, true), (Ok(Where::Back), pong));
    }

    #[test]
    fn cancellations_name_what_the_server_knows() {
        let cancel = |id: Value| json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "reason": "r", "requestId": id } });
        let mut desk = Desk::new();
        let (ticket, ours) = desk.ask(&call("x", None));
        assert_eq!(desk.send(&cancel(json!("x"))), (Ok(Goes::Telling), cancel(ours)));
        assert_eq!(desk.send(&cancel(json!("y"))).0, Ok(Goes::Late));
        desk.line.leave(ticket);
        assert_eq!(desk.send(&cancel(json!("x"))).0, Ok(Goes::Late));
        assert_eq!(desk.send(&tell("notifications/cancelled")).0, Ok(Goes::Late));
        // What else a client tells goes as it is.
        let told = [tell("notifications/initialized"), answer(&json!(1), "to an ask")];
        for message in told {
            assert_eq!(desk.send(&message), (Ok(Goes::Telling), message));
        }
    }

    fn from(from: u64) -> Manner {
        Manner { from, ..Manner::default() }
    }

    fn listening(from: u64) -> Manner {
        Manner { listens: true, ..self::from(from) }
    }

    #[test]
    fn a_stream_is_known_by_its_subscription() {
        let mut desk = Desk::new();
        let listen = |id: Value| json!({ "jsonrpc": "2.0", "id": id, "method": "subscriptions/listen", "params": {} });
        let event = |id: &Value| json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": { "_meta": { (SUBSCRIPTION): id } } });
        let over = |call: &Value, id: &Value| json!({ "jsonrpc": "2.0", "id": call, "result": { "_meta": { (SUBSCRIPTION): id }, "resultType": "complete" } });
        let (one, first) = desk.send_in(&listen(json!("a")), listening(0));
        let (two, second) = desk.send_in(&listen(json!(-5)), listening(0));
        let (Ok(Goes::Asking(one)), Ok(Goes::Asking(two))) = (one, two) else { panic!("{one:?} {two:?}") };
        let (plain, third) = desk.ask(&call(3, None));
        let (first, second) = (&first["id"], &second["id"]);
        assert_eq!(desk.hear(&event(first), false), (Ok(Where::Call(one)), event(&json!("a"))));
        assert_eq!(desk.hear(&event(second), false), (Ok(Where::Call(two)), event(&json!(-5))));
        assert_eq!(desk.hear(&event(&third), false).0, Ok(Where::Nowhere), "not a stream");
        assert_eq!(desk.hear(&event(&json!(77)), false).0, Ok(Where::Nowhere));
        // What names no stream is none of a stream's.
        assert_eq!(desk.hear(&tell("notifications/message"), false).0, Ok(Where::Call(plain)));
        assert_eq!(desk.hear(&over(first, first), false), (Ok(Where::Last(one)), over(&json!("a"), &json!("a"))));
        let end = |id: &Value| json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
        assert_eq!(desk.hear(&end(second), false).0, Ok(Where::Ended(two)));
        // A request of the server's own that has the number of a call.
        assert_eq!(desk.hear(&end(&third), false).0, Ok(Where::Call(plain)));
        assert_eq!(desk.line.calls(), 1);
    }

    #[test]
    fn a_shared_channel_tells_nobody_what_may_be_anothers() {
        let mut desk = Desk { line: Line::shared(8), ..Desk::new() };
        let (one, ours) = desk.send_in(&call(1, Some(json!(1))), from(7));
        let (two, other) = desk.send_in(&call(1, Some(json!(1))), from(8));
        let (Ok(Goes::Asking(one)), Ok(Goes::Asking(two))) = (one, two) else { panic!("{one:?} {two:?}") };
        assert_eq!(desk.hear(&tell("notifications/message"), true).0, Ok(Where::Nowhere));
        assert_eq!(desk.hear(&tell("notifications/tools/list_changed"), false).0, Ok(Where::Session));
        assert_eq!(desk.hear(&tell("notifications/resources/updated"), false).0, Ok(Where::Watchers));
        assert_eq!(desk.hear(&progress(&other["id"]), false), (Ok(Where::Call(two)), progress(&json!(1))));
        let (place, said) = desk.hear(&json!({ "jsonrpc": "2.0", "id": "s", "method": "roots/list" }), true);
        assert_eq!((place, &said["id"], &said["error"]["code"]), (Ok(Where::Back), &json!("s"), &json!(-32_601)));
        // Each takes back its own.
        let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } });
        assert_eq!(desk.send_in(&cancel, from(8)).1["params"]["requestId"], other["id"]);
        assert_eq!(desk.send_in(&cancel, from(9)).0, Ok(Goes::Late));
        let back: Value = serde_json::from_slice(&take_back(one)).expect("it is JSON");
        assert_eq!(back["params"]["requestId"], ours["id"]);
        for id in 2..8 {
            assert!(desk.send(&call(id, None)).0.is_ok());
        }
        assert_eq!(desk.send(&call(8, None)).0, Err(LineFault::Full));
    }

    /// Whatever a client writes as an id comes back byte for byte.
    #[test]
    fn ids_come_back_as_they_were_written() {
        let mut desk = Desk { line: Line::shared(8), ..Desk::new() };
        for id in ["1", "\"1\"", "9007199254740993", "-7", "\"\\u0031\"", "\"1.0\"", "18446744073709551615"] {
            let asked = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{}}}}");
            let (mut sent, mut said) = (Vec::new(), Vec::new());
            let envelope = desk.reader.read(asked.as_bytes()).expect("an id that may be used");
            desk.line.send(asked.as_bytes(), envelope, from(1), &mut sent).expect("there is room");
            let ours: Value = serde_json::from_slice(&sent).expect("it is JSON");
            let answered = answer(&ours["id"], "x").to_string();
            let scans = (&mut desk.answers, &mut desk.reader);
            let place = desk.line.hear(answered.as_bytes(), scans, false, &mut said);
            assert!(matches!(place, Ok(Where::Last(_))), "{id}: {place:?}");
            let want = answered.replace(&format!("\"id\":{}", ours["id"]), &format!("\"id\":{id}"));
            // The result has an `id` of its own, which is none of ours.
            let want = want.replace(&format!("{{\"id\":{id},\"text\""), "{\"id\":1,\"text\"");
            assert_eq!(String::from_utf8(said).expect("as it came"), want, "{id}");
        }
    }

    #[test]
    fn bounds() {
        let mut desk = Desk::new();
        for id in 0..LINE_CALLS_MAX {
            desk.ask(&call(id, None));
        }
        assert_eq!(desk.send(&call("more", None)).0, Err(LineFault::Full));
        assert_eq!(desk.line.calls(), LINE_CALLS_MAX);
        assert_eq!(desk.hear(&json!([]), false).0, Err(LineFault::Malformed));
        assert_eq!(desk.hear(&json!({ "jsonrpc": "2.0" }), false).0, Err(LineFault::Malformed));
    }

    proptest! {
        /// Whatever comes in whatever order: each call gets the answer to its own request, once, under its own id.
        #[test]
        fn no_answer_is_mixed_up(steps in prop::collection::vec((0..3_u8, 0..6_usize, 0..4_u64), 1..60)) {
            let mut desk = Desk::new();
            // What the server was asked, and by whom; who still waits.
            let mut asked: Vec<(Value, Ticket, u64)> = Vec::new();
            let mut waiting: Vec<Ticket> = Vec::new();
            for (step, which, id) in steps {
                match (step, asked.get(which).cloned()) {
                    (0, _) => {
                        let (ticket, ours) = desk.ask(&call(id, Some(json!(id))));
                        prop_assert!(asked.iter().all(|(other, ..)| *other != ours));
                        asked.push((ours, ticket, id));
                        waiting.push(ticket);
                    }
                    (1, Some((ours, ticket, id))) => {
                        let (place, said) = desk.hear(&answer(&ours, "x"), false);
                        if waiting.contains(&ticket) {
                            prop_assert_eq!((place, &said["id"]), (Ok(Where::Last(ticket)), &json!(id)));
                            waiting.retain(|one| *one != ticket);
                        } else {
                            prop_assert_eq!(place, Ok(Where::Nowhere));
                        }
                    }
                    (2, Some((_, ticket, _))) => {
                        desk.line.leave(ticket);
                        waiting.retain(|one| *one != ticket);
                    }
                    _ => {}
                }
                prop_assert_eq!(desk.line.calls(), waiting.len());
            }
        }
    }
}
