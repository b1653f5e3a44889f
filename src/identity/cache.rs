//! Tokens already verified, one cache per shard. A verification costs 20 to 60 µs; a hit here a fraction of one, and
//! no allocation.
//!
//! Found by a seeded hash of the whole token, then the whole token is compared: nothing shorter than all its bytes
//! admits a caller. Full, it forgets by the clock rule (what was asked for since the hand last passed stays).

use std::cell::Cell;
use std::hash::Hasher as _;
use std::hint::black_box;
use std::rc::Rc;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;

use super::caller::Caller;
use crate::base::limits::{TOKENS_CACHED_BYTES_MAX, TOKENS_CACHED_MAX};

/// Verified tokens and whom they stand for.
#[derive(Debug)]
pub struct TokenCache {
    seed: u64,
    shared: SharedSeed,
    /// Indices into `slots`.
    table: HashTable<u32>,
    slots: Vec<Slot>,
    /// Where the next forgetting begins.
    hand: usize,
    /// Bytes of all tokens held.
    bytes: usize,
    max: usize,
}

/// Where a token was found. Nothing follows from it: what is there now is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// It was found nowhere yet.
    pub const NOWHERE: Self = Self(u32::MAX);
}

/// What [`TokenCache::get_near`] knows of a token.
#[derive(Debug)]
pub enum Near<'a> {
    /// Its caller.
    Known(&'a Rc<Caller>),
    /// It may be one, and was not verified yet, or has expired.
    Unknown,
    /// It cannot be one.
    NoToken,
}

#[derive(Debug)]
struct Slot {
    hash: u64,
    token: Box<[u8]>,
    caller: Rc<Caller>,
    asked: bool,
}

