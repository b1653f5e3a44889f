//! What the plane and the shards have in common: the snapshot on its way down, and the order to stop.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, Guard};

use crate::base::ids::ShardId;
use crate::base::limits::{
    CREDENTIALS_MAX, ERRANDS_MAX, INTROSPECTIONS_MAX, INTROSPECTIONS_WAITING_MAX, VIEWS_MAX, VIEWS_WAITING_MAX,
};
use crate::config::snapshot::Snapshot;
use crate::ledger::Ledger;
use crate::ledger::approvals::Approvals;
use crate::ledger::asks::Asks;
use crate::ledger::counts::Counts;
use crate::ledger::errands::Errands;
use crate::record::own::OwnTimes;
use crate::stdio::host::Host;
use crate::uring::wait::clock;

use super::errand::{Inquiry, Issued, Judged, TokenErrand};
use super::keydesk::KeyDesk;
use super::mail::Mail;
use super::spans::Spans;
use super::tally::Tally;
use super::view::{Sets, View, ViewErrand};

/// Shared by the plane and all shards.
#[derive(Debug)]
pub struct Control {
    /// The snapshot to decide by.
    pub snapshot: Published,
    /// What shards tell each other.
    pub mail: Mail,
    /// What is remembered of sessions.
    pub ledger: Arc<Ledger>,
    /// What servers have asked of clients.
    pub asks: Asks,
    /// What limits and rates count.
    pub counts: Arc<Counts>,
    /// What people were asked, and what they decided.
    pub approvals: Arc<Approvals>,
    /// Tokens for servers.
    pub credentials: Errands<TokenErrand, Arc<Issued>>,
    /// What servers show callers of their lists.
    pub views: Errands<ViewErrand, Arc<View>>,
    /// What these are made of.
    pub sets: Sets,
    /// What issuers say of opaque tokens.
    pub introspections: Errands<Inquiry, Arc<Judged>>,
    /// Looks at issuers' keys that shards ask for.
    pub key_desk: KeyDesk,
    /// What is counted.
    pub tally: Tally,
    /// Spans that are over.
    pub spans: Spans,
    /// That shards live.
    pub beats: Beats,
    /// By which snapshot each shard decides, at least.
    pub seen: Seen,
    /// What each shard has to do at the moment.
    pub gauges: Gauges,
    /// The gateway's own time.
    pub overhead: Overhead,
    /// Runs servers that are programs; the plane's.
    pub programs: OnceLock<Host>,
    life: AtomicU8,
}

/// The newest snapshot, and how often there was another one: who has seen the last one need not ask for it again.
#[derive(Debug)]
pub struct Published {
    newest: ArcSwap<Snapshot>,
    turn: AtomicU64,
}

impl Published {
    fn new(snapshot: Snapshot) -> Self {
        Self { newest: ArcSwap::from_pointee(snapshot), turn: AtomicU64::new(1) }
    }

    /// It, for a moment.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.newest.load()
    }

    /// It.
    #[must_use]
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.newest.load_full()
    }

    /// From now on it is this one: before this returns, for whoever asks for the turn too.
    pub fn store(&self, snapshot: Arc<Snapshot>) {
        self.newest.store(snapshot);
        self.turn.fetch_add(1, Ordering::Release);
    }

    /// Another one with each snapshot. To be read before the snapshot: what is loaded then is as new as this, or newer.
    #[must_use]
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }
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

/// The number of the newest snapshot that each shard has taken up: nothing is decided there by an older one any more.
/// Written some 20 times a second, as [`Beats`].
#[derive(Debug)]
pub struct Seen(Vec<AtomicU64>);

impl Seen {
    /// The shard decides by this snapshot from now on, or by a newer one.
    pub fn set(&self, shard: ShardId, number: u64) {
        if let Some(seen) = self.0.get(shard.index()) {
            seen.fetch_max(number, Ordering::AcqRel);
        }
    }

