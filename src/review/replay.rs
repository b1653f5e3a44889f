//! Recorded decisions under another policy. The record does not hold all that a decision looks at: what cannot be told
//! from it is said, and not guessed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::base::limits::{REPLAY_EXAMPLES_MAX, REPLAY_GROUPS_MAX};
use crate::config::cases::{Expect, Target};
use crate::identity::active::ActiveTask;
use crate::identity::caller::{Caller, Owner};
use crate::policy::cond::{Condition, Facts, Truth};
use crate::policy::rule::{Effect, Mode, Rule};
use crate::review::targets::{Of, Place};
use crate::review::words::{count, plain};
use crate::review::world::World;

/// Recorded decisions, decided again.
#[derive(Debug)]
pub struct Replay<'a> {
    world: &'a World,
    /// Lines that are decisions which rules settle.
    decisions: u64,
    /// Of these, those that come out as they did.
    same: u64,
    /// Refused for something else than rules: tokens, room, messages that are none.
    aside: u64,
    /// Lines that are no JSON.
    torn: u64,
    groups: BTreeMap<Group, Count>,
    /// Decisions for which there was no room for another group.
    cut: u64,
}

/// What decisions have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    /// `None`: it cannot be told.
    to: Option<Word>,
    from: Word,
    what: String,
    task: Option<String>,
    /// The rules of the new policy that settle it, or that cannot be told.
    rules: Vec<Arc<str>>,
    /// Why it cannot be told.
    lacks: Vec<String>,
}

#[derive(Debug, Default)]
struct Count {
    count: u64,
    examples: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Permit,
    Pending,
    Refuse,
}

/// A line of the record, as far as it matters here.
#[derive(Deserialize)]
struct Line<'a> {
    kind: String,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    shard: Option<u64>,
    #[serde(default)]
    run: Option<u64>,
    #[serde(default)]
    issuer: Option<String>,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    agent: Option<String>,
    #[serde(default)]
    task: Option<String>,
    #[serde(default)]
    server: Option<String>,
    #[serde(default)]
    tool: Option<String>,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    resource: Option<String>,
    #[serde(default)]
    verdict: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(borrow, default)]
    arguments: Option<BTreeMap<String, &'a RawValue>>,
    #[serde(default)]
    approval: Option<serde::de::IgnoredAny>,
}

impl<'a> Replay<'a> {
    /// Nothing read yet. Servers of the record that `world` has not are those of no rule.
    #[must_use]
    pub fn new(world: &'a World) -> Self {
        Self { world, decisions: 0, same: 0, aside: 0, torn: 0, groups: BTreeMap::new(), cut: 0 }
    }

