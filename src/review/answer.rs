//! An answer with all its reasons, as text for people and as JSON for programs.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::ids::RuleId;
use crate::config::cases::{Expect, Target};
use crate::gateway;
use crate::policy::decide::Why;
use crate::policy::needs::{NeedOf, Source};
use crate::policy::remarks::{Remarks, UnknownAt};
use crate::policy::rule::{Effect, PolicySet};
use crate::review::ask::{Asked, How, Judged, Operand, Standing};
use crate::review::words::{self, duration, plain};
use crate::review::world::World;

/// An answer, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What comes of the call.
    pub expect: Expect,
    /// Why, in the record's word; `permit` for a call that is let go.
    pub word: &'static str,
    /// The rules that settle it.
    pub rules: Vec<Arc<str>>,
    /// The sentence of the rule that refuses.
    pub reason: Option<Arc<str>>,
    /// What the agent is told; `None` where it is let go, or told that there is no such thing.
    pub says: Option<String>,
    /// Whether lists show it.
    pub listed: bool,
    /// How each rule stands that is about it.
    pub standings: Vec<Standing>,
    /// What is counted.
    pub limits: Vec<LimitLine>,
    /// Scopes, where the token lacks some.
    pub scopes: Option<ScopeLine>,
    /// Who is asked.
    pub approval: Option<ApprovalLine>,
    /// What could not be told, by the rule's id.
    pub unknown: Vec<(Arc<str>, &'static str)>,
    /// What rules in shadow would have come to, and which.
    pub shadow: Option<(&'static str, Vec<Arc<str>>)>,
}

/// A limit or rate of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitLine {
    /// The rule's id, or the rate's.
    pub rule: Arc<str>,
    /// It is a rate.
    pub rate: bool,
    /// What it says.
    pub text: String,
    /// What this call would add to it.
    pub adds: Option<String>,
    /// What is used of it before this call; `None` where nobody knows.
    pub used: Option<String>,
    /// How much there is.
    pub max: Option<String>,
    /// Whether it holds for this call.
    pub holds: bool,
    /// When it does again, milliseconds from now.
    pub retry_ms: Option<u64>,
}

/// Scopes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeLine {
    /// Those that the token lacks.
    pub missing: Vec<Box<str>>,
    /// All that are needed.
    pub needed: Vec<Box<str>>,
}

/// An approval that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalLine {
    /// The rule that asks.
    pub rule: Arc<str>,
    /// How long an answer is waited for, milliseconds.
    pub expires_ms: u64,
    /// Who is asked.
    pub ask: &'static str,
}

impl World {
    /// What was judged, told. Nothing is counted yet.
    #[must_use]
    pub fn told(&self, judged: &Judged, target: &Target) -> Answer {
        let (_, name) = kind(target);
        let set = &self.policy;
        let verdict = &judged.verdict;
        let id = |rule: RuleId| set.rule(rule).id.clone();
        let mut answer = Answer {
            expect: judged.expect(),
            word: "permit",
            rules: verdict.rules.iter().copied().map(id).collect(),
            reason: None,
            says: None,
            listed: judged.listed,
            standings: judged.standings.clone(),
            limits: verdict.needs.iter().filter_map(|need| line(set, need.source, &need.what)).collect(),
            scopes: None,
            approval: verdict.asking.as_ref().map(|asking| ApprovalLine {
                rule: id(asking.rule),
                expires_ms: asking.expires_ms,
                ask: words::ask(asking.ask),
            }),
            unknown: unknown(set, &verdict.remarks),
            shadow: verdict.remarks.shadow.as_ref().map(|it| (it.word(), it.rules.iter().copied().map(id).collect())),
        };
        if let Some(asking) = &verdict.asking {
            let why = Why::Pending { rule: asking.rule, reason: asking.reason.clone() };
            answer.refuse(set, &why, name);
        }
        if let Err(why) = &verdict.outcome {
            answer.refuse(set, why, name);
        }
        answer
    }
}

impl Answer {
    /// Somebody has said yes, where somebody had to.
    pub(super) fn granted(&mut self) {
        (self.expect, self.word, self.says, self.reason) = (Expect::Permit, "permit", None, None);
    }

    /// It is refused, for this.
    pub(super) fn refuse(&mut self, set: &PolicySet, why: &Why, name: &str) {
        self.says = words_of(why, set, name);
        self.expect = if matches!(why, Why::Pending { .. }) { Expect::Pending } else { Expect::Refuse };
        self.word = why.word();
        self.reason = reason(why);
        match why {
            Why::Scopes { missing, needed } => {
                self.scopes = Some(ScopeLine { missing: missing.to_vec(), needed: needed.to_vec() });
            }
            Why::LimitUnknown { rule, .. } => self.blame(set.rule(*rule).id.clone()),
            Why::Limit { need, .. } => {
                if let Source::Rule(rule, _) = need.source {
                    self.blame(set.rule(rule).id.clone());
                }
            }
            Why::Rate { need, .. } => {
                if let Source::Rate(rate) = need.source {
                    self.rules = set.rates().get(usize::from(rate)).map(|rate| rate.id.clone()).into_iter().collect();
                }
            }
            _ => {}
        }
    }

