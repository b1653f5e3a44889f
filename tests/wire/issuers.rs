//! Issuers whose keys are fetched: where they are found, how they change, and what an issuer's web server can do to the
//! gateway when it is down, slow, or lies.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, eventually};
use crate::support::http::Wire;
use crate::support::issuer::{Documents, Say, Signer, key_set, now_unix_s};
use crate::support::mcp::{Post, open_session, session_request};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

const OAUTH: &str = "/.well-known/oauth-authorization-server";
const OPENID: &str = "/.well-known/openid-configuration";

fn pair(issuers: Vec<Value>) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"]).start();
    let mut setup = Setup::new().server("up", &upstream.url()).open();
    // Nobody is behind these, and nobody looks at them.
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        setup = setup.environment(name, "http://127.0.0.1:9");
    }
    let gateway = setup.set("/auth", json!({ "anonymous": "deny", "issuers": issuers })).start();
    (gateway, upstream)
}

/// What is known of an issuer, by `/status`.
#[track_caller]
fn known(gateway: &Gateway, issuer: &str) -> Value {
    let status = gateway.status();
    let row = status["issuers"].as_array().into_iter().flatten().find(|row| row["issuer"] == issuer);
    row.unwrap_or_else(|| panic!("{issuer} is not in {status:#}")).clone()
}

#[track_caller]
fn good(gateway: &Gateway, token: &str) {
    Post::call("echo").token(token).echoed(gateway);
}

/// That nobody can tell whether a token is good: not let in, and not told that it is bad.
#[track_caller]
fn untold(gateway: &Gateway, token: &str) -> String {
    let answer = Post::call("echo").token(token).to(gateway);
    assert_eq!(answer.status(), 503, "{}", answer.text());
    let after: u32 = answer.field("retry-after").parse().expect("it says when to come back");
    assert!((1..=60).contains(&after), "{after}");
    answer.text()
}

#[track_caller]
fn bad(gateway: &Gateway, token: &str) {
    let answer = Post::call("echo").token(token).to(gateway);
    assert_eq!(answer.status(), 401, "{}", answer.text());
}

fn document(issuer: &str, keys: &str) -> String {
    json!({ "issuer": issuer, "jwks_uri": keys }).to_string()
}

/// Each place where metadata may be is tried, in the order of the specification, until one has it.
#[test]
fn keys_are_found_by_each_document() {
    let cases: Vec<(&str, Vec<String>)> = vec![
        ("", vec![OAUTH.to_owned(), OPENID.to_owned()]),
        ("/a/t", vec![format!("{OAUTH}/a/t"), format!("{OPENID}/a/t"), format!("/a/t{OPENID}")]),
    ];
    for (path, places) in cases {
        for (found, place) in places.iter().enumerate() {
            let (documents, signer) = (Documents::start(), Signer::new());
            let issuer = documents.url(path);
            documents.json(place, &document(&issuer, &documents.url("/keys")));
            documents.json("/keys", &key_set(&[&signer]));
            let (gateway, upstream) = pair(vec![documents.issuer(path, Value::Null)]);
            good(&gateway, &signer.token(&issuer, &gateway.url("/mcp"), 0));
            let mut wanted: Vec<&str> = places[..=found].iter().map(String::as_str).collect();
            wanted.push("/keys");
            assert_eq!(documents.asked(), wanted);
            let row = known(&gateway, &issuer);
            assert_eq!((&row["source"], &row["keys"]["state"]), (&json!("discovery"), &json!("good")), "{row}");
            assert_eq!((&row["keys"]["usable"], &row["trouble"]), (&json!(1), &Value::Null), "{row}");
            oracle::check(&gateway, &[("up", &upstream)]);
        }
    }
}

