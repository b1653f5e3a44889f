//! Who calls: tokens, challenges, and the document that a challenge points to.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, ISSUER, Setup, Who};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{Post, open_session, session_request};
use crate::support::oracle;
use crate::support::upstream::{Plan, Upstream};

fn pair(anonymous: &str) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens(anonymous).start();
    (gateway, upstream)
}

fn get(gateway: &Gateway, path: &str) -> Response {
    Wire::to(gateway.address).ask(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.address).as_bytes())
}

/// The challenge of a 401, and what it points to.
#[track_caller]
fn challenged(gateway: &Gateway, answer: &Response, path: &str, invalid: bool) {
    assert_eq!(answer.status(), 401, "{}", answer.text());
    assert!(answer.json()["error"]["code"].is_i64(), "{}", answer.text());
    let challenge = answer.field("www-authenticate");
    let metadata = gateway.url(&format!("/.well-known/oauth-protected-resource{path}"));
    assert!(challenge.starts_with(&format!("Bearer resource_metadata=\"{metadata}\"")), "{challenge}");
    assert_eq!(challenge.contains("error=\"invalid_token\""), invalid, "{challenge}");
    assert_eq!(challenge.matches("resource_metadata=").count(), 1, "one challenge: {challenge}");
}

/// [K12] Without a token there is a challenge, and nothing else.
#[test]
fn no_token() {
    let (gateway, upstream) = pair("deny");
    let before = upstream.seen().len();
    for path in ["/mcp", "/s/up/mcp"] {
        challenged(&gateway, &Post::call("echo").at(path).to(&gateway), path, false);
        challenged(&gateway, &Post::initialize("2025-11-25").at(path).to(&gateway), path, false);
        let get = session_request(&gateway, "GET", path, "x", "");
        challenged(&gateway, &Wire::to(gateway.address).ask(&get), path, false);
    }
    let calls = upstream.seen()[before..].iter().filter(|seen| seen.method() == "tools/call").count();
    assert_eq!(calls, 0);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn the_challenge_points_to_a_document() {
    let (gateway, upstream) = pair("deny");
    for path in ["/mcp", "/s/up/mcp"] {
        let document = get(&gateway, &format!("/.well-known/oauth-protected-resource{path}"));
        assert_eq!((document.status(), document.field("content-type")), (200, "application/json"));
        assert_eq!(document.field("access-control-allow-origin"), "*");
        let document = document.json();
        assert_eq!(document["resource"], gateway.url(path));
        assert_eq!(document["authorization_servers"], json!([ISSUER]));
        assert_eq!(document["bearer_methods_supported"], json!(["header"]));
    }
    let root = get(&gateway, "/.well-known/oauth-protected-resource");
    assert_eq!((root.status(), &root.json()["resource"]), (200, &json!(gateway.url("/mcp"))));
    assert_eq!(get(&gateway, "/.well-known/oauth-protected-resource/s/none/mcp").status(), 404);
    assert_eq!(get(&gateway, "/.well-known/oauth-protected-resource/").status(), 404);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [K12] A name from `Host` never gets into the challenge.
#[test]
fn the_challenge_comes_from_the_configuration() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .open()
        .tokens("deny")
        .set("/public_url", json!("https://tools.example.com"))
        .set("/hosts", json!(["127.0.0.1", "tools.example.com"]))
        .start();
    let answer = Post::call("echo").to(&gateway);
    assert_eq!(
        answer.field("www-authenticate"),
        "Bearer resource_metadata=\"https://tools.example.com/.well-known/oauth-protected-resource/mcp\""
    );
    let token = gateway.token_for(&Who::default(), &["https://tools.example.com/mcp"]);
    Post::call("echo").token(&token).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [K5] [K8] Expired, for somebody else, forged, or not one bearer token.
#[test]
fn tokens_that_are_not_valid_here() {
    let (gateway, upstream) = pair("allow");
    let good = gateway.token(&Who::default());
    let expired = gateway.token(&Who { expires_s: -120, ..Who::default() });
    let elsewhere = gateway.token_for(&Who::default(), &["https://else.where/mcp"]);
    let slashed = gateway.token_for(&Who::default(), &[&gateway.url("/mcp/")]);
    let other_path = gateway.token_for(&Who::default(), &[&gateway.url("/s/up/mcp")]);
    let mut parts: Vec<&str> = good.split('.').collect();
    parts[2] = "AAAA";
    let forged = parts.join(".");
    let fields = [
        format!("Bearer {expired}"),
        format!("Bearer {elsewhere}"),
        format!("Bearer {slashed}"),
        format!("Bearer {other_path}"),
        format!("Bearer {forged}"),
        format!("Bearer {good}x"),
        format!("Bearer {good}, Bearer {good}"),
        format!("Basic {good}"),
        "Bearer".to_owned(),
        "Bearer nonsense".to_owned(),
        good.clone(),
    ];
    for field in fields {
        // A bad token is never anonymous, although anonymous callers are allowed here.
        challenged(&gateway, &Post::call("echo").field("authorization", &field).to(&gateway), "/mcp", true);
    }
    let twice = Post::call("echo").token(&good).token(&good).to(&gateway);
    assert!([400, 401].contains(&twice.status()), "{}", twice.text());
    assert!(upstream.calls().is_empty());
    Post::call("echo").token(&good).echoed(&gateway);
    Post::call("echo").at("/s/up/mcp").token(&other_path).echoed(&gateway);
    Post::call("echo").field("authorization", &format!("bEARER {good}")).echoed(&gateway);
    let both = gateway.token_for(&Who::default(), &["https://else.where", &gateway.url("/mcp")]);
    Post::call("echo").token(&both).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [K2] A key id of the right form is not enough.
#[test]
fn a_token_of_another_key_is_nobodys() {
    let (gateway, upstream) = pair("deny");
    let (stranger, _other) = pair("deny");
    let token = stranger.token_for(&Who::default(), &[&gateway.url("/mcp")]);
    challenged(&gateway, &Post::call("echo").token(&token).to(&gateway), "/mcp", true);
    assert!(upstream.calls().is_empty());
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn anonymous_where_it_is_allowed() {
    let (gateway, upstream) = pair("allow");
    Post::call("echo").echoed(&gateway);
    let token = gateway.token(&Who { subject: "eve", agent: None, ..Who::default() });
    Post::call("echo").token(&token).echoed(&gateway);
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    let subjects: Vec<(&Value, &Value)> =
        oracle::of_kind(&records, "decision").map(|it| (&it["subject"], &it["agent"])).collect();
    assert_eq!(subjects, [(&json!("anonymous"), &Value::Null), (&json!("eve"), &Value::Null)]);
}

#[test]
fn refused_callers_leave_a_note() {
    let (gateway, upstream) = pair("deny");
    assert_eq!(Post::call("echo").to(&gateway).status(), 401);
    let records = gateway.records_until("the refusal", |records| records.iter().any(|it| it["reason"] == "auth"));
    let note = records.iter().find(|it| it["reason"] == "auth").expect("it is there");
    assert_eq!((&note["verdict"], &note["subject"]), (&json!("refuse"), &Value::Null));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Every request shows its token, also within a session.
#[test]
fn a_session_is_no_credential() {
    let (gateway, upstream) = pair("deny");
    let token = gateway.token(&Who::default());
    let session = open_session(&gateway, |post| post.token(&token));
    challenged(&gateway, &Post::legacy_call(&session, "echo").to(&gateway), "/mcp", false);
    Post::legacy_call(&session, "echo").token(&token).echoed(&gateway);
    // Another token of the same owner is as good.
    Post::legacy_call(&session, "echo").token(&gateway.token(&Who::default())).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [K5] [K9] A token ends with its time, on a kept connection and from the cache as well.
#[test]
fn a_token_ends_while_it_is_in_use() {
    let (gateway, upstream) = pair("deny");
    // Thirty seconds are forgiven, so this one has two left.
    let token = gateway.token(&Who { expires_s: -28, ..Who::default() });
    let mut wire = Wire::to(gateway.address);
    let mut served = 0;
    crate::support::gateway::eventually("the token has ended", || {
        let post = Post::call("echo").token(&token);
        let answer = wire.ask(&post.bytes(&gateway));
        if answer.status() == 200 {
            post.is_echoed(&answer);
            served += 1;
        }
        answer.status() == 401
    });
    assert!(served > 0, "it never was valid");
    oracle::check(&gateway, &[("up", &upstream)]);
}
