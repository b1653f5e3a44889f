//! What a request counts as, once it is known what became of it. The counters are `record::meter`'s.

use std::cell::Cell;
use std::time::Duration;

use crate::base::ids::{ItemId, ServerId};
use crate::base::time::Moment;
use crate::mcp::method::Verb;
use crate::record::frame::Status;
use crate::record::meter::{About, Came, FAILURES, PERMIT, REASONS, Way, place};

use super::flight::{Ended, Flight, Whose};
use super::refusal::Refusal;
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
    /// It is counted: once, whichever way it ended.
    counted: Cell<bool>,
}

/// Its exchange with its server is over.
pub(super) fn ended(shard: &Shard, flight: &Flight, ended: &Ended, total: Duration) {
    let failure = failure(ended);
    let waited = flight.figures.whole.get().unwrap_or(flight.answered).since(flight.sent);
    // What comes in pieces is handed on between two waits: its time is its server's.
    let own_ns = (!ended.streamed).then(|| nanos(total.saturating_sub(waited)));
    let way = if failure.is_some() { Way::Failed } else { Way::Answered };
    count(shard, flight, &Came { failure, total_ns: nanos(total), own_ns, way });
}

/// It was answered without its server.
pub(super) fn answered(shard: &Shard, flight: &Flight) {
    if flight.figures.left.get() {
        here(shard, flight, None, Way::Answered);
    }
}

/// Its answer is a stream that goes on: it took as long as it took to begin.
pub(super) fn established(shard: &Shard, flight: &Flight) {
    let total_ns = nanos(shard.timers.now().mono.since(flight.began.mono));
    count(shard, flight, &Came { failure: None, total_ns, own_ns: None, way: Way::Answered });
}

/// It was refused.
pub(super) fn refused(shard: &Shard, flight: &Flight, refusal: &Refusal) {
    let code = refusal.kind.row().code.to_string();
    here(shard, flight, Some(place(&FAILURES, &code)), Way::Refused);
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
    let total_ns = nanos(shard.timers.now().mono.since(flight.began.mono));
    count(shard, flight, &Came { failure, total_ns, own_ns: Some(total_ns), way });
}

fn count(shard: &Shard, flight: &Flight, came: &Came) {
    if flight.figures.counted.replace(true) {
        return;
    }
    if let Some(method) = flight.method {
        flight.snapshot.meters.observe(shard.id, &about(flight, method.verb), came);
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

    /// Whatever the gateway itself answers has a label of its own.
    #[test]
    fn refusals_have_their_codes() {
        for row in ROWS {
            assert!(FAILURES.contains(&row.code.to_string().as_str()), "{}", row.code);
        }
    }
}
