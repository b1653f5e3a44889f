//! All that the children's thread has: servers, their children, sessions; and when a child is begun, and when it goes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ::ring::rand::{SecureRandom as _, SystemRandom};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use rustix::process::Signal;

use crate::base::limits::{
    STDIO_BLANK_MS_MAX, STDIO_BUFFERS_BYTES_MAX, STDIO_CHILDREN_MAX, STDIO_EXIT_MS_MAX, STDIO_IDLE_MS_MAX,
    STDIO_OWNERS_MAX, STDIO_REST_MS_MAX, STDIO_SERVER_CHILDREN_MAX, STDIO_SESSIONS_MAX, STDIO_SPARE_MS,
    STDIO_STOP_MS_MAX, STDIO_WAIT_MS_MAX,
};
use crate::base::time::Moment;
use crate::jsonrpc::answer::AnswerScan;
use crate::jsonrpc::scan::Reader;
use crate::mcp::revision::Era;
use crate::upstream::UpstreamFault;
use crate::upstream::inbox::Inbox;
use crate::upstream::pair::first_number;
use crate::uring::buffer;
use crate::uring::ring;
use crate::uring::socket::Socket;
use crate::uring::wait::Timers;

use super::child::{Child, Place};
use super::host::{Notes, Opening, Order, Post};
use super::process::{self, Event, Launch};
use super::restart::Restarts;
use super::serve;

/// Whose requests: the digest of an owner, or nothing for the gateway itself.
pub(super) type Owner = Box<[u8]>;

/// All that the children's thread has.
pub(super) struct House {
    post: Arc<Post>,
    pub(super) timers: Timers,
    pub(super) buffers: buffer::Pool,
    pub(super) scans: RefCell<(AnswerScan, Reader)>,
    servers: RefCell<HashMap<u64, Rc<Server>, RandomState>>,
    children: RefCell<HashMap<u64, Rc<Child>, RandomState>>,
    sessions: RefCell<HashMap<u64, Rc<Session>, RandomState>>,
    next: Cell<u64>,
    /// Answers that wait for their clients, bytes.
    pub(super) waiting: Cell<usize>,
    /// URIs that sessions are subscribed to.
    pub(super) watched: Cell<usize>,
    stopping: Cell<bool>,
}

/// A server that is a program.
pub(super) struct Server {
    pub(super) name: Arc<str>,
    launch: Arc<Launch>,
    pub(super) shared: bool,
    pub(super) notes: Arc<Notes>,
    /// The children that later requests find again, by what they are for.
    places: RefCell<HashMap<Place, Rc<Child>, RandomState>>,
    /// Children that ended before they had answered anything; of a shared one, all ends.
    restarts: RefCell<Restarts>,
    /// Children that ended later, by their owners: what one owner's requests do to its children is no other's affair.
    owners: RefCell<HashMap<Owner, Restarts, RandomState>>,
    /// It was asked for this era, and does not speak it: legacy, modern.
    pub(super) refused: [Cell<bool>; 2],
    /// It has answered in the modern era.
    pub(super) modern: Cell<bool>,
    /// One of its children has answered anything.
    pub(super) answered: Cell<bool>,
    closed: Cell<bool>,
}

/// A session of the legacy era.
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) child: Rc<Child>,
    /// For its own stream.
    pub(super) own: Rc<Inbox>,
    /// Which reader of that stream is the newest, from 1.
    pub(super) reader: Cell<u64>,
    /// There is one.
    pub(super) listened: Cell<bool>,
    /// Its client ended it, or its child did.
    pub(super) ended: Cell<bool>,
    /// What it is subscribed to, where the child is shared.
    pub(super) watches: RefCell<Vec<Box<[u8]>>>,
}

impl House {
    pub(super) fn new(post: Arc<Post>) -> Rc<Self> {
        let timers = Timers::new();
        let mut seed = [0; 8];
        // Without randomness it is guessable, which costs a child's choice of colliding names, nothing more.
        let _ = SystemRandom::new().fill(&mut seed);
        let seed = u64::from_ne_bytes(seed);
        Rc::new(Self {
            post,
            buffers: buffer::Pool::new(STDIO_BUFFERS_BYTES_MAX),
            scans: RefCell::new((AnswerScan::new(seed), Reader::new(seed))),
            servers: RefCell::default(),
            children: RefCell::default(),
            sessions: RefCell::default(),
            next: Cell::new(first_number(seed, timers.last().unix_ms)),
            waiting: Cell::new(0),
            watched: Cell::new(0),
            stopping: Cell::new(false),
            timers,
        })
    }

