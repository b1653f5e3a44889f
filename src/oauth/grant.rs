//! Requests for tokens, and what comes back: client credentials (RFC 6749, 4.4) and token exchange (RFC 8693), with
//! resource indicators (RFC 8707). Read strictly: what is not clearly a bearer token is none.

use super::assertion::AssertionFault;
use super::client::{ClientAuth, Occasion};
use super::form::Form;
use crate::base::limits::ISSUED_TOKEN_BYTES_MAX;
use crate::base::secret::Secret;
use crate::identity::claims::{Json, Object};

/// What is asked of a token endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// As whom.
    pub client: &'a ClientAuth,
    /// The caller's token, for one in exchange; `None` for one of the client itself.
    pub subject: Option<&'a Secret>,
    /// `scope`, as it is sent; `None` to leave it to the issuer.
    pub scope: Option<&'a str>,
    /// `audience` (RFC 8693, 2.1), each.
    pub audience: &'a [String],
    /// `resource` (RFC 8707, 2), each.
    pub resource: &'a [String],
}

/// What is sent.
#[derive(Debug)]
pub struct Request {
    /// The value of `authorization`, where the client proves itself by that.
    pub authorization: Option<Secret>,
    /// The body: a form ([`super::form::MEDIA_TYPE`]).
    pub body: Secret,
}

impl Wish<'_> {
    /// The request.
    ///
    /// # Errors
    /// The client's key cannot sign.
    pub fn request(&self, occasion: &Occasion<'_>) -> Result<Request, AssertionFault> {
        let mut form = Form::new();
        match self.subject {
            None => form.add("grant_type", b"client_credentials"),
            Some(token) => {
                form.add("grant_type", b"urn:ietf:params:oauth:grant-type:token-exchange");
                form.add("subject_token", token.reveal());
                form.add("subject_token_type", ACCESS_TOKEN.as_bytes());
                form.add("requested_token_type", ACCESS_TOKEN.as_bytes());
            }
        }
        self.scope.iter().for_each(|scope| form.add("scope", scope.as_bytes()));
        self.audience.iter().for_each(|audience| form.add("audience", audience.as_bytes()));
        self.resource.iter().for_each(|resource| form.add("resource", resource.as_bytes()));
        let authorization = self.client.prove(&mut form, occasion)?;
        Ok(Request { authorization, body: form.finish() })
    }
}

/// A token that was issued.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    /// Visible ASCII, at most `limits::ISSUED_TOKEN_BYTES_MAX`.
    pub value: Secret,
    /// How long it holds from when it was asked for, seconds; `None` where its issuer does not say.
    pub expires_in_s: Option<u64>,
}

/// Why an answer is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// Not one JSON object, or a member twice.
    #[error("the answer is not one JSON object, or has a member twice")]
    Malformed,
    /// `access_token` is missing, no text, empty, too long, or has other than visible ASCII.
    #[error("the answer's access_token is missing, or no token")]
    Token,
    /// `token_type` is not `Bearer` (RFC 6749, 5.1): one that is bound to a key is of no use here.
    #[error("the answer's token_type is not Bearer")]
    TokenType,
    /// `issued_token_type` is something else than an access token (RFC 8693, 2.2.1).
    #[error("the answer's issued_token_type is not an access token")]
    IssuedType,
    /// `expires_in` is no number, negative, or senseless.
    #[error("the answer's expires_in is no number of seconds")]
    Expiry,
    /// `scope`, `refresh_token` or `id_token` are no text.
    #[error("the answer has a member of the wrong JSON type")]
    WrongType,
}

