//! A bucket that fills evenly. It is kept by what is missing, in parts of a call so small that nothing is rounded: one
//! call is `per_ms` of them, and every millisecond `calls` of them come back.

use crate::base::limits::COUNT_BACK_MS_MAX;

/// What is missing from a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    pub(super) missing: u64,
    pub(super) calls: u64,
    pub(super) per_ms: u64,
    /// When that was so.
    pub(super) at_ms: u64,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(calls: u64, per_ms: u64, at_ms: u64) -> Self {
        Self { missing: 0, calls, per_ms, at_ms }
    }

    /// What has come back since. Nothing has where the clock was set back: a little, and no time counts twice; far, and it
    /// fills on from there.
    pub(super) fn fill(&mut self, now_ms: u64) {
        let came = now_ms.saturating_sub(self.at_ms).saturating_mul(self.calls);
        self.missing = self.missing.saturating_sub(came);
        let is_far = self.at_ms.saturating_sub(now_ms) > COUNT_BACK_MS_MAX;
        self.at_ms = if is_far { now_ms } else { self.at_ms.max(now_ms) };
    }

    /// It fills at another pace from now on; what is missing stays as many calls, or becomes part of one more.
    pub(super) fn set_pace(&mut self, calls: u64, per_ms: u64) {
        if per_ms != self.per_ms {
            let parts = (u128::from(self.missing) * u128::from(per_ms)).div_ceil(u128::from(self.per_ms.max(1)));
            self.missing = u64::try_from(parts).unwrap_or(u64::MAX);
        }
        (self.calls, self.per_ms) = (calls, per_ms);
    }

    /// Takes a call out; else says in how many milliseconds there will be one.
    pub(super) fn take(&mut self, burst: u64) -> Result<(), Option<u64>> {
        let Some(missing) = self.missing.checked_add(self.per_ms) else { return Err(None) };
        match missing.saturating_sub(burst.saturating_mul(self.per_ms)) {
            0 => self.missing = missing,
            _ if burst == 0 => return Err(None),
            over => return Err(Some(over.div_ceil(self.calls.max(1)))),
        }
        Ok(())
    }

    /// Puts a call back that was taken at a time: as much of it as cannot have come back since.
    pub(super) fn put_back(&mut self, at_ms: u64) {
        let came = self.at_ms.saturating_sub(at_ms).saturating_mul(self.calls);
        self.missing = self.missing.saturating_sub(self.per_ms.saturating_sub(came));
    }

    /// How many calls are missing, the last one perhaps in part.
    pub(super) fn used(&self) -> u64 {
        self.missing.div_ceil(self.per_ms.max(1))
    }
}
