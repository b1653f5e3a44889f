//! One caller that asks for everything there is, and the others, who ask for little.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::{Gateway, Setup, Who};
use crate::support::http::Wire;
use crate::support::mcp::{Post, open_session};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan};

/// Requests that are sent before the first answer is read.
const PIPELINED: usize = 64;
const FLOODS: usize = 4;
const CALLS: usize = 200;
/// Far more than a call takes on a busy machine, and far less than waiting for a flood to end.
const CALL_MAX: Duration = Duration::from_secs(5);

/// [R5] Whatever one caller pipelines at a shard, calls and refusals, on several connections and without a pause: each
/// call of another one is answered soon, on that shard and on others.
#[test]
fn a_flood_starves_nobody() {
    for shards in [1, 2] {
        let upstream = Plan::tools(&["echo"]).start();
        let gateway = Setup::new()
            .server("up", &upstream.url())
            .rule(json!({ "id": "echo-alone", "permit": ["up/echo"] }))
            .tokens("deny")
            .shards(shards)
            .start();
        let token = gateway.token(&Who::default());
        let flood = Flood::begin(&gateway);
        let mut worst = Duration::ZERO;
        // Kept connections and new ones; the kernel spreads them over the shards.
        let mut kept: Vec<Wire> = (0..16).map(|_| Wire::to(gateway.address)).collect();
        let before = flood.answers.load(Ordering::Relaxed);
        for number in 0..CALLS {
            let post = Post::call("echo").token(&token);
            let begun = Instant::now();
            if number % 4 == 0 {
                post.echoed(&gateway);
            } else {
                post.is_echoed(&kept[number % 16].ask(&post.bytes(&gateway)));
            }
            worst = worst.max(begun.elapsed());
        }
        let meanwhile = flood.answers.load(Ordering::Relaxed) - before;
        assert!(flood.end() > FLOODS * PIPELINED, "there was no flood");
        assert!(meanwhile > CALLS, "the flood was no more than a trickle: {meanwhile}");
        assert!(worst < CALL_MAX, "{shards} shards: a call took {worst:?} beside {meanwhile} others");
    }
}

/// [R5] One that never pauses, neither sending nor reading, has its turns and no more, on either driver.
#[test]
fn a_flood_without_a_pause_starves_nobody() {
    for driver in ["auto", "epoll"] {
        let upstream = Plan::tools(&["echo"]).start();
        let gateway = Setup::new().driver(driver).server("up", &upstream.url()).open().start();
        let bytes = format!("GET /nowhere HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.address).repeat(2000);
        let stop = AtomicBool::new(false);
        let answered = AtomicUsize::new(0);
        let socket = TcpStream::connect(gateway.address).expect("the gateway listens");
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut room = vec![0; 1 << 20];
                while let Ok(read @ 1..) = (&socket).read(&mut room) {
                    answered.fetch_add(read, Ordering::Relaxed);
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if (&socket).write_all(bytes.as_bytes()).is_err() {
                        break;
                    }
                }
            });
            crate::support::gateway::eventually("the flood has begun", || answered.load(Ordering::Relaxed) > 1 << 20);
            let before = answered.load(Ordering::Relaxed);
            let calls = std::panic::catch_unwind(|| {
                for _ in 0..50 {
                    let begun = Instant::now();
                    Post::call("echo").echoed(&gateway);
                    assert!(begun.elapsed() < CALL_MAX, "{driver}: a call took {:?}", begun.elapsed());
                }
            });
            let meanwhile = answered.load(Ordering::Relaxed) - before;
            stop.store(true, Ordering::Relaxed);
            let _ = socket.shutdown(Shutdown::Both);
            calls.expect("each call was answered soon");
            assert!(meanwhile > 0, "{driver}: the flood was over");
        });
    }
}

