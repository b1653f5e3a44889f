//! A permitted, recorded message on its way to its server: the head written anew, the body as received, the wait that
//! notices when nobody waits any more, and the one outcome.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::base::limits::ANSWER_WHOLE_BYTES_MAX;
use crate::base::span::Span;
use crate::base::time::Moment;
use crate::http::field::Known;
use crate::http::head::Method;
use crate::jsonrpc::edit::splice;
use crate::mcp::call::{Call, Object};
use crate::mcp::method::Verb;
use crate::mcp::revision::Era;
use crate::record::Recorded;
use crate::record::frame::Status;
use crate::session::ledger::Upstream;
use crate::session::way::{In, Reach, Way};
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Abort, Answer, Clearance, Composed, Lane, Request};

use super::answer::{Media, media};
use super::conn::{Body, Conn};
use super::exchange::{USER_AGENT, lane, legacy_fields, watched};
use super::flight::{Ended, Flight, Next, end, failed};
use super::refusal::{Kind, Refusal};
use super::sessions::{Live, Restored};
use super::shard::Shard;
use super::{relay, sessions};

/// Sends a permitted message and gives the client what comes back.
pub(super) async fn serve(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    flight: &mut Flight,
    recorded: Recorded,
    restored: Option<Restored>,
) -> Result<Next, Refusal> {
    let snapshot = flight.snapshot.clone();
    let lane = lane(&snapshot, flight.server);
    let call = recorded.permit().call();
    let verb = call.method.map(|method| method.verb);
    if verb == Some(Verb::Initialize) {
        flight.profile = sessions::profile(shard, conn.body_bytes(body));
    }
    let timeout = snapshot.settings.servers[flight.server.index()].timeout_ms;
    let trip = Trip { lane, recorded: &recorded, restored, timeout };
    let slot = conn.slot.clone();
    let abort = &slot.abort;
    abort.reset();
    let result = match flight.session.clone() {
        Some(live) => in_session(shard, conn, body, flight, &trip, &live, abort).await,
        None => once(shard, conn, body, flight, &trip, abort).await,
    };
    abort.reset();
    if let Some(verb) = verb.filter(|_| flight.session.is_some() && flight.succeeded.get()) {
        sessions::keep(shard, flight, verb, conn.body_bytes(body));
    }
    result
}

/// What a message is sent with.
struct Trip<'a> {
    lane: Lane<'a>,
    recorded: &'a Recorded,
    /// What goes instead of the body as received: an answer to a server's request, under that request's own id.
    restored: Option<Restored>,
    /// Milliseconds.
    timeout: u64,
}

/// A message that stands alone.
async fn once(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    flight: &mut Flight,
    trip: &Trip<'_>,
    abort: &Abort,
) -> Result<Next, Refusal> {
    let deadline = shard.timers.last().mono.plus_ms(trip.timeout);
    match send(shard, conn, body, flight, trip, None, deadline, abort).await? {
        Ok(answer) => relay::answer(shard, conn, flight, answer, abort, trip.timeout).await,
        Err(fault) => Err(failed(shard, flight, fault)),
    }
}

