//! Medians, spreads and paired ratios, as a table and as JSON. No ratio comes from a run that was at fault.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::cli::Compare;
use crate::generator::Outcome;
use crate::measure::{Cpu, micros};

use crate::rig::environment;

/// Waiting for the core more often than this, whoever is measured shared it with somebody.
const WAITED_PER_CENT_MAX: f64 = 10.0;

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// So many connections.
    Closed(u32),
    /// So many calls a second.
    Open { rate: u32, connections: u32 },
}

/// One measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    calls_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    /// CPU time per call of the threads that serve, microseconds.
    serving_us: f64,
    /// Of the whole process.
    whole_us: f64,
    /// Of the window, the part in which a serving thread could have run but waited for somebody else on its core.
    waited_per_cent: f64,
    unsent: u64,
    /// CPU time per call by threads of each name, microseconds.
    threads_us: BTreeMap<String, f64>,
    /// What was wrong: then the rest means nothing.
    fault: Option<String>,
}

/// All measurements.
pub(super) struct Report {
    environment: Value,
    settings: Value,
    tokens: bool,
    points: Vec<Point>,
}

struct Point {
    load: Load,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    /// By repetition.
    samples: Vec<Sample>,
}

/// The middle one, the least and the most of several figures.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
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

    fn json(&self) -> Value {
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

impl Report {
    pub(super) fn new(environment: Value, options: &Compare) -> Self {
        let calls = &options.calls;
        let settings = json!({
            "era": format!("{:?}", calls.era).to_lowercase(),
            "events": calls.events,
            "body_bytes": calls.body_bytes,
            "answer_bytes": options.answer_bytes,
            "tokens": !options.anonymous && !options.only_nginx,
            "rules": options.rules,
            "repetitions": options.repetitions,
            "seconds": options.seconds,
            "warmup": options.warmup,
        });
        Self { environment, settings, tokens: !options.anonymous && !options.only_nginx, points: Vec::new() }
    }

    pub(super) fn add(&mut self, load: Load, name: &'static str, sample: Sample) {
        if self.points.last().is_none_or(|point| point.load != load) {
            // Whoever is measured first changes; the rows stay in their order.
            let names: Vec<&'static str> = self.points.first().map_or_else(Vec::new, Point::names);
            let rows = names.into_iter().map(|name| Row { name, samples: Vec::new() }).collect();
            self.points.push(Point { load, rows });
        }
        let Some(point) = self.points.last_mut() else { return };
        match point.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.samples.push(sample),
            None => point.rows.push(Row { name, samples: vec![sample] }),
        }
    }

    pub(super) fn finish(&mut self) {
        self.environment["load_average_after"] = environment::load_average().into();
    }

    /// Whether every answer of every run was right.
    pub(super) fn is_sound(&self) -> bool {
        self.points.iter().flat_map(|point| &point.rows).all(|row| row.fault().is_none())
    }

    pub(super) fn json(&self) -> Value {
        let points = self.points.iter().map(|point| {
            let rows = point.rows.iter().map(|row| {
                let median = |of: fn(&Sample) -> f64| row.spread(of).map(Spread::json);
                json!({
                    "name": row.name,
                    "calls_per_second": median(|sample| sample.calls_per_second),
                    "p50_us": median(|sample| sample.p50_us),
                    "p99_us": median(|sample| sample.p99_us),
                    "p99.9_us": median(|sample| sample.p999_us),
                    "cpu_us_serving": median(|sample| sample.serving_us),
                    "cpu_us_whole": median(|sample| sample.whole_us),
                    "samples": row.samples.iter().map(Sample::json).collect::<Vec<_>>(),
                })
            });
            let ratios = point
                .ratios()
                .into_iter()
                .map(|(what, ratio)| json!({ "what": what, "ratio": ratio.map(Spread::json) }));
            json!({
                "load": point.load.to_string(),
                "contestants": rows.collect::<Vec<_>>(),
                "ratios": ratios.collect::<Vec<_>>(),
            })
        });
        json!({ "environment": self.environment, "settings": self.settings, "points": points.collect::<Vec<_>>() })
    }

    fn write_environment(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &str| match &self.environment[key] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        writeln!(f, "\n{}, commit {}", text("date"), text("commit"))?;
        writeln!(f, "Linux {}, {} cores, {}", text("kernel"), text("cores"), text("cpu"))?;
        writeln!(f, "{}; {}; loadtest {}", text("nginx"), text("portcullis"), text("loadtest"))?;
        let settings = &self.settings;
        let events = settings["events"].as_u64().unwrap_or(0);
        let answer = if events > 0 { format!("event streams of {events}") } else { "JSON".to_owned() };
        let token = if self.tokens { "with" } else { "without" };
        writeln!(
            f,
            "{} era, bodies of {} bytes, answers of {} bytes ({answer}), {token} a token, {} rules",
            settings["era"].as_str().unwrap_or_default(),
            settings["body_bytes"],
            settings["answer_bytes"],
            settings["rules"],
        )?;
        writeln!(
            f,
            "measured on core {}, load and server on core {}; {} × {} s a point, taking turns; load average {} before, {} after\n",
            text("proxy_core"),
            text("load_core"),
            settings["repetitions"],
            settings["seconds"],
            text("load_average_before"),
            text("load_average_after"),
        )
    }

    fn write_notes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for point in &self.points {
            for row in &point.rows {
                if let Some(fault) = row.fault() {
                    writeln!(f, "FAULT at {}, {}: {fault}", point.load, row.name)?;
                }
            }
        }
        let rows = self.points.iter().flat_map(|point| &point.rows);
        let waited = rows.filter_map(|row| row.spread(|sample| sample.waited_per_cent)).map(|spread| spread.median);
        let waited = waited.fold(0.0, f64::max);
        if waited > WAITED_PER_CENT_MAX {
            writeln!(
                f,
                "The core was shared with other programs: at worst a serving thread waited for it {waited:.0} % of the time. Measure again on a quiet machine."
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_environment(f)?;
        let mut table =
            vec![["load", "who", "calls/s", "p50 µs", "p99 µs", "CPU µs/call", "whole process"].map(str::to_owned)];
        for point in &self.points {
            for row in &point.rows {
                let cell = |of: fn(&Sample) -> f64| row.spread(of).map_or_else(|| "FAULT".to_owned(), Spread::text);
                let middle = |of: fn(&Sample) -> f64| {
                    row.spread(of).map_or_else(|| "FAULT".to_owned(), |spread| format!("{:.0}", spread.median))
                };
                table.push([
                    point.load.to_string(),
                    row.name.to_owned(),
                    middle(|sample| sample.calls_per_second),
                    middle(|sample| sample.p50_us),
                    middle(|sample| sample.p99_us),
                    cell(|sample| sample.serving_us),
                    cell(|sample| sample.whole_us),
                ]);
            }
        }
        write_table(f, &table)?;
        let mut ratios = vec![["load", "CPU per call, paired", "median", "least", "most"].map(str::to_owned)];
        for point in &self.points {
            for (what, ratio) in point.ratios() {
                let figures = match ratio {
                    Some(Spread { median, least, most }) => [median, least, most].map(|figure| format!("{figure:.3}")),
                    None => ["no ratio: faults", "", ""].map(str::to_owned),
                };
                let [median, least, most] = figures;
                ratios.push([point.load.to_string(), what, median, least, most]);
            }
        }
        if ratios.len() > 1 {
            writeln!(f)?;
            write_table(f, &ratios)?;
        }
        writeln!(f)?;
        self.write_notes(f)
    }
}

impl Point {
    fn names(&self) -> Vec<&'static str> {
        self.rows.iter().map(|row| row.name).collect()
    }

    /// What is compared, and how it came out; nothing where either side was at fault.
    fn ratios(&self) -> Vec<(String, Option<Spread>)> {
        let Some(own) = self.rows.iter().find(|row| row.name == "portcullis") else { return Vec::new() };
        let mut out = Vec::new();
        for base in self.rows.iter().filter(|row| row.name.starts_with("nginx")) {
            for (what, of) in [("shard threads", serving as fn(&Sample) -> f64), ("whole process", whole)] {
                out.push((format!("portcullis, {what} / {}", base.name), paired(own, of, base, whole)));
            }
        }
        out
    }
}

