//! What an issuer says of itself (RFC 8414; OpenID Connect Discovery 1.0): where that stands, and what is read of it.
//! A document is believed only where the issuer that it names is the one that was asked for, byte for byte.

use std::sync::Arc;

use thiserror::Error;
use url::Url;

use crate::base::limits::FETCH_BYTES_MAX;
use crate::identity::claims::{Json, JsonFault, Object};

/// What is read of an issuer's document. The URLs are as written: whoever fetches one has it judged (`guard::place`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Where its keys are (`jwks_uri`).
    pub keys: Option<String>,
    /// Where it tells of tokens (RFC 7662).
    pub introspection: Option<String>,
    /// Where it gives out tokens.
    pub token: Option<String>,
    /// Where users agree.
    pub authorization: Option<String>,
    /// Where clients introduce themselves (RFC 7591).
    pub registration: Option<String>,
    /// `code_challenge_methods_supported`; `None` where it says nothing: MCP clients refuse such an issuer.
    pub code_challenges: Option<Vec<String>>,
    /// The document as it came.
    pub raw: Arc<[u8]>,
}

/// Why a document is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MetadataFault {
    /// Over `limits::FETCH_BYTES_MAX`.
    #[error("the document is over 256 KiB")]
    TooLong,
    /// No JSON object, or one with a member twice.
    #[error("the document is not one JSON object, or has a member twice")]
    Malformed,
    /// A member that is read has another type than it must have.
    #[error("a member of the document has the wrong JSON type")]
    WrongType,
    /// `issuer` is absent.
    #[error("the document names no issuer")]
    NoIssuer,
    /// It is another issuer's, or the name differs in a letter.
    #[error("the document is of another issuer")]
    OtherIssuer,
}

impl Metadata {
    /// Reads the document of this issuer.
    ///
    /// # Errors
    /// [`MetadataFault`].
    pub fn parse(json: &[u8], issuer: &str) -> Result<Self, MetadataFault> {
        if json.len() > FETCH_BYTES_MAX {
            return Err(MetadataFault::TooLong);
        }
        let document = Object::parse(json).map_err(of_json)?;
        let text = |name: &str| document.text(name).map_err(of_json).map(|text| text.map(str::to_owned));
        match document.text("issuer").map_err(of_json)? {
            None => return Err(MetadataFault::NoIssuer),
            // RFC 8414, 3.3: identical, also where only a final slash differs.
            Some(said) if said != issuer => return Err(MetadataFault::OtherIssuer),
            Some(_) => {}
        }
        let code_challenges = match document.get("code_challenge_methods_supported") {
            None => None,
            Some(Json::Array(methods)) => {
                let methods = methods.iter().map(|one| one.as_text().map(str::to_owned));
                Some(methods.collect::<Result<_, _>>().map_err(of_json)?)
            }
            Some(_) => return Err(MetadataFault::WrongType),
        };
        Ok(Self {
            keys: text("jwks_uri")?,
            introspection: text("introspection_endpoint")?,
            token: text("token_endpoint")?,
            authorization: text("authorization_endpoint")?,
            registration: text("registration_endpoint")?,
            code_challenges,
            raw: Arc::from(json),
        })
    }
}

/// Where the document of an issuer may stand, in the order in which they are tried (MCP 2025-11-25, authorization,
/// "Authorization Server Metadata Discovery"). None where the issuer is no URL that could have one.
#[must_use]
pub fn places(issuer: &str) -> Vec<String> {
    let Some((origin, path)) = split(issuer) else { return Vec::new() };
    let mut places = vec![format!("{origin}{OAUTH}{path}")];
    if path.is_empty() {
        places.push(format!("{origin}{OPENID}"));
    } else {
        places.push(format!("{origin}{OPENID}{path}"));
        places.push(format!("{origin}{path}{OPENID}"));
    }
    places
}

/// Scheme and authority, and the path without its final slash (RFC 8414, 3.1). An issuer has neither query nor fragment
/// (RFC 8414, 2).
fn split(issuer: &str) -> Option<(&str, &str)> {
    let url = Url::parse(issuer).ok()?;
    if url.query().is_some() || url.fragment().is_some() || !url.has_host() {
        return None;
    }
    let begin = issuer.find("://")? + 3;
    let end = issuer.get(begin..)?.find('/').map_or(issuer.len(), |at| begin + at);
    let (origin, path) = issuer.split_at_checked(end)?;
    Some((origin, path.strip_suffix('/').unwrap_or(path)))
}

fn of_json(fault: JsonFault) -> MetadataFault {
    match fault {
        JsonFault::Malformed => MetadataFault::Malformed,
        JsonFault::WrongType => MetadataFault::WrongType,
    }
}

