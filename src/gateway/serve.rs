//! A connection: wait for a request, hand it to the pipeline, write the refusal if there is one, repeat.

use std::mem;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;

use crate::base::ids::ShardId;
use crate::base::limits::{BUSY_PAUSE_MS, REFUSED_BODY_DRAIN_BYTES_MAX, REFUSED_BODY_DRAIN_MS_MAX, WAITING_BYTES};
use crate::http::head::{Framing, Method};
use crate::http::reply;
use crate::tls::stream::Stream;
use crate::uring::buffer::Buffer;
use crate::uring::socket::Peek;

use super::conn::{Arrival, Body, Conn, Readable};
use super::cors;
use super::flight::Next;
use super::mail::Parcel;
use super::pipeline;
use super::refusal::{Kind, Refusal};
use super::shard::{Phase, Shard, Slot};
use super::tap::{self, Tap};

/// How a connection begins on this shard.
pub(super) enum Begin {
    /// Accepted, by the listener with this index.
    Accepted(usize),
    /// Handed over, with what it has received from a request's head on.
    Handed(Stream, Vec<u8>),
}

/// What became of a connection that had something to do.
pub(super) enum After {
    /// It waits for its next request, and has done so for some milliseconds; where its wait is under way already, that.
    Idle(u64, Option<Readable>),
    /// It has ended.
    Closed,
}

/// What a run of requests came to.
enum Run {
    /// Nothing more to do.
    After(After),
    /// The last one belongs to that shard.
    HandOver(ShardId, Rest),
    /// The last one is answered with a stream; whether the connection may carry another request after it.
    Stream(Box<Tap>, bool, Rest),
}

/// What is left of a connection's reading side: bytes received and not used up, and the wait for more that is under
/// way.
#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    wait: Option<Readable>,
}

/// Serves a connection until it ends, or moves to another shard. While it waits for a request it holds nothing but its
/// socket: all that a request needs is in the box that `busy` is.
pub(super) async fn connection(shard: Rc<Shard>, slot: Rc<Slot>, begin: Begin) -> Option<(ShardId, Parcel)> {
    let (stream, bytes) = match begin {
        Begin::Accepted(listener) => (secured(&shard, &slot, listener).await, Vec::new()),
        Begin::Handed(stream, bytes) => (Some(stream), bytes),
    };
    let Some(stream) = stream else {
        slot.socket.shutdown();
        return None;
    };
    let mut rest = Rest { bytes, wait: None };
    let mut waited_ms = 0;
    while !rest.bytes.is_empty() || quiet(&shard, &slot, &stream, waited_ms, rest.wait.take()).await {
        let run = Box::pin(busy(&shard, slot.clone(), stream.clone(), mem::take(&mut rest))).await;
        let after = match run {
            Run::After(after) => after,
            Run::HandOver(to, rest) => return Box::pin(pack(&shard, stream, rest)).await.map(|parcel| (to, parcel)),
            Run::Stream(tap, keep, left) => {
                rest.bytes = left.bytes;
                let after = Box::pin(tap::serve(&shard, &slot, &stream, *tap, left.wait)).await;
                match after {
                    After::Idle(_, wait) if !keep => {
                        // Ends the stored wait, which must not be dropped.
                        stream.shutdown();
                        if let Some(wait) = wait {
                            let _ = wait.await;
                        }
                        After::Closed
                    }
                    after => after,
                }
            }
        };
        match after {
            After::Idle(since_ms, wait) => (waited_ms, rest.wait) = (since_ms, wait),
            After::Closed => break,
        }
        stream.release();
    }
    stream.shutdown();
    None
}

/// The connection as requests travel on it: with TLS where its listener has it. `None` when that did not come about.
async fn secured(shard: &Shard, slot: &Slot, listener: usize) -> Option<Stream> {
    let snapshot = shard.snapshot();
    let Some(config) = snapshot.tls.listeners.get(listener).and_then(Option::as_ref) else {
        return Some(Stream::plain(slot.socket.clone()));
    };
    let peer = slot.socket.peer_addr().ip();
    if !shard.load.handshake(peer) {
        return None;
    }
    let until = shard.timers.now().mono.plus_ms(snapshot.settings.limits.handshake_ms_max);
    let guard = shard.timers.deadline(&slot.socket, until);
    let stream = Box::pin(Stream::accept(slot.socket.clone(), config, &shard.buffers)).await;
    shard.load.handshaken(peer);
    stream.ok().filter(|_| !guard.disarm())
}

