//! Streams of an endpoint with several servers: one for the client, whoever of them speaks; questions of several servers
//! at once; and word of changed lists from the gateway itself, to those who see the change.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who, eventually};
use crate::support::http::{Events, Wire};
use crate::support::mcp::{Post, open_session, session_request, text_of, tools};
use crate::support::oracle;
use crate::support::upstream::{Acted, Out, Plan, Reserved, Seen, Upstream, result, said};

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// Long enough for whatever was not meant for a client to have come.
const A_WHILE: Duration = Duration::from_millis(1_500);

/// A server with resources of its own, and one whose name another has too; `ask` asks for input, under an id and a
/// progress token that others use as well.
fn plan(name: &'static str) -> Plan {
    plan_with(name, |_, _| false)
}

/// The same, with something more that it does: `more` says whether it has.
fn plan_with(name: &'static str, more: impl Fn(&Seen, &mut Out<'_>) -> bool + Send + Sync + 'static) -> Plan {
    Plan::tools(&["echo", "ask"]).script(move |seen, out| {
        if more(seen, out) {
            return Acted::Done;
        }
        let list = match seen.method() {
            "resources/list" => json!({ "resources": [
                { "uri": format!("{name}://open"), "name": "open" }, { "uri": "note://both", "name": "both" },
            ]}),
            "resources/templates/list" => json!({ "resourceTemplates": [] }),
            "tools/call" if seen.name() == "ask" => {
                out.stream();
                out.event(&question(name));
                out.pass(seen.value());
                out.event(&said(seen, name));
                out.stream_end();
                return Acted::Done;
            }
            _ => return Acted::Default,
        };
        let mut answer = result(seen, list);
        if seen.is_modern() {
            answer["result"]["ttlMs"] = json!(60_000);
            answer["result"]["cacheScope"] = json!("public");
        }
        out.json(200, "", &answer);
        Acted::Done
    })
}

fn question(name: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": "ask-1", "method": "elicitation/create", "params": {
        "message": name, "requestedSchema": { "type": "object", "properties": {} },
        "_meta": { "progressToken": "t" },
    }})
}

fn updated(uri: &str) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": uri } })
}

fn log(text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {
        "level": "info", "logger": "db", "data": text,
    }})
}

fn behind(docs: &str, mail: &str) -> Setup {
    Setup::new().server("docs", docs).server("mail", mail)
}

fn pair() -> (Gateway, Upstream, Upstream) {
    let (docs, mail) = (plan("docs").start(), plan("mail").start());
    let gateway = behind(&docs.url(), &mail.url()).open().shards(2).start();
    (gateway, docs, mail)
}

fn get(gateway: &Gateway, session: &str, more: &str) -> Events {
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(gateway, "GET", "/mcp", session, more));
    wire.events()
}

/// The server's session for this client: the one that a call was made in.
fn session_at(upstream: &Upstream, value: &str) -> String {
    upstream.wait("the call", |seen| seen.value() == value).field("mcp-session-id").to_owned()
}

/// Calls a tool, and waits until the session that this opens at its server is heard.
fn opened(gateway: &Gateway, session: &str, name: &str, upstream: &Upstream) -> String {
    let call = Post::legacy_call(session, &format!("{name}__echo"));
    call.echoed(gateway);
    let theirs = session_at(upstream, &call.value);
    upstream.heard_by(&theirs);
    theirs
}

/// What a server says now is what comes next.
fn says(upstream: &Upstream, message: &Value, events: &mut Events) -> Value {
    upstream.say(message);
    events.message()
}

fn logger(message: &Value) -> &Value {
    &message["params"]["logger"]
}

/// A session's stream is there at once, and each server is on it from when the client has to do with it, whichever shard
/// that happens on.
#[test]
fn one_stream_for_all_servers() {
    let (gateway, docs, mail) = pair();
    for _ in 0..4 {
        let session = open_session(&gateway, |post| post);
        let mut events = get(&gateway, &session, "");
        assert_eq!(events.next().expect("not cut").expect("an event").data.as_deref(), Some(""), "primed at once");
        for (name, upstream) in [("docs", &docs), ("mail", &mail)] {
            opened(&gateway, &session, name, upstream);
            let message = says(upstream, &log(name), &mut events);
            assert_eq!((&message["params"]["data"], logger(&message)), (&json!(name), &json!(format!("{name}/db"))));
        }
        // A server's resources go by the names that the client knows.
        mail.say(&updated("note://both"));
        assert_eq!(events.message()["params"]["uri"], "mcp+mail:note://both");
        docs.say(&updated("note://both"));
        assert_eq!(events.message()["params"]["uri"], "note://both");
    }
    oracle::check(&gateway, &[("docs", &docs), ("mail", &mail)]);
}

