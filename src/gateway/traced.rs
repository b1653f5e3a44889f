//! A message's spans: one for its way in, one for each try of its way on to a server (OpenTelemetry's conventions for
//! MCP). Of a message that is not recorded nothing is made: each hook is one look at whether it is.

use std::borrow::Cow;
use std::cell::RefCell;

use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::limits::{SPAN_TEXT_BYTES_EACH_MAX, TRACE_FIELD_BYTES_MAX};
use crate::base::span::Span;
use crate::base::time::{Moment, Now};
use crate::config::{Credentials, TelemetrySettings};
use crate::http::field::Known;
use crate::http::head::Version;
use crate::identity::active::ActiveTask;
use crate::jsonrpc::scan::{Envelope, Shape};
use crate::jsonrpc::text;
use crate::mcp::call::{Call, Object};
use crate::mcp::method::{METHODS, Verb};
use crate::mcp::revision::{Era, Revision};
use crate::mcp::transport::Transport;
use crate::record::Seq;
use crate::record::frame::{Status, Verdict};
use crate::record::meter::{REASONS, place};
use crate::session::ledger::Upstream;
use crate::telemetry::context::{self, Context, Origin, TraceContext, Wanted};
use crate::telemetry::names;
use crate::telemetry::sample::{self, WHOLE_PPM};
use crate::telemetry::span::{self, Failure, Network, Parent, Side, Slot, SpanEvent};
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::Lane;

use super::conn::Conn;
use super::flight::{Ended, Flight, Whose};
use super::meter;
use super::pipeline::Asked;
use super::refusal::{Kind, Refusal};
use super::shard::{Held, Shard};
use super::tally::Count;

/// What is told of a message that is recorded; `None` of the others.
pub(super) type Traced = Option<Box<RefCell<Trace>>>;

/// The spans of one message.
pub(super) struct Trace {
    anchor: Anchor,
    server: SpanEvent,
    /// On its way to a server.
    client: Option<SpanEvent>,
    attempts: u16,
    /// `tracestate` of its trace, as it goes on.
    state: Box<str>,
    /// What it names, as its client does.
    named: Option<(Slot, Box<str>)>,
}

/// Both clocks at one moment: all times of a trace follow from the monotonic one.
#[derive(Clone, Copy, Debug)]
struct Anchor(Now);

impl Anchor {
    fn unix_ns(self, moment: Moment) -> u64 {
        let since = u64::try_from(moment.since(self.0.mono).as_nanos()).unwrap_or(u64::MAX);
        self.0.unix_ms.saturating_mul(1_000_000).saturating_add(since)
    }
}

/// A message was read and is on its way: whether its spans are recorded is decided here, before anything else.
pub(super) fn begin(shard: &Shard, conn: &Conn, text: &[u8], flight: &mut Flight, call: &Call) {
    let telemetry = &flight.snapshot.settings.telemetry;
    if telemetry.otlp.is_none() {
        return;
    }
    let Some(ppm) = share(shard, telemetry, call.shape) else { return };
    let inside = call.meta.traceparent.map(|span| span.of(text));
    let (origin, has_own) = origin(shard, conn, telemetry, inside, call.meta.traceparent_malformed);
    let Some(context) = sample::decide(&origin, ppm, &shard.dice) else { return };
    let state = if origin.parent.is_none() {
        String::new()
    } else if has_own {
        own_state(call, text)
    } else {
        hop_state(conn)
    };
    let anchor = Anchor(flight.began);
    let mut server = received(conn, context, &origin, anchor);
    (server.revision, server.method) = (flight.revision.as_str(), method_of(flight));
    let named = named(call, text).map(|(slot, name)| (slot, name.into()));
    server.executes_tool = matches!(call.subject, Object::Tool(_));
    let trace = Trace { anchor, server, client: None, attempts: 0, state: state.into(), named };
    flight.trace = Some(Box::new(RefCell::new(trace)));
}

