//! Every fault of a server, at every point, in both forms of answers, in both eras, with both drivers: what the client
//! sees, what the record says, and that nothing is left behind.

use std::time::Duration;

use serde_json::{Value, json};

use super::{DRIVERS, answer, head};
use crate::support::gateway::Setup;
use crate::support::http::Response;
use crate::support::level::Level;
use crate::support::mcp::{Post, open_session, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Out, Plan, Seen, progress, said};

/// The server's `timeout` here.
const TIMEOUT: &str = "2s";
const LONG: Duration = Duration::from_secs(15);

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Events,
}

/// What its caller sees of a fault.
#[derive(Clone, Copy, Debug)]
enum Sees {
    /// The answer, in spite of it.
    Answer,
    /// An error with this reason.
    Error(&'static str),
    /// Either: the fault and the answer race.
    AnswerOr(&'static str),
}

/// One fault.
struct Row {
    name: &'static str,
    /// Forms in which it makes sense.
    forms: &'static [Form],
    act: fn(Form, &Seen, &mut Out<'_>),
    sees: Sees,
    /// Of the outcome, where the caller sees an error.
    status: &'static str,
}

const BOTH: &[Form] = &[Form::Json, Form::Events];
const JSON: &[Form] = &[Form::Json];
const EVENTS: &[Form] = &[Form::Events];

const CUT: Sees = Sees::Error("server_cut");
const TIMED_OUT: Sees = Sees::Error("server_timeout");
const INVALID: Sees = Sees::Error("server_invalid");

const ROWS: &[Row] = &[
    row("hangs-up-before", BOTH, |_, _, out| out.close(), CUT, "cut"),
    row("hangs-up-during", BOTH, |form, seen, out| begun(form, seen, out, |out| out.close()), CUT, "cut"),
    row("hangs-up-after", BOTH, |form, seen, out| whole(form, seen, out, |out| out.close()), Sees::Answer, "ok"),
    row("resets-before", BOTH, |_, _, out| out.reset(), CUT, "cut"),
    row("resets-during", BOTH, |form, seen, out| begun(form, seen, out, |out| out.reset()), CUT, "cut"),
    row(
        "resets-after",
        BOTH,
        |form, seen, out| whole(form, seen, out, |out| out.reset()),
        Sees::AnswerOr("server_cut"),
        "cut",
    ),
    row("hangs-before", BOTH, |_, _, out| wait(out), TIMED_OUT, "timeout"),
    row("hangs-during", BOTH, |form, seen, out| begun(form, seen, out, wait), TIMED_OUT, "timeout"),
    row("trickles", BOTH, trickle, Sees::Answer, "ok"),
    row("trickles-without-end", JSON, trickle_on, TIMED_OUT, "timeout"),
    row("shorter-than-it-said", BOTH, |form, seen, out| lie(form, seen, out, 200, |out| out.close()), CUT, "cut"),
    row("longer-than-it-said", JSON, |form, seen, out| lie(form, seen, out, -7, |_| {}), INVALID, "invalid"),
    row("chunk-longer-than-it-said", EVENTS, |form, seen, out| lie(form, seen, out, -7, |_| {}), INVALID, "invalid"),
    row("another-id-alone", JSON, |form, seen, out| foreign(form, seen, out, false), INVALID, "invalid"),
    row("another-id-alone-on-a-stream", EVENTS, |form, seen, out| foreign(form, seen, out, false), CUT, "cut"),
    row("another-id-first", EVENTS, |form, seen, out| foreign(form, seen, out, true), Sees::Answer, "ok"),
];

const fn row(
    name: &'static str,
    forms: &'static [Form],
    act: fn(Form, &Seen, &mut Out<'_>),
    sees: Sees,
    status: &'static str,
) -> Row {
    Row { name, forms, act, sees, status }
}

/// [P3] [P5] [P6] [R1] Killed, hanging, trickling, resetting or lying before, during and after its answer.
#[test]
fn every_fault_of_a_server() {
    all(DRIVERS[0]);
}

/// [P3] [P5] [P6] The same without io_uring.
#[test]
fn every_fault_of_a_server_on_epoll() {
    all(DRIVERS[1]);
}

fn all(driver: &str) {
    let names: Vec<String> = ROWS
        .iter()
        .flat_map(|row| row.forms.iter().map(|form| format!("{form:?}-{}", row.name)))
        .chain(["echo".to_owned()])
        .collect();
    let upstream = Plan::tools(&names.iter().map(|name| &**name).collect::<Vec<_>>())
        .script(|seen, out| {
            let called = seen.name().split_once('-').filter(|_| seen.method() == "tools/call");
            let Some((form, name)) = called else { return Acted::Default };
            let row = ROWS.iter().find(|row| row.name == name).expect("only these tools are offered");
            (row.act)(if form == "Json" { Form::Json } else { Form::Events }, seen, out);
            Acted::Done
        })
        .start();
    let setup = Setup::new()
        .server("up", &upstream.url())
        .set("/servers/up/timeout", json!(TIMEOUT))
        .shards(2)
        .set("/servers/up/health", json!({ "failures": 1_000 }));
    let gateway = setup.open().driver(driver).start();
    let before = Level::settled(&gateway);
    let called: Vec<(&Row, Post, bool)> = std::thread::scope(|scope| {
        let rows: Vec<_> = ROWS
            .iter()
            .map(|row| {
                let gateway = &gateway;
                scope.spawn(move || {
                    // A session each: two requests of one session that are under way have two ids.
                    let session = &open_session(gateway, |post| post);
                    let mut called = Vec::new();
                    for form in row.forms {
                        let tool = format!("{form:?}-{}", row.name);
                        for post in [Post::call(&tool), Post::legacy_call(session, &tool)] {
                            let answered = seen(row, &post, &post.to(gateway));
                            Post::call("echo").echoed(gateway);
                            called.push((row, post, answered));
                        }
                    }
                    called
                })
            })
            .collect();
        rows.into_iter().flat_map(|row| row.join().expect("every caller saw what it should")).collect()
    });
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    for (row, post, answered) in called {
        let status = &oracle::outcome(&records, &post.value)["status"];
        assert_eq!(status, if answered { "ok" } else { row.status }, "{}: {post:?}", row.name);
    }
    before.comes_back(&gateway);
}

/// [P3] [P5] [H14] A server that answers before it has read the request, in both forms, and reads no more of it: its
/// answer, or the truth about the connection; and the next call is served.
#[test]
fn servers_that_answer_early() {
    // Told apart by what a head says of its body: of a legacy call nothing else is in it.
    const SIZES: [(Form, usize); 2] = [(Form::Json, 600_000), (Form::Events, 700_000)];
    for driver in DRIVERS {
        let upstream = Plan::tools(&["echo"])
            .hasty(|seen, out| {
                let length = seen.field("content-length").parse().unwrap_or(0);
                let error = json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -32_600, "message": "too large" } });
                match SIZES.iter().rev().find(|(_, size)| length > *size) {
                    Some((Form::Json, _)) => out.json(413, "connection: close\r\n", &error),
                    Some((Form::Events, _)) => {
                        let fields = "content-type: text/event-stream\r\nconnection: close\r\n";
                        out.write(format!("HTTP/1.1 200 OK\r\n{fields}\r\ndata: {error}\n\n"));
                    }
                    None => return Acted::Default,
                }
                Acted::Done
            })
            .start();
        let setup = Setup::new()
            .server("up", &upstream.url())
            .set("/servers/up/timeout", json!(TIMEOUT))
            .set("/servers/up/health", json!({ "failures": 1_000 }));
        let gateway = setup.open().driver(driver).start();
        let before = Level::settled(&gateway);
        let session = open_session(&gateway, |post| post);
        for (form, size) in SIZES {
            for post in [Post::call("echo"), Post::legacy_call(&session, "echo")] {
                let post = post.id(1).param("/arguments/pad", json!("x".repeat(size)));
                let message = last(&post.to(&gateway));
                let reason = message["error"]["data"]["reason"].as_str();
                let theirs = message["error"]["code"] == -32_600;
                assert!(theirs || reason == Some("server_cut"), "{form:?}: {message}");
                Post::call("echo").echoed(&gateway);
                Post::legacy_call(&session, "echo").echoed(&gateway);
            }
        }
        oracle::check(&gateway, &[("up", &upstream)]);
        before.comes_back(&gateway);
    }
}

/// Checks what a caller sees; whether it is the answer.
#[track_caller]
fn seen(row: &Row, post: &Post, response: &Response) -> bool {
    let message = last(response);
    let reason = message["error"]["data"]["reason"].as_str();
    let answered = text_of(&message) == post.value && message.get("error").is_none();
    let so = match row.sees {
        Sees::Answer => answered,
        Sees::Error(want) => reason == Some(want) && message.get("result").is_none(),
        Sees::AnswerOr(want) => answered || reason == Some(want),
    };
    assert!(so && response.status() == 200 && message["id"] == *post.request_id(), "{}: {}", row.name, response.text());
    answered
}

/// The one message of a JSON answer, the last one of a stream.
fn last(response: &Response) -> Value {
    if response.field("content-type") != "text/event-stream" {
        return response.json();
    }
    let text = response.text();
    let last = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back();
    serde_json::from_str(last.unwrap_or_default()).unwrap_or_else(|fault| panic!("{fault}: {text}"))
}

fn wait(out: &mut Out<'_>) {
    out.gone(LONG);
}

/// A part of the answer, and then something else.
fn begun(form: Form, seen: &Seen, out: &mut Out<'_>, then: impl FnOnce(&mut Out<'_>)) {
    match form {
        Form::Json => {
            let body = answer(seen);
            out.write(head(&format!("content-length: {}\r\n", body.len())) + &body[..body.len() / 2]);
        }
        Form::Events => {
            out.stream();
            out.event(&progress(seen, 1));
            let event = format!("data: {}", said(seen, seen.value()));
            out.event_bytes(&event[..event.len() / 2]);
        }
    }
    then(out);
}

