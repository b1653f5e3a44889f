//! Hierarchical timer wheel (Varghese and Lauck, 1987), driven by `Moment`: putting in, taking out and moving cost
//! the same whatever is in it, and turning it costs what fires plus at most four moves per value.

use super::limits::TICK_MS;
use super::slab::{Key, Slab};
use super::time::Moment;

/// Values, each with the moment at which it is due.
#[derive(Debug)]
pub struct Wheel<T> {
    nodes: Slab<Node<T>>,
    /// First node of each slot's list.
    heads: [[u32; SLOTS]; LEVELS],
    /// Which slots of a level have a list.
    occupied: [u64; LEVELS],
    /// The tick up to which everything has fired.
    elapsed: u64,
}

#[derive(Debug)]
struct Node<T> {
    /// When it is due.
    tick: u64,
    /// The tick it was linked for: `tick`, or an earlier one at which it is looked at again.
    linked: u64,
    level: u8,
    slot: u8,
    prev: u32,
    next: u32,
    value: T,
}

impl<T> Wheel<T> {
    /// An empty wheel that starts at `now`.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self { nodes: Slab::new(), heads: [[NONE; SLOTS]; LEVELS], occupied: [0; LEVELS], elapsed: now.0 / TICK_NS }
    }

    /// Keeps `value` until `due`, rounded up to a whole tick. What is due already comes out of the next `expire`.
    pub fn insert(&mut self, due: Moment, value: T) -> Key {
        let tick = due.0.div_ceil(TICK_NS);
        let node = Node { tick, linked: 0, level: 0, slot: 0, prev: NONE, next: NONE, value };
        let key = self.nodes.insert(node);
        self.link(key.index);
        key
    }

    /// Takes a value out before it is due; `None` when it was, or was taken out before.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        if !self.nodes.contains(key) {
            return None;
        }
        self.unlink(key.index);
        self.nodes.remove(key).map(|node| node.value)
    }

    /// Moves a value to another moment; says whether it was still there. Moving to a later one only notes it.
    pub fn reset(&mut self, key: Key, due: Moment) -> bool {
        let Some(node) = self.nodes.get_mut(key) else {
            return false;
        };
        node.tick = due.0.div_ceil(TICK_NS);
        if node.tick < node.linked {
            self.unlink(key.index);
            self.link(key.index);
        }
        true
    }

    /// Whether the value is still there: not due at the last `expire`, nor removed.
    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.nodes.contains(key)
    }

    /// The value, while it is still there.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.nodes.get_mut(key).map(|node| &mut node.value)
    }

    /// Hands every value that is due at `now` to `fire`, tick by tick. A clock that goes back fires nothing.
    pub fn expire(&mut self, now: Moment, mut fire: impl FnMut(T)) {
        let now = now.0 / TICK_NS;
        while let Some((level, slot, start)) = self.first_slot() {
            if start > now {
                break;
            }
            self.elapsed = self.elapsed.max(start);
            let mut index = std::mem::replace(&mut self.heads[level][slot], NONE);
            self.occupied[level] &= !(1 << slot);
            while index != NONE {
                let (key, node) = self.nodes.at_mut(index);
                let next = node.next;
                if node.tick > self.elapsed {
                    self.link(index);
                } else if let Some(node) = self.nodes.remove(key) {
                    fire(node.value);
                }
                index = next;
            }
        }
        self.elapsed = self.elapsed.max(now);
    }

    /// The moment before which `expire` has nothing to do; nothing may be due then yet. `None` for an empty wheel.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        self.first_slot().map(|(_, _, start)| Moment(start.saturating_mul(TICK_NS)))
    }

    /// How many values wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The earliest slot with a list: level, slot, and its first tick. What is linked in a level lies behind all of
    /// the levels below, so the first level that has anything has the earliest.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let here = self.elapsed >> shift(level);
        let ahead = self.occupied[level].rotate_right(u32::from(small(slot_of(here)))).trailing_zeros();
        let start = here + u64::from(ahead);
        Some((level, slot_of(start), start << shift(level)))
    }

    fn link(&mut self, index: u32) {
        let elapsed = self.elapsed;
        let (_, node) = self.nodes.at_mut(index);
        // Further ahead than the wheel reaches: looked at again at its far end.
        node.linked = node.tick.clamp(elapsed, elapsed.saturating_add(REACH));
        // The highest digit (base 64) in which the two differ: below it, slots of one round are enough.
        let digits = ((elapsed ^ node.linked) | (SLOTS as u64 - 1)).ilog2() / BITS;
        let level = (digits as usize).min(LEVELS - 1);
        let slot = slot_of(node.linked >> shift(level));
        (node.level, node.slot) = (small(level), small(slot));
        let head = &mut self.heads[level][slot];
        (node.prev, node.next) = (NONE, *head);
        let behind = std::mem::replace(head, index);
        self.occupied[level] |= 1 << slot;
        if behind != NONE {
            self.nodes.at_mut(behind).1.prev = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let (_, node) = self.nodes.at_mut(index);
        let (level, slot) = (usize::from(node.level), usize::from(node.slot));
        let (prev, next) = (node.prev, node.next);
        match prev {
            NONE => self.heads[level][slot] = next,
            prev => self.nodes.at_mut(prev).1.next = next,
        }
        if next != NONE {
            self.nodes.at_mut(next).1.prev = prev;
        }
        if self.heads[level][slot] == NONE {
            self.occupied[level] &= !(1 << slot);
        }
    }
}

fn shift(level: usize) -> u32 {
    u32::from(small(level)) * BITS
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder of 64 fits any integer")]
fn slot_of(digits: u64) -> usize {
    (digits % SLOTS as u64) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "levels and slots are below 64")]
