//! What must be true of any bytes that come as an answer of an authorization server. See `base::fuzz` for how these are run.

use std::net::IpAddr;

use serde_json::Value;

use super::grant::{self, Declined};
use super::guard::{self, Target, UrlFault};
use super::introspection::{self, Said};
use super::metadata::{self, Metadata, MetadataFault};
use crate::base::limits::{INTROSPECTION_BYTES_MAX, ISSUED_TOKEN_BYTES_MAX};
use crate::base::net::Network;
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

/// The answer of a token endpoint: what is taken for a token can stand in a field and nowhere ends it, was said to be a
/// bearer token, each member has one value; and whatever else comes is one of a few words.
///
/// # Panics
/// When one of these is not true.
pub fn token_answer(data: &[u8]) {
    const WORD_BYTES_MAX: usize = 32;
    let word = Declined::read(data).as_str();
    assert!(word.len() <= WORD_BYTES_MAX && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    let (own, exchanged) = (grant::token(data, false), grant::token(data, true));
    assert!(own.is_ok() || exchanged.is_err(), "an exchange is read no more loosely");
    let Ok(token) = own else { return };
    let json: Value = serde_json::from_slice(data).expect("an answer is JSON");
    assert!(each_name_once(data, &json), "one value each");
    let value = std::str::from_utf8(token.value.reveal()).expect("a token is ASCII");
    assert_eq!(json["access_token"], value);
    assert!((1..=ISSUED_TOKEN_BYTES_MAX).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(json["token_type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")));
    match token.expires_in_s {
        None => assert!(json.get("expires_in").is_none()),
        Some(seconds) => assert!(json["expires_in"].as_f64().is_some_and(|said| said >= 0.0 && said >= seconds as f64)),
    }
}

/// An issuer's metadata: each member has one value, the issuer is the one that was asked for, what is read is what stands
/// there, and under another issuer's name nothing is believed.
///
/// # Panics
/// When one of these is not true.
pub fn metadata(data: &[u8]) {
    let Ok(found) = Metadata::parse(data, ISSUER) else { return };
    let json: Value = serde_json::from_slice(data).expect("a document is JSON");
    assert!(each_name_once(data, &json), "one value each");
    assert_eq!(json["issuer"], ISSUER);
    assert_eq!(*found.raw, *data);
    let members = [
        ("jwks_uri", &found.keys),
        ("introspection_endpoint", &found.introspection),
        ("token_endpoint", &found.token),
        ("authorization_endpoint", &found.authorization),
        ("registration_endpoint", &found.registration),
    ];
    for (name, read) in members {
        assert_eq!(json.get(name).map(|value| value.as_str().expect("text")), read.as_deref(), "{name}");
    }
    assert_eq!(Metadata::parse(data, "https://other.example"), Err(MetadataFault::OtherIssuer));
}

/// A URL to fetch: where it leads is public or permitted, and encrypted unless it stays on this machine; what comes out
/// leads to the same place when it is read again. An issuer's name leads to no other host than its own.
///
/// # Panics
/// When one of these is not true.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let loopback: Vec<Network> = ["127.0.0.0/8", "::1"].iter().filter_map(|text| Network::parse(text)).collect();
    if let Ok(place) = guard::place(text, &[]) {
        assert!(place.secure, "nothing is permitted");
        match &place.host {
            Target::Address(address) => assert!(guard::is_public(*address)),
            Target::Name(name) => assert!(name.parse::<IpAddr>().is_err() && !name.ends_with("localhost")),
            Target::Local(local) => assert!(local.is_empty(), "this machine is not permitted"),
        }
        assert_eq!(guard::place(&place.url, &[]).as_ref(), Ok(&place));
        assert_eq!(guard::place(text, &loopback).as_ref(), Ok(&place), "a permit takes nothing away");
        for document in metadata::places(text) {
            match guard::place(&document, &[]) {
                Ok(there) => assert_eq!((&there.host, there.port), (&place.host, place.port), "{document}"),
                Err(fault) => assert_eq!(fault, UrlFault::TooLong, "a document is where its issuer is: {document}"),
            }
        }
    } else if let Ok(place) = guard::place(text, &loopback) {
        let local = match &place.host {
            Target::Address(address) => address.to_canonical().is_loopback(),
            Target::Local(addresses) => addresses.iter().all(IpAddr::is_loopback),
            Target::Name(_) => false,
        };
        assert!(local, "only this machine is permitted");
    }
}

/// Whose metadata is asked for.
const ISSUER: &str = "https://idp.example/t";
const TOKEN: &[u8] = b"opaque-7";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    #[test]
    fn introspection_holds() {
        hold("oauth_introspection", introspection);
    }

    #[test]
    fn token_answer_holds() {
        hold("oauth_token_answer", token_answer);
    }

    #[test]
    fn metadata_holds() {
        hold("oauth_metadata", metadata);
    }

    #[test]
    fn urls_hold() {
        hold("oauth_url", url);
    }
}
