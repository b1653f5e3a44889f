//! A key set (RFC 7517) as a value. Fetching one is the plane's business; here it is read, strictly, and asked.
//!
//! - A key that cannot serve (another type or curve, for encryption, weak, an algorithm that the issuer is not allowed)
//!   is left out, as RFC 7517 section 5 asks: a set may hold keys for other purposes. `oct` keys are among them.
//! - Two keys with one id refuse the whole set, of whatever types: which one signed would depend on the reader.
//! - A private member in a public-key type (`d`, `p`, …) refuses the whole set: what was published is no longer a secret,
//!   and an operator should hear of it rather than run on.
//! - `x5c`, `x5u` and their like are never looked at.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use ring::digest;
use thiserror::Error;

use super::claims::{Json, JsonFault, Object};
use super::provider;
use crate::base::limits::{KEY_SET_BYTES_MAX, KEYS_MAX, RSA_BITS_MAX, RSA_BITS_MIN};

/// A signature algorithm that an issuer may be allowed (RFC 7518 section 3.1, RFC 8037). There is no other: neither
/// `none` nor a shared secret can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA, P-256, SHA-256.
    Es256,
    /// ECDSA, P-384, SHA-384.
    Es384,
    /// RSA PKCS#1 v1.5, SHA-256.
    Rs256,
    /// RSA PKCS#1 v1.5, SHA-384.
    Rs384,
    /// RSA PKCS#1 v1.5, SHA-512.
    Rs512,
    /// RSA PSS, SHA-256.
    Ps256,
    /// RSA PSS, SHA-384.
    Ps384,
    /// RSA PSS, SHA-512.
    Ps512,
    /// Ed25519.
    EdDsa,
}

/// Every algorithm with its name on the wire.
const ALGORITHMS: [(Algorithm, &str, jsonwebtoken::Algorithm, Kind); 9] = {
    use jsonwebtoken::Algorithm as Theirs;
    [
        (Algorithm::Es256, "ES256", Theirs::ES256, Kind::P256),
        (Algorithm::Es384, "ES384", Theirs::ES384, Kind::P384),
        (Algorithm::Rs256, "RS256", Theirs::RS256, Kind::Rsa),
        (Algorithm::Rs384, "RS384", Theirs::RS384, Kind::Rsa),
        (Algorithm::Rs512, "RS512", Theirs::RS512, Kind::Rsa),
        (Algorithm::Ps256, "PS256", Theirs::PS256, Kind::Rsa),
        (Algorithm::Ps384, "PS384", Theirs::PS384, Kind::Rsa),
        (Algorithm::Ps512, "PS512", Theirs::PS512, Kind::Rsa),
        (Algorithm::EdDsa, "EdDSA", Theirs::EdDSA, Kind::Ed25519),
    ]
};

impl Algorithm {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ALGORITHMS.iter().map(|row| row.0)
    }

    /// The algorithm of this name; case counts (RFC 7515, 4.1.1).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        ALGORITHMS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> &'static (Self, &'static str, jsonwebtoken::Algorithm, Kind) {
        ALGORITHMS.iter().find(|row| row.0 == self).expect("every algorithm has a row")
    }
}

/// What a key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// The public keys of one issuer that can serve.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    left_out: usize,
    /// Of the text.
    digest: [u8; 32],
}

/// What tells a key from every other, whatever it is called: half of the SHA-256 over its id and its material.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyMark(pub [u8; 16]);

/// Read from the same text.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

#[derive(Clone, Debug)]
struct Key {
    id: Option<Box<str>>,
    kind: Kind,
    /// `None` serves every algorithm of its kind.
    algorithm: Option<Algorithm>,
    material: DecodingKey,
    mark: KeyMark,
}

/// Why a key set is refused; the one in use stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyFault {
    /// Over `limits::KEY_SET_BYTES_MAX`.
    #[error("the key set is over 256 KiB")]
    TooLong,
    /// Over `limits::KEYS_MAX`.
    #[error("the key set has over 100 keys")]
    TooMany,
    /// Not a JSON object with an array `keys` of objects, or a member twice.
    #[error("not a JSON Web Key Set")]
    Malformed,
    /// Two keys have the same `kid`.
    #[error("two keys have the same kid")]
    DoubleId,
    /// A key carries private members: it must be considered stolen.
    #[error("the key set holds a private key")]
    Private,
    /// `keys` is an empty array: they are all withdrawn.
    #[error("the key set holds no key")]
    Empty,
    /// No key can serve an allowed algorithm.
    #[error("no key of the set can verify by an allowed algorithm")]
    NoneUsable,
}

