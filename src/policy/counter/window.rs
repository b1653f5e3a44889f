//! A window that slides: what was counted when, of which only the last `per` counts. So many entries are kept apart;
//! beyond that neighbours are counted under the later of their times, so a window may hold on for too long, by a share
//! of its length, and never lets go too soon.

use smallvec::SmallVec;

use super::Amount;

/// Entries and their sum.
#[derive(Clone, Debug)]
pub(super) struct Window<A> {
    /// By time, oldest first; those before `head` have left. One holds what was counted since the time of the one before
    /// it.
    entries: SmallVec<[(u64, A); 1]>,
    head: u32,
    total: A,
    per_ms: u64,
    /// What was counted before this has left.
    gone_ms: u64,
}

impl<A: Amount> Window<A> {
    /// An empty one of this length, milliseconds (`FOREVER` for one that nothing leaves), which knows nothing of what was
    /// counted before a time.
    pub(super) fn new(per_ms: u64, gone_ms: u64) -> Self {
        Self { entries: SmallVec::new(), head: 0, total: A::NOTHING, per_ms, gone_ms }
    }

    pub(super) fn per_ms(&self) -> u64 {
        self.per_ms
    }

    pub(super) fn gone_ms(&self) -> u64 {
        self.gone_ms
    }

    /// What there is, oldest first.
    pub(super) fn entries(&self) -> &[(u64, A)] {
        self.entries.get(self.head as usize..).unwrap_or_default()
    }

    pub(super) fn total(&self) -> A {
        self.total
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// The time of the newest entry.
    pub(super) fn newest_ms(&self) -> Option<u64> {
        self.entries().last().map(|entry| entry.0)
    }

    /// What it takes beside itself, bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        if self.entries.spilled() { self.entries.capacity() * size_of::<(u64, A)>() } else { 0 }
    }

    /// Another length from now on.
    pub(super) fn set_per_ms(&mut self, per_ms: u64) {
        if per_ms == FOREVER
            && per_ms != self.per_ms
            && let Some(newest) = self.newest_ms()
        {
            self.entries.clear();
            self.head = 0;
            self.entries.push((newest, self.total));
        }
        self.per_ms = per_ms;
    }

    /// What is older than the window leaves. An entry of the very same age stays: times are whole milliseconds, and what
    /// is less than one apart must not count as more.
    pub(super) fn slide(&mut self, now_ms: u64) {
        while let Some(&(at_ms, amount)) = self.entries.get(self.head as usize) {
            if now_ms.saturating_sub(at_ms) <= self.per_ms {
                break;
            }
            self.head += 1;
            self.gone_ms = self.gone_ms.max(at_ms + 1);
            self.lessen(amount);
        }
        let head = self.head as usize;
        if head == self.entries.len() {
            self.entries = SmallVec::new();
            (self.head, self.total) = (0, A::NOTHING);
        } else if head >= HEAD_MAX && head * 2 >= self.entries.len() {
            self.entries.drain(..head);
            self.head = 0;
        }
    }

    /// As [`Window::slide`], as if it had this length.
    pub(super) fn slide_by(&mut self, now_ms: u64, per_ms: u64) {
        self.set_per_ms(per_ms);
        self.slide(now_ms);
    }

    /// Whether nothing is left in it. Without a length of its own it lasts so long after its newest entry, milliseconds.
    pub(super) fn is_over(&mut self, now_ms: u64, lasts_ms: u64) -> bool {
        self.slide(now_ms);
        let lasts_ms = if self.per_ms == FOREVER { lasts_ms } else { FOREVER };
        self.newest_ms().is_none_or(|newest_ms| now_ms.saturating_sub(newest_ms) > lasts_ms)
    }

    /// Counts one more, among at most `room` entries. False, and nothing is counted, where it cannot be told exactly.
    #[must_use]
    pub(super) fn add(&mut self, at_ms: u64, amount: A, room: usize) -> bool {
        let Some(total) = self.total.plus(amount) else { return false };
        if self.per_ms == FOREVER
            && let Some(last) = self.entries.last_mut()
        {
            *last = (last.0.max(at_ms), total);
        } else if let Some(same) = self.at(at_ms)
            && let Some(sum) = same.plus(amount)
        {
            *same = sum;
        } else if self.entries().len() < room || self.fold(room) {
            let place = self.place(at_ms);
            self.entries.insert(place, (at_ms, amount));
        } else {
            return false;
        }
        self.total = total;
        true
    }

