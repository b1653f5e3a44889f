//! A batch: messages in one array (JSON-RPC 2.0, 6; MCP 2025-03-26 basic). It is split by the scanner itself, so that
//! what is taken as a message is exactly what the scanner reads as one; then each is read like any other.

use std::ops::Range;

use super::id::{self, Id};
use super::machine::{Level, Name, Role, Witness};
use super::scan::{Kind, Reader, ScanFault, Shape};
use crate::base::span::Span;

/// One element of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its bytes in the batch, from brace to brace.
    pub span: Span,
    /// Which message it is; `Err` for an object that is none, which is for its reader to answer.
    pub shape: Result<Shape, ScanFault>,
    /// Its id, if that was readable; a place in the element, not in the batch.
    pub id: Option<Id>,
    /// Its method as written inside its quotes; a place in the element.
    pub method: Option<Span>,
    /// It is a request with the id of one before it.
    pub repeats: bool,
}

impl Element {
    /// The element, in `bytes` (the batch it was read from).
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        self.span.of(bytes)
    }

    /// Its id as written, in `bytes`, if it was readable.
    #[must_use]
    pub fn raw_id(self, bytes: &[u8]) -> Option<&[u8]> {
        self.id.map(|id| id.raw(self.of(bytes)))
    }

    fn asked_id(self, bytes: &[u8]) -> Option<&[u8]> {
        self.raw_id(bytes).filter(|_| self.shape == Ok(Shape::Request))
    }
}

impl Reader {
    /// Reads a batch: the whole body, one array of 1 to `max` objects. What is wrong with one of these as a message is
    /// its own affair; what is wrong with the array, or is no JSON anywhere in it, is that of all.
    ///
    /// # Errors
    /// Faults of grammar and bounds as for [`Reader::read`], each element counted by itself; [`ScanFault::NotObject`]
    /// or [`ScanFault::Batch`] for an element that is no object; [`ScanFault::BatchEmpty`],
    /// [`ScanFault::BatchTooLong`], [`ScanFault::BatchMixed`]. [`position`](Self::position) tells where; there is no id
    /// to answer.
    pub fn read_batch(&mut self, bytes: &[u8], max: usize) -> Result<Vec<Element>, ScanFault> {
        let read = self.split(bytes, max).and_then(|spans| self.read_elements(bytes, &spans));
        self.envelope.clear();
        read.map_err(|(fault, at)| {
            self.machine.refuse(fault, at);
            fault
        })
    }

    /// Where the elements stand.
    fn split(&mut self, bytes: &[u8], max: usize) -> Result<Vec<Span>, Place> {
        if u32::try_from(bytes.len()).is_err() {
            return Err((ScanFault::TooLong, 0));
        }
        let mut spans = Vec::new();
        let mut at = skip_spaces(bytes, 0);
        if bytes.get(at) != Some(&b'[') {
            let fault = if at == bytes.len() { ScanFault::Incomplete } else { ScanFault::Syntax };
            return Err((fault, at as u64));
        }
        at = skip_spaces(bytes, at + 1);
        if bytes.get(at) == Some(&b']') {
            return ends(bytes, at + 1).and(Err((ScanFault::BatchEmpty, at as u64)));
        }
        loop {
            if spans.len() == max {
                return Err((ScanFault::BatchTooLong, at as u64));
            }
            let end = self.element_end(bytes, at)?;
            let length = bytes[at..end].trim_ascii_end().len();
            spans.push(Span::new(at, at + length));
            match bytes[end] {
                b',' => at = skip_spaces(bytes, end + 1),
                b']' => return ends(bytes, end + 1).map(|()| spans),
                _ => return Err((ScanFault::Syntax, end as u64)),
            }
        }
    }

    /// The first byte behind the object that begins at `at`, and behind the white space after it.
    fn element_end(&mut self, bytes: &[u8], at: usize) -> Result<usize, Place> {
        self.machine.reset_at(at as u64);
        match self.machine.feed(&bytes[at..], &mut Nobody) {
            // The machine stops at the very byte that cannot belong to the message.
            Err(ScanFault::TrailingBytes) => {
                Ok(usize::try_from(self.machine.position()).unwrap_or(bytes.len()).min(bytes.len() - 1))
            }
            Err(fault) => Err((fault, self.machine.position())),
            Ok(()) => Err((ScanFault::Incomplete, bytes.len() as u64)),
        }
    }

