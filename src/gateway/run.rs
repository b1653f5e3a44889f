//! A shard's life: from its listeners' first connection to the end of its last one.

use std::cell::{Cell, Ref, RefCell};
use std::future::{Future as _, poll_fn};
use std::net::{IpAddr, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::ids::ShardId;
use crate::base::limits::{
    CANCEL_GRACE_MS, EVICT_LOOKS_MAX, FILES_KEPT, HOUSEKEEPING_MS, STREAM_END_MS_MAX, TRIM_MS, TURN_AWAY_MAX,
};
use crate::base::slab::Slab;
use crate::base::time::Moment;
use crate::config::Limits;
use crate::identity::cache::Place;
use crate::record::Writer;
use crate::record::keyed::Keys;
use crate::session::owner::SealingKey;
use crate::tls::stream::Stream;
use crate::uring::bell::{self, Listening};
use crate::uring::ring::{self, Driver, RingFault};
use crate::uring::socket::{self, Listener, Socket, is_short};
use crate::uring::spin;

use super::control::{Busy, Control, Life};
use super::load::{FlightKey, Found};
use super::mail::{Cancel, Parcel};
use super::refusal::Kind;
use super::serve::{self, Begin};
use super::sessions;
use super::shard::{Phase, Shard, Slot};
use super::tally::Count;
use super::watch::Begun;

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
    /// By which it writes down what it does not write out.
    pub keys: Keys,
    /// Descriptors that the process may have open.
    pub files: u64,
}

/// Runs a shard on this thread until it is told to stop and its calls have ended.
///
/// # Errors
/// When the ring cannot be built after all.
pub fn run(start: Start) -> Result<(), RingFault> {
    let driver = start.driver.clone();
    driver.run(async move {
        let listeners: Vec<Listener> = start.listeners.into_iter().filter_map(|l| Listener::from_std(l).ok()).collect();
        let connections_max = connections_max(start.files, start.control.shards());
        let shard =
            Rc::new(Shard::new(start.id, start.control, start.record, start.sealing, start.keys, connections_max));
        shard.feeds.belong_to(&shard);
        ring::spawn(shard.timers.clone().run());
        let ear = shard.control.mail.ear(shard.id).and_then(|ear| ear.listen().ok());
        match &ear {
            Some(ear) => ring::spawn(hear(shard.clone(), ear.clone())),
            // Deaf to its bell it must not be sent connections; letters are read before each session.
            None => shard.last_parcels(),
        }
        let listeners: Vec<Rc<Listener>> = listeners.into_iter().map(Rc::new).collect();
        for (index, listener) in listeners.iter().enumerate() {
            ring::spawn(accept(shard.clone(), listener.clone(), index));
        }
        {
            let (mut waits, mut house) = (pin!(shard.waits.keep(&shard)), pin!(shard.keep_house(&listeners)));
            poll_fn(|cx| {
                let _ = waits.as_mut().poll(cx);
                house.as_mut().poll(cx)
            })
            .await;
        }
        shard.timers.stop();
        if let Some(ear) = ear {
            ear.stop();
        }
    })
}

/// Client connections of one shard that leave descriptors for as many calls' connections to servers, and for files.
fn connections_max(files: u64, shards: usize) -> usize {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let kept = FILES_KEPT + shards * bell::DESCRIPTORS;
    (files.saturating_sub(kept) / 2 / shards.max(1)).max(1)
}

async fn accept(shard: Rc<Shard>, listener: Rc<Listener>, index: usize) {
    while !listener.is_stopped() {
        match listener.accept().await {
            Ok((socket, _)) => admit(&shard, socket, index),
            Err(_) if listener.is_stopped() => break,
            // Out of descriptors: those that wait are told so, the others are served, and in a moment it is tried again.
            Err(fault) => {
                if is_short(&fault, listener.local_addr()) {
                    listener.turn_away(TURN_AWAY_MAX);
                }
                shard.timers.sleep_until(shard.timers.now().mono.plus_ms(HOUSEKEEPING_MS)).await;
            }
        }
    }
}