    /// This rule settles it, before the others.
    fn blame(&mut self, rule: Arc<str>) {
        self.rules.retain(|id| *id != rule);
        self.rules.insert(0, rule);
    }

    /// For a terminal.
    #[must_use]
    pub fn text(&self, asked: &Asked<'_>, task: Option<&str>) -> String {
        let mut out = String::new();
        let subject = plain(&target(asked));
        let on = task.map_or_else(String::new, |task| format!(", on task {}", plain(task)));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}: {subject}{on}{}", self.expect.word(), self.because());
        let _ = writeln!(out, "listed: {}", if self.listed { "yes" } else { "no" });
        if let Some(reason) = &self.reason {
            let _ = writeln!(out, "reason: {}", plain(reason));
        }
        if let Some(ScopeLine { missing, .. }) = &self.scopes {
            let _ = writeln!(out, "scopes missing: {}", plain(&missing.join(" ")));
        }
        if let Some(ApprovalLine { rule, expires_ms, ask }) = &self.approval {
            let _ = writeln!(out, "approval: {} asks ({ask}), for {}", plain(rule), duration(*expires_ms));
        }
        for line in &self.limits {
            let _ = writeln!(out, "{}: {}", if line.rate { "rate" } else { "limit" }, plain(&line.to_string()));
        }
        for (rule, what) in &self.unknown {
            let _ = writeln!(out, "unknown: {what} of {}", plain(rule));
        }
        if let Some((word, rules)) = &self.shadow {
            let _ = writeln!(out, "in shadow: {word} ({})", plain(&rules.join(", ")));
        }
        match (&self.says, self.expect) {
            (Some(says), _) => _ = writeln!(out, "the agent is told: {}", plain(says)),
            (None, Expect::Permit) => {}
            (None, _) if self.word == "hidden" => out.push_str("the agent is told: that there is no such thing\n"),
            (None, _) => {}
        }
        if !self.standings.is_empty() {
            out.push_str("rules:\n");
        }
        for standing in &self.standings {
            let _ = writeln!(out, "  {}", plain(&standing.to_string()));
        }
        if self.standings.is_empty() {
            out.push_str("no rule is about it\n");
        }
        out
    }

    fn because(&self) -> String {
        match (self.word, self.rules.is_empty()) {
            ("permit", true) => String::new(),
            ("permit", false) => format!(", by {}", plain(&self.rules.join(", "))),
            (word, true) => format!(" ({word})"),
            (word, false) => format!(" ({word}), by {}", plain(&self.rules.join(", "))),
        }
    }

    /// As one JSON object. Members are added, never changed or taken away.
    #[must_use]
    pub fn json(&self, asked: &Asked<'_>, task: Option<&str>) -> Value {
        let (kind, name) = kind(asked.target);
        let limits = self.limits.iter().map(|line| {
            json!({
                "rule": *line.rule, "rate": line.rate, "limit": line.text, "adds": line.adds, "used": line.used,
                "max": line.max, "holds": line.holds, "retry_after_ms": line.retry_ms,
            })
        });
        let scopes = self.scopes.as_ref().map(|it| json!({ "missing": it.missing, "needed": it.needed }));
        let approval =
            self.approval.as_ref().map(|it| json!({ "rule": *it.rule, "expires_ms": it.expires_ms, "ask": it.ask }));
        let unknown = self.unknown.iter().map(|(rule, what)| json!({ "rule": **rule, "what": what }));
        let shadow = self.shadow.as_ref().map(|(word, rules)| json!({ "verdict": word, "rules": texts(rules) }));
        json!({
            "v": 1, "verdict": self.expect.word(), "kind": self.word, "listed": self.listed,
            "server": asked.server, kind: name, "task": task, "rules": texts(&self.rules),
            "reason": self.reason.as_deref(), "says": self.says, "scopes": scopes, "approval": approval,
            "limits": limits.collect::<Vec<_>>(), "unknown": unknown.collect::<Vec<_>>(), "shadow": shadow,
            "standings": self.standings.iter().map(Standing::json).collect::<Vec<_>>(),
        })
    }
}

/// What the agent is told, as the gateway tells it.
fn words_of(why: &Why, set: &PolicySet, name: &str) -> Option<String> {
    gateway::words::said(why, set, name).map(|(_, sentence)| sentence)
}

/// The rule's sentence.
fn reason(why: &Why) -> Option<Arc<str>> {
    match why {
        Why::Hidden | Why::Scopes { .. } | Why::RateUnknown { .. } | Why::Rate { .. } | Why::CountsFull { .. } => None,
        Why::Forbidden { reason, .. }
        | Why::Condition { reason }
        | Why::Limit { reason, .. }
        | Why::Unknown { reason, .. }
        | Why::LimitUnknown { reason, .. }
        | Why::ApprovalUnknown { reason, .. }
        | Why::Pending { reason, .. }
        | Why::Declined { reason, .. } => reason.clone(),
    }
}

