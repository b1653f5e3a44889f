//! Batches of 2025-03-26: each message is decided on, recorded and sent by itself, and the answers come back as one.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{LEGACY, MODERN, Post, fresh, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Out, Plan, Seen, Upstream, progress, said};

/// The one revision that has them.
const V1: &str = "2025-03-26";

fn pair() -> (Gateway, Upstream) {
    house(|_, _| Acted::Default, |setup| setup)
}

/// A server with some tools that obeys `script`, and `hidden`, which no rule permits.
fn house(
    script: impl Fn(&Seen, &mut Out<'_>) -> Acted + Send + Sync + 'static,
    change: impl Fn(Setup) -> Setup,
) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo", "other", "hidden"]).script(script).start();
    let rule = json!({ "id": "some", "permit": ["up/echo", "up/other", "up!resource:*"] });
    let gateway = change(Setup::new().server("up", &upstream.url()).rule(rule)).start();
    (gateway, upstream)
}

/// Opens a session that speaks `revision`.
#[track_caller]
fn session_of(gateway: &Gateway, revision: &str) -> String {
    let answer = Post::initialize(revision).to(gateway);
    assert_eq!(answer.json()["result"]["protocolVersion"], revision, "{}", answer.text());
    let session = answer.field("mcp-session-id").to_owned();
    let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    assert_eq!(Post::tell(&session, told).without("mcp-protocol-version").to(gateway).status(), 202);
    session
}

/// A call with a fresh value, in its arguments and its trace.
fn call(id: impl Into<Value>, tool: &str) -> (Value, String) {
    let value = fresh();
    let meta = json!({ "traceparent": format!("00-{value}-00f067aa0ba902b7-01"), "progressToken": value });
    let params = json!({ "name": tool, "arguments": { "value": value }, "_meta": meta });
    (json!({ "jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": params }), value)
}

fn ask(id: u32, method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method })
}

fn tell(method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "method": method })
}

fn batch(session: &str, messages: &[Value]) -> Post {
    raw(session, Value::from(messages).to_string())
}

/// This body in that session, or in none.
fn raw(session: &str, body: impl Into<Vec<u8>>) -> Post {
    let post = Post::tell(session, Value::Null).without("mcp-protocol-version").body(body);
    if session.is_empty() { post.without("mcp-session-id") } else { post }
}

/// The answers of a batch that came as JSON.
#[track_caller]
fn answers(response: &Response) -> Vec<Value> {
    let told = (response.status(), response.field("content-type"));
    assert_eq!(told, (200, "application/json"), "{}", response.text());
    response.json().as_array().unwrap_or_else(|| panic!("no array: {}", response.text())).clone()
}

/// The id and the text of a tool's answer, or the code of an error.
fn short(answer: &Value) -> Value {
    match answer["error"]["code"].as_i64() {
        Some(code) => json!([answer["id"], code]),
        None => json!([answer["id"], text_of(answer)]),
    }
}

fn shorts(answers: &[Value]) -> Value {
    answers.iter().map(short).collect()
}

/// What the server has seen of the clients: without the plane's own questions, and without handshakes.
fn seen(upstream: &Upstream) -> Vec<Seen> {
    let plane = |seen: &Seen| seen.http != "POST" || seen.method().ends_with("/list") || seen.is_modern();
    let opening = |seen: &Seen| matches!(seen.method(), "initialize" | "server/discover" | "notifications/initialized");
    upstream.seen().into_iter().filter(|it| !plane(it) && !opening(it)).collect()
}