/// Takes a connection in, if there is room for it.
fn admit(shard: &Rc<Shard>, socket: Socket, listener: usize) {
    let snapshot = shard.snapshot();
    let limits = &snapshot.settings.limits;
    if shard.draining() || !has_room(shard, socket.peer_addr().ip(), limits) {
        // Nothing can be said to one that TLS would have to be set up for first.
        let tls = snapshot.tls.listeners.get(listener).is_some_and(Option::is_some);
        return if tls { socket.shutdown() } else { send_away(shard, Stream::plain(socket)) };
    }
    begin(shard, socket, Begin::Accepted(listener));
}

/// Whether there is room for one more connection from there, be it because an idle one gives way; it is counted then.
fn has_room(shard: &Shard, peer: IpAddr, limits: &Limits) -> bool {
    let max = limits.connections_max.min(shard.connections_max);
    // In this order: whoever has its share already makes nobody give way.
    let mine = shard.load.arrive(peer, limits);
    let fits = mine && (shard.connections().len() < max || shard.make_room());
    if mine && !fits {
        shard.load.leave(peer);
    }
    fits
}

/// Serves a connection that has been counted.
fn begin(shard: &Rc<Shard>, socket: Socket, begin: Begin) {
    let peer = socket.peer_addr().ip();
    let handed = matches!(begin, Begin::Handed(..));
    let slot = Rc::new(Slot {
        socket,
        phase: Cell::new(if handed { Phase::Busy } else { Phase::Idle }),
        waker: RefCell::new(None),
        abort: Rc::default(),
        begun: Cell::new(Begun::Not),
        listed: Cell::new(false),
        asked: Cell::new(handed),
        token_place: Cell::new(Place::NOWHERE),
        handed: Cell::new(handed),
    });
    let key = shard.connections.borrow_mut().insert(slot.clone());
    let shard = shard.clone();
    ring::spawn(async move {
        let moved = serve::connection(shard.clone(), slot, begin).await;
        shard.connections.borrow_mut().remove(key);
        shard.load.leave(peer);
        if let Some((to, parcel)) = moved {
            hand_over(&shard, to, parcel);
        }
    });
}

/// Sends a connection to its shard; where that takes no more, its client is told to try again.
fn hand_over(shard: &Rc<Shard>, to: ShardId, parcel: Parcel) {
    match shard.control.mail.hand(to, parcel) {
        Ok(()) => shard.count(Count::ConnectionsMoved),
        Err(parcel) => {
            shard.count(Count::ConnectionsNotMoved);
            if let Ok(stream) = Stream::from_parts(parcel.parts, &shard.buffers) {
                send_away(shard, stream);
            }
        }
    }
}

/// Takes in a connection that another shard has sent, if there is room for it: also while the shard drains, because its
/// request has arrived.
fn take_in(shard: &Rc<Shard>, parcel: Parcel) {
    let Parcel { parts, received } = parcel;
    let peer = parts.peer_addr().ip();
    // Without buffers, or unknown to epoll, it just ends.
    let Ok(stream) = Stream::from_parts(parts, &shard.buffers) else { return };
    if has_room(shard, peer, &shard.snapshot().settings.limits) {
        begin(shard, stream.socket().clone(), Begin::Handed(stream, received));
    } else {
        shard.count(Count::ConnectionsNotMoved);
        send_away(shard, stream);
    }
}

/// Reads the shard's mail each time its bell rings.
async fn hear(shard: Rc<Shard>, ear: Listening) {
    while ear.rung().await {
        shard.read_letters();
        for cancel in shard.take_cancels() {
            take_back(&shard, &cancel);
        }
        for parcel in shard.control.mail.parcels(shard.id) {
            take_in(&shard, parcel);
        }
    }
}

