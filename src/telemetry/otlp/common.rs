//! What all OTLP messages have in common: who sends them.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// The conventions that names and attributes follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.41.0";

/// Who sends: this process, with these attributes of the operator's beside its own. An operator's wins.
#[must_use]
pub fn resource(instance: &str, policy: &str, own: &[(String, String)]) -> Resource {
    let ours = [
        ("service.name", "portcullis"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
        ("portcullis.policy.set", policy),
    ];
    let ours = ours.into_iter().filter(|(key, _)| own.iter().all(|(other, _)| other != key));
    let own = own.iter().map(|(key, value)| text(key, value));
    Resource { attributes: ours.map(|(key, value)| text(key, value)).chain(own).collect(), ..Resource::default() }
}

/// What the metrics and spans are of.
#[must_use]
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "portcullis".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// An attribute that is text.
#[must_use]
pub fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_attribute_is_there_once() {
        let own = [("service.name".to_owned(), "edge".to_owned()), ("a".to_owned(), "b".to_owned())];
        let mut keys: Vec<String> = resource("i", "p", &own).attributes.into_iter().map(|it| it.key).collect();
        keys.sort();
        assert_eq!(keys, ["a", "portcullis.policy.set", "service.instance.id", "service.name", "service.version"]);
    }
}
