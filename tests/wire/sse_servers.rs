//! Servers that speak HTTP+SSE of 2024-11-05 only, behind the gateway.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, eventually};
use crate::support::http::Wire;
use crate::support::mcp::{LEGACY, Post, names, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::peers::{PY_SSE_SERVER, Sdk, python_peers};
use crate::support::sse_server::{SsePlan, SseServer};
use crate::support::tls::{Authority, Manner, Shelf, Terminator};
use crate::support::upstream::{Acted, Eras, Out, Plan, Reserved, progress, said, standard};

/// What a stream begins with, by its number.
type Opening = Box<dyn Fn(usize) -> String + Send + Sync>;

/// What the status says of the one server.
fn status(gateway: &Gateway) -> Value {
    let request = format!("GET /status HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", gateway.admin);
    Wire::to(gateway.admin).ask(request.as_bytes()).json()["servers"][0].clone()
}

/// Waits until the status says so.
#[track_caller]
fn status_until(gateway: &Gateway, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = status(gateway);
        if so(&status) {
            return status;
        }
        assert!(Instant::now() < until, "the status never said {what}: {status:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn open(server: &SseServer) -> Setup {
    Setup::new().server("old", &server.url()).open()
}

/// A POST that is refused with 405 makes the plane look for an event stream; the status and the first screen say what
/// was found, and the catalogue is read over it.
#[test]
fn it_is_found_by_asking() {
    let server = SsePlan::tools(&["echo", "add"]).start();
    let gateway = open(&server).start();
    let status = status_until(&gateway, "that it is known", |it| it["known"] == true);
    assert_eq!((&status["transport"], &status["tools"], &status["trouble"]), (&json!("sse"), &json!(2), &Value::Null));
    assert_eq!(status["protocols"], json!([LEGACY]));
    assert!(gateway.banner.contains("over HTTP+SSE (deprecated), 2 tools"), "{}", gateway.banner);
    // One POST of each era was refused, one stream opened, and all else went to where its first event said.
    let seen = server.upstream.seen();
    let refused: Vec<&str> =
        seen.iter().filter(|seen| seen.http == "POST" && seen.target == "/sse").map(|seen| seen.method()).collect();
    assert_eq!(refused, ["server/discover", "initialize"]);
    let asked: Vec<&str> = seen.iter().filter(|seen| seen.target != "/sse").map(|seen| seen.method()).collect();
    assert_eq!(asked[..2], ["initialize", "notifications/initialized"]);
    assert!(asked.contains(&"tools/list") && asked.contains(&"resources/templates/list"), "{asked:?}");
    assert_eq!(server.opened(), 1);
}

/// Where the operator says so, nothing else is tried; and streamable HTTP alone where that is said.
#[test]
fn the_operator_says() {
    let server = SsePlan::tools(&["echo"]).start();
    let gateway = open(&server).set("/servers/old/transport", json!("sse")).start();
    status_until(&gateway, "that it is known", |it| it["known"] == true && it["transport"] == "sse");
    assert!(server.upstream.seen().iter().all(|seen| seen.http == "GET" || seen.target.starts_with("/messages")));

    let gateway = open(&server).set("/servers/old/transport", json!("http")).start();
    let status = status_until(&gateway, "what is wrong", |it| it["trouble"].is_string());
    assert_eq!(status["trouble"], "it speaks no version of MCP that this gateway speaks");
    assert_eq!((&status["known"], &status["transport"]), (&json!(false), &Value::Null));
    assert_eq!(server.lines().len(), 1, "no second stream");
}

/// A server of streamable HTTP that refuses GETs is not taken for one, and neither is one of the modern era that
/// refuses the handshake.
#[test]
fn others_are_not_mistaken() {
    let legacy = Plan::tools(&["echo"]).eras(Eras::Legacy).start();
    let modern = Plan::tools(&["echo"]).eras(Eras::Modern).start();
    for (upstream, protocol) in [(&legacy, LEGACY), (&modern, "2026-07-28")] {
        let gateway = Setup::new().server("up", &upstream.url()).open().start();
        let status = status_until(&gateway, "that it is known", |it| it["known"] == true);
        assert_eq!((&status["transport"], &status["protocols"]), (&json!("http"), &json!([protocol])));
    }
    // Neither is one that is broken in another way.
    let broken = Plan::tools(&[])
        .script(|_, out| {
            out.empty(500);
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &broken.url()).open().start();
    status_until(&gateway, "what is wrong", |it| it["trouble"].is_string());
    assert!(broken.seen().iter().all(|seen| seen.http == "POST"), "{:?}", broken.seen());
}

/// [O7] The `endpoint` event must come first and name the stream's own origin; else nothing is sent, and the status says
/// why in a sentence.
#[test]
fn a_foreign_endpoint_gets_nothing() {
    let thief = Plan::tools(&[]).start();
    let elsewhere = thief.url();
    let cases: [(Opening, &str); 4] = [
        (Box::new(move |_| format!("event: endpoint\ndata: {elsewhere}\n\n")), "another origin"),
        (Box::new(|_| "event: endpoint\ndata: //evil.test/m\n\n".into()), "another origin"),
        (Box::new(|_| "event: message\ndata: {}\n\n".into()), "does not begin with an `endpoint` event"),
        (Box::new(|_| "event: endpoint\ndata: /m\ndata: /n\n\n".into()), "no URI that can be used"),
    ];
    for (endpoint, sentence) in cases {
        let server = SsePlan::tools(&["echo"]).endpoint(endpoint).start();
        let gateway = open(&server).start();
        let status =
            status_until(&gateway, sentence, |it| it["trouble"].as_str().is_some_and(|it| it.contains(sentence)));
        assert_eq!(status["known"], false);
        let posted: Vec<_> = server.upstream.seen().into_iter().filter(|it| it.target != "/sse").collect();
        assert!(posted.is_empty(), "{posted:?}");
    }
    assert!(thief.seen().is_empty(), "{:?}", thief.seen());
}

/// The plane's session is its stream: an announcement on it is heeded, a request on it answered, and when it is cut the
/// server is surveyed again on another one.
#[test]
fn the_plane_listens_on_the_stream() {
    let server = SsePlan::tools(&["echo"]).start();
    let gateway = open(&server).start();
    status_until(&gateway, "one tool", |it| it["tools"] == 1);
    server.wait_lines(1)[0].event(&json!({ "jsonrpc": "2.0", "id": "p", "method": "ping" }));
    let pong = server.upstream.wait("the answer to its ping", |seen| seen.id() == "p");
    assert_eq!(pong.message["result"], json!({}));
    server.change_tools(&["echo", "add"]);
    status_until(&gateway, "two tools", |it| it["tools"] == 2);
    assert_eq!(server.opened(), 1, "it was told on the stream it had");
    server.upstream.change_tools(&["echo", "add", "sub"]);
    server.lines()[0].cut();
    status_until(&gateway, "three tools", |it| it["tools"] == 3);
    assert_eq!(server.opened(), 2);
}

/// A server that asks before it answers is answered; one that writes a long list before it takes the message is read
/// meanwhile; events of other people's are passed over.
#[test]
fn a_survey_reads_both_ways() {
    let padding = "x".repeat(900_000);
    let server = SsePlan::tools(&["echo"])
        .script(move |seen, line, out| match seen.method() {
            "tools/list" => {
                // More than the kernel keeps for a reader that does not read.
                for _ in 0..10 {
                    line.event(
                        &json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": padding } }),
                    );
                }
                line.event(&json!({ "jsonrpc": "2.0", "id": 999_999, "result": {} }));
                line.event(&standard(seen, "tools/list", &out.tools()));
                out.empty(200);
                Acted::Done
            }
            "prompts/list" => {
                line.event(&json!({ "jsonrpc": "2.0", "id": "roots", "method": "roots/list" }));
                out.empty(204);
                line.event(&standard(seen, "prompts/list", &[]));
                Acted::Done
            }
            _ => Acted::Default,
        })
        .start();
    let gateway = open(&server).start();
    let status = status_until(&gateway, "one tool", |it| it["tools"] == 1);
    assert_eq!(status["transport"], "sse");
    let refusal = server.upstream.wait("the refusal of its request", |seen| seen.id() == "roots");
    assert_eq!(refusal.message["error"]["code"], -32_601);
}

/// A server that refuses messages is said to do so, and is asked again.
#[test]
fn refused_messages() {
    let server = SsePlan::tools(&["echo"])
        .script(|seen, _, out| {
            if seen.method() != "initialize" || out.passes("mend") {
                return Acted::Default;
            }
            out.empty(503);
            Acted::Done
        })
        .start();
    let gateway = open(&server).start();
    let refused = "it refused a message with status 503";
    status_until(&gateway, refused, |it| it["trouble"] == refused);
    server.upstream.open("mend");
    status_until(&gateway, "that it is known", |it| it["known"] == true && it["trouble"].is_null());
}

/// A server that moved on to streamable HTTP at the same place is found again.
#[test]
fn a_server_that_moves_on() {
    let place = Reserved::new();
    let address = place.address;
    let server = SsePlan::tools(&["echo"]).start_at(place);
    let gateway = open(&server).start();
    status_until(&gateway, "that it is known", |it| it["transport"] == "sse");
    let lines = server.lines();
    drop(server);
    lines.iter().for_each(|line| line.cut());
    let _after = Reserved::at(address).start(Plan::tools(&["echo", "add"]));
    let status = status_until(&gateway, "streamable HTTP", |it| it["transport"] == "http");
    assert_eq!(status["tools"], 2);
}

/// The Python SDK's own server of this transport.
#[test]
fn a_real_one_is_surveyed() {
    let Some(peers) = python_peers(Sdk::V1) else { return };
    let server = peers.serve(PY_SSE_SERVER);
    let gateway = Setup::new().server("old", &format!("http://{}/sse", server.address())).open().start();
    let status = status_until(&gateway, "that it is known", |it| it["known"] == true);
    assert_eq!((&status["transport"], &status["tools"]), (&json!("sse"), &json!(7)));
}

/// `echo` answers; `steps` tells of its progress first; `log` says something else first; `ask` asks; `hold` waits to be
/// let go or taken back, and `slow` to be let go.
fn scripted() -> SseServer {
    SsePlan::tools(&["echo", "steps", "log", "ask", "hold", "slow"])
        .script(|seen, line, out| {
            let answer = || said(seen, seen.value());
            match seen.name() {
                "steps" => {
                    (1..=3).for_each(|step| line.event(&progress(seen, step)));
                    line.event(&answer());
                    // The answer may overtake what the server says to the message itself.
                    out.empty(200);
                }
                "log" => {
                    out.empty(202);
                    let params = json!({ "level": "info", "data": seen.value() });
                    line.event(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params }));
                    line.event(&answer());
                }
                "ask" => {
                    last(out);
                    line.event(&json!({ "jsonrpc": "2.0", "id": "ask-1", "method": "elicitation/create", "params": {
                        "message": "Colour?", "requestedSchema": { "type": "object", "properties": {} },
                    }}));
                    out.pass("answered");
                    line.event(&answer());
                    out.close();
                }
                "slow" => {
                    last(out);
                    out.pass("slow");
                    line.event(&answer());
                    out.close();
                }
                "hold" => {
                    out.empty(202);
                    out.note(format!("holds {}", seen.value()));
                }
                _ => return Acted::Default,
            }
            Acted::Done
        })
        .start()
}

/// Takes a message, on a connection that is busy from then on and takes no other.
fn last(out: &mut Out<'_>) {
    out.write("HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
}

fn known(setup: Setup) -> Gateway {
    let gateway = setup.start();
    status_until(&gateway, "that it is known", |it| it["known"] == true);
    gateway
}

fn started() -> (Gateway, SseServer) {
    let server = scripted();
    (known(open(&server)), server)
}

fn session(gateway: &Gateway) -> String {
    open_session(gateway, |post| post)
}

/// A call is answered with JSON, over the connection that is its session; two sessions are two connections, whatever ids
/// their clients use.
#[test]
fn calls() {
    let (gateway, server) = started();
    let sessions = [session(&gateway), session(&gateway)];
    // The plane has one of its own.
    assert_eq!(server.lines().len(), 3);
    for _ in 0..3 {
        for session in &sessions {
            Post::legacy_call(session, "echo").echoed(&gateway);
            Post::legacy_call(session, "echo").id("s\u{e9}\n1").echoed(&gateway);
        }
    }
    let mut places: Vec<String> = server.upstream.calls().into_iter().map(|seen| seen.target).collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 2);
    // Their clients' ids never reach the server, nor do the gateway's session ids.
    assert!(server.upstream.seen().iter().all(|seen| seen.field("mcp-session-id").is_empty()));
    assert_eq!(names(&Post::legacy(&sessions[0], "tools/list", json!({})).to(&gateway), "tools", "name").len(), 6);
    oracle::check(&gateway, &[("old", &server.upstream)]);
}

/// Calls of two clients at once, under the same ids, answered in the other order.
#[test]
fn the_same_ids_at_once() {
    let (gateway, server) = started();
    let sessions = [session(&gateway), session(&gateway)];
    let posts: Vec<Post> = sessions.iter().map(|session| Post::legacy_call(session, "slow").id(7)).collect();
    let mut wires: Vec<Wire> = posts.iter().map(|post| post.begin(&gateway)).collect();
    for (post, session) in posts.iter().zip(&sessions) {
        server.upstream.wait("the call", |seen| seen.value() == post.value);
        // What is beside it is not held up.
        Post::legacy_call(session, "echo").id(8).echoed(&gateway);
    }
    server.upstream.open("slow");
    for (post, wire) in posts.iter().zip(&mut wires).rev() {
        post.is_echoed(&wire.response());
    }
    oracle::check(&gateway, &[("old", &server.upstream)]);
}

/// What the server says before it answers makes the answer an event stream: progress under its client's own token, and
/// whatever else comes while the call is under way.
#[test]
fn streams() {
    let (gateway, server) = started();
    let session = session(&gateway);
    for token in [json!("p1"), json!(4)] {
        let post = Post::legacy_call(&session, "steps").param("/_meta/progressToken", token.clone());
        let (messages, end) = post.stream(&gateway).rest();
        assert!(end.is_ok());
        let steps: Vec<&Value> = messages.iter().filter_map(|it| it["params"].get("progress")).collect();
        assert_eq!(steps, [&json!(1), &json!(2), &json!(3)], "{messages:?}");
        assert!(messages[..3].iter().all(|it| it["params"]["progressToken"] == token), "{messages:?}");
        assert_eq!((messages.len(), text_of(&messages[3])), (4, post.value.as_str()), "{messages:?}");
    }
    let post = Post::legacy_call(&session, "log");
    let (messages, end) = post.stream(&gateway).rest();
    assert!(end.is_ok());
    assert_eq!((&messages[0]["params"]["data"], text_of(&messages[1])), (&json!(post.value), post.value.as_str()));
    oracle::check(&gateway, &[("old", &server.upstream)]);
}

/// What is about no call comes on the session's own stream; what found nobody is kept for it.
#[test]
fn the_sessions_own_stream() {
    let (gateway, server) = started();
    let session = session(&gateway);
    let line = server.lines().pop().expect("a line");
    let message =
        |text: &str| json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": text } });
    line.event(&message("before"));
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(&gateway, "GET", "/mcp", &session, ""));
    let mut events = wire.events();
    assert_eq!(events.message(), message("before"));
    // In the middle of a call too, when it is about none.
    let post = Post::legacy_call(&session, "slow");
    let mut call = post.begin(&gateway);
    server.upstream.wait("the call", |seen| seen.value() == post.value);
    let changed = json!({ "jsonrpc": "2.0", "method": "notifications/resources/list_changed" });
    line.event(&changed);
    assert_eq!(events.message(), changed);
    server.upstream.open("slow");
    post.is_echoed(&call.response());
    // The server's liveness is not the client's affair.
    line.event(&json!({ "jsonrpc": "2.0", "id": "p", "method": "ping" }));
    let pong = server.upstream.wait("the answer to its ping", |seen| seen.id() == "p");
    assert_eq!((&pong.message["result"], &pong.target), (&json!({}), &format!("/messages?session={}", line.number)));
    line.event(&message("after"));
    assert_eq!(events.message(), message("after"));
}

