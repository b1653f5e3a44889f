//! The wall clock jumps by an hour, forwards and backwards: it tells what tokens are worth, and nothing else.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::clock::Clock;
use crate::support::gateway::{Gateway, PATIENCE, Setup, Who};
use crate::support::http::{Events, Wire};
use crate::support::mcp::{Post, open_session, session_request, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream, said};

const HOUR: i64 = 3600;
/// The server's `timeout`.
const TIMEOUT: Duration = Duration::from_secs(2);

fn pair(clock: &Clock) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo", "hold", "stream", "hang"])
        .script(|seen, out| {
            match seen.name() {
                "hold" => out.pass("go"),
                "hang" => _ = out.gone(PATIENCE),
                "stream" => {
                    out.stream();
                    out.event(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 0 } }));
                    out.pass("go");
                    out.event(&said(seen, seen.value()));
                    out.stream_end();
                    return Acted::Done;
                }
                _ => {}
            }
            Acted::Default
        })
        .start();
    let setup = Setup::new().server("up", &upstream.url()).open().tokens("allow");
    (clock.of(setup).start(), upstream)
}

fn streams(gateway: &Gateway, token: &str, session: &str) -> (Events, Events) {
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(gateway, "GET", "/mcp", session, &format!("authorization: Bearer {token}\r\n")));
    let own = wire.events();
    let post = Post::modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut subscribed = post.token(token).stream(gateway);
    assert_eq!(subscribed.message()["method"], "notifications/subscriptions/acknowledged");
    (own, subscribed)
}

/// Whether the gateway's clock is the one that is moved: the record says what it shows. Of a clock put back, a gateway
/// may know better.
#[track_caller]
fn shows(gateway: &Gateway, post: &Post, hours: i64) {
    let records = gateway.records_until("the call", |records| records.iter().any(|it| it["trace"] == post.value));
    let time = oracle::decision(&records, &post.value)["time"].as_str().unwrap_or_default().to_owned();
    let said: jiff::Timestamp = time.parse().expect("a record has a time");
    let off = said.as_second() - jiff::Timestamp::now().as_second() - hours * HOUR;
    assert!(off.abs() < 60, "the clock shows {time}, {off} s off");
}

/// [R6] Streams stay, calls under way end well, new ones are served: their tokens hold for longer than the jump.
#[test]
fn a_jump_breaks_nothing() {
    for hours in [1, -1] {
        let clock = Clock::new();
        let (gateway, upstream) = pair(&clock);
        let who = Who { expires_s: 3 * HOUR, ..Who::default() };
        let token = gateway.token_since(&who, &[&gateway.url("/mcp")], -2 * HOUR);
        let session = open_session(&gateway, |post| post.token(&token));
        let (mut own, mut subscribed) = streams(&gateway, &token, &session);
        let (hold, stream) = (Post::call("hold").token(&token), Post::call("stream").token(&token));
        let stream = stream.param("/_meta/io.modelcontextprotocol~1logLevel", json!("debug"));
        let mut held = hold.begin(&gateway);
        let mut streaming = stream.stream(&gateway);
        assert_eq!(streaming.message()["params"]["data"], 0);
        upstream.wait("the held call", |seen| seen.calls("hold"));

        clock.jump(hours * HOUR);
        let posts = [Post::call("echo").token(&token), Post::legacy_call(&session, "echo").token(&token)];
        for post in posts.iter().chain([&Post::call("echo")]) {
            post.echoed(&gateway);
        }
        if hours > 0 {
            shows(&gateway, &posts[0], hours);
        }
        upstream.say(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }));
        for events in [&mut own, &mut subscribed] {
            assert_eq!(events.message()["method"], "notifications/tools/list_changed");
        }
        upstream.open("go");
        hold.is_echoed(&held.response());
        assert_eq!(text_of(&streaming.message()), stream.value);
        drop((own, subscribed));
        oracle::check(&gateway, &[("up", &upstream)]);
    }
}

