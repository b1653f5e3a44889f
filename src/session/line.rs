//! What comes on the one connection of an HTTP+SSE server (MCP 2024-11-05 basic/transports), sorted: which answer is
//! whose, and on which of a client's streams everything else goes.
//!
//! Ids and progress tokens are the gateway's own towards the server: a late answer finds nobody, whatever numbers the
//! client uses again.

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

/// Where a message of the server goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// To the stream of this call.
    Call(Ticket),
    /// The same, and it is the answer: the call is over.
    Last(Ticket),
    /// To the session's own stream.
    Session,
    /// Back: it is the answer to a ping, which is between the two ends of this connection.
    Back,
    /// Nowhere: nobody waits for it.
    Nowhere,
}

/// Why a message does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineFault {
    /// `LINE_CALLS_MAX` calls are under way.
    #[error("too many calls are under way in this session")]
    Full,
    /// It is no message.
    #[error("not a JSON-RPC message")]
    Malformed,
}

/// The calls under way on one connection, oldest first.
#[derive(Debug, Default)]
pub struct Line {
    calls: Vec<Call>,
    next: u64,
}

#[derive(Debug)]
struct Call {
    ticket: Ticket,
    /// As its client wrote it.
    id: Box<[u8]>,
    /// The same; `None` where it asks for no progress.
    token: Option<Box<[u8]>>,
    /// Nothing but its answer is for it.
    bare: bool,
}

impl Line {
    /// Writes a client's message as the server gets it: a request under an id of our own. `envelope` was read from
    /// `message`; of a `bare` request the client gets nothing but the answer.
    ///
    /// # Errors
    /// [`LineFault::Full`]; nothing is written then.
    pub fn send(
        &mut self,
        message: &[u8],
        envelope: &Envelope,
        bare: bool,
        out: &mut Vec<u8>,
    ) -> Result<Goes, LineFault> {
        match envelope.shape {
            Shape::Request => self.ask(message, envelope, bare, out).map(Goes::Asking),
            Shape::Notification if envelope.method_name(message) == Some(CANCELLED) => {
                Ok(self.cancel(message, envelope, out))
            }
            _ => {
                out.extend_from_slice(message);
                Ok(Goes::Telling)
            }
        }
    }

    fn ask(&mut self, message: &[u8], envelope: &Envelope, bare: bool, out: &mut Vec<u8>) -> Result<Ticket, LineFault> {
        if self.calls.len() >= LINE_CALLS_MAX {
            return Err(LineFault::Full);
        }
        let id = envelope.id.ok_or(LineFault::Malformed)?;
        let token = envelope.meta(message, TOKEN).map(|member| member.value);
        self.next += 1;
        let ticket = Ticket(self.next);
        let mut digits = itoa::Buffer::new();
        let ours = digits.format(ticket.0).as_bytes();
        let mut edits = vec![(id.span, ours)];
        edits.extend(token.map(|span| (span, ours)));
        edits.sort_by_key(|(span, _)| span.start);
        splice(message, &edits, out);
        let token = token.map(|span| span.of(message).into());
        self.calls.push(Call { ticket, id: id.raw(message).into(), token, bare });
        Ok(ticket)
    }

    /// A client takes a request back: the server knows it by our id.
    fn cancel(&self, message: &[u8], envelope: &Envelope, out: &mut Vec<u8>) -> Goes {
        let named = envelope.param(message, "requestId").map(|member| member.value);
        let call = named.and_then(|span| {
            let call = self.calls.iter().find(|call| id::same(&call.id, span.of(message)))?;
            Some((span, call.ticket))
        });
        let Some((span, ticket)) = call else { return Goes::Late };
        splice(message, &[(span, itoa::Buffer::new().format(ticket.0).as_bytes())], out);
        Goes::Telling
    }

    /// Nobody waits for this call any more; its answer will find nobody.
    pub fn leave(&mut self, ticket: Ticket) {
        self.calls.retain(|call| call.ticket != ticket);
    }

    /// How many calls are under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Sorts a message of the server, and appends it as it goes on. `listened`: the session's own stream is open.
    ///
    /// # Errors
    /// [`LineFault::Malformed`]: the connection is not to be believed any more.
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
            return Ok(place.map_or(Where::Nowhere, |place| self.answer(message, place, out)));
        }
        let envelope = reader.read(message).map_err(|_| LineFault::Malformed)?;
        let name = envelope.method_name(message).unwrap_or_default();
        if envelope.shape == Shape::Request && name == b"ping" {
            out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
            out.extend_from_slice(envelope.id.map_or(&b"null"[..], |id| id.raw(message)));
            out.extend_from_slice(b",\"result\":{}}");
            return Ok(Where::Back);
        }
        let method = methods::find(name, Revision::NEWEST_LEGACY, Sender::Server);
        if method.is_some_and(|method| method.verb == Verb::Progress) {
            return Ok(self.progress(message, envelope, out));
        }
        out.extend_from_slice(message);
        // What is about no request goes to the session's own stream; everything else may be about the newest call.
        let news = method.is_some_and(|method| method.announces_change() || method.verb == Verb::ResourceUpdated);
        let newest = self.calls.iter().rev().find(|call| !call.bare).filter(|_| !(news && listened));
        Ok(newest.map_or(Where::Session, |call| Where::Call(call.ticket)))
    }

    fn answer(&mut self, message: &[u8], place: Span, out: &mut Vec<u8>) -> Where {
        let Some(at) = self.calls.iter().position(|call| Some(call.ticket.0) == number(place.of(message))) else {
            return Where::Nowhere;
        };
        let call = self.calls.remove(at);
        splice(message, &[(place, &call.id)], out);
        Where::Last(call.ticket)
    }

    fn progress(&self, message: &[u8], envelope: &Envelope, out: &mut Vec<u8>) -> Where {
        let Some(span) = envelope.param(message, TOKEN).map(|member| member.value) else { return Where::Nowhere };
        let ours = number(span.of(message));
        let call = self.calls.iter().find(|call| Some(call.ticket.0) == ours && !call.bare);
        let Some((call, token)) = call.and_then(|call| Some((call, call.token.as_deref()?))) else {
            return Where::Nowhere;
        };
        splice(message, &[(span, token)], out);
        Where::Call(call.ticket)
    }
}

/// One of our own ids, as it comes back.
fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

const CANCELLED: &[u8] = b"notifications/cancelled";
const TOKEN: &str = "progressToken";

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
            let (bytes, mut out) = (message.to_string().into_bytes(), Vec::new());
            let envelope = self.reader.read(&bytes).expect("the test sends messages");
            let goes = self.line.send(&bytes, envelope, bare, &mut out);
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
