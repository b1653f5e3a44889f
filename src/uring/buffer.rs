//! Pooled buffers: size classes under one byte budget per shard.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use crate::base::limits::{
    ANSWER_WHOLE_BYTES_MAX, BODY_BYTES_MAX, BUFFER_BYTES, BUFFERS_KEPT_BYTES_MAX, BUFFERS_SPARE_BYTES, HEAD_BYTES_MAX,
    STREAM_BUFFERED_BYTES_MAX,
};

/// The buffers of one shard. Clones are the same pool.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    /// Bytes that all buffers together may have, lent or kept.
    budget: usize,
    /// Bytes that all buffers together have.
    taken: Cell<usize>,
    /// Bytes of the kept ones.
    kept: Cell<usize>,
    /// The least they were since [`Pool::trim`].
    kept_least: Cell<usize>,
    lent: Cell<usize>,
    /// Per class, buffers waiting to be used again; the one given back last is warm, and goes out first.
    free: [RefCell<Vec<Vec<u8>>>; CLASSES.len()],
}

impl Pool {
    /// A pool that never has more than `budget` bytes of buffers.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        let free = std::array::from_fn(|_| RefCell::new(Vec::new()));
        let (taken, kept, kept_least, lent) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
        Self { inner: Rc::new(Inner { budget, taken, kept, kept_least, lent, free }) }
    }

    /// An empty buffer with room for at least `capacity` bytes, or `None` when the budget does not allow it: the
    /// caller then refuses work instead of growing.
    #[must_use]
    pub fn get(&self, capacity: usize) -> Option<Buffer> {
        let bytes = self.inner.take(capacity)?;
        self.inner.lent.set(self.inner.lent.get() + 1);
        let weight = bytes.capacity();
        Some(Buffer { bytes, start: 0, weight, pool: self.clone() })
    }

    /// Frees the kept buffers that nobody needed since the last time, largest first, but for the first
    /// `BUFFERS_SPARE_BYTES`: what a burst needed goes back, what traffic needs stays.
    pub fn trim(&self) {
        let inner = &self.inner;
        let unneeded = inner.kept_least.get().saturating_sub(BUFFERS_SPARE_BYTES);
        let until = inner.kept.get() - unneeded;
        for free in inner.free.iter().rev() {
            let mut free = free.borrow_mut();
            while free.last().is_some_and(|bytes| inner.kept.get() - bytes.capacity() >= until) {
                inner.forget(free.pop().unwrap_or_default());
            }
            let left = free.len();
            free.shrink_to(2 * left);
        }
        inner.kept_least.set(inner.kept.get());
    }

    /// Whether so few bytes are lent that more may be lent to what could do without.
    #[must_use]
    pub fn is_roomy(&self) -> bool {
        self.lent_bytes() <= self.inner.budget / ROOMY
    }

    /// Buffers that are out at this moment.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.inner.lent.get()
    }

    /// Bytes of the buffers that are out, padding included.
    #[must_use]
    pub fn lent_bytes(&self) -> usize {
        self.inner.taken.get() - self.inner.kept.get()
    }

    /// Bytes of all buffers, lent and kept, padding included; never above the budget but for
    /// [`Buffer::append_with`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner.taken.get()
    }
}

impl Inner {
    fn take(&self, capacity: usize) -> Option<Vec<u8>> {
        let class = CLASSES.iter().position(|class| capacity <= *class);
        if let Some(bytes) = class.and_then(|class| self.free[class].borrow_mut().pop()) {
            self.kept.set(self.kept.get() - bytes.capacity());
            self.kept_least.set(self.kept_least.get().min(self.kept.get()));
            return Some(bytes);
        }
        let room = match class {
            Some(class) => CLASSES[class],
            None => capacity.checked_next_multiple_of(OVERSIZE_STEP)?,
        };
        let room = room.checked_add(PADDING)?;
        self.make_room(room)?;
        let bytes = Vec::with_capacity(room);
        self.taken.set(self.taken.get() + bytes.capacity());
        Some(bytes)
    }

    /// Frees kept buffers, largest first, until `room` more bytes fit the budget.
    fn make_room(&self, room: usize) -> Option<()> {
        let fits = |taken: usize| taken.checked_add(room).is_some_and(|total| total <= self.budget);
        // Lent buffers stay: when they alone leave no room, freeing the kept ones would be for nothing.
        if !fits(self.taken.get() - self.kept.get()) {
            return None;
        }
        for free in self.free.iter().rev() {
            while !fits(self.taken.get()) {
                let Some(bytes) = free.borrow_mut().pop() else {
                    break;
                };
                self.forget(bytes);
            }
        }
        Some(())
    }

