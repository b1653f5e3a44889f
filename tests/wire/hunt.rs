//! What could go wrong with sessions and streams that outlive their connections, as somebody who means harm, or has bad
//! luck, would try it.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::{Events, Wire};
use crate::support::mcp::{Post, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Seen, Upstream, progress, said};

fn get(gateway: &Gateway, session: &str, more: &str) -> Wire {
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(gateway, "GET", "/mcp", session, more));
    wire
}

/// The stream that begins, or goes on, with this GET.
#[track_caller]
fn stream(gateway: &Gateway, session: &str, more: &str) -> Events {
    let wire = get(gateway, session, more);
    wire.events()
}

fn behind(id: &str) -> String {
    format!("last-event-id: {id}\r\n")
}

fn note(data: u32) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": data } })
}

/// A request for a stream that is not the plane's own.
fn is_stream(upstream: &Upstream, seen: &Seen) -> bool {
    let mine = |it: &Seen| it.message["params"]["clientInfo"]["name"] == "test";
    let sessions: Vec<String> =
        upstream.seen().iter().filter(|it| mine(it)).map(|it| format!("up-{}-{}", it.connection, it.nth)).collect();
    seen.http == "GET" && sessions.iter().any(|session| session == seen.field("mcp-session-id"))
}

fn streams(upstream: &Upstream) -> usize {
    upstream.seen().iter().filter(|seen| is_stream(upstream, seen)).count()
}

/// `steps` tells of its progress and answers; `hold` waits after its first step; `poll` hangs up after it; `ask` asks.
fn plan() -> Plan {
    Plan::tools(&["echo", "steps", "hold", "poll", "ask"]).script(|seen, out| {
        if !["steps", "hold", "poll", "ask"].iter().any(|tool| seen.calls(tool)) {
            return Acted::Default;
        }
        out.stream();
        if seen.calls("ask") {
            out.event(&json!({ "jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {
                "message": "Colour?", "requestedSchema": { "type": "object", "properties": {} },
            }}));
            out.pass("answered");
        } else {
            out.event_bytes(&format!("id: e1\ndata: {}\n\n", progress(seen, 1)));
        }
        if seen.calls("poll") {
            out.stream_end();
            return Acted::Done;
        }
        if seen.calls("hold") {
            out.pass("go");
        }
        out.event(&progress(seen, 2));
        out.event(&said(seen, seen.value()));
        out.stream_end();
        Acted::Done
    })
}

fn with_progress(post: Post) -> Post {
    post.param("/_meta/progressToken", json!("p1"))
}

/// The id of the first message of a call's stream, which is cut then.
#[track_caller]
fn cut_after_one(events: &mut Events) -> String {
    loop {
        let event = events.next().expect("the stream is not cut").expect("it goes on");
        if event.data.is_some_and(|data| !data.is_empty()) {
            return event.id.expect("it can be resumed");
        }
    }
}

/// A session's own stream has one home, whatever shard a made-up event names.
#[test]
fn a_made_up_event_does_not_move_a_stream() {
    let upstream = plan().start();
    let gateway = Setup::new().server("up", &upstream.url()).open().shards(2).start();
    let session = open_session(&gateway, |post| post);
    // Shards 510 and 511, of which there are none: one is even, one is odd.
    let events = ["e6-1-0", "e7-1-0", "0-1-0", "1-1-0"];
    let open: Vec<Events> = events.iter().map(|event| stream(&gateway, &session, &behind(event))).collect();
    assert_eq!(streams(&upstream), 1, "one stream of the session at its server");
    drop(open);
}

/// An answer to what a server asked in a session that it has forgotten concerns nobody; the client's session goes on.
#[test]
fn an_answer_to_a_forgotten_question() {
    let upstream = plan().start();
    let gateway = Setup::new().server("up", &upstream.url()).open().shards(2).start();
    for reopened in [true, false] {
        let session = open_session(&gateway, |post| post);
        let mut events = Post::legacy_call(&session, "ask").stream(&gateway);
        let asked = events.message();
        assert_eq!(asked["method"], "elicitation/create");
        upstream.forget_sessions();
        if reopened {
            Post::legacy_call(&session, "echo").id(2).echoed(&gateway);
        }
        let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "decline" } });
        let told = Post::tell(&session, answer).to(&gateway);
        assert_eq!((told.status(), told.text()), (202, String::new()), "reopened: {reopened}");
        Post::legacy_call(&session, "echo").id(3).echoed(&gateway);
    }
    upstream.open("answered");
}