/// Why a signature is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignatureFault {
    /// No key has this id, or none fits a token that names none.
    #[error("no such key")]
    KeyUnknown,
    /// The token names no key, and more than one fits.
    #[error("the token names no key and several fit")]
    KeyAmbiguous,
    /// The key of this id is for another algorithm.
    #[error("the key is for another algorithm")]
    KeyUnfit,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Wrong,
}

impl KeySet {
    /// Reads a key set, keeping the keys that can serve one of the `allowed` algorithms.
    ///
    /// # Errors
    /// [`KeyFault`].
    pub fn parse(json: &[u8], allowed: &[Algorithm]) -> Result<Self, KeyFault> {
        if json.len() > KEY_SET_BYTES_MAX {
            return Err(KeyFault::TooLong);
        }
        let set = Object::parse(json).map_err(|_| KeyFault::Malformed)?;
        let Some(Json::Array(given)) = set.get("keys") else {
            return Err(KeyFault::Malformed);
        };
        if given.len() > KEYS_MAX {
            return Err(KeyFault::TooMany);
        }
        if given.is_empty() {
            return Err(KeyFault::Empty);
        }
        let mut ids = Vec::new();
        let mut keys = Vec::new();
        for key in given {
            let Json::Object(key) = key else {
                return Err(KeyFault::Malformed);
            };
            let symmetric = matches!(key.get("kty"), Some(Json::Text(kind)) if kind == "oct");
            if !symmetric && PRIVATE_MEMBERS.iter().any(|member| key.get(member).is_some()) {
                return Err(KeyFault::Private);
            }
            if let Ok(Some(id)) = key.text("kid") {
                ids.push(id);
            }
            keys.extend(read_key(key, allowed).ok().flatten());
        }
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(KeyFault::DoubleId);
        }
        if keys.is_empty() {
            return Err(KeyFault::NoneUsable);
        }
        let mut text = [0; 32];
        text.copy_from_slice(digest::digest(&digest::SHA256, json).as_ref());
        Ok(Self { left_out: given.len() - keys.len(), keys, digest: text })
    }

    /// How many keys can serve.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Never: a set without a usable key is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether this very key is one of them.
    #[must_use]
    pub fn holds(&self, mark: KeyMark) -> bool {
        self.keys.iter().any(|key| key.mark == mark)
    }

    /// What tells each of them from every other.
    pub fn marks(&self) -> impl Iterator<Item = KeyMark> {
        self.keys.iter().map(|key| key.mark)
    }

    /// How many keys of the document cannot serve and were left out.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Verifies `signature` over `message` with the key of this id, which must be for this algorithm. Without an id,
    /// exactly one key of the set must fit the algorithm: trying several would make the set's size an attacker's lever.
    ///
    /// Says which key it was.
    ///
    /// # Errors
    /// [`SignatureFault`].
    pub fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<KeyMark, SignatureFault> {
        let (_, _, theirs, kind) = *algorithm.row();
        let fits = |key: &&Key| key.kind == kind && key.algorithm.is_none_or(|only| only == algorithm);
        let key = if id.is_some() {
            let named = self.keys.iter().find(|key| key.id.as_deref() == id).ok_or(SignatureFault::KeyUnknown)?;
            Some(named).filter(fits).ok_or(SignatureFault::KeyUnfit)?
        } else {
            let mut fitting = self.keys.iter().filter(fits);
            let first = fitting.next().ok_or(SignatureFault::KeyUnknown)?;
            if fitting.next().is_some() {
                return Err(SignatureFault::KeyAmbiguous);
            }
            first
        };
        provider::check(theirs, &key.material, message, signature).map_err(|_| SignatureFault::Wrong)?;
        Ok(key.mark)
    }
}

/// RFC 7518 sections 6.2.2 and 6.3.2, and the `priv` of post-quantum keys.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "priv"];

