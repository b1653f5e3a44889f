//! What a request carries on its way, and how it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::base::ids::{EndpointId, ServerId, ShardId};
use crate::base::span::Span;
use crate::base::time::{Moment, Now};
use crate::identity::active::ActiveTask;
use crate::identity::caller::{Caller, Owner};
use crate::identity::revoked::Revoked;
use crate::jsonrpc::scan::Shape;
use crate::mcp::catalog::EraCatalog;
use crate::mcp::merge::Merged;
use crate::mcp::method as methods;
use crate::mcp::revision::{Era, Revision};
use crate::record::Seq;
use crate::record::frame::{Outcome, Status};
use crate::session::ledger::Upstream;
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::Lane;
use crate::upstream::shown::Shown;

use super::gate;
use super::live::Who;
use super::meter::{self, Figures};
use super::modern::Opted;
use super::question::Reply;
use super::refusal::{Kind, Refusal};
use super::sessions::{self, Change, Live};
use super::shard::{Held, Shard};
use super::shown::Lack;
use super::stakes::{Came, Stakes};
use super::tally::Count;
use super::tap::Tap;
use super::traced::{self, Traced};
use super::view::View;

/// A request's id as JSON text.
pub(super) type IdBytes = SmallVec<[u8; 32]>;

/// What a request carries on its way, from the decision on: one snapshot, one caller, one task.
pub(super) struct Flight {
    pub(super) snapshot: Rc<Held>,
    pub(super) caller: Rc<Caller>,
    /// Whose share it is counted in: as who its caller was known when it began.
    pub(super) payer: Owner,
    pub(super) task: ActiveTask,
    pub(super) endpoint: EndpointId,
    /// Where it goes; means nothing while it is [`Whose::Nobody`]'s.
    pub(super) server: ServerId,
    /// What of its endpoint it is for.
    pub(super) whose: Whose,
    pub(super) era: Era,
    pub(super) revision: Revision,
    pub(super) id: Option<IdBytes>,
    pub(super) method: Option<&'static methods::Method>,
    pub(super) session: Option<Rc<Live>>,
    /// What the request lets its server send; modern only.
    pub(super) opted: Opted,
    /// What its client's user says to the gateway's own question.
    pub(super) answer: Option<Box<Reply>>,
    /// Which of its server's sessions it went to, as the ledger counts; 0 for none.
    pub(super) epoch: u32,
    /// What was due for it at its server when it went there.
    pub(super) shown: Option<Rc<Shown>>,
    /// What its caller was shown by servers that know their callers.
    pub(super) views: SmallVec<[(ServerId, Arc<View>); 1]>,
    /// Why what one of them shows it is not known.
    pub(super) unseen: Option<Box<(ServerId, Lack)>>,
    /// The instance that it went to last, by its digest; 0 before it went anywhere.
    pub(super) instance: u64,
    /// It has one of its server's seats.
    pub(super) seated: Cell<bool>,
    /// Of an `initialize`: what the client says of itself.
    pub(super) profile: Option<Box<[u8]>>,
    /// What it changes in its server's session, if that accepts it.
    pub(super) change: Cell<Option<Box<Change>>>,
    /// Its server has answered it with a result.
    pub(super) succeeded: Cell<bool>,
    /// And that is what was asked for: no tool's own error, and no question back.
    pub(super) did: Cell<bool>,
    /// Something of it may have been written to a server.
    pub(super) written: Cell<bool>,
    /// What it has at stake.
    pub(super) stakes: RefCell<Option<Box<Stakes>>>,
    /// Its request's place among those of its session that are under way.
    pub(super) in_flight: Cell<Option<u64>>,
    /// Who its caller is under other settings that have come since.
    pub(super) heir: RefCell<Option<Rc<Who>>>,
    /// What it has of its subject's share.
    pub(super) taken: Cell<Taken>,
    /// What is counted of it.
    pub(super) figures: Figures,
    pub(super) began: Now,
    /// When it went to the server.
    pub(super) sent: Moment,
    /// When the head of the server's answer was there.
    pub(super) answered: Moment,
    pub(super) request_bytes: usize,
    /// Number of its decision; `None` for what needs no rule.
    pub(super) seq: Option<Seq>,
    /// The turn of the snapshot by which nothing of its caller was revoked, nor this task.
    pub(super) cleared: Cell<Option<(u64, ActiveTask)>>,
    /// Its spans, where it is recorded.
    pub(super) trace: Traced,
}