/// Waits until there is something to receive, be it the end. `false` when the wait was long enough.
async fn quiet(shard: &Shard, slot: &Slot, stream: &Stream, waited_ms: u64, wait: Option<Readable>) -> bool {
    if shard.draining() {
        // Whoever begins a drain ends the idle ones; this one was not idle then.
        return stream.peek_state() == Peek::Bytes;
    }
    slot.phase.set(Phase::Idle);
    let limits = &shard.snapshot().settings.limits;
    // The first request has to come as soon as its head has to.
    let patience = if slot.asked.get() { limits.idle_ms_max } else { limits.idle_ms_max.min(limits.head_ms_max) };
    let until = shard.timers.now().mono.plus_ms(patience.saturating_sub(waited_ms));
    let _guard = shard.timers.deadline(&slot.socket, until);
    let wait = wait.unwrap_or_else(|| Box::pin(stream.readable()));
    wait.await.is_ok() && !slot.socket.is_shutdown()
}

/// Makes a parcel of a connection. Where there is no descriptor for that its client is told to try again.
async fn pack(shard: &Shard, stream: Stream, rest: Rest) -> Option<Parcel> {
    match stream.into_parts(rest.wait) {
        Ok(parts) => Some(Parcel { parts, received: rest.bytes }),
        Err(None) => None,
        Err(Some((stream, wait))) => {
            turn_down(shard, &stream, Kind::NoRoom).await;
            if let Some(wait) = wait {
                let _ = wait.await;
            }
            None
        }
    }
}

/// Serves requests for as long as they follow each other.
async fn busy(shard: &Shard, slot: Rc<Slot>, stream: Stream, rest: Rest) -> Run {
    let input = if rest.bytes.is_empty() { Some(None) } else { pooled(shard, &rest.bytes).map(Some) };
    let fits = input.is_some();
    let mut conn = Conn::new(slot, stream, shard.snapshot().settings.limits, input.flatten(), rest.wait);
    if !fits {
        Box::pin(refuse(shard, &mut conn, &Kind::NoBuffer.into(), false)).await;
    }
    while fits && !conn.gone {
        let arrived = pin!(conn.head(shard)).await;
        let keep = match arrived {
            Ok(Arrival::Closed) => false,
            Ok(Arrival::Quiet(waited_ms)) => return Run::After(After::Idle(waited_ms, conn.watch.take())),
            Ok(Arrival::Request) => {
                let done = pin!(request(shard, &mut conn)).await;
                match done {
                    ControlFlow::Continue(keep) => keep,
                    ControlFlow::Break(run) => return run,
                }
            }
            Err(refusal) => Box::pin(refuse(shard, &mut conn, &refusal, false)).await,
        };
        if !keep {
            break;
        }
    }
    // Also ends the stored wait for readability, which would else keep the descriptor.
    conn.stream.shutdown();
    if let Some(watch) = conn.watch.take() {
        let _ = watch.await;
    }
    Run::After(After::Closed)
}

/// Serves one request. Goes on with whether the connection may carry another one.
async fn request(shard: &Shard, conn: &mut Conn) -> ControlFlow<Run, bool> {
    let mut body = None;
    // Pinned, and so made where it stays, here and below: what is awaited as it comes is copied there.
    let result = pin!(pipeline::serve(shard, conn, &mut body)).await;
    if let Ok(Next::HandOver(to)) = result {
        return ControlFlow::Break(Run::HandOver(to, rest_of(conn, conn.received(body.as_ref()))));
    }
    conn.slot.handed.set(false);
    // Where the next request begins; unknown when this one's body was neither read nor is here whole.
    let body = body.or_else(|| unread_body(conn));
    let keep = conn.head.keep_alive && !conn.is_leaving(shard) && body.is_some();
    let next = match result {
        Ok(Next::Stream(tap)) => {
            if let Some(body) = body {
                conn.done_with(&body);
            }
            return ControlFlow::Break(Run::Stream(tap, keep, rest_of(conn, conn.bytes().to_vec())));
        }
        Ok(next) => {
            if body.is_none() && !conn.gone {
                // A close with unread bytes resets the connection, and the client may never see the answer.
                Box::pin(conn.drain(shard, REFUSED_BODY_DRAIN_BYTES_MAX)).await;
            }
            matches!(next, Next::Keep)
        }
        // The one catch point: whatever was refused on the way is written here.
        Err(refusal) => Box::pin(refuse(shard, conn, &refusal, keep)).await,
    };
    conn.origin = None;
    if let Some(body) = body {
        conn.done_with(&body);
    }
    ControlFlow::Continue(keep && next)
}

fn rest_of(conn: &mut Conn, bytes: Vec<u8>) -> Rest {
    Rest { bytes, wait: conn.watch.take() }
}

/// The bytes in a buffer of the pool, if that has one.
fn pooled(shard: &Shard, bytes: &[u8]) -> Option<Buffer> {
    let mut buffer = shard.buffers.get(bytes.len().max(WAITING_BYTES))?;
    buffer.extend_from_slice(bytes).then_some(buffer)
}

