//! This shard's sessions with HTTP+SSE servers: for each a connection with its event stream, which is the session, and
//! messages on their way there.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::base::limits::{LINE_POST_MS_MAX, LINE_POSTS_MAX, LINE_WAITING_BYTES_MAX, STREAM_BUFFERED_BYTES_MAX};
use crate::base::time::Moment;
use crate::http::field::Known;
use crate::http::head::Method;
use crate::http::sse::EventParser;
use crate::mcp::transport::Transport;
use crate::session::line::{Line, Ticket, Where};
use crate::tls::config::ClientSide;
use crate::uring::ring;

use super::UpstreamFault;
use super::bridge::Bridge;
use super::exchange::{Abort, Answer, Lane, Request};
use super::inbox::{Inbox, Nudge, Said};
use super::shown::Shown;
use super::state::{InstanceState, ServerState};

/// A lane that outlives the snapshot it was made from.
pub(super) struct Road {
    state: Arc<ServerState>,
    instance: Arc<InstanceState>,
    addresses: Box<[SocketAddr]>,
    pub(super) host: Box<str>,
    pub(super) path: Box<str>,
    connect_ms: u64,
    tls: Option<ClientSide>,
    /// What is due for whoever asked for this one.
    pub(super) shown: Option<Rc<Shown>>,
}

impl Road {
    pub(super) fn of(lane: &Lane<'_>) -> Self {
        Self {
            state: lane.state.clone(),
            instance: lane.instance.clone(),
            addresses: lane.addresses.into(),
            host: lane.host.into(),
            path: lane.path.into(),
            connect_ms: lane.connect_ms,
            tls: lane.tls.cloned(),
            shown: lane.shown.cloned(),
        }
    }

    /// To another path of the same origin, with what is due there.
    pub(super) fn lane<'a>(&'a self, path: &'a str, shown: Option<&'a Rc<Shown>>) -> Lane<'a> {
        Lane {
            state: &self.state,
            instance: &self.instance,
            addresses: &self.addresses,
            host: &self.host,
            path,
            opening: &[],
            connect_ms: self.connect_ms,
            tls: self.tls.as_ref(),
            transport: Transport::Http,
            shown,
            // Whoever asked the bridge has asked the breaker.
            health: None,
            may: None,
            looks_again: false,
        }
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// A session with a server: as long as its event stream.
pub(super) struct Link {
    pub(super) number: u64,
    road: Rc<Road>,
    /// Where messages go.
    endpoint: Box<str>,
    /// What was due for its client's last message: the gateway's own in its name show the same.
    shown: RefCell<Option<Rc<Shown>>>,
    pub(super) line: RefCell<Line>,
    calls: RefCell<HashMap<Ticket, Rc<Inbox>, RandomState>>,
    /// For the session's own stream.
    pub(super) own: Rc<Inbox>,
    /// Which reader of that stream is the newest, from 1.
    pub(super) reader: Cell<u64>,
    /// There is one.
    pub(super) listened: Cell<bool>,
    posts: Cell<usize>,
    /// Ends the stream.
    stream: Rc<Abort>,
    closed: Cell<bool>,
    used: Cell<Moment>,
    /// Rung when there is room again.
    room: Nudge,
}

