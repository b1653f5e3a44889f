//! Clients of the deprecated HTTP+SSE transport (MCP 2024-11-05): one event stream each, and POSTs that are only
//! acknowledged.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who, eventually, run};
use crate::support::http::{Events, Response, Wire};
use crate::support::mcp::{LEGACY, Post, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::sse_server::SsePlan;
use crate::support::upstream::{Acted, Plan, Reserved, Seen, Upstream, progress, said};

const OLD: &str = "2024-11-05";

/// A client: its stream, and where its messages go.
struct Old<'a> {
    gateway: &'a Gateway,
    events: Events,
    place: String,
    fields: String,
}

fn get(gateway: &Gateway, fields: &str) -> Wire {
    let mut wire = Wire::to(gateway.address);
    wire.send(format!("GET /mcp HTTP/1.1\r\nhost: {}\r\n{fields}\r\n", gateway.address).as_bytes());
    wire
}

impl<'a> Old<'a> {
    /// Opens the stream.
    fn connect(gateway: &'a Gateway, fields: &str) -> Self {
        let mut wire = get(gateway, &format!("accept: text/event-stream\r\n{fields}"));
        let head = wire.peek_head();
        assert_eq!((head.status, head.field("content-type")), (200, "text/event-stream"));
        let mut events = wire.events();
        let first = events.next().expect("it is not cut").expect("it goes on");
        let (name, data) = (first.name.unwrap_or_default(), first.data.unwrap_or_default());
        assert_eq!((name.as_str(), first.id), ("endpoint", None));
        assert!(data.starts_with("/mcp?session="), "{data}");
        Self { gateway, events, place: data, fields: fields.to_owned() }
    }

