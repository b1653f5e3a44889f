//! What is known of one server's definitions, and what waits for a person: values in, values out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::limits::{PINS_MAX, PINS_TEXT_BYTES_MAX};
use crate::mcp::catalog::{ListKind, ServerCatalog};
use crate::mcp::pin::{Key, Pin, pin};

/// The definitions of a server that are known, and those that are not yet.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    /// What may be shown. Definitions that the server no longer offers stay here, so that one which comes back changed
    /// is told from a new one.
    pub known: Definitions,
    /// What the server offers and nobody has approved (`pin: quarantine`), whole: also the definition of another era
    /// that is known, for a name is hidden in both.
    #[serde(default)]
    pub waiting: Definitions,
    /// What was taken as known without being asked for (`pin: warn`) and not looked at since: with what was known
    /// before, nothing where it was new.
    #[serde(default)]
    pub reported: Definitions,
}

/// Definitions by their names. One name has several where the server's eras differ.
pub type Definitions = BTreeMap<Key, Vec<Pinned>>;

/// One definition.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// Its pin.
    pub sha256: Pin,
    /// Since when it is known or waits, UTC.
    pub since: String,
    /// Who looked at it; `None` where it was taken as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Approval>,
    /// Its text; `None` where there was no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Box<RawValue>>,
}

/// A person's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// When, UTC.
    pub at: String,
    /// Number of the user whose process it was.
    pub by: u32,
    /// The gateway has written it into the record.
    #[serde(default)]
    pub told: bool,
}

/// What a server offers now.
pub type Offered<'a> = BTreeMap<Key, Vec<(Pin, &'a [u8])>>;

/// What came of looking at that.
#[derive(Debug, Default)]
pub struct Look {
    /// What must not be shown.
    pub hidden: BTreeSet<Key>,
    /// What there is to tell.
    pub found: Vec<Found>,
    /// The book has changed.
    pub dirty: bool,
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of what.
    pub key: Key,
    /// What happened to it.
    pub what: Finding,
    /// What it is now.
    pub pin: Pin,
    /// What was known of it.
    pub was: Option<Pin>,
    /// Who approved it.
    pub by: Option<u32>,
}

/// What happened to a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It was not there before.
    New,
    /// It is another than was known.
    Changed,
    /// A person has looked at it.
    Approved,
}

impl Finding {
    /// Its word in the record.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Approved => "approved",
        }
    }
}

/// Everything a server offers, in both eras, by name. What has no pin, which nothing in a catalogue should be, has one
/// that nothing else has.
#[must_use]
pub fn offered(catalog: &ServerCatalog) -> Offered<'_> {
    let mut all = Offered::new();
    for era in [catalog.modern.as_ref(), catalog.legacy.as_ref()].into_iter().flatten() {
        for kind in ListKind::ALL {
            for item in era.list(kind).into_iter().flat_map(|list| &list.items) {
                let Some(pin) = pin(kind, &item.raw) else { continue };
                let same = all.entry(Key::new(kind, &item.name)).or_default();
                if !same.iter().any(|(known, _)| *known == pin) {
                    same.push((pin, &item.raw));
                }
            }
        }
    }
    all
}

/// One pin for all definitions of a name: its own where there is one.
#[must_use]
pub fn pin_of(definitions: &[Pinned]) -> Option<Pin> {
    one_of(definitions.iter().map(|one| one.sha256))
}

/// One pin for a choice of names: the name's own where it is one.
#[must_use]
pub fn pin_of_all<'a>(chosen: impl IntoIterator<Item = (&'a str, &'a Key, &'a [Pinned])>) -> Option<Pin> {
    let mut pins: Vec<(String, Pin)> = chosen
        .into_iter()
        .filter_map(|(server, key, definitions)| Some((format!("{server} {key}"), pin_of(definitions)?)))
        .collect();
    if pins.len() > 1 { Some(Pin::all(pins)) } else { pins.pop().map(|(_, pin)| pin) }
}

