//! Metrics as a model that no format owns: what Prometheus is shown and what OTLP carries are two ways to write the same
//! families. A name is OpenTelemetry's, with dots; the unit is apart from it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::record::meter::Counted;

/// All metrics, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Families(Vec<Family>);

/// One metric: its series have the same meaning, and differ in their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// In lower case, with dots (`mcp.server.operation.duration`). Without the unit, and without what says its kind.
    pub name: Cow<'static, str>,
    /// In UCUM: `s`, `By`, or what is counted in braces; empty for a number of nothing.
    pub unit: &'static str,
    /// What it means, in one sentence.
    pub help: Cow<'static, str>,
    /// What its numbers are.
    pub kind: Kind,
    /// May be none yet.
    pub series: Vec<Series>,
}

/// What the numbers of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows, from the start of the process.
    Counter,
    /// As many as there are; those of several shards add up.
    UpDown,
    /// As it is.
    Gauge,
    /// Observations by bucket.
    Histogram,
}

/// One series of a family, and its number now.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Keys as OpenTelemetry has them, with dots; each once. No value is empty.
    pub labels: Vec<(&'static str, String)>,
    /// Its number.
    pub value: Value,
}

/// The number of a series.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole one.
    Int(u64),
    /// Any other, finite.
    Float(f64),
    /// Those of a histogram.
    Observed(Observed),
}

/// Observations.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The upper bounds of all buckets but the last, ascending; each is of its bucket.
    pub bounds: Arc<[f64]>,
    /// By bucket, not cumulative: one more than there are bounds.
    pub buckets: Vec<u64>,
    /// Of all observations.
    pub sum: f64,
}

impl Observed {
    /// As counted in nanoseconds, in seconds.
    #[must_use]
    pub fn of(bounds: &Arc<[f64]>, counted: &Counted) -> Self {
        Self { bounds: bounds.clone(), buckets: counted.buckets.clone(), sum: seconds(counted.sum_ns) }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl Families {
    /// Begins a family: the series that follow are its.
    pub fn family(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        unit: &'static str,
        kind: Kind,
        help: impl Into<Cow<'static, str>>,
    ) {
        self.0.push(Family { name: name.into(), unit, help: help.into(), kind, series: Vec::new() });
    }

    /// One more series of the family begun last. A label without a value is left out.
    pub fn series(&mut self, labels: &[(&'static str, &str)], value: impl Into<Value>) {
        let labels = labels.iter().filter(|(_, value)| !value.is_empty());
        let labels = labels.map(|(key, value)| (*key, (*value).to_owned())).collect();
        if let Some(family) = self.0.last_mut() {
            family.series.push(Series { labels, value: value.into() });
        }
    }

    /// A family of one.
    pub fn one(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        unit: &'static str,
        kind: Kind,
        help: impl Into<Cow<'static, str>>,
        value: impl Into<Value>,
    ) {
        self.family(name, unit, kind, help);
        self.series(&[], value);
    }

    /// In the order in which they began.
    pub fn iter(&self) -> impl Iterator<Item = &Family> {
        self.0.iter()
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Int(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Int(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Int(u64::from(value))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<Observed> for Value {
    fn from(value: Observed) -> Self {
        Self::Observed(value)
    }
}

/// Nanoseconds as seconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a sum of more than a hundred days loses some nanoseconds")]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Bounds in nanoseconds as bounds in seconds.
#[must_use]
pub fn bounds(ns: &[u64]) -> Arc<[f64]> {
    ns.iter().map(|ns| seconds(*ns)).collect()
}
