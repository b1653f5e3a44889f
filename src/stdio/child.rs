//! One child: what is written to it and what it writes, one message a line, and who waits for what.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use rustix::process::Signal;
use serde_json::Value;

use crate::base::limits::{
    BUFFER_BYTES, LINE_WAITING_BYTES_MAX, SEND_PIECE_BYTES, STDIO_CALLS_MAX, STDIO_LINE_BYTES_MAX,
    STDIO_QUEUED_BYTES_MAX, STDIO_REST_MS_MAX, STDIO_WAITING_BYTES_MAX, STDIO_WRITE_MS_MAX, STREAM_BUFFERED_BYTES_MAX,
};
use crate::base::time::Moment;
use crate::jsonrpc::scan::Envelope;
use crate::mcp::revision::Era;
use crate::session::line::{Goes, Line, LineFault, Manner, Ticket, Where};
use crate::upstream::UpstreamFault;
use crate::upstream::inbox::{Inbox, Nudge, Said};
use crate::uring::socket::Socket;

use super::house::{House, Owner, Server, Session};
use super::process::Grip;
use super::split::Splitter;

/// What a child is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// For everybody, in one era: a connection has the era that its first request has.
    Shared(Era),
    /// For one owner in the modern era.
    Owner(Owner),
    /// For one session of the legacy era.
    Session(u64),
    /// It was asked for its era, refused, and has done nothing yet.
    Blank,
}

impl Place {
    pub(super) fn era(&self) -> Era {
        match self {
            Self::Shared(era) => *era,
            Self::Owner(_) | Self::Blank => Era::Modern,
            Self::Session(_) => Era::Legacy,
        }
    }
}

/// A child.
pub(super) struct Child {
    pub(super) number: u64,
    pub(super) server: Rc<Server>,
    /// Who had it begun.
    pub(super) owner: Owner,
    place: RefCell<Place>,
    pub(super) line: RefCell<Line>,
    calls: RefCell<HashMap<Ticket, Rc<Inbox>, RandomState>>,
    stdin: Socket,
    stdout: Socket,
    /// Lines on their way to it.
    queue: RefCell<VecDeque<Vec<u8>>>,
    queued: Cell<usize>,
    /// Rung when there is one.
    pen: Nudge,
    /// Rung when there is room again for what it says.
    room: Nudge,
    /// Rung when it has ended.
    end: Nudge,
    grip: RefCell<Option<Arc<Grip>>>,
    /// Where it was asked for its era, and has not answered yet.
    pub(super) probing: Cell<bool>,
    /// It has answered in the modern era.
    pub(super) modern: Cell<bool>,
    answered: Cell<bool>,
    never_began: Cell<bool>,
    /// It ended, or stopped to make sense, by itself.
    lost: Cell<bool>,
    /// It is to end.
    dismissed: Cell<bool>,
    ended: Cell<bool>,
    closed: Cell<bool>,
    used: Cell<Moment>,
    /// How it answered the one handshake, where it is shared.
    welcome: RefCell<Option<Rc<Value>>>,
    /// It has not.
    unwelcome: Cell<bool>,
    pub(super) greeting: Cell<bool>,
    crowd: RefCell<Vec<Waker>>,
    sessions: RefCell<HashMap<u64, Weak<Session>, RandomState>>,
}

impl Child {
    pub(super) fn new(
        number: u64,
        server: &Rc<Server>,
        place: Place,
        owner: Owner,
        (stdin, stdout): (Socket, Socket),
        now: Moment,
    ) -> Rc<Self> {
        let line = if server.shared { Line::shared(STDIO_CALLS_MAX) } else { Line::default() };
        Rc::new(Self {
            number,
            server: server.clone(),
            owner,
            place: RefCell::new(place),
            line: RefCell::new(line),
            calls: RefCell::default(),
            stdin,
            stdout,
            queue: RefCell::default(),
            queued: Cell::new(0),
            pen: Nudge::default(),
            room: Nudge::default(),
            end: Nudge::default(),
            grip: RefCell::default(),
            probing: Cell::new(false),
            modern: Cell::new(false),
            answered: Cell::new(false),
            never_began: Cell::new(false),
            lost: Cell::new(false),
            dismissed: Cell::new(false),
            ended: Cell::new(false),
            closed: Cell::new(false),
            used: Cell::new(now),
            welcome: RefCell::default(),
            unwelcome: Cell::new(false),
            greeting: Cell::new(false),
            crowd: RefCell::default(),
            sessions: RefCell::default(),
        })
    }

