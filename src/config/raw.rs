//! The file as a tree in which every node knows where it stands. Serde's derive would stop at the first fault and
//! forget the places of keys; here nothing is judged yet, not even a key that stands twice.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, MessageFormatter, Spanned, UserMessageFormatter};
use zeroize::Zeroize as _;

use crate::base::limits::{CONFIG_ALIASED_MAX, CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX, CONFIG_NODES_MAX};
use crate::config::fault::{Fault, Weight};
use crate::config::scalar;

/// Reads `text` as one YAML document (JSON is YAML). A syntax error is one fault: nothing behind it can be trusted.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > CONFIG_BYTES_MAX {
        return Err(whole(1, 1, format!("the file is longer than {CONFIG_BYTES_MAX} bytes")));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: CONFIG_DEPTH_MAX,
            max_nodes: CONFIG_NODES_MAX,
            max_events: 2 * CONFIG_NODES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: CONFIG_ALIASED_MAX },
        emit_comments: false,
        // Reported by `shape`, with all the other faults.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `off` is a word, not a boolean.
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let node = serde_saphyr::from_str_with_options::<Node>(text, options);
    node.map_err(|error| syntax(&error))
}

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) value: Value,
    /// From a variable or a file, so perhaps a secret, or one for certain: never quoted.
    pub(crate) foreign: bool,
    /// The bytes of the file that spell the value, also where it is written elsewhere (an alias).
    pub(crate) spelt: Range<usize>,
}

/// What was typed; later, in place of some texts, what it means.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, or the word `null`.
    Null,
    Flag(bool),
    /// A number; `Some` when it is a whole one, not below 0.
    Number(Option<u64>),
    Text(String),
    List(Vec<Node>),
    Block(Block),
    /// A duration in milliseconds, a size in bytes, a count: checked by `shape`.
    Amount(u64),
    /// At fault, and reported: whoever meets it says no more about it.
    Bad,
}

/// Keys and values, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) entries: Vec<Entry>,
    /// A key of this block was reported and left out; what seems to be missing may not be.
    pub(crate) partial: bool,
}

/// A key, where it stands, and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Place,
    pub(crate) node: Node,
}

/// A place in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// From 1.
    pub(crate) line: usize,
    /// In characters, from 1.
    pub(crate) column: usize,
    /// The bytes of the file that spell the value, quotes included; empty when it is written elsewhere (an alias).
    pub(crate) spelt: Range<usize>,
}

impl Node {
    /// A text that stands here, a key for example.
    pub(crate) fn text_at(text: &str, at: &Place) -> Self {
        Self { at: at.clone(), value: Value::Text(text.to_owned()), foreign: false, spelt: 0..0 }
    }

    /// The value of `key`, unless it is absent or at fault.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let entry = self.entries().iter().find(|entry| entry.key == key)?;
        (!matches!(entry.node.value, Value::Bad)).then_some(&entry.node)
    }

    /// Whether `key` was written, be it at fault.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries().iter().any(|entry| entry.key == key)
    }

    /// Keys and values of a block; none of anything else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Block(block) => &block.entries,
            _ => &[],
        }
    }

    /// Wipes what came from a variable or a file, or is secret anyway: for when all of it has been read.
    pub(crate) fn wipe(&mut self) {
        match &mut self.value {
            Value::Text(text) if self.foreign => text.zeroize(),
            Value::List(items) => items.iter_mut().for_each(Self::wipe),
            Value::Block(block) => block.entries.iter_mut().for_each(|entry| entry.node.wipe()),
            _ => {}
        }
    }

    /// Elements of a list; none of anything else.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The amount, if `shape` found one.
    pub(crate) fn amount(&self) -> Option<u64> {
        match self.value {
            Value::Amount(amount) => Some(amount),
            _ => None,
        }
    }

    /// Whether it is the flag `true`.
    pub(crate) fn is_true(&self) -> bool {
        matches!(self.value, Value::Flag(true))
    }

    /// Whether it is a block with all its keys: what it does not have, its author did not write.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(&self.value, Value::Block(block) if !block.partial)
    }

    /// Whether keys of it were reported and left out.
    pub(crate) fn is_partial(&self) -> bool {
        matches!(&self.value, Value::Block(block) if block.partial)
    }
}

impl Place {
    /// The place of character `offset` (from 0) of `text`, the value that stands here, one past its end too: behind
    /// escapes, folded lines and a block's indentation as well. The value's own place where what comes before it is
    /// written elsewhere (a variable, an alias).
    pub(crate) fn inside(&self, file: &str, text: &str, offset: usize) -> Place {
        let (line, column) =
            scalar::place(file, &self.spelt, text, offset).map_or((self.line, self.column), |(lines, columns)| {
                match lines {
                    0 => (self.line, self.column + columns),
                    lines => (self.line + lines, columns + 1),
                }
            });
        Place { line, column, spelt: self.spelt.clone() }
    }
}

