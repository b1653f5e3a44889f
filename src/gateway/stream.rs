//! Event streams, parsed and written anew: the answer to a request that comes as events, and a subscription. Of an
//! answer in a session a log is kept, so that its client can come back for what it missed.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;

use crate::base::limits::{
    HOUSEKEEPING_MS, STREAM_ACKNOWLEDGED_MS_MAX, STREAM_RETRY_MS, STREAM_TOOLS_BYTES, STREAM_TOOLS_KEPT,
};
use crate::base::time::Moment;
use crate::http::body as chunks;
use crate::http::head::{Framing, Version};
use crate::http::sse::{self, Event, EventParser};
use crate::jsonrpc::answer::Answer as Facts;
use crate::jsonrpc::id;
use crate::jsonrpc::scan::Shape;
use crate::mcp::revision::Era;
use crate::mcp::subscription;
use crate::mcp::subscription::joint::Announced;
use crate::policy::decide;
use crate::record::frame::Status;
use crate::session::outlet::{Taken, TapKey};
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Abort, Answer};

use super::answer::{accept, deadline, of_facts, retire};
use super::conn::Conn;
use super::events::{self, Eyes, Said, Why};
use super::flight::{Ended, Flight, NEVER, Next, end, reasoned};
use super::live::{self, Feed, Source, Told};
use super::modern;
use super::refusal::{Kind, Refusal};
use super::route;
use super::session::write_head;
use super::shard::{Held, Phase, Shard};
use super::tally::Count;
use super::tap::expiry;
use super::watch::{self, Heed, Woke};

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// The answer to a request, and what comes before it. Silence is bounded by the server's timeout.
    Answer {
        /// Milliseconds.
        timeout: u64,
    },
    /// Notifications that were asked for, until one side ends it.
    Subscription,
}

/// What an event is to become.
pub(super) enum Judged {
    Forward,
    /// This instead of its data.
    Instead(Vec<u8>),
    Drop,
    /// The answer; as it came, or this instead of its data.
    Final(Facts, Option<Vec<u8>>),
    /// The end, without a message of the server's.
    Over,
    /// A request of the server that its client does not get; its id.
    Refused(Vec<u8>, Why),
    /// Not a message.
    Invalid,
    /// The answer is one that must be withheld.
    Withheld(Kind),
}

/// One stream under way.
struct Relay<'a> {
    shard: &'a Shard,
    flight: &'a Flight,
    carries: Carries,
    framing: Framing,
    /// What it works with.
    tools: Tools,
    /// What is kept of it.
    kept: Option<Kept>,
    bytes: usize,
    /// When the client was last sent something.
    spoken: Moment,
    /// Of a subscription: what its client knows of the lists.
    told: Option<Box<Told>>,
    /// What was sent has to be acknowledged soon.
    heeded: bool,
    /// When the caller's token ends.
    expires: Moment,
}

/// What relaying takes, used again by the next stream.
#[derive(Default)]
pub(super) struct Tools {
    parser: EventParser,
    /// Events as they go on, and not framed yet.
    events: Vec<u8>,
    /// To be sent.
    out: Vec<u8>,
}

impl Tools {
    fn clear(&mut self) {
        self.parser.reset();
        self.events.clear();
        self.out.clear();
        self.events.shrink_to(STREAM_TOOLS_BYTES);
        self.out.shrink_to(STREAM_TOOLS_BYTES);
    }
}

/// What is kept of an answer in a session.
struct Kept {
    feed: Rc<Feed>,
    /// The client's place at it, for as long as it reads here.
    tap: Option<TapKey>,
    /// Where the server's stream goes on, if the server can do that.
    source: Source,
}

/// How a stream ended.
enum End {
    /// With its answer.
    Answered(Facts),
    /// As it should, without one.
    Clean,
    /// The client left.
    Gone,
    /// The client took its request back.
    Cancelled,
    /// The server's side broke, or what it said was wrong.
    Broken(UpstreamFault),
    /// The answer was withheld.
    Withheld(Kind),
}