    /// Counts one less: what was counted at a time. False where that has left, or is not there.
    #[must_use]
    pub(super) fn take_back(&mut self, at_ms: u64, amount: A) -> bool {
        if at_ms < self.gone_ms {
            return false;
        }
        // Where it was counted under a later time, that is the time of the first entry from here on.
        let head = self.head as usize;
        let Some(place) = (head..self.entries.len()).find(|&place| self.entries[place].0 >= at_ms) else {
            return false;
        };
        let Some(left) = self.entries[place].1.less(amount) else { return false };
        self.entries[place].1 = left;
        if left == A::NOTHING {
            self.entries.remove(place);
        }
        self.lessen(amount);
        if self.is_empty() {
            self.total = A::NOTHING;
        }
        true
    }

    /// In how many milliseconds this much more would fit; `None` where it never will.
    pub(super) fn fits_in_ms(&self, now_ms: u64, amount: A, max: A) -> Option<u64> {
        if self.per_ms == FOREVER || amount > max {
            return None;
        }
        let mut left = self.total;
        self.entries().iter().find_map(|&(at_ms, gone)| {
            left = left.less(gone).unwrap_or(left);
            let fits = left.plus(amount).is_some_and(|sum| sum <= max);
            fits.then(|| at_ms.saturating_add(self.per_ms).saturating_add(1).saturating_sub(now_ms))
        })
    }

    fn lessen(&mut self, amount: A) {
        // Where the difference has too many digits, the sum of what is left may have fewer; else it stays too high until
        // nothing is left.
        let summed = |entries: &[(u64, A)]| entries.iter().try_fold(A::NOTHING, |sum, entry| sum.plus(entry.1));
        self.total = self.total.less(amount).or_else(|| summed(self.entries())).unwrap_or(self.total);
    }

    fn at(&mut self, at_ms: u64) -> Option<&mut A> {
        let place = self.place(at_ms).checked_sub(1).filter(|&place| place >= self.head as usize)?;
        self.entries.get_mut(place).filter(|entry| entry.0 == at_ms).map(|entry| &mut entry.1)
    }

    /// Behind the last entry that is not later; seldom far from the end.
    fn place(&self, at_ms: u64) -> usize {
        let later = self.entries().iter().rev().take_while(|entry| entry.0 > at_ms).count();
        self.entries.len() - later
    }

    /// Makes room: what falls into the same of `room / 2` parts of the window becomes one entry. Whether there is some.
    fn fold(&mut self, room: usize) -> bool {
        let part_ms = (self.per_ms / (room as u64 / 2).max(1)).max(1);
        self.merge(|earlier, later, _| earlier / part_ms == later / part_ms);
        if self.entries().len() >= room {
            // More than one window of times, as when the clock was set back.
            self.merge(|_, _, place| place % 2 == 1);
        }
        self.entries().len() < room
    }

    /// Makes one of neighbours, under the later time.
    fn merge(&mut self, joins: impl Fn(u64, u64, usize) -> bool) {
        let mut kept = 0;
        let head = self.head as usize;
        for (number, place) in (head..self.entries.len()).enumerate() {
            let (at_ms, amount) = self.entries[place];
            let before = (kept > 0).then(|| self.entries[kept - 1]);
            let joined = before.filter(|before| joins(before.0, at_ms, number)).and_then(|it| it.1.plus(amount));
            match joined {
                Some(sum) => self.entries[kept - 1] = (at_ms, sum),
                None => {
                    self.entries[kept] = (at_ms, amount);
                    kept += 1;
                }
            }
        }
        self.entries.truncate(kept);
        self.head = 0;
    }
}

/// The length of a window that nothing leaves.
pub(super) const FOREVER: u64 = u64::MAX;
/// So many that have left are kept before the others move up.
const HEAD_MAX: usize = 32;