/// Whom a message is for, on an endpoint that may have several servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The endpoint's one server, which is all there is to it.
    Alone,
    /// No server of a merged endpoint: it is answered here, or not known yet to be for one.
    Nobody,
    /// One of a merged endpoint's; the change is there where that server has another name for what is asked for.
    One(Option<Box<Renamed>>),
}

/// A name or URI that its server has another one for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Renamed {
    /// Where in the body it stands, between the quotes.
    pub(super) place: Span,
    /// As the client knows it.
    pub(super) exposed: Box<str>,
    /// As its server does.
    pub(super) sent: Box<str>,
}

impl Flight {
    /// Whether its endpoint is a merged one.
    pub(super) fn is_merged(&self) -> bool {
        self.whose != Whose::Alone
    }

    /// What its endpoint makes of its servers.
    pub(super) fn merged(&self) -> &Merged {
        &self.snapshot.merged[self.endpoint.index()]
    }

    /// Who its caller is under these settings; `None` where only its token could tell.
    pub(super) fn who(&self, current: &Held) -> Option<(Rc<Caller>, ActiveTask)> {
        if current.auth_epoch == self.snapshot.auth_epoch {
            return Some((self.caller.clone(), self.task));
        }
        let mut heir = self.heir.borrow_mut();
        let endpoint = self.snapshot.prepared.endpoints[self.endpoint.index()].digest;
        let before = heir.take().unwrap_or_else(|| Rc::new(Who::of(self)));
        let now = before.carried(current, endpoint);
        // Who could not be told once cannot be told later.
        *heir = Some(now.clone().unwrap_or(before));
        now.map(|who| (who.caller.clone(), who.task))
    }

    /// What of its caller and its task is revoked, as of this moment. The numbers are its own, the names everybody's.
    /// Asked several times on the way of one call: while the snapshot and what is asked about are the same, the lists
    /// say the same, and only its issuer's word is looked at again.
    pub(super) fn revoked(&self, shard: &Shard) -> Option<Revoked> {
        let cleared = Some((shard.turn(), self.task));
        if self.cleared.get() != cleared {
            let revoked = self.listed(shard);
            self.cleared.set(cleared.filter(|_| revoked.is_none()));
            return revoked;
        }
        let ended = self.caller.liveness.as_ref().is_some_and(|token| token.has_ended());
        ended.then_some(Revoked::Caller)
    }

    fn listed(&self, shard: &Shard) -> Option<Revoked> {
        let newest = shard.snapshot();
        if self.is_ended_by_issuer(&newest) {
            return Some(Revoked::Caller);
        }
        if newest.revocations.is_empty() {
            return None;
        }
        let task = match self.task {
            ActiveTask::One(task) => Some(self.snapshot.settings.policy.tasks().name(task)),
            ActiveTask::None | ActiveTask::Several => None,
        };
        newest.revocations.hits(&self.caller, task)
    }

    /// The same of what has begun, under other settings that have come since too.
    pub(super) fn is_revoked(&self, shard: &Shard) -> bool {
        let snapshot = shard.snapshot();
        let by_operator = || {
            // Who cannot be told any more has still the names it came with.
            let same = || (self.caller.clone(), ActiveTask::None);
            let (caller, task) = self.who(&snapshot).unwrap_or_else(same);
            gate::revoked(&snapshot, &caller, task).is_some()
        };
        self.is_ended_by_issuer(&snapshot) || !snapshot.revocations.is_empty() && by_operator()
    }