    /// And shakes hands.
    fn begun(gateway: &'a Gateway, fields: &str) -> Self {
        let mut old = Self::connect(gateway, fields);
        let answer = old.ask(Post::initialize(OLD));
        assert_eq!(answer["result"]["protocolVersion"], OLD, "{answer}");
        old.tell(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        old
    }

    fn post(&self, post: Post) -> Response {
        let post = post.at(&self.place).without("mcp-session-id").without("mcp-protocol-version");
        let post = match self.fields.strip_prefix("authorization: ") {
            Some(token) => post.field("authorization", token.trim_end()),
            None => post,
        };
        post.to(self.gateway)
    }

    /// Sends a message, which is taken.
    #[track_caller]
    fn send(&self, post: Post) {
        let taken = self.post(post);
        assert_eq!((taken.status(), taken.text().as_str()), (202, ""));
        assert_eq!(taken.field("connection"), "close");
    }

    #[track_caller]
    fn tell(&self, message: &Value) {
        self.send(Post::tell("", json!({})).body(message.to_string()));
    }

    /// The next message of the stream, which has no id to be resumed at.
    #[track_caller]
    fn next(&mut self) -> Value {
        let event = self.events.next().expect("it is not cut").expect("it goes on");
        assert_eq!((event.name.as_deref(), event.id), (Some("message"), None));
        serde_json::from_str(&event.data.expect("a message has data")).expect("and that is JSON")
    }

    /// Sends a request; the next message answers it.
    #[track_caller]
    fn ask(&mut self, post: Post) -> Value {
        let id = post.request_id().clone();
        self.send(post);
        let answer = self.next();
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    #[track_caller]
    fn echoed(&mut self, tool: &str, id: impl Into<Value>) {
        let post = Post::legacy_call("", tool).id(id);
        let value = post.value.clone();
        assert_eq!(text_of(&self.ask(post)), value);
    }
}

/// `echo` answers; `steps` tells of its progress first; `ask` asks first; `hold` waits to be let go.
fn upstream() -> Upstream {
    Plan::tools(&["echo", "steps", "ask", "hold"])
        .script(|seen, out| {
            match seen.name() {
                "steps" => {
                    out.stream();
                    (1..=3).for_each(|step| out.event(&progress(seen, step)));
                    out.event(&said(seen, seen.value()));
                    out.stream_end();
                }
                "ask" => {
                    out.stream();
                    out.event(
                        &json!({ "jsonrpc": "2.0", "id": "ask-1", "method": "sampling/createMessage", "params": {
                            "messages": [], "maxTokens": 1,
                        }}),
                    );
                    out.pass("answered");
                    out.event(&said(seen, seen.value()));
                    out.stream_end();
                }
                "hold" => {
                    out.pass("hold");
                    return Acted::Default;
                }
                _ => return Acted::Default,
            }
            Acted::Done
        })
        .start()
}

fn setup(upstream: &Upstream) -> Setup {
    Setup::new()
        .server("up", &upstream.url())
        .open()
        .set("/endpoints", json!({ "/mcp": { "servers": ["up"], "sse": true } }))
        .shards(2)
}

fn started() -> (Gateway, Upstream) {
    let upstream = upstream();
    (setup(&upstream).start(), upstream)
}

fn known(gateway: &Gateway) {
    let list = || Post::modern("tools/list", json!({})).to(gateway).status() == 200;
    eventually("the catalogue is known", list);
}

#[test]
fn calls_and_refusals() {
    let (gateway, upstream) = started();
    known(&gateway);
    let mut old = Old::connect(&gateway, "");
    let early = old.ask(Post::legacy_call("", "echo"));
    assert_eq!(early["error"]["code"], -32_600, "{early}");
    let first = old.ask(Post::initialize(OLD));
    assert_eq!(first["result"]["serverInfo"]["name"], "recorder");
    let again = old.ask(Post::initialize(OLD));
    assert_eq!(again["error"]["code"], -32_600, "{again}");
    old.tell(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    upstream.wait("that it is initialized", |seen| seen.method() == "notifications/initialized");
    let list = old.ask(Post::legacy("", "tools/list", json!({})));
    assert_eq!(list["result"]["tools"].as_array().map(Vec::len), Some(4), "{list}");
    for id in [json!(7), json!("s\u{e9}"), json!(7)] {
        old.echoed("echo", id);
    }
    let unknown = old.ask(Post::legacy_call("", "none"));
    assert_eq!(unknown["error"]["code"], -32_602, "{unknown}");
    let method = old.ask(Post::legacy("", "no/such", json!({})));
    assert_eq!(method["error"]["code"], -32_601, "{method}");
    let modern = old.ask(Post::modern("tools/list", json!({})));
    assert_eq!(modern["error"]["code"], -32_600, "{modern}");
    // What is no message at all is the POST's own fault, and what is told is taken whatever it is.
    for body in ["{", "[]", "[{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}]"] {
        assert_eq!(old.post(Post::tell("", json!({})).body(body)).status(), 400, "{body}");
    }
    old.tell(&json!({ "jsonrpc": "2.0", "method": "notifications/none" }));
    old.tell(&json!({ "jsonrpc": "2.0", "id": 99, "result": {} }));
    assert!(upstream.calls().iter().all(|seen| seen.name() == "echo"), "nothing refused has reached the server");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What the server says before it answers comes first.
#[test]
fn progress_and_then_the_answer() {
    let (gateway, upstream) = started();
    known(&gateway);
    let mut old = Old::begun(&gateway, "");
    let post = Post::legacy_call("", "steps").param("/_meta/progressToken", json!("p"));
    let value = post.value.clone();
    old.send(post);
    let messages: Vec<Value> = (0..4).map(|_| old.next()).collect();
    let steps: Vec<&Value> = messages.iter().map(|it| &it["params"]["progress"]).collect();
    assert_eq!(steps[..3], [&json!(1), &json!(2), &json!(3)]);
    assert_eq!(text_of(&messages[3]), value);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Clients on both shards, the same ids, everything under way at once: each gets its own.
#[test]
fn the_same_ids_at_once() {
    let (gateway, upstream) = started();
    known(&gateway);
    let mut clients: Vec<Old<'_>> = (0..12).map(|_| Old::begun(&gateway, "")).collect();
    let mut values = Vec::new();
    for old in &clients {
        let post = Post::legacy_call("", "hold").id(7);
        values.push(post.value.clone());
        old.send(post);
    }
    for value in &values {
        upstream.wait("the call", |seen| seen.value() == value);
    }
    // What is beside it is not held up; an id under way is.
    for old in &mut clients {
        old.echoed("echo", 8);
        let twice = old.ask(Post::legacy_call("", "hold").id(7));
        assert_eq!(twice["error"]["code"], -32_600);
    }
    upstream.open("hold");
    for (old, value) in clients.iter_mut().zip(&values) {
        let answer = old.next();
        assert_eq!((text_of(&answer), &answer["id"]), (value.as_str(), &json!(7)));
    }
    let mut sessions: Vec<String> =
        upstream.calls().iter().map(|seen| seen.field("mcp-session-id").to_owned()).collect();
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), 12);
    assert!(gateway.counted("connections_moved") > 0, "two shards, and clients that do not choose");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [O8] A place is its owner's, at its endpoint, over its transport; and there is none behind the stream's end.
#[test]
fn a_place_is_its_owners() {
    let upstream = upstream();
    let gateway = setup(&upstream).tokens("deny").start();
    let url = gateway.url("/mcp");
    let token = |subject| {
        let who = Who { subject, ..Who::default() };
        format!("Bearer {}", gateway.token_for(&who, &[&url, &gateway.url("/s/up/mcp")]))
    };
    let (ada, bob) = (token("ada"), token("bob"));
    let field = |token: &str| format!("authorization: {token}\r\n");
    eventually("the catalogue is known", || {
        Post::modern("tools/list", json!({})).field("authorization", &ada).to(&gateway).status() == 200
    });
    assert_eq!(get(&gateway, "accept: text/event-stream\r\n").response().status(), 401);
    let mut old = Old::begun(&gateway, &field(&ada));
    old.echoed("echo", 1);
    let id = old.place.strip_prefix("/mcp?session=").expect("it begins so").to_owned();
    let other = open_session(&gateway, |post| post.field("authorization", &ada));
    let check = |place: &str, token: &str, want: u16| {
        let post = Post::legacy_call("", "echo").without("mcp-session-id").without("mcp-protocol-version");
        let got = post.at(place).field("authorization", token).to(&gateway);
        assert_eq!(got.status(), want, "{place}: {}", got.text());
    };
    check(&old.place, &bob, 404);
    check(&format!("/mcp?session={other}"), &ada, 404);
    check("/mcp?session=none", &ada, 404);
    check("/mcp?session=", &ada, 404);
    let as_a_session = session_request(&gateway, "DELETE", "/mcp", &id, &field(&ada));
    assert_eq!(Wire::to(gateway.address).ask(&as_a_session).status(), 404);
    let call = Post::legacy_call(&id, "echo").field("authorization", &ada);
    assert_eq!(call.to(&gateway).status(), 404);
    old.echoed("echo", 2);
    // Its server's session ends with it.
    let theirs = upstream.calls()[0].field("mcp-session-id").to_owned();
    assert!(upstream.sessions().contains(&theirs));
    let place = old.place.clone();
    drop(old);
    eventually("the server's session has ended", || !upstream.sessions().contains(&theirs));
    check(&place, &ada, 404);
    assert_eq!(gateway.counted("sessions_ended"), 1);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A stream that ends while its handshake is under way leaves no session behind.
#[test]
fn gone_before_it_began() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            if seen.method() == "initialize" && seen.message["params"]["clientInfo"]["name"] == "test" {
                out.note("asked");
                out.pass("go");
            }
            Acted::Default
        })
        .start();
    let gateway = setup(&upstream).start();
    known(&gateway);
    let before = upstream.sessions().len();
    let old = Old::connect(&gateway, "");
    old.send(Post::initialize(OLD));
    upstream.noted("asked");
    let place = old.place.clone();
    drop(old);
    let post = Post::legacy_call("", "echo").at(&place).without("mcp-session-id").without("mcp-protocol-version");
    eventually("the place is gone", || post.to(&gateway).status() == 404);
    upstream.open("go");
    upstream.wait("the end of the new session", |seen| seen.http == "DELETE");
    eventually("none is left", || upstream.sessions().len() <= before);
}

/// A server's request has an id of the gateway's own; the first answer goes back under the server's.
#[test]
fn a_server_asks_and_is_answered() {
    let (gateway, upstream) = started();
    known(&gateway);
    let mut old = Old::begun(&gateway, "");
    let post = Post::legacy_call("", "ask").id("ask-1");
    let value = post.value.clone();
    old.send(post);
    let asked = old.next();
    assert_eq!(asked["method"], "sampling/createMessage");
    let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "role": "user", "content": { "n": 1 } } });
    old.tell(&json!({ "jsonrpc": "2.0", "id": "ask-1", "result": {} }));
    old.tell(&answer);
    let got = upstream.wait("the answer", |seen| seen.message["result"]["content"]["n"] == 1);
    assert_eq!(got.id(), "ask-1");
    old.tell(&answer);
    upstream.open("answered");
    assert_eq!(text_of(&old.next()), value);
    eventually("the others are dropped", || gateway.counted("answers_dropped") == 2);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Two servers behind one such stream: the handshake is the gateway's, each has its session when it is called, and what
