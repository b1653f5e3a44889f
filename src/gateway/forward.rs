//! A permitted, recorded message on its way to its server: the head written anew, the body as received, the wait that
//! notices when nobody waits any more, and the one outcome.

use std::pin::pin;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::base::limits::{ANSWER_WHOLE_BYTES_MAX, BUSY_PAUSE_MS};
use crate::base::span::Span;
use crate::base::time::Moment;
use crate::http::field::Known;
use crate::http::head::Method;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::text::write_string;
use crate::mcp::call::{Call, Object, TaskName};
use crate::mcp::headers::encode_value;
use crate::mcp::method::Verb;
use crate::mcp::revision::Era;
use crate::record::Recorded;
use crate::record::frame::Status;
use crate::session::ledger::Upstream;
use crate::session::way::{Do, In, Reach, Way, WayFault};
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Abort, Answer, Clearance, Composed, Lane, Request};
use crate::upstream::shown::Shown;
use crate::uring::buffer::Buffer;

use super::answer::{Media, accepted, media};
use super::conn::{Body, Conn};
use super::exchange::{self, Lanes, Wish, legacy_fields, watched};
use super::flight::{Ended, Flight, NEVER, Next, Renamed, end, failed};
use super::modern::Opted;
use super::question::Reply;
use super::refusal::{Kind, Refusal};
use super::sessions::{Live, Restored};
use super::shard::{Held, Shard};
use super::tally::Count;
use super::watch::{self, Heed, Woke};
use super::{relay, sessions, shown, traced};

/// Sends a permitted message and gives the client what comes back. One in a session goes to the server's session that
/// belongs to it; where the server has forgotten that one, and so has not executed the message, once more in a new one.
pub(super) async fn serve(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    flight: &mut Flight,
    recorded: &Recorded,
    restored: Option<&Restored>,
) -> Result<Next, Refusal> {
    let snapshot = flight.snapshot.clone();
    let mut trip = begin(shard, conn, body, flight, &snapshot, recorded, restored);
    let slot = conn.slot.clone();
    let abort = &*slot.abort;
    abort.reset();
    trip.shown = match shown::at_hand(shard, &snapshot, flight.server, flight.whom()) {
        Some(found) => found.map_err(|lack| flight.lacks(shard, &lack))?,
        None => Box::pin(fetched(shard, conn, flight, &trip)).await?,
    };
    flight.shown.clone_from(&trip.shown);
    trip.seat(shard, flight)?;
    let live = flight.session.clone();
    let mut way = live.as_ref().map(|live| trip.way(flight, live, trip.deadline));
    let result = loop {
        let mut upstream = None;
        if let (Some(live), Some((way, next))) = (&live, &mut way) {
            let known = sessions::known(shard, flight, live, *next);
            upstream = match known {
                Some(known) => Some(known),
                None => match Box::pin(sessions::reach(shard, flight, live, way, *next)).await {
                    Ok(upstream) => Some(upstream),
                    Err(fault) => break Box::pin(unreached(shard, conn, flight, fault)).await,
                },
            };
        }
        // Made where they wait, here and further down: a future that is made and then awaited is copied on the way.
        let sent = pin!(send(shard, conn, body, flight, &trip, upstream.as_deref(), abort)).await;
        let mut answer = match sent {
            Ok(answer) => answer,
            Err(Stop::Fault(fault)) => break Err(failed(shard, flight, fault)),
            Err(Stop::Refused(refusal)) => break Err(refusal),
        };
        let mut collected = None;
        if let (Some((way, next)), 400 | 404) = (&mut way, answer.status()) {
            match Box::pin(forgotten(shard, conn, flight, &mut answer, abort)).await {
                Ok((true, _)) => {
                    answer.abandon();
                    *next = way.step(In::Forgotten, shard.timers.now().mono);
                    continue;
                }
                Ok((false, body)) => collected = body,
                Err(fault) => break Err(failed(shard, flight, fault)),
            }
        }
        if let Some(body) = collected {
            break Box::pin(relay::json(shard, conn, flight, answer, abort, Some(body))).await;
        }
        let given = pin!(relay::answer(shard, conn, flight, answer, abort, trip.timeout)).await;
        break given;
    };
    abort.reset();
    result
}

