//! What the surveys of all servers have brought: what each offers, what of that is shown (`pins`), and since when they
//! fail. By name, so that it outlives a change of the settings. The last good catalogue of a server is kept while it
//! fails.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::base::ids::ServerId;
use crate::base::limits::PINS_NAMED_MAX;
use crate::config::{Pin as Mode, ServerSettings};
use crate::mcp::catalog::{Catalog, ListKind, ServerCatalog};
use crate::mcp::pin::{Key, Pin};
use crate::uring::wait::clock;

use super::log::Notes;
use super::looks::{Looked, Looks};
use super::pins::show::plain;
use super::pins::{Pins, Waiting};

/// The surveys of all servers.
pub(super) struct Surveys {
    pins: Pins,
    servers: HashMap<Arc<str>, Surveyed>,
}

/// How much a piece of news changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// Nothing that shards decide by.
    None,
    /// The next snapshot has it; those of one second make one.
    Snapshot,
    /// The same, at once: somebody waits for it.
    AtOnce,
}

/// What is known of a server's catalogue, for people.
#[derive(Clone, Debug, Default)]
pub struct SurveyHealth {
    /// What it calls itself, and its version (`serverInfo`).
    pub version: Option<String>,
    /// When it was last surveyed with success, milliseconds since 1970.
    pub surveyed_unix_ms: Option<u64>,
    /// Since when surveys fail, milliseconds since 1970.
    pub stale_unix_ms: Option<u64>,
    /// What waits for a person.
    pub pins: Waiting,
    /// Of so many names callers are shown different definitions: those who are shown another than the one that is served
    /// do not see them.
    pub differing: usize,
    /// How often what it offers has changed.
    pub changes: Changes,
}

/// How many definitions of a server have changed since its first survey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Were not there before.
    pub added: u64,
    /// Are there no more.
    pub removed: u64,
    /// Say something else.
    pub changed: u64,
}

impl Changes {
    /// Added, removed, changed.
    #[must_use]
    pub fn counts(self) -> [u64; 3] {
        [self.added, self.removed, self.changed]
    }

    /// What leads from one catalogue of a server to the next: of each name, in whichever era it is.
    fn count(&mut self, before: &ServerCatalog, after: &ServerCatalog) {
        let (before, after) = (definitions(before), definitions(after));
        for (name, definition) in &after {
            match before.get(name) {
                None => self.added += 1,
                Some(other) => self.changed += u64::from(other != definition),
            }
        }
        self.removed += before.keys().filter(|name| !after.contains_key(*name)).count() as u64;
    }
}

/// Everything that a server offers: by kind and name, the newest era's.
fn definitions(catalog: &ServerCatalog) -> HashMap<(usize, &str), &[u8]> {
    let mut all = HashMap::new();
    for era in [catalog.legacy.as_ref(), catalog.modern.as_ref()].into_iter().flatten() {
        for kind in ListKind::ALL {
            let items = era.list(kind).into_iter().flat_map(|list| &list.items);
            all.extend(items.map(|item| ((kind.index(), &*item.name), &*item.raw)));
        }
    }
    all
}

#[derive(Default)]
struct Surveyed {
    /// What the gateway itself was shown, and what callers were.
    own: Option<ServerCatalog>,
    callers: Looks,
    /// Names of which callers are shown different definitions; the first of them were named in the log.
    differing: Vec<Key>,
    /// As the server offers it, and as it is shown; and by which mode that was sifted.
    offered: Option<ServerCatalog>,
    shown: Option<ServerCatalog>,
    mode: Option<Mode>,
    surveyed_unix_ms: Option<u64>,
    stale_unix_ms: Option<u64>,
    trouble: Option<String>,
    changes: Changes,
}

impl Surveys {
    /// None yet; pins are in this state folder.
    pub(super) fn new(state: &Path, notes: Notes) -> Self {
        Self { pins: Pins::new(state, notes), servers: HashMap::new() }
    }

