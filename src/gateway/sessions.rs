//! Legacy sessions as a shard knows them: which of a server's sessions is whose, and opening one anew when its server
//! has forgotten it. What all shards must agree on is in the ledger; a shard asks it once per session, and when what it
//! knows has turned out stale.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::ops::Deref;
use std::rc::Rc;
use std::task::Poll;

use ::ring::rand::SecureRandom as _;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::limits::{
    EVENT_BYTES_MAX, LEASE_MS, SESSION_END_MS_MAX, SESSIONS_EXPIRED_AT_ONCE_MAX, SESSIONS_EXPIRED_MS_MAX,
    SESSIONS_KNOWN_MAX, TELLING_MS_MAX, TICK_MS, UPSTREAM_SESSION_BYTES_MAX, WAY_WAIT_MS,
};
use crate::base::time::Moment;
use crate::http::field::Known as Field;
use crate::http::head::Method;
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::scan::{Kind as Json, Shape};
use crate::jsonrpc::{id, text};
use crate::mcp::call::Call;
use crate::mcp::catalog;
use crate::mcp::method::Verb;
use crate::mcp::optin::LogLevel;
use crate::mcp::profile::{Capabilities, request_initialize_again};
use crate::mcp::request;
use crate::mcp::revision::Revision;
use crate::mcp::transport::Transport;
use crate::session::ledger::{Claim, Known, LedgerFault, Opened, Profile, SessionKey, Terms, Upstream, Visit};
use crate::session::owner::{self, Session, SessionFault, SessionSeal};
use crate::session::way::{Claimed, Do, In, Reach, Way, WayFault};
use crate::upstream::exchange::{Abort, Answer, Clearance, Lane, Request};
use crate::upstream::pick;
use crate::uring::ring;

use super::answer::{Media, media, retire};
use super::beside::Beside;
use super::conn::Unsealed;
use super::exchange::{self, Lanes, USER_AGENT, Wish, sent};
use super::flight::Flight;
use super::mail::Letter;
use super::refusal::{Kind, Refusal};
use super::shard::{Held, Shard};
use super::shown::{self, Whom};
use super::stream;
use super::tally::Count;
use super::traced;

/// A session, as this shard knows it.
pub(super) struct Live {
    session: Session,
    /// The servers' own sessions, at most one of each server.
    upstreams: RefCell<SmallVec<[Rc<Upstream>; 1]>>,
    ended: Cell<bool>,
    /// What its client speaks: as its id says, or what its handshake has settled on since.
    speaks: Cell<Revision>,
    /// The ledger knows it.
    entered: Cell<bool>,
    /// When the ledger last heard that it is in use, seconds since 1970.
    touched_s: Cell<u64>,
    /// Who used it last, where a server is shown what depends on that.
    caller: RefCell<Option<Rc<Caller>>>,
}

impl Deref for Live {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Live {
    fn new(session: Session, known: SmallVec<[Upstream; 1]>, now_s: u64) -> Self {
        let upstreams = known.into_iter().map(Rc::new).collect();
        Self {
            speaks: Cell::new(session.revision),
            session,
            upstreams: RefCell::new(upstreams),
            ended: Cell::new(false),
            entered: Cell::new(true),
            touched_s: Cell::new(now_s),
            caller: RefCell::default(),
        }
    }

    /// How the ledger knows it.
    pub(super) fn key(&self) -> SessionKey {
        SessionKey { owner: self.session.owner, nonce: self.session.nonce16 }
    }

    fn terms(&self) -> Terms {
        terms(&self.session)
    }

    /// The proof that its owner uses it.
    pub(super) fn proof(&self) -> &Session {
        &self.session
    }

    /// The revision that its client speaks.
    pub(super) fn speaks(&self) -> Revision {
        self.speaks.get()
    }

    /// Whether its handshake is done: only a session of HTTP+SSE has an id before that.
    pub(super) fn has_begun(&self) -> bool {
        self.entered.get()
    }

    /// Its session at a server, by [`crate::config::snapshot::PreparedServer::digest`].
    pub(super) fn upstream(&self, server: u64) -> Option<Rc<Upstream>> {
        self.upstreams.borrow().iter().find(|upstream| upstream.server == server).cloned()
    }

    /// How new that is; 0 when there is none.
    pub(super) fn epoch(&self, server: u64) -> u32 {
        self.upstream(server).map_or(0, |upstream| upstream.epoch)
    }

    /// The servers that it has a session at, each with how new that is.
    pub(super) fn epochs(&self) -> SmallVec<[(u64, u32); 4]> {
        self.upstreams.borrow().iter().map(|upstream| (upstream.server, upstream.epoch)).collect()
    }

    fn learn(&self, upstream: Upstream) {
        let mut upstreams = self.upstreams.borrow_mut();
        upstreams.retain(|known| known.server != upstream.server);
        upstreams.push(Rc::new(upstream));
    }

    /// What is known of its session at a server from before this epoch is of no use.
    pub(super) fn forget(&self, server: u64, epoch: u32) {
        self.upstreams.borrow_mut().retain(|known| known.server != server || known.epoch >= epoch);
    }

