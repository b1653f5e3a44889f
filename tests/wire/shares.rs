//! Shares: how much one subject, one address and all of them together may have under way, what those are told who want
//! more, and that every share comes back.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use portcullis::base::limits;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who, eventually};
use crate::support::http::{Events, Response, Wire};
use crate::support::mcp::{LEGACY, Post, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::tls::{Authority, Shelf};
use crate::support::upstream::{Acted, Plan, Upstream, progress, said};

const ENDINGS: usize = 1_000;
const ENDERS: usize = 4;
const CALLS: usize = 6;
const STREAMS: usize = 4;

/// `hold` is answered when the test says so, or when nobody waits any more; `nap` after a moment; `ask` when it was
/// answered itself.
fn upstream() -> Upstream {
    let asked = AtomicUsize::new(0);
    Plan::tools(&["echo", "hold", "nap", "ask", "flow", "secret"])
        .script(move |seen, out| {
            if seen.message.get("result").is_some() || seen.method() == "notifications/cancelled" {
                asked.fetch_add(1, Ordering::AcqRel);
            }
            match seen.name() {
                _ if seen.method() != "tools/call" => return Acted::Default,
                "hold" => {
                    let gate = seen.message["params"]["arguments"]["gate"].as_str().unwrap_or("open").to_owned();
                    while !out.passes(&gate) {
                        if out.gone(Duration::from_millis(20)) {
                            return Acted::Done;
                        }
                    }
                    return Acted::Default;
                }
                "nap" => thread::sleep(Duration::from_millis(3)),
                "ask" => {
                    let before = asked.load(Ordering::Acquire);
                    out.stream();
                    out.event(&json!({
                        "jsonrpc": "2.0", "id": "ask-1", "method": "elicitation/create", "params": { "message": "?" },
                    }));
                    while asked.load(Ordering::Acquire) == before && !out.gone(Duration::from_millis(20)) {}
                    out.event(&said(seen, seen.value()));
                    out.stream_end();
                    return Acted::Done;
                }
                "flow" => {
                    out.stream();
                    out.event(&progress(seen, 1));
                    thread::sleep(Duration::from_millis(3));
                    out.event(&said(seen, seen.value()));
                    out.stream_end();
                    return Acted::Done;
                }
                _ => {}
            }
            Acted::Default
        })
        .start()
}

/// A gateway for tokens, on one shard, with these limits.
fn house(limits: &Value) -> (Gateway, Upstream) {
    let upstream = upstream();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .open()
        .rule(json!({ "id": "secret", "forbid": ["up/secret"] }))
        .tokens("deny")
        .set("/limits", limits.clone())
        .start();
    (gateway, upstream)
}

fn token(gateway: &Gateway, subject: &str) -> String {
    gateway.token(&Who { subject, ..Who::default() })
}

/// A call that stays until the test opens `gate`, or drops it; its server has it.
fn hold(gateway: &Gateway, upstream: &Upstream, post: &Post) -> Wire {
    let wire = post.begin(gateway);
    upstream.wait("a held call", |seen| seen.value() == post.value);
    wire
}

/// Refused for now, in the words of the protocol, with the id of the request.
#[track_caller]
fn turned_away(answer: &Response, status: u16, id: &Value) {
    assert_eq!(answer.status(), status, "{}", answer.text());
    let later = answer.field("retry-after").parse::<u32>();
    assert!(later.is_ok_and(|seconds| seconds > 0), "{:?}", answer.head);
    let body = answer.json();
    assert_eq!((&body["error"]["code"], &body["id"]), (&json!(-32_603), id), "{body}");
}

/// A subscription that has been acknowledged, or the refusal.
fn listen(gateway: &Gateway, token: &str) -> Result<Events, Response> {
    let post = Post::modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut wire = post.id("sub").token(token).begin(gateway);
    let first = wire.peek_head();
    if first.status != 200 {
        return Err(wire.response());
    }
    let mut events = wire.events();
    assert_eq!(events.message()["method"], "notifications/subscriptions/acknowledged");
    Ok(events)
}

/// [S6] A subject has its share of calls: who wants more is told when to come again, in either era, with the id of the
/// request and on a connection that goes on; other subjects notice nothing; and what has ended is free again.
#[test]
fn calls_of_a_subject() {
    let (gateway, upstream) = house(&json!({ "calls_per_subject": 2 }));
    let (ada, bob) = (token(&gateway, "ada"), token(&gateway, "bob"));
    let session = open_session(&gateway, |post| post.token(&ada));
    let held = [Post::call("hold").token(&ada), Post::legacy_call(&session, "hold").token(&ada)];
    let mut wires = held.each_ref().map(|post| hold(&gateway, &upstream, post));
    let mut kept = Wire::to(gateway.address);
    let over = Post::call("echo").id("one-more").token(&ada);
    turned_away(&kept.ask(&over.bytes(&gateway)), 429, &json!("one-more"));
    let legacy = Post::legacy_call(&session, "echo").id(77).token(&ada);
    turned_away(&kept.ask(&legacy.bytes(&gateway)), 429, &json!(77));
    let list = Post::modern("tools/list", json!({})).id("list").token(&ada);
    turned_away(&kept.ask(&list.bytes(&gateway)), 429, &json!("list"));
    for _ in 0..3 {
        Post::call("echo").token(&bob).echoed(&gateway);
    }
    assert!(upstream.calls().iter().all(|call| ![&over.value, &legacy.value].contains(&&call.value().to_owned())));
    upstream.open("open");
    for (post, wire) in held.iter().zip(&mut wires) {
        post.is_echoed(&wire.response());
    }
    let again = Post::call("echo").token(&ada);
    again.is_echoed(&kept.ask(&again.bytes(&gateway)));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    let busy = oracle::of_kind(&records, "decision").filter(|it| it["reason"] == "busy" && it["subject"] == "ada");
    assert_eq!(busy.count(), 3, "{records:#?}");
}

/// [S6] A subject that has all it may have can still end it: answers to what its calls ask, and cancellations, are no
/// calls.
#[test]
fn what_ends_a_call_is_none() {
    let (gateway, upstream) = house(&json!({ "calls_per_subject": 1 }));
    let ada = token(&gateway, "ada");
    let session = open_session(&gateway, |post| post.token(&ada));
    let answer = json!({ "jsonrpc": "2.0", "id": 0, "result": { "action": "accept", "content": {} } });
    let cancelled =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1, "reason": "r" } });
    for mut told in [answer, cancelled] {
        let post = Post::legacy_call(&session, "ask").token(&ada);
        let mut events = post.stream(&gateway);
        let asked = events.message();
        assert_eq!(asked["method"], "elicitation/create");
        if told.get("id").is_some() {
            told["id"] = asked["id"].clone();
        }
        let over = Post::legacy_call(&session, "echo").id(2).token(&ada);
        turned_away(&over.to(&gateway), 429, &json!(2));
        let told = Post::tell(&session, told).token(&ada).to(&gateway);
        assert_eq!(told.status(), 202, "{}", told.text());
        assert_eq!(text_of(&events.message()), post.value);
        assert!(events.rest().1.is_ok());
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S6] Who waits for each answer never has more than one call under way: a share of one is enough for it, whatever it asks
/// and however it is answered.
#[test]
fn one_after_another() {
    let (gateway, upstream) = house(&json!({ "calls_per_subject": 1 }));
    let ada = token(&gateway, "ada");
    let session = open_session(&gateway, |post| post.token(&ada));
    for _ in 0..40 {
        let modern =
            [Post::call("echo"), Post::call("secret"), Post::call("flow"), Post::modern("tools/list", json!({}))];
        let legacy = ["echo", "secret", "flow"].map(|tool| Post::legacy_call(&session, tool));
        let rest = [Post::legacy(&session, "ping", json!({})), Post::initialize(LEGACY), Post::call("echo").body("{")];
        for post in modern.into_iter().chain(legacy).chain(rest) {
            let answer = post.token(&ada).to(&gateway);
            assert!(matches!(answer.status(), 200 | 400), "{}", answer.text());
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S6] A subject has its share of streams, of both eras together; they take nothing of its calls; and one that has ended,
/// whoever ended it, is free again.
#[test]
fn streams_of_a_subject() {
    let (gateway, upstream) = house(&json!({ "streams_per_subject": 2, "calls_per_subject": 1 }));
    let (ada, bob) = (token(&gateway, "ada"), token(&gateway, "bob"));
    let session = open_session(&gateway, |post| post.token(&ada));
    let get = || {
        let more = format!("authorization: Bearer {ada}\r\n");
        let mut wire = Wire::to(gateway.address);
        wire.send(&session_request(&gateway, "GET", "/mcp", &session, &more));
        wire
    };
    for _ in 0..3 {
        // Those of the round before, that were left, are free by and by.
        let mut first = None;
        eventually("there is room for one", || {
            first = listen(&gateway, &ada).ok();
            first.is_some()
        });
        let mut second = None;
        eventually("and for another", || {
            let mut wire = get();
            second = (wire.peek_head().status == 200).then(|| wire.events());
            second.is_some()
        });
        turned_away(&listen(&gateway, &ada).expect_err("there are two"), 429, &json!("sub"));
        let over = get().response();
        assert_eq!(over.status(), 429, "{}", over.text());
        assert!(
            over.field("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0) && over.json()["id"].is_null()
        );
        drop(listen(&gateway, &bob).expect("somebody else has a share too"));
        Post::call("echo").token(&ada).echoed(&gateway);
        drop(first);
        eventually("a stream that was left is free", || listen(&gateway, &ada).is_ok());
        drop(second);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S6] All subjects together have a bound too, for calls and for streams, and nobody's share is a right to more.
#[test]
fn all_together() {
    let (gateway, upstream) = house(&json!({ "streams": 2, "calls": 8 }));
    let streams: Vec<Events> =
        ["a", "b"].iter().map(|who| listen(&gateway, &token(&gateway, who)).expect("there is room")).collect();
    turned_away(&listen(&gateway, &token(&gateway, "c")).expect_err("there are two"), 503, &json!("sub"));
    drop(streams);
    eventually("they are free again", || listen(&gateway, &token(&gateway, "c")).is_ok());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [R5] [S6] The more is under way, the more is refused, and what is missed least goes first: tokens that must be verified,
/// then what stays for long, then what is asked beside calls, calls last. What ends things is always taken.
#[test]
fn the_least_missed_goes_first() {
    let (gateway, upstream) = house(&json!({ "calls": 8 }));
    let ada = token(&gateway, "ada");
    let session = open_session(&gateway, |post| post.token(&ada));
    let mut held = Vec::new();
    let mut hold_to = |count: usize| {
        while held.len() < count {
            held.push(hold(&gateway, &upstream, &Post::call("hold").token(&ada)));
        }
    };
    let status = |post: Post| post.to(&gateway).status();
    let stranger = |name: &str| status(Post::call("echo").token(&token(&gateway, name)));
    let lasting = || listen(&gateway, &ada).map_or_else(|answer| answer.status(), |_| 200);
    let asking = || status(Post::modern("tools/list", json!({})).token(&ada));
    let call = || status(Post::call("echo").token(&ada));
    hold_to(3);
    assert_eq!((stranger("s1"), lasting(), asking(), call()), (200, 200, 200, 200), "three of eight");
    hold_to(4);
    assert_eq!((stranger("s2"), lasting(), asking(), call()), (503, 200, 200, 200), "four of eight");
    hold_to(6);
    assert_eq!((stranger("s3"), lasting(), asking(), call()), (503, 503, 200, 200), "six of eight");
    hold_to(7);
    assert_eq!((stranger("s4"), lasting(), asking(), call()), (503, 503, 503, 200), "seven of eight");
    hold_to(8);
    assert_eq!((stranger("s5"), lasting(), asking(), call()), (503, 503, 503, 503), "eight of eight");
    turned_away(&Post::call("echo").id("x").token(&ada).to(&gateway), 503, &json!("x"));
    turned_away(&Post::legacy_call(&session, "echo").id(5).token(&ada).to(&gateway), 503, &json!(5));
    let told = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 9 } });
    assert_eq!(status(Post::tell(&session, told).token(&ada)), 202, "a cancellation is taken");
    let more = format!("authorization: Bearer {ada}\r\n");
    let end = Wire::to(gateway.address).ask(&session_request(&gateway, "DELETE", "/mcp", &session, &more));
    assert!(end.status() < 300, "the end of a session is taken: {}", end.text());
    upstream.open("open");
    assert!(held.iter_mut().all(|wire| wire.response().status() == 200));
    assert_eq!((stranger("s6"), lasting(), asking(), call()), (200, 200, 200, 200), "nothing is left of it");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S6] [P6] However calls and streams end, a thousand times: nothing of a share is lost, and nothing of it is given out
/// twice.
#[test]
fn shares_are_whole_after_all_endings() {
    let (gateway, upstream) =
        house(&json!({ "calls_per_subject": CALLS, "streams_per_subject": STREAMS, "calls": 64, "streams": 64 }));
    let ada = token(&gateway, "ada");
    let session = open_session(&gateway, |post| post.token(&ada));
    let files = gateway.open_files();
    thread::scope(|scope| {
        for ender in 0..ENDERS {
            let (gateway, ada, session) = (&gateway, &ada, &session);
            scope.spawn(move || {
                for number in (ender..ENDINGS).step_by(ENDERS) {
                    end_somehow(gateway, ada, session, number);
                }
            });
        }
    });
    // Whatever was left behind is noticed.
    let posts: Vec<Post> = (0..CALLS).map(|_| Post::call("hold").token(&ada)).collect();
    let mut held: Vec<Wire> = Vec::new();
    for post in &posts {
        held.push(taken(&gateway, &upstream, post));
    }
    turned_away(&Post::call("echo").id("over").token(&ada).to(&gateway), 429, &json!("over"));
    let mut streams: Vec<Events> = Vec::new();
    eventually("all streams can be had", || {
        streams.extend(listen(&gateway, &ada).ok());
        streams.len() == STREAMS
    });
    turned_away(&listen(&gateway, &ada).expect_err("no more than its share"), 429, &json!("sub"));
    upstream.open("open");
    for (post, wire) in posts.iter().zip(&mut held) {
        post.is_echoed(&wire.response());
    }
    drop((held, streams));
    eventually("no descriptor is left", || gateway.open_files() <= files + 8);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Holds a call as soon as there is room for one.
fn taken(gateway: &Gateway, upstream: &Upstream, post: &Post) -> Wire {
    let mut wire = None;
    eventually("a call can be had", || {
        let mut begun = post.begin(gateway);
        while !begun.comes(Duration::from_millis(10)) {
            if upstream.calls().iter().any(|seen| seen.value() == post.value) {
                wire = Some(begun);
                return true;
            }
        }
        assert_eq!(begun.response().status(), 429);
        false
    });
    wire.expect("it was set")
}

/// One request that ends in one of the many ways, chosen by its number.
fn end_somehow(gateway: &Gateway, ada: &str, session: &str, number: usize) {
    let modern = |tool: &str| Post::call(tool).token(ada);
    let legacy = |tool: &str| Post::legacy_call(session, tool).id(format!("n{number}")).token(ada);
    let answered = |post: &Post| drop(post.begin(gateway).try_response());
    let left = |post: &Post| drop(post.begin(gateway));
    let pause = || thread::sleep(Duration::from_millis(u64::try_from(number % 5).unwrap_or(0)));
    match number % 14 {
        0 => answered(&modern("echo")),
        1 => answered(&modern("secret")),
        2 => answered(&modern("echo").body("{")),
        3 => answered(&legacy("nap")),
        4 => left(&modern("hold")),
        5 => modern("hold").begin(gateway).reset(),
        6 => left(&legacy("nap")),
        7 => answered(&modern("flow")),
        8 => {
            let wire = modern("flow").begin(gateway);
            pause();
            drop(wire);
        }
        9 => {
            let wire = legacy("flow").begin(gateway);
            pause();
            wire.reset();
        }
        10 => drop(listen(gateway, ada)),
        11 => {
            let mut wire = Wire::to(gateway.address);
            let more = format!("authorization: Bearer {ada}\r\n");
            wire.send(&session_request(gateway, "GET", "/mcp", session, &more));
            pause();
            drop(wire);
        }
        12 => {
            // Its body never comes whole.
            let bytes = modern("echo").bytes(gateway);
            let mut wire = Wire::to(gateway.address);
            wire.send(&bytes[..bytes.len() - 7]);
            pause();
        }
        _ => answered(&Post::modern("tools/list", json!({})).token(ada)),
    }
}

/// [S6] One address has its share of connections: one more gets an answer that says so, before its end; other addresses
/// notice nothing; and who leaves makes room.
#[test]
fn connections_of_an_address() {
    let upstream = upstream();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .open()
        .set("/limits", json!({ "connections_per_address": 3 }))
        .start();
    let mut held: Vec<Wire> = (0..3).map(|_| Wire::to(gateway.address)).collect();
    held.iter_mut().for_each(|wire| echoes(wire, &gateway));
    for silent in [false, true] {
        let mut over = Wire::to(gateway.address);
        if !silent {
            over.send(&Post::call("echo").bytes(&gateway));
        }
        let answer = over.response();
        assert_eq!((answer.status(), answer.field("connection")), (503, "close"), "{}", answer.text());
        assert!(answer.field("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
        assert_eq!(answer.json()["error"]["code"], -32_603);
        assert!(over.at_end(PATIENCE));
    }
    let neighbour = IpAddr::from(Ipv4Addr::new(127, 0, 0, 2));
    echoes(&mut Wire::from(neighbour, gateway.address), &gateway);
    held.iter_mut().for_each(|wire| echoes(wire, &gateway));
    held.pop();
    eventually("who leaves makes room", || {
        let mut wire = Wire::to(gateway.address);
        wire.send(&Post::call("echo").bytes(&gateway));
        wire.response().status() == 200
    });
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S6] Where the connection is to be encrypted, one too many just ends: an answer would cost a handshake.
#[test]
fn one_encrypted_connection_too_many() {
    let (authority, shelf) = (Authority::new("servers"), Shelf::new());
    let pair = shelf.pair("c", &authority.issue(&["gate.test"]));
    let upstream = upstream();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .open()
        .set("/listen", json!([{ "address": "127.0.0.1:0", "tls": pair }]))
        .set("/limits", json!({ "connections_per_address": 1 }))
        .start();
    let mut held = authority.client().connect(gateway.address).expect("the first one is welcome");
    echoes(&mut held, &gateway);
    assert!(authority.client().connect(gateway.address).is_err(), "there is one");
    echoes(&mut held, &gateway);
    drop(held);
    eventually("there is room again", || authority.client().connect(gateway.address).is_ok());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S6] At the bound of all connections idle ones give way to new ones, first those that never asked for anything; ones at
/// work never do, and when there are only such a new one is told that there is no room.
#[test]
fn idle_connections_give_way() {
    let upstream = upstream();
    let gateway = Setup::new().server("up", &upstream.url()).open().set("/limits", json!({ "connections": 4 })).start();
    let mut used: Vec<Wire> = (0..2).map(|_| Wire::to(gateway.address)).collect();
    used.iter_mut().for_each(|wire| echoes(wire, &gateway));
    let post = Post::call("hold");
    let mut working = hold(&gateway, &upstream, &post);
    let mut never = Wire::to(gateway.address);
    let mut fifth = Wire::to(gateway.address);
    echoes(&mut fifth, &gateway);
    assert!(never.at_end(PATIENCE), "the one that never asked for anything ends");
    used.iter_mut().for_each(|wire| echoes(wire, &gateway));
    // Now all idle ones have been of use: one of them goes, and three calls hold all but one place.
    let posts = [Post::call("hold"), Post::call("hold"), Post::call("hold")];
    let mut more: Vec<Wire> = posts.iter().map(|post| hold(&gateway, &upstream, post)).collect();
    for mut wire in used.into_iter().chain([fifth]) {
        assert!(wire.at_end(PATIENCE), "it gave way to a call");
    }
    let over = Post::call("echo").to(&gateway);
    assert!(over.status() == 503 && over.field("retry-after") == "1", "{}", over.text());
    upstream.open("open");
    post.is_echoed(&working.response());
    for (post, wire) in posts.iter().zip(&mut more) {
        post.is_echoed(&wire.response());
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S6] An address that has its share already makes nobody give way: it could empty the house for nothing.
#[test]
fn who_is_refused_pushes_nobody_out() {
    let upstream = upstream();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .open()
        .set("/limits", json!({ "connections": 4, "connections_per_address": 2 }))
        .start();
    let neighbour = IpAddr::from(Ipv4Addr::new(127, 0, 0, 2));
    let mut theirs: Vec<Wire> = (0..2).map(|_| Wire::from(neighbour, gateway.address)).collect();
    let mut mine: Vec<Wire> = (0..2).map(|_| Wire::to(gateway.address)).collect();
    theirs.iter_mut().chain(&mut mine).for_each(|wire| echoes(wire, &gateway));
    for _ in 0..20 {
        assert_eq!(Wire::to(gateway.address).response().status(), 503);
    }
    theirs.iter_mut().chain(&mut mine).for_each(|wire| echoes(wire, &gateway));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S6] Encrypted connections give way too, used or in the middle of their handshake, and those that stay notice nothing.
#[test]
fn encrypted_connections_give_way() {
    let (authority, shelf) = (Authority::new("servers"), Shelf::new());
    let pair = shelf.pair("c", &authority.issue(&["gate.test"]));
    let upstream = upstream();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .open()
        .set("/listen", json!([{ "address": "127.0.0.1:0", "tls": pair }]))
        .set("/limits", json!({ "connections": 2 }))
        .start();
    let connect = || authority.client().connect(gateway.address).expect("there is always room for one more");
    let mut used = connect();
    echoes(&mut used, &gateway);
    let mut silent = Wire::to(gateway.address);
    let mut third = connect();
    assert!(silent.at_end(PATIENCE), "the one without a handshake goes first");
    echoes(&mut third, &gateway);
    echoes(&mut used, &gateway);
    for _ in 0..10 {
        echoes(&mut connect(), &gateway);
    }
    drop((used, third));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [R4] [S6] What a shard holds for its clients is bounded: when large bodies have taken most of it, no more of them are
/// taken, nor tokens that must be verified, while those who are known call and ask on; and all of it comes back.
#[test]
fn memory_has_its_bound() {
    const BODY: usize = 1 << 20;
    const TRIES: usize = 2 * limits::SHARD_BUFFER_BYTES_MAX / BODY;
    let upstream = upstream();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("allow").start();
    let ada = token(&gateway, "ada");
    Post::call("echo").token(&ada).echoed(&gateway);
    let post = Post::call("echo");
    let large = [post.head_bytes(&gateway, &format!("content-length: {BODY}\r\n")), vec![b' '; BODY - 1]].concat();
    let mut held = Vec::new();
    let told = loop {
        assert!(held.len() < TRIES, "{} bodies of a megabyte, and nobody minds", held.len());
        let mut wire = Wire::to(gateway.address);
        // What is refused is read away as far as this.
        wire.send(&large[..32 * 1024]);
        if held.len() * BODY > limits::SHARD_BUFFER_BYTES_MAX / 2 && wire.comes(Duration::from_millis(30)) {
            break wire.response();
        }
        if wire.try_send(&large[32 * 1024..]) {
            held.push(wire);
        }
    };
    assert_eq!(told.status(), 503, "{}", told.text());
    assert!(told.field("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{:?}", told.head);
    let memory = gateway.resident_bytes();
    assert!(memory < limits::SHARD_BUFFER_BYTES_MAX + (64 << 20), "{memory} bytes for {} bodies", held.len());
    Post::call("echo").token(&ada).echoed(&gateway);
    assert_eq!(Post::modern("tools/list", json!({})).token(&ada).to(&gateway).status(), 200);
    assert_eq!(Post::call("echo").token(&token(&gateway, "bob")).to(&gateway).status(), 503, "a stranger waits");
    drop(held);
    eventually("there is room again", || {
        Post::call("echo").token(&token(&gateway, "bob")).to(&gateway).status() == 200
    });
    assert!(upstream.calls().len() < 10, "a body that never came whole is no call");
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[track_caller]
fn echoes(wire: &mut Wire, gateway: &Gateway) {
    let post = Post::call("echo");
    post.is_echoed(&wire.ask(&post.bytes(gateway)));
}