/// Both ask under one id and one progress token; each hears how far it is, and gets its own answer.
#[test]
fn two_servers_ask_at_once() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    let calls = ["docs", "mail"].map(|name| Post::legacy_call(&session, &format!("{name}__ask")));
    let mut streams = [calls[0].clone().id(1), calls[1].clone().id(2)].map(|call| call.stream(&gateway));
    let mut asked = Vec::new();
    for events in &mut streams {
        let question = events.message();
        assert_eq!(question["method"], "elicitation/create", "{question}");
        let (id, token) = (&question["id"], &question["params"]["_meta"]["progressToken"]);
        assert!(id.is_u64() && id == token, "{question}");
        asked.push((id.clone(), question["params"]["message"].clone()));
    }
    assert_ne!(asked[0].0, asked[1].0);
    assert_eq!((asked[0].1.as_str(), asked[1].1.as_str()), (Some("docs"), Some("mail")));
    let tell = |message: Value| {
        let told = Post::tell(&session, message).to(&gateway);
        assert_eq!(told.status(), 202, "{}", told.text());
    };
    for (id, name) in asked.iter().rev() {
        let progress = json!({ "progressToken": id, "progress": 1, "message": name });
        tell(json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": progress }));
        tell(json!({ "jsonrpc": "2.0", "id": id, "result": { "action": "accept", "content": { "who": name } } }));
    }
    // A second answer, and progress of what was answered, concern nobody.
    let (id, _) = &asked[0];
    tell(json!({ "jsonrpc": "2.0", "id": id, "result": { "action": "decline" } }));
    tell(
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": id, "progress": 2 } }),
    );
    let servers = [("docs", &docs), ("mail", &mail)];
    for (((name, upstream), events), call) in servers.into_iter().zip(streams).zip(&calls) {
        let answer = upstream.wait("the answer", |seen| seen.message.get("result").is_some());
        assert_eq!(answer.message["result"]["content"]["who"], name);
        assert_eq!(answer.id(), "ask-1", "under the server's own id");
        let told: Vec<Seen> =
            upstream.seen().into_iter().filter(|seen| seen.method() == "notifications/progress").collect();
        let params: Vec<&Value> = told.iter().map(|seen| &seen.message["params"]).collect();
        assert_eq!(params, [&json!({ "progressToken": "t", "progress": 1, "message": name })]);
        assert_eq!(told[0].field("mcp-session-id"), answer.field("mcp-session-id"));
        upstream.open(&call.value);
        let (messages, _) = events.rest();
        assert_eq!(text_of(&messages[0]), name, "{messages:?}");
        assert_eq!(upstream.seen().iter().filter(|seen| seen.message.get("result").is_some()).count(), 1);
    }
}

/// The same on the session's own stream, where both ask.
#[test]
fn two_servers_ask_on_one_stream() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    let mut events = get(&gateway, &session, "");
    for (name, upstream) in [("docs", &docs), ("mail", &mail)] {
        opened(&gateway, &session, name, upstream);
    }
    docs.say(&question("docs"));
    mail.say(&question("mail"));
    for _ in 0..2 {
        let question = events.message();
        let who = question["params"]["message"].clone();
        let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "accept", "content": { "who": who } } });
        assert_eq!(Post::tell(&session, answer).to(&gateway).status(), 202);
    }
    for (name, upstream) in [("docs", &docs), ("mail", &mail)] {
        let answer = upstream.wait("the answer", |seen| seen.message.get("result").is_some());
        assert_eq!((answer.id(), &answer.message["result"]["content"]["who"]), (&json!("ask-1"), &json!(name)));
    }
}

