//! OTLP 1: what is pushed to a collector, as protobuf.

pub mod metrics;
pub mod resource;
pub mod traces;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};

use super::names::SCOPE;

/// Who it is that exports.
#[must_use]
pub fn scope() -> InstrumentationScope {
    InstrumentationScope { name: SCOPE.into(), version: env!("CARGO_PKG_VERSION").into(), ..Default::default() }
}

/// One attribute.
#[must_use]
pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

/// One that is text.
#[must_use]
pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// One that is several texts.
#[must_use]
pub fn texts<'a>(key: &str, values: impl Iterator<Item = &'a str>) -> KeyValue {
    let value = |value: &str| AnyValue { value: Some(Value::StringValue(value.into())) };
    attribute(key, Value::ArrayValue(ArrayValue { values: values.map(value).collect() }))
}
