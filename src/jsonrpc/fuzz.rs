//! What must be true of any bytes that come as a message. See `base::fuzz` for how these are run.

use serde_json::Value;
use serde_json::value::RawValue;

use super::answer::{Answer, AnswerScan, ResultType};
use super::edit::{splice, spliced_len};
use super::id::{self, Id};
use super::scan::{Envelope, Kind, Member, Reader, ScanFault, Shape, read};
use super::text;
use crate::base::fuzz::cuts;
use crate::base::limits::BATCH_MESSAGES_DEFAULT;
use crate::base::span::Span;

/// A message: the same however it comes; what is accepted means to serde_json what it means to us, each part stands
/// where its span says, and an edit changes nothing but what it edits.
///
/// # Panics
/// When one of these is not true.
pub fn envelope(data: &[u8]) {
    let mut whole = Reader::new(7);
    let verdict = whole.read(data).map(drop);
    let mut pieces = Reader::new(8);
    for cut in cuts(data) {
        let two = [&data[..cut], &data[cut..]];
        assert_eq!(pieces.read_pieces(data, two.into_iter()).map(drop), verdict, "cut at {cut}");
        assert_eq!((pieces.id(), pieces.position()), (whole.id(), whole.position()), "cut at {cut}");
        if verdict.is_ok() {
            assert_same(pieces.envelope(), whole.envelope());
        }
    }
    assert_eq!(pieces.read_pieces(data, data.chunks(1)).map(drop), verdict, "byte by byte");
    assert_eq!((pieces.id(), pieces.position()), (whole.id(), whole.position()), "byte by byte");
    if let Some(id) = whole.id() {
        assert_eq!(id.raw(data).first() == Some(&b'"'), id.is_string);
    }
    assert_judged_as_others_do(data, verdict);
    if verdict.is_ok() {
        assert_spans(data, whole.envelope());
        assert_edits(data, whole.envelope());
    }
}

/// An answer that is read as it passes by: the same however it comes, and what the envelope says.
///
/// # Panics
/// When one of these is not true.
pub fn answer(data: &[u8]) {
    let mut scan = AnswerScan::new(7);
    let whole = scanned(&mut scan, [data].into_iter());
    for cut in cuts(data) {
        assert_eq!(scanned(&mut scan, [&data[..cut], &data[cut..]].into_iter()), whole, "cut at {cut}");
    }
    assert_eq!(scanned(&mut scan, data.chunks(1)), whole, "byte by byte");
    assert_eq!(scanned(&mut scan, data.chunks(3)), whole, "three bytes at a time");
    let outcome = scan.read(data);
    assert_eq!(told(&scan, outcome), whole, "all at once");
    skimmed(data, &whole.outcome);
    if let Some((raw, start, end)) = &whole.id {
        let place = usize::try_from(*start).unwrap_or(usize::MAX)..usize::try_from(*end).unwrap_or(usize::MAX);
        assert_eq!(data.get(place), Some(&raw[..]), "the id stands where it is said to stand");
    }
    if let (Ok(said), Ok(envelope)) = (&whole.outcome, read(data)) {
        assert_eq!(said.shape, envelope.shape);
        assert_eq!(said.id.as_deref(), envelope.id.map(|id| id.raw(data)));
        assert_eq!(said.error_code, envelope.error_code(data));
        assert_eq!(said.is_error, envelope.result(data, "isError").is_some_and(|is| is.kind == Kind::True));
        assert_eq!(said.result_type == ResultType::Absent, envelope.result(data, "resultType").is_none());
    }
    if let Ok(said) = &whole.outcome {
        let value = value(data);
        if let Some(value) = &value {
            assert_eq!(said.is_error, value["result"]["isError"] == Value::Bool(true));
            let complete = value["result"]["resultType"] == "complete";
            assert_eq!(said.result_type == ResultType::Complete, complete && said.shape == Shape::Result);
        }
    }
}

/// The same answer, skimmed: the same however it comes, and what the whole scan says, but for faults that lie deep.
/// What lies there could be anything: with all of it taken out the answer says the same.
fn skimmed(data: &[u8], full: &Result<Answer, ScanFault>) {
    let mut scan = AnswerScan::new(7);
    let outcome = scan.skim(data);
    let whole = told(&scan, outcome);
    let mut pieces = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        scan.reset_to_skim();
        let fed = pieces.map(|piece| scan.feed(piece)).find(Result::is_err).unwrap_or(Ok(()));
        let outcome = fed.and_then(|()| scan.finish());
        told(&scan, outcome)
    };
    for cut in cuts(data) {
        assert_eq!(pieces(&mut [&data[..cut], &data[cut..]].into_iter()), whole, "skimmed, cut at {cut}");
    }
    assert_eq!(pieces(&mut data.chunks(1)), whole, "skimmed byte by byte");
    assert_eq!(pieces(&mut data.chunks(3)), whole, "skimmed three bytes at a time");
    match (full, &whole.outcome) {
        (Ok(full), said) => assert_eq!(said.as_ref(), Ok(full), "what is right is right skimmed"),
        (Err(fault), Ok(said)) => {
            use ScanFault as F;
            let deep = matches!(fault, F::Syntax | F::BadNumber | F::BadEscape | F::LoneSurrogate);
            assert!(deep || matches!(fault, F::DuplicateName | F::NameTooLong | F::TooManyMembers), "{fault}");
            assert!(str::from_utf8(data).is_ok());
            assert_eq!(AnswerScan::new(7).read(&hollow(data)).as_ref(), Ok(said), "what lies deep says nothing");
        }
        (Err(_), Err(_)) => {}
    }
}

