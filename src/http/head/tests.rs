use super::HeadFault::*;
use super::*;
use crate::base::limits::OPENING_BYTES_MAX;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// What was understood of a request, on one line.
fn request_words(head: &RequestHead, bytes: &[u8]) -> String {
    let text = |span: Span| String::from_utf8_lossy(span.of(bytes)).into_owned();
    let words = [
        Some(format!("{} {}", head.method.name(), text(head.path))),
        head.query.map(|query| format!("?{}", text(query))),
        (head.version == Version::Http10).then(|| "1.0".into()),
        Some(text(head.host)),
        (head.framing != Framing::None).then(|| format!("{:?}", head.framing)),
        (!head.keep_alive).then(|| "close".into()),
        head.expect_continue.then(|| "expects".into()),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn response_words(head: &ResponseHead) -> String {
    let close = if head.keep_alive { "" } else { " close" };
    format!("{} {:?}{close}", head.status, head.framing)
}

/// Reads `bytes` as they come in the given lengths; the outcome, everything understood, and where the head ended.
fn request(bytes: &[u8], lengths: impl Iterator<Item = usize>) -> Result<Option<(String, String, usize)>, HeadFault> {
    let mut head = RequestHead::new();
    for length in lengths {
        if head.parse(&bytes[..length])? == Progress::Complete {
            return Ok(Some((request_words(&head, bytes), format!("{:?}", head.fields), head.end)));
        }
    }
    Ok(None)
}

fn response(bytes: &[u8], lengths: impl Iterator<Item = usize>) -> Result<Option<(String, String, usize)>, HeadFault> {
    let mut head = ResponseHead::new();
    for length in lengths {
        if head.parse(&bytes[..length], Method::Post)? == Progress::Complete {
            return Ok(Some((response_words(&head), format!("{:?}", head.fields), head.end)));
        }
    }
    Ok(None)
}

/// What `text` is read as, whole, cut in two at every byte, and byte by byte.
fn read_request(text: &[u8]) -> Result<Option<String>, HeadFault> {
    let whole = request(text, std::iter::once(text.len()));
    for cut in 0..text.len() {
        assert_eq!(request(text, [cut, text.len()].into_iter()), whole, "cut at {cut}");
    }
    assert_eq!(request(text, 0..=text.len()), whole, "byte by byte");
    whole.map(|found| found.map(|found| found.0))
}

fn read_response(text: &[u8]) -> Result<Option<String>, HeadFault> {
    let whole = response(text, std::iter::once(text.len()));
    for cut in 0..text.len() {
        assert_eq!(response(text, [cut, text.len()].into_iter()), whole, "cut at {cut}");
    }
    assert_eq!(response(text, 0..=text.len()), whole, "byte by byte");
    whole.map(|found| found.map(|found| found.0))
}

/// `text` starts with a letter of its own kind: a request, or a response to a POST.
#[track_caller]
fn check(text: impl AsRef<[u8]>, want: Result<&str, HeadFault>) {
    let text = text.as_ref();
    let found = if text.starts_with(b"HTTP/") { read_response(text) } else { read_request(text) };
    let want = want.map(|words| Some(words.to_owned()));
    assert_eq!(found, want, "{:?}", String::from_utf8_lossy(text));
}

/// A POST with these field lines, after its `Host`.
#[track_caller]
fn check_post(fields: &str, want: Result<&str, HeadFault>) {
    let want = want.map(|words| format!("POST /mcp h{words}"));
    check(format!("POST /mcp HTTP/1.1\r\nHost: h\r\n{fields}\r\n"), want.as_deref().map_err(|fault| *fault));
}

#[track_caller]
fn check_get(line: &str, want: Result<&str, HeadFault>) {
    check(format!("{line}\r\nHost: h:1\r\n\r\n"), want);
}

/// [H10] [H11] Request lines, and the forms of target that each method takes.
#[test]
fn request_lines() {
    check_get("GET / HTTP/1.1", Ok("GET / h:1"));
    check_get("DELETE /a?b HTTP/1.0", Ok("DELETE /a ?b 1.0 h:1 close"));
    check_get("get / HTTP/1.1", Ok("OTHER / h:1"));
    check_get("TRACE / HTTP/1.1", Ok("TRACE / h:1"));
    check_get("HEAD / HTTP/1.1", Ok("HEAD / h:1"));
    check_get("OPTIONS * HTTP/1.1", Ok("OPTIONS  h:1"));
    check_get("CONNECT h:1 HTTP/1.1", Ok("CONNECT  h:1 close"));
    check_get("CONNECT g:1 HTTP/1.1", Err(HostDisagrees));
    check_get("GET http://H:1/a HTTP/1.1", Ok("GET /a h:1"));
    check_get("GET http://other/a HTTP/1.1", Err(HostDisagrees));
    check_get("GET http://u@h:1/a HTTP/1.1", Err(HostDisagrees));
    check_get("GET * HTTP/1.1", Err(TargetForm));
    check_get("GET /a/../b HTTP/1.1", Err(PathUnsafe));
    check_get("GET /a#b HTTP/1.1", Err(TargetMalformed));
    check_get("GET  / HTTP/1.1", Err(RequestLineMalformed));
    check_get("GET /a b HTTP/1.1", Err(VersionMalformed));
    check_get("GET / HTTP/1.1 ", Err(VersionMalformed));
    check_get("GET /", Err(RequestLineMalformed));
    check_get("GET", Err(RequestLineMalformed));
    check_get("GET HTTP/1.1", Err(RequestLineMalformed));
    check_get("GET\t/ HTTP/1.1", Err(MethodMalformed));
    check_get("G@T / HTTP/1.1", Err(MethodMalformed));
    check_get(" GET / HTTP/1.1", Err(MethodMalformed));
    check_get("", Err(MethodMalformed));
    check_get("\r\nGET / HTTP/1.1", Err(MethodMalformed));
    check_get("\x16\x03\x01", Err(MethodMalformed));
    check_get("GET / http/1.1", Err(VersionMalformed));
    check_get("GET / HTTP/1", Err(VersionMalformed));
    check_get("GET / HTTP/01.01", Err(VersionMalformed));
    check_get("GET / HTTP/ 1.1", Err(VersionMalformed));
    check_get("GET / HTTP/1.2", Err(VersionUnsupported));
    check_get("PRI * HTTP/2.0", Err(VersionUnsupported));
    check_get("GET /\0 HTTP/1.1", Err(Nul));
    check_get("GET /\x01 HTTP/1.1", Err(ControlByte));
    check_get("GET /\x7f HTTP/1.1", Err(ControlByte));
    check_get("GET / HTTP/1.1\rX: y", Err(BareCr));
    check_get("GET / HTTP/1.1\nX: y", Err(BareLf));
}

/// [H6] [H7] Field lines that two parties could read in two ways.
#[test]
fn field_lines() {
    check_post("", Ok(""));
    check_post("A:\r\nB: \t \r\nC:\td e\t\r\nd!#$%&'*+-.^_`|~9: \u{e9}\r\n", Ok(""));
    check_post("A : b\r\n", Err(SpaceBeforeColon));
    check_post("A\t: b\r\n", Err(SpaceBeforeColon));
    check_post("A b: c\r\n", Err(SpaceBeforeColon));
    check_post(" A: b\r\n", Err(Folded));
    check_post("A: b\r\n c\r\n", Err(Folded));
    check_post("A: b\r\n\tc\r\n", Err(Folded));
    check_post("A: b\r\n \r\n", Err(Folded));
    check_post(": b\r\n", Err(NameEmpty));
    check_post("A\r\n", Err(ColonMissing));
    check_post("A[: b\r\n", Err(NameMalformed));
    check_post("caf\u{e9}: b\r\n", Err(NameMalformed));
    check_post("A\x0b: b\r\n", Err(NameMalformed));
    check_post("A\0: b\r\n", Err(Nul));
    check_post("A: b\0\r\n", Err(Nul));
    check_post("A: \x08b\r\n", Err(ControlByte));
    check_post("A: b\x7f\r\n", Err(ControlByte));
    check_post("A: b\rc\r\n", Err(BareCr));
    check_post("A: b\r\r\n", Err(BareCr));
    check_post("A: b\nC: d\r\n", Err(BareLf));
    check_post("A\n: b\r\n", Err(BareLf));
    check_post("\n", Err(BareLf));
    check_post("\rA: b\r\n", Err(BareCr));
}

/// [H10] Exactly one valid `Host`, whatever the version.
#[test]
fn hosts() {
    check("GET / HTTP/1.1\r\n\r\n", Err(HostMissing));
    check("GET / HTTP/1.0\r\n\r\n", Err(HostMissing));
    check("GET / HTTP/1.1\r\nHost:\r\n\r\n", Err(HostMalformed));
    check("GET / HTTP/1.1\r\nHost: h, g\r\n\r\n", Err(HostMalformed));
    check("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", Err(HostMalformed));
    check("GET / HTTP/1.1\r\nHost: h/p\r\n\r\n", Err(HostMalformed));
    check("GET / HTTP/1.1\r\nHost: \t[::1]:80 \r\n\r\n", Ok("GET / [::1]:80"));
    check_post("hOST: h\r\n", Err(HostRepeated));
}

/// [H1] [H2] [H3] [H4] [H5] Where a request's body ends is said once and plainly, or the head is refused.
#[test]
fn request_framing() {
    check_post("Content-Length: 0\r\n", Ok(" Length(0)"));
    check_post("CONTENT-LENGTH:  12 \r\n", Ok(" Length(12)"));
    check_post("Content-Length:12\r\n", Ok(" Length(12)"));
    check_post("content-length: 9999999999999999999\r\n", Ok(" Length(9999999999999999999)"));
    check_post("Transfer-Encoding: Chunked\r\n", Ok(" Chunked"));
    check_post("Transfer-Encoding:chunked  \r\n", Ok(" Chunked"));
    for (before, behind) in [("\t", ""), (" \t", ""), ("\t ", ""), (" ", "\t"), (" ", " \t "), (" ", "\t ")] {
        check_post(&format!("Content-Length:{before}12{behind}\r\n"), Err(LengthMalformed));
        check_post(&format!("Transfer-Encoding:{before}chunked{behind}\r\n"), Err(CodingRefused));
    }
    for length in ["", "+5", "-0", "0x5", "1_0", "5 5", "5, 5", "5,", "a", "10000000000000000000", "\u{665}"] {
        check_post(&format!("Content-Length: {length}\r\n"), Err(LengthMalformed));
    }
    check_post("Content-Length: 5\r\nContent-Length: 5\r\n", Err(LengthRepeated));
    check_post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(BothLengths));
    check_post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(BothLengths));
    for coding in [
        "",
        "identity",
        "gzip",
        "xchunked",
        "chunkedx",
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        ", chunked",
        "chunked,",
        "\"chunked\"",
        "chunked;a=b",
        "chunk ed",
    ] {
        check_post(&format!("Transfer-Encoding: {coding}\r\n"), Err(CodingRefused));
    }
    check_post("Transfer-Encoding: \x0bchunked\r\n", Err(ControlByte));
    check_post("Transfer-Encoding: chunked\0\r\n", Err(Nul));
    check_post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(CodingRefused));
    check_post("Transfer-Encoding:\r\n chunked\r\n", Err(Folded));
    check("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", Err(CodingInHttp10));
    // Names that only look like those two mean nothing.
    check_post("Content_Length: 5\r\nTransfer_Encoding: chunked\r\nX-Content-Length: 5\r\n", Ok(""));
}

