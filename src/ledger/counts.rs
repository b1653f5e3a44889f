//! Counts of limits and rates, over all shards: a reservation is met in all its stripes, or in none. The stripes' locks
//! are taken in the order of their numbers, all that are needed at once; within, nothing waits. What changes is in a
//! mapped file before the lock is given back, and in the journal soon after (`plane::counts`).
//!
//! Time goes on by the monotonic clock from where the wall clock stood at the start, so nothing that is done to the
//! wall clock while the process runs frees anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use smallvec::SmallVec;
use thiserror::Error;

use super::lock;
use super::spool::{self, Foreign, Spool};
use crate::base::limits::{
    COUNT_PICTURE_LOOKS, COUNT_SWEEP_STRIPES, COUNTS_MAX, LEDGER_STRIPES, NEEDS_MAX, SWEEP_LOOKS,
};
use crate::base::time::Now;
use crate::policy::counter::record::Record;
use crate::policy::counter::{Book, Held, Level, Quantity, Refusal, Taken};
use crate::policy::needs::{CountKey, Need, Note, Past};
use crate::uring::mapped::Mapped;

/// The counts of all shards.
#[derive(Debug)]
pub struct Counts {
    stripes: Box<[Mutex<Book>]>,
    start: Now,
    spool: OnceLock<Spool>,
    /// Which stripe is swept next.
    hand: AtomicUsize,
    no_room: AtomicU64,
    not_kept: AtomicU64,
}

/// A need that is not met: nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its place among the needs: the first that is not met.
    pub place: usize,
    /// After so long it might be, milliseconds; `None` where time alone does not help, or nobody knows when.
    pub retry_ms: Option<u64>,
    /// There is no room to count it: the gateway cannot decide.
    pub full: bool,
    /// How much is used.
    pub used: Quantity,
    /// How much may be.
    pub max: Quantity,
}

/// How it stands with the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many there are.
    pub counts: usize,
    /// How many there can be.
    pub counts_max: usize,
    /// Changes that are not in the journal.
    pub waiting: u64,
    /// Refused for want of room for a count.
    pub no_room: u64,
    /// Refused because changes could not be written down as fast as they came.
    pub not_kept: u64,
}

/// Why a file is not read as the ring of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SpoolFault {
    /// It does not begin like one.
    #[error("it is not one of this program's")]
    Foreign,
    /// Another build wrote it.
    #[error("its version is {0}, which this build does not read")]
    Version(u8),
}

/// What has happened, at a time.
#[derive(Clone, Copy, Debug)]
pub struct PastAt<'a> {
    counts: &'a Counts,
    now: Now,
}

/// Stripes that are held, in the order of their numbers.
struct Books<'a>(SmallVec<[(usize, MutexGuard<'a, Book>); 4]>);

impl Counts {
    /// No counts. `start`: the time at which the process began, or near it.
    #[must_use]
    pub fn new(start: Now) -> Self {
        Self {
            stripes: (0..LEDGER_STRIPES).map(|_| Mutex::default()).collect(),
            start,
            spool: OnceLock::new(),
            hand: AtomicUsize::new(0),
            no_room: AtomicU64::new(0),
            not_kept: AtomicU64::new(0),
        }
    }

    /// Meets all needs, or none. What it gives must be given to [`Counts::ended`] when the call has ended.
    ///
    /// # Errors
    /// [`Broken`]: the first need that is not met.
    pub fn reserve(&self, needs: &[Need], now: Now) -> Result<Taken, Broken> {
        let mut taken = Taken::none();
        if needs.is_empty() {
            return Ok(taken);
        }
        if needs.len() > NEEDS_MAX {
            return Err(self.refuse_full(&self.no_room));
        }
        let now_ms = self.ms(now);
        let mut books = self.hold(needs.iter().map(|need| need.key));
        let met = self.take(&mut books, needs, now_ms, &mut taken);
        let kept = met.and_then(|()| self.write(taken.held().iter().filter_map(Held::record)));
        if let Err(broken) = kept {
            for held in taken.held() {
                books.of(held.key()).and_then(|book| book.give_back(held, now_ms));
            }
            return Err(broken);
        }
        drop(books);
        self.urge();
        Ok(taken)
    }

    /// Gives back what was taken for a call that was let go, and of which nothing was written. What was noted stays: it
    /// was let through. Once: more often, or for a call that took nothing, it does nothing.
    pub fn give_back(&self, taken: &Taken, now: Now) {
        self.undo(taken, now, false);
    }

    /// Gives back what was taken for a call that is not let go after all, as one that waits for an approval; also what
    /// was noted. Once, as [`Counts::give_back`].
    pub fn withdraw(&self, taken: &Taken, now: Now) {
        self.undo(taken, now, true);
    }