    /// How many shards may still decide by an older one.
    #[must_use]
    pub fn behind(&self, number: u64) -> usize {
        self.0.iter().filter(|seen| seen.load(Ordering::Acquire) < number).count()
    }
}

impl Control {
    /// For so many shards, deciding by `snapshot`.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub fn new(mut snapshot: Snapshot, shards: usize) -> std::io::Result<Self> {
        let ledger = Arc::new(Ledger::new(snapshot.settings.sessions));
        snapshot.meter(shards);
        Ok(Self {
            snapshot: Published::new(snapshot),
            mail: Mail::new(shards)?,
            ledger,
            asks: Asks::new(),
            counts: Arc::new(Counts::new(clock())),
            approvals: Arc::default(),
            credentials: Errands::new(CREDENTIALS_MAX, ERRANDS_MAX),
            views: Errands::new(VIEWS_MAX, VIEWS_WAITING_MAX),
            sets: Sets::default(),
            introspections: Errands::new(INTROSPECTIONS_MAX, INTROSPECTIONS_WAITING_MAX),
            key_desk: KeyDesk::default(),
            tally: Tally::new(shards),
            spans: Spans::new(shards),
            beats: Beats::new(shards),
            seen: Seen((0..shards).map(|_| AtomicU64::new(0)).collect()),
            gauges: Gauges::new(shards),
            overhead: Overhead((0..shards).map(|_| Mutex::default()).collect()),
            programs: OnceLock::new(),
            life: AtomicU8::new(0),
        })
    }

    /// The shard lives: it has come around to its housekeeping once more.
    pub fn beat(&self, shard: ShardId) {
        self.beats.beat(shard);
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
        for state in &self.snapshot.load().states {
            state.poke.ring();
        }
    }
}

/// What each shard had to do when it last came around to its housekeeping; written as rarely as [`Beats`].
#[derive(Debug)]
pub struct Gauges(Vec<[AtomicU64; 5]>);

/// What a shard has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// Connections of clients.
    pub connections: u64,
    /// Requests in flight that are counted against their subject.
    pub calls: u64,
    /// Streams.
    pub streams: u64,
    /// Bytes of the buffers in use.
    pub buffer_bytes: u64,
    /// Records that found no room, since the process began.
    pub records_lost: u64,
}

impl Gauges {
    /// For so many shards, which have nothing to do yet.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Default::default()).collect())
    }

    /// What a shard has to do now.
    pub fn set(&self, shard: ShardId, busy: Busy) {
        let Some(row) = self.0.get(shard.index()) else { return };
        let Busy { connections, calls, streams, buffer_bytes, records_lost } = busy;
        for (gauge, value) in row.iter().zip([connections, calls, streams, buffer_bytes, records_lost]) {
            gauge.store(value, Ordering::Relaxed);
        }
    }

    /// By `ShardId`.
    pub fn iter(&self) -> impl Iterator<Item = Busy> {
        self.0.iter().map(|row| {
            let all = row.each_ref().map(|it| it.load(Ordering::Relaxed));
            let [connections, calls, streams, buffer_bytes, records_lost] = all;
            Busy { connections, calls, streams, buffer_bytes, records_lost }
        })
    }
}

/// The gateway's own time as the shards have handed it over, by `ShardId`.
#[derive(Debug)]
pub struct Overhead(Vec<Mutex<OwnTimes>>);

impl Overhead {
    /// Takes over what a shard has recorded. Where the plane is reading it just now, the shard keeps it until it comes
    /// around again: it waits for nobody.
    pub fn hand_over(&self, shard: ShardId, from: &mut OwnTimes) {
        if let Some(Ok(mut to)) = self.0.get(shard.index()).map(Mutex::try_lock) {
            from.hand_over(&mut to);
        }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> OwnTimes {
        let mut total = OwnTimes::default();
        self.0.iter().for_each(|own| total.add(&own.lock().unwrap_or_else(PoisonError::into_inner)));
        total
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