fn syntax(error: &Error) -> Fault {
    let error = error.without_snippet();
    let (line, column) = error.location().map_or((1, 1), |at| {
        let place = place(at, at);
        (place.line, place.column)
    });
    let message = match error {
        Error::MultipleDocuments { .. } => "a second document; one file is one document".into(),
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } => "too long, or nested too deeply".into(),
        error => UserMessageFormatter.format_message(error),
    };
    whole(line, column, message.replace(char::is_control, " "))
}

fn whole(line: usize, column: usize, message: String) -> Fault {
    Fault { file: None, weight: Weight::Error, line, column, path: String::new(), message, hint: None, veiled: false }
}

fn place(referenced: Location, defined: Location) -> Place {
    let at = if referenced == Location::UNKNOWN { defined } else { referenced };
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    let span = at.span();
    let spelt = match (span.byte_offset(), span.byte_len()) {
        (Some(start), Some(len)) if referenced == defined => {
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            start..start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX))
        }
        _ => 0..0,
    };
    Place { line: number(at.line()), column: number(at.column()), spelt }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, defined } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: place(referenced, defined), value, foreign: false, spelt: place(defined, defined).spelt })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(Some(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(u64::try_from(number).ok()))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Number(None))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Number(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Number(None))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key_at = place(key.referenced, key.defined);
            let node = map.next_value()?;
            entries.push(Entry { key: key.value, key_at, node });
        }
        if entries.len() > CONFIG_NODES_MAX {
            return Err(A::Error::custom("too many keys"));
        }
        Ok(Value::Block(Block { entries, partial: false }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(node: &Node, path: &str, out: &mut Vec<String>) {
        match &node.value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    leaves(item, &format!("{path}[{index}]"), out);
                }
            }
            Value::Block(block) => {
                for entry in &block.entries {
                    out.push(format!("{path}.{} {}:{}", entry.key, entry.key_at.line, entry.key_at.column));
                    leaves(&entry.node, &format!("{path}.{}", entry.key), out);
                }
            }
            value => out.push(format!("{path} {}:{} {value:?}", node.at.line, node.at.column)),
        }
    }

    #[track_caller]
    fn check(input: &str, want: &[&str]) {
        let mut out = Vec::new();
        match parse(input) {
            Ok(node) => leaves(&node, "", &mut out),
            Err(fault) => out.push(fault.to_string()),
        }
        assert_eq!(out, want);
    }

    #[test]
    fn every_node_has_its_place() {
        check(
            "a: 1\nb:\n  - x\n  - {c: off, 'd': \"q\"}\n# end\ne:\n",
            &[
                ".a 1:1",
                ".a 1:4 Number(Some(1))",
                ".b 2:1",
                ".b[0] 3:5 Text(\"x\")",
                ".b[1].c 4:6",
                ".b[1].c 4:9 Text(\"off\")",
                ".b[1].d 4:14",
                ".b[1].d 4:19 Text(\"q\")",
                ".e 6:1",
                ".e 6:2 Null",
            ],
        );
    }

    #[test]
    fn json_is_yaml() {
        check(
            r#"{"a": [true, -1, 1.5]}"#,
            &[".a 1:2", ".a[0] 1:8 Flag(true)", ".a[1] 1:14 Number(None)", ".a[2] 1:18 Number(None)"],
        );
    }

    #[test]
    fn keys_that_stand_twice_are_kept() {
        check("a: 1\na: 2\n", &[".a 1:1", ".a 1:4 Number(Some(1))", ".a 2:1", ".a 2:4 Number(Some(2))"]);
    }

    #[test]
    fn an_alias_stands_where_it_is_used() {
        check("a: &x hello\nb: *x\n", &[".a 1:1", ".a 1:7 Text(\"hello\")", ".b 2:1", ".b 2:4 Text(\"hello\")"]);
    }

    #[test]
    fn merged_keys_are_there() {
        check(
            "a: &x {k: 1}\nb:\n  <<: *x\n  l: 2\n",
            &[
                ".a 1:1",
                ".a.k 1:8",
                ".a.k 1:11 Number(Some(1))",
                ".b 2:1",
                ".b.l 4:3",
                ".b.l 4:6 Number(Some(2))",
                ".b.k 3:7",
                ".b.k 3:7 Number(Some(1))",
            ],
        );
    }

    #[test]
    fn an_empty_file_is_nothing() {
        check("", &[" 1:1 Null"]);
        check("# only a word\n", &[" 2:1 Null"]);
    }

    #[test]
    fn syntax_errors_have_a_place() {
        check("a: [1\nb: 2\n", &["2:2: illegal placement of ':' indicator"]);
        check("a: \"x\n", &["2:1: invalid indentation in multiline quoted scalar"]);
        check("a: 1\n---\nb: 2\n", &["3:1: a second document; one file is one document"]);
        check("a: !!python/object x\n", &["1:20: unsupported tag `!!python/object`"]);
        check("? [a]\n: b\n", &["1:3: expected string scalar"]);
        check("a: *nowhere\n", &["1:4: reference to unknown value"]);
    }

    #[test]
    fn bombs_do_not_go_off() {
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", below.trim_end_matches(", ")));
        }
        assert!(parse(&bomb).is_err());
    }
}
