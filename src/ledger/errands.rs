//! Errands: what a shard needs that only the plane can fetch (a token for a server, what an issuer says of an opaque
//! token). Asked for once, however many callers on however many shards wait for it; kept until it ends; fetched anew a
//! little before that while it is in use, so that nobody waits twice.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::time::Moment;

/// What something fetched is found by: a SHA-256 over all that it depends on.
pub type ErrandKey = [u8; 32];

const STRIPES: usize = 16;

/// Errands of one kind: `Q` is what the plane is asked, `A` what it brings.
#[derive(Debug)]
pub struct Errands<Q, A> {
    stripes: [Mutex<HashMap<ErrandKey, Entry<A>>>; STRIPES],
    queue: Mutex<VecDeque<(ErrandKey, Q)>>,
    bell: Condvar,
    /// Entries of one stripe.
    max: usize,
    /// Errands that wait for the plane.
    queue_max: usize,
    /// How often something was forgotten.
    forgotten: AtomicU64,
}

#[derive(Debug)]
struct Entry<A> {
    /// What was brought last.
    found: Option<Found<A>>,
    /// The plane was asked, and has not answered yet.
    asked: bool,
    /// When it was looked for last.
    used: Moment,
}

#[derive(Debug)]
struct Found<A> {
    outcome: Outcome<A>,
    until: Moment,
    /// From then on it is fetched anew while it is in use.
    stale: Moment,
    /// That came to nothing the last time, in a word; not tried again before then.
    missed: Option<(&'static str, Moment)>,
}

/// Of what use it is to whoever looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It will do.
    Good,
    /// It will do; a newer one is fetched meanwhile.
    Aging,
    /// Only a newer one will do: that is waited for.
    Bad,
}

/// When the plane comes to an errand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// After those that wait already.
    InTurn,
    /// Before them, and there is room for as many again: nobody's flood keeps these waiting.
    First,
}

/// What became of an errand.
#[derive(Clone, Debug)]
pub enum Outcome<A> {
    /// This.
    Brought(A),
    /// Nothing, in a word of ours for people; it is not tried again before it ends.
    Failed(&'static str),
}

/// What a look finds.
#[derive(Debug)]
pub enum Look<A> {
    /// It is there.
    Have(A),
    /// It could not be had, in a word; worth another try after so long, milliseconds.
    Failed(&'static str, u64),
    /// The plane is at it: look again when it has rung.
    Wait,
    /// Too many wait already.
    Full,
}

impl<Q, A: Clone> Errands<Q, A> {
    /// Room for so many things fetched, and for so many errands that wait.
    #[must_use]
    pub fn new(entries_max: usize, queue_max: usize) -> Self {
        Self {
            stripes: std::array::from_fn(|_| Mutex::default()),
            queue: Mutex::default(),
            bell: Condvar::new(),
            max: entries_max.div_ceil(STRIPES).max(1),
            queue_max,
            forgotten: AtomicU64::new(0),
        }
    }

    /// Looks for it; where it is not there, or about to end, the plane is asked with what `errand` makes.
    pub fn look(&self, key: &ErrandKey, now: Moment, errand: impl FnOnce() -> Q) -> Look<A> {
        self.look_in(key, now, Turn::InTurn, errand)
    }

    /// The same, for whom this may be worth more than for others; see [`Turn`].
    pub fn look_in(&self, key: &ErrandKey, now: Moment, turn: Turn, errand: impl FnOnce() -> Q) -> Look<A> {
        self.find(key, now, turn, |_| Fit::Good, |_| errand())
    }

    /// As [`Errands::look`], where what is there is not equally good for everybody. What is of no use here is not
    /// forgotten: to others it may be. `errand` is told of it.
    pub fn look_for(
        &self,
        key: &ErrandKey,
        now: Moment,
        fit: impl FnOnce(&A) -> Fit,
        errand: impl FnOnce(Option<&A>) -> Q,
    ) -> Look<A> {
        self.find(key, now, Turn::InTurn, fit, errand)
    }