/// A message that could not be read, or is none that its revision has.
pub(super) fn unread(shard: &Shard, conn: &Conn, asked: &Asked, read: Option<(&Envelope, &[u8])>, refusal: &Refusal) {
    let telemetry = &asked.snapshot.settings.telemetry;
    if telemetry.otlp.is_none() {
        return;
    }
    let shape = read.map_or(Shape::Request, |(envelope, _)| envelope.shape);
    let Some(ppm) = share(shard, telemetry, shape) else { return };
    let inside = read.and_then(|(envelope, text)| Some(envelope.meta(text, "traceparent")?.text()?.of(text)));
    let (origin, _) = origin(shard, conn, telemetry, inside, false);
    let Some(context) = sample::decide(&origin, ppm, &shard.dice) else { return };
    let anchor = Anchor(asked.began);
    let mut server = received(conn, context, &origin, anchor);
    if let Some(name) = read.and_then(|(envelope, text)| envelope.method_name(text)) {
        let row = METHODS.iter().find(|row| row.wire.as_bytes() == name);
        server.method = row.map_or(names::OTHER, |row| row.wire);
    }
    server.texts.push(Slot::Route, &asked.snapshot.settings.endpoints[asked.endpoint.index()].path);
    if let Some(id) = refusal.id.as_deref() {
        push_id(&mut server, id);
    }
    turned_down(&mut server, refusal, true);
    server.ended_ns = anchor.unix_ns(shard.timers.now().mono);
    emit(shard, server);
}

/// Of so many messages of this shape that begin a trace one is recorded; `None` where none is, whatever its trace says.
fn share(shard: &Shard, telemetry: &TelemetrySettings, shape: Shape) -> Option<u32> {
    match shape {
        Shape::Request => Some(telemetry.traces_ppm),
        Shape::Notification => {
            let drawn = sample::decide(&Origin::default(), telemetry.notifications_ppm, &shard.dice);
            drawn.map(|_| WHOLE_PPM)
        }
        Shape::Result | Shape::Error => None,
    }
}

/// Where it stands in a trace, and whether its own context says so.
fn origin(
    shard: &Shard,
    conn: &Conn,
    telemetry: &TelemetrySettings,
    inside: Option<&[u8]>,
    malformed: bool,
) -> (Origin, bool) {
    if telemetry.context == TraceContext::Drop {
        return (Origin::default(), false);
    }
    let written = conn.head.get(conn.bytes(), Known::Traceparent);
    let once = conn.head.count(Known::Traceparent) == 1;
    let hop = written.filter(|_| once).and_then(Context::parse);
    if malformed || written.is_some() && hop.is_none() {
        shard.count(Count::ContextsMalformed);
    }
    let inside = inside.and_then(Context::parse);
    (Origin::of(telemetry.context, inside, hop), inside.is_some())
}

fn own_state(call: &Call, text: &[u8]) -> String {
    let mut scratch = Vec::new();
    let inside = call.meta.tracestate.filter(|inside| inside.len() <= TRACE_FIELD_BYTES_MAX);
    let value = inside.and_then(|inside| text::unescape(inside.of(text), &mut scratch).ok());
    value.map(context::state).unwrap_or_default().into()
}

fn hop_state(conn: &Conn) -> String {
    let once = conn.head.count(Known::Tracestate) == 1;
    let value = conn.head.get(conn.bytes(), Known::Tracestate).filter(|_| once);
    let value = value.and_then(|value| std::str::from_utf8(value).ok());
    value.map(context::state).unwrap_or_default().into()
}

/// A span of what a client sent.
fn received(conn: &Conn, context: Context, origin: &Origin, anchor: Anchor) -> SpanEvent {
    let version = if conn.head.version == Version::Http10 { "1.0" } else { "1.1" };
    let mut event = SpanEvent::new(context, Side::Server, anchor.unix_ns(anchor.0.mono), Network::Http(version));
    event.parent = origin.parent.map(|parent| Parent { span: parent.span, is_remote: true });
    event.links = origin.links;
    let peer = conn.slot.socket.peer_addr();
    event.client = Some((peer.ip().to_canonical(), peer.port()));
    event
}