/// What is known of a message before it goes.
fn begin<'a>(
    shard: &Shard,
    conn: &Conn,
    body: &Body,
    flight: &mut Flight,
    snapshot: &'a Held,
    recorded: &'a Recorded,
    restored: Option<&'a Restored>,
) -> Trip<'a> {
    let call = recorded.permit().call();
    if flight.era == Era::Modern {
        flight.opted = Opted::of(call, flight.id.as_deref(), conn.body_bytes(body));
    } else {
        if call.method.is_some_and(|method| method.verb == Verb::Initialize) {
            flight.profile = sessions::profile(shard, conn.body_bytes(body));
        }
        flight.change.set(sessions::change(shard, flight, call, conn.body_bytes(body)));
    }
    Trip::new(shard, snapshot, flight, recorded, restored)
}

/// What a message is sent with.
pub(super) struct Trip<'a> {
    snapshot: &'a Held,
    recorded: &'a Recorded,
    /// What goes instead of the body as received: an answer to a server's request, under that request's own id.
    restored: Option<&'a Restored>,
    /// What is due at its server.
    pub(super) shown: Option<Rc<Shown>>,
    /// Milliseconds.
    pub(super) timeout: u64,
    /// The end of them, for what comes before its answer.
    pub(super) deadline: Moment,
}

impl<'a> Trip<'a> {
    pub(super) fn new(
        shard: &Shard,
        snapshot: &'a Held,
        flight: &Flight,
        recorded: &'a Recorded,
        restored: Option<&'a Restored>,
    ) -> Self {
        let timeout = snapshot.settings.servers[flight.server.index()].timeout_ms;
        let deadline = shard.timers.last().mono.plus_ms(timeout);
        Self { snapshot, recorded, restored, shown: None, timeout, deadline }
    }

    /// The lanes of a message: to where its session is at its server, or to the instances that it may go to, best first.
    pub(super) fn lanes(&self, shard: &Shard, flight: &Flight, upstream: Option<&Upstream>) -> Lanes<'_> {
        let wish = upstream.map_or_else(|| Wish::Key(exchange::key(shard, flight)), |at| Wish::At(at.instance));
        Lanes::new(self.snapshot, flight.server, wish, self.shown.as_ref())
    }

    /// A place among the calls that its server may have under way at once. It is given back when the answer leaves.
    pub(super) fn seat(&self, shard: &Shard, flight: &Flight) -> Result<(), Refusal> {
        let max = self.snapshot.settings.servers[flight.server.index()].concurrency;
        let verb = flight.method.filter(|_| flight.id.is_some()).map(|method| method.verb);
        // What ends by itself is bounded; a subscription is under way for as long as its client likes.
        let (Some(max), Some(_)) = (max, verb.filter(|verb| *verb != Verb::Listen)) else { return Ok(()) };
        if self.snapshot.states[flight.server.index()].seats.take(max) {
            flight.seated.set(true);
            return Ok(());
        }
        shard.count(Count::ServersBusy);
        let refusal = flight.later(Kind::ServerBusy, BUSY_PAUSE_MS);
        let code = Kind::ServerBusy.row().code;
        end(shard, flight, Ended { code, ..Ended::of(Status::Unreachable, refusal.status()) });
        Err(refusal)
    }

    /// The way of a message that may go to one server's session alone, or to whichever is the newest.
    pub(super) fn way(&self, flight: &Flight, live: &Live, deadline: Moment) -> (Way, Do) {
        let reach = self.restored.map_or(Reach::Newest, |restored| Reach::Epoch(restored.epoch));
        Way::new(Some(live.epoch(sessions::digest(flight))), reach, deadline)
    }
}

/// What is due at its server, where the plane has to fetch it: a client that leaves meanwhile has not called.
async fn fetched(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    trip: &Trip<'_>,
) -> Result<Option<Rc<Shown>>, Refusal> {
    let since = shard.timers.now().mono;
    let mut work = pin!(shown::due(shard, trip.snapshot, flight.server, flight.whom(), trip.deadline));
    loop {
        match watch::next(shard, conn, work.as_mut(), NEVER, flight.era == Era::Modern, Heed::Nothing).await {
            Woke::Done(found) => {
                flight.figures.waits(shard, since);
                return found.map_err(|lack| flight.lacks(shard, &lack));
            }
            Woke::Gone => return Err(failed(shard, flight, UpstreamFault::Withdrawn)),
            Woke::Time | Woke::Draining => {}
        }
    }
}