    /// Frees what was kept.
    fn forget(&self, bytes: Vec<u8>) {
        self.kept.set(self.kept.get() - bytes.capacity());
        self.kept_least.set(self.kept_least.get().min(self.kept.get()));
        self.taken.set(self.taken.get() - bytes.capacity());
    }

    /// `weight` is what the buffer was counted with; `bytes` is empty when the kernel still holds its memory, because
    /// somebody dropped a receive or send in flight.
    fn give_back(&self, mut bytes: Vec<u8>, weight: usize) {
        self.lent.set(self.lent.get() - 1);
        let class = CLASSES.iter().position(|class| class + PADDING == weight);
        let keep = class.filter(|_| bytes.capacity() == weight && self.kept.get() + weight <= BUFFERS_KEPT_BYTES_MAX);
        match keep {
            Some(class) => {
                bytes.clear();
                self.kept.set(self.kept.get() + weight);
                self.free[class].borrow_mut().push(bytes);
            }
            None => self.taken.set(self.taken.get() - weight),
        }
    }
}

/// A buffer of the pool; reads as the bytes filled so far. Goes back when dropped.
pub struct Buffer {
    /// Bytes already consumed, then the filled ones.
    bytes: Vec<u8>,
    /// Where the filled part starts.
    start: usize,
    /// What the pool counts for this buffer.
    weight: usize,
    pool: Pool,
}

impl Buffer {
    /// Bytes that fit altogether.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        self.weight - PADDING
    }

    /// Bytes that still fit.
    #[must_use]
    #[inline]
    pub fn spare(&self) -> usize {
        self.capacity() - self.len()
    }

    /// Appends `more` if all of it fits; says whether it did.
    #[must_use = "a full buffer takes nothing"]
    #[inline]
    pub fn extend_from_slice(&mut self, more: &[u8]) -> bool {
        if more.len() > self.spare() {
            return false;
        }
        if more.len() > self.tail() {
            self.compact();
        }
        self.bytes.extend_from_slice(more);
        true
    }

    /// Appends what `write` writes. The vector may hold other bytes before its end: `write` appends, and nothing else.
    /// A writer that outgrows the capacity gets its room, counted beyond the budget; so ask for enough beforehand.
    pub fn append_with<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        if self.start == self.bytes.len() {
            self.clear();
        }
        let answer = write(&mut self.bytes);
        self.start = self.start.min(self.bytes.len());
        if self.bytes.len() + PADDING > self.bytes.capacity() {
            self.bytes.reserve_exact(PADDING);
        }
        let taken = self.pool.inner.taken.get() - self.weight;
        self.weight = self.bytes.capacity();
        self.pool.inner.taken.set(taken + self.weight);
        answer
    }

    /// Makes room for `spare` more bytes, moving to a larger buffer of the pool where needed. Says whether the budget
    /// allowed it; if not, nothing has changed.
    #[must_use = "the budget may not allow it"]
    pub fn reserve(&mut self, spare: usize) -> bool {
        if spare <= self.spare() {
            return true;
        }
        let wanted = self.len().checked_add(spare);
        let Some(mut larger) = wanted.and_then(|wanted| self.pool.get(wanted)) else {
            return false;
        };
        larger.bytes.extend_from_slice(self);
        *self = larger;
        true
    }

    /// Drops the first `n` bytes (all of them when there are fewer). Costs nothing: what follows is moved when its
    /// room is needed.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n);
        if self.start >= self.bytes.len() {
            self.clear();
        }
    }

    /// Leaves `n` bytes of room in front of what an empty buffer is filled with.
    pub fn leave_front(&mut self, n: usize) {
        let n = n.min(self.capacity());
        self.bytes.clear();
        self.bytes.resize(n, 0);
        self.start = n;
    }

    /// Puts `front` in front of the filled part, in the place of what was consumed; says whether there was room.
    #[must_use = "there may be no room"]
    pub fn prepend(&mut self, front: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(front.len()) else { return false };
        let Some(room) = self.bytes.get_mut(start..self.start) else { return false };
        room.copy_from_slice(front);
        self.start = start;
        true
    }

    /// Bytes that fit behind the filled part without anything being moved.
    #[must_use]
    pub fn room_behind(&self) -> usize {
        self.tail()
    }

    /// Drops everything behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(self.start.saturating_add(len));
    }

    /// Drops all bytes.
    #[inline]
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// The filled bytes, to be changed in place.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// Takes the memory out, to be filled from `begin` up to `end`; `None` when nothing more fits. The buffer is empty
    /// until [`Buffer::restore`].
    #[inline]
    pub(crate) fn lend_spare(&mut self) -> Option<(Vec<u8>, usize, usize)> {
        if self.spare() == 0 {
            return None;
        }
        // Most of the room is in front: one move now spares many short reads.
        if self.tail() < self.spare().div_ceil(2) {
            self.compact();
        }
        let (begin, end) = (self.bytes.len(), self.bytes.len() + self.tail());
        Some((std::mem::take(&mut self.bytes), begin, end))
    }

    /// Takes the memory out, to be read; `start` is where the filled part starts in it.
    #[inline]
    pub(crate) fn lend(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.bytes), self.start)
    }

    /// Puts lent memory back.
    #[inline]
    pub(crate) fn restore(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Room behind the filled part.
    #[inline]
    fn tail(&self) -> usize {
        self.weight - PADDING - self.bytes.len()
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // While its memory is lent the buffer has none, and is empty.
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.inner.give_back(std::mem::take(&mut self.bytes), self.weight);
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len(), self.capacity())
    }
}