/// it says and asks is on the stream.
#[test]
fn two_servers_behind_one_stream() {
    let (one, two) = (upstream(), upstream());
    let gateway = Setup::new()
        .server("one", &one.url())
        .server("two", &two.url())
        .open()
        .set("/endpoints", json!({ "/mcp": { "servers": ["one", "two"], "sse": true } }))
        .shards(2)
        .start();
    eventually("both are known", || {
        ["one", "two"]
            .iter()
            .all(|server| Post::call("echo").at(&format!("/s/{server}/mcp")).to(&gateway).status() == 200)
    });
    let handshakes = |upstream: &Upstream| {
        let ours = |seen: &&Seen| seen.message["params"]["clientInfo"]["name"] == "test";
        upstream.seen().iter().filter(|seen| seen.method() == "initialize").filter(ours).count()
    };
    let mut old = Old::connect(&gateway, "");
    let early = old.ask(Post::legacy_call("", "one__echo"));
    assert_eq!(early["error"]["code"], -32_600, "{early}");
    let first = old.ask(Post::initialize(OLD));
    assert_eq!((&first["result"]["protocolVersion"], &first["id"]), (&json!(OLD), &json!("init")));
    old.tell(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    assert_eq!(old.ask(Post::legacy("", "ping", json!({})))["result"], json!({}));
    assert_eq!((handshakes(&one), handshakes(&two)), (0, 0));
    for tool in ["one__echo", "two__echo", "one__echo"] {
        old.echoed(tool, 7);
    }
    assert_eq!((handshakes(&one), handshakes(&two)), (1, 1));
    let unknown = old.ask(Post::legacy_call("", "echo"));
    assert_eq!(unknown["error"]["message"], "Unknown tool: echo");
    let post = Post::legacy_call("", "two__ask").id(8);
    let value = post.value.clone();
    old.send(post);
    let asked = old.next();
    assert_eq!(asked["method"], "sampling/createMessage");
    old.tell(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "role": "user", "content": { "n": 2 } } }));
    let got = two.wait("the answer", |seen| seen.message["result"]["content"]["n"] == 2);
    assert_eq!(got.id(), "ask-1");
    two.open("answered");
    assert_eq!(text_of(&old.next()), value);
    // The end of the stream is the end of all of them.
    let theirs = [&one, &two].map(|upstream| {
        let calls = upstream.calls();
        calls.last().map(|seen| seen.field("mcp-session-id").to_owned()).unwrap_or_default()
    });
    drop(old);
    for (upstream, theirs) in [&one, &two].into_iter().zip(theirs) {
        eventually("the server's session has ended", || !upstream.sessions().contains(&theirs));
    }
    oracle::check(&gateway, &[("one", &one), ("two", &two)]);
}