/// RFC 8414, 3.
const OAUTH: &str = "/.well-known/oauth-authorization-server";
/// OpenID Connect Discovery 1.0, 4.
const OPENID: &str = "/.well-known/openid-configuration";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(document: &str, want: Result<(Option<&str>, Option<&str>), MetadataFault>) {
        let got = Metadata::parse(document.as_bytes(), "https://idp.example/t");
        let got = got.as_ref().map(|it| (it.keys.as_deref(), it.introspection.as_deref())).map_err(|fault| *fault);
        assert_eq!(got, want, "{document}");
    }

    #[test]
    fn what_is_needed_is_read_and_the_rest_is_not() {
        let keys = "https://idp.example/t/keys";
        check(
            r#"{"issuer":"https://idp.example/t","jwks_uri":"https://idp.example/t/keys","x":{"y":[null]},"z":1e3}"#,
            Ok((Some(keys), None)),
        );
        check(
            r#"{"introspection_endpoint":"https:\/\/idp.example\/i","issuer":"https:\/\/idp.example\/t"}"#,
            Ok((None, Some("https://idp.example/i"))),
        );
        check(r#"{"issuer":"https://idp.example/t"}"#, Ok((None, None)));
        let text = r#"{"issuer":"i","code_challenge_methods_supported":["plain","S256"],"token_endpoint":"t"}"#;
        let read = Metadata::parse(text.as_bytes(), "i").unwrap();
        assert_eq!(read.code_challenges.as_deref(), Some(&["plain".to_owned(), "S256".to_owned()][..]));
        assert_eq!((read.token.as_deref(), &*read.raw), (Some("t"), text.as_bytes()));
    }

    #[test]
    fn the_issuer_is_the_same_byte_for_byte() {
        for other in [
            "https://idp.example/t/",
            "https://idp.example/T",
            "https://idp.example",
            "https://IDP.example/t",
            "https://idp.example:443/t",
            "http://idp.example/t",
            "https://idp.example/%74",
            "https://idp.example/t?",
            "",
        ] {
            check(&format!(r#"{{"issuer":"{other}","jwks_uri":"https://x"}}"#), Err(MetadataFault::OtherIssuer));
        }
        check(r#"{"jwks_uri":"https://x"}"#, Err(MetadataFault::NoIssuer));
    }

    #[test]
    fn a_document_is_whole_or_refused() {
        for text in ["", "[]", "null", "\"x\"", "{", "<!doctype html>", "{\"issuer\":\"https://idp.example/t\"} x"] {
            check(text, Err(MetadataFault::Malformed));
        }
        let twice = r#"{"issuer":"https://idp.example/t","jwks_uri":"https://a","jwks_\u0075ri":"https://b"}"#;
        check(twice, Err(MetadataFault::Malformed));
        check(r#"{"issuer":"https://evil","issuer":"https://idp.example/t"}"#, Err(MetadataFault::Malformed));
        for wrong in [
            r#""jwks_uri":null"#,
            r#""jwks_uri":["https://a"]"#,
            r#""introspection_endpoint":1"#,
            r#""token_endpoint":{}"#,
            r#""code_challenge_methods_supported":"S256""#,
            r#""code_challenge_methods_supported":[1]"#,
        ] {
            check(&format!(r#"{{"issuer":"https://idp.example/t",{wrong}}}"#), Err(MetadataFault::WrongType));
        }
        check(r#"{"issuer":7}"#, Err(MetadataFault::WrongType));
        check(&" ".repeat(FETCH_BYTES_MAX + 1), Err(MetadataFault::TooLong));
    }

    #[test]
    fn where_the_document_may_stand() {
        let check = |issuer: &str, want: &[&str]| assert_eq!(places(issuer), want, "{issuer}");
        let (oauth, openid) = (".well-known/oauth-authorization-server", ".well-known/openid-configuration");
        let plain = [&*format!("https://as.example/{oauth}"), &*format!("https://as.example/{openid}")];
        check("https://as.example", &plain);
        check("https://as.example/", &plain);
        let port = [&*format!("https://as.example:8443/{oauth}"), &*format!("https://as.example:8443/{openid}")];
        check("https://as.example:8443", &port);
        let path = [
            &*format!("https://as.example/{oauth}/a/t"),
            &*format!("https://as.example/{openid}/a/t"),
            &*format!("https://as.example/a/t/{openid}"),
        ];
        check("https://as.example/a/t", &path);
        check("https://as.example/a/t/", &path);
        for none in ["", "idp", "urn:idp", "https://as.example/?x", "https://as.example/#x", "mailto:x@as.example"] {
            check(none, &[]);
        }
    }
}
