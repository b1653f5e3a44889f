//! A server of streamable HTTP in front of a program: what a request there means for its children.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use serde_json::{Value, json};

use crate::base::limits::{STDIO_HELLO_MS_MAX, STDIO_PROBE_MS_MAX, STDIO_WATCHED_MAX};
use crate::base::time::Moment;
use crate::http::body as chunks;
use crate::http::field::Known;
use crate::http::head::{Framing, Method};
use crate::jsonrpc::scan::{Envelope, Shape};
use crate::jsonrpc::text::unescape;
use crate::mcp::method::{self as methods, Sender, Verb};
use crate::mcp::request;
use crate::mcp::revision::{Era, Revision};
use crate::session::line::{Goes, Manner, Ticket, take_back};
use crate::upstream::UpstreamFault;
use crate::upstream::inbox::{Inbox, Nudge, Said};
use crate::upstream::pair::{Asked, Pair, status_of, write_event};
use crate::uring::ring;
use crate::uring::socket::Socket;

use super::child::{Child, Place};
use super::house::{House, Owner, Server, Session};

/// Serves one connection: one request after the other.
pub(super) async fn connection(house: Rc<House>, server: Rc<Server>, far: Socket) {
    let pair = Pair::open(far, house.buffers.clone(), true);
    let serving = Serving { house, server, pair };
    while let Some(asked) = serving.pair.next().await {
        if !serving.serve(&asked).await {
            break;
        }
    }
    serving.pair.close();
}

struct Serving {
    house: Rc<House>,
    server: Rc<Server>,
    pair: Rc<Pair>,
}

/// What a message is.
struct Facts {
    shape: Shape,
    verb: Option<Verb>,
    /// As it is written.
    id: Vec<u8>,
    uri: Option<Box<[u8]>>,
}

/// How a message is answered that does not reach the program.
enum Here {
    /// By a status.
    Status(u16),
    /// By a result that says nothing.
    Nothing,
}

impl Serving {
    /// Serves one request; whether another one may follow on its connection.
    async fn serve(&self, asked: &Asked) -> bool {
        let session = asked.field(Known::McpSessionId).map(|id| self.house.session(&self.server, id));
        match (asked.head.method, session) {
            // Its child has ended, or it is of another time: it is opened anew.
            (_, Some(None)) => self.status(404).await,
            (Method::Post, session) => {
                let Some(facts) = self.facts(asked) else { return self.status(400).await };
                match session.flatten() {
                    Some(session) => self.in_session(&session, asked, &facts).await,
                    None if is_modern(asked) => self.modern(asked, &facts).await,
                    None if facts.verb == Some(Verb::Initialize) => self.open(asked, &facts).await,
                    None => self.status(400).await,
                }
            }
            (Method::Get, Some(Some(session))) => self.own(&session).await,
            (Method::Delete, Some(Some(session))) => {
                self.house.end(&session);
                self.status(204).await
            }
            _ => self.status(405).await,
        }
    }

    fn facts(&self, asked: &Asked) -> Option<Facts> {
        let (_, reader) = &mut *self.house.scans.borrow_mut();
        let body = asked.body();
        let envelope = reader.read(body).ok()?;
        let name = envelope.method_name(body).unwrap_or_default();
        let revision = if is_modern(asked) { Revision::NEWEST } else { Revision::NEWEST_LEGACY };
        Some(Facts {
            shape: envelope.shape,
            verb: methods::find(name, revision, Sender::Client).map(|method| method.verb),
            id: envelope.id.map(|id| id.raw(body).to_vec()).unwrap_or_default(),
            uri: uri_of(body, envelope),
        })
    }

    /// A request that stands alone: for a child of its owner's, or the one that all share.
    async fn modern(&self, asked: &Asked, facts: &Facts) -> bool {
        if self.server.refused[Era::Modern as usize].get() {
            return self.refuse(&facts.id, LEGACY_ONLY).await;
        }
        let owner = owner_of(asked);
        let place = if self.server.shared { Place::Shared(Era::Modern) } else { Place::Owner(owner.clone()) };
        let child = match self.house.child(&self.server, place, &owner).await {
            Ok(child) => child,
            Err(fault) => return self.status(status_of(fault)).await,
        };
        // Of a program whose era is known a client's child may take as long to begin as it takes.
        let asks = owner.is_empty() || !self.server.modern.get();
        if facts.verb == Some(Verb::Discover) && asks && !child.has_answered() {
            return self.probe(&child, asked, facts).await;
        }
        child.probing.set(false);
        let listens = facts.verb == Some(Verb::Listen);
        self.forward(&child, asked, facts, Manner { listens, ..Manner::default() }).await
    }

