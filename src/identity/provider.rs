//! jsonwebtoken's cryptography, on ring: the one signature library of the process. jsonwebtoken ships aws-lc and
//! RustCrypto back-ends only, and panics at its first use without one.
//!
//! Signatures only. Shared secrets (`HS*`) have no place here: an issuer's key that we could verify with is a key that
//! we could forge with, and a public key taken for a secret is the classic confusion (RFC 8725, 2.1).

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::jwk::{EllipticCurve, ThumbprintHash};
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};

/// The provider. `signer_factory` signs with ES256, ES384 and `EdDSA` from PKCS#8, `verifier_factory` verifies all that
/// [`check`] does.
pub static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(RingSigner::new(*algorithm, key)?)),
    verifier_factory: |algorithm, key| Ok(Box::new(RingVerifier::new(*algorithm, key)?)),
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: rsa_public_of_private,
        rsa_pub_components_from_public_key: |_| Err(new_error(ErrorKind::InvalidKeyFormat)),
        ec_pub_components_from_private_key: ec_public_of_private,
        ed_pub_components_from_private_key: ed_public_of_private,
        compute_digest,
    },
};

/// Makes [`PROVIDER`] the one that jsonwebtoken's own functions use. Calling it again changes nothing.
///
/// This room never asks jsonwebtoken for its default, so nothing here depends on it; it is for code that calls
/// `jsonwebtoken::encode` or `decode`, which would panic without.
pub fn install() {
    // A second call finds ours in place; another provider installed first is a different choice made by `main`.
    let _ = PROVIDER.install_default();
}

/// Verifies `signature` over `message`: RS/PS 256-512 (2048 to 8192 bits), ES256, ES384, `EdDSA` (Ed25519).
///
/// # Errors
/// The algorithm is another one, the key is of another family or malformed, or the signature is wrong: all alike.
pub fn check(
    algorithm: Algorithm,
    key: &DecodingKey,
    message: &[u8],
    signature: &[u8],
) -> std::result::Result<(), SignatureError> {
    if key.family() != algorithm.family() {
        return Err(SignatureError::new());
    }
    let verified = match (algorithm.family(), key.kind()) {
        (AlgorithmFamily::Rsa, kind) => {
            let parameters = rsa_parameters(algorithm).ok_or_else(SignatureError::new)?;
            match kind {
                DecodingKeyKind::RsaModulusExponent { n, e } => {
                    signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
                }
                DecodingKeyKind::SecretOrDer(der) => {
                    signature::UnparsedPublicKey::new(parameters, der).verify(message, signature)
                }
            }
        }
        (AlgorithmFamily::Ec | AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) => {
            let parameters = curve_parameters(algorithm).ok_or_else(SignatureError::new)?;
            signature::UnparsedPublicKey::new(parameters, point).verify(message, signature)
        }
        _ => return Err(SignatureError::new()),
    };
    verified.map_err(|_| SignatureError::new())
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static signature::RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn curve_parameters(algorithm: Algorithm) -> Option<&'static dyn signature::VerificationAlgorithm> {
    Some(match algorithm {
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &signature::ED25519,
        _ => return None,
    })
}

