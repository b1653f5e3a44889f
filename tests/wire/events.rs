//! Event streams of servers, parsed and written anew: what a client sees depends on what was meant, never on how it was
//! cut or spelt.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup};
use crate::support::http::Event;
use crate::support::mcp::{Post, open_session, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Out, Plan, Seen, Upstream, progress, said};

/// What a tool's stream is, as text.
type Text = fn(&Seen) -> String;

/// A server whose tools answer with these streams: whole, in pieces of some bytes, or byte by byte, as `piece` in the
/// arguments says.
fn house(texts: &'static [(&'static str, Text)]) -> (Gateway, Upstream) {
    let names: Vec<&str> = texts.iter().map(|(name, _)| *name).chain(["echo"]).collect();
    let upstream = Plan::tools(&names)
        .script(move |seen, out| {
            let Some((_, text)) = texts.iter().find(|(name, _)| seen.calls(name)) else { return Acted::Default };
            out.stream();
            in_pieces(seen, out, text(seen).as_bytes());
            out.stream_end();
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

fn in_pieces(seen: &Seen, out: &mut Out<'_>, text: &[u8]) {
    let size = seen.message["params"]["arguments"]["piece"].as_u64().and_then(|size| usize::try_from(size).ok());
    for piece in text.chunks(size.unwrap_or(usize::MAX)) {
        out.write([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
}

/// All events of a stream, and that it ended as it should.
#[track_caller]
fn events(post: &Post, gateway: &Gateway) -> Vec<Event> {
    let mut stream = post.stream(gateway);
    let mut events = Vec::new();
    while let Some(event) = stream.next().expect("the stream is not cut") {
        events.push(event);
    }
    events
}

fn message(event: &Event) -> Value {
    serde_json::from_str(event.data.as_deref().unwrap_or_default()).expect("JSON")
}

/// The answer as the data of an event: one line of it for each `lines` members or so, joined by `line_break`.
fn broken(seen: &Seen, line_break: &str) -> String {
    let answer = said(seen, seen.value()).to_string();
    format!("data: {}{line_break}", answer.replace(",\"", &format!(",{line_break}data:\"")))
}

const SHAPES: &[(&str, Text)] = &[
    ("lf", |seen| format!("event: message\ndata: {}\n\n{}\n", progress(seen, 1), broken(seen, "\n"))),
    ("crlf", |seen| format!("event: message\r\ndata: {}\r\n\r\n{}\r\n", progress(seen, 1), broken(seen, "\r\n"))),
    ("cr", |seen| format!("event: message\rdata: {}\r\r{}\r", progress(seen, 1), broken(seen, "\r"))),
    ("mixed", |seen| format!("\u{feff}event:message\rdata:{}\n\r\n{}\r\n", progress(seen, 1), broken(seen, "\n"))),
    ("strewn", |seen| {
        let answer = broken(seen, "\n: a comment\r\nunknown: field\r");
        format!(":\n\n: hi\r\r\nevent: other\nevent: message\ndata: {}\n\n\n\n{answer}\n\n: bye\n\n", progress(seen, 1))
    }),
];

/// [S1] However lines end, and wherever the stream is cut, down to single bytes: the same two messages, written anew.
#[test]
fn shapes_and_cuts() {
    let (gateway, upstream) = house(SHAPES);
    for (name, _) in SHAPES {
        for piece in [1, 2, 3, 7, 64, 1 << 20] {
            let post =
                Post::call(name).param("/_meta/progressToken", json!("p")).param("/arguments/piece", json!(piece));
            let got = events(&post, &gateway);
            assert_eq!(got.len(), 2, "{name} in pieces of {piece}: {got:?}");
            assert_eq!((got[0].name.as_deref(), &message(&got[0])["params"]["progress"]), (Some("message"), &json!(1)));
            assert_eq!((got[1].name.as_deref(), text_of(&message(&got[1]))), (None, post.value.as_str()), "{name}");
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

const ODD: &[(&str, Text)] = &[
    // The answer itself is dropped: a stream without one has been cut.
    ("nul-id", |seen| format!("id: a\0b\ndata: {}\n\n", said(seen, seen.value()))),
    ("nul-name", |seen| format!("event: mess\0age\ndata: {}\n\n", said(seen, seen.value()))),
    // One that is dropped takes nothing else with it.
    ("nul-first", |seen| {
        format!("id: \0\ndata: {}\n\nid: 7\ndata: {}\n\n", progress(seen, 9), said(seen, seen.value()))
    }),
    // A line break ends the id or the name; what is behind it is a line of its own, which means nothing.
    ("broken-id", |seen| format!("id: a\rb\nevent: x\ry\ndata: {}\n\n", said(seen, seen.value()))),
    ("nul-data", |seen| format!("data: {}\0\n\n", said(seen, seen.value()))),
];

/// [S1] A NUL in an event's id or name drops the event; a line break there is the end of it, never part of it.
#[test]
fn ids_and_names() {
    let (gateway, upstream) = house(ODD);
    let ask = |name: &str, piece: u32| {
        let post = Post::call(name).param("/arguments/piece", json!(piece)).param("/_meta/progressToken", json!("p"));
        let got = events(&post, &gateway);
        (post, got)
    };
    for piece in [1, 1000] {
        for (name, reason) in [("nul-id", "server_cut"), ("nul-name", "server_cut"), ("nul-data", "server_invalid")] {
            let (post, got) = ask(name, piece);
            assert_eq!(
                (got.len(), &message(&got[0])["error"]["data"]["reason"]),
                (1, &json!(reason)),
                "{name}: {got:?}"
            );
            assert!(!format!("{got:?}").contains(&post.value), "{name}");
        }
        // A modern stream has no ids: it cannot be resumed.
        for (name, event) in [("nul-first", None), ("broken-id", Some("x"))] {
            let (post, got) = ask(name, piece);
            assert_eq!((got.len(), got[0].id.as_deref(), got[0].name.as_deref()), (1, None, event), "{name}: {got:?}");
            assert_eq!(text_of(&message(&got[0])), post.value, "{name}");
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S1] An event of 1 MiB goes through; one that is longer is an answer that cannot be had, also in many lines.
#[test]
fn the_size_of_an_event() {
    const MIB: usize = 1 << 20;
    const SIZES: &[(&str, Text)] = &[
        ("fits", |seen| {
            let bare = said(seen, "").to_string().len();
            let pad = MIB - "data: ".len() - bare;
            format!("data: {}\n\n", said(seen, &"x".repeat(pad)))
        }),
        ("over", |seen| {
            let bare = said(seen, "").to_string().len();
            let pad = MIB - "data: ".len() - bare + 1;
            format!("data: {}\n\n", said(seen, &"x".repeat(pad)))
        }),
        ("lines", |seen| format!("{}data: {}\n\n", "data:          \n".repeat(MIB / 9), said(seen, seen.value()))),
        ("comments", |seen| {
            format!(":{}\n{}data: {}\n\n", "c".repeat(2 * MIB), ": c\n".repeat(MIB / 8), said(seen, seen.value()))
        }),
    ];
    let (gateway, upstream) = house(SIZES);
    let ask = |name: &str| {
        let got = events(&Post::call(name).param("/arguments/piece", json!(16_000)), &gateway);
        assert_eq!(got.len(), 1, "{name}");
        message(&got[0])
    };
    assert!(text_of(&ask("fits")).len() > MIB - 200);
    for name in ["over", "lines"] {
        assert_eq!(ask(name)["error"]["data"]["reason"], "server_invalid", "{name}");
    }
    assert!(!text_of(&ask("comments")).is_empty(), "comments are no part of an event");
    oracle::check(&gateway, &[("up", &upstream)]);
}

const STRAYS: &[(&str, Text)] = &[
    ("request", |seen| {
        strayed(seen, &json!({ "jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": {} }))
    }),
    ("sampling", |seen| {
        strayed(seen, &json!({ "jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {} }))
    }),
    ("ping", |seen| strayed(seen, &json!({ "jsonrpc": "2.0", "id": 9, "method": "ping" }))),
    ("unknown", |seen| strayed(seen, &json!({ "jsonrpc": "2.0", "method": "notifications/no-such", "params": {} }))),
    ("foreign-result", |seen| {
        strayed(seen, &json!({ "jsonrpc": "2.0", "id": 2, "result": { "resultType": "complete", "stolen": 1 } }))
    }),
    ("foreign-text", |seen| {
        strayed(seen, &json!({ "jsonrpc": "2.0", "id": "1", "result": { "resultType": "complete", "stolen": 1 } }))
    }),
    ("foreign-float", |seen| {
        strayed(seen, &json!({ "jsonrpc": "2.0", "id": 10, "error": { "code": 1, "message": "stolen" } }))
    }),
];

/// The stray message before the answer, and behind it; and a second answer, and more.
fn strayed(seen: &Seen, stray: &Value) -> String {
    let (answer, second) = (said(seen, seen.value()), said(seen, "stolen"));
    let late = progress(seen, 3);
    format!("data: {stray}\n\ndata: {answer}\n\ndata: {stray}\n\ndata: {second}\n\ndata: {late}\n\ndata: no JSON\n\n")
}

/// [S2] On a modern stream a server's request, an answer to somebody else, and all that comes behind the answer are
/// dropped; the client gets its answer, and its connection serves the next call.
#[test]
fn what_does_not_belong_on_a_modern_stream() {
    let (gateway, upstream) = house(STRAYS);
    for (name, _) in STRAYS {
        for piece in [1, 1 << 20] {
            let post =
                Post::call(name).param("/arguments/piece", json!(piece)).param("/_meta/progressToken", json!("p"));
            let (messages, end) = post.stream(&gateway).rest();
            assert_eq!((messages.len(), text_of(&messages[0])), (1, post.value.as_str()), "{name}: {messages:?}");
            let mut wire = end.expect("a clean end");
            let next = Post::call("echo");
            next.is_echoed(&wire.ask(&next.bytes(&gateway)));
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [S2] On a legacy stream a server may ask, and only what the protocol lets it ask; behind the answer nothing counts
/// there either.
#[test]
fn what_does_not_belong_on_a_legacy_stream() {
    let (gateway, upstream) = house(STRAYS);
    let session = open_session(&gateway, |post| post);
    for (name, asked) in [("request", 1), ("foreign-result", 0), ("foreign-text", 0), ("unknown", 0)] {
        let post = Post::legacy_call(&session, name);
        let (messages, end) = post.stream(&gateway).rest();
        assert!(end.is_ok());
        assert_eq!(messages.len(), asked + 1, "{name}: {messages:?}");
        assert_eq!(text_of(&messages[asked]), post.value, "{name}");
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}
