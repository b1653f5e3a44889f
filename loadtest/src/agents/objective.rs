//! What must hold of a run.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::tally::{Counts, Tally};

/// One bound, of all requests or of those of one method.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Objective {
    /// A label of the tally, or the method that such labels begin with.
    of: Option<String>,
    metric: Metric,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    /// The most a request at this quantile may take.
    Quantile(f64, Duration),
    /// The most share of requests that may go wrong.
    Errors(f64),
    /// The least of right answers a second.
    Rate(f64),
}

/// What became of one.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) objective: String,
    /// As words.
    pub(super) was: String,
    pub(super) held: bool,
}

impl Objective {
    /// Those asked for; without any, that nothing goes wrong.
    pub(super) fn all(words: &[String]) -> anyhow::Result<Vec<Self>> {
        if words.is_empty() {
            return Ok(vec![Self { of: None, metric: Metric::Errors(0.0) }]);
        }
        words.iter().map(|text| Self::parse(text).with_context(|| format!("objective {text}"))).collect()
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let (left, bound) = text.split_once('=').context("METRIC=VALUE")?;
        let (of, name) = left.rsplit_once(':').map_or((None, left), |(of, name)| (Some(of.trim().to_owned()), name));
        let bound = bound.trim();
        let metric = match name.trim() {
            "errors" => {
                let share = match bound.strip_suffix('%') {
                    Some(percent) => percent.trim().parse::<f64>().context("a percentage")? / 100.0,
                    None => bound.parse::<f64>().context("a share of one, or a percentage")?,
                };
                ensure!((0.0..=1.0).contains(&share), "between 0 and 100%");
                Metric::Errors(share)
            }
            "rate" => {
                let rate: f64 = bound.parse().context("right answers a second")?;
                ensure!(rate.is_finite() && rate >= 0.0, "right answers a second");
                Metric::Rate(rate)
            }
            "max" => Metric::Quantile(1.0, time(bound)?),
            name => {
                let percent = name.strip_prefix('p').and_then(|digits| digits.parse::<f64>().ok());
                let Some(percent) = percent.filter(|percent| (0.0..=100.0).contains(percent)) else {
                    bail!("there are p50, p99, p99.9 and such, max, errors and rate, not {name}");
                };
                Metric::Quantile(percent / 100.0, time(bound)?)
            }
        };
        Ok(Self { of, metric })
    }

    /// Whether it held.
    pub(super) fn judge(&self, tally: &Tally) -> Verdict {
        let counts = tally.select(self.of.as_deref());
        let (was, held) = match self.metric {
            // Nothing measured is nothing held.
            Metric::Quantile(..) | Metric::Rate(_) if counts.latency.is_empty() => {
                ("nothing measured".to_owned(), false)
            }
            Metric::Quantile(at, most) => {
                let took = counts.quantile(at);
                (words(took), took <= most)
            }
            Metric::Errors(most) => match counts.error_share() {
                Some(share) => (percent(share), share <= most),
                None => ("nothing measured".to_owned(), false),
            },
            Metric::Rate(least) => {
                let rate = rate(&counts, tally.window);
                (format!("{rate:.1}/s"), rate >= least)
            }
        };
        Verdict { objective: self.to_string(), was, held }
    }
}

impl Verdict {
    pub(super) fn json(&self) -> Value {
        json!({ "objective": self.objective, "was": self.was, "held": self.held })
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(of) = &self.of {
            write!(f, "{of}: ")?;
        }
        match self.metric {
            Metric::Quantile(1.0, most) => write!(f, "max ≤ {}", words(most)),
            Metric::Quantile(at, most) => {
                let name = format!("{:.3}", at * 100.0);
                write!(f, "p{} ≤ {}", name.trim_end_matches('0').trim_end_matches('.'), words(most))
            }
            Metric::Errors(most) => write!(f, "errors ≤ {}", percent(most)),
            Metric::Rate(least) => write!(f, "rate ≥ {least}/s"),
        }
    }
}

/// Right answers that came in the window, a second.
pub(super) fn rate(counts: &Counts, window: Duration) -> f64 {
    let seconds = window.as_secs_f64();
    if seconds > 0.0 { counts.kept as f64 / seconds } else { 0.0 }
}

/// A share of one as people read it.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let text = if percent < 1.0 { format!("{percent:.3}") } else { format!("{percent:.1}") };
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A time as people read it.
pub(super) fn words(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    let short = |value: f64| {
        let text = if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") };
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match micros {
        0.0..1_000.0 => format!("{} µs", short(micros)),
        1_000.0..1_000_000.0 => format!("{} ms", short(micros / 1e3)),
        _ => format!("{} s", short(micros / 1e6)),
    }
}

fn time(text: &str) -> anyhow::Result<Duration> {
    let units = [("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let found = units.into_iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)));
    let (number, scale) = found.context("a time: 500us, 50ms, 1s")?;
    let number: f64 = number.trim().parse().context("a time: 500us, 50ms, 1s")?;
    ensure!((0.0..=1e9).contains(&number), "a time: 500us, 50ms, 1s");
    Ok(Duration::from_secs_f64(number * scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        assert_eq!(Objective::parse(text).expect(text).to_string(), want);
    }

    #[test]
    fn bounds_as_people_write_them() {
        check("p99=50ms", "p99 ≤ 50 ms");
        check("p99.9=1s", "p99.9 ≤ 1 s");
        check("max = 1500us", "max ≤ 1.5 ms");
        check("errors=0.1%", "errors ≤ 0.1%");
        check("errors=0", "errors ≤ 0%");
        check("rate=400", "rate ≥ 400/s");
        check("tools/call echo:p50=2ms", "tools/call echo: p50 ≤ 2 ms");
        for wrong in ["p99", "p99=5", "p101=5ms", "errors=200%", "speed=1ms", "rate=x", "p50=-1ms"] {
            assert!(Objective::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_held_and_what_did_not() {
        let mut tally = Tally::new(Duration::from_secs(1));
        let at = tally.label("tools/call echo");
        for millis in 1..=100 {
            tally.right(at, Duration::from_millis(millis), Duration::from_millis(1), true);
            tally.arrived(at);
        }
        tally.wrong(at, "no answer", Some(Duration::from_secs(2)), true);
        tally.window = Duration::from_secs(10);
        let held = |text: &str| Objective::parse(text).expect(text).judge(&tally).held;
        assert!(held("p50=52ms") && !held("p50=40ms"));
        assert!(held("errors=1%") && !held("errors=0.5%"));
        assert!(held("rate=10") && !held("rate=11"));
        assert!(held("tools/call:p50=60ms") && held("tools/call echo:errors=1%"));
        // Who waited in vain waited all the same.
        assert!(!held("max=1s"));
        assert!(!held("prompts/get:p50=60ms") && !held("prompts/get:errors=0"), "nothing measured holds nothing");
        assert!(!Objective::all(&[]).expect("one")[0].judge(&tally).held, "without any: no errors");
    }
}
