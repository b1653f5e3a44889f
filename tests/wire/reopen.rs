//! Sessions that their server has forgotten, and sessions that are over: what all shards, a restart and a killed
//! process must agree on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::Wire;
use crate::support::mcp::{LEGACY, Post, open_session, session_request};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Reserved, Seen, Upstream, said};

/// Connections enough that each of two shards gets some.
const CONNECTIONS: usize = 16;

fn gateway(upstream: &Upstream) -> Gateway {
    configured(upstream, |setup| setup)
}

fn configured(upstream: &Upstream, change: impl FnOnce(Setup) -> Setup) -> Gateway {
    change(Setup::new().server("up", &upstream.url()).open().shards(2)).start()
}

fn pair() -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"]).start();
    (gateway(&upstream), upstream)
}

/// The handshakes of this client, not those of the gateway's own survey.
fn handshakes(upstream: &Upstream) -> Vec<Seen> {
    upstream
        .seen()
        .into_iter()
        .filter(|seen| seen.method() == "initialize" && seen.message["params"]["clientInfo"]["name"] == "test")
        .collect()
}

fn delete(gateway: &Gateway, session: &str) -> u16 {
    Wire::to(gateway.address).ask(&session_request(gateway, "DELETE", "/mcp", session, "")).status()
}

/// [I4] Many calls on both shards find at once that the server has forgotten their session: it is opened once, by one of
/// them, and each is executed once.
#[test]
fn a_forgotten_session_is_opened_again_once() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = gateway(&upstream);
    let session = open_session(&gateway, |post| post);
    let uri = json!({ "uri": "note://open" });
    assert_eq!(Post::legacy(&session, "resources/subscribe", uri).to(&gateway).status(), 200);
    assert_eq!(Post::legacy(&session, "logging/setLevel", json!({ "level": "error" })).to(&gateway).status(), 200);
    for round in 1..4 {
        upstream.forget_sessions();
        thread::scope(|scope| {
            for n in 0..CONNECTIONS {
                let (gateway, session) = (&gateway, &session);
                scope.spawn(move || Post::legacy_call(session, "echo").id(n).echoed(gateway));
            }
        });
        let shaken = handshakes(&upstream);
        assert_eq!(shaken.len(), 1 + round, "one handshake each time");
        // As the same client, on the terms that were agreed on.
        assert_eq!(shaken[round].message["params"], shaken[0].message["params"]);
    }
    // Told as after any handshake, and brought to where the old one was.
    let seen = upstream.seen();
    let count = |method: &str| seen.iter().filter(|seen| seen.method() == method).count();
    let sessions = |method: &str| {
        let of = seen.iter().filter(|seen| seen.method() == method).map(|seen| seen.field("mcp-session-id").to_owned());
        of.collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!((count("logging/setLevel"), count("resources/subscribe")), (4, 4));
    assert_eq!((sessions("logging/setLevel"), sessions("resources/subscribe")), (4, 4));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(
        oracle::of_kind(&records, "decision").filter(|it| it["method"] == "tools/call").count(),
        3 * CONNECTIONS
    );
}

/// [I4] A stream that is refused in a session which a call has opened again meanwhile is asked for in that one: what is
/// under way there would be left behind in a third.
#[test]
fn a_stream_that_was_late_opens_nothing() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            if seen.http == "GET" && !out.passes("again") {
                out.note("asked");
                out.pass("again");
            }
            Acted::Default
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = open_session(&gateway, |post| post);
    let mut own = Wire::to(gateway.address);
    own.send(&session_request(&gateway, "GET", "/mcp", &session, ""));
    upstream.noted("asked");
    upstream.forget_sessions();
    Post::legacy_call(&session, "echo").echoed(&gateway);
    assert_eq!(handshakes(&upstream).len(), 2);
    upstream.open("again");
    let mut events = own.events();
    let known = handshakes(&upstream).len();
    let hello =
        json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } });
    eventually("the stream is open", || upstream.open_streams() > 0);
    upstream.say(&hello);
    assert_eq!(events.message(), hello);
    assert_eq!((known, handshakes(&upstream).len()), (2, 2), "nobody opened a third");
}

