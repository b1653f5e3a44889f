//! What a server says on a stream beside answers: its notifications and its requests, weighed before a client gets them.

use std::borrow::Cow;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::base::ids::{EndpointId, ServerId, ShardId};
use crate::base::limits::{ASK_MS_MAX, ASK_REFUSED_MS_MAX};
use crate::base::span::Span;
use crate::http::field::Known;
use crate::http::head::Method;
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::scan::{Envelope, Shape};
use crate::jsonrpc::text;
use crate::ledger::asks::Ask;
use crate::mcp::merge::Merged;
use crate::mcp::method::{self as methods, Sender, Verb};
use crate::mcp::notice;
use crate::mcp::revision::{Era, Revision};
use crate::upstream::exchange::{Abort, Clearance, Request};

use super::answer::{deadline, retire};
use super::beside::{Beside, Limits};
use super::exchange::{self, USER_AGENT};
use super::flight::Flight;
use super::sessions::{self, Live, session_fields};
use super::shard::{Held, Shard};
use super::shown::{self, Whom};
use super::tally::Count;

/// For whom a stream is read, and by which rules.
#[derive(Clone)]
pub(super) struct Eyes<'a> {
    pub(super) shard: &'a Shard,
    pub(super) snapshot: &'a Held,
    pub(super) caller: Rc<Caller>,
    pub(super) task: ActiveTask,
    /// The caller is not known under these rules: what it may get waits, and is weighed again for whoever comes for it.
    pub(super) pending: bool,
    pub(super) endpoint: EndpointId,
    pub(super) server: ServerId,
    pub(super) revision: Revision,
    pub(super) session: Option<&'a Live>,
    /// Which of the server's sessions the stream is of: what is asked on it may only be answered there.
    pub(super) epoch: u32,
}

/// What becomes of a message.
pub(super) enum Said {
    /// It goes on as it is.
    Forward,
    /// It goes on, changed so.
    Changed(Vec<u8>),
    /// It does not concern this client.
    Drop,
    /// A request that the client will not get: its id, as the server wrote it, and why.
    Refused(Vec<u8>, Why),
    /// It is no message.
    Invalid,
}

/// Why a request of a server is not given on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The rules do not let this server ask that.
    Policy,
    /// Too many of its requests wait for an answer.
    Full,
}

impl<'a> Eyes<'a> {
    /// Those of a request's caller. The rules may be newer than the request, as long as its caller is known under them.
    pub(super) fn of(shard: &'a Shard, flight: &'a Flight, current: &'a Held) -> Self {
        let who = flight.who(current);
        let same = current.settings_epoch == flight.snapshot.settings_epoch;
        let then = &flight.snapshot.prepared.endpoints[flight.endpoint.index()];
        let there =
            || Some((current.endpoint_by_digest(then.digest)?, current.server_by_digest(sessions::digest(flight))?));
        let there = if same { Some((flight.endpoint, flight.server)) } else { there() };
        let (snapshot, endpoint, server) = match there.filter(|_| who.is_some()) {
            Some((endpoint, server)) => (current, endpoint, server),
            None => (&*flight.snapshot, flight.endpoint, flight.server),
        };
        let (caller, task) = who.unwrap_or_else(|| (flight.caller.clone(), flight.task));
        Self {
            shard,
            snapshot,
            caller,
            task,
            pending: false,
            endpoint,
            server,
            revision: flight.revision,
            session: flight.session.as_deref(),
            epoch: flight.epoch,
        }
    }

