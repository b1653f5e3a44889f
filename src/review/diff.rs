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
    /// The task that is active; `None`: whichever it is, and none too.
    pub task: Option<Arc<str>>,
    /// Not for those for whom another `who` holds as well.
    pub no_other_who: bool,
    /// Not on any task: only on none.
    pub no_task: bool,
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
    let mut cut = false;
    let mut named: BTreeMap<(Class, Vec<What>), Vec<Place>> = BTreeMap::new();
    for ((olds, news), places) in alike {
        let pick = |set: &PolicySet, rules: &[usize]| -> Vec<Terms> {
            rules.iter().map(|&rule| Terms::of(set, &set.rules()[rule])).collect()
        };
        let (olds, news) = (pick(&old.policy, &olds), pick(&new.policy, &news));
        let (classes, many) = classes(&olds, &news);
        cut |= many;
        let whole = classes.iter().map(|class| compare(&of_class(&olds, class), &of_class(&news, class)));
        let told = told(&classes, &whole.collect::<Vec<_>>());
        for (class, what) in told {
            named.entry((class, what)).or_default().extend(places.iter().cloned());
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

/// What each class is told: not what goes for a wider one already.
fn told(classes: &[Class], whole: &[Vec<What>]) -> Vec<(Class, Vec<What>)> {
    let mut told: Vec<(Class, Vec<What>)> = Vec::new();
    for (class, all) in classes.iter().zip(whole) {
        let mut parts: BTreeMap<Class, Vec<What>> = BTreeMap::new();
        for what in all {
            if told.iter().any(|(wider, told)| wider.holds(class) && told.contains(what)) {
                continue;
            }
            let narrower = classes.iter().zip(whole).filter(|(other, _)| class.is_within(other));
            let mut exact = class.clone();
            for (other, _) in narrower.filter(|(_, all)| !all.contains(what)) {
                exact.no_other_who |= other.task == class.task;
                exact.no_task |= other.who == class.who;
            }
            parts.entry(exact).or_default().push(what.clone());
        }
        told.extend(parts);
    }
    told
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
                "no_other_who": class.no_other_who, "no_task": class.no_task,
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
        let who = self.who == other.who || (!self.no_other_who && self.is_part(other));
        who && (self.task == other.task || (self.task.is_none() && !self.no_task))
    }

    /// Whether `other` is narrower in one of the two.
    fn is_within(&self, other: &Self) -> bool {
        let who = self.who != other.who && self.task == other.task && self.is_part(other);
        who || self.who == other.who && self.task.is_none() && other.task.is_some()
    }

    fn is_part(&self, other: &Self) -> bool {
        self.who.iter().all(|who| other.who.contains(who))
    }

    fn text(&self) -> String {
        let who = match (self.who.is_empty(), self.no_other_who) {
            (true, false) => "everybody".to_owned(),
            (true, true) => "everybody for whom no `who` of its rules holds".to_owned(),
            (false, only) => format!("who {}{}", self.who.join(" and "), if only { " and no other" } else { "" }),
        };
        match &self.task {
            Some(task) => format!("{who}, on task {task}"),
            None if self.no_task => format!("{who}, on another task or none"),
            None => who,
        }
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

/// The classes that these rules tell apart, wider ones first: for whom none, one and two `who` hold, on no task and on
/// each. Whether there are too many for two.
fn classes(old: &[Terms], new: &[Terms]) -> (Vec<Class>, bool) {
    let all = || old.iter().chain(new);
    let who: BTreeSet<Arc<str>> = all().filter_map(|terms| terms.who.clone()).collect();
    let who: Vec<Arc<str>> = who.into_iter().collect();
    let tasks: BTreeSet<Arc<str>> = all().flat_map(|terms| &terms.tasks).cloned().collect();
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
        all.push(Class { who: who.clone(), ..Class::default() });
        all.extend(tasks.iter().map(|task| Class { who: who.clone(), task: Some(task.clone()), ..Class::default() }));
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Source, policy_of};
    use crate::review::world::catalog;

    struct Nowhere;

    impl Source for Nowhere {
        fn var(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &Path) -> std::io::Result<String> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    fn world(rules: &str) -> World {
        let policy = policy_of(rules, Path::new("."), &Nowhere, &[]).unwrap().policy;
        let servers: Vec<Arc<str>> = vec![Arc::from("s")];
        let known = catalog(&servers, &[]).unwrap();
        World::new(Arc::new(policy), servers, known)
    }

    fn between(old: &str, new: &str) -> String {
        let rules = |rules: &str| format!("tasks: {{ x: X. }}\nrules:\n{rules}");
        diff(&world(&rules(old)), &world(&rules(new))).text()
    }

    #[test]
    fn what_is_gained_and_lost() {
        let check = |old: &str, new: &str, want: &str| assert_eq!(between(old, new), want, "{old}\n{new}");
        let open = "  - { id: a, permit: [s/t] }\n";
        let silent = "  - { id: a, permit: [s/t] }\n  - { id: f, forbid: [s/t] }\n";
        let spoken = "  - { id: a, permit: [s/t] }\n  - { id: f, forbid: [s/t], reason: No. }\n";
        check(open, open, "nothing is decided differently\n");
        let hidden = "everybody\n  s/t\n    - list: is hidden\n    - call: never permitted\n    + f: forbid\n";
        check(open, silent, hidden);
        check(open, spoken, "everybody\n  s/t\n    - call: never permitted\n    + f: forbid, reason No.\n");
        let renamed = "  - { id: b, permit: [s/t] }\n";
        let idle = "rule a is gone, and decides nothing differently\nrule b is new, and decides nothing differently\n";
        check(open, renamed, idle);
        let task = "  - { id: a, permit: [s/t], tasks: [x] }\n";
        let lost = "everybody, on another task or none\n  s/t\n    - list: is hidden\n    - call: never permitted\n    - a: permit\n";
        check(open, task, lost);
        let shadow = "  - { id: a, permit: [s/t] }\n  - { id: f, forbid: [s/t], mode: shadow }\n";
        check(open, shadow, "everybody\n  s/t\n    + f: forbid, in shadow\n");
        let unseen = "  - { id: f, forbid: [s/t] }\n";
        check("  - { id: g, forbid: [s/*] }\n", unseen, &idle.replace("rule a", "rule g").replace("rule b", "rule f"));
    }

    #[test]
    fn classes_are_told_apart() {
        let old =
            "  - { id: a, permit: [s/t], who: claims.a == 1 }\n  - { id: b, permit: [s/t], who: claims.b == 1 }\n";
        let new = &format!("{old}  - {{ id: f, forbid: [s/t], who: claims.b == 1, tasks: [x] }}\n");
        let lost = "  s/t\n    - list: is hidden\n    - call: never permitted\n    + f: forbid\n";
        let want = format!("who claims.b == 1, on task x\n{lost}");
        assert_eq!(between(old, new), want, "whoever is both loses it as the one does");
        let only = "  - { id: a, permit: [s/t], who: claims.a == 1 }\n";
        let new = &format!("{only}  - {{ id: f, forbid: [s/t], who: claims.b == 1 }}\n");
        let want = format!("who claims.a == 1 and claims.b == 1\n{lost}");
        assert_eq!(between(only, new), want, "neither class alone loses anything");
        let open = "  - { id: a, permit: [s/t] }\n";
        let want = "everybody for whom no `who` of its rules holds\n  s/t\n    - list: is hidden\n    - call: never permitted\n    - a: permit\n";
        assert_eq!(between(open, only), want, "whom the rule names still now keeps it");
    }
}
