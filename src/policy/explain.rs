//! The slow twin: walks the rules as written and says why. It shares no index, bit, key or program with the table and its
//! decision, nor the order of looking; `decide` is tested against it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::cond::{Condition, Dead, Facts, Truth, Truths, reference};
use super::decide::{Question, Scene, Why};
use super::limit::{By, Limit, Party, Rate, RateOf, What};
use super::needs::{NeedOf, Source};
use super::pattern::{About, Pattern};
use super::remarks::{Asking, UnknownAt};
use super::rule::{AskWhom, Effect, Mode, PolicySet, Rule};
use super::table::{DeadPaths, Place};
use super::uri::Target;
use crate::base::ids::{RuleId, ServerId};
use crate::base::limits::NEEDS_MAX;
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::mcp::catalog::{Catalog, ListKind};
use crate::mcp::input::Ask;

/// A question with everything that the answer hangs on.
#[derive(Clone, Copy)]
pub struct Inquiry<'a> {
    /// The rules.
    pub set: &'a PolicySet,
    /// The servers, as the table was compiled with.
    pub servers: &'a [Arc<str>],
    /// The catalogue, as the table was compiled with.
    pub catalog: &'a Catalog,
    /// Paths that no tool of a rule has, as the table found.
    pub dead: &'a DeadPaths,
    /// Who asks.
    pub caller: &'a Caller,
    /// What for.
    pub task: ActiveTask,
    /// Of which server.
    pub server: ServerId,
    /// What.
    pub question: Question<'a>,
    /// The arguments of the call.
    pub arguments: Option<&'a [u8]>,
    /// When and from where; `past` is not looked at.
    pub scene: Option<&'a Scene<'a>>,
    /// The calls that were let through before, and have all succeeded.
    pub earlier: &'a [Self],
}

/// An answer, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Yes, or why not: what `judge_at` answers.
    pub outcome: Result<(), Why>,
    /// What settled it.
    pub cause: Cause,
    /// All rules that settled it, in the order of the file.
    pub rules: Vec<RuleId>,
    /// Each rule of the policy, in the order of the file.
    pub steps: Vec<Step>,
    /// What a yes needs.
    pub wants: Vec<Want>,
    /// Who must say yes, too.
    pub asking: Option<Asking>,
    /// What of enforced rules could not be told, in the order of the file.
    pub unknown: Vec<(RuleId, UnknownAt)>,
    /// The same question, had the rules in shadow been enforced: the outcome, who would be asked, and what their limits
    /// need; `None` where none of them applies.
    pub shadow: Option<Box<Supposed>>,
}

/// An outcome as it would be: what it is, whether somebody would be asked, its rules, and what their limits need.
pub type Supposed = (Result<(), Why>, bool, Vec<RuleId>, Vec<Want>);

/// What settles an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The server, or the tool or prompt, is in no catalogue.
    Unknown,
    /// The URI or template cannot be parsed.
    NotAUri,
    /// Hidden by a forbid.
    Forbidden,
    /// Forbidden, and listed.
    ForbiddenWithReason,
    /// Nothing shows it.
    Silence,
    /// Listed, and nothing lets it go.
    Condition,
    /// A forbid or the only permits cannot be told.
    Unknowable,
    /// The token has too few scopes.
    Scopes,
    /// A limit cannot be evaluated.
    LimitUnknown,
    /// A rate cannot be evaluated.
    RateUnknown,
    /// It needs more than can be counted.
    TooMany,
    /// Whether somebody must be asked cannot be told.
    ApprovalUnknown,
    /// Somebody must be asked.
    Asked,
    /// A permit applies, and no forbid.
    Permitted,
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub rule: RuleId,
    /// Whether it applies.
    pub standing: Standing,
}

/// Whether a rule applies, and if not, what is missing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does, by the pattern of this place.
    Applies(usize),
    /// None of its patterns is about this.
    OtherTarget,
    /// A pattern is, but its tasks are not active.
    OtherTask,
    /// It is about other callers.
    OtherCaller,
    /// Its condition does not hold, or no call came before that it waits for.
    DoesNotHold,
    /// That cannot be told.
    Unknown(UnknownAt),
}

