//! A permitted message on its way to its server, apart from the connection that it came on: the messages that answer it
//! go into a larger answer, one by one.

use crate::base::limits::{BUFFER_BYTES, EVENT_BYTES_MAX};
use crate::base::span::Span;
use crate::base::time::Moment;
use crate::http::field::Known;
use crate::http::sse::EventParser;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::scan::Shape;
use crate::mcp::method::Verb;
use crate::record::Recorded;
use crate::record::frame::Status;
use crate::session::ledger::Upstream;
use crate::session::way::{In, WayFault};
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Abort, Answer, Lane};
use crate::uring::buffer::Buffer;

use super::answer::{Media, accept, deadline, media, of_facts, retire};
use super::conn::{Body, Conn};
use super::events as asks;
use super::exchange::sent;
use super::flight::{Ended, Flight, NEVER, end, failed};
use super::forward::{self, Trip};
use super::joined::Joined;
use super::refusal::{Kind, Refusal};
use super::relay::{self, withheld};
use super::route;
use super::sessions::{self, Restored};
use super::shard::Shard;
use super::shown;
use super::stream::{self, Judged};
use super::traced;

/// Sends a permitted message, and puts what comes back into `joined`: nothing for a message that nobody waits to be
/// answered, else its answer, after the messages that the server sent before it. A legacy client that leaves cancels
/// nothing.
///
/// # Errors
/// Whatever stands in the answer's place; its outcome is recorded. Messages may have gone before it.
pub(super) async fn serve(
    shard: &Shard,
    conn: &mut Conn,
    joined: &mut Joined,
    body: &Body,
    flight: &mut Flight,
    recorded: Recorded,
    restored: Option<Restored>,
) -> Result<(), Refusal> {
    let snapshot = flight.snapshot.clone();
    flight.change.set(sessions::change(shard, flight, recorded.permit().call(), conn.body_bytes(body)));
    let mut trip = Trip::new(shard, &snapshot, flight, &recorded, restored.as_ref());
    let since = shard.timers.now().mono;
    let due = shown::due(shard, &snapshot, flight.server, flight.whom(), trip.deadline);
    let due = joined.wait(shard, conn, due).await;
    flight.figures.waits(shard, since);
    trip.shown = due.map_err(|lack| flight.lacks(shard, &lack))?;
    flight.shown.clone_from(&trip.shown);
    trip.seat(shard, flight)?;
    let live = flight.session.clone();
    let slot = conn.slot.clone();
    let deadline = trip.deadline;
    let mut way = live.as_ref().map(|live| trip.way(flight, live, deadline));
    loop {
        let mut upstream = None;
        if let (Some(live), Some((way, next))) = (&live, &mut way) {
            let reached = joined.wait(shard, conn, sessions::reach(shard, flight, live, way, *next)).await;
            upstream = match reached {
                Ok(upstream) => Some(upstream),
                Err(WayFault::Gone) => {
                    forward::lost(shard, flight);
                    return Ok(());
                }
                Err(fault) => return Err(forward::unsent(shard, flight, fault)),
            };
        }
        let answer = sent_to(shard, conn, joined, body, flight, &trip, upstream.as_deref(), deadline).await?;
        let mut answer = answer.map_err(|fault| failed(shard, flight, fault))?;
        let (status, mut collected) = (answer.status(), None);
        if status == 400 && way.is_some() && media(&answer) == Media::Json {
            collected = match joined.wait(shard, conn, whole(shard, &mut answer)).await {
                Ok(Some(body)) => Some(body),
                Ok(None) => return Err(too_long(shard, flight, answer)),
                Err(fault) => return Err(broken(shard, flight, answer, fault, &slot.abort)),
            };
        }
        let said = collected.as_deref().unwrap_or_default();
        if let Some((way, next)) = &mut way
            && sessions::is_forgotten(shard, status, said, flight.id.as_deref())
        {
            answer.abandon();
            *next = way.step(In::Forgotten, shard.timers.now().mono);
            continue;
        }
        return match collected {
            Some(body) => json(shard, conn, joined, flight, answer, &slot.abort, Some(body)).await,
            None => answered(shard, conn, joined, flight, answer, &slot.abort, trip.timeout).await,
        };
    }
}

