//! A development issuer: a key pair, its public set, and tokens signed with it. `portcullis token` and `demo` use it;
//! a production gateway signs nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::SecureRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use thiserror::Error;

/// An ES256 key pair with its id: the RFC 7638 thumbprint of the public key.
pub struct MintKey {
    pair: EcdsaKeyPair,
    pkcs8: Box<[u8]>,
    id: String,
}

/// Why no key or token was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MintFault {
    /// The random source failed.
    #[error("the random source failed")]
    Random,
    /// Not a PKCS#8 document of a P-256 key pair, as [`MintKey::pkcs8`] gives it.
    #[error("not a P-256 key pair in PKCS#8")]
    Key,
}

/// What a minted token says.
#[derive(Clone, Debug)]
pub struct Grant<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `aud`: one resource as text, several as an array.
    pub audience: &'a [&'a str],
    /// `sub`.
    pub subject: &'a str,
    /// `client_id`.
    pub agent: Option<&'a str>,
    /// `tasks`; left out when empty.
    pub tasks: &'a [&'a str],
    /// `iat`, seconds since 1970.
    pub issued_at: u64,
    /// `exp`, seconds since 1970.
    pub expires: u64,
}

impl MintKey {
    /// A new key pair.
    ///
    /// # Errors
    /// [`MintFault::Random`].
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, MintFault> {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, random).map_err(|_| MintFault::Random)?;
        Self::from_pkcs8(pkcs8.as_ref(), random)
    }

    /// A key pair kept earlier.
    ///
    /// # Errors
    /// [`MintFault::Key`].
    pub fn from_pkcs8(pkcs8: &[u8], random: &dyn SecureRandom) -> Result<Self, MintFault> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, random).map_err(|_| MintFault::Key)?;
        let (x, y) = coordinates(&pair);
        // RFC 7638, 3: required members only, in this order, no blanks.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        Ok(Self { pair, pkcs8: pkcs8.into(), id })
    }

    /// The key pair as a PKCS#8 document: secret.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Its `kid`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public key set, as `jwks.file` reads it.
    #[must_use]
    pub fn key_set(&self) -> String {
        let (x, y) = coordinates(&self.pair);
        let key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id, "x": x, "y": y,
        });
        format!("{:#}\n", json!({ "keys": [key] }))
    }

    /// An access token (RFC 9068).
    ///
    /// # Errors
    /// [`MintFault::Random`].
    pub fn mint(&self, grant: &Grant<'_>, random: &dyn SecureRandom) -> Result<String, MintFault> {
        let mut jti = [0; 16];
        random.fill(&mut jti).map_err(|_| MintFault::Random)?;
        let mut claims = json!({
            "iss": grant.issuer,
            "sub": grant.subject,
            "iat": grant.issued_at,
            "exp": grant.expires,
            "jti": URL_SAFE_NO_PAD.encode(jti),
        });
        claims["aud"] = match grant.audience {
            [one] => json!(one),
            several => json!(several),
        };
        if let Some(agent) = grant.agent {
            claims["client_id"] = json!(agent);
        }
        if !grant.tasks.is_empty() {
            claims["tasks"] = json!(grant.tasks);
        }
        self.sign(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": self.id }), &claims, random)
    }

    /// Signs any claims under any header, sound or not: the header is sent as given.
    ///
    /// # Errors
    /// [`MintFault::Random`].
    pub fn sign(&self, header: &Value, claims: &Value, random: &dyn SecureRandom) -> Result<String, MintFault> {
        self.sign_text(header.to_string().as_bytes(), claims.to_string().as_bytes(), random)
    }

    /// The same over the very bytes given.
    pub(crate) fn sign_text(
        &self,
        header: &[u8],
        claims: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<String, MintFault> {
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.pair.sign(random, token.as_bytes()).map_err(|_| MintFault::Random)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

/// `x` and `y` as a key set writes them.
fn coordinates(pair: &EcdsaKeyPair) -> (String, String) {
    // 0x04 and two coordinates of 32 bytes (SEC 1, 2.3.3): what ring makes of a P-256 key.
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;
    use crate::identity::keys::{Algorithm, KeySet};

    #[test]
    fn a_key_kept_is_the_same_key() {
        let random = SystemRandom::new();
        let key = MintKey::generate(&random).unwrap();
        let again = MintKey::from_pkcs8(key.pkcs8(), &random).unwrap();
        assert_eq!((key.id(), key.key_set()), (again.id(), again.key_set()));
        assert_ne!(key.id(), MintKey::generate(&random).unwrap().id());
        let cut = &key.pkcs8()[1..];
        assert_eq!(MintKey::from_pkcs8(cut, &random).err(), Some(MintFault::Key));
    }

    #[test]
    fn its_public_set_holds_no_secret_and_can_serve() {
        let key = MintKey::generate(&SystemRandom::new()).unwrap();
        let text = key.key_set();
        assert!(!text.contains("\"d\""));
        let set = KeySet::parse(text.as_bytes(), &[Algorithm::Es256]).unwrap();
        assert_eq!((set.len(), set.left_out()), (1, 0));
    }
}
