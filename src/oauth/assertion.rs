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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::{DecodingKey, Validation};
    use ring::signature::KeyPair as _;
    use serde_json::Value;

    use super::*;
    use crate::identity::provider;
    use crate::oauth::client::{ClientAuth, ClientKeyFault, Proof};
    use crate::oauth::form::Form;

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
    }

    /// A key of each kind: PEM, and what verifies it.
    fn keys() -> Vec<(Vec<Algorithm>, String, DecodingKey)> {
        let random = SystemRandom::new();
        let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let p384 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let public = |it: &[u8]| URL_SAFE_NO_PAD.encode(it);
        let ec = |pair: EcdsaKeyPair| {
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            DecodingKey::from_ec_components(&public(x), &public(y)).unwrap()
        };
        let of256 = ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, p256.as_ref(), &random).unwrap());
        let of384 = ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, p384.as_ref(), &random).unwrap());
        let pair = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
        let of_ed = DecodingKey::from_ed_components(&public(pair.public_key().as_ref())).unwrap();
        // As openssl writes it: the seed alone (RFC 8410, 7), which stands in ring's own form, too.
        let seed = &ed.as_ref()[16..48];
        let bare = [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20], seed].concat();
        let rsa = include_str!("testdata/rsa.pem");
        let der = STANDARD.decode(rsa.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
        let pair = RsaKeyPair::from_pkcs8(&der).unwrap();
        let (n, e): (Vec<u8>, Vec<u8>) = (
            ring::rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public()).n,
            ring::rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public()).e,
        );
        let of_rsa = DecodingKey::from_rsa_components(&public(&n), &public(&e)).unwrap();
        let all = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].map(|name| Algorithm::parse(name).unwrap());
        vec![
            (vec![Algorithm::Es256], pem(p256.as_ref()), of256),
            (vec![Algorithm::Es384], pem(p384.as_ref()), of384),
            (vec![Algorithm::EdDsa], pem(ed.as_ref()), of_ed.clone()),
            (vec![Algorithm::EdDsa], pem(&bare), of_ed),
            (all.to_vec(), rsa.to_owned(), of_rsa),
        ]
    }

    /// RFC 7523, 3: verified as an authorization server does, by another library.
    #[test]
    fn every_algorithm_signs_what_verifies() {
        provider::install();
        for (algorithms, pem, public) in keys() {
            for algorithm in algorithms {
                let key = SigningKey::from_pem(&pem, algorithm, Some("k1".into()), None).unwrap();
                let client = ClientAuth { id: "gateway".into(), proof: Proof::PrivateKey(Arc::new(key)) };
                let mut form = Form::new();
                let endpoint = "https://as.example/token";
                let occasion = Occasion { endpoint, now_unix_s: 1_000, random: &SystemRandom::new() };
                assert_eq!(client.prove(&mut form, &occasion), Ok(None));
                let body = form.finish();
                let sent: Vec<_> = url::form_urlencoded::parse(body.reveal()).into_owned().collect();
                let of = |name: &str| sent.iter().find(|it| it.0 == name).map(|it| it.1.clone()).unwrap();
                assert_eq!(of("client_id"), "gateway");
                assert_eq!(of("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
                let theirs = algorithm.as_str().parse().unwrap();
                let mut rules = Validation::new(theirs);
                rules.validate_exp = false;
                rules.set_audience(&[endpoint]);
                rules.set_issuer(&["gateway"]);
                rules.sub = Some("gateway".into());
                let read = jsonwebtoken::decode::<Value>(of("client_assertion"), &public, &rules);
                let read = read.unwrap_or_else(|fault| panic!("{}: {fault}", algorithm.as_str()));
                assert_eq!(read.header.kid.as_deref(), Some("k1"));
                assert_eq!((&read.claims["iat"], &read.claims["exp"]), (&json!(1_000), &json!(1_060)));
                assert_eq!(read.claims["jti"].as_str().unwrap().len(), 22);
            }
        }
    }

    #[test]
    fn each_is_for_one_use_and_for_whom_it_says() {
        let (_, pem, _) = keys().remove(0);
        let key = SigningKey::from_pem(&pem, Algorithm::Es256, None, Some("https://as.example/".into())).unwrap();
        let occasion = Occasion { endpoint: "https://as.example/token", now_unix_s: 1, random: &SystemRandom::new() };
        let claims = |assertion: &Secret| {
            let text = std::str::from_utf8(assertion.reveal()).unwrap();
            let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap();
            serde_json::from_slice::<Value>(&claims).unwrap()
        };
        let two = [(); 2].map(|()| claims(&signed(&key, "c", &occasion).unwrap()));
        assert_ne!(two[0]["jti"], two[1]["jti"]);
        assert_eq!(two[0]["aud"], "https://as.example/");
    }

    #[test]
    fn what_is_no_key_is_said() {
        let check = |pem: &str, algorithm: Algorithm, want: ClientKeyFault| {
            assert_eq!(
                SigningKey::from_pem(pem, algorithm, None, None).err(),
                Some(want),
                "{}",
                &pem[..pem.len().min(40)]
            );
        };
        let all = keys();
        let (p256, rsa) = (&all[0].1, &all[4].1);
        check(p256, Algorithm::Es384, ClientKeyFault::Key(Algorithm::Es384));
        check(p256, Algorithm::Rs256, ClientKeyFault::Key(Algorithm::Rs256));
        check(rsa, Algorithm::EdDsa, ClientKeyFault::Key(Algorithm::EdDsa));
        check("", Algorithm::Es256, ClientKeyFault::Missing);
        check(
            "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----",
            Algorithm::Es256,
            ClientKeyFault::Missing,
        );
        check(&p256.replace("PRIVATE", "RSA PRIVATE"), Algorithm::Es256, ClientKeyFault::Form);
        check(&p256.replace("PRIVATE", "EC PRIVATE"), Algorithm::Es256, ClientKeyFault::Form);
        check(&p256.replace("PRIVATE", "ENCRYPTED PRIVATE"), Algorithm::Es256, ClientKeyFault::Encrypted);
        check(&format!("{p256}{rsa}"), Algorithm::Es256, ClientKeyFault::Several);
        check(&p256.replace("-----END", "-----"), Algorithm::Es256, ClientKeyFault::Key(Algorithm::Es256));
        check(&p256.replace("MI", "!!"), Algorithm::Es256, ClientKeyFault::Key(Algorithm::Es256));
    }
}
