//! The tree against the table of keys: unknown keys, keys for later, keys that stand twice, values of another shape,
//! and the `${…}` of texts. What is at fault is reported once and taken out, so that `check` meets only what fits.

use std::mem;
use std::path::Path;

use crate::config::expand::{self, Source};
use crate::config::fault::{Faults, lines_of, nearest};
use crate::config::raw::{Block, Entry, Node, Place, Value};
use crate::config::schema::{Key, Kind, ROOT, State, Word};

/// Makes the whole file fit these keys.
///
/// False when it is no block at all: then there is nothing to check.
pub(crate) fn fit(
    root: &mut Node,
    keys: &'static [Key],
    text: &str,
    (folder, source): (&Path, &dyn Source),
    faults: &mut Faults,
) -> bool {
    if matches!(root.value, Value::Null) {
        root.at = Place { line: 1, column: 1, spelt: 0..0 };
        root.value = Value::Block(Block { entries: Vec::new(), partial: false });
    }
    let whole = matches!(root.value, Value::Block(_));
    if whole {
        Shaper { text, folder, source, faults }.block(root, keys, "");
    } else {
        let hint = keys.first().map(|key| format!("write `{}: …`", key.name));
        faults.error(&root.at, "", format!("expected keys, found {}", found(root)), hint);
    }
    whole
}

/// `path.key`, or `key` alone at the top.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A value for a message: itself, unless it came from outside.
pub(crate) fn quoted(node: &Node) -> String {
    match node.text() {
        Some(text) if !node.foreign => quote(text),
        _ => "the value".to_owned(),
    }
}

/// A text for a message, cut and cleaned.
pub(crate) fn quote(text: &str) -> String {
    let shown: String = text.chars().take(QUOTED_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let more = if text.chars().count() > QUOTED_CHARS { "…" } else { "" };
    format!("`{shown}{more}`")
}

struct Shaper<'a> {
    text: &'a str,
    folder: &'a Path,
    source: &'a dyn Source,
    faults: &'a mut Faults,
}

