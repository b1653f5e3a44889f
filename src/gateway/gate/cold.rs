//! A token that nobody knows yet: verified here and now where its issuer's keys are at hand; otherwise its caller waits
//! until the plane has looked for the key that it names, or has asked its issuer.
//!
//! What costs little is asked first, and what strangers may cost a shard bounds what is asked at all. Who waits holds its
//! request's head and a place among those that wait, and nothing else.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ring::digest;

use crate::base::ids::EndpointId;
use crate::base::limits::{ERRAND_WAIT_MS_MAX, OPAQUE_TOKEN_BYTES_MIN, TOKEN_BYTES_MAX};
use crate::base::secret::Secret;
use crate::base::time::Moment;
use crate::config::snapshot::Snapshot;
use crate::config::{KeysFrom, Settings};
use crate::gateway::conn::Conn;
use crate::gateway::errand::{Inquiry, Judged, brought};
use crate::gateway::flight::NEVER;
use crate::gateway::keydesk::{self, Found};
use crate::gateway::load::Class;
use crate::gateway::refusal::{Kind, Refusal};
use crate::gateway::shard::{Held, Shard};
use crate::gateway::watch::{self, Heed, Woke};
use crate::http::head::Framing;
use crate::identity::caller::Caller;
use crate::identity::token::{self, TokenFault};
use crate::ledger::errands::{ErrandKey, Look, Turn};

use super::{Admitted, Lack, Pays, Told, asked, bearer_of, endpoint as endpoint_of, invalid};

/// Judges a token that is not among those remembered, as far as that can be done at once.
pub(super) fn judged(
    shard: &Shard,
    snapshot: &Snapshot,
    token: &[u8],
    pays: Pays,
    endpoint: EndpointId,
) -> Result<Told, Refusal> {
    let settings = &snapshot.settings;
    let begun = shard.timers.now().mono;
    let known = shard.tokens(snapshot).take_known(token);
    let affordable = || shard.admits(Class::Stranger, &settings.limits) && shard.load.may_verify(begun);
    if !known && pays == Pays::First && !affordable() {
        return Err(Kind::VerifyBusy.into());
    }
    let judged = match opaque_to(settings, token) {
        Some(issuer) => {
            let turn = if known { Turn::First } else { Turn::InTurn };
            by_word(shard, snapshot, token, issuer, turn, endpoint)
        }
        None => by_key(shard, snapshot, token, endpoint),
    };
    if !known {
        shard.load.verified(begun, shard.timers.now().mono);
    }
    judged
}

/// The issuer that has to be asked about a token, by its index: where one can be, about what is not signed as a token is,
/// and about all of its own where it has no keys. What says of itself that it is signed or encrypted may be another
/// issuer's, and is told to nobody where there is another.
fn opaque_to(settings: &Settings, token: &[u8]) -> Option<usize> {
    let issuer = settings.sources.iter().position(|source| source.introspection.is_some())?;
    let opaque = || !token::is_signed(token) && (settings.issuers.len() == 1 || !token::has_header(token));
    let keyless = || {
        settings.sources[issuer].keys == KeysFrom::None && token::said_issuer(token, &settings.issuers) == Some(issuer)
    };
    (opaque() || keyless()).then_some(issuer)
}

/// By the issuers' keys.
fn by_key(shard: &Shard, snapshot: &Snapshot, token: &[u8], endpoint: EndpointId) -> Result<Told, Refusal> {
    let now = shard.timers.last().unix_s();
    let (settings, resources) = (&snapshot.settings, &snapshot.prepared.resources);
    let tasks = settings.policy.tasks();
    let lack = |issuer, lack| Ok(Told::Awaits(Lack::Key { issuer, lack }));
    match token::verify(token, &settings.issuers, &snapshot.keys, resources, tasks, now) {
        Ok(caller) => Ok(Told::Is(remember(shard, snapshot, token, caller))),
        Err(TokenFault::KeyUnknown { issuer, issued_unix_s }) => lack(issuer, keydesk::Lack::Key { issued_unix_s }),
        Err(TokenFault::KeysMissing { issuer }) => lack(issuer, keydesk::Lack::Keys),
        Err(fault) => Err(invalid(snapshot, endpoint, fault)),
    }
}

