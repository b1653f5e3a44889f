//! HTTP at the front door: paths, methods, media types, framing, connections.

use std::time::Duration;

use serde_json::json;

use crate::support::gateway::{Gateway, PATIENCE, Setup};
use crate::support::http::Wire;
use crate::support::mcp::{Post, tools};
use crate::support::oracle;
use crate::support::upstream::{Plan, Reserved, Upstream};

fn pair() -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

fn raw(gateway: &Gateway, request: &str) -> u16 {
    let request = request.replace("HOST", &gateway.address.to_string());
    Wire::to(gateway.address).ask(request.as_bytes()).status()
}

#[test]
fn paths_that_lead_nowhere() {
    let (gateway, upstream) = pair();
    for path in ["/", "/mcp/", "/MCP", "/s/up", "/s/none/mcp", "/healthz", "/readyz", "/status", "/mcp%20"] {
        let answer = Post::call("echo").at(path).to(&gateway);
        assert_eq!(answer.status(), 404, "{path}: {}", answer.text());
        assert!(answer.json()["error"]["message"].is_string());
    }
    for path in ["/s/up/../up/mcp", "//mcp", "/s%2fup/mcp", "/mcp;x", "/mcp\\", "/%6dcp/..", "/mcp%00"] {
        assert_eq!(Post::call("echo").at(path).to(&gateway).status(), 400, "{path}");
    }
    Post::call("echo").at("/mcp?x=1").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn methods_that_are_not_served() {
    let (gateway, upstream) = pair();
    for method in ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"] {
        let mut wire = Wire::to(gateway.address);
        wire.send(format!("{method} /mcp HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.address).as_bytes());
        let head = wire.head().expect("an answer");
        assert_eq!((head.status, head.field("allow")), (405, "GET, POST, DELETE"), "{method}");
    }
    for target in ["HOST", "/mcp"] {
        let status = raw(&gateway, &format!("CONNECT {target} HTTP/1.1\r\nhost: HOST\r\n\r\n"));
        assert!([400, 405].contains(&status), "CONNECT {target}: {status}");
    }
    // Without a session there is no stream to get, and nothing to delete.
    for method in ["GET", "DELETE"] {
        assert_eq!(raw(&gateway, &format!("{method} /mcp HTTP/1.1\r\nhost: HOST\r\n\r\n")), 405, "{method}");
    }
    let metadata = "/.well-known/oauth-protected-resource/mcp";
    assert_eq!(raw(&gateway, &format!("DELETE {metadata} HTTP/1.1\r\nhost: HOST\r\n\r\n")), 405);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn media_types() {
    let (gateway, upstream) = pair();
    let with = |media: &str| Post::call("echo").without("content-type").field("content-type", media);
    for media in ["application/json", "Application/JSON; charset=utf-8", "application/json;charset=UTF-8"] {
        with(media).echoed(&gateway);
    }
    let before = upstream.calls().len();
    for media in ["text/plain", "application/json-patch+json", "application/jsonx", "", "text/html, application/json"] {
        assert_eq!(with(media).to(&gateway).status(), 415, "{media:?}");
    }
    assert_eq!(Post::call("echo").without("content-type").to(&gateway).status(), 415);
    assert_eq!(Post::call("echo").field("content-encoding", "gzip").to(&gateway).status(), 415);
    assert_eq!(upstream.calls().len(), before);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn bodies_that_are_too_large() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().set("/limits/body", json!("64KiB")).start();
    let sized = |bytes: usize| {
        let post = Post::call("echo");
        let length = post.body_bytes().len();
        post.param("/arguments/pad", json!("x".repeat(bytes - length - r#","pad":"""#.len())))
    };
    let whole = sized(64 * 1024);
    assert_eq!(whole.body_bytes().len(), 64 * 1024);
    whole.echoed(&gateway);
    let over = sized(64 * 1024 + 1);
    let answer = over.to(&gateway);
    assert_eq!((answer.status(), answer.field("connection")), (413, "close"));
    // In chunks, where the length shows late.
    let mut chunked = over.head_bytes(&gateway, "transfer-encoding: chunked\r\n");
    for piece in over.body_bytes().chunks(10_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(Wire::to(gateway.address).ask(&chunked).status(), 413);
    // Announced only: refused before a byte of it has come.
    let announced = over.head_bytes(&gateway, "content-length: 999999999\r\n");
    assert_eq!(Wire::to(gateway.address).ask(&announced).status(), 413);
    assert_eq!(upstream.calls().len(), 1);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn origins_and_hosts() {
    let (gateway, upstream) = pair();
    let port = gateway.address.port();
    for origin in ["http://evil.example", "null", "http://127.0.0.1", "https://localhost"] {
        assert_eq!(Post::call("echo").field("origin", origin).to(&gateway).status(), 403, "{origin}");
    }
    let twice = Post::call("echo").field("origin", "null").field("origin", "null");
    assert!([400, 403].contains(&twice.to(&gateway).status()));
    Post::call("echo").field("origin", &format!("http://localhost:{port}")).echoed(&gateway);
    for host in ["evil.example", "127.0.0.1", "127.0.0.1:1", &format!("evil.example:{port}")] {
        let status = raw(&gateway, &format!("POST /mcp HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n"));
        assert_eq!(status, 403, "{host}");
    }
    assert_eq!(upstream.calls().len(), 1);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn ambiguous_requests_end_the_connection() {
    let (gateway, upstream) = pair();
    let post = Post::call("echo");
    let body = post.body_bytes();
    let length = body.len();
    let framings = [
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        format!("content-length: {length}\r\ncontent-length: {length}\r\n"),
        format!("content-length: {length}, {length}\r\n"),
        format!("content-length: +{length}\r\n"),
        format!("content-length : {length}\r\n"),
        "transfer-encoding: identity\r\n".to_owned(),
        "transfer-encoding: chunked, chunked\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        format!(" folded\r\ncontent-length: {length}\r\n"),
        format!("content-length: {length}\r\nhost: again\r\n"),
        format!("content-length: {length}\nx: y\r\n"),
        format!("content-length: {length}\r\nconnection: authorization\r\n"),
    ];
    for framing in framings {
        let mut wire = Wire::to(gateway.address);
        let mut bytes = post.head_bytes(&gateway, &framing);
        bytes.extend_from_slice(&body);
        // What stands behind it must never be read as a request.
        bytes.extend_from_slice(&post.bytes(&gateway));
        let answer = wire.ask(&bytes);
        assert!([400, 501].contains(&answer.status()), "{framing:?}: {}", answer.status());
        assert_eq!(answer.field("connection"), "close", "{framing:?}");
        wire.close_half();
        assert!(wire.at_end(PATIENCE), "{framing:?}");
    }
    assert!(upstream.calls().is_empty(), "something was smuggled: {:?}", upstream.calls());
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn heads_that_are_too_large() {
    let (gateway, upstream) = pair();
    let value = "v".repeat(9 * 1024);
    assert_eq!(Post::call("echo").field("x-long", &value).to(&gateway).status(), 431);
    let many = (0..101).fold(Post::call("echo"), |post, _| post.field("x", "y"));
    assert_eq!(many.to(&gateway).status(), 431);
    let path = format!("/{}", "p".repeat(17 * 1024));
    assert!([414, 431].contains(&Post::call("echo").at(&path).to(&gateway).status()));
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn one_connection_many_requests() {
    let (gateway, upstream) = pair();
    let mut wire = Wire::to(gateway.address);
    for _ in 0..50 {
        let post = Post::call("echo");
        post.is_echoed(&wire.ask(&post.bytes(&gateway)));
    }
    let refused = wire.ask(&Post::call("no-such").bytes(&gateway));
    assert_eq!(refused.status(), 200, "a refusal keeps the connection");
    let nowhere = wire.ask(&Post::call("echo").at("/none").bytes(&gateway));
    assert_eq!(nowhere.status(), 404);
    let post = Post::call("echo");
    post.is_echoed(&wire.ask(&post.bytes(&gateway)));
    let connections: std::collections::HashSet<usize> = upstream.calls().iter().map(|call| call.connection).collect();
    assert_eq!(connections.len(), 1, "the server's connection is kept too");
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (gateway, upstream) = pair();
    let posts: Vec<Post> = (0..8).map(|id| Post::call("echo").id(id)).collect();
    let bytes: Vec<u8> = posts.iter().flat_map(|post| post.bytes(&gateway)).collect();
    let mut wire = Wire::to(gateway.address);
    wire.send(&bytes);
    for post in &posts {
        post.is_echoed(&wire.response());
    }
    // In two pieces, cut at odd places.
    for cut in [1, 17, bytes.len() / 2, bytes.len() - 1] {
        let posts: Vec<Post> = (0..3).map(|id| Post::call("echo").id(id)).collect();
        let bytes: Vec<u8> = posts.iter().flat_map(|post| post.bytes(&gateway)).collect();
        let cut = cut.min(bytes.len() - 1);
        let mut wire = Wire::to(gateway.address);
        wire.send(&bytes[..cut]);
        assert!(wire.quiet(Duration::from_millis(20)) || cut > bytes.len() / 3);
        wire.send(&bytes[cut..]);
        for post in &posts {
            post.is_echoed(&wire.response());
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_body_in_chunks() {
    let (gateway, upstream) = pair();
    let post = Post::call("echo");
    let head = post.head_bytes(&gateway, "transfer-encoding: chunked\r\n");
    for size in [1, 7, 100_000] {
        let mut wire = Wire::to(gateway.address);
        let post = Post::call("echo");
        wire.send(&post.head_bytes(&gateway, "transfer-encoding: chunked\r\n"));
        for piece in post.body_bytes().chunks(size) {
            wire.send(format!("{:X};ext=\"1\"\r\n", piece.len()).as_bytes());
            wire.send(piece);
            wire.send(b"\r\n");
        }
        wire.send(b"0\r\nTrailer: x\r\n\r\n");
        // The next request follows on the same connection.
        let next = Post::call("echo");
        wire.send(&next.bytes(&gateway));
        post.is_echoed(&wire.response());
        next.is_echoed(&wire.response());
    }
    let broken = [head.as_slice(), b"5\r\nabcdeX\r\n0\r\n\r\n"].concat();
    assert_eq!(Wire::to(gateway.address).ask(&broken).status(), 400);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn expect_100_continue() {
    let (gateway, upstream) = pair();
    let post = Post::call("echo").field("expect", "100-continue");
    let body = post.body_bytes();
    let mut wire = Wire::to(gateway.address);
    wire.send(&post.head_bytes(&gateway, &format!("content-length: {}\r\n", body.len())));
    assert_eq!(wire.head().expect("a go-ahead").status, 100);
    wire.send(&body);
    post.is_echoed(&wire.response());
    // With the body at hand nobody needs to be told to send it.
    let at_once = Post::call("echo").field("expect", "100-continue");
    at_once.is_echoed(&wire.ask(&at_once.bytes(&gateway)));
    // A request that is refused anyway gets no go-ahead.
    let nowhere = Post::call("echo").at("/none").field("expect", "100-continue");
    let mut wire = Wire::to(gateway.address);
    wire.send(&nowhere.head_bytes(&gateway, "content-length: 10\r\n"));
    assert_eq!(wire.head().expect("an answer").status, 404);
    let strange = Post::call("echo").field("expect", "the-unexpected");
    assert_eq!(strange.to(&gateway).status(), 417);
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn http_1_0_is_served_once() {
    let (gateway, upstream) = pair();
    let post = Post::call("echo");
    let bytes = String::from_utf8(post.bytes(&gateway)).expect("ASCII").replacen("HTTP/1.1", "HTTP/1.0", 1);
    let mut wire = Wire::to(gateway.address);
    post.is_echoed(&wire.ask(bytes.as_bytes()));
    assert!(wire.at_end(PATIENCE));
    let mut wire = Wire::to(gateway.address);
    let asked = Post::call("echo").field("connection", "close");
    asked.is_echoed(&wire.ask(&asked.bytes(&gateway)));
    assert!(wire.at_end(PATIENCE), "close was asked for");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Messages that are no message, each refused with the id where it could be read, on a connection that goes on.
#[test]
fn bodies_that_are_no_message() {
    let (gateway, upstream) = pair();
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let cases: [(&str, i64); 9] = [
        ("", -32_700),
        ("{", -32_700),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"} x", -32_700),
        ("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]", -32_600),
        ("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}", -32_600),
        ("{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}", -32_600),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"method\":\"tools/call\"}", -32_600),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"Method\":\"tools/call\"}", -32_600),
        (&format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{{\"x\":{deep}}}}}"), -32_600),
    ];
    let mut wire = Wire::to(gateway.address);
    for (body, code) in cases {
        let answer = wire.ask(&Post::call("echo").body(body).bytes(&gateway));
        let got = answer.json()["error"]["code"].as_i64();
        assert_eq!(answer.status(), 400, "{body}: {}", answer.text());
        assert!(
            got == Some(code) || [Some(-32_700), Some(-32_600)].contains(&got) && body.contains("[[["),
            "{body}: {}",
            answer.text()
        );
    }
    assert!(upstream.calls().is_empty());
    assert_eq!(tools(&gateway, |post| post), ["echo"]);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// The order of the modern checks (MCP 2026-07-28 basic/transports/streamable-http).
#[test]
fn modern_heads_that_disagree_with_their_bodies() {
    let (gateway, upstream) = pair();
    let call = || Post::call("echo");
    let drop_meta = |key: &str| {
        let post = call();
        let mut message: serde_json::Value = serde_json::from_slice(&post.body_bytes()).expect("JSON");
        message["params"]["_meta"].as_object_mut().expect("it has one").remove(key);
        post.body(message.to_string())
    };
    let cases = [
        (call().without("mcp-method"), 400, -32_020),
        (call().without("mcp-method").field("mcp-method", "tools/list"), 400, -32_020),
        (call().without("mcp-name"), 400, -32_020),
        (call().without("mcp-name").field("mcp-name", "other"), 400, -32_020),
        (call().without("mcp-name").field("mcp-name", "=?base64?ZWNobw?="), 400, -32_020),
        (call().without("mcp-protocol-version"), 400, -32_020),
        (call().without("mcp-protocol-version").field("mcp-protocol-version", "2025-11-25"), 400, -32_020),
        (call().field("mcp-method", "tools/call"), 400, -32_020),
        (drop_meta("io.modelcontextprotocol/clientCapabilities"), 400, -32_602),
        (drop_meta("io.modelcontextprotocol/protocolVersion"), 400, -32_602),
        (Post::modern("no/such", json!({})), 404, -32_601),
        (Post::modern("ping", json!({})), 404, -32_601),
        (Post::modern("tools/call", json!({})), 400, -32_602),
    ];
    for (post, status, code) in cases {
        let answer = post.to(&gateway);
        let shown = format!("{post:?}: {}", answer.text());
        assert_eq!((answer.status(), answer.json()["error"]["code"].as_i64()), (status, Some(code)), "{shown}");
        assert_eq!(answer.json()["id"], 1, "errors echo the id: {shown}");
    }
    assert!(upstream.calls().is_empty());
    let sentinel = call().without("mcp-name").field("mcp-name", "=?base64?ZWNobw==?=");
    sentinel.echoed(&gateway);
    call().field("mcp-session-id", "whatever").field("last-event-id", "7").echoed(&gateway);
    let version = "2027-01-01";
    let future = call()
        .without("mcp-protocol-version")
        .field("mcp-protocol-version", version)
        .param("/_meta/io.modelcontextprotocol~1protocolVersion", json!(version))
        .to(&gateway);
    let error = &future.json()["error"];
    assert_eq!((future.status(), &error["code"]), (400, &json!(-32_022)));
    assert_eq!(error["data"], json!({ "supported": ["2026-07-28"], "requested": version }));
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_catalogue_that_is_not_known_yet() {
    let nobody = Reserved::new();
    let gateway = Setup::new().server("up", &nobody.url()).open().start();
    assert!(gateway.banner.contains("not reachable"), "{}", gateway.banner);
    for post in [Post::call("echo"), Post::modern("tools/list", json!({}))] {
        let answer = post.to(&gateway);
        assert_eq!(answer.status(), 503, "{}", answer.text());
        assert!(answer.field("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{:?}", answer.head);
        assert_eq!(answer.json()["id"], 1);
    }
    oracle::check(&gateway, &[]);
    // Now it comes up.
    let upstream = nobody.start(Plan::tools(&["echo"]));
    crate::support::gateway::eventually("the server is known", || Post::call("echo").to(&gateway).status() == 200);
    Post::call("echo").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A request that never becomes whole is never forwarded.
#[test]
fn half_a_request_goes_nowhere() {
    let (gateway, upstream) = pair();
    let post = Post::call("echo");
    let bytes = post.bytes(&gateway);
    for cut in [10, bytes.len() / 2, bytes.len() - 1] {
        let mut wire = Wire::to(gateway.address);
        wire.send(&bytes[..cut]);
        wire.close_half();
        // An error or just the end; in any case the end.
        let _ = wire.try_response();
        assert!(wire.at_end(PATIENCE), "cut at {cut}");
    }
    let chunked = post.head_bytes(&gateway, "transfer-encoding: chunked\r\n");
    let body = post.body_bytes();
    let mut wire = Wire::to(gateway.address);
    wire.send(&[chunked.as_slice(), format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat());
    wire.close_half();
    let _ = wire.try_response();
    assert!(wire.at_end(PATIENCE));
    assert!(upstream.calls().is_empty());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// The unread body of a refused request is no next request, on connections that go on and on those that do not.
#[test]
fn the_body_of_a_refused_request_is_no_request() {
    let (gateway, upstream) = pair();
    let hidden = Post::call("echo").bytes(&gateway);
    for path in ["/none", "/mcp"] {
        let method = if path == "/mcp" { "PUT" } else { "POST" };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", gateway.address);
        let length = format!("{head}content-length: {}\r\n\r\n", hidden.len());
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n", hidden.len());
        for (head, tail) in [(length, ""), (chunked, "\r\n0\r\n\r\n")] {
            let mut wire = Wire::to(gateway.address);
            wire.send(&[head.as_bytes(), &hidden, tail.as_bytes()].concat());
            assert!([404, 405].contains(&wire.response().status()));
            let next = Post::call("no-such").id("next");
            wire.send(&next.bytes(&gateway));
            if let Ok(answer) = wire.try_response() {
                assert_eq!(answer.json()["id"], "next", "{}", answer.text());
            }
        }
    }
    assert!(upstream.calls().is_empty(), "{:?}", upstream.calls());
    oracle::check(&gateway, &[("up", &upstream)]);
}
