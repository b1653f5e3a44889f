//! Traces, as a collector gets them: what a message's spans say, whose children they are, what goes on to the server, and
//! that what is not recorded goes as it came.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::collector::{Collector, Seen as Span};
use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::mcp::{LEGACY, MODERN, Post, fresh, open_session, tools};
use crate::support::program::Program;
use crate::support::upstream::{Acted, Plan, Reserved, Seen, Upstream, said};

/// The caller's own span.
const SPAN: &str = "b7ad6b7169203331";
/// Another's, of the hop.
const HOP_SPAN: &str = "00f067aa0ba902b7";

fn traced(collector: &Collector, upstream: &Upstream) -> Setup {
    Setup::new().server("up", &upstream.url()).set("/telemetry", collector.settings())
}

fn parent(trace: &str, flags: &str) -> Value {
    json!(format!("00-{trace}-{SPAN}-{flags}"))
}

/// With a context of its own beside that of the hop; the trace that it is of.
fn inside(post: Post) -> (Post, String) {
    let trace = fresh();
    (post.param("/_meta/traceparent", parent(&trace, "01")), trace)
}

/// What every span of one message has in common.
#[track_caller]
fn is_family(spans: &[Span], trace: &str, parent: &str) {
    let server = &spans[0];
    assert!(server.is_server(), "{server:#?}");
    assert_eq!((server.trace(), server.parent()), (trace.to_owned(), parent.to_owned()));
    for client in &spans[1..] {
        assert!(!client.is_server(), "{client:#?}");
        assert_eq!((client.trace(), client.parent()), (trace.to_owned(), server.id()));
        let of = |span: &Span| (span.span.start_time_unix_nano, span.span.end_time_unix_nano);
        let ((begun, ended), (sent, answered)) = (of(server), of(client));
        assert!(begun <= sent && sent <= answered && answered <= ended, "{spans:#?}");
    }
    assert!(
        spans.iter().all(|span| span.resource.iter().any(|it| *it == ("service.name".into(), "portcullis".into())))
    );
}

#[track_caller]
fn says(span: &Span, want: &[(&str, &str)]) {
    for (key, value) in want {
        assert_eq!(span.get(key), *value, "{key}: {span:#?}");
    }
}

/// A call with contexts of its own and of its hop: who its parent is, what its server is told, what its record says.
#[test]
fn a_call_has_a_span_for_each_side() {
    let (collector, upstream) = (Collector::start(), Plan::tools(&["echo"]).start());
    let gateway = traced(&collector, &upstream).open().start();
    let (post, trace) = inside(Post::call("echo").id(3));
    let post = post.param("/_meta/tracestate", json!("a=1")).param("/_meta/x~1y", json!({ "k": [1] }));
    let post = post.field("tracestate", "b=2");
    post.echoed(&gateway);
    let spans = collector.trace(&trace, 2);
    is_family(&spans, &trace, SPAN);
    let (server, client) = (&spans[0], &spans[1]);
    assert_eq!(server.links(), [(post.value.clone(), HOP_SPAN.to_owned())], "the hop's context is a link");
    assert_eq!([&*server.span.name, &*client.span.name], ["tools/call echo"; 2]);
    assert_eq!([&*server.span.trace_state, &*client.span.trace_state], ["a=1"; 2]);
    let common = [
        ("mcp.method.name", "tools/call"),
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", "echo"),
        ("jsonrpc.request.id", "3"),
        ("mcp.protocol.version", MODERN),
        ("network.transport", "tcp"),
        ("network.protocol.name", "http"),
        ("network.protocol.version", "1.1"),
        ("portcullis.target", "up"),
    ];
    says(server, &common);
    says(client, &common);
    says(server, &[("mcp.session.id", "")]);
    let records = gateway.records_until("the outcome", |records| records.len() > 1);
    let decision = records.iter().find(|it| it["trace"] == json!(trace)).expect("its record has its trace's id");
    says(
        server,
        &[
            ("client.address", "127.0.0.1"),
            ("portcullis.route", "/mcp"),
            ("portcullis.decision", "permit"),
            ("portcullis.decision.reason", "permit"),
            ("portcullis.policy.ids", "open"),
            ("portcullis.policy.set", decision["policy"].as_str().unwrap_or_default()),
            ("portcullis.audit.seq", &decision["seq"].to_string()),
            ("portcullis.audit.shard", &decision["shard"].to_string()),
        ],
    );
    let address = upstream.address();
    says(
        client,
        &[
            ("server.address", "127.0.0.1"),
            ("server.port", &address.port().to_string()),
            ("portcullis.upstream.attempt", "1"),
        ],
    );
    assert_eq!(client.keys(), OF_A_TRY, "nothing else is told of a try");
    assert!(!server.is_error() && !client.is_error());
    goes_on(&upstream, &post, &trace, client);
}

