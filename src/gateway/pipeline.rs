//! One request, top to bottom.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::base::ids::{EndpointId, ServerId, ShardId};
use crate::base::limits::ID_BYTES_MAX;
use crate::base::time::Now;
use crate::config::snapshot::{Route, Snapshot};
use crate::http::field::Known;
use crate::http::head::{Method, Version};
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::jsonrpc::scan::{Reader, ScanFault, Shape};
use crate::mcp::call::{self, Call, CallFault, Given, Object};
use crate::mcp::catalog::ListKind;
use crate::mcp::method::{self as methods, Verb};
use crate::mcp::revision::{Era, Revision};
use crate::mcp::transport::Transport;
use crate::record::Recorded;
use crate::record::frame::Decision;
use crate::session::owner::SessionFault;

use super::answer::accepted;
use super::conn::{Body, Conn};
use super::flight::{Flight, IdBytes, Next, Taken, Whose, sentence};
use super::gate::Admitted;
use super::judge::Judge;
use super::load::Class;
use super::mail::{Cancel, Letter};
use super::meter::{self, Figures};
use super::modern::Opted;
use super::refusal::{self, Kind, Refusal};
use super::route::{self, Routed};
use super::sessions::{Live, Restored};
use super::shard::{Held, Shard};
use super::tally::Count;
use super::{batch, cors, forward, gate, listen, lists, public, session, sessions, sse, traced, view};

/// Who asks, where, and under which configuration.
pub(super) struct Asked {
    pub(super) snapshot: Rc<Held>,
    pub(super) caller: Rc<Caller>,
    pub(super) endpoint: EndpointId,
    pub(super) began: Now,
    /// How long it has waited for the plane to say who asks.
    pub(super) waited: Duration,
}

/// A message as read: the call, and what of the body is asked for later.
pub(super) struct Read {
    pub(super) call: Box<Call>,
    id: Option<IdBytes>,
    /// Of a list: where it is to go on; empty for what no cursor of ours is.
    pub(super) cursor: Option<Box<str>>,
    /// The request that it takes back.
    taken_back: Option<Box<[u8]>>,
}

/// What a body was found to hold.
pub(super) enum Reading {
    One(Read),
    /// Several messages, in the revision that has that.
    Batch,
}

/// What is due for a message that was not refused.
pub(super) enum Due {
    /// Its answer from the catalogue.
    List(ListKind),
    /// No more than that it was heard.
    Nothing,
    /// An answer that was made here.
    Here(Here),
    /// A stream of what several servers have to say.
    Listen(Box<Call>),
    /// To send it from the shard that has the session's connection to its server.
    Home(ShardId),
    /// To send it: as received, or as an answer that has found what it answers.
    Call(Recorded, Option<Restored>),
}

/// An answer of the gateway's own.
pub(super) struct Here {
    /// The whole message.
    pub(super) body: Vec<u8>,
    /// It begins a session, in this revision.
    pub(super) begins: Option<Revision>,
}

/// Serves one request whose head has arrived.
pub(super) async fn serve(shard: &Shard, conn: &mut Conn, kept: &mut Option<Body>) -> Result<Next, Refusal> {
    let began = shard.timers.now();
    let snapshot = shard.snapshot();
    conn.origin = cors::origin(&snapshot, conn);
    let route = gate::led(shard, &snapshot, conn)?;
    let method = gate::method(conn, route)?;
    let endpoint = match route {
        Route::Mcp(endpoint) if method != Method::Options => endpoint,
        _ => return Box::pin(public::serve(shard, conn, &snapshot, route)).await,
    };
    // Before we pay for the body.
    let admitted = gate::caller(shard, snapshot, conn, endpoint).await;
    let Admitted { snapshot, endpoint, caller, waited } =
        admitted.inspect_err(|refusal| note(shard, refusal, began))?;
    let result = if method == Method::Post {
        let asked = Asked { snapshot: snapshot.clone(), caller: caller.clone(), endpoint, began, waited };
        // Pinned, and so made where it stays, here and below: what is awaited as it comes is copied there.
        pin!(post(shard, conn, kept, asked)).await
    } else {
        // Boxed, like everything that is not a plain call: each connection's task has room for its largest wait.
        Box::pin(session::serve(shard, conn, snapshot.clone(), caller.clone(), endpoint, began)).await
    };
    result.inspect_err(|refusal| note_caller(shard, &snapshot, &caller, endpoint, refusal))
}

