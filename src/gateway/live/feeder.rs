//! What keeps a stream fed: the task that reads a server's stream into its log, asks for it again when it ends, and goes
//! on in the session that a call has opened again.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use smallvec::SmallVec;

use crate::base::limits::{
    REFUSAL_BYTES_MAX, STREAM_RETRY_MS, STREAM_RETRY_MS_MAX, STREAM_RETRY_MS_MIN, UPSTREAM_EVENT_ID_BYTES_MAX,
};
use crate::gateway::answer::{Media, deadline, media, retire};
use crate::gateway::events::{self, Said};
use crate::gateway::exchange::{self, Lanes, USER_AGENT, Wish};
use crate::gateway::flight::{NEVER, reasoned};
use crate::gateway::refusal::Kind;
use crate::gateway::sessions::{self, session_fields};
use crate::gateway::shard::Shard;
use crate::gateway::shown::{self, Whom};
use crate::gateway::stream::is_message;
use crate::gateway::tally::Count;
use crate::http::field::Known;
use crate::http::head::Method;
use crate::http::sse::{Event, EventParser};
use crate::jsonrpc::id;
use crate::jsonrpc::scan::Shape;
use crate::mcp::revision::Era;
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Answer, Clearance, Request};

use super::tend::place;
use super::{Feed, Opening, Part, changed, listener};

/// How reading a server's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// With the answer.
    Answered,
    /// The server ended it.
    Clean,
    /// It broke.
    Broken,
    /// What came is no message, and nothing can follow it.
    Invalid,
    /// Nobody needs it any more.
    Unwanted,
}

/// What is known of a server's stream.
#[derive(Default)]
pub(in crate::gateway) struct Source {
    /// Its last event with an id: where it goes on.
    pub(in crate::gateway) at: Option<Box<[u8]>>,
    /// When its server wants to be asked again, milliseconds.
    pub(in crate::gateway) retry: Option<u64>,
    /// The upstream session that the event belongs to.
    pub(in crate::gateway) epoch: u32,
}

impl Source {
    /// Keeps what an event says of the stream itself.
    pub(in crate::gateway) fn note(&mut self, event: &Event<'_>) {
        if let Some(id) = event.id {
            let usable = !id.is_empty() && id.len() <= UPSTREAM_EVENT_ID_BYTES_MAX && is_field_value(id);
            if usable && self.at.as_deref() != Some(id) {
                self.at = Some(id.into());
            } else if !usable {
                self.at = None;
            }
        }
        self.retry = event.retry.or(self.retry);
    }
}

fn is_field_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, 0x20..=0x7e)) && bytes.first() != Some(&b' ') && bytes.last() != Some(&b' ')
}

/// Feeds a session's own stream for as long as somebody reads it, and a while longer.
pub(super) async fn keep_fed(shard: &Rc<Shard>, feed: &Rc<Feed>, part: &Part) {
    let mut source = Source::default();
    let mut pause_ms = 0;
    while feed.wants(shard, part) {
        let (begun, was) = (shard.timers.now().mono, source.epoch);
        let first = feed.opening.get() == Opening::Trying;
        // Another call may have opened the session again meanwhile.
        if source.epoch != epoch(feed, part) {
            source.at = None;
        }
        let place = place(shard, feed, part).await;
        // Boxed: what it takes is given back before the long wait.
        match Box::pin(open(shard, feed, part, source.at.as_deref())).await {
            Ok((answer, used)) => {
                feed.opening.set(Opening::Open);
                feed.changed();
                shard.feeds.look(feed);
                source.epoch = used;
                part.upstream.set(used);
                let resumed = source.at.clone();
                let over = Box::pin(read(shard, feed, part, answer, &mut source)).await;
                let soon = shard.timers.now().mono < begun.plus_ms(STREAM_RETRY_MS_MAX);
                if over == Over::Clean && soon && resumed.is_some() && source.at == resumed {
                    // Nothing came behind it, and nothing will: the server no longer has the stream that it is of.
                    source.at = None;
                }
            }
            Err(refused) if first => {
                feed.opening.set(refused);
                break;
            }
            // It had one, and has none any more: its client will hear so when it asks again.
            Err(Opening::Refused(_)) => break,
            Err(_) => {}
        }
        drop(place);
        // One that lasted is asked for again soon, one that ends as it begins less and less often.
        let lasted = shard.timers.now().mono >= begun.plus_ms(STREAM_RETRY_MS_MAX) || source.epoch != was;
        let least_ms = source.retry.unwrap_or(STREAM_RETRY_MS).clamp(STREAM_RETRY_MS_MIN, STREAM_RETRY_MS_MAX);
        pause_ms = if lasted { least_ms } else { (2 * pause_ms).clamp(least_ms, STREAM_RETRY_MS_MAX) };
        let until = shard.timers.now().mono.plus_ms(pause_ms);
        // A session that a call opens again meanwhile has a stream to be asked for at once.
        let seen = epoch(feed, part);
        while shard.timers.now().mono < until && feed.wants(shard, part) && seen == epoch(feed, part) {
            let soon = shard.timers.now().mono.plus_ms(STREAM_RETRY_MS);
            changed(shard, feed, until.min(soon).min(feed.until(shard))).await;
            if is_stranded(shard, feed, part) {
                // It is to be had elsewhere.
                break;
            }
        }
    }
    if feed.opening.get() == Opening::Trying {
        feed.opening.set(Opening::Refused(404));
    }
}