    /// What the elements are.
    fn read_elements(&mut self, bytes: &[u8], spans: &[Span]) -> Result<Vec<Element>, Place> {
        let mut elements: Vec<Element> = Vec::with_capacity(spans.len());
        let mut asks = None;
        for span in spans {
            let text = span.of(bytes);
            let read = self.read(text).map(|envelope| (envelope.shape, envelope.method));
            let (shape, method) = (read.map(|read| read.0), read.ok().and_then(|read| read.1));
            let mut element = Element { span: *span, shape, id: self.id(), method, repeats: false };
            if let Ok(shape) = shape {
                let asking = matches!(shape, Shape::Request | Shape::Notification);
                if *asks.get_or_insert(asking) != asking {
                    return Err((ScanFault::BatchMixed, span.start.into()));
                }
            }
            if let Some(raw) = element.asked_id(bytes) {
                let mut before = elements.iter().filter_map(|other| other.asked_id(bytes));
                element.repeats = before.any(|other| id::same(other, raw));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

/// What is wrong, and where.
type Place = (ScanFault, u64);

/// White space alone may follow the array.
fn ends(bytes: &[u8], at: usize) -> Result<(), Place> {
    let at = skip_spaces(bytes, at);
    if at == bytes.len() { Ok(()) } else { Err((ScanFault::TrailingBytes, at as u64)) }
}

fn skip_spaces(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count()
}

/// Has no eye for names: an element is only measured here.
struct Nobody;

impl Witness for Nobody {
    fn name(&mut self, _: Level, _: &Name<'_>) -> Result<Role, ScanFault> {
        Ok(Role::Plain)
    }

    fn start(&mut self, _: Level, _: Kind, _: u64) {}

    fn end(&mut self, _: Level, _: u64) {}

    fn member(&mut self, _: Level, _: &Name<'_>, _: Kind, _: Range<u64>) -> Result<(), ScanFault> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::base::limits::{DEPTH_MAX, MEMBERS_MAX};

    const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    const TOLD: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

    /// What the elements of `text` are, or what is wrong with it and where.
    #[track_caller]
    fn check(text: &str, want: Result<&[Result<Shape, ScanFault>], (ScanFault, u64)>) {
        let mut reader = Reader::new(7);
        let got = reader.read_batch(text.as_bytes(), 4);
        let shapes = got.as_ref().map(|list| list.iter().map(|it| it.shape).collect::<Vec<_>>());
        assert_eq!(shapes.map_err(|fault| (*fault, reader.position())), want.map(<[_]>::to_vec), "{text}");
        assert_eq!(reader.id(), None);
    }

    #[test]
    fn batches() {
        use ScanFault as F;
        use Shape as S;
        check(&format!("[{PING}]"), Ok(&[Ok(S::Request)]));
        check(&format!(" \r\n[ {PING}\t,{TOLD} ] \n"), Ok(&[Ok(S::Request), Ok(S::Notification)]));
        check(&format!("[{RESULT},{RESULT}]"), Ok(&[Ok(S::Result); 2]));
        check(&format!("[{PING},{PING},{PING},{PING}]"), Ok(&[Ok(S::Request); 4]));
        check(&format!("[{PING},{PING},{PING},{PING},{PING}]"), Err((F::BatchTooLong, 165)));
        check("[]", Err((F::BatchEmpty, 1)));
        check(" [ ] ", Err((F::BatchEmpty, 3)));
        check(&format!("[{PING},{RESULT}]"), Err((F::BatchMixed, 42)));
        check(&format!("[{RESULT},{TOLD}]"), Err((F::BatchMixed, 38)));
        // Objects that are no messages are their own affair.
        check(&format!("[{{}},{PING}]"), Ok(&[Err(F::WrongVersion), Ok(S::Request)]));
        check(&format!("[{PING},{}]", PING.replace("id", "ID")), Ok(&[Ok(S::Request), Err(F::CaseTwin)]));
        check(r#"[{"a":1,"a":2}]"#, Ok(&[Err(F::DuplicateName)]));
        // What is no object, or no JSON, is that of all.
        check("[1]", Err((F::NotObject, 1)));
        check(&format!("[{PING},\"x\"]"), Err((F::NotObject, 42)));
        check("[[]]", Err((F::Batch, 1)));
        check("[{},[{}]]", Err((F::Batch, 4)));
        check("", Err((F::Incomplete, 0)));
        check("{}", Err((F::Syntax, 0)));
        check("[", Err((F::Incomplete, 1)));
        check("[{}", Err((F::Incomplete, 3)));
        check("[{},", Err((F::Incomplete, 4)));
        check("[{\"a\":", Err((F::Incomplete, 6)));
        check("[{},]", Err((F::Syntax, 4)));
        check("[,{}]", Err((F::Syntax, 1)));
        check("[{} {}]", Err((F::Syntax, 4)));
        check("[{}}]", Err((F::Syntax, 3)));
        check("[{}]]", Err((F::TrailingBytes, 4)));
        check("[] []", Err((F::TrailingBytes, 3)));
        check("[{}] x", Err((F::TrailingBytes, 5)));
        check("[{\"a\":tru}]", Err((F::Syntax, 9)));
        check("[\u{feff}{}]", Err((F::Syntax, 1)));
        check("[{}\u{c},{}]", Err((F::Syntax, 3)));
        check("[{\"a\":\"\\ud800\"}]", Err((F::LoneSurrogate, 13)));
    }

    #[test]
    fn a_byte_order_mark_is_no_array() {
        check("\u{feff}[{}]", Err((ScanFault::Syntax, 0)));
    }

    /// Depth and members are each element's own.
    #[test]
    fn elements_have_the_bounds_of_messages() {
        let mut reader = Reader::new(7);
        let deep = |levels: usize| format!("{}{{}}{}", "{\"x\":".repeat(levels - 1), "}".repeat(levels - 1));
        let two = |one: String| format!("[{one},{one}]");
        assert_eq!(reader.read_batch(two(deep(DEPTH_MAX)).as_bytes(), 2).map(|list| list.len()), Ok(2));
        assert_eq!(reader.read_batch(two(deep(DEPTH_MAX + 1)).as_bytes(), 2), Err(ScanFault::TooDeep));
        let wide = |members: usize| {
            let list: Vec<String> = (0..members).map(|number| format!("\"m{number}\":0")).collect();
            format!("{{\"x\":{{{}}}}}", list.join(","))
        };
        assert_eq!(reader.read_batch(two(wide(MEMBERS_MAX - 1)).as_bytes(), 2).map(|list| list.len()), Ok(2));
        assert_eq!(reader.read_batch(two(wide(MEMBERS_MAX)).as_bytes(), 2), Err(ScanFault::TooManyMembers));
        assert_eq!(reader.read_batch("[".repeat(100_000).as_bytes(), 2), Err(ScanFault::Batch));
    }

    #[test]
    fn a_request_repeats_the_id_of_a_request_only() {
        let check = |ids: &[&str], want: &[bool]| {
            let list: Vec<String> = ids.iter().map(|id| PING.replace(":1,", &format!(":{id},"))).collect();
            let text = format!("[{TOLD},{}]", list.join(","));
            let elements = Reader::new(7).read_batch(text.as_bytes(), 8).unwrap();
            let repeats: Vec<bool> = elements[1..].iter().map(|element| element.repeats).collect();
            assert_eq!(repeats, want, "{text}");
            for (element, id) in elements[1..].iter().zip(ids) {
                assert_eq!(element.raw_id(text.as_bytes()), Some(id.as_bytes()));
            }
        };
        check(&["1", "2", "1", "1"], &[false, false, true, true]);
        check(&["1", "\"1\""], &[false, false]);
        check(&["\"a\"", "\"\\u0061\""], &[false, true]);
        let answers = format!("[{RESULT},{RESULT}]");
        let elements = Reader::new(7).read_batch(answers.as_bytes(), 8).unwrap();
        assert!(elements.iter().all(|element| !element.repeats), "each answers a request of its own sender");
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("-1.5e3".to_owned()),
            r#""([a-z\[\]{},:]|\\["\\/n]|é){0,6}""#.prop_map(|text| text),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(" ,"))),
                prop::collection::vec(inner, 0..4).prop_map(|list| {
                    let members = list.iter().enumerate().map(|(at, value)| format!("\"k{at}\" : {value}"));
                    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
                }),
            ]
        })
    }

    proptest! {
        /// [E6] The elements are those that serde_json finds, to the byte.
        #[test]
        fn elements_are_what_others_find(
            values in prop::collection::vec((json(), "[ \t\r\n]{0,2}"), 1..6),
            space in "[ \t\r\n]{0,2}",
        ) {
            let objects: Vec<String> = values.iter().map(|(value, _)| format!("{{\"v\":{value}}}")).collect();
            let list: Vec<String> = objects.iter().zip(&values).map(|(it, (_, gap))| format!("{gap}{it}{gap}")).collect();
            let text = format!("{space}[{}]{space}", list.join(","));
            let elements = Reader::new(7).read_batch(text.as_bytes(), 8).unwrap();
            let ours: Vec<&[u8]> = elements.iter().map(|element| element.of(text.as_bytes())).collect();
            let theirs: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
            let theirs: Vec<&[u8]> = theirs.iter().map(|raw| raw.get().as_bytes()).collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