impl TokenCache {
    /// Empty. `seed` is random and the shard's own, so that nobody can choose tokens that collide.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::bounded(seed, TOKENS_CACHED_MAX)
    }

    /// Empty, for at most `max` tokens (at least one).
    #[must_use]
    pub fn bounded(seed: u64, max: usize) -> Self {
        Self {
            seed,
            shared: SharedSeed::from_u64(seed.rotate_left(32)),
            table: HashTable::new(),
            slots: Vec::new(),
            hand: 0,
            bytes: 0,
            max: max.clamp(1, TOKENS_CACHED_MAX),
        }
    }

    /// The caller of this very token, unless it has expired. Whether its issuer has to be asked about it again
    /// (`Caller::liveness`) is for whoever asks here to see.
    pub fn get(&mut self, token: &[u8], now_unix_s: u64) -> Option<&Rc<Caller>> {
        let index = self.find(self.hash(token), token)?;
        if self.slots[index].caller.expires <= now_unix_s {
            self.forget(index);
            return None;
        }
        let slot = &mut self.slots[index];
        slot.asked = true;
        Some(&slot.caller)
    }

    /// As [`Self::get`], of a token that was last found at this place of the cache (of a connection's last request it is
    /// nearly always the same): then nothing but the token itself is compared. Where it is found now is its place from
    /// then on. `is_token` is asked of what is not at its place: whether it can be one at all.
    pub fn get_near(
        &mut self,
        token: &[u8],
        now_unix_s: u64,
        place: &Cell<Place>,
        is_token: impl FnOnce(&[u8]) -> bool,
    ) -> Near<'_> {
        let near = usize::try_from(place.get().0).unwrap_or(usize::MAX);
        if self.slots.get(near).is_none_or(|slot| !same_bytes(&slot.token, token)) {
            if !is_token(token) {
                return Near::NoToken;
            }
            let hash = self.hash(token);
            let Some(index) = self.find(hash, token) else { return Near::Unknown };
            place.set(Place(u32::try_from(index).unwrap_or(u32::MAX)));
        }
        let index = usize::try_from(place.get().0).unwrap_or(usize::MAX);
        if self.slots.get(index).is_some_and(|slot| slot.caller.expires <= now_unix_s) {
            self.forget(index);
            return Near::Unknown;
        }
        self.slots.get_mut(index).map_or(Near::Unknown, |slot| {
            slot.asked = true;
            Near::Known(&slot.caller)
        })
    }

    fn find(&self, hash: u64, token: &[u8]) -> Option<usize> {
        let slots = &self.slots;
        let found = self.table.find(hash, |&index| {
            let slot = &slots[index as usize];
            slot.hash == hash && same_bytes(&slot.token, token)
        });
        found.map(|index| *index as usize)
    }

    /// Forgets this very token; whether it held it, expired or not.
    pub fn forget_this(&mut self, token: &[u8]) -> bool {
        let found = self.find(self.hash(token), token);
        found.into_iter().for_each(|index| self.forget(index));
        found.is_some()
    }

    /// Remembers a token just verified. One that is over its `exp` already (within the leeway) is not kept.
    pub fn insert(&mut self, token: &[u8], caller: Caller, now_unix_s: u64) -> Rc<Caller> {
        let caller = Rc::new(caller);
        if caller.expires <= now_unix_s || token.len() > TOKENS_CACHED_BYTES_MAX {
            return caller;
        }
        let hash = self.hash(token);
        if let Some(index) = self.find(hash, token) {
            self.slots[index].caller = Rc::clone(&caller);
            return caller;
        }
        while self.slots.len() >= self.max || self.bytes + token.len() > TOKENS_CACHED_BYTES_MAX {
            self.forget_one();
        }
        let index = u32::try_from(self.slots.len()).expect("the cache is bounded by limits");
        self.bytes += token.len();
        self.slots.push(Slot { hash, token: token.into(), caller: Rc::clone(&caller), asked: false });
        let slots = &self.slots;
        self.table.insert_unique(hash, index, |&index| slots[index as usize].hash);
        caller
    }

    /// Forgets all: keys, issuers, tasks or endpoints have changed.
    pub fn clear(&mut self) {
        self.table.clear();
        self.slots.clear();
        self.hand = 0;
        self.bytes = 0;
    }

    /// How many tokens are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn hash(&self, token: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        hasher.write(token);
        hasher.finish()
    }

    /// Forgets the first token from the hand on that nobody asked for since the hand last passed.
    fn forget_one(&mut self) {
        debug_assert!(!self.slots.is_empty(), "only a full cache forgets");
        loop {
            self.hand = if self.hand < self.slots.len() { self.hand } else { 0 };
            if std::mem::take(&mut self.slots[self.hand].asked) {
                self.hand += 1;
            } else {
                return self.forget(self.hand);
            }
        }
    }

    /// Removes a slot; the last one takes its place.
    fn forget(&mut self, index: usize) {
        let last = self.slots.len() - 1;
        let place = |index: usize| u32::try_from(index).expect("the cache is bounded by limits");
        let (gone, moved) = (place(index), place(last));
        let entry = self.table.find_entry(self.slots[index].hash, |&held| held == gone);
        entry.expect("every slot is in the table").remove();
        if last != index {
            let held = self.table.find_mut(self.slots[last].hash, |&held| held == moved);
            *held.expect("every slot is in the table") = gone;
        }
        let slot = self.slots.swap_remove(index);
        self.bytes -= slot.token.len();
    }
}

