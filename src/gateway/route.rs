//! Which of a merged endpoint's servers a message is for, by the name that it gives, and what is answered without one.
//! From here on the message has its server's own name for what it asks: what is decided on is what is sent.

use std::borrow::Cow;

use crate::base::ids::{ServerId, ShardId};
use crate::base::span::Span;
use crate::mcp::call::{Call, Object};
use crate::mcp::catalog::{self, ListKind};
use crate::mcp::merge::rewrite;
use crate::mcp::method::Verb;
use crate::mcp::optin::TASKS_EXTENSION;
use crate::mcp::revision::Revision;
use crate::mcp::transport::Transport;
use crate::policy::decide::{self, Question, Why};
use crate::session::tasks;

use super::conn::{Body, Conn};
use super::events::{self, Eyes};
use super::flight::{Flight, Next, Renamed, Whose};
use super::judge::Judge;
use super::merged;
use super::pipeline::{self, Asked, Due, Here};
use super::refusal::{Kind, Refusal};
use super::relay;
use super::sessions::{self, Live, Restored};
use super::shard::Shard;
use super::tally::Count;
use super::traced;

/// What is due for a message on a merged endpoint.
pub(super) enum Routed {
    /// It has its server now, and is to be decided on. An answer to what that asked has found its question.
    ToServer(Option<Restored>),
    /// No server is asked.
    Due(Due),
}

/// Finds out whom a message on a merged endpoint is for, or answers it here. Lists have their own way.
///
/// # Errors
/// The same refusal for what is nobody's as for what is hidden.
pub(super) async fn find(
    shard: &Shard,
    conn: &Conn,
    body: &Body,
    flight: &mut Flight,
    call: &mut Call,
    taken_back: Option<&[u8]>,
) -> Result<Routed, Refusal> {
    let text = conn.body_bytes(body);
    let Some(method) = call.method else { return Ok(answered(shard, conn, flight, call, text)) };
    // What is told to several servers goes without what must stay here.
    let cleaned = if call.meta.cuts { traced::cleaned(shard, &flight.snapshot, text) } else { None };
    let told = cleaned.as_deref().unwrap_or(text);
    let due = match method.verb {
        Verb::Initialize => {
            flight.profile = sessions::profile(shard, text);
            here(flight, Some(flight.revision), |out| merged::write_initialize(flight, out))
        }
        Verb::Discover => here(flight, None, |out| merged::write_discover(flight, out)),
        Verb::Ping => here(flight, None, |out| out.extend_from_slice(b"{}")),
        Verb::SetLevel => return set_level(shard, conn, flight, told).await,
        Verb::RootsChanged => return tell_all(shard, conn, flight, told, |_| true).await,
        Verb::Initialized => Due::Nothing,
        Verb::Cancelled => {
            cancelled(shard, flight, taken_back, told);
            Due::Nothing
        }
        Verb::Progress => progressed(shard, conn, flight, told).await,
        Verb::TasksGet | Verb::TasksUpdate | Verb::TasksCancel => {
            let judge = Judge::new(shard, conn, body, flight);
            let server = task_server(shard, &judge, flight, call, text)?;
            return Ok(routed(shard, conn, flight, server, None));
        }
        _ => {
            let Some((server, name)) = named(flight, call, text) else {
                return Err(Judge::new(shard, conn, body, flight).nobodys(call));
            };
            if let Some(other) = may_be_anothers(flight, call, server, &name, text) {
                return Err(Judge::new(shard, conn, body, flight).unreached(call, other));
            }
            return named_to(shard, conn, body, flight, call, server, &name);
        }
    };
    Ok(Routed::Due(due))
}

/// A message to this server, which calls what it is about by `name`.
fn named_to(
    shard: &Shard,
    conn: &Conn,
    body: &Body,
    flight: &mut Flight,
    call: &mut Call,
    server: ServerId,
    name: &str,
) -> Result<Routed, Refusal> {
    let offered = flight.snapshot.catalog.server(server);
    let spoken = offered.map(|offered| offered.era(flight.era).is_some());
    // What it has for the other era is not there for this one, and whoever has no rights there hears nothing of it.
    if spoken == Some(false) || spoken.is_none() && !concerned(flight, server) {
        return Err(Judge::new(shard, conn, body, flight).nobodys(call));
    }
    let renamed = narrow(call, conn.body_bytes(body), name);
    let routed = routed(shard, conn, flight, server, renamed);
    if spoken.is_none() {
        return Err(Judge::new(shard, conn, body, flight).unreached(call, server));
    }
    Ok(routed)
}