/// An answer that can be skimmed, with nothing in its containers but for itself and its body: those that are members
/// of the body, and those that JSON-RPC does not know.
fn hollow(data: &[u8]) -> Vec<u8> {
    let (mut kept, mut depth, mut text) = (Vec::new(), 0_usize, None);
    let (mut name, mut escaped, mut floor) = (Vec::new(), false, usize::MAX);
    for (at, &byte) in data.iter().enumerate() {
        let deep = depth > floor;
        let mut ends = false;
        match (text, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(start), b'"') => {
                if depth == 1 {
                    name = data[start..at].to_vec();
                }
                text = None;
            }
            (Some(_), _) => {}
            (None, b'"') => text = Some(at + 1),
            (None, b'{' | b'[') => {
                let body = byte == b'{' && matches!(&name[..], b"params" | b"result" | b"error");
                if !deep && (depth >= 2 || depth == 1 && !body) {
                    floor = depth;
                    kept.push(byte);
                }
                depth += 1;
            }
            (None, b'}' | b']') => {
                depth -= 1;
                ends = depth == floor;
            }
            _ => {}
        }
        if ends {
            floor = usize::MAX;
            kept.push(byte);
        } else if !deep && depth <= floor {
            kept.push(byte);
        }
    }
    kept
}

/// A batch: its elements are those that serde_json finds, each read as it would be alone; and what is no batch for us
/// is none for others, or breaks a rule that they do not have.
///
/// # Panics
/// When one of these is not true.
pub fn batch(data: &[u8]) {
    let mut reader = Reader::new(7);
    let elements = match reader.read_batch(data, BATCH_MESSAGES_DEFAULT) {
        Ok(elements) => elements,
        Err(fault) => {
            assert!(reader.id().is_none() && reader.position() <= data.len() as u64);
            let theirs = value(data);
            assert!(!fault.is_grammar() || theirs.is_none() || theirs.is_some_and(|it| !it.is_array()), "{fault}");
            return;
        }
    };
    assert!((1..=BATCH_MESSAGES_DEFAULT).contains(&elements.len()));
    let theirs: Vec<&RawValue> = serde_json::from_slice(data).expect("serde_json takes it");
    assert_eq!(elements.len(), theirs.len());
    let mut ids: Vec<&[u8]> = Vec::new();
    let mut asking = None;
    for (element, theirs) in elements.iter().zip(theirs) {
        let text = element.of(data);
        assert_eq!(text, theirs.get().as_bytes());
        let mut alone = Reader::new(8);
        assert_eq!(element.shape, alone.read(text).map(|envelope| envelope.shape));
        assert_eq!(element.id, alone.id());
        if let Ok(shape) = element.shape {
            let asks = matches!(shape, Shape::Request | Shape::Notification);
            assert_eq!(*asking.get_or_insert(asks), asks, "requests and answers in one batch");
        }
        let id = element.id.filter(|_| element.shape == Ok(Shape::Request)).map(|id| id.raw(text));
        assert_eq!(element.repeats, id.is_some_and(|id| ids.iter().any(|other| id::same(other, id))));
        ids.extend(id);
    }
}

fn assert_same(one: &Envelope, other: &Envelope) {
    assert_eq!((one.shape, one.id, one.method, one.body), (other.shape, other.id, other.method, other.body));
    assert_eq!(one.root_members(), other.root_members());
    assert_eq!(one.body_members(), other.body_members());
    assert_eq!(one.meta_members(), other.meta_members());
}

