//! From the bytes after `Bearer ` to a [`Caller`], or a fault.
//!
//! Everything is checked here, at the second given, and nothing by jsonwebtoken's own validation: that reads the
//! system clock, and to it a claim of the wrong type or a member twice is no error. Checks go from cheap to dear, so
//! that junk costs little: shape, header, claims, issuer, times, audience, and the signature last. Claims read before
//! the signature are used for refusing only.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use smallvec::SmallVec;
use thiserror::Error;

use super::active::TaskNames;
use super::caller::{Caller, Endpoints, Heads, Owner};
use super::claims::{ClaimPath, Json, JsonFault, Object};
use super::keyring::{Keyring, Standing};
use super::keys::{Algorithm, SignatureFault};
use crate::base::ids::{EndpointId, TaskId};
use crate::base::limits::{TOKEN_BYTES_MAX, TOKEN_LEEWAY_S};

/// One trusted issuer, as configured. Its keys stand in the [`Keyring`].
#[derive(Clone, Debug, PartialEq)]
pub struct Issuer {
    /// What `iss` must be, byte for byte; not empty.
    pub issuer: Arc<str>,
    /// One of these must be in `aud`, and the token is then good for every endpoint that has no audience of its own.
    /// `None`: `aud` must name an endpoint, and the token is good for those that it names.
    pub audience: Option<Vec<String>>,
    /// What its tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// What the header `typ` may be; see [`TYP_DEFAULT`].
    pub typ: Vec<String>,
    /// Where the subject stands: text, required, not empty.
    pub subject: ClaimPath,
    /// Where the agent stands: text; a token without it has no agent.
    pub agent: ClaimPath,
    /// Where the tasks stand: text, split at spaces, or an array of text.
    pub tasks: ClaimPath,
}

/// What stands among [`Issuer::typ`] for tokens whose header has no `typ` (Okta).
pub const TYP_NONE: &str = "none";

/// The default of `auth.issuers[].typ`: RFC 9068 access tokens, and the `JWT` that Keycloak, Entra and Auth0 send.
pub const TYP_DEFAULT: [&str; 2] = ["at+jwt", "JWT"];

/// A place that tokens are for.
pub trait Resource {
    /// Whether one of these, a token's `aud`, is its name.
    fn is_named(&self, audiences: &[&str]) -> bool;

    /// Whether its operator gave it an audience of its own: then that of an issuer is not enough there.
    fn is_apart(&self) -> bool {
        false
    }
}

impl Resource for &str {
    fn is_named(&self, audiences: &[&str]) -> bool {
        audiences.contains(self)
    }
}

impl Resource for String {
    fn is_named(&self, audiences: &[&str]) -> bool {
        audiences.contains(&self.as_str())
    }
}

/// An endpoint, as tokens name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// Any of these in `aud` suffices.
    pub names: Vec<String>,
    /// They were written for this endpoint, instead of its own URL.
    pub apart: bool,
}

impl Resource for Audience {
    fn is_named(&self, audiences: &[&str]) -> bool {
        self.names.iter().any(|name| audiences.contains(&name.as_str()))
    }

    fn is_apart(&self) -> bool {
        self.apart
    }
}

/// Why a token is refused. All have the same answer (401); the difference is for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenFault {
    /// Over `limits::TOKEN_BYTES_MAX`.
    #[error("the token is over 8 KiB")]
    TooLong,
    /// Not three parts between two dots (encrypted tokens have five).
    #[error("not a compact signed token")]
    Shape,
    /// A part is not canonical base64url without padding.
    #[error("a part is not canonical base64url")]
    Base64,
    /// The header is no JSON object, has a member twice, or one of the wrong type.
    #[error("header: {0}")]
    Header(JsonFault),
    /// The header has `crit`: extensions are not understood here (RFC 7515, 4.1.11).
    #[error("the header has crit")]
    Critical,
    /// The header has a `b64` other than `true` (RFC 7797).
    #[error("the payload is not base64url")]
    Unencoded,
    /// `alg` is absent or none that can be allowed (`none`, `HS256`, …).
    #[error("the algorithm is unknown")]
    AlgorithmUnknown,
    /// The claims are no JSON object, have a member twice, or one of the wrong type.
    #[error("claims: {0}")]
    Claims(JsonFault),
    /// `iss` is absent or not a configured issuer.
    #[error("the issuer is unknown")]
    Issuer,
    /// This issuer is not allowed the algorithm.
    #[error("the issuer is not allowed this algorithm")]
    AlgorithmForbidden,
    /// `typ` is absent or not one of the issuer's.
    #[error("the token is of another type")]
    Type,
    /// An ID token of OpenID Connect: meant for the client, not for us.
    #[error("an ID token is no access token")]
    IdToken,
    /// `cnf`: bound to a key or certificate, whose proof is not asked for here.
    #[error("the token is bound to a key")]
    Bound,
    /// `exp` is absent.
    #[error("the token never expires")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` is in the future.
    #[error("the token is not valid yet")]
    NotYet,
    /// `aud` is absent or names none of our resources.
    #[error("the token is for another audience")]
    Audience,
    /// The subject claim is absent or empty.
    #[error("the token names no subject")]
    Subject,
    /// No key of this id; a new key set of the issuer at this index may have it.
    #[error("the key is unknown")]
    KeyUnknown {
        /// Index into the issuers given.
        issuer: usize,
        /// `iat`: the key may be newer than the ones known here, where the token is.
        issued_unix_s: Option<u64>,
    },
    /// The keys of the issuer at this index are not there, or too old: whether it is a good token cannot be told.
    #[error("the issuer's keys are not known at the moment")]
    KeysMissing {
        /// Index into the issuers given.
        issuer: usize,
    },
    /// The token names no key, and several fit.
    #[error("the token names no key and several fit")]
    KeyAmbiguous,
    /// Its issuer says that it is not active.
    #[error("its issuer says that it is not active")]
    Inactive,
    /// The key named is for another algorithm.
    #[error("the key is for another algorithm")]
    KeyUnfit,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
}