/// A message from a caller that is known.
async fn post(shard: &Shard, conn: &mut Conn, kept: &mut Option<Body>, mut asked: Asked) -> Result<Next, Refusal> {
    gate::media_type(conn)?;
    let body = match conn.body_at_hand() {
        Some(body) => kept.insert(body),
        None => {
            let (body, still) = Box::pin(late(shard, conn, asked)).await?;
            asked = still;
            kept.insert(body)
        }
    };
    let endpoint = asked.endpoint;

    if sse::names(conn, &asked.snapshot, endpoint).is_some() {
        return Box::pin(sse::post(shard, conn, body, asked)).await;
    }
    let session = session(shard, conn, &asked);
    let alone = asked.snapshot.merged[endpoint.index()].alone();
    if let (Some(server), Some(Ok(live))) = (alone, &session)
        && let Some(home) = at_home(shard, conn, &asked.snapshot, server, live)
    {
        return Ok(Next::HandOver(home));
    }
    let mut read = match read(shard, conn, body, &asked, session.as_ref().and_then(|opened| opened.as_ref().ok()))? {
        Reading::One(read) => read,
        Reading::Batch => {
            // Each message may be for another server: where one of them is spoken to from one shard alone, all are.
            let live = session.as_ref().and_then(|opened| opened.as_ref().ok());
            if let Some(home) = live.and_then(|live| route::at_home_of_any(shard, conn, &asked, live)) {
                return Ok(Next::HandOver(home));
            }
            return Box::pin(batch::serve(shard, conn, body, &asked)).await;
        }
    };
    let (shape, cursor) = (read.call.shape, read.cursor.take());
    let mut flight = asked.flight(&mut read, conn.body_bytes(body).len());
    traced::begin(shard, conn, conn.body_bytes(body), &mut flight, &read.call);
    let due = pin!(judged(shard, conn, body, &mut flight, read, session)).await;
    let result = match due {
        Ok(Due::Call(recorded, restored)) => {
            let result = pin!(forward::serve(shard, conn, body, &mut flight, &recorded, restored.as_ref())).await;
            shard.unbox(recorded.into_call());
            result
        }
        Ok(Due::List(kind)) => Box::pin(lists::serve(shard, conn, &flight, kind, cursor.as_deref())).await,
        Ok(Due::Nothing) => taken(shard, conn, &flight).await,
        Ok(Due::Here(here)) => Box::pin(route::answer(shard, conn, &flight, here)).await,
        Ok(Due::Home(home)) => {
            // It is counted where it is served.
            flight.withdraw(shard);
            traced::withdraw(&mut flight);
            Ok(Next::HandOver(home))
        }
        Ok(Due::Listen(call)) => Box::pin(listen::serve(shard, conn, body, &mut flight, call)).await,
        Err(refusal) => Err(refusal),
    };
    if matches!(result, Ok(Next::Stream(_))) {
        meter::established(shard, &flight);
    }
    let result = result.map_err(|refusal| flight.answering(shard, refusal, shape));
    // Whatever it had taken is given back, whichever way it ended.
    flight.over(shard);
    result
}

/// A body that has not come with its head. One configuration and one time from the decision on: the caller may have changed
/// while the body came.
async fn late(shard: &Shard, conn: &mut Conn, asked: Asked) -> Result<(Body, Asked), Refusal> {
    let body = conn.body(shard).await?;
    let current = shard.snapshot();
    if Rc::ptr_eq(&current, &asked.snapshot) && gate::is_believed(&asked.caller, shard.timers.now()) {
        return Ok((body, asked));
    }
    let endpoint = gate::endpoint(&current, conn)?;
    let Admitted { snapshot, endpoint, caller, waited } = gate::caller(shard, current, conn, endpoint).await?;
    Ok((body, Asked { snapshot, caller, endpoint, waited: asked.waited + waited, ..asked }))
}

/// It is taken, and goes no further.
async fn taken(shard: &Shard, conn: &mut Conn, flight: &Flight) -> Result<Next, Refusal> {
    flight.figures.left.set(true);
    accepted(shard, conn).await
}

