//! Values as they stand in a message: borrowed from its bytes, looked into without being taken apart.

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::number::{Number, Written, written};
pub use super::text::Text;
use crate::base::limits::VALUE_DEPTH_MAX;

/// A value. Its bytes are JSON that has been read before: nothing is refused here, what is no JSON after all is just not
/// found.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Num<'a>),
    /// A text.
    Text(Text<'a>),
    /// A list as written, brackets and all.
    List(&'a [u8]),
    /// An object as written, braces and all.
    Object(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The value that these bytes are; `None` where they are none.
    #[must_use]
    pub fn read(raw: &'a [u8]) -> Option<Self> {
        let raw = raw.trim_ascii();
        Some(match raw {
            b"null" => Self::Null,
            b"true" => Self::Bool(true),
            b"false" => Self::Bool(false),
            [b'"', inside @ .., b'"'] => Self::Text(Text::inside(inside)?),
            [b'[', .., b']'] => Self::List(raw),
            [b'{', .., b'}'] => Self::Object(raw),
            _ => Self::Number(Num::read(str::from_utf8(raw).ok()?)?),
        })
    }

    /// The member of this name, escapes undone; `None` where there is none, or no object.
    #[must_use]
    pub fn member(self, name: &str) -> Option<Self> {
        let Self::Object(raw) = self else { return None };
        let named = |written: &[u8]| {
            // No escape is shorter than what it says.
            written.len() >= name.len()
                && (written == name.as_bytes() && !name.contains('\\')
                    || written.contains(&b'\\') && Text::inside(written) == Some(Text::Plain(name)))
        };
        let (_, value) = Pairs::of(raw).find(|(written, _)| named(written))?;
        Self::read(value)
    }

    /// The element at this place, counted from 0; `None` where there is none, or no list.
    #[must_use]
    pub fn index(self, at: u64) -> Option<Self> {
        let Self::List(raw) = self else { return None };
        Self::read(Elements::of(raw).nth(usize::try_from(at).ok()?)?)
    }

    /// The elements of a list; none of anything else.
    #[must_use]
    pub fn items(self) -> Items<'a> {
        Items(match self {
            Self::List(raw) => Elements::of(raw),
            _ => Elements { rest: &[] },
        })
    }

    /// The members of an object, in the order in which they are written; none of anything else.
    #[must_use]
    pub fn members(self) -> Members<'a> {
        Members(match self {
            Self::Object(raw) => Pairs::of(raw),
            _ => Pairs { rest: &[] },
        })
    }

    /// Code points of a text, elements of a list, members of an object.
    #[must_use]
    pub fn size(self) -> Option<u64> {
        match self {
            Self::Text(text) => Some(text.size()),
            Self::List(raw) => Some(Elements::of(raw).count() as u64),
            Self::Object(raw) => Some(Pairs::of(raw).count() as u64),
            Self::Null | Self::Bool(_) | Self::Number(_) => None,
        }
    }

    /// Whether the two are the same value; `None` where they are of different types. Within lists and objects, values of
    /// different types are not the same.
    #[must_use]
    pub fn same(self, other: Value<'_>) -> Option<bool> {
        Some(match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(one), Value::Bool(other)) => one == other,
            (Self::Number(one), Value::Number(other)) => one == other,
            (Self::Text(one), Value::Text(other)) => one == other,
            (Self::List(one), Value::List(other)) | (Self::Object(one), Value::Object(other)) => {
                one == other || Deep::new(one).same(0, &Deep::new(other), 0, VALUE_DEPTH_MAX)
            }
            _ => return None,
        })
    }

    /// Feeds its canonical bytes to `out`: the same ones for the same value, whatever way it is written, and other ones
    /// for another. No value's are the beginning of another's.
    pub fn feed(self, out: &mut dyn FnMut(&[u8])) {
        match self {
            Self::Null => out(b"n"),
            Self::Bool(value) => out(if value { b"t" } else { b"f" }),
            Self::Number(number) => {
                out(b"#");
                number.feed(out);
            }
            Self::Text(text) => feed_text(text, out),
            Self::List(raw) | Self::Object(raw) => Deep::new(raw).feed(0, VALUE_DEPTH_MAX, out),
        }
    }
}