/// [E6] Each message has an exchange, a decision and a record of its own, one after the other; the answers are in the
/// order of the messages, and the connection carries the next request.
#[test]
fn messages_go_alone_and_come_back_together() {
    let (gateway, upstream) = pair();
    let session = session_of(&gateway, V1);
    let mut wire = Wire::to(gateway.address);
    for _ in 0..2 {
        let before = seen(&upstream).len();
        let (first, one) = call(1, "echo");
        let (last, two) = call("z", "other");
        let messages = [first, tell("notifications/roots/list_changed"), ask(2, "tools/list"), ask(3, "ping"), last];
        let got = answers(&wire.ask(&batch(&session, &messages).bytes(&gateway)));
        let ids: Vec<&Value> = got.iter().map(|answer| &answer["id"]).collect();
        assert_eq!(ids, [&json!(1), &json!(2), &json!(3), &json!("z")]);
        assert_eq!((text_of(&got[0]), text_of(&got[3])), (one.as_str(), two.as_str()));
        let tools: Vec<&Value> = got[1]["result"]["tools"].as_array().expect("a list").iter().collect();
        assert_eq!(tools.iter().map(|tool| &tool["name"]).collect::<Vec<_>>(), ["echo", "other"]);
        let sent: Vec<Seen> = seen(&upstream).split_off(before);
        let methods: Vec<&str> = sent.iter().map(Seen::method).collect();
        assert_eq!(methods, ["tools/call", "notifications/roots/list_changed", "ping", "tools/call"]);
        assert!(sent.iter().all(|it| it.message.is_object() && !it.field("mcp-session-id").is_empty()));
        assert_eq!(sent[0].body, messages[0].to_string().as_bytes(), "byte for byte as it stood in the array");
    }
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    let decisions: Vec<&Value> = oracle::of_kind(&records, "decision").filter(|it| it["tool"].is_string()).collect();
    assert_eq!(decisions.len(), 4, "{decisions:#?}");
    assert!(decisions.iter().all(|it| it["verdict"] == "permit" && it["protocol"] == V1), "{decisions:#?}");
}

/// [E6] Without a session and without a version it is that revision that is spoken, and with its name too.
#[test]
fn without_a_session() {
    let (gateway, upstream) = pair();
    for named in [false, true] {
        let (message, value) = call(7, "echo");
        let post = batch("", &[message]);
        let post = if named { post.field("mcp-protocol-version", V1) } else { post };
        assert_eq!(shorts(&answers(&post.to(&gateway))), json!([[7, value]]));
    }
    assert!(seen(&upstream).iter().all(|it| it.field("mcp-session-id").is_empty()));
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[track_caller]
fn refused(gateway: &Gateway, shown: &str, post: &Post, code: i64) {
    let answer = post.to(gateway);
    assert_eq!((answer.status(), &answer.json()["error"]["code"]), (400, &json!(code)), "{shown}: {}", answer.text());
}

/// [E6] No other revision has them, whether the session says so or the header.
#[test]
fn other_revisions_have_none() {
    let (gateway, upstream) = pair();
    let messages = [call(1, "echo").0, ask(2, "ping")];
    for revision in ["2024-11-05", "2025-06-18", LEGACY] {
        let session = session_of(&gateway, revision);
        refused(&gateway, revision, &batch(&session, &messages), -32_600);
        refused(&gateway, revision, &batch(&session, &messages).field("mcp-protocol-version", revision), -32_600);
        refused(&gateway, revision, &batch("", &messages).field("mcp-protocol-version", revision), -32_600);
    }
    let session = session_of(&gateway, V1);
    refused(&gateway, "modern", &batch("", &messages).field("mcp-protocol-version", MODERN), -32_600);
    refused(&gateway, "modern", &batch(&session, &messages).field("mcp-protocol-version", MODERN), -32_600);
    refused(&gateway, "unknown", &batch(&session, &messages).field("mcp-protocol-version", "1.0"), -32_600);
    let twice = batch("", &messages).field("mcp-protocol-version", V1).field("mcp-protocol-version", V1);
    refused(&gateway, "twice", &twice, -32_600);
    // What was negotiated holds, whatever a client with one fixed header sends.
    let fixed = batch(&session, &[ask(2, "ping")]).field("mcp-protocol-version", LEGACY);
    assert_eq!(answers(&fixed.to(&gateway)).len(), 1);
    assert_eq!(upstream.calls().len(), 0);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E6] So many messages and no more; none at all where the operator wants none.
#[test]
fn batches_have_a_bound() {
    let of = |count: u32| (1..=count).map(|id| ask(id, "ping")).collect::<Vec<_>>();
    let (gateway, _upstream) = pair();
    assert_eq!(answers(&batch("", &of(64)).to(&gateway)).len(), 64);
    refused(&gateway, "65", &batch("", &of(65)), -32_600);
    let (gateway, _upstream) = house(|_, _| Acted::Default, |setup| setup.set("/limits/batch", json!(3)));
    assert_eq!(answers(&batch("", &of(3)).to(&gateway)).len(), 3);
    refused(&gateway, "4 of 3", &batch("", &of(4)), -32_600);
    let (gateway, _upstream) = house(|_, _| Acted::Default, |setup| setup.set("/limits/batch", json!(0)));
    refused(&gateway, "1 of none", &batch("", &of(1)), -32_600);
    refused(&gateway, "empty", &raw("", "[]"), -32_600);
}

/// [E6] What is no batch is refused as a whole, and nothing of it reaches the server.
#[test]
fn what_is_no_batch() {
    let (gateway, upstream) = pair();
    let session = session_of(&gateway, V1);
    let (one, _) = call(1, "echo");
    let answer = json!({ "jsonrpc": "2.0", "id": 5, "result": {} });
    let opening = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": V1, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    for (body, code) in [
        ("[]".to_owned(), -32_600),
        (" [ \n] ".to_owned(), -32_600),
        (format!("[{one},1]"), -32_600),
        (format!("[{one},null]"), -32_600),
        (format!("[{one},[{one}]]"), -32_600),
        (format!("[{one},{answer}]"), -32_600),
        (format!("[{answer},{}]", tell("notifications/initialized")), -32_600),
        (format!("[{opening},{one}]"), -32_600),
        (format!("[{one},{opening}]"), -32_600),
        (format!("[{one},]"), -32_700),
        (format!("[{one} {one}]"), -32_700),
        (format!("[{one}"), -32_700),
        (format!("[{one}]]"), -32_700),
        (format!("[{one}][{one}]"), -32_700),
        (format!("[{one},{{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":tru}}]"), -32_700),
        (format!("[{one},{{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"\\ud800\"}}]"), -32_700),
        (format!("[{one},{}1{}]", "{\"x\":".repeat(65), "}".repeat(65)), -32_600),
        ("[".repeat(100_000), -32_600),
    ] {
        refused(&gateway, &body[..body.len().min(400)], &raw(&session, body.clone()), code);
    }
    assert_eq!(upstream.calls().len(), 0);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E6] A message that is refused has its error in its place, and the others go on.
