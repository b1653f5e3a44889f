//! One request to one server: a connection, the request in one send, the answer's head. What is cleared is what is
//! sent: the exchange takes the proof along with the bytes.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

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
use crate::uring::socket::{self, Socket};
use crate::uring::wait::{Deadline, Timers};

use super::UpstreamFault;
use super::breaker::{Entry, Pass, Terms, Verdict};
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
    /// How the head of a usual message to it begins, by [`opening`]; empty where that was not written beforehand.
    pub opening: &'a [u8],
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
    /// Whoever waits looks again some milliseconds after the first time, woken or not: the end of what is sent that first
    /// time need wake nobody.
    pub looks_again: bool,
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
    /// Whether it begins with the [`USUAL`] fields.
    pub usual: bool,
    /// Fields in the order they are written, behind those; values were checked by whoever read them.
    pub fields: &'a [(Known, &'a [u8])],
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
    socket: Cell<Option<Socket>>,
}

impl Abort {
    /// Ends it: whatever waits for the server comes back with `Abandoned`.
    pub fn fire(&self) {
        self.fired.set(true);
        if let Some(socket) = self.socket.take() {
            socket.shutdown();
            self.socket.set(Some(socket));
        }
    }

    /// For the next exchange.
    pub fn reset(&self) {
        self.fired.set(false);
        drop(self.socket.take());
    }

    /// Whether it was ended.
    #[must_use]
    pub fn fired(&self) -> bool {
        self.fired.get()
    }

    fn watch(&self, socket: &Socket) {
        self.socket.set(Some(socket.clone()));
        if self.fired.get() {
            socket.shutdown();
        }
    }
}

/// Everything that there is of an answer. Passed on and kept boxed: it is the largest thing that waits with a call.
struct Arrived {
    head: ResponseHead,
    /// What the spans of the head point into.
    bytes: Vec<u8>,
    /// The instance that it is of.
    key: u64,
    /// What its connection is kept by.
    pool_key: u64,
    /// Its connection; `None` only while nothing uses the box.
    stream: Option<Stream>,
    /// Bytes received and not decoded yet.
    input: Option<Buffer>,
    decoder: BodyDecoder,
    done: bool,
    deadline: Option<Deadline>,
    /// The request was one that its server may not have read yet.
    large: bool,
    /// When its connection was taken, as the pool counts.
    epoch: u64,
}

impl Default for Arrived {
    fn default() -> Self {
        let decoder = BodyDecoder::new(Framing::None);
        let (head, bytes, done, large) = (ResponseHead::default(), Vec::new(), false, false);
        let (stream, input, deadline) = (None, None, None);
        Self { head, bytes, key: 0, pool_key: 0, stream, input, decoder, done, deadline, large, epoch: 0 }
    }
}

/// All that this shard has towards servers.
pub struct Upstreams {
    /// Idle connections.
    pub pool: Pool,
    timers: Timers,
    buffers: buffer::Pool,
    /// Boxes to be used again.
    #[expect(clippy::vec_box, reason = "the box is what a call carries; taken apart it would have to be made anew")]
    boxes: RefCell<Vec<Box<Arrived>>>,
    /// To servers that speak HTTP+SSE; `None` on its own far side.
    bridge: Option<Rc<Bridge>>,
}

/// An answer whose head has arrived. Its body is read with `take_whole`, or with `fill` and `decode`.
pub struct Answer(Box<Arrived>);

impl Upstreams {
    /// Nothing connected yet.
    #[must_use]
    pub fn new(timers: Timers, buffers: buffer::Pool, seed: u64) -> Self {
        let far = Self::direct(timers.clone(), buffers.clone());
        let bridge = Rc::new(Bridge::new(far, timers.clone(), buffers.clone(), seed));
        Self { bridge: Some(bridge), ..Self::direct(timers, buffers) }
    }

    fn direct(timers: Timers, buffers: buffer::Pool) -> Self {
        Self { pool: Pool::new(buffers.clone()), timers, buffers, boxes: RefCell::new(Vec::new()), bridge: None }
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
        let (pass, epoch) = (self.enter(lane)?, self.pool.epoch());
        let kept = match lane.transport {
            Transport::Http => self.pool.take(lane.pool_key(), self.timers.last().mono),
            Transport::Sse | Transport::Stdio => None,
        };
        // Boxed are the ways that few calls go: each would take its room in every call.
        let result = match kept {
            Some(stream) => {
                let came = pin!(self.converse(lane, request, deadline, abort, (stream, epoch))).await;
                match came {
                    Ok(answer) => Ok(answer),
                    Err(failed) => Box::pin(self.once_more(lane, *failed, deadline, abort)).await,
                }
            }
            None => Box::pin(self.attempt(lane, request, deadline, abort)).await,
        };
        self.leave(lane, pass, &result);
        result
    }