/// Sends it, and waits for the head of the answer. The outer fault is one after which nothing was sent.
#[expect(clippy::too_many_arguments, reason = "what a message, its connection and its way are")]
async fn sent_to(
    shard: &Shard,
    conn: &mut Conn,
    joined: &mut Joined,
    body: &Body,
    flight: &mut Flight,
    trip: &Trip<'_>,
    upstream: Option<&Upstream>,
    deadline: Moment,
) -> Result<Result<Answer, UpstreamFault>, Refusal> {
    let slot = conn.slot.clone();
    let mut lanes = trip.lanes(shard, flight, upstream);
    let mut answer = Err(UpstreamFault::NoAddress);
    while let Some(lane) = lanes.next(shard) {
        traced::attempt(shard, flight, &lane, upstream);
        let Some(request) = forward::compose(shard, conn, body, flight, trip, &lane, upstream) else {
            end(shard, flight, Ended::of(Status::Unreachable, 503));
            return Err(Refusal::from(Kind::NoBuffer).recorded());
        };
        flight.sent = shard.timers.now().mono;
        flight.goes_to(shard, upstream);
        if flight.is_cancelled(shard) {
            traced::withdrawn(flight);
            return Ok(Err(UpstreamFault::Withdrawn));
        }
        flight.may_go(shard)?;
        flight.tries(shard, &lane);
        let may = || flight.revoked(shard).is_none();
        let lane = Lane { may: Some(&may), ..lane };
        answer = joined.wait(shard, conn, sent(shard, &lane, request, deadline, &slot.abort)).await;
        flight.answered = shard.timers.now().mono;
        if let Err(fault) = answer {
            traced::attempted(shard, flight, fault);
        }
        match answer {
            Err(UpstreamFault::Withdrawn) => {
                // Revoked, or nobody waits any more: another instance is no better then.
                flight.may_go(shard)?;
                break;
            }
            Err(fault) if fault.is_unsent() => {}
            _ => {
                flight.written.set(true);
                break;
            }
        }
    }
    Ok(answer)
}

/// What came back, as `relay::answer` would look at it.
async fn answered(
    shard: &Shard,
    conn: &mut Conn,
    joined: &mut Joined,
    flight: &Flight,
    answer: Answer,
    abort: &Abort,
    timeout: u64,
) -> Result<(), Refusal> {
    let request = flight.id.is_some() && flight.method.is_some();
    let initialize = flight.method.is_some_and(|method| method.verb == Verb::Initialize);
    match (answer.status(), media(&answer)) {
        (401 | 403, _) => Err(flight.refused_us(shard, answer)),
        (200, Media::Json | Media::Events) if initialize => {
            Box::pin(begun(shard, conn, joined, flight, answer, abort)).await
        }
        (200, Media::Events) if request => events(shard, conn, joined, flight, answer, abort, timeout).await,
        (200..=299, _) if !request => {
            retire(shard, answer).await;
            end(shard, flight, Ended::of(Status::Ok, 202));
            Ok(())
        }
        (200..=299 | 400..=599, Media::Json) => json(shard, conn, joined, flight, answer, abort, None).await,
        (status, _) => {
            let refusal = withheld(shard, flight, answer, Kind::ServerInvalid);
            Err(refusal.saying(format!("The server answered with HTTP status {status} and no JSON-RPC message.")))
        }
    }
}