/// What a message names, as its client does.
fn named<'a>(call: &'a Call, text: &'a [u8]) -> Option<(Slot, Cow<'a, str>)> {
    let slot = match (&call.subject, call.method?.verb) {
        (Object::Tool(_), _) => Slot::Tool,
        (Object::Prompt(_), _) => Slot::Prompt,
        (Object::Resource(_), _) => Slot::Uri,
        _ => return None,
    };
    let name = call.subject.text()?.of(text);
    let name = if slot == Slot::Uri { span::bare(name) } else { Cow::Borrowed(name) };
    (name.len() <= SPAN_TEXT_BYTES_EACH_MAX).then_some((slot, name))
}

fn method_of(flight: &Flight) -> &'static str {
    flight.method.map_or(names::OTHER, |method| method.wire)
}

/// The id of the trace that it is recorded in.
pub(super) fn trace_id(flight: &Flight) -> Option<[u8; 16]> {
    flight.trace.as_ref().map(|trace| trace.borrow().server.context.trace)
}

/// It was decided on.
pub(super) fn decided(
    shard: &Shard,
    flight: &Flight,
    verdict: Verdict,
    reason: &str,
    rules: &[&str],
    seq: Option<Seq>,
) {
    let Some(trace) = &flight.trace else { return };
    let server = &mut trace.borrow_mut().server;
    if server.decision.is_empty() {
        rules.iter().for_each(|rule| server.texts.push(Slot::Rule, rule));
    }
    server.decision = match verdict {
        Verdict::Permit => "permit",
        Verdict::Refuse => "refuse",
        Verdict::Pending => "pending",
    };
    server.reason = REASONS[place(&REASONS, reason)];
    server.policy = Some(flight.snapshot.prepared.policy);
    server.record = seq.map(|seq| (shard.id.0, seq.0)).or(server.record);
}

/// It is about to be tried at an instance of its server. The try before, if it is still open, has come to nothing.
pub(super) fn attempt(shard: &Shard, flight: &Flight, lane: &Lane<'_>, upstream: Option<&Upstream>) {
    let Some(trace) = &flight.trace else { return };
    let trace = &mut *trace.borrow_mut();
    let now = trace.anchor.unix_ns(shard.timers.now().mono);
    if let Some(mut before) = trace.client.take() {
        before.fails(Failure::Word(names::OTHER));
        before.ended_ns = now;
        emit(shard, before);
    }
    trace.attempts = trace.attempts.saturating_add(1);
    let context = Context { span: shard.dice.span(), ..trace.server.context };
    let mut event = sent(&flight.snapshot, flight.server, lane, context, &trace.server.context, now);
    event.method = method_of(flight);
    event.attempt = trace.attempts;
    event.executes_tool = trace.server.executes_tool;
    let legacy = upstream.filter(|_| flight.era == Era::Legacy);
    event.revision = legacy.map_or(flight.revision, |upstream| upstream.revision).as_str();
    event.session = legacy.filter(|upstream| !upstream.id.is_empty()).map(|it| shard.keys.session(&it.id));
    if let Some((slot, name)) = &trace.named {
        let theirs = flight.renamed().map_or(&**name, |renamed| &renamed.sent);
        name_it(&mut event, flight, *slot, theirs);
    }
    if let Some(id) = flight.id.as_deref() {
        push_id(&mut event, id);
    }
    event.texts.push(Slot::State, &trace.state);
    trace.client = Some(event);
}

