//! One exchange with a server, during which the client may leave.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use ::ring::rand::SecureRandom as _;
use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::time::Moment;
use crate::http::field::Known;
use crate::identity::active::ActiveTask;
use crate::identity::caller::Owner;
use crate::mcp::method::Verb;
use crate::mcp::revision::Revision;
use crate::session::ledger::Upstream;
use crate::session::tasks::active_mark;
use crate::upstream::breaker::Terms;
pub(super) use crate::upstream::exchange::USER_AGENT;
use crate::upstream::exchange::{Abort, Answer, Composed, Lane};
use crate::upstream::shown::Shown;
use crate::upstream::state::InstanceState;
use crate::upstream::{UpstreamFault, pick};

use super::conn::Conn;
use super::flight::{Flight, NEVER};
use super::shard::{Held, Shard};
use super::tally::Count;
use super::watch::{self, Heed, Woke};

/// One exchange, during which the client may leave. In the modern era that cancels the call (MCP 2026-07-28
/// basic/patterns/cancellation), in the legacy era it does not: `cancels`.
pub(super) async fn watched(
    shard: &Shard,
    conn: &mut Conn,
    cancels: bool,
    lane: Lane<'_>,
    request: Composed,
    deadline: Moment,
    abort: &Abort,
) -> Result<Answer, UpstreamFault> {
    // A wait that is young when it begins is looked at again, whatever comes: see `watch::Waits`.
    let lane = Lane { looks_again: conn.watch.is_none(), ..lane };
    let result = {
        let mut work = pin!(shard.upstreams.exchange(&lane, request, deadline, abort));
        loop {
            match watch::next(shard, conn, work.as_mut(), NEVER, cancels, Heed::Nothing).await {
                Woke::Done(result) => break result,
                Woke::Gone => abort.fire(),
                Woke::Time | Woke::Draining => {}
            }
        }
    };
    if let Err(fault) = &result {
        tell(shard, &lane, *fault);
    }
    result
}

/// One exchange. The plane hears of a server that could not be reached.
pub(super) async fn sent(
    shard: &Shard,
    lane: &Lane<'_>,
    request: Composed,
    deadline: Moment,
    abort: &Abort,
) -> Result<Answer, UpstreamFault> {
    let result = shard.upstreams.exchange(lane, request, deadline, abort).await;
    result.inspect_err(|fault| tell(shard, lane, *fault))
}

#[cold]
fn tell(shard: &Shard, lane: &Lane<'_>, fault: UpstreamFault) {
    match fault {
        UpstreamFault::Unreachable | UpstreamFault::Untrusted | UpstreamFault::NoAddress => {
            lane.state.poke.unreachable();
        }
        UpstreamFault::Unhealthy { .. } => shard.count(Count::ServersUnhealthy),
        _ => {}
    }
}

/// What makes things belong to one instance of a server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// They are at this one, by its digest (0: where it was not written down), and mean nothing to another.
    At(u64),
    /// They share this key, and belong to whichever instance it leads to.
    Key(u64),
    /// As before, but they were at this one, by its digest, and stay there where that is possible.
    Rather(u64, u64),
}

/// The lanes to a server's instances under one snapshot, the one where something belongs first.
pub(super) struct Lanes<'a> {
    snapshot: &'a Held,
    server: ServerId,
    shown: Option<&'a Rc<Shown>>,
    order: Order,
    next: usize,
}

/// Places of instances.
enum Order {
    /// Where there is one, or one that will do.
    One(usize),
    Several(SmallVec<[usize; 8]>),
}

impl<'a> Lanes<'a> {
    /// `shown`: what is due there for whom the message is for.
    pub(super) fn new(snapshot: &'a Held, server: ServerId, wish: Wish, shown: Option<&'a Rc<Shown>>) -> Self {
        let instances = &snapshot.states[server.index()].instances;
        let order = match wish {
            Wish::At(0) => Order::One(0),
            Wish::At(digest) => match place(instances, digest) {
                Some(place) => Order::One(place),
                None => Order::Several(SmallVec::new()),
            },
            _ if instances.len() == 1 => Order::One(0),
            Wish::Key(key) => Order::Several(ranked(instances, key)),
            Wish::Rather(digest, key) => {
                let mut order = ranked(instances, key);
                let first = place(instances, digest);
                if let Some(first) = first.and_then(|place| order.iter().position(|other| *other == place)) {
                    order[..=first].rotate_right(1);
                }
                Order::Several(order)
            }
        };
        Self { snapshot, server, shown, order, next: 0 }
    }

    /// The next one worth trying. Where none is, the first of all: what is wrong with that is the answer.
    pub(super) fn next(&mut self, shard: &Shard) -> Option<Lane<'a>> {
        let before = self.next;
        let order = match &self.order {
            Order::One(place) => {
                self.next = 1;
                return (before == 0).then(|| lane(self.snapshot, self.server, *place, self.shown));
            }
            Order::Several(order) => order,
        };
        while let Some(place) = order.get(self.next).copied() {
            self.next += 1;
            if order.len() == 1 || is_well(self.snapshot, self.server, place, shard.timers.last().mono) {
                return Some(lane(self.snapshot, self.server, place, self.shown));
            }
        }
        let first = order.first().filter(|_| before == 0)?;
        Some(lane(self.snapshot, self.server, *first, self.shown))
    }
}

fn place(instances: &[Arc<InstanceState>], digest: u64) -> Option<usize> {
    instances.iter().position(|instance| instance.digest == digest)
}

fn ranked(instances: &[Arc<InstanceState>], key: u64) -> SmallVec<[usize; 8]> {
    pick::ranked(key, instances.iter().map(|instance| instance.digest))
}