/// It is for this server from now on.
fn routed(shard: &Shard, conn: &Conn, flight: &mut Flight, server: ServerId, renamed: Option<Box<Renamed>>) -> Routed {
    flight.server = server;
    flight.whose = Whose::One(renamed);
    let home = flight.session.as_ref().and_then(|live| pipeline::at_home(shard, conn, &flight.snapshot, server, live));
    home.map_or(Routed::ToServer(None), |home| Routed::Due(Due::Home(home)))
}

/// The server that this call is for, as far as is known.
pub(super) fn server_of(flight: &Flight, call: &Call, text: &[u8]) -> Option<ServerId> {
    named(flight, call, text).map(|(server, _)| server)
}

/// The server whose name or URI this call gives, and that server's own.
pub(super) fn named(flight: &Flight, call: &Call, text: &[u8]) -> Option<(ServerId, Box<str>)> {
    let (merged, era) = (flight.merged(), flight.era);
    let (table, caller) = (&flight.snapshot.table, &flight.caller);
    // A refusal with a reason is no secret; what is hidden leads where it would if it did not exist.
    let mut may = |server: ServerId, uri: &str| {
        let verdict = decide::judge(table, caller, flight.task, server, Question::Read(uri));
        verdict.outcome != Err(Why::Hidden)
    };
    let name = call.subject.text()?.of(text);
    match &call.subject {
        Object::Tool(_) => merged.resolve(era, ListKind::Tools, name).map(|(server, name)| (server, name.into())),
        Object::Prompt(_) | Object::CompletePrompt(_) => {
            merged.resolve(era, ListKind::Prompts, name).map(|(server, name)| (server, name.into()))
        }
        Object::Resource(_) => merged.route(era, name, &mut may).map(|(server, uri)| (server, uri.into())),
        Object::CompleteResource(_) => {
            merged.route_template(era, name, &mut may).map(|(server, uri)| (server, uri.into()))
        }
        Object::None | Object::Listen(_) | Object::Task(_) => None,
    }
}

/// Where nobody lists a URI: the server that may do so once it was reached. Until then the one that would get it, for
/// want of another, does not.
fn may_be_anothers(flight: &Flight, call: &Call, server: ServerId, name: &str, text: &[u8]) -> Option<ServerId> {
    let (Object::Resource(uri) | Object::CompleteResource(uri)) = &call.subject else { return None };
    if uri.of(text) != name {
        return None;
    }
    let (merged, era) = (flight.merged(), flight.era);
    let exposed = match &call.subject {
        Object::Resource(_) => merged.expose_uri(era, server, name),
        _ => merged.expose_template(era, server, name),
    };
    if *exposed == *name { None } else { missing(flight, &call.subject) }
}

/// Makes `name` what the call is about; where the client wrote something else, tells what.
fn narrow(call: &mut Call, body: &[u8], name: &str) -> Option<Box<Renamed>> {
    let text = call.subject.text_mut()?;
    let exposed = text.of(body);
    if exposed == name {
        return None;
    }
    let ends = text.unescaped.is_none() && exposed.ends_with(name);
    let renamed = Renamed { place: text.span, exposed: exposed.into(), sent: name.into() };
    if ends {
        text.span = Span::new(text.span.end as usize - name.len(), text.span.end as usize);
    } else {
        text.unescaped = Some(name.into());
    }
    Some(Box::new(renamed))
}

/// The server that a task is at: as its handle says.
fn task_server(
    shard: &Shard,
    judge: &Judge<'_>,
    flight: &Flight,
    call: &Call,
    text: &[u8],
) -> Result<ServerId, Refusal> {
    let Object::Task(name) = &call.subject else { return Err(judge.nobodys(call)) };
    let snapshot = &flight.snapshot;
    let handle = tasks::open(&shard.sealing, name.text.of(text).as_bytes()).ok();
    let is_at =
        |server: ServerId, mark: u64| tasks::server_mark(&snapshot.settings.servers[server.index()].name) == mark;
    let servers = flight.merged().servers();
    let server = handle.and_then(|handle| servers.iter().copied().find(|server| is_at(*server, handle.server)));
    if let Some(server) = server {
        return Ok(server);
    }
    let offers = |server: &ServerId| flight.offer(*server);
    let served = servers.iter().filter_map(offers).any(|offered| catalog::extension(offered, TASKS_EXTENSION));
    judge.may_have_tasks(call, served)?;
    Err(judge.nobodys(call))
}