#[test]
fn one_is_refused_and_the_others_go_on() {
    let (gateway, upstream) = pair();
    let session = session_of(&gateway, V1);
    let ((first, one), (hidden, secret), (last, two)) = (call(1, "echo"), call(2, "hidden"), call(9, "other"));
    let (mut modern, _) = call(6, "echo");
    modern["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
    let twin = call(4, "echo").0.to_string().replace("\"method\"", "\"Method\":\"ping\",\"method\"");
    let body = format!(
        "[{first},{hidden},{{\"foo\":1}},{},{twin},{},{modern},{last}]",
        ask(3, "no/such"),
        json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": { "name": 7 } }),
    );
    let got = answers(&raw(&session, body).to(&gateway));
    let want = json!([
        [1, one],
        [2, -32_602],
        [null, -32_600],
        [3, -32_601],
        [4, -32_600],
        [5, -32_602],
        [6, got[6]["error"]["code"]],
        [9, two]
    ]);
    assert_eq!(shorts(&got), want);
    assert!(got[6]["error"]["code"].is_i64(), "no message of a batch is modern: {}", got[6]);
    assert!(got[2]["id"].is_null() && got[2].get("id").is_some());
    assert_eq!(upstream.calls().len(), 2);
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::decision(&records, &secret)["verdict"], "refuse");
}

/// [E6] Two requests of one batch have two ids; the second that has the first's is not executed.
#[test]
fn ids_differ() {
    let (gateway, upstream) = pair();
    let session = session_of(&gateway, V1);
    let ((first, one), (again, _), (text, two)) = (call("a", "echo"), call("a", "echo"), call("1", "echo"));
    let (number, three) = call(1, "echo");
    let spelt = again.to_string().replace("\"id\":\"a\"", "\"id\":\"\\u0061\"");
    let got = answers(&raw(&session, format!("[{first},{spelt},{again},{text},{number}]")).to(&gateway));
    let want = json!([["a", one], ["a", -32_600], ["a", -32_600], ["1", two], [1, three]]);
    assert_eq!(shorts(&got), want);
    assert_eq!(upstream.calls().len(), 3);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E5] [E6] An id that another request of the session has under way is taken.
