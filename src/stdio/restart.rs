//! When a child that ended by itself may be begun anew: with growing pauses, and at most so often in a minute.

use crate::base::limits::{STDIO_RESTART_PAUSE_MS, STDIO_RESTARTS_MAX, STDIO_RESTARTS_MS};
use crate::base::time::Moment;

/// The ends of the last minute.
#[derive(Debug, Default)]
pub struct Restarts {
    /// When the last ones were, oldest first.
    ends: [Moment; STDIO_RESTARTS_MAX],
    count: usize,
}

impl Restarts {
    /// A child has ended that was not to.
    pub fn ended(&mut self, now: Moment) {
        self.forget(now);
        if self.count == STDIO_RESTARTS_MAX {
            self.ends.rotate_left(1);
            self.count -= 1;
        }
        self.ends[self.count] = now;
        self.count += 1;
    }

    /// From when on the next one may be begun. In the past, or now, when it may.
    #[must_use]
    pub fn next(&self) -> Moment {
        let Some(last) = self.count.checked_sub(1) else { return Moment(0) };
        // The first restart follows at once.
        let pause = if last == 0 { 0 } else { STDIO_RESTART_PAUSE_MS << (last - 1) };
        let paused = self.ends[last].plus_ms(pause);
        if self.count < STDIO_RESTARTS_MAX { paused } else { paused.max(self.ends[0].plus_ms(STDIO_RESTARTS_MS)) }
    }

    /// Whether nothing is left to remember.
    pub fn is_over(&mut self, now: Moment) -> bool {
        self.forget(now);
        self.count == 0
    }

    /// What is longer ago than a minute counts no more.
    fn forget(&mut self, now: Moment) {
        let old = self.ends[..self.count].iter().filter(|end| end.plus_ms(STDIO_RESTARTS_MS) <= now).count();
        self.ends.rotate_left(old);
        self.count -= old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow() {
        let mut restarts = Restarts::default();
        let start = Moment(0).plus_ms(10_000);
        assert_eq!(restarts.next(), Moment(0));
        let mut pauses = Vec::new();
        let mut now = start;
        for _ in 0..4 {
            restarts.ended(now);
            let next = restarts.next();
            pauses.push(next.since(now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [0, 250, 500, 1000]);
    }

    /// Whatever a child does, in no minute are there more restarts than there may be; and after a good time all is
    /// forgotten.
    #[test]
    fn no_minute_has_more_than_its_share() {
        let mut restarts = Restarts::default();
        let mut now = Moment(0).plus_ms(1);
        let mut begun = Vec::new();
        for step in 0..200_u64 {
            restarts.ended(now);
            now = now.max(restarts.next());
            begun.push(now);
            now = now.plus_ms(step * 37 % 900);
        }
        for window in begun.windows(STDIO_RESTARTS_MAX + 1) {
            let took = window[STDIO_RESTARTS_MAX].since(window[0]).as_millis();
            assert!(took >= u128::from(STDIO_RESTARTS_MS) - 5_000, "{took} ms");
        }
        assert!(!restarts.is_over(now));
        assert!(restarts.is_over(now.plus_ms(STDIO_RESTARTS_MS)));
        assert_eq!(restarts.next(), Moment(0));
    }
}
