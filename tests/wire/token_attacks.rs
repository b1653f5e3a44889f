//! Attacks on tokens, one row each: what is sent, and what it must come to. None reaches a server, each stands in the
//! record, and a good token is good before, between and after.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::identity::mint::MintKey;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, ISSUER, PATIENCE, Setup, run};
use crate::support::http::Response;
use crate::support::mcp::Post;
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

/// Trusted too, with keys of its own.
const SECOND: &str = "https://second.test";

/// What an attack must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// A bad token: 401, a challenge that says so.
    Invalid,
    /// No token: 401, a challenge that says nothing of one.
    Missing,
    /// One that was taken back.
    Revoked,
    /// Not even a request: this status.
    NoRequest(u16),
}

struct Attack {
    name: String,
    post: Post,
    want: Want,
}

struct World {
    gateway: Gateway,
    upstream: Upstream,
    /// The second issuer's key.
    edwards: Ed25519KeyPair,
    /// Whatever a token points to.
    lure: TcpListener,
    stranger: MintKey,
    now: u64,
    _folder: tempfile::TempDir,
    attacks: Vec<Attack>,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl World {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pair = Ed25519KeyPair::generate_pkcs8(&random).expect("a key can be made");
        let edwards = Ed25519KeyPair::from_pkcs8(pair.as_ref()).expect("it was just made");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [first, second] = ["first.json", "second.json"].map(|name| folder.path().join(name));
        // An RSA key whose modulus everybody knows is there to be taken for a secret.
        let mut modulus = vec![0x5A; 256];
        (modulus[0], modulus[255]) = (0xC0, 1);
        let set = json!({ "keys": [
            { "kty": "OKP", "crv": "Ed25519", "kid": "edwards", "x": encode(edwards.public_key()) },
            { "kty": "RSA", "kid": "rsa", "n": encode(&modulus), "e": "AQAB" },
        ]});
        std::fs::write(&second, set.to_string()).expect("the temporary folder can be written");
        let upstream = Plan::tools(&["echo"]).start();
        let setup = Setup::new().server("up", &upstream.url()).open();
        setup.key_set_to(&first);
        let issuers = json!([
            { "issuer": ISSUER, "jwks": { "file": first }, "algorithms": ["ES256"] },
            { "issuer": SECOND, "jwks": { "file": second }, "algorithms": ["EdDSA", "RS256"] },
        ]);
        let gateway = setup.set("/auth", json!({ "anonymous": "deny", "issuers": issuers })).start();
        let lure = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        lure.set_nonblocking(true).expect("a socket has this option");
        let stranger = MintKey::generate(&random).expect("a key can be made");
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("the clock is set").as_secs();
        Self { gateway, upstream, edwards, lure, stranger, now, _folder: folder, attacks: Vec::new() }
    }

    fn header(&self) -> String {
        format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{}"}}"#, self.gateway.key_id())
    }

    fn claims(&self) -> String {
        let (audience, issued, expires) = (self.gateway.url("/mcp"), self.now - 60, self.now + 600);
        format!(
            r#"{{"iss":"{ISSUER}","sub":"ada","client_id":"agent-1","aud":"{audience}","iat":{issued},"exp":{expires},"jti":"j-1"}}"#
        )
    }

    fn good(&self) -> String {
        self.gateway.sign(&self.header(), &self.claims())
    }

    /// A token of the second issuer's, or one that is made to look so.
    fn by_second(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        format!("{signed}.{}", encode(self.edwards.sign(signed.as_bytes())))
    }

    /// One more row.
    fn post(&mut self, name: impl Into<String>, post: Post, want: Want) {
        self.attacks.push(Attack { name: name.into(), post, want });
    }

    /// A token that is no good one.
    fn token(&mut self, name: impl Into<String>, token: &str) {
        self.post(name, Post::call("echo").token(token), Want::Invalid);
    }

    /// The good token, signed by the trusted key, after `from` became `to` in its header or claims.
    fn changed(&mut self, from: &str, to: &str) {
        let (header, claims) = (self.header(), self.claims());
        assert!(header.contains(from) || claims.contains(from), "{from}");
        let token = self.gateway.sign(&header.replacen(from, to, 1), &claims.replacen(from, to, 1));
        self.token(format!("{from} -> {to}"), &token);
    }

