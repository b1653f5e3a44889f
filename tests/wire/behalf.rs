//! Tokens that the gateway has fetched for its servers: its own, and in exchange for callers'. Every token endpoint here
//! is behind TLS, with a certificate of an authority that the configuration names.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, Validation};
use portcullis::identity::provider;
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually, run};
use crate::support::http::{Response, Wire};
use crate::support::idp::{Idp, parameter};
use crate::support::mcp::{Post, text_of};
use crate::support::peers::node_peers;
use crate::support::tls::{Authority, Manner, Shelf, Terminator};
use crate::support::upstream::{Acted, Out, Plan, Reserved, Seen, Upstream, said};

/// What an endpoint might say about itself, or of what it was given: nobody else is to read it.
const LOOSE_WORDS: &str = "hunter2";
/// A whole fetch may take 5 s, and a call waits a little longer.
const CLEAR_WITHIN: Duration = Duration::from_secs(15);

/// A token endpoint.
struct Issuer {
    upstream: Upstream,
    front: Terminator,
    shelf: Shelf,
    ca: PathBuf,
}

/// The parameters of a token request.
type Form = BTreeMap<String, String>;

fn form(seen: &Seen) -> Form {
    url::form_urlencoded::parse(&seen.body).into_owned().collect()
}

/// The subject of a token, unverified.
fn subject(token: &str) -> String {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap_or_default()).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    claims["sub"].as_str().unwrap_or_default().to_owned()
}

fn token(value: &str, expires_s: u64) -> Value {
    json!({
        "access_token": value, "token_type": "Bearer", "expires_in": expires_s,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    })
}

impl Issuer {
    /// Gives `own-N` to the gateway, and `for-SUBJECT-N` to it for its callers, for an hour.
    fn new() -> Self {
        Self::acting(|_, _, _| Acted::Default)
    }

    fn acting(act: impl Fn(&Form, usize, &mut Out<'_>) -> Acted + Send + Sync + 'static) -> Self {
        let (authority, shelf, number) = (Authority::new("issuers"), Shelf::new(), AtomicUsize::new(0));
        let script = move |seen: &Seen, out: &mut Out<'_>| {
            let (form, number) = (form(seen), number.fetch_add(1, Ordering::SeqCst));
            if let Acted::Done = act(&form, number, out) {
                return Acted::Done;
            }
            let value = match form.get("subject_token") {
                Some(token) => format!("for-{}-{number}", subject(token)),
                None => format!("own-{number}"),
            };
            out.json(200, "", &token(&value, 3600));
            Acted::Done
        };
        let upstream = Plan::tools(&[]).script(script).start();
        let front = Terminator::start(upstream.address(), Manner::Polite(authority.issue(&["127.0.0.1"]).server(None)));
        let ca = shelf.put("ca.pem", &authority.pem());
        Self { upstream, front, shelf, ca }
    }

    fn url(&self) -> String {
        format!("https://{}/token", self.front.address)
    }

    fn grant(&self) -> Value {
        json!({
            "token_url": self.url(), "client_id": "gateway", "client_secret": "gateway-secret",
            "private": ["127.0.0.0/8"], "ca": self.ca,
        })
    }

    fn asked(&self) -> usize {
        self.upstream.seen().len()
    }
}

/// A server whose tool `whoami` says with what it was called.
fn server() -> Upstream {
    Plan::tools(&["whoami"])
        .script(|seen, out| {
            if !seen.calls("whoami") {
                return Acted::Default;
            }
            out.json(200, "", &said(seen, &format!("{} {}", seen.field("authorization"), seen.value())));
            Acted::Done
        })
        .start()
}

fn own(upstream: &Upstream, grant: Value) -> Value {
    json!({ "url": upstream.url(), "credentials": { "client_credentials": grant } })
}

fn exchange(upstream: &Upstream, grant: Value) -> Value {
    json!({
        "url": upstream.url(), "credentials": { "exchange": grant }, "catalogue": { "bearer": "for-the-catalogue" },
    })
}

