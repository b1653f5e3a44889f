//! One stripe of the ledger: the sessions of some owners, as a table without a lock. Time is an argument.
//!
//! A session is known by its record. When it ends a tombstone takes the record's place until its sealed id is too old
//! to be opened; tombstones are bounded, and the oldest that is pushed out raises a mark: a session *without a record*
//! that was issued before the mark can no longer be told from one that has ended, and is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashTable;
use ring::digest;
use smallvec::SmallVec;
use thiserror::Error;

use crate::base::limits::{
    JOURNAL_PENDING_BYTES_MAX, LEASE_MS, LEASES_MAX, PARTINGS_MAX, PROFILE_BYTES_MAX, SESSION_IDLE_MS_MAX,
    SESSION_LIFETIME_MS_MAX, SESSION_SERVERS_MAX, SESSION_SPARE_S, SESSION_TOUCH_S, SESSIONS_MAX,
    SESSIONS_PER_SUBJECT_MAX, SUBSCRIBED_BYTES_MAX, SUBSCRIPTIONS_MAX, TOMBSTONES_MAX, UPSTREAM_SESSION_BYTES_MAX,
};
use crate::base::time::{Moment, Now};
use crate::identity::caller::Owner;
use crate::mcp::revision::Revision;

use super::journal::{self, Change, Entry};

/// Which session: whose, and its random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Whose it is. It never changes.
    pub owner: Owner,
    /// The sealed id's `nonce16`.
    pub nonce: [u8; 16],
}

/// What was agreed on when the session began; its sealed id says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// `owner::endpoint_hash` of its endpoint.
    pub endpoint: u64,
    /// The revision that the client speaks.
    pub revision: Revision,
    /// The client's capabilities, as bits.
    pub capabilities: u32,
    /// Seconds since 1970.
    pub issued_s: u64,
}

/// A session at a server, on behalf of one here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Hash of the server's name.
    pub server: u64,
    /// The instance of it that the session is at, by its digest; 0 where that is not known.
    pub instance: u64,
    /// Which of the sessions that were opened there, one after the other: a later one has a greater number. From 1.
    pub epoch: u32,
    /// The revision that the server agreed on.
    pub revision: Revision,
    /// The server's session id, at most `limits::UPSTREAM_SESSION_BYTES_MAX`; empty when it needs none.
    pub id: Box<[u8]>,
}

/// The client's `initialize` params, as JSON text: what a session is opened again with. At most
/// `limits::PROFILE_BYTES_MAX`. Shared by all sessions that began with the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    digest: [u8; 16],
    json: Box<[u8]>,
}

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its sessions at servers, no server twice.
    pub upstreams: SmallVec<[Upstream; 1]>,
    /// The log level that the client has set, as a number of the caller's.
    pub level: Option<u8>,
    /// What it began with; `None` when that was too long, or too many different ones are in use.
    pub profile: Option<Arc<Profile>>,
    /// The resources that the client has subscribed to.
    pub subscriptions: Vec<Box<str>>,
}

/// Whether a session is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It is.
    Known(Known),
    /// It was, and its record went with a crash: an empty one is there now, as though its servers had forgotten it.
    Lost,
    /// It has ended, or can no longer be told from one that has.
    Ended,
    /// Its record went with a crash, and there is no room for another.
    Full,
}

/// Who opens a session at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody: there is one that is newer than the stale one.
    Open(Upstream),
    /// Whoever asked, within `limits::LEASE_MS`: what it opens has this epoch.
    Lead {
        /// Above every epoch that was given out for this session and server.
        epoch: u32,
    },
    /// Somebody is at it.
    Wait,
    /// Nobody: the session has ended.
    Ended,
}

/// What became of a session that was opened at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is the session's now.
    Kept,
    /// The lease had lapsed, and another has it or had it: what was opened must be ended at the server.
    Overtaken,
    /// The session here has ended meanwhile: what was opened must be ended at the server.
    Ended,
}

/// How many, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sessions of all owners.
    pub sessions_max: usize,
    /// Sessions of one owner.
    pub per_owner_max: usize,
    /// Without a request, seconds.
    pub idle_s: u64,
    /// Since it was issued, seconds.
    pub lifetime_s: u64,
}

/// Why there is no room for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LedgerFault {
    /// All sessions that there may be are in use.
    #[error("too many sessions")]
    Full,
    /// All that one owner may have are in use.
    #[error("too many sessions of one caller")]
    OwnerFull,
}

/// A session that is over here, and what is to be ended for it at servers.
pub type Parting = (SessionKey, SmallVec<[Upstream; 1]>);

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sessions_max: SESSIONS_MAX,
            per_owner_max: SESSIONS_PER_SUBJECT_MAX,
            idle_s: SESSION_IDLE_MS_MAX / 1000,
            lifetime_s: SESSION_LIFETIME_MS_MAX / 1000,
        }
    }
}

impl Bounds {
    /// A use is written down when it is so much later than the last one, seconds: a minute, and less where sessions
    /// are short.
    #[must_use]
    pub fn touch_s(&self) -> u64 {
        (self.idle_s / 8).min(SESSION_TOUCH_S)
    }
}

impl Profile {
    /// A profile; `None` for nothing, and for over `limits::PROFILE_BYTES_MAX`.
    #[must_use]
    pub fn new(json: &[u8]) -> Option<Self> {
        let fits = !json.is_empty() && json.len() <= PROFILE_BYTES_MAX;
        let whole = fits.then(|| digest::digest(&digest::SHA256, json))?;
        Some(Self { digest: *whole.as_ref().first_chunk()?, json: json.into() })
    }

    /// The JSON text.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Tells profiles apart: the first half of their SHA-256.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        self.digest
    }
}

