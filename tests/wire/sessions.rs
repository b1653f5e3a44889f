//! Legacy sessions: sealed, bound to their owner and endpoint, good on every shard, over when they are over.

use serde_json::json;

use crate::support::gateway::{Gateway, Setup, Who};
use crate::support::http::Wire;
use crate::support::mcp::{LEGACY, Post, names, open_session, session_request};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream};

/// Connections enough that each of two shards gets some: the kernel spreads them by their ports.
const CONNECTIONS: usize = 16;

fn pair() -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .server("other", &upstream.url())
        .set("/endpoints", json!({ "/mcp": { "servers": ["up"] } }))
        .open()
        .tokens("allow")
        .shards(2)
        .start();
    (gateway, upstream)
}

/// The status of a POST, GET and DELETE with that session.
fn statuses(gateway: &Gateway, path: &str, session: &str, token: &str) -> [u16; 3] {
    let more = format!("authorization: Bearer {token}\r\n");
    let ask =
        |http: &str| Wire::to(gateway.address).ask(&session_request(gateway, http, path, session, &more)).status();
    let post = Post::legacy_call(session, "echo").at(path).token(token).to(gateway).status();
    [post, ask("GET"), ask("DELETE")]
}

/// [I1] It tells nothing, and nobody writes it down.
#[test]
fn the_clients_id_is_not_the_servers() {
    let (gateway, upstream) = pair();
    let known = upstream.sessions();
    let session = open_session(&gateway, |post| post);
    let theirs: Vec<String> = upstream.sessions().into_iter().filter(|id| !known.contains(id)).collect();
    assert_eq!(theirs.len(), 1);
    assert!(!session.contains(&theirs[0]));
    assert!(session.bytes().all(|byte| byte.is_ascii_graphic()) && session.len() >= 64, "{session}");
    let another = open_session(&gateway, |post| post);
    assert_ne!(session, another);
    Post::legacy_call(&session, "echo").echoed(&gateway);
    let call = upstream.wait("the call", |seen| seen.calls("echo"));
    assert_eq!((call.field("mcp-session-id"), call.field("mcp-protocol-version")), (theirs[0].as_str(), LEGACY));
    // The id is a credential of sorts: it is in no log, and neither is the server's.
    let records = format!("{:?}", oracle::check(&gateway, &[("up", &upstream)]));
    assert!(!records.contains(&session) && !records.contains(&theirs[0]));
}

#[test]
fn every_shard_opens_it() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let mut wires: Vec<Wire> = (0..CONNECTIONS).map(|_| Wire::to(gateway.address)).collect();
    for _ in 0..2 {
        for wire in &mut wires {
            let post = Post::legacy_call(&session, "echo");
            post.is_echoed(&wire.ask(&post.bytes(&gateway)));
        }
    }
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    let shards: std::collections::HashSet<u64> =
        oracle::of_kind(&records, "decision").filter_map(|it| it["shard"].as_u64()).collect();
    assert_eq!(shards.len(), 2, "both shards took part");
}

