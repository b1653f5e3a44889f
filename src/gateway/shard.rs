//! A shard: one pinned thread with its ring, its listeners, its connections and everything they need. Nothing here is
//! shared with another shard; what comes from the plane comes through `Control`.

use std::cell::{Cell, RefCell, RefMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use ::ring::rand::{SecureRandom, SystemRandom};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::base::ids::{ServerId, ShardId};
use crate::base::limits::{CALLS_KEPT_MAX, LED_KEPT, LETTERS_MAX, SHARD_BUFFER_BYTES_MAX, TOKENS_BEFORE_MS};
use crate::base::slab::Slab;
use crate::base::time::Moment;
use crate::config::Limits;
use crate::config::snapshot::{Route, Snapshot};
use crate::identity::cache::{Place as TokenPlace, TokenCache};
use crate::identity::caller::Caller;
use crate::jsonrpc::answer::AnswerScan;
use crate::jsonrpc::scan::Reader;
use crate::mcp::call::Call;
use crate::policy::rule::PolicySet;
use crate::record::Writer;
use crate::record::keyed::Keys;
use crate::record::own::OwnTimes;
use crate::session::owner::SealingKey;
use crate::telemetry::sample::Dice;
use crate::tls::config::ClientSide;
use crate::upstream::exchange::{Abort, Upstreams};
use crate::uring::buffer::Pool;
use crate::uring::socket::Socket;
use crate::uring::wait::Timers;

use super::alike::Alikes;
use super::control::Control;
use super::errand::Waiting;
use super::live::Feeds;
use super::load::{Class, Load};
use super::mail::{Cancel, Letter};
use super::sessions::{self, Sessions};
use super::shown::Cards;
use super::spans::SpanWriter;
use super::stream::Tools;
use super::tally::Count;
use super::watch::{Begun, Waits};

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a request: may be closed at any time.
    Idle,
    /// A request has begun to come.
    Arriving,
    /// On a request.
    Busy,
    /// On a stream without an end of its own.
    Stream,
}

/// What the shard knows of a connection.
pub(super) struct Slot {
    pub(super) socket: Socket,
    pub(super) phase: Cell<Phase>,
    /// Wakes the connection's task to look at the shard's state.
    pub(super) waker: RefCell<Option<Waker>>,
    /// Ends the exchange it waits for.
    pub(super) abort: Rc<Abort>,
    /// Since when it waits.
    pub(super) begun: Cell<Begun>,
    /// It is one of those that are looked at.
    pub(super) listed: Cell<bool>,
    /// It has carried a request.
    pub(super) asked: Cell<bool>,
    /// Where its last request's token is remembered.
    pub(super) token_place: Cell<TokenPlace>,
    /// It came here for the request that is being served, which is served here whatever else is true.
    pub(super) handed: Cell<bool>,
}

impl Slot {
    /// Its task is woken by this.
    pub(super) fn remember(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }
}

/// Everything a connection's task may use.
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) timers: Timers,
    pub(super) buffers: Pool,
    pub(super) upstreams: Upstreams,
    pub(super) record: Writer,
    pub(super) control: Arc<Control>,
    pub(super) sealing: Arc<[SealingKey]>,
    /// By which arguments are written down that are not written out.
    pub(super) keys: Keys,
    pub(super) random: SystemRandom,
    /// Where the ids of spans come from.
    pub(super) dice: Dice,
    /// Spans that are over; `None` where another shard of this number has them.
    pub(super) spans: Option<SpanWriter>,
    /// Its own time, on its way to the plane.
    pub(super) own: RefCell<OwnTimes>,
    /// What relayed streams work with, while none does.
    pub(super) tools: RefCell<Vec<Tools>>,
    /// The head of an answer, while it is written.
    pub(super) head: Cell<Vec<u8>>,
    reader: RefCell<Reader>,
    answers: RefCell<AnswerScan>,
    tokens: RefCell<Tokens>,
    snapshot: RefCell<Rc<Held>>,
    /// The turn that it is of.
    turn: Cell<u64>,
    /// Where requests led.
    pub(super) led: RefCell<Led>,
    /// What records have in common.
    pub(super) alikes: RefCell<Alikes>,
    /// Boxes for calls.
    #[expect(clippy::vec_box, reason = "the box is what a permit carries; taken apart it would have to be made anew")]
    calls: RefCell<Vec<Box<Call>>>,
    pub(super) connections: RefCell<Slab<Rc<Slot>>>,
    /// The sessions it has seen lately. Not to be held across an await.
    pub(super) sessions: RefCell<Sessions>,
    /// Servers are being told of sessions that expired.
    pub(super) expiring: Cell<bool>,
    /// Connections that wait, and have not done so for long.
    pub(super) waits: Waits,
    /// Cancellations that were read and not looked at yet.
    cancels: RefCell<Vec<Arc<Cancel>>>,
    /// What servers are shown. Not to be held across an await.
    pub(super) cards: RefCell<Cards>,
    /// Some server is shown what depends on who calls: sessions remember who that was.
    pub(super) minds_callers: Cell<bool>,
    /// Calls that wait for what the plane fetches.
    pub(super) waiting: Waiting,
    /// The streams that outlive their connections.
    pub(super) feeds: Feeds,
    pub(super) draining: Cell<bool>,
    /// What is under way, for whom.
    pub(super) load: Load,
    /// Where the next look for a connection that can go begins.
    pub(super) hand: Cell<usize>,
    /// Connections that this shard's share of the process's descriptors allows.
    pub(super) connections_max: usize,
    seed: u64,
}

