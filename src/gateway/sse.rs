//! The HTTP+SSE transport, towards clients (MCP 2024-11-05 basic/transports; deprecated): one event stream, which is the
//! session, and where it says so a place to which all messages are POSTed. A POST is only ever acknowledged: what
//! answers it goes on the stream.

use std::rc::Rc;

use crate::base::ids::EndpointId;
use crate::base::limits::BUSY_PAUSE_MS;
use crate::http::field::Known;
use crate::http::head::{Framing, Method};
use crate::http::sse::{self, Event};
use crate::http::{body as chunks, reply};
use crate::identity::caller::Caller;
use crate::jsonrpc::scan::Shape;
use crate::mcp::method::Verb;
use crate::mcp::revision::Era;
use crate::session::owner;

use super::apart;
use super::conn::{Body, Conn};
use super::cors;
use super::flight::{Flight, Next, Taken};
use super::joined::Joined;
use super::lists;
use super::live::{Feed, Turn, Who};
use super::pipeline::{self, Asked, Due, Read, Reading};
use super::refusal::{Kind, Refusal};
use super::session::write_head;
use super::sessions::{self, Live};
use super::shard::{Held, Shard};
use super::tap::Tap;
use super::traced;

/// A new session, and its id, for a GET that asks for its stream; `None` for any other request. A client that names a
/// version speaks streamable HTTP: this transport's have nothing to name it in.
pub(super) fn promised(
    shard: &Shard,
    conn: &Conn,
    snapshot: &Held,
    caller: &Rc<Caller>,
    endpoint: EndpointId,
) -> Result<Option<(Rc<Live>, String)>, Refusal> {
    let Some(digest) = snapshot.prepared.endpoints[endpoint.index()].sse else { return Ok(None) };
    let asks = conn.head.method == Method::Get && lists::accepts_events(conn);
    let other = [Known::McpSessionId, Known::McpProtocolVersion].iter().any(|field| conn.head.count(*field) > 0);
    if !asks || other {
        return Ok(None);
    }
    let promised = sessions::promised(shard, caller, digest);
    promised.map(Some).map_err(|kind| Refusal::from(kind).to(Era::Legacy, None))
}

/// Begins that stream: with the place for messages.
pub(super) async fn open(shard: &Shard, conn: &mut Conn, flight: &Flight, id: &str) -> Result<Next, Refusal> {
    let feed = shard.feeds.all(shard, flight).ok_or(Kind::SessionUnknown)?;
    let key = shard.feeds.attach(shard, flight, &feed);
    let place = [conn.head.path.of(conn.bytes()), b"?", NAME, id.as_bytes()].concat();
    let mut event = Vec::with_capacity(place.len() + 32);
    let _ = sse::write_event(&mut event, &Event { id: None, name: Some(b"endpoint"), data: Some(&place), retry: None });
    let mut out = Vec::with_capacity(256 + event.len());
    write_head(conn, shard, &mut out, Framing::Chunked);
    chunks::write_chunk(&mut out, &event);
    // From here on it is the tap's: the place at the stream, and its subject's share.
    let tap =
        Tap { feed, key, who: Rc::new(Who::of(flight)), payer: flight.payer, ending: None, stakes: None, span: None };
    flight.taken.set(Taken::Nothing);
    conn.send(shard, &out).await;
    Ok(Next::Stream(Box::new(tap)))
}

/// The session that a POST's target names in its query, where the endpoint serves that.
pub(super) fn names<'a>(conn: &'a Conn, snapshot: &Held, endpoint: EndpointId) -> Option<&'a [u8]> {
    snapshot.prepared.endpoints[endpoint.index()].sse?;
    conn.head.query?.of(conn.bytes()).strip_prefix(NAME)
}

/// Takes a message of such a session: 202 at once, with the end of the connection, which carries on with the message.
///
/// # Errors
/// What is wrong with the session, or with the body as a whole.
pub(super) async fn post(shard: &Shard, conn: &mut Conn, body: &Body, asked: Asked) -> Result<Next, Refusal> {
    let unknown = || Refusal::from(Kind::SessionUnknown).to(Era::Legacy, None);
    let digest = asked.snapshot.prepared.endpoints[asked.endpoint.index()].sse.ok_or_else(unknown)?;
    let id = names(conn, &asked.snapshot, asked.endpoint).ok_or_else(unknown)?;
    let session = owner::open(&shard.sealing, id).and_then(|session| session.owned_by(&asked.caller.owner, digest));
    let session = session.map_err(|_| unknown())?;
    if let Some(home) = conn.hand_over_to(shard, session.home) {
        return Ok(Next::HandOver(home));
    }
    shard.read_letters();
    let feed = shard.feeds.all_of(&session.nonce16).filter(|feed| feed.session().touch(shard));
    let feed = feed.ok_or_else(unknown)?;
    let read = match pipeline::read(shard, conn, body, &asked, Some(feed.session())) {
        Ok(Reading::One(read)) => Ok(read),
        // This transport is older than batches, and what came after them has none.
        Ok(Reading::Batch) => return Err(Refusal::from(Kind::EnvelopeInvalid).to(Era::Legacy, None)),
        Err(mut refusal) => match refusal.kind {
            Kind::JsonMalformed | Kind::EnvelopeInvalid => return Err(refusal),
            // Whatever is wrong with a modern message: none is right here.
            Kind::HeaderMismatch | Kind::MetaMissing | Kind::ProtocolUnsupported => {
                (refusal.kind, refusal.data) = (Kind::RequestBad, None);
                Err(refusal.saying(LEGACY_ONLY))
            }
            _ => Err(refusal),
        },
    };
    if let Some(turn) = feed.turn_of() {
        let mut joined = Joined::on(shard, feed.clone());
        match read {
            Ok(read) => message(shard, conn, &mut joined, body, asked, read, &feed, turn).await,
            Err(refusal) => {
                taken(shard, conn).await;
                refused(shard, conn, &mut joined, &asked, refusal).await;
            }
        }
    }
    Ok(Next::Close)
}

