//! What a request counts as, once it is known what became of it. The counters are `record::meter`'s.

use std::cell::Cell;
use std::time::Duration;

use crate::base::ids::{ItemId, ServerId};
use crate::base::time::Moment;
use crate::mcp::method::Verb;
use crate::record::frame::Status;
use crate::record::meter::{About, Came, FAILURES, OTHER, PERMIT, REASONS, Way, place};

use super::flight::{Ended, Flight, Whose};
use super::refusal::{Kind, Refusal};
use super::shard::Shard;

/// What a request's figures are made of, on its way.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// The tool or prompt that was decided on.
    pub(super) item: Cell<Option<ItemId>>,
    /// When all of its server's answer was there, where that was more than its head.
    pub(super) whole: Cell<Option<Moment>>,
    /// The last of its answer has left.
    pub(super) left: Cell<bool>,
    /// When it went to the instance that it is at now.
    tried: Cell<Option<Moment>>,
    /// How long it has waited for others before it went on: for what the plane fetches.
    waited: Cell<Duration>,
    /// It is counted: once, whichever way it ended.
    counted: Cell<bool>,
}

impl Figures {
    /// Of a message whose caller was waited for so long.
    pub(super) fn after(waited: Duration) -> Self {
        Self { waited: Cell::new(waited), ..Self::default() }
    }

    /// It has waited for others since then.
    pub(super) fn waits(&self, shard: &Shard, since: Moment) {
        let waited = shard.timers.now().mono.since(since);
        self.waited.set(self.waited.get().saturating_add(waited));
    }
}

/// Its exchange with its server is over.
pub(super) fn ended(shard: &Shard, flight: &Flight, ended: &Ended, now: Moment) {
    let total = now.since(flight.began.mono);
    let failure = failure(ended);
    let waited = flight.figures.whole.get().unwrap_or(flight.answered).since(flight.sent);
    // What comes in pieces is handed on between two waits: its time is its server's.
    let own_ns = (!ended.streamed).then(|| nanos(own(flight, total).saturating_sub(waited)));
    let way = if failure.is_some() { Way::Failed } else { Way::Answered };
    let (tried, counted) = (flight.figures.tried.take(), flight.figures.counted.replace(true));
    let Some(method) = flight.method else { return };
    let attempt = tried.map(|at| Came { failure, total_ns: nanos(now.since(at)) });
    let operation = (!counted).then(|| Came { failure, total_ns: nanos(total) });
    let about = about(flight, method.verb);
    flight.snapshot.meters.ended(shard.id, &about, attempt.as_ref(), operation.as_ref());
    if let (Some(ns), false) = (own_ns, counted) {
        shard.own.borrow_mut().record(method.verb, way, ns);
    }
}

/// It goes to an instance now; what it had been to another one for has come to nothing.
pub(super) fn tries(shard: &Shard, flight: &Flight) {
    if flight.figures.tried.get().is_some() {
        // Its session was forgotten there, or nothing could be sent.
        let word = if flight.written.get() { OTHER } else { "unreachable" };
        attempted(shard, flight, Some(place(&FAILURES, word)), flight.sent);
    }
    flight.figures.tried.set(Some(flight.sent));
}

/// What it went to its server for is over.
fn attempted(shard: &Shard, flight: &Flight, failure: Option<usize>, now: Moment) {
    if let (Some(at), Some(method)) = (flight.figures.tried.take(), flight.method) {
        let came = Came { failure, total_ns: nanos(now.since(at)) };
        flight.snapshot.meters.attempted(shard.id, &about(flight, method.verb), &came);
    }
}

/// It was answered without its server.
pub(super) fn answered(shard: &Shard, flight: &Flight) {
    if flight.figures.left.get() {
        here(shard, flight, None, Way::Answered);
    }
}

/// Its answer is a stream that goes on: it took as long as it took to begin.
pub(super) fn established(shard: &Shard, flight: &Flight) {
    let now = shard.timers.now().mono;
    attempted(shard, flight, None, now);
    count(shard, flight, &Came { failure: None, total_ns: nanos(now.since(flight.began.mono)) }, None);
}

/// It was refused.
pub(super) fn refused(shard: &Shard, flight: &Flight, refusal: &Refusal) {
    here(shard, flight, refused_with(refusal), Way::Refused);
}

/// What a refusal is called, as it is answered: by its span too.
fn refused_with(refusal: &Refusal) -> Option<usize> {
    let word = match refusal.kind {
        // It asks for more: that is no failure.
        _ if refusal.input_required => return None,
        Kind::Cancelled => "cancelled",
        _ if refusal.tool_result => "tool_error",
        kind => return Some(place(&FAILURES, &kind.row().code.to_string())),
    };
    Some(place(&FAILURES, word))
}