/// A server's request goes to the client under an id of the gateway's, and its answer back under the server's.
#[test]
fn the_server_asks() {
    let (gateway, server) = started();
    let session = session(&gateway);
    let post = Post::legacy_call(&session, "ask");
    let mut events = post.stream(&gateway);
    let asked = events.message();
    assert_eq!(asked["method"], "elicitation/create");
    let reply = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "accept", "content": {} } });
    assert_eq!(Post::tell(&session, reply).to(&gateway).status(), 202);
    let reached = server.upstream.wait("the reply", |seen| seen.message.get("result").is_some());
    assert_eq!((&reached.message["id"], &reached.message["result"]["action"]), (&json!("ask-1"), &json!("accept")));
    server.upstream.open("answered");
    assert_eq!(text_of(&events.message()), post.value);
    assert!(events.rest().1.is_ok());
    oracle::check(&gateway, &[("old", &server.upstream)]);
}

/// One that may not ask is told so on the spot.
#[test]
fn a_server_that_may_not_ask() {
    let server = scripted();
    let setup = Setup::new().server("old", &server.url()).rule(json!({ "id": "tools", "permit": ["old/*"] }));
    let gateway = known(setup);
    let post = Post::legacy_call(&session(&gateway), "ask");
    let events = post.stream(&gateway);
    let refusal = server.upstream.wait("a refusal", |seen| seen.message.get("error").is_some());
    assert_eq!((&refusal.message["id"], &refusal.message["error"]["code"]), (&json!("ask-1"), &json!(-32_601)));
    server.upstream.open("answered");
    let (messages, end) = events.rest();
    assert!(end.is_ok());
    assert_eq!((messages.len(), text_of(&messages[0])), (1, post.value.as_str()), "{messages:?}");
    oracle::check(&gateway, &[("old", &server.upstream)]);
}