    pub(super) fn place(&self) -> Place {
        self.place.borrow().clone()
    }

    pub(super) fn settle(&self, place: Place) {
        *self.place.borrow_mut() = place;
    }

    pub(super) fn began(&self, grip: Arc<Grip>) {
        *self.grip.borrow_mut() = Some(grip);
    }

    pub(super) fn never_began(&self) {
        self.never_began.set(true);
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.grip.borrow().as_ref().map(|grip| grip.pid())
    }

    /// Signals it and its group; whether it has begun.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        let grip = self.grip.borrow().clone();
        grip.iter().for_each(|grip| grip.signal(signal));
        grip.is_some()
    }

    /// Whether nothing can be sent to it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get() || self.lost.get() || self.dismissed.get()
    }

    pub(super) fn is_probing(&self) -> bool {
        self.probing.get()
    }

    pub(super) fn has_answered(&self) -> bool {
        self.answered.get()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// It is lost; whether it was before.
    pub(super) fn lose(&self) -> bool {
        self.lost.replace(true)
    }

    pub(super) fn is_dismissed(&self) -> bool {
        self.dismissed.get()
    }

    /// Nothing more is sent to it, which it sees; whether that was so before.
    pub(super) fn dismiss(&self) -> bool {
        let before = self.dismissed.replace(true);
        self.stdin.shutdown();
        self.pen.ring();
        before
    }

    /// Whether nobody has used it since `then`.
    pub(super) fn is_idle(&self, then: Moment) -> bool {
        self.used.get() <= then && self.calls.borrow().is_empty()
    }

    pub(super) fn used(&self) -> Moment {
        self.used.get()
    }

    pub(super) fn touch(&self, now: Moment) {
        self.used.set(now);
    }

    /// It has ended, and is reaped.
    pub(super) fn ended(&self) {
        self.ended.set(true);
        self.end.ring();
    }

    /// What it may still have written is not read any more.
    pub(super) fn hang_up(&self) {
        self.stdout.shutdown();
    }

    /// Whoever waits for it hears that nothing more comes; whether that is news.
    pub(super) fn close(&self) -> bool {
        if self.closed.replace(true) {
            return false;
        }
        let fault = if self.never_began.get() { UpstreamFault::Unreachable } else { UpstreamFault::Cut };
        let calls: Vec<Rc<Inbox>> = self.calls.borrow_mut().drain().map(|(_, inbox)| inbox).collect();
        calls.iter().for_each(|inbox| inbox.fail(fault));
        self.queue.borrow_mut().clear();
        self.wake_crowd();
        self.pen.ring();
        self.room.ring();
        true
    }

    /// Takes a message on its way: writes it down, and registers who waits for its answer.
    ///
    /// # Errors
    /// [`LineFault::Full`], also where too much is on its way already; nothing is sent then.
    pub(super) fn send(
        &self,
        message: &[u8],
        envelope: &Envelope,
        manner: Manner,
        inbox: &Rc<Inbox>,
    ) -> Result<Goes, LineFault> {
        if self.queued.get() + message.len() > STDIO_QUEUED_BYTES_MAX {
            return Err(LineFault::Full);
        }
        let mut line = Vec::with_capacity(message.len() + 32);
        let goes = self.line.borrow_mut().send(message, envelope, manner, &mut line)?;
        if let Goes::Asking(ticket) = goes {
            self.calls.borrow_mut().insert(ticket, inbox.clone());
        }
        if goes != Goes::Late {
            self.post(line);
        }
        Ok(goes)
    }

    /// Sends a message. Newlines, which JSON has between its tokens only, become blanks.
    pub(super) fn post(&self, mut line: Vec<u8>) {
        if self.is_closed() {
            return;
        }
        line.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        line.push(b'\n');
        self.queued.set(self.queued.get() + line.len());
        self.queue.borrow_mut().push_back(line);
        self.pen.ring();
    }

    /// Nobody waits for this call any more; whether it was still under way.
    pub(super) fn leave(&self, ticket: Ticket) -> bool {
        let under_way = self.line.borrow_mut().leave(ticket);
        self.calls.borrow_mut().remove(&ticket);
        self.room.ring();
        under_way && !self.is_closed()
    }

    /// Something was taken out of an inbox.
    pub(super) fn taken(&self) {
        self.room.ring();
    }

    pub(super) fn opened(&self, session: &Rc<Session>) {
        self.sessions.borrow_mut().insert(session.number, Rc::downgrade(session));
    }

    pub(super) fn closed_session(&self, number: u64) {
        self.sessions.borrow_mut().remove(&number);
    }

    /// The sessions that it serves: one, where it is not shared.
    pub(super) fn sessions(&self) -> Vec<Rc<Session>> {
        self.sessions.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// How it answered the handshake, once it has; `None` when it will not.
    pub(super) async fn welcome(&self) -> Option<Rc<Value>> {
        poll_fn(|cx| {
            let welcome = self.welcome.borrow().clone();
            if welcome.is_some() || self.unwelcome.get() || self.is_closed() {
                return Poll::Ready(welcome);
            }
            let mut crowd = self.crowd.borrow_mut();
            if !crowd.iter().any(|waker| waker.will_wake(cx.waker())) {
                crowd.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    pub(super) fn welcomed(&self, welcome: Value) {
        *self.welcome.borrow_mut() = Some(Rc::new(welcome));
        self.wake_crowd();
    }

    /// It refused the handshake.
    pub(super) fn unwelcome(&self) {
        self.unwelcome.set(true);
        self.wake_crowd();
    }

    fn wake_crowd(&self) {
        let crowd = self.crowd.take();
        crowd.into_iter().for_each(Waker::wake);
    }

    /// Writes what is queued, for as long as it is read.
    pub(super) async fn write(self: Rc<Self>, house: Rc<House>) {
        loop {
            self.pen.until(|| self.is_closed() || !self.queue.borrow().is_empty()).await;
            if self.is_closed() {
                return;
            }
            let piece = self.next_piece();
            let Some(mut buffer) = house.buffers.get(piece.len()).filter(|buffer| buffer.spare() >= piece.len()) else {
                tracing::warn!("server {}: no memory is free for what its program is sent", self.server.name);
                house.dismiss(&self);
                return;
            };
            let _ = buffer.extend_from_slice(&piece);
            drop(piece);
            let until = house.timers.now().mono.plus_ms(STDIO_WRITE_MS_MAX);
            let guard = house.timers.deadline(&self.stdin, until);
            let sent = self.stdin.send(buffer).await.0;
            let late = guard.disarm();
            if self.is_dismissed() {
                return;
            }
            if late {
                tracing::warn!("server {}: its program does not read what it is sent", self.server.name);
            }
            if late || sent.is_err() {
                house.lost(&self);
                house.dismiss(&self);
                return;
            }
        }
    }

    /// Some lines, to be written in one piece.
    fn next_piece(&self) -> Vec<u8> {
        let mut queue = self.queue.borrow_mut();
        let mut piece = queue.pop_front().unwrap_or_default();
        while queue.front().is_some_and(|next| piece.len() + next.len() <= SEND_PIECE_BYTES) {
            piece.append(&mut queue.pop_front().unwrap_or_default());
        }
        self.queued.set(self.queued.get() - piece.len());
        piece
    }

    /// Reads what it writes, to the end.
    pub(super) async fn read(self: Rc<Self>, house: Rc<House>) {
        let mut splitter = Splitter::new(STDIO_LINE_BYTES_MAX);
        loop {
            // One that nobody shares may be made to wait by a reader who is slow.
            self.room.until(|| self.server.shared || self.is_closed() || self.all_have_room()).await;
            // Silent, it holds no buffer.
            if self.stdout.readable().await.is_err() {
                break;
            }
            let Some(buffer) = house.buffers.get(BUFFER_BYTES) else {
                house.timers.sleep_until(house.timers.now().mono.plus_ms(SHORT_MS)).await;
                continue;
            };
            let (read, buffer) = self.stdout.recv(buffer).await;
            if !matches!(read, Ok(got) if got > 0) {
                break;
            }
            let before = splitter.too_long();
            splitter.push(&buffer, |line| self.hear(&house, line));
            for _ in before..splitter.too_long() {
                self.odd(&house, "too long");
            }
        }
        house.lost(&self);
        // Why it ended is known in a moment, and whoever waits for it may want to say so.
        let patience = house.timers.sleep_until(house.timers.now().mono.plus_ms(STDIO_REST_MS_MAX));
        let mut patience = std::pin::pin!(patience);
        let end = self.end.until(|| self.ended.get() || self.is_dismissed());
        let mut end = std::pin::pin!(end);
        poll_fn(|cx| {
            let over = end.as_mut().poll(cx).is_ready() || patience.as_mut().poll(cx).is_ready();
            if over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        house.close(&self);
        if !self.ended.get() {
            house.dismiss(&self);
        }
    }

    fn all_have_room(&self) -> bool {
        self.calls.borrow().values().all(|inbox| inbox.bytes() < STREAM_BUFFERED_BYTES_MAX)
    }

    fn hear(self: &Rc<Self>, house: &House, line: &[u8]) {
        if self.closed.get() || self.dismissed.get() {
            return;
        }
        let mut message = Vec::with_capacity(line.len() + 32);
        let place = {
            let (answers, reader) = &mut *house.scans.borrow_mut();
            let listened = !self.server.shared && self.sessions().iter().any(|one| one.listened.get());
            self.line.borrow_mut().hear(line, (answers, reader), listened, &mut message)
        };
        match place {
            Err(_) => self.odd(house, "no JSON-RPC message"),
            Ok(Where::Last(ticket)) => {
                let inbox = self.calls.borrow_mut().remove(&ticket);
                if !self.answered.replace(true) {
                    self.server.notes.well();
                }
                inbox.iter().for_each(|inbox| bring(house, inbox, std::mem::take(&mut message), true));
            }
            Ok(Where::Ended(ticket)) => {
                let inbox = self.calls.borrow_mut().remove(&ticket);
                inbox.iter().for_each(|inbox| inbox.fail(UpstreamFault::Cut));
            }
            Ok(Where::Call(ticket)) => {
                let inbox = self.calls.borrow().get(&ticket).cloned();
                // Of one that is shared, who is slow misses what is no answer, and holds nobody up.
                match inbox.filter(|inbox| !self.server.shared || inbox.bytes() < STREAM_BUFFERED_BYTES_MAX) {
                    Some(inbox) => bring(house, &inbox, message, false),
                    None => house.dropped(&self.server),
                }
            }
            Ok(Where::Session) => self.announce(house, &message),
            Ok(Where::Watchers) => self.tell_watchers(house, &message),
            // One that asks and does not read gets no answers either.
            Ok(Where::Back) if self.queued.get() + message.len() > STDIO_QUEUED_BYTES_MAX => {
                house.dropped(&self.server)
            }
            Ok(Where::Back) => self.post(message),
            Ok(Where::Nowhere) => house.dropped(&self.server),
        }
    }

    /// For the own streams of its sessions, of which there is one where it is not shared.
    fn announce(self: &Rc<Self>, house: &House, message: &[u8]) {
        let mut sessions = self.sessions();
        // Before its one session has a stream, what is said for it waits; in a crowd, it is for those who listen.
        sessions.retain(|session| !self.server.shared || session.listened.get());
        if sessions.is_empty() {
            house.dropped(&self.server);
        }
        for session in sessions {
            if session.own.bytes() + message.len() <= LINE_WAITING_BYTES_MAX {
                session.own.push(Said { message: message.to_vec(), last: false });
            } else {
                house.dropped(&self.server);
            }
        }
    }

    fn tell_watchers(self: &Rc<Self>, house: &House, message: &[u8]) {
        let uri = {
            let (_, reader) = &mut *house.scans.borrow_mut();
            let envelope = reader.read(message).ok();
            envelope.and_then(|envelope| super::serve::uri_of(message, envelope))
        };
        let Some(uri) = uri else { return house.dropped(&self.server) };
        for session in self.sessions() {
            let watches = session.watches.borrow().iter().any(|watched| **watched == *uri);
            if watches && session.own.bytes() + message.len() <= LINE_WAITING_BYTES_MAX {
                session.own.push(Said { message: message.to_vec(), last: false });
            }
        }
    }

    /// A line that is no message of MCP's: its server writes there what belongs on its standard error.
    fn odd(&self, house: &House, what: &str) {
        let notes = &self.server.notes;
        if notes.dropped.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            let pid = self.pid().unwrap_or_default();
            tracing::warn!(
                "server {}: process {pid} wrote a line that is {what}; such lines are dropped",
                self.server.name
            );
        }
        house.dropped(&self.server);
    }
}

/// Puts a message where it is waited for. What waits, of all children, has a bound; an answer that finds no room is as
/// good as lost.
fn bring(house: &House, inbox: &Inbox, message: Vec<u8>, last: bool) {
    let waiting = house.waiting.get() + message.len();
    if waiting <= STDIO_WAITING_BYTES_MAX {
        house.waiting.set(waiting);
        inbox.push(Said { message, last });
    } else if last {
        inbox.fail(UpstreamFault::Cut);
    }
}

/// Until there may be a buffer again, milliseconds.
const SHORT_MS: u64 = 10;