/// Relays an event stream to its end.
pub(super) async fn relay(
    shard: &Shard,
    conn: &mut Conn,
    flight: &Flight,
    mut answer: Answer,
    abort: &Abort,
    carries: Carries,
) -> Result<Next, Refusal> {
    let framing = if conn.head.version == Version::Http11 { Framing::Chunked } else { Framing::UntilClose };
    if !matches!(carries, Carries::Answer { .. }) {
        conn.slot.phase.set(Phase::Stream);
        answer.allow_until(NEVER);
    }
    let mut relay = Relay {
        shard,
        flight,
        carries,
        framing,
        tools: shard.tools.borrow_mut().pop().unwrap_or_default(),
        kept: None,
        bytes: 0,
        spoken: shard.timers.now().mono,
        told: (carries == Carries::Subscription).then(Box::default),
        heeded: false,
        expires: expiry(shard, flight.caller.expires),
    };
    write_head(conn, shard, &mut relay.tools.out, framing);
    relay.keep(conn);
    relay.look_at_lists();
    let ended = relay.run(conn, &mut answer, abort).await;
    let next = relay.finish(conn, answer, ended).await;
    Ok(next)
}

impl Relay<'_> {
    /// Begins to keep what can be asked for again: an answer in a session.
    fn keep(&mut self, conn: &Conn) {
        if self.flight.era != Era::Legacy || !matches!(self.carries, Carries::Answer { .. }) {
            return;
        }
        let Some((feed, tap)) = self.shard.feeds.answer(self.shard, self.flight, &conn.slot.socket) else { return };
        if self.flight.revision.primes_streams() {
            let mut event = Vec::with_capacity(64);
            feed.outlet.borrow().prime(tap, STREAM_RETRY_MS, &mut event);
            self.put(&event);
        }
        self.kept = Some(Kept { feed, tap: Some(tap), source: Source::default() });
    }

    async fn run(&mut self, conn: &mut Conn, answer: &mut Answer, abort: &Abort) -> End {
        loop {
            let (ended, refused) = self.take(answer);
            if ended.is_some() {
                self.flight.answer_leaves(self.shard);
            }
            self.pour(conn);
            // The answer leaves with the end of the stream.
            let last = matches!(ended, Some(End::Answered(_))) && refused.is_empty();
            if !last && !self.flush(conn).await {
                if self.client_matters() {
                    return End::Gone;
                }
                self.cut();
            }
            for (id, why) in refused {
                Box::pin(events::refuse_of(self.shard, self.flight, &id, why)).await;
            }
            if let Some(ended) = ended {
                return ended;
            }
            self.wait_for_room(answer, abort).await;
            if self.is_revoked() {
                return End::Withheld(Kind::Revoked);
            }
            if !matches!(self.carries, Carries::Answer { .. }) && self.is_over() {
                return End::Clean;
            }
            if let Some(ended) = self.wait(conn, answer, abort).await {
                return ended;
            }
        }
    }

    /// Whether its caller's token has ended, is not known any more, or would not be let in any more.
    fn is_over(&self) -> bool {
        let (shard, snapshot) = (self.shard, self.shard.snapshot());
        let same = snapshot.settings_epoch == self.flight.snapshot.settings_epoch;
        self.expires <= shard.timers.now().mono
            || !self.flight.stands(shard)
            || !same && !self.is_still_allowed(&snapshot)
    }

    /// Whether its caller, or its task, has been revoked meanwhile.
    fn is_revoked(&self) -> bool {
        self.flight.is_revoked(self.shard)
    }

    /// Whether, under other settings, its caller may still have all that it was granted, and where it has that from.
    fn is_still_allowed(&self, snapshot: &Held) -> bool {
        let flight = self.flight;
        let eyes = Eyes::of(self.shard, flight, snapshot);
        let at = |instance| instance == 0 || snapshot.states[eyes.server.index()].has(instance);
        let there = std::ptr::eq(eyes.snapshot, snapshot) && at(flight.instance);
        let subscription = flight.opted.subscription().map(RefCell::borrow);
        let readable = subscription.is_none_or(|it| it.uris().all(|uri| eyes.may_read(uri)));
        there && readable && decide::concerns(&snapshot.table, &eyes.caller, eyes.task, eyes.server, None)
    }

    /// Whether the end of the client is the end of the stream: always but for a legacy call, which a disconnect does
    /// not cancel (MCP 2025-11-25 basic/transports).
    fn client_matters(&self) -> bool {
        self.flight.era == Era::Modern || !matches!(self.carries, Carries::Answer { .. })
    }

    /// Waits for more of the stream, keeping the client's side alive meanwhile.
    async fn wait(&mut self, conn: &mut Conn, answer: &mut Answer, abort: &Abort) -> Option<End> {
        let shard = self.shard;
        let streaming = !matches!(self.carries, Carries::Answer { .. });
        let heed = if streaming { Heed::All } else { Heed::Turns };
        let mut work = pin!(async {
            if streaming { answer.fill_late(&shard.buffers).await } else { answer.fill(&shard.buffers).await }
        });
        loop {
            let until = self.spoken.plus_ms(self.flight.snapshot.settings.limits.keepalive_ms);
            let (quiet_until, look_at) = (until, live::look_at(&self.flight.caller, shard.timers.last().mono));
            let until = if streaming { until.min(self.expires) } else { until }.min(look_at);
            let until = self.told.as_ref().and_then(|told| told.due()).map_or(until, |due| due.min(until));
            let watched = self.client_matters() || self.kept.as_ref().is_some_and(|kept| kept.tap.is_some());
            match watch::next(shard, conn, work.as_mut(), until, watched, heed).await {
                Woke::Done(Ok(())) => {
                    self.heed_silence(conn, false);
                    return None;
                }
                Woke::Done(Err(_)) if self.flight.is_cancelled(shard) => return Some(End::Cancelled),
                Woke::Done(Err(_)) if abort.fired() => {
                    return Some(if conn.gone { End::Gone } else { End::Broken(UpstreamFault::Cut) });
                }
                Woke::Done(Err(fault)) => return Some(End::Broken(fault)),
                Woke::Gone if self.client_matters() => abort.fire(),
                Woke::Gone => self.cut(),
                Woke::Draining => {
                    abort.fire();
                    // What was in flight ends by itself now.
                    let _ = work.as_mut().await;
                    return Some(End::Clean);
                }
                Woke::Time => {
                    if self.is_revoked() {
                        abort.fire();
                        let _ = work.as_mut().await;
                        return Some(End::Withheld(Kind::Revoked));
                    }
                    if streaming && self.is_over() {
                        abort.fire();
                        let _ = work.as_mut().await;
                        return Some(End::Clean);
                    }
                    if self.look_at_lists() {
                        self.flush(conn).await;
                        continue;
                    }
                    if shard.timers.now().mono < quiet_until {
                        // There was nothing to see for this one.
                        continue;
                    }
                    let mut comment = Vec::with_capacity(24);
                    sse::write_comment(&mut comment, b"keep-alive");
                    self.put(&comment);
                    self.heed_silence(conn, true);
                    self.flush(conn).await;
                }
            }
        }
    }

    /// Looks whether the client sees other lists than it knows of, without its server having said so: under other rules,
    /// and after an operator's approval. Whether that is all there was to do.
    fn look_at_lists(&mut self) -> bool {
        let Some(told) = self.told.take() else { return false };
        let (shard, snapshot) = (self.shard, self.shard.snapshot());
        let eyes = Eyes::of(shard, self.flight, &snapshot);
        let looks = shard.feeds.view_of(&eyes, |view| told.look(shard, view));
        let due = told.due().is_some_and(|due| due <= shard.timers.now().mono);
        if due {
            let changed = shard.feeds.view_of(&eyes, |view| told.looked(view));
            for (list, has_changed) in Announced::ALL.into_iter().zip(changed) {
                let subscription = self.flight.opted.subscription().filter(|_| has_changed);
                if let Some(message) = subscription.and_then(|it| it.borrow().changed(list)) {
                    self.message(&message);
                }
            }
        }
        self.told = Some(told);
        looks || due
    }

    /// While a comment is on its way TCP does not probe, and would repeat it for a quarter of an hour to a client that
    /// is gone; so it has to be acknowledged soon. A slow reader of the stream itself has more time.
    fn heed_silence(&mut self, conn: &Conn, heed: bool) {
        if self.heeded != heed {
            self.heeded = heed;
            conn.slot.socket.acknowledged_within(if heed { STREAM_ACKNOWLEDGED_MS_MAX } else { 0 });
        }
    }

    /// Turns everything that has arrived into output. Also gives the ids of requests that policy refuses.
    fn take(&mut self, answer: &mut Answer) -> (Option<End>, Vec<(Vec<u8>, Why)>) {
        let (mut refused, mut ended) = (Vec::new(), None);
        let decoded = answer.decode(|mut data| {
            while !data.is_empty() && ended.is_none() {
                match self.tools.parser.push(data) {
                    Ok(consumed) => data = data.get(consumed..).unwrap_or_default(),
                    Err(_) => ended = Some(End::Broken(UpstreamFault::BadAnswer)),
                }
                if self.tools.parser.ready() && ended.is_none() {
                    ended = self.event(&mut refused);
                }
            }
        });
        let ended = ended.or(match decoded {
            Ok(done) => done.then_some(End::Clean),
            Err(fault) => Some(End::Broken(fault)),
        });
        let mut events = std::mem::take(&mut self.tools.events);
        self.put(&events);
        events.clear();
        self.tools.events = events;
        (ended, refused)
    }

    /// One event: onto the output or into the log, or nowhere.
    fn event(&mut self, refused: &mut Vec<(Vec<u8>, Why)>) -> Option<End> {
        let Tools { parser, events, .. } = &mut self.tools;
        let event = parser.event();
        let judged = judge(self.shard, self.flight, &event);
        let data = match &judged {
            Judged::Instead(data) | Judged::Final(_, Some(data)) => Some(&**data),
            Judged::Forward | Judged::Final(_, None) => event.data,
            _ => None,
        };
        if let Some(kept) = &mut self.kept {
            kept.source.note(&event);
            if let Some(data) = data {
                kept.feed.outlet.borrow_mut().push(data);
            }
        } else if data.is_some() {
            // No ids: what cannot be resumed must not look as if it could.
            let _ = sse::write_event(events, &Event { id: None, data, retry: None, ..event });
        }
        match judged {
            Judged::Final(facts, _) => Some(End::Answered(facts)),
            Judged::Over => Some(End::Clean),
            Judged::Refused(id, why) => {
                refused.push((id, why));
                None
            }
            Judged::Forward | Judged::Instead(_) | Judged::Drop => None,
            Judged::Invalid => Some(End::Broken(UpstreamFault::BadAnswer)),
            Judged::Withheld(kind) => Some(End::Withheld(kind)),
        }
    }

    /// Puts what the log has for this client into the output; for another connection that reads it, wakes that.
    fn pour(&mut self, conn: &mut Conn) {
        let Some(kept) = &mut self.kept else { return };
        let Some(tap) = kept.tap else {
            self.shard.feeds.settle(&kept.feed);
            return kept.feed.changed();
        };
        let mut events = Vec::new();
        let taken = kept.feed.outlet.borrow_mut().take(tap, usize::MAX, &mut events);
        self.shard.feeds.settle(&kept.feed);
        if taken == Taken::Gone {
            // It came back on another connection.
            conn.gone = true;
            conn.stream.shutdown();
            self.cut();
        }
        self.put(&events);
    }

    /// The client does not read here any more: what it misses is kept for a while.
    fn cut(&mut self) {
        if let Some(kept) = &mut self.kept
            && let Some(tap) = kept.tap.take()
        {
            self.shard.feeds.leave(self.shard, &kept.feed, tap);
        }
    }

    /// While the log is full the server is not read: until somebody comes for what is in it, or its time is over.
    async fn wait_for_room(&self, answer: &Answer, abort: &Abort) {
        if let Some(kept) = &self.kept {
            while !self.shard.feeds.room(&kept.feed) && !abort.fired() {
                answer.allow_until(NEVER);
                kept.feed.pause();
                let until = self.shard.timers.now().mono.plus_ms(HOUSEKEEPING_MS);
                live::changed(self.shard, &kept.feed, until).await;
            }
        }
        if let Carries::Answer { timeout } = self.carries {
            answer.allow_until(deadline(self.shard, timeout));
        }
    }

    /// Puts stream bytes into the output, framed.
    fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        if bytes.is_empty() {
            return;
        }
        if self.framing == Framing::Chunked {
            chunks::write_chunk(&mut self.tools.out, bytes);
        } else {
            self.tools.out.extend_from_slice(bytes);
        }
    }

    async fn flush(&mut self, conn: &mut Conn) -> bool {
        if self.tools.out.is_empty() {
            return true;
        }
        self.spoken = self.shard.timers.now().mono;
        // Nothing is received while this waits: a slow reader slows the server down, and no more is kept here.
        let sent = conn.send(self.shard, &self.tools.out).await;
        if matches!(self.carries, Carries::Answer { .. }) {
            self.tools.out.clear();
        } else {
            // Many of these are silent for long.
            self.tools = Tools { parser: std::mem::take(&mut self.tools.parser), ..Tools::default() };
        }
        sent
    }

    /// The end of the stream towards the client, and the outcome.
    async fn finish(mut self, conn: &mut Conn, answer: Answer, ended: End) -> Next {
        let (shard, flight) = (self.shard, self.flight);
        let waiting = matches!(self.carries, Carries::Answer { .. });
        let mut clean = true;
        let answered = matches!(ended, End::Answered(_));
        let mut outcome = match ended {
            End::Answered(facts) => of_facts(&facts, 200, self.bytes),
            End::Clean if !waiting => {
                self.last_message();
                Ended::of(Status::Ok, 200)
            }
            // Polling (SEP-1699): the server hung up on purpose, and its client comes back for the rest.
            End::Clean if self.hang_up() => Ended::of(Status::Detached, 200),
            End::Clean => self.error(Kind::ServerCut, Status::Cut),
            End::Gone => {
                clean = false;
                Ended::of(Status::Cancelled, 0)
            }
            // Nobody waits for an answer any more, so there is none (MCP 2025-11-25 basic/utilities/cancellation).
            End::Cancelled => Ended::of(Status::Cancelled, 200),
            End::Withheld(kind) => self.error(kind, Status::Invalid),
            End::Broken(fault) => {
                let (kind, status) = match fault {
                    UpstreamFault::Timeout => (Kind::ServerTimeout, Status::Timeout),
                    UpstreamFault::BadAnswer => (Kind::ServerInvalid, Status::Invalid),
                    _ => (Kind::ServerCut, Status::Cut),
                };
                if waiting && (fault == UpstreamFault::BadAnswer || !self.hang_up()) {
                    self.error(kind, status)
                } else {
                    // A client that can resume must see a broken stream, not the end of one.
                    clean = false;
                    Ended::of(status, 200)
                }
            }
        };
        self.heed_silence(conn, false);
        self.leave(conn);
        if clean {
            if self.framing == Framing::Chunked {
                chunks::write_last_chunk(&mut self.tools.out);
            }
            if !self.flush(conn).await && answered && self.client_matters() {
                outcome = Ended::of(Status::Cancelled, 0);
            }
        }
        let next =
            if clean && self.framing == Framing::Chunked && !shard.draining() { Next::Keep } else { Next::Close };
        end(shard, flight, Ended { answer_bytes: self.bytes, streamed: true, ..outcome });
        if matches!(outcome.status, Status::Ok | Status::Error) && waiting || answer.done() {
            retire(shard, answer).await;
        } else {
            answer.abandon();
        }
        conn.slot.phase.set(Phase::Busy);
        self.give_back();
        next
    }

    fn give_back(&mut self) {
        let mut tools = std::mem::take(&mut self.tools);
        let mut kept = self.shard.tools.borrow_mut();
        if kept.len() < STREAM_TOOLS_KEPT {
            tools.clear();
            kept.push(tools);
        }
    }

    /// The server may go on with the answer behind its last event; `false` where it cannot.
    fn hang_up(&self) -> bool {
        let Some(Kept { feed, source: Source { at: Some(at), retry, .. }, .. }) = &self.kept else { return false };
        feed.outlet.borrow_mut().hang_up(*retry, at);
        true
    }

    /// The end of what is fed here. The log stays for a while, for a client that did not get all of it.
    fn leave(&mut self, conn: &mut Conn) {
        if let Some(kept) = &self.kept {
            let mut outlet = kept.feed.outlet.borrow_mut();
            if !outlet.is_hung_up() {
                outlet.finish();
            }
        }
        self.pour(conn);
        self.cut();
    }

    /// An error in the stream, where the answer should be (MCP 2026-07-28 basic/transports/streamable-http).
    fn error(&mut self, kind: Kind, status: Status) -> Ended {
        let refusal = reasoned(kind).to(self.flight.era, self.flight.id.as_deref());
        let mut message = Vec::with_capacity(256);
        refusal.write_body(&mut message);
        self.message(&message);
        Ended { code: kind.row().code, ..Ended::of(status, 200) }
    }

    /// A subscription ends with its result (MCP 2026-07-28 basic/patterns/subscriptions).
    fn last_message(&mut self) {
        if self.carries != Carries::Subscription {
            return;
        }
        let message = subscription::end(self.flight.id.as_deref().unwrap_or(b"null"));
        self.message(&message);
    }

    fn message(&mut self, data: &[u8]) {
        if let Some(kept) = &self.kept {
            kept.feed.outlet.borrow_mut().push(data);
            return;
        }
        let event = Event { id: None, name: Some(b"message"), data: Some(data), retry: None };
        let mut bytes = Vec::with_capacity(data.len() + 32);
        let _ = sse::write_event(&mut bytes, &event);
        self.put(&bytes);
    }
}

