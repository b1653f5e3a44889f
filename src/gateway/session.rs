//! GET and DELETE: a legacy session's own stream, and its end.

use std::cell::Cell;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::base::ids::EndpointId;
use crate::base::time::Now;
use crate::http::field::Known;
use crate::http::head::{Framing, Method, Version};
use crate::http::reply;
use crate::identity::active::active_task;
use crate::identity::caller::Caller;
use crate::mcp::revision::{Era, Revision};
use crate::upstream::exchange::{Abort, Answer, Clearance, Request};

use super::answer::{Media, deadline, media, retire};
use super::conn::Conn;
use super::exchange::{USER_AGENT, lane, legacy_fields, watched};
use super::flight::{Flight, Next, Taken, failed, reasoned};
use super::load::Class;
use super::modern::Opted;
use super::refusal::{Kind, Refusal};
use super::sessions::{self, Live};
use super::shard::{Held, Shard};
use super::stream::{self, Carries};

/// Serves a GET or DELETE (MCP 2025-03-26 to 2025-11-25 basic/transports).
pub(super) async fn serve(
    shard: &Shard,
    conn: &mut Conn,
    snapshot: Rc<Held>,
    caller: Rc<Caller>,
    endpoint: EndpointId,
    began: Now,
) -> Result<Next, Refusal> {
    let method = conn.head.method;
    if method == Method::Get && conn.head.version == Version::Http10 {
        // Its end would look like any cut.
        return Err(Refusal {
            allow: Some("POST, DELETE"),
            ..Refusal::from(Kind::MethodNotAllowed).to(Era::Legacy, None)
        });
    }
    let session = session_of(shard, conn, &snapshot, &caller, endpoint)?;
    if let Some(next) = conn.hand_over_to(shard, session.home).filter(|_| method == Method::Get) {
        return Ok(next);
    }
    let named = conn.head.get(conn.bytes(), Known::PortcullisTask);
    let task = active_task(&caller, named, None, snapshot.settings.policy.tasks())
        .ok()
        .filter(|_| conn.head.count(Known::PortcullisTask) <= 1)
        .ok_or_else(|| Refusal::from(Kind::TaskUnavailable).to(Era::Legacy, None))?;
    if method == Method::Get {
        afford(shard, &snapshot, &caller).map_err(|kind| Refusal::from(kind).to(Era::Legacy, None))?;
    }
    let flight = Flight {
        task,
        server: snapshot.prepared.endpoints[endpoint.index()].server,
        endpoint,
        era: Era::Legacy,
        revision: session.revision,
        id: None,
        method: None,
        session: Some(session.clone()),
        opted: Opted::default(),
        profile: None,
        succeeded: Cell::new(false),
        in_flight: Cell::new(None),
        taken: Cell::new(if method == Method::Get { Taken::Stream } else { Taken::Nothing }),
        began,
        sent: began.mono,
        answered: began.mono,
        request_bytes: 0,
        seq: None,
        snapshot,
        caller,
    };
    let result = if method == Method::Get {
        exchanged(shard, conn, &flight, &session).await
    } else {
        ended(shard, conn, &flight, &session).await
    };
    flight.over(shard);
    result.map_err(|refusal| refusal.to(Era::Legacy, None))
}

/// Whether there is room for one more stream of this caller.
fn afford(shard: &Shard, snapshot: &Held, caller: &Caller) -> Result<(), Kind> {
    if !shard.admits(Class::Lasting, &snapshot.settings.limits) {
        return Err(Kind::Overloaded);
    }
    shard.load.stream(caller.principal, &snapshot.settings.limits)
}

/// A session's end, as its client wishes: whether its server can be reached or not, it is over here.
async fn ended(shard: &Shard, conn: &mut Conn, flight: &Flight, session: &Live) -> Result<Next, Refusal> {
    sessions::end(shard, flight, session).await?;
    let mut out = Vec::with_capacity(64);
    conn.write_status(shard, &mut out, 204);
    reply::finish(&mut out, Framing::None);
    conn.send(shard, &out).await;
    Ok(Next::Keep)
}

/// A stream's request, and the answer's way back.
async fn exchanged(shard: &Shard, conn: &mut Conn, flight: &Flight, session: &Live) -> Result<Next, Refusal> {
    let method = Method::Get;
    let lane = lane(&flight.snapshot, flight.server);
    let upstream = session.upstream(sessions::digest(flight));
    let resume = conn.head.get(conn.bytes(), Known::LastEventId).map(<[u8]>::to_vec);
    let mut fields: SmallVec<[(&'static str, &[u8]); 12]> = SmallVec::new();
    fields.push(("accept", b"text/event-stream"));
    fields.push(("user-agent", USER_AGENT));
    legacy_fields(flight, upstream.as_deref(), &mut fields);
    if let Some(resume) = resume.as_deref() {
        fields.push((Known::LastEventId.name(), resume));
    }
    let request = Request { method, fields: &fields, params: &[], body: None, repeatable: true };
    let clearance = Clearance::Session(session.proof());
    let request = shard.upstreams.compose(clearance, &lane, &request).ok_or(Kind::NoBuffer)?;
    let deadline = deadline(shard, flight.snapshot.settings.servers[flight.server.index()].timeout_ms);
    let slot = conn.slot.clone();
    let abort = &slot.abort;
    abort.reset();
    let sent = watched(shard, conn, true, &lane, request, deadline, abort).await;
    let result = match sent {
        Ok(answer) => answered(shard, conn, flight, answer, abort, resume.is_some()).await,
        Err(fault) => Err(failed(shard, flight, fault).unanswerable()),
    };
    abort.reset();
    result
}

/// The session that a GET or DELETE must name. Servers without sessions have no such streams.
fn session_of(
    shard: &Shard,
    conn: &Conn,
    snapshot: &Held,
    caller: &Caller,
    endpoint: EndpointId,
) -> Result<Rc<Live>, Refusal> {
    let legacy = |kind: Kind| Refusal::from(kind).to(Era::Legacy, None);
    let bytes = conn.bytes();
    let Some(id) = conn.head.get(bytes, Known::McpSessionId) else {
        return Err(Refusal { allow: Some("POST"), ..legacy(Kind::MethodNotAllowed) });
    };
    let version = conn.head.get(bytes, Known::McpProtocolVersion);
    if version.is_some_and(|version| Revision::parse(version).is_none_or(Revision::is_modern)) {
        return Err(legacy(Kind::RequestBad).saying("Bad Request: unsupported protocol version."));
    }
    let digest = snapshot.prepared.endpoints[endpoint.index()].digest;
    match shard.open_session(id, caller, digest) {
        Ok(session) if conn.head.count(Known::McpSessionId) == 1 => Ok(session),
        Ok(_) => Err(legacy(Kind::SessionUnknown)),
        Err(fault) => Err(legacy(sessions::unopened(fault))),
    }
}

async fn answered(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    answer: Answer,
    abort: &Abort,
    resumed: bool,
) -> Result<Next, Refusal> {
    match (answer.status(), media(&answer)) {
        (200, Media::Events) => stream::relay(shard, conn, flight, answer, abort, Carries::Session { resumed }).await,
        (status, _) => {
            retire(shard, answer).await;
            Err(match status {
                404 => Kind::SessionUnknown.into(),
                405 => Refusal { allow: Some("POST, DELETE"), ..Kind::MethodNotAllowed.into() },
                400..=499 => Refusal::from(Kind::RequestBad).saying("The server refused this stream request."),
                _ => reasoned(Kind::ServerInvalid).unanswerable(),
            })
        }
    }
}
