//! The answer to what was decided against, and its record.

use serde_json::json;

use crate::base::ids::RuleId;
use crate::ledger::counts::Broken;
use crate::mcp::call::{Call, Object};
use crate::policy::needs::{Need, Source};
use crate::policy::remarks::{Remarks, Why};
use crate::record::detail::Exhausted;
use crate::record::frame::Verdict;

use super::judge::Judge;
use super::noted::Noted;
use super::refusal::{Kind, Refusal};
use super::route;
use super::stakes::Shadowed;
use super::words;

/// What was decided against.
pub(super) struct Against<'a> {
    pub(super) call: &'a Call,
    /// What is asked for, by its server's name.
    pub(super) name: &'a str,
    pub(super) why: &'a Why,
    pub(super) rules: &'a [RuleId],
    pub(super) remarks: &'a Remarks,
    /// How the count stands that left no room.
    pub(super) broken: Option<&'a Broken>,
}

impl Judge<'_> {
    /// A refusal by policy, recorded.
    pub(super) fn denial(&self, against: &Against<'_>) -> Refusal {
        let Against { call, name, why, rules, remarks, broken } = *against;
        let kind = kind(why, rules, matches!(call.subject, Object::Tool(_)));
        let mut noted = Noted::new(self.shard, self.flight, call, self.text);
        noted.remark(remarks, name);
        self.note_exhausted(&mut noted, why, broken);
        if let Some(shadow) = &remarks.shadow {
            let shadowed = Shadowed::seen(self.shard, shadow);
            noted.shadow(&shadow.rules, shadowed.verdict, shadowed.reason);
        }
        self.write_noted(&noted, rules, kind.row().word, Verdict::Refuse);
        self.answer_to(against, kind).recorded()
    }

    fn note_exhausted(&self, noted: &mut Noted<'_>, why: &Why, broken: Option<&Broken>) {
        let (Why::Limit { need, .. } | Why::Rate { need, .. }, Some(broken)) = (why, broken) else { return };
        let Broken { used, max, retry_ms, .. } = *broken;
        let (rule, limit) = self.source(need);
        noted.detail.exhausted(&Exhausted { rule, limit, used, max, retry_ms });
    }

    /// Whose a need is, as the operator calls it.
    fn source(&self, need: &Need) -> (&str, Option<usize>) {
        let set = &self.flight.snapshot.settings.policy;
        match need.source {
            Source::Rule(rule, limit) => (&set.rule(rule).id, Some(usize::from(limit))),
            Source::Rate(rate) => (set.rates().get(usize::from(rate)).map_or("", |rate| &rate.id), None),
        }
    }

    fn answer_to(&self, against: &Against<'_>, kind: Kind) -> Refusal {
        let Against { call, name, why, .. } = *against;
        let set = &self.flight.snapshot.settings.policy;
        let Some((word, sentence)) = words::said(why, set, self.exposed(name)) else {
            return self.unknown(&call.subject, name);
        };
        let mut refusal = Refusal::from(kind).saying(sentence);
        let retry_ms = match why {
            Why::Limit { retry_ms, .. } | Why::Rate { retry_ms, .. } | Why::CountsFull { retry_ms } => *retry_ms,
            _ => None,
        };
        refusal.retry_after = retry_ms.map_or(0, |ms| u32::try_from(words::seconds(ms)).unwrap_or(u32::MAX));
        if let Why::Scopes { needed, .. } = why {
            let endpoint = &self.flight.snapshot.prepared.endpoints[self.flight.endpoint.index()];
            refusal.challenge = Some(endpoint.challenges.insufficient(needed).into());
        }
        self.visible(call, refusal, words::detail(word, words::reason(why), retry_ms, None))
    }

    /// A visible refusal: for a tool a result that the model can read, else a JSON-RPC error.
    pub(super) fn visible(&self, call: &Call, mut refusal: Refusal, detail: String) -> Refusal {
        refusal.tool_result = matches!(call.subject, Object::Tool(_)) && refusal.kind.row().status == 200;
        refusal.with(detail)
    }

    /// What is asked for, as its client calls it.
    pub(super) fn exposed<'n>(&'n self, name: &'n str) -> &'n str {
        self.flight.renamed().map_or(name, |renamed| &renamed.exposed)
    }

    /// The answer to a call that is for none of a merged endpoint's servers, recorded: that of a hidden one.
    pub(super) fn nobodys(&self, call: &Call) -> Refusal {
        self.write(call, &[], Kind::ToolUnknown.row().word);
        let name = call.subject.text().map(|name| name.of(self.text)).unwrap_or_default();
        self.unknown(&call.subject, name).recorded()
    }

    /// The answer to a call of what does not exist, or is to look so: the same bytes, with the name as the client wrote
    /// it.
    fn unknown(&self, subject: &Object, name: &str) -> Refusal {
        if let Some(server) = route::missing(self.flight, subject) {
            return route::unreached(self.flight, server);
        }
        let name = self.exposed(name);
        let naming = |kind: Kind| Refusal::from(kind).saying(format!("{}: {name}", kind.row().message));
        match subject {
            Object::Tool(_) => naming(Kind::ToolUnknown),
            Object::Prompt(_) => naming(Kind::PromptUnknown),
            Object::CompletePrompt(_) | Object::CompleteResource(_) => Kind::CompletionUnknown.into(),
            Object::Task(_) => Kind::TaskIdUnknown.into(),
            Object::Resource(_) | Object::Listen(_) | Object::None => {
                naming(Kind::ResourceUnknown).with(json!({ "uri": name }).to_string())
            }
        }
    }
}

/// The row of a refusal.
fn kind(why: &Why, rules: &[RuleId], tool: bool) -> Kind {
    match why {
        // Silence, and what does not exist. A forbid that hides is written down as one.
        Why::Hidden if rules.is_empty() => Kind::ToolUnknown,
        Why::Hidden | Why::Forbidden { .. } => Kind::Forbidden,
        Why::Condition { .. } => Kind::Condition,
        Why::Unknown { .. } | Why::LimitUnknown { .. } | Why::RateUnknown { .. } | Why::ApprovalUnknown { .. } => {
            Kind::Unknown
        }
        Why::Scopes { .. } => Kind::ScopeMissing,
        Why::Limit { .. } => Kind::Limit,
        Why::Rate { .. } if tool => Kind::Rate,
        Why::Rate { .. } => Kind::RateOfMethod,
        Why::CountsFull { .. } => Kind::CountsFull,
        Why::Pending { .. } => Kind::ApprovalPending,
        Why::Declined { .. } => Kind::ApprovalDenied,
    }
}