impl Row {
    fn fault(&self) -> Option<&str> {
        self.samples.iter().find_map(|sample| sample.fault.as_deref())
    }

    fn spread(&self, of: impl Fn(&Sample) -> f64) -> Option<Spread> {
        if self.fault().is_some() { None } else { Spread::of(self.samples.iter().map(of).collect()) }
    }
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let half = figures.len() / 2;
        let median =
            if figures.len().is_multiple_of(2) { (figures[half - 1] + figures[half]) / 2.0 } else { figures[half] };
        Some(Self { median, least, most })
    }

    fn json(self) -> Value {
        let round = |figure: f64| (figure * 1_000.0).round() / 1_000.0;
        json!({ "median": round(self.median), "least": round(self.least), "most": round(self.most) })
    }

    fn text(self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.least, self.most)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(1) => f.write_str("1 connection"),
            Self::Closed(connections) => write!(f, "{connections} connections"),
            Self::Open { rate, connections } => write!(f, "{rate}/s over {connections}"),
        }
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

fn serving(sample: &Sample) -> f64 {
    sample.serving_us
}

fn whole(sample: &Sample) -> f64 {
    sample.whole_us
}

/// The ratio inside each repetition.
fn paired(own: &Row, of: fn(&Sample) -> f64, base: &Row, under: fn(&Sample) -> f64) -> Option<Spread> {
    if own.fault().is_some() || base.fault().is_some() || own.samples.len() != base.samples.len() {
        return None;
    }
    let pairs = own.samples.iter().zip(&base.samples);
    let ratios: Vec<f64> = pairs.map(|(own, base)| of(own) / under(base)).collect();
    if ratios.iter().all(|ratio| ratio.is_finite()) { Spread::of(ratios) } else { None }
}

