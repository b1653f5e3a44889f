//! Bitset over dense ids: words of 64, no width fixed in the type. Rows of the policy table are read through
//! [`Bits::words`].

/// A set of small numbers. Grows when a number beyond its end is set; what lies beyond the end is not in the set.
#[derive(Clone, Debug, Default)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// The empty set, with room for the numbers below `len`.
    #[must_use]
    pub fn with_len(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)] }
    }

    /// Whether `bit` is in the set.
    #[must_use]
    #[inline]
    pub fn get(&self, bit: usize) -> bool {
        self.words.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Puts `bit` into the set.
    #[inline]
    pub fn set(&mut self, bit: usize) {
        self.grow(bit / 64 + 1);
        self.words[bit / 64] |= 1 << (bit % 64);
    }

    /// Takes `bit` out of the set.
    #[inline]
    pub fn unset(&mut self, bit: usize) {
        if let Some(word) = self.words.get_mut(bit / 64) {
            *word &= !(1 << (bit % 64));
        }
    }

    /// Puts everything of `other` into this set.
    pub fn or_assign(&mut self, other: &Self) {
        self.grow(other.words.len());
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Keeps only what is also in `other`.
    pub fn and_assign(&mut self, other: &Self) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(index).copied().unwrap_or(0);
        }
    }

    /// Takes everything of `other` out of this set.
    pub fn and_not(&mut self, other: &Self) {
        for (word, less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
    }

    /// Whether the two sets share a number.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn count_ones(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The numbers of the set, lowest first.
    pub fn iter_ones(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| Ones(*word).map(move |bit| index * 64 + bit))
    }

    /// The set as words; bit `b` of word `w` stands for the number `64 * w + b`.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    fn grow(&mut self, words: usize) {
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
    }
}

impl PartialEq for Bits {
    /// Sets are equal when they hold the same numbers, whatever room they have.
    fn eq(&self, other: &Self) -> bool {
        let shared = self.words.len().min(other.words.len());
        let (a, b) = (&self.words, &other.words);
        a[..shared] == b[..shared] && a[shared..].iter().chain(&b[shared..]).all(|word| *word == 0)
    }
}

impl Eq for Bits {}

impl FromIterator<usize> for Bits {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut bits = Self::default();
        for number in numbers {
            bits.set(number);
        }
        bits
    }
}

/// Positions of the ones of a word, lowest first.
struct Ones(u64);

impl Iterator for Ones {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn bits(numbers: &[usize]) -> Bits {
        numbers.iter().copied().collect()
    }

    #[test]
    fn a_set_is_what_was_put_in() {
        let mut set = Bits::with_len(70);
        assert_eq!(set.words().len(), 2);
        assert!(set.is_empty() && !set.get(69) && !set.get(100_000));
        for bit in [0, 63, 64, 69, 500] {
            set.set(bit);
            assert!(set.get(bit));
        }
        set.unset(64);
        set.unset(1_000_000);
        assert_eq!(set.iter_ones().collect::<Vec<_>>(), [0, 63, 69, 500]);
        assert_eq!(set.count_ones(), 4);
    }

    #[test]
    fn room_does_not_matter_for_equality() {
        assert_eq!(Bits::with_len(1_000), Bits::default());
        assert_ne!(bits(&[3]), bits(&[3, 700]));
    }

    #[test]
    fn agrees_with_a_tree_of_numbers() {
        let (a, b) = ([1, 5, 64, 200, 201], [5, 63, 64, 300]);
        let (tree_a, tree_b): (BTreeSet<_>, BTreeSet<_>) = (a.into(), b.into());
        let check = |act: fn(&mut Bits, &Bits), want: Vec<usize>| {
            let mut set = bits(&a);
            act(&mut set, &bits(&b));
            assert_eq!(set.iter_ones().collect::<Vec<_>>(), want);
        };
        check(Bits::or_assign, tree_a.union(&tree_b).copied().collect());
        check(Bits::and_assign, tree_a.intersection(&tree_b).copied().collect());
        check(Bits::and_not, tree_a.difference(&tree_b).copied().collect());
        assert!(bits(&a).intersects(&bits(&b)) && !bits(&[1]).intersects(&bits(&[2, 65])));
    }
}
