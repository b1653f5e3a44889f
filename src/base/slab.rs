//! Slab with generations: a stale key finds nothing, never a neighbour that moved into its place.

/// Names a value of one slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Place in the slab.
    pub index: u32,
    /// How often that place had been given out before.
    pub generation: u32,
}

/// Values in places that are used again, each under a key that is not (before 2^32 uses of one place).
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<Place<T>>,
    /// First free place, or `NONE`.
    free: u32,
    len: usize,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Value(T),
    /// The next free place, or `NONE`.
    Free(u32),
}

const NONE: u32 = u32::MAX;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: NONE, len: 0 }
    }
}

impl<T> Slab<T> {
    /// An empty slab.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `value` and names it.
    ///
    /// # Panics
    /// At 2^32 - 1 values at once; whoever owns a slab bounds it far below that.
    pub fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        if self.free == NONE {
            let index = u32::try_from(self.places.len()).ok().filter(|index| *index != NONE);
            let index = index.expect("slabs are bounded far below 2^32 values");
            self.places.push(Place { generation: 0, content: Content::Value(value) });
            return Key { index, generation: 0 };
        }
        let index = self.free;
        let place = &mut self.places[index as usize];
        let Content::Free(next) = place.content else { unreachable!("the free list names free places") };
        self.free = next;
        place.content = Content::Value(value);
        Key { index, generation: place.generation }
    }

    /// The value named by `key`, unless it was removed.
    #[must_use]
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.places.get(key.index as usize) {
            Some(Place { generation, content: Content::Value(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The value named by `key`, unless it was removed.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.places.get_mut(key.index as usize) {
            Some(Place { generation, content: Content::Value(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Whether `key` still names a value.
    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    /// All values, in the order of their places.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|place| match &mut place.content {
            Content::Value(value) => Some(value),
            Content::Free(_) => None,
        })
    }

    /// Values in the order of their places, around from the one at place `from`; each once.
    pub fn around(&self, from: usize) -> impl Iterator<Item = (usize, &T)> {
        let count = self.places.len();
        (0..count).map(move |step| (from + step) % count).filter_map(|place| match &self.places[place].content {
            Content::Value(value) => Some((place, value)),
            Content::Free(_) => None,
        })
    }

    /// Takes the value named by `key` out, unless that was done before.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let place = &mut self.places[key.index as usize];
        let Content::Value(value) = std::mem::replace(&mut place.content, Content::Free(self.free)) else {
            unreachable!("get found a value here")
        };
        place.generation = place.generation.wrapping_add(1);
        self.free = key.index;
        self.len -= 1;
        Some(value)
    }

    /// The value at a place known to be taken; for lists that link values of a slab by place.
    ///
    /// # Panics
    /// When the place is free.
    pub(crate) fn at_mut(&mut self, index: u32) -> (Key, &mut T) {
        match &mut self.places[index as usize] {
            Place { generation, content: Content::Value(value) } => (Key { index, generation: *generation }, value),
            Place { content: Content::Free(_), .. } => unreachable!("lists link values, not free places"),
        }
    }

    /// How many values are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no value is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All values with their keys, in no promised order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| match &place.content {
            Content::Value(value) => {
                let index = u32::try_from(index).expect("insert made the index");
                Some((Key { index, generation: place.generation }, value))
            }
            Content::Free(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.index, second.index, "places are used again");
        assert!(slab.get(first).is_none() && slab.get_mut(first).is_none() && slab.remove(first).is_none());
        assert_eq!(slab.get(second), Some(&"second"));
    }

    #[test]
    fn places_are_used_again_last_freed_first() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..5).map(|number| slab.insert(number)).collect();
        slab.remove(keys[1]);
        slab.remove(keys[3]);
        assert_eq!(slab.insert(13).index, 3);
        assert_eq!(slab.insert(11).index, 1);
        assert_eq!(slab.insert(5).index, 5);
        assert_eq!(slab.len(), 6);
        let mut values: Vec<i32> = slab.iter().map(|(_, value)| *value).collect();
        values.sort_unstable();
        assert_eq!(values, [0, 2, 4, 5, 11, 13]);
        for (key, value) in slab.iter() {
            assert_eq!(slab.get(key), Some(value));
        }
    }
}
