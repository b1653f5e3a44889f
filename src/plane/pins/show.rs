//! `portcullis pins`: what is known and what waits, as text; and a person's word on it. Texts of servers are shown so
//! that nothing in them moves a cursor, hides, or passes for a line of ours.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::base::limits::PINS_SHOWN_LETTERS_MAX;
use crate::config::{Pin as Mode, ServerSettings};
use crate::mcp::pin::{Change, Flags, Key, Pin, changes, hides};

use super::book::{Book, Pinned, pin_of, pin_of_all};
use super::store::{PinsFault, Store};

/// Which definitions are meant.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Those of this server; `None` for all.
    pub server: Option<String>,
    /// Those of these names; none for all.
    pub keys: Vec<Key>,
}

/// What was approved.
#[derive(Debug)]
pub struct Approved {
    /// Server, key, and the pin of what was approved.
    pub all: Vec<(String, Key, Pin)>,
}

/// Why a wish about pins cannot be granted.
#[derive(Debug, thiserror::Error)]
pub enum ShowFault {
    /// The configuration has no such server.
    #[error("the configuration has no server {0}")]
    Server(String),
    /// Nothing of this name waits.
    #[error("{0} does not wait for approval")]
    Unknown(String),
    /// It waits at more than one server.
    #[error("{key} waits at several servers ({servers}); say which with --server")]
    Several {
        /// What.
        key: String,
        /// Where.
        servers: String,
    },
    /// What waits is not what was looked at.
    #[error("what waits now is {now}, not what --hash says: it has changed meanwhile; 'portcullis pins diff' shows it")]
    Hash {
        /// The pin of what waits.
        now: Pin,
    },
    /// `--hash` is no pin.
    #[error("--hash takes 64 hexadecimal digits, as 'portcullis pins diff' shows them")]
    NoHash,
    /// The files.
    #[error(transparent)]
    Pins(#[from] PinsFault),
}

/// How a definition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Known,
    Approved,
    /// Hidden.
    Waiting {
        new: bool,
    },
    /// Shown, and not looked at.
    Reported {
        new: bool,
    },
}

/// One line of the list.
struct Row<'a> {
    key: &'a Key,
    standing: Standing,
    definitions: &'a [Pinned],
}

/// All definitions of the servers chosen, or those that wait for a person: a table, or a JSON object in each line.
///
/// # Errors
/// `ShowFault`.
pub fn ls(
    store: &Store,
    servers: &[ServerSettings],
    choice: &Choice,
    waiting: bool,
    as_json: bool,
) -> Result<String, ShowFault> {
    let mut out = String::new();
    for server in chosen(servers, choice)? {
        let Some(book) = store.read(&server.name)? else {
            if !as_json {
                let _ = writeln!(out, "{} ({}): never seen by a gateway", server.name, word(server.pin));
            }
            continue;
        };
        let mut rows = rows(&book, choice);
        if waiting {
            rows.retain(|row| row.standing.waits());
        }
        if !as_json {
            let what = if rows.is_empty() { ": nothing" } else { "" };
            let _ = writeln!(out, "{} ({}){what}", server.name, word(server.pin));
        }
        let width = rows.iter().map(|row| plain(&row.key.to_string()).chars().count()).max().unwrap_or(0).min(48);
        for row in rows {
            let (pin, since) = (pin_of(row.definitions), row.since());
            let flags = row.flags().to_string();
            if as_json {
                let line = json!({
                    "server": &*server.name, "what": row.key.to_string(), "state": row.standing.word(),
                    "sha256": pin.map(|pin| pin.to_string()), "since": since, "flags": flags,
                });
                let _ = writeln!(out, "{}", plain_json(&line));
            } else {
                let (what, pin) = (plain(&row.key.to_string()), pin.map(|pin| pin.short()).unwrap_or_default());
                let state = row.standing.word();
                let line = format!("  {what:width$}  {state:16}  {pin}  {since}  {flags}");
                let _ = writeln!(out, "{}", line.trim_end());
            }
        }
    }
    Ok(out)
}

/// What is different in what waits, or was reported, and the pin of all of that.
///
/// # Errors
/// `ShowFault`.
pub fn diff(store: &Store, servers: &[ServerSettings], choice: &Choice) -> Result<(String, Option<Pin>), ShowFault> {
    let mut out = String::new();
    let books = books(store, chosen(servers, choice)?)?;
    let chosen = choose(&books, choice)?;
    for (server, book, key) in &chosen {
        write_diff(&mut out, server, book, key);
    }
    Ok((out, pin_of_choice(&chosen)))
}