    /// Asks the breaker of the instance.
    fn enter(&self, lane: &Lane<'_>) -> Result<Pass, UpstreamFault> {
        let Some(terms) = lane.health else { return Ok(Pass::default()) };
        match lane.instance.breaker.enter(terms, self.timers.last().mono) {
            Entry::Go(pass) => Ok(pass),
            Entry::Wait(retry_ms) => Err(UpstreamFault::Unhealthy { retry_ms }),
        }
    }

    /// Tells it what came of that.
    fn leave(&self, lane: &Lane<'_>, pass: Pass, result: &Result<Answer, UpstreamFault>) {
        let Some(terms) = lane.health else { return };
        let verdict = match result {
            Err(UpstreamFault::Timeout) if !terms.counts_timeouts => Verdict::Nothing,
            result => Verdict::of(result.as_ref().map(Answer::status).map_err(|fault| *fault)),
        };
        if lane.instance.breaker.leave(terms, pass, verdict, self.timers.last().mono) {
            // Its keeper tells people, and looks for another instance to keep up with.
            lane.state.poke.ring();
        }
    }

    /// After a kept connection has failed: where it had been closed while it was idle, once more on a new one.
    async fn once_more(
        &self,
        lane: &Lane<'_>,
        failed: Failed,
        deadline: Moment,
        abort: &Abort,
    ) -> Result<Answer, UpstreamFault> {
        match failed {
            // It has ended without one byte of an answer.
            Failed { fault: UpstreamFault::Cut, unanswered: Some(whole) } if whole.repeatable => {
                let result = self.anew(lane, whole, deadline, abort).await;
                // What went out once is not unsent.
                result.map_err(|fault| match fault {
                    UpstreamFault::Withdrawn => UpstreamFault::Abandoned,
                    fault => fault,
                })
            }
            Failed { fault, .. } => Err(fault),
        }
    }

    /// Where there is no kept connection.
    async fn attempt(
        &self,
        lane: &Lane<'_>,
        request: Composed,
        deadline: Moment,
        abort: &Abort,
    ) -> Result<Answer, UpstreamFault> {
        match lane.transport {
            Transport::Http => self.anew(lane, request, deadline, abort).await,
            Transport::Sse => self.bridged(lane, request, deadline, abort).await,
            Transport::Stdio => self.to_program(lane, request, deadline, abort).await,
        }
    }

    /// On a new connection.
    async fn anew(
        &self,
        lane: &Lane<'_>,
        request: Composed,
        deadline: Moment,
        abort: &Abort,
    ) -> Result<Answer, UpstreamFault> {
        // Authorities or addresses may change while it is made: it is of the time before then.
        let epoch = self.pool.epoch();
        let stream = self.connect(lane, deadline, abort).await?;
        // That took its time: whoever waits may not look again any more.
        let lane = &Lane { looks_again: false, ..*lane };
        self.converse(lane, request, deadline, abort, (stream, epoch)).await.map_err(|failed| failed.fault)
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
        let (epoch, stream) = (self.pool.epoch(), bridge.dial(lane).map_err(|_| UpstreamFault::NoBuffer)?);
        let answer =
            self.converse(lane, request, deadline, abort, (stream, epoch)).await.map_err(|failed| failed.fault)?;
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
        let lane = &Lane { looks_again: false, ..*lane };
        let epoch = self.pool.epoch();
        let kept = self.pool.take(lane.instance.digest, self.timers.last().mono);
        let stream = match kept {
            Some(stream) => stream,
            None => {
                let way = lane.instance.way().ok_or(UpstreamFault::Unreachable)?;
                let far = way.dial().map_err(|_| UpstreamFault::NoBuffer)?;
                Stream::plain(Socket::of_pair(far).map_err(|_| UpstreamFault::NoBuffer)?)
            }
        };
        let answer =
            self.converse(lane, request, deadline, abort, (stream, epoch)).await.map_err(|failed| failed.fault)?;
        faultless(answer)
    }