#[test]
fn an_id_under_way_is_taken() {
    let (gateway, upstream) = house(
        |seen, out| {
            if seen.calls("other") {
                out.pass("go");
            }
            Acted::Default
        },
        |setup| setup,
    );
    let session = session_of(&gateway, V1);
    let slow = Post::legacy_call(&session, "other").id(1);
    let mut wire = slow.begin(&gateway);
    upstream.wait("the call", |seen| seen.calls("other"));
    let ((mine, _), (free, value)) = (call(1, "echo"), call(2, "echo"));
    let got = answers(&batch(&session, &[mine, free]).to(&gateway));
    assert_eq!(shorts(&got), json!([[1, -32_600], [2, value]]));
    upstream.open("go");
    slow.is_echoed(&wire.response());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E6] Where nothing waits to be answered, 202; and a 4xx where nothing was taken.
#[test]
fn nothing_to_answer() {
    let (gateway, upstream) = pair();
    let session = session_of(&gateway, V1);
    let before = seen(&upstream).len();
    let cancelled = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 4 } });
    let told = batch(&session, &[cancelled.clone(), tell("notifications/roots/list_changed")]).to(&gateway);
    assert_eq!((told.status(), told.text()), (202, String::new()));
    let results = [
        json!({ "jsonrpc": "2.0", "id": "s-1", "result": { "roots": [] } }),
        json!({ "jsonrpc": "2.0", "id": "s-2", "error": { "code": -1, "message": "no" } }),
    ];
    let told = batch(&session, &results).to(&gateway);
    assert_eq!((told.status(), told.text()), (202, String::new()));
    let sent: Vec<Value> = seen(&upstream).split_off(before).into_iter().map(|it| it.message).collect();
    assert_eq!(sent[..2], [cancelled, tell("notifications/roots/list_changed")]);
    assert_eq!(sent.len(), 2, "nobody had asked: {sent:?}");
    assert_eq!(gateway.counted("answers_dropped"), 2);
    // One that nobody knows is passed over, unless there is nothing else.
    let some = batch(&session, &[tell("no/such"), tell("notifications/roots/list_changed")]).to(&gateway);
    assert_eq!(some.status(), 202, "{}", some.text());
    let none = batch(&session, &[tell("no/such"), tell("nor/this")]).to(&gateway);
    assert_eq!((none.status(), &none.json()["error"]["code"]), (400, &json!(-32_601)), "{}", none.text());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// The answer to a call of `other` is a stream: progress, and when the test says so the answer.
fn streaming(seen: &Seen, out: &mut Out<'_>) -> Acted {
    if !seen.calls("other") {
        return Acted::Default;
    }
    out.stream();
    out.event_bytes("id: up-1\ndata:\n\n");
    out.event(&progress(seen, 1));
    out.pass("go");
    out.event(&progress(seen, 2));
    out.event(&json!({ "jsonrpc": "2.0", "id": "foreign", "result": {} }));
    out.event_bytes(&format!("id: up-2\nevent: message\ndata: {}\n\n", said(seen, seen.value())));
    out.stream_end();
    Acted::Done
}

