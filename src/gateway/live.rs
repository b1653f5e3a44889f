//! Streams that outlive their connections: what is kept of them between a server and its client.

mod feeder;
mod listener;
mod tend;
mod visible;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::base::ids::{EndpointId, ServerId, ShardId};
use crate::base::limits::{
    FEEDS_ALONE_MAX, FEEDS_BYTES_MAX, HOUSEKEEPING_MS, LIVENESS_LOOK_MS, STREAM_BUFFERED_BYTES_MAX,
    STREAM_KEPT_BYTES_MAX, STREAM_KEPT_EVENTS_MAX, STREAM_RETRY_MS_MAX, STREAM_WAITING_EVENTS_MAX, TELLING_MS_MAX,
};
use crate::base::time::{Moment, Now};
use crate::config::snapshot::Snapshot;
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::identity::revoked::Revocations;
use crate::mcp::method::Verb;
use crate::mcp::revision::Era;
use crate::policy::decide;
use crate::session::outlet::{Bounds, EventId, Outlet, TapKey};
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::Abort;
use crate::uring::ring;
use crate::uring::socket::Socket;

use super::events::{self, Eyes, Why};
use super::flight::{Flight, IdBytes, NEVER, Renamed, Taken, Whose, faulted, reasoned};
use super::gate;
use super::meter::Figures;
use super::modern::Opted;
use super::refusal::{Kind, Refusal};
use super::route;
use super::sessions::{self, Live};
use super::shard::{Held, Shard};
use super::tally::Count;

pub(super) use feeder::Source;
use feeder::{go_on, keep_fed};
pub(super) use listener::Listening;
use listener::keep_heard;
pub(super) use tend::Told;

/// Whose rights count.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) caller: Rc<Caller>,
    pub(super) task: ActiveTask,
    /// The caller is known under snapshots of this epoch.
    pub(super) epoch: u64,
    /// The epoch of keys in which its token's key was last seen among them.
    keys: Cell<u64>,
}

impl Who {
    pub(super) fn of(flight: &Flight) -> Self {
        let (epoch, keys) = (flight.snapshot.auth_epoch, flight.snapshot.keys_epoch);
        Self { caller: flight.caller.clone(), task: flight.task, epoch, keys: Cell::new(keys) }
    }

    /// Who it is under these settings, as far as that can be told without its token: `None` where it cannot, or where
    /// it may not use the endpoint with this digest any more.
    pub(super) fn carried(self: &Rc<Self>, snapshot: &Held, endpoint: u64) -> Option<Rc<Self>> {
        if self.epoch == snapshot.auth_epoch {
            return Some(self.clone());
        }
        let endpoint = snapshot.endpoint_by_digest(endpoint)?;
        let caller = snapshot.succession.caller(self.epoch, &self.caller)?;
        let caller = Some(caller).filter(|caller| caller.endpoints.contains(endpoint))?;
        let task = snapshot.succession.task(self.task, &caller)?;
        let keys = self.keys.clone();
        Some(Rc::new(Self { caller: Rc::new(caller), task, epoch: snapshot.auth_epoch, keys }))
    }

    /// Whether the key that its token was verified with, and what its issuer said of it, still hold.
    pub(super) fn stands(&self, snapshot: &Held, now: Moment) -> bool {
        let caller = &self.caller;
        if self.keys.get() == snapshot.keys_epoch {
            return caller.liveness.as_ref().is_none_or(|token| token.is_alive(now));
        }
        let stands = snapshot.stands(caller, now);
        if stands {
            self.keys.set(snapshot.keys_epoch);
        }
        stands
    }

    /// When it has to be looked at again, although nothing else has changed: only its issuer can say whether its token
    /// is still good.
    pub(super) fn look_at(&self, now: Moment) -> Moment {
        look_at(&self.caller, now)
    }

    /// Whether it, or its task, is revoked: by an operator, or by its issuer.
    pub(super) fn is_revoked(&self, snapshot: &Held) -> bool {
        if self.caller.liveness.as_ref().is_some_and(|token| token.has_ended()) {
            return true;
        }
        // Under other settings the number of its task means nothing; who it is, still does.
        let task = if self.epoch == snapshot.auth_epoch { self.task } else { ActiveTask::None };
        !snapshot.revocations.is_empty() && gate::revoked(snapshot, &self.caller, task).is_some()
    }

    fn has_rights_of(&self, other: &Self) -> bool {
        let (mine, theirs) = (&self.caller, &other.caller);
        self.task == other.task
            && self.epoch == other.epoch
            && (mine.issuer == theirs.issuer && mine.subject == theirs.subject && mine.agent == theirs.agent)
            && mine.tasks == theirs.tasks
            && (mine.heads == theirs.heads && mine.claims == theirs.claims)
    }
}

/// See [`Who::look_at`].
pub(super) fn look_at(caller: &Caller, now: Moment) -> Moment {
    if caller.liveness.is_some() { now.plus_ms(LIVENESS_LOOK_MS) } else { NEVER }
}

