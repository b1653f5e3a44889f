//! Medians, spreads, paired ratios and what they should be, as tables and as JSON. No ratio comes from a run that was at
//! fault.

use std::fmt;

use serde_json::{Value, json};

use crate::cli::Compare;
use crate::rig::environment;

use super::plot;
use super::sample::{Sample, Spread};
use super::scene::{BODY_BYTES, Load, Pair, Rival, Scene, Share, Who};

/// Waiting for the core more often than this, whoever is measured shared it with somebody.
const WAITED_PER_CENT_MAX: f64 = 10.0;
/// A figure whose most is more than so many times its least is not one to rely on.
const STEADY: f64 = 2.0;

/// All measurements.
pub(super) struct Report {
    environment: Value,
    settings: Value,
    points: Vec<Point>,
    /// What else there is to say; faults among it.
    notes: Vec<String>,
}

/// One load of a scene.
pub(super) struct Point {
    pub(super) scene: Scene,
    pub(super) load: Load,
    pub(super) rows: Vec<Row>,
}

/// Of one who was measured.
pub(super) struct Row {
    pub(super) who: Who,
    /// By repetition.
    samples: Vec<Sample>,
    /// For each call.
    system_calls: Option<f64>,
}

/// A figure and what it should be.
pub(super) struct Judged {
    pub(super) what: String,
    /// `None`: somebody was at fault.
    pub(super) figure: Option<Spread>,
    /// The most it should be.
    pub(super) goal: Option<f64>,
}

