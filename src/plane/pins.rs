//! Pins: which definitions of each server are known. A new or changed one is reported, or hidden until a person has
//! approved it. The gateway's side is here; `portcullis pins` works on the same files (`show`).

pub mod book;
pub mod show;
pub mod store;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::base::limits::{PINS_LOOK_MS, PINS_NAMED_MAX, PINS_RECORDED_MAX, PINS_RETRY_MS};
use crate::config::Pin as Mode;
use crate::mcp::catalog::{ListKind, ServerCatalog};
use crate::mcp::pin::{Flags, Key, Pin};
use crate::uring::wait::clock;

use book::{Book, Finding, Found, Look, offered};
use show::plain;
use store::{Stamp, Store, utc};

use super::log::Notes;

/// The pins of all servers, for the one thread that publishes catalogues.
pub(super) struct Pins {
    store: Store,
    notes: Notes,
    servers: HashMap<Arc<str>, Kept>,
    looked: Instant,
}

/// What is known of one server's pins, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Definitions that are hidden until somebody approves them.
    pub waiting: usize,
    /// Definitions that were taken as known, and reported.
    pub reported: usize,
    /// Definitions that are shown and have letters in them that nobody sees.
    pub flagged: usize,
    /// How often an approval has changed what is shown, since the start.
    pub approvals: u64,
}

/// What is remembered of one server between two looks.
#[derive(Default)]
struct Kept {
    waiting: Waiting,
    /// What was there when it was last read or written.
    stamp: Option<Stamp>,
    /// What was known when it could last be read: what goes on being shown when it cannot.
    known: HashMap<Key, Vec<Pin>>,
    /// Of these it was said that nobody sees some of their letters.
    flagged: HashSet<Pin>,
    trouble: Option<String>,
    retry: Option<Instant>,
}

impl Pins {
    /// The pins in this state folder; what happens to them goes into the record through `notes`.
    pub(super) fn new(state: &Path, notes: Notes) -> Self {
        Self { store: Store::new(state), notes, servers: HashMap::new(), looked: Instant::now() }
    }

    /// What may be shown of what a server offers. What is new or has changed is reported here, once.
    pub(super) fn sift(&mut self, server: &Arc<str>, mode: Mode, catalog: &ServerCatalog) -> ServerCatalog {
        let offered = offered(catalog);
        let quarantine = mode == Mode::Quarantine;
        let now = utc(clock().unix_ms);
        // Taken before: what is written in between is looked at once more.
        let stamp = self.store.stamp(server);
        let outcome = self.store.update(server, |book, first| {
            let look = book.look(&offered, quarantine, first, &now);
            (look.dirty, (look, first, Kept::of(book)))
        });
        let kept = self.servers.entry(server.clone()).or_default();
        let hidden = match outcome {
            Ok((look, first, fresh)) => {
                let stamp = if look.dirty { self.store.stamp(server) } else { stamp };
                kept.renew(server, fresh, stamp, &look);
                tell(&self.notes, server, mode, &look, first, offered.len());
                look.hidden
            }
            Err(fault) => {
                kept.fail(server, quarantine, &fault.to_string());
                let unknown = |(key, pins): &(&Key, &Vec<(Pin, &[u8])>)| {
                    let known = kept.known.get(*key).map(Vec::as_slice).unwrap_or_default();
                    quarantine && !pins.iter().all(|(pin, _)| known.contains(pin))
                };
                offered.iter().filter(unknown).map(|(key, _)| key.clone()).collect()
            }
        };
        kept.waiting.waiting = hidden.len();
        kept.flag(server, offered.iter().filter(|(key, _)| !hidden.contains(*key)));
        let mut shown = catalog.clone();
        for era in [shown.modern.as_mut(), shown.legacy.as_mut()].into_iter().flatten() {
            for kind in ListKind::ALL {
                let Some(list) = &mut era.lists[kind.index()] else { continue };
                list.hide(|name| hidden.contains(&Key::new(kind, name)));
            }
        }
        shown
    }

    /// Which servers' pins somebody else has changed since, or are due to be tried again. Looks every `PINS_LOOK_MS`.
    pub(super) fn due(&mut self) -> Vec<Arc<str>> {
        if self.looked.elapsed() < Duration::from_millis(PINS_LOOK_MS) {
            return Vec::new();
        }
        self.looked = Instant::now();
        let now = self.looked;
        let is_due = |(name, kept): &(&Arc<str>, &Kept)| {
            kept.retry.map_or_else(|| self.store.stamp(name) != kept.stamp, |retry| retry <= now)
        };
        self.servers.iter().filter(is_due).map(|(name, _)| name.clone()).collect()
    }

    /// Whether this definition is known of a server.
    pub(super) fn knows(&self, server: &str, key: &Key, pin: &Pin) -> bool {
        self.servers.get(server).and_then(|kept| kept.known.get(key)).is_some_and(|known| known.contains(pin))
    }