/// Verifies a token (the bytes after `Bearer `) at `now_unix_s`. `resources` are the endpoints, by `EndpointId`.
///
/// A token within `limits::TOKEN_LEEWAY_S` after its `exp` still verifies, but [`Caller::expires`] is `exp` itself, so
/// it is not remembered.
///
/// # Errors
/// [`TokenFault`].
pub fn verify<R: Resource>(
    token: &[u8],
    issuers: &[Issuer],
    keys: &Keyring,
    resources: &[R],
    tasks: &TaskNames,
    now_unix_s: u64,
) -> Result<Caller, TokenFault> {
    let parts = Parts::split(token)?;
    let header = decode(parts.header)?;
    let header = Object::parse(&header).map_err(TokenFault::Header)?;
    let header = Header::read(&header)?;
    let written = decode(parts.claims)?;
    let claims = Object::parse(&written).map_err(TokenFault::Claims)?;

    let iss = claims.text("iss").map_err(TokenFault::Claims)?.ok_or(TokenFault::Issuer)?;
    let place = issuers.iter().position(|issuer| *issuer.issuer == *iss).ok_or(TokenFault::Issuer)?;
    let issuer = &issuers[place];
    if !issuer.algorithms.contains(&header.algorithm) {
        return Err(TokenFault::AlgorithmForbidden);
    }
    check_type(&header, issuer, &claims)?;
    if claims.get("cnf").is_some() {
        return Err(TokenFault::Bound);
    }
    let expires = check_times(&claims, now_unix_s)?.ok_or(TokenFault::NoExpiry)?;
    let endpoints = check_audience(&claims, issuer, resources)?;
    let who = Who::read(&claims, issuer.paths(), tasks).map_err(TokenFault::Claims)?.ok_or(TokenFault::Subject)?;

    let signature = decode(parts.signature)?;
    let keys = match keys.of(place) {
        Standing::Good(good) => &good.set,
        Standing::Awaited | Standing::TooOld => return Err(TokenFault::KeysMissing { issuer: place }),
    };
    let key = keys.verify(header.algorithm, header.key, parts.signed, &signature).map_err(|fault| match fault {
        SignatureFault::KeyUnknown => TokenFault::KeyUnknown { issuer: place, issued_unix_s: issued(&claims) },
        SignatureFault::KeyAmbiguous => TokenFault::KeyAmbiguous,
        SignatureFault::KeyUnfit => TokenFault::KeyUnfit,
        SignatureFault::Wrong => TokenFault::Signature,
    })?;

    Ok(Caller {
        endpoints,
        expires,
        key: Some(key),
        token: fingerprint(token),
        ..who.caller(issuer.issuer.clone(), &claims, Arc::from(&*written))?
    })
}

/// The caller that an opaque token stands for, of which `issuer` has said (RFC 7662) that it is active, and `claims`: the
/// answer's members are the token's claims. What is asked of a signed token's claims is asked of these; only `exp` may be
/// absent, because the issuer is asked again.
///
/// # Errors
/// [`TokenFault`]: it is active, and not for us.
pub fn introspected<R: Resource>(
    token: &[u8],
    claims: &Arc<[u8]>,
    issuer: &Issuer,
    resources: &[R],
    tasks: &TaskNames,
    now_unix_s: u64,
) -> Result<Caller, TokenFault> {
    let parsed = Object::parse(claims).map_err(TokenFault::Claims)?;
    let text = |name| parsed.text(name).map_err(TokenFault::Claims);
    if text("iss")?.is_some_and(|iss| iss != &*issuer.issuer) {
        return Err(TokenFault::Issuer);
    }
    let typed = text("token_type")?;
    if parsed.get("cnf").is_some() || typed.is_some_and(|typed| typed.eq_ignore_ascii_case("dpop")) {
        return Err(TokenFault::Bound);
    }
    if has_marks_of_id_token(&parsed) {
        return Err(TokenFault::IdToken);
    }
    check_use(&parsed, issuer)?;
    let expires = check_times(&parsed, now_unix_s)?.unwrap_or(u64::MAX);
    let endpoints = check_audience(&parsed, issuer, resources)?;
    let who = Who::read(&parsed, issuer.paths(), tasks).map_err(TokenFault::Claims)?.ok_or(TokenFault::Subject)?;
    Ok(Caller {
        endpoints,
        expires,
        token: fingerprint(token),
        ..who.caller(issuer.issuer.clone(), &parsed, Arc::clone(claims))?
    })
}

/// What an issuer says of a token's kind, where it does, is that of an access token: refresh tokens, which last for weeks
/// and were made for nobody but the issuer itself, are active too (RFC 7662, 2.1: what was asked for is only a hint).
fn check_use(claims: &Object<'_>, issuer: &Issuer) -> Result<(), TokenFault> {
    let told = |name| claims.text(name).map_err(TokenFault::Claims);
    let one_of = |words: &[&str], told: &str| words.iter().any(|word| word.eq_ignore_ascii_case(told));
    // Ory Hydra; Amazon Cognito.
    let used = told("token_use")?.is_none_or(|told| one_of(&["access_token", "access"], told));
    // Keycloak, which says `Refresh`, `Offline` and `ID` of the others.
    let typed = told("typ")?.is_none_or(|told| {
        one_of(&["Bearer"], told) || TYP_DEFAULT.iter().any(|typ| same_type(typ, told)) || {
            issuer.typ.iter().any(|typ| typ != TYP_NONE && same_type(typ, told))
        }
    });
    // RFC 6749, 5.1; and what some write there instead (RFC 8693, 3).
    let words = ["bearer", "access_token", "urn:ietf:params:oauth:token-type:access_token"];
    let borne = told("token_type")?.is_none_or(|told| one_of(&words, told));
    if used && typed && borne { Ok(()) } else { Err(TokenFault::Type) }
}

/// Whether a token says of itself, in a header as JOSE has it (RFC 7515, RFC 7516), that it is signed or encrypted.
#[must_use]
pub fn has_header(token: &[u8]) -> bool {
    let first = memchr::memchr(b'.', token).map(|dot| &token[..dot]);
    let header = first.and_then(|first| decode(first).ok());
    header.is_some_and(|header| Object::parse(&header).is_ok_and(|header| header.get("alg").is_some()))
}

/// Whether a token looks like a signed one: three parts between two dots. Any other is opaque to us.
#[must_use]
pub fn is_signed(token: &[u8]) -> bool {
    memchr::memchr_iter(b'.', token).count() == 2
}

/// The issuer that a signed token says it is of, by its index in `issuers`; nothing of the token has been verified.
#[must_use]
pub fn said_issuer(token: &[u8], issuers: &[Issuer]) -> Option<usize> {
    let claims = decode(Parts::split(token).ok()?.claims).ok()?;
    let claims = Object::parse(&claims).ok()?;
    let iss = claims.text("iss").ok()??;
    issuers.iter().position(|issuer| *issuer.issuer == *iss)
}

/// The caller that a token of these claims would make, were it a good one: for trying a policy out. Its issuer is the one
/// of `issuers` that the claims name, or the only one; where that is none, subject, agent and tasks are looked for where
/// they are by default. Without a subject it is `somebody`'s; where the claims say nothing of tasks, it holds `task`.
///
/// # Errors
/// `TokenFault::Claims`.
pub fn supposed(
    claims: &[u8],
    issuers: &[Issuer],
    tasks: &TaskNames,
    task: Option<&str>,
) -> Result<Caller, TokenFault> {
    let parsed = Object::parse(claims).map_err(TokenFault::Claims)?;
    let text = |name| parsed.text(name).map_err(TokenFault::Claims);
    let said = text("iss")?;
    let named = issuers.iter().find(|issuer| said == Some(&*issuer.issuer));
    let issuer = named.or_else(|| issuers.first().filter(|_| issuers.len() == 1 && said.is_none()));
    let default = ["claims.sub", "claims.client_id", "claims.tasks"].map(|path| ClaimPath::parse(path).ok());
    let [Some(subject), Some(agent), Some(held)] = &default else { return Err(TokenFault::Subject) };
    let paths = issuer.map_or([subject, agent, held], Issuer::paths);
    let who = Who::read(&parsed, paths, tasks).map_err(TokenFault::Claims)?;
    let nobody = || Who::read_without(&parsed, paths, tasks);
    let mut who = who.map_or_else(nobody, Ok).map_err(TokenFault::Claims)?;
    if paths[2].find(&parsed).map_err(TokenFault::Claims)?.is_none() {
        who.tasks.extend(task.and_then(|task| tasks.id(task)));
    }
    let name = issuer.map_or(said.unwrap_or("issuer"), |issuer| &*issuer.issuer);
    who.caller(Arc::from(name), &parsed, Arc::from(claims))
}

