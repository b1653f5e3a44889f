//! What an operator wrote, checked and numbered, but not yet compiled.

use std::sync::Arc;

use ring::digest;

use super::cond::{Condition, Facts, Truth};
use super::limit::{Limit, Rate};
use super::pattern::Pattern;
use crate::base::ids::{RuleId, TaskId};
use crate::base::limits::APPROVAL_MS;
use crate::identity::active::{ActiveTask, TaskNames};
use crate::identity::caller::{Caller, Heads};

/// What a rule does where it applies. Order never matters: forbid beats permit, permit beats silence, and silence is
/// a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Lets calls go, and shows on lists.
    Permit,
    /// Refuses. Without a reason it also hides; with one it hides nothing.
    Forbid,
    /// Has somebody asked, where nothing forbids it; shows on lists, and needs no permit beside it.
    Approve,
}

/// Whether a rule decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It is decided, counted and written down as if it did, and changes nothing.
    Shadow,
}

/// Who is asked for an approval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AskWhom {
    /// A person, through the admin listener.
    #[default]
    Person,
    /// The agent's own user, through the client.
    Elicit,
}

/// One rule. It applies when one of its patterns and its tasks do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique over all files.
    pub id: Arc<str>,
    /// What it does.
    pub effect: Effect,
    /// What it is about; any of them suffices.
    pub patterns: Vec<Pattern>,
    /// It applies while one of these is active; empty: always. Sorted or not, a task twice is no fault here.
    pub tasks: Vec<TaskId>,
    /// The sentence that the agent may be shown.
    pub reason: Option<Arc<str>>,
    /// Whom it is about; `None` for everybody.
    pub who: Option<Arc<Condition>>,
    /// When it applies; `None` for always.
    pub when: Option<Arc<Condition>>,
    /// On a permit: what the token's scopes must hold.
    pub scopes: Vec<Box<str>>,
    /// On a permit: what must hold. On a forbid or approve: `What::After` alone, and it applies only after all of them.
    pub limits: Vec<Limit>,
    /// Whether it decides.
    pub mode: Mode,
    /// On an approve: how long an answer is waited for, and good for, milliseconds.
    pub expires_ms: u64,
    /// On an approve: who is asked.
    pub ask: AskWhom,
}

impl Default for Rule {
    /// A permit of nothing.
    fn default() -> Self {
        Self {
            id: Arc::from(""),
            effect: Effect::Permit,
            patterns: Vec::new(),
            tasks: Vec::new(),
            reason: None,
            who: None,
            when: None,
            scopes: Vec::new(),
            limits: Vec::new(),
            mode: Mode::Enforce,
            expires_ms: APPROVAL_MS,
            ask: AskWhom::Person,
        }
    }
}

impl Rule {
    /// Whether the rule's `tasks` hold for a call of this caller.
    ///
    /// Where several tasks are held and none is named, doubt closes the door: a permit with tasks does not apply, a
    /// forbid with one of the caller's tasks does.
    #[must_use]
    pub fn tasks_hold(&self, caller: &Caller, task: ActiveTask) -> bool {
        if self.tasks.is_empty() {
            return true;
        }
        match task {
            ActiveTask::None => false,
            ActiveTask::One(active) => self.tasks.contains(&active),
            ActiveTask::Several => {
                self.effect != Effect::Permit && self.tasks.iter().any(|task| caller.tasks.contains(task))
            }
        }
    }
}

/// A whole policy: the tasks, and the rules in the order of the file (all files of `include`, one after the other).
#[derive(Clone, Debug)]
pub struct PolicySet {
    tasks: TaskNames,
    rules: Vec<Rule>,
    rates: Vec<Rate>,
    /// The different `who` of all rules, in the order of their first use.
    heads: Vec<Arc<Condition>>,
    hash: [u8; 32],
}

impl PolicySet {
    /// A policy of these rules. That ids are unique and that every `TaskId` is one of `tasks` is for the caller to
    /// have checked.
    #[must_use]
    pub fn new(tasks: TaskNames, rules: Vec<Rule>) -> Self {
        Self::with_rates(tasks, rules, Vec::new())
    }

    /// The same, with rates.
    #[must_use]
    pub fn with_rates(tasks: TaskNames, rules: Vec<Rule>, rates: Vec<Rate>) -> Self {
        let hash = hash(&tasks, &rules, &rates);
        let mut known = std::collections::HashSet::new();
        let heads = rules.iter().filter_map(|rule| rule.who.clone()).filter(|who| known.insert(who.clone())).collect();
        Self { tasks, rules, rates, heads, hash }
    }

    /// The rates, in the order of the file.
    #[must_use]
    pub fn rates(&self) -> &[Rate] {
        &self.rates
    }

    /// The different `who` conditions of the rules; their places are the numbers in a caller's [`Heads`].
    #[must_use]
    pub fn heads(&self) -> &[Arc<Condition>] {
        &self.heads
    }

    /// What the `who` conditions come to for a caller: asked once, when it is verified, and again when they change.
    #[must_use]
    pub fn heads_of(&self, caller: &Caller) -> Heads {
        let mut heads = Heads::default();
        let facts = Facts { caller, args: None, task: None, tool: "", server: "", now_s: 0 };
        for (number, head) in self.heads.iter().enumerate() {
            match head.truth(&facts, 0) {
                Truth::True => heads.set_true(number),
                Truth::Unknown => heads.set_unknown(number),
                Truth::False => {}
            }
        }
        heads
    }

