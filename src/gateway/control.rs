//! What the plane and the shards have in common: the snapshot on its way down, the order to stop, and the pokes by
//! which a shard tells the plane that it saw something.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustix::event::{EventfdFlags, eventfd};

use crate::base::ids::{ServerId, ShardId};
use crate::config::snapshot::Snapshot;
use crate::ledger::Ledger;
use crate::ledger::asks::Asks;

use super::mail::Mail;
use super::tally::Tally;

/// Shared by the plane and all shards.
#[derive(Debug)]
pub struct Control {
    /// The snapshot to decide by.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What shards tell each other.
    pub mail: Mail,
    /// What is remembered of sessions.
    pub ledger: Arc<Ledger>,
    /// What servers have asked of clients.
    pub asks: Asks,
    /// What is counted.
    pub tally: Tally,
    /// That shards live.
    pub beats: Beats,
    /// By `ServerId`.
    pokes: Vec<Poke>,
    life: AtomicU8,
}

/// How the shards are to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Serve.
    Run,
    /// Take nothing new, finish what there is.
    Drain,
    /// End now.
    Stop,
}

/// How often each shard has said that it lives. Written some 20 times a second, so sharing a cache line costs nothing.
#[derive(Debug)]
pub struct Beats(Vec<AtomicU64>);

/// One server's bell: rung by shards, heard by the thread that keeps its catalogue.
#[derive(Debug)]
pub struct Poke {
    bell: OwnedFd,
    stale: AtomicU64,
    fresh: AtomicU64,
    unreachable: AtomicU64,
}

impl Control {
    /// For so many shards and servers, deciding by `snapshot`.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub fn new(snapshot: Snapshot, shards: usize, servers: usize) -> std::io::Result<Self> {
        let pokes = (0..servers).map(|_| Poke::new()).collect::<std::io::Result<_>>()?;
        let ledger = Arc::new(Ledger::new(snapshot.settings.sessions));
        Ok(Self {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            mail: Mail::new(shards)?,
            ledger,
            asks: Asks::new(),
            tally: Tally::new(shards),
            beats: Beats::new(shards),
            pokes,
            life: AtomicU8::new(0),
        })
    }

    /// The shard lives: it has come around to its housekeeping once more.
    pub fn beat(&self, shard: ShardId) {
        self.beats.beat(shard);
    }

    /// The bell of a server.
    ///
    /// # Panics
    /// With an id of another snapshot.
    #[must_use]
    pub fn poke(&self, server: ServerId) -> &Poke {
        &self.pokes[server.index()]
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.mail.shards()
    }

    /// What the shards are to do.
    #[must_use]
    pub fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::Run,
            1 => Life::Drain,
            _ => Life::Stop,
        }
    }

    /// Tells the shards; they look every `HOUSEKEEPING_MS`.
    pub fn set_life(&self, life: Life) {
        let word = match life {
            Life::Run => 0,
            Life::Drain => 1,
            Life::Stop => 2,
        };
        self.life.store(word, Ordering::Release);
        for poke in &self.pokes {
            poke.ring();
        }
    }
}

impl Beats {
    /// For so many shards, none of which has begun.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| AtomicU64::new(0)).collect())
    }

    /// One more beat of a shard.
    pub fn beat(&self, shard: ShardId) {
        if let Some(beats) = self.0.get(shard.index()) {
            beats.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts, by `ShardId`.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|beats| beats.load(Ordering::Relaxed))
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

    fn ring(&self) {
        // The counter can only be full when nobody has listened for 2^64 rings.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}