/// [K14] New keys are taken up when the first token comes that needs them, and by time; nobody is refused meanwhile.
#[test]
fn keys_rotate_without_a_restart() {
    let (documents, old, new) = (Documents::start(), Signer::new(), Signer::new());
    documents.json("/keys", &key_set(&[&old]));
    let issuer = documents.url("");
    let (gateway, upstream) = pair(vec![documents.issuer("", json!({ "url": documents.url("/keys") }))]);
    let of = |signer: &Signer| signer.token(&issuer, &gateway.url("/mcp"), 0);
    let before = of(&old);
    good(&gateway, &before);
    assert_eq!(documents.asked(), ["/keys"]);
    // The look at the start was less than half a minute ago: a token that may be newer than that is not called bad.
    untold(&gateway, &of(&new));
    documents.json("/keys", &key_set(&[&old, &new]));
    let body = untold(&gateway, &of(&new));
    assert!(body.contains("try again"), "{body}");
    bad(&gateway, &new.token(&issuer, &gateway.url("/mcp"), 120));
    assert_eq!(documents.asked(), ["/keys"], "half a minute has not passed");
    good(&gateway, &before);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A gateway that has just not reached its issuer looks again at once when the first token comes, and all who come wait
/// for that one look.
#[test]
fn who_comes_while_keys_are_looked_at_waits() {
    let (documents, signer) = (Documents::start(), Signer::new());
    let issuer = documents.url("");
    documents.say("/keys", Say::Hang(Vec::new()));
    let (gateway, upstream) = pair(vec![documents.issuer("", json!({ "url": documents.url("/keys") }))]);
    let token = signer.token(&issuer, &gateway.url("/mcp"), 0);
    documents.json("/keys", &key_set(&[&signer]));
    // The first look hangs for five seconds, and the next one is a second or two later.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let until = Instant::now() + PATIENCE;
                let answered = || Post::call("echo").token(&token).to(&gateway).status();
                while answered() != 200 {
                    assert!(Instant::now() < until, "the keys never came: {:#}", known(&gateway, &issuer));
                }
            });
        }
    });
    assert!(documents.hits("/keys") <= 3, "{:?}", documents.asked());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What an issuer's web server may say instead of a key set, and how the operator is told.
fn lies(documents: &Documents, signer: &Signer) -> Vec<(&'static str, Say, &'static str)> {
    let key = signer.key();
    let double = json!({ "keys": [key, key] }).to_string();
    let to = |url: &str| Say::With(302, format!("location: {url}\r\n"), String::new());
    let huge = format!("{{\"keys\":[{}],\"x\":\"{}\"}}", key, "SECRETWORD ".repeat(64 * 1024));
    let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let endless = [&endless[..], &b"4000\r\n"[..], &[b' '; 0x4000], b"\r\n"].concat().repeat(1);
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"keys\":[".to_vec();
    vec![
        ("gone", Say::Text(404, "SECRETWORD".to_owned()), "status 404"),
        ("broken", Say::Text(500, "SECRETWORD".to_owned()), "status 500"),
        ("empty", Say::Text(204, String::new()), "status 204"),
        ("html", Say::Text(200, "<html>SECRETWORD</html>".to_owned()), "not a JSON Web Key Set"),
        ("listed", Say::Text(200, json!([key]).to_string()), "not a JSON Web Key Set"),
        ("none", Say::Text(200, "{\"keys\":[]}".to_owned()), "no key"),
        ("double", Say::Text(200, double), "same kid"),
        ("huge", Say::Text(200, huge), "over 256 KiB"),
        ("redirect", to(&documents.url("/keys")), "redirect"),
        ("metadata", to("http://169.254.169.254/latest/meta-data/"), "redirect"),
        ("cut", Say::Raw(cut), "acceptable HTTP"),
        ("endless", Say::Raw(endless), "acceptable HTTP"),
        ("junk", Say::Raw(b"SSH-2.0-OpenSSH_9.9 SECRETWORD\r\n".to_vec()), "acceptable HTTP"),
        ("silent", Say::Raw(Vec::new()), "acceptable HTTP"),
        ("packed", Say::With(200, "content-encoding: gzip\r\n".to_owned(), "x".to_owned()), "acceptable HTTP"),
    ]
}