/// What the server says on its session's own stream is on this one too.
#[test]
fn unasked_messages() {
    let (gateway, upstream) = started();
    known(&gateway);
    let mut clients: Vec<Old<'_>> = (0..2).map(|_| Old::begun(&gateway, "")).collect();
    let asked = || upstream.seen().iter().filter(|seen| seen.http == "GET").count();
    // The plane may have one of its own.
    eventually("their streams are there", || asked() >= 2 && upstream.open_streams() >= 2);
    std::thread::sleep(Duration::from_millis(100));
    upstream.say(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": "hello" } }));
    for old in &mut clients {
        assert_eq!(old.next()["params"]["data"], "hello");
        old.echoed("echo", 1);
    }
}

/// A server without such a stream, and without sessions, is served as well.
#[test]
fn a_server_without_sessions() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| match (seen.http.as_str(), seen.method()) {
            ("GET", _) => {
                out.empty(405);
                Acted::Done
            }
            (_, "initialize") => {
                out.json(200, "", &crate::support::upstream::introduced(seen));
                Acted::Done
            }
            _ => Acted::Default,
        })
        .start();
    let gateway = setup(&upstream).start();
    known(&gateway);
    let mut old = Old::begun(&gateway, "");
    upstream.wait("the question for its stream", |seen| seen.http == "GET");
    for id in 1..4 {
        old.echoed("echo", id);
    }
    drop(old);
    eventually("it has ended", || gateway.counted("sessions_ended") == 1);
    assert!(upstream.seen().iter().all(|seen| seen.http != "DELETE"));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A session that the server has forgotten is opened again as the client that it was.