/// Two servers that say more than their client reads: both wait, what is kept for it is bounded as for one, and nothing
/// is lost, nor out of order.
#[test]
fn a_slow_reader_slows_all() {
    const MESSAGES: u64 = 400;
    let floods = |name: &'static str| {
        plan_with(name, |seen, out| {
            if seen.http != "GET" {
                return false;
            }
            out.stream();
            for number in 0..MESSAGES {
                out.event(&log(&format!("{number} {}", "x".repeat(32 * 1024))));
            }
            out.gone(PATIENCE);
            true
        })
        .start()
    };
    let (docs, mail) = (floods("docs"), floods("mail"));
    let gateway = behind(&docs.url(), &mail.url()).open().start();
    let session = open_session(&gateway, |post| post);
    let mut events = get(&gateway, &session, "");
    assert_eq!(events.next().expect("not cut").expect("an event").data.as_deref(), Some(""));
    let before = gateway.resident_bytes();
    for name in ["docs", "mail"] {
        Post::legacy_call(&session, &format!("{name}__echo")).echoed(&gateway);
    }
    std::thread::sleep(A_WHILE);
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for a stream that nobody reads");
    let mut next = [("docs/db", 0), ("mail/db", 0)];
    while next.iter().any(|(_, number)| *number < MESSAGES) {
        let message = events.message();
        let of = next.iter_mut().find(|(name, _)| logger(&message) == name).expect("one of them");
        let text = message["params"]["data"].as_str().expect("a text");
        assert_eq!(text.split(' ').next(), Some(of.1.to_string().as_str()), "{} in order", of.0);
        of.1 += 1;
    }
}

fn changed_tools(message: &Value) -> bool {
    message["method"] == "notifications/tools/list_changed"
}

/// Callers hear of changes in what they see, and of no others; many changes are a few words.
#[test]
fn word_of_changed_lists_to_those_who_see_them() {
    let (docs, mail) = (plan("docs").start(), plan("mail").start());
    let gateway = behind(&docs.url(), &mail.url())
        .tokens("deny")
        .task("reading")
        .task("writing")
        .rule(json!({ "id": "reading", "tasks": ["reading"], "permit": ["docs/*", "docs!*"] }))
        .rule(json!({ "id": "writing", "tasks": ["writing"], "permit": ["mail/*", "mail!*"] }))
        .start();
    let token = |task: &str| gateway.token(&Who { tasks: &[task], ..Who::default() });
    let (reader, writer) = (token("reading"), token("writing"));
    let listen = |token: &str, uri: &str| {
        let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": [uri] });
        let post = Post::modern("subscriptions/listen", json!({ "notifications": wanted })).id(uri).token(token);
        let mut events = post.stream(&gateway);
        assert_eq!(events.message()["params"]["notifications"], wanted);
        events
    };
    let mut streams = Vec::new();
    for (token, name, upstream) in [(&reader, "docs", &docs), (&writer, "mail", &mail)] {
        let uri = format!("{name}://open");
        let modern = listen(token, &uri);
        upstream.heard_by(&json!(uri).to_string());
        let session = open_session(&gateway, |post| post.token(token));
        let more = format!("authorization: Bearer {token}\r\n");
        let mut legacy = get(&gateway, &session, &more);
        assert_eq!(legacy.next().expect("not cut").expect("an event").data.as_deref(), Some(""));
        let call = Post::legacy_call(&session, &format!("{name}__echo")).token(token);
        call.echoed(&gateway);
        upstream.heard_by(&session_at(upstream, &call.value));
        streams.push([modern, legacy]);
    }
    for step in 0..20 {
        docs.change_tools(&["echo", &format!("step{step}")]);
        std::thread::sleep(Duration::from_millis(10));
    }
    docs.change_tools(&["echo", "last"]);
    // Whoever hears of it and asks gets the new list; soon the last word is the last change's.
    for events in &mut streams[0] {
        let mut words = 0;
        while words == 0 || events.comes(A_WHILE) {
            let message = events.message();
            assert!(changed_tools(&message), "{message}");
            words += 1;
        }
        assert!(words <= 5, "{words} words for 21 changes");
    }
    assert_eq!(tools(&gateway, |post| post.token(&reader)), ["docs__echo", "docs__last"]);
    // The other one's first message is its own server's.
    for events in &mut streams[1] {
        assert!(!events.comes(Duration::from_millis(1)));
    }
    mail.say(&updated("mail://open"));
    for events in &mut streams[1] {
        assert_eq!(events.message()["params"]["uri"], "mail://open");
    }
}

