//! Agents as they work: sessions, pauses, streams, tokens that expire; an open loop; and a report of it.

mod credentials;
mod demo;
mod draw;
mod drive;
mod objective;
mod options;
mod page;
mod plot;
mod progress;
mod request;
mod stream;
mod tally;
mod wire;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::{net, rig};

use credentials::{Refreshed, Tokens};
use demo::Demo;
use drive::Outcome;
use objective::{Verdict, percent, rate, words};
use options::Plan;
use progress::Progress;
use tally::{Counts, Tally};
use wire::Endpoint;

pub(crate) use options::Fleet;

/// When the load itself was late so often and by so much, its figures are said to be doubtful.
const LAG_QUANTILE: f64 = 0.99;
const LAG_MAX: Duration = Duration::from_millis(5);
/// What is told of times.
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Everything that the report tells.
struct Report<'a> {
    plan: &'a Plan,
    url: &'a str,
    outcome: &'a Outcome,
    verdicts: Vec<Verdict>,
    refreshed: Refreshed,
    environment: Value,
    /// What one should know before one believes the figures.
    notes: Vec<String>,
}

/// `loadtest fleet`. Whether it ran to its end and every objective held.
pub(crate) fn command(options: &Fleet, stop: &AtomicBool) -> anyhow::Result<bool> {
    let mut plan = options.settle()?;
    let demo = if options.demo { Some(Demo::start(options, &plan)?) } else { None };
    if let Some(demo) = &demo {
        plan.tokens = demo.tokens.clone();
    }
    if let Some(core) = options.core {
        net::stay_on(core)?;
    }
    let url = demo.as_ref().map(|demo| demo.url.clone()).or_else(|| plan.url.clone()).context("no URL")?;
    let endpoint = Endpoint::parse(&url)?.trust(plan.ca.as_deref())?;
    let tokens = Tokens::start(plan.tokens.clone(), plan.identities, &url)?;
    let mut progress = Progress::new(options.quiet);
    if !options.quiet {
        let demo = demo.as_ref().map(|demo| format!(" (the gateway's pid: {})", demo.pid())).unwrap_or_default();
        eprintln!("{} agents on {url}, {:.1} requests a second{demo}", plan.agents, asked(&plan));
    }
    let outcome = drive::drive(&plan, &endpoint, &tokens, &mut progress, stop);
    progress.end();
    let outcome = outcome?;
    ensure!(!outcome.tally.window.is_zero(), "stopped before anything was measured");
    let report = Report::new(&plan, &url, &outcome, tokens.refreshed());
    drop(demo);
    println!("{}", report.summary());
    rig::write_figures(&plan.out, &format!("{:#}\n", report.json()))?;
    rig::write_figures(&plan.report, &page::page(&report))?;
    Ok(!outcome.cut && report.verdicts.iter().all(|verdict| verdict.held))
}

/// Requests a second on schedule.
fn asked(plan: &Plan) -> f64 {
    f64::from(plan.agents) / plan.think.as_secs_f64()
}

impl<'a> Report<'a> {
    fn new(plan: &'a Plan, url: &'a str, outcome: &'a Outcome, refreshed: Refreshed) -> Self {
        let verdicts = plan.objectives.iter().map(|objective| objective.judge(&outcome.tally)).collect();
        let notes = notes(plan, outcome, &refreshed);
        let cores = rig::Cores { proxy: 0, load: 0 };
        let environment = rig::environment::read(cores, &rig::environment::Versions::ask(None, None));
        Self { plan, url, outcome, verdicts, refreshed, environment, notes }
    }

    fn tally(&self) -> &Tally {
        &self.outcome.tally
    }

    fn summary(&self) -> String {
        let all = self.tally().select(None);
        let mut out = format!(
            "{:.1} right answers a second ({:.1} asked for), errors {}",
            rate(&all, self.tally().window),
            asked(self.plan),
            all.error_share().map_or_else(|| "none, and nothing else".to_owned(), percent),
        );
        for (label, counts) in std::iter::once(("all", &all)).chain(self.tally().labels()) {
            out.push_str(&format!("\n  {label:<28} {:>9}", counts.right));
            for (name, at) in QUANTILES {
                let took = if counts.latency.is_empty() { "–".to_owned() } else { words(counts.quantile(at)) };
                out.push_str(&format!("  {name} {took:>8}"));
            }
            out.push_str(&format!("  errors {}", counts.wrong));
        }
        for (kind, count) in &self.tally().kinds {
            out.push_str(&format!("\n  error: {count} × {kind}"));
        }
        for note in &self.notes {
            out.push_str(&format!("\n  note: {note}"));
        }
        for verdict in &self.verdicts {
            let mark = if verdict.held { "held" } else { "MISSED" };
            out.push_str(&format!("\n  objective {mark}: {} (was {})", verdict.objective, verdict.was));
        }
        out
    }