/// No byte of UTF-8 is 255, so it ends a text.
fn feed_text(text: Text<'_>, out: &mut dyn FnMut(&[u8])) {
    out(b"\"");
    text.feed(out);
    out(&[0xff]);
}

/// A list or object, with the places where all within it end: so that what is deep is not looked through once for each
/// level. Places are counted in bytes.
struct Deep<'a> {
    raw: &'a [u8],
    /// Of each list and object, in the order in which they begin: where it does, and behind its end.
    ends: SmallVec<[(usize, usize); 16]>,
}

impl<'a> Deep<'a> {
    fn new(raw: &'a [u8]) -> Self {
        let mut ends = SmallVec::<[(usize, usize); 16]>::new();
        let mut open = SmallVec::<[usize; 16]>::new();
        let mut at = 0;
        while let Some(byte) = raw.get(at) {
            at += 1;
            match byte {
                b'"' => at += quote(&raw[at..]).map_or(raw.len(), |length| length + 1),
                b'[' | b'{' => {
                    open.push(ends.len());
                    ends.push((at - 1, raw.len()));
                }
                b']' | b'}' => {
                    if let Some(place) = open.pop() {
                        ends[place].1 = at;
                    }
                }
                _ => {}
            }
            at = at.min(raw.len());
        }
        Self { raw, ends }
    }

    fn same(&self, at: usize, other: &Deep<'_>, other_at: usize, depth: usize) -> bool {
        match (self.raw.get(at), other.raw.get(other_at)) {
            (Some(b'[' | b'{'), Some(b'[' | b'{')) if depth == 0 => false,
            (Some(b'['), Some(b'[')) => {
                let (mut left, mut right) = (at + 1, other_at + 1);
                loop {
                    match (self.element(&mut left), other.element(&mut right)) {
                        (None, None) => return true,
                        (Some(one), Some(two)) if self.same(one, other, two, depth - 1) => {}
                        _ => return false,
                    }
                }
            }
            (Some(b'{'), Some(b'{')) => {
                let (left, right) = (self.sorted(at), other.sorted(other_at));
                left.len() == right.len()
                    && left
                        .iter()
                        .zip(&right)
                        .all(|(one, two)| one.0 == two.0 && self.same(one.1, other, two.1, depth - 1))
            }
            (Some(b'[' | b'{'), _) | (_, Some(b'[' | b'{')) => false,
            _ => matches!((self.leaf(at), other.leaf(other_at)), (Some(one), Some(two)) if one.same(two) == Some(true)),
        }
    }

    fn feed(&self, at: usize, depth: usize, out: &mut dyn FnMut(&[u8])) {
        match self.raw.get(at) {
            Some(b'[' | b'{') if depth == 0 => {
                // Nothing that was read is as deep.
                let raw = self.end(at).and_then(|end| self.raw.get(at..end)).unwrap_or_default();
                out(b"?");
                out(&(raw.len() as u64).to_be_bytes());
                out(raw);
            }
            Some(b'[') => {
                out(b"[");
                let mut next = at + 1;
                while let Some(element) = self.element(&mut next) {
                    self.feed(element, depth - 1, out);
                }
                out(b"]");
            }
            Some(b'{') => {
                out(b"{");
                for (name, value) in self.sorted(at) {
                    feed_text(name, out);
                    self.feed(value, depth - 1, out);
                }
                out(b"}");
            }
            _ => {
                if let Some(leaf) = self.leaf(at) {
                    leaf.feed(out);
                }
            }
        }
    }

