//! A permitted, recorded message on its way to its server: the head written anew, the body as received, the wait that
//! notices when nobody waits any more, and the one outcome.

use smallvec::SmallVec;

use crate::base::limits::BODY_BYTES_MAX;
use crate::http::field::Known;
use crate::http::head::Method;
use crate::mcp::call::Object;
use crate::mcp::method::Verb;
use crate::mcp::revision::Era;
use crate::record::Recorded;
use crate::record::frame::Status;
use crate::upstream::exchange::{Clearance, Composed, Lane, Request};

use super::conn::{Body, Conn};
use super::exchange::{USER_AGENT, lane, legacy_fields, watched};
use super::flight::{Ended, Flight, Next, end, failed};
use super::refusal::{Kind, Refusal};
use super::relay;
use super::shard::Shard;

/// Sends a permitted message and gives the client what comes back.
pub(super) async fn serve(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    flight: &mut Flight,
    recorded: Recorded,
) -> Result<Next, Refusal> {
    let snapshot = flight.snapshot.clone();
    let lane = lane(&snapshot, flight.server);
    let Some(request) = compose(shard, conn, body, flight, &recorded, &lane) else {
        end(shard, flight, Ended::of(Status::Unreachable, 503));
        return Err(Refusal::from(Kind::NoBuffer).recorded());
    };
    let timeout = snapshot.settings.servers[flight.server.index()].timeout_ms;
    let deadline = shard.timers.last().mono.plus_ms(timeout);
    let slot = conn.slot.clone();
    let abort = &slot.abort;
    abort.reset();
    flight.sent = shard.timers.last().mono;
    let sent = watched(shard, conn, flight.era == Era::Modern, &lane, request, deadline, abort).await;
    flight.answered = shard.timers.now().mono;
    let result = match sent {
        Ok(answer) => relay::answer(shard, conn, flight, answer, abort, timeout).await,
        Err(fault) => Err(failed(shard, flight, fault)),
    };
    abort.reset();
    result
}

/// The request as the server gets it. Of the caller's head only what MCP defines is written anew; nothing of it is
/// copied through, least of all its credentials.
fn compose(
    shard: &Shard,
    conn: &Conn,
    body: &Body,
    flight: &Flight,
    recorded: &Recorded,
    lane: &Lane<'_>,
) -> Option<Composed> {
    let bytes = conn.bytes();
    let head = &conn.head;
    let call = recorded.permit().call();
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
            params.extend(head.params(bytes));
        }
        Era::Legacy => legacy_fields(flight, &mut fields),
    }
    for known in [Known::Traceparent, Known::Tracestate] {
        fields.extend(head.get(bytes, known).map(|value| (known.name(), value)));
    }
    let edited = edited(call, text);
    let request = Request {
        method: Method::Post,
        fields: &fields,
        params: &params,
        body: Some(edited.as_deref().unwrap_or(text)),
        // A tool call is written at most once; anything else may meet a kept connection that has just been closed.
        repeatable: call.method.is_none_or(|method| method.verb != Verb::ToolsCall),
    };
    shard.upstreams.compose(Clearance::Call(recorded), lane, &request)
}

/// The body with the one edit that a decision can ask for: a listen stream loses the resources that may not be read.
fn edited(call: &crate::mcp::call::Call, text: &[u8]) -> Option<Vec<u8>> {
    let Object::Listen(listen) = &call.subject else { return None };
    let mut body: serde_json::Value = serde_json::from_slice(text).ok()?;
    let asked = body.pointer_mut("/params/notifications/resourceSubscriptions")?;
    if asked.as_array().is_some_and(|uris| uris.len() == listen.uris.len()) {
        return None;
    }
    *asked = listen.uris.iter().map(|uri| serde_json::Value::from(uri.of(text))).collect();
    let edited = serde_json::to_vec(&body).ok()?;
    (edited.len() <= BODY_BYTES_MAX).then_some(edited)
}