    /// Whether the key that its caller's token was verified with, and what its issuer said of it, still hold.
    pub(super) fn stands(&self, shard: &Shard) -> bool {
        let (newest, now) = (shard.snapshot(), shard.timers.last().mono);
        let believed = || self.caller.liveness.as_ref().is_none_or(|token| token.is_alive(now));
        if newest.keys_epoch == self.snapshot.keys_epoch { believed() } else { newest.stands(&self.caller, now) }
    }

    /// Whether its caller's issuer has said so, or has withdrawn the key that its token was signed with.
    fn is_ended_by_issuer(&self, newest: &Held) -> bool {
        self.caller.liveness.as_ref().is_some_and(|token| token.has_ended())
            || newest.keys_epoch != self.snapshot.keys_epoch && newest.has_withdrawn_key_of(&self.caller)
    }

    /// Whether it may be written to a server: not by whom was revoked since it was decided on.
    ///
    /// # Errors
    /// What it is answered with then; recorded.
    pub(super) fn may_go(&self, shard: &Shard) -> Result<(), Refusal> {
        let Some(revoked) = self.revoked(shard) else { return Ok(()) };
        let refusal = match revoked {
            Revoked::Task => Refusal::from(Kind::TaskUnavailable),
            Revoked::Caller => {
                let endpoint = &self.snapshot.prepared.endpoints[self.endpoint.index()];
                Refusal::from(Kind::Revoked).challenging(&endpoint.challenge_invalid)
            }
        };
        let code = refusal.kind.row().code;
        traced::withdrawn(self);
        end(shard, self, Ended { code, ..Ended::of(Status::Unreachable, refusal.status()) });
        Err(refusal.recorded())
    }

    /// What is called otherwise by its server.
    pub(super) fn renamed(&self) -> Option<&Renamed> {
        match &self.whose {
            Whose::One(renamed) => renamed.as_deref(),
            Whose::Alone | Whose::Nobody => None,
        }
    }

    /// It goes to its server now, in this session of that. Whoever takes it back from another shard asks for both.
    pub(super) fn goes_to(&mut self, shard: &Shard, upstream: Option<&Upstream>) {
        self.epoch = upstream.map_or(0, |upstream| upstream.epoch);
        if let (Some(key), Some(upstream), true) = (self.in_flight.get(), upstream, self.is_merged()) {
            shard.load.goes_to(key, upstream.server, upstream.epoch);
        }
    }

    /// The name of its server; empty while it has none.
    pub(super) fn server_name(&self) -> &str {
        match self.whose {
            Whose::Nobody => "",
            Whose::Alone | Whose::One(_) => &self.snapshot.settings.servers[self.server.index()].name,
        }
    }

    /// The last of its answer is about to leave: what it changed is known, and its id and its place among its subject's
    /// calls may be had again from then on.
    pub(super) fn answer_leaves(&self, shard: &Shard) {
        self.figures.left.set(true);
        self.settle(shard);
        if let (Some(live), Some(change), true) = (&self.session, self.change.take(), self.succeeded.get()) {
            sessions::keep(shard, live, &change);
        }
        if let Some(key) = self.in_flight.take() {
            shard.load.id_ended(key);
        }
        if self.seated.replace(false) {
            self.snapshot.states[self.server.index()].seats.give_back();
        }
        if self.taken.get() == Taken::Call {
            self.taken.set(Taken::Nothing);
            shard.load.called(self.payer);
        }
    }

    /// What it has at stake from now on.
    pub(super) fn stake(&self, stakes: Stakes) {
        let before = self.stakes.replace(Some(Box::new(stakes)));
        debug_assert!(before.is_none(), "a message is decided on once");
    }

    /// It is served elsewhere.
    pub(super) fn withdraw(&self, shard: &Shard) {
        if let Some(stakes) = self.stakes.take() {
            stakes.settle(shard, Came::Nowhere);
        }
    }