/// Many servers say 400 where 404 is meant; but not every 400 is about the session.
#[test]
fn a_400_about_the_session_counts() {
    let forgetful = Arc::new(AtomicUsize::new(0));
    let told = forgetful.clone();
    let upstream = Plan::tools(&["echo"])
        .script(move |seen, out| {
            if !seen.calls("echo") {
                return Acted::Default;
            }
            match told.fetch_add(1, Ordering::Relaxed) {
                0 => {
                    let error = json!({ "code": -32_000, "message": "Bad Request: No valid session ID provided" });
                    out.json(400, "", &json!({ "jsonrpc": "2.0", "id": null, "error": error }));
                }
                1 => return Acted::Default,
                _ => {
                    let error = json!({ "code": -32_602, "message": "session: no such argument" });
                    out.json(400, "", &json!({ "jsonrpc": "2.0", "id": seen.id(), "error": error }));
                }
            }
            Acted::Done
        })
        .start();
    let gateway = gateway(&upstream);
    let session = open_session(&gateway, |post| post);
    Post::legacy_call(&session, "echo").echoed(&gateway);
    assert_eq!(handshakes(&upstream).len(), 2);
    let answer = Post::legacy_call(&session, "echo").to(&gateway);
    assert_eq!((answer.status(), &answer.json()["error"]["code"]), (400, &json!(-32_602)), "{}", answer.text());
    assert_eq!(
        (handshakes(&upstream).len(), forgetful.load(Ordering::Relaxed)),
        (2, 3),
        "an answer to the call itself"
    );
}

/// [I4] A server that forgets what it has just opened is asked twice, not for ever; its client opens a new session.
#[test]
fn a_server_that_keeps_no_session() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            if seen.calls("echo") {
                out.json(
                    404,
                    "",
                    &json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32_001, "message": "?" } }),
                );
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let gateway = gateway(&upstream);
    let session = open_session(&gateway, |post| post);
    let answer = Post::legacy_call(&session, "echo").to(&gateway);
    assert_eq!(answer.status(), 404, "{}", answer.text());
    assert_eq!((upstream.calls().len(), handshakes(&upstream).len()), (2, 2));
}

/// [I4] What a session was agreed on stays: a server that has other terms now is for a new session.
#[test]
fn a_server_with_other_terms() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            if seen.method() == "initialize" && out.passes("older") {
                let body = json!({ "jsonrpc": "2.0", "id": seen.id(), "result": {
                    "protocolVersion": "2025-03-26", "capabilities": {}, "serverInfo": { "name": "r", "version": "1" },
                }});
                out.json(200, "mcp-session-id: another\r\n", &body);
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let gateway = gateway(&upstream);
    let session = open_session(&gateway, |post| post);
    upstream.forget_sessions();
    upstream.open("older");
    assert_eq!(Post::legacy_call(&session, "echo").to(&gateway).status(), 404);
    assert!(upstream.calls().len() == 1, "the one that found it forgotten");
}

/// While the server is down the session stays; it goes on when the server is back with none of its sessions.
#[test]
fn a_server_that_was_started_again() {
    let place = Reserved::new();
    let url = place.url();
    let upstream = place.start(Plan::tools(&["echo"]));
    let address = upstream.address();
    let gateway = Setup::new().server("up", &url).open().shards(2).start();
    let session = open_session(&gateway, |post| post);
    Post::legacy_call(&session, "echo").echoed(&gateway);
    drop(upstream);
    let down = Post::legacy_call(&session, "echo").to(&gateway);
    assert_eq!((down.status(), &down.json()["error"]["code"]), (200, &json!(-32_603)), "{}", down.text());
    let upstream = Reserved::at(address).start(Plan::tools(&["echo"]));
    for _ in 0..CONNECTIONS {
        Post::legacy_call(&session, "echo").echoed(&gateway);
    }
    assert_eq!(handshakes(&upstream).len(), 1);
}

/// [I2] [L2] An ended session stays ended: on each shard, after a restart, and after a kill right behind the answer.
#[test]
fn over_is_over_for_good() {
    let (gateway, upstream) = pair();
    let ended: Vec<String> = (0..4).map(|_| open_session(&gateway, |post| post)).collect();
    let kept = open_session(&gateway, |post| post);
    for session in &ended {
        Post::legacy_call(session, "echo").echoed(&gateway);
        assert_eq!(delete(&gateway, session), 204);
    }
    gateway.signal(Signal::KILL);
    let gateway = gateway.restart(|_| {});
    let gateway = gateway.restart(|_| {});
    for _ in 0..CONNECTIONS {
        for session in &ended {
            assert_eq!(Post::legacy_call(session, "echo").to(&gateway).status(), 404);
            assert_eq!(delete(&gateway, session), 404);
        }
        Post::legacy_call(&kept, "echo").echoed(&gateway);
    }
    assert_eq!(handshakes(&upstream).len(), 5, "the one that was kept goes on in its server's session");
}