/// One key; `None` (or a fault in one of its members) when it cannot serve.
fn read_key(key: &Object<'_>, allowed: &[Algorithm]) -> Result<Option<Key>, JsonFault> {
    if key.text("use")?.is_some_and(|used| used != "sig") || !may_verify(key)? {
        return Ok(None);
    }
    let (kind, material) = match (key.text("kty")?, key.text("crv")?) {
        (Some("RSA"), None) => (Kind::Rsa, rsa(key)?),
        (Some("EC"), Some("P-256")) => (Kind::P256, point(key, 32)?),
        (Some("EC"), Some("P-384")) => (Kind::P384, point(key, 48)?),
        (Some("OKP"), Some("Ed25519")) => (Kind::Ed25519, octets(key, "x")?.and_then(ed25519)),
        _ => return Ok(None),
    };
    let algorithm = key.text("alg")?.map(Algorithm::parse);
    let serves = |algorithm: &Algorithm| algorithm.row().3 == kind && allowed.contains(algorithm);
    let useful = match algorithm {
        Some(Some(only)) => serves(&only),
        Some(None) => false,
        None => Algorithm::all().any(|any| serves(&any)),
    };
    let id = key.text("kid")?.map(Box::from);
    let mark = mark(key)?;
    Ok(material.filter(|_| useful).map(|material| Key { id, kind, algorithm: algorithm.flatten(), material, mark }))
}

/// Of its id and what it is made of, each with its length before it.
fn mark(key: &Object<'_>) -> Result<KeyMark, JsonFault> {
    let mut context = digest::Context::new(&digest::SHA256);
    for member in ["kid", "kty", "crv", "n", "e", "x", "y"] {
        let text = key.text(member)?.unwrap_or_default();
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let mut cut = [0; 16];
    cut.copy_from_slice(&context.finish().as_ref()[..16]);
    Ok(KeyMark(cut))
}

/// `key_ops`, where present, holds `verify` (RFC 7517, 4.3).
fn may_verify(key: &Object<'_>) -> Result<bool, JsonFault> {
    match key.get("key_ops") {
        None => Ok(true),
        Some(Json::Array(operations)) => Ok(operations.iter().any(|one| one.as_text() == Ok("verify"))),
        Some(_) => Err(JsonFault::WrongType),
    }
}

fn octets(key: &Object<'_>, member: &str) -> Result<Option<Vec<u8>>, JsonFault> {
    Ok(key.text(member)?.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()))
}

/// Coordinates have the full width of the curve (RFC 7518, 6.2.1.2). That the point is on it is checked at each
/// verification.
fn point(key: &Object<'_>, width: usize) -> Result<Option<DecodingKey>, JsonFault> {
    let (Some(x), Some(y)) = (octets(key, "x")?, octets(key, "y")?) else {
        return Ok(None);
    };
    if x.len() != width || y.len() != width {
        return Ok(None);
    }
    let uncompressed = [&[4][..], &x, &y].concat();
    Ok(Some(DecodingKey::from_ec_der(&uncompressed)))
}

#[expect(clippy::needless_pass_by_value, reason = "fits `and_then` above")]
fn ed25519(x: Vec<u8>) -> Option<DecodingKey> {
    (x.len() == 32).then(|| DecodingKey::from_ed_der(&x))
}

/// `n` and `e` in their shortest form (RFC 7518, 6.3.1), odd, `n` of 2048 to 8192 bits and not of the Infineon
/// generator, `e` from 3 to what ring takes (33 bits).
fn rsa(key: &Object<'_>) -> Result<Option<DecodingKey>, JsonFault> {
    let (Some(n), Some(e)) = (octets(key, "n")?, octets(key, "e")?) else {
        return Ok(None);
    };
    let sound = (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits(&n))
        && (2..=33).contains(&bits(&e))
        && n.last().is_some_and(|low| low & 1 == 1)
        && e.last().is_some_and(|low| low & 1 == 1)
        && !is_roca(&n);
    Ok(sound.then(|| DecodingKey::from_rsa_raw_components(&n, &e)))
}

/// Length of a big-endian number in bits; 0 when it has a leading zero byte or none at all.
fn bits(number: &[u8]) -> usize {
    match number.first() {
        None | Some(0) => 0,
        Some(first) => number.len() * 8 - first.leading_zeros() as usize,
    }
}