/// The way to the shard that has the connection which is this session at its server: HTTP+SSE (MCP 2024-11-05
/// basic/transports). `None` for every other transport, and where it is here.
pub(super) fn at_home(shard: &Shard, conn: &Conn, snapshot: &Held, server: ServerId, live: &Live) -> Option<ShardId> {
    let one = snapshot.transport(server) == Transport::Sse;
    one.then(|| conn.hand_over_to(shard, live.home)).flatten()
}

/// The part from the decision on, where every refusal knows whom it answers.
pub(super) async fn judged(
    shard: &Shard,
    conn: &Conn,
    body: &Body,
    flight: &mut Flight,
    read: Read,
    session: Option<Result<Rc<Live>, SessionFault>>,
) -> Result<Due, Refusal> {
    let Read { mut call, taken_back, .. } = read;
    let text = conn.body_bytes(body);
    era_offered(flight)?;
    let initialize = call.method.is_some_and(|method| method.verb == Verb::Initialize);
    if call.era == Era::Legacy && !initialize {
        flight.session = session.transpose().map_err(sessions::unopened)?;
    }
    afford(shard, conn, flight, &call)?;
    flight.task = Judge::of(shard, conn, text, flight).task(&call)?;
    if awaits(flight, &call, text) {
        Box::pin(find_out(shard, conn, body, flight, &call)).await?;
    }
    rated(&Judge::of(shard, conn, text, flight), flight, &call)?;
    if let Some(kind) = call.method.and_then(|method| method.list) {
        return Ok(Due::List(kind));
    }
    let answered = Judge::of(shard, conn, text, flight).answered(&call);
    if answered || call.era == Era::Modern && call.shape == Shape::Notification {
        // What the gateway itself asked goes no further. Over HTTP a modern client cancels by closing its stream; what it
        // notifies beside that concerns nobody.
        return Ok(Due::Nothing);
    }
    let mut restored = None;
    if flight.is_merged() && matches!(call.subject, Object::Listen(_)) {
        return Ok(Due::Listen(call));
    }
    if flight.is_merged() {
        match Box::pin(route::find(shard, conn, body, flight, &mut call, taken_back.as_deref())).await? {
            Routed::ToServer(answer) => restored = answer,
            Routed::Due(due) => return Ok(due),
        }
    }
    let cancels = is_cancellation(&call);
    if cancels && flight.session.is_none() {
        // A server without sessions could not tell whose request is meant.
        shard.count(Count::CancelsSessionless);
        return Ok(Due::Nothing);
    }
    if matches!(call.shape, Shape::Result | Shape::Error) && restored.is_none() {
        restored = sessions::restored(shard, flight, &call, text);
        if restored.is_none() {
            shard.count(Count::AnswersDropped);
            return Ok(Due::Nothing);
        }
    }
    flight.answer = Judge::of(shard, conn, text, flight).answer(&call)?;
    let judge = Judge::of(shard, conn, text, flight);
    judge.opened(&mut call)?;
    let permit = judge.decide(call)?;
    judge.params_agree(&permit)?;
    let recorded = judge.record(permit)?;
    flight.seq = recorded.seq();
    if let Some(session) = flight.session.as_ref().filter(|_| cancels) {
        // Whichever shard has the request ends it, if its server does not.
        take_back(shard, session, taken_back.as_deref(), None);
    }
    Ok(Due::Call(recorded, restored))
}

/// Whether the plane may be finding out something about the servers that a message is for.
fn awaits(flight: &Flight, call: &Call, body: &[u8]) -> bool {
    let looked_up = call.method.is_some_and(|method| method.list.is_some() || method.subject != methods::Subject::None);
    looked_up && (flight.snapshot.prepared.keeps_tokens || lists::is_behind(flight, call, body))
}

