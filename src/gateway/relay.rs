//! A server's answer on its way back. Short ones are read whole, checked, and sent in one piece; longer ones and event
//! streams go on as they come, through the same checks, and are cut off, never ended cleanly, when they turn out wrong.

use std::pin::pin;

use crate::base::limits::{ANSWER_WHOLE_BYTES_MAX, BUFFER_BYTES, EVENT_BYTES_MAX, SESSION_ID_BYTES_MAX};
use crate::http::body as chunks;
use crate::http::field::Known;
use crate::http::head::{Framing, Version};
use crate::jsonrpc::answer::{Answer as Facts, ResultType};
use crate::jsonrpc::scan::ScanFault;
use crate::mcp::method::Verb;
use crate::mcp::optin::TASKS_EXTENSION;
use crate::mcp::revision::{Era, Revision};
use crate::record::frame::Status;
use crate::session::ledger::Upstream;
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Abort, Answer};
use crate::uring::buffer::Buffer;

use super::answer::{Media, accept, accepted, media, of_facts, retire, write_head};
use super::conn::Conn;
use super::flight::{Ended, Flight, NEVER, Next, end, failed};
use super::meter;
use super::modern;
use super::refusal::{Kind, Refusal};
use super::route;
use super::sessions;
use super::shard::Shard;
use super::stream::{self, Carries};
use super::watch::{self, Heed, Woke};

/// Gives the client what the server answered to its message.
pub(super) async fn answer(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    answer: Answer,
    abort: &Abort,
    timeout: u64,
) -> Result<Next, Refusal> {
    let request = flight.id.is_some() && flight.method.is_some();
    let verb = flight.method.map(|method| method.verb);
    match (answer.status(), media(&answer)) {
        (401 | 403, _) => Err(flight.refused_us(shard, answer)),
        (200, Media::Json | Media::Events) if verb == Some(Verb::Initialize) => {
            Box::pin(initialize(shard, conn, flight, answer, abort)).await
        }
        (200, Media::Events) if request => {
            let carries = if verb == Some(Verb::Listen) {
                meter::established(shard, flight);
                Carries::Subscription
            } else {
                Carries::Answer { timeout }
            };
            Box::pin(stream::relay(shard, conn, flight, answer, abort, carries)).await
        }
        // Before the body is looked at: some servers announce a media type for no body at all.
        (200..=299, _) if !request => Box::pin(told(shard, conn, flight, answer)).await,
        (200..=299 | 400..=599, Media::Json) => {
            let given = pin!(json(shard, conn, flight, answer, abort, None)).await;
            given
        }
        (status, _) => {
            let refusal = withheld(shard, flight, answer, Kind::ServerInvalid);
            Err(refusal.saying(format!("The server answered with HTTP status {status} and no JSON-RPC message.")))
        }
    }
}

/// An answer that the client must not see.
pub(super) fn withheld(shard: &Shard, flight: &Flight, answer: Answer, kind: Kind) -> Refusal {
    answer.abandon();
    flight.did.set(false);
    let refusal = flight.reasoned(kind);
    end(shard, flight, Ended { code: kind.row().code, ..Ended::of(Status::Invalid, refusal.status()) });
    refusal
}

/// 202 for a message that nobody waits to be answered.
async fn told(shard: &Shard, conn: &mut Conn, flight: &Flight, answer: Answer) -> Result<Next, Refusal> {
    retire(shard, answer).await;
    end(shard, flight, Ended::of(Status::Ok, 202));
    accepted(shard, conn).await
}

