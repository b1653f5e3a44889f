//! The room as a whole: tables, other people's files, and other parsers as oracles.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::*;
use crate::base::limits::{DEPTH_MAX, MEMBER_NAME_BYTES_MAX, MEMBERS_MAX, MEMBERS_RECORDED_MAX};

/// What the reader says of `input`; however it is cut, it says the same, and so does the answer scan.
fn check(input: impl AsRef<[u8]>, want: Result<Shape, ScanFault>) {
    let input = input.as_ref();
    let got = read(input).map(|envelope| envelope.shape);
    assert_eq!(got, want, "{}", String::from_utf8_lossy(input));
    agrees_in_pieces(input);
}

fn agrees_in_pieces(input: &[u8]) {
    let mut reader = Reader::new(7);
    let told = |reader: &mut Reader, pieces: &[&[u8]]| {
        let read = reader.read_pieces(input, pieces.iter().copied()).map(|envelope| format!("{envelope:?}"));
        (read, reader.id(), reader.position())
    };
    let scanned = |pieces: &[&[u8]]| {
        let mut scan = AnswerScan::new(7);
        let fed = pieces.iter().try_for_each(|piece| scan.feed(piece));
        (fed.and_then(|()| scan.finish()), scan.id().map(<[u8]>::to_vec), scan.id_place(), scan.position())
    };
    let (whole, answer) = (told(&mut reader, &[input]), scanned(&[input]));
    // The quick way, which takes whole messages only.
    let quick = reader.read(input).map(|envelope| format!("{envelope:?}"));
    assert_eq!((quick, reader.id(), reader.position()), whole);
    let mut scan = AnswerScan::new(7);
    let quick = scan.read(input);
    assert_eq!((quick, scan.id().map(<[u8]>::to_vec), scan.id_place(), scan.position()), answer);
    if let (Ok(_), Ok(answer)) = (&whole.0, &answer.0) {
        let envelope = read(input).unwrap();
        assert_eq!(answer.shape, envelope.shape);
        assert_eq!(answer.id.as_deref(), envelope.id.map(|id| id.raw(input)));
        assert_eq!(answer.error_code, envelope.error_code(input));
        assert_eq!(answer.is_error, envelope.result(input, "isError").is_some_and(|is| is.kind == Kind::True));
        assert_eq!(answer.result_type == ResultType::Absent, envelope.result(input, "resultType").is_none());
    }
    if let Some(place) = &answer.2 {
        let place = usize::try_from(place.start).unwrap()..usize::try_from(place.end).unwrap();
        assert_eq!(answer.1.as_deref(), Some(&input[place]));
    }
    let cuts = (0..=input.len()).map(|cut| vec![&input[..cut], &input[cut..]]);
    for pieces in cuts.chain([input.chunks(1).collect(), input.chunks(3).collect()]) {
        assert_eq!(told(&mut reader, &pieces), whole, "{pieces:?}");
        assert_eq!(scanned(&pieces), answer, "{pieces:?}");
    }
}

/// A call with these arguments.
pub(super) fn call(arguments: &[u8]) -> Vec<u8> {
    let head = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":"#;
    [head, arguments, b"}}"].concat()
}

