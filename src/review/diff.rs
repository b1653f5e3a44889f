//! What another policy would change: which callers and tasks gain or lose what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::ids::TaskId;
use crate::base::limits::{DIFF_CLASSES_MAX, DIFF_PLACES_SHOWN};
use crate::policy::rule::{Effect, Mode, PolicySet, Rule};
use crate::review::targets::{Place, places};
use crate::review::words::{self, duration, plain};
use crate::review::world::World;

/// The differences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// For whom what changes.
    pub changes: Vec<Change>,
    /// Rules that are new, gone, or written otherwise, and yet decide nothing differently.
    pub idle: Vec<Idle>,
    /// Tasks that only the old policy has, and those that only the new one has.
    pub tasks: [Vec<Arc<str>>; 2],
    /// Rates that are new, gone, or written otherwise.
    pub rates: Vec<Idle>,
    /// Callers of more than one `who` at once were left out: there are too many.
    pub cut: bool,
}

/// What changes for one class of callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whom it is about.
    pub class: Class,
    /// What it is about; all of these alike.
    pub places: Vec<Place>,
    /// What of that: at least one.
    pub what: Vec<What>,
}

/// A class of callers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// The `who` conditions that hold for them, as written; none: whoever it is.
    pub who: Vec<Arc<str>>,
    /// The task that is active.
    pub task: Option<Arc<str>>,
}

/// One thing that changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Lists show it, or no longer.
    List(bool),
    /// Some call of it may be let go, or none any longer.
    Call(bool),
    /// A rule is there, with these terms.
    New(Arc<str>, String),
    /// A rule is not there any longer.
    Gone(Arc<str>, String),
    /// A term of a rule: which rule, what of it, what it was and is.
    Term(Arc<str>, &'static str, String, String),
}

/// A rule or rate that differs without a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Its id.
    pub id: Arc<str>,
    /// `new`, `gone` or `changed`.
    pub how: &'static str,
}

/// Compares two policies.
#[must_use]
pub fn diff(old: &World, new: &World) -> Diff {
    // Whatever the same rules are about changes in the same way.
    let mut alike: BTreeMap<(Vec<usize>, Vec<usize>), Vec<Place>> = BTreeMap::new();
    for place in places(old, new) {
        let of = |world: &World| {
            let rules = world.policy.rules().iter().enumerate();
            rules.filter(|(_, rule)| place.is_meant(rule)).map(|(index, _)| index).collect::<Vec<_>>()
        };
        alike.entry((of(old), of(new))).or_default().push(place);
    }
    let (classes, cut) = classes(&old.policy, &new.policy);
    let mut named: BTreeMap<(Class, Vec<What>), Vec<Place>> = BTreeMap::new();
    for ((olds, news), places) in alike {
        let pick = |set: &PolicySet, rules: &[usize]| -> Vec<Terms> {
            rules.iter().map(|&rule| Terms::of(set, &set.rules()[rule])).collect()
        };
        let (olds, news) = (pick(&old.policy, &olds), pick(&new.policy, &news));
        let mut told: Vec<(&Class, Vec<What>)> = Vec::new();
        for class in &classes {
            let mut what = compare(&of_class(&olds, class), &of_class(&news, class));
            // What a wider class is told already goes for this one too.
            let wider = told.iter().filter(|(wider, _)| wider.holds(class));
            let known: Vec<&What> = wider.flat_map(|(_, what)| what).collect();
            what.retain(|what| !known.contains(&what));
            if what.is_empty() {
                continue;
            }
            told.push((class, what));
        }
        for (class, what) in told {
            named.entry((class.clone(), what)).or_default().extend(places.iter().cloned());
        }
    }
    let changes: Vec<Change> =
        named.into_iter().map(|((class, what), places)| Change { class, places, what }).collect();
    let idle = idle(&old.policy, &new.policy, &changes);
    let only = |one: &PolicySet, other: &PolicySet| -> Vec<Arc<str>> {
        one.tasks().iter().filter(|(_, name)| other.tasks().id(name).is_none()).map(|(_, name)| name.clone()).collect()
    };
    let tasks = [only(&old.policy, &new.policy), only(&new.policy, &old.policy)];
    Diff { changes, idle, tasks, rates: rates(&old.policy, &new.policy), cut }
}

