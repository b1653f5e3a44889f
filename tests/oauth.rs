//! A real identity provider, the official clients, and the gateway between them: people log in, programs identify
//! themselves, keys change under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, eventually};
use crate::support::http::{Response, Wire};
use crate::support::idp::{Idp, parameter};
use crate::support::mcp::{Post, fresh};
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
    let call = |tool: &str| json!({ "name": tool, "arguments": { "value": fresh() } });
    json!([call("echo"), call("pay"), call("echo")])
}

/// What came of a client's run: who it was, that each of its calls arrived, and that the gateway knows who it was.
#[track_caller]
fn served(report: &Value, gateway: &Gateway, upstream: &Upstream, subject: &str, calls_before: usize) {
    let texts = report["texts"].as_array().unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(texts.len(), 3, "{report:#}");
    assert_eq!(upstream.calls().len() - calls_before, 3, "{report:#}");
    // These clients send no trace context, so what arrived is told by its number.
    let records = gateway.records_until("the calls and their outcomes", |records| {
        let permits: Vec<&Value> =
            oracle::of_kind(records, "decision").filter(|it| it["verdict"] == "permit").collect();
        let mine = permits.iter().filter(|it| it["agent"] == report["client"]).count();
        mine >= 3 && permits.len() == oracle::of_kind(records, "outcome").count()
    });
    oracle::check_record(&records);
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

/// Callers that make calls all the time, each with a new token every few calls, and what came of them.
struct Load {
    over: AtomicBool,
    served: AtomicUsize,
    /// Calls that were to be repeated a little later.
    later: AtomicUsize,
    /// How many tokens each caller has begun.
    tokens: [AtomicUsize; CALLERS],
    /// A call may be put off, because its key came without notice.
    hasty: AtomicBool,
}

const CALLERS: usize = 3;
const CALLS_PER_TOKEN: usize = 10;

impl Load {
    fn new() -> Self {
        let (over, hasty) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { over, served: AtomicUsize::new(0), later: AtomicUsize::new(0), tokens: Default::default(), hasty }
    }

    /// One caller, until it is over.
    fn call(&self, caller: usize, idp: &Idp, gateway: &Gateway) {
        let mut wire = Wire::to(gateway.address);
        while !self.over.load(Ordering::SeqCst) {
            self.tokens[caller].fetch_add(1, Ordering::SeqCst);
            let token = idp.token(&json!({ "aud": gateway.url("/mcp") }));
            for _ in 0..CALLS_PER_TOKEN {
                let answer = wire.ask(&Post::call("echo").token(&token).bytes(gateway));
                if answer.status() == 503 && self.hasty.load(Ordering::SeqCst) {
                    assert!(!answer.field("retry-after").is_empty(), "{}", answer.text());
                    self.later.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(50));
                } else {
                    assert_eq!(answer.status(), 200, "{}", answer.text());
                    self.served.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// What was signed before this is not in use any more: everybody has begun another token, and one more.
    fn everybody_has_another(&self) {
        let now: Vec<usize> = self.tokens.iter().map(|it| it.load(Ordering::SeqCst)).collect();
        eventually("everybody has another token", || {
            self.tokens.iter().zip(&now).all(|(it, then)| it.load(Ordering::SeqCst) >= then + 2)
        });
    }
}

/// Keys come and go while calls are made, in the order in which issuers do it: published, then signed with, then
/// withdrawn. Not one token of a published key is refused. A key that signs at once is not known for a moment, and then
/// clients are asked to come again: its tokens are never said to be bad.
#[test]
fn keys_rotate_under_load() {
    const CALLS_MIN: usize = 2_100;
    const TURNS: usize = 4;
    let Some(idp) = Idp::start(&json!({ "alg": "ES256" })) else { return };
    let (gateway, upstream) =
        gateway(&idp, |setup| setup.set("/auth/issuers/0/jwks", json!({ "refresh": "1s", "stale": "1h" })));
    let load = Load::new();
    let mut kinds = std::collections::BTreeSet::new();
    thread::scope(|scope| {
        let guard = End(&load.over);
        let (load, idp, gateway) = (&load, &idp, &gateway);
        let callers: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || load.call(caller, idp, gateway))).collect();
        let until = Instant::now() + 6 * PATIENCE;
        let mut turns = 0;
        while turns < TURNS || load.served() < CALLS_MIN {
            let going = callers.iter().all(|it| !it.is_finished());
            assert!(Instant::now() < until && going, "{turns} turns and {} calls, then it ended", load.served());
            let keys = idp.rotate(&json!({ "publish": true }));
            kinds.extend(keys.iter().cloned());
            let looked = idp.seen("/jwks").len();
            eventually("the keys are looked at", || idp.seen("/jwks").len() > looked + 1);
            idp.rotate(&json!({ "sign": keys[1] }));
            load.everybody_has_another();
            idp.rotate(&json!({ "drop": keys[0] }));
            load.everybody_has_another();
            turns += 1;
        }
        assert_eq!(load.later.load(Ordering::SeqCst), 0);
        load.hasty.store(true, Ordering::SeqCst);
        let keys = idp.rotate(&json!({ "publish": true }));
        idp.rotate(&json!({ "sign": keys[1] }));
        load.everybody_has_another();
        let before = load.served();
        eventually("the key that came at once is known", || load.served() > before + CALLERS * CALLS_PER_TOKEN);
        drop(guard);
    });
    assert!(load.served() >= CALLS_MIN && kinds.len() > TURNS, "{} calls, {kinds:?}", load.served());
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
