//! What a caller costs: a token seen for the first time, a token seen before, a session id.

use std::hint::black_box;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::base::ids::ShardId;
use portcullis::identity::active::TaskNames;
use portcullis::identity::cache::TokenCache;
use portcullis::identity::caller::Owner;
use portcullis::identity::claims::ClaimPath;
use portcullis::identity::keyring::Keyring;
use portcullis::identity::keys::{Algorithm, KeySet};
use portcullis::identity::mint::{Grant, MintKey};
use portcullis::identity::token::{self, Issuer, TYP_DEFAULT};
use portcullis::mcp::revision::Revision;
use portcullis::session::owner::{self, SealingKey, SessionSeal};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};

const NOW: u64 = 1_800_000_000;
const RESOURCES: [&str; 2] = ["https://gw.example/mcp", "https://gw.example/s/docs/mcp"];
const CLAIMS: &str = concat!(
    r#"{"iss":"https://issuer.example","sub":"alice","client_id":"agent-7","aud":"https://gw.example/mcp","#,
    r#""iat":1799999990,"exp":1800000300,"tasks":["triage","unknown"],"scope":"mcp:tools mcp:prompts"}"#
);

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn keyring(set: &str) -> Keyring {
    let algorithms: Vec<_> = Algorithm::all().collect();
    let set = Arc::new(KeySet::parse(set.as_bytes(), &algorithms).unwrap());
    Keyring::of_files([Some(&set)].into_iter())
}

fn issuer() -> Issuer {
    let algorithms: Vec<_> = Algorithm::all().collect();
    Issuer {
        issuer: "https://issuer.example".into(),
        audience: None,
        algorithms,
        typ: TYP_DEFAULT.map(String::from).to_vec(),
        subject: ClaimPath::parse("claims.sub").unwrap(),
        agent: ClaimPath::parse("claims.client_id").unwrap(),
        tasks: ClaimPath::parse("claims.tasks").unwrap(),
    }
}

