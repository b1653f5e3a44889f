//! Where a message begins and ends: what could be read in two ways is refused, its connection ends, and nothing of it
//! reaches a server. Behind every refused request stands a whole call, which must never be served.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who, eventually};
use crate::support::http::{Response, Wire};
use crate::support::mcp::Post;
use crate::support::oracle;
use crate::support::upstream::{Acted, Out, Plan, Reserved, Seen, Upstream, said};

/// Bodies that are refused with the head already judged leave a note of their caller.
const NOTED: &str = "http";
/// No connection that waits for its head's end costs more.
const HEAD_MEMORY_MAX: usize = 4 * 16 * 1024;
const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// A gateway whose callers need tokens, with one server.
struct House {
    gateway: Gateway,
    upstream: Upstream,
    token: String,
    /// The values of calls that were served.
    served: RefCell<Vec<String>>,
}

impl House {
    fn new() -> Self {
        let upstream = Plan::tools(&["echo"]).start();
        let gateway = Setup::new().server("up", &upstream.url()).open().tokens("deny").start();
        let token = gateway.token(&Who::default());
        Self { gateway, upstream, token, served: RefCell::default() }
    }

    /// A call that is permitted.
    fn call(&self) -> Post {
        Post::call("echo").token(&self.token)
    }

    /// The head of such a call, with these lines at its end.
    fn head(&self, lines: &str) -> Vec<u8> {
        self.call().head_bytes(&self.gateway, lines)
    }

    /// A whole call as text, to be spoilt.
    fn text(&self) -> String {
        String::from_utf8(self.call().bytes(&self.gateway)).expect("ASCII")
    }

    /// Sends `bytes` and a whole call behind them: one answer with one of these statuses, then the end.
    #[track_caller]
    fn refused(&self, bytes: &[u8], statuses: &[u16]) -> Response {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
        let mut wire = Wire::to(self.gateway.address);
        wire.send(&[bytes, &self.call().bytes(&self.gateway)].concat());
        let answer = wire.try_response().unwrap_or_else(|cut| panic!("{cut:?}: {shown}"));
        assert!(statuses.contains(&answer.status()), "{}: {shown:?}", answer.status());
        assert_eq!(answer.field("connection"), "close", "{shown:?}");
        wire.close_half();
        assert!(wire.at_end(PATIENCE), "{shown:?}");
        answer
    }

    /// These field lines, at the end of a head, are refused with 400.
    #[track_caller]
    fn lines_refused(&self, lines: &str) {
        self.refused(&self.head(lines), &[400]);
    }

    /// Sends a whole request, which is `post`, and the next one behind it: both are served.
    #[track_caller]
    fn serves(&self, post: &Post, bytes: &[u8]) {
        let next = self.call();
        let mut wire = Wire::to(self.gateway.address);
        wire.send(&[bytes, &next.bytes(&self.gateway)].concat());
        for post in [post, &next] {
            post.is_echoed(&wire.response());
            self.served.borrow_mut().push(post.value.clone());
        }
    }