/// A session's own stream, or an answer that comes as events: its log, and everybody who waits for it to change.
pub(super) struct Feed {
    session: Rc<Live>,
    /// Its endpoint, by its digest: ids belong to one snapshot, and a stream outlives that.
    endpoint: u64,
    /// Who feeds it: one server, or of a merged endpoint those that have something to say.
    parts: RefCell<SmallVec<[Rc<Part>; 1]>>,
    /// It is of a merged endpoint's session: it is there whether servers have something to say or not.
    joint: bool,
    /// Other shards may have opened sessions at servers that are not heard here yet.
    behind: Cell<bool>,
    /// The settings' epoch under which what waits was last weighed as a whole.
    weighed: Cell<u64>,
    /// Of a modern client: what it listens to.
    listening: Option<Box<Listening>>,
    /// What its reader knows of the lists.
    told: Told,
    /// Of a client of HTTP+SSE: all that its session says, answers too.
    all: Option<All>,
    /// Of an answer: its request's id.
    asked: Option<IdBytes>,
    /// Of an answer at a merged endpoint: to what, and by which name that was asked for.
    about: Option<Box<(Verb, Option<Renamed>)>>,
    /// What it was asked under: the task, and the snapshot's epoch that the task's number is of.
    task: Cell<(ActiveTask, u64)>,
    pub(super) outlet: RefCell<Outlet>,
    /// Who reads, or did last.
    who: RefCell<Rc<Who>>,
    opening: Cell<Opening>,
    /// Its session is over.
    ended: Cell<bool>,
    /// Its servers are not read, because there is no room.
    paused: Cell<bool>,
    /// Of an answer: the number of its first stream.
    stream: u64,
    /// Tasks that read its servers, or look after that.
    read: Cell<usize>,
    /// It does so for nobody: counted.
    lonely: Cell<bool>,
    /// It is among those that may be.
    queued: Cell<bool>,
    turn: Cell<u64>,
    waiting: RefCell<SmallVec<[Waker; 2]>>,
    /// What of its log is counted.
    held: Cell<usize>,
    /// Of an answer: the connection that asked for it.
    line: RefCell<Option<Socket>>,
}

/// One server's part of a stream.
struct Part {
    /// Its server, by its digest.
    server: u64,
    /// Of what is listened to: its place there.
    place: usize,
    /// Which of the server's sessions its stream is of.
    upstream: Cell<u32>,
    /// At which instance that is, by its digest; 0 before there is one.
    at: Cell<u64>,
    /// Requests of the server that its client does not get: their ids, and why.
    refusals: RefCell<Vec<(Box<[u8]>, Why)>>,
    /// A task reads its server.
    read: Cell<bool>,
    /// Its server is none of the endpoint's any more.
    gone: Cell<bool>,
    /// Ends what its task waits for.
    abort: Abort,
}

impl Part {
    fn new(server: u64, place: usize, upstream: u32) -> Rc<Self> {
        Rc::new(Self {
            server,
            place,
            upstream: Cell::new(upstream),
            at: Cell::new(0),
            refusals: RefCell::default(),
            read: Cell::new(false),
            gone: Cell::new(false),
            abort: Abort::default(),
        })
    }
}

/// What there is to know of a stream that is all of a session (MCP 2024-11-05 basic/transports).
#[derive(Default)]
struct All {
    /// Its handshake is under way.
    shaking: Cell<bool>,
    /// Its server's own stream was asked for.
    listening: Cell<bool>,
    /// Messages under way.
    messages: Cell<usize>,
    /// How many there were.
    numbers: Cell<u64>,
    /// Notifications and answers under way: later messages wait for them.
    telling: RefCell<SmallVec<[u64; 4]>>,
}

/// A client's message on its way over HTTP+SSE.
pub(super) struct Turn<'a> {
    feed: &'a Feed,
    all: &'a All,
    number: u64,
    shakes: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.all.messages.set(self.all.messages.get() - 1);
        self.all.telling.borrow_mut().retain(|number| *number != self.number);
        if self.shakes {
            self.all.shaking.set(false);
        }
        self.feed.changed();
    }
}

impl Turn<'_> {
    /// It begins the session; `false` where another has, or does.
    pub(super) fn shake(&mut self) -> bool {
        self.shakes = !self.feed.session.has_begun() && !self.all.shaking.replace(true);
        self.shakes
    }

    /// Whether it begins the session.
    pub(super) fn is_first(&self) -> bool {
        self.shakes
    }

    /// It is none that is answered: those behind it are to come after it.
    pub(super) fn tells(&self) {
        self.all.telling.borrow_mut().push(self.number);
    }

    /// Waits until what its client told the server before has arrived there, or has had its time.
    pub(super) async fn comes(&self, shard: &Shard) {
        let until = shard.timers.now().mono.plus_ms(TELLING_MS_MAX);
        let waits = || self.all.telling.borrow().iter().any(|number| *number < self.number);
        while waits() && shard.timers.now().mono < until && !self.feed.is_over() {
            changed(shard, self.feed, until).await;
        }
    }
}

/// How far a session's own stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// The server has not answered yet.
    Trying,
    /// It has one.
    Open,
    /// It has none, and said so with this status.
    Refused(u16),
    /// It did not say.
    Failed(UpstreamFault),
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("outlet", &self.outlet).finish_non_exhaustive()
    }
}

impl Feed {
    /// What each server's part holds beside its connection and its task.
    #[cfg(test)]
    pub(super) const PART_BYTES: usize = size_of::<Part>();

    fn new(shard: &Shard, flight: &Flight, session: Rc<Live>, asked: Option<IdBytes>, stream: u64) -> Self {
        let joint = asked.is_none() && is_merged(&flight.snapshot, flight.endpoint);
        let part = (!joint).then(|| Part::new(sessions::digest(flight), 0, flight.epoch));
        let verb = flight.method.map(|method| method.verb).filter(|_| asked.is_some() && flight.is_merged());
        Self {
            session,
            endpoint: flight.snapshot.prepared.endpoints[flight.endpoint.index()].digest,
            parts: RefCell::new(part.into_iter().collect()),
            joint,
            behind: Cell::new(joint),
            weighed: Cell::new(flight.snapshot.settings_epoch),
            listening: None,
            told: Told::default(),
            all: None,
            asked,
            about: verb.map(|verb| Box::new((verb, flight.renamed().cloned()))),
            task: Cell::new((flight.task, flight.snapshot.auth_epoch)),
            outlet: RefCell::new(Outlet::new(shard.id, BOUNDS, shard.timers.last().mono)),
            who: RefCell::new(Rc::new(Who::of(flight))),
            opening: Cell::new(if joint { Opening::Open } else { Opening::Trying }),
            ended: Cell::new(false),
            paused: Cell::new(false),
            stream,
            read: Cell::new(0),
            lonely: Cell::new(false),
            queued: Cell::new(false),
            turn: Cell::new(0),
            waiting: RefCell::default(),
            held: Cell::new(0),
            line: RefCell::default(),
        }
    }