/// A span of what goes to a server.
fn sent(
    snapshot: &Held,
    server: ServerId,
    lane: &Lane<'_>,
    context: Context,
    parent: &Context,
    now_ns: u64,
) -> SpanEvent {
    let network = if lane.transport == Transport::Stdio { Network::Pipe } else { Network::Http("1.1") };
    let mut event = SpanEvent::new(context, Side::Client, now_ns, network);
    event.parent = Some(Parent { span: parent.span, is_remote: false });
    if let Some(settings) = snapshot.settings.servers.get(server.index()) {
        event.texts.push(Slot::Target, &settings.name);
        event.credential = match settings.credentials {
            Credentials::Strip => "",
            Credentials::Forward => "forward",
            Credentials::Fixed(_) => "fixed",
            Credentials::ClientCredentials(_) => "client_credentials",
            Credentials::Exchange(_) => "exchange",
        };
    }
    if network != Network::Pipe {
        let (host, port) = authority(lane.host, lane.tls.is_some());
        event.texts.push(Slot::Address, host);
        event.port = port;
    }
    event
}

/// Host and port of a server; the host without the brackets of an IPv6 address.
fn authority(written: &str, tls: bool) -> (&str, Option<u16>) {
    let usual = if tls { 443 } else { 80 };
    let (host, port) = match written.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (written, Some(usual)),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// A tool or prompt is named where the catalogue has it: no caller makes a name.
fn name_it(event: &mut SpanEvent, flight: &Flight, slot: Slot, name: &str) {
    if slot == Slot::Uri {
        event.texts.push(slot, &span::bare(name));
    } else if flight.figures.item.get().is_some() {
        event.texts.push(slot, name);
    } else {
        event.unresolved = true;
    }
}

/// An id, given as JSON text.
fn push_id(event: &mut SpanEvent, id: &[u8]) {
    let mut scratch = Vec::new();
    let inside = id.strip_prefix(b"\"").and_then(|id| id.strip_suffix(b"\""));
    let text = match inside {
        Some(inside) => text::unescape(inside, &mut scratch).ok(),
        None => std::str::from_utf8(id).ok().filter(|id| *id != "null"),
    };
    if let Some(text) = text {
        event.texts.push(Slot::Id, text);
    }
}

/// Nothing of its try was written, and nothing will be.
pub(super) fn withdrawn(flight: &Flight) {
    if let Some(trace) = &flight.trace {
        let trace = &mut *trace.borrow_mut();
        if trace.client.take().is_some() {
            trace.attempts -= 1;
        }
    }
}

/// Its try has ended without an answer.
pub(super) fn attempted(shard: &Shard, flight: &Flight, fault: UpstreamFault) {
    let Some(trace) = &flight.trace else { return };
    if matches!(fault, UpstreamFault::Withdrawn | UpstreamFault::Unhealthy { .. }) {
        return withdrawn(flight);
    }
    let trace = &mut *trace.borrow_mut();
    if let Some(mut client) = trace.client.take() {
        client.fails(Failure::Word(fault_word(fault)));
        client.ended_ns = trace.anchor.unix_ns(shard.timers.now().mono);
        emit(shard, client);
    }
}

/// What a fault is called.
pub(super) fn fault_word(fault: UpstreamFault) -> &'static str {
    match fault {
        UpstreamFault::Unreachable | UpstreamFault::Untrusted | UpstreamFault::NoAddress => "unreachable",
        UpstreamFault::Timeout => "timeout",
        UpstreamFault::BadAnswer => "invalid",
        UpstreamFault::Abandoned | UpstreamFault::Withdrawn => "cancelled",
        UpstreamFault::Cut | UpstreamFault::NoBuffer | UpstreamFault::Unhealthy { .. } => "cut",
    }
}