    /// What went to the server is what was served, and one last call; the record has that, and `noted` refusals of this
    /// caller's for their framing.
    #[track_caller]
    fn end(self, noted: usize) {
        let last = self.call();
        last.echoed(&self.gateway);
        let mut served = self.served.take();
        served.push(last.value.clone());
        let calls: Vec<String> = self.upstream.calls().iter().map(|call| call.value().to_owned()).collect();
        assert_eq!(calls, served, "something was smuggled");
        let records = oracle::check(&self.gateway, &[("up", &self.upstream)]);
        let refused: Vec<&Value> =
            oracle::of_kind(&records, "decision").filter(|decision| decision["verdict"] == "refuse").collect();
        assert_eq!(refused.len(), noted, "{refused:#?}");
        for decision in refused {
            let who = (&decision["subject"], &decision["server"], &decision["reason"]);
            assert_eq!(who, (&json!("ada"), &json!("up"), &json!(NOTED)), "{decision}");
        }
    }
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// [H1] Both lengths, in either order, end the connection: neither reading of the body is believed.
#[test]
fn both_lengths() {
    let house = House::new();
    let hidden = house.call().bytes(&house.gateway);
    let bodies = [b"0\r\n\r\n".to_vec(), hidden.clone(), [chunk(&hidden), b"0\r\n\r\n".to_vec()].concat()];
    for body in &bodies {
        let length = body.len();
        for lines in [
            format!("content-length: {length}\r\n{CHUNKED}"),
            format!("{CHUNKED}content-length: {length}\r\n"),
            "Content-Length: 0\r\nx: y\r\nTRANSFER-ENCODING: Chunked\r\n".to_owned(),
            format!("transfer-encoding: identity\r\ncontent-length: {length}\r\n"),
            format!("content-length: x\r\n{CHUNKED}"),
        ] {
            house.refused(&[&house.head(&lines), &body[..]].concat(), &[400]);
        }
    }
    house.end(0);
}

/// [H2] A length that is said twice, or as a list, is none, even if both are equal.
#[test]
fn lengths_that_repeat() {
    let house = House::new();
    for lines in [
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5\r\nContent-Length: 6\r\n",
        "content-length: 0\r\nx: y\r\ncontent-length: 0\r\n",
        "content-length: 5\r\ncontent-length:\r\n",
        "content-length: 5, 5\r\n",
        "content-length: 5,5\r\n",
        "content-length: 5, 6\r\n",
        "content-length: 5,\r\n",
        "content-length: , 5\r\n",
    ] {
        house.lines_refused(lines);
    }
    house.end(0);
}

/// [H3] A length is digits.
#[test]
fn lengths_that_are_no_number() {
    let house = House::new();
    for length in [
        "+5",
        "-0",
        "-5",
        "0x5",
        "0o5",
        "1_0",
        "5 5",
        "5;",
        "5.0",
        "1e1",
        "five",
        "",
        "\"5\"",
        "\t5",
        "5\t",
        "00000000000000000005",
        "99999999999999999999",
        "18446744073709551621",
        "\u{665}",
    ] {
        house.lines_refused(&format!("content-length: {length}\r\n"));
    }
    // What is digits, and too much.
    house.refused(&house.head("content-length: 9999999999999999999\r\n"), &[413]);
    let post = house.call();
    let body = post.body_bytes();
    for length in [format!("000{}", body.len()), format!("  {}  ", body.len())] {
        let post = house.call();
        let head = post.head_bytes(&house.gateway, &format!("content-length:{length}\r\n"));
        house.serves(&post, &[head, post.body_bytes()].concat());
    }
    let records = house.gateway.records_until("the body that is too large", |records| {
        oracle::of_kind(records, "decision").any(|decision| decision["reason"] == "too_large")
    });
    assert_eq!(oracle::of_kind(&records, "decision").filter(|it| it["reason"] == "too_large").count(), 1);
    assert_eq!(house.upstream.calls().len(), 4);
}

/// [H4] A body's coding is one `chunked`, in any case, and nothing else.
#[test]
fn codings_other_than_chunked() {
    let house = House::new();
    let body = [chunk(&house.call().bytes(&house.gateway)), b"0\r\n\r\n".to_vec()].concat();
    for coding in [
        "chunked, chunked",
        "chunked,chunked",
        "identity",
        "identity, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "gzip",
        "xchunked",
        "chunkedx",
        "chunk ed",
        "\"chunked\"",
        "'chunked'",
        "\tchunked",
        "chunked\t",
        "\u{b}chunked",
        "chunked\u{b}",
        "\u{c}chunked",
        "chunked\0",
        "\0chunked",
        ", chunked",
        "chunked,",
        "chunked;q=1",
        "",
    ] {
        let head = house.head(&format!("transfer-encoding: {coding}\r\n"));
        house.refused(&[head, body.clone()].concat(), &[400, 501]);
    }
    for lines in [
        format!("{CHUNKED}{CHUNKED}"),
        format!("{CHUNKED}transfer-encoding: identity\r\n"),
        format!("transfer-encoding: identity\r\n{CHUNKED}"),
        "transfer-encoding:\r\n chunked\r\n".to_owned(),
    ] {
        house.refused(&[house.head(&lines), body.clone()].concat(), &[400, 501]);
    }
    for coding in ["CHUNKED", "Chunked", "  chunked  "] {
        let post = house.call();
        let head = post.head_bytes(&house.gateway, &format!("transfer-encoding:{coding}\r\n"));
        house.serves(&post, &[head, chunk(&post.body_bytes()), b"0\r\n\r\n".to_vec()].concat());
    }
    house.end(0);
}

/// [H5] HTTP/1.0 knows no chunks, and a body there ends by its length, not with the connection.
#[test]
fn bodies_in_http_1_0() {
    let house = House::new();
    let old = |bytes: Vec<u8>| String::from_utf8(bytes).expect("ASCII").replacen("HTTP/1.1", "HTTP/1.0", 1);
    for lines in
        [CHUNKED.to_owned(), format!("{CHUNKED}content-length: 5\r\n"), format!("connection: keep-alive\r\n{CHUNKED}")]
    {
        house.refused(&[old(house.head(&lines)).as_bytes(), b"0\r\n\r\n"].concat(), &[400]);
    }
    // No length: no body. The answer does not wait for the end of the connection, and ends it, whatever was asked.
    for lines in ["", "connection: keep-alive\r\n"] {
        let mut wire = Wire::to(house.gateway.address);
        wire.send(old(house.head(lines)).as_bytes());
        wire.send(&house.call().body_bytes());
        let answer = wire.response();
        assert_eq!((answer.status(), &answer.json()["error"]["code"]), (400, &json!(-32_700)), "{}", answer.text());
        assert!(wire.at_end(PATIENCE), "an HTTP/1.0 connection ends with its answer");
    }
    // With a length it is served, once.
    let post = house.call().field("connection", "keep-alive");
    let mut wire = Wire::to(house.gateway.address);
    wire.send(&[old(post.bytes(&house.gateway)).as_bytes(), &house.call().bytes(&house.gateway)].concat());
    post.is_echoed(&wire.response());
    assert!(wire.at_end(PATIENCE));
    let calls: Vec<String> = house.upstream.calls().iter().map(|call| call.value().to_owned()).collect();
    assert_eq!(calls, std::slice::from_ref(&post.value));
    oracle::check(&house.gateway, &[("up", &house.upstream)]);
}

/// [H6] A field line is a name, a colon right behind it, and a value on the same line.
#[test]
fn field_lines() {
    let house = House::new();
    for line in [
        "x : y",
        "x\t: y",
        "content-length : 5",
        "transfer-encoding : chunked",
        "authorization : Bearer x",
        " x: y",
        "\tx: y",
        "x: y\r\n z",
        "x: y\r\n\tz",
        "content-length:\r\n 5",
        "x",
        ": y",
        " : y",
        "x y: z",
        "x[y]: z",
        "(x): y",
        "x@y: z",
        "x,y: z",
        "\"x\": y",
        "x\u{b}: y",
        "x\u{7f}: y",
        "caf\u{e9}: y",
        "\u{a0}x: y",
    ] {
        house.lines_refused(&format!("{line}\r\n"));
    }
    // Before the first field too.
    for between in [" \r\n", "\t\r\n", " x: y\r\n", ":\r\n"] {
        let text = house.text().replacen("HTTP/1.1\r\n", &format!("HTTP/1.1\r\n{between}"), 1);
        house.refused(text.as_bytes(), &[400]);
    }
    house.end(0);
}

/// [H7] Lines end with CR LF and nothing else; no CR, LF or NUL stands anywhere else in a head.
#[test]
fn stray_line_breaks_in_heads() {
    let house = House::new();
    let text = house.text();
    for line in [
        "x: y\rz",
        "x: y\r",
        "x: y\nz: w",
        "x: y\n z",
        "x: \0",
        "x\0: y",
        "x\r: y",
        "x\n: y",
        "\r",
        "\rx: y",
        "x: y\u{1}",
    ] {
        house.lines_refused(&format!("{line}\r\n"));
    }
    for (from, to) in [
        ("POST ", "\r\nPOST "),
        ("POST ", "\nPOST "),
        ("POST ", "\0POST "),
        ("/mcp", "/mcp\0"),
        ("/mcp", "/m\rcp"),
        (" HTTP/1.1\r\n", " HTTP/1.1\n"),
        (" HTTP/1.1\r\n", " HTTP/1.1\r"),
        (" HTTP/1.1\r\n", " HTTP/1.1\r\r\n"),
        (" HTTP/1.1\r\n", " HTTP/1.1\0\r\n"),
        ("\r\n\r\n", "\n\n"),
        ("\r\n\r\n", "\r\n\n"),
        ("\r\n\r\n", "\n\r\n"),
        ("\r\n\r\n", "\r\n\r\r\n"),
        ("\r\n\r\n", "\r\r"),
    ] {
        assert!(text.contains(from));
        house.refused(text.replacen(from, to, 1).as_bytes(), &[400]);
    }
    house.end(0);
}

/// [H7] [H8] [H9] Chunk sizes, the ends of chunks, extensions and trailers, each in every way that some parser takes for
/// another body. Here the caller is known, so each leaves one record.
#[test]
fn chunks_that_are_none() {
    let house = House::new();
    let cases: &[&str] = &[
        // Sizes.
        "+5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "1_0\r\nhello world!!!!!\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF0\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5,\r\nhello\r\n0\r\n\r\n",
        "\"5\"\r\nhello\r\n0\r\n\r\n",
        "+0\r\n\r\n",
        // Line breaks.
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!!\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\n\rx",
        "5\0\r\nhello\r\n0\r\n\r\n",
        // Extensions.
        "5;\r\nhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rX\r\nhello\r\n0\r\n\r\n",
        "5;\0a\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b\r\nhello\r\n0\r\n\r\n",
        "5;a[=b\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "0;\r\n\r\n",
        // Trailers.
        "0\r\n: y\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\nx: y\rz\r\n\r\n",
        "0\r\nx: \0\r\n\r\n",
        "0\r\nx[: y\r\n\r\n",
    ];
    for case in cases {
        house.refused(&[&house.head(CHUNKED), case.as_bytes()].concat(), &[400]);
    }
    house.end(cases.len());
}

/// [H8] [H9] The bounds of extensions and trailers, and what is within them is dropped.
#[test]
fn bounds_of_chunk_lines() {
    let house = House::new();
    let extension = |bytes: usize| format!(";{}", "e".repeat(bytes - 1));
    let field = |bytes: usize| format!("x: {}\r\n", "v".repeat(bytes));
    let bad = [
        format!("1{}\r\nx\r\n0\r\n\r\n", extension(257)),
        format!("{}0\r\n\r\n", format!("1{}\r\nx\r\n", extension(200)).repeat(21)),
        format!("0\r\n{}\r\n", field(8 * 1024 + 1)),
        format!("0\r\n{}\r\n", field(1).repeat(101)),
        format!("0\r\n{}\r\n", field(5_000).repeat(4)),
    ];
    for body in &bad {
        house.refused(&[&house.head(CHUNKED), body.as_bytes()].concat(), &[400]);
    }
    let plain = house.call();
    house.serves(&plain, &plain.bytes(&house.gateway));
    let good: [(String, String); 4] = [
        (String::new(), String::new()),
        (extension(250), String::new()),
        (";a=b;c=\"d\\\"e\"".into(), field(8 * 1024 - 1)),
        (String::new(), format!("{}{}", "x-checksum: 1\r\n".repeat(50), field(1).repeat(50))),
    ];
    for (extension, trailers) in good {
        let post = house.call();
        let body = post.body_bytes();
        let sent =
            format!("{:016X}{extension}\r\n{}\r\n0\r\n{trailers}\r\n", body.len(), String::from_utf8_lossy(&body));
        house.serves(&post, &[&post.head_bytes(&house.gateway, CHUNKED), sent.as_bytes()].concat());
    }
    house.end(bad.len());
}

/// [H9] No trailer becomes a header, whatever it is called: not for the gateway, not for the server.
#[test]
fn trailers_are_dropped() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("allow").start();
    let token = gateway.token(&Who::default());
    let trailers = format!(
        "authorization: Bearer {token}\r\nhost: evil.example\r\ncontent-length: 5\r\ntransfer-encoding: identity\r\n\
         connection: close\r\norigin: http://evil.example\r\nexpect: x\r\nmcp-name: other\r\nmcp-method: ping\r\n\
         mcp-session-id: x\r\nmcp-param-x: y\r\nportcullis-task: none\r\nx-forwarded-for: 1.2.3.4\r\nforwarded: for=x\r\n\
         content-type: text/plain\r\ncontent-encoding: gzip\r\ntraceparent: x\r\ncookie: a=b\r\n"
    );
    let (plain, post) = (Post::call("echo"), Post::call("echo"));
    let mut wire = Wire::to(gateway.address);
    plain.is_echoed(&wire.ask(&plain.bytes(&gateway)));
    wire.send(&post.head_bytes(&gateway, CHUNKED));
    wire.send(&chunk(&post.body_bytes()));
    post.is_echoed(&wire.ask(format!("0\r\n{trailers}\r\n").as_bytes()));
    let next = Post::call("echo");
    next.is_echoed(&wire.ask(&next.bytes(&gateway)));
    let calls = upstream.calls();
    let names = |call: &Seen| call.fields.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&calls[0]), names(&calls[1]), "the same fields as without trailers");
    assert_eq!((calls[1].field("mcp-name"), calls.len()), ("echo", 3));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::decision(&records, &post.value)["subject"], "anonymous", "a token in a trailer is none");
}

