//! One caller that asks for everything there is, and the others, who ask for little.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::{Gateway, Setup, Who};
use crate::support::http::Wire;
use crate::support::mcp::Post;
use crate::support::upstream::Plan;

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
