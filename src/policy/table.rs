//! The compiled policy: sets of dense numbers, and which rules are about each set.
//!
//! The numbers: tools and prompts by their `ItemId`, and behind them three for each server, for what it may ask of a
//! client. Resources have no numbers, since nobody knows them all; they go by their globs, found by prefix.
//!
//! Rules of the same task (or none) and the same `who` (or none) are a *group*: it applies to a call as a whole. What all
//! groups that apply to one kind of caller say together is a *class*, made when such a caller first comes (`classes`).

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::classes::Classes;
use super::cond::Dead;
use super::glob::Glob;
use super::keys::Keys;
use super::rule::PolicySet;
use super::schema::Misfit;
use super::uri::Target;
use crate::base::bits::Bits;
use crate::base::ids::{ItemId, RuleId, ServerId, TaskId};
use crate::base::limits::RULES_NAMED_MAX;
use crate::mcp::catalog::ListKind;
use crate::mcp::input::Ask;

/// Rules behind an answer, first ones first, none twice.
pub type Named = SmallVec<[RuleId; RULES_NAMED_MAX]>;

/// A policy compiled against a catalogue. Made by `Table::compile`; what it says never changes.
pub struct Table {
    pub(super) set: Arc<PolicySet>,
    pub(super) names: Names,
    pub(super) servers: Vec<Arc<str>>,
    /// Sorted by task, those without one first.
    pub(super) groups: Vec<Group>,
    /// Which numbers the patterns of rules are about.
    pub(super) members: Vec<Members>,
    /// Which servers are meant where a pattern names several.
    pub(super) sites: Vec<Bits>,
    pub(super) classes: Classes,
    /// Entries of `after`, in the order of the file.
    pub(super) watches: Vec<Watch>,
    /// Which of them a call is one for.
    pub(super) watched: Spots,
    /// Which rates with patterns a call is one for; the others go by method and endpoint alone.
    pub(super) rated: Spots,
    /// What is watched or rated.
    pub(super) extra: Bits,
    pub(super) keys: Keys,
    /// Whether any rule is in shadow.
    pub(super) has_shadows: bool,
    /// Paths that no tool of a rule has.
    pub(super) dead: DeadPaths,
    pub(super) misfits: Vec<Misfit>,
}

/// Paths that no tool of a rule has, by its conditions.
pub type DeadPaths = foldhash::HashMap<(RuleId, Place), Dead>;

/// A condition of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Its `when`.
    When,
    /// What an entry of its `limits` counts.
    Counted(u16),
    /// A part of whose that count is.
    By(u16, u16),
}

/// The rules of one task, or of none, and of one `who`, or of none.
pub(super) struct Group {
    pub(super) task: Option<TaskId>,
    /// By its number among `PolicySet::heads`.
    pub(super) head: Option<u32>,
    pub(super) bundles: Vec<Bundle>,
    /// Where there are many bundles, which ones are about a number.
    pub(super) index: Option<Box<GroupIndex>>,
    /// Of the bundles, for permits.
    pub(super) permits: Where,
    /// Of the bundles, for what refuses or asks.
    pub(super) refusals: Where,
    pub(super) reach: Reaches,
}

/// The rules of one group that have the same patterns.
#[derive(Default)]
pub(super) struct Bundle {
    /// Which numbers they are about.
    pub(super) members: u32,
    /// Those that apply wherever the group does, by `Says`.
    pub(super) plain: [Named; 3],
    /// All others: with conditions, scopes or limits, approves, in shadow.
    pub(super) slow: Box<[RuleId]>,
}

/// What the bundles of a group say, by number.
pub(super) struct GroupIndex {
    pub(super) plain: [Plane<RuleId>; 3],
    /// Bundles with slow rules.
    pub(super) slow: Plane<u32>,
}

