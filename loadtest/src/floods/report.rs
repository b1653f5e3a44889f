//! Figures, and the goals that some of them have, as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::cli::Floods;
use crate::rig::environment;

use super::Part;

/// All figures.
pub(super) struct Report {
    environment: Value,
    settings: Value,
    figures: Vec<Figure>,
    faults: Vec<(Part, String)>,
}

struct Figure {
    part: Part,
    what: String,
    unit: &'static str,
    /// The most it should be.
    goal: Option<f64>,
    /// By repetition.
    samples: Vec<f64>,
}

impl Report {
    pub(super) fn new(environment: Value, options: &Floods) -> Self {
        let settings = json!({
            "idle": options.idle,
            "streams": options.streams,
            "neighbour": options.neighbour,
            "connections": options.connections,
            "rate": options.rate,
            "seconds": options.seconds,
            "repetitions": options.repetitions,
            "rules": options.rules,
        });
        Self { environment, settings, figures: Vec::new(), faults: Vec::new() }
    }

    /// One more sample.
    pub(super) fn add(&mut self, part: Part, what: &str, value: f64, unit: &'static str, goal: Option<f64>) {
        match self.figures.iter_mut().find(|figure| figure.part == part && figure.what == what) {
            Some(figure) => figure.samples.push(value),
            None => {
                let what = what.to_owned();
                self.figures.push(Figure { part, what, unit, goal, samples: vec![value] });
            }
        }
    }

    /// Something that must not be.
    pub(super) fn fault(&mut self, part: Part, fault: String) {
        eprintln!("{}: {fault}", part.name());
        self.faults.push((part, fault));
    }

    pub(super) fn finish(&mut self) {
        self.environment["load_average_after"] = environment::load_average().into();
    }

    /// No fault. A goal that is missed is a figure, not a fault.
    pub(super) fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn json(&self) -> Value {
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        let fault = |(part, fault): &(Part, String)| json!({ "part": part.name(), "fault": fault });
        let faults: Vec<Value> = self.faults.iter().map(fault).collect();
        json!({ "environment": self.environment, "settings": self.settings, "figures": figures, "faults": faults })
    }
}

impl Figure {
    /// The middle one, the least and the most.
    fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        (at(sorted.len() / 2), at(0), at(sorted.len().saturating_sub(1)))
    }

    fn held(&self) -> Option<bool> {
        self.goal.map(|goal| self.spread().0 <= goal)
    }

    fn json(&self) -> Value {
        let (median, least, most) = self.spread();
        json!({
            "part": self.part.name(),
            "what": self.what,
            "unit": self.unit,
            "median": median,
            "least": least,
            "most": most,
            "samples": self.samples,
            "goal": self.goal,
            "held": self.held(),
        })
    }
}

/// Three digits that matter, no more.
fn short(value: f64) -> String {
    let digits = if value.abs() >= 100.0 || value.fract() == 0.0 { 0 } else { 2 };
    format!("{value:.digits$}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &str| match &self.environment[key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        writeln!(f, "{}, {}, Linux {}", text("date"), text("portcullis"), text("kernel"))?;
        writeln!(f, "commit {}; {}, {} cores", text("commit"), text("cpu"), text("cores"))?;
        writeln!(f, "load average {} to {}\n", text("load_average_before"), text("load_average_after"))?;
        let mut part = None;
        for figure in &self.figures {
            if part.replace(figure.part) != Some(figure.part) {
                writeln!(f, "{}", figure.part.name())?;
            }
            let (median, least, most) = figure.spread();
            let mut line = format!("  {:<40} {:>10} {:<12}", figure.what, short(median), figure.unit);
            if figure.samples.len() > 1 {
                line.push_str(&format!(" ({} to {})", short(least), short(most)));
            }
            if let (Some(goal), Some(held)) = (figure.goal, figure.held()) {
                line.push_str(&format!(" goal {}: {}", short(goal), if held { "held" } else { "MISSED" }));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        for (part, fault) in &self.faults {
            writeln!(f, "FAULT in {}: {fault}", part.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn report() -> Report {
        let Verb::Floods(options) = Cli::parse_from(["loadtest", "floods", "--only", "idle,fresh-tls"]).verb else {
            panic!("another verb");
        };
        assert_eq!(options.only, [Part::Idle, Part::FreshTls]);
        Report::new(json!({}), &options)
    }

    #[test]
    fn the_middle_of_the_samples_is_held_to_the_goal() {
        let mut report = report();
        for value in [9.0, 1.0, 6.0] {
            report.add(Part::Idle, "each", value, "KiB", Some(6.0));
        }
        report.add(Part::Fresh, "each", 6.1, "KiB", Some(6.0));
        report.add(Part::Fresh, "all", 7.0, "MiB", None);
        report.finish();
        let json = report.json();
        let figure = |at: usize| &json["figures"][at];
        assert_eq!((&figure(0)["median"], &figure(0)["held"]), (&json!(6.0), &json!(true)));
        assert_eq!((&figure(0)["least"], &figure(0)["most"]), (&json!(1.0), &json!(9.0)));
        assert_eq!((&figure(1)["part"], &figure(1)["held"]), (&json!("fresh"), &json!(false)));
        assert_eq!(figure(2)["held"], Value::Null);
        let text = report.to_string();
        assert!(text.contains("goal 6: held") && text.contains("goal 6: MISSED"), "{text}");
        assert!(report.is_sound(), "a missed goal is no fault");
        report.fault(Part::Idle, "something".to_owned());
        assert!(!report.is_sound() && report.to_string().contains("FAULT in idle: something"));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([short(12345.6), short(5.0), short(0.123), short(0.0)], ["12346", "5", "0.12", "0"]);
    }
}
