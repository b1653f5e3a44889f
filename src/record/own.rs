//! The gateway's own time: what a request took without the wait for its server, by method and by how it ended. A shard
//! records into histograms of its own, and hands them over now and then, off the way of any call.

use hdrhistogram::Histogram;

use crate::mcp::method::Verb;

use super::meter::{Counted, METHOD_COUNT, OVERHEAD_NS, Way, methods};

/// What can be told apart, nanoseconds: half of it is no whole microsecond.
const FINEST_NS: u64 = 64;
/// What is longer counts as this long, nanoseconds.
const LONGEST_NS: u64 = 100_000_000_000;
/// Figures of a time that are right: within one in a hundred.
const FIGURES: u8 = 2;

/// One histogram for each method and way that there has been, made when it is first needed.
#[derive(Debug)]
pub struct OwnTimes([[Option<Box<OwnTime>>; Way::ALL.len()]; METHOD_COUNT]);

#[derive(Debug)]
struct OwnTime {
    histogram: Histogram<u64>,
    /// Exact, of all observations.
    sum_ns: u64,
}

/// What people look at, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// Half of all requests took no longer.
    pub p50_ns: u64,
    /// Of a hundred, ninety-nine did not.
    pub p99_ns: u64,
    /// Of a thousand, all but one.
    pub p999_ns: u64,
}

impl Default for OwnTimes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Default::default()))
    }
}

impl OwnTimes {
    /// One request took so long. Allocates once for each method and way, and never again.
    pub fn record(&mut self, verb: Verb, way: Way, ns: u64) {
        if let Some(own) = cell(&mut self.0[verb as usize][way as usize]) {
            own.histogram.saturating_record(ns);
            own.sum_ns = own.sum_ns.saturating_add(ns);
        }
    }

    /// Gives everything to `to`, and begins anew.
    pub fn hand_over(&mut self, to: &mut Self) {
        to.add(self);
        for own in self.0.iter_mut().flatten().flatten().filter(|own| !own.histogram.is_empty()) {
            own.histogram.reset();
            own.sum_ns = 0;
        }
    }

    /// Adds what was recorded elsewhere.
    pub fn add(&mut self, others: &Self) {
        for (to, from) in self.0.iter_mut().flatten().zip(others.0.iter().flatten()) {
            let Some(from) = from.as_ref().filter(|from| !from.histogram.is_empty()) else { continue };
            if let Some(to) = cell(to) {
                // Both have the same bounds.
                let _ = to.histogram.add(&from.histogram);
                to.sum_ns = to.sum_ns.saturating_add(from.sum_ns);
            }
        }
    }

    /// By method and way, where there is an observation; by the buckets of [`OVERHEAD_NS`].
    pub fn each(&self, mut each: impl FnMut(&'static str, Way, Counted)) {
        for (verb, method) in methods() {
            for way in Way::ALL {
                if let Some(own) = &self.0[verb as usize][way as usize] {
                    each(method, way, own.counted());
                }
            }
        }
    }

    /// Of all methods and ways together; `None` before the first request.
    #[must_use]
    pub fn quantiles(&self) -> Option<Quantiles> {
        let mut all = histogram()?;
        for own in self.0.iter().flatten().flatten() {
            let _ = all.add(&own.histogram);
        }
        let at = |quantile| all.value_at_quantile(quantile);
        (!all.is_empty()).then(|| Quantiles { p50_ns: at(0.5), p99_ns: at(0.99), p999_ns: at(0.999) })
    }
}

impl OwnTime {
    fn counted(&self) -> Counted {
        let mut buckets = vec![0; OVERHEAD_NS.len() + 1];
        for step in self.histogram.iter_recorded() {
            // A step is as wide as the figures allow: what it holds lies below its upper end.
            let ns = self.histogram.lowest_equivalent(step.value_iterated_to());
            let place = OVERHEAD_NS.partition_point(|bound| *bound < ns);
            if let Some(bucket) = buckets.get_mut(place) {
                *bucket += step.count_since_last_iteration();
            }
        }
        Counted { buckets, sum_ns: self.sum_ns }
    }
}

fn cell(own: &mut Option<Box<OwnTime>>) -> Option<&mut OwnTime> {
    if own.is_none() {
        *own = histogram().map(|histogram| Box::new(OwnTime { histogram, sum_ns: 0 }));
    }
    own.as_deref_mut()
}

/// `None` never comes: the bounds are good ones.
fn histogram() -> Option<Histogram<u64>> {
    Histogram::new_with_bounds(FINEST_NS, LONGEST_NS, FIGURES).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(times: &OwnTimes) -> Vec<(&'static str, Way, u64, u64)> {
        let mut out = Vec::new();
        times.each(|method, way, counted| out.push((method, way, counted.count(), counted.sum_ns)));
        out
    }

    #[test]
    fn what_is_handed_over_is_counted_once() {
        let (mut shard, mut plane) = (OwnTimes::default(), OwnTimes::default());
        assert_eq!(plane.quantiles(), None);
        shard.record(Verb::ToolsCall, Way::Answered, 7_000);
        shard.record(Verb::ToolsCall, Way::Answered, 9_000);
        shard.record(Verb::Ping, Way::Refused, 1_000);
        shard.hand_over(&mut plane);
        shard.record(Verb::ToolsCall, Way::Answered, 30_000);
        shard.hand_over(&mut plane);
        shard.hand_over(&mut plane);
        let mut total = OwnTimes::default();
        total.add(&plane);
        let mut got = counts(&total);
        got.sort_by_key(|row| row.0);
        assert_eq!(got, [("ping", Way::Refused, 1, 1_000), ("tools/call", Way::Answered, 3, 46_000)]);
        let quantiles = total.quantiles().expect("there are observations");
        assert!((6_900..=7_100).contains(&quantiles.p50_ns), "{quantiles:?}");
        assert!((29_600..=30_400).contains(&quantiles.p99_ns), "{quantiles:?}");
    }

    #[test]
    fn buckets_hold_what_is_not_above_their_bound() {
        let mut times = OwnTimes::default();
        // On a bound, a little above it, longer than can be told, and far longer.
        for ns in [0, 5_000, 5_200, 49_000_000, 60_000_000, u64::MAX] {
            times.record(Verb::Ping, Way::Answered, ns);
        }
        let mut got = None;
        times.each(|_, _, counted| got = Some(counted.buckets));
        assert_eq!(got, Some(vec![2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]));
    }
}