    /// As it must be: nobody got through, and everybody was noted.
    fn run(self) {
        let Self { gateway, upstream, attacks, lure, .. } = &self;
        let before = &upstream.calls().len();
        let known = self.good();
        Post::call("echo").token(&known).echoed(gateway);
        let mut told = Vec::new();
        for (number, Attack { name, post, want }) in attacks.iter().enumerate() {
            let answer = unhurried(post, gateway);
            let (challenge, text) = (answer.field("www-authenticate"), answer.text());
            let (status, error, reason) = match want {
                Want::Invalid => (401, true, Some("auth")),
                Want::Missing => (401, false, Some("auth")),
                Want::Revoked => (401, true, Some("revoked")),
                Want::NoRequest(status) => (*status, false, None),
            };
            assert_eq!(answer.status(), status, "{name}: {text}");
            assert_eq!(challenge.contains("error=\"invalid_token\""), error, "{name}: {challenge}");
            if status == 401 {
                let metadata = gateway.url("/.well-known/oauth-protected-resource/mcp");
                assert!(challenge.starts_with("Bearer ") && challenge.contains(&metadata), "{name}: {challenge}");
                assert_eq!(challenge.matches("resource_metadata=").count(), 1, "{name}: {challenge}");
            }
            told.extend(reason);
            if number % 16 == 0 {
                Post::call("echo").token(&known).echoed(gateway);
            }
        }
        Post::call("echo").token(&known).echoed(gateway);
        let good = attacks.len().div_ceil(16) + 2 + *before;
        assert_eq!(upstream.calls().len(), good, "somebody got through");
        let refused = |records: &[Value]| -> Vec<String> {
            let refused = records.iter().filter(|it| it["kind"] == "decision" && it["verdict"] == "refuse");
            refused
                .filter(|it| it["reason"] != "overload")
                .map(|it| it["reason"].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        let records = gateway.records_until("every attack", |records| refused(records).len() >= told.len());
        assert_eq!(refused(&records), told, "each in its place, and nothing else");
        let fetched = lure.accept().map(|_| ()).map_err(|error| error.kind());
        assert_eq!(fetched, Err(ErrorKind::WouldBlock), "somebody fetched what a token pointed to");
        println!("{} attacks", attacks.len());
        oracle::check(gateway, &[("up", upstream)]);
    }
}

/// The answer, once there is time for it: on a busy machine so many unknown tokens may be more than a shard gives its time to.
fn unhurried(post: &Post, gateway: &Gateway) -> Response {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = post.to(gateway);
        if answer.status() != 503 || Instant::now() > until {
            return answer;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// `none` in any spelling, public keys as secrets, names that nobody configured, signatures that are none.
fn algorithms(world: &mut World) {
    let (header, claims, good) = (world.header(), encode(world.claims()), world.good());
    for name in ["none", "None", "NONE", "nOnE", "none "] {
        let none = encode(header.replace("ES256", name));
        world.token(format!("alg {name}, nothing signed"), &format!("{none}.{claims}."));
    }
    world.token("alg none, two parts", &format!("{}.{claims}", encode(header.replace("ES256", "none"))));
    let public: Value = serde_json::from_str(&world.gateway.key_set()).expect("a key set is JSON");
    let point = [&public["keys"][0]["x"], &public["keys"][0]["y"]].map(|it| it.as_str().unwrap_or_default()).concat();
    let secrets = [("the key set", world.gateway.key_set()), ("the point", point), ("nothing", String::new())];
    for (what, secret) in secrets {
        for (name, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
            let signed = format!("{}.{claims}", encode(header.replace("ES256", name)));
            let mac = hmac::sign(&hmac::Key::new(algorithm, secret.as_bytes()), signed.as_bytes());
            world.token(format!("{name} with {what}"), &format!("{signed}.{}", encode(mac)));
        }
    }
    let rsa = format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"rsa"}}.{}"#, claims);
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"AQAB"), rsa.as_bytes());
    let header_rsa = encode(r#"{"alg":"HS256","typ":"at+jwt","kid":"rsa"}"#);
    world.token("HS256 under an RSA key's id", &format!("{header_rsa}.{claims}.{}", encode(mac)));
    for name in ["ES384", "RS256", "PS256", "EdDSA", "es256", "ES256 ", "ES256K", "dir", ""] {
        world.changed("ES256", name);
    }
    world.changed(r#""alg":"ES256","#, "");
    world.changed(r#""ES256""#, "null");
    world.changed(r#""ES256""#, r#"["ES256","none"]"#);
    let (signed, signature) = good.rsplit_once('.').expect("a token has dots");
    world.token("no signature", &format!("{signed}."));
    world.token("a signature of zeros", &format!("{signed}.{}", encode([0; 64])));
    world.token("a signature of ones", &format!("{signed}.{}", encode([0xFF; 64])));
    world.token("a short signature", &format!("{signed}.{}", &signature[..40]));
    let mut der = vec![0x30, 0x44, 0x02, 0x20];
    let raw = URL_SAFE_NO_PAD.decode(signature).expect("it was just made");
    der.extend_from_slice(&raw[..32]);
    der.extend([0x02, 0x20]);
    der.extend_from_slice(&raw[32..]);
    world.token("the signature in DER", &format!("{signed}.{}", encode(der)));
    let root = encode(world.claims().replace("ada", "root"));
    world.token("another subject under a good signature", &format!("{}.{root}.{signature}", encode(&header)));
}

/// Keys that a token brings or points to, ids that are paths, and keys of somebody else.
fn keys(world: &mut World) {
    let random = SystemRandom::new();
    let url = format!("http://{}/keys", world.lure.local_addr().expect("it is bound"));
    let set: Value = serde_json::from_str(&world.stranger.key_set()).expect("a key set is JSON");
    let claims: Value = serde_json::from_str(&world.claims()).expect("claims are JSON");
    let brought = [
        ("jku", json!({ "jku": url })),
        ("x5u", json!({ "x5u": url })),
        ("jwk", json!({ "jwk": set["keys"][0] })),
        ("x5c", json!({ "x5c": ["MIIBIjANBgkq"], "x5t": "AAAA" })),
    ];
    for (name, brought) in brought {
        for id in [world.stranger.id().to_owned(), world.gateway.key_id().to_owned()] {
            let mut header = brought.clone();
            (header["alg"], header["typ"], header["kid"]) = (json!("ES256"), json!("at+jwt"), json!(id));
            let token = world.stranger.sign(&header, &claims, &random).expect("it signs");
            world.token(format!("{name}, kid {id}"), &token);
        }
    }
    let known = world.gateway.key_id().to_owned();
    for id in ["../../../../dev/null", "/etc/passwd", "' OR '1'='1", "$(id)|id", "\\u0000", "", &url, "edwards", "rsa"]
    {
        world.changed(&known, id);
    }
    let quoted = format!("\"{known}\"");
    for value in ["null", "0", "[]", "{}"] {
        world.changed(&quoted, value);
    }
    // Each issuer's keys are for its own tokens.
    let edwards = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"edwards"}"#;
    let token = world.by_second(edwards, &world.claims());
    world.token("the first issuer's claims, the second's key", &token);
    let as_second = world.claims().replace(ISSUER, SECOND);
    let token = world.gateway.sign(&world.header(), &as_second);
    world.token("the second issuer's claims, the first's key", &token);
    let token = world.by_second(&edwards.replace("edwards", "rsa"), &as_second);
    world.token("the second issuer's other key", &token);
    let token = world.by_second(&edwards.replace("EdDSA", "RS256"), &as_second);
    world.token("the second issuer's key for another algorithm", &token);
    // What is wrong above is not the second issuer.
    Post::call("echo").token(&world.by_second(edwards, &as_second)).echoed(&world.gateway);
}

/// Extensions, types, and tokens that are something else.
fn kinds(world: &mut World) {
    let typ = r#""typ""#;
    for member in [
        r#""crit":[]"#,
        r#""crit":["exp"]"#,
        r#""crit":["b64"],"b64":false"#,
        r#""b64":false"#,
        r#""b64":"true""#,
        r#""kid":"other""#,
        r#""x":{"a":1,"a":2}"#,
    ] {
        world.changed(typ, &format!("{member},{typ}"));
    }
    world.changed(r#""typ":"at+jwt","#, "");
    for other in ["id+jwt", "dpop+jwt", "logout+jwt", "oauth-id-jag+jwt", "text/at+jwt", "none", ""] {
        world.changed("at+jwt", other);
    }
    let unspecific = world.header().replace("at+jwt", "JWT");
    for mark in [r#""nonce":"n""#, r#""at_hash":"AAAA""#, r#""c_hash":"AAAA""#] {
        let token = world.gateway.sign(&unspecific, &world.claims().replace(r#""jti""#, &format!("{mark},\"jti\"")));
        world.token(format!("an ID token with {mark}"), &token);
    }
    let good = world.good();
    let nested = world.gateway.sign(&world.header().replace("{", r#"{"cty":"JWT","#), &good);
    world.token("a token in a token", &nested);
    let nested = world.gateway.sign(&world.header(), &json!({ "payload": good }).to_string());
    world.token("a token as a claim", &nested);
    let five = format!("{}.AAAA.AAAA.AAAA.AAAA", encode(r#"{"alg":"RSA-OAEP","enc":"A256GCM","typ":"at+jwt"}"#));
    world.token("encrypted", &five);
    let parts: Vec<&str> = good.split('.').collect();
    let json = json!({ "protected": parts[0], "payload": parts[1], "signature": parts[2] }).to_string();
    world.token("a JWS in JSON", &json);
    world.token("a JWS in JSON, encoded", &encode(json));
    for bound in [r#"{"jkt":"0ZcOCORZNYy"}"#, r#"{"x5t#S256":"bwcK0esc3ACC3DB2"}"#, "{}", "null"] {
        world.changed(r#""jti""#, &format!("\"cnf\":{bound},\"jti\""));
    }
}

/// Members twice and of the wrong type, times, issuers, audiences.
fn claims(world: &mut World) {
    let expires = format!(r#""exp":{}"#, world.now + 600);
    for value in ["\"1900000000\"", "-1", "1e400", "NaN", "[1900000000]", "null", "true", "{}", "1900000000000"] {
        world.changed(&expires, &format!("\"exp\":{value}"));
    }
    for (from, to) in [
        (r#""sub":"ada""#, r#""sub":7"#),
        (r#""sub":"ada""#, r#""sub":null"#),
        (r#""sub":"ada""#, r#""sub":["ada"]"#),
        (r#""sub":"ada""#, r#""sub":"""#),
        (r#""sub":"ada","#, ""),
        (r#""sub""#, r#""sub":"root","sub""#),
        (r#""sub""#, r#""s\u0075b":"root","sub""#),
        (r#""jti""#, r#""exp":1,"jti""#),
        (r#""jti""#, r#""deep":[{"a":1,"\u0061":1}],"jti""#),
        (r#""jti""#, r#""scope":7,"jti""#),
        (r#""jti""#, r#""nbf":"0","jti""#),
        (r#""jti""#, r#""tasks":[7],"jti""#),
        (r#""j-1""#, "7"),
        ("}", "}{}"),
        ("{", "[{"),
    ] {
        world.changed(from, to);
    }
    let deep = format!("\"deep\":{}{},\"jti\"", "[".repeat(400), "]".repeat(400));
    world.changed(r#""jti""#, &deep);
    let now = world.now;
    world.changed(&expires, &format!("\"exp\":{}", now - 31));
    world.changed(&format!(",{expires}"), "");
    world.changed(r#""jti""#, &format!("\"nbf\":{},\"jti\"", now + 300));
    world.changed(&format!("\"iat\":{}", now - 60), &format!("\"iat\":{}", now + 300));
    for other in ["https://issuer.test/", "https://ISSUER.test", "http://issuer.test", "https://unknown.test", ""] {
        world.changed(ISSUER, other);
    }
    world.changed("https://issuer.test", "https://issuer.test@evil.test");
    world.changed(&format!("\"iss\":\"{ISSUER}\","), "");
    world.changed(&format!("\"{ISSUER}\""), &format!("[\"{ISSUER}\"]"));
    let (ours, other) = (world.gateway.url("/mcp"), world.gateway.url("/s/up/mcp"));
    let audiences = [
        other,
        format!("{ours}/"),
        format!("{ours}?"),
        format!("{ours}#"),
        ours.to_uppercase(),
        ours.replace("/mcp", ""),
        format!("{ours} https://else.where"),
        "agent-1".to_owned(),
        String::new(),
    ];
    for audience in audiences {
        world.changed(&ours, &audience);
    }
    let quoted = format!("\"{ours}\"");
    for value in ["[]", "{}", "null", "[null]"] {
        world.changed(&quoted, value);
    }
    world.changed(r#""aud""#, r#""audience""#);
}

/// Other spellings of a good token, and other places for it.
fn spellings(world: &mut World) {
    let good = world.good();
    let parts: Vec<&str> = good.split('.').collect();
    let (signed, signature) = good.rsplit_once('.').expect("a token has dots");
    let last = signature.chars().last().expect("it is not empty");
    // The low bits of the last character say nothing: a reader that ignores them sees the same signature.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).expect("it is base64url");
    let twin = alphabet.chars().nth(place ^ 1).expect("there are 64");
    for (name, token) in [
        ("bits left over", format!("{signed}.{}{twin}", &signature[..signature.len() - 1])),
        ("padded", format!("{good}==")),
        ("a padded header", format!("{}=.{}.{}", parts[0], parts[1], parts[2])),
        ("the other alphabet", format!("{signed}.+/{}", &signature[2..])),
        ("a dot at the end", format!("{good}.")),
        ("a dot in front", format!(".{good}")),
        ("four parts", format!("{good}.{signature}")),
        ("dots alone", "..".to_owned()),
        ("quoted", format!("\"{good}\"")),
        ("cut", good[..good.len() - 1].to_owned()),
        ("twice over", format!("{good}{good}")),
    ] {
        world.token(name, &token);
    }
    for (name, field) in [
        ("blanks inside", format!("Bearer {} {}", &good[..20], &good[20..])),
        ("two blanks", format!("Bearer  {good}")),
        ("a tab", format!("Bearer\t{good}")),
        ("no blank", format!("Bearer{good}")),
        ("two credentials", format!("Bearer {good}, Bearer {good}")),
        ("two credentials, another scheme first", format!("Basic YTpi, Bearer {good}")),
        ("Basic", format!("Basic {good}")),
        ("DPoP", format!("DPoP {good}")),
        ("a scheme alone", "Bearer".to_owned()),
        ("a token alone", good.clone()),
        ("empty", String::new()),
    ] {
        world.post(name, Post::call("echo").field("authorization", &field), Want::Invalid);
    }
    for (name, fields) in [("twice", [&*good, &*good]), ("two of them", [&*good, "x"]), ("two others", ["x", &*good])] {
        let post = fields.iter().fold(Post::call("echo"), |post, token| post.token(token));
        world.post(format!("Authorization {name}"), post, Want::Invalid);
    }
    let bearer = format!("Bearer {good}");
    for (name, post) in [
        ("in the query", Post::call("echo").at(&format!("/mcp?access_token={good}"))),
        ("in a cookie", Post::call("echo").field("cookie", &format!("access_token={good}"))),
        ("in Proxy-Authorization", Post::call("echo").field("proxy-authorization", &bearer)),
        ("in X-Authorization", Post::call("echo").field("x-authorization", &bearer)),
        ("in the body", Post::call("echo").param("/_meta/authorization", json!(bearer))),
        ("in a form", Post::call("echo").body(format!("access_token={good}"))),
    ] {
        world.post(name, post, Want::Missing);
    }
    let padded = world.claims().replace(r#""jti""#, &format!("\"pad\":\"{}\",\"jti\"", "x".repeat(6_100)));
    let long = world.gateway.sign(&world.header(), &padded);
    assert!(long.len() > 8 * 1024, "{}", long.len());
    world.post("over 8 KiB", Post::call("echo").token(&long), Want::NoRequest(431));
}

/// One that was good, and was taken back.
fn taken_back(world: &mut World) {
    let claims = world.claims().replace("j-1", "j-2").replace("ada", "eve");
    let token = world.gateway.sign(&world.header(), &claims);
    Post::call("echo").token(&token).echoed(&world.gateway);
    let config = world.gateway.config().display().to_string();
    let admin = world.gateway.admin.to_string();
    let words = ["revoke", "--token", &token, "--config", &config, "--admin", &admin];
    let done = run(std::path::Path::new("."), &words);
    assert_eq!(done.status.and_then(|status| status.code()), Some(0), "{}", done.stderr);
    world.post("revoked", Post::call("echo").token(&token), Want::Revoked);
}

#[test]
fn every_attack_is_refused_and_noted() {
    let mut world = World::new();
    for rows in [algorithms, keys, kinds, claims, spellings, taken_back] {
        rows(&mut world);
    }
    assert!(world.attacks.len() >= 60, "{}", world.attacks.len());
    world.run();
}
