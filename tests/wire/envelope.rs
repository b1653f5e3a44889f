//! The message, end to end: what is not exactly one message that head and body agree on reaches no server, and what
//! does reaches it byte for byte.

use serde_json::json;

use crate::support::gateway::{Gateway, Setup, Who};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{LEGACY, MODERN, Post, VERSION_KEY, open_session};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream, definition, said};

fn pair() -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

/// A modern call of `echo` as text, with `arguments` (its members) and a fresh value, which comes second.
fn call_with(arguments: &str) -> (Post, String) {
    let post = Post::call("echo");
    let comma = if arguments.is_empty() { "" } else { "," };
    let text = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"echo\",\
         \"arguments\":{{\"value\":\"{}\"{comma}{arguments}}},\"_meta\":{{\"{VERSION_KEY}\":\"{MODERN}\",\
         \"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}",
        post.value
    );
    (post.body(text.clone()), text)
}

/// Its text after `from` became `to`.
fn changed(from: &str, to: &str) -> (Post, String) {
    let (post, text) = call_with("");
    assert!(text.contains(from), "{from} is not in {text}");
    let text = text.replacen(from, to, 1);
    (post.body(text.clone()), text)
}

#[track_caller]
fn code(answer: &Response, shown: &str) -> i64 {
    answer.json()["error"]["code"].as_i64().unwrap_or_else(|| panic!("{shown}: no error: {}", answer.text()))
}

/// Each is a 400 with one of `codes`, in both eras' words, and none reaches the server.
#[track_caller]
fn refused<'a>(gateway: &Gateway, posts: impl IntoIterator<Item = (&'a str, Post)>, codes: &[i64]) {
    for (shown, post) in posts {
        let answer = post.to(gateway);
        assert_eq!(answer.status(), 400, "{shown}: {}", answer.text());
        assert!(codes.contains(&code(&answer, shown)), "{shown}: {}", answer.text());
    }
}

/// The gateway still serves, and the server saw nothing else.
#[track_caller]
fn unharmed(gateway: &Gateway, upstream: &Upstream) {
    let before = upstream.calls().len();
    Post::call("echo").echoed(gateway);
    assert_eq!((before, upstream.calls().len()), (0, 1), "a refused call reached the server");
    oracle::check(gateway, &[("up", upstream)]);
}

/// [E1] One JSON object in plain UTF-8, and nothing before or behind it.
#[test]
fn a_body_is_one_object() {
    let (gateway, upstream) = pair();
    let (_, good) = call_with("");
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("blanks", b" \r\n\t".to_vec()),
        ("a byte order mark", ["\u{feff}", &good].concat().into_bytes()),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("a half", good.as_bytes()[..good.len() / 2].to_vec()),
        ("two", [good.as_bytes(), good.as_bytes()].concat()),
        ("two lines", [good.as_bytes(), b"\n", good.as_bytes()].concat()),
        ("a NUL behind", [good.as_bytes(), b"\0"].concat()),
        ("a vertical tab in front", [b"\x0b", good.as_bytes()].concat()),
        ("a comment", [good.as_bytes(), b"// x"].concat()),
        ("a trailing comma", good.replacen("}}}", "},}}", 1).into_bytes()),
        ("single quotes", good.replace('"', "'").into_bytes()),
        ("a string", b"\"tools/call\"".to_vec()),
        ("a number", b"1".to_vec()),
        ("null", b"null".to_vec()),
        ("a name without quotes", good.replacen("\"id\"", "id", 1).into_bytes()),
        ("a raw control character", good.replacen("echo", "ec\nho", 1).into_bytes()),
        ("NaN", good.replacen(":1,", ":NaN,", 1).into_bytes()),
        ("a leading zero", good.replacen(":1,", ":01,", 1).into_bytes()),
    ];
    refused(
        &gateway,
        bodies.into_iter().map(|(shown, body)| (shown, Post::call("echo").body(body))),
        &[-32_700, -32_600],
    );
    // Bytes that are no UTF-8: alone, overlong, a surrogate, beyond the last code point, cut short.
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        let (post, text) = call_with("\"x\":\"HERE\"");
        let at = text.find("HERE").expect("it is there");
        let body = [&text.as_bytes()[..at], bytes, &text.as_bytes()[at + 4..]].concat();
        let shown = format!("{bytes:x?}");
        refused(&gateway, [(&*shown, post.body(body))], &[-32_700]);
    }
    unharmed(&gateway, &upstream);
}