/// Waits for what the plane is finding out about the servers that a message is for. Where other settings have come
/// meanwhile it is asked anew under these, once.
async fn find_out(shard: &Shard, conn: &Conn, body: &Body, flight: &mut Flight, call: &Call) -> Result<(), Refusal> {
    for _ in 0..2 {
        let mut other = None;
        if flight.snapshot.prepared.keeps_tokens {
            other = view::look(shard, flight, call, conn.body_bytes(body)).await;
        }
        if other.is_none() {
            other = lists::fresh(shard, flight, call, conn.body_bytes(body)).await;
        }
        let Some(current) = other else { break };
        let since = shard.timers.now().mono;
        Box::pin(renew(shard, conn, flight, current)).await?;
        flight.figures.waits(shard, since);
        flight.task = Judge::new(shard, conn, body, flight).task(call)?;
    }
    Ok(())
}

/// Asks the rates about a request that no rule's limits or scopes are about. Notifications and answers end what is under
/// way: no rate keeps them out.
fn rated(judge: &Judge<'_>, flight: &Flight, call: &Call) -> Result<(), Refusal> {
    use methods::Subject;
    let alone = |method: &methods::Method| matches!(method.subject, Subject::None | Subject::Listen | Subject::Task);
    // What is asked of no rule, too: lists, and streams of several servers.
    judge.unrevoked(call)?;
    if call.shape != Shape::Request || !call.method.is_some_and(alone) {
        return Ok(());
    }
    judge.rates(call, (flight.whose == Whose::Alone).then_some(flight.server))
}

/// Tells all shards that a request of this session is taken back; whichever has it, tells its server so with `word`.
pub(super) fn take_back(shard: &Shard, session: &Live, id: Option<&[u8]>, word: Option<&[u8]>) {
    let cancel = Cancel::new(session.nonce16, id.unwrap_or_default(), word, shard.control.shards());
    shard.control.mail.send(&Letter::Cancelled(Arc::new(cancel)));
}

/// Other settings have come while the message waited: it is decided under these, by ids of theirs.
async fn renew(shard: &Shard, conn: &Conn, flight: &mut Flight, snapshot: Rc<Held>) -> Result<(), Refusal> {
    let endpoint = gate::endpoint(&snapshot, conn)?;
    let admitted = gate::caller_unwatched(shard, snapshot, conn, endpoint).await?;
    let Admitted { snapshot, endpoint, caller, .. } = admitted;
    let alone = snapshot.merged[endpoint.index()].alone();
    let same = || alone == snapshot.server_by_digest(sessions::digest(flight));
    if flight.whose == Whose::Alone && alone.is_some() && !same() {
        return Err(Kind::NotFound.into());
    }
    flight.caller = caller;
    flight.cleared.set(None);
    // What was seen of servers is known by their ids.
    flight.views.clear();
    // Nor does the number of a task mean anything under these, until the message is asked for it again.
    flight.task = ActiveTask::None;
    // What has no server yet gets one under these settings.
    flight.whose = if alone.is_some() { Whose::Alone } else { Whose::Nobody };
    (flight.endpoint, flight.server, flight.snapshot) = (endpoint, alone.unwrap_or_default(), snapshot);
    Ok(())
}

/// Whether there is room for it: by what it is worth, by what its subject has under way, by its id. Notifications and
/// answers end what is under way: there is always room for them, or a subject with its hands full could not empty them.
fn afford(shard: &Shard, conn: &Conn, flight: &mut Flight, call: &Call) -> Result<(), Refusal> {
    if call.shape != Shape::Request {
        return Ok(());
    }
    let class = match call.method.map(|method| method.verb) {
        Some(Verb::ToolsCall) => Class::Call,
        Some(Verb::Listen | Verb::Initialize) => Class::Lasting,
        _ => Class::Asking,
    };
    let (limits, subject) = (&flight.snapshot.settings.limits, flight.payer);
    if !shard.admits(class, limits) {
        return Err(Kind::Overloaded.into());
    }
    if class == Class::Lasting && call.era == Era::Modern {
        if conn.head.version == Version::Http10 {
            return Err(Refusal::from(Kind::VersionUnsupported)
                .saying("A subscription needs HTTP/1.1: the end of an HTTP/1.0 answer looks like any cut."));
        }
        shard.load.stream(subject, limits)?;
        flight.taken.set(Taken::Stream);
    } else {
        shard.load.call(subject, limits)?;
        flight.taken.set(Taken::Call);
    }
    if let (Some(session), Some(id)) = (&flight.session, &flight.id) {
        flight.in_flight.set(Some(shard.load.id(&session.nonce16, id, &conn.slot.abort).ok_or(Kind::IdInFlight)?));
    }
    Ok(())
}

