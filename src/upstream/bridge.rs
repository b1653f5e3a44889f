//! Servers that speak the HTTP+SSE transport of 2024-11-05 look from here like servers of streamable HTTP: a small one
//! stands in front of each, at the far end of a pair of sockets, so that everything that holds for an exchange (its
//! deadline, its end from outside, a reader that is slow) holds here too.
//!
//! `initialize` opens an event stream, which is the session; its id here is its number. A request is answered with
//! JSON, or with events when the server says something else first. GET is the session's own stream, DELETE its end. Of
//! a session whose stream has broken nobody knows (404), which makes the gateway open it anew.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::base::limits::{LINE_OPEN_MS_MAX, LINE_SPARE_MS, LINES_MAX, RETIRE_MS_MAX};
use crate::base::time::Moment;
use crate::http::body as chunks;
use crate::http::field::Known;
use crate::http::head::{Framing, Method};
use crate::http::sse::EventParser;
use crate::jsonrpc::answer::AnswerScan;
use crate::jsonrpc::scan::{Reader, Shape};
use crate::mcp::transport::{StreamUrl, read_endpoint};
use crate::session::line::{Goes, Manner};
use crate::tls::stream::Stream;
use crate::uring::buffer;
use crate::uring::ring;
use crate::uring::socket::Socket;
use crate::uring::wait::Timers;

use super::UpstreamFault;
use super::exchange::{Abort, Answer, Lane, Request, USER_AGENT, Upstreams};
use super::inbox::{Inbox, Said};
use super::lines::{Link, Road};
use super::pair::{Asked, Pair, fault_of, first_number, status_of, write_event};
use super::pool::Pool;

/// All of this shard's sessions with HTTP+SSE servers.
pub(super) struct Bridge {
    /// The way to the servers themselves.
    pub(super) far: Upstreams,
    pub(super) timers: Timers,
    pub(super) buffers: buffer::Pool,
    pub(super) scans: RefCell<(AnswerScan, Reader)>,
    links: RefCell<HashMap<u64, Rc<Link>, RandomState>>,
    opening: Cell<usize>,
    next: Cell<u64>,
    dropped: Cell<u64>,
}

impl Bridge {
    pub(super) fn new(far: Upstreams, timers: Timers, buffers: buffer::Pool, seed: u64) -> Self {
        let next = first_number(seed, timers.last().unix_ms);
        Self {
            far,
            timers,
            buffers,
            scans: RefCell::new((AnswerScan::new(seed), Reader::new(seed))),
            links: RefCell::default(),
            opening: Cell::new(0),
            next: Cell::new(next),
            dropped: Cell::new(0),
        }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.far.pool
    }

    /// A connection to the server in front of `lane`'s. It carries one request.
    pub(super) fn dial(self: &Rc<Self>, lane: &Lane<'_>) -> io::Result<Stream> {
        let (near, far) = Socket::pair()?;
        let pair = Pair::open(far, self.buffers.clone(), false);
        let (bridge, road) = (self.clone(), Rc::new(Road::of(lane)));
        ring::spawn(async move {
            Serving { bridge, pair: pair.clone(), road }.serve().await;
            pair.close();
        });
        Ok(Stream::plain(near))
    }

    /// Ends sessions that nobody has used since `then`.
    pub(super) fn prune(&self, then: Moment) {
        let idle: Vec<Rc<Link>> = self.links.borrow().values().filter(|link| link.is_idle(then)).cloned().collect();
        idle.iter().for_each(|link| self.end(link));
    }

    /// Ends the session that was out of use for longest, where that is long enough; it is opened anew when its client
    /// comes back. Whether there was one.
    fn spare(&self) -> bool {
        let then = self.timers.last().mono.less_ms(LINE_SPARE_MS);
        let oldest = {
            let links = self.links.borrow();
            links.values().filter(|link| link.is_idle(then)).min_by_key(|link| link.used()).cloned()
        };
        oldest.iter().for_each(|link| self.end(link));
        oldest.is_some()
    }

    pub(super) fn hang_up(&self, id: &[u8]) {
        if let Some(link) = self.link(id) {
            self.end(&link);
        }
    }

