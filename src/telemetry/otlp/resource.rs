//! Who it is that exports.

use opentelemetry_proto::tonic::resource::v1::Resource;

use super::super::names::{POLICY_SET, SCOPE};
use super::text;

/// This process, with these attributes of the operator's beside its own. An operator's wins.
#[must_use]
pub fn resource(instance: &str, policy: &str, own: &[(String, String)]) -> Resource {
    let ours = [
        ("service.name", SCOPE),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
        (POLICY_SET, policy),
    ];
    let ours = ours.into_iter().filter(|(key, _)| own.iter().all(|(other, _)| other != key));
    let own = own.iter().map(|(key, value)| text(key, value));
    Resource { attributes: ours.map(|(key, value)| text(key, value)).chain(own).collect(), ..Resource::default() }
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