    fn find(
        &self,
        key: &ErrandKey,
        now: Moment,
        turn: Turn,
        fit: impl FnOnce(&A) -> Fit,
        errand: impl FnOnce(Option<&A>) -> Q,
    ) -> Look<A> {
        let left_ms = |until: Moment| u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX).max(1);
        let mut stripe = self.stripe(key);
        if !stripe.contains_key(key) && stripe.len() >= self.max && !make_room(&mut stripe, now) {
            return Look::Full;
        }
        let entry = stripe.entry(*key).or_insert(Entry { found: None, asked: false, used: now });
        entry.used = now;
        let found = entry.found.as_ref().filter(|found| now < found.until);
        let (look, due) = match found {
            Some(Found { outcome: Outcome::Brought(what), stale, missed, .. }) => {
                let missed = missed.filter(|(_, until)| now < *until);
                match (fit(what), missed) {
                    (Fit::Bad, Some((word, until))) => return Look::Failed(word, left_ms(until)),
                    (Fit::Bad, None) => (Look::Wait, true),
                    (Fit::Aging, None) => (Look::Have(what.clone()), true),
                    (Fit::Aging | Fit::Good, _) => (Look::Have(what.clone()), *stale <= now),
                }
            }
            Some(Found { outcome: Outcome::Failed(word), until, .. }) => return Look::Failed(word, left_ms(*until)),
            None => (Look::Wait, true),
        };
        if due && !entry.asked {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let max = if turn == Turn::First { 2 * self.queue_max } else { self.queue_max };
            if queue.len() >= max {
                return if matches!(look, Look::Wait) { Look::Full } else { look };
            }
            entry.asked = true;
            let errand = errand(entry.brought());
            match turn {
                Turn::InTurn => queue.push_back((*key, errand)),
                Turn::First => queue.push_front((*key, errand)),
            }
            self.bell.notify_one();
        }
        look
    }

    /// The next errand; `None` when there is none for so long. From the plane's threads.
    pub fn take(&self, patience: Duration) -> Option<(ErrandKey, Q)> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.bell.wait_timeout_while(queue, patience, |queue| queue.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.pop_front()
    }

    /// An errand has ended. What it brought holds until `until`, and is fetched anew from `stale` on. An errand that was
    /// forgotten meanwhile has brought nothing.
    pub fn done(&self, key: &ErrandKey, outcome: Outcome<A>, until: Moment, stale: Moment) {
        if let Some(entry) = self.stripe(key).get_mut(key) {
            entry.asked = false;
            let keeps = matches!(outcome, Outcome::Failed(_))
                && entry
                    .found
                    .as_ref()
                    .is_some_and(|found| matches!(found.outcome, Outcome::Brought(_)) && found.until > until);
            if keeps {
                // What is there still holds; it is tried again when this failure is over.
                let missed = if let Outcome::Failed(word) = outcome { Some((word, until)) } else { None };
                entry.found.iter_mut().for_each(|found| (found.stale, found.missed) = (until, missed));
            } else {
                entry.found = Some(Found { outcome, until, stale, missed: None });
            }
        }
    }

    /// Forgets one thing: it is of no use any more. Whether it was there.
    pub fn forget(&self, key: &ErrandKey) -> bool {
        let is_gone = self.stripe(key).remove(key).is_some();
        self.forgotten.fetch_add(u64::from(is_gone), Ordering::Release);
        is_gone
    }

    /// The same, where what was brought is still of this kind: somebody else may have been quicker, and what is there now
    /// is new. Where nothing was brought yet, nothing is forgotten.
    pub fn forget_if(&self, key: &ErrandKey, is_it: impl FnOnce(&A) -> bool) -> bool {
        let mut stripe = self.stripe(key);
        let brought = stripe.get(key).and_then(Entry::brought);
        let is_gone = brought.is_some_and(is_it) && stripe.remove(key).is_some();
        if is_gone {
            self.forgotten.fetch_add(1, Ordering::Release);
        }
        is_gone
    }

    /// Counts up whenever something that was brought is forgotten before its end: whoever keeps a copy for a while looks
    /// again then. One load.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Keeps what was brought only where `keep` says so; what the plane is at is forgotten too where `keep` is told
    /// nothing of it.
    pub fn retain(&self, mut keep: impl FnMut(&ErrandKey, Option<&A>) -> bool) {
        for stripe in &self.stripes {
            let mut stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            stripe.retain(|key, entry| keep(key, entry.brought()));
        }
        self.forgotten.fetch_add(1, Ordering::Release);
    }