/// Looks for the request that a client takes back, and ends it when its server has had the time to do so.
fn take_back(shard: &Rc<Shard>, cancel: &Cancel) {
    let found = shard.load.cancel(&cancel.nonce, &cancel.id);
    if cancel.is_vain(found != Found::Nothing) {
        shard.count(Count::CancelsLate);
    }
    let Found::Flight(flight) = found else { return };
    let told = tell_taken_back(shard, cancel.word.as_deref(), cancel.nonce, flight);
    let word = cancel.word.clone().filter(|_| !told);
    let (shard, nonce) = (shard.clone(), cancel.nonce);
    // As many of them as there are requests under way.
    ring::spawn(async move {
        shard.timers.sleep_until(shard.timers.now().mono.plus_ms(CANCEL_GRACE_MS)).await;
        // It may have been on its way to its server's session until now.
        tell_taken_back(&shard, word.as_deref(), nonce, flight);
        if shard.load.cancel_now(flight) {
            shard.count(Count::Cancelled);
        }
    });
}

/// Tells the one of several servers that has a request that its client takes it back; `false` where none has it.
fn tell_taken_back(shard: &Rc<Shard>, word: Option<&[u8]>, nonce: [u8; 16], flight: FlightKey) -> bool {
    let live = shard.sessions.borrow_mut().get(&nonce);
    let (Some(word), Some(live), Some((server, epoch))) = (word, live, shard.load.is_at(flight)) else {
        return false;
    };
    let (shard, word) = (shard.clone(), word.to_vec());
    ring::spawn(async move {
        let snapshot = shard.snapshot();
        let upstream = live.upstream(server).filter(|upstream| upstream.epoch == epoch);
        if let (Some(upstream), Some(server)) = (upstream, snapshot.server_by_digest(server)) {
            sessions::tell_one(&shard, &snapshot, &live, server, upstream, &word).await;
        }
    });
    true
}

/// Tells a client that there is no room. Where too many are told already, just an end.
fn send_away(shard: &Rc<Shard>, stream: Stream) {
    if !shard.load.linger() {
        return stream.shutdown();
    }
    let shard = shard.clone();
    ring::spawn(async move {
        serve::turn_down(&shard, &stream, Kind::NoRoom).await;
        shard.load.lingered();
    });
}

