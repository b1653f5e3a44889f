//! What must be true of any bytes that come as a token or as a key set. See `base::fuzz` for how these are run.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use serde_json::Value;

use super::active::TaskNames;
use super::caller::Caller;
use super::claims::ClaimPath;
use super::keyring::Keyring;
use super::keys::{Algorithm, KeyFault, KeySet};
use super::mint::MintKey;
use super::token::{self, Issuer, TYP_DEFAULT, TokenFault};
use crate::base::limits::{KEYS_MAX, TOKEN_LEEWAY_S};
use crate::jsonrpc::fuzz::each_name_once;

/// A token. As it comes it is refused, unless it is one of the few ever signed with the one key that is trusted, of
/// which nobody has the private half. And signed (the first line as its header, the rest as its claims) with a key
/// made for the occasion, it is accepted only if it says all that it must, and then no other bytes are accepted in
/// its place.
///
/// # Panics
/// When one of these is not true.
pub fn token(data: &[u8]) {
    if let Ok(caller) = verify(data, KEY_SET) {
        let (signed, signature) = data.split_at(data.iter().rposition(|byte| *byte == b'.').unwrap_or_default());
        let known = SIGNED.iter().any(|(header, known)| {
            let minted = [&URL_SAFE_NO_PAD.encode(header), ".", &URL_SAFE_NO_PAD.encode(CLAIMS)].concat();
            minted.as_bytes() == signed && signature[1..] == *known.as_bytes()
        });
        assert!(known, "nobody has signed this");
        assert_eq!(&*caller.subject, "alice");
    }
    let Some(line) = data.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let random = SystemRandom::new();
    let key = MintKey::generate(&random).expect("the system has random bytes");
    let signed = key.sign_text(&data[..line], &data[line + 1..], &random).expect("the system has random bytes");
    let outcome = verify(signed.as_bytes(), &key.key_set());
    if let Ok(caller) = &outcome {
        assert_says_all(&data[..line], &data[line + 1..], caller);
        assert_no_other(&signed, data, &key.key_set());
    }
    assert_ne!(outcome.err(), Some(TokenFault::Signature), "it was signed with this key");
}

/// A key set: what is accepted has keys, each id once, and no secret; and none of its keys takes what is no signature.
///
/// # Panics
/// When one of these is not true.
pub fn key_set(data: &[u8]) {
    let all: Vec<Algorithm> = Algorithm::all().collect();
    let whole = KeySet::parse(data, &all);
    for algorithm in Algorithm::all() {
        let narrow = KeySet::parse(data, &[algorithm]);
        match (&whole, &narrow) {
            (Ok(whole), Ok(narrow)) => assert!(narrow.len() <= whole.len(), "fewer algorithms, more keys"),
            (Ok(_), Err(fault)) => assert_eq!(*fault, KeyFault::NoneUsable),
            (Err(fault), narrow) => assert_eq!(narrow.as_ref().err(), Some(fault)),
        }
    }
    let Ok(set) = whole else {
        return;
    };
    let json: Value = serde_json::from_slice(data).expect("a key set is JSON");
    let keys = json["keys"].as_array().expect("with an array of keys");
    assert!(!set.is_empty() && set.len() <= KEYS_MAX);
    assert_eq!(set.len() + set.left_out(), keys.len());
    let mut ids: Vec<&str> = keys.iter().filter_map(|key| key["kid"].as_str()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "each id once");
    let secret = |key: &&Value| ["d", "p", "q", "dp", "dq", "qi"].iter().any(|member| key.get(member).is_some());
    assert!(keys.iter().filter(|key| key["kty"] != "oct").find(secret).is_none(), "a private key is no public one");
    for algorithm in Algorithm::all() {
        for id in ids.iter().copied().map(Some).chain([None]) {
            // More than any group's order, so no key can have made it.
            for length in [0, 64, 96, 256, 384, 512] {
                assert!(set.verify(algorithm, id, b"message", &vec![0xff; length]).is_err());
            }
        }
    }
}