fn signed(algorithm: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let header = format!(r#"{{"alg":"{algorithm}","typ":"at+jwt","kid":"k"}}"#);
    let signed = format!("{}.{}", encode(header), encode(CLAIMS));
    let signature = encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// A token and the key set it verifies with, per algorithm.
fn tokens() -> Vec<(&'static str, String, Keyring)> {
    let random = SystemRandom::new();
    let mint = MintKey::generate(&random).unwrap();
    let grant = Grant {
        issuer: "https://issuer.example",
        audience: &RESOURCES[..1],
        subject: "alice",
        agent: Some("agent-7"),
        tasks: &["triage", "unknown"],
        issued_at: NOW - 10,
        expires: NOW + 300,
    };
    let p384 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random).unwrap();
    let p384 = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, p384.as_ref(), &random).unwrap();
    let (x, y) = p384.public_key().as_ref()[1..].split_at(48);
    let p384_set =
        format!(r#"{{"keys":[{{"kty":"EC","crv":"P-384","kid":"k","x":"{}","y":"{}"}}]}}"#, encode(x), encode(y));
    let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
    let ed_set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{}"}}]}}"#, encode(ed.public_key()));
    vec![
        ("es256", mint.mint(&grant, &random).unwrap(), keyring(&mint.key_set())),
        ("es384", signed("ES384", |m| p384.sign(&random, m).unwrap().as_ref().to_vec()), keyring(&p384_set)),
        ("eddsa", signed("EdDSA", |m| ed.sign(m).as_ref().to_vec()), keyring(&ed_set)),
        ("rs256", RS256_TOKEN.to_owned(), keyring(RSA_SET)),
        ("ps256", PS256_TOKEN.to_owned(), keyring(RSA_SET)),
    ]
}

fn cold(c: &mut Criterion) {
    let names = TaskNames::new(["refund", "triage"]);
    let mut group = c.benchmark_group("token/cold");
    let issuers = [issuer()];
    for (name, token, keys) in tokens() {
        group.bench_function(name, |b| {
            b.iter(|| token::verify(black_box(token.as_bytes()), &issuers, &keys, &RESOURCES, &names, NOW).unwrap());
        });
    }
    // What junk costs: all is right but the last claim looked at before the signature.
    let (_, token, keys) = tokens().remove(0);
    let mut issuer = issuer();
    issuer.audience = Some(vec!["another".into()]);
    let issuers = [issuer];
    group.bench_function("refused before the signature", |b| {
        b.iter(|| token::verify(black_box(token.as_bytes()), &issuers, &keys, &RESOURCES, &names, NOW).unwrap_err());
    });
    group.finish();
}

/// One of a full cache's tokens, each of 729 bytes, asked for in an order that defeats the nearer caches.
fn cached(c: &mut Criterion) {
    let names = TaskNames::new(["refund", "triage"]);
    let (_, token, keys) = tokens().remove(0);
    let caller = token::verify(token.as_bytes(), &[issuer()], &keys, &RESOURCES, &names, NOW).unwrap();
    let mut cache = TokenCache::new(0x5EED);
    let tokens: Vec<String> = (0..4096).map(|number| format!("{}{number:029}", "x".repeat(700))).collect();
    for token in &tokens {
        cache.insert(token.as_bytes(), caller.clone(), NOW);
    }
    let mut next = 0;
    c.bench_function("token/cached, one of 4096", |b| {
        b.iter(|| {
            next = (next + 1237) % tokens.len();
            cache.get(black_box(tokens[next].as_bytes()), NOW).unwrap().expires
        });
    });
    c.bench_function("token/cached, the same", |b| {
        b.iter(|| cache.get(black_box(tokens[7].as_bytes()), NOW).unwrap().expires);
    });
}

fn session(c: &mut Criterion) {
    let keys = [SealingKey::derive(&[1; 32])];
    let owner = Owner::of("https://issuer.example", "alice", Some("agent-7"));
    let endpoint = owner::endpoint_hash("/mcp");
    let session = SessionSeal {
        node: 1,
        home: ShardId(2),
        owner,
        endpoint_hash: endpoint,
        revision: Revision::R2025_11_25,
        capabilities: 7,
        issued_at: NOW,
        nonce16: [3; 16],
    };
    let id = owner::seal(&keys[0], &session, [4; 12]);
    c.bench_function("session/open", |b| {
        b.iter(|| {
            let opened = owner::open(&keys, black_box(id.as_bytes())).unwrap();
            opened.check(&owner, endpoint).unwrap();
            opened
        });
    });
    c.bench_function("session/seal", |b| b.iter(|| owner::seal(&keys[0], black_box(&session), [4; 12])));
}

criterion_group!(benches, cold, cached, session);
criterion_main!(benches);

/// A public key whose private half was thrown away after it had signed these two.
const RSA_SET: &str = r#"{"keys":[{"kty":"RSA","kid":"rsa","e":"AQAB","n":"xWrf-m0HRqgHYoMEbsKLOj4rlXTdvwpue7vKoPK04jCHnCKg0r3cv9zutVW3TDyOPNy4sKDxRzy5WdRD36FdWN7W1LGKBtSfSR66hJjWodzBxMchlDRCqTQCgXf3eA9tstLar8AD6Kh7sQpMSfMruoQYWsubvfXJeAvoSe5NiXJNnf_hkYFq0GYMBb5Ax0UE4adZ2o8zDnybPSART-EwKgcGFwJnHXklNms9vgWPt5eZtvuD9jdQFFw_XOCk5xM8T8jAchkdJB4GW6einKT7M-BgZwjegD-__rJGXH1ZDBg8oWS2-Si38NgHa3yvUXKe61r3CVZDcAFAqaK66EvWNQ"}]}"#;
const RS256_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJjbGllbnRfaWQiOiJhZ2VudC03IiwiYXVkIjoiaHR0cHM6Ly9ndy5leGFtcGxlL21jcCIsImlhdCI6MTc5OTk5OTk5MCwiZXhwIjoxODAwMDAwMzAwLCJ0YXNrcyI6WyJ0cmlhZ2UiLCJ1bmtub3duIl0sInNjb3BlIjoibWNwOnRvb2xzIG1jcDpwcm9tcHRzIn0.H4hWrYqlYVJU4-VQUeVE0nTmz86_JLYt7rYIIL8hi5xwjcxpZkFyELVrqPkFBhzhDN_EefiibCRZ5ZMF2VkDj9JWurVWdkZU6BHwqI9pCMOX6EtZkIOjSEpVlb4riGQS42nElAwy83m6IfnktRTCcXMuxa1H1Yc5FJiZuJc7l8y5qIuIaMWnDLPUubx5mNE2Cd5Pjw8Cy4dG43tBRunKWZQpCDU5e5R_9HuFktlgHRenmsQdgGCWrxVA6ffpFj9bVaZJjPpnZvHirsB0npezbQMGYf-MjX5wWdOKNzev10GTXhJZnEwVfvOVJYs_GoQJKjddFfEE47IG13Y-fKdIFA";
const PS256_TOKEN: &str = "eyJhbGciOiJQUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJjbGllbnRfaWQiOiJhZ2VudC03IiwiYXVkIjoiaHR0cHM6Ly9ndy5leGFtcGxlL21jcCIsImlhdCI6MTc5OTk5OTk5MCwiZXhwIjoxODAwMDAwMzAwLCJ0YXNrcyI6WyJ0cmlhZ2UiLCJ1bmtub3duIl0sInNjb3BlIjoibWNwOnRvb2xzIG1jcDpwcm9tcHRzIn0.ojcn2ek-jDdHVH_v03qtEAJNRxyjEE5tVOmky_1RUoVLIYCz-JcCTZbc5YVsPD9lutm-QJ6uYcZRoxbsKLl6N6j4Ivs_lIisWMlvUmLiUcclOyYoXLn4DlBw4GxcUmtFgVKozvqr5ATkhBo6akXhebkYPkn3V3xdfRqDZaIOvG39c8XnRGiR4MBrooY4boa_ir1Gr6zJ96CdeljPWF3RJpdYEHbAj_Q09O2efgEeXFnKhVvfPHGPRwDZoeMTTNGXdHOxH2BOh85kBV74zilA6nyVLkNN7w5btWszYf5zuQXg2OdPEzlFxP9usLzJyg_5D0Hfcbc7QJ-v7_Hl_ROAaQ";