/// [H17] `Connection` ends the connection, and removes nothing that a client may not have removed.
#[test]
fn connections() {
    check_post("Connection: keep-alive\r\n", Ok(""));
    check_post("Connection: Close\r\n", Ok(" close"));
    check_post("Connection: keep-alive\r\nConnection: x,, close\r\n", Ok(" close"));
    check_post("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n", Ok(""));
    check_post("Connection:\r\n", Ok(""));
    check("GET / HTTP/1.0\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n", Ok("GET / 1.0 h close"));
    check("GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive, close\r\n\r\n", Ok("GET / 1.0 h close"));
    check_post("Connection: a b\r\n", Err(ConnectionMalformed));
    check_post("Connection: close; x\r\n", Err(ConnectionMalformed));
    for name in [
        "Authorization",
        "HOST",
        "mcp-session-id",
        "Mcp-Name",
        "Mcp-Param-Region",
        "Mcp-Anything",
        "Content-Type",
        "Origin",
        "Content-Length",
        "Transfer-Encoding",
        "Portcullis-Task",
        "traceparent",
    ] {
        check_post(&format!("Connection: close,\t{name}\r\n"), Err(ConnectionProtected));
    }
}

/// [H13] The one expectation, and the others.
#[test]
fn expectations() {
    check_post("Expect: 100-Continue\r\nContent-Length: 5\r\n", Ok(" Length(5) expects"));
    check_post("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", Ok(" Chunked expects"));
    check_post("Expect: 100-continue\r\nContent-Length: 0\r\n", Ok(" Length(0)"));
    check_post("Expect: 100-continue\r\n", Ok(""));
    check(
        "POST / HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        Ok("POST / 1.0 h Length(5) close"),
    );
    check_post("Expect: 200-ok\r\n", Err(ExpectationUnknown));
    check_post("Expect:\r\n", Err(ExpectationUnknown));
    check_post("Expect: 100-continue\r\nExpect: x\r\n", Err(ExpectationUnknown));
}