    /// Asks a new child for its era. What is no answer in this one's terms, whatever it is, is that of a server of the
    /// legacy era (MCP 2026-07-28 basic/transports/stdio); its child may then be used for that. Where it is a client
    /// who asks, what is refused may be its message: then that is about this child alone.
    async fn probe(&self, child: &Rc<Child>, asked: &Asked, facts: &Facts) -> bool {
        let decides = owner_of(asked).is_empty();
        child.probing.set(decides);
        let inbox = Inbox::new(self.pair.nudge());
        let ticket = match send(&self.house, child, asked.body(), ALONE, &inbox) {
            Ok(Goes::Asking(ticket)) => ticket,
            Ok(_) => return self.status(400).await,
            Err(fault) => return self.status(status_of(fault)).await,
        };
        let gone = || self.pair.is_gone();
        let answer = answer_in(&self.house, &inbox, self.pair.nudge(), &gone, STDIO_PROBE_MS_MAX).await;
        if answer == Err(UpstreamFault::Timeout) && !child.is_closed() {
            // It may only be slow to begin.
            ring::spawn(hear_late(self.house.clone(), child.clone(), (inbox, ticket), child.place()));
            if self.pair.is_gone() {
                return false;
            }
        } else {
            child.leave(ticket);
        }
        if matches!(&answer, Ok(answer) if succeeded(&self.house, answer)) {
            self.server.found_modern(child, child.place());
        } else if let Err(UpstreamFault::Unreachable | UpstreamFault::NoBuffer) = answer {
            self.house.dismiss(child);
            return self.status(status_of(UpstreamFault::Unreachable)).await;
        } else if self.server.modern.get() || !decides {
            // What the program is, it has shown before, or the gateway finds out: this is about this message, or about
            // this child.
            if child.is_closed() || answer.as_ref().is_err_and(|fault| *fault != UpstreamFault::Timeout) {
                self.house.dismiss(child);
            }
            if let (Err(fault), true) = (&answer, self.server.modern.get()) {
                return self.status(status_of(*fault)).await;
            }
        } else {
            self.server.refused[Era::Modern as usize].set(true);
            if child.is_closed() || !self.server.keep_blank(child) {
                self.house.dismiss(child);
            }
        }
        match answer {
            Ok(answer) => self.json(&answer, None).await,
            Err(_) => self.refuse(&facts.id, LEGACY_ONLY).await,
        }
    }

    /// The handshake of the legacy era.
    async fn open(&self, asked: &Asked, facts: &Facts) -> bool {
        if self.server.refused[Era::Legacy as usize].get() {
            return self.refuse(&facts.id, MODERN_ONLY).await;
        }
        let owner = owner_of(asked);
        let shared = self.server.shared;
        let place = if shared { Place::Shared(Era::Legacy) } else { Place::Session(self.house.number()) };
        let child = match self.house.child(&self.server, place, &owner).await {
            Ok(child) => child,
            Err(fault) => return self.status(status_of(fault)).await,
        };
        child.probing.set(false);
        if shared {
            return self.join(&child, asked, facts).await;
        }
        let gone = || self.pair.is_gone();
        let answer = ask(&self.house, &child, asked.body(), self.pair.nudge(), &gone, u64::MAX).await;
        match answer {
            Ok(answer) if succeeded(&self.house, &answer) => {
                let Some(session) = self.house.open(&child) else {
                    self.house.dismiss(&child);
                    return self.status(status_of(UpstreamFault::NoBuffer)).await;
                };
                self.json(&answer, Some(session.number)).await
            }
            Ok(answer) => {
                // Where it is a client who asks, what is refused may be its message.
                if owner.is_empty() {
                    self.house.not_legacy(&child)
                } else {
                    self.house.dismiss(&child)
                }
                self.json(&answer, None).await
            }
            Err(fault) => {
                self.house.dismiss(&child);
                self.status(status_of(fault)).await
            }
        }
    }