/// By its issuer's word.
fn by_word(
    shard: &Shard,
    snapshot: &Snapshot,
    token: &[u8],
    place: usize,
    turn: Turn,
    endpoint: EndpointId,
) -> Result<Told, Refusal> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(invalid(snapshot, endpoint, TokenFault::TooLong));
    }
    if token.len() < OPAQUE_TOKEN_BYTES_MIN {
        return Err(invalid(snapshot, endpoint, TokenFault::Shape));
    }
    let issuer = &snapshot.settings.issuers[place];
    let key = key(&snapshot.settings, place, token);
    let inquiry = || Inquiry { issuer: issuer.issuer.clone(), token: Secret::new(token) };
    let judged = match shard.control.introspections.look_in(&key, shard.timers.now().mono, turn, inquiry) {
        Look::Have(judged) => judged,
        Look::Failed(_, after_ms) => {
            return Err(Why::Later(Kind::IntrospectionUnavailable, seconds(after_ms)).refusal(snapshot, endpoint));
        }
        Look::Full => return Err(Kind::IntrospectionUnavailable.into()),
        Look::Wait => return Ok(Told::Awaits(Lack::Word { issuer: place, key, turn })),
    };
    let now = shard.timers.last();
    let (claims, liveness) = match &*judged {
        Judged::Active { claims, liveness } if liveness.is_alive(now.mono) => (claims, liveness),
        // It was let go of in this moment, and is forgotten: the next look asks.
        Judged::Active { liveness, .. } if !liveness.has_ended() => {
            return Ok(Told::Awaits(Lack::Word { issuer: place, key, turn }));
        }
        _ => return Err(invalid(snapshot, endpoint, TokenFault::Inactive)),
    };
    let (resources, tasks) = (&snapshot.prepared.resources, snapshot.settings.policy.tasks());
    let caller = token::introspected(token, claims, issuer, resources, tasks, now.unix_s());
    let caller = caller.map_err(|fault| invalid(snapshot, endpoint, fault))?;
    let caller = Caller { liveness: Some(liveness.clone()), ..caller };
    Ok(Told::Is(remember(shard, snapshot, token, caller)))
}

/// Remembers a caller. Asked once of every token: which rules are about it.
fn remember(shard: &Shard, snapshot: &Snapshot, token: &[u8], caller: Caller) -> Rc<Caller> {
    let bearer = snapshot.prepared.keeps_tokens.then(|| Arc::new(Secret::new(token)));
    let caller = Caller { heads: snapshot.settings.policy.heads_of(&caller), bearer, ..caller };
    shard.tokens(snapshot).now.insert(token, caller, shard.timers.last().unix_s())
}

/// What the word of the issuer with this index on a token is found by. Where it is asked otherwise, it is another question;
/// what else changes with the settings changes nothing in what it says.
fn key(settings: &Settings, issuer: usize, token: &[u8]) -> ErrandKey {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"portcullis introspection 2");
    let mut part = |tag: u8, bytes: &[u8]| {
        hash.update(&[tag]);
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(0xff, settings.issuers[issuer].issuer.as_bytes());
    let source = &settings.sources[issuer];
    source.introspection.iter().for_each(|asking| asking.mark(&source.guard, &mut part));
    part(0xfe, token);
    let mut key = ErrandKey::default();
    key.copy_from_slice(hash.finish().as_ref());
    key
}

/// Waits for what a token lacks, while its client is there.
pub(super) async fn watched(
    shard: &Shard,
    mut snapshot: Rc<Held>,
    conn: &mut Conn,
    mut lack: Lack,
) -> Result<Admitted, Refusal> {
    let times = Times::now(shard);
    // Bytes of a body that is still to come would look like the next request.
    let whole = match conn.head.framing {
        Framing::None | Framing::UntilClose => true,
        Framing::Length(length) => (conn.bytes().len().saturating_sub(conn.head.end)) as u64 >= length,
        Framing::Chunked => false,
    };
    loop {
        // A copy that is wiped: what the client sends meanwhile moves what it has sent.
        let token = Secret::new(bearer_of(conn).unwrap_or_default());
        let endpoint = endpoint_of(&snapshot, conn)?;
        let came = {
            let work = pin!(wait(shard, &snapshot, token.reveal(), &lack, times));
            watch::next(shard, conn, work, NEVER, whole, Heed::Nothing).await
        };
        match came {
            Woke::Done(came) => came.map_err(|why| why.refusal(&snapshot, endpoint))?,
            // Nobody is left to be told.
            Woke::Gone | Woke::Time | Woke::Draining => return Err(Refusal::from(Kind::Cancelled).recorded()),
        }
        match again(shard, conn)? {
            After::Admitted(admitted) => return Ok(admitted),
            After::Lacks(now, other) => (snapshot, lack) = (now, other),
        }
    }
}

