//! Figures, and the goals that some of them have, as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::cli::Floods;
use crate::rig::figures::Figures;

use super::Part;

/// All figures, and what must not be.
pub(super) struct Report {
    figures: Figures,
    faults: Vec<(Part, String)>,
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
        Self { figures: Figures::new(environment, settings), faults: Vec::new() }
    }

    /// One more sample.
    pub(super) fn add(&mut self, part: Part, what: &str, value: f64, unit: &'static str, goal: Option<f64>) {
        self.figures.add_to(&part.name(), what, value, unit, goal);
    }

    /// Something that must not be.
    pub(super) fn fault(&mut self, part: Part, fault: String) {
        eprintln!("{}: {fault}", part.name());
        self.faults.push((part, fault));
    }

    pub(super) fn finish(&mut self) {
        self.figures.finish();
    }

    /// No fault. A goal that is missed is a figure, not a fault.
    pub(super) fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn json(&self) -> Value {
        let fault = |(part, fault): &(Part, String)| json!({ "part": part.name(), "fault": fault });
        let mut json = self.figures.json();
        json["faults"] = self.faults.iter().map(fault).collect();
        json
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.figures.fmt(f)?;
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
}
