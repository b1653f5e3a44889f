//! A connection: wait for a request, hand it to the pipeline, write the refusal if there is one, repeat.

use std::rc::Rc;

use crate::base::limits::REFUSED_BODY_DRAIN_BYTES_MAX;
use crate::http::head::{Framing, Method};
use crate::http::reply;

use super::conn::{Arrival, Body, Conn};
use super::flight::Next;
use super::pipeline;
use super::refusal::Refusal;
use super::shard::{Shard, Slot};

/// Serves a connection to its end.
pub(super) async fn connection(shard: Rc<Shard>, slot: Rc<Slot>) {
    let mut conn = Conn::new(slot);
    loop {
        let next = match conn.head(&shard).await {
            Ok(Arrival::Closed) => Next::Close,
            Ok(Arrival::Request) => request(&shard, &mut conn).await,
            Err(refusal) => Box::pin(refuse(&shard, &mut conn, &refusal, false)).await,
        };
        if next == Next::Close || conn.gone {
            break;
        }
    }
    // Also ends the stored wait for readability, which would else keep the descriptor.
    conn.socket.shutdown();
    if let Some(watch) = conn.watch.take() {
        let _ = watch.await;
    }
}

async fn request(shard: &Shard, conn: &mut Conn) -> Next {
    let mut body = None;
    let result = pipeline::serve(shard, conn, &mut body).await;
    // Where the next request begins; unknown when this one's body was neither read nor is here whole.
    let body = body.or_else(|| unread_body(conn));
    let keep = conn.head.keep_alive && !shard.draining() && body.is_some();
    let next = match result {
        Ok(next) => next,
        // The one catch point: whatever was refused on the way is written here.
        Err(refusal) => Box::pin(refuse(shard, conn, &refusal, keep)).await,
    };
    if let Some(body) = body {
        conn.done_with(&body);
    }
    if keep { next } else { Next::Close }
}

/// Writes a refusal. The connection is kept only where the next request's first byte is certain.
async fn refuse(shard: &Shard, conn: &mut Conn, refusal: &Refusal, keep: bool) -> Next {
    let row = refusal.kind.row();
    let keep = keep && !row.close && !shard.draining();
    let mut body = Vec::with_capacity(256);
    refusal.write_body(&mut body);
    let mut out = Vec::with_capacity(512 + body.len());
    reply::write_status(&mut out, refusal.status());
    let _ = reply::write_field(&mut out, "content-type", b"application/json");
    if let Some(challenge) = &refusal.challenge {
        let _ = reply::write_field(&mut out, "www-authenticate", challenge.as_bytes());
    }
    if let Some(allow) = refusal.allow {
        let _ = reply::write_field(&mut out, "allow", allow.as_bytes());
    }
    if row.retry_after > 0 {
        let _ = reply::write_number(&mut out, "retry-after", u64::from(row.retry_after));
    }
    if !keep {
        let _ = reply::write_field(&mut out, "connection", b"close");
    }
    reply::finish(&mut out, Framing::Length(body.len() as u64));
    if conn.head.method != Method::Head {
        out.extend_from_slice(&body);
    }
    let sent = conn.send(shard, &out).await;
    if sent && !keep {
        // A close with unread bytes resets the connection, and the client may never see the answer.
        conn.drain(shard, REFUSED_BODY_DRAIN_BYTES_MAX).await;
    }
    if keep && sent { Next::Keep } else { Next::Close }
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