/// A pool is roomy while this part of its budget is lent at most.
const ROOMY: usize = 4;

/// Behind every capacity, so that a scanner may load whole vectors up to its end.
const PADDING: usize = 64;

/// An answer to a small request; a usual read; a whole short answer; a stream's backlog; a whole body; heads included.
const CLASSES: [usize; 5] = [
    4 * 1024,
    BUFFER_BYTES,
    ANSWER_WHOLE_BYTES_MAX + HEAD_BYTES_MAX,
    STREAM_BUFFERED_BYTES_MAX + HEAD_BYTES_MAX,
    BODY_BYTES_MAX + HEAD_BYTES_MAX,
];

/// Beyond the largest class (a configuration with larger bodies) capacities are multiples of this, and are not kept.
const OVERSIZE_STEP: usize = 64 * 1024;

const _: () = assert!(CLASSES[0] < CLASSES[1] && CLASSES[1] < CLASSES[2], "get takes the first class that fits");
const _: () = assert!(CLASSES[2] < CLASSES[3] && CLASSES[3] < CLASSES[4], "get takes the first class that fits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_classes() {
        let pool = Pool::new(64 * 1024 * 1024);
        let check = |wanted: usize, got: usize| assert_eq!(pool.get(wanted).unwrap().capacity(), got, "{wanted}");
        check(0, 4 * 1024);
        check(4 * 1024, 4 * 1024);
        check(4 * 1024 + 1, BUFFER_BYTES);
        check(BUFFER_BYTES + 1, ANSWER_WHOLE_BYTES_MAX + HEAD_BYTES_MAX);
        check(BODY_BYTES_MAX + HEAD_BYTES_MAX, BODY_BYTES_MAX + HEAD_BYTES_MAX);
        check(BODY_BYTES_MAX * 2, BODY_BYTES_MAX * 2);
        assert!(pool.get(usize::MAX).is_none() && pool.get(usize::MAX - 70).is_none());
    }

    #[test]
    fn the_budget_ends_and_comes_back() {
        let size = BUFFER_BYTES + PADDING;
        let pool = Pool::new(4 * size);
        let held: Vec<Buffer> = (0..4).map(|_| pool.get(BUFFER_BYTES).unwrap()).collect();
        assert_eq!((pool.lent(), pool.bytes()), (4, 4 * size));
        assert!(pool.get(1).is_none() && pool.get(BUFFER_BYTES).is_none());
        drop(held);
        assert_eq!((pool.lent(), pool.bytes()), (0, 4 * size), "they are kept");
        drop(pool.get(1).unwrap());
        assert_eq!(pool.bytes(), 3 * size + 4 * 1024 + PADDING, "one kept buffer made room for another class");
        let large = pool.get(3 * BUFFER_BYTES);
        assert!(large.is_none(), "its class is larger than the budget");
        assert_eq!(pool.bytes(), 3 * size + 4 * 1024 + PADDING, "nothing was freed for nothing");
    }

    #[test]
    fn a_burst_does_not_stay() {
        let pool = Pool::new(256 * 1024 * 1024);
        let held: Vec<Buffer> = (0..100).map(|_| pool.get(BODY_BYTES_MAX).unwrap()).collect();
        assert!(pool.bytes() > 100 * BODY_BYTES_MAX);
        drop(held);
        assert!(pool.bytes() <= BUFFERS_KEPT_BYTES_MAX);
    }

    /// [P6] What a burst left goes back once nobody has needed it for a while; what is in use all the time stays.
    #[test]
    fn what_is_not_needed_goes_back() {
        let pool = Pool::new(256 * 1024 * 1024);
        let burst = |count: usize| {
            let held: Vec<Buffer> = (0..count).map(|_| pool.get(BUFFER_BYTES).unwrap()).collect();
            drop(held);
        };
        let size = BUFFER_BYTES + PADDING;
        let spare = BUFFERS_SPARE_BYTES / size;
        burst(spare + 200);
        pool.trim();
        assert_eq!(pool.bytes(), (spare + 200) * size, "needed a moment ago");
        burst(50);
        pool.trim();
        let left = pool.bytes();
        assert!((50 * size..=50 * size + BUFFERS_SPARE_BYTES + size).contains(&left), "{left}");
        burst(50);
        pool.trim();
        assert_eq!(pool.bytes(), left, "what is needed each time stays");
        pool.trim();
        pool.trim();
        assert!((BUFFERS_SPARE_BYTES..BUFFERS_SPARE_BYTES + size).contains(&pool.bytes()), "{}", pool.bytes());
        let held = pool.get(1).unwrap();
        assert_eq!(pool.lent_bytes(), held.capacity() + PADDING, "the counts are right");
    }

    #[test]
    fn a_buffer_is_a_window_that_moves() {
        let pool = Pool::new(1024 * 1024);
        let mut buffer = pool.get(4096).unwrap();
        assert!(buffer.extend_from_slice(&[1; 4000]) && !buffer.extend_from_slice(&[2; 97]));
        buffer.consume(3990);
        assert_eq!((buffer.len(), buffer.spare()), (10, 4086));
        assert!(buffer.extend_from_slice(&[2; 4086]) && !buffer.extend_from_slice(&[3]));
        assert_eq!(buffer[..11], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
        buffer.as_mut_slice()[0] = 9;
        buffer.truncate(2);
        assert_eq!(buffer[..], [9, 1]);
        buffer.truncate(usize::MAX);
        buffer.consume(usize::MAX);
        assert_eq!((buffer.len(), buffer.spare()), (0, 4096));
    }

    #[test]
    fn what_the_kernel_fills_is_the_whole_rest() {
        let pool = Pool::new(1024 * 1024);
        let mut buffer = pool.get(4096).unwrap();
        assert!(buffer.extend_from_slice(&[7; 3000]));
        buffer.consume(100);
        let (bytes, begin, end) = buffer.lend_spare().unwrap();
        assert_eq!((begin, end), (3000, 4096), "little in front: no move");
        assert!(bytes.capacity() >= end + PADDING && buffer.is_empty());
        buffer.restore(bytes);
        buffer.consume(2890);
        let (bytes, begin, end) = buffer.lend_spare().unwrap();
        assert_eq!((begin, end), (10, 4096), "most of the room was in front");
        buffer.restore(bytes);
        assert_eq!(buffer[..], [7; 10]);
        assert!(buffer.extend_from_slice(&[0; 4086]) && buffer.lend_spare().is_none());
    }

    #[test]
    fn growing_moves_to_a_larger_buffer() {
        let pool = Pool::new(128 * 1024);
        let mut buffer = pool.get(10).unwrap();
        assert!(buffer.extend_from_slice(b"head") && buffer.reserve(4092) && buffer.capacity() == 4096);
        assert!(buffer.reserve(4093) && buffer.capacity() == BUFFER_BYTES);
        assert_eq!(buffer[..], *b"head");
        assert!(!buffer.reserve(usize::MAX) && !buffer.reserve(1024 * 1024));
        assert_eq!(buffer[..], *b"head");
        assert_eq!(pool.lent(), 1);
    }

    #[test]
    fn writers_append_and_are_counted_when_they_outgrow() {
        let pool = Pool::new(1024 * 1024);
        let mut buffer = pool.get(10).unwrap();
        assert!(buffer.extend_from_slice(b"old new"));
        buffer.consume(4);
        let wrote = buffer.append_with(|bytes| {
            bytes.extend_from_slice(b", newer");
            7
        });
        assert_eq!((wrote, &buffer[..], buffer.capacity()), (7, &b"new, newer"[..], 4096));
        buffer.append_with(|bytes| bytes.resize(5000, b'x'));
        assert!(buffer.capacity() >= 5000 && pool.bytes() == buffer.capacity() + PADDING);
        assert_eq!(buffer.len(), 4996);
        buffer.append_with(Vec::clear);
        assert!(buffer.is_empty());
        drop(buffer);
        assert_eq!((pool.lent(), pool.bytes()), (0, 0), "an odd size is not kept");
    }
}