/// [H10] One host, which is a name or an address.
#[test]
fn hosts() {
    let house = House::new();
    let address = house.gateway.address;
    let line = format!("host: {address}\r\n");
    for hosts in [
        String::new(),
        "host:\r\n".into(),
        format!("{line}{line}"),
        format!("{line}Host: evil.example\r\n"),
        format!("Host: evil.example\r\n{line}"),
        format!("host: {address}, {address}\r\n"),
        format!("host: {address},\r\n"),
        format!("host: user@{address}\r\n"),
        format!("host: user:pw@{address}\r\n"),
        format!("host: {address}/mcp\r\n"),
        format!("host: {address}?x\r\n"),
        format!("host: {address}#x\r\n"),
        format!("host: http://{address}\r\n"),
        format!("host: {address} x\r\n"),
        format!("host: {}:\r\n", address.ip()),
        format!("host: {}:99999\r\n", address.ip()),
        format!("host: {}:x\r\n", address.ip()),
        format!("host: {address}:80\r\n"),
        "host: [::1\r\n".into(),
        "host: [::1]x\r\n".into(),
        "host: ::1\r\n".into(),
        "host: a..b\r\n".into(),
        "host: %6cocalhost\r\n".into(),
        "host: caf\u{e9}\r\n".into(),
    ] {
        house.refused(house.text().replacen(&line, &hosts, 1).as_bytes(), &[400]);
    }
    house.end(0);
}