/// A client takes a call back: the server hears of it under the id that it knows.
#[test]
fn cancellations() {
    let (gateway, server) = started();
    let session = session(&gateway);
    let post = Post::legacy_call(&session, "hold").id("mine");
    let mut wire = post.begin(&gateway);
    let call = server.upstream.wait("the call", |seen| seen.value() == post.value);
    assert_ne!(call.id(), "mine");
    let cancel = |id: &str| {
        let params = json!({ "requestId": id, "reason": "r" });
        Post::tell(&session, json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }))
    };
    assert_eq!(cancel("other").to(&gateway).status(), 202);
    assert_eq!(cancel("mine").to(&gateway).status(), 202);
    let told = server.upstream.wait("the cancellation", |seen| seen.method() == "notifications/cancelled");
    assert_eq!((&told.message["params"]["requestId"], &told.message["params"]["reason"]), (call.id(), &json!("r")));
    let ended = wire.response();
    assert!(ended.json()["error"].is_object(), "{}", ended.text());
    // A late answer finds nobody, and nobody's id is used up.
    let line = server.lines().pop().expect("a line");
    line.event(&json!({ "jsonrpc": "2.0", "id": call.id(), "result": { "late": true } }));
    eventually("the late answer is counted", || gateway.counted("sse_messages_dropped") == 1);
    Post::legacy_call(&session, "echo").id("mine").echoed(&gateway);
    let cancelled: Vec<_> =
        server.upstream.seen().into_iter().filter(|seen| seen.method() == "notifications/cancelled").collect();
    assert_eq!(cancelled.len(), 1, "of a call that is not under way the server hears nothing");
}

