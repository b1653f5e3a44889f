//! What a caller sees of the lists of an endpoint, as marks: two are the same when the lists are.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::rc::Rc;

use foldhash::fast::RandomState;
use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::base::ids::{EndpointId, ServerId};
use crate::config::snapshot::Snapshot;
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::mcp::catalog::{Item, ListKind};
use crate::mcp::merge::Merged;
use crate::mcp::revision::Era;
use crate::mcp::subscription::joint::Announced;
use crate::policy::decide::listed;

/// The entries of endpoints' lists under one snapshot, each as a hash.
#[derive(Default)]
pub(super) struct Hashed {
    /// The snapshot's number.
    number: u64,
    lists: HashMap<(EndpointId, Era), Rc<Lists>, RandomState>,
}

/// Those of one endpoint, by `ListKind::index`, servers and their entries in order; without what is not shown to anyone.
type Lists = [Vec<u64>; 4];

/// Of which lists a caller looks at which.
pub(in crate::gateway) struct View<'a> {
    pub(super) hashed: &'a RefCell<Hashed>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) endpoint: EndpointId,
    pub(super) era: Era,
    pub(super) caller: &'a Caller,
    pub(super) task: ActiveTask,
}

impl View<'_> {
    /// What the marks depend on: while this is the same, they are. It costs next to nothing.
    pub(super) fn basis(&self) -> u64 {
        let mut hasher = FixedState::default().build_hasher();
        let caller = self.caller;
        // What the conditions of rules see of a caller follows from its token.
        (self.snapshot.settings_epoch, caller.owner, &caller.tasks, self.task, caller.token).hash(&mut hasher);
        let merged = self.merged();
        match merged.alone() {
            None => ListKind::ALL.iter().for_each(|kind| hasher.write_u64(merged.generation(self.era, *kind))),
            // Its own word of changes is given on; that an operator has approved of one, it does not know.
            Some(server) => hasher.write_u64(self.snapshot.catalog.approvals(server)),
        }
        hasher.finish()
    }

    /// A mark for each of [`Announced`].
    pub(super) fn marks(&self) -> [u64; 3] {
        let lists = self.lists();
        Announced::ALL.map(|list| {
            let kinds: &[ListKind] = match list {
                Announced::Tools => &[ListKind::Tools],
                Announced::Prompts => &[ListKind::Prompts],
                Announced::Resources => &[ListKind::Resources, ListKind::Templates],
            };
            let mut hasher = FixedState::default().build_hasher();
            for kind in kinds {
                let hashes = &lists[kind.index()];
                for ((server, item), hash) in self.items(*kind).zip(hashes) {
                    if listed(&self.snapshot.table, self.caller, self.task, server, *kind, item) {
                        hasher.write_u64(*hash);
                    }
                }
                hasher.write_u8(0);
            }
            hasher.finish()
        })
    }

    fn merged(&self) -> &Merged {
        &self.snapshot.merged[self.endpoint.index()]
    }

    fn items(&self, kind: ListKind) -> impl Iterator<Item = (ServerId, &Item)> {
        let (merged, era) = (self.merged(), self.era);
        let offered = move |server: ServerId| self.snapshot.catalog.server(server)?.era(era)?.list(kind);
        let servers = merged.servers().iter().copied();
        let items = servers.flat_map(move |server| {
            let items = offered(server).into_iter().flat_map(|listing| &listing.items);
            items.map(move |item| (server, item))
        });
        items.filter(move |(server, item)| !merged.withheld(era, kind, *server, item))
    }

    fn lists(&self) -> Rc<Lists> {
        let mut hashed = self.hashed.borrow_mut();
        if hashed.number != self.snapshot.number {
            hashed.number = self.snapshot.number;
            hashed.lists.clear();
        }
        let lists = hashed.lists.entry((self.endpoint, self.era)).or_insert_with(|| {
            let mut written = Vec::new();
            Rc::new(ListKind::ALL.map(|kind| {
                let hash = |(server, item)| {
                    written.clear();
                    self.merged().write_item(&mut written, self.era, server, kind, item);
                    FixedState::default().hash_one(&written)
                };
                self.items(kind).map(hash).collect()
            }))
        });
        lists.clone()
    }
}