    /// Lets go of what has been over for so long, milliseconds.
    pub fn age(&self, now: Moment, kept_ms: u64) {
        for stripe in &self.stripes {
            let mut stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            let is_kept = |found: &Found<A>| now < found.until.plus_ms(kept_ms);
            stripe.retain(|_, entry| entry.asked || entry.found.as_ref().is_some_and(is_kept));
            if stripe.len() < stripe.capacity() / 4 {
                stripe.shrink_to_fit();
            }
        }
    }

    /// How many things are there, and how many errands wait.
    #[must_use]
    pub fn standing(&self) -> (usize, usize) {
        let held = |stripe: &Mutex<HashMap<_, _>>| stripe.lock().unwrap_or_else(PoisonError::into_inner).len();
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).len();
        (self.stripes.iter().map(held).sum(), queue)
    }

    fn stripe(&self, key: &ErrandKey) -> MutexGuard<'_, HashMap<ErrandKey, Entry<A>>> {
        let place = usize::from(key[0]) % STRIPES;
        self.stripes[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A> Entry<A> {
    fn brought(&self) -> Option<&A> {
        match &self.found.as_ref()?.outcome {
            Outcome::Brought(what) => Some(what),
            Outcome::Failed(_) => None,
        }
    }
}

/// Forgets what is over, or else what was out of use for longest; never what somebody waits for. Whether there is room.
fn make_room<A>(stripe: &mut HashMap<ErrandKey, Entry<A>>, now: Moment) -> bool {
    let before = stripe.len();
    stripe.retain(|_, entry| entry.asked || entry.found.as_ref().is_some_and(|found| now < found.until));
    if stripe.len() < before {
        return true;
    }
    let oldest =
        stripe.iter().filter(|(_, entry)| !entry.asked).min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key);
    oldest.is_some_and(|key| stripe.remove(&key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> ErrandKey {
        [byte; 32]
    }

    #[test]
    fn asked_once_brought_once_and_fetched_anew_before_its_end() {
        let errands: Errands<&str, u32> = Errands::new(64, 8);
        let at = |ms: u64| Moment(0).plus_ms(ms);
        for _ in 0..5 {
            assert!(matches!(errands.look(&key(1), at(0), || "go"), Look::Wait));
        }
        assert_eq!(errands.take(Duration::ZERO), Some((key(1), "go")));
        assert_eq!(errands.take(Duration::ZERO), None, "single flight");
        errands.done(&key(1), Outcome::Brought(7), at(100), at(80));
        assert!(matches!(errands.look(&key(1), at(50), || "again"), Look::Have(7)));
        assert_eq!(errands.take(Duration::ZERO), None);
        assert!(matches!(errands.look(&key(1), at(90), || "again"), Look::Have(7)));
        assert_eq!(errands.take(Duration::ZERO), Some((key(1), "again")));
        // A failure does not take away what still holds.
        errands.done(&key(1), Outcome::Failed("down"), at(95), at(95));
        assert!(matches!(errands.look(&key(1), at(91), || "again"), Look::Have(7)));
        assert_eq!(errands.take(Duration::ZERO), None, "not before the failure is over");
        assert!(matches!(errands.look(&key(1), at(100), || "anew"), Look::Wait));
        errands.done(&key(1), Outcome::Failed("down"), at(110), at(110));
        assert!(matches!(errands.look(&key(1), at(105), || "anew"), Look::Failed("down", 5)));
    }

    #[test]
    fn what_is_over_goes() {
        let errands: Errands<(), u32> = Errands::new(64, 8);
        assert!(matches!(errands.look(&key(1), Moment(0), || ()), Look::Wait));
        errands.done(&key(1), Outcome::Brought(7), Moment(9), Moment(9));
        errands.age(Moment(8), 0);
        assert_eq!(errands.standing().0, 1);
        errands.age(Moment(9), 0);
        assert_eq!(errands.standing().0, 0);
    }

    #[test]
    fn what_is_of_no_use_to_one_may_be_to_another() {
        let errands: Errands<Option<u32>, u32> = Errands::new(64, 8);
        let at = |ms: u64| Moment(0).plus_ms(ms);
        let look = |ms, fit| errands.look_for(&key(1), at(ms), |_| fit, |held| held.copied());
        assert!(matches!(look(0, Fit::Bad), Look::Wait));
        assert_eq!(errands.take(Duration::ZERO), Some((key(1), None)));
        errands.done(&key(1), Outcome::Brought(7), at(1_000), at(500));
        assert!(matches!(look(1, Fit::Good), Look::Have(7)));
        assert_eq!(errands.take(Duration::ZERO), None);
        assert!(matches!(look(2, Fit::Aging), Look::Have(7)));
        assert_eq!(errands.take(Duration::ZERO), Some((key(1), Some(7))));
        assert!(matches!(look(3, Fit::Bad), Look::Wait));
        assert!(matches!(look(3, Fit::Good), Look::Have(7)), "it is not forgotten");
        assert_eq!(errands.take(Duration::ZERO), None, "single flight");
        errands.done(&key(1), Outcome::Failed("down"), at(100), at(100));
        assert!(matches!(look(40, Fit::Bad), Look::Failed("down", 60)));
        assert!(matches!(look(40, Fit::Aging), Look::Have(7)));
        assert_eq!(errands.take(Duration::ZERO), None, "not before the failure is over");
        assert!(matches!(look(100, Fit::Bad), Look::Wait));
        assert_eq!(errands.take(Duration::ZERO), Some((key(1), Some(7))));
    }

    #[test]
    fn what_is_forgotten_meanwhile_is_not_brought() {
        let errands: Errands<(), u32> = Errands::new(64, 8);
        assert!(matches!(errands.look(&key(1), Moment(0), || ()), Look::Wait));
        assert!(errands.forget(&key(1)));
        errands.done(&key(1), Outcome::Brought(7), Moment(9), Moment(9));
        assert!(matches!(errands.look(&key(1), Moment(0), || ()), Look::Wait));
    }

    #[test]
    fn those_who_go_first_have_room_of_their_own() {
        let errands: Errands<u8, u32> = Errands::new(64, 2);
        let look = |byte, turn| errands.look_in(&key(byte), Moment(0), turn, || byte);
        assert!(matches!(look(1, Turn::InTurn), Look::Wait));
        assert!(matches!(look(2, Turn::InTurn), Look::Wait));
        assert!(matches!(look(3, Turn::InTurn), Look::Full));
        assert!(matches!(look(4, Turn::First), Look::Wait));
        assert!(matches!(look(5, Turn::First), Look::Wait));
        assert!(matches!(look(6, Turn::First), Look::Full), "these are bounded too");
        let order: Vec<u8> = std::iter::from_fn(|| errands.take(Duration::ZERO)).map(|(_, errand)| errand).collect();
        assert_eq!(order, [5, 4, 1, 2]);
    }

    #[test]
    fn what_is_over_is_let_go_of() {
        let errands: Errands<(), u32> = Errands::new(64, 8);
        let at = |ms: u64| Moment(0).plus_ms(ms);
        for byte in 1..=3 {
            assert!(matches!(errands.look(&key(byte), at(0), || ()), Look::Wait));
        }
        errands.done(&key(1), Outcome::Brought(1), at(100), at(80));
        errands.done(&key(2), Outcome::Failed("down"), at(500), at(500));
        errands.age(at(149), 50);
        assert_eq!(errands.standing().0, 3);
        errands.age(at(150), 50);
        assert_eq!(errands.standing().0, 2);
        errands.age(at(600), 50);
        assert_eq!(errands.standing().0, 1, "what the plane is at stays");
    }

    #[test]
    fn room_is_bounded() {
        let errands: Errands<(), u32> = Errands::new(STRIPES * 2, 3);
        let of = |number: u8| {
            let mut key = [0; 32];
            key[1] = number;
            key
        };
        assert!(matches!(errands.look(&of(0), Moment(0), || ()), Look::Wait));
        assert!(matches!(errands.look(&of(1), Moment(1), || ()), Look::Wait));
        assert!(matches!(errands.look(&of(2), Moment(2), || ()), Look::Full), "both are waited for");
        errands.done(&of(0), Outcome::Brought(1), Moment(100), Moment(100));
        assert!(matches!(errands.look(&of(2), Moment(2), || ()), Look::Wait), "what nobody waits for goes");
        assert_eq!(errands.standing(), (2, 3));
        errands.age(Moment(50), 0);
        assert_eq!(errands.standing(), (2, 3), "what is not over, or waited for, stays");
        let mut other = [0; 32];
        other[0] = 1;
        assert!(matches!(errands.look(&other, Moment(3), || ()), Look::Full), "the queue is full");
    }
}
