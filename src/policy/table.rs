//! The compiled policy: rows of words over dense numbers. One row for the rules without tasks, one more for each task
//! that a rule names; a call looks at its bit in one or two of them, however many rules and tools there are.
//!
//! The numbers: tools and prompts by their `ItemId`, and behind them three for each server, for what it may ask of a
//! client. Resources have no numbers, since nobody knows them all; they go by their globs, found by prefix.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::glob::Glob;
use super::rule::{Effect, PolicySet};
use super::uri::Target;
use crate::base::bits::Bits;
use crate::base::ids::{ItemId, RuleId, ServerId, TaskId};
use crate::base::limits::{ITEMS_MAX, RULES_NAMED_MAX, SERVERS_MAX, TASKS_MAX};
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::mcp::catalog::ListKind;
use crate::mcp::input::Ask;

/// Rules behind an answer, first ones first, none twice.
pub type Named = SmallVec<[RuleId; RULES_NAMED_MAX]>;

/// A policy compiled against a catalogue. Made by `Table::compile`; never changed.
pub struct Table {
    pub(super) set: Arc<PolicySet>,
    pub(super) names: Names,
    /// Every caller is of this class, until rules ask who it is.
    pub(super) everyone: Class,
}

/// What rules say to callers of one class.
#[derive(Default)]
pub(super) struct Class {
    pub(super) always: Row,
    /// By `TaskId`; `None` where no rule names the task.
    pub(super) tasks: Vec<Option<Box<Row>>>,
}

/// What the rules of one task, or those without tasks, say.
#[derive(Default)]
pub(super) struct Row {
    pub(super) planes: [Plane; 3],
    /// By `ServerId`; shorter where no rule reaches further.
    pub(super) resources: Vec<[Globs; 3]>,
    pub(super) reach: Reaches,
}

/// Which servers a row is about, whatever they turn out to offer; by `ServerId`.
#[derive(Default)]
pub(super) struct Reaches {
    /// Of which some tool, some prompt, some resource may be permitted.
    pub(super) some: [Bits; 3],
    /// Of which all tools, all prompts, all resources are silently forbidden.
    pub(super) hides_all: [Bits; 3],
}

/// What a rule says where it applies; the index of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// Yes.
    Permit,
    /// No, and it is not there.
    Silent,
    /// No, and why.
    Reasoned,
}

/// A set of numbers, and for each number in it the rules that put it there.
#[derive(Default)]
pub(super) struct Plane {
    bits: Bits,
    /// For each word of `bits`, how many ones are in the words before it.
    ranks: Vec<u32>,
    /// By rank: which run of `pool`.
    runs: Vec<(u32, u8)>,
    pool: Vec<RuleId>,
}

/// The globs of one server and plane, found by their literal prefix.
#[derive(Default)]
pub(super) struct Globs {
    /// Sorted, none twice.
    prefixes: Vec<Prefix>,
    entries: Vec<(Glob, Named)>,
}

struct Prefix {
    /// The longest other prefix that this one begins with.
    parent: Option<u32>,
    /// Its globs in `entries`.
    first: u32,
    last: u32,
}

/// Number by server, kind and name.
#[derive(Default)]
pub(super) struct Names {
    hasher: RandomState,
    by_name: HashTable<u32>,
    entries: Vec<(ServerId, ListKind, Box<str>)>,
    pub(super) servers: usize,
}

/// Who asks, and what for.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) caller: &'a Caller,
    pub(super) task: ActiveTask,
}

impl Table {
    /// The policy that was compiled.
    #[must_use]
    pub fn set(&self) -> &Arc<PolicySet> {
        &self.set
    }

    /// What rules say to this caller.
    pub(super) fn class(&self, _caller: &Caller) -> &Class {
        &self.everyone
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.everyone.tasks.iter().flatten().count();
        f.debug_struct("Table")
            .field("policy", &self.set.hex12())
            .field("rules", &self.set.rules().len())
            .field("items", &self.names.entries.len())
            .field("rows", &(tasks + 1))
            .finish_non_exhaustive()
    }
}