/// [S6] [P5] A subject with as many calls as it may have can still end one, and answer what a server asks.
#[test]
fn a_full_share_takes_what_ends_a_call() {
    let upstream = Plan::tools(&["hold"]).script(|seen, out| {
        if seen.calls("hold") {
            out.pass("go");
        }
        if seen.method() == "notifications/cancelled" {
            out.note("cancelled");
        }
        Acted::Default
    });
    let upstream = upstream.start();
    let setup = Setup::new().server("up", &upstream.url()).open().tokens("deny");
    let gateway = setup.set("/limits/calls_per_subject", json!(2)).start();
    let token = gateway.token(&Who::default());
    let session = open_session(&gateway, |post| post.token(&token));
    let call = |id: u32| Post::legacy_call(&session, "hold").id(id).token(&token);
    let posts = [call(7), call(8)];
    let mut held = posts.each_ref().map(|post| post.begin(&gateway));
    for post in &posts {
        upstream.wait("a held call", |seen| seen.id() == post.request_id());
    }
    let third = call(9).to(&gateway);
    assert_eq!(third.status(), 429, "{}", third.text());
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 7 } });
    let told = Post::tell(&session, cancel).token(&token).to(&gateway);
    assert_eq!(told.status(), 202, "{}", told.text());
    upstream.noted("cancelled");
    upstream.open("go");
    for (post, wire) in posts.iter().zip(&mut held) {
        post.is_echoed(&wire.response());
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S6] [R6] A connection that is refused for its address costs nobody else's, however full it is.
#[test]
fn an_address_with_its_fill_evicts_nobody() {
    let upstream = Plan::tools(&["echo"]).start();
    let setup = Setup::new().server("up", &upstream.url()).open().set("/limits/connections", json!(4));
    let gateway = setup.set("/limits/connections_per_address", json!(2)).start();
    let ask = |wire: &mut Wire| {
        let post = Post::call("echo");
        post.is_echoed(&wire.ask(&post.bytes(&gateway)));
    };
    let mut ours = [Wire::to(gateway.address), Wire::to(gateway.address)];
    let mut theirs = [0; 2].map(|_| Wire::from_to([127, 0, 0, 2], gateway.address));
    ours.iter_mut().chain(&mut theirs).for_each(ask);
    for _ in 0..4 {
        assert_eq!(Wire::from_to([127, 0, 0, 2], gateway.address).response().status(), 503, "its share is used up");
    }
    ours.iter_mut().for_each(ask);
}

/// [S6] [P5] Requests that are begun and never sent keep nobody out.
#[test]
fn half_a_head_holds_no_place() {
    for driver in ["auto", "epoll"] {
        let upstream = Plan::tools(&["echo"]).start();
        let setup = Setup::new().driver(driver).server("up", &upstream.url()).open();
        let gateway = setup.set("/limits/connections", json!(4)).start();
        let mut kept = Wire::to(gateway.address);
        let mut ask = || {
            let post = Post::call("echo");
            post.is_echoed(&kept.ask(&post.bytes(&gateway)));
        };
        ask();
        let mut half: Vec<Wire> = (0..3).map(|_| Wire::to(gateway.address)).collect();
        half.iter_mut().for_each(|wire| wire.send(b"POST /mcp HTTP/1.1\r\n"));
        for _ in 0..10 {
            Post::call("echo").echoed(&gateway);
            half.push(Wire::to(gateway.address));
            half.last_mut().expect("one was added").send(b"POST /mcp HTTP/1.1\r\n");
        }
        ask();
    }
}

/// Connections that always have their fill of requests under way.
struct Flood {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Flood {
    fn begin(gateway: &Gateway) -> Self {
        let token = gateway.token(&Who { subject: "mallory", ..Who::default() });
        let forged = format!("{}AAAA", &token[..token.len() - 4]);
        let posts = [
            Post::call("echo").token(&token),
            Post::call("none").token(&token),
            Post::call("echo").token(&token).body("{"),
            Post::call("echo").token(&forged),
        ];
        let bytes: Vec<u8> = posts.iter().cycle().take(PIPELINED).flat_map(|post| post.bytes(gateway)).collect();
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let address = gateway.address;
        let threads = (0..FLOODS).map(|_| {
            let (stop, answers, bytes) = (stop.clone(), answers.clone(), bytes.clone());
            thread::spawn(move || {
                let mut wire = Wire::to(address);
                while !stop.load(Ordering::Relaxed) {
                    wire.send(&bytes);
                    for _ in 0..PIPELINED {
                        wire.response();
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        let threads = threads.collect();
        let flood = Self { stop, answers, threads };
        crate::support::gateway::eventually("the flood has begun", || {
            flood.answers.load(Ordering::Relaxed) > FLOODS * PIPELINED
        });
        flood
    }

    /// Ends it; how many answers there were.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("every request of the flood was answered");
        }
        self.answers.load(Ordering::Relaxed)
    }
}