/// [H10] A target that names a host names the same one; and a request line has three parts, with one space between them.
#[test]
fn request_lines() {
    let house = House::new();
    let address = house.gateway.address;
    for target in [
        "http://evil.example/mcp".to_owned(),
        format!("http://user@{address}/mcp"),
        format!("http://{}/mcp", address.ip()),
        format!("http://{address}@evil.example/mcp"),
        format!("http://{address}#/mcp"),
        format!("ftp://{address}/mcp"),
        format!("http:/{address}/mcp"),
        format!("//{address}/mcp"),
        "http:///mcp".into(),
        address.to_string(),
        "mcp".into(),
        "*".into(),
        "/mcp#x".into(),
        "/mcp x".into(),
    ] {
        house.refused(house.text().replacen("/mcp", &target, 1).as_bytes(), &[400]);
    }
    for line in [
        "POST  /mcp HTTP/1.1",
        "POST /mcp  HTTP/1.1",
        "POST /mcp HTTP/1.1 ",
        "POST\t/mcp HTTP/1.1",
        " POST /mcp HTTP/1.1",
        "POST /mcp http/1.1",
        "POST /mcp HTTP/01.1",
        "POST /mcp HTTP/1",
        "POST /mcp",
        "POST HTTP/1.1",
        "PO(ST /mcp HTTP/1.1",
    ] {
        house.refused(house.text().replacen("POST /mcp HTTP/1.1", line, 1).as_bytes(), &[400]);
    }
    for target in [format!("http://{address}/mcp"), format!("HTTP://{address}/mcp?x=y")] {
        let post = house.call().at(&target);
        house.serves(&post, &post.bytes(&house.gateway));
    }
    house.end(0);
}

/// [H11] Methods are served as routed, CONNECT and TRACE never; and what stands behind any head, as its body, is never
/// the next request.
#[test]
fn methods_and_their_bodies() {
    let house = House::new();
    let (gateway, upstream) = (&house.gateway, &house.upstream);
    let hidden = house.call().bytes(gateway);
    let metadata = "/.well-known/oauth-protected-resource/mcp";
    let cases = [
        ("GET", "/mcp", 405),
        ("DELETE", "/mcp", 405),
        ("HEAD", "/mcp", 405),
        ("OPTIONS", "/mcp", 405),
        ("PUT", "/mcp", 405),
        ("TRACE", "/mcp", 405),
        ("BREW", "/mcp", 405),
        ("post", "/mcp", 405),
        ("CONNECT", &gateway.address.to_string(), 405),
        ("OPTIONS", "*", 404),
        ("POST", "/none", 404),
        ("GET", metadata, 200),
        ("HEAD", metadata, 200),
        ("POST", metadata, 405),
    ];
    for (method, target, status) in cases {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n",
            gateway.address, house.token
        );
        let bodies = [
            [format!("{head}content-length: {}\r\n\r\n", hidden.len()).as_bytes(), &hidden].concat(),
            // Less than all of it.
            [format!("{head}content-length: {}\r\n\r\n", hidden.len() + 9).as_bytes(), &hidden].concat(),
            [format!("{head}{CHUNKED}\r\n").as_bytes(), &chunk(&hidden), b"0\r\n\r\n"].concat(),
            [format!("{head}{CHUNKED}\r\n").as_bytes(), &chunk(&hidden)].concat(),
        ];
        for bytes in bodies {
            let mut wire = Wire::to(gateway.address);
            wire.send(&bytes);
            let answer = wire.head().expect("an answer");
            assert_eq!(answer.status, status, "{method} {target}");
            assert_eq!(answer.fields.iter().any(|(name, _)| name == "allow"), status == 405, "{method} {target}");
            let length: usize = answer.field("content-length").parse().expect("a length");
            if method == "HEAD" {
                // Nothing of a body: what comes next is the next answer, or the end.
                wire.close_half();
                assert!(wire.at_end(PATIENCE), "{method} {target}");
                continue;
            }
            let next = Post::call("no-such").token(&house.token).id("next");
            wire.send(&next.bytes(gateway));
            wire.close_half();
            let rest = wire.rest();
            let behind = rest.get(length..).expect("the whole answer");
            let answers = String::from_utf8_lossy(behind);
            // Either the connection ended, or the next request is answered: the hidden one never is.
            assert!(
                answers.matches("HTTP/1.1 ").count() <= 1 && (answers.is_empty() || answers.contains("\"next\"")),
                "{answers}"
            );
        }
    }
    assert!(upstream.calls().is_empty(), "{:?}", upstream.calls());
}

/// [H11] The answer to a HEAD has no body, and the answer to what comes next on its connection has one, be it no request
/// at all.
#[test]
fn what_comes_behind_a_head_request() {
    let house = House::new();
    for behind in
        ["\r\n\r\n", "G@T / HTTP/1.1\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n", "GET /mcp HTTP/1.1\r\n\r\n"]
    {
        let mut wire = Wire::to(house.gateway.address);
        wire.send(format!("HEAD /mcp HTTP/1.1\r\nhost: {}\r\n\r\n", house.gateway.address).as_bytes());
        assert_eq!(wire.try_response_to(true).expect("an answer").status(), 405);
        let answer = wire.ask(behind.as_bytes());
        assert!([400, 505].contains(&answer.status()) && answer.json()["error"].is_object(), "{behind:?}");
        assert!(wire.at_end(PATIENCE), "{behind:?}");
    }
}

