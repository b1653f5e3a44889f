//! A real identity provider, the official clients, and the gateway between them: people log in, programs identify
//! themselves, keys change under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, eventually};
use crate::support::http::{Response, Wire};
use crate::support::idp::{Idp, parameter};
use crate::support::mcp::Post;
use crate::support::oracle;
use crate::support::peers::{Peers, Sdk, node_peers, python_peers};
use crate::support::tls::{Authority, Shelf};
use crate::support::upstream::{Plan, Upstream};

/// `@modelcontextprotocol/client`.
const TS: &str = "oauth_client.mjs";
/// `mcp` 2.x.
const PY: &str = "oauth_client.py";
/// Where a browser comes back to; nobody listens there.
const REDIRECT: &str = "http://127.0.0.1:9/callback";

fn typescript() -> Option<(Peers, &'static str)> {
    Some((node_peers()?, TS))
}

fn python() -> Option<(Peers, &'static str)> {
    Some((python_peers(Sdk::V2)?, PY))
}

/// A gateway that believes this provider; `echo` is for everybody with a token, `pay` needs a scope of its own.
fn gateway(idp: &Idp, change: impl FnOnce(Setup) -> Setup) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo", "pay"]).start();
    let setup = Setup::new()
        .server("up", &upstream.url())
        .rule(json!({ "id": "all", "permit": ["up/*", "*!*"], "scopes": ["mcp:tools"] }))
        .rule(json!({ "id": "pay", "permit": ["up/pay"], "scopes": ["mcp:write"] }))
        .shards(2)
        .set("/auth", json!({ "anonymous": "deny", "scopes": ["mcp:tools"], "issuers": [idp.settings()] }));
    (change(setup).start(), upstream)
}

fn calls() -> Value {
    let call = |tool: &str| json!({ "name": tool, "arguments": { "value": format!("for {tool}") } });
    json!([call("echo"), call("pay"), call("echo")])
}

/// What came of a client's run: who it was, that each of its calls arrived, and that the gateway knows who it was.
#[track_caller]
fn served(report: &Value, gateway: &Gateway, upstream: &Upstream, subject: &str, calls_before: usize) {
    let texts = report["texts"].as_array().unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(texts.len(), 3, "{report:#}");
    assert_eq!(upstream.calls().len() - calls_before, 3, "{report:#}");
    let records = gateway.records_until("the calls", |records| {
        oracle::of_kind(records, "decision")
            .filter(|it| it["agent"] == report["client"] && it["tool"] == "echo")
            .count()
            >= 2
    });
    let mine: Vec<&Value> =
        oracle::of_kind(&records, "decision").filter(|it| it["agent"] == report["client"]).collect();
    assert!(mine.iter().all(|it| it["subject"] == subject), "{mine:#?}");
}