/// [K11] Whatever comes instead of keys: the gateway starts, says what is wrong, and lets nobody in by it; other issuers
/// notice nothing.
#[test]
fn what_is_no_key_set_is_refused() {
    let (documents, signer) = (Documents::start(), Signer::new());
    documents.json("/keys", &key_set(&[&signer]));
    let lies = lies(&documents, &signer);
    let mut issuers = vec![documents.issuer("", json!({ "url": documents.url("/keys") }))];
    for (name, say, _) in &lies {
        documents.say(&format!("/{name}"), say.clone());
        let url = documents.url(&format!("/{name}"));
        issuers.push(documents.issuer(&format!("/issuer/{name}"), json!({ "url": url })));
    }
    // Its certificate is nobody's whom the system trusts.
    let mut stranger = documents.issuer("/issuer/stranger", json!({ "url": documents.url("/keys") }));
    stranger.as_object_mut().expect("an issuer is a block").remove("ca");
    issuers.push(stranger);
    let (gateway, upstream) = pair(issuers);
    let told = |name: &str, words: &str| {
        let issuer = documents.url(&format!("/issuer/{name}"));
        eventually(&format!("{name} was looked at"), || known(&gateway, &issuer)["failed"].as_u64() > Some(0));
        let row = known(&gateway, &issuer);
        let trouble = row["trouble"].as_str().unwrap_or_default();
        assert!(trouble.contains(words), "{name}: {row}");
        assert_eq!(row["keys"]["state"], "awaited", "{row}");
        let body = untold(&gateway, &signer.token(&issuer, &gateway.url("/mcp"), 0));
        for secret in ["SECRETWORD", "169.254", "redirect", "127.0.0.1"] {
            assert!(!body.contains(secret), "{body}");
        }
    };
    lies.iter().for_each(|(name, _, words)| told(name, words));
    told("stranger", "certificate");
    good(&gateway, &signer.token(&documents.url(""), &gateway.url("/mcp"), 0));
    assert_eq!(gateway.said("SECRETWORD"), 0);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [K11] A document that is another's, or sends the gateway where it may not look: its keys are not believed, and nobody
/// is asked there.
#[test]
fn metadata_that_lies_is_refused() {
    let (documents, signer) = (Documents::start(), Signer::new());
    documents.json("/keys", &key_set(&[&signer]));
    let keys = documents.url("/keys");
    let own = |name: &str| documents.url(&format!("/{name}"));
    let to = |name: &str, url: &str| document(&own(name), url);
    let port = keys.rsplit(':').next().and_then(|it| it.strip_suffix("/keys")).expect("the URL has a port").to_owned();
    let cases = [
        ("other", document(&own("else"), &keys), "another issuer"),
        ("slash", document(&format!("{}/", own("slash")), &keys), "another issuer"),
        ("keyless", json!({ "issuer": own("keyless") }).to_string(), "where the keys are"),
        ("typed", json!({ "issuer": own("typed"), "jwks_uri": [keys] }).to_string(), "wrong JSON type"),
        ("twice", format!("{{\"issuer\":\"{0}\",\"jwks_uri\":\"{keys}\",\"issuer\":\"{0}\"}}", own("twice")), "twice"),
        ("plain", to("plain", &format!("http://idp.example.com:{port}/keys")), "not https"),
        ("cloud", to("cloud", "https://169.254.169.254/latest/meta-data"), "not public"),
        ("link", to("link", &format!("https://[fe80::1]:{port}/keys")), "not public"),
        ("six", to("six", &format!("https://[::1]:{port}/keys")), "not public"),
        ("ten", to("ten", "https://10.0.0.1/keys"), "not public"),
        ("shared", to("shared", "https://100.64.0.1/keys"), "not public"),
        ("any", to("any", &format!("https://0.0.0.0:{port}/keys")), "not public"),
        ("nat", to("nat", &format!("https://[64:ff9b::127.0.0.1]:{port}/keys")), "not public"),
        ("user", to("user", &keys.replace("https://", "https://127.0.0.1@")), "user part"),
        ("file", to("file", "file:///etc/passwd"), "plain absolute"),
    ];
    let issuers = cases.iter().map(|(name, text, _)| {
        documents.json(&format!("{OAUTH}/{name}"), text);
        documents.issuer(&format!("/{name}"), Value::Null)
    });
    let (gateway, upstream) = pair(issuers.collect());
    for (name, _, words) in &cases {
        let issuer = own(name);
        eventually(&format!("{name} was looked at"), || known(&gateway, &issuer)["failed"].as_u64() > Some(0));
        let row = known(&gateway, &issuer);
        assert!(row["trouble"].as_str().is_some_and(|trouble| trouble.contains(words)), "{name}: {row}");
        untold(&gateway, &signer.token(&issuer, &gateway.url("/mcp"), 0));
    }
    assert_eq!(documents.hits("/keys"), 0);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Where it may not look, the gateway does not even start to: addresses are addresses in every spelling.
#[test]
fn urls_of_other_networks_are_refused_at_start() {
    for url in [
        "https://127.0.0.1/keys",
        "https://0x7f.1/keys",
        "https://017700000001/keys",
        "https://2130706433/keys",
        "https://[::1]/keys",
        "https://[::ffff:127.0.0.1]/keys",
        "https://[fe80::1]/keys",
        "https://169.254.169.254/keys",
        "https://100.64.0.1/keys",
        "https://0.0.0.0/keys",
        "https://localhost/keys",
        "http://idp.example.com/keys",
        "https://a:b@idp.example.com/keys",
    ] {
        let issuer = json!({ "issuer": "https://idp.example.com", "jwks": { "url": url } });
        let run = Setup::new()
            .server("up", "http://127.0.0.1:9/mcp")
            .set("/auth", json!({ "anonymous": "deny", "issuers": [issuer] }))
            .fail();
        assert!(run.status.is_some_and(|status| !status.success()), "{url}: {}", run.stderr);
        assert!(run.stderr.contains("jwks.url"), "{url}: {}", run.stderr);
    }
}

/// [K10] While an issuer cannot be asked, or lies, its last good keys hold; not for ever; and then nobody is let in by
/// them, until it can be asked again.
#[test]
fn last_good_keys_hold_for_a_while() {
    let (documents, signer, other) = (Documents::start(), Signer::new(), Signer::new());
    documents.json("/keys", &key_set(&[&signer]));
    let issuer = documents.url("");
    let jwks = json!({ "url": documents.url("/keys"), "refresh": "1s", "stale": "6s" });
    let (gateway, upstream) = pair(vec![documents.issuer("", jwks)]);
    let (token, another) =
        (signer.token(&issuer, &gateway.url("/mcp"), 0), signer.token(&issuer, &gateway.url("/mcp"), 1));
    good(&gateway, &token);
    // Other keys, one id twice: refused as a whole, and the old ones stay.
    documents.json("/keys", &json!({ "keys": [other.key(), other.key()] }).to_string());
    let since = Instant::now();
    eventually("the lie was told", || known(&gateway, &issuer)["trouble"].is_string());
    if since.elapsed() < Duration::from_secs(4) {
        good(&gateway, &token);
        good(&gateway, &another);
        assert_eq!(known(&gateway, &issuer)["keys"]["state"], "good");
    }
    eventually("they are too old", || known(&gateway, &issuer)["keys"]["state"] == "too_old");
    let fresh = signer.token(&issuer, &gateway.url("/mcp"), 2);
    for token in [&token, &another, &fresh] {
        untold(&gateway, token);
    }
    assert!(gateway.said("longer than they are believed") > 0);
    documents.json("/keys", &key_set(&[&signer]));
    eventually("the issuer is believed again", || known(&gateway, &issuer)["keys"]["state"] == "good");
    for token in [&token, &another, &fresh] {
        good(&gateway, token);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [K9] Keys that are all withdrawn, or that anybody may have, are believed no longer, however long the last ones are kept
/// while an issuer cannot be asked.
#[test]
fn what_says_that_keys_are_not_good_is_believed() {
    let (documents, signer) = (Documents::start(), Signer::new());
    let mut stolen = signer.key();
    stolen["d"] = json!("AAAA");
    for told in [json!({ "keys": [] }), json!({ "keys": [stolen] })] {
        documents.json("/keys", &key_set(&[&signer]));
        let issuer = documents.url("");
        let jwks = json!({ "url": documents.url("/keys"), "refresh": "1s", "stale": "1h" });
        let (gateway, upstream) = pair(vec![documents.issuer("", jwks)]);
        let token = signer.token(&issuer, &gateway.url("/mcp"), 0);
        good(&gateway, &token);
        documents.json("/keys", &told.to_string());
        eventually("they are not believed", || known(&gateway, &issuer)["keys"]["state"] == "too_old");
        untold(&gateway, &token);
        documents.json("/keys", &key_set(&[&signer]));
        eventually("there are others", || known(&gateway, &issuer)["keys"]["state"] == "good");
        good(&gateway, &token);
        oracle::check(&gateway, &[("up", &upstream)]);
    }
}

/// [K9] A key that is gone takes the tokens along that were verified with it, and their streams.
#[test]
fn a_key_that_is_gone_ends_what_it_let_in() {
    let (documents, old, new) = (Documents::start(), Signer::new(), Signer::new());
    documents.json("/keys", &key_set(&[&old, &new]));
    let issuer = documents.url("");
    let jwks = json!({ "url": documents.url("/keys"), "refresh": "1s", "stale": "1h" });
    let (gateway, upstream) = pair(vec![documents.issuer("", jwks)]);
    let of = |signer: &Signer| signer.token(&issuer, &gateway.url("/mcp"), 60);
    let (gone, stays) = (of(&old), of(&new));
    let stream = |token: &str| {
        let session = open_session(&gateway, |post| post.token(token));
        let mut wire = Wire::to(gateway.address);
        wire.send(&session_request(&gateway, "GET", "/mcp", &session, &format!("authorization: Bearer {token}\r\n")));
        wire.events()
    };
    let (ends, mut goes_on) = (stream(&gone), stream(&stays));
    eventually("the streams are open", || upstream.open_streams() >= 2);
    good(&gateway, &gone);
    documents.json("/keys", &key_set(&[&new]));
    eventually("the keys are others", || known(&gateway, &issuer)["keys"]["usable"] == 1);
    let since = Instant::now();
    assert!(ends.rest().1.is_ok(), "a stream has a clean end");
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    bad(&gateway, &gone);
    good(&gateway, &stays);
    documents.json("/keys", &key_set(&[&new, &old]));
    eventually("it is back", || known(&gateway, &issuer)["keys"]["usable"] == 2);
    good(&gateway, &gone);
    upstream
        .say(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } }));
    assert_eq!(goes_on.message()["params"]["data"], 1, "the other's stream goes on");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Another configuration with the same issuer has its keys at once; one with another source has nothing of the old one.
#[test]
fn a_reload_keeps_what_is_known() {
    let (documents, signer) = (Documents::start(), Signer::new());
    documents.json("/keys", &key_set(&[&signer]));
    let issuer = documents.url("");
    let (gateway, upstream) = pair(vec![documents.issuer("", json!({ "url": documents.url("/keys") }))]);
    let token = signer.token(&issuer, &gateway.url("/mcp"), 60);
    good(&gateway, &token);
    documents.say("/keys", Say::Text(500, String::new()));
    let second = documents.issuer("/second", json!({ "url": documents.url("/second") }));
    gateway.configure(|config| config["auth"]["issuers"].as_array_mut().expect("a list").push(second));
    assert_eq!(gateway.reload()["ok"], true);
    good(&gateway, &token);
    assert_eq!(known(&gateway, &issuer)["keys"]["state"], "good");
    gateway.configure(|config| config["auth"]["issuers"][0]["jwks"]["url"] = json!(documents.url("/elsewhere")));
    assert_eq!(gateway.reload()["ok"], true);
    untold(&gateway, &token);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [K10] Thousands of random key ids: the issuer is not asked more than once in half a minute for them, and whoever has
/// a good token notices nothing.
#[test]
fn random_key_ids_are_one_look() {
    let (documents, signer) = (Documents::start(), Signer::new());
    documents.json("/keys", &key_set(&[&signer]));
    let issuer = documents.url("");
    let (gateway, upstream) = pair(vec![documents.issuer("", json!({ "url": documents.url("/keys") }))]);
    let resource = gateway.url("/mcp");
    let token = signer.token(&issuer, &resource, 60);
    good(&gateway, &token);
    let forged = |number: usize| {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({ "alg": "ES256", "typ": "at+jwt", "kid": format!("kid-{number}") }));
        let now = now_unix_s();
        let issued = if number.is_multiple_of(2) { now } else { now - 600 };
        let claims = json!({ "iss": issuer, "aud": resource, "sub": "eve", "iat": issued, "exp": now + 600 });
        format!("{header}.{}.{}", part(claims), URL_SAFE_NO_PAD.encode([7; 64]))
    };
    let (over, sent, counted) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut wire = Wire::to(gateway.address);
                while !over.load(Ordering::Relaxed) {
                    let request =
                        Post::call("echo").token(&forged(sent.fetch_add(1, Ordering::Relaxed))).bytes(&gateway);
                    wire.send(&request);
                    let Ok(answer) = wire.try_response() else {
                        wire = Wire::to(gateway.address);
                        continue;
                    };
                    assert!(matches!(answer.status(), 401 | 503), "{}", answer.text());
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while began.elapsed() < Duration::from_secs(5) {
            let since = Instant::now();
            good(&gateway, &token);
            assert!(since.elapsed() < Duration::from_secs(2), "a good caller waits");
        }
        over.store(true, Ordering::Relaxed);
    });
    eprintln!("{} random key ids in {:?}", counted.load(Ordering::Relaxed), began.elapsed());
    assert!(counted.load(Ordering::Relaxed) > 500, "nothing was tried");
    // One at the start, and one for the first of them at most, unless this took more than half a minute.
    let looks = 2 + usize::try_from(began.elapsed().as_secs() / 30).expect("a short time");
    assert!(documents.hits("/keys") <= looks, "{:?}", documents.asked());
    oracle::check(&gateway, &[("up", &upstream)]);
}
