//! What the records of a shard's permits have in common, kept as the bytes it makes: most calls are by the same few
//! callers, of the same few tools, let go by the same rules.

use std::rc::Rc;

use crate::base::ids::{ItemId, RuleId, ServerId};
use crate::base::limits::{ALIKE_BYTES_MAX, ALIKE_KEPT};
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::mcp::method::Method;
use crate::mcp::revision::Revision;
use crate::record::frame::{Alike, TargetKind};

use super::flight::Flight;

/// By caller and tool: two that are in each other's way are made anew.
#[derive(Default)]
pub(super) struct Alikes {
    kept: Vec<Option<Kept>>,
    /// Of what is not kept.
    other: Alike,
}

/// All that it follows from.
struct Kept {
    /// Kept with it, so that no other one can be at its place.
    caller: Rc<Caller>,
    /// Of the snapshot: what all ids mean, and the policy's hash.
    number: u64,
    item: ItemId,
    /// Its name, and which of the kinds it is.
    target: (Box<str>, TargetKind),
    server: ServerId,
    task: ActiveTask,
    method: Option<&'static Method>,
    revision: Revision,
    rules: Vec<RuleId>,
    alike: Alike,
}

impl Alikes {
    /// What the record of this request's permit has in common with others: `make` makes it where it is not known. Only
    /// what is about a tool or prompt of the catalogue is kept.
    pub(super) fn of(
        &mut self,
        flight: &Flight,
        item: Option<ItemId>,
        target: (&str, TargetKind),
        rules: &[RuleId],
        make: impl FnOnce(&mut Alike),
    ) -> &Alike {
        if self.kept.is_empty() {
            self.kept.resize_with(ALIKE_KEPT, || None);
        }
        let slot = item.and_then(|item| Some((item, self.kept.get_mut(place(flight, item))?)));
        let Some((item, slot)) = slot else {
            make(&mut self.other);
            return &self.other;
        };
        if slot.as_ref().is_some_and(|kept| !kept.is_of(flight, item, target, rules)) {
            // Its bytes' room is used again; nothing else of it holds.
            self.other = slot.take().map(|kept| kept.alike).unwrap_or_default();
        }
        match slot {
            Some(kept) => &kept.alike,
            None => {
                make(&mut self.other);
                if self.other.len() > ALIKE_BYTES_MAX {
                    return &self.other;
                }
                let alike = std::mem::take(&mut self.other);
                &slot.insert(Kept::new(flight, item, target, rules, alike)).alike
            }
        }
    }
}

impl Kept {
    fn new(flight: &Flight, item: ItemId, (name, kind): (&str, TargetKind), rules: &[RuleId], alike: Alike) -> Self {
        Self {
            caller: flight.caller.clone(),
            number: flight.snapshot.number,
            item,
            target: (name.into(), kind),
            server: flight.server,
            task: flight.task,
            method: flight.method,
            revision: flight.revision,
            rules: rules.to_vec(),
            alike,
        }
    }

    fn is_of(&self, flight: &Flight, item: ItemId, target: (&str, TargetKind), rules: &[RuleId]) -> bool {
        let is_method = match (self.method, flight.method) {
            (Some(one), Some(other)) => std::ptr::eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        Rc::ptr_eq(&self.caller, &flight.caller)
            && self.number == flight.snapshot.number
            && self.item == item
            && (&*self.target.0, self.target.1) == target
            && self.server == flight.server
            && self.task == flight.task
            && is_method
            && self.revision == flight.revision
            && self.rules == rules
    }
}

fn place(flight: &Flight, item: ItemId) -> usize {
    let caller = Rc::as_ptr(&flight.caller).addr();
    // Callers are far apart, tools are numbered one after the other.
    ((caller >> 5) ^ (caller >> 12) ^ item.index()) % ALIKE_KEPT
}
