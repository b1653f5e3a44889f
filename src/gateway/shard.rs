//! A shard: one pinned thread with its ring, its listeners, its connections and everything they need. Nothing here is
//! shared with another shard; what comes from the plane comes through `Control`.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::{HashSet, VecDeque};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

use ::ring::rand::{SecureRandom, SystemRandom};

use crate::base::ids::ShardId;
use crate::base::limits::{HOUSEKEEPING_MS, SESSIONS_ENDED_MAX, SHARD_BUFFER_BYTES_MAX, STREAM_END_MS_MAX};
use crate::base::slab::Slab;
use crate::base::time::Moment;
use crate::config::snapshot::Snapshot;
use crate::identity::cache::TokenCache;
use crate::identity::caller::Caller;
use crate::jsonrpc::answer::AnswerScan;
use crate::jsonrpc::scan::Reader;
use crate::record::Writer;
use crate::session::owner::{self, SealingKey, Session, SessionFault};
use crate::upstream::exchange::{Abort, Upstreams};
use crate::uring::buffer::Pool;
use crate::uring::ring::{self, Driver, RingFault};
use crate::uring::socket::Listener;
use crate::uring::wait::Timers;

use super::conn::{Phase, Slot};
use super::control::{Control, Life};
use super::mail::Letter;
use super::serve;

