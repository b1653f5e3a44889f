//! One request to one server: a connection, the request in one send, the answer's head. What is cleared is what is
//! sent: the exchange takes the proof along with the bytes.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use crate::base::limits::{BUFFER_BYTES, INTERIM_HEADS_MAX, SENT_AT_ONCE_BYTES, UPSTREAM_HEADS_KEPT};
use crate::base::time::Moment;
use crate::http::body::{BodyDecoder, Piece};
use crate::http::field::Known;
use crate::http::head::{Framing, Method, Progress, ResponseHead};
use crate::http::reply::{self, WriteFault};
use crate::identity::caller::Owner;
use crate::mcp::transport::Transport;
use crate::record::Recorded;
use crate::session::ledger::Upstream;
use crate::session::owner::Session;
use crate::tls::config::ClientSide;
use crate::tls::stream::Stream;
use crate::uring::buffer::{self, Buffer};
use crate::uring::socket::Socket;
use crate::uring::wait::{Deadline, Timers};

use super::UpstreamFault;
use super::breaker::{Entry, Terms, Verdict};
use super::bridge::Bridge;
use super::pair;
use super::pool::Pool;
use super::shown::Shown;
use super::state::{InstanceState, ServerState};

/// The proof that something may be sent.
#[derive(Debug, Clone, Copy)]
pub enum Clearance<'a> {
    /// A call that was decided on and recorded, or one that needs no rule.
    Call(&'a Recorded),
    /// The owner of a session opens or ends its own stream or session.
    Session(&'a Session),
    /// A server's session whose own has ended is ended too.
    Orphan(&'a Upstream),
}

impl Clearance<'_> {
    fn owner(&self) -> Option<Owner> {
        match self {
            Self::Call(recorded) => Some(recorded.permit().owner()),
            Self::Session(session) => Some(session.owner),
            Self::Orphan(_) => None,
        }
    }
}

/// Where it goes.
#[derive(Clone, Copy)]
pub struct Lane<'a> {
    /// The server.
    pub state: &'a Arc<ServerState>,
    /// Which of its instances: connections are kept for each.
    pub instance: &'a Arc<InstanceState>,
    /// Its addresses, resolved by the plane.
    pub addresses: &'a [SocketAddr],
    /// Its `Host`.
    pub host: &'a str,
    /// Path and query of its URL.
    pub path: &'a str,
    /// A connect may take so long, milliseconds; with TLS, the handshake included.
    pub connect_ms: u64,
    /// How to speak TLS to it; `None` for plain HTTP.
    pub tls: Option<&'a ClientSide>,
    /// How messages travel to it.
    pub transport: Transport,
    /// What it is shown with all that goes there, which is due for whom that is sent; `None` for nothing.
    pub shown: Option<&'a Rc<Shown>>,
    /// When its breaker opens; `None` for what neither asks the breaker nor tells it anything.
    pub health: Option<Terms>,
    /// Asked when a connection is there, immediately before anything is written: `false` sends nothing. `None` for what
    /// always goes.
    pub may: Option<&'a dyn Fn() -> bool>,
}

impl Lane<'_> {
    /// What its connections are kept by: those that have carried what is one owner's carry nothing of another's.
    fn pool_key(&self) -> u64 {
        self.instance.digest ^ self.shown.map_or(0, |shown| shown.mark())
    }
}

/// What goes. Heads are written anew: only these fields, and those that HTTP itself needs, reach the server.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// POST, GET or DELETE.
    pub method: Method,
    /// Fields in the order they are written; values were checked by whoever read them.
    pub fields: &'a [(&'static str, &'a [u8])],
    /// Fields with names of the caller's (`Mcp-Param-…`).
    pub params: &'a [(&'a [u8], &'a [u8])],
    /// The body; `None` for none at all.
    pub body: Option<&'a [u8]>,
    /// Whether it may be sent once more when a kept connection turns out to have been closed: never for a tool call.
    pub repeatable: bool,
}

/// A request as bytes: head and body in one buffer, so that they leave in one send.
#[derive(Debug)]
pub struct Composed {
    method: Method,
    bytes: Buffer,
    repeatable: bool,
}

