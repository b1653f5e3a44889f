//! Counts of limits and rates: one stripe of them, as a book that is told what time it is.
//! Start at [`Book::take`].
//!
//! Time is in milliseconds since 1970. A book believes it when it runs ahead; where it falls back a little, as between
//! two threads that have looked at the clock, the later time stays, and where it falls back far, what was counted at a
//! later time stays until that time has passed and its window with it. So a clock that is set back frees nothing.

mod bucket;
pub mod journal;
pub mod record;
#[cfg(test)]
mod tests;
mod window;

use std::cell::Cell;
use std::fmt;

use hashbrown::HashTable;
use smallvec::SmallVec;

use self::bucket::Bucket;
use self::record::{Op, Record};
use self::window::{FOREVER, Window};
use super::cond::Number;
use super::needs::{CountKey, Need, NeedOf, Note, Source};
use crate::base::limits::{
    COUNT_BACK_MS_MAX, COUNT_ENTRIES_MAX, COUNT_ENTRIES_MIN, COUNT_LOOKS_MAX, COUNT_NOTES_MAX, COUNTS_STRIPE_BYTES_MAX,
    COUNTS_STRIPE_MAX, COUNTS_STRIPE_SHADOW_BYTES_MAX, COUNTS_STRIPE_SHADOW_MAX,
};

/// What was reserved for a call; only a reservation makes one that is not empty. It must be given to
/// `ledger::counts::Counts::ended` when the call has ended.
///
/// ```compile_fail,E0451
/// fn forge() -> portcullis::policy::counter::Taken {
///     portcullis::policy::counter::Taken { parts: None }
/// }
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Boxed: most calls need nothing, and carry this around.
    parts: Option<Box<Parts>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    held: SmallVec<[Held; 4]>,
    given_back: Cell<bool>,
    ended: Cell<bool>,
}

/// One need, met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    need: Need,
    at_ms: u64,
    before: Quantity,
    after: Quantity,
    /// What is missing of a bucket.
    missing: u64,
}

/// How much of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// So many.
    Count(u64),
    /// So much.
    Sum(Number),
}

/// What a call did to a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Which limit it is.
    pub source: Source,
    /// How much was used without the call.
    pub before: Quantity,
    /// And with it.
    pub after: Quantity,
    /// How much may be.
    pub max: Quantity,
}

/// Why a need is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// After so long it might be, milliseconds; `None` where time alone does not help, or nobody knows when.
    pub retry_ms: Option<u64>,
    /// There is no room to count it.
    pub full: bool,
    /// How much is used.
    pub used: Quantity,
    /// How much may be.
    pub max: Quantity,
}

/// The counts of one stripe.
#[derive(Debug, Default)]
pub struct Book {
    index: HashTable<u32>,
    counts: Vec<Option<Count>>,
    free: Vec<u32>,
    /// How many are of rules in shadow.
    shadows: usize,
    /// What their entries take, bytes.
    heap_bytes: usize,
    latest_ms: u64,
    /// Where the sweep goes on.
    hand: usize,
}

#[derive(Debug)]
struct Count {
    key: CountKey,
    kind: Kind,
    lasts_ms: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Calls(Window<u64>),
    Sums(Box<Window<Number>>),
    Bucket(Bucket),
    /// Under way.
    Busy(u64),
}

/// Counts of different kinds are different counts, whatever their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Calls,
    Sum,
    Once,
    Note,
    Bucket,
    Concurrent,
}

/// What can be counted.
trait Amount: Copy + Ord {
    const NOTHING: Self;
    fn plus(self, other: Self) -> Option<Self>;
    /// `None` where it would be below nothing, or cannot be told exactly.
    fn less(self, other: Self) -> Option<Self>;
    fn quantity(self) -> Quantity;
    fn parts(self) -> (i128, i32);
    fn of_parts(digits: i128, exponent: i32) -> Option<Self>;
    fn window(state: &mut State) -> Option<&mut Window<Self>>;
    fn state(window: Window<Self>) -> State;
}