/// What is told of a try of a modern tool call at a server with an address.
const OF_A_TRY: [&str; 12] = [
    "gen_ai.operation.name",
    "gen_ai.tool.name",
    "jsonrpc.request.id",
    "mcp.method.name",
    "mcp.protocol.version",
    "network.protocol.name",
    "network.protocol.version",
    "network.transport",
    "portcullis.target",
    "portcullis.upstream.attempt",
    "server.address",
    "server.port",
];

/// What the server is told: the same call, in the try's own context.
#[track_caller]
fn goes_on(upstream: &Upstream, post: &Post, trace: &str, client: &Span) {
    let seen = upstream.wait("the call", |seen| seen.calls("echo"));
    let told = format!("00-{trace}-{}-01", client.id());
    let mut want: Value = serde_json::from_slice(&post.body_bytes()).expect("JSON");
    want["params"]["_meta"]["traceparent"] = json!(told);
    assert_eq!(seen.message, want);
    assert_eq!((seen.field("traceparent"), seen.field("tracestate")), (told.as_str(), "a=1"));
}

/// In the handshake era there is a session, which is told by a digest; each message has its spans.
#[test]
fn sessions_have_their_digests() {
    let (collector, upstream) = (Collector::start(), Plan::tools(&["echo"]).start());
    let gateway = traced(&collector, &upstream).open().start();
    let shaken = fresh();
    let session = open_session(&gateway, |post| {
        if post.tells_of_itself() { post.param("/_meta/traceparent", parent(&shaken, "01")) } else { post }
    });
    let hand = collector.trace(&shaken, 2);
    is_family(&hand, &shaken, SPAN);
    says(&hand[0], &[("mcp.method.name", "initialize"), ("mcp.session.id", ""), ("jsonrpc.request.id", "init")]);
    let posts = [Post::legacy_call(&session, "echo"), Post::legacy_call(&session, "echo")];
    let all: Vec<Vec<Span>> = posts
        .iter()
        .map(|post| {
            post.echoed(&gateway);
            // The hop's context is the parent where there is no other.
            let spans = collector.trace(&post.value, 2);
            is_family(&spans, &post.value, HOP_SPAN);
            assert!(spans[0].links().is_empty());
            spans
        })
        .collect();
    let ids: Vec<String> = all.iter().flatten().map(|span| span.get("mcp.session.id")).collect();
    assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
    assert_eq!((&ids[0], &ids[1]), (&ids[2], &ids[3]));
    assert_ne!(ids[0], ids[1], "the server's session is another one");
    assert_eq!(all[0][0].get("mcp.protocol.version"), LEGACY);
    let written = format!("{:?}", collector.spans());
    let secret = session.get(..24).expect("a session id is longer");
    assert!(!written.contains(secret) && upstream.sessions().iter().all(|id| !written.contains(id)));
    // Notifications have none.
    let told = fresh();
    let cancelled = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": { "requestId": 99, "_meta": { "traceparent": parent(&told, "01") } } });
    Post::tell(&session, cancelled).to(&gateway);
    Post::legacy_call(&session, "echo").echoed(&gateway);
    let last = Post::legacy_call(&session, "echo");
    last.echoed(&gateway);
    collector.trace(&last.value, 2);
    assert!(collector.spans().iter().all(|span| span.trace() != told));
}