/// A connection that breaks ends the calls under way, which are not repeated; the next one is made in a new session.
#[test]
fn a_cut_session() {
    let (gateway, server) = started();
    let session = session(&gateway);
    let post = Post::legacy_call(&session, "hold");
    let mut wire = post.begin(&gateway);
    server.upstream.noted(&format!("holds {}", post.value));
    server.lines().pop().expect("a line").cut();
    let cut = wire.response();
    assert_eq!((cut.status(), &cut.json()["error"]["data"]["reason"]), (200, &json!("server_cut")), "{}", cut.text());
    Post::legacy_call(&session, "echo").echoed(&gateway);
    assert_eq!(server.wait_lines(2).len(), 2, "the plane's and the new one");
    let initialized: Vec<_> = server.upstream.seen().into_iter().filter(|seen| seen.method() == "initialize").collect();
    // One of them was refused, when the plane asked about the transport.
    assert_eq!(initialized.len(), 4);
    let (first, again) = (&initialized[2].message["params"], &initialized[3].message["params"]);
    assert_eq!(first, again, "as the same client");
    assert_eq!(gateway.counted("sessions_reopened"), 1);
    oracle::check(&gateway, &[("old", &server.upstream)]);
}

/// A server that has forgotten a session says so with 404 and has not looked at the message: it goes once more, in a new
/// session.
#[test]
fn a_forgotten_session() {
    let server = SsePlan::tools(&["echo"])
        .script(|seen, line, out| {
            if seen.name() != "echo" || line.number != 1 {
                return Acted::Default;
            }
            out.json(404, "", &json!({ "detail": "Session not found" }));
            Acted::Done
        })
        .start();
    let gateway = known(open(&server));
    let session = session(&gateway);
    Post::legacy_call(&session, "echo").echoed(&gateway);
    let lines = server.wait_lines(2);
    assert_eq!(lines[1].number, 2, "the old connection is let go");
    Post::legacy_call(&session, "echo").echoed(&gateway);
    assert_eq!(server.opened(), 3);
}