    /// Learns what other shards have told the ledger.
    pub(super) fn catch_up(&self, shard: &Shard) {
        if let Visit::Known(known) = shard.control.ledger.visit(&self.key(), self.terms(), shard.timers.last().unix_s())
        {
            known.upstreams.into_iter().for_each(|upstream| self.learn(upstream));
        }
    }

    /// It is in use: the ledger hears so now and then, and says whether it still is a session.
    pub(super) fn touch(&self, shard: &Shard) -> bool {
        let now_s = shard.timers.last().unix_s();
        if self.entered.get() && now_s.saturating_sub(self.touched_s.get()) >= shard.control.ledger.touch_s() {
            self.touched_s.set(now_s);
            if !shard.control.ledger.touch(&self.key(), now_s) {
                shard.sessions.borrow_mut().remove(&self.nonce16);
                self.ended.set(true);
            }
        }
        !self.ended.get()
    }

    /// This one uses it now.
    fn used_by(&self, shard: &Shard, caller: &Rc<Caller>) {
        let mut known = self.caller.borrow_mut();
        if shard.minds_callers.get() && !known.as_ref().is_some_and(|known| Rc::ptr_eq(known, caller)) {
            *known = Some(caller.clone());
        }
    }

    /// Who used it last, if that one may still do something.
    pub(super) fn user(&self, shard: &Shard, snapshot: &Held) -> Option<Rc<Caller>> {
        let now = shard.timers.last();
        let may = |caller: &Rc<Caller>| {
            let good = caller.expires > now.unix_s() && snapshot.stands(caller, now.mono);
            good && snapshot.revocations.hits(caller, None).is_none()
        };
        self.caller.borrow().clone().filter(may)
    }

    /// Whether it has ended, as far as this shard has heard.
    pub(super) fn is_over(&self) -> bool {
        self.ended.get()
    }
}

fn terms(seal: &SessionSeal) -> Terms {
    Terms {
        endpoint: seal.endpoint_hash,
        revision: seal.revision,
        capabilities: seal.capabilities,
        issued_s: seal.issued_at,
    }
}

/// By their random bits, which we made: nobody can choose ones that collide.
type Generation = HashMap<[u8; 16], Rc<Live>, foldhash::fast::RandomState>;

/// The sessions that this shard has seen lately: two generations, so that those in use stay and no walk is needed.
#[derive(Default)]
pub(super) struct Sessions {
    young: Generation,
    old: Generation,
}

impl Sessions {
    pub(super) fn get(&mut self, nonce: &[u8; 16]) -> Option<Rc<Live>> {
        if let Some(live) = self.young.get(nonce) {
            return Some(live.clone());
        }
        let live = self.old.remove(nonce)?;
        self.insert(live.clone());
        Some(live)
    }

    pub(super) fn insert(&mut self, live: Rc<Live>) {
        if self.young.len() >= SESSIONS_KNOWN_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(live.nonce16, live);
    }