/// What a shard is started with.
#[derive(Debug)]
pub struct Start {
    /// Its number.
    pub id: ShardId,
    /// How it speaks to the kernel.
    pub driver: Driver,
    /// Its own SO_REUSEPORT listeners, bound and listening.
    pub listeners: Vec<TcpListener>,
    /// The plane's side.
    pub control: Arc<Control>,
    /// Its end of its ring.
    pub record: Writer,
    /// Keys that seal and open session ids; the first one seals.
    pub sealing: Arc<[SealingKey]>,
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
    pub(super) anonymous: Rc<Caller>,
    pub(super) random: SystemRandom,
    reader: RefCell<Reader>,
    answers: RefCell<AnswerScan>,
    tokens: RefCell<(u64, TokenCache)>,
    snapshot: RefCell<Rc<Held>>,
    connections: RefCell<Slab<Rc<Slot>>>,
    /// Sessions that their clients ended, the latest ones.
    ended: RefCell<Ended>,
    draining: Cell<bool>,
    seed: u64,
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

/// The sessions that ended last. One that has been pushed out is still unknown to its server.
#[derive(Default)]
struct Ended {
    set: HashSet<[u8; 16]>,
    order: VecDeque<[u8; 16]>,
}

impl Ended {
    fn insert(&mut self, nonce: [u8; 16]) {
        if self.set.insert(nonce) {
            self.order.push_back(nonce);
        }
        if self.order.len() > SESSIONS_ENDED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

/// Runs a shard on this thread until it is told to stop and its calls have ended.
///
/// # Errors
/// When the ring cannot be built after all.
pub fn run(start: Start) -> Result<(), RingFault> {
    let driver = start.driver.clone();
    driver.run(async move {
        let listeners: Vec<Listener> = start.listeners.into_iter().filter_map(|l| Listener::from_std(l).ok()).collect();
        let shard = Rc::new(Shard::new(start.id, start.control, start.record, start.sealing));
        ring::spawn(shard.timers.clone().run());
        let listeners: Vec<Rc<Listener>> = listeners.into_iter().map(Rc::new).collect();
        for listener in &listeners {
            ring::spawn(accept(shard.clone(), listener.clone()));
        }
        shard.keep_house(&listeners).await;
        shard.timers.stop();
    })
}

async fn accept(shard: Rc<Shard>, listener: Rc<Listener>) {
    while !listener.is_stopped() {
        match listener.accept().await {
            Ok((socket, _)) => {
                let max = shard.snapshot().settings.limits.connections_max;
                if shard.draining() || shard.connections.borrow().len() >= max {
                    socket.shutdown();
                    continue;
                }
                let slot = Rc::new(Slot {
                    socket,
                    phase: Cell::new(Phase::Idle),
                    waker: RefCell::new(None),
                    abort: Abort::default(),
                });
                let key = shard.connections.borrow_mut().insert(slot.clone());
                let shard = shard.clone();
                ring::spawn(async move {
                    serve::connection(shard.clone(), slot).await;
                    shard.connections.borrow_mut().remove(key);
                });
            }
            Err(_) if listener.is_stopped() => break,
            // Out of descriptors, most likely: serve what there is, and look again in a moment.
            Err(_) => shard.timers.sleep_until(shard.timers.now().mono.plus_ms(HOUSEKEEPING_MS)).await,
        }
    }
}

impl Shard {
    fn new(id: ShardId, control: Arc<Control>, record: Writer, sealing: Arc<[SealingKey]>) -> Self {
        let random = SystemRandom::new();
        let mut seed = [0; 8];
        // Without randomness the seed is guessable, which costs a peer's choice of colliding names, nothing more.
        let _ = random.fill(&mut seed);
        let seed = u64::from_ne_bytes(seed);
        let timers = Timers::new();
        let buffers = Pool::new(SHARD_BUFFER_BYTES_MAX);
        let snapshot = control.snapshot.load_full();
        Self {
            id,
            upstreams: Upstreams::new(timers.clone(), buffers.clone()),
            timers,
            buffers,
            record,
            sealing,
            anonymous: Rc::new(Caller::anonymous()),
            random,
            reader: RefCell::new(Reader::new(seed)),
            answers: RefCell::new(AnswerScan::new(seed)),
            tokens: RefCell::new((snapshot.auth_epoch, TokenCache::new(seed))),
            snapshot: RefCell::new(Rc::new(Held(snapshot))),
            control,
            connections: RefCell::new(Slab::new()),
            ended: RefCell::new(Ended::default()),
            draining: Cell::new(false),
            seed,
        }
    }

    /// The snapshot of this moment.
    pub(super) fn snapshot(&self) -> Rc<Held> {
        let current = self.control.snapshot.load();
        let mut held = self.snapshot.borrow_mut();
        if !Arc::ptr_eq(&current, &held.0) {
            *held = Rc::new(Held(arc_swap::Guard::into_inner(current)));
        }
        held.clone()
    }

    /// Opens a session id for the caller that presents it at an endpoint. Every way in which it is not theirs is an
    /// error, and one that was ended is too.
    pub(super) fn open_session(&self, id: &[u8], caller: &Caller, digest: u64) -> Result<Session, SessionFault> {
        let seal = owner::open(&self.sealing, id)?.owned_by(&caller.owner, digest)?;
        let mut ended = self.ended.borrow_mut();
        self.control.mail.take(self.id, |letter| match letter {
            Letter::SessionEnded(nonce) => ended.insert(nonce),
        });
        if ended.set.contains(&seal.nonce16) { Err(SessionFault::Forged) } else { Ok(seal) }
    }

    /// Whether nothing new is taken any more.
    pub(super) fn draining(&self) -> bool {
        self.draining.get()
    }

    /// The verified tokens of this epoch. Not to be held across an await.
    pub(super) fn tokens(&self, epoch: u64) -> RefMut<'_, TokenCache> {
        let mut tokens = self.tokens.borrow_mut();
        if tokens.0 != epoch {
            tokens.0 = epoch;
            tokens.1.clear();
        }
        RefMut::map(tokens, |(_, cache)| cache)
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

    fn connections(&self) -> Ref<'_, Slab<Rc<Slot>>> {
        self.connections.borrow()
    }

    /// Looks after the pools until told to stop, then drains.
    async fn keep_house(&self, listeners: &[Rc<Listener>]) {
        while self.control.life() == Life::Run {
            let now = self.timers.now().mono;
            self.upstreams.pool.prune(now);
            self.timers.sleep_until(now.plus_ms(HOUSEKEEPING_MS)).await;
        }
        self.drain(listeners).await;
    }

    /// No new connections; idle ones end at once, streams get their clean end, calls their time.
    async fn drain(&self, listeners: &[Rc<Listener>]) {
        self.draining.set(true);
        for listener in listeners {
            listener.stop();
        }
        let begun = self.timers.now().mono;
        let until = begun.plus_ms(self.snapshot().settings.limits.drain_ms_max);
        let streams_until = begun.plus_ms(STREAM_END_MS_MAX).min(until);
        self.each(|slot| match slot.phase.get() {
            Phase::Idle => slot.socket.shutdown(),
            Phase::Stream => wake(slot),
            Phase::Busy => {}
        });
        loop {
            let now = self.timers.now().mono;
            if self.connections().is_empty() || now >= until || self.control.life() == Life::Stop {
                break;
            }
            if now >= streams_until {
                self.each(|slot| {
                    if slot.phase.get() == Phase::Stream {
                        slot.socket.shutdown();
                    }
                });
            }
            self.timers.sleep_until(now.plus_ms(HOUSEKEEPING_MS)).await;
        }
        self.cut().await;
        self.upstreams.pool.clear();
    }

    /// Ends what is left: first the servers' side, so that callers get an answer; then everything.
    async fn cut(&self) {
        self.each(|slot| {
            slot.abort.fire();
        });
        self.wait_empty(self.timers.now().mono.plus_ms(10 * HOUSEKEEPING_MS)).await;
        self.each(|slot| slot.socket.shutdown());
        self.wait_empty(self.timers.now().mono.plus_ms(10 * HOUSEKEEPING_MS)).await;
    }

    async fn wait_empty(&self, until: Moment) {
        while !self.connections().is_empty() && self.timers.now().mono < until {
            self.timers.sleep_until(self.timers.now().mono.plus_ms(HOUSEKEEPING_MS / 5)).await;
        }
    }

    fn each(&self, act: impl Fn(&Slot)) {
        for (_, slot) in self.connections().iter() {
            act(slot);
        }
    }
}

fn wake(slot: &Slot) {
    if let Some(waker) = slot.waker.borrow_mut().take() {
        waker.wake();
    }
}
