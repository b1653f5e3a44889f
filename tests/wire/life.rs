//! How it ends: nothing new, what there is is finished, streams end cleanly, exit 0.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who, eventually, export};
use crate::support::http::Wire;
use crate::support::level::Level;
use crate::support::mcp::{Post, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Reserved, Upstream, said};

/// `hold` answers when it is let go, `stream` the same in a stream.
fn pair(setup: Setup) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo", "hold", "stream"])
        .script(|seen, out| {
            if seen.calls("hold") {
                out.pass("go");
                return Acted::Default;
            }
            if seen.calls("stream") {
                out.stream();
                out.event(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 0 } }));
                out.pass("go");
                out.event(&said(seen, seen.value()));
                out.stream_end();
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let gateway = setup.server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

fn drained(driver: &str) {
    let (mut gateway, upstream) = pair(Setup::new().shards(2).driver(driver));
    let mut idle: Vec<Wire> = (0..4).map(|_| Wire::to(gateway.address)).collect();
    for wire in &mut idle {
        let post = Post::call("echo");
        post.is_echoed(&wire.ask(&post.bytes(&gateway)));
    }
    let session = open_session(&gateway, |post| post);
    let mut own = Wire::to(gateway.address);
    own.send(&session_request(&gateway, "GET", "/mcp", &session, ""));
    let own = own.events();
    let sub = Post::modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } })).id(5);
    let mut sub = sub.stream(&gateway);
    sub.message();
    let (hold, stream) = (Post::call("hold"), Post::call("stream"));
    let stream = stream.param("/_meta/io.modelcontextprotocol~1logLevel", json!("info"));
    let mut held = hold.begin(&gateway);
    let mut streaming = stream.stream(&gateway);
    assert_eq!(streaming.message()["params"]["data"], 0);
    upstream.wait("the held call", |seen| seen.calls("hold"));

    gateway.signal(Signal::TERM);
    for wire in &mut idle {
        assert!(wire.at_end(PATIENCE), "idle connections end at once");
    }
    let (messages, end) = own.rest();
    assert!(messages.is_empty() && end.is_ok(), "a session's stream ends cleanly: {messages:?}");
    let (messages, end) = sub.rest();
    assert!(end.is_ok());
    assert_eq!(
        messages.last().map(|it| (&it["id"], &it["result"]["resultType"])),
        Some((&json!(5), &json!("complete")))
    );
    eventually("nothing new is taken", || {
        TcpStream::connect_timeout(&gateway.address, Duration::from_millis(200)).is_err() || {
            let mut wire = Wire::to(gateway.address);
            wire.send(&Post::call("echo").bytes(&gateway));
            wire.try_response().is_err()
        }
    });
    assert!(gateway.running(), "calls under way are waited for");
    assert_eq!(readiness(&gateway), 503, "nobody is sent here any more");
    upstream.open("go");
    hold.is_echoed(&held.response());
    let (messages, end) = streaming.rest();
    assert!(end.is_ok());
    assert_eq!(messages.last().map(text_of), Some(stream.value.as_str()));
    assert!(held.at_end(PATIENCE));
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
    let records = export(&gateway.audit());
    oracle::check_record(&records);
    for post in [&hold, &stream] {
        assert_eq!(oracle::outcome(&records, &post.value)["status"], "ok");
    }
}

/// [L1] [P5] Calls, streams and idle connections, each in its way; exit 0.
#[test]
fn sigterm_finishes_what_there_is() {
    drained("auto");
}

/// [L1] [P5] The same without io_uring.
#[test]
fn sigterm_on_epoll() {
    drained("epoll");
}

#[test]
fn sigint_is_as_good() {
    let (mut gateway, _upstream) = pair(Setup::new());
    gateway.signal(Signal::INT);
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
}

