//! One exchange with a server, during which the client may leave.

use std::pin::pin;

use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::time::Moment;
use crate::http::field::Known;
use crate::mcp::method::Verb;
use crate::mcp::revision::Revision;
use crate::session::ledger::Upstream;
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Abort, Answer, Composed, Lane};

use super::conn::Conn;
use super::flight::{Flight, NEVER};
use super::shard::{Held, Shard};
use super::watch::{self, Woke};

/// One exchange, during which the client may leave. In the modern era that cancels the call (MCP 2026-07-28
/// basic/patterns/cancellation), in the legacy era it does not: `cancels`.
pub(super) async fn watched(
    shard: &Shard,
    conn: &mut Conn,
    cancels: bool,
    lane: &Lane<'_>,
    request: Composed,
    deadline: Moment,
    abort: &Abort,
) -> Result<Answer, UpstreamFault> {
    let mut work = pin!(sent(shard, lane, request, deadline, abort));
    loop {
        match watch::next(shard, conn, work.as_mut(), NEVER, cancels, false).await {
            Woke::Done(result) => return result,
            Woke::Gone => abort.fire(),
            Woke::Time | Woke::Draining => {}
        }
    }
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
    if matches!(result, Err(UpstreamFault::Unreachable | UpstreamFault::Untrusted | UpstreamFault::NoAddress)) {
        lane.state.poke.unreachable();
    }
    result
}

/// Where calls to a server go, under this snapshot.
pub(super) fn lane(snapshot: &Held, server: ServerId) -> Lane<'_> {
    let state = &snapshot.states[server.index()];
    Lane {
        state,
        instance: &state.instances[0],
        addresses: &snapshot.addresses[server.index()][0],
        host: &snapshot.prepared.servers[server.index()].host,
        path: snapshot.settings.servers[server.index()].instances().first().map_or("", |instance| &instance.path),
        connect_ms: snapshot.settings.limits.connect_ms_max,
        tls: snapshot.tls.side(server, 0),
        transport: snapshot.transport(server),
    }
}

/// The gateway's name towards servers.
pub(super) const USER_AGENT: &[u8] = concat!("portcullis/", env!("CARGO_PKG_VERSION")).as_bytes();

/// Session and version, as the server knows them.
pub(super) fn legacy_fields<'a>(
    flight: &'a Flight,
    upstream: Option<&'a Upstream>,
    fields: &mut SmallVec<[(&'static str, &'a [u8]); 12]>,
) {
    if let Some(upstream) = upstream.filter(|upstream| !upstream.id.is_empty()) {
        fields.push((Known::McpSessionId.name(), &upstream.id));
    }
    let initialize = flight.method.is_some_and(|method| method.verb == Verb::Initialize);
    // The header came with 2025-06-18; the handshake itself settles the version and carries none.
    let revision = upstream.map_or(flight.revision, |upstream| upstream.revision);
    if !initialize && revision >= Revision::R2025_06_18 {
        fields.push((Known::McpProtocolVersion.name(), revision.as_str().as_bytes()));
    }
}