fn texts(all: &[Arc<str>]) -> Vec<&str> {
    all.iter().map(|text| &**text).collect()
}

fn kind(target: &Target) -> (&'static str, &str) {
    match target {
        Target::Tool(name) => ("tool", name),
        Target::Prompt(name) => ("prompt", name),
        Target::Resource(uri) => ("resource", uri),
    }
}

/// What is asked about, as patterns write it.
#[must_use]
pub fn target(asked: &Asked<'_>) -> String {
    match asked.target {
        Target::Tool(name) => format!("{}/{name}", asked.server),
        Target::Prompt(name) => format!("{}!prompt:{name}", asked.server),
        Target::Resource(uri) => format!("{}!resource:{uri}", asked.server),
    }
}

impl std::fmt::Display for LimitLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)?;
        match (&self.used, &self.max) {
            (Some(used), Some(max)) => write!(f, "; {used} of {max} used")?,
            (Some(used), None) => write!(f, "; {used} used")?,
            _ => {}
        }
        if let Some(adds) = &self.adds {
            write!(f, ", this call adds {adds}")?;
        }
        if !self.holds {
            f.write_str("; does not hold")?;
        }
        self.retry_ms.map_or(Ok(()), |ms| write!(f, ", again in {}", gateway::words::duration(ms)))
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shadow = if self.shadow { ", in shadow" } else { "" };
        write!(f, "{} ({}{shadow}): ", self.id, words::effect(self.effect))?;
        match &self.how {
            How::Applies => f.write_str("applies"),
            How::Closes(key, operand) if self.effect == Effect::Approve => {
                write!(f, "refuses without asking: {key}: {operand}")
            }
            How::Closes(key, operand) => write!(f, "applies: {key}: {operand}"),
            How::Task => f.write_str("does not apply: none of its tasks is active"),
            How::Who(operand) => write!(f, "does not apply: who: {operand}"),
            How::When(operand) => write!(f, "does not apply: when: {operand}"),
            How::After => f.write_str("does not apply: no call that it waits for was made"),
        }
    }
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}", self.text, if self.unknown { "unknown" } else { "false" })?;
        for (index, (path, value)) in self.values.iter().enumerate() {
            write!(f, "{}{path} is {value}", if index == 0 { " where " } else { " and " })?;
        }
        Ok(())
    }
}

impl Standing {
    fn json(&self) -> Value {
        let (how, operand) = match &self.how {
            How::Applies => ("applies", None),
            How::Closes(_, operand) => ("closes", Some(operand)),
            How::Task => ("task", None),
            How::Who(operand) => ("who", Some(operand)),
            How::When(operand) => ("when", Some(operand)),
            How::After => ("after", None),
        };
        let operand = operand.map(|it| {
            let values = it.values.iter().map(|(path, value)| (path.clone(), Value::from(value.as_str())));
            let values: serde_json::Map<String, Value> = values.collect();
            json!({ "unknown": it.unknown, "text": it.text, "values": values })
        });
        json!({
            "rule": *self.id, "effect": words::effect(self.effect), "shadow": self.shadow, "standing": how,
            "operand": operand,
        })
    }
}

fn unknown(set: &PolicySet, remarks: &Remarks) -> Vec<(Arc<str>, &'static str)> {
    let what = |at: &UnknownAt| match at {
        UnknownAt::Who => "who",
        UnknownAt::When => "when",
        UnknownAt::Limit(_) => "a limit",
    };
    remarks.unknown.iter().map(|(rule, at)| (set.rule(*rule).id.clone(), what(at))).collect()
}

/// What a need is, before anybody has looked at its count.
fn line(set: &PolicySet, source: Source, what: &NeedOf) -> Option<LimitLine> {
    let (rule, rate, text) = match source {
        Source::Rule(rule, limit) => {
            let rule = set.rule(rule);
            (rule.id.clone(), false, rule.limits.get(usize::from(limit)).map(words::limit).unwrap_or_default())
        }
        Source::Rate(rate) => {
            let rate = set.rates().get(usize::from(rate))?;
            (rate.id.clone(), true, words::rate(rate))
        }
    };
    let (adds, max) = match what {
        NeedOf::Calls { max, .. } => (Some("1".to_owned()), Some(max.to_string())),
        NeedOf::Sum { amount, max, .. } => (Some(amount.to_string()), Some(max.to_string())),
        NeedOf::Concurrent { max } => (Some("1".to_owned()), Some(max.to_string())),
        NeedOf::Bucket { burst, .. } => (Some("1".to_owned()), Some(burst.to_string())),
        NeedOf::Once { .. } => (None, Some("1".to_owned())),
        NeedOf::After { .. } => (None, None),
        // Nothing that could fail: it is only remembered.
        NeedOf::Note { .. } => return None,
    };
    Some(LimitLine { rule, rate, text, adds, used: None, max, holds: true, retry_ms: None })
}
