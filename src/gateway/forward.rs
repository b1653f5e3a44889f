//! A permitted, recorded message on its way to its server: the head written anew, the body as received, the wait that
//! notices when nobody waits any more, and the one outcome.

use std::pin::pin;
use std::time::Duration;

use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::limits::BODY_BYTES_MAX;
use crate::base::time::Moment;
use crate::http::field::Known;
use crate::http::head::{Framing, Method};
use crate::http::reply;
use crate::mcp::call::Object;
use crate::mcp::method::Verb;
use crate::mcp::revision::{Era, Revision};
use crate::record::Recorded;
use crate::record::frame::{Outcome, Status};
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Abort, Answer, Clearance, Composed, Lane, Request};

use super::conn::{Body, Conn};
use super::pipeline::Flight;
use super::refusal::{Kind, Refusal};
use super::relay;
use super::serve::Next;
use super::shard::{Held, Shard};
use super::watch::{self, Woke};

/// A moment that does not come.
pub(super) const NEVER: Moment = Moment(u64::MAX);

/// What an exchange ended with, for the record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) status: Status,
    pub(super) http: u16,
    pub(super) is_error: bool,
    pub(super) code: i64,
    pub(super) answer_bytes: usize,
}

impl Ended {
    pub(super) fn of(status: Status, http: u16) -> Self {
        Self { status, http, is_error: false, code: 0, answer_bytes: 0 }
    }
}

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
    let sent = exchange(shard, conn, flight.era == Era::Modern, &lane, request, deadline, abort).await;
    flight.answered = shard.timers.now().mono;
    let result = match sent {
        Ok(answer) => relay::answer(shard, conn, flight, answer, abort, timeout).await,
        Err(fault) => Err(failed(shard, flight, fault)),
    };
    abort.reset();
    result
}

/// 202 for a message that is not forwarded and that nobody waits to be answered.
pub(super) async fn accepted(shard: &Shard, conn: &mut Conn) -> Result<Next, Refusal> {
    let mut out = Vec::with_capacity(64);
    reply::write_status(&mut out, 202);
    reply::finish(&mut out, Framing::Length(0));
    conn.send(shard, &out).await;
    Ok(Next::Keep)
}

/// One exchange, during which the client may leave. In the modern era that cancels the call (MCP 2026-07-28
/// basic/patterns/cancellation), in the legacy era it does not: `cancels`.
pub(super) async fn exchange(
    shard: &Shard,
    conn: &mut Conn,
    cancels: bool,
    lane: &Lane<'_>,
    request: Composed,
    deadline: Moment,
    abort: &Abort,
) -> Result<Answer, UpstreamFault> {
    let mut work = pin!(shard.upstreams.exchange(lane, request, deadline, abort));
    loop {
        match watch::next(shard, conn, work.as_mut(), NEVER, cancels, false).await {
            Woke::Done(result) => {
                if matches!(result, Err(UpstreamFault::Unreachable | UpstreamFault::NoAddress)) {
                    shard.control.poke(lane.server).unreachable();
                }
                return result;
            }
            Woke::Gone => abort.fire(),
            Woke::Time | Woke::Draining => {}
        }
    }
}

/// Where calls to a server go, under this snapshot.
pub(super) fn lane(snapshot: &Held, server: ServerId) -> Lane<'_> {
    Lane {
        server,
        addresses: &snapshot.addresses[server.index()],
        host: &snapshot.prepared.servers[server.index()].host,
        path: &snapshot.settings.servers[server.index()].path,
        connect_ms: snapshot.settings.limits.connect_ms_max,
    }
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

/// The gateway's name towards servers.
pub(super) const USER_AGENT: &[u8] = concat!("portcullis/", env!("CARGO_PKG_VERSION")).as_bytes();

/// Session and version, as the server knows them.
pub(super) fn legacy_fields<'a>(flight: &'a Flight, fields: &mut SmallVec<[(&'static str, &'a [u8]); 12]>) {
    if let Some(session) = &flight.session {
        fields.push((Known::McpSessionId.name(), session.upstream_session.as_slice()));
    }
    let initialize = flight.method.is_some_and(|method| method.verb == Verb::Initialize);
    // The header came with 2025-06-18; the handshake itself settles the version and carries none.
    if !initialize && flight.revision >= Revision::R2025_06_18 {
        fields.push((Known::McpProtocolVersion.name(), flight.revision.as_str().as_bytes()));
    }
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

/// What became of the exchange, towards the client; recorded.
pub(super) fn failed(shard: &Shard, flight: &Flight, fault: UpstreamFault) -> Refusal {
    let (status, kind) = match fault {
        UpstreamFault::Unreachable | UpstreamFault::NoAddress => (Status::Unreachable, Kind::ServerUnreachable),
        UpstreamFault::NoBuffer => (Status::Cut, Kind::NoBuffer),
        UpstreamFault::Timeout => (Status::Timeout, Kind::ServerTimeout),
        UpstreamFault::Cut => (Status::Cut, Kind::ServerCut),
        UpstreamFault::BadAnswer => (Status::Invalid, Kind::ServerInvalid),
        UpstreamFault::Abandoned if shard.draining() => (Status::Cut, Kind::ServerCut),
        UpstreamFault::Abandoned => (Status::Cancelled, Kind::ServerCut),
    };
    let refusal = reasoned(kind);
    end(shard, flight, Ended { code: kind.row().code, ..Ended::of(status, refusal.status()) });
    refusal
}

/// What became of an exchange, as an answer whose `data` names its reason for programs. No refusal: where the call
/// was decided on, its outcome says the same.
pub(super) fn reasoned(kind: Kind) -> Refusal {
    Refusal::from(kind).with(format!("{{\"reason\":\"{}\"}}", kind.row().word)).recorded()
}

/// Writes the outcome of a recorded call: called once on each way out.
pub(super) fn end(shard: &Shard, flight: &Flight, ended: Ended) {
    let Some(seq) = flight.seq else { return };
    let now = shard.timers.now();
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let total_us = micros(now.mono.since(flight.began.mono));
    shard.record.ended(
        seq,
        &Outcome {
            unix_ms: now.unix_ms,
            status: ended.status,
            http: ended.http,
            is_error: ended.is_error,
            code: ended.code,
            total_us,
            upstream_us: micros(flight.answered.since(flight.sent)),
            request_bytes: flight.request_bytes as u64,
            answer_bytes: ended.answer_bytes as u64,
        },
    );
}
