//! Latency and CPU time.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Latencies up to this are told apart, nanoseconds.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// Faults that are told in full.
const FAULTS_TOLD: usize = 5;

/// When the calls of an open loop are due, counted from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    rate: u32,
}

/// How long calls took.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
}

/// What went wrong, and how often.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) total: u64,
    pub(crate) kinds: BTreeMap<String, u64>,
}

/// CPU time used by a process so far, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// By the threads that serve calls.
    pub(crate) serving: u64,
    /// By all threads.
    pub(crate) whole: u64,
    /// Time that the threads that serve calls could have run, but waited for the core.
    pub(crate) waited: u64,
    /// By threads of each name.
    pub(crate) threads: BTreeMap<String, u64>,
}

impl Schedule {
    /// `rate` calls a second.
    pub(crate) fn new(rate: u32) -> Self {
        Self { rate }
    }

    /// When call `index` is due.
    pub(crate) fn due(self, index: u64) -> Duration {
        let nanos = u128::from(index) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many calls are due before `moment`.
    pub(crate) fn before(self, moment: Duration) -> u64 {
        let calls = (moment.as_nanos() * u128::from(self.rate)).div_ceil(1_000_000_000);
        u64::try_from(calls).unwrap_or(u64::MAX)
    }
}

impl Latency {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are sound");
        Self { histogram }
    }

    pub(crate) fn record(&mut self, took: Duration) {
        self.histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        micros(self.histogram.value_at_quantile(quantile))
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn json(&self) -> Value {
        if self.histogram.is_empty() {
            return Value::Null;
        }
        json!({
            "count": self.count(),
            "min": micros(self.histogram.min()),
            "mean": (self.histogram.mean() / 10.0).round() / 100.0,
            "p50": self.quantile_us(0.5),
            "p90": self.quantile_us(0.9),
            "p99": self.quantile_us(0.99),
            "p99.9": self.quantile_us(0.999),
            "p99.99": self.quantile_us(0.9999),
            "max": micros(self.histogram.max()),
        })
    }
}

impl Faults {
    pub(crate) fn note(&mut self, what: impl ToString) {
        self.total += 1;
        let what = what.to_string();
        if self.kinds.len() < FAULTS_TOLD || self.kinds.contains_key(&what) {
            *self.kinds.entry(what).or_default() += 1;
        }
    }

    /// The commonest, in words.
    pub(crate) fn describe(&self) -> String {
        let mut kinds: Vec<(&String, &u64)> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let told: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        told.join("; ")
    }
}

impl Cpu {
    /// Of all threads of `pids`; those that serve calls have names that start with `serving` (all, if it is empty).
    pub(crate) fn read(pids: &[u32], serving: &str) -> anyhow::Result<Self> {
        let mut cpu = Self::default();
        for pid in pids {
            let tasks = format!("/proc/{pid}/task");
            let entries = fs::read_dir(&tasks).with_context(|| format!("process {pid} is gone"))?;
            for entry in entries.flatten() {
                let read = |file: &str| fs::read_to_string(entry.path().join(file));
                // A thread may end between the two.
                let (Ok(name), Ok(stat)) = (read("comm"), read("schedstat")) else { continue };
                let mut numbers = stat.split_ascii_whitespace().map(|number| number.parse().unwrap_or(0));
                let (ran, waited): (u64, u64) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                cpu.whole += ran;
                *cpu.threads.entry(name.trim().to_owned()).or_default() += ran;
                if name.starts_with(serving) {
                    cpu.serving += ran;
                    cpu.waited += waited;
                }
            }
        }
        Ok(cpu)
    }