impl Book {
    /// Takes in what the server offers now. `first`: nothing has ever been known of it. `now`: UTC, as text.
    pub fn look(&mut self, offered: &Offered<'_>, quarantine: bool, first: bool, now: &str) -> Look {
        let mut look = Look { dirty: first, ..Look::default() };
        self.tell_approvals(&mut look);
        for (key, pins) in offered {
            let known = self.known.get(key).map(Vec::as_slice).unwrap_or_default();
            if pins.iter().all(|(pin, _)| known.iter().any(|one| one.sha256 == *pin)) {
                look.dirty |= self.waiting.remove(key).is_some();
            } else if quarantine {
                self.hold(key, pins, now, &mut look);
            } else {
                self.accept(key, pins, first, now, &mut look);
            }
        }
        let before = self.waiting.len();
        // Withdrawn, or nobody is to be asked any more.
        self.waiting.retain(|key, _| quarantine && offered.contains_key(key));
        look.dirty |= self.waiting.len() != before;
        if look.dirty {
            self.trim(offered);
        }
        look
    }

    /// Takes what waits under these names as known, by the word of the user `by`. Where nothing waits, what was reported
    /// has been looked at. Says how many there were.
    pub fn approve(&mut self, keys: &[Key], by: u32, now: &str) -> usize {
        let mut approved = 0;
        for key in keys {
            let reported = self.reported.remove(key).is_some();
            let waited = self.waiting.remove(key);
            if waited.is_none() && !reported {
                continue;
            }
            let known = self.known.entry(key.clone()).or_default();
            if let Some(waited) = waited {
                *known = waited;
            }
            for one in known.iter_mut() {
                one.approved = Some(Approval { at: now.to_owned(), by, told: false });
            }
            approved += 1;
        }
        approved
    }

    /// Hides it until somebody approves it.
    fn hold(&mut self, key: &Key, pins: &[(Pin, &[u8])], now: &str, look: &mut Look) {
        look.hidden.insert(key.clone());
        let waited = self.waiting.get(key).map(Vec::as_slice).unwrap_or_default();
        if same(waited, pins) {
            return;
        }
        let known = self.known.get(key).map(Vec::as_slice).unwrap_or_default();
        look.found.push(found(key, pins, known));
        let held = pinned(pins, waited, now);
        self.waiting.insert(key.clone(), held);
        look.dirty = true;
    }

    /// Takes it as known, and remembers what was.
    fn accept(&mut self, key: &Key, pins: &[(Pin, &[u8])], first: bool, now: &str, look: &mut Look) {
        let before = self.known.remove(key).unwrap_or_default();
        let after = pinned(pins, &before, now);
        look.dirty = true;
        if !first {
            look.found.push(found(key, pins, &before));
            // Of several changes, what was known before the first of them is what a person knows.
            let was = self.reported.entry(key.clone()).or_insert(before);
            if same(was, pins) {
                self.reported.remove(key);
            }
        }
        self.known.insert(key.clone(), after);
    }

    fn tell_approvals(&mut self, look: &mut Look) {
        for (key, definitions) in &mut self.known {
            let Some(pin) = pin_of(definitions) else { continue };
            for approval in definitions.iter_mut().filter_map(|one| one.approved.as_mut()) {
                if std::mem::replace(&mut approval.told, true) {
                    continue;
                }
                look.dirty = true;
                let by = Some(approval.by);
                let told = Found { key: key.clone(), what: Finding::Approved, pin, was: None, by };
                if look.found.last() != Some(&told) {
                    look.found.push(told);
                }
            }
        }
    }

    /// Keeps the bounds: what the server no longer offers goes first, and of the texts what comes last.
    fn trim(&mut self, offered: &Offered<'_>) {
        let mut over = self.known.len().saturating_sub(PINS_MAX);
        self.known.retain(|key, _| {
            let goes = over > 0 && !offered.contains_key(key);
            over -= usize::from(goes);
            !goes
        });
        self.reported.retain(|key, _| self.known.contains_key(key));
        let mut room = PINS_TEXT_BYTES_MAX;
        let all = self.waiting.values_mut().chain(self.known.values_mut()).chain(self.reported.values_mut());
        for one in all.flatten() {
            let bytes = one.definition.as_ref().map_or(0, |text| text.get().len());
            match room.checked_sub(bytes) {
                Some(left) => room = left,
                None => one.definition = None,
            }
        }
    }
}

fn found(key: &Key, pins: &[(Pin, &[u8])], known: &[Pinned]) -> Found {
    let what = if known.is_empty() { Finding::New } else { Finding::Changed };
    let pin = one_of(pins.iter().map(|(pin, _)| *pin)).unwrap_or_else(|| Pin::all([]));
    Found { key: key.clone(), what, pin, was: pin_of(known), by: None }
}