/// A key that verifies by one algorithm.
struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl RingVerifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self> {
        if rsa_parameters(algorithm).is_none() && curve_parameters(algorithm).is_none() {
            return Err(new_error(ErrorKind::UnsupportedAlgorithm));
        }
        if key.family() != algorithm.family() {
            return Err(new_error(ErrorKind::InvalidKeyFormat));
        }
        Ok(Self { algorithm, key: key.clone() })
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), SignatureError> {
        check(self.algorithm, &self.key, message, signature)
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// A private key that signs by one algorithm.
struct RingSigner {
    algorithm: Algorithm,
    key: PrivateKey,
}

enum PrivateKey {
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl RingSigner {
    fn new(algorithm: Algorithm, key: &EncodingKey) -> Result<Self> {
        let refused = || new_error(ErrorKind::InvalidKeyFormat);
        if key.family() != algorithm.family() {
            return Err(refused());
        }
        let bytes = key.as_bytes();
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => PrivateKey::Ecdsa(Box::new(ecdsa_pair(algorithm, bytes)?)),
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map_err(|_| refused())?;
                PrivateKey::Ed25519(Box::new(pair))
            }
            _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
        };
        Ok(Self { algorithm, key })
    }
}

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, SignatureError> {
        match &self.key {
            PrivateKey::Ecdsa(pair) => {
                let signed = pair.sign(&SystemRandom::new(), message).map_err(|_| SignatureError::new())?;
                Ok(signed.as_ref().to_vec())
            }
            PrivateKey::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

fn ecdsa_pair(algorithm: Algorithm, pkcs8: &[u8]) -> Result<EcdsaKeyPair> {
    let parameters = match algorithm {
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    };
    EcdsaKeyPair::from_pkcs8(parameters, pkcs8, &SystemRandom::new()).map_err(|_| new_error(ErrorKind::InvalidEcdsaKey))
}

fn rsa_public_of_private(key: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let pair = RsaKeyPair::from_der(key).map_err(|_| new_error(ErrorKind::InvalidKeyFormat))?;
    let parts: signature::RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
    Ok((parts.n, parts.e))
}

fn ec_public_of_private(key: &[u8], algorithm: Algorithm) -> Result<(EllipticCurve, Vec<u8>, Vec<u8>)> {
    let pair = ecdsa_pair(algorithm, key)?;
    let (curve, width) = match algorithm {
        Algorithm::ES256 => (EllipticCurve::P256, 32),
        _ => (EllipticCurve::P384, 48),
    };
    match pair.public_key().as_ref() {
        [4, point @ ..] if point.len() == 2 * width => {
            let (x, y) = point.split_at(width);
            Ok((curve, x.to_vec(), y.to_vec()))
        }
        _ => Err(new_error(ErrorKind::InvalidEcdsaKey)),
    }
}

fn ed_public_of_private(key: &[u8], curve: &EllipticCurve) -> Result<Vec<u8>> {
    if *curve != EllipticCurve::Ed25519 {
        return Err(new_error(ErrorKind::UnsupportedAlgorithm));
    }
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).map_err(|_| new_error(ErrorKind::InvalidEddsaKey))?;
    Ok(pair.public_key().as_ref().to_vec())
}

fn compute_digest(data: &[u8], hash: ThumbprintHash) -> Result<Vec<u8>> {
    let algorithm = match hash {
        ThumbprintHash::SHA256 => &digest::SHA256,
        ThumbprintHash::SHA384 => &digest::SHA384,
        ThumbprintHash::SHA512 => &digest::SHA512,
        _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    };
    Ok(digest::digest(algorithm, data).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Header, Validation, decode, encode};
    use ring::rand::SystemRandom;
    use serde_json::{Value, json};

    use super::*;

    /// Signs and verifies through jsonwebtoken's own functions: the provider is whole, not only what this room needs.
    fn check(algorithm: Algorithm, private: &EncodingKey, public: &DecodingKey) {
        let claims = json!({ "sub": "s", "exp": 4_102_444_800_u64 });
        let token = encode(&Header::new(algorithm), &claims, private).unwrap();
        let read = decode::<Value>(&token, public, &Validation::new(algorithm)).unwrap();
        assert_eq!(read.claims, claims);
        let other = token.replacen('.', ".e", 1);
        assert!(decode::<Value>(&other, public, &Validation::new(algorithm)).is_err());
    }

    #[test]
    fn jsonwebtoken_signs_and_verifies_on_ring() {
        install();
        install();
        let random = SystemRandom::new();
        for (algorithm, parameters) in [
            (Algorithm::ES256, &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            (Algorithm::ES384, &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        ] {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(parameters, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(parameters, pkcs8.as_ref(), &random).unwrap();
            let public = pair.public_key().as_ref();
            check(algorithm, &EncodingKey::from_ec_der(pkcs8.as_ref()), &DecodingKey::from_ec_der(public));
            let (_, x, y) = ec_public_of_private(pkcs8.as_ref(), algorithm).unwrap();
            assert_eq!([&[4][..], &x, &y].concat(), public);
        }
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let public = ed_public_of_private(pkcs8.as_ref(), &EllipticCurve::Ed25519).unwrap();
        check(Algorithm::EdDSA, &EncodingKey::from_ed_der(pkcs8.as_ref()), &DecodingKey::from_ed_der(&public));
    }

    #[test]
    fn shared_secrets_and_strange_keys_are_refused() {
        let secret = DecodingKey::from_secret(b"secret");
        let point = DecodingKey::from_ec_der(&[4; 65]);
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            assert!(RingVerifier::new(algorithm, &secret).is_err());
            assert!(RingSigner::new(algorithm, &EncodingKey::from_secret(b"secret")).is_err());
            assert!(check_refuses(algorithm, &secret) && check_refuses(algorithm, &point));
        }
        for algorithm in [Algorithm::ES256, Algorithm::ES384, Algorithm::RS256, Algorithm::EdDSA] {
            assert!(RingVerifier::new(algorithm, &secret).is_err());
            assert!(check_refuses(algorithm, &secret) && check_refuses(algorithm, &point));
            assert!(RingSigner::new(algorithm, &EncodingKey::from_ec_der(b"junk")).is_err());
        }
    }

    fn check_refuses(algorithm: Algorithm, key: &DecodingKey) -> bool {
        super::check(algorithm, key, b"message", &[0; 64]).is_err()
    }
}
