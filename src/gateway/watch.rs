//! Waiting for a server while a client may leave. Nothing in flight is ever dropped: the wait for the client's socket
//! is stored in the connection and becomes the wait for its next request.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use crate::base::limits::WATCH_AFTER_MS;
use crate::base::time::Moment;
use crate::uring::socket::Peek;

use super::conn::Conn;
use super::shard::Shard;

/// What ended a wait.
#[derive(Debug)]
pub(super) enum Woke<T> {
    /// What was waited for.
    Done(T),
    /// The client has closed its side.
    Gone,
    /// The moment has come.
    Time,
    /// The shard is draining.
    Draining,
}

/// What else than its work and its client ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heed {
    /// Nothing.
    Nothing,
    /// That callers are to be looked at again.
    Turns,
    /// That, and that the shard drains.
    All,
}

/// Waits for `work`, at most until `until`, and where `heed` says so until callers are to be looked at again. Notices
/// that the client is gone from the first timer tick on, once; and that the shard drains, where that is heeded.
pub(super) async fn next<F: Future>(
    shard: &Shard,
    conn: &mut Conn,
    mut work: Pin<&mut F>,
    until: Moment,
    watch_client: bool,
    heed: Heed,
) -> Woke<F::Output> {
    if let Poll::Ready(done) = poll_once(work.as_mut()).await {
        return Woke::Done(done);
    }
    // Once we have closed our ears, an end is no news of the client.
    let watch_client = watch_client && !conn.slot.socket.is_deaf();
    // A time some steps old makes the first look early, no more.
    let tick = shard.timers.last().mono.plus_ms(WATCH_AFTER_MS);
    let mut alarm = pin!(shard.timers.sleep_until(if conn.watch.is_some() { until } else { tick.min(until) }));
    let mut ticked = conn.watch.is_some() || tick >= until;
    let turns = shard.feeds.turns();
    loop {
        let woke = poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(Woke::Done(done)));
            }
            if heed == Heed::All && shard.draining() {
                return Poll::Ready(Some(Woke::Draining));
            }
            if heed != Heed::Nothing && shard.feeds.turns() != turns {
                return Poll::Ready(Some(Woke::Time));
            }
            if watch_client && !conn.gone && gone(conn, cx) {
                return Poll::Ready(Some(Woke::Gone));
            }
            if alarm.as_mut().poll(cx).is_ready() {
                return Poll::Ready(if ticked { Some(Woke::Time) } else { None });
            }
            if heed != Heed::Nothing {
                *conn.slot.waker.borrow_mut() = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
        match woke {
            Some(woke) => return woke,
            None => {
                ticked = true;
                alarm.set(shard.timers.sleep_until(until));
                if watch_client && conn.watch.is_none() && !conn.gone && !conn.early {
                    conn.watch = Some(Box::pin(conn.stream.readable()));
                }
            }
        }
    }
}

/// Looks at the stored wait. Bytes are the next request, early: they end the watching, not the client.
fn gone(conn: &mut Conn, cx: &mut std::task::Context<'_>) -> bool {
    while let Some(watch) = conn.watch.as_mut() {
        if watch.as_mut().poll(cx).is_pending() {
            return false;
        }
        conn.watch = match conn.stream.peek_state() {
            // TLS had something to say to itself (RFC 8446, 4.6): nothing has changed.
            Peek::Quiet if conn.stream.is_tls() => Some(Box::pin(conn.stream.readable())),
            state => {
                conn.gone = state == Peek::Closed;
                conn.early = !conn.gone;
                None
            }
        };
    }
    conn.gone
}

async fn poll_once<F: Future>(mut work: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await
}
