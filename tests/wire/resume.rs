//! Streams that go on where their client left: answers and sessions' own streams, after cuts of either side.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::{Event, Events, Wire};
use crate::support::mcp::{LEGACY, Post, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Eras, Out, Plan, Seen, Upstream, progress, said};

fn note(text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": text } })
}

/// `steps` tells of three steps, each when it is let go, and answers. `polled` hangs up after the first, and answers
/// those who come back. The GET streams are the recorder's own.
fn plan() -> Plan {
    Plan::tools(&["steps", "polled", "broken", "echo"]).script(|seen, out| {
        if seen.calls("steps") {
            out.stream();
            for step in 1..=3 {
                out.pass(&format!("step {step}"));
                out.event(&progress(seen, step));
            }
            out.pass("answer");
            out.event(&said(seen, seen.value()));
            out.stream_end();
        } else if seen.calls("polled") || seen.calls("broken") {
            out.stream();
            out.event_bytes("id: up-0\ndata:\n\n");
            out.event_bytes(&format!("id: up-1\nretry: 15\ndata: {}\n\n", progress(seen, 1)));
            out.note(format!("hung up on {} as {}", seen.value(), seen.id()));
            if seen.name() == "polled" {
                out.stream_end();
            } else {
                out.close();
            }
        } else if seen.http == "GET" && seen.field("last-event-id").starts_with("up-") {
            rest_of_polled(seen, out);
        } else {
            return Acted::Default;
        }
        Acted::Done
    })
}

/// Twice: once with another step, once with the answer.
fn rest_of_polled(seen: &Seen, out: &mut Out<'_>) {
    let token = json!({ "progressToken": "p1", "progress": 2, "total": 3 });
    let step = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": token });
    out.stream();
    if seen.field("last-event-id") == "up-1" {
        out.event_bytes(&format!("id: up-2\nretry: 20\ndata: {step}\n\n"));
    } else {
        let stranger = json!({ "jsonrpc": "2.0", "id": 99, "result": { "stolen": true } });
        out.event_bytes(&format!("data: {stranger}\n\n"));
        let content = json!([{ "type": "text", "text": "polled" }]);
        out.event(&json!({ "jsonrpc": "2.0", "id": 1, "result": { "content": content, "isError": false } }));
    }
    out.stream_end();
}

fn pair() -> (Gateway, Upstream) {
    let upstream = plan().start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

fn with_progress(post: Post) -> Post {
    post.param("/_meta/progressToken", json!("p1"))
}

fn get(gateway: &Gateway, session: &str, last: Option<&str>) -> Events {
    let more = last.map(|last| format!("last-event-id: {last}\r\n")).unwrap_or_default();
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(gateway, "GET", "/mcp", session, &more));
    wire.events()
}

fn event(events: &mut Events) -> Event {
    events.next().expect("the stream is not cut").expect("the stream goes on")
}

fn message(event: &Event) -> Value {
    serde_json::from_str(event.data.as_deref().unwrap_or_default()).unwrap_or_default()
}

fn id(event: &Event) -> String {
    event.id.clone().unwrap_or_else(|| panic!("no id: {event:?}"))
}

/// A stream's first event in this revision: an id, and no message.
#[track_caller]
fn primed(events: &mut Events) -> String {
    let first = event(events);
    assert_eq!(first.data.as_deref(), Some(""), "{first:?}");
    let id = id(&first);
    assert!(id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{id}");
    id
}

fn step_of(event: &Event) -> Value {
    message(event)["params"]["progress"].clone()
}

#[test]
fn an_answer_goes_on_after_a_cut() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let post = with_progress(Post::legacy_call(&session, "steps"));
    let mut events = post.stream(&gateway);
    primed(&mut events);
    upstream.open("step 1");
    let first = event(&mut events);
    assert_eq!(step_of(&first), 1);
    upstream.open("step 2");
    assert_eq!(step_of(&event(&mut events)), 2);
    drop(events);
    upstream.open("step 3");
    upstream.open("answer");
    // What it saw last was the first step: the second comes again, the rest once.
    let mut events = get(&gateway, &session, Some(&id(&first)));
    assert_eq!(primed(&mut events), id(&first));
    let rest = [event(&mut events), event(&mut events), event(&mut events)];
    assert_eq!((step_of(&rest[0]), step_of(&rest[1])), (json!(2), json!(3)), "{rest:?}");
    assert_eq!((text_of(&message(&rest[2])), &message(&rest[2])["id"]), (&*post.value, &json!(1)));
    assert_eq!(events.next(), Ok(None), "and a clean end");
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "ok", "its server answered");
    assert_eq!((gateway.counted("streams_resumed"), gateway.counted("streams_torn")), (1, 0));
    // Once more: what was sent is kept for a while.
    let mut events = get(&gateway, &session, Some(&id(&rest[1])));
    primed(&mut events);
    assert_eq!(text_of(&message(&event(&mut events))), post.value);
    assert_eq!(upstream.calls().len(), 1, "nothing was called twice");
}