    /// What it has at stake goes where it belongs.
    fn settle(&self, shard: &Shard) {
        let Some(stakes) = self.stakes.take() else { return };
        let came = match (self.written.get(), self.did.get()) {
            (true, true) => Came::Back,
            (true, false) => Came::ToServer,
            // What is answered here was answered.
            (false, _) if stakes.rates_alone => Came::ToServer,
            (false, _) if self.seq.is_some() => Came::ToNobody,
            (false, _) => Came::Nowhere,
        };
        stakes.settle(shard, came);
    }

    /// What a server offers in its era; `None` where that is nothing, or not known yet.
    pub(super) fn offer(&self, server: ServerId) -> Option<&EraCatalog> {
        self.snapshot.catalog.server(server)?.era(self.era)
    }

    /// The beginning of the answer to it that the gateway writes: the result, and a brace, follow.
    pub(super) fn begin_result(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(self.id.as_deref().unwrap_or(b"null"));
        out.extend_from_slice(b",\"result\":");
        out
    }

    /// What became of its exchange: of one of several servers, with the name of that.
    pub(super) fn reasoned(&self, kind: Kind) -> Refusal {
        match &self.whose {
            Whose::One(_) => {
                let data = serde_json::json!({ "reason": kind.row().word, "server": self.server_name() });
                Refusal::from(kind).with(data.to_string()).recorded()
            }
            Whose::Alone | Whose::Nobody => reasoned(kind),
        }
    }

    /// The same, of what is worth another try after so long, milliseconds.
    pub(super) fn later(&self, kind: Kind, retry_ms: u64) -> Refusal {
        match &self.whose {
            Whose::One(_) => {
                let (reason, server) = (kind.row().word, self.server_name());
                let data = serde_json::json!({ "reason": reason, "server": server, "retryAfterMs": retry_ms });
                Refusal::from(kind).with(data.to_string()).recorded()
            }
            Whose::Alone | Whose::Nobody => later(kind, retry_ms),
        }
    }

    /// What a fault of this kind is answered with.
    pub(super) fn faulted(&self, kind: Kind, fault: UpstreamFault) -> Refusal {
        match fault {
            UpstreamFault::Unhealthy { retry_ms } => self.later(kind, retry_ms),
            _ => self.reasoned(kind),
        }
    }

    /// Whether its client has taken it back, and its server did not end it in time.
    pub(super) fn is_cancelled(&self, shard: &Shard) -> bool {
        self.in_flight.get().is_some_and(|key| shard.load.is_cancelled(key))
    }

    /// It is about to go to an instance.
    pub(super) fn tries(&mut self, shard: &Shard, lane: &Lane<'_>) {
        if self.instance != 0 && self.instance != lane.instance.digest && self.session.is_none() {
            shard.count(Count::RequestsMoved);
        }
        self.instance = lane.instance.digest;
        meter::tries(shard, self);
    }

    /// A refusal as the answer to it, a message of this shape.
    pub(super) fn answering(&self, shard: &Shard, refusal: Refusal, shape: Shape) -> Refusal {
        meter::refused(shard, self, &refusal);
        traced::refused(self, &refusal);
        let mut refusal = refusal.to(self.era, self.id.as_deref());
        refusal.method = self.method.map_or("", |method| method.wire);
        if let Whose::One(_) = self.whose {
            refusal.server = Some(self.snapshot.settings.servers[self.server.index()].name.clone());
        }
        refusal.answerable &= shape == Shape::Request;
        refusal
    }

    /// It is over, whichever way it ended: whatever it still has is given back.
    pub(super) fn over(&self, shard: &Shard) {
        meter::answered(shard, self);
        self.answer_leaves(shard);
        traced::over(shard, self);
        if self.taken.replace(Taken::Nothing) == Taken::Stream {
            shard.load.streamed(self.payer);
        }
    }
}

/// What a request takes of its subject's share while it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is not counted.
    Nothing,
    /// A call.
    Call,
    /// A stream.
    Stream,
}