/// What is not recorded goes as it came: whatever its caller says, and whatever its share is.
#[test]
fn what_is_not_recorded_goes_byte_for_byte() {
    let (collector, upstream) = (Collector::start(), Plan::tools(&["echo"]).start());
    let mut settings = collector.settings();
    settings["traces"] = json!(0);
    settings["baggage"] = json!(["tenant"]);
    let gateway = traced(&collector, &upstream).set("/telemetry", settings).open().start();
    let hop = |post: Post, trace: &str| {
        post.without("traceparent").field("traceparent", &format!("00-{trace}-{HOP_SPAN}-00"))
    };
    let sent = |post: &Post| {
        let answer = post.to(&gateway);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let value = post.value.clone();
        upstream.wait("the call", |seen| seen.value() == value)
    };
    let meta = "{ \"traceparent\" : \"not one\",\"tracestate\":[1.0E0],\"io.modelcontextprotocol/protocolVersion\":\
                \"2026-07-28\", \"baggage\":\"tenant=1 , tenant=2\",\
                \"io.modelcontextprotocol/clientCapabilities\":{ } }";
    let body = |value: &str, meta: &str| {
        format!(
            " {{\"params\" :{{\"_meta\":{meta},\"name\":\"echo\",\"arguments\":{{\"value\":\"{value}\"}}}},\
             \"id\":1,\"method\":\"tools/call\",\"jsonrpc\":\"2.0\"}} "
        )
    };
    let post = Post::call("echo");
    let text = body(&post.value, meta);
    let trace = fresh();
    let seen = sent(&hop(post, &trace).field("tracestate", "b=2").field("baggage", "a=b").body(text.clone()));
    assert_eq!(String::from_utf8_lossy(&seen.body), text);
    assert_eq!(seen.field("traceparent"), format!("00-{trace}-{HOP_SPAN}-00"));
    assert_eq!((seen.field("tracestate"), seen.field("baggage")), ("b=2", ""));
    // Nothing is added where there was nothing.
    let plain = Post::call("echo").without("traceparent");
    let seen = sent(&plain);
    assert_eq!(seen.body, plain.body_bytes());
    assert_eq!((seen.field("traceparent"), seen.field("tracestate")), ("", ""));
    // But what must not leave does not.
    let post = Post::call("echo");
    let leaks = body(&post.value, &meta.replace("tenant=2", "user=ada"));
    let seen = sent(&hop(post, &fresh()).field("baggage", "tenant=7,user=ada").body(leaks));
    assert_eq!(seen.message["params"]["_meta"]["baggage"], "tenant=1 ");
    assert_eq!(seen.message["params"]["_meta"]["traceparent"], "not one");
    assert_eq!(seen.field("baggage"), "tenant=7");
    let long = Post::call("echo").param("/_meta/tracestate", json!("x".repeat(9_000)));
    let seen = sent(&hop(long.clone(), &fresh()).field("tracestate", "b=2"));
    assert_eq!((&seen.message["params"]["_meta"]["tracestate"], seen.field("tracestate")), (&Value::Null, "b=2"));
    // A recorded one shows that the others are not on their way.
    let recorded = Post::call("echo");
    recorded.echoed(&gateway);
    assert_eq!(collector.trace(&recorded.value, 2).len(), collector.spans().len(), "{:#?}", collector.spans());
    assert_eq!(gateway.counted("trace_contexts_malformed"), 2);
    assert!(gateway.counted("baggage_cut") >= 2 && gateway.counted("trace_states_too_long") == 1);
}