/// The three parts of a compact JWS (RFC 7515, 7.1), still encoded.
pub(crate) struct Parts<'a> {
    pub(crate) header: &'a [u8],
    pub(crate) claims: &'a [u8],
    pub(crate) signature: &'a [u8],
    /// Header, dot, claims: what was signed.
    pub(crate) signed: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(crate) fn split(token: &'a [u8]) -> Result<Self, TokenFault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::TooLong);
        }
        let mut dots = memchr::memchr_iter(b'.', token);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(TokenFault::Shape);
        };
        Ok(Self {
            header: &token[..first],
            claims: &token[first + 1..second],
            signature: &token[second + 1..],
            signed: &token[..second],
        })
    }
}

/// Strict: no padding, no blanks, and no bits left over in the last character, so that a token has one spelling.
pub(crate) fn decode(part: &[u8]) -> Result<Vec<u8>, TokenFault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Base64)
}

/// What the header tells. `jku`, `jwk`, `x5u` and `x5c` are not even read: keys come from configuration alone.
pub(crate) struct Header<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: Option<&'a str>,
    pub(crate) typ: Option<&'a str>,
}

impl<'a> Header<'a> {
    pub(crate) fn read(header: &'a Object<'_>) -> Result<Self, TokenFault> {
        let text = |name| header.text(name).map_err(TokenFault::Header);
        if header.get("crit").is_some() {
            return Err(TokenFault::Critical);
        }
        if header.get("b64").is_some_and(|encoded| *encoded != Json::Bool(true)) {
            return Err(TokenFault::Unencoded);
        }
        let algorithm = text("alg")?.and_then(Algorithm::parse).ok_or(TokenFault::AlgorithmUnknown)?;
        Ok(Self { algorithm, key: text("kid")?, typ: text("typ")? })
    }
}

/// Media types compare without case, and may leave out `application/` (RFC 7515, 4.1.9).
fn same_type(one: &str, other: &str) -> bool {
    let short = |typ: &str| match typ.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") && !rest.contains('/') => rest.len(),
        _ => typ.len(),
    };
    let (one, other) = (&one[one.len() - short(one)..], &other[other.len() - short(other)..]);
    one.eq_ignore_ascii_case(other)
}

/// `typ` is one of the issuer's. With the unspecific `JWT`, or none, what bears the marks of an ID token is one: it was made
/// for the client that signed its user in, and often has an audience that a careless operator also lists here.
fn check_type(header: &Header<'_>, issuer: &Issuer, claims: &Object<'_>) -> Result<(), TokenFault> {
    let fits = |allowed: &String| match header.typ {
        // The word is for tokens without one: no token is of that type.
        Some(typ) => allowed != TYP_NONE && same_type(allowed, typ),
        None => allowed == TYP_NONE,
    };
    if !issuer.typ.iter().any(fits) {
        return Err(TokenFault::Type);
    }
    let unspecific = header.typ.is_none_or(|typ| same_type(typ, "JWT"));
    if unspecific && has_marks_of_id_token(claims) { Err(TokenFault::IdToken) } else { Ok(()) }
}

/// What ID tokens have, and access tokens do not (OpenID Connect Core, 2 and 3.3.2.11).
fn has_marks_of_id_token(claims: &Object<'_>) -> bool {
    ["nonce", "at_hash", "c_hash"].iter().any(|mark| claims.get(mark).is_some())
}

/// The token's `exp`, if it has one, when now is within its times.
fn check_times(claims: &Object<'_>, now: u64) -> Result<Option<u64>, TokenFault> {
    let date = |name| claims.date(name).map_err(TokenFault::Claims);
    let expires = date("exp")?.map(|expires| expires.floor);
    let starts = [date("nbf")?, date("iat")?];
    // "On or after" (RFC 7519, 4.1.4): at `exp` itself it is over.
    if expires.is_some_and(|expires| now >= expires.saturating_add(TOKEN_LEEWAY_S)) {
        return Err(TokenFault::Expired);
    }
    if starts.iter().flatten().any(|start| start.ceil > now.saturating_add(TOKEN_LEEWAY_S)) {
        return Err(TokenFault::NotYet);
    }
    Ok(expires)
}

/// The token's `iat`, once its times were checked.
fn issued(claims: &Object<'_>) -> Option<u64> {
    claims.date("iat").ok().flatten().map(|issued| issued.ceil)
}

/// Where the token may be used: one at least.
fn check_audience<R: Resource>(claims: &Object<'_>, issuer: &Issuer, resources: &[R]) -> Result<Endpoints, TokenFault> {
    let wrong = TokenFault::Claims(JsonFault::WrongType);
    let named: SmallVec<[&str; 4]> = match claims.get("aud") {
        None => return Err(TokenFault::Audience),
        Some(Json::Text(one)) => SmallVec::from_slice(&[&**one]),
        Some(Json::Array(several)) => several.iter().map(Json::as_text).collect::<Result<_, _>>().map_err(|_| wrong)?,
        Some(_) => return Err(wrong),
    };
    let mut endpoints = Endpoints::none();
    match &issuer.audience {
        Some(ours) => {
            let everywhere = ours.iter().any(|ours| named.contains(&ours.as_str()));
            if everywhere && !resources.iter().any(Resource::is_apart) {
                return Ok(Endpoints::all());
            }
            let here = |resource: &R| if resource.is_apart() { resource.is_named(&named) } else { everywhere };
            insert(&mut endpoints, resources, here);
        }
        None => insert(&mut endpoints, resources, |resource| resource.is_named(&named)),
    }
    if endpoints.is_empty() { Err(TokenFault::Audience) } else { Ok(endpoints) }
}

fn insert<R>(endpoints: &mut Endpoints, resources: &[R], fits: impl Fn(&R) -> bool) {
    for (index, _) in resources.iter().enumerate().filter(|(_, resource)| fits(resource)) {
        endpoints.insert(EndpointId::from_index(index));
    }
}

/// The first half of a token's SHA-256: what it is called where it must not be shown.
#[must_use]
pub fn fingerprint(token: &[u8]) -> [u8; 16] {
    let mut cut = [0; 16];
    cut.copy_from_slice(&digest::digest(&digest::SHA256, token).as_ref()[..16]);
    cut
}