#[test]
fn a_server_that_forgets() {
    let (gateway, upstream) = started();
    known(&gateway);
    // A client of this transport may speak a newer revision over it.
    let mut old = Old::connect(&gateway, "");
    assert_eq!(old.ask(Post::initialize(LEGACY))["result"]["protocolVersion"], LEGACY);
    old.tell(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    old.echoed("echo", 1);
    upstream.forget_sessions();
    old.echoed("echo", 2);
    let again: Vec<_> = upstream
        .seen()
        .into_iter()
        .filter(|seen| seen.method() == "initialize" && seen.message["params"]["clientInfo"]["name"] == "test")
        .collect();
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|seen| seen.message["params"]["protocolVersion"] == LEGACY));
    let calls = upstream.calls();
    assert!(calls.iter().all(|seen| seen.field("mcp-protocol-version") == LEGACY), "{calls:?}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Each POST is acknowledged before its server has it; what a client tells still comes before what it asks next.
#[test]
fn in_the_order_of_posts() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            let ours = !seen.field("mcp-session-id").is_empty();
            match seen.method() {
                "notifications/roots/list_changed" if ours => {
                    std::thread::sleep(Duration::from_millis(200));
                    out.note("told");
                }
                "tools/call" => out.note("asked"),
                _ => {}
            }
            Acted::Default
        })
        .start();
    let gateway = setup(&upstream).start();
    known(&gateway);
    let mut old = Old::begun(&gateway, "");
    for _ in 0..3 {
        old.tell(&json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" }));
    }
    old.echoed("echo", 1);
    let notes = upstream.notes();
    assert_eq!(notes, ["told", "told", "told", "asked"]);
}

/// A request that its client takes back ends, and is not answered.
#[test]
fn a_cancelled_call() {
    let (gateway, upstream) = started();
    known(&gateway);
    let mut old = Old::begun(&gateway, "");
    old.send(Post::legacy_call("", "hold").id(5));
    upstream.wait("the call", |seen| seen.name() == "hold");
    old.tell(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 5 } }));
    upstream.wait("its end", |seen| seen.method() == "notifications/cancelled");
    eventually("it is ended", || gateway.counted("requests_cancelled") == 1);
    // The id is free again, and the next message is this one's answer.
    eventually("the id is free", || {
        let answer = old.ask(Post::legacy_call("", "echo").id(5));
        answer["result"].is_object()
    });
    upstream.open("hold");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Where it is not switched on, and for clients of another transport, a GET without a session is refused as ever.
#[test]
fn only_where_it_is_asked_for() {
    let (gateway, upstream) = started();
    let refused = |wire: &mut Wire| {
        let answer = wire.response();
        assert_eq!((answer.status(), answer.field("allow")), (405, "POST"), "{}", answer.text());
    };
    refused(&mut get(&gateway, ""));
    refused(&mut get(&gateway, "accept: application/json\r\n"));
    refused(&mut get(&gateway, &format!("accept: text/event-stream\r\nmcp-protocol-version: {LEGACY}\r\n")));
    let own = format!("GET /s/up/mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", gateway.address);
    assert_eq!(Wire::to(gateway.address).ask(own.as_bytes()).status(), 405);
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    refused(&mut get(&gateway, "accept: text/event-stream\r\n"));
}

/// A drain lets what is under way be answered, and ends streams and sessions then.
#[test]
fn a_drain() {
    let (mut gateway, upstream) = started();
    known(&gateway);
    let old = Old::begun(&gateway, "");
    let idle = Old::begun(&gateway, "");
    let post = Post::legacy_call("", "hold");
    let value = post.value.clone();
    old.send(post);
    upstream.wait("the call", |seen| seen.name() == "hold");
    gateway.signal(Signal::TERM);
    let (messages, end) = idle.events.rest();
    assert!(messages.is_empty() && end.is_ok(), "an idle one ends at once, and cleanly");
    upstream.open("hold");
    let (messages, end) = old.events.rest();
    assert_eq!((messages.len(), end.is_ok()), (1, true));
    assert_eq!(text_of(&messages[0]), value);
    assert!(gateway.ended(PATIENCE).success());
    let ended = upstream.seen().iter().filter(|seen| seen.http == "DELETE").count();
    assert!(ended >= 2, "{ended}");
}

