//! Roads between shards: connections that move to where their session is at home, and cancellations that reach a request
//! wherever it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, eventually, export};
use crate::support::http::Wire;
use crate::support::mcp::{LEGACY, Post, open_session, session_request};
use crate::support::oracle;
use crate::support::tls::{Authority, Client, Shelf};
use crate::support::upstream::{Acted, Plan, Upstream, progress};

/// Connections enough that each of two shards gets some: the kernel spreads them by their ports.
const CONNECTIONS: usize = 16;
const DRIVERS: [&str; 2] = ["auto", "epoll"];

/// A gateway of two shards, and what its clients need.
struct Crossing {
    gateway: Gateway,
    upstream: Upstream,
    /// Where its listener has TLS.
    client: Option<Client>,
}

impl Crossing {
    fn new(plan: Plan, driver: &str, tls: bool, change: impl FnOnce(Setup) -> Setup) -> Self {
        let upstream = plan.start();
        let setup = Setup::new().server("up", &upstream.url()).open().shards(2).driver(driver);
        let (authority, shelf) = (Authority::new("servers"), Shelf::new());
        let pair = shelf.pair("c", &authority.issue(&["gate.test"]));
        let listen = json!([{ "address": "127.0.0.1:0", "tls": { "certificates": [pair] } }]);
        let setup = if tls { setup.set("/listen", listen) } else { setup };
        Self { gateway: change(setup).start(), upstream, client: tls.then(|| authority.client().name("gate.test")) }
    }

    fn connect(&self) -> Wire {
        match &self.client {
            None => Wire::to(self.gateway.address),
            Some(client) => {
                client.connect(self.gateway.address).unwrap_or_else(|fault| panic!("no handshake: {fault}"))
            }
        }
    }

    fn wires(&self, count: usize) -> Vec<Wire> {
        (0..count).map(|_| self.connect()).collect()
    }

    /// Sessions with homes on both shards, for all but one run in thousands.
    fn sessions(&self, count: usize) -> Vec<String> {
        let open = |mut wire: Wire| {
            let response = wire.ask(&Post::initialize(LEGACY).bytes(&self.gateway));
            let session = response.field("mcp-session-id").to_owned();
            assert!(!session.is_empty(), "{}", response.text());
            session
        };
        self.wires(count).into_iter().map(open).collect()
    }

    /// The GET of a session's own stream.
    fn get(&self, session: &str, more: &str) -> Vec<u8> {
        session_request(&self.gateway, "GET", "/mcp", session, more)
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.gateway.pid())).expect("it is running").count()
    }

    fn moved(&self) -> u64 {
        self.gateway.counted("connections_moved")
    }

    fn checked(&self) {
        oracle::check(&self.gateway, &[("up", &self.upstream)]);
    }
}

/// Has no streams of its own, and holds what it is told to hold.
fn streamless() -> Plan {
    Plan::tools(&["echo", "slow"]).script(|seen, out| {
        if seen.http == "GET" {
            out.empty(405);
            return Acted::Done;
        }
        if seen.calls("slow") {
            thread::sleep(Duration::from_millis(60));
        }
        Acted::Default
    })
}