/// Lets somebody else end an exchange that is under way.
#[derive(Default)]
pub struct Abort {
    fired: Cell<bool>,
    socket: RefCell<Option<Socket>>,
}

impl Abort {
    /// Ends it: whatever waits for the server comes back with `Abandoned`.
    pub fn fire(&self) {
        self.fired.set(true);
        if let Some(socket) = self.socket.borrow().as_ref() {
            socket.shutdown();
        }
    }

    /// For the next exchange.
    pub fn reset(&self) {
        self.fired.set(false);
        self.socket.borrow_mut().take();
    }

    /// Whether it was ended.
    #[must_use]
    pub fn fired(&self) -> bool {
        self.fired.get()
    }

    fn watch(&self, socket: &Socket) {
        *self.socket.borrow_mut() = Some(socket.clone());
        if self.fired.get() {
            socket.shutdown();
        }
    }
}

/// An answer's head, and the bytes that its spans point into. Passed on and kept boxed: it is the largest thing that
/// waits with a call.
#[derive(Default)]
struct Head {
    parsed: ResponseHead,
    bytes: Vec<u8>,
}

/// All that this shard has towards servers.
pub struct Upstreams {
    /// Idle connections.
    pub pool: Pool,
    timers: Timers,
    buffers: buffer::Pool,
    /// Heads to parse into again.
    #[expect(clippy::vec_box, reason = "the box is what a call carries; taken apart it would have to be made anew")]
    heads: RefCell<Vec<Box<Head>>>,
    /// To servers that speak HTTP+SSE; `None` on its own far side.
    bridge: Option<Rc<Bridge>>,
}

/// An answer whose head has arrived. Its body is read with `next_piece`, or `fill` and `decode`.
pub struct Answer {
    head: Box<Head>,
    /// The instance that it is of.
    key: u64,
    /// What its connection is kept by.
    pool_key: u64,
    stream: Stream,
    /// Bytes received and not decoded yet.
    input: Option<Buffer>,
    decoder: BodyDecoder,
    done: bool,
    deadline: Deadline,
    /// The request was one that its server may not have read yet.
    large: bool,
    /// When its connection was taken, as the pool counts.
    epoch: u64,
}

impl Upstreams {
    /// Nothing connected yet.
    #[must_use]
    pub fn new(timers: Timers, buffers: buffer::Pool, seed: u64) -> Self {
        let far = Self::direct(timers.clone(), buffers.clone());
        let bridge = Rc::new(Bridge::new(far, timers.clone(), buffers.clone(), seed));
        Self { bridge: Some(bridge), ..Self::direct(timers, buffers) }
    }

    fn direct(timers: Timers, buffers: buffer::Pool) -> Self {
        Self { pool: Pool::new(buffers.clone()), timers, buffers, heads: RefCell::new(Vec::new()), bridge: None }
    }

    fn pools(&self) -> impl Iterator<Item = &Pool> {
        std::iter::once(&self.pool).chain(self.bridge.iter().map(|bridge| bridge.pool()))
    }

    /// Connections made until now are not used again: authorities, certificates or addresses have changed.
    pub fn renew(&self) {
        self.pools().for_each(Pool::renew);
    }

    /// Closes connections that have been idle for too long.
    pub fn prune(&self, now: Moment) {
        self.pools().for_each(|pool| pool.prune(now));
    }

    /// Closes every idle connection, and every session of an HTTP+SSE server.
    pub fn clear(&self) {
        self.pools().for_each(Pool::clear);
        self.end_lines(Moment(u64::MAX));
    }

    /// Ends the sessions of HTTP+SSE servers that have been out of use since `then`, on this shard.
    pub fn end_lines(&self, then: Moment) {
        self.bridge.iter().for_each(|bridge| bridge.prune(then));
    }

    /// Ends the session of an HTTP+SSE server that has this id, if it is one of this shard's.
    pub fn hang_up(&self, id: &[u8]) {
        self.bridge.iter().for_each(|bridge| bridge.hang_up(id));
    }