    /// A survey has succeeded.
    pub(super) fn found(&mut self, server: &ServerSettings, mut catalog: ServerCatalog) -> Weight {
        let known = self.servers.entry(server.name.clone()).or_default();
        known.surveyed_unix_ms = Some(clock().unix_ms);
        if known.trouble.take().is_some() {
            tracing::info!("server {} answers again", server.name);
        }
        let recovered = known.stale_unix_ms.take().is_some();
        if server.credentials.is_personal() {
            catalog.mark(false);
        }
        known.own = Some(catalog);
        self.unite(server, recovered)
    }

    /// A caller was shown this: whatever of it nobody was shown before is part of what the server offers now.
    pub(super) fn shown_to_one(&mut self, server: &ServerSettings, looked: &Looked, catalog: ServerCatalog) -> Weight {
        let known = self.servers.entry(server.name.clone()).or_default();
        let is_other = known.callers.take(looked, catalog, clock().mono);
        if known.own.is_none() {
            known.surveyed_unix_ms = Some(clock().unix_ms);
        }
        // Whose definition is served may be another's now.
        if !is_other && known.differing.is_empty() && known.offered.is_some() {
            return Weight::None;
        }
        match self.unite(server, false) {
            Weight::None => Weight::None,
            _ => Weight::AtOnce,
        }
    }

    /// Lets go of what no caller is shown any more.
    pub(super) fn age(&mut self, servers: &[ServerSettings]) -> Weight {
        let mut weight = Weight::None;
        for server in servers.iter().filter(|server| server.credentials.is_personal()) {
            let Some(known) = self.servers.get_mut(&server.name) else { continue };
            let is_other = known.callers.age(clock().mono);
            if is_other || !known.differing.is_empty() {
                weight = weight.max(self.unite(server, false));
            }
        }
        weight
    }

    /// What the server offers, to the gateway and to callers.
    fn unite(&mut self, server: &ServerSettings, recovered: bool) -> Weight {
        let known = self.servers.entry(server.name.clone()).or_default();
        let pins = &self.pins;
        // What a person has approved is not hidden for what somebody else is shown.
        let is_known = |key: &Key, pin: &Pin| server.pin == Mode::Quarantine && pins.knows(&server.name, key, pin);
        let together = known.callers.together(known.own.as_ref(), clock().mono, is_known);
        let fresh: Vec<&Key> = together.differing.iter().filter(|key| !known.differing.contains(key)).collect();
        if !fresh.is_empty() {
            let more = fresh.len().saturating_sub(PINS_NAMED_MAX);
            let named: Vec<String> = fresh.iter().take(PINS_NAMED_MAX).map(|key| plain(&key.to_string())).collect();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            tracing::warn!(
                "server {}: callers are shown different definitions of one name: {}{more}; only one of them is served, and \
                 whoever is shown another does not see it",
                server.name,
                named.join(", ")
            );
        }
        known.differing = together.differing;
        self.offers(server, together.catalog, recovered)
    }

    fn offers(&mut self, server: &ServerSettings, catalog: ServerCatalog, recovered: bool) -> Weight {
        let known = self.servers.entry(server.name.clone()).or_default();
        if known.offered.as_ref() == Some(&catalog) && known.mode == Some(server.pin) {
            return if recovered { Weight::Snapshot } else { Weight::None };
        }
        let first = known.offered.is_none();
        known.offered.iter().for_each(|before| known.changes.count(before, &catalog));
        known.offered = Some(catalog);
        match self.sift(&server.name, server.pin) {
            _ if first => Weight::AtOnce,
            true => Weight::Snapshot,
            false if recovered => Weight::Snapshot,
            false => Weight::None,
        }
    }