fn small(number: usize) -> u8 {
    number as u8
}

const TICK_NS: u64 = TICK_MS * 1_000_000;

/// A slot's number has this many bits.
const BITS: u32 = 6;

const SLOTS: usize = 1 << BITS;

/// With 64 slots each: 0.6 s, 41 s, 44 min, 46 h, 124 days, in ticks of 10 ms.
const LEVELS: usize = 5;

/// One slot of the highest level less than a round: a full round ahead would be the slot we are in.
const REACH: u64 = 63 << (4 * BITS);

const NONE: u32 = u32::MAX;

const _: () = assert!(LEVELS == 5, "REACH is written for five levels");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const MS: u64 = 1_000_000;

    fn fired(wheel: &mut Wheel<u32>, at_ms: u64) -> Vec<u32> {
        let mut values = Vec::new();
        wheel.expire(Moment(at_ms * MS), |value| values.push(value));
        values.sort_unstable();
        values
    }

    #[test]
    fn nothing_fires_early_and_all_fires_within_a_tick() {
        let mut wheel = Wheel::new(Moment(5_003 * MS));
        for (value, after_ms) in [(0, 0), (1, 1), (2, 10), (3, 640), (4, 700), (5, 41_000), (6, 3_000_000)] {
            wheel.insert(Moment((5_003 + after_ms) * MS), value);
        }
        assert!(fired(&mut wheel, 5_003).is_empty());
        assert_eq!(fired(&mut wheel, 5_010), [0, 1]);
        assert_eq!(fired(&mut wheel, 5_020), [2]);
        assert!(fired(&mut wheel, 5_649).is_empty());
        assert_eq!(fired(&mut wheel, 5_650), [3]);
        assert_eq!(fired(&mut wheel, 46_010), [4, 5]);
        assert_eq!(wheel.len(), 1);
        assert!(fired(&mut wheel, 3_005_000).is_empty());
        assert_eq!(fired(&mut wheel, 3_005_010), [6]);
        assert!(wheel.is_empty() && wheel.next().is_none());
    }

    #[test]
    fn what_is_due_already_fires_at_the_next_turn() {
        let mut wheel = Wheel::new(Moment(1_000 * MS));
        wheel.insert(Moment(0), 7);
        assert!(wheel.next().unwrap() <= Moment(1_000 * MS));
        assert_eq!(fired(&mut wheel, 1_000), [7]);
    }

    #[test]
    fn never_is_far_ahead_and_harmless() {
        let mut wheel = Wheel::new(Moment(0));
        let never = wheel.insert(Moment(u64::MAX), 1);
        let year_ms = 365 * 24 * 3_600_000;
        assert!(fired(&mut wheel, year_ms).is_empty());
        assert!(fired(&mut wheel, 100 * year_ms).is_empty());
        assert!(wheel.reset(never, Moment((100 * year_ms + 10) * MS)));
        assert_eq!(fired(&mut wheel, 100 * year_ms + 10), [1]);
        assert!(!wheel.reset(never, Moment(0)) && wheel.remove(never).is_none());
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u64),
        Remove(usize),
        Reset(usize, u64),
        Pass(u64),
    }

    fn span_ms() -> impl Strategy<Value = u64> {
        prop_oneof![0..50u64, 0..3_000u64, 0..200_000u64, 0..40_000_000u64, 0..100_000_000_000u64]
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => span_ms().prop_map(Act::Insert),
            1 => any::<usize>().prop_map(Act::Remove),
            2 => (any::<usize>(), span_ms()).prop_map(|(which, ms)| Act::Reset(which, ms)),
            3 => span_ms().prop_map(Act::Pass),
        ]
    }

    proptest! {
        /// The slow twin keeps every value beside its tick and looks at all of them.
        #[test]
        fn agrees_with_a_list(start in 0..10_000_000_000u64, acts in prop::collection::vec(act(), 1..60)) {
            let mut now = start;
            let mut wheel = Wheel::new(Moment(now * MS));
            let mut twin = BTreeMap::new();
            let mut keys = Vec::new();
            for (value, act) in (0u32..).zip(acts) {
                match act {
                    Act::Insert(ms) => {
                        keys.push((wheel.insert(Moment((now + ms) * MS), value), value));
                        twin.insert(value, (now + ms).div_ceil(TICK_MS));
                    }
                    Act::Remove(which) if !keys.is_empty() => {
                        let (key, value) = keys[which % keys.len()];
                        prop_assert_eq!(wheel.remove(key), twin.remove(&value).map(|_| value));
                    }
                    Act::Reset(which, ms) if !keys.is_empty() => {
                        let (key, value) = keys[which % keys.len()];
                        let there = twin.get_mut(&value).map(|tick| *tick = (now + ms).div_ceil(TICK_MS));
                        prop_assert_eq!(wheel.reset(key, Moment((now + ms) * MS)), there.is_some());
                    }
                    Act::Remove(_) | Act::Reset(..) => {}
                    Act::Pass(ms) => {
                        now += ms;
                        let due: Vec<u32> =
                            twin.iter().filter(|(_, tick)| **tick <= now / TICK_MS).map(|(value, _)| *value).collect();
                        prop_assert_eq!(fired(&mut wheel, now), due);
                        twin.retain(|_, tick| *tick > now / TICK_MS);
                    }
                }
                prop_assert_eq!(wheel.len(), twin.len());
                let earliest = twin.values().min().copied();
                prop_assert_eq!(wheel.next().is_some(), earliest.is_some());
                if let (Some(next), Some(earliest)) = (wheel.next(), earliest) {
                    prop_assert!(next.0 / TICK_NS <= earliest.max(now / TICK_MS), "nothing is overslept");
                }
            }
        }
    }
}