/// An answer that was to be had later is lost with its session; what the next session's stream says is none of it.
#[test]
fn an_answer_that_went_with_its_session() {
    let upstream = plan().start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = open_session(&gateway, |post| post);
    let post = with_progress(Post::legacy_call(&session, "poll"));
    let mut events = post.stream(&gateway);
    let id = cut_after_one(&mut events);
    assert!(events.rest().1.is_ok(), "the server hung up");
    upstream.forget_sessions();
    let (messages, end) = stream(&gateway, &session, &behind(&id)).rest();
    assert!(end.is_ok());
    assert_eq!((messages.len(), &messages[0]["id"]), (1, post.request_id()), "{messages:?}");
    assert_eq!(messages[0]["error"]["data"]["reason"], "server_cut", "{messages:?}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server that ends its streams as they begin, and wants them asked for again at once, is not asked without a pause.
#[test]
fn a_server_that_wants_no_pause() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            if seen.http != "GET" {
                return Acted::Default;
            }
            out.stream();
            out.event_bytes("retry: 0\n\n");
            out.stream_end();
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = open_session(&gateway, |post| post);
    let _events = stream(&gateway, &session, "");
    thread::sleep(Duration::from_secs(1));
    let asked = streams(&upstream);
    assert!((1..=20).contains(&asked), "asked {asked} times within a second");
}

/// [L] Who reads the rest of an answer on another connection is told when the session ends, without anything happening.
#[test]
fn a_resumed_answer_ends_with_its_session() {
    let upstream = plan().start();
    let gateway =
        Setup::new().server("up", &upstream.url()).open().shards(2).set("/limits/keepalive", json!("60s")).start();
    let session = open_session(&gateway, |post| post);
    let mut events = with_progress(Post::legacy_call(&session, "hold")).stream(&gateway);
    let id = cut_after_one(&mut events);
    drop(events);
    let resumed = stream(&gateway, &session, &behind(&id));
    // Until the first connection is missed, and nothing moves any more.
    thread::sleep(Duration::from_millis(300));
    let deleted = Wire::to(gateway.address).ask(&session_request(&gateway, "DELETE", "/mcp", &session, ""));
    assert_eq!(deleted.status(), 204);
    let (messages, end) = resumed.rest();
    assert!(messages.is_empty() && end.is_ok(), "{messages:?}");
    upstream.open("go");
}

/// What was permitted under a task is read under that task alone: not with a token that has lost it.
#[test]
fn an_answer_is_its_tasks() {
    let upstream = plan().start();
    let setup = Setup::new().server("up", &upstream.url()).tokens("deny").task("a").task("b");
    let gateway = setup.rule(json!({ "id": "a", "tasks": ["a"], "permit": ["up/*"] })).start();
    let token = |task| gateway.token(&Who { tasks: &[task], ..Who::default() });
    let bearer = |task| format!("authorization: Bearer {}\r\n", token(task));
    let session = open_session(&gateway, |post| post.token(&token("a")));
    let post = with_progress(Post::legacy_call(&session, "hold").token(&token("a")));
    let mut events = post.stream(&gateway);
    let id = cut_after_one(&mut events);
    drop(events);
    let mut other = stream(&gateway, &session, &(behind(&id) + &bearer("b")));
    eventually("both listen, the plane and the session", || upstream.open_streams() >= 2);
    upstream.open("go");
    upstream.say(&note(7));
    assert_eq!(other.message()["params"]["data"], 7, "its own stream, not the answer");
    let (messages, end) = stream(&gateway, &session, &(behind(&id) + &bearer("a"))).rest();
    assert!(end.is_ok());
    assert_eq!((messages.len(), text_of(&messages[1])), (2, post.value.as_str()), "{messages:?}");
}

/// Who opens and leaves a stream over and over takes nothing from others whose connections were cut.
#[test]
fn coming_and_going_costs_others_nothing() {
    let upstream = plan().start();
    let gateway = Setup::new().server("up", &upstream.url()).open().set("/limits/keepalive", json!("60s")).start();
    let (patient, restless) = (open_session(&gateway, |post| post), open_session(&gateway, |post| post));
    let mut events = stream(&gateway, &patient, "");
    let first = events.next().expect("the stream is not cut").expect("it begins").id.expect("it can be resumed");
    drop(events);
    eventually("the plane listens too", || upstream.open_streams() >= 2);
    upstream.say(&note(1));
    // More often than streams are kept for nobody.
    for _ in 0..4200 {
        let mut wire = get(&gateway, &restless, "");
        assert_eq!(wire.head().expect("a head").status, 200);
    }
    // Also what was on its way to the connection that was cut.
    assert_eq!(stream(&gateway, &patient, &behind(&first)).message()["params"]["data"], 1);
}