/// Waits for what a token lacks.
pub(super) async fn waited(
    shard: &Shard,
    mut snapshot: Rc<Held>,
    conn: &Conn,
    mut lack: Lack,
) -> Result<Admitted, Refusal> {
    let times = Times::now(shard);
    loop {
        let endpoint = endpoint_of(&snapshot, conn)?;
        let came = wait(shard, &snapshot, bearer_of(conn).unwrap_or_default(), &lack, times).await;
        came.map_err(|why| why.refusal(&snapshot, endpoint))?;
        match again(shard, conn)? {
            After::Admitted(admitted) => return Ok(admitted),
            After::Lacks(now, other) => (snapshot, lack) = (now, other),
        }
    }
}

/// When a request began to wait, and how long it may.
#[derive(Clone, Copy)]
struct Times {
    arrived: Moment,
    until: Moment,
}

impl Times {
    fn now(shard: &Shard) -> Self {
        let arrived = shard.timers.now().mono;
        Self { arrived, until: arrived.plus_ms(ERRAND_WAIT_MS_MAX) }
    }
}

/// Why a wait was in vain.
enum Why {
    /// There is no such key.
    NoKey,
    /// Not now: worth another try after so long, seconds; 0 where nobody knows.
    Later(Kind, u32),
}

impl Why {
    fn refusal(self, snapshot: &Snapshot, endpoint: EndpointId) -> Refusal {
        match self {
            Self::NoKey => invalid(snapshot, endpoint, TokenFault::KeyUnknown { issuer: 0, issued_unix_s: None }),
            Self::Later(kind, retry_after) => {
                let mut refusal = Refusal::from(kind);
                refusal.retry_after = retry_after;
                refusal
            }
        }
    }
}

/// Waits until the plane has brought something, so that the token is worth another look.
async fn wait(shard: &Shard, snapshot: &Held, token: &[u8], lack: &Lack, times: Times) -> Result<(), Why> {
    let (place, asked, turn) = match lack {
        Lack::Key { issuer, lack } => {
            return match keydesk::wait(shard, snapshot, *issuer, *lack, times.arrived, times.until).await {
                Found::Again => Ok(()),
                Found::Unknown => Err(Why::NoKey),
                Found::Pending(after_s) => Err(Why::Later(Kind::KeysPending, after_s)),
                Found::Missing(after_s) => Err(Why::Later(Kind::KeysUnavailable, after_s)),
                Found::Busy => Err(Why::Later(Kind::VerifyBusy, 0)),
            };
        }
        Lack::Word { issuer, key, turn } => (*issuer, key, *turn),
    };
    // Who was let in before is no stranger: those take no place from it.
    let stranger = (turn == Turn::InTurn).then(|| shard.waiting.stranger());
    if stranger.as_ref().is_some_and(Option::is_none) {
        return Err(Why::Later(Kind::VerifyBusy, 0));
    }
    let issuer = &snapshot.settings.issuers[place].issuer;
    let look = || {
        let current = shard.snapshot();
        if current.auth_epoch != snapshot.auth_epoch
            && opaque_to(&current.settings, token).is_none_or(|place| key(&current.settings, place, token) != *asked)
        {
            // The question is another one now.
            return Look::Have(());
        }
        let inquiry = || Inquiry { issuer: issuer.clone(), token: Secret::new(token) };
        match shard.control.introspections.look_in(asked, shard.timers.now().mono, turn, inquiry) {
            Look::Have(_) => Look::Have(()),
            Look::Failed(word, after_ms) => Look::Failed(word, after_ms),
            Look::Wait => Look::Wait,
            Look::Full => Look::Full,
        }
    };
    match brought(shard, None, times.until, look).await {
        Look::Have(()) => Ok(()),
        Look::Failed(_, after_ms) => Err(Why::Later(Kind::IntrospectionUnavailable, seconds(after_ms))),
        Look::Wait | Look::Full => Err(Why::Later(Kind::IntrospectionUnavailable, 0)),
    }
}

/// What follows from a wait.
enum After {
    Admitted(Admitted),
    /// It lacks something under these settings and keys, too.
    Lacks(Rc<Held>, Lack),
}

/// The token is looked at under the newest settings and keys; one snapshot for all that is said of its caller.
fn again(shard: &Shard, conn: &Conn) -> Result<After, Refusal> {
    let current = shard.snapshot();
    let endpoint = endpoint_of(&current, conn)?;
    Ok(match asked(shard, &current, conn, endpoint, Pays::Paid)? {
        Told::Is(caller) => After::Admitted(Admitted { snapshot: current, endpoint, caller, waited: Duration::ZERO }),
        Told::Awaits(lack) => After::Lacks(current, lack),
    })
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)
}