impl Taken {
    /// Nothing: for calls that need nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { parts: None }
    }

    /// Whether it was made for exactly these.
    #[must_use]
    pub fn covers(&self, needs: &[Need]) -> bool {
        self.held().len() == needs.len() && self.held().iter().zip(needs).all(|(held, need)| held.need == *need)
    }

    /// What it did to each count, in the order of the needs. What is only looked at, or noted, has no level.
    pub fn levels(&self) -> impl Iterator<Item = Level> {
        self.held().iter().filter_map(Held::level)
    }

    /// The needs that were met, in their order.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        self.parts.as_ref().map_or(&[], |parts| &parts.held)
    }

    /// Marks it as given back. False when it has been before.
    #[must_use]
    pub fn set_given_back(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| !parts.given_back.replace(true))
    }

    /// Marks its call as ended. False when it has been before.
    #[must_use]
    pub fn set_ended(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| !parts.ended.replace(true))
    }

    /// All of these, whatever is used up.
    #[cfg(test)]
    pub(crate) fn of(needs: &[Need]) -> Self {
        let mut taken = Self::none();
        for need in needs {
            let nothing = Quantity::Count(0);
            taken.push(Held { need: *need, at_ms: 0, before: nothing, after: nothing, missing: 0 });
        }
        taken
    }

    fn push(&mut self, held: Held) {
        self.parts.get_or_insert_default().held.push(held);
    }
}

impl Held {
    /// The count.
    #[must_use]
    pub fn key(&self) -> CountKey {
        self.need.key
    }

    /// Whether it is for as long as the call is under way, and no longer.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self.need.what, NeedOf::Concurrent { .. })
    }

    /// Whether it notes that a call was let through.
    #[must_use]
    pub fn is_note(&self) -> bool {
        matches!(self.need.what, NeedOf::Note { .. })
    }

    /// What has to be written down for it; nothing for what does not outlive the process.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        let Need { key, what, lasts_ms, .. } = self.need;
        let record = |amount: (i128, i32), per_ms: Option<u64>| Record {
            op: Op::Add,
            kind: Kind::of_need(what),
            key,
            at_ms: self.at_ms,
            per_ms: per_ms.unwrap_or(FOREVER),
            lasts_ms: lasts_ms.unwrap_or(FOREVER),
            digits: amount.0,
            exponent: amount.1,
        };
        match what {
            NeedOf::Calls { per_ms, .. } | NeedOf::Once { per_ms } | NeedOf::Note { keep_ms: per_ms } => {
                Some(record((1, 0), per_ms))
            }
            NeedOf::Sum { amount, per_ms, .. } => Some(record(amount.parts(), per_ms)),
            NeedOf::Bucket { calls, per_ms, .. } => {
                let level = record((i128::from(self.missing), 0), Some(per_ms));
                Some(Record { op: Op::Level, lasts_ms: calls, ..level })
            }
            NeedOf::Concurrent { .. } | NeedOf::After { .. } => None,
        }
    }

    fn level(&self) -> Option<Level> {
        let max = match self.need.what {
            NeedOf::Calls { max, .. } => Quantity::Count(max),
            NeedOf::Sum { max, .. } => Quantity::Sum(max),
            NeedOf::Concurrent { max } => Quantity::Count(max.into()),
            NeedOf::Once { .. } => Quantity::Count(1),
            NeedOf::Bucket { burst, .. } => Quantity::Count(burst),
            NeedOf::After { .. } | NeedOf::Note { .. } => return None,
        };
        Some(Level { source: self.need.source, before: self.before, after: self.after, max })
    }
}