    /// How many messages of HTTP+SSE servers found nobody, since this was asked last.
    pub fn take_dropped(&self) -> u64 {
        self.bridge.as_ref().map_or(0, |bridge| bridge.take_dropped())
    }

    /// Sends `request` and waits for the answer's head until `deadline`, which goes on to hold for the body.
    ///
    /// # Errors
    /// An `UpstreamFault`; where [`UpstreamFault::is_unsent`] it is certain that nothing left.
    pub async fn exchange(
        &self,
        lane: &Lane<'_>,
        request: Composed,
        deadline: Moment,
        abort: &Abort,
    ) -> Result<Answer, UpstreamFault> {
        let Some(terms) = lane.health else { return self.attempt(lane, request, deadline, abort).await };
        let breaker = &lane.instance.breaker;
        let pass = match breaker.enter(terms, self.timers.last().mono) {
            Entry::Go(pass) => pass,
            Entry::Wait(retry_ms) => return Err(UpstreamFault::Unhealthy { retry_ms }),
        };
        let result = self.attempt(lane, request, deadline, abort).await;
        let verdict = match &result {
            Err(UpstreamFault::Timeout) if !terms.counts_timeouts => Verdict::Nothing,
            result => Verdict::of(result.as_ref().map(Answer::status).map_err(|fault| *fault)),
        };
        if breaker.leave(terms, pass, verdict, self.timers.last().mono) {
            // Its keeper tells people, and looks for another instance to keep up with.
            lane.state.poke.ring();
        }
        result
    }

    async fn attempt(
        &self,
        lane: &Lane<'_>,
        request: Composed,
        deadline: Moment,
        abort: &Abort,
    ) -> Result<Answer, UpstreamFault> {
        match lane.transport {
            Transport::Http => {}
            Transport::Sse => return Box::pin(self.bridged(lane, request, deadline, abort)).await,
            Transport::Stdio => return Box::pin(self.to_program(lane, request, deadline, abort)).await,
        }
        let (mut request, mut again) = (request, false);
        if let Some(stream) = self.pool.take(lane.pool_key(), self.timers.last().mono) {
            match self.converse(lane, request, deadline, abort, stream).await {
                // A kept connection that ends without one byte of an answer was closed while it was idle.
                Err(Failed { fault: UpstreamFault::Cut, unanswered: Some(whole) }) if whole.repeatable => {
                    (request, again) = (whole, true);
                }
                other => return other.map_err(|failed| failed.fault),
            }
        }
        let result = match Box::pin(self.connect(lane, deadline, abort)).await {
            Ok(stream) => self.converse(lane, request, deadline, abort, stream).await.map_err(|failed| failed.fault),
            Err(fault) => Err(fault),
        };
        // What went out once is not unsent.
        result
            .map_err(|fault| if again && fault == UpstreamFault::Withdrawn { UpstreamFault::Abandoned } else { fault })
    }

    /// As [`Upstreams::exchange`], with a server that speaks HTTP+SSE: with the bridge in front of it.
    async fn bridged(
        &self,
        lane: &Lane<'_>,
        request: Composed,
        deadline: Moment,
        abort: &Abort,
    ) -> Result<Answer, UpstreamFault> {
        let bridge = self.bridge.as_ref().ok_or(UpstreamFault::Unreachable)?;
        let stream = bridge.dial(lane).map_err(|_| UpstreamFault::NoBuffer)?;
        let answer = self.converse(lane, request, deadline, abort, stream).await.map_err(|failed| failed.fault)?;
        faultless(answer)
    }

    /// As [`Upstreams::exchange`], with a server that is a program: over a connection within this process. Nothing is
    /// ever sent twice there, whatever it is: who is at the other end says so when nothing came of it.
    async fn to_program(
        &self,
        lane: &Lane<'_>,
        request: Composed,
        deadline: Moment,
        abort: &Abort,
    ) -> Result<Answer, UpstreamFault> {
        let kept = self.pool.take(lane.instance.digest, self.timers.last().mono);
        let stream = match kept {
            Some(stream) => stream,
            None => {
                let way = lane.instance.way().ok_or(UpstreamFault::Unreachable)?;
                let far = way.dial().map_err(|_| UpstreamFault::NoBuffer)?;
                Stream::plain(Socket::of_pair(far).map_err(|_| UpstreamFault::NoBuffer)?)
            }
        };
        let answer = self.converse(lane, request, deadline, abort, stream).await.map_err(|failed| failed.fault)?;
        faultless(answer)
    }