/// [L1] The second one means it.
/// [P4] [P5] A call that is given up has its end, towards its caller and in the record.
#[test]
fn a_second_sigterm_ends_at_once() {
    let (mut gateway, upstream) = pair(Setup::new());
    let hold = Post::call("hold");
    let mut held = hold.begin(&gateway);
    upstream.wait("the held call", |seen| seen.calls("hold"));
    gateway.signal(Signal::TERM);
    // The first one is being obeyed before the second one comes.
    eventually("it drains", || TcpStream::connect_timeout(&gateway.address, Duration::from_millis(200)).is_err());
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    let status = gateway.ended(PATIENCE);
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0));
    // The caller gets an error that tells the truth, or a closed connection; never an answer that is not one.
    if let Ok(answer) = held.try_response() {
        assert!(answer.json()["error"]["code"].is_i64(), "{}", answer.text());
    }
    let records = export(&gateway.audit());
    oracle::check_record(&records);
    assert_ne!(oracle::outcome(&records, &hold.value)["status"], "ok");
}

/// [L1] [P5] A call that goes on for longer than a drain may.
#[test]
fn calls_that_do_not_end_are_cut_at_the_deadline() {
    let (mut gateway, upstream) = pair(Setup::new().set("/limits/drain", json!("300ms")));
    let hold = Post::call("hold");
    let mut held = hold.begin(&gateway);
    upstream.wait("the held call", |seen| seen.calls("hold"));
    gateway.signal(Signal::TERM);
    if let Ok(answer) = held.try_response() {
        assert!(answer.json()["error"]["code"].is_i64(), "{}", answer.text());
    }
    assert_eq!(gateway.ended(Duration::from_secs(10)).code(), Some(0));
    oracle::check_record(&export(&gateway.audit()));
}