    /// The members of the object that begins here: their names, in order, and where their values begin.
    fn sorted(&self, at: usize) -> SmallVec<[(Text<'a>, usize); 8]> {
        let mut all = SmallVec::<[(Text<'a>, usize); 8]>::new();
        let mut next = at + 1;
        while let Some(name) = self.element_before(&mut next, b':') {
            let inside = self.end(name).and_then(|end| self.raw.get(name + 1..end - 1));
            let (Some(name), Some(value)) = (inside.and_then(Text::inside), self.element(&mut next)) else { break };
            all.push((name, value));
        }
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }

    /// Where the next element begins; `next` goes behind the comma that follows it, or to the end.
    fn element(&self, next: &mut usize) -> Option<usize> {
        self.element_before(next, b',')
    }

    fn element_before(&self, next: &mut usize, sign: u8) -> Option<usize> {
        let start = self.behind_blanks(*next);
        let behind = self.behind_blanks(self.end(start)?);
        *next = if self.raw.get(behind) == Some(&sign) { behind + 1 } else { self.raw.len() };
        Some(start)
    }

    fn behind_blanks(&self, at: usize) -> usize {
        let rest = self.raw.get(at..).unwrap_or_default();
        self.raw.len() - rest.trim_ascii_start().len()
    }

    /// Behind the end of the value that begins here.
    fn end(&self, at: usize) -> Option<usize> {
        match self.raw.get(at)? {
            b'[' | b'{' => {
                let place = self.ends.binary_search_by_key(&at, |(start, _)| *start).ok()?;
                Some(self.ends[place].1)
            }
            _ => Some(at + end_of(&self.raw[at..])?),
        }
    }

    /// The value that begins here, which is no list and no object.
    fn leaf(&self, at: usize) -> Option<Value<'a>> {
        Value::read(self.raw.get(at..self.end(at)?)?)
    }
}

/// A number of any length. Two are equal, and ordered, by value.
#[derive(Clone, Copy, Debug)]
pub enum Num<'a> {
    /// One to compute with.
    Exact(Number),
    /// As it is written: over 38 digits, or of a power of ten beyond 32 bits. Compares exactly, computes nothing.
    Long(&'a str),
}

impl<'a> Num<'a> {
    /// A number as JSON writes it (RFC 8259, 6); `None` for what is none.
    #[must_use]
    pub fn read(text: &'a str) -> Option<Self> {
        match Number::parse(text) {
            Some(number) => Some(Self::Exact(number)),
            None => Written::parse(text).map(|_| Self::Long(text)),
        }
    }

    /// The number to compute with, if it is not too long for that.
    #[must_use]
    pub fn exact(self) -> Option<Number> {
        match self {
            Self::Exact(number) => Some(number),
            Self::Long(_) => None,
        }
    }

    fn feed(self, out: &mut dyn FnMut(&[u8])) {
        self.with_written(|number| number.feed(out));
    }

    fn with_written<R>(self, then: impl FnOnce(&Written<'_>) -> R) -> R {
        match self {
            Self::Exact(number) => written(number, then),
            Self::Long(text) => match Written::parse(text) {
                Some(number) => then(&number),
                // Made of what is no number, by hand.
                None => written(Number::ZERO, then),
            },
        }
    }
}

impl PartialEq for Num<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Num<'_> {}

impl Ord for Num<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) => one.cmp(other),
            _ => self.with_written(|one| other.with_written(|other| one.compare(other))),
        }
    }
}

impl PartialOrd for Num<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The elements of a list.
#[derive(Clone, Debug)]
pub struct Items<'a>(Elements<'a>);

impl<'a> Iterator for Items<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        Value::read(self.0.next()?)
    }
}

/// The members of an object.
#[derive(Clone, Debug)]
pub struct Members<'a>(Pairs<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (Text<'a>, Value<'a>);

    fn next(&mut self) -> Option<(Text<'a>, Value<'a>)> {
        let (name, value) = self.0.next()?;
        Some((Text::inside(name)?, Value::read(value)?))
    }
}

/// The elements of a list, as written.
#[derive(Clone, Debug)]
struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    fn of(raw: &'a [u8]) -> Self {
        Self { rest: raw.get(1..).unwrap_or_default() }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.trim_ascii_start();
        let (element, behind) = rest.split_at_checked(end_of(rest)?)?;
        self.rest = behind_comma(behind);
        Some(element)
    }
}

/// The members of an object as written: what stands between the quotes of the name, and the value.
#[derive(Clone, Debug)]
struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    fn of(raw: &'a [u8]) -> Self {
        Self { rest: raw.get(1..).unwrap_or_default() }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let inside = self.rest.trim_ascii_start().strip_prefix(b"\"")?;
        let (name, behind) = inside.split_at_checked(quote(inside)?)?;
        let rest = behind.get(1..)?.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let (value, behind) = rest.split_at_checked(end_of(rest)?)?;
        self.rest = behind_comma(behind);
        Some((name, value))
    }
}

/// What follows the comma that `rest` begins with; nothing where there is none.
fn behind_comma(rest: &[u8]) -> &[u8] {
    rest.trim_ascii_start().strip_prefix(b",").unwrap_or_default()
}