/// The sessions of some owners: an owner's are all in one stripe.
#[derive(Debug)]
pub struct Stripe {
    bounds: Bounds,
    slots: Slots,
    index: HashTable<u32>,
    owners: HashTable<OwnerRow>,
    /// By when they were issued, so that the oldest is the first to be pushed out.
    tombstones: BTreeSet<(u64, [u8; 16])>,
    /// What was issued before this, and has no record, is over; seconds since 1970.
    over_before_s: u64,
    leases: Vec<Lease>,
    /// The greatest epoch that was given out.
    epochs: u32,
    partings: Vec<Parting>,
    /// Where the next sweep goes on.
    cursor: usize,
    subscribed_bytes: usize,
    /// What has changed since the journal was last taken.
    journal: Vec<u8>,
    /// It was too much: only a picture of the whole can follow.
    overrun: bool,
    /// How long those lasted that have ended.
    lengths: Lengths,
}

/// How long sessions lasted, by the revision that their clients spoke.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths([Length; Revision::ALL.len()]);

/// How long sessions of one revision lasted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Length {
    /// By bucket of [`LENGTHS_S`], not cumulative; the last one has no upper bound.
    pub buckets: [u64; LENGTHS_S.len() + 1],
    /// Of all of them, seconds.
    pub sum_s: u64,
}

/// Upper bounds of sessions' lengths, seconds. When one began is known to the second.
pub const LENGTHS_S: [u64; 15] = [0, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3_600, 14_400, 43_200, 86_400, 604_800];

impl Lengths {
    fn count(&mut self, revision: Revision, length_s: u64) {
        let length = &mut self.0[revision as usize];
        length.buckets[LENGTHS_S.partition_point(|bound| *bound < length_s)] += 1;
        length.sum_s = length.sum_s.saturating_add(length_s);
    }

    /// Adds those of another part of the whole.
    pub fn add(&mut self, others: &Self) {
        for (length, other) in self.0.iter_mut().zip(&others.0) {
            length.buckets.iter_mut().zip(other.buckets).for_each(|(sum, count)| *sum += count);
            length.sum_s = length.sum_s.saturating_add(other.sum_s);
        }
    }

    /// Those of each revision that has any.
    pub fn each(&self) -> impl Iterator<Item = (Revision, &Length)> {
        let all = Revision::ALL.into_iter().map(|revision| (revision, &self.0[revision as usize]));
        all.filter(|(_, length)| length.buckets.iter().any(|count| *count > 0))
    }
}

/// What is remembered of one session.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: SessionKey,
    pub(super) terms: Terms,
    pub(super) used_s: u64,
    pub(super) level: Option<u8>,
    pub(super) profile: Option<Arc<Profile>>,
    pub(super) subscriptions: Box<[Box<str>]>,
    pub(super) upstreams: SmallVec<[Upstream; 1]>,
    /// Its owner's next older one by use, and next newer one; `NONE` for no such.
    older: u32,
    newer: u32,
}

#[derive(Debug)]
struct OwnerRow {
    count: u32,
    /// Used the longest time ago.
    oldest: u32,
    newest: u32,
}

/// Somebody opens a session at a server.
#[derive(Debug)]
struct Lease {
    nonce: [u8; 16],
    server: u64,
    epoch: u32,
    until: Moment,
}