/// Which servers a group is about, whatever they turn out to offer; by `ServerId`.
#[derive(Default)]
pub(super) struct Reaches {
    /// Of which some tool, some prompt, some resource is permitted.
    pub(super) some: [Bits; 3],
    /// Of which all tools, all prompts, all resources are silently forbidden.
    pub(super) hides_all: [Bits; 3],
    /// Slow rules that may do either.
    pub(super) maybe: Vec<Maybe>,
}

/// What a slow rule may do.
pub(super) struct Maybe {
    pub(super) rule: RuleId,
    pub(super) site: Site,
    /// Tools, prompts, resources.
    pub(super) kinds: [bool; 3],
}

/// A set of numbers.
pub(super) enum Members {
    Many(Bits),
    Few(Box<[u32]>),
}

/// The servers that a pattern names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Site {
    One(ServerId),
    /// By their place in `Table::sites`.
    Several(u32),
}

/// An entry of `after`, by rule and place in its limits.
#[derive(Clone, Copy)]
pub(super) struct Watch {
    pub(super) rule: RuleId,
    pub(super) limit: u16,
}

/// What something is about: numbers and resources.
#[derive(Default)]
pub(super) struct Spots {
    pub(super) numbers: Plane<u32>,
    /// Where both forms of a URI must match.
    pub(super) both: Where,
    /// Where one suffices.
    pub(super) either: Where,
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

/// A set of numbers, and for each number in it what put it there.
pub(super) struct Plane<T> {
    bits: Bits,
    /// For each word of `bits`, how many ones are in the words before it.
    ranks: Vec<u32>,
    /// By rank: which run of `pool`, and how long it is.
    runs: Vec<(u32, u32)>,
    pool: Vec<T>,
}

/// Globs of URIs, by server.
#[derive(Default)]
pub(super) struct Where {
    /// Sorted.
    pub(super) own: Vec<(ServerId, Globs)>,
    /// Of several servers.
    pub(super) wide: Globs,
}

/// Globs, found by their literal prefix.
#[derive(Default)]
pub(super) struct Globs {
    /// Sorted, none twice.
    prefixes: Vec<Prefix>,
    entries: Vec<GlobEntry>,
}

/// A glob, and what it is for.
pub(super) struct GlobEntry {
    pub(super) glob: Glob,
    pub(super) site: Site,
    pub(super) ids: SmallVec<[u32; 2]>,
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

impl Table {
    /// The policy that was compiled.
    #[must_use]
    pub fn set(&self) -> &Arc<PolicySet> {
        &self.set
    }

    /// What conditions ask for in vain, as the catalogue is known; at most `limits::MISFITS_MAX`.
    #[must_use]
    pub fn misfits(&self) -> &[Misfit] {
        &self.misfits
    }

    /// The paths that these are about.
    #[must_use]
    pub fn dead_paths(&self) -> &DeadPaths {
        &self.dead
    }

    /// What it takes in memory, classes left out: bytes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let groups: usize = self.groups.iter().map(Group::bytes).sum();
        let members: usize = self.members.iter().map(|members| size_of::<Members>() + members.bytes()).sum();
        let sites: usize = self.sites.iter().map(bits_bytes).sum();
        groups + members + sites + self.names.bytes() + self.watched.bytes() + self.rated.bytes() + self.keys.bytes()
    }

    /// How many classes of callers are kept, and their bytes.
    #[must_use]
    pub fn classes_kept(&self) -> (usize, usize) {
        self.classes.kept()
    }

    /// Whether a server is meant.
    pub(super) fn is_at(&self, site: Site, server: ServerId) -> bool {
        match site {
            Site::One(one) => one == server,
            Site::Several(place) => self.sites[place as usize].get(server.index()),
        }
    }