    fn json(&self) -> Value {
        let plan = self.plan;
        let tally = self.tally();
        let methods: serde_json::Map<String, Value> =
            tally.labels().map(|(label, counts)| (label.to_owned(), figures(counts, tally.window))).collect();
        let seconds = tally.bin.as_secs_f64();
        let over_time: Vec<Value> = (0u32..)
            .zip(&tally.bins)
            .map(|(number, bin)| {
                let micros = |time: Option<Duration>| time.map(|time| time.as_nanos() as f64 / 1e3);
                json!({
                    "from_s": f64::from(number) * seconds, "right": bin.right, "errors": bin.wrong,
                    "p50_us": micros(bin.p50), "p99_us": micros(bin.p99), "max_us": micros(bin.max),
                    "in_flight": bin.gauges.in_flight, "sessions": bin.gauges.sessions, "streams": bin.gauges.streams,
                })
            })
            .collect();
        json!({
            "environment": self.environment,
            "url": self.url,
            "settings": {
                "agents": plan.agents, "rate": asked(plan), "think_s": plan.think.as_secs_f64(), "steady": plan.steady,
                "warmup_s": plan.warmup.as_secs_f64(), "ramp_s": plan.ramp.as_secs_f64(), "legacy": plan.legacy,
                "streams": plan.streams, "calls": plan.calls, "identities": plan.identities, "seed": plan.seed,
                "timeout_ms": plan.timeout.as_secs_f64() * 1e3,
            },
            "seconds": tally.window.as_secs_f64(),
            "cut_short": self.outcome.cut,
            "all": figures(&tally.select(None), tally.window),
            "methods": methods,
            "errors": tally.kinds,
            "errors_outside": tally.outside,
            "streams": { "events": tally.stream_events, "ended": tally.streams_ended },
            "tokens": { "refreshed": self.refreshed.count, "failures": self.refreshed.failures },
            "own_lag_us": { "p99": lag(tally).as_nanos() as f64 / 1e3 },
            "objectives": self.verdicts.iter().map(Verdict::json).collect::<Vec<_>>(),
            "notes": self.notes,
            "over_time": over_time,
        })
    }
}

fn figures(counts: &Counts, window: Duration) -> Value {
    let times = |histogram: &hdrhistogram::Histogram<u64>| -> Value {
        let time = |at: f64| histogram.value_at_quantile(at) as f64 / 1e3;
        if histogram.is_empty() {
            return Value::Null;
        }
        QUANTILES
            .iter()
            .map(|(name, at)| ((*name).to_owned(), Value::from(time(*at))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    json!({
        "right": counts.right, "wrong": counts.wrong, "unsent": counts.unsent, "per_second": rate(counts, window),
        "error_share": counts.error_share(), "latency_us_from_due": times(&counts.latency),
        "latency_us_from_sending": times(&counts.service),
    })
}

fn lag(tally: &Tally) -> Duration {
    Duration::from_nanos(tally.lag.value_at_quantile(LAG_QUANTILE))
}

fn notes(plan: &Plan, outcome: &Outcome, refreshed: &Refreshed) -> Vec<String> {
    let tally = &outcome.tally;
    let mut notes = Vec::new();
    if outcome.cut {
        notes.push(format!("stopped after {} of {} s", tally.window.as_secs(), plan.window.as_secs()));
    }
    if lag(tally) > LAG_MAX {
        notes.push(format!(
            "one request in a hundred left {} late or more, because the load generator itself was late: its core is too busy for these figures",
            words(lag(tally))
        ));
    }
    if tally.outside > 0 {
        notes.push(format!("{} errors before or after the time measured, which count nowhere", tally.outside));
    }
    for (era, missing) in ["2026-07-28", "2025-11-25"].into_iter().zip(tally.without_streams) {
        if missing {
            notes.push(format!("the other side offers no event streams to agents that speak {era}"));
        }
    }
    if let (true, Some(why)) = (refreshed.failures > 0, &refreshed.why) {
        notes.push(format!("refreshing tokens failed {} times, last: {why}", refreshed.failures));
    }
    notes
}
