//! Client assertions (RFC 7523, 2.2 and 3): a JWT by which a client proves that it holds its private key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, RsaEncoding, RsaKeyPair,
};
use serde_json::json;

use super::client::{Occasion, SigningKey};
use crate::base::limits::ASSERTION_S;
use crate::base::secret::Secret;
use crate::identity::keys::Algorithm;

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionFault {
    /// The key is none for its algorithm.
    #[error("the client's private key is none for its algorithm")]
    Key,
    /// The random source failed.
    #[error("the random source failed")]
    Random,
}

/// A new assertion of this client, for one use within `limits::ASSERTION_S`.
///
/// # Errors
/// `AssertionFault`.
pub fn signed(key: &SigningKey, client: &str, occasion: &Occasion<'_>) -> Result<Secret, AssertionFault> {
    let mut id = [0; 16];
    occasion.random.fill(&mut id).map_err(|_| AssertionFault::Random)?;
    let mut header = json!({ "alg": key.algorithm.as_str(), "typ": "JWT" });
    if let Some(id) = &key.id {
        header["kid"] = json!(id);
    }
    let claims = json!({
        "iss": client,
        "sub": client,
        "aud": key.audience.as_deref().unwrap_or(occasion.endpoint),
        "jti": URL_SAFE_NO_PAD.encode(id),
        "iat": occasion.now_unix_s,
        "exp": occasion.now_unix_s + ASSERTION_S,
    });
    let mut text = URL_SAFE_NO_PAD.encode(header.to_string());
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut text);
    let signature = sign(key, text.as_bytes(), occasion.random)?;
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut text);
    // Until it is complete it is of no use to anybody, and it is complete only here.
    Ok(Secret::from(text))
}

/// Whether the key is one for its algorithm.
#[must_use]
pub fn can_sign(key: &SigningKey) -> bool {
    sign(key, b"portcullis", &SystemRandom::new()).is_ok()
}

fn sign(key: &SigningKey, message: &[u8], random: &dyn SecureRandom) -> Result<Vec<u8>, AssertionFault> {
    let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| {
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.der.reveal(), random).map_err(|_| AssertionFault::Key)?;
        let signature = pair.sign(random, message).map_err(|_| AssertionFault::Random)?;
        Ok(signature.as_ref().to_vec())
    };
    let rsa = |padding: &'static dyn RsaEncoding| {
        let pair = RsaKeyPair::from_pkcs8(key.der.reveal()).map_err(|_| AssertionFault::Key)?;
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(padding, random, message, &mut signature).map_err(|_| AssertionFault::Random)?;
        Ok(signature)
    };
    match key.algorithm {
        Algorithm::Es256 => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::Es384 => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_SHA256),
        Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
        Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
        Algorithm::Ps256 => rsa(&signature::RSA_PSS_SHA256),
        Algorithm::Ps384 => rsa(&signature::RSA_PSS_SHA384),
        Algorithm::Ps512 => rsa(&signature::RSA_PSS_SHA512),
        // Without its public half, as openssl writes it, too (RFC 8410, 7).
        Algorithm::EdDsa => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.der.reveal()).map_err(|_| AssertionFault::Key)?;
            Ok(pair.sign(message).as_ref().to_vec())
        }
    }
}