/// One subscription, two servers: acknowledged at once, each one's word by the names that the client knows, and the end
/// of one of them costs the other nothing.
#[test]
fn a_subscription_at_two_servers() {
    let (gateway, docs, mail) = pair();
    let address = mail.address();
    let wanted = ["docs://open", "mail://open", "note://both", "mcp+mail:note://both", "nobody://at-all"];
    let wanted = json!({ "promptsListChanged": true, "resourceSubscriptions": wanted });
    let mut events =
        Post::modern("subscriptions/listen", json!({ "notifications": wanted })).id("sub").stream(&gateway);
    let first = events.message();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["_meta"][SUBSCRIPTION], "sub");
    let honoured = &first["params"]["notifications"];
    assert_eq!(honoured["promptsListChanged"], true);
    let uris = honoured["resourceSubscriptions"].as_array().expect("a list");
    assert_eq!(&uris[..4], &wanted["resourceSubscriptions"].as_array().expect("a list")[..4], "{first}");
    let asks = |upstream: &Upstream, want: &[&str]| {
        let seen = upstream.wait("the subscription", |seen| seen.id() == "sub");
        let asked = &seen.message["params"]["notifications"];
        assert_eq!(
            asked["resourceSubscriptions"].as_array().expect("a list")[..want.len()],
            want.iter().map(|uri| json!(uri)).collect::<Vec<_>>()
        );
        assert!(asked.get("promptsListChanged").is_none(), "the gateway tells that: {asked}");
        upstream.heard_by("\"sub\"");
    };
    asks(&docs, &["docs://open", "note://both"]);
    asks(&mail, &["mail://open", "note://both"]);
    let hears = |events: &mut Events, upstream: &Upstream, uri: &str, want: &str| {
        upstream.say(&updated(uri));
        let message = events.message();
        let mark = &message["params"]["_meta"][SUBSCRIPTION];
        assert_eq!((&message["params"]["uri"], mark), (&json!(want), &json!("sub")), "{message}");
    };
    hears(&mut events, &docs, "note://both", "note://both");
    hears(&mut events, &mail, "note://both", "mcp+mail:note://both");
    // What it is not asked for, a server does not say here.
    mail.say(&log("stray"));
    mail.say(&json!({ "jsonrpc": "2.0", "method": "notifications/prompts/list_changed" }));
    hears(&mut events, &mail, "mail://open", "mail://open");
    drop(mail);
    hears(&mut events, &docs, "docs://open", "docs://open");
    let mail = Reserved::at(address).start(plan("mail"));
    mail.heard_by("\"sub\"");
    hears(&mut events, &mail, "mail://open", "mail://open");
    hears(&mut events, &docs, "docs://open", "docs://open");
    drop(events);
    for upstream in [&docs, &mail] {
        upstream.noted("stream closed");
    }
    let records = gateway.records_until("its end", |records| {
        oracle::of_kind(records, "outcome").any(|outcome| outcome["status"] == "cancelled")
    });
    let of_it = oracle::of_kind(&records, "decision").filter(|it| it["method"] == "subscriptions/listen");
    assert_eq!(of_it.count(), 1, "one decision for all of it");
}

/// A subscription ends with its result when the gateway drains.
#[test]
fn a_subscription_ends_with_its_result() {
    let (mut gateway, docs, mail) = pair();
    let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": ["docs://open", "mail://open"] });
    let mut events = Post::modern("subscriptions/listen", json!({ "notifications": wanted })).id(7).stream(&gateway);
    assert_eq!(events.message()["params"]["notifications"], wanted);
    for upstream in [&docs, &mail] {
        upstream.heard_by("7");
    }
    gateway.signal(Signal::TERM);
    let (messages, end) = events.rest();
    assert!(end.is_ok(), "the stream ends cleanly");
    let want =
        json!({ "jsonrpc": "2.0", "id": 7, "result": { "resultType": "complete", "_meta": { SUBSCRIPTION: 7 } } });
    assert_eq!(messages, [want]);
    gateway.ended(Duration::from_secs(20));
}