/// What goes wrong has a word, on the side where it did.
#[test]
fn failures_are_told_apart() {
    let upstream = Plan::tools(&["fails", "errs", "hangs", "cuts"])
        .script(|seen, out| {
            match seen.name() {
                "fails" => {
                    let mut answer = said(seen, "no");
                    answer["result"]["isError"] = json!(true);
                    out.json(200, "", &answer);
                }
                "errs" => {
                    let error = json!({ "code": -32602, "message": "secret words" });
                    out.json(200, "", &json!({ "jsonrpc": "2.0", "id": seen.id(), "error": error }));
                }
                "hangs" => out.pass("never"),
                "cuts" => out.close(),
                _ => return Acted::Default,
            }
            Acted::Done
        })
        .start();
    let collector = Collector::start();
    let gateway = traced(&collector, &upstream).set("/servers/up/timeout", json!("1s")).open().start();
    let check = |tool: &str, word: &str, codes: [&str; 2]| {
        let post = Post::call(tool);
        post.to(&gateway);
        let spans = collector.trace(&post.value, 2);
        is_family(&spans, &post.value, HOP_SPAN);
        for (span, code) in spans.iter().zip(codes) {
            says(span, &[("error.type", word), ("rpc.response.status_code", code), ("gen_ai.tool.name", tool)]);
            assert!(span.is_error(), "{tool}: {span:#?}");
        }
    };
    check("fails", "tool_error", ["", ""]);
    check("errs", "-32602", ["-32602", "-32602"]);
    check("hangs", "timeout", ["-32603", ""]);
    check("cuts", "cut", ["-32603", ""]);
    upstream.open("never");
    assert!(!format!("{:?}", collector.spans()).contains("secret words"));
}

/// A URI's user info, query and fragment may be secrets: neither span has them, permitted or not.
#[test]
fn uris_are_told_without_secrets() {
    let (collector, upstream) = (Collector::start(), Plan::tools(&["echo"]).start());
    let rule = json!({ "id": "notes", "permit": ["up!resource:note://*"] });
    let gateway = traced(&collector, &upstream).rule(rule).start();
    for (uri, want, spans) in [
        ("note://open?sig=planted#planted", "note://open", 2),
        ("file://ana:planted@shut/x?planted", "file://shut/x", 1),
    ] {
        let (post, trace) = inside(Post::modern("resources/read", json!({ "uri": uri })));
        post.to(&gateway);
        let spans = collector.trace(&trace, spans);
        spans.iter().for_each(|span| says(span, &[("mcp.resource.uri", want)]));
        assert!(!format!("{spans:?}").contains("planted"), "{spans:#?}");
    }
}

/// A client that leaves cancels a modern call.
#[test]
fn a_cancelled_call_says_so() {
    let upstream = Plan::tools(&["hangs"])
        .script(|seen, out| {
            if !seen.calls("hangs") {
                return Acted::Default;
            }
            out.pass("never");
            Acted::Done
        })
        .start();
    let collector = Collector::start();
    let gateway = traced(&collector, &upstream).open().start();
    let post = Post::call("hangs");
    let wire = post.begin(&gateway);
    upstream.wait("the call", |seen| seen.calls("hangs"));
    drop(wire);
    let spans = collector.trace(&post.value, 2);
    for span in &spans {
        says(span, &[("error.type", "cancelled")]);
    }
    upstream.open("never");
}