    pub(super) fn remove(&mut self, nonce: &[u8; 16]) -> Option<Rc<Live>> {
        let live = self.young.remove(nonce).or_else(|| self.old.remove(nonce))?;
        live.ended.set(true);
        Some(live)
    }
}

/// A session has ended: where a server's own is a connection of this shard, that ends too.
pub(super) fn hang_up(shard: &Shard, live: &Live) {
    let snapshot = shard.snapshot();
    for upstream in live.upstreams.borrow().iter() {
        if server_of(&snapshot, upstream).is_some_and(|server| snapshot.transport(server) == Transport::Sse) {
            shard.upstreams.hang_up(&upstream.id);
        }
    }
}

impl Shard {
    /// Opens a session id for the caller that presents it at an endpoint. Every way in which it is not theirs is an
    /// error, and one that has ended is too.
    pub(super) fn open_session(
        &self,
        opened: &Unsealed,
        id: &[u8],
        caller: &Rc<Caller>,
        digest: u64,
    ) -> Result<Rc<Live>, SessionFault> {
        let session = opened.open(&self.sealing, id)?.owned_by(&caller.owner, digest)?;
        self.read_letters();
        let now_s = self.timers.last().unix_s();
        let known = self.sessions.borrow_mut().get(&session.nonce16);
        if let Some(live) = known {
            live.used_by(self, caller);
            return if live.touch(self) { Ok(live) } else { Err(SessionFault::Ended) };
        }
        let key = SessionKey { owner: session.owner, nonce: session.nonce16 };
        let known = match self.control.ledger.visit(&key, terms(&session), now_s) {
            Visit::Known(known) => known.upstreams,
            Visit::Lost => SmallVec::new(),
            Visit::Ended => return Err(SessionFault::Ended),
            Visit::Full => return Err(SessionFault::NoRoom),
        };
        let live = Rc::new(Live::new(session, known, now_s));
        live.used_by(self, caller);
        self.sessions.borrow_mut().insert(live.clone());
        Ok(live)
    }
}

/// A session that its server has just opened under `id`, or one on an endpoint of several servers, which will open theirs
/// when there is something for them: the client's id for it.
pub(super) fn begin(shard: &Shard, flight: &Flight, id: Option<&[u8]>, revision: Revision) -> Result<String, Kind> {
    let digest = flight.snapshot.prepared.endpoints[flight.endpoint.index()].digest;
    let profile = flight.profile.as_deref().unwrap_or_default();
    let (seal, sealed) = sealed(shard, &flight.caller, digest, revision, Capabilities::of(profile))?;
    let key = SessionKey { owner: seal.owner, nonce: seal.nonce16 };
    enter(shard, flight, key, terms(&seal), id, revision).map(|_| sealed)
}

/// A session of HTTP+SSE (MCP 2024-11-05 basic/transports), and its id: it has that before its handshake, and is in the
/// ledger after it. At home here.
pub(super) fn promised(shard: &Shard, caller: &Rc<Caller>, digest: u64) -> Result<(Rc<Live>, String), Kind> {
    let (seal, sealed) = sealed(shard, caller, digest, Revision::R2024_11_05, Capabilities::default())?;
    let session = seal.owned_by(&caller.owner, digest).map_err(unopened)?;
    let live = Live::new(session, SmallVec::new(), shard.timers.last().unix_s());
    live.entered.set(false);
    live.used_by(shard, caller);
    Ok((Rc::new(live), sealed))
}

/// What stands for the session of a stream that has none, a modern client's: at home here, and unknown to the ledger.
pub(super) fn nameless(shard: &Shard, caller: &Caller, digest: u64, revision: Revision) -> Result<Rc<Live>, Kind> {
    let (seal, _) = sealed(shard, caller, digest, revision, Capabilities::default())?;
    let session = seal.owned_by(&caller.owner, digest).map_err(unopened)?;
    let live = Live::new(session, SmallVec::new(), shard.timers.last().unix_s());
    live.entered.set(false);
    Ok(Rc::new(live))
}

/// Keeps such a promise: the handshake was answered, by a server under `id`, or here.
pub(super) fn kept(
    shard: &Shard,
    flight: &Flight,
    live: &Live,
    id: Option<&[u8]>,
    revision: Revision,
) -> Result<(), Kind> {
    let upstream = enter(shard, flight, live.key(), live.terms(), id, revision)?;
    upstream.into_iter().for_each(|upstream| live.learn(upstream));
    live.speaks.set(revision);
    live.entered.set(true);
    live.touched_s.set(shard.timers.last().unix_s());
    Ok(())
}

fn sealed(
    shard: &Shard,
    caller: &Caller,
    digest: u64,
    revision: Revision,
    capabilities: Capabilities,
) -> Result<(SessionSeal, String), Kind> {
    let (mut nonce, mut nonce16) = ([0; 12], [0; 16]);
    let random = shard.random.fill(&mut nonce).and_then(|()| shard.random.fill(&mut nonce16));
    let key = shard.sealing.first().filter(|_| random.is_ok()).ok_or(Kind::ServerInvalid)?;
    let seal = SessionSeal {
        node: 0,
        home: shard.id,
        owner: caller.owner,
        endpoint_hash: digest,
        revision,
        capabilities: capabilities.0,
        issued_at: shard.timers.now().unix_s(),
        nonce16,
    };
    let sealed = owner::seal(key, &seal, nonce);
    Ok((seal, sealed))
}

/// Tells the ledger of a session, and of its server's if it has one.
fn enter(
    shard: &Shard,
    flight: &Flight,
    key: SessionKey,
    terms: Terms,
    id: Option<&[u8]>,
    revision: Revision,
) -> Result<Option<Upstream>, Kind> {
    if id.is_some_and(|id| id.len() > UPSTREAM_SESSION_BYTES_MAX) {
        return Err(Kind::ServerInvalid);
    }
    let profile = flight.profile.as_deref().unwrap_or_default();
    let (server, instance) = (digest(flight), flight.instance);
    let upstream = id.map(|id| Upstream { server, instance, epoch: 1, revision, id: id.into() });
    let now_s = shard.timers.last().unix_s();
    let entered = shard.control.ledger.enter(key, terms, profile, upstream.clone(), now_s);
    entered.map(|()| upstream).map_err(|fault| match fault {
        LedgerFault::OwnerFull => Kind::SessionsBusy,
        LedgerFault::Full => Kind::SessionsFull,
    })
}

/// A flight's server, as the ledger knows it.
pub(super) fn digest(flight: &Flight) -> u64 {
    flight.snapshot.prepared.servers[flight.server.index()].digest
}

/// The server's session that a message goes to, where that is known and nothing has to be done before.
pub(super) fn known(shard: &Shard, flight: &Flight, live: &Live, next: Do) -> Option<Rc<Upstream>> {
    let Do::Send { epoch } = next else { return None };
    let upstream = live.upstream(digest(flight)).filter(|upstream| upstream.epoch == epoch)?;
    (!exchange::is_stranded(shard, &flight.snapshot, flight.server, &upstream)).then_some(upstream)
}

/// Does what a message's way asks for until it is to be sent; gives the server's session that it goes to.
pub(super) async fn reach(
    shard: &Shard,
    flight: &Flight,
    live: &Live,
    way: &mut Way,
    first: Do,
) -> Result<Rc<Upstream>, WayFault> {
    let server = digest(flight);
    let (mut next, mut lead) = (first, 0);
    loop {
        let came = match next {
            Do::Send { .. } => match known(shard, flight, live, next) {
                Some(upstream) => return Ok(upstream),
                // It is stranded, or another call of this shard has learned of a newer one meanwhile.
                None => In::Forgotten,
            },
            Do::Refuse(fault) => return Err(fault),
            // A shard knows a session before it has a flight in it; a way is delivered by whoever sent.
            Do::Visit | Do::Deliver => return Err(WayFault::OutOfTurn),
            Do::Claim { stale } => {
                let (claimed, epoch) = claim(shard, live, server, stale);
                lead = epoch;
                In::Claimed(claimed)
            }
            Do::Open => open(shard, flight, live, lead).await,
            Do::Wait => {
                shard.timers.sleep_until(shard.timers.now().mono.plus_ms(WAY_WAIT_MS)).await;
                In::Time
            }
        };
        next = way.step(came, shard.timers.now().mono);
    }
}

/// What the ledger says, and the epoch of the session that is to be opened.
fn claim(shard: &Shard, live: &Live, server: u64, stale: u32) -> (Claimed, u32) {
    match shard.control.ledger.claim(&live.key(), server, stale, shard.timers.now()) {
        Claim::Open(upstream) => {
            let epoch = upstream.epoch;
            live.learn(upstream);
            (Claimed::Open { epoch }, 0)
        }
        Claim::Lead { epoch } => (Claimed::Lead, epoch),
        Claim::Wait => (Claimed::Wait, 0),
        Claim::Ended => (Claimed::Ended, 0),
    }
}

/// Opens the session anew where its server has forgotten the one of epoch `stale` (0: there was none): for a stream,
/// which is no message. Nothing is opened where a call has done so since that one was asked for: the newer one lives, and
/// what is under way in it would be left behind.
///
/// # Errors
/// A refusal when it cannot be had.
pub(super) async fn reopen(shard: &Shard, flight: &Flight, stale: u32) -> Result<(), Refusal> {
    let Some(live) = &flight.session else { return Err(Kind::SessionUnknown.into()) };
    let until = shard.timers.now().mono.plus_ms(timeout(flight));
    let (mut way, first) = Way::new(Some(live.epoch(digest(flight))), Reach::Newest, until);
    let first = match first {
        Do::Send { epoch } if epoch == stale => way.step(In::Forgotten, shard.timers.now().mono),
        other => other,
    };
    reach(shard, flight, live, &mut way, first).await.map(|_| ()).map_err(|fault| refused(shard, flight, fault))
}

/// What the client is told of a session id that does not open. Another owner's, another endpoint's, a forged and an
/// ended one are one and the same to its bearer.
pub(super) fn unopened(fault: SessionFault) -> Kind {
    match fault {
        SessionFault::NoRoom => Kind::SessionsFull,
        _ => Kind::SessionUnknown,
    }
}

/// What the client is told when its message did not get to its server.
pub(super) fn refused(shard: &Shard, flight: &Flight, fault: WayFault) -> Refusal {
    match fault {
        WayFault::Unreachable if let Some(retry_ms) = exchange::unhealthy(shard, &flight.snapshot, flight.server) => {
            flight.later(Kind::ServerUnhealthy, retry_ms)
        }
        WayFault::Unreachable | WayFault::Late => flight.reasoned(Kind::ServerUnreachable),
        // Of several servers that is the one's affair: the client's session is as good as ever.
        WayFault::Declined | WayFault::Forgotten if flight.is_merged() => {
            let words = format!("The server '{}' opens no session; the call was not sent.", flight.server_name());
            flight.reasoned(Kind::ServerUnreachable).saying(words)
        }
        _ => Kind::SessionUnknown.into(),
    }
}

fn timeout(flight: &Flight) -> u64 {
    flight.snapshot.settings.servers[flight.server.index()].timeout_ms
}

/// Opens a session at the server as the client that this one belongs to, and tells the ledger.
async fn open(shard: &Shard, flight: &Flight, live: &Live, epoch: u32) -> In {
    let (key, server) = (live.key(), digest(flight));
    let known = match shard.control.ledger.visit(&key, live.terms(), shard.timers.now().unix_s()) {
        Visit::Known(known) => Some(known),
        Visit::Lost => None,
        Visit::Ended | Visit::Full => return In::Ended,
    };
    let was = live.upstream(server).map_or(0, |upstream| upstream.instance);
    let wish = Wish::Rather(was, pick::key(&key.nonce, 0));
    let since = shard.timers.now().mono;
    let until = since.plus_ms(timeout(flight).min(LEASE_MS));
    let shown = shown::due(shard, &flight.snapshot, flight.server, flight.whom(), until).await;
    flight.figures.waits(shard, since);
    let Ok(shown) = shown else {
        shard.control.ledger.not_opened(&key, server, epoch);
        return In::Unreachable;
    };
    let mut lanes = Lanes::new(&flight.snapshot, flight.server, wish, shown.as_ref());
    let (mut opened, mut instance) = (Err(In::Unreachable), 0);
    while let Some(lane) = lanes.next(shard) {
        instance = lane.instance.digest;
        let span = traced::opening(shard, flight, &lane);
        opened = Box::pin(shake_hands(shard, flight, live, known.as_ref(), &lane, until)).await;
        if let Some(span) = span {
            let failure =
                opened.as_ref().err().map(|came| if *came == In::Unreachable { "unreachable" } else { "invalid" });
            span.end(shard, failure);
        }
        if !matches!(opened, Err(In::Unreachable)) || shard.timers.now().mono >= until {
            break;
        }
    }
    let id = match opened {
        Ok(id) => id,
        Err(came) => {
            shard.control.ledger.not_opened(&key, server, epoch);
            return came;
        }
    };
    let (id, revision) = id;
    let upstream = Upstream { server, instance, epoch, revision, id };
    match shard.control.ledger.opened(&key, upstream.clone()) {
        Opened::Kept => {
            live.learn(upstream);
            shard.feeds.opened(shard, live);
            let moved = was != 0 && was != instance;
            shard.count(if moved { Count::SessionsMoved } else { Count::SessionsReopened });
            if moved {
                // Nobody else would find out, once the instance is well again.
                shard.control.mail.send(&Letter::SessionMoved(live.nonce16, server, epoch));
            }
            In::Opened { epoch }
        }
        lost => {
            end_upstream(shard, &flight.snapshot, flight.server, &upstream, flight.whom()).await;
            if lost == Opened::Ended { In::Ended } else { In::Overtaken }
        }
    }
}

/// The handshake (MCP basic/lifecycle), and what the client had set in the session that is gone. Gives the server's id for
/// the session, and its revision.
async fn shake_hands(
    shard: &Shard,
    flight: &Flight,
    live: &Live,
    known: Option<&Known>,
    lane: &Lane<'_>,
    until: Moment,
) -> Result<(Box<[u8]>, Revision), In> {
    let capabilities = Capabilities(live.capabilities);
    let profile = known.and_then(|known| known.profile.as_deref()).map(Profile::json);
    let body = request_initialize_again(0, live.speaks(), profile, capabilities);
    let mut answer = post(shard, live, lane, None, &body, until).await?;
    let message = match (answer.status(), media(&answer)) {
        (200, Media::Json | Media::Events) => whole(shard, &mut answer, b"0").await,
        (status @ 400..=499, _) => {
            if matches!(status, 401 | 403) {
                shown::refused_by(shard, &flight.snapshot, flight.server, flight.whom(), lane.shown);
            }
            return Err(In::Declined);
        }
        _ => return Err(In::Unreachable),
    };
    // A client speaks what it has agreed on with its one server. Of several each may know another revision: what differs
    // between them differs in what they can say, not in how it is said.
    let agreed = agreed(shard, &message.ok_or(In::Unreachable)?);
    let agreed = agreed.filter(|agreed| flight.is_merged() || *agreed == live.speaks());
    let id: Box<[u8]> = answer.field(Field::McpSessionId).unwrap_or_default().into();
    retire(shard, answer).await;
    if id.len() > UPSTREAM_SESSION_BYTES_MAX {
        return Err(In::Declined);
    }
    let revision = agreed.unwrap_or(live.speaks());
    let upstream = Upstream { server: digest(flight), instance: lane.instance.digest, epoch: 0, revision, id };
    let came = match agreed {
        Some(_) => restore(shard, flight, live, known, lane, &upstream, until).await,
        // A server that will not is for a new session to find out.
        None => Err(In::Declined),
    };
    if let Err(came) = came {
        end_upstream(shard, &flight.snapshot, flight.server, &upstream, flight.whom()).await;
        return Err(came);
    }
    Ok((upstream.id, revision))
}

/// Brings a new session to where the old one was.
async fn restore(
    shard: &Shard,
    flight: &Flight,
    live: &Live,
    known: Option<&Known>,
    lane: &Lane<'_>,
    upstream: &Upstream,
    until: Moment,
) -> Result<(), In> {
    for (number, body) in restoring(shard, flight, known).iter().enumerate() {
        let mut answer = post(shard, live, lane, Some(upstream), body, until).await?;
        if number > 0 && media(&answer) == Media::Events {
            let _ = whole(shard, &mut answer, itoa::Buffer::new().format(number).as_bytes()).await;
        }
        let status = answer.status();
        retire(shard, answer).await;
        if status == 404 {
            return Err(In::Declined);
        }
    }
    Ok(())
}

/// What brings a new session to where the old one was: `initialized`, the log level, the subscriptions. The requests
/// among them have their place as id.
fn restoring(shard: &Shard, flight: &Flight, known: Option<&Known>) -> Vec<Vec<u8>> {
    let mut bodies = vec![request::notify_initialized()];
    let Some(known) = known else { return bodies };
    if let Some(level) = known.level.and_then(LogLevel::of).filter(|_| !flight.is_merged() || logs(flight)) {
        bodies.push(request::request_set_level(bodies.len() as u64, level));
    }
    let prefix = subscribed_at(flight);
    for uri in &known.subscriptions {
        let own = own_subscription(uri, &prefix, flight.is_merged()).filter(|uri| is_readable_ever(shard, flight, uri));
        bodies.extend(own.map(|uri| request::request_subscribe(bodies.len() as u64, uri)));
    }
    bodies
}

/// What a remembered subscription is called at the server with this prefix; `None` for another's. What was subscribed to
/// while there was one server has no prefix, and is that one's only.
fn own_subscription<'a>(uri: &'a str, prefix: &str, merged: bool) -> Option<&'a str> {
    uri.strip_prefix(prefix).or_else(|| Some(uri).filter(|uri| !merged && !uri.starts_with("mcp+")))
}

