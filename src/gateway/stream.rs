//! Event streams, parsed and written anew: the answer to a request that comes as events, a subscription, a legacy
//! session's GET stream; and the DELETE that ends a session.

use std::pin::pin;

use smallvec::SmallVec;

use crate::base::limits::{ASK_REFUSED_MS_MAX, STREAM_ACKNOWLEDGED_MS_MAX};
use crate::base::time::Moment;
use crate::http::head::{Framing, Method, Version};
use crate::http::sse::{self, Event, EventParser};
use crate::http::{body as chunks, reply};
use crate::jsonrpc::answer::Answer as Facts;
use crate::jsonrpc::scan::Shape;
use crate::jsonrpc::{id, text};
use crate::mcp::method::{self as methods, Sender, Verb};
use crate::mcp::revision::Era;
use crate::mcp::subscription;
use crate::policy::decide;
use crate::record::frame::Status;
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Abort, Answer, Clearance, Request};

use super::answer::{accept, deadline, of_facts, retire};
use super::conn::Conn;
use super::exchange::{USER_AGENT, lane, legacy_fields, watched};
use super::flight::{Ended, Flight, NEVER, Next, end, reasoned};
use super::modern;
use super::refusal::{Kind, Refusal};
use super::sessions;
use super::shard::{Phase, Shard};
use super::watch::{self, Woke};

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
    /// A session's own messages.
    Session {
        /// It goes on where another stream ended, so answers may come too.
        resumed: bool,
    },
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
    /// A request of the server that policy refuses; its id.
    Refused(Vec<u8>),
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
    parser: EventParser,
    /// Decoded and not parsed yet.
    raw: Vec<u8>,
    /// To be sent.
    out: Vec<u8>,
    /// Events had ids: the client can resume.
    resumable: bool,
    bytes: usize,
    /// When the client was last sent something.
    spoken: Moment,
    /// What was sent has to be acknowledged soon.
    heeded: bool,
    /// When the caller's token ends.
    expires: Moment,
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
        parser: EventParser::new(),
        raw: Vec::new(),
        out: Vec::new(),
        resumable: false,
        bytes: 0,
        spoken: shard.timers.now().mono,
        heeded: false,
        expires: expiry(shard, flight),
    };
    relay.write_head(conn);
    let ended = relay.run(conn, &mut answer, abort).await;
    let next = relay.finish(conn, answer, ended).await;
    Ok(next)
}