    /// What waits for a person.
    pub(super) fn waiting(&self, server: &str) -> Waiting {
        self.servers.get(server).map(|kept| kept.waiting).unwrap_or_default()
    }

    /// Forgets servers that are there no more; their files stay.
    pub(super) fn keep(&mut self, known: impl Fn(&str) -> bool) {
        self.servers.retain(|name, _| known(name));
    }
}

impl Kept {
    fn of(book: &Book) -> Self {
        let known = book.known.iter();
        let known = known.map(|(key, all)| (key.clone(), all.iter().map(|one| one.sha256).collect()));
        let waiting = Waiting { reported: book.reported.len(), ..Waiting::default() };
        Self { known: known.collect(), waiting, ..Self::default() }
    }

    fn renew(&mut self, server: &str, fresh: Self, stamp: Option<Stamp>, look: &Look) {
        self.known = fresh.known;
        self.waiting.reported = fresh.waiting.reported;
        self.waiting.approvals += u64::from(look.found.iter().any(|found| found.what == Finding::Approved));
        self.stamp = stamp;
        self.retry = None;
        if self.trouble.take().is_some() {
            tracing::info!("server {server}: its pins can be used again");
        }
    }

    fn fail(&mut self, server: &str, quarantine: bool, fault: &str) {
        if self.trouble.as_deref() != Some(fault) {
            let what = if quarantine { "only what was known before is shown" } else { "changes are not noticed" };
            tracing::error!("server {server}: its pins cannot be used, and {what}: {fault}");
            self.trouble = Some(fault.to_owned());
        }
        self.retry = Some(Instant::now() + Duration::from_millis(PINS_RETRY_MS));
    }

    /// Counts what has letters in it that nobody sees, and says so once of each.
    fn flag<'a>(&mut self, server: &str, shown: impl Iterator<Item = (&'a Key, &'a Vec<(Pin, &'a [u8])>)>) {
        let mut flagged = HashSet::new();
        self.waiting.flagged = 0;
        for (key, pins) in shown {
            let mut all = pins.iter().map(|(pin, raw)| (pin, Flags::of(raw))).filter(|(_, flags)| flags.any());
            let Some((pin, flags)) = all.next() else { continue };
            self.waiting.flagged += 1;
            if !self.flagged.contains(pin) && flagged.len() < PINS_NAMED_MAX {
                tracing::warn!("server {server}: the definition of {} has {flags}", plain(&key.to_string()));
            }
            flagged.insert(*pin);
        }
        self.flagged = flagged;
    }
}

/// Reports what a look has found, in the log and in the record.
fn tell(notes: &Notes, server: &str, mode: Mode, look: &Look, first: bool, offered: usize) {
    let quarantine = mode == Mode::Quarantine;
    if first && quarantine && !look.hidden.is_empty() {
        tracing::warn!(
            "server {server}: pin: quarantine, and none of its {offered} definitions is known yet: all are hidden until \
             'portcullis pins approve'"
        );
    } else {
        for finding in [Finding::New, Finding::Changed, Finding::Approved] {
            log(server, quarantine, finding, &look.found);
        }
    }
    let word = if quarantine { "quarantine" } else { "warn" };
    for found in look.found.iter().take(PINS_RECORDED_MAX) {
        let detail = json!({
            "server": server, "pin": word, "what": found.key.to_string(), "sha256": found.pin.to_string(),
            "was": found.was.map(|pin| pin.to_string()), "by": found.by,
        });
        notes.tell(event(found.what), detail);
    }
    let more = look.found.len().saturating_sub(PINS_RECORDED_MAX);
    if more > 0 {
        notes.tell("definitions", json!({ "server": server, "pin": word, "more": more }));
    }
}

fn event(finding: Finding) -> &'static str {
    match finding {
        Finding::New => "definition_new",
        Finding::Changed => "definition_changed",
        Finding::Approved => "definition_approved",
    }
}

fn log(server: &str, quarantine: bool, what: Finding, found: &[Found]) {
    let named: Vec<String> = found
        .iter()
        .filter(|found| found.what == what)
        .map(|found| format!("{} ({})", plain(&found.key.to_string()), found.pin.short()))
        .collect();
    if named.is_empty() {
        return;
    }
    let more = named.len().saturating_sub(PINS_NAMED_MAX);
    let mut names = named[..named.len() - more].join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    match (what, quarantine) {
        (Finding::Approved, _) => tracing::info!("server {server}: approved: {names}"),
        (_, true) => {
            tracing::warn!("server {server}: {}, and hidden until 'portcullis pins approve': {names}", what.word())
        }
        (_, false) => tracing::warn!("server {server}: {} ('portcullis pins diff' shows what): {names}", what.word()),
    }
}