/// A client's answer to what one of its servers asked.
fn answered(shard: &Shard, conn: &Conn, flight: &mut Flight, call: &Call, text: &[u8]) -> Routed {
    let server = asker(shard, flight, call, text);
    if let (Some(server), Some(live)) = (server, &flight.session)
        && let Some(home) = pipeline::at_home(shard, conn, &flight.snapshot, server, live)
    {
        return Routed::Due(Due::Home(home));
    }
    let (Some(server), Some((_, restored))) = (server, sessions::question(shard, flight, call, text)) else {
        shard.count(Count::AnswersDropped);
        return Routed::Due(Due::Nothing);
    };
    flight.server = server;
    flight.whose = Whose::One(None);
    Routed::ToServer(Some(restored))
}

/// The server whose question a client answers.
fn asker(shard: &Shard, flight: &Flight, call: &Call, text: &[u8]) -> Option<ServerId> {
    let minted = std::str::from_utf8(call.id?.raw(text)).ok()?.parse().ok()?;
    let digest = shard.control.asks.server(flight.session.as_ref()?.nonce16, minted)?;
    let server = flight.snapshot.server_by_digest(digest)?;
    flight.merged().servers().contains(&server).then_some(server)
}

/// The log level is a session's, whichever servers it has (MCP 2025-11-25 server/utilities/logging).
async fn set_level(shard: &Shard, conn: &Conn, flight: &Flight, text: &[u8]) -> Result<Routed, Refusal> {
    let offers = |server: &ServerId| flight.offer(*server);
    let mut offered = flight.merged().servers().iter().filter_map(offers);
    if !offered.any(|offered| catalog::capability(offered, "logging")) {
        return Err(Kind::MethodUnknown.into());
    }
    let level = sessions::level(shard, text)
        .ok_or_else(|| Refusal::from(Kind::ParamsInvalid).saying("Invalid params: no such log level."))?;
    let Some(live) = &flight.session else { return Err(unsaid()) };
    shard.control.ledger.set_level(&live.key(), level as u8);
    let logs = |server| offers(&server).is_some_and(|offered| catalog::capability(offered, "logging"));
    match tell_all(shard, conn, flight, text, logs).await? {
        Routed::Due(Due::Nothing) => Ok(Routed::Due(here(flight, None, |out| out.extend_from_slice(b"{}")))),
        elsewhere => Ok(elsewhere),
    }
}

/// Tells every server that has a session open for this one, that `concerns` it, and that the rules let its client have
/// to do with.
async fn tell_all(
    shard: &Shard,
    conn: &Conn,
    flight: &Flight,
    text: &[u8],
    concerns: impl Fn(ServerId) -> bool,
) -> Result<Routed, Refusal> {
    let Some(live) = &flight.session else { return Ok(Routed::Due(Due::Nothing)) };
    live.catch_up(shard);
    let servers = flight.merged().servers();
    if let Some(home) = servers.iter().find_map(|server| {
        let digest = flight.snapshot.prepared.servers[server.index()].digest;
        live.upstream(digest).and_then(|_| pipeline::at_home(shard, conn, &flight.snapshot, *server, live))
    }) {
        return Ok(Routed::Due(Due::Home(home)));
    }
    let concerned = servers.iter().copied().filter(|it| concerns(*it) && merged::concerns_ever(flight, *it));
    sessions::tell(shard, &flight.snapshot, live, concerned, text).await;
    Ok(Routed::Due(Due::Nothing))
}

/// A request taken back: whichever shard has it knows its server.
fn cancelled(shard: &Shard, flight: &Flight, id: Option<&[u8]>, text: &[u8]) {
    match &flight.session {
        Some(session) => pipeline::take_back(shard, session, id, Some(text)),
        // A server without sessions could not tell whose request is meant.
        None => shard.count(Count::CancelsSessionless),
    }
}

/// The shard that a batch of messages belongs to: where it may have one for a server that is spoken to from there alone.
pub(super) fn at_home_of_any(shard: &Shard, conn: &Conn, asked: &Asked, live: &Live) -> Option<ShardId> {
    let snapshot = &asked.snapshot;
    let mut servers = snapshot.merged[asked.endpoint.index()].servers().iter();
    let one = servers.find(|server| snapshot.transport(**server) == Transport::Sse)?;
    pipeline::at_home(shard, conn, snapshot, *one, live)
}

/// The server that what is nobody's may be at, for all that is known: one that this caller has to do with, and that was
/// not reached yet. Hidden or not there, the answer is the same.
pub(super) fn missing(flight: &Flight, subject: &Object) -> Option<ServerId> {
    if !flight.is_merged() || matches!(subject, Object::Task(_)) {
        return None;
    }
    let merged = flight.merged();
    if merged.prefixed() && matches!(subject, Object::Tool(_) | Object::Prompt(_) | Object::CompletePrompt(_)) {
        // The name says which server it would be at.
        return None;
    }
    let mut servers = merged.servers().iter().copied();
    servers.find(|server| !flight.snapshot.catalog.known(*server) && concerned(flight, *server))
}