/// [H16] Answers of servers are read as strictly.
#[test]
fn responses() {
    check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Ok("200 Length(3)"));
    check("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Ok("200 Chunked"));
    check("HTTP/1.1 599 \u{e9}\r\n\r\n", Ok("599 UntilClose close"));
    check("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Ok("200 Length(3) close"));
    check("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n", Ok("200 Length(3)"));
    check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", Ok("200 Length(3) close"));
    check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok("100 None"));
    check("HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n", Ok("204 None"));
    check("HTTP/1.1 304 \r\nContent-Length: 7\r\n\r\n", Ok("304 None"));
    check("HTTP/1.1 204 \r\nContent-Length: 1\r\n\r\n", Err(BodyForbidden));
    check("HTTP/1.1 103 \r\nTransfer-Encoding: chunked\r\n\r\n", Err(BodyForbidden));
    check("HTTP/1.1 101 Switching Protocols\r\n\r\n", Err(StatusRefused));
    check("HTTP/1.1 099 x\r\n\r\n", Err(StatusRefused));
    check("HTTP/1.1 600 x\r\n\r\n", Err(StatusRefused));
    for line in
        ["HTTP/1.1", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1  200", "HTTP/1.1 2x0 OK", "HTTP/1.1 200\tOK"]
    {
        check(format!("{line}\r\n\r\n"), Err(StatusLineMalformed));
    }
    check("HTTP/2.0 200 OK\r\n\r\n", Err(VersionUnsupported));
    check("HTTP/1.10200 OK\r\n\r\n", Err(StatusLineMalformed));
    check("HTTP/1.1 200 OK\n\r\n", Err(BareLf));
    check("HTTP/1.1 200 OK\r\nA: b\n\r\n", Err(BareLf));
    check("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Err(Folded));
    check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Err(LengthRepeated));
    check("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n", Err(LengthMalformed));
    check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Err(BothLengths));
    check("HTTP/1.1 304 \r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Err(BothLengths));
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(CodingRefused));
    check("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err(CodingInHttp10));
    check("HTTP/1.1 200 OK\r\nConnection: mcp-session-id\r\n\r\n", Err(ConnectionProtected));
    assert_eq!(response(b"ICY 200 OK\r\n\r\n", [14].into_iter()), Err(VersionMalformed));

    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    let mut head = ResponseHead::new();
    assert_eq!(head.parse(text, Method::Head), Ok(Progress::Complete));
    assert_eq!((head.framing, head.keep_alive, head.is_interim()), (Framing::None, true, false));
}

/// [H18] To the byte, however the head comes.
#[test]
fn bounds() {
    let whole = |text: &str| request(text.as_bytes(), std::iter::once(text.len())).map(|found| found.is_some());
    let stepped = |text: &str| request(text.as_bytes(), 0..=text.len()).map(|found| found.is_some());
    let both = |text: String, want: Result<bool, HeadFault>| {
        assert_eq!(whole(&text), want);
        assert_eq!(stepped(&text), want);
    };
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(length - 1));
    both(target(7_901), Ok(true));
    both(target(FIELD_VALUE_BYTES_MAX), Ok(true));
    both(target(FIELD_VALUE_BYTES_MAX + 1), Err(TargetTooLong));
    both(target(100_000), Err(TargetTooLong));
    both("A".repeat(100_000), Err(MethodMalformed));

    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    both(post(&"a: b\r\n".repeat(HEAD_FIELDS_MAX - 1)), Ok(true));
    both(post(&"a: b\r\n".repeat(HEAD_FIELDS_MAX)), Err(FieldsTooMany));
    both(post(&format!("a: {}\r\n", "b".repeat(FIELD_VALUE_BYTES_MAX))), Ok(true));
    both(post(&format!("a: {}\r\n", "b".repeat(FIELD_VALUE_BYTES_MAX + 1))), Err(ValueTooLong));
    both(post(&format!("a: {}\r\n", "b".repeat(100_000))), Err(HeadTooLong));
    both(post(&format!("{}: b\r\n", "a".repeat(100_000))), Err(HeadTooLong));

    // To the byte, whatever byte the bound falls on.
    let filler = |length: usize| {
        let one = format!("a: {}\r\n", "b".repeat(8_000)).repeat(2);
        let rest = length - post(&one).len() - "a: \r\n".len();
        post(&format!("{one}a: {}\r\n", "b".repeat(rest)))
    };
    for over in 0..6 {
        let text = filler(HEAD_BYTES_MAX + over);
        assert_eq!(text.len(), HEAD_BYTES_MAX + over);
        both(text, if over == 0 { Ok(true) } else { Err(HeadTooLong) });
    }
}