    /// Keeps the answer's connection if it can carry another request. The body must have been read to its end.
    pub fn finish(&self, answer: Answer) {
        let Answer { head, pool_key, stream, input, done, deadline, large, epoch, .. } = answer;
        let _ = deadline.disarm();
        // Bytes behind a complete answer belong to nobody: never hand them to the next request.
        let clean = input.is_none_or(|rest| rest.is_empty());
        // After an error a server may not have read all of the request, and close when it notices.
        // And what waits behind bytes that nobody reads would wait for ever.
        let sent = !large || stream.socket().unacknowledged() == 0;
        if done && clean && sent && head.parsed.keep_alive && head.parsed.status < 400 {
            let keep_ms = keep_alive_ms(head.parsed.get(&head.bytes, Known::KeepAlive));
            stream.release();
            self.pool.put(pool_key, stream, epoch, self.timers.last().mono, keep_ms);
        } else {
            stream.shutdown();
        }
        let mut heads = self.heads.borrow_mut();
        if heads.len() < UPSTREAM_HEADS_KEPT {
            heads.push(head);
        }
    }

    async fn connect(&self, lane: &Lane<'_>, deadline: Moment, abort: &Abort) -> Result<Stream, UpstreamFault> {
        if lane.addresses.is_empty() {
            return Err(UpstreamFault::NoAddress);
        }
        let mut fault = UpstreamFault::Unreachable;
        for address in lane.addresses {
            let until = self.timers.now().mono.plus_ms(lane.connect_ms).min(deadline);
            if let Ok(socket) = Socket::connect(*address, &self.timers, until).await {
                match self.secured(lane, socket, until, abort).await {
                    Ok(stream) => return Ok(stream),
                    Err(untrusted) => fault = untrusted,
                }
            }
            if abort.fired() {
                return Err(UpstreamFault::Withdrawn);
            }
        }
        Err(fault)
    }

    /// The connection as requests travel on it: with TLS where the server has it. Never without where it has.
    async fn secured(
        &self,
        lane: &Lane<'_>,
        socket: Socket,
        until: Moment,
        abort: &Abort,
    ) -> Result<Stream, UpstreamFault> {
        let Some(side) = lane.tls else { return Ok(Stream::plain(socket)) };
        abort.watch(&socket);
        let guard = self.timers.deadline(&socket, until);
        let stream = Stream::connect(socket, side, &self.buffers).await;
        let in_time = !guard.disarm();
        match stream {
            Ok(stream) if in_time => Ok(stream),
            Ok(_) => Err(UpstreamFault::Unreachable),
            Err(fault) if in_time && fault.is_untrusted() => Err(UpstreamFault::Untrusted),
            Err(_) => Err(UpstreamFault::Unreachable),
        }
    }