/// The end of a session is the end of its connection.
#[test]
fn ended_sessions_hang_up() {
    let (gateway, server) = started();
    let sessions = [session(&gateway), session(&gateway)];
    server.wait_lines(3);
    let ended = Wire::to(gateway.address).ask(&session_request(&gateway, "DELETE", "/mcp", &sessions[0], ""));
    assert_eq!(ended.status(), 204);
    server.upstream.noted("line 1 closed");
    assert_eq!(Post::legacy_call(&sessions[0], "echo").to(&gateway).status(), 404);
    Post::legacy_call(&sessions[1], "echo").echoed(&gateway);
    assert_eq!(server.wait_lines(2)[1].number, 2);
}

/// A session that nobody uses any more gives its connection back.
#[test]
fn idle_sessions_hang_up() {
    let server = scripted();
    let gateway = known(open(&server).set("/sessions", json!({ "idle": "2s" })));
    session(&gateway);
    server.wait_lines(2);
    assert_eq!(server.wait_lines(1)[0].number, 0, "the plane's stays");
}

/// Requests of a session are served where its connection is, whichever shard they come to.
#[test]
fn on_two_shards() {
    for driver in ["auto", "epoll"] {
        let server = scripted();
        let gateway = known(open(&server).shards(2).driver(driver));
        let sessions: Vec<String> = (0..8).map(|_| session(&gateway)).collect();
        let mut wires: Vec<Wire> = (0..8).map(|_| Wire::to(gateway.address)).collect();
        for wire in &mut wires {
            for session in &sessions {
                let post = Post::legacy_call(session, "echo");
                post.is_echoed(&wire.ask(&post.bytes(&gateway)));
            }
        }
        for session in &sessions {
            let post = Post::legacy_call(session, "steps").param("/_meta/progressToken", json!(1));
            assert_eq!(post.stream(&gateway).rest().0.len(), 4);
        }
        assert_eq!(server.opened(), 9, "one for each session, one for the plane");
        assert!(gateway.counted("connections_moved") > 0);
        for (session, wire) in sessions.iter().zip(&mut wires) {
            let ended = wire.ask(&session_request(&gateway, "DELETE", "/mcp", session, ""));
            assert_eq!(ended.status(), 204);
        }
        server.wait_lines(1);
        oracle::check(&gateway, &[("old", &server.upstream)]);
    }
}

