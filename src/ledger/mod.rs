//! ledger: what all shards must agree on.
//! Colour: between. Owns: session records, what servers have asked of clients, and approvals; each part behind a lock that
//! is held for a few hundred instructions, never across an await or a system call.
//! Not here: what a record is and when it ends (`session::ledger`), files, clocks, threads.
//! Start at `Ledger::visit`.
//! Spec: MCP 2025-03-26 to 2025-11-25 basic/transports, "Session Management".

pub mod approvals;
pub mod asks;
pub mod counts;
pub mod errands;
mod spool;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use crate::base::limits::{
    JOURNAL_PENDING_BYTES_MAX, LEDGER_STRIPES, LEDGER_SUBSCRIBED_BYTES_MAX, PROFILES_MAX, SWEEP_LOOKS,
};
use crate::base::time::Now;
use crate::session::journal::{self, JournalFault, Reader, Tail};
use crate::session::ledger::{
    Bounds, Claim, LedgerFault, Lengths, Opened, Parting, Profile, SessionKey, Stripe, Terms, Upstream, Visit,
};

/// The sessions of all shards.
#[derive(Debug)]
pub struct Ledger {
    stripes: Box<[Mutex<Stripe>]>,
    profiles: Mutex<Profiles>,
    sessions_max: AtomicUsize,
    touch_s: AtomicU64,
    len: AtomicUsize,
    subscribed_bytes: AtomicUsize,
    /// Something has changed since the journal was taken.
    changed: AtomicBool,
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

/// What sessions began with, each once.
#[derive(Debug, Default)]
struct Profiles {
    known: HashMap<[u8; 16], Arc<Profile>>,
    /// New since the journal was last taken.
    journal: Vec<u8>,
    /// They were too many to keep: only a picture of the whole can follow.
    overrun: bool,
}

/// What there is for the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// To be confirmed by [`Ledger::set_kept`] once it is written.
    pub mark: u64,
    /// It is all there is. Else the journal must begin anew, with [`Ledger::picture`].
    pub whole: bool,
}

