//! Classes of callers: those that the same groups of rules are about. A class is made when such a caller first comes,
//! and kept in the table, where every shard finds it without a lock; the places and bytes for them are bounded, and
//! where there is none left, the groups are walked one by one.

use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::table::{Group, Members, Named, Says, Table, bits_bytes};
use crate::base::bits::Bits;
use crate::base::ids::TaskId;
use crate::base::limits::{CLASS_PERMITS_KEPT, CLASSES_BYTES_MAX, CLASSES_MAX};
use crate::identity::active::ActiveTask;
use crate::identity::caller::{Caller, Heads};

/// How a group applies to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stand {
    /// Its permits too: not where nobody said which of several tasks is active.
    pub(super) permits: bool,
    /// Its `who` is unknown.
    pub(super) unknown: bool,
}

/// What rules say to callers of one class.
pub(super) struct Class {
    key: KeptKey,
    groups: Box<[(u32, Stand)]>,
    /// By `Says`: what applies wherever its group does.
    plain: [Bits; 3],
    /// Everything that must be looked at more closely.
    slow: Bits,
    /// The rules behind permits that were asked for, by the last bits of the number: they are named in each record.
    permits: Box<[OnceLock<(u32, Named)>]>,
}

/// Which groups apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key<'a> {
    heads: &'a [u64],
    /// The active task if there are rules of it, or those held where nobody said which is active.
    tasks: &'a [TaskId],
    several: bool,
}

/// The same, kept.
struct KeptKey {
    heads: Heads,
    tasks: SmallVec<[TaskId; 4]>,
    several: bool,
}

/// The classes of a table.
pub(super) struct Classes {
    hasher: RandomState,
    slots: Box<[OnceLock<Box<Class>>]>,
    /// The groups without a task, then those of each task, as ranges.
    always: u32,
    tasks: Vec<(u32, u32)>,
    heads: bool,
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// The rules for one caller and task.
pub(super) enum View<'a> {
    Kept(&'a Class),
    /// Group by group.
    Walked(Vec<(u32, Stand)>),
}

impl Classes {
    /// None yet, for these groups: sorted by task.
    pub(super) fn new(groups: &[Group]) -> Self {
        let end = |task: Option<TaskId>| {
            u32::try_from(groups.partition_point(|group| group.task <= task)).expect("groups are bounded as rules are")
        };
        let last = groups.last().and_then(|group| group.task).map_or(0, |task| task.index() + 1);
        let (always, mut tasks) = (end(None), Vec::with_capacity(last));
        let mut start = always;
        for task in 0..last {
            let end = end(Some(TaskId::from_index(task)));
            tasks.push((start, end));
            start = end;
        }
        Self {
            hasher: RandomState::default(),
            slots: (0..CLASSES_MAX).map(|_| OnceLock::new()).collect(),
            always,
            tasks,
            heads: groups.iter().any(|group| group.head.is_some()),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    pub(super) fn kept(&self) -> (usize, usize) {
        (self.count.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn range(&self, task: TaskId) -> (u32, u32) {
        self.tasks.get(task.index()).copied().unwrap_or_default()
    }

    fn key<'a>(&self, caller: &'a Caller, task: &'a ActiveTask) -> Key<'a> {
        let heads: &[u64] = if self.heads { &caller.heads.0 } else { &[] };
        let (tasks, several): (&[TaskId], bool) = match task {
            ActiveTask::None => (&[], false),
            ActiveTask::One(task) => {
                let (start, end) = self.range(*task);
                (if start < end { std::slice::from_ref(task) } else { &[] }, false)
            }
            ActiveTask::Several => (if self.tasks.is_empty() { &[] } else { &caller.tasks }, true),
        };
        Key { heads, tasks, several: several && !tasks.is_empty() }
    }
}

impl KeptKey {
    fn of(key: Key<'_>) -> Self {
        Self {
            heads: Heads(SmallVec::from_slice(key.heads)),
            tasks: SmallVec::from_slice(key.tasks),
            several: key.several,
        }
    }

    fn key(&self) -> Key<'_> {
        Key { heads: &self.heads.0, tasks: &self.tasks, several: self.several }
    }
}

impl Key<'_> {
    /// The groups that apply, in their order.
    fn groups(&self, table: &Table) -> Vec<(u32, Stand)> {
        let of_tasks = self.tasks.iter().map(|task| (table.classes.range(*task), !self.several));
        let ranges = std::iter::once(((0, table.classes.always), true)).chain(of_tasks);
        let bit = |bit: usize| self.heads.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1);
        let mut groups = Vec::new();
        for ((start, end), permits) in ranges {
            groups.extend((start..end).filter_map(|at| {
                let head = table.groups[at as usize].head.map(|head| head as usize);
                let unknown = head.is_some_and(|head| bit(2 * head + 1));
                let applies = unknown || head.is_none_or(|head| bit(2 * head));
                applies.then_some((at, Stand { permits, unknown }))
            }));
        }
        groups
    }
}

impl Class {
    fn build(table: &Table, key: Key<'_>, groups: Vec<(u32, Stand)>) -> Self {
        let key = KeptKey::of(key);
        let places = table.names.len().min(CLASS_PERMITS_KEPT).next_power_of_two();
        let mut class = Self {
            key,
            groups: Box::default(),
            plain: Default::default(),
            slow: table.extra.clone(),
            permits: (0..places).map(|_| OnceLock::new()).collect(),
        };
        for (at, stand) in &groups {
            let Group { bundles, index, .. } = &table.groups[*at as usize];
            // What is known and what is not is told apart by looking more closely.
            let said = Says::ALL.into_iter().filter(|says| stand.permits || *says != Says::Permit);
            if let Some(index) = index {
                class.slow.or_assign(index.slow.bits());
                for says in said {
                    let to = if stand.unknown { &mut class.slow } else { &mut class.plain[says.index()] };
                    to.or_assign(index.plain[says.index()].bits());
                }
                continue;
            }
            for bundle in bundles {
                let members: &Members = &table.members[bundle.members as usize];
                if !bundle.slow.is_empty() {
                    members.add_to(&mut class.slow);
                }
                for says in said.clone().filter(|says| !bundle.plain[says.index()].is_empty()) {
                    let to = if stand.unknown { &mut class.slow } else { &mut class.plain[says.index()] };
                    members.add_to(to);
                }
            }
        }
        class.groups = groups.into();
        class
    }