/// A JSON answer: whole if it is short, else as it comes. What of it was collected already is handed in.
pub(super) async fn json(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    mut answer: Answer,
    abort: &Abort,
    collected: Option<Buffer>,
) -> Result<Next, Refusal> {
    let verb = flight.method.map(|method| method.verb);
    // A task's state is renamed on its way, wherever in it the name stands.
    let whole = matches!(verb, Some(Verb::TasksGet | Verb::TasksUpdate | Verb::TasksCancel));
    let max = if whole || route::may_name_resources(flight) { EVENT_BYTES_MAX } else { ANSWER_WHOLE_BYTES_MAX };
    let body = match collected.or_else(|| answer.take_whole(max)) {
        Some(body) => Ok(body),
        None => {
            let collected = pin!(collect(shard, conn, flight, &mut answer, abort, max)).await;
            collected
        }
    };
    let body = match body {
        Ok(body) => body,
        Err(fault) => {
            answer.abandon();
            return Err(failed(shard, flight, fault));
        }
    };
    if !answer.done() && whole {
        return Err(withheld(shard, flight, answer, Kind::ServerInvalid));
    }
    if !answer.done() {
        return Box::pin(long(shard, conn, flight, answer, abort, &body)).await;
    }
    flight.figures.whole.set(Some(shard.timers.last().mono));
    let (status, length) = (answer.status(), body.len());
    let (ended, other) = match checked(shard, flight, &body, status) {
        Ok(checked) => checked,
        Err(kind) => return Err(withheld(shard, flight, answer, kind)),
    };
    shard.upstreams.finish(answer);
    flight.answer_leaves(shard);
    let out = match other {
        None => with_head(shard, conn, status, body),
        Some(other) => composed(shard, conn, status, None, &other),
    };
    pin!(give(shard, conn, out)).await;
    end(shard, flight, Ended { answer_bytes: length, ..ended });
    Ok(Next::Keep)
}

/// Whether a whole answer may be given on: the outcome that it is, and what goes instead of it.
fn checked(shard: &Shard, flight: &Flight, body: &[u8], status: u16) -> Result<(Ended, Option<Vec<u8>>), Kind> {
    let facts = facts_of(shard, flight, body).map_err(|_| Kind::ServerInvalid)?;
    accept(shard, flight, &facts, body, status)?;
    let other = modern::rewritten(shard, flight, &facts, body)?;
    let other = route::exposed(flight, other.as_deref().unwrap_or(body)).or(other);
    Ok((of_facts(&facts, status, body.len()), other))
}

/// What a whole answer says. One that goes on as it came is skimmed below its members; one in which something is looked
/// for, or written anew, is read in full.
fn facts_of(shard: &Shard, flight: &Flight, body: &[u8]) -> Result<Facts, ScanFault> {
    let verb = flight.method.map(|method| method.verb);
    let told = matches!(verb, Some(Verb::TasksGet | Verb::TasksUpdate | Verb::TasksCancel | Verb::Discover));
    let mut answers = shard.answers();
    if told || flight.is_merged() {
        return answers.read(body);
    }
    let facts = answers.skim(body)?;
    let plain = matches!(facts.result_type, ResultType::Absent | ResultType::Complete | ResultType::Other);
    if plain { Ok(facts) } else { answers.read(body) }
}

/// Reads an answer's body until it is complete or longer than `max`.
pub(super) async fn collect(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    answer: &mut Answer,
    abort: &Abort,
    max: usize,
) -> Result<Buffer, UpstreamFault> {
    if let Some(length) = answer.length().filter(|length| (1..=max).contains(length)) {
        loop {
            if let Some(body) = answer.take_whole(max) {
                return Ok(body);
            }
            answer.make_room(length, &shard.buffers)?;
            pin!(fill(shard, conn, flight, answer, abort)).await?;
        }
    }
    let mut body = shard.buffers.get(BUFFER_BYTES).ok_or(UpstreamFault::NoBuffer)?;
    loop {
        let mut fits = true;
        let done = answer.decode(|data| fits &= body.reserve(data.len()) && body.extend_from_slice(data))?;
        if !fits {
            return Err(UpstreamFault::NoBuffer);
        }
        if done || body.len() > max {
            return Ok(body);
        }
        fill(shard, conn, flight, answer, abort).await?;
    }
}

/// Sends head and body in one piece.
pub(super) async fn send_json(shard: &Shard, conn: &mut Conn, status: u16, session: Option<&str>, body: &[u8]) {
    let out = composed(shard, conn, status, session, body);
    pin!(give(shard, conn, out)).await;
}

/// Sends an answer; without memory for it, it is lost, and the end of the connection says so.
async fn give(shard: &Shard, conn: &mut Conn, out: Option<Buffer>) {
    match out {
        Some(out) => _ = pin!(conn.send_buffer(shard, out)).await,
        None => conn.gone = true,
    }
}

