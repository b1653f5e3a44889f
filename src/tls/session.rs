//! One TLS session between three buffers: what came in, what goes out, and what was decrypted and not yet asked for.
//! It waits for nothing and owns no socket.
//!
//! rustls remembers places in the incoming bytes while a handshake message is in pieces. So it is always given the
//! very bytes it has seen last, and more behind them: a receive in flight has a copy of them in its own buffer
//! ([`Session::landing`]), which takes their place once it is back ([`Session::landed`]).

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};

use crate::base::limits::{TLS_INCOMING_BYTES_MAX, TLS_RECORD_BYTES_MAX, WAITING_BYTES};
use crate::tls::fault::TlsFault;
use crate::uring::buffer::{Buffer, Pool};

/// Which end we are.
pub(super) enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// A session and its buffers. A buffer that is empty is not kept.
pub(super) struct Session {
    side: Side,
    buffers: Pool,
    /// What rustls has seen and could not use up yet: a record or a handshake message that is not complete.
    incoming: Option<Buffer>,
    /// Records in the order they were encrypted in, which is the order they must be sent in.
    outgoing: Option<Buffer>,
    plain: Option<Buffer>,
    end: Option<End>,
}

/// Why no more bytes come.
#[derive(Clone)]
enum End {
    /// The peer said so.
    Farewell,
    /// The connection ended without a word.
    Cut,
    /// The session is broken.
    Fault(TlsFault),
}

/// A session of ours as server, with nothing of its shard: what was in its buffers is here as bytes.
pub(super) struct Moved {
    server: Box<UnbufferedServerConnection>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    plain: Vec<u8>,
    end: Option<End>,
}

/// What [`Session::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes were appended to the caller's buffer.
    Got(usize),
    /// Decrypted bytes are here, and the caller has given no room for them.
    Waiting,
    /// The peer has to send more.
    Blocked,
    /// The peer has said its farewell; nothing comes any more.
    Ended,
}

/// What one look of rustls came to.
enum Turn {
    Again,
    /// More input is needed; during the handshake.
    Blocked,
    /// The handshake is over, and the input is used up.
    Open,
    /// What was to be written is in the outgoing buffer.
    Written,
    PeerClosed,
    Closed,
    Fault(TlsFault),
}

/// What to do when the session is open and has nothing else to do.
#[derive(Clone, Copy)]
enum Wish<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    Farewell,
}

/// The buffers that one turn fills.
struct Room<'a> {
    buffers: &'a Pool,
    outgoing: &'a mut Option<Buffer>,
    plain: &'a mut Option<Buffer>,
    into: Option<&'a mut Buffer>,
    got: usize,
}

impl Session {
    pub(super) fn new(side: Side, buffers: &Pool) -> Self {
        Self { side, buffers: buffers.clone(), incoming: None, outgoing: None, plain: None, end: None }
    }

    /// Takes it off its shard; `None` where it is a client's.
    pub(super) fn leave(self) -> Option<Moved> {
        let Side::Server(server) = self.side else { return None };
        let bytes = |buffer: Option<Buffer>| buffer.map_or_else(Vec::new, |buffer| buffer.to_vec());
        let (incoming, outgoing, plain) = (bytes(self.incoming), bytes(self.outgoing), bytes(self.plain));
        Some(Moved { server: Box::new(server), incoming, outgoing, plain, end: self.end })
    }

    /// Goes on with it on this shard; `None` where the pool has no room for what has come or is to be sent.
    pub(super) fn arrive(moved: Moved, buffers: &Pool) -> Option<Self> {
        let Moved { server, incoming, outgoing, plain, end } = moved;
        let buffer = |bytes: Vec<u8>| {
            if bytes.is_empty() {
                return Some(None);
            }
            let mut buffer = buffers.get(bytes.len())?;
            buffer.extend_from_slice(&bytes).then_some(Some(buffer))
        };
        let (incoming, outgoing, plain) = (buffer(incoming)?, buffer(outgoing)?, buffer(plain)?);
        Some(Self { side: Side::Server(*server), buffers: buffers.clone(), incoming, outgoing, plain, end })
    }