    /// Keeps the answer's connection if it can carry another request. The body must have been read to its end.
    pub fn finish(&self, answer: Answer) {
        let mut arrived = answer.0;
        drop(arrived.deadline.take());
        let Some(stream) = arrived.stream.take() else { return };
        // Bytes behind a complete answer belong to nobody: never hand them to the next request.
        let clean = arrived.input.take().is_none_or(|rest| rest.is_empty());
        // After an error a server may not have read all of the request, and close when it notices.
        // And what waits behind bytes that nobody reads would wait for ever.
        let sent = !arrived.large || stream.socket().unacknowledged() == 0;
        let head = &arrived.head;
        if arrived.done && clean && sent && head.keep_alive && head.status < 400 {
            let keep_ms = keep_alive_ms(head.get(&arrived.bytes, Known::KeepAlive));
            stream.release();
            self.pool.put(arrived.pool_key, stream, arrived.epoch, self.timers.last().mono, keep_ms);
        } else {
            stream.shutdown();
        }
        self.put_back(arrived);
    }

    /// The box of an answer that is over.
    fn put_back(&self, arrived: Box<Arrived>) {
        let mut boxes = self.boxes.borrow_mut();
        if boxes.len() < UPSTREAM_HEADS_KEPT {
            boxes.push(arrived);
        }
    }