/// Legacy subscriptions: each at its server, by that one's name, and taken back there.
#[test]
fn legacy_subscriptions_at_two_servers() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    let mut events = get(&gateway, &session, "");
    let ask = |method: &str, uri: &str| {
        let answer = Post::legacy(&session, method, json!({ "uri": uri })).to(&gateway).json();
        assert_eq!(answer["result"], json!({}), "{answer}");
    };
    let ours = [(&docs, "docs://open", "docs://open"), (&mail, "mcp+mail:note://both", "note://both")];
    for (upstream, uri, own) in ours {
        ask("resources/subscribe", uri);
        let seen = upstream.wait("the subscription", |seen| seen.method() == "resources/subscribe");
        assert_eq!(seen.message["params"]["uri"], own);
        upstream.heard_by(seen.field("mcp-session-id"));
        assert_eq!(says(upstream, &updated(own), &mut events)["params"]["uri"], uri);
    }
    for (upstream, uri, own) in ours {
        ask("resources/unsubscribe", uri);
        let seen = upstream.wait("its end", |seen| seen.method() == "resources/unsubscribe");
        assert_eq!(seen.message["params"]["uri"], own);
    }
}

/// A session's stream goes on where its client left it, with what two servers have said meanwhile.
#[test]
fn a_merged_stream_is_resumed() {
    let (gateway, docs, mail) = pair();
    let session = open_session(&gateway, |post| post);
    let mut events = get(&gateway, &session, "");
    for (name, upstream) in [("docs", &docs), ("mail", &mail)] {
        opened(&gateway, &session, name, upstream);
    }
    docs.say(&log("first"));
    let seen = loop {
        let event = events.next().expect("not cut").expect("it goes on");
        if event.data.as_deref().is_some_and(|data| data.contains("first")) {
            break event.id.expect("an id");
        }
    };
    docs.say(&log("seen and lost"));
    assert_eq!(events.message()["params"]["data"], "seen and lost");
    drop(events);
    docs.say(&log("second"));
    mail.say(&log("third"));
    let mut events = get(&gateway, &session, &format!("last-event-id: {seen}\r\n"));
    let mut said: Vec<Value> = (0..3).map(|_| events.message()["params"]["data"].clone()).collect();
    said[1..].sort_by_key(ToString::to_string);
    assert_eq!(said, ["seen and lost", "second", "third"]);
    assert_eq!(logger(&says(&mail, &log("on"), &mut events)), "mail/db");
}

/// A server that dies takes its own part along and brings it back; the other's never stops.
#[test]
fn a_server_dies_and_comes_back() {
    let docs = plan("docs").start();
    let mail = plan("mail").start();
    let address = mail.address();
    let gateway = behind(&docs.url(), &mail.url()).open().start();
    let session = open_session(&gateway, |post| post);
    let mut events = get(&gateway, &session, "");
    for (name, upstream) in [("docs", &docs), ("mail", &mail)] {
        opened(&gateway, &session, name, upstream);
        assert_eq!(logger(&says(upstream, &log(name), &mut events)), &json!(format!("{name}/db")));
    }
    drop(mail);
    for _ in 0..3 {
        assert_eq!(logger(&says(&docs, &log("still"), &mut events)), "docs/db");
    }
    let mail = Reserved::at(address).start(plan("mail"));
    let theirs = |seen: &Seen| seen.method() == "initialize" && seen.message["params"]["clientInfo"]["name"] == "test";
    mail.wait("a session opened anew", theirs);
    eventually("its stream", || mail.seen().iter().any(|seen| seen.http == "GET" && out_of(&mail, seen)));
    eventually("its word", || {
        mail.say(&log("back"));
        events.comes(Duration::from_millis(200))
    });
    assert_eq!(logger(&events.message()), "mail/db");
    docs.say(&log("end"));
    while logger(&events.message()) != "docs/db" {}
}

/// Whether a GET was for a session that lives here.
fn out_of(upstream: &Upstream, seen: &Seen) -> bool {
    upstream.sessions().iter().any(|session| session == seen.field("mcp-session-id"))
}

