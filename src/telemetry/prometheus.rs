//! Families in the text format that Prometheus reads (version 0.0.4). Names follow from OpenTelemetry's as its own
//! specification says ("Prometheus and OpenMetrics Compatibility"): dots become underscores, the unit and what counts
//! up are said at the end.

use std::fmt::{Display, Write as _};

use super::family::{Families, Family, Kind, Observed, Value};

/// Its media type.
pub const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything, one family after the other.
#[must_use]
pub fn page(families: &Families) -> String {
    let mut text = Text(String::with_capacity(64 * 1024));
    families.iter().for_each(|family| text.family(family));
    text.0
}

/// What Prometheus calls it.
#[must_use]
pub fn name(family: &Family) -> String {
    let mut name = key(&family.name);
    match family.unit {
        "s" => name.push_str("_seconds"),
        "By" => name.push_str("_bytes"),
        _ => {}
    }
    if family.kind == Kind::Counter {
        name.push_str("_total");
    }
    name
}

/// What Prometheus calls a label with this key.
fn key(key: &str) -> String {
    key.replace('.', "_")
}

/// The page under construction. Writing to a String cannot fail.
struct Text(String);

impl Text {
    fn family(&mut self, family: &Family) {
        let name = name(family);
        let word = match family.kind {
            Kind::Counter => "counter",
            Kind::UpDown | Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {word}\n");
        for series in &family.series {
            let labels: Vec<(String, &str)> =
                series.labels.iter().map(|(label, value)| (key(label), &**value)).collect();
            match &series.value {
                Value::Int(value) => self.sample(&name, &labels, value),
                Value::Float(value) => self.sample(&name, &labels, value),
                Value::Observed(observed) => self.histogram(&name, labels, observed),
            }
        }
    }

    fn histogram(&mut self, name: &str, labels: Vec<(String, &str)>, observed: &Observed) {
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        let bounds = observed.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&observed.buckets) {
            below += count;
            let mut labels = labels.clone();
            labels.push(("le".to_owned(), &bound));
            self.sample(&bucket, &labels, below);
        }
        self.sample(&format!("{name}_sum"), &labels, observed.sum);
        self.sample(&format!("{name}_count"), &labels, below);
    }

    fn sample(&mut self, name: &str, labels: &[(String, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push_str(if index == 0 { "{" } else { "," });
            let _ = write!(self.0, "{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::family;
    use super::*;

    #[test]
    fn names_say_unit_and_kind() {
        let check = |name, unit, kind, want: &str| {
            let mut families = Families::default();
            families.family(name, unit, kind, "x.");
            assert!(families.iter().all(|family| super::name(family) == want), "{want}");
        };
        check("mcp.server.operation.duration", "s", Kind::Histogram, "mcp_server_operation_duration_seconds");
        check("portcullis.decisions", "{decision}", Kind::Counter, "portcullis_decisions_total");
        check("portcullis.calls.in_flight", "{call}", Kind::UpDown, "portcullis_calls_in_flight");
        check("portcullis.buffer", "By", Kind::UpDown, "portcullis_buffer_bytes");
    }

    #[test]
    fn labels_are_escaped() {
        let mut families = Families::default();
        families.family("a", "", Kind::Gauge, "one\\two\nthree");
        families.series(&[("b.c", "say \"hi\"\\\n"), ("d", "")], 1.5);
        let want = "# HELP a one\\\\two\\nthree\n# TYPE a gauge\na{b_c=\"say \\\"hi\\\"\\\\\\n\"} 1.5\n";
        assert_eq!(page(&families), want, "and one without a value is left out");
    }

    #[test]
    fn histograms_are_cumulative() {
        let mut families = Families::default();
        families.family("h", "s", Kind::Histogram, "h.");
        let bounds = family::bounds(&[5_000, 10_000_000]);
        families.series(&[("m", "x")], Observed { bounds, buckets: vec![1, 0, 2], sum: 1.5 });
        assert_eq!(
            page(&families),
            "# HELP h_seconds h.\n# TYPE h_seconds histogram\n\
             h_seconds_bucket{m=\"x\",le=\"0.000005\"} 1\nh_seconds_bucket{m=\"x\",le=\"0.01\"} 1\n\
             h_seconds_bucket{m=\"x\",le=\"+Inf\"} 3\nh_seconds_sum{m=\"x\"} 1.5\nh_seconds_count{m=\"x\"} 3\n"
        );
    }
}
