//! How it ends: nothing new, what there is is finished, streams end cleanly, exit 0.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::gateway::{Gateway, PATIENCE, Setup, eventually, export};
use crate::support::http::Wire;
use crate::support::level::Level;
use crate::support::mcp::{Post, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream, said};

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
                out.event(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": 0 } }));
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
    let (mut gateway, upstream) = pair(Setup::new().shards(2).flag(driver));
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

#[test]
fn sigterm_finishes_what_there_is() {
    drained("--driver=auto");
}

#[test]
fn sigterm_on_epoll() {
    drained("--driver=epoll");
}

#[test]
fn sigint_is_as_good() {
    let (mut gateway, _upstream) = pair(Setup::new());
    gateway.signal(Signal::INT);
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
}

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

/// [P5] However long its server takes.
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
