//! Clients that leave: at every point of a request, in every way there is, in both eras, with both drivers. In the
//! modern era leaving cancels, once; in the legacy era it cancels nothing.

use std::time::Duration;

use serde_json::json;

use super::{DRIVERS, head};
use crate::support::gateway::{Gateway, PATIENCE, Setup};
use crate::support::http::Wire;
use crate::support::level::Level;
use crate::support::mcp::{Post, open_session};
use crate::support::oracle;
use crate::support::upstream::{Acted, Out, Plan, Seen, Upstream, progress, said};

/// Where in its request a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    InTheHead,
    InTheBody,
    BeforeTheAnswer,
    DuringJson,
    DuringAStream,
    Idle,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Closes.
    Fin,
    /// Resets.
    Reset,
    /// Ends its own direction only, and goes on reading.
    Half,
}

const POINTS: [Point; 6] =
    [Point::InTheHead, Point::InTheBody, Point::BeforeTheAnswer, Point::DuringJson, Point::DuringAStream, Point::Idle];
const WAYS: [Way; 3] = [Way::Fin, Way::Reset, Way::Half];
/// A legacy server answers after this long; its client has left long before.
const LATER: Duration = Duration::from_millis(500);

impl Point {
    fn tool(self) -> &'static str {
        match self {
            Self::DuringJson => "json",
            Self::DuringAStream => "stream",
            Self::BeforeTheAnswer => "late",
            Self::InTheHead | Self::InTheBody | Self::Idle => "echo",
        }
    }

    /// Whether the call is under way then.
    fn under_way(self) -> bool {
        matches!(self, Self::BeforeTheAnswer | Self::DuringJson | Self::DuringAStream)
    }
}

/// [P5] [P6] [S5] Head, body, wait, answer, stream, idle; FIN, RST, half-close.
#[test]
fn leaving_at_every_point() {
    all(DRIVERS[0]);
}

/// [P5] [P6] [S5] The same without io_uring.
#[test]
fn leaving_at_every_point_on_epoll() {
    all(DRIVERS[1]);
}

fn all(driver: &str) {
    let upstream = upstream();
    let gateway = Setup::new().server("up", &upstream.url()).open().shards(2).driver(driver).start();
    let before = Level::settled(&gateway);
    let left: Vec<(Point, bool, Post)> = std::thread::scope(|scope| {
        let mut leaving = Vec::new();
        for point in POINTS {
            for way in WAYS {
                for modern in [true, false] {
                    let tool = point.tool();
                    // A session each: two requests of one session that are under way have two ids.
                    let session = || open_session(&gateway, |post| post);
                    let post = if modern { Post::call(tool) } else { Post::legacy_call(&session(), tool) };
                    let post = post.param("/_meta/progressToken", json!("p1"));
                    let (gateway, upstream) = (&gateway, &upstream);
                    leaving.push(scope.spawn(move || {
                        leave(gateway, upstream, point, way, &post, modern);
                        (point, modern, post)
                    }));
                }
            }
        }
        leaving.into_iter().map(|it| it.join().expect("every client could leave")).collect()
    });
    for (point, modern, post) in left.iter().filter(|(point, ..)| point.under_way()) {
        upstream.noted(&format!("{} {modern}", post.value));
        let notes = upstream.notes();
        assert_eq!(notes.iter().filter(|it| it.starts_with(&post.value)).count(), 1, "{point:?}: {notes:?}");
    }
    let told = upstream.seen().iter().filter(|seen| seen.method() == "notifications/cancelled").count();
    assert_eq!(told, 0, "a closed connection says it, once");
    Post::call("echo").echoed(&gateway);
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    for (point, modern, post) in &left {
        match point {
            Point::InTheHead | Point::InTheBody => {
                let decided = oracle::of_kind(&records, "decision").any(|it| it["trace"] == post.value);
                let written = upstream.calls().iter().any(|it| it.value() == post.value);
                assert!(!decided && !written, "half a request is none: {post:?}");
            }
            _ => {
                let want = if point.under_way() && *modern { "cancelled" } else { "ok" };
                assert_eq!(oracle::outcome(&records, &post.value)["status"], want, "{point:?}, modern: {modern}");
            }
        }
    }
    before.comes_back(&gateway);
}