/// Reads the message: one scan, then its meaning, agreed with the head.
pub(super) fn read(
    shard: &Shard,
    conn: &Conn,
    body: &Body,
    asked: &Asked,
    session: Option<&Rc<Live>>,
) -> Result<Reading, Refusal> {
    let head = &conn.head;
    let bytes = conn.bytes();
    let text = conn.body_bytes(body);
    let given = Given {
        version: head.get(bytes, Known::McpProtocolVersion),
        version_count: head.count(Known::McpProtocolVersion),
        method: head.get(bytes, Known::McpMethod),
        method_count: head.count(Known::McpMethod),
        name: head.get(bytes, Known::McpName),
        name_count: head.count(Known::McpName),
        session: head.get(bytes, Known::McpSessionId),
        session_count: head.count(Known::McpSessionId),
        session_revision: session.map(|session| session.speaks()),
    };
    let mut reader = shard.reader();
    if let Err(fault) = reader.read(text) {
        let batches = asked.snapshot.settings.limits.batch_messages_max > 0;
        if fault == ScanFault::Batch && batches && call::takes_batch(&given) {
            return Ok(Reading::Batch);
        }
        let refusal = unreadable(fault, &reader, text);
        traced::unread(shard, conn, asked, None, &refusal);
        return Err(refusal);
    }
    let envelope = reader.envelope();
    let id = envelope.id.map(|id| id.raw(text));
    let call = call::read(&given, text, envelope).map_err(|fault| {
        let refusal = of_fault(&fault, given.version, id);
        traced::unread(shard, conn, asked, Some((envelope, text)), &refusal);
        if envelope.shape == Shape::Request { refusal } else { refusal.unanswerable() }
    })?;
    let listing = call.method.is_some_and(|method| method.list.is_some());
    let cursor = if listing { envelope.param(text, "cursor").map(|cursor| lists::cursor(text, cursor)) } else { None };
    let named = if is_cancellation(&call) { envelope.param(text, "requestId") } else { None };
    let named = named.map(|member| member.value.of(text)).filter(|id| id.len() <= ID_BYTES_MAX);
    let taken_back = named.map(Box::from);
    Ok(Reading::One(Read { call: shard.boxed(call), id: id.map(SmallVec::from_slice), cursor, taken_back }))
}

/// A notification of the handshake era that takes a request back.
fn is_cancellation(call: &Call) -> bool {
    let cancels = call.method.is_some_and(|method| method.verb == Verb::Cancelled);
    cancels && call.era == Era::Legacy && call.shape == Shape::Notification
}

/// What the scanner refused.
pub(super) fn unreadable(fault: ScanFault, reader: &Reader, text: &[u8]) -> Refusal {
    let kind = if fault.code() == -32_700 { Kind::JsonMalformed } else { Kind::EnvelopeInvalid };
    let id = reader.id().map(|id| id.raw(text));
    let message = format!("{} (at byte {})", fault, reader.position());
    Refusal::from(kind).saying(message).to(Era::Modern, id)
}

impl Asked {
    /// A message on its way. Its id is taken along.
    pub(super) fn flight(self, read: &mut Read, request_bytes: usize) -> Flight {
        let mut flight = self.start(read.call.era, read.call.revision);
        (flight.id, flight.method, flight.request_bytes) = (read.id.take(), read.call.method, request_bytes);
        flight
    }

    /// On its way, with nothing known of it yet.
    pub(super) fn start(self, era: Era, revision: Revision) -> Flight {
        let alone = self.snapshot.merged[self.endpoint.index()].alone();
        Flight {
            task: ActiveTask::None,
            endpoint: self.endpoint,
            server: alone.unwrap_or_default(),
            whose: if alone.is_some() { Whose::Alone } else { Whose::Nobody },
            era,
            revision,
            id: None,
            method: None,
            session: None,
            epoch: 0,
            shown: None,
            views: SmallVec::new(),
            unseen: None,
            instance: 0,
            seated: Cell::new(false),
            opted: Opted::default(),
            answer: None,
            profile: None,
            change: Cell::new(None),
            succeeded: Cell::new(false),
            did: Cell::new(false),
            written: Cell::new(false),
            stakes: RefCell::default(),
            in_flight: Cell::new(None),
            heir: RefCell::default(),
            taken: Cell::new(Taken::Nothing),
            figures: Figures::after(self.waited),
            began: self.began,
            sent: self.began.mono,
            answered: self.began.mono,
            request_bytes: 0,
            seq: None,
            cleared: Cell::new(None),
            trace: None,
            snapshot: self.snapshot,
            payer: self.caller.principal,
            caller: self.caller,
        }
    }
}