impl Diff {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.idle.is_empty() && self.rates.is_empty() && self.tasks.iter().all(Vec::is_empty)
    }

    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut before = None;
        for Change { class, places, what } in &self.changes {
            if before != Some(class) {
                let _ = writeln!(out, "{}", class.text());
                before = Some(class);
            }
            let shown: Vec<String> =
                places.iter().take(DIFF_PLACES_SHOWN).map(|place| plain(&place.to_string())).collect();
            let more = places.len().saturating_sub(shown.len());
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let _ = writeln!(out, "  {}{more}", shown.join(", "));
            for what in what {
                let _ = writeln!(out, "    {}", plain(&what.text()));
            }
        }
        for (tasks, word) in self.tasks.iter().zip(["gone", "new"]) {
            for task in tasks {
                let _ = writeln!(out, "task {task} is {word}");
            }
        }
        for Idle { id, how } in &self.rates {
            let _ = writeln!(out, "rate {} is {how}", plain(id));
        }
        for Idle { id, how } in &self.idle {
            let _ = writeln!(out, "rule {} is {how}, and decides nothing differently", plain(id));
        }
        if self.cut {
            out.push_str("callers for whom two or more `who` hold at once were not looked at: there are too many\n");
        }
        if out.is_empty() {
            out.push_str("nothing is decided differently\n");
        }
        out
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let changes = self.changes.iter().map(|Change { class, places, what }| {
            json!({
                "who": texts(&class.who), "task": class.task.as_deref(),
                "places": places.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "changes": what.iter().map(What::json).collect::<Vec<_>>(),
            })
        });
        let idle = |all: &[Idle]| -> Vec<Value> {
            all.iter().map(|Idle { id, how }| json!({ "id": **id, "how": how })).collect()
        };
        json!({
            "changes": changes.collect::<Vec<_>>(),
            "rules_without_difference": idle(&self.idle), "rates": idle(&self.rates),
            "tasks_gone": texts(&self.tasks[0]), "tasks_new": texts(&self.tasks[1]), "cut": self.cut,
        })
    }
}

impl Class {
    /// Whether every caller of `other` is one of these.
    fn holds(&self, other: &Self) -> bool {
        self.who.iter().all(|who| other.who.contains(who)) && (self.task.is_none() || self.task == other.task)
    }

    fn text(&self) -> String {
        let who = if self.who.is_empty() { "everybody".to_owned() } else { format!("who {}", self.who.join(" and ")) };
        self.task.as_ref().map_or_else(|| who.clone(), |task| format!("{who}, on task {task}"))
    }
}

impl What {
    fn text(&self) -> String {
        match self {
            Self::List(true) => "+ list: is shown".to_owned(),
            Self::List(false) => "- list: is hidden".to_owned(),
            Self::Call(true) => "+ call: can be permitted".to_owned(),
            Self::Call(false) => "- call: never permitted".to_owned(),
            Self::New(rule, terms) => format!("+ {rule}: {terms}"),
            Self::Gone(rule, terms) => format!("- {rule}: {terms}"),
            Self::Term(rule, what, old, new) => format!("~ {rule}: {what}: {old} -> {new}"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::List(gained) => json!({ "what": "list", "gained": gained }),
            Self::Call(gained) => json!({ "what": "call", "gained": gained }),
            Self::New(rule, terms) => json!({ "what": "rule", "rule": **rule, "new": terms }),
            Self::Gone(rule, terms) => json!({ "what": "rule", "rule": **rule, "old": terms }),
            Self::Term(rule, what, old, new) => json!({ "what": what, "rule": **rule, "old": old, "new": new }),
        }
    }
}

fn texts(all: &[Arc<str>]) -> Vec<&str> {
    all.iter().map(|text| &**text).collect()
}

/// A rule, but for what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    id: Arc<str>,
    effect: Effect,
    shadow: bool,
    tasks: BTreeSet<Arc<str>>,
    who: Option<Arc<str>>,
    /// The terms by their keys, as the file would say them; those left out are not here.
    of: BTreeMap<&'static str, String>,
}