/// Columns as wide as they must be; Markdown, too.
fn write_table<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let width: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(width) {
            write!(f, "| {cell:<width$} ")?;
        }
        writeln!(f, "|")?;
        if number == 0 {
            for width in width {
                write!(f, "| {:-<width$} ", "")?;
            }
            writeln!(f, "|")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu: f64) -> Sample {
        Sample { serving_us: cpu, whole_us: cpu * 1.25, ..Sample::default() }
    }

    fn point(own: Vec<Sample>, base: Vec<Sample>) -> Point {
        let rows = vec![Row { name: "nginx", samples: base }, Row { name: "portcullis", samples: own }];
        Point { load: Load::Closed(16), rows }
    }

    #[test]
    fn ratios_are_paired() {
        // The machine was slow in the second repetition, for both.
        let point = point(vec![sample(8.0), sample(20.0), sample(7.0)], vec![sample(8.0), sample(16.0), sample(8.0)]);
        let ratios = point.ratios();
        assert_eq!(ratios[0].0, "portcullis, shard threads / nginx");
        assert_eq!(ratios[0].1, Some(Spread { median: 0.8, least: 0.7, most: 1.0 }));
        assert_eq!(ratios[1].1, Some(Spread { median: 1.0, least: 0.875, most: 1.25 }));
    }

    #[test]
    fn no_ratio_from_runs_at_fault() {
        let failed = || Sample::failed("1 faults: status 503".to_owned());
        let check = |own: Vec<Sample>, base: Vec<Sample>| {
            assert!(point(own, base).ratios().iter().all(|(_, ratio)| ratio.is_none()));
        };
        check(vec![sample(1.0), failed()], vec![sample(1.0), sample(1.0)]);
        check(vec![sample(1.0), sample(1.0)], vec![failed(), sample(1.0)]);
        check(vec![sample(1.0)], vec![sample(0.0)]);
        check(vec![sample(1.0)], vec![sample(1.0), sample(1.0)]);
    }

    #[test]
    fn medians() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.5));
    }
}
