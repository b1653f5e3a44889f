//! Lists, answered from the catalogue: what this caller may see of it, in the server's order, on one page. No list
//! request reaches a server.

use std::rc::Rc;

use crate::base::limits::{LIST_FRESH_MS_MAX, TICK_MS};
use crate::http::field::Known;
use crate::http::head::Framing;
use crate::http::sse::{self, Event};
use crate::mcp::catalog::{ListKind, write_list_result};
use crate::policy::decide::listed;

use super::answer::write_head;
use super::conn::Conn;
use super::flight::{Flight, Next};
use super::refusal::{Kind, Refusal};
use super::shard::{Held, Shard};

/// Answers a list request.
pub(super) async fn serve(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    kind: ListKind,
    cursor: bool,
) -> Result<Next, Refusal> {
    let (mut body, events) = page(flight, kind, cursor)?;
    let media = if events && accepts_events(conn) {
        let mut event = Vec::with_capacity(body.len() + 32);
        let message = Event { id: None, name: Some(b"message"), data: Some(&body), retry: None };
        sse::write_event(&mut event, &message).map_err(|_| Kind::ServerInvalid)?;
        body = event;
        "text/event-stream"
    } else {
        "application/json"
    };
    let mut out = Vec::with_capacity(128 + body.len());
    write_head(shard, conn, &mut out, 200, media, Framing::Length(body.len() as u64), None);
    out.extend_from_slice(&body);
    flight.answer_leaves(shard);
    conn.send(shard, &out).await;
    Ok(Next::Keep)
}

/// The answer to a list request, and whether the server itself answers such with events: in that form nothing tells the
/// two apart.
pub(super) fn page(flight: &Flight, kind: ListKind, cursor: bool) -> Result<(Vec<u8>, bool), Refusal> {
    let Some(offered) = flight.snapshot.catalog.server(flight.server).and_then(|server| server.era(flight.era)) else {
        return Err(Kind::CatalogUnknown.into());
    };
    let Some(listing) = offered.list(kind) else { return Err(Kind::MethodUnknown.into()) };
    if cursor {
        return Err(Kind::CursorInvalid.into());
    }
    let (table, caller) = (&flight.snapshot.table, &flight.caller);
    let shown = listing.items.iter().filter(|item| listed(table, caller, flight.task, flight.server, kind, item));
    let mut body = Vec::with_capacity(4096);
    body.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    body.extend_from_slice(flight.id.as_deref().unwrap_or(b"null"));
    body.extend_from_slice(b",\"result\":");
    let ttl_ms = listing.ttl_ms.unwrap_or(0);
    write_list_result(&mut body, kind, flight.era, shown, ttl_ms, offered.server_info.as_deref());
    body.push(b'}');
    Ok((body, offered.events))
}

pub(super) fn accepts_events(conn: &Conn) -> bool {
    let accept = conn.head.get(conn.bytes(), Known::Accept).unwrap_or_default();
    accept.split(|byte| *byte == b',').any(|media| media.trim_ascii().starts_with(b"text/event-stream"))
}

/// A client that was just told of a change asks at once, and must not get the old list: wait for the plane's new one,
/// within bounds. Gives the snapshot that it found then where that has other settings: the flight's caller and ids are
/// of those it came under.
pub(super) async fn fresh(shard: &Shard, flight: &mut Flight) -> Option<Rc<Held>> {
    let state = &flight.snapshot.states[flight.server.index()];
    let announced = state.poke.announced();
    if state.poke.fresh() >= announced {
        return None;
    }
    let state = state.clone();
    let until = shard.timers.now().mono.plus_ms(LIST_FRESH_MS_MAX);
    while state.poke.fresh() < announced && !state.is_over() && shard.timers.now().mono < until {
        shard.timers.sleep_until(shard.timers.now().mono.plus_ms(TICK_MS)).await;
    }
    let snapshot = shard.snapshot();
    if snapshot.settings_epoch != flight.snapshot.settings_epoch {
        return Some(snapshot);
    }
    flight.snapshot = snapshot;
    None
}