    /// A session with a child that others use too: it has shaken hands already, or does so now, and is no client's own.
    async fn join(&self, child: &Rc<Child>, asked: &Asked, facts: &Facts) -> bool {
        if !child.greeting.replace(true) {
            ring::spawn(greet(self.house.clone(), child.clone()));
        }
        let Some(welcome) = child.welcome().await else {
            return self.status(status_of(UpstreamFault::Unreachable)).await;
        };
        let Some(session) = self.house.open(child) else {
            return self.status(status_of(UpstreamFault::NoBuffer)).await;
        };
        let mut result = (*welcome).clone();
        let asked_for = {
            let (_, reader) = &mut *self.house.scans.borrow_mut();
            let envelope = reader.read(asked.body()).ok();
            let version = envelope.and_then(|envelope| envelope.param(asked.body(), "protocolVersion"));
            Revision::negotiate(version.and_then(|version| version.text()).map_or(&[], |span| span.of(asked.body())))
        };
        // No later one than the program speaks.
        let spoken = result["protocolVersion"].as_str().and_then(|text| Revision::parse(text.as_bytes()));
        result["protocolVersion"] = spoken.map_or(asked_for, |spoken| spoken.min(asked_for)).as_str().into();
        self.json(&answered(&facts.id, &format!("\"result\":{result}")), Some(session.number)).await
    }

    /// A message in a session.
    async fn in_session(&self, session: &Rc<Session>, asked: &Asked, facts: &Facts) -> bool {
        let child = &session.child;
        child.touch(self.house.timers.last().mono);
        if self.server.shared
            && let Some(here) = self.answered_here(session, facts)
        {
            return match here {
                Here::Status(status) => self.status(status).await,
                Here::Nothing => self.json(&answered(&facts.id, "\"result\":{}"), None).await,
            };
        }
        self.forward(child, asked, facts, Manner { from: session.number, ..Manner::default() }).await
    }

    /// What is about one client is not told a program that serves many, which has asked nobody anything; `None` for what
    /// it is told.
    fn answered_here(&self, session: &Rc<Session>, facts: &Facts) -> Option<Here> {
        let uri = facts.uri.as_deref().unwrap_or_default();
        match (facts.shape, facts.verb) {
            (Shape::Result | Shape::Error, _) => Some(Here::Status(202)),
            (_, Some(Verb::Initialized | Verb::RootsChanged | Verb::Progress)) => Some(Here::Status(202)),
            (Shape::Request, Some(Verb::SetLevel)) => Some(Here::Nothing),
            (Shape::Request, Some(Verb::ResourcesSubscribe)) => {
                let full = !self.house.watch(session, uri);
                full.then_some(Here::Status(status_of(UpstreamFault::NoBuffer)))
            }
            (Shape::Request, Some(Verb::ResourcesUnsubscribe)) => {
                self.house.unwatch(session, uri).then_some(Here::Nothing)
            }
            _ => None,
        }
    }

    /// Sends a message on, and gives back what comes of it.
    async fn forward(&self, child: &Rc<Child>, asked: &Asked, facts: &Facts, manner: Manner) -> bool {
        let inbox = Inbox::new(self.pair.nudge());
        let goes = send(&self.house, child, asked.body(), manner, &inbox);
        let ticket = match goes {
            Ok(Goes::Asking(ticket)) => ticket,
            Ok(Goes::Telling | Goes::Late) => return self.status(202).await,
            Err(fault) => return self.status(status_of(fault)).await,
        };
        let well = self.relay(child, &inbox).await;
        if child.leave(ticket) && facts.verb != Some(Verb::Initialize) {
            // Over stdio a request is taken back by saying so (MCP 2026-07-28 basic/patterns/cancellation).
            child.post(take_back(ticket));
        }
        while let Some(said) = inbox.take() {
            self.house.taken(&said);
        }
        child.touch(self.house.timers.last().mono);
        well
    }