/// [E6] When a server answers with events, all is events from there on: what came before, what comes between as it
/// comes, and each answer.
#[test]
fn events_make_it_a_stream() {
    let (gateway, upstream) = house(streaming, |setup| setup);
    let session = session_of(&gateway, V1);
    let ((first, one), (slow, two), (last, three)) = (call(1, "echo"), call(2, "other"), call(3, "echo"));
    let (hidden, _) = call(4, "hidden");
    let told = tell("notifications/roots/list_changed");
    let mut events = batch(&session, &[first, told, slow, hidden, last]).stream(&gateway);
    let mut next = || {
        let event = events.next().expect("it is not cut").expect("it goes on");
        assert_eq!((&event.id, event.name.as_deref()), (&None, Some("message")), "ids of servers stay with us");
        serde_json::from_str::<Value>(&event.data.expect("a message")).expect("JSON")
    };
    assert_eq!(short(&next()), json!([1, one]));
    assert_eq!(next()["params"], json!({ "progressToken": two, "progress": 1, "total": 3 }));
    assert_eq!(upstream.calls().len(), 2, "the third waits for the second");
    upstream.open("go");
    assert_eq!(next()["params"]["progress"], 2);
    assert_eq!(short(&next()), json!([2, two]));
    assert_eq!(short(&next()), json!([4, -32_602]));
    assert_eq!(short(&next()), json!([3, three]));
    let (rest, wire) = events.rest();
    assert_eq!(rest, Vec::<Value>::new());
    // The connection carries the next request.
    let post = Post::legacy_call(&session, "echo");
    post.is_echoed(&wire.expect("a proper end").ask(&post.bytes(&gateway)));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S4] A stream that has begun is kept alive while a later message has no answer yet, in whatever form that will come.
#[test]
fn a_silent_stream_is_kept_alive() {
    let (gateway, upstream) = house(
        |seen, out| {
            if seen.calls("echo") {
                out.pass("go on");
            }
            streaming(seen, out)
        },
        |setup| setup,
    );
    upstream.open("go");
    let ((first, one), (slow, two)) = (call(1, "other"), call(2, "echo"));
    let mut events = batch("", &[first, slow]).stream(&gateway);
    let got: Vec<Value> = (0..3).map(|_| events.message()).collect();
    assert_eq!(short(&got[2]), json!([1, one]));
    upstream.wait("the second call", |seen| seen.value() == two);
    let mut wire = events.into_wire();
    let mut text = String::new();
    while !text.contains(": keep-alive\n\n") {
        text.push_str(&String::from_utf8(wire.more()).expect("text"));
    }
    upstream.open("go on");
    while !text.ends_with("\r\n0\r\n\r\n") {
        text.push_str(&String::from_utf8(wire.more()).expect("text"));
    }
    assert!(text.contains(&two), "{text}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E6] An HTTP/1.0 client gets the same, to the end of the connection.
#[test]
fn events_for_old_http() {
    let (gateway, upstream) = house(streaming, |setup| setup);
    upstream.open("go");
    let ((one, first), (two, second)) = (call(1, "other"), call(2, "echo"));
    let bytes = batch("", &[one, two]).bytes(&gateway);
    let text = String::from_utf8(bytes).expect("text").replacen("HTTP/1.1", "HTTP/1.0", 1);
    let mut wire = Wire::to(gateway.address);
    wire.send(text.as_bytes());
    let (messages, end) = wire.events().rest();
    assert!(end.is_ok());
    assert_eq!(shorts(&messages[2..]), json!([[1, first], [2, second]]));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E6] A stream that ends without its answer is that message's fault alone.
#[test]
fn a_server_that_fails_one() {
    let (gateway, upstream) = house(
        |seen, out| {
            match (seen.method(), seen.value().is_empty()) {
                ("tools/call", _) if seen.name() == "other" => {
                    out.stream();
                    out.event(&progress(seen, 1));
                    out.close();
                }
                ("completion/complete", _) => out.json(401, "", &json!({})),
                ("resources/read", _) => out.json(
                    400,
                    "",
                    &json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32_700, "message": "?" } }),
                ),
                ("resources/subscribe", _) => {
                    out.json(500, "", &json!({ "jsonrpc": "2.0", "error": { "code": -1, "message": "?" } }));
                }
                ("ping", _) => out.json(200, "", &json!({ "jsonrpc": "2.0", "id": "foreign", "result": {} })),
                ("logging/setLevel", _) => out.close(),
                _ => return Acted::Default,
            }
            Acted::Done
        },
        |setup| setup,
    );
    let session = session_of(&gateway, V1);
    let about = |id: u32, method: &str| {
        let mut message = ask(id, method);
        message["params"] = json!({ "uri": "note://open", "level": "info" });
        message
    };
    let ((cut, _), (good, value)) = (call(1, "other"), call(8, "echo"));
    let messages = [
        about(2, "resources/read"),
        about(3, "resources/subscribe"),
        ask(4, "ping"),
        about(5, "logging/setLevel"),
        cut,
        good,
    ];
    let (got, end) = batch(&session, &messages).stream(&gateway).rest();
    assert!(end.is_ok());
    let want = json!([
        [2, -32_700],
        [3, -1],
        [4, -32_603],
        [5, -32_603],
        // Its progress came before it was cut.
        [null, ""],
        [1, -32_603],
        [8, value]
    ]);
    assert_eq!(shorts(&got), want, "{got:#?}");
    let reasons = [2, 3, 5].map(|at: usize| got[at]["error"]["data"]["reason"].clone());
    assert_eq!(reasons, ["server_invalid", "server_cut", "server_cut"].map(Value::from));
    assert_eq!(upstream.seen().iter().filter(|seen| seen.calls("other")).count(), 1, "never sent twice");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E6] What a server asks in the middle of its answer goes to the client, or is refused, as it would be alone.