    fn merged(&self) -> &'a Merged {
        &self.snapshot.merged[self.endpoint.index()]
    }

    /// The server's name, where its client does not know which of several it hears.
    fn named(&self) -> Option<&'a str> {
        let merged = self.merged().alone().is_none();
        merged.then(|| &*self.snapshot.settings.servers[self.server.index()].name)
    }

    /// A URI of the server's, as its client knows it.
    pub(super) fn exposed<'u>(&self, uri: &'u str) -> Cow<'u, str> {
        self.merged().expose_uri(self.revision.era(), self.server, uri)
    }

    fn digest(&self) -> u64 {
        self.snapshot.prepared.servers[self.server.index()].digest
    }

    fn may_ask(&self, method: &methods::Method, limits: Limits) -> bool {
        self.pending || method.ask().is_none_or(|ask| Beside::seen(self).may_ask(ask, limits))
    }

    pub(super) fn may_read(&self, uri: &str) -> bool {
        self.pending || Beside::seen(self).may_read(uri)
    }
}

/// Weighs a request or notification of the server.
pub(super) fn said(shard: &Shard, eyes: &Eyes<'_>, data: &[u8]) -> Said {
    let mut reader = shard.reader();
    let Ok(envelope) = reader.read(data) else { return Said::Invalid };
    weighed(shard, eyes, envelope, data)
}

/// The same of one that was read.
pub(super) fn weighed(shard: &Shard, eyes: &Eyes<'_>, envelope: &Envelope, data: &[u8]) -> Said {
    let name = envelope.method_name(data).unwrap_or_default();
    let Some(method) = methods::find(name, eyes.revision, Sender::Server) else { return Said::Drop };
    if envelope.shape == Shape::Request {
        return if eyes.revision.era() == Era::Modern {
            Said::Drop
        } else {
            asked(shard, eyes, method, envelope, data)
        };
    }
    if method.announces_change() {
        eyes.snapshot.states[eyes.server.index()].poke.changed();
    }
    match (method.verb, eyes.named()) {
        (Verb::ResourceUpdated, _) if !is_readable(eyes, envelope, data) => Said::Drop,
        (Verb::Cancelled, _) if eyes.session.is_some() => withdrawn(shard, eyes, envelope, data),
        (_, None) => Said::Forward,
        // What the client sees of several servers' lists, and when that changes, only the gateway knows.
        (_, Some(_)) if method.announces_change() => Said::Drop,
        (Verb::ResourceUpdated, _) => changed(notice::renamed(data, |uri| eyes.exposed(uri).into_owned())),
        (Verb::Message, Some(server)) => changed(notice::logged(data, server)),
        _ => Said::Forward,
    }
}

fn changed(message: Option<Vec<u8>>) -> Said {
    message.map_or(Said::Drop, Said::Changed)
}

/// Whether a message that was weighed before, for somebody with other rights, may still go on. Else the id, as it is
/// in the message, of a request that nobody will answer.
pub(super) fn still_allowed(shard: &Shard, eyes: &Eyes<'_>, data: &[u8]) -> Result<(), Option<u64>> {
    let mut reader = shard.reader();
    let Ok(envelope) = reader.read(data) else { return Err(None) };
    let name = envelope.method_name(data).unwrap_or_default();
    let Some(method) = methods::find(name, eyes.revision, Sender::Server) else { return Ok(()) };
    let id = envelope.id.and_then(|id| std::str::from_utf8(id.raw(data)).ok()?.parse().ok());
    let allowed = match envelope.shape {
        // One that nobody waits for any more may as well go.
        Shape::Request => asker(shard, eyes, id).is_none_or(|eyes| eyes.may_ask(method, Limits::Looked)),
        Shape::Notification if method.verb == Verb::ResourceUpdated => is_still_readable(eyes, envelope, data),
        _ => true,
    };
    if allowed { Ok(()) } else { Err(id) }
}

/// The same with the eyes for the server that asked under a minted id; `None` where that is gone.
fn asker<'a>(shard: &Shard, eyes: &Eyes<'a>, minted: Option<u64>) -> Option<Eyes<'a>> {
    if eyes.named().is_none() {
        return Some(eyes.clone());
    }
    let server = shard.control.asks.server(eyes.session?.nonce16, minted?)?;
    Some(Eyes { server: eyes.snapshot.server_by_digest(server)?, ..eyes.clone() })
}