/// [H11] [H13] The answer to a request whose body is not read arrives whole, up to 64 KiB of body; beyond, the
/// connection ends soon.
#[test]
fn early_answers_arrive() {
    let house = House::new();
    let gateway = &house.gateway;
    for (fields, status) in [("", 401), ("origin: null\r\n", 403), ("content-length: 5\r\n", 400)] {
        for _ in 0..8 {
            let head =
                format!("POST /mcp HTTP/1.1\r\nhost: {}\r\n{fields}content-length: 60000\r\n\r\n", gateway.address);
            let mut wire = Wire::to(gateway.address);
            wire.send(&[head.as_bytes(), &[b'x'; 60_000]].concat());
            let answer = wire.response();
            assert_eq!((answer.status(), answer.field("connection")), (status, "close"));
            assert!(wire.at_end(PATIENCE));
        }
    }
    let long = house.call().head_bytes(gateway, "content-length: 100000000\r\n");
    let mut wire = Wire::to(gateway.address);
    wire.send(&long);
    let answer = wire.response();
    assert_eq!((answer.status(), answer.field("connection")), (413, "close"));
    let begun = Instant::now();
    // The gateway reads no more than it must: sending ends with an error long before the announced end.
    let mut sent = 0;
    while wire.try_send(&[b'x'; 64 * 1024]) && begun.elapsed() < PATIENCE {
        sent += 64 * 1024;
    }
    assert!(sent < 100_000_000 && begun.elapsed() < PATIENCE, "{sent} bytes in {:?}", begun.elapsed());
    assert!(house.upstream.calls().is_empty());
}

/// [H12] Nobody gets another protocol here: an `Upgrade` is passed over, the request served as what it is, and a server
/// that wants one is refused. Nothing goes to the server before the body is there and judged.
#[test]
fn upgrades() {
    let house = House::new();
    let (gateway, upstream) = (&house.gateway, &house.upstream);
    let websocket = format!(
        "GET /mcp HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        gateway.address, house.token
    );
    let mut wire = Wire::to(gateway.address);
    assert_eq!(wire.ask(websocket.as_bytes()).status(), 405);
    // Still HTTP/1.1.
    let post = house.call();
    post.is_echoed(&wire.ask(&post.bytes(gateway)));
    let h2c = house
        .call()
        .field("connection", "Upgrade, HTTP2-Settings")
        .field("upgrade", "h2c")
        .field("http2-settings", "AAMAAABkAAQAAP__");
    let mut wire = Wire::to(gateway.address);
    wire.send(&h2c.head_bytes(gateway, &format!("content-length: {}\r\n", h2c.body_bytes().len())));
    assert!(wire.quiet(Duration::from_millis(100)), "no switch of protocols");
    assert_eq!(upstream.calls().len(), 1, "nothing goes before the body is there");
    wire.send(&h2c.body_bytes());
    h2c.is_echoed(&wire.response());
    let call = upstream.wait("the call", |seen| seen.value() == h2c.value);
    let switching = ["upgrade", "connection", "http2-settings"];
    assert!(call.fields.iter().all(|(name, _)| !switching.contains(&&**name)), "{:?}", call.fields);
    // What would come next, had it switched.
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let answer = wire.response();
    assert_eq!((answer.status(), answer.field("connection")), (505, "close"));
    assert!(wire.at_end(PATIENCE));
    oracle::check(gateway, &[("up", upstream)]);
}

/// [H12] HTTP/2 with prior knowledge, TLS, and other protocols get one answer in ours, and the end.
#[test]
fn other_protocols() {
    let house = House::new();
    let cases: [(&[u8], u16); 5] = [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /mcp HTTP/3\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"SSH-2.0-OpenSSH_9.9\r\n", 400),
        (b"\x05\x01\x00", 400),
    ];
    for (bytes, status) in cases {
        house.refused(bytes, &[status]);
    }
    house.end(0);
}

/// [H13] The go-ahead comes when head and token have passed, and never before a refusal; other expectations are not met.
#[test]
fn expectations() {
    let house = House::new();
    let gateway = &house.gateway;
    let expecting = |post: Post| post.field("expect", "100-continue");
    let refused = [
        (Post::call("echo"), 401),
        (Post::call("echo").token("no-token"), 401),
        (house.call().field("origin", "null"), 403),
        (house.call().at("/none"), 404),
        (house.call().without("content-type"), 415),
        (house.call().field("content-encoding", "gzip"), 415),
        (house.call().field("mcp-name", "\0"), 400),
        (house.call().field("connection", "authorization"), 400),
    ];
    for (post, status) in refused {
        let post = expecting(post);
        let mut wire = Wire::to(gateway.address);
        wire.send(&post.head_bytes(gateway, "content-length: 10\r\n"));
        let answer = wire.response();
        assert_eq!((answer.status(), answer.field("connection")), (status, "close"), "no 100 before it");
    }
    let large = expecting(house.call()).head_bytes(gateway, "content-length: 2000000\r\n");
    assert_eq!(Wire::to(gateway.address).ask(&large).status(), 413);
    for strange in ["200-ok", "100-continue, x", "100 continue", ""] {
        let post = house.call().field("expect", strange);
        assert_eq!(post.to(gateway).status(), 417, "{strange:?}");
    }
    assert!(house.upstream.calls().is_empty());
    for lines in [CHUNKED.to_owned(), format!("content-length: {}\r\n", house.call().body_bytes().len())] {
        let post = house.call().field("expect", "100-Continue");
        let mut wire = Wire::to(gateway.address);
        wire.send(&post.head_bytes(gateway, &lines));
        let go = wire.head().expect("a go-ahead");
        assert_eq!((go.status, go.fields.len()), (100, 0));
        assert!(house.upstream.calls().iter().all(|call| call.value() != post.value), "nothing went yet");
        let body = post.body_bytes();
        wire.send(&if lines == CHUNKED { [chunk(&body), b"0\r\n\r\n".to_vec()].concat() } else { body });
        post.is_echoed(&wire.response());
    }
    oracle::check(gateway, &[("up", &house.upstream)]);
}