fn concerned(flight: &Flight, server: ServerId) -> bool {
    decide::concerns(&flight.snapshot.table, &flight.caller, flight.task, server, None)
}

/// The answer where a server of several is not known yet.
pub(super) fn unreached(flight: &Flight, server: ServerId) -> Refusal {
    let name = &flight.snapshot.settings.servers[server.index()].name;
    Refusal::from(Kind::CatalogUnknown).saying(format!("The server '{name}' has not been reached yet; try again."))
}

fn unsaid() -> Refusal {
    Refusal::from(Kind::RequestBad).saying("Bad Request: initialize first, and name its session.")
}

/// An answer made here: `write` appends its result.
fn here(flight: &Flight, begins: Option<Revision>, write: impl FnOnce(&mut Vec<u8>)) -> Due {
    let mut body = flight.begin_result();
    write(&mut body);
    body.push(b'}');
    Due::Here(Here { body, begins })
}

/// Sends an answer made here, with the id of the session that it begins.
pub(super) async fn answer(shard: &Shard, conn: &mut Conn, flight: &Flight, here: Here) -> Result<Next, Refusal> {
    let session = here.begins.map(|revision| sessions::begin(shard, flight, None, revision)).transpose()?;
    flight.answer_leaves(shard);
    relay::send_json(shard, conn, 200, session.as_deref(), &here.body).await;
    Ok(Next::Keep)
}

/// Whether a result of this kind may name resources.
pub(super) fn may_name_resources(flight: &Flight) -> bool {
    let verb = flight.method.map(|method| method.verb);
    flight.is_merged()
        && matches!(
            verb,
            Some(Verb::ToolsCall | Verb::PromptsGet | Verb::ResourcesRead | Verb::Complete | Verb::TasksGet)
        )
}

/// An answer of one of several servers, with the URIs in it as the client knows them; `None` where it goes as it came.
pub(super) fn exposed(flight: &Flight, body: &[u8]) -> Option<Vec<u8>> {
    if !flight.is_merged() {
        return None;
    }
    let expose = |uri: &str| match flight.merged().expose_uri(flight.era, flight.server, uri) {
        Cow::Owned(other) => Some(other),
        Cow::Borrowed(_) => None,
    };
    renamed(flight.method?.verb, flight.renamed(), body, expose)
}

/// The same of a stream's message, of this verb or an answer to it; `asked`: what was asked for.
pub(super) fn expose(eyes: &Eyes<'_>, verb: Verb, asked: Option<&Renamed>, message: &[u8]) -> Option<Vec<u8>> {
    renamed(verb, asked, message, |uri| match eyes.exposed(uri) {
        Cow::Owned(other) => Some(other),
        Cow::Borrowed(_) => None,
    })
}

fn renamed(
    verb: Verb,
    asked: Option<&Renamed>,
    message: &[u8],
    expose: impl Fn(&str) -> Option<String>,
) -> Option<Vec<u8>> {
    if !rewrite::mentions_uri(message) {
        return None;
    }
    let asked = asked.filter(|_| RESOURCES.contains(&verb));
    // What was asked for comes back by the name that it was asked for with.
    let known = |uri: &str| asked.filter(|renamed| *renamed.sent == *uri).map(|renamed| renamed.exposed.to_string());
    rewrite::rewrite_result(verb, message, &mut |uri| known(uri).or_else(|| expose(uri)))
}

/// Those that name one resource, by its URI.
const RESOURCES: [Verb; 4] =
    [Verb::ResourcesRead, Verb::ResourcesSubscribe, Verb::ResourcesUnsubscribe, Verb::Complete];

/// Progress of what a server asked, by the token that its client knows.
async fn progressed(shard: &Shard, conn: &Conn, flight: &Flight, text: &[u8]) -> Due {
    let Some(live) = &flight.session else { return Due::Nothing };
    let Some(progress) = events::progressed(shard, live, text) else { return Due::Nothing };
    if progress.epoch > live.epoch(progress.server) {
        live.catch_up(shard);
    }
    let upstream = live.upstream(progress.server).filter(|upstream| upstream.epoch == progress.epoch);
    let server = flight.snapshot.server_by_digest(progress.server);
    let (Some(server), Some(upstream)) = (server, upstream) else { return Due::Nothing };
    if let Some(home) = pipeline::at_home(shard, conn, &flight.snapshot, server, live) {
        return Due::Home(home);
    }
    sessions::tell_one(shard, &flight.snapshot, live, server, upstream, &progress.body).await;
    Due::Nothing
}
