//! Out of descriptors: what is connected goes on, what is new is served or turned away instead of left hanging, and
//! nothing has to be done about it afterwards.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::DRIVERS;
use crate::support::gateway::{Gateway, Setup, eventually};
use crate::support::http::Wire;
use crate::support::level::{Level, busy};
use crate::support::mcp::Post;
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream};

/// More than fit, in every one of these tests.
const CLIENTS: usize = 300;
/// Of a core, while nobody asks for anything.
const BUSY_MAX: f64 = 0.05;
/// What is turned away is so soon, on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(5);

fn pair(driver: &str, descriptors: u32) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo", "hold"]).script(|seen, out| {
        if seen.calls("hold") {
            out.pass("go");
        }
        Acted::Default
    });
    let upstream = upstream.start();
    let setup = Setup::new().server("up", &upstream.url()).open().descriptors(descriptors);
    (setup.driver(driver).start(), upstream)
}

/// A crowd comes, stays, and leaves; one client is on a call all the while. `room` connections fit at most.
fn crowded(driver: &str, gateway: &Gateway, upstream: &Upstream, room: usize) {
    let hold = Post::call("hold");
    let mut held = hold.begin(gateway);
    upstream.wait("the call", |seen| seen.calls("hold"));
    let mut crowd: Vec<Wire> = (0..CLIENTS).map(|_| Wire::to(gateway.address)).collect();
    eventually("who does not fit is turned away", || {
        crowd.retain_mut(|wire| wire.quiet(Duration::from_millis(1)));
        crowd.len() <= room
    });
    assert!(crowd.len() >= 4, "only {} are connected", crowd.len());
    // Who comes now, with a call, is served, or told soon that there is no room.
    for _ in 0..5 {
        let began = Instant::now();
        let post = Post::call("echo");
        if let Ok(answer) = post.begin(gateway).try_response()
            && answer.status() != 503
        {
            post.is_echoed(&answer);
        }
        assert!(began.elapsed() < SOON, "left hanging for {:?}", began.elapsed());
    }
    let used = busy(gateway, Duration::from_secs(2));
    println!("{driver}: {:.2} % of a core while full", used * 100.0);
    assert!(used < BUSY_MAX, "{:.1} % of a core for nothing", used * 100.0);
    // The call that was there before is served to its end, and the connection's next one after it.
    upstream.open("go");
    hold.is_echoed(&held.response());
    let next = Post::call("echo");
    next.is_echoed(&held.ask(&next.bytes(gateway)));
    drop(crowd);
    eventually("new clients are let in again", || {
        let post = Post::call("echo");
        let answer = post.begin(gateway).try_response();
        answer.is_ok_and(|answer| answer.status() == 200 && answer.json().get("result").is_some())
    });
    for _ in 0..20 {
        Post::call("echo").echoed(gateway);
    }
}

/// [R2] [P6] It was told how many it may have.
#[test]
fn more_clients_than_descriptors() {
    for driver in DRIVERS {
        let (gateway, upstream) = pair(driver, 256);
        let before = Level::settled(&gateway);
        crowded(driver, &gateway, &upstream, 256);
        oracle::check(&gateway, &[("up", &upstream)]);
        before.comes_back(&gateway);
    }
}

/// It counted on more: the limit is lowered while it runs.
fn fewer_than_expected(driver: &str) {
    const EXPECTED: u64 = 4096;
    let (gateway, upstream) = pair(driver, 4096);
    let before = Level::settled(&gateway);
    let process = i32::try_from(gateway.pid()).ok().and_then(Pid::from_raw);
    // Descriptors are numbered from the lowest free one on, so this many more can be had.
    let room = before.files + 40;
    let current = u64::try_from(room).expect("a small number");
    let limit = Rlimit { current: Some(current), maximum: Some(EXPECTED) };
    let old = prlimit(process, Resource::Nofile, limit).expect("a limit can be lowered");
    assert_eq!(old.maximum, Some(EXPECTED), "the limit that it was started with");
    crowded(driver, &gateway, &upstream, room);
    oracle::check(&gateway, &[("up", &upstream)]);
    before.comes_back(&gateway);
}

/// [R2] [P6] None left at the very moment one is needed.
#[test]
fn out_of_descriptors() {
    fewer_than_expected(DRIVERS[0]);
}

/// [R2] [P6] The same without io_uring.
#[test]
fn out_of_descriptors_on_epoll() {
    fewer_than_expected(DRIVERS[1]);
}