/// What a tool does to its caller.
type Act = fn(&Seen, &mut Out<'_>);

fn acting(acts: &'static [(&'static str, Act)]) -> (Gateway, Upstream) {
    let names: Vec<&str> = acts.iter().map(|(name, _)| *name).chain(["echo"]).collect();
    let upstream = Plan::tools(&names)
        .script(move |seen, out| match acts.iter().find(|(name, _)| seen.calls(name)) {
            Some((_, act)) => {
                act(seen, out);
                Acted::Done
            }
            None => Acted::Default,
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    (gateway, upstream)
}

fn head(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{fields}\r\n")
}

fn whole(message: &Value) -> String {
    let body = message.to_string();
    head(&format!("content-length: {}\r\n", body.len())) + &body
}

/// A server whose tool `hasty` answers before it has read the request, and then does what `after` does.
fn hasty(after: fn(&mut Out<'_>)) -> (Gateway, Upstream) {
    let plan = Plan::tools(&["hasty", "echo"]).hasty(move |seen, out| {
        if seen.field("mcp-name") != "hasty" {
            return Acted::Default;
        }
        // The body with the caller's value is not read; the trace has the value too.
        let value = &seen.field("traceparent")[3..35];
        let result = json!({ "content": [{ "type": "text", "text": value }], "resultType": "complete" });
        out.write(whole(&json!({ "jsonrpc": "2.0", "id": 1, "result": result })));
        after(out);
        Acted::Done
    });
    let upstream = Reserved::new().narrow().start(plan);
    let gateway = Setup::new().server("up", &upstream.url()).set("/servers/up/timeout", json!("8s")).open().start();
    (gateway, upstream)
}

/// Its answer is given on, in less than its timeout, and the connection is not used again.
#[track_caller]
fn answered_early(gateway: &Gateway, upstream: &Upstream) {
    // More than the server's kernel takes: the request is still on its way when the answer comes.
    let post = Post::call("hasty").param("/arguments/pad", json!("x".repeat(900_000)));
    let begun = Instant::now();
    post.is_echoed(&post.to(gateway));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let next = Post::call("echo");
    next.echoed(gateway);
    let seen = upstream.wait("the next call", |seen| seen.value() == next.value);
    assert_eq!(seen.nth, 0, "a connection of its own, not the one whose request was never read");
}

/// [H14] A server that answers before it has read the request, and hangs up: its answer is given on, and its connection
/// is never used again.
#[test]
#[ignore = "bug: a connection is kept while bytes of its request wait to be sent"]
fn servers_that_answer_early_and_leave() {
    let (gateway, upstream) = hasty(|_| std::thread::sleep(Duration::from_millis(100)));
    for _ in 0..3 {
        answered_early(&gateway, &upstream);
    }
}

/// [H14] The same for one that stays: its answer does not wait for the rest of the request to be taken.
#[test]
#[ignore = "bug: a connection is kept while bytes of its request wait to be sent"]
fn servers_that_answer_early_and_stay() {
    let (gateway, upstream) = hasty(|out| out.pass("read"));
    for _ in 0..3 {
        answered_early(&gateway, &upstream);
    }
    upstream.open("read");
}

/// [H15] Bytes behind a complete answer are nobody's answer, whether they come with it or a moment later.
#[test]
fn bytes_behind_an_answer() {
    const ACTS: &[(&str, Act)] = &[
        ("at-once", |seen, out| {
            let stolen = whole(&said(seen, "stolen"));
            out.write(whole(&said(seen, seen.value())) + &stolen);
        }),
        ("half", |seen, out| out.write(whole(&said(seen, seen.value())) + "HTTP/1.1 200 OK\r\n")),
        ("line-break", |seen, out| out.write(whole(&said(seen, seen.value())) + "\r\n")),
        ("after-chunks", |seen, out| {
            let body = said(seen, seen.value()).to_string();
            let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            out.write(head("transfer-encoding: chunked\r\n") + &chunks + &whole(&said(seen, "stolen")));
        }),
    ];
    let (gateway, upstream) = acting(ACTS);
    for (name, _) in ACTS {
        for _ in 0..5 {
            let post = Post::call(name);
            post.echoed(&gateway);
            let next = Post::call("echo");
            next.echoed(&gateway);
            let call = upstream.wait("the call", |seen| seen.value() == post.value);
            let after = upstream.wait("the next call", |seen| seen.value() == next.value);
            assert_ne!(call.connection, after.connection, "{name}: the connection was used again");
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [H15] The same where they come when the answer has been given on already, and the connection been kept.
#[test]
#[ignore = "bug: a fresh connection is used without a look"]
fn bytes_behind_an_answer_that_come_late() {
    const ACTS: &[(&str, Act)] = &[("late", |seen, out| {
        out.write(whole(&said(seen, seen.value())));
        out.pass(seen.value());
        out.write(whole(&said(seen, "stolen")));
        out.note(seen.value());
    })];
    let (gateway, upstream) = acting(ACTS);
    for _ in 0..20 {
        let post = Post::call("late");
        post.echoed(&gateway);
        upstream.open(&post.value);
        upstream.noted(&post.value);
        // Soon, so that the connection counts as fresh.
        Post::call("echo").echoed(&gateway);
        Post::call("echo").echoed(&gateway);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [H12] [H16] Answers that no two parties read alike are withheld, and their connection is closed: a call gets an error that
/// says so, a message that is no request 502.
#[test]
fn answers_that_are_ambiguous() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            let number = seen.field("tracestate").strip_prefix("case=").and_then(|text| text.parse::<usize>().ok());
            let Some(number) = number else { return Acted::Default };
            let message = if seen.message.get("id").is_some() { said(seen, seen.value()) } else { json!({}) };
            out.write(ambiguous(&message.to_string()).swap_remove(number));
            let gone = out.gone(Duration::from_secs(5));
            out.note(format!("{} {gone}", seen.field("traceparent")));
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let session = crate::support::mcp::open_session(&gateway, |post| post);
    for number in 0..ambiguous("").len() {
        let case = format!("case={number}");
        let call = Post::call("echo").field("tracestate", &case);
        let answer = call.to(&gateway);
        let reason = &answer.json()["error"]["data"]["reason"];
        assert_eq!((answer.status(), reason), (200, &json!("server_invalid")), "{number}: {}", answer.text());
        upstream.noted(&format!("00-{}-00f067aa0ba902b7-01 true", call.value));
        let trace = format!("00-{}-00f067aa0ba902b7-01", crate::support::mcp::fresh());
        let note = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
        let told = Post::tell(&session, note).field("tracestate", &case).field("traceparent", &trace).to(&gateway);
        assert_eq!(told.status(), 502, "{number}: {}", told.text());
        upstream.noted(&format!("{trace} true"));
        Post::call("echo").echoed(&gateway);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// The same body under heads that could be read in two ways, or in none.
fn ambiguous(body: &str) -> Vec<String> {
    let length = body.len();
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let good = format!("content-length: {length}\r\n");
    let lines = |first: &str, fields: &str| format!("{first}\r\ncontent-type: application/json\r\n{fields}\r\n{body}");
    vec![
        head(&format!("{good}{CHUNKED}")) + &chunked,
        head(&format!("{CHUNKED}{good}")) + &chunked,
        lines("HTTP/1.1 200 OK", &format!("{good}{good}")),
        lines("HTTP/1.1 200 OK", &format!("content-length: {length}, {length}\r\n")),
        lines("HTTP/1.1 200 OK", &format!("content-length: +{length}\r\n")),
        lines("HTTP/1.1 200 OK", &format!("content-length: 0x{length:x}\r\n")),
        lines("HTTP/1.1 200 OK", "content-length: -1\r\n"),
        lines("HTTP/1.1 200 OK", &format!("content-length:\t{length}\r\n")),
        head("transfer-encoding: gzip, chunked\r\n") + &chunked,
        head("transfer-encoding: chunked, chunked\r\n") + &chunked,
        head("transfer-encoding: \u{b}chunked\r\n") + &chunked,
        head(CHUNKED).replacen("HTTP/1.1", "HTTP/1.0", 1) + &chunked,
        "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(11) + &lines("HTTP/1.1 200 OK", &good),
        "HTTP/1.1 103 Early Hints\r\ncontent-length: 5\r\n\r\nhello".to_owned() + &lines("HTTP/1.1 200 OK", &good),
        lines("HTTP/1.1 101 Switching Protocols", &good),
        lines("HTTP/1.1 099 What", &good),
        lines("HTTP/1.1 600 What", &good),
        lines("HTTP/1.1 999 What", &good),
        lines("HTTP/1.1 2000 What", &good),
        lines("HTTP/1.1 -20 What", &good),
        lines("HTTP/2.0 200 OK", &good),
        lines("HTTP/1.1  200 OK", &good),
        lines("ICY 200 OK", &good),
        lines("HTTP/1.1 200 OK", &good).replace("\r\n", "\n"),
        lines("HTTP/1.1 200 OK\nx: y", &good),
        lines("HTTP/1.1 200 OK", &format!("x: y\rz\r\n{good}")),
        lines("HTTP/1.1 200 OK", &format!("x: \0\r\n{good}")),
        lines("HTTP/1.1 200 OK", &format!("x: y\r\n z\r\n{good}")),
        lines("HTTP/1.1 200 OK", &format!("x : y\r\n{good}")),
        lines("HTTP/1.1 200 OK", &format!("connection: mcp-session-id\r\n{good}")),
        lines("HTTP/1.1 200 OK", &format!("x: {}\r\n{good}", "y".repeat(9_000))),
        lines("HTTP/1.1 200 OK", &format!("{}{good}", "x: y\r\n".repeat(101))),
    ]
}

/// [H7] [H8] [H9] [H16] Nor is a body in chunks that two parties would cut differently ever given on.
#[test]
fn answers_in_broken_chunks() {
    let upstream = Plan::tools(&["echo"])
        .script(|seen, out| {
            let number = seen.field("tracestate").strip_prefix("case=").and_then(|text| text.parse::<usize>().ok());
            let Some(number) = number else { return Acted::Default };
            out.write(head(CHUNKED) + &broken_chunks(&said(seen, seen.value()).to_string()).swap_remove(number));
            let gone = out.gone(Duration::from_secs(5));
            out.note(format!("{} {gone}", seen.value()));
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    for number in 0..broken_chunks("").len() {
        let call = Post::call("echo").field("tracestate", &format!("case={number}"));
        let answer = call.to(&gateway);
        let reason = &answer.json()["error"]["data"]["reason"];
        assert_eq!((answer.status(), reason), (200, &json!("server_invalid")), "{number}: {}", answer.text());
        upstream.noted(&format!("{} true", call.value));
        Post::call("echo").echoed(&gateway);
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

fn broken_chunks(body: &str) -> Vec<String> {
    let size = format!("{:x}", body.len());
    vec![
        format!("{size}\n{body}\r\n0\r\n\r\n"),
        format!("{size}\r{body}\r\n0\r\n\r\n"),
        format!("{size}\r\n{body}\n0\r\n\r\n"),
        format!("{size}\r\n{body}0\r\n\r\n"),
        format!("{size}\r\n{body}\r\n0\n\r\n"),
        format!("{size}\r\n{body}\r\n0\r\n\n"),
        format!("+{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("0x{size}\r\n{body}\r\n0\r\n\r\n"),
        format!(" {size}\r\n{body}\r\n0\r\n\r\n"),
        format!("{size} \r\n{body}\r\n0\r\n\r\n"),
        format!("{size:0>17}\r\n{body}\r\n0\r\n\r\n"),
        format!("{size};\r\n{body}\r\n0\r\n\r\n"),
        format!("{size};{}\r\n{body}\r\n0\r\n\r\n", "e".repeat(300)),
        format!("{size}\r\n{body}\r\n0\r\nx : y\r\n\r\n"),
        format!("{size}\r\n{body}\r\n0\r\n{}\r\n", "x: y\r\n".repeat(101)),
    ]
}

/// [H16] Up to ten interim answers are passed over.
#[test]
fn interim_answers() {
    const ACTS: &[(&str, Act)] = &[("patient", |seen, out| {
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(10);
        out.write(hints + &whole(&said(seen, seen.value())));
    })];
    let (gateway, upstream) = acting(ACTS);
    Post::call("patient").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [H17] A client cannot have fields removed that the gateway or its server goes by.
#[test]
fn connection_names_no_protected_field() {
    let house = House::new();
    for name in [
        "authorization",
        "Authorization",
        "host",
        "mcp-session-id",
        "Mcp-Name",
        "mcp-method",
        "mcp-protocol-version",
        "mcp-param-region",
        "MCP-anything",
        "content-type",
        "content-length",
        "transfer-encoding",
        "content-encoding",
        "accept",
        "accept-encoding",
        "user-agent",
        "origin",
        "traceparent",
        "tracestate",
        "last-event-id",
        "portcullis-task",
    ] {
        let length = house.call().body_bytes().len();
        for connection in [name.to_owned(), format!("close, {name}"), format!("x,\t{name} ,")] {
            house.lines_refused(&format!("connection: {connection}\r\ncontent-length: {length}\r\n"));
        }
    }
    house.lines_refused("connection: x y\r\n");
    house.lines_refused("connection: \"close\"\r\n");
    house.end(0);
}

/// [H18] A head is bounded in whole, in its fields, in each value, and in its target.
#[test]
fn bounds_of_heads() {
    let house = House::new();
    let sized = |bytes: usize| {
        let post = house.call();
        let first = format!("content-length: {}\r\nx: {}\r\n", post.body_bytes().len(), "v".repeat(8_000));
        let rest = bytes - post.head_bytes(&house.gateway, &first).len() - "x: \r\n".len();
        let head = post.head_bytes(&house.gateway, &format!("{first}x: {}\r\n", "v".repeat(rest)));
        assert_eq!(head.len(), bytes);
        (post, head)
    };
    let (post, bytes) = sized(16 * 1024);
    house.serves(&post, &[bytes, post.body_bytes()].concat());
    house.refused(&sized(16 * 1024 + 1).1, &[431]);
    let value = |bytes: usize| house.call().field("x", &"v".repeat(bytes));
    let post = value(8 * 1024);
    house.serves(&post, &post.bytes(&house.gateway));
    house.refused(&value(8 * 1024 + 1).bytes(&house.gateway), &[431]);
    house.refused(&house.head(&format!("x: {}", "v".repeat(20_000))), &[431]);
    house.refused(&house.head(&"n".repeat(20_000)), &[431]);
    let fields = |count: usize| {
        let post = house.call();
        let have = String::from_utf8_lossy(&post.bytes(&house.gateway))
            .split("\r\n\r\n")
            .next()
            .map_or(0, |head| head.lines().count())
            - 1;
        (have..count).fold(post, |post, _| post.field("x", "y"))
    };
    let post = fields(100);
    house.serves(&post, &post.bytes(&house.gateway));
    house.refused(&fields(101).bytes(&house.gateway), &[431]);
    let target = |bytes: usize| house.call().at(&format!("/mcp?{}", "q".repeat(bytes - 5)));
    let post = target(8 * 1024);
    house.serves(&post, &post.bytes(&house.gateway));
    house.refused(&target(8 * 1024 + 1).bytes(&house.gateway), &[414]);
    house.refused(&target(20_000).bytes(&house.gateway), &[414]);
    house.refused(&target(200_000).bytes(&house.gateway)[..60_000], &[414]);
    house.end(0);
}

/// [H18] A head that does not end holds less memory than four times its bound.
#[test]
fn memory_of_heads() {
    const HEADS: usize = 400;
    let house = House::new();
    house.call().echoed(&house.gateway);
    let before = house.gateway.resident_bytes();
    let lines = format!("x: {}\r\n{}", "v".repeat(8_000), "y: z\r\n".repeat(80));
    let mut bytes = house.head(&lines);
    bytes.truncate(bytes.len() - 2);
    bytes.extend_from_slice(b"w: ");
    bytes.resize(16 * 1024 - 1, b'v');
    let wires: Vec<Wire> = (0..HEADS)
        .map(|_| {
            let mut wire = Wire::to(house.gateway.address);
            wire.send(&bytes);
            wire
        })
        .collect();
    eventually("most heads were read", || house.gateway.resident_bytes() > before + HEADS * 12 * 1024);
    house.call().echoed(&house.gateway);
    let each = (house.gateway.resident_bytes() - before) / HEADS;
    println!("{each} bytes for each head of {}", bytes.len());
    assert!(each < HEAD_MEMORY_MAX, "{each} bytes for each");
    drop(wires);
}

/// A client that closes its half is taken for one that has left: HTTP/1.1 has no way to tell them apart.
#[test]
fn a_client_that_closes_its_half_has_left() {
    const ACTS: &[(&str, Act)] = &[("hold", |seen, out| {
        let gone = out.gone(PATIENCE);
        out.note(format!("{} {gone}", seen.value()));
    })];
    let (gateway, upstream) = acting(ACTS);
    let post = Post::call("hold");
    let mut wire = post.begin(&gateway);
    wire.close_half();
    upstream.noted(&format!("{} true", post.value));
    assert!(wire.at_end(PATIENCE));
    let records = oracle::check(&gateway, &[("up", &upstream)]);
    assert_eq!(oracle::outcome(&records, &post.value)["status"], "cancelled");
}

/// [H1] [H11] Requests that come together are told apart as if they had come one by one, cut anywhere.
#[test]
fn pipelined_requests() {
    let house = House::new();
    let post = house.call();
    let chunked =
        [post.head_bytes(&house.gateway, CHUNKED), chunk(&post.body_bytes()), b"0\r\nx: y\r\n\r\n".to_vec()].concat();
    let empty = format!(
        "DELETE /mcp HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: 4\r\n\r\nGET ",
        house.gateway.address, house.token
    );
    let last = house.call();
    let bytes = [&chunked[..], empty.as_bytes(), &last.bytes(&house.gateway)].concat();
    let step = bytes.len() / 24;
    let mut sent = 0;
    for cut in (1..bytes.len()).step_by(step) {
        let mut wire = Wire::to(house.gateway.address);
        wire.send(&bytes[..cut]);
        std::thread::sleep(Duration::from_millis(2));
        wire.send(&bytes[cut..]);
        post.is_echoed(&wire.response());
        let answer = wire.response();
        assert_eq!(answer.status(), 405);
        // The body of the one that was refused may not have been there: then the connection ends.
        if answer.field("connection") != "close" {
            last.is_echoed(&wire.response());
            sent += 1;
        }
    }
    assert!(sent > 12, "{sent}");
}
