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

    /// The word, as the RFCs have it; nothing of what the endpoint wrote.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        DECLINED
            .iter()
            .find(|(declined, _)| *declined == self)
            .map_or("no error that OAuth has a word for", |row| row.1)
    }

    /// Whether it is about the one caller whose token was to be exchanged, so that the next one may well have its.
    #[must_use]
    pub fn is_personal(self) -> bool {
        matches!(self, Self::InvalidRequest | Self::InvalidGrant | Self::InvalidScope | Self::InteractionRequired)
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