/// All of the answer, and then something else.
fn whole(form: Form, seen: &Seen, out: &mut Out<'_>, then: impl FnOnce(&mut Out<'_>)) {
    // Said beforehand: what hangs up unannounced has a test of its own, since it is found out by the next call.
    out.write(bytes(form, seen).replacen("\r\n", "\r\nconnection: close\r\n", 1));
    then(out);
}

fn bytes(form: Form, seen: &Seen) -> String {
    let body = answer(seen);
    match form {
        Form::Json => head(&format!("content-length: {}\r\n", body.len())) + &body,
        Form::Events => {
            let event = format!("event: message\ndata: {body}\n\n");
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            format!("{head}{:x}\r\n{event}\r\n0\r\n\r\n", event.len())
        }
    }
}

/// A few bytes at a time.
fn trickle(form: Form, seen: &Seen, out: &mut Out<'_>) {
    for bytes in bytes(form, seen).as_bytes().chunks(3) {
        out.write(bytes);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Byte by byte, and so slowly that it is no answer in time.
fn trickle_on(_: Form, seen: &Seen, out: &mut Out<'_>) {
    out.write(head("content-length: 1000\r\n"));
    for byte in answer(seen).as_bytes() {
        out.write([*byte]);
        if out.gone(Duration::from_millis(50)) {
            break;
        }
    }
    wait(out);
}

/// An answer whose announced length is off by so much.
fn lie(form: Form, seen: &Seen, out: &mut Out<'_>, by: isize, then: impl FnOnce(&mut Out<'_>)) {
    let off = |length: usize| length.checked_add_signed(by).expect("answers are longer than lies");
    match form {
        Form::Json => {
            let body = answer(seen);
            out.write(head(&format!("content-length: {}\r\n", off(body.len()))) + &body);
        }
        Form::Events => {
            out.stream();
            let event = format!("data: {}\n\n", said(seen, seen.value()));
            let cut = &event[..event.len() - 4];
            let behind = if by < 0 { "\r\n0\r\n\r\n" } else { "" };
            out.write(format!("{:x}\r\n{cut}{behind}", off(cut.len())));
        }
    }
    then(out);
}

/// The answer to somebody else; and, where `too`, the right one behind it.
fn foreign(form: Form, seen: &Seen, out: &mut Out<'_>, too: bool) {
    let mut theirs = said(seen, "not yours");
    theirs["id"] = json!("another");
    match form {
        Form::Json => out.json(200, "", &theirs),
        Form::Events => {
            out.stream();
            out.event(&theirs);
            if too {
                out.event(&said(seen, seen.value()));
            }
            out.stream_end();
        }
    }
}
