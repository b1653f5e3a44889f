//! ledger: what all shards must agree on.
//! Colour: between. Owns: session records, and what servers have asked of clients; in stripes, each behind a lock that
//! is held for a few hundred instructions, never across an await or a system call.
//! Not here: what a record is and when it ends (`session::ledger`), files, clocks, threads.
//! Start at `Ledger::visit`.
//! Spec: MCP 2025-03-26 to 2025-11-25 basic/transports, "Session Management".

pub mod asks;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use crate::base::limits::{LEDGER_STRIPES, LEDGER_SUBSCRIBED_BYTES_MAX, PROFILES_MAX, SWEEP_LOOKS};
use crate::base::time::Now;
use crate::session::ledger::{
    Bounds, Claim, LedgerFault, Opened, Parting, Profile, SessionKey, Stripe, Terms, Upstream, Visit, profile_digest,
};

/// The sessions of all shards.
#[derive(Debug)]
pub struct Ledger {
    stripes: Box<[Mutex<Stripe>]>,
    profiles: Mutex<Vec<Arc<Profile>>>,
    sessions_max: AtomicUsize,
    len: AtomicUsize,
    subscribed_bytes: AtomicUsize,
    /// How often the journal was taken.
    taken: AtomicU64,
    /// Up to which of those it is written.
    kept: AtomicU64,
}