    fn push(&self, message: &[u8]) {
        self.outlet.borrow_mut().push(message);
    }

    /// Counts its changes: whoever waits compares.
    pub(super) fn turn(&self) -> u64 {
        self.turn.get()
    }

    /// Wakes everybody who waits for it.
    pub(super) fn changed(&self) {
        self.turn.set(self.turn.get() + 1);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Wakes this task at the next change.
    pub(super) fn remember(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Whether a caller might have asked for this answer: one whose token has lost the task may not read it either.
    fn is_open_to(&self, flight: &Flight) -> bool {
        match self.task.get() {
            (ActiveTask::One(task), epoch) => {
                epoch == flight.snapshot.auth_epoch && flight.caller.tasks.contains(&task)
            }
            _ => true,
        }
    }

    /// The session whose stream it is.
    pub(super) fn session(&self) -> &Rc<Live> {
        &self.session
    }

    /// Of a stream that is all of a session: a message of its client's begins.
    pub(super) fn turn_of(&self) -> Option<Turn<'_>> {
        let all = self.all.as_ref()?;
        let number = all.numbers.replace(all.numbers.get() + 1);
        all.messages.set(all.messages.get() + 1);
        Some(Turn { feed: self, all, number, shakes: false })
    }

    /// Whether it is all of a session: what ends it ends that.
    pub(super) fn is_all(&self) -> bool {
        self.all.is_some()
    }

    /// Whether it is what a modern client listens to, and that is over.
    pub(super) fn is_shut_up(&self) -> bool {
        self.listening.is_some() && self.ended.get()
    }

    /// What its client is told last, where that is to be told: the result of a subscription.
    pub(super) fn last_words(&self) -> Option<Vec<u8>> {
        self.listening.as_ref().map(|listening| listening.end())
    }

    /// Whether a drain has to wait: an answer is still to come on this stream, which has no other way.
    pub(super) fn expects(&self) -> bool {
        self.all.as_ref().is_some_and(|all| all.messages.get() > 0 || self.outlet.borrow().waits())
    }

    /// Says something on the stream, once there is room for it.
    pub(super) async fn say(&self, shard: &Shard, message: &[u8]) {
        while !shard.feeds.room(self) && !self.is_over() {
            self.pause();
            changed(shard, self, shard.timers.now().mono.plus_ms(HOUSEKEEPING_MS)).await;
        }
        self.push(message);
        shard.feeds.settle(self);
        self.changed();
    }

    /// From now on this is who reads. What was weighed for another one, or under other rules, and waits is weighed again;
    /// and other servers may concern it.
    pub(super) fn read_by(&self, shard: &Shard, who: &Rc<Who>) {
        let before = self.who.replace(who.clone());
        let epoch = shard.snapshot().settings_epoch;
        let alike = Rc::ptr_eq(&before, who) || before.has_rights_of(who);
        if !alike && self.joint && self.listening.is_none() {
            self.look_around(shard, &shard.snapshot());
            self.changed();
        }
        let same = self.weighed.replace(epoch) == epoch && alike;
        if !same && self.outlet.borrow().waits() {
            self.weigh_again(shard, who);
        }
    }

    fn weigh_again(&self, shard: &Shard, who: &Who) {
        let snapshot = shard.snapshot();
        let parts = self.parts.borrow().clone();
        let Some(eyes) = parts.iter().find_map(|part| self.eyes(shard, &snapshot, who, part)) else {
            // Nobody is left whom these rules could be asked about.
            return self.outlet.borrow_mut().retain_waiting(|_| parts.is_empty());
        };
        let mut refused = Vec::new();
        self.outlet.borrow_mut().retain_waiting(|data| match events::still_allowed(shard, &eyes, data) {
            Ok(()) => true,
            Err(id) => {
                refused.extend(id);
                false
            }
        });
        for minted in refused {
            let Some(ask) = shard.control.asks.take(self.session.nonce16, minted, Moment(0)) else { continue };
            if let Some(part) = self.part(ask.server) {
                part.refusals.borrow_mut().push((ask.id, Why::Policy));
            }
        }
    }

    /// A server's part.
    fn part(&self, server: u64) -> Option<Rc<Part>> {
        self.parts.borrow().iter().find(|part| part.server == server).cloned()
    }

    /// `None` where its endpoint or its server is gone.
    fn eyes<'a>(&'a self, shard: &'a Shard, snapshot: &'a Held, who: &'a Who, part: &Part) -> Option<Eyes<'a>> {
        Some(Eyes {
            shard,
            snapshot,
            caller: who.caller.clone(),
            task: who.task,
            pending: who.epoch != snapshot.auth_epoch,
            endpoint: snapshot.endpoint_by_digest(self.endpoint)?,
            server: snapshot.server_by_digest(part.server)?,
            revision: self.session.speaks(),
            session: Some(&self.session),
            epoch: part.upstream.get(),
        })
    }

    /// An answer of one of several servers, with the URIs in it as its client knows them; `None` where it goes as it came.
    fn exposed(&self, shard: &Shard, part: &Part, answer: &[u8]) -> Option<Vec<u8>> {
        let (verb, renamed) = self.about.as_deref()?;
        let (snapshot, who) = (shard.snapshot(), self.who.borrow().clone());
        let eyes = self.eyes(shard, &snapshot, &who, part)?;
        route::expose(&eyes, *verb, renamed.as_ref(), answer)
    }

    /// What a request of the gateway's own in this session carries; `None` where its endpoint or its server is gone.
    fn flight(&self, shard: &Shard, part: &Part) -> Option<Flight> {
        let (now, who, snapshot) = (shard.timers.now(), self.who.borrow().clone(), shard.snapshot());
        let endpoint = snapshot.endpoint_by_digest(self.endpoint)?;
        let server = snapshot.server_by_digest(part.server)?;
        let is_alone = snapshot.merged[endpoint.index()].alone().is_some();
        Some(Flight {
            task: who.task,
            payer: who.caller.principal,
            server,
            whose: if is_alone { Whose::Alone } else { Whose::One(None) },
            endpoint,
            era: Era::Legacy,
            revision: self.session.speaks(),
            id: None,
            method: None,
            shown: None,
            views: SmallVec::new(),
            unseen: None,
            instance: 0,
            seated: Cell::new(false),
            cleared: Cell::new(None),
            epoch: part.upstream.get(),
            session: Some(self.session.clone()),
            profile: None,
            change: Cell::new(None),
            opted: Opted::default(),
            answer: None,
            succeeded: Cell::new(false),
            did: Cell::new(false),
            written: Cell::new(false),
            stakes: RefCell::default(),
            in_flight: Cell::new(None),
            heir: RefCell::default(),
            taken: Cell::new(Taken::Nothing),
            figures: Figures::default(),
            began: now,
            sent: now.mono,
            answered: now.mono,
            request_bytes: 0,
            seq: None,
            trace: None,
            snapshot,
            caller: who.caller.clone(),
        })
    }

    /// Other settings: its reader goes on as who that is under these.
    fn succeed(&self, snapshot: &Held) {
        let who = self.who.borrow().carried(snapshot, self.endpoint);
        who.into_iter().for_each(|who| _ = self.who.replace(who));
        if let (ActiveTask::One(task), epoch) = self.task.get() {
            let task = snapshot.succession.from(epoch).and_then(|it| it.task_id(task));
            task.into_iter().for_each(|task| self.task.set((ActiveTask::One(task), snapshot.auth_epoch)));
        }
    }

    /// Its endpoint, by its digest.
    pub(super) fn endpoint(&self) -> u64 {
        self.endpoint
    }

    /// Whether the rules say anything of one of its servers to who reads.
    fn is_concerned(&self, snapshot: &Held) -> bool {
        let (who, parts) = (self.who.borrow(), self.parts.borrow());
        let mut servers = parts.iter().filter_map(|part| snapshot.server_by_digest(part.server));
        servers.any(|server| decide::concerns(&snapshot.table, &who.caller, who.task, server, None))
    }

    /// Looks where its endpoint leads now: whose part is over, and whether all of it is.
    fn look_around(&self, shard: &Shard, snapshot: &Held) {
        let endpoint = snapshot.endpoint_by_digest(self.endpoint);
        let servers = endpoint.map(|endpoint| &snapshot.settings.endpoints[endpoint.index()].servers);
        let leads = |server: u64| {
            let server = snapshot.server_by_digest(server);
            servers.zip(server).is_some_and(|(servers, server)| servers.contains(&server))
        };
        let parts = self.parts.borrow();
        let (who, whole) = (self.who.borrow(), self.asked.is_none());
        let known = who.epoch == snapshot.auth_epoch;
        // What a server of several says goes on to those only whom the rules let have to do with it; until it is known
        // who reads, that is as it was.
        let barred = |server: ServerId| !decide::concerns(&snapshot.table, &who.caller, who.task, server, None);
        let several = self.joint && whole && self.listening.is_none();
        for part in parts.iter() {
            let server = snapshot.server_by_digest(part.server);
            let apart = several && if known { server.is_none_or(barred) } else { part.gone.get() };
            part.gone.set(apart || !leads(part.server));
            let there = server.is_none_or(|server| snapshot.states[server.index()].has(part.at.get()));
            if whole && part.at.get() != 0 && !there {
                // Its server is elsewhere now: the stream is asked for there.
                part.abort.fire();
            }
            if part.gone.get() {
                // If it comes back, it is heard again.
                part.upstream.set(0);
            }
        }
        let other = self.asked.is_none() && endpoint.is_some_and(|it| is_merged(snapshot, it) != self.joint);
        drop(who);
        let lost = !self.joint && parts.iter().any(|part| part.gone.get());
        let shut =
            known && self.listening.as_ref().is_some_and(|listening| !listening.is_allowed(shard, self, snapshot));
        let barred = known && !self.joint && self.asked.is_none() && !self.is_concerned(snapshot);
        if endpoint.is_none() || other || lost || shut || barred {
            self.ended.set(true);
        }
    }

    /// Until when somebody may still come and read.
    fn alone_until(&self, shard: &Shard) -> Moment {
        let resume_ms = shard.snapshot().settings.limits.resume_ms;
        self.outlet.borrow().alone_since().map_or(NEVER, |since| since.plus_ms(resume_ms))
    }

    /// Until when its server is read.
    fn until(&self, shard: &Shard) -> Moment {
        if self.opening.get() == Opening::Trying { NEVER } else { self.alone_until(shard) }
    }

    /// Whether its server is still to be read.
    fn is_wanted(&self, shard: &Shard) -> bool {
        if self.is_over() || self.outlet.borrow().is_shut() {
            return false;
        }
        // Who waits to hear whether there is one is told, also while the shard drains.
        self.opening.get() == Opening::Trying || !shard.draining() && shard.timers.now().mono < self.until(shard)
    }

    /// Whether one of its servers is.
    fn wants(&self, shard: &Shard, part: &Part) -> bool {
        !part.gone.get() && self.is_wanted(shard)
    }

    /// Whether its session is.
    pub(super) fn is_over(&self) -> bool {
        self.ended.get() || self.session.is_over()
    }

    /// Whoever takes something is to wake whoever feeds.
    pub(super) fn pause(&self) {
        self.paused.set(true);
    }

    /// Its reader has taken something: there may be room again.
    pub(super) fn fed(&self) {
        if self.paused.replace(false) {
            self.changed();
        }
    }
}

/// The streams of a shard.
pub(super) struct Feeds {
    shard: OnceCell<Weak<Shard>>,
    /// Each session's own, by its random bits.
    homes: RefCell<HashMap<[u8; 16], Rc<Feed>, RandomState>>,
    /// Answers, by the number of their stream.
    answers: RefCell<HashMap<u64, Rc<Feed>, RandomState>>,
    /// Answers that nobody reads, or that have ended: forgotten from then on. In order.
    leaving: RefCell<VecDeque<(Moment, u64)>>,
    /// Answers that are read by who came back for them, or whose server is read again.
    resumed: RefCell<HashMap<u64, Rc<Feed>, RandomState>>,
    /// Streams that nobody reads while their server is read, in the order in which that came to be; and some of which
    /// this is no longer so.
    alone: RefCell<VecDeque<Weak<Feed>>>,
    /// How many there are of the former.
    lonely: Cell<usize>,
    streams: Cell<u64>,
    asks: Cell<u64>,
    bytes: Cell<usize>,
    /// Tasks that feed.
    tasks: Cell<usize>,
    /// Parts of streams of several servers that have a connection.
    connected: Cell<usize>,
    epoch: Cell<u64>,
    /// The keys' epoch when callers were last looked at.
    keys: Cell<u64>,
    /// And when that was, for what issuers say of opaque tokens.
    looked: Cell<Moment>,
    /// Counts up when streams are to look around: with other settings, and with what operators approve of.
    turns: Cell<u64>,
    approvals: Cell<u64>,
    /// Those by which streams were last looked at.
    revocations: RefCell<Arc<Revocations>>,
    /// The snapshot under which lists were last looked at.
    number: Cell<u64>,
    hashed: RefCell<visible::Hashed>,
}

impl Feeds {
    /// None yet. What is numbered here is numbered from the time on, so that nothing from before a restart has the same
    /// number.
    pub(super) fn new(now: Now) -> Self {
        Self {
            shard: OnceCell::new(),
            homes: RefCell::default(),
            answers: RefCell::default(),
            leaving: RefCell::default(),
            resumed: RefCell::default(),
            alone: RefCell::default(),
            lonely: Cell::new(0),
            streams: Cell::new(now.unix_ms),
            asks: Cell::new(now.unix_ms),
            bytes: Cell::new(0),
            tasks: Cell::new(0),
            connected: Cell::new(0),
            epoch: Cell::new(0),
            keys: Cell::new(0),
            looked: Cell::new(now.mono),
            turns: Cell::new(0),
            approvals: Cell::new(0),
            revocations: RefCell::default(),
            number: Cell::new(0),
            hashed: RefCell::default(),
        }
    }

