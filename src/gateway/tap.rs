//! The slim wait of a connection that only reads a stream.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::base::limits::{SEND_PIECE_BYTES, STREAM_ACKNOWLEDGED_MS_MAX, STREAM_PIECE_BYTES};
use crate::base::time::{Moment, Now};
use crate::http::body as chunks;
use crate::http::sse::{self, Event};
use crate::identity::caller::Owner;
use crate::record::Seq;
use crate::record::frame::{Outcome, Status};
use crate::session::outlet::{Taken, TapKey};
use crate::tls::stream::Stream;
use crate::uring::socket::Peek;

use super::conn::Readable;
use super::flight::NEVER;
use super::live::{Feed, Who};
use super::serve::After;
use super::shard::{Phase, Shard, Slot};
use super::stakes::{Came, Stakes};
use super::traced::Lasting;

/// A place at a stream, whose head has been sent, in chunks.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) feed: Rc<Feed>,
    pub(super) key: TapKey,
    pub(super) who: Rc<Who>,
    /// Whose share it is counted in.
    pub(super) payer: Owner,
    /// Of a request that the stream is the answer to: what is to be recorded at its end.
    pub(super) ending: Option<Ending>,
    /// What it has at stake.
    pub(super) stakes: Option<Box<Stakes>>,
    /// Its span, where it is recorded.
    pub(super) span: Option<Box<Lasting>>,
}

/// What is known of a request whose answer goes on without it.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) seq: Seq,
    pub(super) began: Now,
    pub(super) request_bytes: usize,
}

/// Writes a stream's events until it ends. `wait` is the stored wait for the client's bytes, if one is under way; it
/// goes on as the wait for its next request.
pub(super) async fn serve(shard: &Shard, slot: &Rc<Slot>, stream: &Stream, tap: Tap, wait: Option<Readable>) -> After {
    // What is still to be answered on it has the time that calls have.
    slot.phase.set(if tap.feed.is_all() { Phase::Busy } else { Phase::Stream });
    let mut reading = Reading {
        shard,
        slot,
        stream,
        expires: expiry(shard, tap.who.caller.expires),
        tap,
        wait,
        early: false,
        spoken: shard.timers.now().mono,
        heeded: false,
        bytes: 0,
    };
    let clean = reading.run().await;
    let Reading { mut tap, wait, bytes, .. } = reading;
    if let Some(stakes) = tap.stakes.take() {
        stakes.settle(shard, Came::ToServer);
    }
    if let Some(ending) = &tap.ending {
        ending.write(shard, clean, bytes);
    }
    if let Some(span) = tap.span.take() {
        span.end(shard, None);
    }
    shard.feeds.detach(shard, &tap.feed, tap.key);
    shard.load.streamed(tap.payer);
    slot.phase.set(Phase::Busy);
    if clean && !shard.draining() {
        return After::Idle(0, wait);
    }
    // Ends the stored wait, which would else keep the descriptor.
    stream.shutdown();
    if let Some(wait) = wait {
        let _ = wait.await;
    }
    After::Closed
}

impl Ending {
    fn write(&self, shard: &Shard, clean: bool, answer_bytes: usize) {
        let now = shard.timers.now();
        let micros = u64::try_from(now.mono.since(self.began.mono).as_micros()).unwrap_or(u64::MAX);
        shard.record.ended(
            self.seq,
            &Outcome {
                unix_ms: now.unix_ms,
                status: if clean { Status::Ok } else { Status::Cancelled },
                http: if clean { 200 } else { 0 },
                is_error: false,
                code: 0,
                total_us: micros,
                upstream_us: 0,
                request_bytes: self.request_bytes as u64,
                answer_bytes: answer_bytes as u64,
            },
        );
    }
}

/// The moment at which a token that ends at `expires`, seconds since 1970, has ended.
pub(super) fn expiry(shard: &Shard, expires: u64) -> Moment {
    let now = shard.timers.now();
    match expires {
        u64::MAX => NEVER,
        expires => now.mono.plus_ms(expires.saturating_mul(1000).saturating_sub(now.unix_ms)),
    }
}