/// A session's stream, once it has begun.
fn begun(gateway: &Gateway, path: &str, session: &str, token: &str) -> Events {
    let mut wire = Wire::to(gateway.address);
    let more = format!("authorization: Bearer {token}\r\n");
    wire.send(&session_request(gateway, "GET", path, session, &more));
    let mut events = wire.events();
    assert_eq!(events.next().expect("not cut").expect("an event").data.as_deref(), Some(""));
    events
}

#[track_caller]
fn reloaded(gateway: &Gateway, change: impl FnOnce(&mut Value)) {
    gateway.configure(change);
    let reload = gateway.reload();
    assert_eq!(reload["ok"], true, "{reload:#}");
}

/// Only the rules change: streams go on, and those hear of it who see something else now, at one server too. A
/// subscription to what may not be read any more ends with its result.
#[test]
fn word_of_changed_rules() {
    let (docs, mail) = (plan("docs").start(), plan("mail").start());
    let gateway = behind(&docs.url(), &mail.url())
        .tokens("deny")
        .task("reading")
        .task("writing")
        .rule(json!({ "id": "reading", "tasks": ["reading"], "permit": ["docs/*", "docs!*"] }))
        .rule(json!({ "id": "writing", "tasks": ["writing"], "permit": ["mail/*", "mail!*"] }))
        .start();
    let audience = [gateway.url("/mcp"), gateway.url("/s/docs/mcp"), gateway.url("/s/mail/mcp")];
    let audience: Vec<&str> = audience.iter().map(String::as_str).collect();
    let mut streams = Vec::new();
    for (task, name, upstream) in [("reading", "docs", &docs), ("writing", "mail", &mail)] {
        let token = gateway.token_for(&Who { tasks: &[task], ..Who::default() }, &audience);
        for path in ["/mcp".to_owned(), format!("/s/{name}/mcp")] {
            let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": [format!("{name}://open")] });
            let id = format!("{path} {name}");
            let listen = Post::modern("subscriptions/listen", json!({ "notifications": wanted })).id(id.as_str());
            let mut modern = listen.at(&path).token(&token).stream(&gateway);
            assert_eq!(modern.message()["params"]["notifications"], wanted);
            upstream.heard_by(&json!(id).to_string());
            let session = open_session(&gateway, |post| post.at(&path).token(&token));
            let legacy = begun(&gateway, &path, &session, &token);
            let prefix = if path == "/mcp" { format!("{name}__") } else { String::new() };
            let call = Post::legacy_call(&session, &format!("{prefix}echo")).at(&path).token(&token);
            call.echoed(&gateway);
            upstream.heard_by(&session_at(upstream, &call.value));
            streams.push((modern, legacy));
        }
    }
    let rule = |config: &mut Value, permit: Value| config["policy"]["rules"][0]["permit"] = permit;
    reloaded(&gateway, |config| rule(config, json!(["docs/echo", "docs!*"])));
    let (readers, writers) = streams.split_at_mut(2);
    for (modern, legacy) in readers.iter_mut() {
        for events in [modern, legacy] {
            let message = events.message();
            assert!(changed_tools(&message), "{message}");
        }
    }
    // All go on, and nobody has heard anything else.
    for (upstream, streams) in [(&docs, readers), (&mail, writers)] {
        let uri = if std::ptr::eq(upstream, &docs) { "docs://open" } else { "mail://open" };
        upstream.say(&updated(uri));
        for (modern, legacy) in streams.iter_mut() {
            for events in [modern, legacy] {
                let message = events.message();
                assert_eq!(message["params"]["uri"], uri, "{message}");
            }
        }
    }
    reloaded(&gateway, |config| rule(config, json!(["docs/echo"])));
    let mut streams = streams.into_iter();
    for (modern, _) in streams.by_ref().take(2) {
        let (messages, end) = modern.rest();
        assert!(end.is_ok(), "it ends cleanly");
        let last = messages.last().expect("its result");
        assert_eq!(last["result"]["resultType"], "complete", "{messages:?}");
    }
    mail.say(&updated("mail://open"));
    for (mut modern, mut legacy) in streams {
        for events in [&mut modern, &mut legacy] {
            assert_eq!(events.message()["params"]["uri"], "mail://open");
        }
    }
}