impl Class {
    /// The rows whose rules apply: those without tasks, the active task's, and where nobody said which of several is
    /// active, for forbids those of all that the caller holds.
    pub(super) fn rows<'a>(&'a self, asker: &'a Asker<'_>, effect: Effect) -> impl Iterator<Item = &'a Row> {
        let tasks: &[TaskId] = match (&asker.task, effect) {
            (ActiveTask::One(task), _) => std::slice::from_ref(task),
            (ActiveTask::Several, Effect::Forbid | Effect::Approve) => &asker.caller.tasks,
            (ActiveTask::Several, Effect::Permit) | (ActiveTask::None, _) => &[],
        };
        let of_task = |task: &TaskId| self.tasks.get(task.index())?.as_deref();
        std::iter::once(&self.always).chain(tasks.iter().filter_map(of_task))
    }

    /// Whether a rule says this of the number.
    #[inline]
    pub(super) fn says(&self, asker: &Asker<'_>, says: Says, number: usize) -> bool {
        self.rows(asker, says.effect()).any(|row| row.planes[says.index()].bits.get(number))
    }

    /// The rules that say this of the number.
    pub(super) fn rules(&self, asker: &Asker<'_>, says: Says, number: usize) -> Named {
        let mut named = Named::new();
        for row in self.rows(asker, says.effect()) {
            merge(&mut named, row.planes[says.index()].rules(number));
        }
        named
    }

    /// The rules that say this of a resource or template.
    pub(super) fn resource_rules(&self, asker: &Asker<'_>, says: Says, server: ServerId, target: &Target<'_>) -> Named {
        let mut named = Named::new();
        for row in self.rows(asker, says.effect()) {
            if let Some(globs) = row.resources.get(server.index()) {
                globs[says.index()].collect(says.effect(), target, &mut named);
            }
        }
        named
    }
}

impl Says {
    pub(super) fn index(self) -> usize {
        self as usize
    }

    fn effect(self) -> Effect {
        match self {
            Self::Permit => Effect::Permit,
            Self::Silent | Self::Reasoned => Effect::Forbid,
        }
    }
}

/// A count of patterns or of their rules.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("rules and their patterns are bounded")
}

/// The first `RULES_NAMED_MAX` of both.
pub(super) fn merge(named: &mut Named, more: &[RuleId]) {
    if named.is_empty() {
        named.extend_from_slice(more);
        return;
    }
    for rule in more {
        if let Err(at) = named.binary_search(rule) {
            if at == RULES_NAMED_MAX {
                return;
            }
            named.truncate(RULES_NAMED_MAX - 1);
            named.insert(at, *rule);
        }
    }
}

impl Plane {
    /// A plane of these numbers, each with its rules.
    pub(super) fn build(numbers: impl IntoIterator<Item = (u32, Named)>) -> Self {
        let mut plane = Self::default();
        let mut numbers: Vec<(u32, Named)> = numbers.into_iter().collect();
        numbers.sort_unstable_by_key(|(number, _)| *number);
        let mut known = std::collections::HashMap::new();
        for (number, rules) in numbers {
            plane.bits.set(number as usize);
            let length = u8::try_from(rules.len()).expect("few rules are named");
            let start = *known.entry(rules).or_insert_with_key(|rules: &Named| {
                plane.pool.extend_from_slice(rules);
                plane.pool.len() - rules.len()
            });
            plane.runs.push((narrow(start), length));
        }
        let mut before = 0;
        for word in plane.bits.words() {
            plane.ranks.push(before);
            before += word.count_ones();
        }
        plane
    }

    fn rules(&self, number: usize) -> &[RuleId] {
        if !self.bits.get(number) {
            return &[];
        }
        let below = self.bits.words()[number / 64] & ((1 << (number % 64)) - 1);
        let (start, length) = self.runs[(self.ranks[number / 64] + below.count_ones()) as usize];
        &self.pool[start as usize..start as usize + usize::from(length)]
    }
}