/// A connection on its stream.
struct Reading<'a> {
    shard: &'a Shard,
    slot: &'a Slot,
    stream: &'a Stream,
    tap: Tap,
    /// The stored wait for what the client sends, be it its end.
    wait: Option<Readable>,
    /// It has sent something: the next request, which tells nothing about this one.
    early: bool,
    /// When the caller's token ends.
    expires: Moment,
    /// When the client was last sent something.
    spoken: Moment,
    /// What was sent has to be acknowledged soon.
    heeded: bool,
    /// How much of the stream was sent.
    bytes: usize,
}

/// What ended a wait.
enum Woke {
    /// There may be something to do.
    Changed,
    /// The client has left.
    Gone,
    /// The moment has come.
    Time,
}

impl Reading<'_> {
    /// Whether the stream came to a clean end.
    async fn run(&mut self) -> bool {
        loop {
            let turn = self.tap.feed.turn();
            self.renew();
            let (mut out, taken) = if self.is_barred() { (Vec::new(), Taken::End) } else { self.take() };
            let over = taken != Taken::All && taken != Taken::More || self.is_over();
            if let Some(words) = self.tap.feed.last_words().filter(|_| over && taken != Taken::Gone) {
                let mut event = Vec::with_capacity(words.len() + 32);
                let message = Event { id: None, name: Some(b"message"), data: Some(&words), retry: None };
                let _ = sse::write_event(&mut event, &message);
                chunks::write_chunk(&mut out, &event);
            }
            if !out.is_empty() || over {
                self.heed_silence(false);
                if !Box::pin(self.send(&out, over)).await {
                    return false;
                }
            }
            drop(out);
            if over {
                return true;
            }
            if taken == Taken::More {
                continue;
            }
            let quiet_until = self.spoken.plus_ms(self.shard.snapshot().settings.limits.keepalive_ms);
            let look_at = self.tap.who.look_at(self.shard.timers.now().mono);
            match self.wait(turn, quiet_until.min(self.expires).min(look_at)).await {
                Woke::Changed => {}
                Woke::Gone => return false,
                Woke::Time => {
                    if self.shard.timers.now().mono >= quiet_until && !self.keep_alive().await {
                        return false;
                    }
                }
            }
        }
    }

    /// What is due, as bytes of the body.
    fn take(&self) -> (Vec<u8>, Taken) {
        let mut events = Vec::new();
        let feed = &self.tap.feed;
        if feed.outlet.borrow().is_newest(self.tap.key) {
            feed.read_by(self.shard, &self.tap.who);
        }
        let taken = feed.outlet.borrow_mut().take(self.tap.key, STREAM_PIECE_BYTES, &mut events);
        let mut out = Vec::new();
        if !events.is_empty() {
            out.reserve_exact(events.len() + 16);
            chunks::write_chunk(&mut out, &events);
            self.shard.feeds.settle(feed);
            if !feed.outlet.borrow().waits() {
                // There is room again.
                feed.fed();
            }
        }
        (out, taken)
    }

    /// Other settings have come: it goes on as who it is under these, if that can be told without its token.
    fn renew(&mut self) {
        let snapshot = self.shard.snapshot();
        if snapshot.auth_epoch != self.tap.who.epoch {
            let who = self.tap.who.carried(&snapshot, self.tap.feed.endpoint());
            who.into_iter().for_each(|who| self.tap.who = who);
        }
    }

    /// Whether it is over, or its reader may read no more.
    fn is_over(&self) -> bool {
        self.drains() || self.tap.feed.is_over() || self.is_barred()
    }

    /// Whether its reader may not even read what waits.
    fn is_barred(&self) -> bool {
        let (snapshot, now, who) = (self.shard.snapshot(), self.shard.timers.now(), &self.tap.who);
        self.tap.feed.is_shut_up()
            || self.expires <= now.mono
            || snapshot.auth_epoch != who.epoch
            || !who.stands(&snapshot, now.mono)
            || who.is_revoked(&snapshot)
    }

    /// Whether a drain ends it.
    fn drains(&self) -> bool {
        self.shard.draining() && !self.tap.feed.expects()
    }

    async fn keep_alive(&mut self) -> bool {
        if !self.tap.feed.session().touch(self.shard) {
            // The ledger knows that it is over: the next look finds that out.
            return true;
        }
        let (mut comment, mut out) = (Vec::with_capacity(24), Vec::with_capacity(40));
        sse::write_comment(&mut comment, b"keep-alive");
        chunks::write_chunk(&mut out, &comment);
        self.heed_silence(true);
        Box::pin(self.send(&out, false)).await
    }

    /// Sends part of the body, and its end where it is `over`; `false` when the client is gone or does not read.
    async fn send(&mut self, bytes: &[u8], over: bool) -> bool {
        let mut last = Vec::new();
        if over {
            chunks::write_last_chunk(&mut last);
        }
        let stall_ms = self.shard.snapshot().settings.limits.write_stall_ms_max;
        for piece in bytes.chunks(SEND_PIECE_BYTES).chain(Some(&*last).filter(|last| !last.is_empty())) {
            let buffer = self.shard.buffers.get(piece.len());
            // Without memory only an end of the connection tells the client that something is missing.
            let Some(buffer) = buffer.and_then(|mut out| out.extend_from_slice(piece).then_some(out)) else {
                return false;
            };
            let until = self.shard.timers.now().mono.plus_ms(stall_ms);
            let _guard = self.shard.timers.deadline(&self.slot.socket, until);
            if self.stream.send(buffer).await.0.is_err() {
                return false;
            }
        }
        self.spoken = self.shard.timers.now().mono;
        self.bytes += bytes.len();
        true
    }

    /// As for any stream: a comment has to be acknowledged soon, or the client has vanished.
    fn heed_silence(&mut self, heed: bool) {
        if self.heeded != heed {
            self.heeded = heed;
            self.slot.socket.acknowledged_within(if heed { STREAM_ACKNOWLEDGED_MS_MAX } else { 0 });
        }
    }

    /// Waits until the stream has changed since `turn`, the client has left, the shard drains, or it is `until`.
    async fn wait(&mut self, turn: u64, until: Moment) -> Woke {
        let mut alarm = pin!(self.shard.timers.sleep_until(until));
        poll_fn(|cx| {
            if self.tap.feed.turn() != turn || self.drains() {
                return Poll::Ready(Woke::Changed);
            }
            if self.is_gone(cx) {
                return Poll::Ready(Woke::Gone);
            }
            if alarm.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Woke::Time);
            }
            self.tap.feed.remember(cx.waker());
            *self.slot.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Looks at the stored wait. Bytes are the next request, early: they end the watching, not the client.
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.early && !self.slot.socket.is_deaf() {
            let wait = self.wait.get_or_insert_with(|| Box::pin(self.stream.readable()));
            if wait.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.wait = None;
            match self.stream.peek_state() {
                // TLS had something to say to itself (RFC 8446, 4.6): nothing has changed.
                Peek::Quiet if self.stream.is_tls() => {}
                Peek::Closed => return true,
                _ => self.early = true,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::serve::{Begin, connection};

    /// Of a future that nobody has to make for it.
    fn size_of_future<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle stream's connection holds of ours, without TLS, counted as for an idle connection: its task's
    /// future, the box of this wait, that of its wait for bytes, its slot, and the stream's log and reader, which are
    /// its own as long as the session has one connection.
    #[test]
    fn an_idle_stream_is_small() {
        type Arguments = (&'static Shard, &'static Rc<Slot>, &'static Stream, Tap, Option<Readable>);
        let task = size_of_future(|(shard, slot)| connection(shard, slot, Begin::Accepted(0)));
        let reading =
            size_of_future(|(shard, slot, stream, tap, wait): Arguments| serve(shard, slot, stream, tap, wait));
        let wait = size_of_future(|stream: &'static Stream| stream.readable());
        let slot = size_of::<Slot>() + 2 * size_of::<usize>();
        let stream = size_of::<Feed>() + Feed::PART_BYTES + size_of::<Who>() + 6 * size_of::<usize>();
        let all = task + reading + wait + slot + stream;
        println!("an idle stream: {all} B: {task} + {reading} + {wait} + {slot} + {stream}");
        assert!(all <= 3072, "{all}: {task} + {reading} + {wait} + {slot} + {stream}");
    }
}
