//! Weighs the rules that are about one thing: which of them apply, and what comes of that. Only what the table could not
//! settle by a bit gets here.

use smallvec::SmallVec;

use super::cond::{Condition, Truth};
use super::decide::Verdict;
use super::keys::Payer;
use super::limit::{Limit, RateOf, What};
use super::needs::{Need, NeedOf, Needs, Note, Source};
use super::remarks::{Asking, Remarks, Shadow, UnknownAt, Why};
use super::rule::{AskWhom, Effect, Mode, Rule};
use super::table::{Bundle, Ids, Named, Place, Says, Table, merge};
use super::uri::Target;
use crate::base::ids::{RuleId, ServerId};
use crate::base::limits::{NEEDS_MAX, RULES_NAMED_MAX, SESSION_LIFETIME_MS_MAX};

use super::classes::{Stand, View};

/// What is asked about, and by whom.
pub(super) struct Case<'a> {
    pub(super) table: &'a Table,
    pub(super) view: View<'a>,
    pub(super) server: ServerId,
    pub(super) about: About<'a>,
    pub(super) payer: Payer<'a>,
    pub(super) takes: Takes,
}

/// What is asked about.
#[derive(Clone, Copy)]
pub(super) enum About<'a> {
    /// A tool, a prompt, or what a server asks.
    Number(usize),
    /// A resource or template.
    Resource(&'a Target<'a>),
}

/// What a yes takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing: it follows a call that took it, or comes before one.
    Nothing,
    /// What limits count: it is no call to a server.
    Limits,
    /// All.
    All,
}

/// A rule, or some, that are about it.
enum Seen<'a> {
    /// They apply wherever their group does.
    Plain(Says, &'a [RuleId]),
    Slow(RuleId),
}

/// Which rules apply, which do not, and of which that is unknown.
#[derive(Default)]
struct Tally {
    permits: Named,
    /// Of the permits, those with scopes or limits.
    bound: SmallVec<[RuleId; 8]>,
    permit_unknown: Option<RuleId>,
    forbids: Named,
    /// The first forbid with a sentence.
    spoken: Option<RuleId>,
    forbids_unknown: Named,
    approves: Named,
    /// The one that asks: a person before anybody else.
    asks: Option<(bool, RuleId)>,
    approves_unknown: Named,
    /// The first permit or approve with a sentence that does not apply.
    unmet: Option<RuleId>,
}

impl<'a> Case<'a> {
    /// Whether it is shown.
    pub(super) fn list(&self) -> (Result<(), Why>, Named) {
        let (mut hides, mut shows) = (Named::new(), Named::new());
        self.each(|seen, stand| match seen {
            Seen::Plain(Says::Permit, rules) if !stand.unknown => merge(&mut shows, rules),
            Seen::Plain(Says::Silent, rules) => merge(&mut hides, rules),
            Seen::Plain(..) => {}
            Seen::Slow(id) => {
                let rule = self.table.set.rule(id);
                let could = |truth| {
                    rule.when.as_ref().map_or(truth == Truth::True, |when| when.could(&self.payer.facts).has(truth))
                };
                let hidden = || rule.reason.is_none() && rule.limits.is_empty() && !could(Truth::False);
                match rule.effect {
                    _ if rule.mode == Mode::Shadow => {}
                    Effect::Forbid if hidden() => merge(&mut hides, &[id]),
                    Effect::Permit | Effect::Approve if !stand.unknown && could(Truth::True) => {
                        merge(&mut shows, &[id])
                    }
                    _ => {}
                }
            }
        });
        if !hides.is_empty() {
            return (Err(Why::Hidden), hides);
        }
        let outcome = if shows.is_empty() { Err(Why::Hidden) } else { Ok(()) };
        (outcome, shows)
    }