/// What `scope` (RFC 8693, 4.2: text with blanks between) and `scp` (text or an array) hold together.
fn scopes(claims: &Object<'_>) -> Result<Arc<[Box<str>]>, JsonFault> {
    let mut all: Vec<Box<str>> = Vec::new();
    for name in ["scope", "scp"] {
        match claims.get(name) {
            None => {}
            Some(Json::Array(list)) => {
                for one in list {
                    all.push(one.as_text()?.into());
                }
            }
            Some(one) => all.extend(one.as_text()?.split(' ').filter(|scope| !scope.is_empty()).map(Box::from)),
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all.into())
}

/// Subject, agent and tasks, where the issuer's configuration says they stand.
struct Who<'a> {
    subject: &'a str,
    agent: Option<&'a str>,
    tasks: SmallVec<[TaskId; 4]>,
}

impl<'a> Who<'a> {
    /// `None` without a subject.
    fn read(claims: &'a Object<'_>, at: [&ClaimPath; 3], names: &TaskNames) -> Result<Option<Self>, JsonFault> {
        let subject = at[0].find(claims)?.map(Json::as_text).transpose()?;
        let Some(subject) = subject.filter(|subject| !subject.is_empty()) else {
            return Ok(None);
        };
        Ok(Some(Self { subject, ..Self::read_without(claims, at, names)? }))
    }

    /// Whoever the subject is.
    fn read_without(claims: &'a Object<'_>, at: [&ClaimPath; 3], names: &TaskNames) -> Result<Self, JsonFault> {
        let [_, agent, tasks] = at;
        let mut tasks: SmallVec<[TaskId; 4]> = match tasks.find(claims)? {
            None => SmallVec::new(),
            Some(Json::Array(list)) => {
                let list: Vec<&str> = list.iter().map(Json::as_text).collect::<Result<_, _>>()?;
                list.iter().filter_map(|name| names.id(name)).collect()
            }
            Some(one) => one.as_text()?.split(' ').filter_map(|name| names.id(name)).collect(),
        };
        tasks.sort_unstable();
        tasks.dedup();
        Ok(Self { subject: "somebody", agent: agent.find(claims)?.map(Json::as_text).transpose()?, tasks })
    }

    /// The caller that these claims make, for every endpoint and for ever until somebody says otherwise.
    fn caller(self, issuer: Arc<str>, claims: &Object<'_>, written: Arc<[u8]>) -> Result<Caller, TokenFault> {
        let Self { subject, agent, tasks } = self;
        Ok(Caller {
            subject: Arc::from(subject),
            agent: agent.map(Arc::from),
            owner: Owner::of(&issuer, subject, agent),
            principal: Owner::of(&issuer, subject, None),
            issuer,
            tasks,
            endpoints: Endpoints::all(),
            expires: u64::MAX,
            anonymous: false,
            claims: written,
            scopes: scopes(claims).map_err(TokenFault::Claims)?,
            token: [0; 16],
            bearer: None,
            jti: claims.text("jti").map_err(TokenFault::Claims)?.map(Arc::from),
            key: None,
            liveness: None,
            heads: Heads::default(),
        })
    }
}