    /// Whether nothing runs any more.
    pub(super) fn is_empty(&self) -> bool {
        self.children.borrow().is_empty()
    }

    pub(super) fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Open(number, opening) => {
                self.servers.borrow_mut().insert(number, Rc::new(Server::new(opening)));
            }
            Order::Dial(number, far) => {
                let server = self.servers.borrow().get(&number).cloned();
                // Where there is no such server any more, or no descriptor, the connection just ends.
                if let (Some(server), Ok(far)) = (server, Socket::of_pair(far)) {
                    ring::spawn(serve::connection(self.clone(), server, far));
                }
            }
            Order::Close(number) => {
                let server = self.servers.borrow_mut().remove(&number);
                if let Some(server) = server {
                    server.closed.set(true);
                    self.dismiss_all(|child| Rc::ptr_eq(&child.server, &server));
                }
            }
            Order::Child(number, event) => {
                let child = self.children.borrow().get(&number).cloned();
                if let Some(child) = child {
                    self.heard_of(&child, event);
                }
            }
            Order::Stop => {
                self.stopping.set(true);
                self.dismiss_all(|_| true);
            }
        }
    }

    /// Looks after what nobody uses any more.
    pub(super) async fn keep(self: Rc<Self>) {
        loop {
            self.timers.sleep_until(self.timers.now().mono.plus_ms(KEEP_MS)).await;
            let now = self.timers.now().mono;
            self.dismiss_all(|child| match child.place() {
                Place::Owner(_) => child.is_idle(now.less_ms(STDIO_IDLE_MS_MAX)),
                Place::Blank => child.is_idle(now.less_ms(STDIO_BLANK_MS_MAX)),
                Place::Shared(_) | Place::Session(_) => false,
            });
            for server in self.servers.borrow().values() {
                server.owners.borrow_mut().retain(|_, restarts| !restarts.is_over(now));
            }
            self.buffers.trim();
        }
    }

    /// The child for requests of this kind: the one that is there, or else a new one, as soon as that may be.
    ///
    /// # Errors
    /// `Unreachable` where it may not be soon, `NoBuffer` where there are too many.
    pub(super) async fn child(
        self: &Rc<Self>,
        server: &Rc<Server>,
        place: Place,
        owner: &Owner,
    ) -> Result<Rc<Child>, UpstreamFault> {
        let until = self.timers.now().mono.plus_ms(STDIO_WAIT_MS_MAX);
        loop {
            let known = server.places.borrow().get(&place).cloned();
            if let Some(child) = known.filter(|child| !child.is_closed()) {
                child.touch(self.timers.last().mono);
                return Ok(child);
            }
            let now = self.timers.now().mono;
            let next = server.next_start(owner);
            if self.stopping.get() || server.closed.get() || next > until {
                return Err(UpstreamFault::Unreachable);
            }
            if next <= now {
                break;
            }
            self.timers.sleep_until(next).await;
        }
        // One that was only asked for its era, by the gateway, has done nothing yet for anybody.
        let blank = match place.era() {
            Era::Legacy if owner.is_empty() => server.places.borrow_mut().remove(&Place::Blank),
            Era::Legacy | Era::Modern => None,
        };
        let blank = blank.filter(|child| !child.is_closed());
        let child = match blank {
            Some(child) => child,
            None => self.begin(server, place.clone(), owner)?,
        };
        child.settle(place.clone());
        child.touch(self.timers.last().mono);
        server.places.borrow_mut().insert(place, child.clone());
        Ok(child)
    }

    fn begin(self: &Rc<Self>, server: &Rc<Server>, place: Place, owner: &Owner) -> Result<Rc<Child>, UpstreamFault> {
        self.make_room(server)?;
        let no_room = |_| UpstreamFault::NoBuffer;
        let (stdin, stdin_far) = Socket::half().map_err(no_room)?;
        let (stdout, stdout_far) = Socket::half().map_err(no_room)?;
        let number = self.number();
        let child = Child::new(number, server, place, owner.clone(), (stdin, stdout), self.timers.now().mono);
        let post = self.post.clone();
        let tell = move |event| post.send(Order::Child(number, event));
        process::begin(server.launch.clone(), server.name.clone(), (stdin_far, stdout_far), tell).map_err(no_room)?;
        self.children.borrow_mut().insert(number, child.clone());
        ring::spawn(child.clone().write(self.clone()));
        ring::spawn(child.clone().read(self.clone()));
        Ok(child)
    }

    /// Sees that there may be one more child; that which was out of use for longest goes for it, where that is long
    /// enough.
    fn make_room(self: &Rc<Self>, server: &Rc<Server>) -> Result<(), UpstreamFault> {
        let then = self.timers.last().mono.less_ms(STDIO_SPARE_MS);
        let of_server = |child: &Child| Rc::ptr_eq(&child.server, server);
        let mut crowd = Crowd::default();
        for child in self.children.borrow().values() {
            crowd.count(child.is_closed(), of_server(child));
        }
        match crowd.room() {
            Room::Free => return Ok(()),
            Room::None => return Err(UpstreamFault::NoBuffer),
            Room::Taken => {}
        }
        let oldest = {
            let children = self.children.borrow();
            let idle = children.values().filter(|child| !child.is_closed() && child.is_idle(then));
            let idle = idle.filter(|child| crowd.own < STDIO_SERVER_CHILDREN_MAX || of_server(child));
            idle.filter(|child| !self.is_listened(child)).min_by_key(|child| child.used()).cloned()
        };
        let oldest = oldest.ok_or(UpstreamFault::NoBuffer)?;
        self.dismiss(&oldest);
        Ok(())
    }

    fn heard_of(self: &Rc<Self>, child: &Rc<Child>, event: Event) {
        let text = match event {
            Event::Begun(grip) => return child.began(grip),
            Event::Failed(text) => {
                child.never_began();
                text
            }
            Event::Ended(text) => text,
        };
        self.children.borrow_mut().remove(&child.number);
        self.lost(child);
        if child.is_lost() {
            let now = self.timers.now().mono;
            let wait = child.server.next_start(&child.owner).since(now);
            let asked = if child.is_probing() { ", asked for its era" } else { "" };
            tracing::warn!("server {}: its program {text}{asked}", child.server.name);
            child.server.notes.say(text, Instant::now() + wait);
        } else if let Some(pid) = child.pid() {
            tracing::info!("server {}: process {pid} {text}", child.server.name);
        }
        child.ended();
        // What it left is read to its end; where somebody else holds that open, for a while only.
        let (timers, child) = (self.timers.clone(), child.clone());
        ring::spawn(async move {
            timers.sleep_until(timers.now().mono.plus_ms(STDIO_REST_MS_MAX)).await;
            child.hang_up();
        });
    }

    /// A child that nobody wanted to end has ended, or will not go on.
    pub(super) fn lost(self: &Rc<Self>, child: &Rc<Child>) {
        if child.is_dismissed() || child.lose() {
            return;
        }
        child.server.vacate(child);
        let now = self.timers.now().mono;
        let server = &child.server;
        // What one owner's first message does to a child is no other's affair either, where others are served well.
        let late = child.has_answered() || (server.answered.get() && !child.owner.is_empty());
        let late = late && !server.shared;
        if late {
            let mut owners = server.owners.borrow_mut();
            if owners.len() < STDIO_OWNERS_MAX || owners.contains_key(&child.owner) {
                owners.entry(child.owner.clone()).or_default().ended(now);
                return;
            }
        }
        if child.is_probing() && !server.modern.get() {
            // It does not take being asked for its era: then that is the legacy one.
            server.refused[Era::Modern as usize].set(true);
        } else if !late {
            // It may be another program by the next time.
            server.refused.iter().for_each(|refused| refused.set(false));
        }
        server.restarts.borrow_mut().ended(now);
    }

    /// Nothing more comes of this child: whoever waits for it hears so, and nobody finds it any more.
    pub(super) fn close(&self, child: &Rc<Child>) {
        child.server.vacate(child);
        if !child.close() {
            return;
        }
        child.sessions().iter().for_each(|session| self.forget(session));
    }

    fn dismiss_all(self: &Rc<Self>, which: impl Fn(&Child) -> bool) {
        let found: Vec<Rc<Child>> = {
            let children = self.children.borrow();
            children.values().filter(|child| !child.is_dismissed() && which(child)).cloned().collect()
        };
        found.iter().for_each(|child| self.dismiss(child));
    }

    /// A child has refused the gateway's own handshake of the legacy era. Where it was asked for the modern one before, and says only
    /// now that it speaks that, this means nothing; else its program speaks the modern one only.
    pub(super) fn not_legacy(self: &Rc<Self>, child: &Rc<Child>) {
        let server = &child.server;
        if !child.modern.get() {
            server.refused[Era::Legacy as usize].set(server.modern.get());
            server.refused[Era::Modern as usize].set(false);
            self.dismiss(child);
        }
    }

    /// Ends a child: its input is closed, then it is told to, then it is killed (MCP basic/lifecycle, "Shutdown").
    pub(super) fn dismiss(self: &Rc<Self>, child: &Rc<Child>) {
        if child.dismiss() {
            return;
        }
        self.close(child);
        let (house, child) = (self.clone(), child.clone());
        ring::spawn(async move {
            for signal in [Signal::TERM, Signal::KILL] {
                let patience = if house.stopping.get() { STDIO_STOP_MS_MAX } else { STDIO_EXIT_MS_MAX };
                house.timers.sleep_until(house.timers.now().mono.plus_ms(patience)).await;
                // It may have begun only now.
                while house.children.borrow().contains_key(&child.number) && !child.signal(signal) {
                    house.timers.sleep_until(house.timers.now().mono.plus_ms(patience)).await;
                }
            }
        });
    }

    /// A new session, with this child; `None` when there are too many.
    pub(super) fn open(&self, child: &Rc<Child>) -> Option<Rc<Session>> {
        if self.sessions.borrow().len() >= STDIO_SESSIONS_MAX || child.is_closed() {
            return None;
        }
        let session = Rc::new(Session {
            number: self.number(),
            child: child.clone(),
            own: Rc::default(),
            reader: Cell::new(0),
            listened: Cell::new(false),
            ended: Cell::new(false),
            watches: RefCell::default(),
        });
        self.sessions.borrow_mut().insert(session.number, session.clone());
        child.opened(&session);
        Some(session)
    }

    /// The session of this id, at this server.
    pub(super) fn session(&self, server: &Rc<Server>, id: &[u8]) -> Option<Rc<Session>> {
        let number: u64 = std::str::from_utf8(id).ok()?.parse().ok()?;
        let sessions = self.sessions.borrow();
        let known = sessions.get(&number).filter(|session| Rc::ptr_eq(&session.child.server, server));
        known.filter(|session| !session.child.is_closed()).cloned()
    }

    /// A session's client ends it; a child that was its own goes with it.
    pub(super) fn end(self: &Rc<Self>, session: &Rc<Session>) {
        self.forget(session);
        if !session.child.server.shared {
            self.dismiss(&session.child);
        }
    }

    fn is_listened(&self, child: &Rc<Child>) -> bool {
        child.sessions().iter().any(|session| session.listened.get())
    }

    fn forget(&self, session: &Session) {
        self.sessions.borrow_mut().remove(&session.number);
        session.child.closed_session(session.number);
        session.ended.set(true);
        self.watched.set(self.watched.get() - session.watches.borrow_mut().drain(..).count());
        session.own.ring();
    }

    /// What a server said for nobody, or what is no message.
    pub(super) fn dropped(&self, server: &Server) {
        server.notes.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        number
    }
}