    /// Whether it may be done.
    pub(super) fn call(&self) -> Verdict {
        let (mut real, mut shadow, mut unknown) = (Tally::default(), Tally::default(), Unknowns::new());
        self.each(|seen, stand| match seen {
            Seen::Plain(says, rules) => {
                if stand.unknown {
                    rules.iter().for_each(|rule| remark(&mut unknown, *rule, UnknownAt::Who));
                }
                real.add_plain(says, rules, stand.unknown);
            }
            Seen::Slow(id) => {
                let rule = self.table.set.rule(id);
                let truth = match self.truth(id, rule, stand) {
                    Ok(truth) => truth,
                    Err(at) => {
                        if rule.mode == Mode::Enforce {
                            remark(&mut unknown, id, at);
                        }
                        Truth::Unknown
                    }
                };
                if rule.mode == Mode::Shadow { &mut shadow } else { &mut real }.add(id, rule, truth);
            }
        });
        let mut needs = Needs::new();
        let (outcome, rules) = self.seen(self.conclude(&mut real, Mode::Enforce, &mut needs));
        let mut verdict = Verdict { needs, remarks: Remarks { unknown, shadow: None }, ..Verdict::new(outcome, rules) };
        if verdict.outcome.is_err() {
            verdict.needs.clear();
        } else {
            verdict.asking = real.asking(self.table);
            if self.takes == Takes::All {
                self.remember(Mode::Enforce, &mut verdict.needs, &mut verdict.notes);
            }
            if verdict.needs.len() > NEEDS_MAX {
                verdict = Verdict {
                    remarks: verdict.remarks,
                    ..Verdict::new(Err(Why::CountsFull { retry_ms: None }), verdict.rules)
                };
            }
        }
        verdict.remarks.shadow = self.shadow(real, shadow, &mut verdict);
        verdict
    }

    /// What rules in shadow would have changed.
    fn shadow(&self, real: Tally, shadow: Tally, verdict: &mut Verdict) -> Option<Box<Shadow>> {
        if !self.table.has_shadows {
            return None;
        }
        let mut rules = Named::new();
        let kinds =
            [&shadow.permits, &shadow.forbids, &shadow.forbids_unknown, &shadow.approves, &shadow.approves_unknown];
        kinds.into_iter().for_each(|kind| merge(&mut rules, kind));
        let (mut both, mut needs) = (real.and(shadow), Needs::new());
        // A rule in shadow may show what is hidden, so what is seen has no say here.
        let (outcome, _) = self.conclude(&mut both, Mode::Shadow, &mut needs);
        let asks = outcome.is_ok() && both.asks.is_some();
        if outcome.is_err() {
            needs.clear();
        }
        // What was let through is what has happened, whatever these rules would have made of it.
        if verdict.outcome.is_ok() && self.takes == Takes::All {
            self.remember(Mode::Shadow, &mut needs, &mut verdict.notes);
        }
        needs.truncate(NEEDS_MAX);
        (!rules.is_empty() || !needs.is_empty()).then(|| Box::new(Shadow { outcome, rules, asks, needs }))
    }

    /// What is hidden is refused as what does not exist.
    fn seen(&self, (outcome, rules): (Result<(), Why>, Named)) -> (Result<(), Why>, Named) {
        match outcome {
            Ok(()) => (Ok(()), rules),
            Err(why) => match self.list() {
                (Ok(()), _) => (Err(why), rules),
                (Err(hidden), rules) => (Err(hidden), rules),
            },
        }
    }