/// The four messages, and what is none of them.
#[test]
fn shapes() {
    check(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Ok(Shape::Request));
    check(r#" {"method":"ping","params":{},"id":"a","jsonrpc":"2.0"} "#, Ok(Shape::Request));
    check(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Ok(Shape::Notification));
    check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Ok(Shape::Result));
    check(r#"{"jsonrpc":"2.0","result":{"isError":true,"resultType":"input_required"},"id":1}"#, Ok(Shape::Result));
    check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}"#, Ok(Shape::Error));
    check(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#, Ok(Shape::Error));
    check(r#"{"jsonrpc":"2.0","error":{}}"#, Ok(Shape::Error));
    check(r#"{"jsonrpc":"2.0","id":1,"method":"x","other":[1]}"#, Ok(Shape::Request));

    check(r#"{"jsonrpc":"2.0","id":1}"#, Err(ScanFault::ShapeUnclear));
    check(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, Err(ScanFault::ShapeUnclear));
    check(r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#, Err(ScanFault::ShapeUnclear));
    check(r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{}}"#, Err(ScanFault::ShapeUnclear));
    check(r#"{"jsonrpc":"2.0","result":{}}"#, Err(ScanFault::ShapeUnclear));
    check(r#"{"id":1,"method":"x"}"#, Err(ScanFault::WrongVersion));
    check(r#"{"jsonrpc":2.0,"id":1,"method":"x"}"#, Err(ScanFault::WrongVersion));
    check(r#"{"jsonrpc":"2\u002e0","id":1,"method":"x"}"#, Err(ScanFault::WrongVersion));
    check(r#"{"jsonrpc":"2.0","id":1,"method":7}"#, Err(ScanFault::MethodInvalid));
    check(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[]}"#, Err(ScanFault::BodyInvalid));
    check(r#"{"jsonrpc":"2.0","id":1,"result":null}"#, Err(ScanFault::BodyInvalid));
    check(r#"{"jsonrpc":"2.0","id":1,"error":"no"}"#, Err(ScanFault::BodyInvalid));
    check("{}", Err(ScanFault::WrongVersion));
}

/// [E5] Strings and integers of any size are ids; null, fractions and all else are not.
#[test]
fn ids() {
    for (id, want) in [
        ("0", Ok(Shape::Request)),
        ("-7", Ok(Shape::Request)),
        ("9007199254740993", Ok(Shape::Request)),
        ("123456789012345678901234567890", Ok(Shape::Request)),
        (r#""""#, Ok(Shape::Request)),
        (r#""\u0000\"é""#, Ok(Shape::Request)),
        ("null", Err(ScanFault::IdInvalid)),
        ("1.0", Err(ScanFault::IdInvalid)),
        ("1e3", Err(ScanFault::IdInvalid)),
        ("true", Err(ScanFault::IdInvalid)),
        ("[1]", Err(ScanFault::IdInvalid)),
        (r#"{"id":1}"#, Err(ScanFault::IdInvalid)),
    ] {
        check(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x"}}"#), want);
    }
    let long = "1".repeat(300);
    check(format!(r#"{{"jsonrpc":"2.0","id":{long},"method":"x"}}"#), Err(ScanFault::IdTooLong));
    check(format!(r#"{{"jsonrpc":"2.0","id":"{long}","result":{{}}}}"#), Err(ScanFault::IdTooLong));
    check(format!(r#"{{"jsonrpc":"2.0","id":{long}.5,"result":{{}}}}"#), Err(ScanFault::IdTooLong));
}

/// [E1] [E4] [E6] Not UTF-8, a byte order mark, a control character, half a surrogate pair, an array of messages: each is
/// refused under its own name.
#[test]
fn faults_of_grammar() {
    use ScanFault as F;
    for (input, want) in [
        ("", F::Incomplete),
        ("   ", F::Incomplete),
        ("{", F::Incomplete),
        ("\u{feff}{}", F::ByteOrderMark),
        (" \u{feff}{}", F::Syntax),
        ("[]", F::Batch),
        (r#"[{"jsonrpc":"2.0"}]"#, F::Batch),
        ("1", F::NotObject),
        ("\"a\"", F::NotObject),
        ("null", F::NotObject),
        ("}", F::Syntax),
        ("{}}", F::TrailingBytes),
        ("{}{}", F::TrailingBytes),
        ("{} x", F::TrailingBytes),
        ("{}\0", F::TrailingBytes),
        ("{,}", F::Syntax),
        ("{1:2}", F::Syntax),
        (r#"{"a"}"#, F::Syntax),
        (r#"{"a":}"#, F::Syntax),
        (r#"{"a":1,}"#, F::Syntax),
        (r#"{"a":1 "b":2}"#, F::Syntax),
        (r#"{"a":[1,]}"#, F::Syntax),
        (r#"{"a":[1}}"#, F::Syntax),
        (r#"{"a":{"b":1]}"#, F::Syntax),
        (r#"{"a":tru}"#, F::Syntax),
        (r#"{"a":nulll}"#, F::Syntax),
        (r#"{"a":01}"#, F::BadNumber),
        (r#"{"a":-}"#, F::BadNumber),
        (r#"{"a":1.}"#, F::BadNumber),
        (r#"{"a":1.e1}"#, F::BadNumber),
        (r#"{"a":1e}"#, F::BadNumber),
        (r#"{"a":+1}"#, F::Syntax),
        (r#"{"a":1.1.1}"#, F::Syntax),
        ("{\"a\":\"\n\"}", F::ControlCharacter),
        ("{\"a\u{1}\":1}", F::ControlCharacter),
        (r#"{"a":"\x"}"#, F::BadEscape),
        (r#"{"a":"\u12g4"}"#, F::BadEscape),
        (r#"{"a":"\ud800"}"#, F::LoneSurrogate),
        (r#"{"a":"\ud800\u0041"}"#, F::LoneSurrogate),
        (r#"{"a":"\udc00"}"#, F::LoneSurrogate),
        (r#"{"\ud800":1}"#, F::LoneSurrogate),
    ] {
        check(input, Err(want));
        assert_eq!(want.code(), if want.is_grammar() { -32700 } else { -32600 });
    }
    for bad in [&b"\x80"[..], b"\xc0\xaf", b"\xc3(", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8", b"\xe2\x82"] {
        check(call(&[b"\"", bad, b"\""].concat()), Err(F::InvalidUtf8));
        check(call(&[b"{\"", bad, b"\":1}"].concat()), Err(F::InvalidUtf8));
    }
}

/// [E2] [E3] No name twice after unescaping, in the envelope, `params`, `_meta` or deeper; none that differs from a
/// known one only in case.
#[test]
fn names_are_unique_and_plain() {
    use ScanFault as F;
    check(call(br#"{"a":1,"b":{"a":1},"c":[{"a":1},{"a":2}]}"#), Ok(Shape::Request));
    check(call(br#"{"a":1,"a":2}"#), Err(F::DuplicateName));
    check(call(br#"{"a":1,"\u0061":2}"#), Err(F::DuplicateName));
    check(call(br#"[{"":1,"b":{},"":2}]"#), Err(F::DuplicateName));
    check(call("{\"é\":1,\"\\u00e9\":2}".as_bytes()), Err(F::DuplicateName));
    check(call("{\"\u{1d11e}\":1,\"\\ud834\\udd1e\":2}".as_bytes()), Err(F::DuplicateName));
    check(call(br#"{"Name":1,"\u006eame":2,"name\/":3}"#), Ok(Shape::Request));
    check(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#, Err(F::DuplicateName));

    for (members, want) in [
        (r#""method":"x","Method":"y""#, Err(F::CaseTwin)),
        (r#""method":"x","PARAMS":{}"#, Err(F::CaseTwin)),
        (r#""method":"x","params":{"Name":"y"}"#, Err(F::CaseTwin)),
        (r#""method":"x","params":{"name":"x","ARGUMENTS":{}}"#, Err(F::CaseTwin)),
        (r#""method":"x","params":{"argument\u017f":{}}"#, Err(F::EscapedName)),
        ("\"method\":\"x\",\"params\":{\"argument\u{17f}\":{}}", Err(F::CaseTwin)),
        ("\"method\":\"x\",\"params\":{\"tas\u{212a}\":{}}", Err(F::CaseTwin)),
        ("\"method\":\"x\",\"params\":{\"näme\":{}}", Ok(Shape::Request)),
        (r#""method":"x","params":{"other":1,"names":1}"#, Ok(Shape::Request)),
        (r#""m\u0065thod":"x""#, Err(F::EscapedName)),
        (r#""method":"x","params":{"n\u0061me":1}"#, Err(F::EscapedName)),
        (r#""method":"x","params":{"_meta":{"\u0061":1}}"#, Err(F::EscapedName)),
        (r#""method":"x","params":{"_meta":{"a\/b":1}}"#, Ok(Shape::Request)),
        (r#""method":"tools\/call""#, Ok(Shape::Request)),
        (r#""method":"tools\u002fcall""#, Err(F::MethodInvalid)),
        (r#""method":"x\n""#, Err(F::MethodInvalid)),
        (r#""result":{"\u0069sError":true,"Content":1}"#, Ok(Shape::Result)),
        (r#""error":{"\u0063ode":1}"#, Ok(Shape::Error)),
    ] {
        let input = format!(r#"{{"jsonrpc":"2.0","id":1,{members}}}"#);
        assert_eq!(read(input.as_bytes()).map(|envelope| envelope.shape), want, "{input}");
        agrees_in_pieces(input.as_bytes());
    }
}

/// [E1] Depth, members, names: the bound is accepted, one more is not.
#[test]
fn bounds() {
    let mut reader = Reader::new(3);
    let mut verdict = |input: Vec<u8>| reader.read(&input).map(|envelope| envelope.shape);
    let nested = |depth: usize| call(format!("{}{}", "[".repeat(depth), "]".repeat(depth)).as_bytes());
    assert_eq!(verdict(nested(DEPTH_MAX - 2)), Ok(Shape::Request));
    assert_eq!(verdict(nested(DEPTH_MAX - 1)), Err(ScanFault::TooDeep));

    let members =
        |from: usize, many: usize| (from..from + many).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",");
    let object = |many| call(format!("{{{}}}", members(0, many)).as_bytes());
    // Six are the call's own.
    assert_eq!(verdict(object(MEMBERS_MAX - 6)), Ok(Shape::Request));
    assert_eq!(verdict(object(MEMBERS_MAX - 5)), Err(ScanFault::TooManyMembers));
    for twice in [0, 1, 15, 16, 17, 500, 999] {
        let input = format!("{{{},\"k{twice}\":2}}", members(0, 1000));
        assert_eq!(verdict(call(input.as_bytes())), Err(ScanFault::DuplicateName));
    }

    let params = |many| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{{}}}}}"#, members(0, many));
    assert_eq!(verdict(params(MEMBERS_RECORDED_MAX).into_bytes()), Ok(Shape::Request));
    check(params(MEMBERS_RECORDED_MAX + 1), Err(ScanFault::TooManyRecorded));

    let named = |length: usize| call(format!(r#"{{"{}":1}}"#, "n".repeat(length)).as_bytes());
    assert_eq!(verdict(named(MEMBER_NAME_BYTES_MAX)), Ok(Shape::Request));
    assert_eq!(verdict(named(MEMBER_NAME_BYTES_MAX + 1)), Err(ScanFault::NameTooLong));
    let long = named(MEMBER_NAME_BYTES_MAX + 100);
    let mut scan = AnswerScan::new(0);
    assert_eq!(long.chunks(100).try_for_each(|piece| scan.feed(piece)), Err(ScanFault::NameTooLong));
    reader.read(&long).unwrap_err();
    assert_eq!(scan.position(), reader.position());

    // A long answer may have any number of members, but not open at once.
    let rows = |many: usize| vec!["{\"a\":1,\"b\":2}"; many].join(",");
    let answer = |inside: &str| format!(r#"{{"jsonrpc":"2.0","result":{{"rows":{inside}}},"id":1}}"#);
    assert!(answer_of(answer(&format!("[{}]", rows(50_000))).as_bytes()).is_ok());
    assert!(answer_of(answer(&format!("{{{}}}", members(0, 50_000))).as_bytes()).is_ok());
    let much = answer(&format!("{{{}}}", members(0, 70_000)));
    assert_eq!(answer_of(much.as_bytes()), Err(ScanFault::TooManyMembers));
}

/// [E1] Shown by how far it read, which no busy machine changes.
#[test]
fn deep_messages_are_refused_at_their_front() {
    let cases = [
        ("[".repeat(100_000).into_bytes(), ScanFault::Batch),
        (call("[".repeat(100_000).as_bytes()), ScanFault::TooDeep),
        (call("{\"a\":".repeat(100_000).as_bytes()), ScanFault::TooDeep),
    ];
    for (input, want) in cases {
        let mut reader = Reader::new(0);
        assert_eq!(reader.read(&input).unwrap_err(), want);
        assert!(reader.position() < 1000, "all but the front of {} bytes is left unread", input.len());
    }
}

/// [E5] What is answered to a refused message carries its id as it was written.
#[test]
fn the_id_is_read_even_of_a_refused_message() {
    for (input, want) in [
        (r#"{"jsonrpc":"2.0","Method":"x","id":7}"#, Some("7")),
        (r#"{"jsonrpc":"1.0","id":"a","method":"x"}"#, Some("\"a\"")),
        (r#"{"id":8,"jsonrpc":"2.0","method":"x","params":{"name""#, Some("8")),
        (r#"{"jsonrpc":"2.0","method":"x","params":{"a":1,"a":2},"id":9}"#, Some("9")),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#, None),
        (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, None),
        (r#"{"jsonrpc":"2.0","id":1"#, None),
        (r#"{"jsonrpc":"2.0","id":"abc"#, None),
        (r#"{"jsonrpc":"2.0","method":"x","params":}"#, None),
        ("[]", None),
    ] {
        let mut reader = Reader::new(0);
        reader.read(input.as_bytes()).unwrap_err();
        assert_eq!(reader.id().map(|id| id.raw(input.as_bytes())), want.map(str::as_bytes), "{input}");
    }
    let mut reader = Reader::new(0);
    reader.read(br#"{"a":x}"#).unwrap_err();
    assert_eq!(reader.position(), 5);
    reader.read(br#"{"a":1,"a":2}"#).unwrap_err();
    assert_eq!(reader.position(), 9, "the end of the second name");
}

#[test]
fn members_are_found_by_name() {
    let input =
        br#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{ "name" : "echo" ,"arguments":{"name":[1]},
        "_meta":{"io.modelcontextprotocol\/protocolVersion":"2026-07-28","progressToken": 5 }}}"#;
    let envelope = read(input).unwrap();
    let raw = |member: Option<Member>| member.map(|member| str::from_utf8(member.value.of(input)).unwrap());
    assert_eq!(envelope.method_name(input), Some(&b"tools/call"[..]));
    assert_eq!(raw(envelope.param(input, "name")), Some("\"echo\""));
    assert_eq!(envelope.param(input, "name").unwrap().text().unwrap().of(input), b"echo");
    assert_eq!(raw(envelope.param(input, "arguments")), Some(r#"{"name":[1]}"#));
    assert_eq!(envelope.param(input, "arguments").unwrap().text(), None);
    assert_eq!(raw(envelope.meta(input, "io.modelcontextprotocol/protocolVersion")), Some("\"2026-07-28\""));
    assert_eq!(raw(envelope.meta(input, "progressToken")), Some("5"));
    assert_eq!(raw(envelope.meta(input, "name")), None);
    assert_eq!(raw(envelope.result(input, "name")), None);

    let input = br#"{"jsonrpc":"2.0","id":1,"error":{"message":"","code":-32601,"data":{"code":1}}}"#;
    assert_eq!(read(input).unwrap().error_code(input), Some(-32601));
    let input = br#"{"jsonrpc":"2.0","id":1,"error":{"code":1e3}}"#;
    assert_eq!(read(input).unwrap().error_code(input), None);
}

#[test]
fn answers_tell_their_outcome() {
    let of = |input: &str| answer_of(input.as_bytes()).unwrap();
    let answer =
        of(r#"{"result":{"content":[{"isError":false,"resultType":"x"}],"isError":true},"jsonrpc":"2.0","id":"q"}"#);
    assert_eq!((answer.shape, answer.id.as_deref()), (Shape::Result, Some(&b"\"q\""[..])));
    assert_eq!((answer.is_error, answer.result_type, answer.error_code), (true, ResultType::Absent, None));
    for (written, want) in [
        (r#""complete""#, ResultType::Complete),
        (r#""input_required""#, ResultType::InputRequired),
        (r#""input\u005frequired""#, ResultType::InputRequired),
        (r#""task""#, ResultType::Task),
        (r#""tasks""#, ResultType::Other),
        ("null", ResultType::Other),
        ("{}", ResultType::Other),
    ] {
        let answer = of(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":{written},"isError":false}}}}"#));
        assert_eq!((answer.result_type, answer.is_error), (want, false), "{written}");
    }
    let answer = of(r#"{"jsonrpc":"2.0","id":null,"error":{"isError":true,"code":-32000}}"#);
    assert_eq!((answer.shape, answer.id, answer.error_code), (Shape::Error, None, Some(-32000)));
    assert!(!answer.is_error);
    assert_eq!(of(r#"{"jsonrpc":"2.0","method":"x"}"#).shape, Shape::Notification);
}

/// [E13] No other case of a name that means something in a result, in front of it or behind it.
#[test]
fn a_result_has_no_twins() {
    for name in ["ISERROR", "iserror", "ResultType", "inputrequests", "REQUESTSTATE", "re\u{17f}ultType"] {
        for members in [format!(r#""{name}":1,"isError":false"#), format!(r#""isError":false,"{name}":1"#)] {
            let answer = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{members}}}}}"#);
            assert_eq!(answer_of(answer.as_bytes()).err(), Some(ScanFault::CaseTwin), "{answer}");
            // Deeper it is anybody's name, as it is in an error.
            for deeper in [format!(r#""result":{{"x":{{{members}}}}}"#), format!(r#""error":{{"code":1,{members}}}"#)] {
                let answer = format!(r#"{{"jsonrpc":"2.0","id":1,{deeper}}}"#);
                assert!(answer_of(answer.as_bytes()).is_ok(), "{answer}");
            }
        }
    }
}

/// [E1] github.com/nst/JSONTestSuite: `y_` is JSON, `n_` is not, `i_` may be either. Two of `y_` have a name twice.
#[test]
fn the_json_test_suite() {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/json/JSONTestSuite/test_parsing");
    let Ok(files) = std::fs::read_dir(&suite) else {
        eprintln!("SKIPPED: no JSONTestSuite at {}", suite.display());
        return;
    };
    let twice = ["y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"];
    let mut seen = HashMap::new();
    for file in files {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let input = call(&std::fs::read(file.path()).unwrap());
        let envelope = read(&input);
        if let Ok(envelope) = &envelope {
            // Not only accepted: what was sent is what is found, to the byte.
            let arguments = envelope.param(&input, "arguments").unwrap().value.of(&input);
            let sent = std::fs::read(file.path()).unwrap();
            assert_eq!(arguments, sent.trim_ascii(), "{name}");
        }
        let got = envelope.map(|envelope| envelope.shape);
        *seen.entry((name.as_bytes()[0] as char, got.is_ok())).or_insert(0) += 1;
        match name.as_bytes()[0] {
            b'y' if twice.contains(&name.as_str()) => assert_eq!(got, Err(ScanFault::DuplicateName), "{name}"),
            b'y' => assert_eq!(got, Ok(Shape::Request), "{name}"),
            b'n' => assert!(got.is_err(), "{name}"),
            _ => {}
        }
        if input.len() < 4096 {
            agrees_in_pieces(&input);
        }
    }
    // 95 of `y_`, less the two.
    assert_eq!((seen[&('y', true)], seen[&('y', false)], seen[&('n', false)]), (93, 2, 188));
    assert_eq!(seen.values().sum::<i32>(), 318);
}

/// A JSON text whose objects have no name twice; for `from_slice`.
#[derive(Debug)]
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Self;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, _)) = map.next_entry::<String, Self>()? {
            if !names.insert(name) {
                return Err(serde::de::Error::custom("twice"));
            }
        }
        Ok(self)
    }
}

/// Our verdict on `arguments` inside a call, against those of serde_json and simd-json.
fn agrees_with_others(arguments: &[u8]) -> Result<(), TestCaseError> {
    let ours = read(&call(arguments)).map(|envelope| envelope.shape);
    let serde = serde_json::from_slice::<Unique>(arguments).map_err(|fault| fault.to_string());
    let simd = simd_json::to_borrowed_value(&mut arguments.to_vec()).is_ok();
    match &serde {
        // A legal number that does not fit theirs.
        Err(fault) if fault.contains("out of range") => {}
        Err(fault) if fault.contains("recursion limit") => prop_assert!(ours.is_err()),
        _ => prop_assert_eq!(ours.is_ok(), serde.is_ok(), "{:?} {:?}", ours, serde),
    }
    let theirs_to_refuse = matches!(ours, Err(ScanFault::DuplicateName | ScanFault::TooDeep));
    prop_assert!(!simd || ours.is_ok() || theirs_to_refuse, "simd-json takes it, we say {:?}", ours);
    // simd-json refuses integers above 64 bits and what overflows a double.
    let digits = arguments.split(|byte| !byte.is_ascii_digit()).map(<[u8]>::len).max().unwrap_or(0);
    let has_exponent = arguments.windows(2).any(|two| two[0].is_ascii_digit() && two[1] | 0x20 == b'e');
    prop_assert!(simd || ours.is_err() || digits > 18 || has_exponent, "we take it, simd-json does not");
    Ok(())
}

pub(super) fn json() -> impl Strategy<Value = String> {
    let space = || "[ \n\t]{0,1}";
    let text = || {
        proptest::collection::vec(
            prop_oneof![
                6 => "[a-e \\x7f]{1,9}",
                2 => "[é€𝄞\u{7ff}\u{800}\u{ffff}]",
                1 => r#"\\["\\/bfnrt]"#,
                1 => r"\\u00[46][1-5]",
                1 => r"\\ud83[4-6]\\udd1e",
                1 => r"\\ud8[0-9a-f]{2}",
            ],
            0..4,
        )
        .prop_map(|parts| format!("\"{}\"", parts.concat()))
    };
    let leaf = prop_oneof![
        text(),
        r"-?(0|[1-9][0-9]{0,12})(\.[0-9]{1,4})?([eE][+-]?[0-9])?",
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("null".to_owned()),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        let member = (space(), text(), space(), inner.clone())
            .prop_map(|(before, name, after, value)| format!("{before}{name}{after}:{after}{value}{before}"));
        prop_oneof![
            proptest::collection::vec((space(), inner), 0..6).prop_map(|all| format!(
                "[{}]",
                all.iter().map(|(a, b)| format!("{a}{b}{a}")).collect::<Vec<_>>().join(",")
            )),
            proptest::collection::vec(member, 0..6).prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    })
}

/// A JSON text with up to three bytes put in, taken out or exchanged.
pub(super) fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => prop::sample::select(&b"{}[]\",:\\/0123456789eE+-. \n\ttrufalsn"[..]),
        1 => prop::sample::select(&b"\x00\x1f\x7f\x80\xbf\xc2\xe0\xed\xa0\xf0\x90\xf4\xff"[..]),
    ];
    let edit = (any::<prop::sample::Index>(), byte, 0..3_u8);
    (json(), proptest::collection::vec(edit, 0..4)).prop_map(|(text, edits)| {
        let mut bytes = text.into_bytes();
        for (index, byte, what) in edits {
            let at = index.index(bytes.len().max(1));
            match what {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                _ if at < bytes.len() => bytes[at] = byte,
                _ => {}
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sound_json_is_judged_as_others_do(arguments in json()) {
        agrees_with_others(arguments.as_bytes())?;
    }

    #[test]
    fn broken_json_is_judged_as_others_do(arguments in nearly_json()) {
        agrees_with_others(&arguments)?;
    }

    /// [E7] Spans are right to the byte.
    #[test]
    fn spans_are_those_of_serde_json(
        members in proptest::collection::btree_map("[a-z]{1,6}(/[a-zé]{1,3})?", json(), 0..6),
        meta in proptest::collection::btree_map("[a-z]{1,6}(/[a-z]{1,3})?", json(), 0..6),
        space in "[ \n]{0,2}",
        answer in any::<bool>(),
    ) {
        let written = |members: &std::collections::BTreeMap<String, String>| {
            members.iter().map(|(name, value)| format!("{space}\"{name}\"{space}:{value}{space},")).collect::<String>()
        };
        let body = format!("{{{}{space}\"_meta\":{{{}\"z\":1}}}}", written(&members), written(&meta));
        let part = if answer { "\"result\"" } else { "\"method\":\"m\",\"params\"" };
        let input = format!("{space}{{\"jsonrpc\":\"2.0\",{part}:{space}{body}{space},\"id\":{space}17{space}}}{space}");
        let input = input.as_bytes();
        type Raw<'a> = HashMap<&'a str, &'a RawValue>;
        if let Ok(envelope) = read(input) {
            let root: Raw<'_> = serde_json::from_slice(input).unwrap();
            let inner: Raw<'_> = serde_json::from_str(root[if answer { "result" } else { "params" }].get()).unwrap();
            let deep: Raw<'_> = serde_json::from_str(inner["_meta"].get()).unwrap();
            for (table, theirs) in [
                (envelope.root_members(), root),
                (envelope.body_members(), inner),
                (envelope.meta_members(), deep),
            ] {
                prop_assert_eq!(table.len(), theirs.len());
                for member in table {
                    let raw = theirs[str::from_utf8(member.key.of(input)).unwrap()].get();
                    prop_assert_eq!(str::from_utf8(member.value.of(input)).unwrap(), raw);
                    let kind = match raw.as_bytes()[0] {
                        b'{' => Kind::Object,
                        b'[' => Kind::Array,
                        b'"' => Kind::String,
                        b't' => Kind::True,
                        b'f' => Kind::False,
                        b'n' => Kind::Null,
                        _ => Kind::Number,
                    };
                    prop_assert_eq!(member.kind, kind);
                }
            }
            prop_assert_eq!(envelope.id.unwrap().raw(input), b"17");
        } else {
            // Only what the generator writes on purpose: names twice, halves of pairs.
            prop_assert!(matches!(read(input), Err(ScanFault::DuplicateName | ScanFault::LoneSurrogate | ScanFault::CaseTwin)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn pieces_change_nothing(arguments in nearly_json()) {
        agrees_in_pieces(&call(&arguments));
        agrees_in_pieces(&arguments);
    }
}

/// Where we differ from other parsers on purpose: what is written, our word for it, and whether serde_json and
/// simd-json take it.
#[test]
fn differences_from_other_parsers_are_these() {
    use ScanFault as F;
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let big = "9".repeat(400);
    let rows: [(&str, Result<Shape, ScanFault>, bool, bool); 9] = [
        // They keep the last one, or the first.
        (r#"{"a":1,"a":2}"#, Err(F::DuplicateName), true, true),
        (r#"{"a":1,"\u0061":2}"#, Err(F::DuplicateName), true, true),
        // Our depth is 64 with the call around it, that of serde_json 128.
        (&deep(62), Ok(Shape::Request), true, true),
        (&deep(63), Err(F::TooDeep), true, true),
        (&deep(200), Err(F::TooDeep), false, true),
        // Numbers stay as written, however large.
        ("18446744073709551616", Ok(Shape::Request), true, false),
        ("1e999", Ok(Shape::Request), false, false),
        (&big, Ok(Shape::Request), false, false),
        // Here all are of one mind, and some others are not.
        (r#""\ud800""#, Err(F::LoneSurrogate), false, false),
    ];
    for (written, ours, serde, simd) in rows {
        let shown = &written[..written.len().min(40)];
        assert_eq!(read(&call(written.as_bytes())).map(|envelope| envelope.shape), ours, "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(written).is_ok(), serde, "serde_json: {shown}");
        assert_eq!(simd_json::to_borrowed_value(&mut written.as_bytes().to_vec()).is_ok(), simd, "simd-json: {shown}");
    }
}
