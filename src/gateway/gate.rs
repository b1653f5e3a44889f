//! What a request must be before anybody reads its body: a path of ours, a Host and an Origin on the list, a method
//! that is served, a body that can be JSON, a caller.

mod cold;

use std::rc::Rc;
use std::time::Duration;

use crate::base::ids::EndpointId;
use crate::base::time::Now;
use crate::config::snapshot::{IssuerPage, Route, Snapshot};
use crate::http::field::Known;
use crate::http::head::Method;
use crate::identity::active::ActiveTask;
use crate::identity::cache::Near;
use crate::identity::caller::Caller;
use crate::identity::revoked::Revoked;
use crate::identity::token::TokenFault;
use crate::ledger::errands::{ErrandKey, Turn};

use super::conn::Conn;
use super::cors;
use super::keydesk;
use super::pipeline::note_caller;
use super::refusal::{Kind, Refusal};
use super::shard::{Held, Shard};

/// Where a request leads, as [`route`] says it: where one that named the same Host and path under the same snapshot led
/// too. What is asked from a page, or may only name the server that its certificate was shown for, is looked at anew.
pub(super) fn led(shard: &Shard, snapshot: &Snapshot, conn: &Conn) -> Result<Route, Refusal> {
    let usual = matches!(conn.head.method, Method::Post | Method::Get | Method::Delete);
    if !usual || conn.head.count(Known::Origin) > 0 || conn.stream.client_verified() {
        return route(snapshot, conn);
    }
    let bytes = conn.bytes();
    // By the number of the snapshot in hand: another may be published at any moment, in which ids mean something else.
    let (host, path, number) = (conn.head.host.of(bytes), conn.head.path.of(bytes), snapshot.number);
    if let Some(route) = shard.led.borrow().again(number, host, path) {
        return Ok(route);
    }
    let route = route(snapshot, conn)?;
    shard.led.borrow_mut().note(number, host, path, route);
    Ok(route)
}

/// Where a request leads, once Host, Origin and path are accepted.
pub(super) fn route(snapshot: &Snapshot, conn: &Conn) -> Result<Route, Refusal> {
    let bytes = conn.bytes();
    let head = &conn.head;
    if matches!(head.method, Method::Connect | Method::Trace) {
        // Served nowhere, and CONNECT has no path to look at.
        return Err(Refusal::from(Kind::MethodNotAllowed).allowing(MCP_METHODS));
    }
    match head.count(Known::Origin) {
        0 => {}
        1 => {
            let origin = head.get(bytes, Known::Origin).unwrap_or_default();
            if !listed(&snapshot.settings.origins, origin) && !open_to_read(snapshot, conn) {
                return Err(Kind::OriginUnknown.into());
            }
        }
        _ => return Err(Kind::OriginUnknown.into()),
    }
    let host = head.host.of(bytes);
    if !listed(&snapshot.settings.hosts, host) {
        return Err(if conn.stream.is_tls() { Kind::HostMisdirected } else { Kind::HostUnknown }.into());
    }
    // Where a certificate was asked for by name, the name that the certificate was shown for is the one that counts.
    if conn.stream.client_verified() && conn.stream.server_name().is_some_and(|name| !names(host, &name)) {
        return Err(Kind::HostMisdirected.into());
    }
    snapshot.prepared.route(head.path.of(bytes)).ok_or_else(|| Kind::NotFound.into())
}

/// The MCP endpoint that a request leads to under this snapshot: what an id of another one stands for is not known.
pub(super) fn endpoint(snapshot: &Snapshot, conn: &Conn) -> Result<EndpointId, Refusal> {
    match route(snapshot, conn)? {
        Route::Mcp(endpoint) => Ok(endpoint),
        Route::Metadata(_) | Route::Issuer(_) => Err(Kind::NotFound.into()),
    }
}

/// Whether a request only reads what every page may read: what is said there is for whoever has no token yet.
fn open_to_read(snapshot: &Snapshot, conn: &Conn) -> bool {
    let reads = matches!(conn.head.method, Method::Get | Method::Head) || cors::is_preflight(conn);
    reads && snapshot.prepared.route(conn.head.path.of(conn.bytes())).is_some_and(is_open)
}

/// Whether a route is a document for everybody.
pub(super) fn is_open(route: Route) -> bool {
    matches!(route, Route::Metadata(_) | Route::Issuer(IssuerPage::Metadata))
}

/// The methods a route serves.
pub(super) fn method(conn: &Conn, route: Route) -> Result<Method, Refusal> {
    use IssuerPage::{Authorize, Metadata, Register, Token};
    match (route, conn.head.method) {
        (Route::Mcp(_), Method::Get | Method::Post | Method::Delete)
        | (Route::Metadata(_) | Route::Issuer(Metadata | Authorize), Method::Get | Method::Head)
        | (Route::Issuer(Token | Register), Method::Post) => Ok(conn.head.method),
        _ if cors::is_preflight(conn) => Ok(Method::Options),
        _ => Err(Refusal::from(Kind::MethodNotAllowed).allowing(methods(route))),
    }
}

