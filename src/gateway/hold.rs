//! Between leave and permit: places in counts and rates, all or none, and somebody's yes where a rule asks for one.

use crate::base::ids::{RuleId, ServerId};
use crate::base::limits::QUESTION_REST_BYTES_MAX;
use crate::identity::active::ActiveTask;
use crate::ledger::counts::Broken;
use crate::mcp::call::{Call, Object};
use crate::mcp::catalog::{Item, ListKind};
use crate::mcp::pin;
use crate::mcp::revision::Era;
use crate::policy::approval::{About, ApprovalId, ApprovalKey, Asked, Granted, Stand, Terms};
use crate::policy::cond::Value;
use crate::policy::decide::{self, Held, Permit};
use crate::policy::needs::{Need, Needs, Source};
use crate::policy::remarks::{Asking, Remarks, Why};
use crate::policy::rule::AskWhom;
use crate::record::frame::Verdict;

use super::denial::Against;
use super::judge::Judge;
use super::noted::Noted;
use super::question::{Elicited, Request};
use super::refusal::{Kind, Refusal};
use super::stakes::{self, Shadowed, Stakes};
use super::words::{self, Said, Wanted, What};

impl Judge<'_> {
    /// A permit that needs nothing more, with what it has at stake all the same.
    pub(super) fn go(&self, mut permit: Permit) -> Permit {
        let shadow = permit.remarks().shadow.as_deref();
        if shadow.is_none() && permit.has_no_stakes() {
            return permit;
        }
        let shadow = shadow.map(|shadow| Shadowed::of(self.shard, shadow));
        self.flight.stake(Stakes::new(permit.take_stakes(), shadow));
        permit
    }

    /// The permit of a call that is held: once all it needs is reserved, and somebody has said yes where somebody must.
    pub(super) fn hold(&self, held: Box<Held>, name: &str) -> Result<Permit, Refusal> {
        let taken = match stakes::reserve(self.shard, held.needs()) {
            Ok(taken) => taken,
            Err(broken) => {
                let why = self.broken(held.needs(), &broken);
                return Err(self.denied(held, why, name, Some(&broken)));
            }
        };
        let approval = match held.asking() {
            None => None,
            Some(asking) => match self.ask(held.call(), asking, name) {
                Ok(granted) => Some(granted),
                Err(stand) => {
                    self.shard.control.counts.withdraw(&taken, self.shard.timers.now());
                    self.shard.control.counts.ended(&taken);
                    return Err(self.unapproved(&held, stand, name));
                }
            },
        };
        match held.granted(taken, approval) {
            Ok(permit) => Ok(self.go(permit)),
            // It was reserved for exactly these, so this does not happen; and if it did, nothing goes.
            Err(held) => Err(self.denied(held, Why::CountsFull { retry_ms: None }, name, None)),
        }
    }

    #[expect(clippy::boxed_local, reason = "it is a box where it comes from")]
    fn denied(&self, held: Box<Held>, why: Why, name: &str, broken: Option<&Broken>) -> Refusal {
        let denied = held.into_denied(why);
        let rule: [RuleId; 1];
        let rules = match denied.why {
            Why::Limit { need, .. } => match need.source {
                Source::Rule(exhausted, _) => {
                    rule = [exhausted];
                    &rule[..]
                }
                Source::Rate(_) => &denied.rules,
            },
            _ => &denied.rules,
        };
        let (call, why, remarks) = (&denied.call, &denied.why, &denied.remarks);
        self.denial(&Against { call, name, why, rules, remarks, broken })
    }

    /// Why there is no reservation.
    fn broken(&self, needs: &[Need], broken: &Broken) -> Why {
        let retry_ms = broken.retry_ms;
        match needs.get(broken.place).filter(|_| !broken.full) {
            None => Why::CountsFull { retry_ms },
            Some(need) => match need.source {
                Source::Rule(rule, _) => {
                    let reason = self.flight.snapshot.settings.policy.rule(rule).reason.clone();
                    Why::Limit { need: *need, retry_ms, reason }
                }
                Source::Rate(_) => Why::Rate { need: *need, retry_ms },
            },
        }
    }

    /// What rates need of a message that no rule is about, reserved. `server`: where it goes, if that is one.
    ///
    /// # Errors
    /// A rate is used up, or cannot be told.
    pub(super) fn rates(&self, call: &Call, server: Option<ServerId>) -> Result<(), Refusal> {
        let flight = self.flight;
        let scene = self.scene();
        let needs = decide::rates(&flight.snapshot.table, &flight.caller, flight.task, server, &scene);
        let refused = |why: Why, broken| {
            let (remarks, rules) = (&Remarks::default(), &[][..]);
            Err(self.denial(&Against { call, name: "", why: &why, rules, remarks, broken }))
        };
        let needs: Needs = match needs {
            Ok(needs) if needs.is_empty() => return Ok(()),
            Ok(needs) => needs,
            Err(why) => return refused(why, None),
        };
        match stakes::reserve(self.shard, &needs) {
            Ok(taken) => {
                flight.stake(Stakes::of_rates(taken));
                Ok(())
            }
            Err(broken) => refused(self.broken(&needs, &broken), Some(&broken)),
        }
    }

    /// Asks whether this call may go: for now, or once.
    fn ask(&self, call: &Call, asking: &Asking, name: &str) -> Result<Granted, Unapproved> {
        let (flight, set) = (self.flight, &self.flight.snapshot.settings.policy);
        let elicits = asking.ask == AskWhom::Elicit;
        if let Some(why) = elicits.then(|| self.unaskable(call)).flatten() {
            return Err(Unapproved::Unasked(why));
        }
        let definition = self.definition(call, name);
        let (server, method) = (flight.server_name(), flight.method.map_or("", |method| method.wire));
        let asked = Asked {
            principal: flight.caller.principal,
            task: flight.task,
            tasks: set.tasks(),
            server,
            method,
            name,
            definition: definition.as_ref().map(pin::Pin::bytes),
            whom: asking.ask,
        };
        let written = call.arguments.map(|span| span.of(self.text));
        let arguments = Value::read(written.unwrap_or(b"{}"));
        let key = ApprovalKey::of(&asked, |feed| arguments.iter().for_each(|arguments| arguments.feed(feed)));
        let about = About {
            issuer: &flight.caller.issuer,
            subject: &flight.caller.subject,
            agent: flight.caller.agent.as_deref(),
            task: match flight.task {
                ActiveTask::One(task) => Some(set.tasks().name(task)),
                ActiveTask::None | ActiveTask::Several => None,
            },
            server,
            method,
            name,
            definition: asked.definition,
            rule: &set.rule(asking.rule).id,
            reason: asking.reason.as_deref(),
            arguments: written.unwrap_or_default(),
        };
        if elicits {
            return self.elicit(call, asking, &key, &about, name);
        }
        let terms = Terms { expires_ms: asking.expires_ms, whom: asking.ask };
        let now = self.shard.timers.now();
        match self.shard.control.approvals.ask(&key, flight.caller.principal, terms, &about, now) {
            Stand::Granted(granted) => Ok(granted),
            stand => Err(Unapproved::Stands(stand)),
        }
    }

    /// Asks the agent's own user, through its client.
    fn elicit(
        &self,
        call: &Call,
        asking: &Asking,
        key: &ApprovalKey,
        about: &About<'_>,
        name: &str,
    ) -> Result<Granted, Unapproved> {
        let rest = self.rest(call);
        if rest.len() > QUESTION_REST_BYTES_MAX {
            return Err(Unapproved::Unasked("what it brings back to its server is more than can be kept meanwhile"));
        }
        let About { method, server, reason, arguments, .. } = *about;
        let wanted = Wanted { method, name: self.exposed(name), server, reason, arguments };
        let message = words::question(wanted);
        let message = message.ok_or(Unapproved::Unasked("its arguments are more than its user can look through"))?;
        self.heed(key);
        let terms = Terms { expires_ms: asking.expires_ms, whom: AskWhom::Elicit };
        let now = self.shard.timers.now();
        let stand = self.shard.control.approvals.ask(key, self.flight.caller.principal, terms, about, now);
        let (approval, until_unix_ms) = match stand {
            Stand::Granted(granted) => return Ok(granted),
            Stand::Pending { id, until_unix_ms, .. } => (id, until_unix_ms),
            stand => return Err(Unapproved::Stands(stand)),
        };
        if call.era == Era::Legacy {
            let question = match self.request(approval, until_unix_ms, &message) {
                Request::New(question) => Some(question),
                Request::Known => None,
                Request::Full => return Err(Unapproved::Unasked("too many questions to its user have no answer yet")),
            };
            return Err(Unapproved::Requested { id: approval, until_unix_ms, question });
        }
        let question = self.question(Elicited { approval, key, until_unix_ms, message: &message, reason, rest });
        let question = question.ok_or(Unapproved::Unasked("the gateway cannot seal a question to its user"))?;
        Err(Unapproved::Elicited { id: approval, question })
    }

    /// The pin of what is called, as this caller sees it.
    fn definition(&self, call: &Call, name: &str) -> Option<pin::Pin> {
        let (catalog, server) = (&self.flight.snapshot.catalog, self.flight.server);
        let pinned = |kind, item: Option<&Item>| item.and_then(|item| pin::pin(kind, &item.raw));
        match &call.subject {
            Object::Tool(_) => pinned(ListKind::Tools, catalog.tool_item(server, self.flight.era, name)),
            Object::Prompt(_) => pinned(ListKind::Prompts, catalog.prompt_item(server, self.flight.era, name)),
            _ => None,
        }
    }

    /// The answer to a call that nobody has said yes to, recorded.
    fn unapproved(&self, held: &Held, unapproved: Unapproved, name: &str) -> Refusal {
        let Some(asking) = held.asking() else { return Kind::ApprovalUnasked.into() };
        let now_ms = self.shard.timers.last().unix_ms;
        let mut noted = Noted::new(self.shard, self.flight, held.call(), self.text);
        noted.remark(held.remarks(), name);
        if let Some(shadow) = &held.remarks().shadow {
            // It will be repeated.
            let shadowed = Shadowed::seen(self.shard, shadow);
            noted.shadow(&shadow.rules, shadowed.verdict, shadowed.reason);
        }
        let reason = asking.reason.as_deref();
        let what = What { name: self.exposed(name), reason };
        let left = |until: u64| until.saturating_sub(now_ms);
        let mut retry_ms = None;
        let mut id = None;
        let (kind, sentence) = match &unapproved {
            Unapproved::Stands(Stand::Pending { id: pending, until_unix_ms, .. }) => {
                let pending = id.insert(pending.to_string());
                noted.detail.approval(pending, "");
                (Kind::ApprovalPending, words::sentence(&Said::Pending(Some(pending), left(*until_unix_ms)), what))
            }
            Unapproved::Requested { id: pending, until_unix_ms, .. } => {
                let pending = id.insert(pending.to_string());
                noted.detail.approval(pending, "");
                (Kind::ApprovalPending, words::sentence(&Said::Elicited(pending, left(*until_unix_ms)), what))
            }
            Unapproved::Elicited { id: pending, .. } => {
                noted.detail.approval(&pending.to_string(), "");
                (Kind::ApprovalPending, String::new())
            }
            Unapproved::Stands(Stand::Denied { id: denied, until_unix_ms, by, .. }) => {
                let denied = id.insert(denied.to_string());
                noted.detail.approval(denied, by);
                retry_ms = Some(left(*until_unix_ms));
                (Kind::ApprovalDenied, words::sentence(&Said::Denied(Some(denied), left(*until_unix_ms)), what))
            }
            Unapproved::Stands(Stand::TooLarge) => {
                let said = Said::Unasked("it is more than a person can be shown");
                (Kind::ApprovalUnasked, words::sentence(&said, what))
            }
            Unapproved::Unasked(why) => (Kind::ApprovalUnasked, words::sentence(&Said::Unasked(why), what)),
            Unapproved::Stands(Stand::Unkept) => (Kind::RecordFull, UNKEPT.to_owned()),
            Unapproved::Stands(Stand::Full | Stand::Granted(_)) => {
                (Kind::ApprovalsFull, Kind::ApprovalsFull.row().message.to_owned())
            }
        };
        let verdict = if kind == Kind::ApprovalPending { Verdict::Pending } else { Verdict::Refuse };
        self.write_noted(&noted, &[asking.rule], kind.row().word, verdict);
        let ahead = match unapproved {
            Unapproved::Elicited { question, .. } => {
                let mut refusal = Refusal::from(kind).with(question).recorded();
                refusal.input_required = true;
                return refusal;
            }
            Unapproved::Requested { question, .. } => question,
            Unapproved::Unasked(_) | Unapproved::Stands(_) => None,
        };
        let word = match kind {
            Kind::ApprovalDenied => "denied",
            Kind::ApprovalUnasked => "unasked",
            _ => "approval",
        };
        let detail = words::detail(word, reason, retry_ms, id.as_deref());
        let mut refusal = Refusal::from(kind).saying(sentence);
        refusal.ahead = ahead;
        self.visible(held.call(), refusal, detail).recorded()
    }
}

/// Why a call that somebody must say yes to does not go.
enum Unapproved {
    /// Nobody can be asked.
    Unasked(&'static str),
    /// The agent's own user is asked, with this result.
    Elicited { id: ApprovalId, question: String },
    /// The same in the legacy era, with this request in front of a refusal; `None` where that was sent before.
    Requested { id: ApprovalId, until_unix_ms: u64, question: Option<Box<str>> },
    /// As the book says.
    Stands(Stand),
}

const UNKEPT: &str = "The gateway cannot write down that this has to be approved, so it lets it not go; try again.";