impl Issuer {
    /// Where subject, agent and tasks stand.
    fn paths(&self) -> [&ClaimPath; 3] {
        [&self.subject, &self.agent, &self.tasks]
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
    use serde_json::Value;

    use crate::identity::keys::KeySet;

    use super::*;
    use crate::identity::mint::{Grant, MintKey};

    const NOW: u64 = 1_800_000_000;
    const RESOURCES: [&str; 2] = ["https://gw.example/mcp", "https://gw.example/s/docs/mcp"];
    const HEADER: &str = r#"{"alg":"ES256","typ":"at+jwt","kid":"KEY"}"#;
    const CLAIMS: &str = concat!(
        r#"{"iss":"https://issuer.example","sub":"alice","client_id":"agent-7","aud":"https://gw.example/mcp","#,
        r#""iat":1799999990,"exp":1800000300,"tasks":["triage","unknown"],"scope":"mcp:tools mcp:prompts"}"#
    );

    /// An issuer, its key, and us.
    struct World {
        key: MintKey,
        issuers: Vec<Issuer>,
        keys: Keyring,
        tasks: TaskNames,
    }

    impl World {
        fn new() -> Self {
            let key = MintKey::generate(&SystemRandom::new()).unwrap();
            let issuers = vec![issuer("https://other.example"), issuer("https://issuer.example")];
            let keys = keyring(&[RSA_SET, &key.key_set()]);
            Self { key, issuers, keys, tasks: TaskNames::new(["refund", "triage"]) }
        }

        /// Signs `HEADER` and `CLAIMS` after replacing `from` by `to`, in whichever of them has it.
        fn sign(&self, from: &str, to: &str) -> String {
            assert!(HEADER.contains(from) || CLAIMS.contains(from), "{from}");
            let header = HEADER.replacen(from, to, 1).replace("\"KEY\"", &format!("\"{}\"", self.key.id()));
            let claims = CLAIMS.replacen(from, to, 1);
            self.key.sign_text(header.as_bytes(), claims.as_bytes(), &SystemRandom::new()).unwrap()
        }

        fn verify(&self, token: &[u8]) -> Result<Caller, TokenFault> {
            verify(token, &self.issuers, &self.keys, &RESOURCES, &self.tasks, NOW)
        }

        fn check(&self, token: &str, want: Result<(), TokenFault>) {
            assert_eq!(self.verify(token.as_bytes()).map(drop), want, "{token}");
        }
    }

    fn keyring(sets: &[&str]) -> Keyring {
        let algorithms: Vec<_> = Algorithm::all().collect();
        let sets: Vec<_> =
            sets.iter().map(|set| Arc::new(KeySet::parse(set.as_bytes(), &algorithms).unwrap())).collect();
        Keyring::of_files(sets.iter().map(Some))
    }

    fn issuer(name: &str) -> Issuer {
        let algorithms: Vec<_> = Algorithm::all().collect();
        Issuer {
            issuer: name.into(),
            audience: None,
            algorithms,
            typ: TYP_DEFAULT.map(String::from).to_vec(),
            subject: ClaimPath::parse("claims.sub").unwrap(),
            agent: ClaimPath::parse("claims.client_id").unwrap(),
            tasks: ClaimPath::parse("claims.tasks").unwrap(),
        }
    }

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    #[test]
    fn a_good_token_makes_a_caller() {
        let world = World::new();
        let caller = world.verify(world.sign("", "").as_bytes()).unwrap();
        assert_eq!((&*caller.issuer, &*caller.subject), ("https://issuer.example", "alice"));
        assert_eq!(caller.agent.as_deref(), Some("agent-7"));
        assert_eq!(caller.owner, Owner::of("https://issuer.example", "alice", Some("agent-7")));
        assert_eq!(caller.tasks.as_slice(), [TaskId(1)]);
        assert_eq!((caller.expires, caller.anonymous), (1_800_000_300, false));
        assert!(caller.endpoints.contains(EndpointId(0)) && !caller.endpoints.contains(EndpointId(1)));
    }

    #[test]
    fn what_the_mint_makes_verifies() {
        let world = World::new();
        let grant = Grant {
            issuer: "https://issuer.example",
            audience: &RESOURCES,
            subject: "bob",
            agent: None,
            tasks: &["refund", "triage", "refund"],
            issued_at: NOW,
            expires: NOW + 60,
        };
        let token = world.key.mint(&grant, &SystemRandom::new()).unwrap();
        let caller = world.verify(token.as_bytes()).unwrap();
        assert_eq!((&*caller.subject, caller.agent.as_deref()), ("bob", None));
        assert_eq!(caller.tasks.as_slice(), [TaskId(0), TaskId(1)]);
        assert!(caller.endpoints.contains(EndpointId(0)) && caller.endpoints.contains(EndpointId(1)));
    }

    /// What may differ between issuers, and what the wire allows: (from, to) on header or claims.
    #[test]
    fn lawful_variants_are_accepted() {
        let world = World::new();
        for (from, to) in [
            (r#""typ":"at+jwt""#, r#""typ":"JWT""#),
            (r#""typ":"at+jwt""#, r#""typ":"jwt""#),
            (r#""typ":"at+jwt""#, r#""typ":"application/at+jwt""#),
            (r#""typ":"at+jwt""#, r#""typ":"Application/AT+JWT""#),
            (r#""typ""#, r#""b64":true,"typ""#),
            (r#""typ""#, r#""x5t":"AAAA","x5c":["AAAA"],"jku":"https://evil.example/keys","typ""#),
            (r#","kid":"KEY""#, ""),
            (r#""aud":"https://gw.example/mcp""#, r#""aud":["x","https://gw.example/mcp"]"#),
            (r#""exp":1800000300"#, r#""exp":1800000300.75"#),
            (r#""exp":1800000300"#, r#""exp":1.8000003e9"#),
            (r#""exp":1800000300"#, r#""exp":1799999971"#),
            (r#""iat":1799999990,"#, ""),
            (r#""iat":1799999990"#, r#""iat":1800000030"#),
            (r#""iat":1799999990"#, r#""nbf":1800000000"#),
            (r#","client_id":"agent-7""#, ""),
            (r#","tasks":["triage","unknown"]"#, ""),
            (r#"["triage","unknown"]"#, r#""triage refund  nothing""#),
            (r#"["triage","unknown"]"#, "[]"),
            (r#""scope""#, r#""nonce":"with at+jwt it is no mark","scope""#),
            ("{", " {\r\n\t"),
        ] {
            world.check(&world.sign(from, to), Ok(()));
        }
    }

    /// [K4] [K5] [K6] [K7] Each lie in the claims, well signed, is refused for what it is.
    #[test]
    fn claims_that_lie_are_refused() {
        let world = World::new();
        for &(from, to, want) in FALSE_CLAIMS {
            world.check(&world.sign(from, to), Err(want));
        }
        for mark in ["nonce", "at_hash", "c_hash"] {
            let header = HEADER.replace("at+jwt", "JWT").replace("KEY", world.key.id());
            let claims = CLAIMS.replace("\"scope\"", &format!("\"{mark}\":\"x\",\"scope\""));
            let token = world.key.sign_text(header.as_bytes(), claims.as_bytes(), &SystemRandom::new()).unwrap();
            world.check(&token, Err(TokenFault::IdToken));
        }
    }

    /// [K1] [K2] [K3] [K4] [K6] Each lie in the header, well signed, is refused for what it is.
    #[test]
    fn headers_that_lie_are_refused() {
        let world = World::new();
        for &(from, to, want) in FALSE_HEADERS {
            let header = HEADER.replacen(from, to, 1).replace("\"KEY\"", &format!("\"{}\"", world.key.id()));
            let token = world.key.sign_text(header.as_bytes(), CLAIMS.as_bytes(), &SystemRandom::new()).unwrap();
            world.check(&token, Err(want));
        }
        let mut narrow = World::new();
        narrow.issuers[1].algorithms = vec![Algorithm::Rs256, Algorithm::EdDsa];
        narrow.check(&narrow.sign("", ""), Err(TokenFault::AlgorithmForbidden));
    }

    /// [K1] [K2] [K3] Signatures of nobody, of strangers who bring their keys, and of other issuers.
    #[test]
    fn forged_tokens_are_refused() {
        let world = World::new();
        let good = world.sign("", "");
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let evil = CLAIMS.replace("alice", "admin");
        let evil_signed = format!("{header}.{}", encode(&evil));
        let longer = [&URL_SAFE_NO_PAD.decode(signature).unwrap()[..], &[0]].concat();
        // Signed by a stranger who brings his own key, and one who claims our key id.
        let stranger = MintKey::generate(&SystemRandom::new()).unwrap();
        let own: Value = serde_json::from_str(&stranger.key_set()).unwrap();
        let ours = HEADER.replace("KEY", world.key.id());
        let brings = ours.replace("\"alg\"", &format!("\"jwk\":{},\"alg\"", own["keys"][0]));
        let by_stranger =
            |header: &str| stranger.sign_text(header.as_bytes(), evil.as_bytes(), &SystemRandom::new()).unwrap();
        for token in [
            format!("{signed}."),
            format!("{evil_signed}."),
            format!("{evil_signed}.{signature}"),
            format!("{}.{claims}.{signature}", encode(&brings)),
            // r = s = 0, which CVE-2022-21449 took for anything's signature.
            format!("{signed}.{}", encode([0; 64])),
            format!("{signed}.{}", encode([0xFF; 64])),
            format!("{signed}.{}", encode(longer)),
            format!("{signed}.{}", &signature[..84]),
            by_stranger(&brings),
            by_stranger(&ours),
            by_stranger(r#"{"alg":"ES256","typ":"at+jwt"}"#),
        ] {
            world.check(&token, Err(TokenFault::Signature));
        }
        // Made with the issuer's own public key as if it were a shared secret.
        let signed = format!("{}.{claims}", encode(ours.replace("ES256", "HS256")));
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, world.key.key_set().as_bytes());
        let signature = encode(ring::hmac::sign(&secret, signed.as_bytes()));
        world.check(&format!("{signed}.{signature}"), Err(TokenFault::AlgorithmUnknown));
        // A trusted issuer's key under another issuer's name: the issuer named decides whose keys are asked.
        let mut two = World::new();
        two.keys = keyring(&[&stranger.key_set(), &two.key.key_set()]);
        two.check(&by_stranger(&HEADER.replace("KEY", stranger.id())), Err(UNKNOWN));
    }

    /// [K1] [K8] A token has one spelling, three parts, and 8 KiB.
    #[test]
    fn misspelt_tokens_are_refused() {
        use TokenFault::{Base64, Shape, TooLong};
        let world = World::new();
        let good = world.sign("", "");
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        // The four low bits of the last of 86 characters say nothing; another spelling of the same signature.
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let place = alphabet.iter().position(|&c| c == signature.as_bytes()[85]).unwrap();
        let twin = format!("{signed}.{}{}", &signature[..85], char::from(alphabet[place + 1]));
        let long = world.sign("\"scope\"", &format!("\"x\":\"{}\",\"scope\"", "x".repeat(9000)));
        for (token, want) in [
            (String::new(), Shape),
            ("..".into(), HEADER_TWICE),
            (signed.to_owned(), Shape),
            (header.to_owned(), Shape),
            (format!("{good}."), Shape),
            (format!("{good}.."), Shape),
            (format!("{good}.{signature}.{signature}"), Shape),
            (format!("{{\"payload\":\"{claims}\",\"signature\":\"{signature}\"}}"), Shape),
            (twin, Base64),
            (format!("{good}="), Base64),
            (format!("{good}=="), Base64),
            (format!("{good}\n"), Base64),
            (format!(" {good}"), Base64),
            (format!("{header}=.{claims}.{signature}"), Base64),
            (format!("{header}.{claims}\r\n.{signature}"), Base64),
            (format!("{header}.{claims}.+{}", &signature[1..]), Base64),
            (format!("{header}.{claims}./{}", &signature[1..]), Base64),
            (format!("{header}.{claims}.é{}", &signature[2..]), Base64),
            (long, TooLong),
        ] {
            world.check(&token, Err(want));
        }
    }

    #[test]
    fn a_configured_audience_is_good_everywhere() {
        let mut world = World::new();
        world.issuers[1].audience = Some(vec!["api://a".into(), "api://gateway".into()]);
        world.check(&world.sign("", ""), Err(TokenFault::Audience));
        let caller = world.verify(world.sign("https://gw.example/mcp", "api://gateway").as_bytes()).unwrap();
        assert_eq!(caller.endpoints, Endpoints::all());
        world.issuers[1].audience = Some(vec![]);
        world.check(&world.sign("", ""), Err(TokenFault::Audience));
    }

    /// [K1] Each algorithm that can be allowed, and none for another.
    #[test]
    fn every_algorithm_verifies() {
        let mut world = World::new();
        let claims = encode(CLAIMS);
        world.keys = keyring(&[RSA_SET, RSA_SET]);
        for (algorithm, signature) in RSA_SIGNATURES {
            let header = encode(HEADER.replace("ES256", algorithm).replace("KEY", "rsa"));
            world.check(&format!("{header}.{claims}.{signature}"), Ok(()));
            let swapped = if algorithm.starts_with('R') { "PS256" } else { "RS256" };
            let header = encode(HEADER.replace("ES256", swapped).replace("KEY", "rsa"));
            world.check(&format!("{header}.{claims}.{signature}"), Err(TokenFault::Signature));
        }
        let random = SystemRandom::new();
        let p384 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random).unwrap();
        let p384 = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, p384.as_ref(), &random).unwrap();
        let (x, y) = p384.public_key().as_ref()[1..].split_at(48);
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ed = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
        let set = format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-384","kid":"ES384","x":"{}","y":"{}"}},
                {{"kty":"OKP","crv":"Ed25519","kid":"EdDSA","alg":"EdDSA","x":"{}"}}]}}"#,
            encode(x),
            encode(y),
            encode(ed.public_key())
        );
        world.keys = keyring(&[RSA_SET, &set]);
        for algorithm in ["ES384", "EdDSA"] {
            let header = encode(HEADER.replace("ES256", algorithm).replace("KEY", algorithm));
            let signed = format!("{header}.{claims}");
            let signature = match algorithm {
                "ES384" => encode(p384.sign(&random, signed.as_bytes()).unwrap()),
                _ => encode(ed.sign(signed.as_bytes())),
            };
            world.check(&format!("{signed}.{signature}"), Ok(()));
            world
                .check(&format!("{signed}.{}", signature.replace(&signature[..4], "AAAA")), Err(TokenFault::Signature));
        }
    }

    /// [K8] Nothing in a token can be altered or cut off.
    #[test]
    fn no_single_character_can_be_changed() {
        let world = World::new();
        let good = world.sign("", "").into_bytes();
        for index in 0..good.len() {
            for other in *b"A_g.=" {
                let mut changed = good.clone();
                changed[index] = other;
                assert_eq!(world.verify(&changed).is_ok(), changed == good, "{index}");
            }
            assert!(world.verify(&good[..index]).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(header in ".{0,60}", claims in prop::collection::vec(any::<u8>(), 0..80), tail in ".{0,20}") {
            let world = World::new();
            let token = format!("{}.{}.{tail}", encode(&header), encode(&claims));
            prop_assert!(world.verify(token.as_bytes()).is_err());
            prop_assert!(world.verify(header.as_bytes()).is_err());
            prop_assert!(world.verify(&claims).is_err());
        }
    }

    /// The signature layer alone, by the same steps as `verify`: Wycheproof's payloads are no claims.
    fn signature_layer(token: &str, keys: &KeySet) -> Result<(), TokenFault> {
        let parts = Parts::split(token.as_bytes())?;
        let header = decode(parts.header)?;
        let header = Object::parse(&header).map_err(TokenFault::Header)?;
        let header = Header::read(&header)?;
        decode(parts.claims)?;
        let signature = decode(parts.signature)?;
        let verified = keys.verify(header.algorithm, header.key, parts.signed, &signature);
        verified.map(drop).map_err(|_| TokenFault::Signature)
    }

    /// Valid vectors whose header names another algorithm than their key does (PS384 under a PS256 key): RFC 7517,
    /// 4.4 says what `alg` is for, and here it binds.
    const KEY_DISAGREES: [u64; 2] = [346, 350];

    /// [K1] [K2] [K8] No invalid vector is accepted; of the valid ones, all of an algorithm that can be allowed.
    #[test]
    fn wycheproof() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/jwt");
        if !folder.exists() {
            eprintln!("SKIPPED: no Wycheproof vectors at {}", folder.display());
            return;
        }
        let algorithms: Vec<_> = Algorithm::all().collect();
        let (mut accepted, mut refused, mut wrong) = (0, 0, String::new());
        for kind in ["signature", "crypto", "key", "encryption"] {
            let text = std::fs::read(folder.join(format!("json_web_{kind}_test.json"))).unwrap();
            let file: Value = serde_json::from_slice(&text).unwrap();
            for group in file["testGroups"].as_array().unwrap() {
                let key = if group["public"].is_null() { &group["private"] } else { &group["public"] };
                let set = if key["keys"].is_array() { key.to_string() } else { format!("{{\"keys\":[{key}]}}") };
                let keys = KeySet::parse(set.as_bytes(), &algorithms);
                let first = if key["keys"].is_array() { &key["keys"][0] } else { key };
                let allowed = first["alg"].as_str().and_then(Algorithm::parse).is_some();
                for test in group["tests"].as_array().unwrap() {
                    let token = if test["jws"].is_null() { &test["jwe"] } else { &test["jws"] };
                    let token = token.as_str().map_or_else(|| token.to_string(), str::to_owned);
                    let id = test["tcId"].as_u64().unwrap();
                    let disagrees = kind == "signature" && KEY_DISAGREES.contains(&id);
                    let want = test["result"] == "valid" && allowed && !disagrees;
                    let got = keys.as_ref().is_ok_and(|keys| signature_layer(&token, keys).is_ok());
                    accepted += usize::from(got);
                    refused += usize::from(!got);
                    if got != want {
                        writeln!(wrong, "{kind} {id} {}: accepted {got}", test["comment"]).unwrap();
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
        eprintln!("Wycheproof: {accepted} accepted, {refused} refused");
        assert_eq!(accepted + refused, 401 + 83 + 26 + 139);
        assert_eq!(accepted, 35, "the valid ones of an allowed algorithm");
    }

    const TYPE: TokenFault = TokenFault::Claims(JsonFault::WrongType);
    const TWICE: TokenFault = TokenFault::Claims(JsonFault::Malformed);
    const HEADER_TYPE: TokenFault = TokenFault::Header(JsonFault::WrongType);
    const HEADER_TWICE: TokenFault = TokenFault::Header(JsonFault::Malformed);
    const UNKNOWN: TokenFault = TokenFault::KeyUnknown { issuer: 1, issued_unix_s: Some(1_799_999_990) };

    /// What is wrong with the claims: `from` becomes `to`.
    const FALSE_CLAIMS: &[(&str, &str, TokenFault)] = &[
        (r#""iss":"https://issuer.example","#, "", TokenFault::Issuer),
        ("https://issuer.example", "https://issuer.example/", TokenFault::Issuer),
        ("https://issuer.example", "https://Issuer.example", TokenFault::Issuer),
        ("https://issuer.example", "", TokenFault::Issuer),
        (r#""https://issuer.example""#, "7", TYPE),
        (r#""https://issuer.example""#, r#"["https://issuer.example"]"#, TYPE),
        (r#""iss""#, r#""iss":"https://other.example","iss""#, TWICE),
        (r#""sub""#, r#""sub":"admin","sub""#, TWICE),
        (r#""sub""#, r#""s\u0075b":"admin","sub""#, TWICE),
        (r#""sub""#, r#""x":{"a":1,"a":2},"sub""#, TWICE),
        (r#""sub":"alice","#, "", TokenFault::Subject),
        (r#""sub":"alice""#, r#""sub":"""#, TokenFault::Subject),
        (r#""sub":"alice""#, r#""sub":null"#, TYPE),
        (r#""sub":"alice""#, r#""sub":1"#, TYPE),
        (r#""agent-7""#, "7", TYPE),
        (r#""agent-7""#, "null", TYPE),
        (r#"["triage","unknown"]"#, "7", TYPE),
        (r#"["triage","unknown"]"#, r#"["triage",7]"#, TYPE),
        (r#"["triage","unknown"]"#, r#"{"triage":true}"#, TYPE),
        (r#""aud":"https://gw.example/mcp","#, "", TokenFault::Audience),
        ("gw.example/mcp", "gw.example/mcp/", TokenFault::Audience),
        ("gw.example/mcp", "gw.example/MCP", TokenFault::Audience),
        ("gw.example/mcp", "gw.example", TokenFault::Audience),
        ("gw.example/mcp", "gw.example/mcp https://gw.example/s/docs/mcp", TokenFault::Audience),
        (r#""https://gw.example/mcp""#, "[]", TokenFault::Audience),
        (r#""https://gw.example/mcp""#, "null", TYPE),
        (r#""https://gw.example/mcp""#, r#"["https://gw.example/mcp",1]"#, TYPE),
        (r#""https://gw.example/mcp""#, r#"{"a":"https://gw.example/mcp"}"#, TYPE),
        (r#","exp":1800000300"#, "", TokenFault::NoExpiry),
        ("1800000300", "1799999970", TokenFault::Expired),
        ("1800000300", "1799999970.9", TokenFault::Expired),
        ("1800000300", "0", TokenFault::Expired),
        ("1800000300", r#""1800000300""#, TYPE),
        ("1800000300", "null", TYPE),
        ("1800000300", "[1800000300]", TYPE),
        ("1800000300", "true", TYPE),
        ("1800000300", "-1", TYPE),
        ("1800000300", "1e300", TYPE),
        ("1800000300", "1800000300000", TYPE),
        ("1800000300", "18446744073709551615", TYPE),
        ("1800000300", "1e400", TWICE),
        ("1800000300", "NaN", TWICE),
        ("1799999990", "1800000031", TokenFault::NotYet),
        ("1799999990", "1800000030.1", TokenFault::NotYet),
        ("1799999990", r#""1799999990""#, TYPE),
        (r#""iat""#, r#""nbf":1800000031,"iat""#, TokenFault::NotYet),
        (r#""iat""#, r#""nbf":"0","iat""#, TYPE),
        (r#""scope""#, r#""cnf":{"jkt":"x"},"scope""#, TokenFault::Bound),
        (r#""scope""#, r#""cnf":null,"scope""#, TokenFault::Bound),
    ];

    /// What is wrong with the header: `from` becomes `to`.
    const FALSE_HEADERS: &[(&str, &str, TokenFault)] = &[
        ("ES256", "none", TokenFault::AlgorithmUnknown),
        ("ES256", "None", TokenFault::AlgorithmUnknown),
        ("ES256", "nOnE", TokenFault::AlgorithmUnknown),
        ("ES256", "", TokenFault::AlgorithmUnknown),
        ("ES256", "HS256", TokenFault::AlgorithmUnknown),
        ("ES256", "HS512", TokenFault::AlgorithmUnknown),
        ("ES256", "es256", TokenFault::AlgorithmUnknown),
        ("ES256", "ES256 ", TokenFault::AlgorithmUnknown),
        ("ES256", "ES512", TokenFault::AlgorithmUnknown),
        ("ES256", "ES256K", TokenFault::AlgorithmUnknown),
        ("ES256", "dir", TokenFault::AlgorithmUnknown),
        (r#""alg":"ES256","#, "", TokenFault::AlgorithmUnknown),
        (r#""ES256""#, "null", HEADER_TYPE),
        (r#""ES256""#, r#"["ES256"]"#, HEADER_TYPE),
        (r#""alg""#, r#""alg":"none","alg""#, HEADER_TWICE),
        (r#""alg""#, r#""al\u0067":"none","alg""#, HEADER_TWICE),
        ("ES256", "ES384", TokenFault::KeyUnfit),
        ("ES256", "RS256", TokenFault::KeyUnfit),
        ("ES256", "EdDSA", TokenFault::KeyUnfit),
        (r#""typ":"at+jwt","#, "", TokenFault::Type),
        ("at+jwt", "dpop+jwt", TokenFault::Type),
        ("at+jwt", "id_token", TokenFault::Type),
        ("at+jwt", "text/at+jwt", TokenFault::Type),
        ("at+jwt", "application/x/at+jwt", TokenFault::Type),
        ("at+jwt", "", TokenFault::Type),
        (r#""at+jwt""#, "1", HEADER_TYPE),
        (r#""typ""#, r#""crit":[],"typ""#, TokenFault::Critical),
        (r#""typ""#, r#""crit":["exp"],"exp":1,"typ""#, TokenFault::Critical),
        (r#""typ""#, r#""crit":["b64"],"b64":false,"typ""#, TokenFault::Critical),
        (r#""typ""#, r#""b64":false,"typ""#, TokenFault::Unencoded),
        (r#""typ""#, r#""b64":"true","typ""#, TokenFault::Unencoded),
        ("KEY", "", UNKNOWN),
        ("KEY", "other", UNKNOWN),
        ("KEY", "../../dev/null", UNKNOWN),
        ("KEY", "' OR 1=1 --", UNKNOWN),
        ("KEY", "KEY ", UNKNOWN),
        (r#""KEY""#, "null", HEADER_TYPE),
        (r#""KEY""#, "0", HEADER_TYPE),
        ("}", "}{", HEADER_TWICE),
        ("{", "[", HEADER_TWICE),
        ("{", "\u{feff}{", HEADER_TWICE),
    ];

    /// A public key whose private half was thrown away after signing `CLAIMS` under `HEADER` six times.
    const RSA_SET: &str = r#"{"keys":[{"kty":"RSA","use":"sig","kid":"rsa","e":"AQAB","n":"xWrf-m0HRqgHYoMEbsKLOj4rlXTdvwpue7vKoPK04jCHnCKg0r3cv9zutVW3TDyOPNy4sKDxRzy5WdRD36FdWN7W1LGKBtSfSR66hJjWodzBxMchlDRCqTQCgXf3eA9tstLar8AD6Kh7sQpMSfMruoQYWsubvfXJeAvoSe5NiXJNnf_hkYFq0GYMBb5Ax0UE4adZ2o8zDnybPSART-EwKgcGFwJnHXklNms9vgWPt5eZtvuD9jdQFFw_XOCk5xM8T8jAchkdJB4GW6einKT7M-BgZwjegD-__rJGXH1ZDBg8oWS2-Si38NgHa3yvUXKe61r3CVZDcAFAqaK66EvWNQ"}]}"#;
    const RSA_SIGNATURES: [(&str, &str); 6] = [
        (
            "RS256",
            "H4hWrYqlYVJU4-VQUeVE0nTmz86_JLYt7rYIIL8hi5xwjcxpZkFyELVrqPkFBhzhDN_EefiibCRZ5ZMF2VkDj9JWurVWdkZU6BHwqI9pCMOX6EtZkIOjSEpVlb4riGQS42nElAwy83m6IfnktRTCcXMuxa1H1Yc5FJiZuJc7l8y5qIuIaMWnDLPUubx5mNE2Cd5Pjw8Cy4dG43tBRunKWZQpCDU5e5R_9HuFktlgHRenmsQdgGCWrxVA6ffpFj9bVaZJjPpnZvHirsB0npezbQMGYf-MjX5wWdOKNzev10GTXhJZnEwVfvOVJYs_GoQJKjddFfEE47IG13Y-fKdIFA",
        ),
        (
            "RS384",
            "pfLyPDZsaprCrlBgQsiIi6xkqphdmz-jM_bhX6Rh9d1MSwW6cBNakhltd_fqApgI4NvTCdLgyPy7RajifVG9e-SRfyAl05EYY-CZQQWiGmcFzskjd2Gk2yYyUNitSN458aoi0aRUrjDM28xX1DFXBh-4-4zJMuDJKkOSRROtB4Md_wNtuIeIfV_6dJQDuT7_y-1-Xmm72ZYSl46ta2jo_tkltNo0kpsJ8sSHqqHF1g7-qC9_f27FfhWhqLR7jDZpCgTLGE3mdJfT6KVe9NkaGExMA_H99tHq48ivU8zKtNd8lUMXoQfHlYd3hhNU6SbvVsienLDShhn1ajWHgxW2TA",
        ),
        (
            "RS512",
            "v19WueMfwFT9lzmnI0gkV4_M_7ZHAjK71SKP6HHNaRv_b6vtDrdbLJWyCdkm7IF3Pts9z5pGExZmt3dajDe3slnrqw3RgETn1Ct6vRBm9ye5edPeKMtR0OuvX_pyGONTBz7-Vp8m_6eHCHsI2_rJBwbQUB9TAjKB2f6jrAySRvvxiEXQ7ooGI0Ph4qUnpRCMKTXzxVRLj_vNhauj-sbW_vtEonQReiri_JxJvAIjHQSH3XYskx7KWu1T9Ti_Yg336s1Xwjg3OnAiQCgrJfmMKG066Cegu6pskl4h3Uqiqf3f0dZo3peGUqaLfdw8fBaxT4Tovp6Q6mgWNboo18VVhg",
        ),
        (
            "PS256",
            "dZd7bilau5Rci4S7MjG6fBwYa7PL6c0C_hbb9l40_g7j6UTx0TbzUmSefHhOVIZnCC3gmVMOJxF6FoZmTbl54mQtVlrguuN81SeT-TAsIvADlwv23z5DGhKxIBlG4olN93COd4nWXpTOCSBIgwyi6H4I8sL3JEaDvRCXjCFyMdSdHW1x_y94MpBRoyKf5OwOX3QN7Bw379D-73j1ifTHQwKO3VymPJRYk_nZ7bkV9DDCBEbVK3PFL2sbekGTHV2g32EE7SWa2kPEPwVBhUIHULDfe1zmjFeCLLQld3QkeIZgsmZ-CILN1-fYH7o5BSNQKJpiUGsknCFP4v47CAfecA",
        ),
        (
            "PS384",
            "PL_H-GWv0qomP2CR9Pai7cSBU3F-cDUJ2MrkXm-xsRne2QGpATt3G2dbUn0xe8Yq0LSeLIrfGgc-EtWH9l9ZwyKXOlRBDkgAu28M0KkbiLbW2Yd63QdUGCxm3kp0ofyi993hOQqT-BYypl9G2dqsRn7_razoQWXUJtI3TovMjEkr1pqzh2Q9g92eyOOGDkNdP_zumgPEZFxM9fpFVcg5udWK9-9gEOJxhpa3J5Gbyp-7zB7HBkiCORrvbbxnm8vT3Eyf5kWD2A-U2Lofdz2wiKKO0yUbmcP4w580pnuTUsQmemxC4z89C9Gb6pNYYdUxO_VFdYdK4dSxZ6I8e2zT3Q",
        ),
        (
            "PS512",
            "Gf4OvkcgAQIrv5Wy-qAXcFsLLJ7VxwQoqsAuc6NdmTKHM9FSTO9ksZhQFS_Rght5D980SbmQgOGNgoRAHkem7UQ9COXlrV0iRz2vEEJHeKW5pnU4XzcMjMKAp_Qi2lIIbwazVLQ6PvCF2iUjzsLoZXMiWfSxDHPNZxPTFNEqySJ4iW0ZjuE2ll5NoAexDh4nuCcLbUxe9VW5Ib27JmuYVEXPXmNVw64iWNkNcrqO5b9u1T4JDNnKEO8bDTKOCmQJvuhhnVUlnNNsnmQ7yZPNeCoOk51mdejzzxI-3zYfZQlkGMKukR2JW4I4CP8b1aZV5f5s7nrAwU8bnvBbDGGYFg",
        ),
    ];
}