/// A refusal is told with what it was decided by, and goes nowhere.
#[test]
fn a_refusal_has_one_span() {
    let (collector, upstream) = (Collector::start(), Plan::tools(&["echo", "wipe"]).start());
    let gateway = traced(&collector, &upstream)
        .tokens("deny")
        .task("research")
        .rule(json!({ "id": "all", "permit": ["*/*"] }))
        .rule(json!({ "id": "never", "forbid": ["up/wipe"] }))
        .start();
    let token = gateway.token(&Who { tasks: &["research"], ..Who::default() });
    let refused = |post: Post| {
        let trace = post.value.clone();
        post.token(&token).to(&gateway);
        let spans = collector.trace(&trace, 1);
        is_family(&spans, &trace, HOP_SPAN);
        spans.into_iter().next().expect("there is one")
    };
    let post = Post::call("wipe").field("portcullis-task", "research");
    let trace = post.value.clone();
    let denied = refused(post);
    says(
        &denied,
        &[
            ("portcullis.decision", "refuse"),
            ("portcullis.decision.reason", "forbid"),
            ("portcullis.policy.ids", "never"),
            ("portcullis.task.id", "research"),
            ("gen_ai.tool.name", "wipe"),
            ("portcullis.target", "up"),
        ],
    );
    assert!(denied.is_error() && !denied.get("error.type").is_empty(), "{denied:#?}");
    let records = gateway.records_until("the refusal", |records| records.iter().any(|it| it["trace"] == json!(trace)));
    let record = records.iter().find(|it| it["trace"] == json!(trace)).expect("it was there");
    assert_eq!(
        (record["verdict"].as_str(), record["seq"].to_string()),
        (Some("refuse"), denied.get("portcullis.audit.seq"))
    );
    // What no catalogue has is not named, by nobody.
    let unknown = refused(Post::call("gibberish-7"));
    says(
        &unknown,
        &[("gen_ai.tool.name", ""), ("portcullis.tool.unresolved", "true"), ("mcp.method.name", "tools/call")],
    );
    assert_eq!(unknown.span.name, "tools/call");
    let strange = Post::modern("made/up-9", json!({})).field("traceparent", &format!("00-{}-{HOP_SPAN}-01", fresh()));
    let trace = fresh();
    strange.param("/_meta/traceparent", parent(&trace, "01")).token(&token).to(&gateway);
    let spans = collector.trace(&trace, 1);
    says(&spans[0], &[("mcp.method.name", "_OTHER"), ("error.type", "-32601"), ("rpc.response.status_code", "-32601")]);
    assert!(!format!("{:?}", collector.spans()).contains("gibberish-7"));
    // Whoever counts errors may leave these out.
    gateway.configure(|config| config["telemetry"]["denial_is_error"] = json!(false));
    gateway.reload();
    let denied = refused(Post::call("wipe"));
    assert!(!denied.is_error() && !denied.get("error.type").is_empty(), "{denied:#?}");
    assert!(upstream.calls().is_empty(), "nothing of it went anywhere");
}

/// Several servers: a list is answered from the catalogue although one of them is gone, a call goes to one of them by
/// its own name, and a stream to all.
#[test]
fn several_servers_have_a_span_each() {
    let collector = Collector::start();
    let (docs, mail) = (Plan::tools(&["echo"]).start(), Plan::tools(&["send"]).start());
    let gone = Reserved::new();
    let gateway = Setup::new()
        .server("docs", &docs.url())
        .server("mail", &mail.url())
        .server("gone", &gone.url())
        .set("/telemetry", collector.settings())
        .open()
        .start();
    eventually("both are known", || tools(&gateway, |post| post).len() == 2);
    let (list, trace) = inside(Post::modern("tools/list", json!({})));
    let answer = list.to(&gateway).json();
    assert_eq!(answer["result"]["tools"].as_array().map(Vec::len), Some(2), "{answer}");
    let spans = collector.trace(&trace, 1);
    says(&spans[0], &[("mcp.method.name", "tools/list"), ("portcullis.cache.hit", "true"), ("portcullis.target", "")]);
    assert!(!spans[0].is_error(), "a list that lacks a part is a list");
    let call = Post::call("docs__echo");
    call.echoed(&gateway);
    let spans = collector.trace(&call.value, 2);
    is_family(&spans, &call.value, HOP_SPAN);
    assert_eq!([&*spans[0].span.name, &*spans[1].span.name], ["tools/call docs__echo", "tools/call echo"]);
    says(&spans[0], &[("portcullis.target", "docs"), ("portcullis.cache.hit", "")]);
    let wanted = json!({ "resourceSubscriptions": ["note://open"] });
    let (listen, trace) = inside(Post::modern("subscriptions/listen", json!({ "notifications": wanted })).id("s"));
    let mut events = listen.param("/_meta/baggage", json!("user=ada")).stream(&gateway);
    events.message();
    let of_it = |seen: &Seen| seen.method() == "subscriptions/listen" && seen.field("traceparent").contains(&trace);
    let heard = || [&docs, &mail].into_iter().find_map(|server| server.seen().into_iter().find(of_it));
    eventually("a server is asked for its part", || heard().is_some());
    let heard = heard().expect("it was");
    drop(events);
    let spans = collector.trace(&trace, 2);
    is_family_of_stream(&spans, &trace);
    let told = format!("00-{trace}-{}-01", spans[1].id());
    assert_eq!(heard.message["params"]["_meta"]["traceparent"], json!(told));
    assert_eq!((heard.field("traceparent"), &heard.message["params"]["_meta"]["baggage"]), (&*told, &Value::Null));
}

