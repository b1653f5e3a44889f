//! What came of it all: by kind of request, and over time.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Times up to this are told apart, nanoseconds.
const TIME_NS_MAX: u64 = 3_600_000_000_000;
/// Kinds of errors that are told apart, all others are one.
const KINDS_MAX: usize = 30;
const OTHERS: &str = "others";

/// Everything that was counted.
#[derive(Debug)]
pub(super) struct Tally {
    labels: Vec<Label>,
    /// Errors in the window, by kind.
    pub(super) kinds: BTreeMap<String, u64>,
    /// Errors before and after the window.
    pub(super) outside: u64,
    /// How long was measured.
    pub(super) window: Duration,
    /// How late requests left that were due and had nobody but us to wait for.
    pub(super) lag: Histogram<u64>,
    pub(super) bins: Vec<Bin>,
    /// How long a bin is.
    pub(super) bin: Duration,
    now: Current,
    /// Since somebody asked last.
    recent: Current,
    pub(super) stream_events: u64,
    /// Streams that the other side ended.
    pub(super) streams_ended: u64,
    /// Of agents of which era (modern, legacy) the other side wants no streams.
    pub(super) without_streams: [bool; 2],
}

#[derive(Debug)]
struct Label {
    name: String,
    /// Such requests are on no schedule, but follow the answer to another one.
    follows: bool,
    counts: Counts,
}

/// Of one kind of request, or several.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) right: u64,
    pub(super) wrong: u64,
    /// Right answers that came within the window, whenever their requests were due.
    pub(super) kept: u64,
    /// Those of the wrong ones that were due and could not be sent before the end.
    pub(super) unsent: u64,
    /// Right answers, and requests that never had one, from the moment they were due.
    pub(super) latency: Histogram<u64>,
    /// Right answers from sending.
    pub(super) service: Histogram<u64>,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bin {
    pub(super) right: u64,
    pub(super) wrong: u64,
    /// `None`: nothing came.
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
    pub(super) max: Option<Duration>,
    pub(super) gauges: Gauges,
}

/// What is so at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gauges {
    pub(super) in_flight: u32,
    pub(super) sessions: u32,
    pub(super) streams: u32,
}

#[derive(Debug)]
struct Current {
    right: u64,
    wrong: u64,
    latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new(bin: Duration) -> Self {
        Self {
            labels: Vec::new(),
            kinds: BTreeMap::new(),
            outside: 0,
            window: Duration::ZERO,
            lag: histogram(3),
            bins: Vec::new(),
            bin,
            now: Current::new(),
            recent: Current::new(),
            stream_events: 0,
            streams_ended: 0,
            without_streams: [false; 2],
        }
    }

    /// Where requests of this kind are counted, which are on schedule.
    pub(super) fn label(&mut self, name: &str) -> usize {
        self.known(name, false)
    }

    /// The same for those that follow the answer to another one.
    pub(super) fn follower(&mut self, name: &str) -> usize {
        self.known(name, true)
    }

    fn known(&mut self, name: &str, follows: bool) -> usize {
        self.labels.iter().position(|known| known.name == name).unwrap_or_else(|| {
            self.labels.push(Label { name: name.to_owned(), follows, counts: Counts::new() });
            self.labels.len() - 1
        })
    }

    /// A right answer: how long after its request was due, and after it was sent; and whether that is in the window.
    pub(super) fn right(&mut self, label: usize, latency: Duration, service: Duration, measured: bool) {
        let Some(Label { follows, counts, .. }) = self.labels.get_mut(label) else { return };
        if !*follows {
            for current in [&mut self.now, &mut self.recent] {
                current.right += 1;
                current.latency.saturating_record(nanos(latency));
            }
        }
        if measured {
            counts.right += 1;
            counts.latency.saturating_record(nanos(latency));
            counts.service.saturating_record(nanos(service));
        }
    }

    /// It came within the window.
    pub(super) fn arrived(&mut self, label: usize) {
        if let Some(Label { counts, .. }) = self.labels.get_mut(label) {
            counts.kept += 1;
        }
    }

    /// Something else. `waited` where no answer came in time: a wrong one that comes at once makes nothing faster.
    pub(super) fn wrong(&mut self, label: usize, words: &str, waited: Option<Duration>, measured: bool) {
        for current in [&mut self.now, &mut self.recent] {
            current.wrong += 1;
            if let Some(waited) = waited {
                current.latency.saturating_record(nanos(waited));
            }
        }
        let Some(Label { name, counts, .. }) = self.labels.get_mut(label) else { return };
        if !measured {
            self.outside += 1;
            return;
        }
        counts.wrong += 1;
        if let Some(waited) = waited {
            counts.latency.saturating_record(nanos(waited));
        }
        let kind = format!("{name}: {words}");
        let room = self.kinds.len() < KINDS_MAX || self.kinds.contains_key(&kind);
        *self.kinds.entry(if room { kind } else { OTHERS.to_owned() }).or_default() += 1;
    }

    /// Was due, and was never sent, since its agent still waited for an answer.
    pub(super) fn unsent(&mut self, label: usize, waited: Duration) {
        self.wrong(label, "not sent before the end", Some(waited), true);
        if let Some(Label { counts, .. }) = self.labels.get_mut(label) {
            counts.unsent += 1;
        }
    }