/// The methods a route serves, as `Allow` names them.
pub(super) fn methods(route: Route) -> &'static str {
    match route {
        Route::Mcp(_) => MCP_METHODS,
        Route::Metadata(_) | Route::Issuer(IssuerPage::Metadata | IssuerPage::Authorize) => "GET, HEAD",
        Route::Issuer(IssuerPage::Token | IssuerPage::Register) => "POST",
    }
}

/// What an MCP endpoint serves.
const MCP_METHODS: &str = "GET, POST, DELETE";

/// A POST's body must be plain JSON.
pub(super) fn media_type(conn: &Conn) -> Result<(), Refusal> {
    let bytes = conn.bytes();
    let media = conn.head.get(bytes, Known::ContentType).unwrap_or_default();
    let is_json = media == b"application/json" || {
        let essence = media.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        essence.eq_ignore_ascii_case(b"application/json")
    };
    if conn.head.count(Known::ContentType) != 1 || !is_json {
        return Err(Kind::MediaType.into());
    }
    match conn.head.count(Known::ContentEncoding) {
        0 => Ok(()),
        _ => Err(Kind::ContentEncoding.into()),
    }
}

/// Who calls, where, and under which configuration: one snapshot for all three.
pub(super) struct Admitted {
    pub(super) snapshot: Rc<Held>,
    pub(super) endpoint: EndpointId,
    pub(super) caller: Rc<Caller>,
    /// How long the plane was waited for.
    pub(super) waited: Duration,
}

/// Who calls, unless that is revoked. Nearly always that is known here and now. Where the plane has to fetch something
/// first, it is waited for, and what was true before the wait is asked anew: then snapshot and endpoint may be others.
/// A client that leaves meanwhile is noticed if its request is here whole.
pub(super) async fn caller(
    shard: &Shard,
    snapshot: Rc<Held>,
    conn: &mut Conn,
    endpoint: EndpointId,
) -> Result<Admitted, Refusal> {
    match asked(shard, &snapshot, conn, endpoint, Pays::First)? {
        Told::Is(caller) => Ok(Admitted { snapshot, endpoint, caller, waited: Duration::ZERO }),
        Told::Awaits(lack) => timed(shard, Box::pin(cold::watched(shard, snapshot, conn, lack))).await,
    }
}

/// The same where nobody looks whether the client is still there.
pub(super) async fn caller_unwatched(
    shard: &Shard,
    snapshot: Rc<Held>,
    conn: &Conn,
    endpoint: EndpointId,
) -> Result<Admitted, Refusal> {
    match asked(shard, &snapshot, conn, endpoint, Pays::First)? {
        Told::Is(caller) => Ok(Admitted { snapshot, endpoint, caller, waited: Duration::ZERO }),
        Told::Awaits(lack) => timed(shard, Box::pin(cold::waited(shard, snapshot, conn, lack))).await,
    }
}

/// With how long it was waited for.
async fn timed(shard: &Shard, wait: impl Future<Output = Result<Admitted, Refusal>>) -> Result<Admitted, Refusal> {
    let since = shard.timers.now().mono;
    let admitted = wait.await?;
    Ok(Admitted { waited: shard.timers.now().mono.since(since), ..admitted })
}

/// Whether a token that was let in is still believed: looked at with each use, also while keys and settings stay.
pub(super) fn is_believed(caller: &Caller, now: Now) -> bool {
    caller.expires > now.unix_s() && caller.liveness.as_ref().is_none_or(|token| token.is_alive(now.mono))
}

/// What is known of a caller.
enum Told {
    Is(Rc<Caller>),
    /// Not who it is, until the plane has brought something.
    Awaits(Lack),
}

/// What keeps a token from being judged.
enum Lack {
    /// A key of the issuer with this index.
    Key { issuer: usize, lack: keydesk::Lack },
    /// Its issuer's word.
    Word { issuer: usize, key: ErrandKey, turn: Turn },
}

/// What there is for strangers' tokens is paid before one is looked at, or has been.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pays {
    First,
    Paid,
}

fn asked(shard: &Shard, snapshot: &Snapshot, conn: &Conn, endpoint: EndpointId, pays: Pays) -> Result<Told, Refusal> {
    let known = verified(shard, snapshot, conn, endpoint, pays)?;
    if let Told::Is(caller) = &known
        && let Err(refusal) = unrevoked(snapshot, endpoint, caller, ActiveTask::None)
    {
        // Whose request it was is known here, and to nobody who only sees it refused.
        note_caller(shard, snapshot, caller, endpoint, &refusal);
        return Err(refusal.recorded());
    }
    Ok(known)
}

