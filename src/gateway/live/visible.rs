//! What a caller sees of the lists of an endpoint, as marks: two are the same when the lists are.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::rc::Rc;

use foldhash::fast::RandomState;
use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::base::ids::{EndpointId, ServerId};
use crate::config::snapshot::Snapshot;
use crate::gateway::live::Who;
use crate::mcp::catalog::ListKind;
use crate::mcp::revision::Era;
use crate::mcp::subscription::joint::Announced;
use crate::policy::decide::listed;

/// The entries of servers' lists under one snapshot, each as a hash.
#[derive(Default)]
pub(super) struct Hashed {
    /// The snapshot's number.
    number: u64,
    servers: HashMap<(ServerId, Era), Rc<Lists>, RandomState>,
}

/// Those of one server.
struct Lists {
    /// By `ListKind::index`, then in the server's order.
    entries: [Vec<u64>; 4],
    whole: u64,
}

/// Of which lists a caller looks at which.
pub(super) struct View<'a> {
    pub(super) hashed: &'a RefCell<Hashed>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) endpoint: EndpointId,
    pub(super) era: Era,
    pub(super) who: &'a Who,
}

impl View<'_> {
    /// What the marks depend on: while this is the same, they are. It costs next to nothing.
    pub(super) fn basis(&self, merged: bool) -> u64 {
        let mut hasher = FixedState::default().build_hasher();
        let Who { caller, task, .. } = self.who;
        (self.snapshot.auth_epoch, caller.owner, &caller.tasks, task).hash(&mut hasher);
        // Where there is one server, its own word is given on.
        for server in self.servers().filter(|_| merged) {
            hasher.write_u64(self.lists(server).whole);
        }
        hasher.finish()
    }

    /// A mark for each of [`Announced`].
    pub(super) fn marks(&self) -> [u64; 3] {
        Announced::ALL.map(|list| {
            let kinds: &[ListKind] = match list {
                Announced::Tools => &[ListKind::Tools],
                Announced::Prompts => &[ListKind::Prompts],
                Announced::Resources => &[ListKind::Resources, ListKind::Templates],
            };
            let mut hasher = FixedState::default().build_hasher();
            for kind in kinds {
                for server in self.servers() {
                    self.add(&mut hasher, *kind, server);
                }
            }
            hasher.finish()
        })
    }

    fn add(&self, hasher: &mut impl std::hash::Hasher, kind: ListKind, server: ServerId) {
        let Self { snapshot, who, .. } = self;
        let offered = snapshot.catalog.server(server).and_then(|offered| offered.era(self.era));
        let Some(listing) = offered.and_then(|offered| offered.list(kind)) else { return };
        let lists = self.lists(server);
        hasher.write_u64(snapshot.prepared.servers[server.index()].digest);
        for (item, hash) in listing.items.iter().zip(&lists.entries[kind.index()]) {
            if listed(&snapshot.table, &who.caller, who.task, server, kind, item) {
                hasher.write_u64(*hash);
            }
        }
    }

    fn servers(&self) -> impl Iterator<Item = ServerId> {
        self.snapshot.settings.endpoints[self.endpoint.index()].servers.iter().copied()
    }

    fn lists(&self, server: ServerId) -> Rc<Lists> {
        let mut hashed = self.hashed.borrow_mut();
        if hashed.number != self.snapshot.number {
            hashed.number = self.snapshot.number;
            hashed.servers.clear();
        }
        let lists = hashed.servers.entry((server, self.era)).or_insert_with(|| Rc::new(self.hash(server)));
        lists.clone()
    }

    fn hash(&self, server: ServerId) -> Lists {
        let offered = self.snapshot.catalog.server(server).and_then(|offered| offered.era(self.era));
        let state = FixedState::default();
        let mut whole = state.build_hasher();
        let entries = [ListKind::Tools, ListKind::Prompts, ListKind::Resources, ListKind::Templates].map(|kind| {
            let listing = offered.and_then(|offered| offered.list(kind));
            whole.write_u8(u8::from(listing.is_some()));
            let items = listing.map(|listing| &*listing.items).unwrap_or_default();
            let entries: Vec<u64> = items.iter().map(|item| state.hash_one((&item.name, &item.raw))).collect();
            entries.hash(&mut whole);
            entries
        });
        Lists { entries, whole: whole.finish() }
    }
}
