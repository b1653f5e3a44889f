//! One connection of a client: its bytes in, its bytes out, and what others may do to it from outside.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;

use crate::base::ids::ShardId;
use crate::base::limits::{
    BODY_BYTES_PER_S_MIN, BODY_GRACE_MS, BODY_LARGE_BYTES, BUFFER_BYTES, IDLE_AFTER_MS, REFUSED_BODY_DRAIN_MS_MAX,
    SEND_PIECE_BYTES, WAITING_BYTES,
};
use crate::base::time::Moment;
use crate::config::Limits;
use crate::http::body::{self as chunks, BodyDecoder};
use crate::http::head::{Framing, Progress, RequestHead};
use crate::http::reply;
use crate::session::owner::{self, SealingKey, SessionFault, SessionSeal};
use crate::tls::stream::Stream;
use crate::uring::buffer::Buffer;
use crate::uring::socket::Peek;
use crate::uring::wait::Deadline;

use super::cors;
use super::load::Class;
use super::refusal::{Kind, Refusal};
use super::shard::{Phase, Shard, Slot};

/// A stored wait for readability; see `watch`.
pub(super) type Readable = Pin<Box<dyn Future<Output = std::io::Result<()>>>>;

/// A connection.
pub(super) struct Conn {
    pub(super) stream: Stream,
    pub(super) slot: Rc<Slot>,
    limits: Limits,
    pub(super) head: RequestHead,
    input: Option<Buffer>,
    pub(super) watch: Option<Readable>,
    /// The client has closed its side, or the connection broke.
    pub(super) gone: bool,
    /// The next request's first bytes are there already, so the socket tells nothing about the client any more.
    pub(super) early: bool,
    /// The page that the answer is for, where a page asks: one on the list.
    pub(super) origin: Option<Box<[u8]>>,
    /// The session id of the last request that had one.
    pub(super) opened: Unsealed,
}

/// A session id that was opened, and what it says: the same bytes say the same again, and are not deciphered again.
#[derive(Default)]
pub(super) struct Unsealed(RefCell<Option<(Box<[u8]>, SessionSeal)>>);

impl Unsealed {
    /// What an id says, to whoever may use it.
    ///
    /// # Errors
    /// As [`owner::open`].
    pub(super) fn open(&self, keys: &[SealingKey], id: &[u8]) -> Result<SessionSeal, SessionFault> {
        let mut known = self.0.borrow_mut();
        if let Some((bytes, seal)) = &*known
            && **bytes == *id
        {
            return Ok(seal.clone());
        }
        let seal = owner::open(keys, id)?;
        *known = Some((id.into(), seal.clone()));
        Ok(seal)
    }
}

/// What came of waiting for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A head is complete.
    Request,
    /// Nothing has come for so many milliseconds: time to wait with less at hand.
    Quiet(u64),
    /// There will be none.
    Closed,
}

/// Where a request's body is.
#[derive(Debug)]
pub(super) enum Body {
    /// Behind the head, in the connection's buffer.
    Inline {
        /// First byte.
        start: usize,
        /// One past the last.
        end: usize,
    },
    /// Decoded into a buffer of its own.
    Apart(Buffer),
}

impl Conn {
    /// `input` is what has come already, `watch` a wait for more that is under way.
    pub(super) fn new(
        slot: Rc<Slot>,
        stream: Stream,
        limits: Limits,
        input: Option<Buffer>,
        watch: Option<Readable>,
    ) -> Self {
        Self {
            stream,
            slot,
            limits,
            head: RequestHead::new(),
            input,
            watch,
            gone: false,
            early: false,
            origin: None,
            opened: Unsealed::default(),
        }
    }

    /// The way to the shard where this request's session is at home; `None` where that is this one, or the request has
    /// made its way already. To be asked before anything is sent; the body may have been read.
    pub(super) fn hand_over_to(&self, shard: &Shard, home: ShardId) -> Option<ShardId> {
        let home = shard.home(home);
        (home != shard.id && !self.slot.handed.get()).then_some(home)
    }

    /// All that was received from this request's head on, as if none of it had been read. A body that was decoded is
    /// one chunk of the same bytes.
    pub(super) fn received(&self, body: Option<&Body>) -> Vec<u8> {
        match body {
            Some(Body::Apart(body)) => as_one_chunk(self.bytes(), self.head.end, body),
            Some(Body::Inline { .. }) | None => self.bytes().to_vec(),
        }
    }