    /// Takes the next line of the record.
    pub fn line(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let Ok(line) = serde_json::from_str::<Line<'_>>(line) else {
            self.torn += 1;
            return;
        };
        if line.kind != "decision" {
            return;
        }
        let (Some(server), Some(target), Some(from)) = (&line.server, line.target(), line.was()) else {
            self.aside += 1;
            return;
        };
        self.decisions += 1;
        let mut again = Again::default();
        self.decide(&line, server, &target, &mut again);
        let group = match again.only() {
            Some(to) if to == from => {
                self.same += 1;
                return;
            }
            to => Group { to, ..again.group(from, server, &target, &line.task) },
        };
        if !self.groups.contains_key(&group) && self.groups.len() >= REPLAY_GROUPS_MAX {
            self.cut += 1;
            return;
        }
        let entry = self.groups.entry(group).or_default();
        entry.count += 1;
        if entry.examples.len() < REPLAY_EXAMPLES_MAX {
            entry.examples.push(line.example());
        }
    }

    /// Whether nothing changes for sure, and everything could be told.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether something changes for sure.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.groups.keys().any(|group| group.to.is_some())
    }

    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let changed: u64 = self.groups.iter().filter(|(group, _)| group.to.is_some()).map(|(_, it)| it.count).sum();
        let open: u64 = self.groups.iter().filter(|(group, _)| group.to.is_none()).map(|(_, it)| it.count).sum();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{}: {} as before, {changed} otherwise, {open} cannot be told from the record",
            count(self.decisions, "decision", "decisions"),
            self.same
        );
        for (group, Count { count: number, examples }) in &self.groups {
            let to = group.to.map_or("cannot be told", Word::as_str);
            let task = group.task.as_ref().map_or_else(String::new, |task| format!(", on task {task}"));
            let _ = writeln!(out, "{} -> {to}: {number} x {}{}", group.from.as_str(), plain(&group.what), plain(&task));
            if !group.rules.is_empty() {
                let _ = writeln!(out, "  rules: {}", plain(&group.rules.join(", ")));
            }
            for lacks in &group.lacks {
                let _ = writeln!(out, "  not in the record: {}", plain(lacks));
            }
            for example in examples {
                let _ = writeln!(out, "  {}", plain(example));
            }
        }
        for (number, what) in [
            (self.aside, "left out: not settled by rules"),
            (self.torn, "left out: torn by a crash"),
            (self.cut, "in no group: there are too many"),
        ] {
            if number > 0 {
                let _ = writeln!(out, "{} {what}", count(number, "line", "lines"));
            }
        }
        out
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let groups = self.groups.iter().map(|(group, Count { count, examples })| {
            let rules: Vec<&str> = group.rules.iter().map(|rule| &**rule).collect();
            json!({
                "from": group.from.as_str(), "to": group.to.map(Word::as_str), "count": count, "what": group.what,
                "task": group.task, "rules": rules, "not_in_record": group.lacks, "examples": examples,
            })
        });
        json!({
            "v": 1, "decisions": self.decisions, "same": self.same, "left_out": self.aside, "torn": self.torn,
            "cut": self.cut, "groups": groups.collect::<Vec<_>>(),
        })
    }

    fn decide(&self, line: &Line<'_>, server: &str, target: &Target, again: &mut Again) {
        let of = match target {
            Target::Tool(name) => Of::Tool(name.clone()),
            Target::Prompt(name) => Of::Prompt(name.clone()),
            Target::Resource(uri) => Of::Resource(uri.clone()),
        };
        let place = Place { server: Arc::from(server), of };
        let told = Told::of(line, self.world);
        let rules = self.world.policy.rules().iter().filter(|rule| rule.mode == Mode::Enforce && place.is_meant(rule));
        for rule in rules {
            let (stands, lacks) = told.stands(rule, server, target, self.world);
            again.weigh(rule, stands, lacks);
        }
    }
}

impl Line<'_> {
    fn target(&self) -> Option<Target> {
        let tool = self.tool.as_deref().map(|name| Target::Tool(name.into()));
        let prompt = || self.prompt.as_deref().map(|name| Target::Prompt(name.into()));
        tool.or_else(prompt).or_else(|| self.resource.as_deref().map(|uri| Target::Resource(uri.into())))
    }

    /// What it came to, where rules settled it.
    fn was(&self) -> Option<Word> {
        match self.verdict.as_deref()? {
            // What a person let go had to be asked.
            "permit" if self.approval.is_some() => Some(Word::Pending),
            "permit" => Some(Word::Permit),
            "pending" => Some(Word::Pending),
            "refuse" => {
                let reason = self.reason.as_deref().unwrap_or_default();
                SETTLED.contains(&reason).then_some(if ASKED.contains(&reason) { Word::Pending } else { Word::Refuse })
            }
            _ => None,
        }
    }

    fn example(&self) -> String {
        let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        format!(
            "{} subject {} (run {}, shard {}, seq {})",
            self.time.as_deref().unwrap_or("?"),
            self.subject.as_deref().unwrap_or("?"),
            number(self.run),
            number(self.shard),
            number(self.seq)
        )
    }
}

/// Whether a rule applies, as far as the record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Yes,
    No,
    /// For certain unknown: closes the door.
    Unknown,
    Open,
}

/// What the record tells of a call.
struct Told<'a> {
    caller: Caller,
    keyed: bool,
    task: Option<&'a str>,
    args: String,
    fields: Vec<&'a str>,
    now_s: Option<u64>,
}