    /// The call has ended, and is no longer under way. Once: more often, and after [`Counts::give_back`], it does
    /// nothing.
    pub fn ended(&self, taken: &Taken) {
        if !taken.set_ended() {
            return;
        }
        for held in taken.held().iter().filter(|held| held.is_passing()) {
            self.hold([held.key()].into_iter()).of(held.key()).into_iter().for_each(|book| book.end(held));
        }
    }

    /// Remembers that a call has succeeded.
    pub fn note(&self, notes: &[Note], now: Now) {
        let now_ms = self.ms(now);
        for note in notes {
            let mut books = self.hold([note.key].into_iter());
            match books.of(note.key).and_then(|book| book.note(note, now_ms)) {
                // Where it cannot be written down, it has not happened after a crash: nothing is let go for it.
                Some(record) => _ = self.write([record].into_iter()),
                None => _ = self.no_room.fetch_add(1, Ordering::Relaxed),
            }
        }
        self.urge();
    }

    /// Whether something was noted, so long ago at most, milliseconds; `None` for ever.
    #[must_use]
    pub fn happened(&self, key: CountKey, within_ms: Option<u64>, now: Now) -> bool {
        lock(&self.stripes[stripe(key)]).happened(key, within_ms, self.ms(now))
    }

    /// What had happened by now.
    #[must_use]
    pub fn past(&self, now: Now) -> PastAt<'_> {
        PastAt { counts: self, now }
    }

    /// What the needs would do to their counts, met or not; nothing changes.
    #[must_use]
    pub fn levels(&self, needs: &[Need], now: Now) -> Vec<Level> {
        let now_ms = self.ms(now);
        needs.iter().filter_map(|need| lock(&self.stripes[stripe(need.key)]).level(need, now_ms)).collect()
    }

    /// As [`Counts::reserve`], with nothing taken: what each count would come to, or the first need that is not met.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn peek(&self, needs: &[Need], now: Now) -> Result<Vec<Level>, Broken> {
        let now_ms = self.ms(now);
        let mut books = self.hold(needs.iter().take(NEEDS_MAX).map(|need| need.key));
        let mut taken = Taken::none();
        let met = self.take(&mut books, needs, now_ms, &mut taken).map(|()| taken.levels().collect());
        taken.held().iter().for_each(|held| _ = books.of(held.key()).and_then(|book| book.give_back(held, now_ms)));
        met
    }

    /// How it stands. Takes each stripe's lock in turn.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            counts: self.stripes.iter().map(|stripe| lock(stripe).len()).sum(),
            counts_max: COUNTS_MAX,
            waiting: self.spool.get().map_or(0, Spool::waiting),
            no_room: self.no_room.load(Ordering::Relaxed),
            not_kept: self.not_kept.load(Ordering::Relaxed),
        }
    }

    /// Looks at some counts and forgets those that are over. Called again and again, it comes to all of them.
    pub fn sweep(&self, now: Now) {
        let now_ms = self.ms(now);
        for _ in 0..COUNT_SWEEP_STRIPES {
            let place = self.hand.fetch_add(1, Ordering::Relaxed) % LEDGER_STRIPES;
            lock(&self.stripes[place]).sweep(now_ms, SWEEP_LOOKS);
        }
    }

    /// Does again what a record of a journal tells of. The counts must be in nobody's hands yet.
    pub fn replay(&self, record: &Record) {
        lock(&self.stripes[stripe(record.key())]).replay(record);
    }

    /// The changes that a ring of a process before has, and the journal has not: those from number `from` on. And the
    /// number after the last.
    ///
    /// # Errors
    /// [`SpoolFault`].
    pub fn read_ring(bytes: &[u8], from: u64) -> Result<(Vec<Record>, u64), SpoolFault> {
        let records = spool::records(bytes, from).map_err(|foreign| match foreign {
            Foreign::Other => SpoolFault::Foreign,
            Foreign::Version(version) => SpoolFault::Version(version),
        })?;
        let next = records.last().map_or(from, |(number, _)| number + 1);
        Ok((records.into_iter().map(|(_, record)| record).collect(), next))
    }

    /// How many words the file of the ring has.
    #[must_use]
    pub fn ring_words() -> usize {
        spool::FILE_WORDS
    }

    /// From now on changes are kept in this ring, from number `next` on: all below it are in the journal. `urge` has it
    /// read, when half of it is used. Without a ring nothing outlives the process.
    pub fn attach(&self, ring: Mapped, next: u64, urge: Box<dyn Fn() + Send + Sync>) {
        _ = self.spool.set(Spool::new(ring, next, urge));
    }

    /// Takes the changes from number `from` on, below `until`, at most `max` of them, for the journal; what one record
    /// can say is said once. Where to go on: there, or at one that is still being made.
    #[must_use]
    pub fn changes(&self, from: u64, until: u64, max: u64, out: &mut Vec<Record>) -> u64 {
        let Some(spool) = self.spool.get() else { return from };
        let mut known: HashMap<CountKey, usize, foldhash::fast::RandomState> = HashMap::default();
        spool.read(from, until, max, |record| {
            let joined =
                known.get(&record.key()).and_then(|place| out.get_mut(*place)).is_some_and(|it| it.join(&record));
            if !joined {
                known.insert(record.key(), out.len());
                out.push(record);
            }
        })
    }

    /// All changes below this number are in the journal.
    pub fn set_kept(&self, number: u64) {
        self.spool.get().inspect(|spool| spool.keep(number));
    }

    /// The number that the next change will have.
    #[must_use]
    pub fn next_change(&self) -> u64 {
        self.spool.get().map_or(0, Spool::next)
    }

    /// Writes down some counts of a stripe, from a place on, as records. Where to go on, if anywhere; and up to which
    /// number the changes of this stripe are in it.
    #[must_use]
    pub fn picture(&self, stripe: usize, from: usize, out: &mut Vec<Record>) -> (Option<usize>, u64) {
        let Some(book) = self.stripes.get(stripe).map(lock) else { return (None, 0) };
        (book.picture(from, COUNT_PICTURE_LOOKS, out), self.next_change())
    }

    /// How many records a picture of all has, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.stripes.iter().map(|stripe| lock(stripe).weight()).sum()
    }

    /// How many stripes there are.
    #[must_use]
    pub fn stripes(&self) -> usize {
        self.stripes.len()
    }

    /// Meets needs, up to the first that is not met.
    fn take(&self, books: &mut Books<'_>, needs: &[Need], now_ms: u64, taken: &mut Taken) -> Result<(), Broken> {
        needs.iter().enumerate().try_for_each(|(place, need)| {
            let book = books.of(need.key).ok_or_else(|| self.refuse_full(&self.no_room))?;
            book.take(need, now_ms, taken).map_err(|refusal| self.refused(place, need.key, refusal))
        })
    }

    fn undo(&self, taken: &Taken, now: Now, notes: bool) {
        if !taken.set_given_back() {
            return;
        }
        let under_way = taken.set_ended();
        let now_ms = self.ms(now);
        let goes = |held: &&Held| (under_way || !held.is_passing()) && (notes || !held.is_note());
        let mut books = self.hold(taken.held().iter().filter(goes).map(Held::key));
        for held in taken.held().iter().filter(goes) {
            let record = books.of(held.key()).and_then(|book| book.give_back(held, now_ms));
            // Where it cannot be written down, it counts again after a crash.
            _ = self.write(record.into_iter());
        }
        drop(books);
        self.urge();
    }

    /// Writes records down, all or none.
    fn write(&self, records: impl Iterator<Item = Record>) -> Result<(), Broken> {
        let Some(spool) = self.spool.get() else { return Ok(()) };
        let records: SmallVec<[Record; 4]> = records.collect();
        let mut claim = spool.claim(records.len() as u64).ok_or_else(|| self.refuse_full(&self.not_kept))?;
        records.iter().for_each(|record| spool.write(&mut claim, record));
        Ok(())
    }

    fn urge(&self) {
        self.spool.get().inspect(|spool| spool.urge());
    }

    fn refused(&self, place: usize, key: CountKey, refusal: Refusal) -> Broken {
        let Refusal { retry_ms, full, used, max } = refusal;
        // For want of room in shadow no call is refused.
        if full && !key.is_shadow() {
            self.no_room.fetch_add(1, Ordering::Relaxed);
        }
        Broken { place, retry_ms, full, used, max }
    }

    fn refuse_full(&self, count: &AtomicU64) -> Broken {
        count.fetch_add(1, Ordering::Relaxed);
        let nothing = Quantity::Count(0);
        Broken { place: 0, retry_ms: None, full: true, used: nothing, max: nothing }
    }

    fn hold(&self, keys: impl Iterator<Item = CountKey>) -> Books<'_> {
        let mut places: SmallVec<[usize; 8]> = keys.map(stripe).collect();
        places.sort_unstable();
        places.dedup();
        Books(places.into_iter().map(|place| (place, lock(&self.stripes[place]))).collect())
    }

    /// Milliseconds since 1970, by the monotonic clock.
    fn ms(&self, now: Now) -> u64 {
        let passed = u64::try_from(now.mono.since(self.start.mono).as_millis()).unwrap_or(u64::MAX);
        self.start.unix_ms.saturating_add(passed)
    }
}

impl Books<'_> {
    fn of(&mut self, key: CountKey) -> Option<&mut Book> {
        let place = stripe(key);
        self.0.iter_mut().find(|(number, _)| *number == place).map(|(_, book)| &mut **book)
    }
}

impl Past for PastAt<'_> {
    fn happened(&self, key: CountKey, within_ms: Option<u64>) -> bool {
        self.counts.happened(key, within_ms, self.now)
    }
}

fn stripe(key: CountKey) -> usize {
    usize::from(key.0[0]) % LEDGER_STRIPES
}

#[cfg(test)]
#[path = "counts_tests.rs"]
mod tests;
