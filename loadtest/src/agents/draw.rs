//! Chance that can be had again. (SplitMix64.)

use std::time::Duration;

/// Draws.
#[derive(Debug)]
pub(super) struct Draw {
    state: u64,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x2545_f491_4f6c_dd1d) }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Of 0 to `below` - 1; `below` is at least 1.
    pub(super) fn below(&mut self, below: u64) -> u64 {
        self.number() % below.max(1)
    }

    /// A pause of an exponential distribution with this mean: requests that know nothing of each other.
    pub(super) fn pause(&mut self, mean: Duration) -> Duration {
        let unit = (self.number() >> 11) as f64 / (1u64 << 53) as f64;
        mean.mul_f64(-(1.0 - unit).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_have_their_mean_and_come_again() {
        let mut draw = Draw::new(1);
        let pauses: Vec<Duration> = (0..20_000).map(|_| draw.pause(Duration::from_secs(1))).collect();
        let mean = pauses.iter().sum::<Duration>().as_secs_f64() / 20_000.0;
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        // Two thirds are shorter than the mean, as it is with this distribution.
        let short = pauses.iter().filter(|pause| **pause < Duration::from_secs(1)).count();
        assert!((12_300..13_000).contains(&short), "{short}");
        assert_eq!(Draw::new(1).pause(Duration::from_secs(1)), pauses[0]);
        assert_ne!(Draw::new(2).pause(Duration::from_secs(1)), pauses[0]);
        assert!((0..100).all(|_| draw.below(3) < 3) && draw.below(0) == 0);
    }
}