    /// What was used since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |name: &String| earlier.threads.get(name).copied().unwrap_or(0);
        let threads = self.threads.iter().map(|(name, ran)| (name.clone(), ran.saturating_sub(before(name))));
        Self {
            threads: threads.collect(),
            serving: self.serving.saturating_sub(earlier.serving),
            whole: self.whole.saturating_sub(earlier.whole),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }
}

/// Nanoseconds in microseconds, to the hundredth.
pub(crate) fn micros(nanos: u64) -> f64 {
    (nanos as f64 / 10.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers in 1 ms but stands still once, over one connection: what a caller with a schedule sees
    /// (from the scheduled instant), and what the wire shows (from the moment of sending).
    fn stall(rate: u32, seconds: u64, from_ms: u64, for_ms: u64) -> (Latency, Latency) {
        let schedule = Schedule::new(rate);
        let (mut corrected, mut naive) = (Latency::new(), Latency::new());
        let mut free = Duration::ZERO;
        for index in 0..schedule.before(Duration::from_secs(seconds)) {
            let due = schedule.due(index);
            let sent = due.max(free);
            let mut done = sent + Duration::from_micros(900);
            let (stall, over) = (Duration::from_millis(from_ms), Duration::from_millis(from_ms + for_ms));
            if done > stall && sent < over {
                done = over;
            }
            corrected.record(done - due);
            naive.record(done - sent);
            free = done;
        }
        (corrected, naive)
    }

    #[test]
    fn a_stall_is_seen_by_all_calls_that_were_due_in_it() {
        let (corrected, naive) = stall(1_000, 10, 5_000, 500);
        assert_eq!(corrected.count(), 10_000);
        // One call in 10,000 was under way in the stall; 500 were due in it, and the rest of the backlog behind it.
        assert!(naive.quantile_us(0.999) < 1_000.0, "{}", naive.quantile_us(0.999));
        assert!(corrected.quantile_us(0.99) > 300_000.0, "{}", corrected.quantile_us(0.99));
        assert!(corrected.quantile_us(0.5) < 1_000.0);
        let (corrected, naive) = stall(1_000, 10, 20_000, 500);
        assert_eq!(corrected.quantile_us(1.0), naive.quantile_us(1.0), "no stall, no correction");
    }

    #[test]
    fn a_schedule_keeps_its_rate() {
        let schedule = Schedule::new(3);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(3), Duration::from_secs(1));
        assert_eq!(schedule.due(3_000_000), Duration::from_secs(1_000_000), "no drift");
        for moment in [0, 1, 333_333_333, 333_333_334, 1_000_000_000, 10_000_000_001] {
            let moment = Duration::from_nanos(moment);
            let count = schedule.before(moment);
            assert!(schedule.due(count) >= moment);
            assert!(count == 0 || schedule.due(count - 1) < moment);
        }
    }

    #[test]
    fn latencies_are_microseconds() {
        let mut latency = Latency::new();
        for micros in 1..=1000 {
            latency.record(Duration::from_micros(micros));
        }
        assert!((latency.quantile_us(0.5) - 500.0).abs() < 1.0);
        assert!((latency.quantile_us(0.99) - 990.0).abs() < 2.0);
        assert_eq!(latency.json()["count"], 1000);
        assert_eq!(Latency::new().json(), Value::Null);
        latency.record(Duration::from_secs(10_000));
        assert!(latency.quantile_us(1.0) >= 599_000_000.0, "what is too long counts as the longest");
    }

    #[test]
    fn faults_are_counted_by_kind_within_bounds() {
        let mut faults = Faults::default();
        for number in 0..100 {
            faults.note(format!("kind {number}"));
            faults.note("kind 0");
        }
        assert_eq!((faults.total, faults.kinds.len()), (200, FAULTS_TOLD));
        assert!(faults.describe().starts_with("101 × kind 0"));
    }

    #[test]
    fn own_cpu_time_is_seen() {
        let pid = [std::process::id()];
        let before = Cpu::read(&pid, "").expect("this process is there");
        let until = std::time::Instant::now() + Duration::from_millis(30);
        let mut spin = 0u64;
        while std::time::Instant::now() < until {
            spin = std::hint::black_box(spin.wrapping_add(1));
        }
        let used = Cpu::read(&pid, "").expect("this process is there").since(&before);
        assert!(used.whole > 0 && used.serving == used.whole);
        assert_eq!(Cpu::read(&pid, "no such thread").expect("this process is there").serving, 0);
        assert!(Cpu::read(&[u32::MAX], "").is_err());
    }
}
