//! Pins: what a definition is, whatever the order of its members and the blanks between them, what has changed in one,
//! and what in it a person would not see.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::limits::{DEFINITION_DEPTH_MAX, ITEM_NAME_BYTES_MAX};
use crate::jsonrpc::text::write_string;
use crate::mcp::catalog::ListKind;

/// SHA-256 of a definition in its canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

/// What one of a list is remembered by: its kind and its name, in either era.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    kind: u8,
    name: Box<str>,
}

/// Letters in a definition that a person who reads it does not see, or sees elsewhere than they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Letters without a shape: zero-width spaces and joiners, fillers, soft hyphens, spare variation selectors.
    pub invisible: bool,
    /// Letters that turn the direction of others.
    pub bidi: bool,
    /// Tag letters (U+E0000 to U+E007F), which spell ASCII that nobody sees.
    pub tags: bool,
    /// Control characters other than line breaks and tabs.
    pub control: bool,
}

/// One difference between two definitions.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where, as a JSON pointer (RFC 6901); empty for the whole.
    pub place: String,
    /// What was there; `None` for nothing.
    pub was: Option<Value>,
    /// What is there now; `None` for nothing.
    pub is: Option<Value>,
}

/// The pin of a definition. Every member counts, since every member goes on to clients; but of a resource not `size` and
/// `annotations` (which has `lastModified`), which change with what is in it. Numbers are as they are written.
///
/// `None` when it is no JSON object.
#[must_use]
pub fn pin(kind: ListKind, definition: &[u8]) -> Option<Pin> {
    let Tree::Object(mut members) = Tree::read(str::from_utf8(definition).ok()?, 0)? else { return None };
    if kind == ListKind::Resources {
        members.retain(|(name, _)| !VOLATILE.contains(&&**name));
    }
    let mut canonical = Vec::with_capacity(definition.len());
    Tree::Object(members).write(&mut canonical);
    Some(Pin::of(&canonical))
}

impl Pin {
    /// One pin for several, in whatever order they are.
    #[must_use]
    pub fn all(pins: impl IntoIterator<Item = (String, Self)>) -> Self {
        let mut lines: Vec<String> = pins.into_iter().map(|(name, pin)| format!("{pin} {name}")).collect();
        lines.sort_unstable();
        Self::of(lines.join("\n").as_bytes())
    }