fn of_fault(fault: &CallFault, version: Option<&[u8]>, id: Option<&[u8]>) -> Refusal {
    let (kind, era) = refusal::of_call(fault);
    let mut refusal = Refusal::from(kind).to(era.unwrap_or(Era::Modern), id);
    if kind == Kind::ProtocolUnsupported {
        return unsupported(refusal, version);
    }
    if kind != Kind::TaskUnavailable {
        refusal = refusal.saying(sentence(&fault.to_string()));
    }
    refusal
}

/// -32022 with what is spoken here (MCP 2026-07-28 basic/versioning).
fn unsupported(refusal: Refusal, requested: Option<&[u8]>) -> Refusal {
    let requested = String::from_utf8_lossy(requested.unwrap_or_default());
    let data = serde_json::json!({ "supported": [Revision::R2026_07_28.as_str()], "requested": requested });
    refusal.with(data.to_string())
}

/// The session that the request names, opened and checked; `None` where it names none.
pub(super) fn session(shard: &Shard, conn: &Conn, asked: &Asked) -> Option<Result<Rc<Live>, SessionFault>> {
    let id = conn.head.get(conn.bytes(), Known::McpSessionId)?;
    let digest = asked.snapshot.prepared.endpoints[asked.endpoint.index()].digest;
    Some(shard.open_session(&conn.opened, id, &asked.caller, digest))
}

/// Whether the server speaks the caller's era, or one of several does. Where it is not known yet, the server itself will
/// tell.
fn era_offered(flight: &Flight) -> Result<(), Refusal> {
    let speaks = |server: ServerId| {
        let offered = flight.snapshot.catalog.server(server);
        offered.is_none_or(|offered| offered.era(flight.era).is_some())
    };
    if flight.merged().servers().iter().any(|server| speaks(*server)) {
        return Ok(());
    }
    Err(match flight.era {
        // The form in which a server of the handshake era says it: a client that speaks both then shakes hands.
        Era::Modern => Refusal::from(Kind::RequestBad)
            .saying("Bad Request: this server speaks the handshake era only; send initialize first."),
        Era::Legacy => unsupported(Kind::ProtocolUnsupported.into(), Some(flight.revision.as_str().as_bytes())),
    })
}

/// A refusal that was not decided on (a malformed message, an unknown session) leaves a note of who it was.
pub(super) fn note_caller(
    shard: &Shard,
    snapshot: &Snapshot,
    caller: &Caller,
    endpoint: EndpointId,
    refusal: &Refusal,
) {
    // A 405 to a GET is how a server says that it has no stream there: an answer, which clients ask for as a habit.
    if refusal.recorded || refusal.kind == Kind::MethodNotAllowed {
        return;
    }
    shard.control.tally.refused(shard.id, refusal.kind);
    let alone = snapshot.merged[endpoint.index()].alone();
    let alone = alone.map(|server| &*snapshot.settings.servers[server.index()].name);
    shard.record.noted(&Decision {
        unix_ms: shard.timers.last().unix_ms,
        issuer: &caller.issuer,
        subject: &caller.subject,
        agent: caller.agent.as_deref().unwrap_or_default(),
        method: refusal.method,
        server: refusal.server.as_deref().or(alone).unwrap_or_default(),
        policy: snapshot.prepared.policy,
        reason: refusal.kind.row().word,
        ..Decision::default()
    });
}

/// A request without a caller leaves a note while there is plenty of room for it.
fn note(shard: &Shard, refusal: &Refusal, began: Now) {
    if refusal.recorded {
        return;
    }
    shard.control.tally.refused(shard.id, refusal.kind);
    let reason = refusal.kind.row().word;
    shard.record.noted(&Decision { unix_ms: began.unix_ms, reason, ..Decision::default() });
}