/// Verified tokens: those of these settings and keys, and for a while those of the ones before, which are good for nothing
/// any more.
pub(super) struct Tokens {
    /// The epochs of settings and of keys.
    epochs: (u64, u64),
    pub(super) now: TokenCache,
    /// Whoever comes without a token.
    anonymous: Option<Rc<Caller>>,
    before: Option<(Moment, TokenCache)>,
}

impl Tokens {
    /// Whoever comes without a token, under settings with this policy.
    pub(super) fn anonymous(&mut self, policy: &PolicySet) -> Rc<Caller> {
        let made = || {
            let caller = Caller::anonymous();
            Rc::new(Caller { heads: policy.heads_of(&caller), ..caller })
        };
        self.anonymous.get_or_insert_with(made).clone()
    }

    /// Whether a token was let in before, under other settings or keys, or until its issuer had to be asked again: that
    /// this has to be done once more is none of its bearer's doing, and costs nothing of what there is for strangers.
    /// Says so once.
    pub(super) fn take_known(&mut self, token: &[u8]) -> bool {
        // Both are looked at: neither may say it a second time.
        let now = self.now.forget_this(token);
        self.before.as_mut().is_some_and(|(_, before)| before.forget_this(token)) || now
    }
}

/// Where the last requests led, by how long their Host and path are: of one shard's requests there are a few kinds, and
/// two that are in each other's way are looked up as any other.
#[derive(Default)]
pub(super) struct Led([Way; LED_KEPT]);

/// Where requests of one Host and path led under one snapshot.
#[derive(Default)]
struct Way {
    /// By its turn.
    route: Option<(u64, Route)>,
    host: Vec<u8>,
    path: Vec<u8>,
}

impl Led {
    pub(super) fn again(&self, number: u64, host: &[u8], path: &[u8]) -> Option<Route> {
        let way = &self.0[place(host, path)];
        let (of, route) = way.route?;
        (of == number && way.host == host && way.path == path).then_some(route)
    }

    pub(super) fn note(&mut self, number: u64, host: &[u8], path: &[u8], route: Route) {
        let way = &mut self.0[place(host, path)];
        way.host.clear();
        way.host.extend_from_slice(host);
        way.path.clear();
        way.path.extend_from_slice(path);
        way.route = Some((number, route));
    }
}

fn place(host: &[u8], path: &[u8]) -> usize {
    (path.len() + host.len() * 5) % LED_KEPT
}

/// A snapshot as this shard holds it: counted by the shard alone, so that taking it for a request costs no atomic.
#[derive(Debug)]
pub(super) struct Held(Arc<Snapshot>);