    /// Forbid, then what all permits that apply ask for, then approve, then permit, then silence. The limits of rules
    /// of this mode are added to `needs`; rates with the enforced ones.
    fn conclude(&self, tally: &mut Tally, mode: Mode, needs: &mut Needs) -> (Result<(), Why>, Named) {
        let reason = |rule: RuleId| self.table.set.rule(rule).reason.clone();
        if let Some(first) = tally.forbids.first() {
            let rule = tally.spoken.unwrap_or(*first);
            return (Err(Why::Forbidden { rule, reason: reason(rule) }), tally.forbids.clone());
        }
        if let Some(&rule) = tally.forbids_unknown.first() {
            return (Err(Why::Unknown { rule, reason: reason(rule) }), tally.forbids_unknown.clone());
        }
        tally.bound.sort_unstable();
        if self.takes != Takes::Nothing {
            for id in &tally.bound {
                if let Err(why) = self.limits(*id, mode, needs) {
                    return (Err(why), Named::from_slice(&[*id]));
                }
            }
        }
        if let Some(&rule) = tally.approves_unknown.first() {
            return (Err(Why::ApprovalUnknown { rule, reason: reason(rule) }), tally.approves_unknown.clone());
        }
        // Another token helps where nothing else is missing.
        if let Some(lacking) = self.scopes(&tally.bound) {
            return lacking;
        }
        let mut rules = tally.permits.clone();
        merge(&mut rules, &tally.approves);
        if !rules.is_empty() {
            if self.takes == Takes::All
                && let Err(why) = self.rates(mode, needs)
            {
                return (Err(why), Named::new());
            }
            return (Ok(()), rules);
        }
        match tally.permit_unknown {
            Some(rule) => (Err(Why::Unknown { rule, reason: reason(rule) }), Named::from_slice(&[rule])),
            None => (Err(Why::Condition { reason: tally.unmet.and_then(reason) }), rules),
        }
    }

    /// The refusal for scopes that the token lacks.
    fn scopes(&self, bound: &[RuleId]) -> Option<(Result<(), Why>, Named)> {
        let held = &self.payer.facts.caller.scopes;
        let lacks = |scope: &str| held.binary_search_by(|one| (**one).cmp(scope)).is_err();
        let scopes = |id: &RuleId| &self.table.set.rule(*id).scopes;
        if bound.iter().all(|id| !scopes(id).iter().any(|scope| lacks(scope))) {
            return None;
        }
        let sorted = |mut list: SmallVec<[Box<str>; 4]>| {
            list.sort_unstable();
            list.dedup();
            list
        };
        let missing = sorted(bound.iter().flat_map(scopes).filter(|scope| lacks(scope)).cloned().collect());
        let needed = sorted(bound.iter().flat_map(scopes).cloned().collect());
        let lacking = bound.iter().filter(|id| scopes(id).iter().any(|scope| lacks(scope)));
        Some((Err(Why::Scopes { missing, needed }), lacking.take(RULES_NAMED_MAX).copied().collect()))
    }

    /// What the limits of a permit need.
    fn limits(&self, id: RuleId, mode: Mode, needs: &mut Needs) -> Result<(), Why> {
        let rule = self.table.set.rule(id);
        for (at, limit) in (0_u16..).zip(&rule.limits) {
            let need = self.need(id, at, limit);
            let need = need.ok_or_else(|| Why::LimitUnknown { rule: id, limit: at, reason: rule.reason.clone() })?;
            if rule.mode == mode {
                needs.push(need);
            }
        }
        Ok(())
    }

    fn need(&self, rule: RuleId, at: u16, limit: &Limit) -> Option<Need> {
        self.payer.scene?;
        let what = match &limit.what {
            What::Calls { max, per_ms } => NeedOf::Calls { max: *max, per_ms: *per_ms },
            What::Sum { of, max, per_ms } => {
                let amount = of.number(&self.payer.facts, self.table.dead(rule, Place::Counted(at)));
                let amount = amount.filter(|amount| !amount.is_negative())?;
                NeedOf::Sum { amount, max: *max, per_ms: *per_ms }
            }
            What::Concurrent { max } => NeedOf::Concurrent { max: *max },
            What::Once { per_ms, .. } => NeedOf::Once { per_ms: *per_ms },
            What::After { within_ms, .. } => NeedOf::After { within_ms: *within_ms },
        };
        let key = self.table.limit_key(rule, at, &self.payer)?;
        Some(Need { key, source: Source::Rule(rule, at), what, lasts_ms: self.lasts(limit) })
    }