/// An answer that came as JSON, read whole, if it was not yet.
async fn json(
    shard: &Shard,
    conn: &mut Conn,
    joined: &mut Joined,
    flight: &Flight,
    mut answer: Answer,
    abort: &Abort,
    collected: Option<Buffer>,
) -> Result<(), Refusal> {
    let body = match collected {
        Some(body) => Ok(Some(body)),
        None => joined.wait(shard, conn, whole(shard, &mut answer)).await,
    };
    let body = match body {
        Ok(Some(body)) => body,
        Ok(None) => return Err(too_long(shard, flight, answer)),
        Err(fault) => return Err(broken(shard, flight, answer, fault, abort)),
    };
    let status = answer.status();
    let facts = shard.answers().read(&body).ok();
    let facts = match facts
        .map_or(Err(Kind::ServerInvalid), |facts| accept(shard, flight, &facts, &body, status).map(|()| facts))
    {
        Ok(facts) => facts,
        Err(kind) => return Err(withheld(shard, flight, answer, kind)),
    };
    let exposed = route::exposed(flight, &body);
    let given = exposed.as_deref().unwrap_or(&body);
    let named = if facts.id.is_none() { with_id(shard, flight, given) } else { None };
    shard.upstreams.finish(answer);
    flight.answer_leaves(shard);
    joined.answer(shard, conn, named.as_deref().unwrap_or(given)).await;
    end(shard, flight, of_facts(&facts, status, body.len()));
    Ok(())
}

/// The answer to the `initialize` of a session whose stream is there already.
async fn begun(
    shard: &Shard,
    conn: &mut Conn,
    joined: &mut Joined,
    flight: &Flight,
    mut answer: Answer,
    abort: &Abort,
) -> Result<(), Refusal> {
    let body = if media(&answer) == Media::Events {
        let ours = |data: &[u8]| {
            let mut answers = shard.answers();
            answers.read(data).is_ok_and(|facts| accept(shard, flight, &facts, data, 200).is_ok())
        };
        joined.wait(shard, conn, stream::event_with(shard, &mut answer, ours)).await.map(Some)
    } else {
        let body = joined.wait(shard, conn, whole(shard, &mut answer)).await;
        body.map(|body| body.map(|body| body.to_vec()))
    };
    let body = match body {
        Ok(Some(body)) => body,
        Ok(None) => return Err(too_long(shard, flight, answer)),
        Err(fault) => return Err(broken(shard, flight, answer, fault, abort)),
    };
    let Ok((body, agreed)) = relay::settled(shard, flight, body) else {
        return Err(withheld(shard, flight, answer, Kind::ServerInvalid));
    };
    if let Some(revision) = agreed {
        let id = answer.field(Known::McpSessionId).unwrap_or_default().to_vec();
        let feed = joined.elsewhere().filter(|feed| !feed.is_over());
        let kept = feed.ok_or(Kind::SessionUnknown);
        let kept = kept.and_then(|feed| sessions::kept(shard, flight, feed.session(), Some(&id), revision));
        if let Err(kind) = kept {
            answer.abandon();
            let orphan = Upstream {
                server: sessions::digest(flight),
                instance: flight.instance,
                epoch: 0,
                revision,
                id: id.into(),
            };
            sessions::end_upstream(shard, &flight.snapshot, flight.server, &orphan, flight.whom()).await;
            return Err(kind.into());
        }
    }
    retire(shard, answer).await;
    flight.answer_leaves(shard);
    joined.answer(shard, conn, &body).await;
    Ok(())
}

fn too_long(shard: &Shard, flight: &Flight, answer: Answer) -> Refusal {
    withheld(shard, flight, answer, Kind::ServerInvalid).saying(
        "The server's answer is longer than one in a batch may be, and was withheld; the call may have been executed.",
    )
}

/// A whole body; `None` for one that is too long.
async fn whole(shard: &Shard, answer: &mut Answer) -> Result<Option<Buffer>, UpstreamFault> {
    let mut body = shard.buffers.get(BUFFER_BYTES).ok_or(UpstreamFault::NoBuffer)?;
    loop {
        let mut fits = true;
        let done = answer.decode(|data| fits &= body.reserve(data.len()) && body.extend_from_slice(data))?;
        if !fits {
            return Err(UpstreamFault::NoBuffer);
        }
        if body.len() > EVENT_BYTES_MAX {
            return Ok(None);
        }
        if done {
            return Ok(Some(body));
        }
        answer.fill(&shard.buffers).await?;
    }
}