/// Reads the rest of an answer whose server had hung up.
pub(super) async fn go_on(shard: &Rc<Shard>, feed: &Rc<Feed>, part: &Part, at: Option<Box<[u8]>>) {
    let mut source = Source { at, ..Source::default() };
    let answer = open(shard, feed, part, source.at.as_deref()).await;
    feed.opening.set(Opening::Open);
    shard.feeds.look(feed);
    let kind = match answer {
        Ok((answer, _)) => match Box::pin(read(shard, feed, part, answer, &mut source)).await {
            Over::Answered | Over::Unwanted => return feed.outlet.borrow_mut().finish(),
            Over::Clean | Over::Broken if source.at.is_some() => {
                let at = source.at.as_deref().unwrap_or_default();
                return feed.outlet.borrow_mut().hang_up(source.retry, at);
            }
            Over::Clean | Over::Broken => Kind::ServerCut,
            Over::Invalid => Kind::ServerInvalid,
        },
        Err(_) => Kind::ServerCut,
    };
    let mut message = Vec::with_capacity(256);
    reasoned(kind).to(Era::Legacy, feed.asked.as_deref()).write_body(&mut message);
    let mut outlet = feed.outlet.borrow_mut();
    outlet.push(&message);
    outlet.finish();
}

/// Which of the session's upstream sessions is in use; none: 0.
fn epoch(feed: &Feed, part: &Part) -> u32 {
    feed.session.epoch(part.server)
}

/// Asks the server for a stream, behind its event `at`. A session that it has forgotten is opened again first; the
/// answers that were due in it are lost. Also gives which of the server's sessions the stream is of: while it was asked
/// for, another call may have opened a newer one, in which the stream's events mean nothing.
async fn open(shard: &Shard, feed: &Feed, part: &Part, at: Option<&[u8]>) -> Result<(Answer, u32), Opening> {
    let whole = feed.asked.is_none();
    let stranded = whole && is_stranded(shard, feed, part);
    let mut again = stranded || feed.session.upstream(part.server).is_none();
    if !whole && epoch(feed, part) != part.upstream.get() {
        return Err(Opening::Refused(404));
    }
    // The second time the shard may just have been behind the others.
    let mut used = if stranded { epoch(feed, part) } else { 0 };
    for last in [false, false, true] {
        if again {
            let flight = feed.flight(shard, part).ok_or(Opening::Refused(404))?;
            Box::pin(sessions::reopen(shard, &flight, used)).await.map_err(|refusal| match refusal.kind {
                Kind::SessionUnknown => Opening::Refused(404),
                _ => Opening::Failed(UpstreamFault::Unreachable),
            })?;
        }
        // What the old session's events were numbered with means nothing in the new one.
        used = epoch(feed, part);
        let answer = ask(shard, feed, part, at.filter(|_| !again)).await.map_err(Opening::Failed)?;
        match (answer.status(), media(&answer)) {
            (200, Media::Events) => return Ok((answer, used)),
            (status, _) => {
                // Whose connection it is next, is no affair of this stream's.
                part.abort.reset();
                let forgotten = is_forgotten(shard, answer).await;
                if !forgotten || last || !whole {
                    return Err(Opening::Refused(if forgotten { 404 } else { status }));
                }
                again = true;
            }
        }
    }
    Err(Opening::Refused(404))
}

/// Whether the session must go on at another instance of its server.
fn is_stranded(shard: &Shard, feed: &Feed, part: &Part) -> bool {
    let snapshot = shard.snapshot();
    let at = snapshot.server_by_digest(part.server).zip(feed.session.upstream(part.server));
    at.is_some_and(|(server, upstream)| exchange::is_stranded(shard, &snapshot, server, &upstream))
}