    /// Ends bins until the last one holds `moment`, counted from the start.
    pub(super) fn roll(&mut self, moment: Duration, gauges: Gauges) {
        while self.bin * (u32::try_from(self.bins.len()).unwrap_or(u32::MAX).saturating_add(1)) <= moment {
            self.bins.push(self.now.end(gauges));
        }
    }

    /// What came since this was asked last.
    pub(super) fn recent(&mut self, gauges: Gauges) -> Bin {
        self.recent.end(gauges)
    }

    /// Those kinds that something was counted of.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &Counts)> {
        self.counted().map(|label| (&*label.name, &label.counts))
    }

    fn counted(&self) -> impl Iterator<Item = &Label> {
        self.labels.iter().filter(|label| label.counts.right + label.counts.wrong > 0)
    }

    /// Those of a label or method; or all, with the times of those on schedule.
    pub(super) fn select(&self, of: Option<&str>) -> Counts {
        let mut all = Counts::new();
        for Label { name, follows, counts } in self.counted() {
            if of.is_none_or(|of| name == of || name.split(' ').next() == Some(of)) {
                all.right += counts.right;
                all.wrong += counts.wrong;
                all.unsent += counts.unsent;
                if of.is_some() || !follows {
                    all.kept += counts.kept;
                    // Equal bounds: adding cannot fail.
                    let _ = all.latency.add(&counts.latency);
                    let _ = all.service.add(&counts.service);
                }
            }
        }
        all
    }
}

impl Counts {
    fn new() -> Self {
        Self { right: 0, wrong: 0, kept: 0, unsent: 0, latency: histogram(3), service: histogram(3) }
    }

    pub(super) fn quantile(&self, at: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(at))
    }

    /// `None`: nothing was counted.
    pub(super) fn error_share(&self) -> Option<f64> {
        let all = self.right + self.wrong;
        (all > 0).then(|| self.wrong as f64 / all as f64)
    }
}

impl Current {
    fn new() -> Self {
        Self { right: 0, wrong: 0, latency: histogram(2) }
    }

    fn end(&mut self, gauges: Gauges) -> Bin {
        let at = |quantile: f64| {
            let some = !self.latency.is_empty();
            some.then(|| Duration::from_nanos(self.latency.value_at_quantile(quantile)))
        };
        let bin = Bin { right: self.right, wrong: self.wrong, p50: at(0.5), p99: at(0.99), max: at(1.0), gauges };
        self.right = 0;
        self.wrong = 0;
        self.latency.reset();
        bin
    }
}

/// Of times, so many digits of which are right.
fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, TIME_NS_MAX, digits).expect("the bounds are sound")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn bins_hold_what_came_in_their_time() {
        let mut tally = Tally::new(Duration::from_secs(1));
        let at = tally.label("a");
        tally.right(at, MS, MS, true);
        tally.wrong(at, "x", None, true);
        let gauges = Gauges { in_flight: 1, sessions: 2, streams: 3 };
        tally.roll(Duration::from_millis(999), gauges);
        assert!(tally.bins.is_empty());
        tally.roll(Duration::from_millis(3_100), gauges);
        assert_eq!(tally.bins.len(), 3);
        assert_eq!((tally.bins[0].right, tally.bins[0].wrong, tally.bins[0].gauges), (1, 1, gauges));
        assert!(tally.bins[0].p50.is_some_and(|took| took >= MS) && tally.bins[1].p50.is_none());
        assert_eq!((tally.recent(gauges).right, tally.recent(gauges).right), (1, 0));
    }

    #[test]
    fn only_the_window_counts() {
        let mut tally = Tally::new(Duration::from_secs(1));
        let (echo, list) = (tally.label("tools/call echo"), tally.label("tools/list"));
        assert_eq!(tally.label("tools/list"), list);
        tally.right(echo, MS, MS, false);
        tally.wrong(echo, "early", None, false);
        tally.right(echo, 3 * MS, MS, true);
        tally.arrived(echo);
        let close = tally.follower("DELETE session");
        tally.right(close, Duration::from_secs(9), MS, true);
        tally.arrived(close);
        tally.wrong(list, "late", None, true);
        tally.unsent(echo, Duration::from_secs(1));
        let all = tally.select(None);
        assert_eq!((all.right, all.wrong, all.unsent, tally.outside), (2, 2, 1, 1));
        assert_eq!((all.kept, tally.select(Some("DELETE")).kept), (1, 1));
        assert_eq!(
            (all.latency.len(), all.service.len()),
            (2, 1),
            "a quick error is no quick answer, and what follows is on no schedule"
        );
        assert_eq!(tally.select(Some("tools/call")).wrong, 1);
        assert_eq!(tally.select(Some("tools")).right, 0);
        assert_eq!(tally.select(Some("tools/list")).error_share(), Some(1.0));
        let kinds: Vec<&str> = tally.kinds.keys().map(String::as_str).collect();
        assert_eq!(kinds, ["tools/call echo: not sent before the end", "tools/list: late"]);
    }

    #[test]
    fn kinds_are_bounded() {
        let mut tally = Tally::new(Duration::from_secs(1));
        let at = tally.label("a");
        for number in 0..1_000 {
            tally.wrong(at, &number.to_string(), None, true);
        }
        assert_eq!((tally.kinds.len(), tally.kinds[OTHERS]), (KINDS_MAX + 1, 970));
    }
}