impl Shaper<'_> {
    fn block(&mut self, node: &mut Node, keys: &'static [Key], path: &str) {
        let Value::Block(block) = &mut node.value else {
            return;
        };
        self.doubles(block, path);
        let mut kept = Vec::with_capacity(block.entries.len());
        for mut entry in mem::take(&mut block.entries) {
            let here = join(path, &entry.key);
            match keys.iter().find(|key| key.name == entry.key) {
                None => {
                    self.faults.error(&entry.key_at, &here, "is not a key", unknown_hint(&entry.key, keys, path));
                    if keys.iter().any(|key| matches!(key.kind, Kind::Secret)) {
                        self.veil(&entry.node);
                    }
                    block.partial = true;
                }
                Some(Key { state: State::Later(instead), .. }) => {
                    self.faults.later(&entry.key_at, &here, &quote(&entry.key), instead);
                    block.partial = true;
                }
                Some(key) => {
                    self.value(&mut entry.node, &key.kind, &here);
                    kept.push(entry);
                }
            }
        }
        block.entries = kept;
        if block.partial {
            return;
        }
        for key in keys {
            let Some(hint) = key.required else { continue };
            if !block.entries.iter().any(|entry| entry.key == key.name) {
                self.faults.error(&node.at, path, format!("`{}` is missing", key.name), hint);
            }
        }
    }

    fn named(&mut self, node: &mut Node, of: &'static Kind, path: &str) {
        let Value::Block(block) = &mut node.value else {
            return;
        };
        self.doubles(block, path);
        for entry in &mut block.entries {
            self.value(&mut entry.node, of, &join(path, &entry.key));
        }
    }

    fn value(&mut self, node: &mut Node, kind: &'static Kind, path: &str) {
        if matches!(kind, Kind::Any) {
            return;
        }
        if matches!(kind, Kind::Secret) {
            self.secret(node, path);
        }
        if !self.expand(node, path) {
            return;
        }
        let kind = match kind {
            Kind::Either(kinds) => kinds.iter().find(|kind| fits_one(kind, node)).unwrap_or(kind),
            kind => kind,
        };
        if matches!(kind, Kind::Either(_)) || !fits(kind, node) {
            self.misfit(node, kind, path);
            return;
        }
        match kind {
            Kind::Block(keys) => self.block(node, keys, path),
            Kind::Named(_, of) => self.named(node, of, path),
            Kind::List(of) => {
                let Value::List(items) = &mut node.value else {
                    return;
                };
                for (index, item) in items.iter_mut().enumerate() {
                    self.value(item, of, &format!("{path}[{index}]"));
                }
            }
            Kind::Word(words) => self.word(node, words, path),
            Kind::Flag => self.flag(node),
            Kind::Decimal => self.decimal(node, path),
            Kind::Count(least, most) => self.amount(node, path, kind, digits, (*least, *most)),
            Kind::Duration(least, most) => self.amount(node, path, kind, milliseconds, (*least, *most)),
            Kind::Size(least, most) => self.amount(node, path, kind, bytes, (*least, *most)),
            Kind::Text | Kind::Secret | Kind::Form(_) | Kind::Either(_) | Kind::Any => {}
        }
    }

    /// What a secret is written as is shown to nobody, and best written elsewhere.
    fn secret(&mut self, node: &mut Node, path: &str) {
        self.veil(node);
        if node.text().is_some_and(|text| !text.is_empty() && !text.contains("${")) {
            let message = "is a secret, and written for everybody to read who may read this file";
            self.faults.warn(&node.at, path, message, "write it as \"${file:./secrets/NAME}\" or \"${NAME}\"");
        }
        node.foreign = true;
    }

    /// No fault shows the lines that this is written on.
    fn veil(&mut self, node: &Node) {
        self.faults.veil(lines_of(self.text, &node.spelt));
        self.faults.veil(node.at.line..=node.at.line);
    }

    /// Whether the text, if it is one, is now what it stands for.
    fn expand(&mut self, node: &mut Node, path: &str) -> bool {
        let Value::Text(text) = &node.value else {
            return true;
        };
        match expand::expand(text, self.folder, self.source) {
            Ok(None) => true,
            Ok(Some(expanded)) => {
                node.value = Value::Text(expanded);
                node.foreign = true;
                true
            }
            Err(faults) => {
                for fault in faults {
                    let at = node.at.inside(self.text, text, fault.offset);
                    self.faults.error(&at, path, fault.kind.to_string(), fault.kind.hint());
                }
                node.value = Value::Bad;
                false
            }
        }
    }

    fn misfit(&mut self, node: &mut Node, kind: &Kind, path: &str) {
        if leads_to_secrets(kind) && misfit_hint(node, kind).is_none() {
            // A secret without its key, most likely.
            self.veil(node);
            node.foreign = true;
        }
        let message = match (kind, &node.value) {
            (Kind::Either(_), Value::Text(_)) => {
                format!("{} is not {}", quoted(node), describe(kind))
            }
            _ => format!("expected {}, found {}", describe(kind), found(node)),
        };
        self.faults.error(&node.at, path, message, misfit_hint(node, kind));
        node.value = Value::Bad;
    }

    fn word(&mut self, node: &mut Node, words: &'static [Word], path: &str) {
        let Some(text) = node.text() else { return };
        match words.iter().find(|word| word.text == text).map(|word| word.state) {
            Some(State::Served) => return,
            Some(State::Later(instead)) => self.faults.later(&node.at, path, &quote(text), instead),
            None => {
                let message = format!("{} is not {}", quoted(node), describe(&Kind::Word(words)));
                let hint = nearest(text, words.iter().map(|word| word.text)).filter(|_| !node.foreign);
                self.faults.error(&node.at, path, message, hint);
            }
        }
        node.value = Value::Bad;
    }

    /// A flag from a variable is still a text here.
    fn flag(&mut self, node: &mut Node) {
        if let Some(text) = node.text() {
            node.value = Value::Flag(text == "true");
        }
    }

    /// A number as it was typed, which is a text from now on: a float would not hold all of its digits.
    fn decimal(&mut self, node: &mut Node, path: &str) {
        let spelt = match &node.value {
            Value::Number(whole) => {
                let spelt = self.text.get(node.at.spelt.clone()).filter(|spelt| is_decimal(spelt));
                spelt.map(str::to_owned).or_else(|| whole.map(|whole| whole.to_string()))
            }
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        if let Some(spelt) = spelt {
            node.value = Value::Text(spelt);
            return;
        }
        self.faults.error(&node.at, path, "is not a number from 0", "write it like 500 or 99.95");
        node.value = Value::Bad;
    }

    fn amount(&mut self, node: &mut Node, path: &str, kind: &Kind, read: Read, (least, most): (u64, u64)) {
        let amount = match &node.value {
            Value::Number(number) => *number,
            Value::Text(text) => read(text),
            _ => None,
        };
        let Some(amount) = amount else {
            let message = format!("{} is not {}", quoted(node), describe(kind));
            self.faults.error(&node.at, path, message, "");
            node.value = Value::Bad;
            return;
        };
        if (least..=most).contains(&amount) {
            node.value = Value::Amount(amount);
            return;
        }
        let (least, most) = (spell(kind, least), spell(kind, most));
        self.faults.error(&node.at, path, format!("must be from {least} to {most}"), "");
        node.value = Value::Bad;
    }

    fn doubles(&mut self, block: &mut Block, path: &str) {
        let mut first = std::collections::HashMap::new();
        for entry in mem::take(&mut block.entries) {
            if let Some(line) = first.get(&entry.key) {
                let message = format!("stands twice; first on line {line}");
                self.faults.error(&entry.key_at, &join(path, &entry.key), message, "keep one of them");
                continue;
            }
            first.insert(entry.key.clone(), entry.key_at.line);
            block.entries.push(Entry { key: entry.key, key_at: entry.key_at, node: entry.node });
        }
    }
}

