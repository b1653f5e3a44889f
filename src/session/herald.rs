//! When a client is told that its lists changed: soon, but not at each of many changes, and not at the moment at which
//! everybody else is told.

use crate::base::limits::{LISTS_GATHERED_MS, LISTS_SPREAD_MS};
use crate::base::time::Moment;

/// What one stream knows of the lists that its reader sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Herald {
    /// What its reader was told of last, or saw: a mark for each list, and `None` before any.
    told: Option<[u64; 3]>,
    /// When to look again.
    due: Option<Moment>,
}

impl Herald {
    /// Something changed that its reader may see: it is looked at once a little time has gone by, which `random` spreads.
    /// What changes meanwhile is part of the same look.
    pub fn heard(&mut self, random: u64, now: Moment) {
        if self.due.is_none() {
            self.due = Some(now.plus_ms(LISTS_GATHERED_MS + random % LISTS_SPREAD_MS));
        }
    }

    /// When there is something to look at.
    #[must_use]
    pub fn due(&self) -> Option<Moment> {
        self.due
    }

    /// Whether its reader has seen nothing yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.told.is_none()
    }

    /// Does not look after all.
    pub fn forget(&mut self) {
        self.due = None;
    }

    /// Has looked: which of the lists are others than its reader knows. Of the first look none is.
    pub fn looked(&mut self, marks: [u64; 3]) -> [bool; 3] {
        self.due = None;
        let told = self.told.replace(marks).unwrap_or(marks);
        std::array::from_fn(|at| told[at] != marks[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_together_is_told_together() {
        let mut herald = Herald::default();
        assert_eq!(herald.looked([1, 2, 3]), [false; 3], "what it sees first it knows");
        herald.heard(7, Moment(0));
        let due = herald.due();
        for now in 1..50 {
            herald.heard(99, Moment(0).plus_ms(now));
        }
        assert_eq!(herald.due(), due, "many changes move nothing");
        assert_eq!(herald.looked([1, 5, 6]), [false, true, true]);
        assert_eq!((herald.due(), herald.looked([1, 5, 6])), (None, [false; 3]));
    }

    #[test]
    fn it_waits_a_little_and_not_long() {
        let waits = |random: u64| {
            let mut herald = Herald::default();
            herald.heard(random, Moment(0));
            herald.due().unwrap()
        };
        let (soonest, latest) =
            (Moment(0).plus_ms(LISTS_GATHERED_MS), Moment(0).plus_ms(LISTS_GATHERED_MS + LISTS_SPREAD_MS));
        assert!((0..2000).map(waits).all(|due| due >= soonest && due < latest));
        assert!(waits(1) != waits(200), "not everybody at once");
    }
}