#[test]
fn a_server_asks_in_the_middle() {
    let (gateway, upstream) = house(
        |seen, out| {
            if !seen.calls("other") {
                return Acted::Default;
            }
            out.stream();
            out.event(&json!({ "jsonrpc": "2.0", "id": "s-1", "method": "sampling/createMessage", "params": {} }));
            out.event(&json!({ "jsonrpc": "2.0", "id": "s-2", "method": "roots/list" }));
            out.pass("go");
            out.event(&said(seen, seen.value()));
            out.stream_end();
            Acted::Done
        },
        |setup| setup.rule(json!({ "id": "asks", "permit": ["up!roots"] })),
    );
    let session = session_of(&gateway, V1);
    let (asking, value) = call(1, "other");
    let mut events = batch(&session, &[asking]).stream(&gateway);
    let asked = events.message();
    assert_eq!(asked["method"], "roots/list", "{asked}");
    let refused = upstream.wait("the refusal", |seen| seen.message["error"]["code"] == -32_601);
    assert_eq!(refused.id(), "s-1");
    let mine = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "roots": [] } });
    assert_eq!(batch(&session, &[mine]).to(&gateway).status(), 202);
    upstream.wait("the answer", |seen| seen.message["result"]["roots"].is_array());
    upstream.open("go");
    assert_eq!(short(&events.message()), json!([1, value]));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E6] Answers are kept up to a bound; then they leave as they come. A single one has a bound too.