impl Stripe {
    /// An empty stripe.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            slots: Slots::default(),
            index: HashTable::new(),
            owners: HashTable::new(),
            tombstones: BTreeSet::new(),
            over_before_s: 0,
            leases: Vec::new(),
            epochs: 0,
            partings: Vec::new(),
            cursor: 0,
            subscribed_bytes: 0,
            journal: Vec::new(),
            overrun: false,
            lengths: Lengths::default(),
        }
    }

    /// How long those sessions lasted that have ended here since the process began.
    #[must_use]
    pub fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    /// Other bounds, from now on. Sessions beyond them stay until they end.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// What the URIs of all subscriptions take, bytes.
    #[must_use]
    pub fn subscribed_bytes(&self) -> usize {
        self.subscribed_bytes
    }

    /// A session began: its `initialize` was answered. `room`: whether all stripes together have room for one more.
    /// Where there is none its owner's longest unused session goes, if that was unused for `limits::SESSION_SPARE_S`.
    ///
    /// # Errors
    /// `LedgerFault`.
    pub fn enter(
        &mut self,
        key: SessionKey,
        terms: Terms,
        profile: Option<Arc<Profile>>,
        upstream: Option<Upstream>,
        now_s: u64,
        room: bool,
    ) -> Result<(), LedgerFault> {
        if self.find(&key).is_some() {
            return Ok(());
        }
        self.make_room(&key.owner, now_s, room)?;
        self.epochs = self.epochs.max(upstream.as_ref().map_or(0, |upstream| upstream.epoch));
        let upstreams = upstream.into_iter().filter(|upstream| upstream.id.len() <= UPSTREAM_SESSION_BYTES_MAX);
        let record = Record::new(key, terms, now_s, None, profile, Box::default(), upstreams.collect());
        self.note(|out| journal::write_session(out, &record));
        self.insert(record);
        Ok(())
    }

    /// What is known of a session that is new to who asks. `room` as for [`Stripe::enter`].
    pub fn visit(&mut self, key: &SessionKey, terms: Terms, now_s: u64, room: bool) -> Visit {
        if let Some(at) = self.live(key, now_s) {
            self.used(at, now_s);
            return self.slots.get(at).map_or(Visit::Ended, |record| Visit::Known(record.known()));
        }
        if self.is_over(key, terms.issued_s, now_s) {
            return Visit::Ended;
        }
        match self.enter(*key, terms, None, None, now_s, room) {
            Ok(()) => Visit::Lost,
            Err(_) => Visit::Full,
        }
    }

    /// Asks who opens the session at a server, where the one of `stale_epoch` (0: none) is of no use.
    pub fn claim(&mut self, key: &SessionKey, server: u64, stale_epoch: u32, now: Now) -> Claim {
        let Some(record) = self.live(key, now.unix_s()).and_then(|at| self.slots.get(at)) else { return Claim::Ended };
        let known = record.upstreams.iter().find(|upstream| upstream.server == server);
        if let Some(newer) = known.filter(|upstream| upstream.epoch > stale_epoch) {
            return Claim::Open(newer.clone());
        }
        let no_more = known.is_none() && record.upstreams.len() >= SESSION_SERVERS_MAX;
        let lease = self.leases.iter().position(|lease| lease.nonce == key.nonce && lease.server == server);
        match lease {
            Some(at) if self.leases[at].until > now.mono => return Claim::Wait,
            Some(at) => drop(self.leases.swap_remove(at)),
            None => {}
        }
        if self.leases.len() >= LEASES_MAX {
            self.leases.retain(|lease| lease.until > now.mono);
        }
        if no_more || self.leases.len() >= LEASES_MAX {
            return Claim::Wait;
        }
        self.epochs = self.epochs.max(stale_epoch).saturating_add(1);
        let (epoch, until) = (self.epochs, now.mono.plus_ms(LEASE_MS));
        self.leases.push(Lease { nonce: key.nonce, server, epoch, until });
        Claim::Lead { epoch }
    }

    /// The session was opened at a server, by who was told to lead, with the epoch it was told.
    pub fn opened(&mut self, key: &SessionKey, upstream: Upstream) -> Opened {
        let lease = self.leases.iter().position(|lease| {
            lease.nonce == key.nonce && lease.server == upstream.server && lease.epoch == upstream.epoch
        });
        let lease = lease.map(|at| self.leases.swap_remove(at));
        let Some(record) = self.find(key).and_then(|at| self.slots.get_mut(at)) else { return Opened::Ended };
        if lease.is_none() || upstream.id.len() > UPSTREAM_SESSION_BYTES_MAX {
            return Opened::Overtaken;
        }
        record.opened(upstream.clone());
        self.note(|out| journal::write_opened(out, key, &upstream));
        Opened::Kept
    }

    /// It could not be opened: another may try.
    pub fn not_opened(&mut self, key: &SessionKey, server: u64, epoch: u32) {
        self.leases.retain(|lease| lease.nonce != key.nonce || lease.server != server || lease.epoch != epoch);
    }

    /// The session is in use. Whether it is there; a use within [`Bounds::touch_s`] of the last changes nothing.
    pub fn touch(&mut self, key: &SessionKey, now_s: u64) -> bool {
        let live = self.live(key, now_s);
        if let Some(at) = live {
            self.used(at, now_s);
        }
        live.is_some()
    }

    /// The client has set its log level.
    pub fn set_level(&mut self, key: &SessionKey, level: u8) {
        if let Some(record) = self.find(key).and_then(|at| self.slots.get_mut(at)) {
            record.level = Some(level);
            self.note(|out| journal::write_level(out, key, level));
        }
    }

    /// The client has subscribed to a resource, or no longer is. Whether that is remembered; `room`: whether all
    /// stripes together have room for its bytes.
    pub fn subscribe(&mut self, key: &SessionKey, uri: &str, on: bool, room: bool) -> bool {
        let Some(record) = self.find(key).and_then(|at| self.slots.get_mut(at)) else { return false };
        let before = record.subscribed_bytes();
        let there = record.subscriptions.iter().any(|other| **other == *uri);
        let many = record.subscriptions.len() >= SUBSCRIPTIONS_MAX || before + uri.len() > SUBSCRIBED_BYTES_MAX;
        if on && !there && (many || !room) {
            return false;
        }
        if on != there {
            record.subscribe(uri, on);
            self.subscribed_bytes = self.subscribed_bytes + record.subscribed_bytes() - before;
            self.note(|out| journal::write_subscribed(out, key, on, uri));
        }
        true
    }

    /// The client ends its session: what is to be ended for it at servers; `None` when it was over already.
    pub fn end(&mut self, key: &SessionKey, issued_s: u64, now_s: u64) -> Option<SmallVec<[Upstream; 1]>> {
        if let Some(at) = self.live(key, now_s) {
            return self.close(at, now_s).map(|record| record.upstreams);
        }
        if self.is_over(key, issued_s, now_s) {
            return None;
        }
        self.bury(issued_s, key.nonce, now_s);
        self.note(|out| journal::write_ended(out, key.owner.0[0], &key.nonce, issued_s));
        Some(SmallVec::new())
    }

    /// Ends sessions that are idle or too old, among the next `looks` places, and hands out at most `max` of all that
    /// have ended by themselves. Whether there may be more to hand out.
    pub fn sweep(&mut self, now_s: u64, looks: usize, max: usize, out: &mut Vec<Parting>) -> bool {
        let end = out.len().saturating_add(max);
        let waiting = self.partings.len().min(max);
        out.extend(self.partings.drain(..waiting));
        for _ in 0..looks.min(self.slots.places()) {
            if out.len() >= end {
                return true;
            }
            let at = self.cursor % self.slots.places();
            self.cursor = at + 1;
            let at = u32::try_from(at).unwrap_or(NONE);
            if self.slots.get(at).is_some_and(|record| record.is_over(&self.bounds, now_s)) {
                out.extend(self.close(at, now_s).map(|record| (record.key, record.upstreams)));
            }
        }
        self.forget_tombstones(now_s, looks);
        false
    }

    /// How many places a sweep has to look at.
    #[must_use]
    pub fn places(&self) -> usize {
        self.slots.places()
    }

    /// What was issued up to `now_s` and has no record is over: records may be missing that were not just lost.
    pub fn distrust(&mut self, place: u8, now_s: u64) {
        self.over_before_s = self.over_before_s.max(now_s.saturating_add(1));
        let over_before_s = self.over_before_s;
        self.note(|out| journal::write_over_before(out, place, over_before_s));
    }

    /// Whether anything has changed since the journal was last taken.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.overrun || !self.journal.is_empty()
    }

    /// Hands out what has changed. False when that was too much to keep: only a picture can follow then.
    #[must_use]
    pub fn take_journal(&mut self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.journal);
        self.journal.clear();
        self.journal.shrink_to(JOURNAL_KEPT_BYTES);
        !self.overrun
    }

    /// A picture begins: what has changed before is in it, what changes from now on is handed out after it.
    pub fn begin_picture(&mut self) {
        self.journal = Vec::new();
        self.overrun = false;
    }

    /// Writes down the sessions at `looks` places from `from` on, those that ended first. `profile` sees what they refer
    /// to. Where to go on; `None` at the end. `place` stands for the stripe.
    pub fn picture(
        &self,
        place: u8,
        from: usize,
        looks: usize,
        out: &mut Vec<u8>,
        mut profile: impl FnMut(&Arc<Profile>),
    ) -> Option<usize> {
        if from == 0 {
            journal::write_over_before(out, place, self.over_before_s);
            self.tombstones.iter().for_each(|(issued_s, nonce)| journal::write_ended(out, place, nonce, *issued_s));
        }
        let to = (from + looks).min(self.slots.places());
        for at in from..to {
            if let Some(record) = u32::try_from(at).ok().and_then(|at| self.slots.get(at)) {
                record.profile.iter().for_each(&mut profile);
                journal::write_session(out, record);
            }
        }
        (to < self.slots.places()).then_some(to)
    }

    /// Does again what an entry of the journal says. False when it says nothing that can be done. After the last one:
    /// [`Stripe::settle`].
    #[must_use]
    pub fn replay(&mut self, entry: &Entry<'_>, profile: impl FnOnce(&[u8; 16]) -> Option<Arc<Profile>>) -> bool {
        let Some(change) = entry.change() else { return false };
        if let Change::Session { mut record, profile: digest } = change {
            let key = (record.terms.issued_s, record.key.nonce);
            if self.find_nonce(&record.key.nonce).is_none() && !self.tombstones.contains(&key) {
                record.profile = digest.as_ref().and_then(profile);
                self.epochs = record.upstreams.iter().map(|upstream| upstream.epoch).fold(self.epochs, u32::max);
                self.insert(*record);
            }
            return true;
        }
        let (nonce, change) = match change {
            Change::Ended { nonce, issued_s } => {
                match self.find_nonce(&nonce) {
                    Some(at) => drop(self.remove(at, 0)),
                    None => self.bury(issued_s, nonce, 0),
                }
                return true;
            }
            Change::OverBefore { s } => {
                self.over_before_s = self.over_before_s.max(s);
                return true;
            }
            Change::Opened { nonce, .. }
            | Change::Used { nonce, .. }
            | Change::Level { nonce, .. }
            | Change::Subscribed { nonce, .. } => (nonce, change),
            Change::Session { .. } => return false,
        };
        // Its session may have ended before the picture was taken that this follows.
        let Some(record) = self.find_nonce(&nonce).and_then(|at| self.slots.get_mut(at)) else { return true };
        let before = record.subscribed_bytes();
        match change {
            Change::Opened { upstream, .. } => {
                self.epochs = self.epochs.max(upstream.epoch);
                record.opened(upstream);
            }
            Change::Used { used_s, .. } => record.used_s = record.used_s.max(used_s),
            Change::Level { level, .. } => record.level = Some(level),
            Change::Subscribed { on, uri, .. } => record.subscribe(uri, on),
            _ => {}
        }
        self.subscribed_bytes = self.subscribed_bytes + record.subscribed_bytes() - before;
        true
    }

    /// Puts each owner's sessions into the order of their use, after a journal was read.
    pub fn settle(&mut self) {
        let places = 0..u32::try_from(self.slots.places()).unwrap_or(0);
        let used = |at: u32| self.slots.get(at).map(|record| (record.used_s, at, record.key.owner));
        let mut order: Vec<_> = places.filter_map(used).collect();
        order.sort_unstable_by_key(|(used_s, at, _)| (*used_s, *at));
        self.owners.clear();
        for (_, at, owner) in order {
            self.link(at, &owner);
        }
    }

    /// All that lasts, as texts in one order. Tombstones that say nothing any more are left out.
    #[cfg(test)]
    pub(crate) fn summary(&self, now_s: u64) -> Vec<String> {
        let says = |(issued_s, _): &&(u64, [u8; 16])| {
            *issued_s >= self.over_before_s && issued_s + self.bounds.lifetime_s >= now_s
        };
        let mut all: Vec<String> = self.tombstones.iter().filter(says).map(|stone| format!("over {stone:?}")).collect();
        for record in self.slots.chunks.iter().flat_map(|chunk| chunk.iter().flatten()) {
            let mut known = record.known();
            known.subscriptions.sort_unstable();
            known.upstreams.sort_unstable_by_key(|upstream| upstream.server);
            all.push(format!("{:?} {:?} {} {known:?}", record.key, record.terms, record.used_s));
        }
        all.sort_unstable();
        all
    }

    /// Where the record is, whether or not its time is over.
    fn find(&self, key: &SessionKey) -> Option<u32> {
        let slots = &self.slots;
        self.index.find(nonce_hash(&key.nonce), |at| slots.get(*at).is_some_and(|record| record.key == *key)).copied()
    }

    fn find_nonce(&self, nonce: &[u8; 16]) -> Option<u32> {
        let slots = &self.slots;
        self.index
            .find(nonce_hash(nonce), |at| slots.get(*at).is_some_and(|record| record.key.nonce == *nonce))
            .copied()
    }

    /// Where the record is; a session whose time is over ends here.
    fn live(&mut self, key: &SessionKey, now_s: u64) -> Option<u32> {
        let at = self.find(key)?;
        if !self.slots.get(at)?.is_over(&self.bounds, now_s) {
            return Some(at);
        }
        self.part(at, now_s);
        None
    }

    /// Whether a session without a record is one that has ended.
    fn is_over(&self, key: &SessionKey, issued_s: u64, now_s: u64) -> bool {
        issued_s < self.over_before_s
            || issued_s.saturating_add(self.bounds.lifetime_s) < now_s
            || self.tombstones.contains(&(issued_s, key.nonce))
    }

    fn make_room(&mut self, owner: &Owner, now_s: u64, room: bool) -> Result<(), LedgerFault> {
        let row = self.owners.find(owner_hash(owner), |row| self.is_row_of(row, owner));
        let many = row.is_some_and(|row| row.count as usize >= self.bounds.per_owner_max);
        if room && !many {
            return Ok(());
        }
        let fault = if many { LedgerFault::OwnerFull } else { LedgerFault::Full };
        let oldest = row.map(|row| row.oldest).ok_or(fault)?;
        let used_s = self.slots.get(oldest).map_or(u64::MAX, |record| record.used_s);
        // What is written down of its last use may be late by a touch.
        let spare = used_s.saturating_add(SESSION_SPARE_S + self.bounds.touch_s()) <= now_s;
        if !spare || self.partings.len() >= PARTINGS_MAX {
            return Err(fault);
        }
        self.part(oldest, now_s);
        Ok(())
    }

    /// Ends a session that nobody here asked to end: who sweeps next tells the others, and its servers.
    fn part(&mut self, at: u32, now_s: u64) {
        let record = self.close(at, now_s);
        if let Some(record) = record.filter(|_| self.partings.len() < PARTINGS_MAX) {
            self.partings.push((record.key, record.upstreams));
        }
    }

    /// Ends a session, and writes it down.
    fn close(&mut self, at: u32, now_s: u64) -> Option<Record> {
        let record = self.remove(at, now_s)?;
        let (key, issued_s) = (record.key, record.terms.issued_s);
        self.lengths.count(record.terms.revision, now_s.saturating_sub(issued_s));
        self.note(|out| journal::write_ended(out, key.owner.0[0], &key.nonce, issued_s));
        Some(record)
    }

    fn note(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.overrun {
            return;
        }
        write(&mut self.journal);
        if self.journal.len() > JOURNAL_PENDING_BYTES_MAX {
            self.journal = Vec::new();
            self.overrun = true;
        }
    }

    fn insert(&mut self, record: Record) {
        let (owner, nonce) = (record.key.owner, record.key.nonce);
        self.subscribed_bytes += record.subscribed_bytes();
        let at = self.slots.insert(record);
        let slots = &self.slots;
        let hash = |at: &u32| slots.get(*at).map_or(0, |record| nonce_hash(&record.key.nonce));
        self.index.insert_unique(nonce_hash(&nonce), at, hash);
        self.link(at, &owner);
    }

    fn remove(&mut self, at: u32, now_s: u64) -> Option<Record> {
        self.unlink(at);
        let record = self.slots.remove(at)?;
        if let Ok(entry) = self.index.find_entry(nonce_hash(&record.key.nonce), |other| *other == at) {
            entry.remove();
        }
        self.subscribed_bytes -= record.subscribed_bytes();
        self.bury(record.terms.issued_s, record.key.nonce, now_s);
        Some(record)
    }

    fn bury(&mut self, issued_s: u64, nonce: [u8; 16], now_s: u64) {
        if issued_s < self.over_before_s {
            return;
        }
        if issued_s.saturating_add(self.bounds.lifetime_s) < now_s {
            // Too old to be opened; and so it stays when the clock is set back.
            self.over_before_s = issued_s.saturating_add(1);
            return;
        }
        self.tombstones.insert((issued_s, nonce));
        if self.tombstones.len() > TOMBSTONES_MAX
            && let Some((pushed_s, _)) = self.tombstones.pop_first()
        {
            self.over_before_s = self.over_before_s.max(pushed_s.saturating_add(1));
        }
    }

    /// Tombstones of ids that are too old to be opened.
    fn forget_tombstones(&mut self, now_s: u64, max: usize) {
        for _ in 0..max {
            let Some(&(issued_s, _)) = self.tombstones.first() else { return };
            if issued_s >= self.over_before_s && issued_s.saturating_add(self.bounds.lifetime_s) >= now_s {
                return;
            }
            self.tombstones.pop_first();
            self.over_before_s = self.over_before_s.max(issued_s.saturating_add(1));
        }
    }

    fn used(&mut self, at: u32, now_s: u64) {
        let touch_s = self.bounds.touch_s().max(1);
        let Some(record) = self.slots.get_mut(at) else { return };
        if record.used_s.saturating_add(touch_s) > now_s {
            return;
        }
        record.used_s = now_s;
        let key = record.key;
        self.note(|out| journal::write_used(out, &key, now_s));
        self.unlink(at);
        self.link(at, &key.owner);
    }

    fn is_row_of(&self, row: &OwnerRow, owner: &Owner) -> bool {
        self.slots.get(row.newest).is_some_and(|record| record.key.owner == *owner)
    }

    /// Makes it the newest of its owner's.
    fn link(&mut self, at: u32, owner: &Owner) {
        let slots = &self.slots;
        let of = |row: &OwnerRow| slots.get(row.newest).is_some_and(|record| record.key.owner == *owner);
        let newest_before = match self.owners.find_mut(owner_hash(owner), of) {
            Some(row) => {
                row.count += 1;
                std::mem::replace(&mut row.newest, at)
            }
            None => {
                let hash = |row: &OwnerRow| slots.get(row.newest).map_or(0, |record| owner_hash(&record.key.owner));
                self.owners.insert_unique(owner_hash(owner), OwnerRow { count: 1, oldest: at, newest: at }, hash);
                NONE
            }
        };
        if let Some(record) = self.slots.get_mut(newest_before) {
            record.newer = at;
        }
        if let Some(record) = self.slots.get_mut(at) {
            (record.older, record.newer) = (newest_before, NONE);
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(record) = self.slots.get(at) else { return };
        let (owner, older, newer) = (record.key.owner, record.older, record.newer);
        let slots = &self.slots;
        let of = |row: &OwnerRow| slots.get(row.newest).is_some_and(|record| record.key.owner == owner);
        if let Ok(mut entry) = self.owners.find_entry(owner_hash(&owner), of) {
            let row = entry.get_mut();
            row.count -= 1;
            if row.count == 0 {
                entry.remove();
            } else {
                row.oldest = if row.oldest == at { newer } else { row.oldest };
                row.newest = if row.newest == at { older } else { row.newest };
            }
        }
        if let Some(record) = self.slots.get_mut(older) {
            record.newer = newer;
        }
        if let Some(record) = self.slots.get_mut(newer) {
            record.older = older;
        }
    }
}