/// [I1] Whoever else knows it: another subject, another agent, nobody.
#[test]
fn another_owners_session_is_unknown() {
    let (gateway, upstream) = pair();
    let ada = gateway.token(&Who::default());
    let eve = gateway.token(&Who { subject: "eve", ..Who::default() });
    let other_agent = gateway.token(&Who { agent: Some("agent-2"), ..Who::default() });
    let session = open_session(&gateway, |post| post.token(&ada));
    for token in [&eve, &other_agent] {
        assert_eq!(statuses(&gateway, "/mcp", &session, token), [404; 3]);
    }
    let nobody = Post::legacy_call(&session, "echo").to(&gateway);
    assert_eq!(nobody.status(), 404, "anonymous is another owner: {}", nobody.text());
    Post::legacy_call(&session, "echo").token(&ada).echoed(&gateway);
    assert_eq!(upstream.calls().len(), 1);
    assert!(!upstream.sessions().is_empty());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [I1] At another endpoint it is none.
#[test]
fn another_endpoints_session_is_unknown() {
    let (gateway, upstream) = pair();
    let everywhere = ["/mcp", "/s/up/mcp", "/s/other/mcp"].map(|path| gateway.url(path));
    let audience: Vec<&str> = everywhere.iter().map(String::as_str).collect();
    let token = gateway.token_for(&Who::default(), &audience);
    let session = open_session(&gateway, |post| post.token(&token));
    for path in ["/s/up/mcp", "/s/other/mcp"] {
        assert_eq!(statuses(&gateway, path, &session, &token), [404; 3], "{path}");
    }
    Post::legacy_call(&session, "echo").token(&token).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [I1] Made up, changed, cut, or the server's own.
#[test]
fn forged_ids_are_unknown() {
    let (gateway, upstream) = pair();
    let token = gateway.token(&Who::default());
    let session = open_session(&gateway, |post| post.token(&token));
    let theirs = upstream.sessions().pop().expect("there is one");
    let mut forged = vec![theirs, "x".to_owned(), "A".repeat(600), "=".to_owned(), format!("{session}A")];
    for at in [0, session.len() / 2, session.len() - 1] {
        let mut bytes = session.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        forged.push(String::from_utf8(bytes).expect("ASCII"));
    }
    forged.push(session[..session.len() - 4].to_owned());
    let mut answers = Vec::new();
    for id in &forged {
        assert_eq!(statuses(&gateway, "/mcp", id, &token), [404; 3], "{id}");
        answers.push(Post::legacy_call(id, "echo").token(&token).to(&gateway).text());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "one answer for every cause: {answers:?}");
    assert!(upstream.calls().is_empty());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [I2] Nor does its server keep it.
#[test]
fn over_is_over_on_every_connection() {
    let (gateway, upstream) = pair();
    let token = gateway.token(&Who::default());
    let before = upstream.sessions();
    let session = open_session(&gateway, |post| post.token(&token));
    let mut wires: Vec<Wire> = (0..CONNECTIONS).map(|_| Wire::to(gateway.address)).collect();
    for wire in &mut wires {
        let post = Post::legacy_call(&session, "echo").token(&token);
        post.is_echoed(&wire.ask(&post.bytes(&gateway)));
    }
    let more = format!("authorization: Bearer {token}\r\n");
    let delete = session_request(&gateway, "DELETE", "/mcp", &session, &more);
    assert!([200, 202, 204].contains(&wires[0].ask(&delete).status()));
    assert_eq!(upstream.sessions().len(), before.len(), "the server's session is over too");
    let calls = upstream.calls().len();
    for wire in &mut wires {
        let answer = wire.ask(&Post::legacy_call(&session, "echo").token(&token).bytes(&gateway));
        assert_eq!(answer.status(), 404, "{}", answer.text());
    }
    assert_eq!(statuses(&gateway, "/mcp", &session, &token), [404; 3]);
    assert_eq!(upstream.calls().len(), calls);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Sealing keys are kept in `state`, so a session outlives the process.
#[test]
fn a_session_survives_a_restart() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let gateway = gateway.restart(|_| {});
    Post::legacy_call(&session, "echo").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn every_legacy_revision_shakes_hands() {
    let (gateway, upstream) = pair();
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let answer = Post::initialize(revision).to(&gateway);
        assert_eq!(answer.json()["result"]["protocolVersion"], revision, "{}", answer.text());
        let session = answer.field("mcp-session-id");
        let list = Post::legacy(session, "tools/list", json!({}));
        // The header came with 2025-06-18; before it, the session tells.
        let list = list.without("mcp-protocol-version");
        assert_eq!(names(&list.to(&gateway), "tools", "name"), ["echo"], "{revision}");
        let call = Post::legacy_call(session, "echo").without("mcp-protocol-version");
        call.echoed(&gateway);
        let seen = upstream.wait("the call", |seen| seen.value() == call.value);
        let header = if revision == "2025-03-26" { "" } else { revision };
        assert_eq!(seen.field("mcp-protocol-version"), header, "what was agreed on goes on");
    }
    let unknown = Post::initialize("2019-01-01").to(&gateway);
    assert!(unknown.status() < 500, "{}", unknown.text());
    let session = open_session(&gateway, |post| post);
    let bad = Post::legacy_call(&session, "echo").without("mcp-protocol-version").field("mcp-protocol-version", "9");
    assert_eq!(bad.to(&gateway).status(), 400);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server may do without sessions: every POST stands alone.
#[test]
fn a_server_without_sessions() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            if seen.method() == "initialize" {
                out.json(
                    200,
                    "",
                    &crate::support::upstream::result(
                        seen,
                        json!({
                            "protocolVersion": LEGACY, "capabilities": { "tools": {} },
                            "serverInfo": { "name": "stateless", "version": "1" },
                        }),
                    ),
                );
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let answer = Post::initialize(LEGACY).to(&gateway);
    assert_eq!((answer.status(), answer.field("mcp-session-id")), (200, ""));
    let call = Post::legacy_call("", "echo").without("mcp-session-id");
    call.echoed(&gateway);
    assert_eq!(upstream.wait("the call", |seen| seen.calls("echo")).field("mcp-session-id"), "");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What a server says about a notification beside "accepted" is of no interest: the Python SDK names a media type.
#[test]
fn a_202_with_a_media_type_is_a_202() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            if seen.method() == "notifications/initialized" || seen.message.get("result").is_some() {
                out.json_bytes(202, "", b"");
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = open_session(&gateway, |post| post);
    let reply = Post::tell(&session, json!({ "jsonrpc": "2.0", "id": "s-1", "result": {} })).to(&gateway);
    assert_eq!((reply.status(), reply.text()), (202, String::new()));
    Post::legacy_call(&session, "echo").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}
