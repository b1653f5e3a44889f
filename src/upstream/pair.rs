//! The far end of a pair of sockets: a small HTTP/1.1 server with one client, the gateway itself. It plays a server of
//! streamable HTTP in front of servers that speak something else.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::base::limits::{BODY_BYTES_MAX, BUFFER_BYTES, SEND_PIECE_BYTES};
use crate::http::field::Known;
use crate::http::head::{Framing, Progress, RequestHead};
use crate::http::sse::{self, Event};
use crate::http::{body as chunks, reply};
use crate::tls::stream::Stream;
use crate::uring::buffer;
use crate::uring::ring;
use crate::uring::socket::{Peek, Socket};

use super::UpstreamFault;
use super::inbox::Nudge;

/// What is answered when it is not the server that answers: statuses that no server's answer has here.
const FAULTS: &[(u16, UpstreamFault)] = &[
    (593, UpstreamFault::Unreachable),
    (594, UpstreamFault::Untrusted),
    (595, UpstreamFault::NoAddress),
    (596, UpstreamFault::NoBuffer),
    (597, UpstreamFault::Timeout),
    (598, UpstreamFault::Cut),
    (599, UpstreamFault::BadAnswer),
];

/// The fault that a status stands for.
#[must_use]
pub fn fault_of(status: u16) -> Option<UpstreamFault> {
    FAULTS.iter().find(|row| row.0 == status).map(|row| row.1)
}

/// The status that stands for a fault.
#[must_use]
pub fn status_of(fault: UpstreamFault) -> u16 {
    FAULTS.iter().find(|row| row.1 == fault).map_or(598, |row| row.0)
}

/// The far end of a pair.
pub struct Pair {
    stream: Stream,
    buffers: buffer::Pool,
    /// It carries one request after the other.
    kept: bool,
    asked: RefCell<Option<Box<Asked>>>,
    /// A request is being answered.
    busy: Cell<bool>,
    gone: Cell<bool>,
    nudge: Rc<Nudge>,
    /// Rung when a request has been answered.
    turn: Nudge,
}

/// A request, whole.
pub struct Asked {
    /// Its head.
    pub head: RequestHead,
    bytes: Vec<u8>,
}

impl Asked {
    /// Its body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.head.end..).unwrap_or_default()
    }

    /// The value of a field.
    #[must_use]
    pub fn field(&self, known: Known) -> Option<&[u8]> {
        self.head.get(&self.bytes, known)
    }
}

impl Pair {
    /// Begins to read. `kept`: after a request comes another, perhaps.
    #[must_use]
    pub fn open(far: Socket, buffers: buffer::Pool, kept: bool) -> Rc<Self> {
        let pair = Rc::new(Self {
            stream: Stream::plain(far),
            buffers,
            kept,
            asked: RefCell::new(None),
            busy: Cell::new(false),
            gone: Cell::new(false),
            nudge: Rc::default(),
            turn: Nudge::default(),
        });
        ring::spawn(pair.clone().read());
        pair
    }

    /// The next request, once the one before is answered; `None` when there will be none.
    pub async fn next(&self) -> Option<Box<Asked>> {
        self.busy.set(false);
        self.turn.ring();
        self.nudge.until(|| self.gone.get() || self.asked.borrow().is_some()).await;
        let asked = self.asked.borrow_mut().take();
        self.busy.set(asked.is_some());
        asked
    }

    /// Whoever asked does not wait any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Rung when a request has come, or when nobody waits any more; and by whoever brings something.
    #[must_use]
    pub fn nudge(&self) -> &Rc<Nudge> {
        &self.nudge
    }

    /// An end. A message that is not complete is seen to be none.
    pub fn close(&self) {
        self.stream.shutdown();
    }

    /// Sends these bytes; whether that was possible.
    pub async fn write(&self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(SEND_PIECE_BYTES) {
            let Some(mut buffer) = self.buffers.get(piece.len()) else { return false };
            if !buffer.extend_from_slice(piece) || self.stream.send(buffer).await.0.is_err() {
                return false;
            }
        }
        true
    }