    /// The shard whose streams they are: its tasks run there.
    pub(super) fn belong_to(&self, shard: &Rc<Shard>) {
        let _ = self.shard.set(Rc::downgrade(shard));
    }

    /// An id for a request of a server, towards its client.
    pub(super) fn mint(&self, shard: ShardId) -> u64 {
        events::minted(shard, next(&self.asks))
    }

    /// Tasks that still run.
    pub(super) fn tasks(&self) -> usize {
        self.tasks.get()
    }

    /// What is kept of an answer that comes as events, read by the connection that asked for it.
    pub(super) fn answer(&self, shard: &Shard, flight: &Flight, line: &Socket) -> Option<(Rc<Feed>, TapKey)> {
        let session = flight.session.clone()?;
        let stream = next(&self.streams);
        let feed = Rc::new(Feed::new(shard, flight, session, flight.id.clone(), stream));
        feed.line.replace(Some(line.clone()));
        let tap = feed.outlet.borrow_mut().attach(stream);
        self.answers.borrow_mut().insert(stream, feed.clone());
        Some((feed, tap))
    }

    /// The connection that asked for an answer does not read it any more.
    pub(super) fn leave(&self, shard: &Shard, feed: &Feed, tap: TapKey) {
        let now = shard.timers.now().mono;
        feed.outlet.borrow_mut().detach(tap, now);
        feed.line.replace(None);
        let until = now.plus_ms(shard.snapshot().settings.limits.resume_ms);
        self.leaving.borrow_mut().push_back((until, feed.stream));
        self.settle(feed);
        feed.changed();
    }