    /// The pin whose hexadecimal digits these are.
    #[must_use]
    pub fn parse(digits: &str) -> Option<Self> {
        let digits = digits.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|nibble| u8::try_from(nibble).ok());
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// The digest itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        let mut digits = self.to_string();
        digits.truncate(12);
        digits
    }

    fn of(bytes: &[u8]) -> Self {
        let mut pin = [0; 32];
        pin.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
        Self(pin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl Key {
    /// The key of one of a list. Of a name longer than `ITEM_NAME_BYTES_MAX` (a URI may be) it has the beginning, and
    /// the digest of the whole.
    #[must_use]
    pub fn new(kind: ListKind, name: &str) -> Self {
        let kind = u8::try_from(kind.index()).unwrap_or(u8::MAX);
        if name.len() <= ITEM_NAME_BYTES_MAX {
            return Self { kind, name: name.into() };
        }
        let shown: String = name.chars().take(ITEM_NAME_BYTES_MAX / 8).collect();
        Self { kind, name: format!("{shown}... (SHA-256 {})", Pin::of(name.as_bytes())).into() }
    }

    /// Which list it is on.
    #[must_use]
    pub fn kind(&self) -> ListKind {
        ListKind::ALL[usize::from(self.kind) % ListKind::ALL.len()]
    }

    /// Its name, URI, or URI template.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The word for what it is.
    #[must_use]
    pub fn word(&self) -> &'static str {
        WORDS[self.kind().index()]
    }

    /// The key that was written so: `tool:NAME`, `prompt:NAME`, `resource:URI`, `template:URI TEMPLATE`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (word, name) = text.split_once(':')?;
        let kind = WORDS.iter().position(|known| *known == word)?;
        Some(Self::new(ListKind::ALL[kind], name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.word(), self.name)
    }
}

impl Flags {
    /// What is in a definition (JSON text), names of members included.
    #[must_use]
    pub fn of(definition: &[u8]) -> Self {
        let mut flags = Self::default();
        // Nothing to find in letters that are all plain, which most definitions are; an escape may hide one.
        if definition.iter().all(|byte| (b' '..=b'~').contains(byte) && *byte != b'\\') {
            return flags;
        }
        if let Some(tree) = str::from_utf8(definition).ok().and_then(|json| Tree::read(json, 0)) {
            tree.flags(&mut flags);
        }
        flags
    }

    /// Whether there is anything.
    #[must_use]
    pub fn any(self) -> bool {
        self != Self::default()
    }

    fn read(&mut self, text: &str) {
        let mut before = None;
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            let between = |side: Option<char>| side.is_some_and(|side| !side.is_ascii());
            match letter {
                '\t' | '\n' | '\r' => {}
                '\u{2028}' | '\u{2029}' => self.control = true,
                _ if letter.is_control() => self.control = true,
                '\u{e0000}'..='\u{e007f}' => self.tags = true,
                '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    self.bidi = true;
                }
                // Joiners within a script that needs them, or an emoji.
                '\u{200c}' | '\u{200d}' => {
                    self.invisible |= !(between(before) && between(letters.peek().copied()));
                }
                // One behind a sign chooses its shape; behind a plain letter, or another, it is cargo.
                '\u{fe00}'..='\u{fe0f}' => self.invisible |= !between(before) || before.is_some_and(selects),
                _ if selects(letter) || shapeless(letter) => self.invisible = true,
                _ => {}
            }
            before = Some(letter);
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).ok_or_else(|| D::Error::custom("this is no key of a definition"))
    }
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).ok_or_else(|| D::Error::custom("this is no SHA-256"))
    }
}

impl fmt::Display for Flags {
    /// `invisible, bidirectional and tag characters`, of what there is.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (self.invisible, "invisible"),
            (self.bidi, "bidirectional"),
            (self.tags, "tag"),
            (self.control, "control"),
        ];
        let named: Vec<&str> = named.iter().filter(|(there, _)| *there).map(|(_, word)| *word).collect();
        match named.split_last() {
            None => Ok(()),
            Some((last, [])) => write!(out, "{last} characters"),
            Some((last, others)) => write!(out, "{} and {last} characters", others.join(", ")),
        }
    }
}

/// Whether somebody who reads this letter sees nothing, or something else than is there.
#[must_use]
pub fn hides(letter: char) -> bool {
    let mut flags = Flags::default();
    flags.read(letter.encode_utf8(&mut [0; 4]));
    flags.any()
}

/// What differs between two definitions, in the order of `is` and then of what is gone. Lists of different length differ
/// as a whole.
#[must_use]
pub fn changes(was: &Value, is: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare(&mut String::new(), was, is, &mut found);
    found
}

fn compare(place: &mut String, was: &Value, is: &Value, found: &mut Vec<Change>) {
    let at = place.len();
    match (was, is) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in after {
                push_step(place, name);
                match before.get(name) {
                    Some(old) => compare(place, old, value, found),
                    None => found.push(Change { place: place.clone(), was: None, is: Some(value.clone()) }),
                }
                place.truncate(at);
            }
            for (name, old) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
                push_step(place, name);
                found.push(Change { place: place.clone(), was: Some(old.clone()), is: None });
                place.truncate(at);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (old, value)) in before.iter().zip(after).enumerate() {
                push_step(place, &index.to_string());
                compare(place, old, value, found);
                place.truncate(at);
            }
        }
        _ if was != is => found.push(Change { place: place.clone(), was: Some(was.clone()), is: Some(is.clone()) }),
        _ => {}
    }
}

