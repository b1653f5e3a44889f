//! The plane's own way to a server: one blocking request at a time, and a stream to listen on. It speaks through the
//! same pure rooms as the shards.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::base::limits::{
    BUFFER_BYTES, CONNECT_MS_MAX, INTERIM_HEADS_MAX, PLANE_ANSWER_BYTES_MAX, PLANE_ANSWER_MS_MAX, STDIO_HELLO_MS_MAX,
};
use crate::config::Scheme;
use crate::http::body::BodyDecoder;
use crate::http::field::Known;
use crate::http::head::{Framing, Method, Progress, ResponseHead};
use crate::http::reply;
use crate::http::sse::EventParser;
use crate::tls::config::ClientSide;
use crate::upstream::UpstreamFault;
use crate::upstream::dial::Dial;
use crate::upstream::pair::fault_of;
use crate::upstream::shown::Shown;

use super::wire::Wire;

/// Where a server is.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) host: String,
    pub(super) path: String,
    /// How it is spoken to: where that is https, nothing is written without `tls`.
    pub(super) scheme: Scheme,
    /// `None` for plain HTTP.
    pub(super) tls: Option<ClientSide>,
    /// What it is shown.
    pub(super) shown: Option<Arc<Shown>>,
    /// The way to it, where it is a program, and has no addresses.
    pub(super) way: Option<Arc<dyn Dial>>,
}

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientFault {
    #[error("its name does not resolve")]
    NoAddress,
    #[error("{0}")]
    Io(std::io::Error),
    #[error("its answer is not acceptable HTTP")]
    BadAnswer,
    #[error("its answer is too large")]
    TooLarge,
    #[error("it is reached by https, and nothing is here to speak TLS with")]
    NoTls,
    #[error("it did not answer in time")]
    Timeout,
    #[error("it closed the connection before it had answered")]
    Cut,
    #[error("it refused a message with status {0}")]
    Refused(u16),
    /// Said by who stands in front of a program.
    #[error(transparent)]
    Program(UpstreamFault),
}

impl From<std::io::Error> for ClientFault {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => Self::Timeout,
            // An encrypted connection that ends without its farewell.
            std::io::ErrorKind::UnexpectedEof => Self::Cut,
            _ => Self::Io(error),
        }
    }
}

/// An answer read to its end, or up to the message that was asked for.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) session: Option<String>,
    /// It came as an event stream.
    pub(super) events: bool,
    /// The JSON body, or each event's data.
    pub(super) messages: Vec<Vec<u8>>,
}

/// What came of listening.
#[derive(Debug)]
pub(super) enum Heard {
    /// A message of the server.
    Message(Vec<u8>),
    /// The bell rang.
    Bell,
    /// The time is over.
    Silence,
    /// The stream has ended.
    End,
}

/// A stream to listen on.
#[derive(Debug)]
pub(super) struct Stream {
    wire: Wire,
    raw: Vec<u8>,
    decoder: BodyDecoder,
    parser: EventParser,
    decoded: Vec<u8>,
    at: usize,
}

/// What is found in what a stream has brought.
pub(super) enum Parsed {
    /// An event with data.
    Message,
    /// Nothing whole yet.
    Hungry,
    /// It has ended, or is none.
    End,
}

/// A request that was sent.
pub(super) struct Begun {
    wire: Wire,
    method: Method,
    raw: Vec<u8>,
    head: ResponseHead,
    interim: usize,
    until: Instant,
}

struct Opened {
    wire: Wire,
    head: ResponseHead,
    head_bytes: Vec<u8>,
    rest: Vec<u8>,
    until: Instant,
}