    /// A connection with which a stream of this shard goes on behind an event, if the stream is this session's.
    pub(super) fn resume(&self, shard: &Shard, flight: &Flight, event: EventId) -> Option<(Rc<Feed>, TapKey)> {
        let session = flight.session.as_ref()?;
        let answer = self.answers.borrow().get(&event.stream).cloned();
        let home = || self.homes.borrow().get(&session.nonce16).cloned();
        let mine = |feed: &Rc<Feed>| feed.session.nonce16 == session.nonce16 && feed.is_open_to(flight);
        let feed = answer.filter(mine).or_else(home)?;
        let resumed = feed.outlet.borrow_mut().resume(event.stream, event.seq).ok()?;
        if resumed.spent {
            // Its client has all of it, and must not ask for ever after: it gets the session's own stream.
            feed.outlet.borrow_mut().detach(resumed.tap, shard.timers.now().mono);
            return None;
        }
        shard.count(if resumed.torn { Count::StreamsTorn } else { Count::StreamsResumed });
        if let Some(line) = feed.line.take() {
            // Its client does not listen there any more.
            line.shutdown();
        }
        let at = feed.outlet.borrow_mut().go_on();
        let part = feed.parts.borrow().first().cloned();
        if let (Some(at), Some(part)) = (at, part) {
            self.feed(&feed, &part, Some(at));
        }
        feed.read_by(shard, &Rc::new(Who::of(flight)));
        self.look_at_lists(shard, &shard.snapshot(), &feed);
        feed.changed();
        self.look(&feed);
        Some((feed, resumed.tap))
    }

    /// The session's own stream, asked for if there is none yet. `None` where it cannot be.
    pub(super) fn home(&self, shard: &Shard, flight: &Flight) -> Option<Rc<Feed>> {
        let session = flight.session.as_ref()?;
        let known = self.homes.borrow().get(&session.nonce16).cloned();
        if let Some(feed) = known {
            return Some(feed);
        }
        let feed = Rc::new(Feed::new(shard, flight, session.clone(), None, 0));
        self.homes.borrow_mut().insert(session.nonce16, feed.clone());
        self.begin(&feed);
        Some(feed)
    }