/// Whether the server says that it does not know the session.
async fn is_forgotten(shard: &Shard, answer: Answer) -> bool {
    let (status, mut answer, mut body) = (answer.status(), answer, Vec::new());
    while status == 400 && body.len() <= REFUSAL_BYTES_MAX {
        match answer.decode(|data| body.extend_from_slice(data)) {
            Ok(false) if answer.fill(&shard.buffers).await.is_ok() => {}
            _ => break,
        }
    }
    retire(shard, answer).await;
    sessions::is_forgotten(shard, status, &body, None)
}

async fn ask(shard: &Shard, feed: &Feed, part: &Part, at: Option<&[u8]>) -> Result<Answer, UpstreamFault> {
    let snapshot = shard.snapshot();
    let server = snapshot.server_by_digest(part.server).ok_or(UpstreamFault::NoAddress)?;
    let upstream = feed.session.upstream(part.server);
    let mut fields: SmallVec<[(Known, &[u8]); 12]> = SmallVec::new();
    fields.push((Known::Accept, b"text/event-stream"));
    fields.push((Known::UserAgent, USER_AGENT));
    if let Some(upstream) = &upstream {
        session_fields(upstream, &mut fields);
    }
    fields.extend(at.map(|at| (Known::LastEventId, at)));
    let request =
        Request { method: Method::Get, usual: false, fields: &fields, params: &[], body: None, repeatable: true };
    let wish = Wish::At(upstream.as_ref().map_or(0, |upstream| upstream.instance));
    let until = deadline(shard, snapshot.settings.servers[server.index()].timeout_ms);
    let who = feed.who.borrow().clone();
    let whom = Whom::reader(&who, &snapshot);
    let shown = shown::due_to(shard, &snapshot, server, &who, until).await?;
    let lane = Lanes::new(&snapshot, server, wish, shown.as_ref()).next(shard);
    let lane = lane.map(exchange::patient).ok_or(UpstreamFault::NoAddress)?;
    let clearance = Clearance::Session(feed.session.proof());
    let request = shard.upstreams.compose(clearance, &lane, &request).ok_or(UpstreamFault::NoBuffer)?;
    part.abort.reset();
    part.at.set(lane.instance.digest);
    let mut work = pin!(shard.upstreams.exchange(&lane, request, until, &part.abort));
    let result = finished(shard, feed, part, work.as_mut()).await;
    match &result {
        Err(UpstreamFault::Unreachable | UpstreamFault::NoAddress) => lane.state.poke.unreachable(),
        Ok(answer) if matches!(answer.status(), 401 | 403) => {
            shown::refused_by(shard, &snapshot, server, whom, shown.as_ref());
        }
        _ => {}
    }
    result
}

/// Reads a server's stream into the log.
pub(super) async fn read(
    shard: &Rc<Shard>,
    feed: &Rc<Feed>,
    part: &Part,
    mut answer: Answer,
    source: &mut Source,
) -> Over {
    answer.allow_until(NEVER);
    let mut parser = EventParser::new();
    loop {
        // Those that waited for their servers together have room for one of them after the other.
        has_room(shard, feed, part).await;
        let mut raw = Vec::new();
        let over = match answer.decode(|data| raw.extend_from_slice(data)) {
            Ok(done) => take(shard, feed, part, &mut parser, &raw, source).or(done.then_some(Over::Clean)),
            Err(_) => Some(Over::Broken),
        };
        drop(raw);
        tell_refused(shard, feed, part).await;
        if let Some(over) = over {
            // Whose connection it is next, is no affair of this stream's.
            part.abort.reset();
            if answer.done() {
                retire(shard, answer).await;
            } else {
                answer.abandon();
            }
            return over;
        }
        has_room(shard, feed, part).await;
        let filled = if feed.wants(shard, part) {
            finished(shard, feed, part, pin!(answer.fill_late(&shard.buffers))).await
        } else {
            Err(UpstreamFault::Abandoned)
        };
        // What a socket has received before it was shut can still be read.
        let wanted = feed.wants(shard, part);
        if filled.is_err() || !wanted {
            part.abort.reset();
            answer.abandon();
            return if wanted { Over::Broken } else { Over::Unwanted };
        }
    }
}

/// Waits for room in the log. A server is not read while there is none.
async fn has_room(shard: &Shard, feed: &Feed, part: &Part) {
    while !shard.feeds.room(feed) && feed.wants(shard, part) {
        feed.pause();
        changed(shard, feed, feed.until(shard)).await;
    }
}

