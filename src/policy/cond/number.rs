//! Numbers as they are written: exact, never through a float.

use std::cmp::Ordering;
use std::fmt;

/// A number of at most 38 significant digits and a power of ten, in lowest terms: no zero ends its digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    digits: i128,
    exponent: i32,
}

impl Number {
    /// Nothing.
    pub const ZERO: Self = Self { digits: 0, exponent: 0 };

    /// A number as JSON writes it (RFC 8259, 6); `None` where it has more than 38 significant digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let _ = text;
        unimplemented!("VALUES")
    }

    /// A whole number.
    #[must_use]
    pub fn whole(value: i64) -> Self {
        let _ = value;
        unimplemented!("VALUES")
    }

    /// The sum; `None` beyond 38 digits.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        let _ = other;
        unimplemented!("VALUES")
    }

    /// The difference; `None` beyond 38 digits.
    #[must_use]
    pub fn minus(self, other: Self) -> Option<Self> {
        let _ = other;
        unimplemented!("VALUES")
    }

    /// The product; `None` beyond 38 digits.
    #[must_use]
    pub fn times(self, other: Self) -> Option<Self> {
        let _ = other;
        unimplemented!("VALUES")
    }

    /// Whether it is below nothing.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.digits < 0
    }

    /// Digits and power of ten, for what writes it down.
    #[must_use]
    pub fn parts(self) -> (i128, i32) {
        (self.digits, self.exponent)
    }

    /// The number of these digits and this power of ten; `None` beyond 38 digits.
    #[must_use]
    pub fn of_parts(digits: i128, exponent: i32) -> Option<Self> {
        let _ = (digits, exponent);
        unimplemented!("VALUES")
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let _ = other;
        unimplemented!("VALUES")
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        unimplemented!("VALUES")
    }
}