impl Terms {
    fn of(set: &PolicySet, rule: &Rule) -> Self {
        let mut of = BTreeMap::new();
        if let Some(when) = &rule.when {
            of.insert("when", when.text().to_owned());
        }
        if !rule.scopes.is_empty() {
            of.insert("scopes", rule.scopes.join(" "));
        }
        if !rule.limits.is_empty() {
            of.insert("limits", rule.limits.iter().map(words::limit).collect::<Vec<_>>().join("; "));
        }
        if let Some(reason) = &rule.reason {
            of.insert("reason", reason.to_string());
        }
        if rule.effect == Effect::Approve {
            of.insert("expires", duration(rule.expires_ms));
            of.insert("ask", words::ask(rule.ask).to_owned());
        }
        Self {
            id: rule.id.clone(),
            effect: rule.effect,
            shadow: rule.mode == Mode::Shadow,
            tasks: rule.tasks.iter().map(|&task| name(set, task)).collect(),
            who: rule.who.as_ref().map(|who| Arc::from(who.text())),
            of,
        }
    }

    fn applies_to(&self, class: &Class) -> bool {
        let task = self.tasks.is_empty() || class.task.as_ref().is_some_and(|task| self.tasks.contains(task));
        task && self.who.as_ref().is_none_or(|who| class.who.contains(who))
    }

    fn text(&self) -> String {
        let shadow = if self.shadow { ", in shadow" } else { "" };
        let terms: String = self.of.iter().map(|(key, value)| format!(", {key} {value}")).collect();
        format!("{}{shadow}{terms}", words::effect(self.effect))
    }

    /// Whether it refuses whatever the arguments are.
    fn refuses_always(&self) -> bool {
        self.effect == Effect::Forbid && !self.of.contains_key("when") && !self.of.contains_key("limits")
    }
}

fn name(set: &PolicySet, task: TaskId) -> Arc<str> {
    Arc::from(set.tasks().name(task))
}

fn of_class<'a>(all: &'a [Terms], class: &Class) -> Vec<&'a Terms> {
    all.iter().filter(|terms| terms.applies_to(class)).collect()
}

/// What differs between what these rules let a class do.
fn compare(old: &[&Terms], new: &[&Terms]) -> Vec<What> {
    let enforced = |all: &[&Terms]| {
        let all: Vec<&Terms> = all.iter().copied().filter(|terms| !terms.shadow).collect();
        let opens = all.iter().any(|terms| terms.effect != Effect::Forbid);
        let hides = all.iter().any(|terms| terms.refuses_always() && !terms.of.contains_key("reason"));
        let refuses = all.iter().any(|terms| terms.refuses_always());
        (opens && !hides, opens && !refuses)
    };
    let ((old_list, old_call), (new_list, new_call)) = (enforced(old), enforced(new));
    let mut what = Vec::new();
    if old_list != new_list {
        what.push(What::List(new_list));
    }
    if old_call != new_call {
        what.push(What::Call(new_call));
    }
    if !old_list && !new_list {
        return what;
    }
    for one in old {
        match new.iter().find(|other| other.id == one.id) {
            Some(other) => what.extend(terms(one, other)),
            None if said(new, one) => {}
            None => what.push(What::Gone(one.id.clone(), one.text())),
        }
    }
    for one in new {
        if !old.iter().any(|other| other.id == one.id) && !said(old, one) {
            what.push(What::New(one.id.clone(), one.text()));
        }
    }
    what
}

/// Whether another rule says the same, and counts nothing of its own.
fn said(all: &[&Terms], one: &Terms) -> bool {
    let same = |other: &&Terms| other.effect == one.effect && other.shadow == one.shadow && other.of == one.of;
    !one.of.contains_key("limits") && all.iter().any(same)
}