/// Tells a client that there is no room, and waits a little for what it sends, because a close with unread bytes would
/// destroy the answer on its way.
pub(super) async fn turn_down(shard: &Shard, stream: &Stream, kind: Kind) {
    let until = shard.timers.now().mono.plus_ms(REFUSED_BODY_DRAIN_MS_MAX);
    let _guard = shard.timers.deadline(stream.socket(), until);
    if let Some(answer) = pooled(shard, &answer_of(&kind.into(), false, true, None)) {
        let (sent, mut room) = stream.send(answer).await;
        stream.shutdown_write();
        while sent.is_ok() {
            room.clear();
            let (read, back) = stream.recv(room).await;
            room = back;
            if !matches!(read, Ok(n) if n > 0) {
                break;
            }
        }
    }
    stream.shutdown();
}

/// Writes a refusal. The connection is kept only where the next request's first byte is certain; says whether it is.
async fn refuse(shard: &Shard, conn: &mut Conn, refusal: &Refusal, keep: bool) -> bool {
    let row = refusal.kind.row();
    if row.status == 429 {
        // Whoever repeats at once would cost the others more than the call that was refused.
        shard.timers.sleep_until(shard.timers.now().mono.plus_ms(BUSY_PAUSE_MS)).await;
    }
    let keep = keep && !row.close;
    let out = answer_of(refusal, keep, conn.head.method != Method::Head, conn.origin.as_deref());
    let sent = conn.send(shard, &out).await;
    if sent && !keep {
        // A close with unread bytes resets the connection, and the client may never see the answer.
        conn.drain(shard, REFUSED_BODY_DRAIN_BYTES_MAX).await;
    }
    keep && sent
}

/// A refusal as bytes: its head, and its body unless the method has none. `origin` is the page that may read it.
pub(super) fn answer_of(refusal: &Refusal, keep: bool, with_body: bool, origin: Option<&[u8]>) -> Vec<u8> {
    let mut body = Vec::with_capacity(256);
    refusal.write_body(&mut body);
    let mut media = "application/json";
    if let Some(ahead) = &refusal.ahead {
        media = "text/event-stream";
        let event: &[u8] = b"event: message\ndata: ";
        body = [event, ahead.as_bytes(), b"\n\n", event, &body, b"\n\n"].concat();
    }
    let mut out = Vec::with_capacity(512 + body.len());
    reply::write_status(&mut out, refusal.status());
    cors::write(&mut out, origin);
    let _ = reply::write_field(&mut out, "content-type", media.as_bytes());
    if refusal.ahead.is_some() {
        let _ = reply::write_field(&mut out, "cache-control", b"no-cache");
    }
    if let Some(challenge) = refusal.described_challenge() {
        let _ = reply::write_field(&mut out, "www-authenticate", challenge.as_bytes());
    }
    if let Some(allow) = refusal.allow {
        let _ = reply::write_field(&mut out, "allow", allow.as_bytes());
    }
    if refusal.retry_after() > 0 {
        let _ = reply::write_number(&mut out, "retry-after", refusal.retry_after());
    }
    if !keep {
        let _ = reply::write_field(&mut out, "connection", b"close");
    }
    reply::finish(&mut out, Framing::Length(body.len() as u64));
    if with_body {
        out.extend_from_slice(&body);
    }
    out
}

/// The body of a request that was answered without it, where it has arrived whole: its bytes are no next request.
fn unread_body(conn: &Conn) -> Option<Body> {
    let start = conn.head.end;
    match conn.head.framing {
        Framing::None | Framing::UntilClose => Some(Body::Inline { start, end: start }),
        Framing::Length(length) => {
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (conn.bytes().len() >= end).then_some(Body::Inline { start, end })
        }
        Framing::Chunked => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a future that nobody has to make for it.
    fn size_of_future<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle connection without TLS holds of ours: its task's future, the box of its wait for bytes, and its
    /// slot. Not counted: the socket's own record, a place in the timer wheel and one in the list of connections, the
    /// task's head and the kernel's operation, about 500 bytes together (and with TLS the session).
    #[test]
    fn an_idle_connection_is_small() {
        let task = size_of_future(|(shard, slot)| connection(shard, slot, Begin::Accepted(0)));
        let wait = size_of_future(|stream: &'static Stream| stream.readable());
        let slot = size_of::<Slot>() + 2 * size_of::<usize>();
        assert!(task + wait + slot <= 1536, "{task} + {wait} + {slot}");
        // What it is there for: a request needs far more, and is not there while nobody asks.
        let request =
            size_of_future(|(shard, slot, stream): (&'static Shard, _, _)| busy(shard, slot, stream, Rest::default()));
        assert!(request > task + wait, "{request}");
    }
}