impl Server {
    fn new(opening: Opening) -> Self {
        let Opening { name, launch, shared, notes } = opening;
        Self {
            name,
            launch,
            shared,
            notes,
            places: RefCell::default(),
            restarts: RefCell::default(),
            owners: RefCell::default(),
            refused: [Cell::new(false), Cell::new(false)],
            modern: Cell::new(false),
            answered: Cell::new(false),
            closed: Cell::new(false),
        }
    }

    /// From when on a child may be begun for this owner.
    fn next_start(&self, owner: &Owner) -> Moment {
        let own = self.owners.borrow().get(owner).map_or(Moment(0), Restarts::next);
        self.restarts.borrow().next().max(own)
    }

    /// This child has answered in the modern era, and so has its connection: later requests of that era find it there.
    pub(super) fn found_modern(&self, child: &Rc<Child>, place: Place) {
        child.probing.set(false);
        child.modern.set(true);
        self.modern.set(true);
        self.refused.iter().for_each(|refused| refused.set(false));
        let vacant = !self.places.borrow().contains_key(&place);
        if vacant && !child.is_closed() {
            self.vacate(child);
            child.settle(place.clone());
            self.places.borrow_mut().insert(place, child.clone());
        }
    }

    /// Later requests do not find this child any more.
    fn vacate(&self, child: &Rc<Child>) {
        let mut places = self.places.borrow_mut();
        if places.get(&child.place()).is_some_and(|known| Rc::ptr_eq(known, child)) {
            places.remove(&child.place());
        }
    }