impl Relay<'_> {
    fn write_head(&mut self, conn: &Conn) {
        conn.write_status(self.shard, &mut self.out, 200);
        for (name, value) in
            [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")]
        {
            let _ = reply::write_field(&mut self.out, name, value.as_bytes());
        }
        reply::finish(&mut self.out, self.framing);
    }

    async fn run(&mut self, conn: &mut Conn, answer: &mut Answer, abort: &Abort) -> End {
        loop {
            let (ended, refused) = self.take(answer);
            if ended.is_some() {
                self.flight.answer_leaves(self.shard);
            }
            if !self.flush(conn).await && self.client_matters() {
                return End::Gone;
            }
            for id in refused {
                refuse_ask(self.shard, conn, self.flight, &id).await;
            }
            if let Some(ended) = ended {
                return ended;
            }
            if !matches!(self.carries, Carries::Answer { .. }) && self.expires <= self.shard.timers.now().mono {
                return End::Clean;
            }
            if let Carries::Answer { timeout } = self.carries {
                answer.allow_until(deadline(self.shard, timeout));
            }
            if let Some(ended) = self.wait(conn, answer, abort).await {
                return ended;
            }
        }
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
        let mut work = pin!(async {
            if streaming { answer.fill_late(&shard.buffers).await } else { answer.fill(&shard.buffers).await }
        });
        loop {
            let until = self.spoken.plus_ms(self.flight.snapshot.settings.limits.keepalive_ms);
            let until = if streaming { until.min(self.expires) } else { until };
            match watch::next(shard, conn, work.as_mut(), until, self.client_matters(), streaming).await {
                Woke::Done(Ok(())) => {
                    self.heed_silence(conn, false);
                    return None;
                }
                Woke::Done(Err(_)) if self.flight.is_cancelled(shard) => return Some(End::Cancelled),
                Woke::Done(Err(_)) if abort.fired() => {
                    return Some(if conn.gone { End::Gone } else { End::Broken(UpstreamFault::Cut) });
                }
                Woke::Done(Err(fault)) => return Some(End::Broken(fault)),
                Woke::Gone => abort.fire(),
                Woke::Draining => {
                    abort.fire();
                    // What was in flight ends by itself now.
                    let _ = work.as_mut().await;
                    return Some(End::Clean);
                }
                Woke::Time => {
                    if streaming && self.expires <= shard.timers.now().mono {
                        abort.fire();
                        let _ = work.as_mut().await;
                        return Some(End::Clean);
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

    /// While a comment is on its way TCP does not probe, and would repeat it for a quarter of an hour to a client that
    /// is gone; so it has to be acknowledged soon. A slow reader of the stream itself has more time.
    fn heed_silence(&mut self, conn: &Conn, heed: bool) {
        if self.heeded != heed {
            self.heeded = heed;
            conn.slot.socket.acknowledged_within(if heed { STREAM_ACKNOWLEDGED_MS_MAX } else { 0 });
        }
    }

    /// Turns everything that has arrived into output. Also gives the ids of requests that policy refuses.
    fn take(&mut self, answer: &mut Answer) -> (Option<End>, Vec<Vec<u8>>) {
        let mut refused = Vec::new();
        let raw = &mut self.raw;
        let done = match answer.decode(|data| raw.extend_from_slice(data)) {
            Ok(done) => done,
            Err(fault) => return (Some(End::Broken(fault)), refused),
        };
        let raw = std::mem::take(&mut self.raw);
        let mut at = 0;
        let mut events = Vec::new();
        let mut ended = None;
        while at < raw.len() && ended.is_none() {
            match self.parser.push(&raw[at..]) {
                Ok(consumed) => at += consumed,
                Err(_) => ended = Some(End::Broken(UpstreamFault::BadAnswer)),
            }
            if self.parser.ready() && ended.is_none() {
                let mut event = self.parser.event();
                if self.flight.era == Era::Modern {
                    // Nothing of it can be resumed (MCP 2026-07-28 basic/transports/streamable-http).
                    (event.id, event.retry) = (None, None);
                }
                match judge(self.shard, self.flight, self.carries, &event) {
                    Judged::Forward => {
                        self.resumable |= event.id.is_some_and(|id| !id.is_empty());
                        let _ = sse::write_event(&mut events, &event);
                    }
                    Judged::Instead(data) => {
                        let _ = sse::write_event(&mut events, &Event { data: Some(&data), ..event });
                    }
                    Judged::Final(facts, other) => {
                        let data = other.as_deref().or(event.data);
                        let _ = sse::write_event(&mut events, &Event { data, ..event });
                        ended = Some(End::Answered(facts));
                    }
                    Judged::Over => ended = Some(End::Clean),
                    Judged::Refused(id) => refused.push(id),
                    Judged::Drop => {}
                    Judged::Invalid => ended = Some(End::Broken(UpstreamFault::BadAnswer)),
                    Judged::Withheld(kind) => ended = Some(End::Withheld(kind)),
                }
            }
        }
        self.put(&events);
        (ended.or(done.then_some(End::Clean)), refused)
    }

    /// Puts stream bytes into the output, framed.
    fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        if bytes.is_empty() {
            return;
        }
        if self.framing == Framing::Chunked {
            chunks::write_chunk(&mut self.out, bytes);
        } else {
            self.out.extend_from_slice(bytes);
        }
    }

    async fn flush(&mut self, conn: &mut Conn) -> bool {
        let out = std::mem::take(&mut self.out);
        if !out.is_empty() {
            self.spoken = self.shard.timers.now().mono;
        }
        // Nothing is received while this waits: a slow reader slows the server down, and no more is kept here.
        out.is_empty() || conn.send(self.shard, &out).await
    }

    /// The end of the stream towards the client, and the outcome.
    async fn finish(mut self, conn: &mut Conn, answer: Answer, ended: End) -> Next {
        let (shard, flight) = (self.shard, self.flight);
        let waiting = matches!(self.carries, Carries::Answer { .. });
        let mut clean = true;
        let outcome = match ended {
            End::Answered(facts) => of_facts(&facts, 200, self.bytes),
            End::Clean if !waiting => {
                self.last_message();
                Ended::of(Status::Ok, 200)
            }
            // Polling (SEP-1699): the server hung up on purpose, and its client comes back for the rest.
            End::Clean if self.resumable => Ended::of(Status::Detached, 200),
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
                if waiting && !self.resumable {
                    self.error(kind, status)
                } else {
                    // A client that can resume must see a broken stream, not the end of one.
                    clean = false;
                    Ended::of(status, 200)
                }
            }
        };
        self.heed_silence(conn, false);
        if clean {
            if self.framing == Framing::Chunked {
                chunks::write_last_chunk(&mut self.out);
            }
            self.flush(conn).await;
        }
        let next =
            if clean && self.framing == Framing::Chunked && !shard.draining() { Next::Keep } else { Next::Close };
        end(shard, flight, Ended { answer_bytes: self.bytes, ..outcome });
        if matches!(outcome.status, Status::Ok | Status::Error) && waiting || answer.done() {
            retire(shard, answer).await;
        } else {
            answer.abandon();
        }
        conn.slot.phase.set(Phase::Busy);
        next
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
        let event = Event { id: None, name: Some(b"message"), data: Some(data), retry: None };
        let mut bytes = Vec::with_capacity(data.len() + 32);
        let _ = sse::write_event(&mut bytes, &event);
        self.put(&bytes);
    }
}

/// The moment at which the caller's token ends.
fn expiry(shard: &Shard, flight: &Flight) -> Moment {
    let now = shard.timers.now();
    match flight.caller.expires {
        u64::MAX => NEVER,
        expires => now.mono.plus_ms(expires.saturating_mul(1000).saturating_sub(now.unix_ms)),
    }
}

/// What an event of the server may become.
pub(super) fn judge(shard: &Shard, flight: &Flight, carries: Carries, event: &Event<'_>) -> Judged {
    let Some(data) = event.data.filter(|data| !data.is_empty()) else {
        // Primes resumption (MCP 2025-11-25); a modern stream cannot be resumed.
        return if flight.era == Era::Legacy { Judged::Forward } else { Judged::Drop };
    };
    let Ok(facts) = shard.answers().read(data) else { return Judged::Invalid };
    if flight.era == Era::Modern {
        return modern::judge(shard, flight, facts, data);
    }
    match facts.shape {
        Shape::Result | Shape::Error => answer_event(shard, flight, carries, facts, data),
        Shape::Request | Shape::Notification => server_event(shard, flight, data),
    }
}

fn answer_event(shard: &Shard, flight: &Flight, carries: Carries, facts: Facts, data: &[u8]) -> Judged {
    match carries {
        Carries::Session { resumed: true } => Judged::Forward,
        Carries::Session { resumed: false } => Judged::Drop,
        Carries::Answer { .. } | Carries::Subscription => {
            let ours = match (&flight.id, &facts.id) {
                (Some(asked), Some(given)) => id::same(asked, given),
                _ => false,
            };
            if !ours {
                return Judged::Drop;
            }
            match accept(shard, flight, &facts, data, 200) {
                Ok(()) => Judged::Final(facts, None),
                Err(kind) => Judged::Withheld(kind),
            }
        }
    }
}

/// A request or notification of the server.
fn server_event(shard: &Shard, flight: &Flight, data: &[u8]) -> Judged {
    let mut reader = shard.reader();
    let Ok(envelope) = reader.read(data) else { return Judged::Invalid };
    let name = envelope.method_name(data).unwrap_or_default();
    let Some(method) = methods::find(name, flight.revision, Sender::Server) else { return Judged::Drop };
    let (table, caller) = (&flight.snapshot.table, &flight.caller);
    if envelope.shape == Shape::Request {
        let refused =
            method.ask().is_some_and(|ask| decide::asks(table, caller, flight.task, flight.server, ask).is_err());
        let id = envelope.id.map(|id| id.raw(data).to_vec()).unwrap_or_default();
        return if refused { Judged::Refused(id) } else { Judged::Forward };
    }
    if method.announces_change() {
        shard.control.poke(flight.server).changed();
    }
    if method.verb == Verb::ResourceUpdated {
        let uri = envelope.param(data, "uri").and_then(|member| member.text());
        let mut scratch = Vec::new();
        let uri = uri.and_then(|span| text::unescape(span.of(data), &mut scratch).ok());
        let readable = uri.is_some_and(|uri| decide::readable(table, caller, flight.task, flight.server, uri));
        return if readable { Judged::Forward } else { Judged::Drop };
    }
    Judged::Forward
}

/// Tells a legacy server that its request will not be answered, so that it does not wait.
pub(super) async fn refuse_ask(shard: &Shard, conn: &mut Conn, flight: &Flight, id: &[u8]) {
    let Some(session) = &flight.session else { return };
    let mut body = Vec::with_capacity(160);
    body.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    body.extend_from_slice(id);
    body.extend_from_slice(
        b",\"error\":{\"code\":-32601,\"message\":\"The gateway's policy does not let this server ask that.\"}}",
    );
    let lane = lane(&flight.snapshot, flight.server);
    let upstream = session.upstream(sessions::digest(flight));
    let mut fields: SmallVec<[(&'static str, &[u8]); 12]> = SmallVec::new();
    fields.push(("content-type", b"application/json"));
    fields.push(("accept", b"application/json, text/event-stream"));
    fields.push(("user-agent", USER_AGENT));
    legacy_fields(flight, upstream.as_deref(), &mut fields);
    let request = Request { method: Method::Post, fields: &fields, params: &[], body: Some(&body), repeatable: false };
    let clearance = Clearance::Session(session.proof());
    let Some(request) = shard.upstreams.compose(clearance, &lane, &request) else { return };
    let deadline = deadline(shard, ASK_REFUSED_MS_MAX);
    let abort = Abort::default();
    let sent = watched(shard, conn, false, &lane, request, deadline, &abort).await;
    if let Ok(answer) = sent {
        retire(shard, answer).await;
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