/// A person logs in, twice: once to begin, and again for the tool that needs a scope more.
fn person(client: Option<(Peers, &'static str)>, eras: &[&str], with_document: bool) {
    let Some((peers, script)) = client else { return };
    let (shelf, authority) = (Shelf::new(), Authority::new("idps"));
    let Some(idp) = Idp::start_trusted(&json!({ "redirect": REDIRECT }), &shelf, &authority, false) else { return };
    let (gateway, upstream) = gateway(&idp, |setup| setup);
    let url = gateway.url("/mcp");
    let cimd = idp.state()["cimd"].clone();
    for era in eras {
        let (before, registered) = (upstream.calls().len(), idp.seen("/reg").len());
        let asked = idp.seen("/token").len();
        let mut spec = json!({ "url": url, "era": era, "redirect": REDIRECT, "calls": calls() });
        if with_document {
            spec["cimd"] = cimd.clone();
        }
        let report = peers.drive(script, &spec);
        served(&report, &gateway, &upstream, "alice", before);
        assert_eq!(report["logins"], 2, "{report:#}");
        let registrations = usize::from(!with_document);
        assert_eq!(idp.seen("/reg").len() - registered, registrations, "{report:#}");
        assert_eq!(report["client"] == cimd, with_document, "{report:#}");
        let scopes = |token: &Value| token["scope"].as_str().unwrap_or_default().to_owned();
        let tokens = report["tokens"].as_array().expect("a list");
        assert!(tokens.iter().all(|token| token["aud"] == url.as_str() && token["sub"] == "alice"), "{report:#}");
        assert!(scopes(&tokens[0]).contains("mcp:tools") && !scopes(&tokens[0]).contains("mcp:write"), "{report:#}");
        let last = scopes(tokens.last().expect("a token"));
        // What it had before is not lost to the step.
        assert!(last.contains("mcp:tools") && last.contains("mcp:write"), "{report:#}");
        for request in &idp.seen("/token")[asked..] {
            assert_eq!(parameter(request, "resource"), url, "{request:#}");
            let code = parameter(request, "grant_type") == "authorization_code";
            assert_eq!(code, parameter(request, "code_verifier").len() >= 43, "{request:#}");
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn typescript_registers_and_logs_in() {
    person(typescript(), &["auto", "legacy"], false);
}

#[test]
fn typescript_logs_in_with_a_client_document() {
    person(typescript(), &["auto"], true);
}

#[test]
fn python_registers_and_logs_in() {
    person(python(), &["auto", "legacy"], false);
}

#[test]
fn python_logs_in_with_a_client_document() {
    person(python(), &["auto"], true);
}

/// Both SDKs' flow for programs, at an issuer with a path.
#[test]
fn programs_identify_themselves() {
    let Some(idp) = Idp::start(&json!({ "path": "/realms/agents" })) else { return };
    for (peers, script) in [typescript(), python()].into_iter().flatten() {
        let (gateway, upstream) = gateway(&idp, |setup| setup);
        let url = gateway.url("/s/up/mcp");
        let machine = json!({ "id": "service", "secret": "service-secret", "issuer": idp.issuer() });
        let spec = json!({ "url": url, "machine": machine, "scope": "mcp:tools mcp:write", "calls": calls() });
        let report = peers.drive(script, &spec);
        served(&report, &gateway, &upstream, "service", 0);
        assert!(report["tokens"].as_array().is_some_and(|tokens| tokens.iter().all(|it| it["aud"] == url.as_str())));
        oracle::check(&gateway, &[("up", &upstream)]);
    }
}

/// An issuer that does not know RFC 8707: its tokens are for what it likes, and the operator says so.
#[test]
fn an_issuer_without_resource_indicators() {
    let Some(idp) = Idp::start(&json!({ "resources": false, "resource": "api://tools" })) else { return };
    for (peers, script) in [typescript(), python()].into_iter().flatten() {
        let spec = |gateway: &Gateway| json!({ "url": gateway.url("/mcp"), "redirect": REDIRECT, "calls": calls() });
        let (open, upstream) = gateway(&idp, |setup| setup.set("/auth/issuers/0/audience", json!("api://tools")));
        let report = peers.drive(script, &spec(&open));
        served(&report, &open, &upstream, "alice", 0);
        assert!(report["tokens"].as_array().is_some_and(|tokens| tokens.iter().all(|it| it["aud"] == "api://tools")));
        oracle::check(&open, &[("up", &upstream)]);
    }
    // Where nobody says so they are for somebody else.
    let (closed, upstream) = gateway(&idp, |setup| setup);
    let token = idp.token(&json!({ "aud": "api://tools" }));
    eventually("the keys are known", || {
        let here = idp.token(&json!({ "aud": closed.url("/mcp") }));
        Post::call("echo").token(&here).to(&closed).status() == 200
    });
    assert_eq!(Post::call("echo").token(&token).to(&closed).status(), 401);
    oracle::check(&closed, &[("up", &upstream)]);
}

/// [K14] Keys come and go while calls are made, at the moment that issuers do it in: published, then signed with, then
/// withdrawn. Not one token of a published key is refused.
#[test]
fn keys_rotate_under_load() {
    const CALLERS: usize = 3;
    const CALLS_MIN: usize = 2_100;
    const TURNS: usize = 4;
    const CALLS_PER_TOKEN: usize = 10;
    let Some(idp) = Idp::start(&json!({ "alg": "ES256" })) else { return };
    let (gateway, upstream) =
        gateway(&idp, |setup| setup.set("/auth/issuers/0/jwks", json!({ "refresh": "1s", "stale": "1h" })));
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    // How many tokens each caller has begun: one that was signed before is not in use any more when it has gone on twice.
    let tokens: [AtomicUsize; CALLERS] = Default::default();
    let everybody_has_another = || {
        let now: Vec<usize> = tokens.iter().map(|it| it.load(Ordering::SeqCst)).collect();
        eventually("everybody has another token", || {
            tokens.iter().zip(&now).all(|(it, then)| it.load(Ordering::SeqCst) >= then + 2)
        });
    };
    let mut kinds = std::collections::BTreeSet::new();
    thread::scope(|scope| {
        let (idp, gateway, over, served) = (&idp, &gateway, &over, &served);
        let callers: Vec<_> = tokens
            .iter()
            .map(|begun| {
                scope.spawn(move || {
                    let mut wire = Wire::to(gateway.address);
                    while !over.load(Ordering::SeqCst) {
                        begun.fetch_add(1, Ordering::SeqCst);
                        let token = idp.token(&json!({ "aud": gateway.url("/mcp") }));
                        for _ in 0..CALLS_PER_TOKEN {
                            let post = Post::call("echo").token(&token);
                            let answer = wire.ask(&post.bytes(gateway));
                            assert_eq!(answer.status(), 200, "{}", answer.text());
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        let guard = End(over);
        let until = Instant::now() + 6 * PATIENCE;
        let mut turns = 0;
        while turns < TURNS || served.load(Ordering::SeqCst) < CALLS_MIN {
            assert!(
                Instant::now() < until && callers.iter().all(|it| !it.is_finished()),
                "{turns} turns, then it ended"
            );
            let keys = idp.rotate(&json!({ "publish": true }));
            kinds.extend(keys.iter().cloned());
            if turns > 0 {
                // The first turn is a hasty one: the key is unknown when its first token comes, and is fetched for that.
                let looked = idp.seen("/jwks").len();
                eventually("the keys are looked at", || idp.seen("/jwks").len() > looked + 1);
            }
            idp.rotate(&json!({ "sign": keys[1] }));
            everybody_has_another();
            idp.rotate(&json!({ "drop": keys[0] }));
            everybody_has_another();
            turns += 1;
        }
        drop(guard);
    });
    let served = served.load(Ordering::SeqCst);
    assert!(served >= CALLS_MIN && kinds.len() > TURNS, "{served} calls, {kinds:?}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Ends the callers, also when something went wrong.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn ask(gateway: &Gateway, method: &str, target: &str, body: &str) -> Response {
    let head =
        format!("{method} {target} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n", gateway.address, body.len());
    Wire::to(gateway.address).ask(format!("{head}{body}").as_bytes())
}

/// Clients of 2025-03-26 find the issuer by the gateway's own origin, where that is wanted.
#[test]
fn old_clients_are_sent_to_the_issuer() {
    let Some(idp) = Idp::start(&json!({ "path": "/realms/old" })) else { return };
    let (gateway, upstream) = gateway(&idp, |setup| setup.set("/auth/legacy_metadata", json!(true)));
    let place = "/.well-known/oauth-authorization-server";
    eventually("the issuer's metadata is known", || {
        let answer = ask(&gateway, "GET", place, "");
        assert!(matches!(answer.status(), 200 | 503), "{}", answer.text());
        answer.status() == 503 && answer.field("retry-after") == "2" && thread::sleep(Duration::from_millis(20)) != ()
            || answer.status() == 200
    });
    let document = ask(&gateway, "GET", place, "");
    assert_eq!(document.field("access-control-allow-origin"), "*");
    let document = document.json();
    assert_eq!(document["issuer"], idp.issuer());
    let sent = |method: &str, target: &str, endpoint: &str, status: u16, query: &str| {
        let answer = ask(&gateway, method, target, if method == "POST" { "grant_type=x&code=a-code" } else { "" });
        let location = format!("{}{query}", document[endpoint].as_str().expect("a URL"));
        assert_eq!((answer.status(), answer.field("location")), (status, location.as_str()), "{}", answer.text());
        assert_eq!(answer.field("cache-control"), "no-store");
    };
    sent("GET", "/authorize?client_id=a&state=%20b", "authorization_endpoint", 302, "?client_id=a&state=%20b");
    sent("GET", "/authorize", "authorization_endpoint", 302, "");
    sent("POST", "/token", "token_endpoint", 307, "");
    sent("POST", "/register", "registration_endpoint", 307, "");
    for (method, target, allow) in
        [("POST", "/authorize", "GET, HEAD"), ("GET", "/token", "POST"), ("GET", "/register", "POST")]
    {
        let answer = ask(&gateway, method, target, "");
        assert_eq!((answer.status(), answer.field("allow")), (405, allow), "{target}");
    }
    assert_eq!(ask(&gateway, "GET", "/authorize/", "").status(), 404);
    oracle::check(&gateway, &[("up", &upstream)]);
}