/// Whether an answer with this status says that its server has forgotten the session; and what of its body had to be
/// read to find out.
async fn forgotten(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    answer: &mut Answer,
    abort: &Abort,
) -> Result<(bool, Option<Buffer>), UpstreamFault> {
    let status = answer.status();
    let mut collected = None;
    if status == 400 && media(answer) == Media::Json {
        collected = Some(relay::collect(shard, conn, flight, answer, abort, ANSWER_WHOLE_BYTES_MAX).await?);
    }
    let said = collected.as_deref().unwrap_or_default();
    Ok((sessions::is_forgotten(shard, status, said, flight.id.as_deref()), collected))
}

/// No session of its server could be had for a message.
async fn unreached(shard: &Shard, conn: &mut Conn, flight: &Flight, fault: WayFault) -> Result<Next, Refusal> {
    if fault == WayFault::Gone {
        lost(shard, flight);
        return accepted(shard, conn).await;
    }
    Err(unsent(shard, flight, fault))
}

/// What became of a message that no session of its server could be had for; recorded.
pub(super) fn unsent(shard: &Shard, flight: &Flight, fault: WayFault) -> Refusal {
    let refusal = sessions::refused(shard, flight, fault);
    end(shard, flight, Ended::of(Status::Unreachable, refusal.status()));
    refusal.recorded()
}

/// A client's answer to what a server asked in a session that it has forgotten: it concerns nobody, and the client's own
/// session goes on.
pub(super) fn lost(shard: &Shard, flight: &Flight) {
    shard.count(Count::AnswersDropped);
    end(shard, flight, Ended::of(Status::Unreachable, 202));
}

/// Why there is no answer.
enum Stop {
    /// What the exchange ended with.
    Fault(UpstreamFault),
    /// Nothing was sent, and this is recorded.
    Refused(Refusal),
}

/// Sends it, and waits for the head of the answer. Where nothing could be sent to an instance, the next one gets it.
async fn send(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    flight: &mut Flight,
    trip: &Trip<'_>,
    upstream: Option<&Upstream>,
    abort: &Abort,
) -> Result<Answer, Stop> {
    let mut lanes = trip.lanes(shard, flight, upstream);
    let mut fault = UpstreamFault::NoAddress;
    while let Some(lane) = lanes.next(shard) {
        traced::attempt(shard, flight, &lane, upstream);
        let Some(request) = compose(shard, conn, body, flight, trip, &lane, upstream) else {
            end(shard, flight, Ended::of(Status::Unreachable, 503));
            return Err(Stop::Refused(Refusal::from(Kind::NoBuffer).recorded()));
        };
        flight.sent = shard.timers.last().mono;
        flight.goes_to(shard, upstream);
        if flight.is_cancelled(shard) {
            // While it waited for something else; firing ends an exchange that is under way, and this one is not yet.
            traced::withdrawn(flight);
            return Err(Stop::Fault(UpstreamFault::Withdrawn));
        }
        flight.may_go(shard).map_err(Stop::Refused)?;
        flight.tries(shard, &lane);
        let sent = {
            let may = || flight.revoked(shard).is_none();
            let lane = Lane { may: Some(&may), ..lane };
            let modern = flight.era == Era::Modern;
            let sent = pin!(watched(shard, conn, modern, lane, request, trip.deadline, abort)).await;
            sent
        };
        flight.answered = shard.timers.now().mono;
        fault = match sent {
            Ok(answer) => {
                flight.written.set(true);
                return Ok(answer);
            }
            Err(fault) => fault,
        };
        traced::attempted(shard, flight, fault);
        if fault == UpstreamFault::Withdrawn {
            // Revoked, or nobody waits any more: another instance is no better then.
            flight.may_go(shard).map_err(Stop::Refused)?;
            break;
        }
        if !fault.is_unsent() {
            flight.written.set(true);
            break;
        }
    }
    Err(Stop::Fault(fault))
}