impl Book {
    /// How many counts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.len() - self.free.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many records a picture of them has, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.len() * 2 + self.heap_bytes / size_of::<(u64, u64)>()
    }

    /// Meets a need and adds that to `taken`; or changes nothing.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn take(&mut self, need: &Need, now_ms: u64, taken: &mut Taken) -> Result<(), Refusal> {
        let at_ms = self.tell(now_ms);
        let per = |per_ms: Option<u64>| per_ms.unwrap_or(FOREVER);
        let nothing = Quantity::Count(0);
        let mut held = Held { need: *need, at_ms, before: nothing, after: nothing, missing: 0 };
        (held.before, held.after) = match need.what {
            NeedOf::Calls { max, per_ms } => self.count(need, 1, max, per(per_ms), COUNT_ENTRIES_MAX)?,
            NeedOf::Sum { amount, max, per_ms } => self.count(need, amount, max, per(per_ms), COUNT_ENTRIES_MAX)?,
            NeedOf::Once { per_ms } => self.count(need, 1, 1, per(per_ms), COUNT_ENTRIES_MIN)?,
            NeedOf::Note { keep_ms } => self.count(need, 1, u64::MAX, per(keep_ms), COUNT_NOTES_MAX)?,
            NeedOf::After { within_ms } => {
                if !self.succeeded(need.key, within_ms) {
                    return Err(Refusal { retry_ms: None, full: false, used: nothing, max: nothing });
                }
                (nothing, nothing)
            }
            NeedOf::Concurrent { max } => self.begin(need, max)?,
            NeedOf::Bucket { calls, per_ms, burst } => {
                let (before, after, missing) = self.draw(need, calls, per_ms, burst)?;
                held.missing = missing;
                (before, after)
            }
        };
        taken.push(held);
        Ok(())
    }

    /// Gives back what was taken, as far as it still counts. What has to be written down for that.
    pub fn give_back(&mut self, held: &Held, now_ms: u64) -> Option<Record> {
        let now_ms = self.tell(now_ms);
        let place = self.find(held.need.key, Kind::of_need(held.need.what))?;
        let record = held.record();
        let back = self.change(place, |count| match (&mut count.state, held.need.what) {
            (State::Calls(window), _) => window.take_back(held.at_ms, 1),
            (State::Sums(window), NeedOf::Sum { amount, .. }) => window.take_back(held.at_ms, amount),
            (State::Bucket(bucket), _) => {
                bucket.fill(now_ms);
                bucket.put_back(held.at_ms);
                true
            }
            (State::Busy(busy), _) => {
                *busy = busy.saturating_sub(1);
                true
            }
            (State::Sums(_), _) => false,
        });
        let record = record.filter(|_| back);
        let record = match &self.counts.get(place)?.as_ref()?.state {
            State::Bucket(Bucket { missing, calls, per_ms, at_ms }) => record.map(|record| Record {
                at_ms: *at_ms,
                per_ms: *per_ms,
                lasts_ms: *calls,
                digits: i128::from(*missing),
                ..record
            }),
            // All is gone: whoever has only read the end of the story knows as much as who has read all.
            State::Calls(window) if window.is_empty() => record.map(|it| it.begin(window.gone_ms())),
            State::Sums(window) if window.is_empty() => record.map(|it| it.begin(window.gone_ms())),
            _ => record.map(|record| Record { op: Op::Back, ..record }),
        };
        self.drop_if_over(place, now_ms);
        record
    }

    /// What was under way has ended. Nobody has to look at the clock for that, so the book is not told what time it is.
    pub fn end(&mut self, held: &Held) {
        let Some(place) = self.find(held.need.key, Kind::Concurrent).filter(|_| held.is_passing()) else { return };
        self.change(place, |count| {
            if let State::Busy(busy) = &mut count.state {
                *busy = busy.saturating_sub(1);
            }
        });
        self.drop_if_empty(place);
    }

    /// Remembers that a call has succeeded. What has to be written down for that; nothing where there is no room.
    pub fn note(&mut self, note: &Note, now_ms: u64) -> Option<Record> {
        let mut taken = Taken::none();
        let what = NeedOf::Note { keep_ms: note.keep_ms };
        self.take(&Need { key: note.key, source: Source::Rate(0), what, lasts_ms: None }, now_ms, &mut taken).ok()?;
        taken.held().first().and_then(Held::record)
    }

    /// Whether something was noted, so long ago at most. What was noted at a time that is yet to come, was.
    #[must_use]
    pub fn happened(&self, key: CountKey, within_ms: Option<u64>, now_ms: u64) -> bool {
        let now_ms = now_ms.max(self.told(now_ms));
        let newest = self.window(key, Kind::Note).and_then(Window::newest_ms);
        newest.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) <= within_ms.unwrap_or(FOREVER))
    }

    /// What the need would do to its count now, met or not; `None` for one without a level.
    #[must_use]
    pub fn level(&self, need: &Need, now_ms: u64) -> Option<Level> {
        let now_ms = self.told(now_ms);
        let calls = |kind, per_ms: Option<u64>| {
            let mut window = self.window(need.key, kind).cloned()?;
            window.slide_by(now_ms, per_ms.unwrap_or(FOREVER));
            Some(window.total())
        };
        let place = self.find(need.key, Kind::of_need(need.what));
        let state = place.and_then(|place| self.counts.get(place)?.as_ref()).map(|count| &count.state);
        let (before, amount) = match (need.what, state) {
            (NeedOf::After { .. } | NeedOf::Note { .. }, _) => return None,
            (NeedOf::Calls { per_ms, .. }, _) => (calls(Kind::Calls, per_ms).unwrap_or(0), 1),
            (NeedOf::Once { per_ms }, _) => (calls(Kind::Once, per_ms).unwrap_or(0), 1),
            (NeedOf::Sum { amount, per_ms, .. }, state) => {
                let before = match state {
                    Some(State::Sums(window)) => {
                        let mut window = window.clone();
                        window.slide_by(now_ms, per_ms.unwrap_or(FOREVER));
                        window.total()
                    }
                    _ => Number::ZERO,
                };
                let after = Quantity::Sum(before.plus(amount).unwrap_or(before));
                return Held { need: *need, at_ms: 0, before: Quantity::Sum(before), after, missing: 0 }.level();
            }
            (NeedOf::Concurrent { .. }, Some(State::Busy(busy))) => (*busy, 1),
            (NeedOf::Bucket { calls, per_ms, .. }, Some(State::Bucket(bucket))) => {
                let mut bucket = *bucket;
                bucket.fill(now_ms);
                bucket.set_pace(calls, per_ms);
                (bucket.used(), 1)
            }
            (NeedOf::Concurrent { .. } | NeedOf::Bucket { .. }, _) => (0, 1),
        };
        let (before, after) = (Quantity::Count(before), Quantity::Count(before + amount));
        Held { need: *need, at_ms: 0, before, after, missing: 0 }.level()
    }

    /// Looks at some counts and forgets those that are over. Called again and again, it comes to all of them.
    pub fn sweep(&mut self, now_ms: u64, looks: usize) {
        let now_ms = self.tell(now_ms);
        for _ in 0..looks.min(self.counts.len()) {
            self.hand = if self.hand + 1 < self.counts.len() { self.hand + 1 } else { 0 };
            self.drop_if_over(self.hand, now_ms);
        }
    }

    /// Does again what a record tells of. It is believed: there is room for it whatever the bounds are.
    pub fn replay(&mut self, record: &Record) {
        self.latest_ms = self.latest_ms.max(record.at_ms);
        let Record { op, kind, key, at_ms, per_ms, lasts_ms, digits, exponent } = *record;
        let place = self.find(key, kind);
        match kind {
            Kind::Concurrent => {}
            Kind::Bucket => {
                let place = place.unwrap_or_else(|| self.insert(key, kind, State::Busy(0)));
                let missing = u64::try_from(digits).unwrap_or(u64::MAX);
                let bucket = Bucket { missing, calls: lasts_ms, per_ms, at_ms };
                self.change(place, |count| count.state = State::Bucket(bucket));
            }
            Kind::Sum => self.replay_window::<Number>(record, place, Number::of_parts(digits, exponent)),
            Kind::Calls | Kind::Once | Kind::Note => {
                self.replay_window::<u64>(record, place, u64::of_parts(digits, exponent));
            }
        }
        if op == Op::Back
            && let Some(place) = place
        {
            self.drop_if_empty(place);
        }
    }

    /// Writes down some counts, from a place on. Where to go on, if anywhere.
    #[must_use]
    pub fn picture(&self, from: usize, looks: usize, out: &mut Vec<Record>) -> Option<usize> {
        let until = from.saturating_add(looks).min(self.counts.len());
        for count in self.counts.get(from..until).unwrap_or_default().iter().flatten() {
            count.picture(out);
        }
        (until < self.counts.len()).then_some(until)
    }

    /// Counts an amount in a window. What there was before, and after.
    fn count<A: Amount>(
        &mut self,
        need: &Need,
        amount: A,
        max: A,
        per_ms: u64,
        room: usize,
    ) -> Result<(Quantity, Quantity), Refusal> {
        let now_ms = self.latest_ms;
        let refusal = |full, used: A, retry_ms| Refusal { retry_ms, full, used: used.quantity(), max: max.quantity() };
        let kind = Kind::of_need(need.what);
        let place = self.open(need.key, kind, now_ms, || A::state(Window::new(per_ms, now_ms)));
        let place = place.ok_or_else(|| refusal(true, A::NOTHING, None))?;
        let bytes_max = if need.key.is_shadow() { COUNTS_STRIPE_SHADOW_BYTES_MAX } else { COUNTS_STRIPE_BYTES_MAX };
        let room = if self.heap_bytes > bytes_max { COUNT_ENTRIES_MIN } else { room };
        let lasts_ms = need.lasts_ms.unwrap_or(FOREVER);
        let counted = self.change(place, |count| {
            count.lasts_ms = lasts_ms;
            let Some(window) = A::window(&mut count.state) else { return Err(refusal(true, A::NOTHING, None)) };
            window.slide_by(now_ms, per_ms);
            let before = window.total();
            let after = before.plus(amount).filter(|after| *after <= max && amount >= A::NOTHING);
            match after.filter(|_| window.add(now_ms, amount, room)) {
                Some(after) => Ok((before.quantity(), after.quantity())),
                None => Err(refusal(false, before, window.fits_in_ms(now_ms, amount, max))),
            }
        });
        if counted.is_err() {
            self.drop_if_empty(place);
        }
        counted
    }

    /// Counts a call that is under way.
    fn begin(&mut self, need: &Need, max: u32) -> Result<(Quantity, Quantity), Refusal> {
        let max = u64::from(max);
        let refusal =
            |full, used| Refusal { retry_ms: None, full, used: Quantity::Count(used), max: Quantity::Count(max) };
        let place = self.open(need.key, Kind::Concurrent, self.latest_ms, || State::Busy(0));
        let place = place.ok_or_else(|| refusal(true, 0))?;
        let begun = self.change(place, |count| match &mut count.state {
            State::Busy(busy) if *busy < max => {
                *busy += 1;
                Ok((Quantity::Count(*busy - 1), Quantity::Count(*busy)))
            }
            State::Busy(busy) => Err(refusal(false, *busy)),
            _ => Err(refusal(true, 0)),
        });
        if begun.is_err() {
            self.drop_if_empty(place);
        }
        begun
    }

    /// Takes a call out of a bucket. How much was used before, and is after, and what is missing exactly.
    fn draw(&mut self, need: &Need, calls: u64, per_ms: u64, burst: u64) -> Result<(Quantity, Quantity, u64), Refusal> {
        let now_ms = self.latest_ms;
        let refusal = |full, used, retry_ms| {
            let (used, max) = (Quantity::Count(used), Quantity::Count(burst));
            Refusal { retry_ms, full, used, max }
        };
        let new = || State::Bucket(Bucket::new(calls, per_ms, now_ms));
        let place = self.open(need.key, Kind::Bucket, now_ms, new).ok_or_else(|| refusal(true, 0, None))?;
        let drawn = self.change(place, |count| {
            let State::Bucket(bucket) = &mut count.state else { return Err(refusal(true, 0, None)) };
            bucket.fill(now_ms);
            bucket.set_pace(calls, per_ms);
            let before = bucket.used();
            bucket.take(burst).map_err(|retry_ms| refusal(false, before, retry_ms))?;
            Ok((Quantity::Count(before), Quantity::Count(bucket.used()), bucket.missing))
        });
        if drawn.is_err() {
            self.drop_if_empty(place);
        }
        drawn
    }

    /// Whether something was noted, so long ago at most, and not at a time that is yet to come.
    fn succeeded(&self, key: CountKey, within_ms: Option<u64>) -> bool {
        let now_ms = self.latest_ms;
        let within = |at_ms: u64| now_ms.checked_sub(at_ms).is_some_and(|age| age <= within_ms.unwrap_or(FOREVER));
        self.window(key, Kind::Note).is_some_and(|window| window.entries().iter().any(|entry| within(entry.0)))
    }

    /// The time that counts, from now on.
    fn tell(&mut self, now_ms: u64) -> u64 {
        self.latest_ms = self.told(now_ms);
        self.latest_ms
    }

    fn told(&self, now_ms: u64) -> u64 {
        let back = self.latest_ms.saturating_sub(now_ms);
        if back > COUNT_BACK_MS_MAX { now_ms } else { self.latest_ms.max(now_ms) }
    }

    fn window(&self, key: CountKey, kind: Kind) -> Option<&Window<u64>> {
        match &self.counts.get(self.find(key, kind)?)?.as_ref()?.state {
            State::Calls(window) => Some(window),
            _ => None,
        }
    }

    fn find(&self, key: CountKey, kind: Kind) -> Option<usize> {
        let is_it = |place: &u32| {
            let count = self.counts.get(*place as usize).and_then(Option::as_ref);
            count.is_some_and(|count| count.key == key && count.kind == kind)
        };
        self.index.find(hash(key), is_it).map(|place| *place as usize)
    }

    /// The place of a count, which is made if it is not there; `None` where there is no room for it.
    fn open(&mut self, key: CountKey, kind: Kind, now_ms: u64, new: impl FnOnce() -> State) -> Option<usize> {
        if let Some(place) = self.find(key, kind) {
            return Some(place);
        }
        if !self.has_room(key) {
            self.sweep(now_ms, COUNT_LOOKS_MAX);
        }
        self.has_room(key).then(|| self.insert(key, kind, new()))
    }

    /// Whether one more of its kind fits: those of rules in shadow and the others take no room of each other's.
    fn has_room(&self, key: CountKey) -> bool {
        if key.is_shadow() {
            return self.shadows < COUNTS_STRIPE_SHADOW_MAX;
        }
        self.len() - self.shadows < COUNTS_STRIPE_MAX
    }

    fn insert(&mut self, key: CountKey, kind: Kind, state: State) -> usize {
        self.shadows += usize::from(key.is_shadow());
        let count = Some(Count { key, kind, lasts_ms: FOREVER, state });
        let place = match self.free.pop() {
            Some(place) => place as usize,
            None => {
                self.counts.push(None);
                self.counts.len() - 1
            }
        };
        self.counts[place] = count;
        let Self { index, counts, .. } = self;
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        index.insert_unique(hash(key), number, |place| {
            counts.get(*place as usize).and_then(Option::as_ref).map_or(0, |count| hash(count.key))
        });
        place
    }

    fn remove(&mut self, place: usize) {
        let Some(count) = self.counts.get_mut(place).and_then(Option::take) else { return };
        self.heap_bytes = self.heap_bytes.saturating_sub(count.heap_bytes());
        self.shadows -= usize::from(count.key.is_shadow());
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        if let Ok(entry) = self.index.find_entry(hash(count.key), |known| *known == number) {
            entry.remove();
        }
        self.free.push(number);
    }

    /// Changes the count at a place, which must be there, and keeps the sum of what all take right.
    fn change<T>(&mut self, place: usize, work: impl FnOnce(&mut Count) -> T) -> T {
        let count = self.counts[place].as_mut().expect("a place that was just found, or made");
        let before = count.heap_bytes();
        let result = work(count);
        let after = count.heap_bytes();
        self.heap_bytes = (self.heap_bytes + after).saturating_sub(before);
        result
    }

    fn drop_if_empty(&mut self, place: usize) {
        if self.counts.get(place).and_then(Option::as_ref).is_some_and(|count| count.is_empty()) {
            self.remove(place);
        }
    }

    fn drop_if_over(&mut self, place: usize, now_ms: u64) {
        if self.counts.get(place).is_none_or(Option::is_none) {
            return;
        }
        if self.change(place, |count| count.is_over(now_ms)) {
            self.remove(place);
        }
    }

    fn replay_window<A: Amount>(&mut self, record: &Record, place: Option<usize>, amount: Option<A>) {
        let Record { op, kind, key, at_ms, per_ms, lasts_ms, .. } = *record;
        let place = match (op, place) {
            (Op::Add | Op::Begin, None) => self.insert(key, kind, A::state(Window::new(per_ms, at_ms))),
            (_, None) => return,
            (_, Some(place)) => place,
        };
        self.change(place, |count| {
            count.lasts_ms = lasts_ms;
            let Some(window) = A::window(&mut count.state) else { return };
            match (op, amount) {
                (Op::Begin, _) => *window = Window::new(per_ms, at_ms),
                (Op::Add, Some(amount)) => {
                    window.slide_by(at_ms, per_ms);
                    // It was told exactly before, or it would not have been written down.
                    let _ = window.add(at_ms, amount, COUNT_ENTRIES_MAX);
                }
                (Op::Back, Some(amount)) => _ = window.take_back(at_ms, amount),
                _ => {}
            }
        });
    }
}