impl std::ops::Deref for Held {
    type Target = Snapshot;
    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

impl Shard {
    pub(super) fn new(
        id: ShardId,
        control: Arc<Control>,
        record: Writer,
        sealing: Arc<[SealingKey]>,
        keys: Keys,
        connections_max: usize,
    ) -> Self {
        let random = SystemRandom::new();
        let mut seed = [0; 8];
        // Without randomness the seed is guessable, which costs a peer's choice of colliding names, nothing more.
        let _ = random.fill(&mut seed);
        let seed = u64::from_ne_bytes(seed);
        let mut dice = [0; 8];
        // Without randomness two shards' ids may be the same: their spans would be mixed up.
        let _ = random.fill(&mut dice);
        let dice = u64::from_ne_bytes(dice) ^ u64::from(id.0).rotate_left(48);
        let timers = Timers::new();
        let buffers = Pool::new(SHARD_BUFFER_BYTES_MAX);
        let turn = control.snapshot.turn();
        let snapshot = control.snapshot.load_full();
        let begun = timers.last();
        let minds_callers = snapshot.prepared.minds_callers;
        let load = Load::new(control.shards(), begun.mono);
        Self {
            id,
            upstreams: Upstreams::new(timers.clone(), buffers.clone(), seed),
            timers,
            buffers,
            record,
            sealing,
            keys,
            random,
            dice: Dice::new(dice),
            spans: control.spans.take_writer(id),
            own: RefCell::default(),
            tools: RefCell::default(),
            head: Cell::default(),
            reader: RefCell::new(Reader::new(seed)),
            answers: RefCell::new(AnswerScan::new(seed)),
            tokens: RefCell::new(Tokens {
                epochs: (snapshot.auth_epoch, snapshot.keys_epoch),
                now: TokenCache::new(seed),
                anonymous: None,
                before: None,
            }),
            snapshot: RefCell::new(Rc::new(Held(snapshot))),
            turn: Cell::new(turn),
            led: RefCell::default(),
            alikes: RefCell::default(),
            calls: RefCell::default(),
            control,
            connections: RefCell::new(Slab::new()),
            sessions: RefCell::new(Sessions::default()),
            expiring: Cell::new(false),
            waits: Waits::default(),
            cancels: RefCell::default(),
            cards: RefCell::default(),
            minds_callers: Cell::new(minds_callers),
            waiting: Waiting::default(),
            feeds: Feeds::new(begun),
            draining: Cell::new(false),
            load,
            hand: Cell::new(0),
            connections_max,
            seed,
        }
    }

    /// The snapshot of this moment.
    pub(super) fn snapshot(&self) -> Rc<Held> {
        self.turn();
        self.snapshot.borrow().clone()
    }

    /// Which snapshot that is, as [`super::control::Published`] counts them: it is taken up where it is another one.
    #[inline]
    pub(super) fn turn(&self) -> u64 {
        let turn = self.control.snapshot.turn();
        if turn != self.turn.get() {
            self.take_up(turn);
        }
        turn
    }

    #[cold]
    fn take_up(&self, turn: u64) {
        let current = self.control.snapshot.load();
        let mut held = self.snapshot.borrow_mut();
        if !Arc::ptr_eq(&current, &held.0) {
            if is_elsewhere(&held.0, &current) {
                self.upstreams.renew();
            }
            self.minds_callers.set(current.prepared.minds_callers);
            *held = Rc::new(Held(arc_swap::Guard::into_inner(current)));
        }
        self.turn.set(turn);
    }

    /// A call in a box, one that was used before if there is one.
    pub(super) fn boxed(&self, call: Call) -> Box<Call> {
        match self.calls.borrow_mut().pop() {
            Some(mut boxed) => {
                *boxed = call;
                boxed
            }
            None => Box::new(call),
        }
    }

    /// It has ended; its box is kept.
    pub(super) fn unbox(&self, call: Box<Call>) {
        let mut calls = self.calls.borrow_mut();
        if calls.len() < CALLS_KEPT_MAX {
            calls.push(call);
        }
    }

    /// Reads what other shards have written.
    pub(super) fn read_letters(&self) {
        let mut ended = Vec::new();
        self.control.mail.take(self.id, |letter| match letter {
            Letter::SessionEnded(nonce) => {
                ended.extend(self.sessions.borrow_mut().remove(&nonce));
                self.feeds.session_ended(&nonce);
            }
            Letter::Cancelled(cancel) if self.cancels.borrow().len() < LETTERS_MAX => {
                self.cancels.borrow_mut().push(cancel);
            }
            // Nobody takes them: the shard does not hear its bell.
            Letter::Cancelled(_) => {}
            Letter::Brought => self.waiting.ring(),
            Letter::SessionOpened(nonce) => self.feeds.session_opened(&nonce),
            Letter::SessionMoved(nonce, server, epoch) => {
                self.sessions.borrow_mut().get(&nonce).iter().for_each(|live| live.forget(server, epoch));
            }
            // The ledger knows which have ended: each is asked for again.
            Letter::Missed => {
                self.count(Count::LettersMissed);
                *self.sessions.borrow_mut() = Sessions::default();
                self.feeds.letters_missed();
                self.waiting.ring();
            }
        });
        ended.iter().for_each(|live| sessions::hang_up(self, live));
    }

