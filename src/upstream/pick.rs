//! Which instance of a server something belongs to: rendezvous hashing (Thaler and Ravishankar, "Using name-based
//! mappings to increase hit rates", 1998). Whoever asks gets the same order without being told, and an instance that is
//! added or taken away moves its own keys only.

use smallvec::SmallVec;

use crate::base::limits::SERVER_INSTANCES_MAX;

/// Places of instances, the one that `key` belongs to first; where that is out of order, the next, and so on. `digests`
/// tell the instances apart; no more than `limits::SERVER_INSTANCES_MAX` of them are looked at.
#[must_use]
pub fn ranked(key: u64, digests: impl Iterator<Item = u64>) -> SmallVec<[usize; 8]> {
    let mut order: SmallVec<[(u64, usize); 8]> = SmallVec::new();
    order.extend(digests.take(SERVER_INSTANCES_MAX).enumerate().map(|(place, digest)| (weight(key, digest), place)));
    order.sort_unstable_by_key(|(weight, place)| (std::cmp::Reverse(*weight), *place));
    order.into_iter().map(|(_, place)| place).collect()
}

/// A key of these bytes and this number.
#[must_use]
pub fn key(bytes: &[u8; 16], number: u64) -> u64 {
    let (low, high) = bytes.split_at(8);
    let word = |half: &[u8]| half.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    mix(mix(word(low) ^ number).wrapping_add(word(high)))
}

fn weight(key: u64, digest: u64) -> u64 {
    mix(mix(key).wrapping_add(digest))
}

/// Every bit of the result depends on each of the argument's (Stafford's variant 13 of MurmurHash3's finaliser).
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 20_000;

    fn digests(count: u64) -> Vec<u64> {
        // As unlike real digests as can be: hashing must not rely on theirs.
        (0..count).collect()
    }

    fn first(key: u64, digests: &[u64]) -> u64 {
        digests[ranked(key, digests.iter().copied())[0]]
    }

    #[test]
    fn each_gets_its_part() {
        for count in [2, 3, 5, 16] {
            let digests = digests(count);
            let mut of = vec![0_u64; digests.len()];
            (0..KEYS).for_each(|key| of[usize::try_from(first(key, &digests)).unwrap()] += 1);
            let even = KEYS / count;
            assert!(of.iter().all(|got| got.abs_diff(even) < even / 8), "{count}: {of:?}");
        }
    }

    #[test]
    fn one_that_goes_takes_its_own_along_and_no_other() {
        let all = digests(7);
        for gone in 0..7 {
            let left: Vec<u64> = all.iter().copied().filter(|digest| *digest != gone).collect();
            let mut spread = [0_u64; 7];
            for key in 0..KEYS {
                let (before, after) = (first(key, &all), first(key, &left));
                if before == gone {
                    spread[usize::try_from(after).unwrap()] += 1;
                    // To the next in its order, as though the first were only out of order.
                    let order = ranked(key, all.iter().copied());
                    assert_eq!(after, all[order[1]]);
                } else {
                    assert_eq!(before, after);
                }
            }
            let even = KEYS / 7 / 6;
            assert!((0..7).all(|at| at as u64 == gone || spread[at].abs_diff(even) < even / 3), "{spread:?}");
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let (there, mut back) = (digests(5), digests(5));
        back.reverse();
        assert!((0..1_000).all(|key| first(key, &there) == first(key, &back)));
        assert!(ranked(1, [].into_iter()).is_empty());
        assert_eq!(ranked(1, std::iter::repeat_n(9, 3)).to_vec(), [0, 1, 2], "alike ones have an order too");
    }

    #[test]
    fn keys_tell_owners_and_tasks_apart() {
        let keys: std::collections::HashSet<u64> =
            (0..64_u8).flat_map(|owner| (0..64).map(move |task| key(&[owner; 16], task))).collect();
        assert_eq!(keys.len(), 64 * 64);
    }
}