impl Count {
    fn heap_bytes(&self) -> usize {
        match &self.state {
            State::Calls(window) => window.heap_bytes(),
            State::Sums(window) => size_of::<Window<Number>>() + window.heap_bytes(),
            State::Bucket(_) | State::Busy(_) => 0,
        }
    }

    fn is_empty(&self) -> bool {
        match &self.state {
            State::Calls(window) => window.is_empty(),
            State::Sums(window) => window.is_empty(),
            State::Bucket(bucket) => bucket.missing == 0,
            State::Busy(busy) => *busy == 0,
        }
    }

    /// Whether it can be forgotten: it says no more than none at all.
    fn is_over(&mut self, now_ms: u64) -> bool {
        let lasts_ms = self.lasts_ms;
        match &mut self.state {
            State::Calls(window) => window.is_over(now_ms, lasts_ms),
            State::Sums(window) => window.is_over(now_ms, lasts_ms),
            State::Bucket(bucket) => {
                bucket.fill(now_ms);
                bucket.missing == 0
            }
            State::Busy(busy) => *busy == 0,
        }
    }

    fn picture(&self, out: &mut Vec<Record>) {
        match &self.state {
            State::Calls(window) => self.picture_window(window, out),
            State::Sums(window) => self.picture_window(window, out),
            State::Bucket(Bucket { missing, calls, per_ms, at_ms }) => out.push(Record {
                op: Op::Level,
                at_ms: *at_ms,
                per_ms: *per_ms,
                lasts_ms: *calls,
                digits: i128::from(*missing),
                ..self.record()
            }),
            State::Busy(_) => {}
        }
    }