/// Whether a text here may be one that belongs under a key.
fn leads_to_secrets(kind: &Kind) -> bool {
    match kind {
        Kind::Secret => true,
        Kind::Block(keys) => keys.iter().any(|key| matches!(key.kind, Kind::Secret)),
        Kind::Either(kinds) => kinds.iter().any(leads_to_secrets),
        _ => false,
    }
}

type Read = fn(&str) -> Option<u64>;

/// Whether the value is of this shape at all; what a text says is looked at later.
fn fits(kind: &Kind, node: &Node) -> bool {
    match (kind, &node.value) {
        (Kind::Any, _)
        | (Kind::Text | Kind::Secret | Kind::Form(_) | Kind::Duration(..) | Kind::Size(..), Value::Text(_))
        | (Kind::Flag, Value::Flag(_))
        | (Kind::Count(..) | Kind::Decimal, Value::Number(_))
        | (Kind::List(_), Value::List(_))
        | (Kind::Block(_) | Kind::Named(..), Value::Block(_)) => true,
        (Kind::Word(_), Value::Text(_)) => true,
        (Kind::Flag, Value::Text(text)) => node.foreign && matches!(text.as_str(), "true" | "false"),
        (Kind::Count(..), Value::Text(text)) => node.foreign && digits(text).is_some(),
        (Kind::Decimal, Value::Text(text)) => is_decimal(text),
        _ => false,
    }
}

/// As [`fits`], where other shapes are allowed too: a text that is none of the words may be one of them.
fn fits_one(kind: &Kind, node: &Node) -> bool {
    match (kind, node.text()) {
        (Kind::Word(words), Some(text)) => words.iter().any(|word| word.text == text),
        _ => fits(kind, node),
    }
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A number of JSON (RFC 8259, 6), not below nothing.
pub(crate) fn is_decimal(text: &str) -> bool {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits(whole) && (whole == "0" || !whole.starts_with('0')) && [fraction, exponent].into_iter().flatten().all(digits)
}

fn milliseconds(text: &str) -> Option<u64> {
    unit(text, &MS_UNITS)
}

fn bytes(text: &str) -> Option<u64> {
    unit(text, &BYTE_UNITS)
}

fn unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (_, factor) = units.iter().find(|(name, _)| *name == &text[at..])?;
    text[..at].parse::<u64>().ok()?.checked_mul(*factor)
}

/// An amount as the file would say it.
pub(crate) fn spell(kind: &Kind, amount: u64) -> String {
    let units: &[(&str, u64)] = match kind {
        // A day is said in hours.
        Kind::Duration(..) => &MS_UNITS[..4],
        Kind::Size(..) => &BYTE_UNITS,
        _ => &[("", 1)],
    };
    let largest = units.iter().rev().find(|(_, factor)| amount > 0 && amount.is_multiple_of(*factor));
    let (name, factor) = largest.unwrap_or(&units[0]);
    format!("{}{name}", amount / factor)
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Text | Kind::Secret => "a text".to_owned(),
        Kind::Form(form) => form.what.to_owned(),
        Kind::Flag => "true or false".to_owned(),
        Kind::Count(least, most) => format!("a whole number from {least} to {most}"),
        Kind::Decimal => "a number from 0".to_owned(),
        Kind::Duration(..) => "a duration".to_owned(),
        Kind::Size(..) => "a size".to_owned(),
        Kind::Word(_) | Kind::Either(_) => alternatives(each(kind)),
        Kind::List(_) => "a list".to_owned(),
        Kind::Block(_) => "keys".to_owned(),
        Kind::Named(what, _) => format!("keys, each the name of a {what}"),
        Kind::Any => "a value".to_owned(),
    }
}

/// What each of them is that a value may be.
fn each(kind: &Kind) -> Vec<String> {
    match kind {
        Kind::Word(words) => {
            let served = words.iter().filter(|word| matches!(word.state, State::Served));
            served.map(|word| quote(word.text)).collect()
        }
        Kind::Either(kinds) => kinds.iter().flat_map(each).collect(),
        kind => vec![describe(kind)],
    }
}