/// What becomes of a connection whose request the pipeline is done with.
#[derive(Debug)]
pub(super) enum Next {
    /// It may carry another one.
    Keep,
    /// It ends.
    Close,
    /// Its request belongs to another shard, and goes there with it. Nothing of an answer has been sent.
    HandOver(ShardId),
    /// It reads a stream, whose head has been sent, with less at hand than a request needs.
    Stream(Box<Tap>),
}

/// A moment that does not come.
pub(super) const NEVER: Moment = Moment(u64::MAX);

/// What an exchange ended with, for the record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) status: Status,
    pub(super) http: u16,
    pub(super) is_error: bool,
    pub(super) code: i64,
    pub(super) answer_bytes: usize,
    /// It came in pieces, which went on as they came.
    pub(super) streamed: bool,
}

impl Ended {
    pub(super) fn of(status: Status, http: u16) -> Self {
        Self { status, http, is_error: false, code: 0, answer_bytes: 0, streamed: false }
    }
}

/// What became of the exchange, towards the client; recorded.
pub(super) fn failed(shard: &Shard, flight: &Flight, fault: UpstreamFault) -> Refusal {
    let (status, kind) = match fault {
        UpstreamFault::Unreachable | UpstreamFault::NoAddress => (Status::Unreachable, Kind::ServerUnreachable),
        UpstreamFault::Unhealthy { .. } => (Status::Unreachable, Kind::ServerUnhealthy),
        UpstreamFault::Untrusted => (Status::Unreachable, Kind::ServerUntrusted),
        UpstreamFault::NoBuffer => (Status::Cut, Kind::NoBuffer),
        UpstreamFault::Timeout => (Status::Timeout, Kind::ServerTimeout),
        UpstreamFault::Cut => (Status::Cut, Kind::ServerCut),
        UpstreamFault::BadAnswer => (Status::Invalid, Kind::ServerInvalid),
        UpstreamFault::Abandoned | UpstreamFault::Withdrawn => match () {
            () if flight.is_cancelled(shard) => (Status::Cancelled, Kind::Cancelled),
            () if shard.draining() => (Status::Cut, Kind::ServerCut),
            () => (Status::Cancelled, Kind::ServerCut),
        },
    };
    let refusal = flight.faulted(kind, fault);
    end(shard, flight, Ended { code: kind.row().code, ..Ended::of(status, refusal.status()) });
    refusal
}

/// What became of an exchange, as an answer whose `data` names its reason for programs. No refusal: where the call
/// was decided on, its outcome says the same.
pub(super) fn reasoned(kind: Kind) -> Refusal {
    Refusal::from(kind).with(format!("{{\"reason\":\"{}\"}}", kind.row().word)).recorded()
}

/// The same, of what is worth another try after so long, milliseconds.
pub(super) fn later(kind: Kind, retry_ms: u64) -> Refusal {
    let reason = kind.row().word;
    Refusal::from(kind).with(format!("{{\"reason\":\"{reason}\",\"retryAfterMs\":{retry_ms}}}")).recorded()
}

/// What a fault of this kind is answered with.
pub(super) fn faulted(kind: Kind, fault: UpstreamFault) -> Refusal {
    match fault {
        UpstreamFault::Unhealthy { retry_ms } => later(kind, retry_ms),
        _ => reasoned(kind),
    }
}

/// Writes the outcome of a recorded call: called once on each way out.
pub(super) fn end(shard: &Shard, flight: &Flight, ended: Ended) {
    let now = shard.timers.now();
    let total = now.mono.since(flight.began.mono);
    meter::ended(shard, flight, &ended, now.mono);
    traced::ended(shard, flight, &ended);
    let Some(seq) = flight.seq else { return };
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    shard.record.ended(
        seq,
        &Outcome {
            unix_ms: now.unix_ms,
            status: ended.status,
            http: ended.http,
            is_error: ended.is_error,
            code: ended.code,
            total_us: micros(total),
            upstream_us: micros(flight.answered.since(flight.sent)),
            request_bytes: flight.request_bytes as u64,
            answer_bytes: ended.answer_bytes as u64,
        },
    );
}

/// A fault's own words as a sentence.
pub(super) fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}
