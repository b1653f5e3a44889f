//! The decision about one message, and its record: what the pipeline asks between reading a message and sending it.

use serde_json::json;
use smallvec::SmallVec;

use crate::base::ids::{RuleId, ServerId};
use crate::http::field::Known;
use crate::identity::active::{ActiveTask, active_task};
use crate::identity::revoked::Revoked;
use crate::ledger::counts::PastAt;
use crate::mcp::call::{Call, Object, TaskName};
use crate::mcp::optin::{Declared, TASKS_EXTENSION};
use crate::mcp::revision::Era;
use crate::mcp::{catalog, headers};
use crate::policy::decide::{self, Denied, Leave, Permit, Scene};
use crate::record::frame::{Decision, Own, TargetKind, Verdict};
use crate::record::meter::{PERMIT, REASONS};
use crate::record::{RecordFault, Recorded};
use crate::session::tasks;

use super::conn::{Body, Conn};
use super::denial::Against;
use super::flight::{Flight, sentence};
use super::meter;
use super::noted::Noted;
use super::refusal::{Kind, Refusal};
use super::route;
use super::shard::Shard;
use super::traced;

/// A message that is being decided on: the request it came in, its body, and what is known of it.
pub(super) struct Judge<'a> {
    pub(super) shard: &'a Shard,
    pub(super) conn: &'a Conn,
    pub(super) text: &'a [u8],
    pub(super) flight: &'a Flight,
    past: PastAt<'a>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(shard: &'a Shard, conn: &'a Conn, body: &'a Body, flight: &'a Flight) -> Self {
        Self::of(shard, conn, conn.body_bytes(body), flight)
    }

    /// The same, of a body that has been looked up.
    #[inline]
    pub(super) fn of(shard: &'a Shard, conn: &'a Conn, text: &'a [u8], flight: &'a Flight) -> Self {
        let past = shard.control.counts.past(shard.timers.last());
        Self { shard, conn, text, flight, past }
    }

    /// The active task, named by the head, by the message, or by neither.
    pub(super) fn task(&self, call: &Call) -> Result<ActiveTask, Refusal> {
        let head = &self.conn.head;
        let header = head.get(self.conn.bytes(), Known::PortcullisTask);
        let meta = call.meta.task.as_ref().map(|text| text.of(self.text));
        let names = self.flight.snapshot.settings.policy.tasks();
        let doubled = head.count(Known::PortcullisTask) > 1;
        match active_task(&self.flight.caller, header, meta, names) {
            Ok(task) if !doubled => Ok(task),
            // One answer for every cause: which tasks exist is nobody's business.
            _ => Err(self.refused(call, &[], Kind::TaskUnavailable)),
        }
    }

    /// The MCP tasks that a message names, each opened: found to be this caller's, at this server, under this active
    /// task (MCP tasks extension). Of a subscription those that are not stay shut, and are left out by the decision.
    pub(super) fn opened(&self, call: &mut Call) -> Result<(), Refusal> {
        match &call.subject {
            Object::Task(_) => {}
            Object::Listen(listen) if listen.tasks_place.is_some() => {}
            _ => return Ok(()),
        }
        let Flight { snapshot, server, era, .. } = self.flight;
        let offered = snapshot.catalog.server(*server).and_then(|server| server.era(*era));
        // Where nothing is known of the server, the decision says so.
        let Some(offered) = offered else { return Ok(()) };
        let served = catalog::extension(offered, TASKS_EXTENSION);
        self.may_have_tasks(call, served)?;
        let open = |task: &mut TaskName| task.opened = self.open_task(task.text.of(self.text)).filter(|_| served);
        match &mut call.subject {
            Object::Task(task) => open(task),
            Object::Listen(listen) => listen.tasks.iter_mut().for_each(open),
            _ => {}
        }
        Ok(())
    }

    /// Whether this message can be about tasks at all: where they are `served`, to a client that says it knows them.
    pub(super) fn may_have_tasks(&self, call: &Call, served: bool) -> Result<(), Refusal> {
        if !served && matches!(call.subject, Object::Task(_)) {
            return Err(self.refused(call, &[], Kind::MethodUnknown));
        }
        let declared = call.meta.capabilities.map(|span| Declared::read(span.of(self.text)));
        if !declared.unwrap_or_default().has(Declared::TASKS) {
            let needed = json!({ "requiredCapabilities": { "extensions": { TASKS_EXTENSION: {} } } });
            return Err(self.refused(call, &[], Kind::CapabilityMissing).with(needed.to_string()));
        }
        Ok(())
    }

    /// The server's own id of a task, when `handle` is this caller's name for it.
    fn open_task(&self, handle: &str) -> Option<Box<str>> {
        let opened = tasks::open(&self.shard.sealing, handle.as_bytes()).ok()?;
        let (server, active) = marks(self.flight);
        opened.owned_by(&self.flight.caller.owner, server, active).ok()
    }

    /// The decision. It alone hands out permits.
    pub(super) fn decide(&self, call: Box<Call>) -> Result<Permit, Refusal> {
        self.unrevoked(&call)?;
        let Flight { snapshot, caller, task, server, .. } = self.flight;
        if !matches!(call.subject, Object::None) && !snapshot.catalog.known(*server) {
            return Err(self.refused(&call, &[], Kind::CatalogUnknown));
        }
        if matches!(call.subject, Object::Tool(_) | Object::Prompt(_) | Object::CompletePrompt(_))
            && let Some(refusal) = self.flight.unseen()
        {
            self.write(&call, &[], refusal.kind.row().word);
            return Err(refusal);
        }
        let scene = self.scene();
        if let Object::Listen(_) = call.subject {
            let decided = decide::decide_listen(&snapshot.table, caller, *task, *server, call, &scene);
            return decided.map_err(|denied| self.turned_down(&denied, ""));
        }
        // The decision takes the call over, and with it a name that had escapes; one that had none stands in the body.
        let unescaped = call.subject.text().and_then(|name| name.unescaped.clone());
        let written = call.subject.text().map(|name| name.span.of(self.text)).unwrap_or_default();
        let name = match &unescaped {
            Some(name) => name,
            None => std::str::from_utf8(written).expect("the scanner passed UTF-8 only"),
        };
        // What its caller was not shown is as if it were not there.
        let seen = if self.flight.sees_called(&call.subject, name) { name } else { "" };
        let decided = decide::decide(&snapshot.table, caller, *task, *server, call, seen, &scene);
        let item = match &decided {
            Ok(Leave::Go(permit)) => permit.item(),
            Ok(Leave::Held(held)) => held.item(),
            Err(denied) => denied.item,
        };
        self.flight.figures.item.set(item);
        match decided {
            Ok(Leave::Go(permit)) => Ok(self.go(permit)),
            Ok(Leave::Held(held)) => self.hold(held, name),
            Err(denied) => Err(self.turned_down(&denied, name)),
        }
    }

    fn turned_down(&self, denied: &Denied, name: &str) -> Refusal {
        let Denied { call, why, rules, remarks, .. } = denied;
        self.denial(&Against { call, name, why, rules, remarks, broken: None })
    }

    /// What the decision knows of a call beside its arguments.
    pub(super) fn scene(&self) -> Scene<'_> {
        let flight = self.flight;
        Scene {
            body: self.text,
            unix_ms: self.shard.timers.last().unix_ms,
            session: flight.session.as_ref().map(|session| session.nonce16),
            address: Some(self.conn.slot.socket.peer_addr().ip().to_canonical()),
            endpoint: &flight.snapshot.settings.endpoints[flight.endpoint.index()].path,
            method: flight.method.map_or("", |method| method.wire),
            past: &self.past,
        }
    }

    /// Whether this caller may still do anything, as of this moment: asked where nothing is waited for any more.
    ///
    /// # Errors
    /// For a caller as for a bad token, for a task as for one that it does not hold.
    pub(super) fn unrevoked(&self, call: &Call) -> Result<(), Refusal> {
        match self.flight.revoked(self.shard) {
            None => Ok(()),
            Some(Revoked::Task) => Err(self.refused(call, &[], Kind::TaskUnavailable)),
            Some(Revoked::Caller) => {
                let endpoint = &self.flight.snapshot.prepared.endpoints[self.flight.endpoint.index()];
                Err(self.refused(call, &[], Kind::Revoked).challenging(&endpoint.challenge_invalid))
            }
        }
    }

    /// A call to a server that is not known yet, recorded.
    pub(super) fn unreached(&self, call: &Call, server: ServerId) -> Refusal {
        self.write(call, &[], Kind::CatalogUnknown.row().word);
        route::unreached(self.flight, server).recorded()
    }

    /// `Mcp-Param-…` headers agree with the arguments (MCP 2026-07-28 basic/transports/streamable-http). Asked after
    /// the decision, so that nobody learns a hidden tool's headers.
    pub(super) fn params_agree(&self, permit: &Permit) -> Result<(), Refusal> {
        let call = permit.call();
        let (Era::Modern, Object::Tool(name)) = (call.era, &call.subject) else { return Ok(()) };
        if !permit.item().is_none_or(|item| self.flight.snapshot.catalog.may_have_params(item)) {
            return Ok(());
        }
        let item = self.flight.snapshot.catalog.tool_item(self.flight.server, Era::Modern, name.of(self.text));
        let Some(item) = item.filter(|item| !item.params.is_empty()) else { return Ok(()) };
        let arguments = call.arguments.map(|span| span.of(self.text));
        headers::check_params(&item.params, self.conn.head.params(self.conn.bytes()), arguments).map_err(|fault| {
            self.refused(call, permit.rules(), Kind::HeaderMismatch).saying(sentence(&fault.to_string()))
        })
    }

    /// The record of a permit, in place before the call leaves.
    pub(super) fn record(&self, permit: Permit) -> Result<Recorded, Refusal> {
        let permit = match Recorded::unjudged(permit) {
            Ok(unjudged) => return Ok(unjudged),
            Err(permit) => permit,
        };
        let mut noted = Noted::new(self.shard, self.flight, permit.call(), self.text);
        if !permit.remarks().is_empty() {
            noted.remark(permit.remarks(), target(permit.call(), self.text).0);
        }
        if let Some(stakes) = &*self.flight.stakes.borrow() {
            noted.stakes(stakes);
            if let (Some(shadow), Some(shadowed)) = (&permit.remarks().shadow, &stakes.shadow) {
                noted.shadow(&shadow.rules, shadowed.verdict, shadowed.reason);
            }
        }
        let Noted { detail, arguments, .. } = noted;
        let own = Own {
            unix_ms: self.shard.timers.last().unix_ms,
            trace: self.trace(permit.call()),
            arguments,
            detail: detail.bytes(),
            cut: detail.is_cut(),
        };
        let mut alikes = self.shard.alikes.borrow_mut();
        let (target, kind) = target(permit.call(), self.text);
        let alike = alikes.of(self.flight, permit.item(), (target, kind), permit.rules(), |alike| {
            let (verdict, reason, rules) = (Verdict::Permit, REASONS[PERMIT], &*self.names(permit.rules()));
            self.shard.record.keep(alike, &Decision { target, kind, verdict, reason, rules, ..self.about() });
        });
        let recorded = self.shard.record.decided(permit, &own, alike).map_err(|RecordFault::Full| Kind::RecordFull);
        match &recorded {
            Ok(recorded) => {
                meter::permitted(self.shard, self.flight);
                if self.flight.trace.is_some() {
                    let rules = self.names(recorded.permit().rules());
                    traced::decided(self.shard, self.flight, Verdict::Permit, REASONS[PERMIT], &rules, recorded.seq());
                }
            }
            Err(kind) => meter::denied(self.shard, self.flight, kind.row().word),
        }
        recorded.map_err(Refusal::from)
    }

    /// A refusal with its record.
    pub(super) fn refused(&self, call: &Call, rules: &[RuleId], kind: Kind) -> Refusal {
        self.write(call, rules, kind.row().word);
        Refusal::from(kind).recorded()
    }

    pub(super) fn write(&self, call: &Call, rules: &[RuleId], reason: &str) {
        let noted = Noted::new(self.shard, self.flight, call, self.text);
        self.write_noted(&noted, rules, reason, Verdict::Refuse);
    }

    /// Writes down a decision that lets nothing go.
    pub(super) fn write_noted(&self, noted: &Noted<'_>, rules: &[RuleId], reason: &str, verdict: Verdict) {
        meter::denied(self.shard, self.flight, reason);
        let (target, kind) = target(noted.call, self.text);
        let rules = self.names(rules);
        let trace = self.trace(noted.call);
        let about = Decision { target, kind, rules: &rules, trace, arguments: noted.arguments, ..self.about() };
        let detail = &noted.detail;
        let decision = Decision { verdict, reason, detail: detail.bytes(), cut: detail.is_cut(), ..about };
        // A refusal that finds no room still refuses.
        let seq = self.shard.record.refused(&decision).ok();
        traced::decided(self.shard, self.flight, verdict, reason, &rules, seq);
    }

    /// What all decisions about this request have in common.
    fn about(&self) -> Decision<'a> {
        let flight = self.flight;
        let settings = &flight.snapshot.settings;
        Decision {
            unix_ms: self.shard.timers.last().unix_ms,
            issuer: &flight.caller.issuer,
            subject: &flight.caller.subject,
            agent: flight.caller.agent.as_deref().unwrap_or_default(),
            task: match flight.task {
                ActiveTask::One(task) => settings.policy.tasks().name(task),
                ActiveTask::None | ActiveTask::Several => "",
            },
            method: flight.method.map_or("response", |method| method.wire),
            server: flight.server_name(),
            policy: flight.snapshot.prepared.policy,
            protocol: flight.revision.as_str(),
            ..Decision::default()
        }
    }

    fn names(&self, rules: &[RuleId]) -> SmallVec<[&'a str; 8]> {
        rules.iter().map(|rule| &*self.flight.snapshot.settings.policy.rule(*rule).id).collect()
    }

    /// The id of the trace that it is recorded in; else that of the caller's context: of the message before that of the hop (OpenTelemetry's MCP conventions).
    fn trace(&self, call: &Call) -> [u8; 16] {
        if let Some(recorded) = traced::trace_id(self.flight) {
            return recorded;
        }
        let context = match call.meta.traceparent {
            Some(span) => span.of(self.text),
            None => self.conn.head.get(self.conn.bytes(), Known::Traceparent).unwrap_or_default(),
        };
        context.get(3..35).and_then(trace_id).unwrap_or_default()
    }
}