/// A server that is taken from the endpoint takes its part along; put back, it is heard again. The other's goes on.
#[test]
fn servers_of_an_endpoint_come_and_go() {
    let (docs, mail) = (plan("docs").start(), plan("mail").start());
    let endpoint = |servers: &[&str]| json!({ "/mcp": { "servers": servers, "names": "prefix" } });
    let gateway = behind(&docs.url(), &mail.url()).open().set("/endpoints", endpoint(&["docs", "mail"])).start();
    let session = open_session(&gateway, |post| post);
    let mut legacy = get(&gateway, &session, "");
    for (name, upstream) in [("docs", &docs), ("mail", &mail)] {
        opened(&gateway, &session, name, upstream);
    }
    let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": ["docs://open", "mail://open"] });
    let listen = Post::modern("subscriptions/listen", json!({ "notifications": wanted })).id("sub");
    let mut modern = listen.stream(&gateway);
    assert_eq!(modern.message()["params"]["notifications"], wanted);
    docs.heard_by("\"sub\"");
    mail.heard_by("\"sub\"");
    let hear = |legacy: &mut Events, modern: &mut Events, upstream: &Upstream, uri: &str| {
        upstream.say(&updated(uri));
        for events in [legacy, modern] {
            loop {
                let message = events.message();
                if message["params"]["uri"] == uri {
                    break;
                }
                let other = message["method"].as_str().unwrap_or_default();
                assert!(other.ends_with("/list_changed"), "{message}");
            }
        }
    };
    let closed = |upstream: &Upstream| upstream.notes().iter().filter(|note| *note == "stream closed").count();
    reloaded(&gateway, |config| config["endpoints"] = endpoint(&["docs"]));
    eventually("its streams are closed", || closed(&mail) >= 2);
    assert_eq!(closed(&docs), 0);
    assert!(changed_tools(&legacy.message()) && changed_tools(&modern.message()));
    hear(&mut legacy, &mut modern, &docs, "docs://open");
    let listeners = mail.listeners();
    reloaded(&gateway, |config| config["endpoints"] = endpoint(&["docs", "mail"]));
    eventually("it is heard again", || mail.listeners() >= listeners + 2);
    hear(&mut legacy, &mut modern, &mail, "mail://open");
    hear(&mut legacy, &mut modern, &docs, "docs://open");
}

/// A server that the rules take from a caller is not on its stream any more; given back, it is.
#[test]
fn a_server_that_is_forbidden_falls_silent() {
    let (docs, mail) = (plan("docs").start(), plan("mail").start());
    let gateway = behind(&docs.url(), &mail.url())
        .set("/endpoints", json!({ "/mcp": { "servers": ["docs", "mail"] } }))
        .rule(json!({ "id": "all", "permit": ["docs/*", "docs!*", "mail/*", "mail!*"] }))
        .start();
    let session = open_session(&gateway, |post| post);
    let mut events = get(&gateway, &session, "");
    for (name, upstream) in [("docs", &docs), ("mail", &mail)] {
        opened(&gateway, &session, name, upstream);
        assert_eq!(says(upstream, &log(name), &mut events)["params"]["data"], name);
    }
    let permit = |permit: Value| reloaded(&gateway, |config| config["policy"]["rules"][0]["permit"] = permit);
    let closed = || mail.notes().iter().filter(|note| *note == "stream closed").count();
    permit(json!(["docs/*", "docs!*"]));
    eventually("its stream is closed", || closed() >= 1);
    assert!(changed_tools(&events.message()));
    let next = |events: &mut Events| loop {
        let message = events.message();
        if message["method"] == "notifications/message" {
            return message;
        }
    };
    mail.say(&log("unheard"));
    docs.say(&log("heard"));
    assert_eq!(next(&mut events)["params"]["data"], "heard");
    let listeners = mail.listeners();
    permit(json!(["docs/*", "docs!*", "mail/*", "mail!*"]));
    eventually("it is heard again", || mail.listeners() > listeners);
    mail.say(&log("again"));
    let message = next(&mut events);
    assert_eq!((&message["params"]["data"], logger(&message)), (&json!("again"), &json!("mail/db")));
}