/// Our verdict against serde_json's, where the two decide alike: what we call no JSON is none, and what we accept is
/// JSON of the same members.
fn assert_judged_as_others_do(data: &[u8], verdict: Result<(), ScanFault>) {
    let theirs = serde_json::from_slice::<Value>(data);
    match (verdict, &theirs) {
        (Ok(()), Ok(value)) => {
            assert!(value.is_object(), "one message, no batch");
            assert!(each_name_once(data, value), "a name stands twice");
            let no_id = value["id"].is_null() && (value.get("id").is_none() || value.get("error").is_some());
            assert!(no_id || value["id"].is_string() || value["id"].is_number(), "an id is a text or a number");
        }
        // Legal, and no double holds it.
        (Ok(()), Err(fault)) => assert!(fault.to_string().contains("out of range"), "serde_json: {fault}"),
        (Err(fault), theirs) => assert!(!fault.is_grammar() || theirs.is_err(), "serde_json takes it: {fault}"),
    }
    #[cfg(test)]
    tests::assert_simd_json_agrees(data, verdict);
}

/// Whether no object of `data`, which is the JSON text of `value`, has a name twice: a parser that keeps one of two
/// members holds fewer of them than there are colons.
#[must_use]
pub fn each_name_once(data: &[u8], value: &Value) -> bool {
    let (mut colons, mut quoted, mut escaped) = (0, false, false);
    for byte in data {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b':' if !quoted => colons += 1,
            _ => {}
        }
    }
    colons == members(value)
}

/// Members of all objects in `value`. Its depth is bounded by serde_json.
fn members(value: &Value) -> usize {
    match value {
        Value::Object(object) => object.len() + object.values().map(members).sum::<usize>(),
        Value::Array(list) => list.iter().map(members).sum(),
        _ => 0,
    }
}

fn value(data: &[u8]) -> Option<Value> {
    serde_json::from_slice(data).ok()
}

/// Each part of an accepted message stands inside of it, is what it is called, and is what serde_json finds there.
fn assert_spans(data: &[u8], envelope: &Envelope) {
    let whole = value(data);
    let root = whole.as_ref();
    let name = ["params", "result", "error"].into_iter().find(|name| root.is_some_and(|root| root.get(name).is_some()));
    let body = name.and_then(|name| root?.get(name));
    assert_eq!(root.is_some() && envelope.body.is_some(), body.is_some());
    let levels = [
        (envelope.root_members(), root),
        (envelope.body_members(), body),
        (envelope.meta_members(), body.and_then(|body| body.get("_meta"))),
    ];
    for (list, theirs) in levels {
        for pair in list.windows(2) {
            assert!(pair[0].value.end < pair[1].key.start, "members come in their order");
        }
        if let Some(Value::Object(theirs)) = theirs {
            assert_eq!(list.len(), theirs.len());
        }
        for member in list {
            assert_member(data, *member, theirs);
        }
    }
    assert_no_twins(data, envelope.root_members(), &["jsonrpc", "id", "method", "params", "result", "error"]);
    if matches!(envelope.shape, Shape::Request | Shape::Notification) {
        assert_no_twins(data, envelope.body_members(), &["name", "arguments", "uri", "_meta"]);
    }
    let inside = |outer: Member, list: &[Member]| {
        let within = |member: &Member| outer.value.start < member.key.start && member.value.end < outer.value.end;
        assert!(list.iter().all(within), "the body holds its members");
    };
    if let Some(body) = envelope.body {
        inside(body, envelope.body_members());
    }
    let method = root.and_then(|root| root.get("method")).and_then(Value::as_str);
    if root.is_some() {
        assert_eq!(envelope.method_name(data), method.map(str::as_bytes));
    }
}

fn assert_member(data: &[u8], member: Member, theirs: Option<&Value>) {
    let quote = |at: u32| data.get(at as usize) == Some(&b'"');
    assert!(quote(member.key.start - 1) && quote(member.key.end), "a name stands between quotes");
    let raw = member.value.of(data);
    let kind = match raw.first() {
        Some(b'{') => Kind::Object,
        Some(b'[') => Kind::Array,
        Some(b'"') => Kind::String,
        Some(b't') => Kind::True,
        Some(b'f') => Kind::False,
        Some(b'n') => Kind::Null,
        _ => Kind::Number,
    };
    assert_eq!(member.kind, kind);
    let mut scratch = Vec::new();
    let key = text::unescape(member.key.of(data), &mut scratch).expect("an accepted name can be unescaped");
    if let Some(theirs) = theirs {
        assert_eq!(value(raw).as_ref(), theirs.get(key), "{key} means the same");
    }
    if let Some(span) = member.text() {
        let mut scratch = Vec::new();
        let text = text::unescape(span.of(data), &mut scratch).expect("an accepted text can be unescaped");
        assert!(theirs.is_none_or(|theirs| theirs[key].as_str() == Some(text)));
    }
}

/// No name differs from one that counts there only in case.
fn assert_no_twins(data: &[u8], list: &[Member], counting: &[&str]) {
    for name in list.iter().map(|member| member.key.of(data)) {
        let twin = |known: &&str| known.as_bytes() != name && known.as_bytes().eq_ignore_ascii_case(name);
        assert!(!counting.iter().any(twin), "{}", name.escape_ascii());
    }
}