/// A body with a head in front of it: in the place of the one that it came with, where that was as long.
fn with_head(shard: &Shard, conn: &Conn, status: u16, mut body: Buffer) -> Option<Buffer> {
    let mut head = shard.head.take();
    head.clear();
    let framing = Framing::Length(body.len() as u64);
    write_head(shard, conn, &mut head, status, "application/json", framing, None);
    let fits = body.prepend(&head);
    shard.head.set(head);
    if fits { Some(body) } else { composed(shard, conn, status, None, &body) }
}

/// Head and body, copied into one piece; `None` where there is no memory for it.
fn composed(shard: &Shard, conn: &Conn, status: u16, session: Option<&str>, body: &[u8]) -> Option<Buffer> {
    let mut out = shard.buffers.get(SHORT_HEAD_BYTES + body.len())?;
    let framing = Framing::Length(body.len() as u64);
    out.append_with(|out| write_head(shard, conn, out, status, "application/json", framing, session));
    out.extend_from_slice(body).then_some(out)
}

/// Room for the head of an answer of ours, a sealed session id included.
const SHORT_HEAD_BYTES: usize = 256 + SESSION_ID_BYTES_MAX;

/// Waits for more of an answer. A modern client that leaves cancels it; a legacy one does not.
async fn fill(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    answer: &mut Answer,
    abort: &Abort,
) -> Result<(), UpstreamFault> {
    let mut work = pin!(answer.fill(&shard.buffers));
    loop {
        match watch::next(shard, conn, work.as_mut(), NEVER, flight.era == Era::Modern, Heed::Nothing).await {
            Woke::Done(result) => {
                return result.map_err(|fault| if abort.fired() { UpstreamFault::Abandoned } else { fault });
            }
            Woke::Gone => abort.fire(),
            Woke::Time | Woke::Draining => {}
        }
    }
}

/// A long answer: the end is held back until all of it was found to be right.
async fn long(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    mut answer: Answer,
    abort: &Abort,
    first: &[u8],
) -> Result<Next, Refusal> {
    let framing = match answer.framing() {
        Framing::Length(length) => Framing::Length(length),
        _ if conn.head.version == Version::Http11 => Framing::Chunked,
        _ => Framing::UntilClose,
    };
    let status = answer.status();
    let mut scan = shard.answer_scan();
    // What is looked into must be JSON; the rest goes on as it came.
    if !flight.is_merged() {
        scan.reset_to_skim();
    }
    let mut piece = first.to_vec();
    let mut out = Vec::with_capacity(piece.len() + 256);
    write_head(shard, conn, &mut out, status, "application/json", framing, None);
    let mut total = 0;
    let fault = loop {
        total += piece.len();
        if scan.feed(&piece).is_err() {
            break UpstreamFault::BadAnswer;
        }
        let done = answer.done();
        if done {
            let facts = scan.finish().ok().filter(|facts| accept(shard, flight, facts, &[], status).is_ok());
            let Some(facts) = facts else { break UpstreamFault::BadAnswer };
            flight.answer_leaves(shard);
            write_piece(&mut out, &piece, framing);
            if framing == Framing::Chunked {
                chunks::write_last_chunk(&mut out);
            }
            conn.send(shard, &out).await;
            shard.upstreams.finish(answer);
            end(shard, flight, Ended { streamed: true, ..of_facts(&facts, status, total) });
            return Ok(if framing == Framing::UntilClose { Next::Close } else { Next::Keep });
        }
        write_piece(&mut out, &piece, framing);
        if !conn.send(shard, &out).await && flight.era == Era::Modern {
            break UpstreamFault::Abandoned;
        }
        out.clear();
        piece.clear();
        if let Err(fault) = fill(shard, conn, flight, &mut answer, abort).await {
            break fault;
        }
        if let Err(fault) = answer.decode(|data| piece.extend_from_slice(data)) {
            break fault;
        }
    };
    // Part of the answer is out: closing without its end is the only way left to say that it is wrong.
    answer.abandon();
    let _ = failed(shard, flight, fault);
    Ok(Next::Close)
}

fn write_piece(out: &mut Vec<u8>, piece: &[u8], framing: Framing) {
    if framing == Framing::Chunked {
        chunks::write_chunk(out, piece);
    } else {
        out.extend_from_slice(piece);
    }
}