/// [R6] Deadlines are measured, not read off the clock on the wall.
#[test]
fn a_jump_moves_no_deadline() {
    for hours in [1, -1] {
        let clock = Clock::new();
        let upstream = Plan::tools(&["hang"]).script(|seen, out| {
            if seen.calls("hang") {
                out.gone(PATIENCE);
            }
            Acted::Default
        });
        let upstream = upstream.start();
        let setup = Setup::new().server("up", &upstream.url()).open().set("/servers/up/timeout", json!("2s"));
        let gateway = clock.of(setup.set("/limits/idle", json!("2s"))).start();
        let mut idle = Wire::to(gateway.address);
        let post = Post::call("hang");
        let begun = Instant::now();
        let mut wire = post.begin(&gateway);
        upstream.wait("the call", |seen| seen.calls("hang"));
        clock.jump(hours * HOUR);
        assert_eq!(wire.response().json()["error"]["data"]["reason"], "server_timeout");
        assert!(begun.elapsed() >= TIMEOUT, "cut after {:?}", begun.elapsed());
        assert!(idle.at_end(PATIENCE));
        let records = oracle::check(&gateway, &[("up", &upstream)]);
        let outcome = oracle::outcome(&records, &post.value);
        let total_us = outcome["total_us"].as_u64().unwrap_or_default();
        assert!((2_000_000..60_000_000).contains(&total_us), "times are measured too: {outcome}");
    }
}

/// [R6] Verified before or not: over is over, by the clock on the wall, and what was valid is so again with it.
#[test]
fn a_jump_forwards_admits_no_expired_token() {
    let clock = Clock::new();
    let (gateway, upstream) = pair(&clock);
    let (known, fresh) = (gateway.token(&Who::default()), gateway.token(&Who { subject: "grace", ..Who::default() }));
    Post::call("echo").token(&known).echoed(&gateway);
    clock.jump(HOUR);
    for token in [&known, &fresh] {
        assert_eq!(Post::call("echo").token(token).to(&gateway).status(), 401);
    }
    clock.jump(0);
    for token in [&known, &fresh] {
        Post::call("echo").token(token).echoed(&gateway);
    }
    assert_eq!(upstream.calls().len(), 3);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [R6] A token that has expired stays so when the clock goes back to a time at which it was good.
#[test]
fn a_jump_backwards_admits_no_expired_token() {
    let clock = Clock::new();
    let (gateway, upstream) = pair(&clock);
    let url = gateway.url("/mcp");
    let over = gateway.token_since(&Who { expires_s: -600, ..Who::default() }, &[&url], -2 * HOUR);
    let good = gateway.token_since(&Who { expires_s: 600, ..Who::default() }, &[&url], -2 * HOUR);
    let refused = |token: &str| Post::call("echo").token(token).to(&gateway).status();
    assert_eq!(refused(&over), 401);
    Post::call("echo").token(&good).echoed(&gateway);
    clock.jump(-HOUR);
    assert_eq!(refused(&over), 401);
    Post::call("echo").token(&good).echoed(&gateway);
    assert_eq!(upstream.calls().len(), 2);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [R6] A stream ends with its token, whatever happens to the clock meanwhile.
#[test]
fn a_jump_lengthens_no_stream() {
    let clock = Clock::new();
    let (gateway, upstream) = pair(&clock);
    let who = Who { expires_s: 4, ..Who::default() };
    let token = gateway.token_since(&who, &[&gateway.url("/mcp")], -2 * HOUR);
    let session = open_session(&gateway, |post| post.token(&token));
    let (own, subscribed) = streams(&gateway, &token, &session);
    clock.jump(-HOUR);
    // Their readers' patience is far below an hour.
    assert!(own.rest().1.is_ok());
    assert!(subscribed.rest().1.is_ok());
    oracle::check(&gateway, &[("up", &upstream)]);
}