/// In the handshake era each server has a session of its own, which is opened by the first message that needs it.
#[test]
fn an_opened_session_has_a_span() {
    let collector = Collector::start();
    let (docs, mail) = (Plan::tools(&["echo"]).start(), Plan::tools(&["send"]).start());
    let servers = Setup::new().server("docs", &docs.url()).server("mail", &mail.url());
    let gateway = servers.set("/telemetry", collector.settings()).open().start();
    eventually("both are known", || tools(&gateway, |post| post).len() == 2);
    let session = open_session(&gateway, |post| post);
    let (first, second) = (Post::legacy_call(&session, "docs__echo"), Post::legacy_call(&session, "docs__echo"));
    first.echoed(&gateway);
    let spans = collector.trace(&first.value, 3);
    is_family(&spans, &first.value, HOP_SPAN);
    let names: Vec<&str> = spans.iter().map(|span| &*span.span.name).collect();
    assert_eq!(names, ["tools/call docs__echo", "initialize", "tools/call echo"]);
    says(&spans[1], &[("portcullis.target", "docs"), ("jsonrpc.request.id", ""), ("portcullis.upstream.attempt", "")]);
    second.echoed(&gateway);
    collector.trace(&second.value, 2);
}

/// Notifications are recorded where their own share says so, and have no id.
#[test]
fn notifications_have_a_share_of_their_own() {
    let (collector, upstream) = (Collector::start(), Plan::tools(&["echo"]).start());
    let mut settings = collector.settings();
    settings["notification_traces"] = json!(1);
    let gateway = traced(&collector, &upstream).set("/telemetry", settings).open().start();
    let session = open_session(&gateway, |post| post);
    let told = fresh();
    let changed = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed",
        "params": { "_meta": { "traceparent": parent(&told, "01") } } });
    assert_eq!(Post::tell(&session, changed.clone()).to(&gateway).status(), 202);
    let spans = collector.trace(&told, 2);
    is_family(&spans, &told, SPAN);
    for span in &spans {
        says(span, &[("mcp.method.name", "notifications/roots/list_changed"), ("jsonrpc.request.id", "")]);
    }
    // Its trace must be recorded too.
    let (quiet, last) = (fresh(), fresh());
    for (trace, flags) in [(&quiet, "00"), (&last, "01")] {
        let mut changed = changed.clone();
        changed["params"]["_meta"]["traceparent"] = parent(trace, flags);
        Post::tell(&session, changed).to(&gateway);
    }
    collector.trace(&last, 2);
    assert!(collector.spans().iter().all(|span| span.trace() != quiet));
}

/// A part of a stream may end after the stream.
#[track_caller]
fn is_family_of_stream(spans: &[Span], trace: &str) {
    assert_eq!((spans[0].trace(), spans[0].parent()), (trace.to_owned(), SPAN.to_owned()));
    says(&spans[0], &[("mcp.method.name", "subscriptions/listen"), ("portcullis.decision", "permit")]);
    for part in &spans[1..] {
        assert_eq!(part.parent(), spans[0].id());
        says(part, &[("mcp.method.name", "subscriptions/listen"), ("jsonrpc.request.id", "s"), ("error.type", "")]);
    }
}