/// Whether a resource may be read at this moment, with the task of now or with any task that the caller has: a subscription was made with one of
/// them, and each word of it is weighed again.
fn is_readable_ever(shard: &Shard, flight: &Flight, uri: &str) -> bool {
    let may = |task| Beside::of(shard, flight).on(task).may_read(uri);
    may(flight.task) || flight.caller.tasks.iter().any(|task| may(ActiveTask::One(*task)))
}

/// Whether a flight's server takes a log level.
fn logs(flight: &Flight) -> bool {
    let offered = flight.offer(flight.server);
    offered.is_none_or(|offered| catalog::capability(offered, "logging"))
}

/// What stands before a URI that a session has subscribed to at one of several servers, where that is remembered.
fn subscribed_at(flight: &Flight) -> String {
    format!("mcp+{}:", flight.server_name())
}

/// Sends a message of the gateway's own in a session, and waits for the head of its answer.
async fn post(
    shard: &Shard,
    live: &Live,
    lane: &Lane<'_>,
    upstream: Option<&Upstream>,
    body: &[u8],
    until: Moment,
) -> Result<Answer, In> {
    let mut fields: SmallVec<[(Field, &[u8]); 12]> = SmallVec::new();
    fields.push((Field::ContentType, b"application/json"));
    fields.push((Field::Accept, b"application/json, text/event-stream"));
    fields.push((Field::UserAgent, USER_AGENT));
    if let Some(upstream) = upstream {
        session_fields(upstream, &mut fields);
    }
    let request = Request {
        method: Method::Post,
        usual: false,
        fields: &fields,
        params: &[],
        body: Some(body),
        repeatable: true,
    };
    let request = shard.upstreams.compose(Clearance::Session(live.proof()), lane, &request).ok_or(In::Unreachable)?;
    // Whoever waits for this session may be another client than the one that began: nobody can call it off.
    sent(shard, lane, request, until, &Abort::default()).await.map_err(|_| In::Unreachable)
}

