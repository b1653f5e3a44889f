//! Many answers in one: the answers to the messages of a batch, kept as a JSON array for as long as they come as JSON
//! and are few bytes; an event stream from then on. Or answers that have a stream already, the one of HTTP+SSE.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;

use crate::base::limits::{BATCH_ANSWER_BYTES_MAX, BUFFER_BYTES, STREAM_ACKNOWLEDGED_MS_MAX, STREAM_KEEPALIVE_MS};
use crate::base::time::Moment;
use crate::http::head::{Framing, Version};
use crate::http::sse::{self, Event};
use crate::http::{body as chunks, reply};
use crate::upstream::exchange::Abort;
use crate::uring::buffer::Buffer;

use super::answer::write_head;
use super::conn::Conn;
use super::flight::{Flight, NEVER, Next};
use super::live::{self, Feed};
use super::shard::Shard;
use super::watch::{self, Heed, Woke};

/// The answer to a batch, being made.
pub(super) struct Joined {
    form: Form,
    /// No answer is in it yet.
    empty: bool,
    /// When the client was last sent something.
    spoken: Moment,
    /// What was sent has to be acknowledged soon.
    heeded: bool,
}

enum Form {
    /// Kept: the answers one behind the other, and where each ends.
    Array { kept: Option<Buffer>, ends: Vec<usize> },
    /// On their way already.
    Events(Framing),
    /// On a stream of another connection.
    Elsewhere(Rc<Feed>),
}

impl Joined {
    pub(super) fn new(shard: &Shard) -> Self {
        let form = Form::Array { kept: None, ends: Vec::new() };
        Self { form, empty: true, spoken: shard.timers.last().mono, heeded: false }
    }

    /// For what goes on the stream that is all of a session.
    pub(super) fn on(shard: &Shard, feed: Rc<Feed>) -> Self {
        Self { form: Form::Elsewhere(feed), ..Self::new(shard) }
    }

    /// That stream.
    pub(super) fn elsewhere(&self) -> Option<&Rc<Feed>> {
        match &self.form {
            Form::Elsewhere(feed) => Some(feed),
            _ => None,
        }
    }

    /// Whether a message can leave without a wait for its reader, as far as that is known here.
    pub(super) fn has_room(&self, shard: &Shard) -> bool {
        self.elsewhere().is_none_or(|feed| shard.feeds.room(feed))
    }

    /// Whether there is nothing in it, and nothing of it has left.
    pub(super) fn is_empty(&self) -> bool {
        self.empty && matches!(self.form, Form::Array { .. })
    }

    /// An answer. A client that is gone takes it as well as any: what it asked for goes on.
    pub(super) async fn answer(&mut self, shard: &Shard, conn: &mut Conn, message: &[u8]) {
        self.empty = false;
        if self.keep(shard, message) {
            return;
        }
        self.message(shard, conn, message).await;
    }

    /// A message on its way to the client: one that is no answer, or an answer that is not to be kept.
    pub(super) async fn message(&mut self, shard: &Shard, conn: &mut Conn, message: &[u8]) {
        self.become_events(shard, conn).await;
        self.event(shard, conn, message).await;
    }

