//! What is said on the way: one line that is written again on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::Duration;

use super::credentials::Refreshed;
use super::objective::words;
use super::options::Plan;
use super::tally::Bin;

const ON_TERMINAL: Duration = Duration::from_millis(500);
const ELSEWHERE: Duration = Duration::from_secs(10);

/// Says how far it is.
pub(super) struct Progress {
    quiet: bool,
    terminal: bool,
    said: Duration,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, terminal: stderr().is_terminal(), said: Duration::ZERO }
    }

    /// Whether something is to be said, so long after the start.
    pub(super) fn is_due(&self, moment: Duration) -> bool {
        let pause = if self.terminal { ON_TERMINAL } else { ELSEWHERE };
        !self.quiet && moment >= self.said + pause
    }

    /// Says it; `bin` is what came since the last time.
    pub(super) fn show(&mut self, moment: Duration, plan: &Plan, bin: &Bin, refreshed: &Refreshed) {
        let since = moment.saturating_sub(self.said);
        self.said = moment;
        let line = line(moment, since, plan, bin, refreshed);
        let mut out = stderr().lock();
        // Where nobody reads it nothing is lost. A narrow terminal cuts the line instead of breaking it.
        let _ = if self.terminal { write!(out, "\r\x1b[2K\x1b[?7l{line}\x1b[?7h") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }

    /// The line is not written again.
    pub(super) fn end(&self) {
        if self.terminal && !self.quiet && !self.said.is_zero() {
            eprintln!();
        }
    }
}

fn line(moment: Duration, since: Duration, plan: &Plan, bin: &Bin, refreshed: &Refreshed) -> String {
    let (from, whole) = (plan.warmup, plan.warmup + plan.window);
    let phase = if moment < from {
        "warming up".to_owned()
    } else if moment < whole {
        format!("{} of {} s", (moment - from).as_secs(), plan.window.as_secs())
    } else {
        "last answers".to_owned()
    };
    let rate = bin.right as f64 / since.as_secs_f64().max(1e-3);
    let time = |time: Option<Duration>| time.map_or_else(|| "–".to_owned(), words);
    let mut line = format!(
        "{phase:>12}  {rate:>7.0}/s  p50 {:>8}  p99 {:>8}  errors {}  waiting {}  sessions {}  streams {}",
        time(bin.p50),
        time(bin.p99),
        bin.wrong,
        bin.gauges.in_flight,
        bin.gauges.sessions,
        bin.gauges.streams,
    );
    if refreshed.count + refreshed.failures > 0 {
        line.push_str(&format!("  tokens refreshed {}", refreshed.count));
    }
    if let (true, Some(why)) = (refreshed.failures > 0, &refreshed.why) {
        let why: String = why.chars().filter(|letter| !letter.is_control()).take(60).collect();
        line.push_str(&format!("  token failures {} ({why})", refreshed.failures));
    }
    line
}