    /// A session is over.
    pub(super) fn end(&self, link: &Link) {
        self.links.borrow_mut().remove(&link.number);
        link.close();
    }

    pub(super) fn dropped(&self) {
        self.dropped.set(self.dropped.get() + 1);
    }

    pub(super) fn take_dropped(&self) -> u64 {
        self.dropped.take()
    }

    /// The head of a message of our own.
    pub(super) fn fields(&self) -> [(Known, &'static [u8]); 2] {
        [(Known::ContentType, b"application/json"), (Known::UserAgent, USER_AGENT)]
    }

    /// Reads what is left of an answer that says nothing more, so that its connection can be kept.
    pub(super) async fn retire(&self, mut answer: Answer) {
        answer.allow_until(self.timers.now().mono.plus_ms(RETIRE_MS_MAX));
        loop {
            match answer.decode(|_| {}) {
                Ok(true) => return self.far.finish(answer),
                Ok(false) => {}
                Err(_) => return answer.abandon(),
            }
            if answer.fill(&self.buffers).await.is_err() {
                return answer.abandon();
            }
        }
    }

    fn link(&self, id: &[u8]) -> Option<Rc<Link>> {
        let number: u64 = std::str::from_utf8(id).ok()?.parse().ok()?;
        self.links.borrow().get(&number).cloned()
    }
}

/// What the server gets of the head.
fn fields_of(asked: &Asked) -> Vec<(Known, &[u8])> {
    let known = [
        Known::ContentType,
        Known::Accept,
        Known::AcceptEncoding,
        Known::UserAgent,
        Known::McpProtocolVersion,
        Known::Traceparent,
        Known::Tracestate,
    ];
    known.into_iter().filter_map(|known| Some((known, asked.field(known)?))).collect()
}

/// One request being answered.
struct Serving {
    bridge: Rc<Bridge>,
    pair: Rc<Pair>,
    road: Rc<Road>,
}

impl Serving {
    async fn serve(&self) {
        let Some(asked) = self.pair.next().await else { return };
        let link = asked.field(Known::McpSessionId).map(|id| self.bridge.link(id));
        match (asked.head.method, link) {
            (_, Some(None)) => self.pair.status(404).await,
            (Method::Post, None) => self.open(&asked).await,
            (Method::Post, Some(Some(link))) => self.post(&link, &asked).await,
            (Method::Get, Some(Some(link))) => self.own(&link).await,
            (Method::Delete, Some(Some(link))) => {
                self.bridge.end(&link);
                self.pair.status(204).await;
            }
            _ => self.pair.status(405).await,
        }
    }

    /// Opens a session with the `initialize` that asks for it.
    async fn open(&self, asked: &Asked) {
        let initialize = {
            let (_, reader) = &mut *self.bridge.scans.borrow_mut();
            let envelope = reader.read(asked.body()).ok();
            envelope.is_some_and(|envelope| envelope.method_name(asked.body()) == Some(b"initialize"))
        };
        if !initialize {
            return self.pair.status(400).await;
        }
        let open = self.bridge.links.borrow().len() + self.bridge.opening.get();
        if open >= LINES_MAX && !self.bridge.spare() {
            return self.pair.status(status_of(UpstreamFault::NoBuffer)).await;
        }
        self.bridge.opening.set(self.bridge.opening.get() + 1);
        let link = self.connect().await;
        self.bridge.opening.set(self.bridge.opening.get() - 1);
        let link = match link {
            Ok(link) => link,
            Err(status) => return self.pair.status(status).await,
        };
        if !self.begin(&link, asked, true).await {
            self.bridge.end(&link);
        }
    }