/// What an event of the server may become.
pub(super) fn judge(shard: &Shard, flight: &Flight, event: &Event<'_>) -> Judged {
    // Without data it only primes resumption (MCP 2025-11-25), which is between the gateway and each side.
    let message = flight.era == Era::Modern || is_message(event);
    let Some(data) = event.data.filter(|data| message && !data.is_empty()) else { return Judged::Drop };
    if let Some(judged) = noticed(shard, flight, data) {
        return judged;
    }
    let Ok(facts) = shard.answers().read(data) else { return Judged::Invalid };
    if flight.era == Era::Modern {
        return modern::judge(shard, flight, facts, data);
    }
    match facts.shape {
        Shape::Result | Shape::Error => answer_event(shard, flight, facts, data),
        Shape::Request | Shape::Notification => server_event(shard, flight, data),
    }
}

/// What a message may become that begins like a request or a notification, and is one: of most of what comes before an
/// answer this is the only look.
fn noticed(shard: &Shard, flight: &Flight, data: &[u8]) -> Option<Judged> {
    NAMED_FIRST.iter().find(|begin| data.starts_with(begin))?;
    let mut reader = shard.reader();
    let envelope = reader.read(data).ok()?;
    match (flight.era, envelope.shape) {
        (Era::Modern, Shape::Notification) => Some(modern::noticed(shard, flight, envelope, data)),
        (Era::Legacy, Shape::Request | Shape::Notification) => {
            let current = shard.snapshot();
            Some(of_said(events::weighed(shard, &Eyes::of(shard, flight, &current), envelope, data)))
        }
        _ => None,
    }
}