/// Something that must hold: the need of the same source, with its owner and value spelled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// What asks for it.
    pub source: Source,
    /// What must hold.
    pub what: NeedOf,
    /// Whose count it is, and of which value.
    pub owner: Vec<Vec<u8>>,
    /// Of an `after`: whether such a call came before.
    pub came: bool,
}

/// How a rule stands that is about the target and the task.
struct Relevant<'a> {
    id: RuleId,
    rule: &'a Rule,
    truth: Truth,
    /// What it could come to, with other arguments at another time.
    could: Truths,
    who: Truth,
}

/// Answers a question by asking each rule.
#[must_use]
pub fn explain(asked: &Inquiry<'_>) -> Explanation {
    let subject = match asked.subject() {
        Ok(subject) => subject,
        Err(cause) => return Explanation::of(Err(Why::Hidden), cause, Vec::new()),
    };
    let (mut steps, mut relevant, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for (index, rule) in asked.set.rules().iter().enumerate() {
        let id = RuleId::from_index(index);
        let (standing, stands) = asked.stands(&subject, id, rule);
        if let Standing::Unknown(at) = standing
            && rule.mode == Mode::Enforce
        {
            unknown.push((id, at));
        }
        steps.push(Step { rule: id, standing });
        relevant.extend(stands);
    }
    let enforced = || relevant.iter().filter(|one| one.rule.mode == Mode::Enforce);
    let (hides, shows) = shown(enforced());
    let hidden = if !hides.is_empty() {
        Some((Cause::Forbidden, hides))
    } else if shows.is_empty() {
        Some((Cause::Silence, Vec::new()))
    } else {
        None
    };
    if asked.question.is_list() {
        let explained = match hidden {
            Some((cause, rules)) => Explanation::of(Err(Why::Hidden), cause, rules),
            None => Explanation::of(Ok(()), Cause::Permitted, shows),
        };
        return Explanation { steps, ..explained };
    }
    let all: Vec<&Relevant<'_>> = enforced().collect();
    let mut explained = asked.concluded(&subject, &all);
    if let (true, Some((cause, rules))) = (explained.outcome.is_err(), hidden) {
        explained = Explanation::of(Err(Why::Hidden), cause, rules);
    }
    let shadow = asked.shadow(&subject, &relevant);
    Explanation { steps, unknown, shadow, ..explained }
}

/// Which silent forbids hide it, and which rules show it.
fn shown<'a>(rules: impl Iterator<Item = &'a Relevant<'a>>) -> (Vec<RuleId>, Vec<RuleId>) {
    let (mut hides, mut shows) = (Vec::new(), Vec::new());
    for Relevant { id, rule, could, who, .. } in rules {
        match rule.effect {
            Effect::Forbid => {
                let always = !could.has(Truth::False) && rule.limits.is_empty();
                hides.extend((always && rule.reason.is_none()).then_some(*id));
            }
            Effect::Permit | Effect::Approve => {
                shows.extend((*who == Truth::True && could.has(Truth::True)).then_some(*id));
            }
        }
    }
    (hides, shows)
}

impl Explanation {
    fn of(outcome: Result<(), Why>, cause: Cause, rules: Vec<RuleId>) -> Self {
        let (steps, wants, unknown) = (Vec::new(), Vec::new(), Vec::new());
        Self { outcome, cause, rules, steps, wants, asking: None, unknown, shadow: None }
    }
}