impl Record {
    pub(super) fn new(
        key: SessionKey,
        terms: Terms,
        used_s: u64,
        level: Option<u8>,
        profile: Option<Arc<Profile>>,
        subscriptions: Box<[Box<str>]>,
        upstreams: SmallVec<[Upstream; 1]>,
    ) -> Self {
        Self { key, terms, used_s, level, profile, subscriptions, upstreams, older: NONE, newer: NONE }
    }

    fn known(&self) -> Known {
        Known {
            upstreams: self.upstreams.clone(),
            level: self.level,
            profile: self.profile.clone(),
            subscriptions: self.subscriptions.to_vec(),
        }
    }

    fn opened(&mut self, upstream: Upstream) {
        match self.upstreams.iter_mut().find(|other| other.server == upstream.server) {
            Some(other) if other.epoch < upstream.epoch => *other = upstream,
            Some(_) => {}
            None => self.upstreams.push(upstream),
        }
    }

    fn subscribe(&mut self, uri: &str, on: bool) {
        let kept = std::mem::take(&mut self.subscriptions).into_iter().filter(|other| **other != *uri);
        self.subscriptions = kept.chain(on.then(|| uri.into())).collect();
    }

    fn is_over(&self, bounds: &Bounds, now_s: u64) -> bool {
        self.used_s.saturating_add(bounds.idle_s) < now_s
            || self.terms.issued_s.saturating_add(bounds.lifetime_s) < now_s
    }

