//! What is written down of a decision beside its answer: what could not be told, what was counted, who said yes, some of
//! the arguments. A call that has none of it costs its arguments' digest.

use crate::base::ids::RuleId;
use crate::config::{ArgPath, ArgStep, audited};
use crate::identity::active::ActiveTask;
use crate::mcp::call::{Call, Object};
use crate::mcp::catalog::ListKind;
use crate::policy::cond::{Condition, Facts, Value};
use crate::policy::counter::Taken;
use crate::policy::limit::{Limit, Party, What};
use crate::policy::needs::Source;
use crate::policy::remarks::{Remarks, UnknownAt};
use crate::record::detail::{Detail, Level};
use crate::record::meter::SHADOW;

use super::flight::Flight;
use super::shard::Shard;
use super::stakes::Stakes;

/// What is written down of a call.
pub(super) struct Noted<'a> {
    shard: &'a Shard,
    flight: &'a Flight,
    pub(super) call: &'a Call,
    text: &'a [u8],
    /// What only some decisions have.
    pub(super) detail: Detail,
    /// The digest of all arguments, where none of them are written down.
    pub(super) arguments: [u8; 16],
}

impl<'a> Noted<'a> {
    /// Its arguments, as the operator wants them.
    pub(super) fn new(shard: &'a Shard, flight: &'a Flight, call: &'a Call, text: &'a [u8]) -> Self {
        let mut noted = Self { shard, flight, call, text, detail: Detail::default(), arguments: [0; 16] };
        noted.note_arguments();
        noted
    }

    fn note_arguments(&mut self) {
        let Some(arguments) = self.call.arguments.map(|span| span.of(self.text)) else { return };
        let kind = match self.call.subject {
            Object::Tool(_) => ListKind::Tools,
            Object::Prompt(_) => ListKind::Prompts,
            _ => return,
        };
        let snapshot = &self.flight.snapshot;
        if snapshot.settings.audit.arguments.is_empty() {
            self.arguments = self.shard.keys.arguments(arguments);
            return;
        }
        let unknown;
        let listed = match self.flight.figures.item.get() {
            Some(item) => snapshot.audited.of(item),
            None => {
                let name = self.call.subject.text().map(|name| name.of(self.text)).unwrap_or_default();
                unknown = audited::listed(&snapshot.settings, self.flight.server_name(), kind, name);
                unknown.as_deref()
            }
        };
        let Some(listed) = listed else {
            self.arguments = self.shard.keys.arguments(arguments);
            return;
        };
        let Some(arguments) = Value::read(arguments) else { return };
        self.detail.arguments(listed.iter().filter_map(|path| Some((&*path.text, at(arguments, path)?))));
    }

    /// What was noticed beside the answer.
    pub(super) fn remark(&mut self, remarks: &Remarks, name: &str) {
        if remarks.unknown.is_empty() {
            return;
        }
        let (flight, meters) = (self.flight, &self.flight.snapshot.meters);
        let set = &flight.snapshot.settings.policy;
        let is_argued = matches!(self.call.subject, Object::Tool(_) | Object::Prompt(_));
        let facts = Facts {
            caller: &flight.caller,
            args: is_argued.then(|| self.call.arguments.map_or(&b"{}"[..], |span| span.of(self.text))),
            task: match flight.task {
                ActiveTask::One(task) => Some(set.tasks().name(task)),
                ActiveTask::None | ActiveTask::Several => None,
            },
            tool: if is_argued { name } else { "" },
            server: flight.server_name(),
            now_s: self.shard.timers.last().unix_s(),
        };
        let unknown = remarks.unknown.iter().map(|(rule, at)| {
            let rule = set.rule(*rule);
            (&*rule.id, operand(rule.who.as_deref(), rule.when.as_deref(), &rule.limits, *at, &facts))
        });
        self.detail.unknown(unknown);
        remarks.unknown.iter().for_each(|(rule, _)| meters.unknown(*rule));
    }

    /// What the rules in shadow would have made of it.
    pub(super) fn shadow(&mut self, rules: &[RuleId], verdict: usize, reason: &str) {
        if rules.is_empty() {
            return;
        }
        let set = &self.flight.snapshot.settings.policy;
        rules.iter().for_each(|rule| self.flight.snapshot.meters.shadowed(*rule, verdict));
        self.detail.shadow(SHADOW[verdict], reason, rules.iter().map(|rule| &*set.rule(*rule).id));
    }

    /// What was reserved for it, and who said yes.
    pub(super) fn stakes(&mut self, stakes: &Stakes) {
        self.levels(&stakes.taken);
        if let Some(granted) = &stakes.approval {
            self.detail.approval(&granted.id().to_string(), granted.by());
        }
    }

    fn levels(&mut self, taken: &Taken) {
        let set = &self.flight.snapshot.settings.policy;
        self.detail.limits(taken.levels().filter_map(|level| {
            let (rule, limit) = match level.source {
                Source::Rule(rule, limit) => (&*set.rule(rule).id, Some(usize::from(limit))),
                Source::Rate(rate) => (&*set.rates().get(usize::from(rate))?.id, None),
            };
            Some(Level { rule, limit, before: level.before, after: level.after, max: level.max })
        }));
    }
}

/// The value at a path; `None` where there is none.
fn at<'a>(arguments: Value<'a>, path: &ArgPath) -> Option<Value<'a>> {
    path.steps.iter().try_fold(arguments, |value, step| match step {
        ArgStep::Member(name) => value.member(name),
        ArgStep::Element(place) => value.index(*place),
    })
}

/// What of a rule could not be told, as its operator wrote it; where that is not known, the whole it stands in.
fn operand<'a>(
    who: Option<&'a Condition>,
    when: Option<&'a Condition>,
    limits: &'a [Limit],
    at: UnknownAt,
    facts: &Facts<'_>,
) -> &'a str {
    let of = |condition: &'a Condition| condition.unknown(facts, 0).unwrap_or(condition.text());
    match at {
        UnknownAt::Who => who.map_or("who", of),
        UnknownAt::When => when.map_or("when", of),
        UnknownAt::Limit(limit) => {
            let Some(limit) = limits.get(usize::from(limit)) else { return "limits" };
            let what = match &limit.what {
                What::Sum { of, .. } => Some(&**of),
                What::Once { value, .. } => Some(&**value),
                What::After { same, .. } => same.as_deref(),
                What::Calls { .. } | What::Concurrent { .. } => None,
            };
            let by = limit.by.0.iter().filter_map(|party| match party {
                Party::Arg(condition) | Party::Claim(condition) => Some(&**condition),
                _ => None,
            });
            let told = |condition: &&'a Condition| condition.unknown(facts, 0).is_some();
            match what.into_iter().chain(by).find(told) {
                Some(condition) => of(condition),
                None => limit.by.0.first().map_or("by", party),
            }
        }
    }
}

/// The word for an owner that there may be none of.
fn party(party: &Party) -> &'static str {
    match party {
        Party::Agent => "by: agent",
        Party::Task => "by: task",
        Party::Session => "by: session",
        _ => "by",
    }
}
