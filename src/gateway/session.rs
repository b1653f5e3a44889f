//! GET and DELETE: a legacy session's own stream, and its end.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use crate::base::ids::EndpointId;
use crate::base::limits::STREAM_RETRY_MS;
use crate::base::time::Now;
use crate::http::field::Known;
use crate::http::head::{Framing, Method, Version};
use crate::http::{body as chunks, reply};
use crate::identity::active::{ActiveTask, active_task};
use crate::identity::caller::Caller;
use crate::mcp::revision::{Era, Revision};
use crate::session::outlet::EventId;

use super::conn::Conn;
use super::flight::{Flight, NEVER, Next, Taken};
use super::gate;
use super::live::{self, Feed, Who};
use super::load::Class;
use super::pipeline::{self, Asked};
use super::refusal::{Kind, Refusal};
use super::sessions::{self, Live};
use super::shard::{Held, Shard};
use super::sse;
use super::tap::Tap;
use super::watch::{self, Heed, Woke};

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
        let refusal = Refusal::from(Kind::MethodNotAllowed).to(Era::Legacy, None);
        return Err(refusal.allowing("POST, DELETE"));
    }
    let promised = sse::promised(shard, conn, &snapshot, &caller, endpoint)?;
    let session = match &promised {
        Some((session, _)) => session.clone(),
        None => session_of(shard, conn, &snapshot, &caller, endpoint)?,
    };
    let event = last_event(conn);
    let home = if promised.is_some() {
        None
    } else if method == Method::Get {
        // What is resumed is where its events are; a session's own stream is at its home.
        conn.hand_over_to(shard, event.map_or(session.home, |event| event.shard))
    } else {
        let servers = snapshot.merged[endpoint.index()].servers();
        servers.iter().find_map(|server| pipeline::at_home(shard, conn, &snapshot, *server, &session))
    };
    if let Some(home) = home {
        return Ok(Next::HandOver(home));
    }
    let task = task(conn, &snapshot, &caller)?;
    gate::unrevoked(&snapshot, endpoint, &caller, task).map_err(|refusal| refusal.to(Era::Legacy, None))?;
    if method == Method::Get {
        afford(shard, &snapshot, &caller).map_err(|kind| Refusal::from(kind).to(Era::Legacy, None))?;
    }
    let asked = Asked { snapshot, caller, endpoint, began, waited: Duration::ZERO };
    let flight = Flight {
        task,
        session: Some(session.clone()),
        taken: Cell::new(if method == Method::Get { Taken::Stream } else { Taken::Nothing }),
        ..asked.start(Era::Legacy, session.speaks())
    };
    let result = if let Some((_, id)) = promised {
        sse::open(shard, conn, &flight, &id).await
    } else if method == Method::Get {
        stream(shard, conn, &flight, event).await
    } else {
        ended(shard, conn, &session).await
    };
    flight.over(shard);
    result.map_err(|refusal| refusal.to(Era::Legacy, None))
}

/// The active task, as the head names it.
fn task(conn: &Conn, snapshot: &Held, caller: &Caller) -> Result<ActiveTask, Refusal> {
    let named = conn.head.get(conn.bytes(), Known::PortcullisTask);
    let task = active_task(caller, named, None, snapshot.settings.policy.tasks()).ok();
    let task = task.filter(|_| conn.head.count(Known::PortcullisTask) <= 1);
    task.ok_or_else(|| Refusal::from(Kind::TaskUnavailable).to(Era::Legacy, None))
}

/// Whether there is room for one more stream of this caller.
fn afford(shard: &Shard, snapshot: &Held, caller: &Caller) -> Result<(), Kind> {
    if !shard.admits(Class::Lasting, &snapshot.settings.limits) {
        return Err(Kind::Overloaded);
    }
    shard.load.stream(caller.principal, &snapshot.settings.limits)
}

/// A session's end, as its client wishes: whether its server can be reached or not, it is over here.
async fn ended(shard: &Shard, conn: &mut Conn, session: &Live) -> Result<Next, Refusal> {
    sessions::end(shard, session).await?;
    let mut out = Vec::with_capacity(64);
    conn.write_status(shard, &mut out, 204);
    reply::finish(&mut out, Framing::None);
    conn.send(shard, &out).await;
    Ok(Next::Keep)
}