/// What goes wrong at the beginning of a session leaves none behind.
#[test]
fn sessions_that_do_not_begin() {
    let server = SsePlan::tools(&["echo"])
        .endpoint(|number| match number {
            1 => "event: endpoint\ndata: http://evil.test/\n\n".to_owned(),
            2 => String::from("event: message\ndata: {}\n\n"),
            number => format!("event: endpoint\ndata: /messages?session={number}\n\n"),
        })
        .script(|seen, line, out| {
            match (seen.method(), line.number) {
                ("initialize", 3) => out.empty(503),
                ("initialize", 4) => {
                    out.empty(202);
                    let error = json!({ "code": -32_602, "message": "no" });
                    line.event(&json!({ "jsonrpc": "2.0", "id": seen.id(), "error": error }));
                }
                ("initialize", 5) => {
                    out.empty(202);
                    line.raw("data: this is no message\n\n");
                }
                _ => return Acted::Default,
            }
            Acted::Done
        })
        .start();
    let gateway = known(open(&server));
    for reason in ["server_invalid", "server_invalid", "server_invalid", "", "server_cut"] {
        let answer = Post::initialize(LEGACY).to(&gateway);
        assert!(answer.field("mcp-session-id").is_empty());
        let error = &answer.json()["error"];
        assert!(error.is_object(), "{}", answer.text());
        assert_eq!(error["data"]["reason"].as_str().unwrap_or_default(), reason, "{}", answer.text());
        server.wait_lines(1);
    }
    Post::legacy_call(&session(&gateway), "echo").echoed(&gateway);
    drop(server);
}