/// The request as the server gets it. Of the caller's head only what MCP defines is written anew; nothing of it is
/// copied through, least of all its credentials.
pub(super) fn compose(
    shard: &Shard,
    conn: &Conn,
    body: &Body,
    flight: &Flight,
    trip: &Trip<'_>,
    lane: &Lane<'_>,
    upstream: Option<&Upstream>,
) -> Option<Composed> {
    let bytes = conn.bytes();
    let head = &conn.head;
    let call = trip.recorded.permit().call();
    let text = conn.body_bytes(body);
    // The name that the server knows, where the client knows another.
    let mut theirs_name = Vec::new();
    match (&call.subject, call.subject.text().filter(|_| flight.renamed().is_some())) {
        (Object::Task(name), _) => encode_value(theirs(name), &mut theirs_name),
        (_, Some(name)) => encode_value(name.of(text), &mut theirs_name),
        _ => {}
    }
    let context = traced::fields(shard, conn, flight);
    let mut fields: SmallVec<[(Known, &[u8]); 12]> = SmallVec::new();
    let mut params: SmallVec<[(&[u8], &[u8]); 4]> = SmallVec::new();
    match flight.era {
        Era::Modern => {
            for known in [Known::McpProtocolVersion, Known::McpMethod] {
                if let Some(value) = head.get(bytes, known) {
                    fields.push((known, value));
                }
            }
            if let Some(name) = head.get(bytes, Known::McpName) {
                fields.push((Known::McpName, if theirs_name.is_empty() { name } else { &theirs_name }));
            }
            // Some servers read `_` in a field's name as `-` (RFC 3875, 4.1.18): one that is not checked against the
            // body could pass for one that is.
            for (name, value) in head.params(bytes).filter(|(name, _)| !name.contains(&b'_')) {
                params.push((name, value));
            }
        }
        Era::Legacy => legacy_fields(flight, upstream, &mut fields),
    }
    context.put(conn, &mut fields);
    let meta = traced::edit(shard, flight, call, text);
    let edited = edited(call, flight.renamed(), flight.answer.as_deref(), meta, text);
    let text = trip.restored.map_or(text, |restored| &restored.body);
    let request = Request {
        method: Method::Post,
        usual: true,
        fields: &fields,
        params: &params,
        body: Some(edited.as_deref().unwrap_or(text)),
        // A tool call is written at most once; anything else may meet a kept connection that has just been closed.
        repeatable: call.method.is_none_or(|method| method.verb != Verb::ToolsCall),
    };
    shard.upstreams.compose(Clearance::Call(trip.recorded), lane, &request)
}

/// The body with the edits that a decision asks for: a listen stream loses the resources that may not be read, and what
/// the client knows by another name than its server goes by the server's, which is the one that was decided on. An
/// answer to the gateway's own question stays here. `meta`: what its `_meta` is to be. `None` where it goes as it came.
fn edited(
    call: &Call,
    renamed: Option<&Renamed>,
    answer: Option<&Reply>,
    meta: Option<(Span, Vec<u8>)>,
    text: &[u8],
) -> Option<Vec<u8>> {
    let mut edits: SmallVec<[(Span, Vec<u8>); 2]> = SmallVec::new();
    if let (Some(answer), Some(returned)) = (answer, &call.returned) {
        edits = answer.edits(returned, text);
    }
    if let (Some(Renamed { place, .. }), Some(name)) = (renamed, call.subject.text()) {
        edits.push((quoted(*place), json_text(name.of(text))));
    }
    match &call.subject {
        Object::Task(task) => {
            edits.push((quoted(task.text.span), json_text(theirs(task))));
        }
        Object::Listen(listen) => {
            if let Some(place) = listen.uris_place.filter(|_| listen.uris.len() < listen.uris_asked) {
                edits.push((place, json_texts(listen.uris.iter().map(|uri| uri.of(text)))));
            }
            if let Some(place) = listen.tasks_place {
                edits.push((place, json_texts(listen.tasks.iter().map(theirs))));
            }
        }
        _ => {}
    }
    edits.extend(meta);
    if edits.is_empty() {
        return None;
    }
    edits.sort_unstable_by_key(|(place, _)| (place.start, place.end));
    let edits: SmallVec<[(Span, &[u8]); 2]> = edits.iter().map(|(place, new)| (*place, &**new)).collect();
    let mut out = Vec::new();
    splice(text, &edits, &mut out);
    Some(out)
}

/// The place of a string, with its quotes.
fn quoted(inside: Span) -> Span {
    Span::new(inside.start as usize - 1, inside.end as usize + 1)
}

/// The server's own name of a task. A permit has only tasks that were opened; no name at all would be nobody's task.
fn theirs(task: &TaskName) -> &str {
    task.opened.as_deref().unwrap_or_default()
}

fn json_text(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    out
}

fn json_texts<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut out = vec![b'['];
    for text in texts {
        if out.len() > 1 {
            out.push(b',');
        }
        write_string(&mut out, text);
    }
    out.push(b']');
    out
}