/// The edits that the gateway makes, id and a prefix of the name, in one go: the result is a message that differs in
/// these alone.
fn assert_edits(data: &[u8], envelope: &Envelope) {
    let name = envelope.param(data, "name").and_then(Member::text);
    let id = envelope.id.map(|id| id.span);
    let mut edits: Vec<(Span, &[u8])> = Vec::new();
    edits.extend(id.map(|span| (span, NEW_ID)));
    edits.extend(name.map(|span| (Span { start: span.start, end: span.start }, NEW_PREFIX)));
    edits.sort_by_key(|(span, _)| span.start);
    let mut edited = Vec::new();
    splice(data, &edits, &mut edited);
    assert_eq!(edited.len(), spliced_len(data, &edits));
    let again = read(&edited).expect("an edit keeps a message a message");
    assert_eq!((again.shape, again.id.is_some()), (envelope.shape, envelope.id.is_some()));
    assert_eq!(again.method_name(&edited), envelope.method_name(data));
    assert_eq!(again.id.map(|id: Id| id.raw(&edited)), id.map(|_| NEW_ID));
    for (before, after) in [
        (envelope.root_members(), again.root_members()),
        (envelope.body_members(), again.body_members()),
        (envelope.meta_members(), again.meta_members()),
    ] {
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(after) {
            assert_eq!(before.key.of(data), after.key.of(&edited));
            assert!(before.kind == after.kind || Some(before.value) == id, "a number may become a text in an id only");
            let touched = |span: &Span| before.value.start <= span.start && span.end <= before.value.end;
            if !edits.iter().any(|(span, _)| touched(span)) {
                assert_eq!(before.value.of(data), after.value.of(&edited), "bytes that no edit meant");
            }
        }
    }
    // Taken back, it is the message that it was.
    let back = again.param(&edited, "name").and_then(Member::text).filter(|_| name.is_some());
    let mut undo: Vec<(Span, &[u8])> = Vec::new();
    undo.extend(again.id.zip(id).map(|(now, before)| (now.span, before.of(data))));
    let prefix = u32::try_from(NEW_PREFIX.len()).unwrap_or_default();
    undo.extend(back.map(|span| (Span { start: span.start, end: span.start + prefix }, &b""[..])));
    undo.sort_by_key(|(span, _)| span.start);
    let mut restored = Vec::new();
    splice(&edited, &undo, &mut restored);
    assert_eq!(restored, data);
}

/// All that a scan tells.
#[derive(Debug, PartialEq)]
struct Scanned {
    outcome: Result<Answer, ScanFault>,
    /// As written, and where.
    id: Option<(Vec<u8>, u64, u64)>,
    position: u64,
}

fn scanned<'a>(scan: &mut AnswerScan, mut pieces: impl Iterator<Item = &'a [u8]>) -> Scanned {
    scan.reset();
    let fed = pieces.try_for_each(|piece| scan.feed(piece));
    let outcome = fed.and_then(|()| scan.finish());
    told(scan, outcome)
}

fn told(scan: &AnswerScan, outcome: Result<Answer, ScanFault>) -> Scanned {
    assert!(outcome.is_err() || scan.is_done());
    let id = scan.id().map(<[u8]>::to_vec).zip(scan.id_place());
    Scanned { outcome, id: id.map(|(raw, place)| (raw, place.start, place.end)), position: scan.position() }
}

const NEW_ID: &[u8] = b"\"another id\"";
const NEW_PREFIX: &[u8] = b"docs/";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    /// simd-json refuses integers above 64 bits and what overflows a double; of names that stand twice it takes both.
    pub(super) fn assert_simd_json_agrees(data: &[u8], verdict: Result<(), ScanFault>) {
        let theirs = simd_json::to_borrowed_value(&mut data.to_vec()).is_ok();
        let digits = data.split(|byte| !byte.is_ascii_digit()).map(<[u8]>::len).max().unwrap_or(0);
        let has_exponent = data.windows(2).any(|two| two[0].is_ascii_digit() && two[1] | 0x20 == b'e');
        match verdict {
            Ok(()) => assert!(theirs || digits > 18 || has_exponent, "we take it, simd-json does not"),
            Err(fault) => assert!(!theirs || !fault.is_grammar(), "simd-json takes it: {fault}"),
        }
    }

    /// [E2] [E3] [E5] [E6] [E7] What is accepted has no name twice or in two cases, its parts stand where they are said to stand, and edits
    /// change nothing else.
    #[test]
    fn envelopes_hold() {
        hold("jsonrpc_envelope", envelope);
    }

    /// [E6]
    #[test]
    fn batches_hold() {
        hold("jsonrpc_batch", batch);
    }

    #[test]
    fn answers_hold() {
        hold("jsonrpc_answer", answer);
    }
}