    /// Decrypts all that has come in; into `into` as far as that has room, and the rest is kept. An error is the
    /// session's end, but for `NoBuffer`, after which nothing is lost.
    pub(super) fn advance(&mut self, mut into: Option<&mut Buffer>) -> Result<Step, TlsFault> {
        let mut got = into.as_deref_mut().map_or(0, |into| self.take_plain(into));
        let mut short = None;
        while self.end.is_none() {
            let (turn, more) = self.turn(Wish::Nothing, into.as_deref_mut());
            got += more;
            match turn {
                Turn::Again | Turn::Written => {}
                Turn::Blocked | Turn::Open | Turn::Closed => break,
                Turn::PeerClosed => self.end = Some(End::Farewell),
                Turn::Fault(TlsFault::NoBuffer) => {
                    short = Some(TlsFault::NoBuffer);
                    break;
                }
                Turn::Fault(fault) => self.fail(fault),
            }
        }
        if got > 0 {
            return Ok(Step::Got(got));
        }
        if self.plain.is_some() {
            return Ok(Step::Waiting);
        }
        match (&self.end, short) {
            (Some(End::Farewell), _) => Ok(Step::Ended),
            (Some(End::Cut), _) => Err(TlsFault::Cut),
            (Some(End::Fault(fault)), _) => Err(fault.clone()),
            (None, Some(short)) => Err(short),
            (None, None) => Ok(Step::Blocked),
        }
    }

    /// Encrypts `bytes` behind what is already to be sent. After an error nothing of it was, but for `Protocol`.
    pub(super) fn encrypt(&mut self, bytes: &[u8]) -> Result<(), TlsFault> {
        self.write(Wish::Encrypt(bytes))
    }

    /// Puts close_notify behind what is to be sent (RFC 8446, 6.1); only the first time.
    pub(super) fn farewell(&mut self) -> Result<(), TlsFault> {
        if self.is_handshaking() {
            return Err(TlsFault::Ended);
        }
        self.write(Wish::Farewell)
    }

    /// A buffer to receive into, with room for about `wanted` bytes of plain text, or for as much again as has come of
    /// a record that has begun: its length is only announced, and costs nothing. Nothing is received into it without
    /// [`Session::landed`].
    pub(super) fn landing(&self, wanted: usize, most: usize) -> Result<Buffer, TlsFault> {
        let held: &[u8] = self.incoming.as_deref().unwrap_or_default();
        let rest = match held {
            [_, _, _, high, low, body @ ..] => {
                usize::from(u16::from_be_bytes([*high, *low])).saturating_sub(body.len())
            }
            _ => 0,
        };
        if held.len() >= most {
            return Err(TlsFault::TooLarge);
        }
        let wanted = wanted.clamp(WAITING_BYTES, TLS_INCOMING_BYTES_MAX);
        let more = if rest > 0 { rest } else { wanted };
        let room = wanted.max(held.len() + more.min(held.len()));
        let mut landing = self.buffers.get(room.min(most)).ok_or(TlsFault::NoBuffer)?;
        // It fits: `held` is shorter than `most`, and than `room`.
        let _ = landing.extend_from_slice(held);
        Ok(landing)
    }

    /// What was received, behind what `landing` began with.
    pub(super) fn landed(&mut self, landing: Buffer) {
        self.incoming = Some(landing);
    }

    /// The peer's direction has ended below us. Without a farewell before that, something may be missing. Our own
    /// direction goes on: rustls knows nothing of this, so it keeps what it may still look at.
    pub(super) fn cut(&mut self) {
        if self.end.is_none() {
            self.end = Some(End::Cut);
        }
    }

    /// What is to be sent, to be sent by whoever took it.
    pub(super) fn take_outgoing(&mut self) -> Option<Buffer> {
        self.outgoing.take()
    }

    /// Bytes to be sent.
    pub(super) fn outgoing(&mut self) -> Option<&mut Buffer> {
        self.outgoing.as_mut()
    }

    /// Whether decrypted bytes, or the news of an end, wait to be asked for.
    pub(super) fn has_news(&self) -> bool {
        self.plain.is_some() || self.end.is_some()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match &self.side {
            Side::Server(server) => server.is_handshaking(),
            Side::Client(client) => client.is_handshaking(),
        }
    }