    /// Paths that are unknown in a condition of a rule.
    #[inline]
    pub(super) fn dead(&self, rule: RuleId, place: Place) -> Dead {
        if self.dead.is_empty() { 0 } else { self.dead.get(&(rule, place)).copied().unwrap_or(0) }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("policy", &self.set.hex12())
            .field("rules", &self.set.rules().len())
            .field("items", &self.names.entries.len())
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

impl Group {
    /// Adds the rules that apply wherever the group does, and say this of the number.
    pub(super) fn names(&self, members: &[Members], says: Says, number: usize, named: &mut Named) {
        match &self.index {
            Some(index) => merge(named, index.plain[says.index()].of(number)),
            None => {
                let about = self.bundles.iter().filter(|bundle| members[bundle.members as usize].has(number));
                about.for_each(|bundle| merge(named, &bundle.plain[says.index()]));
            }
        }
    }

    /// Looks at each bundle with slow rules that is about the number.
    pub(super) fn slow<'a>(&'a self, members: &[Members], number: usize, mut look: impl FnMut(&'a Bundle)) {
        match &self.index {
            Some(index) => index.slow.of(number).iter().for_each(|at| look(&self.bundles[*at as usize])),
            None => {
                let slow = self.bundles.iter().filter(|bundle| !bundle.slow.is_empty());
                slow.filter(|bundle| members[bundle.members as usize].has(number)).for_each(look);
            }
        }
    }

    fn bytes(&self) -> usize {
        let bundle = |bundle: &Bundle| size_of::<Bundle>() + bundle.slow.len() * size_of::<RuleId>();
        let index = self.index.as_ref().map_or(0, |index| {
            size_of::<GroupIndex>() + index.slow.bytes() + index.plain.iter().map(Plane::bytes).sum::<usize>()
        });
        let reach = self.reach.some.iter().chain(&self.reach.hides_all).map(bits_bytes).sum::<usize>();
        let maybe = self.reach.maybe.len() * size_of::<Maybe>();
        let globs = self.permits.bytes() + self.refusals.bytes();
        size_of::<Self>() + self.bundles.iter().map(bundle).sum::<usize>() + index + reach + maybe + globs
    }
}

impl Members {
    /// A set of these numbers, sorted and none twice.
    pub(super) fn build(numbers: Vec<u32>) -> Self {
        let words = numbers.last().map_or(0, |last| *last as usize / 64 + 1);
        if numbers.len() <= FEW_MEMBERS_MAX && numbers.len() <= words {
            return Self::Few(numbers.into());
        }
        Self::Many(numbers.into_iter().map(|number| number as usize).collect())
    }

    #[inline]
    pub(super) fn has(&self, number: usize) -> bool {
        match self {
            Self::Many(bits) => bits.get(number),
            Self::Few(few) => few.iter().any(|one| *one as usize == number),
        }
    }

    /// Puts all of them into a set.
    pub(super) fn add_to(&self, bits: &mut Bits) {
        match self {
            Self::Many(many) => bits.or_assign(many),
            Self::Few(few) => few.iter().for_each(|number| bits.set(*number as usize)),
        }
    }

    /// Each of them.
    pub(super) fn each(&self, mut look: impl FnMut(usize)) {
        match self {
            Self::Many(bits) => bits.iter_ones().for_each(look),
            Self::Few(few) => few.iter().for_each(|number| look(*number as usize)),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Many(bits) => bits_bytes(bits),
            Self::Few(few) => few.len() * size_of::<u32>(),
        }
    }
}

impl Says {
    pub(super) const ALL: [Self; 3] = [Self::Permit, Self::Silent, Self::Reasoned];

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl Spots {
    fn bytes(&self) -> usize {
        self.numbers.bytes() + self.both.bytes() + self.either.bytes()
    }
}

impl Where {
    /// Whatever is about a resource or template; the same may come several times. `both`: where both its forms match.
    pub(super) fn collect(&self, table: &Table, both: bool, server: ServerId, target: &Target<'_>, out: &mut Ids) {
        let mut look = |entry: &GlobEntry| {
            if table.is_at(entry.site, server) {
                out.extend_from_slice(&entry.ids);
            }
        };
        if let Ok(at) = self.own.binary_search_by_key(&server, |(server, _)| *server) {
            self.own[at].1.collect(both, target, &mut look);
        }
        self.wide.collect(both, target, &mut look);
    }

    fn bytes(&self) -> usize {
        self.wide.bytes()
            + self.own.iter().map(|(_, globs)| size_of::<(ServerId, Globs)>() + globs.bytes()).sum::<usize>()
    }
}

/// What globs are for; sorted and none twice where it matters.
pub(super) type Ids = SmallVec<[u32; 16]>;

pub(super) fn bits_bytes(bits: &Bits) -> usize {
    bits.words().len() * 8
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

impl<T> Default for Plane<T> {
    fn default() -> Self {
        Self { bits: Bits::default(), ranks: Vec::new(), runs: Vec::new(), pool: Vec::new() }
    }
}

impl<T: Copy + Eq + std::hash::Hash> Plane<T> {
    /// A plane of these: by number, what puts it there, nothing for what is not in it.
    pub(super) fn build<'a>(numbers: impl IntoIterator<Item = &'a [T]>) -> Self
    where
        T: 'a,
    {
        let mut plane = Self::default();
        let mut known: foldhash::HashMap<&'a [T], u32> = foldhash::HashMap::default();
        for (number, list) in numbers.into_iter().enumerate().filter(|(_, list)| !list.is_empty()) {
            plane.bits.set(number);
            let start = *known.entry(list).or_insert_with(|| {
                plane.pool.extend_from_slice(list);
                narrow(plane.pool.len() - list.len())
            });
            plane.runs.push((start, narrow(list.len())));
        }
        plane.runs.shrink_to_fit();
        plane.pool.shrink_to_fit();
        let mut before = 0;
        for word in plane.bits.words() {
            plane.ranks.push(before);
            before += word.count_ones();
        }
        plane
    }

    /// What put the number there.
    pub(super) fn of(&self, number: usize) -> &[T] {
        if !self.bits.get(number) {
            return &[];
        }
        let below = self.bits.words()[number / 64] & ((1 << (number % 64)) - 1);
        let (start, length) = self.runs[(self.ranks[number / 64] + below.count_ones()) as usize];
        &self.pool[start as usize..(start + length) as usize]
    }

    /// The numbers.
    pub(super) fn bits(&self) -> &Bits {
        &self.bits
    }

    fn bytes(&self) -> usize {
        bits_bytes(&self.bits) + self.ranks.len() * 4 + self.runs.len() * 8 + self.pool.len() * size_of::<T>()
    }
}

impl Globs {
    /// All globs.
    pub(super) fn build(mut entries: Vec<GlobEntry>) -> Self {
        entries.sort_by(|a, b| a.glob.prefix().cmp(b.glob.prefix()));
        let mut built = Self { prefixes: Vec::new(), entries };
        for index in 0..built.entries.len() {
            let text = built.entries[index].glob.prefix();
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

    /// Looks at the globs that reach `target`. Tries those whose prefix the URI begins with, found by one binary search;
    /// of a template, where both forms must match, also those whose prefix begins as the template does.
    pub(super) fn collect(&self, both: bool, target: &Target<'_>, found: &mut impl FnMut(&GlobEntry)) {
        let mut look = |prefix: &Prefix| {
            let entries = &self.entries[prefix.first as usize..prefix.last as usize];
            let reaches = |glob: &Glob| if both { target.permitted_by(glob) } else { target.forbidden_by(glob) };
            entries.iter().filter(|entry| reaches(&entry.glob)).for_each(&mut *found);
        };
        if both {
            let fixed = target.fixed();
            self.beginning(fixed).for_each(&mut look);
            if target.is_open() {
                let from = self.prefixes.partition_point(|prefix| self.text(prefix) <= fixed);
                let begins = |prefix: &&Prefix| self.text(prefix).starts_with(fixed);
                self.prefixes[from..].iter().take_while(begins).for_each(look);
            }
        } else {
            self.beginning(target.written()).for_each(&mut look);
            if target.normal() != target.written() {
                self.beginning(target.normal()).for_each(look);
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
        self.entries[prefix.first as usize].glob.prefix()
    }

    fn bytes(&self) -> usize {
        let entry = |entry: &GlobEntry| size_of::<GlobEntry>() + 2 * entry.glob.prefix().len() + 4 * entry.ids.len();
        self.prefixes.len() * size_of::<Prefix>() + self.entries.iter().map(entry).sum::<usize>()
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

    /// How many tools and prompts there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
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

    fn bytes(&self) -> usize {
        let entry = size_of::<(ServerId, ListKind, Box<str>)>();
        self.by_name.capacity() * 4 + self.entries.iter().map(|(_, _, name)| entry + name.len()).sum::<usize>()
    }

    /// A tool or prompt, by its number.
    pub(super) fn entry(&self, number: usize) -> Option<(ServerId, ListKind, &str)> {
        self.entries.get(number).map(|(server, kind, name)| (*server, *kind, &**name))
    }

    /// How many numbers there are.
    pub(super) fn numbers(&self) -> usize {
        self.entries.len() + self.servers * Ask::ALL.len()
    }

    /// The number of what a server may ask.
    pub(super) fn ask(&self, server: ServerId, ask: Ask) -> Option<usize> {
        (server.index() < self.servers).then(|| self.entries.len() + server.index() * Ask::ALL.len() + ask as usize)
    }
}

/// A set of no more numbers is kept as a list of them.
const FEW_MEMBERS_MAX: usize = 8;

const _: () = assert!(RULES_NAMED_MAX > 0, "an answer names its rules");

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
        let mut lists: Vec<&[u32]> = vec![&[]; 201];
        for (number, list) in [(200, &[3][..]), (0, &[1, 2]), (63, &[3]), (64, &[1, 2])] {
            lists[number] = list;
        }
        let plane = Plane::build(lists.iter().copied());
        for (number, want) in [(0, &[1, 2][..]), (63, &[3]), (64, &[1, 2]), (200, &[3]), (1, &[]), (9_999, &[])] {
            assert_eq!(plane.of(number), want, "{number}");
        }
        assert_eq!(plane.pool.len(), 3, "equal runs are kept once");
    }

    #[test]
    fn members_are_what_was_put_in() {
        for numbers in [vec![], vec![3], vec![5_000], (0..100).collect(), vec![1, 2, 3, 4, 5, 6, 7, 8, 900]] {
            let members = Members::build(numbers.clone());
            let mut seen = Vec::new();
            members.each(|number| seen.push(u32::try_from(number).unwrap()));
            assert_eq!(seen, numbers);
            let mut bits = Bits::default();
            members.add_to(&mut bits);
            assert!((0..6_000).all(|number: usize| {
                let want = numbers.contains(&u32::try_from(number).unwrap());
                members.has(number) == want && bits.get(number) == want
            }));
        }
    }

    proptest! {
        #[test]
        fn globs_are_found_by_prefix(
            globs in proptest::collection::vec("x:[ab*]{0,4}|[xX:*]{0,3}", 0..12),
            text in "[xX]:[abA]{0,4}(\\{a\\})?[ab]{0,2}|\\{a\\}:b?",
        ) {
            let list: Vec<Glob> = globs.iter().map(|glob| Glob::new(glob)).collect();
            let entry = |(index, glob): (usize, &Glob)| {
                let ids = SmallVec::from_slice(&[u32::try_from(index).unwrap()]);
                GlobEntry { glob: glob.clone(), site: Site::One(ServerId(0)), ids }
            };
            let all = Globs::build(list.iter().enumerate().map(entry).collect());
            let Some(target) = Target::template(&text) else { return Ok(()) };
            for both in [true, false] {
                let reaches = |glob: &Glob| if both { target.permitted_by(glob) } else { target.forbidden_by(glob) };
                let want = list.iter().enumerate().filter(|(_, glob)| reaches(glob));
                let want: std::collections::BTreeSet<u32> = want.map(|(index, _)| u32::try_from(index).unwrap()).collect();
                let mut got = std::collections::BTreeSet::new();
                all.collect(both, &target, &mut |entry| got.extend(entry.ids.iter().copied()));
                prop_assert_eq!(got, want);
            }
        }
    }
}