fn verify(token: &[u8], keys: &str) -> Result<Caller, TokenFault> {
    let algorithms: Vec<Algorithm> = Algorithm::all().collect();
    let claim = |path| ClaimPath::parse(path).expect("a claim that is there by default");
    let issuer = Issuer {
        issuer: ISSUER.into(),
        audience: None,
        algorithms: algorithms.clone(),
        typ: TYP_DEFAULT.map(String::from).to_vec(),
        subject: claim("claims.sub"),
        agent: claim("claims.client_id"),
        tasks: claim("claims.tasks"),
    };
    let keys = Arc::new(KeySet::parse(keys.as_bytes(), &algorithms).expect("a key set of ours"));
    token::verify(
        token,
        &[issuer],
        &Keyring::of_files([Some(&keys)].into_iter()),
        &[RESOURCE],
        &TaskNames::new(["refund", "triage"]),
        NOW,
    )
}

/// What an accepted token says, read by another parser.
fn assert_says_all(header: &[u8], claims: &[u8], caller: &Caller) {
    let [header, claims] = [header, claims].map(|part| {
        let value: Value = serde_json::from_slice(part).expect("an accepted part is JSON");
        assert!(value.is_object() && each_name_once(part, &value), "a name stands twice");
        value
    });
    assert_eq!(header["alg"], "ES256");
    assert!(header.get("crit").is_none() && header.get("b64").is_none_or(|b64| *b64 == Value::Bool(true)));
    let typ = header["typ"].as_str().expect("a type").to_ascii_lowercase();
    let typ = typ.strip_prefix("application/").unwrap_or(&typ);
    assert!(matches!(typ, "at+jwt" | "jwt"));
    let marked = ["nonce", "at_hash", "c_hash"].iter().any(|mark| claims.get(mark).is_some());
    assert!(typ != "jwt" || !marked, "an ID token");
    assert_eq!(claims["iss"], ISSUER);
    let aud = &claims["aud"];
    assert!(*aud == RESOURCE || aud.as_array().is_some_and(|list| list.iter().any(|one| *one == RESOURCE)));
    assert!(claims.get("cnf").is_none(), "bound to a key");
    assert_eq!(claims["sub"].as_str(), Some(&*caller.subject));
    assert_eq!(claims.get("client_id").and_then(Value::as_str), caller.agent.as_deref());
    assert!(!caller.subject.is_empty() && !caller.anonymous && caller.tasks.len() <= 2);
    let seconds = |claim: &str| claims.get(claim).map(|date| date.as_f64().expect("a date is a number"));
    #[expect(clippy::cast_precision_loss, reason = "dates are far below 2^53")]
    let (now, leeway) = (NOW as f64, TOKEN_LEEWAY_S as f64);
    let expires = seconds("exp").expect("a token expires");
    assert!(expires.floor() + leeway > now);
    #[expect(clippy::cast_precision_loss, reason = "dates are far below 2^53")]
    let held = caller.expires as f64;
    assert_eq!(held, expires.floor(), "never longer than it says");
    for starts in ["nbf", "iat"] {
        assert!(seconds(starts).is_none_or(|starts| starts.ceil() <= now + leeway));
    }
}

/// The token with one character changed, taken out, or put in, at places that the data tells.
fn assert_no_other(token: &str, data: &[u8], keys: &str) {
    let places = data.chunks(8).map(|piece| piece.iter().fold(7_usize, |sum, byte| sum * 31 + usize::from(*byte)));
    for (before, after) in [("", "="), ("", "."), ("", "\n"), (" ", ""), ("", " "), ("", "A")] {
        assert!(verify(format!("{before}{token}{after}").as_bytes(), keys).is_err(), "{before:?} {after:?}");
    }
    let last = token.len() - 1;
    for place in places.take(8).chain([0, last]).map(|place| place % token.len()) {
        let twin = if token.as_bytes()[place] == b'A' { b'B' } else { b'A' };
        let mut changed = token.as_bytes().to_vec();
        changed[place] = twin;
        assert!(verify(&changed, keys).is_err(), "changed at {place}");
        changed.remove(place);
        assert!(verify(&changed, keys).is_err(), "without {place}");
        let longer = [&token.as_bytes()[..place], &[twin], &token.as_bytes()[place..]].concat();
        assert!(verify(&longer, keys).is_err(), "with another before {place}");
    }
}

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";
const RESOURCE: &str = "https://gw.example/mcp";