/// Whether a modulus bears the mark of Infineon's broken generator (CVE-2017-15361): modulo each small prime it is a
/// power of 65537. One sound key in some 2^28 looks so too, and is refused with them.
fn is_roca(n: &[u8]) -> bool {
    (3..=167u64).filter(|candidate| (2..*candidate).all(|divisor| candidate % divisor != 0)).all(|prime| {
        let residue = n.iter().fold(0, |rest, &byte| (rest * 256 + u64::from(byte)) % prime);
        let mut power = 1;
        (1..prime).any(|_| {
            power = power * 65_537 % prime;
            power == residue
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a set of these keys is good for: how many can serve, of all algorithms.
    fn check(keys: &str, want: Result<usize, KeyFault>) {
        let all: Vec<_> = Algorithm::all().collect();
        let set = KeySet::parse(format!("{{\"keys\":[{keys}]}}").as_bytes(), &all);
        assert_eq!(set.map(|set| set.len()), want, "{keys}");
    }

    fn number(bits: usize, low: u8) -> String {
        let mut bytes = vec![0x5A; bits.div_ceil(8)];
        bytes[0] = 1 << ((bits - 1) % 8);
        *bytes.last_mut().unwrap() = low;
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn rsa_key(n: &str, e: &str) -> String {
        format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"}}"#)
    }

    fn ec_key(extra: &str) -> String {
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{x}"{extra}}}"#)
    }

    /// [K2] Key type, curve, use, operations and algorithm.
    #[test]
    fn a_key_serves_what_it_is_for() {
        check(&ec_key(""), Ok(1));
        check(&ec_key(r#","use":"sig","alg":"ES256","kid":"a","key_ops":["verify"]"#), Ok(1));
        for useless in [
            r#","use":"enc""#,
            r#","use":7"#,
            r#","key_ops":["sign"]"#,
            r#","key_ops":"verify""#,
            r#","key_ops":[]"#,
            r#","alg":"ES384""#,
            r#","alg":"RS256""#,
            r#","alg":"HS256""#,
            r#","alg":"none""#,
            r#","alg":"ECDH-ES""#,
            r#","alg":1"#,
            r#","kid":1"#,
        ] {
            check(&ec_key(useless), Err(KeyFault::NoneUsable));
            check(&format!("{},{}", ec_key(useless), ec_key("")), Ok(1));
        }
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        for other in [
            r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#.to_owned(),
            format!(r#"{{"kty":"EC","crv":"P-384","x":"{x}","y":"{x}"}}"#),
            format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}=","y":"{x}"}}"#),
            format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"X25519","x":"{x}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed448","x":"{x}"}}"#),
            format!(r#"{{"kty":"oct","k":"{x}"}}"#),
            format!(r#"{{"kty":"oct","k":"{x}","alg":"ES256"}}"#),
            "{}".to_owned(),
        ] {
            check(&other, Err(KeyFault::NoneUsable));
        }
        check(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#), Ok(1));
        let only_rsa = [Algorithm::Rs256];
        let set = KeySet::parse(format!("{{\"keys\":[{}]}}", ec_key("")).as_bytes(), &only_rsa);
        assert_eq!(set.err(), Some(KeyFault::NoneUsable));
    }

    /// [K2] 2048 bits at least, and no leading zeros to reach them.
    #[test]
    fn rsa_keys_are_long_and_sound() {
        check(&rsa_key(&number(2048, 1), "AQAB"), Ok(1));
        check(&rsa_key(&number(8192, 1), "Aw"), Ok(1));
        for (n, e) in [
            (number(2047, 1), "AQAB"),
            (number(1024, 1), "AQAB"),
            (number(8193, 1), "AQAB"),
            (number(2048, 2), "AQAB"),
            (number(2048, 1), "AQ"),
            (number(2048, 1), "AQAA"),
            (number(2048, 1), "AAEAAQ"),
            (number(2048, 1), "BAAAAAE"),
            (number(2048, 1), ""),
            (String::new(), "AQAB"),
            // A zero byte in front: 257 bytes of a 2040-bit number must not pass for 2048 bits.
            (URL_SAFE_NO_PAD.encode([&[0][..], &[0xFF; 255]].concat()), "AQAB"),
        ] {
            check(&rsa_key(&n, e), Err(KeyFault::NoneUsable));
        }
    }

    #[test]
    fn the_mark_of_the_broken_generator_is_seen() {
        // 65537 to the 128th: 2049 bits, odd, and a power of 65537 modulo every prime.
        let mut power = vec![1u8];
        for _ in 0..128 {
            let mut carry = 0;
            let shifted = power.iter().copied().chain([0, 0]).rev();
            let itself = power.iter().copied().rev().chain([0, 0]);
            let mut next: Vec<u8> = shifted
                .zip(itself)
                .map(|(one, other)| {
                    let (sum, first) = one.overflowing_add(other);
                    let (sum, second) = sum.overflowing_add(carry);
                    carry = u8::from(first || second);
                    sum
                })
                .collect();
            next.extend((carry > 0).then_some(carry));
            next.reverse();
            power = next;
        }
        assert!(bits(&power) >= RSA_BITS_MIN && is_roca(&power));
        check(&rsa_key(&URL_SAFE_NO_PAD.encode(&power), "AQAB"), Err(KeyFault::NoneUsable));
        *power.last_mut().unwrap() ^= 2;
        check(&rsa_key(&URL_SAFE_NO_PAD.encode(&power), "AQAB"), Ok(1));
    }

    /// [K2] [K11] One id twice, a private key, too many keys or bytes: no set at all.
    #[test]
    fn a_set_is_whole_or_refused() {
        let two = |one: &str, other: &str| format!("{},{}", ec_key(one), ec_key(other));
        check(&two(r#","kid":"a""#, r#","kid":"b""#), Ok(2));
        check(&two("", ""), Ok(2));
        check(&two(r#","kid":"a""#, r#","kid":"a""#), Err(KeyFault::DoubleId));
        check(&two(r#","kid":"a""#, r#","kid":"a","use":"enc""#), Err(KeyFault::DoubleId));
        for member in PRIVATE_MEMBERS {
            check(&two("", &format!(r#","{member}":"AA""#)), Err(KeyFault::Private));
        }
        check(&ec_key(r#","kid":"a","kid":"b""#), Err(KeyFault::Malformed));
        check("7", Err(KeyFault::Malformed));
        check("", Err(KeyFault::Empty));
        check(&vec![ec_key(""); KEYS_MAX].join(","), Ok(KEYS_MAX));
        check(&vec![ec_key(""); KEYS_MAX + 1].join(","), Err(KeyFault::TooMany));
        check(&" ".repeat(KEY_SET_BYTES_MAX), Err(KeyFault::TooLong));
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, "{\"keys\":[]"] {
            assert_eq!(KeySet::parse(text.as_bytes(), &[]).err(), Some(KeyFault::Malformed), "{text}");
        }
    }

    /// [K2] A token without a key id is not tried against several.
    #[test]
    fn without_an_id_one_key_must_fit() {
        let all: Vec<_> = Algorithm::all().collect();
        let set = |keys: &str| KeySet::parse(format!("{{\"keys\":[{keys}]}}").as_bytes(), &all).unwrap();
        let ask = |set: &KeySet, algorithm, id| set.verify(algorithm, id, b"m", &[1; 64]).unwrap_err();
        let rsa = rsa_key(&number(2048, 1), "AQAB");
        let mixed = set(&format!("{rsa},{}", ec_key(r#","kid":"e""#)));
        assert_eq!(ask(&mixed, Algorithm::Es256, None), SignatureFault::Wrong);
        assert_eq!(ask(&mixed, Algorithm::Es256, Some("e")), SignatureFault::Wrong);
        assert_eq!(ask(&mixed, Algorithm::Ps384, None), SignatureFault::Wrong);
        assert_eq!(ask(&mixed, Algorithm::EdDsa, None), SignatureFault::KeyUnknown);
        assert_eq!(ask(&mixed, Algorithm::Es256, Some("")), SignatureFault::KeyUnknown);
        assert_eq!(ask(&mixed, Algorithm::Rs256, Some("e")), SignatureFault::KeyUnfit);
        assert_eq!(ask(&mixed, Algorithm::Es384, Some("e")), SignatureFault::KeyUnfit);
        let twice = set(&format!("{},{}", ec_key(r#","kid":"e""#), ec_key(r#","kid":"f""#)));
        assert_eq!(ask(&twice, Algorithm::Es256, None), SignatureFault::KeyAmbiguous);
    }

    /// [K1] In their own spelling, and no others.
    #[test]
    fn names_of_algorithms_are_exact() {
        for algorithm in Algorithm::all() {
            assert_eq!(Algorithm::parse(algorithm.as_str()), Some(algorithm));
            assert_eq!(Algorithm::parse(&algorithm.as_str().to_lowercase()), None);
        }
        for name in ["none", "None", "", "HS256", "ES512", "ES521", "ES256K", "Ed25519", "dir", "RSA-OAEP"] {
            assert_eq!(Algorithm::parse(name), None, "{name}");
        }
    }
}