    /// A stream that is all of a session, which nobody reads yet.
    pub(super) fn all(&self, shard: &Shard, flight: &Flight) -> Option<Rc<Feed>> {
        let session = flight.session.clone()?;
        let nonce = session.nonce16;
        let mut feed = Feed::new(shard, flight, session, None, 0);
        feed.all = Some(All::default());
        feed.outlet = RefCell::new(Outlet::new(shard.id, BOUNDS_ALL, shard.timers.last().mono));
        let feed = Rc::new(feed);
        self.homes.borrow_mut().insert(nonce, feed.clone());
        Some(feed)
    }

    /// What a modern client listens to, with its first message in it, and a connection that reads it.
    pub(super) fn subscribe(
        &self,
        shard: &Shard,
        flight: &Flight,
        session: Rc<Live>,
        listening: Listening,
        first: &[u8],
    ) -> (Rc<Feed>, TapKey) {
        let nonce = session.nonce16;
        let mut feed = Feed::new(shard, flight, session, None, 0);
        let parts =
            listening.joint.borrow().servers().enumerate().map(|(place, server)| Part::new(server, place, 0)).collect();
        (feed.joint, feed.parts) = (true, RefCell::new(parts));
        feed.opening.set(Opening::Open);
        feed.listening = Some(Box::new(listening));
        feed.outlet = RefCell::new(Outlet::new(shard.id, BOUNDS_ALL, shard.timers.last().mono));
        feed.push(first);
        let feed = Rc::new(feed);
        self.homes.borrow_mut().insert(nonce, feed.clone());
        let tap = self.attach(shard, flight, &feed);
        self.hear(&feed);
        (feed, tap)
    }

    /// Has all its parts heard that are there and are not.
    fn hear(&self, feed: &Rc<Feed>) {
        let unheard = |part: &&Rc<Part>| !part.read.get() && !part.gone.get();
        let parts: SmallVec<[Rc<Part>; 4]> = feed.parts.borrow().iter().filter(unheard).cloned().collect();
        parts.iter().for_each(|part| self.feed(feed, part, None));
    }

    /// The stream that is all of this session, while it lasts.
    pub(super) fn all_of(&self, nonce: &[u8; 16]) -> Option<Rc<Feed>> {
        self.homes.borrow().get(nonce).filter(|feed| feed.all.is_some() && !feed.is_over()).cloned()
    }

    /// Puts what the server says unasked on such a stream too, once.
    pub(super) fn listen(&self, feed: &Rc<Feed>) {
        if feed.all.as_ref().is_some_and(|all| !all.listening.replace(true)) {
            self.begin(feed);
        }
    }

    /// Such a stream has ended, and so has its session.
    fn end_all(&self, feed: &Feed) {
        let Some(feed) = self.homes.borrow_mut().remove(&feed.session.nonce16) else { return };
        feed.ended.set(true);
        feed.outlet.borrow_mut().shut();
        let shard = self.shard.get().and_then(Weak::upgrade);
        let Some(shard) = shard.filter(|_| feed.session.has_begun()) else { return };
        self.tasks.set(self.tasks.get() + 1);
        ring::spawn(async move {
            // Nobody is there to be told.
            let _ = sessions::end(&shard, &feed.session).await;
            // Where it was over before, its server's connection is still here.
            sessions::hang_up(&shard, &feed.session);
            shard.feeds.tasks.set(shard.feeds.tasks.get() - 1);
        });
    }

    /// A connection with a stream of its own.
    pub(super) fn attach(&self, shard: &Shard, flight: &Flight, feed: &Rc<Feed>) -> TapKey {
        let tap = feed.outlet.borrow_mut().attach(next(&self.streams));
        feed.read_by(shard, &Rc::new(Who::of(flight)));
        self.look_at_lists(shard, &shard.snapshot(), feed);
        // The one before it has nothing new to wait for.
        feed.changed();
        self.look(feed);
        tap
    }

    /// A connection of a session's own stream has ended.
    pub(super) fn detach(&self, shard: &Shard, feed: &Rc<Feed>, tap: TapKey) {
        feed.outlet.borrow_mut().detach(tap, shard.timers.now().mono);
        if feed.all.is_some() || feed.listening.is_some() {
            self.end_all(feed);
        }
        feed.changed();
        self.look(feed);
        self.settle(feed);
    }

    /// After a change in who reads a stream, and whether its server is read: puts it where it belongs then.
    fn look(&self, feed: &Rc<Feed>) {
        let (read, taps) = (feed.read.get() > 0, feed.outlet.borrow().taps());
        if feed.asked.is_none() && !read && taps == 0 {
            // Nobody can find it any more.
            feed.outlet.borrow_mut().shut();
        } else if feed.asked.is_some() && (read || taps > 0) {
            self.resumed.borrow_mut().insert(feed.stream, feed.clone());
        } else if feed.asked.is_some() {
            self.resumed.borrow_mut().remove(&feed.stream);
        }
        let waited_for = feed.opening.get() == Opening::Trying || taps > 0;
        let lonely = read && !waited_for && !feed.outlet.borrow().is_shut();
        match (feed.lonely.replace(lonely), lonely) {
            (false, true) => self.lonely.set(self.lonely.get() + 1),
            (true, false) => self.lonely.set(self.lonely.get() - 1),
            _ => {}
        }
        if lonely && !feed.queued.replace(true) {
            self.alone.borrow_mut().push_back(Rc::downgrade(feed));
        }
    }

    /// Ends streams that nobody reads, those that have been alone for longest first: when they are many, hold much, or
    /// have descriptors that connections may need.
    fn part(&self, shard: &Shard) {
        loop {
            let Some(first) = self.alone.borrow().front().map(Weak::upgrade) else { return };
            let lonely = self.lonely.get();
            let taken = shard.connections.borrow().len() + lonely;
            let many = lonely > FEEDS_ALONE_MAX || taken > shard.connections_max || self.bytes.get() > FEEDS_BYTES_MAX;
            let is_lonely = first.as_ref().is_some_and(|feed| feed.lonely.get());
            if is_lonely && !many {
                return;
            }
            self.alone.borrow_mut().pop_front();
            let Some(feed) = first else { continue };
            feed.queued.set(false);
            if is_lonely {
                feed.outlet.borrow_mut().shut();
                self.look(&feed);
                self.settle(&feed);
                feed.changed();
            }
        }
    }