/// The stream ends with its token, and the session with the stream.
#[test]
fn a_token_ends() {
    let upstream = upstream();
    let gateway = setup(&upstream).tokens("deny").start();
    let who = Who { expires_s: 3, ..Who::default() };
    let token = gateway.token_for(&who, &[&gateway.url("/mcp")]);
    let old = Old::connect(&gateway, &format!("authorization: Bearer {token}\r\n"));
    let (messages, end) = old.events.rest();
    assert!(messages.is_empty() && end.is_ok());
}

/// What waits to be sent when its caller is revoked is not sent.
#[test]
fn revoked_before_it_is_sent() {
    let upstream = upstream();
    let gateway = setup(&upstream).tokens("deny").set("/limits/connect", json!("60s")).start();
    let token = gateway.token(&Who::default());
    let list = || Post::modern("tools/list", json!({})).token(&token).to(&gateway).status() == 200;
    eventually("the catalogue is known", list);
    let old = Old::begun(&gateway, &format!("authorization: Bearer {token}\r\n"));
    upstream.wait("that it is initialized", |seen| seen.method() == "notifications/initialized");
    let address = upstream.address();
    drop(upstream);
    let clogged = Reserved::at(address).clogged();
    old.send(Post::legacy_call("", "echo"));
    eventually("it is under way", || gateway.calls_under_way() == 1);
    let (config, admin) = (gateway.config().display().to_string(), gateway.admin.to_string());
    let words = ["revoke", "--all", "--config", &config, "--admin", &admin];
    let run = run(Path::new("."), &words);
    assert!(run.status.is_some_and(|status| status.success()), "{}", run.stderr);
    let upstream = clogged.start(Plan::tools(&["echo"]));
    eventually("it is over", || gateway.calls_under_way() == 0);
    assert!(upstream.calls().is_empty(), "{:?}", upstream.calls());
}

/// In front of a server that speaks this transport too, and nothing else.
#[test]
fn old_on_both_sides() {
    let server = SsePlan::tools(&["echo"]).start();
    let gateway = Setup::new()
        .server("old", &server.url())
        .open()
        .set("/endpoints", json!({ "/mcp": { "servers": ["old"], "sse": true } }))
        .shards(2)
        .start();
    eventually("it is known", || {
        let mut old = Old::connect(&gateway, "");
        let answer = old.ask(Post::initialize(OLD));
        let list = old.ask(Post::legacy("", "tools/list", json!({})));
        answer["result"].is_object() && list["result"].is_object()
    });
    let mut clients: Vec<Old<'_>> = (0..4).map(|_| Old::begun(&gateway, "")).collect();
    for _ in 0..2 {
        clients.iter_mut().for_each(|old| old.echoed("echo", 7));
    }
    drop(clients);
    oracle::check(&gateway, &[("old", &server.upstream)]);
}

/// A reader that is slow slows its own servers down; everything arrives, in order.
#[test]
fn a_slow_reader() {
    const EVENTS: usize = 64;
    let upstream = Plan::tools(&["flood", "echo"])
        .script(|seen, out| {
            if seen.name() != "flood" {
                return Acted::Default;
            }
            out.stream();
            let text = "x".repeat(100_000);
            for number in 0..EVENTS {
                let params = json!({ "data": text, "number": number });
                out.event(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params }));
            }
            out.event(&said(seen, seen.value()));
            out.stream_end();
            Acted::Done
        })
        .start();
    let gateway = setup(&upstream).start();
    known(&gateway);
    let mut slow = Old::begun(&gateway, "");
    let mut other = Old::begun(&gateway, "");
    let post = Post::legacy_call("", "flood");
    let value = post.value.clone();
    slow.send(post);
    std::thread::sleep(Duration::from_millis(300));
    for id in 0..10 {
        other.echoed("echo", id);
    }
    for number in 0..EVENTS {
        assert_eq!(slow.next()["params"]["number"], number);
    }
    assert_eq!(text_of(&slow.next()), value);
}
