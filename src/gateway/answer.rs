//! What an answer must be to be given on, whichever way it comes; and what becomes of its connection.

use crate::base::limits::RETIRE_MS_MAX;
use crate::base::time::Moment;
use crate::http::field::Known;
use crate::http::head::Framing;
use crate::http::reply;
use crate::jsonrpc::answer::{Answer as Facts, ResultType};
use crate::jsonrpc::id;
use crate::jsonrpc::scan::Shape;
use crate::mcp::revision::Era;
use crate::record::frame::Status;
use crate::upstream::exchange::Answer;

use super::conn::Conn;
use super::flight::{Ended, Flight, Next};
use super::modern;
use super::refusal::{Kind, Refusal};
use super::shard::Shard;

/// What an answer's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Events,
    Other,
}

pub(super) fn media(answer: &Answer) -> Media {
    let field = answer.field(Known::ContentType).unwrap_or_default();
    if field == b"application/json" {
        return Media::Json;
    }
    let essence = field.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        Media::Json
    } else if essence.eq_ignore_ascii_case(b"text/event-stream") {
        Media::Events
    } else {
        Media::Other
    }
}

/// Whether an answer is the answer to this request, and one that policy lets the server give. `body` is empty when it
/// came in pieces: then what a server asks for inside it cannot be looked at.
pub(super) fn accept(shard: &Shard, flight: &Flight, facts: &Facts, body: &[u8], status: u16) -> Result<(), Kind> {
    let ours = match (&flight.id, &facts.id) {
        (Some(asked), Some(given)) => id::same(asked, given),
        // An error whose server could not read the id; only where HTTP says error too.
        (_, None) => facts.shape == Shape::Error && status >= 400,
        (None, Some(_)) => false,
    };
    if !ours || !matches!(facts.shape, Shape::Result | Shape::Error) {
        return Err(Kind::ServerInvalid);
    }
    flight.succeeded.set(facts.shape == Shape::Result);
    if flight.era == Era::Modern {
        modern::accept(shard, flight, facts, body)?;
    }
    // A question back, or a task, is not done yet.
    let done = matches!(facts.result_type, ResultType::Absent | ResultType::Complete | ResultType::Other);
    flight.did.set(facts.shape == Shape::Result && !facts.is_error && done);
    Ok(())
}

/// The outcome that an accepted answer is.
pub(super) fn of_facts(facts: &Facts, http: u16, answer_bytes: usize) -> Ended {
    let status = if facts.shape == Shape::Error { Status::Error } else { Status::Ok };
    Ended { is_error: facts.is_error, code: facts.error_code.unwrap_or(0), answer_bytes, ..Ended::of(status, http) }
}

/// The head of an answer.
pub(super) fn write_head(
    shard: &Shard,
    conn: &Conn,
    out: &mut Vec<u8>,
    status: u16,
    media: &str,
    framing: Framing,
    session: Option<&str>,
) {
    conn.write_status(shard, out, status);
    let _ = reply::write_known(out, Known::ContentType, media.as_bytes());
    if let Some(session) = session {
        let _ = reply::write_known(out, Known::McpSessionId, session.as_bytes());
    }
    reply::finish(out, framing);
}

/// Reads what is left of a body that nobody needs, so that its connection can be kept; gives up soon.
pub(super) async fn retire(shard: &Shard, mut answer: Answer) {
    answer.allow_until(shard.timers.now().mono.plus_ms(RETIRE_MS_MAX));
    loop {
        match answer.decode(|_| {}) {
            Ok(true) => return shard.upstreams.finish(answer),
            Ok(false) => {}
            Err(_) => return answer.abandon(),
        }
        if answer.fill(&shard.buffers).await.is_err() {
            return answer.abandon();
        }
    }
}

/// So long may a call take from now on.
pub(super) fn deadline(shard: &Shard, timeout: u64) -> Moment {
    shard.timers.now().mono.plus_ms(timeout)
}

/// 202 for a message that is not forwarded and that nobody waits to be answered.
pub(super) async fn accepted(shard: &Shard, conn: &mut Conn) -> Result<Next, Refusal> {
    let mut out = Vec::with_capacity(64);
    conn.write_status(shard, &mut out, 202);
    reply::finish(&mut out, Framing::Length(0));
    conn.send(shard, &out).await;
    Ok(Next::Keep)
}