/// What could not be sent to one instance goes to another: a span for each try.
#[test]
fn each_try_has_a_span() {
    let (collector, upstream) = (Collector::start(), Plan::tools(&["echo"]).start());
    let gone = Reserved::new();
    let gateway = Setup::new()
        .set("/servers/up", json!({ "urls": [gone.url(), upstream.url()], "health": { "failures": 1000 } }))
        .set("/telemetry", collector.settings())
        .open()
        .start();
    eventually("it is known", || tools(&gateway, |post| post).len() == 1);
    let mut tries = Vec::new();
    // Which instance a caller begins with is its own affair: a call of somebody's begins with the one that is gone.
    for _ in 0..3 {
        let call = Post::call("echo");
        call.echoed(&gateway);
        eventually("its spans are there", || {
            collector.spans().iter().any(|it| it.trace() == call.value && it.is_server())
        });
        let spans: Vec<Span> = collector.spans().into_iter().filter(|it| it.trace() == call.value).collect();
        tries.extend(spans.into_iter().filter(|it| !it.is_server()));
    }
    let of =
        |attempt: &str| tries.iter().filter(|it| it.get("portcullis.upstream.attempt") == attempt).collect::<Vec<_>>();
    assert_eq!(of("1").len(), 3);
    for second in of("2") {
        let first = of("1").into_iter().find(|it| it.trace() == second.trace()).expect("a second try has a first");
        says(first, &[("error.type", "unreachable")]);
        says(second, &[("error.type", ""), ("server.port", &upstream.address().port().to_string())]);
        assert_eq!(first.parent(), second.parent());
    }
}

/// A server that is a program is spoken to through a pipe.
#[test]
fn a_program_has_no_address() {
    let (collector, program) = (Collector::start(), Program::new().shared());
    let gateway =
        Setup::new().set("/servers/up", program.settings()).set("/telemetry", collector.settings()).open().start();
    let session = open_session(&gateway, |post| post);
    let call = Post::legacy_call(&session, "echo");
    let answer = call.to(&gateway);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let spans = collector.trace(&call.value, 2);
    says(
        &spans[1],
        &[("network.transport", "pipe"), ("network.protocol.name", ""), ("server.address", ""), ("server.port", "")],
    );
    says(&spans[0], &[("network.transport", "tcp"), ("network.protocol.name", "http")]);
}

/// At an edge that nobody trusts a caller joins no trace, and has none recorded.
#[test]
fn an_edge_begins_its_own_traces() {
    let (collector, upstream) = (Collector::start(), Plan::tools(&["echo"]).start());
    let mut settings = collector.settings();
    settings["trace_context"] = json!("link");
    let gateway = traced(&collector, &upstream).set("/telemetry", settings).open().start();
    let call = |gateway: &Gateway| {
        let (post, trace) = inside(Post::call("echo"));
        let (before, hop) = (collector.spans().len(), post.value.clone());
        post.param("/_meta/tracestate", json!("a=1")).echoed(gateway);
        eventually("it is recorded", || collector.spans().len() >= before + 2);
        let spans = collector.spans().split_off(before);
        let server = spans.iter().find(|it| it.is_server()).expect("one side").clone();
        assert!(server.trace() != trace && server.trace() != hop && server.parent().is_empty());
        let seen = upstream.wait("the call", |seen| seen.field("traceparent").contains(&server.trace()));
        assert_eq!(seen.message["params"]["_meta"]["tracestate"], Value::Null, "the state of another trace");
        (server, trace)
    };
    let (server, trace) = call(&gateway);
    assert_eq!(server.links().len(), 2);
    assert_eq!(server.links()[0], (trace, SPAN.to_owned()));
    gateway.configure(|config| config["telemetry"]["trace_context"] = json!("drop"));
    gateway.reload();
    let (server, _) = call(&gateway);
    assert!(server.links().is_empty());
    // Whoever says that its trace is recorded does not make it so.
    gateway.configure(|config| {
        config["telemetry"]["trace_context"] = json!("link");
        config["telemetry"]["traces"] = json!(0);
    });
    gateway.reload();
    let before = collector.spans().len();
    inside(Post::call("echo")).0.echoed(&gateway);
    // Longer than the plane lets spans wait.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(collector.spans().len(), before);
}