    /// A child that the gateway asked for its era has refused: it waits for its first use, unless another does.
    pub(super) fn keep_blank(&self, child: &Rc<Child>) -> bool {
        let mut places = self.places.borrow_mut();
        places.remove(&child.place());
        if places.contains_key(&Place::Blank) {
            return false;
        }
        child.settle(Place::Blank);
        places.insert(Place::Blank, child.clone());
        true
    }
}

/// How many children there are: those that can be used, and those that are ending and are not reaped yet.
#[derive(Debug, Default)]
struct Crowd {
    all: usize,
    /// Of the server that wants one more.
    own: usize,
    ending: usize,
    own_ending: usize,
}

/// Whether there may be one more child.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Free,
    /// Where another goes for it.
    Taken,
    /// Not before some have ended that are about to.
    None,
}

impl Crowd {
    fn count(&mut self, ends: bool, own: bool) {
        let (all, mine) = if ends { (&mut self.ending, &mut self.own_ending) } else { (&mut self.all, &mut self.own) };
        *all += 1;
        *mine += usize::from(own);
    }

    /// A child takes its time to end, and is a process until then: begun and dismissed in turn, they would be without
    /// bound.
    fn room(&self) -> Room {
        let processes = self.all + self.ending;
        if self.own_ending >= STDIO_SERVER_CHILDREN_MAX || processes >= STDIO_CHILDREN_MAX + STDIO_SERVER_CHILDREN_MAX {
            Room::None
        } else if self.own < STDIO_SERVER_CHILDREN_MAX && self.all < STDIO_CHILDREN_MAX {
            Room::Free
        } else {
            Room::Taken
        }
    }
}

