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
        match self.rows.iter_mut().find(|row| row.what == what) {
            Some(row) => row.samples.push(value),
            None => self.rows.push(Row { what: what.to_owned(), unit, goal, samples: vec![value] }),
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
        json!({
            "what": self.what, "unit": self.unit, "median": median, "least": least, "most": most,
            "samples": self.samples, "goal": self.goal, "held": self.held(),
        })
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
        for row in &self.rows {
            let (median, least, most) = row.spread();
            let digits = |value: f64| if value.abs() >= 1_000.0 { 0 } else { 2 };
            let short = |value: f64| format!("{value:.0$}", digits(value));
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
        assert!(text.contains("goal 6.00: held") && text.contains("goal 6.00: MISSED"), "{text}");
        assert!(text.contains("7000 MiB") && text.contains("(1.00 to 9.00)"), "{text}");
    }
}