    /// No tasks, no rules: everything is refused.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(TaskNames::default(), Vec::new())
    }

    /// The tasks of `policy.tasks`.
    #[must_use]
    pub fn tasks(&self) -> &TaskNames {
        &self.tasks
    }

    /// The rules, in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule of this id.
    ///
    /// # Panics
    /// With an id of another snapshot.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[id.index()]
    }

    /// SHA-256 over what was meant: layout and comments of the file change nothing, any word of a rule does.
    #[must_use]
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The first 48 bits of the hash, as 12 hexadecimal digits: how the record names a policy.
    #[must_use]
    pub fn hex12(&self) -> String {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).expect("four bits are one digit");
        self.hash[..6].iter().flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}

impl Default for PolicySet {
    fn default() -> Self {
        Self::empty()
    }
}

/// Every text is preceded by its length, every list by its count, so no two policies spell the same bytes.
fn hash(tasks: &TaskNames, rules: &[Rule], rates: &[Rate]) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    let number = |hash: &mut digest::Context, number: usize| hash.update(&(number as u64).to_be_bytes());
    let text = |hash: &mut digest::Context, text: &str| {
        number(hash, text.len());
        hash.update(text.as_bytes());
    };
    hash.update(b"portcullis policy 1");
    number(&mut hash, tasks.len());
    for (_, name) in tasks.iter() {
        text(&mut hash, name);
    }
    number(&mut hash, rules.len());
    for rule in rules {
        text(&mut hash, &rule.id);
        hash.update(match rule.effect {
            Effect::Permit => b"p",
            Effect::Forbid => b"f",
            Effect::Approve => b"a",
        });
        number(&mut hash, rule.patterns.len());
        for pattern in &rule.patterns {
            text(&mut hash, pattern.text());
        }
        number(&mut hash, rule.tasks.len());
        for task in &rule.tasks {
            number(&mut hash, task.index());
        }
        number(&mut hash, usize::from(rule.reason.is_some()));
        text(&mut hash, rule.reason.as_deref().unwrap_or_default());
        // Their `Debug` names every field, and conditions by their text.
        let Rule { who, when, scopes, limits, mode, expires_ms, ask, .. } = rule;
        let words = |cond: &Option<Arc<Condition>>| cond.as_ref().map(|cond| cond.text().to_owned());
        text(&mut hash, &format!("{:?}", (words(who), words(when), scopes, limits, mode, expires_ms, ask)));
    }
    text(&mut hash, &format!("{rates:?}"));
    let mut whole = [0; 32];
    whole.copy_from_slice(hash.finish().as_ref());
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: &str, effect: Effect, patterns: &[&str], tasks: &[u16], reason: Option<&str>) -> Rule {
        Rule {
            id: Arc::from(id),
            effect,
            patterns: patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
            tasks: tasks.iter().map(|&task| TaskId(task)).collect(),
            reason: reason.map(Arc::from),
            ..Rule::default()
        }
    }

    #[test]
    fn a_hash_tells_policies_apart() {
        let names = || TaskNames::new(["a", "b"]);
        let base = || rule("r", Effect::Permit, &["s/t"], &[], None);
        let sets = [
            PolicySet::empty(),
            PolicySet::new(names(), vec![]),
            PolicySet::new(names(), vec![base()]),
            PolicySet::new(names(), vec![rule("q", Effect::Permit, &["s/t"], &[], None)]),
            PolicySet::new(names(), vec![rule("r", Effect::Forbid, &["s/t"], &[], None)]),
            PolicySet::new(names(), vec![rule("r", Effect::Permit, &["s/u"], &[], None)]),
            PolicySet::new(names(), vec![rule("r", Effect::Permit, &["s/t", "s/u"], &[], None)]),
            PolicySet::new(names(), vec![rule("r", Effect::Permit, &["s/t"], &[0], None)]),
            PolicySet::new(names(), vec![rule("r", Effect::Permit, &["s/t"], &[], Some(""))]),
            PolicySet::new(names(), vec![base(), base()]),
        ];
        for (index, set) in sets.iter().enumerate() {
            assert_eq!(sets.iter().position(|other| other.hash() == set.hash()), Some(index));
            assert_eq!(set.hex12().len(), 12);
        }
        assert_eq!(PolicySet::new(names(), vec![base()]).hash(), PolicySet::new(names(), vec![base()]).hash());
    }

    #[test]
    fn doubt_about_the_task_closes_the_door() {
        let check = |effect, tasks: &[u16], held: &[u16], active, want| {
            let mut caller = Caller::anonymous();
            caller.tasks = held.iter().map(|&task| TaskId(task)).collect();
            assert_eq!(rule("r", effect, &["*/*"], tasks, None).tasks_hold(&caller, active), want);
        };
        let one = |task| ActiveTask::One(TaskId(task));
        for effect in [Effect::Permit, Effect::Forbid] {
            check(effect, &[], &[], ActiveTask::None, true);
            check(effect, &[], &[0, 1], ActiveTask::Several, true);
            check(effect, &[0], &[], ActiveTask::None, false);
            check(effect, &[0], &[0], one(0), true);
            check(effect, &[1], &[0, 1], one(0), false);
            check(effect, &[2], &[0, 1], ActiveTask::Several, false);
            check(effect, &[2, 1], &[0, 1], ActiveTask::Several, effect == Effect::Forbid);
        }
    }
}