    /// A new session's stream, as far as its first event; else the status that says what is wrong.
    async fn connect(&self) -> Result<Rc<Link>, u16> {
        let (bridge, road) = (&self.bridge, &self.road);
        let lane = road.lane(&road.path, road.shown.as_ref());
        let fields: [(Known, &[u8]); 3] = [
            (Known::Accept, b"text/event-stream"),
            (Known::AcceptEncoding, b"identity"),
            (Known::UserAgent, USER_AGENT),
        ];
        let request =
            Request { method: Method::Get, usual: false, fields: &fields, params: &[], body: None, repeatable: true };
        let request = bridge.far.compose_again(&lane, &request).ok_or(status_of(UpstreamFault::NoBuffer))?;
        let until = bridge.timers.now().mono.plus_ms(LINE_OPEN_MS_MAX);
        let abort = Rc::new(Abort::default());
        let answer = bridge.far.exchange(&lane, request, until, &abort).await;
        let mut answer = answer.map_err(status_of)?;
        let refused = match answer.status() {
            200 if is_events(&answer) => None,
            status @ (401 | 403) => Some(status),
            _ => Some(status_of(UpstreamFault::BadAnswer)),
        };
        if let Some(status) = refused {
            answer.abandon();
            return Err(status);
        }
        let mut parser = EventParser::new();
        let (endpoint, rest) = match self.endpoint(&mut answer, &mut parser).await {
            Ok(found) => found,
            Err(fault) => {
                answer.abandon();
                return Err(status_of(fault));
            }
        };
        answer.allow_until(Moment(u64::MAX));
        let number = bridge.next.get();
        bridge.next.set(number.wrapping_add(1));
        let link = Link::new(number, road.clone(), endpoint, abort, bridge.timers.last().mono);
        bridge.links.borrow_mut().insert(number, link.clone());
        ring::spawn(link.clone().listen(bridge.clone(), answer, parser, rest));
        Ok(link)
    }

    /// Where messages go, by the stream's first event; and what has come behind it.
    async fn endpoint(
        &self,
        answer: &mut Answer,
        parser: &mut EventParser,
    ) -> Result<(Box<str>, Vec<u8>), UpstreamFault> {
        let here = StreamUrl { scheme: self.road.scheme(), authority: &self.road.host, target: &self.road.path };
        let mut raw = Vec::new();
        loop {
            let done = answer.decode(|data| raw.extend_from_slice(data))?;
            let mut at = 0;
            while at < raw.len() {
                at += parser.push(&raw[at..]).map_err(|_| UpstreamFault::BadAnswer)?;
                let event = parser.event();
                if let Some(data) = event.data.filter(|_| parser.ready()) {
                    let endpoint = read_endpoint(event.name.unwrap_or_default(), data, &here);
                    return Ok((endpoint.map_err(|_| UpstreamFault::BadAnswer)?, raw.split_off(at)));
                }
            }
            raw.clear();
            if done {
                return Err(UpstreamFault::Cut);
            }
            answer.fill(&self.bridge.buffers).await?;
        }
    }

    /// A message in a session.
    async fn post(&self, link: &Rc<Link>, asked: &Asked) {
        self.begin(link, asked, false).await;
    }

    /// Sends a message and gives back what comes of it; whether the session goes on. The first of a session is answered
    /// with the session's id.
    async fn begin(&self, link: &Rc<Link>, asked: &Asked, first: bool) -> bool {
        let mut body = Vec::with_capacity(asked.body().len() + 32);
        let (goes, repeatable) = {
            let (_, reader) = &mut *self.bridge.scans.borrow_mut();
            let Ok(envelope) = reader.read(asked.body()) else { return false };
            let repeatable = envelope.method_name(asked.body()) != Some(b"tools/call");
            let manner = Manner { bare: first, ..Manner::default() };
            let room = link.has_room().then(|| link.line.borrow_mut().send(asked.body(), envelope, manner, &mut body));
            (room, repeatable)
        };
        let inbox = Inbox::new(self.pair.nudge());
        let ticket = match goes {
            Some(Ok(Goes::Asking(ticket))) => Some(ticket),
            Some(Ok(Goes::Telling)) => None,
            Some(Ok(Goes::Late)) => {
                self.pair.status(202).await;
                return true;
            }
            Some(Err(_)) | None => {
                self.pair.status(status_of(UpstreamFault::NoBuffer)).await;
                return false;
            }
        };
        ticket.iter().for_each(|ticket| link.begin(*ticket, &inbox));
        link.shows(self.road.shown.as_ref());
        let sent = link.post(&self.bridge, &fields_of(asked), (&body, repeatable), inbox.clone());
        let well = match ticket {
            Some(ticket) => {
                let well = self.answer(link, &inbox, first).await;
                link.leave(ticket);
                well
            }
            None => self.told(link, &inbox).await,
        };
        if inbox.posted.get().is_none() && !well {
            // Nobody waits for it any more.
            sent.fire();
        }
        well
    }