/// Reads the answer of status 200 (RFC 6749, 5.1; RFC 8693, 2.2.1). Members that are not known are not looked at.
///
/// # Errors
/// `AnswerFault`; nothing of the answer is in it.
pub fn token(body: &[u8], exchanged: bool) -> Result<Token, AnswerFault> {
    let answer = Object::parse(body).map_err(|_| AnswerFault::Malformed)?;
    let text = |name: &str, fault: AnswerFault| answer.text(name).map_err(|_| fault);
    let value = text("access_token", AnswerFault::Token)?.ok_or(AnswerFault::Token)?;
    let is_token = (1..=ISSUED_TOKEN_BYTES_MAX).contains(&value.len()) && value.bytes().all(|it| it.is_ascii_graphic());
    if !is_token {
        return Err(AnswerFault::Token);
    }
    let kind = text("token_type", AnswerFault::TokenType)?.ok_or(AnswerFault::TokenType)?;
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err(AnswerFault::TokenType);
    }
    // It must be there (RFC 8693); where it is not, what came as a bearer token is one all the same.
    let issued = text("issued_token_type", AnswerFault::IssuedType)?;
    if exchanged && issued.is_some_and(|issued| issued != ACCESS_TOKEN && issued != JWT) {
        return Err(AnswerFault::IssuedType);
    }
    for name in ["scope", "refresh_token", "id_token"] {
        text(name, AnswerFault::WrongType)?;
    }
    Ok(Token { value: Secret::from(value), expires_in_s: expiry(answer.get("expires_in"))? })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in 0..=EXPIRY_S_MAX, and rounded down")]
#[expect(clippy::cast_precision_loss, reason = "EXPIRY_S_MAX is far below 2^53")]
fn expiry(value: Option<&Json<'_>>) -> Result<Option<u64>, AnswerFault> {
    match value {
        None => Ok(None),
        Some(Json::Whole(seconds)) if *seconds <= EXPIRY_S_MAX => Ok(Some(*seconds)),
        Some(Json::Number(seconds)) if (0.0..=EXPIRY_S_MAX as f64).contains(seconds) => Ok(Some(*seconds as u64)),
        Some(_) => Err(AnswerFault::Expiry),
    }
}

/// What a token endpoint says where there is no token (RFC 6749, 5.2; RFC 8693, 2.2.2; RFC 8707, 2): the words that there
/// are, and nothing else that it may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declined {
    /// The request is malformed, in its eyes.
    InvalidRequest,
    /// The client is unknown, or its proof is wrong.
    InvalidClient,
    /// The grant is not good: an exchange's `subject_token`, mostly.
    InvalidGrant,
    /// The client may not use this grant.
    UnauthorizedClient,
    /// The endpoint does not know this grant.
    UnsupportedGrantType,
    /// The scope is unknown, or beyond what may be had.
    InvalidScope,
    /// The audience or resource is unknown, or may not be had.
    InvalidTarget,
    /// The user has not agreed, or must do something first.
    InteractionRequired,
    /// It is against its rules.
    AccessDenied,
    /// Nothing of these.
    Other,
}

impl Declined {
    /// Reads the answer of another status than 200.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let answer = Object::parse(body);
        let word = answer.as_ref().ok().and_then(|answer| answer.text("error").ok()?);
        DECLINED.iter().find(|(_, known)| word == Some(known)).map_or(Self::Other, |(declined, _)| *declined)
    }

    /// The word, as the RFCs have it: nothing that the endpoint wrote itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        DECLINED.iter().find(|(declined, _)| *declined == self).map_or("declined", |row| row.1)
    }

    /// Whether it may be about the one caller whose token was to be exchanged, so that the next one may well have its: all
    /// but what is said of the client.
    #[must_use]
    pub fn is_personal(self) -> bool {
        !matches!(self, Self::InvalidClient | Self::UnauthorizedClient | Self::UnsupportedGrantType)
    }
}

