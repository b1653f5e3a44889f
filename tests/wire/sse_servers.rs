//! Servers that speak HTTP+SSE of 2024-11-05 only, behind the gateway.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup};
use crate::support::http::Wire;
use crate::support::mcp::LEGACY;
use crate::support::peers::{PY_SSE_SERVER, Sdk, python_peers};
use crate::support::sse_server::{SsePlan, SseServer};
use crate::support::upstream::{Acted, Eras, Plan, Reserved, standard};

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
        std::thread::sleep(std::time::Duration::from_millis(20));
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

/// The `endpoint` event must come first and name the stream's own origin; else nothing is sent, and the status says
/// why in a sentence.
#[test]
fn a_foreign_endpoint_gets_nothing() {
    let thief = Plan::tools(&[]).start();
    let elsewhere = thief.url();
    let cases: [(Box<dyn Fn(usize) -> String + Send + Sync>, &str); 4] = [
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