impl Report {
    pub(super) fn new(environment: Value, options: &Compare) -> Self {
        let settings = json!({
            "body_bytes": BODY_BYTES,
            "rules": options.rules,
            "repetitions": options.repetitions,
            "seconds": options.seconds,
            "warmup": options.warmup,
        });
        Self { environment, settings, points: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn add(&mut self, scene: Scene, load: Load, who: Who, sample: Sample) {
        self.row(scene, load, who).samples.push(sample);
    }

    /// System calls for each call.
    pub(super) fn add_system_calls(&mut self, scene: Scene, load: Load, who: Who, each: f64) {
        self.row(scene, load, who).system_calls = Some(each);
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(super) fn finish(&mut self) {
        self.environment["load_average_after"] = environment::load_average().into();
    }

    /// Whether every answer of every run was right.
    pub(super) fn is_sound(&self) -> bool {
        let faults = self.points.iter().flat_map(|point| &point.rows).filter_map(Row::fault).count();
        faults == 0 && !self.notes.iter().any(|note| note.starts_with("FAULT"))
    }

    /// Whether every goal of what was measured is held.
    pub(super) fn is_held(&self) -> bool {
        self.points.iter().flat_map(Point::judged).all(|judged| judged.is_held() != Some(false))
    }

    pub(super) fn json(&self) -> Value {
        let points: Vec<Value> = self.points.iter().map(Point::json).collect();
        json!({ "environment": self.environment, "settings": self.settings, "points": points, "notes": self.notes })
    }

    /// What was measured, drawn.
    pub(super) fn svg(&self) -> String {
        let text = |key: &str| self.environment[key].as_str().unwrap_or("-").to_owned();
        let settings = &self.settings;
        let below = [
            format!(
                "Medians of {} turns of {} s, lines from the least to the most. {}, commit {}, {}.",
                settings["repetitions"],
                settings["seconds"],
                text("date").split('T').next().unwrap_or_default(),
                text("commit"),
                text("portcullis"),
            ),
            format!(
                "{} cores, {}, Linux {}; {}, {}. Behind each ratio stand its connections, or calls a second.",
                self.environment["cores"],
                text("cpu"),
                text("kernel"),
                text("nginx"),
                text("haproxy"),
            ),
        ];
        plot::draw(&self.points, &below)
    }

    fn row(&mut self, scene: Scene, load: Load, who: Who) -> &mut Row {
        let at = self.points.iter().position(|point| point.scene == scene && point.load == load);
        let at = at.unwrap_or_else(|| {
            self.points.push(Point { scene, load, rows: Vec::new() });
            self.points.len() - 1
        });
        let rows = &mut self.points[at].rows;
        if !rows.iter().any(|row| row.who == who) {
            rows.push(Row { who, samples: Vec::new(), system_calls: None });
            // Whoever is measured first changes; the rows stay in their order.
            rows.sort_by_key(|row| scene.cast().iter().position(|other| *other == row.who));
        }
        let at = rows.iter().position(|row| row.who == who).unwrap_or(0);
        &mut rows[at]
    }

    fn write_environment(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &str| match &self.environment[key] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        writeln!(f, "\n{}, commit {}", text("date"), text("commit"))?;
        writeln!(f, "Linux {}, {} cores, {}", text("kernel"), text("cores"), text("cpu"))?;
        writeln!(f, "{}; {}; {}; loadtest {}", text("nginx"), text("haproxy"), text("portcullis"), text("loadtest"))?;
        let settings = &self.settings;
        writeln!(
            f,
            "bodies of {} bytes, a token, {} rules, one in ten with a condition, which every tenth call needs; audit and metrics on",
            settings["body_bytes"], settings["rules"],
        )?;
        writeln!(
            f,
            "measured on core {}, load and server on core {}; {} × {} s a point, taking turns; load average {} before, {} after",
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
                    writeln!(f, "FAULT in {}, {}, {}: {fault}", point.scene.title(), point.load, row.who.name())?;
                }
            }
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
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

    /// What everybody took.
    fn write_figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head =
            ["what", "load", "who", "calls/s", "p50 µs", "p99 µs", "CPU µs/call", "whole process", "system calls"];
        let mut table = vec![head.map(str::to_owned)];
        for point in &self.points {
            for row in &point.rows {
                let cell = |of: fn(&Sample) -> f64| row.spread(of).map_or_else(fault, |spread| spread.text(2));
                let middle = |of: fn(&Sample) -> f64| {
                    row.spread(of).map_or_else(fault, |spread| format!("{:.0}", spread.median))
                };
                table.push([
                    point.scene.title().to_owned(),
                    point.load.to_string(),
                    row.who.name().to_owned(),
                    middle(|sample| sample.calls_per_second),
                    middle(|sample| sample.p50_us),
                    middle(|sample| sample.p99_us),
                    cell(serving),
                    cell(whole),
                    row.system_calls.map_or_else(|| "-".to_owned(), |each| format!("{each:.2}")),
                ]);
            }
        }
        write_table(f, &table)
    }

    /// What is compared, and what should come of it.
    fn write_judged(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["what", "load", "CPU per call, paired", "median", "least", "most", "goal", "verdict"];
        let mut table = vec![head.map(str::to_owned)];
        for point in &self.points {
            for judged in point.judged() {
                let [median, least, most] = match judged.figure {
                    Some(Spread { median, least, most }) => [median, least, most].map(|figure| format!("{figure:.3}")),
                    None => ["no ratio: faults", "", ""].map(str::to_owned),
                };
                let goal = judged.goal.map_or_else(String::new, |goal| format!("≤ {goal:.2}"));
                let (scene, load) = (point.scene.title().to_owned(), point.load.to_string());
                let verdict = judged.verdict().to_owned();
                table.push([scene, load, judged.what, median, least, most, goal, verdict]);
            }
        }
        write_table(f, &table)
    }

    /// Latency where calls have a schedule: from the moment a call was due.
    fn write_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["load", "who", "p50 µs", "p99 µs", "p99.9 µs", "p50 / nginx", "p99 / nginx", "p99.9 / nginx", ""];
        let mut table = vec![head.map(str::to_owned)];
        for point in self.points.iter().filter(|point| matches!(point.load, Load::Open { .. })) {
            let base = point.rows.iter().find(|row| row.who == Who::Rival(Rival::Nginx));
            for row in &point.rows {
                let quantiles: [fn(&Sample) -> f64; 3] =
                    [|sample| sample.p50_us, |sample| sample.p99_us, |sample| sample.p999_us];
                let spreads = quantiles.map(|of| row.spread(of));
                let ratios = quantiles.map(|of| base.and_then(|base| paired(row, of, base, of)));
                let own = base.is_none_or(|base| base.who == row.who);
                let [p50, p99, p999] = spreads.map(|spread| spread.map_or_else(fault, |spread| spread.text(0)));
                let [r50, r99, r999] = ratios.map(|ratio| match ratio {
                    Some(ratio) if !own => ratio.text(2),
                    _ => String::new(),
                });
                let steady = ratios.iter().flatten().all(|ratio| ratio.most <= ratio.least * STEADY);
                let verdict = if own || steady { "" } else { "not held yet: unsteady" };
                let (load, who) = (point.load.to_string(), row.who.name().to_owned());
                table.push([load, who, p50, p99, p999, r50, r99, r999, verdict.to_owned()]);
            }
        }
        if table.len() > 1 { write_table(f, &table) } else { Ok(()) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_environment(f)?;
        writeln!(f)?;
        self.write_figures(f)?;
        writeln!(f)?;
        self.write_judged(f)?;
        writeln!(f)?;
        self.write_latency(f)?;
        writeln!(f)?;
        self.write_notes(f)
    }
}

impl Point {
    /// What is compared, and how it came out; no figure where either side was at fault.
    pub(super) fn judged(&self) -> Vec<Judged> {
        let row = |who: Who| self.rows.iter().find(|row| row.who == who);
        let mut out = Vec::new();
        for pair in self.scene.pairs() {
            let (Some(own), Some(base)) = (row(pair.own), row(pair.base)) else { continue };
            let figure = ratio(*pair, own, base);
            out.push(Judged { what: pair.to_string(), figure, goal: self.scene.goal(self.load, *pair) });
        }
        let goal = self.scene.system_calls(self.load);
        let own = self.rows.iter().filter(|row| row.who.is_own() && goal.is_some());
        for (row, each) in own.filter_map(|row| Some((row, row.system_calls?))) {
            let what = format!("{}, system calls of a call", row.who.name());
            out.push(Judged { what, figure: Spread::of(vec![each]), goal });
        }
        out
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let median = |of: fn(&Sample) -> f64| row.spread(of).map(Spread::json);
            json!({
                "name": row.who.name(),
                "calls_per_second": median(|sample| sample.calls_per_second),
                "p50_us": median(|sample| sample.p50_us),
                "p99_us": median(|sample| sample.p99_us),
                "p99.9_us": median(|sample| sample.p999_us),
                "cpu_us_serving": median(serving),
                "cpu_us_whole": median(whole),
                "system_calls": row.system_calls,
                "samples": row.samples.iter().map(Sample::json).collect::<Vec<_>>(),
            })
        });
        let judged = self.judged().into_iter().map(|judged| {
            json!({
                "what": judged.what,
                "figure": judged.figure.map(Spread::json),
                "goal": judged.goal,
                "verdict": judged.verdict(),
            })
        });
        json!({
            "scene": self.scene.title(),
            "load": self.load.to_string(),
            "contestants": rows.collect::<Vec<_>>(),
            "judged": judged.collect::<Vec<_>>(),
        })
    }
}