impl Link {
    pub(super) fn new(number: u64, road: Rc<Road>, endpoint: Box<str>, stream: Rc<Abort>, now: Moment) -> Rc<Self> {
        let shown = RefCell::new(road.shown.clone());
        Rc::new(Self {
            number,
            road,
            endpoint,
            shown,
            line: RefCell::default(),
            calls: RefCell::default(),
            own: Rc::default(),
            reader: Cell::new(0),
            listened: Cell::new(false),
            posts: Cell::new(0),
            stream,
            closed: Cell::new(false),
            used: Cell::new(now),
            room: Nudge::default(),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether nobody has used it since `then`.
    pub(super) fn is_idle(&self, then: Moment) -> bool {
        self.used.get() <= then && self.calls.borrow().is_empty() && !self.listened.get()
    }

    /// When it was used last.
    pub(super) fn used(&self) -> Moment {
        self.used.get()
    }

    /// It is in use.
    pub(super) fn touch(&self, now: Moment) {
        self.used.set(now);
    }

    /// From now on this is due for its client.
    pub(super) fn shows(&self, shown: Option<&Rc<Shown>>) {
        let same = self.shown.borrow().as_ref().map(Rc::as_ptr) == shown.map(Rc::as_ptr);
        if !same {
            *self.shown.borrow_mut() = shown.cloned();
        }
    }

    /// Whether another message may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.posts.get() < LINE_POSTS_MAX
    }

    pub(super) fn begin(&self, ticket: Ticket, inbox: &Rc<Inbox>) {
        self.calls.borrow_mut().insert(ticket, inbox.clone());
    }

    /// Nobody waits for this call any more.
    pub(super) fn leave(&self, ticket: Ticket) {
        self.line.borrow_mut().leave(ticket);
        self.calls.borrow_mut().remove(&ticket);
        self.room.ring();
    }

    /// Something was taken out of an inbox.
    pub(super) fn taken(&self) {
        self.room.ring();
    }

    /// The session is over: its stream ends, and whoever waits for it hears so.
    pub(super) fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        self.stream.fire();
        let calls: Vec<Rc<Inbox>> = self.calls.borrow_mut().drain().map(|(_, inbox)| inbox).collect();
        calls.iter().for_each(|inbox| inbox.ring());
        self.own.ring();
        self.room.ring();
    }

    /// Sends a message in the background; `inbox` hears what the server says to it. `repeatable`: once more, when a
    /// kept connection turns out to have been closed.
    pub(super) fn post(
        self: &Rc<Self>,
        bridge: &Rc<Bridge>,
        fields: &[(Known, &[u8])],
        (body, repeatable): (&[u8], bool),
        inbox: Rc<Inbox>,
    ) -> Rc<Abort> {
        let abort = Rc::new(Abort::default());
        let now = bridge.timers.now().mono;
        self.touch(now);
        let shown = self.shown.borrow().clone();
        let lane = self.road.lane(&self.endpoint, shown.as_ref());
        let request = Request { method: Method::Post, usual: false, fields, params: &[], body: Some(body), repeatable };
        let Some(request) = bridge.far.compose_again(&lane, &request) else {
            inbox.posted.set(Some(Err(UpstreamFault::NoBuffer)));
            return abort;
        };
        self.posts.set(self.posts.get() + 1);
        let (link, bridge, until, wire) = (self.clone(), bridge.clone(), now.plus_ms(LINE_POST_MS_MAX), abort.clone());
        ring::spawn(async move {
            let lane = link.road.lane(&link.endpoint, shown.as_ref());
            let posted = match bridge.far.exchange(&lane, request, until, &wire).await {
                Ok(answer) => {
                    let status = answer.status();
                    bridge.retire(answer).await;
                    Ok(status)
                }
                Err(fault) => Err(fault),
            };
            link.posts.set(link.posts.get() - 1);
            inbox.posted.set(Some(posted));
            inbox.ring();
        });
        abort
    }

    /// Reads the stream to its end.
    pub(super) async fn listen(
        self: Rc<Self>,
        bridge: Rc<Bridge>,
        mut answer: Answer,
        mut parser: EventParser,
        rest: Vec<u8>,
    ) {
        let mut raw = rest;
        while let Ok(done) = answer.decode(|data| raw.extend_from_slice(data)) {
            if !self.hear(&bridge, &mut parser, &raw) || done {
                break;
            }
            // A session that falls idle holds no buffer.
            raw = Vec::new();
            let _ = parser.push(&raw);
            // A reader that is slow makes the server slow: nothing is received while this waits.
            self.room.until(|| self.closed.get() || self.all_have_room()).await;
            if self.closed.get() || answer.fill_late(&bridge.buffers).await.is_err() {
                break;
            }
        }
        bridge.end(&self);
        answer.abandon();
    }

    fn all_have_room(&self) -> bool {
        self.calls.borrow().values().all(|inbox| inbox.bytes() < STREAM_BUFFERED_BYTES_MAX)
    }

    /// Whether the stream makes sense so far.
    fn hear(self: &Rc<Self>, bridge: &Rc<Bridge>, parser: &mut EventParser, raw: &[u8]) -> bool {
        let mut at = 0;
        while at < raw.len() {
            let Ok(consumed) = parser.push(&raw[at..]) else { return false };
            at += consumed;
            let event = parser.event();
            let named = event.name.is_none_or(|name| name.is_empty() || name == b"message");
            let data = event.data.filter(|data| parser.ready() && named && !data.is_empty());
            if data.is_some_and(|data| !self.sort(bridge, data)) {
                return false;
            }
        }
        true
    }

    fn sort(self: &Rc<Self>, bridge: &Rc<Bridge>, data: &[u8]) -> bool {
        let mut message = Vec::with_capacity(data.len() + 16);
        let place = {
            let (answers, reader) = &mut *bridge.scans.borrow_mut();
            self.line.borrow_mut().hear(data, (answers, reader), self.listened.get(), &mut message)
        };
        match place {
            Err(_) => return false,
            Ok(Where::Last(ticket)) => {
                let inbox = self.calls.borrow_mut().remove(&ticket);
                inbox.iter().for_each(|inbox| inbox.push(Said { message: std::mem::take(&mut message), last: true }));
            }
            Ok(Where::Call(ticket)) => {
                let inbox = self.calls.borrow().get(&ticket).cloned();
                inbox.iter().for_each(|inbox| inbox.push(Said { message: std::mem::take(&mut message), last: false }));
            }
            // Not waited for: while nobody reads it, calls go on.
            Ok(Where::Session) if self.own.bytes() + message.len() <= LINE_WAITING_BYTES_MAX => {
                self.own.push(Said { message, last: false });
            }
            Ok(Where::Back) if self.has_room() => {
                self.post(bridge, &bridge.fields(), (&message, true), Rc::default());
            }
            Ok(Where::Session | Where::Watchers | Where::Ended(_) | Where::Back | Where::Nowhere) => bridge.dropped(),
        }
        true
    }
}