    async fn converse(
        &self,
        lane: &Lane<'_>,
        request: Composed,
        deadline: Moment,
        abort: &Abort,
        stream: Stream,
    ) -> Result<Answer, Failed> {
        // Before anything is sent: without room for its answer a request stays here, and may go elsewhere.
        let Some(input) = self.buffers.get(BUFFER_BYTES) else {
            stream.shutdown();
            return Err(Failed { fault: UpstreamFault::NoBuffer, unanswered: None });
        };
        if abort.fired() || lane.may.is_some_and(|may| !may()) {
            stream.shutdown();
            return Err(Failed { fault: UpstreamFault::Withdrawn, unanswered: None });
        }
        abort.watch(stream.socket());
        let guard = self.timers.deadline(stream.socket(), deadline);
        let epoch = self.pool.epoch();
        let Composed { method, bytes, repeatable } = request;
        let mut silent = true;
        let large = bytes.len() > SENT_AT_ONCE_BYTES;
        let (result, bytes) = if !large {
            let (sent, bytes) = stream.send(bytes).await;
            // A server may answer and close before it has read everything: its answer counts, so read on.
            (self.read_head(method, &stream, input, sent.is_err(), &mut silent).await, bytes)
        } else {
            Box::pin(self.send_and_read(method, &stream, bytes, input, &mut silent)).await
        };
        match result {
            Ok((head, input)) => {
                let decoder = BodyDecoder::new(head.parsed.framing);
                let done = decoder.is_done();
                let (key, pool_key) = (lane.instance.digest, lane.pool_key());
                Ok(Answer { head, key, pool_key, stream, input, decoder, done, deadline: guard, large, epoch })
            }
            Err(fault) => {
                stream.shutdown();
                let fault = if guard.fired() {
                    UpstreamFault::Timeout
                } else if abort.fired() {
                    UpstreamFault::Abandoned
                } else {
                    fault
                };
                let unanswered = silent.then_some(Composed { method, bytes, repeatable });
                Err(Failed { fault, unanswered })
            }
        }
    }

    /// A request that the kernel may not take at once: an answer that comes before all of it is sent counts, and ends
    /// the sending (RFC 9112, 9.3: the connection is used no more then).
    async fn send_and_read(
        &self,
        method: Method,
        stream: &Stream,
        bytes: Buffer,
        input: Buffer,
        silent: &mut bool,
    ) -> (Result<(Box<Head>, Option<Buffer>), UpstreamFault>, Buffer) {
        let mut sending = pin!(stream.send(bytes));
        let mut reading = pin!(self.read_head(method, stream, input, false, silent));
        let mut sent = None;
        let mut result = poll_fn(|cx| {
            if sent.is_none()
                && let Poll::Ready(done) = sending.as_mut().poll(cx)
            {
                sent = Some(done);
            }
            reading.as_mut().poll(cx)
        })
        .await;
        let whole = matches!(sent, Some((Ok(()), _)));
        if let Ok((head, _)) = &mut result {
            head.parsed.keep_alive &= whole;
        }
        let bytes = match sent {
            Some((_, bytes)) => bytes,
            None => {
                // Nothing in flight is dropped: without a writing side it ends by itself.
                stream.socket().shutdown_write();
                sending.await.1
            }
        };
        (result, bytes)
    }

    async fn read_head(
        &self,
        method: Method,
        stream: &Stream,
        mut input: Buffer,
        early: bool,
        silent: &mut bool,
    ) -> Result<(Box<Head>, Option<Buffer>), UpstreamFault> {
        let mut head = self.heads.borrow_mut().pop().unwrap_or_default();
        let mut interim = 0;
        loop {
            let (read, back) = stream.recv(input).await;
            input = back;
            match read {
                Ok(n) if n > 0 => *silent = false,
                _ => return Err(UpstreamFault::Cut),
            }
            while !input.is_empty() {
                match head.parsed.parse(&input, method) {
                    Ok(Progress::Partial) => break,
                    Ok(Progress::Complete) if head.parsed.is_interim() => {
                        interim += 1;
                        if interim > INTERIM_HEADS_MAX {
                            return Err(UpstreamFault::BadAnswer);
                        }
                        input.consume(head.parsed.end);
                    }
                    Ok(Progress::Complete) => {
                        head.bytes.clear();
                        head.bytes.extend_from_slice(&input[..head.parsed.end]);
                        input.consume(head.parsed.end);
                        head.parsed.keep_alive &= !early;
                        let rest = (!input.is_empty()).then_some(input);
                        return Ok((head, rest));
                    }
                    Err(_) => return Err(UpstreamFault::BadAnswer),
                }
            }
            if input.spare() == 0 {
                return Err(UpstreamFault::BadAnswer);
            }
        }
    }