#[test]
fn answers_have_a_bound() {
    let (gateway, upstream) = house(
        |seen, out| {
            let Some(bytes) = seen.message["params"]["arguments"]["bytes"].as_u64() else { return Acted::Default };
            let text = "x".repeat(usize::try_from(bytes).expect("a size"));
            out.json(200, "", &said(seen, &text));
            Acted::Done
        },
        |setup| setup,
    );
    let sized = |id: u32, bytes: usize| {
        let (mut message, _) = call(id, "echo");
        message["params"]["arguments"]["bytes"] = json!(bytes);
        message
    };
    let lengths = |messages: &[Value]| messages.iter().map(|it| text_of(it).len()).collect::<Vec<_>>();
    let kept = answers(&batch("", &[sized(1, 400_000), sized(2, 400_000)]).to(&gateway));
    assert_eq!(lengths(&kept), [400_000, 400_000]);
    let three = batch("", &[sized(1, 400_000), sized(2, 400_000), sized(3, 400_000), ask(4, "ping")]);
    let (sent, end) = three.stream(&gateway).rest();
    assert!(end.is_ok());
    assert_eq!(lengths(&sent), [400_000, 400_000, 400_000, 0]);
    assert_eq!(sent.iter().map(|it| &it["id"]).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let long = answers(&batch("", &[sized(1, 1024 * 1024), ask(2, "ping")]).to(&gateway));
    assert_eq!(shorts(&long), json!([[1, -32_603], [2, ""]]));
    assert_eq!(long[0]["error"]["data"]["reason"], "server_invalid");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What concerns the session or the caller is said of the whole batch, so that the client does what has to be done.
#[test]
fn what_concerns_all_is_said_once() {
    let (gateway, upstream) = house(|_, _| Acted::Default, |setup| setup.tokens("deny"));
    let (ada, eve) = (gateway.token(&Who::default()), gateway.token(&Who { subject: "eve", ..Who::default() }));
    let session = Post::initialize(V1).token(&ada).to(&gateway).field("mcp-session-id").to_owned();
    let messages = [call(1, "echo").0, call(2, "echo").0];
    let status = |post: Post| {
        let answer = post.to(&gateway);
        assert!(answer.json()["error"]["code"].is_i64() && answer.json()["id"].is_null(), "{}", answer.text());
        answer.status()
    };
    assert_eq!(batch(&session, &messages).to(&gateway).status(), 401);
    assert_eq!(status(batch(&session, &messages).token(&eve)), 404);
    assert_eq!(status(batch("nonsense", &messages).token(&ada)), 404);
    assert_eq!(status(batch("nonsense", &[tell("notifications/initialized")]).token(&ada)), 404);
    assert_eq!(upstream.calls().len(), 0);
    let good = answers(&batch(&session, &messages).token(&ada).to(&gateway));
    assert_eq!(good.len(), 2);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A subject with its hands full gets nothing of a batch done, and hears it as it would of a call.
#[test]
fn a_share_that_is_used_up() {
    let (gateway, upstream) = house(
        |seen, out| {
            if seen.calls("other") {
                out.pass("go");
            }
            Acted::Default
        },
        |setup| setup.set("/limits/calls_per_subject", json!(1)),
    );
    let messages = [call(1, "other").0, call(2, "echo").0];
    let mut wire = batch("", &messages).begin(&gateway);
    upstream.wait("the first call", |seen| seen.calls("other"));
    let busy = batch("", &[call(1, "echo").0, call(2, "echo").0]).to(&gateway);
    assert_eq!((busy.status(), busy.field("retry-after")), (429, "1"), "{}", busy.text());
    upstream.open("go");
    assert_eq!(answers(&wire.response()).len(), 2, "its messages have one place, one after the other");
    assert_eq!(upstream.calls().len(), 2);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A client that leaves cancels nothing, in a batch neither.
#[test]
fn a_client_that_leaves_cancels_nothing() {
    let (gateway, upstream) = house(
        |seen, out| {
            if seen.calls("other") {
                out.pass("go");
            }
            Acted::Default
        },
        |setup| setup,
    );
    let session = session_of(&gateway, V1);
    let ((slow, one), (last, two)) = (call(1, "other"), call(2, "echo"));
    let wire = batch(&session, &[slow, last]).begin(&gateway);
    upstream.wait("the first call", |seen| seen.value() == one);
    drop(wire);
    std::thread::sleep(Duration::from_millis(50));
    upstream.open("go");
    upstream.wait("the second call", |seen| seen.value() == two);
    gateway.records_until("both outcomes", |records| {
        oracle::of_kind(records, "outcome").filter(|it| it["status"] == "ok").count() >= 2
    });
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What was let in is finished before the gateway ends; what is cut by the end of its patience begins nothing more.
#[test]
fn a_drain_cuts_a_batch_once() {
    let (mut gateway, upstream) = house(
        |seen, out| {
            if seen.calls("other") {
                out.gone(PATIENCE);
                return Acted::Done;
            }
            Acted::Default
        },
        |setup| setup.set("/limits/drain", json!("100ms")),
    );
    let ((slow, one), (last, _)) = (call(1, "other"), call(2, "echo"));
    let mut wire = batch("", &[slow, last]).begin(&gateway);
    upstream.wait("the first call", |seen| seen.value() == one);
    gateway.signal(rustix::process::Signal::TERM);
    let got = answers(&wire.response());
    assert_eq!(shorts(&got), json!([[1, -32_603], [2, -32_603]]));
    assert_eq!(got[0]["error"]["data"]["reason"], "server_cut");
    assert!(got[1]["error"].get("data").is_none(), "it was not begun: {}", got[1]);
    assert!(gateway.ended(PATIENCE).success());
    assert_eq!(upstream.calls().len(), 1);
}
