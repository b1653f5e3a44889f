//! Servers that are down, slow, cut off, or lying. The caller gets a prompt and correct error, never a wrong answer;
//! a call is written at most once; whatever a server does, the next call is served.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Act, TIMEOUT, answer, faulted, head, long, server, server_within};
use crate::support::gateway::{Setup, eventually};
use crate::support::http::Cut;
use crate::support::mcp::{Post, open_session, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Out, Plan, Seen, progress, said};

const PROMPT: Duration = Duration::from_millis(1200);

/// Every tool of the list fails with its reason in both eras, and each time the next call is served.
#[track_caller]
fn all_fail(acts: &'static [(&'static str, Act)], reason: &str, status: &str) {
    let (gateway, upstream) = server(acts);
    let session = open_session(&gateway, |post| post);
    let mut posts = Vec::new();
    for (name, _) in acts {
        for post in [Post::call(name), Post::legacy_call(&session, name)] {
            let begun = Instant::now();
            let response = post.to(&gateway);
            println!("{name}: {} in {:?}", response.text(), begun.elapsed());
            faulted(&post, &response, reason);
            let next = Post::call("echo");
            next.echoed(&gateway);
            assert!(reason == "server_timeout" || begun.elapsed() < PROMPT, "{name} took {:?}", begun.elapsed());
            posts.push(post);
        }
    }
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    for post in posts {
        assert_eq!(oracle::outcome(&records, &post.value)["status"], status, "{post:?}");
    }
}

/// [P5] The caller is told in time, and the record what it was told.
#[test]
fn a_server_that_does_not_answer() {
    const ACTS: &[(&str, Act)] = &[
        ("hang", |_, out| {
            out.gone(Duration::from_secs(10));
        }),
        ("head-only", |_, out| {
            out.write(head("content-length: 100\r\n"));
            out.gone(Duration::from_secs(10));
        }),
        ("half-head", |_, out| {
            out.write("HTTP/1.1 200 OK\r\ncontent-ty");
            out.gone(Duration::from_secs(10));
        }),
        ("length-too-large", |seen, out| {
            let body = answer(seen);
            out.write(head(&format!("content-length: {}\r\n", body.len() + 1)) + &body);
            out.gone(Duration::from_secs(10));
        }),
    ];
    all_fail(ACTS, "server_timeout", "timeout");
}

#[test]
fn a_server_that_hangs_up() {
    const ACTS: &[(&str, Act)] = &[
        ("at-once", |_, out| out.close()),
        ("in-the-head", |_, out| {
            out.write("HTTP/1.1 200 OK\r\ncontent-ty");
            out.close();
        }),
        ("after-the-head", |_, out| {
            out.write(head("content-length: 100\r\n"));
            out.close();
        }),
        ("in-the-body", |seen, out| {
            let body = answer(seen);
            out.write(head(&format!("content-length: {}\r\n", body.len())) + &body[..body.len() / 2]);
            out.close();
        }),
        ("one-byte-short", |seen, out| {
            let body = answer(seen);
            out.write(head(&format!("content-length: {}\r\n", body.len() + 1)) + &body);
            out.close();
        }),
        ("before-the-last-chunk", |seen, out| {
            let body = answer(seen);
            out.write(head("transfer-encoding: chunked\r\n") + &format!("{:x}\r\n{body}\r\n", body.len()));
            out.close();
        }),
    ];
    all_fail(ACTS, "server_cut", "cut");
}