    /// The cancellations read since this was last asked. The bell rings for each of them, so none is forgotten.
    pub(super) fn take_cancels(&self) -> Vec<Arc<Cancel>> {
        self.cancels.take()
    }

    /// The shard on which a session is at home; the same on all of them. A process may have fewer than the one that
    /// opened the session.
    pub(super) fn home(&self, named: ShardId) -> ShardId {
        let shards = u16::try_from(self.control.shards()).unwrap_or(u16::MAX).max(1);
        ShardId(named.0 % shards)
    }

    /// One more of these.
    pub(super) fn count(&self, count: Count) {
        self.control.tally.add(self.id, count);
    }

    /// Whether work of this class is still taken.
    pub(super) fn admits(&self, class: Class, limits: &Limits) -> bool {
        self.load.admits(class, self.buffers.lent_bytes(), SHARD_BUFFER_BYTES_MAX, limits)
    }

    /// Whether there are buffers for what may do without.
    pub(super) fn has_buffers(&self, class: Class) -> bool {
        class.fits(self.buffers.lent_bytes(), SHARD_BUFFER_BYTES_MAX)
    }

    /// Whether nothing new is taken any more.
    pub(super) fn draining(&self) -> bool {
        self.draining.get()
    }

    /// The verified tokens, of the settings and keys of this snapshot. Not to be held across an await.
    pub(super) fn tokens(&self, snapshot: &Snapshot) -> RefMut<'_, Tokens> {
        let mut tokens = self.tokens.borrow_mut();
        let epochs = (snapshot.auth_epoch, snapshot.keys_epoch);
        if tokens.epochs != epochs {
            tokens.epochs = epochs;
            tokens.anonymous = None;
            let until = self.timers.last().mono.plus_ms(TOKENS_BEFORE_MS);
            let before = std::mem::replace(&mut tokens.now, TokenCache::new(self.seed));
            tokens.before = Some((until, before));
        }
        tokens
    }

    /// Forgets what was verified under the settings before, once it was there for a while.
    pub(super) fn forget_tokens(&self, now: Moment) {
        let mut tokens = self.tokens.borrow_mut();
        if tokens.before.as_ref().is_some_and(|(until, _)| *until <= now) {
            tokens.before = None;
        }
    }

    /// The shard's scanner for messages; not to be held across an await.
    pub(super) fn reader(&self) -> RefMut<'_, Reader> {
        self.reader.borrow_mut()
    }

    /// The shard's scanner for whole answers; not to be held across an await.
    pub(super) fn answers(&self) -> RefMut<'_, AnswerScan> {
        self.answers.borrow_mut()
    }

    /// A scanner for an answer that comes in pieces.
    pub(super) fn answer_scan(&self) -> AnswerScan {
        AnswerScan::new(self.seed)
    }
}

/// Whether connections to servers that were made under one snapshot are none to keep under the next: what TLS is spoken
/// with has changed, or a server has left an address.
fn is_elsewhere(then: &Snapshot, now: &Snapshot) -> bool {
    let left = |(then, now): (&Place<'_>, &Place<'_>)| {
        then.addresses.iter().any(|address| !now.addresses.contains(address)) || !same_side(then.tls, now.tls)
    };
    let (then, now) = (places(then), places(now));
    // Connections to what is no longer there are taken by nobody.
    then.iter().any(|(digest, then)| now.get(digest).is_some_and(|now| left((then, now))))
}

/// Where an instance is, and how TLS is spoken there.
struct Place<'a> {
    addresses: &'a [SocketAddr],
    tls: Option<&'a ClientSide>,
}

/// Those of a snapshot, by the digest of the instance.
fn places(snapshot: &Snapshot) -> HashMap<u64, Place<'_>, RandomState> {
    let servers = snapshot.states.iter().zip(&snapshot.addresses).enumerate();
    let places = servers.flat_map(|(index, (state, addresses))| {
        let instances = state.instances.iter().zip(addresses).enumerate();
        instances.map(move |(number, (instance, addresses))| {
            let tls = snapshot.tls.side(ServerId::from_index(index), number);
            (instance.digest, Place { addresses, tls })
        })
    });
    places.collect()
}

fn same_side(then: Option<&ClientSide>, now: Option<&ClientSide>) -> bool {
    match (then, now) {
        (Some(then), Some(now)) => Arc::ptr_eq(&then.config, &now.config) && then.name == now.name,
        (then, now) => then.is_none() == now.is_none(),
    }
}