/// How messages with a method begin, as most servers write them.
const NAMED_FIRST: [&[u8]; 3] =
    [b"{\"jsonrpc\":\"2.0\",\"method\"", b"{\"method\"", b"{\"jsonrpc\": \"2.0\", \"method\""];

/// Whether an event carries a message: those of other names mean nothing here (WHATWG HTML 9.2.6).
pub(super) fn is_message(event: &Event<'_>) -> bool {
    event.name.is_none_or(|name| name.is_empty() || name == b"message")
}

fn answer_event(shard: &Shard, flight: &Flight, facts: Facts, data: &[u8]) -> Judged {
    let ours = match (&flight.id, &facts.id) {
        (Some(asked), Some(given)) => id::same(asked, given),
        _ => false,
    };
    if !ours {
        shard.count(Count::EventsForeign);
        return Judged::Drop;
    }
    match accept(shard, flight, &facts, data, 200) {
        Ok(()) => {
            let exposed = route::exposed(flight, data);
            Judged::Final(facts, exposed)
        }
        Err(kind) => Judged::Withheld(kind),
    }
}

/// A request or notification of the server.
fn server_event(shard: &Shard, flight: &Flight, data: &[u8]) -> Judged {
    let current = shard.snapshot();
    of_said(events::said(shard, &Eyes::of(shard, flight, &current), data))
}

fn of_said(said: Said) -> Judged {
    match said {
        Said::Forward => Judged::Forward,
        Said::Changed(data) => Judged::Instead(data),
        Said::Drop => Judged::Drop,
        Said::Invalid => Judged::Invalid,
        Said::Refused(id, why) => Judged::Refused(id, why),
    }
}

/// The one message that is waited for on a stream of which nothing else is given on: the answer to an `initialize`.
pub(super) async fn event_with(
    shard: &Shard,
    answer: &mut Answer,
    ours: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, UpstreamFault> {
    let mut parser = EventParser::new();
    let mut raw = Vec::new();
    loop {
        let done = answer.decode(|data| raw.extend_from_slice(data))?;
        let mut at = 0;
        while at < raw.len() {
            at += parser.push(&raw[at..]).map_err(|_| UpstreamFault::BadAnswer)?;
            let event = parser.event();
            let data = event.data.filter(|data| parser.ready() && !data.is_empty());
            if let Some(data) = data.filter(|data| ours(data)) {
                return Ok(data.to_vec());
            }
        }
        raw.clear();
        if done {
            return Err(UpstreamFault::Cut);
        }
        answer.fill(&shard.buffers).await?;
    }
}