/// The answer to `initialize`: read whole in either form, so that the session id sealed for the client can carry what
/// was agreed on.
async fn initialize(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    mut answer: Answer,
    abort: &Abort,
) -> Result<Next, Refusal> {
    let events = media(&answer) == Media::Events;
    let body = if events {
        let ours = |data: &[u8]| {
            let mut answers = shard.answers();
            answers.read(data).is_ok_and(|facts| accept(shard, flight, &facts, data, 200).is_ok())
        };
        stream::event_with(shard, &mut answer, ours).await
    } else {
        collect(shard, conn, flight, &mut answer, abort, EVENT_BYTES_MAX).await.map(|body| body.to_vec())
    };
    let body = match body {
        Ok(body) if events || answer.done() => body,
        Ok(_) => return Err(withheld(shard, flight, answer, Kind::ServerInvalid)),
        Err(fault) => {
            answer.abandon();
            return Err(failed(shard, flight, fault));
        }
    };
    let Ok((body, agreed)) = settled(shard, flight, body) else {
        return Err(withheld(shard, flight, answer, Kind::ServerInvalid));
    };
    let upstream = answer.field(Known::McpSessionId).map(<[u8]>::to_vec);
    let session = match (upstream, agreed) {
        (Some(upstream), Some(revision)) => match sessions::begin(shard, flight, Some(&upstream), revision) {
            Ok(session) => Some(session),
            Err(kind) => {
                answer.abandon();
                let orphan = Upstream {
                    server: sessions::digest(flight),
                    instance: flight.instance,
                    epoch: 0,
                    revision,
                    id: upstream.into(),
                };
                sessions::end_upstream(shard, &flight.snapshot, flight.server, &orphan, flight.whom()).await;
                return Err(kind.into());
            }
        },
        _ => None,
    };
    retire(shard, answer).await;
    flight.answer_leaves(shard);
    send_json(shard, conn, 200, session.as_deref(), &body).await;
    Ok(Next::Keep)
}

/// A whole answer to `initialize` as the client gets it, and the revision that it settles on; none for an error.
pub(super) fn settled(shard: &Shard, flight: &Flight, body: Vec<u8>) -> Result<(Vec<u8>, Option<Revision>), Kind> {
    let agreed = sessions::agreed(shard, &body);
    let facts = shard.answers().read(&body).map_err(|_| Kind::ServerInvalid);
    facts.and_then(|facts| accept(shard, flight, &facts, &body, 200))?;
    Ok((without_tasks(&body, false).unwrap_or(body), agreed))
}

/// What a server says of itself, without what this gateway does not pass on: the tasks of 2025-11-25, and where it is
/// not kept the extension that came after them. `None` where it declares neither.
pub(super) fn without_tasks(body: &[u8], keep_extension: bool) -> Option<Vec<u8>> {
    memchr::memmem::find(body, b"tasks")?;
    let mut message: serde_json::Value = serde_json::from_slice(body).ok()?;
    let capabilities = message.pointer_mut("/result/capabilities")?.as_object_mut()?;
    let core = capabilities.remove("tasks");
    let extensions = capabilities.get_mut("extensions").and_then(serde_json::Value::as_object_mut);
    let extensions = extensions.filter(|_| !keep_extension);
    let extension = extensions.and_then(|extensions| extensions.remove(TASKS_EXTENSION));
    core.or(extension)?;
    serde_json::to_vec(&message).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_not_promised() {
        let check = |capabilities: &str, keep: bool, want: Option<&str>| {
            let message =
                |inside: &str| format!("{{\"id\":1,\"jsonrpc\":\"2.0\",\"result\":{{\"capabilities\":{inside}}}}}");
            let got = without_tasks(message(capabilities).as_bytes(), keep);
            assert_eq!(got, want.map(|want| message(want).into_bytes()), "{capabilities}");
        };
        let extension = r#"{"extensions":{"a/b":{},"io.modelcontextprotocol/tasks":{}}}"#;
        for keep in [false, true] {
            check(r#"{"tools":{}}"#, keep, None);
            check(r#"{"experimental":{"tasks":{}}}"#, keep, None);
            check(r#"{"tasks":{"list":{}},"tools":{}}"#, keep, Some(r#"{"tools":{}}"#));
        }
        check(extension, false, Some(r#"{"extensions":{"a/b":{}}}"#));
        check(extension, true, None);
    }
}