impl<'a> Inquiry<'a> {
    fn facts(&self) -> Facts<'a> {
        let name = self.servers.get(self.server.index());
        Facts {
            caller: self.caller,
            args: self.arguments,
            task: match self.task {
                ActiveTask::One(task) => Some(self.set.tasks().name(task)),
                ActiveTask::None | ActiveTask::Several => None,
            },
            tool: match self.question {
                Question::CallTool(name)
                | Question::GetPrompt(name)
                | Question::CompletePrompt(name)
                | Question::List(ListKind::Tools | ListKind::Prompts, name) => name,
                _ => "",
            },
            server: name.map_or("", |name| name),
            now_s: self.scene.map_or(0, |scene| scene.unix_ms / 1000),
        }
    }

    /// How a rule stands, and what else is to know of it where it is about target and task.
    fn stands(&self, subject: &Subject<'_>, id: RuleId, rule: &'a Rule) -> (Standing, Option<Relevant<'a>>) {
        let strict = rule.effect == Effect::Permit;
        let Some(place) = rule.patterns.iter().position(|pattern| subject.is_meant(pattern, strict)) else {
            return (Standing::OtherTarget, None);
        };
        if !rule.tasks_hold(self.caller, self.task) {
            return (Standing::OtherTask, None);
        }
        let facts = self.facts();
        let of_caller = Facts { args: None, task: None, tool: "", server: "", now_s: 0, ..facts };
        let who = rule.who.as_ref().map_or(Truth::True, |who| reference::truth(who, &of_caller, 0));
        if who == Truth::False {
            return (Standing::OtherCaller, None);
        }
        let when = rule.when.as_ref().map_or(Truth::True, |when| self.holds(id, when));
        let mut parts = vec![(who, UnknownAt::Who), (when, UnknownAt::When)];
        if rule.effect != Effect::Permit {
            let after =
                (0..).zip(&rule.limits).map(|(at, limit)| (self.came_after((id, at), limit), UnknownAt::Limit(at)));
            parts.extend(after);
        }
        let (truth, standing) = if parts.iter().any(|(truth, _)| *truth == Truth::False) {
            (Truth::False, Standing::DoesNotHold)
        } else if let Some((_, at)) = parts.iter().find(|(truth, _)| *truth == Truth::Unknown) {
            (Truth::Unknown, Standing::Unknown(*at))
        } else {
            (Truth::True, Standing::Applies(place))
        };
        let could = match &rule.when {
            Some(when) => reference::could(when, &facts),
            None => Truths(1 << (Truth::True as u8)),
        };
        (standing, Some(Relevant { id, rule, truth, could, who }))
    }

    fn dead(&self, rule: RuleId, place: Place) -> Dead {
        self.dead.get(&(rule, place)).copied().unwrap_or_default()
    }

    fn holds(&self, rule: RuleId, when: &Condition) -> Truth {
        if self.scene.is_some() || !when.reads_now() {
            return reference::truth(when, &self.facts(), self.dead(rule, Place::When));
        }
        let could = reference::could(when, &self.facts());
        let only =
            |one| [Truth::True, Truth::False, Truth::Unknown].iter().all(|truth| could.has(*truth) == (*truth == one));
        [Truth::True, Truth::False].into_iter().find(|truth| only(*truth)).unwrap_or(Truth::Unknown)
    }

    /// Whether a call came before that a forbid or approve waits for.
    fn came_after(&self, source: (RuleId, u16), limit: &Limit) -> Truth {
        let What::After { patterns, same, .. } = &limit.what else { return Truth::Unknown };
        if self.scene.is_none() {
            return Truth::Unknown;
        }
        let mine = self.counted(Some(source), &limit.by, same.as_deref());
        let Some(known) = settled(&mine) else { return Truth::Unknown };
        let before = || self.earlier.iter().filter(|call| call.is_one_of(patterns, false));
        let theirs = |call: &Self| call.counted(Some(source), &limit.by, same.as_deref());
        if before().any(|call| settled(&theirs(call)).is_some_and(|theirs| theirs == known)) {
            return Truth::True;
        }
        // A part that cannot be told could be any; what it is within must be the same.
        let may_be = |call: &Self| {
            let theirs = theirs(call);
            settled(&theirs).is_none() && theirs.iter().zip(&mine).all(|(theirs, mine)| theirs.within == mine.within)
        };
        if before().any(may_be) { Truth::Unknown } else { Truth::False }
    }

    fn is_one_of(&self, patterns: &[Pattern], strict: bool) -> bool {
        let is_meant = |subject: Subject<'_>| patterns.iter().any(|pattern| subject.is_meant(pattern, strict));
        self.subject().is_ok_and(is_meant)
    }

    /// Forbid, then what all permits that apply ask for, then approve, then permit, then silence.
    fn concluded(&self, subject: &Subject<'_>, rules: &[&Relevant<'_>]) -> Explanation {
        let of = |effect: Effect, truth: Truth| -> Vec<&Relevant<'_>> {
            rules.iter().filter(|one| one.rule.effect == effect && one.truth == truth).copied().collect()
        };
        let ids = |list: &[&Relevant<'_>]| list.iter().map(|one| one.id).collect::<Vec<_>>();
        let refused = |why: Why, cause, list: &[&Relevant<'_>]| Explanation::of(Err(why), cause, ids(list));
        let forbids = of(Effect::Forbid, Truth::True);
        if let Some(first) = forbids.iter().find(|one| one.rule.reason.is_some()).or(forbids.first()) {
            let why = Why::Forbidden { rule: first.id, reason: first.rule.reason.clone() };
            return refused(why, Cause::ForbiddenWithReason, &forbids);
        }
        let doubtful = of(Effect::Forbid, Truth::Unknown);
        if let Some(first) = doubtful.first() {
            let why = Why::Unknown { rule: first.id, reason: first.rule.reason.clone() };
            return refused(why, Cause::Unknowable, &doubtful);
        }
        let permits = of(Effect::Permit, Truth::True);
        let mut wants = Vec::new();
        for one in &permits {
            for (at, limit) in (0..).zip(&one.rule.limits) {
                let Some(want) = self.want(one.id, at, limit) else {
                    let why = Why::LimitUnknown { rule: one.id, limit: at, reason: one.rule.reason.clone() };
                    return refused(why, Cause::LimitUnknown, &[one]);
                };
                wants.push(want);
            }
        }
        let doubtful = of(Effect::Approve, Truth::Unknown);
        if let Some(first) = doubtful.first() {
            let why = Why::ApprovalUnknown { rule: first.id, reason: first.rule.reason.clone() };
            return refused(why, Cause::ApprovalUnknown, &doubtful);
        }
        if let Some((why, lacking)) = self.scopes(&permits) {
            return Explanation::of(Err(why), Cause::Scopes, lacking);
        }
        let approves = of(Effect::Approve, Truth::True);
        if permits.is_empty() && approves.is_empty() {
            let doubtful = of(Effect::Permit, Truth::Unknown);
            if let Some(first) = doubtful.first() {
                let why = Why::Unknown { rule: first.id, reason: first.rule.reason.clone() };
                return refused(why, Cause::Unknowable, &doubtful[..1]);
            }
            let unmet = rules.iter().filter(|one| one.rule.effect != Effect::Forbid && one.truth == Truth::False);
            let reason = unmet.filter_map(|one| one.rule.reason.clone()).next();
            return refused(Why::Condition { reason }, Cause::Condition, &[]);
        }
        for (place, rate) in (0..).zip(self.set.rates()) {
            match self.rate(subject, place, rate) {
                Some(Some(want)) => wants.push(want),
                Some(None) => return refused(Why::RateUnknown { rate: place }, Cause::RateUnknown, &[]),
                None => {}
            }
        }
        let both = rules.iter().filter(|one| one.rule.effect != Effect::Forbid && one.truth == Truth::True);
        let rules: Vec<RuleId> = both.map(|one| one.id).collect();
        wants.extend(self.watched(subject));
        if wants.len() > NEEDS_MAX {
            return Explanation::of(Err(Why::CountsFull { retry_ms: None }), Cause::TooMany, rules);
        }
        let person = approves.iter().find(|one| one.rule.ask == AskWhom::Person);
        let asking = person.or(approves.first()).map(|Relevant { id, rule, .. }| Asking {
            rule: *id,
            expires_ms: rule.expires_ms,
            ask: rule.ask,
            reason: rule.reason.clone(),
        });
        let cause = if asking.is_some() { Cause::Asked } else { Cause::Permitted };
        Explanation { wants, asking, ..Explanation::of(Ok(()), cause, rules) }
    }

    /// The refusal for scopes that the token lacks, and the permits that ask for them.
    fn scopes(&self, permits: &[&Relevant<'_>]) -> Option<(Why, Vec<RuleId>)> {
        let lacks = |one: &Relevant<'_>| one.rule.scopes.iter().any(|scope| !self.caller.scopes.contains(scope));
        let lacking: Vec<_> = permits.iter().filter(|one| lacks(one)).map(|one| one.id).collect();
        let all = || permits.iter().flat_map(|one| one.rule.scopes.iter().cloned());
        let tidy =
            |scopes: std::collections::BTreeSet<Box<str>>| scopes.into_iter().collect::<SmallVec<[Box<str>; 4]>>();
        let why = Why::Scopes {
            missing: tidy(all().filter(|scope| !self.caller.scopes.contains(scope)).collect()),
            needed: tidy(all().collect()),
        };
        (!lacking.is_empty()).then_some((why, lacking))
    }

    /// What a permit's limit needs; `None` where it cannot be evaluated.
    fn want(&self, rule: RuleId, at: u16, limit: &Limit) -> Option<Want> {
        self.scene?;
        let (what, value) = match &limit.what {
            What::Calls { max, per_ms } => (NeedOf::Calls { max: *max, per_ms: *per_ms }, None),
            What::Sum { of, max, per_ms } => {
                let amount = reference::number(of, &self.facts(), self.dead(rule, Place::Counted(at)))?;
                (amount.parts().0 >= 0).then_some(())?;
                (NeedOf::Sum { amount, max: *max, per_ms: *per_ms }, None)
            }
            What::Concurrent { max } => (NeedOf::Concurrent { max: *max }, None),
            What::Once { value, per_ms } => (NeedOf::Once { per_ms: *per_ms }, Some(&**value)),
            What::After { within_ms, same, .. } => (NeedOf::After { within_ms: *within_ms }, same.as_deref()),
        };
        let owner = settled(&self.counted(Some((rule, at)), &limit.by, value))?;
        let came = match &limit.what {
            What::After { patterns, .. } => {
                self.earlier.iter().filter(|call| call.is_one_of(patterns, true)).any(|call| {
                    settled(&call.counted(Some((rule, at)), &limit.by, value)).is_some_and(|it| it == owner)
                })
            }
            _ => false,
        };
        Some(Want { source: Source::Rule(rule, at), what, owner, came })
    }

    /// What a rate needs: nothing where it is about something else, nobody where it cannot be told.
    fn rate(&self, subject: &Subject<'_>, place: u16, rate: &Rate) -> Option<Option<Want>> {
        let scene = self.scene?;
        let among = |list: &[Box<str>], text: &str| list.is_empty() || list.iter().any(|one| **one == *text);
        let is_meant = rate.on.is_empty() || rate.on.iter().any(|pattern| subject.is_meant(pattern, false));
        if matches!(subject.about, Meant::Ask(_)) {
            return None;
        }
        if !is_meant || !among(&rate.methods, scene.method) || !among(&rate.endpoints, scene.endpoint) {
            return None;
        }
        let what = match rate.what {
            RateOf::Calls { calls, per_ms, burst } => NeedOf::Bucket { calls, per_ms, burst },
            RateOf::Concurrent(max) => NeedOf::Concurrent { max },
        };
        let owner = settled(&self.counted(None, &rate.by, None));
        Some(owner.map(|owner| Want { source: Source::Rate(place), what, owner, came: false }))
    }

    /// What is noted of a call that is let go, for forbids and approves.
    fn watched(&self, subject: &Subject<'_>) -> Vec<Want> {
        let mut wants = Vec::new();
        if self.scene.is_none() || matches!(subject.about, Meant::Ask(_)) {
            return wants;
        }
        for (index, rule) in self.set.rules().iter().enumerate() {
            for (at, limit) in (0..).zip(&rule.limits) {
                let What::After { patterns, within_ms, same } = &limit.what else { continue };
                let is_meant = || patterns.iter().any(|pattern| subject.is_meant(pattern, false));
                if rule.effect == Effect::Permit || rule.mode == Mode::Shadow || !is_meant() {
                    continue;
                }
                let id = RuleId::from_index(index);
                let parts = self.counted(Some((id, at)), &limit.by, same.as_deref());
                let wild = || parts.iter().map(|part| part.within.clone()).chain([b"wild".to_vec()]).collect();
                let owner = settled(&parts).unwrap_or_else(wild);
                let source = Source::Rule(id, at);
                let keeps = within_ms.is_some() || self.scene.is_some_and(|scene| scene.session.is_none());
                let keep_ms = if keeps || !limit.by.0.contains(&Party::Session) {
                    *within_ms
                } else {
                    Some(crate::base::limits::SESSION_LIFETIME_MS_MAX)
                };
                wants.push(Want { source, what: NeedOf::Note { keep_ms }, owner, came: false });
            }
        }
        wants
    }

    /// What would be, had the rules in shadow been enforced.
    #[expect(clippy::type_complexity, reason = "as the field says")]
    fn shadow(
        &self,
        subject: &Subject<'_>,
        rules: &[Relevant<'_>],
    ) -> Option<Box<(Result<(), Why>, bool, Vec<RuleId>, Vec<Want>)>> {
        let applies = |one: &&Relevant<'_>| match one.rule.effect {
            Effect::Permit => one.truth == Truth::True,
            Effect::Forbid | Effect::Approve => one.truth != Truth::False,
        };
        let shadows = rules.iter().filter(|one| one.rule.mode == Mode::Shadow);
        let named: Vec<RuleId> = shadows.filter(applies).map(|one| one.id).collect();
        let mut would = self.concluded(subject, &rules.iter().collect::<Vec<_>>());
        would.wants.retain(|want| match want.source {
            Source::Rule(rule, _) => {
                self.set.rule(rule).mode == Mode::Shadow && !matches!(want.what, NeedOf::Note { .. })
            }
            Source::Rate(_) => false,
        });
        (!named.is_empty()).then(|| Box::new((would.outcome, would.asking.is_some(), named, would.wants)))
    }

    /// Whose a count is, part by part, and of which value.
    fn counted(&self, limit: Option<(RuleId, u16)>, by: &By, value: Option<&Condition>) -> Vec<Part> {
        let facts = self.facts();
        let spelled = |value: &Condition, place: fn(u16, u16) -> Place, part: usize| {
            let part = u16::try_from(part).unwrap_or(u16::MAX);
            let dead = limit.map_or(0, |(rule, limit)| self.dead(rule, place(limit, part)));
            reference::value(value, &facts, dead)
        };
        let who =
            |agent: Option<&str>| format!("{:?} {:?} {agent:?}", self.caller.issuer, self.caller.subject).into_bytes();
        let sure = |text: Vec<u8>| Part { is: Some(text.clone()), within: text };
        let target = || {
            let (kind, name) = match self.question {
                Question::CallTool(name) | Question::List(ListKind::Tools, name) => ("tool", name.to_owned()),
                Question::GetPrompt(name) | Question::CompletePrompt(name) => ("prompt", name.to_owned()),
                Question::List(ListKind::Prompts, name) => ("prompt", name.to_owned()),
                Question::Ask(ask) => ("ask", format!("{ask:?}")),
                Question::Read(uri) | Question::CompleteTemplate(uri) | Question::List(_, uri) => {
                    ("uri", Target::template(uri).map_or(String::new(), |target| target.normal().to_owned()))
                }
            };
            format!("{:?} {kind} {name:?}", facts.server).into_bytes()
        };
        let one = |(at, party): (usize, &Party)| match party {
            Party::Subject => sure(who(None)),
            Party::Agent => {
                let agent = self.caller.agent.as_deref();
                let issuer = format!("{:?}", self.caller.issuer);
                Part { is: agent.map(|agent| format!("{issuer} {agent:?}").into()), within: issuer.into() }
            }
            Party::Task => {
                let named = |task| format!("{} {task:?}", String::from_utf8_lossy(&who(None))).into_bytes();
                Part { is: facts.task.map(named), within: who(None) }
            }
            Party::Session => sure(match self.scene.and_then(|scene| scene.session) {
                Some(session) => [b"session ", &session[..]].concat(),
                None => who(self.caller.agent.as_deref()),
            }),
            Party::Server => sure(facts.server.as_bytes().to_vec()),
            Party::Tool => sure(target()),
            Party::Arg(value) | Party::Claim(value) => Part { is: spelled(value, Place::By, at), within: Vec::new() },
            Party::All => sure(Vec::new()),
            Party::Address => {
                let address = self.scene.and_then(|scene| scene.address);
                Part { is: address.map(|address| address.to_canonical().to_string().into_bytes()), within: Vec::new() }
            }
            Party::Endpoint => sure(self.scene.map_or("", |scene| scene.endpoint).into()),
            Party::Method => sure(self.scene.map_or("", |scene| scene.method).into()),
        };
        let mut parts: Vec<Part> = by.0.iter().enumerate().map(one).collect();
        let counted = |limit, _| Place::Counted(limit);
        parts.extend(value.map(|value| Part { is: spelled(value, counted, 0), within: Vec::new() }));
        parts
    }

    fn subject(&self) -> Result<Subject<'a>, Cause> {
        let Self { catalog, server, .. } = *self;
        let tool = |name| catalog.tool(server, name).map(|_| Meant::Tool(name)).ok_or(Cause::Unknown);
        let prompt = |name| catalog.prompt(server, name).map(|_| Meant::Prompt(name)).ok_or(Cause::Unknown);
        let resource = |uri| Target::resource(uri).map(Meant::Target).ok_or(Cause::NotAUri);
        let template = |uri| Target::template(uri).map(Meant::Target).ok_or(Cause::NotAUri);
        let name = self.servers.get(server.index()).ok_or(Cause::Unknown)?;
        let about = match self.question {
            Question::CallTool(name) | Question::List(ListKind::Tools, name) => tool(name),
            Question::GetPrompt(name) | Question::CompletePrompt(name) | Question::List(ListKind::Prompts, name) => {
                prompt(name)
            }
            Question::Read(uri) | Question::List(ListKind::Resources, uri) => resource(uri),
            Question::CompleteTemplate(uri) | Question::List(ListKind::Templates, uri) => template(uri),
            Question::Ask(ask) => Ok(Meant::Ask(ask)),
        }?;
        Ok(Subject { server: name, about })
    }
}