    /// A message that is not answered, but by its status.
    async fn told(&self, link: &Link, inbox: &Inbox) -> bool {
        self.pair.nudge().until(|| self.pair.is_gone() || link.is_closed() || inbox.posted.get().is_some()).await;
        match inbox.posted.get() {
            Some(Ok(200..=299)) => self.pair.status(202).await,
            Some(posted) => self.refused(link, posted).await,
            None => return false,
        }
        true
    }

    /// The server did not take a message.
    async fn refused(&self, link: &Link, posted: Result<u16, UpstreamFault>) {
        let status = match posted {
            Ok(status) if fault_of(status).is_some() => 502,
            Ok(status) => status,
            Err(fault) => status_of(fault),
        };
        if status == 404 {
            // It knows no such session: the stream is worth nothing.
            self.bridge.end(link);
        }
        self.pair.status(status).await;
    }

    /// What comes for a request: one answer as JSON; as events, when something else comes first.
    async fn answer(&self, link: &Link, inbox: &Inbox, first: bool) -> bool {
        let mut began = false;
        loop {
            let over = || self.pair.is_gone() || link.is_closed();
            self.pair.nudge().until(|| !inbox.is_empty() || over() || inbox.failed().is_some()).await;
            let Some(Said { message, last }) = inbox.take() else {
                // The end of a connection without an answer is a cut.
                if let Some(posted) = inbox.failed().filter(|_| !over() && !began) {
                    self.refused(link, posted).await;
                }
                return false;
            };
            link.taken();
            let mut out = Vec::with_capacity(message.len() + 256);
            if last && !began {
                let session = Some(link.number).filter(|_| first && self.succeeded(&message));
                self.pair.write_head(
                    &mut out,
                    200,
                    Some("application/json"),
                    Framing::Length(message.len() as u64),
                    session,
                );
                out.extend_from_slice(&message);
                return self.pair.write(&out).await && (session.is_some() || !first);
            }
            if !began {
                self.pair.write_head(&mut out, 200, Some("text/event-stream"), Framing::Chunked, None);
            }
            began = true;
            write_event(&mut out, &message);
            if last {
                chunks::write_last_chunk(&mut out);
            }
            if !self.pair.write(&out).await || last {
                return last;
            }
        }
    }

    fn succeeded(&self, answer: &[u8]) -> bool {
        let (answers, _) = &mut *self.bridge.scans.borrow_mut();
        answers.read(answer).is_ok_and(|facts| facts.shape == Shape::Result)
    }

    /// The session's own stream: the newest reader has it.
    async fn own(&self, link: &Link) {
        let (pair, mine) = (&self.pair, link.reader.get() + 1);
        link.reader.set(mine);
        link.listened.set(true);
        link.own.read_by(pair.nudge());
        let mut out = Vec::new();
        pair.write_head(&mut out, 200, Some("text/event-stream"), Framing::Chunked, None);
        let newest = || link.reader.get() == mine;
        while self.pair.write(&out).await {
            out.clear();
            pair.nudge().until(|| pair.is_gone() || link.is_closed() || !newest() || !link.own.is_empty()).await;
            if pair.is_gone() {
                break;
            }
            match newest().then(|| link.own.take()).flatten() {
                Some(said) => write_event(&mut out, &said.message),
                None => {
                    chunks::write_last_chunk(&mut out);
                    self.pair.write(&out).await;
                    break;
                }
            }
        }
        if newest() {
            link.listened.set(false);
            link.touch(self.bridge.timers.last().mono);
        }
    }
}

fn is_events(answer: &Answer) -> bool {
    let field = answer.field(Known::ContentType).unwrap_or_default();
    let essence = field.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"text/event-stream")
}