    /// What comes for a request: one answer as JSON; as events, when something else comes first.
    async fn relay(&self, child: &Child, inbox: &Inbox) -> bool {
        let mut began = false;
        loop {
            self.pair.nudge().until(|| !inbox.is_empty() || self.pair.is_gone() || inbox.failed().is_some()).await;
            let Some(said) = inbox.take() else {
                let fault = inbox.failed().and_then(Result::err).filter(|_| !began && !self.pair.is_gone());
                return match fault {
                    Some(fault) => self.status(status_of(fault)).await,
                    // The end of a connection without an answer is a cut.
                    None => false,
                };
            };
            self.house.taken(&said);
            child.taken();
            let Said { message, last } = said;
            if last && !began {
                return self.json(&message, None).await;
            }
            let mut out = Vec::with_capacity(message.len() + 256);
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

    /// The session's own stream: the newest reader has it.
    async fn own(&self, session: &Session) -> bool {
        let (pair, mine) = (&self.pair, session.reader.get() + 1);
        session.reader.set(mine);
        session.listened.set(true);
        session.own.read_by(pair.nudge());
        let mut out = Vec::new();
        pair.write_head(&mut out, 200, Some("text/event-stream"), Framing::Chunked, None);
        let newest = || session.reader.get() == mine;
        let over = || session.child.is_closed() || session.ended.get() || !newest();
        let mut well = false;
        while pair.write(&out).await {
            out.clear();
            pair.nudge().until(|| pair.is_gone() || over() || !session.own.is_empty()).await;
            if pair.is_gone() {
                break;
            }
            match newest().then(|| session.own.take()).flatten() {
                Some(said) => write_event(&mut out, &said.message),
                None => {
                    chunks::write_last_chunk(&mut out);
                    well = pair.write(&out).await;
                    break;
                }
            }
        }
        if newest() {
            session.listened.set(false);
            session.child.touch(self.house.timers.last().mono);
        }
        well
    }

    async fn refuse(&self, id: &[u8], why: &str) -> bool {
        self.json(&answered(id, &format!("\"error\":{{\"code\":-32601,\"message\":\"{why}\"}}")), None).await
    }

    async fn json(&self, message: &[u8], session: Option<u64>) -> bool {
        let mut out = Vec::with_capacity(message.len() + 256);
        let length = Framing::Length(message.len() as u64);
        self.pair.write_head(&mut out, 200, Some("application/json"), length, session);
        out.extend_from_slice(message);
        self.pair.write(&out).await
    }

    async fn status(&self, status: u16) -> bool {
        self.pair.status(status).await;
        true
    }
}

/// Shakes hands with a child that many will use: as one who can be asked for nothing.
async fn greet(house: Rc<House>, child: Rc<Child>) {
    let hello = json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {
            "protocolVersion": Revision::NEWEST_LEGACY.as_str(),
            "capabilities": {},
            "clientInfo": { "name": request::NAME, "version": request::VERSION },
        },
    });
    let nudge = Rc::default();
    let closed = || child.is_closed();
    let answer = ask(&house, &child, hello.to_string().as_bytes(), &nudge, &closed, STDIO_HELLO_MS_MAX).await;
    let mut answer: Value = answer.ok().and_then(|answer| serde_json::from_slice(&answer).ok()).unwrap_or_default();
    let result = answer["result"].take();
    if !result.is_object() {
        child.unwelcome();
        house.not_legacy(&child);
        // Nobody is to find it where it was welcome to nobody; it may have moved to where the modern era is.
        if child.place() == Place::Shared(Era::Legacy) {
            house.dismiss(&child);
        }
        return;
    }
    child.post(request::notify_initialized());
    let mut welcome = result;
    // A level that one client sets would be everybody's, and so would what is logged.
    if let Some(capabilities) = welcome.get_mut("capabilities").and_then(Value::as_object_mut) {
        capabilities.remove("logging");
    }
    child.welcomed(welcome);
}

/// Asks a child something that is answered by one message, which is waited for until `gone`, or for so many milliseconds.
async fn ask(
    house: &House,
    child: &Rc<Child>,
    body: &[u8],
    nudge: &Rc<Nudge>,
    gone: &dyn Fn() -> bool,
    ms: u64,
) -> Result<Vec<u8>, UpstreamFault> {
    let inbox = Inbox::new(nudge);
    let Goes::Asking(ticket) = send(house, child, body, ALONE, &inbox)? else { return Err(UpstreamFault::BadAnswer) };
    let answer = answer_in(house, &inbox, nudge, gone, ms).await;
    child.leave(ticket);
    answer
}