/// Its exchange with its server is over.
pub(super) fn ended(shard: &Shard, flight: &Flight, ended: &Ended) {
    let Some(trace) = &flight.trace else { return };
    let trace = &mut *trace.borrow_mut();
    let failure = meter::failure_word(ended).map(|word| match ended.status {
        Status::Error => Failure::Code(ended.code),
        _ => Failure::Word(word),
    });
    if let Some(mut client) = trace.client.take() {
        failure.into_iter().for_each(|failure| client.fails(failure));
        client.code = (ended.status == Status::Error).then_some(ended.code);
        let whole = flight.figures.whole.get().unwrap_or_else(|| shard.timers.now().mono);
        client.ended_ns = trace.anchor.unix_ns(whole);
        emit(shard, client);
    }
    failure.into_iter().for_each(|failure| trace.server.fails(failure));
    // What the gateway says in the server's place has a code too.
    trace.server.code = (failure.is_some() && ended.code != 0).then_some(ended.code);
}

/// It is answered with this.
pub(super) fn refused(flight: &Flight, refusal: &Refusal) {
    let Some(trace) = &flight.trace else { return };
    let server = &mut trace.borrow_mut().server;
    let decided = matches!(server.decision, "refuse" | "pending");
    let is_error = !decided || flight.snapshot.settings.telemetry.denial_is_error;
    turned_down(server, refusal, is_error);
}

fn turned_down(server: &mut SpanEvent, refusal: &Refusal, is_error: bool) {
    let row = refusal.kind.row();
    // It asks for more: that is no failure.
    if refusal.input_required {
        return;
    }
    if server.failure.is_none() {
        if refusal.kind == Kind::Cancelled {
            server.fails(Failure::Word("cancelled"));
        } else if refusal.tool_result {
            server.fails(Failure::Word(names::TOOL_ERROR));
        } else {
            server.fails(Failure::Code(row.code));
        }
    }
    server.code = (!refusal.tool_result).then_some(row.code);
    (server.status, server.is_error) = (row.message, is_error);
}

/// It is over, whichever way it ended.
pub(super) fn over(shard: &Shard, flight: &Flight) {
    let Some(trace) = &flight.trace else { return };
    let trace = &mut *trace.borrow_mut();
    let now = trace.anchor.unix_ns(shard.timers.now().mono);
    if let Some(mut client) = trace.client.take() {
        client.ended_ns = now;
        emit(shard, client);
    }
    complete(shard, flight, trace);
    trace.server.ended_ns = now;
    emit(shard, trace.server.clone());
}

/// What is known of a message when it is over, and was not when it began.
fn complete(shard: &Shard, flight: &Flight, trace: &mut Trace) {
    let (settings, server) = (&flight.snapshot.settings, &mut trace.server);
    server.session = flight.session.as_ref().map(|session| shard.keys.session(&session.nonce16));
    if let Some((slot, name)) = &trace.named {
        name_it(server, flight, *slot, name);
    }
    if let Some(id) = flight.id.as_deref() {
        push_id(server, id);
    }
    if flight.whose != Whose::Nobody {
        server.texts.push(Slot::Target, flight.server_name());
    }
    server.texts.push(Slot::Route, &settings.endpoints[flight.endpoint.index()].path);
    if let ActiveTask::One(task) = flight.task {
        server.texts.push(Slot::Task, settings.policy.tasks().name(task));
    }
    server.texts.push(Slot::State, &trace.state);
    let of_catalogue = flight.method.is_some_and(|it| it.list.is_some() || it.verb == Verb::Discover);
    server.cache_hit = of_catalogue && trace.attempts == 0 && server.failure.is_none();
}

/// It is served elsewhere, and recorded there.
pub(super) fn withdraw(flight: &mut Flight) {
    flight.trace = None;
}

fn emit(shard: &Shard, event: SpanEvent) {
    if let Some(spans) = &shard.spans {
        spans.push(event);
    }
}

/// The fields of its trace that a server is told of.
pub(super) struct Fields {
    traceparent: Option<[u8; context::TRACEPARENT_BYTES]>,
    tracestate: Option<Box<str>>,
    baggage: Option<String>,
}