    /// An answer without a body.
    pub async fn status(&self, status: u16) {
        let mut out = Vec::new();
        let framing = if status == 204 { Framing::None } else { Framing::Length(0) };
        self.write_head(&mut out, status, None, framing, None);
        self.write(&out).await;
    }

    /// Appends the head of an answer, with the number of a session that began with it.
    pub fn write_head(
        &self,
        out: &mut Vec<u8>,
        status: u16,
        media: Option<&str>,
        framing: Framing,
        session: Option<u64>,
    ) {
        reply::write_status(out, status);
        if let Some(media) = media {
            let _ = reply::write_field(out, "content-type", media.as_bytes());
        }
        if let Some(session) = session {
            let _ = reply::write_number(out, Known::McpSessionId.name(), session);
        }
        if !self.kept {
            let _ = reply::write_field(out, "connection", b"close");
        }
        reply::finish(out, framing);
    }

    /// Reads requests, and sees when nobody waits any more.
    async fn read(self: Rc<Self>) {
        while let Some(asked) = self.request().await {
            *self.asked.borrow_mut() = Some(Box::new(asked));
            self.nudge.ring();
            // The next request, or the end, whatever else it is.
            let readable = self.stream.readable().await;
            if !self.kept || readable.is_err() || self.stream.peek_state() != Peek::Bytes {
                break;
            }
            // It was sent because the answer had come, perhaps before this side knew.
            self.turn.until(|| !self.busy.get() && self.asked.borrow().is_none()).await;
        }
        self.gone.set(true);
        self.nudge.ring();
    }

    async fn request(&self) -> Option<Asked> {
        let mut asked = Asked { head: RequestHead::new(), bytes: Vec::new() };
        loop {
            if !asked.bytes.is_empty() && asked.head.parse(&asked.bytes).ok()? == Progress::Complete {
                break;
            }
            self.more(&mut asked.bytes).await?;
        }
        let length = match asked.head.framing {
            Framing::None => 0,
            Framing::Length(length) => usize::try_from(length).ok().filter(|length| *length <= MESSAGE_BYTES_MAX)?,
            _ => return None,
        };
        while asked.bytes.len() < asked.head.end + length {
            self.more(&mut asked.bytes).await?;
        }
        (asked.bytes.len() == asked.head.end + length).then_some(asked)
    }

    async fn more(&self, bytes: &mut Vec<u8>) -> Option<()> {
        let (read, buffer) = self.stream.recv(self.buffers.get(BUFFER_BYTES)?).await;
        bytes.extend_from_slice(&buffer);
        read.ok().filter(|got| *got > 0).map(|_| ())
    }
}

/// Appends a message as an event of a chunked stream.
pub fn write_event(out: &mut Vec<u8>, message: &[u8]) {
    let mut event = Vec::with_capacity(message.len() + 32);
    let _ = sse::write_event(&mut event, &Event { data: Some(message), ..Event::default() });
    chunks::write_chunk(out, &event);
}

/// Where somebody begins to count its sessions. Its numbers must not be an earlier process's, nor another shard's, though
/// all start within a millisecond: a session that is asked for where it is not would be somebody else's. The seed is
/// random; the time is for a system that has no random bits.
#[must_use]
pub fn first_number(seed: u64, unix_ms: u64) -> u64 {
    seed ^ unix_ms << 20
}

/// A client's message, and what a restored id may add to it.
const MESSAGE_BYTES_MAX: usize = BODY_BYTES_MAX + 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_start_together_count_apart() {
        let now_ms = 1_800_000_000_000;
        assert_ne!(first_number(1 << 40, now_ms), first_number(2 << 40, now_ms));
        assert_ne!(first_number(7, now_ms), first_number(7, now_ms + 1));
    }

    #[test]
    fn each_fault_has_a_status_of_its_own() {
        for (status, fault) in FAULTS {
            assert_eq!((fault_of(*status), status_of(*fault)), (Some(*fault), *status));
        }
        assert_eq!(fault_of(500), None);
    }
}