/// Where the value ends that `rest` begins with.
fn end_of(rest: &[u8]) -> Option<usize> {
    match rest.first()? {
        b'"' => Some(quote(rest.get(1..)?)? + 2),
        b'[' => end_of_nest(rest, b'[', b']'),
        b'{' => end_of_nest(rest, b'{', b'}'),
        b'}' | b']' | b',' | b':' => None,
        _ => {
            let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
            Some(rest.iter().position(ends).unwrap_or(rest.len()))
        }
    }
}

/// Where the list or object ends. Brackets of the other kind pair up in between, and need no look.
fn end_of_nest(rest: &[u8], open: u8, close: u8) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        let left = rest.get(at..)?;
        let found = memchr::memchr3(b'"', open, close, left)?;
        at += found + 1;
        let byte = left[found];
        if byte == b'"' {
            at += quote(rest.get(at..)?)? + 1;
        } else if byte == open {
            depth += 1;
        } else {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
}

/// Where the quote stands that ends a text.
fn quote(inside: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let left = inside.get(at..)?;
        let found = memchr::memchr2(b'"', b'\\', left)?;
        if left[found] == b'"' {
            return Some(at + found);
        }
        at += found + 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(raw: &str) -> Value<'_> {
        Value::read(raw.as_bytes()).unwrap_or_else(|| panic!("{raw} is no value"))
    }

    fn fed(value: Value<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.feed(&mut |some| bytes.extend_from_slice(some));
        bytes
    }

    /// Two values are the same, and their bytes with them, or not (`None`: of different types).
    fn check(one: &str, other: &str, want: Option<bool>) {
        let (left, right) = (read(one), read(other));
        assert_eq!(left.same(right), want, "{one} {other}");
        assert_eq!(right.same(left), want, "{other} {one}");
        assert_eq!(fed(left) == fed(right), want == Some(true), "{one} {other}");
    }

    #[test]
    fn values_are_found_by_name_and_place() {
        let value =
            read(r#" {"a" : [1, {"b\\":[]}, "x,]}" , -2e3 ] ,"\u0061mount":{"c":null},"\ud83d\ude00":true,"":""} "#);
        let list = value.member("a").unwrap();
        assert_eq!(list.size(), Some(4));
        assert_eq!(list.items().count(), 4);
        assert_eq!(list.index(0).and_then(|it| it.same(read("1.0"))), Some(true));
        assert_eq!(list.index(1).and_then(|it| it.member("b\\")).and_then(Value::size), Some(0));
        assert_eq!(list.index(2).and_then(|it| it.same(read(r#""x,]}""#))), Some(true));
        assert_eq!(list.index(3).and_then(|it| it.same(read("-2000"))), Some(true));
        assert!(list.index(4).is_none() && list.index(u64::MAX).is_none() && list.member("a").is_none());
        assert!(matches!(value.member("amount").and_then(|it| it.member("c")), Some(Value::Null)));
        assert!(matches!(value.member("😀"), Some(Value::Bool(true))));
        assert_eq!(value.member("").and_then(Value::size), Some(0));
        assert!(value.member("b").is_none() && value.member("\\u0061mount").is_none() && value.index(0).is_none());
        assert_eq!(value.size(), Some(4));
        assert_eq!(
            value.members().map(|(name, _)| name.with_str(str::to_owned)).collect::<Vec<_>>(),
            ["a", "amount", "😀", ""]
        );
        assert_eq!(read(r#""é\ud83d\ude00""#).size(), Some(2));
        assert_eq!(read("12").size(), None);
    }

    #[test]
    fn the_same_value_is_the_same_however_written() {
        let same = Some(true);
        check("2", "2.0", same);
        check("0.2e1", "2", same);
        check("-0", "0.0e9", same);
        check("1e400", "10e399", same);
        check("9007199254740993", "9007199254740992", Some(false));
        check("1e400", "1e401", Some(false));
        check(&"1".repeat(60), &format!("{}.0", "1".repeat(60)), same);
        check(&"1".repeat(60), &format!("{}e-1", "1".repeat(61)), Some(false));
        check(&"1".repeat(60), "1", Some(false));
        check(r#""\u0061""#, r#""a""#, same);
        check(r#""a""#, r#""b""#, Some(false));
        check(r#"{"a":1,"b":[true,null]}"#, r#"{ "\u0062" : [ true , null ] , "a":1.0}"#, same);
        check(r#"{"a":1,"b":2}"#, r#"{"a":1}"#, Some(false));
        check(r#"{"a":1}"#, r#"{"b":1}"#, Some(false));
        check(r#"{"a":1,"b":2}"#, r#"{"b":1,"a":2}"#, Some(false));
        check("[1,2]", "[2,1]", Some(false));
        check("[1]", "[1,1]", Some(false));
        check("[[],{}]", "[{},[]]", Some(false));
        check("[1]", r#"["1"]"#, Some(false));
        check("[]", " [ ] ", same);
        check("{}", "{ }", same);
        check("null", "null", same);
        check("true", "false", Some(false));
        for (one, other) in [("1", r#""1""#), ("null", "false"), ("[]", "{}"), ("null", "0"), (r#""true""#, "true")] {
            check(one, other, None);
        }
    }

    #[test]
    fn no_text_is_taken_for_structure() {
        check(r#"["a","b"]"#, r#"["a\",\"b"]"#, Some(false));
        check(r#"{"a":"b"}"#, r#"{"a\":\"b":""}"#, Some(false));
        check(r#"[["a"],"b"]"#, r#"[["a","b"]]"#, Some(false));
    }

    #[test]
    fn depth_and_length_are_no_trouble() {
        let nest = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let deep = nest(VALUE_DEPTH_MAX);
        let spaced = deep.replace('1', "1.0");
        check(&deep, &spaced, Some(true));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(VALUE_DEPTH_MAX), "}".repeat(VALUE_DEPTH_MAX));
        check(&objects, &objects.replace('1', "1.0"), Some(true));
        // What nobody reads: it must only end.
        let deeper = nest(2_000);
        assert_eq!(fed(read(&deeper)), fed(read(&deeper)));
        assert_eq!(read(&deeper).same(read(&deeper.replace('1', "2"))), Some(false));
        // Ten thousand members in the opposite order.
        let member = |at: usize| format!("\"m{at}\":{at}");
        let up = format!("{{{}}}", (0..10_000).map(member).collect::<Vec<_>>().join(","));
        let down = format!("{{{}}}", (0..10_000).rev().map(member).collect::<Vec<_>>().join(","));
        check(&up, &down, Some(true));
        assert_eq!(read(&up).member("m9999").and_then(|it| it.same(read("9999"))), Some(true));
    }

    proptest! {
        /// Bytes that are no JSON are looked through like any others.
        #[test]
        fn nothing_panics(raw in "[\\[\\]{}\",:\\\\u01e.tn -]{0,40}", at in 0_u64..4) {
            let bytes = raw.as_bytes();
            for value in [Value::read(bytes), Some(Value::List(bytes)), Some(Value::Object(bytes))].into_iter().flatten() {
                let _ = (value.member("u"), value.index(at), value.size(), value.same(value), fed(value));
                prop_assert!(value.items().count() <= raw.len() && value.members().count() <= raw.len());
            }
        }

        #[test]
        fn values_agree_with_serde_json(one in json(), other in json(), name in "[a-c]") {
            let (raw, raw_other) = (one.to_string(), serde_json::to_string_pretty(&other).unwrap());
            let (value, value_other) = (read(&raw), read(&raw_other));
            prop_assert_eq!(fed(value) == fed(value_other), one == other);
            let same_type = std::mem::discriminant(&one) == std::mem::discriminant(&other);
            prop_assert_eq!(value.same(value_other), same_type.then_some(one == other));
            prop_assert_eq!(value.member(&name).map(fed), one.get(&name).map(|it| fed(read(&it.to_string()))));
            prop_assert_eq!(value.index(1).map(fed), one.get(1).map(|it| fed(read(&it.to_string()))));
            let size = one.as_str().map(|it| it.chars().count()).or(one.as_array().map(Vec::len)).or(one.as_object().map(|it| it.len()));
            prop_assert_eq!(value.size(), size.map(|it| it as u64));
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            (-3_i64..3).prop_map(Into::into),
            "[a\"\\\\\n😀]{0,2}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
                proptest::collection::btree_map("[a-c]", inner, 0..3)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