impl<'a> Told<'a> {
    fn of(line: &'a Line<'_>, world: &World) -> Self {
        let (issuer, subject) =
            (line.issuer.as_deref().unwrap_or_default(), line.subject.as_deref().unwrap_or_default());
        let agent = line.agent.as_deref();
        let held = line.task.as_deref().and_then(|task| world.policy.tasks().id(task));
        let caller = Caller {
            issuer: Arc::from(issuer),
            subject: Arc::from(subject),
            agent: agent.map(Arc::from),
            owner: Owner::of(issuer, subject, agent),
            principal: Owner::of(issuer, subject, None),
            tasks: held.into_iter().collect(),
            ..Caller::anonymous()
        };
        let arguments = line.arguments.iter().flatten();
        let plain = arguments.filter(|(name, _)| !name.contains(['.', '[', '"', '\\']));
        let mut args = String::from("{");
        let mut fields = Vec::new();
        for (name, value) in plain {
            let _ = write!(args, "{}\"{name}\":{}", if fields.is_empty() { "" } else { "," }, value.get());
            fields.push(name.as_str());
        }
        args.push('}');
        let time = line.time.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        let now_s = time.and_then(|time| u64::try_from(time.as_second()).ok());
        let is_keyed = |name: Option<&str>| name.is_some_and(|name| name.starts_with(KEYED));
        let keyed = is_keyed(line.subject.as_deref()) || is_keyed(agent);
        Self { caller, keyed, task: line.task.as_deref(), args, fields, now_s }
    }

    /// Whether a rule applies, and what the record lacks to tell it.
    fn stands(&self, rule: &Rule, server: &str, target: &Target, world: &World) -> (Stands, Vec<String>) {
        let mut lacks = Vec::new();
        let mut stands = Stands::Yes;
        if !rule.tasks.is_empty() {
            let active = self.task.and_then(|task| world.policy.tasks().id(task)).map(ActiveTask::One);
            match (active, rule.effect) {
                (Some(active), _) if !rule.tasks_hold(&self.caller, active) => return (Stands::No, lacks),
                (Some(_), _) => {}
                (None, Effect::Permit) => return (Stands::No, lacks),
                // Nothing named: no task, or one of several.
                (None, _) if self.task.is_none() => lacks.push("which tasks the token holds".to_owned()),
                (None, _) => return (Stands::No, lacks),
            }
        }
        let (tool, has_args) = match target {
            Target::Tool(name) | Target::Prompt(name) => (&**name, true),
            Target::Resource(_) => ("", false),
        };
        let args = has_args.then_some(self.args.as_bytes());
        let now_s = self.now_s.unwrap_or_default();
        let facts = Facts { caller: &self.caller, args, task: self.task, tool, server, now_s };
        for cond in [&rule.who, &rule.when].into_iter().flatten() {
            let missing = self.missing(cond, has_args);
            if !missing.is_empty() {
                lacks.extend(missing);
                continue;
            }
            match cond.truth(&facts, 0) {
                Truth::True => {}
                Truth::False => return (Stands::No, Vec::new()),
                Truth::Unknown => stands = Stands::Unknown,
            }
        }
        if rule.effect != Effect::Permit && !rule.limits.is_empty() {
            lacks.push("which calls were made before".to_owned());
        }
        (if lacks.is_empty() { stands } else { Stands::Open }, lacks)
    }

    /// What a condition looks at that the record does not hold.
    fn missing(&self, cond: &Condition, has_args: bool) -> Vec<String> {
        let mut missing = Vec::new();
        let claims = words(cond.text(), &["claims"]);
        if claims {
            missing.push("the token's claims".to_owned());
        }
        if self.keyed && words(cond.text(), &["subject", "agent"]) {
            missing.push("who it was (it is written down keyed)".to_owned());
        }
        if cond.reads_now() && self.now_s.is_none() {
            missing.push("when it was".to_owned());
        }
        if !has_args {
            return missing;
        }
        for path in cond.arg_paths() {
            let name: &str = path.trim_start_matches('.').split(['.', '[']).next().unwrap_or_default();
            if !self.fields.contains(&name) {
                missing.push(format!("args{path}"));
            }
        }
        missing
    }
}

/// Whether one of these names stands in a condition; inside a text counts too: then less is told, nothing wrong.
fn words(text: &str, names: &[&str]) -> bool {
    let mut all = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    all.any(|word| names.contains(&word))
}