/// Turns what has arrived into messages of the log.
fn take(
    shard: &Shard,
    feed: &Feed,
    part: &Part,
    parser: &mut EventParser,
    raw: &[u8],
    source: &mut Source,
) -> Option<Over> {
    let (mut at, mut over, mut pushed) = (0, None, false);
    while at < raw.len() && over.is_none() {
        match parser.push(&raw[at..]) {
            Ok(consumed) => at += consumed,
            Err(_) => over = Some(Over::Invalid),
        }
        if !parser.ready() || over.is_some() {
            continue;
        }
        let event = parser.event();
        let weighed = weigh(shard, feed, part, &event);
        let message = match &weighed {
            Weighed::Forward | Weighed::Final(None) => event.data,
            Weighed::Changed(data) | Weighed::Final(Some(data)) => Some(&**data),
            Weighed::Drop | Weighed::End | Weighed::Invalid => None,
        };
        if let Some(message) = message {
            feed.push(message);
            pushed = true;
        }
        match weighed {
            Weighed::Final(_) => over = Some(Over::Answered),
            Weighed::End => over = Some(Over::Clean),
            Weighed::Invalid if feed.asked.is_some() => over = Some(Over::Invalid),
            _ => {}
        }
        source.note(&event);
    }
    if pushed {
        if over == Some(Over::Answered) {
            feed.outlet.borrow_mut().finish();
        }
        shard.feeds.settle(feed);
        feed.changed();
    }
    over
}

/// What becomes of an event.
pub(super) enum Weighed {
    /// As it came.
    Forward,
    /// The stream's end, which concerns its client not.
    End,
    Changed(Vec<u8>),
    /// The answer, and what of it is changed.
    Final(Option<Vec<u8>>),
    Drop,
    Invalid,
}

fn weigh(shard: &Shard, feed: &Feed, part: &Part, event: &Event<'_>) -> Weighed {
    let Some(data) = event.data.filter(|data| is_message(event) && !data.is_empty()) else { return Weighed::Drop };
    let Ok(facts) = shard.answers().read(data) else {
        shard.count(Count::EventsInvalid);
        return Weighed::Invalid;
    };
    if let Some(listening) = &feed.listening {
        return listener::weigh(shard, feed, part, listening, &facts, data);
    }
    if matches!(facts.shape, Shape::Result | Shape::Error) {
        // On a session's own stream there are none (MCP 2025-11-25 basic/transports).
        let ours = match (&feed.asked, &facts.id) {
            (Some(asked), Some(given)) => id::same(asked, given),
            _ => false,
        };
        if !ours {
            shard.count(Count::EventsForeign);
        }
        return if ours { Weighed::Final(feed.exposed(shard, part, data)) } else { Weighed::Drop };
    }
    let (snapshot, who) = (shard.snapshot(), feed.who.borrow().clone());
    let Some(eyes) = feed.eyes(shard, &snapshot, &who, part) else { return Weighed::Drop };
    match events::said(shard, &eyes, data) {
        Said::Forward => Weighed::Forward,
        Said::Changed(data) => Weighed::Changed(data),
        Said::Drop => Weighed::Drop,
        Said::Invalid => Weighed::Invalid,
        Said::Refused(id, why) => {
            part.refusals.borrow_mut().push((id.into(), why));
            Weighed::Drop
        }
    }
}

async fn tell_refused(shard: &Shard, feed: &Feed, part: &Part) {
    loop {
        if !feed.wants(shard, part) {
            // Its server hears so by the end of the stream; told one by one, it could keep this here for long.
            part.refusals.take();
        }
        let Some((id, why)) = part.refusals.borrow_mut().pop() else { return };
        let snapshot = shard.snapshot();
        let Some(server) = snapshot.server_by_digest(part.server) else { continue };
        Box::pin(events::refuse(shard, &snapshot, server, &feed.session, part.upstream.get(), &id, why)).await;
    }
}

/// Waits for something in flight, which ends early when nobody needs the stream any more.
pub(super) async fn finished<F: Future>(shard: &Shard, feed: &Feed, part: &Part, mut work: Pin<&mut F>) -> F::Output {
    loop {
        let turn = feed.turn();
        let wanted = feed.wants(shard, part);
        if !wanted {
            // What is in flight ends by itself then.
            part.abort.fire();
        }
        let until = if wanted { feed.until(shard) } else { NEVER };
        tell_refused(shard, feed, part).await;
        let mut alarm = pin!(shard.timers.sleep_until(until));
        let poll = |cx: &mut Context<'_>| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if feed.turn() != turn || alarm.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            feed.remember(cx.waker());
            Poll::Pending
        };
        if let Some(done) = poll_fn(poll).await {
            return done;
        }
    }
}

/// What the box of a read takes.
#[cfg(test)]
pub(super) fn read_bytes() -> usize {
    type Arguments = (&'static Rc<Shard>, &'static Rc<Feed>, &'static Part, Answer, &'static mut Source);
    fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }
    size(|(shard, feed, part, answer, source): Arguments| read(shard, feed, part, answer, source))
}