/// What of a message's context goes on in the head: that of its own span where it is recorded, else what came.
pub(super) fn fields(shard: &Shard, conn: &Conn, flight: &Flight) -> Fields {
    let telemetry = &flight.snapshot.settings.telemetry;
    let mut fields = Fields { traceparent: None, tracestate: None, baggage: None };
    if let Some(trace) = &flight.trace {
        let trace = trace.borrow();
        fields.traceparent = trace.client.as_ref().map(|client| client.context.write());
        fields.tracestate = Some(trace.state.clone());
    }
    if let Some(baggage) = conn.head.get(conn.bytes(), Known::Baggage) {
        let kept = std::str::from_utf8(baggage).map_or(context::Kept::None, |it| context::kept(it, &telemetry.baggage));
        fields.baggage = match kept {
            context::Kept::All => Some(String::from_utf8_lossy(baggage).into_owned()),
            context::Kept::Some(kept) => Some(kept),
            context::Kept::None => None,
        };
        if kept_less(baggage, fields.baggage.as_deref()) {
            shard.count(Count::BaggageCut);
        }
    }
    fields
}

fn kept_less(came: &[u8], goes: Option<&str>) -> bool {
    goes.is_none_or(|goes| goes.as_bytes() != came)
}

impl Fields {
    /// Names and values, behind those of the head that go on as they came.
    pub(super) fn put<'a>(&'a self, conn: &'a Conn, out: &mut SmallVec<[(Known, &'a [u8]); 12]>) {
        let (head, bytes) = (&conn.head, conn.bytes());
        let parent = match &self.traceparent {
            Some(written) => Some(&written[..]),
            None => head.get(bytes, Known::Traceparent),
        };
        let state = match &self.tracestate {
            Some(state) => Some(state.as_bytes()).filter(|state| !state.is_empty()),
            None => head.get(bytes, Known::Tracestate),
        };
        let baggage = self.baggage.as_ref().map(String::as_bytes);
        for (known, value) in [(Known::Traceparent, parent), (Known::Tracestate, state), (Known::Baggage, baggage)] {
            if let Some(value) = value {
                out.push((known, value));
            }
        }
    }
}

/// The edit of a message's `_meta` that is due on its way to a server. `None` for the bytes that came: always, where it
/// is not recorded and has nothing that must stay here.
pub(super) fn edit(shard: &Shard, flight: &Flight, call: &Call, text: &[u8]) -> Option<(Span, Vec<u8>)> {
    if flight.trace.is_none() && !call.meta.cuts {
        return None;
    }
    let trace = flight.trace.as_ref().map(|trace| trace.borrow());
    let recorded = trace.as_ref().and_then(|trace| Some((&trace.client.as_ref()?.context, &*trace.state)));
    edited(shard, &flight.snapshot.settings.telemetry, recorded, text)
}

fn edited(
    shard: &Shard,
    telemetry: &TelemetrySettings,
    recorded: Option<(&Context, &str)>,
    text: &[u8],
) -> Option<(Span, Vec<u8>)> {
    let mut reader = shard.reader();
    let envelope = reader.read(text).ok()?;
    let edit = context::edit(text, envelope, &Wanted { recorded, baggage: &telemetry.baggage })?;
    if envelope.meta(text, "baggage").is_some_and(|it| memchr::memmem::find(&edit.1, it.value.of(text)).is_none()) {
        shard.count(Count::BaggageCut);
    }
    if envelope.meta(text, "tracestate").is_some_and(|it| it.value.len() > TRACE_FIELD_BYTES_MAX) {
        shard.count(Count::ContextsTooLong);
    }
    Some(edit)
}

/// A message as it may go to several servers: without what must stay here. `None` for the bytes that came.
pub(super) fn cleaned(shard: &Shard, snapshot: &Held, text: &[u8]) -> Option<Vec<u8>> {
    let (place, new) = edited(shard, &snapshot.settings.telemetry, None, text)?;
    let mut out = Vec::with_capacity(text.len() + new.len());
    crate::jsonrpc::edit::splice(text, &[(place, &new)], &mut out);
    Some(out)
}