/// It was permitted.
pub(super) fn permitted(shard: &Shard, flight: &Flight) {
    decided(shard, flight, PERMIT);
}

/// It was decided on and not permitted, for this reason.
pub(super) fn denied(shard: &Shard, flight: &Flight, reason: &str) {
    decided(shard, flight, place(&REASONS, reason));
}

fn decided(shard: &Shard, flight: &Flight, reason: usize) {
    if let Some(method) = flight.method {
        flight.snapshot.meters.decided(shard.id, &about(flight, method.verb), reason);
    }
}

fn here(shard: &Shard, flight: &Flight, failure: Option<usize>, way: Way) {
    if flight.figures.counted.get() {
        return;
    }
    let total = shard.timers.now().mono.since(flight.began.mono);
    count(shard, flight, &Came { failure, total_ns: nanos(total) }, Some((way, nanos(own(flight, total)))));
}

/// What of so much time it did not wait for others before it went on.
fn own(flight: &Flight, total: Duration) -> Duration {
    total.saturating_sub(flight.figures.waited.get())
}

/// Counts it, and what of it was the gateway's own time where that can be told.
fn count(shard: &Shard, flight: &Flight, came: &Came, own: Option<(Way, u64)>) {
    if flight.figures.counted.replace(true) {
        return;
    }
    let Some(method) = flight.method else { return };
    flight.snapshot.meters.observe(shard.id, &about(flight, method.verb), came);
    if let Some((way, ns)) = own {
        shard.own.borrow_mut().record(method.verb, way, ns);
    }
}

fn about(flight: &Flight, verb: Verb) -> About {
    About { verb, server: server(flight), item: flight.figures.item.get(), revision: flight.revision }
}

/// The server that it is for, where that is one.
fn server(flight: &Flight) -> Option<ServerId> {
    (flight.whose != Whose::Nobody).then_some(flight.server)
}

/// The same as one of [`FAILURES`].
pub(super) fn failure_word(ended: &Ended) -> Option<&'static str> {
    failure(ended).and_then(|index| FAILURES.get(index).copied())
}

/// What an exchange failed with: the server's own word for it, or what became of its answer.
fn failure(ended: &Ended) -> Option<usize> {
    let word = match ended.status {
        Status::Ok | Status::Detached if !ended.is_error => return None,
        Status::Ok | Status::Detached => "tool_error",
        Status::Error => return Some(place(&FAILURES, &ended.code.to_string())),
        Status::Unreachable => "unreachable",
        Status::Timeout => "timeout",
        Status::Cut => "cut",
        Status::Invalid => "invalid",
        Status::Cancelled => "cancelled",
    };
    Some(place(&FAILURES, word))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::refusal::ROWS;

    #[test]
    fn failures_have_their_words() {
        let word = |ended: Ended| failure(&ended).map(|index| FAILURES[index]);
        let of = |status| Ended::of(status, 200);
        assert_eq!(word(of(Status::Ok)), None);
        assert_eq!(word(Ended { is_error: true, ..of(Status::Ok) }), Some("tool_error"));
        assert_eq!(word(Ended { code: -32_602, ..of(Status::Error) }), Some("-32602"));
        assert_eq!(word(Ended { code: 7, ..of(Status::Error) }), Some("_OTHER"));
        assert_eq!(word(of(Status::Timeout)), Some("timeout"));
        assert_eq!(word(of(Status::Cancelled)), Some("cancelled"));
    }

    /// As the answer on the wire says.
    #[test]
    fn refusals_are_called_as_they_are_answered() {
        let word = |refusal: Refusal| refused_with(&refusal).map(|index| FAILURES[index]);
        let refused = || Refusal::from(Kind::ApprovalDenied);
        assert_eq!(word(refused()), Some("-31403"));
        let but = |change: fn(&mut Refusal)| {
            let mut refusal = refused();
            change(&mut refusal);
            refusal
        };
        assert_eq!(word(but(|it| it.tool_result = true)), Some("tool_error"));
        assert_eq!(word(but(|it| it.input_required = true)), None);
        assert_eq!(word(Kind::Cancelled.into()), Some("cancelled"));
    }

    /// Whatever the gateway itself answers has a label of its own.
    #[test]
    fn refusals_have_their_codes() {
        for row in ROWS {
            assert!(FAILURES.contains(&row.code.to_string().as_str()), "{}", row.code);
        }
    }
}