#[cfg(test)]
mod tests {
    use crate::jsonrpc::scan;
    use crate::mcp::call::{self, Given};

    use super::*;

    /// The body that goes when of the two resources asked for only `keep` may be read, and only the second task is the
    /// caller's; the rest of it is `extra`.
    fn check(extra: &str, filters: &str, keep: usize, want: Option<&str>) {
        let body = |filters: &str| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"subscriptions/listen\",\"params\":{{{extra}\"notifications\":\
                 {{{filters}}},\"_meta\":{{\
                 \"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
                 \"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}"
            )
        };
        let asked = body(filters);
        let mut call = read(&asked, "subscriptions/listen", None);
        let Object::Listen(listen) = &mut call.subject else { panic!("not a listen") };
        listen.uris.truncate(keep);
        if !listen.tasks.is_empty() {
            listen.tasks.remove(0);
            listen.tasks[0].opened = Some("b\"2".into());
        }
        let sent = edited(&call, None, None, None, asked.as_bytes()).map(|sent| String::from_utf8(sent).unwrap());
        assert_eq!(sent, want.map(body), "every other byte as it came");
    }

    fn read(body: &str, method: &str, name: Option<&str>) -> Call {
        let given = Given {
            version: Some(b"2026-07-28"),
            version_count: 1,
            method: Some(method.as_bytes()),
            method_count: 1,
            name: name.map(str::as_bytes),
            name_count: usize::from(name.is_some()),
            ..Given::default()
        };
        let envelope = scan::read(body.as_bytes()).unwrap();
        call::read(&given, body.as_bytes(), &envelope).unwrap()
    }

    #[test]
    fn what_may_not_be_read_is_not_asked_for() {
        let uris = r#""resourceSubscriptions": ["a:open", "a:shut"] "#;
        let open = r#""resourceSubscriptions": ["a:open"] "#;
        check("", uris, 2, None);
        check("", uris, 1, Some(open));
        // Numbers that no float holds are legal, and must neither stop the edit nor be written anew.
        check("\"x\":[1e999,123456789012345678901234567890],", uris, 1, Some(open));
        let tasks = r#""taskIds":[ "A1" , "B2" ]"#;
        let own = r#""taskIds":["b\"2"]"#;
        check("", tasks, 0, Some(own));
        check("", &format!("{tasks},{uris}"), 1, Some(&format!("{own},{open}")));
        check("", &format!("{uris},{tasks}"), 1, Some(&format!("{open},{own}")));
    }

    #[test]
    fn a_task_goes_by_its_servers_name() {
        let body = |id: &str| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tasks/get\",\"params\":{{\"taskId\": {id},\"_meta\":{{\
                 \"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
                 \"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}"
            )
        };
        let asked = body("\"A1\"");
        let mut call = read(&asked, "tasks/get", Some("A1"));
        let Object::Task(task) = &mut call.subject else { panic!("not a task") };
        task.opened = Some("786512e2".into());
        let sent = edited(&call, None, None, None, asked.as_bytes()).map(|sent| String::from_utf8(sent).unwrap());
        assert_eq!(sent, Some(body("\"786512e2\"")));
    }

    #[test]
    fn a_name_is_the_servers_own() {
        let body = |name: &str| {
            format!(
                "{{\"id\":1,\"params\":{{\"arguments\":{{\"name\":\"docs__x\"}},\"name\": {name} ,\"_meta\":{{\
                 \"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
                 \"io.modelcontextprotocol/clientCapabilities\":{{}}}}}},\"jsonrpc\":\"2.0\",\"method\":\"tools/call\"}}"
            )
        };
        let check = |written: &str, own: &str, want: &str| {
            let asked = body(written);
            let mut call = read(&asked, "tools/call", Some("docs__x\"y"));
            let text = call.subject.text_mut().unwrap();
            let renamed = Renamed { place: text.span, exposed: "docs__x\"y".into(), sent: own.into() };
            text.unescaped = Some(own.into());
            let sent = edited(&call, Some(&renamed), None, None, asked.as_bytes())
                .map(|sent| String::from_utf8(sent).unwrap());
            assert_eq!(sent, Some(body(want)), "{written}");
        };
        check(r#""docs__x\"y""#, "x\"y", r#""x\"y""#);
        check(r#""d\u006fcs__x\u0022y""#, "x\"y", r#""x\"y""#);
        check(r#""docs__x\"y""#, "é\n", r#""é\n""#);
    }
}