    /// What is cleared, as bytes: head and body in one buffer. `None` when no buffer is free, or a value is not one that a head may carry.
    #[must_use]
    pub fn compose(&self, clearance: Clearance<'_>, lane: &Lane<'_>, request: &Request<'_>) -> Option<Composed> {
        // Which child a message is for, is its owner's affair: said by the proof, and by nobody else.
        let owner = Some(clearance.owner()).filter(|_| lane.transport == Transport::Stdio).flatten();
        self.composed(lane, request, owner)
    }

    /// The same, for what was cleared before.
    pub(super) fn compose_again(&self, lane: &Lane<'_>, request: &Request<'_>) -> Option<Composed> {
        self.composed(lane, request, None)
    }

    fn composed(&self, lane: &Lane<'_>, request: &Request<'_>, owner: Option<Owner>) -> Option<Composed> {
        let body = request.body.unwrap_or_default();
        let mut bytes = self.buffers.get(request.head_bytes_max(lane) + body.len())?;
        bytes.append_with(|out| write_head(out, lane, request, owner)).ok()?;
        bytes.extend_from_slice(body).then_some(Composed {
            method: request.method,
            bytes,
            repeatable: request.repeatable,
        })
    }
}

/// An answer that comes from a server, and not from who stands in front of it.
fn faultless(answer: Answer) -> Result<Answer, UpstreamFault> {
    match pair::fault_of(answer.status()) {
        None => Ok(answer),
        Some(fault) => {
            answer.abandon();
            Err(fault)
        }
    }
}

fn write_head(
    out: &mut Vec<u8>,
    lane: &Lane<'_>,
    request: &Request<'_>,
    owner: Option<Owner>,
) -> Result<(), WriteFault> {
    reply::write_request_line(out, request.method, lane.path.as_bytes())?;
    reply::write_field(out, "host", lane.host.as_bytes())?;
    for (name, value) in request.fields {
        reply::write_field(out, name, value)?;
    }
    if let Some(owner) = owner {
        reply::write_field(
            out,
            Known::PortcullisOwner.name(),
            format!("{:032x}", u128::from_be_bytes(owner.0)).as_bytes(),
        )?;
    }
    // Over other transports it goes another way, or nobody is shown anything.
    if let Some(shown) = lane.shown.filter(|_| lane.transport == Transport::Http) {
        out.extend_from_slice(shown.lines());
    }
    for (name, value) in request.params {
        let name = std::str::from_utf8(name).map_err(|_| WriteFault::Name)?;
        out.extend_from_slice(b"mcp-param-");
        reply::write_field(out, name, value)?;
    }
    reply::finish(out, request.body.map_or(Framing::None, |body| Framing::Length(body.len() as u64)));
    Ok(())
}

impl Request<'_> {
    /// What the head takes at most, bytes.
    fn head_bytes_max(&self, lane: &Lane<'_>) -> usize {
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let params: usize = self.params.iter().map(|(name, value)| name.len() + value.len() + 14).sum();
        let shown = lane.shown.map_or(0, |shown| shown.lines().len());
        lane.path.len() + lane.host.len() + shown + fields + params + OWNER_FIELD_BYTES + 96
    }
}

impl Answer {
    /// The instance that it is of, by its digest.
    #[must_use]
    pub fn instance(&self) -> u64 {
        self.key
    }

    /// The value of a head field.
    #[must_use]
    pub fn field(&self, known: Known) -> Option<&[u8]> {
        self.head.parsed.get(&self.head.bytes, known)
    }