    /// Counts what a log holds now.
    pub(super) fn settle(&self, feed: &Feed) {
        let mut outlet = feed.outlet.borrow_mut();
        if self.bytes.get() > FEEDS_BYTES_MAX {
            outlet.trim(0);
        }
        let held = outlet.held();
        let before = feed.held.replace(held);
        self.bytes.set((self.bytes.get() + held).saturating_sub(before));
    }

    /// Whether a log may take more.
    pub(super) fn room(&self, feed: &Feed) -> bool {
        let outlet = feed.outlet.borrow();
        outlet.room() && (self.bytes.get() < FEEDS_BYTES_MAX || !outlet.waits() || outlet.is_shut())
    }

    /// Forgets what nobody came back for; looks whether callers are still who they were.
    pub(super) fn sweep(&self, shard: &Shard) {
        let now = shard.timers.last().mono;
        let looks = self.leaving.borrow().len();
        for _ in 0..looks {
            let many = self.leaving.borrow().len() > FEEDS_ALONE_MAX || self.bytes.get() > FEEDS_BYTES_MAX;
            let mut leaving = self.leaving.borrow_mut();
            let due = leaving.front().is_some_and(|(at, _)| *at <= now || many).then(|| leaving.pop_front()).flatten();
            drop(leaving);
            let Some((_, stream)) = due else { break };
            self.forget(shard, stream, now, many);
        }
        self.part(shard);
        let snapshot = shard.snapshot();
        let epoch = snapshot.settings_epoch;
        if self.epoch.replace(epoch) != epoch {
            self.each(|feed| {
                feed.succeed(&snapshot);
                feed.look_around(shard, &snapshot);
                if feed.listening.is_some() && !feed.is_over() {
                    self.hear(feed);
                }
            });
            self.wake_all();
            self.turn(shard);
        }
        self.heed_revocations(shard);
        if self.number.replace(snapshot.number) != snapshot.number {
            let homes: Vec<Rc<Feed>> = self.homes.borrow().values().cloned().collect();
            homes.iter().for_each(|feed| self.look_at_lists(shard, &snapshot, feed));
            let servers = 0..snapshot.states.len();
            let approvals = servers.map(|server| snapshot.catalog.approvals(ServerId::from_index(server))).sum();
            if self.approvals.replace(approvals) != approvals {
                self.turn(shard);
            }
        }
    }

    /// Ends the streams of those who are revoked, read or not, where others are than the last time. Where keys have gone,
    /// whoever reads looks whether its own is among them: what is kept stays for a client that comes back with another
    /// token.
    pub(super) fn heed_revocations(&self, shard: &Shard) {
        let (snapshot, now) = (shard.snapshot(), shard.timers.last().mono);
        let others = !Arc::ptr_eq(&self.revocations.borrow(), &snapshot.revocations);
        let keys = self.keys.replace(snapshot.keys_epoch) != snapshot.keys_epoch;
        let due = now >= self.looked.get().plus_ms(LIVENESS_LOOK_MS) && snapshot.settings.introspects();
        if due {
            self.looked.set(now);
        }
        if others {
            self.revocations.replace(snapshot.revocations.clone());
        }
        if others || due {
            self.each(|feed| {
                if feed.who.borrow().is_revoked(&snapshot) {
                    self.bar(feed);
                }
            });
        }
        if others || keys {
            self.wake_all();
            self.turn(shard);
        }
    }

    /// Ends a stream: its reader may not have it any more, whoever reads.
    fn bar(&self, feed: &Feed) {
        if feed.asked.is_none() {
            feed.ended.set(true);
        } else if feed.line.borrow().is_none() {
            // The connection that asked for an answer sees to it itself, while it is there.
            feed.ended.set(true);
            self.answers.borrow_mut().remove(&feed.stream);
            feed.outlet.borrow_mut().shut();
            self.settle(feed);
        }
        feed.changed();
    }

    fn turn(&self, shard: &Shard) {
        self.turns.set(self.turns.get() + 1);
        shard.wake_streams();
    }

    /// Counts up when streams that connections relay themselves are to look around, at most some milliseconds late.
    pub(super) fn turns(&self) -> u64 {
        self.turns.get()
    }

    /// Forgets an answer, unless somebody came back for it: then it is looked at again later.
    fn forget(&self, shard: &Shard, stream: u64, now: Moment, early: bool) {
        let Some(feed) = self.answers.borrow().get(&stream).cloned() else { return };
        let read = feed.outlet.borrow().taps() > 0;
        let until = if read { now.plus_ms(STREAM_RETRY_MS_MAX) } else { feed.alone_until(shard) };
        if read || until > now && !early {
            self.leaving.borrow_mut().push_back((until, stream));
            return;
        }
        self.answers.borrow_mut().remove(&stream);
        feed.outlet.borrow_mut().shut();
        self.settle(&feed);
        feed.changed();
    }

    /// A session is over: so are its stream, and the answers that are read again.
    pub(super) fn session_ended(&self, nonce: &[u8; 16]) {
        let mut over: SmallVec<[Rc<Feed>; 4]> = self.homes.borrow().get(nonce).cloned().into_iter().collect();
        over.extend(self.resumed.borrow().values().filter(|feed| feed.session.nonce16 == *nonce).cloned());
        for feed in over {
            feed.ended.set(true);
            feed.changed();
        }
    }

    /// Everybody looks around: the shard drains.
    pub(super) fn wake_all(&self) {
        self.each(|feed| feed.changed());
    }

    fn each(&self, act: impl Fn(&Rc<Feed>)) {
        let homes: Vec<Rc<Feed>> = self.homes.borrow().values().cloned().collect();
        let answers: Vec<Rc<Feed>> = self.answers.borrow().values().cloned().collect();
        homes.iter().chain(&answers).for_each(act);
    }