/// Every connection, wherever it is, asks for every session's stream, and goes on carrying requests wherever it is then.
fn goes_round(driver: &str, tls: bool) {
    // The last connections wait for their first request until those before them are done.
    let patient = |setup: Setup| setup.set("/limits", json!({ "head": "60s", "idle": "60s" }));
    let crossing = Crossing::new(streamless(), driver, tls, patient);
    let gateway = &crossing.gateway;
    let descriptors = crossing.descriptors();
    let sessions = crossing.sessions(CONNECTIONS);
    for wire in &mut crossing.wires(CONNECTIONS) {
        for session in &sessions {
            assert_eq!(wire.ask(&crossing.get(session, "")).status(), 405);
            let post = Post::legacy_call(session, "echo");
            post.is_echoed(&wire.ask(&post.bytes(gateway)));
        }
    }
    assert!(crossing.moved() >= CONNECTIONS as u64, "{} of {} moved", crossing.moved(), CONNECTIONS * CONNECTIONS);
    assert_eq!(gateway.counted("connections_not_moved"), 0);
    // What is behind a request moves with it, and what has not come yet comes there; a body that nobody asked for too.
    for wire in &mut crossing.wires(CONNECTIONS) {
        for session in &sessions {
            let post = Post::legacy_call(session, "echo");
            wire.send(
                &[crossing.get(session, "content-length: 4\r\n"), b"{}{}".to_vec(), post.bytes(gateway)].concat(),
            );
            assert_eq!(wire.response().status(), 405);
            post.is_echoed(&wire.response());
        }
        // Behind a slow call that its client could cancel by leaving, the connection moves with that wait under way.
        let slow = Post::call("slow");
        let gets: Vec<u8> = sessions[1..5].iter().flat_map(|session| crossing.get(session, "")).collect();
        wire.send(&[slow.bytes(gateway), gets].concat());
        slow.is_echoed(&wire.response());
        for _ in 1..5 {
            assert_eq!(wire.response().status(), 405);
        }
        let post = Post::legacy_call(&sessions[0], "echo");
        post.is_echoed(&wire.ask(&post.bytes(gateway)));
    }
    // Room for the plane's own connections, which come and go.
    eventually("no descriptor stays behind", || crossing.descriptors() <= descriptors + CONNECTIONS / 2);
    crossing.checked();
}

#[test]
fn connections_move_and_go_on() {
    for driver in DRIVERS {
        goes_round(driver, false);
    }
}

/// [I8] With all that was agreed on.
#[test]
fn connections_move_with_their_encryption() {
    for driver in DRIVERS {
        goes_round(driver, true);
    }
}

/// A stream is served where its session is at home, on whichever shard its connection was accepted.
#[test]
fn streams_are_served_at_home() {
    for (driver, tls) in [("auto", false), ("epoll", true)] {
        let brief = |setup: Setup| setup.set("/limits/resume", json!("500ms"));
        let crossing = Crossing::new(Plan::tools(&["echo"]), driver, tls, brief);
        let session = crossing.sessions(1).remove(0);
        let mut wires = crossing.wires(CONNECTIONS);
        for wire in &mut wires {
            wire.send(&crossing.get(&session, ""));
        }
        let streams: Vec<_> = wires.into_iter().map(Wire::events).collect();
        let moved = crossing.moved();
        assert!(moved > 0 && moved < CONNECTIONS as u64, "{moved} of {CONNECTIONS} moved");
        // Left to their clients, whose going is noticed there.
        drop(streams);
        eventually("the server's streams end", || {
            crossing.upstream.say(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {} }));
            crossing.upstream.open_streams() <= 1
        });
        crossing.checked();
    }
}

/// A shard at its bound takes in no connection of another's either: its client is told so, and may come back later.
#[test]
fn a_full_shard_says_so() {
    const ROOM: usize = 4;
    for tls in [false, true] {
        let plan = Plan::tools(&["echo"]);
        let crossing = Crossing::new(plan, "auto", tls, |setup| setup.set("/limits/connections", json!(ROOM)));
        let session = crossing.sessions(1).remove(0);
        let get = crossing.get(&session, "");
        let (mut streams, mut refused) = (Vec::new(), 0);
        for _ in 0..4 * ROOM {
            // Those beyond the bound of the shard that accepts them are not told so where TLS is not set up.
            let Ok(mut wire) = (match &crossing.client {
                None => Ok(Wire::to(crossing.gateway.address)),
                Some(client) => client.connect(crossing.gateway.address),
            }) else {
                continue;
            };
            wire.send(&get);
            match wire.head() {
                Ok(head) if head.status == 200 => streams.push(wire),
                Ok(head) => {
                    assert_eq!((head.status, head.field("connection")), (503, "close"));
                    refused += 1;
                }
                Err(_) => assert!(tls, "an end without a word"),
            }
        }
        assert_eq!(streams.len(), ROOM, "{refused} were refused");
        assert!(crossing.gateway.counted("connections_not_moved") > 0);
        // Counted where they are: one that ends makes room for another.
        streams.pop();
        eventually("there is room again", || {
            let wire = match &crossing.client {
                None => Ok(Wire::to(crossing.gateway.address)),
                Some(client) => client.connect(crossing.gateway.address),
            };
            wire.is_ok_and(|mut wire| {
                wire.send(&get);
                wire.head().is_ok_and(|head| head.status == 200)
            })
        });
        drop(streams);
        crossing.checked();
    }
}