/// A part of whose a count is.
struct Part {
    /// `None`: cannot be told.
    is: Option<Vec<u8>>,
    /// What is sure of it all the same.
    within: Vec<u8>,
}

/// All parts, where all can be told.
fn settled(parts: &[Part]) -> Option<Vec<Vec<u8>>> {
    parts.iter().map(|part| part.is.clone()).collect()
}

/// What a question is about, as patterns see it.
struct Subject<'a> {
    server: &'a str,
    about: Meant<'a>,
}

enum Meant<'a> {
    Tool(&'a str),
    Prompt(&'a str),
    Target(Target<'a>),
    Ask(Ask),
}

impl Subject<'_> {
    /// Whether a pattern is about it; `strict` where both forms of a URI must match.
    fn is_meant(&self, pattern: &Pattern, strict: bool) -> bool {
        if !pattern.has_server(self.server) {
            return false;
        }
        match (pattern.about(), &self.about) {
            (About::Tool(glob), Meant::Tool(name)) | (About::Prompt(glob), Meant::Prompt(name)) => glob.matches(name),
            (About::Resource(glob), Meant::Target(target)) if strict => target.permitted_by(glob),
            (About::Resource(glob), Meant::Target(target)) => target.forbidden_by(glob),
            (About::Ask(asked), Meant::Ask(ask)) => asked == ask,
            (About::NotTool, Meant::Prompt(_) | Meant::Target(_) | Meant::Ask(_)) => true,
            _ => false,
        }
    }
}