    /// What has arrived: the head starts at its first byte.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        self.input.as_deref().unwrap_or_default()
    }

    #[inline]
    pub(super) fn body_bytes<'a>(&'a self, body: &'a Body) -> &'a [u8] {
        match body {
            Body::Inline { start, end } => &self.bytes()[*start..*end],
            Body::Apart(buffer) => buffer,
        }
    }

    /// Waits for the next request's head.
    pub(super) async fn head(&mut self, shard: &Shard) -> Result<Arrival, Refusal> {
        let mut until = None;
        loop {
            let partial = !self.bytes().is_empty();
            if self.slot.socket.is_shutdown() {
                // Its time was up while this was on its way: what nobody could be told about is not begun.
                return Ok(Arrival::Closed);
            }
            if let Some(input) = self.input.as_ref().filter(|_| partial)
                && self.head.parse(input)? == Progress::Complete
            {
                self.slot.phase.set(Phase::Busy);
                self.slot.asked.set(true);
                return Ok(Arrival::Request);
            }
            if !partial {
                // What has arrived by then is served.
                if shard.draining() && self.stream.peek_state() != Peek::Bytes {
                    return Ok(Arrival::Closed);
                }
                self.slot.phase.set(Phase::Idle);
                // Armed while the last call waited, it goes on as the wait for the next request.
                if self.watch.is_some() {
                    return Ok(Arrival::Quiet(0));
                }
                match self.first_bytes(shard).await? {
                    Arrival::Request => continue,
                    other => return Ok(other),
                }
            }
            self.slot.phase.set(Phase::Arriving);
            let head_ms = self.limits.head_ms_max;
            let until = *until.get_or_insert_with(|| shard.timers.now().mono.plus_ms(head_ms));
            let _guard = shard.timers.deadline(&self.slot.socket, until);
            if let Some(watch) = self.watch.take() {
                let _ = watch.await;
            }
            // A head larger than most: nobody knows yet whose it is, and calls of those who are known come first.
            if self.input.as_ref().is_some_and(|input| input.spare() == 0) && !shard.has_buffers(Class::Lasting) {
                return Err(Kind::NoBuffer.into());
            }
            // Room as it is needed: a head that trickles in holds no more than it has brought.
            if !self.receive(shard, self.bytes().len() + 1).await? {
                return Ok(Arrival::Closed);
            }
        }
    }

    /// Waits a while for the first bytes of a request, with the buffer that most requests fit.
    async fn first_bytes(&mut self, shard: &Shard) -> Result<Arrival, Refusal> {
        let buffer = match self.input.take() {
            Some(input) => input,
            None => shard.buffers.get(WAITING_BYTES).ok_or(Kind::NoBuffer)?,
        };
        let wait_ms = self.limits.idle_ms_max.min(IDLE_AFTER_MS);
        let until = shard.timers.now().mono.plus_ms(wait_ms);
        let (read, buffer) = self.stream.recv_until(buffer, &shard.timers, until).await;
        match read {
            Ok(n) if n > 0 => {
                self.input = Some(buffer);
                Ok(Arrival::Request)
            }
            Err(fault) if fault.kind() == std::io::ErrorKind::TimedOut => Ok(Arrival::Quiet(wait_ms)),
            _ => {
                self.gone = true;
                Ok(Arrival::Closed)
            }
        }
    }

    /// The body, where all of it has come with the head; `None` where it has not, or is none that is taken as it is.
    pub(super) fn body_at_hand(&self) -> Option<Body> {
        let start = self.head.end;
        let end = match self.head.framing {
            Framing::None | Framing::UntilClose => start,
            Framing::Length(length) => {
                let length = usize::try_from(length).ok().filter(|length| *length <= self.limits.body_bytes_max)?;
                start.checked_add(length)?
            }
            Framing::Chunked => return None,
        };
        (end <= self.bytes().len()).then_some(Body::Inline { start, end })
    }

    /// Reads the body whole.
    pub(super) async fn body(&mut self, shard: &Shard) -> Result<Body, Refusal> {
        match self.head.framing {
            Framing::None | Framing::UntilClose => Ok(Body::Inline { start: self.head.end, end: self.head.end }),
            Framing::Length(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > self.limits.body_bytes_max {
                    return Err(Kind::BodyTooLarge.into());
                }
                let end = self.head.end + length;
                if self.bytes().len() < end {
                    Box::pin(self.rest_of_body(shard, end)).await?;
                }
                Ok(Body::Inline { start: self.head.end, end })
            }
            Framing::Chunked => Box::pin(self.chunked_body(shard)).await.map(Body::Apart),
        }
    }

    /// Receives until `end` bytes are here, head included.
    async fn rest_of_body(&mut self, shard: &Shard, end: usize) -> Result<(), Refusal> {
        if end > BODY_LARGE_BYTES && !shard.admits(Class::Lasting, &self.limits) {
            return Err(Kind::Overloaded.into());
        }
        self.go_ahead(shard).await;
        let mut pace = Pace::new(shard, self);
        while self.bytes().len() < end {
            // Room for what has come once more: what is only announced costs nothing.
            let room = end.min((2 * self.bytes().len()).max(BUFFER_BYTES));
            let before = self.bytes().len();
            if !self.receive(shard, room).await? {
                return Err(Kind::BodyIncomplete.into());
            }
            pace.took(self.bytes().len() - before);
        }
        Ok(())
    }

    async fn chunked_body(&mut self, shard: &Shard) -> Result<Buffer, Refusal> {
        let max = self.limits.body_bytes_max;
        self.go_ahead(shard).await;
        let mut pace = Pace::new(shard, self);
        let mut decoder = BodyDecoder::new(Framing::Chunked);
        let mut body = shard.buffers.get(BUFFER_BYTES).ok_or(Kind::NoBuffer)?;
        let mut at = self.head.end;
        loop {
            let piece = decoder.step(&self.bytes()[at..])?;
            let data = piece.data.of(&self.bytes()[at..]);
            if body.len() + data.len() > max {
                return Err(Kind::BodyTooLarge.into());
            }
            if body.len() + data.len() > BODY_LARGE_BYTES && !shard.admits(Class::Lasting, &self.limits) {
                return Err(Kind::Overloaded.into());
            }
            if !body.reserve(data.len()) || !body.extend_from_slice(data) {
                return Err(Kind::NoBuffer.into());
            }
            at += piece.consumed;
            if piece.done {
                // The next request starts here.
                self.forget(at);
                return Ok(body);
            }
            if piece.consumed == 0 {
                // What was decoded is not needed a second time; the head in front of it is.
                self.forget(at);
                at = self.head.end;
                let before = self.bytes().len();
                if !self.receive(shard, before + BUFFER_BYTES / 4).await? {
                    return Err(Kind::BodyIncomplete.into());
                }
                pace.took(self.bytes().len() - before);
            }
        }
    }

    /// Drops the bytes from the head's end to `at`.
    fn forget(&mut self, at: usize) {
        let end = self.head.end;
        if let Some(input) = self.input.as_mut() {
            let kept = input.len() - (at - end);
            input.as_mut_slice().copy_within(at.., end);
            input.truncate(kept);
        }
    }

    /// `100 Continue`, where the client waits for it before it sends the body (RFC 9110, 10.1.1).
    async fn go_ahead(&mut self, shard: &Shard) {
        if self.head.expect_continue && self.bytes().len() == self.head.end {
            let _ = self.send(shard, b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
    }

    /// The request is over; what is behind it stays.
    pub(super) fn done_with(&mut self, body: &Body) {
        let end = match body {
            Body::Inline { end, .. } => *end,
            Body::Apart(_) => self.head.end,
        };
        if let Some(input) = self.input.as_mut() {
            input.consume(end);
            if input.is_empty() {
                self.input = None;
            }
        }
        self.early = false;
    }

    /// Receives more, into a buffer that holds at least `room` bytes in all. `false` at the end of the connection.
    async fn receive(&mut self, shard: &Shard, room: usize) -> Result<bool, Refusal> {
        let mut buffer = match self.input.take() {
            Some(input) => input,
            None => shard.buffers.get(room).ok_or(Kind::NoBuffer)?,
        };
        let missing = room.saturating_sub(buffer.len()).max(1);
        if !buffer.reserve(missing) {
            return Err(Kind::NoBuffer.into());
        }
        let (read, buffer) = self.stream.recv(buffer).await;
        self.input = Some(buffer);
        let more = matches!(read, Ok(n) if n > 0);
        self.gone |= !more;
        Ok(more)
    }

    /// Reads and throws away what still comes, so that an answer is not lost to a reset.
    pub(super) async fn drain(&mut self, shard: &Shard, bytes_max: usize) {
        self.stream.shutdown_write();
        let until = shard.timers.now().mono.plus_ms(REFUSED_BODY_DRAIN_MS_MAX);
        let _guard = shard.timers.deadline(&self.slot.socket, until);
        let mut drained = 0;
        while drained < bytes_max {
            self.input = None;
            match self.receive(shard, BUFFER_BYTES).await {
                Ok(true) => drained += self.bytes().len(),
                _ => break,
            }
        }
    }

    /// Whether it carries no request after this one, whatever its client wishes.
    pub(super) fn is_leaving(&self, shard: &Shard) -> bool {
        shard.draining() || self.slot.socket.is_deaf()
    }

    /// Begins the head of an answer: the status, whether a page may read it, and that the connection ends where it will (RFC 9112, 9.6).
    pub(super) fn write_status(&self, shard: &Shard, out: &mut Vec<u8>, status: u16) {
        reply::write_status(out, status);
        cors::write(out, self.origin.as_deref());
        if !self.head.keep_alive || self.is_leaving(shard) {
            let _ = reply::write_field(out, "connection", b"close");
        }
    }

    /// Sends `bytes`; `false` when the client is gone or has not read for too long.
    pub(super) async fn send(&mut self, shard: &Shard, bytes: &[u8]) -> bool {
        let mut sent = 0;
        while sent < bytes.len() && !self.gone {
            let piece = &bytes[sent..(sent + SEND_PIECE_BYTES).min(bytes.len())];
            let out = shard.buffers.get(piece.len()).and_then(|mut out| out.extend_from_slice(piece).then_some(out));
            match out {
                Some(out) => self.send_buffer(shard, out).await,
                None => {
                    // Half an answer is out, and there is no memory for the rest: only an end tells the client.
                    self.gone = true;
                    break;
                }
            };
            sent += piece.len();
        }
        !self.gone
    }

    /// Sends a whole buffer.
    pub(super) async fn send_buffer(&mut self, shard: &Shard, out: Buffer) -> bool {
        let until = shard.timers.now().mono.plus_ms(self.limits.write_stall_ms_max);
        let _guard = shard.timers.deadline(&self.slot.socket, until);
        let (sent, _) = pin!(self.stream.send(out)).await;
        self.gone |= sent.is_err();
        !self.gone
    }
}

/// A request and what is behind it, its `body` put back between them.
fn as_one_chunk(bytes: &[u8], head_end: usize, body: &[u8]) -> Vec<u8> {
    let (head, next) = bytes.split_at(head_end);
    let mut out = Vec::with_capacity(bytes.len() + body.len() + 32);
    out.extend_from_slice(head);
    // An empty chunk would be the last one.
    if !body.is_empty() {
        chunks::write_chunk(&mut out, body);
    }
    chunks::write_last_chunk(&mut out);
    out.extend_from_slice(next);
    out
}

/// How long a body may take: so long in all, and never slower than so many bytes a second, after a grace.
struct Pace {
    guard: Deadline,
    begun: Moment,
    ms_max: u64,
    bytes: u64,
}

impl Pace {
    fn new(shard: &Shard, conn: &Conn) -> Self {
        let begun = shard.timers.now().mono;
        let ms_max = conn.limits.body_time_ms_max;
        let guard = shard.timers.deadline(&conn.slot.socket, begun.plus_ms(ms_max.min(BODY_GRACE_MS)));
        Self { guard, begun, ms_max, bytes: 0 }
    }

    fn took(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let earned = BODY_GRACE_MS + self.bytes.saturating_mul(1000) / BODY_BYTES_PER_S_MIN;
        let _ = self.guard.reset(self.begun.plus_ms(earned.min(self.ms_max)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that was read can be read again, and the next request is still behind it.
    #[test]
    fn a_decoded_body_is_put_back() {
        let check = |body: &[u8]| {
            let (head, next) = (b"POST / HTTP/1.1\r\n\r\n".as_slice(), b"GET /next".as_slice());
            let bytes = as_one_chunk(&[head, next].concat(), head.len(), body);
            let mut rest = bytes.strip_prefix(head).unwrap();
            let (mut decoder, mut got, mut done) = (BodyDecoder::new(Framing::Chunked), Vec::new(), false);
            while !done {
                let piece = decoder.step(rest).unwrap();
                got.extend_from_slice(piece.data.of(rest));
                (rest, done) = (&rest[piece.consumed..], piece.done);
            }
            assert_eq!((got.as_slice(), rest), (body, next));
        };
        check(b"");
        check(b"{}");
        check(&[b'x'; 70_000]);
    }
}
