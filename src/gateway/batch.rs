//! A batch (MCP 2025-03-26 basic): each message goes the way it would go alone, one after the other, with a decision, a
//! record and an exchange of its own. No array ever reaches a server.

use crate::base::limits::BUSY_PAUSE_MS;
use crate::jsonrpc::batch::Element;
use crate::jsonrpc::scan::Shape;
use crate::mcp::method::{self as methods, Sender};
use crate::mcp::revision::{Era, Revision};

use super::answer::accepted;
use super::apart;
use super::conn::{Body, Conn};
use super::flight::Next;
use super::gate::{self, Admitted};
use super::joined::Joined;
use super::lists;
use super::pipeline::{self, Asked, Due, Reading};
use super::refusal::{Kind, Refusal};
use super::shard::{Shard, Slot};
use super::traced;

/// Serves a batch: its requests' answers in one, or 202 where there are none.
///
/// # Errors
/// What is wrong with the batch as a whole; or, if nothing of it was taken up, what its first message was refused for,
/// where that is a matter of the caller, the session or the gateway rather than of the message.
pub(super) async fn serve(shard: &Shard, conn: &mut Conn, body: &Body, asked: &Asked) -> Result<Next, Refusal> {
    let elements = read(shard, conn.body_bytes(body), asked.snapshot.settings.limits.batch_messages_max)?;
    let slot = conn.slot.clone();
    let mut joined = Joined::new(shard);
    let mut refused = None;
    let mut taken = false;
    for element in &elements {
        let result = if may_begin(shard, &slot) {
            one(shard, conn, body, &mut joined, element).await
        } else {
            Err(Kind::Overloaded.into())
        };
        let Err(refusal) = result else {
            taken = true;
            continue;
        };
        let refusal = refusal.to(Era::Legacy, element.raw_id(conn.body_bytes(body)));
        if !taken && joined.is_empty() && concerns_all(&refusal) {
            slot.abort.reset();
            return Err(refusal.to(Era::Legacy, None));
        }
        pipeline::note_caller(shard, &asked.snapshot, &asked.caller, asked.endpoint, &refusal);
        if element.shape.is_ok_and(|shape| shape != Shape::Request) {
            refused.get_or_insert(refusal);
            continue;
        }
        if refusal.kind.row().status == 429 {
            // As after a call alone: whoever repeats at once would cost the others more than what was refused.
            let pause = shard.timers.sleep_until(shard.timers.now().mono.plus_ms(BUSY_PAUSE_MS));
            joined.wait(shard, conn, pause).await;
        }
        let mut message = Vec::with_capacity(256);
        refusal.write_body(&mut message);
        joined.answer(shard, conn, &message).await;
    }
    slot.abort.reset();
    match refused {
        _ if !joined.is_empty() => Ok(joined.finish(shard, conn).await),
        Some(refusal) if !taken => Err(refusal.unanswerable().recorded()),
        _ => accepted(shard, conn).await,
    }
}

/// The messages of a batch.
fn read(shard: &Shard, text: &[u8], max: usize) -> Result<Vec<Element>, Refusal> {
    let mut reader = shard.reader();
    let read = reader.read_batch(text, max);
    let elements = read.map_err(|fault| pipeline::unreadable(fault, &reader, text).to(Era::Legacy, None))?;
    let alone = |element: &Element| {
        let method = element.method.map(|name| name.of(element.of(text))).unwrap_or_default();
        let row = methods::find(method, Revision::UNSAID, Sender::Client);
        row.is_some_and(|method| !method.batchable())
    };
    if elements.iter().any(alone) {
        let refusal = Refusal::from(Kind::EnvelopeInvalid).to(Era::Legacy, None);
        return Err(refusal.saying("Invalid request: initialize cannot be in a batch."));
    }
    Ok(elements)
}

/// Whether one more message may begin, for which it makes ready: not when the connection's time is up, for nobody could
/// be told.
fn may_begin(shard: &Shard, slot: &Slot) -> bool {
    if slot.socket.is_shutdown() || (shard.draining() && slot.abort.fired()) {
        return false;
    }
    slot.abort.reset();
    true
}

/// Whether a refusal says nothing about the message: the caller has to do something before it asks again.
fn concerns_all(refusal: &Refusal) -> bool {
    // What policy says is about one message, whatever its status.
    let by_policy = matches!(refusal.kind, Kind::RateOfMethod | Kind::ApprovalsFull | Kind::CountsFull);
    !by_policy && matches!(refusal.status(), 401 | 404 | 429 | 503)
}

/// One message, under the configuration of this moment. Its refusal has yet to be told whom it answers.
async fn one(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    joined: &mut Joined,
    element: &Element,
) -> Result<(), Refusal> {
    let message = copied(shard, element.of(conn.body_bytes(body)))?;
    let text = conn.body_bytes(&message);
    if element.repeats {
        return Err(Refusal::from(Kind::IdInFlight).saying("Another request of this batch has the same id."));
    }
    let began = shard.timers.now();
    let snapshot = shard.snapshot();
    let endpoint = gate::endpoint(&snapshot, conn)?;
    let admitted = gate::caller_unwatched(shard, snapshot, conn, endpoint).await?;
    let Admitted { snapshot, endpoint, caller, waited } = admitted;
    let asked = Asked { snapshot, caller, endpoint, began, waited };
    let session = pipeline::session(shard, conn, &asked);
    let opened = session.as_ref().and_then(|opened| opened.as_ref().ok());
    let mut read = match pipeline::read(shard, conn, &message, &asked, opened)? {
        Reading::One(read) if read.call.era == Era::Legacy => read,
        _ => return Err(Kind::EnvelopeInvalid.into()),
    };
    let (shape, cursor) = (read.call.shape, read.cursor.take());
    let mut flight = asked.flight(&mut read, text.len());
    traced::begin(shard, conn, text, &mut flight, &read.call);
    let result = match pipeline::judged(shard, conn, &message, &mut flight, read, session).await {
        Ok(Due::Call(recorded, restored)) => {
            apart::serve(shard, conn, joined, &message, &mut flight, recorded, restored).await
        }
        Ok(Due::List(kind)) => match lists::page(shard, &flight, kind, cursor.as_deref()) {
            Ok((page, events)) => {
                flight.answer_leaves(shard);
                if events {
                    joined.become_events(shard, conn).await;
                }
                joined.answer(shard, conn, &page).await;
                Ok(())
            }
            Err(refusal) => Err(refusal),
        },
        Ok(Due::Here(here)) => {
            flight.answer_leaves(shard);
            joined.answer(shard, conn, &here.body).await;
            Ok(())
        }
        // A batch is at home where any of it has to be.
        Ok(due @ (Due::Nothing | Due::Home(_) | Due::Listen(_))) => {
            flight.figures.left.set(matches!(due, Due::Nothing));
            Ok(())
        }
        Err(refusal) => Err(refusal),
    };
    let result = result.map_err(|refusal| flight.answering(shard, refusal, shape));
    flight.over(shard);
    result
}

/// The message as a body of its own.
fn copied(shard: &Shard, text: &[u8]) -> Result<Body, Kind> {
    let mut buffer = shard.buffers.get(text.len()).ok_or(Kind::NoBuffer)?;
    if buffer.extend_from_slice(text) { Ok(Body::Apart(buffer)) } else { Err(Kind::NoBuffer) }
}