#[test]
fn a_server_whose_framing_lies() {
    const ACTS: &[(&str, Act)] = &[
        ("length-too-small", |seen, out| {
            let body = answer(seen);
            out.write(head(&format!("content-length: {}\r\n", body.len() - 1)) + &body);
        }),
        ("both-lengths", |seen, out| {
            let body = answer(seen);
            let fields = format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", body.len());
            out.write(head(&fields) + &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
        }),
        ("two-lengths", |seen, out| {
            let body = answer(seen);
            let length = body.len();
            out.write(head(&format!("content-length: {length}\r\ncontent-length: {}\r\n", length + 1)) + &body);
        }),
        ("negative-length", |seen, out| out.write(head("content-length: -1\r\n") + &answer(seen))),
        ("no-chunk-size", |seen, out| {
            out.write(head("transfer-encoding: chunked\r\n") + &format!("zz\r\n{}\r\n0\r\n\r\n", answer(seen)));
        }),
        ("chunk-too-long", |seen, out| {
            out.write(head("transfer-encoding: chunked\r\n") + &format!("5\r\n{}\r\n0\r\n\r\n", answer(seen)));
        }),
        ("bare-line-feeds", |seen, out| {
            let body = answer(seen);
            let length = body.len();
            out.write(format!("HTTP/1.1 200 OK\ncontent-type: application/json\ncontent-length: {length}\n\n{body}"));
        }),
        ("no-http", |_, out| out.write("SSH-2.0-OpenSSH_9.9\r\n\r\n")),
        ("status-999", |seen, out| {
            let body = answer(seen);
            let length = body.len();
            out.write(format!(
                "HTTP/1.1 999 No\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            ));
        }),
        ("switching", |_, out| out.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n")),
        ("interim-flood", |seen, out| {
            let body = answer(seen);
            let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(11);
            out.write(interim + &head(&format!("content-length: {}\r\n", body.len())) + &body);
        }),
    ];
    all_fail(ACTS, "server_invalid", "invalid");
}

#[test]
fn a_server_whose_answer_is_none() {
    const ACTS: &[(&str, Act)] = &[
        ("wrong-id", |seen, out| {
            let mut body = said(seen, seen.value());
            body["id"] = json!(2);
            out.json(200, "", &body);
        }),
        ("id-of-another-type", |seen, out| {
            let mut body = said(seen, seen.value());
            body["id"] = json!("1");
            out.json(200, "", &body);
        }),
        ("no-id", |seen, out| {
            let mut body = said(seen, seen.value());
            body.as_object_mut().expect("an object").remove("id");
            out.json(200, "", &body);
        }),
        ("two-ids", |seen, out| {
            let body = answer(seen).replacen('{', "{\"id\":2,", 1);
            out.json_bytes(200, "", body.as_bytes());
        }),
        ("no-json", |seen, out| out.json_bytes(200, "", seen.value().as_bytes())),
        ("empty", |_, out| out.json_bytes(200, "", b"")),
        ("more-behind", |seen, out| out.json_bytes(200, "", (answer(seen) + "{}").as_bytes())),
        ("an-array", |seen, out| out.json_bytes(200, "", format!("[{}]", answer(seen)).as_bytes())),
        ("a-request", |seen, out| {
            out.json(200, "", &json!({ "jsonrpc": "2.0", "id": 1, "method": "ping", "v": seen.value() }))
        }),
        ("result-and-error", |seen, out| {
            let mut body = said(seen, seen.value());
            body["error"] = json!({ "code": 1, "message": "x" });
            out.json(200, "", &body);
        }),
        ("html-500", |seen, out| {
            let page = format!("<html><h1>Internal error at /srv/secret {}</h1></html>", seen.value());
            let length = page.len();
            out.write(format!(
                "HTTP/1.1 500 Oops\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{page}"
            ));
        }),
        ("html-200", |seen, out| {
            let page = format!("<html>Please log in {}</html>", seen.value());
            let length = page.len();
            out.write(format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{page}"));
        }),
        ("no-media-type", |seen, out| {
            let body = answer(seen);
            out.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        }),
        ("compressed", |_, out| out.json_bytes(200, "content-encoding: gzip\r\n", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0])),
        ("accepted", |_, out| out.empty(202)),
        ("no-content", |_, out| out.empty(204)),
        ("moved", |_, out| out.write("HTTP/1.1 302 Found\r\nlocation: http://evil.test/\r\ncontent-length: 0\r\n\r\n")),
    ];
    all_fail(ACTS, "server_invalid", "invalid");
}

/// The gateway's own trouble with a server's credentials is not its caller's: no challenge is passed on.
#[test]
fn a_server_that_refuses_the_gateway() {
    const ACTS: &[(&str, Act)] = &[
        ("unauthorized", |seen, out| {
            let error = json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -1, "message": seen.value() } });
            out.json(401, "www-authenticate: Bearer resource_metadata=\"http://evil.test\"\r\n", &error);
        }),
        ("forbidden", |_, out| out.empty(403)),
    ];
    all_fail(ACTS, "server_auth", "invalid");
    let (gateway, upstream) = server(ACTS);
    let response = Post::call("unauthorized").to(&gateway);
    assert_eq!((response.status(), response.field("www-authenticate")), (200, ""));
    assert!(!response.text().contains("evil"));
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_server_that_is_gone() {
    let (gateway, upstream) = server(&[]);
    Post::call("echo").echoed(&gateway);
    drop(upstream);
    // The last kept connection may still be open for a moment; what is certain is how it ends.
    let mut post = Post::call("echo");
    eventually("the server cannot be reached", || {
        post = Post::call("echo");
        post.to(&gateway).json()["error"]["data"]["reason"] == "unreachable"
    });
    let records = oracle::check_with(&gateway, &[], &[&post]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "unreachable");
}

/// Interim answers are passed over, within bounds.
#[test]
fn interim_answers_are_no_answers() {
    let (gateway, upstream) = server(&[("patient", |seen, out| {
        out.write("HTTP/1.1 100 Continue\r\n\r\n".repeat(5));
        let body = answer(seen);
        out.write(head(&format!("content-length: {}\r\n", body.len())) + &body);
    })]);
    Post::call("patient").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// An error that a server gives with a status of its own is its answer.
#[test]
fn a_servers_own_error_goes_through() {
    let (gateway, upstream) = server(&[("no-such-method", |seen, out| {
        let error = json!({ "code": -32_601, "message": "Method not found", "data": { "odd": [1, 2] } });
        out.json(404, "", &json!({ "jsonrpc": "2.0", "id": seen.id(), "error": error }));
    })]);
    let response = Post::call("no-such-method").to(&gateway);
    assert_eq!((response.status(), &response.json()["error"]["data"]["odd"]), (404, &json!([1, 2])));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [P3] Bytes behind a complete answer belong to nobody; above all not to the next caller.
#[test]
fn what_stands_behind_an_answer_is_thrown_away() {
    let (gateway, upstream) = server(&[("talkative", |seen, out| {
        let body = answer(seen);
        let mut stolen = said(seen, "stolen");
        stolen["id"] = json!(1);
        let stolen = stolen.to_string();
        let second = head(&format!("content-length: {}\r\n", stolen.len())) + &stolen;
        out.write(head(&format!("content-length: {}\r\n", body.len())) + &body + &second);
    })]);
    for _ in 0..10 {
        Post::call("talkative").echoed(&gateway);
        Post::call("echo").echoed(&gateway);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [P2] The connection that was kept is closed by the server just as the next request arrives.
#[test]
fn a_call_is_never_written_twice() {
    let upstream = Plan::tools(&["echo", "shy"])
        .script(|seen, out| {
            // On a kept connection: takes the request, and closes without a word. On a new one it answers.
            let shy = seen.calls("shy") || ["prompts/get", "resources/read"].contains(&seen.method());
            if shy && seen.nth > 0 {
                out.close();
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = open_session(&gateway, |post| post);
    for _ in 0..5 {
        for post in [Post::call("shy"), Post::legacy_call(&session, "shy")] {
            // Warm: the next request goes out on this connection.
            Post::call("echo").echoed(&gateway);
            faulted(&post, &post.to(&gateway), "server_cut");
            assert_eq!(upstream.calls().iter().filter(|call| call.value() == post.value).count(), 1);
        }
        // What changes nothing may be asked again.
        Post::call("echo").echoed(&gateway);
        let prompt = Post::modern("prompts/get", json!({ "name": "greet" })).to(&gateway);
        assert_eq!(prompt.json()["result"]["messages"][0]["role"], "user", "{}", prompt.text());
        Post::call("echo").echoed(&gateway);
        let read = Post::legacy(&session, "resources/read", json!({ "uri": "note://open" })).to(&gateway);
        assert_eq!(read.json()["result"]["contents"][0]["text"], "words", "{}", read.text());
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Closed while nobody looked: noticed before anything is written, so the call simply takes another connection.
#[test]
fn a_connection_that_was_closed_while_idle() {
    let upstream = Plan::tools(&["echo", "last"])
        .script(|seen, out| {
            if seen.calls("last") {
                out.json(200, "", &said(seen, seen.value()));
                out.close();
                out.note(seen.value());
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    for _ in 0..20 {
        let last = Post::call("last");
        last.echoed(&gateway);
        upstream.noted(&last.value);
        let post = Post::call("echo");
        let response = post.to(&gateway);
        // The close and the next request may cross on the way: then the outcome is unknown, and said to be.
        if response.json().get("error").is_some() {
            faulted(&post, &response, "server_cut");
        } else {
            post.is_echoed(&response);
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

#[test]
fn a_server_that_closes_after_each_answer() {
    let (gateway, upstream) = server(&[
        ("close", |seen, out| {
            out.json(200, "connection: close\r\n", &said(seen, seen.value()));
            out.close();
        }),
        ("until-close", |seen, out| {
            out.write(head("") + &answer(seen));
            out.close();
        }),
        ("http-1.0", |seen, out| {
            let body = answer(seen);
            let length = body.len();
            out.write(format!(
                "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            ));
            out.close();
        }),
        ("drip", |seen, out| {
            let body = answer(seen);
            let whole = head("transfer-encoding: chunked\r\n") + &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            for byte in whole.as_bytes().chunks(3) {
                out.write(byte);
            }
        }),
    ]);
    for name in ["close", "until-close", "http-1.0", "drip"] {
        for _ in 0..5 {
            Post::call(name).echoed(&gateway);
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// 70 KB and more, in every framing.
#[test]
fn long_answers_arrive_whole() {
    let (gateway, upstream) = server_within(
        "20s",
        &[
            ("length", |seen, out| out.json_bytes(200, "", long(seen, 70_000, seen.id()).as_bytes())),
            ("huge", |seen, out| out.json_bytes(200, "", long(seen, 3_000_000, seen.id()).as_bytes())),
            ("chunked", |seen, out| {
                let body = long(seen, 70_000, seen.id());
                out.write(head("transfer-encoding: chunked\r\n"));
                for piece in body.as_bytes().chunks(777) {
                    out.write([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
                }
                out.write("0\r\n\r\n");
            }),
            ("until-close", |seen, out| {
                out.write(head("") + &long(seen, 70_000, seen.id()));
                out.close();
            }),
        ],
    );
    let session = open_session(&gateway, |post| post);
    for (name, least) in [("length", 65_536), ("huge", 1 << 21), ("chunked", 65_536), ("until-close", 65_536)] {
        for post in [Post::call(name), Post::legacy_call(&session, name)] {
            let response = post.to(&gateway);
            assert!(response.body.len() > least, "{name}: {} bytes", response.body.len());
            post.is_echoed(&response);
        }
    }
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert!(oracle::of_kind(&records, "outcome").all(|it| it["answer_bytes"].as_u64() > Some(65_536)));
}

/// What of a long answer is out cannot be taken back; that it is wrong is said by not ending it.
#[test]
fn long_answers_that_turn_out_wrong_are_cut() {
    const NAMES: [&str; 7] =
        ["cut-length", "cut-chunked", "wrong-id", "wrong-id-chunked", "no-json", "more-behind", "silent"];
    let (gateway, upstream) = server(&[
        ("cut-length", |seen, out| {
            let body = long(seen, 200_000, seen.id());
            out.write(head(&format!("content-length: {}\r\n", body.len())) + &body[..150_000]);
            out.close();
        }),
        ("cut-chunked", |seen, out| {
            let body = long(seen, 200_000, seen.id());
            out.write(head("transfer-encoding: chunked\r\n") + &format!("{:x}\r\n{body}\r\n", body.len()));
            out.close();
        }),
        ("wrong-id", |seen, out| out.json_bytes(200, "", long(seen, 100_000, &json!(2)).as_bytes())),
        ("wrong-id-chunked", |seen, out| {
            let body = long(seen, 100_000, &json!("1"));
            out.write(head("transfer-encoding: chunked\r\n") + &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
        }),
        ("no-json", |seen, out| {
            // Below its members it is only skimmed: a comma too many is for the client's parser, a bracket is not.
            let body = long(seen, 100_000, seen.id()).replace("\"n\":1999", "\"n\":1999]");
            out.json_bytes(200, "", body.as_bytes());
        }),
        ("more-behind", |seen, out| out.json_bytes(200, "", (long(seen, 100_000, seen.id()) + "x").as_bytes())),
        ("silent", |seen, out| {
            let body = long(seen, 200_000, seen.id());
            out.write(head(&format!("content-length: {}\r\n", body.len())) + &body[..150_000]);
            out.gone(Duration::from_secs(10));
        }),
    ]);
    for name in NAMES {
        let post = Post::call(name);
        let cut = post.begin(&gateway).try_response();
        assert!(matches!(cut, Err(Cut { .. })), "{name} ended cleanly");
        Post::call("echo").echoed(&gateway);
    }
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    let bad = oracle::of_kind(&records, "outcome").filter(|it| it["status"] != "ok").count();
    assert_eq!(bad, NAMES.len());
}

/// Streams that end without their answer, or with a wrong one: an error takes the answer's place in the stream.
#[test]
fn streams_that_are_cut() {
    const CASES: [(&str, &str); 6] = [
        ("cut", "server_cut"),
        ("cut-in-event", "server_cut"),
        ("ended", "server_cut"),
        ("no-json", "server_invalid"),
        ("silent", "server_timeout"),
        ("foreign", "server_cut"),
    ];
    let (gateway, upstream) = server(&[
        ("cut", |seen, out| {
            begin(seen, out);
            out.close();
        }),
        ("cut-in-event", |seen, out| {
            begin(seen, out);
            out.event_bytes(&format!("data: {}", answer(seen)));
            out.close();
        }),
        ("ended", |seen, out| {
            begin(seen, out);
            out.stream_end();
        }),
        ("no-json", |seen, out| {
            begin(seen, out);
            out.event_bytes("data: hello\n\n");
            out.event(&said(seen, seen.value()));
            out.stream_end();
        }),
        ("silent", |seen, out| {
            begin(seen, out);
            out.gone(Duration::from_secs(10));
        }),
        ("foreign", |seen, out| {
            begin(seen, out);
            let mut body = said(seen, seen.value());
            body["id"] = json!(99);
            out.event(&body);
            out.stream_end();
        }),
    ]);
    let session = open_session(&gateway, |post| post);
    for (name, reason) in CASES {
        for post in [Post::call(name), Post::legacy_call(&session, name)] {
            let (messages, end) = post.stream(&gateway).rest();
            assert!(end.is_ok(), "{name}: with its error the stream is complete");
            let last = messages.last().expect("there is an error");
            let said = (&last["id"], &last["error"]["data"]["reason"]);
            assert_eq!(said, (post.request_id(), &json!(reason)), "{name}: {last}");
            assert_eq!(messages.iter().filter(|it| it.get("id").is_some()).count(), 1, "{name}: {messages:?}");
            Post::call("echo").echoed(&gateway);
        }
    }
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    let bad = oracle::of_kind(&records, "outcome").filter(|it| it["status"] != "ok").count();
    assert_eq!(bad, 2 * CASES.len());
}

fn begin(seen: &Seen, out: &mut Out<'_>) {
    out.stream();
    out.event(&progress(seen, 1));
}

/// A stream whose events have ids can be resumed: its client must see that it broke, or that its server hung up on
/// purpose, but no error in the answer's place (MCP 2025-11-25 basic/transports; SEP-1699).
#[test]
fn streams_that_can_be_resumed() {
    let (gateway, upstream) = server(&[
        ("cut", |_, out| {
            out.stream();
            out.event_bytes("id: e-1\ndata:\n\n");
            out.close();
        }),
        ("polled", |_, out| {
            out.stream();
            out.event_bytes("id: e-1\nretry: 10\ndata:\n\n");
            out.stream_end();
        }),
    ]);
    let session = open_session(&gateway, |post| post);
    let (messages, end) = Post::legacy_call(&session, "cut").stream(&gateway).rest();
    assert!(messages.is_empty() && end.is_err(), "{messages:?}");
    let mut events = Post::legacy_call(&session, "polled").stream(&gateway);
    let primed = events.next().expect("not cut").expect("an event");
    assert!(primed.id.is_some_and(|id| id != "e-1"), "the gateway's own");
    let (messages, end) = events.rest();
    assert!(messages.is_empty() && end.is_ok(), "{messages:?}");
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    let statuses: Vec<&Value> = oracle::of_kind(&records, "outcome").map(|it| &it["status"]).collect();
    assert_eq!(statuses, [&json!("cut"), &json!("detached")]);
}

/// [P5] A slow server holds up nobody but its own callers.
#[test]
fn others_are_not_held_up() {
    let (slow, _one) = (Plan::tools(&["wait"]), ());
    let slow = slow
        .script(|seen, out| {
            if seen.calls("wait") {
                out.pass("go");
            }
            Acted::Default
        })
        .start();
    let quick = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("slow", &slow.url()).server("quick", &quick.url()).open().start();
    let posts: Vec<Post> = (0..30).map(|_| Post::call("wait").at("/s/slow/mcp")).collect();
    let mut waiting: Vec<_> = posts.iter().map(|post| post.begin(&gateway)).collect();
    eventually("all of them wait", || slow.calls().len() == posts.len());
    for _ in 0..50 {
        Post::call("echo").at("/s/quick/mcp").echoed(&gateway);
    }
    slow.open("go");
    for (post, wire) in posts.iter().zip(&mut waiting) {
        post.is_echoed(&wire.response());
    }
    oracle::check(&gateway, &[("slow", &slow), ("quick", &quick)]);
}

/// [P3] Many callers with the same request id at once, on both shards: each gets its own answer.
#[test]
fn everybody_gets_their_own_answer() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().shards(2).start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let session = open_session(&gateway, |post| post);
                let mut wire = crate::support::http::Wire::to(gateway.address);
                for turn in 0..40 {
                    let post = if turn % 2 == 0 { Post::call("echo") } else { Post::legacy_call(&session, "echo") };
                    post.is_echoed(&wire.ask(&post.bytes(&gateway)));
                }
            });
        }
    });
    assert_eq!(upstream.calls().len(), 320);
    assert!(upstream.calls().iter().all(|call| text_of(&said(call, call.value())).len() == 32));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server that answers, hangs up, or sits there before it has read the request: whatever of it arrives, the caller is
/// told soon, and the next call is served.
#[test]
fn servers_that_do_not_read_the_request() {
    let upstream = Plan::tools(&["answers", "leaves", "stares", "echo"])
        .hasty(|seen, out| {
            match seen.field("mcp-name") {
                "answers" => {
                    let error = json!({ "code": -32_600, "message": "too large" });
                    let answer = json!({ "jsonrpc": "2.0", "id": 1, "error": error });
                    out.json(413, "connection: close\r\n", &answer);
                }
                "leaves" => {}
                "stares" => {
                    // Nothing is read; the gateway gives up.
                    std::thread::sleep(Duration::from_millis(2_500));
                }
                _ => return Acted::Default,
            }
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).set("/servers/up/timeout", json!(TIMEOUT)).open().start();
    for (name, reasons) in
        [("answers", &["", "server_cut"][..]), ("leaves", &["server_cut"]), ("stares", &["server_timeout"])]
    {
        let post = Post::call(name).param("/arguments/pad", json!("x".repeat(900_000)));
        let begun = Instant::now();
        let answer = post.to(&gateway).json();
        let reason = answer["error"]["data"]["reason"].as_str().unwrap_or_default();
        assert!(answer["error"]["code"].is_i64() && reasons.contains(&reason), "{name}: {answer}");
        assert!(begun.elapsed() < Duration::from_millis(2_400), "{name} took {:?}", begun.elapsed());
        Post::call("echo").echoed(&gateway);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [P5] A process that is killed, before, during and after its answers, and comes back: here another gateway, which is
/// a server like any other.
#[test]
fn a_server_process_that_is_killed() {
    let upstream = Plan::tools(&["echo", "hang", "stream"])
        .script(|seen, out| {
            if !["hang", "stream"].contains(&seen.name()) {
                return Acted::Default;
            }
            if seen.name() == "stream" {
                begin(seen, out);
            }
            out.gone(Duration::from_secs(20));
            Acted::Done
        })
        .start();
    let middle = Setup::new().server("up", &upstream.url()).open().start();
    let address = middle.address;
    let gateway = Setup::new().server("middle", &middle.url("/mcp")).open().start();
    let session = open_session(&gateway, |post| post);
    let calls = |tool: &str| [Post::call(tool), Post::legacy_call(&session, tool)];
    let (after, during) = (calls("echo"), [calls("hang"), calls("stream").map(|post| post.id(2))].concat());
    for post in &after {
        post.echoed(&gateway);
    }
    let mut wires: Vec<_> = during.iter().map(|post| post.begin(&gateway)).collect();
    for post in &during {
        upstream.wait("the call", |seen| seen.value() == post.value);
    }
    middle.signal(Signal::KILL);
    for (post, wire) in during.iter().zip(&mut wires) {
        match wire.try_response() {
            Ok(answer) => {
                assert!(answer.text().contains("\"reason\":\"server_cut\""), "{post:?}: {}", answer.text());
            }
            // Where the stream had got an event to come back to, its client comes back, and sees it broken until then.
            Err(cut) => {
                let had = String::from_utf8_lossy(&cut.had).into_owned();
                assert!(post.tool() == "stream" && had.contains("id: "), "{post:?}: {had}");
            }
        }
    }
    // The last kept connection may be found out by a call.
    let mut refused = Vec::new();
    eventually("nobody is there", || {
        let post = Post::call("echo");
        let reason = post.to(&gateway).json()["error"]["data"]["reason"].clone();
        refused.push(post);
        assert!(["unreachable", "unhealthy", "server_cut"].iter().any(|known| reason == *known), "{reason}");
        reason != "server_cut"
    });
    let _middle = middle.restart(|config| config["listen"] = json!(address.to_string()));
    eventually("it is found again", || Post::call("echo").to(&gateway).json().get("result").is_some());
    for post in calls("echo") {
        post.echoed(&gateway);
    }
    let refused: Vec<&Post> = refused.iter().collect();
    let records = oracle::check_with(&gateway, &[], &refused);
    for post in &during {
        assert_eq!(oracle::outcome(&records, &post.value)["status"], "cut");
    }
    for post in &refused {
        let reached = upstream.calls().iter().any(|call| call.value() == post.value);
        assert!(!reached, "it was said that nothing was executed");
    }
}