/// Whether an instance is worth asking, as far as is known.
fn is_well(snapshot: &Held, server: ServerId, place: usize, now: Moment) -> bool {
    let known = snapshot.addresses[server.index()].get(place).is_some_and(|addresses| !addresses.is_empty());
    known && snapshot.states[server.index()].instances[place].breaker.would_enter(now)
}

/// Whether a session at a server cannot go on where it is, and can elsewhere: its instance is ejected while another is
/// well, or is configured no more.
pub(super) fn is_stranded(shard: &Shard, snapshot: &Held, server: ServerId, upstream: &Upstream) -> bool {
    let instances = &snapshot.states[server.index()].instances;
    if upstream.instance == 0 {
        return false;
    }
    let Some(place) = instances.iter().position(|instance| instance.digest == upstream.instance) else { return true };
    // A probe is for who is new: whoever is there has waited long enough.
    let well = |other: usize| {
        !instances[other].breaker.is_ejected() && is_well(snapshot, server, other, shard.timers.last().mono)
    };
    instances[place].breaker.is_ejected() && (0..instances.len()).any(well)
}

/// The soonest that an instance of a server is worth asking again, milliseconds, where none is now.
pub(super) fn unhealthy(shard: &Shard, snapshot: &Held, server: ServerId) -> Option<u64> {
    let now = shard.timers.last().mono;
    let waits = snapshot.states[server.index()].instances.iter().map(|instance| instance.breaker.wait_ms(now));
    waits.collect::<Option<SmallVec<[u64; 8]>>>()?.into_iter().min()
}

/// Where what is said in passing goes, that nobody waits for: to an instance that is not ejected, and without a verdict on
/// it, since it has less time than a call.
pub(super) fn aside<'a>(
    shard: &Shard,
    snapshot: &'a Held,
    server: ServerId,
    upstream: &Upstream,
    shown: Option<&'a Rc<Shown>>,
) -> Option<Lane<'a>> {
    let lane = Lanes::new(snapshot, server, Wish::At(upstream.instance), shown).next(shard)?;
    (!lane.instance.breaker.is_ejected()).then_some(Lane { health: None, ..lane })
}

/// The same lane for a stream: a server may take its time with the head of one, which says nothing of its calls.
pub(super) fn patient(lane: Lane<'_>) -> Lane<'_> {
    Lane { health: lane.health.map(|terms| Terms { counts_timeouts: false, ..terms }), ..lane }
}

/// What makes messages without a session belong together: their caller and its active task.
pub(super) fn key(shard: &Shard, flight: &Flight) -> u64 {
    let several = flight.snapshot.states[flight.server.index()].instances.len() > 1;
    match flight.method.map(|method| method.verb) {
        _ if !several => 0,
        // A session has its own instance from here on.
        Some(Verb::Initialize) => {
            let mut bytes = [0; 8];
            // Without random bits all of an owner's sessions are at one.
            let filled = shard.random.fill(&mut bytes).is_ok();
            pick::key(&flight.caller.owner.0, if filled { u64::from_ne_bytes(bytes) } else { 0 })
        }
        _ => shared_key(&flight.snapshot, flight.server, &flight.caller.owner, flight.task),
    }
}

/// What all messages of an owner under an active task share.
pub(super) fn shared_key(snapshot: &Held, server: ServerId, owner: &Owner, task: ActiveTask) -> u64 {
    if snapshot.states[server.index()].instances.len() == 1 {
        return 0;
    }
    pick::key(&owner.0, active_mark(task, snapshot.settings.policy.tasks()))
}

fn lane<'a>(snapshot: &'a Held, server: ServerId, place: usize, shown: Option<&'a Rc<Shown>>) -> Lane<'a> {
    let (settings, state) = (&snapshot.settings.servers[server.index()], &snapshot.states[server.index()]);
    let prepared = &snapshot.prepared.servers[server.index()];
    Lane {
        state,
        instance: &state.instances[place],
        addresses: snapshot.addresses[server.index()].get(place).map_or(&[], |addresses| addresses),
        host: prepared.hosts.get(place).map_or(NO_HOST, String::as_str),
        path: settings.instances().get(place).map_or("/", |instance| &instance.path),
        opening: prepared.openings.get(place).map_or(&[], Vec::as_slice),
        connect_ms: snapshot.settings.limits.connect_ms_max,
        tls: snapshot.tls.side(server, place),
        transport: snapshot.transport(server),
        shown,
        // A program's own supervisor knows best.
        health: settings.command().is_none().then_some(Terms::new(settings.health.failures, settings.health.open_ms)),
        may: None,
        looks_again: false,
    }
}

/// A program's `Host`.
const NO_HOST: &str = "stdio";

/// Session and version, as the server knows them.
pub(super) fn legacy_fields<'a>(
    flight: &'a Flight,
    upstream: Option<&'a Upstream>,
    fields: &mut SmallVec<[(Known, &'a [u8]); 12]>,
) {
    if let Some(upstream) = upstream.filter(|upstream| !upstream.id.is_empty()) {
        fields.push((Known::McpSessionId, &upstream.id));
    }
    let initialize = flight.method.is_some_and(|method| method.verb == Verb::Initialize);
    // The header came with 2025-06-18; the handshake itself settles the version and carries none.
    let revision = upstream.map_or(flight.revision, |upstream| upstream.revision);
    if !initialize && revision >= Revision::R2025_06_18 {
        fields.push((Known::McpProtocolVersion, revision.as_str().as_bytes()));
    }
}