    fn picture_window<A: Amount>(&self, window: &Window<A>, out: &mut Vec<Record>) {
        let record = Record { per_ms: window.per_ms(), ..self.record() };
        out.push(Record { at_ms: window.gone_ms(), ..record });
        out.extend(window.entries().iter().map(|&(at_ms, amount)| {
            let (digits, exponent) = amount.parts();
            Record { op: Op::Add, at_ms, digits, exponent, ..record }
        }));
    }

    fn record(&self) -> Record {
        let Self { key, kind, lasts_ms, .. } = *self;
        Record { op: Op::Begin, kind, key, at_ms: 0, per_ms: FOREVER, lasts_ms, digits: 0, exponent: 0 }
    }
}

impl Kind {
    const ALL: [Self; 6] = [Self::Calls, Self::Sum, Self::Once, Self::Note, Self::Bucket, Self::Concurrent];

    fn of_need(what: NeedOf) -> Self {
        match what {
            NeedOf::Calls { .. } => Self::Calls,
            NeedOf::Sum { .. } => Self::Sum,
            NeedOf::Concurrent { .. } => Self::Concurrent,
            NeedOf::Once { .. } => Self::Once,
            NeedOf::After { .. } | NeedOf::Note { .. } => Self::Note,
            NeedOf::Bucket { .. } => Self::Bucket,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Calls => 1,
            Self::Sum => 2,
            Self::Once => 3,
            Self::Note => 4,
            Self::Bucket => 5,
            Self::Concurrent => 6,
        }
    }

    fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl Amount for u64 {
    const NOTHING: Self = 0;

    fn plus(self, other: Self) -> Option<Self> {
        self.checked_add(other)
    }

    fn less(self, other: Self) -> Option<Self> {
        self.checked_sub(other)
    }

    fn quantity(self) -> Quantity {
        Quantity::Count(self)
    }

    fn parts(self) -> (i128, i32) {
        (self.into(), 0)
    }

    fn of_parts(digits: i128, _: i32) -> Option<Self> {
        Self::try_from(digits).ok()
    }

    fn window(state: &mut State) -> Option<&mut Window<Self>> {
        match state {
            State::Calls(window) => Some(window),
            _ => None,
        }
    }

    fn state(window: Window<Self>) -> State {
        State::Calls(window)
    }
}

impl Amount for Number {
    const NOTHING: Self = Self::ZERO;

    fn plus(self, other: Self) -> Option<Self> {
        Self::plus(self, other)
    }

    fn less(self, other: Self) -> Option<Self> {
        self.minus(other).filter(|left| !left.is_negative())
    }

    fn quantity(self) -> Quantity {
        Quantity::Sum(self)
    }

    fn parts(self) -> (i128, i32) {
        Self::parts(self)
    }

    fn of_parts(digits: i128, exponent: i32) -> Option<Self> {
        Self::of_parts(digits, exponent)
    }

    fn window(state: &mut State) -> Option<&mut Window<Self>> {
        match state {
            State::Sums(window) => Some(window),
            _ => None,
        }
    }

    fn state(window: Window<Self>) -> State {
        State::Sums(Box::new(window))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Sum(sum) => sum.fmt(f),
        }
    }
}

/// A key is a digest under a secret of the state folder's: any of its bytes are as good as any.
fn hash(key: CountKey) -> u64 {
    u64::from_le_bytes([key.0[8], key.0[9], key.0[10], key.0[11], key.0[12], key.0[13], key.0[14], key.0[15]])
}