/// Whether a caller may still do anything, and work on this task: asked with the newest snapshot, immediately before
/// each decision, and when a stream begins.
///
/// # Errors
/// For a caller as for a bad token, for a task as for one that it does not hold.
pub(super) fn unrevoked(
    snapshot: &Snapshot,
    endpoint: EndpointId,
    caller: &Caller,
    task: ActiveTask,
) -> Result<(), Refusal> {
    if snapshot.revocations.is_empty() {
        return Ok(());
    }
    match revoked(snapshot, caller, task) {
        None => Ok(()),
        Some(Revoked::Task) => Err(Kind::TaskUnavailable.into()),
        Some(Revoked::Caller) => {
            let endpoint = &snapshot.prepared.endpoints[endpoint.index()];
            Err(Refusal::from(Kind::Revoked).challenging(&endpoint.challenge_invalid))
        }
    }
}

/// What of a caller and its task is revoked, by the ids of the same snapshot.
pub(super) fn revoked(snapshot: &Snapshot, caller: &Caller, task: ActiveTask) -> Option<Revoked> {
    let name = match task {
        ActiveTask::One(task) => Some(snapshot.settings.policy.tasks().name(task)),
        ActiveTask::None | ActiveTask::Several => None,
    };
    snapshot.revocations.hits(caller, name)
}

/// Who calls, at the time the clock was last read: the verified token's caller, or `anonymous` where that is allowed and no token came.
fn verified(
    shard: &Shard,
    snapshot: &Snapshot,
    conn: &Conn,
    endpoint: EndpointId,
    pays: Pays,
) -> Result<Told, Refusal> {
    let bytes = conn.bytes();
    let prepared = &snapshot.prepared.endpoints[endpoint.index()];
    let refused = |challenge: &str, kind: Kind| Refusal::from(kind).challenging(challenge);
    let token = match (conn.head.count(Known::Authorization), conn.head.get(bytes, Known::Authorization)) {
        (0, _) | (_, None) if snapshot.settings.anonymous => {
            return Ok(Told::Is(shard.tokens(snapshot).anonymous(&snapshot.settings.policy)));
        }
        (0, _) | (_, None) => return Err(refused(&prepared.challenge, Kind::TokenMissing)),
        (1, Some(field)) => credential(field),
        _ => None,
    };
    let no_token = || {
        refused(&prepared.challenge_invalid, Kind::TokenInvalid)
            .saying("Authorization must be one 'Bearer' credential.")
    };
    let token = token.ok_or_else(no_token)?;
    let now = shard.timers.last();
    let held = match shard.tokens(snapshot).now.get_near(token, now.unix_s(), &conn.slot.token_place, is_token) {
        Near::Known(caller) => Some(caller.clone()),
        Near::Unknown => None,
        Near::NoToken => return Err(no_token()),
    };
    let caller = match held.filter(|caller| is_believed(caller, now)) {
        Some(caller) => caller,
        None => match cold::judged(shard, snapshot, token, pays, endpoint)? {
            Told::Is(caller) => caller,
            awaits @ Told::Awaits(_) => return Ok(awaits),
        },
    };
    if !caller.endpoints.contains(endpoint) {
        return Err(invalid(snapshot, endpoint, TokenFault::Audience));
    }
    Ok(Told::Is(caller))
}

/// A token that is not valid here.
fn invalid(snapshot: &Snapshot, endpoint: EndpointId, fault: TokenFault) -> Refusal {
    Refusal::from(Kind::TokenInvalid)
        .challenging(&snapshot.prepared.endpoints[endpoint.index()].challenge_invalid)
        .saying(format!("The bearer token is not valid here: {fault}."))
}

/// The token that a request shows, if it shows one alone.
fn bearer_of(conn: &Conn) -> Option<&[u8]> {
    let field = conn.head.get(conn.bytes(), Known::Authorization)?;
    bearer(field).filter(|_| conn.head.count(Known::Authorization) == 1)
}

/// The credential of `Bearer TOKEN` (RFC 6750, section 2.1; the scheme is case-insensitive).
fn bearer(field: &[u8]) -> Option<&[u8]> {
    credential(field).filter(|token| is_token(token))
}

/// What stands behind `Bearer `, whatever that is.
fn credential(field: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = field.split_at_checked(b"bearer ".len())?;
    alike(scheme, b"Bearer ").then_some(token)
}

/// Whether it can be a token.
fn is_token(token: &[u8]) -> bool {
    // Every byte is looked at, also behind a wrong one: so the compiler may take many at once.
    !token.iter().fold(token.is_empty(), |wrong, byte| wrong | !byte.is_ascii_graphic() | (*byte == b','))
}

/// Whether a Host is of this name, with whatever port.
fn names(host: &[u8], name: &str) -> bool {
    host.get(..name.len()).is_some_and(|host| host.eq_ignore_ascii_case(name.as_bytes()))
        && matches!(host.get(name.len()), None | Some(b':'))
}

pub(super) fn listed(list: &[String], value: &[u8]) -> bool {
    list.iter().any(|entry| alike(entry.as_bytes(), value))
}

/// Whether they are equal but for case. Nearly all are equal as they stand, and that is seen at once.
fn alike(one: &[u8], other: &[u8]) -> bool {
    one == other || one.eq_ignore_ascii_case(other)
}