/// The event that a client saw last, where it says so and it is one of ours.
fn last_event(conn: &Conn) -> Option<EventId> {
    let id = conn.head.get(conn.bytes(), Known::LastEventId).filter(|_| conn.head.count(Known::LastEventId) == 1);
    id.and_then(EventId::parse)
}

/// A stream: the one that goes on behind `event`, else the session's own.
async fn stream(shard: &Shard, conn: &mut Conn, flight: &Flight, event: Option<EventId>) -> Result<Next, Refusal> {
    let resumed = event.filter(|event| event.shard == shard.id).and_then(|it| shard.feeds.resume(shard, flight, it));
    let (feed, key) = match resumed {
        Some(resumed) => resumed,
        None => {
            let home = flight.session.as_ref().map_or(shard.id, |session| shard.home(session.home));
            // Also when it has made its way here: for a stream that is forgotten.
            let lost = event.is_some_and(|event| shard.home(event.shard) == shard.id);
            if home != shard.id && (lost || !conn.slot.handed.get()) {
                return Ok(Next::HandOver(home));
            }
            let feed = shard.feeds.home(shard, flight).ok_or(Kind::SessionUnknown)?;
            match opened(shard, conn, &feed).await {
                Some(opened) => opened?,
                None => return Ok(Next::Close),
            }
            let key = shard.feeds.attach(shard, flight, &feed);
            (feed, key)
        }
    };
    let mut out = Vec::with_capacity(256);
    write_head(conn, shard, &mut out, Framing::Chunked);
    if flight.revision.primes_streams() {
        let mut event = Vec::with_capacity(64);
        feed.outlet.borrow().prime(key, STREAM_RETRY_MS, &mut event);
        chunks::write_chunk(&mut out, &event);
    }
    // From here on it is the tap's: the place at the stream, and its subject's share.
    let tap =
        Tap { feed, key, who: Rc::new(Who::of(flight)), payer: flight.payer, ending: None, stakes: None, span: None };
    flight.taken.set(Taken::Nothing);
    conn.send(shard, &out).await;
    Ok(Next::Stream(Box::new(tap)))
}

/// The head of an answer that is a stream.
pub(super) fn write_head(conn: &Conn, shard: &Shard, out: &mut Vec<u8>, framing: Framing) {
    conn.write_status(shard, out, 200);
    for (name, value) in
        [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")]
    {
        let _ = reply::write_field(out, name, value.as_bytes());
    }
    reply::finish(out, framing);
}

/// Waits for the server's word on a session's own stream; `None` when the client has left meanwhile.
async fn opened(shard: &Shard, conn: &mut Conn, feed: &Rc<Feed>) -> Option<Result<(), Refusal>> {
    loop {
        if let Some(opened) = live::opened(feed) {
            return Some(opened);
        }
        let mut work = pin!(live::changed(shard, feed, NEVER));
        if let Woke::Gone = watch::next(shard, conn, work.as_mut(), NEVER, true, Heed::Nothing).await {
            // Else the feed would remember every connection that left before its server answered.
            feed.changed();
            return None;
        }
    }
}

/// The session that a GET or DELETE must name. Servers without sessions have no such streams.
fn session_of(
    shard: &Shard,
    conn: &Conn,
    snapshot: &Held,
    caller: &Rc<Caller>,
    endpoint: EndpointId,
) -> Result<Rc<Live>, Refusal> {
    let legacy = |kind: Kind| Refusal::from(kind).to(Era::Legacy, None);
    let bytes = conn.bytes();
    let Some(id) = conn.head.get(bytes, Known::McpSessionId) else {
        return Err(legacy(Kind::MethodNotAllowed).allowing("POST"));
    };
    let version = conn.head.get(bytes, Known::McpProtocolVersion);
    if version.is_some_and(|version| Revision::parse(version).is_none_or(Revision::is_modern)) {
        return Err(legacy(Kind::RequestBad).saying("Bad Request: unsupported protocol version."));
    }
    let digest = snapshot.prepared.endpoints[endpoint.index()].digest;
    match shard.open_session(&conn.opened, id, caller, digest) {
        Ok(session) if conn.head.count(Known::McpSessionId) == 1 => Ok(session),
        Ok(_) => Err(legacy(Kind::SessionUnknown)),
        Err(fault) => Err(legacy(sessions::unopened(fault))),
    }
}