/// What a decision can come to now.
#[derive(Debug, Default)]
struct Again {
    forbid: [Vec<Arc<str>>; 2],
    approve: [Vec<Arc<str>>; 2],
    permit: [Vec<Arc<str>>; 2],
    /// Approves that refuse without asking.
    closed: Vec<Arc<str>>,
    lacks: Vec<String>,
    /// Counts and scopes of permits.
    needs: Vec<String>,
}

impl Again {
    fn weigh(&mut self, rule: &Rule, stands: Stands, lacks: Vec<String>) {
        if stands == Stands::No {
            return;
        }
        self.lacks.extend(lacks);
        let place = usize::from(stands == Stands::Open);
        match (rule.effect, stands) {
            (Effect::Permit, Stands::Unknown) => {}
            (Effect::Permit, _) => {
                self.permit[place].push(rule.id.clone());
                if !rule.scopes.is_empty() {
                    self.needs.push("the token's scopes".to_owned());
                }
                if !rule.limits.is_empty() {
                    self.needs.push(format!("the counts of {}", rule.id));
                }
            }
            (Effect::Forbid, _) => self.forbid[place].push(rule.id.clone()),
            (Effect::Approve, Stands::Unknown) => self.closed.push(rule.id.clone()),
            (Effect::Approve, _) => self.approve[place].push(rule.id.clone()),
        }
    }

    fn can(&self, word: Word) -> bool {
        if !self.forbid[0].is_empty() {
            return word == Word::Refuse;
        }
        let no = |rules: &[Vec<Arc<str>>; 2]| rules.iter().all(Vec::is_empty);
        match word {
            Word::Permit => self.approve[0].is_empty() && self.closed.is_empty() && !no(&self.permit),
            Word::Pending => self.closed.is_empty() && !no(&self.approve),
            Word::Refuse => {
                let lets = !self.permit[0].is_empty() || !self.approve[0].is_empty();
                !lets || !self.forbid[1].is_empty() || !self.closed.is_empty() || !self.needs.is_empty()
            }
        }
    }

    /// The one thing that it can come to.
    fn only(&self) -> Option<Word> {
        let mut all = [Word::Permit, Word::Pending, Word::Refuse].into_iter().filter(|word| self.can(*word));
        all.next().filter(|_| all.next().is_none())
    }

    fn group(&self, from: Word, server: &str, target: &Target, task: &Option<String>) -> Group {
        let what = match target {
            Target::Tool(name) => format!("{server}/{name}"),
            Target::Prompt(name) => format!("{server}!prompt:{name}"),
            // One of many: what they have in common is their kind.
            Target::Resource(uri) => format!("{server}!resource:{uri}"),
        };
        let certain = self.only();
        let mut rules: Vec<Arc<str>> = match certain {
            Some(Word::Refuse) if !self.forbid[0].is_empty() => self.forbid[0].clone(),
            Some(Word::Refuse) => self.closed.clone(),
            Some(Word::Pending) => self.approve[0].clone(),
            Some(Word::Permit) => self.permit[0].clone(),
            None => {
                let all = [&self.forbid, &self.approve, &self.permit].into_iter().flatten().flatten();
                all.chain(&self.closed).cloned().collect()
            }
        };
        rules.dedup();
        let mut lacks: Vec<String> = Vec::new();
        if certain.is_none() {
            lacks.extend(self.lacks.iter().chain(&self.needs).cloned());
            lacks.sort();
            lacks.dedup();
        }
        Group { to: None, from, what, task: task.clone(), rules, lacks }
    }
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Permit => Expect::Permit.word(),
            Self::Pending => Expect::Pending.word(),
            Self::Refuse => Expect::Refuse.word(),
        }
    }
}

/// How a name begins that is written down as a digest.
const KEYED: &str = "keyed:";
/// Reasons of refusals that rules settle, and counts.
const SETTLED: [&str; 10] =
    ["no_match", "forbid", "condition", "unknown", "scope", "limit", "rate", "approval", "denied", "unasked"];
/// Those where somebody was to be asked.
const ASKED: [&str; 3] = ["approval", "denied", "unasked"];