/// Session and version, as the server knows them.
pub(super) fn session_fields<'a>(upstream: &'a Upstream, fields: &mut SmallVec<[(Field, &'a [u8]); 12]>) {
    if !upstream.id.is_empty() {
        fields.push((Field::McpSessionId, &upstream.id));
    }
    // The header came with 2025-06-18.
    if upstream.revision >= Revision::R2025_06_18 {
        fields.push((Field::McpProtocolVersion, upstream.revision.as_str().as_bytes()));
    }
}

/// The answer with this id, in either form.
async fn whole(shard: &Shard, answer: &mut Answer, id: &[u8]) -> Option<Vec<u8>> {
    if media(answer) == Media::Events {
        let ours = |data: &[u8]| {
            let mut reader = shard.reader();
            let Ok(envelope) = reader.read(data) else { return false };
            envelope.shape == Shape::Result && envelope.id.is_some_and(|given| given.raw(data) == id)
        };
        return stream::event_with(shard, answer, ours).await.ok();
    }
    let mut body = Vec::new();
    loop {
        let done = answer.decode(|data| body.extend_from_slice(data)).ok()?;
        if done {
            return Some(body);
        }
        if body.len() > EVENT_BYTES_MAX || answer.fill(&shard.buffers).await.is_err() {
            return None;
        }
    }
}

/// The version that an `initialize` result settled on; `None` for an error.
pub(super) fn agreed(shard: &Shard, body: &[u8]) -> Option<Revision> {
    let mut reader = shard.reader();
    let envelope = reader.read(body).ok()?;
    let version = envelope.result(body, "protocolVersion").filter(|member| member.kind == Json::String)?;
    Revision::parse(version.text()?.of(body)).filter(|revision| !revision.is_modern())
}

/// Whether an answer says that the server does not know the session, and so has not looked at the message: 404 (MCP
/// basic/transports, "Session Management"), or the 400 that many servers send instead: an error that answers no
/// request, about the session. `body` is that 400's, whole.
pub(super) fn is_forgotten(shard: &Shard, status: u16, body: &[u8], asked: Option<&[u8]>) -> bool {
    if status != 400 {
        return status == 404;
    }
    let mut reader = shard.reader();
    let Ok(envelope) = reader.read(body) else { return false };
    let answers = envelope.id.is_some_and(|given| asked.is_some_and(|asked| id::same(asked, given.raw(body))));
    envelope.shape == Shape::Error && !answers && memchr::memmem::find(&body.to_ascii_lowercase(), b"session").is_some()
}

/// What a message changes in its server's session: brought along when that has to be opened anew.
pub(super) enum Change {
    Level(u8),
    Subscription { uri: Box<str>, on: bool },
}

/// What a message is to change.
pub(super) fn change(shard: &Shard, flight: &Flight, call: &Call, body: &[u8]) -> Option<Box<Change>> {
    flight.session.as_ref()?;
    let verb = call.method?.verb;
    let change = match verb {
        Verb::SetLevel => Change::Level(level(shard, body)? as u8),
        Verb::ResourcesSubscribe | Verb::ResourcesUnsubscribe => {
            let uri = call.subject.text()?.of(body);
            let uri = if flight.is_merged() { subscribed_at(flight) + uri } else { uri.to_owned() };
            Change::Subscription { uri: uri.into(), on: verb == Verb::ResourcesSubscribe }
        }
        _ => return None,
    };
    Some(Box::new(change))
}

/// The level that a `logging/setLevel` asks for; `None` for no level there is.
pub(super) fn level(shard: &Shard, body: &[u8]) -> Option<LogLevel> {
    let mut reader = shard.reader();
    let level = reader.read(body).ok()?.param(body, "level")?.text()?;
    let mut scratch = Vec::new();
    LogLevel::parse(text::unescape(level.of(body), &mut scratch).ok()?.as_bytes())
}

/// Keeps what the server has accepted. Before its client hears so: whatever that does next may find that the server has
/// forgotten the session.
pub(super) fn keep(shard: &Shard, live: &Live, change: &Change) {
    let (ledger, key) = (&shard.control.ledger, live.key());
    match change {
        Change::Level(level) => ledger.set_level(&key, *level),
        // One too many is not remembered.
        Change::Subscription { uri, on } => {
            let _ = ledger.subscribe(&key, uri, *on);
        }
    }
}

/// The params of an `initialize`, as JSON text: what a client says of itself.
pub(super) fn profile(shard: &Shard, body: &[u8]) -> Option<Box<[u8]>> {
    // It goes to every server of the session, and what must stay here goes to none.
    let cleaned = traced::cleaned(shard, &shard.snapshot(), body);
    let body = cleaned.as_deref().unwrap_or(body);
    let mut reader = shard.reader();
    let envelope = reader.read(body).ok()?;
    Some(envelope.body?.value.of(body).into())
}

/// A client's answer to what a server asked of it, with the id that the server gave its request.
pub(super) struct Restored {
    pub(super) body: Vec<u8>,
    /// Of the server's session in which it asked: the answer means nothing in another.
    pub(super) epoch: u32,
}

/// Finds the request that a client's answer is for, and takes it out: nobody answers it a second time. `None` for an
/// answer that nobody waits for: a late one, a second one, one to another session's request.
pub(super) fn restored(shard: &Shard, flight: &Flight, call: &Call, text: &[u8]) -> Option<Restored> {
    let (server, restored) = question(shard, flight, call, text)?;
    (server == digest(flight)).then_some(restored)
}

/// The same, of whichever server: with its digest.
pub(super) fn question(shard: &Shard, flight: &Flight, call: &Call, text: &[u8]) -> Option<(u64, Restored)> {
    let live = flight.session.as_ref()?;
    let id = call.id?;
    let minted = std::str::from_utf8(id.raw(text)).ok()?.parse().ok()?;
    let ask = shard.control.asks.take(live.nonce16, minted, shard.timers.last().mono)?;
    if ask.epoch > live.epoch(ask.server) {
        live.catch_up(shard);
    }
    let mut body = Vec::with_capacity(text.len() + ask.id.len());
    splice(text, &[(id.span, &ask.id)], &mut body);
    Some((ask.server, Restored { body, epoch: ask.epoch }))
}

/// Ends a session: no shard serves it when this returns, and no restart brings it back. Its servers are told.
pub(super) async fn end(shard: &Shard, live: &Live) -> Result<(), Refusal> {
    let ended = shard.control.ledger.end(&live.key(), live.terms(), shard.timers.now().unix_s());
    // In every shard's box before the client hears that it is over.
    shard.control.mail.send(&Letter::SessionEnded(live.nonce16));
    shard.control.asks.forget(live.nonce16);
    shard.count(Count::SessionsEnded);
    let snapshot = shard.snapshot();
    let user = live.user(shard, &snapshot);
    for upstream in &ended.upstreams {
        if let Some(server) = server_of(&snapshot, upstream) {
            end_upstream(shard, &snapshot, server, upstream, Whom::session(user.as_deref())).await;
        }
    }
    let until = shard.timers.now().mono.plus_ms(SESSION_END_MS_MAX);
    while !shard.control.ledger.is_kept(ended.mark) {
        if shard.timers.now().mono >= until {
            return Err(Kind::StateFull.into());
        }
        shard.timers.sleep_until(shard.timers.now().mono.plus_ms(TICK_MS)).await;
    }
    Ok(())
}

/// The server that a session is at, if there is one of that name.
fn server_of(snapshot: &Held, upstream: &Upstream) -> Option<ServerId> {
    snapshot.server_by_digest(upstream.server)
}

/// Ends a server's session that belongs to nobody any more. That it may fail is the server's own idle bound's affair.
pub(super) async fn end_upstream(
    shard: &Shard,
    snapshot: &Held,
    server: ServerId,
    upstream: &Upstream,
    whom: Whom<'_>,
) {
    if upstream.id.is_empty() {
        return;
    }
    let until = shard.timers.now().mono.plus_ms(SESSION_END_MS_MAX);
    let Ok(shown) = shown::due(shard, snapshot, server, whom, until).await else { return };
    let mut fields: SmallVec<[(Field, &[u8]); 12]> = SmallVec::new();
    fields.push((Field::UserAgent, USER_AGENT));
    session_fields(upstream, &mut fields);
    let request =
        Request { method: Method::Delete, usual: false, fields: &fields, params: &[], body: None, repeatable: true };
    let Some(lane) = exchange::aside(shard, snapshot, server, upstream, shown.as_ref()) else { return };
    let Some(request) = shard.upstreams.compose(Clearance::Orphan(upstream), &lane, &request) else { return };
    if let Ok(answer) = shard.upstreams.exchange(&lane, request, until, &Abort::default()).await {
        retire(shard, answer).await;
    }
}

/// Tells those of `servers` that have a session open for this one, all at once, and waits until they have heard, for as
/// long as they may take. What one of them says to it, if anything, concerns nobody.
pub(super) async fn tell(
    shard: &Shard,
    snapshot: &Held,
    live: &Live,
    servers: impl Iterator<Item = ServerId>,
    message: &[u8],
) {
    let open = |server: ServerId| Some((server, live.upstream(snapshot.prepared.servers[server.index()].digest)?));
    let mut told: Vec<_> = servers
        .filter_map(open)
        .map(|(server, upstream)| Box::pin(tell_one(shard, snapshot, live, server, upstream, message)))
        .collect();
    poll_fn(|context| {
        told.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if told.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Tells a server something in the session that it has open for this one.
pub(super) async fn tell_one(
    shard: &Shard,
    snapshot: &Held,
    live: &Live,
    server: ServerId,
    upstream: Rc<Upstream>,
    message: &[u8],
) {
    let mut fields: SmallVec<[(Field, &[u8]); 12]> = SmallVec::new();
    fields.push((Field::ContentType, b"application/json"));
    fields.push((Field::Accept, b"application/json, text/event-stream"));
    fields.push((Field::UserAgent, USER_AGENT));
    session_fields(&upstream, &mut fields);
    let request = Request {
        method: Method::Post,
        usual: false,
        fields: &fields,
        params: &[],
        body: Some(message),
        repeatable: true,
    };
    let user = live.user(shard, snapshot);
    let until = shard.timers.now().mono.plus_ms(TELLING_MS_MAX);
    let shown = shown::due(shard, snapshot, server, Whom::session(user.as_deref()), until).await;
    let Ok(shown) = shown else { return };
    let Some(lane) = exchange::aside(shard, snapshot, server, &upstream, shown.as_ref()) else { return };
    let Some(request) = shard.upstreams.compose(Clearance::Session(live.proof()), &lane, &request) else { return };
    if let Ok(answer) = sent(shard, &lane, request, until, &Abort::default()).await {
        retire(shard, answer).await;
    }
}

/// Ends the sessions of this shard's part of the ledger that are idle or old; their servers are told in the background,
/// one after the other.
pub(super) fn expire(shard: &Rc<Shard>) {
    if shard.expiring.get() {
        return;
    }
    let now_s = shard.timers.now().unix_s();
    let mut orphans = Vec::new();
    let parts = shard.control.shards();
    shard.control.ledger.sweep(shard.id.index(), parts, now_s, SESSIONS_EXPIRED_AT_ONCE_MAX, |(key, upstreams)| {
        shard.control.asks.forget(key.nonce);
        shard.control.mail.send(&Letter::SessionEnded(key.nonce));
        shard.count(Count::SessionsExpired);
        orphans.extend(upstreams);
    });
    if orphans.is_empty() {
        return;
    }
    shard.expiring.set(true);
    let shard = shard.clone();
    ring::spawn(async move {
        let snapshot = shard.snapshot();
        // A server that is slow to hear must not keep sessions of others from ending: what is not told by then is not.
        let until = shard.timers.now().mono.plus_ms(SESSIONS_EXPIRED_MS_MAX);
        for orphan in &orphans {
            if shard.draining() || shard.timers.now().mono >= until {
                break;
            }
            if let Some(server) = server_of(&snapshot, orphan) {
                // Whoever it was for is not there any more.
                end_upstream(&shard, &snapshot, server, orphan, Whom::Nobody).await;
            }
        }
        shard.expiring.set(false);
    });
}
