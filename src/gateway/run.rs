//! A shard's life: from its listeners' first connection to the end of its last one.

use std::cell::{Cell, Ref, RefCell};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::ids::ShardId;
use crate::base::limits::{HOUSEKEEPING_MS, STREAM_END_MS_MAX};
use crate::base::slab::Slab;
use crate::base::time::Moment;
use crate::record::Writer;
use crate::session::owner::SealingKey;
use crate::upstream::exchange::Abort;
use crate::uring::ring::{self, Driver, RingFault};
use crate::uring::socket::Listener;

use super::control::{Control, Life};
use super::serve;
use super::shard::{Phase, Shard, Slot};

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
    fn connections(&self) -> Ref<'_, Slab<Rc<Slot>>> {
        self.connections.borrow()
    }

    /// Looks after the pools until told to stop, then drains.
    async fn keep_house(&self, listeners: &[Rc<Listener>]) {
        while self.control.life() == Life::Run {
            let now = self.timers.now().mono;
            self.control.beat(self.id);
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