/// A session that its client has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its sessions at servers, to be ended there.
    pub upstreams: SmallVec<[Upstream; 1]>,
    /// It was over before.
    pub already: bool,
    /// Its end is safe once [`Ledger::is_kept`] says so of this.
    pub mark: u64,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            stripes: (0..LEDGER_STRIPES).map(|_| Mutex::new(Stripe::new(bounds))).collect(),
            profiles: Mutex::default(),
            sessions_max: AtomicUsize::new(bounds.sessions_max),
            len: AtomicUsize::new(0),
            subscribed_bytes: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        }
    }

    /// Other bounds, from now on.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.sessions_max.store(bounds.sessions_max, Ordering::Relaxed);
        for stripe in &self.stripes {
            lock(stripe).set_bounds(bounds);
        }
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A session began: its `initialize` was answered by `upstream`, whose epoch is 1. `profile`: its params.
    ///
    /// # Errors
    /// `LedgerFault`.
    pub fn enter(
        &self,
        key: SessionKey,
        terms: Terms,
        profile: &[u8],
        upstream: Upstream,
        now_s: u64,
    ) -> Result<(), LedgerFault> {
        let profile = self.intern(profile);
        let room = self.has_room();
        self.at(&key, |stripe| stripe.enter(key, terms, profile, Some(upstream), now_s, room))
    }

    /// What is known of a session that is new to a shard.
    #[must_use]
    pub fn visit(&self, key: &SessionKey, terms: Terms, now_s: u64) -> Visit {
        let room = self.has_room();
        self.at(key, |stripe| stripe.visit(key, terms, now_s, room))
    }

    /// Asks who opens the session at a server, where the one of `stale_epoch` (0: none) is of no use.
    #[must_use]
    pub fn claim(&self, key: &SessionKey, server: u64, stale_epoch: u32, now: Now) -> Claim {
        self.at(key, |stripe| stripe.claim(key, server, stale_epoch, now))
    }

    /// The session was opened at a server, by who was told to lead, with the epoch it was told.
    #[must_use]
    pub fn opened(&self, key: &SessionKey, upstream: Upstream) -> Opened {
        self.at(key, |stripe| stripe.opened(key, upstream))
    }

    /// It could not be opened: another may try.
    pub fn not_opened(&self, key: &SessionKey, server: u64, epoch: u32) {
        self.at(key, |stripe| stripe.not_opened(key, server, epoch));
    }

    /// The session is in use; said every `limits::SESSION_TOUCH_S` at most. Whether it is still there.
    pub fn touch(&self, key: &SessionKey, now_s: u64) -> bool {
        self.at(key, |stripe| stripe.touch(key, now_s))
    }

    /// The client has set its log level.
    pub fn set_level(&self, key: &SessionKey, level: u8) {
        self.at(key, |stripe| stripe.set_level(key, level));
    }

    /// The client has subscribed to a resource, or no longer is. Whether that is remembered.
    pub fn subscribe(&self, key: &SessionKey, uri: &str, on: bool) -> bool {
        let room = self.subscribed_bytes.load(Ordering::Relaxed) + uri.len() <= LEDGER_SUBSCRIBED_BYTES_MAX;
        self.at(key, |stripe| stripe.subscribe(key, uri, on, room))
    }

    /// The client ends its session.
    #[must_use]
    pub fn end(&self, key: &SessionKey, terms: Terms, now_s: u64) -> Ended {
        self.at(key, |stripe| {
            let upstreams = stripe.end(key, terms.issued_s, now_s);
            let already = upstreams.is_none();
            // Under the lock: the next round of the journal has not been here yet.
            let mark = self.taken.load(Ordering::Acquire) + 1;
            Ended { upstreams: upstreams.unwrap_or_default(), already, mark }
        })
    }

    /// Whether all that was done up to this mark outlives the process.
    #[must_use]
    pub fn is_kept(&self, mark: u64) -> bool {
        self.kept.load(Ordering::Acquire) >= mark
    }

    /// Ends sessions that are idle or too old, in this part of the ledger, and hands out at most `max` of those that
    /// have ended without their client: other shards must hear, and so must their servers. Called by the one who has
    /// this part, about every second: the whole is looked at in some 64 calls.
    pub fn sweep(&self, part: usize, parts: usize, now_s: u64, max: usize, mut each: impl FnMut(Parting)) {
        let mut out = Vec::new();
        for stripe in self.stripes.iter().skip(part).step_by(parts.max(1)) {
            let mut looks = lock(stripe).places().div_ceil(LEDGER_STRIPES).max(SWEEP_LOOKS);
            while looks > 0 && out.len() < max {
                let now = looks.min(SWEEP_LOOKS);
                self.within(stripe, |stripe| stripe.sweep(now_s, now, max - out.len(), &mut out));
                looks -= now;
            }
        }
        out.into_iter().for_each(&mut each);
    }

    /// What has changed since this was last taken, for the journal. All of it, once written, is to be confirmed by
    /// [`Ledger::set_kept`] with the mark that this gives.
    pub fn take_journal(&self, _out: &mut Vec<u8>) -> u64 {
        self.taken.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// What was taken up to this mark is written.
    pub fn set_kept(&self, mark: u64) {
        self.kept.fetch_max(mark, Ordering::AcqRel);
    }

    fn has_room(&self) -> bool {
        self.len() < self.sessions_max.load(Ordering::Relaxed)
    }

    /// The one copy of this profile; `None` when it is too long, or there are too many.
    fn intern(&self, json: &[u8]) -> Option<Arc<Profile>> {
        let profile = Profile::new(json)?;
        let digest = profile_digest(json);
        let mut profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = profiles.iter().find(|known| known.digest() == digest) {
            return Some(known.clone());
        }
        if profiles.len() >= PROFILES_MAX {
            profiles.retain(|known| Arc::strong_count(known) > 1);
        }
        (profiles.len() < PROFILES_MAX).then(|| {
            let profile = Arc::new(profile);
            profiles.push(profile.clone());
            profile
        })
    }

    fn at<T>(&self, key: &SessionKey, work: impl FnOnce(&mut Stripe) -> T) -> T {
        self.within(&self.stripes[usize::from(key.owner.0[0]) % LEDGER_STRIPES], work)
    }

    /// Does something with a stripe, and keeps the counts of all right.
    fn within<T>(&self, stripe: &Mutex<Stripe>, work: impl FnOnce(&mut Stripe) -> T) -> T {
        let mut stripe = lock(stripe);
        let (len, bytes) = (stripe.len(), stripe.subscribed_bytes());
        let result = work(&mut stripe);
        self.len.fetch_add(stripe.len().wrapping_sub(len), Ordering::Relaxed);
        self.subscribed_bytes.fetch_add(stripe.subscribed_bytes().wrapping_sub(bytes), Ordering::Relaxed);
        result
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