/// What ties a task to its server and to the active task of the call that made it.
pub(super) fn marks(flight: &Flight) -> (u64, u64) {
    let settings = &flight.snapshot.settings;
    let server = tasks::server_mark(&settings.servers[flight.server.index()].name);
    (server, tasks::active_mark(flight.task, settings.policy.tasks()))
}

fn target<'a>(call: &'a Call, text: &'a [u8]) -> (&'a str, TargetKind) {
    let name = call.subject.text().map(|name| name.of(text)).unwrap_or_default();
    let kind = match &call.subject {
        Object::Tool(_) => TargetKind::Tool,
        Object::Prompt(_) | Object::CompletePrompt(_) => TargetKind::Prompt,
        Object::Resource(_) | Object::CompleteResource(_) => TargetKind::Resource,
        Object::Listen(_) | Object::Task(_) | Object::None => TargetKind::None,
    };
    (name, kind)
}

/// 32 hexadecimal digits as 16 bytes.
fn trace_id(digits: &[u8]) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids() {
        let check = |digits: &str, want: Option<u8>| {
            assert_eq!(trace_id(digits.as_bytes()).map(|id| id[0]), want, "{digits}");
        };
        check("4bf92f3577b34da6a3ce929d0e0e4736", Some(0x4b));
        check("4bf92f3577b34da6a3ce929d0e0e473g", None);
    }
}