/// Whether a resource may be read that goes by its client's name already.
fn is_still_readable(eyes: &Eyes<'_>, envelope: &Envelope, data: &[u8]) -> bool {
    let uri = envelope.param(data, "uri").and_then(|member| member.text());
    let mut scratch = Vec::new();
    let uri = uri.and_then(|span| text::unescape(span.of(data), &mut scratch).ok());
    let may = |server, uri: &str| Eyes { server, ..eyes.clone() }.may_read(uri);
    let led = uri.and_then(|uri| eyes.merged().route(eyes.revision.era(), uri, &mut |server, uri| may(server, uri)));
    eyes.pending || led.is_some_and(|(server, uri)| may(server, &uri))
}

pub(super) fn is_readable(eyes: &Eyes<'_>, envelope: &Envelope, data: &[u8]) -> bool {
    let uri = envelope.param(data, "uri").and_then(|member| member.text());
    let mut scratch = Vec::new();
    let uri = uri.and_then(|span| text::unescape(span.of(data), &mut scratch).ok());
    uri.is_some_and(|uri| eyes.may_read(uri))
}

/// A server's request to its client. In a session it goes on under an id of the gateway's own, by which the answer
/// finds its way back from any shard.
fn asked(shard: &Shard, eyes: &Eyes<'_>, method: &methods::Method, envelope: &Envelope, data: &[u8]) -> Said {
    let Some(id) = envelope.id else { return Said::Invalid };
    if !eyes.may_ask(method, Limits::Taken) {
        return Said::Refused(id.raw(data).to_vec(), Why::Policy);
    }
    // Without a session no answer could find its way to who asked, and nobody should be bothered for it.
    let Some(session) = eyes.session else {
        shard.count(Count::AsksSessionless);
        return Said::Drop;
    };
    let server = eyes.digest();
    let minted = shard.feeds.mint(shard.id);
    // Several servers may use one token at once; the client knows it by the minted id, too.
    let token = notice::progress_token(data).filter(|_| eyes.named().is_some());
    let ask = Ask {
        server,
        epoch: eyes.epoch,
        id: id.raw(data).into(),
        token: token.map(|token| token.of(data).into()),
        kind: method.ask(),
        approval: None,
        until: shard.timers.last().mono.plus_ms(ASK_MS_MAX),
    };
    if !shard.control.asks.put(session.nonce16, minted, ask) {
        shard.count(Count::AsksFull);
        return Said::Refused(id.raw(data).to_vec(), Why::Full);
    }
    let mut digits = itoa::Buffer::new();
    let minted = digits.format(minted).as_bytes();
    let mut edits: SmallVec<[(Span, &[u8]); 2]> =
        [Some(id.span), token].into_iter().flatten().map(|at| (at, minted)).collect();
    edits.sort_unstable_by_key(|(at, _)| at.start);
    let mut out = Vec::with_capacity(data.len() + 40);
    splice(data, &edits, &mut out);
    Said::Changed(out)
}

/// A client's word of how far it is with what a server asked.
pub(super) struct Progress {
    /// The server, by its digest.
    pub(super) server: u64,
    /// Of its session in which it asked: the word means nothing in another.
    pub(super) epoch: u32,
    /// The message, with the server's own token.
    pub(super) body: Vec<u8>,
}

/// Finds out for whom a client's `notifications/progress` is, on an endpoint of several servers. `None` where nobody
/// waits for it.
pub(super) fn progressed(shard: &Shard, session: &Live, data: &[u8]) -> Option<Progress> {
    let mut reader = shard.reader();
    let envelope = reader.read(data).ok()?;
    let place = envelope.param(data, "progressToken")?.value;
    let minted = std::str::from_utf8(place.of(data)).ok()?.parse().ok()?;
    let ask = shard.control.asks.progressing(session.nonce16, minted, shard.timers.last().mono)?;
    let token = ask.token?;
    let mut body = Vec::with_capacity(data.len() + token.len());
    splice(data, &[(place, &token)], &mut body);
    Some(Progress { server: ask.server, epoch: ask.epoch, body })
}