const DECLINED: [(Declined, &str); 10] = [
    (Declined::InvalidRequest, "invalid_request"),
    (Declined::InvalidClient, "invalid_client"),
    (Declined::InvalidGrant, "invalid_grant"),
    (Declined::UnauthorizedClient, "unauthorized_client"),
    (Declined::UnsupportedGrantType, "unsupported_grant_type"),
    (Declined::InvalidScope, "invalid_scope"),
    (Declined::InvalidTarget, "invalid_target"),
    (Declined::InteractionRequired, "interaction_required"),
    (Declined::InteractionRequired, "consent_required"),
    (Declined::AccessDenied, "access_denied"),
];
/// RFC 8693, 3.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// A hundred years: more is a mistake, milliseconds perhaps.
const EXPIRY_S_MAX: u64 = 100 * 366 * 86_400;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ring::rand::SystemRandom;

    use super::*;
    use crate::oauth::client::Proof;

    fn request(client: &ClientAuth, subject: Option<&Secret>, scope: Option<&str>, more: [&[String]; 2]) -> Request {
        let occasion = Occasion { endpoint: "https://as.example/token", now_unix_s: 1, random: &SystemRandom::new() };
        let [audience, resource] = more;
        Wish { client, subject, scope, audience, resource }.request(&occasion).unwrap()
    }

    /// RFC 6749, 4.4.2, with the client of 2.3.1.
    #[test]
    fn client_credentials_as_in_the_rfc() {
        let client = ClientAuth { id: "s6BhdRkqt3".into(), proof: Proof::Basic(Arc::new("gX1fBat3bV".into())) };
        let asked = request(&client, None, None, [&[], &[]]);
        assert_eq!(asked.body.reveal(), b"grant_type=client_credentials");
        assert_eq!(asked.authorization.unwrap().reveal(), b"Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW");
        let post =
            ClientAuth { id: "s6BhdRkqt3".into(), proof: Proof::Post(Arc::new("7Fjfp0ZBr1KtDRbnfVdmIw".into())) };
        let asked = request(&post, None, Some("a b"), [&[], &["https://x.example/mcp".into()]]);
        let want = "grant_type=client_credentials&scope=a+b&resource=https%3A%2F%2Fx.example%2Fmcp\
                    &client_id=s6BhdRkqt3&client_secret=7Fjfp0ZBr1KtDRbnfVdmIw";
        assert_eq!(std::str::from_utf8(asked.body.reveal()).unwrap(), want);
        assert!(asked.authorization.is_none());
        let none = ClientAuth { id: "c".into(), proof: Proof::None };
        let asked = request(&none, None, None, [&[], &[]]);
        assert_eq!(asked.body.reveal(), b"grant_type=client_credentials&client_id=c");
    }

    /// An id or secret with a colon, a blank or other letters is not mistaken for another (RFC 6749, 2.3.1).
    #[test]
    fn basic_is_encoded_before_it_is_joined() {
        let client = ClientAuth { id: "a:b c".into(), proof: Proof::Basic(Arc::new("é%:".into())) };
        let asked = request(&client, None, None, [&[], &[]]);
        // "a%3Ab+c:%C3%A9%25%3A"
        assert_eq!(asked.authorization.unwrap().reveal(), b"Basic YSUzQWIrYzolQzMlQTklMjUlM0E=");
    }

    /// RFC 8693, 2.3 (with `requested_token_type`, which is the default there).
    #[test]
    fn exchange_as_in_the_rfc() {
        let client =
            ClientAuth { id: "rs08".into(), proof: Proof::Basic(Arc::new("long-secure-random-secret".into())) };
        let token = Secret::from("accVkjcJyb4BWCxGsndESCJQbdFMogUC5PbRDqceLTC");
        let (audience, resource) =
            (["urn:a".to_owned(), "b".to_owned()], ["https://backend.example.com/api".to_owned()]);
        let asked = request(&client, Some(&token), Some("x"), [&audience, &resource]);
        assert_eq!(asked.authorization.unwrap().reveal(), b"Basic cnMwODpsb25nLXNlY3VyZS1yYW5kb20tc2VjcmV0");
        let want = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange\
                    &subject_token=accVkjcJyb4BWCxGsndESCJQbdFMogUC5PbRDqceLTC\
                    &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
                    &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
                    &scope=x&audience=urn%3Aa&audience=b&resource=https%3A%2F%2Fbackend.example.com%2Fapi";
        assert_eq!(std::str::from_utf8(asked.body.reveal()).unwrap(), want);
    }

    fn check(body: &str, exchanged: bool, want: Result<(&str, Option<u64>), AnswerFault>) {
        let got = token(body.as_bytes(), exchanged);
        let got = got.as_ref().map(|it| (std::str::from_utf8(it.value.reveal()).unwrap(), it.expires_in_s));
        assert_eq!(got.map_err(|fault| *fault), want, "{body}");
    }

    #[test]
    fn answers_are_read() {
        // RFC 6749, 4.4.3.
        let body = r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"example","expires_in":3600,"example_parameter":"example_value"}"#;
        check(body, false, Err(AnswerFault::TokenType));
        check(&body.replace("\"example\"", "\"bearer\""), false, Ok(("2YotnFZFEjr1zCsicMWpAA", Some(3600))));
        // RFC 8693, 2.3.
        let body = r#"{"access_token":"eyJhbGciOiJFUzI1NiIsImtpZCI6IjllciJ9.eyJhdWQiOiJo","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":60}"#;
        check(body, true, Ok(("eyJhbGciOiJFUzI1NiIsImtpZCI6IjllciJ9.eyJhdWQiOiJo", Some(60))));
        let of = |kind: &str| body.replace("token-type:access_token", &format!("token-type:{kind}"));
        check(&of("jwt"), true, Ok(("eyJhbGciOiJFUzI1NiIsImtpZCI6IjllciJ9.eyJhdWQiOiJo", Some(60))));
        for kind in ["refresh_token", "id_token", "saml2", "id-jag"] {
            check(&of(kind), true, Err(AnswerFault::IssuedType));
        }
        // RFC 8693, 2.2.1: what is no access token has the type N_A.
        check(&body.replace("Bearer", "N_A"), true, Err(AnswerFault::TokenType));
        check(&body.replace("Bearer", "DPoP"), true, Err(AnswerFault::TokenType));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let of = |member: &str, value: &str| {
            let mut members = vec![("access_token", "\"t\""), ("token_type", "\"Bearer\""), ("expires_in", "9")];
            members.retain(|known| known.0 != member);
            if !value.is_empty() {
                members.push((member, value));
            }
            let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        };
        check(&of("x", "{\"y\":[1]}"), false, Ok(("t", Some(9))));
        for (value, want) in [
            ("", Ok(None)),
            ("0", Ok(Some(0))),
            ("59.9", Ok(Some(59))),
            ("1e2", Ok(Some(100))),
            ("-1", Err(AnswerFault::Expiry)),
            ("-0.5", Err(AnswerFault::Expiry)),
            ("\"3600\"", Err(AnswerFault::Expiry)),
            ("null", Err(AnswerFault::Expiry)),
            ("true", Err(AnswerFault::Expiry)),
            ("18446744073709551615", Err(AnswerFault::Expiry)),
            ("1e300", Err(AnswerFault::Expiry)),
            ("1e400", Err(AnswerFault::Malformed)),
        ] {
            check(&of("expires_in", value), false, want.map(|expires| ("t", expires)));
        }
        let long = format!("\"{}\"", "a".repeat(ISSUED_TOKEN_BYTES_MAX + 1));
        for value in
            ["", "\"\"", "null", "7", "[\"t\"]", "\"a b\"", "\"a\\u000d\\u000ab\"", "\"\\u0000\"", "\"é\"", &long]
        {
            check(&of("access_token", value), false, Err(AnswerFault::Token));
        }
        for value in ["", "\"\"", "null", "\"mac\"", "\"Bearer \"", "[\"Bearer\"]"] {
            check(&of("token_type", value), false, Err(AnswerFault::TokenType));
        }
        for name in ["scope", "refresh_token", "id_token"] {
            check(&of(name, "[]"), false, Err(AnswerFault::WrongType));
        }
        for body in
            ["", "null", "[]", "{", "{}x", "{\"access_token\":\"a\",\"access_token\":\"b\",\"token_type\":\"Bearer\"}"]
        {
            check(body, false, Err(AnswerFault::Malformed));
        }
    }

    #[test]
    fn errors_are_words_of_ours() {
        for (declined, word) in DECLINED {
            let body = format!(r#"{{"error":"{word}","error_description":"secret: hunter2","error_uri":"x"}}"#);
            assert_eq!(Declined::read(body.as_bytes()), declined);
            assert!(!declined.as_str().contains("hunter2"));
        }
        for body in ["", "<html>", "{}", "{\"error\":7}", "{\"error\":\"Invalid_Grant\"}", "{\"error\":\"hunter2\"}"] {
            assert_eq!(Declined::read(body.as_bytes()), Declined::Other, "{body}");
        }
        assert!(Declined::InvalidGrant.is_personal() && !Declined::InvalidClient.is_personal());
    }
}