    /// A survey has failed: what was known is kept.
    pub(super) fn failed(&mut self, server: &ServerSettings, trouble: String) -> Weight {
        let known = self.servers.entry(server.name.clone()).or_default();
        if known.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("server {}: {trouble}", server.name);
        }
        known.trouble = Some(trouble);
        // What callers are shown is looked at for each of them.
        if known.own.is_none() || known.stale_unix_ms.is_some() {
            return Weight::None;
        }
        known.stale_unix_ms = Some(clock().unix_ms);
        Weight::Snapshot
    }

    /// Looks whether somebody has approved something.
    pub(super) fn look(&mut self, servers: &[ServerSettings]) -> Weight {
        let mut weight = Weight::None;
        for name in self.pins.due() {
            let Some(server) = servers.iter().find(|server| server.name == name) else { continue };
            if self.sift(&name, server.pin) {
                weight = Weight::AtOnce;
            }
        }
        weight
    }

    /// The catalogue of these servers, which are all there are now.
    pub(super) fn catalog(&mut self, servers: &[ServerSettings]) -> Catalog {
        self.servers.retain(|name, _| servers.iter().any(|server| server.name == *name));
        self.pins.keep(|name| servers.iter().any(|server| *server.name == *name));
        for server in servers {
            // The operator has changed `pin`.
            if self.servers.get(&server.name).is_some_and(|known| known.mode.is_some_and(|mode| mode != server.pin)) {
                self.sift(&server.name, server.pin);
            }
        }
        let known = servers.iter().map(|server| self.servers.get(&server.name));
        let mut catalog = Catalog::build(known.clone().map(|known| known?.shown.clone()).collect());
        for (index, (known, server)) in known.zip(servers).enumerate() {
            let id = ServerId::from_index(index);
            catalog.mark_approvals(id, self.pins.waiting(&server.name).approvals);
            if let Some(since) = known.and_then(|known| known.stale_unix_ms) {
                catalog.mark_stale(id, since);
            }
        }
        catalog
    }

    /// What was known of a server of this name is of another one now. What is counted goes on.
    pub(super) fn forget(&mut self, server: &str) {
        if let Some(known) = self.servers.get_mut(server) {
            *known = Surveyed { changes: known.changes, ..Surveyed::default() };
        }
    }

    /// What is shown of a server; `None` until it was surveyed.
    pub(super) fn shown(&self, server: &str) -> Option<&ServerCatalog> {
        self.servers.get(server)?.shown.as_ref()
    }

    /// What is wrong with it.
    pub(super) fn trouble(&self, server: &str) -> Option<&str> {
        self.servers.get(server)?.trouble.as_deref()
    }

    /// What there is to say of its catalogue.
    pub(super) fn health(&self, server: &str) -> SurveyHealth {
        let known = self.servers.get(server);
        SurveyHealth {
            version: known.and_then(|known| version(known.offered.as_ref()?)),
            surveyed_unix_ms: known.and_then(|known| known.surveyed_unix_ms),
            stale_unix_ms: known.and_then(|known| known.stale_unix_ms),
            pins: self.pins.waiting(server),
            differing: known.map_or(0, |known| known.differing.len()),
            changes: known.map_or_else(Changes::default, |known| known.changes),
        }
    }

    /// Whether other things are shown of it now.
    fn sift(&mut self, name: &Arc<str>, mode: Mode) -> bool {
        let Some(known) = self.servers.get_mut(name) else { return false };
        let Some(offered) = &known.offered else { return false };
        let shown = self.pins.sift(name, mode, offered);
        known.mode = Some(mode);
        let changed = known.shown.as_ref() != Some(&shown);
        known.shown = Some(shown);
        changed
    }
}

/// `NAME VERSION`, as the server says, in whichever era.
fn version(catalog: &ServerCatalog) -> Option<String> {
    let eras = [catalog.modern.as_ref(), catalog.legacy.as_ref()];
    let info: Value =
        serde_json::from_slice(eras.into_iter().flatten().find_map(|era| era.server_info.as_deref())?).ok()?;
    let text = |name: &str| info.get(name).and_then(Value::as_str).unwrap_or_default();
    let said: String =
        format!("{} {}", text("name"), text("version")).trim().chars().take(VERSION_LETTERS_MAX).collect();
    (!said.is_empty()).then(|| plain(&said))
}

/// What is shown of what a server calls itself, letters.
const VERSION_LETTERS_MAX: usize = 128;
