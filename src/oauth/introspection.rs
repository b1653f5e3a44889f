//! Introspection (RFC 7662): what an issuer is asked about a token that only it can judge, and what it says.
//!
//! Strict, because what is read here lets somebody in: one JSON object, no member twice, `active` is `true` or `false` and
//! nothing that merely looks like it, and what else the standard gives a type has that type. Whether an active token is
//! for us, `identity::token::introspected` says.

use std::sync::Arc;

use serde_json::{Map, Value};
use thiserror::Error;

use super::form::Form;
use crate::base::limits::INTROSPECTION_BYTES_MAX;
use crate::identity::claims::{Json, JsonFault, Object};

/// What an issuer says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is active.
    Active {
        /// All that was said, as one JSON object in UTF-8, each member once; the token itself is not in it.
        claims: Arc<[u8]>,
        /// When the token ends, seconds since 1970, where the issuer says.
        expires: Option<u64>,
    },
    /// It is not, or not one of the issuer's, or not for us to know about: RFC 7662 (2.2) tells no more.
    Inactive,
}

/// Why an answer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerFault {
    /// Over `limits::INTROSPECTION_BYTES_MAX`.
    #[error("the answer is too long")]
    TooLong,
    /// Not `application/json` (a signed answer, RFC 9701, is not asked for).
    #[error("the answer is no JSON")]
    MediaType,
    /// Not one JSON object, a member twice, or `active` is absent or no boolean, or another member has the wrong type.
    #[error("the answer is not what RFC 7662 says: {0}")]
    Json(JsonFault),
}

/// The question (RFC 7662, 2.1), without what proves who asks.
#[must_use]
pub fn question(token: &[u8]) -> Form {
    let mut form = Form::new();
    form.add("token", token);
    form.add("token_type_hint", b"access_token");
    form
}

/// Reads the answer to a question about `token`.
///
/// # Errors
/// [`AnswerFault`]: nothing was said of the token.
pub fn read(body: &[u8], content_type: &str, token: &[u8]) -> Result<Said, AnswerFault> {
    if body.len() > INTROSPECTION_BYTES_MAX {
        return Err(AnswerFault::TooLong);
    }
    let media = content_type.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(AnswerFault::MediaType);
    }
    let answer = Object::parse(body).map_err(AnswerFault::Json)?;
    match answer.get("active") {
        Some(Json::Bool(true)) => {}
        Some(Json::Bool(false)) => return Ok(Said::Inactive),
        _ => return Err(AnswerFault::Json(JsonFault::WrongType)),
    }
    for name in ["scope", "client_id", "username", "token_type", "sub", "iss", "jti"] {
        answer.text(name).map_err(AnswerFault::Json)?;
    }
    let date = |name| answer.date(name).map_err(AnswerFault::Json);
    date("nbf")?;
    date("iat")?;
    let expires = date("exp")?.map(|expires| expires.floor);
    Ok(Said::Active { claims: without(body, token)?, expires })
}

/// Whether two answers about one token let the same caller in: the issuer may say another end, and another time at which
/// it said it, and audiences and scopes, which have no order (RFC 7519, 4.1.3; RFC 6749, 3.3), in another one, and mean
/// the same. Any other member may be what a rule is about.
#[must_use]
pub fn same(one: &[u8], other: &[u8]) -> bool {
    let lasting = |claims: &[u8]| -> Option<Map<String, Value>> {
        let mut claims: Map<String, Value> = serde_json::from_slice(claims).ok()?;
        claims.retain(|name, _| !["exp", "iat", "nbf", "expires_in"].contains(&name.as_str()));
        claims.get_mut("aud").filter(|aud| aud.is_array()).into_iter().for_each(put_in_order);
        for name in ["scope", "scp"] {
            claims.get_mut(name).into_iter().for_each(put_in_order);
        }
        Some(claims)
    };
    one == other || lasting(one).is_some_and(|one| lasting(other) == Some(one))
}

/// Texts of a list, or words of a text with spaces between, in one order.
fn put_in_order(value: &mut Value) {
    match value {
        Value::Array(list) if list.iter().all(Value::is_string) => {
            list.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
        }
        Value::String(text) => {
            let mut words: Vec<&str> = text.split(' ').collect();
            words.sort_unstable();
            *text = words.join(" ");
        }
        _ => {}
    }
}

/// The answer without the token: some issuers repeat it (as its `jti`, for example), and claims are shown in places where
/// a token must not be.
fn without(body: &[u8], token: &[u8]) -> Result<Arc<[u8]>, AnswerFault> {
    let malformed = || AnswerFault::Json(JsonFault::Malformed);
    let text = std::str::from_utf8(token).map_err(|_| malformed())?;
    let mut claims: Map<String, Value> = serde_json::from_slice(body).map_err(|_| malformed())?;
    let before = claims.len();
    claims.retain(|name, value| !name.contains(text) && !holds(value, text));
    if claims.len() == before {
        return Ok(Arc::from(body));
    }
    serde_json::to_vec(&claims).map(Arc::from).map_err(|_| malformed())
}