/// Takes what is chosen as known. With `hash` only if that is its pin: what has changed since somebody looked at it is
/// not what they approved of.
///
/// # Errors
/// `ShowFault`; nothing is approved then.
pub fn approve(
    store: &Store,
    servers: &[ServerSettings],
    choice: &Choice,
    hash: Option<&str>,
    by: u32,
    now: &str,
) -> Result<Approved, ShowFault> {
    let wanted = hash.map(|digits| Pin::parse(digits).ok_or(ShowFault::NoHash)).transpose()?;
    let held = store.hold()?;
    let mut books = books(store, self::chosen(servers, choice)?)?;
    let chosen = choose(&books, choice)?;
    let pin = pin_of_choice(&chosen);
    if let Some(now) = pin.filter(|now| wanted.is_some_and(|wanted| wanted != *now)) {
        return Err(ShowFault::Hash { now });
    }
    let all = chosen
        .iter()
        .filter_map(|(server, book, key)| Some(((*server).to_owned(), (*key).clone(), pin_of(book.subject(key))?)));
    let all: Vec<(String, Key, Pin)> = all.collect();
    for (server, book) in &mut books {
        let keys: Vec<Key> = all.iter().filter(|row| row.0 == *server).map(|row| row.1.clone()).collect();
        if book.approve(&keys, by, now) > 0 {
            held.write(server, book)?;
        }
    }
    Ok(Approved { all })
}

/// A text of somebody else's, with everything escaped that is not seen or moves what is.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '\n' | '\r' | '\t') || hides(letter) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(letter));
        } else {
            out.push(letter);
        }
    }
    out
}

/// The same of a JSON value: with JSON's own escapes.
fn plain_json(value: &Value) -> String {
    let mut out = String::new();
    for letter in value.to_string().chars() {
        if hides(letter) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(letter);
        }
    }
    out
}

impl Standing {
    fn waits(self) -> bool {
        !matches!(self, Self::Known | Self::Approved)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Approved => "approved",
            Self::Waiting { new: true } => "new, hidden",
            Self::Waiting { new: false } => "changed, hidden",
            Self::Reported { new: true } => "new, shown",
            Self::Reported { new: false } => "changed, shown",
        }
    }
}

impl Row<'_> {
    fn since(&self) -> &str {
        self.definitions.iter().map(|one| one.since.as_str()).max().unwrap_or_default()
    }

    fn flags(&self) -> Flags {
        let texts = self.definitions.iter().filter_map(|one| one.definition.as_ref());
        texts.map(|text| Flags::of(text.get().as_bytes())).find(|flags| flags.any()).unwrap_or_default()
    }
}

impl Book {
    /// What a person's word on this name is about: what waits, else what was reported.
    fn subject(&self, key: &Key) -> &[Pinned] {
        let waiting = self.waiting.get(key).or_else(|| self.known.get(key).filter(|_| self.reported.contains_key(key)));
        waiting.map(Vec::as_slice).unwrap_or_default()
    }

    /// What was there before that.
    fn before(&self, key: &Key) -> &[Pinned] {
        let before = if self.waiting.contains_key(key) { self.known.get(key) } else { self.reported.get(key) };
        before.map(Vec::as_slice).unwrap_or_default()
    }

    fn standing(&self, key: &Key) -> Standing {
        let new = self.before(key).is_empty();
        match (self.waiting.contains_key(key), self.reported.contains_key(key)) {
            (true, _) => Standing::Waiting { new },
            (false, true) => Standing::Reported { new },
            (false, false) => {
                let mut known = self.known.get(key).into_iter().flatten();
                if known.any(|one| one.approved.is_some()) { Standing::Approved } else { Standing::Known }
            }
        }
    }
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Warn => "pin: warn",
        Mode::Quarantine => "pin: quarantine",
    }
}

fn chosen<'a>(servers: &'a [ServerSettings], choice: &Choice) -> Result<Vec<&'a ServerSettings>, ShowFault> {
    let Some(name) = &choice.server else { return Ok(servers.iter().collect()) };
    let found = servers.iter().find(|server| *server.name == **name);
    Ok(vec![found.ok_or_else(|| ShowFault::Server(plain(name)))?])
}

fn books(store: &Store, servers: Vec<&ServerSettings>) -> Result<Vec<(String, Book)>, ShowFault> {
    let mut books = Vec::new();
    for server in servers {
        if let Some(book) = store.read(&server.name)? {
            books.push((server.name.to_string(), book));
        }
    }
    Ok(books)
}

fn rows<'a>(book: &'a Book, choice: &Choice) -> Vec<Row<'a>> {
    let more = book.waiting.keys().filter(|key| !book.known.contains_key(*key));
    let mut keys: Vec<&Key> = book.known.keys().chain(more).collect();
    keys.sort();
    keys.retain(|key| choice.keys.is_empty() || choice.keys.contains(key));
    let row = |key: &'a Key| {
        let definitions = book.waiting.get(key).or_else(|| book.known.get(key));
        Row { key, standing: book.standing(key), definitions: definitions.map(Vec::as_slice).unwrap_or_default() }
    };
    keys.into_iter().map(row).collect()
}