/// The connection that asked may still be there, as far as the gateway knows.
#[test]
fn a_client_comes_back_before_its_going_was_noticed() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let post = with_progress(Post::legacy_call(&session, "steps"));
    let mut old = post.stream(&gateway);
    let start = primed(&mut old);
    upstream.open("step 1");
    assert_eq!(step_of(&event(&mut old)), 1);
    let mut new = get(&gateway, &session, Some(&start));
    primed(&mut new);
    assert_eq!(step_of(&event(&mut new)), 1);
    for gate in ["step 2", "step 3", "answer"] {
        upstream.open(gate);
    }
    let (messages, end) = new.rest();
    assert!(end.is_ok() && messages.len() == 3, "{messages:?}");
    assert!(old.rest().0.is_empty(), "each message goes out on one stream");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Readers of earlier revisions would take an event without data for a broken message; they have ids all the same.
#[test]
fn only_the_last_revision_is_primed() {
    let (gateway, upstream) = pair();
    for gate in ["step 1", "step 2", "step 3", "answer"] {
        upstream.open(gate);
    }
    for revision in ["2025-03-26", "2025-06-18", LEGACY] {
        let opened = Post::initialize(revision).to(&gateway);
        let session = opened.field("mcp-session-id").to_owned();
        let post = with_progress(Post::legacy_call(&session, "steps"));
        let mut wire = post.without("mcp-protocol-version").begin(&gateway);
        let head = wire.peek_head();
        assert_eq!((head.field("cache-control"), head.status), ("no-cache", 200));
        let mut events = wire.events();
        if revision == LEGACY {
            primed(&mut events);
        }
        let first = event(&mut events);
        assert_eq!(step_of(&first), 1, "{revision}");
        drop(events);
        let mut events = get(&gateway, &session, Some(&id(&first)));
        let next = event(&mut events);
        assert_eq!(next.data.as_deref() == Some(""), revision == LEGACY, "{revision}: {next:?}");
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Without a session there is nowhere to come back to: no ids.
#[test]
fn what_cannot_be_resumed_does_not_look_so() {
    let (gateway, upstream) = pair();
    let mut call = Post::legacy_call("", "polled");
    call = with_progress(call.without("mcp-session-id"));
    let (events, mut ids) = (call.stream(&gateway), 0);
    let mut events = events;
    let mut last = Value::Null;
    while let Ok(Some(event)) = events.next() {
        ids += usize::from(event.id.is_some());
        last = message(&event);
    }
    assert_eq!((ids, &last["error"]["data"]["reason"]), (0, &json!("server_cut")), "{last}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server that hangs up on purpose, twice (SEP-1699), and one whose stream breaks where it can go on.
#[test]
fn a_server_is_polled() {
    for tool in ["polled", "broken"] {
        let (gateway, upstream) = pair();
        let session = open_session(&gateway, |post| post);
        let post = with_progress(Post::legacy_call(&session, tool));
        let mut events = post.stream(&gateway);
        primed(&mut events);
        let first = event(&mut events);
        assert_eq!(step_of(&first), 1);
        assert!(!id(&first).starts_with("up-"), "the server's ids are its own");
        if tool == "polled" {
            assert_eq!(events.next(), Ok(None), "the client's stream ends as its server's did");
        } else {
            assert!(events.next().is_err(), "one that breaks is seen to");
        }
        let mut events = get(&gateway, &session, Some(&id(&first)));
        primed(&mut events);
        let second = event(&mut events);
        assert_eq!(step_of(&second), 2);
        assert_eq!(events.next(), Ok(None));
        let mut events = get(&gateway, &session, Some(&id(&second)));
        primed(&mut events);
        assert_eq!(text_of(&message(&event(&mut events))), "polled", "somebody else's answer is dropped");
        assert_eq!(events.next(), Ok(None));
        let asked = upstream.seen().into_iter().filter(|seen| seen.http == "GET");
        let asked: Vec<String> = asked.map(|seen| seen.field("last-event-id").to_owned()).collect();
        let polls: Vec<&String> = asked.iter().filter(|last| !last.is_empty()).collect();
        assert_eq!(polls, ["up-1", "up-2"]);
        let records = oracle::check(&gateway, &[("up", &upstream)]);
        let want = if tool == "polled" { "detached" } else { "cut" };
        assert_eq!(oracle::outcome(&records, &post.value)["status"], want);
        assert_eq!(gateway.counted("events_foreign"), 1);
    }
}

/// The end of a stream that is resumed says when to come back, as its server did.
#[test]
fn when_to_come_back() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let post = with_progress(Post::legacy_call(&session, "polled"));
    let response = post.to(&gateway);
    let text = response.text();
    let retries: Vec<&str> = text.lines().filter(|line| line.starts_with("retry:")).collect();
    assert_eq!(retries, ["retry: 1000", "retry: 15"], "{text}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [I7] Whoever learns an event's id gets nothing with it: not another session of the same owner, not another owner.
#[test]
fn events_belong_to_their_session() {
    let upstream = plan().start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let (mine, other) = (open_session(&gateway, |post| post), open_session(&gateway, |post| post));
    let post = with_progress(Post::legacy_call(&mine, "steps"));
    let mut events = post.stream(&gateway);
    let start = primed(&mut events);
    for gate in ["step 1", "step 2", "step 3", "answer"] {
        upstream.open(gate);
    }
    assert!(events.rest().1.is_ok());
    // It gets its own stream, with an id of its own.
    let mut events = get(&gateway, &other, Some(&start));
    assert_ne!(primed(&mut events), start);
    eventually("its stream is open", || upstream.open_streams() >= 2);
    upstream.say(&note("to all"));
    assert_eq!(message(&event(&mut events))["params"]["data"], "to all");
    // What is no id of ours is as none.
    for made_up in ["x", "0-0-0", "", "zz-1-1", "0-1-2-3", "up-1"] {
        primed(&mut get(&gateway, &mine, Some(made_up)));
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_sessions_own_stream_goes_on() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let mut events = get(&gateway, &session, None);
    let start = primed(&mut events);
    eventually("both streams are open", || upstream.open_streams() >= 2);
    upstream.say(&note("one"));
    let one = event(&mut events);
    assert_eq!(message(&one)["params"]["data"], "one");
    upstream.say(&note("two"));
    assert_eq!(message(&event(&mut events))["params"]["data"], "two");
    drop(events);
    upstream.say(&note("three"));
    // It saw the first; the second was sent, and comes again; the third waited.
    let mut events = get(&gateway, &session, Some(&id(&one)));
    primed(&mut events);
    let texts = [event(&mut events), event(&mut events)].map(|event| message(&event)["params"]["data"].clone());
    assert_eq!(texts, ["two", "three"]);
    drop(events);
    upstream.say(&note("four"));
    // Without a last event it gets what was never sent.
    let mut events = get(&gateway, &session, None);
    assert_ne!(primed(&mut events), start);
    assert_eq!(message(&event(&mut events))["params"]["data"], "four");
    let streams = upstream.seen().into_iter().filter(|seen| seen.http == "GET").count();
    assert_eq!(streams, 1, "the server has noticed nothing");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Of several connections the newest gets the messages, and each goes out once.
#[test]
fn several_streams_of_one_session() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let mut first = get(&gateway, &session, None);
    let start = primed(&mut first);
    let mut second = get(&gateway, &session, None);
    primed(&mut second);
    eventually("both of the server's streams are open", || upstream.open_streams() >= 2);
    upstream.say(&note("a"));
    assert_eq!(message(&event(&mut second))["params"]["data"], "a");
    drop(second);
    eventually("it is gone", || {
        upstream.say(&note("b"));
        first.comes(Duration::from_millis(50))
    });
    assert_eq!(message(&event(&mut first))["params"]["data"], "b");
    // Who resumes the first one takes its place.
    let mut again = get(&gateway, &session, Some(&start));
    primed(&mut again);
    assert_eq!(message(&event(&mut again))["params"]["data"], "b", "its own messages, not the second's");
    assert!(first.rest().1.is_ok(), "the connection that had it ends as it should");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server's stream that ends or breaks is no affair of the client's: the gateway goes on where the server left.
#[test]
fn a_servers_stream_ends() {
    for clean in [true, false] {
        let upstream = Plan::tools(&["echo"])
            .script(move |seen, out| {
                if seen.http != "GET" {
                    return Acted::Default;
                }
                out.stream();
                if seen.field("last-event-id") == "up-1" {
                    out.event(&note("two"));
                    out.gone(Duration::from_secs(20));
                } else {
                    out.event_bytes(&format!("id: up-1\nretry: 30\ndata: {}\n\n", note("one")));
                    if clean {
                        out.stream_end();
                    } else {
                        out.close();
                    }
                }
                Acted::Done
            })
            .start();
        let gateway = Setup::new().server("up", &upstream.url()).open().start();
        let session = open_session(&gateway, |post| post);
        let mut events = get(&gateway, &session, None);
        primed(&mut events);
        let texts = [event(&mut events), event(&mut events)].map(|event| message(&event)["params"]["data"].clone());
        assert_eq!(texts, ["one", "two"], "each once, on one stream");
        drop(events);
        oracle::check(&gateway, &[("up", &upstream)]);
    }
}

/// Tells scripts which of the server's sessions is this client's.
fn theirs(gateway: &Gateway, upstream: &Upstream, session: &str) {
    let post = Post::legacy_call(session, "echo");
    post.echoed(gateway);
    let call = upstream.wait("the call", |seen| seen.value() == post.value);
    upstream.open(&format!("theirs {}", call.field("mcp-session-id")));
}

/// A server that has lost its sessions, and with them their streams: the client notices nothing.
#[test]
fn a_server_forgets_a_session_with_a_stream() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            // The first stream of the client's session is there until the test lets it end.
            let theirs = out.passes(&format!("theirs {}", seen.field("mcp-session-id")));
            if seen.http == "GET" && theirs && !out.passes("ended") {
                out.stream();
                out.note("listening");
                out.pass("ended");
                out.stream_end();
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = open_session(&gateway, |post| post);
    theirs(&gateway, &upstream, &session);
    let mut events = get(&gateway, &session, None);
    primed(&mut events);
    upstream.noted("listening");
    upstream.forget_sessions();
    upstream.open("ended");
    eventually("the new stream is heard", || {
        upstream.say(&note("again"));
        events.comes(Duration::from_millis(50))
    });
    assert_eq!(message(&event(&mut events))["params"]["data"], "again");
    assert_eq!(gateway.counted("sessions_reopened"), 1);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [I9] Whoever does not read makes the server wait, and is closed in the end; nothing grows meanwhile.
#[test]
fn a_slow_reader_of_its_own_stream() {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    const EVENT_BYTES: usize = 64 * 1024;
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            // The plane listens too, and reads as fast as it can.
            if seen.http != "GET" || !out.passes(&format!("theirs {}", seen.field("mcp-session-id"))) {
                return Acted::Default;
            }
            let large = note(&"x".repeat(EVENT_BYTES));
            out.stream();
            while out.is_open() {
                out.event(&large);
                SENT.fetch_add(1, Ordering::Relaxed);
            }
            out.note("closed");
            Acted::Done
        })
        .eras(Eras::Legacy)
        .start();
    let limits = json!({ "write_stall": "4s", "resume": "1s" });
    let gateway = Setup::new().server("up", &upstream.url()).set("/limits", limits).open().start();
    let session = open_session(&gateway, |post| post);
    theirs(&gateway, &upstream, &session);
    let before = gateway.resident_bytes();
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(&gateway, "GET", "/mcp", &session, ""));
    let begun = SENT.load(Ordering::Relaxed);
    let mut seen = begun;
    eventually("the server has to wait", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = SENT.load(Ordering::Relaxed);
        std::mem::replace(&mut seen, now) == now && now > begun
    });
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes of {}", (seen - begun) * EVENT_BYTES);
    // Cut off, in the middle of what it did not read; and when it does not come back the server is let go.
    upstream.noted("closed");
    assert!(wire.try_response().is_err());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// The same of an answer. Nobody comes back for it; its server is read to the end all the same, because a client that
/// leaves cancels nothing.
#[test]
fn a_slow_reader_of_an_answer() {
    const EVENTS: usize = 400;
    let upstream = Plan::tools(&["flood"])
        .script(|seen, out| {
            if !seen.calls("flood") {
                return Acted::Default;
            }
            let large = note(&"x".repeat(64 * 1024));
            out.stream();
            for _ in 0..EVENTS {
                out.event(&large);
            }
            out.event(&said(seen, seen.value()));
            out.stream_end();
            out.note(format!("flooded {}", out.is_open()));
            Acted::Done
        })
        .start();
    let limits = json!({ "write_stall": "1s", "resume": "2s" });
    let gateway = Setup::new().server("up", &upstream.url()).set("/limits", limits).open().start();
    let session = open_session(&gateway, |post| post);
    let before = gateway.resident_bytes();
    let post = Post::legacy_call(&session, "flood");
    let wire = post.begin(&gateway);
    upstream.noted("flooded true");
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "ok");
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
    drop(wire);
}

/// On whichever shard a client comes back: its events are on the one that served it, or at its session's home.
#[test]
fn streams_go_on_over_shards() {
    let plan = || {
        Plan::tools(&["steps"]).script(|seen, out| {
            if !seen.calls("steps") {
                return Acted::Default;
            }
            out.stream();
            for step in 1..=3 {
                out.event(&progress(seen, step));
            }
            out.event(&said(seen, seen.value()));
            out.stream_end();
            Acted::Done
        })
    };
    for driver in ["auto", "epoll"] {
        let upstream = plan().start();
        let gateway = Setup::new().server("up", &upstream.url()).open().shards(2).driver(driver).start();
        for _ in 0..10 {
            let session = open_session(&gateway, |post| post);
            let mut own = get(&gateway, &session, None);
            let start = primed(&mut own);
            let post = with_progress(Post::legacy_call(&session, "steps"));
            let mut events = post.stream(&gateway);
            primed(&mut events);
            let first = event(&mut events);
            drop(events);
            let mut events = get(&gateway, &session, Some(&id(&first)));
            primed(&mut events);
            assert_eq!([step_of(&event(&mut events)), step_of(&event(&mut events))], [json!(2), json!(3)]);
            assert_eq!(text_of(&message(&event(&mut events))), post.value);
            assert_eq!(events.next(), Ok(None));
            drop(own);
            let mut own = get(&gateway, &session, Some(&start));
            assert_eq!(primed(&mut own), start, "it is found where it was");
            // What nobody knows on the shard it names is looked for no further: the session's own stream is at home.
            for made_up in ["0-1-1", "1-1-1"] {
                primed(&mut get(&gateway, &session, Some(made_up)));
            }
        }
        let asked = upstream.seen().into_iter().filter(|seen| seen.http == "GET").count();
        assert_eq!(asked, 10, "each session has one stream at its server");
        assert!(gateway.counted("connections_moved") > 0);
        assert_eq!(gateway.counted("streams_resumed"), 20);
        oracle::check(&gateway, &[("up", &upstream)]);
    }
}

/// [I9] Nobody comes back for ever: what is kept is kept for so long.
#[test]
fn what_nobody_fetches_is_forgotten() {
    let upstream = plan().start();
    let gateway = Setup::new().server("up", &upstream.url()).set("/limits/resume", json!("300ms")).open().start();
    let session = open_session(&gateway, |post| post);
    let post = with_progress(Post::legacy_call(&session, "steps"));
    let mut events = post.stream(&gateway);
    let start = primed(&mut events);
    drop(events);
    for gate in ["step 1", "step 2", "step 3", "answer"] {
        upstream.open(gate);
    }
    let begun = Instant::now();
    eventually("it is forgotten", || {
        // Instead it gets its session's own stream, which has another id.
        std::thread::sleep(Duration::from_millis(400));
        primed(&mut get(&gateway, &session, Some(&start))) != start
    });
    assert!(begun.elapsed() < Duration::from_secs(15));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A session that ends takes its stream with it.
#[test]
fn a_session_ends_with_its_stream() {
    let (gateway, upstream) = pair();
    let session = open_session(&gateway, |post| post);
    let mut events = get(&gateway, &session, None);
    primed(&mut events);
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(&gateway, "DELETE", "/mcp", &session, ""));
    let (messages, end) = events.rest();
    assert!(messages.is_empty());
    // Its connection is as good as any other.
    let next = Post::call("echo");
    next.is_echoed(&end.expect("the stream ends as it should").ask(&next.bytes(&gateway)));
    assert!(wire.response().status() < 300);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S4] Who hears nothing for a while hears that nothing has happened.
#[test]
fn a_silent_stream_of_its_own_is_kept_alive() {
    let upstream = plan().start();
    let gateway = Setup::new().server("up", &upstream.url()).set("/limits/keepalive", json!("200ms")).open().start();
    let session = open_session(&gateway, |post| post);
    let mut events = get(&gateway, &session, None);
    primed(&mut events);
    let mut wire = events.into_wire();
    let mut said = String::new();
    while said.matches(": keep-alive\n\n").count() < 3 {
        said.push_str(&String::from_utf8(wire.more()).expect("comments are text"));
    }
    assert!(!said.contains("data:"), "{said}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What waits is weighed again for whoever comes for it: another task has other rights.
#[test]
fn what_waits_is_weighed_for_who_reads_it() {
    let upstream = plan().start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .tokens("deny")
        .task("ask")
        .task("look")
        .rule(json!({ "id": "calls", "permit": ["up/*"] }))
        .rule(json!({ "id": "asks", "tasks": ["ask"], "permit": ["up!elicitation", "up!resource:note://open"] }))
        .start();
    let token = gateway.token(&Who { tasks: &["ask", "look"], ..Who::default() });
    let session = open_session(&gateway, |post| post.token(&token));
    let get = |task: &str| {
        let mut wire = Wire::to(gateway.address);
        let more = format!("authorization: Bearer {token}\r\nportcullis-task: {task}\r\n");
        wire.send(&session_request(&gateway, "GET", "/mcp", &session, &more));
        wire.events()
    };
    let ask =
        |id: &str| json!({ "jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": { "message": "?" } });
    let updated =
        json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": "note://open" } });
    let mut events = get("ask");
    primed(&mut events);
    eventually("both of the server's streams are open", || upstream.open_streams() >= 2);
    upstream.say(&ask("one"));
    assert_eq!(message(&event(&mut events))["method"], "elicitation/create");
    drop(events);
    upstream.say(&ask("two"));
    upstream.say(&updated);
    upstream.say(&note("for all"));
    let mut events = get("look");
    primed(&mut events);
    assert_eq!(message(&event(&mut events)), note("for all"));
    let refusal = upstream.wait("a refusal", |seen| seen.message.get("error").is_some());
    assert_eq!((&refusal.message["id"], &refusal.message["error"]["code"]), (&json!("two"), &json!(-32_601)));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server may say with 400 that it does not know the session, as many do.
#[test]
fn a_forgotten_session_by_another_status() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            let forgotten = out.passes("forgotten") && out.passes(&format!("theirs {}", seen.field("mcp-session-id")));
            if seen.http != "GET" || !forgotten {
                return Acted::Default;
            }
            let error = json!({ "code": -32_000, "message": "Bad Request: No valid session ID provided" });
            out.json(400, "", &json!({ "jsonrpc": "2.0", "id": null, "error": error }));
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = open_session(&gateway, |post| post);
    theirs(&gateway, &upstream, &session);
    upstream.open("forgotten");
    primed(&mut get(&gateway, &session, None));
    assert_eq!(gateway.counted("sessions_reopened"), 1);
    oracle::check(&gateway, &[("up", &upstream)]);
}
