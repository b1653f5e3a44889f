//! One measurement, and the middle of several.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::generator::Outcome;
use crate::measure::{Cpu, micros};

/// One measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) calls_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    /// CPU time per call of the threads that serve, microseconds.
    pub(super) serving_us: f64,
    /// Of the whole process.
    pub(super) whole_us: f64,
    /// Of the window, the part in which a serving thread could have run but waited for somebody else on its core.
    pub(super) waited_per_cent: f64,
    unsent: u64,
    /// CPU time per call by threads of each name, microseconds.
    threads_us: BTreeMap<String, f64>,
    /// What was wrong: then the rest means nothing.
    fault: Option<String>,
}

/// The middle one, the least and the most of several figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Sample {
    pub(super) fn new(outcome: &Outcome, cpu: &Cpu) -> Self {
        let each = |nanos: u64| micros(nanos / outcome.in_window.max(1));
        let window = outcome.window.as_nanos() as f64;
        Self {
            calls_per_second: outcome.calls_per_second(),
            p50_us: outcome.latency.quantile_us(0.5),
            p99_us: outcome.latency.quantile_us(0.99),
            p999_us: outcome.latency.quantile_us(0.999),
            serving_us: each(cpu.serving),
            whole_us: each(cpu.whole),
            // Its own background threads, on the same core, are not somebody else.
            waited_per_cent: micros(cpu.waited.saturating_sub(cpu.whole - cpu.serving)) * 1e5 / window,
            unsent: outcome.unsent,
            threads_us: cpu.threads.iter().map(|(name, ran)| (name.clone(), each(*ran))).collect(),
            fault: None,
        }
    }

    pub(super) fn failed(fault: String) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    pub(super) fn json(&self) -> Value {
        if let Some(fault) = &self.fault {
            return json!({ "fault": fault });
        }
        json!({
            "calls_per_second": self.calls_per_second,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "p99.9_us": self.p999_us,
            "cpu_us_serving": self.serving_us,
            "cpu_us_whole": self.whole_us,
            "waited_per_cent": self.waited_per_cent,
            "unsent": self.unsent,
            "cpu_us_threads": self.threads_us,
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Some(fault) => write!(f, "FAULT: {fault}"),
            None => write!(
                f,
                "{:.0} calls/s, p50 {:.0} µs, p99 {:.0} µs, CPU {:.2} µs/call, whole process {:.2}",
                self.calls_per_second, self.p50_us, self.p99_us, self.serving_us, self.whole_us
            ),
        }
    }
}

impl Spread {
    /// `None` of nothing, and of what is no number.
    pub(super) fn of(mut figures: Vec<f64>) -> Option<Self> {
        if figures.iter().any(|figure| !figure.is_finite()) {
            return None;
        }
        figures.sort_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let half = figures.len() / 2;
        let median =
            if figures.len().is_multiple_of(2) { (figures[half - 1] + figures[half]) / 2.0 } else { figures[half] };
        Some(Self { median, least, most })
    }

    pub(super) fn json(self) -> Value {
        let round = |figure: f64| (figure * 1_000.0).round() / 1_000.0;
        json!({ "median": round(self.median), "least": round(self.least), "most": round(self.most) })
    }

    /// To so many places.
    pub(super) fn text(self, places: usize) -> String {
        let Self { median, least, most } = self;
        format!("{median:.places$} ({least:.places$}–{most:.places$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![1.0, f64::NAN]), None);
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.5));
    }
}