/// `a, b or c`.
pub(crate) fn alternatives(mut words: Vec<String>) -> String {
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last } else { format!("{} or {last}", words.join(", ")) }
}

fn found(node: &Node) -> &'static str {
    match node.value {
        Value::Null => "nothing",
        Value::Flag(_) => "true or false",
        Value::Number(_) | Value::Amount(_) => "a number",
        Value::Text(_) => "a text",
        Value::List(_) => "a list",
        Value::Block(_) => "keys",
        Value::Bad => "a fault",
    }
}

fn misfit_hint(node: &Node, kind: &Kind) -> Option<String> {
    let hint = match (kind, &node.value) {
        (_, Value::Null) => "give it a value, or leave the key out".to_owned(),
        (Kind::Duration(..), Value::Number(Some(number))) => {
            format!("with its unit: {number}ms or {number}s")
        }
        (Kind::Size(..), Value::Number(Some(number))) => {
            format!("with its unit: {number}B or {number}KiB")
        }
        (Kind::Either(kinds), Value::Text(text)) if !node.foreign => {
            let words = kinds.iter().flat_map(|kind| if let Kind::Word(words) = kind { words } else { &[][..] });
            return nearest(text, words.map(|word| word.text));
        }
        (Kind::List(_), Value::Text(text)) if !node.foreign => {
            let items: Vec<&str> = text.split([' ', ',']).filter(|item| !item.is_empty()).collect();
            format!("write [{}]", items.join(", "))
        }
        (Kind::Text | Kind::Secret, Value::Number(_) | Value::Flag(_)) => "put it in quotes".to_owned(),
        (Kind::Form(form), _) => format!("write {}", form.example),
        (Kind::Either([Kind::Form(form), ..] | [.., Kind::Form(form)]), _) => {
            format!("write {}", form.example)
        }
        _ => return None,
    };
    Some(hint)
}

/// The nearest key of this block, or where else a key of this name belongs.
fn unknown_hint(written: &str, keys: &'static [Key], path: &str) -> Option<String> {
    nearest(written, keys.iter().map(|key| key.name)).or_else(|| {
        if path.is_empty() && !std::ptr::eq(keys, ROOT) {
            let names = keys.iter().map(|key| quote(key.name));
            return Some(format!("a file of rules has {}", alternatives(names.collect())));
        }
        let place = elsewhere(written, ROOT, "")?;
        Some(format!("there is `{place}`"))
    })
}

fn elsewhere(written: &str, keys: &'static [Key], path: &str) -> Option<String> {
    keys.iter().find_map(|key| {
        let here = join(path, key.name);
        if key.name == written { Some(here) } else { below(written, &key.kind, &here) }
    })
}

fn below(written: &str, kind: &'static Kind, path: &str) -> Option<String> {
    match kind {
        Kind::Block(keys) => elsewhere(written, keys, path),
        Kind::List(of) => below(written, of, &format!("{path}[]")),
        Kind::Named(what, of) => below(written, of, &format!("{path}.{}", what.to_uppercase())),
        Kind::Either(kinds) => kinds.iter().find_map(|kind| below(written, kind, path)),
        _ => None,
    }
}

const MS_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const BYTE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const QUOTED_CHARS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        let check = |text, ms, size| assert_eq!((milliseconds(text), bytes(text)), (ms, size), "{text}");
        check("500ms", Some(500), None);
        check("20s", Some(20_000), None);
        check("10m", Some(600_000), None);
        check("24h", Some(86_400_000), None);
        check("7d", Some(604_800_000), None);
        check("64KiB", None, Some(65_536));
        check("1MiB", None, Some(1 << 20));
        check("2GiB", None, Some(2 << 30));
        check("7B", None, Some(7));
        for text in
            ["", "s", "KiB", "1", "1 s", "-1s", "+1s", "1.5s", "1S", "1kib", "1KB", "1sm", "99999999999999999999s"]
        {
            check(text, None, None);
        }
        check("18446744073709551615h", None, None);
    }

    #[test]
    fn amounts_are_spelt_with_their_largest_unit() {
        assert_eq!(spell(&Kind::Duration(0, 0), 86_400_000), "24h");
        assert_eq!(spell(&Kind::Duration(0, 0), 90_000), "90s");
        assert_eq!(spell(&Kind::Duration(0, 0), 0), "0ms");
        assert_eq!(spell(&Kind::Size(0, 0), 1 << 20), "1MiB");
        assert_eq!(spell(&Kind::Count(0, 0), 512), "512");
    }
}