    async fn connect(&self, lane: &Lane<'_>, deadline: Moment, abort: &Abort) -> Result<Stream, UpstreamFault> {
        if lane.addresses.is_empty() {
            return Err(UpstreamFault::NoAddress);
        }
        let mut fault = UpstreamFault::Unreachable;
        for address in lane.addresses {
            let until = self.timers.now().mono.plus_ms(lane.connect_ms).min(deadline);
            match Socket::connect(*address, &self.timers, until).await {
                Ok(socket) => match self.secured(lane, socket, until, abort).await {
                    Ok(stream) => return Ok(stream),
                    Err(untrusted) => fault = untrusted,
                },
                // No port, descriptor or memory here: nothing is known of the server, and its breaker stays out of it.
                Err(lack) if socket::is_short(&lack, *address) => fault = UpstreamFault::NoBuffer,
                Err(_) => {}
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
        (stream, epoch): (Stream, u64),
    ) -> Result<Answer, Box<Failed>> {
        // Before anything is sent: without room for its answer a request stays here, and may go elsewhere.
        let Some(input) = self.buffers.get(BUFFER_BYTES) else {
            stream.shutdown();
            return Err(Failed::unsent(UpstreamFault::NoBuffer));
        };
        if abort.fired() || lane.may.is_some_and(|may| !may()) {
            stream.shutdown();
            return Err(Failed::unsent(UpstreamFault::Withdrawn));
        }
        abort.watch(stream.socket());
        let mut arrived = self.boxes.borrow_mut().pop().unwrap_or_default();
        arrived.deadline = Some(self.timers.deadline(stream.socket(), deadline));
        (arrived.key, arrived.pool_key) = (lane.instance.digest, lane.pool_key());
        (arrived.epoch, arrived.large) = (epoch, request.bytes.len() > SENT_AT_ONCE_BYTES);
        let Composed { method, bytes, repeatable } = request;
        let (came, bytes) = if arrived.large {
            Box::pin(send_large(&mut arrived, method, &stream, bytes, input)).await
        } else {
            pin!(send_small(&mut arrived, method, &stream, bytes, input, lane.looks_again)).await
        };
        match came {
            Ok(()) => {
                arrived.stream = Some(stream);
                Ok(Answer(arrived))
            }
            Err(Lost { fault, silent }) => {
                stream.shutdown();
                let timed_out = arrived.deadline.take().is_some_and(|guard| guard.fired());
                let fault = if timed_out {
                    UpstreamFault::Timeout
                } else if abort.fired() {
                    UpstreamFault::Abandoned
                } else {
                    fault
                };
                // The box is none to use again: half of a head may be in it.
                let unanswered = silent.then_some(Composed { method, bytes, repeatable });
                Err(Box::new(Failed { fault, unanswered }))
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

/// Why there is no head of an answer, and whether not one byte of it came.
struct Lost {
    fault: UpstreamFault,
    silent: bool,
}

/// A request that the kernel takes at once, and its answer's head. Both are begun together, so that the one wait is for
/// the answer: where somebody `looks_again` the end of the sending wakes nobody.
async fn send_small(
    arrived: &mut Arrived,
    method: Method,
    stream: &Stream,
    bytes: Buffer,
    input: Buffer,
    looks_again: bool,
) -> (Result<(), Lost>, Buffer) {
    let mut sending = pin!(stream.send(bytes));
    let mut sent = if looks_again {
        match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(sent) => Some(sent),
            Poll::Pending => None,
        }
    } else {
        Some(sending.as_mut().await)
    };
    let (mut input, mut reading) = (Some(input), Reading::new(method));
    let came = loop {
        let Some(room) = input.take() else { break Err(reading.lost(UpstreamFault::Cut)) };
        let mut receiving = pin!(stream.recv(room));
        let mut begun = false;
        let (read, back) = poll_fn(|cx| {
            if let Poll::Ready(done) = receiving.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            // Woken for something else, and it is not out yet: what is left of it goes on.
            if std::mem::replace(&mut begun, true)
                && sent.is_none()
                && let Poll::Ready(done) = sending.as_mut().poll(cx)
            {
                sent = Some(done);
            }
            Poll::Pending
        })
        .await;
        match reading.take(arrived, read, back) {
            Ok(Some(room)) => input = Some(room),
            Ok(None) => break Ok(()),
            Err(fault) => break Err(reading.lost(fault)),
        }
    };
    if sent.is_none()
        && let Poll::Ready(done) = sending.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    {
        sent = Some(done);
    }
    let whole = sent.is_some();
    let (sent, bytes) = match sent {
        Some(done) => done,
        None => {
            // Nothing in flight is dropped: without a writing side it ends by itself.
            stream.socket().shutdown_write();
            sending.await
        }
    };
    // A server may answer and close before it has read everything: its answer counts, and its connection does not.
    arrived.head.keep_alive &= whole && sent.is_ok();
    (came, bytes)
}

/// A request that the kernel may not take at once: an answer that comes before all of it is sent counts, and ends the
/// sending (RFC 9112, 9.3: the connection is used no more then).
async fn send_large(
    arrived: &mut Arrived,
    method: Method,
    stream: &Stream,
    bytes: Buffer,
    input: Buffer,
) -> (Result<(), Lost>, Buffer) {
    let mut sending = pin!(stream.send(bytes));
    let mut sent = None;
    let came = {
        let mut reading = pin!(read_head(arrived, method, stream, input));
        poll_fn(|cx| {
            if sent.is_none()
                && let Poll::Ready(done) = sending.as_mut().poll(cx)
            {
                sent = Some(done);
            }
            reading.as_mut().poll(cx)
        })
        .await
    };
    arrived.head.keep_alive &= matches!(sent, Some((Ok(()), _)));
    let bytes = match sent {
        Some((_, bytes)) => bytes,
        None => {
            // As above.
            stream.socket().shutdown_write();
            sending.await.1
        }
    };
    (came, bytes)
}

async fn read_head(arrived: &mut Arrived, method: Method, stream: &Stream, mut input: Buffer) -> Result<(), Lost> {
    let mut reading = Reading::new(method);
    loop {
        let (read, back) = stream.recv(input).await;
        match reading.take(arrived, read, back) {
            Ok(Some(room)) => input = room,
            Ok(None) => return Ok(()),
            Err(fault) => return Err(reading.lost(fault)),
        }
    }
}

/// An answer's head, piece by piece.
struct Reading {
    method: Method,
    silent: bool,
    interim: usize,
}

impl Reading {
    fn new(method: Method) -> Self {
        Self { method, silent: true, interim: 0 }
    }

    fn lost(&self, fault: UpstreamFault) -> Lost {
        Lost { fault, silent: self.silent }
    }

    /// Takes what was received; gives the buffer back where there has to come more.
    fn take(
        &mut self,
        arrived: &mut Arrived,
        read: std::io::Result<usize>,
        mut input: Buffer,
    ) -> Result<Option<Buffer>, UpstreamFault> {
        match read {
            Ok(n) if n > 0 => self.silent = false,
            _ => return Err(UpstreamFault::Cut),
        }
        while !input.is_empty() {
            match arrived.head.parse(&input, self.method) {
                Ok(Progress::Partial) => break,
                Ok(Progress::Complete) if arrived.head.is_interim() => {
                    self.interim += 1;
                    if self.interim > INTERIM_HEADS_MAX {
                        return Err(UpstreamFault::BadAnswer);
                    }
                    input.consume(arrived.head.end);
                }
                Ok(Progress::Complete) => {
                    let end = arrived.head.end;
                    arrived.bytes.clear();
                    arrived.bytes.extend_from_slice(input.get(..end).unwrap_or_default());
                    input.consume(end);
                    arrived.decoder = BodyDecoder::new(arrived.head.framing);
                    arrived.done = arrived.decoder.is_done();
                    arrived.input = (!input.is_empty()).then_some(input);
                    return Ok(None);
                }
                Err(_) => return Err(UpstreamFault::BadAnswer),
            }
        }
        if input.spare() == 0 { Err(UpstreamFault::BadAnswer) } else { Ok(Some(input)) }
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

/// How the head of a usual message begins, one of a client's to a server at `host` and `path`: all of it that is the same
/// in each. Empty where those can stand in no head.
#[must_use]
pub fn opening(host: &str, path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let written = write_opening(&mut out, (Method::Post, true), host, path);
    if written.is_ok() { out } else { Vec::new() }
}

fn write_opening(out: &mut Vec<u8>, (method, usual): (Method, bool), host: &str, path: &str) -> Result<(), WriteFault> {
    reply::write_request_line(out, method, path.as_bytes())?;
    reply::write_known(out, Known::Host, host.as_bytes())?;
    let usual = USUAL.iter().filter(|_| usual);
    usual.into_iter().try_for_each(|(known, value)| reply::write_known(out, *known, value))
}

fn write_head(
    out: &mut Vec<u8>,
    lane: &Lane<'_>,
    request: &Request<'_>,
    owner: Option<Owner>,
) -> Result<(), WriteFault> {
    if request.usual && request.method == Method::Post && !lane.opening.is_empty() {
        out.extend_from_slice(lane.opening);
    } else {
        write_opening(out, (request.method, request.usual), lane.host, lane.path)?;
    }
    for (known, value) in request.fields {
        reply::write_known(out, *known, value)?;
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
        let fields: usize = self.fields.iter().map(|(_, value)| value.len() + FIELD_NAME_BYTES).sum();
        let params: usize = self.params.iter().map(|(name, value)| name.len() + value.len() + 14).sum();
        let shown = lane.shown.map_or(0, |shown| shown.lines().len());
        let opening = lane.opening.len().max(lane.path.len() + lane.host.len() + USUAL_BYTES);
        opening + shown + fields + params + OWNER_FIELD_BYTES + 96
    }
}

impl Answer {
    /// The instance that it is of, by its digest.
    #[must_use]
    pub fn instance(&self) -> u64 {
        self.0.key
    }

    /// The value of a head field.
    #[must_use]
    pub fn field(&self, known: Known) -> Option<&[u8]> {
        self.0.head.get(&self.0.bytes, known)
    }

    /// Its HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.0.head.status
    }

    /// How its body is announced.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.0.head.framing
    }

    /// Whether the body was decoded to its end.
    #[must_use]
    pub fn done(&self) -> bool {
        self.0.done
    }

    /// Moves the deadline: for streams, whose silence is no fault.
    pub fn allow_until(&self, deadline: Moment) {
        if let Some(guard) = &self.0.deadline {
            let _ = guard.reset(deadline);
        }
    }

    /// Body bytes decoded from what has arrived, handed to `each`; says whether the body is complete. Never waits.
    ///
    /// # Errors
    /// `BadAnswer` when the framing is broken.
    pub fn decode(&mut self, mut each: impl FnMut(&[u8])) -> Result<bool, UpstreamFault> {
        let arrived = &mut *self.0;
        while !arrived.done {
            let Some(input) = arrived.input.as_mut() else { return Ok(false) };
            let Piece { consumed, data, done } = arrived.decoder.step(input).map_err(|_| UpstreamFault::BadAnswer)?;
            if !data.is_empty() {
                each(data.of(input));
            }
            input.consume(consumed);
            arrived.done = done;
            if consumed == 0 && !done {
                break;
            }
        }
        if arrived.input.as_ref().is_some_and(|input| input.is_empty()) {
            arrived.input = None;
        }
        Ok(arrived.done)
    }

    /// How long its body is, where that is announced.
    #[must_use]
    pub fn length(&self) -> Option<usize> {
        match self.0.head.framing {
            Framing::Length(length) => usize::try_from(length).ok(),
            _ => None,
        }
    }

    /// A body of announced length, of 1 to `max` bytes, as it was received: all of it in one piece. `None` until it is
    /// there, or when it has another framing.
    #[must_use]
    pub fn take_whole(&mut self, max: usize) -> Option<Buffer> {
        let length = self.length().filter(|length| (1..=max).contains(length))?;
        let arrived = &mut *self.0;
        let done = arrived.done;
        let mut body = arrived.input.take_if(|input| input.len() >= length && !done)?;
        // What is behind the body belongs to nobody, and keeps the connection from being used again.
        arrived.head.keep_alive &= body.len() == length;
        body.truncate(length);
        arrived.done = true;
        Some(body)
    }

    /// Makes room for a body of `length` bytes in one piece.
    ///
    /// # Errors
    /// `NoBuffer`.
    pub fn make_room(&mut self, length: usize, buffers: &buffer::Pool) -> Result<(), UpstreamFault> {
        let arrived = &mut *self.0;
        let fits = |input: &Buffer| input.room_behind() >= length.saturating_sub(input.len());
        if arrived.input.as_ref().is_some_and(fits) {
            return Ok(());
        }
        let mut whole = buffers.get(length + FRONT_BYTES).ok_or(UpstreamFault::NoBuffer)?;
        whole.leave_front(FRONT_BYTES);
        if let Some(input) = arrived.input.take()
            && !whole.extend_from_slice(&input)
        {
            return Err(UpstreamFault::NoBuffer);
        }
        arrived.input = Some(whole);
        Ok(())
    }

    /// Waits for more bytes.
    ///
    /// # Errors
    /// `Timeout` at the deadline, `Cut` when the connection ended before the body did, `NoBuffer`.
    pub async fn fill(&mut self, buffers: &buffer::Pool) -> Result<(), UpstreamFault> {
        let arrived = &mut *self.0;
        let input = match arrived.input.take() {
            Some(input) if input.spare() > 0 => input,
            Some(_) => return Err(UpstreamFault::BadAnswer),
            None => buffers.get(BUFFER_BYTES).ok_or(UpstreamFault::NoBuffer)?,
        };
        let Some(stream) = &arrived.stream else { return Err(UpstreamFault::Cut) };
        let (read, input) = pin!(stream.recv(input)).await;
        match read {
            Ok(n) if n > 0 => {
                arrived.input = Some(input);
                Ok(())
            }
            _ if arrived.deadline.as_ref().is_some_and(Deadline::fired) => Err(UpstreamFault::Timeout),
            Ok(_) if arrived.decoder.eof().is_ok() => {
                arrived.done = true;
                arrived.head.keep_alive = false;
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
        if let (None, Some(stream)) = (&self.0.input, &self.0.stream) {
            drop(stream.socket().spare_buffer());
            // What is wrong with the connection, receiving tells.
            let _ = stream.readable().await;
        }
        self.fill(buffers).await
    }

    /// Closes the connection: the server sees that nobody waits any more.
    pub fn abandon(self) {
        if let Some(stream) = &self.0.stream {
            stream.shutdown();
        }
    }
}

struct Failed {
    fault: UpstreamFault,
    /// The request, where not one byte of an answer had come back.
    unanswered: Option<Composed>,
}

impl Failed {
    fn unsent(fault: UpstreamFault) -> Box<Self> {
        Box::new(Self { fault, unanswered: None })
    }
}

/// `Keep-Alive: timeout=N`, less a second for the way; `None` where the server does not say.
fn keep_alive_ms(field: Option<&[u8]>) -> Option<u64> {
    let text = std::str::from_utf8(field?).ok()?;
    let seconds = text.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    Some(seconds.saturating_sub(1).saturating_mul(1000))
}

/// Room that is left in front of a body, for the head that it goes on with.
const FRONT_BYTES: usize = 512;

/// The gateway's name towards servers.
pub const USER_AGENT: &[u8] = concat!("portcullis/", env!("CARGO_PKG_VERSION")).as_bytes();
/// What the head of a client's message says to every server.
pub const USUAL: [(Known, &[u8]); 4] = [
    (Known::ContentType, b"application/json"),
    (Known::Accept, b"application/json, text/event-stream"),
    (Known::AcceptEncoding, b"identity"),
    (Known::UserAgent, USER_AGENT),
];
/// Bytes of those lines, at most.
const USUAL_BYTES: usize = 256;
/// Bytes of a known field's line without its value, at most.
const FIELD_NAME_BYTES: usize = 40;
/// The field that says whose a message for a program is.
const OWNER_FIELD_BYTES: usize = 16 + 2 + 32 + 2;
