//! Families as OTLP metrics: cumulative since the process began, all of one moment.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::common::{SCHEMA_URL, scope, text};
use crate::telemetry::family::{Families, Family, Kind, Series, Value};

/// Since when, and as of when; nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The process began.
    pub start_unix_ns: u64,
    /// The figures were read.
    pub now_unix_ns: u64,
}

/// All families that have a series, in messages of so many series at most; each with how many it has.
pub fn requests<'a>(
    families: &'a Families,
    resource: &'a Resource,
    span: Span,
    series_max: usize,
) -> impl Iterator<Item = (u64, ExportMetricsServiceRequest)> + 'a {
    let mut metrics = families.iter().flat_map(move |family| {
        family.series.chunks(series_max.max(1)).map(move |series| (series.len(), metric(family, series, span)))
    });
    let mut left = metrics.next();
    std::iter::from_fn(move || {
        let mut metrics_now = Vec::new();
        let whole = series_max.max(1);
        let mut room = whole;
        while let Some((series, metric)) = left.take_if(|(series, _)| *series <= room) {
            room -= series;
            metrics_now.push(metric);
            left = metrics.next();
        }
        (!metrics_now.is_empty()).then(|| ((whole - room) as u64, request(resource, metrics_now)))
    })
}

fn request(resource: &Resource, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url: SCHEMA_URL.to_owned() }];
    let resource_metrics =
        ResourceMetrics { resource: Some(resource.clone()), scope_metrics, schema_url: SCHEMA_URL.to_owned() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

fn metric(family: &Family, series: &[Series], span: Span) -> Metric {
    let numbers = || series.iter().filter_map(|series| number(series, span)).collect();
    let sum = |is_monotonic| {
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        Data::Sum(Sum { data_points: numbers(), aggregation_temporality, is_monotonic })
    };
    let data = match family.kind {
        Kind::Counter => sum(true),
        Kind::UpDown => sum(false),
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: series.iter().filter_map(|series| histogram(series, span)).collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        }),
    };
    Metric {
        name: family.name.to_string(),
        description: family.help.to_string(),
        unit: family.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn number(series: &Series, span: Span) -> Option<NumberDataPoint> {
    let value = match series.value {
        Value::Int(value) => number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX)),
        Value::Float(value) => number_data_point::Value::AsDouble(value),
        Value::Observed(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: series.labels.iter().map(|(key, value)| text(key, value)).collect(),
        start_time_unix_nano: span.start_unix_ns,
        time_unix_nano: span.now_unix_ns,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(series: &Series, span: Span) -> Option<HistogramDataPoint> {
    let Value::Observed(observed) = &series.value else { return None };
    Some(HistogramDataPoint {
        attributes: series.labels.iter().map(|(key, value)| text(key, value)).collect(),
        start_time_unix_nano: span.start_unix_ns,
        time_unix_nano: span.now_unix_ns,
        count: observed.count(),
        sum: Some(observed.sum),
        bucket_counts: observed.buckets.clone(),
        explicit_bounds: observed.bounds.to_vec(),
        ..HistogramDataPoint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::family::{Observed, bounds};
    use crate::telemetry::prometheus;

    const SPAN: Span = Span { start_unix_ns: 1, now_unix_ns: 2 };

    fn families() -> Families {
        let mut families = Families::default();
        families.family("a.calls", "{call}", Kind::Counter, "Calls.");
        families.series(&[("b.c", "x")], 3_u64);
        families.series(&[("b.c", "y")], 4_u64);
        families.family("nothing", "", Kind::Gauge, "Nothing yet.");
        families.one("a.open", "{stream}", Kind::UpDown, "Open.", 5_u64);
        families.one("a.age", "s", Kind::Gauge, "Age.", 1.5);
        families.family("a.duration", "s", Kind::Histogram, "Time.");
        let observed = Observed { bounds: bounds(&[5_000, 10_000_000]), buckets: vec![1, 0, 2], sum: 0.25 };
        families.series(&[("b.c", "x")], observed);
        families
    }

    /// Every number of the messages, as lines of the other format.
    fn lines(requests: impl Iterator<Item = (u64, ExportMetricsServiceRequest)>) -> Vec<String> {
        let metrics = requests.flat_map(|(_, request)| request.resource_metrics);
        let metrics = metrics.flat_map(|it| it.scope_metrics).flat_map(|it| it.metrics);
        let mut out = Vec::new();
        for metric in metrics {
            let unit = if metric.unit == "s" { "_seconds" } else { "" };
            let mut name = metric.name.replace('.', "_") + unit;
            let labels = |attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], more: Option<String>| {
                let mut all: Vec<String> = attributes
                    .iter()
                    .map(|it| match it.value.as_ref().and_then(|value| value.value.as_ref()) {
                        Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(value)) => {
                            format!("{}={value:?}", it.key.replace('.', "_"))
                        }
                        _ => panic!("a label is text"),
                    })
                    .collect();
                all.extend(more.map(|bound| format!("le={bound:?}")));
                if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
            };
            let points = match metric.data.expect("every metric has data") {
                Data::Gauge(gauge) => gauge.data_points,
                Data::Sum(sum) => {
                    assert_eq!(sum.aggregation_temporality, 2);
                    if sum.is_monotonic {
                        name += "_total";
                    }
                    sum.data_points
                }
                Data::Histogram(histogram) => {
                    for point in histogram.data_points {
                        let mut below = 0;
                        for (place, count) in point.bucket_counts.iter().enumerate() {
                            below += count;
                            let bound = point.explicit_bounds.get(place).map_or("+Inf".to_owned(), f64::to_string);
                            out.push(format!("{name}_bucket{} {below}", labels(&point.attributes, Some(bound))));
                        }
                        let own = labels(&point.attributes, None);
                        out.push(format!("{name}_sum{own} {}", point.sum.expect("a sum")));
                        out.push(format!("{name}_count{own} {}", point.count));
                    }
                    continue;
                }
                other => panic!("{other:?}"),
            };
            for point in points {
                assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
                let value = match point.value.expect("a value") {
                    number_data_point::Value::AsInt(value) => value.to_string(),
                    number_data_point::Value::AsDouble(value) => value.to_string(),
                };
                out.push(format!("{name}{} {value}", labels(&point.attributes, None)));
            }
        }
        out
    }

    /// Both writers show the same numbers, under names that follow from one another.
    #[test]
    fn both_formats_say_the_same() {
        let families = families();
        let page = prometheus::page(&families);
        let want: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        for series_max in [1, 2, 3, 100] {
            let resource = Resource::default();
            assert_eq!(lines(requests(&families, &resource, SPAN, series_max)), want, "{series_max}");
        }
    }

    #[test]
    fn messages_are_bounded() {
        let (families, resource) = (families(), Resource::default());
        let sizes = |max| -> Vec<(u64, usize)> {
            let of = |(series, request): (u64, ExportMetricsServiceRequest)| {
                (series, request.resource_metrics[0].scope_metrics[0].metrics.len())
            };
            requests(&families, &resource, SPAN, max).map(of).collect()
        };
        assert_eq!(sizes(100), [(5, 4)], "and what has no series is left out");
        assert_eq!(sizes(3), [(3, 2), (2, 2)]);
        assert_eq!(sizes(1), [(1, 1); 5]);
    }
}