/// A server takes a request of its own back: the client knows it by the minted id.
fn withdrawn(shard: &Shard, eyes: &Eyes<'_>, envelope: &Envelope, data: &[u8]) -> Said {
    let (Some(session), Some(id)) = (eyes.session, envelope.param(data, "requestId")) else { return Said::Drop };
    let Some(minted) = shard.control.asks.withdraw(session.nonce16, eyes.digest(), eyes.epoch, id.value.of(data))
    else {
        shard.count(Count::WithdrawalsLate);
        return Said::Drop;
    };
    let mut out = Vec::with_capacity(data.len() + 20);
    splice(data, &[(id.value, itoa::Buffer::new().format(minted).as_bytes())], &mut out);
    Said::Changed(out)
}

/// An id that no other request to a client has: the shard's number in front of a count that begins at its start's time.
/// An integer that every JSON reader holds exactly.
pub(super) fn minted(shard: ShardId, count: u64) -> u64 {
    u64::from(shard.0) << COUNT_BITS | count & ((1 << COUNT_BITS) - 1)
}

const COUNT_BITS: u32 = 44;

/// As [`refuse`], for what was asked while a request is under way.
pub(super) async fn refuse_of(shard: &Shard, flight: &Flight, id: &[u8], why: Why) {
    if let Some(session) = &flight.session {
        refuse(shard, &flight.snapshot, flight.server, session, flight.epoch, id, why).await;
    }
}

/// Tells a legacy server that its request will not be answered, so that it does not wait: in the session of its own in
/// which it asked, if that is still in use.
pub(super) async fn refuse(
    shard: &Shard,
    snapshot: &Held,
    server: ServerId,
    session: &Live,
    epoch: u32,
    id: &[u8],
    why: Why,
) {
    let digest = snapshot.prepared.servers[server.index()].digest;
    let Some(upstream) = session.upstream(digest).filter(|upstream| upstream.epoch == epoch) else { return };
    let words: &[u8] = match why {
        Why::Policy => b"-32601,\"message\":\"The gateway's policy does not let this server ask that.",
        Why::Full => b"-32603,\"message\":\"Too many requests of this server wait for an answer.",
    };
    let body = [b"{\"jsonrpc\":\"2.0\",\"id\":", id, b",\"error\":{\"code\":", words, b"\"}}"].concat();
    let mut fields: SmallVec<[(Known, &[u8]); 12]> = SmallVec::new();
    fields.push((Known::ContentType, b"application/json"));
    fields.push((Known::Accept, b"application/json, text/event-stream"));
    fields.push((Known::UserAgent, USER_AGENT));
    session_fields(&upstream, &mut fields);
    let request = Request {
        method: Method::Post,
        usual: false,
        fields: &fields,
        params: &[],
        body: Some(&body),
        repeatable: false,
    };
    let until = deadline(shard, ASK_REFUSED_MS_MAX);
    let user = session.user(shard, snapshot);
    let shown = shown::due(shard, snapshot, server, Whom::session(user.as_deref()), until).await;
    let Ok(shown) = shown else { return };
    let Some(lane) = exchange::aside(shard, snapshot, server, &upstream, shown.as_ref()) else { return };
    let Some(request) = shard.upstreams.compose(Clearance::Session(session.proof()), &lane, &request) else { return };
    if let Ok(answer) = shard.upstreams.exchange(&lane, request, until, &Abort::default()).await {
        retire(shard, answer).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::SHARDS_MAX;

    #[test]
    fn minted_ids_are_exact_in_every_json_reader() {
        const YEAR_2500_MS: u64 = 16_725_225_600_000;
        assert!(minted(ShardId(SHARDS_MAX - 1), YEAR_2500_MS) < 1 << 53);
        const { assert!(YEAR_2500_MS < 1 << COUNT_BITS) };
        assert_ne!(minted(ShardId(1), 7), minted(ShardId(2), 7));
    }
}