    /// Makes it an event stream: what came before goes first.
    pub(super) async fn become_events(&mut self, shard: &Shard, conn: &mut Conn) {
        let framing = if conn.head.version == Version::Http11 { Framing::Chunked } else { Framing::UntilClose };
        let Form::Array { kept, ends } = &mut self.form else { return };
        let (kept, ends) = (kept.take(), std::mem::take(ends));
        self.form = Form::Events(framing);
        let mut head = Vec::with_capacity(192);
        conn.write_status(shard, &mut head, 200);
        for (name, value) in
            [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")]
        {
            let _ = reply::write_field(&mut head, name, value.as_bytes());
        }
        reply::finish(&mut head, framing);
        conn.send(shard, &head).await;
        for message in messages(kept.as_deref().unwrap_or_default(), &ends) {
            self.event(shard, conn, message).await;
        }
    }

    /// Waits for `work`, and keeps the client's side alive meanwhile.
    pub(super) async fn wait<F: Future>(&mut self, shard: &Shard, conn: &mut Conn, work: F) -> F::Output {
        self.waited(shard, conn, pin!(work), None).await
    }

    /// The same for an exchange, which `abort` ends as soon as its caller is revoked.
    pub(super) async fn wait_while<F: Future>(
        &mut self,
        shard: &Shard,
        conn: &mut Conn,
        work: F,
        flight: &Flight,
        abort: &Abort,
    ) -> F::Output {
        self.waited(shard, conn, pin!(work), Some((flight, abort))).await
    }

    /// Looks, where there is a caller to be looked at, whenever there may be something to see.
    async fn waited<F: Future>(
        &mut self,
        shard: &Shard,
        conn: &mut Conn,
        mut work: Pin<&mut F>,
        caller: Option<(&Flight, &Abort)>,
    ) -> F::Output {
        let heed = if caller.is_some() { Heed::Turns } else { Heed::Nothing };
        loop {
            let until = match self.form {
                Form::Array { .. } | Form::Elsewhere(_) => NEVER,
                Form::Events(_) => self.spoken.plus_ms(STREAM_KEEPALIVE_MS),
            };
            let look_at = caller.map_or(NEVER, |(flight, _)| live::look_at(&flight.caller, shard.timers.now().mono));
            match watch::next(shard, conn, work.as_mut(), until.min(look_at), false, heed).await {
                Woke::Done(done) => return done,
                Woke::Time => {
                    if let Some((flight, abort)) = caller
                        && flight.is_revoked(shard)
                        && !abort.fired()
                    {
                        // What is in flight ends by itself then.
                        abort.fire();
                    }
                    if shard.timers.now().mono < until {
                        continue;
                    }
                    let mut comment = Vec::with_capacity(24);
                    sse::write_comment(&mut comment, b"keep-alive");
                    self.heed_silence(conn, true);
                    self.put(shard, conn, &comment).await;
                }
                Woke::Gone | Woke::Draining => {}
            }
        }
    }

    /// The end of it.
    pub(super) async fn finish(mut self, shard: &Shard, conn: &mut Conn) -> Next {
        self.heed_silence(conn, false);
        match self.form {
            Form::Array { kept, ends } => {
                let kept = kept.as_deref().unwrap_or_default();
                let length = kept.len() + ends.len() + 1;
                let mut out = Vec::with_capacity(256 + length);
                write_head(shard, conn, &mut out, 200, "application/json", Framing::Length(length as u64), None);
                for (index, message) in messages(kept, &ends).enumerate() {
                    out.push(if index == 0 { b'[' } else { b',' });
                    out.extend_from_slice(message);
                }
                out.push(b']');
                conn.send(shard, &out).await;
                Next::Keep
            }
            Form::Events(Framing::Chunked) => {
                let mut out = Vec::with_capacity(8);
                chunks::write_last_chunk(&mut out);
                conn.send(shard, &out).await;
                if shard.draining() { Next::Close } else { Next::Keep }
            }
            Form::Events(_) | Form::Elsewhere(_) => Next::Close,
        }
    }

    /// Keeps an answer; `false` when it has to leave.
    fn keep(&mut self, shard: &Shard, message: &[u8]) -> bool {
        let Form::Array { kept, ends } = &mut self.form else { return false };
        let held = kept.as_ref().map_or(0, |kept| kept.len());
        if held + message.len() > BATCH_ANSWER_BYTES_MAX {
            return false;
        }
        if kept.is_none() {
            *kept = shard.buffers.get(message.len().max(BUFFER_BYTES));
        }
        let Some(kept) = kept else { return false };
        let fits = kept.reserve(message.len()) && kept.extend_from_slice(message);
        if fits {
            ends.push(kept.len());
        }
        fits
    }

    async fn event(&mut self, shard: &Shard, conn: &mut Conn, message: &[u8]) {
        if let Form::Elsewhere(feed) = &self.form {
            return feed.say(shard, message).await;
        }
        let event = Event { id: None, name: Some(b"message"), data: Some(message), retry: None };
        let mut bytes = Vec::with_capacity(message.len() + 32);
        let _ = sse::write_event(&mut bytes, &event);
        self.heed_silence(conn, false);
        self.put(shard, conn, &bytes).await;
    }

    /// Sends stream bytes, framed. Nothing is received from a server while this waits.
    async fn put(&mut self, shard: &Shard, conn: &mut Conn, bytes: &[u8]) {
        self.spoken = shard.timers.now().mono;
        if let Form::Events(Framing::Chunked) = self.form {
            let mut out = Vec::with_capacity(bytes.len() + 16);
            chunks::write_chunk(&mut out, bytes);
            conn.send(shard, &out).await;
        } else {
            conn.send(shard, bytes).await;
        }
    }

    /// A client that vanished while nothing but comments is sent is noticed soon; see `stream`.
    fn heed_silence(&mut self, conn: &Conn, heed: bool) {
        if self.heeded != heed {
            self.heeded = heed;
            conn.slot.socket.acknowledged_within(if heed { STREAM_ACKNOWLEDGED_MS_MAX } else { 0 });
        }
    }
}

/// The messages of `kept`, each ending at one of `ends`.
fn messages<'a>(kept: &'a [u8], ends: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(ends).map(|(start, end)| kept.get(start..*end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_messages_are_told_apart() {
        let check = |kept: &[u8], ends: &[usize], want: &[&[u8]]| {
            assert_eq!(messages(kept, ends).collect::<Vec<_>>(), want);
        };
        check(b"", &[], &[]);
        check(b"abc", &[3], &[b"abc"]);
        check(b"abcde", &[1, 1, 5], &[b"a", b"", b"bcde"]);
    }
}