#[test]
fn one_head_reads_many() {
    let mut head = RequestHead::new();
    let first = b"POST /a?b HTTP/1.1\r\nHost: h\r\nMcp-Name: n\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let second = b"GET /c HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n";
    for _ in 0..3 {
        assert_eq!(head.parse(&first[..30]), Ok(Progress::Partial));
        assert_eq!(head.parse(first), Ok(Progress::Complete));
        assert_eq!(request_words(&head, first), "POST /a ?b h Length(5) expects");
        assert_eq!(head.parse(b"GET / HTTP/1.1\r\nHost: h\r\nno"), Ok(Progress::Partial));
        assert_eq!(head.parse(b"GET / HTTP/1.1\r\nHost: h\r\nno\r\n"), Err(ColonMissing));
        assert_eq!(head.parse(b"HEAD http://h/ HTTP/1.1\r\nHost: g\r\n\r\n"), Err(HostDisagrees));
        assert_eq!(head.method, Method::Head);
        assert_eq!(head.parse(b"G@T / HTTP/1.1\r\n"), Err(MethodMalformed));
        assert_eq!(head.method, Method::Get, "not the one before it");
        assert_eq!(head.parse(second), Ok(Progress::Complete));
        assert_eq!(request_words(&head, second), "GET /c g close");
        assert_eq!(head.get(second, Known::McpName), None);
    }
}

