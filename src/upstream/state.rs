//! What is known of a server for longer than one snapshot: carried from one to the next for as long as its settings are
//! the same. Ids belong to one snapshot; what outlives that has one of these, or finds it again by a digest.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::event::{EventfdFlags, eventfd};

use super::breaker::Breaker;
use super::dial::Dial;

/// One server.
#[derive(Debug)]
pub struct ServerState {
    /// Its name's [`crate::session::owner::name_hash`].
    pub digest: u64,
    /// Its bell.
    pub poke: Poke,
    /// Where it is, in the order of the settings; one that stays the same when others change is carried along.
    pub instances: Vec<Arc<InstanceState>>,
    /// The calls that are under way there, of all shards.
    pub seats: Seats,
    over: AtomicBool,
}

/// How many calls are under way at a server: counted only where there is a bound.
#[derive(Debug, Default)]
pub struct Seats(AtomicU32);

/// One of the places where a server is.
#[derive(Debug)]
pub struct InstanceState {
    /// Of its server's name, its URL and how TLS is spoken there: connections are kept under it. The same in every
    /// process.
    pub digest: u64,
    /// Whether it is asked.
    pub breaker: Breaker,
    stdio: OnceLock<Arc<dyn Dial>>,
}

/// One server's bell: rung by shards, heard by the thread that keeps its catalogue.
#[derive(Debug)]
pub struct Poke {
    bell: OwnedFd,
    stale: AtomicU64,
    fresh: AtomicU64,
    unreachable: AtomicU64,
}

impl ServerState {
    /// Nothing known yet.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub fn new(digest: u64, instances: Vec<Arc<InstanceState>>) -> std::io::Result<Self> {
        let (seats, over) = (Seats::default(), AtomicBool::new(false));
        Ok(Self { digest, poke: Poke::new()?, instances, seats, over })
    }

    /// The way to it, where it is a program.
    #[must_use]
    pub fn way(&self) -> Option<&Arc<dyn Dial>> {
        self.instances.first()?.way()
    }

    /// No snapshot from now on has it: whoever keeps it is to end.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.poke.ring();
    }

    /// Whether that is so.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether it is at this instance.
    #[must_use]
    pub fn has(&self, instance: u64) -> bool {
        self.instances.iter().any(|known| known.digest == instance)
    }
}

impl InstanceState {
    /// Nothing known yet.
    #[must_use]
    pub fn new(digest: u64) -> Self {
        Self { digest, breaker: Breaker::default(), stdio: OnceLock::new() }
    }

    /// It is a program, and this is the way to it; once.
    pub fn is_at(&self, way: Arc<dyn Dial>) {
        // A second way would be another server's.
        let _ = self.stdio.set(way);
    }

    /// The way to it, where it is a program.
    #[must_use]
    pub fn way(&self) -> Option<&Arc<dyn Dial>> {
        self.stdio.get()
    }
}

impl Seats {
    /// One more, if that makes no more than `max`. Whoever takes one gives it back.
    pub fn take(&self, max: u32) -> bool {
        let more = |taken: u32| (taken < max).then_some(taken + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok()
    }

    /// One less.
    pub fn give_back(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

impl Poke {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            bell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            stale: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
        })
    }

    /// The server said that its lists changed.
    pub fn changed(&self) {
        self.stale.fetch_add(1, Ordering::AcqRel);
        self.ring();
    }

    /// A connect to the server failed: its name may have moved.
    pub fn unreachable(&self) {
        if self.unreachable.fetch_add(1, Ordering::AcqRel) == 0 {
            self.ring();
        }
    }

    /// Whether connects have failed since this was last asked.
    pub fn take_unreachable(&self) -> bool {
        self.unreachable.swap(0, Ordering::AcqRel) > 0
    }

    /// How many changes were announced. The catalogue is as new as the server's word when `fresh` has reached it.
    #[must_use]
    pub fn announced(&self) -> u64 {
        self.stale.load(Ordering::Acquire)
    }

    /// How many of them the published catalogue knows.
    #[must_use]
    pub fn fresh(&self) -> u64 {
        self.fresh.load(Ordering::Acquire)
    }

    /// The catalogue just published was fetched after so many announcements.
    pub fn set_fresh(&self, announced: u64) {
        self.fresh.fetch_max(announced, Ordering::AcqRel);
    }

    /// What to wait on; readable once rung.
    #[must_use]
    pub fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Makes the bell silent again.
    pub fn hush(&self) {
        let mut count = [0; 8];
        // Nothing to read means that nobody rang in between.
        let _ = rustix::io::read(&self.bell, &mut count);
    }

    /// Wakes whoever keeps the server.
    pub fn ring(&self) {
        // The counter can only be full when nobody has listened for 2^64 rings.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}