/// A public key whose private half was thrown away after signing `CLAIMS` under these headers.
const KEY_SET: &str = r#"{"keys":[{"kty":"RSA","use":"sig","kid":"rsa","e":"AQAB","n":"xWrf-m0HRqgHYoMEbsKLOj4rlXTdvwpue7vKoPK04jCHnCKg0r3cv9zutVW3TDyOPNy4sKDxRzy5WdRD36FdWN7W1LGKBtSfSR66hJjWodzBxMchlDRCqTQCgXf3eA9tstLar8AD6Kh7sQpMSfMruoQYWsubvfXJeAvoSe5NiXJNnf_hkYFq0GYMBb5Ax0UE4adZ2o8zDnybPSART-EwKgcGFwJnHXklNms9vgWPt5eZtvuD9jdQFFw_XOCk5xM8T8jAchkdJB4GW6einKT7M-BgZwjegD-__rJGXH1ZDBg8oWS2-Si38NgHa3yvUXKe61r3CVZDcAFAqaK66EvWNQ"}]}"#;
const CLAIMS: &str = concat!(
    r#"{"iss":"https://issuer.example","sub":"alice","client_id":"agent-7","aud":"https://gw.example/mcp","#,
    r#""iat":1799999990,"exp":1800000300,"tasks":["triage","unknown"],"scope":"mcp:tools mcp:prompts"}"#
);
const SIGNED: [(&str, &str); 2] = [
    (
        r#"{"alg":"RS256","typ":"at+jwt","kid":"rsa"}"#,
        "H4hWrYqlYVJU4-VQUeVE0nTmz86_JLYt7rYIIL8hi5xwjcxpZkFyELVrqPkFBhzhDN_EefiibCRZ5ZMF2VkDj9JWurVWdkZU6BHwqI9pCMOX6EtZkIOjSEpVlb4riGQS42nElAwy83m6IfnktRTCcXMuxa1H1Yc5FJiZuJc7l8y5qIuIaMWnDLPUubx5mNE2Cd5Pjw8Cy4dG43tBRunKWZQpCDU5e5R_9HuFktlgHRenmsQdgGCWrxVA6ffpFj9bVaZJjPpnZvHirsB0npezbQMGYf-MjX5wWdOKNzev10GTXhJZnEwVfvOVJYs_GoQJKjddFfEE47IG13Y-fKdIFA",
    ),
    (
        r#"{"alg":"PS384","typ":"at+jwt","kid":"rsa"}"#,
        "PL_H-GWv0qomP2CR9Pai7cSBU3F-cDUJ2MrkXm-xsRne2QGpATt3G2dbUn0xe8Yq0LSeLIrfGgc-EtWH9l9ZwyKXOlRBDkgAu28M0KkbiLbW2Yd63QdUGCxm3kp0ofyi993hOQqT-BYypl9G2dqsRn7_razoQWXUJtI3TovMjEkr1pqzh2Q9g92eyOOGDkNdP_zumgPEZFxM9fpFVcg5udWK9-9gEOJxhpa3J5Gbyp-7zB7HBkiCORrvbbxnm8vT3Eyf5kWD2A-U2Lofdz2wiKKO0yUbmcP4w580pnuTUsQmemxC4z89C9Gb6pNYYdUxO_VFdYdK4dSxZ6I8e2zT3Q",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    #[test]
    fn the_signed_tokens_are_accepted() {
        for (header, signature) in SIGNED {
            let (header, claims) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(CLAIMS));
            verify(format!("{header}.{claims}.{signature}").as_bytes(), KEY_SET).unwrap();
        }
    }

    /// [K1] [K3] [K4] [K5] [K6] [K7] No token is accepted that was not signed, or that does not say what it must.
    #[test]
    fn tokens_hold() {
        hold("identity_token", token);
    }

    #[test]
    fn key_sets_hold() {
        hold("identity_key_set", key_set);
    }
}