#[test]
fn fields_by_name() {
    let text = b"POST / HTTP/1.1\r\nHost: h\r\nMcp-Name: a\r\nMCP-PARAM-Region: eu\r\nmcp-name: b\r\nMcp-Param-N: \r\n\
        Connection: X-One\r\nX-One: 1\r\nKeep-Alive: 5\r\n\r\n";
    let mut head = RequestHead::new();
    assert_eq!(head.parse(text), Ok(Progress::Complete));
    assert_eq!(head.get(text, Known::McpName), Some(&b"a"[..]));
    assert_eq!(head.all(text, Known::McpName).collect::<Vec<_>>(), [b"a", b"b"]);
    assert_eq!((head.count(Known::McpName), head.count(Known::Host), head.count(Known::Origin)), (2, 1, 0));
    assert_eq!(head.get(text, Known::Origin), None);
    assert_eq!(head.all(text, Known::Origin).count(), 0);
    assert_eq!(head.params(text).collect::<Vec<_>>(), [(&b"Region"[..], &b"eu"[..]), (b"N", b"")]);
    let hops = head.fields.iter().filter(|field| head.fields.is_hop_by_hop(text, field));
    let names: Vec<_> = hops.map(|field| std::str::from_utf8(field.name.of(text)).unwrap()).collect();
    assert_eq!(names, ["Connection", "X-One", "Keep-Alive"]);
    assert_eq!(head.fields[3].name.of(text), b"mcp-name");
}