/// An error that names no request, which is plain where it is the only answer there is, with the id of the request that
/// it answers.
fn with_id(shard: &Shard, flight: &Flight, body: &[u8]) -> Option<Vec<u8>> {
    let id = flight.id.as_deref()?;
    let mut reader = shard.reader();
    let envelope = reader.read(body).ok().filter(|envelope| envelope.shape == Shape::Error)?;
    let written = envelope.root_members().iter().find(|member| member.key.of(body) == b"id");
    let mut out = Vec::with_capacity(body.len() + id.len() + 8);
    match written {
        Some(null) => splice(body, &[(null.value, id)], &mut out),
        None => {
            let first = body.iter().position(|byte| *byte == b'{')? + 1;
            let member = [b"\"id\":", id, b","].concat();
            splice(body, &[(Span::new(first, first), &member)], &mut out);
        }
    }
    Some(out)
}

/// An answer that comes as events: what comes before it goes on as it comes.
async fn events(
    shard: &Shard,
    conn: &mut Conn,
    joined: &mut Joined,
    flight: &Flight,
    mut answer: Answer,
    abort: &Abort,
    timeout: u64,
) -> Result<(), Refusal> {
    joined.become_events(shard, conn).await;
    let mut parser = EventParser::new();
    let mut raw = Vec::new();
    let mut bytes = 0;
    loop {
        let done = match answer.decode(|data| raw.extend_from_slice(data)) {
            Ok(done) => done,
            Err(fault) => return Err(broken(shard, flight, answer, fault, abort)),
        };
        let mut at = 0;
        while at < raw.len() {
            match parser.push(&raw[at..]) {
                Ok(consumed) => at += consumed,
                Err(_) => return Err(broken(shard, flight, answer, UpstreamFault::BadAnswer, abort)),
            }
            if !parser.ready() {
                continue;
            }
            let event = parser.event();
            let data = event.data.unwrap_or_default();
            match stream::judge(shard, flight, &event) {
                Judged::Forward => {
                    bytes += data.len();
                    slow_down(shard, joined, &answer);
                    joined.message(shard, conn, data).await;
                }
                Judged::Final(facts, other) => {
                    flight.answer_leaves(shard);
                    joined.answer(shard, conn, other.as_deref().unwrap_or(data)).await;
                    end(shard, flight, Ended { streamed: true, ..of_facts(&facts, 200, bytes + data.len()) });
                    retire(shard, answer).await;
                    return Ok(());
                }
                Judged::Refused(id, why) => Box::pin(asks::refuse_of(shard, flight, &id, why)).await,
                Judged::Instead(data) => {
                    bytes += data.len();
                    slow_down(shard, joined, &answer);
                    joined.message(shard, conn, &data).await;
                }
                Judged::Drop => {}
                Judged::Over => return Err(broken(shard, flight, answer, UpstreamFault::Cut, abort)),
                Judged::Invalid => return Err(broken(shard, flight, answer, UpstreamFault::BadAnswer, abort)),
                Judged::Withheld(kind) => return Err(withheld(shard, flight, answer, kind)),
            }
        }
        raw.clear();
        if done {
            return Err(broken(shard, flight, answer, UpstreamFault::Cut, abort));
        }
        answer.allow_until(deadline(shard, timeout));
        let filled = joined.wait_while(shard, conn, answer.fill(&shard.buffers), flight, abort).await;
        if flight.is_revoked(shard) {
            return Err(withheld(shard, flight, answer, Kind::Revoked));
        }
        if let Err(fault) = filled {
            return Err(broken(shard, flight, answer, fault, abort));
        }
    }
}

/// Whoever waits for a reader waits for no server.
fn slow_down(shard: &Shard, joined: &Joined, answer: &Answer) {
    if !joined.has_room(shard) {
        answer.allow_until(NEVER);
    }
}

/// An exchange that failed after the head of the answer had come.
fn broken(shard: &Shard, flight: &Flight, answer: Answer, fault: UpstreamFault, abort: &Abort) -> Refusal {
    answer.abandon();
    failed(shard, flight, if abort.fired() { UpstreamFault::Abandoned } else { fault })
}
