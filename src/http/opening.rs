//! How the heads of one connection begin: lines that are the same in each are read once.

use super::field::{Field, Fields, Known, Marks};
use crate::base::limits::{OPENING_BYTES_MAX, OPENING_MISSES_MAX};

/// What the last head began with, and what that means: `T` is what its first line says. A head that begins with the same
/// bytes says the same, since it is read from left to right, and a line is whole whatever stands behind it.
#[derive(Clone)]
pub(super) struct Opening<T> {
    /// Whole lines from the first one on; none at all where nothing is kept.
    bytes: Vec<u8>,
    first: T,
    marks: Marks,
    /// Heads in a row that began otherwise; counts round.
    misses: u8,
}

impl<T: Copy + Default> Opening<T> {
    /// Nothing is known yet.
    pub(super) fn none() -> Self {
        Self { bytes: Vec::new(), first: T::default(), marks: Marks::NONE, misses: 0 }
    }

    /// Forgets it: `fields` are about to be others.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
    }

    /// Where `bytes` begin so: how many of them need not be read, and what their first line says. `fields` are then
    /// those of these lines; they must be as the last complete head left them.
    #[inline]
    pub(super) fn reopen(&mut self, bytes: &[u8], fields: &mut Fields) -> Option<(usize, T)> {
        let end = self.bytes.len();
        if end == 0 || !same(bytes.get(..end)?, &self.bytes) {
            return None;
        }
        fields.restore(&self.marks);
        self.misses = 0;
        Some((end, self.first))
    }

    /// Keeps what a head began with that `bytes` hold up to `end`: all lines before the first that is another in each,
    /// be it by its name or because it was so the last times.
    pub(super) fn keep(&mut self, bytes: &[u8], end: usize, fields: &Fields, first: T) {
        self.misses = self.misses.wrapping_add(1);
        // One head alone is no reason to keep anything, and some connections carry those of many peers.
        if self.misses == 1 && self.bytes.is_empty() || self.misses > OPENING_MISSES_MAX {
            return self.forget();
        }
        let again = self.misses > 1 && !self.bytes.is_empty();
        let (mut kept, mut count) = (0, 0);
        let lines: &[Field] = fields;
        for field in lines {
            // The last line stands before the empty one.
            let next = lines.get(count + 1).map_or(end - 2, |next| next.name.start as usize);
            let (line, last) = (bytes.get(kept..next), self.bytes.get(kept..next));
            let other = again && !line.zip(last).is_some_and(|(line, last)| same(line, last));
            if next > OPENING_BYTES_MAX || other || field.known.is_some_and(Known::is_of_one_message) {
                break;
            }
            (kept, count) = (next, count + 1);
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes.get(..kept).unwrap_or_default());
        (self.first, self.marks) = (first, fields.marks(count));
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T> std::fmt::Debug for Opening<T> {
    /// Without the bytes: a token is among them.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Opening({})", self.bytes.len())
    }
}

/// Whether both hold the same bytes, in a time that tells nothing of where they differ: there are secrets among them.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}