fn push_step(place: &mut String, name: &str) {
    place.push('/');
    place.push_str(&name.replace('~', "~0").replace('/', "~1"));
}

/// Of a resource: what changes with its contents.
const VOLATILE: [&str; 2] = ["size", "annotations"];
/// What one of each list is called, by `ListKind::index`.
const WORDS: [&str; 4] = ["tool", "prompt", "resource", "template"];

/// Variation selectors.
fn selects(letter: char) -> bool {
    matches!(letter, '\u{180b}'..='\u{180d}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Letters without a shape (Unicode: default ignorable code points, and the blanks that are letters).
fn shapeless(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}' | '\u{180f}' | '\u{200b}'
        | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0080}'..='\u{e00ff}'
        | '\u{e01f0}'..='\u{e0fff}')
}

/// JSON with its numbers as written and with every member, should a name be there twice: two readers that take
/// different ones must not see one pin.
enum Tree<'a> {
    Object(Vec<(Box<str>, Tree<'a>)>),
    List(Vec<Tree<'a>>),
    Text(Box<str>),
    /// A number, `true`, `false` or `null`, as written.
    Word(&'a str),
}

impl<'a> Tree<'a> {
    /// `None` when it is no JSON, or nested deeper than `DEFINITION_DEPTH_MAX`.
    fn read(json: &'a str, depth: usize) -> Option<Self> {
        let below = |raw: &'a RawValue| Self::read(raw.get(), depth + 1);
        if depth > DEFINITION_DEPTH_MAX {
            return None;
        }
        Some(match json.trim_start().as_bytes().first()? {
            b'{' => {
                let Members(members) = serde_json::from_str(json).ok()?;
                let members = members.into_iter().map(|(name, raw)| Some((name, below(raw)?)));
                Self::Object(members.collect::<Option<_>>()?)
            }
            b'[' => {
                let list: Vec<&RawValue> = serde_json::from_str(json).ok()?;
                Self::List(list.into_iter().map(below).collect::<Option<_>>()?)
            }
            b'"' => Self::Text(serde_json::from_str(json).ok()?),
            _ => Self::Word(serde_json::from_str::<&RawValue>(json).ok()?.get()),
        })
    }

    /// The canonical form: members by name, nothing between, letters escaped in one way only.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Object(members) => {
                let mut order: Vec<&(Box<str>, Tree<'_>)> = members.iter().collect();
                order.sort_by(|one, other| one.0.cmp(&other.0));
                out.push(b'{');
                for (index, (name, value)) in order.into_iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_string(out, name);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
            Self::List(list) => {
                out.push(b'[');
                for (index, value) in list.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    value.write(out);
                }
                out.push(b']');
            }
            Self::Text(text) => write_string(out, text),
            Self::Word(word) => out.extend_from_slice(word.as_bytes()),
        }
    }

    fn flags(&self, flags: &mut Flags) {
        match self {
            Self::Object(members) => members.iter().for_each(|(name, value)| {
                flags.read(name);
                value.flags(flags);
            }),
            Self::List(list) => list.iter().for_each(|value| value.flags(flags)),
            Self::Text(text) => flags.read(text),
            Self::Word(_) => {}
        }
    }
}

/// The members of an object, in order, each of them.
struct Members<'a>(Vec<(Box<str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(json: &str) -> Pin {
        pin(ListKind::Tools, json.as_bytes()).unwrap()
    }

    #[test]
    fn order_and_blanks_do_not_matter() {
        let one = tool(r#"{"name":"a","inputSchema":{"type":"object","x":[1,2.50,true,null]},"description":"é \n"}"#);
        let other = tool(
            " {\n \"description\" : \"\\u00e9 \\n\", \"inputSchema\":{ \"x\" : [ 1 , 2.50, true , null ],\t\"type\":\"object\"} ,\"name\":\"\\u0061\" }\r\n",
        );
        assert_eq!(one, other);
        assert_eq!(Pin::parse(&one.to_string()), Some(one));
        assert_eq!(one.short().len(), 12);
        assert!(one.to_string().starts_with(&one.short()));
    }

    #[test]
    fn every_member_matters() {
        let base = json!({
            "name": "a", "title": "A", "description": "Does a.", "inputSchema": {"type": "object", "maximum": 1},
            "outputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}, "_meta": {"ui": {"x": 1}},
            "execution": {"taskSupport": "optional"}, "icons": [{"src": "https://a.test/i.png"}],
        });
        let mut seen = vec![tool(&base.to_string())];
        for name in base.as_object().unwrap().keys() {
            let mut changed = base.clone();
            changed[name] = json!("other");
            seen.push(tool(&changed.to_string()));
            changed.as_object_mut().unwrap().remove(name);
            seen.push(tool(&changed.to_string()));
        }
        let mut longer = base.clone();
        longer["new"] = Value::Null;
        seen.push(tool(&longer.to_string()));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    /// What one reader takes for another value, or a reader of the last twin, must not be one pin.
    #[test]
    fn values_are_compared_as_written() {
        let alike = [
            r#"{"n":1}"#,
            r#"{"n":1.0}"#,
            r#"{"n":18446744073709551616}"#,
            r#"{"n":18446744073709551617}"#,
            r#"{"n":"1"}"#,
            r#"{"n":[1]}"#,
            r#"{"n":1,"n":1}"#,
            r#"{"n":2,"n":1}"#,
            r#"{"n":1,"n":2}"#,
            r#"{"n":{"m":1}}"#,
            r#"{"n:":1}"#,
            r#"{}"#,
        ];
        let mut pins: Vec<Pin> = alike.iter().map(|json| tool(json)).collect();
        pins.sort();
        pins.dedup();
        assert_eq!(pins.len(), alike.len());
        for nothing in ["[]", "1", "", "{", "{\"a\":}", "{} {}"] {
            assert_eq!(pin(ListKind::Tools, nothing.as_bytes()), None, "{nothing}");
        }
        let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(pin(ListKind::Tools, deep(DEFINITION_DEPTH_MAX).as_bytes()).is_some());
        assert_eq!(pin(ListKind::Tools, deep(DEFINITION_DEPTH_MAX + 1).as_bytes()), None);
        assert_eq!(pin(ListKind::Tools, deep(100_000).as_bytes()), None);
    }

    #[test]
    fn a_resource_may_grow() {
        let resource = |size: u64, name: &str| {
            let resource = json!({"uri": "file:///a", "name": name, "size": size,
                "annotations": {"lastModified": size.to_string()}});
            pin(ListKind::Resources, resource.to_string().as_bytes()).unwrap()
        };
        assert_eq!(resource(1, "a"), resource(2, "a"));
        assert_ne!(resource(1, "a"), resource(1, "b"));
        let template = |size: u64| pin(ListKind::Templates, format!("{{\"size\":{size}}}").as_bytes()).unwrap();
        assert_ne!(template(1), template(2));
    }

    #[test]
    fn several_pins_are_one_in_any_order() {
        let of = |name: &str, json: &str| (name.to_owned(), tool(json));
        let (a, b) = (of("a", "{}"), of("b", r#"{"n":1}"#));
        assert_eq!(Pin::all([a.clone(), b.clone()]), Pin::all([b.clone(), a.clone()]));
        assert_ne!(Pin::all([a.clone(), b.clone()]), Pin::all([a.clone()]));
        assert_ne!(Pin::all([("a".to_owned(), b.1)]), Pin::all([a]));
    }

    #[test]
    fn keys_are_words() {
        for (kind, text) in [
            (ListKind::Tools, "tool:a:b"),
            (ListKind::Prompts, "prompt:"),
            (ListKind::Resources, "resource:file:///a"),
            (ListKind::Templates, "template:file:///{a}"),
        ] {
            let key = Key::parse(text).unwrap();
            assert_eq!((key.kind(), key.to_string().as_str()), (kind, text));
            assert_eq!(Key::new(kind, key.name()), key);
        }
        let long = |last: &str| Key::new(ListKind::Resources, &format!("{}{last}", "é".repeat(ITEM_NAME_BYTES_MAX)));
        assert!(long("a") != long("b") && long("a").name().len() < ITEM_NAME_BYTES_MAX);
        assert_eq!(Key::new(ListKind::Resources, long("a").name()), long("a"));
        assert_eq!((Key::parse("tool"), Key::parse("tools:a")), (None, None));
        assert_eq!((Pin::parse("12"), Pin::parse(&"g".repeat(64)), Pin::parse(&"+1".repeat(32))), (None, None, None));
    }

    fn flagged(text: &str) -> String {
        let definition = json!({"name": "a", "description": text}).to_string();
        let written = Flags::of(definition.as_bytes());
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        let named = Flags::of(format!("{{\"x\":[{{\"{escaped}\":1}}]}}").as_bytes());
        assert_eq!(written, named, "{text:?}: as a value, and as an escaped name");
        assert_eq!(written.any(), !written.to_string().is_empty());
        written.to_string()
    }

    #[test]
    fn letters_that_nobody_sees_are_flagged() {
        assert_eq!(flagged("Grüße, 工具 \t\r\n ~"), "");
        for invisible in [
            "a\u{200b}b",
            "\u{feff}",
            "so\u{ad}ft",
            "\u{2060}",
            "\u{3164}",
            "a\u{fe0f}",
            "x\u{e0100}",
            "a\u{200d}b",
            "\u{2764}\u{fe0f}\u{fe0e}",
        ] {
            assert_eq!(flagged(invisible), "invisible characters", "{invisible:?}");
        }
        for bidi in ["a\u{202e}b", "\u{2066}", "\u{200f}", "\u{61c}"] {
            assert_eq!(flagged(bidi), "bidirectional characters", "{bidi:?}");
        }
        assert_eq!(flagged("\u{e0041}\u{e007f}"), "tag characters");
        for control in ["\u{1b}[2J", "\u{0}", "\u{9b}", "a\u{2028}b"] {
            assert_eq!(flagged(control), "control characters", "{control:?}");
        }
        assert_eq!(flagged("\u{200b}\u{202e}\u{e0041}"), "invisible, bidirectional and tag characters");
        // Where scripts and signs need them, they are seen.
        for seen in ["\u{1f469}\u{200d}\u{1f4bb}", "\u{2764}\u{fe0f}", "\u{646}\u{200c}\u{647}"] {
            assert_eq!(flagged(seen), "", "{seen:?}");
        }
        assert!(hides('\u{200b}') && hides('\u{7f}') && !hides('a') && !hides('é') && !hides('\n'));
    }

    #[test]
    fn changes_have_places() {
        let was = json!({"name": "a", "description": "Old.", "x": [1, {"y/z": 1}], "gone": true, "list": [1]});
        let is = json!({"name": "a", "description": "New.", "x": [1, {"y/z": 2}], "list": [1, 2], "new": {}});
        let change = |place: &str, was: Option<Value>, is: Option<Value>| Change { place: place.into(), was, is };
        assert_eq!(
            changes(&was, &is),
            [
                change("/description", Some(json!("Old.")), Some(json!("New."))),
                change("/list", Some(json!([1])), Some(json!([1, 2]))),
                change("/new", None, Some(json!({}))),
                change("/x/1/y~1z", Some(json!(1)), Some(json!(2))),
                change("/gone", Some(json!(true)), None),
            ]
        );
        assert_eq!(changes(&was, &was), []);
    }
}