/// Asks, and reads the answer. An event stream is read until `wanted` says that a message is the one.
pub(super) fn ask(
    target: &Target,
    method: Method,
    fields: &[(&str, &str)],
    body: Option<&[u8]>,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Response, ClientFault> {
    let opened = begin(target, method, fields, body, true)?.opened()?;
    let status = opened.head.status;
    if let Some(fault) = fault_of(status).filter(|_| target.way.is_some()) {
        return Err(ClientFault::Program(fault));
    }
    let session = text(&opened, Known::McpSessionId);
    let events = is_events(&opened);
    let until = opened.until;
    let mut decoder = BodyDecoder::new(opened.head.framing);
    let (mut wire, mut raw) = (opened.wire, opened.rest);
    let mut parser = EventParser::new();
    let (mut messages, mut plain) = (Vec::new(), Vec::new());
    let (mut total, mut ended) = (0, false);
    loop {
        let mut decoded = Vec::new();
        let done = decode(&mut decoder, &mut raw, &mut decoded)? || ended;
        total += decoded.len();
        if total > PLANE_ANSWER_BYTES_MAX {
            return Err(ClientFault::TooLarge);
        }
        if events {
            let mut at = 0;
            while at < decoded.len() {
                at += parser.push(&decoded[at..]).map_err(|_| ClientFault::BadAnswer)?;
                if let Some(data) = parser.event().data.filter(|data| parser.ready() && !data.is_empty()) {
                    messages.push(data.to_vec());
                    if wanted(data) {
                        return Ok(Response { status, session, events, messages });
                    }
                }
            }
        } else {
            plain.extend_from_slice(&decoded);
        }
        if done {
            if !events && !plain.is_empty() {
                messages.push(plain);
            }
            return Ok(Response { status, session, events, messages });
        }
        if !read(&mut wire, &mut raw, until)? {
            // A body without a length ends here (RFC 9112, 6.3).
            decoder.eof().map_err(|_| ClientFault::Cut)?;
            ended = true;
        }
    }
}

/// Asks, and waits for the head of the answer alone: its status. `patience` is for all of it.
pub(super) fn knock(
    target: &Target,
    method: Method,
    fields: &[(&str, &str)],
    body: Option<&[u8]>,
    patience: Duration,
) -> Result<u16, ClientFault> {
    let until = Instant::now() + patience;
    begin_until(target, method, fields, body, true, until)?.opened().map(|opened| opened.head.status)
}

/// Opens a stream to listen on; `None` where the server offers none.
pub(super) fn listen(
    target: &Target,
    method: Method,
    fields: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Result<Option<Stream>, ClientFault> {
    let opened = begin(target, method, fields, body, false)?.opened()?;
    if opened.head.status != 200 || !is_events(&opened) {
        return Ok(None);
    }
    Ok(Some(Stream {
        decoder: BodyDecoder::new(opened.head.framing),
        wire: opened.wire,
        raw: opened.rest,
        parser: EventParser::new(),
        decoded: Vec::new(),
        at: 0,
    }))
}

impl Stream {
    /// Waits for the next message, the bell, or the end of `patience`.
    pub(super) fn next(&mut self, bell: &OwnedFd, patience: Duration) -> Heard {
        let until = Instant::now() + patience;
        loop {
            match self.parse() {
                Parsed::Message => return Heard::Message(self.data().to_vec()),
                Parsed::End => return Heard::End,
                Parsed::Hungry => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if !self.wire.has_more() {
                let (socket_ready, bell_ready) = wait(Some(self.wire.socket()), bell, left);
                if bell_ready {
                    return Heard::Bell;
                }
                if !socket_ready {
                    return Heard::Silence;
                }
            }
            if self.receive().is_err() {
                return Heard::End;
            }
        }
    }

    /// The name and the data of the next event that has data; the name is empty where it has none.
    pub(super) fn event(&mut self, until: Instant) -> Result<(Vec<u8>, Vec<u8>), ClientFault> {
        loop {
            match self.parse() {
                Parsed::Message => {
                    let name = self.parser.event().name.unwrap_or_default().to_vec();
                    return Ok((name, self.data().to_vec()));
                }
                Parsed::End => return Err(ClientFault::Cut),
                Parsed::Hungry => {}
            }
            if !read(&mut self.wire, &mut self.raw, until)? {
                return Err(ClientFault::Cut);
            }
        }
    }

    /// Goes on to the next event that has data.
    pub(super) fn parse(&mut self) -> Parsed {
        loop {
            while self.at < self.decoded.len() {
                let Ok(consumed) = self.parser.push(&self.decoded[self.at..]) else { return Parsed::End };
                self.at += consumed;
                if self.parser.ready() && !self.data().is_empty() {
                    return Parsed::Message;
                }
            }
            self.decoded.clear();
            self.at = 0;
            match decode(&mut self.decoder, &mut self.raw, &mut self.decoded) {
                Ok(true) if self.decoded.is_empty() => return Parsed::End,
                Err(_) => return Parsed::End,
                Ok(_) if self.decoded.is_empty() => return Parsed::Hungry,
                Ok(_) => {}
            }
        }
    }

    pub(super) fn data(&self) -> &[u8] {
        self.parser.event().data.unwrap_or_default()
    }

    /// Receives once, when there is something.
    pub(super) fn receive(&mut self) -> Result<(), ClientFault> {
        match read_some(&mut self.wire, &mut self.raw, Instant::now() + Duration::from_secs(1))? {
            Some(0) => Err(ClientFault::Cut),
            // A part of a record, or the protocol's own talk, is nothing for us.
            _ => Ok(()),
        }
    }
}

/// Waits until one of two connections has something, the second perhaps not there, or the end of `patience`.
pub(super) fn either(stream: &mut Stream, begun: Option<&mut Begun>, patience: Duration) -> (bool, bool) {
    let mut begun = begun;
    let more = (stream.wire.has_more(), begun.as_mut().is_some_and(|begun| begun.wire.has_more()));
    if more.0 || more.1 {
        return more;
    }
    let mut fds = vec![PollFd::new(stream.wire.socket(), PollFlags::IN)];
    fds.extend(begun.as_ref().map(|begun| PollFd::new(begun.wire.socket(), PollFlags::IN)));
    match poll(&mut fds, Some(&timespec(patience))) {
        Ok(_) => (!fds[0].revents().is_empty(), fds.get(1).is_some_and(|fd| !fd.revents().is_empty())),
        Err(_) => (false, false),
    }
}

/// Waits for bytes, the bell, or the end of `patience`; says which of the two it was.
pub(super) fn wait(socket: Option<&TcpStream>, bell: &OwnedFd, patience: Duration) -> (bool, bool) {
    let mut fds = vec![PollFd::new(bell, PollFlags::IN)];
    if let Some(socket) = socket {
        fds.push(PollFd::new(socket, PollFlags::IN));
    }
    match poll(&mut fds, Some(&timespec(patience))) {
        Ok(_) => (fds.get(1).is_some_and(|fd| !fd.revents().is_empty()), !fds[0].revents().is_empty()),
        // Interrupted: the caller looks again at what it waits for.
        Err(_) => (false, false),
    }
}

fn timespec(patience: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), tv_nsec: patience.subsec_nanos().into() }
}

/// Sends a request, and does not wait for what comes back.
pub(super) fn begin(
    target: &Target,
    method: Method,
    fields: &[(&str, &str)],
    body: Option<&[u8]>,
    once: bool,
) -> Result<Begun, ClientFault> {
    // A program may have to be fetched before it begins.
    let patience_ms = if target.way.is_some() { STDIO_HELLO_MS_MAX } else { PLANE_ANSWER_MS_MAX };
    let until = Instant::now() + Duration::from_millis(patience_ms);
    begin_until(target, method, fields, body, once, until)
}

fn begin_until(
    target: &Target,
    method: Method,
    fields: &[(&str, &str)],
    body: Option<&[u8]>,
    once: bool,
    until: Instant,
) -> Result<Begun, ClientFault> {
    if target.scheme == Scheme::Https && target.tls.is_none() {
        return Err(ClientFault::NoTls);
    }
    let mut wire = Wire::new(connect(target, until)?, target.tls.as_ref(), until)?;
    let mut out = Vec::with_capacity(512 + body.map_or(0, <[u8]>::len));
    let bad = |_| ClientFault::BadAnswer;
    reply::write_request_line(&mut out, method, target.path.as_bytes()).map_err(bad)?;
    reply::write_field(&mut out, "host", target.host.as_bytes()).map_err(bad)?;
    for (name, value) in fields {
        reply::write_field(&mut out, name, value.as_bytes()).map_err(bad)?;
    }
    if let Some(shown) = &target.shown {
        out.reserve_exact(shown.lines().len());
        out.extend_from_slice(shown.lines());
    }
    if once {
        reply::write_field(&mut out, "connection", b"close").map_err(bad)?;
    }
    reply::finish(&mut out, body.map_or(Framing::None, |body| Framing::Length(body.len() as u64)));
    out.extend_from_slice(body.unwrap_or_default());
    wire.write_all(&out, until)?;
    Ok(Begun { wire, method, raw: Vec::new(), head: ResponseHead::new(), interim: 0, until })
}

impl Begun {
    /// Waits for the head of the answer.
    fn opened(mut self) -> Result<Opened, ClientFault> {
        loop {
            if self.complete()? {
                let rest = self.raw.split_off(self.head.end);
                return Ok(Opened { wire: self.wire, head: self.head, head_bytes: self.raw, rest, until: self.until });
            }
            if !read(&mut self.wire, &mut self.raw, self.until)? {
                return Err(ClientFault::Cut);
            }
        }
    }

    /// Whether the final head is here.
    fn complete(&mut self) -> Result<bool, ClientFault> {
        while self.head.parse(&self.raw, self.method).map_err(|_| ClientFault::BadAnswer)? == Progress::Complete {
            if !self.head.is_interim() {
                return Ok(true);
            }
            self.interim += 1;
            if self.interim > INTERIM_HEADS_MAX {
                return Err(ClientFault::BadAnswer);
            }
            self.raw.drain(..self.head.end);
            self.head = ResponseHead::new();
        }
        Ok(false)
    }

    /// Receives once, when there is something; the status, once it is here.
    pub(super) fn receive(&mut self) -> Result<Option<u16>, ClientFault> {
        if read_some(&mut self.wire, &mut self.raw, Instant::now() + Duration::from_secs(1))? == Some(0) {
            return Err(ClientFault::Cut);
        }
        Ok(self.complete()?.then_some(self.head.status))
    }
}

fn connect(target: &Target, until: Instant) -> Result<TcpStream, ClientFault> {
    if let Some(way) = &target.way {
        // A stream socket is one, wherever it leads.
        return Ok(way.dial()?.into());
    }
    let mut last = ClientFault::NoAddress;
    for address in &target.addresses {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(address, left.min(Duration::from_millis(CONNECT_MS_MAX))) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = ClientFault::Io(error),
        }
    }
    Err(last)
}