fn terms(old: &Terms, new: &Terms) -> Vec<What> {
    let mut all = Vec::new();
    let mut add = |what: &'static str, before: &str, after: &str| {
        if before != after {
            all.push(What::Term(new.id.clone(), what, before.to_owned(), after.to_owned()));
        }
    };
    add("effect", words::effect(old.effect), words::effect(new.effect));
    let mode = |terms: &Terms| if terms.shadow { "shadow" } else { "enforce" };
    add("mode", mode(old), mode(new));
    let keys: BTreeSet<&'static str> = old.of.keys().chain(new.of.keys()).copied().collect();
    for key in keys {
        let of = |terms: &Terms| terms.of.get(key).map_or_else(|| "none".to_owned(), Clone::clone);
        add(key, &of(old), &of(new));
    }
    all
}

/// The classes that rules tell apart, wider ones first: for whom none, one and two `who` hold, on no task and on each.
fn classes(old: &PolicySet, new: &PolicySet) -> (Vec<Class>, bool) {
    let who: BTreeSet<Arc<str>> = old.heads().iter().chain(new.heads()).map(|who| Arc::from(who.text())).collect();
    let who: Vec<Arc<str>> = who.into_iter().collect();
    let tasks: BTreeSet<Arc<str>> =
        [old, new].iter().flat_map(|set| set.tasks().iter()).map(|it| it.1.clone()).collect();
    let mut sets: Vec<Vec<Arc<str>>> = vec![Vec::new()];
    sets.extend(who.iter().map(|one| vec![one.clone()]));
    let pairs = who.len() * who.len().saturating_sub(1) / 2;
    let cut = (pairs + sets.len()) * (tasks.len() + 1) > DIFF_CLASSES_MAX;
    if !cut {
        for (place, one) in who.iter().enumerate() {
            sets.extend(who[place + 1..].iter().map(|other| vec![one.clone(), other.clone()]));
        }
    }
    let mut all = Vec::new();
    for who in sets {
        all.push(Class { who: who.clone(), task: None });
        all.extend(tasks.iter().map(|task| Class { who: who.clone(), task: Some(task.clone()) }));
    }
    (all, cut)
}

/// Rules that differ and are named by no change.
fn idle(old: &PolicySet, new: &PolicySet, changes: &[Change]) -> Vec<Idle> {
    let find = |set: &PolicySet, id: &str| set.rules().iter().find(|rule| &*rule.id == id).cloned();
    let spelt = |set: &PolicySet, rule: &Rule| {
        let tasks: BTreeSet<Arc<str>> = rule.tasks.iter().map(|&task| name(set, task)).collect();
        (Rule { tasks: Vec::new(), ..rule.clone() }, tasks)
    };
    let mut all: Vec<Idle> = Vec::new();
    for rule in old.rules() {
        match find(new, &rule.id) {
            None => all.push(Idle { id: rule.id.clone(), how: "gone" }),
            Some(other) if spelt(old, rule) != spelt(new, &other) => {
                all.push(Idle { id: rule.id.clone(), how: "changed" });
            }
            Some(_) => {}
        }
    }
    let fresh = new.rules().iter().filter(|rule| find(old, &rule.id).is_none());
    all.extend(fresh.map(|rule| Idle { id: rule.id.clone(), how: "new" }));
    let named: BTreeSet<&str> = changes.iter().flat_map(|change| &change.what).filter_map(What::rule).collect();
    all.retain(|idle| !named.contains(&*idle.id));
    all
}

impl What {
    fn rule(&self) -> Option<&str> {
        match self {
            Self::List(_) | Self::Call(_) => None,
            Self::New(rule, _) | Self::Gone(rule, _) | Self::Term(rule, ..) => Some(rule),
        }
    }
}

fn rates(old: &PolicySet, new: &PolicySet) -> Vec<Idle> {
    let find = |set: &PolicySet, id: &str| set.rates().iter().find(|rate| &*rate.id == id).cloned();
    let mut all = Vec::new();
    for rate in old.rates() {
        match find(new, &rate.id) {
            None => all.push(Idle { id: rate.id.clone(), how: "gone" }),
            Some(other) if other != *rate => all.push(Idle { id: rate.id.clone(), how: "changed" }),
            Some(_) => {}
        }
    }
    let fresh = new.rates().iter().filter(|rate| find(old, &rate.id).is_none());
    all.extend(fresh.map(|rate| Idle { id: rate.id.clone(), how: "new" }));
    all
}