fn bytes_of_heads() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        &b"GET / HTTP/1.1\r\n"[..],
        b"HTTP/1.1 200 OK\r\n",
        b"Host: h\r\n",
        b"Content-Length: 5\r\n",
        b"A: b\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection",
        b"Expect: 100-continue\r\n",
        b": ",
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"a",
        b",",
        b"\x7f",
        b"\xff",
        b"GET ",
        b"/",
        b"HTTP/1.1",
        b"\r\n\r\n",
    ]);
    prop_oneof![
        1 => prop::collection::vec(word.clone(), 0..20).prop_map(|words| words.concat()),
        3 => (any::<bool>(), prop::collection::vec(word, 0..12)).prop_map(|(request, words)| {
            let line = if request { &b"POST /mcp HTTP/1.1\r\nHost: h\r\n"[..] } else { b"HTTP/1.1 200 OK\r\n" };
            [line, &words.concat(), b"\r\n\r\n"].concat()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// [H1] [H2] [H3] [H4] [H5] [H6] [H7] [H10] [H16] A head means the same however it is cut, byte by byte too.
    #[test]
    fn a_cut_anywhere_changes_nothing(bytes in bytes_of_heads()) {
        // Both compare the cut readings with the whole one.
        let _ = read_request(&bytes);
        let _ = read_response(&bytes);
    }

    /// [H1] [H2] [H5] [H7] Nothing that is accepted holds a stray line break or a second length, and no request's body
    /// goes on until the connection ends.
    #[test]
    fn what_is_accepted_is_as_strict_as_it_says(bytes in bytes_of_heads()) {
        let mut head = RequestHead::new();
        if head.parse(&bytes) == Ok(Progress::Complete) {
            let text = &bytes[..head.end];
            prop_assert!(text.ends_with(b"\r\n\r\n"));
            for (at, byte) in text.iter().enumerate() {
                match byte {
                    b'\r' => prop_assert_eq!(text.get(at + 1), Some(&b'\n')),
                    b'\n' => prop_assert_eq!(text.get(at.wrapping_sub(1)), Some(&b'\r')),
                    _ => prop_assert!(*byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)),
                }
            }
            let both = head.count(Known::ContentLength) + head.count(Known::TransferEncoding);
            prop_assert!(both <= 1 && head.count(Known::Host) == 1);
            prop_assert_eq!(both == 0, head.framing == Framing::None);
            prop_assert!(head.framing != Framing::UntilClose);
        }
    }
}

/// What a connection's requests have in common is not read again: each is understood as if it came alone.
#[test]
fn a_head_is_read_as_if_it_came_alone() {
    let lines = [
        "POST /mcp HTTP/1.1",
        "POST /mcp?a HTTP/1.1",
        "GET / HTTP/1.0",
        "GET http://h/ HTTP/1.1",
        "Host: h",
        "Host:h:80 ",
        "Host: h:x",
        "Authorization: Bearer a",
        "Authorization: Bearer b",
        "X-Any: 1",
        "X-Any: 2",
        "Connection: close",
        "Content-Length: 2",
        "Content-Length: 10",
        "Mcp-Name: echo",
        "Transfer-Encoding: chunked",
        "Folded:\r\n 1",
        "bad",
    ];
    // Most lines stay what they were, so that there is something to know again.
    let line = (0..12_usize, 0..lines.len());
    let script = proptest::collection::vec((proptest::collection::vec(line, 0..3), any::<u16>()), 1..24);
    let mut seen = (0, 0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..400 {
        let steps = script.new_tree(&mut runner).unwrap().current();
        let mut text: Vec<&str> = vec![lines[0], lines[4], lines[7], lines[9], lines[12]];
        let mut head = RequestHead::new();
        for (changes, cut) in steps {
            let before = text.clone();
            for (place, line) in changes {
                match text.get_mut(place) {
                    Some(old) if (line < 4) == (place == 0) => *old = lines[line],
                    None if line >= 4 => text.push(lines[line]),
                    _ => {}
                }
            }
            let bytes = format!("{}\r\n\r\n{{}}", text.join("\r\n")).into_bytes();
            let alone = request(&bytes, std::iter::once(bytes.len()));
            // In two pieces: what has come at first may be less than what is known.
            let cut = usize::from(cut) % (2 * bytes.len());
            let known = head.opening.bytes().to_vec();
            let first = if cut < bytes.len() { head.parse(&bytes[..cut]) } else { Ok(Progress::Partial) };
            let outcome = if first == Ok(Progress::Partial) { head.parse(&bytes) } else { first };
            seen.0 += usize::from(!known.is_empty() && bytes.starts_with(&known));
            seen.1 += usize::from(!known.is_empty() && !bytes.starts_with(&known));
            let words = outcome.map(|progress| {
                assert_eq!(progress, Progress::Complete);
                Some((request_words(&head, &bytes), format!("{:?}", head.fields), head.end))
            });
            assert_eq!(words, alone, "{}", String::from_utf8_lossy(&bytes));
            if outcome.is_err() {
                text = before;
            }
        }
    }
    assert!(seen.0 > 500 && seen.1 > 100, "{seen:?}: known again too seldom to show anything");
}

/// The same of answers: those of other servers come in between, with other lines, and wrong ones.
#[test]
fn an_answers_head_is_read_as_if_it_came_alone() {
    let lines = [
        "HTTP/1.1 200 OK",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 103 Early Hints",
        "HTTP/1.1 404 ",
        "HTTP/1.1 999 ",
        "Date: Sat, 22 Nov 2026 08:24:00 GMT",
        "Date: Sat, 22 Nov 2026 08:24:01 GMT",
        "Server: a",
        "Content-Type: application/json",
        "Content-Length: 2",
        "Content-Length: 3",
        "Connection: close",
        "bad\u{0}",
    ];
    let line = (0..8_usize, 0..lines.len());
    let script = proptest::collection::vec(proptest::collection::vec(line, 0..2), 1..24);
    let (mut known_again, mut wrong) = (0, 0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..400 {
        let mut text: Vec<&str> = vec![lines[0], lines[5], lines[8]];
        let mut head = ResponseHead::new();
        for changes in script.new_tree(&mut runner).unwrap().current() {
            let before = text.clone();
            for (place, line) in changes {
                match text.get_mut(place) {
                    Some(old) if (line < 5) == (place == 0) => *old = lines[line],
                    None if line >= 5 => text.push(lines[line]),
                    _ => {}
                }
            }
            let bytes = format!("{}\r\n\r\n{{}}", text.join("\r\n")).into_bytes();
            known_again += usize::from(!head.opening.bytes().is_empty() && bytes.starts_with(head.opening.bytes()));
            let words = head.parse(&bytes, Method::Post).map(|progress| {
                assert_eq!(progress, Progress::Complete);
                Some((response_words(&head), format!("{:?}", head.fields), head.end))
            });
            assert_eq!(words, response(&bytes, std::iter::once(bytes.len())), "{}", String::from_utf8_lossy(&bytes));
            if words.is_err() {
                (text, wrong) = (before, wrong + 1);
            }
        }
    }
    assert!(known_again > 500 && wrong > 20, "{known_again} known again, {wrong} wrong: too few to show anything");
}

/// Only what stays the same is kept: not what differs in each request, and not the line that a client numbers.
#[test]
fn what_is_kept_of_a_head() {
    let post = |fields: &str| format!("POST /mcp HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let check = |heads: &[String], want: &str| {
        let mut head = RequestHead::new();
        for text in heads {
            assert_eq!(head.parse(text.as_bytes()), Ok(Progress::Complete));
        }
        assert_eq!(String::from_utf8_lossy(head.opening.bytes()), want, "{heads:?}");
        assert_eq!(format!("{:?}", head.opening), format!("Opening({})", want.len()), "no secret in a log");
    };
    let usual = post("Accept: a\r\nContent-Length: 2\r\nX: y\r\n");
    let opening = "POST /mcp HTTP/1.1\r\nHost: h\r\nAccept: a\r\n";
    check(std::slice::from_ref(&usual), "");
    check(&[usual.clone(), usual.clone()], opening);
    check(&[usual.clone(), usual.clone(), post("Accept: a\r\nContent-Length: 3\r\n")], opening);
    // Numbered: after some of them only what stands before.
    let numbered: Vec<String> = (0..4).map(|number| post(&format!("X-Id: {number}\r\nAccept: a\r\n"))).collect();
    check(&numbered, "POST /mcp HTTP/1.1\r\nHost: h\r\n");
    // A new token is another opening; one head of another kind in between changes nothing for good.
    let token = |token: &str| post(&format!("Authorization: {token}\r\n"));
    let refreshed = token("b").replace("\r\n\r\n", "\r\n");
    check(&[token("a"), token("a"), token("a"), token("b"), token("b")], &refreshed);
    // What is never the same is not kept any more, and neither is what is too long.
    let paths: Vec<String> = (0..20).map(|path| format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    check(&paths, "");
    let long = post(&format!("X: {}\r\n", "a".repeat(OPENING_BYTES_MAX)));
    check(&[long.clone(), long], "POST /mcp HTTP/1.1\r\nHost: h\r\n");
}