impl Judged {
    /// `None`: there is no goal, or no figure.
    pub(super) fn is_held(&self) -> Option<bool> {
        Some(self.figure?.median <= self.goal?)
    }

    fn verdict(&self) -> &'static str {
        match (self.figure, self.is_held()) {
            (None, _) => "no figure",
            (_, None) => "",
            (_, Some(true)) => "held",
            (_, Some(false)) => "not held yet",
        }
    }
}

impl Row {
    fn fault(&self) -> Option<&str> {
        self.samples.iter().find_map(Sample::fault)
    }

    pub(super) fn spread(&self, of: impl Fn(&Sample) -> f64) -> Option<Spread> {
        if self.fault().is_some() { None } else { Spread::of(self.samples.iter().map(of).collect()) }
    }
}

pub(super) fn serving(sample: &Sample) -> f64 {
    sample.serving_us
}

fn whole(sample: &Sample) -> f64 {
    sample.whole_us
}

fn fault() -> String {
    "FAULT".to_owned()
}

/// A gateway of ours beside another one is compared by the threads that carry calls; all others have no more than those.
fn ratio(pair: Pair, own: &Row, base: &Row) -> Option<Spread> {
    let of = |share| if share == Share::Serving { serving } else { whole };
    let under = if pair.base.is_own() { pair.share } else { Share::Whole };
    paired(own, of(pair.share), base, of(under))
}