/// A session ends here whether its server can be told or not.
#[test]
fn a_session_ends_without_its_server() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    drop(upstream);
    assert_eq!(delete(&gateway, &session), 204);
    assert_eq!(delete(&gateway, &session), 404);
}

/// [I3] Nobody uses it, and it is over; its server hears of it.
#[test]
fn an_idle_session_is_over() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = configured(&upstream, |setup| setup.set("/sessions", json!({ "idle": "2s" })));
    let survey = upstream.sessions().len();
    let (left, used) = (open_session(&gateway, |post| post), open_session(&gateway, |post| post));
    eventually("the idle session ends at its server", || {
        Post::legacy_call(&used, "echo").echoed(&gateway);
        upstream.sessions().len() == survey + 1
    });
    assert_eq!(Post::legacy_call(&left, "echo").to(&gateway).status(), 404);
    for _ in 0..CONNECTIONS {
        Post::legacy_call(&used, "echo").echoed(&gateway);
    }
}

/// [I3] Nobody takes all the room there is: neither one caller of the others', nor all together.
#[test]
fn there_are_so_many_sessions() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway =
        configured(&upstream, |setup| setup.tokens("allow").set("/sessions", json!({ "max": 5, "per_subject": 3 })));
    let tokens = ["ada", "eve"].map(|subject| gateway.token(&Who { subject, ..Who::default() }));
    let survey = upstream.sessions().len();
    let open = |token: &str| Post::initialize(LEGACY).token(token).to(&gateway);
    let sessions: Vec<String> = (0..3).map(|_| open(&tokens[0]).field("mcp-session-id").to_owned()).collect();
    let fourth = open(&tokens[0]);
    assert_eq!(fourth.status(), 429, "{}", fourth.text());
    assert!(!fourth.field("retry-after").is_empty());
    assert!((0..2).all(|_| open(&tokens[1]).status() == 200));
    let sixth = open(&tokens[1]);
    assert_eq!(sixth.status(), 503, "{}", sixth.text());
    eventually("what was opened for nothing is closed", || upstream.sessions().len() == survey + 5);
    // One that ends makes room.
    let more = format!("authorization: Bearer {}\r\n", tokens[0]);
    let end = session_request(&gateway, "DELETE", "/mcp", &sessions[0], &more);
    assert_eq!(Wire::to(gateway.address).ask(&end).status(), 204);
    assert_eq!(open(&tokens[1]).status(), 200);
    Post::legacy_call(&sessions[1], "echo").token(&tokens[0]).echoed(&gateway);
}

/// What a server answers when the session is opened anew may come as events, too.
#[test]
fn a_handshake_in_events() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            let session = seen.field("mcp-session-id");
            if seen.method() == "notifications/initialized" && session.starts_with("ev-") {
                out.empty(202);
                return Acted::Done;
            }
            if seen.calls("echo") && session.starts_with("ev-") && out.passes("again") {
                out.json(200, "", &said(seen, seen.value()));
                return Acted::Done;
            }
            if seen.method() != "initialize" || seen.message["params"]["clientInfo"]["name"] != "test" {
                return Acted::Default;
            }
            if out.passes("forgotten") {
                out.lets_pass("again");
            }
            let id = format!("ev-{}", seen.connection * 1000 + seen.nth);
            out.write(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nmcp-session-id: {id}\r\n\
                 transfer-encoding: chunked\r\n\r\n"
            ));
            let log = json!({ "jsonrpc": "2.0", "method": "notifications/message",
                "params": { "level": "info", "data": "hello" } });
            out.event(&log);
            out.event(&json!({ "jsonrpc": "2.0", "id": seen.id(), "result": {
                "protocolVersion": seen.message["params"]["protocolVersion"], "capabilities": { "tools": {} },
                "serverInfo": { "name": "events", "version": "1" },
            }}));
            out.stream_end();
            Acted::Done
        })
        .start();
    // The recorder itself knows no such session: the first call is a 404, until the second handshake.
    let gateway = gateway(&upstream);
    let session = open_session(&gateway, |post| post);
    upstream.open("forgotten");
    Post::legacy_call(&session, "echo").echoed(&gateway);
    assert_eq!(handshakes(&upstream).len(), 2);
    let seen = upstream.seen();
    let ids: std::collections::HashSet<&str> =
        seen.iter().filter(|seen| seen.calls("echo")).map(|seen| seen.field("mcp-session-id")).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
}
