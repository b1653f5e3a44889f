//! Bounds: of sizes, times and numbers, and what happens at them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portcullis::base::limits;
use rustix::process::Resource;
use serde_json::json;

use crate::support::gateway::{PATIENCE, Setup, Who, eventually};
use crate::support::http::Wire;
use crate::support::mcp::{Post, fresh, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, progress, said};

/// How far ahead a server got of a client that does not read.
static AHEAD: AtomicUsize = AtomicUsize::new(0);

/// With the server's log: it is sent to those who ask for it.
fn logged(post: Post) -> Post {
    post.param("/_meta/io.modelcontextprotocol~1logLevel", json!("info"))
}

/// [S3] A client that does not read slows its server down; nothing piles up in between, and nothing is lost.
#[test]
fn a_slow_reader_slows_its_server() {
    const EVENTS: usize = 3_000;
    const PAD: usize = 32 * 1024;
    let upstream = Plan::tools(&["flood"])
        .script(|seen, out| {
            if !seen.calls("flood") {
                return Acted::Default;
            }
            out.stream();
            let note =
                json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": "x".repeat(PAD) } });
            let event = format!("data: {note}\n\n");
            for _ in 0..EVENTS {
                out.event_bytes(&event);
                AHEAD.fetch_add(event.len(), Ordering::Relaxed);
            }
            out.event(&said(seen, seen.value()));
            out.stream_end();
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let post = logged(Post::call("flood"));
    let mut events = post.stream(&gateway);
    // The server stops somewhere: what is under way fits the sockets' buffers and a little of the gateway's.
    let mut last = usize::MAX;
    eventually("the server is held up", || {
        let now = AHEAD.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
        std::mem::replace(&mut last, now) == now && now > 0
    });
    assert!(last < EVENTS * PAD / 2, "{last} bytes went through to nobody");
    let memory = gateway.resident_bytes();
    assert!(memory < 96 << 20, "{memory} bytes of memory");
    let mut count = 0;
    let answer = loop {
        let message = events.message();
        if message.get("id").is_some() {
            break message;
        }
        count += 1;
    };
    assert_eq!((count, text_of(&answer)), (EVENTS, post.value.as_str()));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S1] An event without end is not collected without end.
#[test]
fn an_event_that_is_too_large() {
    let upstream = Plan::tools(&["huge"])
        .script(|seen, out| {
            if !seen.calls("huge") {
                return Acted::Default;
            }
            out.stream();
            out.event(&progress(seen, 1));
            out.event_bytes("data: \"");
            for _ in 0..64 {
                out.event_bytes(&"x".repeat(64 * 1024));
            }
            out.event_bytes("\"\n\n");
            out.event(&said(seen, seen.value()));
            out.stream_end();
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let (messages, end) = Post::call("huge").stream(&gateway).rest();
    let last = messages.last().expect("an error at least");
    assert!(end.is_ok() && last["error"]["data"]["reason"] == "server_invalid", "{last}");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [R1] Idle connections, fresh or used, end in time; a call under way is not idle.
#[test]
fn connections_without_a_request_end() {
    let upstream = Plan::tools(&["echo", "slow"])
        .script(|seen, out| {
            if seen.calls("slow") {
                // Longer than an idle connection may live: a call under way is not idle.
                let _ = out.gone(Duration::from_millis(900));
            }
            Acted::Default
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().set("/limits/idle", json!("300ms")).start();
    let (mut fresh, mut used) = (Wire::to(gateway.address), Wire::to(gateway.address));
    let post = Post::call("slow");
    post.is_echoed(&used.ask(&post.bytes(&gateway)));
    let begun = Instant::now();
    assert!(used.at_end(PATIENCE) && fresh.at_end(PATIENCE));
    assert!(begun.elapsed() < Duration::from_secs(5));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [R1] The times without a word of the operator's; the tests here shorten them.
#[test]
fn the_times_that_are_promised() {
    assert_eq!((limits::HEAD_MS_MAX, limits::BODY_MS_MAX, limits::IDLE_MS_MAX), (10_000, 30_000, 60_000));
    assert_eq!((limits::CONNECT_MS_MAX, limits::CALL_MS_MAX, limits::WRITE_STALL_MS_MAX), (3_000, 60_000, 30_000));
}

/// Sends `bytes` one by one until the other side has had enough; how long that took.
fn trickle(wire: &mut Wire, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    for byte in bytes {
        wire.send(&[*byte]);
        if !wire.quiet(Duration::from_millis(50)) {
            break;
        }
    }
    if let Ok(answer) = wire.try_response() {
        assert!([400, 408].contains(&answer.status()), "{}", answer.text());
    }
    begun.elapsed()
}

/// [R1] A head has its time, however slowly its bytes trickle, and so has a body.
#[test]
fn what_trickles_is_cut_off() {
    let upstream = Plan::tools(&["echo"]).start();
    let setup = Setup::new().server("up", &upstream.url()).open().set("/limits/head", json!("1s"));
    let gateway = setup.set("/limits/body_time", json!("2s")).start();
    let post = Post::call("echo");
    let bytes = post.bytes(&gateway);
    let body = bytes.len() - post.body_bytes().len();
    for (whole, trickling, least) in [(0, &bytes[..150], 1), (body, &bytes[body..bytes.len() - 1], 2)] {
        let mut wire = Wire::to(gateway.address);
        wire.send(&bytes[..whole]);
        let took = trickle(&mut wire, trickling);
        let least = Duration::from_secs(least);
        assert!(took > least.mul_f32(0.9) && took < least + Duration::from_secs(4), "{took:?}");
    }
    assert!(upstream.calls().is_empty());
    post.echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S5] Requests that come early, while another one is waited for, are not taken for the client's leaving.
#[test]
fn an_early_request_is_no_goodbye() {
    let upstream = Plan::tools(&["hold", "echo"])
        .script(|seen, out| {
            if seen.calls("hold") {
                out.pass("go");
            }
            Acted::Default
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let (hold, next) = (Post::call("hold"), Post::call("echo"));
    let mut wire = hold.begin(&gateway);
    upstream.wait("the call", |seen| seen.calls("hold"));
    // Past the moment from which on the client is watched.
    assert!(wire.quiet(Duration::from_millis(100)));
    wire.send(&next.bytes(&gateway));
    assert!(wire.quiet(Duration::from_millis(100)));
    upstream.open("go");
    hold.is_echoed(&wire.response());
    next.is_echoed(&wire.response());
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &hold.value)["status"], "ok");
}

/// [S5] A client that leaves in the middle of a long answer cancels it.
#[test]
fn leaving_in_the_middle_of_a_long_answer() {
    let upstream = Plan::tools(&["long"])
        .script(|seen, out| {
            if !seen.calls("long") {
                return Acted::Default;
            }
            let body = said(seen, &"y".repeat(400_000)).to_string();
            let length = body.len();
            out.write(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"));
            out.write(&body[..200_000]);
            let gone = out.gone(Duration::from_secs(10));
            out.note(format!("{} {gone}", seen.value()));
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let post = Post::call("long");
    let mut wire = post.begin(&gateway);
    assert_eq!(wire.head().expect("the answer begins").status, 200);
    drop(wire);
    upstream.noted(&format!("{} true", post.value));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "cancelled");
}

/// [K13] A stream ends with the token that opened it, within a second of it.
#[test]
fn a_stream_ends_with_its_token() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("deny").start();
    let token = gateway.token(&Who { expires_s: 3, ..Who::default() });
    let session = open_session(&gateway, |post| post.token(&token));
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(&gateway, "GET", "/mcp", &session, &format!("authorization: Bearer {token}\r\n")));
    let own = wire.events();
    let post = Post::modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut subscribed = post.token(&token).stream(&gateway);
    subscribed.message();
    let begun = Instant::now();
    assert!(own.rest().1.is_ok());
    assert!(subscribed.rest().1.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [P4] Where the record cannot be written, no call goes; and when it can be again, calls do, without a restart.
#[test]
fn no_record_no_call() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().past_file_limits().start();
    Post::call("echo").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
    // The file may not grow by one more byte: the same as a full disk, but of this process alone.
    gateway.limit(Resource::Fsize, Some(1));
    let before = upstream.calls().len();
    let mut refused = None;
    let mut served = 0;
    let mut wire = Wire::to(gateway.address);
    // Long names fill the shard's ring soon.
    let name = "n".repeat(1_000);
    for _ in 0..20_000 {
        let post = Post::modern("tools/call", json!({ "name": name, "arguments": { "value": fresh() } }));
        let answer = wire.ask(&post.bytes(&gateway));
        assert!([200, 503].contains(&answer.status()), "{}", answer.text());
        if answer.status() == 503 {
            break;
        }
        let call = Post::call("echo");
        let answer = wire.ask(&call.bytes(&gateway));
        if answer.status() == 503 {
            refused = Some(answer);
            break;
        }
        call.is_echoed(&answer);
        served += 1;
    }
    let refused = refused.unwrap_or_else(|| Post::call("echo").to(&gateway));
    assert_eq!(refused.status(), 503, "after {served} calls: {}", refused.text());
    assert!(refused.field("retry-after").parse::<u32>().is_ok());
    assert_eq!(upstream.calls().len() - before, served, "a call went without its record");
    gateway.limit(Resource::Fsize, None);
    eventually("calls go again", || Post::call("echo").to(&gateway).status() == 200);
    Post::call("echo").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [R1] Where a server has no `timeout` of its own, a call has `limits.call`.
#[test]
fn a_call_has_its_time() {
    let upstream = Plan::tools(&["hang"]).script(|seen, out| {
        if seen.calls("hang") {
            out.gone(PATIENCE);
        }
        Acted::Default
    });
    let upstream = upstream.start();
    let gateway = Setup::new().server("up", &upstream.url()).open().set("/limits/call", json!("700ms")).start();
    let post = Post::call("hang");
    let begun = Instant::now();
    let answer = post.to(&gateway).json();
    assert_eq!(answer["error"]["data"]["reason"], "server_timeout", "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(700));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    let outcome = oracle::outcome(&records, &post.value);
    assert!(outcome["total_us"].as_u64().is_some_and(|it| it >= 700_000), "{outcome}");
}

/// [S4] A stream on which nothing happens is kept alive by a comment, each fifteen seconds at least.
#[test]
fn a_silent_stream_is_kept_alive() {
    let upstream = Plan::tools(&["quiet"])
        .script(|seen, out| {
            if !seen.calls("quiet") {
                return Acted::Default;
            }
            out.stream();
            out.event(&progress(seen, 1));
            out.pass("go");
            out.event(&said(seen, seen.value()));
            out.stream_end();
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let post = Post::call("quiet").param("/_meta/progressToken", json!("p"));
    let mut wire = post.begin(&gateway);
    let mut head = Vec::new();
    let begun = Instant::now();
    // The head, and the first event.
    while !String::from_utf8_lossy(&head).contains("\"progress\":1") {
        head.extend(wire.more());
    }
    let comment = wire.more();
    let took = begun.elapsed();
    assert!(String::from_utf8_lossy(&comment).contains("\n:"), "{:?}", String::from_utf8_lossy(&comment));
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(17), "{took:?}");
    upstream.open("go");
    let mut rest = Vec::new();
    while !String::from_utf8_lossy(&rest).contains(&post.value) {
        rest.extend(wire.more());
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [R1] [S3] A client that does not read at all is given up in time, and its server is told.
#[test]
fn a_reader_that_stalls_is_given_up() {
    let upstream = Plan::tools(&["flood"])
        .script(|seen, out| {
            if !seen.calls("flood") {
                return Acted::Default;
            }
            out.stream();
            let note = json!({ "jsonrpc": "2.0", "method": "notifications/message",
                "params": { "level": "info", "data": "x".repeat(64 * 1024) } });
            for _ in 0..1_000 {
                out.event(&note);
            }
            let gone = out.gone(PATIENCE);
            out.note(format!("{} {gone}", seen.value()));
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().set("/limits/write_stall", json!("3s")).start();
    let post = logged(Post::call("flood"));
    let begun = Instant::now();
    let wire = post.begin(&gateway);
    let noted = format!("{} true", post.value);
    while upstream.notes().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "after {:?} the server still waits", begun.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(upstream.notes(), [noted]);
    assert!(begun.elapsed() > Duration::from_millis(2_900), "after {:?}", begun.elapsed());
    let memory = gateway.resident_bytes();
    assert!(memory < 96 << 20, "{memory} bytes of memory");
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "cancelled");
    drop(wire);
}
