//! Time as a value. Pure rooms are told what time it is; only the shard and the plane look at a clock.

use std::time::Duration;

/// A moment on the monotonic clock, in nanoseconds since a start that is the same for the whole process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment and `ms` milliseconds; saturates.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// This moment so many milliseconds before; the first one of all where there is none.
    #[must_use]
    pub fn less_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms.saturating_mul(1_000_000)))
    }

    /// What has passed since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read together: deadlines use `mono`, token times and records use `unix_ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic.
    pub mono: Moment,
    /// Wall clock, milliseconds since 1970; may jump.
    pub unix_ms: u64,
}

impl Now {
    /// Wall clock in whole seconds since 1970, as token times are written (RFC 7519, NumericDate).
    #[must_use]
    pub fn unix_s(self) -> u64 {
        self.unix_ms / 1000
    }
}