    /// A count that belongs to a session ends some time after it.
    fn lasts(&self, limit: &Limit) -> Option<u64> {
        let has_session = self.payer.scene.is_some_and(|scene| scene.session.is_some());
        (has_session && limit.by.0.contains(&super::limit::Party::Session)).then_some(SESSION_LIFETIME_MS_MAX)
    }

    /// What the rates need.
    fn rates(&self, mode: Mode, needs: &mut Needs) -> Result<(), Why> {
        let table = self.table;
        if table.set.rates().is_empty() {
            return Ok(());
        }
        let named = table.rated.about(table, self.server, self.about);
        for place in (0_u16..)
            .zip(table.set.rates())
            .filter(|(place, rate)| rate.on.is_empty() || named.binary_search(&u32::from(*place)).is_ok())
        {
            if let Some(need) = rate_need(table, place.0, &self.payer)?
                && mode == Mode::Enforce
            {
                needs.push(need);
            }
        }
        Ok(())
    }

    /// What later calls may ask for, of rules of this mode.
    fn remember(&self, mode: Mode, needs: &mut Needs, notes: &mut Vec<Note>) {
        let table = self.table;
        if table.watches.is_empty() {
            return;
        }
        for watch in table.watched.about(table, self.server, self.about) {
            let super::table::Watch { rule: id, limit } = table.watches[watch as usize];
            let rule = table.set.rule(id);
            let entry = &rule.limits[usize::from(limit)];
            let What::After { within_ms, .. } = entry.what else { continue };
            if rule.mode != mode {
                continue;
            }
            let keep_ms = within_ms.or_else(|| self.lasts(entry));
            let key = table.limit_key(id, limit, &self.payer);
            if rule.effect == Effect::Permit {
                notes.extend(key.map(|key| Note { key, keep_ms }));
            } else {
                let key = key.unwrap_or_else(|| table.wild_key(id, limit, &self.payer));
                needs.push(Need {
                    key,
                    source: Source::Rule(id, limit),
                    what: NeedOf::Note { keep_ms },
                    lasts_ms: None,
                });
            }
        }
    }

    /// Whether a rule applies whose group does; an error where that is unknown, with what of it.
    fn truth(&self, id: RuleId, rule: &Rule, stand: Stand) -> Result<Truth, UnknownAt> {
        let mut unknown = stand.unknown.then_some(UnknownAt::Who);
        match rule.when.as_deref().map_or(Truth::True, |when| self.holds(when, id)) {
            Truth::True => {}
            Truth::False => return Ok(Truth::False),
            Truth::Unknown => unknown = unknown.or(Some(UnknownAt::When)),
        }
        if rule.effect != Effect::Permit {
            for (at, limit) in (0_u16..).zip(&rule.limits) {
                match self.came_after(id, at, limit) {
                    Truth::True => {}
                    Truth::False => return Ok(Truth::False),
                    Truth::Unknown => unknown = unknown.or(Some(UnknownAt::Limit(at))),
                }
            }
        }
        unknown.map_or(Ok(Truth::True), Err)
    }

    fn holds(&self, when: &Condition, rule: RuleId) -> Truth {
        let facts = &self.payer.facts;
        if self.payer.scene.is_some() || !when.reads_now() {
            return when.truth(facts, self.table.dead(rule, Place::When));
        }
        // What it is at all times; else nobody knows.
        let could = when.could(facts);
        match (could.has(Truth::True), could.has(Truth::False), could.has(Truth::Unknown)) {
            (true, false, false) => Truth::True,
            (false, true, false) => Truth::False,
            _ => Truth::Unknown,
        }
    }