/// A gateway whose callers have tokens, and its one server.
fn start(settings: Value) -> Gateway {
    Setup::new().set("/servers/up", settings).task("refund").task("audit").open().tokens("allow").start()
}

/// With what the server was called.
#[track_caller]
fn shown(post: &Post, answer: &Response) -> String {
    let answer = answer.json();
    let text = text_of(&answer).to_owned();
    let (shown, value) = text.rsplit_once(' ').unwrap_or_else(|| panic!("no answer of the server's: {answer}"));
    assert_eq!(value, post.value, "the answer is this call's own");
    shown.strip_prefix("Bearer ").unwrap_or(shown).to_owned()
}

#[track_caller]
fn whoami(gateway: &Gateway, token: &str) -> String {
    let post = Post::call("whoami").token(token);
    shown(&post, &post.to(gateway))
}

/// The call fails, in words that say why it could, and hold nothing that they must not.
#[track_caller]
fn unavailable(answer: &Response) {
    let text = answer.text();
    let error = &answer.json()["error"];
    assert_eq!(error["code"], -32603, "{text}");
    assert!(text.contains("credential") && text.contains("up"), "{text}");
    for secret in [LOOSE_WORDS, "gateway-secret", "127.0.0.1", "ca.pem", "eyJ"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn the_gateways_own_by_secret() {
    for (auth, scope) in [("basic", "a b"), ("post", "x")] {
        let (issuer, up) = (Issuer::new(), server());
        let mut grant = issuer.grant();
        grant["auth"] = json!(auth);
        grant["scope"] = json!(scope);
        grant["resource"] = json!(up.url());
        let gateway = start(own(&up, grant));
        let tokens: HashSet<String> = ["ada", "bob", "eve"]
            .iter()
            .map(|name| whoami(&gateway, &gateway.token(&Who { subject: name, ..Who::default() })))
            .collect();
        assert_eq!(tokens, HashSet::from(["own-0".to_owned()]), "one for all, the survey's too");
        assert_eq!(issuer.asked(), 1);
        let asked = &issuer.upstream.seen()[0];
        let form = form(asked);
        assert_eq!(
            (&*form["grant_type"], &*form["scope"], &*form["resource"]),
            ("client_credentials", scope, &*up.url())
        );
        assert_eq!((asked.http.as_str(), asked.target.as_str()), ("POST", "/token"));
        assert_eq!(asked.field("content-type"), "application/x-www-form-urlencoded");
        // gateway:gateway-secret
        let by_field = asked.field("authorization") == "Basic Z2F0ZXdheTpnYXRld2F5LXNlY3JldA==";
        let by_form = form.get("client_secret").is_some_and(|secret| secret == "gateway-secret");
        assert_eq!((by_field, by_form), (auth == "basic", auth == "post"));
    }
}

#[test]
fn the_gateways_own_by_private_key() {
    provider::install();
    let public = |raw: &[u8]| URL_SAFE_NO_PAD.encode(raw);
    let ec = |key: &KeyPair| {
        let point = &key.public_key_raw()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        DecodingKey::from_ec_components(&public(x), &public(y)).unwrap()
    };
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let rsa = include_str!("../../src/oauth/testdata/rsa.pem").to_owned();
    let pair = KeyPair::from_pem(&rsa).unwrap();
    let of_rsa = DecodingKey::from_rsa_pem(pair.public_key_pem().as_bytes()).unwrap();
    let of_ed = DecodingKey::from_ed_components(&public(ed.public_key_raw())).unwrap();
    let keys = [
        ("ES256", p256.serialize_pem(), ec(&p256)),
        ("ES384", p384.serialize_pem(), ec(&p384)),
        ("EdDSA", ed.serialize_pem(), of_ed),
        ("RS256", rsa.clone(), of_rsa.clone()),
        ("PS256", rsa, of_rsa),
    ];
    let issuer = Issuer::new();
    for (number, (algorithm, pem, public)) in keys.into_iter().enumerate() {
        let up = server();
        let file = issuer.shelf.put("client.pem", &pem);
        let mut grant = issuer.grant();
        grant.as_object_mut().unwrap().remove("client_secret");
        grant["client_key"] = json!({ "file": file, "algorithm": algorithm, "key_id": "k1" });
        let gateway = start(own(&up, grant));
        assert_eq!(whoami(&gateway, &gateway.token(&Who::default())), format!("own-{number}"));
        let asked = form(&issuer.upstream.seen()[number]);
        let mut rules = Validation::new(algorithm.parse().unwrap());
        rules.set_audience(&[issuer.url()]);
        rules.set_issuer(&["gateway"]);
        rules.sub = Some("gateway".into());
        let assertion = jsonwebtoken::decode::<Value>(&asked["client_assertion"], &public, &rules);
        let assertion = assertion.unwrap_or_else(|fault| panic!("{algorithm}: {fault}"));
        assert_eq!(assertion.header.kid.as_deref(), Some("k1"));
        assert!(!asked.contains_key("client_secret"));
    }
}

/// A hundred calls of one owner, over two shards, at once: one request, and one token.
#[test]
fn one_request_however_many_wait() {
    let issuer = Issuer::acting(|_, _, _| {
        thread::sleep(Duration::from_millis(400));
        Acted::Default
    });
    let up = server();
    let gateway =
        Setup::new().set("/servers/up", exchange(&up, issuer.grant())).open().tokens("deny").shards(2).start();
    let token = gateway.token(&Who::default());
    let posts: Vec<Post> = (0..100).map(|_| Post::call("whoami").token(&token)).collect();
    let mut wires: Vec<Wire> = posts.iter().map(|post| post.begin(&gateway)).collect();
    for (post, wire) in posts.iter().zip(&mut wires) {
        assert_eq!(shown(post, &wire.response()), "for-ada-0");
    }
    assert_eq!(issuer.asked(), 1);
    let asked = form(&issuer.upstream.seen()[0]);
    assert_eq!(asked["grant_type"], "urn:ietf:params:oauth:grant-type:token-exchange");
    assert_eq!(
        (&*asked["subject_token"], &*asked["subject_token_type"]),
        (&*token, "urn:ietf:params:oauth:token-type:access_token")
    );
    // A newer token of the same caller is worth no other.
    let newer = gateway.token(&Who { expires_s: 900, ..Who::default() });
    assert_eq!(whoami(&gateway, &newer), "for-ada-0");
    assert_eq!(issuer.asked(), 1);
}

/// [B2] 2,000 calls of 50 owners on two shards: each server call bears the token of its own caller, and there are fifty.
#[test]
fn nobody_gets_anothers() {
    let (issuer, up) = (Issuer::new(), server());
    let gateway =
        Setup::new().set("/servers/up", exchange(&up, issuer.grant())).open().tokens("deny").shards(2).start();
    let names: Vec<String> = (0..50).map(|owner| format!("owner{owner}")).collect();
    let tokens: Vec<String> =
        names.iter().map(|name| gateway.token(&Who { subject: name, ..Who::default() })).collect();
    let (gateway, names, tokens) = (&gateway, &names, &tokens);
    let seen: Vec<HashSet<String>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    let mut wire = Wire::to(gateway.address);
                    let mut seen = HashSet::new();
                    for call in 0..250 {
                        let owner = (call * 7 + thread * 11) % 50;
                        let post = Post::call("whoami").token(&tokens[owner]);
                        let shown = shown(&post, &wire.ask(&post.bytes(gateway)));
                        assert!(shown.starts_with(&format!("for-{}-", names[owner])), "{shown} for {}", names[owner]);
                        seen.insert(shown);
                    }
                    seen
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let all: HashSet<&String> = seen.iter().flatten().collect();
    assert_eq!((all.len(), issuer.asked()), (50, 50));
}

/// [B3] The same owner with other tasks, scopes, or acting for somebody else, is given another token.
#[test]
fn what_a_token_says_is_what_it_is_exchanged_for() {
    let (issuer, up) = (Issuer::new(), server());
    let gateway = start(exchange(&up, issuer.grant()));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = |more: &str| {
        let header = format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{}"}}"#, gateway.key_id());
        let audience = gateway.url("/mcp");
        let claims = format!(
            r#"{{"iss":"https://issuer.test","aud":"{audience}","sub":"ada","client_id":"a","iat":{},"exp":{}{more}}}"#,
            now - 5,
            now + 600
        );
        gateway.sign(&header, &claims)
    };
    let mut seen = HashSet::new();
    for more in [
        "",
        r#","scope":"a""#,
        r#","scope":"a b""#,
        r#","tasks":["refund"]"#,
        r#","tasks":["refund","audit"]"#,
        r#","act":{"sub":"agent"}"#,
        r#","act":{"sub":"agent","act":{"sub":"first"}}"#,
        r#","tenant":1"#,
        r#","tenant":"1""#,
    ] {
        let first = whoami(&gateway, &token(&format!(r#","jti":"1"{more}"#)));
        assert_eq!(whoami(&gateway, &token(&format!(r#"{more},"jti":"2""#))), first, "{more}");
        assert!(seen.insert(first), "{more}");
    }
    assert_eq!(issuer.asked(), seen.len());
}

/// It is fetched anew before its end, while the one before is still shown: nobody waits for that.
#[test]
fn renewed_before_its_end_without_a_wait() {
    // Used for half of its 20 s.
    let issuer = Issuer::acting(|_, number, out| {
        if number > 0 {
            out.pass("renewal");
        }
        out.json(200, "", &token(&format!("own-{number}"), 20));
        Acted::Done
    });
    let up = server();
    let gateway = start(own(&up, issuer.grant()));
    let caller = gateway.token(&Who::default());
    let begun = Instant::now();
    eventually("it is asked for again", || {
        assert_eq!(whoami(&gateway, &caller), "own-0");
        issuer.asked() == 2
    });
    assert!(begun.elapsed() > Duration::from_secs(5), "not as soon as that: {:?}", begun.elapsed());
    // The endpoint thinks about it.
    assert_eq!(whoami(&gateway, &caller), "own-0");
    issuer.upstream.open("renewal");
    eventually("the new one is shown", || whoami(&gateway, &caller) == "own-1");
    assert_eq!(issuer.asked(), 2);
}

type Failure = Box<dyn Fn(&mut Out<'_>) + Send + Sync>;

/// What an endpoint may do instead of giving a token; one of them sends `away`.
fn failures(away: String) -> Vec<(&'static str, Failure)> {
    vec![
        ("hangs", Box::new(|out| _ = out.gone(Duration::from_secs(30)))),
        ("closes", Box::new(|out| out.close())),
        (
            "lies",
            Box::new(|out| {
                out.write(format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 7\r\n\r\n{LOOSE_WORDS}"
                ))
            }),
        ),
        ("no json", Box::new(|out| out.json_bytes(200, "", LOOSE_WORDS.as_bytes()))),
        ("no bearer", Box::new(|out| out.json(200, "", &json!({ "access_token": LOOSE_WORDS, "token_type": "DPoP" })))),
        (
            "two in one",
            Box::new(|out| {
                out.json(
                    200,
                    "",
                    &json!({ "access_token": format!("{LOOSE_WORDS}\r\nx-admin: 1"), "token_type": "Bearer" }),
                )
            }),
        ),
        (
            "huge",
            Box::new(|out| out.json(200, "", &json!({ "access_token": "a".repeat(1 << 20), "token_type": "Bearer" }))),
        ),
        (
            "endless",
            Box::new(|out| {
                out.write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{");
                while out.is_open() {
                    out.write(" ".repeat(65_536));
                }
            }),
        ),
        (
            "declines",
            Box::new(|out| out.json(400, "", &json!({ "error": "invalid_grant", "error_description": LOOSE_WORDS }))),
        ),
        (
            "is confused",
            Box::new(|out| {
                out.json(401, "www-authenticate: Basic realm=\"hunter2\"\r\n", &json!({ "error": LOOSE_WORDS }))
            }),
        ),
        ("is broken", Box::new(|out| out.json(500, "", &json!({ "error": LOOSE_WORDS })))),
        ("redirects", Box::new(move |out| out.json(307, &format!("location: {away}\r\n"), &json!({})))),
    ]
}

/// [B5] An endpoint that is down, hangs, lies, is huge or sends elsewhere: the calls that need it fail clearly and in time,
/// and others notice nothing. Nothing of what it says reaches anybody.
#[test]
fn an_endpoint_that_fails_is_its_own_servers_trouble() {
    let elsewhere = Issuer::new();
    let away = elsewhere.url();
    for (what, act) in failures(away) {
        let issuer = Issuer::acting(move |_, _, out| {
            act(out);
            Acted::Done
        });
        let (up, well, lives) = (server(), server(), Issuer::new());
        let gateway = Setup::new()
            .set("/servers/up", exchange(&up, issuer.grant()))
            .set("/servers/well", exchange(&well, lives.grant()))
            .open()
            .tokens("deny")
            .start();
        let token = |path: &str| gateway.token_for(&Who::default(), &[&gateway.url(path)]);
        let (bad, good) = (token("/s/up/mcp"), token("/s/well/mcp"));
        let begun = Instant::now();
        let post = Post::call("whoami").at("/s/up/mcp").token(&bad);
        let mut waiting = post.begin(&gateway);
        eventually("it is asked", || issuer.asked() > 0);
        let other = Post::call("whoami").at("/s/well/mcp").token(&good);
        assert_eq!(shown(&other, &other.to(&gateway)), "for-ada-0", "{what}");
        unavailable(&waiting.response());
        assert!(begun.elapsed() < CLEAR_WITHIN, "{what}: {:?}", begun.elapsed());
        // And at once, for as long as it is known.
        unavailable(&post.to(&gateway));
        assert_eq!(issuer.asked(), 1, "{what}: not asked again at once");
        assert!(up.calls().is_empty(), "{what}: a call without its credential was sent");
        assert_eq!(gateway.said(LOOSE_WORDS), 0, "{what}: it is in the log");
    }
    assert_eq!(elsewhere.asked(), 0, "a redirect was followed");
}

/// Nobody listens there; and later somebody does.
#[test]
fn an_endpoint_that_is_down_is_tried_again() {
    let place = Reserved::new();
    let up = server();
    let url = place.url().replace("/mcp", "/token");
    let grant = json!({ "token_url": url, "client_id": "gateway", "client_secret": "s", "private": ["127.0.0.0/8"] });
    let gateway = start(exchange(&up, grant));
    let caller = gateway.token(&Who::default());
    unavailable(&Post::call("whoami").token(&caller).to(&gateway));
    let issuer = place.start(Plan::tools(&[]).script(|_, out| {
        out.json(200, "", &token("late", 3600));
        Acted::Done
    }));
    eventually("it is tried again", || {
        let post = Post::call("whoami").token(&caller);
        let answer = post.to(&gateway);
        answer.json().get("result").is_some() && shown(&post, &answer) == "late"
    });
    assert_eq!(issuer.seen().len(), 1);
}

/// A certificate of an authority that the configuration does not name, or for another host: nothing is sent there.
#[test]
fn an_endpoint_is_who_it_says_or_is_not_told_anything() {
    let (stranger, issuer) = (Authority::new("strangers"), Issuer::new());
    for shown in [stranger.issue(&["127.0.0.1"]), stranger.issue(&["localhost"])] {
        issuer.front.change(Manner::Polite(shown.server(None)));
        let up = server();
        let gateway = start(exchange(&up, issuer.grant()));
        unavailable(&Post::call("whoami").token(&gateway.token(&Who::default())).to(&gateway));
    }
    assert_eq!((issuer.asked(), issuer.front.passed()), (0, 0), "no secret and no token has left");
}

/// [B3] Who is revoked has no token kept; who is let in again gets a new one.
#[test]
fn a_revocation_drops_it() {
    let (issuer, up) = (Issuer::new(), server());
    let gateway = start(exchange(&up, issuer.grant()));
    let (ada, bob) = (Who::default(), Who { subject: "bob", ..Who::default() });
    let (ada, bob) = (gateway.token(&ada), gateway.token(&bob));
    assert_eq!((whoami(&gateway, &ada), whoami(&gateway, &bob)), ("for-ada-0".into(), "for-bob-1".into()));
    let config = gateway.config().display().to_string();
    let admin = gateway.admin.to_string();
    let told = |words: &[&str]| {
        let all = [words, &["--config", &config, "--admin", &admin]].concat();
        let run = run(Path::new("."), &all);
        assert!(run.status.is_some_and(|status| status.success()), "{}{}", run.stdout, run.stderr);
    };
    told(&["revoke", "--subject", "ada"]);
    assert_eq!(Post::call("whoami").token(&ada).to(&gateway).status(), 401);
    // What is kept is looked through a few times a second.
    thread::sleep(Duration::from_millis(600));
    told(&["revoke", "--undo", "--subject", "ada"]);
    assert_eq!(whoami(&gateway, &ada), "for-ada-2", "what was hers is gone");
    assert_eq!(whoami(&gateway, &bob), "for-bob-1", "his is not");
}

/// A changed grant is another: its tokens are fetched by it, and those before are shown no more.
#[test]
fn a_reload_asks_anew() {
    let (issuer, up) = (Issuer::new(), server());
    let gateway = start(own(&up, issuer.grant()));
    let caller = gateway.token(&Who::default());
    assert_eq!(whoami(&gateway, &caller), "own-0");
    gateway.configure(|config| config["servers"]["up"]["credentials"]["client_credentials"]["scope"] = json!("more"));
    gateway.reload();
    let shown = whoami(&gateway, &caller);
    assert!(shown != "own-0", "{shown}");
    assert_eq!(form(&issuer.upstream.seen()[1])["scope"], "more");
    gateway.configure(|config| {
        config["servers"]["up"]["credentials"]["client_credentials"]["client_secret"] = json!("new")
    });
    gateway.reload();
    assert_ne!(whoami(&gateway, &caller), shown, "another secret is another grant");
}

/// A caller without a token has none that could be exchanged: its call fails, and is not sent as anybody.
#[test]
fn the_anonymous_have_nothing_to_exchange() {
    let (issuer, up) = (Issuer::new(), server());
    let gateway = start(exchange(&up, issuer.grant()));
    let answer = Post::call("whoami").to(&gateway);
    assert_eq!(answer.json()["error"]["code"], -32603, "{}", answer.text());
    assert!(issuer.asked() == 0 && up.calls().is_empty());
}

/// A client that proves itself by this key.
fn signer(key: &KeyPair) -> Value {
    let (x, y) = key.public_key_raw()[1..].split_at(32);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) });
    json!({
        "client_id": "signer", "grant_types": ["client_credentials"], "redirect_uris": [], "response_types": [],
        "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256",
        "jwks": { "keys": [jwk] },
    })
}

/// With a real identity provider, and a real server that asks for its tokens: the caller's token is for the gateway
/// alone, the server sees one that is for it, and of the same subject.
#[test]
fn a_real_provider_and_a_protected_server() {
    let Some(peers) = node_peers() else { return };
    let (shelf, key) = (Shelf::new(), KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap());
    let Some(idp) = Idp::start(&json!({ "ttl": 300, "clients": [signer(&key)] })) else { return };
    let told = json!({ "issuer": idp.issuer(), "audience": "urn:protected" }).to_string();
    let protected = peers.serve_with("protected-server.mjs", &[("PROTECTED", &told)]);
    let grant = |client: &str| {
        json!({
            "token_url": format!("{}/token", idp.issuer()), "client_id": client, "client_secret": format!("{client}-secret"),
            "scope": "mcp:tools", "private": ["127.0.0.0/8"],
        })
    };
    let (mut own, mut exchanged) = (grant("gateway"), grant("gateway"));
    own["resource"] = json!("urn:protected");
    let mut keyed = own.clone();
    keyed["client_id"] = json!("signer");
    keyed.as_object_mut().unwrap().remove("client_secret");
    // It takes its own name as `aud`, and no other.
    let file = shelf.put("client.pem", &key.serialize_pem());
    keyed["client_key"] = json!({ "file": file, "algorithm": "ES256", "audience": idp.issuer() });
    exchanged["audience"] = json!("urn:protected");
    let catalogue = json!({ "client_credentials": own });
    let mut issuer = idp.settings();
    issuer["introspection"] = json!({ "client_id": "gateway", "client_secret": "gateway-secret" });
    let gateway = Setup::new()
        .set("/servers/own", json!({ "url": protected.url(), "credentials": { "client_credentials": own } }))
        .set(
            "/servers/theirs",
            json!({ "url": protected.url(), "credentials": { "exchange": exchanged }, "catalogue": catalogue }),
        )
        .set("/servers/keyed", json!({ "url": protected.url(), "credentials": { "client_credentials": keyed } }))
        .set("/servers/bare", json!({ "url": protected.url() }))
        .set("/auth", json!({ "issuers": [issuer] }))
        .open()
        .start();
    let asked = |server: &str, who: &str| {
        let path = format!("/s/{server}/mcp");
        let token = idp.token(&json!({ "sub": who, "aud": gateway.url(&path) }));
        Post::call("whoami").at(&path).token(&token).to(&gateway)
    };
    let said = |answer: &Response| -> Value {
        let answer = answer.json();
        serde_json::from_str(text_of(&answer)).unwrap_or_else(|_| panic!("{answer}"))
    };
    eventually("the server is known", || asked("own", "ada").json().get("result").is_some());
    let theirs = said(&asked("own", "ada"));
    assert_eq!((&theirs["sub"], &theirs["aud"]), (&json!("gateway"), &json!("urn:protected")));
    eventually("and to one with a key", || asked("keyed", "ada").json().get("result").is_some());
    assert_eq!(said(&asked("keyed", "ada"))["sub"], "signer");
    eventually("and by its catalogue's own credential", || asked("theirs", "ada").json().get("result").is_some());
    for who in ["ada", "bob", "ada"] {
        let theirs = said(&asked("theirs", who));
        assert_eq!((&theirs["sub"], &theirs["aud"]), (&json!(who), &json!("urn:protected")));
        assert_eq!(theirs["act"]["sub"], "gateway");
    }
    let exchanges = idp.seen("/token");
    let exchanges = exchanges.iter().filter(|seen| parameter(seen, "grant_type").ends_with("token-exchange")).count();
    assert!((2..=3).contains(&exchanges), "{exchanges} for two callers");
    // A token that only its issuer can read is exchanged like any other.
    let post = Post::call("whoami").at("/s/theirs/mcp");
    let opaque = idp.opaque(&json!({ "sub": "opal", "aud": gateway.url("/s/theirs/mcp") }));
    assert_eq!(said(&post.token(&opaque).to(&gateway))["sub"], "opal");
    // One that shows nothing is challenged, and the challenge is not handed on.
    let answer = asked("bare", "ada");
    assert!(answer.json().get("error").is_some() && answer.field("www-authenticate").is_empty(), "{}", answer.text());
}