/// A span that outlives its message's way through the pipeline: of a stream.
pub(super) struct Lasting {
    anchor: Anchor,
    event: SpanEvent,
}

impl std::fmt::Debug for Lasting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.event.fmt(f)
    }
}

impl Lasting {
    /// It is over; `failure`: what ended it before its time.
    pub(super) fn end(mut self: Box<Self>, shard: &Shard, failure: Option<&'static str>) {
        failure.into_iter().for_each(|word| self.event.fails(Failure::Word(word)));
        self.event.ended_ns = self.anchor.unix_ns(shard.timers.now().mono);
        emit(shard, self.event);
    }
}

/// The message is a stream from now on: its span is whoever's it is that reads it.
pub(super) fn lasts(shard: &Shard, flight: &mut Flight) -> Option<Box<Lasting>> {
    let mut trace = flight.trace.take()?.into_inner();
    complete(shard, flight, &mut trace);
    Some(Box::new(Lasting { anchor: trace.anchor, event: trace.server }))
}

/// A session is about to be opened at a server for a message that waits for it.
pub(super) fn opening(shard: &Shard, flight: &Flight, lane: &Lane<'_>) -> Option<Box<Lasting>> {
    let trace = flight.trace.as_ref()?.borrow();
    let now = trace.anchor.unix_ns(shard.timers.now().mono);
    let context = Context { span: shard.dice.span(), ..trace.server.context };
    let mut event = sent(&flight.snapshot, flight.server, lane, context, &trace.server.context, now);
    (event.method, event.revision) = ("initialize", flight.revision.as_str());
    event.texts.push(Slot::State, &trace.state);
    Some(Box::new(Lasting { anchor: trace.anchor, event }))
}

/// What the parts of a stream of several servers have in common.
#[derive(Debug)]
pub(super) struct Fan {
    anchor: Anchor,
    context: Context,
    state: Box<str>,
    id: Box<[u8]>,
}

/// What each server's part of a stream is recorded under.
pub(super) fn fan(flight: &Flight) -> Option<Box<Fan>> {
    let trace = flight.trace.as_ref()?.borrow();
    let id = flight.id.as_deref().unwrap_or_default().into();
    Some(Box::new(Fan { anchor: trace.anchor, context: trace.server.context, state: trace.state.clone(), id }))
}

impl Fan {
    /// A part of it is about to be asked for.
    pub(super) fn attempt(&self, shard: &Shard, snapshot: &Held, server: ServerId, lane: &Lane<'_>) -> Box<Lasting> {
        let now = self.anchor.unix_ns(shard.timers.now().mono);
        let context = Context { span: shard.dice.span(), ..self.context };
        let mut event = sent(snapshot, server, lane, context, &self.context, now);
        (event.method, event.revision) = ("subscriptions/listen", Revision::R2026_07_28.as_str());
        push_id(&mut event, &self.id);
        event.texts.push(Slot::State, &self.state);
        Box::new(Lasting { anchor: self.anchor, event })
    }
}

/// The request for a part of a stream, as its server gets it, and the `traceparent` beside it.
pub(super) fn asked_for(
    shard: &Shard,
    snapshot: &Held,
    under: Option<(&Fan, &Lasting)>,
    body: Vec<u8>,
) -> (Vec<u8>, Option<[u8; context::TRACEPARENT_BYTES]>) {
    let recorded = under.map(|(fan, lasting)| (&lasting.event.context, &*fan.state));
    let edit = edited(shard, &snapshot.settings.telemetry, recorded, &body);
    let parent = recorded.map(|(context, _)| context.write());
    let Some((place, new)) = edit else { return (body, parent) };
    let mut out = Vec::with_capacity(body.len() + new.len());
    crate::jsonrpc::edit::splice(&body, &[(place, &new)], &mut out);
    (out, parent)
}
