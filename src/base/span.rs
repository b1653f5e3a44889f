//! A place in a buffer. Parsers return spans instead of slices, so that what they found can be kept beside the
//! buffer it was found in, moved through an `await`, and owned by a permit, without borrowing.

/// Half-open range of bytes, `start..end`, in a buffer of at most 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte; never below `start`.
    pub end: u32,
}

impl Span {
    /// The span `start..end`. Buffers are bounded far below 4 GiB (see `limits`), so larger offsets are a broken
    /// invariant of ours.
    ///
    /// # Panics
    /// When `end < start` or an offset does not fit 32 bits.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        assert!(start <= end, "a span ends where it starts, or later");
        Self {
            start: u32::try_from(start).expect("buffers are shorter than 4 GiB"),
            end: u32::try_from(end).expect("buffers are shorter than 4 GiB"),
        }
    }

    /// The bytes meant, in the buffer this span was made for.
    ///
    /// # Panics
    /// When the buffer is shorter than the span: it is not the buffer the span was made for.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether no byte is meant.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The same bytes in a buffer where they stand `by` bytes later.
    #[must_use]
    pub fn shifted(self, by: usize) -> Self {
        Self::new(self.start as usize + by, self.end as usize + by)
    }
}