    /// Whether the peer has shown a certificate, which then was verified.
    pub(super) fn has_peer_certificate(&self) -> bool {
        let certificates = match &self.side {
            Side::Server(server) => server.peer_certificates(),
            Side::Client(client) => client.peer_certificates(),
        };
        certificates.is_some_and(|certificates| !certificates.is_empty())
    }

    fn write(&mut self, wish: Wish<'_>) -> Result<(), TlsFault> {
        loop {
            if let Some(End::Fault(fault)) = &self.end {
                return Err(fault.clone());
            }
            match self.turn(wish, None).0 {
                Turn::Again => {}
                Turn::Written => return Ok(()),
                Turn::PeerClosed => self.end = self.end.take().or(Some(End::Farewell)),
                Turn::Closed | Turn::Blocked | Turn::Open => return Err(TlsFault::Ended),
                Turn::Fault(TlsFault::NoBuffer) => return Err(TlsFault::NoBuffer),
                Turn::Fault(fault) => self.fail(fault),
            }
        }
    }

    /// The session is broken. Its alert, if there is one, is all that is still to be sent.
    fn fail(&mut self, fault: TlsFault) {
        self.end = Some(End::Fault(fault));
        self.incoming = None;
        // While there is something to send rustls looks at no input, so none of it is needed.
        while self.wants_write() && !matches!(self.turn(Wish::Nothing, None).0, Turn::Fault(_)) {}
    }

    fn wants_write(&self) -> bool {
        match &self.side {
            Side::Server(server) => server.wants_write(),
            Side::Client(client) => client.wants_write(),
        }
    }

    /// One look of rustls at the input. Says what it came to, and how many bytes went to `into`.
    fn turn(&mut self, wish: Wish<'_>, into: Option<&mut Buffer>) -> (Turn, usize) {
        let Self { side, buffers, incoming, outgoing, plain, .. } = self;
        let mut room = Room { buffers, outgoing, plain, into, got: 0 };
        let input = incoming.as_mut().map_or(&mut [][..], Buffer::as_mut_slice);
        let (turn, used) = match side {
            Side::Server(server) => handle(server.process_tls_records(input), wish, &mut room),
            Side::Client(client) => handle(client.process_tls_records(input), wish, &mut room),
        };
        let got = room.got;
        if let Some(buffer) = incoming {
            buffer.consume(used);
            if buffer.is_empty() {
                *incoming = None;
            }
        }
        (turn, got)
    }

    fn take_plain(&mut self, into: &mut Buffer) -> usize {
        let Some(plain) = &mut self.plain else { return 0 };
        let fits = plain.len().min(into.spare());
        // It fits by the line above.
        let _ = into.extend_from_slice(&plain[..fits]);
        plain.consume(fits);
        if plain.is_empty() {
            self.plain = None;
        }
        fits
    }
}

impl Room<'_> {
    /// Room for a record's `len` bytes, in `into` and `plain` together.
    fn has(&mut self, len: usize) -> bool {
        let spare = if self.plain.is_some() { 0 } else { self.into.as_ref().map_or(0, |into| into.spare()) };
        spare >= len || make_room(self.plain, self.buffers, len - spare).is_some()
    }

    /// Takes a record for which there [is room](Room::has).
    fn take(&mut self, record: &[u8]) {
        let mut rest = record;
        // `plain` may be there, and empty, for what does not fit here.
        let first = self.plain.as_ref().is_none_or(|plain| plain.is_empty());
        if let Some(into) = self.into.as_mut().filter(|_| first) {
            let fits = rest.len().min(into.spare());
            let _ = into.extend_from_slice(&rest[..fits]);
            self.got += fits;
            rest = &rest[fits..];
        }
        if let Some(plain) = self.plain.as_mut() {
            let _ = plain.extend_from_slice(rest);
        }
    }
}

