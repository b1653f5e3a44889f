//! Tokens, end to end: what is not exactly a token of ours is nobody's, and nothing of its call reaches a server.

use std::io::ErrorKind;
use std::net::TcpListener;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use portcullis::identity::mint::MintKey;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, ISSUER, PATIENCE, Setup, Who, run};
use crate::support::http::{Response, Wire};
use crate::support::mcp::Post;
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

/// A gateway that lets anonymous callers do everything, so that a token which is taken for none would show.
struct Door {
    gateway: Gateway,
    upstream: Upstream,
    /// When it was opened, so that its good token has the same claims all the time.
    opened: u64,
}

impl Door {
    fn new() -> Self {
        Self::with(|setup| setup.tokens("allow"))
    }

    fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let upstream = Plan::tools(&["echo"]).start();
        let gateway = change(Setup::new().server("up", &upstream.url()).open()).start();
        Self { gateway, upstream, opened: unix_s() }
    }

    /// The header of a good token.
    fn header(&self) -> String {
        format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{}"}}"#, self.gateway.key_id())
    }

    /// The claims of a good token.
    fn claims(&self) -> String {
        let (issued, expires) = (self.opened - 60, self.opened + 600);
        let audience = self.gateway.url("/mcp");
        format!(
            r#"{{"iss":"{ISSUER}","sub":"ada","client_id":"agent-1","aud":"{audience}","iat":{issued},"exp":{expires},"scope":"x"}}"#
        )
    }

    /// A token after `from` became `to` in whichever of header and claims has it.
    fn token(&self, from: &str, to: &str) -> String {
        let (header, claims) = (self.header(), self.claims());
        assert!(header.contains(from) || claims.contains(from), "{from} is in neither {header} nor {claims}");
        self.gateway.sign(&header.replacen(from, to, 1), &claims.replacen(from, to, 1))
    }

    #[track_caller]
    fn accepted(&self, token: &str) {
        Post::call("echo").token(token).echoed(&self.gateway);
    }

    #[track_caller]
    fn refused(&self, token: &str) {
        self.refused_field(&format!("Bearer {token}"), token);
    }

    #[track_caller]
    fn refused_field(&self, field: &str, shown: &str) {
        let answer = Post::call("echo").field("authorization", field).to(&self.gateway);
        let text = answer.text();
        assert_eq!(answer.status(), 401, "{shown}: {text}");
        assert!(answer.field("www-authenticate").contains("error=\"invalid_token\""), "{shown}: {:?}", answer.head);
        assert!(field.len() < 20 || !text.contains(&field[7..]), "the answer repeats the token: {text}");
    }

    /// Header or claims with each change is refused; with none it is accepted, before and after.
    #[track_caller]
    fn none_of(&self, changes: &[(&str, &str)]) {
        self.accepted(&self.token("", ""));
        let before = self.upstream.calls().len();
        for (from, to) in changes {
            self.refused(&self.token(from, to));
        }
        assert_eq!(self.upstream.calls().len(), before, "a refused call reached the server");
        self.accepted(&self.token("", ""));
    }

    fn checked(&self) {
        oracle::check(&self.gateway, &[("up", &self.upstream)]);
    }
}

fn unix_s() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().expect("the clock is set").as_secs()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer entry with the keys in a file of its own.
fn issuer(folder: &tempfile::TempDir, set: &Value, algorithms: &Value) -> Value {
    let file = folder.path().join("set.json");
    std::fs::write(&file, set.to_string()).expect("the temporary folder can be written");
    json!([{ "issuer": ISSUER, "jwks": { "file": file }, "algorithms": algorithms }])
}