/// Nobody there is said so, and is no fault of the session's.
#[test]
fn a_server_that_is_gone() {
    let place = Reserved::new();
    let address = place.address;
    let server = SsePlan::tools(&["echo"]).start_at(place);
    let gateway = known(open(&server));
    let session = session(&gateway);
    let lines = server.lines();
    drop(server);
    lines.iter().for_each(|line| line.cut());
    drop(lines);
    eventually("nobody listens there", || std::net::TcpStream::connect(address).is_err());
    let gone = Post::initialize(LEGACY).to(&gateway);
    assert_eq!(gone.json()["error"]["data"]["reason"], "unreachable", "{}", gone.text());
    let again = SsePlan::tools(&["echo"]).start_at(Reserved::at(address));
    Post::legacy_call(&session, "echo").echoed(&gateway);
    drop(again);
}

/// A reader that is slow slows its own session down, and nobody else's; everything arrives.
#[test]
fn a_slow_reader() {
    const EVENTS: usize = 64;
    let server = SsePlan::tools(&["flood", "echo"])
        .script(|seen, line, out| {
            if seen.name() != "flood" {
                return Acted::Default;
            }
            out.empty(202);
            let text = "x".repeat(100_000);
            for number in 0..EVENTS {
                let params = json!({ "data": text, "number": number });
                line.event(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params }));
            }
            out.note("all is written");
            line.event(&said(seen, seen.value()));
            Acted::Done
        })
        .start();
    let gateway = known(open(&server));
    let sessions = [session(&gateway), session(&gateway)];
    let post = Post::legacy_call(&sessions[0], "flood");
    let events = post.begin(&gateway).events();
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..10 {
        Post::legacy_call(&sessions[1], "echo").echoed(&gateway);
    }
    let (messages, end) = events.rest();
    assert!(end.is_ok());
    let numbers: Vec<u64> = messages.iter().filter_map(|it| it["params"]["number"].as_u64()).collect();
    assert_eq!(numbers, (0..EVENTS as u64).collect::<Vec<_>>());
    assert_eq!(text_of(&messages[EVENTS]), post.value);
}

/// Over TLS, the messages like the stream.
#[test]
fn encrypted() {
    let server = scripted();
    let (authority, shelf) = (Authority::new("servers"), Shelf::new());
    let front =
        Terminator::start(server.upstream.address(), Manner::Polite(authority.issue(&["127.0.0.1"]).server(None)));
    let url = front.url().replace("/mcp", "/sse");
    let tls = json!({ "ca": shelf.put("ca.pem", &authority.pem()) });
    let gateway = known(Setup::new().set("/servers/old", json!({ "url": url, "tls": tls })).open());
    let session = session(&gateway);
    Post::legacy_call(&session, "echo").echoed(&gateway);
    let post = Post::legacy_call(&session, "steps").param("/_meta/progressToken", json!(1));
    assert_eq!(post.stream(&gateway).rest().0.len(), 4);
    assert!(front.shakes().iter().all(|shake| shake.done), "{:?}", front.shakes());
    oracle::check(&gateway, &[("old", &server.upstream)]);
}