impl Shard {
    fn connections(&self) -> Ref<'_, Slab<Rc<Slot>>> {
        self.connections.borrow()
    }

    /// Ends an idle connection to make room for a new one: one that never carried a request, though it may have begun
    /// with one, before one that did. Looks at some of them only, each time further on; says whether it found one.
    fn make_room(&self) -> bool {
        let connections = self.connections();
        let mut found: Option<&Slot> = None;
        let mut hand = self.hand.get();
        for (place, slot) in connections.around(hand).take(EVICT_LOOKS_MAX) {
            hand = place + 1;
            let can_go = match slot.phase.get() {
                _ if slot.socket.is_deaf() => false,
                Phase::Idle => true,
                Phase::Arriving => !slot.asked.get(),
                Phase::Busy | Phase::Stream => false,
            };
            if can_go && (found.is_none() || !slot.asked.get()) {
                found = Some(slot);
                if !slot.asked.get() {
                    break;
                }
            }
        }
        self.hand.set(hand);
        if let Some(slot) = found {
            slot.socket.shutdown_read();
        }
        found.is_some()
    }

    /// Looks after the pools until told to stop, then drains.
    async fn keep_house(self: &Rc<Self>, listeners: &[Rc<Listener>]) {
        let mut trim = self.timers.now().mono.plus_ms(TRIM_MS);
        while self.control.life() == Life::Run {
            let now = self.timers.now().mono;
            self.control.beat(self.id);
            self.report();
            spin::set(self.snapshot().settings.spin_us, &self.timers);
            self.upstreams.prune(now);
            // No task is between its look at the snapshot and its decision: both are in one step of a task.
            self.control.seen.set(self.id, self.snapshot().number);
            self.feeds.sweep(self);
            if now >= trim {
                trim = now.plus_ms(TRIM_MS);
                self.forget_tokens(now);
                self.cards.borrow_mut().age(now);
                self.buffers.trim();
                give_back();
                sessions::expire(self);
                self.look_at_lines(now);
                if self.id == ShardId(0) {
                    self.control.asks.sweep(now);
                }
            }
            self.timers.sleep_until(now.plus_ms(HOUSEKEEPING_MS)).await;
        }
        self.drain(listeners).await;
    }

    /// Tells what there is to do here, and what was done.
    fn report(&self) {
        self.control.overhead.hand_over(self.id, &mut self.own.borrow_mut());
        let (calls, streams) = self.load.under_way();
        self.control.gauges.set(
            self.id,
            Busy {
                connections: self.connections().len() as u64,
                calls: calls as u64,
                streams: streams as u64,
                buffer_bytes: self.buffers.lent_bytes() as u64,
                records_lost: self.record.lost(),
            },
        );
    }

    /// Servers whose sessions are connections: those that nobody uses any more end.
    fn look_at_lines(&self, now: Moment) {
        let idle_ms = self.snapshot().settings.sessions.idle_s.saturating_mul(1000);
        self.upstreams.end_lines(now.less_ms(idle_ms));
        self.control.tally.raise(self.id, Count::LinesDropped, self.upstreams.take_dropped());
    }

    /// No new connections; idle ones end at once, streams get their clean end, calls their time.
    async fn drain(self: &Rc<Self>, listeners: &[Rc<Listener>]) {
        self.draining.set(true);
        for listener in listeners {
            // What the kernel has accepted already would be reset; this way it gets an end.
            listener.turn_away(socket::Options::default().backlog.into());
            listener.stop();
        }
        let begun = self.timers.now().mono;
        let until = begun.plus_ms(self.snapshot().settings.limits.drain_ms_max);
        let streams_until = begun.plus_ms(STREAM_END_MS_MAX).min(until);
        self.each(|slot| match slot.phase.get() {
            // What has arrived and was not looked at yet is served; then it ends.
            Phase::Idle => slot.socket.shutdown_read(),
            Phase::Stream => wake(slot),
            Phase::Arriving | Phase::Busy => {}
        });
        self.feeds.wake_all();
        loop {
            let now = self.timers.now().mono;
            self.control.seen.set(self.id, self.snapshot().number);
            self.report();
            self.feeds.heed_revocations(self);
            if self.connections().is_empty() {
                self.last_parcels();
            }
            let empty = self.connections().is_empty() && self.feeds.tasks() == 0;
            if empty || now >= until || self.control.life() == Life::Stop {
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
        self.last_parcels();
        self.cut().await;
        self.report();
        // Nothing is decided here any more, by whatever comes.
        self.control.seen.set(self.id, u64::MAX);
        self.upstreams.clear();
    }

    /// Those that wait on streams look around; and those that relay an answer that is one.
    pub(super) fn wake_streams(&self) {
        self.each(|slot| {
            if matches!(slot.phase.get(), Phase::Stream | Phase::Busy) {
                wake(slot);
            }
        });
    }

    /// Takes in the connections that are on their way here; from now on no others come.
    fn last_parcels(self: &Rc<Self>) {
        for parcel in self.control.mail.last_parcels(self.id) {
            take_in(self, parcel);
        }
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

/// Lets the allocator return what was freed a while ago to the system. mimalloc looks for that when it frees a page, and
/// only then: a shard that nothing happens on any more would keep what a flood has cost it.
fn give_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(WHOLE_PAGES_BYTES)));
}

/// So large that it has allocator's pages of its own, which are freed with it.
const WHOLE_PAGES_BYTES: usize = 1024 * 1024;

fn wake(slot: &Slot) {
    if let Some(waker) = slot.waker.borrow_mut().take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared_out() {
        let check = |files: u64, shards: usize, want: usize| assert_eq!(connections_max(files, shards), want);
        check(1024, 1, 447);
        check(1024, 2, 223);
        check(16, 4, 1);
        check(u64::MAX, 1, (usize::MAX - FILES_KEPT - 2) / 2);
    }
}