/// Begins an answer in its form, waits for the gateway's leaving, and notes whether it left; if not, goes on.
fn upstream() -> Upstream {
    Plan::tools(&["echo", "late", "json", "stream"])
        .script(|seen, out| {
            if seen.method() != "tools/call" || seen.name() == "echo" {
                return Acted::Default;
            }
            let long = said(seen, &format!("{}{}", seen.value(), "y".repeat(200_000))).to_string();
            match seen.name() {
                "json" => {
                    out.write(head(&format!("content-length: {}\r\n", long.len())) + &long[..long.len() / 2]);
                }
                "stream" => {
                    out.stream();
                    out.event(&progress(seen, 1));
                }
                _ => {}
            }
            let gone = out.gone(if seen.is_modern() { PATIENCE } else { LATER });
            out.note(format!("{} {gone}", seen.value()));
            if !gone {
                go_on(seen, out, &long[long.len() / 2..]);
            }
            Acted::Done
        })
        .start()
}

fn go_on(seen: &Seen, out: &mut Out<'_>, rest: &str) {
    match seen.name() {
        "json" => out.write(rest),
        "stream" => {
            out.event(&said(seen, seen.value()));
            out.stream_end();
        }
        _ => out.json(200, "", &said(seen, seen.value())),
    }
}

/// One client's way to `point`, and away from there.
fn leave(gateway: &Gateway, upstream: &Upstream, point: Point, way: Way, post: &Post, modern: bool) {
    let bytes = post.bytes(gateway);
    let head_bytes = bytes.len() - post.body_bytes().len();
    let mut wire = Wire::to(gateway.address);
    match point {
        Point::InTheHead => wire.send(&bytes[..head_bytes / 2]),
        Point::InTheBody => wire.send(&bytes[..bytes.len() - 10]),
        _ => wire.send(&bytes),
    }
    match point {
        // What is half there has been read, most likely; nothing tells.
        Point::InTheHead | Point::InTheBody => std::thread::sleep(Duration::from_millis(20)),
        Point::BeforeTheAnswer => _ = upstream.wait("the call", |seen| seen.value() == post.value),
        Point::DuringJson => assert_eq!(wire.head().expect("the answer begins").status, 200),
        Point::DuringAStream => {
            let mut events = wire.events();
            assert_eq!(events.message()["params"]["progress"], json!(1));
            wire = events.into_wire();
        }
        Point::Idle => post.is_echoed(&wire.response()),
    }
    match way {
        Way::Fin => drop(wire),
        Way::Reset => wire.reset(),
        Way::Half => {
            wire.close_half();
            after_half_a_goodbye(wire, point, post, modern);
        }
    }
}

/// Who goes on reading sees the connection's end; before it, in the legacy era, the answer.
fn after_half_a_goodbye(mut wire: Wire, point: Point, post: &Post, modern: bool) {
    match point {
        Point::BeforeTheAnswer if !modern => post.is_echoed(&wire.response()),
        Point::DuringJson if !modern => {
            let rest = wire.rest();
            let rest = String::from_utf8_lossy(&rest);
            assert!(rest.contains("yyy") && rest.contains('}'), "{point:?}: {rest}");
        }
        // What is left of a stream waits for the client to come back for it.
        Point::DuringAStream if !modern => _ = wire.rest(),
        Point::DuringJson => _ = wire.rest(),
        _ => {
            // An error, or nothing: what does not come is the answer.
            let rest = wire.rest();
            let rest = String::from_utf8_lossy(&rest);
            assert!(!rest.contains("\"result\""), "{point:?}: {rest}");
        }
    }
}