    fn bytes(&self) -> usize {
        let bits = self.plain.iter().map(bits_bytes).sum::<usize>() + bits_bytes(&self.slow);
        let kept = size_of_val(&*self.groups) + size_of_val(&*self.permits);
        size_of::<Self>() + bits + kept + 8 * self.key.heads.0.len()
    }
}

impl Table {
    /// The rules for a caller under a task.
    pub(super) fn view(&self, caller: &Caller, task: ActiveTask) -> View<'_> {
        let classes = &self.classes;
        let key = classes.key(caller, &task);
        let mask = classes.slots.len() - 1;
        let first = usize::try_from(classes.hasher.hash_one(key) & mask as u64).expect("masked to the slots");
        for step in 0..PROBES {
            let slot = &classes.slots[(first + step) & mask];
            let Some(class) = slot.get() else { return self.first_sight(key, slot) };
            if class.key.key() == key {
                return View::Kept(class);
            }
        }
        View::Walked(key.groups(self))
    }

    /// Makes a class, and keeps it in an empty slot where there is room.
    #[cold]
    fn first_sight<'a>(&'a self, key: Key<'_>, slot: &'a OnceLock<Box<Class>>) -> View<'a> {
        let classes = &self.classes;
        let groups = key.groups(self);
        if classes.bytes.load(Ordering::Relaxed) >= CLASSES_BYTES_MAX {
            return View::Walked(groups);
        }
        let class = Box::new(Class::build(self, key, groups));
        let (bytes, walked) = (class.bytes(), class.groups.to_vec());
        if classes.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > CLASSES_BYTES_MAX {
            classes.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return View::Walked(walked);
        }
        match slot.set(class) {
            Ok(()) => {
                classes.count.fetch_add(1, Ordering::Relaxed);
                slot.get().map_or(View::Walked(walked), |class| View::Kept(class))
            }
            Err(_) => {
                // Another shard was quicker: with the same class, or another one, which this one then comes to stand behind.
                classes.bytes.fetch_sub(bytes, Ordering::Relaxed);
                slot.get().filter(|other| other.key.key() == key).map_or(View::Walked(walked), |same| View::Kept(same))
            }
        }
    }
}

impl View<'_> {
    /// The groups that apply.
    pub(super) fn groups(&self) -> &[(u32, Stand)] {
        match self {
            Self::Kept(class) => &class.groups,
            Self::Walked(groups) => groups,
        }
    }

    /// Whether anything about the number must be looked at more closely.
    #[inline]
    pub(super) fn is_slow(&self, number: usize) -> bool {
        match self {
            Self::Kept(class) => class.slow.get(number),
            Self::Walked(_) => true,
        }
    }

    /// Whether a rule that applies wherever its group does says this of the number; not for what [`Self::is_slow`].
    #[inline]
    pub(super) fn says(&self, says: Says, number: usize) -> bool {
        match self {
            Self::Kept(class) => class.plain[says.index()].get(number),
            Self::Walked(_) => false,
        }
    }

    /// The rules that permit the number; as [`Self::names`], which is asked once for most.
    pub(super) fn permits(&self, table: &Table, number: usize) -> Named {
        let Self::Kept(class) = self else { return self.names(table, Says::Permit, number) };
        let place = class.permits.get(number & (class.permits.len() - 1));
        if let Some((of, named)) = place.and_then(OnceLock::get)
            && *of as usize == number
        {
            return named.clone();
        }
        let named = self.names(table, Says::Permit, number);
        if let (Some(place), Ok(number)) = (place, u32::try_from(number)) {
            // The first that comes stays: another one costs what all of them would cost without.
            let _ = place.set((number, named.clone()));
        }
        named
    }

    /// The rules that do, of groups that apply for sure.
    pub(super) fn names(&self, table: &Table, says: Says, number: usize) -> Named {
        let mut named = Named::new();
        for (at, stand) in self.groups() {
            if !stand.unknown && (stand.permits || says != Says::Permit) {
                table.groups[*at as usize].names(&table.members, says, number, &mut named);
            }
        }
        named
    }
}

/// Slots that are tried for a class.
const PROBES: usize = 8;
const _: () = assert!(CLASSES_MAX.is_power_of_two() && CLASSES_MAX > PROBES, "a hash is cut by a mask");
