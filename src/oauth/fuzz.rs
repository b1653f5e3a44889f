//! What must be true of any bytes that come as an answer of an authorization server. See `base::fuzz` for how these are run.

use serde_json::Value;

use super::introspection::{self, Said};
use crate::base::limits::INTROSPECTION_BYTES_MAX;
use crate::identity::claims::Object;
use crate::jsonrpc::fuzz::each_name_once;

/// The answer to an introspection: a token is active only where that is said in so many words, each member has one value,
/// and the token is not shown.
///
/// # Panics
/// When one of these is not true.
pub fn introspection(data: &[u8]) {
    let Ok(said) = introspection::read(data, "application/json", TOKEN) else {
        return;
    };
    assert!(data.len() <= INTROSPECTION_BYTES_MAX);
    let json: Value = serde_json::from_slice(data).expect("an answer is JSON");
    assert!(each_name_once(data, &json), "one value each");
    match said {
        Said::Inactive => assert_eq!(json["active"], Value::Bool(false)),
        Said::Active { claims, expires } => {
            assert_eq!(json["active"], Value::Bool(true));
            assert_eq!(expires.is_some(), json.get("exp").is_some());
            assert!(Object::parse(&claims).is_ok());
            let claims: Value = serde_json::from_slice(&claims).expect("claims are JSON");
            assert!(!claims.to_string().contains("opaque-7"), "it repeats the token");
            assert!(claims.as_object().expect("an object").iter().all(|(name, value)| json[name] == *value));
        }
    }
}

const TOKEN: &[u8] = b"opaque-7";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    #[test]
    fn introspection_holds() {
        hold("oauth_introspection", introspection);
    }
}
