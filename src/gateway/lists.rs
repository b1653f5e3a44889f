//! Lists, answered from the catalogue: what this caller may see of it, in the server's order, on one page (`merged` has
//! the lists of several servers). No list request reaches a server.

use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::limits::{CURSOR_BYTES, LIST_FRESH_MS_MAX, TICK_MS};
use crate::http::field::Known;
use crate::http::head::Framing;
use crate::http::sse::{self, Event};
use crate::jsonrpc::Member;
use crate::jsonrpc::text;
use crate::mcp::call::Call;
use crate::mcp::catalog::{CatalogState, Item, ListKind, write_list_result};
use crate::policy::decide::listed;
use crate::upstream::state::ServerState;

use super::answer::write_head;
use super::conn::Conn;
use super::flight::{Flight, Next};
use super::refusal::{Kind, Refusal};
use super::shard::{Held, Shard};
use super::{merged, route};

/// Answers a list request.
pub(super) async fn serve(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    kind: ListKind,
    cursor: Option<&str>,
) -> Result<Next, Refusal> {
    let (mut body, events) = page(shard, flight, kind, cursor)?;
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
pub(super) fn page(
    shard: &Shard,
    flight: &Flight,
    kind: ListKind,
    cursor: Option<&str>,
) -> Result<(Vec<u8>, bool), Refusal> {
    if flight.is_merged() {
        return merged::page(shard, flight, kind, cursor);
    }
    if let Some(refusal) = flight.unseen() {
        return Err(refusal);
    }
    let Some(offered) = flight.offer(flight.server) else {
        return Err(Kind::CatalogUnknown.into());
    };
    let Some(listing) = offered.list(kind) else { return Err(Kind::MethodUnknown.into()) };
    if cursor.is_some() {
        return Err(Kind::CursorInvalid.into());
    }
    let (table, caller) = (&flight.snapshot.table, &flight.caller);
    let seen = |item: &&Item| flight.sees(flight.server, kind, item);
    let shown = listing.items.iter().filter(seen);
    let shown = shown.filter(|item| listed(table, caller, flight.task, flight.server, kind, item));
    let mut body = flight.begin_result();
    let ttl_ms = listing.ttl_ms.unwrap_or(0);
    write_list_result(&mut body, kind, flight.era, shown, ttl_ms, offered.server_info.as_deref());
    body.push(b'}');
    Ok((body, offered.events))
}

pub(super) fn accepts_events(conn: &Conn) -> bool {
    let accept = conn.head.get(conn.bytes(), Known::Accept).unwrap_or_default();
    accept.split(|byte| *byte == b',').any(|media| media.trim_ascii().starts_with(b"text/event-stream"))
}

/// The cursor of a list request, as far as it may be one of ours.
pub(super) fn cursor(body: &[u8], member: Member) -> Box<str> {
    let mut scratch = Vec::new();
    // Nobody escapes a letter, but anybody may.
    let inside = member.text().filter(|inside| inside.len() <= CURSOR_BYTES * "\\u0041".len());
    let text = inside.and_then(|inside| text::unescape(inside.of(body), &mut scratch).ok());
    text.filter(|text| text.len() == CURSOR_BYTES).unwrap_or_default().into()
}

/// A client that was just told of a change asks at once, and must not get the old list: wait for the plane's new one,
/// within bounds. Gives the snapshot that it found then where that has other settings: the flight's caller and ids are
/// of those it came under.
///
/// At an endpoint with several servers a list waits for all of them together, and anything else for the one it is for:
/// none waits for another's.
pub(super) async fn fresh(shard: &Shard, flight: &mut Flight, call: &Call, body: &[u8]) -> Option<Rc<Held>> {
    let waiting = awaited(flight, call, body);
    if waiting.is_empty() {
        return None;
    }
    let since = shard.timers.now().mono;
    let until = since.plus_ms(LIST_FRESH_MS_MAX);
    let behind = |(state, announced): &(Arc<ServerState>, u64)| state.poke.fresh() < *announced && !state.is_over();
    while waiting.iter().any(behind) && shard.timers.now().mono < until {
        shard.timers.sleep_until(shard.timers.now().mono.plus_ms(TICK_MS)).await;
    }
    flight.figures.waits(shard, since);
    let snapshot = shard.snapshot();
    if snapshot.settings_epoch != flight.snapshot.settings_epoch {
        return Some(snapshot);
    }
    flight.snapshot = snapshot;
    None
}

/// Whether any has announced more than the catalogue knows, of those that a message may be about.
pub(super) fn is_behind(flight: &Flight, call: &Call, body: &[u8]) -> bool {
    if flight.is_merged() {
        return !awaited(flight, call, body).is_empty();
    }
    let state = flight.snapshot.states.get(flight.server.index());
    state.is_some_and(|state| state.poke.fresh() < state.poke.announced())
}

/// The servers that have announced more than the catalogue knows, and that this message is about; and how much.
fn awaited(flight: &Flight, call: &Call, body: &[u8]) -> SmallVec<[(Arc<ServerState>, u64); 1]> {
    let snapshot = &flight.snapshot;
    let behind = |server: ServerId| {
        if flight.is_viewed(server) {
            // What its caller sees of it was looked at for that alone.
            return None;
        }
        let state = snapshot.states.get(server.index())?;
        let announced = state.poke.announced();
        (state.poke.fresh() < announced).then(|| (state.clone(), announced))
    };
    if !flight.is_merged() {
        return behind(flight.server).into_iter().collect();
    }
    // One that does not even answer the plane keeps nobody waiting: its part is marked as old.
    let answers = |server: &ServerId| snapshot.catalog.state(*server) == CatalogState::Fresh;
    let servers = flight.merged().servers().iter().copied().filter(answers);
    let waiting: SmallVec<[_; 1]> = servers.filter_map(behind).collect();
    if waiting.is_empty() || call.method.is_some_and(|method| method.list.is_some()) {
        return waiting;
    }
    match route::server_of(flight, call, body) {
        Some(server) => behind(server).into_iter().collect(),
        // It may be new, at any of them.
        None => waiting,
    }
}