/// [E1] 64 levels, 10,000 members, 1 MiB: each to the last and no further.
#[test]
fn a_message_has_its_bounds() {
    let (gateway, upstream) = pair();
    // The message, its params and its arguments are three levels.
    let deep = |levels: usize| call_with(&format!("\"x\":{}1{}", "[".repeat(levels - 3), "]".repeat(levels - 3))).0;
    deep(64).echoed_text(&gateway);
    refused(&gateway, [("65 levels", deep(65)), ("4,000 levels", deep(4_000))], &[-32_600, -32_700]);
    let objects = |levels: usize| {
        let levels = levels - 3;
        call_with(&format!("\"x\":{}1{}", "{\"x\":".repeat(levels), "}".repeat(levels))).0
    };
    objects(64).echoed_text(&gateway);
    refused(&gateway, [("65 objects", objects(65))], &[-32_600, -32_700]);
    // Four of the message, three of params, two of `_meta`, one value.
    let many = |members: usize| {
        let list: Vec<String> = (0..members - 10).map(|number| format!("\"m{number}\":0")).collect();
        call_with(&list.join(",")).0
    };
    many(10_000).echoed_text(&gateway);
    refused(&gateway, [("10,001 members", many(10_001))], &[-32_600, -32_700]);
    // 100,000 brackets are refused by the 65th, and named there.
    let brackets = Post::call("echo").body("[".repeat(100_000)).to(&gateway);
    assert_eq!(brackets.status(), 400);
    let (post, text) = call_with(&format!("\"x\":{}", "[".repeat(100_000)));
    let first = text.find("[[").expect("they are there");
    let answer = post.to(&gateway).text();
    let at = answer.split("(at byte ").nth(1).and_then(|rest| rest.split(')').next()?.parse::<usize>().ok());
    assert!(at.is_some_and(|at| (first..first + 64).contains(&at)), "{first}: {answer}");
    let sized = |bytes: usize| {
        let (_, text) = call_with("\"pad\":\"\"");
        call_with(&format!("\"pad\":\"{}\"", "x".repeat(bytes - text.len()))).0
    };
    sized(1024 * 1024).echoed_text(&gateway);
    assert_eq!(sized(1024 * 1024 + 1).to(&gateway).status(), 413);
    assert_eq!(upstream.calls().len(), 4);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Calls whose body is text: the echo is checked by the value alone.
trait Echoed {
    fn echoed_text(&self, gateway: &Gateway);
}

impl Echoed for Post {
    #[track_caller]
    fn echoed_text(&self, gateway: &Gateway) {
        let answer = self.to(gateway);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert!(answer.text().contains(&self.value), "{}", answer.text());
    }
}

/// [E2] A name twice in one object, at any depth and in any spelling, is no message: two readers would differ.
#[test]
fn names_stand_once() {
    let (gateway, upstream) = pair();
    let twice = [
        ("\"id\":1", "\"id\":1,\"id\":1"),
        ("\"id\":1", "\"id\":1,\"\\u0069d\":2"),
        ("\"method\"", "\"method\":\"ping\",\"method\""),
        ("\"method\"", "\"\\u006dethod\":\"ping\",\"method\""),
        ("\"jsonrpc\":\"2.0\"", "\"jsonrpc\":\"2.0\",\"jsonrpc\":\"2.0\""),
        ("\"params\"", "\"params\":{},\"params\""),
        ("\"name\":\"echo\"", "\"name\":\"echo\",\"name\":\"echo\""),
        ("\"name\":\"echo\"", "\"name\":\"echo\",\"n\\u0061me\":\"other\""),
        ("\"arguments\"", "\"arguments\":{},\"arguments\""),
        ("\"_meta\"", "\"_meta\":{},\"_meta\""),
        ("\"_meta\":{", "\"_meta\":{\"x\":1,\"x\":1,"),
        ("\"_meta\":{", "\"_meta\":{\"io.modelcontextprotocol\\/protocolVersion\":\"2025-11-25\","),
        ("\"arguments\":{", "\"arguments\":{\"amount\":1,\"amount\":1000,"),
        ("\"arguments\":{", "\"arguments\":{\"amount\":1,\"am\\u006funt\":1000,"),
        ("\"arguments\":{", "\"arguments\":{\"deep\":[{\"a\":{\"b\":1,\"c\":2,\"b\":3}}],"),
        ("\"arguments\":{", "\"arguments\":{\"\":1,\"\":2,"),
        ("\"arguments\":{", "\"arguments\":{\"\\ud83d\\ude00\":1,\"😀\":2,"),
        ("\"id\":1", "\"id\":1,\"unknown\":1,\"unknown\":2"),
    ];
    let posts = twice.iter().map(|(from, to)| (*to, changed(from, to).0));
    refused(&gateway, posts, &[-32_600, -32_700]);
    // In a session as well.
    let session = open_session(&gateway, |post| post);
    let legacy = Post::legacy_call(&session, "echo");
    let text = String::from_utf8(legacy.body_bytes()).expect("JSON is UTF-8");
    let body = text.replacen("\"name\"", "\"name\":\"other\",\"name\"", 1);
    refused(&gateway, [("legacy", legacy.body(body))], &[-32_600, -32_700]);
    // The same name in two objects is another thing.
    call_with("\"a\":{\"x\":1},\"b\":{\"x\":1,\"a\":1}").0.echoed_text(&gateway);
    assert_eq!(upstream.calls().len(), 1);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E3] A name that some servers would take for a known one is none that anybody sends by accident.
#[test]
fn case_twins_are_refused() {
    let (gateway, upstream) = pair();
    let twins = [
        ("\"id\":1", "\"id\":1,\"ID\":2"),
        ("\"id\":1", "\"Id\":1"),
        ("\"method\":", "\"Method\":\"ping\",\"method\":"),
        ("\"method\":", "\"METHOD\":"),
        ("\"params\":", "\"PARAMS\":{},\"params\":"),
        ("\"jsonrpc\":", "\"JsonRpc\":\"2.0\",\"jsonrpc\":"),
        ("\"id\":1", "\"id\":1,\"Result\":{}"),
        ("\"id\":1", "\"id\":1,\"ERROR\":{}"),
        ("\"name\":", "\"Name\":\"other\",\"name\":"),
        ("\"name\":", "\"\\u004eame\":\"other\",\"name\":"),
        ("\"arguments\":", "\"Arguments\":{},\"arguments\":"),
        ("\"_meta\":", "\"_Meta\":{},\"_meta\":"),
        ("\"name\":", "\"URI\":\"x\",\"name\":"),
    ];
    let posts = twins.iter().map(|(from, to)| (*to, changed(from, to).0));
    refused(&gateway, posts, &[-32_600, -32_700]);
    // Arguments are the tool's own.
    call_with("\"Value\":1,\"METHOD\":2,\"Name\":3").0.echoed_text(&gateway);
    assert_eq!(upstream.calls().len(), 1);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E4] Names are text that a person could read: no half characters, no control characters.
#[test]
fn names_are_plain_text() {
    let (gateway, upstream) = pair();
    let bad = [
        "\\ud800",
        "\\udc00",
        "\\udc00\\ud800",
        "\\ud800x",
        "\\u0000",
        "\\u0007",
        "\\n",
        "\\u001b[2J",
        "\\u007f",
        "\\u0085",
    ];
    for bad in bad {
        let about = [
            ("tools/call", format!("\"name\":\"echo{bad}\"")),
            ("prompts/get", format!("\"name\":\"greet{bad}\"")),
            ("resources/read", format!("\"uri\":\"note://open{bad}\"")),
        ];
        for (method, about) in about {
            let text = format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{{{about},\"_meta\":{{\
                 \"{VERSION_KEY}\":\"{MODERN}\",\"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}"
            );
            let post = Post::modern(method, json!({ "name": "echo", "uri": "note://open" })).body(text);
            let answer = post.to(&gateway);
            assert_eq!(answer.status(), 400, "{method} {about}: {}", answer.text());
        }
        let (post, _) = changed("tools/call", &format!("tools/call{bad}"));
        let answer = post.to(&gateway);
        assert_eq!(answer.status(), 400, "method {bad}: {}", answer.text());
    }
    // In a session no head field has to agree, so that the names themselves are what is looked at.
    let session = open_session(&gateway, |post| post);
    for bad in bad {
        let message = |method: &str, about: &str| {
            let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{{{about}}}}}");
            Post::legacy(&session, "ping", json!({})).body(text)
        };
        for (method, about) in [
            ("tools/call", format!("\"name\":\"echo{bad}\"")),
            ("prompts/get", format!("\"name\":\"greet{bad}\"")),
            ("resources/read", format!("\"uri\":\"note://open{bad}\"")),
        ] {
            let answer = message(method, &about).to(&gateway);
            assert_eq!(answer.status(), 400, "legacy {method} {about}: {}", answer.text());
        }
        let answer = message(&format!("ping{bad}"), "").to(&gateway);
        assert_eq!(answer.status(), 400, "legacy method {bad}: {}", answer.text());
    }
    // Half a character is no text anywhere.
    refused(&gateway, [("an argument", call_with("\"x\":\"\\ud800\"").0)], &[-32_600, -32_700]);
    refused(&gateway, [("a name", call_with("\"\\udfff\":1").0)], &[-32_600, -32_700]);
    // What a tool is told may have line ends, and names may be of any script.
    call_with("\"x\":\"\\n\\u0007\\u0000\\ud83d\\ude00\"").0.echoed_text(&gateway);
    assert_eq!(upstream.calls().len(), 1);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server that answers with the id as the bytes of the request have it: no JSON reader of the test's in between.
fn verbatim() -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            if !seen.calls("echo") && !String::from_utf8_lossy(&seen.body).contains("\"tools/call\"") {
                return Acted::Default;
            }
            let text = String::from_utf8_lossy(&seen.body);
            let id = raw_id(&text).expect("the test writes it before the method").to_owned();
            let result = "{\"content\":[],\"isError\":false,\"resultType\":\"complete\"}";
            out.json_bytes(200, "", format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}").as_bytes());
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

fn raw_id(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("\"id\":")?;
    rest.split([',', '}']).next()
}

/// [E5] An id is a string or an integer, and comes back as it was written.
#[test]
fn ids_come_back_byte_for_byte() {
    let (gateway, upstream) = verbatim();
    let session = open_session(&gateway, |post| post);
    let ids = [
        "0",
        "-1",
        "9007199254740993",
        "-9007199254740993",
        "18446744073709551617",
        "123456789012345678901234567890",
        "\"\"",
        "\"1\"",
        "\"a\\u0062\\/c\"",
        "\"\\ud83d\\ude00 é\"",
    ];
    for id in ids {
        let with = |text: &str| text.replacen("\"id\":1", &format!("\"id\":{id}"), 1);
        let (modern, text) = call_with("");
        let modern = modern.body(with(&text));
        let legacy = Post::legacy_call(&session, "echo");
        let text = String::from_utf8(legacy.body_bytes()).expect("JSON is UTF-8");
        let legacy = legacy.body(with(&text));
        // The gateway's own answers carry it as well.
        let (unknown, text) = changed("\"name\":\"echo\"", "\"name\":\"none\"");
        let unknown = unknown.without("mcp-name").field("mcp-name", "none").body(with(&text));
        let (unsound, text) = changed("\"name\":\"echo\"", "\"name\":7");
        let unsound = unsound.body(with(&text));
        for (post, status) in [(modern, 200), (legacy, 200), (unknown, 200), (unsound, 400)] {
            let answer = post.to(&gateway);
            assert_eq!((answer.status(), raw_id(&answer.text())), (status, Some(id)), "{}", answer.text());
        }
    }
    for id in ["null", "true", "1.0", "1e2", "{}", "[1]", "-0.5"] {
        refused(&gateway, [(id, changed("\"id\":1", &format!("\"id\":{id}")).0)], &[-32_600, -32_700]);
    }
    let long = format!("\"{}\"", "x".repeat(300));
    refused(&gateway, [("a long id", changed("\"id\":1", &format!("\"id\":{long}")).0)], &[-32_600, -32_700]);
    assert_eq!(upstream.calls().len(), 2 * ids.len());
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A server whose `hold` waits until it is let go, and then echoes.
fn holding(shards: u16) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo", "hold"])
        .script(|seen, out| {
            if !seen.calls("hold") {
                return Acted::Default;
            }
            out.note(format!("holds {}", seen.value()));
            out.pass("go");
            out.json(200, "", &said(seen, seen.value()));
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("allow").shards(shards).start();
    (gateway, upstream)
}

/// [E5] [P3] Equal ids of different callers, sessions and connections at once: each gets the answer to its own.
#[test]
fn equal_ids_are_served_apart() {
    let (gateway, upstream) = holding(2);
    let tokens = ["ada", "eve"].map(|subject| gateway.token(&Who { subject, ..Who::default() }));
    let mut posts = Vec::new();
    for token in &tokens {
        for _ in 0..2 {
            let session = open_session(&gateway, |post| post.token(token));
            posts.push(Post::legacy_call(&session, "hold").token(token).id(7));
            posts.push(Post::call("hold").token(token).id(7));
        }
    }
    let mut wires: Vec<Wire> = posts.iter().map(|post| post.begin(&gateway)).collect();
    for post in &posts {
        upstream.noted(&format!("holds {}", post.value));
    }
    upstream.open("go");
    for (post, wire) in posts.iter().zip(&mut wires) {
        post.is_echoed(&wire.response());
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E5] Two requests with one id in one session are not told apart by its client, so the second is refused while the
/// first is being answered, and the id is free again after that.
#[test]
fn an_id_in_flight_is_taken() {
    let (gateway, upstream) = holding(1);
    let session = open_session(&gateway, |post| post);
    let first = Post::legacy_call(&session, "hold").id(7);
    let mut wire = first.begin(&gateway);
    upstream.noted(&format!("holds {}", first.value));
    for again in [Post::legacy_call(&session, "echo").id(7), Post::legacy_call(&session, "hold").id(7)] {
        let answer = again.to(&gateway);
        assert!((400..500).contains(&answer.status()), "{}: {}", answer.status(), answer.text());
        assert_eq!(code(&answer, "a second 7"), -32_600);
    }
    // Another id, the same one as text, and the same one in another session are other requests.
    Post::legacy_call(&session, "echo").id(8).echoed(&gateway);
    Post::legacy_call(&session, "echo").id("7").echoed(&gateway);
    let other = open_session(&gateway, |post| post);
    Post::legacy_call(&other, "echo").id(7).echoed(&gateway);
    upstream.open("go");
    first.is_echoed(&wire.response());
    Post::legacy_call(&session, "echo").id(7).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E6] No batches in any revision but 2025-03-26, of any length, of whatever is inside.
#[test]
fn batches_are_refused() {
    let (gateway, upstream) = pair();
    let (_, call) = call_with("");
    let session = open_session(&gateway, |post| post);
    let legacy = Post::legacy_call(&session, "echo");
    let told = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}";
    let inside = String::from_utf8(legacy.body_bytes()).expect("JSON is UTF-8");
    for body in [
        "[]".to_owned(),
        format!("[{call}]"),
        format!("[{call},{call}]"),
        format!("[{told},{inside}]"),
        format!(" \r\n[{inside}]"),
        format!("[{told}]"),
        "[[]]".to_owned(),
        "[1]".to_owned(),
    ] {
        refused(&gateway, [("modern", Post::call("echo").body(body.clone()))], &[-32_600]);
        refused(&gateway, [("in a session", legacy.clone().body(body.clone()))], &[-32_600]);
        for revision in ["2024-11-05", "2025-06-18", LEGACY] {
            let post = legacy.clone().without("mcp-session-id").without("mcp-protocol-version");
            let versioned = post.field("mcp-protocol-version", revision).body(body.clone());
            refused(&gateway, [(revision, versioned)], &[-32_600]);
        }
    }
    unharmed(&gateway, &upstream);
}

/// [E7] The body that was judged is the body that goes: not one byte of it is written anew.
#[test]
fn the_body_goes_as_it_came() {
    let (gateway, upstream) = verbatim();
    let session = open_session(&gateway, |post| post);
    let arguments = [
        "\"z\":1,\"a\":2,\"m\":3",
        "\"n\":9007199254740993,\"big\":123456789012345678901234567890.5,\"e\":1E+2,\"f\":1.0,\"z\":-0,\"t\":1e-400",
        "\"huge\":1e400",
        "\"s\":\"\\u00e9\\/\\b\\ud83d\\ude00 é\u{2028}\u{7f}\"",
        " \t\r\n\"x\" \n:\t[ ] ,\r\"y\":{ }",
        "\"null\":null,\"deep\":[[[{\"a\":[1,2,{\"b\":[]}]}]]]",
        "\"__proto__\":{\"admin\":true},\"constructor\":1,\"\":0",
    ];
    for arguments in arguments {
        let (modern, text) = call_with(arguments);
        let modern =
            modern.body(text.replacen("\"params\":{", "\"params\":{\"unknown\":[1.50,{\"x\":null}],", 1) + "\r\n ");
        let legacy = Post::legacy_call(&session, "echo");
        let text = String::from_utf8(legacy.body_bytes()).expect("JSON is UTF-8");
        let legacy = legacy.clone().body(text.replacen("\"value\"", &format!("{arguments},\"value\""), 1));
        for post in [modern, legacy] {
            let before = upstream.seen().len();
            let answer = post.to(&gateway);
            assert_eq!(answer.status(), 200, "{arguments}: {}", answer.text());
            let sent = post.body_bytes();
            let came = upstream.seen()[before..].iter().filter(|seen| seen.body == sent).count();
            assert_eq!(
                came,
                1,
                "{arguments}: {:?}",
                upstream.seen()[before..].iter().map(|it| &it.body).collect::<Vec<_>>()
            );
        }
    }
}

/// [E8] The three head fields of a modern call are there, once, and say what the body says.
#[test]
fn modern_heads_say_what_the_body_says() {
    let (gateway, upstream) = pair();
    let call = || Post::call("echo");
    let with = |name: &str, value: &str| call().without(name).field(name, value);
    let mut posts = Vec::new();
    for (name, value) in [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "echo")] {
        posts.push((name, call().without(name)));
        posts.push((name, call().field(name, value)));
        posts.push((name, call().field(&name.to_uppercase(), "other")));
        for wrong in [
            "",
            "other",
            &format!("{value}x"),
            &format!("x{value}"),
            &format!("{value}, {value}"),
            &value.to_uppercase(),
        ] {
            if wrong != value {
                posts.push((name, with(name, wrong)));
            }
        }
    }
    posts.push(("an older version", with("mcp-protocol-version", LEGACY)));
    posts.push(("another method", with("mcp-method", "tools/list")));
    // `echo` in base64 is ZWNobw==.
    for wrong in [
        "=?base64?ZWNobw?=",
        "=?base64?ZWNobw=?=",
        "=?base64?ZWNobx==?=",
        "=?base64?ZWNo\tbw==?=",
        "=?base64? ZWNobw==?=",
        "=?base64?ZWNobw==",
        "=?BASE64?ZWNobw==?=",
        "=?base64?b3RoZXI=?=",
        "=?base64?/w==?=",
        "=?base64??=",
        "=?utf-8?B?ZWNobw==?=",
        "=?base64?ZWNobw==?==?base64??=",
        "\"echo\"",
        "echo;q=1",
        "%65cho",
    ] {
        posts.push((wrong, with("mcp-name", wrong)));
    }
    refused(&gateway, posts, &[-32_020]);
    // Bytes that a field of this kind must not hold.
    let raw = String::from_utf8(call().bytes(&gateway))
        .expect("the test writes ASCII")
        .replace("mcp-name: echo", "mcp-name: \u{e9}cho");
    let answer = Wire::to(gateway.address).ask(raw.as_bytes());
    assert_eq!(answer.status(), 400, "{}", answer.text());
    let encoded = with("mcp-name", "=?base64?ZWNobw==?=");
    encoded.echoed(&gateway);
    assert_eq!(upstream.calls().len(), 1, "a refused call reached the server");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E8] What a tool's schema wants shown in the head is shown there, once, as the arguments have it.
#[test]
fn declared_parameters_say_what_the_arguments_say() {
    let mut routed = definition("routed");
    routed["inputSchema"]["properties"] = json!({
        "region": { "type": "string", "x-mcp-header": "Region" },
        "inner": { "type": "object", "properties": { "limit": { "type": "integer", "x-mcp-header": "Limit" } } },
        "dry": { "type": "boolean", "x-mcp-header": "Dry" },
    });
    let upstream = Plan::tools(&[]).tool(routed).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let call = || {
        let post = Post::call("routed").param("/arguments/region", json!("eu"));
        post.param("/arguments/inner", json!({ "limit": 10 })).param("/arguments/dry", json!(true))
    };
    let all = |region: &str, limit: &str, dry: &str| {
        call().field("mcp-param-region", region).field("Mcp-Param-Limit", limit).field("MCP-PARAM-DRY", dry)
    };
    let posts = [
        ("none", call()),
        ("another region", all("us", "10", "true")),
        ("a region in capitals", all("EU", "10", "true")),
        ("another limit", all("eu", "11", "true")),
        ("a limit with a sign", all("eu", "+10", "true")),
        ("a limit in hexadecimal", all("eu", "0xa", "true")),
        ("another switch", all("eu", "10", "false")),
        ("a switch in capitals", all("eu", "10", "True")),
        ("one missing", call().field("mcp-param-region", "eu").field("mcp-param-limit", "10")),
        ("one twice", all("eu", "10", "true").field("mcp-param-dry", "true")),
        ("stray bits", all("=?base64?ZXV=?=", "10", "true")),
        ("one for no argument", Post::call("routed").field("mcp-param-region", "eu")),
        (
            "a number for text",
            Post::call("routed").param("/arguments/region", json!(1)).field("mcp-param-region", "eu"),
        ),
    ];
    refused(&gateway, posts, &[-32_020]);
    assert!(upstream.calls().is_empty(), "a refused call reached the server");
    all("eu", "10", "true").echoed(&gateway);
    all("=?base64?ZXU=?=", "10", "true").field("mcp-param-undeclared", "x").echoed(&gateway);
    Post::call("routed").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E9] [P1] What is decided on is the body. A head that shows something permitted opens nothing.
#[test]
fn heads_decide_nothing() {
    let upstream = Plan::tools(&["echo", "secret"]).start();
    let gateway =
        Setup::new().server("up", &upstream.url()).rule(json!({ "id": "echo-alone", "permit": ["up/echo"] })).start();
    let session = open_session(&gateway, |post| post);
    let lure = |post: Post| post.without("mcp-name").field("mcp-name", "echo");
    // Modern: head and body differ.
    refused(&gateway, [("modern", lure(Post::call("secret")))], &[-32_020]);
    // A version that the body does not say, and a body whose version the head does not say.
    let (post, text) = call_with("");
    let unsaid = post.clone().body(text.replacen(&format!("\"{VERSION_KEY}\":\"{MODERN}\","), "", 1));
    let older = post.clone().body(text.replacen(&format!("\":\"{MODERN}\""), &format!("\":\"{LEGACY}\""), 1));
    refused(&gateway, [("unsaid", unsaid), ("older", older)], &[-32_602, -32_020, -32_022]);
    refused(&gateway, [("no head", post.without("mcp-protocol-version"))], &[-32_020]);
    // Legacy, with and without a version: modern fields mean nothing, and go nowhere.
    let hidden = |post: Post| {
        let answer = post.to(&gateway);
        assert_eq!((answer.status(), code(&answer, "hidden")), (200, -32_602), "{}", answer.text());
    };
    let called = Post::legacy_call(&session, "secret");
    hidden(lure(called.clone()).field("mcp-method", "ping"));
    hidden(lure(called.clone()).without("mcp-protocol-version").field("mcp-method", "tools/list"));
    hidden(lure(called).without("mcp-session-id").without("mcp-protocol-version"));
    assert!(upstream.calls().is_empty(), "a refused call reached the server");
    let permitted = Post::legacy_call(&session, "echo").field("mcp-name", "secret").field("mcp-method", "ping");
    permitted.echoed(&gateway);
    let seen = upstream.wait("the call", |seen| seen.calls("echo"));
    assert_eq!((seen.field("mcp-name"), seen.field("mcp-method")), ("", ""), "{:?}", seen.fields);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E11] Plain JSON in, plain bytes asked for.
#[test]
fn nothing_is_unpacked() {
    let (gateway, upstream) = pair();
    let posts = [
        Post::call("echo").field("content-encoding", "gzip"),
        Post::call("echo").field("content-encoding", "GZIP"),
        Post::call("echo").field("content-encoding", "br"),
        Post::call("echo").field("content-encoding", "identity, gzip"),
        Post::call("echo").field("content-encoding", ""),
        Post::call("echo").field("Content-Encoding", "x-unknown"),
        Post::call("echo").without("content-type"),
        Post::call("echo").field("content-type", "application/json"),
        Post::call("echo").without("content-type").field("content-type", "text/json"),
        Post::call("echo").without("content-type").field("content-type", "application/jsonp"),
        Post::call("echo").without("content-type").field("content-type", "multipart/form-data; boundary=x"),
        Post::call("echo").without("content-type").field("content-type", "text/plain;application/json"),
    ];
    for post in posts {
        let answer = post.to(&gateway);
        assert_eq!(answer.status(), 415, "{post:?}: {}", answer.text());
    }
    assert!(upstream.calls().is_empty(), "a refused call reached the server");
    Post::call("echo").field("accept-encoding", "gzip, br").echoed(&gateway);
    assert_eq!(upstream.wait("the call", |seen| seen.calls("echo")).field("accept-encoding"), "identity");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [E11] No `Content-Encoding` at all: not `identity`, and nothing in a second field behind it.
#[test]
fn codings_cannot_hide_behind_identity() {
    let (gateway, upstream) = pair();
    let identity = Post::call("echo").field("content-encoding", "identity");
    for post in [identity.clone().field("content-encoding", "gzip"), identity] {
        let answer = post.to(&gateway);
        assert_eq!(answer.status(), 415, "{}", answer.text());
    }
    assert!(upstream.calls().is_empty(), "a refused call reached the server");
}

/// [E12] [P1] [P4] An answered question is a call again: decided anew, recorded anew, sent anew.
#[test]
fn a_retry_with_input_is_a_new_call() {
    let upstream = Plan::tools(&["pay", "echo"])
        .script(|seen, out| {
            if !seen.calls("pay") || seen.message["params"].get("inputResponses").is_some() {
                return Acted::Default;
            }
            out.json(
                200,
                "",
                &json!({ "jsonrpc": "2.0", "id": seen.id(), "result": {
                    "resultType": "input_required", "requestState": "state-1",
                    "inputRequests": { "sure": { "method": "elicitation/create", "params": {
                        "mode": "form", "message": "Sure?", "requestedSchema": { "type": "object", "properties": {} },
                    }}},
                }}),
            );
            Acted::Done
        })
        .start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .task("paying")
        .rule(json!({ "id": "pays", "permit": ["up/pay", "up!elicitation"], "tasks": ["paying"] }))
        .rule(json!({ "id": "echoes", "permit": ["up/echo"] }))
        .tokens("deny")
        .start();
    let token = gateway.token(&Who { tasks: &["paying"], ..Who::default() });
    let idle = gateway.token(&Who::default());
    let asked = Post::call("pay").token(&token);
    let answer = asked.to(&gateway);
    assert_eq!(answer.json()["result"]["resultType"], "input_required", "{}", answer.text());
    let retry = |token: &str| {
        let post = Post::call("pay").token(token).param("/requestState", json!("state-1"));
        post.param("/inputResponses", json!({ "sure": { "action": "accept", "content": {} } }))
    };
    // Somebody who has the state, and not the task.
    let stolen = retry(&idle);
    let answer = stolen.to(&gateway);
    assert_eq!((answer.status(), code(&answer, "stolen")), (200, -32_602), "{}", answer.text());
    // The same retry twice: two decisions, two calls, two answers.
    let retries = [retry(&token), retry(&token)];
    for retry in &retries {
        retry.echoed(&gateway);
    }
    assert_eq!(upstream.calls().iter().filter(|call| call.name() == "pay").count(), 3);
    let records = oracle::check_with(&gateway, &[("up", &upstream)], &[&stolen]);
    for post in [&asked, &retries[0], &retries[1]] {
        assert_eq!(oracle::decision(&records, &post.value)["rules"], json!(["pays"]));
    }
    assert_eq!(oracle::decision(&records, &stolen.value)["verdict"], "refuse");
}