    /// Its HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.parsed.status
    }

    /// How its body is announced.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.head.parsed.framing
    }

    /// Whether the body was decoded to its end.
    #[must_use]
    pub fn done(&self) -> bool {
        self.done
    }

    /// Moves the deadline: for streams, whose silence is no fault.
    pub fn allow_until(&self, deadline: Moment) {
        let _ = self.deadline.reset(deadline);
    }

    /// Body bytes decoded from what has arrived, handed to `each`; says whether the body is complete. Never waits.
    ///
    /// # Errors
    /// `BadAnswer` when the framing is broken.
    pub fn decode(&mut self, mut each: impl FnMut(&[u8])) -> Result<bool, UpstreamFault> {
        while !self.done {
            let Some(input) = self.input.as_mut() else { return Ok(false) };
            let Piece { consumed, data, done } = self.decoder.step(input).map_err(|_| UpstreamFault::BadAnswer)?;
            if !data.is_empty() {
                each(data.of(input));
            }
            input.consume(consumed);
            self.done = done;
            if consumed == 0 && !done {
                break;
            }
        }
        if self.input.as_ref().is_some_and(|input| input.is_empty()) {
            self.input = None;
        }
        Ok(self.done)
    }

    /// Where a body of announced length is received to: its bytes stand in one piece, so that it can be taken as it is.
    /// `None` until all of it has arrived, or when it has another framing.
    #[must_use]
    pub fn take_whole(&mut self) -> Option<Buffer> {
        let Framing::Length(length) = self.head.parsed.framing else { return None };
        let length = usize::try_from(length).ok()?;
        let mut body = self.input.take_if(|input| input.len() >= length && !self.done)?;
        // What is behind the body belongs to nobody, and keeps the connection from being used again.
        self.head.parsed.keep_alive &= body.len() == length;
        body.truncate(length);
        self.done = true;
        Some(body)
    }

    /// Makes room for a body of `length` bytes in one piece.
    ///
    /// # Errors
    /// `NoBuffer`.
    pub fn make_room(&mut self, length: usize, buffers: &buffer::Pool) -> Result<(), UpstreamFault> {
        let mut input = match self.input.take() {
            Some(input) => input,
            None => buffers.get(length).ok_or(UpstreamFault::NoBuffer)?,
        };
        let missing = length.saturating_sub(input.len());
        let fits = input.reserve(missing);
        self.input = Some(input);
        if fits { Ok(()) } else { Err(UpstreamFault::NoBuffer) }
    }

    /// Waits for more bytes.
    ///
    /// # Errors
    /// `Timeout` at the deadline, `Cut` when the connection ended before the body did, `NoBuffer`.
    pub async fn fill(&mut self, buffers: &buffer::Pool) -> Result<(), UpstreamFault> {
        let input = match self.input.take() {
            Some(input) if input.spare() > 0 => input,
            Some(_) => return Err(UpstreamFault::BadAnswer),
            None => buffers.get(BUFFER_BYTES).ok_or(UpstreamFault::NoBuffer)?,
        };
        let (read, input) = self.stream.recv(input).await;
        match read {
            Ok(n) if n > 0 => {
                self.input = Some(input);
                Ok(())
            }
            _ if self.deadline.fired() => Err(UpstreamFault::Timeout),
            Ok(_) if self.decoder.eof().is_ok() => {
                self.done = true;
                self.head.parsed.keep_alive = false;
                Ok(())
            }
            _ => Err(UpstreamFault::Cut),
        }
    }

    /// As [`Answer::fill`], for an answer that may be silent for long: until something comes it holds no buffer.
    ///
    /// # Errors
    /// As there.
    pub async fn fill_late(&mut self, buffers: &buffer::Pool) -> Result<(), UpstreamFault> {
        if self.input.is_none() {
            // What is wrong with the connection, receiving tells.
            let _ = self.stream.readable().await;
        }
        self.fill(buffers).await
    }

    /// The connection, for whoever must end it from outside.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        self.stream.socket()
    }

    /// Closes the connection: the server sees that nobody waits any more.
    pub fn abandon(self) {
        self.stream.shutdown();
    }
}

struct Failed {
    fault: UpstreamFault,
    /// The request, where not one byte of an answer had come back.
    unanswered: Option<Composed>,
}

/// `Keep-Alive: timeout=N`, less a second for the way; `None` where the server does not say.
fn keep_alive_ms(field: Option<&[u8]>) -> Option<u64> {
    let text = std::str::from_utf8(field?).ok()?;
    let seconds = text.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    Some(seconds.saturating_sub(1).saturating_mul(1000))
}

/// The field that says whose a message for a program is.
const OWNER_FIELD_BYTES: usize = 16 + 2 + 32 + 2;