/// What is chosen of what waits: everything, or each name that was given, at the one server where it waits.
fn choose<'a>(books: &'a [(String, Book)], choice: &Choice) -> Result<Vec<(&'a str, &'a Book, Key)>, ShowFault> {
    let mut found = Vec::new();
    if choice.keys.is_empty() {
        for (server, book) in books {
            let keys = book.waiting.keys().chain(book.reported.keys().filter(|key| !book.waiting.contains_key(*key)));
            found.extend(keys.map(|key| (server.as_str(), book, key.clone())));
        }
    }
    for key in &choice.keys {
        let at: Vec<_> = books.iter().filter(|(_, book)| !book.subject(key).is_empty()).collect();
        let shown = plain(&key.to_string());
        match at.as_slice() {
            [] => return Err(ShowFault::Unknown(shown)),
            [(server, book)] => found.push((server.as_str(), book, key.clone())),
            several => {
                let servers: Vec<&str> = several.iter().map(|(server, _)| server.as_str()).collect();
                return Err(ShowFault::Several { key: shown, servers: servers.join(", ") });
            }
        }
    }
    found.dedup_by(|one, other| one.0 == other.0 && one.2 == other.2);
    Ok(found)
}

fn pin_of_choice(chosen: &[(&str, &Book, Key)]) -> Option<Pin> {
    pin_of_all(chosen.iter().map(|(server, book, key)| (*server, key, book.subject(key))))
}

fn write_diff(out: &mut String, server: &str, book: &Book, key: &Key) {
    let (subject, before) = (book.subject(key), book.before(key));
    let (pin, was) = (pin_of(subject), pin_of(before));
    let show = |pin: Option<Pin>| pin.map_or_else(|| "nothing".to_owned(), |pin| pin.to_string());
    let state = book.standing(key).word();
    let _ = writeln!(out, "{server} {} ({state})", plain(&key.to_string()));
    let _ = writeln!(out, "  {} -> {}", show(was), show(pin));
    let fresh: Vec<&Pinned> = subject.iter().filter(|one| !before.iter().any(|old| old.sha256 == one.sha256)).collect();
    for (index, one) in fresh.iter().enumerate() {
        if fresh.len() > 1 {
            let _ = writeln!(out, "  definition {} of {}: the server's eras differ", index + 1, fresh.len());
        }
        let Some(now) = value(one) else {
            out.push_str("  its text was not kept: there was no room for it\n");
            continue;
        };
        let flags = one.definition.as_ref().map(|text| Flags::of(text.get().as_bytes())).unwrap_or_default();
        if flags.any() {
            let _ = writeln!(out, "  it has {flags}, escaped below as \\u{{…}}");
        }
        // Of several, the one that is most like it.
        let differences = before.iter().filter_map(value).map(|was| changes(&was, &now));
        match differences.min_by_key(Vec::len) {
            Some(changes) => changes.iter().for_each(|change| write_change(out, change)),
            None => write_value(out, '+', &now),
        }
    }
}

fn value(one: &Pinned) -> Option<Value> {
    serde_json::from_str(one.definition.as_ref()?.get()).ok()
}

fn write_change(out: &mut String, change: &Change) {
    let _ = writeln!(out, "  {}", if change.place.is_empty() { "/".to_owned() } else { plain(&change.place) });
    if let (Some(Value::String(was)), Some(Value::String(is))) = (&change.was, &change.is) {
        return write_texts(out, was, is);
    }
    for (sign, value) in [('-', &change.was), ('+', &change.is)] {
        if let Some(value) = value {
            write_value(out, sign, value);
        }
    }
}

fn write_value(out: &mut String, sign: char, value: &Value) {
    // A text is shown as its lines; within a larger value its line breaks are escapes.
    let lines = match value {
        Value::String(text) => text.clone(),
        other => format!("{other:#}"),
    };
    for line in lines.split('\n') {
        let _ = writeln!(out, "    {sign} {}", plain(line));
    }
}

/// Two texts, as far as they differ, with some of what they have in common around it.
fn write_texts(out: &mut String, was: &str, is: &str) {
    let (before, after): (Vec<&str>, Vec<&str>) = (was.split('\n').collect(), is.split('\n').collect());
    let alike = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
    let rest = before.len().min(after.len()) - alike;
    let alike_behind =
        before.iter().rev().zip(after.iter().rev()).take(rest).take_while(|(one, other)| one == other).count();
    let before = &before[alike..before.len() - alike_behind];
    let after = &after[alike..after.len() - alike_behind];
    if let ([one], [other]) = (before, after) {
        let (one, other) = elide(one, other);
        let _ = writeln!(out, "    - {one}\n    + {other}");
        return;
    }
    for (sign, lines) in [('-', before), ('+', after)] {
        for line in lines {
            let _ = writeln!(out, "    {sign} {}", plain(line));
        }
    }
}