/// A message in a session: to the server's session that belongs to it; where the server has forgotten that one, and so
/// has not executed the message, once more in a new one.
async fn in_session(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    flight: &mut Flight,
    trip: &Trip<'_>,
    live: &Live,
    abort: &Abort,
) -> Result<Next, Refusal> {
    let deadline = shard.timers.last().mono.plus_ms(trip.timeout);
    let reach = trip.restored.as_ref().map_or(Reach::Newest, |restored| Reach::Epoch(restored.epoch));
    let (mut way, mut next) = Way::new(Some(live.epoch(sessions::digest(flight))), reach, deadline);
    loop {
        let upstream = match sessions::reach(shard, flight, live, &mut way, next).await {
            Ok(upstream) => upstream,
            Err(fault) => {
                let refusal = sessions::refused(fault);
                end(shard, flight, Ended::of(Status::Unreachable, refusal.status()));
                return Err(refusal.recorded());
            }
        };
        let mut answer = match send(shard, conn, body, flight, trip, Some(&upstream), deadline, abort).await? {
            Ok(answer) => answer,
            Err(fault) => return Err(failed(shard, flight, fault)),
        };
        let status = answer.status();
        let mut collected = None;
        if status == 400 && media(&answer) == Media::Json {
            match relay::collect(shard, conn, flight, &mut answer, abort, ANSWER_WHOLE_BYTES_MAX).await {
                Ok(body) => collected = Some(body),
                Err(fault) => return Err(failed(shard, flight, fault)),
            }
        }
        let said = collected.as_deref().unwrap_or_default();
        if sessions::is_forgotten(shard, status, said, flight.id.as_deref()) {
            answer.abandon();
            next = way.step(In::Forgotten, shard.timers.now().mono);
            continue;
        }
        return match collected {
            Some(body) => relay::json(shard, conn, flight, answer, abort, Some(body)).await,
            None => relay::answer(shard, conn, flight, answer, abort, trip.timeout).await,
        };
    }
}

/// Sends it, and waits for the head of the answer. The outer fault is one after which nothing was sent.
#[expect(clippy::too_many_arguments, reason = "what a message, its connection and its way are")]
async fn send(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    flight: &mut Flight,
    trip: &Trip<'_>,
    upstream: Option<&Upstream>,
    deadline: Moment,
    abort: &Abort,
) -> Result<Result<Answer, UpstreamFault>, Refusal> {
    let Some(request) = compose(shard, conn, body, flight, trip, upstream) else {
        end(shard, flight, Ended::of(Status::Unreachable, 503));
        return Err(Refusal::from(Kind::NoBuffer).recorded());
    };
    flight.sent = shard.timers.last().mono;
    if flight.is_cancelled(shard) {
        // While it waited for something else; firing ends an exchange that is under way, and this one is not yet.
        return Ok(Err(UpstreamFault::Abandoned));
    }
    let sent = watched(shard, conn, flight.era == Era::Modern, &trip.lane, request, deadline, abort).await;
    flight.answered = shard.timers.now().mono;
    Ok(sent)
}