/// [K1] No algorithm but those the configuration names: `none` in any spelling, shared secrets made of public keys,
/// encrypted tokens, unknown names.
#[test]
fn algorithms_are_the_configurations() {
    let door = Door::new();
    let algorithms =
        ["none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "ES384", "RS256", "PS256", "EdDSA"];
    let mut changes: Vec<(&str, &str)> = algorithms.iter().map(|name| ("ES256", *name)).collect();
    changes.extend([("ES256", "es256"), ("ES256", "ES256 "), ("ES256", "ES256K"), (r#""alg":"ES256","#, "")]);
    changes.extend([(r#""ES256""#, "null"), (r#""ES256""#, r#"["ES256"]"#), (r#""alg""#, r#""alg":"none","alg""#)]);
    door.none_of(&changes);
    // Without a signature at all, and with one made of what everybody knows.
    let claims = encode(door.claims());
    for name in ["none", "None", "NONE", "ES256"] {
        let header = encode(door.header().replace("ES256", name));
        door.refused(&format!("{header}.{claims}."));
        door.refused(&format!("{header}.{claims}"));
    }
    let public: Value = serde_json::from_str(&door.gateway.key_set()).expect("a key set is JSON");
    let point = [&public["keys"][0]["x"], &public["keys"][0]["y"]].map(|it| it.as_str().unwrap_or_default());
    for secret in [door.gateway.key_set(), point.concat(), String::new()] {
        let signed = format!("{}.{claims}", encode(door.header().replace("ES256", "HS256")));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        door.refused(&format!("{signed}.{}", encode(ring::hmac::sign(&key, signed.as_bytes()))));
    }
    let header = encode(r#"{"alg":"dir","enc":"A256GCM","typ":"at+jwt"}"#);
    door.refused(&format!("{header}..AAAAAAAAAAAAAAAA.{claims}.AAAAAAAAAAAAAAAAAAAAAA"));
    door.checked();
}

/// [K1] [K2] A key serves for what it is and says it is: its id, its algorithm, its kind, its use.
#[test]
fn a_key_serves_for_what_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let random = SystemRandom::new();
    let other = MintKey::generate(&random).expect("a key can be made");
    let pair = Ed25519KeyPair::generate_pkcs8(&random).expect("a key can be made");
    let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref()).expect("it was just made");
    let public: Value = serde_json::from_str(&other.key_set()).expect("a key set is JSON");
    let variant = |id: &str, member: &str, value: Value| {
        let mut key = public["keys"][0].clone();
        (key["kid"], key[member]) = (json!(id), value);
        key
    };
    let set = json!({ "keys": [
        variant("sound", "use", json!("sig")),
        variant("encrypts", "use", json!("enc")),
        variant("signs-only", "key_ops", json!(["sign"])),
        variant("another-algorithm", "alg", json!("ES384")),
        variant("another-curve", "crv", json!("P-384")),
        { "kty": "OKP", "crv": "Ed25519", "kid": "edwards", "x": encode(pair.public_key()) },
    ]});
    let issuers = issuer(&folder, &set, &json!(["ES256", "EdDSA"]));
    let door = Door::with(|setup| setup.set("/auth/issuers", issuers.clone()).set("/auth/anonymous", json!("deny")));
    let by_other = |id: &str| {
        let claims: Value = serde_json::from_str(&door.claims()).expect("claims are JSON");
        other.sign(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": id }), &claims, &random).expect("it signs")
    };
    let by_edwards = |algorithm: &str, id: &str| {
        let header = format!(r#"{{"alg":"{algorithm}","typ":"at+jwt","kid":"{id}"}}"#);
        let signed = format!("{}.{}", encode(header), encode(door.claims()));
        format!("{signed}.{}", encode(pair.sign(signed.as_bytes())))
    };
    door.accepted(&by_other("sound"));
    door.accepted(&by_edwards("EdDSA", "edwards"));
    for id in ["encrypts", "signs-only", "another-algorithm", "another-curve", "edwards", "absent", "", "Sound"] {
        door.refused(&by_other(id));
    }
    door.refused(&by_edwards("EdDSA", "sound"));
    door.refused(&by_edwards("ES256", "edwards"));
    door.refused(&by_edwards("Ed25519", "edwards"));
    // Signed by somebody whom nobody trusts here, under a trusted id.
    door.refused(&door.gateway.sign(r#"{"alg":"ES256","typ":"at+jwt","kid":"sound"}"#, &door.claims()));
    door.checked();
    // The same keys, and an issuer that is not allowed one of the algorithms.
    let narrow = json!([{ "issuer": ISSUER, "jwks": issuers[0]["jwks"], "algorithms": ["EdDSA"] }]);
    let door = Door::with(|setup| setup.set("/auth/issuers", narrow).set("/auth/anonymous", json!("deny")));
    let claims: Value = serde_json::from_str(&door.claims()).expect("claims are JSON");
    let token = other.sign(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": "sound" }), &claims, &random);
    door.refused(&token.expect("it signs"));
}

/// [K2] [K11] A key set that is not sound is no key set: nothing starts with it.
#[test]
fn a_key_set_is_whole_or_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let key = MintKey::generate(&SystemRandom::new()).expect("a key can be made");
    let sound: Value = serde_json::from_str(&key.key_set()).expect("a key set is JSON");
    let one = &sound["keys"][0];
    let mut private = one.clone();
    private["d"] = json!("AAAA");
    let weak = json!({ "kty": "RSA", "kid": "weak", "e": "AQAB", "n": encode([0xFFu8; 128]) });
    let sets = [
        ("twice", json!({ "keys": [one, one] }).to_string()),
        ("private", json!({ "keys": [private] }).to_string()),
        ("weak", json!({ "keys": [weak] }).to_string()),
        ("none", json!({ "keys": [] }).to_string()),
        ("many", json!({ "keys": vec![one; 101] }).to_string()),
        ("large", format!("{}{}", key.key_set(), " ".repeat(256 * 1024))),
        ("text", "no JSON".to_owned()),
    ];
    let check = |name: &str, set: &str| {
        std::fs::write(folder.path().join("jwks.json"), set).expect("the temporary folder can be written");
        let config = json!({
            "auth": { "issuers": [{ "issuer": ISSUER, "jwks": { "file": "jwks.json" } }] },
            "servers": { "up": { "url": "http://127.0.0.1:1/mcp" } },
        });
        std::fs::write(folder.path().join("c.yaml"), config.to_string()).expect("the temporary folder can be written");
        let run = run(folder.path(), &["check", "--config", "c.yaml"]);
        (run.status.and_then(|status| status.code()), format!("{name}: {}", run.stderr))
    };
    let (code, said) = check("sound", &key.key_set());
    assert_eq!(code, Some(0), "{said}");
    for (name, set) in sets {
        let (code, said) = check(name, &set);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("jwks.json") && !said.contains("AAAA"), "{said}");
    }
}

/// [K3] [K10] Keys come from the configuration alone. What a token says about keys makes nobody fetch or open anything,
/// and ids that lead nowhere unsettle no good key.
#[test]
fn a_token_cannot_bring_its_key() {
    let lure = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    lure.set_nonblocking(true).expect("a socket has this option");
    let url = format!("http://{}/keys", lure.local_addr().expect("it is bound"));
    let door = Door::new();
    let stranger = MintKey::generate(&SystemRandom::new()).expect("a key can be made");
    let set: Value = serde_json::from_str(&stranger.key_set()).expect("a key set is JSON");
    let claims: Value = serde_json::from_str(&door.claims()).expect("claims are JSON");
    let brought = [
        json!({ "jku": url }),
        json!({ "x5u": url }),
        json!({ "jwk": set["keys"][0] }),
        json!({ "x5c": ["MIIB"], "x5t": "AAAA" }),
        json!({ "jku": url, "jwk": set["keys"][0], "x5u": url }),
    ];
    for brought in brought {
        for id in [stranger.id(), door.gateway.key_id(), &url] {
            let mut header = brought.clone();
            (header["alg"], header["typ"], header["kid"]) = (json!("ES256"), json!("at+jwt"), json!(id));
            door.refused(&stranger.sign(&header, &claims, &SystemRandom::new()).expect("it signs"));
        }
    }
    // On a good token the same members mean nothing.
    door.accepted(&door.token(r#""typ""#, &format!(r#""jku":"{url}","x5u":"{url}","jwk":{},"typ""#, set["keys"][0])));
    let good = door.gateway.key_id().to_owned();
    let ids = ["", "../../../../etc/passwd", "/dev/zero", "|id", "' OR '1'='1", "$(id)", "%00", "\\u0000", &url];
    let mut changes: Vec<(&str, &str)> = ids.iter().map(|id| (&*good, *id)).collect();
    let quoted = format!("\"{good}\"");
    changes.extend(["null", "0", "[]", "{}", "true"].map(|value| (&*quoted, value)));
    door.none_of(&changes);
    let asked = lure.accept().map(|_| ()).map_err(|error| error.kind());
    assert_eq!(asked, Err(ErrorKind::WouldBlock), "somebody fetched what a token pointed to");
    door.checked();
}

/// [K3] Extensions that must be understood are not understood here.
#[test]
fn critical_extensions_are_refused() {
    Door::new().none_of(&[
        (r#""typ""#, r#""crit":[],"typ""#),
        (r#""typ""#, r#""crit":["exp"],"exp":1,"typ""#),
        (r#""typ""#, r#""crit":null,"typ""#),
        (r#""typ""#, r#""crit":["b64"],"b64":false,"typ""#),
        (r#""typ""#, r#""crit":["b64"],"b64":true,"typ""#),
        (r#""typ""#, r#""b64":false,"typ""#),
        (r#""typ""#, r#""b64":"true","typ""#),
        (r#""typ""#, r#""b64":null,"typ""#),
    ]);
}

/// [K4] Access tokens only: by their type, and where that says nothing, by what ID tokens have.
#[test]
fn an_id_token_is_no_access_token() {
    let door = Door::new();
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt", "application/JWT"] {
        door.accepted(&door.token("at+jwt", typ));
    }
    door.none_of(&[
        (r#""typ":"at+jwt","#, ""),
        ("at+jwt", ""),
        ("at+jwt", "id+jwt"),
        ("at+jwt", "dpop+jwt"),
        ("at+jwt", "logout+jwt"),
        ("at+jwt", "text/at+jwt"),
        ("at+jwt", "at+jwt "),
        (r#""at+jwt""#, r#"["at+jwt"]"#),
    ]);
    let header = door.header().replace("at+jwt", "JWT");
    for mark in [r#""nonce":"n""#, r#""at_hash":"AAAA""#, r#""c_hash":"AAAA""#, r#""nonce":null"#] {
        let claims = door.claims().replace(r#""scope""#, &format!("{mark},\"scope\""));
        door.refused(&door.gateway.sign(&header, &claims));
    }
    // An ID token is for its client: that is its audience.
    door.refused(&door.gateway.sign(&header, &door.claims().replace(&door.gateway.url("/mcp"), "agent-1")));
    door.accepted(&door.gateway.sign(&header, &door.claims()));
    door.checked();
}

/// [K5] Issuer and audience byte for byte; with an end; not before its time; half a minute is forgiven, no more.
#[test]
fn issuer_audience_and_times() {
    let door = Door::new();
    let audience = door.gateway.url("/mcp");
    let quoted = format!("\"{audience}\"");
    let (upper, query) = (audience.to_uppercase(), format!("{audience}?"));
    let (slash, parent) = (format!("{audience}/"), audience.replace("/mcp", ""));
    let expires = format!(r#","exp":{}"#, exp_of(&door.claims()));
    let past = |seconds: u64| format!(r#","exp":{}"#, unix_s() - seconds);
    let ahead = |name: &str, seconds: u64| format!(r#""{name}":{},"scope""#, unix_s() + seconds);
    let (past_31, past_3600) = (past(31), past(3600));
    let (later, much_later) = (ahead("nbf", 120), ahead("nbf", 3600));
    let issued_ahead = format!(r#""iat":{}"#, unix_s() + 120);
    let issued = format!(r#""iat":{}"#, iat_of(&door.claims()));
    door.none_of(&[
        (ISSUER, "https://issuer.test/"),
        (ISSUER, "https://ISSUER.test"),
        (ISSUER, "http://issuer.test"),
        (ISSUER, "https://issuer.test "),
        (ISSUER, "https://issuer.tes"),
        (ISSUER, ""),
        (r#""iss":"https://issuer.test","#, ""),
        (&audience, &upper),
        (&audience, &query),
        (&audience, &slash),
        (&audience, &parent),
        (&quoted, "[]"),
        (&quoted, r#"["https://else.where/mcp"]"#),
        (r#""aud""#, r#""audience""#),
        (&expires, ""),
        (&expires, &past_31),
        (&expires, &past_3600),
        (r#""scope""#, &later),
        (r#""scope""#, &much_later),
        (&issued, &issued_ahead),
    ]);
    door.accepted(&door.token(&quoted, &format!(r#"["https://else.where/mcp",{quoted}]"#)));
    door.accepted(&door.token(r#""scope""#, &ahead("nbf", 5)));
    door.accepted(&door.token(&expires, &past(2)));
    door.checked();
}

fn exp_of(claims: &str) -> Value {
    serde_json::from_str::<Value>(claims).expect("claims are JSON")["exp"].clone()
}

fn iat_of(claims: &str) -> Value {
    serde_json::from_str::<Value>(claims).expect("claims are JSON")["iat"].clone()
}

/// [K6] A claim of another type is an error and never "absent"; a member twice is one too, in whatever spelling.
#[test]
fn claims_of_the_wrong_type_and_claims_twice() {
    let door = Door::new();
    let expires = format!(r#""exp":{}"#, exp_of(&door.claims()));
    let numbers =
        ["\"1900000000\"", "-1", "1e400", "NaN", "[1900000000]", "null", "true", "{}", "1e300", "1900000000000"];
    let numbers = numbers.map(|value| format!(r#""exp":{value}"#));
    let mut changes: Vec<(&str, &str)> = numbers.iter().map(|to| (&*expires, &**to)).collect();
    changes.extend([
        (r#""scope""#, r#""nbf":"0","scope""#),
        (r#""scope""#, r#""nbf":null,"scope""#),
        (r#""iat""#, r#""iat":[],"x""#),
        (r#""sub":"ada""#, r#""sub":7"#),
        (r#""sub":"ada""#, r#""sub":null"#),
        (r#""sub":"ada""#, r#""sub":["ada"]"#),
        (r#""sub":"ada""#, r#""sub":"""#),
        (r#""sub":"ada","#, ""),
        (r#""agent-1""#, "null"),
        (r#""agent-1""#, "7"),
        (r#""scope""#, r#""tasks":7,"scope""#),
        (r#""scope""#, r#""tasks":[7],"scope""#),
        (r#""scope""#, r#""tasks":null,"scope""#),
        (r#""https://issuer.test""#, r#"["https://issuer.test"]"#),
        (r#""sub""#, r#""sub":"root","sub""#),
        (r#""sub""#, r#""s\u0075b":"root","sub""#),
        (r#""scope""#, r#""exp":1,"scope""#),
        (r#""scope""#, r#""deep":[{"a":1,"\u0061":1}],"scope""#),
        (r#""typ""#, r#""kid":"other","typ""#),
        (r#""typ""#, r#""typ":"JWT","typ""#),
        (r#""typ""#, r#""x":{"a":1,"a":1},"typ""#),
        ("}", "}{}"),
        ("}", "} x"),
        ("{", "[{"),
        ("{", "\u{feff}{"),
    ]);
    door.none_of(&changes);
    door.checked();
}

/// [K7] A token that is bound to a key or certificate needs a proof, which nobody asks for here.
#[test]
fn bound_tokens_are_refused() {
    Door::new().none_of(&[
        (r#""scope""#, r#""cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},"scope""#),
        (r#""scope""#, r#""cnf":{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"},"scope""#),
        (r#""scope""#, r#""cnf":{},"scope""#),
        (r#""scope""#, r#""cnf":null,"scope""#),
        (r#""scope""#, r#""c\u006ef":{"jkt":"x"},"scope""#),
    ]);
}

/// [K8] One field, one credential, in one spelling.
#[test]
fn a_credential_has_one_place_and_one_spelling() {
    let door = Door::new();
    let good = door.token("", "");
    let (signed, signature) = good.rsplit_once('.').expect("a token has dots");
    let (header, claims) = signed.split_once('.').expect("a token has dots");
    // The low bits of the last character of 64 bytes say nothing: three more spellings of the same signature, and more.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (start, last) = signature.split_at(signature.len() - 1);
    let twins: Vec<String> =
        alphabet.chars().filter(|c| !last.contains(*c)).map(|c| format!("{signed}.{start}{c}")).collect();
    assert_eq!(twins.len(), 63);
    for twin in &twins {
        door.refused(twin);
    }
    let padded = URL_SAFE.encode(door.claims() + &" ".repeat(3 - door.claims().len() % 3 + 1));
    for token in [
        format!("{good}="),
        format!("{good}=="),
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{padded}.{signature}"),
        format!("{header}.{claims}.+{}", &signature[1..]),
        format!("{header}.{claims}./{}", &signature[1..]),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        signed.to_owned(),
        header.to_owned(),
        "..".to_owned(),
        format!("\"{good}\""),
    ] {
        door.refused(&token);
    }
    for field in [
        format!("Bearer {good}, Bearer {good}"),
        format!("Bearer {good} Bearer {good}"),
        format!("Bearer {good},"),
        format!("Bearer {good} x"),
        format!("Bearer  {good}"),
        format!("Bearer\t{good}"),
        format!("Bearer{good}"),
        format!("Bearer {} {}", &good[..20], &good[20..]),
        format!("DPoP {good}"),
        format!("Basic {good}"),
        format!("Basic {good}, Bearer {good}"),
        "Bearer".to_owned(),
        good.clone(),
    ] {
        door.refused_field(&field, &field);
    }
    for other in [good.clone(), "x".to_owned()] {
        for fields in [[&good, &other], [&other, &good]] {
            let post = fields.iter().fold(Post::call("echo"), |post, token| post.token(token));
            let answer = post.to(&door.gateway);
            assert!([400, 401].contains(&answer.status()), "two fields: {}", answer.text());
        }
    }
    assert!(door.upstream.calls().is_empty(), "a refused call reached the server");
    door.accepted(&good);
    door.checked();
}

/// [K8] A token is good in its field alone; anywhere else nobody looks at it, and nobody writes it down.
#[test]
fn a_token_elsewhere_is_no_token() {
    let door = Door::with(|setup| setup.tokens("deny"));
    let good = door.token("", "");
    let elsewhere = [
        Post::call("echo").at(&format!("/mcp?access_token={good}")),
        Post::call("echo").at(&format!("/mcp?token={good}&authorization=Bearer%20{good}")),
        Post::call("echo").field("x-authorization", &format!("Bearer {good}")),
        Post::call("echo").field("proxy-authorization", &format!("Bearer {good}")),
        Post::call("echo").field("cookie", &format!("access_token={good}")),
        Post::call("echo").param("/access_token", json!(good)),
        Post::call("echo").param("/_meta/authorization", json!(format!("Bearer {good}"))),
        Post::call("echo")
            .without("content-type")
            .field("content-type", "application/x-www-form-urlencoded")
            .body(format!("access_token={good}")),
    ];
    for post in elsewhere {
        assert_eq!(post.to(&door.gateway).status(), 401, "{post:?}");
    }
    // A field name with an underscore is no `Authorization` either.
    let underscored = Post::call("echo").field("authorization_", &format!("Bearer {good}")).to(&door.gateway);
    assert!([400, 401].contains(&underscored.status()), "{}", underscored.text());
    assert!(door.upstream.calls().is_empty());
    door.accepted(&door.token("", ""));
    let records = oracle::check(&door.gateway, &[("up", &door.upstream)]);
    assert!(!format!("{records:?}").contains(&good), "a token in the record");
}

/// [K8] 8 KiB is the most, whatever signs it.
#[test]
fn a_token_that_is_too_long() {
    let door = Door::new();
    let padded = |bytes: usize| door.token(r#""scope""#, &format!(r#""pad":"{}","scope""#, "x".repeat(bytes)));
    let (short, long) = (padded(5_500), padded(6_100));
    assert!(short.len() < 8 * 1024 && long.len() > 8 * 1024, "{} and {}", short.len(), long.len());
    door.accepted(&short);
    let answer = Post::call("echo").token(&long).to(&door.gateway);
    assert!([400, 401, 431].contains(&answer.status()), "{}", answer.text());
    assert_eq!(door.upstream.calls().len(), 1);
    door.checked();
}

/// [K9] A token that was verified lets in itself alone: no shorter, longer or altered one, however often it was used.
#[test]
fn a_cached_token_is_that_token() {
    let door = Door::new();
    let good = door.token("", "");
    let mut wire = Wire::to(door.gateway.address);
    let mut ask = |token: &str| -> Response {
        let post = Post::call("echo").token(token);
        let answer = wire.ask(&post.bytes(&door.gateway));
        if answer.status() == 200 {
            post.is_echoed(&answer);
        }
        answer
    };
    assert_eq!(ask(&good).status(), 200);
    for index in (0..good.len()).step_by(7) {
        let mut altered = good.clone().into_bytes();
        altered[index] = if altered[index] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).expect("it is ASCII");
        assert_eq!(ask(&altered).status(), 401, "altered at {index}");
        assert_eq!(ask(&good).status(), 200);
    }
    for other in [&good[..good.len() - 1], &good[1..], &format!("{good}A"), &format!("{good}{good}")] {
        assert_eq!(ask(other).status(), 401, "{other}");
    }
    assert_eq!(ask(&good).status(), 200);
    // Everything that another agent signs with a stolen signature is somebody else's.
    let (signed, signature) = good.rsplit_once('.').expect("a token has dots");
    let (header, _) = signed.split_once('.').expect("a token has dots");
    let root = encode(door.claims().replace("ada", "root"));
    assert_eq!(ask(&format!("{header}.{root}.{signature}")).status(), 401);
    door.checked();
}

/// [K9] Under other keys a token that was good is nobody's.
#[test]
fn other_keys_end_a_token() {
    let door = Door::with(|setup| setup.tokens("deny"));
    let good = door.gateway.token_for(&Who::default(), &["https://gate.test/mcp"]);
    let audience = |config: &mut Value| config["auth"]["issuers"][0]["audience"] = json!("https://gate.test/mcp");
    let Door { gateway, upstream, .. } = door;
    let gateway = gateway.restart(audience);
    Post::call("echo").token(&good).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
    let gateway = gateway.restart(|config| {
        let file = config["auth"]["issuers"][0]["jwks"]["file"].as_str().expect("it is there").to_owned();
        let key = MintKey::generate(&SystemRandom::new()).expect("a key can be made");
        std::fs::write(file, key.key_set()).expect("the temporary folder can be written");
    });
    assert_eq!(Post::call("echo").token(&good).to(&gateway).status(), 401);
    assert_eq!(upstream.calls().len(), 1);
}

/// [K10] Verifying costs a bounded part of a shard's time: who floods it with tokens that must be verified is told to
/// come again, and who is known notices nothing.
#[test]
#[ignore = "waits for the verification budget"]
fn verification_has_its_budget() {
    let door = Door::with(|setup| setup.tokens("deny"));
    let known = door.token("", "");
    door.accepted(&known);
    let (signed, _) = known.rsplit_once('.').expect("a token has dots");
    let mut flood = Wire::to(door.gateway.address);
    let mut told = None;
    let begun = std::time::Instant::now();
    let mut number = 0_u64;
    while told.is_none() && begun.elapsed() < PATIENCE {
        number += 1;
        let signature = [number.to_be_bytes(); 8].concat();
        let token = format!("{signed}.{}", encode(signature));
        let answer = flood.ask(&Post::call("echo").token(&token).bytes(&door.gateway));
        match answer.status() {
            401 => {}
            503 => told = Some(answer),
            status => panic!("{status}: {}", answer.text()),
        }
        if number.is_multiple_of(50) {
            door.accepted(&known);
        }
    }
    let told = told.unwrap_or_else(|| panic!("{number} bad signatures, and nobody minded"));
    assert!(told.field("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{:?}", told.head);
    door.accepted(&known);
    // And it passes: a newcomer is let in once the flood is over.
    let newcomer = door.token(r#""sub":"ada""#, r#""sub":"eve""#);
    crate::support::gateway::eventually("a newcomer is let in", || {
        let post = Post::call("echo").token(&newcomer);
        let answer = post.to(&door.gateway);
        if answer.status() == 200 {
            post.is_echoed(&answer);
        }
        answer.status() == 200
    });
    door.checked();
}