/// The ratio inside each repetition.
fn paired(own: &Row, of: fn(&Sample) -> f64, base: &Row, under: fn(&Sample) -> f64) -> Option<Spread> {
    if own.fault().is_some() || base.fault().is_some() || own.samples.len() != base.samples.len() {
        return None;
    }
    let pairs = own.samples.iter().zip(&base.samples);
    Spread::of(pairs.map(|(own, base)| of(own) / under(base)).collect())
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
        let mut sample = Sample::default();
        (sample.serving_us, sample.whole_us) = (cpu, cpu * 1.25);
        sample
    }

    fn point(own: Vec<Sample>, base: Vec<Sample>) -> Point {
        let row = |who, samples| Row { who, samples, system_calls: None };
        let rows = vec![row(Who::Rival(Rival::Nginx), base), row(Who::Portcullis, own)];
        Point { scene: Scene::Calls, load: Load::Closed(16), rows }
    }

    #[test]
    fn ratios_are_paired() {
        // The machine was slow in the second repetition, for both.
        let point = point(vec![sample(8.0), sample(20.0), sample(7.0)], vec![sample(6.4), sample(12.8), sample(6.4)]);
        let judged = point.judged();
        assert_eq!(judged[0].what, "portcullis, shard threads / nginx");
        assert_eq!(judged[0].figure, Some(Spread { median: 1.0, least: 0.875, most: 1.25 }));
        assert_eq!(judged[1].figure, Some(Spread { median: 1.25, least: 1.09375, most: 1.5625 }));
    }

    #[test]
    fn no_ratio_from_runs_at_fault() {
        let failed = || Sample::failed("1 faults: status 503".to_owned());
        let check = |own: Vec<Sample>, base: Vec<Sample>| {
            assert!(point(own, base).judged().iter().all(|judged| judged.figure.is_none()));
        };
        check(vec![sample(1.0), failed()], vec![sample(1.0), sample(1.0)]);
        check(vec![sample(1.0), sample(1.0)], vec![failed(), sample(1.0)]);
        check(vec![sample(1.0)], vec![sample(0.0)]);
        check(vec![sample(1.0)], vec![sample(1.0), sample(1.0)]);
    }

    #[test]
    fn a_goal_is_held_or_not() {
        let verdict = |cpu: f64| {
            let point = point(vec![sample(cpu)], vec![sample(8.0)]);
            let judged = point.judged();
            (judged[0].is_held(), judged[0].verdict(), judged[1].is_held())
        };
        // 0.75 of nginx, whose whole process took 10.
        assert_eq!(verdict(7.5), (Some(true), "held", None));
        assert_eq!(verdict(7.6), (Some(false), "not held yet", None));
    }

    #[test]
    fn faults_are_not_sound() {
        let (scene, load) = (Scene::Calls, Load::Closed(1));
        let report = || Report { environment: json!({}), settings: json!({}), points: Vec::new(), notes: Vec::new() };
        let mut sound = report();
        sound.add(scene, load, Who::Portcullis, sample(1.0));
        sound.note("something".to_owned());
        assert!(sound.is_sound() && sound.is_held());
        sound.note("FAULT in something".to_owned());
        assert!(!sound.is_sound());
        let mut faulty = report();
        faulty.add(scene, load, Who::Portcullis, Sample::failed("x".to_owned()));
        assert!(!faulty.is_sound());
    }
}