/// The request as the server gets it. Of the caller's head only what MCP defines is written anew; nothing of it is
/// copied through, least of all its credentials.
fn compose(
    shard: &Shard,
    conn: &Conn,
    body: &Body,
    flight: &Flight,
    trip: &Trip<'_>,
    upstream: Option<&Upstream>,
) -> Option<Composed> {
    let bytes = conn.bytes();
    let head = &conn.head;
    let call = trip.recorded.permit().call();
    let text = conn.body_bytes(body);
    let mut fields: SmallVec<[(&'static str, &[u8]); 12]> = SmallVec::new();
    fields.push(("content-type", b"application/json"));
    fields.push(("accept", b"application/json, text/event-stream"));
    fields.push(("accept-encoding", b"identity"));
    fields.push(("user-agent", USER_AGENT));
    let mut params: SmallVec<[(&[u8], &[u8]); 4]> = SmallVec::new();
    match flight.era {
        Era::Modern => {
            for known in [Known::McpProtocolVersion, Known::McpMethod, Known::McpName] {
                fields.extend(head.get(bytes, known).map(|value| (known.name(), value)));
            }
            // Some servers read `_` in a field's name as `-` (RFC 3875, 4.1.18): one that is not checked against the
            // body could pass for one that is.
            params.extend(head.params(bytes).filter(|(name, _)| !name.contains(&b'_')));
        }
        Era::Legacy => legacy_fields(flight, upstream, &mut fields),
    }
    for known in [Known::Traceparent, Known::Tracestate] {
        fields.extend(head.get(bytes, known).map(|value| (known.name(), value)));
    }
    let edited = edited(call, text)?;
    let text = trip.restored.as_ref().map_or(text, |restored| &restored.body);
    let request = Request {
        method: Method::Post,
        fields: &fields,
        params: &params,
        body: Some(edited.as_deref().unwrap_or(text)),
        // A tool call is written at most once; anything else may meet a kept connection that has just been closed.
        repeatable: call.method.is_none_or(|method| method.verb != Verb::ToolsCall),
    };
    shard.upstreams.compose(Clearance::Call(trip.recorded), &trip.lane, &request)
}

/// The body with the one edit that a decision can ask for: a listen stream loses the resources that may not be read.
/// `Some(None)` where nothing is to be changed; `None` where the edit cannot be made, and so nothing may be sent.
#[expect(clippy::option_option, reason = "no edit and no way to edit are the two ends of the matter")]
fn edited(call: &Call, text: &[u8]) -> Option<Option<Vec<u8>>> {
    let Object::Listen(listen) = &call.subject else { return Some(None) };
    // Raw values: whatever else the message holds is neither read nor written anew.
    let message: ListenMessage<'_> = serde_json::from_slice(text).ok()?;
    let Some(asked) = message.params.notifications.resources.map(RawValue::get) else { return Some(None) };
    let count = serde_json::from_str::<Vec<IgnoredAny>>(asked).ok()?.len();
    if count == listen.uris.len() {
        return Some(None);
    }
    let start = (asked.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let kept: Vec<&str> = listen.uris.iter().map(|uri| uri.of(text)).collect();
    let kept = serde_json::to_vec(&kept).ok()?;
    let mut out = Vec::with_capacity(text.len());
    splice(text, &[(Span::new(start, start + asked.len()), &kept)], &mut out);
    Some(Some(out))
}

#[derive(Deserialize)]
struct ListenMessage<'a> {
    #[serde(borrow)]
    params: ListenParams<'a>,
}

#[derive(Deserialize)]
struct ListenParams<'a> {
    #[serde(borrow)]
    notifications: ListenFilter<'a>,
}

#[derive(Deserialize)]
struct ListenFilter<'a> {
    #[serde(borrow, rename = "resourceSubscriptions")]
    resources: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use crate::jsonrpc::scan;
    use crate::mcp::call::{self, Given};

    use super::*;

    /// The body that goes when of the two resources asked for only the first may be read; the rest of it is `extra`.
    fn check(extra: &str, keep: usize) -> Option<Option<String>> {
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"subscriptions/listen\",\"params\":{{{extra}\"notifications\":\
             {{\"resourceSubscriptions\": [\"a:open\", \"a:shut\"] }},\"_meta\":{{\
             \"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
             \"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}"
        );
        let given = Given {
            version: Some(b"2026-07-28"),
            version_count: 1,
            method: Some(b"subscriptions/listen"),
            method_count: 1,
            ..Given::default()
        };
        let envelope = scan::read(body.as_bytes()).unwrap();
        let mut call = call::read(&given, body.as_bytes(), &envelope).unwrap();
        let Object::Listen(listen) = &mut call.subject else { panic!("not a listen") };
        listen.uris.truncate(keep);
        let sent = edited(&call, body.as_bytes())?;
        let whole = body.replace("[\"a:open\", \"a:shut\"]", "[\"a:open\"]");
        if let Some(sent) = &sent {
            assert_eq!(std::str::from_utf8(sent), Ok(&*whole), "every other byte as it came");
        }
        Some(sent.map(|sent| String::from_utf8(sent).unwrap()))
    }

    #[test]
    fn what_may_not_be_read_is_not_asked_for() {
        assert_eq!(check("", 2), Some(None));
        assert!(check("", 1).flatten().is_some());
        // Numbers that no float holds are legal, and must neither stop the edit nor be written anew.
        assert!(check("\"x\":[1e999,123456789012345678901234567890],", 1).flatten().is_some());
    }
}