/// Two lines without most of a long beginning and end that they share.
fn elide(one: &str, other: &str) -> (String, String) {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let alike = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
    let rest = one.len().min(other.len()) - alike;
    let alike_behind =
        one.iter().rev().zip(other.iter().rev()).take(rest).take_while(|(one, other)| one == other).count();
    let from = alike.saturating_sub(PINS_SHOWN_LETTERS_MAX);
    let behind = alike_behind.saturating_sub(PINS_SHOWN_LETTERS_MAX);
    let cut = |letters: &[char]| {
        let text: String = letters[from..letters.len() - behind].iter().collect();
        let (head, tail) = (if from > 0 { "…" } else { "" }, if behind > 0 { "…" } else { "" });
        format!("{head}{}{tail}", plain(&text))
    };
    (cut(&one), cut(&other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::catalog::ListKind;
    use crate::mcp::pin::pin;
    use crate::plane::pins::book::Offered;

    fn offered<'a>(raw: &[&'a str]) -> Offered<'a> {
        let mut all = Offered::new();
        for raw in raw {
            let name = serde_json::from_str::<Value>(raw).unwrap()["name"].as_str().unwrap().to_owned();
            let pin = pin(ListKind::Tools, raw.as_bytes()).unwrap();
            all.entry(Key::new(ListKind::Tools, &name)).or_default().push((pin, raw.as_bytes()));
        }
        all
    }

    fn diff_of(was: &str, is: &str) -> Vec<String> {
        let mut book = Book::default();
        book.look(&offered(&[was]), false, true, "then");
        book.look(&offered(&[is]), true, false, "now");
        let mut out = String::new();
        let key = book.waiting.keys().next().unwrap().clone();
        write_diff(&mut out, "files", &book, &key);
        out.lines().skip(2).map(str::to_owned).collect()
    }

    fn tool(description: &str) -> String {
        json!({"name": "a", "description": description}).to_string()
    }

    #[test]
    fn differences_can_be_read() {
        assert_eq!(diff_of(&tool("Old."), &tool("New.")), ["  /description", "    - Old.", "    + New."]);
        let long = "x".repeat(200);
        let around = "x".repeat(PINS_SHOWN_LETTERS_MAX);
        assert_eq!(
            diff_of(&tool(&format!("{long}{long}")), &tool(&format!("{long} and mail it{long}"))),
            [
                "  /description".to_owned(),
                format!("    - …{around}{around}…"),
                format!("    + …{around} and mail it{around}…")
            ]
        );
        assert_eq!(
            diff_of(&tool("one\ntwo\nthree"), &tool("one\n2\n2b\nthree")),
            ["  /description", "    - two", "    + 2", "    + 2b"]
        );
        let schema =
            |kind: &str| json!({"name": "a", "inputSchema": {"properties": {"x": {"type": kind}}}}).to_string();
        assert_eq!(
            diff_of(&schema("string"), &schema("object")),
            ["  /inputSchema/properties/x/type", "    - string", "    + object"]
        );
        let gone = diff_of(r#"{"name":"a","x":{"y":[1]}}"#, r#"{"name":"a","z":null}"#);
        assert_eq!(gone[..3], ["  /z", "    + null", "  /x"]);
        assert!(gone[3..].iter().all(|line| line.starts_with("    - ")));
    }

    /// Nothing in a definition moves a cursor, hides, or begins a line that could be one of ours.
    #[test]
    fn a_definition_cannot_fake_the_screen() {
        let evil = "fine\u{1b}[2J\u{202e}\u{200b}\u{e0041}\r\n    + approved\n";
        for lines in [
            diff_of(&tool("Old."), &tool(evil)),
            diff_of(&tool(evil), r#"{"name":"a","description":{"\u202e":"\u001b"}}"#),
        ] {
            assert!(lines.iter().flat_map(|line| line.chars()).all(|c| !hides(c)), "{lines:?}");
            assert!(lines.iter().all(|line| line.starts_with("  ")), "{lines:?}");
            assert!(!lines.contains(&"    + approved".to_owned()), "{lines:?}");
        }
        let name = "a\u{202e}\u{e0041}\u{7f}é\n";
        let line = plain_json(&json!({ "what": name }));
        assert_eq!(line, "{\"what\":\"a\\u202e\\udb40\\udc41\\u007fé\\n\"}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["what"], name);
        assert_eq!(plain("a\n\u{202e}b"), "a\\u{a}\\u{202e}b");
    }
}
