//! Where a request comes from and where it leads: targets, hosts, origins; and exactly the fields that each side gets to
//! see of the other.

use serde_json::json;

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who};
use crate::support::http::{Head, Response, Wire};
use crate::support::mcp::{LEGACY, MODERN, Post, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Seen, Upstream, progress, said};

const METADATA: &str = "/.well-known/oauth-protected-resource/mcp";
/// What a client would like a server, or the gateway, to believe: in every case and spelling that some parser takes for
/// the real one.
const SPOOFS: &[(&str, &str)] = &[
    ("X-Forwarded-For", "10.9.9.9"),
    ("x-forwarded-for", "10.9.9.9"),
    ("X_FORWARDED_FOR", "10.9.9.9"),
    ("x-forwarded-host", "spoofed.example"),
    ("X_Forwarded_Host", "spoofed.example"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Port", "443"),
    ("X-Forwarded-Prefix", "/admin"),
    ("X-Forwarded-User", "superuser"),
    ("X-Forwarded-Client-Cert", "By=spoofed"),
    ("Forwarded", "for=10.9.9.9;host=spoofed.example"),
    ("FORWARDED", "for=10.9.9.9"),
    ("X-Real-Ip", "10.9.9.9"),
    ("True-Client-Ip", "10.9.9.9"),
    ("Via", "1.1 spoofed"),
    ("X-Original-Url", "/admin"),
    ("X-Rewrite-Url", "/admin"),
    ("X-Http-Method-Override", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("X-User", "superuser"),
    ("Remote-User", "superuser"),
    ("Remote_User", "superuser"),
    ("X-Authenticated-User", "superuser"),
    ("Authorization_", "Bearer spoofed"),
    ("X-Authorization", "Bearer spoofed"),
    ("Proxy-Authorization", "Basic c3Bvb2ZlZA=="),
    ("Cookie", "session=spoofed"),
    ("DPoP", "spoofed"),
    ("Mcp_Session_Id", "spoofed"),
    ("MCP_SESSION_ID", "spoofed"),
    ("Mcp_Name", "spoofed"),
    ("Mcp_Method", "spoofed"),
    ("Mcp_Protocol_Version", "spoofed"),
    ("Mcp_Param_X", "spoofed"),
    ("Mcp-Anything", "spoofed"),
    ("Portcullis_Task", "spoofed"),
    ("Portcullis-Subject", "spoofed"),
    ("Content_Length", "3"),
    ("Transfer_Encoding", "chunked"),
    ("Host_", "spoofed.example"),
    ("Baggage", "spoofed=1"),
    ("Te", "trailers"),
    ("Trailer", "x-spoofed"),
    ("Upgrade", "spoofed"),
    ("Keep-Alive", "timeout=999"),
    ("Proxy-Connection", "keep-alive"),
    ("X-Hop", "spoofed"),
    ("Connection", "x-hop, keep-alive"),
    ("User-Agent", "spoofed"),
    ("Accept-Language", "spoofed"),
    ("Referer", "http://spoofed.example/"),
    ("X-Anything", "spoofed"),
];

fn spoofed(post: Post) -> Post {
    SPOOFS.iter().filter(|(name, _)| *name != "User-Agent").fold(post, |post, (name, value)| post.field(name, value))
}

fn spoof_lines() -> String {
    SPOOFS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// A server whose every answer is full of fields that are nobody's business, with a well-behaved tool, one that answers
/// with events, and one whose answer is chunked.
fn upstream() -> Upstream {
    const FIELDS: &str = "server: leaky/1.0\r\nx-powered-by: leaky\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
        set-cookie: leaky=1\r\nset-cookie: leaky=2\r\nwww-authenticate: Bearer leaky\r\nproxy-authenticate: Basic leaky\r\n\
        access-control-allow-origin: *\r\nlocation: http://leaky.example/\r\ncontent-location: /leaky\r\nvia: 1.1 leaky\r\n\
        x-forwarded-for: leaky\r\nforwarded: for=leaky\r\nportcullis-task: leaky\r\nconnection: x-leaky\r\nx-leaky: 1\r\n\
        keep-alive: timeout=5\r\nupgrade: leaky\r\ntrailer: x-leaky\r\nte: trailers\r\nalt-svc: h2=\":1\"\r\n\
        strict-transport-security: max-age=1\r\nmcp_session_id: leaky\r\nlink: </leaky>\r\nrefresh: 0;url=/leaky\r\n";
    Plan::tools(&["echo", "events", "chunks"])
        .script(|seen, out| {
            let session = if seen.method() == "initialize" { "mcp-session-id: up-leaky\r\n" } else { "" };
            if seen.calls("events") {
                out.write(format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream;charset=utf-8\r\n{FIELDS}transfer-encoding: chunked\r\n\r\n"
                ));
                out.event(&progress(seen, 1));
                out.event(&said(seen, seen.value()));
                out.write("0\r\nx-leaky: trailer\r\nmcp-session-id: leaky\r\n\r\n");
            } else if seen.calls("chunks") {
                let body = said(seen, seen.value()).to_string();
                out.write(format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json; leaky=1\r\n{FIELDS}transfer-encoding: chunked\r\n\r\n\
                     {:x};leaky=1\r\n{body}\r\n0\r\nx-leaky: trailer\r\n\r\n",
                    body.len()
                ));
            } else if seen.calls("echo") {
                out.json(200, FIELDS, &said(seen, seen.value()));
            } else if seen.method() == "initialize" && seen.id() == "init" {
                let result = json!({ "protocolVersion": LEGACY, "capabilities": { "tools": {} },
                    "serverInfo": { "name": "leaky", "version": "1" } });
                let body = json!({ "jsonrpc": "2.0", "id": seen.id(), "result": result });
                out.json(200, &format!("{FIELDS}{session}"), &body);
            } else if seen.field("mcp-session-id") == "up-leaky" && seen.http == "DELETE" {
                out.write(format!("HTTP/1.1 204 Gone\r\n{FIELDS}\r\n"));
            } else if seen.field("mcp-session-id") == "up-leaky" && seen.http == "GET" {
                out.write(format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{FIELDS}transfer-encoding: chunked\r\n\r\n"
                ));
                out.event(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": 1 } }));
                out.stream_end();
            } else if seen.field("mcp-session-id") == "up-leaky" && seen.message.get("id").is_none() {
                out.write(format!("HTTP/1.1 202 Fine\r\n{FIELDS}content-length: 0\r\n\r\n"));
            } else if seen.calls("legacy-echo") {
                out.json(200, FIELDS, &said(seen, seen.value()));
            } else {
                return Acted::Default;
            }
            Acted::Done
        })
        .start()
}

fn house(anonymous: &str) -> (Gateway, Upstream, String) {
    let upstream = upstream();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens(anonymous).start();
    let token = gateway.token(&Who::default());
    (gateway, upstream, token)
}

/// Names and values, as they came.
fn lines(seen: &Seen) -> Vec<String> {
    seen.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect()
}

fn names(head: &Head) -> Vec<&str> {
    head.fields.iter().map(|(name, _)| name.as_str()).collect()
}

/// [O2] [H17] [H19] What a server sees of a modern call: these fields, and no other, whatever its client sent.
#[test]
fn the_fields_that_a_server_sees() {
    let (gateway, upstream, token) = house("deny");
    for tool in ["echo", "events", "chunks"] {
        let post =
            spoofed(Post::call(tool)).token(&token).field("tracestate", "a=b").field("Mcp-Param-Undeclared", "p");
        let answer = post.to(&gateway);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let seen = upstream.wait("the call", |seen| seen.value() == post.value);
        let agent = concat!("user-agent: portcullis/", env!("CARGO_PKG_VERSION"));
        let want = [
            &format!("host: {}", upstream.address()),
            "content-type: application/json",
            "accept: application/json, text/event-stream",
            "accept-encoding: identity",
            agent,
            &format!("mcp-protocol-version: {MODERN}"),
            "mcp-method: tools/call",
            &format!("mcp-name: {tool}"),
            &format!("traceparent: 00-{}-00f067aa0ba902b7-01", post.value),
            "tracestate: a=b",
            // Those are the server's to look at, declared or not (MCP 2026-07-28, streamable HTTP).
            "mcp-param-undeclared: p",
            &format!("content-length: {}", post.body_bytes().len()),
        ];
        assert_eq!(lines(&seen), want);
        assert_eq!((seen.http.as_str(), seen.target.as_str()), ("POST", "/mcp"));
    }
    let told = format!("{:?}", upstream.seen());
    for secret in [&token, "spoofed", "10.9.9.9", "superuser", "Bearer"] {
        assert!(!told.contains(secret), "the server was told {secret:?}");
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [O2] [H17] [H19] The same for a session: its messages, its stream, its end.
#[test]
fn the_fields_that_a_server_sees_of_a_session() {
    let (gateway, upstream, token) = house("deny");
    let session = open_session(&gateway, |post| spoofed(post).token(&token));
    let call = spoofed(Post::legacy_call(&session, "echo")).token(&token);
    assert_eq!(text_of(&call.to(&gateway).json()), call.value);
    for (method, status) in [("GET", 200), ("DELETE", 204)] {
        let more = format!("authorization: Bearer {token}\r\nlast-event-id: e-1\r\n{}", spoof_lines());
        // The stream goes on for longer than this test wants to see of it.
        let mut wire = Wire::to(gateway.address);
        wire.send(&session_request(&gateway, method, "/mcp", &session, &more));
        assert_eq!(wire.head().expect("an answer begins").status, status);
    }
    let host = format!("host: {}", upstream.address());
    let agent = concat!("user-agent: portcullis/", env!("CARGO_PKG_VERSION"));
    let accept = "accept: application/json, text/event-stream";
    let (json, identity) = ("content-type: application/json", "accept-encoding: identity");
    let (id, version) = ("mcp-session-id: up-leaky", format!("mcp-protocol-version: {LEGACY}"));
    let of = |what: &str, so: &dyn Fn(&Seen) -> bool| upstream.wait(what, so);
    let opened = of("initialize", &|seen| seen.id() == "init");
    let length = |seen: &Seen| format!("content-length: {}", seen.body.len());
    assert_eq!(lines(&opened), [&host, json, accept, identity, agent, &length(&opened)]);
    let told = of("initialized", &|seen| {
        seen.method() == "notifications/initialized" && seen.field("mcp-session-id") == "up-leaky"
    });
    assert_eq!(lines(&told), [&host, json, accept, identity, agent, id, &version, &length(&told)]);
    let called = of("the call", &|seen| seen.value() == call.value);
    let trace = format!("traceparent: 00-{}-00f067aa0ba902b7-01", call.value);
    assert_eq!(lines(&called), [&host, json, accept, identity, agent, id, &version, &trace, &length(&called)]);
    let got = of("the GET", &|seen| seen.http == "GET" && seen.field("mcp-session-id") == "up-leaky");
    // What the client has seen last is the gateway's affair; this is no event of its own.
    assert_eq!(lines(&got), [&host, "accept: text/event-stream", agent, id, &version]);
    let deleted = of("the DELETE", &|seen| seen.http == "DELETE" && seen.field("mcp-session-id") == "up-leaky");
    assert_eq!(lines(&deleted), [&host, agent, id, &version]);
    let all = format!("{:?}", upstream.seen());
    for secret in [&token, &session, "spoofed", "10.9.9.9", "superuser", "Bearer"] {
        assert!(!all.contains(secret), "the server was told {secret:?}");
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [H17] [H19] What a client sees of any answer: these fields, and no other, whatever the server sent.
#[test]
fn the_fields_that_a_client_sees() {
    let (gateway, upstream, token) = house("deny");
    let json = ["content-type", "content-length"];
    let stream = ["content-type", "cache-control", "x-accel-buffering", "transfer-encoding"];
    let session = open_session(&gateway, |post| post.token(&token));
    let with = |post: Post| post.token(&token);
    let get = |method: &str| {
        session_request(&gateway, method, "/mcp", &session, &format!("authorization: Bearer {token}\r\n"))
    };
    let metadata = format!("GET {METADATA} HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.address);
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
    let cases: Vec<(Vec<u8>, u16, &[&str])> = vec![
        (with(Post::call("echo")).bytes(&gateway), 200, &json),
        (with(Post::call("chunks")).bytes(&gateway), 200, &json),
        (with(Post::call("events")).bytes(&gateway), 200, &stream),
        (with(Post::modern("tools/list", json!({}))).bytes(&gateway), 200, &json),
        (with(Post::initialize(LEGACY)).bytes(&gateway), 200, &["content-type", "mcp-session-id", "content-length"]),
        (with(Post::tell(&session, note)).bytes(&gateway), 202, &["content-length"]),
        (get("DELETE"), 204, &[]),
        (get("DELETE"), 404, &json),
        (
            metadata.into_bytes(),
            200,
            &["content-type", "cache-control", "access-control-allow-origin", "content-length"],
        ),
        (with(Post::call("hidden")).bytes(&gateway), 200, &json),
        (Post::call("echo").bytes(&gateway), 401, &["content-type", "www-authenticate", "content-length"]),
        (with(Post::call("echo")).at("/none").bytes(&gateway), 404, &json),
        (
            with(Post::call("echo")).field("origin", "null").bytes(&gateway),
            403,
            &["content-type", "connection", "content-length"],
        ),
    ];
    let mut own = Wire::to(gateway.address);
    own.send(&get("GET"));
    let head = own.head().expect("the stream begins");
    assert_eq!((head.status, names(&head)), (200, stream.to_vec()));
    for (bytes, status, fields) in cases {
        let answer = Wire::to(gateway.address).ask(&bytes);
        let shown = String::from_utf8_lossy(&bytes[..60]).into_owned();
        assert_eq!((answer.status(), names(&answer.head)), (status, fields.to_vec()), "{shown}");
        let head = String::from_utf8_lossy(&answer.head.bytes).into_owned();
        assert!(!head.contains("leaky") && !answer.text().contains("x-leaky"), "{head}");
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [O2] Nothing but the fields themselves counts: a token, a session, a task in a field that only looks like theirs is
/// none.
#[test]
fn fields_that_only_look_like_it() {
    let (gateway, upstream, token) = house("deny");
    let before = upstream.calls().len();
    for name in [
        "authorization_",
        "x-authorization",
        "proxy-authorization",
        "authorisation",
        "x-forwarded-authorization",
        "cookie",
    ] {
        let answer = Post::call("echo").field(name, &format!("Bearer {token}")).to(&gateway);
        assert_eq!(answer.status(), 401, "{name}");
    }
    let session = open_session(&gateway, |post| post.token(&token));
    for name in ["mcp_session_id", "x-mcp-session-id", "session-id"] {
        let more = format!("authorization: Bearer {token}\r\n{name}: {session}\r\n");
        let head = session_request(&gateway, "GET", "/mcp", "S", &more);
        let head = String::from_utf8_lossy(&head).replacen("mcp-session-id: S\r\n", "", 1);
        assert_eq!(Wire::to(gateway.address).ask(head.as_bytes()).status(), 405, "{name}: no session, no stream");
    }
    for name in ["mcp_name", "mcp_method", "mcp_protocol_version"] {
        let real = name.replace('_', "-");
        let post = Post::call("echo").token(&token);
        let value = match name {
            "mcp_name" => "echo",
            "mcp_method" => "tools/call",
            _ => MODERN,
        };
        let answer = post.without(&real).field(name, value).to(&gateway);
        assert_eq!((answer.status(), &answer.json()["error"]["code"]), (400, &json!(-32_020)), "{name}");
    }
    // No task of that name exists: where it counted, the call would be refused.
    for name in ["portcullis_task", "x-portcullis-task"] {
        let post = Post::call("echo").token(&token).field(name, "none");
        post.echoed(&gateway);
    }
    assert_eq!(Post::call("echo").token(&token).field("Portcullis-Task", "none").to(&gateway).status(), 400);
    assert_eq!(upstream.calls().len() - before, 2);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [O1] A path that two parties could read in two ways is refused, whatever form the target has; one that is served
/// leads where the configuration says, and nothing of the client's target gets there.
#[test]
fn targets() {
    let (gateway, upstream, token) = house("deny");
    let call = || Post::call("echo").token(&token);
    let before = upstream.calls().len();
    for path in [
        "/s%2fup/mcp",
        "/s%2Fup/mcp",
        "/s/up%2fmcp",
        "/%2fmcp",
        "/mcp%2f",
        "/s%5cup/mcp",
        "/s%5Cup/mcp",
        "/mcp%00",
        "/%00/mcp",
        "/mcp%0d%0ax: y",
        "/mcp%0a",
        "/s/up/../up/mcp",
        "/../mcp",
        "/mcp/..",
        "/s/./up/mcp",
        "/./mcp",
        "/mcp/.",
        "/%2e%2e/mcp",
        "/s/%2e/up/mcp",
        "/s/.%2e/mcp",
        "/mcp%2e",
        "//mcp",
        "/s//up/mcp",
        "/mcp//",
        "/s\\up\\mcp",
        "/mcp\\",
        "/mcp;x=y",
        "/s;x/up/mcp",
        "/mcp%3bx",
        "/%252fmcp",
        "/mcp%",
        "/mcp%2",
        "/mcp%zz",
        "/mcp#x",
        "/mcp?a#b",
        "/mcp?%",
        "/mcp{x}",
        "/caf\u{e9}",
    ] {
        for target in [path.to_owned(), gateway.url(path)] {
            let mut wire = Wire::to(gateway.address);
            wire.send(&[call().at(&target).bytes(&gateway), call().bytes(&gateway)].concat());
            let answer = wire.response();
            assert_eq!((answer.status(), answer.field("connection")), (400, "close"), "{target}");
            wire.close_half();
            assert!(wire.at_end(PATIENCE), "{target}");
        }
    }
    // Not ambiguous, and nowhere: no case is folded, nothing is decoded, nothing left out.
    for path in ["/MCP", "/%6dcp", "/mcp/", "/mcp%20", "/s/UP/mcp", "/s/up", "/s/none/mcp", "/mcp/x", "/admin", "/"] {
        assert_eq!(call().at(path).to(&gateway).status(), 404, "{path}");
    }
    assert_eq!(upstream.calls().len(), before);
    for target in ["/mcp", "/s/up/mcp", "/mcp?", "/mcp?x=/../;%2f//", "/s/up/mcp?token=t"] {
        for target in [target.to_owned(), gateway.url(target)] {
            let post = Post::call("echo")
                .token(&gateway.token_for(&Who::default(), &[&gateway.url("/mcp"), &gateway.url("/s/up/mcp")]));
            let post = post.at(&target);
            post.echoed(&gateway);
            let seen = upstream.wait("the call", |seen| seen.value() == post.value);
            assert_eq!((seen.target.as_str(), seen.field("host")), ("/mcp", upstream.address().to_string().as_str()));
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [O3] A page that is not on the list is turned away before anything else is looked at, and so is a host.
#[test]
fn origins() {
    let (gateway, upstream, token) = house("deny");
    let port = gateway.address.port();
    let before = upstream.calls().len();
    let origins: Vec<String> = [
        "null",
        "",
        "*",
        "http://evil.example",
        "http://127.0.0.1",
        "http://localhost",
        "https://localhost:PORT",
        "http://localhost:PORT.evil.example",
        "http://localhost:PORT/",
        "http://localhost:PORT/mcp",
        "http://user@localhost:PORT",
        "http://localhost:PORT, http://evil.example",
        "http://localhost:PORT http://evil.example",
        "localhost:PORT",
        "http://evil.example#http://localhost:PORT",
        "http://[::1]",
        "http://0.0.0.0:PORT",
        "http://127.1:PORT",
        "file://",
        "chrome-extension://abcdef",
        "http://localhost:PORT\u{e9}",
    ]
    .iter()
    .map(|origin| origin.replace("PORT", &port.to_string()))
    .collect();
    let refused = |answer: &Response, shown: &str| {
        assert_eq!((answer.status(), answer.field("connection")), (403, "close"), "{shown}");
        assert_eq!(
            (answer.field("www-authenticate"), answer.field("access-control-allow-origin")),
            ("", ""),
            "{shown}"
        );
    };
    for origin in &origins {
        // The reason is the origin alone, whatever else is wrong.
        for post in [
            Post::call("echo").token(&token),
            Post::call("echo"),
            Post::call("echo").token("bad"),
            Post::call("echo").token(&token).at("/none"),
            Post::call("echo").token(&token).at(METADATA),
            Post::call("echo").token(&token).without("content-type"),
            Post::call("echo").token(&token).body("{"),
        ] {
            refused(&post.field("origin", origin).to(&gateway), origin);
        }
        for method in ["GET", "OPTIONS", "DELETE", "PUT"] {
            let request = format!("{method} /mcp HTTP/1.1\r\nhost: {}\r\norigin: {origin}\r\n\r\n", gateway.address);
            refused(&Wire::to(gateway.address).ask(request.as_bytes()), origin);
        }
    }
    // Two lines, even of one that is on the list.
    let good = format!("http://localhost:{port}");
    for (first, second) in
        [("null", "null"), (good.as_str(), "null"), ("null", good.as_str()), (good.as_str(), good.as_str())]
    {
        let post = Post::call("echo").token(&token).field("origin", first).field("Origin", second);
        refused(&post.to(&gateway), first);
    }
    assert_eq!(upstream.calls().len(), before);
    for origin in [good, format!("http://127.0.0.1:{port}"), format!("HTTP://LOCALHOST:{port}")] {
        Post::call("echo").token(&token).field("origin", &origin).echoed(&gateway);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [O3] A host that is not on the list is nobody's here, however well its name resolves to us.
#[test]
fn hosts() {
    let (gateway, upstream, token) = house("deny");
    let port = gateway.address.port();
    let before = upstream.calls().len();
    let with_host = |host: &str| {
        let post = Post::call("echo").token(&token);
        let text = String::from_utf8_lossy(&post.bytes(&gateway)).into_owned();
        let text = text.replacen(&format!("host: {}", gateway.address), &format!("host: {host}"), 1);
        (post, Wire::to(gateway.address).ask(text.as_bytes()))
    };
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        "127.0.0.1".into(),
        "localhost".into(),
        "127.0.0.1:1".into(),
        format!("0.0.0.0:{port}"),
        format!("127.1:{port}"),
        format!("localhost.:{port}"),
        format!("localhost.evil.example:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        let (_, answer) = with_host(&host);
        assert_eq!((answer.status(), answer.field("connection")), (403, "close"), "{host}");
        // An absolute target does not help.
        let post = Post::call("echo").token(&token).at(&format!("http://{host}/mcp"));
        assert_eq!(post.to(&gateway).status(), 400, "{host}");
    }
    assert_eq!(upstream.calls().len(), before);
    for host in
        [format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("LocalHost:{port}"), format!("[::1]:{port}")]
    {
        let (post, answer) = with_host(&host);
        post.is_echoed(&answer);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [O5] What is for operators is not here, and nothing there is for clients; no field, method or key opens a side door.
#[test]
fn no_side_doors() {
    let (gateway, upstream, token) = house("deny");
    let before = upstream.calls().len();
    for path in
        ["/healthz", "/readyz", "/status", "/metrics", "/admin", "/reload", "/debug/pprof", "/.well-known/", "/config"]
    {
        for method in ["GET", "POST", "HEAD"] {
            let request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.address);
            let mut wire = Wire::to(gateway.address);
            wire.send(request.as_bytes());
            assert_eq!(wire.head().expect("an answer").status, 404, "{method} {path}");
        }
    }
    for (name, value) in [
        ("x-original-url", "/healthz"),
        ("x-rewrite-url", "/healthz"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "localhost"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
        ("x-http-method-override", "GET"),
        ("x-method-override", "GET"),
        ("x-api-key", "admin"),
        ("x-debug", "1"),
        ("x-admin", "1"),
        ("portcullis-admin", "1"),
        ("x-portcullis-internal", "1"),
        ("cookie", "admin=1"),
        ("via", "portcullis"),
        ("user-agent", concat!("portcullis/", env!("CARGO_PKG_VERSION"))),
    ] {
        let answer = Post::call("echo").field(name, value).to(&gateway);
        assert_eq!(answer.status(), 401, "{name}");
        let answer = Post::call("hidden").token(&token).field(name, value).to(&gateway);
        assert_eq!(answer.json()["error"]["code"], -32_602, "{name}: {}", answer.text());
    }
    assert_eq!(upstream.calls().len(), before);
    let ask = |request: String| Wire::to(gateway.admin).ask(request.as_bytes());
    let get = |path: &str| ask(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.admin));
    let state = || {
        let mut status = get("/status").json();
        // Time goes by, and the question itself is work.
        status["servers"][0]["catalog"]["age_ms"].take();
        status["issuers"][0]["keys"]["age_ms"].take();
        status["overhead_us"].take();
        status["shards"].take();
        status["happened"].take();
        assert_eq!(status["servers"][0]["known"], true, "{status:#}");
        status
    };
    let before = (upstream.calls().len(), state());
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "SET"] {
        for path in ["/healthz", "/readyz", "/status", "/metrics", "/mcp", "/reload", "/drain", "/policy"] {
            let answer =
                ask(format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n", gateway.admin));
            // An order without the token is nobody's.
            let order = method == "POST" && matches!(path, "/reload" | "/drain");
            let wanted: &[u16] = if order { &[401] } else { &[400, 404, 405] };
            assert!(wanted.contains(&answer.status()), "{method} {path}: {}", answer.status());
        }
    }
    for path in ["/mcp", "/s/up/mcp", "/policy", "/reload", "/config", METADATA, "/healthz/../mcp"] {
        assert!([400, 404, 405].contains(&get(path).status()), "{path}");
    }
    let calls = Wire::to(gateway.admin).ask(&Post::call("echo").token(&token).bytes(&gateway));
    assert!([400, 404, 405].contains(&calls.status()));
    assert_eq!((upstream.calls().len(), state()), before, "nothing was changed");
    Post::call("echo").token(&token).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}