    fn subscribed_bytes(&self) -> usize {
        self.subscriptions.iter().map(|uri| uri.len()).sum()
    }
}

/// Records in places that are used again. It grows by a chunk, so it never holds much more than it needs, and never
/// moves what it has.
#[derive(Debug, Default)]
struct Slots {
    chunks: Vec<Box<[Option<Record>]>>,
    free: Vec<u32>,
}

impl Slots {
    fn places(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    fn get(&self, at: u32) -> Option<&Record> {
        self.chunks.get(at as usize / CHUNK)?.get(at as usize % CHUNK)?.as_ref()
    }

    fn get_mut(&mut self, at: u32) -> Option<&mut Record> {
        self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)?.as_mut()
    }

    fn insert(&mut self, record: Record) -> u32 {
        if self.free.is_empty() {
            let place = |at: usize| u32::try_from(at).expect("sessions are bounded far below 2^32");
            self.free.extend((self.places()..self.places() + CHUNK).rev().map(place));
            self.chunks.push((0..CHUNK).map(|_| None).collect());
        }
        let at = self.free.pop().expect("a chunk has just been added");
        self.chunks[at as usize / CHUNK][at as usize % CHUNK] = Some(record);
        at
    }

    fn remove(&mut self, at: u32) -> Option<Record> {
        let record = self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)?.take()?;
        self.free.push(at);
        Some(record)
    }
}

