//! Peers that vanish without a word: the power is gone, the wire is cut, no FIN and no RST comes.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{DRIVERS, TIMEOUT, faulted};
use crate::support::gateway::{Gateway, Setup, eventually};
use crate::support::http::Wire;
use crate::support::island::{Island, Place};
use crate::support::level::Level;
use crate::support::mcp::{Post, open_session};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Reserved, progress};

/// A client that vanished is noticed within 30 s, and this much is the machine's.
const NOTICED: Duration = Duration::from_secs(33);
const LONG: Duration = Duration::from_secs(60);

fn plan() -> Plan {
    Plan::tools(&["echo", "hang", "stream"]).script(|seen, out| {
        if seen.method() != "tools/call" || seen.name() == "echo" {
            return Acted::Default;
        }
        if seen.name() == "stream" {
            out.stream();
            out.event(&progress(seen, 1));
        }
        let gone = out.gone(LONG);
        out.note(format!("{} {gone}", seen.value()));
        Acted::Done
    })
}

/// The server is far away, everybody else is here.
/// Who wants to hear of progress says so.
fn heard(post: Post) -> Post {
    post.param("/_meta/progressToken", json!("p1"))
}

fn far_server(island: &Island, driver: &str) {
    let upstream = island.at(Place::There, || Reserved::at((Place::There.address(), 0).into()).start(plan()));
    let setup = Setup::new().server("up", &upstream.url()).set("/servers/up/timeout", json!(TIMEOUT));
    let gateway = setup.set("/limits/connect", json!("700ms")).open().driver(driver).start();
    let before = Level::settled(&gateway);
    let session = open_session(&gateway, |post| post);
    let calls = |tool: &str| [Post::call(tool), Post::legacy_call(&session, tool)];
    // Two requests of one session that are under way have two ids.
    let (waiting, streaming) = (calls("hang"), calls("stream").map(|post| heard(post).id(2)));
    let mut wires: Vec<_> = waiting.iter().map(|post| post.begin(&gateway)).collect();
    let mut streams: Vec<_> = streaming.iter().map(|post| post.stream(&gateway)).collect();
    for events in &mut streams {
        assert_eq!(events.message()["params"]["progress"], 1);
    }
    for post in &waiting {
        upstream.wait("the call", |seen| seen.value() == post.value);
    }
    // A connection is kept, and its server will not be there to read the next call.
    Post::call("echo").echoed(&gateway);
    island.cut(Place::There);
    let unheard = Post::call("echo");
    faulted(&unheard, &unheard.to(&gateway), "server_timeout");
    for (post, wire) in waiting.iter().zip(&mut wires) {
        faulted(post, &wire.response(), "server_timeout");
    }
    for events in streams {
        let (messages, end) = events.rest();
        assert!(end.is_ok());
        assert_eq!(messages.last().map(|it| &it["error"]["data"]["reason"]), Some(&json!("server_timeout")));
    }
    // Nobody there to connect to.
    let begun = Instant::now();
    let unreached = Post::call("echo");
    faulted(&unreached, &unreached.to(&gateway), "unreachable");
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    island.mend(Place::There);
    eventually("the server is found again", || {
        let post = Post::call("echo");
        post.to(&gateway).json().get("result").is_some()
    });
    let records = oracle::check_with(&gateway, &[("up", &upstream)], &[&unreached]);
    for post in waiting.iter().chain(&streaming).chain([&unheard]) {
        assert_eq!(oracle::outcome(&records, &post.value)["status"], "timeout", "{post:?}");
    }
    assert_eq!(oracle::outcome(&records, &unreached.value)["status"], "unreachable");
    drop(wires);
    before.comes_back(&gateway);
}

/// [P5] [P6] [R1] Before, during and between calls: a timeout, and no call is written twice.
#[test]
fn a_server_that_vanishes() {
    for driver in DRIVERS {
        let Some(island) = Island::new() else { return };
        island.at(Place::Here, || far_server(&island, driver));
    }
}

/// The client is far away, everybody else is here. What its call reached is told within half a minute.
fn far_client(island: &Island, driver: &str, tool: &str) {
    let upstream = plan().start();
    let here = std::net::SocketAddr::from((Place::Here.address(), 0));
    let setup = Setup::new().server("up", &upstream.url()).set("/listen", json!(here.to_string())).open();
    let gateway = setup.set("/auth/anonymous_public", json!(true)).driver(driver).start();
    let before = Level::settled(&gateway);
    let post = heard(Post::call(tool));
    let wires = island.at(Place::There, || far_calls(&gateway, &post, tool));
    upstream.wait("the call", |seen| seen.value() == post.value);
    island.cut(Place::There);
    let cut = Instant::now();
    let noted = format!("{} true", post.value);
    while !upstream.notes().contains(&noted) {
        assert!(cut.elapsed() < NOTICED, "its client is gone for {:?}", cut.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{driver}, {tool}: noticed after {:?}", cut.elapsed());
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "cancelled");
    before.comes_back(&gateway);
    drop(wires);
}

/// The call, and a connection that is idle.
fn far_calls(gateway: &Gateway, post: &Post, tool: &str) -> [Wire; 2] {
    let mut wire = post.begin(gateway);
    if tool == "stream" {
        let mut events = wire.events();
        assert_eq!(events.message()["params"]["progress"], 1);
        wire = events.into_wire();
    }
    let (post, mut idle) = (Post::call("echo"), Wire::to(gateway.address));
    post.is_echoed(&idle.ask(&post.bytes(gateway)));
    [wire, idle]
}

fn with_both_drivers(tool: &str) {
    std::thread::scope(|scope| {
        for driver in DRIVERS {
            scope.spawn(move || {
                let Some(island) = Island::new() else { return };
                island.at(Place::Here, || far_client(&island, driver, tool));
            });
        }
    });
}

/// [P5] [P6] [S4] Its call is cancelled, and nothing of it is left.
#[test]
fn a_client_that_vanishes_while_it_waits() {
    with_both_drivers("hang");
}

/// [P5] [P6] [S4] The same while a stream is open, whose keep-alive comments nobody acknowledges.
#[test]
fn a_client_that_vanishes_from_a_stream() {
    with_both_drivers("stream");
}