    /// Whether such a call came before, for a forbid or approve. A call whose owner or `same` could not be told may have
    /// been one.
    fn came_after(&self, rule: RuleId, at: u16, limit: &Limit) -> Truth {
        let (Some(scene), What::After { within_ms, .. }) = (self.payer.scene, &limit.what) else {
            return Truth::Unknown;
        };
        let Some(key) = self.table.limit_key(rule, at, &self.payer) else { return Truth::Unknown };
        if scene.past.happened(key, *within_ms) {
            return Truth::True;
        }
        let wild = self.table.wild_key(rule, at, &self.payer);
        if scene.past.happened(wild, *within_ms) { Truth::Unknown } else { Truth::False }
    }

    /// Each rule that is about it and whose group applies; the same one maybe several times.
    fn each(&self, mut look: impl FnMut(Seen<'_>, Stand)) {
        let table = self.table;
        for (at, stand) in self.view.groups() {
            let group = &table.groups[*at as usize];
            match self.about {
                About::Number(number) => {
                    for says in Says::ALL.into_iter().filter(|says| stand.permits || *says != Says::Permit) {
                        let mut named = Named::new();
                        group.names(&table.members, says, number, &mut named);
                        if !named.is_empty() {
                            look(Seen::Plain(says, &named), *stand);
                        }
                    }
                    group.slow(&table.members, number, |bundle| {
                        self.each_slow(bundle, *stand, |effect| stand.permits || effect != Effect::Permit, &mut look);
                    });
                }
                About::Resource(target) => {
                    let mut ids = Ids::new();
                    if stand.permits {
                        group.permits.collect(table, true, self.server, target, &mut ids);
                        for bundle in distinct(&mut ids).iter().map(|id| &group.bundles[*id as usize]) {
                            look(Seen::Plain(Says::Permit, &bundle.plain[Says::Permit.index()]), *stand);
                            self.each_slow(bundle, *stand, |effect| effect == Effect::Permit, &mut look);
                        }
                    }
                    ids.clear();
                    group.refusals.collect(table, false, self.server, target, &mut ids);
                    for bundle in distinct(&mut ids).iter().map(|id| &group.bundles[*id as usize]) {
                        for says in [Says::Silent, Says::Reasoned] {
                            look(Seen::Plain(says, &bundle.plain[says.index()]), *stand);
                        }
                        self.each_slow(bundle, *stand, |effect| effect != Effect::Permit, &mut look);
                    }
                }
            }
        }
    }

    fn each_slow(
        &self,
        bundle: &'a Bundle,
        stand: Stand,
        meant: impl Fn(Effect) -> bool,
        look: &mut impl FnMut(Seen<'_>, Stand),
    ) {
        for id in bundle.slow.iter().filter(|id| meant(self.table.set.rule(**id).effect)) {
            look(Seen::Slow(*id), stand);
        }
    }
}

/// What a rate needs of a call that it may be about by its method and endpoint; nothing where it is not.
pub(super) fn rate_need(table: &Table, place: u16, payer: &Payer<'_>) -> Result<Option<Need>, Why> {
    let rate = &table.set.rates()[usize::from(place)];
    let Some(scene) = payer.scene else { return Ok(None) };
    let has = |list: &[Box<str>], text: &str| list.is_empty() || list.iter().any(|one| **one == *text);
    if !has(&rate.methods, scene.method) || !has(&rate.endpoints, scene.endpoint) {
        return Ok(None);
    }
    let what = match rate.what {
        RateOf::Calls { calls, per_ms, burst } => NeedOf::Bucket { calls, per_ms, burst },
        RateOf::Concurrent(max) => NeedOf::Concurrent { max },
    };
    let key = table.rate_key(place, payer).ok_or(Why::RateUnknown { rate: place })?;
    Ok(Some(Need { key, source: Source::Rate(place), what, lasts_ms: None }))
}

impl super::table::Spots {
    /// The ids of what is about it; sorted, none twice.
    fn about(&self, table: &Table, server: ServerId, about: About<'_>) -> Ids {
        match about {
            About::Number(number) => Ids::from_slice(self.numbers.of(number)),
            About::Resource(target) => {
                let mut ids = Ids::new();
                self.both.collect(table, true, server, target, &mut ids);
                self.either.collect(table, false, server, target, &mut ids);
                distinct(&mut ids);
                ids
            }
        }
    }
}

type Unknowns = Vec<(RuleId, UnknownAt)>;

/// The first ones, in order.
fn remark(unknown: &mut Unknowns, rule: RuleId, at: UnknownAt) {
    if let Err(place) = unknown.binary_search(&(rule, at)) {
        unknown.insert(place, (rule, at));
        unknown.truncate(RULES_NAMED_MAX);
    }
}

fn distinct(ids: &mut Ids) -> &Ids {
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn first(one: &mut Option<RuleId>, rule: RuleId) {
    *one = Some(one.map_or(rule, |one| one.min(rule)));
}

impl Tally {
    fn add_plain(&mut self, says: Says, rules: &[RuleId], unknown: bool) {
        let Some(&least) = rules.first() else { return };
        match (says, unknown) {
            (Says::Permit, true) => first(&mut self.permit_unknown, least),
            (Says::Permit, false) => merge(&mut self.permits, rules),
            (Says::Silent | Says::Reasoned, true) => merge(&mut self.forbids_unknown, rules),
            (Says::Silent | Says::Reasoned, false) => {
                merge(&mut self.forbids, rules);
                if says == Says::Reasoned {
                    first(&mut self.spoken, least);
                }
            }
        }
    }

    fn add(&mut self, id: RuleId, rule: &Rule, truth: Truth) {
        match (rule.effect, truth) {
            (Effect::Forbid, Truth::False) => {}
            (Effect::Permit | Effect::Approve, Truth::False) => {
                if rule.reason.is_some() {
                    first(&mut self.unmet, id);
                }
            }
            (Effect::Forbid, Truth::True) => {
                merge(&mut self.forbids, &[id]);
                if rule.reason.is_some() {
                    first(&mut self.spoken, id);
                }
            }
            (Effect::Forbid, Truth::Unknown) => merge(&mut self.forbids_unknown, &[id]),
            (Effect::Permit, Truth::True) => {
                merge(&mut self.permits, &[id]);
                if !rule.scopes.is_empty() || !rule.limits.is_empty() {
                    self.bound.push(id);
                }
            }
            (Effect::Permit, Truth::Unknown) => first(&mut self.permit_unknown, id),
            (Effect::Approve, Truth::True) => {
                merge(&mut self.approves, &[id]);
                let one = (rule.ask == AskWhom::Elicit, id);
                self.asks = Some(self.asks.map_or(one, |other| other.min(one)));
            }
            (Effect::Approve, Truth::Unknown) => merge(&mut self.approves_unknown, &[id]),
        }
    }

    /// Both together.
    fn and(mut self, other: Self) -> Self {
        merge(&mut self.permits, &other.permits);
        self.bound.extend_from_slice(&other.bound);
        merge(&mut self.forbids, &other.forbids);
        merge(&mut self.forbids_unknown, &other.forbids_unknown);
        merge(&mut self.approves, &other.approves);
        merge(&mut self.approves_unknown, &other.approves_unknown);
        for (one, more) in [
            (&mut self.permit_unknown, other.permit_unknown),
            (&mut self.spoken, other.spoken),
            (&mut self.unmet, other.unmet),
        ] {
            more.into_iter().for_each(|rule| first(one, rule));
        }
        self.asks = self.asks.into_iter().chain(other.asks).min();
        self
    }

    fn asking(&self, table: &Table) -> Option<Asking> {
        let (_, id) = self.asks?;
        let Rule { expires_ms, ask, reason, .. } = table.set.rule(id);
        Some(Asking { rule: id, expires_ms: *expires_ms, ask: *ask, reason: reason.clone() })
    }
}