impl Globs {
    /// All globs, each with its rules.
    pub(super) fn build(globs: impl IntoIterator<Item = (Glob, Named)>) -> Self {
        let mut entries: Vec<(Glob, Named)> = globs.into_iter().collect();
        entries.sort_by(|(a, _), (b, _)| a.prefix().cmp(b.prefix()));
        let mut built = Self { prefixes: Vec::new(), entries };
        for index in 0..built.entries.len() {
            let text = built.entries[index].0.prefix();
            let last = built.prefixes.len().checked_sub(1);
            let is_same = last.is_some_and(|last| built.text(&built.prefixes[last]) == text);
            let parent = built.within(last, text).map(narrow);
            match last {
                Some(last) if is_same => built.prefixes[last].last = narrow(index + 1),
                _ => built.prefixes.push(Prefix { parent, first: narrow(index), last: narrow(index + 1) }),
            }
        }
        built
    }

    /// Adds the rules that reach `target`. Looks at the globs whose prefix the URI begins with, found by one binary
    /// search; of a template, also at those whose prefix begins as the template does.
    fn collect(&self, effect: Effect, target: &Target<'_>, named: &mut Named) {
        let reaches = |glob: &Glob| match effect {
            Effect::Permit => target.permitted_by(glob),
            Effect::Forbid | Effect::Approve => target.forbidden_by(glob),
        };
        let mut look = |prefix: &Prefix| {
            for (glob, rules) in &self.entries[prefix.first as usize..prefix.last as usize] {
                if reaches(glob) {
                    merge(named, rules);
                }
            }
        };
        match effect {
            Effect::Permit => {
                let fixed = target.fixed();
                self.beginning(fixed).for_each(&mut look);
                if target.is_open() {
                    let from = self.prefixes.partition_point(|prefix| self.text(prefix) <= fixed);
                    let begins = |prefix: &&Prefix| self.text(prefix).starts_with(fixed);
                    self.prefixes[from..].iter().take_while(begins).for_each(look);
                }
            }
            Effect::Forbid | Effect::Approve => {
                self.beginning(target.written()).for_each(&mut look);
                if target.normal() != target.written() {
                    self.beginning(target.normal()).for_each(look);
                }
            }
        }
    }

    /// The prefixes that `text` begins with.
    fn beginning(&self, text: &str) -> impl Iterator<Item = &Prefix> {
        let at = self.prefixes.partition_point(|prefix| self.text(prefix) <= text);
        let first = self.within(at.checked_sub(1), text);
        std::iter::successors(first, |at| self.prefixes[*at].parent.map(|parent| parent as usize))
            .map(|at| &self.prefixes[at])
    }

    /// The longest prefix at or above `at` that `text` begins with. `at` is the last one not behind `text` in order:
    /// every prefix of `text` is that one or an ancestor of it.
    fn within(&self, mut at: Option<usize>, text: &str) -> Option<usize> {
        while let Some(here) = at {
            let prefix = &self.prefixes[here];
            if text.starts_with(self.text(prefix)) {
                return at;
            }
            at = prefix.parent.map(|parent| parent as usize);
        }
        None
    }

    fn text(&self, prefix: &Prefix) -> &str {
        self.entries[prefix.first as usize].0.prefix()
    }
}

impl Names {
    /// All names of the catalogue, in the order of their ids.
    pub(super) fn build<'a>(
        items: impl IntoIterator<Item = (ItemId, ServerId, ListKind, &'a str)>,
        servers: usize,
    ) -> Self {
        let mut names = Self { servers, ..Self::default() };
        for (id, server, kind, name) in items {
            assert_eq!(id.index(), names.entries.len(), "ids of a catalogue have no gaps");
            names.entries.push((server, kind, Box::from(name)));
            let Self { hasher, by_name, entries, .. } = &mut names;
            let rehash = |id: &u32| {
                let (server, kind, name) = &entries[*id as usize];
                hasher.hash_one((*server, *kind, &**name))
            };
            by_name.insert_unique(rehash(&id.0), id.0, rehash);
        }
        names
    }