/// How often that which nobody uses is looked for, milliseconds.
const KEEP_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(own: usize, own_ending: usize, other: usize, other_ending: usize) -> Crowd {
        let mut crowd = Crowd::default();
        for (count, ends, own) in
            [(own, false, true), (own_ending, true, true), (other, false, false), (other_ending, true, false)]
        {
            (0..count).for_each(|_| crowd.count(ends, own));
        }
        crowd
    }

    #[test]
    fn children_that_are_ending_count_too() {
        let (server, all) = (STDIO_SERVER_CHILDREN_MAX, STDIO_CHILDREN_MAX);
        assert_eq!(crowd(0, 0, 0, 0).room(), Room::Free);
        assert_eq!(crowd(server - 1, server - 1, 0, 0).room(), Room::Free);
        assert_eq!(crowd(server, 0, 0, 0).room(), Room::Taken);
        assert_eq!(crowd(0, 0, all, 0).room(), Room::Taken);
        assert_eq!(crowd(0, server, 0, 0).room(), Room::None);
        assert_eq!(crowd(0, 0, 0, server).room(), Room::Free, "another server's");
        assert_eq!(crowd(0, 0, 0, all + server).room(), Room::None);
        assert_eq!(crowd(1, 0, all - 1, server).room(), Room::None);
    }
}