/// Whether a text stands anywhere in a value.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(one) => one.contains(text),
        Value::Array(list) => list.iter().any(|one| holds(one, text)),
        Value::Object(members) => members.iter().any(|(name, one)| name.contains(text) || holds(one, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/json;charset=UTF-8";

    fn check(body: &str, want: Result<Option<Option<u64>>, AnswerFault>) {
        let said = read(body.as_bytes(), JSON, b"opaque-7").map(|said| match said {
            Said::Active { expires, .. } => Some(expires),
            Said::Inactive => None,
        });
        assert_eq!(said, want, "{body}");
    }

    #[test]
    fn active_is_true_and_nothing_else() {
        check(r#"{"active":true}"#, Ok(Some(None)));
        check(r#" {"active":true,"exp":1800000300.5,"x":[1,null]} "#, Ok(Some(Some(1_800_000_300))));
        check(r#"{"active":false}"#, Ok(None));
        check(r#"{"active":false,"exp":"soon","sub":7}"#, Ok(None));
        let wrong = Err(AnswerFault::Json(JsonFault::WrongType));
        for active in [r#""true""#, "1", "null", "[true]", "{}", r#""""#] {
            check(&format!(r#"{{"active":{active}}}"#), wrong);
        }
        check("{}", wrong);
        check(r#"{"Active":true}"#, wrong);
        let malformed = Err(AnswerFault::Json(JsonFault::Malformed));
        for body in ["", "true", "[]", r#"{"active":true,"active":false}"#, r#"{"active":true,"a\u0063tive":true}"#] {
            check(body, malformed);
        }
        for body in [r#"{"active":true} x"#, r#"{"active":true,"x":{"a":1,"a":1}}"#, r#"{"active":true"#, "<html>"] {
            check(body, malformed);
        }
    }

    #[test]
    fn what_has_a_type_has_that_type() {
        for member in [r#""exp":"1""#, r#""exp":null"#, r#""exp":-1"#, r#""nbf":[]"#, r#""iat":true"#, r#""iat":1e300"#]
        {
            check(&format!(r#"{{"active":true,{member}}}"#), Err(AnswerFault::Json(JsonFault::WrongType)));
        }
        for name in ["scope", "client_id", "username", "token_type", "sub", "iss", "jti"] {
            for value in ["7", "null", "[]", "{}"] {
                let body = format!(r#"{{"active":true,"{name}":{value}}}"#);
                check(&body, Err(AnswerFault::Json(JsonFault::WrongType)));
            }
        }
    }

    #[test]
    fn an_answer_is_json_and_not_long() {
        let read = |body: &str, media| read(body.as_bytes(), media, b"t");
        for media in ["", "text/html", "application/token-introspection+jwt"] {
            assert_eq!(read(r#"{"active":true}"#, media), Err(AnswerFault::MediaType), "{media}");
        }
        assert!(read(r#"{"active":true}"#, "Application/JSON").is_ok());
        let long = format!(r#"{{"active":true,"x":"{}"}}"#, "x".repeat(INTROSPECTION_BYTES_MAX));
        assert_eq!(read(&long, JSON), Err(AnswerFault::TooLong));
    }

    #[test]
    fn the_token_is_not_repeated() {
        let claims = |body: &str| match read(body.as_bytes(), JSON, b"opaque-7") {
            Ok(Said::Active { claims, .. }) => String::from_utf8(claims.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        let plain = r#"{"active":true, "sub":"alice"}"#;
        assert_eq!(claims(plain), plain, "as it came");
        for repeating in [
            r#"{"active":true,"sub":"alice","jti":"opaque-7"}"#,
            r#"{"active":true,"sub":"alice","x":{"y":["Bearer opaque-7"]}}"#,
            r#"{"active":true,"sub":"alice","x":"op\u0061que-7"}"#,
            r#"{"active":true,"sub":"alice","x":{"opaque-7":1}}"#,
            r#"{"active":true,"sub":"alice","opaque-7":1}"#,
        ] {
            assert_eq!(claims(repeating), r#"{"active":true,"sub":"alice"}"#, "{repeating}");
        }
    }

    #[test]
    fn a_question_is_a_form() {
        let asked = |token| question(token).finish();
        assert_eq!(asked(b"aZ0-._").reveal(), b"token=aZ0-._&token_type_hint=access_token");
        assert_eq!(asked(b"a+b/c=~&%").reveal(), b"token=a%2Bb%2Fc%3D%7E%26%25&token_type_hint=access_token");
    }

    #[test]
    fn the_same_caller_may_be_said_at_another_time() {
        let one = br#"{"active":true,"sub":"a","exp":1,"iat":1,"expires_in":7}"#;
        assert!(same(one, br#"{"sub":"a","active":true,"exp":2}"#));
        let scopes = br#"{"scope":"a b","aud":["x","y"],"groups":["p","q"]}"#;
        assert!(same(scopes, br#"{"scope":"b a","aud":["y","x"],"groups":["p","q"]}"#));
        for other in [
            &br#"{"scope":"a","aud":["x","y"],"groups":["p","q"]}"#[..],
            br#"{"scope":"a b","aud":["x"],"groups":["p","q"]}"#,
            br#"{"scope":"a b","aud":["x","y"],"groups":["q","p"]}"#,
        ] {
            assert!(!same(scopes, other));
        }
        for other in [&br#"{"active":true,"sub":"b"}"#[..], br#"{"active":true,"sub":"a","scope":"x"}"#, b"", b"7"] {
            assert!(!same(one, other));
        }
    }
}