/// One message, from its decision to the last of its answer.
#[expect(clippy::too_many_arguments, reason = "what a message, its connection and its session are")]
async fn message(
    shard: &Shard,
    conn: &mut Conn,
    joined: &mut Joined,
    body: &Body,
    asked: Asked,
    mut read: Read,
    feed: &Rc<Feed>,
    mut turn: Turn<'_>,
) {
    let (shape, verb) = (read.call.shape, read.call.method.map(|method| method.verb));
    if shape != Shape::Request {
        turn.tells();
    }
    let again = Asked { snapshot: asked.snapshot.clone(), caller: asked.caller.clone(), ..asked };
    let mut flight = asked.flight(&mut read, conn.body_bytes(body).len());
    traced::begin(shard, conn, conn.body_bytes(body), &mut flight, &read.call);
    let slot = conn.slot.clone();
    slot.abort.reset();
    let result = one(shard, conn, joined, body, &mut flight, read, feed, &mut turn).await;
    slot.abort.reset();
    let result = result.map_err(|refusal| flight.answering(shard, refusal, shape));
    flight.over(shard);
    match result {
        Ok(()) if verb == Some(Verb::Initialized) => shard.feeds.listen(feed),
        Ok(()) => {}
        Err(refusal) => refused(shard, conn, joined, &again, refusal).await,
    }
}

#[expect(clippy::too_many_arguments, reason = "what a message, its connection and its session are")]
async fn one(
    shard: &Shard,
    conn: &mut Conn,
    joined: &mut Joined,
    body: &Body,
    flight: &mut Flight,
    mut read: Read,
    feed: &Rc<Feed>,
    turn: &mut Turn<'_>,
) -> Result<(), Refusal> {
    let cursor = read.cursor.take();
    let due = match in_order(feed, &read, turn) {
        Ok(()) => pipeline::judged(shard, conn, body, flight, read, Some(Ok(feed.session().clone()))).await,
        Err(refusal) => Err(refusal),
    };
    taken(shard, conn).await;
    match due? {
        Due::Here(here) => {
            if let Some(revision) = here.begins {
                if feed.is_over() {
                    return Err(Kind::SessionUnknown.into());
                }
                sessions::kept(shard, flight, feed.session(), None, revision)?;
            }
            flight.answer_leaves(shard);
            joined.answer(shard, conn, &here.body).await;
            Ok(())
        }
        // This is a session's home.
        Due::Nothing | Due::Home(_) | Due::Listen(_) => Ok(()),
        Due::List(kind) => {
            let (page, _) = lists::page(shard, flight, kind, cursor.as_deref())?;
            flight.answer_leaves(shard);
            joined.answer(shard, conn, &page).await;
            Ok(())
        }
        Due::Call(recorded, restored) => {
            if turn.is_first() {
                flight.profile = sessions::profile(shard, conn.body_bytes(body));
            }
            turn.comes(shard).await;
            apart::serve(shard, conn, joined, body, flight, recorded, restored).await
        }
    }
}

/// Whether a message may come now: `initialize` first, and once (MCP 2024-11-05 basic/lifecycle).
fn in_order(feed: &Feed, read: &Read, turn: &mut Turn<'_>) -> Result<(), Refusal> {
    let refused = |why: &'static str| Err(Refusal::from(Kind::RequestBad).saying(why));
    if read.call.era != Era::Legacy {
        return refused(LEGACY_ONLY);
    }
    let initialize = read.call.method.is_some_and(|method| method.verb == Verb::Initialize);
    match (initialize, feed.session().has_begun()) {
        (true, _) if !turn.shake() => refused("Bad Request: this session was initialized already."),
        (false, false) => refused("Bad Request: initialize comes first."),
        _ => Ok(()),
    }
}

/// The 202. No other request can come on this connection while it carries on with the message.
async fn taken(shard: &Shard, conn: &mut Conn) {
    let mut out = Vec::with_capacity(64);
    reply::write_status(&mut out, 202);
    cors::write(&mut out, conn.origin.as_deref());
    let _ = reply::write_field(&mut out, "connection", b"close");
    reply::finish(&mut out, Framing::Length(0));
    conn.send(shard, &out).await;
    conn.stream.shutdown_write();
}

/// A message that was taken and is refused: if it is a request, its answer says so.
async fn refused(shard: &Shard, conn: &mut Conn, joined: &mut Joined, asked: &Asked, refusal: Refusal) {
    pipeline::note_caller(shard, &asked.snapshot, &asked.caller, asked.endpoint, &refusal);
    // Whoever takes a request back waits for no answer.
    if refusal.id.is_none() || !refusal.answerable || refusal.kind == Kind::Cancelled {
        return;
    }
    if refusal.kind.row().status == 429 {
        // As after a call alone: whoever repeats at once would cost the others more than what was refused.
        shard.timers.sleep_until(shard.timers.now().mono.plus_ms(BUSY_PAUSE_MS)).await;
    }
    let mut message = Vec::with_capacity(256);
    refusal.write_body(&mut message);
    joined.answer(shard, conn, &message).await;
}

const LEGACY_ONLY: &str = "Bad Request: over HTTP+SSE only versions up to 2025-11-25 are spoken; send initialize.";

/// What a session's id follows in a target's query.
const NAME: &[u8] = b"session=";