/// Whether two byte strings are equal, in a time that tells only whether their lengths are.
#[inline(never)]
pub(crate) fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (words, rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    let mut differ = 0;
    for (one, other) in words.iter().zip(other_words) {
        differ |= u64::from_ne_bytes(*one) ^ u64::from_ne_bytes(*other);
    }
    for (one, other) in rest.iter().zip(other_rest) {
        differ |= u64::from(one ^ other);
    }
    // Opaque to the optimiser: what comes before cannot be turned into an early return.
    black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caller(name: &str, expires: u64) -> Caller {
        Caller { subject: name.into(), expires, ..Caller::anonymous() }
    }

    /// What a cache of `max` answers for `asked` at second 50, after `held` came in at second 10 in this order.
    fn check(max: usize, held: &[(&str, u64)], asked: &str, want: Option<&str>) {
        let mut cache = TokenCache::bounded(7, max);
        for (token, expires) in held {
            cache.insert(token.as_bytes(), caller(token, *expires), 10);
        }
        let got = cache.get(asked.as_bytes(), 50).map(|caller| caller.subject.to_string());
        assert_eq!(got.as_deref(), want, "{max}, {held:?}, {asked}");
    }

    /// [K9] All bytes, and before `exp`.
    #[test]
    fn a_hit_is_the_very_token_and_in_time() {
        check(4, &[], "a", None);
        check(4, &[("a", 100), ("b", 100)], "a", Some("a"));
        check(4, &[("a", 100), ("b", 100)], "ab", None);
        check(4, &[("a", 100)], "", None);
        check(4, &[("a", 51)], "a", Some("a"));
        check(4, &[("a", 50)], "a", None);
        check(4, &[("a", 10)], "a", None);
        check(1, &[("a", 100), ("b", 100)], "a", None);
        check(1, &[("a", 100), ("b", 100)], "b", Some("b"));
    }

    #[test]
    fn what_was_asked_for_stays() {
        let mut cache = TokenCache::bounded(1, 3);
        for token in ["a", "b", "c"] {
            cache.insert(token.as_bytes(), caller(token, 100), 0);
        }
        assert!(cache.get(b"a", 0).is_some());
        for token in ["d", "e"] {
            cache.insert(token.as_bytes(), caller(token, 100), 0);
        }
        assert_eq!(cache.len(), 3);
        assert!(cache.get(b"a", 0).is_some(), "asked for");
        assert!(cache.get(b"e", 0).is_some(), "newest");
    }

    /// [K9] [R4] However long tokens are; and nothing is found after a change of keys.
    #[test]
    fn bytes_are_bounded_and_clear_forgets() {
        let mut cache = TokenCache::new(3);
        let count = TOKENS_CACHED_BYTES_MAX / 8192 + 10;
        for number in 0..count {
            let token = format!("{number:08192}");
            cache.insert(token.as_bytes(), caller("x", 100), 0);
        }
        assert_eq!(cache.len(), TOKENS_CACHED_BYTES_MAX / 8192);
        assert!(cache.bytes <= TOKENS_CACHED_BYTES_MAX);
        cache.clear();
        assert!(cache.is_empty() && cache.bytes == 0);
        assert!(cache.get(format!("{:08192}", count - 1).as_bytes(), 0).is_none());
    }

    /// [K9] No byte is left out of the comparison.
    #[test]
    fn equal_means_every_byte() {
        let one: Vec<u8> = (0..100).collect();
        assert!(same_bytes(&one, &one) && same_bytes(b"", b""));
        for index in 0..one.len() {
            let mut other = one.clone();
            other[index] ^= 0x80;
            assert!(!same_bytes(&one, &other), "{index}");
            assert!(!same_bytes(&one, &one[..index]), "{index}");
        }
    }

    proptest! {
        /// [K9] Against a plain map: what is found is what was last put in, unless it was forgotten.
        #[test]
        fn never_another_tokens_caller(steps in prop::collection::vec((0u8..3, 0u8..12, 1u64..40), 0..200)) {
            let mut cache = TokenCache::bounded(9, 5);
            let mut model = std::collections::HashMap::new();
            for (now, (step, token, lasts)) in steps.into_iter().enumerate() {
                let now = now as u64;
                let bytes = [token; 3];
                if step == 0 {
                    let held = cache.insert(&bytes, caller(&token.to_string(), now + lasts), now);
                    prop_assert_eq!(held.expires, now + lasts);
                    model.insert(token, now + lasts);
                    prop_assert!(cache.get(&bytes, now).is_some());
                } else if let Some(found) = cache.get(&bytes, now) {
                    prop_assert_eq!(found.subject.to_string(), token.to_string());
                    prop_assert_eq!(Some(&found.expires), model.get(&token));
                    prop_assert!(found.expires > now);
                }
                prop_assert!(cache.len() <= 5);
                prop_assert_eq!(cache.table.len(), cache.slots.len());
                prop_assert_eq!(cache.bytes, 3 * cache.slots.len());
            }
        }
    }
}