fn one_of(pins: impl Iterator<Item = Pin>) -> Option<Pin> {
    let mut pins: Vec<(String, Pin)> = pins.map(|pin| (String::new(), pin)).collect();
    if pins.len() > 1 { Some(Pin::all(pins)) } else { pins.pop().map(|(_, pin)| pin) }
}

fn same(definitions: &[Pinned], pins: &[(Pin, &[u8])]) -> bool {
    definitions.len() == pins.len() && pins.iter().all(|(pin, _)| definitions.iter().any(|one| one.sha256 == *pin))
}

/// These, as they are to be kept; what is known of the same ones is kept with them.
fn pinned(pins: &[(Pin, &[u8])], known: &[Pinned], now: &str) -> Vec<Pinned> {
    let keep = |(pin, raw): &(Pin, &[u8])| {
        if let Some(one) = known.iter().find(|one| one.sha256 == *pin) {
            return one.clone();
        }
        let text = String::from_utf8(raw.to_vec()).ok();
        let definition = text.and_then(|text| RawValue::from_string(text).ok());
        Pinned { sha256: *pin, since: now.to_owned(), approved: None, definition }
    };
    pins.iter().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A1: &[u8] = br#"{"name":"a","description":"one"}"#;
    const A2: &[u8] = br#"{"name":"a","description":"two"}"#;
    const B1: &[u8] = br#"{"name":"b"}"#;

    fn key(name: &str) -> Key {
        Key::new(ListKind::Tools, name)
    }

    fn offer<'a>(items: &[(&str, &'a [u8])]) -> Offered<'a> {
        let mut all = Offered::new();
        for (name, raw) in items {
            all.entry(key(name)).or_default().push((pin(ListKind::Tools, raw).unwrap(), *raw));
        }
        all
    }

    fn of(raw: &[u8]) -> Pin {
        pin(ListKind::Tools, raw).unwrap()
    }

    /// Looks, and says what was found and what is hidden.
    fn look(
        book: &mut Book,
        items: &[(&str, &[u8])],
        quarantine: bool,
        first: bool,
    ) -> (Vec<Found>, Vec<String>, bool) {
        let look = book.look(&offer(items), quarantine, first, "now");
        let hidden = look.hidden.iter().map(|key| key.name().to_owned()).collect();
        (look.found, hidden, look.dirty)
    }

    fn finding(name: &str, what: Finding, pin: Pin, was: Option<Pin>) -> Found {
        Found { key: key(name), what, pin, was, by: None }
    }

    const NOTHING: [Found; 0] = [];
    const NOBODY: [String; 0] = [];

    #[test]
    fn warnings_are_given_once() {
        let mut book = Book::default();
        assert_eq!(look(&mut book, &[("a", A1)], false, true), (vec![], vec![], true), "what is seen first is known");
        assert_eq!(look(&mut book, &[("a", A1)], false, false), (vec![], vec![], false));
        let (found, hidden, dirty) = look(&mut book, &[("a", A2), ("b", B1)], false, false);
        let want = [finding("a", Finding::Changed, of(A2), Some(of(A1))), finding("b", Finding::New, of(B1), None)];
        assert_eq!((found.as_slice(), hidden.as_slice(), dirty), (&want[..], &NOBODY[..], true));
        assert_eq!(look(&mut book, &[("a", A2), ("b", B1)], false, false), (vec![], vec![], false));
        assert_eq!(book.reported.len(), 2);
        // What has gone away is remembered, and what comes back as it was is no news to a person.
        assert_eq!(look(&mut book, &[], false, false), (vec![], vec![], false));
        let (found, _, _) = look(&mut book, &[("a", A1)], false, false);
        assert_eq!(found, [finding("a", Finding::Changed, of(A1), Some(of(A2)))]);
        assert!(!book.reported.contains_key(&key("a")) && book.reported.contains_key(&key("b")));
        assert_eq!(book.approve(&[key("b"), key("a"), key("c")], 7, "then"), 1);
        assert!(book.reported.is_empty());
        let (found, _, dirty) = look(&mut book, &[("b", B1)], false, false);
        let told = Found { by: Some(7), ..finding("b", Finding::Approved, of(B1), None) };
        assert_eq!((found.as_slice(), dirty), (&[told][..], true));
        assert_eq!(look(&mut book, &[("b", B1)], false, false), (vec![], vec![], false), "told once");
    }

    #[test]
    fn what_is_held_is_shown_when_approved() {
        let mut book = Book::default();
        let (found, hidden, _) = look(&mut book, &[("a", A1)], true, true);
        assert_eq!((found, hidden), (vec![finding("a", Finding::New, of(A1), None)], vec!["a".to_owned()]));
        assert_eq!(look(&mut book, &[("a", A1)], true, false), (vec![], vec!["a".to_owned()], false), "told once");
        assert_eq!(book.approve(&[key("a")], 0, "then"), 1);
        let (found, hidden, _) = look(&mut book, &[("a", A1)], true, false);
        assert_eq!((found.len(), hidden.as_slice()), (1, &NOBODY[..]));
        // Changed: hidden, until it is approved or is again what it was.
        let (found, hidden, _) = look(&mut book, &[("a", A2)], true, false);
        assert_eq!(found, [finding("a", Finding::Changed, of(A2), Some(of(A1)))]);
        assert_eq!(hidden, ["a"]);
        let (found, hidden, dirty) = look(&mut book, &[("a", A1)], true, false);
        assert_eq!((found.as_slice(), hidden.as_slice(), dirty), (&NOTHING[..], &NOBODY[..], true));
        assert!(book.waiting.is_empty());
        // Approved while the server changed it once more: what was approved is not what is there.
        look(&mut book, &[("a", A2)], true, false);
        book.approve(&[key("a")], 0, "then");
        let third = br#"{"name":"a","description":"three"}"#;
        let (found, hidden, _) = look(&mut book, &[("a", third)], true, false);
        let changed = found.iter().find(|found| found.what == Finding::Changed);
        assert_eq!((changed.and_then(|found| found.was), hidden.as_slice()), (Some(of(A2)), &["a".to_owned()][..]));
        // Withdrawn: nothing waits; and nothing is forgotten.
        assert_eq!(look(&mut book, &[], true, false), (vec![], vec![], true));
        assert!(book.waiting.is_empty() && book.known.contains_key(&key("a")));
        assert_eq!(look(&mut book, &[("a", A1)], true, false).1, ["a"]);
        // Nobody is asked any more.
        assert_eq!(look(&mut book, &[("a", A1)], false, false).1, NOBODY);
        assert!(book.waiting.is_empty());
    }

    /// A name with a definition for each era is one: hidden as soon as either is not known.
    #[test]
    fn eras_are_held_together() {
        let mut book = Book::default();
        look(&mut book, &[("a", A1)], true, true);
        book.approve(&[key("a")], 0, "then");
        look(&mut book, &[("a", A1)], true, false);
        let (found, hidden, _) = look(&mut book, &[("a", A1), ("a", A2)], true, false);
        let both = pin_of(&book.waiting[&key("a")]).unwrap();
        assert_eq!(found, [finding("a", Finding::Changed, both, Some(of(A1)))]);
        assert_eq!((hidden.as_slice(), book.waiting[&key("a")].len()), (&["a".to_owned()][..], 2));
        book.approve(&[key("a")], 0, "then");
        for eras in [&[("a", A1), ("a", A2)][..], &[("a", A2)], &[("a", A1)]] {
            assert_eq!(look(&mut book, eras, true, false).1, NOBODY);
        }
    }

    #[test]
    fn there_is_a_bound_on_what_is_remembered() {
        let mut book = Book::default();
        let names: Vec<String> = (0..PINS_MAX + 9).map(|n| format!("t{n:06}")).collect();
        let old: Vec<(&str, &[u8])> = names[..PINS_MAX - 1].iter().map(|name| (name.as_str(), B1)).collect();
        look(&mut book, &old, false, true);
        let new: Vec<(&str, &[u8])> = names[PINS_MAX - 1..].iter().map(|name| (name.as_str(), B1)).collect();
        assert_eq!(look(&mut book, &new, false, false).0.len(), 10);
        assert_eq!(book.known.len(), PINS_MAX);
        assert!(new.iter().all(|(name, _)| book.known.contains_key(&key(name))), "what is offered stays");
        let long = format!("{{\"name\":\"x\",\"description\":\"{}\"}}", "x".repeat(60 * 1024));
        let many = PINS_TEXT_BYTES_MAX / long.len() + 8;
        let wide: Vec<(&str, &[u8])> = names[..many].iter().map(|name| (name.as_str(), long.as_bytes())).collect();
        let mut book = Book::default();
        look(&mut book, &wide, true, true);
        let texts = book.waiting.values().flatten().filter(|one| one.definition.is_some()).count();
        assert_eq!((texts, book.waiting.len()), (PINS_TEXT_BYTES_MAX / long.len(), many));
    }
}