/// Waits for the one message that comes for a call, until `gone`, or for so many milliseconds.
async fn answer_in(
    house: &House,
    inbox: &Inbox,
    nudge: &Nudge,
    gone: &dyn Fn() -> bool,
    ms: u64,
) -> Result<Vec<u8>, UpstreamFault> {
    let until = if ms == u64::MAX { Moment(u64::MAX) } else { house.timers.now().mono.plus_ms(ms) };
    {
        let mut alarm = pin!(house.timers.sleep_until(until));
        let mut came = pin!(nudge.until(|| !inbox.is_empty() || inbox.failed().is_some() || gone()));
        poll_fn(|cx| {
            let over = came.as_mut().poll(cx).is_ready() || alarm.as_mut().poll(cx).is_ready();
            if over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    match inbox.take() {
        Some(said) => {
            house.taken(&said);
            Ok(said.message)
        }
        None => Err(inbox.failed().and_then(Result::err).unwrap_or(UpstreamFault::Timeout)),
    }
}

/// What a child says of its era after nobody waits for that any more: then it has that era all the same, for the first
/// request of a connection decides.
async fn hear_late(house: Rc<House>, child: Rc<Child>, (inbox, ticket): (Rc<Inbox>, Ticket), place: Place) {
    let nudge = Rc::default();
    inbox.read_by(&nudge);
    let closed = || child.is_closed();
    let answer = answer_in(&house, &inbox, &nudge, &closed, u64::MAX).await;
    child.leave(ticket);
    if answer.is_ok_and(|answer| succeeded(&house, &answer)) {
        child.server.found_modern(&child, place);
    }
}

fn succeeded(house: &House, answer: &[u8]) -> bool {
    let (answers, _) = &mut *house.scans.borrow_mut();
    answers.read(answer).is_ok_and(|facts| facts.shape == Shape::Result)
}

fn send(
    house: &House,
    child: &Rc<Child>,
    body: &[u8],
    manner: Manner,
    inbox: &Rc<Inbox>,
) -> Result<Goes, UpstreamFault> {
    if child.is_closed() {
        // Nothing was sent.
        return Err(UpstreamFault::Unreachable);
    }
    let (_, reader) = &mut *house.scans.borrow_mut();
    let envelope = reader.read(body).map_err(|_| UpstreamFault::BadAnswer)?;
    child.send(body, envelope, manner, inbox).map_err(|_| UpstreamFault::NoBuffer)
}

impl House {
    /// A message was taken out of where it waited.
    pub(super) fn taken(&self, said: &Said) {
        self.waiting.set(self.waiting.get().saturating_sub(said.message.len()));
    }

    /// A session of a shared child is told of changes of this resource from now on; `false` when there are too many.
    fn watch(&self, session: &Session, uri: &[u8]) -> bool {
        let mut watches = session.watches.borrow_mut();
        if watches.iter().any(|watched| **watched == *uri) {
            return true;
        }
        let room = self.watched.get() < STDIO_WATCHED_MAX;
        if room {
            self.watched.set(self.watched.get() + 1);
            watches.push(uri.into());
        }
        room
    }

    /// It is told no more; whether others still are.
    fn unwatch(&self, session: &Rc<Session>, uri: &[u8]) -> bool {
        let before = session.watches.borrow().len();
        session.watches.borrow_mut().retain(|watched| **watched != *uri);
        self.watched.set(self.watched.get() - (before - session.watches.borrow().len()));
        let watches = |other: &Session| other.watches.borrow().iter().any(|watched| **watched == *uri);
        session.child.sessions().iter().any(|other| watches(other))
    }
}

fn answered(id: &[u8], rest: &str) -> Vec<u8> {
    [b"{\"jsonrpc\":\"2.0\",\"id\":", id, b",", rest.as_bytes(), b"}"].concat()
}

fn is_modern(asked: &Asked) -> bool {
    let version = asked.field(Known::McpProtocolVersion).and_then(Revision::parse);
    version.is_some_and(Revision::is_modern)
}

fn owner_of(asked: &Asked) -> Owner {
    asked.field(Known::PortcullisOwner).unwrap_or_default().into()
}

/// The resource that a message is about.
pub(super) fn uri_of(message: &[u8], envelope: &Envelope) -> Option<Box<[u8]>> {
    let inside = envelope.param(message, "uri")?.text()?;
    let mut scratch = Vec::new();
    Some(unescape(inside.of(message), &mut scratch).ok()?.as_bytes().into())
}

/// Nothing but the answer is of interest.
const ALONE: Manner = Manner { from: 0, bare: true, listens: false };
const LEGACY_ONLY: &str = "This server speaks the legacy era only.";
const MODERN_ONLY: &str = "This server speaks the modern era only.";