/// What came of reading a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its bytes up to the end of the last whole entry.
    pub used: usize,
    /// What is behind those.
    pub tail: Tail,
    /// It is in a layout that is no longer written.
    pub old: bool,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            stripes: (0..LEDGER_STRIPES).map(|_| Mutex::new(Stripe::new(bounds))).collect(),
            profiles: Mutex::default(),
            sessions_max: AtomicUsize::new(bounds.sessions_max),
            touch_s: AtomicU64::new(bounds.touch_s()),
            len: AtomicUsize::new(0),
            subscribed_bytes: AtomicUsize::new(0),
            changed: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        }
    }

    /// Other bounds, from now on.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.sessions_max.store(bounds.sessions_max, Ordering::Relaxed);
        self.touch_s.store(bounds.touch_s(), Ordering::Relaxed);
        for stripe in &self.stripes {
            lock(stripe).set_bounds(bounds);
        }
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// How long those sessions lasted that have ended since the process began.
    #[must_use]
    pub fn lengths(&self) -> Lengths {
        let mut all = Lengths::default();
        self.stripes.iter().for_each(|stripe| all.add(lock(stripe).lengths()));
        all
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A session began: its `initialize` was answered by `upstream`, whose epoch is 1, or by the gateway itself (`None`).
    /// `profile`: its params.
    ///
    /// # Errors
    /// `LedgerFault`.
    pub fn enter(
        &self,
        key: SessionKey,
        terms: Terms,
        profile: &[u8],
        upstream: Option<Upstream>,
        now_s: u64,
    ) -> Result<(), LedgerFault> {
        let profile = self.intern(profile);
        let room = self.has_room();
        self.at(&key, |stripe| stripe.enter(key, terms, profile, upstream, now_s, room))
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

    /// How often a shard says that a session is in use, seconds: [`Bounds::touch_s`].
    #[must_use]
    pub fn touch_s(&self) -> u64 {
        self.touch_s.load(Ordering::Relaxed)
    }

    /// The session is in use; said every [`Ledger::touch_s`]. Whether it is still there.
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
            self.changed.store(true, Ordering::SeqCst);
            let mark = self.taken.load(Ordering::SeqCst) + 1;
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
                self.with(stripe, |stripe| stripe.sweep(now_s, now, max - out.len(), &mut out));
                looks -= now;
            }
        }
        out.into_iter().for_each(&mut each);
    }

    /// What has changed since this was last taken, for the journal.
    pub fn take_journal(&self, out: &mut Vec<u8>) -> Taken {
        // Whoever reads the count under a stripe's lock before this line is met by the walk; whoever reads it after has
        // the next mark. The order of these two and those in `with` and `end` must be the same for all threads.
        let mark = self.taken.fetch_add(1, Ordering::SeqCst) + 1;
        if !self.changed.swap(false, Ordering::SeqCst) {
            return Taken { mark, whole: true };
        }
        let mut entries = Vec::new();
        let mut whole = true;
        for stripe in &self.stripes {
            whole &= lock(stripe).take_journal(&mut entries);
        }
        // A profile is there before a session refers to it: taken after the sessions, written before them.
        let mut profiles = lock(&self.profiles);
        whole &= !profiles.overrun;
        out.append(&mut profiles.journal);
        drop(profiles);
        out.append(&mut entries);
        if !whole {
            self.changed.store(true, Ordering::SeqCst);
        }
        Taken { mark, whole }
    }

    /// Writes all there is in pieces of some 10 KiB, as a journal that begins anew; no lock is held while one is
    /// written. What it gives is as that of [`Ledger::take_journal`]. When it fails, or is not whole, a picture must be
    /// taken again before anything else can follow.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn picture<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<Taken, E> {
        write(&journal::HEADER)?;
        let mut written = HashSet::new();
        let mut out = Vec::new();
        self.stripes.iter().for_each(|stripe| lock(stripe).begin_picture());
        let profiles = {
            let mut profiles = lock(&self.profiles);
            profiles.journal.clear();
            profiles.overrun = false;
            profiles.known.clone()
        };
        for (digest, profile) in &profiles {
            written.insert(*digest);
            journal::write_profile(&mut out, profile);
            write(&out)?;
            out.clear();
        }
        let mut sessions = Vec::new();
        for (place, stripe) in (0_u8..).zip(&self.stripes) {
            let mut from = Some(0);
            while let Some(at) = from {
                from = lock(stripe).picture(place, at, SWEEP_LOOKS, &mut sessions, |profile| {
                    // One that is newer than the picture's begin.
                    if written.insert(profile.digest()) {
                        journal::write_profile(&mut out, profile);
                    }
                });
                write(&out)?;
                write(&sessions)?;
                out.clear();
                sessions.clear();
            }
        }
        let taken = self.take_journal(&mut out);
        write(&out)?;
        Ok(taken)
    }

    /// Makes the table again that a journal tells of. The ledger must be empty and in nobody's hands yet.
    ///
    /// # Errors
    /// `JournalFault`; nothing has been read then.
    pub fn restore(&self, bytes: &[u8]) -> Result<Restored, JournalFault> {
        let mut reader = Reader::open(bytes)?;
        let mut profiles: HashMap<[u8; 16], Arc<Profile>> = HashMap::new();
        while let Some(entry) = reader.next() {
            let done = match entry.profile() {
                Some(json) => Profile::new(json).is_some_and(|profile| {
                    profiles.entry(profile.digest()).or_insert_with(|| Arc::new(profile));
                    true
                }),
                None => self.with(&self.stripes[usize::from(entry.place()) % LEDGER_STRIPES], |stripe| {
                    stripe.replay(&entry, |digest| profiles.get(digest).cloned())
                }),
            };
            if !done {
                reader.reject(&entry);
            }
        }
        self.stripes.iter().for_each(|stripe| lock(stripe).settle());
        let used = profiles.into_iter().filter(|(_, profile)| Arc::strong_count(profile) > 1);
        lock(&self.profiles).known = used.take(PROFILES_MAX).collect();
        Ok(Restored { used: reader.used(), tail: reader.tail(), old: reader.is_old() })
    }

    /// Records may be missing that were not lost in a crash: sessions issued until now that have none are over.
    pub fn distrust(&self, now_s: u64) {
        for (place, stripe) in (0_u8..).zip(&self.stripes) {
            self.with(stripe, |stripe| stripe.distrust(place, now_s));
        }
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
        let mut profiles = lock(&self.profiles);
        if let Some(known) = profiles.known.get(&profile.digest()) {
            return Some(known.clone());
        }
        if profiles.known.len() >= PROFILES_MAX {
            profiles.known.retain(|_, known| Arc::strong_count(known) > 1);
        }
        if profiles.known.len() >= PROFILES_MAX {
            return None;
        }
        let profile = Arc::new(profile);
        if profiles.journal.len() > JOURNAL_PENDING_BYTES_MAX {
            profiles.journal = Vec::new();
            profiles.overrun = true;
        }
        if !profiles.overrun {
            journal::write_profile(&mut profiles.journal, &profile);
        }
        profiles.known.insert(profile.digest(), profile.clone());
        Some(profile)
    }

    fn at<T>(&self, key: &SessionKey, work: impl FnOnce(&mut Stripe) -> T) -> T {
        self.with(&self.stripes[usize::from(key.owner.0[0]) % LEDGER_STRIPES], work)
    }

    /// Does something with a stripe, and keeps the counts of all right.
    fn with<T>(&self, stripe: &Mutex<Stripe>, work: impl FnOnce(&mut Stripe) -> T) -> T {
        let mut stripe = lock(stripe);
        let (len, bytes) = (stripe.len(), stripe.subscribed_bytes());
        let result = work(&mut stripe);
        self.len.fetch_add(stripe.len().wrapping_sub(len), Ordering::Relaxed);
        self.subscribed_bytes.fetch_add(stripe.subscribed_bytes().wrapping_sub(bytes), Ordering::Relaxed);
        if stripe.is_changed() {
            self.changed.store(true, Ordering::SeqCst);
        }
        result
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const _: () = assert!(LEDGER_STRIPES <= 256 && LEDGER_STRIPES.is_power_of_two(), "a stripe is a byte of an owner");