/// [P6] After a burst is over, open files, threads and memory are back to where they were.
#[test]
fn nothing_is_left_open() {
    let (gateway, upstream) = pair(Setup::new().shards(2));
    Post::call("echo").echoed(&gateway);
    let before = Level::settled(&gateway);
    for _ in 0..3 {
        let mut wires: Vec<Wire> = (0..50).map(|_| Wire::to(gateway.address)).collect();
        for wire in &mut wires {
            wire.send(&Post::call("echo").bytes(&gateway));
        }
        for wire in &mut wires {
            assert_eq!(wire.response().status(), 200);
        }
    }
    // Connections to the server are kept for a while, below the time after which it would close them.
    before.comes_back(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What an orchestrator asks.
fn readiness(gateway: &Gateway) -> u16 {
    let ask = format!("GET /readyz HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.admin);
    Wire::to(gateway.admin).ask(ask.as_bytes()).status()
}

/// How long after SIGTERM a client can still connect.
fn closes_after(driver: &str) -> Duration {
    let (mut gateway, upstream) = pair(Setup::new().shards(2).driver(driver));
    let hold = Post::call("hold");
    let mut held = hold.begin(&gateway);
    upstream.wait("the held call", |seen| seen.calls("hold"));
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    while TcpStream::connect_timeout(&gateway.address, Duration::from_millis(50)).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "clients can connect still");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = begun.elapsed();
    assert_eq!(readiness(&gateway), 503);
    upstream.open("go");
    hold.is_echoed(&held.response());
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
    took
}

/// [L1] A tenth of a second after SIGTERM nobody connects any more, on any shard. The best of some tries: what else
/// this machine does only makes it longer.
#[test]
fn nothing_new_after_a_tenth_of_a_second() {
    for driver in ["auto", "epoll"] {
        let mut best = Duration::MAX;
        for _ in 0..5 {
            best = best.min(closes_after(driver));
            if best < Duration::from_millis(100) {
                break;
            }
        }
        println!("{driver}: {best:?}");
        assert!(best < Duration::from_millis(100), "{driver}: {best:?}");
    }
}

/// [L1] Who has connected and was not accepted when SIGTERM came is served, turned away, or cut off; whatever it is, it
/// comes soon, and nobody's call is executed without an answer.
#[test]
fn those_in_the_queue() {
    for driver in ["auto", "epoll"] {
        let (mut gateway, upstream) = pair(Setup::new().shards(2).driver(driver));
        gateway.signal(Signal::STOP);
        let posts: Vec<Post> = (0..20).map(|_| Post::call("echo")).collect();
        let mut queue: Vec<Wire> = posts.iter().map(|post| post.begin(&gateway)).collect();
        gateway.signal(Signal::TERM);
        gateway.signal(Signal::CONT);
        let served = answered(&posts, &mut queue);
        println!("{driver}: {} of {} were served", served.len(), posts.len());
        assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
        executed_are(&upstream, served);
        oracle::check_record(&export(&gateway.audit()));
    }
}

/// The values of those who got their answer; the others were turned away, or cut off before anything was said.
#[track_caller]
fn answered(posts: &[Post], wires: &mut [Wire]) -> Vec<String> {
    let mut served = Vec::new();
    for (post, wire) in posts.iter().zip(wires) {
        match wire.try_response() {
            Ok(answer) if answer.status() == 503 => {}
            Ok(answer) => {
                post.is_echoed(&answer);
                served.push(post.value.clone());
            }
            Err(cut) => assert!(cut.had.is_empty(), "half an answer"),
        }
    }
    served
}

#[track_caller]
fn executed_are(upstream: &Upstream, mut served: Vec<String>) {
    let mut executed: Vec<String> = upstream.calls().iter().map(|call| call.value().to_owned()).collect();
    executed.retain(|value| !value.is_empty());
    executed.sort();
    served.sort();
    assert_eq!(executed, served);
}

/// Sends a call on each connection while the gateway learns that it is to end; the values of those that were served.
fn sent_at_the_end(gateway: &Gateway, wires: &mut [Wire]) -> Vec<String> {
    let posts: Vec<Post> = wires.iter().map(|_| Post::call("echo")).collect();
    gateway.signal(Signal::TERM);
    // It knows, its shards do not yet: they find requests and the order to drain at the same moment.
    std::thread::sleep(Duration::from_millis(3));
    gateway.signal(Signal::STOP);
    for (post, wire) in posts.iter().zip(&mut *wires) {
        wire.send(&post.bytes(gateway));
    }
    std::thread::sleep(Duration::from_millis(100));
    gateway.signal(Signal::CONT);
    let served = answered(&posts, wires);
    println!("{} of {} were served", served.len(), posts.len());
    served
}

/// [L1] [P5] A request that crosses the end of its idle connection is served or not executed.
#[test]
fn requests_that_cross_the_end() {
    for driver in ["auto", "epoll"] {
        for _ in 0..5 {
            let (mut gateway, upstream) = pair(Setup::new().driver(driver));
            let mut wires: Vec<Wire> = (0..40).map(|_| Wire::to(gateway.address)).collect();
            let mut served = Vec::new();
            for wire in &mut wires {
                let post = Post::call("echo");
                post.is_echoed(&wire.ask(&post.bytes(&gateway)));
                served.push(post.value);
            }
            served.extend(sent_at_the_end(&gateway, &mut wires));
            assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
            executed_are(&upstream, served);
        }
    }
}

/// [L1] [P5] So is one that takes its time: that nothing more is read from its client does not mean that it has left.
#[test]
fn slow_requests_that_cross_the_end() {
    for driver in ["auto", "epoll"] {
        let upstream = Plan::tools(&["echo"]).script(|seen, out| {
            if seen.calls("echo") {
                let _ = out.gone(Duration::from_millis(300));
            }
            Acted::Default
        });
        let upstream = upstream.start();
        let mut gateway = Setup::new().driver(driver).server("up", &upstream.url()).open().start();
        let mut wires: Vec<Wire> = (0..20).map(|_| Wire::to(gateway.address)).collect();
        let served = sent_at_the_end(&gateway, &mut wires);
        assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
        executed_are(&upstream, served);
        oracle::check_record(&export(&gateway.audit()));
    }
}

/// [L1] [S3] A stream whose client does not read cannot be ended cleanly; it is ended all the same, within five seconds.
#[test]
fn a_stream_that_nobody_reads() {
    let (mut gateway, upstream) = pair(Setup::new());
    let session = open_session(&gateway, |post| post);
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(&gateway, "GET", "/mcp", &session, ""));
    let own = wire.events();
    upstream.wait("the GET", |seen| seen.http == "GET" && !seen.field("mcp-session-id").is_empty());
    let note =
        json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": "x".repeat(64 << 10) } });
    for _ in 0..400 {
        upstream.say(&note);
    }
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    gateway.signal(Signal::TERM);
    let status = gateway.ended(PATIENCE);
    println!("it took {:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
    drop(own);
    oracle::check_record(&export(&gateway.audit()));
}

/// [L2] Killed in the middle of calls, and started again: it listens within a second (the best of some tries), and
/// sessions go on, for their owners and for nobody else.
#[test]
fn killed_and_back() {
    let upstream = Plan::tools(&["echo", "hold"]).script(|seen, out| {
        if seen.calls("hold") {
            out.gone(PATIENCE);
        }
        Acted::Default
    });
    let upstream = upstream.start();
    let setup = Setup::new().server("up", &upstream.url()).open().tokens("deny").shards(2);
    let mut gateway = setup.start();
    let address = gateway.address;
    let people = ["ada", "grace"].map(|subject| gateway.token(&Who { subject, ..Who::default() }));
    let sessions = people.each_ref().map(|token| open_session(&gateway, |post| post.token(token)));
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let hold = Post::call("hold").token(&people[0]);
        let mut held = hold.begin(&gateway);
        upstream.wait("the held call", |seen| seen.value() == hold.value);
        gateway.signal(Signal::KILL);
        gateway.ended(PATIENCE);
        drop(Reserved::at(address));
        let begun = Instant::now();
        gateway = gateway.restart(|config| config["listen"] = json!(address.to_string()));
        best = best.min(begun.elapsed());
        assert!(held.try_response().is_err());
        for (mine, session) in sessions.iter().enumerate() {
            Post::legacy_call(session, "echo").token(&people[mine]).echoed(&gateway);
            let theirs = Post::legacy_call(session, "echo").token(&people[1 - mine]).to(&gateway);
            assert_eq!(theirs.status(), 404, "{}", theirs.text());
        }
    }
    println!("back after {best:?}");
    assert!(best < Duration::from_secs(1), "{best:?}");
    // A server that went down too has forgotten them; they go on, for their owners alone.
    upstream.forget_sessions();
    for (mine, session) in sessions.iter().enumerate() {
        Post::legacy_call(session, "echo").token(&people[mine]).echoed(&gateway);
        let theirs = Post::legacy_call(session, "echo").token(&people[1 - mine]).to(&gateway);
        assert_eq!(theirs.status(), 404, "{}", theirs.text());
    }
}

/// [L2] The kernel lets go of an io_uring some time after its process has ended, and of its listeners with it: a start
/// that comes at once waits for that.
#[test]
fn killed_and_back_at_once() {
    let upstream = Plan::tools(&["echo"]).start();
    let mut gateway = Setup::new().server("up", &upstream.url()).open().shards(2).start();
    let address = gateway.address.to_string();
    // A busy machine's server may introduce itself after the start.
    let known =
        |gateway: &Gateway| eventually("the catalogue is there", || Post::call("echo").to(gateway).status() == 200);
    for _ in 0..10 {
        known(&gateway);
        gateway = gateway.restart(|config| config["listen"] = json!(address));
    }
    known(&gateway);
}

/// [L2] A server that does not answer holds up nobody's start.
#[test]
fn a_start_waits_for_no_server() {
    let (quick, silent) = (Plan::tools(&["echo"]).start(), Reserved::new());
    let silent_url = silent.url();
    let _silent = silent.start(Plan::tools(&[]).script(|_, out| {
        out.gone(PATIENCE);
        Acted::Done
    }));
    let begin = || Setup::new().server("quick", &quick.url()).server("silent", &silent_url).open().start();
    let mut gateway = begin();
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        gateway = gateway.restart(|_| {});
        Post::call("echo").at("/s/quick/mcp").echoed(&gateway);
        best = best.min(begun.elapsed());
    }
    println!("back after {best:?}");
    assert!(best < Duration::from_secs(1), "{best:?}");
}

#[test]
fn the_admin_listener_tells() {
    let (gateway, _upstream) = pair(Setup::new());
    let get = |path: &str| {
        Wire::to(gateway.admin).ask(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.admin).as_bytes())
    };
    assert_eq!((get("/healthz").status(), get("/readyz").status(), get("/none").status()), (200, 200, 404));
    let status = get("/status").json();
    assert_eq!(status["servers"][0]["name"], "up");
    assert_eq!((&status["servers"][0]["known"], &status["servers"][0]["tools"]), (&json!(true), &json!(3)));
    assert_eq!(status["servers"][0]["protocols"], json!(["2026-07-28", "2025-11-25"]));
    assert_eq!(Post::call("echo").at("/healthz").to(&gateway).status(), 404, "never on the data port");
}
