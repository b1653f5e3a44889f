//! Figures, and the goals that some of them have, as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::environment;

/// All figures of one verb.
pub(crate) struct Figures {
    environment: Value,
    settings: Value,
    rows: Vec<Row>,
}

struct Row {
    /// The part of the verb that it is of; empty where there is but one.
    part: String,
    what: String,
    unit: &'static str,
    /// The most it should be.
    goal: Option<f64>,
    /// By repetition.
    samples: Vec<f64>,
}

impl Figures {
    /// None yet.
    pub(crate) fn new(environment: Value, settings: Value) -> Self {
        Self { environment, settings, rows: Vec::new() }
    }

    /// One more sample.
    pub(crate) fn add(&mut self, what: &str, value: f64, unit: &'static str, goal: Option<f64>) {
        self.add_to("", what, value, unit, goal);
    }

    /// One more sample of a part.
    pub(crate) fn add_to(&mut self, part: &str, what: &str, value: f64, unit: &'static str, goal: Option<f64>) {
        match self.rows.iter_mut().find(|row| row.part == part && row.what == what) {
            Some(row) => row.samples.push(value),
            None => {
                self.rows.push(Row { part: part.to_owned(), what: what.to_owned(), unit, goal, samples: vec![value] })
            }
        }
    }

    /// No more will come.
    pub(crate) fn finish(&mut self) {
        self.environment["load_average_after"] = environment::load_average().into();
    }

    pub(crate) fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        json!({ "environment": self.environment, "settings": self.settings, "figures": rows })
    }
}

impl Row {
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
        let mut row = json!({
            "what": self.what, "unit": self.unit, "median": median, "least": least, "most": most,
            "samples": self.samples, "goal": self.goal, "held": self.held(),
        });
        if !self.part.is_empty() {
            row["part"] = self.part.as_str().into();
        }
        row
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &str| match &self.environment[key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        writeln!(f, "{}, {}, Linux {}", text("date"), text("portcullis"), text("kernel"))?;
        writeln!(f, "commit {}; {}, {} cores", text("commit"), text("cpu"), text("cores"))?;
        writeln!(f, "load average {} to {}\n", text("load_average_before"), text("load_average_after"))?;
        let mut part = "";
        for row in &self.rows {
            if std::mem::replace(&mut part, &row.part) != row.part {
                writeln!(f, "{}", row.part)?;
            }
            let (median, least, most) = row.spread();
            let mut line = format!("  {:<52} {:>10} {:<8}", row.what, short(median), row.unit);
            if row.samples.len() > 1 {
                line.push_str(&format!(" ({} to {})", short(least), short(most)));
            }
            if let (Some(goal), Some(held)) = (row.goal, row.held()) {
                line.push_str(&format!(" goal {}: {}", short(goal), if held { "held" } else { "MISSED" }));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Three digits that matter, no more.
fn short(value: f64) -> String {
    let digits = if value.abs() >= 100.0 || value.fract() == 0.0 { 0 } else { 2 };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_samples_is_held_to_the_goal() {
        let mut figures = Figures::new(json!({}), json!({}));
        for value in [9.0, 1.0, 6.0] {
            figures.add("each", value, "KiB", Some(6.0));
        }
        figures.add("other", 6.1, "KiB", Some(6.0));
        figures.add("all", 7_000.4, "MiB", None);
        figures.finish();
        let json = figures.json();
        assert_eq!((&json["figures"][0]["median"], &json["figures"][0]["held"]), (&json!(6.0), &json!(true)));
        assert_eq!((&json["figures"][0]["least"], &json["figures"][0]["most"]), (&json!(1.0), &json!(9.0)));
        assert_eq!((&json["figures"][1]["held"], &json["figures"][2]["held"]), (&json!(false), &Value::Null));
        let text = figures.to_string();
        assert!(text.contains("goal 6: held") && text.contains("goal 6: MISSED"), "{text}");
        assert!(text.contains("7000 MiB") && text.contains("(1 to 9)"), "{text}");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([short(12345.6), short(5.0), short(0.123), short(0.0)], ["12346", "5", "0.12", "0"]);
    }
}