/// Reads some bytes; `false` at the end of the connection.
fn read(wire: &mut Wire, raw: &mut Vec<u8>, until: Instant) -> Result<bool, ClientFault> {
    loop {
        if let Some(got) = read_some(wire, raw, until)? {
            return Ok(got > 0);
        }
    }
}

/// Reads once; `Some(0)` at the end of the connection, `None` when that was nothing for us.
fn read_some(wire: &mut Wire, raw: &mut Vec<u8>, until: Instant) -> Result<Option<usize>, ClientFault> {
    let begin = raw.len();
    raw.resize(begin + BUFFER_BYTES, 0);
    let result = wire.read_some(&mut raw[begin..], until);
    raw.truncate(begin + result.as_ref().map_or(0, |got| got.unwrap_or(0)));
    Ok(result?)
}

/// Decodes what there is; says whether the body is complete.
fn decode(decoder: &mut BodyDecoder, raw: &mut Vec<u8>, decoded: &mut Vec<u8>) -> Result<bool, ClientFault> {
    let mut at = 0;
    while !decoder.is_done() {
        let piece = decoder.step(&raw[at..]).map_err(|_| ClientFault::BadAnswer)?;
        decoded.extend_from_slice(piece.data.of(&raw[at..]));
        at += piece.consumed;
        if piece.done || piece.consumed == 0 {
            break;
        }
    }
    raw.drain(..at);
    Ok(decoder.is_done())
}

fn text(opened: &Opened, known: Known) -> Option<String> {
    let value = opened.head.get(&opened.head_bytes, known)?;
    String::from_utf8(value.to_vec()).ok()
}

fn is_events(opened: &Opened) -> bool {
    let field = opened.head.get(&opened.head_bytes, Known::ContentType).unwrap_or_default();
    field.len() >= 17 && field[..17].eq_ignore_ascii_case(b"text/event-stream")
}