    /// Starts what feeds a session's own stream.
    fn begin(&self, feed: &Rc<Feed>) {
        if feed.joint {
            return self.spawn(feed, |shard, feed| async move {
                tend::tend(&shard, &feed).await;
                shard.feeds.is_fed(&feed);
            });
        }
        let part = feed.parts.borrow().first().cloned();
        if let Some(part) = part {
            self.feed(feed, &part, None);
        }
    }

    /// Starts the task that feeds a log from a server, behind the server's event `at`.
    fn feed(&self, feed: &Rc<Feed>, part: &Rc<Part>, at: Option<Box<[u8]>>) {
        let part = part.clone();
        part.read.set(true);
        self.spawn(feed, move |shard, feed| async move {
            if let Some(listening) = &feed.listening {
                keep_heard(&shard, &feed, &part, listening).await;
            } else if feed.asked.is_some() {
                go_on(&shard, &feed, &part, at).await;
            } else {
                keep_fed(&shard, &feed, &part).await;
            }
            part.read.set(false);
            if !feed.joint {
                shard.feeds.is_fed(&feed);
            }
        });
    }

    /// Nothing more comes of a session's own stream.
    fn is_fed(&self, feed: &Rc<Feed>) {
        if feed.asked.is_some() || feed.all.is_some() || feed.listening.is_some() {
            return;
        }
        feed.outlet.borrow_mut().finish();
        let mut homes = self.homes.borrow_mut();
        if homes.get(&feed.session.nonce16).is_some_and(|known| Rc::ptr_eq(known, feed)) {
            homes.remove(&feed.session.nonce16);
        }
    }

    /// A task that reads for a stream.
    fn spawn<F: Future<Output = ()> + 'static>(&self, feed: &Rc<Feed>, work: impl FnOnce(Rc<Shard>, Rc<Feed>) -> F) {
        let Some(shard) = self.shard.get().and_then(Weak::upgrade) else { return };
        let feed = feed.clone();
        self.tasks.set(self.tasks.get() + 1);
        feed.read.set(feed.read.get() + 1);
        let work = work(shard.clone(), feed.clone());
        ring::spawn(async move {
            work.await;
            feed.read.set(feed.read.get() - 1);
            shard.feeds.look(&feed);
            shard.feeds.settle(&feed);
            feed.changed();
            shard.feeds.tasks.set(shard.feeds.tasks.get() - 1);
        });
    }
}

/// Waits until a session's own stream is there, or is not; `None` while that is not known.
pub(super) fn opened(feed: &Feed) -> Option<Result<(), Refusal>> {
    Some(match feed.opening.get() {
        Opening::Trying => return None,
        Opening::Open => Ok(()),
        Opening::Refused(404) => Err(Kind::SessionUnknown.into()),
        Opening::Refused(405) => Err(Refusal::from(Kind::MethodNotAllowed).allowing("POST, DELETE")),
        Opening::Refused(401 | 403) => Err(reasoned(Kind::ServerRefusedUs).unanswerable()),
        Opening::Refused(400..=499) => {
            Err(Refusal::from(Kind::RequestBad).saying("The server refused this stream request."))
        }
        Opening::Refused(_) => Err(reasoned(Kind::ServerInvalid).unanswerable()),
        Opening::Failed(fault) => {
            let kind = match fault {
                UpstreamFault::Unreachable | UpstreamFault::NoAddress => Kind::ServerUnreachable,
                UpstreamFault::Unhealthy { .. } => Kind::ServerUnhealthy,
                UpstreamFault::Untrusted => Kind::ServerUntrusted,
                UpstreamFault::NoBuffer => Kind::NoBuffer,
                UpstreamFault::Timeout => Kind::ServerTimeout,
                UpstreamFault::BadAnswer => Kind::ServerInvalid,
                UpstreamFault::Cut | UpstreamFault::Abandoned | UpstreamFault::Withdrawn => Kind::ServerCut,
            };
            Err(faulted(kind, fault).unanswerable())
        }
    })
}

/// Waits for a change of the stream until `until`. What has changed is looked at before, without a wait between.
pub(super) async fn changed(shard: &Shard, feed: &Feed, until: Moment) {
    let turn = feed.turn();
    let mut alarm = pin!(shard.timers.sleep_until(until));
    poll_fn(|cx| {
        if feed.turn() != turn || alarm.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        feed.remember(cx.waker());
        Poll::Pending
    })
    .await;
}

/// Whether an endpoint shows more than the one server it has, as that is.
pub(super) fn is_merged(snapshot: &Snapshot, endpoint: EndpointId) -> bool {
    snapshot.merged[endpoint.index()].alone().is_none()
}

fn next(count: &Cell<u64>) -> u64 {
    count.replace(count.get() + 1)
}

/// Of a stream that cannot be resumed.
const BOUNDS_ALL: Bounds = Bounds { kept_bytes: 0, kept_events: 0, ..BOUNDS };

const BOUNDS: Bounds = Bounds {
    waiting_bytes: STREAM_BUFFERED_BYTES_MAX,
    waiting_events: STREAM_WAITING_EVENTS_MAX,
    kept_bytes: STREAM_KEPT_BYTES_MAX,
    kept_events: STREAM_KEPT_EVENTS_MAX,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What one more server costs a stream while it says nothing, without its connection: its part, the task that reads
    /// it, and the box of that read. No buffer is among them.
    #[test]
    fn one_more_server_on_a_stream_is_small() {
        type Arguments = (&'static Rc<Shard>, &'static Rc<Feed>, &'static Rc<Part>);
        let task = size_of_future(|(shard, feed, part): Arguments| keep_fed(shard, feed, part));
        let read = feeder::read_bytes();
        let part = size_of::<Part>() + 2 * size_of::<usize>();
        println!("one more server: {task} + {read} + {part} B");
        assert!(task + read + part <= 2048, "{task} + {read} + {part}");
    }
}
