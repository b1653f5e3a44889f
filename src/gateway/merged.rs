//! What the gateway itself answers for the several servers of an endpoint: their lists as one, and who they are
//! together. A server that is gone or late costs its own part, and the answer says so.

use ::ring::rand::SecureRandom;
use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::limits::CATALOG_MS_DEFAULT;
use crate::identity::active::ActiveTask;
use crate::mcp::catalog::{CatalogState, EraCatalog, ListKind};
use crate::mcp::merge::write::{
    Lack, Lacking, Part, Position, Together, end_list_result, start_list_result, write_discover_result,
    write_initialize_result,
};
use crate::policy::decide::{concerns, listed};
use crate::session::cursor::{self, Cursor, CursorList};

use super::flight::Flight;
use super::refusal::{Kind, Refusal};
use super::shard::Shard;

/// The answer to a list request, from where its cursor says, and whether a server whose part is in it answers such with
/// events.
///
/// # Errors
/// A cursor that is not of this list; a list that no server has; and where all that the caller may see of it is missing:
/// never an empty success.
pub(super) fn page(
    shard: &Shard,
    flight: &Flight,
    kind: ListKind,
    cursor: Option<&str>,
) -> Result<(Vec<u8>, bool), Refusal> {
    let (merged, snapshot, era) = (flight.merged(), &flight.snapshot, flight.era);
    let state = State::of(flight, |server| concerns(&snapshot.table, &flight.caller, flight.task, server, Some(kind)));
    let listing = |offer: &EraCatalog| offer.list(kind).map(|listing| listing.ttl_ms.unwrap_or(0));
    let offered = |server: &ServerId| flight.offer(*server).and_then(listing);
    let parts = state.parts.iter().filter_map(|part| listing(part.offer));
    let shortest = parts.min();
    if shortest.is_none() && state.more {
        let missing = state.lacking.iter().filter(|lacking| lacking.state == Lack::Missing);
        let names: Vec<&str> = missing.map(|lacking| lacking.server).collect();
        let message = format!("Not reached yet: {}; try again.", names.join(", "));
        return Err(Refusal::from(Kind::CatalogUnknown).saying(message));
    }
    // Whoever may see none of it gets an empty list, as from a server alone; also of those that may turn out to have one.
    let may_have = |server: &ServerId| offered(server).is_some() || !snapshot.catalog.known(*server);
    if !merged.servers().iter().any(may_have) {
        return Err(Kind::MethodUnknown.into());
    }
    let list = CursorList {
        owner: flight.caller.owner,
        endpoint: snapshot.prepared.endpoints[flight.endpoint.index()].digest,
        era,
        kind,
        generation: merged.generation(era, kind),
    };
    let opened = |text: &str| cursor::open(&shard.sealing, text.as_bytes())?.of(&list);
    let from = cursor.map_or(Ok(Position::default()), opened).map_err(|_| {
        Refusal::from(Kind::CursorInvalid).saying("Invalid cursor: the list has changed, or it is of another one.")
    })?;
    let mut body = flight.begin_result();
    start_list_result(&mut body, era, kind);
    let (table, caller, task) = (&snapshot.table, &flight.caller, flight.task);
    let next = merged.write_items(&mut body, &snapshot.catalog, era, kind, from, &mut |server, item| {
        flight.sees(server, kind, item) && listed(table, caller, task, server, kind, item)
    });
    let next = next.map(|position| sealed(shard, Cursor { list, position })).transpose()?;
    // What is not whole is not worth keeping.
    let ttl_ms = if state.lacking.is_empty() { shortest.unwrap_or(0) } else { 0 };
    end_list_result(&mut body, era, ttl_ms, next.as_deref(), &state.lacking);
    body.push(b'}');
    Ok((body, state.parts.iter().any(|part| part.offer.events)))
}

/// Appends the result of `initialize`.
pub(super) fn write_initialize(flight: &Flight, out: &mut Vec<u8>) {
    let state = State::of(flight, |server| concerns_ever(flight, server));
    write_initialize_result(out, flight.revision, &state.together(flight), &state.lacking);
}

/// Appends the result of `server/discover`.
pub(super) fn write_discover(flight: &Flight, out: &mut Vec<u8>) {
    let state = State::of(flight, |server| concerns_ever(flight, server));
    let ttl_ms = if state.lacking.is_empty() { CATALOG_MS_DEFAULT } else { 0 };
    write_discover_result(out, &state.together(flight), ttl_ms, &state.lacking);
}

/// What is known of the servers that concern a caller.
struct State<'a> {
    parts: SmallVec<[Part<'a>; 16]>,
    lacking: SmallVec<[Lacking<'a>; 4]>,
    /// Of some nothing is known.
    more: bool,
}

impl<'a> State<'a> {
    fn of(flight: &'a Flight, concerns: impl Fn(ServerId) -> bool) -> Self {
        let mut state = Self { parts: SmallVec::new(), lacking: SmallVec::new(), more: false };
        for server in flight.merged().servers().iter().copied().filter(|server| concerns(*server)) {
            let name = &*flight.snapshot.settings.servers[server.index()].name;
            let offer = flight.offer(server);
            state.parts.extend(offer.map(|offer| Part { name, offer }));
            let lack = match flight.snapshot.catalog.state(server) {
                CatalogState::Missing => Lack::Missing,
                CatalogState::Stale { .. } if offer.is_some() => Lack::Stale,
                CatalogState::Stale { .. } | CatalogState::Fresh => continue,
            };
            state.more |= lack == Lack::Missing;
            state.lacking.push(Lacking { server: name, state: lack });
        }
        state
    }

    fn together(&self, flight: &Flight) -> Together<'_> {
        let instructions = flight.snapshot.settings.endpoints[flight.endpoint.index()].instructions;
        Together { parts: &self.parts, more: self.more, instructions }
    }
}

/// Whether a server concerns the caller now, or with any task that it has: what a session can do is said once, and the
/// task may come later.
pub(super) fn concerns_ever(flight: &Flight, server: ServerId) -> bool {
    let concerns = |task| concerns(&flight.snapshot.table, &flight.caller, task, server, None);
    concerns(flight.task) || flight.caller.tasks.iter().any(|task| concerns(ActiveTask::One(*task)))
}

fn sealed(shard: &Shard, cursor: Cursor) -> Result<String, Kind> {
    let mut nonce = [0; 12];
    shard.random.fill(&mut nonce).map_err(|_| Kind::NoBuffer)?;
    let key = shard.sealing.first().ok_or(Kind::ServerInvalid)?;
    Ok(cursor::seal(key, &cursor, nonce))
}