/// [L1] Connections that are on their way when the gateway drains end as all others do: after a whole answer, or
/// without one.
#[test]
fn a_drain_meets_connections_on_their_way() {
    for driver in DRIVERS {
        let mut crossing = Crossing::new(streamless(), driver, false, |setup| setup);
        let sessions = crossing.sessions(CONNECTIONS);
        let wires = crossing.wires(CONNECTIONS);
        let stop = AtomicBool::new(false);
        let before = crossing.moved();
        let crossed = &crossing;
        thread::scope(|scope| {
            for (turn, mut wire) in wires.into_iter().enumerate() {
                let (sessions, stop) = (&sessions, &stop);
                scope.spawn(move || {
                    for session in sessions.iter().cycle().skip(turn) {
                        wire.send(&crossed.get(session, ""));
                        match wire.try_response() {
                            Ok(response) => assert!([405, 503].contains(&response.status()), "{}", response.text()),
                            Err(cut) => {
                                assert!(cut.had.is_empty(), "half an answer: {cut:?}");
                                assert!(stop.load(Ordering::Acquire), "cut before the drain");
                                break;
                            }
                        }
                    }
                });
            }
            eventually("connections move", || crossed.moved() > before + 100);
            stop.store(true, Ordering::Release);
            crossed.gateway.signal(Signal::TERM);
        });
        assert_eq!(crossing.gateway.ended(PATIENCE).code(), Some(0));
        oracle::check_record(&export(&crossing.gateway.audit()));
    }
}

/// Never answers `hold`, and says when nobody waits for it any more; answers `yields` once it is told to.
fn stubborn() -> Plan {
    Plan::tools(&["echo", "hold", "yields", "steps"]).script(|seen, out| {
        if seen.calls("hold") || seen.calls("steps") {
            if seen.name() == "steps" {
                out.stream();
                out.event(&progress(seen, 1));
            }
            let gone = out.gone(PATIENCE);
            out.note(format!("{} {gone}", seen.value()));
            return Acted::Done;
        }
        if seen.calls("yields") {
            out.pass("yield");
        }
        Acted::Default
    })
}

fn cancelling(session: &str, id: &Value) -> Post {
    let params = json!({ "requestId": id, "reason": "enough" });
    Post::tell(session, json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }))
}

/// [E5] [I6] A request is found on whichever shard it is, and nothing but that request.
#[test]
fn a_cancellation_finds_its_request_on_any_shard() {
    const REPEATS: usize = 50;
    let crossing = Crossing::new(stubborn(), "auto", false, |setup| setup);
    let (gateway, upstream) = (&crossing.gateway, &crossing.upstream);
    let (mine, other) = (open_session(gateway, |post| post), open_session(gateway, |post| post));
    let ids: Vec<Value> = (0..REPEATS).map(|n| if n % 2 == 0 { json!(n) } else { json!(format!("n-\"{n}")) }).collect();
    let posts: Vec<Post> = ids.iter().map(|id| Post::legacy_call(&mine, "hold").id(id.clone())).collect();
    let spared: Vec<Post> = ids.iter().map(|id| Post::legacy_call(&other, "hold").id(id.clone())).collect();
    let begin = |post: &Post| post.begin(gateway);
    let mut wires: Vec<Wire> = posts.iter().map(begin).collect();
    let mut kept: Vec<Wire> = spared.iter().map(begin).collect();
    eventually("all are held", || upstream.calls().len() == 2 * REPEATS);
    let begun = Instant::now();
    for id in &ids {
        assert_eq!(cancelling(&mine, id).to(gateway).status(), 202);
    }
    for (wire, post) in wires.iter_mut().zip(&posts) {
        cancelled(wire, post, upstream);
        // The connection goes on, and so does the session.
        let next = Post::legacy_call(&mine, "echo").id(post.request_id().clone());
        next.is_echoed(&wire.ask(&next.bytes(gateway)));
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "its server had no time to end it: {:?}", begun.elapsed());
    assert_eq!((gateway.counted("requests_cancelled"), gateway.counted("cancels_late")), (REPEATS as u64, 0));
    for post in &spared {
        assert!(!upstream.notes().iter().any(|note| note.starts_with(&post.value)), "another session's request");
        // The same id, written otherwise.
        let id = post.request_id().to_string().replace('n', "\\u006e");
        let note = format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#);
        assert_eq!(Post::tell(&other, Value::Null).body(note).to(gateway).status(), 202);
    }
    for (wire, post) in kept.iter_mut().zip(&spared) {
        cancelled(wire, post, upstream);
    }
    let told = upstream.seen().into_iter().filter(|seen| seen.method() == "notifications/cancelled").count();
    assert_eq!(told, 2 * REPEATS, "its server is told, once");
    let records = oracle::check(gateway, &[("up", upstream)]);
    for post in posts.iter().chain(&spared) {
        assert_eq!(oracle::outcome(&records, &post.value)["status"], "cancelled");
    }
}