/// Does what one state of rustls asks for; and how many bytes of the input are used up.
fn handle<Data>(status: UnbufferedStatus<'_, '_, Data>, wish: Wish<'_>, room: &mut Room<'_>) -> (Turn, usize) {
    let used = status.discard;
    let turn = match status.state {
        Err(fault) => Turn::Fault(TlsFault::Protocol(fault)),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => match traffic.peek_len() {
            // The record stays where it is until there is room for it.
            Some(len) if !room.has(len.get()) => Turn::Fault(TlsFault::NoBuffer),
            _ => {
                if let Some(Ok(record)) = traffic.next_record() {
                    room.take(record.payload);
                }
                Turn::Again
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            // Asked with no room it says how much it needs. What is not encoded now is lost: the session is over.
            let needed = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(size)) => size.required_size,
                _ => 0,
            };
            let done = append(room.outgoing, room.buffers, needed, |space| data.encode(space).ok());
            if done.is_some() { Turn::Again } else { Turn::Fault(TlsFault::Io(std::io::ErrorKind::OutOfMemory)) }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It is in `outgoing`, which is sent in order.
            data.done();
            Turn::Again
        }
        Ok(ConnectionState::BlockedHandshake) => Turn::Blocked,
        Ok(ConnectionState::WriteTraffic(traffic)) => write(traffic, wish, room),
        Ok(ConnectionState::PeerClosed) => Turn::PeerClosed,
        Ok(ConnectionState::Closed) => Turn::Closed,
        // Early data is never allowed, and no other state is known.
        Ok(_) => Turn::Fault(TlsFault::Ended),
    };
    (turn, used)
}

fn write<Data>(mut traffic: WriteTraffic<'_, Data>, wish: Wish<'_>, room: &mut Room<'_>) -> Turn {
    let mut needed = match wish {
        Wish::Nothing => return Turn::Open,
        Wish::Encrypt(bytes) => bytes.len() + (bytes.len() / TLS_RECORD_BYTES_MAX + 1) * RECORD_OVERHEAD_MAX,
        Wish::Farewell => RECORD_OVERHEAD_MAX,
    };
    // The second time there is room for what rustls wants to send before.
    for _ in 0..2 {
        let mut fault = None;
        let done = append(room.outgoing, room.buffers, needed, |space| {
            let written = match wish {
                Wish::Encrypt(bytes) => traffic.encrypt(bytes, space),
                Wish::Farewell | Wish::Nothing => traffic.queue_close_notify(space),
            };
            written.map_err(|error| fault = Some(error)).ok()
        });
        match (done, fault) {
            (Some(()), _) => return Turn::Written,
            (None, Some(EncryptError::InsufficientSize(size))) => needed = size.required_size,
            (None, Some(EncryptError::EncryptExhausted)) => return Turn::Fault(TlsFault::Ended),
            (None, None) => return Turn::Fault(TlsFault::NoBuffer),
        }
    }
    Turn::Fault(TlsFault::NoBuffer)
}

/// Appends what `write` writes into `needed` bytes of space; `None` when there is no buffer, or `write` fails.
fn append(
    to: &mut Option<Buffer>,
    buffers: &Pool,
    needed: usize,
    write: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Option<()> {
    let buffer = make_room(to, buffers, needed)?;
    let begin = buffer.len();
    let mut left = needed;
    while left > 0 {
        let piece = left.min(ZEROS.len());
        // It fits: `make_room`.
        let _ = buffer.extend_from_slice(&ZEROS[..piece]);
        left -= piece;
    }
    let written = write(&mut buffer.as_mut_slice()[begin..]);
    buffer.truncate(begin + written.unwrap_or(0));
    if buffer.is_empty() {
        *to = None;
    }
    written.map(|_| ())
}

/// Room for `more` bytes in `to`, which gets a buffer where it has none.
fn make_room<'a>(to: &'a mut Option<Buffer>, buffers: &Pool, more: usize) -> Option<&'a mut Buffer> {
    if let Some(buffer) = to {
        return buffer.reserve(more).then_some(buffer);
    }
    Some(to.insert(buffers.get(more)?))
}

/// Header, explicit nonce, content type and tag of a record, rounded up (RFC 5246, 6.2.3.3; RFC 8446, 5.2).
const RECORD_OVERHEAD_MAX: usize = 64;

/// Fresh space is made of these.
static ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