    /// The number of a tool or prompt.
    pub(super) fn item(&self, server: ServerId, kind: ListKind, name: &str) -> Option<usize> {
        let hash = self.hasher.hash_one((server, kind, name));
        let is_it = |id: &u32| {
            let (its_server, its_kind, its_name) = &self.entries[*id as usize];
            *its_server == server && *its_kind == kind && **its_name == *name
        };
        self.by_name.find(hash, is_it).map(|id| *id as usize)
    }

    /// The number of a list's entry that says it has this id; `None` when the id means something else here.
    pub(super) fn check(&self, id: ItemId, server: ServerId, kind: ListKind) -> Option<usize> {
        let (its_server, its_kind, _) = self.entries.get(id.index())?;
        (*its_server == server && *its_kind == kind).then_some(id.index())
    }

    /// The number of what a server may ask.
    pub(super) fn ask(&self, server: ServerId, ask: Ask) -> Option<usize> {
        (server.index() < self.servers).then(|| self.entries.len() + server.index() * Ask::ALL.len() + ask as usize)
    }
}

const _: () = assert!(RULES_NAMED_MAX > 0 && RULES_NAMED_MAX <= u8::MAX as usize, "a run's length is one byte");
const _: () = assert!(
    3 * (TASKS_MAX + 1) * (ITEMS_MAX + 3 * SERVERS_MAX) / 8 <= 32 * 1024 * 1024,
    "all planes of bits together stay below 32 MiB"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(rules: &[u32]) -> Named {
        rules.iter().map(|&rule| RuleId(rule)).collect()
    }

    #[test]
    fn merging_keeps_the_first_ones() {
        let check = |a: &[u32], b: &[u32], want: &[u32]| {
            let mut got = named(a);
            merge(&mut got, &named(b));
            assert_eq!(got, named(want));
        };
        check(&[], &[1, 2], &[1, 2]);
        check(&[1, 5], &[0, 5, 9], &[0, 1, 5, 9]);
        check(&[1, 2, 3, 4, 5, 6, 7, 9], &[8], &[1, 2, 3, 4, 5, 6, 7, 8]);
        check(&[1, 2, 3, 4, 5, 6, 7, 8], &[9], &[1, 2, 3, 4, 5, 6, 7, 8]);
        check(&[1, 2, 3, 4, 5, 6, 7, 8], &[0, 9], &[0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_plane_gives_back_what_was_put_in() {
        let plane = Plane::build([(200, named(&[3])), (0, named(&[1, 2])), (63, named(&[3])), (64, named(&[1, 2]))]);
        for (number, want) in [(0, &[1, 2][..]), (63, &[3]), (64, &[1, 2]), (200, &[3]), (1, &[]), (9_999, &[])] {
            assert_eq!(plane.rules(number), &*named(want), "{number}");
        }
        assert_eq!(plane.pool.len(), 3, "equal runs are kept once");
    }

    proptest! {
        #[test]
        fn globs_are_found_by_prefix(
            globs in proptest::collection::vec("x:[ab*]{0,4}|[xX:*]{0,3}", 0..12),
            text in "[xX]:[abA]{0,4}(\\{a\\})?[ab]{0,2}|\\{a\\}:b?",
        ) {
            let rules = |index: usize| named(&[u32::try_from(index).unwrap()]);
            let list: Vec<Glob> = globs.iter().map(|glob| Glob::new(glob)).collect();
            let all = Globs::build(list.iter().cloned().enumerate().map(|(index, glob)| (glob, rules(index))));
            let Some(target) = Target::template(&text) else { return Ok(()) };
            for effect in [Effect::Permit, Effect::Forbid] {
                let reaches = |glob: &Glob| match effect {
                    Effect::Permit => target.permitted_by(glob),
                    Effect::Forbid | Effect::Approve => target.forbidden_by(glob),
                };
                let mut want = Named::new();
                for (index, _) in list.iter().enumerate().filter(|(_, glob)| reaches(glob)) {
                    merge(&mut want, &rules(index));
                }
                let mut got = Named::new();
                all.collect(effect, &target, &mut got);
                prop_assert_eq!(got, want);
            }
        }
    }
}