/// What a cancelled request is answered with; and its server is not waited for any more.
#[track_caller]
fn cancelled(wire: &mut Wire, post: &Post, upstream: &Upstream) {
    let answer = wire.response();
    let json = answer.json();
    assert_eq!((answer.status(), &json["id"]), (200, post.request_id()), "{json}");
    assert_eq!(json["error"]["data"]["reason"], "cancelled", "{json}");
    upstream.noted(&format!("{} true", post.value));
}

/// A server that ends the request by itself, or answers it after all, is left to do so.
#[test]
fn a_server_may_still_answer() {
    let crossing = Crossing::new(stubborn(), "auto", false, |setup| setup);
    let (gateway, upstream) = (&crossing.gateway, &crossing.upstream);
    let session = open_session(gateway, |post| post);
    let post = Post::legacy_call(&session, "yields").id("y");
    let mut wire = post.begin(gateway);
    upstream.wait("the call", |seen| seen.calls("yields"));
    assert_eq!(cancelling(&session, &json!("y")).to(gateway).status(), 202);
    upstream.open("yield");
    post.is_echoed(&wire.response());
    // The next request with its id is another one.
    let next = Post::legacy_call(&session, "steps").id("y");
    let mut events = next.stream(gateway);
    assert_eq!(events.message()["params"]["progress"], 1);
    thread::sleep(Duration::from_millis(1_300));
    assert!(upstream.notes().is_empty(), "an earlier cancellation ended it: {:?}", upstream.notes());
    // As events: what came stays, and nothing more comes.
    assert_eq!(cancelling(&session, &json!("y")).to(gateway).status(), 202);
    let (messages, end) = events.rest();
    assert!(messages.is_empty() && end.is_ok(), "{messages:?}");
    upstream.noted(&format!("{} true", next.value));
    let records = oracle::check(gateway, &[("up", upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "ok");
    assert_eq!(oracle::outcome(&records, &next.value)["status"], "cancelled");
    assert_eq!(gateway.counted("requests_cancelled"), 1);
}

/// [I6] What is not under way cannot be cancelled, and outside of a session nothing can.
#[test]
fn cancellations_in_vain_are_counted() {
    let crossing = Crossing::new(stubborn(), "auto", false, |setup| setup);
    let (gateway, upstream) = (&crossing.gateway, &crossing.upstream);
    let session = open_session(gateway, |post| post);
    let post = Post::legacy_call(&session, "echo").id(7);
    post.echoed(gateway);
    for id in [json!(7), json!(8), json!("7"), json!({ "no": "id" }), json!("x".repeat(4096))] {
        assert_eq!(cancelling(&session, &id).to(gateway).status(), 202, "{id}");
    }
    eventually("they are counted", || gateway.counted("cancels_late") == 5);
    let before = upstream.seen().len();
    let sessionless = cancelling("", &json!(7)).without("mcp-session-id");
    assert_eq!(sessionless.to(gateway).status(), 202);
    assert_eq!(gateway.counted("cancels_sessionless"), 1);
    let after: Vec<String> = upstream.seen()[before..].iter().map(|seen| seen.method().to_owned()).collect();
    assert!(!after.contains(&"notifications/cancelled".to_owned()), "it could hit another caller's request: {after:?}");
    assert_eq!(gateway.counted("requests_cancelled"), 0);
    crossing.checked();
}