/// Nonces are random, and sealed by us: their own bits do.
fn nonce_hash(nonce: &[u8; 16]) -> u64 {
    u64::from_le_bytes([nonce[0], nonce[1], nonce[2], nonce[3], nonce[4], nonce[5], nonce[6], nonce[7]])
}

/// Owners are digests; their first byte has chosen the stripe.
fn owner_hash(owner: &Owner) -> u64 {
    let bytes = &owner.0;
    u64::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15]])
}

/// What a stripe's journal keeps of its buffer once taken, bytes.
const JOURNAL_KEPT_BYTES: usize = 1024;
/// No place.
const NONE: u32 = u32::MAX;
/// Places that a stripe grows by.
const CHUNK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(owner: u8, nonce: u8) -> SessionKey {
        SessionKey { owner: Owner([owner; 16]), nonce: [nonce; 16] }
    }

    fn terms(issued_s: u64) -> Terms {
        Terms { endpoint: 7, revision: Revision::R2025_06_18, capabilities: 3, issued_s }
    }

    fn upstream(epoch: u32, id: &[u8]) -> Upstream {
        Upstream { server: 1, instance: 2, epoch, revision: Revision::R2025_06_18, id: id.into() }
    }

    fn now(s: u64) -> Now {
        Now { mono: Moment(s * 1_000_000_000), unix_ms: s * 1000 }
    }

    fn stripe(sessions: &[(u8, u8)]) -> Stripe {
        let mut stripe = Stripe::new(Bounds { sessions_max: 100, per_owner_max: 3, idle_s: 3600, lifetime_s: 10_000 });
        for &(owner, nonce) in sessions {
            let entered = stripe.enter(key(owner, nonce), terms(1000), None, Some(upstream(1, b"a")), 1000, true);
            assert_eq!(entered, Ok(()));
        }
        stripe
    }

    #[test]
    fn one_at_a_time_opens_a_session_at_a_server() {
        let mut stripe = stripe(&[(1, 1)]);
        let key = key(1, 1);
        assert_eq!(stripe.claim(&key, 1, 0, now(1001)), Claim::Open(upstream(1, b"a")));
        assert_eq!(stripe.claim(&key, 1, 1, now(1001)), Claim::Lead { epoch: 2 });
        assert_eq!(stripe.claim(&key, 1, 1, now(1010)), Claim::Wait);
        // The lease has lapsed.
        assert_eq!(stripe.claim(&key, 1, 1, now(1011)), Claim::Lead { epoch: 3 });
        assert_eq!(stripe.opened(&key, upstream(2, b"late")), Opened::Overtaken);
        assert_eq!(stripe.opened(&key, upstream(3, b"b")), Opened::Kept);
        assert_eq!(stripe.claim(&key, 1, 1, now(1012)), Claim::Open(upstream(3, b"b")));
        assert_eq!(stripe.claim(&key, 1, 3, now(1012)), Claim::Lead { epoch: 4 });
        stripe.not_opened(&key, 1, 4);
        assert_eq!(stripe.claim(&key, 1, 3, now(1012)), Claim::Lead { epoch: 5 });
        assert!(stripe.end(&key, 1000, 1013).is_some());
        let ended = |(revision, length): (Revision, &Length)| (revision, length.buckets, length.sum_s);
        let lengths: Vec<_> = stripe.lengths().each().map(ended).collect();
        let mut buckets = [0; LENGTHS_S.len() + 1];
        buckets[5] = 1;
        assert_eq!(lengths, [(terms(1000).revision, buckets, 13)]);
        assert_eq!(stripe.opened(&key, upstream(5, b"c")), Opened::Ended);
        assert_eq!(stripe.claim(&key, 1, 3, now(1013)), Claim::Ended);
    }

    #[test]
    fn what_has_ended_does_not_come_back() {
        let mut stripe = stripe(&[(1, 1)]);
        assert!(matches!(stripe.visit(&key(1, 1), terms(1000), 1001, true), Visit::Known(_)));
        assert_eq!(stripe.visit(&key(1, 2), terms(1000), 1001, true), Visit::Lost);
        let ended = stripe.end(&key(1, 1), 1000, 1001).unwrap();
        assert_eq!(ended.to_vec(), [upstream(1, b"a")]);
        assert_eq!(stripe.end(&key(1, 1), 1000, 1001), None);
        assert_eq!(stripe.visit(&key(1, 1), terms(1000), 1001, true), Visit::Ended);
        assert!(!stripe.touch(&key(1, 1), 1001));
        assert_eq!(stripe.len(), 1);
        // Nor one that was lost when it ended.
        assert_eq!(stripe.end(&key(1, 3), 1000, 1001), Some(SmallVec::new()));
        assert_eq!(stripe.visit(&key(1, 3), terms(1000), 1001, true), Visit::Ended);
        // Nor one whose tombstone is gone, because its time is over.
        stripe.forget_tombstones(20_000, 10);
        assert_eq!(stripe.tombstones.len(), 0);
        assert_eq!(stripe.visit(&key(1, 1), terms(1000), 20_000, true), Visit::Ended);
        // Nor when the clock, which was wrong, is set back.
        assert_eq!(stripe.visit(&key(1, 1), terms(1000), 1001, true), Visit::Ended);
    }

    #[test]
    fn a_session_is_its_owners() {
        let mut stripe = stripe(&[(1, 1)]);
        let stranger = key(2, 1);
        assert!(!stripe.touch(&stranger, 1001));
        assert_eq!(stripe.claim(&stranger, 1, 0, now(1001)), Claim::Ended);
        assert_eq!(stripe.end(&stranger, 5, 1001), Some(SmallVec::new()));
        assert!(stripe.touch(&key(1, 1), 1001));
    }

    #[test]
    fn sessions_end_by_themselves() {
        let mut stripe = stripe(&[(1, 1), (1, 2), (2, 3)]);
        assert!(stripe.touch(&key(1, 2), 4000));
        // Idle for longer than an hour, found by a use and by a sweep.
        assert_eq!(stripe.visit(&key(1, 1), terms(1000), 4601, true), Visit::Ended);
        let mut out = Vec::new();
        stripe.sweep(4601, CHUNK, 10, &mut out);
        let keys: Vec<_> = out.iter().map(|parting| parting.0).collect();
        assert_eq!(keys, [key(1, 1), key(2, 3)]);
        // In use, and too old.
        assert!((0..7).all(|hour| stripe.touch(&key(1, 2), 4000 + hour * 1000)));
        assert!(stripe.touch(&key(1, 2), 11_000));
        out.clear();
        stripe.sweep(11_001, CHUNK, 10, &mut out);
        assert_eq!(out.len(), 1);
        assert!(stripe.is_empty() && stripe.owners.is_empty());
    }

    #[test]
    fn a_sweep_goes_on_where_it_was() {
        let mut stripe = Stripe::new(Bounds { per_owner_max: 1000, ..stripe(&[]).bounds });
        for nonce in 0..200 {
            stripe.enter(key(1, nonce), terms(1000), None, None, 1000, true).unwrap();
        }
        let mut out = Vec::new();
        assert!(stripe.sweep(9000, 150, 100, &mut out), "there may be more");
        assert_eq!(out.len(), 100);
        while stripe.sweep(9000, CHUNK, 100, &mut out) || !stripe.is_empty() {}
        assert_eq!((out.len(), stripe.len()), (200, 0));
    }

    #[test]
    fn an_owner_with_too_many_loses_the_one_unused_longest() {
        let mut stripe = stripe(&[(1, 1), (1, 2), (1, 3), (2, 9)]);
        let mut enter = |nonce, s| stripe.enter(key(1, nonce), terms(s), None, None, s, true);
        assert_eq!(enter(4, 1119), Err(LedgerFault::OwnerFull));
        assert_eq!(enter(4, 1120), Ok(()), "a minute, and a minute that may not have been told");
        assert_eq!(stripe.visit(&key(1, 1), terms(1000), 1120, true), Visit::Ended);
        // The second is used, so the third goes.
        assert!(stripe.touch(&key(1, 2), 1130));
        assert_eq!(stripe.enter(key(1, 5), terms(1130), None, None, 1130, true), Ok(()));
        assert!(stripe.touch(&key(1, 2), 1130) && !stripe.touch(&key(1, 3), 1130));
        assert_eq!(stripe.len(), 4);
        let mut out = Vec::new();
        stripe.sweep(1130, CHUNK, 10, &mut out);
        let gone: Vec<_> = out.into_iter().map(|(key, upstreams)| (key, upstreams.to_vec())).collect();
        assert_eq!(gone, [(key(1, 1), vec![upstream(1, b"a")]), (key(1, 3), vec![upstream(1, b"a")])]);
    }

    #[test]
    fn when_all_is_full_an_owner_has_what_it_has() {
        let mut stripe = stripe(&[(1, 1)]);
        assert_eq!(stripe.enter(key(2, 2), terms(5000), None, None, 2000, false), Err(LedgerFault::Full));
        assert_eq!(stripe.visit(&key(2, 2), terms(1000), 2000, false), Visit::Full);
        assert_eq!(stripe.enter(key(1, 2), terms(5000), None, None, 1001, false), Err(LedgerFault::Full));
        assert_eq!(stripe.enter(key(1, 2), terms(5000), None, None, 2000, false), Ok(()));
        assert_eq!(stripe.len(), 1);
    }

    #[test]
    fn tombstones_that_are_pushed_out_raise_the_mark() {
        let mut stripe = stripe(&[(1, 1)]);
        let nonce = |number: usize| SessionKey { owner: Owner([1; 16]), nonce: (number as u128).to_be_bytes() };
        for number in 0..TOMBSTONES_MAX {
            assert!(stripe.end(&nonce(number), 2000 + number as u64, 4000).is_some());
        }
        assert_eq!(stripe.visit(&key(2, 2), terms(1500), 4000, true), Visit::Lost);
        assert!(stripe.end(&nonce(usize::MAX), 4000, 4000).is_some());
        assert_eq!(stripe.tombstones.len(), TOMBSTONES_MAX);
        // The oldest was pushed out: what is as old as that and has no record is over, what has one is not.
        for (number, issued_s) in [(0, 2000), (9, 2000), (9, 1)] {
            assert_eq!(stripe.visit(&nonce(number), terms(issued_s), 4000, true), Visit::Ended);
        }
        assert!(matches!(stripe.visit(&key(1, 1), terms(1000), 4000, true), Visit::Known(_)));
        assert!(matches!(stripe.visit(&key(2, 2), terms(1500), 4000, true), Visit::Known(_)));
        assert_eq!(stripe.visit(&nonce(9_999_999), terms(2001), 4000, true), Visit::Lost);
        for number in 0..TOMBSTONES_MAX {
            assert_eq!(stripe.visit(&nonce(number), terms(2000 + number as u64), 4000, true), Visit::Ended);
        }
    }

    #[test]
    fn subscriptions_are_bounded() {
        let mut stripe = stripe(&[(1, 1)]);
        let key = key(1, 1);
        assert!(stripe.subscribe(&key, "file:///a", true, true) && stripe.subscribe(&key, "file:///a", true, true));
        assert_eq!(stripe.subscribed_bytes(), 9);
        assert!(!stripe.subscribe(&key, "file:///b", true, false));
        assert!(!stripe.subscribe(&key, &"b".repeat(SUBSCRIBED_BYTES_MAX), true, true));
        let many = (0..1000).filter(|n| stripe.subscribe(&key, &n.to_string(), true, true)).count();
        assert_eq!(many, SUBSCRIPTIONS_MAX - 1);
        assert!(stripe.subscribe(&key, "file:///a", false, false));
        let Visit::Known(known) = stripe.visit(&key, terms(1000), 1000, true) else { panic!("it is there") };
        assert_eq!(known.subscriptions.len(), SUBSCRIPTIONS_MAX - 1);
        stripe.end(&key, 1000, 1000).unwrap();
        assert_eq!(stripe.subscribed_bytes(), 0);
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Option<Record>>() <= 152, "{} bytes", size_of::<Option<Record>>());
    }
}
